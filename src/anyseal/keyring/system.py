"""The system keys of a hierarchy: unwrapped once by the KMS, made anew when none may seal."""

from __future__ import annotations

import time
from collections import OrderedDict

from anyseal.errors import KeyNotFoundError, KmsError, MetastoreError
from anyseal.flight import SingleFlight
from anyseal.keyring.cached import SystemKey, trim
from anyseal.keyring.keystore import KeyStore
from anyseal.keyring.lifetimes import Lifetimes
from anyseal.keyring.meter import Meter
from anyseal.keys import Slot
from anyseal.ports import KeyRecord

__all__ = ["CREATE_ATTEMPTS", "SystemKeys"]

CREATE_ATTEMPTS = 4
"""How often a new key is tried to be stored while others store theirs."""
_KEYS_MAX = 1000


class SystemKeys:
    """The system keys that are at hand, and the way to those that are not.

    Args:
        id: Of new ones.
        store: Keeps and unwraps them.
        lifetimes: How long they may be used.
        meter: Is told of hits and misses.
    """

    __slots__ = ("_flight", "_held", "_id", "_latest", "_lifetimes", "_meter", "_store")

    def __init__(self, id: str, store: KeyStore, lifetimes: Lifetimes, meter: Meter) -> None:
        self._id = id
        self._store = store
        self._lifetimes = lifetimes
        self._meter = meter
        self._held: OrderedDict[tuple[str, int], SystemKey] = OrderedDict()
        self._latest: SystemKey | None = None
        self._flight: SingleFlight[SystemKey] = SingleFlight()

    async def sealing(self) -> SystemKey:
        """The key for new intermediate keys: at hand, from the metastore, or made now."""
        key = self._latest
        if key is not None and self._lifetimes.may_seal(key) and time.monotonic() < key.stale_at:
            self._meter.count("hit", "system-key")
            return key
        self._meter.count("stale" if key else "miss", "system-key")
        return await self._flight.run("sealing", self._load_sealing)

    async def parent(self, record: KeyRecord) -> SystemKey:
        """The key that wraps the intermediate key in *record*.

        Raises:
            KeyNotFoundError: The record names none, or the metastore does not have it.
            MetastoreError, KmsError: It is not at hand, and cannot be had now.
        """
        key_id, created = record.parent_id, record.parent_created
        if key_id is None or created is None:
            raise KeyNotFoundError("an intermediate key that names no system key")
        cached = self._held.get((key_id, created))
        if cached is not None and time.monotonic() < cached.refresh_at:
            self._meter.count("hit", "system-key")
            return cached
        self._meter.count("stale" if cached else "miss", "system-key")
        try:
            return await self._flight.run(
                (key_id, created), lambda: self._load_parent(key_id, created)
            )
        except (MetastoreError, KmsError):
            if cached is None or time.monotonic() >= cached.stale_at:
                raise
            return cached

    async def rotate(self) -> str:
        """Make a new key now; returns its id."""
        latest = await self._store.load_latest(self._id)
        self._latest = await self._create(latest, anew=True)
        return self._latest.id

    def clear(self) -> None:
        """Drop all keys."""
        self._held.clear()
        self._latest = None

    async def _load_sealing(self) -> SystemKey:
        latest = await self._store.load_latest(self._id)
        if latest is not None:
            key = await self._unwrapped(latest)
            if self._lifetimes.may_seal(key):
                self._latest = key
                return key
        self._latest = await self._create(latest)
        return self._latest

    async def _load_parent(self, key_id: str, created: int) -> SystemKey:
        record = await self._store.load(key_id, created)
        if record is None:
            self._held.pop((key_id, created), None)
            raise KeyNotFoundError("the metastore does not have the system key")
        return await self._unwrapped(record)

    async def _unwrapped(self, record: KeyRecord) -> SystemKey:
        """The key in *record*; asks the KMS unless the same key was unwrapped before."""
        cached = self._held.get((record.id, record.created))
        if cached is not None:
            return self._lifetimes.looked_up(cached, record)
        return self._remember(record, await self._store.unwrap(record.key))

    def _remember(self, record: KeyRecord, slot: Slot) -> SystemKey:
        key = self._held[record.id, record.created] = SystemKey(record, slot)
        trim(self._held, _KEYS_MAX)
        return self._lifetimes.looked_up(key, record)

    async def _create(self, latest: KeyRecord | None, *, anew: bool = False) -> SystemKey:
        """Make and store a new key, or take the one that someone else stored.

        Args:
            latest: The newest record.
            anew: Take nobody else's.
        """
        taken = self._lifetimes.behind(latest)
        for _ in range(CREATE_ATTEMPTS):
            slot = Slot.random()
            created = self._lifetimes.creation_time(taken)
            record = KeyRecord(id=self._id, created=created, key=await self._store.wrap(slot))
            if await self._store.store(record):
                return self._remember(record, slot)
            slot.release()
            taken = created
            winner = None if anew else await self._store.load(self._id, created)
            if winner is not None:
                key = await self._unwrapped(winner)
                if self._lifetimes.may_seal(key):
                    return key
        raise MetastoreError("could not create a system key: others create invalid ones")
