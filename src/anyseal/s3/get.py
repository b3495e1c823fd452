"""Reading sealed objects out of a bucket."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from anyseal.objects.reader import ObjectReader
from anyseal.s3.arguments import checked_text
from anyseal.s3.base import BucketBase
from anyseal.s3.source import S3Source

__all__ = ["GetCalls"]

FIRST_BYTES = (1 << 20) + (8 << 10)
"""The first request for a whole object: 1 MiB of plaintext and what sealing adds to it."""


class GetCalls(BucketBase):
    """The calls of a sealed bucket that read."""

    async def open(
        self,
        key: str,
        *,
        partition: str | None = None,
        context: bytes = b"",
        version_id: str | None = None,
    ) -> ObjectReader:
        """Open an object for reading any range of it.

        Close the reader, or use it as an async context manager. It reads one version: what
        replaces the object meanwhile is a SourceChangedError.

        Args:
            key: The object's key.
            partition: As when it was put.
            context: As when it was put.
            version_id: A version of a bucket with versions. Default: the current one.

        Raises:
            ObjectNotFoundError: No such object or version.
            FormatError: Not a sealed object, cut, extended, or of an unknown version.
            WrongKeyError: The key id is unknown under this partition.
            DecryptionError: It does not verify: altered, or another context.
            SourceError: S3 did not answer, or refused.

        Cost: two requests at once, of 200 bytes and 4 KiB.
        """
        return await self._reader(key, partition, context, version_id, first=0)

    async def _reader(
        self,
        key: str,
        partition: str | None,
        context: Any,
        version_id: str | None,
        *,
        first: int = 0,
        concurrency: int | None = None,
    ) -> ObjectReader:
        bound = self._context(key, context)
        checked_text("version_id", version_id)
        self._partition(partition)
        source = S3Source(
            self._calls,
            key,
            version_id=version_id,
            first=first,
            concurrency=concurrency or self._concurrency,
        )
        return await ObjectReader.open(source, self._keyring, partition=partition, context=bound)

    async def get(
        self,
        key: str,
        *,
        partition: str | None = None,
        context: bytes = b"",
        version_id: str | None = None,
    ) -> bytes:
        """The whole plaintext of an object, which must fit into memory.

        Args and errors: as for :meth:`open`.

        Cost: one request for an object of up to 1 MiB; else its tail and the rest of it besides,
        in requests of 8 to 16 MiB, several at a time.
        """
        reader = await self._reader(key, partition, context, version_id, first=FIRST_BYTES)
        async with reader:
            return await reader.read_range(0)

    async def get_range(
        self,
        key: str,
        start: int,
        stop: int | None = None,
        *,
        partition: str | None = None,
        context: bytes = b"",
        version_id: str | None = None,
    ) -> bytes:
        """The plaintext bytes from *start* to *stop*, like a slice: cut at the object's end.

        Args and errors: as for :meth:`open` and ``ObjectReader.read_range``.

        Cost: that of :meth:`open`, and the chunks that the range touches. For several ranges of
        one object open it once.
        """
        async with await self._reader(key, partition, context, version_id) as reader:
            return await reader.read_range(start, stop)

    async def stream(
        self,
        key: str,
        start: int = 0,
        stop: int | None = None,
        *,
        partition: str | None = None,
        context: bytes = b"",
        version_id: str | None = None,
        piece_size: int = 1 << 20,
    ) -> AsyncIterator[bytes]:
        """The plaintext bytes from *start* to *stop* in verified pieces.

        The next requests are under way while the consumer works; see ``ObjectReader.stream``.
        Close the iterator (``contextlib.aclosing``) when leaving early.

        Args and errors: as for :meth:`open`; errors of later pieces come when these are due.

        Cost: about 32 MiB of memory, whatever the object's size.
        """
        first = FIRST_BYTES if start == 0 else 0
        reader = await self._reader(key, partition, context, version_id, first=first)
        async with reader:
            pieces = reader.stream(start, stop, piece_size=piece_size)
            async with contextlib.aclosing(pieces) as ready:  # type: ignore[type-var]
                async for piece in ready:
                    yield piece
