"""The key hierarchy's promises on keys: who may use which, how often the services are asked."""

from __future__ import annotations

import dataclasses
import gc
import threading
import time
from typing import Any

import anyio
import pytest

from anyseal import ConfigurationError, KeyHierarchy, MetastoreError, WrongPartitionError
from anyseal.metastore.memory import MemoryMetastore
from anyseal.ports import KeyRecord
from anyseal.record import parse_row
from anyseal.testing import Clock, Recorder
from doubles import IK, SK, Calls, CountingKms, CountingMetastore, World
from support import in_turn, live_keys, live_keys_without_garbage

pytestmark = pytest.mark.anyio
DAY = 86400.0


@pytest.fixture
def clock() -> Any:
    with Clock(1_900_000_020.0) as found:
        yield found


async def test_hierarchy_cold_encrypts_ask_each_service_once() -> None:
    """A deploy restarts all processes at once: each cold partition must cost one of each call."""
    world = World()
    async with world.factory() as warm:
        await warm.session("someone else").encrypt(b"makes the system key")
    world.calls.count.clear()
    world.calls.delay = 0.05
    async with world.factory() as factory:
        rows: list[str] = []

        async def encrypt() -> None:
            rows.append(await factory.session("u1").encrypt(b"data"))

        async with anyio.create_task_group() as group:
            for _ in range(200):
                group.start_soon(encrypt)
        count = world.calls.count
        assert 200 == len(rows)
        assert (1, 0, 1) == (count["unwrap"], count["wrap"], count["store"])
        assert count["load"] + count["load_latest"] <= 2
        assert [b"data"] * 200 == await factory.session("u1").decrypt_many(rows)
        assert 1 == count["unwrap"]


async def test_hierarchy_cold_decrypts_ask_each_service_once() -> None:
    """The same for reading: one look at each of the two keys."""
    world = World()
    async with world.factory() as writer:
        row = await writer.session("u1").encrypt(b"data")
    world.calls.count.clear()
    world.calls.delay = 0.02
    async with world.factory() as factory, anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(factory.session("u1").decrypt, row)
    count = world.calls.count
    assert (2, 1, 0) == (count["load"], count["unwrap"], count["store"] + count["wrap"])


async def test_hierarchy_cancelled_leader_leaves_the_others_served() -> None:
    """The request that happens to load the key may be the one whose client hangs up."""
    world = World()
    world.calls.gate["load_latest"] = anyio.Event()
    async with world.factory() as factory:
        rows: list[str] = []

        async def encrypt() -> None:
            rows.append(await factory.session("u1").encrypt(b"data"))

        async with anyio.create_task_group() as group:
            async with anyio.create_task_group() as leader:
                leader.start_soon(encrypt)
                await anyio.wait_all_tasks_blocked()
                for _ in range(20):
                    group.start_soon(encrypt)
                await anyio.wait_all_tasks_blocked()
                leader.cancel_scope.cancel()
            world.calls.gate["load_latest"].set()
        assert 20 == len(rows)
        assert 1 == len({parse_row(row).created for row in rows})
    assert (1, 1) == (len(world.rows(SK)), len(world.rows(IK)))


async def test_hierarchy_caches_are_bounded() -> None:
    """A service with millions of users must not keep millions of keys."""
    world = World(key_cache_size=10)
    before = live_keys_without_garbage()
    async with world.hierarchy() as hierarchy:
        for n in range(50):
            await hierarchy.current(f"u{n}")
        assert 10 == len(hierarchy.partitions)
        assert live_keys() - before <= 10 + 1
        assert hierarchy.current_hit("u0") is None
        assert hierarchy.current_hit("u49") is not None


async def test_hierarchy_eviction_takes_the_least_used() -> None:
    """The busiest tenant is likely the oldest one too: it must not be the first to go."""
    world = World(key_cache_size=10)
    async with world.hierarchy() as hierarchy:
        await hierarchy.current("busy")
        for n in range(50):
            await hierarchy.current(f"u{n}")
            assert hierarchy.current_hit("busy") is not None


async def test_hierarchy_partition_is_one_while_a_session_holds_it() -> None:
    """Two sets of keys of one partition would double the calls, and one would miss a revocation."""
    world = World(key_cache_size=2, session_cache_size=0)
    async with world.factory() as factory:
        held = factory.session("u1")
        for n in range(10):
            factory.session(f"other{n}")
        assert factory.session("u1")._partition is held._partition


def test_hierarchy_eviction_is_safe_between_threads() -> None:
    """Small caches and many threads: an entry may vanish between two steps of another thread."""
    hierarchy = World(key_cache_size=1).hierarchy()
    errors: list[Exception] = []

    def work(n: int) -> None:
        try:
            for i in range(3000):
                hierarchy.partition(f"u{(i + n) % 3}")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(hierarchy.partitions) <= 2


async def test_hierarchy_refreshes_early_while_others_go_on(clock: Clock) -> None:
    """At the end of the interval nobody but one caller may wait for the metastore."""
    world = World()
    async with world.factory() as factory:
        session = factory.session("u1")
        await session.encrypt(b"")
        clock.turn(3600 * 0.95)
        world.calls.count.clear()
        world.calls.gate["load_latest"] = anyio.Event()
        done: list[str] = []

        async def encrypt(name: str) -> None:
            await session.encrypt(b"")
            done.append(name)

        async with anyio.create_task_group() as group:
            group.start_soon(encrypt, "refreshes")
            await anyio.wait_all_tasks_blocked()
            for _ in range(5):
                await encrypt("goes on")
            assert ["goes on"] * 5 == done
            world.calls.gate["load_latest"].set()
        assert "refreshes" == done[-1]
        assert 1 == world.calls.count["load_latest"]
        clock.turn(3600 * 0.5)  # it was renewed: beyond the first interval nobody asks
        world.calls.count.clear()
        await session.encrypt(b"")
        assert not world.calls.count


async def test_hierarchy_refresh_takes_the_system_key_along(clock: Clock) -> None:
    """Else the intermediate keys end with it, and each asks again and again shortly before."""
    world = World()
    async with world.factory() as factory:
        for n in range(3):
            await factory.session(f"u{n}").encrypt(b"")
            clock.turn(1000)
        world.calls.count.clear()
        for _ in range(24 * 60):
            clock.turn(60)
            for n in range(3):
                await factory.session(f"u{n}").encrypt(b"")
        loads = world.calls.count["load_latest"] + world.calls.count["load"]
        assert loads <= (3 + 1) * 30
        assert 0 == world.calls.count["unwrap"]


async def test_hierarchy_failed_refresh_keeps_the_key_until_it_is_stale(clock: Clock) -> None:
    """A short outage of the metastore must go unnoticed; a long one must stop sealing."""
    world = World()
    async with world.factory() as factory:
        session = factory.session("u1")
        row = await session.encrypt(b"")
        clock.turn(3600 * 0.95)
        world.calls.fail["load_latest"] = world.calls.fail["load"] = MetastoreError("down")
        world.calls.count.clear()
        for _ in range(10):
            await session.encrypt(b"")
        assert 1 == world.calls.count["load_latest"], "it does not hammer a metastore that is down"
        clock.turn(3600 * 0.051)
        with pytest.raises(MetastoreError) as caught:
            await session.encrypt(b"")
        assert caught.value.retryable
        assert b"" == await session.decrypt(row), "the extension is for opening"
        clock.turn(3600 * 0.5)
        for call in in_turn(session.encrypt(b""), session.decrypt(row)):
            with pytest.raises(MetastoreError) as caught:
                await call
            assert caught.value.retryable
        world.calls.fail.clear()
        await session.encrypt(b"")
        assert b"" == await session.decrypt(row)


LOOKALIKES = [
    "_IK_u1_pay_eu_us-east-1x",
    "_IK_u1_pay_eu_",
    "_IK_u1_pay_eux",
    "_IK_u1_pay_eu_eu-west-1",
    "_IK_u11_pay_eu",
    "_IK_u1_pay",
    "_IK_U1_pay_eu",
    "_IK_u1_pay_eu\0",
    " _IK_u1_pay_eu",
    "_SK_pay_eu",
    "_SK_u1_pay_eu",
    "",
]


async def test_hierarchy_key_ids_match_exactly() -> None:
    """A prefix match, which others use, lets partitions open each other's records."""
    world = World()
    async with world.hierarchy(
        region_suffix="us-east-1", recovery_region_suffixes=["us-west-2"]
    ) as hierarchy:
        allowed = [IK, IK + "_us-east-1", IK + "_us-west-2"]
        assert allowed == hierarchy.ik_ids("u1")
        assert "_IK_u1_pay_eu_us-east-1" == hierarchy.ik_id("u1")
        assert [True] * 3 == [hierarchy.may_open("u1", key_id) for key_id in allowed]
        assert {False} == {hierarchy.may_open("u1", key_id) for key_id in LOOKALIKES}
        for key_id in LOOKALIKES:
            with pytest.raises(WrongPartitionError):
                await hierarchy.opening_key(hierarchy.partition("u1"), key_id, 60)
    assert not world.calls.count["load"], "refused before anything is asked"


@pytest.mark.parametrize(
    "names",
    [
        {"service": "b_c"},
        {"product": "e_u"},
        {"service": ""},
        {"product": ""},
        {"region_suffix": "us_east"},
        {"recovery_region_suffixes": ["us_east"]},
        {"service": "x", "product": "x", "region_suffix": "x"},
    ],
    ids=str,
)
def test_hierarchy_refuses_ambiguous_ids(names: dict[str, Any]) -> None:
    """Ids are joined with underscores: two tenants could end up with one key."""
    with pytest.raises(ConfigurationError):
        World().hierarchy(**names)
    if "" not in names.values():
        World().hierarchy(**names, allow_ambiguous_ids=True)


def test_hierarchy_takes_the_suffix_that_the_metastore_tells() -> None:
    """A global table without suffixes loses keys: its regions overwrite each other's."""

    class Global(CountingMetastore):
        region_suffix = "us-east-1"

    calls = Calls()
    hierarchy = KeyHierarchy(
        CountingKms(calls), Global(calls, MemoryMetastore()), service="pay", product="eu"
    )
    assert "_SK_pay_eu_us-east-1" == hierarchy.sk_id


async def test_hierarchy_decrypting_writes_nothing(clock: Clock) -> None:
    """Reading must work with read-only rights, whatever state the keys are in."""
    world = World()
    async with world.factory() as writer:
        row = await writer.session("u1").encrypt(b"data")
    for change in ({}, {"revoked": True}):
        for key_id in (SK, IK):
            world.put(dataclasses.replace(world.rows(key_id)[0], **change))
        async with world.factory() as reader:
            world.calls.count.clear()
            assert b"data" == await reader.session("u1").decrypt(row)
            clock.turn(200 * DAY)  # expired meanwhile
            assert b"data" == await reader.session("u1").decrypt(row)
            assert 0 == world.calls.count["store"] + world.calls.count["wrap"]


async def test_hierarchy_wipes_what_the_kms_saw() -> None:
    """A system key in the clear must not stay behind on the heap."""
    world = World()
    async with world.factory() as factory:
        await factory.session("u1").encrypt(b"")
    async with world.factory() as factory:
        await factory.session("u1").encrypt(b"")
    assert [bytes(32)] * 2 == [bytes(buffer) for buffer in world.kms.seen]


async def test_hierarchy_forget_reaches_the_sessions() -> None:
    """After a revocation the sessions that exist must look again, not only new ones."""
    world = World()
    async with world.factory() as factory:
        session = factory.session("u1")
        await session.encrypt(b"")
        for names in (["u1"], []):
            world.calls.count.clear()
            factory.hierarchy.forget(*names)
            await session.encrypt(b"")
            assert 1 == world.calls.count["load_latest"]


async def test_hierarchy_closed_is_closed() -> None:
    """Keys must not live on in sessions when the service has shut down."""
    world = World()
    gc.collect()  # keys of other tests, which may go at any time
    before = live_keys_without_garbage()
    async with world.factory() as factory:
        session = factory.session("u1")
        row = await session.encrypt(b"")
    await factory.aclose()
    assert (1, 1) == (world.calls.count["close kms"], world.calls.count["close metastore"])
    for call in in_turn(session.encrypt(b""), session.decrypt(row), factory.hierarchy.rotate()):
        with pytest.raises(ConfigurationError, match="closed"):
            await call
    gc.collect()
    assert before == live_keys()


async def test_hierarchy_close_closes_the_kms_though_the_metastore_fails() -> None:
    """One service's failure must not leak the other's connections."""
    world = World()
    world.calls.fail["close metastore"] = OSError("no")
    with pytest.raises(OSError, match="no"):
        await world.factory().aclose()
    assert 1 == world.calls.count["close kms"]


async def test_hierarchy_without_checking_interval_asks_each_time() -> None:
    """Interval 0 is the strictest setting: it must work, and ask."""
    world = World(revoke_check_interval=0)
    recorder = Recorder()
    async with world.factory(metrics=recorder) as factory:
        session = factory.session("u1")
        rows = [await session.encrypt(b"x") for _ in range(3)]
        assert [b"x"] * 3 == await session.decrypt_many(rows)
    assert 0 == recorder.count(outcome="hit", cache="intermediate-key")
    assert (1, 1) == (len(world.rows(IK)), world.calls.count["wrap"])


def test_hierarchy_serves_threads_with_loops_of_their_own() -> None:
    """Several loops in one process: one key, and nobody hangs."""
    world = World()
    hierarchy = world.hierarchy()
    ids: list[bytes] = []

    async def use() -> None:
        for n in range(20):
            ids.append((await hierarchy.current(f"u{n % 5}")).key_id)

    def run(backend: str) -> None:
        anyio.run(use, backend=backend)

    world.calls.delay = 0.002
    started = time.monotonic()
    threads = [threading.Thread(target=run, args=(backend,)) for backend in ("asyncio", "trio") * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (160, 5) == (len(ids), len(set(ids)))
    assert 1 + 5 == world.calls.count["store"]
    assert time.monotonic() - started < 60


def test_hierarchy_record_is_frozen() -> None:
    """What the metastore gave must not be changed under other holders."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        KeyRecord(id="a", created=0, key=b"").created = 1  # type: ignore[misc]
