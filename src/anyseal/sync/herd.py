"""Herds of threads: of all who ask for one missing value, one computes it."""

from __future__ import annotations

import contextvars
import logging
import os
import threading
import time
import weakref
from time import perf_counter
from typing import TYPE_CHECKING, Any

from anyseal.cache.entry import Entry
from anyseal.cache.jobs import LEFT, POLL_FIRST, Computed, Job, next_poll
from anyseal.cache.leases import Leases
from anyseal.cache.needs import UNSET
from anyseal.computing import Computing, computes
from anyseal.errors import BackendError, FormatError
from anyseal.flight import ThreadFlight
from anyseal.sync.leases import Lease, renewer

if TYPE_CHECKING:
    from anyseal.sync.cache import Cache

__all__ = ["Herd"]

logger = logging.getLogger("anyseal.cache")

REFRESHES_MAX = 8
"""Threads that refresh in the background at the same time; beyond, a stale value is served and
refreshed by a later caller."""


CLOSE_SECONDS = 2.0
"""How long closing waits for refreshes that are under way."""

_live: weakref.WeakSet[Herd] = weakref.WeakSet()


def _renew_all() -> None:
    for herd in list(_live):
        herd._refreshing = {}  # those threads are the parent's


os.register_at_fork(after_in_child=_renew_all)


class Herd:
    """Computes missing values for one cache."""

    def __init__(self, leases: Leases) -> None:
        self._flights: ThreadFlight[Computed] = ThreadFlight()
        leases.flights = self._flights
        self._leases = leases
        self._refreshing: dict[tuple[str, bytes], threading.Thread] = {}
        self._closed = False
        _live.add(self)

    def value(self, cache: Cache, job: Job, entry: Any = UNSET) -> Any:
        """The value of the job's key, found or computed.

        *entry* is what the caller found under the key, or None; else it is looked for here.
        """
        if not job.force:
            local = False
            if entry is UNSET:
                entry = cache._local_entry(job.partition, job.key)
                local = entry is not None
                if entry is None:
                    entry = cache._found(job.partition, job.key)
            if entry is not None:
                value = self._usable(cache, job, entry)
                if value is not UNSET:
                    if not cache._stale(entry):
                        job.count(cache, "local_hits" if local else "hits")
                    return value
            job.count(cache, "misses")
        if computes((cache, job.partition, job.key)):
            return job.factory()
        led = False

        def lead() -> Computed:
            nonlocal led
            led = True
            return self._compute(cache, job)

        computed = self._flights.run(job.flight, lead)
        while computed is LEFT:  # it was a refresh, and another process has the lease
            computed = self._flights.run(job.flight, lead)
        if led or computed.kind < 0:
            return computed.value
        try:
            return cache._payloads.decoded(computed.kind, computed.payload, job.type)
        except FormatError:  # its annotation is wrong: then what the function returned
            return computed.value

    def _usable(self, cache: Cache, job: Job, entry: Entry) -> Any:
        """The value of *entry*, which may be stale: then it is refreshed in the background."""
        stale = cache._stale(entry)
        if stale and not cache.policy.stale_ttl:
            return UNSET
        if job.excludes(cache, entry):
            return UNSET
        value = cache._value(job.partition, job.key, entry, job.type)
        if value is not UNSET and job.refreshes(cache, entry, stale=stale):
            self._refresh_soon(cache, job)
        return value

    def _refresh_soon(self, cache: Cache, job: Job) -> None:
        """Compute in a thread of its own, unless that is under way here."""
        mark = (job.partition, job.key)
        if self._closed or mark in self._refreshing or len(self._refreshing) >= REFRESHES_MAX:
            return

        def refresh() -> None:
            try:
                if not self._closed:
                    self._flights.run(job.flight, lambda: self._refresh(cache, job))
            except Exception as exc:
                logger.warning("a background task of the cache failed: %s", type(exc).__name__)
            finally:
                self._refreshing.pop(mark, None)

        run = contextvars.copy_context().run  # the function may look at a ContextVar
        thread = threading.Thread(target=run, args=(refresh,), name="anyseal-refresh", daemon=True)
        if self._refreshing.setdefault(mark, thread) is not thread:
            return  # another thread was first
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the interpreter is about to end
            self._refreshing.pop(mark, None)

    def _refresh(self, cache: Cache, job: Job) -> Computed:
        lease = self._lease(cache, job)
        if lease is None:  # another process has it
            return LEFT
        with lease:
            return self._run(cache, job, lease)

    def _lease(self, cache: Cache, job: Job) -> Lease | None:
        """The lease on the job's key; None if another has it."""
        lease = Lease(cache, job)
        if not lease.asks(job):
            return lease
        try:
            names = cache._drive(cache._keys.names(job.partition))
            return lease if lease.take(names.names(job.key)) else None
        except BackendError:
            if cache.policy.on_backend_error == "closed":
                raise
            return lease  # nobody can be asked: better twice than not at all

    def _compute(self, cache: Cache, job: Job) -> Computed:
        """Compute under the lease, or wait for the value of who has it."""
        delay = POLL_FIRST
        while True:
            lease = self._lease(cache, job)
            if lease is not None:
                with lease:
                    if lease.held and not job.force and lease.found is not None:
                        found = self._arrived(cache, job)
                        if found is not None:  # while the lease changed hands
                            return found
                    return self._run(cache, job, lease)
            time.sleep(delay)
            delay = next_poll(delay)
            found = None if job.force else self._arrived(cache, job)
            if found is not None:
                return found

    def _arrived(self, cache: Cache, job: Job) -> Computed | None:
        """The value that someone else stored meanwhile."""
        entry = cache._found(job.partition, job.key)
        if entry is None or cache._stale(entry) or job.excludes(cache, entry):
            return None
        try:
            found = cache._payload(job.partition, job.key, entry)
            if found is None:
                return None
            return Computed(cache._payloads.decoded(*found, job.type), *found)
        except BackendError:
            if cache.policy.on_backend_error == "closed":
                raise
        except FormatError:  # undecodable: then computed here
            pass
        return None

    def _run(self, cache: Cache, job: Job, lease: Lease) -> Computed:
        """Call the factory and store what it returns."""
        tags = None if lease.unreached else cache._drive(job.carried(cache))
        started = perf_counter()
        try:
            with Computing((cache, job.partition, job.key)):
                value = job.factory()
        except job.exceptions as exc:
            kept = job.frozen(cache, exc)
            if kept is not None:
                self._keep(cache, job, *kept, job.options(cache, tags, exc, started), lease)
            raise
        if hasattr(value, "__await__"):
            if hasattr(value, "close"):
                value.close()  # a coroutine that nobody awaits would complain
            raise TypeError(
                "what was called must be awaited: anyseal.cache.Cache takes an async factory, and "
                "decorators an async def"
            )
        prepared = job.prepared(cache, value)
        if prepared is None:
            return Computed(value)
        options = job.options(cache, tags, value, started)
        self._keep(cache, job, *prepared, options, lease)
        return Computed(value, *prepared)

    def _keep(
        self, cache: Cache, job: Job, kind: int, payload: Any, options: dict[str, Any] | None,
        lease: Lease,
    ) -> None:  # fmt: skip
        """Store a computed payload, if it is wanted and can be."""
        if options is None or lease.revoked:
            return
        try:
            cache._put(job.partition, job.key, kind, payload, lease=lease, **options)
        except BackendError:
            if cache.policy.on_backend_error == "closed":
                raise

    def close(self) -> None:
        """Begin no more refreshes, and wait for those under way, all in all for ``CLOSE_SECONDS``.

        A thread that is not over by then stores nothing, and asks the backend for nothing more.
        """
        self._closed = True
        end = time.monotonic() + CLOSE_SECONDS
        for subject, thread in list(self._refreshing.items()):
            if thread is not threading.current_thread() and thread.is_alive():
                thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                for lease in self._leases.abandon(subject):
                    renewer.drop(lease)
        renewer.rest()
