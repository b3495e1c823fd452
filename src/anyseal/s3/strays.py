"""Uploads that CreateMultipartUpload leaves: its answer was lost, or the network sent it twice.

S3 names no owner of an upload. A stray is known by three things: it has the same key, it began
while ours was being created (S3 says it to the second), and no part of it has arrived. Uploads that
this process created are never taken for strays. Another process that begins an upload of the same
key in the same second may lose it before its first part arrives; a ``put`` then begins again.

An upload by workers cannot begin again, since its token names it. So its creation looks for strays
only after an answer was unclear, and a request that was sent twice, both times with a clear answer,
may leave an upload without parts.
"""

from __future__ import annotations

import collections
import logging
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import anyio

from anyseal.s3.calls import Calls
from anyseal.tasks import uninterrupted

__all__ = ["Creation", "create_upload", "end_strays"]

SLACK = 1.0
"""Seconds: S3 tells when an upload began without their fractions."""

_log = logging.getLogger("anyseal.s3")
_ours: collections.deque[str] = collections.deque(maxlen=4096)
_creating: collections.Counter[tuple[str, str]] = collections.Counter()


class Creation:
    """One CreateMultipartUpload, tried again until its answer is clear.

    Args:
        calls: The bucket.
        key: The object's key.
    """

    def __init__(self, calls: Calls, key: str) -> None:
        self._calls = calls
        self._key = key
        self._took = 0.0
        self.attempts = 0

    async def run(self, **parameters: Any) -> str:
        """Its upload id. An error or a cancellation after an unclear answer leaves no upload."""
        place = self._calls.bucket, self._key
        began = anyio.current_time()
        _creating[place] += 1
        try:
            upload_id = await self._calls.create_upload(self._key, self._attempted, **parameters)
            _ours.append(upload_id)
        except BaseException as exc:
            self._took = anyio.current_time() - began
            if self.attempts > 1 or getattr(exc, "retryable", False):
                _creating[place] -= 1
                try:
                    await uninterrupted(lambda: self.end_strays(None))
                finally:
                    _creating[place] += 1
            raise
        finally:
            _creating[place] -= 1
            if not _creating[place]:
                del _creating[place]
        self._took = anyio.current_time() - began
        return upload_id

    def _attempted(self) -> None:
        self.attempts += 1

    async def end_strays(self, upload_id: str | None) -> None:
        """Abort what the creation left beside *upload_id*; see :func:`end_strays`."""
        await end_strays(self._calls, self._key, upload_id, self._took)


async def create_upload(calls: Calls, key: str, **parameters: Any) -> str:
    """The id of a new upload, for workers that share no memory; what was left is aborted."""
    creation = Creation(calls, key)
    upload_id = await creation.run(**parameters)
    if creation.attempts > 1:
        await creation.end_strays(upload_id)
    return upload_id


async def end_strays(calls: Calls, key: str, upload_id: str | None, took: float = 0.0) -> None:
    """Abort the uploads of *key* that were begun with *upload_id*, whose creation *took* so many
    seconds; without it, that long ago.

    What cannot be listed or aborted stays: that is for a lifecycle rule of the bucket.
    """
    if _creating[calls.bucket, key] > 0:
        return  # the answer that is on its way may be about one of those
    few = calls.of_bucket(calls.bucket, attempts=1)
    try:
        answer = await few.call("list_multipart_uploads", Prefix=key)
        now = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
        for stray in _strays(answer.get("Uploads", []), key, upload_id, took, now):
            if not await few.parts(key, stray):
                await few.abort_upload(key, stray)
                _log.info("aborted an upload of %r that an unclear answer had left", key)
    except Exception as exc:  # the put itself is what matters
        _log.debug("cannot look for uploads that were left: %s", type(exc).__name__)


def _strays(
    listed: list[dict[str, Any]], key: str, upload_id: str | None, took: float, now: str
) -> list[str]:
    """Which of *listed* began together with *upload_id*."""
    found = {one["UploadId"]: one["Initiated"] for one in listed if one["Key"] == key}
    try:
        ours = found.pop(upload_id) if upload_id else parsedate_to_datetime(now)
    except (KeyError, ValueError):
        return []
    since, until = ours - timedelta(seconds=took + SLACK), ours + timedelta(seconds=SLACK)
    return [one for one, at in found.items() if since <= at <= until and one not in _ours]
