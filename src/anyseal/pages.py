"""Large results: made without touching their memory, on huge pages, and filled without the GIL.

``b"\\0" * n``, ``bytes(view)`` and ``text.encode()`` hold the GIL while they write n bytes, and so
stop every event loop of the process; so does freeing 100 MiB in pages of 4 KiB. Whatever makes a
result that may be large makes it here.
"""

from __future__ import annotations

import codecs
import ctypes
import mmap
import sys
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any

from anyseal._ffi import ffi, lib, view

__all__ = [
    "LARGE_BYTES",
    "Growing",
    "copied",
    "decoded",
    "encoded",
    "fresh",
    "fresh_bytes",
    "fresh_text",
    "joined",
    "joined_text",
]

LARGE_BYTES = 1 << 16
"""Below it Python's own ways are quicker."""

TEXT_STEP = 1 << 17
"""Characters or bytes of text that CPython turns into the other at a time, with the GIL."""

SEGMENT_MAX = 64 << 20
MAPPED_BYTES = 1 << 20


def _found(name: str, result: Any, *arguments: Any) -> Any:
    """A function of CPython; None where it has none. Of our own: ``ctypes.pythonapi.name`` is
    shared with whoever else declares it."""
    try:
        return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))
    except AttributeError:  # pragma: no cover - it is not in the limited API
        return None


_new_bytes = _found(
    "PyBytes_FromStringAndSize", ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t
)
# These two are public, but not in the limited API: they are looked up when the program runs.
_new_text = _found("PyUnicode_New", ctypes.py_object, ctypes.c_ssize_t, ctypes.c_uint32)
_copy_text = _found(
    "PyUnicode_CopyCharacters", ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_ssize_t,
    ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_ssize_t,
)  # fmt: skip


def fresh(size: int) -> bytes:
    """A new bytes object whose content is undefined: C fills it before anyone else sees it.

    CPython shares bytes objects of length 0 and 1: *size* must be at least 2.
    """
    if size < LARGE_BYTES:
        return b"\0" * size  # quicker than bytes(size)
    out: bytes = _new_bytes(None, size)
    lib.anyseal_huge_pages(out, size)
    return out


def fresh_bytes(size: int) -> tuple[bytes, memoryview]:
    """The same, and a writable view to fill it through."""
    result = fresh(size)
    return result, memoryview(ffi.buffer(ffi.from_buffer("uint8_t[]", result)))


def fresh_text(length: int) -> str:
    """The same as a str of *length* ASCII characters."""
    if length < LARGE_BYTES or _new_text is None:
        return "0" * length
    out: str = _new_text(length, 127)
    lib.anyseal_huge_pages(lib.anyseal_text(id(out)), length)
    return out


def copied(data: Any, name: str = "data") -> bytes:
    """The bytes of a contiguous bytes-like; a ``bytes`` object is returned as it is.

    A large copy belongs in a worker thread.
    """
    if type(data) is bytes:
        return data
    source = view(data, name)
    size = len(source)
    if size < LARGE_BYTES:
        return bytes(ffi.buffer(source))
    out = fresh(size)
    lib.anyseal_copy(out, source, size)
    return out


def joined(head: bytes, data: Any) -> bytes:
    """*head* and the bytes of *data*, a contiguous bytes-like. As :func:`copied`."""
    size, at = memoryview(data).nbytes, len(head)
    if size < LARGE_BYTES:
        return b"".join((head, data))
    out = fresh(at + size)
    target = ffi.from_buffer("uint8_t[]", out)
    lib.anyseal_copy(target, head, at)
    lib.anyseal_copy(target + at, view(data), size)
    return out


# ---- text


def _go_on() -> None:
    """No pause."""


def encoded(text: str, pause: Callable[[], object] = _go_on) -> Any:
    """*text* as UTF-8: a view of itself if it is long and ASCII, else bytes.

    Other text goes through CPython's codec, which holds the GIL, in steps; *pause* is called
    between them.
    """
    length = len(text)
    if length < LARGE_BYTES:
        return text.encode()
    if text.isascii():
        characters = ffi.gc(lib.anyseal_text(id(text)), lambda _: text)  # which keeps it alive
        return ffi.buffer(characters, length)
    parts = []
    for at in range(0, length, TEXT_STEP):
        parts.append(text[at : at + TEXT_STEP].encode())
        pause()
    out, at = fresh(sum(map(len, parts))), 0
    target = ffi.from_buffer("uint8_t[]", out)
    for part in parts:
        lib.anyseal_copy(target + at, part, len(part))
        at += len(part)
    return out


def decoded(data: bytes, pause: Callable[[], object] = _go_on) -> str:
    """*data* as str: without the GIL if it is ASCII; other text as :func:`encoded` does.

    Raises:
        UnicodeDecodeError: It is not UTF-8.
    """
    size = len(data)
    if size < LARGE_BYTES:
        return data.decode()
    text = fresh_text(size)
    if lib.anyseal_text_fill(id(text), data, size):
        return text
    del text
    parts, source, at = [], memoryview(data), 0
    while at < size:
        part, used = codecs.utf_8_decode(
            source[at : at + TEXT_STEP], "strict", at + TEXT_STEP >= size
        )
        parts.append(part)
        at += used
        pause()
    return joined_text(parts, pause)


_MAXIMA = {1: 0xFF, 2: 0xFFFF, 4: 0x10FFFF}


def joined_text(parts: list[str], pause: Callable[[], object] = _go_on) -> str:
    """``"".join(parts)`` of new parts, a part at a time."""
    length = sum(map(len, parts))
    if length < LARGE_BYTES or _new_text is None or _copy_text is None:
        return "".join(parts)
    largest = max(_largest(part) for part in parts if part)
    out: str = _new_text(length, largest)
    lib.anyseal_huge_pages(ffi.cast("uint8_t *", id(out)), sys.getsizeof(out))
    at = 0
    for part in parts:
        # By address: CPython writes only to a str that has one reference.
        if _copy_text(id(out), at, id(part), 0, len(part)) < 0:
            return "".join(parts)  # pragma: no cover - a debugger holds another reference
        at += len(part)
        pause()
    return out


_TEXT_HEAD = sys.getsizeof(chr(0xE9) * len("12")) - 3
"""Of two characters, made here: CPython shares single ones, since 3.12 with their UTF-8."""


def _largest(part: str) -> int:
    """The greatest character that has the width of those of *part*, which is new."""
    if len(part) == 1:  # CPython shares these, and one that was encoded once is longer
        return ord(part)
    if part.isascii():
        return 127
    return _MAXIMA[(sys.getsizeof(part) - _TEXT_HEAD) // (len(part) + 1)]


# ---- what grows


class Growing:
    """Bytes that grow without being moved, written and read at any place by several threads.

    What was not written is zero.
    """

    __slots__ = ("_lock", "_room", "_segments", "_size", "_starts")

    def __init__(self, data: Any = b"") -> None:
        self._lock = threading.Lock()
        self._segments: list[Any] = []
        self._starts: list[int] = []
        self._room = self._size = 0
        if len(data):
            self.write(0, data)

    def __len__(self) -> int:
        return self._size

    def reserve(self, size: int) -> None:
        """Be at least *size* bytes long."""
        with self._lock:
            if size > self._room:
                room = max(size - self._room, min(self._room, SEGMENT_MAX), 1 << 12)
                self._starts.append(self._room)
                self._segments.append(_segment(room))
                self._room += room
            self._size = max(self._size, size)

    def _spans(self, offset: int, length: int) -> Iterator[tuple[Any, int]]:
        """Where so many bytes from *offset* are: an address, and how many follow it."""
        number = bisect_right(self._starts, offset) - 1
        while length > 0:
            at = offset - self._starts[number]
            count = min(length, len(self._segments[number]) - at)
            yield self._segments[number] + at, count
            offset, length, number = offset + count, length - count, number + 1

    def write(self, offset: int, data: Any) -> None:
        """Put *data* at *offset*. A large copy belongs in a worker thread."""
        source = view(data)
        self.reserve(offset + len(source))
        at = 0
        for address, count in self._spans(offset, len(source)):
            lib.anyseal_copy(address, source + at, count)
            at += count

    def read(self, offset: int = 0, length: int | None = None) -> bytes:
        """Up to *length* bytes from *offset*: a copy."""
        left = max(0, self._size - offset)
        length = left if length is None else min(length, left)
        if length < 2:
            return b"".join(bytes(ffi.buffer(*span)) for span in self._spans(offset, length))
        out, at = fresh(length), 0
        target = ffi.from_buffer("uint8_t[]", out)
        for address, count in self._spans(offset, length):
            lib.anyseal_copy(target + at, address, count)
            at += count
        return out


def _segment(size: int) -> Any:
    """So many zeros: pages that are not touched before they are written to."""
    if size < MAPPED_BYTES:
        return ffi.from_buffer("uint8_t[]", bytearray(size))
    # Private: a forked child must not share what its parent writes later.
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    segment = ffi.from_buffer("uint8_t[]", pages)
    lib.anyseal_huge_pages(segment, size)
    return segment
