"""Keys under keys: wrapping them, and the records of wrapped keys that metastores keep."""

from __future__ import annotations

import binascii
import json
from dataclasses import dataclass, field
from typing import Any

from anyseal._ffi import lib, raise_for, view, view_writable
from anyseal.errors import FormatError
from anyseal.keys import Slot
from anyseal.pages import copied
from anyseal.record import software
from anyseal.record.fields import WRAPPED_BYTES, check_time, json_string

__all__ = ["KeyRecord", "decode_key_record", "encode_key_record", "unwrap_key", "wrap_key"]

KEY_RECORD_MAX_BYTES = 1 << 20


def wrap_key(inner: Slot, outer: Slot) -> bytes:
    """*inner* wrapped under *outer*, as a key record holds it: 60 bytes.

    Raises:
        KeyUseError: One of the two is wiped.
    """
    out = bytes(WRAPPED_BYTES)
    code = lib.anyseal_row_wrap(out, inner.handle, outer.handle)
    if code == lib.ANYSEAL_ERROR_SUITE:
        return software.seal_blob(inner.export(), outer.export())
    if code:
        raise_for(code)
    return out


def unwrap_key(wrapped: bytes, outer: Slot) -> Slot:
    """The key in *wrapped*.

    Raises:
        DecryptionError: It does not verify under *outer*.
        FormatError: Not 60 bytes.
        KeyUseError: *outer* is wiped.
    """
    if len(wrapped) != WRAPPED_BYTES:
        raise FormatError(f"a wrapped key has {WRAPPED_BYTES} bytes, not {len(wrapped)}")
    handle = lib.anyseal_row_unwrap(view(wrapped, "wrapped"), WRAPPED_BYTES, outer.handle)
    if handle == lib.ANYSEAL_ERROR_SUITE:
        inner = bytearray(software.open_blob(bytes(wrapped), outer.export()))
        try:
            return Slot(lib.anyseal_key_import(view_writable(inner)))
        finally:
            lib.anyseal_wipe(view_writable(inner), len(inner))
    return Slot(handle)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """A wrapped system or intermediate key as the metastore keeps it."""

    id: str
    created: int
    """Seconds since the epoch."""
    key: bytes = field(repr=False)
    """Wrapped: a system key by the KMS, an intermediate key by its system key."""
    revoked: bool = False
    parent_id: str | None = None
    """The system key that wraps an intermediate key; None for a system key."""
    parent_created: int | None = None


def encode_key_record(record: KeyRecord) -> str:
    """*record* as the JSON that a metastore keeps, without its id.

    Raises:
        FormatError: A time is not one, or a parent is half given.
    """
    if (record.parent_id is None) != (record.parent_created is None):
        raise FormatError("a parent has both an id and a time")
    fields = [f'"Created":{check_time(record.created, "created")}']
    if record.revoked:
        fields.insert(0, '"Revoked":true')
    fields.append(f'"Key":"{binascii.b2a_base64(record.key, newline=False).decode()}"')
    if record.parent_id is not None:
        created = check_time(record.parent_created, "parent_created")
        fields.append(
            f'"ParentKeyMeta":{{"KeyId":{json_string(record.parent_id)},"Created":{created}}}'
        )
    return "{" + ",".join(fields) + "}"


def decode_key_record(id: str, created: int, record: Any) -> KeyRecord:
    """The key that a metastore keeps under *id* and *created*.

    Args:
        record: Its JSON as ``str`` or bytes-like, or parsed already: a ``dict``.

    Raises:
        FormatError: Not a key record, or one of another time.
    """
    fields = record if isinstance(record, dict) else _json(record)
    if not isinstance(fields, dict):
        raise FormatError("the key record is not a JSON object")
    if check_time(fields.get("Created"), "Created") != created:
        raise FormatError("the key record's Created is not that of its row")
    revoked = fields.get("Revoked")
    if revoked is not None and type(revoked) is not bool:
        raise FormatError("Revoked is neither true nor false")
    encoded = fields.get("Key")
    if not isinstance(encoded, str) or not encoded or not encoded.isascii():
        raise FormatError("the key record lacks a usable Key")
    characters = encoded.encode()
    size = lib.anyseal_base64_bytes(characters, len(characters))
    key = bytearray(max(size, 1))
    if size < 1 or lib.anyseal_base64_decode(view_writable(key), size, characters, len(characters)):
        raise FormatError("Key is not base64")
    parent_id = parent_created = None
    parent = fields.get("ParentKeyMeta")
    if parent is not None:
        parent_id = parent.get("KeyId") if isinstance(parent, dict) else None
        if not isinstance(parent_id, str):
            raise FormatError("the key record lacks a usable ParentKeyMeta.KeyId")
        json_string(parent_id)
        parent_created = check_time(parent.get("Created"), "ParentKeyMeta.Created")
        if size != WRAPPED_BYTES:
            raise FormatError("Key is not a wrapped key")
    return KeyRecord(
        id=id,
        created=created,
        key=bytes(key),
        revoked=bool(revoked),
        parent_id=parent_id,
        parent_created=parent_created,
    )


def _json(record: Any) -> Any:
    """The JSON of a key record: small, so the standard library's reader will do."""
    text = record if isinstance(record, str) else copied(record, "record")
    if len(text) > KEY_RECORD_MAX_BYTES:
        raise FormatError("the key record is too long")
    try:
        if not isinstance(text, str):
            text = text.decode()
        return json.loads(text)
    except (ValueError, RecursionError):
        raise FormatError("the key record is not JSON") from None
