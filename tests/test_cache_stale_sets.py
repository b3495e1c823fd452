"""A value that was computed from what is no longer true is returned, but never stored."""

from __future__ import annotations

import random
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from anyseal.cache import CachePolicy, cached
from anyseal.errors import BackendError
from cache_faces import LAX, Face, backend_of, both, faces, make
from support import pattern

__all__ = ["backend_of", "make"]

pytest_plugins = ["server_fixtures"]
pytestmark = pytest.mark.anyio

families = faces(
    ("asyncio", "memory"),
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
    ("asyncio", "redis-cluster-blocking"),
    ("asyncio", "memcached-blocking"),
    ("asyncio", "http-blocking"),
)
in_one_exchange = faces(
    ("asyncio", "memory"),
    ("trio", "sqlite"),
    ("asyncio", "redis"),
    ("asyncio", "redis-cluster"),
    ("asyncio", "memory-blocking"),
    ("asyncio", "sqlite-blocking"),
    ("asyncio", "redis-blocking"),
    ("asyncio", "redis-cluster-blocking"),
)
NO_LEASE = CachePolicy(lease=None, breaker_failures=0)


class Computing:
    """A call of ``get_or_set`` whose function waits until it is told to return."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.results: list[Any] = []
        self._begun, self._go = threading.Event(), threading.Event()

    def factory(self, face: Face) -> Callable[[], Any]:
        """The function, as the side of *face* takes it."""

        def plain() -> Any:
            self._begun.set()
            assert self._go.wait(10)
            return self.value

        async def awaited() -> Any:
            self._begun.set()
            while not self._go.is_set():
                await anyio.sleep(0.005)
            return self.value

        return awaited if face.is_async else plain

    async def run(self, call: Callable[[], Awaitable[Any]]) -> None:
        """Begin *call*, which calls the function."""
        self.results.append(await call())

    async def begun(self) -> None:
        """The function was called."""
        with anyio.fail_after(10):
            while not self._begun.is_set():
                await anyio.sleep(0.005)

    def end(self) -> None:
        """Let the function return."""
        self._go.set()


async def while_computing(
    face: Face, change: Callable[[], Awaitable[Any]], value: Any = "old", **options: Any
) -> None:
    """Make a *change* while *face* computes the *value* of ``k``, which its caller gets."""
    old = Computing(value)
    factory = old.factory(face)
    async with anyio.create_task_group() as group:
        group.start_soon(old.run, lambda: face.get_or_set("k", factory, **options))
        await old.begun()
        await change()
        old.end()
    assert [value] == old.results


def name_of(face: Face) -> str:
    """Where the entry of ``k`` is."""
    name: str = face.cache._shelf.keys.names_hit("default").names(b"sk")[0]
    return name


@families
@pytest.mark.parametrize("by", ["this cache", "another"])
async def test_stale_set_delete_while_computing_wins(make: Any, by: str) -> None:
    """A service changes its source and deletes the entry: who had read the source before must not
    put the old value back. Whether in one process or two."""
    face = make()
    other = face if by == "this cache" else make()
    await while_computing(face, lambda: other.delete("k"))
    assert await face.get("k") is None
    assert await other.get("k") is None
    assert "new" == await face.get_or_set("k", face.factory(lambda: "new"))
    assert "new" == await other.get("k")


@families
async def test_stale_set_pop_and_clear_while_computing_win(make: Any) -> None:
    """They delete as well."""
    face, other = make(), make()
    for each in (face, other):
        await while_computing(face, lambda each=each: each.pop("k"))
        assert await face.get("k") is None
        await while_computing(face, lambda each=each: each.clear())
        assert await face.get("k") is None


@families
async def test_stale_set_keeps_what_was_set_while_computing(make: Any) -> None:
    """Who writes a newer value through the cache must not lose it to an older computation."""
    face = make()
    await while_computing(face, lambda: face.set("k", "newer"))
    assert "newer" == await face.get("k")
    await face.delete("k")
    await while_computing(face, lambda: face.set("k", "newest", if_absent=True))
    assert "newest" == await face.get("k")


@in_one_exchange
async def test_stale_set_keeps_what_another_process_set(make: Any) -> None:
    """Where it costs no exchange, a set ends the leases of other processes."""
    face, other = make(), make()
    await while_computing(face, lambda: other.set("k", "newer"))
    assert "newer" == await face.get("k")


@families
async def test_stale_set_later_callers_do_not_wait_for_the_old_value(make: Any) -> None:
    """Who asks after the delete must not get what was computed from the time before."""
    face = make()
    old = Computing("old")
    factory = old.factory(face)
    async with anyio.create_task_group() as group:
        group.start_soon(old.run, lambda: face.get_or_set("k", factory))
        await old.begun()
        await face.delete("k")
        with anyio.fail_after(5):
            assert "new" == await face.get_or_set("k", face.factory(lambda: "new"))
        old.end()
    assert ["old"] == old.results
    assert "new" == await face.get("k")


@both
@pytest.mark.parametrize("what", ["tag", "partition", "function"])
async def test_stale_set_later_callers_do_not_wait_for_what_was_cleared(
    make: Any, what: str
) -> None:
    """So it is with what ends many entries at once; callers of other keys stay together."""
    face = make()
    old = Computing("old")

    def f() -> Any:
        return old.factory(face)()

    async def g() -> Any:
        return await old.factory(face)()

    function: Any = cached(g if face.is_async else f, cache=face.cache, tags=["t"], name="f")

    async def call(function: Any) -> Any:
        return await (function() if face.is_async else anyio.to_thread.run_sync(function))

    async with anyio.create_task_group() as group:
        group.start_soon(old.run, lambda: call(function))
        await old.begun()
        other = Computing("other")
        factory = other.factory(face)
        group.start_soon(other.run, lambda: face.get_or_set("k", factory, partition="p"))
        await other.begun()
        first, old = old, Computing("new")
        old.end()
        if what == "tag":
            await face.delete_tag("t")
        elif what == "partition":
            await face.clear()
        else:
            await call(function.cache_clear)
        group.start_soon(old.run, lambda: call(function))
        group.start_soon(other.run, lambda: face.get_or_set("k", factory, partition="p"))
        await anyio.sleep(0.05)
        first.end()
        other.end()
    assert (["old"], ["new"]) == (first.results, old.results)
    assert ["other", "other"] == other.results
    assert "new" == await call(function)


@families
async def test_stale_set_of_a_lost_lease(make: Any) -> None:
    """A process that was frozen for longer than its lease, or whose lease another one has now,
    cannot know what happened meanwhile: it stores nothing."""
    face = make()
    name = name_of(face)
    lock, inner, stored = name + "l", face.cache._shelf.backend.set, []

    def noting(name: str, *args: Any, **options: Any) -> Any:
        stored.append(name)
        return inner(name, *args, **options)

    face.cache._shelf.backend.set = noting
    await while_computing(face, lambda: face.raw.delete_many([lock]))
    assert await face.get("k") is None
    await while_computing(face, lambda: face.raw.set(lock, b"another's", ttl_ms=60_000))
    assert await face.get("k") is None
    assert [b"another's"] == await face.raw.get_many([lock])
    assert name not in stored, "not for a moment"


@families
async def test_stale_set_without_leases_in_the_process(make: Any) -> None:
    """Without leases the rule holds in the process; callers go their own ways there, too."""
    face = make(policy=NO_LEASE)
    for change in (face.delete, face.pop, lambda _: face.clear()):
        await while_computing(face, lambda change=change: change("k"))
        assert await face.get("k") is None
    await while_computing(face, lambda: face.set("k", "newer"))
    assert "newer" == await face.get("k")


@both
async def test_stale_set_without_the_backend(make: Any, backend_of: Any) -> None:
    """The backend is down when the lease is asked for: the value is computed without, and what is
    deleted in this process meanwhile does not come back either."""
    face = make()
    name = "take_lease"
    inner = getattr(backend_of, name)

    def down(*args: Any, **options: Any) -> Any:
        raise BackendError("down")

    setattr(backend_of, name, down)
    await while_computing(face, lambda: face.delete("k"))
    assert await face.get("k") is None
    await while_computing(face, lambda: anyio.sleep(0))
    assert "old" == await face.get("k")
    setattr(backend_of, name, inner)


@both
async def test_stale_set_refresh(make: Any) -> None:
    """``refresh`` and refreshes in the background obey the same rule."""
    face = make(policy=CachePolicy(stale_ttl=30, breaker_failures=0), ttl=0.05)
    old: Any = Computing("first")
    old.end()

    if face.is_async:

        @cached(cache=face.cache, name="f")
        async def f() -> Any:
            return await old.factory(face)()
    else:

        @cached(cache=face.cache, name="f")
        def f() -> Any:
            return old.factory(face)()

    async def call(function: Any) -> Any:
        return await (function() if face.is_async else anyio.to_thread.run_sync(function))

    assert "first" == await call(f)
    await anyio.sleep(0.1)
    old = background = Computing("second")
    assert "first" == await call(f), "stale, and refreshed in the background"
    await background.begun()
    assert await call(f.invalidate)
    background.end()
    await anyio.sleep(0.1)
    assert [] == [name for name in await face.raw.names() if name.endswith("}")]
    for clear in (f.invalidate, f.cache_clear):
        old = Computing("third")
        async with anyio.create_task_group() as group:
            group.start_soon(old.run, lambda: call(f.refresh))
            await old.begun()
            await call(clear)
            old.end()
        assert ["third"] == old.results
        assert [] == [name for name in await face.raw.names() if name.endswith("}")]


@in_one_exchange
@pytest.mark.parametrize("by", ["this cache", "another"])
async def test_stale_set_of_a_large_value(make: Any, by: str) -> None:
    """Neither the entry nor its object stays."""
    face = make()
    other = face if by == "this cache" else make()
    value = pattern(2 << 20)
    await while_computing(face, lambda: other.delete("k"), value)
    assert await face.get("k") is None
    assert [] == await face.raw.names()
    await while_computing(face, lambda: anyio.sleep(0), value)
    assert value == await face.get("k")


@families
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("policy", [LAX, NO_LEASE], ids=["lease", "no lease"])
async def test_stale_set_deleted_while_it_is_stored(
    make: Any, when: str, policy: CachePolicy
) -> None:
    """Deleted after the last look at the lease, or in this process at its mark: what was stored
    all the same is taken back."""
    face = make(policy=policy)
    other = make() if policy is LAX else face
    backend = face.cache._shelf.backend
    method = "settle" if face.cache._shelf.leasing and policy is LAX else "set"
    inner = getattr(backend, method)

    def is_first(name: str) -> bool:
        return name.endswith("}") and backend.__dict__.pop(method, None) is not None

    def store(name: str, *args: Any, **options: Any) -> Any:
        first = is_first(name)
        if first and when == "before":
            other.cache.delete("k")
        result = inner(name, *args, **options)
        if first and when == "after":
            other.cache.delete("k")
        return result

    async def astore(name: str, *args: Any, **options: Any) -> Any:
        first = is_first(name)
        if first and when == "before":
            await other.delete("k")
        result = await inner(name, *args, **options)
        if first and when == "after":
            await other.delete("k")
        return result

    setattr(backend, method, astore if face.is_async else store)
    assert "old" == await face.get_or_set("k", face.factory(lambda: "old"))
    assert method not in backend.__dict__
    assert await face.get("k") is None


@faces(("trio", "memory"), ("asyncio", "memory-blocking"))
async def test_stale_set_stored_while_another_clears(make: Any, backend_of: Any) -> None:
    """A scan does not tell of what is stored beside it: a clear must find it all the same."""
    face, other = make(), make()
    old, over = Computing("old"), threading.Event()
    inner = backend_of.scan

    def end() -> None:
        old.end()
        assert over.wait(5)

    def scan(prefix: str) -> Any:
        backend_of.__dict__.pop("scan", None)
        pages = list(inner(prefix))
        end()
        yield from pages

    async def ascan(prefix: str) -> Any:
        backend_of.__dict__.pop("scan", None)
        pages = [page async for page in inner(prefix)]
        await anyio.to_thread.run_sync(end)
        for page in pages:
            yield page

    async def ask() -> None:
        await old.run(lambda: face.get_or_set("k", old.factory(face)))
        over.set()

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await old.begun()
        backend_of.scan = ascan if face.is_async else scan
        await other.clear()
    assert ["old"] == old.results
    assert await face.get("k") is None


def calls_of(face: Face) -> list[str]:
    """The calls of the backend from now on, each of which is an exchange."""
    backend, calls, within = face.cache._shelf.backend, [], []

    def counting(name: str, method: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            if not within:
                calls.append(name)
            within.append(name)
            try:
                return method(*args, **options)
            finally:
                within.pop()

        return call

    for name in ("get_many", "set", "compare_and_set", "delete_many", "take_lease", "settle",
                 "set_and_delete", "delete_beside"):  # fmt: skip
        if hasattr(backend, name):
            setattr(backend, name, counting(name, getattr(backend, name)))
    return calls


@in_one_exchange
async def test_stale_set_costs_no_exchange(make: Any) -> None:
    """The rule costs nothing where a backend does several things at once."""
    face = make()
    calls = calls_of(face)
    for call, expected in (
        (lambda: face.get_or_set("k", face.factory(lambda: 1)), "get_many take_lease settle"),
        (lambda: face.get_or_set("k", face.factory(lambda: 1)), "get_many"),
        (lambda: face.set("k", 2), "set_and_delete"),
        (lambda: face.set("k", 2, if_absent=True), "set get_many"),
        (lambda: face.delete("k"), "delete_beside"),
        (lambda: face.set("k", 2, tags=["t"]), "get_many set set_and_delete"),
        (lambda: face.set("k", 2, tags=["t"]), "get_many set_and_delete"),
    ):
        await call()
        assert expected.split() == calls
        calls.clear()


@faces(("trio", "memcached"), ("asyncio", "http-blocking"))
async def test_stale_set_costs_one_look_at_the_lease_elsewhere(make: Any) -> None:
    """Over other backends a miss looks once more whether the lease still holds, and a delete
    deletes the lease first."""
    face = make()
    await face.set("k", 0, tags=["t"])
    await face.delete("k")
    calls = calls_of(face)
    await face.get_or_set("k", face.factory(lambda: 1))
    looks = [each for each in calls if each != "get_many"]
    assert ["set", "compare_and_set", "set", "compare_and_set"] == looks
    calls.clear()
    assert 1 == await face.delete("k")
    assert ["delete_many", "delete_many"] == calls


@in_one_exchange
async def test_small_value_over_a_large_one_deletes_its_object(make: Any) -> None:
    """The object would stay for as long as the large value was to live: for ever, perhaps."""
    face = make(ttl=None)
    names = [name_of(face)]
    await face.set("k", pattern(2 << 20))
    assert sorted([names[0], names[0] + "o"]) == sorted(await face.raw.names())
    await face.set("k", "small")
    assert names == await face.raw.names()
    await face.set("k", pattern(2 << 20))
    stale = make(policy=CachePolicy(stale_ttl=30, breaker_failures=0))
    assert await stale.touch("k", 0.05)
    await anyio.sleep(0.1)
    assert pattern(2 << 20) == await stale.get_or_set("k", stale.factory(lambda: "small"))
    with anyio.fail_after(5):
        while len(await face.raw.names()) > 1:
            await anyio.sleep(0.02)
    assert "small" == await face.get("k")


@families
@pytest.mark.parametrize("seed", range(2))
async def test_stale_set_never_after_any_interleaving(make: Any, seed: int) -> None:
    """Readers, deleters and writers of two processes in any order, over a source whose version
    only grows: when all is quiet, the cache serves nothing older than the last delete."""
    dice = random.Random(seed)
    two = [make(policy=LAX), make(policy=LAX)]
    version = 0
    deleted = 0

    def factory(face: Face, delay: float) -> Any:
        def read() -> int:
            return version

        # The source is read first, and the value arrives later.
        if face.is_async:

            async def awaited() -> int:
                found = read()
                await anyio.sleep(delay)
                return found

            return awaited

        def plain() -> int:
            found = read()
            threading.Event().wait(delay)
            return found

        return plain

    async def act(start: float, what: str, face: Face, delay: float) -> None:
        nonlocal version, deleted
        await anyio.sleep(start)
        if what == "read":
            await face.get_or_set("k", factory(face, delay))
            return
        version += 1
        now = version
        if what == "set":
            await face.set("k", now)
        elif what == "pop":
            await face.pop("k")
        elif what == "clear":
            await face.clear()
        await face.delete("k")
        deleted = max(deleted, now)

    for _ in range(2):
        async with anyio.create_task_group() as group:
            for _ in range(20):
                what = dice.choice(["read"] * 6 + ["delete"] * 3 + ["set", "pop"])
                start, delay = dice.uniform(0, 0.06), dice.uniform(0, 0.03)
                group.start_soon(act, start, what, dice.choice(two), delay)
        for face in two:
            served = await face.get("k")
            assert served is None or served >= deleted
