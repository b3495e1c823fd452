"""How a cache behaves: lifetimes, herds, failures. Frozen; checked when made."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from anyseal.errors import ConfigurationError

__all__ = ["TTL", "UNSET", "CachePolicy", "left_ms", "now_ms", "record_end", "seconds_of"]

TTL: TypeAlias = float | timedelta | None
"""Seconds, a timedelta, or None: until it is deleted or evicted."""


class _Unset:
    """Told apart from None, which is a value."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Any = _Unset()

RECORD_MS = 86_400_000
"""What the record of a tag lives at least: a day."""

RECORD_MAX_MS = 5 * 366 * RECORD_MS
"""What would live longer lives for ever."""

TTL_MAX = 10 * 366 * 86400.0


def now_ms() -> int:
    """The wall clock, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def seconds_of(ttl: Any, name: str = "ttl") -> float | None:
    """*ttl* in seconds, checked.

    Raises:
        TypeError: Not a number, a timedelta or None.
        ValueError: Not positive, not finite, or over ten years.
    """
    if ttl is None:
        return None
    if isinstance(ttl, timedelta):
        ttl = ttl.total_seconds()
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)):
        raise TypeError(f"{name} must be seconds, a timedelta or None, not {type(ttl).__name__}")
    if not math.isfinite(ttl) or not 0.001 <= ttl <= TTL_MAX:
        raise ValueError(f"{name} must be 1 ms to 10 years")
    return float(ttl)


def record_end(end: int) -> int:
    """When the record of a tag ends that an entry with this *end* carries; 0 never.

    Far enough beyond it for the entries of a while: extending a record takes two exchanges.
    """
    if not end:
        return 0
    now = now_ms()
    lives = max(RECORD_MS, 2 * (end - now))
    return 0 if lives > RECORD_MAX_MS else now + lives


def left_ms(until: int) -> int | None:
    """The time to live of a record."""
    return max(1, until - now_ms()) if until else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """How a cache behaves. Times in seconds.

    Raises:
        ConfigurationError: A value is out of bounds.
    """

    on_tamper: Literal["evict", "raise"] = "evict"
    """An entry that does not verify, or cannot be decoded: a miss, and it is evicted; or raised."""

    on_backend_error: Literal["open", "closed"] = "open"
    """The backend is down: reads miss and writes are dropped; or BackendError is raised.
    Deleting always raises: a delete that was dropped would leave what must be gone."""

    timeout: float | None = 2.0
    """For one call of the backend, where the backend itself sets none."""

    breaker_failures: int = 5
    """Failures in a row (failed decryptions among them) that open the circuit; 0 turns it off."""

    breaker_reset: float = 15.0
    """How long an open circuit asks the backend for nothing."""

    ttl_jitter: float = 0.0
    """Each time to live is shortened by up to this fraction, so that a herd of entries made
    together does not expire together."""

    stale_ttl: float = 0.0
    """Beyond its time to live an entry is still served for this long while one caller refreshes
    it in the background."""

    early_refresh: float = 0.0
    """Refresh in the background before the end, the more likely the nearer (XFetch's beta);
    1 is a good value, 0 never."""

    lease: float | None = 5.0
    """Across processes one caller computes a missing value under a lease that it renews; the
    others wait for the value. How long the lease of a dead process blocks; None: no lease."""

    reseal: bool = False
    """Seal an entry anew when it was read under a key that is no longer current."""

    abandoned_timeout: float = 30.0
    """How long a computation continues that no caller waits for any more, so that the next caller
    finds it: clients that give up early must not keep a slow value from ever being computed."""

    abandoned_max: int = 32
    """So many of these at a time; beyond that they are cancelled."""

    local_bytes: int = 0
    """Sealed bytes kept in this process, least recently used first out; 0 keeps none."""

    local_ttl: float = 30.0
    """How long an entry is served from this process before the backend is asked again."""

    large_bytes: int = 1 << 20
    """Encoded values above this are stored as a sealed object, in pieces."""

    max_bytes: int = 1 << 32
    """A value that encodes to more is refused with ValueError."""

    def __post_init__(self) -> None:
        if self.on_tamper not in ("evict", "raise"):
            raise ConfigurationError("on_tamper must be 'evict' or 'raise'")
        if self.on_backend_error not in ("open", "closed"):
            raise ConfigurationError("on_backend_error must be 'open' or 'closed'")
        if not isinstance(self.reseal, bool):
            raise ConfigurationError("reseal must be True or False")
        bounds: dict[str, tuple[float, float]] = {
            "timeout": (0.001, 3600),
            "breaker_failures": (0, 1_000_000),
            "breaker_reset": (0.001, 86400),
            "ttl_jitter": (0, 1),
            "stale_ttl": (0, TTL_MAX),
            "early_refresh": (0, 100),
            "lease": (0.05, 3600),
            "abandoned_timeout": (0, 86400),
            "abandoned_max": (0, 1_000_000),
            "local_bytes": (0, 1 << 40),
            "local_ttl": (0.001, TTL_MAX),
            "large_bytes": (1 << 10, 1 << 28),
            "max_bytes": (1, 1 << 40),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if value is None and name in ("timeout", "lease"):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigurationError(f"{name} must be a number")
            if not low <= value <= high:
                raise ConfigurationError(f"{name} must be {low:g} to {high:g}, not {value:g}")

    def lifetime(self, ttl: float | None) -> tuple[int, int]:
        """When an entry made now is no longer fresh, and when it ends; ms since the epoch, 0 never.

        The jitter is taken off here.
        """
        if ttl is None:
            return 0, 0
        if self.ttl_jitter:
            ttl *= 1 - self.ttl_jitter * random.random()  # noqa: S311 - no secret
        end = now_ms() + max(1, round(ttl * 1000))
        if self.stale_ttl:
            return end, end + round(self.stale_ttl * 1000)
        return (end if self.early_refresh else 0), end

    def refresh_early(self, fresh_until: int, cost_ms: int) -> bool:
        """Whether this reader should refresh an entry that is still fresh."""
        if not self.early_refresh or not fresh_until:
            return False
        ahead = -math.log(1 - random.random()) * cost_ms * self.early_refresh  # noqa: S311
        return now_ms() + ahead >= fresh_until


Condition: TypeAlias = Callable[[Any], bool]
