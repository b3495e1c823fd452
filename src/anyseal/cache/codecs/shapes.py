"""Types whose values can be cut: what holds the elements, and the types of these."""

from __future__ import annotations

import collections.abc
import types
import typing
from collections.abc import Callable
from typing import Any

__all__ = ["bare", "dict_of", "elements", "entries", "list_of"]

_LISTS: tuple[Any, ...] = (
    list, collections.abc.Sequence, collections.abc.MutableSequence, collections.abc.Collection,
    collections.abc.Iterable,
)  # fmt: skip
_DICTS: tuple[Any, ...] = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_MAKERS: dict[Any, Callable[[list[Any]], Any]] = {tuple: tuple, set: set, frozenset: frozenset}


def list_of(annotation: Any) -> Any:
    """A list of such."""
    return list[annotation]


def dict_of(shape: tuple[Any, Any]) -> Any:
    """A dict of such keys and values."""
    return dict[shape]  # type: ignore[misc, valid-type]


def bare(annotation: Any) -> Any:
    """*annotation* without ``| None``, which does not matter for what is not None."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        rest = [each for each in typing.get_args(annotation) if each is not type(None)]
        if len(rest) == 1:
            return rest[0]
    return annotation


def elements(annotation: Any) -> tuple[Callable[[list[Any]], Any], Any] | None:
    """What makes an array's value of a list of its elements, and their type; None if an array of
    *annotation* cannot be cut."""
    annotation = bare(annotation)
    if annotation in (Any, object):
        return list, Any
    found, args = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if found in _LISTS:
        return list, args[0] if args else Any
    try:
        make = _MAKERS.get(found)
    except TypeError:  # not hashable
        return None
    if make is None or (found is tuple and args and (len(args) != 2 or args[1] is not ...)):
        return None
    return make, args[0] if args else Any


def entries(annotation: Any) -> tuple[Any, Any] | None:
    """The types of a dict's keys and values; None if a dict of *annotation* cannot be cut."""
    annotation = bare(annotation)
    if annotation in (Any, object):
        return Any, Any
    if (typing.get_origin(annotation) or annotation) in _DICTS:
        args = typing.get_args(annotation)
        return (args[0], args[1]) if args else (Any, Any)
    return None
