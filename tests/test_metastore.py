"""One suite over every metastore, on real servers, on asyncio and trio."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import json
import secrets
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import sqlalchemy as sa
from aiobotocore.session import AioSession
from blockbuster import BlockBuster, blockbuster_ctx

import anyseal.metastore.sql
from anyseal import KeyHierarchy, SessionFactory, sync
from anyseal.errors import ConfigurationError, FormatError, MetastoreError
from anyseal.kms import FileKms
from anyseal.metastore import DynamoDbMetastore, MemoryMetastore, SqlMetastore
from anyseal.ports import KeyRecord, MetastoreAdmin
from servers import PASSWORD, MariaDb, Moto, Postgres, free_port
from support import in_time, in_turn

pytest_plugins = ["server_fixtures"]
pytestmark = pytest.mark.anyio

SK = "_SK_svc_prod"
IK = "_IK_user-42_svc_prod"
T0 = 1_795_305_540  # 2026-11-21 23:59:00 UTC
GUARD = "__asherah_internal_config_drift_guard_v1__:svc:prod"
REGION = "eu-west-1"

in_thread = anyio.to_thread.run_sync


def sk(created: int = T0, key_id: str = SK, **fields: Any) -> KeyRecord:
    """A system key's record, with a key of its own."""
    return KeyRecord(id=key_id, created=created, key=secrets.token_bytes(60), **fields)


def ik(created: int = T0, key_id: str = IK, **fields: Any) -> KeyRecord:
    """An intermediate key's record, with a key of its own."""
    return sk(created, key_id, parent_id=SK, parent_created=T0 - 60, **fields)


async def collect(records: AsyncIterator[KeyRecord]) -> list[KeyRecord]:
    """All of *records*."""
    return [record async for record in records]


# ---- Backends ------------------------------------------------------------------------------


class Backend:
    """A metastore's table: makes metastores on it, and reads and writes it from behind."""

    name = "memory"
    server: Any = None
    sized = False
    """Whether an id of 256 characters is refused."""

    def make(self, **settings: Any) -> Any:
        return MemoryMetastore()

    def source(self) -> str:
        """Python that makes a metastore on the same table."""
        raise NotImplementedError

    def put(self, key_id: str, created: int, record: str) -> None:
        """Write a row as it is."""
        raise NotImplementedError

    def get(self, key_id: str, created: int) -> dict[str, Any]:
        """The record of a row."""
        raise NotImplementedError

    @contextlib.contextmanager
    def stuck(self) -> Iterator[Any]:
        """A metastore whose calls do not come back for as long as this lasts."""
        raise NotImplementedError

    def close(self) -> None:
        """Remove the table."""


def wall_clock(created: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(created))


@functools.cache
def behind(url: sa.URL) -> sa.Engine:
    """One engine for each database, to look at tables from behind."""
    return sa.create_engine(url, pool_pre_ping=True)


class Sql(Backend):
    def __init__(self, name: str, url: str, ddl: str | None, server: Any = None) -> None:
        self.name, self.url, self.server = name, url, server
        self.sized = server is not None
        self.table = f"t_{secrets.token_hex(6)}"
        target = anyseal.metastore.sql._urls.parse(url).url
        if server is None:
            self.engine = sa.create_engine(target, poolclass=sa.pool.NullPool)
        else:
            self.engine = behind(target)
        if server is None:
            self.zone = ""
        elif isinstance(server, Postgres):
            self.zone = "SET TIME ZONE 'UTC'"
        else:
            self.zone = "SET time_zone = '+00:00'"
        if ddl is not None:
            self.execute(ddl.format(table=self.table))

    def make(self, **settings: Any) -> SqlMetastore:
        return SqlMetastore(self.url, table=self.table, **settings)

    def source(self) -> str:
        return f"anyseal.metastore.SqlMetastore({self.url!r}, table={self.table!r})"

    def execute(self, statement: str, **values: Any) -> Any:
        with self.engine.begin() as connection:
            if self.zone:
                connection.exec_driver_sql(self.zone)
            result = connection.execute(sa.text(statement), values)
            return result.all() if result.returns_rows else None

    def put(self, key_id: str, created: int, record: str) -> None:
        self.execute(
            f"INSERT INTO {self.table} (id, created, key_record) VALUES (:i, :c, :r)",
            i=key_id,
            c=wall_clock(created) + ("+00" if "tz" in self.name else ""),
            r=record,
        )

    def get(self, key_id: str, created: int) -> dict[str, Any]:
        as_text = "CAST(key_record AS text)" if "pg" in self.name else "key_record"
        ((text,),) = self.execute(
            f"SELECT {as_text} FROM {self.table} WHERE id = :i AND created = :c",
            i=key_id,
            c=wall_clock(created) + ("+00" if "tz" in self.name else ""),
        )
        record: dict[str, Any] = json.loads(text)
        return record

    @contextlib.contextmanager
    def stuck(self) -> Iterator[Any]:
        lock = {
            "pg": f"LOCK TABLE {self.table} IN ACCESS EXCLUSIVE MODE",
            "ma": f"LOCK TABLES {self.table} WRITE",
            "sq": "BEGIN EXCLUSIVE",
        }[self.name[:2]]
        with self.engine.connect() as connection:
            connection.exec_driver_sql(lock)
            yield None
            if self.name.startswith("mariadb"):
                connection.exec_driver_sql("UNLOCK TABLES")
            connection.rollback()

    def close(self) -> None:
        with contextlib.suppress(sa.exc.DBAPIError):
            self.execute(f"DROP TABLE IF EXISTS {self.table}")


@functools.cache
def aws_session() -> AioSession:
    """One for all: reading the service's model takes 150 ms."""
    session = AioSession()
    session.set_credentials("test", "test")
    session.set_config_variable("region", REGION)
    return session


class Dynamo(Backend):
    name = "dynamodb"

    def __init__(self, server: Moto) -> None:
        self.server = server
        self.table = f"t_{secrets.token_hex(6)}"
        self.client = server.client("dynamodb", REGION)
        aws_session().get_scoped_config()  # reads files, which an event loop must not

    def make(self, **settings: Any) -> DynamoDbMetastore:
        settings = {"endpoint_url": self.server.url, "attempts": 1, **settings}
        return DynamoDbMetastore(session=aws_session(), table=self.table, **settings)

    def source(self) -> str:
        return (
            "anyseal.metastore.DynamoDbMetastore("
            f"table={self.table!r}, endpoint_url={self.server.url!r}, region={REGION!r})"
        )

    def put(self, key_id: str, created: int, record: str) -> None:
        def attribute(value: Any) -> dict[str, Any]:
            if isinstance(value, dict):
                return {"M": {name: attribute(each) for name, each in value.items()}}
            if isinstance(value, bool):
                return {"BOOL": value}
            return {"N": str(value)} if isinstance(value, int) else {"S": value}

        try:
            fields = attribute(json.loads(record))
        except ValueError:
            fields = {"S": record}
        item = {"Id": {"S": key_id}, "Created": {"N": str(created)}, "KeyRecord": fields}
        self.client.put_item(TableName=self.table, Item=item)

    def get(self, key_id: str, created: int) -> dict[str, Any]:
        def plain(attribute: dict[str, Any]) -> Any:
            ((kind, value),) = attribute.items()
            if kind == "M":
                return {name: plain(each) for name, each in value.items()}
            return int(value) if kind == "N" else value

        key = {"Id": {"S": key_id}, "Created": {"N": str(created)}}
        item = self.client.get_item(TableName=self.table, Key=key)["Item"]
        assert item.keys() == {"Id", "Created", "KeyRecord"}
        record: dict[str, Any] = plain(item["KeyRecord"])
        return record

    def close(self) -> None:
        with contextlib.suppress(self.client.exceptions.ResourceNotFoundException):
            self.client.delete_table(TableName=self.table)

    @contextlib.contextmanager
    def stuck(self) -> Iterator[Any]:
        with silent_server() as port:
            yield self.make(endpoint_url=f"http://127.0.0.1:{port}", timeout=30)


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


PG = (
    "CREATE TABLE {{table}} (id VARCHAR(255) NOT NULL, created {created} NOT NULL, "
    "key_record {record} NOT NULL, PRIMARY KEY (id, created))"
)
MARIADB = (
    "CREATE TABLE {{table}} (id VARCHAR(255){collate} NOT NULL, "
    "created {created} NOT NULL DEFAULT CURRENT_TIMESTAMP, key_record {record} NOT NULL, "
    "PRIMARY KEY (id, created), INDEX (created))"
)
BINARY = " COLLATE utf8mb4_nopad_bin"
POSTGRES_KINDS = {
    "pg-jsonb-timestamptz": PG.format(created="TIMESTAMPTZ", record="JSONB"),
    "pg-json-timestamp": PG.format(created="TIMESTAMP", record="JSON"),
    "pg-text-timestamp": PG.format(created="TIMESTAMP", record="TEXT"),
}
MARIADB_KINDS = {
    "mariadb-text": MARIADB.format(collate=BINARY, created="TIMESTAMP", record="TEXT"),
    "mariadb-json-datetime": MARIADB.format(collate=BINARY, created="DATETIME", record="JSON"),
}
SQL_KINDS = ["sqlite", *POSTGRES_KINDS, *MARIADB_KINDS]


def postgres_url(server: Postgres) -> str:
    password = "".join(f"%{byte:02x}" for byte in PASSWORD.encode())
    return f"postgres://anyseal:{password}@127.0.0.1:{server.port}/postgres"


def mariadb_url(server: MariaDb) -> str:
    return f"anyseal:{PASSWORD}@tcp(127.0.0.1:{server.port})/keys?parseTime=true"


def make_backend(kind: str, request: pytest.FixtureRequest) -> Backend:
    if kind == "memory":
        return Backend()
    if kind == "sqlite":
        folder = request.getfixturevalue("tmp_path")
        return Sql(kind, f"sqlite:///{folder}/keys.db", None)
    if kind in POSTGRES_KINDS:
        server = request.getfixturevalue("postgres_server")
        return Sql(kind, postgres_url(server), POSTGRES_KINDS[kind], server)
    if kind in MARIADB_KINDS:
        server = request.getfixturevalue("mariadb_server")
        return Sql(kind, mariadb_url(server), MARIADB_KINDS[kind], server)
    return Dynamo(request.getfixturevalue("moto_server"))


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """All that touches the event loop here is anyio's or aiobotocore's: uvloop adds nothing."""
    return request.param


@pytest.fixture(autouse=True)
def blocking_calls_fail(anyio_backend: Any) -> Iterator[BlockBuster | None]:
    """A call that blocks the event loop of asyncio is an error, also one from a driver."""
    if anyio_backend[0] != "asyncio":
        yield None
        return
    with blockbuster_ctx() as detector:
        detector.functions["os.path.abspath"].deactivate()  # constructors may look at the folder
        yield detector


@pytest.fixture(autouse=True)
def _aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own AWS settings."""
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)


@pytest.fixture(params=["memory", *SQL_KINDS, "dynamodb"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Every backend."""
    made = make_backend(request.param, request)
    yield made
    made.close()


@pytest.fixture
async def store(backend: Backend, anyio_backend: Any) -> AsyncIterator[Any]:
    """A metastore on every backend."""
    made = backend.make()
    if backend.name == "dynamodb":
        await made.create_table()
    yield made
    await made.aclose()


def on(*kinds: str) -> Any:
    """Run a test of ``backend`` on these only."""
    return pytest.mark.parametrize("backend", kinds, indirect=True)


SERVED = [*SQL_KINDS, "dynamodb"]
"""All that can be reached from behind."""

SOME = ["sqlite", "pg-jsonb-timestamptz", "mariadb-text", "dynamodb"]
"""One of each driver."""


# ---- The port ------------------------------------------------------------------------------


async def test_store_and_load_give_the_same_record(store: Any) -> None:
    """The contract; the parent is what an intermediate key cannot be unwrapped without."""
    assert isinstance(store, MetastoreAdmin)
    records = [sk(), ik(), ik(T0 + 60, revoked=True), ik(key_id="_IK_plain_svc_prod")]
    for record in records:
        assert await store.store(record) is True
    for record in records:
        assert await store.load(record.id, record.created) == record
    assert await store.load_latest(IK) == records[2]


async def test_an_empty_metastore_has_nothing(store: Any) -> None:
    """A new system starts here: None and False, no errors."""
    assert await store.load(SK, T0) is None
    assert await store.load_latest(SK) is None
    assert await collect(store.records()) == []
    assert await collect(store.versions(SK)) == []
    assert await store.revoke(SK, T0) is False
    assert await store.delete(SK, T0) is False


async def test_store_never_replaces(store: Any) -> None:
    """Two processes that make a key in the same minute must end up with one."""
    first, second = sk(), sk()
    assert await store.store(first) is True
    assert await store.store(second) is False
    assert await store.load(SK, T0) == first


async def test_of_concurrent_stores_one_wins(backend: Backend, store: Any) -> None:
    """20 at once, from two metastores as if from two processes: exactly one True."""
    other = store if backend.name == "memory" else backend.make()
    candidates = [ik() for _ in range(20)]
    won: list[KeyRecord] = []

    async def insert(into: Any, record: KeyRecord) -> None:
        if await into.store(record):
            won.append(record)

    async with anyio.create_task_group() as group:
        for number, record in enumerate(candidates):
            group.start_soon(insert, (store, other)[number % 2], record)
    assert len(won) == 1
    assert await store.load(IK, T0) == await other.load_latest(IK) == won[0]
    await other.aclose()


async def test_load_wants_the_exact_time(store: Any) -> None:
    """A row names its key by id and second; the neighbour is another key."""
    await store.store(sk(T0))
    for created in (T0 - 1, T0 + 1, T0 - 60, T0 + 60, 0):
        assert await store.load(SK, created) is None


async def test_times_that_cannot_be_are_not_found(store: Any) -> None:
    """A sealed record is anybody's text: any number in it must give a miss, not a crash."""
    for created in (-1, 253_402_300_800, 10**30):
        assert await store.load(SK, created) is None
        assert await store.revoke(SK, created) is False
        assert await store.delete(SK, created) is False
        with pytest.raises(MetastoreError) as caught:
            await store.store(sk(created))
        assert caught.value.retryable is False


async def test_latest_is_by_time_not_by_insertion(store: Any) -> None:
    """A region or process may store late; numbers must sort as numbers (999… < 1000…)."""
    for created in (T0, T0 + 120, T0 + 60, 999_999_960):
        await store.store(sk(created))
    latest = await store.load_latest(SK)
    assert latest.created == T0 + 120


async def test_times_survive_time_zones_and_daylight_saving(store: Any) -> None:
    """The servers run in New York: 05:30 and 06:30 UTC of 1 November 2026 are both 01:30 there,
    and 02:30 of 8 March does not exist."""
    times = [1_772_955_000, 1_772_958_600, 1_793_511_000, 1_793_514_600, 60]
    for created in times:
        assert await store.store(sk(created)) is True
    for created in times:
        found = await store.load(SK, created)
        assert found is not None
        assert found.created == created
    assert [record.created for record in await collect(store.versions(SK))] == sorted(times)


async def test_ids_are_exact(store: Any) -> None:
    """Partitions are people's names: other case, accents, spaces or scripts are other people."""
    names = [
        "Bob",
        "bob",
        "bob ",
        "Zoe",
        "Zoë",
        "Zoe\u0308",
        "北京-🔑",
        "ß",
        "ss",
        "a'b\"c\\d:e",
        "İ",
    ]
    records = [ik(key_id=f"_IK_{name}_svc_prod") for name in names]
    records += [ik(key_id=name) for name in names]
    for record in records:
        assert await store.store(record) is True
    for record in records:
        assert await store.load(record.id, T0) == record
        assert await store.load_latest(record.id) == record
        assert await collect(store.versions(record.id)) == [record]
    assert await store.delete("bob", T0) is True
    assert await store.load_latest("bob ") is not None
    assert await store.load_latest("Bob") is not None


async def test_long_ids(backend: Backend, store: Any) -> None:
    """VARCHAR(255) bounds the id: 255 fit, 256 are refused and never cut off."""
    long = ik(key_id="_IK_" + "ä" * 251)
    assert await store.store(long) is True
    assert await store.load_latest(long.id) == long
    assert await store.load_latest(long.id + "ä") is None
    if backend.sized:
        with pytest.raises(MetastoreError) as caught:
            await store.store(ik(key_id=long.id + "ä"))
        assert caught.value.retryable is False
        assert await collect(store.records()) == [long]


async def test_ids_that_cannot_be_keys_are_refused(store: Any) -> None:
    """Not stored, and not found: a sealed record may name anything, and drivers then raise much."""
    for key_id in ("", GUARD, "_IK_\ud800", "_IK_\0"):
        with pytest.raises(MetastoreError) as caught:
            await store.store(sk(key_id=key_id))
        assert caught.value.retryable is False
        assert await store.load(key_id, T0) is None
        assert await store.load_latest(key_id) is None
        assert await collect(store.versions(key_id)) == []


# ---- Admin ---------------------------------------------------------------------------------


async def test_revoke_marks_and_keeps_the_rest(store: Any) -> None:
    """Revoked keys must go on opening what they sealed."""
    old, new = ik(T0), ik(T0 + 60)
    await store.store(old)
    await store.store(new)
    assert await store.revoke(IK, T0) is True
    assert await store.revoke(IK, T0) is True
    assert await store.load(IK, T0) == dataclasses.replace(old, revoked=True)
    assert await store.load_latest(IK) == new
    assert await store.revoke(IK, T0 + 1) is False


@on(*SERVED)
async def test_revoke_keeps_fields_it_does_not_know(backend: Backend, store: Any) -> None:
    """Another implementation may have put more into a record than we read."""
    await store.load_latest(SK)
    record = {"Created": T0, "Key": "AAAA", "Later": {"x": "y"}}
    await in_thread(backend.put, SK, T0, json.dumps(record))
    assert await store.revoke(SK, T0) is True
    assert await in_thread(backend.get, SK, T0) == {"Revoked": True, **record}


async def test_concurrent_revokes_all_succeed(store: Any) -> None:
    """Two operators at once are no conflict."""
    await store.store(sk())
    results: list[bool] = []

    async def revoke() -> None:
        results.append(await store.revoke(SK, T0))

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(revoke)
    assert results == [True] * 8


async def test_delete_takes_one_record(store: Any) -> None:
    """The shredder must hit what it names and nothing else."""
    await store.store(sk(T0))
    await store.store(sk(T0 + 60))
    assert await store.delete(SK, T0) is True
    assert await store.delete(SK, T0) is False
    assert await store.load(SK, T0) is None
    assert (await store.load_latest(SK)).created == T0 + 60


async def test_records_have_a_literal_prefix(store: Any) -> None:
    """``_`` and ``%`` are in every id or may be: as wildcards they would list other tenants."""
    ids = ["_IK_a", "_IK_a%b", "_IK_aXb", "_IKXa", "_IK_A", "_SK_a", "%", "\\_x", "[a]", "_IK_ä"]
    for key_id in ids:
        await store.store(sk(key_id=key_id))
    for prefix in ["", "_IK_", "_IK_a", "_IK_a%", "_", "%", "\\", "[", "_IK_ä", "nothing"]:
        found = [record.id for record in await collect(store.records(prefix))]
        assert sorted(found) == sorted(key_id for key_id in ids if key_id.startswith(prefix))


async def test_records_come_page_by_page(
    store: Any, monkeypatch: pytest.MonkeyPatch, backend: Backend
) -> None:
    """All of them, once, however the pages fall; each id's by time."""
    monkeypatch.setattr(anyseal.metastore.sql, "_PAGE", 3)
    if backend.name == "dynamodb":
        whole = store._call

        async def small(operation: str, **request: Any) -> Any:
            return await whole(
                operation, **request, **({"Limit": 3} if operation == "Scan" else {})
            )

        monkeypatch.setattr(store, "_call", small)
    stored = [ik(T0 + 60 * i, key_id) for key_id in ("_IK_b", "_IK_B", "_IK_a") for i in range(5)]
    for record in stored:
        await store.store(record)
    found = await collect(store.records("_IK_"))
    assert sorted(stored, key=repr) == sorted(found, key=repr)
    for key_id in ("_IK_a", "_IK_b", "_IK_B"):
        times = [record.created for record in found if record.id == key_id]
        assert times == sorted(times)


async def test_records_can_be_left_early(store: Any) -> None:
    """Nothing stays open behind a listing that is not read to its end."""
    for number in range(3):
        await store.store(sk(T0 + 60 * number))
    async with contextlib.aclosing(store.records()) as records:
        async for _ in records:
            break
    assert await store.load(SK, T0) is not None


@on(*SERVED)
async def test_the_drift_guard_row_is_left_alone(backend: Backend, store: Any) -> None:
    """Other implementations keep it in the same table; it is not a key and not ours."""
    await store.store(sk())
    await in_thread(backend.put, GUARD, T0, '{"config":"x"}')
    assert await store.load(GUARD, T0) is None
    assert await store.load_latest(GUARD) is None
    assert [record.id for record in await collect(store.records())] == [SK]
    assert await collect(store.versions(GUARD)) == []
    assert await store.revoke(GUARD, T0) is False
    assert await store.delete(GUARD, T0) is False
    assert await in_thread(backend.get, GUARD, T0) == {"config": "x"}


# ---- What is in the table ------------------------------------------------------------------


@on(*SERVED)
async def test_the_stored_record_is_the_public_one(backend: Backend, store: Any) -> None:
    """Other implementations read it."""
    record = ik(revoked=True)
    await store.store(record)
    assert await in_thread(backend.get, IK, T0) == {
        "Revoked": True,
        "Created": T0,
        "Key": base64.b64encode(record.key).decode(),
        "ParentKeyMeta": {"KeyId": SK, "Created": T0 - 60},
    }
    await store.store(sk())
    assert sorted(await in_thread(backend.get, SK, T0)) == ["Created", "Key"]


@on(*SERVED)
async def test_rows_of_others_are_read(backend: Backend, store: Any) -> None:
    """Reordered (as JSONB does), spaced, with unknown fields."""
    await store.load_latest(IK)
    text = (
        f'{{ "Unknown": "x", "ParentKeyMeta": {{"Created": {T0 - 60}, "More": 1, '
        f'"KeyId": "{SK}"}}, "Key": "{WRAPPED}", "Created": {T0}, "Revoked": false }}'
    )
    await in_thread(backend.put, IK, T0, text)
    expected = KeyRecord(id=IK, created=T0, key=bytes(60), parent_id=SK, parent_created=T0 - 60)
    assert await store.load(IK, T0) == expected
    assert await store.load_latest(IK) == expected


WRAPPED = base64.b64encode(bytes(60)).decode()
GARBAGE = {
    "array": "[]",
    "no key": f'{{"Created":{T0}}}',
    "other time": f'{{"Created":{T0 + 60},"Key":"{WRAPPED}"}}',
    "time is text": f'{{"Created":"{T0}","Key":"{WRAPPED}"}}',
    "time is true": f'{{"Created":true,"Key":"{WRAPPED}"}}',
    "unpadded": f'{{"Created":{T0},"Key":"{WRAPPED}AA"}}',
    "url-safe": f'{{"Created":{T0},"Key":"{WRAPPED[:-2]}_-"}}',
    "parent is text": f'{{"Created":{T0},"Key":"{WRAPPED}","ParentKeyMeta":"x"}}',
    "parent without id": f'{{"Created":{T0},"Key":"{WRAPPED}","ParentKeyMeta":{{"Created":60}}}}',
    "revoked is text": f'{{"Created":{T0},"Key":"{WRAPPED}","Revoked":"yes"}}',
}


@on("sqlite", "pg-jsonb-timestamptz", "mariadb-text", "dynamodb")
async def test_garbage_in_a_row_is_a_format_error(backend: Backend, store: Any) -> None:
    """Typed, not retryable, and with the row's name, not its content."""
    await store.load_latest(SK)
    for what, text in GARBAGE.items():
        if what == "array" and backend.name == "dynamodb":
            text = "not a map"
        await in_thread(backend.put, SK, T0, text)
        for call in in_turn(store.load(SK, T0), store.load_latest(SK), collect(store.records())):
            with pytest.raises(FormatError) as caught:
                await call
            assert caught.value.retryable is False
            assert SK in str(caught.value)
            assert "AAA" not in str(caught.value)
        await store.delete(SK, T0)


@on("sqlite", "pg-text-timestamp", "mariadb-text")
async def test_what_is_not_json_is_a_format_error(backend: Backend, store: Any) -> None:
    """Where the column takes any text."""
    await store.load_latest(SK)
    for text in ["", "{", "null", "[" * 60_000, '{"a":' * 9_000, "9" * 5000]:
        await in_thread(backend.put, SK, T0, text)
        with pytest.raises(FormatError):
            await store.load(SK, T0)
        with pytest.raises(FormatError):
            await store.revoke(SK, T0)
        await store.delete(SK, T0)


# ---- Failures ------------------------------------------------------------------------------


@on("pg-jsonb-timestamptz", "mariadb-text", "dynamodb")
async def test_a_server_that_dies_is_a_retryable_error_and_comes_back(
    backend: Backend, store: Any
) -> None:
    """In the middle of its life, with a connection open: the next call after it is back works."""
    await store.store(sk())
    await in_thread(backend.server.crash)
    try:
        for call in in_turn(store.load_latest(SK), store.store(sk(T0 + 60)), store.delete(SK, T0)):
            with pytest.raises(MetastoreError) as caught:
                await call
            assert caught.value.retryable is True
            assert PASSWORD not in str(caught.value)
    finally:
        await in_thread(backend.server.start)
    assert (await store.load_latest(SK)).created == T0
    assert await store.store(sk(T0 + 60)) is True


@on("sqlite", "pg-jsonb-timestamptz", "mariadb-text")
async def test_a_lock_held_by_another_ends_in_a_retryable_error(
    backend: Backend, store: Any
) -> None:
    """``timeout`` bounds the wait for an answer, not only for a connection."""
    await store.store(sk())
    slow = backend.make(timeout=2)
    await slow.load_latest(SK)
    async with in_context(backend.stuck()):
        with pytest.raises(MetastoreError) as caught:
            await slow.store(sk(T0 + 60))
        assert caught.value.retryable is True
    assert await slow.store(sk(T0 + 60)) is True
    await slow.aclose()


@contextlib.asynccontextmanager
async def in_context(manager: contextlib.AbstractContextManager[Any]) -> AsyncIterator[Any]:
    """A blocking context manager from async code."""
    value = await in_thread(manager.__enter__)
    try:
        yield value
    finally:
        await in_thread(manager.__exit__, None, None, None)


@on(*SOME)
async def test_cancelling_returns_at_once_and_leaves_whole_rows(
    backend: Backend, store: Any
) -> None:
    """A request that gives up must not hang on a stuck database; the row is there or it is not."""
    await store.store(sk())
    record = sk(T0 + 60)
    async with in_context(backend.stuck()) as other:
        stuck = store if other is None else other
        started = time.monotonic()
        with anyio.move_on_after(0.3) as scope:
            await stuck.store(record)
        assert scope.cancelled_caught
        assert time.monotonic() - started < 8, "not after the timeout"
        if other is not None:
            await other.aclose()
    assert (await store.load(SK, T0)).created == T0
    with anyio.fail_after(60):
        while await store.load(SK, T0 + 60) is None:  # the abandoned call may win, or we do
            await store.store(record)
    assert await store.load(SK, T0 + 60) == record


def unreachable(port: int) -> list[Any]:
    """A metastore of each driver, with nobody to talk to."""
    return [
        SqlMetastore(f"postgresql://u:{'pw' * 9}@127.0.0.1:{port}/db", timeout=0.5),
        SqlMetastore(f"mysql://u:{'pw' * 9}@127.0.0.1:{port}/db", timeout=0.5),
        DynamoDbMetastore(
            session=aws_session(),
            endpoint_url=f"http://127.0.0.1:{port}",
            timeout=0.5,
            attempts=1,
        ),
    ]


async def fails_retryably(made: Any) -> None:
    """Its calls do, within a few seconds."""
    with anyio.fail_after(30), pytest.raises(MetastoreError) as caught:
        await made.load_latest(SK)
    assert caught.value.retryable is True
    assert "pw" not in str(caught.value)
    await made.aclose()


async def test_a_server_that_never_answers_is_a_retryable_error() -> None:
    """Bounded by ``timeout``."""
    with silent_server() as port:
        async with anyio.create_task_group() as group:
            for made in unreachable(port):
                group.start_soon(fails_retryably, made)


async def test_no_server_is_a_retryable_error() -> None:
    """Nothing listens."""
    for made in unreachable(free_port()):
        await fails_retryably(made)


@on("pg-jsonb-timestamptz", "mariadb-text")
async def test_a_wrong_password_is_not_retryable_and_not_shown(backend: Sql) -> None:
    """Trying again would lock the account."""
    wrong = f"wrong-{secrets.token_hex(8)}"
    url = sa.make_url(anyseal.metastore.sql._urls.parse(backend.url).url).set(password=wrong)
    made = SqlMetastore(url, table=backend.table)
    with pytest.raises(MetastoreError) as caught:
        await made.load_latest(SK)
    assert caught.value.retryable is False
    shown: BaseException | None = caught.value
    while shown is not None:
        assert wrong not in str(shown) + repr(shown)
        shown = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)
    assert wrong not in repr(made)
    await made.aclose()


@on(*SQL_KINDS)
async def test_a_missing_table_is_an_error_until_it_is_made(backend: Sql, store: Any) -> None:
    """Its makers may come later; ``create_table`` is explicit but for SQLite."""
    await in_thread(backend.close)
    made = backend.make(create_table=False)
    with pytest.raises(MetastoreError) as caught:
        await made.load_latest(SK)
    assert caught.value.retryable is False
    await made.create_table()
    await made.create_table()
    record = ik(key_id="_IK_Bob_svc_prod")
    assert await made.store(record) is True
    assert await made.store(ik(key_id="_IK_bob_svc_prod")) is True
    assert await made.load_latest(record.id) == record
    await made.aclose()
    created = backend.make(create_table=True)
    assert await created.load_latest(record.id) == record
    await created.aclose()


@on("sqlite", "pg-jsonb-timestamptz", "mariadb-text")
async def test_an_unusable_table_is_not_retryable(backend: Sql) -> None:
    """Above all one without the primary key: two processes would each keep a key of their own."""
    unusable = [
        "id VARCHAR(255), created TIMESTAMP, key_record TEXT",
        "id VARCHAR(255), created TIMESTAMP, key_record TEXT, PRIMARY KEY (id)",
        "id VARCHAR(255), made TIMESTAMP, key_record TEXT",
    ]
    if backend.name != "sqlite":  # its columns have no types
        unusable += [
            "id VARCHAR(255), created BIGINT, key_record TEXT, PRIMARY KEY (id, created)",
            "id VARCHAR(255), created TIMESTAMP, key_record INTEGER, PRIMARY KEY (id, created)",
        ]
    made = backend.make()
    for columns in unusable:
        await in_thread(backend.execute, f"DROP TABLE IF EXISTS {backend.table}")
        await in_thread(backend.execute, f"CREATE TABLE {backend.table} ({columns})")
        with pytest.raises(MetastoreError) as caught:
            await made.store(sk())
        assert caught.value.retryable is False
    await made.aclose()


async def test_a_closed_metastore_says_so(backend: Backend) -> None:
    """``aclose`` twice is fine; what was in the table stays."""
    made = backend.make()
    if backend.name == "dynamodb":
        await made.create_table()
    await made.store(sk())
    await made.aclose()
    await made.aclose()
    if backend.name == "memory":
        return
    with pytest.raises(MetastoreError, match="closed") as caught:
        await made.load_latest(SK)
    assert caught.value.retryable is False


@on(*SOME)
async def test_several_event_loops_share_one_metastore(backend: Backend, store: Any) -> None:
    """The sync side has an event loop of its own, in another thread."""
    record = sk()
    await store.store(record)
    found: list[Any] = []

    async def there() -> None:
        found.append(await store.load_latest(SK))
        if backend.name == "dynamodb":  # each event loop closes its own client
            slot = store._slots.get()
            await slot.client.close()

    def run() -> None:
        anyio.run(there)

    thread = threading.Thread(target=run)
    thread.start()
    await in_thread(thread.join)
    assert found == [record]
    assert await store.load_latest(SK) == record


FORK = """
import os, sys
import anyio
import anyseal.metastore
from anyseal.ports import KeyRecord

store = {source}

async def use(created):
    record = KeyRecord(id="_SK_fork", created=created, key=b"k" * 60)
    assert await store.store(record) is True
    assert await store.load_latest("_SK_fork") == record
    if isinstance(store, anyseal.metastore.DynamoDbMetastore):
        await store.aclose()
        store._closed = False

anyio.run(use, 60, backend={backend!r})
child = os.fork()
if child == 0:
    try:
        anyio.run(use, 120, backend={backend!r})
        sys.stdout.flush()
        os._exit(0)
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
anyio.run(use, 180, backend={backend!r})
anyio.run(store.aclose, backend={backend!r})
"""


@on(*SOME)
@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], indirect=True, ids=["asyncio"])
async def test_a_forked_child_connects_anew(backend: Backend, anyio_backend: Any) -> None:
    """A connection used from both sides would mix up their answers."""
    script = textwrap.dedent(FORK).format(source=backend.source(), backend=anyio_backend[0])

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-W", "ignore:::multiprocessing", "-c", script],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_EC2_METADATA_DISABLED": "true",
            },
        )

    done = await in_thread(run)
    assert (done.returncode, done.stderr) == (0, "")
    made = backend.make()
    assert [record.created for record in await collect(made.versions("_SK_fork"))] == [60, 120, 180]
    await made.aclose()


# ---- SQL's own -----------------------------------------------------------------------------


async def test_sqlite_times_are_text(tmp_path: Path) -> None:
    """As other implementations write and compare them."""
    made = SqlMetastore(f"sqlite:///{tmp_path}/keys.db")
    await made.store(sk())
    await made.aclose()

    def rows() -> list[Any]:
        engine = sa.create_engine(f"sqlite:///{tmp_path}/keys.db", poolclass=sa.pool.NullPool)
        with engine.connect() as connection:
            text = sa.text("SELECT typeof(created), created FROM encryption_key")
            return [tuple(row) for row in connection.execute(text)]

    assert await in_thread(rows) == [("text", "2026-11-21 23:59:00")]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
async def test_sqlite_in_memory_is_one_database(url: str) -> None:
    """Whatever worker thread a call lands in."""
    made = SqlMetastore(url)
    records = [sk(T0 + 60 * number) for number in range(20)]
    async with anyio.create_task_group() as group:
        for record in records:
            group.start_soon(made.store, record)
    assert await collect(made.versions(SK)) == records
    await made.aclose()


@on("pg-text-timestamp", "pg-jsonb-timestamptz", "mariadb-text", "sqlite")
async def test_an_engine_of_the_callers_own(backend: Sql) -> None:
    """Its sessions are in the server's zone (New York), transactional, and stay open after us."""
    engine = sa.create_engine(backend.engine.url)
    made = SqlMetastore(engine, table=backend.table, create_table=True)
    created = 1_793_511_000
    assert await made.store(sk(created)) is True
    assert await made.store(sk(created + 3600)) is True
    assert await made.store(sk(created)) is False
    assert await made.revoke(SK, created) is True
    await made.aclose()
    usual = backend.make()
    assert [r.created for r in await collect(usual.versions(SK))] == [created, created + 3600]
    await usual.aclose()
    assert engine.pool.checkedout() == 0
    assert engine.pool.checkedin() >= 1
    await in_thread(engine.dispose)


@on("mariadb-text")
async def test_mysql_tables_filled_in_another_zone_can_be_read(backend: Sql) -> None:
    """A peer that does not set its sessions' zone writes UTC wall clocks into a New York session:
    with our default that is a visible error, with ``time_zone`` it works."""
    peer = backend.make(time_zone="SYSTEM")
    record = sk()
    await peer.store(record)
    usual = backend.make()
    assert await usual.load(SK, T0) is None
    with pytest.raises(FormatError, match="Created"):
        await usual.load_latest(SK)
    assert await peer.load_latest(SK) == record
    for made in (peer, usual):
        await made.aclose()


@on("mariadb-text")
async def test_mysql_collations_that_confuse_ids_are_found_out(backend: Sql) -> None:
    """With the canonical DDL and a default collation Bob's key would be taken for bob's."""
    await in_thread(backend.execute, f"DROP TABLE {backend.table}")
    collate = " COLLATE utf8mb4_general_ci"
    ddl = MARIADB.format(collate=collate, created="TIMESTAMP", record="TEXT")
    await in_thread(backend.execute, ddl.format(table=backend.table))
    made = backend.make()
    bob = ik(key_id="_IK_Bob_svc_prod")
    assert await made.store(bob) is True
    assert await made.store(ik(key_id=bob.id)) is False
    assert await made.load_latest("_IK_bob_svc_prod") is None
    assert await made.load("_IK_bob_svc_prod", T0) is None
    assert await made.delete("_IK_bob_svc_prod", T0) is False
    assert await collect(made.records("_IK_bob")) == []
    with pytest.raises(MetastoreError, match="collation") as caught:
        await made.store(ik(key_id="_IK_bob_svc_prod"))
    assert caught.value.retryable is False
    await made.aclose()


@on("mariadb-text")
async def test_mysql_refuses_what_its_timestamp_cannot_say(backend: Sql) -> None:
    """After 2038 some servers would store zeros and a warning: never half a truth."""
    made = backend.make()
    with pytest.raises(MetastoreError) as caught:
        await made.store(sk(2**32))
    assert caught.value.retryable is False
    assert await collect(made.records()) == []
    await made.aclose()


@on("pg-jsonb-timestamptz", "mariadb-text", "sqlite")
async def test_replica_consistency(backend: Sql) -> None:
    """Said to Aurora on every connection; a database that is none says what it does not know."""
    for wrong in ("strong", "EVENTUAL", "x'; DROP TABLE y; --"):
        with pytest.raises(ConfigurationError):
            backend.make(replica_consistency=wrong)
    if backend.name == "sqlite":
        with pytest.raises(ConfigurationError):
            backend.make(replica_consistency="session")
        return
    made = backend.make(replica_consistency="session")
    if backend.name == "mariadb-text":
        with pytest.raises(MetastoreError, match="aurora_replica_read_consistency") as caught:
            await made.load_latest(SK)
        assert caught.value.retryable is False
    else:
        assert await made.load_latest(SK) is None

        def shown() -> Any:
            with made._connected("test") as connection:
                ask = "SHOW apg_write_forward.consistency_mode"
                return connection.exec_driver_sql(ask).scalar_one()

        assert await in_thread(shown) == "session"
    await made.aclose()


@on("pg-jsonb-timestamptz", "mariadb-text")
async def test_the_rights_really_needed(backend: Sql) -> None:
    """docs/metastores.md names them: SELECT and INSERT to work, UPDATE and DELETE to administer."""
    user = f"u_{secrets.token_hex(4)}"
    if isinstance(backend.server, Postgres):
        whom, made_how = user, f"CREATE ROLE {user} LOGIN PASSWORD 'limited'"
        table = backend.table
    else:
        whom = f"'{user}'@'127.0.0.1'"
        made_how = f"CREATE USER {whom} IDENTIFIED BY 'limited'"
        table = f"`keys`.{backend.table}"

    def as_root(*statements: str) -> None:
        login = ("root", "") if isinstance(backend.server, MariaDb) else ()
        with backend.server.connect(*login) as root, root.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    await in_thread(as_root, made_how, f"GRANT SELECT, INSERT ON {table} TO {whom}")
    url = sa.make_url(backend.engine.url).set(username=user, password="limited")
    made = SqlMetastore(url, table=backend.table)
    assert await made.store(sk()) is True
    assert await made.store(sk()) is False
    assert (await made.load_latest(SK)).created == T0
    for call in in_turn(made.revoke(SK, T0), made.delete(SK, T0)):
        with pytest.raises(MetastoreError) as caught:
            await call
        assert caught.value.retryable is False
    await in_thread(as_root, f"GRANT UPDATE, DELETE ON {table} TO {whom}")
    assert await made.revoke(SK, T0) is True
    assert await made.delete(SK, T0) is True
    await made.aclose()
    await in_thread(as_root, f"REVOKE ALL ON {table} FROM {whom}", f"DROP USER {whom}")


@on("pg-jsonb-timestamptz", "mariadb-text")
async def test_the_pool_is_bounded_and_replaces_idle_connections(backend: Sql) -> None:
    """Databases count connections; firewalls drop idle ones."""
    made = backend.make(pool_max_open=2, pool_max_idle=1, pool_max_idle_time=2)
    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(made.store, sk(T0 + 60 * number))
    assert made._engine.pool.checkedin() == 1

    def session_id() -> int:
        ask = "SELECT pg_backend_pid()" if "pg" in backend.name else "SELECT CONNECTION_ID()"
        with made._connected("test") as connection:
            found: int = connection.exec_driver_sql(ask).scalar_one()
            return found

    async def again() -> int:
        found = await in_thread(session_id)
        assert await in_thread(session_id) == found
        return found

    first = await in_time(2, again)
    await anyio.sleep(2.1)
    assert await in_thread(session_id) != first
    await made.aclose()


@pytest.mark.parametrize(
    "settings",
    [
        {"table": "keys; DROP TABLE x"},
        {"table": "a.b.c"},
        {"table": ""},
        {"time_zone": "'; DROP TABLE x"},
        {"pool_max_idle": -1},
        {"pool_max_open": -1},
    ],
)
async def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    """At once, not on first use."""
    with pytest.raises(ConfigurationError):
        SqlMetastore("mysql://u:p@h/d", **settings)


async def test_the_repr_shows_no_password() -> None:
    """It ends up in logs."""
    made = SqlMetastore("postgresql://me:hunter2@db.example/keys?sslpassword=hunter3")
    assert "hunter" not in repr(made)
    assert "db.example" in repr(made)


# ---- DynamoDB's own ------------------------------------------------------------------------


@on("dynamodb")
async def test_the_region_suffix_is_the_clients_region(backend: Dynamo) -> None:
    """Global tables need it; only the session or client knows it."""
    assert backend.make().region_suffix is None
    assert backend.make(region_suffix=True).region_suffix == REGION
    assert backend.make(region_suffix=True, region="us-west-2").region_suffix == "us-west-2"
    async with aws_session().create_client(
        "dynamodb",
        region_name="sa-east-1",
        endpoint_url=backend.server.url,
        config=http_config(),
    ) as client:
        made = DynamoDbMetastore(client=client, table=backend.table, region_suffix=True)
        assert made.region_suffix == "sa-east-1"
        await made.aclose()
    with pytest.raises(ConfigurationError):
        await in_thread(lambda: DynamoDbMetastore(session=AioSession(), region_suffix=True))
    with pytest.raises(ConfigurationError):
        DynamoDbMetastore(client=object(), region="x")


def http_config() -> Any:
    from aiobotocore.config import AioConfig
    from aiobotocore.httpxsession import HttpxSession

    return AioConfig(http_session_cls=HttpxSession, warm_up_loader_caches=True)


async def test_a_signing_region_gives_the_endpoint() -> None:
    """As the peers' settings have it."""
    made = DynamoDbMetastore(region="eu-west-1", signing_region="us-east-1", region_suffix=True)
    assert made._endpoint_url == "https://dynamodb.eu-west-1.amazonaws.com"
    assert made.region_suffix == "us-east-1"


class FailingClient:
    """A client whose requests all fail."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def get_item(self, **_request: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("code", "status", "retryable"),
    [
        ("ProvisionedThroughputExceededException", 400, True),
        ("ThrottlingException", 400, True),
        ("RequestLimitExceeded", 400, True),
        ("InternalServerError", 500, True),
        ("Whatever", 503, True),
        ("AccessDeniedException", 400, False),
        ("ResourceNotFoundException", 400, False),
        ("ValidationException", 400, False),
        ("UnrecognizedClientException", 400, False),
    ],
)
async def test_dynamodb_errors_say_if_trying_again_helps(
    code: str, status: int, retryable: bool
) -> None:
    """Throttling passes; missing rights do not."""
    from botocore.exceptions import ClientError

    answer: Any = {
        "Error": {"Code": code, "Message": "m"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    made = DynamoDbMetastore(client=FailingClient(ClientError(answer, "GetItem")))
    with pytest.raises(MetastoreError, match=code) as caught:
        await made.load(SK, T0)
    assert caught.value.retryable is retryable


@on("dynamodb")
async def test_a_missing_dynamodb_table_is_not_retryable(backend: Dynamo) -> None:
    """And is named."""
    made = DynamoDbMetastore(
        session=aws_session(), endpoint_url=backend.server.url, table="absent", attempts=1
    )
    with pytest.raises(MetastoreError, match="ResourceNotFound") as caught:
        await made.load_latest(SK)
    assert caught.value.retryable is False
    await made.aclose()


@on("dynamodb")
async def test_no_credentials_are_not_retryable(
    backend: Dynamo, monkeypatch: pytest.MonkeyPatch, blocking_calls_fail: BlockBuster | None
) -> None:
    """They do not come by waiting. (aiobotocore looks for the files in the event loop.)"""
    if blocking_calls_fail is not None:
        blocking_calls_fail.functions["os.stat"].deactivate()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    made = DynamoDbMetastore(region=REGION, endpoint_url=backend.server.url, attempts=1)
    with pytest.raises(MetastoreError, match="NoCredentials") as caught:
        await made.load_latest(SK)
    assert caught.value.retryable is False
    await made.aclose()


# ---- Keys that are dated in the future -----------------------------------------------------


async def test_latest_before_a_time_is_strictly_before_it(store: Any) -> None:
    """What the hierarchy asks for while a wrong clock's key is the latest one."""
    assert await store.load_latest_before(IK, T0) is None
    records = [ik(T0), ik(T0 + 60), ik(T0 + 120, revoked=True), ik(T0 + 10_000)]
    for record in [*records, sk(T0 + 61), ik(T0 + 62, key_id=IK + "x")]:
        assert await store.store(record)
    for created, expected in [
        (T0, None),
        (T0 + 1, records[0]),
        (T0 + 60, records[0]),
        (T0 + 61, records[1]),
        (T0 + 10_000, records[2]),
        (T0 + 10_001, records[3]),
    ]:
        assert expected == await store.load_latest_before(IK, created)
    for key_id, created in [("", T0), (IK, -1), ("\ud800", T0), (IK.lower(), T0)]:
        assert await store.load_latest_before(key_id, created) is None


# ---- Wrapping again, and a table that is not there -------------------------------------------


async def test_replaced_key_only_where_the_old_one_still_is(store: Any) -> None:
    """Two processes that rewrap, or one that revokes beside it, must not undo each other."""
    record, other = sk(), sk(T0 + 60)
    assert await store.store(record)
    assert await store.store(other)
    new = dataclasses.replace(record, key=b"n" * 100)
    assert await store.replace_key(record, new.key) is True
    assert await store.replace_key(record, b"m" * 60) is False, "it has changed since"
    assert new == await store.load(SK, T0)
    assert await store.revoke(SK, T0)
    assert await store.replace_key(new, b"k" * 60) is True
    assert dataclasses.replace(new, key=b"k" * 60, revoked=True) == await store.load(SK, T0)
    assert other == await store.load(SK, T0 + 60)
    assert await store.delete(SK, T0)
    assert await store.replace_key(new, b"m" * 60) is False
    assert await store.load(SK, T0) is None


@on(*SOME)
async def test_start_tells_that_the_key_table_is_missing(backend: Any) -> None:
    """A service must not begin with a database that was never set up; the remedy is one command.
    What was opened to find out is closed."""
    table = f"later_{secrets.token_hex(4)}"

    def make() -> Any:
        if backend.name != "dynamodb":
            return SqlMetastore(backend.url, table=table, create_table=False)
        return DynamoDbMetastore(
            session=aws_session(), endpoint_url=backend.server.url, table=table, attempts=1
        )

    def factory(kind: Any) -> Any:
        kms = FileKms.__new__(FileKms)
        return kind(KeyHierarchy(kms, make(), service="svc", product="prod"))

    def enter() -> None:
        with factory(sync.SessionFactory):
            pass

    failing = await anyio.to_thread.run_sync(factory, SessionFactory)
    with pytest.raises(MetastoreError, match="anyseal keys init") as caught:
        async with failing:
            pass
    assert not caught.value.retryable
    with pytest.raises(ConfigurationError, match="closed"):
        failing.session("u1")
    with pytest.raises(MetastoreError, match="anyseal keys init"):
        await anyio.to_thread.run_sync(enter)
    made = await anyio.to_thread.run_sync(make)
    await made.create_table()
    await made.aclose()
    async with await anyio.to_thread.run_sync(factory, SessionFactory):
        pass
    await anyio.to_thread.run_sync(enter)


async def test_start_does_not_fail_for_a_metastore_that_is_down(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An outage is no wrong set-up: who has warm keys elsewhere must be able to restart."""
    made = SqlMetastore("postgresql://nobody@127.0.0.1:1/keys", timeout=2)
    kms = FileKms.__new__(FileKms)
    async with SessionFactory(KeyHierarchy(kms, made, service="svc", product="prod")):
        pass
    assert "does not answer at the start" in caplog.text
