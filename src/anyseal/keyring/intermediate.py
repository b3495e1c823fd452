"""The intermediate keys of a hierarchy: the way to those that are not at hand."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from anyseal.errors import (
    AnysealError,
    DecryptionError,
    FormatError,
    KeyNotFoundError,
    MetastoreError,
    WrongKeyError,
)
from anyseal.keyring.cached import IntermediateKey, Partition, SystemKey
from anyseal.keyring.keystore import KeyStore
from anyseal.keyring.lifetimes import Lifetimes
from anyseal.keyring.looking import Looks
from anyseal.keyring.meter import Meter
from anyseal.keyring.system import CREATE_ATTEMPTS, SystemKeys, parent_place
from anyseal.keys import Slot
from anyseal.ports import KeyRecord
from anyseal.record import unwrap_key, wrap_key
from anyseal.tasks import Ahead, Background

__all__ = ["IntermediateKeys"]

_log = logging.getLogger("anyseal.hierarchy")


class IntermediateKeys:
    """Finds, makes and rotates the keys of partitions, and has each partition remember its own.

    Args:
        store: Keeps them.
        systems: The system keys, which wrap them.
        lifetimes: How long they may be used.
        background: Runs the looks that no caller waits for.
        gone: Called with a partition's name when one of its keys is gone.
        meter: Is told of misses.
    """

    __slots__ = ("_gone", "_lifetimes", "_looks", "_meter", "_store", "_systems")

    def __init__(
        self,
        store: KeyStore,
        systems: SystemKeys,
        lifetimes: Lifetimes,
        background: Background,
        gone: Callable[[str], object],
        meter: Meter,
    ) -> None:
        self._store = store
        self._systems = systems
        self._lifetimes = lifetimes
        self._meter = meter
        self._gone = gone
        self._looks: Looks[IntermediateKey] = Looks(lifetimes, background)

    # ---- sealing ----

    async def sealing(self, partition: Partition) -> IntermediateKey:
        """The key for new rows, looked up in the metastore or made now.

        A key that is at hand and not yet stale stays in use if that fails.
        """
        old = partition.latest
        self._meter.count("stale" if old else "miss", "intermediate-key")
        partition.refreshing = old is not None and time.monotonic() < old.seal_until
        try:
            return await self._looks.now(partition.name, lambda: self._load_sealing(partition))
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
        latest = await self._newest(partition)
        return partition.promote(await self._create(partition, latest, anew=True)).id

    async def _newest(self, partition: Partition) -> KeyRecord | None:
        """The partition's newest record that is not dated ahead."""
        latest = partition.latest
        known = [self._lifetimes.creation_time()]
        if latest is not None and latest.id == partition.id:
            known.insert(0, latest.created)
        return await self._store.newest(partition.id, self._lifetimes.newest_allowed(), known)

    async def _load_sealing(self, partition: Partition) -> IntermediateKey:
        begun, era = time.monotonic(), self._looks.era
        record = await self._newest(partition)
        key = None if record is None else await self._usable(partition, record, begun)
        if key is None:
            key = await self._create(partition, record)
        return partition.promote(key) if era == self._looks.era else key

    async def _usable(
        self, partition: Partition, record: KeyRecord, begun: float
    ) -> IntermediateKey | None:
        """The record's key if new rows may be sealed under it, else None."""
        held = partition.held(record.id, record.created)
        if held is not None:
            self._lifetimes.answered(held, revoked=record.revoked, begun=begun)
        parent = await self._sealing_parent(partition, record)
        if parent is None:
            partition.bar(record)
            return None
        try:
            return self._unwrapped(partition, record, parent, begun)
        except DecryptionError as exc:
            raise MetastoreError(
                "an intermediate key does not verify under its system key", retryable=False
            ) from exc

    async def _sealing_parent(self, partition: Partition, record: KeyRecord) -> SystemKey | None:
        """The system key of *record*; None if one of the two must not seal."""
        lifetimes = self._lifetimes
        if record.revoked or time.time() >= lifetimes.expires(record.created):
            return None
        if lifetimes.dated_ahead(record.created):
            return None
        try:
            parent = await self._systems.parent(record)
        except KeyNotFoundError:  # it opens nothing any more, and must not seal
            self._forget(partition, record.id, record.created)
            return None
        except WrongKeyError:
            return None
        return parent if self._lifetimes.may_seal(parent) else None

    async def _create(
        self, partition: Partition, latest: KeyRecord | None, *, anew: bool = False
    ) -> IntermediateKey:
        """Make and store a new key for *partition*, or take the one that someone else stored.

        Args:
            latest: The partition's newest record.
            anew: Take nobody else's.
        """
        taken = None if latest is None else latest.created
        for _ in range(CREATE_ATTEMPTS):
            begun = time.monotonic()
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
                return self._lifetimes.looked_up_under(key, parent, revoked=False, begun=begun)
            slot.release()
            taken = record.created
            winner = None if anew else await self._store.load(record.id, record.created)
            if winner is not None:
                taken_over = await self._usable(partition, winner, begun)
                if taken_over is not None:
                    return taken_over
        raise MetastoreError("could not create an intermediate key: others create invalid ones")

    # ---- opening ----

    async def opening(self, partition: Partition, key_id: str, created: int) -> IntermediateKey:
        """The key that a row names: cached while it is looked up again, or looked up now.

        Writes nothing. Raises as :meth:`SystemKeys.parent`.
        """
        held = partition.held(key_id, created)
        self._meter.count("stale" if held else "miss", "intermediate-key")
        return await self._looks.ahead(
            (key_id, created), held, lambda: self._load_opening(partition, key_id, created)
        )

    async def _load_opening(
        self, partition: Partition, key_id: str, created: int
    ) -> IntermediateKey:
        begun, era = time.monotonic(), self._looks.era
        held = partition.held(key_id, created)
        ahead = self._parent_ahead(held)
        try:
            record = await self._store.load(key_id, created)
            if record is None:
                raise KeyNotFoundError("the metastore does not have the key that the record names")
            place = parent_place(record)
            if ahead is not None and held is not None and held.parent == place:
                parent = await ahead.result()
            else:
                parent = await self._systems.opener(place)
        except KeyNotFoundError:  # the key, or its system key
            self._forget(partition, key_id, created)
            raise
        finally:
            if ahead is not None:
                await ahead.drop()
        key = self._unwrapped(partition, record, parent, begun)
        if era == self._looks.era:
            partition.remember(key)
        return key

    def _parent_ahead(self, held: IntermediateKey | None) -> Ahead[SystemKey] | None:
        """A look at the system key of *held* beside that at *held* itself, if it needs one."""
        if held is None or held.parent is None or not self._systems.due(held.parent):
            return None
        place = held.parent
        return Ahead(lambda: self._systems.opener_again(place))

    def forget_looks(self) -> None:
        """Keys were dropped on demand: looks that are under way must not bring them back."""
        self._looks.forget()

    def _forget(self, partition: Partition, key_id: str, created: int) -> None:
        partition.forget(key_id, created)
        self._gone(partition.name)

    def _unwrapped(
        self,
        partition: Partition,
        record: KeyRecord,
        parent: SystemKey,
        begun: float | None = None,
    ) -> IntermediateKey:
        """The record's key, taken over from the cache where it is the same.

        Args:
            begun: When the metastore was asked for *record*. Default: now.
        """
        key = partition.held(record.id, record.created)
        if key is None:
            try:
                slot = unwrap_key(record.key, parent.slot)
            except FormatError as exc:
                raise MetastoreError(f"a key record is malformed: {exc}", retryable=False) from exc
            key = IntermediateKey(record, slot, partition.id)
        return self._lifetimes.looked_up_under(
            key,
            parent,
            revoked=record.revoked,
            begun=time.monotonic() if begun is None else begun,
        )
