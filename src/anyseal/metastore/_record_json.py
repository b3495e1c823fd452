"""The JSON of a key record, as the metastores keep it. Pure, no I/O."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from anyseal.errors import FormatError
from anyseal.ports import KeyRecord

__all__ = ["decode_key_record", "encode_key_record"]

_MAX_CHARS = 1 << 20
"""Far above any real record (a few KiB), far below what would keep a thread busy."""


def encode_key_record(record: KeyRecord) -> str:
    """*record* as ``[Revoked,]Created,Key[,ParentKeyMeta]``; the id is the row's key."""
    fields: dict[str, Any] = {"Revoked": True} if record.revoked else {}
    fields["Created"] = record.created
    fields["Key"] = base64.b64encode(record.key).decode()
    if record.parent_id is not None:
        fields["ParentKeyMeta"] = {"KeyId": record.parent_id, "Created": record.parent_created}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _invalid(key_id: str, created: int, why: str) -> FormatError:
    return FormatError(f"key record {key_id!r} of {created}: {why}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def decode_key_record(key_id: str, created: int, stored: str | bytes | dict[str, Any]) -> KeyRecord:
    """The record that the row (*key_id*, *created*) holds.

    Args:
        stored: JSON, or what parsing it gives. Unknown fields and any order are accepted.

    Raises:
        FormatError: Not such a record, or of another time than its row says.
    """
    fields: Any = stored
    if not isinstance(stored, dict):
        if len(stored) > _MAX_CHARS:
            raise _invalid(key_id, created, "far too long")
        try:
            fields = json.loads(stored)
        except (ValueError, RecursionError):
            raise _invalid(key_id, created, "not JSON") from None
    if not isinstance(fields, dict):
        raise _invalid(key_id, created, "not a JSON object")
    if not _is_int(fields.get("Created")) or fields["Created"] != created:
        raise _invalid(key_id, created, "its Created is not the row's")
    revoked = fields.get("Revoked")
    if revoked is not None and not isinstance(revoked, bool):
        raise _invalid(key_id, created, "Revoked is not a boolean")
    encoded = fields.get("Key")
    try:
        if not isinstance(encoded, str):
            raise TypeError
        key = base64.b64decode(encoded.encode("ascii"), validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise _invalid(key_id, created, "Key is not base64") from None
    parent = fields.get("ParentKeyMeta")
    if parent is None:
        return KeyRecord(id=key_id, created=created, key=key, revoked=bool(revoked))
    if (
        not isinstance(parent, dict)
        or not isinstance(parent.get("KeyId"), str)
        or not _is_int(parent.get("Created"))
    ):
        raise _invalid(key_id, created, "ParentKeyMeta is malformed")
    return KeyRecord(
        id=key_id,
        created=created,
        key=key,
        revoked=bool(revoked),
        parent_id=parent["KeyId"],
        parent_created=parent["Created"],
    )
