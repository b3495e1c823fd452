"""Micro-benchmarks of our own calls, by size: ``pytest bench/bench_values.py``.

Nothing here compares; ``python -m bench`` does.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest

import anyseal
from anyseal import Key, Suite, sync

SIZES = (0, 64, 256, 4 << 10, 64 << 10, 1 << 20)
BATCH = 100


@pytest.fixture(scope="module")
def key() -> Iterator[Key]:
    with Key.generate() as key:
        yield key


@pytest.fixture(params=[suite for suite in Suite if suite.available], ids=lambda suite: suite.name)
def suite(request: pytest.FixtureRequest) -> Suite:
    return request.param


@pytest.mark.parametrize("size", SIZES)
def test_seal(benchmark: Any, key: Key, suite: Suite, size: int) -> None:
    data = os.urandom(size)
    benchmark.group = f"seal {suite.name}"
    benchmark(sync.seal, data, key, suite=suite)


@pytest.mark.parametrize("size", SIZES)
def test_open(benchmark: Any, key: Key, suite: Suite, size: int) -> None:
    sealed = sync.seal(os.urandom(size), key, suite=suite)
    benchmark.group = f"open {suite.name}"
    benchmark(sync.open, sealed, key)


@pytest.mark.parametrize("size", SIZES[1:])
def test_seal_into(benchmark: Any, key: Key, suite: Suite, size: int) -> None:
    data, buffer = os.urandom(size), bytearray(size + anyseal.overhead(suite))
    benchmark.group = f"seal_into {suite.name}"
    benchmark(sync.seal_into, buffer, data, key, suite=suite)


@pytest.mark.parametrize("size", SIZES)
def test_seal_awaited(benchmark: Any, key: Key, size: int) -> None:
    """A hundred awaited seals per round: starting the loop would cost more than one."""
    data = os.urandom(size)

    async def seals() -> None:
        for _ in range(BATCH):
            await anyseal.seal(data, key)

    benchmark.group = f"{BATCH} awaited seals"
    with asyncio.Runner() as runner:
        benchmark(lambda: runner.run(seals()))
