"""Rows, written: one C call each."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from anyseal._ffi import lib, raise_for, view
from anyseal.config import ROW_MAX_BYTES
from anyseal.pages import decoded, fresh, fresh_text
from anyseal.record import software
from anyseal.record.fields import check_time
from anyseal.record.row_key import RowKey

__all__ = ["seal_row", "seal_row_text"]

_row_seal, _row_seal_text = lib.anyseal_row_seal, lib.anyseal_row_seal_text


def seal_row(data: Any, row_key: RowKey, created: int | None = None) -> bytes:
    """Seal *data* as a row under *row_key*.

    Args:
        data: Bytes-like, 0 to 2**31 - 32 bytes. Not modified.
        created: When the data row key is made, in seconds since the epoch. Default: now.

    Returns:
        The row: ASCII but for what the key's id holds.

    Raises:
        FormatError: *created* is not a time.
        KeyUseError: The key is wiped.
        ValueError: *data* is too long.

    Cost: one C call; keeps the GIL under 16 KiB.
    """
    size = len(data) if type(data) is bytes else len(view(data))
    length = row_key._fixed + (size + 30) // 3 * 4
    if created is None:
        created = -1
    else:
        length += _extra_digits(created)
    out = fresh(length) if size <= ROW_MAX_BYTES else b""
    source = data if type(data) is bytes else view(data)
    code = _row_seal(out, length, source, size, created, row_key._block)
    if code:
        source = None
        return _seal_otherwise(code, data, size, row_key, created)
    return out


def seal_row_text(
    data: Any, row_key: RowKey, created: int | None = None, pause: Callable[[], object] = int
) -> str:
    """:func:`seal_row`, as a ``str``; of what takes long, in steps with *pause* between them."""
    if row_key._fixed != row_key._fixed_chars:  # the key's id is not ASCII
        return decoded(seal_row(data, row_key, created), pause)
    size = len(data) if type(data) is bytes else len(view(data))
    length = row_key._fixed + (size + 30) // 3 * 4
    if created is None:
        created = -1
    else:
        length += _extra_digits(created)
    out = fresh_text(length) if size <= ROW_MAX_BYTES else ""
    source = data if type(data) is bytes else view(data)
    code = _row_seal_text(id(out), source, size, created, row_key._block)
    if code:
        source = None
        return decoded(_seal_otherwise(code, data, size, row_key, created), pause)
    return out


def _extra_digits(created: int) -> int:
    """How many digits more than ten *created* has."""
    return len(str(check_time(created, "created"))) - 10


def _seal_otherwise(code: int, data: Any, size: int, row_key: RowKey, created: int) -> bytes:
    """What the C call did not seal: too much, or no AES in the CPU, or a clock far from today."""
    if size > ROW_MAX_BYTES:
        raise ValueError("a row holds at most 2**31 - 32 bytes: seal an object instead")
    if code == lib.ANYSEAL_ERROR_SUITE:
        return software.seal_row(bytes(memoryview(data)), row_key, created)
    if code == lib.ANYSEAL_ERROR_ARGUMENT and created < 0:  # the time has not ten digits
        return seal_row(data, row_key, int(time.time()))
    return raise_for(code)
