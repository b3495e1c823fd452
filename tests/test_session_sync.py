"""Sessions without await: from any thread, beside any loop, and for warm keys without one."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from anyseal import (
    ConfigurationError,
    DecryptionError,
    FormatError,
    WrongPartitionError,
    offload,
    sync,
)
from anyseal.ports import AuditEvent
from anyseal.session import INLINE_ROW_BYTES
from anyseal.testing import Clock, Recorder
from doubles import IK, SK, World
from support import pattern, run_python, said

SIZES = (0, 1, 2, 64, INLINE_ROW_BYTES, INLINE_ROW_BYTES + 1, 1 << 20)


class Rows:
    """An application's table."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    def load(self, key: str) -> str | None:
        return self.kept.get(key)

    def store(self, key: str, row: str) -> None:
        self.kept[key] = row


@pytest.mark.parametrize("hooks", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_sync_session_round_trips(size: int, hooks: bool) -> None:
    """Every method, with and without hooks, whose paths differ."""
    data = pattern(size)
    settings: dict[str, Any] = {"metrics": Recorder(), "audit": Recorder()} if hooks else {}
    with World().sync_factory(**settings) as factory, factory.session("u1") as session:
        row = session.encrypt(data)
        assert isinstance(row, str)
        raw = session.encrypt_row(memoryview(data))
        assert isinstance(raw, bytes)
        for sealed in (row, row.encode(), raw, bytearray(raw), memoryview(raw)):
            assert data == session.decrypt(sealed)
            assert data == session.decrypt_row(sealed)
        assert [data] * 2 == session.decrypt_many(session.encrypt_many([data, bytearray(data)]))
        assert "é" == session.decrypt_text(session.encrypt_text("é"))
        rows = Rows()
        session.store("key", data, rows)
        assert data == session.load("key", rows)
        assert session.load("no such key", rows) is None


@pytest.mark.anyio
async def test_sync_session_reads_the_async_ones_rows() -> None:
    """A service may be half migrated: both sides read each other."""
    world = World()
    async with world.factory() as factory:
        row = await factory.session("u1").encrypt(b"async")

    def other_side() -> str:
        with world.sync_factory() as blocking:
            session = blocking.session("u1")
            assert b"async" == session.decrypt(row)
            return session.encrypt(b"sync")

    back = await anyio.to_thread.run_sync(other_side)
    async with world.factory() as factory:
        assert b"sync" == await factory.session("u1").decrypt(back)


def test_sync_session_warm_uses_no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way to the shared loop and back costs a hundred times the work."""
    with World().sync_factory() as factory:
        session = factory.session("u1")
        old = session.encrypt(b"old")
        offload.wait(factory.hierarchy.rotate, "u1")
        session.encrypt(b"")
        with monkeypatch.context() as patch:
            patch.setattr(offload, "wait", None)
            assert b"x" == session.decrypt(session.encrypt(b"x"))
            assert b"x" == session.decrypt(session.encrypt_row(b"x"))
            assert b"old" == session.decrypt(old)


@pytest.mark.parametrize("hooks", [False, True])
@pytest.mark.parametrize("method", ["encrypt", "encrypt_row", "encrypt_text", "encrypt_many"])
def test_sync_session_refuses_wrong_types_before_anything(method: str, hooks: bool) -> None:
    """None is a bug of the caller: no key is looked for, let alone made, on its account."""
    world = World()
    settings: dict[str, Any] = {"metrics": Recorder(), "audit": Recorder()} if hooks else {}
    with world.sync_factory(**settings) as factory:
        session = factory.session("u1")
        for value in (None, 1, [1], object()):
            with pytest.raises(TypeError):
                getattr(session, method)([value] if method == "encrypt_many" else value)
            with pytest.raises(TypeError):
                session.decrypt(value)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            session.encrypt("text")
        assert not world.calls.count


def test_sync_session_errors_are_the_async_ones() -> None:
    """Wrong partition, tampered, garbage: the same types, and no look at the metastore."""
    world = World()
    with world.sync_factory() as factory:
        session, other = factory.session("u1"), factory.session("u2")
        row = session.encrypt(b"data")
        world.calls.count.clear()
        with pytest.raises(WrongPartitionError):
            other.decrypt(row)
        swapped = row[:-8] + ("A" if row[-8] != "A" else "B") + row[-7:]
        with pytest.raises(DecryptionError):
            session.decrypt(swapped)
        for garbage in ("", "null", row[:-1], "\ud800", "x" * 1_000_000):
            with pytest.raises(FormatError):
                session.decrypt(garbage)
        assert not world.calls.count


def test_sync_session_closed_is_closed() -> None:
    """On the warm path too, with and without hooks; and after the factory is closed."""
    for settings in ({}, {"metrics": Recorder()}):
        world = World()
        with world.sync_factory(**settings) as factory:
            session = factory.session("u1")
            row = session.encrypt(b"")
            session.close()
            session.close()
            for call in (session.encrypt, session.encrypt_row, partial(session.decrypt, row)):
                with pytest.raises(ConfigurationError, match="closed"):
                    call(*([] if isinstance(call, partial) else [b""]))
            left = factory.session("u1")
            assert b"" == left.decrypt(row)
        factory.close()
        with pytest.raises(ConfigurationError, match="closed"):
            factory.session("u1")
        with pytest.raises(ConfigurationError, match="closed"):
            left.encrypt(b"")
        with pytest.raises(ConfigurationError, match="closed"):
            left.decrypt(row)
        assert 1 == world.calls.count["close metastore"]


def test_sync_session_serves_many_threads_with_one_call_each() -> None:
    """A threaded server starts cold with all its threads at once."""
    world = World()
    world.calls.delay = 0.02
    with world.sync_factory() as factory:
        barrier = threading.Barrier(32)

        def work(n: int) -> bool:
            session = factory.session(f"u{n % 2}")
            barrier.wait(60)
            return all(session.decrypt(session.encrypt(b"%d" % i)) == b"%d" % i for i in range(200))

        with ThreadPoolExecutor(32) as pool:
            assert [True] * 32 == list(pool.map(work, range(32)))
        count = world.calls.count
        assert (1, 3) == (count["wrap"], count["store"])
        assert count["load_latest"] <= 3


def test_sync_session_threads_and_small_caches() -> None:
    """Entries that vanish between two steps of another thread must not surface as KeyError."""
    world = World(key_cache_size=2, session_cache_size=2)
    with world.sync_factory() as factory:
        rows = {f"u{n}": factory.session(f"u{n}").encrypt(b"%d" % n) for n in range(5)}

        def work(seed: int) -> None:
            for i in range(60):
                n = (seed * 7 + i * 3) % 5
                session = factory.session(f"u{n}")
                assert b"%d" % n == session.decrypt(rows[f"u{n}"])
                session.encrypt(b"x")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        assert len(factory._cache) <= 2 + 1
    assert Counter({IK.replace("u1", f"u{n}"): 1 for n in range(5)}) == Counter(
        {key_id: len(world.rows(key_id)) for key_id in world.store._rows if key_id != SK}
    )


@pytest.mark.anyio
async def test_sync_session_inside_a_running_loops_worker_thread() -> None:
    """A sync view of an async framework: it runs in a worker thread, cold keys included."""
    world = World()
    with anyio.fail_after(60):
        factory = await anyio.to_thread.run_sync(world.sync_factory)

        def view(n: int) -> bytes:
            session = factory.session(f"u{n}")
            return session.decrypt(session.encrypt(b"%d" % n))

        got: list[bytes] = []

        async def handle(n: int) -> None:
            got.append(await anyio.to_thread.run_sync(view, n))

        async with anyio.create_task_group() as group:
            for n in range(20):
                group.start_soon(handle, n)
        await anyio.to_thread.run_sync(factory.close)
    assert sorted(b"%d" % n for n in range(20)) == sorted(got)


def test_sync_and_async_share_one_hierarchy() -> None:
    """Both sides over one hierarchy, cold at the same moment: one key, no deadlock."""
    world = World()
    world.calls.delay = 0.05
    hierarchy = world.hierarchy()
    blocking = sync.SessionFactory(hierarchy)
    rows: list[str] = []

    async def main() -> None:
        from anyseal import SessionFactory

        factory = SessionFactory(hierarchy)

        async def encrypt() -> None:
            rows.append(await factory.session("u1").encrypt(b"data"))

        def block() -> None:
            rows.append(blocking.session("u1").encrypt(b"data"))

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(encrypt)
                    group.start_soon(anyio.to_thread.run_sync, block)

    anyio.run(main, backend="trio")
    assert [b"data"] * 20 == blocking.session("u1").decrypt_many(rows)
    assert (1, 1, 1) == (world.calls.count["wrap"], len(world.rows(SK)), len(world.rows(IK)))
    blocking.close()


def test_sync_hooks_see_each_operation_once() -> None:
    """The same numbers as on the async side."""
    metrics, audit = Recorder(), Recorder()
    with World().sync_factory(metrics=metrics, audit=audit) as factory:
        session = factory.session("u1")
        row = session.encrypt(b"data")
        session.encrypt_row(b"data")
        session.decrypt(row)
        with pytest.raises(WrongPartitionError):
            factory.session("u2").decrypt(row)
    assert [
        AuditEvent("u1", IK, "encrypt", "ok"),
        AuditEvent("u1", IK, "encrypt", "ok"),
        AuditEvent("u1", IK, "decrypt", "ok"),
        AuditEvent("u2", IK, "decrypt", "WrongPartitionError"),
    ] == audit.events
    assert (2, 2) == (metrics.count(operation="encrypt"), metrics.count(operation="decrypt"))
    assert 2 == metrics.count(outcome="hit", cache="intermediate-key")
    assert 1 == metrics.count(outcome="miss", cache="intermediate-key")


def test_sync_session_follows_the_clock() -> None:
    """The shortcut for warm keys must end with the key, like the long way."""
    with Clock() as clock:
        world = World(expire_key_after=86400)
        with world.sync_factory() as factory:
            session = factory.session("u1")
            row = session.encrypt(b"old")
            world.calls.count.clear()
            clock.turn(3601)
            session.decrypt(row)
            assert 2 == world.calls.count["load"], "key and parent"
            clock.turn(90000)
            assert session.decrypt(row) == session.decrypt(session.encrypt(b"old"))
            assert 2 == len(world.rows(IK))


@pytest.mark.parametrize("loop_first", [True, False])
@pytest.mark.parametrize("used", [True, False])
def test_sync_factory_closes_at_exit(loop_first: bool, used: bool) -> None:
    """Services close in an atexit handler: also when the shared event loop has ended before."""
    code = f"""
        import atexit
        from anyseal import offload, sync
        from anyseal.testing import memory_hierarchy
        factory = sync.SessionFactory(memory_hierarchy())
        if {loop_first}:
            offload.portal()
        def close():
            factory.close()
            factory.close()
            print(len(factory.hierarchy.partitions))
        atexit.register(close)
        if {used}:
            row = factory.session("u1").encrypt(b"data")
            print(factory.session("u1").decrypt(row))
    """
    assert (["b'data'"] if used else []) + ["0"] == said(run_python(code))
