"""Sessions: what goes in comes out, what does not belong is refused, nothing stalls the loop."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import anyio
import pytest

from anyseal import (
    ConfigurationError,
    DecryptionError,
    FormatError,
    MetastoreError,
    SessionFactory,
    WrongPartitionError,
    offload,
)
from anyseal.errors import KeyNotFoundError
from anyseal.ports import AuditEvent, CacheEvent, TimingEvent
from anyseal.record import parse_row
from anyseal.session import INLINE_ROW_BYTES
from anyseal.testing import Clock, Recorder
from doubles import IK, World, finish
from support import in_turn, pattern

pytestmark = pytest.mark.anyio
SIZES = (0, 1, 2, 3, 64, 1000, INLINE_ROW_BYTES, INLINE_ROW_BYTES + 1, 1 << 20)


class Rows:
    """An application's table."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    async def load(self, key: str) -> str | None:
        return self.kept.get(key)

    async def store(self, key: str, row: str) -> None:
        self.kept[key] = row


@pytest.mark.parametrize("size", SIZES)
async def test_session_round_trips(size: int) -> None:
    """Every method, on both sides of the size at which the work leaves the loop."""
    data = pattern(size)
    async with World().factory() as factory, factory.session("u1") as session:
        row = await session.encrypt(data)
        assert isinstance(row, str)
        raw = await session.encrypt_row(memoryview(data))
        assert isinstance(raw, bytes)
        for sealed in (row, row.encode(), raw, bytearray(raw), memoryview(raw)):
            assert data == await session.decrypt(sealed)
            assert data == await session.decrypt_row(sealed)
        many = await session.encrypt_many([data, bytearray(data)])
        assert 2 == len(set(many))
        assert [data] * 2 == await session.decrypt_many(many)
        text = data.hex() + "é\u2028"
        assert text == await session.decrypt_text(await session.encrypt_text(text))
        rows = Rows()
        await session.store("key", data, rows)
        assert data == await session.load("key", rows)
        assert await session.load("no such key", rows) is None


async def test_session_row_has_the_public_form() -> None:
    """Other implementations read it: names, order and base64 are theirs."""
    world = World()
    async with world.factory() as factory:
        row = await factory.session("u1").encrypt(b"data")
    fields = json.loads(row)
    assert row == json.dumps(fields, separators=(",", ":"))
    assert ["Key", "Data"] == list(fields)
    assert ["Created", "Key", "ParentKeyMeta"] == list(fields["Key"])
    assert {"KeyId": IK, "Created": world.rows(IK)[0].created} == fields["Key"]["ParentKeyMeta"]
    assert 28 + 4 == len(base64.b64decode(fields["Data"]))


async def test_session_reads_any_legal_json() -> None:
    """Databases and other libraries reorder, space and escape."""
    async with World().factory() as factory:
        session = factory.session("u1")
        fields = json.loads(await session.encrypt(b"data"))
        fields["Key"] = {"Revoked": True, "x": [1], **dict(reversed(fields["Key"].items()))}
        changed = json.dumps(dict(reversed(fields.items())), indent=2).replace("_IK", "\\u005fIK")
        assert b"data" == await session.decrypt(changed)


async def test_session_warm_calls_do_not_suspend() -> None:
    """A suspension costs a turn of the loop: a thousand times the encryption of a small row."""
    async with World().factory() as factory:
        session = factory.session("u1")
        await session.encrypt(b"warm")
        finish(session.encrypt(pattern(INLINE_ROW_BYTES)))
        half = pattern(INLINE_ROW_BYTES // 2)
        assert half == finish(session.decrypt(finish(session.encrypt(half))))
        assert b"x" == finish(session.decrypt(finish(session.encrypt(b"x"))))
        assert b"x" == finish(session.decrypt_row(finish(session.encrypt_row(b"x"))))
        assert "x" == finish(session.decrypt_text(finish(session.encrypt_text("x"))))
        assert [b"x"] == finish(session.decrypt_many(finish(session.encrypt_many([b"x"]))))


async def test_session_large_rows_leave_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encrypting 100 MiB takes tens of milliseconds: other requests must not wait for it."""
    hops: list[str] = []
    real = offload.run

    async def run(function: Any, *args: Any) -> Any:
        hops.append(function.__name__)
        return await real(function, *args)

    monkeypatch.setattr(offload, "run", run)
    async with World().factory() as factory:
        session = factory.session("u1")
        large = bytes(INLINE_ROW_BYTES + 1)
        row = await session.encrypt(large)
        assert large == await session.decrypt(row)
        raw = await session.encrypt_row(large)
        assert large == await session.decrypt(raw)
    assert ["seal_row_text", "parse_row", "open_parsed"] == hops[:3]
    assert ["seal_row", "parse_row", "open_parsed"] == hops[3:]


async def test_session_many_lets_other_tasks_run() -> None:
    """A batch of 20,000 rows is one await: the loop must go round meanwhile."""
    async with World().factory() as factory:
        session = factory.session("u1")
        await session.encrypt(b"")
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await anyio.lowlevel.checkpoint()
                turns += 1

        async with anyio.create_task_group() as group:
            group.start_soon(count)
            rows = await session.encrypt_many([b"x" * 64] * 20_000)
            sealed, turns = turns, 0
            assert 20_000 == len(await session.decrypt_many(rows))
            group.cancel_scope.cancel()
        assert min(sealed, turns) > 20


WRONG = [None, "text", 1, [1], object()]


@pytest.mark.parametrize("method", ["encrypt", "encrypt_row", "encrypt_text", "store"])
@pytest.mark.parametrize("hooks", [False, True])
async def test_session_refuses_wrong_types_before_anything(method: str, hooks: bool) -> None:
    """None is a bug of the caller: no key is looked for, let alone made, on its account."""
    world = World()
    settings: dict[str, Any] = {"metrics": Recorder(), "audit": Recorder()} if hooks else {}
    async with world.factory(**settings) as factory:
        session = factory.session("u1")
        for value in WRONG:
            if method == "encrypt_text" and isinstance(value, str):
                continue
            call: Any = getattr(session, method)
            with pytest.raises(TypeError):
                await (call("key", value, Rows()) if method == "store" else call(value))
        for value in (None, 1, [1]):
            with pytest.raises(TypeError):
                await session.decrypt(value)
        assert not world.calls.count


@pytest.mark.parametrize("warm", [True, False])
async def test_session_refuses_other_partitions(warm: bool) -> None:
    """The one promise of partitions; and nothing is asked on a stranger's behalf."""
    world = World()
    async with world.factory() as factory:
        row = await factory.session("u1").encrypt(b"data")
    async with world.factory() as factory:
        session = factory.session("u2")
        if warm:
            await session.encrypt(b"")
        world.calls.count.clear()
        with pytest.raises(WrongPartitionError):
            await session.decrypt(row)
        assert not world.calls.count


async def test_session_finds_every_change() -> None:
    """Tampered, cut and mixed rows: distinct typed errors, never data, never a write."""
    world = World()
    async with world.factory() as factory:
        session = factory.session("u1")
        row, other = await session.encrypt(b"data"), await session.encrypt(b"else")
        world.calls.count.clear()
        for size in range(len(row)):
            with pytest.raises(FormatError):
                await session.decrypt(row[:size])
        fields = json.loads(row)
        for where in ("Data", "Key"):
            for at in (0, 10, 30):
                changed = json.loads(row)
                holder = changed if where == "Data" else changed["Key"]
                blob = bytearray(base64.b64decode(holder[where]))
                blob[at] ^= 1
                holder[where] = base64.b64encode(blob).decode()
                with pytest.raises(DecryptionError):
                    await session.decrypt(json.dumps(changed))
                with pytest.raises(DecryptionError):
                    await session.decrypt(json.dumps(changed, separators=(",", ":")))
        with pytest.raises(DecryptionError):
            await session.decrypt(json.dumps({**fields, "Data": json.loads(other)["Data"]}))
        fields["Key"]["ParentKeyMeta"]["Created"] += 60
        with pytest.raises(KeyNotFoundError):
            await session.decrypt(json.dumps(fields))
        assert {"load"} == set(world.calls.count)


@pytest.mark.parametrize(
    "garbage", ["", "null", "{}", "[]", '{"Key":null}', "\ud800", "é", "{" * 99]
)
async def test_session_garbage_is_a_format_error(garbage: str) -> None:
    """Whatever a column holds by mistake must read as that."""
    async with World().factory() as factory:
        session = factory.session("u1")
        for _ in range(2):
            with pytest.raises(FormatError):
                await session.decrypt(garbage)
            await session.encrypt(b"warm")


@pytest.mark.parametrize("piece", [b"\0", b"[", b'{"Key":', b"A", b'"\\u0041'], ids=repr)
async def test_session_much_garbage_is_bounded(piece: bytes) -> None:
    """100 MB of anything must be refused quickly and without a copy of it."""
    garbage = piece * (100_000_000 // len(piece))
    async with World().factory() as factory:
        started = time.monotonic()
        with pytest.raises(FormatError):
            await factory.session("u1").decrypt(garbage)
        assert time.monotonic() - started < 30


async def test_session_text_must_be_text() -> None:
    """Bytes that are no text must not come out as mojibake."""
    async with World().factory() as factory:
        session = factory.session("u1")
        with pytest.raises(FormatError, match="text"):
            await session.decrypt_text(await session.encrypt(b"\xff"))
        with pytest.raises(UnicodeEncodeError):
            await session.encrypt_text("\ud800")


async def test_session_closed_is_closed() -> None:
    """Use after close is a bug that must show, on the warm path too."""
    async with World().factory() as factory:
        session = factory.session("u1")
        row = await session.encrypt(b"")
        async with session:
            pass
        await session.aclose()
        for call in in_turn(session.encrypt(b""), session.encrypt_row(b""), session.decrypt(row)):
            with pytest.raises(ConfigurationError, match="closed"):
                await call
        assert b"" == await factory.session("u1").decrypt(row)
    with pytest.raises(ConfigurationError, match="closed"):
        factory.session("u1")


async def test_session_cache_is_bounded_and_ends() -> None:
    """Size, duration, off: as configured, told by the events."""
    with Clock() as clock:
        recorder = Recorder()
        world = World(session_cache_size=2, session_cache_duration=100)

        def told() -> list[str]:
            events = [e.outcome for e in recorder.events if isinstance(e, CacheEvent)]
            recorder.events.clear()
            return events

        async with world.factory(metrics=recorder) as factory:
            for name in ("a", "b", "a", "c", "a", "b"):
                factory.session(name)
            assert ["miss", "miss", "hit", "miss", "hit", "miss"] == told()
            assert 2 == len(factory._cache)
            clock.turn(101)
            factory.session("a")
            factory.session("a")
            assert ["stale", "hit"] == told()
        off = World(session_cache_size=0)
        async with off.factory(metrics=recorder) as factory:
            session = factory.session("a")
            assert [] == told()
            await session.encrypt(b"")
            off.calls.count.clear()
            await factory.session("a").encrypt(b"")
            assert not off.calls.count, "the keys are kept all the same"


@pytest.mark.parametrize("partition", [None, 1, b"u1", "", "x" * 1025, "\ud800", []])
async def test_session_refuses_bad_partitions(partition: Any) -> None:
    """A forgotten tenant must not become a tenant."""
    recorder = Recorder()
    async with World().factory(metrics=recorder) as factory:
        with pytest.raises((TypeError, ValueError)):
            factory.session(partition)
        assert not recorder.events
        assert not factory._cache


async def test_hooks_see_each_operation_once() -> None:
    """What is charged, alarmed and audited by these numbers must be right."""
    metrics, audit = Recorder(), Recorder()
    world = World()
    async with world.factory(metrics=metrics, audit=audit) as factory:
        session = factory.session("u1")
        row = await session.encrypt(b"data")
        await session.decrypt(row)
        with pytest.raises(WrongPartitionError):
            await factory.session("u2").decrypt(row)
        with pytest.raises(FormatError):
            await session.decrypt(row[:-1])
        world.calls.fail["load_latest"] = MetastoreError("down")
        with pytest.raises(MetastoreError):
            await factory.session("u3").encrypt(b"")
    assert [
        AuditEvent("u1", IK, "encrypt", "ok"),
        AuditEvent("u1", IK, "decrypt", "ok"),
        AuditEvent("u2", IK, "decrypt", "WrongPartitionError"),
        AuditEvent("u1", "", "decrypt", "FormatError"),
        AuditEvent("u3", "", "encrypt", "MetastoreError"),
    ] == audit.events
    count = {
        name: metrics.count(operation=name) for name in ("encrypt", "decrypt", "load", "store")
    }
    assert {"encrypt": 2, "decrypt": 3, "load": 3, "store": 2} == count
    assert all(e.duration_ns >= 0 for e in metrics.events if isinstance(e, TimingEvent))
    assert (1, 2) == (
        metrics.count(outcome="hit", cache="intermediate-key"),
        metrics.count(outcome="miss", cache="intermediate-key"),
    )
    assert 1 == metrics.count(outcome="miss", cache="system-key")


async def test_hooks_cost_nothing_when_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The warm path takes no timestamp for a hook that is not there."""
    async with World().factory() as factory:
        session = factory.session("u1")
        await session.encrypt(b"")
        monkeypatch.setattr("anyseal.session._Observation", None)
        monkeypatch.setattr("anyseal.keyring.meter.TimingEvent", None)
        monkeypatch.setattr("anyseal.keyring.meter.CacheEvent", None)
        assert b"x" == await session.decrypt(await session.encrypt(b"x"))


async def test_session_never_shows_secrets() -> None:
    """Reprs end up in logs."""
    async with World().factory() as factory:
        session = factory.session("u-secret")
        row = await session.encrypt(b"plaintext")
        shown = repr((session, factory, factory.hierarchy, parse_row(row)))
        assert "plaintext" not in shown
        assert json.loads(row)["Data"] not in shown


async def test_session_factory_closes_what_it_was_given() -> None:
    """Whoever gives the hierarchy away need not keep it to close it."""
    world = World()
    async with SessionFactory(world.hierarchy()) as factory:
        await factory.session("u1").encrypt(b"")
    assert 1 == world.calls.count["close metastore"]
