"""The keys of a hierarchy that are at hand: unwrapped, dated, and how long they may be used.

A system key and an intermediate key carry the times until which they may be used without another
look at the metastore; a partition carries its keys and answers whether one may be used now.
Threads share all of it without a lock.
"""

from __future__ import annotations

import math
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from anyseal.keys import Key, Slot
from anyseal.ports import KeyRecord
from anyseal.record import RowKey

__all__ = ["ENDED", "REFRESH_AT", "IntermediateKey", "Partition", "Partitions", "SystemKey", "trim"]

REFRESH_AT = 0.9
"""Of the revoke-check interval: a key is looked up again while its callers continue."""
ENDED = -math.inf
"""The last answer of a key that the metastore no longer has: it opens and seals nothing."""
_OLD_KEYS_MAX = 100


def trim(cache: OrderedDict[Any, Any], size: int) -> None:
    """Drop the oldest entries beyond *size*; other threads may do the same."""
    while len(cache) > size:
        try:
            cache.popitem(last=False)
        except KeyError:  # pragma: no cover - another thread dropped the last one
            return


class SystemKey:
    """An unwrapped system key."""

    __slots__ = ("answered_at", "look_at", "place", "revoked", "slot")

    def __init__(self, record: KeyRecord, slot: Slot) -> None:
        self.place = record.id, record.created
        self.revoked = record.revoked
        self.slot = slot
        # Monotonic times, set at each look at the metastore (Lifetimes.answered).
        self.answered_at = self.look_at = ENDED

    @property
    def id(self) -> str:
        """The id that intermediate keys name."""
        return self.place[0]

    @property
    def created(self) -> int:
        """Seconds since the epoch."""
        return self.place[1]


class IntermediateKey:
    """An unwrapped intermediate key: what rows and values of its partition are sealed under.

    There may be a hundred thousand of them: each field counts (bench/sessions.py).
    """

    __slots__ = (
        "_key",
        "answered_at",
        "look_at",
        "parent",
        "refresh_at",
        "revoked",
        "row_key",
        "seal_until",
    )

    def __init__(self, record: KeyRecord, slot: Slot, partition_id: str) -> None:
        self.revoked = record.revoked
        # The partition's own str where it is equal: the metastore gave another copy.
        key_id = partition_id if partition_id == record.id else record.id
        self.row_key = RowKey(slot, key_id, record.created)
        self._key: Key | None = None
        self.parent: tuple[str, int] | None = None
        """The id and time of its system key."""
        # Monotonic times, set at each look at the metastore (Lifetimes.looked_up_under).
        self.refresh_at = ENDED
        """From here one caller looks again before sealing, while the others continue."""
        self.seal_until = ENDED
        """From here it seals no more."""
        self.look_at = ENDED
        """From here one caller has it looked up again, while it opens for all."""
        self.answered_at = ENDED
        """When the look began that the metastore answered last: Lifetimes counts from here."""

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

    __slots__ = ("__weakref__", "id", "latest", "name", "older", "refreshing", "session_until")

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
        return key if key is not None and time.monotonic() < key.look_at else None

    def held(self, key_id: str, created: int) -> IntermediateKey | None:
        """The key that a row names, however old the last look at it is."""
        key = self.latest
        if key is None or (key.id, key.created) != (key_id, created):
            key = self.older.get((key_id, created)) if self.older else None
        return key

    def promote(self, key: IntermediateKey) -> IntermediateKey:
        """Make *key* the one that seals; the one before goes on opening."""
        before = self.latest
        if (
            before is not None
            and before.created > key.created
            and time.monotonic() < before.seal_until
        ):  # rotated meanwhile
            self.remember(key)
            return before
        self.latest = key
        if before is not None and before.created != key.created:
            self.remember(before)
        return key

    def bar(self, record: KeyRecord) -> None:
        """Seal no more under the key in *record*."""
        key = self.latest
        if key is not None and (key.id, key.created) == (record.id, record.created):
            key.seal_until = key.refresh_at = ENDED

    def remember(self, key: IntermediateKey) -> None:
        """Keep a key for opening."""
        latest = self.latest
        if latest is not None and (latest.id, latest.created) == (key.id, key.created):
            self.latest = key
            return
        if self.older is None:
            self.older = OrderedDict()
        self.older[key.id, key.created] = key
        trim(self.older, _OLD_KEYS_MAX)

    def forget(self, key_id: str, created: int) -> None:
        """Drop a key that the metastore no longer has."""
        key = self.held(key_id, created)
        if key is not None:
            key.answered_at = key.look_at = key.seal_until = key.refresh_at = ENDED
        if self.latest is not None and (self.latest.id, self.latest.created) == (key_id, created):
            self.latest = None
        if self.older is not None:
            self.older.pop((key_id, created), None)

    def clear(self) -> None:
        """Drop all keys."""
        self.latest = None
        self.older = None


class Partitions:
    """The partitions that are at hand: so many, and those that sessions hold.

    Args:
        size: How many stay when nobody holds them.
        ik_id: The id of a partition's new intermediate keys.
    """

    __slots__ = ("_cached", "_held", "_ik_id", "_size")

    def __init__(self, size: int, ik_id: Callable[[str], str]) -> None:
        self._size = size
        self._ik_id = ik_id
        self._cached: OrderedDict[str, Partition] = OrderedDict()
        # Beyond the cache, but held by sessions: so that a partition has one set of keys.
        self._held: weakref.WeakValueDictionary[str, Partition] = weakref.WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._cached)

    def of(self, name: str) -> Partition:
        """The partition of this name, made if there is none."""
        found = self._cached.get(name)
        if found is None:
            found = self._held.get(name) or Partition(name, self._ik_id(name))
            found = self._cached.setdefault(name, found)
            if len(self._cached) > self._size:
                self._shrink()
            return found
        try:  # noqa: SIM105 - the hit path: suppress() costs more than all the rest
            self._cached.move_to_end(name)
        except KeyError:  # pragma: no cover - another thread dropped it meanwhile
            pass
        return found

    def _shrink(self) -> None:
        """Drop the partitions that were not asked for for longest."""
        while len(self._cached) > self._size:
            try:
                name, dropped = self._cached.popitem(last=False)
            except KeyError:  # pragma: no cover - another thread dropped the last one
                return
            self._held[name] = dropped

    def forget(self, name: str | None = None) -> None:
        """Drop the keys of one partition, or of all; whoever holds a partition finds it empty."""
        if name is not None:
            found = self._cached.pop(name, None) or self._held.get(name)
            if found is not None:
                found.clear()
                self._held[name] = found
            return
        for found in [*self._cached.values(), *self._held.values()]:
            found.clear()
        self._held.update(self._cached)
        self._cached.clear()
