"""Completing an upload: the receipts become an object, its MAC goes into its metadata."""

from __future__ import annotations

import dataclasses
import hmac
from collections.abc import Iterable, Mapping
from typing import Any

import anyio

from anyseal.compat.lenzeye.keys import key_version_of
from anyseal.compat.lenzeye.layout import Layout, LenzeyeMetadata
from anyseal.compat.lenzeye.reader import Ciphertext, read_back
from anyseal.compat.lenzeye.receipts import Receipt, object_mac, redeem
from anyseal.errors import (
    ObjectNotFoundError,
    PartReplacedError,
    UploadError,
    UploadIncompleteError,
    UploadNotFoundError,
)
from anyseal.s3.calls import Calls
from anyseal.s3.strays import create_upload

__all__ = ["Completion"]

COPY_MAX = 5 << 30
"""CopyObject takes no more; larger objects are copied in parts."""

COPY_PART = 1 << 30

_ABORT_SECONDS = 30

_KEPT = (
    "CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ContentType",
    "SSEKMSKeyId", "ServerSideEncryption", "StorageClass",
)  # fmt: skip
"""What HeadObject tells and a copy would forget."""


class Completion:
    """Completes uploads to one bucket."""

    def __init__(self, calls: Calls, layout: Layout) -> None:
        self._calls = calls
        self._layout = layout

    async def run(
        self,
        key: str,
        upload_id: str,
        opened: tuple[bytes, bytes, int],
        texts: Iterable[str],
        legacy_hmac: bool,
        *,
        size: int | None = None,
        parts: int | None = None,
    ) -> LenzeyeMetadata:
        """As :meth:`LenzeyeBucket.complete_upload`; *opened* is the token's content."""
        user_key, iv, part_size = opened
        count = _expected(part_size, size, parts)
        receipts = [redeem(*opened, upload_id, text) for text in texts]
        receipts = _in_order(receipts, part_size, count)
        found = sum(receipt.length for receipt in receipts)
        if size not in (None, found):
            raise UploadError(f"the parts have {found:,} bytes, not {size:,}")
        size = found
        macs = tuple(receipt.mac for receipt in receipts)
        mac = object_mac(user_key, iv, part_size, size, macs)
        wanted = LenzeyeMetadata(
            key_version=key_version_of(user_key),
            iv=iv,
            part_size=part_size,
            object_mac=mac,
            part_macs=macs,
        )
        mine = await self._complete(key, upload_id, receipts)
        head = await self._head(key, wanted, size)
        known = self._layout.read(head["Metadata"])
        if known is not None and known.object_mac is not None:
            if not hmac.compare_digest(known.object_mac, mac):
                raise UploadError("the upload was completed with other parts")
            wanted = dataclasses.replace(wanted, hmac=known.hmac)
            if known.hmac is not None or not legacy_hmac:
                return wanted
        if legacy_hmac or not mine:
            # Whose parts another call completed is not known: look before they are vouched for.
            source = Ciphertext(self._calls, key, head["ETag"], size, 0)
            covers = self._layout.hmac_covers_iv
            single = await read_back(source, user_key, iv, part_size, mac, covers)
            wanted = dataclasses.replace(wanted, hmac=single if legacy_hmac else None)
        metadata = self._layout.others(head["Metadata"]) | self._layout.write(wanted)
        await self._write_metadata(key, head, metadata)
        return wanted

    async def _complete(self, key: str, upload_id: str, receipts: list[Receipt]) -> bool:
        """Whether this call made the object; another one may have been first."""
        etags = [receipt.etag for receipt in receipts]
        try:
            listed = {part.number for part in await self._calls.parts(key, upload_id)}
            if beyond := sorted(number for number in listed if number > len(receipts)):
                raise UploadIncompleteError(beyond)  # S3 would make an object without them
            await self._calls.retry(lambda: self._calls.complete_upload(key, upload_id, etags))
        except UploadNotFoundError:
            return False
        except UploadIncompleteError:
            raise
        except UploadError:
            tagged = {(p.number, p.etag) for p in await self._calls.parts(key, upload_id)}
            for receipt in receipts:
                if (receipt.number, receipt.etag) not in tagged:
                    raise PartReplacedError(receipt.number) from None
            raise
        return True

    async def _head(self, key: str, wanted: LenzeyeMetadata, size: int) -> Any:
        """HeadObject's answer, if it is of the object that this upload made."""
        try:
            head = await self._calls.call("head_object", Key=key)
        except ObjectNotFoundError:
            raise UploadNotFoundError("the upload was aborted, or its object deleted") from None
        found = self._layout.read(head.get("Metadata", {}))
        if found is None or found.iv != wanted.iv or head["ContentLength"] != size:
            raise UploadNotFoundError("the upload was aborted, or its object replaced")
        return head

    async def _write_metadata(
        self, key: str, head: Mapping[str, Any], metadata: dict[str, str]
    ) -> None:
        """Replace the metadata of the version that *head* describes, by copying it onto itself."""
        kept = {name: head[name] for name in _KEPT if head.get(name)} | {"Metadata": metadata}
        source = {"Bucket": self._calls.bucket, "Key": key}
        etag, size = head["ETag"], head["ContentLength"]
        if size <= COPY_MAX:
            await self._calls.call(
                "copy_object",
                Key=key,
                CopySource=source,
                CopySourceIfMatch=etag,
                MetadataDirective="REPLACE",
                **kept,
            )
            return
        upload_id = await create_upload(self._calls, key, **kept)
        try:
            etags = []
            for number, at in enumerate(range(0, size, COPY_PART), 1):
                span = at, min(size, at + COPY_PART)
                copied, _ = await self._calls.copy_part(key, upload_id, number, source, span, etag)
                etags.append(copied)
            await self._calls.complete_upload(key, upload_id, etags)
        except BaseException:
            with anyio.move_on_after(_ABORT_SECONDS, shield=True):
                await self._calls.abort_upload(key, upload_id)
            raise


def _expected(part_size: int, size: int | None, parts: int | None) -> int | None:
    """How many parts the caller expects. Raises TypeError, ValueError, UploadError."""
    for name, value, least in (("size", size, 0), ("parts", parts, 1)):
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be int, not {type(value).__name__}")
            if value < least:
                raise ValueError(f"{name} must be at least {least}")
    if size is None:
        return parts
    count = max(1, -(-size // part_size))
    if parts not in (None, count):
        raise ValueError(f"{size:,} bytes are {count:,} parts of this upload, not {parts:,}")
    return count


def _in_order(receipts: list[Receipt], part_size: int, count: int | None = None) -> list[Receipt]:
    """The receipts of parts 1, 2, ... *count*, each of its full length but the last."""
    by_number = {receipt.number: receipt for receipt in receipts}
    if any(by_number[receipt.number] != receipt for receipt in receipts):
        raise UploadError("two different receipts of one part")
    last = max(by_number, default=1)
    if count is not None:
        if last > count:
            raise UploadError(f"a receipt of part {last:,}, and {count:,} parts are expected")
        last = count
    missing = [n for n in range(1, last + 1) if n not in by_number]
    short = [n for n, receipt in by_number.items() if n < last and receipt.length != part_size]
    if missing or short:
        raise UploadIncompleteError(sorted(missing + short))
    if last > 1 and not by_number[last].length:
        raise UploadError("the last part is empty")
    return [by_number[number] for number in range(1, last + 1)]
