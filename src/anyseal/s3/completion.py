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
    PartReplacedError,
    UploadError,
    UploadNotFoundError,
)
from anyseal.objects.format import ObjectKeys, Trailer
from anyseal.objects.geometry import SALT_BYTES
from anyseal.objects.upload import Receipt, Token
from anyseal.s3.calls import Calls, Part
from anyseal.s3.landing import Landing

__all__ = ["CompletedUpload", "Completion", "listed_receipt"]

_LANDING_PAUSES = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds: another worker's completion may be under way when ours hears that the upload is gone.

Stores take the parts away before the object shows, and a busy one takes its time in between.
"""

_GONE_PAUSES = _LANDING_PAUSES[:4]
"""The same when the store knows the upload no more: it was aborted, or the object shows already."""


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
        conditions: By S3's names.
    """

    def __init__(
        self,
        calls: Calls,
        upload: Token,
        keys: ObjectKeys,
        receipts: Mapping[int, Sequence[Receipt]],
        conditions: Mapping[str, Any],
    ) -> None:
        self._calls = calls
        self._upload = upload
        self._plan = upload.plan
        self._keys = keys
        self._receipts = receipts
        self._conditions = conditions
        self._listed: frozenset[int] = frozenset()
        self._landing = Landing(
            calls,
            upload.key,
            size=self._plan.sealed_size,
            header=upload.header.to_bytes(),
            tail_bytes=keys.geometry.trailer_bytes(self._plan.count),
            is_ours=self._is_ours,
        )

    async def run(self) -> CompletedUpload:
        """Complete it; see :meth:`UploadCalls.complete_upload`."""
        for left in reversed(range(self._calls.attempts)):
            try:
                return await self._complete(await self._entity_tags())
            except UploadNotFoundError:
                error: UploadError = UploadNotFoundError(
                    "the upload was aborted, or its object is no longer there"
                )
                pauses = _GONE_PAUSES if await self._is_gone() else _LANDING_PAUSES
                return await self._await_landing(error, pauses)
            except PartReplacedError as exc:
                if exc.part in self._listed:
                    raise
                # Not replaced but gone: perhaps another worker is completing it just now.
                return await self._await_landing(exc, _LANDING_PAUSES)
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
        self._listed = frozenset(parts)
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
        upload = self._upload

        async def complete() -> Any:
            return await self._calls.complete_upload(
                upload.key, upload.upload_id, tags, **self._conditions
            )

        return self._result(await self._landing.settled(complete))

    def _result(self, answer: Mapping[str, Any]) -> CompletedUpload:
        return CompletedUpload(
            etag=answer["ETag"],
            size=self._upload.size,
            sealed_size=self._plan.sealed_size,
            version_id=answer.get("VersionId"),
        )

    async def _is_gone(self) -> bool:
        """Whether the upload is gone, and not only its parts."""
        try:
            await self._calls.parts(self._upload.key, self._upload.upload_id)
        except UploadNotFoundError:
            return True
        return False

    async def _await_landing(self, error: UploadError, pauses: Sequence[float]) -> CompletedUpload:
        """Parts are gone: completed, if the object is there soon; otherwise raises *error*."""
        for pause in pauses:
            await anyio.sleep(pause)
            found = await self._landing.look()
            if found is not None:
                return self._result(found)
        raise error

    def _is_ours(self, tail: bytes) -> bool:
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
