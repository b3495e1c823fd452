"""Values that come back with the types they had: MessagePack, and a closed table of extensions.

A reader builds no class that an entry names: the table is all there is. What is not in it, by exact
type, is refused when it is encoded. Format: docs/cache-format.md, section 5.
"""

from __future__ import annotations

import functools
import re
import zoneinfo
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any, NoReturn
from uuid import UUID

from anyseal.cache.codecs.blame import fields_of
from anyseal.errors import FormatError, MissingExtraError

try:
    import msgspec
except ImportError as _exc:  # pragma: no cover - the extra is missing
    raise MissingExtraError.of("the cache needs msgspec", "anyseal[cache]") from _exc

__all__ = [
    "AS_IT_WAS",
    "FROZENSET",
    "PAIRS",
    "SCALARS",
    "SET",
    "TAGGED",
    "TUPLE",
    "UntaggedError",
    "is_plain",
    "is_wrapped",
    "pack",
    "refuse_extension",
    "same",
    "tagged_value",
    "unpack",
    "unwrap",
    "wrap",
    "wrapped_body",
]

DEPTH_MAX = 64
TEXT_MAX = 4300
"""Digits of an integer or a Decimal: what Python itself takes for one."""

EXPONENT_MAX = 6144
"""Decimals beyond it would take minutes to print; it is that of IEEE 754's decimal128."""

SCALARS = frozenset({type(None), bool, int, float, str, bytes})
_TEXT_KEYS = frozenset({str})

AS_IT_WAS, TAGGED = 1, 14
"""What wraps a whole payload: a result that comes back as it was whatever a reader asks for, or a
value that a reader may ask for as another type."""

_WRAPPED = frozenset(b"\xc7\xc8\xc9\xd4\xd5\xd6\xd7\xd8")
"""The bytes that an extension begins with."""

TUPLE, SET, FROZENSET, PAIRS = 2, 3, 4, 5
DATE, DATETIME, TIME, TIMEDELTA, DECIMAL, UUID_BYTES, INTEGER, BYTEARRAY = range(6, 14)

_encode = msgspec.msgpack.Encoder().encode
Ext = msgspec.msgpack.Ext


class UntaggedError(TypeError):
    """Something has no place in the table."""


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether *value* comes back from MessagePack as it is, by exact types all the way down; an
    integer of more than 64 bits aside, which MessagePack itself refuses.

    Cost: about 1 us for a dict of 20 fields.
    """
    kind = type(value)
    if kind in SCALARS:
        return True
    if depth >= DEPTH_MAX:
        return False
    if kind is dict:
        if not _TEXT_KEYS.issuperset(map(type, value)):
            return False
        value = value.values()
    elif kind is not list:
        return False
    if SCALARS.issuperset(map(type, value)):
        return True
    return all(is_plain(each, depth + 1) for each in list(value))


def pack(value: Any, depth: int = 0) -> bytes:
    """*value*, which is so deep in another, in MessagePack, with extensions where it needs them.

    Raises:
        UntaggedError: Something is not in the table, or nested too deep.
    """
    return _encode(_tagged(value, depth))


def wrap(value: Any, *, as_it_was: bool) -> bytes:
    """A payload that holds *value* with its types. Raises UntaggedError."""
    return _encode(Ext(AS_IT_WAS if as_it_was else TAGGED, pack(value)))


def is_wrapped(data: bytes | memoryview) -> bool:
    """Whether *data* is a payload that :func:`wrap` made."""
    return len(data) > 0 and data[0] in _WRAPPED


def wrapped_body(data: bytes | memoryview) -> tuple[int, memoryview]:
    """The code and the data of a wrapped payload. Raises FormatError."""
    try:
        found = msgspec.msgpack.decode(data, type=Ext)
    except Exception:
        raise FormatError("not a tagged value") from None
    if found.code not in (AS_IT_WAS, TAGGED):
        raise FormatError("an extension that is not in the table")
    return found.code, memoryview(found.data)


def unwrap(data: bytes | memoryview) -> tuple[Any, bool]:
    """The value in a wrapped payload, and whether it stays as it was. Raises FormatError."""
    code, body = wrapped_body(data)
    return unpack(body), code == AS_IT_WAS


def _tagged(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind in SCALARS:
        if kind is int and not -(1 << 63) <= value < 1 << 64:
            return Ext(INTEGER, _digits(value))
        return value
    if depth >= DEPTH_MAX:
        raise UntaggedError("nested too deep")
    if kind is list:
        return [_tagged(each, depth + 1) for each in value]
    if kind is dict:
        if _TEXT_KEYS.issuperset(map(type, value)):
            return {key: _tagged(each, depth + 1) for key, each in value.items()}
        pairs = [[_tagged(key, depth + 1), _tagged(each, depth + 1)] for key, each in value.items()]
        return Ext(PAIRS, _encode(pairs))
    if kind is tuple:
        return Ext(TUPLE, _encode([_tagged(each, depth + 1) for each in value]))
    if kind in (set, frozenset):
        items = sorted(_encode(_tagged(each, depth + 1)) for each in value)
        data = _encode([msgspec.Raw(each) for each in items])
        return Ext(SET if kind is set else FROZENSET, data)
    leaf = _LEAVES.get(kind)
    if leaf is not None:
        return Ext(leaf[0], leaf[1](value))
    raise UntaggedError(kind.__name__)


def _digits(value: int) -> bytes:
    if value.bit_length() > 14_300:  # surely more than TEXT_MAX digits: str() would be slow
        raise UntaggedError("int of more than 4,300 digits")
    text = str(value)
    if len(text.lstrip("-")) > TEXT_MAX:
        raise UntaggedError("int of more than 4,300 digits")
    return text.encode()


def _zone(zone: tzinfo | None) -> str:
    """What tells a time zone: empty for none, seconds of an offset, or the key of a ZoneInfo."""
    if zone is None:
        return ""
    if zone is UTC:
        return "Z"
    if type(zone) is timezone and zone == timezone(zone.utcoffset(None)):
        offset = zone.utcoffset(None)
        if zone.tzname(None) == timezone(offset).tzname(None) and not offset.microseconds:
            return f"{round(offset.total_seconds()):+d}"
    if type(zone) is zoneinfo.ZoneInfo and zone.key:
        return zone.key
    raise UntaggedError(type(zone).__name__)


def _to_zone(text: str) -> tzinfo | None:
    if not text:
        return None
    if text == "Z":
        return UTC
    if re.fullmatch(r"[+-][0-9]{1,5}", text):
        return timezone(timedelta(seconds=int(text)))
    return zoneinfo.ZoneInfo(text)


def _clock(value: datetime | time) -> bytes:
    text = value.replace(tzinfo=None).isoformat()
    return _encode([text, value.fold, _zone(value.tzinfo)])


def _from_clock(kind: Any) -> Callable[[Any], Any]:
    def made(data: Any) -> Any:
        text, fold, zone = msgspec.msgpack.decode(data, type=tuple[str, int, str])
        if fold not in (0, 1):
            raise ValueError
        return kind.fromisoformat(text).replace(tzinfo=_to_zone(zone), fold=fold)

    return made


def _decimal(value: Decimal) -> bytes:
    _, digits, exponent = value.as_tuple()
    if len(digits) > TEXT_MAX:
        raise UntaggedError("Decimal of more than 4,300 digits")
    if isinstance(exponent, int) and not -EXPONENT_MAX <= exponent <= EXPONENT_MAX:
        raise UntaggedError("Decimal with an exponent beyond 6,144")
    return str(value).encode()


def _from_decimal(data: Any) -> Decimal:
    text = bytes(data).decode("ascii")
    if len(text) > TEXT_MAX + 32:
        raise ValueError
    value = Decimal(text)
    _decimal(value)
    return value


def _from_digits(data: Any) -> int:
    text = bytes(data).decode("ascii")
    if not re.fullmatch(r"-?[1-9][0-9]{18,4299}", text):
        raise ValueError
    return int(text)


def _from_timedelta(data: Any) -> timedelta:
    days, seconds, micros = msgspec.msgpack.decode(data, type=tuple[int, int, int])
    return timedelta(days, seconds, micros)


_LEAVES: dict[type, tuple[int, Callable[[Any], bytes]]] = {
    date: (DATE, lambda value: value.isoformat().encode()),
    datetime: (DATETIME, _clock),
    time: (TIME, _clock),
    timedelta: (TIMEDELTA, lambda it: _encode([it.days, it.seconds, it.microseconds])),
    Decimal: (DECIMAL, _decimal),
    UUID: (UUID_BYTES, lambda value: value.bytes),
    bytearray: (BYTEARRAY, bytes),
}
_FROM: dict[int, Callable[[Any], Any]] = {
    DATE: lambda data: date.fromisoformat(bytes(data).decode("ascii")),
    DATETIME: _from_clock(datetime),
    TIME: _from_clock(time),
    TIMEDELTA: _from_timedelta,
    DECIMAL: _from_decimal,
    UUID_BYTES: lambda data: UUID(bytes=bytes(data)),
    INTEGER: _from_digits,
    BYTEARRAY: bytearray,
}


def refuse_extension(code: int, data: memoryview) -> NoReturn:
    """What a decoder calls for an extension. Raises ValueError."""
    raise ValueError("an extension that is not in the table")


class _Reader:
    """Decodes one value. Extensions nest as far as values may."""

    __slots__ = ("_decode", "depth")

    def __init__(self) -> None:
        self.depth = 0
        self._decode = msgspec.msgpack.Decoder(ext_hook=self._extension).decode

    def value(self, data: Any) -> Any:
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise ValueError("nested too deep")
        try:
            return self._decode(data)
        finally:
            self.depth -= 1

    def _extension(self, code: int, data: memoryview) -> Any:
        leaf = _FROM.get(code)
        if leaf is not None:
            return leaf(data)
        if code not in (TUPLE, SET, FROZENSET, PAIRS):
            refuse_extension(code, data)
        items = self.value(data)
        if type(items) is not list:
            raise ValueError("an extension that holds another thing")
        if code == TUPLE:
            return tuple(items)
        made: Any = dict(items) if code == PAIRS else (set if code == SET else frozenset)(items)
        if len(made) != len(items):
            raise ValueError("a doubled key")
        return made


def tagged_value(data: Any) -> Any:
    """The value in *data*, in whatever form of those that mean the same. Raises anything."""
    return _Reader().value(data)


def unpack(data: Any) -> Any:
    """The value in *data*, which :func:`pack` made.

    Raises:
        FormatError: Anything else: also what means the same and is written in another way, such as
            a doubled key.
    """
    try:
        value = tagged_value(data)
        if pack(value) != bytes(data):  # of each value there is one form
            raise ValueError("another form")
    except MemoryError:
        raise
    except Exception as exc:
        raise FormatError(f"not a tagged value ({type(exc).__name__})") from None
    return value


def same(value: Any, other: Any) -> bool:
    """Whether both are equal and of the same types all the way down."""
    kind = type(value)
    if kind is not type(other):
        return False
    if kind in SCALARS:
        return bool(value == other) or value != value
    if kind in (list, tuple):
        return len(value) == len(other) and all(map(same, value, other))
    if kind is dict:
        if SCALARS.issuperset(map(type, value.values())) and value == other:
            return _types_of(value) == _types_of(other)
        return len(value) == len(other) and all(
            same(key, twin) and same(value[key], other[twin])
            for key, twin in zip(value, other, strict=True)
        )
    if kind in (set, frozenset):
        return {(type(each), each) for each in value} == {(type(each), each) for each in other}
    if kind in (datetime, time):
        return bool(_encoded_zone(value) == _encoded_zone(other) and value == other)
    if kind is Decimal:
        return bool(value.as_tuple() == other.as_tuple())
    fields = fields_of(value)
    if fields:
        return _beside(value) == _beside(other) and all(
            same(getattr(value, each), getattr(other, each)) for each in fields
        )
    if getattr(kind, "__eq__", None) is object.__eq__:  # it tells only whether they are one object
        return bool(same(getattr(value, "__dict__", {}), getattr(other, "__dict__", {})))
    return bool(value == other)


def _beside(value: Any) -> Any:
    """What a model holds beside its fields, which no payload brings back."""
    found = {
        name: each
        for name, each in getattr(value, "__dict__", {}).items()
        if not isinstance(getattr(type(value), name, None), functools.cached_property)
    }
    for name in fields_of(value):
        found.pop(name, None)
    return found, getattr(value, "__pydantic_private__", None)


def _types_of(value: dict[Any, Any]) -> list[Any]:
    return [*map(type, value), *map(type, value.values())]


def _encoded_zone(value: Any) -> Any:
    try:
        return _clock(value)
    except UntaggedError:
        return value.isoformat(), value.fold, value.tzinfo
