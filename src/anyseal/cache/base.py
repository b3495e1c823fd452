"""What the async and the sync cache share: their settings, and what these make of the parts.

Nothing here awaits, sleeps or blocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from anyseal.cache.breaker import Breaker
from anyseal.cache.codecs import codec_named
from anyseal.cache.entries import Entries, is_stale
from anyseal.cache.entry import Entry, check_namespace
from anyseal.cache.keys import PartitionKeys, check_keyring
from anyseal.cache.leases import Leases
from anyseal.cache.local import Copies, LocalLayer
from anyseal.cache.needs import UNSET
from anyseal.cache.opening import Opener, RotationHook
from anyseal.cache.options import check_settings
from anyseal.cache.payloads import Payloads
from anyseal.cache.policy import TTL, CachePolicy, seconds_of
from anyseal.cache.stats import CacheHealth, CacheStats, Observer
from anyseal.cache.tags import Tags
from anyseal.errors import AnysealError, BackendError
from anyseal.keys import Key
from anyseal.ports import AuditHook, Backend, BackendTraits, BlockingBackend, Keyring, MetricsHook
from anyseal.suites import Suite, suite_named

__all__ = ["CacheBase"]

LEASING = ("take_lease", "settle", "set_and_delete", "delete_beside")
"""What LeasingBackend has beside Backend, and its blocking twin likewise."""

_closures: WeakKeyDictionary[Any, dict[tuple[str, str], object]] = WeakKeyDictionary()
"""By backend, who has the name of a decorated function that depends on more than its arguments."""


BackendT = TypeVar("BackendT", bound=Backend | BlockingBackend)


class CacheBase(Generic[BackendT]):
    """Settings, keys, names and flows: what both caches share.

    What one of them has beside is made by its ``_assemble``, so that the settings, with their
    names and types, stand here alone.
    """

    def __init__(
        self,
        backend: BackendT,
        keyring: Key | Keyring,
        *,
        namespace: str = "anyseal",
        codec: Any = "msgpack",
        ttl: TTL = 300.0,
        policy: CachePolicy | None = None,
        plain_keys: bool = False,
        name_key: Key | None = None,
        suite: Suite | str | None = None,
        metrics: MetricsHook | None = None,
        audit: AuditHook | None = None,
        on_rotation: RotationHook | None = None,
    ) -> None:
        self._check_backend(backend)
        check_keyring(keyring, name_key)
        check_settings(
            policy=policy, plain_keys=plain_keys, name_key=name_key, metrics=metrics, audit=audit,
            on_rotation=on_rotation,
        )  # fmt: skip
        self.namespace = check_namespace(namespace)
        self.codec = codec_named(codec)
        self.policy = policy if policy is not None else CachePolicy()
        self._backend: Any = backend
        self._keyring: Any = keyring
        self._ttl = seconds_of(ttl)
        self._suite = suite_named(suite)
        self._observer = Observer(namespace, metrics, audit)
        self._breaker = Breaker(self.policy.breaker_failures, self.policy.breaker_reset, namespace)
        self._traits = BackendTraits.of(backend)
        self._everywhere = () if self._traits.can_scan else ("\0clear",)
        size = self.policy.local_bytes
        self._local = LocalLayer(size, self.policy.local_ttl) if size else None
        self._copies = Copies(self._local)
        self._payloads = Payloads(self.codec, self.policy)
        self._keys = PartitionKeys(
            keyring, name_key, namespace=namespace, codec=self.codec.name, plain=plain_keys
        )
        self._tags = Tags(
            keys=self._keys,
            copies=self._copies,
            observer=self._observer,
            policy=self.policy,
            suite=self._suite,
            everywhere=self._everywhere,
        )
        self._opener = Opener(
            keys=self._keys,
            tags=self._tags,
            copies=self._copies,
            policy=self.policy,
            breaker=self._breaker,
            observer=self._observer,
            suite=self._suite,
            on_rotation=on_rotation,
        )
        self._leases = Leases()
        self._leasing = all(hasattr(backend, method) for method in LEASING)
        self._entries = Entries(
            keys=self._keys,
            opener=self._opener,
            copies=self._copies,
            policy=self.policy,
            observer=self._observer,
            suite=self._suite,
            leases=self._leases,
            ranged=hasattr(backend, "put_range"),
            leasing=self._leasing,
        )
        self._assemble()

    def _check_backend(self, backend: Any) -> None:
        """Refuse the other cache's backends."""

    def _assemble(self) -> None:
        """Make the parts that only this cache has."""

    def claim(self, name: str, owner: object) -> bool:
        """Whether *owner* has the function's *name* over this backend to itself."""
        names = self._keys.names_hit("default")
        scope = self.namespace if names is None else names.prefixes[0]
        try:
            taken = _closures.setdefault(self._backend, {})
        except TypeError:  # not hashable, or without weak references
            taken = self.__dict__.setdefault("_taken", {})
        return taken.setdefault((scope, name), owner) is owner

    def _local_entry(self, partition: str, key: bytes) -> Entry | None:
        """The entry of *key* from this process: the hit that touches nothing else."""
        local = self._local
        held = None if local is None else local.get((partition, key))
        if held is None or local is None:
            return None
        names = self._keys.names_hit(partition)
        if names is None:
            return None
        entry = self._opener.opened(names, partition, key, held[1], held[0])
        if entry is not None:
            return entry
        flow = self._opener.open(names, partition, key, held[1], held[0])
        try:
            next(flow)
        except StopIteration as stop:
            found: Entry | None = stop.value
            return found
        except Exception:  # the backend's entry may be better, or is as bad and says so
            local.drop((partition, key))
            return None
        flow.close()  # something must be asked for: then ask for everything
        return None

    def _no_keys(self, error: AnysealError) -> BackendError:
        """The keyring has to ask a service which does not answer: the cache is as good as down."""
        found = BackendError(f"the keys cannot be had: {type(error).__name__}")
        self._observer.failed(found)
        found.retryable = error.retryable
        return found

    def _lives(self, ttl: Any) -> float | None:
        return self._ttl if ttl is UNSET else seconds_of(ttl)

    _stale = staticmethod(is_stale)

    def _held_locally(
        self, partition: str, keys: Iterable[bytes]
    ) -> tuple[dict[bytes, Entry], set[bytes]]:
        """The entries that the in-process layer has, and their keys."""
        found = {key: self._local_entry(partition, key) for key in keys}
        held = {key: entry for key, entry in found.items() if entry is not None}
        return held, set(held)

    def _health(self, failure: str, started: float) -> CacheHealth:
        """What a probe that began at *started* found."""
        return CacheHealth(
            ok=failure == "ok",
            backend=failure,
            breaker=self._breaker.state,
            latency_ms=(perf_counter() - started) * 1000,
        )

    def stats(self) -> CacheStats:
        """Counters since the cache was made."""
        found = self._observer.snapshot()
        if self._local is not None:
            found.local_entries, found.local_bytes = self._local.size
        return found

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.namespace!r} {type(self._backend).__name__}>"
