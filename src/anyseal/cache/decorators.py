"""``cached``: results of functions, sealed in a cache."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar, overload

from anyseal.cache.function import CachedFunction
from anyseal.cache.methods import as_method, is_method
from anyseal.cache.options import check_options
from anyseal.cache.policy import UNSET
from anyseal.cache.typed import AsyncCached, Cached, Decorator

__all__ = ["cached", "decorate"]

P = ParamSpec("P")
T = TypeVar("T")


def _wrapper(self: CachedFunction) -> Any:
    """The function's face: an ``async def`` for an ``async def``."""
    if self.is_async:

        @functools.wraps(self.function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return await self.cache._calls.call(self, args, kwargs)

        return awaited

    @functools.wraps(self.function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        return self.cache._calls.call(self, args, kwargs)

    return plain


def decorate(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    """*function* with a cache in front. *options* were checked."""
    of_class = isinstance(function, classmethod)
    if isinstance(function, classmethod):
        function = function.__func__
    self = CachedFunction(function, options)
    wrapper = _wrapper(self)

    # What these return is awaited on an ``async def``.
    def invalidate(*args: Any, **kwargs: Any) -> Any:
        """Delete the entry of these arguments; return whether it existed."""
        return self.cache._calls.invalidate(self, args, kwargs)

    def refresh(*args: Any, **kwargs: Any) -> Any:
        """Call the function and replace the entry of these arguments."""
        return self.cache._calls.refresh(self, args, kwargs)

    def cache_clear(*, partition: str = UNSET) -> Any:
        """Delete all entries of the function in one partition; return how many."""
        return self.cache._calls.clear(self, partition)

    wrapper.invalidate, wrapper.refresh, wrapper.cache_clear = invalidate, refresh, cache_clear
    wrapper.cache_info = lambda: dataclasses.replace(self.info)
    wrapper.key_of = lambda *args, **kwargs: self.key(args, kwargs)
    wrapper.cached = self
    if self.fixed is not None:
        wrapper.cache = self.fixed
    return as_method(wrapper, of_class=of_class) if of_class or is_method(function) else wrapper


@overload
def cached(
    function: Callable[P, Coroutine[Any, Any, T]], /, *, cache: Any
) -> AsyncCached[P, T]: ...
@overload
def cached(function: Callable[P, T], /, *, cache: Any) -> Cached[P, T]: ...
@overload
def cached(
    function: None = None,
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
    shared: bool = True,
    name: str | None = None,
) -> Decorator: ...
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
    shared: bool = True,
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
        shared: See ``Cache.get_or_set``. False for a function that uses what belongs to a request.
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
        "strict": strict, "shared": shared, "name": name,
    }  # fmt: skip
    options = check_options(options)
    if function is None:
        return lambda function: decorate(function, options)
    return decorate(function, options)
