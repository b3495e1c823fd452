"""Looking again: cached keys open while the metastore is asked, and how long if it is silent."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.to_thread
import pytest

import anyseal
from anyseal import (
    AnysealError,
    ConfigurationError,
    CryptoPolicy,
    KeyAdmin,
    KeyHierarchy,
    MetastoreError,
    offload,
    sync,
)
from anyseal.cache import Cache
from anyseal.cache.backends.memory import BlockingMemoryBackend, MemoryBackend
from anyseal.compat.asherah.sessions import Session as CompatSession
from anyseal.compat.asherah.sessions import _InnerFactory
from anyseal.kms.static import StaticKms
from anyseal.settings import SessionSettings
from anyseal.testing import Clock, Recorder
from doubles import IK, SK, World
from support import run_python, said

pytestmark = pytest.mark.anyio
HOUR = 3600.0
METHODS = ("load", "load_latest", "store", "versions")
CUT_OFF: dict[str, Callable[[World], None]] = {
    "error": lambda world: world.calls.fail.update(dict.fromkeys(METHODS, MetastoreError("down"))),
    "driver's error": lambda world: world.calls.fail.update(dict.fromkeys(METHODS, OSError())),
    "refusal": lambda world: world.calls.fail.update(
        dict.fromkeys(METHODS, MetastoreError("denied", retryable=False))
    ),
    "silence": lambda world: world.calls.silent.update(METHODS),
}
Opener = Callable[[], Awaitable[object]]


@pytest.fixture
def clock() -> Any:
    # Of this time, for caches have a clock of their own; within a minute, for keys are dated so.
    with Clock(time.time() // 60 * 60 + 20) as found:
        yield found


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent metastore costs a caller this much of real time."""
    monkeypatch.setattr("anyseal.keyring.looking.ANSWER_SECONDS", 0.05)


def reconnect(world: World) -> None:
    """The metastore answers again."""
    world.calls.fail.clear()
    world.calls.silent.clear()


async def settled(*hierarchies: KeyHierarchy) -> None:
    """Wait until the looks that were begun have ended."""
    with anyio.fail_after(60):
        for hierarchy in hierarchies:
            while hierarchy._background._tasks:
                await anyio.sleep(0.001)


async def begun(world: World, loads: int = 1) -> None:
    """Wait until so many looks have reached the metastore."""
    with anyio.fail_after(60):
        while world.calls.count["load"] < loads:
            await anyio.sleep(0.001)


async def in_thread(call: Callable[..., Any], *args: Any) -> Any:
    return await anyio.to_thread.run_sync(partial(call, *args))


async def _row(hierarchy: KeyHierarchy, partition: str = "u1") -> Opener:
    session = anyseal.SessionFactory(hierarchy).session(partition)
    return partial(session.decrypt, await session.encrypt(b"data"))


async def _value(hierarchy: KeyHierarchy, partition: str = "u1") -> Opener:
    sealed = await anyseal.seal(b"data", hierarchy, partition=partition)
    return partial(anyseal.open, sealed, hierarchy, partition=partition)


async def _cache(hierarchy: KeyHierarchy, partition: str = "u1") -> Opener:
    cache = Cache(MemoryBackend(), hierarchy)
    assert await cache.set("k", b"data", partition=partition, ttl=30 * 86400)
    return partial(cache.get, "k", partition=partition)


async def _sync_row(hierarchy: KeyHierarchy, partition: str = "u1") -> Opener:
    session = sync.SessionFactory(hierarchy).session(partition)
    return partial(in_thread, session.decrypt, await in_thread(session.encrypt, b"data"))


async def _sync_value(hierarchy: KeyHierarchy, partition: str = "u1") -> Opener:
    seal = partial(sync.seal, b"data", hierarchy, partition=partition)
    return partial(
        in_thread, partial(sync.open, await in_thread(seal), hierarchy, partition=partition)
    )


async def _sync_cache(hierarchy: KeyHierarchy, partition: str = "u1") -> Opener:
    cache = sync.Cache(BlockingMemoryBackend(), hierarchy)
    assert await in_thread(partial(cache.set, "k", b"data", partition=partition, ttl=30 * 86400))
    return partial(in_thread, partial(cache.get, "k", partition=partition))


async def _peer_row(hierarchy: KeyHierarchy, partition: str = "u1") -> Opener:
    session = CompatSession(_InnerFactory(hierarchy).session(partition))
    return partial(session.decrypt_bytes_async, await session.encrypt_bytes_async(b"data"))


OPENERS: dict[str, Callable[[KeyHierarchy, str], Awaitable[Opener]]] = {
    "row": _row,
    "value": _value,
    "cache": _cache,
    "sync row": _sync_row,
    "sync value": _sync_value,
    "sync cache": _sync_cache,
    "peer row": _peer_row,
}


async def make_openers(hierarchy: KeyHierarchy) -> dict[str, Opener]:
    """One of each kind, each in a partition of its own."""
    openers = {what: await make(hierarchy, what) for what, make in OPENERS.items()}
    await all_open(openers)
    return openers


async def all_open(openers: dict[str, Opener]) -> None:
    """All of them must open now, without waiting for what may never come."""
    with anyio.fail_after(60):
        assert dict.fromkeys(openers, b"data") == {
            what: await call() for what, call in openers.items()
        }


async def none_opens(openers: dict[str, Opener]) -> None:
    """Each must say so in its own way; for a cache it is a miss."""
    with anyio.fail_after(60):
        for what, opener in openers.items():
            if "cache" in what:
                assert await opener() is None, what
            else:
                with pytest.raises((AnysealError, RuntimeError)):
                    assert not await opener(), what


async def test_opening_looks_ahead_while_all_callers_continue(clock: Clock) -> None:
    """A reader that stalls once an hour with all its tasks is an outage once an hour."""
    world = World()
    async with world.hierarchy() as hierarchy:
        openers = await make_openers(hierarchy)
        for age in (0.95, 0.85):
            clock.turn(HOUR * age)
            world.calls.silent.update(METHODS)
            world.calls.count.clear()
            for _ in range(3):
                await all_open(openers)
            await begun(world, len(openers))
            world.calls.silent.clear()
            await settled(hierarchy)
            assert world.calls.count["load"] <= len(openers) + 1, "one look at each key"
            assert not world.calls.count["load_latest"]
            clock.turn(HOUR * 0.1)  # the first look is older than the interval
            world.calls.silent.update(METHODS)
            world.calls.count.clear()
            await all_open(openers)
            assert not world.calls.count
            world.calls.silent.clear()


async def test_opening_looks_at_both_keys_side_by_side(clock: Clock) -> None:
    """One round trip, not two: also where a caller waits, after an idle time."""
    world = World()
    async with world.hierarchy() as hierarchy:
        opener = await _row(hierarchy)
        for age in (0.95, 1.2, 2.0):
            clock.turn(HOUR * age)
            world.calls.count.clear()
            world.calls.silent.add("load")
            async with anyio.create_task_group() as group:
                group.start_soon(opener)
                with anyio.fail_after(60):
                    while world.calls.count["load"] < 2:
                        await anyio.sleep(0.002)
                world.calls.silent.clear()
            await settled(hierarchy)
            assert 2 == world.calls.count["load"]


@pytest.mark.parametrize("fault", CUT_OFF)
async def test_opening_outlives_an_outage_by_the_extension(fault: str, clock: Clock) -> None:
    """Data whose key is in memory must not be lost to a database's second; nor be open for ever."""
    world = World()
    async with world.hierarchy() as hierarchy:
        openers = await make_openers(hierarchy)
        clock.turn(HOUR * 0.95)
        CUT_OFF[fault](world)
        await all_open(openers)
        await begun(world)
        clock.turn(HOUR * 0.5)  # 1.45
        for _ in range(2):
            await all_open(openers)
        if fault != "silence":
            await settled(hierarchy)
        clock.turn(HOUR * 0.051)
        CUT_OFF["error"](world)
        world.calls.silent.clear()
        await settled(hierarchy)
        await none_opens(openers)
        reconnect(world)
        await all_open(openers)


@pytest.mark.parametrize("fault", CUT_OFF)
async def test_extension_is_counted_from_the_last_answer(fault: str, clock: Clock) -> None:
    """Looks that fail must not each extend it again; and idle times count too."""
    world = World(outage_extension=HOUR)
    async with world.hierarchy() as hierarchy:
        session = anyseal.SessionFactory(hierarchy).session("u1")
        row = await session.encrypt(b"data")
        CUT_OFF[fault](world)
        for _ in range(19):  # to 1.9 hours
            clock.turn(HOUR * 0.1)
            with anyio.fail_after(60):
                assert b"data" == await session.decrypt(row)
            await anyio.sleep(0.002)
        clock.turn(HOUR * 0.1 + 1)
        if fault == "silence":
            with anyio.move_on_after(0.05) as scope:
                await session.decrypt(row)
            assert scope.cancelled_caught, "it waits for an answer"
        else:
            with pytest.raises(MetastoreError):
                await session.decrypt(row)


@pytest.mark.parametrize("fault", CUT_OFF)
async def test_extension_is_for_opening_only(fault: str, clock: Clock) -> None:
    """A key that may have been revoked must seal nothing new."""
    world = World()
    async with world.hierarchy() as hierarchy:
        session = anyseal.SessionFactory(hierarchy).session("u1")
        row = await session.encrypt(b"data")
        clock.turn(HOUR * 1.01)
        CUT_OFF[fault](world)
        with anyio.fail_after(60):
            assert b"data" == await session.decrypt(row)
        if fault == "silence":
            with anyio.move_on_after(0.05) as scope:
                await session.encrypt(b"")
            assert scope.cancelled_caught
        else:
            for _ in range(2):
                with pytest.raises(MetastoreError):
                    await session.encrypt(b"")
            with pytest.raises(MetastoreError):
                await hierarchy.current("u1")
            assert hierarchy.current_hit("u1") is None


async def test_silence_after_an_idle_time_keeps_only_one_caller_waiting(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no look was made in time the first caller asks; the others do not stand behind it."""
    monkeypatch.setattr("anyseal.keyring.looking.ANSWER_SECONDS", 60)
    world = World()
    async with world.hierarchy() as hierarchy:
        opener = await _row(hierarchy)
        clock.turn(HOUR * 1.2)
        CUT_OFF["silence"](world)
        done: list[object] = []

        async def open_row() -> None:
            done.append(await opener())

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(open_row)
            with anyio.fail_after(30):
                while len(done) < 19:
                    await anyio.sleep(0.001)
            reconnect(world)
        assert 20 == len(done)
        await settled(hierarchy)


@pytest.mark.parametrize("gone", ["_IK_", "_SK_"])
async def test_absent_ends_cached_keys_at_once(gone: str, clock: Clock) -> None:
    """What was shredded must not be read for the rest of the interval by who knows of it."""
    world = World()
    async with world.hierarchy() as hierarchy:
        openers = await make_openers(hierarchy)
        clock.turn(HOUR * 0.95)
        for key_id in [key_id for key_id in world.store._rows if key_id.startswith(gone)]:
            del world.store._rows[key_id]
        for opener in openers.values():  # begins the looks that find it gone
            with contextlib.suppress(AnysealError, RuntimeError):
                await opener()
        await settled(hierarchy)
        await none_opens(openers)


@pytest.mark.parametrize("which", [IK, SK])
async def test_opening_that_hears_of_a_revocation_ends_sealing(which: str, clock: Clock) -> None:
    """An answer is an answer, whoever asked; revoked keys go on opening."""
    world = World()
    async with world.factory() as factory:
        session = factory.session("u1")
        row = await session.encrypt(b"data")
        clock.turn(HOUR * 0.9)
        clock.turn(1)
        world.put(dataclasses.replace(world.rows(which)[0], revoked=True))
        assert b"data" == await session.decrypt(row)
        await settled(factory.hierarchy)
        new = await session.encrypt(b"new")
        assert new.partition("ParentKeyMeta")[2] != row.partition("ParentKeyMeta")[2]
        assert [b"data", b"new"] == await session.decrypt_many([row, new])


async def test_late_answer_does_not_undo_a_newer_one(clock: Clock) -> None:
    """A look that began before a revocation and is answered after it tells of the past."""
    world = World()
    async with world.hierarchy() as hierarchy:
        partition = hierarchy.partition("u1")
        key = await hierarchy.sealing_key(partition)
        record, begun = world.rows(IK)[0], clock.monotonic()
        parent = await hierarchy._systems.parent(record)
        clock.turn(HOUR * 0.91)
        world.put(dataclasses.replace(record, revoked=True))
        await hierarchy.opening_key(partition, key.id, key.created)
        await settled(hierarchy)
        assert partition.sealing_hit() is None
        hierarchy._keys._unwrapped(partition, record, parent, begun)
        assert partition.sealing_hit() is None


@pytest.mark.parametrize("what", ["IK", "SK", "sealing", "names"])
async def test_look_under_way_does_not_bring_back_what_was_dropped(what: str, clock: Clock) -> None:
    """Keys that were revoked or shredded in this process are gone at once, whoever is looking."""
    world = World()
    async with world.hierarchy() as hierarchy:
        partition = hierarchy.partition("u1")
        key = await hierarchy.sealing_key(partition)
        names = await hierarchy.name_keys("u1")
        clock.turn(HOUR * 0.95)

        def look() -> Any:
            if what == "names":
                return hierarchy.name_keys("u1")
            if what == "sealing":
                return hierarchy.sealing_key(partition)
            return hierarchy.opening_key(partition, key.id, key.created)

        old = world.rows(IK)[0]
        world.calls.answered.update(METHODS)
        async with anyio.create_task_group() as group:
            group.start_soon(look)
            with anyio.fail_after(60):
                while not world.calls.held:
                    await anyio.sleep(0.001)
            if what == "SK":
                hierarchy.forget()
            else:  # as shred does in the end
                del world.store._rows[IK]
                hierarchy.forget("u1")
            world.calls.answered.clear()
        await settled(hierarchy)
        assert partition.opening_hit(key.id, key.created) is None
        assert partition.sealing_hit() is None
        assert hierarchy.name_keys_hit("u1") is None
        if what != "SK":
            assert [] == [record for record in world.rows(IK) if record.created == old.created]
            assert names[0].id != (await hierarchy.name_keys("u1"))[0].id


async def test_interval_of_zero_has_no_extension(clock: Clock) -> None:
    """Who asks each time wants an answer each time."""
    world = World(revoke_check_interval=0)
    assert 0 == world.policy.longest_use
    async with world.factory() as factory:
        session = factory.session("u1")
        row = await session.encrypt(b"data")
        world.calls.count.clear()
        assert b"data" == await session.decrypt(row)
        assert world.calls.count["load"]
        CUT_OFF["error"](world)
        with pytest.raises(MetastoreError):
            await session.decrypt(row)


async def test_outage_is_warned_of_but_not_for_each_key(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A hundred thousand partitions must not write as many lines."""
    world = World()
    async with world.hierarchy() as hierarchy:
        for n in range(50):
            await hierarchy.current(f"u{n}")
        clock.turn(HOUR * 0.95)
        CUT_OFF["error"](world)
        for n in range(50):
            partition = hierarchy.partition(f"u{n}")
            assert partition.latest is not None
            await hierarchy.opening_key(partition, partition.latest.id, partition.latest.created)
        await settled(hierarchy)
    assert 1 <= len(caplog.records) <= 2
    assert "MetastoreError" in caplog.text


async def test_looks_again_in_time_after_an_outage(clock: Clock) -> None:
    """The end of an outage is noticed within a fortieth of the interval, not at the extension's."""
    world = World()
    async with world.hierarchy() as hierarchy:
        opener = await _row(hierarchy)
        clock.turn(HOUR * 0.95)
        CUT_OFF["error"](world)
        await opener()
        await settled(hierarchy)
        reconnect(world)
        clock.turn(HOUR / 40 + 1)
        await opener()
        await settled(hierarchy)
        CUT_OFF["error"](world)
        clock.turn(HOUR * 1.4)
        assert b"data" == await opener()


async def test_closing_ends_looks_under_way(clock: Clock) -> None:
    """No task may outlive the hierarchy that it belongs to."""
    world = World()
    hierarchy = world.hierarchy()
    opener = await _row(hierarchy)
    clock.turn(HOUR * 0.95)
    CUT_OFF["silence"](world)
    assert b"data" == await opener()
    await begun(world)
    with anyio.fail_after(60):
        await hierarchy.aclose()
    assert not hierarchy._background._tasks


def test_event_loop_that_ends_takes_its_look_along(clock: Clock) -> None:
    """``anyio.run`` once for each job: the look of one is no trouble for the next."""
    world = World()
    hierarchy = world.hierarchy()
    opener = anyio.run(_row, hierarchy)
    clock.turn(HOUR * 0.95)
    CUT_OFF["silence"](world)
    for backend in ("asyncio", "trio"):
        assert b"data" == anyio.run(opener, backend=backend)
        clock.turn(HOUR * 0.1)
    reconnect(world)
    clock.turn(HOUR * 0.1)
    assert b"data" == anyio.run(opener)
    clock.turn(HOUR * 0.5)
    assert b"data" == anyio.run(opener)


def test_forked_child_makes_looks_of_its_own(clock: Clock) -> None:
    """The look under way is the parent's: a child that waited for it would run into the end."""
    world = World()
    factory = world.sync_factory()
    session = factory.session("u1")
    row = session.encrypt(b"data")
    clock.turn(HOUR * 0.95)
    CUT_OFF["silence"](world)
    assert b"data" == session.decrypt(row)
    while not world.calls.count["load"]:
        threading.Event().wait(0.002)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            reconnect(world)
            world.calls.count.clear()
            clock.turn(HOUR / 40 + 1)
            code = 2 if session.decrypt(row) != b"data" else 3
            while world.calls.count["load"] < 2 and code == 3:
                threading.Event().wait(0.002)
            threading.Event().wait(0.05)
            CUT_OFF["error"](world)
            clock.turn(HOUR * 1.4)
            code = 0 if session.decrypt(row) == b"data" else 4
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert 0 == status
    reconnect(world)
    factory.close()


def test_interpreter_ends_with_a_look_under_way() -> None:
    """A script's end must neither hang nor complain."""
    code = """
        from anyseal import sync
        from anyseal.testing import Clock
        from doubles import World
        with Clock() as clock:
            world = World()
            session = world.sync_factory().session("u1")
            row = session.encrypt(b"data")
            clock.turn(3600 * 0.95)
            world.calls.silent.add("load")
            print(session.decrypt(row).decode())
    """
    assert ["data"] == said(run_python(code))


async def test_metrics_tell_a_look_ahead_from_a_miss(clock: Clock) -> None:
    """A rate of misses that jumps each hour would page somebody."""
    recorder = Recorder()
    async with World().hierarchy(metrics=recorder) as hierarchy:
        opener = await _row(hierarchy)
        clock.turn(HOUR * 0.95)
        await opener()
        assert 1 == recorder.count(outcome="stale", cache="intermediate-key")
        await settled(hierarchy)


# ---- names ----


@pytest.mark.parametrize("fault", CUT_OFF)
async def test_name_keys_obey_interval_and_extension(fault: str, clock: Clock) -> None:
    """A process that is cut off must not name a shredded partition's things for ever."""
    world = World()
    async with world.hierarchy() as here, world.hierarchy() as there:
        first = await here.name_keys("u1")
        assert [key.id for key in first] == [key.id for key in await there.name_keys("u1")]
        clock.turn(HOUR * 0.5)
        assert there.name_keys_hit("u1") is not None
        await KeyAdmin(here).shred("u1", wait=False)
        CUT_OFF[fault](world)
        clock.turn(HOUR * 0.9)  # 1.4
        with anyio.fail_after(60):
            assert [first[0].id] == [key.id for key in await there.name_keys("u1")]
        clock.turn(HOUR * 0.101)
        assert there.name_keys_hit("u1") is None
        if fault == "silence":
            with anyio.move_on_after(0.05) as scope:
                await there.name_keys("u1")
            assert scope.cancelled_caught
        else:
            with pytest.raises(MetastoreError):
                await there.name_keys("u1")
        reconnect(world)
        clock.turn(1)
        new = await there.name_keys("u1")
        assert new[0].id != first[0].id
        assert [new[0].id] == [key.id for key in await here.name_keys("u1")]


async def test_name_keys_look_ahead_and_stay_the_same_objects(clock: Clock) -> None:
    """Hot caches compare them by identity, and must not stall either."""
    world = World()
    async with world.hierarchy() as hierarchy:
        keys = await hierarchy.name_keys("u1")
        for _ in range(3):
            clock.turn(HOUR * 0.95)
            world.calls.silent.update(METHODS)
            with anyio.fail_after(60):
                assert keys[0] is (await hierarchy.name_keys("u1"))[0]
            found = hierarchy.name_keys_hit("u1")
            assert found is not None
            assert keys[0] is found[0]
            world.calls.silent.clear()
            await settled(hierarchy)


async def test_name_keys_of_a_shredded_partition_end_with_the_answer(clock: Clock) -> None:
    """A look in the background hears of it, and makes no new key: no caller wanted one."""
    world = World()
    async with world.hierarchy() as hierarchy:
        keys = await hierarchy.name_keys("u1")
        del world.store._rows[IK]
        clock.turn(HOUR * 0.95)
        assert keys[0] is (await hierarchy.name_keys("u1"))[0]
        await settled(hierarchy)
        assert hierarchy.name_keys_hit("u1") is None
        assert [] == world.rows(IK)
        assert keys[0].id != (await hierarchy.name_keys("u1"))[0].id


async def test_name_keys_skip_a_first_key_that_is_lost_for_good(clock: Clock) -> None:
    """Its system key is gone: names are made under the next one, and kept, not looked up each time;
    a cache that raised instead would be down for good."""
    world = World()
    async with world.hierarchy() as hierarchy:
        lost = await hierarchy.name_keys("u1")
        del world.store._rows[SK]
        clock.turn(120)  # the next system key is dated otherwise
        hierarchy.forget()
        cache = Cache(MemoryBackend(), hierarchy)
        assert await cache.set("k", b"data", partition="u1")
        assert lost[0].id != (await hierarchy.name_keys("u1"))[0].id
        world.calls.count.clear()
        assert b"data" == await cache.get("k", partition="u1")
        assert not world.calls.count


SECOND_PROCESS = """
    import sys, anyio
    from anyseal import KeyHierarchy, MetastoreError, SessionFactory
    from anyseal.kms.static import StaticKms
    from anyseal.metastore.sql import SqlMetastore
    from anyseal.testing import Clock

    async def main(clock):
        store = SqlMetastore("sqlite:///" + sys.argv[1])
        async with KeyHierarchy(StaticKms(b"k" * 32), store, service="s", product="p",
                                allow_testing_kms=True) as hierarchy:
            session = SessionFactory(hierarchy).session("u1")
            row = await session.encrypt(b"data")
            print((await hierarchy.name_keys("u1"))[0].id, flush=True)
            sys.stdin.readline()

            async def cut_off(*args):
                raise MetastoreError("down")

            store.load = store.load_latest = store.load_latest_before = cut_off
            keep, store.versions = store.versions, None

            async def no_versions(key_id):
                raise MetastoreError("down")
                yield

            store.versions = no_versions
            for turned in (0.5, 0.99, 1.2, 1.49, 1.51):
                clock.turn(3600 * turned - clock._ran)
                try:
                    named = (await hierarchy.name_keys("u1"))[0].id
                    print(turned, named, (await session.decrypt(row)).decode(), flush=True)
                except MetastoreError:
                    print(turned, "nothing", flush=True)
                await anyio.sleep(0.05)
            try:
                await session.decrypt(row)
            except MetastoreError:
                print("closed", flush=True)

    with Clock() as clock:
        anyio.run(main, clock)
"""


def test_process_that_is_cut_off_ends_when_shred_says_so(tmp_path: Any) -> None:
    """What the report promises must hold in a process that never heard of it."""
    import subprocess
    import sys
    import textwrap

    from anyseal.metastore.sql import SqlMetastore

    path = str(tmp_path / "keys.db")
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(SECOND_PROCESS), path]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as second:
        assert second.stdout is not None
        name = second.stdout.readline().strip()
        hierarchy = KeyHierarchy(
            StaticKms(b"k" * 32),
            SqlMetastore(f"sqlite:///{path}"),
            service="s",
            product="p",
            allow_testing_kms=True,
        )
        report = offload.wait(partial(KeyAdmin(hierarchy).shred, "u1", wait=False))
        offload.wait(hierarchy.aclose)
        told = second.communicate("cut\n", timeout=120)[0].split("\n")
    opened = [f"{turned} {name} data" for turned in (0.5, 0.99, 1.2, 1.49)]
    assert [*opened, "1.51 nothing", "closed", ""] == told
    assert (1, 1.5 * HOUR) == (report.keys_deleted, report.longest_use)


# ---- shred and the policy ----


@pytest.mark.parametrize(
    ("policy", "others", "expected"),
    [
        ({}, [], 1.5 * HOUR),
        ({"outage_extension": 0}, [], HOUR),
        ({"revoke_check_interval": 0}, [], 0),
        ({"revoke_check_interval": 60, "outage_extension": 5}, [], 65),
        ({}, [{"revoke_check_interval": 60}], 1.5 * HOUR),
        ({"revoke_check_interval": 60}, [{}, {"revoke_check_interval": 600}], 1.5 * HOUR),
        ({}, [{"outage_extension": 2 * HOUR}], 3 * HOUR),
    ],
)
async def test_shred_waits_the_largest_sum_and_reports_it(
    policy: dict[str, Any],
    others: list[dict[str, Any]],
    expected: float,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the report is a lie for as long as the difference, in a process that is cut off."""
    world = World(**policy)
    slept = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal slept
        slept += seconds
        clock.turn(seconds)

    async with world.hierarchy() as hierarchy:
        await hierarchy.current("u1")
        monkeypatch.setattr("anyseal.keyring.lifecycle.anyio", SimpleNamespace(sleep=sleep))
        policies = [CryptoPolicy(**other) for other in others]
        report = await KeyAdmin(hierarchy).shred("u1", policies=policies)
        assert expected == report.longest_use
        assert expected <= report.waited <= expected * 1.11
        assert slept == pytest.approx(report.waited)
        await hierarchy.current("u1")
        report = await KeyAdmin(hierarchy).shred("u1", wait=False, policies=policies)
        assert (0.0, expected) == (report.waited, report.longest_use)


@pytest.mark.parametrize("known", [False, True], ids=["cut off before", "cut off after revoking"])
async def test_shred_is_over_where_the_metastore_is_not_reached(
    known: bool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the time that is reported nothing opens, in a process that was never told of the end."""
    world, elsewhere = World(), World()
    elsewhere.store = world.store
    async with world.hierarchy() as here, elsewhere.hierarchy() as there:
        openers = await make_openers(there)
        sleeps = 0

        async def sleep(seconds: float) -> None:
            nonlocal sleeps
            sleeps += 1
            if sleeps == 1 and known:  # they look until just before the deletion
                clock.turn(seconds - 1)
                await all_open(openers)
                await settled(there)
                seconds = 1
            CUT_OFF["error"](elsewhere)
            clock.turn(seconds)

        for what in openers:
            await KeyAdmin(here).revoke(partition=what)
        with monkeypatch.context() as patched:
            patched.setattr("anyseal.keyring.lifecycle.anyio", SimpleNamespace(sleep=sleep))
            report = await KeyAdmin(here).shred("row")
        assert 1 == report.keys_deleted
        await none_opens(openers)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 1.5 * HOUR),
        ({"check_interval": 60}, 90),
        ({"OutageExtension": 7}, HOUR + 7),
        ({"outage_extension": "0", "CheckInterval": 10}, 10),
        ({"CheckInterval": 0}, 0),
    ],
)
def test_extension_is_a_setting(settings: dict[str, Any], expected: float) -> None:
    """From a file, a mapping or the environment alike."""
    assert expected == SessionSettings.from_mapping(settings).policy().longest_use


def test_extension_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As all the other lifetimes are."""
    monkeypatch.setenv("OUTAGE_EXTENSION_SECS", "11")
    monkeypatch.setenv("REVOKE_CHECK_INTERVAL_SECS", "20")
    assert 31 == SessionSettings.from_env().policy().longest_use


@pytest.mark.parametrize(
    "policy",
    [
        {"outage_extension": -1},
        {"outage_extension": True},
        {"outage_extension": "60"},
        {"outage_extension": 31 * 86400},
        {"outage_extension": float("nan")},
        {"outage_extension": 1, "revoke_check_interval": 0},
    ],
    ids=str,
)
def test_extension_is_checked(policy: dict[str, Any]) -> None:
    """A slip must not let keys open for months."""
    with pytest.raises(ConfigurationError, match="outage_extension"):
        CryptoPolicy(**policy)


def test_policy_can_be_changed_in_one_field() -> None:
    """The default follows the interval, also in a copy."""
    policy = dataclasses.replace(CryptoPolicy(), revoke_check_interval=0)
    assert 0 == policy.longest_use
    assert 15 == dataclasses.replace(policy, revoke_check_interval=10).longest_use
