"""Single flight: one call per key, however many tasks, threads and loops wait for its result."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

import anyio
from anyio import from_thread
from anyio.lowlevel import current_token

__all__ = ["SingleFlight"]

T = TypeVar("T")


class _Flight:
    """One call under way, and those who wait for it."""

    __slots__ = ("done", "error", "pid", "result", "waiters")

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None
        self.waiters: list[tuple[Any, anyio.Event]] = []


class SingleFlight(Generic[T]):
    """Runs a function once per key at a time.

    The first caller runs it; those who come meanwhile get its result or its exception. If the
    first caller is cancelled one of the others takes over, so that a cancellation ends nobody
    else's call. A forked child does not wait for its parent.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Hashable, _Flight] = {}

    async def run(self, key: Hashable, function: Callable[[], Awaitable[T]]) -> T:
        """The result of *function*, called here or by someone else for the same *key*."""
        while True:
            with self._lock:
                flight = self._flights.get(key)
                leads = flight is None or flight.pid != os.getpid()
                if flight is None or leads:
                    flight = self._flights[key] = _Flight()
                else:
                    landed = anyio.Event()
                    flight.waiters.append((current_token(), landed))
            if leads:
                return await self._lead(key, flight, function)
            await landed.wait()
            if flight.error is not None:
                raise flight.error
            if flight.done:
                result: T = flight.result
                return result

    async def _lead(
        self, key: Hashable, flight: _Flight, function: Callable[[], Awaitable[T]]
    ) -> T:
        try:
            flight.result = await function()
            flight.done = True
            result: T = flight.result
            return result
        except Exception as exc:
            flight.error = exc
            raise
        finally:
            with self._lock:
                if self._flights.get(key) is flight:
                    del self._flights[key]
                waiters = flight.waiters
            here = current_token()
            for token, landed in waiters:
                if token == here:
                    landed.set()
                else:
                    _set_elsewhere(token, landed)


def _set_elsewhere(token: Any, landed: anyio.Event) -> None:
    """Set an event of another loop, without waiting for that loop."""

    def tell() -> None:
        with contextlib.suppress(Exception):  # that loop may have ended, and its waiters with it
            from_thread.run_sync(landed.set, token=token)

    threading.Thread(target=tell, daemon=True, name="anyseal-flight").start()
