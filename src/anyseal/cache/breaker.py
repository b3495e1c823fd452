"""The circuit breaker around a backend: pybreaker decides, nothing is wrapped on the usual path."""

from __future__ import annotations

import threading
import time
from typing import Any

from anyseal.errors import BackendError, ConfigurationError

try:
    import pybreaker
except ImportError as _exc:  # pragma: no cover - the extra is missing
    raise ConfigurationError("the cache needs its extra: pip install 'anyseal[cache]'") from _exc

__all__ = ["Breaker"]


class _Opened(pybreaker.CircuitBreakerListener):
    """Notes when the circuit opened."""

    def __init__(self) -> None:
        self.at = 0.0

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        if new_state.name == pybreaker.STATE_OPEN:
            self.at = time.monotonic()


class Breaker:
    """Counts failures in a row; while the circuit is open nothing is asked, but for one probe
    after *reset* seconds."""

    def __init__(self, failures: int, reset: float, name: str) -> None:
        self._reset = reset
        self._opened = _Opened()
        self._probing = threading.Lock()
        self._clean = True
        self._breaker = (
            pybreaker.CircuitBreaker(
                fail_max=failures,
                reset_timeout=reset,
                listeners=[self._opened],
                name=name,
                throw_new_error_on_trip=False,
            )
            if failures
            else None
        )

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half-open``; ``off`` if there is none."""
        return "off" if self._breaker is None else str(self._breaker.current_state)

    def enter(self) -> bool:
        """Ask for a call; whether it is a probe.

        Raises:
            BackendError: The circuit is open.
        """
        breaker = self._breaker
        if breaker is None or self._clean or breaker.current_state == pybreaker.STATE_CLOSED:
            return False
        waited = time.monotonic() - self._opened.at >= self._reset
        if waited and self._probing.acquire(blocking=False):
            breaker.half_open()
            return True
        raise BackendError("the circuit is open: the backend failed too often")

    def succeeded(self, probe: bool = False) -> None:
        """The call went well."""
        if self._clean or self._breaker is None:
            return
        if probe or self._breaker.current_state == pybreaker.STATE_CLOSED:
            self._breaker.call(lambda: None)
            self._clean = True
        self.left(probe)

    def failed(self, error: Exception, probe: bool = False) -> None:
        """The call went wrong, or what it gave did not verify."""
        breaker = self._breaker
        if breaker is None:
            return

        def fail() -> None:
            raise error

        self._clean = False
        if probe or breaker.current_state == pybreaker.STATE_CLOSED:
            try:
                breaker.call(fail)
            except Exception as exc:
                if exc is not error:
                    raise
        self.left(probe)

    def left(self, probe: bool) -> None:
        """A probe is over, however it ended."""
        if probe and self._probing.locked():
            self._probing.release()
