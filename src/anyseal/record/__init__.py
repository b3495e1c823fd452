"""Rows and key records of the Asherah format: bytes to JSON and back. Pure functions.

A row is a record sealed under a data row key (DRK) of its own, which is wrapped by an intermediate
key (IK)::

    {"Key":{"Created":…,"Key":"…","ParentKeyMeta":{"KeyId":"…","Created":…}},"Data":"…"}

Each base64 string holds AES-256-GCM's ciphertext, tag and nonce, in this order. What is written
here is one C call; what was written here is one C call to open; any other JSON that says the same
is read through :func:`parse_row`. Nothing but the two ciphertexts is authenticated: the id and the
times only say which key to try.
"""

from anyseal.record.key_records import (
    KeyRecord,
    decode_key_record,
    encode_key_record,
    unwrap_key,
    wrap_key,
)
from anyseal.record.opening import middle_of, open_parsed, open_row
from anyseal.record.parsing import ParsedRow, parse_row
from anyseal.record.row_key import RowKey
from anyseal.record.sealing import seal_row, seal_row_text

__all__ = [
    "KeyRecord",
    "ParsedRow",
    "RowKey",
    "decode_key_record",
    "encode_key_record",
    "middle_of",
    "open_parsed",
    "open_row",
    "parse_row",
    "seal_row",
    "seal_row_text",
    "unwrap_key",
    "wrap_key",
]
