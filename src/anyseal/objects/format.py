"""Header and trailer of an object, and the keys behind them. Pure: no I/O (docs/format.md, 4)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Self

from anyseal._ffi import lib
from anyseal.config import CONTEXT_MAX_BYTES
from anyseal.errors import ConfigurationError, DecryptionError, FormatError
from anyseal.keys import Key, Slot
from anyseal.objects.geometry import (
    SALT_BYTES,
    SEGMENTS_MAX,
    TRAILER_FIXED_BYTES,
    Geometry,
)
from anyseal.suites import Suite, suite_named
from anyseal.value import unwrap, wrap

__all__ = ["Header", "ObjectInfo", "ObjectKeys", "Trailer", "inspect_object"]

MAGIC = b"ANYSEAL\x01"
FIXED_BYTES = 52
COMMITMENT_BYTES = 32
CHUNK_LOG2_MIN, CHUNK_LOG2_MAX = 12, 24
SEGMENT_MAX_BYTES = 1 << 36
HEADER_MAX_BYTES = FIXED_BYTES + 116 + COMMITMENT_BYTES


def _equal(a: bytes, b: bytes) -> bool:
    """Constant-time comparison."""
    return len(a) == len(b) and bool(lib.anyseal_equal(a, b, len(a)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """What the header of a sealed object says. Nothing of it is verified before opening."""

    suite: Suite
    key_id: bytes
    chunk_bytes: int
    segment_bytes: int
    header_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The header's fields."""

    suite: Suite
    chunk_log2: int
    segment_bytes: int
    object_salt: bytes
    wrapped_key: bytes
    commitment: bytes

    @staticmethod
    def fixed(suite: Suite, chunk_log2: int, segment_bytes: int, object_salt: bytes) -> bytes:
        """The first 52 bytes: everything that steers parsing."""
        return b"".join(
            (MAGIC, bytes((suite, chunk_log2, 0, 0)), segment_bytes.to_bytes(8), object_salt)
        )

    def to_bytes(self) -> bytes:
        """The whole header."""
        return self.fixed_bytes + self.wrapped_key + self.commitment

    @property
    def fixed_bytes(self) -> bytes:
        """The first 52 bytes."""
        return self.fixed(self.suite, self.chunk_log2, self.segment_bytes, self.object_salt)

    @property
    def key_id(self) -> bytes:
        """The key that the data key is wrapped under."""
        return self.wrapped_key[4:20]

    @property
    def geometry(self) -> Geometry:
        """The arithmetic of this object."""
        return Geometry(
            chunk_bytes=1 << self.chunk_log2,
            segment_bytes=self.segment_bytes,
            tag_bytes=self.suite.tag_bytes,
            header_bytes=FIXED_BYTES + self.suite.wrapped_bytes + COMMITMENT_BYTES,
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a header from the first bytes of an object.

        Raises:
            FormatError: Not a header, cut short, or with sizes out of bounds.
        """
        if data[:7] != MAGIC[:7]:
            raise FormatError("not a sealed object")
        if len(data) < FIXED_BYTES:
            raise FormatError("cut short in the header")
        if data[:8] != MAGIC:
            raise FormatError("an object of a version this one does not know")
        number, chunk_log2 = data[8], data[9]
        if number not in (1, 2, 3):
            raise FormatError("a suite this version does not know")
        suite = Suite(number)
        segment_bytes = int.from_bytes(data[12:20])
        if data[10:12] != b"\0\0" or not CHUNK_LOG2_MIN <= chunk_log2 <= CHUNK_LOG2_MAX:
            raise FormatError("flags or a chunk size this version does not know")
        if segment_bytes % (1 << chunk_log2) or not 0 < segment_bytes <= SEGMENT_MAX_BYTES:
            raise FormatError("a segment size out of bounds")
        end = FIXED_BYTES + suite.wrapped_bytes
        if len(data) < end + COMMITMENT_BYTES:
            raise FormatError("cut short in the header")
        wrapped = data[FIXED_BYTES:end]
        if wrapped[:4] != bytes((0xA5, 1, 1, number)) or any(wrapped[20:28]):
            raise FormatError("not a wrapped key of the object's suite")
        return cls(
            suite=suite,
            chunk_log2=chunk_log2,
            segment_bytes=segment_bytes,
            object_salt=data[20:FIXED_BYTES],
            wrapped_key=wrapped,
            commitment=data[end : end + COMMITMENT_BYTES],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trailer:
    """The trailer's fields, checked against the object's size but not yet its MAC."""

    salts: bytes
    size: int
    """Plaintext bytes."""
    mac: bytes

    @property
    def signed_bytes(self) -> bytes:
        """What the MAC covers."""
        count = len(self.salts) // SALT_BYTES
        return b"".join((self.salts, self.size.to_bytes(8), count.to_bytes(4)))

    @staticmethod
    def length(tail: bytes, geometry: Geometry, sealed_size: int) -> int:
        """The trailer's length, from the last 44 bytes of an object of *sealed_size* bytes.

        Raises:
            FormatError: Its counts contradict the object's size.
        """
        if len(tail) < TRAILER_FIXED_BYTES:
            raise FormatError("cut short in the trailer")
        size, count = int.from_bytes(tail[-44:-36]), int.from_bytes(tail[-36:-32])
        if (
            count > SEGMENTS_MAX
            or count != geometry.segments(size)
            or geometry.sealed_size(size) != sealed_size
        ):
            raise FormatError("the object's length contradicts its trailer")
        return geometry.trailer_bytes(count)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a trailer whose length is known."""
        return cls(salts=data[:-44], size=int.from_bytes(data[-44:-36]), mac=data[-32:])


class ObjectKeys:
    """The data key of one object and what is derived from it."""

    __slots__ = ("_data_key", "_hash", "geometry", "header")

    def __init__(self, header: Header, data_key: Slot, parse_hash: bytes) -> None:
        self.header = header
        self.geometry = header.geometry
        self._data_key = data_key
        self._hash = parse_hash

    @staticmethod
    def _parse_hash(fixed: bytes, context: bytes) -> bytes:
        if len(context) > CONTEXT_MAX_BYTES:
            raise ValueError(f"context is longer than {CONTEXT_MAX_BYTES:,} bytes")
        return hashlib.sha256(fixed + len(context).to_bytes(8) + context).digest()

    @classmethod
    def create(
        cls,
        key: Key,
        *,
        context: bytes,
        suite: Suite | str | None,
        chunk_bytes: int,
        segment_bytes: int,
        object_salt: bytes,
    ) -> Self:
        """A fresh data key, wrapped under *key*.

        Raises:
            ConfigurationError: A size is out of bounds, or no such suite.
        """
        suite = suite_named(suite)
        chunk_log2 = chunk_bytes.bit_length() - 1
        if chunk_bytes != 1 << max(chunk_log2, 0) or not 12 <= chunk_log2 <= 24:
            raise ConfigurationError("chunk_size must be a power of two from 4 KiB to 16 MiB")
        if segment_bytes % chunk_bytes or not chunk_bytes <= segment_bytes <= SEGMENT_MAX_BYTES:
            raise ConfigurationError("segment_size must be a multiple of chunk_size, to 64 GiB")
        fixed = Header.fixed(suite, chunk_log2, segment_bytes, object_salt)
        parse_hash = cls._parse_hash(fixed, context)
        data_key = Slot.random()
        header = Header(
            suite=suite,
            chunk_log2=chunk_log2,
            segment_bytes=segment_bytes,
            object_salt=object_salt,
            wrapped_key=wrap(data_key, key, suite, object_salt),
            commitment=data_key.derive_public(b"commit", parse_hash),
        )
        return cls(header, data_key, parse_hash)

    @classmethod
    def unlock(cls, header: Header, key: Key, context: bytes) -> Self:
        """The keys of an existing object.

        Raises:
            DecryptionError: The data key does not unwrap, or the header or the context is not the
                one it was sealed with.
        """
        suite_named(header.suite)
        return cls.resume(header, key, cls._parse_hash(header.fixed_bytes, context))

    @classmethod
    def resume(cls, header: Header, key: Key, parse_hash: bytes) -> Self:
        """The keys of an existing object whose H is known from an authentic token.

        Raises:
            DecryptionError: The data key does not unwrap, or the header is not the one it was
                sealed with.
        """
        suite_named(header.suite)
        data_key = unwrap(header.wrapped_key, key, header.suite, header.object_salt)
        if not _equal(data_key.derive_public(b"commit", parse_hash), header.commitment):
            raise DecryptionError
        return cls(header, data_key, parse_hash)

    @property
    def parse_hash(self) -> bytes:
        """H of docs/format.md: the hash of what steers parsing, and of the context."""
        return self._hash

    def segment_key(self, segment: int, salt: bytes) -> Slot:
        """The key of one segment with this salt."""
        return Slot(lib.anyseal_segment_key(self._hash, segment, salt, self._data_key.handle))

    def _mac(self, purpose: bytes, message: bytes) -> bytes:
        key = self._data_key.derive(purpose, self._hash)
        try:
            return key.mac(message)
        finally:
            key.release()

    def trailer(self, salts: bytes, size: int) -> bytes:
        """The trailer of an object of *size* plaintext bytes with these salts."""
        signed = Trailer(salts=salts, size=size, mac=b"").signed_bytes
        return signed + self._mac(b"trailer", signed)

    def check_trailer(self, trailer: Trailer) -> None:
        """Verify the trailer's MAC. Raises DecryptionError."""
        if not _equal(self._mac(b"trailer", trailer.signed_bytes), trailer.mac):
            raise DecryptionError

    def receipt_mac(self, message: bytes) -> bytes:
        """The MAC of a receipt of a part of this object."""
        return self._mac(b"receipt", message)

    def check_receipt(self, message: bytes, mac: bytes) -> None:
        """Verify a receipt's MAC. Raises DecryptionError."""
        if not _equal(self._mac(b"receipt", message), mac):
            raise DecryptionError

    def resume_mac(self, state: bytes) -> bytes:
        """The MAC of what this machine notes about an unfinished download of the object."""
        key = self._data_key.derive(b"resume", self._hash)
        try:
            return key.mac(state)
        finally:
            key.release()

    def release(self) -> None:
        """Wipe the data key."""
        self._data_key.release()


def inspect_object(head: bytes | bytearray | memoryview) -> ObjectInfo:
    """What the header of a sealed object says, from its first 200 bytes. Nothing is verified.

    Raises:
        FormatError: Not a sealed object.
    """
    header = Header.parse(bytes(memoryview(head).cast("B")[:HEADER_MAX_BYTES]))
    return ObjectInfo(
        suite=header.suite,
        key_id=header.key_id,
        chunk_bytes=1 << header.chunk_log2,
        segment_bytes=header.segment_bytes,
        header_bytes=header.geometry.header_bytes,
    )
