"""The fuzzer's targets (``make fuzz``), a little of them in every test run."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from run import TARGETS


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


def test_what_is_good_is_read(target: ModuleType) -> None:
    """And the seeds that the fuzzer begins with."""
    for data in (*target.GOOD, *target.SEEDS):
        target.one_input(data)


def test_cut_and_extended_ones_are_refused(target: ModuleType) -> None:
    """Where the lengths in a header no longer fit what follows."""
    for good in target.GOOD:
        for cut in {0, 1, len(good) // 3, len(good) - 1, *range(2, min(len(good), 300), 7)}:
            target.one_input(good[:cut])
        target.one_input(good + b"\0")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_splices_are_refused_or_read_the_same(target: ModuleType, data: st.DataObject) -> None:
    """Anything anywhere in something good: a typed error, or what the independent reader reads."""
    target.one_input(data.draw(st.binary(min_size=4, max_size=300)))
