"""Tokens and receipts of multipart uploads: what stateless workers hand to each other. Pure.

A token carries an upload from worker to worker, sealed under the partition's key; a receipt says
that one part was uploaded, authenticated under the object's key (docs/format.md, section 5).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

from anyseal.errors import ConfigurationError, FormatError
from anyseal.keys import Key
from anyseal.objects.format import Header, ObjectKeys
from anyseal.objects.geometry import SALT_BYTES, SEGMENTS_MAX
from anyseal.objects.parts import PartPlan
from anyseal.value import Kind, from_text, key_id_of, open_token, seal_under, to_text

__all__ = ["TEXT_MAX_CHARS", "Receipt", "Token"]

TEXT_MAX_CHARS = 8192

_HASH_BYTES = 32
_FIELD_MAX_BYTES = 0xFFFF
_RECEIPT_MAGIC = b"\xa5\x01\x03\x00"
_ETAG_AT = 41
_ETAG_MAX_BYTES = 255
_MAC_BYTES = 32


def _fields(data: bytes) -> Iterator[bytes]:
    """Byte strings, each after its length as u16. Raises FormatError unless they fit exactly."""
    at = 0
    while at < len(data):
        stop = at + 2 + int.from_bytes(data[at : at + 2])
        if stop > len(data) or len(data) - at < 2:
            raise FormatError("a token whose fields are cut short")
        yield data[at + 2 : stop]
        at = stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What a worker must know to go on with an upload; never the data key itself."""

    size: int
    """Declared plaintext bytes."""
    parse_hash: bytes = field(repr=False)
    """H: a context is in it, so it is not shown."""
    header: Header = field(repr=False)
    bucket: str
    key: str
    upload_id: str

    @property
    def plan(self) -> PartPlan:
        """The parts of the upload."""
        return PartPlan(geometry=self.header.geometry, size=self.size)

    def seal(self, key: Key, expires_at: float) -> str:
        """The token as text, sealed under *key* until *expires_at* (seconds since the epoch).

        Raises:
            ConfigurationError: Longer than 8,192 characters.
            ValueError: *expires_at* is in the past, or too far away.
        """
        names = (name.encode() for name in (self.bucket, self.key, self.upload_id))
        fields = (self.header.to_bytes(), *names)
        if any(len(one) > _FIELD_MAX_BYTES for one in fields):
            raise ConfigurationError("a name is too long for a token")
        plaintext = b"".join(
            (
                self.size.to_bytes(8),
                self.parse_hash,
                *(len(one).to_bytes(2) + one for one in fields),
            )
        )
        sealed = seal_under(
            plaintext, key, suite=self.header.suite, expires_at=expires_at, kind=Kind.TOKEN
        )
        text = to_text(sealed)
        if len(text) > TEXT_MAX_CHARS:
            raise ConfigurationError("the names are too long for a token")
        return text

    @staticmethod
    def key_id(text: str) -> bytes:
        """The id of the key that *text* is sealed under. Raises FormatError."""
        return key_id_of(from_text(text, TEXT_MAX_CHARS), Kind.TOKEN)

    @classmethod
    def open(cls, text: str, key: Key, *, expired: bool = False) -> Self:
        """What an authentic token says; with *expired* also one whose time is over.

        Raises:
            FormatError: Not a token.
            WrongKeyError: Sealed under another key.
            DecryptionError: It does not verify.
            ExpiredError: Authentic, but expired.
        """
        plaintext = open_token(from_text(text, TEXT_MAX_CHARS), key, expired=expired)
        fixed = 8 + _HASH_BYTES
        fields = list(_fields(plaintext[fixed:]))
        if len(plaintext) < fixed or len(fields) != 4:
            raise FormatError("a token without its fields")
        header = Header.parse(fields[0])
        if len(fields[0]) != header.geometry.header_bytes:
            raise FormatError("a token with more than a header")
        size = int.from_bytes(plaintext[:8])
        if header.geometry.segments(size) > SEGMENTS_MAX:
            raise FormatError("a token of an object with too many segments")
        try:
            bucket, name, upload_id = (one.decode() for one in fields[1:])
        except UnicodeDecodeError:
            raise FormatError("a token whose names are not UTF-8") from None
        return cls(
            size=size,
            parse_hash=plaintext[8:fixed],
            header=header,
            bucket=bucket,
            key=name,
            upload_id=upload_id,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a worker says about the part that it uploaded."""

    index: int
    """The segment, from 0: part number - 1."""
    size: int
    """Plaintext bytes."""
    part_size: int
    """Bytes in the bucket."""
    salt: bytes
    """Of the segment."""
    etag: str
    """The part's entity tag, without quotes."""

    def encode(self, keys: ObjectKeys, upload_id: str) -> str:
        """The receipt as text, authenticated for this object and upload.

        Raises:
            FormatError: The store's entity tag is longer than 255 bytes, or not of Latin-1.
        """
        try:
            etag = self.etag.encode("latin-1")
        except UnicodeEncodeError:
            raise FormatError("an entity tag that no header can hold") from None
        if len(etag) > _ETAG_MAX_BYTES:
            raise FormatError("an entity tag of more than 255 bytes")
        body = b"".join(
            (
                _RECEIPT_MAGIC,
                self.index.to_bytes(4),
                self.size.to_bytes(8),
                self.part_size.to_bytes(8),
                self.salt,
                bytes((len(etag),)),
                etag,
            )
        )
        return to_text(body + keys.receipt_mac(body + upload_id.encode()))

    @classmethod
    def decode(cls, text: str, keys: ObjectKeys, upload_id: str) -> Self:
        """What an authentic receipt of this object and upload says.

        Raises:
            FormatError: Not a receipt.
            DecryptionError: Not of this upload, or altered.
        """
        data = from_text(text, TEXT_MAX_CHARS)
        least = _ETAG_AT + _MAC_BYTES
        if len(data) < least or data[:4] != _RECEIPT_MAGIC or len(data) != least + data[40]:
            raise FormatError("not a receipt")
        body, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
        keys.check_receipt(body + upload_id.encode(), mac)
        return cls(
            index=int.from_bytes(body[4:8]),
            size=int.from_bytes(body[8:16]),
            part_size=int.from_bytes(body[16:24]),
            salt=body[24 : 24 + SALT_BYTES],
            etag=body[_ETAG_AT:].decode("latin-1"),
        )
