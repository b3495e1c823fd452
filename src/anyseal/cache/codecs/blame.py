"""Where in a value stands what could not be encoded. Runs only after a failure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["blame", "fields_of", "named"]

_DEPTH = 1000
_SHOWN = 20
_KEY_CHARACTERS = 40


def blame(value: Any, encode: Callable[[Any], object], *, keys: bool = True) -> str:
    """The path and type of what *encode* refuses in *value*: ``$.users[3].session: socket``.

    Nothing of the value is shown but field names, and keys that look like field names; without
    *keys* only the former, as for a log.
    """
    path, above, current = ["$"], {id(value)}, value
    failure = _failure(encode, value)
    while len(path) <= _DEPTH:
        for step, child, offered in _children(current, keys):
            found = _failure(encode, offered)
            if found is None:
                continue
            if offered is not child:  # a key: there is nothing below it to look for
                return f"{_shown(path)}, a key: {_described(child, found)}"
            path.append(step)
            if id(child) in above:
                return f"{_shown(path)}: {type(child).__name__} that contains itself"
            above.add(id(child))
            current, failure = child, found
            break
        else:
            return f"{_shown(path)}: {_described(current, failure)}"
    return f"{_shown(path)}: nested too deep"


def _failure(encode: Callable[[Any], object], value: Any) -> type[Exception] | None:
    try:
        encode(value)
    except MemoryError:
        raise
    except Exception as exc:
        return type(exc)
    return None


def _described(value: Any, failure: type[Exception] | None) -> str:
    name = type(value).__name__
    if failure is None:  # it was changed meanwhile, or fails only now and then
        return name
    if issubclass(failure, RecursionError):
        return f"{name}, nested too deep"
    if issubclass(failure, UnicodeError):
        return f"{name} with a lone surrogate"
    if issubclass(failure, OverflowError):
        return f"{name} beyond 64 bits"
    return name


def _shown(path: list[str]) -> str:
    if len(path) <= _SHOWN:
        return "".join(path)
    return "".join([*path[: _SHOWN // 2], "...", *path[-_SHOWN // 2 :]])


def named(key: Any, shown: bool) -> str:
    """A key as a step of a path; only *shown* if it looks like a field's name."""
    plain = shown and type(key) is str and len(key) <= _KEY_CHARACTERS and key.isidentifier()
    return f".{key}" if plain else "[...]"


def _children(value: Any, keys: bool) -> Iterator[tuple[str, Any, Any]]:
    """The step to each thing in *value*, the thing, and what to encode to try it."""
    if isinstance(value, dict):
        for key, each in list(value.items()):
            yield named(key, keys), key, {key: None}
            yield named(key, keys), each, each
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for name, each in zip(value._fields, value, strict=False):
            yield f".{name}", each, each
    elif isinstance(value, (list, tuple)):
        for number, each in enumerate(list(value)):
            yield f"[{number}]", each, each
    elif isinstance(value, (set, frozenset)):
        for each in list(value):
            yield "[...]", each, each
    else:
        for name in fields_of(value):
            if hasattr(value, name):
                each = getattr(value, name)
                yield f".{name}", each, each


def fields_of(value: Any) -> list[str]:
    """The fields of a dataclass, a NamedTuple, a msgspec.Struct, an attrs class or a pydantic
    model."""
    if isinstance(value, type):
        return []
    if hasattr(type(value), "__pydantic_fields__"):
        extra = getattr(value, "__pydantic_extra__", None)  # a dataclass of pydantic's has none
        return [*type(value).__pydantic_fields__, *(extra or ())]
    if isinstance(value, tuple):
        return list(getattr(value, "_fields", ()))
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    if hasattr(type(value), "__struct_fields__"):
        return list(type(value).__struct_fields__)
    return [each.name for each in getattr(type(value), "__attrs_attrs__", ())]
