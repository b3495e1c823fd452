"""Looking after keys: what is listed, rotated, revoked and shredded, and what is left alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import anyio
import pytest

import anyseal
from anyseal import ConfigurationError, KeyAdmin, KeyHierarchy, WrongKeyError
from anyseal.errors import KeyNotFoundError
from anyseal.kms.static import StaticKms
from anyseal.ports import AuditEvent
from anyseal.record import parse_row
from anyseal.testing import Clock, Recorder
from doubles import IK, SK, World
from support import a_key

pytestmark = pytest.mark.anyio
DAY = 86400.0


@pytest.fixture
def clock() -> Any:
    with Clock(1_900_000_020.0) as found:
        yield found


async def test_list_tells_the_state_of_each_key(clock: Clock) -> None:
    """Whoever is on call must see at one look which keys seal, and until when."""
    world = World(expire_key_after=90 * DAY)
    start = int(clock.now)
    async with world.factory() as factory:
        await factory.session("u1").encrypt(b"")
        clock.turn(10 * DAY)
        await factory.hierarchy.rotate("u1")
        admin = KeyAdmin(factory.hierarchy)
        world.put(dataclasses.replace(world.rows(IK)[0], revoked=True))
        keys = await admin.list()
        assert [
            (IK, start, "intermediate", "u1", "revoked", False),
            (IK, start + 10 * DAY, "intermediate", "u1", "active", True),
            (SK, start, "system", None, "active", True),
        ] == [(k.id, k.created, k.type, k.partition, k.state, k.latest) for k in keys]
        assert start + 90 * DAY == keys[2].expires
        assert keys[:2] == await admin.list("u1")
        assert [keys[0]] == await admin.audit()
        clock.turn(75 * DAY)
        assert ["revoked", "active", "expiring"] == [key.state for key in await admin.list()]
        assert ["revoked", "expiring", "expiring"] == [
            key.state for key in await admin.list(expiring_within=20 * DAY)
        ]
        clock.turn(10 * DAY)
        assert ["revoked", "expiring", "expired"] == [key.state for key in await admin.audit()]
        clock.set(start - DAY)
        assert ["revoked", "future", "future"] == [key.state for key in await admin.audit()]


async def test_list_tells_which_keys_their_system_key_bars(clock: Clock) -> None:
    """A revoked system key ends the sealing of all under it: to call those active is a lie."""
    world = World()
    await _three(world, clock)
    async with world.hierarchy() as hierarchy:
        admin = KeyAdmin(hierarchy)
        assert 1 == await admin.revoke(type="system")
        assert ["barred"] * 3 + ["revoked"] == [key.state for key in await admin.list()]
        (key,) = await admin.list("u1")
        assert ("barred", True) == (key.state, key.deserves_attention)
        assert await hierarchy.current("u1")
        assert ["barred", "active"] == [key.state for key in await admin.list("u1")]
        old = (await admin.list())[-2]
        assert ("system", "revoked") == (old.type, old.state)
        assert await world.store.delete(old.id, old.created)
        assert ["barred", "active"] == [key.state for key in await admin.list("u1")]


async def test_list_leaves_other_hierarchies_alone() -> None:
    """Several services share a table, and a guard row of a peer may lie in it."""
    world = World()
    for service, product in (("pay", "eu"), ("pay", "us"), ("play", "eu"), ("x", "pay")):
        async with world.factory(service=service, product=product) as factory:
            await factory.session("u1").encrypt(b"")
            await factory.session("u11").encrypt(b"")
    async with world.hierarchy() as hierarchy:
        admin = KeyAdmin(hierarchy)
        assert ["_IK_u11_pay_eu", IK, SK] == [key.id for key in await admin.list()]
        assert ["u1"] == [key.partition for key in await admin.list("u1")]
        assert [] == await admin.list("u")
        assert 3 == await admin.revoke(created_before=1e12)
    assert 3 == sum(
        record.revoked for found in world.store._rows.values() for record in found.values()
    )


async def test_rotate_makes_new_keys_now() -> None:
    """After a suspicion nobody wants to wait for the expiry."""
    audit = Recorder()
    world = World()
    async with world.factory() as factory:
        admin = KeyAdmin(factory.hierarchy, audit=audit)
        session = factory.session("u1")
        old = await session.encrypt(b"old")
        assert IK == await admin.rotate("u1")
        assert SK == await admin.rotate()
        new = await session.encrypt(b"new")
        assert parse_row(old).created < parse_row(new).created
        assert await admin.rotate("u1") == IK
        assert world.rows(SK)[1].created == world.rows(IK)[2].parent_created
        assert [b"old", b"new"] == await session.decrypt_many([old, new])
    expected = [("u1", IK), ("", SK), ("u1", IK)]
    assert [AuditEvent(*who, "rotate", "ok") for who in expected] == audit.events


async def _three(world: World, clock: Clock) -> None:
    """Partitions u1, u2 and u3, a day apart."""
    async with world.factory() as factory:
        for name in ("u1", "u2", "u3"):
            await factory.session(name).encrypt(b"")
            clock.turn(DAY)


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        ({"key_id": IK}, {"u1"}),
        ({"partition": "u2"}, {"u2"}),
        ({"type": "system"}, {None}),
        ({"type": "intermediate"}, {"u1", "u2", "u3"}),
        ({"created_before": 1_900_000_020 + DAY}, {None, "u1"}),
        ({"created_before": 1_900_000_020 + 2 * DAY, "type": "intermediate"}, {"u1", "u2"}),
        ({"created_before": 1.0}, set()),
        ({"partition": "u1", "type": "system"}, set()),
        ({"partition": "u1", "key_id": IK.replace("u1", "u2")}, set()),
        ({"key_id": "_IK_nobody_pay_eu"}, set()),
        ({"partition": "nobody"}, set()),
    ],
    ids=lambda given: None if isinstance(given, set) else str(given),
)
async def test_revoke_takes_what_meets_all_criteria(
    criteria: dict[str, Any], expected: set[str | None], clock: Clock
) -> None:
    """Too much revoked is an outage, too little a breach."""
    world, audit = World(), Recorder()
    await _three(world, clock)
    async with world.hierarchy() as hierarchy:
        admin = KeyAdmin(hierarchy, audit=audit)
        assert len(expected) == await admin.revoke(**criteria)
        found = {key.partition for key in await admin.list() if key.state == "revoked"}
        assert expected == found
        assert len(expected) == audit.count(operation="revoke", outcome="ok")
        assert 0 == await admin.revoke(**criteria), "once is enough"


async def test_revoke_needs_a_criterion() -> None:
    """A slip must not revoke everything."""
    world = World()
    with pytest.raises(ValueError, match="criterion"):
        await KeyAdmin(world.hierarchy()).revoke()


@pytest.mark.parametrize("what", [{"partition": "u1"}, {"type": "system"}], ids=str)
async def test_revoke_is_obeyed_at_once_here_and_in_time_elsewhere(
    what: dict[str, Any], clock: Clock
) -> None:
    """In this process sessions that exist follow immediately; others at their next look."""
    world = World()
    async with world.factory() as here, world.factory() as there:
        sessions = here.session("u1"), there.session("u1")
        rows = [await session.encrypt(b"data") for session in sessions]
        await KeyAdmin(here.hierarchy).revoke(**what)
        old = parse_row(rows[0]).created
        assert parse_row(await sessions[0].encrypt(b"")).created > old
        clock.turn(3600)
        assert parse_row(await sessions[1].encrypt(b"")).created > old
        for session in sessions:
            assert [b"data"] * 2 == await session.decrypt_many(rows)


async def test_revoke_of_one_partition_leaves_the_others_warm() -> None:
    """An incident of one tenant must not send all the others to the KMS."""
    world = World()
    async with world.factory() as factory:
        for name in ("u1", "u2"):
            await factory.session(name).encrypt(b"")
        await KeyAdmin(factory.hierarchy).revoke(partition="u1")
        world.calls.count.clear()
        await factory.session("u2").encrypt(b"")
        assert not world.calls.count


async def test_shred_makes_everything_unreadable_everywhere() -> None:
    """Its report must be true in every process, for rows and values, old keys and new ones."""
    world, audit = World(revoke_check_interval=1.0), Recorder()
    async with world.factory() as here, world.factory() as there:
        rows, values = [], []
        for _ in range(2):
            rows.append(await there.session("u1").encrypt(b"data"))
            values.append(await anyseal.seal(b"data", there.hierarchy, partition="u1"))
            await there.hierarchy.rotate("u1")
        other = await there.session("u11").encrypt(b"other")
        reads = 0
        report = None

        async def keep_reading() -> None:
            nonlocal reads
            while True:
                await there.session("u1").decrypt(rows[0])
                reads += 1
                await anyio.sleep(0.01)

        async with anyio.create_task_group() as group:
            group.start_soon(_until_gone, keep_reading)
            admin = KeyAdmin(here.hierarchy, audit=audit)
            report = await admin.shred("u1")
            for factory in (here, there):
                for row in rows:
                    with pytest.raises(KeyNotFoundError):
                        await factory.session("u1").decrypt(row)
                for value in values:
                    with pytest.raises(WrongKeyError):
                        await anyseal.open(value, factory.hierarchy, partition="u1")
        assert reads > 5
        assert ("u1", 3) == (report.partition, report.keys_deleted)
        assert report.waited >= 1.0
        assert [] == world.rows(IK)
        assert (3, 3) == (audit.count(operation="revoke"), audit.count(operation="shred"))
        assert b"other" == await there.session("u11").decrypt(other)
        session = here.session("u1")
        assert b"new life" == await session.decrypt(await session.encrypt(b"new life"))


async def _until_gone(work: Any) -> None:
    try:
        await work()
    except KeyNotFoundError:
        return


async def test_shred_without_waiting_reaches_sessions_of_this_process() -> None:
    """A session that was made before must not go on reading from its own memory."""
    world = World()
    async with world.factory() as factory:
        session = factory.session("u1")
        row = await session.encrypt(b"data")
        report = await KeyAdmin(factory.hierarchy).shred("u1", wait=False)
        assert (1, 0.0) == (report.keys_deleted, report.waited)
        with pytest.raises(KeyNotFoundError):
            await session.decrypt(row)


async def test_shred_cancelled_while_it_waits_can_be_finished() -> None:
    """The wait is an hour: whoever breaks it off must be able to come back."""
    world = World()
    async with world.factory() as factory:
        row = await factory.session("u1").encrypt(b"data")
        admin = KeyAdmin(factory.hierarchy)
        async with anyio.create_task_group() as group:
            group.start_soon(admin.shred, "u1")
            with anyio.fail_after(60):
                while not all(record.revoked for record in world.rows(IK)):
                    await anyio.sleep(0.01)
            group.cancel_scope.cancel()
        assert [True] == [record.revoked for record in world.rows(IK)]
        assert b"data" == await factory.session("u1").decrypt(row)
        assert 1 == (await admin.shred("u1", wait=False)).keys_deleted


async def test_shred_of_regions_takes_their_keys_too() -> None:
    """Keys under another region's suffix open the partition's data as well."""
    world = World()
    async with world.factory(region_suffix="west") as west:
        await west.session("u1").encrypt(b"")
    async with world.factory(region_suffix="east", recovery_region_suffixes=["west"]) as east:
        await east.session("u1").encrypt(b"")
        assert 2 == (await KeyAdmin(east.hierarchy).shred("u1", wait=False)).keys_deleted
    assert {"_SK_pay_eu_west", "_SK_pay_eu_east"} == set(world.store._rows)


async def test_shred_of_nobody_deletes_nothing() -> None:
    """Not even where the name is a prefix of others; an empty name is a mistake."""
    world = World()
    async with world.factory() as factory:
        await factory.session("u1").encrypt(b"")
        admin = KeyAdmin(factory.hierarchy)
        for name in ("u", "nobody", "u1_pay", "u1_pay_eu"):
            assert 0 == (await admin.shred(name, wait=False)).keys_deleted
        with pytest.raises(ValueError, match="empty"):
            await admin.shred("", wait=False)
    assert 1 == len(world.rows(IK))


def test_admin_needs_a_metastore_that_can_list() -> None:
    """A store of one's own need not: it must be said at once, not in the middle."""

    class Plain:
        testing = True

        async def load(self, key_id: str, created: int) -> None: ...

        async def load_latest(self, key_id: str) -> None: ...

        async def store(self, record: Any) -> bool:
            return True

        async def aclose(self) -> None: ...

    hierarchy = KeyHierarchy(StaticKms(a_key()), Plain(), service="s", product="p")
    with pytest.raises(ConfigurationError, match="Plain"):
        KeyAdmin(hierarchy)
