# Made from anyseal/cache/entries.py by .ci/generate_sync.py: do not edit.
"""Find, store, touch and delete entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from anyseal.cache.entry import LARGE, LOCK, OBJECT, Entry, PartitionNames, Tag
from anyseal.cache.leases import Leases
from anyseal.cache.local import Copies
from anyseal.cache.pieces import Staged
from anyseal.cache.policy import CachePolicy, now_ms
from anyseal.cache.stats import Observer
from anyseal.errors import SourceChangedError
from anyseal.suites import Suite
from anyseal.sync._generated.guard import Guard
from anyseal.sync._generated.keys import PartitionKeys
from anyseal.sync._generated.opening import INLINE_ENTRY_BYTES, Opener
from anyseal.sync.kit import breathe
from anyseal.value import key_id_of

__all__ = ["Entries", "is_stale"]

FOREVER_MS = 1 << 40
"""Some 34 years."""


def is_stale(entry: Entry) -> bool:
    """Whether *entry* is beyond its time to live, and is kept until it is refreshed."""
    return bool(entry.fresh_until) and now_ms() >= entry.fresh_until


class Writer(Protocol):
    """What may store an entry in place of :class:`Entries`: a lease."""

    def store(self, name: str, sealed: bytes, ttl_ms: int | None, staged: Staged | None) -> bool:
        """Store *sealed* under *name*, if it still may; return whether it was stored."""
        ...


@dataclass(slots=True, kw_only=True)
class Entries:
    """The entries of one cache in its backend."""

    guard: Guard
    backend: Any
    keys: PartitionKeys
    opener: Opener
    copies: Copies
    policy: CachePolicy
    observer: Observer
    suite: Suite | None
    leases: Leases
    ranged: bool
    """Whether the backend takes large values, in pieces."""
    leasing: bool
    """Whether it does several things in one exchange: see LeasingBackend."""

    def find(self, partition: str, key: bytes) -> Entry | None:
        """The entry of *key* that opens, from the backend."""
        names = self.keys.names(partition)
        stored = names.names(key)
        versions = self.copies.versions(stored)
        answers = self.guard.read(self.backend.get_many, stored)
        for name, sealed, version in zip(stored, answers, versions, strict=True):
            if sealed is None:
                continue
            entry = self.opener.opened(names, partition, key, name, sealed)
            if entry is None:
                entry = self.opener.open(names, partition, key, name, sealed)
            if entry is not None:
                self.copies.keep_found(partition, key, name, entry, version)
                return entry
        return None

    def find_many(self, partition: str, keys: Sequence[bytes]) -> dict[bytes, Entry]:
        """The entries of *keys* that open, in one look at the backend."""
        names = self.keys.names(partition)
        places = [(key, name) for key in dict.fromkeys(keys) for name in names.names(key)]
        stored = [name for _, name in places]
        versions = self.copies.versions(stored)
        answers = (self.guard.read(self.backend.get_many, stored)) if places else []
        found: dict[bytes, Entry] = {}
        done = 0
        for (key, name), sealed, version in zip(places, answers, versions, strict=True):
            if sealed is not None and key not in found:
                done += len(sealed)
                if done > INLINE_ENTRY_BYTES:
                    breathe(done)
                    done = 0
                entry = self.opener.opened(names, partition, key, name, sealed)
                if entry is None:
                    entry = self.opener.open(names, partition, key, name, sealed)
                if entry is not None:
                    self.copies.keep_found(partition, key, name, entry, version)
                    found[key] = entry
        return found

    def store(
        self,
        partition: str,
        key: bytes,
        kind: int,
        payload: bytes | bytearray | memoryview,
        *,
        ttl: float | None,
        tags: Sequence[Tag] = (),
        cost_ms: int = 0,
        if_absent: bool = False,
        lease: Writer | None = None,
        staged: Staged | None = None,
    ) -> bool:
        """Seal and store one entry; return whether it was stored.

        What was computed is stored under its *lease*; anything else revokes the leases of the
        callers that compute. *staged* is the object that belongs to the entry.
        """
        names = self.keys.names(partition)
        with_key = self.keys.current(partition)
        fresh, end = self.policy.lifetime(ttl)
        if not all(tag.reaches(end) for tag in tags):
            self.opener.tags.extend(names, partition, tags, end)
        sealed = self.opener.sealed(
            key, with_key, names, end, kind, payload,
            fresh_until=fresh, cost_ms=cost_ms, tags=tags,
        )  # fmt: skip
        self.observer.used(partition, with_key._key_id, "encrypt", "ok")
        stored = names.names(key)
        if if_absent and len(stored) > 1:  # the backend looks under the newest name only
            entry = self.find(partition, key)
            if entry is not None and not is_stale(entry):
                return False
        ttl_ms = max(1, end - now_ms()) if end else None
        done = False
        try:
            self.copies.forget(partition, key, *stored)
            (version, *_) = self.copies.versions(stored)
            if lease is not None:
                done = lease.store(stored[0], sealed, ttl_ms, staged)
            elif if_absent:
                done = self._set_absent(names, partition, key, sealed, ttl_ms)
            else:
                self.leases.revoke(partition, [key])
                done = self._set(stored[0], sealed, ttl_ms, staged)
        finally:
            if done:
                self.copies.keep(partition, key, stored[0], sealed, version, own=True)
            else:
                self.copies.forget(partition, key, *stored)
            if lease is None and not if_absent:
                self.leases.part(partition, [key])
        if done:
            self.observer.count("sets")
            if if_absent:
                self.leases.revoke(partition, [key])
            if len(stored) > 1:  # else an older entry would come back when this one ends
                self.guard.delete(
                    self.backend.delete_many, [*self._others(stored[1:]), *stored[1:]]
                )
        return bool(done)

    def _others(self, stored: Sequence[str]) -> list[str]:
        """What may stand beside the entries under these names: leases first, then objects."""
        others = []
        if self.leasing or self.policy.lease is not None:
            others += [name + LOCK for name in stored]
        if self.ranged:
            others += [name + OBJECT for name in stored]
        return others

    def _set(self, name: str, sealed: bytes, ttl_ms: int | None, staged: Staged | None) -> bool:
        """Store an entry unconditionally. That ends the leases of other processes, and the object
        of the entry before where that takes no further exchange."""
        if staged is not None:
            self.guard.delete(self.backend.delete_many, [name + LOCK])
            return bool(staged.publish(self.guard, name, sealed, ttl_ms))
        if self.leasing:
            others = self._others([name])
            call = self.backend.set_and_delete
            return bool(self.guard.write(call, name, sealed, others, ttl_ms=ttl_ms))
        call = self.backend.set
        return bool(self.guard.write(call, name, sealed, ttl_ms=ttl_ms, if_absent=False))

    def _set_absent(
        self, names: PartitionNames, partition: str, key: bytes, sealed: bytes, ttl_ms: int | None
    ) -> bool:
        """Store if there is no entry, or only one that has ended: by a tag, or by its expiry."""
        name = names.names(key)[0]
        for _ in range(3):
            if self.guard.write(self.backend.set, name, sealed, ttl_ms=ttl_ms, if_absent=True):
                return True
            (there,) = self.guard.read(self.backend.get_many, [name])
            if there is None:
                continue  # deleted since
            entry = self.opener.open(names, partition, key, name, there)
            if entry is not None and not is_stale(entry):
                return False
            if self.guard.write(self.backend.compare_and_set, name, there, sealed, ttl_ms=ttl_ms):
                return True
        return False

    def delete(self, partition: str, keys: Sequence[bytes]) -> int:
        """Delete entries; return how many existed."""
        names = self.keys.names(partition)
        stored = [name for key in keys for name in names.names(key)]
        if not stored:
            return 0
        others = self._others(stored)
        self.leases.revoke(partition, keys)
        try:
            self.copies.forget_all(partition, keys, stored)
            if self.leasing:
                count = self.guard.delete(self.backend.delete_beside, stored, others)
            else:  # first the leases: under one that holds, the entry would be stored again
                if others:
                    self.guard.delete(self.backend.delete_many, others)
                count = self.guard.delete(self.backend.delete_many, stored)
        finally:
            self.copies.forget_all(partition, keys, stored)
            self.leases.part(partition, keys)
        self.observer.count("deletes", len(keys))
        return int(count)

    def revoke(self, partition: str, key: bytes) -> None:
        """Keep what is computed for *key* now, here or in another process, from being stored."""
        self.leases.revoke(partition, [key])
        if self.policy.lease is not None:
            names = self.keys.names(partition)
            self.guard.delete(self.backend.delete_many, [name + LOCK for name in names.names(key)])

    def touch(self, partition: str, key: bytes, ttl: float | None) -> bool:
        """Give an entry a new time to live; return whether it exists."""
        names = self.keys.names(partition)
        while True:
            entry = self.find(partition, key)
            if entry is None or is_stale(entry):
                return False
            name = names.names(key)[0]
            if entry.kind == LARGE or (entry.tags and len(names.keys) > 1):
                # Its object is where it is, and so are its tags: it stays.
                name = entry.stored
                with_key = self.keys.named(partition, key_id_of(entry.sealed))
            else:
                with_key = self.keys.current(partition)
            fresh, end = self.policy.lifetime(ttl)
            if entry.tags:
                self.opener.tags.extend(names, partition, entry.tags, end)
            sealed = self.opener.sealed(
                key, with_key, names, end, entry.kind, entry.payload,
                fresh_until=fresh, cost_ms=entry.cost_ms, tags=entry.tags,
            )  # fmt: skip
            ttl_ms = max(1, end - now_ms()) if end else None
            if entry.kind == LARGE:
                if not self.guard.read(self.backend.get_range, name + OBJECT, 0, 1):
                    self.guard.delete(self.backend.compare_and_set, name, entry.sealed, None)
                    return False
                lives = FOREVER_MS if ttl_ms is None else ttl_ms
                self.guard.write(self.backend.put_range, name + OBJECT, 0, b"", ttl_ms=lives)
            try:
                self.copies.forget(partition, key, entry.stored, name)
                mark = self.opener.moved(names, key, with_key)
                done = self.opener.replaced(entry, name, sealed, ttl_ms, mark)
            finally:
                self.copies.forget(partition, key, entry.stored, name)
            if done:
                return True

    def without_object(self, partition: str, key: bytes, entry: Entry, error: Exception) -> None:
        """The object that *entry* tells of is gone, or does not open."""
        if isinstance(error, SourceChangedError):
            self.guard.delete(self.backend.compare_and_set, entry.stored, entry.sealed, None)
        else:
            self.opener.refused(partition, key, entry.stored, entry.sealed, error)
