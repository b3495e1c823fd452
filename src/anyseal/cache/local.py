"""The in-process layer: sealed bytes only, least recently used first out, by bytes and by time."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeAlias

from anyseal.cache.entry import Entry
from anyseal.cache.policy import now_ms

__all__ = ["Copies", "LocalLayer"]

ENTRY_COST = 300
"""Bytes that an entry takes beside its sealed bytes, about."""

_STRIPES = 1024
"""Changes are counted for so many groups of names."""

LocalKey: TypeAlias = tuple[str, bytes]


_live: weakref.WeakSet[LocalLayer] = weakref.WeakSet()


def _renew_all() -> None:
    for layer in list(_live):
        layer.renew()


os.register_at_fork(after_in_child=_renew_all)


class LocalLayer:
    """Entries by partition and key, as they are stored. Several may have one name in the backend.

    Args:
        max_bytes: What all entries may take; one takes at most an eighth of it.
        ttl: Seconds that an entry is kept at most.
    """

    def __init__(self, max_bytes: int, ttl: float) -> None:
        self._max_bytes = max_bytes
        self._ttl = ttl
        self._bytes = 0
        self._lock = threading.Lock()
        self._held: OrderedDict[LocalKey, tuple[bytes, str, float]] = OrderedDict()
        self._by_name: dict[str, tuple[LocalKey, ...]] = {}
        self._epoch = 0
        self._changes = [0] * _STRIPES
        _live.add(self)

    def version(self, name: str) -> int:
        """Changes whenever the entry of *name* may have changed (and sometimes when another one
        did): what was read from the backend before may be old by now."""
        return self._epoch + self._changes[hash(name) % _STRIPES]

    def get(self, key: LocalKey) -> tuple[bytes, str] | None:
        """The sealed bytes and their name in the backend."""
        held = self._held.get(key)
        if held is None:
            return None
        if time.monotonic() >= held[2]:
            self.drop(key)
            return None
        try:
            self._held.move_to_end(key)
        except KeyError:  # another thread dropped it
            return None
        return held[0], held[1]

    def put(
        self,
        key: LocalKey,
        name: str,
        sealed: bytes,
        ttl: float | None,
        version: int,
        *,
        own: bool = False,
    ) -> None:
        """Keep *sealed*, at most for *ttl* seconds; not if there was a change since *version*.

        *own* says that *sealed* was written, not read: then it is a change itself.
        """
        size = len(sealed) + ENTRY_COST
        until = time.monotonic() + (self._ttl if ttl is None else min(ttl, self._ttl))
        with self._lock:
            late = version != self.version(name)
            if own:
                self._changed(name)
            if own or not late:
                self._remove(key)
            if late or size * 8 > self._max_bytes:
                return
            self._held[key] = (sealed, name, until)
            self._by_name[name] = (*self._by_name.get(name, ()), key)
            self._bytes += size
            while self._bytes > self._max_bytes:
                self._remove(next(iter(self._held)))

    def _remove(self, key: LocalKey) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self._bytes -= len(held[0]) + ENTRY_COST
            others = tuple(each for each in self._by_name.pop(held[1], ()) if each != key)
            if others:
                self._by_name[held[1]] = others

    def _changed(self, name: str) -> None:
        self._changes[hash(name) % _STRIPES] += 1

    def drop(self, key: LocalKey, names: Sequence[str] = ()) -> None:
        """Forget one entry; *names* are those in the backend under which it changes now."""
        with self._lock:
            for name in names:
                self._changed(name)
            self._remove(key)

    def drop_names(self, names: list[str] | None) -> None:
        """Forget the entries stored under these names; None: all."""
        with self._lock:
            if names is None:
                self._epoch += 1
                self._held.clear()
                self._by_name.clear()
                self._bytes = 0
                return
            for name in names:
                self._changed(name)
                for key in self._by_name.get(name, ()):
                    self._remove(key)

    def drop_partition(self, partition: str | None) -> None:
        """Forget a partition's entries; None: all."""
        if partition is None:
            self.drop_names(None)
            return
        with self._lock:
            self._epoch += 1
            for key in [key for key in self._held if key[0] == partition]:
                self._remove(key)

    @property
    def size(self) -> tuple[int, int]:
        """Entries and bytes."""
        return len(self._held), self._bytes

    def renew(self) -> None:
        """In a forked child: begin with nothing.

        A thread that held the lock is gone, and left things half done; and nobody watches the
        backend for the child yet, so it would not hear of what others delete.
        """
        self._held, self._by_name, self._bytes = OrderedDict(), {}, 0
        self._lock = threading.Lock()


class Copies:
    """What a cache does with its in-process layer, which may be none."""

    def __init__(self, layer: LocalLayer | None) -> None:
        self.layer = layer

    def versions(self, stored: Sequence[str]) -> list[int]:
        """What the in-process layer knows of changes, before the backend is asked."""
        local = self.layer
        return [0] * len(stored) if local is None else [local.version(name) for name in stored]

    def keep(
        self,
        partition: str,
        key: bytes,
        name: str,
        sealed: bytes,
        version: int,
        *,
        own: bool = False,
    ) -> None:
        """Put *sealed* into the in-process layer."""
        if self.layer is not None:
            expires = int.from_bytes(sealed[20:28])
            left = max(0.0, (expires - now_ms()) / 1000) if expires else None
            self.layer.put((partition, key), name, sealed, left, version, own=own)

    def keep_found(self, partition: str, key: bytes, name: str, entry: Entry, version: int) -> None:
        """Put what was found under *name* into the in-process layer; not if it moved since."""
        if entry.stored == name:
            self.keep(partition, key, name, entry.sealed, version)

    def forget(self, partition: str, key: bytes, *names: str) -> None:
        """Drop an entry from the in-process layer; *names* are those under which it changes.

        Before a write and after it: in between another caller may read what was there before, and
        keep it.
        """
        if self.layer is not None:
            self.layer.drop((partition, key), names)

    def forget_all(self, partition: str, keys: Sequence[bytes], names: Sequence[str]) -> None:
        """The same for several."""
        if self.layer is not None:
            self.layer.drop_names(list(names))
            for key in keys:
                self.layer.drop((partition, key))

    def clear(self, partition: str | None) -> None:
        """Drop what the in-process layer has of a partition."""
        if self.layer is not None:
            self.layer.drop_partition(partition)
