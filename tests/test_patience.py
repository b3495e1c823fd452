"""Patience with services: loops over pages, and answers of any size."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest

from anyseal.errors import MetastoreError
from anyseal.patience import Progress, advancing, take_all

pytestmark = pytest.mark.anyio


def test_progress_ends_pages_that_are_empty_for_ever() -> None:
    """New markers alone are no progress; empty pages in between are no fault."""
    pages = Progress("list", MetastoreError, empty_max=3)
    for marker in range(9):
        pages.advance(marker, found=0 if marker % 3 else 1)
    pages.advance(11, found=1)
    for marker in range(12, 15):
        pages.advance(marker, found=0)
    with pytest.raises(MetastoreError, match="list: the pages do not come to an end"):
        pages.advance(15, found=0)


def test_progress_ends_pages_in_a_circle() -> None:
    """However long the circle is; the end of the pages is none."""
    pages = Progress("list", MetastoreError)
    for marker in range(5000):
        pages.advance({"key": marker}, found=1)
    pages.advance(None, found=0)
    with pytest.raises(MetastoreError):
        pages.advance({"key": 7}, found=1)


async def test_advancing_bounds_the_pause_and_not_the_whole() -> None:
    """A gigabyte over a slow line is well; a byte now and then is not."""
    with advancing(0.2, step=10) as came:
        for _ in range(6):
            await anyio.sleep(0.05)
            came(10)
    with pytest.raises(TimeoutError):
        await _drip()


async def _drip() -> None:
    with advancing(0.1, step=10) as came:
        while True:
            await anyio.sleep(0.02)
            came(1)


async def test_take_all_leaves_no_generator_open() -> None:
    """Trio minds generators that only the collector closes."""
    ended = False

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal ended
        try:
            while True:
                await anyio.lowlevel.checkpoint()
                yield b"piece"
        finally:
            ended = True

    def take(piece: bytes) -> None:
        raise ValueError("too much")

    with pytest.raises(ValueError, match="too much"):
        await take_all(pieces(), take)
    assert ended
