"""A metastore in SQLite, PostgreSQL, MySQL or MariaDB (extras ``sql``, ``postgres``, ``mysql``).

SQLAlchemy's sync engine in worker threads: one code for asyncio, trio and sync callers. Every
call is one statement in autocommit, so whatever becomes of a call, no row is half written.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, TypeVarTuple

import anyio

from anyseal import offload
from anyseal.deadline import current
from anyseal.errors import AnysealError, ConfigurationError, MetastoreError, MissingExtraError
from anyseal.hints import only_async_with, wrong_type
from anyseal.metastore._rules import NO_TABLE, check_storable, decode, is_key_id, is_time
from anyseal.patience import Bounds, Progress
from anyseal.ports import KeyRecord
from anyseal.record import encode_key_record

try:
    import sqlalchemy as sa
    import sqlalchemy.event
    import sqlalchemy.exc
    import sqlalchemy.pool
except ImportError as _exc:  # pragma: no cover - the extra is missing
    raise MissingExtraError.of("the SQL metastore needs SQLAlchemy", "anyseal[sql]") from _exc

from anyseal.metastore import _urls
from anyseal.metastore._connections import arguments, in_time, limit_idle_time, make_engine
from anyseal.metastore._dialects import Dialect, Statements, dialect

__all__ = ["SqlMetastore"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_PAGE = 500
_SHUT_AT, _LEFT_AT = 1.2, 1.35
"""Of the timeout: when the connection is shut down, and when the caller waits no more for its
thread. Later than the timeout, so that a server which gives up waiting for a lock can say so."""

_live: weakref.WeakSet[SqlMetastore] = weakref.WeakSet()
_inherited: list[sa.pool.Pool] = []
"""Pools of the parent process: kept, for dropping them would disturb the parent's connections."""


def _renew_all() -> None:
    for metastore in list(_live):
        metastore._renew()


os.register_at_fork(after_in_child=_renew_all)


class SqlMetastore:
    """Keeps wrapped keys in a table ``(id, created, key_record)``.

    Args:
        database: A SQLAlchemy URL (``sqlite:////var/lib/keys.db``, ``postgresql://…``,
            ``mysql://…``), the Go MySQL driver's ``user:password@tcp(host:port)/database``, or a
            sync ``Engine`` of your own, which stays yours to dispose of and configure.
        table: Its name, or ``schema.table``.
        create_table: Create it on first use if it does not exist. Default: only with SQLite.
        replica_consistency: ``eventual``, ``global`` or ``session``: what Aurora's read replicas
            are asked for when they forward writes.
        time_zone: MySQL and MariaDB only: the sessions' time zone. The times in the table are
            UTC; another zone is for tables that were filled through sessions in that zone.
        timeout: Seconds for one call: to get a connection, and for the answers. At 1.2 of it the
            connection is shut down and thrown away, whatever the server does; at 1.35 the caller
            gets its error, also if the driver does not return. None: no limit but the driver's.
        pool_max_open: Connections at most; None or 0: no limit.
        pool_max_idle: Connections kept open: at least 1, at most *pool_max_open*.
        pool_max_lifetime: Seconds after which a connection is replaced; None or 0: never.
        pool_max_idle_time: Seconds unused after which a connection is replaced; None or 0: never.

    Raises:
        ConfigurationError: The connection string or a setting is wrong, or the driver is missing.

    Nothing is opened before the first call. Safe to use from several threads and event loops, and
    in a forked child, which opens connections of its own.
    """

    def __init__(
        self,
        database: str | sa.URL | sa.Engine,
        *,
        table: str = "encryption_key",
        create_table: bool | None = None,
        replica_consistency: str | None = None,
        time_zone: str | None = None,
        timeout: float | None = 10.0,
        pool_max_open: int | None = 10,
        pool_max_idle: int = 2,
        pool_max_lifetime: float | None = None,
        pool_max_idle_time: float | None = None,
    ) -> None:
        own = not isinstance(database, sa.Engine)
        connect_args: dict[str, Any] = {}
        if isinstance(database, sa.Engine):
            if database.dialect.is_async:
                raise wrong_type(
                    "database", "a URL or a sync SQLAlchemy Engine", database,
                    "its driver is async; pass create_engine(url) with psycopg or pymysql",
                )  # fmt: skip
            url, driver = database.url, database.dialect.driver
        else:
            target = _urls.parse(database)
            url, driver = target.url, target.url.get_driver_name()
            connect_args.update(target.connect_args)
            time_zone = target.time_zone if time_zone is None else time_zone
        self._dialect: Dialect = dialect(url.get_backend_name(), driver, table, replica_consistency)
        self._session = self._dialect.session(
            time_zone="+00:00" if time_zone is None else time_zone,
            replica_consistency=replica_consistency,
            timeout=timeout,
        )
        if create_table is None:
            create_table = self._dialect.creates_table
        self._create_table = create_table
        self._table = table
        self._where = (url.host, url.database)
        self._secrets = [url.password] if isinstance(url.password, str) and url.password else []
        self._own = own
        self._timeout = timeout
        self._bounds = Bounds(None if timeout is None else timeout * _LEFT_AT, MetastoreError)
        self._closed = False
        self._lock = threading.Lock()
        self._statements: Statements | None = None
        if isinstance(database, sa.Engine):
            self._engine = database
        else:
            if min(pool_max_idle, pool_max_open or 0) < 0:
                raise ConfigurationError("pool: not a number of connections")
            pool_max_idle = max(1, min(pool_max_idle, pool_max_open or pool_max_idle))
            if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
                pool_max_open = pool_max_idle = 1  # the database is the connection
                pool_max_lifetime = pool_max_idle_time = None
            self._engine = make_engine(
                url,
                {**arguments(driver, timeout, url.query), **connect_args},
                poolclass=sa.pool.QueuePool,
                pool_size=pool_max_idle,
                max_overflow=pool_max_open - pool_max_idle if pool_max_open else -1,
                pool_recycle=pool_max_lifetime or -1,
                pool_timeout=30.0 if timeout is None else timeout,
            )
            sa.event.listen(self._engine, "connect", self._on_connect)
            if pool_max_idle_time:
                limit_idle_time(self._engine, pool_max_idle_time)
        _live.add(self)

    @classmethod
    def from_connection_string(cls, text: str, **settings: Any) -> SqlMetastore:
        """The same, for a connection string that was written for another implementation.

        Only SQLite's differs: all that follows ``sqlite://`` is the path, so
        ``sqlite:///var/lib/keys.db`` is ``/var/lib/keys.db`` here and relative for SQLAlchemy.
        """
        target = _urls.parse(text, plain_sqlite_path=True)
        if target.url.get_backend_name() == "sqlite":
            return cls(target.url, **settings)
        return cls(text, **settings)

    def __repr__(self) -> str:
        host, database = self._where
        return (
            f"SqlMetastore({self._dialect.name}, host={host!r}, database={database!r}, "
            f"table={self._table!r})"
        )

    @property
    def file(self) -> Path | None:
        """The file of a SQLite database, made by the first call if it does not exist; None for
        other databases, for one in memory, and one given as a URI or an Engine."""
        database = self._where[1] or ":memory:"
        if self._dialect.name != "SQLite" or not self._own or database.startswith((":", "file:")):
            return None
        return Path(database)

    # ---- The port ------------------------------------------------------------------------

    async def load(self, key_id: str, created: int) -> KeyRecord | None:
        """The record with exactly this id and time, or None."""
        return await self._waiting("load", self._load, key_id, created)

    async def load_latest(self, key_id: str) -> KeyRecord | None:
        """The record with this id and the latest time, or None."""
        return await self._waiting("load", self._load_latest, key_id)

    async def load_latest_before(self, key_id: str, created: int) -> KeyRecord | None:
        """The record with this id and the latest time before *created*, or None."""
        return await self._waiting("load", self._load_latest_before, key_id, created)

    async def store(self, record: KeyRecord) -> bool:
        """Insert *record* unless its id and time are taken; whether it was inserted."""
        check_storable(record)
        return await self._waiting("store", self._store, record)

    async def records(self, key_id_prefix: str = "") -> AsyncGenerator[KeyRecord, None]:
        """All records whose id begins with *key_id_prefix*, by id (in the database's collation)
        and time. Read in pages; no connection is held between them."""
        last: tuple[str, Any] | None = None
        pages = Progress("records", MetastoreError)
        while True:
            rows, last = await self._waiting("records", self._page, key_id_prefix, last)
            pages.advance(last, found=len(rows))
            for record in rows:
                yield record
            if last is None:
                return

    async def versions(self, key_id: str) -> AsyncGenerator[KeyRecord, None]:
        """All records with exactly this id, oldest first."""
        for record in await self._waiting("records", self._versions, key_id):
            yield record

    async def revoke(self, key_id: str, created: int) -> bool:
        """Mark a record as revoked; whether it was there."""
        return await self._waiting("revoke", self._revoke, key_id, created)

    async def delete(self, key_id: str, created: int) -> bool:
        """Delete a record; whether it was there."""
        return await self._waiting("delete", self._delete, key_id, created)

    async def replace_key(self, record: KeyRecord, key: bytes) -> bool:
        """Put *key* in the place of *record*'s, if it is still there; whether it was."""
        return await self._waiting("replace_key", self._replace_key, record, key)

    async def check_table(self) -> None:
        """Raise MetastoreError if the table is not there or not as it must be. SQLite's is made."""
        await self._waiting("check_table", self._check_table)

    async def create_table(self) -> None:
        """Create the table if it does not exist. Needs the right to do so."""
        await self._waiting("create_table", self._create)

    async def aclose(self) -> None:
        """Close the connections, unless they belong to an engine that was passed. Idempotent."""
        self._closed = True
        if self._own:
            with anyio.move_on_after(self._timeout):
                await offload.run_waiting(self._engine.dispose)

    __enter__ = only_async_with

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def _waiting(self, what: str, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """The result of *function*, from a thread that is not waited for much too long."""
        result: T = await self._bounds.call(what, function, *args)
        return result

    # ---- In a worker thread --------------------------------------------------------------

    def _load(self, key_id: str, created: int) -> KeyRecord | None:
        if not is_time(created) or not is_key_id(key_id):
            return None
        with self._connected("load") as connection:
            sql = self._ready(connection)
            values = {"id": key_id, "created": self._dialect.bind_time(created)}
            row = connection.execute(sql.load, values).first()
        return self._decode(row, key_id)

    def _load_latest(self, key_id: str) -> KeyRecord | None:
        if not is_key_id(key_id):
            return None
        with self._connected("load") as connection:
            row = connection.execute(self._ready(connection).latest, {"id": key_id}).first()
        return self._decode(row, key_id)

    def _load_latest_before(self, key_id: str, created: int) -> KeyRecord | None:
        if not is_time(created) or not is_key_id(key_id):
            return None
        values = {"id": key_id, "created": self._dialect.bind_time(created)}
        with self._connected("load") as connection:
            sql = self._ready(connection)
            row = connection.execute(sql.latest_before, values).first()
        return self._decode(row, key_id)

    def _store(self, record: KeyRecord) -> bool:
        values = {"id": record.id, "created": self._dialect.bind_time(record.created)}
        with self._connected("store") as connection:
            sql = self._ready(connection)
            try:
                inserted = connection.execute(
                    sql.insert, {**values, "record": encode_key_record(record)}
                )
            except sa.exc.IntegrityError as exc:
                if exc.orig is None or not self._dialect.is_duplicate(exc.orig):
                    raise
            else:
                if inserted.rowcount == 1:
                    return True
            there = connection.execute(sql.load, values).first()
        if there is None or there[0] != record.id:
            raise MetastoreError(
                f"store: the table's collation takes the id {record.id!r} for another one",
                retryable=False,
            )
        return False

    def _page(
        self, prefix: str, last: tuple[str, Any] | None
    ) -> tuple[list[KeyRecord], tuple[str, Any] | None]:
        values: dict[str, Any] = {"prefix": prefix, "limit": _PAGE}
        with self._connected("records") as connection:
            sql = self._ready(connection)
            if last is None:
                rows = connection.execute(sql.first_page, values).all()
            else:
                values |= {"id": last[0], "created": last[1]}
                rows = connection.execute(sql.next_page, values).all()
        found = [record for row in rows if (record := self._decode(row)) is not None]
        if len(rows) < _PAGE:
            return found, None
        return found, (rows[-1][0], rows[-1][1])

    def _versions(self, key_id: str) -> list[KeyRecord]:
        if not is_key_id(key_id):
            return []
        with self._connected("records") as connection:
            rows = connection.execute(self._ready(connection).versions, {"id": key_id}).all()
        return [record for row in rows if (record := self._decode(row, key_id)) is not None]

    def _revoke(self, key_id: str, created: int) -> bool:
        def change(record: KeyRecord, fields: dict[str, Any]) -> dict[str, Any] | bool:
            if record.revoked:
                return True
            fields.pop("Revoked", None)
            return {"Revoked": True, **fields}

        return self._change("revoke", key_id, created, change)

    def _replace_key(self, old: KeyRecord, key: bytes) -> bool:
        def change(record: KeyRecord, fields: dict[str, Any]) -> dict[str, Any] | bool:
            if record.key != old.key:
                return False
            return {**fields, "Key": base64.b64encode(key).decode()}

        return self._change("replace_key", old.id, old.created, change)

    def _change(
        self,
        operation: str,
        key_id: str,
        created: int,
        change: Callable[[KeyRecord, dict[str, Any]], dict[str, Any] | bool],
    ) -> bool:
        """Change a row as it stands, so that fields which are not ours stay, and only if it still
        does. *change* returns the new fields, or that nothing is to be done."""
        if not is_time(created) or not is_key_id(key_id):
            return False
        values = {"id": key_id, "created": self._dialect.bind_time(created)}
        with self._connected(operation) as connection:
            sql = self._ready(connection)
            while (row := connection.execute(sql.load, values).first()) is not None:
                record = self._decode(row, key_id)
                changed = False if record is None else change(record, json.loads(row[2]))
                if isinstance(changed, bool):
                    return changed
                text = json.dumps(changed, ensure_ascii=False, separators=(",", ":"))
                done = connection.execute(sql.replace, {**values, "record": text, "old": row[2]})
                if done.rowcount == 1:
                    return True
        return False

    def _check_table(self) -> None:
        with self._connected("check_table") as connection:
            self._statements = None
            self._ready(connection)

    def _delete(self, key_id: str, created: int) -> bool:
        if not is_time(created) or not is_key_id(key_id):
            return False
        with self._connected("delete") as connection:
            sql = self._ready(connection)
            values = {"id": key_id, "created": self._dialect.bind_time(created)}
            return connection.execute(sql.delete, values).rowcount == 1

    def _create(self) -> None:
        with self._connected("create_table") as connection:
            connection.exec_driver_sql(self._dialect.ddl())

    def _decode(self, row: Any, key_id: str | None = None) -> KeyRecord | None:
        if row is None or not is_key_id(row[0]) or (key_id is not None and row[0] != key_id):
            return None
        return decode(row[0], self._dialect.read_time(row[1]), row[2])

    # ---- Connections ---------------------------------------------------------------------

    @contextlib.contextmanager
    def _connected(self, operation: str) -> Iterator[sa.Connection]:
        """A connection for one call; what the database or driver raises comes out as our own."""
        if self._closed:
            raise MetastoreError(f"{operation}: the metastore is closed", retryable=False)
        pool = self._engine.pool
        try:
            with in_time(
                self._engine, None if self._timeout is None else self._timeout * _SHUT_AT
            ) as connection:
                if not self._own:
                    connection.execution_options(isolation_level="AUTOCOMMIT")
                    for told in self._session:
                        connection.exec_driver_sql(told)
                yield connection
        except (sa.exc.SQLAlchemyError, UnicodeError) as exc:
            error = self._error(operation, exc)
            if not error.retryable:
                self._statements = None  # look at the table again: it may get mended
            raise error from (getattr(exc, "orig", None) or exc)
        except TimeoutError as exc:
            raise MetastoreError(f"{operation}: no answer in {self._timeout or 0:g} s") from exc
        except AnysealError:
            raise
        except Exception as exc:  # from a driver that did not wrap it: OSError, or it was confused
            raise MetastoreError(f"{operation}: {type(exc).__name__}") from exc
        finally:
            if self._closed and self._own:
                pool.dispose()  # closed meanwhile, by a caller that was cancelled

    def _ready(self, connection: sa.Connection) -> Statements:
        """The statements; on first use the table is created, if it should be, and looked at."""
        statements = self._statements
        if statements is not None:
            return statements
        limit = current()
        if not self._lock.acquire(timeout=-1 if limit is None else limit.left()):
            raise TimeoutError
        try:
            if self._create_table:
                connection.exec_driver_sql(self._dialect.ddl())
            result = connection.exec_driver_sql(self._dialect.probe())
            cursor: Any = result.cursor
            description: Sequence[Sequence[Any]] = cursor.description
            result.close()
            probe_unique = self._dialect.probe_unique()
            if probe_unique is not None:
                self._dialect.check_unique(connection.exec_driver_sql(probe_unique).all())
            self._statements = statements = self._dialect.statements(description)
        finally:
            self._lock.release()
        return statements

    def _on_connect(self, connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        try:
            for told in self._session:
                cursor.execute(told)
        finally:
            cursor.close()
        connection.commit()

    def _error(self, operation: str, exc: Exception) -> MetastoreError:
        if isinstance(exc, sa.exc.TimeoutError):
            return MetastoreError(f"{operation}: no connection became free in time")
        orig = exc.orig if isinstance(exc, sa.exc.DBAPIError) else None
        if orig is None:
            return MetastoreError(f"{operation}: {type(exc).__name__}", retryable=False)
        retryable = self._dialect.is_retryable(orig)
        if isinstance(exc, sa.exc.DBAPIError) and exc.connection_invalidated:
            retryable = True
        remedy = NO_TABLE if self._dialect.is_missing_table(orig) else ""
        return MetastoreError(
            f"{operation}: {self._dialect.name}: {self._redact(orig)}{remedy}", retryable=retryable
        )

    def _redact(self, error: BaseException) -> str:
        """The first line of the driver's message: the others may repeat the record."""
        text = str(error).strip().partition("\n")[0][:300]
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return f"{type(error).__name__}: {text}"

    def _renew(self) -> None:
        """In a forked child: leave the parent's connections alone."""
        self._lock = threading.Lock()
        _inherited.append(self._engine.pool)
        self._engine.dispose(close=False)
