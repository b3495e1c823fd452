"""What holds for every metastore."""

from __future__ import annotations

from anyseal.errors import FormatError, MetastoreError
from anyseal.ports import KeyRecord
from anyseal.record import decode_key_record

__all__ = [
    "MAX_CREATED",
    "NO_TABLE",
    "RECORD_MAX_BYTES",
    "check_storable",
    "decode",
    "is_key_id",
    "is_time",
]

MAX_CREATED = 253_402_300_799
"""The last second of the year 9999: no database can say a later one."""

RECORD_MAX_BYTES = 1 << 17
"""The longest key record that is looked at: twice what holds the longest wrapped key."""

_GUARD_PREFIX = "__asherah_internal_config_drift_guard_v1__:"
"""Peers may keep a row with such an id in the same table. It is not a key, and not ours."""


NO_TABLE = "; make the key table with `anyseal keys init`, or create_table()"
"""The remedy in the error of a metastore without one."""


def is_key_id(key_id: object) -> bool:
    """Whether a row with this id can be a key. A sealed record may name anything."""
    if (
        not isinstance(key_id, str)
        or not key_id
        or "\0" in key_id
        or key_id.startswith(_GUARD_PREFIX)
    ):
        return False
    try:
        key_id.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def is_time(created: int) -> bool:
    """Whether a row can have this time. A sealed record may name any number."""
    return 0 <= created <= MAX_CREATED


def check_storable(record: KeyRecord) -> None:
    """Refuse what no metastore could give back.

    Raises:
        MetastoreError: Not retryable.
    """
    if not is_key_id(record.id):
        raise MetastoreError(f"store: {record.id!r} cannot be the id of a key", retryable=False)
    if not is_time(record.created):
        raise MetastoreError(f"store: {record.created} is not a time", retryable=False)
    if (record.parent_id is None) != (record.parent_created is None):
        raise MetastoreError("store: a parent has both an id and a time", retryable=False)


def decode(key_id: str, created: int, stored: object) -> KeyRecord:
    """The record in the row (*key_id*, *created*).

    Raises:
        FormatError: It is none. Names the row.
    """
    try:
        if not isinstance(stored, (str, bytes, bytearray, memoryview, dict)):
            raise FormatError(f"the key record is of type {type(stored).__name__}")
        if not isinstance(stored, dict) and len(stored) > RECORD_MAX_BYTES:
            raise FormatError("the key record is too long")
        return decode_key_record(key_id, created, stored)
    except FormatError as exc:
        raise FormatError(f"key record {key_id!r} of {created}: {exc}") from None
