"""MessagePack as cachekit writes it: plain types only, dates as maps that say what they are.

Its ``auto`` serializer has such maps for tuples, sets and UUIDs, too: *tagged*.
"""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Callable
from typing import Any

from anyseal.compat.cachekit.errors import SerializationError
from anyseal.compat.cachekit.extras import extra

__all__ = ["INT_MAX", "INT_MIN", "MAX_DEPTH", "decode", "encode"]

INT_MIN, INT_MAX = -(1 << 63), (1 << 64) - 1
MAX_DEPTH = 256
"""Of nested containers, for reading and writing."""

TAGS = frozenset(
    {
        "__date__", "__datetime__", "__ndarray__", "__set__", "__time__", "__tuple__", "__uuid__",
    }
)  # fmt: skip
"""What maps that stand for other types say of themselves."""

_PLAIN = frozenset({type(None), bool, str, bytes, float})
_TEMPORAL: tuple[tuple[type, str], ...] = (
    (datetime.datetime, "__datetime__"),
    (datetime.date, "__date__"),
    (datetime.time, "__time__"),
)
_PARSERS: dict[str, Callable[[str], Any]] = {
    "__datetime__": datetime.datetime.fromisoformat,
    "__date__": datetime.date.fromisoformat,
    "__time__": datetime.time.fromisoformat,
}


def _prepared(value: Any, depth: int, *, canonical: bool, tagged: bool = False) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        if canonical and kind is float and not math.isfinite(value):
            raise TypeError("NaN and infinity are not allowed")
        return value
    if isinstance(value, int):
        if not INT_MIN <= value <= INT_MAX:
            raise TypeError("an integer outside of -2**63 .. 2**64-1 cannot be stored")
        return int(value)
    if depth >= MAX_DEPTH:
        raise TypeError(f"nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        return _prepared_map(value, depth, canonical=canonical, tagged=tagged)
    if isinstance(value, (list, tuple)) or (tagged and isinstance(value, (set, frozenset))):
        items = [_prepared(item, depth + 1, canonical=canonical, tagged=tagged) for item in value]
        return _tagged(value, items) if tagged else items
    if tagged and isinstance(value, uuid.UUID):
        return {"__uuid__": True, "value": str(value)}
    for temporal, mark in _TEMPORAL:
        if isinstance(value, temporal):
            return {mark: True, "value": value.isoformat()}  # type: ignore[attr-defined]
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, (str, float)):
        return str(value) if isinstance(value, str) else float(value)
    raise TypeError(f"{kind.__name__} cannot be stored: convert it to plain types")


def _tagged(value: Any, items: list[Any]) -> Any:
    """The items of a container, and what it is."""
    if isinstance(value, tuple):
        return {"__tuple__": True, "value": items}
    if isinstance(value, (set, frozenset)):
        return {"__set__": True, "value": items, "frozen": isinstance(value, frozenset)}
    return items


def _prepared_map(
    value: dict[Any, Any], depth: int, *, canonical: bool, tagged: bool
) -> dict[str, Any]:
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"the keys of a dict must be str, not {type(key).__name__}")
        if tagged and key in TAGS and value[key] is True:
            raise TypeError(f"a dict with {key!r}: True would come back as something else")
    items = sorted(value.items()) if canonical and len(value) > 1 else value.items()
    return {
        str(key): _prepared(item, depth + 1, canonical=canonical, tagged=tagged)
        for key, item in items
    }


def encode(value: Any, *, canonical: bool = False, tagged: bool = False) -> bytes:
    """*value* as MessagePack; *canonical*: one form for each value, with sorted maps.

    Raises:
        TypeError: It holds a type that has no form, or is nested too deep.
    """
    prepared = _prepared(value, 0, canonical=canonical, tagged=tagged)
    try:
        return bytes(extra("msgspec").msgpack.encode(prepared))
    except (UnicodeEncodeError, ValueError, OverflowError):
        raise TypeError("a text that is not Unicode cannot be stored") from None


def _untagged(value: dict[str, Any]) -> Any:
    """What a map whose values are restored stands for; the map itself if it is one."""
    content = value.get("value")
    if value.get("__tuple__") is True and type(content) is list:
        return tuple(content)
    if value.get("__set__") is True and type(content) is list:
        return frozenset(content) if value.get("frozen") is True else set(content)
    if value.get("__uuid__") is True and type(content) is str:
        return uuid.UUID(content)
    if any(value.get(tag) is True for tag in TAGS):
        raise SerializationError("the entry holds a type that is not read here")
    return value


def _restored(value: Any, tagged: bool = False) -> Any:
    kind = type(value)
    if kind is list:
        return [_restored(item, tagged) for item in value]
    if kind is dict:
        if len(value) == 2 and "value" in value:
            for mark, parse in _PARSERS.items():
                if value.get(mark) is True and isinstance(value["value"], str):
                    return parse(value["value"])
        if all(type(key) is str for key in value):
            found = {key: _restored(item, tagged) for key, item in value.items()}
            return _untagged(found) if tagged else found
        raise SerializationError("the entry holds a map whose keys are not str")
    if kind in _PLAIN or kind is int:
        return value
    raise SerializationError("the entry holds a MessagePack extension")


def decode(data: bytes, *, tagged: bool = False) -> Any:
    """What one MessagePack document in *data* stands for.

    Raises:
        SerializationError: Not one document, nested too deep, or of types that are never written.
    """
    msgspec = extra("msgspec")
    try:
        value = msgspec.msgpack.decode(data)
        return _restored(value, tagged)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        raise SerializationError("the entry is not MessagePack of plain types") from None
