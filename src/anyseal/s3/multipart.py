"""One multipart upload of one object by one task: all of it becomes visible, or nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel

from anyseal.errors import UploadNotFoundError
from anyseal.s3.body import Body
from anyseal.s3.calls import Calls
from anyseal.s3.landing import Landing
from anyseal.s3.sealing import SealedPart, SealedParts
from anyseal.s3.strays import Creation
from anyseal.tasks import each_awaited, uninterrupted

__all__ = ["Span", "Upload"]

Span: TypeAlias = tuple[int, int, int]
"""A part's number, and where it starts and stops in what it is copied from."""

ABORT_ATTEMPTS = 5
"""At most, which is two seconds: whoever waits for it has waited for S3 before, or is cancelled."""

_log = logging.getLogger("anyseal.s3")


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
        self._creation = Creation(calls, key)
        self._parameters: dict[str, Any] = {}
        self._begun_again = False
        self._beginning = anyio.Lock()
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
            self._upload_id = await self._creation.run(**parameters)

        self._parameters = parameters

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
                etag = await self._upload_part(part, body)
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
                group.start_soon(self._creation.end_strays, self.upload_id)
            except Exception as exc:
                errors.append(exc)
                group.cancel_scope.cancel()
        if errors:
            raise errors[0]

    async def _upload_part(self, part: SealedPart, body: Body) -> str:
        """The same bytes once more, in a new upload, if this one ended before any part arrived:
        another process took it for a stray of its own."""

        async def upload(upload_id: str) -> str:
            return await self._calls.upload_part(
                self._key, upload_id, part.number, body, **part.checksum
            )

        upload_id = self.upload_id
        try:
            return await upload(upload_id)
        except UploadNotFoundError:
            async with self._beginning:
                if upload_id == self.upload_id:
                    if self._etags or self._begun_again:
                        raise
                    self._begun_again = True
                    await self.begin(**self._parameters)
            return await upload(self.upload_id)

    async def copy(self, source: Mapping[str, str], spans: Iterator[Span], etag: str) -> None:
        """Have S3 copy parts out of *source*, while *etag* is its entity tag."""

        async def part(number: int, start: int, stop: int) -> None:
            copied = await self._calls.copy_part(
                self._key, self.upload_id, number, source, (start, stop), etag
            )
            self.add(number, *copied)

        await each_awaited(part, spans, self._concurrency)
        await self._creation.end_strays(self.upload_id)

    async def complete(self, landing: Landing | None, **conditions: Any) -> Any:
        """Make the object visible; returns S3's answer.

        After an unclear answer *landing* says whether the object is there all the same; without
        one it is an error.

        Raises:
            PreconditionFailedError: One of *conditions* does not hold.
        """
        numbers = range(1, len(self._etags) + 1)
        etags = [self._etags[number] for number in numbers]
        checksums = [self._checksums[number] for number in numbers]

        async def complete() -> Any:
            return await self._calls.complete_upload(
                self._key, self.upload_id, etags, checksums, **conditions
            )

        async def finish() -> Any:
            answer = await (complete() if landing is None else landing.settled(complete))
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
        calls = self._calls.of_bucket(self._calls.bucket, attempts=ABORT_ATTEMPTS)
        await self._creation.end_strays(self.upload_id)
        try:
            for _ in range(3):
                await calls.abort_upload(self._key, self.upload_id)
                # A part that was on its way may have arrived after the abortion.
                if not await calls.parts(self._key, self.upload_id):
                    return
        except UploadNotFoundError:
            return
        except Exception as exc:
            _log.warning(
                "the multipart upload of %r in %r could not be aborted (%s): "
                "a lifecycle rule of the bucket should end those",
                self._key,
                self._calls.bucket,
                type(exc).__name__,
            )
