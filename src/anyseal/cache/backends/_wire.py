"""The HTTP cache protocol: what client and server send each other. Pure, no I/O.

Every request is ``POST`` with a JSON object below one address, here ``/api``:

====================== =============================================== ==========================
address                request                                         answer
====================== =============================================== ==========================
/api                   ``key``, ``value``; optional ``ttl_ms``,        ``stored``: whether
                       ``if_absent``. Also ``PUT``.
/api/get               ``keys``                                        ``values``: of the first
                                                                       keys, at least one
/api/compare-and-set   ``key``, ``expected``, ``value`` or null;       ``replaced``: whether
                       optional ``ttl_ms``
/api/delete            ``keys``                                        ``deleted``: how many
/api/scan              ``prefix``                                      lines of lists of names,
                                                                       the last one is null
====================== =============================================== ==========================

Values are in base64; null is a value that is not there. An answer of ``get`` that would be too
large stops early: the client asks again for the rest. A scan whose last line is missing broke off.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

__all__ = [
    "ANSWER_MAX_BYTES",
    "BODY_MAX_BYTES",
    "KEYS_MAX",
    "LARGE_BYTES",
    "NAME_MAX",
    "VALUE_MAX_BYTES",
    "dumps",
    "from_base64",
    "loads",
    "names_of",
    "to_base64",
]

KEYS_MAX = 256
NAME_MAX = 200
VALUE_MAX_BYTES = 16 << 20
ANSWER_MAX_BYTES = 32 << 20
"""More than the largest value in base64, and the names around it."""

BODY_MAX_BYTES = 48 << 20
"""A request may carry two values: the expected and the new one."""

LARGE_BYTES = 128 << 10
"""Encoding and decoding more than this belongs into a worker thread."""


def to_base64(value: bytes | None) -> str | None:
    """A value, or null, as it is sent."""
    return None if value is None else base64.b64encode(value).decode("ascii")


def from_base64(text: Any) -> bytes:
    """The value in *text*. Raises ValueError, also for other types than str."""
    if not isinstance(text, str):
        raise ValueError("not base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None


def dumps(message: Mapping[str, Any]) -> bytes:
    """A message as it is sent."""
    return json.dumps(message, separators=(",", ":")).encode("ascii")


def loads(data: bytes | bytearray | memoryview) -> dict[str, Any]:
    """The message in *data*. Raises ValueError."""
    try:
        found = json.loads(bytes(data))
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def names_of(found: Any, most: int) -> list[str]:
    """A list of names, checked. Raises ValueError."""
    if not isinstance(found, list) or len(found) > most:
        raise ValueError(f"not a list of at most {most} names")
    for name in found:
        if not is_name(name):
            raise ValueError("not a name")
    return found


def is_name(name: Any) -> bool:
    """Whether *name* is printable ASCII without spaces, and not too long."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= NAME_MAX
        and name.isascii()
        and name.isprintable()
        and " " not in name
    )
