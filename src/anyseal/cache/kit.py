"""How the cache waits on the side of ``await``: the one part of it that is written twice.

:mod:`anyseal.sync.kit` has the same names for threads. Everything that uses them is written here,
in ``anyseal.cache``, and :mod:`anyseal.sync._generated` is made from it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio
from anyio import fail_after, move_on_after, sleep
from anyio.lowlevel import checkpoint, current_token

from anyseal.errors import BackendError
from anyseal.flight import SingleFlight as Flight
from anyseal.loops import PerLoop
from anyseal.offload import breathe
from anyseal.offload import run as away
from anyseal.patience import Bounds
from anyseal.tasks import Background as _Background
from anyseal.tasks import each_awaited

if TYPE_CHECKING:
    from anyseal.cache.codecs.steps import Steps
    from anyseal.cache.local import LocalLayer
    from anyseal.cache.policy import CachePolicy
    from anyseal.ports import BackendTraits

__all__ = [
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
    "move_on_after",
    "pages_of",
    "shielded",
    "sleep",
    "stepped",
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


class Limit:
    """Makes calls of a backend that does not bound them itself.

    Args:
        seconds: For one call.
        cancels: Whether a cancellation ends its calls; others have a task of their own.
    """

    __slots__ = ("_bounds", "_cancels", "_seconds")

    def __init__(self, seconds: float, cancels: bool) -> None:
        self._seconds = seconds
        self._cancels = cancels
        self._bounds = Bounds(seconds, BackendError)

    async def __call__(self, call: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
        """The answer to one call. Raises BackendError or TimeoutError."""
        if self._cancels or call is anext:  # whose time is kept by pages()
            with fail_after(self._seconds):
                return await call(*args, **options)

        async def run() -> T:
            return await call(*args, **options)

        found: T = await self._bounds.call("the cache's backend", run)
        return found

    def pages(self, pages: AsyncIterable[Any]) -> Any:
        """The pages of a scan, each in its time."""
        return aiter(pages if self._cancels else self._bounds.pages("the cache's backend", pages))


def limit_of(backend: object, policy: CachePolicy, traits: BackendTraits) -> Limit | None:
    """What makes calls of *backend*; None where the backend itself bounds them."""
    if traits.enforces_timeout or policy.timeout is None:
        return None
    return Limit(policy.timeout, traits.ends_when_cancelled)


async def pages_of(
    limit: Limit | None, read: Any, scan: Callable[[str], AsyncIterable[T]], prefix: str
) -> Any:
    """The pages of a scan, one at a time."""
    return aiter(scan(prefix)) if limit is None else limit.pages(scan(prefix))


async def end_pages(pages: Any, policy: CachePolicy) -> None:
    """Close a scan that may have broken off: it may hold a connection."""
    if hasattr(pages, "aclose"):
        with anyio.move_on_after(policy.timeout, shield=True):
            await pages.aclose()


async def asked(keyring: Any, method: str, *args: Any) -> Any:
    """The answer of a keyring that must wait for it."""
    return await getattr(keyring, method)(*args)


async def stepped(steps: Steps[T]) -> T:
    """What *steps* return. Others run between two steps; what one asks for is called in a worker
    thread."""
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
                await checkpoint()
                continue
            try:
                result = await away(wanted)
            except Exception as exc:
                failure = exc


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
