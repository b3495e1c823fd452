"""The arguments of a call as the key of its result. Pure.

Arguments are bound to the function's signature, defaults included, so that ``f(1)`` and ``f(a=1)``
are one entry. Values of different types are different: 1, True, 1.0 and "1" are four entries.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import decimal
import enum
import hashlib
import inspect
import ipaddress
import pathlib
import types
import typing
import uuid
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

from anyseal.cache.codecs.blame import fields_of
from anyseal.errors import ConfigurationError, MissingExtraError

try:
    import msgspec
except ImportError as _exc:  # pragma: no cover - the extra is missing
    raise MissingExtraError.of("the cache needs its extra", "anyseal[cache]") from _exc

__all__ = ["Arguments", "function_name", "hints_of"]

_STARS: dict[Any, str] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}
_PLAIN = frozenset({int, str, bytes, bool, float, type(None)})
_TEXT = (
    uuid.UUID, decimal.Decimal, datetime.timedelta, pathlib.PurePath, ipaddress.IPv4Address,
    ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network,
    ipaddress.IPv4Interface, ipaddress.IPv6Interface,
)  # fmt: skip
_TIMES = (datetime.datetime, datetime.date, datetime.time)
# Of other mappings, items() may not be all there is: those with several values for one key.
_MAPPINGS = frozenset({dict, OrderedDict, defaultdict, Counter, types.MappingProxyType})
_DEPTH_MAX = 50
_KEY_MAX = 4096
_encode = msgspec.msgpack.Encoder().encode


def function_name(function: Callable[..., Any]) -> str:
    """What tells *function* from others: its module and qualified name."""
    try:
        return f"{function.__module__}.{function.__qualname__}"
    except AttributeError:
        raise TypeError("a function without a name of its own needs name=") from None


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of *function*, but for those that hold a name which only the type checker
    knows."""
    with contextlib.suppress(Exception):
        return typing.get_type_hints(function, include_extras=True)
    inner = inspect.unwrap(function)
    found: dict[str, Any] = {}

    def one() -> None: ...

    for name, annotation in getattr(inner, "__annotations__", {}).items():
        one.__annotations__ = {name: annotation}
        with contextlib.suppress(Exception):
            known = getattr(inner, "__globals__", {})
            found |= typing.get_type_hints(one, known, include_extras=True)
    return found


def _binder(function: Callable[..., Any], signature: inspect.Signature) -> Callable[..., Any]:
    """A function with the same signature that returns its arguments as a tuple.

    Python itself then binds them, some twenty times faster than ``Signature.bind``, and the
    TypeError for a wrong call is the one that the function would give.
    """
    defaults: dict[str, Any] = {}
    parts, names, star = [], [], False
    kinds = inspect.Parameter
    last_positional_only = None
    for name, parameter in signature.parameters.items():
        if last_positional_only and parameter.kind is not kinds.POSITIONAL_ONLY:
            parts.append("/")
            last_positional_only = None
        if parameter.kind is kinds.POSITIONAL_ONLY:
            last_positional_only = name
        if parameter.kind is kinds.KEYWORD_ONLY and not star:
            parts.append("*")
            star = True
        prefix = _STARS.get(parameter.kind, "")
        star = star or parameter.kind is kinds.VAR_POSITIONAL
        if parameter.default is not kinds.empty:
            defaults[f"__default_{name}"] = parameter.default
            parts.append(f"{name}=__default_{name}")
        else:
            parts.append(prefix + name)
        names.append(name)
    if last_positional_only:
        parts.append("/")
    body = f"def bind({', '.join(parts)}): return ({''.join(name + ', ' for name in names)})"
    # The source is made of the function's own parameter names, which Python has parsed before.
    exec(body, defaults)  # noqa: S102
    bind: Callable[..., Any] = defaults["bind"]
    bind.__qualname__ = bind.__name__ = getattr(function, "__name__", "function")
    return bind


class Arguments:
    """Makes keys of the arguments of one function.

    Args:
        function: Whose signature it is.
        name: The function's own, or the one that was given to it.
        of_self: What of ``self`` or ``cls`` belongs to the key: a function of it, or None for
            nothing of it. A function whose first parameter has one of these names needs it.

    Raises:
        ConfigurationError: ``self`` or ``cls`` without *of_self*.
    """

    def __init__(self, function: Callable[..., Any], name: str, of_self: Any) -> None:
        signature = inspect.signature(function)
        self._name = name
        self._names = list(signature.parameters)
        first = self._names[0] if self._names else ""
        self._of_self: Callable[[Any], Any] | None = None
        if first in ("self", "cls"):
            if of_self is ...:
                raise ConfigurationError(
                    f"{self._name} is a method: say what of {first} belongs to the key: "
                    f"of_self=lambda {first}: {first}.id, or of_self=None for nothing of it"
                )
            self._of_self = (lambda _: None) if of_self is None else of_self
        elif of_self is not ...:
            raise ConfigurationError(f"{self._name} has no self or cls: of_self= is for methods")
        self._check_annotations(function)
        self.bind = _binder(function, signature)

    def _check_annotations(self, function: Callable[..., Any]) -> None:
        """Refuse a parameter whose annotation is a class that no key can be made of."""
        hints = hints_of(function)
        for name in self._names[self._of_self is not None :]:
            refused = _without_place(hints.get(name))
            if refused is not None:
                raise TypeError(
                    f"{self._name}: argument {name!r}, a {refused.__name__}, has no place in a "
                    f"key: give the decorator key=, such as key=lambda {name}, ...: {name}.id, or "
                    "pass plain values"
                )

    def encode(self, bound: tuple[Any, ...]) -> bytes:
        """The bytes that stand for bound arguments.

        Raises:
            TypeError: An argument has no place in a key; the message names it.
        """
        if self._of_self is not None:
            bound = (self._of_self(bound[0]), *bound[1:])
        for value in bound:
            if value.__class__ not in _PLAIN:
                return self._tagged(bound)
        try:
            data = _encode(bound)
        except (OverflowError, UnicodeEncodeError):  # an int beyond 64 bits; a lone surrogate
            return self._tagged(bound)
        return data if len(data) <= _KEY_MAX else _digest(data)

    def _tagged(self, bound: tuple[Any, ...]) -> bytes:
        found = []
        for name, value in zip(self._names, bound, strict=True):
            try:
                found.append(_plain(value, 0))
            except TypeError as exc:
                raise TypeError(
                    f"{self._name}: argument {name!r} has no place in a key ({exc}): "
                    "give the decorator key=, or pass plain values"
                ) from None
        data = b"\xc1" + _encode(found)  # a byte that MessagePack never begins with
        return data if len(data) <= _KEY_MAX else _digest(data)


def _digest(data: bytes) -> bytes:
    """What stands for long arguments; begins as none that are short do."""
    return b"\xc1\xc1" + hashlib.blake2b(data, digest_size=32).digest()


def _plain(value: Any, depth: int) -> Any:
    """*value* as plain data that tells its type."""
    kind = value.__class__
    if depth > _DEPTH_MAX:
        raise TypeError("nested too deep")
    if kind is int and not -(1 << 63) <= value < 1 << 64:
        return ["int", str(value)]
    if kind is str and not _is_unicode(value):
        return ["str", value.encode("utf-8", "surrogatepass")]
    if kind in _PLAIN:
        return value
    if kind in (list, tuple):
        return [kind.__name__, *(_plain(each, depth + 1) for each in value)]
    if kind in (set, frozenset):
        return ["set", *sorted(_encode(_plain(each, depth + 1)) for each in value)]
    if kind in _MAPPINGS:
        pairs = [(_plain(k, depth + 1), _plain(v, depth + 1)) for k, v in value.items()]
        return ["map", *sorted(_encode(pair) for pair in pairs)]
    return [f"{kind.__module__}.{kind.__qualname__}", _of_class(value, depth)]


_EXACT: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: lambda value: bytes(memoryview(value)),
}
"""The value of an object of a subclass."""


_KNOWN: tuple[type, ...] = (
    type(None), int, str, bytes, bool, float, *_TEXT, *_TIMES, *_MAPPINGS, list, tuple, set,
    frozenset, bytearray, memoryview, type, enum.Enum, msgspec.Struct,
)  # fmt: skip


def _without_place(hint: Any) -> type | None:
    """The class that *hint* names, if no key can be made of its objects."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _without_place(inner[0])
    if origin in (typing.Union, types.UnionType):
        found = [_without_place(each) for each in inner if each is not type(None)]
        return None if None in found else found[0]
    kind = origin or hint
    return kind if isinstance(kind, type) and not _has_place(kind) else None


def _has_place(kind: type) -> bool:
    """Whether an object annotated as *kind* may have a place in a key."""
    return (
        kind in (object, Any)
        or issubclass(kind, _KNOWN)
        or dataclasses.is_dataclass(kind)
        or hasattr(kind, "__pydantic_fields__")
        or hasattr(kind, "__attrs_attrs__")
        or inspect.isabstract(kind)
        or getattr(kind, "_is_protocol", False)
    )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _of_class(value: Any, depth: int) -> Any:
    """What of an object tells it from others of its class."""
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, enum.Enum):
        return value.name if value.name is not None else ["flag", str(value.value)]
    if isinstance(value, _TEXT):
        return str(value)
    if isinstance(value, _TIMES):
        zone = getattr(value, "tzinfo", None)  # two zones may have one offset today
        return [value.isoformat(), getattr(value, "fold", 0), getattr(zone, "key", None)]
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    names = fields_of(value)
    if names and not isinstance(value, tuple):
        return [_plain(getattr(value, name), depth + 1) for name in names]
    if isinstance(value, (tuple, list)):  # a NamedTuple, or a subclass
        return [_plain(each, depth + 1) for each in value]
    if isinstance(value, (int, float, str, bytes)):  # a subclass
        # Not by its own __str__ and the like, which may show less than there is.
        plain: Any = next(base for base in _EXACT if isinstance(value, base))
        return _plain(_EXACT[plain](value), depth)
    raise TypeError(f"a {type(value).__name__} is none of the types that keys are made of")
