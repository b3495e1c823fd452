"""A decorated function: its cache, its keys, its settings. Nothing here waits."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from anyseal.cache.arguments import Arguments, function_name, hints_of
from anyseal.cache.base import CacheBase
from anyseal.cache.entry import check_key, function_key
from anyseal.cache.policy import UNSET
from anyseal.errors import ConfigurationError, one_line

__all__ = ["CacheInfo", "CachedFunction", "is_async"]

logger = logging.getLogger("anyseal.cache")


@dataclass(slots=True)
class CacheInfo:
    """What became of the calls of one decorated function in this process."""

    hits: int = 0
    misses: int = 0
    """Calls that had to wait for the function."""
    stale: int = 0

    def count(self, what: str) -> None:
        """One more."""
        setattr(self, what, getattr(self, what) + 1)


def is_async(function: Any) -> bool:
    """Whether *function* is an ``async def``, or an object with an async ``__call__``."""
    if isinstance(function, classmethod):
        function = function.__func__
    call = getattr(function, "__call__", None)  # noqa: B004 - which one it is
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


class CachedFunction:
    """What a decorated function carries: its cache, its keys, its settings."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        if not callable(function) or isinstance(function, (staticmethod, type)):
            raise TypeError("cached goes below @staticmethod, onto a function")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function_name(function)} is a generator: its items cannot be cached")
        self.function = function
        self.is_async = is_async(function)
        self.info = CacheInfo()
        self._cache = options["cache"]
        self._key = options["key"]
        self._partition = options["partition"]
        self.tags = options["tags"]
        self._type = options["type"]
        self.name = options["name"] or function_name(function)
        self._arguments = (
            Arguments(function, self.name, options["of_self"]) if self._key is None else None
        )
        self.how: dict[str, Any] = {
            "ttl": options["ttl"], "condition": options["condition"],
            "exceptions": options["exceptions"], "lenient": not options["strict"],
            "shared": options["shared"], "name": self.name, "info": self.info,
        }  # fmt: skip
        """What a Computation is told, whatever the arguments are."""
        self._needs: list[str] = []
        if self._arguments is not None and options["name"] is None:
            self._check_name()
        if isinstance(self._cache, CacheBase) or not callable(self._cache):
            self.check(self._cache)

    def _check_name(self) -> None:
        """Refuse a function that may share its name, and so its entries, with another one."""
        function = self.function
        if "<lambda>" in function.__qualname__:
            raise ConfigurationError("all lambdas have one name: name= tells this one's entries")
        code = getattr(function, "__code__", None)  # what is written in C has none
        self._needs = [name for name in getattr(code, "co_freevars", ()) if name != "__class__"]

    def check(self, cache: Any) -> CacheBase:
        """*cache*, if it suits the function.

        Raises:
            TypeError: It is none, waits where the function does not, or has no such type.
            ConfigurationError: Another function has this one's name there.
        """
        if not isinstance(cache, CacheBase):
            kind = type(cache).__name__
            raise TypeError(f"cache= must be a Cache or a function that returns one, not a {kind}")
        if cache._waits is not self.is_async:
            side = "anyseal.cache.Cache" if self.is_async else "anyseal.sync.Cache"
            raise TypeError(f"{self.name} needs an {side}: a function and its cache both wait, "
                            "or both do not")  # fmt: skip
        if self._needs and not cache._claim(self.name, self.info):
            raise ConfigurationError(
                f"{self.name} was decorated before over this backend, and what it depends on "
                f"({', '.join(self._needs)}) is not in its key: name= or key= tells them apart"
            )
        decoder = getattr(cache.codec, "decoder", None)
        if decoder is not None and self._type is not UNSET:
            decoder(self._type)
        return cache

    @property
    def named_by_arguments(self) -> bool:
        """Whether the names of its entries begin with the function's name."""
        return self._arguments is not None

    @property
    def fixed(self) -> CacheBase | None:
        """The cache, unless a function was given that returns it."""
        return self._cache if isinstance(self._cache, CacheBase) else None

    @property
    def cache(self) -> Any:
        """The cache; a function that was given instead is asked each time."""
        found = self._cache
        return found if isinstance(found, CacheBase) else self.check(found())

    @functools.cached_property
    def type(self) -> Any:
        """What results are decoded as: the return annotation."""
        if self._type is not UNSET:
            return self._type
        found = hints_of(self.function).get("return", Any)
        decoder = getattr(self.cache.codec, "decoder", None)
        if decoder is not None:
            try:
                decoder(found)
            except TypeError:
                logger.warning("%s: results come back as plain data: the codec cannot decode into "
                               "its return annotation", one_line(self.name))  # fmt: skip
                return Any
        return found

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """The key of a call."""
        if self._arguments is None:
            given = self._key(*args, **kwargs)
            if not isinstance(given, str) or not given:
                raise TypeError(f"{self.name}: key= must return a non-empty str")
            return check_key(given)
        bound = self._arguments.bind(*args, **kwargs)
        return function_key(self.name, self._arguments.encode(bound))

    def partition(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The partition of a call. Raises ConfigurationError if there is none to be told."""
        given = self._partition
        if given.__class__ is str:
            return given
        try:
            found = given.get() if isinstance(given, ContextVar) else given(*args, **kwargs)
        except LookupError as exc:
            said = "is set in this context" if isinstance(given, ContextVar) else "was found"
            raise ConfigurationError(f"{self.name}: no partition {said}") from exc
        if not isinstance(found, str) or not found:
            raise ConfigurationError(f"{self.name}: partition= must give a non-empty str")
        return found

    def whole(self, partition: Any) -> Any:
        """The partition that is to be cleared. Raises ConfigurationError if it must be said."""
        given = self._partition
        if partition is not UNSET:
            return partition
        if isinstance(given, (str, ContextVar)):
            return self.partition((), {})
        raise ConfigurationError(
            f"{self.name}: the arguments say which partition: cache_clear(partition=...)"
        )

    def check_clearing(self) -> None:
        """Raises ConfigurationError if the function's entries are not known by their names."""
        if self._arguments is None:
            raise ConfigurationError(f"{self.name} makes its own keys: delete them, or a tag")

    @property
    def clear_tag(self) -> str:
        """Carried by all entries, where the backend cannot list names."""
        return f"\0function {self.name}"
