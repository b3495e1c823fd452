"""Both caches over backends that answer what none may: a miss or BackendError, and counted."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from anyseal import StaticKeyring, sync
from anyseal.cache import Cache, CachePolicy, MemoryBackend
from anyseal.cache.backends.redis import BlockingRedisBackend, RedisBackend
from anyseal.errors import BackendError
from doubles import IK, SK, World
from evil.redis_protocol import SHAPES, RedisProtocol
from evil.server import EvilServer
from evil.suite import TIMEOUT

POLICY = CachePolicy(timeout=TIMEOUT, breaker_failures=0, lease=0.5)
VALUES: list[Any] = [
    None, True, 7, 1.5, "text", b"bytes", [], [7], ["text"], [None, None, None], [[b"a"]], {},
    {"a": b"a"}, (b"a", b"b", b"c"), object(), [bytearray(b"a")],
]  # fmt: skip
METHODS = ("get_many", "set", "compare_and_set", "delete_many")
PAGES: list[Any] = ["text", b"bytes", 7, [7], [b"a"], ["another namespace"], {"a": 1}]


class Wrong:
    """A backend whose methods return what they are told, by name."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.returns: dict[str, Any] = {}
        self.pages: Callable[[str], Iterator[Any]] | None = None


class WrongBlocking(Wrong):
    def _call(self, name: str, *args: Any, **options: Any) -> Any:
        if name in self.returns:
            return self.returns[name]
        return getattr(self._inner, name)(*args, **options)

    def get_many(self, names: Any) -> Any:
        return self._call("get_many", names)

    def set(self, name: Any, value: Any, **options: Any) -> Any:
        return self._call("set", name, value, **options)

    def compare_and_set(self, *args: Any, **options: Any) -> Any:
        return self._call("compare_and_set", *args, **options)

    def delete_many(self, names: Any) -> Any:
        return self._call("delete_many", names)

    def scan(self, prefix: str) -> Iterator[Any]:
        return self._inner.scan(prefix) if self.pages is None else self.pages(prefix)

    def close(self) -> None:
        self._inner.close()


class WrongAsync(Wrong):
    async def _call(self, name: str, *args: Any, **options: Any) -> Any:
        if name in self.returns:
            return self.returns[name]
        return await getattr(self._inner, name)(*args, **options)

    async def get_many(self, names: Any) -> Any:
        return await self._call("get_many", names)

    async def set(self, name: Any, value: Any, **options: Any) -> Any:
        return await self._call("set", name, value, **options)

    async def compare_and_set(self, *args: Any, **options: Any) -> Any:
        return await self._call("compare_and_set", *args, **options)

    async def delete_many(self, names: Any) -> Any:
        return await self._call("delete_many", names)

    async def scan(self, prefix: str) -> Any:
        if self.pages is None:
            async for page in self._inner.scan(prefix):
                yield page
            return
        for page in self.pages(prefix):
            yield page

    async def aclose(self) -> None:
        await self._inner.aclose()


async def _of(found: Any) -> Any:
    return await found if inspect.isawaitable(found) else found


def _made(face: str) -> tuple[Any, Any]:
    """A wrong backend that behaves so far, and a cache over it."""
    keyring = StaticKeyring(bytes(32))
    if face == "async":
        wrong: Any = WrongAsync(MemoryBackend())
        return wrong, Cache(wrong, keyring, policy=POLICY)
    wrong = WrongBlocking(sync.MemoryBackend())
    return wrong, sync.Cache(wrong, keyring, policy=POLICY)


async def _tried(cache: Any, is_async: bool, what: str) -> None:
    """Every verb of a cache: reads and writes never raise, deleting raises BackendError."""

    async def awaited() -> int:
        return 1

    factory: Any = awaited if is_async else lambda: 1
    assert await _of(cache.get("a", default="default")) in ("default", 1), what
    assert set((await _of(cache.get_many(["a", "b"]))).values()) <= {1}, what
    await _of(cache.set("a", 1))
    await _of(cache.set_many({"a": 1, "b": 1}))
    assert await _of(cache.get_or_set("a", factory)) == 1, what
    for call in (lambda: cache.delete("a"), cache.clear):
        with contextlib.suppress(BackendError):
            await _of(call())


@pytest.mark.parametrize("face", ["async", "sync"])
def test_cache_counts_wrong_results_of_a_backend(face: str) -> None:
    """A user's own backend, or its server, may return anything: it is a failure of the backend, and
    no TypeError in the request that asked the cache."""

    async def main() -> None:
        for method in METHODS:
            for value in VALUES:
                wrong, cache = _made(face)
                await _of(cache.set("a", 1))
                wrong.returns[method] = value
                await _tried(cache, face == "async", f"{method} {value!r}")
                if method == "get_many":
                    assert cache.stats().backend_errors > 0, value
                wrong.returns.clear()
                await _of(cache.set("a", 1))
                assert await _of(cache.get("a")) == 1

    anyio.run(main)


@pytest.mark.parametrize("face", ["async", "sync"])
def test_cache_clears_only_what_it_asked_for(face: str) -> None:
    """A scan that gives other names, or does not come to an end, must not delete or loop."""

    def endless(page: Any) -> Callable[[str], Iterator[Any]]:
        def pages(prefix: str) -> Iterator[Any]:
            while True:
                yield [prefix + "a"] if page == "same" else page

        return pages

    async def main() -> None:
        wrong, cache = _made(face)
        for page in PAGES:
            wrong.pages = lambda prefix, page=page: iter([page])
            with pytest.raises(BackendError):
                await _of(cache.clear())
        for page in ([], "same"):
            wrong.pages = endless(page)
            with anyio.fail_after(20), pytest.raises(BackendError):
                await _of(cache.clear())

    anyio.run(main)


@pytest.mark.parametrize("face", ["async", "sync"])
def test_cache_over_a_wrong_redis_misses(face: str) -> None:
    """What Redis may answer and no command of ours has is a miss, told as a failure."""

    async def main() -> None:
        with EvilServer(RedisProtocol()) as server:
            url = f"redis://127.0.0.1:{server.port}/0"
            backend: Any = (RedisBackend if face == "async" else BlockingRedisBackend).from_url(url)
            kind: Any = Cache if face == "async" else sync.Cache
            cache = kind(backend, StaticKeyring(bytes(32)), policy=POLICY)
            # What looks like a value that is not ours, or like a name that is not there.
            fair = {"verbatim", "array_of_null_and_integer", "push", "array_of_status", "loading"}
            for shape in SHAPES.keys() - fair:
                server.does = shape
                before = cache.stats().backend_errors
                assert await _of(cache.get("a", default="default")) == "default", shape
                assert await _of(cache.set("a", 1)) in (True, False), shape
                assert cache.stats().backend_errors > before, shape
                with pytest.raises(BackendError):
                    await _of(cache.clear())
            await _of(backend.aclose() if face == "async" else backend.close())

    anyio.run(main)


@pytest.mark.parametrize("what", [IK, SK])
@pytest.mark.parametrize("face", ["async", "sync"])
def test_cache_over_damaged_key_records_misses(face: str, what: str) -> None:
    """A record of a key that does not verify is a fault of what keeps it: reads miss and writes
    are dropped, with no DecryptionError in the request that asked the cache."""

    async def main() -> None:
        world = World()
        row = await world.factory().session("u1").encrypt(b"")
        assert row
        found = world.rows(what)[0]
        damaged = found.key[:-1] + bytes([found.key[-1] ^ 1])
        world.put(dataclasses.replace(found, key=damaged))
        kind: Any = Cache if face == "async" else sync.Cache
        backend: Any = MemoryBackend() if face == "async" else sync.MemoryBackend()
        cache = kind(backend, world.hierarchy(), policy=POLICY)
        assert await _of(cache.get("a", default="default", partition="u1")) == "default"
        assert not await _of(cache.set("a", 1, partition="u1"))
        assert await _of(cache.get_many(["a"], partition="u1")) == {}
        assert cache.stats().backend_errors > 0
        with pytest.raises(BackendError):
            await _of(cache.delete("a", partition="u1"))

    anyio.run(main)
