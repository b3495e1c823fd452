"""The function that stands in the place of a decorated one, and what it carries."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from anyseal.compat.cachekit.decorator import CachedFunction

__all__ = ["decorate"]


def decorate(cached: CachedFunction, get_health_status: Callable[[], dict[str, Any]]) -> Any:
    """The function to put in the place of the original."""
    function = cached.function
    is_async = inspect.iscoroutinefunction(function)

    def cache_clear() -> None:
        """Remove all entries and forget the counts."""
        if is_async and not cached.store.local:
            raise TypeError("use: await function.invalidate_cache()")
        cached.clear()

    def check_health() -> dict[str, Any]:
        """The same in short."""
        status = get_health_status()
        return {
            "status": "healthy" if status["healthy"] else "unhealthy",
            "namespace": status["namespace"],
            "components": status["components"],
        }

    async def acheck_health() -> dict[str, Any]:
        """The same in short."""
        return check_health()

    wrapper: Any
    if is_async:

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await cached.acall(*args, **kwargs)

        wrapper.invalidate_cache = wrapper.ainvalidate_cache = cached.ainvalidate
        wrapper.check_health = acheck_health
    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return cached.call(*args, **kwargs)

        wrapper.invalidate_cache = cached.invalidate
        wrapper.check_health = check_health
    wrapper.cache_clear = cache_clear
    wrapper.get_health_status = get_health_status
    wrapper.cache_info = cached.counts.info
    return wrapper
