"""Rows, opened: one C call each where the layout is the usual one."""

from __future__ import annotations

from typing import Any

from anyseal._ffi import ffi, lib, raise_for, view, view_writable
from anyseal.errors import FormatError, WrongKeyError
from anyseal.hints import not_record
from anyseal.pages import fresh
from anyseal.record import software
from anyseal.record.fields import BLOB_OVERHEAD
from anyseal.record.parsing import ParsedRow, parse_row
from anyseal.record.row_key import RowKey

__all__ = ["middle_of", "open_parsed", "open_row"]

_BYTES = (bytes, bytearray, memoryview)
_MIDDLE_AT, _MIDDLE_MAX = 116, 8192

_row_open, _row_open_text = lib.anyseal_row_open, lib.anyseal_row_open_text


def open_row(row: Any, row_key: RowKey) -> bytes | None:
    """Open *row* if it has the very layout that :func:`seal_row` writes under *row_key*.

    Args:
        row: ``str`` or bytes-like.

    Returns:
        The plaintext, or None if the row has another layout or names another key: it may still be
        a row, which :func:`parse_row` finds out.

    Raises:
        DecryptionError: It does not verify.
        KeyUseError: The key is wiped.

    Cost: one C call; keeps the GIL under 16 KiB.
    """
    source: Any
    if type(row) is str:
        size = (len(row) - row_key._fixed_chars >> 2) * 3 - BLOB_OVERHEAD
        if size > 3:  # CPython shares the bytes objects of 0 and 1 bytes
            if row[-3] == "=":
                size -= 2 if row[-4] == "=" else 1
            out = fresh(size)
            code = _row_open_text(out, size, id(row), row_key._block)
            if not code:
                return out
            return _open_otherwise(code, row, row_key)
        source = row.encode(errors="replace")
    elif type(row) is bytes:
        source = row
    elif isinstance(row, str):
        return open_row(str.__str__(row), row_key)
    elif isinstance(row, _BYTES):
        source = view(row, "row")
    else:
        raise not_record(row)
    length = len(source)
    size = (length - row_key._fixed >> 2) * 3 - BLOB_OVERHEAD
    if size < 0:
        return None
    if source[length - 3] == 61:  # "="
        size -= 2 if source[length - 4] == 61 else 1
    if size > 1:
        out = fresh(size)
        code = _row_open(out, size, source, length, row_key._block)
        if not code:
            return out
    elif size >= 0:
        tiny = view_writable(bytearray(2))
        code = _row_open(tiny, size, source, length, row_key._block)
        if not code:
            return bytes(ffi.buffer(tiny, size))
    else:
        return None
    source = None  # so that no view is in the frame of an error
    return _open_otherwise(code, row, row_key)


def middle_of(row: str | bytes) -> str | bytes | None:
    """What tells the rows of one key from those of another, cut out unread.

    Equal to :attr:`RowKey.middle` (or its text) in rows of the common layout, so that a dict of
    keys finds the one to give to :func:`open_row`, which compares it exactly. Anything or None in
    other rows.
    """
    if isinstance(row, str):
        end = row.find('"Data":"', _MIDDLE_AT, _MIDDLE_AT + _MIDDLE_MAX)
    else:
        end = row.find(b'"Data":"', _MIDDLE_AT, _MIDDLE_AT + _MIDDLE_MAX)
    return row[_MIDDLE_AT : end + 8] if end > 0 else None


def _open_otherwise(code: int, row: Any, row_key: RowKey) -> bytes | None:
    """What the C call did not open: another layout, or no AES in the CPU, or worse."""
    if code == lib.ANYSEAL_ERROR_FORMAT:
        return None
    if code == lib.ANYSEAL_ERROR_SUITE:
        parsed = parse_row(row)
        if parsed.key_id != row_key.id or parsed.created != row_key.created:
            return None
        return software.open_row(parsed, row_key)
    return raise_for(code)


def open_parsed(parsed: ParsedRow, row_key: RowKey) -> bytes:
    """Open what :func:`parse_row` found, under the key that it names.

    Raises:
        DecryptionError: It does not verify.
        FormatError: Its data is not base64.
        KeyUseError: The key is wiped.
        WrongKeyError: The row names another key.
    """
    if parsed.key_id != row_key.id or parsed.created != row_key.created:
        raise WrongKeyError("the row names another key")
    size = parsed.size
    out: Any = fresh(size) if size > 1 else view_writable(bytearray(2))
    code = lib.anyseal_row_open_parts(
        out, size, parsed.data, parsed.data_len, parsed.wrapped, row_key.slot.handle
    )
    if code:
        if code == lib.ANYSEAL_ERROR_FORMAT:
            raise FormatError("Data is not base64")
        if code == lib.ANYSEAL_ERROR_SUITE:
            return software.open_row(parsed, row_key)
        raise_for(code)
    return out if size > 1 else bytes(ffi.buffer(out, size))
