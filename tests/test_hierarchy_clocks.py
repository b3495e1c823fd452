"""Keys that are dated in the future: they open, and hide no key of now."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from anyseal import KeyAdmin, MetastoreError, SessionFactory
from anyseal.metastore.memory import MemoryMetastore
from anyseal.ports import KeyRecord
from anyseal.record import parse_row
from anyseal.testing import Clock
from doubles import IK, SK, CountingMetastore, World

pytestmark = pytest.mark.anyio
HOUR, DAY = 3600.0, 86400.0


@pytest.fixture
def clock() -> Any:
    with Clock(1_900_000_020.0) as found:
        yield found


class Asked(CountingMetastore):
    """One that can be asked for the newest key before a time."""

    async def load_latest_before(self, key_id: str, created: int) -> KeyRecord | None:
        await self.calls.enter("load_latest_before")
        return await self.inner.load_latest_before(key_id, created)


class Plain:
    """One that can load and store, and no more."""

    testing = True

    def __init__(self, calls: Any, inner: MemoryMetastore) -> None:
        self._all = CountingMetastore(calls, inner)
        self.load, self.load_latest = self._all.load, self._all.load_latest
        self.store, self.aclose = self._all.store, self._all.aclose


KINDS: dict[str, Any] = {"asked": Asked, "listed": CountingMetastore, "plain": Plain}


class Worlds(World):
    """Hierarchies over one store, through a metastore of one kind."""

    kind: Any = CountingMetastore

    def process(self) -> SessionFactory:
        factory = self.factory()
        hierarchy = factory.hierarchy
        store = self.kind(self.calls, self.store)
        hierarchy.metastore = store
        hierarchy._store._metastore = store
        return factory


async def ahead(world: Worlds, clock: Clock, which: str, by: float = DAY) -> str:
    """A row of a host whose clock is fast, with a system or only an intermediate key of then."""
    clock.turn(by)
    async with world.process() as fast:
        if which == IK:
            clock.set(clock.now - by)
            await fast.session("another").encrypt(b"")
            clock.set(clock.now + by)
        row = await fast.session("u1").encrypt(b"ahead")
    clock.set(clock.now - by)
    return row


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", [SK, IK])
async def test_key_of_the_future_costs_one_wrap_in_an_hour(
    which: str, kind: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Today each look made two keys: 2 became 62 records, with 30 KMS wraps, in an hour."""
    world = Worlds(revoke_check_interval=60.0)
    world.kind = KINDS[kind]
    row = await ahead(world, clock, which)
    before = len(world.rows(SK)), len(world.rows(IK))
    world.calls.count.clear()
    caplog.clear()
    async with world.process() as factory:
        session = factory.session("u1")
        for _ in range(30):
            clock.turn(120)
            assert b"now" == await session.decrypt(await session.encrypt(b"now"))
            assert b"ahead" == await session.decrypt(row)
    expected = (before[0] + (which == SK), before[1] + 1)
    assert expected == (len(world.rows(SK)), len(world.rows(IK)))
    assert (which == SK) == world.calls.count["wrap"]
    told = [record for record in caplog.records if "future" in record.getMessage()]
    assert (2 if which == SK else 1) == len(told), "one warning for each id, not for each look"
    assert (kind == "plain") == ("load_latest_before" in caplog.text)


@pytest.mark.parametrize("kind", ["asked", "listed"])
@pytest.mark.parametrize("which", [SK, IK])
async def test_key_of_the_future_does_not_part_processes(
    which: str, kind: str, clock: Clock
) -> None:
    """All take the newest key of now, whenever they start."""
    world = Worlds()
    world.kind = KINDS[kind]
    await ahead(world, clock, which)
    sealed = set()
    for _ in range(5):
        async with world.process() as factory:
            sealed.add(parse_row(await factory.session("u1").encrypt(b"")).created)
        clock.turn(600)
    assert 1 == len(sealed)
    assert (which == SK) + 1 == world.calls.count["wrap"]


@pytest.mark.parametrize("kind", KINDS)
async def test_key_just_within_the_tolerance_seals(kind: str, clock: Clock) -> None:
    """A clock that is a minute fast is no reason for anything."""
    world = Worlds()
    world.kind = KINDS[kind]
    row = await ahead(world, clock, SK, by=60.0)
    async with world.process() as factory:
        assert parse_row(row).created == parse_row(await factory.session("u1").encrypt(b"")).created
    clock.set(clock.now - 1)
    async with world.process() as factory:
        assert parse_row(row).created != parse_row(await factory.session("u1").encrypt(b"")).created


@pytest.mark.parametrize("kind", KINDS)
async def test_key_of_the_future_seals_when_its_time_has_come(kind: str, clock: Clock) -> None:
    """From then on it is the newest one, as if it had been made then."""
    world = Worlds()
    world.kind = KINDS[kind]
    row = await ahead(world, clock, SK)
    async with world.process() as factory:
        session = factory.session("u1")
        await session.encrypt(b"")
        clock.turn(DAY + HOUR)
        assert parse_row(row).created == parse_row(await session.encrypt(b"")).created


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", ["revoked", "expired"])
async def test_newest_key_of_now_must_be_fit_to_seal(state: str, kind: str, clock: Clock) -> None:
    """What is found behind the future is judged as any other key."""
    world = Worlds(expire_key_after=DAY)
    world.kind = KINDS[kind]
    await ahead(world, clock, SK, by=10 * DAY)
    async with world.process() as factory:
        first = parse_row(await factory.session("u1").encrypt(b"")).created
    for key_id in (SK, IK):
        if state == "revoked":
            world.put(dataclasses.replace(world.rows(key_id)[0], revoked=True))
    if state == "expired":
        clock.turn(DAY + 1)
    async with world.process() as factory:
        row = await factory.session("u1").encrypt(b"new")
        assert parse_row(row).created > first
        assert b"new" == await factory.session("u1").decrypt(row)
    assert parse_row(row).created <= clock.now + 60


async def test_rotation_behind_a_key_of_the_future(clock: Clock) -> None:
    """An emergency rotation must work however often, also while some clock is wrong."""
    world = Worlds()
    world.kind = Asked
    await ahead(world, clock, SK)
    async with world.process() as factory:
        session = factory.session("u1")
        rows = [await session.encrypt(b"x")]
        for _ in range(6):
            await factory.hierarchy.rotate()
            await factory.hierarchy.rotate("u1")
            rows.append(await session.encrypt(b"x"))
        assert 7 == len({parse_row(row).created for row in rows})
        assert [b"x"] * 7 == await session.decrypt_many(rows)


async def test_audit_tells_which_key_seals_behind_one_of_the_future(clock: Clock) -> None:
    """``latest`` is the key that seals: its end must be told, though a wrong one is dated later."""
    world = Worlds(expire_key_after=90 * DAY)
    world.kind = Asked
    await ahead(world, clock, SK, by=100 * DAY)
    async with world.process() as factory:
        await factory.session("u1").encrypt(b"")
        clock.turn(85 * DAY)
        keys = await KeyAdmin(factory.hierarchy).list("u1")
    assert [("expiring", True), ("future", False)] == [(key.state, key.latest) for key in keys]
    assert [True, True] == [key.deserves_attention for key in keys]


@pytest.mark.parametrize("kind", ["asked", "listed"])
async def test_failure_behind_a_key_of_the_future_makes_no_key(kind: str, clock: Clock) -> None:
    """An outage is no answer: who takes it for one makes a key at each."""
    world = Worlds()
    world.kind = KINDS[kind]
    await ahead(world, clock, SK)
    world.calls.count.clear()
    name = {"asked": "load_latest_before", "listed": "versions"}[kind]
    for error in (MetastoreError("down"), OSError(), TypeError("a driver's")):
        world.calls.fail[name] = error
        async with world.process() as factory:
            with pytest.raises(MetastoreError):
                await factory.session("u1").encrypt(b"")
    assert 0 == world.calls.count["wrap"] == world.calls.count["store"]
