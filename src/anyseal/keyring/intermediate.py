"""The intermediate keys of a hierarchy: the way to those that are not at hand."""

from __future__ import annotations

import logging
import time

from anyseal.errors import (
    AnysealError,
    DecryptionError,
    FormatError,
    KeyNotFoundError,
    MetastoreError,
    WrongKeyError,
)
from anyseal.flight import SingleFlight
from anyseal.keyring.cached import IntermediateKey, Partition, SystemKey
from anyseal.keyring.keystore import KeyStore
from anyseal.keyring.lifetimes import Lifetimes
from anyseal.keyring.meter import Meter
from anyseal.keyring.system import CREATE_ATTEMPTS, SystemKeys
from anyseal.keys import Slot
from anyseal.ports import KeyRecord
from anyseal.record import unwrap_key, wrap_key

__all__ = ["IntermediateKeys"]

_log = logging.getLogger("anyseal.hierarchy")


class IntermediateKeys:
    """Finds, makes and rotates the keys of partitions, and has each partition remember its own.

    Args:
        store: Keeps them.
        systems: The system keys, which wrap them.
        lifetimes: How long they may be used.
        meter: Is told of misses.
    """

    __slots__ = ("_flight", "_lifetimes", "_meter", "_store", "_systems")

    def __init__(
        self, store: KeyStore, systems: SystemKeys, lifetimes: Lifetimes, meter: Meter
    ) -> None:
        self._store = store
        self._systems = systems
        self._lifetimes = lifetimes
        self._meter = meter
        self._flight: SingleFlight[IntermediateKey] = SingleFlight()

    # ---- sealing ----

    async def sealing(self, partition: Partition) -> IntermediateKey:
        """The key for new rows, looked up in the metastore or made now.

        A key that is at hand and not yet stale stays in use if that fails.
        """
        old = partition.latest
        self._meter.count("stale" if old else "miss", "intermediate-key")
        partition.refreshing = old is not None and time.monotonic() < old.seal_until
        try:
            return await self._flight.run(partition.name, lambda: self._load_sealing(partition))
        except AnysealError as exc:
            if old is None or time.monotonic() >= old.seal_until:
                raise
            _log.warning(
                "key refresh failed (%s); the cached key stays in use until it is stale",
                type(exc).__name__,
            )
            self._lifetimes.postpone(old)
            return old
        finally:
            partition.refreshing = False

    async def rotate(self, partition: Partition) -> str:
        """Make a new key of *partition* now; returns its id."""
        latest = await self._store.load_latest(partition.id)
        return partition.promote(await self._create(partition, latest, anew=True)).id

    async def _load_sealing(self, partition: Partition) -> IntermediateKey:
        record = await self._store.load_latest(partition.id)
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
        if record.revoked or time.time() >= self._lifetimes.expires(record.created):
            return None
        if self._lifetimes.dated_ahead(record.created):
            _log.warning("an intermediate key is dated in the future: a clock is wrong")
            return None
        try:
            parent = await self._systems.parent(record)
        except (KeyNotFoundError, WrongKeyError):
            return None  # its system key is gone: it opens nothing, and must not seal
        return parent if self._lifetimes.may_seal(parent) else None

    async def _create(
        self, partition: Partition, latest: KeyRecord | None, *, anew: bool = False
    ) -> IntermediateKey:
        """Make and store a new key for *partition*, or take the one that someone else stored.

        Args:
            latest: The partition's newest record.
            anew: Take nobody else's.
        """
        taken = self._lifetimes.behind(latest)
        for _ in range(CREATE_ATTEMPTS):
            parent = await self._systems.sealing()
            slot = Slot.random()
            record = KeyRecord(
                id=partition.id,
                created=self._lifetimes.creation_time(taken),
                key=wrap_key(slot, parent.slot),
                parent_id=parent.id,
                parent_created=parent.created,
            )
            if await self._store.store(record):
                key = IntermediateKey(record, slot, partition.id)
                return self._lifetimes.looked_up_under(key, parent)
            slot.release()
            taken = record.created
            winner = None if anew else await self._store.load(record.id, record.created)
            if winner is not None:
                taken_over = await self._usable(partition, winner)
                if taken_over is not None:
                    return taken_over
        raise MetastoreError("could not create an intermediate key: others create invalid ones")

    # ---- opening ----

    async def opening(self, partition: Partition, key_id: str, created: int) -> IntermediateKey:
        """The key that a row names, looked up in the metastore. Writes nothing."""
        self._meter.count("miss", "intermediate-key")
        return await self._flight.run(
            (key_id, created), lambda: self._load_opening(partition, key_id, created)
        )

    async def _load_opening(
        self, partition: Partition, key_id: str, created: int
    ) -> IntermediateKey:
        record = await self._store.load(key_id, created)
        if record is None:
            partition.forget(key_id, created)
            raise KeyNotFoundError("the metastore does not have the key that the record names")
        parent = await self._systems.parent(record)
        key = self._unwrapped(partition, record, parent)
        partition.remember(key)
        return key

    def _unwrapped(
        self, partition: Partition, record: KeyRecord, parent: SystemKey
    ) -> IntermediateKey:
        """The record's key, taken over from the cache where it is the same."""
        key = partition.held(record.id, record.created)
        if key is None:
            try:
                slot = unwrap_key(record.key, parent.slot)
            except FormatError as exc:
                raise MetastoreError(f"a key record is malformed: {exc}", retryable=False) from exc
            key = IntermediateKey(record, slot, partition.id)
        key.revoked = record.revoked
        return self._lifetimes.looked_up_under(key, parent)
