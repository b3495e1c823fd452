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
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio

from anyseal._ffi import lib, raise_for, view, view_writable
from anyseal.config import KEY_BYTES, CryptoPolicy
from anyseal.errors import (
    AnysealError,
    ConfigurationError,
    DecryptionError,
    FormatError,
    KeyNotFoundError,
    KmsError,
    MetastoreError,
    WrongKeyError,
    WrongPartitionError,
)
from anyseal.flight import SingleFlight
from anyseal.keyring.cached import (
    REFRESH_AT,
    IntermediateKey,
    Partition,
    SystemKey,
    trim,
)
from anyseal.keyring.naming import NameKeys
from anyseal.keyring.static import partition_bytes
from anyseal.keys import Key, Slot
from anyseal.ports import CacheEvent, KeyRecord, Kms, Metastore, MetricsHook, TimingEvent
from anyseal.record import unwrap_key, wrap_key

__all__ = ["REVOKED_STALE_AT", "KeyHierarchy"]

T = TypeVar("T")

_log = logging.getLogger("anyseal.hierarchy")

REVOKED_STALE_AT = 0.1
"""Of the revoke-check interval: a revoked key is looked up sooner, for it may get deleted."""
_CREATE_ATTEMPTS = 4
_UNKNOWN_KEYS_MAX = 1000
_SYSTEM_KEYS_MAX = 1000


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
        if region_suffix is None:  # a global table says which region's keys it makes
            region_suffix = getattr(metastore, "region_suffix", None)
        self.policy = CryptoPolicy() if policy is None else policy
        self.metrics = metrics
        self._core = f"_{service}_{product}"
        self._suffix = f"_{region_suffix}" if region_suffix else ""
        self._suffixes = ("", self._suffix, *(f"_{s}" for s in recovery_region_suffixes))
        for suffix in filter(None, self._suffixes):
            _check_name("region suffix", suffix[1:], allow_ambiguous_ids)
            if (self._core + suffix).endswith(self._core) and not allow_ambiguous_ids:
                raise ConfigurationError(
                    f"region suffix {suffix[1:]!r} repeats service and product: two partitions "
                    "could then share a key id"
                )
        self.sk_id = f"_SK{self._core}{self._suffix}"
        self._system: OrderedDict[tuple[str, int], SystemKey] = OrderedDict()
        self._latest_system: SystemKey | None = None
        self._partitions: OrderedDict[str, Partition] = OrderedDict()
        # Beyond the cache, but held by sessions: so that a partition has one set of keys.
        self._held: weakref.WeakValueDictionary[str, Partition] = weakref.WeakValueDictionary()
        self._unknown: OrderedDict[tuple[str, bytes], float] = OrderedDict()
        self._names = NameKeys(self.policy.key_cache_size)
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
            found = self._held.get(partition) or Partition(partition, self.ik_id(partition))
            found = self._partitions.setdefault(partition, found)
            if len(self._partitions) > self.policy.key_cache_size:
                self._shrink()
            return found
        try:  # noqa: SIM105 - the hit path: suppress() costs more than all the rest
            self._partitions.move_to_end(partition)
        except KeyError:  # pragma: no cover - another thread dropped it meanwhile
            pass
        return found

    def _shrink(self) -> None:
        """Drop the partitions that were not asked for for longest."""
        while len(self._partitions) > self.policy.key_cache_size:
            try:
                name, dropped = self._partitions.popitem(last=False)
            except KeyError:  # pragma: no cover - another thread dropped the last one
                return
            self._held[name] = dropped

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
        except AnysealError as exc:
            now = time.monotonic()
            if old is None or now >= old.seal_until:
                raise
            _log.warning(
                "key refresh failed (%s); the cached key stays in use until it is stale",
                type(exc).__name__,
            )
            pause = self.policy.revoke_check_interval * (1 - REFRESH_AT) / 4
            old.refresh_at = min(old.seal_until, now + pause)
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
        self._check_open()
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
        if key is None:
            return None
        self._count("hit", "intermediate-key")
        return key.key

    def get_hit(self, partition: str, key_id: bytes) -> Key | None:
        """The key that *key_id* names, if it is at hand."""
        found = self.partition(partition)
        created = int.from_bytes(key_id[:8])
        for ik_id in self.ik_ids(partition):
            key = found.opening_hit(ik_id, created)
            if key is not None and key.key.key_id == key_id:
                self._count("hit", "intermediate-key")
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
        found: list[Key] = await self._flight.run(
            ("name", partition), lambda: self._names.load(self, partition)
        )
        return found

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
        interval = self.policy.revoke_check_interval
        key.stale_at = now + interval * (REVOKED_STALE_AT if key.revoked else 1.0)
        if key.revoked or self._dated_ahead(key.created) or not self._system_valid(parent):
            key.seal_until = key.refresh_at = 0.0
            return key
        expires = min(self._expires(key.created), self._expires(parent.created))
        key.seal_until = min(key.stale_at, parent.stale_at, now + expires - time.time())
        key.refresh_at = now + (key.seal_until - now) * REFRESH_AT
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
        parent = await self._sealing_parent(record)
        if parent is None:
            partition.bar(record)
            return None
        try:
            return self._unwrapped(partition, record, parent)
        except DecryptionError as exc:
            raise MetastoreError(
                "an intermediate key does not verify under its system key", retryable=False
            ) from exc

    async def _sealing_parent(self, record: KeyRecord) -> SystemKey | None:
        """The system key of *record*; None if one of the two must not seal."""
        if record.revoked or time.time() >= self._expires(record.created):
            return None
        if self._dated_ahead(record.created):
            _log.warning("an intermediate key is dated in the future: a clock is wrong")
            return None
        try:
            parent = await self._parent(record)
        except (KeyNotFoundError, WrongKeyError):
            return None  # its system key is gone: it opens nothing, and must not seal
        return parent if self._system_valid(parent) else None

    def _unwrapped(
        self, partition: Partition, record: KeyRecord, parent: SystemKey
    ) -> IntermediateKey:
        """The record's key, taken over from the cache where it is the same."""
        cached = partition.latest
        if cached is None or (cached.id, cached.created) != (record.id, record.created):
            older = partition.older
            cached = older.get((record.id, record.created)) if older else None
        if cached is None:
            try:
                slot = unwrap_key(record.key, parent.slot)
            except FormatError as exc:
                raise MetastoreError(f"a key record is malformed: {exc}", retryable=False) from exc
            cached = IntermediateKey(record, slot, partition.id)
        cached.revoked = record.revoked
        return self._stamp(cached, parent)

    async def _create(
        self, partition: Partition, latest: KeyRecord | None, *, anew: bool = False
    ) -> IntermediateKey:
        """Make and store a new key for *partition*, or take the one that someone else stored.

        Args:
            latest: The partition's newest record.
            anew: Take nobody else's.
        """
        taken = self._behind(latest)
        for _ in range(_CREATE_ATTEMPTS):
            parent = await self._sealing_system_key()
            slot = Slot.random()
            record = KeyRecord(
                id=partition.id,
                created=self._created_now(taken),
                key=wrap_key(slot, parent.slot),
                parent_id=parent.id,
                parent_created=parent.created,
            )
            if await self._store(record):
                return self._stamp(IntermediateKey(record, slot, partition.id), parent)
            slot.release()
            taken = record.created
            winner = None if anew else await self._load(record.id, record.created)
            if winner is not None:
                key = await self._usable(partition, winner)
                if key is not None:
                    return key
        raise MetastoreError("could not create an intermediate key: others create invalid ones")

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
        if latest is not None:
            key = await self._system_key(latest)
            if self._system_valid(key):
                self._latest_system = key
                return key
        self._latest_system = await self._create_system_key(latest)
        return self._latest_system

    async def _create_system_key(
        self, latest: KeyRecord | None, *, anew: bool = False
    ) -> SystemKey:
        """Make and store a new system key, or take the one that someone else stored.

        Args:
            latest: The newest record.
            anew: Take nobody else's.
        """
        taken = self._behind(latest)
        for _ in range(_CREATE_ATTEMPTS):
            slot = Slot.random()
            record = KeyRecord(
                id=self.sk_id, created=self._created_now(taken), key=await self._wrapped(slot)
            )
            if await self._store(record):
                return self._remember_system(record, slot)
            slot.release()
            taken = record.created
            winner = None if anew else await self._load(record.id, record.created)
            if winner is not None:
                key = await self._system_key(winner)
                if self._system_valid(key):
                    return key
        raise MetastoreError("could not create a system key: others create invalid ones")

    async def _wrapped(self, slot: Slot) -> bytes:
        """The key in *slot*, wrapped by the KMS."""
        raw = bytearray(KEY_BYTES)
        out = view_writable(raw)
        try:
            code = lib.anyseal_key_export(out, slot.handle)
            if code:
                raise_for(code)
            wrapped = await self._kms(self.kms.wrap, raw)
        finally:
            lib.anyseal_wipe(out, KEY_BYTES)
        if not isinstance(wrapped, bytes | bytearray) or not wrapped:
            raise KmsError("the KMS returned no wrapped key", retryable=False)
        return bytes(wrapped)

    def _remember_system(self, record: KeyRecord, slot: Slot) -> SystemKey:
        key = self._system[record.id, record.created] = SystemKey(record, slot)
        key.looked_up(self.policy.revoke_check_interval)
        trim(self._system, _SYSTEM_KEYS_MAX)
        return key

    async def _system_key(self, record: KeyRecord) -> SystemKey:
        """The system key in *record*; asks the KMS unless the same key was unwrapped before."""
        cached = self._system.get((record.id, record.created))
        if cached is not None:
            cached.revoked = record.revoked
            cached.looked_up(self.policy.revoke_check_interval)
            return cached
        raw = await self._kms(self.kms.unwrap, record.key)
        try:
            if not isinstance(raw, bytes | bytearray) or len(raw) != KEY_BYTES:
                raise KmsError("the KMS returned something that is no key", retryable=False)
            slot = Slot(lib.anyseal_key_import(view(raw)))
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
        if cached is not None and time.monotonic() < cached.refresh_at:
            self._count("hit", "system-key")
            return cached
        self._count("stale" if cached else "miss", "system-key")
        try:
            found: SystemKey = await self._flight.run(
                ("parent", key_id, created), lambda: self._load_parent(key_id, created)
            )
        except (MetastoreError, KmsError):
            if cached is None or time.monotonic() >= cached.stale_at:
                raise
            return cached
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
        self._check_open()
        if partition is None:
            latest = await self._load_latest(self.sk_id)
            self._latest_system = await self._create_system_key(latest, anew=True)
            return self._latest_system.id
        found = self.partition(partition)
        latest = await self._load_latest(found.id)
        return found.promote(await self._create(found, latest, anew=True)).id

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
        return await self._asked("load", self.metastore.load, key_id, created)

    async def _load_latest(self, key_id: str) -> KeyRecord | None:
        return await self._asked("load", self.metastore.load_latest, key_id)

    async def _store(self, record: KeyRecord) -> bool:
        return await self._asked("store", self.metastore.store, record)

    async def _asked(self, operation: Any, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        try:
            return await self._timed(operation, call(*args))
        except FormatError as exc:  # what is malformed is the key record, not the caller's row
            raise MetastoreError(f"{operation}: {exc}", retryable=False) from exc
        except AnysealError:
            raise
        except Exception as exc:
            raise MetastoreError(f"{operation}: {type(exc).__name__}") from exc

    async def _kms(self, call: Callable[[Any], Awaitable[T]], data: Any) -> T:
        try:
            return await call(data)
        except AnysealError:
            raise
        except Exception as exc:
            raise KmsError(f"the KMS failed: {type(exc).__name__}") from exc

    # ---- lifecycle ----

    def forget(self, partition: str | None = None) -> None:
        """Drop cached keys, of one partition or of all, so that the next use looks again.

        Sessions notice it too.
        """
        self._names.forget(partition)
        if partition is not None:
            found = self._partitions.pop(partition, None) or self._held.get(partition)
            if found is not None:
                found.clear()
                self._held[partition] = found
            return
        for found in [*self._partitions.values(), *self._held.values()]:
            found.clear()
        self._held.update(self._partitions)
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
        try:
            await self.metastore.aclose()
        finally:
            close = getattr(self.kms, "aclose", None)
            if close is not None:
                await close()

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigurationError("the key hierarchy is closed")

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
