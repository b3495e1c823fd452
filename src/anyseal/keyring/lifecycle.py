"""Look after keys: list, rotate, revoke, shred, audit."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import anyio

from anyseal.config import CryptoPolicy
from anyseal.errors import ConfigurationError, MetastoreError
from anyseal.keyring.hierarchy import KeyHierarchy
from anyseal.keyring.lifetimes import REVOKED_STALE_AT, Lifetimes
from anyseal.ports import AuditEvent, AuditHook, KeyRecord, MetastoreAdmin

__all__ = ["KeyAdmin", "KeyStatus", "RewrapReport", "ShredReport"]

KeyType = Literal["system", "intermediate"]
State = Literal["active", "expiring", "barred", "expired", "revoked", "future"]
_REWRAP_ATTEMPTS = 4
_Place = tuple[str, int]  # id and time


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyStatus:
    """One key of a hierarchy and what may be done with it."""

    id: str
    created: int
    """Seconds since the epoch."""
    type: KeyType
    partition: str | None
    """None for a system key."""
    state: State
    """``expiring`` and ``active`` seal; all open. ``barred``: an intermediate key that seals
    nothing new because its system key is revoked, or gone: then it opens nothing either."""
    expires: float
    """Seconds since the epoch."""
    latest: bool
    """Whether it is the newest key of its id that is not dated ahead, the one that seals."""

    @property
    def deserves_attention(self) -> bool:
        """Whether something is to be done: the newest key is not active, or a clock is wrong.

        A key that has a successor only opens: that it is expired or revoked is as it should be.
        """
        return self.state == "future" or (self.latest and self.state != "active")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShredReport:
    """What shredding a partition did."""

    partition: str
    keys_deleted: int
    waited: float
    """Seconds, until no process could open any more. 0 where it did not wait."""
    longest_use: float
    """Seconds for which a process may open with a cached key after the metastore's last answer:
    the largest interval plus extension of the policies. Where it did not wait, other processes may
    go on for so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewrapReport:
    """What wrapping the system keys again did."""

    rewrapped: int
    current: int
    """Were under the KMS's current master key already."""


class KeyAdmin:
    """The lifecycle tools of one hierarchy. Its metastore must be a MetastoreAdmin.

    Raises:
        ConfigurationError: The metastore can only load and store.
    """

    def __init__(self, hierarchy: KeyHierarchy, *, audit: AuditHook | None = None) -> None:
        if not isinstance(hierarchy.metastore, MetastoreAdmin):
            raise ConfigurationError(
                f"{type(hierarchy.metastore).__name__} cannot list or change its keys"
            )
        self._hierarchy = hierarchy
        self._metastore: MetastoreAdmin = hierarchy.metastore
        self._store = hierarchy._store  # whose calls end in their time
        self._lifetimes = Lifetimes(hierarchy.policy)
        self._audit_hook = audit

    @property
    def metastore(self) -> MetastoreAdmin:
        """The hierarchy's metastore."""
        return self._metastore

    async def _records(self, partition: str | None) -> AsyncIterator[tuple[KeyRecord, str | None]]:
        """The hierarchy's records and their partitions (None: a system key)."""
        ids = [*self._hierarchy.ik_ids(partition)] if partition is not None else None
        if ids is None:
            async for record in self._store.records(""):
                found, name = self._hierarchy.owns(record.id)
                if found:
                    yield record, name
            return
        for key_id in ids:
            async for record in self._store.records(key_id):
                if record.id == key_id:
                    yield record, partition

    async def list(
        self, partition: str | None = None, *, expiring_within: float = 7 * 86400.0
    ) -> list[KeyStatus]:
        """The keys of *partition*, or all of the hierarchy, by id and age.

        Args:
            partition: Default: all partitions and the system keys.
            expiring_within: Seconds before its end from which a key counts as ``expiring``.
        """
        found = [item async for item in self._records(partition)]
        parents = await self._parents([record for record, _ in found])
        found.sort(key=lambda item: (item[0].id, item[0].created))
        newest: dict[str, int] = {}
        for record, _ in found:
            if record.id not in newest or not self._lifetimes.dated_ahead(record.created):
                newest[record.id] = record.created
        return [
            KeyStatus(
                id=record.id,
                created=record.created,
                type="system" if name is None else "intermediate",
                partition=name,
                state=self._state(record, parents, expiring_within),
                expires=self._lifetimes.expires(record.created),
                latest=newest[record.id] == record.created,
            )
            for record, name in found
        ]

    async def _parents(self, records: Sequence[KeyRecord]) -> dict[_Place, KeyRecord | None]:
        """The system keys that wrap the intermediate ones of *records*."""
        known: dict[_Place, KeyRecord | None] = {
            (record.id, record.created): record for record in records
        }
        parents: dict[_Place, KeyRecord | None] = {}
        for record in records:
            if record.parent_id is None or record.parent_created is None:
                continue
            place = record.parent_id, record.parent_created
            if place not in parents:
                found = known.get(place)
                parents[place] = found or await self._store.load(*place)
        return parents

    def _state(
        self,
        record: KeyRecord,
        parents: Mapping[_Place, KeyRecord | None],
        expiring_within: float,
    ) -> State:
        now, expires = time.time(), self._lifetimes.expires(record.created)
        if record.revoked:
            return "revoked"
        if now >= expires:
            return "expired"
        if self._lifetimes.dated_ahead(record.created):
            return "future"
        if record.parent_id is not None and record.parent_created is not None:
            parent = parents[record.parent_id, record.parent_created]
            if parent is None or parent.revoked:
                return "barred"
        return "expiring" if now >= expires - expiring_within else "active"

    async def audit(self, *, expiring_within: float = 7 * 86400.0) -> Sequence[KeyStatus]:
        """All keys but the active ones; :attr:`KeyStatus.deserves_attention` tells which matter."""
        keys = await self.list(expiring_within=expiring_within)
        return [key for key in keys if key.state != "active"]

    async def rotate(self, partition: str | None = None) -> str:
        """Make a new key now: of *partition*, or the system key. Old keys go on opening.

        A new system key wraps the intermediate keys that are made from now on; the existing ones
        stay under theirs until they expire or are rotated.

        Returns:
            The id of the new key.
        """
        key_id = await self._hierarchy.rotate(partition)
        self._audited(partition, key_id, "rotate")
        return key_id

    async def rewrap_system(self) -> RewrapReport:
        """Wrap the hierarchy's system keys again, under the KMS's current master key.

        Each row is replaced only if it still has the wrapped key that was unwrapped: a revocation
        at the same time stays, and so does what another process rewrapped. The keys themselves
        stay as they are, and so does everything under them. May be repeated.

        Raises:
            ConfigurationError: The metastore cannot replace a wrapped key.
            MetastoreError: It did not answer, or a row changed at each attempt.
            KmsError: The KMS did not answer, or refused; rows done before stay so.
        """
        rewrapped = current = 0
        for found in await self._system_records():
            record: KeyRecord | None = found
            if self._hierarchy.owns(found.id) != (True, None):
                continue
            for _ in range(_REWRAP_ATTEMPTS):
                done = None if record is None else await self._hierarchy.rewrap(record)
                if done is not False:
                    break
                record = await self._store.load(found.id, found.created)
            else:
                raise MetastoreError(f"{found.id} of {found.created} changes all the time")
            if record is not None:
                rewrapped += bool(done)
                current += done is None
            if done:
                self._audited(None, found.id, "rewrap")
        return RewrapReport(rewrapped=rewrapped, current=current)

    async def master_versions(self) -> dict[int, int]:
        """How many system keys of the whole metastore, whatever their service, name each version
        of the KMS's master keys. A version that is missing here may be removed.

        Raises:
            ConfigurationError: The KMS has no versions.
        """
        version_of = getattr(self._hierarchy.kms, "version_of", None)
        if version_of is None:
            raise ConfigurationError(f"{type(self._hierarchy.kms).__name__} has no versions")
        counts: dict[int, int] = {}
        for record in await self._system_records():
            version = version_of(record.key)
            if version is not None:
                counts[version] = counts.get(version, 0) + 1
        return counts

    async def _system_records(self) -> Sequence[KeyRecord]:
        """The system keys of the whole metastore, whatever their service."""
        records: Any = self._store.records("_SK_")
        async with contextlib.aclosing(records) as found:
            return [record async for record in found]

    async def matching(
        self,
        *,
        key_id: str | None = None,
        partition: str | None = None,
        created_before: float | None = None,
        type: KeyType | None = None,
    ) -> Sequence[KeyStatus]:
        """The keys that :meth:`revoke` would take with these criteria, and those revoked already.

        Raises:
            ValueError: No criterion is given.
        """
        if key_id is None and partition is None and created_before is None and type is None:
            raise ValueError("a criterion is needed: key_id, partition, created_before or type")
        return [
            key
            for key in await self.list(partition)
            if (key_id is None or key.id == key_id)
            and (created_before is None or key.created < created_before)
            and (type is None or key.type == type)
        ]

    async def revoke(
        self,
        *,
        key_id: str | None = None,
        partition: str | None = None,
        created_before: float | None = None,
        type: KeyType | None = None,
    ) -> int:
        """Revoke the keys that match all of the criteria given; at least one is needed.

        A revoked key seals nothing new once every process has looked again (the policy's
        revoke-check interval), and goes on opening.

        Args:
            key_id: The exact id.
            partition: The partition's keys.
            created_before: Seconds since the epoch.
            type: ``system`` or ``intermediate``.

        Returns:
            How many keys are newly revoked.

        Raises:
            ValueError: No criterion is given.
        """
        found = await self.matching(
            key_id=key_id, partition=partition, created_before=created_before, type=type
        )
        count = 0
        touched: set[str | None] = set()
        for key in found:
            if key.state == "revoked":
                continue
            if await self._store.told("revoke", key.id, key.created):
                count += 1
                touched.add(key.partition)
                self._audited(key.partition, key.id, "revoke")
        if None in touched:  # a system key: all partitions' keys may be under it
            self._hierarchy.forget()
        for name in touched - {None}:
            self._hierarchy.forget(name)
        return count

    async def shred(
        self, partition: str, *, wait: bool = True, policies: Sequence[CryptoPolicy] = ()
    ) -> ShredReport:
        """Make everything that *partition* sealed unreadable, for good.

        Its keys are revoked; after the revoke-check interval plus the outage extension, when every
        process knows or has dropped them, they are deleted; after another tenth of the sum no
        process has them cached any more, not even one that is cut off from the metastore. Stop
        the partition's traffic first: what another process seals in this time is lost with the
        rest. Backups of the metastore undo it.

        Args:
            partition: Whose keys to delete.
            wait: Wait for the sum. Without it, other processes may go on opening until they look
                again.
            policies: The policies of all other services and processes that open this partition's
                data, if they differ from this hierarchy's: the longest sum counts.

        Returns:
            How many keys were deleted, how long it waited, and the sum.

        Raises:
            MetastoreError: The metastore did not answer; call it again.
        """
        longest = max(p.longest_use for p in (self._hierarchy.policy, *policies))
        await self.revoke(partition=partition)
        pause = longest if wait else 0.0
        await anyio.sleep(pause)
        count = 0
        for key in await self.list(partition):
            if await self._store.told("delete", key.id, key.created):
                count += 1
                self._audited(partition, key.id, "shred")
        self._hierarchy.forget(partition)
        await anyio.sleep(pause * REVOKED_STALE_AT)
        return ShredReport(
            partition=partition,
            keys_deleted=count,
            waited=pause * (1 + REVOKED_STALE_AT),
            longest_use=longest,
        )

    def _audited(
        self,
        partition: str | None,
        key_id: str,
        operation: Literal["revoke", "rotate", "rewrap", "shred"],
    ) -> None:
        if self._audit_hook is not None:
            self._audit_hook(AuditEvent(partition or "", key_id, operation, "ok"))
