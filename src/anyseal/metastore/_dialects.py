"""What differs between SQLite, PostgreSQL and MySQL: statements, times, sessions, errors.

Statements are text rather than SQLAlchemy's expressions: what they say about time zones and
collations is the point, and should be seen as the database sees it. Names in them are checked;
all else is bound.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import TextClause

from anyseal.errors import ConfigurationError, FormatError, MetastoreError
from anyseal.metastore._rules import RECORD_MAX_BYTES

__all__ = ["Dialect", "MySql", "PostgreSql", "Sqlite", "Statements", "dialect"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}(\.[A-Za-z_][A-Za-z0-9_]{0,62})?", re.ASCII)
_ZONE = re.compile(r"[+-][0-9]{2}:[0-9]{2}|[A-Za-z][A-Za-z0-9_+/-]{0,63}", re.ASCII)
_CONSISTENCY = ("eventual", "global", "session")
_WALL_CLOCK = "%Y-%m-%d %H:%M:%S"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statements:
    """The statements for one table, once its columns are known."""

    load: TextClause
    latest: TextClause
    latest_before: TextClause
    insert: TextClause
    first_page: TextClause
    next_page: TextClause
    versions: TextClause
    replace: TextClause
    delete: TextClause


class Dialect:
    """One database's ways. Subclasses fill in what differs."""

    name: str
    quote = '"'
    creates_table = False
    conflict = " ON CONFLICT (id, created) DO NOTHING"

    def __init__(self, table: str) -> None:
        if not _NAME.fullmatch(table):
            raise ConfigurationError("table must be a name, or a schema's and a table's")
        q = self.quote
        self.table = ".".join(f"{q}{part}{q}" for part in table.split("."))

    def bind_time(self, created: int) -> Any:
        """*created* as the statements take it."""
        return datetime.fromtimestamp(created, UTC).strftime(_WALL_CLOCK)

    def read_time(self, stored: Any) -> int:
        """The time of a row as the statements give it."""
        try:
            wall_clock = datetime.strptime(str(stored), _WALL_CLOCK)
        except ValueError:
            raise FormatError("a row's created is not YYYY-MM-DD HH:MM:SS") from None
        return int(wall_clock.replace(tzinfo=UTC).timestamp())

    def session(
        self, *, time_zone: str, replica_consistency: str | None, timeout: float | None
    ) -> Sequence[str]:
        """What a new connection is told."""
        raise NotImplementedError

    def ddl(self) -> str:
        """The table, if it does not exist."""
        raise NotImplementedError

    def probe(self) -> str:
        """A statement without rows that shows the columns' types."""
        return f"SELECT id, created, key_record FROM {self.table} LIMIT 0"  # noqa: S608

    def probe_unique(self) -> str | None:
        """A statement for ``check_unique``, where an insert would not notice what is missing."""
        return None

    def check_unique(self, rows: Sequence[Any]) -> None:
        """Refuse a table that would take two records with the same id and time."""

    def statements(self, description: Sequence[Sequence[Any]]) -> Statements:
        """The statements for columns of these types (the cursor's description of the probe)."""
        raise NotImplementedError

    def is_duplicate(self, error: BaseException) -> bool:
        """Whether an insert failed because its id and time are taken."""
        return False

    def is_retryable(self, error: BaseException) -> bool:
        """Whether the driver's *error* may go away by itself."""
        raise NotImplementedError

    def is_missing_table(self, error: BaseException) -> bool:
        """Whether the driver's *error* says that there is no such table."""
        raise NotImplementedError

    def _build(
        self,
        *,
        time: str,
        read_time: str,
        record: str,
        same_id: str = "id = :id",
        prefix: str,
        keep_time: str = "",
        octets: str = "{}",
    ) -> Statements:
        table = self.table
        # No more of a record than is looked at: any row may be huge.
        columns = f"id, {read_time}, substr({record}, 1, {RECORD_MAX_BYTES + 1})"
        row = f"{same_id} AND created = {time}"
        page = f"SELECT {columns} FROM {table} WHERE {prefix}"  # noqa: S608
        order = " ORDER BY id, created LIMIT :limit"
        after = f" AND id >= :id AND (id > :id OR created > {time})"
        one_id = f"SELECT {columns} FROM {table} WHERE {same_id}"  # noqa: S608
        chosen = f"{one_id} ORDER BY created"
        return Statements(
            load=sa.text(f"SELECT {columns} FROM {table} WHERE {row}"),  # noqa: S608
            latest=sa.text(f"{chosen} DESC LIMIT 1"),
            latest_before=sa.text(f"{one_id} AND created < {time} ORDER BY created DESC LIMIT 1"),
            versions=sa.text(chosen),
            insert=sa.text(
                f"INSERT INTO {table} (id, created, key_record) "  # noqa: S608
                f"VALUES (:id, {time}, :record){self.conflict}"
            ),
            first_page=sa.text(page + order),
            next_page=sa.text(page + after + order),
            replace=sa.text(
                f"UPDATE {table} SET key_record = :record{keep_time} "  # noqa: S608
                f"WHERE {row} AND {octets.format(record)} = {octets.format(':old')}"
            ),
            delete=sa.text(f"DELETE FROM {table} WHERE {row}"),  # noqa: S608
        )


class Sqlite(Dialect):
    """``created`` is text, which sorts by time."""

    name = "SQLite"
    creates_table = True

    def session(
        self, *, time_zone: str, replica_consistency: str | None, timeout: float | None
    ) -> Sequence[str]:
        if replica_consistency is not None:
            raise ConfigurationError("replica_consistency is for Aurora, not for SQLite")
        return ()

    def ddl(self) -> str:
        return (
            f"CREATE TABLE IF NOT EXISTS {self.table} (id TEXT NOT NULL, "
            "created TIMESTAMP NOT NULL, key_record TEXT NOT NULL, PRIMARY KEY (id, created))"
        )

    def statements(self, description: Sequence[Sequence[Any]]) -> Statements:
        return self._build(
            time=":created",
            read_time="created",
            record="key_record",
            prefix="substr(id, 1, length(:prefix)) = :prefix",
        )

    def is_missing_table(self, error: BaseException) -> bool:
        return "no such table" in str(error)

    def is_retryable(self, error: BaseException) -> bool:
        code = getattr(error, "sqlite_errorcode", None)
        return code is not None and code & 0xFF in (
            sqlite3.SQLITE_BUSY,
            sqlite3.SQLITE_FULL,
            sqlite3.SQLITE_INTERRUPT,
            sqlite3.SQLITE_IOERR,
            sqlite3.SQLITE_LOCKED,
            sqlite3.SQLITE_NOMEM,
            sqlite3.SQLITE_PROTOCOL,
        )


class PostgreSql(Dialect):
    """Times are bound and read so that the session's time zone does not matter."""

    name = "PostgreSQL"
    _TIMESTAMP, _TIMESTAMPTZ = 1114, 1184
    _RECORD = (25, 114, 1043, 3802)  # text, json, varchar, jsonb
    _RETRYABLE = ("08", "40", "53", "57", "58", "25006", "55P03")
    _HOPELESS = ("authentication failed", "no pg_hba.conf entry", "does not exist", "not permitted")

    def bind_time(self, created: int) -> Any:
        return created

    def read_time(self, stored: Any) -> int:
        if not isinstance(stored, int):
            raise FormatError("a row's created is not a finite time")
        return stored

    def session(
        self, *, time_zone: str, replica_consistency: str | None, timeout: float | None
    ) -> Sequence[str]:
        told = ["SET TIME ZONE 'UTC'"]
        if timeout is not None:
            told.append(f"SET statement_timeout = {max(1, int(timeout * 1000))}")
        if replica_consistency is not None:
            told.append(f"SET apg_write_forward.consistency_mode = '{replica_consistency}'")
        return told

    def ddl(self) -> str:
        return (
            f"CREATE TABLE IF NOT EXISTS {self.table} (id VARCHAR(255) NOT NULL, "
            "created TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP, key_record JSONB NOT NULL, "
            "PRIMARY KEY (id, created))"
        )

    def statements(self, description: Sequence[Sequence[Any]]) -> Statements:
        _, created, record = (column[1] for column in description)
        if created not in (self._TIMESTAMP, self._TIMESTAMPTZ):
            raise _unusable(self.table, "created must be TIMESTAMP or TIMESTAMPTZ")
        if record not in self._RECORD:
            raise _unusable(self.table, "key_record must be TEXT, JSON or JSONB")
        zone = "" if created == self._TIMESTAMPTZ else " AT TIME ZONE 'UTC'"
        wanted = "CAST(:prefix AS text)"
        return self._build(
            time=f"(to_timestamp(CAST(:created AS double precision)){zone})",
            # of a timestamp without time zone this takes the wall clock for UTC
            read_time=(
                "CASE WHEN isfinite(created) "
                "THEN CAST(floor(EXTRACT(EPOCH FROM created)) AS bigint) END"
            ),
            record="CAST(key_record AS text)",
            prefix=f"left(id, char_length({wanted})) = {wanted}",
        )

    def is_missing_table(self, error: BaseException) -> bool:
        return getattr(error, "sqlstate", None) == "42P01"

    def is_retryable(self, error: BaseException) -> bool:
        state: str | None = getattr(error, "sqlstate", None)
        if state is None:  # before or instead of an answer; the text is all there is
            return not any(words in str(error) for words in self._HOPELESS)
        return state.startswith(self._RETRYABLE)


class MySql(Dialect):
    """Times are wall clock strings: right only while the session's time zone is the table's.

    Ids are compared byte by byte besides: most collations take ``Bob`` and ``bob`` for the same.
    """

    name = "MySQL"
    quote = "`"
    conflict = ""  # IGNORE would also ignore what does not fit
    _TIMES = (7, 12)  # TIMESTAMP, DATETIME
    _RECORD = (15, 245, 249, 250, 251, 252, 253, 254)  # character types, JSON, TEXT
    _RETRYABLE = frozenset(
        {1040, 1053, 1158, 1159, 1160, 1161, 1203, 1205, 1213}
        | {1226, 1290, 1317, 1836, 1927, 1969, 3024, 4031}
    )
    """Too many connections, shutting down, network, quotas, locks, read-only during a failover,
    killed, timed out."""

    def session(
        self, *, time_zone: str, replica_consistency: str | None, timeout: float | None
    ) -> Sequence[str]:
        if not _ZONE.fullmatch(time_zone):
            raise ConfigurationError("time_zone must be a MySQL time zone such as +00:00")
        told = [
            f"SET time_zone = '{time_zone}', "
            "sql_mode = CONCAT_WS(',', NULLIF(@@sql_mode, ''), 'STRICT_ALL_TABLES')"
        ]
        if timeout is not None:  # else a statement goes on waiting after its client has gone
            seconds = max(1, int(timeout))
            told.append(f"SET lock_wait_timeout = {seconds}, innodb_lock_wait_timeout = {seconds}")
        if replica_consistency is not None:
            told.append(f"SET aurora_replica_read_consistency = '{replica_consistency}'")
        return told

    def ddl(self) -> str:
        return (
            f"CREATE TABLE IF NOT EXISTS {self.table} ("
            "id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, "
            "created TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, key_record TEXT NOT NULL, "
            "PRIMARY KEY (id, created), INDEX (created))"
        )

    def probe_unique(self) -> str | None:
        return f"SHOW INDEX FROM {self.table}"

    def check_unique(self, rows: Sequence[Any]) -> None:
        columns: dict[str, set[str]] = {}
        for row in rows:
            if not row.Non_unique:
                part = "" if row.Sub_part is None else f"({row.Sub_part})"
                columns.setdefault(row.Key_name, set()).add(row.Column_name.lower() + part)
        if {"id", "created"} not in columns.values():
            raise _unusable(self.table, "PRIMARY KEY (id, created) is missing")

    def statements(self, description: Sequence[Sequence[Any]]) -> Statements:
        _, created, record = (column[1] for column in description)
        if created not in self._TIMES:
            raise _unusable(self.table, "created must be TIMESTAMP or DATETIME")
        if record not in self._RECORD:
            raise _unusable(self.table, "key_record must be TEXT or JSON")
        octets = "CAST(CONVERT({} USING utf8mb4) AS BINARY)"
        own, wanted = octets.format("id"), octets.format(":prefix")
        return self._build(
            time=":created",
            read_time="CAST(created AS CHAR)",
            record="CAST(key_record AS CHAR)",
            same_id=f"id = :id AND {own} = {octets.format(':id')}",
            prefix=f"LEFT({own}, LENGTH({wanted})) = {wanted}",
            octets=octets,
            keep_time=", created = created",  # a table may say ON UPDATE CURRENT_TIMESTAMP
        )

    def is_duplicate(self, error: BaseException) -> bool:
        return _number(error) == 1062

    def is_missing_table(self, error: BaseException) -> bool:
        return _number(error) == 1146

    def is_retryable(self, error: BaseException) -> bool:
        number = _number(error)
        return number is None or number == 0 or number >= 2000 or number in self._RETRYABLE


def _number(error: BaseException) -> int | None:
    number = error.args[0] if error.args else None
    return number if isinstance(number, int) else None


def _unusable(table: str, why: str) -> MetastoreError:
    return MetastoreError(f"table {table}: {why}", retryable=False)


_DIALECTS = {"sqlite": Sqlite, "postgresql": PostgreSql, "mysql": MySql, "mariadb": MySql}


def dialect(name: str, driver: str, table: str, replica_consistency: str | None) -> Dialect:
    """The dialect for SQLAlchemy's *name* and *driver*.

    Raises:
        ConfigurationError: Unsupported, or a setting is wrong.
    """
    if name not in _DIALECTS or driver not in ("pysqlite", "psycopg", "pymysql"):
        raise ConfigurationError(f"the database driver {name}+{driver} is not supported")
    if replica_consistency is not None and replica_consistency not in _CONSISTENCY:
        raise ConfigurationError(f"replica_consistency must be one of {', '.join(_CONSISTENCY)}")
    return _DIALECTS[name](table)
