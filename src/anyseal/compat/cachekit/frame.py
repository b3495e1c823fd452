"""The frame around each entry: ``CK 03 | length of the header u32 | header (JSON) | payload``.

The header is not authenticated as such: what matters of it is bound into the encryption
(:mod:`anyseal.compat.cachekit.sealing`).
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
from dataclasses import dataclass
from typing import Any

from anyseal.compat.cachekit.errors import EnvelopeShapeError

__all__ = ["FILE_HEAD_BYTES", "Metadata", "read", "read_file", "write", "write_file"]

MAGIC = b"CK\x03"
HEAD_BYTES = 7
MAX_HEADER_BYTES = 64 << 10
KNOWN_BYTES = 512
"""Of a header that is remembered."""
FILE_MAGIC = b"CK\x01\x00"
FILE_HEAD_BYTES = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What an entry's header says about its payload."""

    format: str
    compressed: bool = False
    original_type: str | None = None
    encoding: str = "utf-8"
    encrypted: bool = False
    tenant_id: str | None = None
    encryption_algorithm: str | None = None
    key_fingerprint: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """In the order and with the fields that cachekit writes."""
        found: dict[str, Any] = {
            "format": self.format,
            "encoding": self.encoding,
            "compressed": self.compressed,
        }
        if self.original_type is not None:
            found["original_type"] = self.original_type
        if self.encrypted:
            found["encrypted"] = True
            found["tenant_id"] = self.tenant_id
            found["encryption_algorithm"] = self.encryption_algorithm
            found["key_fingerprint"] = self.key_fingerprint
        return found

    @staticmethod
    def from_dict(found: Any) -> Metadata:
        """What a header has. Raises EnvelopeShapeError where a field has another type."""
        if not isinstance(found, dict):
            raise EnvelopeShapeError("the header's metadata is not an object")
        values: dict[str, Any] = {}
        for name in Metadata.__slots__:
            value = found.get(name)
            if value is None:
                continue
            wanted = bool if name in ("compressed", "encrypted") else str
            if not isinstance(value, wanted):
                raise EnvelopeShapeError(f"the header's {name} has another type")
            if isinstance(value, str) and not value.isascii():
                _check_text(name, value)
            values[name] = value
        if "format" not in values:
            raise EnvelopeShapeError("the header names no format")
        return Metadata(**values)


def _check_text(name: str, value: str) -> None:
    """Raises EnvelopeShapeError for what JSON can spell and UTF-8 cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise EnvelopeShapeError(f"the header's {name} is not Unicode") from None


def write(payload: bytes, serializer: str, metadata: Metadata) -> bytes:
    """A frame around *payload*; *serializer* is its name."""
    return b"".join((_head(serializer, metadata), payload))


@functools.lru_cache(256)
def _head(serializer: str, metadata: Metadata) -> bytes:
    """What goes before a payload."""
    header = json.dumps(
        {"s": serializer, "m": metadata.to_dict(), "v": "2.0"}, ensure_ascii=False
    ).encode()
    return b"".join([MAGIC, len(header).to_bytes(4), header])


def read(frame: bytes) -> tuple[bytes, str, Metadata]:
    """Payload, serializer's name and metadata of *frame*, or of the JSON of early releases.

    Raises:
        EnvelopeShapeError: Neither.
    """
    if frame[:1] == b"{":
        return _read_json(frame)
    if frame[:3] != MAGIC or len(frame) < HEAD_BYTES:
        raise EnvelopeShapeError("not a frame of version 3")
    size = int.from_bytes(frame[3:HEAD_BYTES])
    if size > MAX_HEADER_BYTES or size > len(frame) - HEAD_BYTES:
        raise EnvelopeShapeError("the frame's header is cut off, or too long")
    header = bytes(frame[HEAD_BYTES : HEAD_BYTES + size])
    read_header = _known_header if size <= KNOWN_BYTES else _header
    return frame[HEAD_BYTES + size :], *read_header(header)


def _header(data: bytes) -> tuple[str, Metadata]:
    """Serializer's name and metadata in a header. Raises EnvelopeShapeError."""
    header = _json(data)
    name = header.get("s")
    if not isinstance(name, str):
        raise EnvelopeShapeError("the header names no serializer")
    return name, Metadata.from_dict(header.get("m"))


_known_header = functools.lru_cache(256)(_header)
"""The entries of one function and tenant have the same header."""


def _json(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise EnvelopeShapeError("the header is not JSON") from None
    if not isinstance(found, dict):
        raise EnvelopeShapeError("the header is not an object")
    return found


def _read_json(frame: bytes) -> tuple[bytes, str, Metadata]:
    found = _json(frame)
    name, data = found.get("serializer"), found.get("data")
    if not isinstance(name, str) or not isinstance(data, str):
        raise EnvelopeShapeError("not an entry of an early release")
    try:
        payload = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise EnvelopeShapeError("not an entry of an early release") from None
    return payload, name, Metadata.from_dict(found.get("metadata"))


def write_file(entry: bytes, expires_at: int = 0) -> bytes:
    """An entry of the file backend; *expires_at* in seconds since the epoch, 0 means never."""
    return FILE_MAGIC + (0).to_bytes(2) + expires_at.to_bytes(8) + entry


def read_file(content: bytes) -> tuple[bytes, int]:
    """The entry in a file of the file backend, and when it expires.

    Raises:
        EnvelopeShapeError: Not such a file.
    """
    if len(content) < FILE_HEAD_BYTES or content[:6] != FILE_MAGIC + bytes(2):
        raise EnvelopeShapeError("not an entry of the file backend")
    return content[FILE_HEAD_BYTES:], int.from_bytes(content[6:FILE_HEAD_BYTES])
