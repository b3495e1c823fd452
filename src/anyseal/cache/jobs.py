"""Jobs: one missing value, how to compute it, and what to do with the result. Pure.

The herds of tasks and of threads are driven by the same jobs.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from anyseal.cache.base import CacheBase
from anyseal.cache.entry import ERROR, Entry
from anyseal.cache.needs import UNSET, Flow
from anyseal.errors import BackendError

__all__ = ["LEFT", "POLL_FIRST", "POLL_MAX", "Computed", "Job", "next_poll"]

POLL_FIRST, POLL_MAX = 0.01, 0.25
"""Seconds between two looks for the value that someone else computes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One missing value, and how to compute it."""

    partition: str
    key: bytes = field(repr=False)
    factory: Callable[[], Any] = field(repr=False)
    ttl: Any = UNSET
    """A TTL, or a function of the value that returns one."""
    tags: tuple[str, ...] = ()
    type: Any = Any
    condition: Callable[[Any], bool] | None = None
    exceptions: tuple[type[Exception], ...] = ()
    """Those that are cached, too."""
    lenient: bool = False
    """A value that cannot be stored is returned all the same."""
    force: bool = False
    """Compute even if there is a value."""
    name: str = ""
    """Of the function whose result it is."""
    info: Any = None
    """Counts ``hits``, ``misses`` and ``stale`` of one function."""

    def count(self, cache: CacheBase[Any], what: str) -> None:
        """Count one more on the cache, and on the function."""
        cache._observer.count(what)
        if self.info is not None:
            self.info.count("hits" if what == "local_hits" else what)

    def warn(self, cache: CacheBase[Any], message: str, error: Exception) -> None:
        """Write a warning that says whose result it is about."""
        said = f"{self.name}: {message}" if self.name else message
        cache._observer.warn(said, self.partition, error)

    @property
    def flight(self) -> tuple[str, bytes, bool]:
        """Jobs with the same of this are one."""
        return self.partition, self.key, self.force

    def excludes(self, cache: CacheBase[Any], entry: Entry) -> bool:
        """Whether *entry* holds an exception that is not expected; one that is, is raised."""
        if entry.kind != ERROR:
            return False
        error = cache._payloads.revived(entry.payload, self.exceptions)
        if error is None:
            return True
        raise error

    def refreshes(self, cache: CacheBase[Any], entry: Entry, *, stale: bool) -> bool:
        """Whether to refresh the value of *entry*, which is served; counted if it is *stale*."""
        if stale:
            self.count(cache, "stale")
        return stale or cache.policy.refresh_early(entry.fresh_until, entry.cost_ms)

    def carried(self, cache: CacheBase[Any]) -> Flow[Any]:
        """The job's tags as its entry will carry them; None if the backend is down.

        Before the factory is called: a tag that is deleted meanwhile must end the result, too.
        """
        if not self.tags and not cache._everywhere:
            return ()
        try:
            names = yield from cache._keys.names(self.partition)
            ttl = self._known_ttl(cache)
            return (yield from cache._tags.generations(names, self.partition, self.tags, ttl=ttl))
        except BackendError:
            if cache.policy.on_backend_error == "closed":
                raise
            return None

    def _known_ttl(self, cache: CacheBase[Any]) -> Any:
        """How long the value will live; UNSET if that is not known before there is one."""
        if callable(self.ttl):
            return UNSET
        try:
            return cache._lives(self.ttl)
        except (TypeError, ValueError):  # which is told when there is a value
            return UNSET

    def frozen(self, cache: CacheBase[Any], error: Exception) -> tuple[int, bytes] | None:
        """Kind and payload of an exception that is to be kept; None if it could not be raised
        again."""
        found = cache._payloads.frozen(error, self.exceptions)
        if found is None:
            self.warn(cache, "an exception cannot be kept", error)
        return found

    def prepared(self, cache: CacheBase[Any], value: Any) -> tuple[int, Any] | None:
        """Kind and payload of what the factory returned; None if it cannot be stored, and need
        not be. Raises TypeError, ValueError."""
        try:
            return cache._payloads.prepared(value)
        except (TypeError, ValueError) as exc:
            if not self.lenient:
                raise
            self.warn(cache, "a value cannot be cached", exc)
            return None

    def options(
        self, cache: CacheBase[Any], tags: Any, value: Any, started: float
    ) -> dict[str, Any] | None:
        """How to store *value*, whose computing began at *started*; None if it is not wanted."""
        if tags is None or (self.condition is not None and not self.condition(value)):
            return None
        ttl = self._lives(cache, value)
        if ttl is UNSET:
            return None
        return {"ttl": ttl, "tags": tags, "cost_ms": round((perf_counter() - started) * 1000)}

    def _lives(self, cache: CacheBase[Any], value: Any) -> Any:
        """How long *value* lives; UNSET if what its function of a ttl says cannot be."""
        try:
            return cache._lives(self.ttl(value) if callable(self.ttl) else self.ttl)
        except (TypeError, ValueError) as exc:
            if not self.lenient:
                raise
            self.warn(cache, "a value is not cached: its ttl", exc)
            return UNSET


@dataclass(slots=True)
class Computed:
    """A value, and its payload, from which others decode their own."""

    value: Any = field(repr=False)
    kind: int = -1
    """Below 0: there is no payload."""
    payload: Any = field(default=b"", repr=False)


LEFT = Computed(UNSET)
"""A refresh that another process is about."""


def next_poll(delay: float) -> float:
    """How long to wait before the look after the next one."""
    return min(POLL_MAX, delay * 1.6) * (0.8 + 0.4 * random.random())  # noqa: S311 - no secret
