"""Complete a multipart upload from its receipts, and know afterwards whether it went through."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio

from anyseal.errors import (
    DecryptionError,
    FormatError,
    ObjectNotFoundError,
    PartReplacedError,
    PreconditionFailedError,
    SourceError,
    UploadError,
    UploadNotFoundError,
)
from anyseal.objects.format import ObjectKeys, Trailer
from anyseal.objects.geometry import SALT_BYTES
from anyseal.objects.upload import Receipt, Token
from anyseal.s3.calls import Calls, Part

__all__ = ["CompletedUpload", "Completion", "listed_receipt"]

_LANDING_PAUSES = (0.0, 0.1, 0.4)
"""Seconds: another worker's completion may be under way when ours hears that the upload is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletedUpload:
    """The object that an upload became."""

    etag: str
    """As S3 quotes it."""
    size: int
    """Plaintext bytes."""
    sealed_size: int
    """Bytes in the bucket."""
    version_id: str | None = None


def listed_receipt(receipts: Sequence[Receipt], parts: Sequence[Part]) -> Receipt | None:
    """The receipt of one part whose entity tag and size the store lists.

    If it lists several, which some stores do, the one that it lists last: so all workers choose
    the same.
    """
    for part in reversed(parts):
        for receipt in receipts:
            if (receipt.etag, receipt.part_size) == (part.etag.strip('"'), part.size):
                return receipt
    return None


class Completion:
    """One attempt of one worker to complete an upload.

    Args:
        calls: On the bucket.
        upload: What the token says.
        keys: Of the object.
        receipts: By index, authentic, at least one for each.
    """

    def __init__(
        self,
        calls: Calls,
        upload: Token,
        keys: ObjectKeys,
        receipts: Mapping[int, Sequence[Receipt]],
    ) -> None:
        self._calls = calls
        self._upload = upload
        self._plan = upload.plan
        self._keys = keys
        self._receipts = receipts

    async def run(self) -> CompletedUpload:
        """Complete it; see :meth:`UploadCalls.complete_upload`."""
        for left in reversed(range(self._calls.attempts)):
            try:
                return await self._complete(await self._entity_tags())
            except UploadNotFoundError:
                return await self._await_landing()
            except PartReplacedError:
                raise
            except UploadError:
                # A part went away after it was listed. If it was one of ours, the next listing
                # shows which; if it was the trailer, another worker completes too, with other
                # receipts: write it again.
                if not left:
                    raise
        raise AssertionError("unreachable")

    async def _entity_tags(self) -> list[str]:
        """Upload what is missing, header or trailer; returns the tags of all parts, in order."""
        upload, count = self._upload, self._plan.count
        parts: dict[int, list[Part]] = {}
        for part in await self._calls.parts(upload.key, upload.upload_id):
            parts.setdefault(part.number, []).append(part)
        tags, salts = [], []
        for index in range(count):
            receipt = listed_receipt(self._receipts[index], parts.get(index + 1, ()))
            if receipt is None:
                raise PartReplacedError(index + 1)
            tags.append(f'"{receipt.etag}"')
            salts.append(receipt.salt)
        if count != 1:
            body = self._keys.trailer(b"".join(salts), upload.size)
            if count == 0:
                body = upload.header.to_bytes() + body
            tags.append(
                await self._calls.upload_part(upload.key, upload.upload_id, count + 1, body)
            )
        return tags

    async def _complete(self, tags: Sequence[str]) -> CompletedUpload:
        """CompleteMultipartUpload, until its outcome is clear."""

        async def complete() -> CompletedUpload:
            upload = self._upload
            try:
                answer = await self._calls.complete_upload(upload.key, upload.upload_id, tags)
            except SourceError as exc:
                landed = await self._landed_after(exc) if exc.retryable else None
                if landed is None:
                    raise
                return landed
            return self._result(answer["ETag"], answer.get("VersionId"))

        return await self._calls.retry(complete)

    def _result(self, etag: str, version_id: str | None) -> CompletedUpload:
        return CompletedUpload(
            etag=etag,
            size=self._upload.size,
            sealed_size=self._plan.sealed_size,
            version_id=version_id,
        )

    async def _landed_after(self, _unclear: SourceError) -> CompletedUpload | None:
        """The same as :meth:`_landed`, but that the store cannot say either is no error."""
        try:
            return await self._landed()
        except SourceError:
            return None

    async def _await_landing(self) -> CompletedUpload:
        """The upload is gone: completed, if the object is there. Raises UploadNotFoundError."""
        for pause in _LANDING_PAUSES:
            await anyio.sleep(pause)
            landed = await self._landed()
            if landed is not None:
                return landed
        raise UploadNotFoundError("the upload was aborted, or its object is no longer there")

    async def _landed(self) -> CompletedUpload | None:
        """The object in the bucket, if its size, header and trailer are those of this upload."""
        key, size = self._upload.key, self._plan.sealed_size
        header = self._upload.header.to_bytes()
        tail_bytes = self._keys.geometry.trailer_bytes(self._plan.count)
        try:
            head = await self._calls.get_range(key, f"0-{len(header) - 1}", limit=len(header))
            if head.total != size or head.data != header:
                return None
            tail = await self._calls.get_range(
                key, f"{size - tail_bytes}-{size - 1}", limit=tail_bytes, if_match=head.etag
            )
        except (ObjectNotFoundError, PreconditionFailedError):
            return None
        except SourceError as exc:
            if exc.retryable:
                raise
            return None  # such as an object of no bytes
        return self._result(head.etag, head.version_id) if self._is_ours(tail.data) else None

    def _is_ours(self, tail: Any) -> bool:
        """Whether *tail* is a trailer of this object whose every salt has a receipt."""
        try:
            Trailer.length(tail, self._keys.geometry, self._plan.sealed_size)
            trailer = Trailer.parse(tail)
            self._keys.check_trailer(trailer)
        except (FormatError, DecryptionError):
            return False
        for index in range(self._plan.count):
            salt = trailer.salts[index * SALT_BYTES : (index + 1) * SALT_BYTES]
            if not any(hmac.compare_digest(salt, one.salt) for one in self._receipts[index]):
                return False
        return True
