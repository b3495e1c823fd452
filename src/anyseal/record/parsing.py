"""Rows, read: any JSON that is one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from anyseal._ffi import ffi, lib, view
from anyseal.config import ROW_MAX_BYTES
from anyseal.errors import FormatError
from anyseal.hints import foreign, not_record
from anyseal.pages import copied, encoded, fresh
from anyseal.record.fields import BLOB_OVERHEAD, WRAPPED_BYTES, json_string

__all__ = ["ParsedRow", "parse_row"]

KEY_ID_MAX_BYTES = 1 << 16

_BYTES = (bytes, bytearray, memoryview)
_ESCAPED = 1 << 62


@dataclass(slots=True, kw_only=True, eq=False)
class ParsedRow:
    """What a row says. Nothing of it is verified. Not to be changed."""

    key_id: str
    """The intermediate key that wraps the data row key."""
    created: int
    """The intermediate key's, in seconds since the epoch."""
    drk_created: int
    wrapped: bytes = field(repr=False)
    """The data row key."""
    size: int
    """Plaintext bytes."""
    data: Any = field(repr=False)
    """A C pointer to ``data_len`` characters of base64."""
    data_len: int = field(repr=False)
    owner: Any = field(repr=False)
    """Keeps what ``data`` points to."""


def _foreign(row: Any) -> str:
    return foreign(row if isinstance(row, str) else memoryview(row).cast("B"), but=b"{")


def parse_row(row: Any, pause: Callable[[], object] = int) -> ParsedRow:
    """Read any JSON that is a row: in any order, spaced, escaped, with unknown members.

    Of two members of one name the last counts. ``Revoked`` means nothing in a row. Nesting is
    bounded to 64 levels. A row that may change is copied.

    Args:
        row: ``str`` or bytes-like, UTF-8.
        pause: Called between the steps in which a large row is read that is not ASCII.

    Raises:
        FormatError: Not JSON, or not a row.

    Cost: one pass without the GIL; copies nothing but the short fields, and base64 with escapes.
    """
    if isinstance(row, str):
        if row.isascii():
            source, length = lib.anyseal_text(id(row)), len(row)
        else:
            try:
                row = encoded(row, pause)
            except UnicodeEncodeError:
                raise FormatError("the row is not valid Unicode") from None
            source, length = view(row), len(row)
    else:
        if not isinstance(row, _BYTES):
            raise not_record(row)
        row = copied(row)  # as it may change
        source = view(row, "row")
        length = len(source)
    numbers = memoryview(bytearray(64)).cast("q")
    if lib.anyseal_row_parse(ffi.from_buffer("int64_t[]", numbers), source, length):
        raise FormatError(f"the row is not JSON{_foreign(row)}")
    drk_created, created, wrapped_at, wrapped_len, id_at, id_len, data_at, data_len = numbers
    if drk_created < 0:
        raise FormatError("the row lacks a usable Key.Created")
    if created < 0:
        raise FormatError("the row lacks a usable Key.ParentKeyMeta.Created")
    if id_at < 0 or id_len & ~_ESCAPED > KEY_ID_MAX_BYTES:
        raise FormatError("the row lacks a usable Key.ParentKeyMeta.KeyId")
    if wrapped_at < 0 or wrapped_len & ~_ESCAPED > KEY_ID_MAX_BYTES:
        raise FormatError("the row lacks a usable Key.Key")
    if data_at < 0:
        raise FormatError("the row lacks a usable Data")
    owner: Any = (row, source)
    data = source + data_at
    if data_len & _ESCAPED:
        owner = _resolved(data, data_len & ~_ESCAPED, "Data")
        data, data_len = view(owner), len(owner)
    blob = lib.anyseal_base64_bytes(data, data_len)
    if blob < BLOB_OVERHEAD or blob - BLOB_OVERHEAD > ROW_MAX_BYTES:
        raise FormatError("Data is not base64 of a possible length")
    return ParsedRow(
        key_id=_key_id(source + id_at, id_len),
        created=created,
        drk_created=drk_created,
        wrapped=_wrapped(source + wrapped_at, wrapped_len),
        size=blob - BLOB_OVERHEAD,
        data=data,
        data_len=data_len,
        owner=owner,
    )


def _resolved(at: Any, length: int, name: str) -> bytes:
    """The base64 in a JSON string with escapes. Garbage costs no memory: it is counted first."""
    needed = lib.anyseal_json_base64(ffi.NULL, length, at, length)
    if needed < 2:  # CPython shares the bytes objects of 0 and 1 bytes
        raise FormatError(f"{name} is not base64")
    out = fresh(needed)
    if lib.anyseal_json_base64(out, needed, at, length) != needed:
        raise FormatError(f"{name} is not base64")
    return out


def _key_id(at: Any, length: int) -> str:
    raw = bytes(ffi.buffer(at, length & ~_ESCAPED))
    text = raw.decode()
    if length & _ESCAPED:
        text = json.loads(f'"{text}"')
        json_string(text)  # refuses lone surrogates
    return text


def _wrapped(at: Any, length: int) -> bytes:
    if length & _ESCAPED:
        at = _resolved(at, length & ~_ESCAPED, "Key.Key")
        length = len(at)
    out = bytes(WRAPPED_BYTES)
    if lib.anyseal_base64_decode(out, WRAPPED_BYTES, at, length):
        raise FormatError("Key.Key is not base64 of a wrapped key")
    return out
