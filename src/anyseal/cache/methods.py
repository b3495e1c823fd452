"""Cached methods: their attributes know the object through which they are reached.

Plain functions stay functions. A method stands in its class as a ``functools.partial`` without
arguments, because calls of such an object take no step in Python.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

__all__ = ["as_method", "is_method"]

_TAKE_ARGUMENTS = frozenset({"__wrapped__", "invalidate", "key_of", "refresh"})
"""Attributes that take what the function takes, ``self`` or ``cls`` included."""


def is_method(function: Callable[..., Any]) -> bool:
    """Whether *function* may become a method: where it stands, or its first parameter, says so."""
    if inspect.ismethod(function):  # it has its object
        return False
    place = getattr(function, "__qualname__", "").rpartition(".")[0]
    in_class = bool(place) and not place.endswith("<locals>")
    return in_class or _first_parameter(function) in ("self", "cls")


def _first_parameter(function: Callable[..., Any]) -> str:
    """The name of the first positional parameter, if it is known."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code.co_varnames[0] if code is not None and code.co_argcount else ""


def as_method(wrapper: Callable[..., Any], *, of_class: bool = False) -> Any:
    """*wrapper* as what stands in a class; *of_class* binds the class, as ``classmethod`` does."""
    made = (_ClassMethod if of_class else _Method)(wrapper)
    for name in ("__doc__", "__module__"):  # those of our class would be found first
        object.__setattr__(made, name, getattr(wrapper, name))
    return made


class _View(functools.partial[Any]):
    """Looks like the function that it calls."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.func, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.func, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.func, name)

    def __repr__(self) -> str:
        return f"<cached method {self.func.__qualname__}>"

    def __reduce__(self) -> Any:
        return self.func.__qualname__


class _Method(_View):
    """What stands in the class. Reached through the class itself it is the function, which takes
    the object as an argument."""

    __slots__ = ()

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self.func if instance is None else _Bound(self.func, instance)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.func, name)
        if name not in _TAKE_ARGUMENTS or _first_parameter(self.func) != "cls":
            return found

        # From Python 3.13 on, a classmethod above does not tell this object about the class.
        @functools.wraps(found)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if not args or not isinstance(args[0], type):
                raise TypeError(
                    f"{self.func.__qualname__}.{name} takes the class first: put @classmethod "
                    "below the decorator of the cache, then it has it"
                )
            return found(*args, **kwargs)

        return guarded if name != "__wrapped__" else found


class _ClassMethod(_View):
    """The same for a method of the class."""

    __slots__ = ()

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return _Bound(self.func, type(instance) if owner is None else owner)


class _Bound(_View):
    """A method of one object."""

    __slots__ = ()

    @property
    def __func__(self) -> Any:
        return self.func

    @property
    def __self__(self) -> Any:
        return self.args[0]

    def __getattribute__(self, name: str) -> Any:
        if name in ("__doc__", "__module__"):  # those of this class would be found first
            return getattr(self.func, name)
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.func, name)
        return MethodType(found, self.args[0]) if name in _TAKE_ARGUMENTS else found

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Bound):
            return NotImplemented
        return self.func is other.func and self.args[0] is other.args[0]

    def __hash__(self) -> int:
        return hash((id(self.args[0]), self.func))

    def __reduce__(self) -> Any:
        return getattr, (self.args[0], self.func.__name__)
