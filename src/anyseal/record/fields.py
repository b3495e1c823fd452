"""What rows and key records have in common: times, ids and the size of a wrapped key."""

from __future__ import annotations

import json
from typing import Any

from anyseal.errors import FormatError

__all__ = ["BLOB_OVERHEAD", "CREATED_MAX", "WRAPPED_BYTES", "check_time", "json_string"]

CREATED_MAX = 1 << 53
"""Seconds, and what every JSON reader keeps exactly."""

WRAPPED_BYTES = 60
"""A key under another key: the key, tag and nonce."""

BLOB_OVERHEAD = 28
"""Bytes of tag and nonce."""


def check_time(value: Any, name: str) -> int:
    """*value* if it is a time. Raises FormatError that calls it *name*."""
    if type(value) is not int or not 0 <= value <= CREATED_MAX:
        raise FormatError(f"{name} must be a whole number of seconds, 0 to 2**53")
    return value


def json_string(text: str) -> str:
    """*text* as a JSON string with no more escapes than needed. Raises FormatError."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FormatError("a key id is not valid Unicode") from None
    return json.dumps(text, ensure_ascii=False)
