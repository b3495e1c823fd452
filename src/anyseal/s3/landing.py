"""Whether an object that was just made is in the bucket, when the store's answer was unclear."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from anyseal.errors import (
    AnysealError,
    ObjectNotFoundError,
    PreconditionFailedError,
    SourceError,
    UploadNotFoundError,
)
from anyseal.s3.calls import Calls

__all__ = ["Landing"]


class Landing:
    """Finds the object that was just made, by what no other object has.

    The header has a fresh random salt and the commitment to a fresh key, or its key is wrapped
    anew; the trailer has a MAC.

    Args:
        calls: The bucket.
        key: The object's key.
        size: Bytes of the whole object in the bucket.
        header: How it begins.
        tail_bytes: How many of its last bytes *is_ours* is to see. Default: none.
        is_ours: Whether these are the object's own.
    """

    def __init__(
        self,
        calls: Calls,
        key: str,
        *,
        size: int,
        header: bytes,
        tail_bytes: int = 0,
        is_ours: Callable[[bytes], bool] = lambda tail: True,
    ) -> None:
        self._calls = calls
        self._key = key
        self._size = size
        self._header = header
        self._tail_bytes = tail_bytes
        self._is_ours = is_ours

    async def look(self) -> dict[str, Any] | None:
        """What S3 would have answered, if the object is there; None if it is not.

        Raises:
            SourceError: The store cannot say.
        """
        return await self._look(self._calls)

    async def find(self) -> dict[str, Any] | None:
        """The same, but None also if the store cannot say.

        With few attempts: it is asked because the store does not answer well.
        """
        calls = Calls(self._calls.client, self._calls.bucket, attempts=2)
        try:
            return await self._look(calls)
        except AnysealError:
            return None

    async def _look(self, calls: Calls) -> dict[str, Any] | None:
        header, size, tail_bytes = self._header, self._size, self._tail_bytes
        try:
            head = await calls.get_range(self._key, f"0-{len(header) - 1}", limit=len(header))
            if head.total != size or head.data != header:
                return None
            if tail_bytes:
                tail = await calls.get_range(
                    self._key,
                    f"{size - tail_bytes}-{size - 1}",
                    limit=tail_bytes,
                    if_match=head.etag,
                )
                if not self._is_ours(tail.data):
                    return None
        except (ObjectNotFoundError, PreconditionFailedError):
            return None
        except SourceError as exc:
            if exc.retryable:
                raise
            return None  # such as an object of no bytes
        return {"ETag": head.etag, "VersionId": head.version_id}

    async def settled(self, complete: Callable[[], Awaitable[Any]]) -> Any:
        """S3's answer to *complete*, which is tried again until its outcome is clear.

        Raises:
            PreconditionFailedError: A condition does not hold, and the object is not ours.
            UploadNotFoundError: The upload is gone, and the object is not there.
        """

        async def attempt() -> Any:
            try:
                return await complete()
            except (SourceError, UploadNotFoundError):
                found = await self.find()
                if found is None:
                    raise
                return found

        return await self._calls.retry(attempt)
