"""No public awaitable holds the event loop up, however large its payload is.

No timing: what holds the GIL while it makes or fills a large result takes a page fault for every
4 KiB of it. Each call is made under a profile function that counts the faults of every thread
between two moments at which another thread may run.
"""

from __future__ import annotations

import asyncio
import ctypes
import resource
import sys
import threading
from types import FrameType
from typing import Any

import pytest

import awaitables
from payload_calls import PICKLED, Bed, Case
from payload_calls_stores import CASES
from storage_servers import RedisServer

pytest_plugins = ["server_fixtures"]

SIZE = 16 << 20
MAPPED_BYTES = 4 << 20
"""What malloc maps and gives back each time, so that it is fresh: it would raise this by itself."""

PAGES = SIZE // resource.getpagesize()
FEW = PAGES // 4
"""Faults in one stretch: what a few copies of pieces take, and not a copy of the payload."""

M_MMAP_THRESHOLD = -3

RELEASING = ("anyseal_", "pread", "pwrite", "read", "write", "readinto", "poll", "acquire")
"""C functions that let go of the GIL while they work."""


class Meter:
    """Counts page faults while the GIL is held, or while the event loop's thread does not wait."""

    def __init__(self) -> None:
        self._thread = threading.local()
        self._loop = threading.get_ident()
        self.worst, self.where = 0, ""
        self._turn = 0

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        faults = _faults()
        held = faults - getattr(self._thread, "last", faults)
        name = getattr(arg, "__name__", "") if event in ("c_return", "c_exception") else ""
        if threading.get_ident() == self._loop:
            # All that it does in one turn holds the others up, also what it does without the GIL.
            self._turn = 0 if name == "poll" else self._turn + held
            self._note(self._turn, frame, event, arg)
        elif not name.startswith(RELEASING):
            self._note(held, frame, event, arg)
        self._thread.last = _faults()

    def _note(self, faults: int, frame: FrameType, event: str, arg: Any) -> None:
        if faults > self.worst:
            self.worst = faults
            code = frame.f_code
            self.where = f"{code.co_filename}:{frame.f_lineno} {code.co_name}, {event} {arg!r:.80}"


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt


def _counted(case: Case, bed: Bed) -> Meter:
    """The faults of the second call: the first makes threads and buffers."""
    meter = Meter()

    async def main() -> None:
        async with case.make(bed) as work:
            await work()
            sys.setprofile(meter)
            try:
                await work()
            finally:
                sys.setprofile(None)

    threading.setprofile(meter)
    try:
        asyncio.run(main())
    finally:
        threading.setprofile(None)  # type: ignore[arg-type]
    return meter


def _marked(case: Case) -> Any:
    """*case* as a parameter."""
    marks = []
    if case.needs in ("s3", "http"):
        marks.append(pytest.mark.skip(reason="measured by bench/loop.py"))
    elif case.unbounded == PICKLED:
        marks.append(pytest.mark.xfail(strict=True, reason=case.unbounded))
    elif case.unbounded:
        marks.append(pytest.mark.skip(reason=case.unbounded))
    if not case.often:
        marks.append(pytest.mark.slow)
    return pytest.param(case, id=case.name.replace(" ", "-"), marks=marks)


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Bed:
    """One payload for all."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(resource, "RUSAGE_THREAD"):
        pytest.skip("glibc's malloc, and faults by thread")
    libc.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
    return Bed(size=SIZE, folder=tmp_path_factory.mktemp("bed"))


@pytest.mark.parametrize("case", [_marked(case) for case in CASES])
def test_an_awaitable_makes_no_large_result_while_it_holds_the_gil(
    case: Case, bed: Bed, request: pytest.FixtureRequest
) -> None:
    """One stalled loop is a stalled service: 100 MiB made under the GIL stop it for 60 ms."""
    if case.needs == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        bed.servers["redis"] = server.url
    meter = _counted(case, bed)
    assert meter.worst < FEW, f"{meter.worst} faults of {PAGES} at {meter.where}"


def test_every_public_awaitable_is_in_a_table() -> None:
    """A new one is measured, or it is said why it carries no payload."""
    functions = awaitables.public_awaitables()
    called = [path for case in CASES for path in case.covers]
    excused = [path for paths in awaitables.WITHOUT_PAYLOAD.values() for path in paths]
    assert len(functions) > 200
    assert set() == awaitables.without(functions, [*called, *excused])
