"""What the documentation promises of the cache, over both faces.

A promise that is not kept yet is marked ``expected_by`` with its cause: the mark is strict.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from typing import Any
from uuid import UUID

import anyio
import anyio.to_thread
import pydantic
import pytest

from anyseal import BackendError, StaticKeyring, sync
from anyseal.cache import Cache, CachePolicy, MemoryBackend, cached
from anyseal.cache.backends.memory import BlockingMemoryBackend
from anyseal.compat.cachekit import ArrowSerializer
from anyseal.compat.cachekit import cache as cachekit
from cache_backends import PATIENT
from cache_faces import Face, until
from doubles import World
from storage_servers import RedisServer
from support import pattern

pytest_plugins = ["server_fixtures"]

KEYRING = StaticKeyring(pattern(32, "cache master"))
tenant: ContextVar[str] = ContextVar("tenant")
faces = pytest.mark.parametrize("face", ["async", "sync"])


def expected_by(cause: str) -> Any:
    """Marks a test that fails until *cause* is mended."""
    return pytest.mark.xfail(strict=True, raises=AssertionError, reason=cause)


def a_cache(face: str, backend: Any = None, **settings: Any) -> Any:
    """A cache of this face, in memory unless a backend is given."""
    if face == "async":
        return Cache(backend or MemoryBackend(), KEYRING, **settings)
    return sync.Cache(backend or BlockingMemoryBackend(), KEYRING, **settings)


# ---- structured values hold up neither the event loop nor other threads


ROWS = 200_000


class Ticks:
    """The longest time between two ticks, in CPU seconds of this process: other processes on the
    machine do not count."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.over = False
        self._last = time.process_time()

    def tick(self) -> None:
        now = time.process_time()
        self.longest = max(self.longest, now - self._last)
        self._last = now


@faces
@pytest.mark.parametrize("verb", ["set", "get"])
@pytest.mark.parametrize("codec", ["msgpack", "json"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_structured_values_are_encoded_in_steps(
    face: str, verb: str, codec: str, anyio_backend: str
) -> None:
    """A list of many small rows must not stall other requests of the service."""
    rows = [{"id": n, "name": f"user {n}", "active": True} for n in range(ROWS)]
    cache = Face(a_cache(face, codec=codec))
    if verb == "get":
        await cache.set("rows", rows)
    gc.collect()
    gc.disable()  # the collector's time is told apart
    ticks = Ticks()
    try:

        async def tick() -> None:
            while not ticks.over:
                ticks.tick()
                await anyio.sleep(0.001)
            ticks.tick()

        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            await anyio.sleep(0)
            kept = await (cache.get("rows") if verb == "get" else cache.set("rows", rows))
            ticks.over = True
        assert kept
        assert ticks.longest < 0.05
    finally:
        gc.enable()


# ---- refusals of the backend


@faces
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_full_redis_still_serves_and_deletes(face: str, anyio_backend: str) -> None:
    """A Redis at its ``maxmemory`` refuses writes; what it has is read and deleted as before."""
    import redis

    from anyseal.cache.backends.redis import RedisBackend
    from anyseal.cache.backends.redis_blocking import BlockingRedisBackend

    server = RedisServer()
    try:
        kind = RedisBackend if face == "async" else BlockingRedisBackend
        backend = kind.from_url(server.url, timeout=PATIENT)
        cache = Face(a_cache(face, backend, policy=CachePolicy(timeout=PATIENT)))
        assert await cache.set("kept", 1)
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", 1)
            async with anyio.create_task_group() as group:  # as many workers at once
                for n in range(50):
                    group.start_soon(cache.get_or_set, f"new {n}", cache.factory(lambda: 2))
            found = [await cache.get("kept") for _ in range(20)]
            deleted: Any = None
            try:
                deleted = await cache.delete("kept")
            except Exception as exc:
                deleted = type(exc).__name__
        await (cache.aclose() if face == "async" else cache.close())
        assert ([1] * 20, 1) == (found, deleted)
    finally:
        server.close()


KINDS = {
    "read": ("get_many",),
    "write": ("set", "take_lease", "settle", "set_and_delete"),
    "delete": ("delete_many", "delete_beside"),
}


class Choosy:
    """A backend in memory that refuses, or does not answer, one kind of call."""

    def __init__(self, inner: Any, kind: str, refused: bool) -> None:
        self._inner = inner
        self._bad = KINDS[kind]
        self._error = BackendError("no")
        self._error.refused = refused
        self.calls = 0
        self.on = True

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name not in self._bad:
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            if not self.on:
                return method(*args, **kwargs)
            self.calls += 1
            raise self._error

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            made = call(*args, **kwargs)
            return await made if hasattr(made, "__await__") else made

        return awaited if isinstance(self._inner, MemoryBackend) else call


@faces
@pytest.mark.parametrize("kind", ["read", "write", "delete"])
@pytest.mark.parametrize("refused", [True, False], ids=["refuses", "is silent"])
@pytest.mark.anyio
async def test_reads_writes_and_deletes_fail_apart(face: str, kind: str, refused: bool) -> None:
    """A backend that has stopped taking one kind of call still serves the others; and only silence
    opens a circuit."""
    inner = MemoryBackend() if face == "async" else BlockingMemoryBackend()
    backend = Choosy(inner, kind, refused)
    cache = Face(a_cache(face, backend, policy=CachePolicy(lease=None)))
    backend.on = False
    assert await cache.set_many({"a": 1, "b": 2})
    backend.on = True
    for n in range(8):
        await cache.get("a")
        await cache.set(f"new {n}", 1)
        with contextlib.suppress(BackendError):
            await cache.delete(f"new {n}")
    assert (8 if refused else 5) == backend.calls
    assert ("closed" if refused else "open") == (await cache.health()).breaker
    if kind != "read":
        assert 1 == await cache.get("a")
    if kind != "write":
        assert await cache.set("c", 3)
    if kind != "delete":
        assert 1 == await cache.delete("b")


# ---- cancelled callers


class Slow:
    """An awaitable function that counts its calls and returns once it is let go."""

    def __init__(self) -> None:
        self.calls = 0
        self.go = anyio.Event()

    async def __call__(self) -> int:
        self.calls += 1
        await self.go.wait()
        return 7


def _by_get_or_set(slow: Slow) -> Callable[[], Any]:
    cache = a_cache("async")
    return lambda: cache.get_or_set("k", slow)


def _by_cached(slow: Slow) -> Callable[[], Any]:
    @cached(cache=a_cache("async"))
    async def load() -> int:
        return await slow()

    return load


def _by_refresh(slow: Slow) -> Callable[[], Any]:
    @cached(cache=a_cache("async"))
    async def load() -> int:
        return await slow()

    refresh: Callable[[], Any] = load.refresh
    return refresh


def _by_hierarchy(slow: Slow) -> Callable[[], Any]:
    world = World()
    world.calls.gate["wrap"] = slow.go
    factory = world.factory()

    def count(name: str) -> None:
        slow.calls += name == "wrap" and factory is not None

    world.calls.before = count

    async def encrypt() -> int:
        row = await factory.session("u1").encrypt(b"x")
        return 7 if row else 0

    return encrypt


@pytest.mark.parametrize(
    ("made", "waiting"),
    [
        (_by_get_or_set, False), (_by_get_or_set, True), (_by_cached, False), (_by_cached, True),
        (_by_hierarchy, False), (_by_hierarchy, True), (_by_refresh, True),
    ],
    ids=lambda each: getattr(each, "__name__", "alone" if not each else "with another caller"),
)  # fmt: skip
@pytest.mark.anyio
async def test_work_outlives_its_first_caller(made: Any, waiting: bool) -> None:
    """Clients that give up before a slow function is done must not keep it from ever being done:
    the next caller gets the result of the call that is under way."""
    slow = Slow()
    call = made(slow)
    results: list[Any] = []

    async def use() -> None:
        results.append(await call())

    first = anyio.CancelScope()

    async def give_up() -> None:
        with first:
            await use()

    async with anyio.create_task_group() as group:
        group.start_soon(give_up)
        await until(lambda: slow.calls)
        if waiting:
            group.start_soon(use)
            await anyio.wait_all_tasks_blocked()
        first.cancel()
        await anyio.wait_all_tasks_blocked()
        begun = slow.calls
        group.start_soon(use)
        await anyio.wait_all_tasks_blocked()
        slow.go.set()
    assert 1 == begun
    assert 1 == slow.calls
    assert {7} == set(results)


@pytest.mark.anyio
async def test_tenants_with_equal_arguments_share_nothing() -> None:
    """A flight is one partition's: of two tenants that ask at the same time, each gets its own."""
    go = anyio.Event()

    @cached(cache=a_cache("async"), partition=tenant)
    async def load(n: int) -> str:
        await go.wait()
        return tenant.get()

    results: dict[str, str] = {}

    async def use(name: str) -> None:
        tenant.set(name)
        results[name] = await load(7)

    async with anyio.create_task_group() as group:
        for name in ("a", "b"):
            group.start_soon(use, name)
        await anyio.wait_all_tasks_blocked()
        go.set()
    assert {"a": "a", "b": "b"} == results


@pytest.mark.anyio
async def test_unshared_work_ends_with_its_caller() -> None:
    """A function that uses its request's database session must not run after the request."""
    cache = a_cache("async", policy=CachePolicy(lease=None))
    ended: list[str] = []
    outer: ContextVar[str] = ContextVar("outer", default="")

    @cached(cache=cache, shared=False)
    async def load() -> str:
        try:
            await anyio.sleep(0.2)
            outer.set("changed")
            return "done"
        finally:
            ended.append("ended")

    with anyio.move_on_after(0.01):
        await load()
    assert ["ended"] == ended
    assert "done" == await load()
    assert "changed" == outer.get()


@pytest.mark.anyio
async def test_work_without_callers_is_bounded() -> None:
    """Clients that never come back must not leave ever more functions running."""
    cache = a_cache("async", policy=CachePolicy(abandoned_max=3))
    running = 0

    async def forever() -> None:
        nonlocal running
        running += 1
        try:
            await anyio.sleep(600)
        finally:
            running -= 1

    for n in range(8):
        with anyio.move_on_after(0.01):
            await cache.get_or_set(f"k{n}", forever)
    await until(lambda: running == 3)
    assert 5 == cache.stats().abandoned
    await cache.aclose()
    assert (0, 8) == (running, cache.stats().abandoned)


# ---- a hit has the types of the miss


@dataclasses.dataclass
class Point:
    x: int
    y: Decimal


class Model(pydantic.BaseModel):
    x: int
    when: date


Pair = namedtuple("Pair", "a b")

VALUES: list[Any] = [
    date(2026, 11, 30), datetime(2026, 11, 30, 12), time_of_day(1, 2), timedelta(1, 2),
    Decimal("1.10"), UUID(int=7), (1, 2), {1, 2}, frozenset({1}), Pair(1, 2), Point(1, Decimal(2)),
    Model(x=1, when=date(2026, 1, 1)), [date(2026, 1, 1)], {"a": (1, UUID(int=1))}, bytearray(b"x"),
]  # fmt: skip


def exact(value: Any) -> Any:
    """*value* with the type of each of its parts."""
    if isinstance(value, dict):
        return type(value), [(exact(k), exact(v)) for k, v in value.items()]
    if isinstance(value, tuple | list | set | frozenset):
        return type(value), [exact(each) for each in value]
    return type(value), value


@faces
@pytest.mark.parametrize("annotated", ["bare", "Any", "container"])
@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.anyio
async def test_hit_has_the_types_of_the_miss(face: str, annotated: str, value: Any) -> None:
    """Code that works on a miss must not fail on a hit: what cannot come back as it was is not
    kept, and the function is called again."""
    result: Any = {"bare": None, "Any": Any, "container": type(value)}[annotated]
    if annotated == "container" and not isinstance(value, list | dict):
        value, result = {"value": value}, dict

    async def load() -> Any:
        return value

    def load_sync() -> Any:
        return value

    function: Any = load if face == "async" else load_sync
    function.__annotations__ = {} if annotated == "bare" else {"return": result}
    found = cached(cache=a_cache(face))(function)

    async def call() -> Any:
        return await found() if face == "async" else await anyio.to_thread.run_sync(found)

    assert exact(await call()) == exact(await call())


@faces
def test_arguments_without_a_place_in_a_key_are_refused_at_decoration(face: str) -> None:
    """An annotation tells before the first request comes that the key cannot be made."""

    class Request:
        """As a web framework's."""

    async def load(request: Request) -> int:
        return 1

    def load_sync(request: Request) -> int:
        return 1

    function: Any = load if face == "async" else load_sync
    function.__annotations__ = {"request": Request, "return": int}
    refused = False
    try:
        cached(cache=a_cache(face))(function)
    except TypeError as exc:
        refused = "key=" in str(exc)
    assert refused


# ---- the drop-in for cachekit


@pytest.fixture
def redis_reads(redis_server: RedisServer) -> Iterator[Callable[[], int]]:
    """How many GETs the server has answered."""
    import redis

    with redis.Redis.from_url(redis_server.url) as client:

        def reads() -> int:
            stats = client.info("commandstats")
            return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("get", "mget"))

        yield reads


@faces
@pytest.mark.asyncio
async def test_cachekit_hits_come_from_the_process(
    face: str, redis_server: RedisServer, redis_reads: Callable[[], int]
) -> None:
    """cachekit keeps a ciphertext in the process; a service that moves over must not pay an
    exchange with Redis for each hit."""
    decorator = cachekit.secure(
        master_key="a" * 64, backend=redis_server.url, namespace=f"promises-{face}"
    )

    async def load(x: int) -> dict[str, int]:
        return {"x": x}

    def load_sync(x: int) -> dict[str, int]:
        return {"x": x}

    found: Any = decorator(load if face == "async" else load_sync)

    async def call() -> Any:
        return await found(1) if face == "async" else await anyio.to_thread.run_sync(found, 1)

    await call()
    before = redis_reads()
    for _ in range(5):
        assert {"x": 1} == await call()
    assert before == redis_reads()


def test_cachekit_arrow_without_compression_does_not_compress() -> None:
    """Lengths of compressed tables tell about their contents: None must mean none."""
    pandas = pytest.importorskip("pandas")
    _, metadata = ArrowSerializer(compression=None).serialize(pandas.DataFrame({"a": [1] * 1000}))
    assert not metadata.compressed
