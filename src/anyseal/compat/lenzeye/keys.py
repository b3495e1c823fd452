"""The users' keys: 32 random bytes each, wrapped by the master key in a table.

A rotation re-encrypts nothing: what was written before names its key's version and goes on
opening. The functions block; their ``_async`` twins wait in worker threads.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Any

from anyseal import offload
from anyseal.compat.lenzeye.errors import InvalidTagError
from anyseal.compat.lenzeye.master import KEY_BYTES, open_under_master, seal_under_master
from anyseal.compat.lenzeye.tables import UserKeyRow, UserKeyTable
from anyseal.errors import ConfigurationError, KeyNotFoundError

__all__ = [
    "get_or_create_user_key",
    "get_or_create_user_key_async",
    "get_user_key",
    "get_user_key_async",
    "rotate_user_key",
    "rotate_user_key_async",
    "set_user_key_table",
]

_USER_ID_MAX = 255
_default: list[UserKeyTable] = []


def set_user_key_table(table: UserKeyTable | None) -> None:
    """Let the functions that are given no ``table=`` use *table*; None: none."""
    if table is not None and not isinstance(table, UserKeyTable):
        raise TypeError(f"expected a UserKeyTable, not {type(table).__name__}")
    _default[:] = [] if table is None else [table]


def _table(table: UserKeyTable | None) -> UserKeyTable:
    if table is not None:
        return table
    if not _default:
        raise ConfigurationError("no key table: call set_user_key_table(), or give table=")
    return _default[0]


def user_id(user: Any) -> str:
    """The name of a user's rows: *user* itself (str or int), or its ``pk`` or ``id``."""
    if not isinstance(user, (str, int)):
        user = getattr(user, "pk", None) or getattr(user, "id", None)
    if isinstance(user, bool) or not isinstance(user, (str, int)):
        raise TypeError("user must be a str or an int, or have one as its pk or id")
    text = str(user)
    if not 1 <= len(text) <= _USER_ID_MAX:
        raise ValueError(f"a user's id has 1 to {_USER_ID_MAX} characters")
    return text


def key_version_of(key: bytes) -> str:
    """SHA-256 of a raw key, in hexadecimal."""
    return hashlib.sha256(key).hexdigest()


def _fresh(user: str) -> tuple[bytes, UserKeyRow]:
    key = os.urandom(KEY_BYTES)
    row = UserKeyRow(
        user_id=user, encrypted_key=seal_under_master(key), key_version=key_version_of(key)
    )
    return key, row


def _unwrap(row: UserKeyRow) -> bytes:
    key = open_under_master(row.encrypted_key, KEY_BYTES)
    if not hmac.compare_digest(key_version_of(key).encode(), row.key_version.encode()):
        raise InvalidTagError
    return key


def get_or_create_user_key(user: Any, *, table: UserKeyTable | None = None) -> tuple[bytes, str]:
    """The user's active key; made if there is none, once, however many workers ask at a time.

    Args:
        user: A str or int, or an object whose ``pk`` or ``id`` is one.
        table: Where the keys are. Default: that of :func:`set_user_key_table`.

    Returns:
        ``(raw_key, key_version)``: 32 bytes, and their SHA-256 as 64 hexadecimal characters.

    Raises:
        ConfigurationError: ``MASTER_KEY`` is missing or malformed, or there is no table.
        InvalidTagError: The row was altered, or another master key wrapped it.
        MetastoreError: The table did not answer.

    Cost: one query; a few more when the key is made. Blocks; see the ``_async`` twin.
    """
    rows, name = _table(table), user_id(user)
    row = rows.active(name)
    if row is None:
        row = rows.insert_first(_fresh(name)[1])
    return _unwrap(row), row.key_version


def get_user_key(user: Any, key_version: str, *, table: UserKeyTable | None = None) -> bytes:
    """The user's key of this version, active or not: what an object's metadata names.

    Args:
        user: As for :func:`get_or_create_user_key`.
        key_version: 64 hexadecimal characters.
        table: As for :func:`get_or_create_user_key`.

    Raises:
        KeyNotFoundError: This user has no such key.
        InvalidTagError, ConfigurationError, MetastoreError: As for get_or_create_user_key.
    """
    if not isinstance(key_version, str):
        raise TypeError(f"key_version must be str, not {type(key_version).__name__}")
    row = _table(table).by_version(user_id(user), key_version.lower())
    if row is None:
        raise KeyNotFoundError("the user has no key of this version")
    return _unwrap(row)


def rotate_user_key(user: Any, *, table: UserKeyTable | None = None) -> str:
    """Make a new key the user's active one. The old ones stay, for what they encrypted.

    Returns:
        The new key's version.

    Raises:
        ConfigurationError, MetastoreError: As for :func:`get_or_create_user_key`.
    """
    row = _fresh(user_id(user))[1]
    _table(table).replace_active(row)
    return row.key_version


async def get_or_create_user_key_async(
    user: Any, *, table: UserKeyTable | None = None
) -> tuple[bytes, str]:
    """:func:`get_or_create_user_key` in a worker thread."""
    return await offload.run_waiting(lambda: get_or_create_user_key(user, table=table))


async def get_user_key_async(
    user: Any, key_version: str, *, table: UserKeyTable | None = None
) -> bytes:
    """:func:`get_user_key` in a worker thread."""
    return await offload.run_waiting(lambda: get_user_key(user, key_version, table=table))


async def rotate_user_key_async(user: Any, *, table: UserKeyTable | None = None) -> str:
    """:func:`rotate_user_key` in a worker thread."""
    return await offload.run_waiting(lambda: rotate_user_key(user, table=table))
