"""What the async and the sync cache have in common, by which they are recognised."""

from __future__ import annotations

from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary

from anyseal.cache.codecs.base import Codec
from anyseal.cache.policy import CachePolicy
from anyseal.cache.stats import CacheHealth, CacheStats

__all__ = ["CacheBase"]

_closures: WeakKeyDictionary[Any, dict[tuple[str, str], object]] = WeakKeyDictionary()
"""By backend, who has the name of a decorated function that depends on more than its arguments."""


class CacheBase:
    """Settings and counters: nothing here awaits, sleeps or blocks."""

    _shelf: Any
    _calls: Any
    _waits: bool

    @property
    def namespace(self) -> str:
        """What keeps its entries apart from those of other caches in the same backend."""
        name: str = self._shelf.namespace
        return name

    @property
    def codec(self) -> Codec:
        """What turns values into bytes."""
        codec: Codec = self._shelf.codec
        return codec

    @property
    def policy(self) -> CachePolicy:
        """Lifetimes, herds, failures."""
        policy: CachePolicy = self._shelf.policy
        return policy

    def stats(self) -> CacheStats:
        """Counters since the cache was made."""
        found: CacheStats = self._shelf.observer.snapshot()
        if self._shelf.local is not None:
            found.local_entries, found.local_bytes = self._shelf.local.size
        return found

    def _claim(self, name: str, owner: object) -> bool:
        """Whether *owner* has the function's *name* over this backend to itself."""
        names = self._shelf.keys.names_hit("default")
        scope = self.namespace if names is None else names.prefixes[0]
        try:
            taken = _closures.setdefault(self._shelf.backend, {})
        except TypeError:  # not hashable, or without weak references
            taken = self.__dict__.setdefault("_taken", {})
        return taken.setdefault((scope, name), owner) is owner

    def _probed(self, failure: str, started: float) -> CacheHealth:
        """What a probe that began at *started* found."""
        return CacheHealth(
            ok=failure == "ok",
            backend=failure,
            breaker=self._shelf.circuits.state,
            latency_ms=(perf_counter() - started) * 1000,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.namespace!r} {type(self._shelf.backend).__name__}>"
