"""Putting objects: sealed in worker threads, uploaded in parts, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from anyseal.errors import PreconditionFailedError
from anyseal.objects.sealer import SEGMENT_SIZE, Sealer
from anyseal.ports import Progress, current_key
from anyseal.s3.arguments import checked_metadata, checked_text, conditions
from anyseal.s3.base import BucketBase
from anyseal.s3.body import Body, wanted_checksum
from anyseal.s3.landing import Landing
from anyseal.s3.multipart import Upload
from anyseal.s3.sealing import Plaintext, SealedPart, SealedParts, plaintext
from anyseal.suites import Suite

__all__ = ["PutCalls", "PutResult"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PutResult:
    """What was put."""

    etag: str
    size: int
    """Plaintext bytes."""
    sealed_size: int
    """Bytes in the bucket."""
    version_id: str | None
    parts: int
    """Of the multipart upload; 1 for a single request."""


def _meter(progress: Progress | None, total: int | None) -> Callable[[int], None]:
    """A function that adds up what is uploaded, and tells."""
    done = 0

    def sent(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    return sent


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What goes with the bytes."""

    key: str
    headers: dict[str, Any]
    conditions: dict[str, str]
    checksum: str | None
    concurrency: int


class PutCalls(BucketBase):
    """Putting objects."""

    async def put(
        self,
        key: str,
        data: Any,
        *,
        partition: str | None = None,
        context: bytes = b"",
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
        if_none_match: bool = False,
        if_match: str | None = None,
        checksum: str | None = None,
        concurrency: int | None = None,
        progress: Progress | None = None,
        suite: Suite | str | None = None,
        part_size: int | None = None,
    ) -> PutResult:
        """Seal *data* into the object *key*.

        The object appears when it is complete. An error or a cancellation leaves what was there
        before, and no unfinished upload; only a cancellation that comes while the upload is being
        completed may find the object there, whole.

        Args:
            key: The object's key, 1 to 1,024 bytes in UTF-8.
            data: Contiguous bytes-like, which must not change meanwhile; a path (``pathlib.Path``);
                a binary file, blocking (read in a worker thread, where a read that is under way
                outlives a cancellation) or with an awaitable ``read``; or an async iterable of
                bytes-like pieces.
            partition: Whose key to use, with a keyring.
            context: Authenticated, not stored; 0 to 65,536 bytes.
            metadata: User metadata, **not** encrypted: printable ASCII, at most 2 KiB with ours.
                S3 drops spaces around values. The key's id and the suite are added.
            content_type: Printable ASCII, stored as it is.
            if_none_match: Only if there is no such object yet.
            if_match: Only if the object there has this entity tag.
            checksum: ``"CRC32"``, ``"SHA1"`` or ``"SHA256"``: S3 verifies and keeps it. Default:
                CRC32 if the client asks for checksums, else none.
            concurrency: Parts on their way at the same time. Default: the bucket's.
            progress: Called with (plaintext bytes uploaded, total or None).
            suite: Default: the bucket's.
            part_size: Wished bytes of a part in the bucket, at least 5 MiB. Default: the
                bucket's.

        Raises:
            PreconditionFailedError: *if_none_match* or *if_match* does not hold.
            SourceChangedError: The file changed while it was read.
            SourceError: S3 did not take it.
            OSError: A path cannot be opened, or a file not be read.
            ValueError: An object of more than 5 TiB, metadata of more than 2 KiB, or another
                argument that is out of bounds.

        Cost: one request up to *part_size*; above, one for each part and three more. Memory for
            *concurrency* + 1 parts. Of unknown length, parts grow after the first 1,000.
        """
        sealed_context = self._context(key, context)
        name = self._partition(partition)
        only_if = conditions(if_none_match, if_match)
        concurrency, part_size = self._slots(concurrency), self._wished(part_size)
        content_type = checked_text("content_type", content_type)
        metadata = checked_metadata(metadata)
        checksum = wanted_checksum(self._calls.client, checksum)
        partition_key = await current_key(self._keyring, name)
        source = await plaintext(data)
        sealer = None
        try:
            sealer = Sealer(
                partition_key,
                context=sealed_context,
                suite=self._suite if suite is None else suite,
                chunk_bytes=self._chunk_size,
                segment_bytes=SEGMENT_SIZE,
            )
            headers: dict[str, Any] = {
                "Metadata": checked_metadata(metadata, self._named(partition_key, sealer.suite)),
                "ContentType": content_type,
            }
            request = _Request(
                key=key,
                headers=headers,
                conditions=only_if,
                checksum=checksum,
                concurrency=concurrency,
            )
            parts = SealedParts(sealer, source, part_size, checksum)
            return await self._put_parts(request, parts, source, progress)
        finally:
            if sealer is not None:
                sealer.end("an error or a cancellation ended the upload")
            await source.aclose()

    async def _put_parts(
        self,
        request: _Request,
        parts: SealedParts,
        source: Plaintext,
        progress: Progress | None,
    ) -> PutResult:
        sent = _meter(progress, source.size)
        sent(0)
        if await parts.only_one():
            part = await parts.next()
            answer = await self._put_whole(request, part, self._landing(request, parts))
            sent(part.size)
        else:
            upload = Upload(self._calls, request.key, request.concurrency)
            try:
                await upload.begin(ChecksumAlgorithm=request.checksum, **request.headers)
                await self._begun(request.key, upload.upload_id)
                await upload.send(parts, sent)
                landing = self._landing(request, parts)
                answer = await upload.complete(landing, **request.conditions)
            except BaseException:
                await upload.abort()
                raise
        return PutResult(
            etag=answer["ETag"],
            size=parts.size,
            sealed_size=parts.sealed_size,
            version_id=answer.get("VersionId"),
            parts=parts.count,
        )

    async def _begun(self, key: str, upload_id: str) -> None:
        """For those who keep a record of multipart uploads: called before the first part."""

    def _landing(self, request: _Request, parts: SealedParts) -> Landing:
        """Finds the object, when all its parts are sealed."""
        return Landing(
            self._calls,
            request.key,
            size=parts.sealed_size,
            header=parts.header,
            tail_bytes=len(parts.trailer),
            is_ours=lambda tail: tail == parts.trailer,
        )

    async def _put_whole(self, request: _Request, part: SealedPart, landing: Landing) -> Any:
        """Put an object that is one part."""
        try:
            return await self._calls.put(
                request.key,
                Body(part.blocks),
                **request.headers,
                **request.conditions,
                **part.checksum,
            )
        except PreconditionFailedError:
            # An earlier attempt may have gone through without a clear answer.
            found = await landing.find()
            if found is None:
                raise
            return found
