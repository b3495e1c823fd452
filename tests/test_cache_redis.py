"""The Redis backend where it differs from the others: batches, failures, loops, invalidation."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
import trio

from anyseal.cache.backends.redis import RedisBackend
from anyseal.cache.backends.redis_blocking import BlockingRedisBackend
from anyseal.errors import BackendError, ConfigurationError
from anyseal.ports import (
    BlockingRangedBackend,
    RangedBackend,
    WatchedBackend,
)
from storage_servers import RedisCluster, RedisServer
from support import in_turn, run_python, said

pytest_plugins = ["server_fixtures"]
asynchronous = pytest.mark.asyncio

KINDS = ["server", "cluster"]


@pytest.fixture
def url(redis_server: RedisServer) -> str:
    """Redis, without entries."""
    with redis.Redis(port=redis_server.port) as client:
        client.flushall()
        client.config_resetstat()
    return redis_server.url


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A Redis that a test may do anything to."""
    server = RedisServer()
    yield server
    server.close()


def calls(server: RedisServer) -> dict[str, int]:
    """How often Redis ran each command since the test began."""
    with redis.Redis(port=server.port) as client:
        stats: Any = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}


@contextlib.asynccontextmanager
async def opened(url: str, **settings: Any) -> AsyncIterator[RedisBackend]:
    backend = RedisBackend.from_url(url, **settings)
    try:
        yield backend
    finally:
        await backend.aclose()


@asynchronous
async def test_redis_gathers_what_one_turn_asks_for(url: str, redis_server: RedisServer) -> None:
    """A hundred concurrent look-ups are one command: that is what makes them fast."""
    async with opened(url) as backend:
        names = [f"ns:{number}" for number in range(100)]
        assert all(await asyncio.gather(*(backend.set(name, name.encode()) for name in names)))
        found = await asyncio.gather(
            *(backend.get_many([name, "ns:none"]) for name in names), backend.set("ns:x", b"x")
        )
        assert [[name.encode(), None] for name in names] == found[:-1]
        assert 1 == calls(redis_server)["mget"]
        assert 100 == await backend.delete_many(names)
        assert 1 == calls(redis_server)["unlink"]


@asynchronous
async def test_redis_divides_what_is_too_much_at_once(url: str, redis_server: RedisServer) -> None:
    """Redis serves nobody else during a command."""
    async with opened(url) as backend:
        names = [f"ns:{number}" for number in range(1500)]
        await asyncio.gather(*(backend.set(name, name.encode()) for name in names))
        assert [name.encode() for name in names] == await backend.get_many(names)
        assert 6 == calls(redis_server)["mget"]
        found = await asyncio.gather(*(backend.get_many([name]) for name in names))
        assert [[name.encode()] for name in names] == found
        assert 1500 == await backend.delete_many(names)


@asynchronous
async def test_redis_gives_each_of_a_batch_its_own_outcome(url: str) -> None:
    """One bad command is its caller's affair."""
    async with opened(url) as backend:
        with redis.Redis.from_url(url) as client:
            client.lpush("ns:list", b"x")
        outcomes = await asyncio.gather(
            backend.set("ns:a", b"a"),
            backend.get_range("ns:list", 0, 1),
            backend.get_many(["ns:list"]),
            backend.compare_and_set("ns:none", b"x", b"y"),
            backend.compare_and_set("ns:list", b"x", b"y"),
            return_exceptions=True,
        )
        assert [True, [None], False] == [outcomes[0], outcomes[2], outcomes[3]]
        for failed in (outcomes[1], outcomes[4]):
            assert isinstance(failed, BackendError)
            assert not failed.retryable
            assert "ns:list" not in str(failed)
        assert [b"a"] == await backend.get_many(["ns:a"])


@asynchronous
@pytest.mark.parametrize("kind", KINDS)
async def test_redis_survives_cancelled_callers(kind: str, request: pytest.FixtureRequest) -> None:
    """Whoever is cancelled, at whatever moment, the others get their own answers."""
    address = request.getfixturevalue(f"redis_{kind}").url
    address = address if kind == "server" else address.replace("redis", "redis+cluster")
    async with opened(address) as backend:
        names = [f"ns:{number}" for number in range(20)]
        await asyncio.gather(*(backend.set(name, name.encode()) for name in names))
        for turns in range(8):
            for victims in ([0], [0, 1], [3], range(19), range(1, 20), range(20)):
                tasks = [asyncio.create_task(backend.get_many([name])) for name in names]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for victim in victims:
                    tasks[victim].cancel()
                done = await asyncio.wait_for(
                    asyncio.gather(*tasks, return_exceptions=True), timeout=60
                )
                for number, result in enumerate(done):
                    if number not in victims:
                        assert [names[number].encode()] == result
        assert [b"ns:7"] == await backend.get_many(["ns:7"])


@asynchronous
async def test_redis_survives_a_cancelled_lone_caller(url: str) -> None:
    """A connection with half of an answer on it must not be used for the next question."""
    async with opened(url) as backend:
        for name in ("ns:a", "ns:b"):
            await backend.set(name, name.encode() * 100_000)
        for turns in range(12):
            task = asyncio.create_task(backend.get_many(["ns:a"]))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            [found] = await backend.get_many(["ns:b"])
            assert b"ns:b" * 100_000 == found


@asynchronous
async def test_redis_recovers_from_a_crash_under_load(own_server: RedisServer) -> None:
    """No caller hangs, every failure is a BackendError, and then it works again."""
    async with opened(own_server.url, timeout=2) as backend:
        wrong: list[Any] = []
        failures = 0
        stop = False

        async def ask(number: int) -> None:
            nonlocal failures
            name, value = f"ns:{number}", b"%d" % number
            while not stop:
                try:
                    await backend.set(name, value)
                    found = await backend.get_many([name])
                    if found not in ([value], [None]):
                        wrong.append(found)
                except BackendError as exc:
                    failures += 1
                    if not exc.retryable:
                        wrong.append(exc)
                    await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(ask(number)) for number in range(30)]
        await asyncio.sleep(0.2)
        await asyncio.to_thread(own_server.crash)
        await until(lambda: failures > 30)
        await asyncio.to_thread(own_server.start)
        await asyncio.sleep(0.3)
        stop = True
        await asyncio.wait_for(asyncio.gather(*tasks), timeout=60)
        assert [] == wrong
        assert await backend.set("ns:after", b"x", if_absent=True)


@asynchronous
async def test_redis_notices_a_restart_between_two_calls(own_server: RedisServer) -> None:
    """Connections that were kept are gone then; nobody needs to hear of it."""
    async with opened(own_server.url) as backend:
        for again in in_turn(backend.set("ns:a", b"x"), backend.set("ns:b", b"x", if_absent=True)):
            await asyncio.gather(*(backend.get_range(f"ns:{n}", 0, 1) for n in range(3)))
            await backend.get_many(["ns:a"])
            await asyncio.to_thread(own_server.crash)
            await asyncio.to_thread(own_server.start)
            assert await again


@asynchronous
async def test_redis_gives_up_on_a_server_that_hangs(own_server: RedisServer) -> None:
    """A slow backend costs its timeout, not more, and everybody the same."""
    async with opened(own_server.url, timeout=1) as backend:
        await backend.set("ns:a", b"x")
        own_server.freeze()
        try:
            begin = time.monotonic()
            outcomes = await asyncio.gather(
                *(backend.get_many(["ns:a"]) for _ in range(20)),
                backend.set("ns:b", b"x"),
                return_exceptions=True,
            )
            with pytest.raises(BackendError, match="no answer in time"):
                await backend.get_many(["ns:a"])
            assert time.monotonic() - begin < 10, "not 22 times the timeout"
        finally:
            own_server.thaw()
        assert all(isinstance(each, BackendError) and each.retryable for each in outcomes)
        assert len(set(map(id, outcomes))) == len(outcomes)
        assert [b"x"] == await backend.get_many(["ns:a"])


@asynchronous
async def test_redis_reports_nobody_at_home(own_server: RedisServer) -> None:
    """A cache without its backend must hear of it at once."""
    own_server.crash()
    async with opened(own_server.url, timeout=60) as backend:
        begin = time.monotonic()
        with pytest.raises(BackendError, match=r"^SET: ConnectionError$") as caught:
            await backend.set("ns:secret-name", b"secret-value")
        assert caught.value.retryable
        assert time.monotonic() - begin < 15, "not after the timeout"
    blocking = BlockingRedisBackend.from_url(own_server.url)
    with pytest.raises(BackendError, match=r"^MGET: ConnectionError$"):
        blocking.get_many(["ns:a"])
    blocking.close()


@asynchronous
async def test_redis_says_what_trying_again_cannot_help() -> None:
    """A wrong password stays wrong, and a full Redis is not relieved by repeating."""
    server = RedisServer()
    try:
        with redis.Redis(port=server.port) as client:
            client.config_set("requirepass", "right")
        bad = f"redis://:wrong@127.0.0.1:{server.port}"
        async with opened(bad) as backend:
            with pytest.raises(BackendError) as caught:
                await backend.get_many(["ns:a"])
            assert not caught.value.retryable
            assert "wrong" not in str(caught.value)
        async with opened(bad.replace("wrong", "right")) as backend:
            with redis.Redis(port=server.port, password="right") as client:
                client.config_set("maxmemory", 1)
                client.config_set("maxmemory-policy", "noeviction")
            with pytest.raises(BackendError, match="OutOfMemory") as caught:
                await backend.set("ns:a", b"x")
            assert not caught.value.retryable
    finally:
        server.close()


@asynchronous
@pytest.mark.parametrize("kind", KINDS)
async def test_redis_takes_a_client(kind: str, request: pytest.FixtureRequest) -> None:
    """A service's own client serves the cache too, and stays the service's."""
    server = request.getfixturevalue(f"redis_{kind}")
    api = redis.asyncio.Redis if kind == "server" else redis.asyncio.RedisCluster
    client: Any = api.from_url(server.url)
    backend = RedisBackend(client)
    assert isinstance(backend, RangedBackend)
    assert isinstance(backend, WatchedBackend)
    assert await backend.set("ns:a", b"x")
    assert [[b"x"]] * 5 == await asyncio.gather(*(backend.get_many(["ns:a"]) for _ in range(5)))
    await backend.aclose()
    assert b"x" == await client.get("ns:a")
    await client.aclose()
    blocking: Any = (redis.Redis if kind == "server" else redis.RedisCluster).from_url(server.url)
    twin = BlockingRedisBackend(blocking)
    assert isinstance(twin, BlockingRangedBackend)
    assert [b"x", None] == twin.get_many(["ns:a", "ns:none"])
    twin.close()
    assert b"x" == blocking.get("ns:a")
    blocking.close()


@pytest.mark.parametrize(
    "bad",
    [
        "http://localhost", "redis:", "", "redis+sentinel://a:1", "redis+sentinel://a b/s",
        "redis+sentinel://a:1/s/x", "redis+cluster://localhost/3", "redis://localhost/?db=x",
        "redis://localhost/abc", "redis://localhost/0?unknown=1", None,
    ],
)  # fmt: skip
def test_redis_refuses_urls(bad: Any) -> None:
    """A wrong setting is found when the service starts, without quoting a password."""
    with pytest.raises(ConfigurationError):
        RedisBackend.from_url(bad)
    with pytest.raises(ConfigurationError):
        BlockingRedisBackend.from_url(bad)


def test_redis_refuses_clients_that_decode() -> None:
    """Sealed bytes are no text; nor is a blocking client an awaitable one."""
    with pytest.raises(ConfigurationError, match="decode_responses"):
        BlockingRedisBackend(redis.Redis(decode_responses=True))
    with pytest.raises(ConfigurationError, match="decode_responses"):
        RedisBackend(redis.asyncio.Redis(decode_responses=True))
    with pytest.raises(ConfigurationError, match="asyncio"):
        RedisBackend(redis.Redis())
    with pytest.raises(ConfigurationError, match=r"not redis\.asyncio\.Redis"):
        BlockingRedisBackend(redis.asyncio.Redis())
    with pytest.raises(ConfigurationError, match="timeout"):
        RedisBackend.from_url("redis://localhost", timeout=0)


@asynchronous
async def test_redis_refuses_gaps_and_large_pieces(url: str) -> None:
    """A gap means that the beginning was lost: zeros must not take its place."""
    async with opened(url) as backend:
        await backend.put_range("ns:a", 0, b"abc", ttl_ms=60_000)
        with pytest.raises(BackendError, match="beyond") as caught:
            await backend.put_range("ns:a", 4, b"e", ttl_ms=60_000)
        assert not caught.value.retryable
        with pytest.raises(ValueError, match="1048576"):
            await backend.put_range("ns:a", 0, bytes((1 << 20) + 1), ttl_ms=60_000)
        assert [b"abc"] == await backend.get_many(["ns:a"])


def test_redis_serves_several_event_loops(url: str) -> None:
    """One backend object of a module, one loop per test or thread: each has its own client."""
    backend = RedisBackend.from_url(url)

    async def use(number: int) -> None:
        assert await backend.set(f"ns:{number}", b"%d" % number)
        assert [b"%d" % number] == await backend.get_many([f"ns:{number}"])
        await backend.aclose()

    for number in range(3):
        asyncio.run(use(number))


def test_redis_works_after_a_fork(url: str) -> None:
    """A child that shared its parent's connections would read the parent's answers."""
    code = f"""
import asyncio, os, sys
from anyseal.cache.backends.redis import RedisBackend
from anyseal.cache.backends.redis_blocking import BlockingRedisBackend
backend = RedisBackend.from_url({url!r})
blocking = BlockingRedisBackend.from_url({url!r})

async def use(mark):
    await asyncio.gather(*(backend.set(f"ns:{{mark}}:{{n}}", mark) for n in range(5)))
    for n in range(200):
        assert [mark] == await backend.get_many([f"ns:{{mark}}:{{n % 5}}"])
        assert [mark] == blocking.get_many([f"ns:{{mark}}:{{n % 5}}"])

async def in_child():
    await use(b"child")
    await backend.aclose()

async def parent():
    await use(b"parent")
    child = os.fork()
    if child == 0:
        # At once: one more turn of the parent's loop would read the parent's answers.
        code = 1
        try:
            asyncio.run(in_child())
            code = 0
        finally:
            os._exit(code)
    await use(b"parent")
    status = await asyncio.to_thread(os.waitpid, child, 0)
    await use(b"parent")
    await backend.aclose()
    return status[1]

loop = asyncio.new_event_loop()
status = loop.run_until_complete(parent())
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()
print("status", status)
"""
    assert ["status 0"] == said(run_python(code))


def test_redis_says_that_it_needs_asyncio() -> None:
    """redis-py has no trio; the error says so, and the cache's other backends do."""
    with pytest.raises(ConfigurationError, match="asyncio"):
        trio.run(RedisBackend.from_url("redis://127.0.0.1:1").get_many, ["ns:a"])


def told_all(told: list[Any]) -> set[str]:
    return {name for change in told if change for name in change}


@contextlib.asynccontextmanager
async def watching(backend: RedisBackend, prefix: str) -> AsyncIterator[list[Any]]:
    """What is told about names below *prefix*, as it comes."""
    told: list[Any] = []

    async def listen() -> None:
        async for change in backend.changes(prefix):
            told.append(change)

    task = asyncio.create_task(listen())
    try:
        yield told
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(holds: Any) -> None:
    """Wait until *holds()* is true."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


@asynchronous
@pytest.mark.parametrize("kind", KINDS)
async def test_redis_tells_what_others_change(kind: str, request: pytest.FixtureRequest) -> None:
    """What a process holds in memory must not outlive what another process did to it."""
    server = request.getfixturevalue(f"redis_{kind}")
    nodes = getattr(server, "nodes", [server])
    address = server.url if kind == "server" else server.url.replace("redis", "redis+cluster")
    async with opened(address) as backend, opened(address) as other:
        names = {f"ns*:{number}" for number in range(30)}
        await asyncio.gather(*(other.set(name, b"x") for name in names))
        async with watching(backend, "ns*:") as told:
            await until(lambda: told.count(None) >= len(nodes))
            told.clear()
            await asyncio.gather(*(other.set(name, b"y") for name in names))
            await other.set("nsx:1", b"y")
            await until(lambda: told_all(told) >= names)
            told.clear()
            await other.delete_many(sorted(names))
            await until(lambda: told_all(told) >= names)
            told.clear()
            await other.set("ns*:short", b"x", ttl_ms=50)
            await until(lambda: sum(change == ["ns*:short"] for change in told) >= 2)
            told.clear()
            for node in nodes:
                with redis.Redis(port=node.port) as client:
                    await asyncio.to_thread(client.flushall)
            await until(lambda: None in told)
            assert told_all(told) == set()


@asynchronous
async def test_redis_tells_that_it_lost_touch(own_server: RedisServer) -> None:
    """During an outage nobody says what changes: what is held must be dropped, then and after."""
    async with opened(own_server.url) as backend, opened(own_server.url) as other:
        async with watching(backend, "ns:") as told:
            await until(lambda: told == [None])
            await asyncio.to_thread(own_server.crash)
            await until(lambda: told[1:2] == [None])
            await asyncio.to_thread(own_server.start)
            async with asyncio.timeout(60):
                while "ns:a" not in told_all(told):
                    await other.set("ns:a", b"x")  # is not told of before it listens again
                    await asyncio.sleep(0.01)
            first = next(at for at, change in enumerate(told) if change)
            assert told[first - 1] is None
        with redis.Redis(port=own_server.port) as client:
            await until(lambda: int(client.info("clients").get("tracking_clients", 0)) == 0)


@asynchronous
async def test_redis_cluster_goes_on_without_a_node() -> None:
    """A third of the entries is gone then; the rest must not suffer."""
    cluster = RedisCluster()
    try:
        address = cluster.url.replace("redis", "redis+cluster")
        async with opened(address, timeout=20) as backend:
            names = [f"ns:{number}" for number in range(60)]
            await asyncio.gather(*(backend.set(name, name.encode()) for name in names))
            lost = cluster.nodes[2]
            with redis.Redis(port=lost.port) as client:
                gone = {key.decode() for key in client.scan_iter()}
            assert 0 < len(gone) < 60
            await asyncio.to_thread(lost.crash)
            for _ in range(3):
                found = await asyncio.gather(
                    *(backend.get_many([name]) for name in names), return_exceptions=True
                )
                for name, result in zip(names, found, strict=True):
                    if name in gone:
                        assert isinstance(result, BackendError)
                        assert result.retryable
                    else:
                        assert [name.encode()] == result
            await asyncio.to_thread(lost.start)
            async with asyncio.timeout(60):
                while True:
                    try:
                        assert [None] * len(gone) == await backend.get_many(sorted(gone))
                        break
                    except BackendError:
                        await asyncio.sleep(0.1)
    finally:
        cluster.close()


class Sentinel(RedisServer):
    """One Sentinel that watches one server."""

    def __init__(self, master: RedisServer) -> None:
        self._master = master
        super().__init__()

    def command(self) -> list[str]:
        config = self.folder / "sentinel.conf"
        monitor = f"sentinel monitor main 127.0.0.1 {self._master.port} 1\n"
        config.write_text(f"port {self.port}\nbind 127.0.0.1\n{monitor}")
        return [str(self._binary), str(config), "--sentinel"]


@asynchronous
async def test_redis_finds_the_master_through_sentinel(redis_server: RedisServer) -> None:
    """Whoever uses Sentinel does not know where the master is."""
    sentinel = Sentinel(redis_server)
    try:
        address = f"redis+sentinel://127.0.0.1:{sentinel.port},127.0.0.1:1/main/2"
        async with opened(address) as backend:
            assert await backend.set("ns:a", b"x", ttl_ms=60_000)
            assert [b"x", None] == await backend.get_many(["ns:a", "ns:b"])
            async with watching(backend, "ns:") as told:
                await until(lambda: told == [None])
                assert await backend.compare_and_set("ns:a", b"x", b"y")
                await until(lambda: "ns:a" in told_all(told))
        blocking = BlockingRedisBackend.from_url(address)
        assert [b"y"] == blocking.get_many(["ns:a"])
        blocking.close()
        with redis.Redis(port=redis_server.port, db=2) as client:
            assert b"y" == client.get("ns:a")
        async with opened(address.replace("main", "other")) as backend:
            with pytest.raises(BackendError) as caught:
                await backend.get_many(["ns:a"])
            assert caught.value.retryable
    finally:
        sentinel.close()
