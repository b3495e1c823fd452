# Made from anyseal/cache/computation.py by .ci/generate_sync.py: do not edit.
"""One missing value: how to compute it, and what to do with the result."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from anyseal.cache.codecs.steps import ChangedError
from anyseal.cache.entry import ERROR, Entry
from anyseal.cache.policy import UNSET
from anyseal.errors import BackendError, one_line
from anyseal.sync._generated.shelf import Shelf
from anyseal.sync.kit import stepped

__all__ = ["LEFT", "POLL_FIRST", "POLL_MAX", "Computation", "Computed", "next_poll"]

POLL_FIRST, POLL_MAX = 0.01, 0.25
"""Seconds between two looks for the value that another process computes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Computation:
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
    shared: bool = True
    """Callers of one value wait for one computation; else each computes in its own task."""
    name: str = ""
    """Of the function whose result it is."""
    info: Any = None
    """Counts ``hits``, ``misses`` and ``stale`` of one function."""

    def count(self, shelf: Shelf, what: str) -> None:
        """Count one more on the cache, and on the function."""
        shelf.observer.count(what)
        if self.info is not None:
            self.info.count("hits" if what == "local_hits" else what)

    def warn(self, shelf: Shelf, message: str, error: Exception) -> None:
        """Write a warning that says whose result it is about."""
        said = f"{self.name}: {message}" if self.name else message
        shelf.observer.warn(said, self.partition, error)

    def variant(self, shelf: Shelf) -> Hashable:
        """Computations of one key with the same variant are one."""
        names = shelf.keys.names_hit(self.partition)
        generation = b"" if names is None else names.keys[0]._key_id
        try:
            hash(self.type)
        except TypeError:
            return self.force, generation, repr(self.type)
        return self.force, generation, self.type

    def excludes(self, shelf: Shelf, entry: Entry) -> bool:
        """Whether *entry* holds an exception that is not expected; one that is, is raised."""
        if entry.kind != ERROR:
            return False
        error = shelf.payloads.revived(entry.payload, self.exceptions)
        if error is None:
            return True
        raise error

    def refreshes(self, shelf: Shelf, entry: Entry, *, stale: bool) -> bool:
        """Whether to refresh the value of *entry*, which is served; counted if it is *stale*."""
        if stale:
            self.count(shelf, "stale")
        return stale or shelf.policy.refresh_early(entry.fresh_until, entry.cost_ms)

    def carried(self, shelf: Shelf) -> Any:
        """The tags as its entry will carry them; None if the backend is down.

        Before the factory is called: a tag that is deleted while it runs must end the result, too.
        """
        if not self.tags and not shelf.everywhere:
            return ()
        try:
            names = shelf.keys.names(self.partition)
            ttl = self._known_ttl(shelf)
            return shelf.tags.generations(names, self.partition, self.tags, ttl=ttl)
        except BackendError:
            if shelf.policy.on_backend_error == "closed":
                raise
            return None

    def _known_ttl(self, shelf: Shelf) -> Any:
        """How long the value will live; UNSET if that is not known before there is one."""
        if callable(self.ttl):
            return UNSET
        try:
            return shelf.lives(self.ttl)
        except (TypeError, ValueError):  # which is told when there is a value
            return UNSET

    def frozen(self, shelf: Shelf, error: Exception) -> tuple[int, bytes] | None:
        """Kind and payload of an exception that is to be kept; None if it could not be raised
        again."""
        found = shelf.payloads.frozen(error, self.exceptions)
        if found is None:
            self.warn(shelf, "an exception cannot be kept", error)
        return found

    def prepared(self, shelf: Shelf, value: Any) -> tuple[int, Any] | None:
        """Kind and payload of what the factory returned; None if it cannot be stored, and need
        not be. Raises TypeError, ValueError."""
        payloads = shelf.payloads
        try:
            found = payloads.prepared_result(value, self.type)
            if found is not None:
                return found
            return stepped(payloads.preparing_result(value, self.type))
        except (TypeError, ValueError, ChangedError) as exc:
            if not self.lenient and not isinstance(exc, ChangedError):
                raise
            if shelf.observer.first((self.name, value.__class__)):
                where = getattr(exc, "discreet", "no detail")
                self.warn(shelf, one_line(f"a value cannot be cached ({where})"), exc)
            return None

    def options(self, shelf: Shelf, tags: Any, value: Any, started: float) -> dict[str, Any] | None:
        """How to store *value*, whose computing began at *started*; None if it is not wanted."""
        if tags is None or (self.condition is not None and not self.condition(value)):
            return None
        ttl = self._lives(shelf, value)
        if ttl is UNSET:
            return None
        return {"ttl": ttl, "tags": tags, "cost_ms": round((perf_counter() - started) * 1000)}

    def _lives(self, shelf: Shelf, value: Any) -> Any:
        """How long *value* lives; UNSET if what its function of a ttl says cannot be."""
        try:
            return shelf.lives(self.ttl(value) if callable(self.ttl) else self.ttl)
        except (TypeError, ValueError) as exc:
            if not self.lenient:
                raise
            self.warn(shelf, "a value is not cached: its ttl", exc)
            return UNSET


@dataclass(slots=True)
class Computed:
    """A value, and its payload, from which others decode their own."""

    value: Any = field(repr=False)
    kind: int = -1
    """Below 0: there is no payload."""
    payload: Any = field(default=b"", repr=False)


LEFT = Computed(UNSET)
"""Marker: another process is already refreshing this value."""


def next_poll(delay: float) -> float:
    """How long to wait before the look after the next one."""
    return min(POLL_MAX, delay * 1.6) * (0.8 + 0.4 * random.random())  # noqa: S311 - no secret
