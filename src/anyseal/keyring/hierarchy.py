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
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio

from anyseal._ffi import lib, view_writable
from anyseal.config import KEY_BYTES, CryptoPolicy
from anyseal.errors import (
    AnysealError,
    ConfigurationError,
    KeyNotFoundError,
    KmsError,
    MetastoreError,
    WrongKeyError,
    WrongPartitionError,
)
from anyseal.flight import SingleFlight
from anyseal.keyring.static import partition_bytes
from anyseal.keys import Key, Slot
from anyseal.ports import CacheEvent, KeyRecord, Kms, Metastore, MetricsHook, TimingEvent
from anyseal.record import RowKey, unwrap_key, wrap_key

__all__ = ["IntermediateKey", "KeyHierarchy", "Partition", "SystemKey"]

T = TypeVar("T")

_log = logging.getLogger("anyseal.hierarchy")

_REFRESH_AT = 0.9  # of the revoke-check interval: one caller refreshes while the others go on
_CREATE_ATTEMPTS = 4
_UNKNOWN_KEYS_MAX = 1000
_OLD_KEYS_MAX = 100


class SystemKey:
    """An unwrapped system key."""

    __slots__ = ("created", "id", "revoked", "slot", "stale_at")

    def __init__(self, record: KeyRecord, slot: Slot, stale_at: float) -> None:
        self.id = record.id
        self.created = record.created
        self.revoked = record.revoked
        self.slot = slot
        self.stale_at = stale_at


class IntermediateKey:
    """An unwrapped intermediate key: what rows and values of its partition are sealed under.

    There may be a hundred thousand of them: each field counts (bench/sessions.py).
    """

    __slots__ = ("_key", "refresh_at", "revoked", "row_key", "seal_until", "stale_at")

    def __init__(self, record: KeyRecord, slot: Slot, partition_id: str) -> None:
        self.revoked = record.revoked
        # The partition's own str where it is equal: the metastore gave another copy.
        key_id = partition_id if partition_id == record.id else record.id
        self.row_key = RowKey(slot, key_id, record.created)
        self._key: Key | None = None
        # Monotonic times, set at each look at the metastore (KeyHierarchy._stamp).
        self.refresh_at = 0.0
        """From here one caller looks again before sealing, while the others go on."""
        self.seal_until = 0.0
        """From here it seals no more."""
        self.stale_at = 0.0
        """From here nobody opens with it before it was looked up again."""

    @property
    def id(self) -> str:
        """The id that rows name."""
        return self.row_key.id

    @property
    def created(self) -> int:
        """Seconds since the epoch."""
        return self.row_key.created

    @property
    def key(self) -> Key:
        """The key as everything but rows uses it; its id is created ‖ fingerprint."""
        if self._key is None:
            slot = self.row_key.slot
            fingerprint = slot.derive_public(b"id", b"")
            self._key = Key._from_slot(slot, self.created.to_bytes(8) + fingerprint[:8])
        return self._key


class Partition:
    """The keys of one partition that are at hand."""

    __slots__ = ("id", "latest", "name", "older", "refreshing", "session_until")

    def __init__(self, name: str, ik_id: str) -> None:
        self.name = name
        self.id = ik_id
        self.latest: IntermediateKey | None = None
        self.older: OrderedDict[tuple[str, int], IntermediateKey] | None = None
        self.refreshing = False
        self.session_until = 0.0
        """Monotonic: from here the session cache makes it anew."""

    def sealing_hit(self) -> IntermediateKey | None:
        """The key for new rows, if it may be used without looking again."""
        key = self.latest
        if key is None:
            return None
        now = time.monotonic()
        if now < key.refresh_at or (self.refreshing and now < key.seal_until):
            return key
        return None

    def opening_hit(self, key_id: str, created: int) -> IntermediateKey | None:
        """The key that a row names, if it may be used without looking again."""
        key = self.latest
        if key is None or key.row_key.created != created or key.row_key.id != key_id:
            key = self.older.get((key_id, created)) if self.older else None
        return key if key is not None and time.monotonic() < key.stale_at else None

    def promote(self, key: IntermediateKey) -> IntermediateKey:
        """Make *key* the one that seals; the one before goes on opening."""
        before, self.latest = self.latest, key
        if before is not None and before is not key:
            self.remember(before)
        return key

    def remember(self, key: IntermediateKey) -> None:
        """Keep a key for opening."""
        latest = self.latest
        if latest is not None and (latest.id, latest.created) == (key.id, key.created):
            self.latest = key
            return
        if self.older is None:
            self.older = OrderedDict()
        self.older[key.id, key.created] = key
        while len(self.older) > _OLD_KEYS_MAX:
            self.older.popitem(last=False)

    def forget(self, key_id: str, created: int) -> None:
        """Drop a key that the metastore no longer has."""
        if self.latest is not None and (self.latest.id, self.latest.created) == (key_id, created):
            self.latest = None
        if self.older is not None:
            self.older.pop((key_id, created), None)


def _check_name(name: str, value: str, allow_ambiguous_ids: bool) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{name} must be a non-empty str")
    if "_" in value and not allow_ambiguous_ids:
        raise ConfigurationError(
            f"{name} {value!r} holds an underscore: two services could then share a key id "
            "(allow_ambiguous_ids=True if existing data needs it)"
        )
    return value


class KeyHierarchy:
    """The key hierarchy of one service and product; a Keyring, and an async context manager.

    Args:
        kms: Wraps the system key.
        metastore: Keeps the wrapped keys.
        service: Part of every key id. Without ``_``, see *allow_ambiguous_ids*.
        product: Part of every key id.
        policy: Lifetimes and cache sizes.
        region_suffix: Ends the ids of new keys, for global tables: the region's name.
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
        if not isinstance(kms, Kms):
            raise TypeError(f"kms must have wrap and unwrap: {type(kms).__name__} has not")
        if not isinstance(metastore, Metastore):
            raise TypeError(f"{type(metastore).__name__} is not a metastore")
        if getattr(kms, "testing", False) and not (
            allow_testing_kms or getattr(metastore, "testing", False)
        ):
            raise ConfigurationError(
                "a KMS meant for testing with a metastore that lasts: whoever reads the "
                "configuration reads the data (allow_testing_kms=True to do it all the same)"
            )
        service = _check_name("service", service, allow_ambiguous_ids)
        product = _check_name("product", product, allow_ambiguous_ids)
        self.kms = kms
        self.metastore = metastore
        self.policy = CryptoPolicy() if policy is None else policy
        self.metrics = metrics
        self._core = f"_{service}_{product}"
        self._suffix = f"_{region_suffix}" if region_suffix else ""
        self._suffixes = ("", self._suffix, *(f"_{s}" for s in recovery_region_suffixes))
        self.sk_id = f"_SK{self._core}{self._suffix}"
        self._system: OrderedDict[tuple[str, int], SystemKey] = OrderedDict()
        self._latest_system: SystemKey | None = None
        self._partitions: OrderedDict[str, Partition] = OrderedDict()
        self._unknown: OrderedDict[tuple[str, bytes], float] = OrderedDict()
        self._flight: SingleFlight[Any] = SingleFlight()
        self._closed = False

    # ---- names ----

    def ik_id(self, partition: str) -> str:
        """The id of a partition's intermediate keys."""
        partition_bytes(partition)
        return f"_IK_{partition}{self._core}{self._suffix}"

    def may_open(self, partition: str, key_id: str) -> bool:
        """Whether a session of *partition* may use the key that a row names."""
        return key_id in self.ik_ids(partition)

    def ik_ids(self, partition: str) -> list[str]:
        """The ids that a partition's intermediate keys may have, the current one included."""
        partition_bytes(partition)
        core = f"_IK_{partition}{self._core}"
        return [core + suffix for suffix in dict.fromkeys(self._suffixes)]

    def owns(self, key_id: str) -> tuple[bool, str | None]:
        """Whether *key_id* is of this hierarchy, and of which partition (None: a system key)."""
        for suffix in dict.fromkeys(self._suffixes):
            end = self._core + suffix
            if key_id == f"_SK{end}":
                return True, None
            if key_id.startswith("_IK_") and key_id.endswith(end) and len(key_id) > 4 + len(end):
                return True, key_id[4 : -len(end)]
        return False, None

    def partition(self, partition: str) -> Partition:
        """The cached keys of *partition*, made if there are none."""
        found = self._partitions.get(partition)
        if found is None:
            fresh = Partition(partition, self.ik_id(partition))
            found = self._partitions.setdefault(partition, fresh)
            while len(self._partitions) > self.policy.key_cache_size:
                self._partitions.popitem(last=False)
        return found

    # ---- what callers ask for ----

    async def sealing_key(self, partition: Partition) -> IntermediateKey:
        """The key for new rows of *partition*: from the cache, the metastore, or made now.

        Raises:
            MetastoreError: The metastore did not answer.
            KmsError: The KMS did not answer, or refused.
        """
        key = partition.sealing_hit()
        if key is not None:
            self._count("hit", "intermediate-key")
            return key
        self._count("stale" if partition.latest else "miss", "intermediate-key")
        old = partition.latest
        usable = old is not None and time.monotonic() < old.seal_until
        partition.refreshing = usable
        try:
            fresh: IntermediateKey = await self._flight.run(
                ("seal", partition.name), lambda: self._load_sealing_key(partition)
            )
            return fresh
        except AnysealError:
            if not usable or old is None:
                raise
            _log.warning("key refresh failed; the cached key stays in use until it is stale")
            pause = self.policy.revoke_check_interval * (1 - _REFRESH_AT) / 4
            old.refresh_at = min(old.seal_until, time.monotonic() + pause)
            return old
        finally:
            partition.refreshing = False

    async def opening_key(self, partition: Partition, key_id: str, created: int) -> IntermediateKey:
        """The key that a row of *partition* names. Writes nothing.

        Raises:
            WrongPartitionError: A session of this partition may not use it.
            KeyNotFoundError: The metastore does not have it.
            MetastoreError, KmsError: As for :meth:`sealing_key`.
        """
        if not self.may_open(partition.name, key_id):
            raise WrongPartitionError("the record belongs to another partition")
        key = partition.opening_hit(key_id, created)
        if key is not None:
            self._count("hit", "intermediate-key")
            return key
        self._count("miss", "intermediate-key")
        found: IntermediateKey = await self._flight.run(
            ("open", key_id, created), lambda: self._load_opening_key(partition, key_id, created)
        )
        return found

    # ---- Keyring ----

    def current_hit(self, partition: str) -> Key | None:
        """The key to seal with, if it is at hand."""
        key = self.partition(partition).sealing_hit()
        return None if key is None else key.key

    def get_hit(self, partition: str, key_id: bytes) -> Key | None:
        """The key that *key_id* names, if it is at hand."""
        found = self.partition(partition)
        created = int.from_bytes(key_id[:8])
        for ik_id in self.ik_ids(partition):
            key = found.opening_hit(ik_id, created)
            if key is not None and key.key.key_id == key_id:
                return key.key
        return None

    async def current(self, partition: str) -> Key:
        """The key to seal with."""
        return (await self.sealing_key(self.partition(partition))).key

    async def get(self, partition: str, key_id: bytes) -> Key:
        """The key that *key_id* names. Raises WrongKeyError if it is unknown."""
        hit = self.get_hit(partition, key_id)
        if hit is not None:
            return hit
        until = self._unknown.get((partition, key_id), 0.0)
        if time.monotonic() < until:
            raise WrongKeyError("the key id is unknown under this partition")
        found = self.partition(partition)
        created = int.from_bytes(key_id[:8])
        if created < 1 << 53:
            for ik_id in self.ik_ids(partition):
                try:
                    key = await self.opening_key(found, ik_id, created)
                except KeyNotFoundError:
                    continue
                if key.key.key_id == key_id:
                    return key.key
        self._unknown[partition, key_id] = time.monotonic() + 60.0
        while len(self._unknown) > _UNKNOWN_KEYS_MAX:
            self._unknown.popitem(last=False)
        raise WrongKeyError("the key id is unknown under this partition")

    # ---- validity ----

    def _expires(self, created: int) -> float:
        return created + self.policy.expire_key_after

    def _dated_ahead(self, created: int) -> bool:
        return created > time.time() + self.policy.clock_tolerance

    def _system_valid(self, key: SystemKey) -> bool:
        now = time.time()
        return (
            not key.revoked
            and now < self._expires(key.created)
            and not self._dated_ahead(key.created)
        )

    def _created_now(self, after: int | None = None) -> int:
        """A creation time for a new key: now, cut to the precision, but later than *after*."""
        precision = self.policy.create_date_precision
        now = int(time.time()) // precision * precision
        return now if after is None or after < now else after + 1

    def _stamp(self, key: IntermediateKey, parent: SystemKey) -> IntermediateKey:
        """Set how long *key* may be used from this look at the metastore on."""
        now = time.monotonic()
        key.stale_at = now + self.policy.revoke_check_interval
        if key.revoked or self._dated_ahead(key.created) or not self._system_valid(parent):
            key.seal_until = key.refresh_at = 0.0
            return key
        expires = min(self._expires(key.created), self._expires(parent.created))
        key.seal_until = min(key.stale_at, parent.stale_at, now + expires - time.time())
        key.refresh_at = now + (key.seal_until - now) * _REFRESH_AT
        return key

    # ---- the way to a sealing key ----

    async def _load_sealing_key(self, partition: Partition) -> IntermediateKey:
        record = await self._load_latest(partition.id)
        if record is not None:
            key = await self._usable(partition, record)
            if key is not None:
                return partition.promote(key)
        return partition.promote(await self._create(partition, record))

    async def _usable(self, partition: Partition, record: KeyRecord) -> IntermediateKey | None:
        """The record's key if new rows may be sealed under it, else None."""
        if record.revoked or time.time() >= self._expires(record.created):
            return None
        if self._dated_ahead(record.created):
            _log.warning("an intermediate key is dated in the future: a clock is wrong")
            return None
        try:
            parent = await self._parent(record)
        except (KeyNotFoundError, WrongKeyError):
            return None  # its system key is gone: it opens nothing, and must not seal
        if not self._system_valid(parent):
            return None
        return self._unwrapped(partition, record, parent)

    def _unwrapped(
        self, partition: Partition, record: KeyRecord, parent: SystemKey
    ) -> IntermediateKey:
        """The record's key, taken over from the cache where it is the same."""
        cached = partition.latest
        if cached is None or (cached.id, cached.created) != (record.id, record.created):
            older = partition.older
            cached = older.get((record.id, record.created)) if older else None
        if cached is None:
            cached = IntermediateKey(record, unwrap_key(record.key, parent.slot), partition.id)
        cached.revoked = record.revoked
        return self._stamp(cached, parent)

    async def _create(self, partition: Partition, latest: KeyRecord | None) -> IntermediateKey:
        """Make and store a new key for *partition*, or take the one that someone else stored."""
        for _ in range(_CREATE_ATTEMPTS):
            key = await self._create_once(partition, latest)
            if key is not None:
                return key
            latest = await self._load_latest(partition.id)
            if latest is not None:
                key = await self._usable(partition, latest)
                if key is not None:
                    return key
        raise MetastoreError("could not create an intermediate key: others create invalid ones")

    async def _create_once(
        self, partition: Partition, latest: KeyRecord | None
    ) -> IntermediateKey | None:
        """Make and store a new key for *partition*; None if its id and time are taken."""
        parent = await self._sealing_system_key()
        slot = Slot.random()
        record = KeyRecord(
            id=partition.id,
            created=self._created_now(self._behind(latest)),
            key=wrap_key(slot, parent.slot),
            parent_id=parent.id,
            parent_created=parent.created,
        )
        if await self._store(record):
            return self._stamp(IntermediateKey(record, slot, partition.id), parent)
        slot.release()
        return None

    def _behind(self, latest: KeyRecord | None) -> int | None:
        """The time that a new key must follow: never one from a wrong clock's future."""
        return None if latest is None or self._dated_ahead(latest.created) else latest.created

    # ---- system keys ----

    async def _sealing_system_key(self) -> SystemKey:
        key = self._latest_system
        if key is not None and self._system_valid(key) and time.monotonic() < key.stale_at:
            self._count("hit", "system-key")
            return key
        self._count("stale" if key else "miss", "system-key")
        found: SystemKey = await self._flight.run("system", self._load_sealing_system_key)
        return found

    async def _load_sealing_system_key(self) -> SystemKey:
        latest = await self._load_latest(self.sk_id)
        for _ in range(_CREATE_ATTEMPTS):
            if latest is not None:
                key = await self._system_key(latest)
                if self._system_valid(key):
                    self._latest_system = key
                    return key
            stored = await self._create_system_key(latest)
            if stored is not None:
                self._latest_system = stored
                return stored
            latest = await self._load_latest(self.sk_id)
        raise MetastoreError("could not create a system key: others create invalid ones")

    async def _create_system_key(self, latest: KeyRecord | None) -> SystemKey | None:
        """Make and store a new system key; None if someone else was first."""
        slot = Slot.random()
        raw = bytearray(slot.export())
        try:
            wrapped = await self._kms(self.kms.wrap, raw)
        finally:
            lib.anyseal_wipe(view_writable(raw), len(raw))
        record = KeyRecord(
            id=self.sk_id, created=self._created_now(self._behind(latest)), key=wrapped
        )
        if not await self._store(record):
            slot.release()
            return None
        return self._remember_system(record, slot)

    def _remember_system(self, record: KeyRecord, slot: Slot) -> SystemKey:
        stale_at = time.monotonic() + self.policy.revoke_check_interval
        key = self._system[record.id, record.created] = SystemKey(record, slot, stale_at)
        while len(self._system) > _UNKNOWN_KEYS_MAX:
            self._system.popitem(last=False)
        return key

    async def _system_key(self, record: KeyRecord) -> SystemKey:
        """The system key in *record*; asks the KMS unless the same key was unwrapped before."""
        cached = self._system.get((record.id, record.created))
        if cached is not None:
            cached.revoked = record.revoked
            cached.stale_at = time.monotonic() + self.policy.revoke_check_interval
            return cached
        raw = await self._kms(self.kms.unwrap, record.key)
        try:
            if len(raw) != KEY_BYTES:
                raise KmsError("the KMS returned a key of another length", retryable=False)
            slot = Slot.from_bytes(bytes(raw))
        finally:
            if isinstance(raw, bytearray):
                lib.anyseal_wipe(view_writable(raw), len(raw))
        return self._remember_system(record, slot)

    async def _parent(self, record: KeyRecord) -> SystemKey:
        """The system key that wraps an intermediate key."""
        key_id, created = record.parent_id, record.parent_created
        if key_id is None or created is None:
            raise KeyNotFoundError("an intermediate key that names no system key")
        cached = self._system.get((key_id, created))
        if cached is not None and time.monotonic() < cached.stale_at:
            self._count("hit", "system-key")
            return cached
        self._count("stale" if cached else "miss", "system-key")
        found: SystemKey = await self._flight.run(
            ("parent", key_id, created), lambda: self._load_parent(key_id, created)
        )
        return found

    async def _load_parent(self, key_id: str, created: int) -> SystemKey:
        record = await self._load(key_id, created)
        if record is None:
            self._system.pop((key_id, created), None)
            raise KeyNotFoundError("the metastore does not have the system key")
        return await self._system_key(record)

    # ---- the way to an opening key ----

    async def _load_opening_key(
        self, partition: Partition, key_id: str, created: int
    ) -> IntermediateKey:
        record = await self._load(key_id, created)
        if record is None:
            partition.forget(key_id, created)
            raise KeyNotFoundError("the metastore does not have the key that the record names")
        parent = await self._parent(record)
        key = self._unwrapped(partition, record, parent)
        partition.remember(key)
        return key

    # ---- rotation on demand ----

    async def rotate(self, partition: str | None = None) -> str:
        """Make a new key now: of *partition*, or the system key; returns its id."""
        if partition is None:
            for _ in range(_CREATE_ATTEMPTS):
                latest = await self._load_latest(self.sk_id)
                stored = await self._create_system_key(latest)
                if stored is not None:
                    self._latest_system = stored
                    return stored.id
            raise MetastoreError("could not rotate the system key: others keep creating keys")
        found = self.partition(partition)
        for _ in range(_CREATE_ATTEMPTS):
            key = await self._create_once(found, await self._load_latest(found.id))
            if key is not None:
                return found.promote(key).id
        raise MetastoreError("could not rotate the intermediate key: others keep creating keys")

    # ---- ports, measured ----

    def _count(self, outcome: Any, cache: str) -> None:
        if self.metrics is not None:
            self.metrics(CacheEvent(outcome, cache))

    def count_hit(self) -> None:
        """Tell the hook that an intermediate key was at hand."""
        self._count("hit", "intermediate-key")

    async def _timed(self, operation: Any, call: Awaitable[T]) -> T:
        if self.metrics is None:
            return await call
        start = time.perf_counter_ns()
        try:
            return await call
        finally:
            self.metrics(TimingEvent(operation, time.perf_counter_ns() - start))

    async def _load(self, key_id: str, created: int) -> KeyRecord | None:
        return await self._timed("load", self.metastore.load(key_id, created))

    async def _load_latest(self, key_id: str) -> KeyRecord | None:
        return await self._timed("load", self.metastore.load_latest(key_id))

    async def _store(self, record: KeyRecord) -> bool:
        return await self._timed("store", self.metastore.store(record))

    async def _kms(self, call: Callable[[Any], Awaitable[T]], data: Any) -> T:
        try:
            return await call(data)
        except AnysealError:
            raise
        except Exception as exc:
            raise KmsError(f"the KMS failed: {type(exc).__name__}") from exc

    # ---- lifecycle ----

    def forget(self, partition: str | None = None) -> None:
        """Drop cached keys, of one partition or of all, so that the next use looks again."""
        if partition is not None:
            self._partitions.pop(partition, None)
            return
        self._partitions.clear()
        self._system.clear()
        self._latest_system = None
        self._unknown.clear()

    async def aclose(self) -> None:
        """Drop all keys and close metastore and KMS. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.forget()
        await self.metastore.aclose()
        close = getattr(self.kms, "aclose", None)
        if close is not None:
            await close()

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
