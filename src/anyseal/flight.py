"""Single flight: one call per key, however many tasks, threads and loops wait for its result."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Any, Generic, TypeVar

import anyio
from anyio.lowlevel import current_token

from anyseal.errors import one_line
from anyseal.tasks import Detached, ends_task

__all__ = ["SingleFlight", "ThreadFlight", "set_elsewhere"]

T = TypeVar("T")

logger = logging.getLogger("anyseal.flight")

PATIENCE = 5.0
"""Seconds to wait for another event loop's call before making one's own. That loop may be gone,
or blocked: by the very thread that waits here."""

_live: weakref.WeakSet[Any] = weakref.WeakSet()


def _renew_all() -> None:
    for flights in list(_live):
        flights._renew()


os.register_at_fork(after_in_child=_renew_all)


class _Flight:
    """One call under way, and the callers that wait for it."""

    __slots__ = ("done", "error", "result", "task", "token", "waiters", "waiting")

    def __init__(self, token: Any) -> None:
        self.token = token
        """The event loop that makes the call."""
        self.task: Detached | None = None
        self.waiting = 0
        """Callers in that loop or another one."""
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.waiters: list[tuple[Any, anyio.Event]] = []


class SingleFlight(Generic[T]):
    """Runs a function once per key at a time, in a task of its own.

    The first caller starts it, in a copy of that caller's context; callers that come while it runs
    get its result or its exception. A cancelled caller disturbs no other: the call continues. One
    that no caller waits for any more continues for *abandoned_timeout* seconds, so that the next
    caller finds it; at most *abandoned_max* of these at a time, beyond that they are cancelled.

    A forked child does not wait for its parent, nor an event loop for another one longer than
    ``PATIENCE``.

    Args:
        abandoned_timeout: Seconds.
        abandoned_max: Calls.
        dropped: Called for each call that is cancelled since no caller waits for it.

    Cost: a task for each call, some 10 us.
    """

    def __init__(
        self,
        abandoned_timeout: float = 30.0,
        abandoned_max: int = 32,
        dropped: Callable[[], object] = lambda: None,
    ) -> None:
        self._timeout = abandoned_timeout
        self._max = abandoned_max
        self._dropped = dropped
        self._abandoned: set[_Flight] = set()
        self._renew()
        _live.add(self)

    def _renew(self) -> None:
        """Also in a forked child: the parent's calls, and its threads that hold the lock, are
        gone."""
        self._lock = threading.Lock()
        self._flights: dict[Hashable, dict[Hashable, _Flight]] = {}
        self._abandoned = set()

    def forget(self, keys: Iterable[Hashable]) -> None:
        """Let no later caller wait for a call for one of *keys* that is under way."""
        if self._flights:
            with self._lock:
                for key in keys:
                    self._flights.pop(key, None)

    def forget_those(self, match: Callable[[Any], bool]) -> None:
        """The same for the keys that *match* picks."""
        self.forget([key for key in list(self._flights) if match(key)])

    async def run(
        self, key: Hashable, function: Callable[[], Awaitable[T]], variant: Hashable = None
    ) -> T:
        """The result of *function*, called for this caller or for an earlier one.

        Args:
            key: What :meth:`forget` knows the call by.
            function: Called without arguments and awaited.
            variant: Calls with the same key and another variant are other calls.
        """
        here = current_token()
        passed_by: _Flight | None = None
        while True:
            landed = anyio.Event()
            with self._lock:
                flights = self._flights.setdefault(key, {})
                flight = flights.get(variant)
                if flight is not None and _gone(flight.token, here):
                    passed_by = flight
                    self._abandoned.discard(flight)
                leads = flight is None or flight is passed_by
                if flight is None or leads:
                    flight = flights[variant] = _Flight(here)
                flight.waiters.append((here, landed))
                flight.waiting += 1
                found = flight in self._abandoned
                self._abandoned.discard(flight)
            if leads:
                self._start(key, variant, flight, function)
            elif found:
                _limit(flight, math.inf)
            try:
                with anyio.move_on_after(None if flight.token == here else PATIENCE):
                    await landed.wait()
            finally:
                self._leave(flight)
            if flight.error is not None and leads:
                raise flight.error
            if isinstance(flight.error, Exception):
                raise _twin(flight.error)
            if flight.done:
                result: T = flight.result
                return result
            if leads:
                raise RuntimeError("the call was cancelled from elsewhere")
            passed_by = flight

    def _start(
        self, key: Hashable, variant: Hashable, flight: _Flight,
        function: Callable[[], Awaitable[T]],
    ) -> None:  # fmt: skip
        async def call() -> None:
            try:
                flight.result = await function()
                flight.done = True
            except Exception as exc:
                flight.error = exc
            except BaseException as exc:
                if ends_task(exc) or not flight.waiting:
                    raise
                flight.error = exc  # the caller's to deal with, not the event loop's

        task = Detached(call, lambda: self._land(key, variant, flight))
        if not task.ended:  # an eager one may have
            flight.task = task

    def _land(self, key: Hashable, variant: Hashable, flight: _Flight) -> None:
        """The call is over: tell the callers."""
        with self._lock:
            flights = self._flights.get(key)
            if flights is not None and flights.get(variant) is flight:
                del flights[variant]
                if not flights:
                    del self._flights[key]
            self._abandoned.discard(flight)
            waiters, flight.waiters = flight.waiters, []
            unheard = flight.error is not None and not flight.waiting
            flight.task = None  # the task knows the flight: a result may be a key, which must go
        if not flight.done and flight.error is None:
            self._dropped()
        if unheard:
            kind = type(flight.error).__name__
            logger.warning("a call that no caller waits for failed: %s", one_line(kind))
        elsewhere: dict[Any, list[anyio.Event]] = {}
        for token, landed in waiters:
            if token == flight.token:
                landed.set()
            else:
                elsewhere.setdefault(token, []).append(landed)
        for token, events in elsewhere.items():
            set_elsewhere(token, events)

    def _leave(self, flight: _Flight) -> None:
        """A caller waits no longer: it has its result, or gave up."""
        with self._lock:
            flight.waiting -= 1
            if flight.waiting or flight.task is None:
                return
            here = current_token()
            self._abandoned = {each for each in self._abandoned if not _gone(each.token, here)}
            stays = len(self._abandoned) < self._max
            self._abandoned.add(flight)
        _limit(flight, self._timeout if stays else 0.0)

    async def aclose(self) -> None:
        """Cancel this event loop's calls that no caller waits for, and wait for their end."""
        here = current_token()
        with self._lock:
            mine = [flight for flight in self._abandoned if flight.token == here]
        for flight in mine:
            if flight.task is not None:
                flight.task.limit(0.0)
                await flight.task.wait()


def _gone(token: Any, here: Any) -> bool:
    """Whether an event loop was closed; one of trio's cancels its calls before it ends."""
    return token != here and bool(getattr(token.native_token, "is_closed", bool)())


def _limit(flight: _Flight, seconds: float) -> None:
    """Give a call that much time from now on."""
    task = flight.task
    if task is None:
        return
    if flight.token == current_token():
        task.limit(seconds)
    else:
        _soon(flight.token, lambda: task.limit(seconds))


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

    _soon(token, set_all)


def _soon(token: Any, call: Callable[[], object]) -> None:
    """Have another event loop make a call, without waiting for that loop."""
    loop = token.native_token
    soon = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon  # asyncio, trio
    with contextlib.suppress(Exception):  # that loop may have ended, and its callers with it
        soon(call)


class _Landing:
    """One call of a ThreadFlight, and what came of it."""

    __slots__ = ("error", "over", "result")

    def __init__(self) -> None:
        self.over = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None


class ThreadFlight(Generic[T]):
    """SingleFlight for threads: the first caller runs the function, the others wait for it.

    A thread is not cancelled, so no call is abandoned. If what the first one raised is no
    Exception (its thread was told to end), one of the others takes over.
    """

    def __init__(
        self,
        abandoned_timeout: float = 0.0,
        abandoned_max: int = 0,
        dropped: Callable[[], object] = lambda: None,
    ) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Hashable, dict[Hashable, _Landing]] = {}
        _live.add(self)

    def _renew(self) -> None:
        """In a forked child: the parent's calls, and its threads that hold the lock, are gone."""
        self._lock = threading.Lock()
        self._flights = {}

    def forget(self, keys: Iterable[Hashable]) -> None:
        """Let no later caller wait for a call for one of *keys* that is under way."""
        if self._flights:
            with self._lock:
                for key in keys:
                    self._flights.pop(key, None)

    def forget_those(self, match: Callable[[Any], bool]) -> None:
        """The same for the keys that *match* picks."""
        self.forget([key for key in list(self._flights) if match(key)])

    def run(self, key: Hashable, function: Callable[[], T], variant: Hashable = None) -> T:
        """The result of *function*, called here or by another thread; see SingleFlight."""
        while True:
            with self._lock:
                flights = self._flights.setdefault(key, {})
                flight = flights.get(variant)
                leads = flight is None
                if flight is None:
                    flight = flights[variant] = _Landing()
            if leads:
                return self._lead(key, variant, flight, function)
            flight.over.wait()
            if isinstance(flight.error, Exception):
                raise _twin(flight.error)
            if flight.error is None:
                result: T = flight.result
                return result

    def _lead(
        self, key: Hashable, variant: Hashable, flight: _Landing, function: Callable[[], T]
    ) -> T:
        try:
            flight.result = function()
            result: T = flight.result
            return result
        except BaseException as exc:
            flight.error = exc
            raise
        finally:
            with self._lock:
                flights = self._flights.get(key)
                if flights is not None and flights.get(variant) is flight:
                    del flights[variant]
                    if not flights:
                        del self._flights[key]
            flight.over.set()

    def close(self) -> None:
        """Nothing to do: no call is abandoned."""
