"""What type checkers see of a decorated function: it keeps the function's signature.

Nothing here is used at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, overload

from anyseal.cache.function import CacheInfo

__all__ = ["AsyncCached", "Cached", "Decorator"]

P = ParamSpec("P")
Q = ParamSpec("Q")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
S_contra = TypeVar("S_contra", contravariant=True)


class AsyncCached(Protocol[P, T_co]):
    """An ``async def`` with a cache in front; through an object it has ``self`` already."""

    @property
    def __wrapped__(self) -> Callable[P, Coroutine[Any, Any, T_co]]:
        """The function itself."""
        ...

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """The result: the cached one, or else the function's own."""
        ...

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Delete the entry of these arguments; return whether it existed."""
        ...

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """Call the function and replace the entry of these arguments."""
        ...

    async def cache_clear(self, *, partition: str = ...) -> int:
        """Delete all entries of the function in one partition; return how many."""
        ...

    def key_of(self, *args: P.args, **kwargs: P.kwargs) -> bytes:
        """The key of a call."""
        ...

    def cache_info(self) -> CacheInfo:
        """What became of the calls in this process."""
        ...

    @overload
    def __get__(self, instance: None, owner: Any = ...) -> Self: ...
    @overload
    def __get__(
        self: AsyncCached[Concatenate[S_contra, Q], T], instance: S_contra, owner: Any = ...
    ) -> AsyncCached[Q, T]: ...


class Cached(Protocol[P, T_co]):
    """A ``def`` with a cache in front; through an object it has ``self`` already."""

    @property
    def __wrapped__(self) -> Callable[P, T_co]:
        """The function itself."""
        ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """The result: the cached one, or else the function's own."""
        ...

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Delete the entry of these arguments; return whether it existed."""
        ...

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """Call the function and replace the entry of these arguments."""
        ...

    def cache_clear(self, *, partition: str = ...) -> int:
        """Delete all entries of the function in one partition; return how many."""
        ...

    def key_of(self, *args: P.args, **kwargs: P.kwargs) -> bytes:
        """The key of a call."""
        ...

    def cache_info(self) -> CacheInfo:
        """What became of the calls in this process."""
        ...

    @overload
    def __get__(self, instance: None, owner: Any = ...) -> Self: ...
    @overload
    def __get__(
        self: Cached[Concatenate[S_contra, Q], T], instance: S_contra, owner: Any = ...
    ) -> Cached[Q, T]: ...


class Decorator(Protocol):
    """What ``cached(...)`` and ``secure(...)`` return: it takes the function."""

    # An async def is a function too: the first that fits counts.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> AsyncCached[P, T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> Cached[P, T]: ...
    @overload
    def __call__(self, function: classmethod[Any, P, T], /) -> Any: ...
