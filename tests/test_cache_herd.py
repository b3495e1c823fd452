"""Herds: of all who ask for one missing value, one computes it."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import Any

import anyio
import pytest

from anyseal import StaticKeyring, sync
from anyseal.cache import Cache, CachePolicy, MemoryBackend
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
    faces,
    make,
    until,
)
from support import run_python, said

__all__ = ["backend_of", "clock", "make"]

pytest_plugins = ["server_fixtures"]
pytestmark = pytest.mark.anyio
KEYRING = StaticKeyring(MASTER)


class Counted:
    """A factory's function: how often it was called, and a fresh value each time."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls, self.error = 0, error

    def __call__(self) -> Any:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return {"call": self.calls, "list": []}


async def gathered(count: int, call: Any) -> list[Any]:
    results: list[Any] = []

    async def one() -> None:
        try:
            results.append(await call())
        except Exception as exc:
            results.append(exc)

    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(one)
    return results


@every
async def test_herd_computes_once(make: Any) -> None:
    """Many callers of one cache and of a second one over the same backend: one call."""
    counted = Counted()
    one, two = make(), make()
    factory = one.factory(counted, 0.1)
    results = await gathered(15, lambda: one.get_or_set("k", factory))
    results += await gathered(15, lambda: two.get_or_set("k", factory))
    assert 1 == counted.calls
    assert [{"call": 1, "list": []}] * 30 == results
    assert 30 == len({id(each["list"]) for each in results}), "values of their own"


@every
async def test_herd_waits_for_the_lease_of_another(make: Any) -> None:
    """Two caches stand for two processes: while one computes, for longer than a lease, the other
    polls for the value."""
    counted = Counted()
    policy = CachePolicy(lease=1.0, breaker_failures=0)
    one, two = make(policy=policy), make(policy=policy)
    factory = one.factory(counted, 1.4)
    results: list[Any] = []

    async def ask(face: Face) -> None:
        results.append(await face.get_or_set("k", factory))

    async with anyio.create_task_group() as group:
        group.start_soon(ask, one)
        await anyio.sleep(0.1)
        group.start_soon(ask, two)
    assert 1 == counted.calls
    assert results[0] == results[1] == {"call": 1, "list": []}
    assert not [name for name in await one.raw.names() if name.endswith("}l")]


@both
async def test_herd_takes_over_from_the_dead(make: Any) -> None:
    """A lease whose holder died ends by itself, and the next one computes."""
    face = make(policy=CachePolicy(lease=0.2))
    names = face.cache._shelf.keys.names_hit("default").names(b"sk")
    started = time.monotonic()
    await face.raw.set(names[0] + "l", b"a dead holder's", ttl_ms=200)
    assert 7 == await face.get_or_set("k", face.factory(lambda: 7))
    assert time.monotonic() - started > 0.15


@both
async def test_herd_shares_errors(make: Any) -> None:
    """The factory's exception reaches all who wait; nothing is stored, and the lease is free."""
    counted = Counted(KeyError("no such user"))
    face = make()
    factory = face.factory(counted, 0.5)
    results = await gathered(5, lambda: face.get_or_set("k", factory))
    assert 1 == counted.calls
    assert ["KeyError"] * 5 == [type(each).__name__ for each in results]
    assert [] == await face.raw.names()
    counted.error = None
    assert 2 == (await face.get_or_set("k", factory))["call"]


async def test_herd_leader_cancelled() -> None:
    """The caller that was first may be cancelled: the computation continues for the others, and
    the lease is not left behind."""
    backend = MemoryBackend()
    cache = Cache(backend, KEYRING)
    calls, go = 0, anyio.Event()

    async def compute() -> int:
        nonlocal calls
        calls += 1
        await go.wait()
        return calls

    async def first(*, task_status: Any = anyio.TASK_STATUS_IGNORED) -> None:
        with anyio.CancelScope() as scope:
            task_status.started(scope)
            await cache.get_or_set("k", compute)

    async with anyio.create_task_group() as group:
        scope = await group.start(first)
        await until(lambda: calls == 1)
        results: list[Any] = []

        async def second() -> None:
            results.append(await cache.get_or_set("k", compute))

        group.start_soon(second)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        go.set()
    assert ([1], 1) == (results, calls)
    assert [[True]] == [[n.endswith("}") for n in names] async for names in backend.scan("")]


async def test_herd_cancelled_anywhere_leaves_nothing_half_done() -> None:
    """A caller cancelled at any await: the next one finds a value or computes it, at once."""

    class Stops(MemoryBackend):
        at = calls = 0
        cancel: Any = None

    def stopping(name: str) -> Any:
        method = getattr(MemoryBackend, name)

        async def call(self: Stops, *args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self.at:
                self.cancel()
            if self.calls % 2:
                await anyio.sleep(0)
                return await method(self, *args, **options)
            result = await method(self, *args, **options)
            await anyio.sleep(0)
            return result

        return call

    for name in ("get_many", "set", "compare_and_set", "delete_many", "put_range", "get_range",
                 "publish", "take_lease", "settle", "set_and_delete", "delete_beside"):  # fmt: skip
        setattr(Stops, name, stopping(name))
    for value in ("small", bytes(2 << 20)):
        for at in range(1, 16):
            backend = Stops()
            policy = CachePolicy(local_bytes=1 << 20, lease=600)
            cache = Cache(backend, StaticKeyring(MASTER, [b"o" * 32]), policy=policy)

            async def compute(value: Any = value) -> Any:
                return value

            with anyio.CancelScope() as scope:
                backend.at, backend.cancel = at, scope.cancel
                await cache.get_or_set("k", compute, tags=["t"])
            with anyio.fail_after(30):
                assert value == await cache.get_or_set("k", compute, tags=["t"])
            assert value == await cache.get("k")
            assert await cache.delete("k") in (0, 1)
            assert await cache.get("k") is None


async def test_herd_across_event_loops() -> None:
    """Tasks of several event loops in one process share a flight."""
    cache = Cache(MemoryBackend(), KEYRING)
    counted, lock = Counted(), threading.Lock()
    results: list[Any] = []

    async def compute() -> Any:
        with lock:
            counted()
        await anyio.sleep(0.2)
        return "value"

    def loop() -> None:
        async def main() -> None:
            results.extend(await asyncio.gather(*[cache.get_or_set("k", compute)] * 1,
                                                cache.get_or_set("k", compute)))  # fmt: skip

        asyncio.run(main())

    threads = [threading.Thread(target=loop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    assert 1 == counted.calls
    assert ["value"] * 8 == results


@both
async def test_herd_stale_while_revalidate(make: Any, clock: Clock) -> None:
    """Beyond its ttl a value is served at once while one caller computes the next."""
    counted = Counted()
    face = make(ttl=3000, policy=CachePolicy(stale_ttl=9000))
    await face.get_or_set("k", face.factory(counted))
    await clock.turn(3001)
    assert await face.get("k") is None, "get serves nothing stale"
    assert not await face.contains("k")
    assert not await face.touch("k")
    held = face.held(counted)
    results = await gathered(5, lambda: face.get_or_set("k", held))
    assert [1] * 5 == [each["call"] for each in results]
    assert 5 == face.stats().stale
    assert await face.get("k") is None
    held.go.set()
    with anyio.fail_after(60):
        while await face.get("k") is None:
            await anyio.sleep(0.02)
    assert 2 == counted.calls
    await clock.turn(3001)
    assert await face.pop("k", "default") == "default", "what is stale is gone for those who take"


@both
async def test_herd_refresh_left_to_another_gives_nobody_its_nothing(
    make: Any, clock: Clock
) -> None:
    """A refresh that finds another process's lease computes nothing: who joined it must not get
    that nothing as the value."""
    face = make(ttl=3000, policy=CachePolicy(stale_ttl=9000, lease=0.3))
    await face.get_or_set("k", face.factory(lambda: "old"))
    await clock.turn(3001)
    name = face.cache._shelf.keys.names_hit("default").names(b"sk")[0]
    await face.raw.set(name + "l", b"another process's", ttl_ms=300)
    results: list[Any] = []

    async def ask() -> None:
        results.append(await face.get_or_set("k", face.factory(lambda: "new")))

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(ask)
            await anyio.sleep(0.002)
            if len(results) == 3:
                await face.delete("k")
    assert {"old", "new"} >= set(results)


@both
async def test_herd_early_refresh(make: Any) -> None:
    """A value that is dear is computed anew before it ends, by one caller in the background."""
    counted = Counted()
    face = make(ttl=5.0, policy=CachePolicy(early_refresh=100.0))
    factory = face.factory(counted, 0.02)
    await face.get_or_set("k", factory)
    with anyio.fail_after(60):
        while counted.calls < 2:
            assert (await face.get_or_set("k", factory))["call"] >= 1
            await anyio.sleep(0.01)
    assert 1 == face.stats().misses


@both
async def test_herd_early_refresh_alone_serves_nothing_stale(make: Any, clock: Clock) -> None:
    """early_refresh does not stretch a ttl."""
    face = make(ttl=3000, policy=CachePolicy(early_refresh=0.001))
    counted = Counted()
    assert 1 == (await face.get_or_set("k", face.factory(counted)))["call"]
    await clock.turn(3001)
    assert 2 == (await face.get_or_set("k", face.factory(counted)))["call"]
    assert 0 == face.stats().stale


def test_policy_jitter_spreads_ends() -> None:
    """Entries made together do not end together, and none lives longer than it was told to."""
    policy = CachePolicy(ttl_jitter=0.5)
    ends = [policy.lifetime(100.0)[1] - time.time() * 1000 for _ in range(200)]
    assert 40_000 < min(ends) < 60_000
    assert 90_000 < max(ends) < 101_000
    assert (0, 0) == policy.lifetime(None)


@both
async def test_herd_tag_deleted_while_computing(make: Any) -> None:
    """What was computed from what the tag stood for must not outlive the tag's deletion."""
    face = make()
    held = face.held(lambda: "old")
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: face.get_or_set("k", held, tags=["t"]))
        await until(held.begun.is_set)
        await face.delete_tag("t")
        held.go.set()
    assert await face.get("k") is None


async def test_herd_aclose_ends_background_tasks(clock: Clock) -> None:
    """A refresh that hangs ends with the cache; no task is left, also of one just started."""
    cache = Cache(MemoryBackend(), KEYRING, policy=CachePolicy(stale_ttl=9000), ttl=3000)
    begun, ended = [], []
    hangs = False

    async def compute() -> int:
        if hangs:
            begun.append(1)
            try:
                await anyio.sleep_forever()
            finally:
                ended.append(1)
        return 1

    async with cache:
        await cache.get_or_set("k", compute)
        await cache.get_or_set("l", compute)
        await clock.turn(3001)
        hangs = True
        assert 1 == await cache.get_or_set("k", compute)
        await until(lambda: begun)
        assert 1 == await cache.get_or_set("l", compute)
    assert ended
    assert {} == cache._shelf.background._tasks
    assert set() == cache._shelf.background._marks
    await cache.aclose()


async def test_herd_background_sees_the_callers_context(clock: Clock) -> None:
    """A refresh runs in the context of who asked: a tenant in a ContextVar is there."""
    from contextvars import ContextVar

    tenant: ContextVar[str] = ContextVar("tenant")
    seen: list[str] = []

    async def compute() -> int:
        seen.append(tenant.get())
        return 1

    policy = CachePolicy(stale_ttl=9000)
    async with Cache(MemoryBackend(), KEYRING, policy=policy, ttl=3000) as cache:
        tenant.set("acme")
        await cache.get_or_set("k", compute)
        await clock.turn(3001)
        await cache.get_or_set("k", compute)
        await until(lambda: len(seen) == 2)
    assert ["acme", "acme"] == seen


def test_herd_of_threads(clock: Clock) -> None:
    """30 threads, one call, values of their own; a refresh sees its caller's context; no thread
    is left."""
    from contextvars import ContextVar

    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    before = set(threading.enumerate())
    counted, seen = Counted(), []
    policy = CachePolicy(stale_ttl=9000)
    cache = sync.Cache(BlockingMemoryBackend(), KEYRING, policy=policy, ttl=3000)

    def compute() -> Any:
        seen.append(tenant.get())
        time.sleep(0.1)
        return counted()

    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda: results.append(cache.get_or_set("k", compute)))
        for _ in range(30)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == counted.calls
    assert 30 == len({id(each) for each in results})
    clock.ahead += 3001
    tenant.set("acme")
    cache.get_or_set("k", compute)
    anyio.run(until, lambda: len(seen) == 2)
    assert ["nobody", "acme"] == seen
    cache.close()
    anyio.run(until, lambda: set(threading.enumerate()) <= before)


@faces(("asyncio", "sqlite"))
async def test_herd_across_processes(make: Any, tmp_path: Any) -> None:
    """Four processes, of which one is killed while it computes: the others wait for its lease to
    end, and one of them computes."""
    code = """
        import asyncio, os, signal, sys
        from anyseal import StaticKeyring
        from anyseal.cache import Cache, CachePolicy, backend_from_url
        from cache_faces import MASTER

        folder, me = sys.argv[1], sys.argv[2]

        async def compute():
            with open(folder + "/calls", "a") as calls:
                calls.write(me)
            if me == "0":
                os.kill(os.getpid(), signal.SIGKILL)
            await asyncio.sleep(2)
            return "value of " + me

        async def main():
            backend = backend_from_url(f"sqlite:///{folder}/cache.db")
            policy = CachePolicy(lease=1.5, timeout=60)
            async with Cache(backend, StaticKeyring(MASTER), policy=policy) as cache:
                print(await cache.get_or_set("k", compute))

        asyncio.run(main())
    """
    results: dict[int, Any] = {}

    async def run(me: int) -> None:
        call = anyio.to_thread.run_sync
        results[me] = await call(run_python, code, str(tmp_path), str(me))

    async with anyio.create_task_group() as group:
        group.start_soon(run, 0)
        calls = anyio.Path(tmp_path / "calls")
        with anyio.fail_after(60):
            while not await calls.exists():
                await anyio.sleep(0.01)
        for me in (1, 2, 3):
            group.start_soon(run, me)
    assert -9 == results.pop(0).returncode
    told = {said(each)[0] for each in results.values()}
    assert 1 == len(told), told
    assert 2 == len(await calls.read_text())


def test_herd_survives_a_fork() -> None:
    """A warm cache with a local layer, a running refresh and a held lock works in the child."""
    code = """
        import os, threading, time, warnings
        warnings.simplefilter("ignore")
        from anyseal import StaticKeyring, sync
        from anyseal.cache import CachePolicy
        from anyseal.cache.backends.memory import BlockingMemoryBackend

        policy = CachePolicy(local_bytes=1 << 20, stale_ttl=30, lease=1)
        cache = sync.Cache(BlockingMemoryBackend(), StaticKeyring(b"k" * 32), policy=policy, ttl=.1)
        cache.get_or_set("k", lambda: "parent's")
        time.sleep(.15)
        pause = threading.Event()
        cache.get_or_set("k", pause.wait)  # a refresh that hangs
        reads = cache._shelf.circuits.reads
        held = [cache._shelf.local._lock, reads._lock, reads._probing]
        for lock in held:
            lock.acquire()
        pid = os.fork()
        if pid == 0:
            assert cache.get_or_set("k", lambda: "child's") in ("parent's", "child's")
            cache.set("l", 1, ttl=60)
            assert cache.get("l") == 1
            end = time.monotonic() + 60
            while cache.get("k") != "child's":
                assert time.monotonic() < end
                cache.get_or_set("k", lambda: "child's")
                time.sleep(.01)
            os._exit(0)
        for lock in held:
            lock.release()
        pause.set()
        print(os.waitpid(pid, 0)[1])
    """
    assert ["0"] == said(run_python(code))


def test_herd_twice_over_one_loop_that_ended(clock: Clock) -> None:
    """An event loop that ended in the middle of a refresh blocks no later one."""
    cache = Cache(MemoryBackend(), KEYRING, policy=CachePolicy(stale_ttl=30_000), ttl=3000)
    calls = 0

    async def compute() -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            await asyncio.sleep(60)
        return calls

    async def main() -> Any:
        clock.ahead += 3001
        seen, found = calls, await cache.get_or_set("k", compute)
        await until(lambda: calls > seen)
        if calls != 2:
            await until(lambda: not cache._shelf.background._marks)
        return found

    assert 1 == asyncio.run(main())
    assert 1 == asyncio.run(main())  # begins a refresh that is cancelled with the loop
    assert 1 == asyncio.run(main())
    assert 3 == asyncio.run(main())
    gc.collect()
    assert LAX.lease == 5.0
