"""What a key hierarchy stands on: a KMS and a metastore."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol, runtime_checkable

from anyseal.ports._checked import Checked
from anyseal.record import KeyRecord

__all__ = ["KeyRecord", "Kms", "Metastore", "MetastoreAdmin"]


@runtime_checkable
class Kms(Protocol, metaclass=Checked):
    """Wraps system keys with a key that never leaves the service.

    Both raise KmsError, with ``retryable`` where trying again can help. A KMS may have an
    ``aclose``, which is awaited in the end, and say ``testing = True`` if it protects nothing: it
    is then refused together with a metastore that does not say so, too.

    A KMS that binds what it wraps to its row offers ``wrap_for(key, key_id, created)`` and
    ``unwrap_for(wrapped, key_id, created)`` besides; a hierarchy then calls these. One whose master
    keys rotate may tell ``await is_current(wrapped)`` and ``version_of(wrapped)``.
    """

    async def wrap(self, key: bytearray) -> bytes:
        """32 secret bytes as a blob that only the service can undo. *key* is wiped afterwards."""
        ...

    async def unwrap(self, wrapped: bytes) -> bytes | bytearray:
        """The 32 bytes in *wrapped*. A bytearray is wiped by the caller."""
        ...


@runtime_checkable
class Metastore(Protocol, metaclass=Checked):
    """Keeps wrapped keys by (id, created). All raise MetastoreError.

    A metastore may say ``testing = True`` if it does not last, and have a ``region_suffix``: what
    ids of new keys must end with where several regions share one table, or None. It may offer
    ``load_latest_before(key_id, created)``: the record with this id and the latest time before
    *created*, or None. That is asked for while a wrong clock's key, dated in the future, is the
    latest; without it, a MetastoreAdmin's ``versions`` are read. And it may offer
    ``check_table()``, which raises where there is no table: a factory asks it when it starts.
    """

    async def load(self, key_id: str, created: int) -> KeyRecord | None:
        """The record with exactly this id and time, or None."""
        ...

    async def load_latest(self, key_id: str) -> KeyRecord | None:
        """The record with this id and the latest time, or None."""
        ...

    async def store(self, record: KeyRecord) -> bool:
        """Insert *record* unless its id and time are taken; whether it was inserted."""
        ...

    async def aclose(self) -> None:
        """Let go of connections. Idempotent."""
        ...


@runtime_checkable
class MetastoreAdmin(Metastore, Protocol, metaclass=Checked):
    """A metastore that can also be looked through and changed."""

    def records(self, key_id_prefix: str = "") -> AsyncIterator[KeyRecord]:
        """All records whose id begins with *key_id_prefix*, by id and time."""
        ...

    def versions(self, key_id: str) -> AsyncIterator[KeyRecord]:
        """All records with exactly this id, oldest first."""
        ...

    async def revoke(self, key_id: str, created: int) -> bool:
        """Mark a record as revoked; whether it was there."""
        ...

    async def delete(self, key_id: str, created: int) -> bool:
        """Delete a record; whether it was there."""
        ...

    # Optional, for rewrapping system keys: ``async def replace_key(record, key) -> bool`` replaces
    # the wrapped key of *record* by *key* if the row still has that of *record*; whether it had.
