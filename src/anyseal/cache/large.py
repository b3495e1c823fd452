"""Large values of a cache: written and read in pieces, each call guarded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from anyseal.cache.entry import LARGE, Entry
from anyseal.cache.leases import LeaseBase
from anyseal.cache.opening import NOT_OPENED
from anyseal.cache.pieces import (
    GuardedRanges,
    Pieces,
    PieceSink,
    Whereabouts,
    object_name,
    published,
    temporary_name,
)
from anyseal.errors import SourceChangedError
from anyseal.keys import Key
from anyseal.objects.reader import ObjectReader
from anyseal.objects.writer import ObjectWriter

if TYPE_CHECKING:
    from anyseal.cache.core import Cache

__all__ = ["LargeValues"]

ATTEMPTS = 4
"""How often an object that was replaced while it was read is looked for again."""


class LargeValues:
    """The objects of one cache, and the entries that say where they are."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._ranges = GuardedRanges(cache._backend, cache._guarded)

    async def put(
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
        names = await cache._drive(cache._keys.names(partition))
        if if_absent and await cache._found(partition, key) is not None:
            return False
        name, at = names.names(key)[0], Whereabouts.fresh(kind)
        temporary = temporary_name(name)
        sealing = await cache._drive(cache._keys.current(partition))
        writer = ObjectWriter(
            PieceSink(self._ranges, temporary), sealing,
            context=names.context(key, at.what), suite=cache._suite,
        )  # fmt: skip
        async with writer:
            await writer.write(payload)
            size = await writer.finish()
        flow = cache._entries.store(
            partition, key, LARGE, at.written(size).to_bytes(),
            ttl=ttl, tags=tags, cost_ms=cost_ms, lease=lease,
        )  # fmt: skip
        done = await cache._drive(published(flow, temporary, object_name(name)))
        if not done:
            await self._ranges.delete_many([temporary])
        return done

    async def _read(self, partition: str, key: bytes, entry: Entry) -> tuple[int, Any]:
        """Kind and payload of the object that *entry* tells of."""
        cache = self._cache
        at = Whereabouts.of(entry)
        names = await cache._drive(cache._keys.names(partition))
        source = Pieces(self._ranges, object_name(entry.stored), at.sealed_size)
        by_key = isinstance(cache._keyring, Key)
        async with await ObjectReader.open(
            source,
            cache._keyring,
            partition=None if by_key else partition,
            context=names.context(key, at.what),
        ) as reader:
            return at.kind, await reader.read_range(0)

    async def payload(self, partition: str, key: bytes, entry: Entry) -> tuple[int, Any] | None:
        """Kind and payload that *entry* tells of; None if no object is there, or opens."""
        cache = self._cache
        for _ in range(ATTEMPTS):
            if entry.kind != LARGE:
                return entry.kind, entry.payload
            try:
                return await self._read(partition, key, entry)
            except (SourceChangedError, *NOT_OPENED) as exc:
                error = exc
            # Replaced since the entry was read, or since this process kept it: look again.
            cache._copies.forget(partition, key)
            there = await cache._drive(cache._entries.find(partition, key))
            if there is None:
                return None
            if there.sealed == entry.sealed:
                await cache._drive(cache._entries.without_object(partition, key, entry, error))
                return None
            entry = there
        return None

    async def exists(self, entry: Entry) -> bool:
        """Whether the object that *entry* tells of is there, to its end."""
        at, name = Whereabouts.of(entry), object_name(entry.stored)
        return len(await self._ranges.get_range(name, at.sealed_size - 1, 1)) == 1
