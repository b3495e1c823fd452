"""The shelf: what the face of a cache and its helpers share. Find, put and revoke entries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from anyseal.cache.breaker import Circuits
from anyseal.cache.codecs import codec_named
from anyseal.cache.entries import Entries, is_stale
from anyseal.cache.entry import Entry, check_namespace
from anyseal.cache.guard import Guard
from anyseal.cache.keys import PartitionKeys
from anyseal.cache.kit import WAITS, Background, Renewals, limit_of, watching
from anyseal.cache.leases import Leases
from anyseal.cache.local import Copies, LocalLayer
from anyseal.cache.opening import Opener, RotationHook
from anyseal.cache.options import check_backend, check_keyring, check_settings
from anyseal.cache.payloads import Payloads
from anyseal.cache.policy import TTL, UNSET, CachePolicy, seconds_of
from anyseal.cache.stats import Observer
from anyseal.cache.tags import Tags
from anyseal.errors import BackendError
from anyseal.keys import Key
from anyseal.ports import AuditHook, BackendTraits, Keyring, MetricsHook
from anyseal.suites import Suite, suite_named

__all__ = ["Shelf"]

LEASING = ("take_lease", "settle", "set_and_delete", "delete_beside")
"""What a LeasingBackend has beside a Backend."""


class Shelf:
    """The parts of one cache. Its arguments are those of the cache."""

    def __init__(
        self,
        backend: Any,
        keyring: Key | Keyring,
        *,
        namespace: str,
        codec: Any,
        ttl: TTL,
        policy: CachePolicy | None,
        plain_keys: bool,
        name_key: Key | None,
        suite: Suite | str | None,
        metrics: MetricsHook | None,
        audit: AuditHook | None,
        on_rotation: RotationHook | None,
    ) -> None:
        check_backend(backend, waits=WAITS)
        check_keyring(keyring, name_key)
        check_settings(
            policy=policy, plain_keys=plain_keys, name_key=name_key, metrics=metrics, audit=audit,
            on_rotation=on_rotation,
        )  # fmt: skip
        self.namespace = check_namespace(namespace)
        self.codec = codec_named(codec)
        self.policy = policy if policy is not None else CachePolicy()
        self.backend = backend
        self.keyring: Any = keyring
        self.ttl = seconds_of(ttl)
        self.suite = suite_named(suite)
        self.observer = Observer(namespace, metrics, audit)
        failures, reset = self.policy.breaker_failures, self.policy.breaker_reset
        self.circuits = Circuits(failures, reset, namespace)
        traits = BackendTraits.of(backend)
        self.everywhere = () if traits.can_scan else ("\0clear",)
        size = self.policy.local_bytes
        self.local = LocalLayer(size, self.policy.local_ttl) if size else None
        self.copies = Copies(self.local)
        self.payloads = Payloads(self.codec, self.policy)
        self.leases = Leases()
        self.leasing = all(hasattr(backend, method) for method in LEASING)
        self.background = Background(self.leases.abandon)
        self.renewals = Renewals(self.background)
        self.watch = watching(backend, f"{self.namespace}:", self.local, self.background)
        limit = limit_of(backend, self.policy, traits)
        self.guard = Guard(backend, self.circuits, self.observer, self.policy, limit)
        self.keys = PartitionKeys(
            keyring, name_key, namespace=namespace, codec=self.codec.name, plain=plain_keys,
            observer=self.observer,
        )  # fmt: skip
        self._assemble(on_rotation)

    def _assemble(self, on_rotation: RotationHook | None) -> None:
        shared: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("guard", "backend", "keys", "copies", "observer", "policy", "suite")
        }
        self.tags = Tags(**shared, everywhere=self.everywhere)
        self.opener = Opener(
            **shared, tags=self.tags, breaker=self.circuits.reads, on_rotation=on_rotation
        )
        self.entries = Entries(
            **shared, opener=self.opener, leases=self.leases,
            ranged=hasattr(self.backend, "put_range"), leasing=self.leasing,
        )  # fmt: skip

    def lives(self, ttl: Any) -> float | None:
        """Seconds that an entry with this *ttl* lives; None: until it is deleted or evicted."""
        return self.ttl if ttl is UNSET else seconds_of(ttl)

    stale = staticmethod(is_stale)

    def local_entry(self, partition: str, key: bytes) -> Entry | None:
        """The entry of *key* from this process: the hit that asks nothing else."""
        local = self.local
        held = None if local is None else local.get((partition, key))
        if held is None:
            return None
        names = self.keys.names_hit(partition)
        if names is None:
            return None
        return self.opener.opened(names, partition, key, held[1], held[0])

    def held_locally(
        self, partition: str, keys: Iterable[bytes]
    ) -> tuple[dict[bytes, Entry], set[bytes]]:
        """The entries that the in-process layer has, and their keys."""
        found = {key: self.local_entry(partition, key) for key in keys}
        held = {key: entry for key, entry in found.items() if entry is not None}
        return held, set(held)

    async def found(self, partition: str, key: bytes) -> Entry | None:
        """The entry of *key*; None also when the backend is down and the policy is open."""
        try:
            names = self.keys.names_hit(partition)
            if names is None or len(names.keys) > 1:
                return await self.entries.find(partition, key)
            if self.watch is not None:
                self.watch.begin()
            # As Entries.find, for the usual case of one name: one frame less.
            stored = names.names(key)
            (version,) = self.copies.versions(stored)
            (sealed,) = await self.guard.read(self.backend.get_many, stored)
            if sealed is None:
                return None
            entry = self.opener.opened(names, partition, key, stored[0], sealed)
            if entry is None:
                entry = await self.opener.open(names, partition, key, stored[0], sealed)
            if entry is not None:
                self.copies.keep_found(partition, key, stored[0], entry, version)
            return entry
        except BackendError:
            if self.policy.on_backend_error == "closed":
                raise
            return None
