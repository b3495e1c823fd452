"""Attacks on a sealed file, each undone at the end of its block."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from anyseal.objects.geometry import Geometry

__all__ = ["cut", "flipped", "swapped"]

COPY_BYTES = 1 << 20


@contextlib.contextmanager
def flipped(path: Path) -> Iterator[None]:
    """One bit in the middle of the file, flipped for the time of the block."""
    at = path.stat().st_size // 2
    with path.open("r+b", 0) as file:
        byte = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes((byte[0] ^ 1,)), at)
        yield
        os.pwrite(file.fileno(), byte, at)


@contextlib.contextmanager
def cut(path: Path) -> Iterator[None]:
    """The last 100,000 bytes gone for the time of the block."""
    size = path.stat().st_size - 100_000
    with path.open("r+b", 0) as file:
        tail = os.pread(file.fileno(), 100_000, size)
        file.truncate(size)
        yield
        os.pwrite(file.fileno(), tail, size)


@contextlib.contextmanager
def swapped(path: Path, geometry: Geometry) -> Iterator[None]:
    """Segments 1 and 2 in each other's place for the time of the block, salts and all."""
    first, second = geometry.segment_offset(1), geometry.segment_offset(2)
    length = geometry.sealed_segment(geometry.segment_bytes)
    with path.open("r+b", 0) as file:

        def exchange() -> None:
            for at in range(0, length, COPY_BYTES):
                count = min(COPY_BYTES, length - at)
                a = os.pread(file.fileno(), count, first + at)
                b = os.pread(file.fileno(), count, second + at)
                os.pwrite(file.fileno(), b, first + at)
                os.pwrite(file.fileno(), a, second + at)

        exchange()
        yield
        exchange()
