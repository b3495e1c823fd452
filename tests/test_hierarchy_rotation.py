"""Which key seals: expiry, revocation, rotation, wrong clocks, races between processes."""

from __future__ import annotations

import dataclasses
from typing import Any

import anyio
import pytest

from anyseal import MetastoreError
from anyseal.errors import KeyNotFoundError
from anyseal.keyring.cached import Partition
from anyseal.record import parse_row
from anyseal.testing import Clock
from doubles import IK, SK, World

pytestmark = pytest.mark.anyio
DAY = 86400.0


@pytest.fixture
def clock() -> Any:
    with Clock(1_900_000_020.0) as found:
        yield found


@pytest.mark.parametrize("which", [SK, IK])
async def test_hierarchy_future_keys_open_but_do_not_seal(which: str, clock: Clock) -> None:
    """One host with a fast clock must not pin everybody to its key, nor lose what it sealed."""
    world = World()
    clock.turn(DAY)
    async with world.factory() as fast:
        if which == IK:
            clock.set(clock.now - DAY)
            await fast.session("another").encrypt(b"")  # a system key of today
            clock.set(clock.now + DAY)
        ahead = await fast.session("u1").encrypt(b"from a fast clock")
    clock.set(clock.now - DAY)
    rows = []
    for _ in range(3):  # three processes, in the same minute
        async with world.factory() as factory:
            session = factory.session("u1")
            assert b"from a fast clock" == await session.decrypt(ahead)
            rows.append(await session.encrypt(b"now"))
            assert b"now" == await session.decrypt(rows[-1])
    created = {parse_row(row).created for row in rows}
    assert 1 == len(created), "all agree on one key of now"
    assert created.pop() <= clock.now < parse_row(ahead).created


async def test_hierarchy_clock_that_jumps_back(clock: Clock) -> None:
    """After NTP corrects a clock, rows must go on opening, and keys being found or made."""
    world = World()
    async with world.factory() as factory:
        session = factory.session("u1")
        rows = [await session.encrypt(b"0")]
        for back in (30, 7200, 400 * DAY):
            clock.set(clock.now - back)
            for _ in range(3):
                rows.append(await session.encrypt(b"0"))
                clock.turn(3601)
        assert [b"0"] * len(rows) == await session.decrypt_many(rows)
    async with world.factory() as factory:
        assert [b"0"] * len(rows) == await factory.session("u1").decrypt_many(rows)


@pytest.mark.parametrize("state", ["revoked", "expired", "gone"])
async def test_hierarchy_bad_system_key_stops_new_rows(state: str, clock: Clock) -> None:
    """Revoking the system key must end the use of every key under it, not only of itself."""
    world = World(expire_key_after=90 * DAY)
    async with world.factory() as factory:
        session = factory.session("u1")
        if state == "expired":
            await factory.session("other").encrypt(b"")
            clock.turn(89.5 * DAY)
        row = await session.encrypt(b"old")
        if state == "revoked":
            world.put(dataclasses.replace(world.rows(SK)[0], revoked=True))
        if state == "gone":
            del world.store._rows[SK]
        clock.turn(DAY if state == "expired" else 3601)
        new = await session.encrypt(b"new")
        old_key, new_key = parse_row(row).created, parse_row(new).created
        assert old_key < new_key
        parents = {record.created: record.parent_created for record in world.rows(IK)}
        assert parents[old_key] != parents[new_key]
        assert b"new" == await session.decrypt(new)
        if state == "gone":
            with pytest.raises(KeyNotFoundError):
                await session.decrypt(row)
        else:
            assert b"old" == await session.decrypt(row)


async def test_hierarchy_known_revocation_is_not_overridden_by_an_outage(clock: Clock) -> None:
    """Keeping the old key on failure is for outages, not for keys that are known to be revoked."""
    world = World()
    async with world.factory() as factory:
        session = factory.session("u1")
        await session.encrypt(b"")
        world.put(dataclasses.replace(world.rows(IK)[0], revoked=True))
        clock.turn(3600 * 0.95)
        world.calls.fail["store"] = MetastoreError("read only")
        for _ in range(2):
            with pytest.raises(MetastoreError, match="read only"):
                await session.encrypt(b"")


async def test_hierarchy_rotates_inline_at_expiry(clock: Clock) -> None:
    """No job, no restart: the first call after the end makes the new key, once."""
    world = World(expire_key_after=90 * DAY)
    async with world.factory() as factory:
        session = factory.session("u1")
        rows = [await session.encrypt(b"x")]
        clock.turn(89.9 * DAY)
        rows.append(await session.encrypt(b"x"))
        assert 1 == len(world.rows(IK))
        clock.turn(0.2 * DAY)
        rows.append(await session.encrypt(b"x"))
        assert (2, 2) == (len(world.rows(IK)), len(world.rows(SK)))
        assert [b"x"] * 3 == await session.decrypt_many(rows)


async def test_hierarchy_key_expires_between_two_looks(clock: Clock) -> None:
    """Expiry must not wait for the next look at the metastore."""
    world = World(expire_key_after=1000, revoke_check_interval=86400)
    async with world.factory() as factory:
        first = await factory.session("u1").encrypt(b"")
        clock.turn(1001)
        second = await factory.session("u1").encrypt(b"")
        assert parse_row(first).created < parse_row(second).created


@pytest.mark.parametrize("precision", [1, 60, 3600])
async def test_hierarchy_creation_times_have_the_precision(precision: int, clock: Clock) -> None:
    """Processes that start in the same minute must agree on one key."""
    world = World(create_date_precision=precision)
    for _ in range(3):
        async with world.factory() as factory:
            await factory.session("u1").encrypt(b"")
    (record,) = world.rows(IK)
    assert int(clock.now) // precision * precision == record.created


async def test_hierarchy_rotation_within_one_second_makes_new_keys(clock: Clock) -> None:
    """An emergency rotation must not be refused because a key was made in this minute."""
    world = World()
    async with world.factory() as factory:
        session = factory.session("u1")
        rows = [await session.encrypt(b"x")]
        for _ in range(5):
            await factory.hierarchy.rotate("u1")
            rows.append(await session.encrypt(b"x"))
            await factory.hierarchy.rotate()
        assert 6 == len({parse_row(row).created for row in rows}) == len(world.rows(IK))
        assert 6 == len(world.rows(SK))
        assert [b"x"] * 6 == await session.decrypt_many(rows)


async def test_hierarchy_revoked_key_is_replaced_within_one_second(clock: Clock) -> None:
    """The record of this minute is taken by the revoked key: the new one needs another time."""
    world = World()
    async with world.factory() as factory:
        await factory.session("u1").encrypt(b"")
    for key_id in (SK, IK):
        world.put(dataclasses.replace(world.rows(key_id)[0], revoked=True))
    async with world.factory() as factory:
        row = await factory.session("u1").encrypt(b"")
    assert [True, False] == [record.revoked for record in world.rows(IK)]
    assert world.rows(IK)[1].created == parse_row(row).created
    assert world.rows(SK)[1].created == world.rows(IK)[1].parent_created


async def test_hierarchy_lost_race_takes_the_winners_key() -> None:
    """Two processes, one partition, one moment: what both seal must open everywhere."""
    world = World()
    one, two = world.factory(), world.factory()
    world.calls.delay = 0.02
    rows: dict[int, str] = {}

    async def encrypt(n: int, factory: Any) -> None:
        rows[n] = await factory.session("u1").encrypt(b"data")

    async with one, two:
        async with anyio.create_task_group() as group:
            group.start_soon(encrypt, 1, one)
            group.start_soon(encrypt, 2, two)
        for factory in (one, two):
            assert [b"data"] * 2 == await factory.session("u1").decrypt_many(rows.values())
    assert (1, 1) == (len(world.rows(SK)), len(world.rows(IK)))
    assert (2, 2) == (world.calls.count["wrap"], world.calls.count["store"] // 2)


async def test_hierarchy_rotation_is_not_undone_by_a_load_under_way() -> None:
    """A look that began before the rotation must not bring the old key back."""
    world = World(revoke_check_interval=0.05)
    async with world.factory() as factory:
        hierarchy = factory.hierarchy
        old = await hierarchy.sealing_key(hierarchy.partition("u1"))
        await anyio.sleep(0.06)
        record = world.rows(IK)[0]
        await hierarchy.rotate("u1")
        parent = await hierarchy._systems.parent(record)
        partition: Partition = hierarchy.partition("u1")
        late = hierarchy._keys._unwrapped(partition, record, parent)
        assert old.created == late.created
        assert partition.promote(late).created > old.created
        assert partition.latest is not late
