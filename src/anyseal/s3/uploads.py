"""Multipart uploads by workers that share no memory: tokens in, receipts out."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio.lowlevel

from anyseal import offload
from anyseal.errors import (
    FormatError,
    UploadError,
    UploadIncompleteError,
    UploadNotFoundError,
)
from anyseal.objects.format import ObjectKeys
from anyseal.objects.part_sealer import PartJob, PartSealer, seal_job
from anyseal.objects.parts import PART_MAX_BYTES, PartPlan, choose_segment_size
from anyseal.objects.upload import Receipt, Token
from anyseal.ports import current_key, named_key
from anyseal.s3.arguments import checked_metadata, checked_text, conditions, whole
from anyseal.s3.base import BucketBase
from anyseal.s3.calls import Part
from anyseal.s3.completion import CompletedUpload, Completion, listed_receipt
from anyseal.s3.sealing import pieces_of
from anyseal.s3.strays import create_upload
from anyseal.suites import INLINE_BYTES, Suite, suite_named
from anyseal.tasks import uninterrupted
from anyseal.value import expiry_ms

__all__ = ["UploadCalls"]

EXPIRES_IN = 86_400.0
_RECEIPTS_AT_ONCE = 64  # about 1 ms


class UploadCalls(BucketBase):
    """The calls of a sealed bucket for uploads in parts.

    Each may be made by another worker, process or host: what they must know is in the token,
    which is opaque, sealed and expiring. ``partition`` always comes from the caller's login,
    never from what a client sends.
    """

    async def create_upload(
        self,
        key: str,
        *,
        size: int,
        partition: str | None = None,
        context: bytes = b"",
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
        suite: Suite | str | None = None,
        part_size: int | None = None,
        expires_in: float = EXPIRES_IN,
    ) -> str:
        """Begin an upload of *size* plaintext bytes.

        Args:
            key: The object's key, 1 to 1,024 bytes in UTF-8.
            size: Exactly as many plaintext bytes as the parts will have.
            partition: Whose key to use, with a keyring.
            context: Authenticated, not stored; opening needs the same.
            metadata: The object's user metadata, in clear, as for :meth:`put`; the key's id and
                the suite are added.
            content_type: Printable ASCII, stored as it is.
            suite: Default: the bucket's.
            part_size: Wished plaintext bytes of a part. S3's limits change it: see
                :meth:`part_plan`. Default: the bucket's.
            expires_in: Seconds until the token is refused by all calls but :meth:`abort_upload`.

        Returns:
            The token: text of at most 8,192 characters.

        Raises:
            ConfigurationError: No part size fits an object of *size* bytes, or *metadata* does not
                fit S3.
            ValueError: *expires_in* is not positive, or *key* or *context* is out of bounds.
            SourceError: The store did not answer, or refused.

        Cost: one request. An error or a cancellation leaves no upload behind.
        Source: docs/format.md, sections 5.2 and 5.3.
        """
        name, given = self._partition(partition), self._context(key, context)
        whole("size", size)
        wished = min(self._wished(part_size), PART_MAX_BYTES)
        content_type = checked_text("content_type", content_type)
        if isinstance(expires_in, bool) or not isinstance(expires_in, (int, float)):
            raise TypeError(f"expires_in must be a number, not {type(expires_in).__name__}")
        if not expires_in > 0:
            raise ValueError("expires_in must be positive")
        expires_at = time.time() + expires_in
        expiry_ms(expires_at)
        chosen = suite_named(self._suite if suite is None else suite)
        segment_bytes = choose_segment_size(
            size,
            wished,
            chunk_bytes=self._chunk_size,
            tag_bytes=chosen.tag_bytes,
        )
        user_metadata = checked_metadata(metadata)
        under = await current_key(self._keyring, name)
        own = checked_metadata(user_metadata, self._named(under, chosen))
        keys = ObjectKeys.create(
            under,
            context=given,
            suite=chosen,
            chunk_bytes=self._chunk_size,
            segment_bytes=segment_bytes,
            object_salt=os.urandom(32),
        )
        keys.release()  # each worker unwraps the data key anew
        upload_id = await create_upload(self._calls, key, Metadata=own, ContentType=content_type)
        try:
            return Token(
                size=size,
                parse_hash=keys.parse_hash,
                header=keys.header,
                bucket=self.bucket,
                key=key,
                upload_id=upload_id,
            ).seal(under, expires_at)
        except BaseException:
            await uninterrupted(lambda: self._calls.abort_upload(key, upload_id))
            raise

    async def part_plan(self, token: str, *, partition: str | None = None) -> PartPlan:
        """Which parts the upload has: their number, plaintext ranges and sizes.

        Raises:
            FormatError, WrongKeyError, DecryptionError, ExpiredError: The token is refused.

        Cost: no request.
        """
        return (await self._opened_token(token, partition)).plan

    async def upload_part(
        self,
        token: str,
        number: int,
        data: Any,
        *,
        partition: str | None = None,
    ) -> str:
        """Seal part *number* and upload it.

        Parts may be uploaded in any order, by several workers at once, and again: each sealing
        has a salt of its own. Of several uploads of one part the store keeps the last; give
        :meth:`complete_upload` all receipts that there are.

        Args:
            token: From :meth:`create_upload`.
            number: From 1, as in :meth:`part_plan`.
            data: Exactly the part's plaintext, from all that :meth:`put` takes: bytes-like, which
                must not change meanwhile, a path, a binary file (read from where it is to its
                end), or an async iterable of pieces of any length.
            partition: As at creation.

        Returns:
            The receipt: text, to be kept until completion. Without it the part counts as missing.

        Raises:
            FormatError, WrongKeyError, DecryptionError, ExpiredError: The token is refused.
            ValueError: The upload has no such part.
            TypeError: *data* is nothing that gives bytes.
            UploadError: *data* is longer or shorter than the part; nothing was uploaded.
            SourceChangedError: The file changed while it was read.
            UploadNotFoundError: The upload was completed or aborted.
            SourceError: The store did not answer, or refused, also when tried again.

        Cost: one request. Holds the sealed part in memory, and 1 MiB when reading an iterable;
        seals in worker threads.
        Source: docs/format.md, sections 5.1 and 5.4.
        """
        whole("number", number)
        async with self._unlocked(token, partition) as (upload, keys):
            sealer = PartSealer(keys, upload.plan, number)
            part = sealer.part
            try:
                async with pieces_of(data) as pieces:
                    async for piece in pieces:
                        await _seal(sealer.feed(piece), upload.header.suite)
                body = sealer.finish()
            finally:
                sealer.close()
            etag = await self._calls.upload_part(upload.key, upload.upload_id, number, body)
            receipt = Receipt(
                index=number - 1,
                size=part.size,
                part_size=part.sealed_size,
                salt=sealer.salt,
                etag=etag.strip('"'),
            )
            return receipt.encode(keys, upload.upload_id)

    async def resume(
        self, token: str, receipts: Iterable[str], *, partition: str | None = None
    ) -> list[int]:
        """The numbers of the parts that are missing: to be uploaded, or uploaded again.

        Missing is a part without a receipt, and one that is no longer in the store as its
        receipts say.

        Raises:
            FormatError, WrongKeyError, DecryptionError, ExpiredError: The token or a receipt is
                refused.
            UploadNotFoundError: The upload was completed or aborted.

        Cost: one request for each 1,000 parts.
        """
        async with self._unlocked(token, partition) as (upload, keys):
            found = await _authentic(receipts, upload, keys)
            parts: dict[int, list[Part]] = {}
            for part in await self._calls.parts(upload.key, upload.upload_id):
                parts.setdefault(part.number, []).append(part)
            return [
                number
                for number in range(1, upload.plan.count + 1)
                if listed_receipt(found.get(number - 1, ()), parts.get(number, ())) is None
            ]

    async def complete_upload(
        self,
        token: str,
        receipts: Iterable[str],
        *,
        partition: str | None = None,
        if_none_match: bool = False,
        if_match: str | None = None,
    ) -> CompletedUpload:
        """Make the object visible.

        Any worker may, also several at once and again: the object is the same. A cancelled or
        failed call leaves the upload as it was, or completes it; never a part of the object.

        Args:
            token: From :meth:`create_upload`.
            receipts: All that there are, in any order, also when the call is repeated: of a part
                that was uploaded twice only the receipt of what the store kept will do.
            partition: As at creation.
            if_none_match: Only if there is no such object yet, or it is this upload's.
            if_match: Only if the object there has this entity tag, or is this upload's.

        Raises:
            FormatError, WrongKeyError, DecryptionError, ExpiredError: The token or a receipt is
                refused.
            PreconditionFailedError: *if_none_match* or *if_match* does not hold. The upload stays.
            UploadIncompleteError: Parts are missing; ``missing`` has their numbers.
            PartReplacedError: In the store is another sealing of a part than any receipt is for;
                upload part number ``part`` again.
            UploadNotFoundError: The upload was aborted, or completed and its object replaced.
            SourceError: The store did not answer, or refused, also when tried again.

        Cost: three requests, and one for each 1,000 parts. Half a second and more until the upload
            is known to be gone: another worker may be completing it.
        Source: docs/format.md, section 5.5.
        """
        only_if = conditions(if_none_match, if_match)
        async with self._unlocked(token, partition) as (upload, keys):
            found = await _authentic(receipts, upload, keys)
            missing = [index + 1 for index in range(upload.plan.count) if index not in found]
            if missing:
                raise UploadIncompleteError(missing)
            return await Completion(self._calls, upload, keys, found, only_if).run()

    async def abort_upload(self, token: str, *, partition: str | None = None) -> None:
        """Remove what was uploaded. An expired token will do; one that is gone is no error.

        Raises:
            FormatError, WrongKeyError, DecryptionError: The token is refused.
            SourceError: The store did not answer, or refused, also when tried again.

        Cost: two requests.
        """
        upload = await self._opened_token(token, partition, expired=True)
        for _ in range(self._calls.attempts):
            await self._calls.abort_upload(upload.key, upload.upload_id)
            try:  # a part that was on its way may have arrived after the abort
                await self._calls.parts(upload.key, upload.upload_id)
            except UploadNotFoundError:
                return
        raise UploadError("parts of the upload keep arriving: abort it again later")

    async def _opened_token(
        self, token: str, partition: str | None, *, expired: bool = False
    ) -> Token:
        """What an authentic token of this bucket and partition says."""
        name = self._partition(partition)
        key = await named_key(self._keyring, name, Token.key_id(token))
        upload = Token.open(token, key, expired=expired)
        if upload.bucket != self.bucket:
            raise UploadNotFoundError("the token is for another bucket")
        return upload

    @asynccontextmanager
    async def _unlocked(
        self, token: str, partition: str | None
    ) -> AsyncIterator[tuple[Token, ObjectKeys]]:
        """The same, and the object's keys for as long as the block takes."""
        upload = await self._opened_token(token, partition)
        name = self._partition(partition)
        key = await named_key(self._keyring, name, upload.header.key_id)
        keys = ObjectKeys.resume(upload.header, key, upload.parse_hash)
        try:
            yield upload, keys
        finally:
            keys.release()


async def _seal(groups: Iterator[Iterator[PartJob]], suite: Suite) -> None:
    """Do the jobs of each group: in worker threads, unless a hop would take longer."""
    for jobs in groups:
        first = next(jobs, None)
        if first is not None and first[0].run.size <= INLINE_BYTES[suite]:
            seal_job(*first)
            first = None
        await offload.each(seal_job, jobs if first is None else _chain(first, jobs))


def _chain(first: PartJob, jobs: Iterator[PartJob]) -> Iterator[PartJob]:
    yield first
    yield from jobs


async def _authentic(
    receipts: Iterable[str], upload: Token, keys: ObjectKeys
) -> dict[int, list[Receipt]]:
    """The receipts by index, each verified and found to fit the plan."""
    if isinstance(receipts, (str, bytes)):
        raise TypeError("receipts must be an iterable of str")
    found: dict[int, list[Receipt]] = {}
    plan = upload.plan
    for count, text in enumerate(receipts, 1):
        receipt = Receipt.decode(text, keys, upload.upload_id)
        if receipt.index >= plan.count:
            raise FormatError("a receipt of a part that the upload does not have")
        part = plan.part(receipt.index + 1)
        if (receipt.size, receipt.part_size) != (part.size, part.sealed_size):
            raise FormatError("a receipt whose sizes are not the part's")
        found.setdefault(receipt.index, []).append(receipt)
        if count % _RECEIPTS_AT_ONCE == 0:
            await anyio.lowlevel.checkpoint()
    return found
