"""SQL metastores over servers that stop answering, or answer nonsense."""

from __future__ import annotations

import contextlib
import secrets
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Self

import anyio
import pytest
import sqlalchemy as sa

from anyseal import FormatError, KeyHierarchy, MetastoreError, sync
from anyseal.compat import lenzeye
from anyseal.kms.static import StaticKms
from anyseal.metastore import SqlMetastore
from anyseal.ports import KeyRecord
from evil.server import BEHAVIOURS, Frames
from evil.suite import BUSY, MEMORY, TIMEOUT, _resident, is_slow
from servers import PASSWORD, Database, Postgres
from support import a_key

pytest_plugins = ["server_fixtures"]

RECORD = KeyRecord(id="_IK_u_s_p", created=1_700_000_040, key=bytes(range(60)))
BOUND = 1.5 * TIMEOUT + BUSY


def url_of(server: Database) -> sa.URL:
    """Of the database of the tests."""
    if isinstance(server, Postgres):
        name, database = "postgresql+psycopg", "postgres"
    else:
        name, database = "mysql+pymysql", "keys"
    return sa.URL.create(
        name,
        username="anyseal",
        password=PASSWORD,
        host="127.0.0.1",
        port=server.port,
        database=database,
    )


@pytest.fixture(params=["postgres_server", "mariadb_server"])
def database(request: pytest.FixtureRequest) -> Database:
    """Each real server."""
    found: Database = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def table() -> str:
    return f"t_{secrets.token_hex(6)}"


@contextlib.contextmanager
def frozen(server: Database) -> Iterator[None]:
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


class Proxy:
    """Stands before a real database; what it does to the answers is told by ``does``."""

    def __init__(self, port: int) -> None:
        self.does = "well"
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._upstream))
                self._sockets += [client, server]
                threading.Thread(target=self._pass, args=(client, server), daemon=True).start()
                threading.Thread(target=self._spoil, args=(server, client), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)

    def _spoil(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self.does == "well":
                    target.sendall(data)
                    continue
                for piece in self._frames(data):
                    if isinstance(piece, float):
                        time.sleep(piece)
                    else:
                        target.sendall(piece)
                break
            target.shutdown(socket.SHUT_RDWR)

    def _frames(self, data: bytes) -> Frames:
        if self.does in BEHAVIOURS:
            yield from BEHAVIOURS[self.does](data)
        elif self.does == "huge length":  # PostgreSQL: a row of 2 GiB; MySQL: packets without end
            head = b"D\x7f\xff\xff\xf0" if data[:1] in b"TDRSZ12" else b""
            yield head
            while True:
                yield b"\xff\xff\xff" + bytes(1 << 20) if not head else bytes(1 << 20)
        else:
            yield data[::-1] + data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


SPOILT = (*BEHAVIOURS, "reversed", "huge length")


def test_sql_server_that_misbehaves_is_an_error(database: Database, table: str) -> None:
    """At any byte of a call: while it connects, and when an old connection is tried again."""
    store = SqlMetastore(url_of(database), table=table, create_table=True)
    anyio.run(store.store, RECORD)
    anyio.run(store.aclose)

    def run(does: str, connected: bool) -> str | None:
        what = f"{does} {'connected' if connected else 'connecting'}"
        with Proxy(database.port) as proxy:
            url = url_of(database).set(port=proxy.port)
            spoilt = SqlMetastore(url, table=table, timeout=TIMEOUT)
            spoilt._bounds._seconds = 20  # the thread itself must end
            load = partial(anyio.run, spoilt.load, RECORD.id, RECORD.created)
            if connected:
                spoilt._timeout = 20
                assert RECORD == load()
                spoilt._timeout = TIMEOUT
            proxy.does = does
            started, found = time.monotonic(), RECORD
            with contextlib.suppress(MetastoreError):
                found = load()
            took = time.monotonic() - started
            proxy.does = "well"
            spoilt._timeout = 20
            again = load()
            anyio.run(spoilt.aclose)
        if took < BOUND and found in (RECORD, None) and again == RECORD:
            return None
        return f"{what}: took {took:.2f} s, gave {found}, then {again}"

    before = _resident(reset=True)
    cases = [(does, connected) for does in SPOILT for connected in (False, True)]
    late = [case for case in cases if is_slow(case[0])]
    with ThreadPoolExecutor(len(late)) as pool:
        wrong = [*pool.map(lambda case: run(*case), late)]
        for case in cases:
            if case not in late:
                wrong.append(run(*case))
                assert _resident() - before < MEMORY, case
    assert [] == [each for each in wrong if each]


def in_loop(function: Any, *args: Any) -> Any:
    """A call of an async method, as a test that measures its time makes it."""

    async def call() -> Any:
        started = time.monotonic()
        try:
            with anyio.fail_after(20):
                return await function(*args)
        finally:
            took = time.monotonic() - started
            assert took < BOUND, f"took {took:.2f} s"

    return anyio.run(call)


CALLS = {
    "load": ("load", RECORD.id, RECORD.created),
    "load_latest": ("load_latest", RECORD.id),
    "store": ("store", RECORD),
    "revoke": ("revoke", RECORD.id, RECORD.created),
    "delete": ("delete", RECORD.id, RECORD.created),
}


def test_sql_server_that_is_frozen_is_given_up(database: Database, table: str) -> None:
    """It still acknowledges what it gets, so TCP sees no fault: one such node must not hold every
    cold caller for ever."""
    store = SqlMetastore(url_of(database), table=table, create_table=True, timeout=5)
    slow = SqlMetastore(url_of(database), table=table, timeout=TIMEOUT)
    anyio.run(store.store, RECORD)
    expected = anyio.run(slow.load, RECORD.id, RECORD.created)  # its connection is a used one
    assert expected == RECORD
    try:
        with frozen(database):
            for name, *args in (CALLS["load"], CALLS["store"]):
                with pytest.raises(MetastoreError) as caught:
                    in_loop(getattr(slow, name), *args)
                assert caught.value.retryable
                assert PASSWORD not in str(caught.value)
        assert expected == anyio.run(store.load, RECORD.id, RECORD.created)
        until = time.monotonic() + 20
        while slow._bounds.left and time.monotonic() < until:  # those that were connecting
            time.sleep(0.01)
        assert expected == anyio.run(slow.load, RECORD.id, RECORD.created)
    finally:
        anyio.run(store.aclose)
        anyio.run(slow.aclose)


def test_sql_server_that_freezes_in_a_call_is_given_up_sync(database: Database, table: str) -> None:
    """The same from sync code, through the hierarchy, while the call runs."""
    store = SqlMetastore(url_of(database), table=table, create_table=True, timeout=TIMEOUT)
    keys = KeyHierarchy(StaticKms(a_key()), store, service="s", product="p", allow_testing_kms=True)
    with sync.SessionFactory(keys) as factory:
        store._bounds._seconds = 20
        row = factory.session("a").encrypt(b"data")
        keys.forget()
        with frozen(database):
            started = time.monotonic()
            with pytest.raises(MetastoreError):
                factory.session("a").decrypt(row)
            assert time.monotonic() - started < BOUND
        assert b"data" == factory.session("a").decrypt(row)


ROWS: dict[str, Any] = {
    "null": None,
    "number": 42,
    "text": "no json",
    "empty": "",
    "list": "[]",
    "nested": "[" * 100_000,
    "bytes": b"\xff\xfe",
    "huge": '{"Created":1700000040,"Key":"' + "A" * (80 << 20) + '"}',
    "created as text": '{"Created":"1700000040","Key":"AAAA"}',
    "no key": '{"Created":1700000040}',
    "key as number": '{"Created":1700000040,"Key":7}',
    "digits": '{"Created":' + "9" * 5000 + ',"Key":"AAAA"}',
    "nan": '{"Created":NaN,"Key":"AAAA"}',
    "parent as text": '{"Created":1700000040,"Key":"AAAA","ParentKeyMeta":"x"}',
    "infinite": '{"Created":1e999,"Key":"AAAA"}',
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_sql_row_that_is_no_record_is_told(row: Any, tmp_path: Path) -> None:
    """Whoever can write to the table must not choose what a service does with it."""
    path = tmp_path / "keys.db"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE encryption_key (id, created, key_record)")
        database.execute(
            "INSERT INTO encryption_key VALUES (?, '2023-11-14 22:14:00', ?)", (RECORD.id, row)
        )
    store = SqlMetastore(f"sqlite:///{path}", create_table=False)
    before = _resident(reset=True)
    for name, *args in (CALLS["load"], CALLS["load_latest"], CALLS["revoke"]):
        with pytest.raises((FormatError, MetastoreError)):
            in_loop(getattr(store, name), *args)
    assert _resident() - before < MEMORY
    anyio.run(store.aclose)


def test_sqlite_that_is_locked_is_given_up(tmp_path: Path) -> None:
    """Another process may hold the file for as long as it likes."""
    path = tmp_path / "keys.db"
    store = SqlMetastore(f"sqlite:///{path}", timeout=TIMEOUT)
    anyio.run(store.store, RECORD)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for name, *args in (CALLS["load"], CALLS["store"]):
            with pytest.raises(MetastoreError) as caught:
                in_loop(getattr(store, name), *args)
            assert caught.value.retryable
        other.execute("ROLLBACK")
    assert RECORD == anyio.run(store.load, RECORD.id, RECORD.created)
    anyio.run(store.aclose)


def test_sql_pages_that_do_not_end_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that shows the same page again and again must not keep a tool busy for ever."""
    store = SqlMetastore(f"sqlite:///{tmp_path / 'keys.db'}")
    monkeypatch.setattr(store, "_page", lambda *_: ([RECORD], (RECORD.id, "2023")))

    async def read() -> int:
        return len([record async for record in store.records()])

    with pytest.raises(MetastoreError, match="do not come to an end"):
        in_loop(read)


def test_lenzeye_table_over_a_server_that_misbehaves_is_an_error(
    database: Database, table: str
) -> None:
    """It is called by blocking code, in the request: a drip or a frozen server must not keep it."""
    well = lenzeye.SqlUserKeyTable(url_of(database), table=table)
    assert well.active("ann") is None
    well.close()
    for does in ("drip", "huge length"):
        for connected in (True, False):
            with Proxy(database.port) as proxy:
                url = url_of(database).set(port=proxy.port)
                spoilt = lenzeye.SqlUserKeyTable(url, table=table, timeout=TIMEOUT)
                if connected:
                    spoilt._timeout = 20
                    assert spoilt.active("ann") is None
                    spoilt._timeout = TIMEOUT
                proxy.does = does
                started = time.monotonic()
                with pytest.raises(MetastoreError, match="key table"):
                    spoilt.active("ann")
                took = time.monotonic() - started
                proxy.does = "well"
                spoilt._timeout = 20
                assert spoilt.active("ann") is None
                limit = 5 * TIMEOUT if connected else 3.5  # libpq connects for 2 s at least
                assert took < limit, (does, connected, took)
                spoilt.close()
