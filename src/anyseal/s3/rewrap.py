"""Rewrapping: an object's data key under another key, without moving its data through here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from anyseal.errors import FormatError, SourceError
from anyseal.keys import Key
from anyseal.objects.format import HEADER_MAX_BYTES, Header
from anyseal.objects.parts import PART_MIN_BYTES, PARTS_MAX
from anyseal.objects.rewrap import rewrap_header
from anyseal.ports import Keyring, current_key, named_key, resolve_partition
from anyseal.s3.answers import required
from anyseal.s3.arguments import KEY_METADATA
from anyseal.s3.base import BucketBase
from anyseal.s3.body import Body, checksum_of, wanted_checksum
from anyseal.s3.landing import Landing
from anyseal.s3.multipart import Span, Upload

__all__ = ["RewrapCalls", "RewrapResult"]

COPY_BYTES = 256 << 20
"""What S3 copies in one request, unless an object needs longer pieces."""

# What HeadObject tells and CreateMultipartUpload takes by the same name.
_KEPT = (
    "BucketKeyEnabled",
    "CacheControl",
    "ContentDisposition",
    "ContentEncoding",
    "ContentLanguage",
    "ContentType",
    "ObjectLockLegalHoldStatus",
    "ObjectLockMode",
    "ObjectLockRetainUntilDate",
    "SSEKMSKeyId",
    "ServerSideEncryption",
    "StorageClass",
    "WebsiteRedirectLocation",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewrapResult:
    """What became of an object."""

    etag: str
    key_id: bytes
    """The key that its data key is wrapped under now."""
    version_id: str | None
    changed: bool
    """False if it was under this key already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Object:
    """An object as it was found."""

    key: str
    size: int
    etag: str
    header: Header
    version_id: str | None
    headers: dict[str, Any]


class RewrapCalls(BucketBase):
    """Rewrapping objects."""

    async def rewrap(
        self,
        key: str,
        *,
        partition: str | None = None,
        to_partition: str | None = None,
        to_keyring: Key | Keyring | None = None,
        concurrency: int | None = None,
    ) -> RewrapResult:
        """Wrap the object's data key under the current key, of this partition or another.

        Only the header changes: S3 copies the rest by itself, 5 MiB excepted. The context is not
        needed and stays. Metadata and content headers are kept; tags and access lists are not.
        Copies and old versions still open with the old key.

        Args:
            key: The object's key.
            partition: Whose key it is sealed under, with a keyring.
            to_partition: Whose key to wrap it under. Default: *partition*.
            to_keyring: Another Key or Keyring. Default: the bucket's.
            concurrency: Requests at the same time. Default: the bucket's.

        Raises:
            ObjectNotFoundError: No such object.
            FormatError: Not a sealed object.
            WrongKeyError: The key that it names is unknown under *partition*.
            DecryptionError: Its data key does not unwrap.
            PreconditionFailedError: Another version took its place meanwhile, and stays.

        Cost: two requests if nothing changes, three up to 5 MiB; above, two more and one for each
            256 MiB.
        """
        self._context(key, b"")
        slots = self._slots(concurrency)
        name = self._partition(partition)
        target = self._keyring if to_keyring is None else to_keyring
        to_name = to_partition
        if to_partition is None and not isinstance(target, Key):
            to_name = partition
        to_name = resolve_partition(target, to_name)
        found = await self._find(key)
        new = await current_key(target, to_name)
        old = await named_key(self._keyring, name, found.header.key_id)
        if new.key_id == found.header.key_id and target is self._keyring and to_name == name:
            return RewrapResult(
                etag=found.etag, key_id=new.key_id, version_id=found.version_id, changed=False
            )
        header = rewrap_header(found.header, old, new).to_bytes()
        found.headers["Metadata"] = {**found.headers["Metadata"], KEY_METADATA: new.key_id.hex()}
        checksum = wanted_checksum(self._calls.client, None)
        if found.size <= PART_MIN_BYTES:
            answer = await self._rewrap_small(found, header, checksum)
        else:
            answer = await self._rewrap_large(found, header, checksum, slots)
        return RewrapResult(
            etag=answer["ETag"],
            key_id=new.key_id,
            version_id=answer.get("VersionId"),
            changed=True,
        )

    async def _find(self, key: str) -> _Object:
        """The object's header, and what S3 knows about it."""
        head = await self._calls.head_object(key)
        where = f"head_object {self.bucket}/{key!r}"
        etag = required(head, "ETag", str, where)
        if not required(head, "ContentLength", int, where):
            raise FormatError("not a sealed object")
        there = await self._calls.get_range(
            key,
            f"0-{HEADER_MAX_BYTES - 1}",
            limit=HEADER_MAX_BYTES,
            if_match=etag,
        )
        return _Object(
            key=key,
            size=there.total,
            etag=etag,
            header=Header.parse(there.data),
            version_id=head.get("VersionId"),
            headers={
                "Metadata": head.get("Metadata", {}),
                **{name: head[name] for name in _KEPT if name in head},
            },
        )

    async def _rest_of_head(self, found: _Object, start: int, stop: int) -> bytes:
        if start >= stop:
            return b""
        there = await self._calls.get_range(
            found.key, f"{start}-{stop - 1}", limit=stop - start, if_match=found.etag
        )
        if len(there.data) != stop - start:
            raise SourceError(f"get_object {self.bucket}/{found.key}: other bytes than asked for")
        return there.data

    async def _rewrap_small(self, found: _Object, header: bytes, checksum: str | None) -> Any:
        blocks = [header, await self._rest_of_head(found, len(header), found.size)]
        landing = self._rewrapped(found, header)
        try:
            return await self._calls.put(
                found.key,
                Body(blocks),
                IfMatch=found.etag,
                **found.headers,
                **checksum_of(checksum, blocks),
            )
        except SourceError:
            answer = await landing.find()
            if answer is None:
                raise
            return answer

    async def _rewrap_large(
        self, found: _Object, header: bytes, checksum: str | None, concurrency: int
    ) -> Any:
        upload = Upload(self._calls, found.key, concurrency)
        try:
            await upload.begin(ChecksumAlgorithm=checksum, **found.headers)
            blocks = [header, await self._rest_of_head(found, len(header), PART_MIN_BYTES)]
            sums = checksum_of(checksum, blocks)
            etag = await self._calls.upload_part(
                found.key, upload.upload_id, 1, Body(blocks), **sums
            )
            upload.add(1, etag, sums)
            source = {"Bucket": self.bucket, "Key": found.key}
            await upload.copy(source, _rest_of_parts(found.size), found.etag)
            return await upload.complete(self._rewrapped(found, header), IfMatch=found.etag)
        except BaseException:
            await upload.abort()
            raise

    def _rewrapped(self, found: _Object, header: bytes) -> Landing:
        """Finds the rewrapped object: by its new header, at its size."""
        return Landing(self._calls, found.key, size=found.size, header=header)


def _rest_of_parts(size: int) -> Iterator[Span]:
    """What follows the first part."""
    step = max(COPY_BYTES, -(-(size - PART_MIN_BYTES) // (PARTS_MAX - 1)))
    for number, start in enumerate(range(PART_MIN_BYTES, size, step), 2):
        yield number, start, min(start + step, size)
