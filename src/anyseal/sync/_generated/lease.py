# Made from anyseal/cache/lease.py by .ci/generate_sync.py: do not edit.
"""A lease: the right to compute one key's value and to store it.

Across processes, one computes a missing value under a lease that it renews: a record of the backend
that ends by itself, with random bytes that name its owner. Deleting the entry deletes the record
too, and only the holder of the lease may store. So a value that was computed from what is no longer
true does not come back.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from anyseal.cache.entry import LOCK, OBJECT
from anyseal.cache.pieces import Staged
from anyseal.cache.policy import UNSET
from anyseal.errors import BackendError
from anyseal.sync._generated.computation import Computation
from anyseal.sync._generated.shelf import Shelf
from anyseal.sync.kit import cancelled, shielded

__all__ = ["Lease"]

JUST_NOW = 1.0
"""Seconds since the look for a value that was not answered."""


class Lease:
    """Renewed while it is held, in an ``with`` block; stores nothing once it is revoked."""

    __slots__ = ("_shelf", "found", "held", "lock", "owner", "revoked", "seconds", "stored",
                 "subject", "tags", "unreached")  # fmt: skip

    def __init__(self, shelf: Shelf, work: Computation) -> None:
        self._shelf = shelf
        self.subject = (work.partition, work.key)
        self.tags = frozenset(work.tags)
        self.lock = ""
        """The name of its record."""
        self.owner = os.urandom(16)
        self.seconds: float = shelf.policy.lease or 0.0
        self.held = False
        """Whether there is a record that belongs to this lease, as far as is known."""
        self.found: Any = UNSET
        """What stood under the entry's name when the lease was taken, if that was asked."""
        self.revoked = False
        """Whether the entry was deleted or replaced since, as far as is known."""
        self.unreached = False
        """Whether the backend did not answer: then nothing will be stored either. A caller that
        computes waits once for a backend that hangs, not at each step."""
        self.stored: tuple[str, bytes, Staged | None] | None = None
        """The name, the bytes and the object of the entry that may have to be taken back."""

    @property
    def backend(self) -> int:
        """Tells which backend has its record."""
        return id(self._shelf.backend)

    @property
    def ttl_ms(self) -> int:
        """How long its record lives without being renewed."""
        return max(1, round(self.seconds * 1000))

    def asks(self, work: Computation) -> bool:
        """Whether to ask the backend for it at all."""
        if not work.force and self._shelf.circuits.reads.just_failed(JUST_NOW):
            self.unreached = True  # by the look for the value
        return bool(self.seconds) and not self.unreached

    def take(self, stored: Sequence[str]) -> bool:
        """Whether it is free, and now ours; *stored* is where the entry may be."""
        self.lock = stored[0] + LOCK
        if not self.seconds:
            return True
        shelf, backend = self._shelf, self._shelf.backend
        try:
            if shelf.leasing and len(stored) == 1:
                self.held, self.found = shelf.guard.write(
                    backend.take_lease, self.lock, self.owner, stored[0], ttl_ms=self.ttl_ms
                )
            else:
                self.held = shelf.guard.write(
                    backend.set, self.lock, self.owner, ttl_ms=self.ttl_ms, if_absent=True
                )
            return self.held
        except cancelled():
            self.held = True  # perhaps: others should not wait for its end
            self._end()
            raise

    def renew(self) -> bool:
        """Hold it for its time from now on; return whether it is still held."""
        shelf, own = self._shelf, self.owner
        call = shelf.backend.compare_and_set
        kept = shelf.guard.write(call, self.lock, own, own, ttl_ms=self.ttl_ms)
        if not kept and self.held:
            shelf.leases.lost(self)
        return bool(kept)

    def store(self, name: str, sealed: bytes, ttl_ms: int | None, staged: Staged | None) -> bool:
        """Store what was computed, if the lease is still held; return whether it was stored."""
        if self.revoked:
            return False
        shelf, backend = self._shelf, self._shelf.backend
        if self.held and shelf.leasing and staged is None:
            done = shelf.guard.write(
                backend.settle, name, sealed, self.lock, self.owner,
                others=[name + OBJECT], ttl_ms=ttl_ms,
            )  # fmt: skip
            self.held = False
            return bool(done)
        if self.held and not self.renew():
            self.held = False
            return False
        self.stored = (name, sealed, staged)
        if staged is not None:
            return bool(staged.publish(shelf.guard, name, sealed, ttl_ms))
        return bool(shelf.guard.write(backend.set, name, sealed, ttl_ms=ttl_ms, if_absent=False))

    def _end(self) -> None:
        """Give it back. If it was lost while the entry was being stored, take that back too."""
        if not self.held and (self.stored is None or not self.revoked):
            return
        with shielded(), contextlib.suppress(BackendError):
            self._give_back()

    def _give_back(self) -> None:
        shelf, call = self._shelf, self._shelf.backend.compare_and_set
        kept = True
        if self.held:
            self.held = False
            kept = shelf.guard.delete(call, self.lock, self.owner, None)
        if self.stored is None or (kept and not self.revoked):
            return
        name, sealed, staged = self.stored
        try:
            if shelf.guard.delete(call, name, sealed, None) and staged is not None:
                shelf.guard.delete(shelf.backend.delete_many, [name + OBJECT])
        finally:
            shelf.copies.forget(*self.subject, name)

    def __enter__(self) -> Self:
        self._shelf.leases.add(self)
        if self.held:
            self._shelf.renewals.add(self)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._shelf.leases.drop(self)
        self._shelf.renewals.drop(self)
        self._end()
