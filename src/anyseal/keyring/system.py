"""The system keys of a hierarchy: unwrapped once by the KMS, made anew when none may seal."""

from __future__ import annotations

import time
from collections import OrderedDict

from anyseal.errors import KeyNotFoundError, KmsError, MetastoreError
from anyseal.keyring.cached import ENDED, SystemKey, trim
from anyseal.keyring.keystore import KeyStore
from anyseal.keyring.lifetimes import Lifetimes
from anyseal.keyring.looking import Looks
from anyseal.keyring.meter import Meter
from anyseal.keys import Slot
from anyseal.ports import KeyRecord
from anyseal.tasks import Background

__all__ = ["CREATE_ATTEMPTS", "SystemKeys", "parent_place"]

CREATE_ATTEMPTS = 4
"""How often a new key is tried to be stored while others store theirs."""
_KEYS_MAX = 1000


def parent_place(record: KeyRecord) -> tuple[str, int]:
    """The id and time of the system key that wraps the intermediate key in *record*.

    Raises:
        KeyNotFoundError: The record names none.
    """
    if record.parent_id is None or record.parent_created is None:
        raise KeyNotFoundError("an intermediate key that names no system key")
    return record.parent_id, record.parent_created


class SystemKeys:
    """The system keys that are at hand, and the way to those that are not.

    Args:
        id: Of new ones.
        store: Keeps and unwraps them.
        lifetimes: How long they may be used.
        background: Runs the looks that no caller waits for.
        meter: Is told of hits and misses.
    """

    __slots__ = ("_held", "_id", "_latest", "_lifetimes", "_looks", "_meter", "_store")

    def __init__(
        self,
        id: str,
        store: KeyStore,
        lifetimes: Lifetimes,
        background: Background,
        meter: Meter,
    ) -> None:
        self._id = id
        self._store = store
        self._lifetimes = lifetimes
        self._meter = meter
        self._held: OrderedDict[tuple[str, int], SystemKey] = OrderedDict()
        self._latest: SystemKey | None = None
        self._looks: Looks[SystemKey] = Looks(lifetimes, background)

    async def sealing(self) -> SystemKey:
        """The key for new intermediate keys: at hand, from the metastore, or made now."""
        key = self._latest
        if key is not None and self._lifetimes.may_seal(key) and self._fresh(key):
            self._meter.count("hit", "system-key")
            return key
        self._meter.count("stale" if key else "miss", "system-key")
        return await self._looks.now("sealing", self._load_sealing)

    def _fresh(self, key: SystemKey) -> bool:
        return time.monotonic() < self._lifetimes.stale_at(key)

    async def parent(self, record: KeyRecord) -> SystemKey:
        """The key that wraps the intermediate key in *record*, which is to seal.

        Raises:
            KeyNotFoundError: The record names none, or the metastore does not have it.
            MetastoreError, KmsError: It is not cached, and cannot be had now.
        """
        place = parent_place(record)
        cached = self._hit(place)
        if (
            cached is not None
            and time.monotonic() < cached.look_at
            and self._fresh(cached)  # an opener may have put the next look off
        ):
            return cached
        try:
            return await self._looks.now(place, lambda: self._load_parent(place))
        except (MetastoreError, KmsError):
            if cached is None or not self._fresh(cached):
                raise
            return cached

    async def opener(self, place: tuple[str, int]) -> SystemKey:
        """The key of this id and time, under which an intermediate key only opens.

        It is looked up again ahead of time, and a metastore that does not answer extends its use.
        Raises as :meth:`parent`.
        """
        cached = self._hit(place)
        if cached is not None and time.monotonic() < cached.look_at:
            return cached
        return await self._looks.ahead(place, cached, lambda: self._load_parent(place))

    async def opener_again(self, place: tuple[str, int]) -> SystemKey:
        """The same for an intermediate key that is itself looked up again: it waits for the
        answer where the system key is :meth:`due`."""
        if not self.due(place):
            return await self.opener(place)
        cached = self._hit(place)
        try:
            return await self._looks.now(place, lambda: self._load_parent(place))
        except (MetastoreError, KmsError):
            if cached is None or time.monotonic() >= self._lifetimes.open_until(cached):
                raise
            return cached

    def due(self, place: tuple[str, int]) -> bool:
        """Whether the key is to be looked up, or a look is under way."""
        cached = self._held.get(place)
        return cached is None or time.monotonic() >= cached.look_at or self._lifetimes.asked(cached)

    def _hit(self, place: tuple[str, int]) -> SystemKey | None:
        """The key if it is cached, however old the last look at it is; the meter is told."""
        cached = self._held.get(place)
        if cached is None:
            self._meter.count("miss", "system-key")
        else:
            due = time.monotonic() >= cached.look_at
            self._meter.count("stale" if due else "hit", "system-key")
        return cached

    async def rotate(self) -> str:
        """Make a new key now; returns its id."""
        self._latest = await self._create(await self._newest(), anew=True)
        return self._latest.id

    def clear(self) -> None:
        """Drop all keys."""
        self._looks.forget()
        self._held.clear()
        self._latest = None

    async def _load_sealing(self) -> SystemKey:
        begun, era = time.monotonic(), self._looks.era
        latest = await self._newest()
        key = None if latest is None else await self._unwrapped(latest, begun)
        if key is None or not self._lifetimes.may_seal(key):
            key = await self._create(latest)
        if era == self._looks.era:
            self._latest = key
        return key

    async def _newest(self) -> KeyRecord | None:
        """The newest record that is not dated ahead."""
        latest = self._latest
        known = [self._lifetimes.creation_time()]
        if latest is not None:
            known.insert(0, latest.created)
        return await self._store.newest(self._id, self._lifetimes.newest_allowed(), known)

    async def _load_parent(self, place: tuple[str, int]) -> SystemKey:
        begun = time.monotonic()
        record = await self._store.load(*place)
        if record is None:
            gone = self._held.pop(place, None)
            if gone is not None:
                gone.answered_at = gone.look_at = ENDED
            raise KeyNotFoundError("the metastore does not have the system key")
        return await self._unwrapped(record, begun)

    async def _unwrapped(self, record: KeyRecord, begun: float) -> SystemKey:
        """The key in *record*; asks the KMS unless the same key was unwrapped before."""
        key = self._held.get((record.id, record.created))
        if key is None:
            return self._remember(record, await self._store.unwrap(record), begun)
        self._lifetimes.answered(key, revoked=record.revoked, begun=begun)
        return key

    def _remember(self, record: KeyRecord, slot: Slot, begun: float) -> SystemKey:
        key = self._held[record.id, record.created] = SystemKey(record, slot)
        trim(self._held, _KEYS_MAX)
        self._lifetimes.answered(key, revoked=record.revoked, begun=begun)
        return key

    async def _create(self, latest: KeyRecord | None, *, anew: bool = False) -> SystemKey:
        """Make and store a new key, or take the one that someone else stored.

        Args:
            latest: The newest record.
            anew: Take nobody else's.
        """
        taken = None if latest is None else latest.created
        for _ in range(CREATE_ATTEMPTS):
            begun = time.monotonic()
            slot = Slot.random()
            created = self._lifetimes.creation_time(taken)
            wrapped = await self._store.wrap(slot, self._id, created)
            record = KeyRecord(id=self._id, created=created, key=wrapped)
            if await self._store.store(record):
                return self._remember(record, slot, begun)
            slot.release()
            taken = created
            winner = None if anew else await self._store.load(self._id, created)
            if winner is not None:
                key = await self._unwrapped(winner, begun)
                if self._lifetimes.may_seal(key):
                    return key
        raise MetastoreError("could not create a system key: others create invalid ones")
