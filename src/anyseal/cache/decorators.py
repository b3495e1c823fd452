"""``cached`` and ``secure``: results of functions, sealed in a cache."""

from __future__ import annotations

import functools
import inspect
import logging
import typing
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from anyseal.cache.arguments import Arguments, function_name
from anyseal.cache.base import CacheBase
from anyseal.cache.core import INLINE_DECODE_BYTES, Cache
from anyseal.cache.entry import NONE, Entry, check_key, function_key
from anyseal.cache.jobs import Job
from anyseal.cache.methods import as_method, is_method
from anyseal.cache.needs import UNSET
from anyseal.cache.options import check_options, tag_names
from anyseal.errors import ConfigurationError, FormatError

__all__ = ["CacheInfo", "cached", "is_async"]

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
        if not callable(function) or isinstance(function, staticmethod | type):
            raise TypeError("cached goes below @staticmethod, onto a function")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function_name(function)} is a generator: its items cannot be cached")
        self.function = function
        self.is_async = is_async(function)
        self.info = CacheInfo()
        self._cache = options["cache"]
        self._key = options["key"]
        self._partition = options["partition"]
        self._tags = options["tags"]
        self._type = options["type"]
        self._name = options["name"] or function_name(function)
        self._arguments = (
            Arguments(function, self._name, options["of_self"]) if self._key is None else None
        )
        self._ttl = options["ttl"]
        self._condition = options["condition"]
        self._exceptions = options["exceptions"]
        self._strict = options["strict"]
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

    def check(self, cache: Any) -> CacheBase[Any]:
        """*cache*, if it suits the function.

        Raises:
            TypeError: It is none, waits where the function does not, or has no such type.
            ConfigurationError: Another function has this one's name there.
        """
        if not isinstance(cache, CacheBase):
            kind = type(cache).__name__
            raise TypeError(f"cache= must be a Cache or a function that returns one, not a {kind}")
        if isinstance(cache, Cache) is not self.is_async:
            side = "anyseal.cache.Cache" if self.is_async else "anyseal.sync.Cache"
            raise TypeError(f"{self._name} needs an {side}: a function and its cache both wait, "
                            "or both do not")  # fmt: skip
        if self._needs and not cache.claim(self._name, self.info):
            raise ConfigurationError(
                f"{self._name} was decorated before over this backend, and what it depends on "
                f"({', '.join(self._needs)}) is not in its key: name= or key= tells them apart"
            )
        decoder = getattr(cache.codec, "decoder", None)
        if decoder is not None and self._type is not UNSET:
            decoder(self._type)
        return cache

    @property
    def fixed(self) -> CacheBase[Any] | None:
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
        try:
            hints = typing.get_type_hints(self.function, include_extras=True)
        except Exception:  # a name that exists only for the type checker
            return Any
        found = hints.get("return", Any)
        decoder = getattr(self.cache.codec, "decoder", None)
        if decoder is not None:
            try:
                decoder(found)
            except TypeError:
                logger.warning("%s: results come back as plain data: the codec cannot decode into "
                               "its return annotation", self._name)  # fmt: skip
                return Any
        return found

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """The key of a call."""
        if self._arguments is None:
            given = self._key(*args, **kwargs)
            if not isinstance(given, str) or not given:
                raise TypeError(f"{self._name}: key= must return a non-empty str")
            return check_key(given)
        bound = self._arguments.bind(*args, **kwargs)
        return function_key(self._name, self._arguments.encode(bound))

    def partition(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The partition of a call. Raises ConfigurationError if there is none to be told."""
        given = self._partition
        if given.__class__ is str:
            return given
        try:
            found = given.get() if isinstance(given, ContextVar) else given(*args, **kwargs)
        except LookupError as exc:
            said = "is set in this context" if isinstance(given, ContextVar) else "was found"
            raise ConfigurationError(f"{self._name}: no partition {said}") from exc
        if not isinstance(found, str) or not found:
            raise ConfigurationError(f"{self._name}: partition= must give a non-empty str")
        return found

    def whole(self, partition: Any) -> Any:
        """The partition that is to be cleared. Raises ConfigurationError if it must be said."""
        given = self._partition
        if partition is not UNSET:
            return partition
        if isinstance(given, str | ContextVar):
            return self.partition((), {})
        raise ConfigurationError(
            f"{self._name}: the arguments say which partition: cache_clear(partition=...)"
        )

    def job(
        self, cache: Any, partition: str, key: bytes, args: Any, kwargs: Any, *, force: bool = False
    ) -> Job:
        """How to compute the result of a call."""
        function, tags = self.function, self._tags
        carried = tag_names(tags(*args, **kwargs)) if callable(tags) else tags
        if cache._everywhere and self._arguments is not None:
            carried = (*carried, self._clear_tag)
        return Job(
            partition=partition,
            key=key,
            factory=lambda: function(*args, **kwargs),
            ttl=self._ttl,
            tags=carried,
            type=self.type,
            condition=self._condition,
            exceptions=self._exceptions,
            lenient=not self._strict,
            force=force,
            name=self._name,
            info=self.info,
        )

    def check_clearing(self) -> None:
        """Raises ConfigurationError if the function's entries are not known by their names."""
        if self._arguments is None:
            raise ConfigurationError(f"{self._name} makes its own keys: delete them, or a tag")

    @property
    def _clear_tag(self) -> str:
        return f"\0function {self._name}"

    def hit(self, cache: Any, partition: str, key: bytes) -> Any:
        """The result from the in-process layer, or UNSET."""
        if cache._local is None:
            return UNSET
        return self.plain(cache, cache._local_entry(partition, key), "local_hits")

    def plain(self, cache: Any, entry: Entry | None, what: str) -> Any:
        """The result in *entry*, if it is a usual one; UNSET if the herd must look at it."""
        if (
            entry is None
            or entry.kind > NONE
            or entry.fresh_until
            or len(entry.payload) > INLINE_DECODE_BYTES
        ):
            return UNSET
        try:
            value = cache._payloads.decoded(entry.kind, entry.payload, self.type)
        except FormatError:  # its annotation is wrong: the long way tells, and never fails
            return UNSET
        cache._observer.count(what)
        self.info.hits += 1
        return value


def _decorate_async(self: CachedFunction) -> Any:
    """The wrapper of an ``async def``."""

    @functools.wraps(self.function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        cache, key = self.cache, self.key(args, kwargs)
        partition = self.partition(args, kwargs)
        value = self.hit(cache, partition, key)
        if value is not UNSET:
            return value
        entry = await cache._found(partition, key)
        value = self.plain(cache, entry, "hits")
        if value is not UNSET:
            return value
        return await cache._herd.value(cache, self.job(cache, partition, key, args, kwargs), entry)

    async def invalidate(*args: Any, **kwargs: Any) -> bool:
        """Delete the entry of these arguments; whether there was one."""
        partition, key = self.partition(args, kwargs), self.key(args, kwargs)
        return bool(await self.cache._drive(self.cache._entries.delete(partition, [key])))

    async def refresh(*args: Any, **kwargs: Any) -> Any:
        """Call the function and replace the entry of these arguments."""
        partition, key = self.partition(args, kwargs), self.key(args, kwargs)
        job = self.job(self.cache, partition, key, args, kwargs, force=True)
        return await self.cache._herd.value(self.cache, job)

    async def cache_clear(*, partition: str = UNSET) -> int:
        """Delete all entries of the function in one partition; how many."""
        cache, partition = self.cache, self.whole(partition)
        self.check_clearing()
        cache._leases.revoke_all(partition, function_key(self._name, b""))
        if cache._everywhere:
            await cache.delete_tag(self._clear_tag, partition=partition)
            return 0
        names = await cache._drive(cache._keys.names(partition))
        cache._copies.clear(partition)
        deleted: int = await cache._sweep(_prefixes(self, names))
        cache._copies.clear(partition)
        cache._leases.part_all(partition, function_key(self._name, b""))
        return deleted

    return wrapper, invalidate, refresh, cache_clear


def _decorate_sync(self: CachedFunction) -> Any:
    """The wrapper of a ``def``."""

    @functools.wraps(self.function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        cache, key = self.cache, self.key(args, kwargs)
        partition = self.partition(args, kwargs)
        value = self.hit(cache, partition, key)
        if value is not UNSET:
            return value
        entry = cache._found(partition, key)
        value = self.plain(cache, entry, "hits")
        if value is not UNSET:
            return value
        return cache._herd.value(cache, self.job(cache, partition, key, args, kwargs), entry)

    def invalidate(*args: Any, **kwargs: Any) -> bool:
        """Delete the entry of these arguments; whether there was one."""
        partition, key = self.partition(args, kwargs), self.key(args, kwargs)
        return bool(self.cache._drive(self.cache._entries.delete(partition, [key])))

    def refresh(*args: Any, **kwargs: Any) -> Any:
        """Call the function and replace the entry of these arguments."""
        partition, key = self.partition(args, kwargs), self.key(args, kwargs)
        job = self.job(self.cache, partition, key, args, kwargs, force=True)
        return self.cache._herd.value(self.cache, job)

    def cache_clear(*, partition: str = UNSET) -> int:
        """Delete all entries of the function in one partition; how many."""
        cache, partition = self.cache, self.whole(partition)
        self.check_clearing()
        cache._leases.revoke_all(partition, function_key(self._name, b""))
        if cache._everywhere:
            cache.delete_tag(self._clear_tag, partition=partition)
            return 0
        names = cache._drive(cache._keys.names(partition))
        cache._copies.clear(partition)
        deleted: int = cache._sweep(_prefixes(self, names))
        cache._copies.clear(partition)
        cache._leases.part_all(partition, function_key(self._name, b""))
        return deleted

    return wrapper, invalidate, refresh, cache_clear


def _prefixes(self: CachedFunction, names: Any) -> list[str]:
    """What the names of the function's entries begin with."""
    found: list[str] = names.function_prefixes(self._name)
    return found


def decorate(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    """*function* with a cache in front. *options* were checked."""
    of_class = isinstance(function, classmethod)
    if isinstance(function, classmethod):
        function = function.__func__
    self = CachedFunction(function, options)
    make = _decorate_async if self.is_async else _decorate_sync
    wrapper, wrapper.invalidate, wrapper.refresh, wrapper.cache_clear = make(self)
    wrapper.cache_info = lambda: dataclass_copy(self.info)
    wrapper.key_of = lambda *args, **kwargs: self.key(args, kwargs)
    wrapper.cached = self
    if self.fixed is not None:
        wrapper.cache = self.fixed
    return as_method(wrapper, of_class=of_class) if of_class or is_method(function) else wrapper


def dataclass_copy(info: CacheInfo) -> CacheInfo:
    """The counters of this moment."""
    return CacheInfo(info.hits, info.misses, info.stale)


def cached(
    function: Callable[..., Any] | None = None,
    /,
    *,
    cache: Any,
    ttl: Any = UNSET,
    key: Callable[..., str] | None = None,
    of_self: Any = ...,
    partition: str | Callable[..., str] | ContextVar[str] = "default",
    tags: Sequence[str] | Callable[..., Sequence[str]] = (),
    type: Any = UNSET,
    condition: Callable[[Any], bool] | None = None,
    exceptions: Sequence[type[Exception]] = (),
    strict: bool = False,
    name: str | None = None,
) -> Any:
    """Keep the results of a function, sealed, in *cache*; on ``async def`` and on ``def``.

    The function never fails because the cache does: then it is simply called. The decorated
    function has ``invalidate(*args)``, ``refresh(*args)``, ``cache_clear(partition=...)``,
    ``cache_info()``, ``key_of(*args)`` and ``__wrapped__``; the first three are awaited on
    ``async def``. Its ``cache`` is the one that was given (not a function that returns it).
    Through an object, those of a method have ``self`` already; through the class
    it is their first argument. ``@cached`` goes above ``@classmethod``, and below
    ``@staticmethod``.

    Args:
        cache: A Cache (an ``anyseal.sync.Cache`` for ``def``), or a function that returns it.
        ttl: Seconds, a timedelta, None, or a function of the result (or of the exception that is
            kept). Default: the cache's.
        key: A function of the arguments that returns the key, as ``cache.get`` takes it. Default:
            all arguments, bound to the signature, with defaults.
        of_self: For methods: what of ``self`` or ``cls`` belongs to the key, or None for nothing.
        partition: Whose entries: a name, a function of the arguments, or a ContextVar.
            ``cache_clear()`` clears that of the name, or the one that is set; where the arguments
            say it, ``cache_clear(partition=...)`` does.
        tags: At most 32, or a function of the arguments.
        type: What results are decoded as. Default: the return annotation.
        condition: Given the result (or the exception), whether to keep it.
        exceptions: Classes of exceptions that are kept, too, and raised again.
        strict: A result that cannot be encoded raises TypeError instead of not being kept.
        name: Stands for the function in keys. Default: its module and qualified name.

    Raises:
        ConfigurationError: A method without *of_self*.
        TypeError: *cache* waits and the function does not, or the other way round; an option is
            of another type.
        ValueError: An option is out of bounds.

    Cost: on a hit in the process a few microseconds, without a look at anything else.
    """
    options = {
        "cache": cache, "ttl": ttl, "key": key, "of_self": of_self, "partition": partition,
        "tags": tags, "type": type, "condition": condition, "exceptions": exceptions,
        "strict": strict, "name": name,
    }  # fmt: skip
    options = check_options(options)
    if function is None:
        return lambda function: decorate(function, options)
    return decorate(function, options)
