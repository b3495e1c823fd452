"""The keys of entries: made of the function's name and its arguments, as cachekit makes them."""

from __future__ import annotations

import datetime
import decimal
import enum
import hashlib
import pathlib
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anyseal.compat.cachekit import messagepack
from anyseal.compat.cachekit.extras import extra

__all__ = ["argument_hash", "auto_key", "auto_place", "common", "function_hash", "function_name"]

MAX_KEY = 250
MAX_NAME = 200
KEPT = 50
"""Characters of a key that is too long."""
CODES = {"default": "s", "auto": "a", "orjson": "o", "arrow": "w"}


def function_name(function: Callable[..., Any]) -> str:
    """Module and qualified name, of letters, digits, ``.`` and ``_``."""
    name = re.sub(r"[^A-Za-z0-9_.]", "_", f"{function.__module__}.{function.__qualname__}")
    return re.sub(r"\.\.+", ".", name)[:MAX_NAME]


def function_hash(function: Callable[..., Any]) -> str:
    """Eight bytes of BLAKE3 of its name, in hexadecimal."""
    name = f"{function.__module__}.{function.__qualname__}".encode()
    return str(extra("blake3").blake3(name).hexdigest(8))


def _normal(value: Any, depth: int = 0) -> Any:
    if depth > messagepack.MAX_DEPTH:
        raise TypeError("an argument is nested too deep")
    kind = type(value)
    if kind is str or (kind is int and messagepack.INT_MIN <= value <= messagepack.INT_MAX):
        return value
    if isinstance(value, enum.Enum):
        return _normal(value.value, depth + 1)
    if value is None or isinstance(value, (bool, str, bytes)):
        return value
    if isinstance(value, int):
        if not messagepack.INT_MIN <= value <= messagepack.INT_MAX:
            raise TypeError("an integer is outside of -2**63 .. 2**64-1")
        return value
    if isinstance(value, float):
        return value + 0.0  # not -0.0
    if isinstance(value, (list, tuple)):
        return [_normal(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {key: _normal(value[key], depth + 1) for key in sorted(value)}
    if isinstance(value, pathlib.PurePath):
        return value.as_posix()
    if isinstance(value, (uuid.UUID, decimal.Decimal)):
        return str(value)
    if isinstance(value, datetime.datetime):
        if value.utcoffset() is None:
            raise TypeError("a datetime without a UTC offset cannot be part of a key")
        return value.isoformat()
    raise TypeError(f"an argument of type {type(value).__name__} cannot be part of a key")


def argument_hash(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """BLAKE2b-256 of the arguments as they were given; defaults are not applied.

    Raises:
        TypeError: An argument has no form that is always the same.
    """
    normal = [
        [_normal(arg) for arg in args],
        {name: _normal(kwargs[name]) for name in sorted(kwargs)} if kwargs else {},
    ]
    try:
        form = extra("msgspec").msgpack.encode(normal)
    except UnicodeEncodeError:
        raise TypeError("a text that is not Unicode cannot be part of a key") from None
    return hashlib.blake2b(form, digest_size=32).hexdigest()


def serializer_code(name: str, *, custom: bool) -> str:
    """One letter for each known serializer, five characters for others."""
    if not custom and name in CODES:
        return CODES[name]
    identity = f"<custom>:{name}" if custom else name
    return "x" + hashlib.blake2b(identity.encode(), digest_size=2).hexdigest()


def auto_place(function: Callable[..., Any], namespace: str | None) -> str:
    """What all keys of a function begin with."""
    space = f"ns:{namespace}:" if namespace else ""
    return re.sub(r"[ \r\n]", "_", f"{space}func:{function_name(function)}:args:")


def common(place: str, code: str) -> str:
    """What all keys of a function begin with once :func:`auto_key` has cut them."""
    longest = len(place) + 64 + len(f":1{code}")
    return place if longest <= MAX_KEY else f"{place[:KEPT]}:"


def auto_key(place: str, hashed: str, *, integrity: bool, code: str) -> str:
    """The whole key; one that would be longer than 250 characters is shortened by a hash."""
    key = f"{place}{hashed}:{int(integrity)}{code}"
    if len(key) > MAX_KEY:
        key = f"{key[:KEPT]}:{hashlib.blake2b(key.encode(), digest_size=32).hexdigest()[:32]}"
    return key
