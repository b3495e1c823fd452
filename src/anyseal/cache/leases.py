"""Leases: across processes, one computes a missing value under a lease that it renews.

A lease is a record of the backend that ends by itself; who took it is told by random bytes in it.
Deleting the entry deletes the record, too, and only who still holds the lease may store: so a value
that was computed from what is no longer true does not come back.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from anyseal.cache.background import Background
from anyseal.cache.entry import LOCK, OBJECT
from anyseal.cache.needs import UNSET, Flow, ask
from anyseal.errors import BackendError

if TYPE_CHECKING:
    from anyseal.cache.core import Cache
    from anyseal.cache.jobs import Job

__all__ = ["Lease", "LeaseBase", "Leases", "Renewals"]

JUST_NOW = 1.0
"""Seconds since the look for a value that was not answered."""


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


_live: weakref.WeakSet[Leases] = weakref.WeakSet()


def _renew_all() -> None:
    for leases in list(_live):
        leases.renew()


os.register_at_fork(after_in_child=_renew_all)


class Leases:
    """The leases under which this process computes for one cache.

    Who deletes or replaces an entry revokes those of its key: what is computed from what was true
    before is returned, but not stored, and who comes later does not wait for it.
    """

    def __init__(self) -> None:
        self.flights: Any = None
        """The herd's: its SingleFlight or ThreadFlight."""
        self.renew()
        _live.add(self)

    def renew(self) -> None:
        """Begin anew; also in a forked child, where who computes is the parent's."""
        self._lock = threading.Lock()
        self._held: dict[tuple[str, bytes], list[LeaseBase]] = {}

    def add(self, lease: LeaseBase) -> None:
        """*lease* can be revoked from now on."""
        with self._lock:
            self._held.setdefault(lease.subject, []).append(lease)

    def drop(self, lease: LeaseBase) -> None:
        """*lease* is over."""
        with self._lock:
            held = self._held.get(lease.subject, [])
            if lease in held:
                held.remove(lease)
                if not held:
                    del self._held[lease.subject]

    def revoke(self, partition: str, keys: Sequence[bytes]) -> None:
        """The entries of *keys* are about to change."""
        if self._held:
            with self._lock:
                for key in keys:
                    for lease in self._held.get((partition, key), ()):
                        lease.revoked = True
        self.part(partition, keys)

    def part(self, partition: str, keys: Sequence[bytes]) -> None:
        """The entries of *keys* have changed: who comes from now on waits for no one who looked
        before."""
        self.flights.forget([(partition, key, force) for key in keys for force in (False, True)])

    def revoke_all(self, partition: str | None, prefix: bytes = b"") -> None:
        """The same for all keys of *partition*, or of all, that begin with *prefix*."""
        with self._lock:
            for subject, held in self._held.items():
                if _among(subject, partition, prefix):
                    for lease in held:
                        lease.revoked = True
        self.part_all(partition, prefix)

    def part_all(self, partition: str | None, prefix: bytes = b"") -> None:
        """They have changed."""
        self.flights.forget_those(lambda flight: _among(flight, partition, prefix))

    def revoke_tags(self, partition: str, tags: Sequence[str]) -> None:
        """The tags have been deleted: what is computed to carry one of them has ended already."""
        with self._lock:
            held = [lease for leases in self._held.values() for lease in leases]
        for lease in held:
            if lease.subject[0] == partition and not lease.tags.isdisjoint(tags):
                self.lost(lease)

    def abandon(self, subject: tuple[str, bytes]) -> list[Any]:
        """Nothing more is done under the leases on *subject*: their records end by themselves."""
        with self._lock:
            held = list(self._held.get(subject, ()))
        for lease in held:
            lease.revoked, lease.held = True, False
        return held

    def lost(self, lease: LeaseBase) -> None:
        """What is computed under *lease* will not be stored: it was revoked, or ended."""
        lease.revoked = True
        partition, key = lease.subject
        self.part(partition, [key])


def _among(subject: tuple[Any, ...], partition: str | None, prefix: bytes) -> bool:
    return partition in (None, subject[0]) and subject[1].startswith(prefix)


class LeaseBase:
    """The right to compute one key's value and to store it, unless it is revoked meanwhile."""

    __slots__ = ("_cache", "found", "held", "lock", "owner", "revoked", "seconds", "stored",
                 "subject", "tags", "unreached")  # fmt: skip

    def __init__(self, cache: Any, job: Job) -> None:
        self._cache = cache
        self.subject = (job.partition, job.key)
        self.tags = frozenset(job.tags)
        self.lock = ""
        """The name of its record."""
        self.owner = os.urandom(16)
        self.seconds: float = cache.policy.lease or 0.0
        self.held = False
        """Whether there is a record, which is this one's as far as is known."""
        self.found: Any = UNSET
        """What stood under the entry's name when the lease was taken, if that was asked."""
        self.revoked = False
        """Whether the entry was deleted or replaced meanwhile, as far as is known."""
        self.unreached = False
        """Whether the backend could not be asked: then nothing will be stored, either. Who computes
        waits once for a backend that hangs, not at each step."""
        self.stored: tuple[str, bytes, bool] | None = None
        """The name and the bytes of the entry that may have to be taken back, and whether it has
        an object."""

    def asks(self, job: Job) -> bool:
        """Whether to ask the backend for it at all."""
        if not job.force and self._cache._breaker.just_failed(JUST_NOW):
            self.unreached = True  # by the look for the value
        return bool(self.seconds) and not self.unreached

    @property
    def ttl_ms(self) -> int:
        """What is left when it is renewed."""
        return max(1, round(self.seconds * 1000))

    def taking(self, stored: Sequence[str]) -> Flow[bool]:
        """Whether nobody else has it; *stored* is where the entry may be."""
        self.lock = stored[0] + LOCK
        if not self.seconds:
            return True
        if self._cache._leasing and len(stored) == 1:
            self.held, self.found = yield ask(
                "take_lease", self.lock, self.owner, stored[0], ttl_ms=self.ttl_ms
            )
        else:
            self.held = yield ask("set", self.lock, self.owner, ttl_ms=self.ttl_ms, if_absent=True)
        return self.held

    def renewing(self) -> Flow[bool]:
        """Hold it for its time from now on; whether it is still held."""
        kept = yield ask("compare_and_set", self.lock, self.owner, self.owner, ttl_ms=self.ttl_ms)
        if not kept and self.held:
            self._cache._leases.lost(self)
        return bool(kept)

    def storing(self, name: str, sealed: bytes, ttl_ms: int | None, *, large: bool) -> Flow[bool]:
        """Store what was computed, if the lease still holds; whether it was stored."""
        if self.revoked:
            return False
        if self.held and self._cache._leasing and not large:
            done = yield ask(
                "settle", name, sealed, self.lock, self.owner,
                others=[name + OBJECT], ttl_ms=ttl_ms,
            )  # fmt: skip
            self.held = False
            return bool(done)
        if self.held and not (yield from self.renewing()):
            self.held = False
            return False
        self.stored = (name, sealed, large)
        return bool((yield ask("set", name, sealed, ttl_ms=ttl_ms, if_absent=False)))

    def ending(self) -> Flow[None]:
        """Give it back. If it was lost while the entry was being stored, that is taken back."""
        kept = True
        if self.held:
            self.held = False
            kept = yield ask("compare_and_set", self.lock, self.owner, None)
        if self.stored is None or (kept and not self.revoked):
            return
        name, sealed, large = self.stored
        try:
            if (yield ask("compare_and_set", name, sealed, None)) and large:
                yield ask("delete_many", [name + OBJECT])
        finally:
            self._cache._copies.forget(*self.subject, name)


class Lease(LeaseBase):
    """A lease that is renewed while it is held."""

    __slots__ = ("_renewals",)

    def __init__(self, cache: Cache, job: Job, renewals: Renewals) -> None:
        super().__init__(cache, job)
        self._renewals = renewals

    async def take(self, stored: Sequence[str]) -> bool:
        """Whether nobody else has it; *stored* is where the entry may be."""
        try:
            taken: bool = await self._cache._drive(self.taking(stored))
            return taken
        except anyio.get_cancelled_exc_class():
            self.held = bool(self.seconds)  # perhaps: others should not wait for its end
            await self._end()
            raise

    async def renew(self) -> None:
        """Hold it for its time from now on."""
        await self._cache._drive(self.renewing())

    async def _end(self) -> None:
        if not self.held and (self.stored is None or not self.revoked):
            return
        with anyio.CancelScope(shield=True), contextlib.suppress(BackendError):
            await self._cache._drive(self.ending())

    async def __aenter__(self) -> Lease:
        self._cache._leases.add(self)
        if self.held:
            self._renewals.add(self, self._cache._background)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._cache._leases.drop(self)
        self._renewals.drop(self)
        await self._end()
