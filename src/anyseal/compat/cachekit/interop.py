"""Interop mode: keys and values that libraries of other languages make and read as well."""

from __future__ import annotations

import datetime
import decimal
import enum
import hashlib
import math
import pathlib
import re
import uuid
from collections.abc import Sequence
from typing import Any

from anyseal.compat.cachekit import messagepack
from anyseal.compat.cachekit.errors import InteropError, SerializationError
from anyseal.compat.cachekit.extras import extra

__all__ = [
    "check_segment",
    "decode_interop_value",
    "encode_interop_value",
    "generate_interop_key",
]

_SEGMENT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_RESERVED = ("ns", "nsapi")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)


def check_segment(name: str, value: Any) -> str:
    """*value*, a namespace or an operation. Raises InteropError unless it can be part of a key."""
    if not isinstance(value, str) or not _SEGMENT.fullmatch(value):
        raise InteropError(f"the {name} must match [a-z0-9][a-z0-9._-]{{0,63}}")
    if ".." in value:
        raise InteropError(f"the {name} must not contain ..")
    if name == "namespace" and value in _RESERVED:
        raise InteropError(f"the namespace {value!r} is reserved")
    return value


def _number(value: float) -> int | float:
    """Whole numbers have one form, whatever their type."""
    if not math.isfinite(value):
        raise InteropError("NaN and infinity are not allowed")
    if value.is_integer() and messagepack.INT_MIN <= value < 2.0**64:
        return int(value)
    return value


def _encoded(value: Any) -> bytes:
    return bytes(extra("msgspec").msgpack.encode(value))


def _argument(value: Any, depth: int = 0) -> Any:
    if depth > messagepack.MAX_DEPTH:
        raise InteropError("an argument is nested too deep")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):  # also of a subclass that is an Enum
        return str.__str__(value)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, int):
        if not messagepack.INT_MIN <= value <= messagepack.INT_MAX:
            raise InteropError("an integer is outside of -2**63 .. 2**64-1")
        return int(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, datetime.datetime):
        if value.utcoffset() is None:
            raise InteropError("a datetime needs a UTC offset")
        return _number(((value - _EPOCH) // _MICROSECOND) / 10**6)
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_argument(item, depth + 1) for item in value]
    if isinstance(value, (set, frozenset)):
        items = {_encoded(item): item for item in (_argument(each, depth + 1) for each in value)}
        return [items[form] for form in sorted(items)]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise InteropError("the keys of a map must be str")
        return {key: _argument(value[key], depth + 1) for key in sorted(value)}
    if isinstance(value, enum.Enum):
        return _argument(value.value, depth + 1)
    if isinstance(value, pathlib.PurePath):
        return value.as_posix()
    if isinstance(value, decimal.Decimal):
        return str(value)
    raise InteropError(f"{type(value).__name__} cannot be an interop argument")


def generate_interop_key(namespace: str, operation: str, args: Sequence[Any]) -> str:
    """``namespace:operation:hash``, the same in every language.

    Args:
        namespace: Like *operation*, lower-case letters, digits, ``.``, ``_`` and ``-``; 1 to 64.
        args: All arguments in the order of the signature, with defaults.

    Raises:
        InteropError: A name or an argument that is not allowed.
    """
    place = f"{check_segment('namespace', namespace)}:{check_segment('operation', operation)}"
    try:
        form = _encoded([_argument(value) for value in args])
    except UnicodeEncodeError:
        raise InteropError("a text that is not Unicode is not allowed") from None
    return f"{place}:{hashlib.blake2b(form, digest_size=32).hexdigest()}"


def encode_interop_value(value: Any) -> bytes:
    """*value* as canonical MessagePack. Raises InteropError if it has no such form."""
    try:
        return messagepack.encode(value, canonical=True)
    except TypeError as exc:
        raise InteropError(str(exc)) from None


def decode_interop_value(data: bytes | bytearray | memoryview) -> Any:
    """What :func:`encode_interop_value` was given. Raises InteropError for anything else."""
    try:
        return messagepack.decode(bytes(data))
    except SerializationError as exc:
        raise InteropError(str(exc)) from None
