"""What a cache counts, and how it tells: statistics, hooks, the log."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field, fields
from typing import Any

from anyseal.errors import BackendError, one_line
from anyseal.ports import AuditEvent, AuditHook, CacheEvent, MetricsHook

__all__ = ["CacheHealth", "CacheStats", "Observer"]

logger = logging.getLogger("anyseal.cache")


@dataclass(slots=True, kw_only=True)
class CacheStats:
    """Counters since the cache was made, and what its in-process layer holds now."""

    hits: int = 0
    """Found in the backend and opened."""
    local_hits: int = 0
    """Found in this process and opened."""
    misses: int = 0
    stale: int = 0
    """Served beyond their time to live, while refreshed."""
    sets: int = 0
    deletes: int = 0
    tampered: int = 0
    """Did not verify or could not be decoded."""
    wrong_key: int = 0
    """Sealed under a key that the keyring does not know."""
    old_key: int = 0
    """Opened under a key that is no longer current: how far a rotation is."""
    resealed: int = 0
    """Of these, sealed anew under the current key."""
    expired: int = 0
    """Outlived their sealed expiry: the backend kept, or brought back, what had ended."""
    backend_errors: int = 0
    abandoned: int = 0
    """Computations that were cancelled since no caller waited for them."""
    local_entries: int = 0
    local_bytes: int = 0

    @property
    def hit_rate(self) -> float:
        """Hits by look-ups, 0 to 1."""
        found = self.hits + self.local_hits + self.stale
        return found / (found + self.misses) if found + self.misses else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheHealth:
    """Whether a cache works: a probe was sealed, stored, read back and opened."""

    ok: bool
    backend: str
    """``ok``, or the name of the error's class."""
    breaker: str
    """``closed``, ``open``, ``half-open`` or ``off``."""
    latency_ms: float


TOLD_MAX = 1000
"""So many functions and types are warned of, once each."""

TOLD_AGAIN = 30.0
"""Seconds between two warnings that the backend failed."""

_OUTCOMES = {
    "hits": "hit",
    "local_hits": "local-hit",
    "misses": "miss",
    "stale": "stale",
    "sets": "set",
    "deletes": "delete",
    "tampered": "tampered",
    "wrong_key": "wrong-key",
    "old_key": "old-key",
    "resealed": "resealed",
    "expired": "expired",
    "backend_errors": "backend-error",
    "abandoned": "abandoned",
}


@dataclass(slots=True)
class Observer:
    """Counts, and tells the hooks."""

    namespace: str
    metrics: MetricsHook | None
    audit: AuditHook | None
    stats: CacheStats = field(default_factory=CacheStats)
    told_of: set[Any] = field(default_factory=set)
    """What a warning was written of, once."""
    told_at: float = -math.inf
    """When the last failure of the backend was logged."""

    def count(self, what: str, number: int = 1) -> None:
        """One more of a counter of CacheStats."""
        setattr(self.stats, what, getattr(self.stats, what) + number)
        if self.metrics is not None:
            event = CacheEvent(_OUTCOMES[what], self.namespace)  # type: ignore[arg-type]
            for _ in range(number):
                self.metrics(event)

    def failed(self, error: BackendError) -> None:
        """The backend failed: count it, and write a warning unless there was one just now."""
        self.count("backend_errors")
        now = time.monotonic()
        if now - self.told_at >= TOLD_AGAIN:
            self.told_at = now
            logger.warning("the backend of cache %r failed: %s", self.namespace, one_line(error))

    def first(self, subject: Any) -> bool:
        """Whether *subject* has not been warned of yet; it has now."""
        if subject in self.told_of or len(self.told_of) >= TOLD_MAX:
            return False
        self.told_of.add(subject)
        return True

    def used(self, partition: str, key_id: bytes, operation: Any, outcome: str) -> None:
        """Tell the audit hook."""
        if self.audit is not None:
            self.audit(AuditEvent(partition, key_id.hex(), operation, outcome))

    def warn(self, message: str, partition: str, error: BaseException) -> None:
        """Write a warning: neither key nor value is in it."""
        logger.warning(
            "%s: %s in cache %r, partition %r",
            one_line(message),
            type(error).__name__,
            self.namespace,
            partition,
        )

    def snapshot(self) -> CacheStats:
        """A copy of the counters."""
        return CacheStats(
            **{each.name: getattr(self.stats, each.name) for each in fields(CacheStats)}
        )
