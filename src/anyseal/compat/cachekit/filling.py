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

from anyseal.compat.cachekit.store import Store, answered
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
    unlocked: bool = False
    """Whether the lock was released when it was stored."""


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
        self, key: str, tenant: str, *, lock: bool, fill: Callable[[bytes | None, str], Filled]
    ) -> tuple[Filled, bool]:
        """What *fill* returned, and whether it was called here.

        *fill* is given the entry that another process may have stored by now, and the token of the
        lock; it is empty if there is none.
        """
        flight = (self, key, tenant, self._generation)
        if computes(flight):
            return fill(None, ""), True
        led = False

        def lead() -> Filled:
            nonlocal led
            led = True
            with Computing(flight):
                if not lock or not self._store.locks:
                    return fill(None, "")
                token = secrets.token_hex(16)
                filled = None
                held, stored = self._take(key, token)
                try:
                    filled = fill(stored, token if held else "")
                    return filled
                finally:
                    if held and (filled is None or not filled.unlocked):
                        self._release(key, token)

        return self._threads.run(flight, lead), led

    def _take(self, key: str, token: str) -> tuple[bool, bytes | None]:
        until, delay = time.monotonic() + LOCK_WAIT, POLL_FIRST
        try:
            while True:
                held, stored = self._store.take(key, token)
                answered(stored)
                if held or stored is not None or time.monotonic() >= until:
                    return held, stored
                time.sleep(delay)
                delay = min(2 * delay, POLL_LAST)
        except Exception as exc:
            self._failed(exc)
            return False, None

    def _release(self, key: str, token: str) -> None:
        try:
            self._store.unlock(key, token)
        except Exception as exc:  # the lock ends by itself
            self._failed(exc)

    async def arun(
        self, key: str, tenant: str, *, lock: bool,
        fill: Callable[[bytes | None, str], Awaitable[Filled]],
    ) -> tuple[Filled, bool]:  # fmt: skip
        """:meth:`run` for ``async def``."""
        flight = (self, key, tenant, self._generation)
        if computes(flight):
            return await fill(None, ""), True
        led = False

        async def lead() -> Filled:
            nonlocal led
            led = True
            with Computing(flight):
                if not lock or not self._store.locks:
                    return await fill(None, "")
                token = secrets.token_hex(16)
                try:
                    held, stored = await self._atake(key, token)
                    filled = await fill(stored, token if held else "")
                    if held and not filled.unlocked:
                        await self._arelease(key, token)
                except BaseException:  # the lock may be held even if its answer was lost
                    with anyio.CancelScope(shield=True):
                        await self._arelease(key, token)
                    raise
                return filled

        return await self._tasks.run(flight, lead), led

    async def _atake(self, key: str, token: str) -> tuple[bool, bytes | None]:
        until, delay = time.monotonic() + LOCK_WAIT, POLL_FIRST
        try:
            while True:
                held, stored = await self._store.atake(key, token)
                answered(stored)
                if held or stored is not None or time.monotonic() >= until:
                    return held, stored
                await anyio.sleep(delay)
                delay = min(2 * delay, POLL_LAST)
        except Exception as exc:
            self._failed(exc)
            return False, None

    async def _arelease(self, key: str, token: str) -> None:
        try:
            await self._store.aunlock(key, token)
        except Exception as exc:  # the lock ends by itself
            self._failed(exc)
