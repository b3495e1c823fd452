"""Where the users' wrapped keys are kept: the port, and a table in memory."""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

from anyseal.ports._checked import Checked

__all__ = ["MemoryUserKeyTable", "UserKeyRow", "UserKeyTable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserKeyRow:
    """One key of one user, wrapped."""

    user_id: str
    encrypted_key: bytes = field(repr=False)
    """``nonce 12 ‖ ciphertext 32 ‖ tag 16`` under the master key."""
    key_version: str
    """SHA-256 of the raw key, in hexadecimal."""
    is_active: bool = True
    created: datetime = field(default_factory=lambda: datetime.now(UTC))


@runtime_checkable
class UserKeyTable(Protocol, metaclass=Checked):
    """Keeps the rows. Blocking; called from several threads at once. All raise MetastoreError.

    Of one user's rows at most one is active, whatever workers do at the same time: the two
    writing calls are transactions that exclude each other.
    """

    def active(self, user_id: str) -> UserKeyRow | None:
        """The user's active row."""
        ...

    def by_version(self, user_id: str, key_version: str) -> UserKeyRow | None:
        """The user's row of this version, active or not."""
        ...

    def insert_first(self, row: UserKeyRow) -> UserKeyRow:
        """Insert *row* unless the user has an active one; the row that is active then."""
        ...

    def replace_active(self, row: UserKeyRow) -> None:
        """Deactivate what the user has, and insert *row* as the active one."""
        ...


class MemoryUserKeyTable:
    """Rows in this process, for tests: gone with it, and with them all that they encrypted."""

    def __init__(self) -> None:
        self._rows: dict[str, list[UserKeyRow]] = {}
        self._lock = threading.Lock()

    def active(self, user_id: str) -> UserKeyRow | None:
        """As :meth:`UserKeyTable.active`."""
        with self._lock:
            return next((row for row in self._rows.get(user_id, ()) if row.is_active), None)

    def by_version(self, user_id: str, key_version: str) -> UserKeyRow | None:
        """As :meth:`UserKeyTable.by_version`."""
        with self._lock:
            rows = self._rows.get(user_id, ())
            return next((row for row in rows if row.key_version == key_version), None)

    def insert_first(self, row: UserKeyRow) -> UserKeyRow:
        """As :meth:`UserKeyTable.insert_first`."""
        with self._lock:
            rows = self._rows.setdefault(row.user_id, [])
            for known in rows:
                if known.is_active:
                    return known
            rows.append(row)
            return row

    def replace_active(self, row: UserKeyRow) -> None:
        """As :meth:`UserKeyTable.replace_active`."""
        with self._lock:
            rows = self._rows.setdefault(row.user_id, [])
            rows[:] = [dataclasses.replace(known, is_active=False) for known in rows]
            rows.append(row)
