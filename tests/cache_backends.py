"""Every cache backend that the suite in ``test_cache_backends.py`` runs on.

To add one, append a :class:`Case` to ``CASES``. Its ``make`` gives a backend that is empty; servers
come from the fixtures of ``server_fixtures.py`` through ``request.getfixturevalue``.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio.to_thread
import pytest

CACHE_TOKEN = "test-token"
PATIENT = 60.0
"""Seconds that a call may take: on a busy machine more than a service would wait."""
ALL_LOOPS = ("asyncio", "uvloop", "trio")
ASYNCIO_ONLY = ("asyncio", "uvloop")
TWO_LOOPS = ("uvloop", "trio")
LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One backend, and what it can do."""

    name: str
    make: Callable[[pytest.FixtureRequest], Any]
    """A fresh backend without entries; called outside of the event loop."""

    blocking: bool = False
    """Whether it is the twin for sync code."""

    loops: Sequence[str] = ALL_LOOPS
    ranged: bool = False
    scans: bool = True
    max_value: int = 4 << 20
    ttl_ms: int = 100
    """The shortest time to live that it tells from none."""

    scan_names: int = 1203
    """How many names are enough for more than one list, or for our patience."""

    scans_expired: bool = False
    """Whether a scan may still give names of expired entries."""

    gone_ms: int = 300
    """After this much an entry with that time to live is certainly gone."""


class Awaited:
    """A blocking backend with ``await`` before every call, so that one suite does for both."""

    def __init__(self, backend: Any) -> None:
        self.inner = backend

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await anyio.to_thread.run_sync(partial(method, *args, **kwargs))

        return call

    async def scan(self, prefix: str) -> AsyncIterator[list[str]]:
        for names in await anyio.to_thread.run_sync(lambda: list(self.inner.scan(prefix))):
            yield names

    async def aclose(self) -> None:
        await anyio.to_thread.run_sync(self.inner.close)


def _memory(request: pytest.FixtureRequest) -> Any:
    from anyseal.cache.backends.memory import MemoryBackend

    return MemoryBackend()


def _blocking_memory(request: pytest.FixtureRequest) -> Any:
    from anyseal.cache.backends.memory import BlockingMemoryBackend

    return BlockingMemoryBackend()


def _sqlite(request: pytest.FixtureRequest) -> Any:
    from anyseal.cache.backends.sqlite import SQLiteBackend

    return SQLiteBackend(request.getfixturevalue("tmp_path") / "cache.db", timeout=PATIENT)


def _blocking_sqlite(request: pytest.FixtureRequest) -> Any:
    from anyseal.cache.backends.sqlite import BlockingSQLiteBackend

    return BlockingSQLiteBackend(request.getfixturevalue("tmp_path") / "cache.db", timeout=PATIENT)


def _memcached(request: pytest.FixtureRequest) -> Any:
    from anyseal.cache.backends.memcached import MemcachedBackend

    server = request.getfixturevalue("memcached_server")
    server.empty()
    return MemcachedBackend(port=server.port, timeout=PATIENT)


def _blocking_memcached(request: pytest.FixtureRequest) -> Any:
    return _memcached(request).blocking


def _aiocache(request: pytest.FixtureRequest) -> Any:
    from aiocache import SimpleMemoryCache

    from anyseal.cache.backends.adapters import AiocacheBackend

    return AiocacheBackend(SimpleMemoryCache(namespace="mine"))


def _aiocache_redis(request: pytest.FixtureRequest) -> Any:
    from aiocache import RedisCache
    from aiocache.serializers import NullSerializer
    from redis import DriverInfo

    from anyseal.cache.backends.adapters import AiocacheBackend

    class Closing(AiocacheBackend):
        async def aclose(self) -> None:
            await self._cache.client.aclose(close_connection_pool=True)

    server = request.getfixturevalue("redis_server")
    serializer = NullSerializer(encoding=None)
    return Closing(
        RedisCache(
            serializer,
            port=server.port,
            namespace=f"mine-{next(_numbers)}",
            # Or redis-py looks for its version on the disk, once per connection.
            connection_pool_kwargs={"driver_info": DriverInfo("redis-py", lib_version="0")},
        )
    )


def _cashews(request: pytest.FixtureRequest) -> Any:
    from cashews import Cache

    from anyseal.cache.backends.adapters import CashewsBackend

    cache = Cache()
    cache.setup("mem://", size=100_000, check_interval=0)
    return CashewsBackend(cache)


def _emptied(request: pytest.FixtureRequest, kind: str) -> str:
    """The URL of Redis or of the cluster, without entries."""
    import redis

    server = request.getfixturevalue(f"redis_{kind}")
    for node in getattr(server, "nodes", [server]):
        with redis.Redis(port=node.port) as client:
            client.flushall()
    return server.url if kind == "server" else server.url.replace("redis", "redis+cluster")


def _redis(request: pytest.FixtureRequest, kind: str = "server") -> Any:
    from anyseal.cache.backends.redis import RedisBackend

    return RedisBackend.from_url(_emptied(request, kind), timeout=PATIENT)


def _blocking_redis(request: pytest.FixtureRequest, kind: str = "server") -> Any:
    from anyseal.cache.backends.redis_blocking import BlockingRedisBackend

    return BlockingRedisBackend.from_url(_emptied(request, kind), timeout=PATIENT)


_cluster = partial(_redis, kind="cluster")
_blocking_cluster = partial(_blocking_redis, kind="cluster")

_numbers = itertools.count()
_MEMCACHED: dict[str, Any] = {
    "ttl_ms": 1,
    "gone_ms": 2100,
    "scans": False,
    "max_value": (1 << 20) - 1024,
}


def _http(request: pytest.FixtureRequest) -> Any:
    from anyseal.cache.backends.http import HttpBackend

    return HttpBackend(request.getfixturevalue("cache_api"), token=CACHE_TOKEN, timeout=PATIENT)


def _blocking_http(request: pytest.FixtureRequest) -> Any:
    from anyseal.cache.backends.http import BlockingHttpBackend

    return BlockingHttpBackend(
        request.getfixturevalue("cache_api"), token=CACHE_TOKEN, timeout=PATIENT
    )


CASES: list[Case] = [
    Case(name="memory", make=_memory, ranged=True),
    Case(name="memory-blocking", make=_blocking_memory, ranged=True, blocking=True),
    Case(name="sqlite", make=_sqlite, ranged=True),
    Case(name="sqlite-blocking", make=_blocking_sqlite, ranged=True, blocking=True),
    Case(name="memcached", make=_memcached, loops=TWO_LOOPS, **_MEMCACHED),
    Case(name="memcached-blocking", make=_blocking_memcached, blocking=True, **_MEMCACHED),
    Case(name="http", make=_http, loops=TWO_LOOPS, scan_names=50),
    Case(name="http-blocking", make=_blocking_http, blocking=True, scan_names=50),
    Case(name="aiocache-memory", make=_aiocache, loops=ASYNCIO_ONLY, scans=False),
    Case(name="aiocache-redis", make=_aiocache_redis, loops=("asyncio",), scans=False),
    Case(name="redis", make=_redis, loops=ASYNCIO_ONLY, ranged=True),
    Case(name="redis-blocking", make=_blocking_redis, ranged=True, blocking=True),
    Case(name="redis-cluster", make=_cluster, loops=ASYNCIO_ONLY, ranged=True),
    Case(name="redis-cluster-blocking", make=_blocking_cluster, ranged=True, blocking=True),
    Case(name="cashews-memory", make=_cashews, loops=ASYNCIO_ONLY, scans_expired=True),
]


def on_every_loop(cases: Sequence[Case]) -> list[Any]:
    """Parameters (loop, case): blocking backends run once, beside asyncio."""
    return [
        pytest.param(LOOPS[loop], case, id=f"{case.name}-{loop}")
        for case in cases
        for loop in (("asyncio",) if case.blocking else case.loops)
    ]
