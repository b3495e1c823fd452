"""Exceptions that are kept, as bytes: the name of the class, and the arguments. Pure.

``[name, [argument, ...]]`` in MessagePack, where lists, dicts and scalars are what they look like.
Where MessagePack would make one type of two, ``[name, [argument, ...], 1]``: there everything but a
scalar is ``[its type, part, ...]``. Who knows only the first form refuses the second.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from anyseal.cache.codecs import codec_named
from anyseal.errors import FormatError

__all__ = ["pack_exception", "unpack_exception"]

_TAGGED = 1
_DEPTH_MAX = 50
_SCALARS = frozenset({bool, bytes, float, int, str, type(None)})


def _pairs(value: dict[Any, Any]) -> Iterable[Any]:
    return (part for pair in value.items() for part in pair)


def _dict(*parts: Any) -> dict[Any, Any]:
    return dict(zip(parts[::2], parts[1::2], strict=True))


_SEVERAL: dict[type, tuple[str, Callable[[Any], Iterable[Any]], Callable[..., Any]]] = {
    dict: ("dict", _pairs, _dict),
    frozenset: ("frozenset", iter, lambda *parts: frozenset(parts)),
    list: ("list", iter, lambda *parts: list(parts)),
    set: ("set", iter, lambda *parts: set(parts)),
    tuple: ("tuple", iter, lambda *parts: parts),
}
"""Types that have parts: how they are called, taken apart, and made again."""

_AS_TEXT: dict[type, tuple[str, Callable[[Any], Any], Callable[..., Any]]] = {
    datetime.date: ("date", datetime.date.isoformat, datetime.date.fromisoformat),
    datetime.datetime: (
        "datetime", datetime.datetime.isoformat, datetime.datetime.fromisoformat,
    ),
    decimal.Decimal: ("decimal", str, decimal.Decimal),
    uuid.UUID: ("uuid", str, uuid.UUID),
}  # fmt: skip
_MAKERS = {name: make for name, _, make in (*_SEVERAL.values(), *_AS_TEXT.values())}


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether *value* comes back from MessagePack as what it is."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if depth > _DEPTH_MAX:
        raise TypeError("nested too deep")
    if kind is dict:
        plain = all(type(key) is str for key in value)
        return plain and all(_is_plain(each, depth + 1) for each in value.values())
    return kind is list and all(_is_plain(each, depth + 1) for each in value)


def _tagged(value: Any, depth: int = 0) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if depth > _DEPTH_MAX:
        raise TypeError("nested too deep")
    if kind in _SEVERAL:
        name, parts, _ = _SEVERAL[kind]
        return [name, *(_tagged(part, depth + 1) for part in parts(value))]
    if kind in _AS_TEXT:
        zone = getattr(value, "tzinfo", None)
        if zone is None or type(zone) is datetime.timezone:  # others have more than an offset
            name, text, _ = _AS_TEXT[kind]
            return [name, text(value)]
    raise TypeError(f"a {kind.__name__} does not come back as what it is")


def _untagged(value: Any) -> Any:
    if type(value) is not list:
        return value
    name, *parts = value
    return _MAKERS[name](*map(_untagged, parts))


def pack_exception(error: Exception) -> bytes:
    """The bytes that stand for *error*.

    Raises:
        TypeError: One of its arguments would not come back as what it is.
    """
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    args = list(error.args)
    if _is_plain(args):
        return codec_named("msgpack").encode([name, args])
    return codec_named("msgpack").encode([name, [_tagged(each) for each in args], _TAGGED])


def unpack_exception(payload: Any) -> tuple[str, list[Any]]:
    """The name of a class, and arguments.

    Raises:
        FormatError: Not what :func:`pack_exception` makes.
    """
    try:
        name, args, *form = codec_named("msgpack").decode(payload, list[Any])
        if isinstance(name, str) and isinstance(args, list):
            if not form:
                return name, args
            if form == [_TAGGED]:
                return name, [_untagged(each) for each in args]
    except FormatError:
        raise
    except Exception as exc:  # its message may hold what was in the entry
        raise FormatError(f"not an exception ({type(exc).__name__})") from None
    raise FormatError("not an exception")
