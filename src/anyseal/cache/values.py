"""Values of any size: small ones in their entries, large ones in pieces beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anyseal.cache.entry import ERROR, LARGE, Entry
from anyseal.cache.kit import stepped
from anyseal.cache.lease import Lease
from anyseal.cache.opening import NOT_OPENED
from anyseal.cache.pieces import (
    GuardedRanges,
    Pieces,
    PieceSink,
    Staged,
    Whereabouts,
    object_name,
    temporary_name,
)
from anyseal.cache.policy import UNSET
from anyseal.cache.shelf import Shelf
from anyseal.errors import BackendError, FormatError, SourceChangedError
from anyseal.keys import Key
from anyseal.objects.reader import ObjectReader
from anyseal.objects.writer import ObjectWriter

__all__ = ["Values"]

ATTEMPTS = 4
"""How often an object that was replaced while it was read is looked for again."""


class Values:
    """The values of one shelf: from entry to value, and back."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._ranges = GuardedRanges(shelf.backend, shelf.guard)
        self._ranged = hasattr(shelf.backend, "put_range")

    async def payload(self, partition: str, key: bytes, entry: Entry) -> tuple[int, Any] | None:
        """Kind and payload of *entry*; None if no object is there, or opens."""
        for _ in range(ATTEMPTS):
            if entry.kind == ERROR:  # not what a reader of values expects
                return None
            if entry.kind != LARGE:
                return entry.kind, entry.payload
            try:
                return await self._read(partition, key, entry)
            except (SourceChangedError, *NOT_OPENED) as exc:
                error = exc
            # Replaced since the entry was read, or since this process kept it: look again.
            shelf = self._shelf
            shelf.copies.forget(partition, key)
            there = await shelf.entries.find(partition, key)
            if there is None:
                return None
            if there.sealed == entry.sealed:
                await shelf.entries.without_object(partition, key, entry, error)
                return None
            entry = there
        return None

    async def prepared(self, value: Any) -> tuple[int, Any]:
        """*value* as an entry's kind and payload.

        Raises:
            TypeError, ValueError: As ``Payloads.prepared``.
            ChangedError: It is long, and was changed while it was encoded.
        """
        payloads = self._shelf.payloads
        found = payloads.prepared(value)
        return found if found is not None else await stepped(payloads.preparing(value))

    async def decoded(self, kind: int, payload: Any, type: Any) -> Any:
        """The value that a payload stands for. Raises FormatError."""
        payloads = self._shelf.payloads
        if payloads.is_long(kind, payload):
            return await stepped(payloads.decoding(kind, payload, type))
        return payloads.decoded(kind, payload, type)

    async def value(
        self, partition: str, key: bytes, entry: Entry, type: Any, *, closed: bool = False
    ) -> Any:
        """The value of *entry*, or UNSET if it has none.

        With *closed* a backend that is down is an error, whatever the policy says.
        """
        shelf = self._shelf
        try:
            kind, payload = entry.kind, entry.payload
            if kind in (LARGE, ERROR):
                found = await self.payload(partition, key, entry)
                if found is None:
                    return UNSET
                kind, payload = found
            try:
                if len(payload) > shelf.payloads.inline_bytes:
                    return await self.decoded(kind, payload, type)
                return shelf.payloads.decoded(kind, payload, type)
            except FormatError as exc:
                await shelf.opener.refused(
                    partition, key, entry.stored, entry.sealed, exc, undecodable=True
                )
        except BackendError:
            if closed or shelf.policy.on_backend_error == "closed":
                raise
        return UNSET

    async def put(
        self, partition: str, key: bytes, kind: int, payload: Any, **options: Any
    ) -> bool:
        """Store a payload of any size; return whether it was stored.

        *options* are those of ``Entries.store``.
        """
        if len(payload) > self._shelf.policy.large_bytes and self._ranged:
            return await self._put_large(partition, key, kind, payload, **options)
        return await self._shelf.entries.store(partition, key, kind, payload, **options)

    async def _put_large(
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
        lease: Lease | None = None,
    ) -> bool:
        """Store a payload as an object and an entry that says where it is."""
        shelf = self._shelf
        if lease is not None and lease.revoked:
            return False
        names = await shelf.keys.names(partition)
        if if_absent and await shelf.found(partition, key) is not None:
            return False
        name, at = names.names(key)[0], Whereabouts.fresh(kind)
        staged = Staged(shelf.backend, temporary_name(name), object_name(name))
        sealing = await shelf.keys.current(partition)
        writer = ObjectWriter(
            PieceSink(self._ranges, staged.temporary), sealing,
            context=names.context(key, at.what), suite=shelf.suite,
        )  # fmt: skip
        async with writer:
            await writer.write(payload)
            size = await writer.finish()
        done = await shelf.entries.store(
            partition, key, LARGE, at.written(size).to_bytes(),
            ttl=ttl, tags=tags, cost_ms=cost_ms, lease=lease, staged=staged,
        )  # fmt: skip
        if not done:
            await self._ranges.delete_many([staged.temporary])
        return done

    async def _read(self, partition: str, key: bytes, entry: Entry) -> tuple[int, Any]:
        """Kind and payload of the object that *entry* tells of."""
        shelf, at = self._shelf, Whereabouts.of(entry)
        names = await shelf.keys.names(partition)
        source = Pieces(self._ranges, object_name(entry.stored), at.sealed_size)
        by_key = isinstance(shelf.keyring, Key)
        async with await ObjectReader.open(
            source,
            shelf.keyring,
            partition=None if by_key else partition,
            context=names.context(key, at.what),
        ) as reader:
            return at.kind, await reader.read_range(0)

    async def exists(self, entry: Entry) -> bool:
        """Whether *entry* has a value: its own, or an object that is there to its end."""
        if entry.kind != LARGE:
            return entry.kind != ERROR
        at, name = Whereabouts.of(entry), object_name(entry.stored)
        return len(await self._ranges.get_range(name, at.sealed_size - 1, 1)) == 1
