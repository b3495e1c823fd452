"""The records of tags live as long as the entries that carry them, and not for ever."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import anyseal.cache.policy
from anyseal import BackendError
from anyseal.cache import CachePolicy
from anyseal.cache.policy import RECORD_MAX_MS, RECORD_MS, now_ms, record_end
from anyseal.value import EXPIRES_AT, key_id_of, open_under, seal_under
from cache_faces import Face, backend_of, both, faces, make

__all__ = ["backend_of", "make"]

pytest_plugins = ["server_fixtures"]
pytestmark = pytest.mark.anyio
DAY = 86_400_000

families = faces(
    ("uvloop", "memory"),
    ("trio", "memory"),
    ("trio", "sqlite"),
    ("asyncio", "redis"),
    ("asyncio", "redis-cluster"),
    ("trio", "memcached"),
    ("trio", "http"),
    ("asyncio", "aiocache-memory"),
    ("asyncio", "cashews-memory"),
    ("asyncio", "memory-blocking"),
    ("asyncio", "sqlite-blocking"),
    ("asyncio", "redis-blocking"),
    ("asyncio", "memcached-blocking"),
    ("asyncio", "http-blocking"),
)
listing = faces(
    ("uvloop", "memory"),
    ("trio", "sqlite"),
    ("asyncio", "redis"),
    ("asyncio", "redis-cluster"),
    ("trio", "http"),
    ("asyncio", "memory-blocking"),
    ("asyncio", "redis-blocking"),
)


def record_of(face: Face, tag: str = "t") -> str:
    """Where the tag's record is."""
    names = face.cache._shelf.keys.names_hit("default")
    found: str = names.tag_record(names.tags(tag)[0])
    return found


async def record(face: Face, tag: str = "t") -> bytes | None:
    """The tag's record."""
    (found,) = await face.raw.get_many([record_of(face, tag)])
    return found  # type: ignore[no-any-return]


async def left_ms(face: Face, tag: str = "t") -> int:
    """How long the tag's record lives from now on; 0 for ever."""
    sealed = await record(face, tag)
    assert sealed is not None
    end = int.from_bytes(sealed[EXPIRES_AT : EXPIRES_AT + 8])
    return end - now_ms() if end else 0


def test_tag_record_end_is_far_beyond_the_entrys(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that extending one is rare, and none ends before an entry that carries it."""
    now = now_ms()
    monkeypatch.setattr(anyseal.cache.policy, "now_ms", lambda: now)
    assert 0 == record_end(0)
    for lives in (1, 1000, DAY // 2 + 1000, 40 * DAY):
        end = record_end(now + lives)
        assert now + max(DAY, 2 * lives) == end
    assert 0 == record_end(now + RECORD_MAX_MS)
    assert RECORD_MS == DAY


@listing
async def test_tag_record_leaves_the_backend(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tag per user must not fill the backend for ever; nor must the deletion of one."""
    monkeypatch.setattr(anyseal.cache.policy, "RECORD_MS", 800)  # on a busy machine, too
    face = make(ttl=0.8)
    await face.set("k", 1, tags=["t", "u"])
    await face.get_or_set("l", face.factory(lambda: 1), tags=["t", "v"])
    await face.delete_tag("w")
    assert 6 == len(await face.raw.names())
    with anyio.fail_after(60):
        while await face.raw.get_many([record_of(face, tag) for tag in "tuvw"]) != [None] * 4:
            await anyio.sleep(0.05)
    assert [] == await face.raw.names()
    await face.set("k", 2, tags=["t"])
    assert 2 == await face.get("k")


@families
async def test_tag_record_outlives_what_carries_it(make: Any) -> None:
    """Else the entry would be a miss before its time. The generation stays: so do other entries."""
    face = make(ttl=60)
    await face.set("short", 1, tags=["t"])
    assert DAY - 5000 < await left_ms(face) <= DAY
    first = await record(face)
    await face.set("short", 2, tags=["t"])
    assert first == await record(face), "the usual set leaves it as it is"
    await face.set("week", 3, tags=["t"], ttl=7 * 86400)
    assert 14 * DAY - 5000 < await left_ms(face) <= 14 * DAY
    await face.get_or_set("computed", face.factory(lambda: 4), tags=["t"], ttl=lambda _: 9 * 86400)
    assert 14 * DAY - 5000 < await left_ms(face) <= 14 * DAY
    await face.get_or_set("month", face.factory(lambda: 5), tags=["t"], ttl=30 * 86400)
    assert 60 * DAY - 5000 < await left_ms(face) <= 60 * DAY
    expected = {"short": 2, "week": 3, "computed": 4, "month": 5}
    assert expected == await face.get_many(list(expected))
    assert await face.touch("short", ttl=100 * 86400)
    assert 200 * DAY - 5000 < await left_ms(face) <= 200 * DAY
    await face.set("ever", 6, tags=["t"], ttl=None)
    assert 0 == await left_ms(face)
    expected["ever"] = 6
    assert expected == await face.get_many(list(expected))
    await face.delete_tag("t")
    assert {} == await face.get_many(list(expected))
    assert DAY - 5000 < await left_ms(face) <= DAY, "what is ended needs no record"


@families
async def test_tag_record_that_went_ends_its_entries(make: Any) -> None:
    """The safe direction: an entry whose record is gone is a miss."""
    face = make()
    await face.set("k", 1, tags=["t"])
    await face.raw.delete_many([record_of(face)])
    assert await face.get("k") is None
    assert "new" == await face.get_or_set("k", face.factory(lambda: "new"), tags=["t"])
    assert "new" == await face.get("k")


@families
async def test_tag_record_without_an_end_is_read_and_left(make: Any) -> None:
    """Records were made without one before: what is in a backend goes on to count."""
    face = make()
    await face.set("k", 1, tags=["t"])
    sealed = await record(face)
    assert sealed is not None
    names = face.cache._shelf.keys.names_hit("default")
    key = face.cache._shelf.keys.named_hit("default", key_id_of(sealed))
    context = names.context(names.tags("t")[0].encode(), b"tag")
    older = seal_under(open_under(sealed, key, context), key, context)
    await face.raw.set(record_of(face), older)
    assert 1 == await face.get("k")
    await face.set("l", 2, tags=["t"], ttl=400 * 86400)
    assert {"k": 1, "l": 2} == await face.get_many(["k", "l"])
    assert older == await record(face)


@both
async def test_tag_record_past_its_end_is_no_tampering(make: Any, backend_of: Any) -> None:
    """A backend that is slow to drop a record gives nobody an alarm, and no entry a longer life."""
    face = make(policy=CachePolicy(on_tamper="raise", local_bytes=1 << 20))
    await face.set("k", 1, tags=["t"])
    sealed = await record(face)
    assert sealed is not None
    names = face.cache._shelf.keys.names_hit("default")
    key = face.cache._shelf.keys.named_hit("default", key_id_of(sealed))
    context = names.context(names.tags("t")[0].encode(), b"tag")
    generation = open_under(sealed, key, context)
    ended = seal_under(generation, key, context, expires_ms=now_ms() + 20)
    await face.raw.set(record_of(face), ended)
    face.cache._shelf.copies.clear(None)
    await anyio.sleep(0.05)
    assert await face.get("k") is None
    assert 0 == face.stats().tampered
    await face.set("k", 2, tags=["t"])
    assert 2 == await face.get("k")


@both
async def test_tag_record_deleted_while_it_is_extended(make: Any, backend_of: Any) -> None:
    """The deletion wins: the old generation does not come back."""
    face, other = make(), make()
    await face.set("k", 1, tags=["t"])
    inner = backend_of.compare_and_set

    def extended(*args: Any, **options: Any) -> Any:
        del backend_of.compare_and_set
        other.cache.delete_tag("t")
        return inner(*args, **options)

    async def aextended(*args: Any, **options: Any) -> Any:
        del backend_of.compare_and_set
        await other.delete_tag("t")
        return await inner(*args, **options)

    backend_of.compare_and_set = aextended if face.is_async else extended
    await face.set("l", 2, tags=["t"], ttl=9 * 86400)
    assert {} == await face.get_many(["k", "l"])


@families
async def test_tag_is_deleted_where_the_backend_takes_no_writes(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that is full still deletes: what must be gone is gone, and later entries live."""
    face = make()
    await face.set_many({"a": 1, "b": 2}, tags=["t"])
    await face.set("c", 3)

    def refuse(*_: Any, **__: Any) -> Any:
        error = BackendError("full")
        error.refused = True
        raise error

    with monkeypatch.context() as full:
        full.setattr(face.cache._shelf.backend, "set", refuse)
        await face.delete_tag("t")
    assert {"c": 3} == await face.get_many(["a", "b", "c"])
    await face.set("a", 4, tags=["t"])
    assert 4 == await face.get("a")
