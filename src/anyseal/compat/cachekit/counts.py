"""What a cached function tells of itself: how often it hit, and what became of entries."""

from __future__ import annotations

import enum
import threading
import time
import uuid
from typing import NamedTuple

__all__ = ["CacheInfo", "Counts", "InvalidationOutcome"]

_session_id = str(uuid.uuid4())


class InvalidationOutcome(enum.Enum):
    """What became of an entry that was to be removed."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    NO_L2 = "no_l2"


class CacheInfo(NamedTuple):
    """What happened so far, in this process."""

    hits: int
    misses: int
    l1_hits: int
    l2_hits: int
    maxsize: None
    currsize: None
    l2_avg_latency_ms: float
    last_operation_at: float | None
    session_id: str


class Counts:
    """Hits and misses of one function."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Begin again."""
        self._local_hits = self._store_hits = self._misses = 0
        self._seconds = 0.0
        self._last: float | None = None

    def local_hit(self) -> None:
        """A value came from this process."""
        with self._lock:
            self._local_hits += 1
            self._last = time.time()

    def store_hit(self, seconds: float) -> None:
        """A value came from the store, which took that long."""
        with self._lock:
            self._store_hits += 1
            self._seconds += seconds
            self._last = time.time()

    def miss(self) -> None:
        """The function had to be called."""
        with self._lock:
            self._misses += 1
            self._last = time.time()

    def info(self) -> CacheInfo:
        """What happened so far."""
        with self._lock:
            return CacheInfo(
                hits=self._local_hits + self._store_hits,
                misses=self._misses,
                l1_hits=self._local_hits,
                l2_hits=self._store_hits,
                maxsize=None,
                currsize=None,
                l2_avg_latency_ms=1000 * self._seconds / max(1, self._store_hits),
                last_operation_at=self._last,
                session_id=f"{_session_id}:{self._name}",
            )
