"""Large values of the sync cache: written and read in pieces, each call guarded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from anyseal.cache.entry import LARGE, Entry
from anyseal.cache.large import ATTEMPTS
from anyseal.cache.leases import LeaseBase
from anyseal.cache.opening import NOT_OPENED
from anyseal.cache.pieces import (
    BlockingPieces,
    BlockingPieceSink,
    GuardedRanges,
    Whereabouts,
    object_name,
    published,
    temporary_name,
)
from anyseal.errors import SourceChangedError
from anyseal.keys import Key
from anyseal.sync.objects import ObjectReader, ObjectWriter

if TYPE_CHECKING:
    from anyseal.sync.cache import Cache

__all__ = ["LargeValues"]


class LargeValues:
    """The objects of one cache, and the entries that say where they are."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._ranges = GuardedRanges(cache._backend, cache._guarded)

    def put(
        self,
        partition: str,
        key: bytes,
        kind: int,
        payload: Any,
        *,
        ttl: float | None,
        tags: Sequence[Any] = (),
        cost_ms: int = 0,
        if_absent: bool = False,
        lease: LeaseBase | None = None,
    ) -> bool:
        """Store a payload as an object and an entry that says where it is."""
        cache = self._cache
        if lease is not None and lease.revoked:
            return False
        names = cache._drive(cache._keys.names(partition))
        if if_absent and cache._found(partition, key) is not None:
            return False
        name, at = names.names(key)[0], Whereabouts.fresh(kind)
        temporary = temporary_name(name)
        sealing = cache._drive(cache._keys.current(partition))
        sink = BlockingPieceSink(self._ranges, temporary)
        with ObjectWriter(
            sink, sealing, context=names.context(key, at.what), suite=cache._suite
        ) as writer:
            writer.write(payload)
            size = writer.finish()
        flow = cache._entries.store(
            partition, key, LARGE, at.written(size).to_bytes(),
            ttl=ttl, tags=tags, cost_ms=cost_ms, lease=lease,
        )  # fmt: skip
        done = cache._drive(published(flow, temporary, object_name(name)))
        if not done:
            self._ranges.delete_many([temporary])
        return done

    def _read(self, partition: str, key: bytes, entry: Entry) -> tuple[int, Any]:
        """Kind and payload of the object that *entry* tells of."""
        cache = self._cache
        at = Whereabouts.of(entry)
        names = cache._drive(cache._keys.names(partition))
        source = BlockingPieces(self._ranges, object_name(entry.stored), at.sealed_size)
        by_key = isinstance(cache._keyring, Key)
        with ObjectReader.open(
            source,
            cache._keyring,
            partition=None if by_key else partition,
            context=names.context(key, at.what),
        ) as reader:
            return at.kind, reader.read_range(0)

    def payload(self, partition: str, key: bytes, entry: Entry) -> tuple[int, Any] | None:
        """Kind and payload that *entry* tells of; None if no object is there, or opens."""
        cache = self._cache
        for _ in range(ATTEMPTS):
            if entry.kind != LARGE:
                return entry.kind, entry.payload
            try:
                return self._read(partition, key, entry)
            except (SourceChangedError, *NOT_OPENED) as exc:
                error = exc
            # Replaced since the entry was read, or since this process kept it: look again.
            cache._copies.forget(partition, key)
            there = cache._drive(cache._entries.find(partition, key))
            if there is None:
                return None
            if there.sealed == entry.sealed:
                cache._drive(cache._entries.without_object(partition, key, entry, error))
                return None
            entry = there
        return None

    def exists(self, entry: Entry) -> bool:
        """Whether the object that *entry* tells of is there, to its end."""
        at, name = Whereabouts.of(entry), object_name(entry.stored)
        return len(self._ranges.get_range(name, at.sealed_size - 1, 1)) == 1
