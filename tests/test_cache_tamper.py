"""What an attacker who owns the backend can do to the cache: nothing but misses."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from anyseal import AnysealError, DecryptionError, FormatError, Key, StaticKeyring, WrongKeyError
from anyseal.cache import Cache, CachePolicy, MemoryBackend, cached
from cache_faces import (
    LAX,
    MASTER,
    OLD_MASTER,
    Clock,
    Face,
    backend_of,
    both,
    clock,
    every,
    faces,
    make,
)
from support import cuts, flips, pattern

__all__ = ["backend_of", "clock", "make"]

pytest_plugins = ["server_fixtures"]
pytestmark = pytest.mark.anyio
MIB = 1 << 20
RAISES = CachePolicy(on_tamper="raise", breaker_failures=0)
NEVER = "nothing"


async def only_name(face: Face, ending: str = "}") -> str:
    """The name of the one entry (or object) in the backend."""
    (name,) = [name for name in await face.raw.names() if name.endswith(ending)]
    return name


async def sealed_of(face: Face, name: str) -> bytes:
    (found,) = await face.raw.get_many([name])
    assert found is not None
    return found


@faces(("asyncio", "memory"), ("asyncio", "memory-blocking"))
async def test_cache_refuses_every_flipped_bit_and_every_cut(make: Any) -> None:
    """No bit of an entry can be changed unnoticed; each is a miss, evicted and counted."""
    face, strict = make(), make(policy=RAISES)
    await face.set("k", "v", ttl=None)
    name = await only_name(face)
    good = await sealed_of(face, name)
    read, put, there = (
        face.cache.get,
        face.cache._shelf.backend.set,
        face.cache._shelf.backend.get_many,
    )
    count = 0
    for bad in (*flips(good), *cuts(good), good + b"\0"):
        count += 1
        if face.is_async:
            await put(name, bad)
            assert NEVER == await read("k", NEVER)
            assert [None] == await there([name])
        else:
            put(name, bad)
            assert NEVER == read("k", NEVER)
            assert [None] == there([name])
    stats = face.stats()
    assert count == stats.tampered + stats.wrong_key + stats.expired
    await face.raw.set(name, good[:-1] + bytes((good[-1] ^ 1,)))
    with pytest.raises(DecryptionError):
        await strict.get("k")
    for bad in (b"", good[:20], b"plain"):
        await face.raw.set(name, bad)
        with pytest.raises(FormatError):
            await strict.get("k")
        with pytest.raises(FormatError):
            await strict.get_many(["k"])
        assert [bad] == await face.raw.get_many([name]), "kept, to be looked at"
    await face.raw.set(name, good)
    assert "v" == await strict.get("k")


@both
async def test_cache_refuses_an_entry_that_was_moved(make: Any) -> None:
    """Key, partition, namespace and codec are bound: whoever swaps two entries gains nothing."""
    places: list[tuple[dict[str, Any], str, str]] = [
        ({}, "a", "default"),
        ({}, "b", "default"),
        ({}, "a", "them"),
        ({"namespace": "other"}, "a", "default"),
        ({"codec": "json"}, "c", "default"),
    ]
    found: list[tuple[Face, str, str, str, bytes]] = []
    for settings, key, partition in places:
        face = make(policy=RAISES, **settings)
        before = set(await face.raw.names())
        await face.set(key, "v", partition=partition)
        (name,) = set(await face.raw.names()) - before
        found.append((face, key, partition, name, await sealed_of(face, name)))
    found.append((make(policy=RAISES), "c", "default", found[-1][3], b""))  # the codec alone
    for face, key, partition, name, own in found:
        for *_, sealed in found:
            if sealed not in (own, b""):
                await face.raw.set(name, sealed)
                with pytest.raises((DecryptionError, WrongKeyError)):
                    await face.get(key, partition=partition)


@both
async def test_cache_refuses_another_masters_entries(make: Any) -> None:
    """A wrong key is told apart from tampering, by the key's id."""
    name_key = Key.from_bytes(MASTER)
    theirs, face = make(master=OLD_MASTER, name_key=name_key), make(name_key=name_key)
    await theirs.set("k", 1)
    assert await face.get("k", NEVER) == NEVER
    assert (1, 0) == (face.stats().wrong_key, face.stats().tampered)
    await theirs.set("k", 1)
    with pytest.raises(WrongKeyError):
        await make(name_key=name_key, policy=RAISES).get("k")


@both
async def test_cache_refusals_open_the_circuit(make: Any, clock: Clock) -> None:
    """Failed decryptions in a row count for the breaker, though the backend answers well."""
    face = make(policy=CachePolicy(breaker_failures=3, breaker_reset=3000))
    await face.set_many({f"k{n}": n for n in range(6)})
    names = await face.raw.names()
    for name in names:
        await face.raw.set(name, b"tampered" * 20)
    await face.set("good", 1, ttl=None)
    for n in range(2):
        assert await face.get(f"k{n}") is None
    assert 1 == await face.get("good")
    assert "closed" == face.cache._shelf.circuits.state
    for n in range(2, 5):
        assert await face.get(f"k{n}") is None
    assert "open" == face.cache._shelf.circuits.state
    assert await face.get("good") is None, "nothing is asked"
    await clock.turn(3001)
    assert 1 == await face.get("good")
    assert "closed" == face.cache._shelf.circuits.state


@both
async def test_cache_tampered_entry_is_computed_anew(make: Any, caplog: Any) -> None:
    """A function in front of a tampered entry is called again; a warning shows neither key nor
    value."""
    face = make()
    await face.set("secret-key", "secret-value")
    name = await only_name(face)
    await face.raw.set(name, bytes(100))
    assert 7 == await face.get_or_set("secret-key", face.factory(lambda: 7))
    assert 7 == await face.get("secret-key")
    (record,) = [each for each in caplog.records if each.name.startswith("anyseal")]
    assert "refused" in record.getMessage()
    assert "secret" not in record.getMessage()


@both
async def test_cache_refuses_a_changed_object(make: Any) -> None:
    """Of a large value neither pieces nor lengths nor the whole can be exchanged."""
    face, strict = make(), make(policy=RAISES)
    await face.set("a", pattern(3 * MIB, "a"))
    name_a = await only_name(face, "}o")
    await face.set("b", pattern(3 * MIB, "b"))
    (name_b,) = {n for n in await face.raw.names() if n.endswith("}o")} - {name_a}
    a, b = await sealed_of(face, name_a), await sealed_of(face, name_b)
    swapped = a[:MIB] + a[2 * MIB : 3 * MIB] + a[MIB : 2 * MIB] + a[3 * MIB :]
    flipped = a[: 2 * MIB] + bytes((a[2 * MIB] ^ 1,)) + a[2 * MIB + 1 :]
    entry = await sealed_of(face, name_a[:-1])
    for bad in (swapped, flipped, b, a[:MIB] + b[MIB:], bytes(len(a)), a[:1000] + a):
        await face.raw.set(name_a, bad)
        await face.raw.set(name_a[:-1], entry)
        with pytest.raises((DecryptionError, FormatError, WrongKeyError)):
            await strict.get("a")
        assert await face.get("a", NEVER) == NEVER
    for short in (a[:-1], a[: 2 * MIB], b"", a[1:]):
        await face.raw.set(name_a, short)
        await face.raw.set(name_a[:-1], entry)
        assert await face.get("a", NEVER) == NEVER
    await face.raw.set(name_a, a)
    await face.raw.set(name_a[:-1], entry)
    assert pattern(3 * MIB, "a") == await strict.get("a")
    await face.raw.set(name_a[:-1], await sealed_of(face, name_b[:-1]))  # another's pointer
    assert await face.get("a", NEVER) == NEVER


async def test_cache_object_replaced_while_read_is_no_tampering() -> None:
    """A writer may replace a large value between two pieces: the reader gets the old or the new,
    and nobody is accused."""
    backend = MemoryBackend()
    keyring = StaticKeyring(MASTER)
    cache = Cache(backend, keyring, policy=CachePolicy(on_tamper="raise", local_bytes=1 << 20))
    writer = Cache(backend, keyring)
    old, new = pattern(3 * MIB, "old"), pattern(3 * MIB, "new")
    await cache.set("k", old)
    read, reads = backend.get_range, 0

    async def interrupted(name: str, offset: int, length: int) -> bytes:
        nonlocal reads
        reads += 1
        if reads == 4:
            await writer.set("k", new)
        return await read(name, offset, length)

    backend.get_range = interrupted  # type: ignore[method-assign]
    assert new == await cache.get("k")
    await writer.set("k", old)  # and this process still has the entry of the one before
    assert old == await cache.get("k")
    assert 0 == cache.stats().tampered


@both
async def test_cache_refuses_forged_tags(make: Any) -> None:
    """A tag's record that is gone, forged or another's ends entries; it never keeps them alive."""
    face = make()

    async def records() -> list[str]:
        return [name for name in await face.raw.names() if name.endswith("}g")]

    await face.set("k", 1, tags=["t"])
    (record,) = await records()
    good = await sealed_of(face, record)
    entry_name = await only_name(face)
    entry = await sealed_of(face, entry_name)
    await face.set("u", 1, tags=["u"])
    (other,) = set(await records()) - {record}
    for bad in (None, b"", bytes(120), await sealed_of(face, other), entry):
        if bad is None:
            await face.raw.delete_many([record])
        else:
            await face.raw.set(record, bad)
        await face.raw.set(entry_name, entry)
        assert await face.get("k") is None
    await face.raw.set(record, good)
    assert 1 == await face.get("k")
    await face.raw.set(record, bytes(120))
    assert await face.set("k", 2, tags=["t"])
    assert 2 == await face.get("k")
    await face.delete_tag("t")
    assert await face.get("k") is None


@both
async def test_cache_refuses_a_lease_as_a_value(make: Any) -> None:
    """Leases and tags are no entries: put in an entry's place they are refused."""
    face = make()
    await face.set("k", 1, tags=["t"])
    name = await only_name(face)
    record = await only_name(face, "}g")
    for bad in (await sealed_of(face, record), bytes(16)):
        await face.raw.set(name, bad)
        assert await face.get("k") is None


@every
async def test_cache_shows_the_backend_nothing(
    make: Any, backend_of: Any, request: pytest.FixtureRequest, case: Any, tmp_path: Any
) -> None:
    """Neither values nor names of keys, partitions, tags and functions are anywhere in the
    backend: not in its keys, its values, its file or its dump."""
    face = make(policy=CachePolicy(local_bytes=1 << 20, stale_ttl=60))
    # Long enough not to stand in megabytes of ciphertext by chance.
    marks = {what: f"TELLTALE{what}MARK" for what in ("key", "value", "tenant", "tag", "error")}
    where = {"partition": marks["tenant"]}
    await face.set(marks["key"], marks["value"], tags=[marks["tag"]], **where)
    await face.set(marks["key"] + "2", marks["value"].encode() * (MIB // 8), **where)
    await face.get_or_set(marks["key"] + "3", face.factory(lambda: marks["value"]), **where)
    await face.delete_tag(marks["tag"], **where)

    if face.is_async:

        @cached(cache=face.cache, partition=marks["tenant"], exceptions=[ValueError])
        async def TELLTALEfunctionMARK(argument: str) -> str:
            raise ValueError(marks["error"])

        with pytest.raises(ValueError, match="TELLTALEerror"):
            await TELLTALEfunctionMARK(marks["value"])
    found = b""
    for name in await face.raw.names():
        found += name.encode() + await sealed_of(face, name)
    assert len(found) > MIB
    if case.name.startswith("redis"):
        import redis

        server = request.getfixturevalue("redis_server")

        def dumped() -> bytes:
            with redis.Redis(port=server.port) as client:
                client.config_set("rdbcompression", "no")
                client.save()
            return (server.folder / "dump.rdb").read_bytes()

        found += await anyio.to_thread.run_sync(dumped)
    for path in await anyio.to_thread.run_sync(lambda: list(tmp_path.iterdir())):
        found += await anyio.to_thread.run_sync(path.read_bytes)
    assert b"TELLTALE" not in found
    assert MASTER not in found


@both
async def test_cache_errors_hold_no_secret(make: Any) -> None:
    """Messages of errors end in logs: no key, value or context may be in them."""
    face = make(policy=RAISES)
    await face.set("MARKkey", "MARKvalue", partition="MARKtenant")
    name = await only_name(face)
    there = await sealed_of(face, name)
    for bad in (bytes(100), there[:-1] + bytes([there[-1] ^ 1])):
        await face.raw.set(name, bad)
        with pytest.raises(AnysealError) as caught:
            await face.get("MARKkey", partition="MARKtenant")
        assert "MARK" not in str(caught.value)
    await face.set("MARKkey", {"a": "MARKvalue"})
    with pytest.raises(FormatError) as caught:
        await face.get("MARKkey", type=int)
    assert "MARK" not in str(caught.value) + repr(face.cache)
    assert LAX is not RAISES
