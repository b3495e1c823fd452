"""Lenzeye's objects in an S3 bucket: uploads in parts by any worker, verified downloads."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import anyio

from anyseal import offload
from anyseal.compat.lenzeye.completion import Completion
from anyseal.compat.lenzeye.ctr import cipher_all, ctr_at, view_of
from anyseal.compat.lenzeye.keys import get_or_create_user_key_async, get_user_key_async
from anyseal.compat.lenzeye.layout import Form, Layout, LenzeyeMetadata
from anyseal.compat.lenzeye.master import (
    IV_BYTES,
    check_part_size,
    create_upload_token,
    decrypt_upload_token,
)
from anyseal.compat.lenzeye.reader import LenzeyeReader, open_reader
from anyseal.compat.lenzeye.receipts import Receipt, issue, part_mac
from anyseal.compat.lenzeye.tables import UserKeyTable
from anyseal.compat.lenzeye.verifiers import PARTS_MAX
from anyseal.errors import FormatError, ObjectNotFoundError
from anyseal.s3.arguments import checked_metadata
from anyseal.s3.calls import ATTEMPTS, Calls, Listed
from anyseal.s3.strays import create_upload

__all__ = ["LenzeyeBucket", "LenzeyeObject", "LenzeyeUpload"]

PART_SIZE = 8 << 20
PART_SIZE_MIN = 5 << 20
_HEADS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LenzeyeUpload:
    """What the browser, or whoever sends the parts, holds on to."""

    key: str
    upload_id: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LenzeyeObject:
    """One object of a scan."""

    key: str
    size: int
    """Bytes in the bucket."""
    etag: str
    modified: datetime
    key_version: str
    form: Form | None
    """How it is laid out; None if its metadata is malformed."""
    metadata: Mapping[str, str]
    """The rest of its metadata."""


class LenzeyeBucket:
    """A bucket with objects of Lenzeye's layout.

    The calls of one upload may come from any process or host: nothing of it is kept in between.

    Args:
        client: An aiobotocore S3 client; used, not closed. Its own retries should be off.
        bucket: The bucket's name.
        table: Where the users' keys are. Default: that of :func:`set_user_key_table`.
        layout: The names in the objects' metadata.
        attempts: How often a request is tried while its error may go away.
    """

    def __init__(
        self,
        client: Any,
        bucket: str,
        *,
        table: UserKeyTable | None = None,
        layout: Layout | None = None,
        attempts: int = ATTEMPTS,
    ) -> None:
        self._calls = Calls(client, bucket, attempts=attempts)
        self._table = table
        self._layout = layout or Layout()
        self._completion = Completion(self._calls, self._layout)

    async def create_upload(
        self,
        key: str,
        user: Any,
        *,
        part_size: int = PART_SIZE,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> LenzeyeUpload:
        """Begin an upload under the user's active key and a random iv.

        Args:
            key: The object's key.
            user: Whose object it is.
            part_size: Bytes of every part but the last, 5 MiB to 2**32 - 1.
            metadata: More metadata for the object.
            content_type: Kept with the object.

        Returns:
            The upload's id and token, for the calls below.

        Raises:
            ConfigurationError, InvalidTagError, MetastoreError: As for get_or_create_user_key.
            SourceError: The bucket did not answer.
        """
        if check_part_size(part_size) < PART_SIZE_MIN:
            raise ValueError(f"part_size must be at least {PART_SIZE_MIN:,} bytes")
        others = checked_metadata(metadata)
        if set(others) - set(self._layout.others(others)):
            raise ValueError("metadata has a name that the layout uses")
        user_key, version = await get_or_create_user_key_async(user, table=self._table)
        iv = os.urandom(IV_BYTES)
        found = LenzeyeMetadata(key_version=version, iv=iv, part_size=part_size)
        token = create_upload_token(user_key, iv, part_size)
        upload_id = await create_upload(
            self._calls,
            key,
            Metadata=others | self._layout.write(found),
            ContentType=content_type,
        )
        return LenzeyeUpload(key=key, upload_id=upload_id, token=token)

    async def encrypt_and_upload_part(
        self, key: str, upload_id: str, token: str, number: int, plaintext: Any
    ) -> str:
        """Encrypt one part and upload it; parts come in any order, from any process.

        A part that is sent again must have the same bytes: see encrypt_multipart_chunk.

        Args:
            key: The object's key.
            upload_id: From :meth:`create_upload`.
            token: From :meth:`create_upload`.
            number: 1 to 10,000.
            plaintext: Bytes-like; ``part_size`` bytes, the last part 0 to that many.

        Returns:
            The part's receipt, for :meth:`complete_upload`.

        Raises:
            InvalidTagError: The token was altered.
            UploadNotFoundError: The upload was completed or aborted.
            SourceError: The bucket did not answer.

        Cost: no query; the ciphertext of the part in memory; the work in a worker thread.
        """
        user_key, iv, part_size = decrypt_upload_token(token)
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= PARTS_MAX:
            raise ValueError(f"a part's number is 1 to {PARTS_MAX:,}")
        data = view_of(plaintext)
        length = len(data)
        if length > part_size:
            raise ValueError(f"a part of this upload has at most {part_size:,} bytes")
        offset = (number - 1) * part_size
        mac = part_mac(user_key, iv, number, offset, length)
        context = ctr_at(user_key, iv, offset)
        ciphertext = await offload.run(cipher_all, context, data, mac)
        etag = await self._calls.upload_part(key, upload_id, number, ciphertext)
        receipt = Receipt(number=number, length=length, etag=etag, mac=mac.digest())
        return issue(user_key, iv, part_size, upload_id, receipt)

    async def complete_upload(
        self,
        key: str,
        upload_id: str,
        token: str,
        receipts: Any,
        *,
        size: int | None = None,
        parts: int | None = None,
        legacy_hmac: bool = False,
    ) -> LenzeyeMetadata:
        """Make the object of its parts, and write its MAC into its metadata.

        S3 takes metadata when an upload begins, so the MAC is written by a server-side copy of
        the object onto itself. Until then the object does not open. A call that was interrupted
        is repeated with the same receipts; a second one changes nothing.

        Args:
            key: The object's key.
            upload_id: From :meth:`create_upload`.
            token: From :meth:`create_upload`.
            receipts: One of each part, in any order.
            size: Plaintext bytes of the whole, or *parts*, how many parts it has: from your
                application, not from whoever sends the receipts. Without either, an object whose
                last parts were never uploaded is complete.
            parts: See *size*.
            legacy_hmac: Also write the single HMAC, for readers that know no other. The object is
                read back for it.

        Returns:
            The metadata that the object has now.

        Raises:
            InvalidSignatureError: A receipt was altered, or is of another upload or token.
            UploadIncompleteError: Parts are missing, or one but the last is short; or the bucket
                has parts after the last receipt's.
            PartReplacedError: A part was uploaded again after its receipt was issued.
            UploadNotFoundError: It was aborted, or another object took its place.
            UploadError: Two receipts of one part, more bytes or parts than were expected, or it
                was completed with other parts.
            TypeError, ValueError: *size* and *parts* contradict each other, or are no counts.
            SourceError: The bucket did not answer.

        Cost: one request for each 1,000 parts, and three.
        """
        opened = decrypt_upload_token(token)
        return await self._completion.run(
            key, upload_id, opened, receipts, legacy_hmac, size=size, parts=parts
        )

    async def abort_upload(self, key: str, upload_id: str) -> None:
        """Give an upload up; its parts go. One that is gone already is no error."""
        await self._calls.abort_upload(key, upload_id)

    async def open(self, key: str, user: Any) -> LenzeyeReader:
        """Open an object of the user's, of any of the layout's forms.

        Raises:
            ObjectNotFoundError: No such object.
            FormatError: Not of this layout.
            UploadError: Its completion was interrupted: complete it again.
            KeyNotFoundError: Another user's.
            InvalidTagError, ConfigurationError, MetastoreError: As for get_user_key.

        Cost: HeadObject and one query; another small request where the iv is in the body.
        """
        head = await self._calls.head(key)
        found = self._layout.read(head.metadata)
        if found is None:
            raise FormatError("the object's metadata names no key version")
        user_key = await get_user_key_async(user, found.key_version, table=self._table)
        return await open_reader(self._calls, key, head, found, user_key, self._layout)

    async def download(self, key: str, user: Any) -> AsyncGenerator[bytes, None]:
        """The verified plaintext of an object, piece by piece: :meth:`open`, then ``stream``."""
        reader = await self.open(key, user)
        async with aclosing(reader.stream()) as pieces:
            async for piece in pieces:
                yield piece

    async def scan(
        self, prefix: str = "", *, start_after: str | None = None
    ) -> AsyncGenerator[LenzeyeObject, None]:
        """The objects of Lenzeye's layout below *prefix*, by key; others are passed over.

        Cost: a HeadObject for every object below *prefix*, 16 at a time.
        """
        batch: list[Listed] = []
        pages: Any = self._calls.list(prefix, start_after=start_after)
        async with aclosing(pages):
            async for listed in pages:
                batch.append(listed)
                if len(batch) == _HEADS:
                    for found in await self._heads(batch):
                        yield found
                    batch.clear()
        for found in await self._heads(batch):
            yield found

    async def _heads(self, batch: list[Listed]) -> list[LenzeyeObject]:
        found: dict[str, LenzeyeObject] = {}

        async def look(listed: Listed) -> None:
            described = await self._describe(listed)
            if described is not None:
                found[listed.key] = described

        async with anyio.create_task_group() as group:
            for listed in batch:
                group.start_soon(look, listed)
        return [found[listed.key] for listed in batch if listed.key in found]

    async def _describe(self, listed: Listed) -> LenzeyeObject | None:
        try:
            head = await self._calls.head(listed.key)
        except ObjectNotFoundError:  # deleted since it was listed
            return None
        version = head.metadata.get(self._layout.key_version)
        if not version:
            return None
        try:
            read = self._layout.read(head.metadata)
        except FormatError:
            read = None
        return LenzeyeObject(
            key=listed.key,
            size=head.size,
            etag=head.etag,
            modified=listed.modified,
            key_version=version,
            form=None if read is None else read.form,
            metadata=self._layout.others(head.metadata),
        )
