"""Connections to a SQL database: made, tried and stopped within the deadline of a call.

A driver's timeouts hold for one read or not at all, and a server that is frozen still acknowledges
what it gets. So the deadline of a call (``anyseal.deadline``) shuts down the connection that the
call uses: psycopg's socket, which C reads; PyMySQL's looks at the deadline itself.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa
import sqlalchemy.event
import sqlalchemy.exc
import sqlalchemy.pool

from anyseal.deadline import bounded, current, deadline
from anyseal.errors import AnysealError, ConfigurationError, MissingExtraError

__all__ = ["Line", "arguments", "in_time", "limit_idle_time", "make_engine"]

ANSWER_MAX_BYTES = 32 << 20
"""What a call may receive: more than a page of 500 of the longest records that are usual."""

_SQLITE_MAX_BYTES = 1 << 20
_GRACE_SECONDS = 2.0
"""So that a server which gives up waiting for a lock can still say so."""
_EXTRAS = {"psycopg": "postgres", "pymysql": "mysql"}


class _Thread(threading.local):
    line: Line | None = None


_thread = _Thread()


class Line:
    """The connection that the calling thread uses just now: what its deadline shuts down."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._interrupt: Callable[[], object] | None = None

    def use(self, connection: Any) -> None:
        """From here on the call uses this connection of the driver.

        Raises:
            TimeoutError: It is too late for that.
        """
        self._close()
        self._interrupt = getattr(connection, "interrupt", None)
        if self._interrupt is not None:  # SQLite: nothing to throw away, perhaps all the data
            return
        limit = current()
        if limit is not None:
            limit.left()
        pgconn, sock = getattr(connection, "pgconn", None), getattr(connection, "_sock", None)
        if isinstance(sock, socket.socket):
            bounded(sock)
        elif pgconn is not None:
            # Its own number for the socket: the driver may close its own in the same moment.
            self._socket = socket.socket(fileno=os.dup(pgconn.socket))
        if limit is not None:  # else stop() may have run before there was something to stop
            limit.left()

    def stop(self) -> None:
        """Make the thread's read or query return. From another thread."""
        sock, interrupt = self._socket, self._interrupt
        if sock is not None:
            sock.shutdown(socket.SHUT_RDWR)
        if interrupt is not None:
            interrupt()

    def _close(self) -> None:
        self._interrupt = None
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()

    def __enter__(self) -> Self:
        _thread.line = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _thread.line = None
        self._close()


@contextlib.contextmanager
def in_time(engine: sa.Engine, seconds: float | None) -> Iterator[sa.Connection]:
    """A connection that is in use for no longer than *seconds*; thrown away if that fails.

    Raises:
        TimeoutError: It was in use for so long, or could not be had in the time.
        anyseal.deadline.ExcessError: The server sent more than an answer may have.
    """
    with contextlib.ExitStack() as stack:
        line = Line()
        if seconds is not None:
            stack.enter_context(deadline(seconds, line.stop, room=ANSWER_MAX_BYTES))
        stack.enter_context(line)
        connection = stack.enter_context(engine.connect())
        try:
            line.use(connection.connection.driver_connection)
            yield connection
        except Exception as exc:
            confused = not isinstance(exc, (sa.exc.SQLAlchemyError, AnysealError))
            if confused and engine.dialect.driver != "pysqlite":  # in the midst of an answer
                connection.invalidate()
            raise


def arguments(driver: str, timeout: float | None, given: Mapping[str, object]) -> dict[str, Any]:
    """The driver's arguments, but for what the URL says itself."""
    found: dict[str, Any] = {}
    if driver == "pysqlite":
        found["check_same_thread"] = False  # the pool gives a connection to one at a time
    if driver == "psycopg":
        # No prepared statements: a pooler in between may serve each one from another session.
        found["prepare_threshold"] = None
    if timeout is not None:
        if driver == "psycopg":
            found["connect_timeout"] = max(2, round(timeout))
            found["tcp_user_timeout"] = int(timeout * 1000)
        elif driver == "pymysql":
            found["connect_timeout"] = timeout
            found["read_timeout"] = found["write_timeout"] = timeout + _GRACE_SECONDS
        else:
            found["timeout"] = timeout
    return {name: value for name, value in found.items() if name not in given}


def make_engine(url: sa.URL, connect_args: dict[str, Any], **options: Any) -> sa.Engine:
    """An engine whose connections obey the deadline of the calling thread.

    Raises:
        ConfigurationError: The driver is missing, or SQLAlchemy does not accept the settings.
    """
    try:
        engine = sa.create_engine(
            url,
            connect_args=connect_args,
            hide_parameters=True,
            **{"isolation_level": "AUTOCOMMIT", "pool_reset_on_return": None, **options},
        )
    except ImportError as exc:
        extra = _EXTRAS.get(url.get_driver_name(), "sql")
        raise MissingExtraError.of(
            f"{url.get_driver_name()} is not installed", f"anyseal[{extra}]"
        ) from exc
    except (sa.exc.ArgumentError, TypeError, ValueError):
        raise ConfigurationError("connection string: SQLAlchemy does not accept it") from None
    sa.event.listen(engine, "do_connect", _connect)

    def take(connection: Any, record: Any, _proxy: object) -> None:
        if not record.info.pop("anyseal_fresh", False):
            _try(engine, connection)

    sa.event.listen(engine, "connect", lambda _, record: record.info.update(anyseal_fresh=True))
    sa.event.listen(engine, "checkout", take)
    return engine


def _connect(dialect: Any, _record: object, args: Any, kwargs: Any) -> Any:
    """A new connection of the driver."""
    line, limit = _thread.line, current()
    if dialect.driver == "pymysql" and limit is not None:
        made = dialect.loaded_dbapi.connect(*args, **kwargs, defer_connect=True)
        if made.unix_socket or made.bind_address:
            made.connect()
        else:
            made.connect(_dialled(dialect.loaded_dbapi, made, limit))
    else:
        made = dialect.loaded_dbapi.connect(*args, **kwargs)
    if dialect.driver == "pysqlite":  # which would read a row of any size
        made.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _SQLITE_MAX_BYTES)
    try:
        if line is not None:
            line.use(made)
    except BaseException:
        made.close()
        raise
    return made


def _dialled(driver: Any, made: Any, limit: deadline) -> socket.socket:
    """A socket for PyMySQL that obeys the deadline from its first byte on."""
    try:
        sock = socket.create_connection(
            (made.host, made.port), min(made.connect_timeout or limit.left(), limit.left())
        )
    except OSError as exc:
        raise driver.OperationalError(
            2003, f"Can't connect to MySQL server on {made.host!r} ({exc})"
        ) from exc
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return bounded(sock)


def _try(engine: sa.Engine, connection: Any) -> None:
    """See whether a connection that was used before still works; the pool replaces it if not.

    The pool's own way (``pool_pre_ping``) would do it before the deadline knows the connection.
    """
    line, limit = _thread.line, current()
    if line is not None:
        line.use(connection)
    try:
        engine.dialect.do_ping(connection)
    except engine.dialect.loaded_dbapi.Error as exc:
        if limit is not None:
            limit.left()  # there is no time for another connection
        if engine.dialect.is_disconnect(exc, connection, None):
            raise sa.exc.InvalidatePoolError from exc
        raise


def limit_idle_time(engine: sa.Engine, seconds: float) -> None:
    """Replace connections that nobody used for *seconds*."""

    def leave(_connection: object, record: Any) -> None:
        record.info["anyseal_idle_since"] = time.monotonic()

    def take(_connection: object, record: Any, _proxy: object) -> None:
        since = record.info.get("anyseal_idle_since")
        if since is not None and time.monotonic() - since > seconds:
            del record.info["anyseal_idle_since"]
            raise sa.exc.DisconnectionError

    sa.event.listen(engine, "checkin", leave)
    sa.event.listen(engine, "checkout", take, insert=True)
