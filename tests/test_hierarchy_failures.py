"""How the hierarchy fails: typed, nobody left waiting, nothing half written, well the next time."""

from __future__ import annotations

import dataclasses
import gc
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from anyseal import AnysealError, DecryptionError, KmsError, MetastoreError, offload, sync
from anyseal.errors import KeyNotFoundError
from anyseal.record import parse_row
from doubles import IK, SK, CountingKms, World
from support import in_turn, live_keys, pattern

pytestmark = pytest.mark.anyio
COLD = ("load_latest", "wrap", "store")
ERRORS: list[tuple[Exception, bool]] = [
    (MetastoreError("down"), True),
    (KmsError("denied", retryable=False), False),
    (OSError("connection reset"), True),
    (ValueError("a driver's own"), True),
]


@pytest.mark.parametrize("name", COLD)
@pytest.mark.parametrize(("error", "retryable"), ERRORS, ids=lambda value: type(value).__name__)
async def test_failure_is_typed_and_over_with_the_cause(
    name: str, error: Exception, retryable: bool
) -> None:
    """Callers decide by ``retryable``, and need no restart once the service is back."""
    world = World()
    async with world.factory() as factory:
        session = factory.session("u1")
        world.calls.fail[name] = error
        world.calls.delay = 0.005
        seen: list[AnysealError] = []

        async def encrypt() -> None:
            try:
                await session.encrypt(b"data")
            except (MetastoreError, KmsError) as caught:
                seen.append(caught)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(encrypt)
        assert [retryable] * 20 == [caught.retryable for caught in seen]
        assert 1 == world.calls.count[name], "one call failed, for all who waited"
        if not isinstance(error, AnysealError):
            expected = KmsError if name == "wrap" else MetastoreError
            assert {expected} == {type(caught) for caught in seen}
            assert str(error) not in str(seen[0]), "a driver's message may hold secrets"
        world.calls.fail.clear()
        assert b"data" == await session.decrypt(await session.encrypt(b"data"))
    assert len(world.rows(IK)) == 1


@pytest.mark.parametrize("name", ["load", "unwrap"])
async def test_failure_while_decrypting_is_typed_and_over_with_the_cause(name: str) -> None:
    """The same on the reading side."""
    world = World()
    async with world.factory() as writer:
        row = await writer.session("u1").encrypt(b"data")
    async with world.factory() as factory:
        session = factory.session("u1")
        world.calls.fail[name] = TimeoutError()
        with pytest.raises((MetastoreError, KmsError)) as caught:
            await session.decrypt(row)
        assert caught.value.retryable
        world.calls.fail.clear()
        assert b"data" == await session.decrypt(row)


async def _cancelled_at(step: int) -> bool:
    """Encrypt, cancelled at the *step*-th call, and again; whether there was such a call."""
    world, reached, calls = World(), False, 0
    scope = anyio.CancelScope()

    def before(_name: str) -> None:
        nonlocal reached, calls
        calls += 1
        if calls == step:
            reached = True
            scope.cancel()

    world.calls.delay = 0.001
    world.calls.before = before
    async with world.factory() as factory:
        session = factory.session("u1")
        with scope:
            await session.encrypt(b"data")
        world.calls.before = lambda _name: None
        with anyio.fail_after(60):
            row = await session.encrypt(b"data")
        assert b"data" == await session.decrypt(row)
    async with world.factory() as other:
        assert b"data" == await other.session("u1").decrypt(row)
    assert (1, 1) == (len(world.rows(SK)), len(world.rows(IK)))
    return reached


async def test_cancelled_at_every_call_leaves_no_trace() -> None:
    """A client may hang up at any moment: the next one must find a sound store, or none."""
    gc.collect()
    slots, step = live_keys(), 1
    while await _cancelled_at(step):
        step += 1
    assert 5 == step - 1, "load IK, load SK, wrap, store SK, store IK"
    await anyio.lowlevel.checkpoint()  # trio keeps the last cancellation, with its frames, so long
    gc.collect()
    assert slots >= live_keys(), "no key was left behind"


@pytest.mark.parametrize("name", ["load", "unwrap"])
async def test_cancelled_decrypt_releases_the_waiters(name: str) -> None:
    """Whoever began the call is cancelled: those who waited for it get their data."""
    world = World()
    async with world.factory() as writer:
        row = await writer.session("u1").encrypt(b"data")
    world.calls.gate[name] = anyio.Event()
    got: list[bytes] = []
    async with world.factory() as factory:
        session = factory.session("u1")

        async def decrypt() -> None:
            got.append(await session.decrypt(row))

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                async with anyio.create_task_group() as leader:
                    leader.start_soon(decrypt)
                    await anyio.wait_all_tasks_blocked()
                    for _ in range(10):
                        group.start_soon(decrypt)
                    await anyio.wait_all_tasks_blocked()
                    leader.cancel_scope.cancel()
                world.calls.gate[name].set()
    assert [b"data"] * 10 == got


async def test_slow_service_holds_up_only_its_own_partition() -> None:
    """One partition's lost packet must not stop the others."""
    world = World()
    async with world.factory() as factory:
        warm = factory.session("warm")
        await warm.encrypt(b"")
        world.calls.gate["load_latest"] = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(factory.session("cold").encrypt, b"")
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(60):
                await warm.decrypt(await warm.encrypt(b""))
            world.calls.gate["load_latest"].set()


@pytest.mark.parametrize("key", [b"", b"short", pattern(60), pattern(61)], ids=len)
@pytest.mark.parametrize("which", [SK, IK])
async def test_corrupt_key_record_is_a_typed_error(which: str, key: bytes) -> None:
    """A damaged store must neither be sealed under nor quietly replaced."""
    world = World()
    async with world.factory() as writer:
        row = await writer.session("u1").encrypt(b"data")
    sound = world.rows(which)[0]
    world.put(dataclasses.replace(sound, key=key))
    world.calls.count.clear()
    async with world.factory() as factory:
        session = factory.session("u1")
        with pytest.raises((MetastoreError, KmsError)) as caught:
            await session.encrypt(b"data")
        assert not caught.value.retryable
        with pytest.raises((MetastoreError, KmsError, DecryptionError)):
            await session.decrypt(row)
        assert 0 == world.calls.count["store"]
        world.put(sound)
        assert b"data" == await session.decrypt(row)
        await session.encrypt(b"data")


async def test_other_kms_is_refused_and_changes_nothing() -> None:
    """A wrong master key must not start a second hierarchy beside the first."""
    world = World()
    async with world.factory() as writer:
        row = await writer.session("u1").encrypt(b"data")
    world.calls.count.clear()
    async with world.factory(kms=CountingKms(world.calls, "another")) as factory:
        for call in in_turn(factory.session("u1").encrypt(b""), factory.session("u1").decrypt(row)):
            with pytest.raises(KmsError) as caught:
                await call
            assert not caught.value.retryable
    assert 0 == world.calls.count["store"]


NONSENSE = [None, "text", b"", 7, [1]]


@pytest.mark.parametrize(
    ("method", "answer"),
    [("wrap", answer) for answer in NONSENSE]
    + [("unwrap", answer) for answer in [*NONSENSE, b"x" * 31, bytearray(33)]],
    ids=repr,
)
async def test_kms_that_answers_nonsense(method: str, answer: Any) -> None:
    """Other people's KMS classes have bugs: they must not end in a key of zeros."""
    world = World()

    async def nonsense(_data: Any) -> Any:
        return answer

    if method == "unwrap":
        async with world.factory() as writer:
            await writer.session("u1").encrypt(b"")
    setattr(world.kms, method, nonsense)
    async with world.factory() as factory:
        with pytest.raises(KmsError) as caught:
            await factory.session("u1").encrypt(b"")
    assert not caught.value.retryable


@pytest.mark.parametrize("lost", ["record", "parent's name"])
async def test_missing_parent_is_key_not_found(lost: str) -> None:
    """A lost system key must read as that, and new rows go on under another one."""
    world = World()
    async with world.factory() as writer:
        row = await writer.session("u1").encrypt(b"data")
    if lost == "record":
        del world.store._rows[SK]
    else:
        world.put(dataclasses.replace(world.rows(IK)[0], parent_id=None, parent_created=None))
    async with world.factory() as factory:
        session = factory.session("u1")
        with pytest.raises(KeyNotFoundError):
            await session.decrypt(row)
        new = await session.encrypt(b"new")
        assert b"new" == await session.decrypt(new)
        assert parse_row(new).created > parse_row(row).created


PROCESS = """
    import sys, time
    import anyio
    from anyseal import KeyHierarchy, SessionFactory
    from anyseal.kms.static import StaticKms
    from anyseal.metastore.sql import SqlMetastore

    async def main():
        store = SqlMetastore("sqlite:///" + sys.argv[1], timeout=60)
        hierarchy = KeyHierarchy(StaticKms(b"k" * 32), store, service="s", product="p",
                                 allow_testing_kms=True)
        async with SessionFactory(hierarchy) as factory:
            print("ready", flush=True)
            sys.stdin.readline()
            rows = []
            for n in range(5):
                rows.append(await factory.session(f"u{n}").encrypt(b"data %d" % n))
            print("\\n".join(rows), flush=True)

    anyio.run(main)
"""


def test_two_processes_creating_the_same_keys_end_with_the_same(tmp_path: Path) -> None:
    """The race of every deployment: what each process sealed must open in the other."""
    pytest.importorskip("sqlalchemy")
    path = str(tmp_path / "keys.db")
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-W",
                "error",
                "-c",
                textwrap.dedent(PROCESS),
                path,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[0].split() for process in processes]
    assert [0] * 3 == [process.returncode for process in processes]
    keys = [[(parse_row(row).key_id, parse_row(row).created) for row in rows] for rows in said]
    assert 5 == len(keys[0])
    assert all(len(set(column)) <= 2 for column in zip(*keys, strict=True))
    if len({created for row in keys for _, created in row}) == 1:  # not across a minute's end
        assert keys[0] == keys[1] == keys[2]


def test_fork_with_warm_keys() -> None:
    """A worker that is forked from a warm parent must work at once, cold keys included."""
    world = World()
    factory = world.sync_factory()
    session = factory.session("u1")
    row = session.encrypt(b"data")
    offload.wait(factory.hierarchy.current, "u2")
    pid = os.fork()
    if not pid:
        code = 1
        try:
            same = session.decrypt(row) == b"data"
            new = session.decrypt(session.encrypt(b"child")) == b"child"
            cold = factory.session("u3")
            code = 0 if same and new and cold.decrypt(cold.encrypt(b"x")) == b"x" else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert 0 == status
    assert b"data" == session.decrypt(row)
    factory.close()


def test_fork_in_the_middle_of_a_load() -> None:
    """The call that was under way belongs to the parent: the child makes its own."""
    world = World()
    world.calls.delay = 0.1
    factory = world.sync_factory()
    rows: list[str] = []
    thread = threading.Thread(target=lambda: rows.append(factory.session("u1").encrypt(b"data")))
    thread.start()
    while not world.calls.count:
        pass
    pid = os.fork()
    if not pid:
        code = 1
        try:
            world.calls.delay = 0
            session = factory.session("u1")
            code = 0 if session.decrypt(session.encrypt(b"x")) == b"x" else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert 0 == status
    thread.join(10)
    assert b"data" == factory.session("u1").decrypt(rows[0])
    factory.close()


def test_sync_waits_fail_typed_too() -> None:
    """The way through the shared event loop must not change an error."""
    world = World()
    world.calls.fail["wrap"] = KmsError("denied", retryable=False)
    with sync.SessionFactory(world.hierarchy()) as factory:
        with pytest.raises(KmsError, match="denied") as caught:
            factory.session("u1").encrypt(b"")
        assert not caught.value.retryable
