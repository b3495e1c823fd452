"""The keys that names are made under: a partition's first intermediate key, which never rotates.

It is gone when the partition is shredded, and what it named cannot be told any more.
"""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from anyseal.errors import KeyNotFoundError
from anyseal.keyring.cached import ENDED, trim
from anyseal.keyring.keystore import KeyStore
from anyseal.keyring.lifetimes import Lifetimes
from anyseal.keyring.looking import Looks
from anyseal.keys import Key
from anyseal.ports import KeyRecord
from anyseal.tasks import Background

if TYPE_CHECKING:
    from anyseal.keyring.hierarchy import KeyHierarchy

__all__ = ["NameKeys"]


class _NameKey:
    """One partition's name key, and when it was looked up."""

    __slots__ = ("answered_at", "keys", "look_at", "revoked")

    def __init__(self, key: Key) -> None:
        self.keys = [key]
        self.revoked = False
        self.answered_at = self.look_at = ENDED


class NameKeys:
    """The name keys of a hierarchy's partitions that are cached, each as long as a key that opens.

    Args:
        size: How many.
        store: Lists a key's versions.
        lifetimes: How long they may be used.
        background: Runs the looks that no caller waits for.
    """

    __slots__ = ("_held", "_lifetimes", "_looks", "_size", "_store")

    def __init__(
        self, size: int, store: KeyStore, lifetimes: Lifetimes, background: Background
    ) -> None:
        self._size = size
        self._store = store
        self._lifetimes = lifetimes
        self._held: OrderedDict[str, _NameKey] = OrderedDict()
        self._looks: Looks[_NameKey] = Looks(lifetimes, background)

    def hit(self, partition: str) -> list[Key] | None:
        """The key, if it may be used without another look."""
        found = self._held.get(partition)
        return found.keys if found is not None and time.monotonic() < found.look_at else None

    async def get(self, hierarchy: KeyHierarchy, partition: str) -> list[Key]:
        """The key, from the metastore; the partition gets a first key if it has none."""
        held = self._held.get(partition)
        if held is not None:
            try:
                found = await self._looks.ahead(
                    (partition, "again"), held, lambda: self._load(hierarchy, partition)
                )
            except KeyNotFoundError:
                pass  # shredded: the next one is another
            else:
                return found.keys
        made = await self._looks.now((partition, "new"), lambda: self._first(hierarchy, partition))
        return made.keys

    async def _first(self, hierarchy: KeyHierarchy, partition: str) -> _NameKey:
        try:
            return await self._load(hierarchy, partition)
        except KeyNotFoundError:
            await hierarchy.current(partition)
            return await self._load(hierarchy, partition)

    async def _load(self, hierarchy: KeyHierarchy, partition: str) -> _NameKey:
        """The first key that the metastore has, and has the system key of."""
        begun, era = time.monotonic(), self._looks.era
        ik_id = hierarchy.ik_id(partition)
        for record in await self._store.versions(ik_id):
            cached = hierarchy.partition(partition)
            with contextlib.suppress(KeyNotFoundError):
                key = await hierarchy.opening_key(cached, ik_id, record.created)
                return self._named(partition, key.key, record, begun, era)
        self.drop(partition)
        raise KeyNotFoundError("the partition has no key to make names under")

    def _named(
        self, partition: str, key: Key, record: KeyRecord, begun: float, era: int
    ) -> _NameKey:
        found = self._held.get(partition)
        if found is None or found.keys[0] is not key:
            found = _NameKey(key)
            if era == self._looks.era:
                self._held[partition] = found
                trim(self._held, self._size)
        self._lifetimes.answered(found, revoked=record.revoked, begun=begun)
        return found

    def drop(self, partition: str) -> None:
        """One of the partition's keys is gone: look again for the first one."""
        self._held.pop(partition, None)

    def forget(self, partition: str | None) -> None:
        """Drop one partition's key, or all."""
        self._looks.forget()
        if partition is None:
            self._held.clear()
        else:
            self._held.pop(partition, None)
