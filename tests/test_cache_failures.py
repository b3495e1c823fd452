"""Servers that die, hang and come back under the cache."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest
import pytest_asyncio
import redis

from anyseal import BackendError, StaticKeyring, sync
from anyseal.cache import Cache, CachePolicy, MemoryBackend, cached, secure
from anyseal.cache.backends.redis import RedisBackend
from anyseal.cache.backends.redis_blocking import BlockingRedisBackend
from anyseal.cache.backends.sqlite import BlockingSQLiteBackend
from anyseal.cache.breaker import Breaker
from anyseal.testing import Recorder
from cache_faces import MASTER, Clock
from storage_servers import RedisCluster, RedisServer

pytest_plugins = ["server_fixtures"]
KEYRING = StaticKeyring(MASTER)
QUICK = CachePolicy(timeout=20, breaker_failures=3, breaker_reset=0.3, lease=1.0)
run = anyio.to_thread.run_sync


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis that the test may kill."""
    found = RedisServer()
    yield found
    found.close()


@pytest_asyncio.fixture
async def cache(server: RedisServer) -> AsyncIterator[Cache]:
    """A cache over it. A dead server refuses connections: nothing waits for the timeout."""
    backend = RedisBackend.from_url(server.url, timeout=20)
    async with Cache(backend, KEYRING, policy=QUICK) as found:
        yield found


async def until(true: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until *true* says so."""
    end = time.monotonic() + seconds
    while True:
        found = true()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


@pytest.mark.asyncio
async def test_failure_redis_killed_and_restarted_under_load(
    cache: Cache, server: RedisServer
) -> None:
    """A decorated function goes on giving results while Redis dies and returns; afterwards they
    come from the cache again, and no call takes long."""
    calls, results, slowest, over = 0, 0, 0.0, False

    @cached(cache=cache)
    async def load(n: int) -> int:
        nonlocal calls
        calls += 1
        return n

    async def use(me: int) -> None:
        nonlocal results, slowest
        while not over:
            started = time.monotonic()
            assert me % 10 == await load(me % 10)
            slowest = max(slowest, time.monotonic() - started)
            results += 1
            await asyncio.sleep(0.005)

    users = [asyncio.create_task(use(n)) for n in range(20)]
    await until(lambda: results > 200)
    assert 10 == calls
    await run(server.crash)
    await until(lambda: cache._shelf.circuits.state == "open")
    seen = results
    await until(lambda: results > seen + 200)
    with pytest.raises(BackendError):
        await cache.delete("k")
    await run(server.start)
    await until(lambda: cache._shelf.circuits.state == "closed")
    hits = cache.stats().hits
    await until(lambda: cache.stats().hits > hits + 100)
    over = True
    await asyncio.gather(*users)
    assert slowest < 15


@pytest.mark.asyncio
async def test_failure_redis_frozen_is_bounded(server: RedisServer) -> None:
    """A Redis that hangs costs its timeout, then nothing until it is asked again; closed raises."""
    policy = CachePolicy(breaker_failures=3, breaker_reset=3)
    cache = Cache(RedisBackend.from_url(server.url, timeout=1), KEYRING, policy=policy)
    await until(lambda: cache.set("k", 1))
    server.freeze()
    try:
        started = time.monotonic()
        assert await cache.get("k") is None
        assert time.monotonic() - started < 10
        for _ in range(3):
            await cache.get("k")
        assert "open" == cache._shelf.circuits.state
        started = time.monotonic()
        for _ in range(100):
            assert await cache.get("k") is None
        assert 7 == await cache.get_or_set("k", lambda: asyncio.sleep(0, 7))
        assert time.monotonic() - started < 20, "not 101 times the timeout"
        closed = Cache(
            RedisBackend.from_url(server.url, timeout=0.3), KEYRING,
            policy=CachePolicy(on_backend_error="closed"),
        )  # fmt: skip
        for call in (closed.get, closed.delete, closed.pop):
            with pytest.raises(BackendError):
                await call("k")
        await closed.aclose()
    finally:
        server.thaw()
    await until(lambda: cache.get("k"))
    assert "closed" == cache._shelf.circuits.state
    assert cache.stats().backend_errors >= 3
    await cache.aclose()


def test_failure_redis_frozen_is_bounded_on_the_sync_side(server: RedisServer) -> None:
    """One call costs the timeout that was asked for, not one more for each further attempt."""
    cache = sync.Cache(BlockingRedisBackend.from_url(server.url, timeout=0.5), KEYRING)
    cache.set("k", 1)
    server.freeze()
    try:
        started = time.monotonic()
        assert cache.get("k") is None
        assert time.monotonic() - started < 1
    finally:
        server.thaw()
    assert 1 == cache.get("k")
    cache.close()


def test_failure_redis_of_the_sync_side(server: RedisServer) -> None:
    """The same without await: killed, then back."""
    backend = BlockingRedisBackend.from_url(server.url, timeout=20)
    cache = sync.Cache(backend, KEYRING, policy=QUICK)

    @cached(cache=cache)
    def load(n: int) -> int:
        return n

    assert (1, 1) == (load(1), load(1))
    server.crash()
    started = time.monotonic()
    for _ in range(50):
        assert 1 == load(1)
    assert time.monotonic() - started < 15
    assert "open" == cache._shelf.circuits.state
    with pytest.raises(BackendError):
        load.invalidate(1)
    server.start()
    end = time.monotonic() + 60
    while cache._shelf.circuits.state != "closed":
        load(1)
        time.sleep(0.02)
        assert time.monotonic() < end
    load(1)
    misses = load.cache_info().misses
    assert (1, misses) == (load(1), load.cache_info().misses)
    cache.close()


@pytest.mark.asyncio
async def test_failure_slow_backend_without_timeout_of_its_own() -> None:
    """The policy's timeout bounds each call, also of the pieces of a large value."""

    class Slow(MemoryBackend):
        enforces_timeout = False
        slow = False

        async def get_many(self, names: Any) -> Any:
            await asyncio.sleep(60 if self.slow else 0)
            return await super().get_many(names)

        async def get_range(self, name: str, offset: int, length: int) -> bytes:
            await asyncio.sleep(60)
            return b""

        async def put_range(self, *args: Any, **options: Any) -> None:
            await asyncio.sleep(60 if self.slow else 0)
            await super().put_range(*args, **options)

    backend = Slow()
    policy = CachePolicy(timeout=0.1, breaker_failures=0)
    cache = Cache(backend, KEYRING, policy=policy)
    assert await Cache(backend, KEYRING).set("large", bytes(2 << 20))
    async with asyncio.timeout(30):
        assert await cache.get("large") is None
        with pytest.raises(BackendError):
            await cache.pop("large")
        backend.slow = True
        assert not await cache.set("large", bytes(2 << 20))
        assert 7 == await cache.get_or_set("k", lambda: asyncio.sleep(0, 7))


@pytest.mark.asyncio
async def test_failure_cluster_node_lost() -> None:
    """With one of three nodes gone the keys of the others are served, and no function fails."""
    cluster = await run(RedisCluster)
    try:
        url = cluster.url.replace("redis", "redis+cluster")
        policy = CachePolicy(breaker_failures=0, lease=0.5)
        async with Cache(RedisBackend.from_url(url, timeout=2), KEYRING, policy=policy) as cache:
            keys = [f"k{n}" for n in range(24)]
            assert 24 == await cache.set_many(dict.fromkeys(keys, 1))
            await run(cluster.nodes[2].crash)
            found = [await cache.get(key) for key in keys]
            assert 4 < found.count(1) < 24
            lost = keys[found.index(None)]
            assert 7 == await cache.get_or_set(lost, lambda: asyncio.sleep(0, 7))
            with pytest.raises(BackendError):
                await cache.delete(lost)
    finally:
        await run(cluster.close)


@pytest.mark.asyncio
async def test_failure_local_layer_hears_of_other_processes(server: RedisServer) -> None:
    """Another process's write, delete and deleted tag end the copy in this process at once."""
    policy = CachePolicy(local_bytes=1 << 20, local_ttl=60)
    writer = Cache(RedisBackend.from_url(server.url), KEYRING)
    async with writer, Cache(RedisBackend.from_url(server.url), KEYRING, policy=policy) as cache:
        await asyncio.sleep(0.1)

        async def gives(value: Any) -> bool:
            return bool(await cache.get("k") == value)

        for change in ("set", "delete", "delete_tag", "clear"):
            await writer.set("k", "old", tags=["t"])
            await until(lambda: gives("old"))
            args = {"set": ("k", "new"), "delete_tag": ("t",), "clear": ()}.get(change, ("k",))
            await getattr(writer, change)(*args)
            expected = "new" if change == "set" else None
            await until(lambda value=expected: gives(value))


@pytest.mark.asyncio
async def test_failure_local_layer_of_a_function_hears_of_others(server: RedisServer) -> None:
    """Nobody enters the cache of a decorated function: it listens all the same."""

    async def load(n: int) -> int:
        calls.append(n)
        return n

    calls: list[int] = []
    options: dict[str, Any] = {"master_key": MASTER, "name": "load"}
    one = secure(backend=RedisBackend.from_url(server.url), **options)(load)
    two = secure(backend=RedisBackend.from_url(server.url), **options)(load)
    await one(1)
    with redis.Redis(port=server.port) as client:
        await until(lambda: client.info("clients")["tracking_clients"] > 0)
    held = one.cached.cache.stats
    for expected in (2, 3):

        async def kept() -> bool:
            return await one(1) == 1 and held().local_entries > 0

        await until(kept)  # when it begins to listen it drops what it holds
        assert 1 == await one(1)
        assert await two.invalidate(1)
        await until(lambda: held().local_entries == 0)
        assert 1 == await one(1)
        assert expected == len(calls)
    for function in (one, two):
        await function.cached.cache.aclose()


@pytest.mark.asyncio
async def test_failure_local_layer_is_dropped_with_its_news(server: RedisServer) -> None:
    """While nobody tells of changes nothing old may be served for long after the news return."""
    policy = CachePolicy(local_bytes=1 << 20, local_ttl=60, breaker_reset=0.2)
    backend = RedisBackend.from_url(server.url, timeout=20)
    async with Cache(backend, KEYRING, policy=policy) as cache:
        await asyncio.sleep(0.1)
        await cache.set("k", "v")
        assert "v" == await cache.get("k")
        await run(server.crash)
        await until(lambda: cache.stats().local_entries == 0)
        await run(server.start)  # empty: nothing was saved

        async def stored() -> bool:
            return await cache.set("l", 1)

        await until(stored)
        assert await cache.get("k") is None


def test_failure_several_event_loops(server: RedisServer) -> None:
    """One cache object in several event loops, one after another and at once."""
    cache = Cache(RedisBackend.from_url(server.url, timeout=60), KEYRING)
    failed: list[BaseException] = []

    async def main(me: int) -> None:
        try:
            for n in range(20):
                await cache.set(f"{me}-{n}", n)
                assert n == await cache.get(f"{me}-{n}")
                assert n == await cache.get_or_set(f"all-{n}", lambda n=n: asyncio.sleep(0, n))
        except BaseException as exc:
            failed.append(exc)
        finally:
            await cache.aclose()

    threads = [threading.Thread(target=lambda n=n: asyncio.run(main(n))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    asyncio.run(main(9))
    assert [] == failed


def test_failure_threads_and_processes_share_a_file(tmp_path: Any) -> None:
    """50 threads on SQLite: nothing is lost, mixed up or stuck."""
    cache = sync.Cache(
        BlockingSQLiteBackend(tmp_path / "cache.db", timeout=60), KEYRING,
        policy=CachePolicy(local_bytes=1 << 18),
    )  # fmt: skip
    failed: list[BaseException] = []

    def work(me: int) -> None:
        try:
            for n in range(4):
                cache.set(f"{me}", [me, n])
                assert [me, n] == cache.get(f"{me}")
            assert 1 == cache.get_or_set("all", lambda: 1)
            assert 1 == cache.delete(f"{me}")
            assert cache.get(f"{me}") is None
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [] == failed
    cache.close()


# ---- the breaker alone


def test_breaker_lets_one_probe_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the time is up one call is let through; the others are not, until it went well."""
    clock = Clock(monkeypatch)
    breaker = Breaker(2, 3000, "b")
    error = BackendError("down")
    for _ in range(2):
        assert not breaker.enter()
        breaker.failed(error)
    with pytest.raises(BackendError, match="circuit is open"):
        breaker.enter()
    clock.ahead += 3001
    assert breaker.enter()
    with pytest.raises(BackendError, match="circuit is open"):
        breaker.enter()
    breaker.left(True)  # the probe was cancelled: the next one is a probe again
    assert breaker.enter()
    breaker.failed(error, True)
    assert "open" == breaker.state
    with pytest.raises(BackendError):
        breaker.enter()
    clock.ahead += 3001
    assert breaker.enter()
    breaker.succeeded(True)
    assert ("closed", False) == (breaker.state, breaker.enter())


def test_breaker_counts_failures_in_a_row() -> None:
    """A success in between begins the count anew; 0 turns the breaker off."""
    breaker = Breaker(3, 9, "b")
    for _ in range(5):
        for _ in range(2):
            breaker.failed(BackendError("down"))
        breaker.succeeded()
    assert "closed" == breaker.state
    off = Breaker(0, 9, "b")
    for _ in range(9):
        off.failed(BackendError("down"))
        off.refused()
    assert ("off", False) == (off.state, off.enter())


def test_breaker_of_many_threads() -> None:
    """Successes that end late do not hide that the circuit has opened."""
    breaker = Breaker(3, 60, "b")
    start = threading.Barrier(8)

    def work(me: int) -> None:
        start.wait()
        for _ in range(300):
            if me % 2:
                breaker.failed(BackendError("down"))
            else:
                breaker.succeeded()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(3):
        breaker.failed(BackendError("down"))
    with pytest.raises(BackendError):
        breaker.enter()


@pytest.mark.asyncio
async def test_failure_is_counted_and_told(caplog: Any) -> None:
    """Metrics and statistics know that the backend failed; so does the log, once: a service with
    a wrong password must not look like one that only misses."""
    metrics = Recorder()
    backend = RedisBackend.from_url("redis://127.0.0.1:1", timeout=0.5)
    cache = Cache(backend, KEYRING, metrics=metrics, policy=CachePolicy(breaker_failures=2))
    for _ in range(10):
        assert await cache.get("k") is None
    assert 2 == cache.stats().backend_errors == metrics.count(outcome="backend-error")
    said = [record.getMessage() for record in caplog.records if record.name == "anyseal.cache"]
    assert ["the backend of cache 'anyseal' failed: MGET: ConnectionError"] == said
    assert 10 == cache.stats().misses
    health = await cache.health()
    assert (False, "BackendError", "open") == (health.ok, health.backend, health.breaker)
    await cache.aclose()


def test_breaker_takes_several_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most so many at a time, and so many in a row must go well; one that fails opens again."""
    now = [0.0]
    monkeypatch.setattr("anyseal.cache.breaker.time.monotonic", lambda: now[0])
    breaker = Breaker(1, 10, "b", successes=2, probes=2)
    breaker.failed(BackendError("down"))
    now[0] = 11
    assert [True, True] == [breaker.enter(), breaker.enter()]
    with pytest.raises(BackendError, match="the circuit is open"):
        breaker.enter()
    breaker.succeeded(probe=True)
    assert "half-open" == breaker.state
    breaker.failed(BackendError("down"), probe=True)
    assert "open" == breaker.state
    with pytest.raises(BackendError, match="the circuit is open"):
        breaker.enter()
    now[0] = 22
    assert [True, True] == [breaker.enter(), breaker.enter()]
    breaker.failed(BackendError("down"), probe=True)
    breaker.succeeded(probe=True)  # too late
    assert "open" == breaker.state
    now[0] = 33
    assert [True, True] == [breaker.enter(), breaker.enter()]
    for _ in range(2):
        breaker.failed(BackendError("down"), probe=True)
    assert "open" == breaker.state
    now[0] = 44
    for _ in range(2):
        assert breaker.enter()
        breaker.succeeded(probe=True)
    assert ("closed", False) == (breaker.state, breaker.enter())
