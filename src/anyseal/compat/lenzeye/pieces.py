"""Streams of any kind cut into pieces, alike at each reading, and a place to keep ciphertext."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

from anyseal._ffi import steady
from anyseal.compat.lenzeye.ctr import SLICE_BYTES, view_of
from anyseal.pages import copied

__all__ = ["PIECE_BYTES", "cut", "pieces_of", "spool", "start_of", "update_mac"]

PIECE_BYTES = 1 << 20
"""Read, encrypted, yielded at a time."""

SPOOL_BYTES = 8 << 20
"""Ciphertext kept in memory before it goes to a temporary file."""


def update_mac(mac: Any, data: memoryview) -> None:
    """*data* through *mac*, in slices: other threads run in between."""
    for at in range(0, len(data), SLICE_BYTES):
        mac.update(data[at : at + SLICE_BYTES])


def cut(data: Any) -> Iterator[memoryview]:
    """*data* in pieces, which stay as they are: each is read by the MAC and by the cipher."""
    view, kept = view_of(data), steady(data)
    for at in range(0, len(view), PIECE_BYTES):
        piece = view[at : at + PIECE_BYTES]
        yield piece if kept else memoryview(copied(piece))


def pieces_of(stream: Any) -> Iterator[memoryview]:
    """The bytes of a binary file or of an iterable of bytes, in pieces of at most 1 MiB."""
    if isinstance(stream, (bytes, bytearray, memoryview)):
        yield from cut(stream)
    elif hasattr(stream, "read"):
        while data := _read(stream):
            yield from cut(data)
    elif isinstance(stream, Iterable) and not isinstance(stream, str):
        for data in stream:
            yield from cut(data)
    else:
        raise TypeError(f"expected a binary file or an iterable of bytes, not {type(stream)!r}")


def _read(stream: Any) -> bytes:
    """1 MiB of a file, less only at its end: so that it is cut alike at each reading."""
    data: bytes = stream.read(PIECE_BYTES)
    while data and len(data) < PIECE_BYTES:
        more = stream.read(PIECE_BYTES - len(data))
        if not more:
            break
        data += more
    return data


def start_of(stream: Any) -> int | None:
    """Where a file that can be read twice stands; None if it cannot."""
    if hasattr(stream, "read") and hasattr(stream, "seekable") and stream.seekable():
        return int(stream.tell())
    return None


def spool() -> Any:
    """A temporary file for ciphertext, in memory while it is small."""
    return tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)
