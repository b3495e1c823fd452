"""The connections to a SQLite file, and what is in the file. Nothing here knows of a cache's rules.

A connection is used by one thread at a time and never by a forked child.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from anyseal._ffi import process_number
from anyseal.errors import BackendError

__all__ = ["PIECE_BYTES", "Pool"]

PIECE_BYTES = 256 << 10
"""A value that was written by pieces is kept in rows of this size; the last may be shorter."""

APPLICATION_ID = 0x616E7963
VERSION = 1

_REMOVE_PIECES = """BEGIN
    DELETE FROM pieces WHERE object = OLD.object;
    DELETE FROM objects WHERE object = OLD.object;
END"""

_TABLES = (
    """CREATE TABLE entries (
        name TEXT PRIMARY KEY NOT NULL,
        value BLOB,                -- NULL: the value is in pieces
        object INTEGER,
        size INTEGER NOT NULL,
        expires_ms INTEGER,        -- since the epoch; NULL: never
        accessed INTEGER NOT NULL  -- seconds since the epoch, coarse
    )""",
    "CREATE INDEX entries_by_expiry ON entries (expires_ms) WHERE expires_ms IS NOT NULL",
    "CREATE INDEX entries_by_access ON entries (accessed)",
    # AUTOINCREMENT: the number of an object that is gone is never given to another.
    "CREATE TABLE objects (object INTEGER PRIMARY KEY AUTOINCREMENT)",
    """CREATE TABLE pieces (
        id INTEGER PRIMARY KEY,
        object INTEGER NOT NULL,
        number INTEGER NOT NULL,
        value BLOB NOT NULL,
        UNIQUE (object, number)
    )""",
    f"""CREATE TRIGGER entry_deleted AFTER DELETE ON entries
    WHEN OLD.object IS NOT NULL {_REMOVE_PIECES}""",
    f"""CREATE TRIGGER entry_replaced AFTER UPDATE OF object ON entries
    WHEN OLD.object IS NOT NULL AND NEW.object IS NOT OLD.object {_REMOVE_PIECES}""",
)

_PASSING = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR", "SQLITE_FULL", "SQLITE_PROTOCOL")

_REFUSALS = ("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_TOOBIG", "SQLITE_PERM")
"""A write is refused; reads may still be answered."""

_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)

_inherited: list[sqlite3.Connection] = []
"""Connections of the parent: closing them here could undo the parent's file locks."""


def failure(path: Path, exc: sqlite3.Error | OSError) -> BackendError:
    """The error of ours for one of SQLite's. It repeats neither statements nor values."""
    if isinstance(exc, OSError):
        return BackendError(f"{path}: {exc.strerror}")
    what = getattr(exc, "sqlite_errorname", None) or type(exc).__name__
    error = BackendError(f"{path}: {what}")
    error.retryable = what.startswith(_PASSING)
    error.refused = what.startswith(_REFUSALS)
    return error


class Pool:
    """Connections to one file, opened when first needed."""

    def __init__(self, path: Path, *, durable: bool, timeout: float) -> None:
        self.path = path
        self._durable = durable
        self._timeout = timeout
        self._process = process_number()
        self._idle: deque[sqlite3.Connection] = deque()
        self._opening = threading.Lock()
        self._closed = 0

    def close(self) -> None:
        """Close what is idle, and the rest when its call ends. A later call opens anew."""
        self._leave_to_parent()
        self._closed += 1
        while self._idle:
            with contextlib.suppress(IndexError):
                self._idle.pop().close()

    def _leave_to_parent(self) -> None:
        if self._process != process_number():
            _inherited.extend(self._idle)
            self._idle, self._opening, self._process = deque(), threading.Lock(), process_number()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for single statements that read."""
        self._leave_to_parent()
        closed = self._closed
        try:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._open()
        except (sqlite3.Error, OSError) as exc:
            raise failure(self.path, exc) from None
        try:
            yield connection
        except BaseException as exc:
            connection.close()  # with all that it had begun
            if isinstance(exc, sqlite3.Error):
                raise failure(self.path, exc) from None
            raise
        if closed == self._closed:
            self._idle.append(connection)
        else:
            connection.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction that may write, committed at the end."""
        with self.reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    def _open(self) -> sqlite3.Connection:
        # Made before SQLite makes it: the log and the index beside it take over its mode.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            os.close(os.open(self.path, flags, 0o600))
        except OSError as exc:
            if exc.errno not in _READ_ONLY or not self.path.exists():
                raise  # else SQLite may read it all the same, and refuses writes
        connection = sqlite3.connect(
            self.path, timeout=self._timeout, isolation_level=None, check_same_thread=False
        )
        try:
            with self._opening:
                self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (found,) = connection.execute("PRAGMA application_id").fetchone()
        if found != APPLICATION_ID:
            self._set_up(connection)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            raise self._unusable(f"a cache of version {version}")
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
        connection.execute("PRAGMA journal_size_limit = 67108864")

    def _set_up(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN EXCLUSIVE")  # of several processes, one makes the tables
        (found,) = connection.execute("PRAGMA application_id").fetchone()
        if found != APPLICATION_ID:
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if found or tables:
                raise self._unusable("a database of something else")
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")

    def _unusable(self, what: str) -> BackendError:
        error = BackendError(f"{self.path}: {what}")
        error.retryable = False
        return error
