"""The cache: one suite over both sides and over memory, SQLite and Redis."""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import anyio
import anyio.to_thread
import pytest
import redis
import redis.asyncio

from anyseal import BackendError, ConfigurationError, Key, StaticKeyring, sync
from anyseal.cache import Cache, CachePolicy, MemoryBackend, PickleCodec
from anyseal.cache.backends.memory import BlockingMemoryBackend
from cache_faces import (
    LAX,
    MASTER,
    Clock,
    Face,
    backend_of,
    both,
    clock,
    every,
    face,
    faces,
    make,
)
from support import pattern

__all__ = ["backend_of", "clock", "face", "make"]

pytest_plugins = ["server_fixtures"]
pytestmark = pytest.mark.anyio
MIB = 1 << 20


@dataclasses.dataclass
class User:
    """What services cache."""

    id: UUID
    name: str
    balance: Decimal
    since: datetime
    groups: set[str]
    place: tuple[float, float]


USER = User(
    UUID(int=7), "Zoë", Decimal("12.50"), datetime(2026, 1, 2, tzinfo=UTC), {"a", "b"}, (1.5, -2.0)
)


@every
async def test_cache_gives_back_what_was_set(face: Face) -> None:
    """The least that a cache does: values, None among them, and a default for what is not there."""
    values = {"int": 7, "text": "héllo", "none": None, "false": False, "bytes": b"\0\xff" * 9,
              "list": [1, [2, {"a": None}]], "empty": b""}  # fmt: skip
    for key, value in values.items():
        assert await face.set(key, value)
    for key, value in values.items():
        assert value == await face.get(key, "missing")
        assert await face.contains(key)
    assert "missing" == await face.get("absent", "missing")
    assert await face.get("absent") is None
    assert not await face.contains("absent")
    stats = face.stats()
    assert (len(values), 2, len(values)) == (stats.hits, stats.misses, stats.sets)


@every
async def test_cache_many_at_once(face: Face) -> None:
    """One look for many keys; those that are missing are left out."""
    items: dict[Any, Any] = {f"k{n}": n for n in range(150)} | {b"bytes key": "b"}
    assert len(items) == await face.set_many(items, tags=["all"])
    assert items == await face.get_many([*items, "absent"])
    assert {} == await face.get_many([])
    assert 0 == await face.set_many({})
    await face.delete_tag("all")
    assert {} == await face.get_many(items)


@every
async def test_cache_delete_pop_clear(face: Face, make: Any) -> None:
    """What is gone is gone; other partitions and namespaces stay."""
    other = make(namespace="other")
    await other.set("a", "other")
    await face.set_many({"a": 1, "b": 2, "c": 3})
    await face.set("a", "theirs", partition="them")
    assert 2 == await face.delete("a", "b", "absent")
    assert 0 == await face.delete()
    assert (None, 3) == (await face.get("a"), await face.pop("c"))
    assert "default" == await face.pop("c", "default")
    await face.set_many({"x": 1, "y": 2})
    assert "theirs" == await face.get("a", partition="them")
    assert 2 == await face.clear()
    assert {} == await face.get_many(["x", "y"])
    assert "theirs" == await face.get("a", partition="them")
    assert await face.clear(partition=None) >= 1
    assert await face.get("a", partition="them") is None
    assert "other" == await other.get("a")


@every
async def test_cache_pop_gives_a_value_to_one(face: Face) -> None:
    """A one-time token must not be had twice, however many ask at the same moment."""
    await face.set("token", "once")
    taken: list[Any] = []

    async def take() -> None:
        taken.append(await face.pop("token"))

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(take)
    assert [None] * 7 + ["once"] == sorted(taken, key=str)


@every
async def test_cache_ttl(face: Face, make: Any, clock: Clock) -> None:
    """Seconds, a timedelta, None, and the cache's own."""
    short = make(ttl=1.5)
    await face.set("touched", 1, ttl=1.5)
    assert await face.touch("touched", 3000)
    await short.set("own", 1)
    await face.set("float", 1, ttl=1.5)
    await face.set("delta", 1, ttl=timedelta(milliseconds=1500))
    await face.set("ended", 1, ttl=3000)
    await face.set("never", 1, ttl=None)
    assert await face.touch("ended", 1.5)
    assert not await face.touch("absent")
    await clock.turn(2)
    keys = ["own", "float", "delta", "touched", "ended", "never"]
    assert {"touched": 1, "never": 1} == await face.get_many(keys)


@both
@pytest.mark.parametrize("ttl", [0, -1, math.nan, math.inf, 1e12, True, "1", timedelta(0)])
async def test_cache_refuses_a_ttl_that_is_none(face: Face, ttl: Any) -> None:
    """A ttl of 0 means different things to different people: it is an error."""
    with pytest.raises((TypeError, ValueError), match="ttl must be"):
        await face.set("k", 1, ttl=ttl)
    with pytest.raises((TypeError, ValueError), match="ttl must be"):
        await face.set_many({"k": 1}, ttl=ttl)
    assert not await face.contains("k")


@every
async def test_cache_if_absent(face: Face) -> None:
    """Only the first is stored; what has ended counts as absent."""
    assert await face.set("k", 1, if_absent=True, tags=["t"])
    assert not await face.set("k", 2, if_absent=True)
    assert 1 == await face.get("k")
    await face.delete_tag("t")
    assert await face.set("k", 3, if_absent=True)
    assert 3 == await face.get("k")
    assert not await face.set("k", bytes(2 * MIB), if_absent=True)
    assert await face.set("large", bytes(2 * MIB), if_absent=True)
    assert not await face.set("large", 1, if_absent=True)


@every
async def test_cache_tags(face: Face) -> None:
    """A tag ends all that carries it, also among several, and only in its partition."""
    await face.set("one", 1, tags=["t1"])
    await face.set("two", 2, tags=["t1", "t2"])
    await face.set("three", 3, tags=["t3"])
    await face.set("theirs", 4, tags=["t1"], partition="them")
    assert {"one": 1, "two": 2, "three": 3} == await face.get_many(["one", "two", "three"])
    await face.delete_tag("t2")
    assert {"one": 1, "three": 3} == await face.get_many(["one", "two", "three"])
    await face.delete_tag("t1", "unknown")
    assert {"three": 3} == await face.get_many(["one", "two", "three"])
    assert 4 == await face.get("theirs", partition="them")
    await face.set("one", 5, tags=["t1"])
    assert await face.touch("one", 60)
    assert 5 == await face.get("one")
    await face.delete_tag("t1")
    assert await face.get("one") is None
    with pytest.raises(TypeError, match="sequence of str"):
        await face.set("k", 1, tags="t1")
    with pytest.raises(TypeError, match="sequence of str"):
        await face.set("k", 1, tags=[1])
    with pytest.raises(ValueError, match="32 tags"):
        await face.set("k", 1, tags=[str(n) for n in range(33)])


@every
async def test_cache_get_or_set(face: Face, clock: Clock) -> None:
    """Computed once, then found; None is a value; a condition decides what is kept."""
    calls = []

    def compute() -> Any:
        calls.append(1)
        return {"n": len(calls)}

    for _ in range(3):
        assert {"n": 1} == await face.get_or_set("k", face.factory(compute), tags=["t"])
    await face.delete_tag("t")
    assert {"n": 2} == await face.get_or_set("k", face.factory(compute))
    assert await face.get_or_set("none", face.factory(lambda: None)) is None
    assert await face.get_or_set("none", face.factory(lambda: 1)) is None
    bad = face.factory(lambda: -1)
    assert -1 == await face.get_or_set("bad", bad, condition=lambda value: value > 0)
    assert not await face.contains("bad")
    assert 1 == await face.get_or_set("short", face.factory(lambda: 1), ttl=lambda value: 0.5)
    await clock.turn(1)
    assert 2 == await face.get_or_set("short", face.factory(lambda: 2))


@both
async def test_cache_types_come_back(face: Face) -> None:
    """Asked for by type, a value is what it was; without one it is plain data."""
    await face.set("user", USER)
    assert USER == await face.get("user", type=User)
    assert USER == (await face.get_many(["user"], type=User))["user"]
    assert "Zoë" == (await face.get("user"))["name"]
    await face.set("set", {1, 2})
    assert {1, 2} == await face.get("set", type=set[int])
    assert USER == await face.get_or_set("user", face.factory(lambda: None), type=User)
    with pytest.raises(TypeError):
        await face.get("user", type=lambda: 1)
    assert USER == await face.pop("user", type=User)


@both
async def test_cache_undecodable_is_a_miss(face: Face, make: Any) -> None:
    """An entry that does not fit the type asked for is evicted; it does not open the circuit."""
    face = make(policy=CachePolicy(breaker_failures=3))
    for _ in range(6):
        await face.set("k", "text")
        assert "d" == await face.get("k", "d", type=int)
        assert not await face.contains("k")
    assert "closed" == face.cache._shelf.circuits.state
    assert 6 == face.stats().tampered


@every
async def test_cache_large_values_go_in_pieces(face: Face) -> None:
    """Bytes above 1 MiB, and what else encodes to as much, survive every operation."""
    data = pattern(3 * MIB + 17)
    numbers = list(range(400_000))
    await face.set("large", data, tags=["t"])
    await face.set("numbers", numbers)
    names = await face.raw.names()
    assert 2 == sum(name.endswith("}o") for name in names)
    assert not [name for name in names if "}t" in name]
    assert data == await face.get("large")
    assert {"large": data, "numbers": numbers} == await face.get_many(["large", "numbers"])
    assert await face.contains("large")
    await face.set("large", data[::-1], tags=["t"])
    assert data[::-1] == await face.get("large")
    assert await face.touch("large", 60)
    assert await face.touch("large", None)
    assert data[::-1] == await face.get("large")
    await face.delete_tag("t")
    assert await face.get("large") is None
    await face.set("large", bytearray(data))
    assert data == await face.pop("large")
    assert await face.get("large") is None
    await face.set("large", memoryview(data))
    assert 1 == await face.delete("large")
    assert 1 == await face.delete("numbers")
    assert not [name for name in await face.raw.names() if name.endswith("}o")]


@both
async def test_cache_large_views_are_measured_in_bytes(face: Face, make: Any) -> None:
    """A view of wider items, or of every second byte, is what its bytes are."""
    data = pattern(2 * MIB)
    await face.set("wide", memoryview(data).cast("Q"))
    await face.set("every second", memoryview(data * 2)[::2])
    assert data == await face.get("wide")
    assert (data * 2)[::2] == await face.get("every second")
    small = make(policy=CachePolicy(max_bytes=1000))
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        await small.set("k", data)
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        await small.set("k", "x" * 1000)


@both
async def test_cache_large_object_that_is_gone_is_a_miss(make: Any) -> None:
    """A backend may evict the object and keep the entry: a miss and a new value, never a loop,
    also where a backend that is down would be an error."""
    for mode in ("open", "closed"):
        face = make(policy=CachePolicy(on_backend_error=mode, on_tamper="raise"))
        for operation in ("get", "contains", "pop", "touch"):
            await face.set("k", bytes(2 * MIB))
            gone = [name for name in await face.raw.names() if name.endswith("o")]
            assert 1 == await face.raw.delete_many(gone)
            assert not await getattr(face, operation)("k")
        await face.set("k", bytes(2 * MIB))
        await face.raw.delete_many(gone)
        assert 7 == await face.get_or_set("k", face.factory(lambda: 7))
        assert 7 == await face.get("k")
        assert 0 == face.stats().tampered


@both
async def test_cache_unencodable_value_names_its_path(face: Face) -> None:
    """Which of a thousand fields it was is what one wants to know; nothing is stored."""
    value = {"users": [{"id": 1}, {"socket": object()}]}
    with pytest.raises(TypeError, match=r"users.*1.*socket"):
        await face.set("k", value)
    with pytest.raises(TypeError, match="socket"):
        await face.set_many({"good": 1, "bad": value})
    with pytest.raises(TypeError, match="socket"):
        await face.get_or_set("k", face.factory(lambda: value))
    assert {} == await face.get_many(["k", "good", "bad"])


@both
@pytest.mark.parametrize("key", ["", b"", 1, None, "x" * 40_000, "\ud800", bytearray(b"k")])
async def test_cache_refuses_a_bad_key(face: Face, key: Any) -> None:
    """A key is text or bytes, of a sensible length."""
    with pytest.raises((TypeError, ValueError), match="key"):
        await face.get(key)
    with pytest.raises((TypeError, ValueError), match="key"):
        await face.set(key, 1)


@both
async def test_cache_refuses_bad_arguments(face: Face) -> None:
    """Mistakes that would pass silently otherwise."""
    for partition in ("", "x" * 1025):
        with pytest.raises(ValueError, match="partition"):
            await face.get("k", partition=partition)
    with pytest.raises(TypeError, match="partition"):
        await face.get("k", partition=7)
    with pytest.raises(TypeError, match="iterable of keys"):
        await face.get_many("abc")
    with pytest.raises(TypeError, match="tag"):
        await face.delete_tag(7)
    with pytest.raises(TypeError, match="tags must be"):
        await face.get_or_set("k", lambda: 1, tags="users")
    for items in ([("k", 1)], None):
        with pytest.raises(TypeError, match="items must be a mapping"):
            await face.set_many(items)


@every
async def test_cache_entry_opens_nowhere_else(face: Face, make: Any) -> None:
    """Namespace, partition and codec are parts of an entry: the same key elsewhere is another."""
    await face.set("k", "mine")
    assert await face.get("k", partition="them") is None
    assert await make(namespace="other").get("k") is None
    assert "mine" == await make().get("k")
    assert await make(codec="json").get("k", "miss") == "miss"


@both
async def test_cache_codecs(make: Any) -> None:
    """Any codec serves; pickle has to be named."""
    for codec, value in (("json", {"a": [1, None]}), ("raw", b"bytes"), (PickleCodec(), {1, 2})):
        face = make(codec=codec, namespace=f"n{value.__class__.__name__}")
        await face.set("k", value)
        assert value == await face.get("k")
    with pytest.raises(ConfigurationError):
        make(codec="pickled")


@both
async def test_cache_plain_keys_are_for_those_who_ask(face: Face, make: Any) -> None:
    """With plain_keys the backend shows names; values stay sealed either way."""
    plain = make(plain_keys=True, namespace="plain")
    await plain.set("user 7/ä", "value", partition="acme:eu")
    await face.set("user 7/ä", "value", partition="acme:eu")
    names = await face.raw.names()
    assert ["plain:acme%3Aeu:{user%207/%C3%A4}"] == [n for n in names if n.startswith("plain")]
    assert 1 == sum("user" in name for name in names)
    assert "value" == await plain.get("user 7/ä", partition="acme:eu")
    await plain.set("x" * 300, 1)
    assert 1 == await plain.get("x" * 300)
    assert 1 == await plain.clear()
    assert all(len(name) <= 200 for name in await face.raw.names())


@both
async def test_cache_expiry_is_sealed(make: Any, backend_of: Any, clock: Clock) -> None:
    """A backend that keeps entries for ever, or brings them back, gives a miss."""

    class Keeps:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            method = getattr(self._inner, name)

            def call(*args: Any, **options: Any) -> Any:
                if "ttl_ms" in options:
                    options["ttl_ms"] = None if name != "put_range" else 1 << 40
                return method(*args, **options)

            return call

        def scan(self, prefix: str) -> Any:
            return self._inner.scan(prefix)

    for member in ("get_many", "set", "compare_and_set", "delete_many", "aclose", "close",
                   "put_range", "get_range", "publish"):  # fmt: skip
        if hasattr(backend_of, member):
            setattr(Keeps, member, (lambda m: lambda s, *a, **k: s.__getattr__(m)(*a, **k))(member))
    face = make(backend=Keeps(backend_of))
    await face.set("k", 1, ttl=3000)
    await face.set("large", bytes(2 * MIB), ttl=3000)
    assert 1 == await face.get("k")
    await clock.turn(3001)
    assert not await face.contains("k")
    assert await face.get("large") is None
    assert 2 == face.stats().expired
    assert 0 == face.stats().tampered
    await face.set("k", 1, ttl=3000)
    await clock.turn(3001)
    assert await face.set("k", 2, if_absent=True), "an entry that has ended is absent"
    assert 2 == await face.get("k")


@both
async def test_cache_health(make: Any) -> None:
    """A probe goes the whole way, and leaves nothing."""
    face = make(policy=CachePolicy(local_bytes=1 << 20))
    found = await face.health()
    assert (True, "ok", "closed") == (found.ok, found.backend, found.breaker)
    assert [] == await face.raw.names()


@both
async def test_cache_local_layer(make: Any, clock: Clock) -> None:
    """Sealed bytes in the process: found without the backend, bounded by bytes, and told of the
    cache's own writes at once."""
    face = make(policy=CachePolicy(local_bytes=64 << 10, breaker_failures=0))
    await face.set("k", "v")
    assert "v" == await face.get("k")
    assert (0, 1) == (face.stats().hits, face.stats().local_hits)
    held = face.cache._shelf.local._held
    assert all(b"v" != held[key][0] and len(held[key][0]) > 52 for key in held)
    await face.set("k", "new")
    assert "new" == await face.get("k")
    await face.delete("k")
    assert await face.get("k") is None
    await face.set_many({f"k{n}": bytes(2000) for n in range(100)})
    assert face.stats().local_bytes <= 64 << 10
    assert 100 == len(await face.get_many([f"k{n}" for n in range(100)]))
    await face.set("too large", bytes(20_000))
    assert bytes(20_000) == await face.get("too large")
    await face.set("t", 1, tags=["tag"])
    assert 1 == await face.get("t")
    await face.delete_tag("tag")
    assert await face.get("t") is None
    await face.set("p", 1)
    assert (1, None) == (await face.pop("p"), await face.get("p"))
    await face.set("c", 1)
    await face.clear()
    assert await face.get("c") is None
    await face.set("e", 1, ttl=3000)
    await clock.turn(3001)
    assert await face.get("e") is None


@both
async def test_cache_local_ttl(make: Any, clock: Clock) -> None:
    """Without news from the backend an entry is asked for again after local_ttl."""
    face = make(policy=CachePolicy(local_bytes=1 << 20, local_ttl=3000))
    other = make()
    await face.set("k", 1, ttl=None)
    await other.set("k", 2, ttl=None)
    assert 1 == await face.get("k")
    await clock.turn(3001)
    assert 2 == await face.get("k")


async def test_cache_local_layer_keeps_nothing_that_a_write_overtook() -> None:
    """A reader that was slow must not put back what a writer has replaced or deleted."""
    backend = MemoryBackend()
    cache = Cache(backend, StaticKeyring(MASTER), policy=CachePolicy(local_bytes=1 << 20))
    writer = Cache(backend, StaticKeyring(MASTER))
    read, write = backend.get_many, backend.set
    reading, go = anyio.Event(), anyio.Event()

    async def slow_read(names: Any) -> Any:
        found = await read(names)
        reading.set()
        await go.wait()
        return found

    for change in ("set", "delete", "pop", "touch", "clear", "delete_tag"):
        await writer.set("k", "old", tags=["t"])
        cache._shelf.copies.clear(None)
        reading, go = anyio.Event(), anyio.Event()
        backend.get_many = slow_read  # type: ignore[method-assign]
        async with anyio.create_task_group() as group:
            group.start_soon(cache.get, "k")
            await reading.wait()
            backend.get_many = read  # type: ignore[method-assign]
            args = {"set": ("k", "new"), "clear": (), "delete_tag": ("t",)}.get(change, ("k",))
            await getattr(cache, change)(*args)
            go.set()
        expected = {"set": "new", "touch": "old"}.get(change)
        assert expected == await cache.get("k"), change
    assert write == backend.set


def test_cache_refuses_what_it_cannot_use() -> None:
    """Settings are checked when the cache is made."""
    keyring = StaticKeyring(MASTER)
    for namespace in ("", "a b", "x" * 65, "a:b", "ä", None):
        with pytest.raises(ConfigurationError, match="namespace"):
            Cache(MemoryBackend(), keyring, namespace=namespace)
    with pytest.raises(TypeError, match="Keyring"):
        Cache(MemoryBackend(), b"k" * 32)
    with pytest.raises(TypeError, match="not a blocking backend"):
        sync.Cache(None, keyring)
    for backend in (None, BlockingMemoryBackend(), "memory://"):
        with pytest.raises(TypeError, match="not an async backend"):
            Cache(backend, keyring)
    with pytest.raises(TypeError, match="backend_from_url makes one"):
        sync.Cache("memory://", keyring)
    settings: Any
    for settings in ({"policy": {"lease": 1}}, {"plain_keys": "no"}, {"name_key": MASTER.hex()},
                     {"metrics": 5}, {"audit": "log"}, {"on_rotation": 1}):  # fmt: skip
        for kind, held in ((Cache, MemoryBackend()), (sync.Cache, BlockingMemoryBackend())):
            with pytest.raises(TypeError, match=f"{next(iter(settings))} must be"):
                kind(held, keyring, **settings)
    settings = {"namespce": "shop"}
    with pytest.raises(TypeError, match="unexpected keyword argument 'namespce'"):
        Cache(MemoryBackend(), keyring, **settings)
    for bad in ({"on_tamper": "x"}, {"on_backend_error": 1}, {"lease": 0}, {"ttl_jitter": 2},
                {"timeout": "1"}, {"breaker_failures": -1}, {"local_bytes": True},
                {"reseal": "no"}):  # fmt: skip
        with pytest.raises(ConfigurationError, match=next(iter(bad))):
            CachePolicy(**bad)
    assert "MemoryBackend" in repr(Cache(MemoryBackend(), keyring))


async def test_cache_and_its_twin_share_entries() -> None:
    """The sync side reads what the async side wrote, and the other way round."""
    backend = MemoryBackend()
    key = Key.from_bytes(MASTER)
    cache, twin = Cache(backend, key), Face(sync.Cache(backend.blocking, key))
    await cache.set("a", USER, partition="p", tags=["t"])
    await cache.set("large", bytes(2 * MIB))
    assert USER == await twin.get("a", type=User, partition="p")
    assert bytes(2 * MIB) == await twin.get("large")
    await twin.delete_tag("t", partition="p")
    assert await cache.get("a", partition="p") is None
    await twin.set("b", 1)
    assert 1 == await cache.get("b")


def test_cache_twin_serves_many_threads() -> None:
    """50 threads on one sync cache with a local layer: nobody ever sees a value of another key,
    or one that was deleted by itself."""
    import threading

    cache = sync.Cache(
        BlockingMemoryBackend(), StaticKeyring(MASTER), policy=CachePolicy(local_bytes=1 << 18)
    )
    failed: list[Any] = []

    def work(me: int) -> None:
        try:
            for n in range(40):
                key = f"{me}-{n % 5}"
                cache.set(key, [me, n], tags=[f"t{me}"])
                assert [me, n] == cache.get(key)
                assert cache.get(f"{(me + 1) % 50}-{n % 5}", [me + 1, 0])[0] in (me + 1, 0)
                if n % 7 == 0:
                    assert 1 == cache.delete(key)
                    assert cache.get(key) is None
                if n % 11 == 0:
                    cache.delete_tag(f"t{me}")
                    assert cache.get(key) is None
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [] == failed
    assert 0 == cache.stats().tampered


@faces(("asyncio", "memory"), ("asyncio", "memory-blocking"))
async def test_cache_backend_down_is_bounded_by_policy(make: Any, backend_of: Any) -> None:
    """Open: misses and dropped writes; closed: errors. Deleting always tells."""

    def down(*args: Any, **options: Any) -> Any:
        raise BackendError("down")

    for name in (
        "get_many", "set", "compare_and_set", "delete_many", "put_range", "get_range", "publish",
        "take_lease", "settle", "set_and_delete", "delete_beside",
    ):  # fmt: skip
        setattr(backend_of, name, down)
    face = make(policy=LAX)
    closed = make(policy=CachePolicy(on_backend_error="closed", breaker_failures=0))
    assert await face.get("k", "d") == "d"
    assert {} == await face.get_many(["k"])
    assert not await face.set("k", 1)
    assert not await face.set("k", bytes(2 * MIB))
    assert 0 == await face.set_many({"k": 1, "l": 2})
    assert not await face.contains("k")
    assert not await face.touch("k")
    assert 7 == await face.get_or_set("k", face.factory(lambda: 7), tags=["t"])
    assert not (await face.health()).ok
    for cache in (face, closed):
        for call in (cache.delete, cache.pop, cache.delete_tag):
            with pytest.raises(BackendError):
                await call("k")
    calls: list[Any] = [("get", "k"), ("get_many", ["k"]), ("set", "k", 1), ("contains", "k"),
                        ("set_many", {"k": 1, "l": 2}), ("touch", "k"),
                        ("set", "k", bytes(2 * MIB))]  # fmt: skip
    for name, *args in calls:
        with pytest.raises(BackendError):
            await getattr(closed, name)(*args)
    with pytest.raises(BackendError):
        await closed.get_or_set("k", closed.factory(lambda: 7))


@pytest.mark.parametrize(
    ("kind", "backend", "said"),
    [
        (Cache, sync.MemoryBackend(), "a blocking one, for anyseal.sync.Cache"),
        (sync.Cache, MemoryBackend(), "an async one, for anyseal.cache.Cache"),
        (Cache, MemoryBackend, "not the class MemoryBackend"),
        (sync.Cache, sync.MemoryBackend, "not the class BlockingMemoryBackend"),
        (Cache, "memory://", "anyseal.cache.backend_from_url makes one"),
        (sync.Cache, "memory://", "anyseal.sync.backend_from_url makes one"),
        (Cache, redis.asyncio.Redis(), r"anyseal\.cache\.RedisBackend\(client\)"),
        (sync.Cache, redis.Redis(), r"anyseal\.sync\.RedisBackend\(client\)"),
        (Cache, None, "NoneType is not an async backend: see those in anyseal.cache"),
        (sync.Cache, {}, "dict is not a blocking backend: see those in anyseal.sync"),
    ],
)
def test_cache_says_which_backend_it_wants(kind: Any, backend: Any, said: str) -> None:
    """The two faces look alike: who mixes them up must be told which is which."""
    with pytest.raises(TypeError, match=said):
        kind(backend, StaticKeyring("8f" * 32))
