"""Filling a miss: of all who miss one entry, one calls the function.

In this process the others wait for it. Where the store has locks, so do other processes, for a
while: like cachekit's, whose lock has the same name.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import anyio

from anyseal import offload
from anyseal.compat.cachekit.stores import Store
from anyseal.computing import Computing, computes
from anyseal.flight import SingleFlight, ThreadFlight

__all__ = ["Filled", "Fills"]

LOCK_WAIT = 5.0
"""Seconds to wait for another process; then the function is called here as well."""
POLL_FIRST, POLL_LAST = 0.01, 0.25
"""Seconds between two looks at a lock that is taken."""


class Filled(NamedTuple):
    """What one call brought, for all who wait for it."""

    value: Any
    stored: bytes | None
    """From which each of the others decodes a value of its own."""


class Fills:
    """The misses of one function that are under way.

    Args:
        store: Whose locks other processes heed.
        failed: Told of an exception of the store.
    """

    def __init__(self, store: Store, failed: Callable[[Exception], None]) -> None:
        self._store, self._failed = store, failed
        self._tasks: SingleFlight[Filled] = SingleFlight()
        self._threads: ThreadFlight[Filled] = ThreadFlight()
        self._generation = 0

    def forget(self) -> None:
        """From now on nobody joins calls that began before: something was invalidated."""
        self._generation += 1

    def run(
        self, key: str, tenant: str, *, lock: bool, fill: Callable[[bool], Filled]
    ) -> tuple[Filled, bool]:
        """What *fill* returned, and whether it was called here.

        *fill* is told whether there is a lock to be had, and so somebody may have been quicker.
        """
        flight = (self, key, tenant, self._generation)
        if computes(flight):
            return fill(False), True
        led = False

        def lead() -> Filled:
            nonlocal led
            led = True
            with Computing(flight):
                if not lock or not self._store.locks:
                    return fill(False)
                token = secrets.token_hex(16)
                held = self._take(key, token)
                try:
                    return fill(True)
                finally:
                    if held:
                        self._release(key, token)

        return self._threads.run(flight, lead), led

    def _take(self, key: str, token: str) -> bool:
        until, delay = time.monotonic() + LOCK_WAIT, POLL_FIRST
        try:
            while not self._store.lock(key, token):
                if time.monotonic() >= until:
                    return False
                time.sleep(delay)
                delay = min(2 * delay, POLL_LAST)
        except Exception as exc:
            self._failed(exc)
            return False
        return True

    def _release(self, key: str, token: str) -> None:
        try:
            self._store.unlock(key, token)
        except Exception as exc:  # the lock ends by itself
            self._failed(exc)

    async def arun(
        self, key: str, tenant: str, *, lock: bool, fill: Callable[[bool], Awaitable[Filled]]
    ) -> tuple[Filled, bool]:
        """:meth:`run` for ``async def``."""
        flight = (self, key, tenant, self._generation)
        if computes(flight):
            return await fill(False), True
        led = False

        async def lead() -> Filled:
            nonlocal led
            led = True
            with Computing(flight):
                if not lock or not self._store.locks:
                    return await fill(False)
                token = secrets.token_hex(16)
                held = await self._atake(key, token)
                try:
                    return await fill(True)
                finally:
                    if held:
                        with anyio.CancelScope(shield=True):
                            await offload.run_waiting(self._release, key, token)

        return await self._tasks.run(flight, lead), led

    async def _atake(self, key: str, token: str) -> bool:
        until, delay = time.monotonic() + LOCK_WAIT, POLL_FIRST
        try:
            while True:
                with anyio.CancelScope(shield=True):  # whose answer is lost would keep the lock
                    taken = await offload.run_waiting(self._store.lock, key, token)
                if taken:
                    return True
                if time.monotonic() >= until:
                    return False
                await anyio.sleep(delay)
                delay = min(2 * delay, POLL_LAST)
        except Exception as exc:
            self._failed(exc)
            return False
