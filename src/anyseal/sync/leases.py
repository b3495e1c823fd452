"""The one thread that renews all leases of threads."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any

from anyseal.errors import BackendError

__all__ = ["Renewer", "renewer"]

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
        self._due: dict[Any, float] = {}
        self._wakes = 0.0
        """When the thread looks next."""
        self._thread: threading.Thread | None = None

    def add(self, lease: Any) -> None:
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

    def drop(self, lease: Any) -> None:
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
                if lease.held and lease.backend not in failed and not _renewed(lease):
                    failed.add(lease.backend)  # its other leases may wait for the next round

    def _wait(self, me: threading.Thread) -> list[Any] | None:
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


def _renewed(lease: Any) -> bool:
    """Hold *lease* for its time from now on; return whether that could be asked for."""
    try:
        lease.renew()
    except BackendError:
        return False
    except Exception as exc:
        logger.warning("a lease of the cache was not renewed: %s", type(exc).__name__)
        return False
    return True


renewer = Renewer()
os.register_at_fork(after_in_child=renewer.renew)
