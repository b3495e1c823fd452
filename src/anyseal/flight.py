"""Single flight: one call per key, however many tasks, threads and loops wait for its result."""

from __future__ import annotations

import contextlib
import copy
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Any, Generic, TypeVar

import anyio
from anyio.lowlevel import current_token

__all__ = ["SingleFlight", "ThreadFlight", "set_elsewhere"]

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds to wait for another event loop's call before making one's own. That loop may be gone,
or blocked: by the very thread that waits here."""

_live: weakref.WeakSet[Any] = weakref.WeakSet()


def _renew_all() -> None:
    for flights in list(_live):
        flights._renew()


os.register_at_fork(after_in_child=_renew_all)


class _Flight:
    """One call under way, and those who wait for it."""

    __slots__ = ("done", "error", "result", "token", "waiters")

    def __init__(self, token: Any) -> None:
        self.token = token
        """The event loop that makes the call."""
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None
        self.waiters: list[tuple[Any, anyio.Event]] = []


class SingleFlight(Generic[T]):
    """Runs a function once per key at a time.

    The first caller runs it; those who come meanwhile get its result or its exception. If the
    first caller is cancelled one of the others takes over, so that a cancellation ends nobody
    else's call. A forked child does not wait for its parent, nor an event loop for another one
    longer than ``PATIENCE``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Hashable, _Flight] = {}
        _live.add(self)

    def _renew(self) -> None:
        """In a forked child: the parent's calls, and its threads that hold the lock, are gone."""
        self._lock = threading.Lock()
        self._flights = {}

    def forget(self, keys: Iterable[Hashable]) -> None:
        """Who comes from now on waits for no call for one of *keys* that is under way."""
        if self._flights:
            with self._lock:
                for key in keys:
                    self._flights.pop(key, None)

    def forget_those(self, match: Callable[[Any], bool]) -> None:
        """The same for the keys of which *match* says so."""
        self.forget([key for key in list(self._flights) if match(key)])

    async def run(self, key: Hashable, function: Callable[[], Awaitable[T]]) -> T:
        """The result of *function*, called here or by someone else for the same *key*."""
        here = current_token()
        passed_by: _Flight | None = None
        while True:
            with self._lock:
                flight = self._flights.get(key)
                leads = flight is None or flight is passed_by
                if flight is None or leads:
                    flight = self._flights[key] = _Flight(here)
                else:
                    landed = anyio.Event()
                    flight.waiters.append((here, landed))
            if leads:
                return await self._lead(key, flight, function)
            with anyio.move_on_after(None if flight.token == here else PATIENCE):
                await landed.wait()
            if flight.error is not None:
                raise _twin(flight.error)
            if flight.done:
                result: T = flight.result
                return result
            passed_by = flight

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
            elsewhere: dict[Any, list[anyio.Event]] = {}
            for token, landed in flight.waiters:
                if token == flight.token:
                    landed.set()
                else:
                    elsewhere.setdefault(token, []).append(landed)
            for token, events in elsewhere.items():
                set_elsewhere(token, events)


def _twin(error: Exception) -> Exception:
    """*error* for one more caller: raised by all, it would collect the traceback of each."""
    with contextlib.suppress(Exception):
        twin = copy.copy(error)
        if type(twin) is type(error):
            twin.__cause__ = error
            return twin
    return error


def set_elsewhere(token: Any, events: list[anyio.Event]) -> None:
    """Set the events of another loop, without waiting for that loop."""

    def set_all() -> None:
        for event in events:
            event.set()

    loop = token.native_token
    soon = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon  # asyncio, trio
    with contextlib.suppress(Exception):  # that loop may have ended, and its waiters with it
        soon(set_all)


class _Landing:
    """One call of a ThreadFlight, and what came of it."""

    __slots__ = ("error", "over", "result")

    def __init__(self) -> None:
        self.over = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None


class ThreadFlight(Generic[T]):
    """SingleFlight for threads: the first caller runs the function, the others wait for it.

    If what the first one raised is no Exception (its thread was told to end), one of the others
    takes over.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Hashable, _Landing] = {}
        _live.add(self)

    def _renew(self) -> None:
        """In a forked child: the parent's calls, and its threads that hold the lock, are gone."""
        self._lock = threading.Lock()
        self._flights = {}

    def forget(self, keys: Iterable[Hashable]) -> None:
        """Who comes from now on waits for no call for one of *keys* that is under way."""
        if self._flights:
            with self._lock:
                for key in keys:
                    self._flights.pop(key, None)

    def forget_those(self, match: Callable[[Any], bool]) -> None:
        """The same for the keys of which *match* says so."""
        self.forget([key for key in list(self._flights) if match(key)])

    def run(self, key: Hashable, function: Callable[[], T]) -> T:
        """The result of *function*, called here or by another thread for the same *key*."""
        while True:
            with self._lock:
                flight = self._flights.get(key)
                leads = flight is None
                if flight is None:
                    flight = self._flights[key] = _Landing()
            if leads:
                return self._lead(key, flight, function)
            flight.over.wait()
            if isinstance(flight.error, Exception):
                raise _twin(flight.error)
            if flight.error is None:
                result: T = flight.result
                return result

    def _lead(self, key: Hashable, flight: _Landing, function: Callable[[], T]) -> T:
        try:
            flight.result = function()
            result: T = flight.result
            return result
        except BaseException as exc:
            flight.error = exc
            raise
        finally:
            with self._lock:
                if self._flights.get(key) is flight:
                    del self._flights[key]
            flight.over.set()
