"""One multipart upload of one object by one task: all of it becomes visible, or nothing."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import anyio
import anyio.lowlevel

from anyseal.errors import AnysealError, SourceError, UploadNotFoundError
from anyseal.s3.body import Body
from anyseal.s3.calls import Calls
from anyseal.s3.sealing import SealedPart, SealedParts

__all__ = ["GRACE", "Proof", "Upload", "uninterrupted"]

T = TypeVar("T")

GRACE = 30.0
"""Seconds that a cancelled caller goes on waiting for an upload to be begun, completed, aborted."""

_log = logging.getLogger("anyseal.s3")


async def uninterrupted(call: Callable[[], Awaitable[T]]) -> T:
    """The result of *call*; a cancellation lets it go on for ``GRACE`` seconds, then is raised.

    Also asyncio's own ``Task.cancel()``, which pays no heed to shields: *call* has a task of its
    own.
    """
    outcome: list[T] = []
    errors: list[Exception] = []
    over = anyio.Event()
    scope = anyio.CancelScope(shield=True)

    async def work() -> None:
        with scope:
            try:
                outcome.append(await call())
            except Exception as exc:
                errors.append(exc)
        over.set()

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        try:
            await over.wait()
        except BaseException:
            scope.deadline = anyio.current_time() + GRACE
            raise
    if errors:
        raise errors[0]
    return outcome[0]


class Proof:
    """Whether the object in the bucket is the one that was just sealed.

    Its header has a fresh random salt and the commitment to a fresh key, its trailer a MAC.
    """

    def __init__(self, calls: Calls, key: str, parts: SealedParts) -> None:
        # Few attempts: it is asked for because the server does not answer well.
        self._calls = Calls(calls.client, calls.bucket, attempts=2)
        self._key = key
        self._header, self._trailer = parts.header, parts.trailer
        self._size = parts.sealed_size

    async def find(self) -> dict[str, Any] | None:
        """What S3 would have answered, if it is ours; None if it is not, or nobody knows."""
        with contextlib.suppress(AnysealError):
            found = await self._calls.head(self._key)
            if found.size != self._size:
                return None
            tail = self._size - len(self._trailer)
            for start, mine in ((0, self._header), (tail, self._trailer)):
                there = await self._calls.get_range(
                    self._key,
                    f"{start}-{start + len(mine) - 1}",
                    limit=len(mine),
                    if_match=found.etag,
                )
                if there.data != mine:
                    return None
            return {"ETag": found.etag, "VersionId": found.version_id}
        return None


class Upload:
    """A multipart upload, from its beginning to its completion or abortion.

    Args:
        calls: The bucket.
        key: The object's key.
        concurrency: Parts on their way at the same time.
    """

    def __init__(self, calls: Calls, key: str, concurrency: int) -> None:
        self._calls = calls
        self._key = key
        self._concurrency = concurrency
        self._upload_id: str | None = None
        self._etags: dict[int, str] = {}
        self._checksums: dict[int, Mapping[str, str]] = {}
        self._over = False

    @property
    def upload_id(self) -> str:
        """S3's name for it."""
        if self._upload_id is None:
            raise RuntimeError("the upload is not begun")
        return self._upload_id

    async def begin(self, **parameters: Any) -> None:
        """Begin it. If it was begun for a cancelled caller, ``abort`` still finds it."""

        async def create() -> None:
            self._upload_id = await self._calls.create_upload(self._key, **parameters)

        await uninterrupted(create)

    def add(self, number: int, etag: str, checksum: Mapping[str, str]) -> None:
        """Part *number* is in the bucket."""
        self._etags[number] = etag
        self._checksums[number] = checksum

    async def send(self, parts: SealedParts, sent: Callable[[int], object]) -> None:
        """Upload the parts that *parts* makes; *sent* hears of each one's plaintext bytes.

        One part is sealed while others are on their way.
        """
        slots = anyio.Semaphore(self._concurrency)
        errors: list[Exception] = []

        async def upload(part: SealedPart) -> None:
            try:
                body = Body(part.blocks)
                etag = await self._calls.upload_part(
                    self._key, self.upload_id, part.number, body, **part.checksum
                )
                self.add(part.number, etag, part.checksum)
                sent(part.size)
            except Exception as exc:
                errors.append(exc)
                group.cancel_scope.cancel()
            finally:
                slots.release()

        async with anyio.create_task_group() as group:
            try:
                last = False
                while not last:
                    part = await parts.next()
                    last = part.last
                    await slots.acquire()
                    group.start_soon(upload, part)
                    del part  # its task lets go of it when it is uploaded
            except Exception as exc:
                errors.append(exc)
                group.cancel_scope.cancel()
        if errors:
            raise errors[0]

    async def complete(self, find: Callable[[], Awaitable[Any]], **conditions: Any) -> Any:
        """Make the object visible; returns S3's answer.

        After an unclear answer *find* says whether the object is there all the same.

        Raises:
            PreconditionFailedError: One of *conditions* does not hold.
        """
        numbers = range(1, len(self._etags) + 1)
        etags = [self._etags[number] for number in numbers]
        checksums = [self._checksums[number] for number in numbers]

        async def attempt() -> Any:
            try:
                return await self._calls.complete_upload(
                    self._key, self.upload_id, etags, checksums, **conditions
                )
            except (SourceError, UploadNotFoundError):
                found = await find()
                if found is None:
                    raise
                return found

        async def finish() -> Any:
            answer = await self._calls.retry(attempt)
            self._over = True
            return answer

        await anyio.lowlevel.checkpoint()
        # What is half completed must not be aborted.
        return await uninterrupted(finish)

    async def abort(self) -> None:
        """Leave nothing in the bucket, unless the upload is completed or was never begun."""
        if self._over or self._upload_id is None:
            return
        self._over = True
        await uninterrupted(self._abort)

    async def _abort(self) -> None:
        try:
            for _ in range(3):
                await self._calls.abort_upload(self._key, self.upload_id)
                # A part that was on its way may have arrived after the abortion.
                if not await self._calls.parts(self._key, self.upload_id):
                    return
        except UploadNotFoundError:
            return
        except Exception as exc:
            _log.warning(
                "the multipart upload of %s/%s could not be aborted (%s): "
                "a lifecycle rule of the bucket should end those",
                self._calls.bucket,
                self._key,
                type(exc).__name__,
            )
