"""Fuzz the readers of objects, by range and by stream: ``python tests/fuzz/fuzz_object.py CORPUS``.

A reader may refuse with a typed error. By range or by stream, what opens to its end is the object
itself, and what is released before an error is a piece of its plaintext.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fuzz_common import fuzz, instrumented, variants

with instrumented():
    from anyseal import AnysealError, Key, MemorySink, MemorySource, Suite, inspect, sync

KEY = Key.from_bytes(bytes(range(32)))
CHUNK, SEGMENT = 4096, 8192


def _object(size: int, suite: Suite) -> tuple[bytes, bytes]:
    plain = bytes(n * 7 % 251 for n in range(size))
    sink = MemorySink()
    with sync.ObjectWriter(
        sink, KEY, context=b"c", suite=suite, chunk_size=CHUNK, segment_size=SEGMENT
    ) as writer:
        writer.write(plain)
    return sink.getvalue(), plain


OBJECTS = [
    _object(size, suite)
    for suite in Suite
    if suite.available
    for size in ((0, 20, SEGMENT + CHUNK + 5) if suite is Suite.AEGIS256 else (20,))
]
GOOD = [sealed for sealed, _ in OBJECTS]
SEEDS = [bytes(4)]  # each good object as it is; what was sealed by another process would open


def one_input(data: bytes) -> None:
    """One input through every reader, alone and inside of each good object."""
    for good in GOOD:
        for sealed in variants(data, good):
            readers(sealed)


def readers(sealed: bytes) -> None:
    """Each reader refuses, or has the plaintext of the very object."""
    with contextlib.suppress(AnysealError):
        inspect(sealed)
    with contextlib.suppress(AnysealError):
        by_range(sealed)
        assert sealed in GOOD
    for size in (1000, len(sealed) or 1):
        released = b""
        try:
            for part in sync.StreamOpener(KEY, context=b"c").open(pieces(sealed, size)):
                released += part
        except AnysealError:
            assert any(plain.startswith(released) for _, plain in OBJECTS)
            continue
        assert sealed in GOOD


def by_range(sealed: bytes) -> None:
    """Everything, in three overlapping ranges and once more by ``verify``."""
    with sync.ObjectReader.open(MemorySource(sealed), KEY, context=b"c") as reader:
        size = reader.size
        assert size <= len(sealed)
        for start, stop in ((0, size), (size // 3, size), (max(0, size - 1), size)):
            part = reader.read_range(start, stop)
            assert len(part) == stop - start
        reader.verify()


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """As a pipe delivers it."""
    for at in range(0, len(data), size):
        yield data[at : at + size]


if __name__ == "__main__":
    fuzz(one_input)
