"""KeyHierarchy: system key, intermediate keys, and the KMS and metastore behind them.

The KMS wraps the system key (SK), the SK wraps one intermediate key (IK) per partition, and an IK
wraps the data key of each record. Wire-compatible with Asherah: the metastore's rows and the rules
of rotation are its rules, with the differences that docs/sessions.md lists.

An IK is a raw AES-GCM key for data row keys, and an Expand input for everything that anyseal
derives; the two primitives are independent.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import anyio

from anyseal import early
from anyseal.config import CryptoPolicy
from anyseal.errors import (
    ConfigurationError,
    KeyNotFoundError,
    MetastoreError,
    WrongKeyError,
    WrongPartitionError,
    one_line,
)
from anyseal.hints import check_callable, only_async_with, wrong_type
from anyseal.keyring.cached import IntermediateKey, Partition, Partitions, trim
from anyseal.keyring.ids import KeyIds
from anyseal.keyring.intermediate import IntermediateKeys
from anyseal.keyring.keystore import KeyStore
from anyseal.keyring.lifetimes import Lifetimes
from anyseal.keyring.meter import Meter
from anyseal.keyring.naming import NameKeys
from anyseal.keyring.system import SystemKeys
from anyseal.keys import Key
from anyseal.ports import KeyRecord, Kms, Metastore, MetricsHook
from anyseal.tasks import Background

__all__ = ["KeyHierarchy"]

_log = logging.getLogger("anyseal.hierarchy")
_UNKNOWN_KEYS_MAX = 1000


class KeyHierarchy:
    """The key hierarchy of one service and product; a Keyring, and an async context manager.

    Args:
        kms: Wraps the system key.
        metastore: Keeps the wrapped keys.
        service: Part of every key id. Without ``_``, see *allow_ambiguous_ids*.
        product: Part of every key id.
        policy: Lifetimes and cache sizes.
        region_suffix: Ends the ids of new keys, for global tables: the region's name. Default:
            what the metastore says in its own ``region_suffix``, if it has one.
        recovery_region_suffixes: Other regions whose keys may open this one's records.
        allow_ambiguous_ids: Accept a service or product with ``_``. Ids are joined with ``_``, so
            that partition ``a`` of service ``b_c`` has the id of partition ``a_b`` of service
            ``c``; needed only for data that exists under such names.
        metrics: Called with each load, store and cache event.
        allow_testing_kms: Accept a KMS meant for testing together with a metastore that lasts.

    Raises:
        ConfigurationError: A name is empty or ambiguous, or a testing KMS with a lasting
            metastore.

    Cost: a warm partition's key is a dictionary look-up; a cold one two loads, one KMS call (none
    while the system key is warm) and, when it is new, one store, however many callers wait.
    """

    def __init__(
        self,
        kms: Kms,
        metastore: Metastore,
        *,
        service: str,
        product: str,
        policy: CryptoPolicy | None = None,
        region_suffix: str | None = None,
        recovery_region_suffixes: Sequence[str] = (),
        allow_ambiguous_ids: bool = False,
        metrics: MetricsHook | None = None,
        allow_testing_kms: bool = False,
    ) -> None:
        if policy is not None and not isinstance(policy, CryptoPolicy):
            raise wrong_type(
                "policy", "a CryptoPolicy", policy, "CryptoPolicy(**settings) makes one"
            )
        if metrics is not None:
            check_callable("metrics", metrics)
        early.prepare()
        self.policy = CryptoPolicy() if policy is None else policy
        self.meter = Meter(metrics)
        self._store = KeyStore(
            kms,
            metastore,
            self.meter,
            allow_testing_kms=allow_testing_kms,
            timeout=self.policy.call_timeout,
        )
        self.kms = kms
        self.metastore = metastore
        if region_suffix is None:  # a global table says which region's keys it makes
            region_suffix = getattr(metastore, "region_suffix", None)
        self._ids = KeyIds(
            service,
            product,
            region_suffix=region_suffix,
            recovery_region_suffixes=recovery_region_suffixes,
            allow_ambiguous_ids=allow_ambiguous_ids,
        )
        lifetimes = Lifetimes(self.policy)
        self._background = background = Background("hierarchy")
        self._names = NameKeys(self.policy.key_cache_size, self._store, lifetimes, background)
        self._systems = SystemKeys(self._ids.system, self._store, lifetimes, background, self.meter)
        self._keys = IntermediateKeys(
            self._store, self._systems, lifetimes, background, self._names.drop, self.meter
        )
        self.partitions = Partitions(self.policy.key_cache_size, self._ids.intermediate)
        self._unknown: OrderedDict[tuple[str, bytes], float] = OrderedDict()
        self._closed = False

    @property
    def metrics(self) -> MetricsHook | None:
        """The hook that is called with each load, store and cache event; may be set anew."""
        return self.meter.hook

    @metrics.setter
    def metrics(self, hook: MetricsHook | None) -> None:
        self.meter.hook = hook

    # ---- names ----

    @property
    def sk_id(self) -> str:
        """The id of new system keys."""
        return self._ids.system

    def ik_id(self, partition: str) -> str:
        """The id of a partition's new intermediate keys."""
        return self._ids.intermediate(partition)

    def ik_ids(self, partition: str) -> list[str]:
        """The ids that a partition's intermediate keys may have, that of new ones included."""
        return self._ids.possible(partition)

    def may_open(self, partition: str, key_id: str) -> bool:
        """Whether a session of *partition* may use the key that a row names."""
        return key_id in self._ids.possible(partition)

    def owns(self, key_id: str) -> tuple[bool, str | None]:
        """Whether *key_id* is of this hierarchy, and of which partition (None: a system key)."""
        return self._ids.owner(key_id)

    def partition(self, partition: str) -> Partition:
        """The cached keys of *partition*, made if there are none."""
        return self.partitions.of(partition)

    # ---- what callers ask for ----

    async def sealing_key(self, partition: Partition) -> IntermediateKey:
        """The key for new rows of *partition*: from the cache, the metastore, or made now.

        Raises:
            MetastoreError: The metastore did not answer.
            KmsError: The KMS did not answer, or refused.
        """
        self._check_open()
        key = partition.sealing_hit()
        if key is not None:
            self.meter.count_hit()
            return key
        return await self._keys.sealing(partition)

    async def opening_key(self, partition: Partition, key_id: str, created: int) -> IntermediateKey:
        """The key that a row of *partition* names. Writes nothing.

        Raises:
            WrongPartitionError: A session of this partition may not use it.
            KeyNotFoundError: The metastore does not have it.
            MetastoreError, KmsError: As for :meth:`sealing_key`.
        """
        self._check_open()
        if not self.may_open(partition.name, key_id):
            error = WrongPartitionError("the record belongs to another partition")
            error.key_id = key_id
            raise error
        key = partition.opening_hit(key_id, created)
        if key is not None:
            self.meter.count_hit()
            return key
        return await self._keys.opening(partition, key_id, created)

    # ---- Keyring ----

    def current_hit(self, partition: str) -> Key | None:
        """The key to seal with, if it is at hand."""
        key = self.partitions.of(partition).sealing_hit()
        if key is None:
            return None
        self.meter.count_hit()
        return key.key

    def get_hit(self, partition: str, key_id: bytes) -> Key | None:
        """The key that *key_id* names, if it is at hand."""
        found = self.partitions.of(partition)
        created = int.from_bytes(key_id[:8])
        for ik_id in self._ids.possible(partition):
            key = found.opening_hit(ik_id, created)
            if key is not None and key.key.key_id == key_id:
                self.meter.count_hit()
                return key.key
        return None

    async def current(self, partition: str) -> Key:
        """The key to seal with."""
        return (await self.sealing_key(self.partitions.of(partition))).key

    async def get(self, partition: str, key_id: bytes) -> Key:
        """The key that *key_id* names. Raises WrongKeyError if it is unknown."""
        hit = self.get_hit(partition, key_id)
        if hit is not None:
            return hit
        until = self._unknown.get((partition, key_id), 0.0)
        if time.monotonic() < until:
            raise WrongKeyError("the key id is unknown under this partition")
        found = self.partitions.of(partition)
        created = int.from_bytes(key_id[:8])
        if created < 1 << 53:
            ids = self._ids.possible(partition)
            ids.sort(key=lambda ik_id: found.held(ik_id, created) is None)  # cached ones first
            for ik_id in ids:
                try:
                    key = await self.opening_key(found, ik_id, created)
                except KeyNotFoundError:
                    continue
                if key.key.key_id == key_id:
                    return key.key
        self._unknown[partition, key_id] = time.monotonic() + 60.0
        trim(self._unknown, _UNKNOWN_KEYS_MAX)
        raise WrongKeyError("the key id is unknown under this partition")

    def name_keys_hit(self, partition: str) -> list[Key] | None:
        """The key that names are made under, if it is at hand."""
        return self._names.hit(partition)

    async def name_keys(self, partition: str) -> list[Key]:
        """The key that names are made under: the partition's first, also after rotations.

        Raises:
            ConfigurationError: The metastore cannot list a key's versions.
        """
        return await self._names.get(self, partition)

    # ---- at the start ----

    async def check(self) -> None:
        """Find out that the key table is there: factories do when their block begins.

        A metastore that does not answer is logged, and no reason not to start: cold keys will wait
        for it. So is one that cannot tell.

        Raises:
            MetastoreError: There is no table, or it is not as it must be, or may not be read.
        """
        self._check_open()
        try:
            await self._store.check_table()
        except MetastoreError as exc:
            if not exc.retryable:
                raise
            _log.warning("the metastore does not answer at the start: %s", one_line(exc))

    # ---- rotation on demand ----

    async def rotate(self, partition: str | None = None) -> str:
        """Make a new key now: of *partition*, or the system key; returns its id."""
        self._check_open()
        if partition is None:
            return await self._systems.rotate()
        return await self._keys.rotate(self.partitions.of(partition))

    async def rewrap(self, record: KeyRecord) -> bool | None:
        """Wrap the system key in *record* again, under the KMS's current master key.

        Returns:
            None where it is under that key already, False where the row has changed meanwhile.

        Raises:
            ConfigurationError: The metastore cannot replace a key.
            MetastoreError, KmsError: As for :meth:`sealing_key`.
        """
        is_current = getattr(self.kms, "is_current", None)
        if is_current is not None and await is_current(record.key):
            return None
        return await self._store.rewrap(record)

    # ---- lifecycle ----

    def forget(self, partition: str | None = None) -> None:
        """Drop cached keys, of one partition or of all, so that the next use looks again.

        Sessions notice it too.
        """
        self._names.forget(partition)
        self._keys.forget_looks()
        self.partitions.forget(partition)
        if partition is None:
            self._systems.clear()
            self._unknown.clear()
            self._store.forget_refusals()

    async def aclose(self) -> None:
        """Drop all keys and close metastore and KMS. Idempotent."""
        if self._closed:
            return
        self._closed = True
        await self._background.aclose()
        self.forget()
        await self._store.aclose()

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigurationError("the key hierarchy is closed")

    __enter__ = only_async_with

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.aclose()

    def __repr__(self) -> str:
        return f"<KeyHierarchy {self.sk_id}>"
