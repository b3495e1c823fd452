"""The leases under which this process computes, so that they can be revoked."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from typing import Any

__all__ = ["Leases"]

_live: weakref.WeakSet[Leases] = weakref.WeakSet()


def _renew_all() -> None:
    for leases in list(_live):
        leases.renew()


os.register_at_fork(after_in_child=_renew_all)


class Leases:
    """The leases under which this process computes for one cache.

    Deleting or replacing an entry revokes those of its key: what is computed from what was true
    before is returned, but not stored, and later callers do not wait for it.
    """

    def __init__(self) -> None:
        self.flights: Any = None
        """The herd's flights."""
        self.renew()
        _live.add(self)

    def renew(self) -> None:
        """Begin with none; also in a forked child, where those that compute are the parent's."""
        self._lock = threading.Lock()
        self._held: dict[tuple[str, bytes], list[Any]] = {}

    def add(self, lease: Any) -> None:
        """*lease* can be revoked from now on."""
        with self._lock:
            self._held.setdefault(lease.subject, []).append(lease)

    def drop(self, lease: Any) -> None:
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
        """The entries of *keys* have changed: callers from now on wait for no computation that
        began before."""
        self.flights.forget([(partition, key) for key in keys])

    def revoke_all(self, partition: str | None, prefix: bytes = b"") -> None:
        """As :meth:`revoke`, for every key of *partition* (None: of all) with this *prefix*."""
        with self._lock:
            for subject, held in self._held.items():
                if _among(subject, partition, prefix):
                    for lease in held:
                        lease.revoked = True
        self.part_all(partition, prefix)

    def part_all(self, partition: str | None, prefix: bytes = b"") -> None:
        """As :meth:`part`, for every key of *partition* that begins with *prefix*."""
        self.flights.forget_those(lambda flight: _among(flight, partition, prefix))

    def revoke_tags(self, partition: str, tags: Sequence[str]) -> None:
        """The tags have been deleted: what is computed to carry one of them has ended already."""
        with self._lock:
            held = [lease for leases in self._held.values() for lease in leases]
        for lease in held:
            if lease.subject[0] == partition and not lease.tags.isdisjoint(tags):
                self.lost(lease)

    def abandon(self, subject: tuple[str, bytes]) -> list[Any]:
        """Do nothing more under the leases on *subject*: their records end by themselves."""
        with self._lock:
            held = list(self._held.get(subject, ()))
        for lease in held:
            lease.revoked, lease.held = True, False
        return held

    def lost(self, lease: Any) -> None:
        """What is computed under *lease* will not be stored: it was revoked, or ended."""
        lease.revoked = True
        partition, key = lease.subject
        self.part(partition, [key])


def _among(subject: tuple[Any, ...], partition: str | None, prefix: bytes) -> bool:
    return partition in (None, subject[0]) and subject[1].startswith(prefix)
