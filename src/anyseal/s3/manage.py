"""Looking after sealed objects without opening them: stat, list, copy, delete, presigned URLs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from anyseal.errors import ConfigurationError, FormatError
from anyseal.objects.format import HEADER_MAX_BYTES, Header
from anyseal.s3.answers import required
from anyseal.s3.arguments import (
    KEY_METADATA,
    SUITE_METADATA,
    checked_metadata,
    checked_text,
    conditions,
    whole,
)
from anyseal.s3.base import BucketBase
from anyseal.s3.calls import Found, Listed, quoted
from anyseal.s3.failures import RangeNotSatisfiableError
from anyseal.s3.multipart import Span, Upload
from anyseal.suites import Suite

__all__ = ["ManageCalls", "ObjectStat"]

COPY_MAX_BYTES = 5 << 30
"""What S3 copies in one request."""

COPY_PART_BYTES = 1 << 30

_OURS = (KEY_METADATA, SUITE_METADATA)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStat:
    """What a sealed object says about itself. Nothing of it is verified: that takes the key."""

    key: str
    size: int
    """Plaintext bytes, if nobody altered the object."""
    sealed_size: int
    suite: Suite
    key_id: bytes
    """Names the partition's key that the object's key is wrapped under."""
    chunk_bytes: int
    segment_bytes: int
    etag: str
    modified: datetime | None
    version_id: str | None
    metadata: Mapping[str, str] = field(default_factory=dict)


class ManageCalls(BucketBase):
    """The calls of a sealed bucket that need no key."""

    async def stat(self, key: str, *, version_id: str | None = None) -> ObjectStat:
        """What an object's header and S3 say about it.

        Raises:
            ObjectNotFoundError: No such object or version.
            FormatError: Not a sealed object.
            SourceError: S3 did not answer, or refused.

        Cost: one request of 200 bytes; no key is asked for.
        """
        self._context(key, b"")
        checked_text("version_id", version_id)
        limit = HEADER_MAX_BYTES
        try:
            found = await self._calls.get_range(
                key, f"0-{limit - 1}", limit=limit, version_id=version_id
            )
        except RangeNotSatisfiableError:
            raise FormatError("not a sealed object") from None
        header = Header.parse(found.data)
        return ObjectStat(
            key=key,
            size=header.geometry.plaintext_size(found.total),
            sealed_size=found.total,
            suite=header.suite,
            key_id=header.key_id,
            chunk_bytes=header.geometry.chunk_bytes,
            segment_bytes=header.segment_bytes,
            etag=found.etag,
            modified=found.modified,
            version_id=found.version_id,
            metadata=found.metadata,
        )

    async def list(
        self, prefix: str = "", *, start_after: str | None = None
    ) -> AsyncIterator[Listed]:
        """The objects whose keys begin with *prefix*, by key; sizes are of what is sealed.

        Cost: one request per 1,000 objects.
        """
        async for one in self._calls.list(prefix, start_after=start_after):
            yield one

    async def delete(
        self, key: str, *, version_id: str | None = None, if_match: str | None = None
    ) -> None:
        """Delete an object; one that is not there is no error.

        Args:
            key: The object's key.
            version_id: Delete this version for good. Default: as the bucket is set up.
            if_match: Only if this is still its entity tag.

        Raises:
            PreconditionFailedError: *if_match* did not hold.
            SourceError: S3 did not answer, or refused.
        """
        self._context(key, b"")
        checked_text("version_id", version_id)
        await self._calls.delete(key, VersionId=version_id, **conditions(False, if_match))

    async def copy(
        self,
        source_key: str,
        target_key: str,
        *,
        source_bucket: str | None = None,
        version_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_none_match: bool = False,
        reseal: bool = False,
        partition: str | None = None,
        context: bytes = b"",
    ) -> str:
        """Copy a sealed object within S3, as it is: no key is asked for, no byte comes here.

        The copy opens with the partition and context of the original. It keeps metadata and
        content headers; tags and access lists only in one request, so not above 5 GiB and not with
        *if_none_match*.

        Args:
            source_key: What to copy.
            target_key: The copy's key, in this bucket.
            source_bucket: Default: this bucket.
            version_id: Of the original. Default: the current one.
            metadata: Added to the original's metadata, or in place of the entries of these names;
                as for :meth:`put`.
            if_none_match: Only if there is no object under *target_key*.
            reseal: Open the original and seal the copy anew, as a bucket with ``bind_location``
                demands. Takes *partition* and *context*, and all bytes through this process.
            partition: For *reseal*.
            context: For *reseal*.

        Returns:
            The copy's entity tag, quoted as by :meth:`list`.

        Raises:
            ConfigurationError: The bucket binds locations, and *reseal* was not asked for; or
                *metadata* does not fit S3.
            ObjectNotFoundError: No such original.
            PreconditionFailedError: There is an object under *target_key*, or the original was
                replaced meanwhile.
            SourceError: S3 did not answer, or refused.
        """
        self._context(source_key, b"")
        self._context(target_key, b"")
        checked_text("version_id", version_id)
        added = checked_metadata(metadata)
        source_bucket = self.bucket if source_bucket is None else source_bucket
        if reseal:
            if source_bucket != self.bucket:
                raise ConfigurationError("reseal works within one bucket: stream() and put()")
            sealing: Any = self
            found = await self._calls.head(source_key, version_id=version_id)
            kept = {name: value for name, value in found.metadata.items() if name not in _OURS}
            fields: dict[str, Any] = {"partition": partition, "context": context}
            pieces = sealing.stream(source_key, version_id=version_id, **fields)
            async with contextlib.aclosing(pieces):
                answer = await sealing.put(
                    target_key,
                    pieces,
                    metadata=_merged(kept, added),
                    content_type=found.content_type or None,
                    if_none_match=if_none_match,
                    **fields,
                )
            return str(answer.etag)
        if self._bind_location:
            raise ConfigurationError(
                "this bucket binds objects to their place: a copy opens only with reseal=True"
            )
        source = {"Bucket": source_bucket, "Key": source_key}
        if version_id is not None:
            source["VersionId"] = version_id
        found = await self._found(source)
        fields = {
            "Metadata": _merged(found.metadata, added),
            **found.headers,
        }
        # Not every store heeds If-None-Match in CopyObject; completing an upload, they do.
        if found.size > COPY_MAX_BYTES or if_none_match:
            return await self._copy_parts(source, found, target_key, fields, if_none_match)
        answer = await self._calls.call(
            "copy_object",
            Key=target_key,
            CopySource=source,
            CopySourceIfMatch=found.etag,
            MetadataDirective="REPLACE",
            **fields,
        )
        where = f"copy_object {self.bucket}/{target_key!r}"
        copied = required(answer, "CopyObjectResult", dict, where)
        return quoted(required(copied, "ETag", str, where))

    async def _found(self, source: Mapping[str, str]) -> Found:
        """HeadObject of an object that may be in another bucket."""
        calls = self._calls.of_bucket(source["Bucket"])
        return await calls.head(source["Key"], version_id=source.get("VersionId"))

    async def _copy_parts(
        self,
        source: Mapping[str, str],
        found: Found,
        key: str,
        fields: Mapping[str, Any],
        if_none_match: bool,
    ) -> str:
        """Copy as a multipart upload; aborted if anything fails."""
        upload = Upload(self._calls, key, self._concurrency)
        try:
            await upload.begin(**fields)
            await upload.copy(source, _copied_parts(found.size), found.etag)
            # Another copy of the same object would look the same: an unclear answer is an error.
            answer = await upload.complete(None, **conditions(if_none_match, None))
        except BaseException:
            await upload.abort()
            raise
        return str(answer["ETag"])

    async def presigned_get(
        self, key: str, *, expires_in: int = 3600, version_id: str | None = None
    ) -> str:
        """A URL that reads the sealed object without credentials, ranges included.

        Whoever has the URL still needs the key: ``ObjectReader.open(HttpSource(url), keyring)``
        opens it. With ``bind_location`` only a SealedBucket does.

        Args:
            key: The object's key.
            expires_in: Seconds that the URL works, 1 to 604,800. With temporary credentials it
                ends with these, if that is sooner.
            version_id: Default: whatever is current when the URL is used.

        Cost: no request. Whether there is such an object is not checked.
        """
        self._context(key, b"")
        checked_text("version_id", version_id)
        if not 1 <= whole("expires_in", expires_in) <= 604_800:
            raise ValueError("expires_in must be 1 to 604,800 seconds")
        parameters = {"Bucket": self.bucket, "Key": key}
        if version_id is not None:
            parameters["VersionId"] = version_id
        return await self._calls.presigned("get_object", parameters, expires_in)


def _merged(kept: Mapping[str, str], added: Mapping[str, str]) -> dict[str, str]:
    """*kept* with *added* in place of the entries of these names, which S3 has in lower case."""
    return {**kept, **{name.lower(): value for name, value in added.items()}}


def _copied_parts(size: int) -> Iterator[Span]:
    for number, start in enumerate(range(0, size, COPY_PART_BYTES), 1):
        yield number, start, min(start + COPY_PART_BYTES, size)
