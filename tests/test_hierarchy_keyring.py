"""The hierarchy as keyring of values and objects: key ids, unknown ids, one name in two places."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import anyseal
from anyseal import (
    DecryptionError,
    Keyring,
    MetastoreError,
    Session,
    WrongKeyError,
    sync,
)
from anyseal.keyring.hierarchy import _UNKNOWN_KEYS_MAX
from anyseal.testing import Clock, Recorder
from doubles import IK, World
from support import READERS, SMALL, outcome, pattern

pytestmark = pytest.mark.anyio


async def test_keyring_values_open_in_another_process() -> None:
    """One hierarchy for records, cache and objects: values too must find their key again."""
    world = World()
    async with world.hierarchy() as writer:
        assert isinstance(writer, Keyring)
        sealed = [
            await anyseal.seal(b"data", writer, partition="u1", context=b"c", suite=suite)
            for suite in anyseal.available_suites()
        ]
    async with world.hierarchy() as reader:
        for value in sealed:
            assert b"data" == await anyseal.open(value, reader, partition="u1", context=b"c")
            with pytest.raises(DecryptionError):
                await anyseal.open(value, reader, partition="u1", context=b"d")


@pytest.mark.parametrize("reader", READERS)
def test_keyring_objects_open_in_another_process(reader: str) -> None:
    """The same for objects, whose data key is wrapped under the partition's key."""
    world, data = World(), pattern(20_000)
    sink = sync.MemorySink()
    with sync.ObjectWriter(sink, world.hierarchy(), partition="u1", **SMALL) as writer:
        writer.write(data)
    assert data == READERS[reader](sink.getvalue(), world.hierarchy(), partition="u1")
    assert "WrongKeyError" == outcome(
        READERS[reader], sink.getvalue(), world.hierarchy(), partition="u2"
    )


async def test_keyring_key_id_is_time_and_fingerprint() -> None:
    """The id finds the record by its time, and tells keys of one time apart."""
    world = World()
    async with world.hierarchy() as one:
        first, second = await one.current("u1"), await one.current("u2")
    created = world.rows(IK)[0].created
    assert [created] * 2 == [int.from_bytes(key.key_id[:8]) for key in (first, second)]
    assert first.key_id != second.key_id
    async with world.hierarchy() as two:
        assert first.key_id == (await two.current("u1")).key_id


async def test_keyring_same_time_in_two_partitions_is_a_wrong_key() -> None:
    """Keys made in one minute differ in the fingerprint only: it must decide."""
    world = World()
    async with world.hierarchy() as hierarchy:
        sealed = await anyseal.seal(b"data", hierarchy, partition="u1")
        await hierarchy.current("u2")
        for _ in range(2):
            with pytest.raises(WrongKeyError):
                await anyseal.open(sealed, hierarchy, partition="u2")
        assert b"data" == await anyseal.open(sealed, hierarchy, partition="u1")


async def test_keyring_old_keys_open_after_rotation() -> None:
    """Rotation must not lose what was sealed before it."""
    world = World()
    async with world.hierarchy() as hierarchy:
        sealed = []
        for _ in range(3):
            sealed.append(await anyseal.seal(b"data", hierarchy, partition="u1"))
            await hierarchy.rotate("u1")
        assert 3 == len({anyseal.inspect(value).key_id for value in sealed})
        for value in sealed:
            assert b"data" == await anyseal.open(value, hierarchy, partition="u1")
    async with world.hierarchy() as hierarchy:
        for value in sealed:
            assert b"data" == await anyseal.open(value, hierarchy, partition="u1")


async def test_keyring_unknown_ids_are_remembered_and_bounded() -> None:
    """Whoever sends forged values must neither hammer the metastore nor fill the memory."""
    world = World()
    async with world.hierarchy() as hierarchy:
        await hierarchy.current("u1")
        world.calls.count.clear()
        for _ in range(5):
            with pytest.raises(WrongKeyError):
                await hierarchy.get("u1", (77).to_bytes(8) + bytes(8))
        assert 1 == world.calls.count["load"]
        for n in range(_UNKNOWN_KEYS_MAX + 100):
            with pytest.raises(WrongKeyError):
                await hierarchy.get("u1", n.to_bytes(8) + b"unknown!")
        assert _UNKNOWN_KEYS_MAX == len(hierarchy._unknown)


async def test_keyring_unknown_id_is_asked_for_again_later() -> None:
    """A replica may have been behind: the refusal must not last."""
    world = World()
    with Clock() as clock:
        async with world.hierarchy() as writer, world.hierarchy() as reader:
            key_id = (await writer.current("u1")).key_id
            record = world.store._rows.pop(IK)
            with pytest.raises(WrongKeyError):
                await reader.get("u1", key_id)
            world.store._rows[IK] = record
            clock.turn(61)
            assert key_id == (await reader.get("u1", key_id)).key_id


async def test_keyring_impossible_time_is_not_asked_for() -> None:
    """Random ids hold numbers that no database takes."""
    world = World()
    async with world.hierarchy() as hierarchy:
        with pytest.raises(WrongKeyError):
            await hierarchy.get("u1", b"\xff" * 16)
        assert not world.calls.count


async def test_keyring_outage_is_not_an_unknown_key() -> None:
    """Else an outage of a minute becomes data loss in the caller's eyes."""
    world = World()
    async with world.hierarchy() as writer:
        sealed = await anyseal.seal(b"data", writer, partition="u1")
    async with world.hierarchy() as reader:
        world.calls.fail["load"] = MetastoreError("down")
        with pytest.raises(MetastoreError):
            await anyseal.open(sealed, reader, partition="u1")
        world.calls.fail.clear()
        assert b"data" == await anyseal.open(sealed, reader, partition="u1")


async def test_keyring_region_suffixes_open_each_other() -> None:
    """After a region's failure its values must open in the other one, named so."""
    world = World()
    async with world.hierarchy(region_suffix="west") as west:
        value = await anyseal.seal(b"data", west, partition="u1")
        row = await Session(west, west.partition("u1"), None).encrypt(b"row")
    async with world.hierarchy(region_suffix="east") as stranger:
        with pytest.raises(WrongKeyError):
            await anyseal.open(value, stranger, partition="u1")
    async with world.hierarchy(region_suffix="east", recovery_region_suffixes=["west"]) as east:
        assert b"data" == await anyseal.open(value, east, partition="u1")
        assert b"row" == await Session(east, east.partition("u1"), None).decrypt(row)


async def _maybe_awaited(call: Any, *args: Any) -> None:
    found = call(*args)
    if hasattr(found, "__await__"):
        await found


@pytest.mark.parametrize("partition", ["", None, 1, b"u1", "\ud800", "x" * 1025])
async def test_keyring_refuses_bad_partitions(partition: Any) -> None:
    """A partition that is missing must not become a shared one."""
    world = World()
    hierarchy = world.hierarchy()
    for call in (hierarchy.current, hierarchy.partition, hierarchy.ik_id, hierarchy.current_hit):
        with pytest.raises((TypeError, ValueError)):
            await _maybe_awaited(call, partition)
    assert not world.calls.count


def test_keyring_sync_side_needs_no_loop_when_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop of the sync side is for misses: it costs thirty times a hit."""
    hierarchy = World().hierarchy()
    sealed = sync.seal(b"data", hierarchy, partition="u1")
    monkeypatch.setattr("anyseal.offload.wait", None)
    assert b"data" == sync.open(sealed, hierarchy, partition="u1")
    assert b"data" == sync.open(
        sync.seal(b"data", hierarchy, partition="u1"), hierarchy, partition="u1"
    )


async def test_keyring_events_are_counted_once() -> None:
    """A hit rate that counts twice, or misses only, misleads."""
    recorder = Recorder()
    async with World().hierarchy(metrics=recorder) as hierarchy:
        sealed = await anyseal.seal(b"data", hierarchy, partition="u1")
        for expected in (1, 2, 3):
            await anyseal.open(sealed, hierarchy, partition="u1")
            assert expected == recorder.count(outcome="hit", cache="intermediate-key")
        assert 1 == recorder.count(outcome="miss", cache="intermediate-key")


async def test_keyring_concurrent_gets_ask_once() -> None:
    """A cold cache entry that a thousand clients read must cost one look."""
    world = World()
    async with world.hierarchy() as writer:
        sealed = await anyseal.seal(b"data", writer, partition="u1")
    world.calls.count.clear()
    world.calls.delay = 0.02
    async with world.hierarchy() as reader:

        async def read() -> None:
            assert b"data" == await anyseal.open(sealed, reader, partition="u1")

        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(read)
    assert (2, 1) == (world.calls.count["load"], world.calls.count["unwrap"])
