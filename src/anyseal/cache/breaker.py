"""The circuit breaker around a backend: pybreaker decides, nothing is wrapped on the usual path."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
import weakref
from typing import Any

from anyseal.errors import BackendError, MissingExtraError

__all__ = ["Breaker", "Circuits"]

CLOSED, OPEN = "closed", "open"
"""pybreaker's names of states."""


class _Opened:
    """When the circuit opened."""

    at = 0.0


def _made(failures: int, reset: float, name: str, opened: _Opened, successes: int) -> Any:
    """A circuit breaker of pybreaker's, which notes in *opened* when it opens."""
    try:
        import pybreaker  # only now: it imports redis, which takes longer than all of ours
    except ImportError as exc:  # pragma: no cover - the extra is missing
        raise MissingExtraError.of("the cache needs its extra", "anyseal[cache]") from exc

    class Opened(pybreaker.CircuitBreakerListener):
        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            if new_state.name == OPEN:
                opened.at = time.monotonic()

    return pybreaker.CircuitBreaker(
        fail_max=failures,
        reset_timeout=reset,
        listeners=[Opened()],
        name=name,
        throw_new_error_on_trip=False,
        success_threshold=successes,
    )


_live: weakref.WeakSet[Breaker] = weakref.WeakSet()


def _renew_all() -> None:
    for breaker in list(_live):
        breaker._renew()


os.register_at_fork(after_in_child=_renew_all)


class Breaker:
    """Counts failures in a row; while the circuit is open nothing is asked, but for probes after
    *reset* seconds: at most *probes* at a time, of which *successes* in a row close it."""

    def __init__(
        self, failures: int, reset: float, name: str, *, successes: int = 1, probes: int = 1
    ) -> None:
        self._successes = successes
        self._probes = probes
        self._failures = failures
        self._reset = reset
        self._name = name
        self._renew()
        _live.add(self)

    def _renew(self) -> None:
        """Begin closed; also in a forked child, where the parent's probe and its locks are gone."""
        self._opened = _Opened()
        self._lock = threading.Lock()
        self._probing = threading.BoundedSemaphore(self._probes)
        self._clean = True
        self._failed_at = -math.inf
        self.refusals = 0
        """Entries in a row that did not verify; whoever opens one sets it to 0. Apart from the
        failures of calls: the call that brought such an entry went well."""
        self._breaker: Any = None
        if self._failures:
            self._breaker = _made(
                self._failures, self._reset, self._name, self._opened, self._successes
            )

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half-open``; ``off`` if there is none."""
        return "off" if self._breaker is None else str(self._breaker.current_state)

    def just_failed(self, within: float) -> bool:
        """Whether a call failed in the last *within* seconds, and none went well since."""
        return not self._clean and time.monotonic() - self._failed_at < within

    def enter(self) -> bool:
        """Ask for a call; whether it is a probe.

        Raises:
            BackendError: The circuit is open.
        """
        breaker = self._breaker
        if breaker is None or self._clean or breaker.current_state == CLOSED:
            return False
        waited = time.monotonic() - self._opened.at >= self._reset
        if waited and self._probing.acquire(blocking=False):
            if breaker.current_state == OPEN:
                breaker.half_open()
            return True
        raise BackendError("the circuit is open: the backend failed too often")

    def succeeded(self, probe: bool = False) -> None:
        """The call went well."""
        if self._clean:
            return
        breaker = self._breaker
        if breaker is None:
            self._clean = True
            return
        try:
            with self._lock:
                if self._counts(probe):
                    breaker.call(lambda: None)
                    self._clean = breaker.current_state == CLOSED
        finally:
            self.left(probe)

    def failed(self, error: Exception, probe: bool = False) -> None:
        """The call went wrong."""
        self._failed_at = time.monotonic()
        breaker = self._breaker
        if breaker is None:
            self._clean = False
            return

        def fail() -> None:
            raise error

        try:
            with self._lock:
                self._clean = False
                if self._counts(probe):
                    breaker.call(fail)
        except Exception as exc:
            if exc is not error:
                raise
        finally:
            self.left(probe)

    def _counts(self, probe: bool) -> bool:
        """Whether an outcome counts: not if another probe has opened the circuit again."""
        state = self._breaker.current_state
        return state == CLOSED or (probe and state != OPEN)

    def refused(self) -> None:
        """An entry did not verify: as many in a row open the circuit, too."""
        breaker = self._breaker
        if breaker is None:
            return
        with self._lock:
            self.refusals += 1
            if self.refusals >= self._failures:
                self.refusals = 0
                self._clean = False
                breaker.open()

    def left(self, probe: bool) -> None:
        """A probe is over, however it ended."""
        if probe:
            with contextlib.suppress(ValueError):  # said twice
                self._probing.release()


class Circuits:
    """A breaker for each kind of call: a backend that takes no writes may still serve reads."""

    def __init__(
        self, failures: int, reset: float, name: str, *, successes: int = 1, probes: int = 1
    ) -> None:
        self.reads, self.writes, self.deletes = (
            Breaker(failures, reset, f"{name} {kind}", successes=successes, probes=probes)
            for kind in ("reads", "writes", "deletes")
        )

    @property
    def state(self) -> str:
        """The worst of the three: ``open``, ``half-open``, ``closed``; ``off`` without breakers."""
        states = {each.state for each in (self.reads, self.writes, self.deletes)}
        return next(state for state in (OPEN, "half-open", CLOSED, "off") if state in states)
