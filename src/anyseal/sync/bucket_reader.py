"""A reader of an object in a bucket, without ``await``."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Self, TypeVar, cast

from anyseal._ffi import process_number
from anyseal.errors import SourceError
from anyseal.objects import ObjectInfo, ObjectReader
from anyseal.objects.views import ViewedReader
from anyseal.sync.calling import await_, iterate
from anyseal.sync.objects import ObjectFile

__all__ = ["BucketReader"]

T = TypeVar("T")


class BucketReader(ViewedReader):
    """Reads an object in a bucket: :class:`anyseal.ObjectReader` without ``await``.

    Made by ``SealedBucket.open``; close it, or use it as a context manager. Any thread may read.
    In a forked child it is of no use: open the object again there.
    """

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader
        self._process = process_number()

    @property
    def closed(self) -> bool:
        """Whether the reader is closed."""
        return self._reader.closed

    def _call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        if process_number() != self._process:
            raise SourceError("the object was opened in another process: open it again")
        return await_(function, *args)

    @property
    def size(self) -> int:
        """Plaintext bytes, authenticated."""
        return self._reader.size

    @property
    def info(self) -> ObjectInfo:
        """Suite, key id and sizes."""
        return self._reader.info

    def read_range(self, start: int, stop: int | None = None) -> bytes:
        """The plaintext bytes from *start* to *stop*, like a slice: cut at the object's end."""
        return self._call(self._reader.read_range, start, stop)

    def read_into(self, start: int, buffer: Any) -> int:
        """Fill *buffer* from *start*; wiped if it does not verify. Returns the bytes read."""
        return self._call(self._reader.read_into, start, buffer)

    def stream(
        self, start: int = 0, stop: int | None = None, *, piece_size: int = 1 << 20
    ) -> Iterator[bytes]:
        """The plaintext bytes from *start* to *stop* in verified pieces.

        The next requests are under way while the consumer works. Close the iterator
        (``contextlib.closing``) when leaving early.
        """
        return iterate(cast(Any, self._reader.stream(start, stop, piece_size=piece_size)))

    def verify(self) -> None:
        """Read and verify the whole object. Raises DecryptionError where it does not verify."""
        self._call(self._reader.verify)

    def file(self) -> io.BufferedReader:
        """A seekable binary file over the plaintext, for anything that reads files.

        A reader in a ``with`` block of its own outlives its files; else the last of them closes
        it: ``with reader.file() as file`` needs no more.
        """
        return io.BufferedReader(ObjectFile(self), buffer_size=1 << 20)

    def close(self) -> None:
        """Wipe the keys. Idempotent."""
        await_(self._reader.aclose)

    def close_with_file(self) -> None:
        """The same where no event loop can be asked: its file may be being collected."""
        if process_number() == self._process:
            self._reader._end()

    def __enter__(self) -> Self:
        self._is_in_block = True
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
