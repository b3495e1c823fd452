"""Herds: of all who ask for one missing value, in this process and in others, one computes it.

In the process the others wait for it; across processes they poll for the value while the one who
computes renews its lease. There is no time after which they give up: a lease whose holder died
ends by itself, and the next one takes it.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import sniffio

from anyseal.cache.base import CacheBase
from anyseal.cache.entry import ERROR, LOCK, Entry
from anyseal.cache.needs import UNSET, Need, redirected
from anyseal.errors import BackendError, FormatError
from anyseal.flight import SingleFlight

if TYPE_CHECKING:
    from anyseal.cache.core import Cache

__all__ = ["LEFT", "POLL_FIRST", "POLL_MAX", "Background", "Computed", "Herd", "Job", "next_poll"]

logger = logging.getLogger("anyseal.cache")

POLL_FIRST, POLL_MAX = 0.01, 0.25
"""Seconds between two looks for the value that someone else computes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One missing value, and how to compute it."""

    partition: str
    key: bytes
    factory: Callable[[], Any]
    ttl: Any = UNSET
    """A TTL, or a function of the value that returns one."""
    tags: tuple[str, ...] = ()
    type: Any = Any
    condition: Callable[[Any], bool] | None = None
    exceptions: tuple[type[Exception], ...] = ()
    """Those that are cached, too."""
    lenient: bool = False
    """A value that cannot be stored is returned all the same."""
    force: bool = False
    """Compute even if there is a value."""
    info: Any = None
    """Counts ``hits``, ``misses`` and ``stale`` of one function."""

    def count(self, cache: CacheBase, what: str) -> None:
        """Count one more on the cache, and on the function."""
        cache._observer.count(what)
        if self.info is not None:
            self.info.count("hits" if what == "local_hits" else what)

    @property
    def flight(self) -> tuple[str, bytes, bool]:
        """Jobs with the same of this are one."""
        return self.partition, self.key, self.force


@dataclass(slots=True)
class Computed:
    """A value, and its payload, from which others decode their own."""

    value: Any
    kind: int = -1
    """Below 0: there is no payload."""
    payload: Any = b""


LEFT = Computed(UNSET)
"""A refresh that another process is about."""


def next_poll(delay: float) -> float:
    """How long to wait before the look after the next one."""
    return min(POLL_MAX, delay * 1.6) * (0.8 + 0.4 * random.random())  # noqa: S311 - no secret


class Background:
    """Tasks that nobody waits for: each belongs to the event loop that it began in."""

    def __init__(self) -> None:
        self._scopes: dict[anyio.CancelScope, tuple[Any, anyio.Event]] = {}
        self._tasks: set[Any] = set()

    def start(
        self, function: Callable[[], Awaitable[None]], over: Callable[[], object] | None = None
    ) -> None:
        """Run *function* in the background; what it raises is logged.

        *over* is called when it has ended, also if it was cancelled before it began.
        """
        scope, ended = anyio.CancelScope(), anyio.Event()
        self._scopes[scope] = (anyio.lowlevel.current_token(), ended)

        async def run() -> None:
            try:
                with scope:
                    try:
                        await function()
                    except Exception as exc:
                        name = type(exc).__name__
                        logger.warning("a background task of the cache failed: %s", name)
            finally:
                end()

        def end() -> None:
            if self._scopes.pop(scope, None) is not None:
                ended.set()
                if over is not None:
                    over()

        if sniffio.current_async_library() == "trio":
            import trio

            trio.lowlevel.spawn_system_task(run, context=contextvars.copy_context())
        else:
            import asyncio

            task = asyncio.get_running_loop().create_task(run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: end())

    async def aclose(self) -> None:
        """Cancel this event loop's tasks, and wait for their end."""
        here = anyio.lowlevel.current_token()
        for scope, (token, ended) in list(self._scopes.items()):
            if token == here:
                scope.cancel()
                await ended.wait()


class Herd:
    """Computes missing values for one cache."""

    def __init__(self) -> None:
        self._flights: SingleFlight[Computed] = SingleFlight()
        self._refreshing: set[tuple[Any, str, bytes]] = set()
        self._renewals: anyio.lowlevel.RunVar[Any] = anyio.lowlevel.RunVar("_anyseal_leases")

    async def value(self, cache: Cache, job: Job) -> Any:
        """The value of the job's key, found or computed."""
        if not job.force:
            entry = cache._local_entry(job.partition, job.key)
            local = entry is not None
            if entry is None:
                entry = await cache._found(job.partition, job.key)
            if entry is not None:
                value = await self._usable(cache, job, entry)
                if value is not UNSET:
                    if not cache._stale(entry):
                        job.count(cache, "local_hits" if local else "hits")
                    return value
            job.count(cache, "misses")
        led = False

        async def lead() -> Computed:
            nonlocal led
            led = True
            return await self._compute(cache, job)

        computed = await self._flights.run(job.flight, lead)
        while computed is LEFT:  # it was a refresh, and another process has the lease
            computed = await self._flights.run(job.flight, lead)
        if led or computed.kind < 0:
            return computed.value
        try:
            return await cache._decode(computed.kind, computed.payload, job.type)
        except FormatError:  # its annotation is wrong: then what the function returned
            return computed.value

    async def _usable(self, cache: Cache, job: Job, entry: Entry) -> Any:
        """The value of *entry*, which may be stale: then it is refreshed in the background."""
        stale = cache._stale(entry)
        if stale and not cache.policy.stale_ttl:
            return UNSET
        if entry.kind == ERROR:
            error = cache._payloads.revived(entry, job.exceptions)
            if error is None:
                return UNSET
            raise error
        value = await cache._value(job.partition, job.key, entry, job.type)
        if value is UNSET:
            return UNSET
        if stale or cache.policy.refresh_early(entry.fresh_until, entry.cost_ms):
            if stale:
                job.count(cache, "stale")
            self._refresh_soon(cache, job)
        return value

    def _refresh_soon(self, cache: Cache, job: Job) -> None:
        """Compute in the background, unless that is under way here."""
        # An event loop that ended, or a parent process, may have left its mark.
        mark = (anyio.lowlevel.current_token(), job.partition, job.key)
        if mark in self._refreshing:
            return
        self._refreshing.add(mark)

        async def refresh() -> None:
            await self._flights.run(job.flight, lambda: self._refresh(cache, job))

        cache._background.start(refresh, lambda: self._refreshing.discard(mark))

    async def _refresh(self, cache: Cache, job: Job) -> Computed:
        """Compute under the lease; if another process has it, leave it to that one."""
        lease = await self._lease(cache, job)
        if lease is None:
            return LEFT
        async with lease:
            return await self._run(cache, job)

    async def _lease(self, cache: Cache, job: Job) -> _Lease | None:
        """The lease on the job's key; None if another has it."""
        renewals = self._renewals.get(None)
        if renewals is None:
            renewals = _Renewals()
            self._renewals.set(renewals)
        lease = _Lease(cache, renewals)
        try:
            names = cache._keys.names_hit(job.partition)
            if names is None:
                names = await cache._drive(cache._keys.names(job.partition))
            return lease if await lease.take(names.names(job.key)) else None
        except BackendError:
            if cache.policy.on_backend_error == "closed":
                raise
            return lease  # nobody can be asked: better twice than not at all

    async def _compute(self, cache: Cache, job: Job) -> Computed:
        """Compute under the lease, or wait for the value of who has it."""
        if cache.policy.lease is None:
            return await self._run(cache, job)
        delay = POLL_FIRST
        while True:
            lease = await self._lease(cache, job)
            if lease is not None:
                async with lease:
                    if lease.held and not job.force and lease.found is not None:
                        found = await self._arrived(cache, job)
                        if found is not None:  # while the lease changed hands
                            return found
                    return await self._run(cache, job, lease)
            await anyio.sleep(delay)
            delay = next_poll(delay)
            found = None if job.force else await self._arrived(cache, job)
            if found is not None:
                return found

    async def _arrived(self, cache: Cache, job: Job) -> Computed | None:
        """The value that someone else stored meanwhile."""
        entry = await cache._found(job.partition, job.key)
        if entry is None or cache._stale(entry):
            return None
        if entry.kind == ERROR:
            error = cache._payloads.revived(entry, job.exceptions)
            if error is None:
                return None
            raise error
        try:
            found = await cache._payload(job.partition, job.key, entry)
            if found is None:
                return None
            return Computed(await cache._decode(*found, job.type), *found)
        except BackendError:
            if cache.policy.on_backend_error == "closed":
                raise
        except FormatError:  # undecodable: then computed here
            pass
        return None

    async def _tags(self, cache: Cache, job: Job) -> Any:
        """The job's tags as its entry will carry them; None if the backend is down.

        Before the factory is called: a tag that is deleted meanwhile must end the result, too.
        """
        if not job.tags and not cache._everywhere:
            return ()
        try:
            names = await cache._drive(cache._keys.names(job.partition))
            return await cache._drive(cache._tags.generations(names, job.partition, job.tags))
        except BackendError:
            if cache.policy.on_backend_error == "closed":
                raise
            return None

    async def _run(self, cache: Cache, job: Job, lease: _Lease | None = None) -> Computed:
        """Call the factory and store what it returns."""
        tags = await self._tags(cache, job)
        started = perf_counter()
        try:
            made = job.factory()
            if not hasattr(made, "__await__"):
                raise TypeError("factory must be awaitable; anyseal.sync.Cache takes a plain one")
            value = await made
        except job.exceptions as exc:
            await self._keep(cache, job, tags, *cache._payloads.frozen(exc), started, exc, lease)
            raise
        try:
            kind, payload = cache._payloads.prepared(value)
        except (TypeError, ValueError) as exc:
            if not job.lenient:
                raise
            cache._observer.warn("a value cannot be cached", job.partition, exc)
            return Computed(value)
        await self._keep(cache, job, tags, kind, payload, started, value, lease)
        return Computed(value, kind, payload)

    async def _keep(
        self, cache: Cache, job: Job, tags: Any, kind: int, payload: Any, started: float,
        value: Any, lease: _Lease | None,
    ) -> None:  # fmt: skip
        """Store a computed payload, if it is wanted and can be."""
        if tags is None or (job.condition is not None and not job.condition(value)):
            return
        ttl = cache._lives_for(job, value)
        if ttl is UNSET:
            return
        options = {"ttl": ttl, "tags": tags, "cost_ms": round((perf_counter() - started) * 1000)}
        try:
            if lease is None or not lease.settles or len(payload) > cache.policy.large_bytes:
                await cache._put(job.partition, job.key, kind, payload, **options)
            else:
                flow = cache._entries.store(job.partition, job.key, kind, bytes(payload), **options)
                await cache._drive(redirected(flow, "set", lease.settling))
                lease.settled()
        except BackendError:
            if cache.policy.on_backend_error == "closed":
                raise


class _Renewals:
    """Renews the leases of one event loop, in one task for all."""

    def __init__(self) -> None:
        self._due: dict[_Lease, float] = {}
        self._running = False

    def add(self, lease: _Lease, background: Background) -> None:
        """Renew *lease* from now on."""
        self._due[lease] = anyio.current_time() + lease.seconds / 3
        if not self._running:
            self._running = True
            background.start(self._run)

    def drop(self, lease: _Lease) -> None:
        """Renew it no more."""
        self._due.pop(lease, None)

    async def _run(self) -> None:
        try:
            while self._due:
                await anyio.sleep(max(0.005, min(self._due.values()) - anyio.current_time()))
                now = anyio.current_time()
                for lease in [each for each, due in self._due.items() if due <= now]:
                    self._due[lease] = now + lease.seconds / 3
                    with contextlib.suppress(BackendError):
                        await lease.renew()
        finally:
            self._running = False


class _Lease:
    """The right to compute one key's value, renewed while it is held."""

    __slots__ = ("_cache", "_entry", "_name", "_owner", "_renewals", "found", "held", "seconds")

    def __init__(self, cache: Cache, renewals: _Renewals) -> None:
        self._cache = cache
        self._entry: str | None = None
        self._name = ""
        self._owner = os.urandom(16)
        self._renewals = renewals
        self.seconds: float = cache.policy.lease or 0.0
        self.held = False
        self.found: Any = UNSET
        """What stood under the entry's name when the lease was taken, if that was asked."""

    @property
    def _ttl_ms(self) -> int:
        return max(1, round(self.seconds * 1000))

    async def take(self, stored: list[str]) -> bool:
        """Whether nobody else has it; *stored* is where the entry may be."""
        self._entry = stored[0] if len(stored) == 1 else None
        self._name = stored[0] + LOCK
        if not self.seconds:
            return True
        cache = self._cache
        try:
            if cache._leasing and self._entry is not None:
                self.held, self.found = await cache._guarded(
                    cache._backend.take_lease, self._name, self._owner, self._entry,
                    ttl_ms=self._ttl_ms,
                )  # fmt: skip
            else:
                self.held = await cache._guarded(
                    cache._backend.set, self._name, self._owner, ttl_ms=self._ttl_ms, if_absent=True
                )
        except anyio.get_cancelled_exc_class():
            await self._give_back()  # it may have been taken: others should not wait for its end
            raise
        return self.held

    @property
    def settles(self) -> bool:
        """Whether storing the entry can end the lease, too."""
        return self.held and self._cache._leasing

    def settling(self, need: Need) -> Need:
        """The ``set`` of the entry, which also ends the lease."""
        name, sealed = need.args
        ttl_ms = need.options["ttl_ms"]
        return Need("settle", (name, sealed, self._name, self._owner), {"ttl_ms": ttl_ms})

    def settled(self) -> None:
        """The entry is stored, and the lease with it ended."""
        self.held = False
        self._renewals.drop(self)

    async def _give_back(self) -> None:
        with anyio.CancelScope(shield=True), contextlib.suppress(BackendError):
            call = self._cache._backend.compare_and_set
            await self._cache._guarded(call, self._name, self._owner, None)

    async def renew(self) -> None:
        """Hold it for its time from now on."""
        call = self._cache._backend.compare_and_set
        await self._cache._guarded(call, self._name, self._owner, self._owner, ttl_ms=self._ttl_ms)

    async def __aenter__(self) -> _Lease:
        if self.held:
            self._renewals.add(self, self._cache._background)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if not self.held:
            return
        self.held = False
        self._renewals.drop(self)
        await self._give_back()
