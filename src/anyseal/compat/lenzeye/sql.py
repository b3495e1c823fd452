"""The users' keys in a SQL table (extra ``sql``, and the driver's: ``postgres``, ``mysql``)."""

from __future__ import annotations

import contextlib
import math
import os
import time
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from anyseal.compat.lenzeye.tables import UserKeyRow
from anyseal.errors import AnysealError, ConfigurationError, MetastoreError, MissingExtraError

try:
    import sqlalchemy as sa
    import sqlalchemy.exc
except ImportError as _exc:  # pragma: no cover - the extra is missing
    raise MissingExtraError.of("the SQL key table needs SQLAlchemy", "anyseal[sql]") from _exc

from anyseal.metastore._connections import arguments, in_time, make_engine

__all__ = ["SqlUserKeyTable"]

_CREATE_ATTEMPTS = 10

_live: weakref.WeakSet[SqlUserKeyTable] = weakref.WeakSet()


def _renew_all() -> None:
    for table in list(_live):
        table._engine.dispose(close=False)  # the parent goes on using its connections


os.register_at_fork(after_in_child=_renew_all)


class SqlUserKeyTable:
    """Rows ``(user_id, encrypted_key, key_version, is_active, created)``, at most one active.

    Every writer first takes the user's row of a second table, ``<table>_lock``: so no two create
    or rotate a user's key at once, also where the database cannot index active rows alone.

    Args:
        database: A SQLAlchemy URL with a sync driver, or an ``Engine`` of your own, which stays
            yours to dispose of. Not SQLite in memory.
        table: Its name.
        create_table: Create both tables on first use if they do not exist. With False they must
            be there; :attr:`metadata` has them for a migration tool.
        timeout: Seconds for one transaction: to connect, to wait for locks, and for all answers.
            None: no limit. PostgreSQL's driver takes 2 s at least to give up connecting.

    Raises:
        ConfigurationError: The URL is wrong or its driver is missing.

    Nothing is opened before the first call. Safe in several threads, and in a forked child.
    """

    def __init__(
        self,
        database: str | sa.URL | sa.Engine,
        *,
        table: str = "user_encryption_key",
        create_table: bool = True,
        timeout: float | None = 10.0,
    ) -> None:
        if timeout is not None and not 0 < timeout < math.inf:
            raise ConfigurationError("key table: timeout must be above 0 seconds, or None")
        self._timeout = timeout
        self._own = not isinstance(database, sa.Engine)
        try:
            self._engine = (
                database
                if isinstance(database, sa.Engine)
                else _engine(sa.make_url(database), timeout)
            )
        except ImportError as exc:
            driver = str(exc.name or "the database's driver")
            raise MissingExtraError.of(f"key table: {driver} is not installed", driver) from None
        except sqlalchemy.exc.ArgumentError as exc:
            raise ConfigurationError(f"key table: {type(exc).__name__}") from None
        url = self._engine.url
        if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
            raise ConfigurationError("key table: SQLite in memory; use MemoryUserKeyTable")
        self._ready = not create_table
        self.metadata = sa.MetaData()
        self._rows = sa.Table(
            table,
            self.metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("user_id", sa.String(255), nullable=False, index=True),
            sa.Column("encrypted_key", sa.LargeBinary(60), nullable=False),
            sa.Column("key_version", sa.String(64), nullable=False),
            sa.Column("is_active", sa.Boolean, nullable=False),
            sa.Column("created", sa.DateTime(timezone=True), nullable=False),
            sa.UniqueConstraint("user_id", "key_version", name=f"{table}_version"),
        )
        self._locks = sa.Table(
            f"{table}_lock", self.metadata, sa.Column("user_id", sa.String(255), primary_key=True)
        )
        if self._own:
            _live.add(self)

    def active(self, user_id: str) -> UserKeyRow | None:
        """As :meth:`UserKeyTable.active`."""
        with self._transaction() as connection:
            return self._active(connection, user_id)

    def by_version(self, user_id: str, key_version: str) -> UserKeyRow | None:
        """As :meth:`UserKeyTable.by_version`."""
        rows = self._rows.c
        with self._transaction() as connection:
            found = connection.execute(
                self._rows.select().where(rows.user_id == user_id, rows.key_version == key_version)
            ).first()
        return _row(found)

    def insert_first(self, row: UserKeyRow) -> UserKeyRow:
        """As :meth:`UserKeyTable.insert_first`."""
        self._make_lock(row.user_id)
        with self._transaction() as connection:
            self._lock(connection, row.user_id)
            known = self._active(connection, row.user_id)
            if known is not None:
                return known
            connection.execute(self._rows.insert().values(**_values(row)))
        return row

    def replace_active(self, row: UserKeyRow) -> None:
        """As :meth:`UserKeyTable.replace_active`."""
        self._make_lock(row.user_id)
        with self._transaction() as connection:
            self._lock(connection, row.user_id)
            active = self._rows.update().where(self._rows.c.user_id == row.user_id)
            connection.execute(active.values(is_active=False))
            connection.execute(self._rows.insert().values(**_values(row)))

    def close(self) -> None:
        """Let go of the connections. An engine that was given stays open."""
        if self._own:
            self._engine.dispose()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            if not self._ready:
                self._create()
            with in_time(self._engine, self._timeout) as connection, connection.begin():
                yield connection
        except TimeoutError as exc:
            raise MetastoreError(f"key table: no answer in {self._timeout or 0:g} s") from exc
        except (AnysealError, _TakenError):
            raise
        except Exception as exc:  # of SQLAlchemy, or of a driver that was shut down in the midst
            raise MetastoreError(f"key table: {type(exc).__name__}") from exc

    def _create(self) -> None:
        """Create what is not there; other workers may do the same at the same time."""
        for left in reversed(range(_CREATE_ATTEMPTS)):
            try:
                with in_time(self._engine, self._timeout) as connection, connection.begin():
                    self.metadata.create_all(connection)
                self._ready = True
                return
            except sqlalchemy.exc.DBAPIError:  # another worker was first with one of them
                if not left:
                    raise
                time.sleep(0.02)

    def _make_lock(self, user_id: str) -> None:
        """The user's row in the table of locks, in a transaction of its own."""
        with contextlib.suppress(_TakenError), self._transaction() as connection:
            try:
                held = self._locks.select().where(self._locks.c.user_id == user_id)
                if connection.execute(held).first() is None:
                    connection.execute(self._locks.insert().values(user_id=user_id))
            except sqlalchemy.exc.IntegrityError:
                raise _TakenError from None

    def _lock(self, connection: sa.Connection, user_id: str) -> None:
        """Wait for whoever else writes this user's rows. An update locks in every database."""
        mine = self._locks.update().where(self._locks.c.user_id == user_id)
        connection.execute(mine.values(user_id=user_id))

    def _active(self, connection: sa.Connection, user_id: str) -> UserKeyRow | None:
        rows = self._rows.c
        query = self._rows.select().where(rows.user_id == user_id, rows.is_active.is_(sa.true()))
        return _row(connection.execute(query.order_by(rows.id.desc())).first())


def _engine(url: sa.URL, timeout: float | None) -> sa.Engine:
    return make_engine(
        url, arguments(url.get_driver_name(), timeout, url.query),
        isolation_level=None, pool_reset_on_return="rollback",
        **({} if timeout is None or url.get_backend_name() == "sqlite"
           else {"pool_timeout": timeout}),
    )  # fmt: skip


class _TakenError(Exception):
    """Another worker made the row in between; ends the transaction."""


def _values(row: UserKeyRow) -> dict[str, Any]:
    return {
        "user_id": row.user_id,
        "encrypted_key": row.encrypted_key,
        "key_version": row.key_version,
        "is_active": row.is_active,
        "created": row.created,
    }


def _row(found: Any) -> UserKeyRow | None:
    if found is None:
        return None
    created: datetime = found.created
    return UserKeyRow(
        user_id=found.user_id,
        encrypted_key=bytes(found.encrypted_key),
        key_version=found.key_version,
        is_active=bool(found.is_active),
        created=created if created.tzinfo else created.replace(tzinfo=UTC),
    )
