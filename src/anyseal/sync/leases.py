"""Leases of threads, and the one thread that renews them all."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from anyseal.cache.leases import LeaseBase
from anyseal.errors import BackendError

if TYPE_CHECKING:
    from anyseal.sync.cache import Cache

__all__ = ["Lease", "Renewer", "renewer"]

logger = logging.getLogger("anyseal.cache")

IDLE = 0.2
"""Seconds that the thread stays when no lease is held: the next miss needs no new one."""


class Renewer:
    """Renews the leases of one process, in one thread that there is while some are held."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin anew; also in a forked child, where the leases and the thread are the parent's."""
        self._changed = threading.Condition()
        self._due: dict[Lease, float] = {}
        self._wakes = 0.0
        """When the thread looks next."""
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
        """Renew *lease* from now on."""
        with self._changed:
            due = self._due[lease] = time.monotonic() + lease.seconds / 3
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="anyseal-leases", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no more threads, or the interpreter is about to end
                    return
                self._thread = thread
            elif due < self._wakes:
                self._changed.notify()

    def drop(self, lease: Lease) -> None:
        """Renew it no more."""
        with self._changed:
            self._due.pop(lease, None)

    def rest(self) -> None:
        """End the thread if it has nothing to do, and wait for its end."""
        with self._changed:
            thread = self._thread
            if thread is None or self._due:
                return
            self._thread = None  # it sees that it is no longer the one
            self._changed.notify()
        thread.join(1.0)

    def _run(self) -> None:
        me = threading.current_thread()
        while True:
            with self._changed:
                due = self._wait(me)
                if due is None:
                    return
            failed = set()
            for lease in due:
                if lease.held and lease.backend not in failed and not lease.renewed():
                    failed.add(lease.backend)  # its other leases may wait for the next round

    def _wait(self, me: threading.Thread) -> list[Lease] | None:
        """Wait until leases are due; None if the thread should end."""
        while self._thread is me:
            now = time.monotonic()
            due = [lease for lease, at in self._due.items() if at <= now]
            for lease in due:
                self._due[lease] = now + lease.seconds / 3
            if due:
                return due
            self._wakes = min(self._due.values(), default=now + IDLE)
            if not self._changed.wait(self._wakes - now) and not self._due:
                self._thread = None
        return None


renewer = Renewer()
os.register_at_fork(after_in_child=renewer.renew)


class Lease(LeaseBase):
    """The right to compute one key's value, renewed while it is held for long."""

    __slots__ = ()

    _cache: Cache

    @property
    def backend(self) -> int:
        """Which backend has it."""
        return id(self._cache._backend)

    def take(self, stored: Sequence[str]) -> bool:
        """Whether nobody else has it; *stored* is where the entry may be."""
        return self._cache._drive(self.taking(stored))

    def renewed(self) -> bool:
        """Hold it for its time from now on; whether that could be asked for."""
        try:
            self._cache._drive(self.renewing())
        except BackendError:
            return False
        except Exception as exc:
            logger.warning("a lease of the cache was not renewed: %s", type(exc).__name__)
            return False
        return True

    def __enter__(self) -> Lease:
        self._cache._leases.add(self)
        if self.held:
            renewer.add(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._cache._leases.drop(self)
        renewer.drop(self)
        with contextlib.suppress(BackendError):
            self._cache._drive(self.ending())
