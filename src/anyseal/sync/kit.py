"""How the cache waits without ``await``: :mod:`anyseal.cache.kit` for threads."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from time import sleep
from typing import TYPE_CHECKING, Any, TypeVar, cast

from anyseal import offload
from anyseal.errors import BackendError
from anyseal.flight import ThreadFlight as Flight
from anyseal.patience import Bounds
from anyseal.ports import LocalKeyring
from anyseal.sync.leases import renewer

if TYPE_CHECKING:
    from anyseal.cache.codecs.steps import Steps

__all__ = [
    "WAITS",
    "Background",
    "Flight",
    "Limit",
    "Renewals",
    "asked",
    "away",
    "breathe",
    "called",
    "cancelled",
    "each",
    "end_pages",
    "limit_of",
    "pages_of",
    "shielded",
    "sleep",
    "stepped",
    "watching",
]

T = TypeVar("T")

WAITS = False
REFRESHES_MAX = 8
"""Threads that refresh in the background at the same time; beyond, a stale value is served and
refreshed by a later caller."""

CLOSE_SECONDS = 2.0
"""How long closing waits for refreshes that are under way."""

logger = logging.getLogger("anyseal.cache")


def shielded() -> Any:
    """A block; threads are not cancelled."""
    return contextlib.nullcontext()


def cancelled() -> type[BaseException]:
    """What ends a thread that waits."""
    return KeyboardInterrupt


_bounds: weakref.WeakKeyDictionary[Any, dict[float, Bounds]] = weakref.WeakKeyDictionary()
"""By backend: what its calls leave behind counts for all caches over it."""


class Limit:
    """Makes calls of a backend that does not bound them itself, each in a thread.

    Args:
        bounds: For one call.
    """

    __slots__ = ("_bounds",)

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds

    def __call__(self, call: Callable[..., T], *args: Any, **options: Any) -> T:
        """The answer to one call. Raises BackendError."""
        found: T = self._bounds.wait("the cache's backend", partial(call, *args, **options))
        return found


def limit_of(backend: Any, policy: Any, traits: Any) -> Limit | None:
    """What makes calls of *backend*; None where the backend itself bounds them."""
    seconds = policy.timeout
    if traits.enforces_timeout or seconds is None:
        return None
    bounds = Bounds(seconds, BackendError)
    with contextlib.suppress(TypeError):  # not hashable, or without weak references
        bounds = _bounds.setdefault(backend, {}).setdefault(seconds, bounds)
    return Limit(bounds)


def pages_of(
    limit: Limit | None, read: Callable[..., Any], scan: Callable[[str], Iterable[T]], prefix: str
) -> Any:
    """The pages of a scan, one at a time. To begin it may take time, too."""
    return read(lambda: iter(scan(prefix)))


def end_pages(pages: Any, policy: Any) -> None:
    """Close a scan that may have broken off: it may hold a connection."""
    if hasattr(pages, "close"):
        with contextlib.suppress(ValueError):  # it still runs, in a thread that was left behind
            pages.close()


def asked(keyring: Any, method: str, *args: Any) -> Any:
    """The answer of a keyring that must wait for it: here, or on the shared event loop."""
    local = getattr(keyring, f"{method}_local", None)
    if local is not None and isinstance(keyring, LocalKeyring):
        return local(*args)
    return offload.wait(getattr(keyring, method), *args)


def away(function: Callable[..., T], *args: Any) -> T:
    """What *function* returns; there is no event loop that it could hold up."""
    return function(*args)


def breathe(done: int) -> None:
    """Nothing: no other task waits for this thread."""


def stepped(steps: Steps[T]) -> T:
    """What *steps* return. Other threads run between two of them."""
    result: Any = None
    failure: Exception | None = None
    with contextlib.closing(steps):
        while True:
            try:
                wanted = steps.send(result) if failure is None else steps.throw(failure)
            except StopIteration as end:
                return cast(T, end.value)
            result = failure = None
            if wanted is None:
                continue
            try:
                result = wanted()
            except Exception as exc:
                failure = exc


def called(factory: Callable[[], T]) -> T:
    """What *factory* returns. Raises TypeError if that must be awaited."""
    value = factory()
    if hasattr(value, "__await__"):
        if hasattr(value, "close"):
            value.close()  # a coroutine that is never awaited would complain
        raise TypeError(
            "what was called must be awaited: anyseal.cache.Cache takes an async factory, and "
            "decorators an async def"
        )
    return value


def each(function: Callable[..., object], jobs: Iterable[Any]) -> None:
    """Call *function* with each of *jobs*."""
    for job in jobs:
        function(*job)


_live: weakref.WeakSet[Background] = weakref.WeakSet()


def _renew_all() -> None:
    for background in list(_live):
        background._threads = {}  # those are the parent's


os.register_at_fork(after_in_child=_renew_all)


class Background:
    """Threads that no caller waits for.

    Args:
        given_up: Called with the mark of work that does not end in time when the cache closes;
            gives the leases that it holds.
    """

    def __init__(self, given_up: Callable[[Any], list[Any]]) -> None:
        self._given_up = given_up
        self._threads: dict[Any, threading.Thread] = {}
        self._closed = False
        _live.add(self)

    def once(self, mark: Any, function: Callable[[], None]) -> None:
        """Run *function* in a thread unless one with this *mark* runs already."""
        if self._closed or mark in self._threads or len(self._threads) >= REFRESHES_MAX:
            return

        def run() -> None:
            try:
                if not self._closed:
                    function()
            except Exception as exc:
                logger.warning("a background task of the cache failed: %s", type(exc).__name__)
            finally:
                self._threads.pop(mark, None)

        context = contextvars.copy_context()  # the function may look at a ContextVar
        thread = threading.Thread(
            target=context.run, args=(run,), name="anyseal-refresh", daemon=True
        )
        if self._threads.setdefault(mark, thread) is not thread:
            return  # another thread was first
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the interpreter is about to end
            self._threads.pop(mark, None)

    def close(self) -> None:
        """Begin no more, and wait for those under way, all in all for ``CLOSE_SECONDS``.

        A thread that is not over by then stores nothing, and asks the backend for nothing more.
        """
        self._closed = True
        end = time.monotonic() + CLOSE_SECONDS
        for mark, thread in list(self._threads.items()):
            if thread is not threading.current_thread() and thread.is_alive():
                thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                for lease in self._given_up(mark):
                    renewer.drop(lease)
        renewer.rest()


class Renewals:
    """Renews leases, in one thread for all caches of the process."""

    def __init__(self, background: Background) -> None:
        self.add = renewer.add
        self.drop = renewer.drop


def watching(backend: Any, prefix: str, local: Any, background: Background) -> Any:
    """None: sync code is not told of other processes' changes, and asks again after
    ``local_ttl``."""
    return None
