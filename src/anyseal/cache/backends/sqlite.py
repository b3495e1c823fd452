"""Entries in a SQLite file, shared by the processes of one machine."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from anyseal.cache.backends._sqlite_pool import PIECE_BYTES, Pool
from anyseal.cache.backends._threads import ThreadedRangedBackend
from anyseal.errors import BackendError, ConfigurationError
from anyseal.hints import as_path

__all__ = ["BlockingSQLiteBackend", "SQLiteBackend"]

_BATCH = 500
"""Names in one list of a scan."""

_SWEEP = 16
"""Expired entries that each write removes beside its own work."""

_ACCESS_SECONDS = 60
"""How coarse the time of the last use is; writing it down on each read would cost a write."""

_ACCESSES_MAX = 256


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class BlockingSQLiteBackend:
    """Entries in a SQLite file. For sync code.

    Safe to use from several threads and several processes, also after a fork. A process that is
    killed loses nothing that was stored before.

    Args:
        path: The file; made at the first call, with mode 0600, in a folder that exists. Not on a
            network file system.
        max_bytes: About the most that the entries may take in the file; the least recently used
            are evicted (to the minute). None: no limit.
        durable: Whether a write also waits for the disk, and so survives a power failure.
        timeout: Seconds to wait for another process that writes.

    Raises:
        ConfigurationError: *path* is no file's, or a number is not positive.

    Cost: one transaction a call; a value written in pieces is read and written a piece at a time.
    """

    enforces_timeout = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int | None = None,
        durable: bool = False,
        timeout: float = 5.0,
    ) -> None:
        if path != "":
            path = as_path(path)
        if not os.fspath(path) or os.fspath(path).startswith(":"):
            raise ConfigurationError("SQLiteBackend needs the path of a file")
        if os.fspath(path).startswith("sqlite:"):
            raise ConfigurationError("path is a URL: backend_from_url(url) takes one")
        if (max_bytes is not None and max_bytes < 1) or timeout <= 0:
            raise ConfigurationError("max_bytes and timeout must be positive")
        self._max_bytes = max_bytes
        self._pool = Pool(Path(path).absolute(), durable=durable, timeout=timeout)
        self._used: dict[str, None] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._pool.path)!r})"

    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """The values, in the order of *names*; None for what is not there."""
        found: dict[str, bytes | dict[int, bytes]] = {}
        now = _now_ms()
        with self._pool.reading() as connection:
            for name, value, accessed, number, piece in connection.execute(
                "SELECT name, e.value, accessed, number, p.value FROM entries e"
                " LEFT JOIN pieces p ON p.object = e.object"
                " WHERE name IN (SELECT value FROM json_each(?))"
                " AND (expires_ms IS NULL OR expires_ms > ?)",
                (_listed(names), now),
            ):
                if number is None:
                    found[name] = value if value is not None else b""
                else:
                    pieces = found.setdefault(name, {})
                    assert isinstance(pieces, dict)
                    pieces[number] = piece
                if accessed < now // 1000 - _ACCESS_SECONDS and self._max_bytes is not None:
                    self._used[name] = None
            with contextlib.suppress(sqlite3.OperationalError):  # others write: it can wait
                self._note_accesses(connection)
        return [_whole(found.get(name)) for name in names]

    def _note_accesses(self, connection: sqlite3.Connection, at_least: int = _ACCESSES_MAX) -> None:
        if len(self._used) < at_least:
            return
        used, self._used = self._used, {}
        connection.execute(
            "UPDATE entries SET accessed = ? WHERE name IN (SELECT value FROM json_each(?))",
            (int(time.time()), _listed(used)),
        )

    def set(
        self, name: str, value: bytes, *, ttl_ms: int | None = None, if_absent: bool = False
    ) -> bool:
        """Store *value*; False if *if_absent* forbids it, or it is larger than all may be."""
        with self._pool.writing() as connection:
            return self._store(connection, name, value, ttl_ms, if_absent)

    def _store(
        self,
        connection: sqlite3.Connection,
        name: str,
        value: bytes,
        ttl_ms: int | None,
        if_absent: bool = False,
    ) -> bool:
        now = _now_ms()
        if self._max_bytes is not None and len(value) > self._max_bytes:
            if not if_absent:
                connection.execute("DELETE FROM entries WHERE name = ?", (name,))
            return False
        stored = connection.execute(
            "INSERT INTO entries (name, value, size, expires_ms, accessed) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value, object = NULL,"
            " size = excluded.size, expires_ms = excluded.expires_ms, accessed = excluded.accessed"
            " WHERE NOT ? OR entries.expires_ms <= ?",
            (name, value, len(value), _expires(now, ttl_ms), now // 1000, if_absent, now),
        )
        self._tidy(connection, now)
        return stored.rowcount > 0

    def compare_and_set(
        self, name: str, expected: bytes, value: bytes | None, *, ttl_ms: int | None = None
    ) -> bool:
        """Replace *expected* by *value* (None: delete) in one step; whether it was there."""
        now = _now_ms()
        with self._pool.writing() as connection:
            row = connection.execute(
                "SELECT value, object FROM entries WHERE name = ? AND size = ?"
                " AND (expires_ms IS NULL OR expires_ms > ?)",
                (name, len(expected), now),
            ).fetchone()
            if row is None or not _is(connection, row[0], row[1], memoryview(expected)):
                return False
            if value is None:
                connection.execute("DELETE FROM entries WHERE name = ?", (name,))
            else:
                self._store(connection, name, value, ttl_ms)
            return True

    def delete_many(self, names: Sequence[str]) -> int:
        """Delete what is there of *names*; how many that were."""
        if not names:
            return 0
        with self._pool.writing() as connection:
            return _delete(connection, names)

    def scan(self, prefix: str) -> Iterator[list[str]]:
        """The names that begin with *prefix*, in order, in lists; those of this moment at least."""
        last = ""
        while True:
            with self._pool.reading() as connection:
                rows = connection.execute(
                    "SELECT name, expires_ms FROM entries WHERE name >= ? AND name > ?"
                    " AND name < ? ORDER BY name LIMIT ?",
                    (prefix, last, prefix + "\x7f", _BATCH),
                ).fetchall()
            now = _now_ms()
            names = [name for name, expires in rows if expires is None or expires > now]
            if names:
                yield names
            if len(rows) < _BATCH:
                return
            last = rows[-1][0]

    def put_range(self, name: str, offset: int, data: bytes, *, ttl_ms: int) -> None:
        """Write *data* at *offset*; the value lives *ttl_ms* from now.

        Raises:
            BackendError: *offset* is beyond the end, or the value larger than all may be.
        """
        now = _now_ms()
        end = offset + len(data)
        if self._max_bytes is not None and end > self._max_bytes:
            error = BackendError("the value is larger than the backend's max_bytes")
            error.retryable, error.refused = False, True
            raise error
        with self._pool.writing() as connection:
            object, size = _in_pieces(connection, name, now)
            if not 0 <= offset <= size:
                raise BackendError("the pieces before this one are gone")
            _write(connection, object, size, offset, memoryview(data))
            connection.execute(
                "UPDATE entries SET size = ?, expires_ms = ?, accessed = ? WHERE name = ?",
                (max(size, end), _expires(now, ttl_ms), now // 1000, name),
            )
            self._tidy(connection, now)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Up to *length* bytes from *offset*; fewer at the end, none if there is no value."""
        first, last = offset // PIECE_BYTES, (offset + length - 1) // PIECE_BYTES
        with self._pool.reading() as connection:
            rows = connection.execute(
                "SELECT substr(e.value, ?, ?), number, p.value FROM entries e"
                " LEFT JOIN pieces p ON p.object = e.object AND number BETWEEN ? AND ?"
                " WHERE name = ? AND (expires_ms IS NULL OR expires_ms > ?) ORDER BY number",
                (offset + 1, length, first, last, name, _now_ms()),
            ).fetchall()
        if not rows or rows[0][1] is None:
            return bytes(rows[0][0] or b"") if rows else b""
        start = offset - rows[0][1] * PIECE_BYTES
        if len(rows) == 1:
            return bytes(memoryview(rows[0][2])[start : start + length])
        with memoryview(b"".join(piece for _, _, piece in rows)) as whole:
            return bytes(whole[start : start + length])

    def publish(
        self, temporary: str, final: str, name: str, value: bytes, *, ttl_ms: int | None
    ) -> bool:
        """Rename *temporary* to *final* and store *value* under *name*, in one step.

        False if *temporary* is gone.
        """
        now = _now_ms()
        with self._pool.writing() as connection:
            there = connection.execute(
                "SELECT 1 FROM entries WHERE name = ? AND (expires_ms IS NULL OR expires_ms > ?)",
                (temporary, now),
            ).fetchone()
            if there is None:
                return False
            connection.execute("DELETE FROM entries WHERE name = ?", (final,))
            connection.execute(
                "UPDATE entries SET name = ?, expires_ms = ?, accessed = ? WHERE name = ?",
                (final, _expires(now, ttl_ms), now // 1000, temporary),
            )
            return self._store(connection, name, value, ttl_ms)

    def take_lease(
        self, lock: str, owner: bytes, name: str, *, ttl_ms: int
    ) -> tuple[bool, bytes | None]:
        """Store *owner* under *lock* if there is none; whether it was, and what is under *name*."""
        taken = self.set(lock, owner, ttl_ms=ttl_ms, if_absent=True)
        return taken, self.get_many([name])[0]

    def settle(
        self, name: str, value: bytes, lock: str, owner: bytes, *,
        others: Sequence[str] = (), ttl_ms: int | None = None,
    ) -> bool:  # fmt: skip
        """If *lock* is *owner*'s, store *value* and delete *lock* and *others*; whether it was."""
        with self._pool.writing() as connection:
            held = connection.execute(
                "DELETE FROM entries WHERE name = ? AND value = ?"
                " AND (expires_ms IS NULL OR expires_ms > ?)",
                (lock, owner, _now_ms()),
            )
            if not held.rowcount:
                return False
            _delete(connection, others)
            return self._store(connection, name, value, ttl_ms)

    def set_and_delete(
        self, name: str, value: bytes, others: Sequence[str], *, ttl_ms: int | None = None
    ) -> bool:
        """Store *value* and delete *others*; False if it is larger than all may be."""
        with self._pool.writing() as connection:
            _delete(connection, others)
            return self._store(connection, name, value, ttl_ms)

    def delete_beside(self, names: Sequence[str], others: Sequence[str]) -> int:
        """Delete *names* and *others*; how many of *names* were there."""
        with self._pool.writing() as connection:
            _delete(connection, others)
            return _delete(connection, names)

    def _tidy(self, connection: sqlite3.Connection, now: int) -> None:
        """Remove a few expired entries, and the least recently used if there is too much."""
        connection.execute(
            "DELETE FROM entries WHERE rowid IN"
            " (SELECT rowid FROM entries WHERE expires_ms <= ? LIMIT ?)",
            (now, _SWEEP),
        )
        if self._max_bytes is None:
            return
        self._note_accesses(connection, 1)
        too_much = _bytes_in_use(connection) - self._max_bytes
        if too_much <= 0:
            return
        too_much += self._max_bytes // 16  # so that the next writes need not evict again
        doomed: list[tuple[int]] = []
        for rowid, size in connection.execute(
            "SELECT rowid, size + length(name) + 64 FROM entries ORDER BY accessed, rowid"
        ):
            if too_much <= 0:
                break
            doomed.append((rowid,))
            too_much -= size
        if doomed and too_much > 0:
            doomed.pop()  # all of them: the newest is what is being written
        connection.executemany("DELETE FROM entries WHERE rowid = ?", doomed)

    def close(self) -> None:
        """Close the connections. Idempotent; a later call opens new ones."""
        self._pool.close()


def _delete(connection: sqlite3.Connection, names: Sequence[str]) -> int:
    """Delete what is there of *names*; how many that were."""
    return connection.execute(
        "DELETE FROM entries WHERE name IN (SELECT value FROM json_each(?))"
        " AND (expires_ms IS NULL OR expires_ms > ?)",
        (_listed(names), _now_ms()),
    ).rowcount


def _expires(now: int, ttl_ms: int | None) -> int | None:
    return None if ttl_ms is None else now + ttl_ms


def _listed(names: Sequence[str] | dict[str, None]) -> str:
    """*names* as the one parameter that json_each takes."""
    return json.dumps(list(names))


def _whole(found: bytes | dict[int, bytes] | None) -> bytes | None:
    if isinstance(found, dict):
        return b"".join(found[number] for number in sorted(found))
    return found


def _bytes_in_use(connection: sqlite3.Connection) -> int:
    values = [
        connection.execute(f"PRAGMA {what}").fetchone()[0]
        for what in ("page_count", "freelist_count", "page_size")
    ]
    return int((values[0] - values[1]) * values[2])


def _is(
    connection: sqlite3.Connection, value: bytes | None, object: int | None, expected: memoryview
) -> bool:
    """Whether the value, of the same size, is *expected*; pieces are compared one by one."""
    if object is None:
        return value is not None and expected == value
    at = 0
    for (piece,) in connection.execute(
        "SELECT value FROM pieces WHERE object = ? ORDER BY number", (object,)
    ):
        if expected[at : at + len(piece)] != piece:
            return False
        at += len(piece)
    return at == len(expected)


def _in_pieces(connection: sqlite3.Connection, name: str, now: int) -> tuple[int, int]:
    """The object and size of an entry that is kept in pieces from now on; made if it is not there.

    In the caller's transaction.
    """
    row = connection.execute(
        "SELECT object, size, value FROM entries WHERE name = ?"
        " AND (expires_ms IS NULL OR expires_ms > ?)",
        (name, now),
    ).fetchone()
    if row is not None and row[0] is not None:
        return row[0], row[1]
    object = connection.execute("INSERT INTO objects DEFAULT VALUES").lastrowid
    assert object is not None
    size, value = (0, b"") if row is None else (row[1], row[2])
    _write(connection, object, 0, 0, memoryview(value))
    connection.execute(
        "INSERT INTO entries (name, object, size, accessed) VALUES (?, ?, ?, ?) ON CONFLICT (name)"
        " DO UPDATE SET object = excluded.object, value = NULL, size = excluded.size",
        (name, object, size, now // 1000),
    )
    return object, size


def _write(
    connection: sqlite3.Connection, object: int, size: int, offset: int, data: memoryview
) -> None:
    """Write *data* into the pieces of an object of *size* bytes."""
    at = 0
    while at < len(data):
        number, start = divmod(offset + at, PIECE_BYTES)
        part = data[at : at + PIECE_BYTES - start]
        at += len(part)
        there = min(PIECE_BYTES, size - number * PIECE_BYTES)
        value: memoryview | bytearray = part
        if start or len(part) < there:
            (old,) = connection.execute(
                "SELECT value FROM pieces WHERE object = ? AND number = ?", (object, number)
            ).fetchone()
            value = bytearray(old)
            value[start : start + len(part)] = part
        connection.execute(
            "INSERT INTO pieces (object, number, value) VALUES (?, ?, ?)"
            " ON CONFLICT (object, number) DO UPDATE SET value = excluded.value",
            (object, number, value),
        )


class SQLiteBackend(ThreadedRangedBackend[BlockingSQLiteBackend]):
    """Entries in a SQLite file, shared by the processes of one machine.

    Every call runs in a worker thread. Safe to use from several event loops.

    Args:
        path: The file; made at the first call, with mode 0600, in a folder that exists. Not on a
            network file system.
        max_bytes: About the most that the entries may take in the file; the least recently used
            are evicted (to the minute). None: no limit.
        durable: Whether a write also waits for the disk, and so survives a power failure.
        timeout: Seconds to wait for another process that writes.

    Raises:
        ConfigurationError: *path* is no file's, or a number is not positive.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int | None = None,
        durable: bool = False,
        timeout: float = 5.0,
    ) -> None:
        super().__init__(
            BlockingSQLiteBackend(path, max_bytes=max_bytes, durable=durable, timeout=timeout)
        )
