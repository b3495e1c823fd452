"""A metastore in this process's memory, for tests and examples: its keys end with the process."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import AsyncGenerator
from typing import Self

import anyio.lowlevel

from anyseal.hints import only_async_with
from anyseal.metastore._rules import check_storable
from anyseal.ports import KeyRecord

__all__ = ["MemoryMetastore"]


class MemoryMetastore:
    """Keeps wrapped keys in a dict. Safe to use from several threads and event loops.

    What was sealed under its keys cannot be opened once the process has ended.
    """

    testing = True
    """It forgets with the process: a KMS meant for testing may wrap what it keeps."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, dict[int, KeyRecord]] = {}

    def __repr__(self) -> str:
        return f"MemoryMetastore(ids={len(self._rows)})"

    async def load(self, key_id: str, created: int) -> KeyRecord | None:
        """The record with exactly this id and time, or None."""
        await anyio.lowlevel.checkpoint()
        with self._lock:
            return self._rows.get(key_id, {}).get(created)

    async def load_latest(self, key_id: str) -> KeyRecord | None:
        """The record with this id and the latest time, or None."""
        await anyio.lowlevel.checkpoint()
        with self._lock:
            versions = self._rows.get(key_id)
            return versions[max(versions)] if versions else None

    async def load_latest_before(self, key_id: str, created: int) -> KeyRecord | None:
        """The record with this id and the latest time before *created*, or None."""
        await anyio.lowlevel.checkpoint()
        with self._lock:
            versions = self._rows.get(key_id, {})
            latest = max((time for time in versions if time < created), default=None)
            return None if latest is None else versions[latest]

    async def store(self, record: KeyRecord) -> bool:
        """Insert *record* unless its id and time are taken; whether it was inserted."""
        check_storable(record)
        await anyio.lowlevel.checkpoint()
        with self._lock:
            return self._rows.setdefault(record.id, {}).setdefault(record.created, record) is record

    async def records(self, key_id_prefix: str = "") -> AsyncGenerator[KeyRecord, None]:
        """All records of this moment whose id begins with *key_id_prefix*, by id and time."""
        with self._lock:
            found = [
                versions[created]
                for key_id, versions in sorted(self._rows.items())
                if key_id.startswith(key_id_prefix)
                for created in sorted(versions)
            ]
        for record in found:
            await anyio.lowlevel.checkpoint()
            yield record

    async def versions(self, key_id: str) -> AsyncGenerator[KeyRecord, None]:
        """All records of this moment with exactly this id, oldest first."""
        with self._lock:
            found = sorted(self._rows.get(key_id, {}).items())
        for _, record in found:
            await anyio.lowlevel.checkpoint()
            yield record

    async def revoke(self, key_id: str, created: int) -> bool:
        """Mark a record as revoked; whether it was there."""
        await anyio.lowlevel.checkpoint()
        with self._lock:
            versions = self._rows.get(key_id, {})
            if created not in versions:
                return False
            versions[created] = dataclasses.replace(versions[created], revoked=True)
            return True

    async def replace_key(self, record: KeyRecord, key: bytes) -> bool:
        """Put *key* in the place of *record*'s, if it is still there; whether it was."""
        await anyio.lowlevel.checkpoint()
        with self._lock:
            versions = self._rows.get(record.id, {})
            found = versions.get(record.created)
            if found is None or found.key != record.key:
                return False
            versions[record.created] = dataclasses.replace(found, key=key)
            return True

    async def delete(self, key_id: str, created: int) -> bool:
        """Delete a record; whether it was there."""
        await anyio.lowlevel.checkpoint()
        with self._lock:
            versions = self._rows.get(key_id, {})
            there = versions.pop(created, None) is not None
            if not versions:
                self._rows.pop(key_id, None)
            return there

    async def aclose(self) -> None:
        """Nothing to let go of: the records stay."""

    __enter__ = only_async_with

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()
