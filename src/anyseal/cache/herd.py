"""Herds: of all callers that want one missing value, in this process and in others, one computes
it.

In the process the others wait for it; across processes they poll for the value while the holder of
the lease renews it. They have no time limit: a lease whose holder died ends by itself, and the next
caller takes it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from anyseal.cache.computation import LEFT, POLL_FIRST, Computation, Computed, next_poll
from anyseal.cache.entry import Entry
from anyseal.cache.kit import Flight, called, sleep
from anyseal.cache.lease import Lease
from anyseal.cache.policy import UNSET
from anyseal.cache.shelf import Shelf
from anyseal.cache.values import Values
from anyseal.computing import Computing, computes
from anyseal.errors import BackendError, FormatError

__all__ = ["Herd"]


class Herd:
    """Computes missing values for one cache."""

    def __init__(self, shelf: Shelf, values: Values) -> None:
        self._shelf = shelf
        self._values = values
        policy, observer = shelf.policy, shelf.observer
        self._flights: Flight[Computed] = Flight(
            policy.abandoned_timeout, policy.abandoned_max, lambda: observer.count("abandoned")
        )
        shelf.leases.flights = self._flights

    async def value(self, work: Computation, entry: Any = UNSET) -> Any:
        """The value of the computation's key, found or computed.

        *entry* is what the caller found under the key, or None; else it is looked for here.
        """
        shelf = self._shelf
        if not work.force:
            local = False
            if entry is UNSET:
                entry = shelf.local_entry(work.partition, work.key)
                local = entry is not None
                if entry is None:
                    entry = await shelf.found(work.partition, work.key)
            if entry is not None:
                value = await self._usable(work, entry)
                if value is not UNSET:
                    if not shelf.stale(entry):
                        work.count(shelf, "local_hits" if local else "hits")
                    return value
            work.count(shelf, "misses")
        if computes((shelf, work.partition, work.key)):
            return await called(work.factory)
        if not work.shared:
            return (await self._compute(work)).value
        led = False

        async def lead() -> Computed:
            nonlocal led
            led = True
            return await self._compute(work)

        computed = LEFT
        while computed is LEFT:  # it was a refresh, and another process has the lease
            computed = await self._flight(work, lead)
        if led or computed.kind < 0:
            return computed.value
        try:
            return await self._values.decoded(computed.kind, computed.payload, work.type)
        except FormatError:  # its annotation is wrong: then what the function returned
            return computed.value

    async def _usable(self, work: Computation, entry: Entry) -> Any:
        """The value of *entry*, which may be stale: then it is refreshed in the background."""
        shelf = self._shelf
        stale = shelf.stale(entry)
        if stale and not shelf.policy.stale_ttl:
            return UNSET
        if work.excludes(shelf, entry):
            return UNSET
        value = await self._values.value(work.partition, work.key, entry, work.type)
        if value is not UNSET and work.refreshes(shelf, entry, stale=stale):
            self._refresh_soon(work)
        return value

    def _refresh_soon(self, work: Computation) -> None:
        """Compute in the background, unless that is already under way here."""

        async def refresh() -> None:
            await self._flight(work, lambda: self._refresh(work))

        self._shelf.background.once((work.partition, work.key), refresh)

    def _flight(self, work: Computation, lead: Callable[[], Awaitable[Computed]]) -> Any:
        """One computation for all callers in this process."""
        subject = work.partition, work.key
        return self._flights.run(subject, lead, work.variant(self._shelf))

    async def aclose(self) -> None:
        """Cancel the computations that no caller waits for."""
        await self._flights.aclose()

    async def _refresh(self, work: Computation) -> Computed:
        """Compute under the lease; if another process has it, leave it to that one."""
        lease = await self._lease(work)
        if lease is None:
            return LEFT
        async with lease:
            return await self._run(work, lease)

    async def _lease(self, work: Computation) -> Lease | None:
        """The lease on the key; None if another process has it."""
        shelf = self._shelf
        lease = Lease(shelf, work)
        if not lease.asks(work):
            return lease
        try:
            names = await shelf.keys.names(work.partition)
            return lease if await lease.take(names.names(work.key)) else None
        except BackendError:
            if shelf.policy.on_backend_error == "closed":
                raise
            return lease  # it cannot be asked for: computing twice is better than not at all

    async def _compute(self, work: Computation) -> Computed:
        """Compute under the lease, or wait for the value of the process that has it."""
        delay = POLL_FIRST
        while True:
            lease = await self._lease(work)
            if lease is not None:
                async with lease:
                    if lease.held and not work.force and lease.found is not None:
                        found = await self._arrived(work)
                        if found is not None:  # while the lease changed hands
                            return found
                    return await self._run(work, lease)
            await sleep(delay)
            delay = next_poll(delay)
            found = None if work.force else await self._arrived(work)
            if found is not None:
                return found

    async def _arrived(self, work: Computation) -> Computed | None:
        """The value that another process has stored since."""
        shelf = self._shelf
        entry = await shelf.found(work.partition, work.key)
        if entry is None or shelf.stale(entry) or work.excludes(shelf, entry):
            return None
        try:
            found = await self._values.payload(work.partition, work.key, entry)
            if found is None:
                return None
            return Computed(await self._values.decoded(*found, work.type), *found)
        except BackendError:
            if shelf.policy.on_backend_error == "closed":
                raise
        except FormatError:  # undecodable: then computed here
            pass
        return None

    async def _run(self, work: Computation, lease: Lease) -> Computed:
        """Call the factory and store what it returns."""
        shelf = self._shelf
        tags = None if lease.unreached else await work.carried(shelf)
        started = perf_counter()
        try:
            with Computing((shelf, work.partition, work.key)):
                value = await called(work.factory)
        except work.exceptions as exc:
            kept = work.frozen(shelf, exc)
            if kept is not None:
                options = work.options(shelf, tags, exc, started)
                await self._keep(work, *kept, options, lease)
            raise
        prepared = await work.prepared(shelf, value)
        if prepared is None:
            return Computed(value)
        options = work.options(shelf, tags, value, started)
        await self._keep(work, *prepared, options, lease)
        return Computed(value, *prepared)

    async def _keep(
        self, work: Computation, kind: int, payload: Any, options: dict[str, Any] | None,
        lease: Lease,
    ) -> None:  # fmt: skip
        """Store a computed payload, if it is wanted and can be."""
        if options is None or lease.revoked:
            return
        try:
            await self._values.put(work.partition, work.key, kind, payload, lease=lease, **options)
        except BackendError:
            if self._shelf.policy.on_backend_error == "closed":
                raise
