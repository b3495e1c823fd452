"""Leases: across processes, one computes a missing value under a lease that it renews.

A lease is a record of the backend that ends by itself; who took it is told by random bytes in it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from anyseal.cache.background import Background
from anyseal.cache.entry import LOCK
from anyseal.cache.needs import UNSET, Need
from anyseal.errors import BackendError

if TYPE_CHECKING:
    from anyseal.cache.core import Cache

__all__ = ["Lease", "LeaseBase", "Renewals"]


class Renewals:
    """Renews the leases of one event loop, in one task for all."""

    def __init__(self) -> None:
        self._due: dict[Lease, float] = {}
        self._running = False

    def add(self, lease: Lease, background: Background) -> None:
        """Renew *lease* from now on."""
        self._due[lease] = anyio.current_time() + lease.seconds / 3
        if not self._running:
            self._running = True
            background.start(self._run)

    def drop(self, lease: Lease) -> None:
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


class LeaseBase:
    """The right to compute one key's value."""

    __slots__ = ("_cache", "_name", "_owner", "held", "seconds")

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self._name = ""
        self._owner = os.urandom(16)
        self.seconds: float = cache.policy.lease or 0.0
        self.held = False

    @property
    def _ttl_ms(self) -> int:
        return max(1, round(self.seconds * 1000))


class Lease(LeaseBase):
    """The right to compute one key's value, renewed while it is held."""

    __slots__ = ("_entry", "_renewals", "found")

    def __init__(self, cache: Cache, renewals: Renewals) -> None:
        super().__init__(cache)
        self._entry: str | None = None
        self._renewals = renewals
        self.found: Any = UNSET
        """What stood under the entry's name when the lease was taken, if that was asked."""

    async def take(self, stored: Sequence[str]) -> bool:
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

    async def __aenter__(self) -> Lease:
        if self.held:
            self._renewals.add(self, self._cache._background)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if not self.held:
            return
        self.held = False
        self._renewals.drop(self)
        await self._give_back()
