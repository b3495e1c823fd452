"""Herds: of all who ask for one missing value, in this process and in others, one computes it.

In the process the others wait for it; across processes they poll for the value while the one who
computes renews its lease. There is no time after which they give up: a lease whose holder died
ends by itself, and the next one takes it.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from anyseal.cache.entry import Entry
from anyseal.cache.jobs import LEFT, POLL_FIRST, Computed, Job, next_poll
from anyseal.cache.leases import Lease, Leases, Renewals
from anyseal.cache.needs import UNSET
from anyseal.computing import Computing, computes
from anyseal.errors import BackendError, FormatError
from anyseal.flight import SingleFlight

if TYPE_CHECKING:
    from anyseal.cache.core import Cache

__all__ = ["Herd"]


class Herd:
    """Computes missing values for one cache."""

    def __init__(self, leases: Leases) -> None:
        self._flights: SingleFlight[Computed] = SingleFlight()
        leases.flights = self._flights
        self._refreshing: set[tuple[Any, str, bytes]] = set()
        self._renewals: anyio.lowlevel.RunVar[Any] = anyio.lowlevel.RunVar("_anyseal_leases")

    async def value(self, cache: Cache, job: Job, entry: Any = UNSET) -> Any:
        """The value of the job's key, found or computed.

        *entry* is what the caller found under the key, or None; else it is looked for here.
        """
        if not job.force:
            local = False
            if entry is UNSET:
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
        if computes((cache, job.partition, job.key)):
            return await made(job)
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
        if job.excludes(cache, entry):
            return UNSET
        value = await cache._value(job.partition, job.key, entry, job.type)
        if value is not UNSET and job.refreshes(cache, entry, stale=stale):
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
            return await self._run(cache, job, lease)

    async def _lease(self, cache: Cache, job: Job) -> Lease | None:
        """The lease on the job's key; None if another has it."""
        renewals = self._renewals.get(None)
        if renewals is None:
            renewals = Renewals()
            self._renewals.set(renewals)
        lease = Lease(cache, job, renewals)
        if not lease.asks(job):
            return lease
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
        if entry is None or cache._stale(entry) or job.excludes(cache, entry):
            return None
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

    async def _run(self, cache: Cache, job: Job, lease: Lease) -> Computed:
        """Call the factory and store what it returns."""
        tags = None if lease.unreached else await cache._drive(job.carried(cache))
        started = perf_counter()
        try:
            with Computing((cache, job.partition, job.key)):
                made = job.factory()
                if not hasattr(made, "__await__"):
                    raise TypeError(
                        "factory must be awaitable; anyseal.sync.Cache takes a plain one"
                    )
                value = await made
        except job.exceptions as exc:
            kept = job.frozen(cache, exc)
            if kept is not None:
                options = job.options(cache, tags, exc, started)
                await self._keep(cache, job, *kept, options, lease)
            raise
        prepared = job.prepared(cache, value)
        if prepared is None:
            return Computed(value)
        options = job.options(cache, tags, value, started)
        await self._keep(cache, job, *prepared, options, lease)
        return Computed(value, *prepared)

    async def _keep(
        self, cache: Cache, job: Job, kind: int, payload: Any, options: dict[str, Any] | None,
        lease: Lease,
    ) -> None:  # fmt: skip
        """Store a computed payload, if it is wanted and can be."""
        if options is None or lease.revoked:
            return
        try:
            await cache._put(job.partition, job.key, kind, payload, lease=lease, **options)
        except BackendError:
            if cache.policy.on_backend_error == "closed":
                raise


async def made(job: Job) -> Any:
    """What the job's factory returns. Raises TypeError if it cannot be awaited."""
    awaitable = job.factory()
    if not hasattr(awaitable, "__await__"):
        raise TypeError("factory must be awaitable; anyseal.sync.Cache takes a plain one")
    return await awaitable
