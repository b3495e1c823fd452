"""Readers as files: positions, what is open, and whose the reader is."""

from __future__ import annotations

import io
import operator
from types import TracebackType
from typing import Any, NoReturn, Self

import anyio

from anyseal.hints import use_async_with

__all__ = ["ObjectFile", "ViewedReader", "seek_position", "unsupported"]


class ViewedReader:
    """What a reader knows of its files.

    A reader that is not in a ``with`` block belongs to its files: the last of them closes it.
    """

    _files = 0
    _is_in_block = False

    @property
    def closed(self) -> bool:
        """Whether the reader is closed."""
        raise NotImplementedError

    def add_file(self) -> None:
        """One more file reads here."""
        if self.closed:
            raise ValueError("the reader is closed")
        self._files += 1

    @property
    def is_left_by_file(self) -> bool:
        """Whether the reader is closed with its file, which is the last."""
        return self._files == 1 and not self._is_in_block and not self.closed

    def remove_file(self) -> bool:
        """One file less; whether the reader is to be closed now."""
        is_left = self.is_left_by_file
        self._files -= 1
        return is_left


def seek_position(position: int, size: int, offset: int, whence: int) -> int:
    """Where a seek leads; as for binary files."""
    offset, whence = operator.index(offset), operator.index(whence)
    base = {io.SEEK_SET: 0, io.SEEK_CUR: position, io.SEEK_END: size}.get(whence)
    if base is None:
        raise ValueError(f"whence must be 0, 1 or 2, not {whence!r}")
    if base + offset < 0:
        raise ValueError("a position before the beginning")
    return base + offset


def unsupported(name: str) -> NoReturn:
    """Refuse what a file that is only read cannot do."""
    raise io.UnsupportedOperation(name)


class ObjectFile:
    """A seekable view of a reader's plaintext; the methods of a binary file, awaited.

    An async context manager. Closing it closes the reader too, unless that is in an ``async with``
    block of its own or has other files open.
    """

    def __init__(self, reader: Any) -> None:
        reader.add_file()
        self._reader = reader
        self._position = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether the file or its reader is closed."""
        return self._closed or bool(self._reader.closed)

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def readable(self) -> bool:
        """True."""
        self._check()
        return True

    def seekable(self) -> bool:
        """True."""
        self._check()
        return True

    def writable(self) -> bool:
        """False."""
        self._check()
        return False

    def fileno(self) -> NoReturn:
        """Raise UnsupportedOperation: no descriptor has the plaintext."""
        self._check()
        unsupported("fileno")

    async def read(self, size: int | None = -1) -> bytes:
        """Up to *size* bytes from the position, or all to the end; empty at the end."""
        self._check()
        count = -1 if size is None else operator.index(size)
        stop = None if count < 0 else self._position + count
        data: bytes = await self._reader.read_range(self._position, stop)
        self._position += len(data)
        return data

    async def readinto(self, buffer: Any) -> int:
        """Fill *buffer* from the position; returns the bytes read."""
        self._check()
        count: int = await self._reader.read_into(self._position, buffer)
        self._position += count
        return count

    async def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; returns it."""
        self._check()
        self._position = seek_position(self._position, self._reader.size, offset, whence)
        return self._position

    async def tell(self) -> int:
        """The position."""
        self._check()
        return self._position

    async def write(self, data: Any) -> NoReturn:
        """Raise UnsupportedOperation."""
        self._check()
        unsupported("write")

    async def truncate(self, size: int | None = None) -> NoReturn:
        """Raise UnsupportedOperation."""
        self._check()
        unsupported("truncate")

    async def aclose(self) -> None:
        """Close the file, and the reader if it is left. Idempotent."""
        if not self._closed:
            self._closed = True
            if self._reader.remove_file():
                await self._reader.aclose()

    __enter__ = use_async_with

    async def __aenter__(self) -> Self:
        self._check()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.aclose()
