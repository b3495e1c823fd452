"""An object in a bucket as a source of sealed bytes, pinned to the version that was opened."""

from __future__ import annotations

from functools import partial

from anyseal.errors import PreconditionFailedError, SourceChangedError, SourceError
from anyseal.objects.sources import check_tag
from anyseal.ports import Ends
from anyseal.s3.calls import Calls, Ranged
from anyseal.s3.failures import RangeNotSatisfiableError
from anyseal.tasks import each_awaited

__all__ = ["S3Source"]


class S3Source:
    """A :class:`~anyseal.ports.Source`: ranged GETs of one version of one object.

    Head and tail are requested at once and must be of one version: the same strong entity tag and
    the same total size. Every later read is pinned to it with ``If-Match``. Bytes that came with
    head and tail are not requested again.

    Args:
        calls: The calls of the bucket.
        key: The object's key.
        version_id: A version of a bucket with versions. Default: the current one.
        first: Bytes of the first request, which may hold the whole object. Default: as few as the
            reader wants, and the tail beside them.
        concurrency: Requests at the same time.
    """

    def __init__(
        self,
        calls: Calls,
        key: str,
        *,
        version_id: str | None = None,
        first: int = 0,
        concurrency: int = 4,
    ) -> None:
        self.key = key
        self.concurrency = concurrency
        self.etag = ""
        self._calls = calls
        self._version_id = version_id
        self._first = first
        self._size = 0
        self._held: list[tuple[int, bytes]] = []

    async def _get(self, wanted: str, limit: int, if_match: str | None = None) -> Ranged:
        return await self._calls.get_range(
            self.key, wanted, limit=limit, if_match=if_match, version_id=self._version_id
        )

    async def ends(self, head: int, tail: int) -> Ends:
        """The first and last bytes, of one version; asked again once if they differ."""
        for _ in range(2):
            try:
                ends = await (self._long(tail) if self._first else self._both(head, tail))
            except RangeNotSatisfiableError:  # S3 has no range of an empty object
                return Ends(size=0, head=b"", tail=b"")
            except PreconditionFailedError:  # replaced between the two requests
                ends = None
            if ends is not None:
                return Ends(size=ends.size, head=ends.head[:head], tail=ends.tail[-tail:])
        raise SourceChangedError(f"{self._where}: changing while it is being read")

    async def _both(self, head: int, tail: int) -> Ends | None:
        """Head and tail at once, or None if they are of two versions."""
        answers: dict[str, Ranged] = {}

        async def get(wanted: str, limit: int) -> None:
            answers[wanted] = await self._get(wanted, limit)

        wanted = {f"0-{head - 1}": head, f"-{tail}": tail}
        await each_awaited(get, iter(wanted.items()), 2)
        return self._pin(*(answers[each] for each in wanted))

    async def _long(self, tail: int) -> Ends | None:
        """A first request that may hold everything, and the tail only if it does not."""
        first = await self._get(f"0-{self._first - 1}", self._first)
        check_tag(self._where, first.etag)
        if first.total <= len(first.data):
            return self._pin(first, first)
        missing = min(tail, first.total - len(first.data))
        start = first.total - missing
        last = await self._get(f"{start}-{first.total - 1}", missing, first.etag)
        return self._pin(first, last)

    def _pin(self, first: Ranged, last: Ranged) -> Ends | None:
        """Both ends as one version, or None if they are of two."""
        for one in (first, last):
            check_tag(self._where, one.etag)
        if (first.total, first.etag) != (last.total, last.etag):
            return None
        if first.start != 0 or last.start + len(last.data) != first.total:
            raise SourceError(f"{self._where}: other bytes than were asked for")
        self.etag, self._size = first.etag, first.total
        self._held = [(one.start, one.data) for one in (first, last)]
        return Ends(size=self._size, head=first.data, tail=last.data)

    def _held_bytes(self, offset: int, length: int) -> bytes | None:
        for start, data in self._held:
            if start <= offset and offset + length <= start + len(data):
                return data[offset - start : offset - start + length]
        return None

    async def read(self, offset: int, length: int) -> bytes | bytearray:
        """Exactly these bytes of the pinned version."""
        held = self._held_bytes(offset, length)
        if held is not None:
            return held
        if self._first and offset < len(self._held[0][1]):
            buffer = bytearray(length)
            with memoryview(buffer) as view:
                await self.read_into(offset, view)
            return buffer
        try:
            found = await self._get(f"{offset}-{offset + length - 1}", length, self.etag)
        except (PreconditionFailedError, RangeNotSatisfiableError) as exc:
            raise self._changed() from exc
        if (found.total, found.etag) != (self._size, self.etag):
            check_tag(self._where, found.etag)
            raise self._changed()
        if found.start != offset or len(found.data) != length:
            raise SourceError(f"{self._where}: other bytes than were asked for")
        return found.data

    async def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill *buffer* from *offset* of the pinned version."""
        for start, data in self._held:
            if start <= offset < start + len(data):
                piece = data[offset - start : offset - start + len(buffer)]
                buffer[: len(piece)] = piece
                offset, buffer = offset + len(piece), buffer[len(piece) :]
        if not len(buffer):
            return
        get = partial(self._calls.get_into, self.key, offset, buffer, total=self._size)
        try:
            await get(if_match=self.etag, version_id=self._version_id)
        except (PreconditionFailedError, RangeNotSatisfiableError) as exc:
            raise self._changed() from exc

    @property
    def _where(self) -> str:
        return f"{self._calls.bucket}/{self.key}"

    def _changed(self) -> SourceChangedError:
        return SourceChangedError(f"{self._where}: another version than was opened")

    async def aclose(self) -> None:
        """Nothing: the client is its owner's."""
        self._held = []
