"""Keys change, entries stay: rotation, hierarchies, and what hooks are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from anyseal import BackendError, KeyAdmin, MetastoreError, StaticKeyring, sync
from anyseal.cache import Cache, CachePolicy, MemoryBackend, cached
from anyseal.cache.backends.memory import BlockingMemoryBackend
from anyseal.telemetry import OpenTelemetryMetrics, PrometheusMetrics
from anyseal.testing import Recorder, memory_hierarchy
from cache_faces import (
    LAX,
    MASTER,
    OLD_MASTER,
    Clock,
    Face,
    backend_of,
    both,
    clock,
    faces,
    make,
)
from support import pattern

__all__ = ["backend_of", "clock", "make"]

pytest_plugins = ["server_fixtures"]
pytestmark = pytest.mark.anyio
MIB = 1 << 20
OLDER_MASTER = pattern(32, "older cache master")


@both
async def test_rotation_loses_no_entry(make: Any) -> None:
    """With the old master key in previous every operation finds what was there, named and sealed
    under it; without it nothing."""
    told: list[tuple[str, bytes, bytes]] = []
    old = make(master=OLD_MASTER)
    older = make(master=OLDER_MASTER)
    new = make(previous=[OLD_MASTER, OLDER_MASTER], on_rotation=lambda *args: told.append(args))
    large = pattern(2 * MIB)
    await old.set_many({key: key for key in "abcdefgh"}, tags=["t"])
    await older.set("older", "older")
    await old.set("h", "h")
    await old.set("large", large)
    assert "a" == await new.get("a")
    assert "older" == await new.get("older")
    assert large == await new.get("large")
    assert {"b": "b", "c": "c"} == await new.get_many(["b", "c", "z"])
    assert await new.contains("d")
    assert not await new.set("d", "new", if_absent=True), "it is there, under its old name"
    assert "d" == await new.get("d")
    assert ("e", None) == (await new.pop("e"), await new.pop("e"))
    assert 1 == await new.delete("f")
    assert await new.get("f") is None
    assert "g" == await new.get_or_set("g", new.factory(lambda: "computed"))
    assert await new.touch("h", 60)
    assert "h" == await make().get("h"), "what was touched has its new name"
    assert new.stats().old_key >= 6
    assert 0 == new.stats().resealed
    keyring = StaticKeyring(MASTER, [OLD_MASTER])
    ids = [key._key_id for key in keyring._keys("default")]
    assert ("default", ids[1], ids[0]) in told
    assert {"default"} == {partition for partition, *_ in told}
    await new.delete_tag("t")
    assert {} == await new.get_many(["a", "b", "g"])
    assert await make().get("older") is None
    assert await new.clear() >= 1
    assert await old.get("a") is None
    assert [] == [n for n in await new.raw.names() if not n.endswith("g")]


@both
async def test_rotation_brings_no_old_entry_back(make: Any, clock: Clock) -> None:
    """When an entry under the new key ends, the older one of the same key must not reappear."""
    old, new = make(master=OLD_MASTER), make(previous=[OLD_MASTER])
    await old.set("k", "old")
    await old.set("large", pattern(2 * MIB))
    await new.set("k", "new", ttl=3000)
    await new.set("large", "new", ttl=3000)
    await new.set("deleted", "x")
    assert "new" == await new.get("k")
    await clock.turn(3001)
    assert await new.get("k") is None
    assert await new.get("large") is None
    assert await old.get("k") is None


@both
async def test_rotation_reseals_on_read(make: Any, clock: Clock) -> None:
    """With reseal=True what is read moves to the new key and name; it then opens without the old
    one; its expiry stays. What has tags stays where they can end it."""
    old = make(master=OLD_MASTER)
    new = make(previous=[OLD_MASTER], policy=CachePolicy(reseal=True, local_bytes=1 << 20))
    alone = make()
    await old.set("a", "a", tags=["t"])
    await old.set("short", "s", ttl=3000)
    await old.set("large", pattern(2 * MIB))
    assert ("a", "s") == (await new.get("a"), await new.get("short"))
    assert pattern(2 * MIB) == await new.get("large")
    assert (1, 3) == (new.stats().resealed, new.stats().old_key)
    assert "s" == await new.get("short")
    assert (1, 3) == (new.stats().resealed, new.stats().old_key)
    assert "s" == await alone.get("short")
    assert await old.get("short") is None
    assert "a" == await old.get("a")
    await new.delete_tag("t")
    assert await new.get("a") is None
    await clock.turn(3001)
    assert await alone.get("short") is None


async def test_rotation_reseals_nothing_that_was_taken_meanwhile() -> None:
    """A token that another process takes while this one seals it anew must not come back."""
    backend = MemoryBackend()
    keyring = StaticKeyring(MASTER, [OLD_MASTER])
    old = Cache(backend, StaticKeyring(OLD_MASTER))
    new = Cache(backend, keyring, policy=CachePolicy(reseal=True))
    other = Cache(backend, keyring)
    await old.set("token", "once")
    plain, taken = backend.get_many, []

    async def interrupted(names: Any) -> Any:
        found = await plain(names)
        backend.get_many = plain  # type: ignore[method-assign]
        taken.append(await other.pop("token"))
        return found

    backend.get_many = interrupted  # type: ignore[method-assign]
    assert "once" == await new.get("token")
    assert ["once"] == taken
    assert await other.pop("token") is None


@both
async def test_rotation_of_a_decorated_function(make: Any) -> None:
    """Function entries are found and cleared under old names, too."""
    old, new = make(master=OLD_MASTER), make(previous=[OLD_MASTER])
    calls: list[int] = []

    def decorated(face: Face) -> Any:
        def plain(n: int) -> int:
            calls.append(n)
            return n

        async def waits(n: int) -> int:
            return plain(n)

        return cached(cache=face.cache, name="f")(waits if face.is_async else plain)

    async def call(function: Any, *args: Any) -> Any:
        return await function(*args) if old.is_async else function(*args)

    await call(decorated(old), 1)
    await call(decorated(old), 2)
    assert 1 == await call(decorated(new), 1)
    assert [1, 2] == calls
    assert await call(decorated(new).invalidate, 1)
    assert 1 == await call(decorated(new).cache_clear)
    await call(decorated(new), 2)
    assert [1, 2, 2] == calls


@faces(("uvloop", "memory"), ("asyncio", "memory-blocking"))
async def test_hierarchy_as_the_keyring(make: Any) -> None:
    """Names outlive rotation, old entries open, and what a shredded partition had is gone."""
    hierarchy = memory_hierarchy()
    admin = KeyAdmin(hierarchy)
    told: list[Any] = []
    settings = {"keyring": hierarchy, "on_rotation": lambda *args: told.append(args)}
    policy = CachePolicy(local_bytes=1 << 20, breaker_failures=0)
    face, other = make(**settings, policy=policy), make(**settings)
    large = pattern(2 * MIB)
    for partition in ("acme", "other"):
        await face.set("k", partition, partition=partition, tags=["t"])
        await face.set("large", large, partition=partition)
    assert "acme" == await face.get("k", partition="acme")
    assert "acme" == await other.get("k", partition="acme")
    assert await face.get("k") is None
    await admin.rotate("acme")
    hierarchy.forget()
    await face.set("new", 1, partition="acme")
    assert "acme" == await face.get("k", partition="acme")
    assert "acme" == await other.get("k", partition="acme")
    assert large == await other.get("large", partition="acme")
    assert {"k": "acme", "new": 1} == await other.get_many(["k", "new"], partition="acme")
    await admin.shred("acme", wait=False)
    for cache in (face, other):
        assert {} == await cache.get_many(["k", "new", "large"], partition="acme")
    assert "other" == await other.get("k", partition="other")
    await face.set("k", "afresh", partition="acme")
    assert "afresh" == await other.get("k", partition="acme")
    assert (await face.health()).ok
    await hierarchy.aclose()


@faces(("uvloop", "memory"), ("trio", "memory"), ("asyncio", "memory-blocking"))
async def test_hierarchy_that_is_down(make: Any) -> None:
    """Keys that cannot be had are as a backend that is down: the function is called, reads miss;
    closed and deleting raise."""
    hierarchy = memory_hierarchy()

    async def down(*args: Any) -> Any:
        raise MetastoreError("down")

    for name in ("load", "load_latest", "store"):
        setattr(hierarchy.metastore, name, down)
    face = make(keyring=hierarchy)
    closed = make(keyring=hierarchy, policy=CachePolicy(on_backend_error="closed"))
    assert "d" == await face.get("k", "d")
    assert not await face.set("k", 1)
    assert 7 == await face.get_or_set("k", face.factory(lambda: 7))
    assert not (await face.health()).ok
    for call in (face.delete, face.pop, closed.get, closed.contains):
        with pytest.raises(BackendError) as caught:
            await call("k")
        assert caught.value.retryable
    await hierarchy.aclose()


def test_hierarchy_misses_of_the_sync_side_go_through_the_portal() -> None:
    """A sync cache over a hierarchy needs no event loop of the caller's."""
    hierarchy = memory_hierarchy()
    cache = sync.Cache(BlockingMemoryBackend(), hierarchy)
    assert cache.set("k", [1], partition="p")
    hierarchy.forget()
    assert [1] == cache.get("k", partition="p")
    assert 2 == cache.get_or_set("l", lambda: 2, partition="p")


@both
async def test_hooks_are_told(make: Any) -> None:
    """Each use of a key is audited; each outcome counted; neither shows a cache key."""
    metrics, audit = Recorder(), Recorder()
    face = make(metrics=metrics, audit=audit, namespace="mine")
    await face.set("MARK", 1, partition="acme")
    await face.get("MARK", partition="acme")
    await face.get("absent", partition="acme")
    (name,) = await face.raw.names()
    there = (await face.raw.get_many([name]))[0]
    await face.raw.set(name, there[:-1] + bytes([there[-1] ^ 1]))
    await face.get("MARK", partition="acme")
    await face.delete("MARK", partition="acme")
    for outcome, count in (("set", 1), ("hit", 1), ("miss", 2), ("tampered", 1), ("delete", 1)):
        assert count == metrics.count(outcome=outcome, cache="mine"), outcome
    assert 1 == audit.count(partition="acme", operation="encrypt", outcome="ok")
    assert 1 == audit.count(partition="acme", operation="decrypt", outcome="ok")
    assert 1 <= audit.count(partition="acme", operation="decrypt", outcome="DecryptionError")
    assert all(32 == len(event.key_id) for event in audit.events)  # type: ignore[union-attr]
    assert "MARK" not in repr(metrics.events) + repr(audit.events)


@both
async def test_adapters_take_the_caches_events(make: Any, clock: Clock) -> None:
    """Every outcome that a cache has reaches prometheus_client and OpenTelemetry."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from prometheus_client import CollectorRegistry

    registry, reader = CollectorRegistry(), InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("test")
    adapters = [PrometheusMetrics(registry), OpenTelemetryMetrics(meter)]

    def both_hooks(event: Any) -> None:
        for adapter in adapters:
            adapter(event)

    old = make(master=OLD_MASTER)
    face = make(previous=[OLD_MASTER], metrics=both_hooks,
                policy=CachePolicy(reseal=True, local_bytes=1 << 20, stale_ttl=3000))  # fmt: skip
    await old.set("old", 1)
    for key in ("old", "absent"):
        await face.get(key)
    await face.set("k", 1, ttl=3000)
    await face.get("k")
    await clock.turn(3001)
    await face.get_or_set("k", face.factory(lambda: 2))
    await face.delete("k")
    sample = registry.get_sample_value
    for outcome in ("hit", "miss", "old-key", "resealed", "set", "local-hit", "stale", "delete"):
        labels = {"cache": "anyseal", "outcome": outcome}
        assert sample("anyseal_cache_events_total", labels), outcome
    assert "anyseal.cache.events" in reader.get_metrics_data().to_json()  # type: ignore[union-attr]
    assert LAX.reseal is False


class _Interrupting:
    """A blocking backend that calls *between* before its first ``set``."""

    def __init__(self, inner: Any, between: Callable[[], object]) -> None:
        self._inner = inner
        self._between = between
        self._armed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get_many(self, names: Any) -> Any:
        return self._inner.get_many(names)

    def compare_and_set(self, *args: Any, **options: Any) -> Any:
        done = self._inner.compare_and_set(*args, **options)
        if self._armed:
            self._armed = False
            self._between()
        return done

    def arm(self) -> None:
        """Call it after the next compare-and-set."""
        self._armed = True

    def set(self, *args: Any, **options: Any) -> Any:
        return self._inner.set(*args, **options)

    def delete_many(self, names: Any) -> Any:
        return self._inner.delete_many(names)

    def scan(self, prefix: str) -> Any:
        return self._inner.scan(prefix)

    def close(self) -> None:
        self._inner.close()


@pytest.mark.parametrize("verb", ["delete", "clear", "set"])
@pytest.mark.parametrize("mover", ["reseal", "touch"])
def test_rotation_brings_nothing_back(verb: str, mover: str) -> None:
    """Who deletes an entry while another moves it to its new name has deleted it for good."""
    old, new = b"o" * 32, b"n" * 32
    inner = BlockingMemoryBackend()
    sync.Cache(inner, StaticKeyring(old), namespace="n").set("k", "old")
    other = sync.Cache(inner, StaticKeyring(new, [old]), namespace="n")

    def between() -> None:
        if verb == "clear":
            other.clear()
        elif verb == "set":
            other.set("k", "new")
        else:
            other.delete("k")

    backend = _Interrupting(inner, between)
    policy = CachePolicy(reseal=mover == "reseal")
    cache = sync.Cache(backend, StaticKeyring(new, [old]), namespace="n", policy=policy)
    backend.arm()
    if mover == "touch":
        cache.touch("k", 60)
    else:
        cache.get("k")
    assert ("new" if verb == "set" else None) == other.get("k")


def test_rotation_gives_a_value_to_one_who_pops() -> None:
    """Who takes a value out while it moves has it, or leaves it where it is; never both."""
    old, new = b"o" * 32, b"n" * 32
    inner = BlockingMemoryBackend()
    sync.Cache(inner, StaticKeyring(old), namespace="n").set("k", "old")
    other = sync.Cache(inner, StaticKeyring(new, [old]), namespace="n")
    taken: list[Any] = []
    backend = _Interrupting(inner, lambda: taken.append(other.pop("k")))
    policy = CachePolicy(reseal=True)
    cache = sync.Cache(backend, StaticKeyring(new, [old]), namespace="n", policy=policy)
    backend.arm()
    cache.get("k")
    taken.append(other.pop("k"))
    assert 1 == taken.count("old")


def test_rotation_leaves_tagged_entries_where_they_are() -> None:
    """Under the new key alone nobody could end them by their tag."""
    old, new = b"o" * 32, b"n" * 32
    backend = BlockingMemoryBackend()
    sync.Cache(backend, StaticKeyring(old)).set("k", 1, tags=["t"])
    both = sync.Cache(backend, StaticKeyring(new, [old]), policy=CachePolicy(reseal=True))
    assert 1 == both.get("k")
    assert both.touch("k", 60)
    assert 0 == both.stats().resealed
    assert 1 == both.get("k")
    both.delete_tag("t")
    assert both.get("k") is None
