"""How the cache waits on the side of ``await``: the one part of it that is written twice.

:mod:`anyseal.sync.kit` has the same names for threads. Everything that uses them is written here,
in ``anyseal.cache``, and :mod:`anyseal.sync._generated` is made from it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio import fail_after, move_on_after, sleep
from anyio.lowlevel import current_token

from anyseal.errors import BackendError
from anyseal.flight import SingleFlight as Flight
from anyseal.loops import PerLoop
from anyseal.offload import breathe
from anyseal.offload import run as away
from anyseal.tasks import Background as _Background
from anyseal.tasks import each_awaited

if TYPE_CHECKING:
    from anyseal.cache.local import LocalLayer
    from anyseal.cache.policy import CachePolicy
    from anyseal.ports import BackendTraits

__all__ = [
    "Background",
    "Flight",
    "Renewals",
    "asked",
    "away",
    "breathe",
    "called",
    "cancelled",
    "each",
    "fail_after",
    "last_steps",
    "move_on_after",
    "shielded",
    "sleep",
    "timeout_of",
    "watching",
]

T = TypeVar("T")

SET_TASKS = 64

WAITS = True
"""Whether backends and functions of this side are awaited."""

logger = logging.getLogger("anyseal.cache")
cancelled = anyio.get_cancelled_exc_class


def shielded() -> Any:
    """A block that a cancellation does not cut short."""
    return anyio.CancelScope(shield=True)


def last_steps(seconds: float | None) -> Any:
    """The same, for so many seconds."""
    return anyio.move_on_after(seconds, shield=True)


def timeout_of(policy: CachePolicy, traits: BackendTraits) -> float | None:
    """Seconds for one call of the backend; None where the backend itself bounds its calls."""
    return None if traits.enforces_timeout else policy.timeout


async def asked(keyring: Any, method: str, *args: Any) -> Any:
    """The answer of a keyring that must wait for it."""
    return await getattr(keyring, method)(*args)


async def called(factory: Callable[[], Awaitable[T]]) -> T:
    """What *factory* returns. Raises TypeError if it cannot be awaited."""
    awaitable = factory()
    if not hasattr(awaitable, "__await__"):
        raise TypeError("factory must be awaitable; anyseal.sync.Cache takes a plain one")
    return await awaitable


async def each(function: Callable[..., Awaitable[object]], jobs: Iterable[Any]) -> None:
    """Call *function* with each of *jobs*, several at the same time. The first error ends it."""
    await each_awaited(function, iter(jobs), SET_TASKS)


class Background(_Background):
    """Tasks of a cache that no caller waits for.

    Args:
        given_up: Called with the mark of work that does not end in time when the cache closes.
    """

    def __init__(self, given_up: Callable[[Any], object]) -> None:
        super().__init__("cache")
        self._marks: set[Any] = set()

    def once(self, mark: Hashable, function: Callable[[], Awaitable[None]]) -> None:
        """Run *function* in the background unless one with this *mark* runs in this loop."""
        # An event loop that ended, or a parent process, may have left its mark.
        here = (current_token(), mark)
        if here not in self._marks:
            self._marks.add(here)
            self.start(function, lambda: self._marks.discard(here))


class _Due:
    """The leases of one event loop, and the one task that renews them."""

    def __init__(self) -> None:
        self.leases: dict[Any, float] = {}
        self.running = False

    async def run(self) -> None:
        try:
            while self.leases:
                await sleep(max(0.005, min(self.leases.values()) - anyio.current_time()))
                now = anyio.current_time()
                for lease in [each for each, due in self.leases.items() if due <= now]:
                    self.leases[lease] = now + lease.seconds / 3
                    with contextlib.suppress(BackendError):
                        await lease.renew()
        finally:
            self.running = False


class Renewals:
    """Renews the leases of one cache, in one task for each event loop."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._due = PerLoop(_Due)

    def add(self, lease: Any) -> None:
        """Renew *lease* from now on."""
        due = self._due.get()
        due.leases[lease] = anyio.current_time() + lease.seconds / 3
        if not due.running:
            due.running = True
            self._background.start(due.run)

    def drop(self, lease: Any) -> None:
        """Stop renewing it."""
        self._due.get().leases.pop(lease, None)


class Watch:
    """Drops what other processes changed from *local*: the names that begin with *prefix*.

    One task in each event loop.
    """

    def __init__(
        self, backend: Any, prefix: str, local: LocalLayer, background: Background
    ) -> None:
        self._backend = backend
        self._prefix = prefix
        self._local = local
        self._background = background
        self._watching: anyio.lowlevel.RunVar[bool] = anyio.lowlevel.RunVar("_anyseal_watching")

    def begin(self) -> None:
        """Begin to watch in this event loop, unless that was begun."""
        if not self._watching.get(False):
            self._watching.set(True)
            self._background.start(self._run, lambda: self._watching.set(False))

    async def _run(self) -> None:
        """Forget what others changed, as the backend tells of it."""
        try:
            async for names in self._backend.changes(self._prefix):
                self._local.drop_names(names)
        finally:
            self._local.drop_names(None)


def watching(
    backend: Any, prefix: str, local: LocalLayer | None, background: Background
) -> Watch | None:
    """What tells *local* of other processes' changes, if the backend can."""
    if local is None or not hasattr(backend, "changes"):
        return None
    return Watch(backend, prefix, local, background)
