"""A cache backend of the user's own that hangs, on both faces: every call ends in its time."""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
from collections.abc import Callable, Iterator
from functools import partial
from threading import Event, get_ident
from typing import Any

import anyio
import anyio.to_thread
import pytest

from anyseal import StaticKeyring, sync
from anyseal.cache import Cache, CachePolicy, MemoryBackend
from anyseal.cache.backends import memory, redis_blocking, sqlite
from anyseal.errors import BackendError
from anyseal.patience import LEFT_MAX
from anyseal.ports import BackendTraits

TIMEOUT = 0.1
POLICY = CachePolicy(timeout=TIMEOUT, breaker_failures=0, lease=None)


class Own:
    """A blocking backend over *inner*; all of it, or only *only*, hangs until it is released."""

    def __init__(self, inner: Any, only: str | None = None) -> None:
        self.inner = inner
        self.only = only
        self.hangs = False
        self.released = Event()

    def block(self, name: str) -> None:
        if self.hangs and self.only in (None, name):
            self.released.wait(30)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if name in ("enforces_timeout", "ends_when_cancelled") or not callable(method):
            raise AttributeError(name)

        @functools.wraps(method)
        def call(*args: Any, **options: Any) -> Any:
            self.block(name)
            return method(*args, **options)

        return call

    def scan(self, prefix: str) -> Iterator[list[str]]:
        self.block("scan")
        return self._pages(prefix)

    def _pages(self, prefix: str) -> Iterator[list[str]]:
        for page in self.inner.scan(prefix):
            self.block("page")
            yield page


class OwnAsync(Own):
    """The same with ``await``: by anyio's own waits, or in a thread that no one may leave."""

    how = "async"

    async def pause(self, name: str) -> None:
        if self.how == "thread":
            await anyio.to_thread.run_sync(self.block, name)
        elif self.hangs and self.only in (None, name):
            await anyio.sleep(30)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if not inspect.iscoroutinefunction(method):
            raise AttributeError(name)

        @functools.wraps(method)
        async def call(*args: Any, **options: Any) -> Any:
            await self.pause(name)
            return await method(*args, **options)

        return call

    async def scan(self, prefix: str) -> Any:
        async with contextlib.aclosing(self.inner.scan(prefix)) as pages:
            async for page in pages:
                await self.pause("page")
                yield page


def made(how: str, only: str | None = None, policy: CachePolicy = POLICY) -> tuple[Any, Any]:
    """A backend of the user's own, and a cache over it."""
    keyring = StaticKeyring(bytes(32))
    if how == "blocking":
        own: Own = Own(sync.MemoryBackend(), only)
        return own, sync.Cache(own, keyring, policy=policy)
    own = OwnAsync(MemoryBackend(), only)
    own.how = how  # type: ignore[attr-defined]
    return own, Cache(own, keyring, policy=policy)


async def _of(found: Any) -> Any:
    return await found if inspect.isawaitable(found) else found


async def _one() -> int:
    return 1


VERBS: dict[str, Callable[[Any], Any]] = {
    "get": lambda cache: cache.get("a"),
    "get_many": lambda cache: cache.get_many(["a", "b"]),
    "contains": lambda cache: cache.contains("a"),
    "set": lambda cache: cache.set("a", 1),
    "set_many": lambda cache: cache.set_many({"a": 1, "b": 2}),
    "set large": lambda cache: cache.set("large", bytes(3 << 20)),
    "delete": lambda cache: cache.delete("a"),
    "clear": lambda cache: cache.clear(),
    "get_or_set": lambda cache: cache.get_or_set(
        "c", (lambda: 1) if isinstance(cache, sync.Cache) else _one
    ),
}
FACES = ("blocking", "async asyncio", "async trio", "thread asyncio", "thread trio")


def driven(how: str, main: Callable[[str], Any]) -> None:
    """Run *main*, in an event loop only if this face has one."""
    kind, *loop = how.split()
    if loop:
        anyio.run(main, kind, backend=loop[0])
    else:
        with pytest.raises(StopIteration):
            main(kind).send(None)


def close_of(cache: Any) -> Any:
    return getattr(cache, "close" if isinstance(cache, sync.Cache) else "aclose")


async def took(call: Callable[[], Any]) -> tuple[float, str]:
    """Seconds, and what was raised."""
    start, said = time.monotonic(), ""
    try:
        await _of(call())
    except BackendError as exc:
        said = str(exc)
    return time.monotonic() - start, said


@pytest.mark.parametrize("how", FACES)
def test_own_backend_that_hangs_ends_in_its_time(how: str) -> None:
    """Every thread of a sync service would otherwise wait for ever in the cache that was to make
    it fast; so would a task whose backend waits in a thread."""

    async def main(kind: str) -> None:
        own, cache = made(kind)
        await _of(cache.set("a", 1))
        own.hangs = True
        slow = {}
        for verb, call in VERBS.items():
            slow[verb], _ = await took(partial(call, cache))
            own.released.set()  # what was left behind ends
            own.released = Event()
        own.hangs = False
        assert {} == {verb: seconds for verb, seconds in slow.items() if seconds > 10 * TIMEOUT}
        await _of(cache.set("a", 2))
        assert 2 == await _of(cache.get("a"))
        await _of(close_of(cache)())

    driven(how, main)


@pytest.mark.parametrize(
    ("how", "only"),
    [(how, only) for how in FACES for only in ("scan", "page", "close")
     if how == "blocking" or only != "scan"],
)  # fmt: skip
def test_own_backend_that_hangs_while_listed_or_closed(how: str, only: str) -> None:
    """A page that does not come, and a generator that still runs when it is to be closed. To
    begin an async scan takes no time."""

    async def main(kind: str) -> None:
        own, cache = made(kind, only)
        if only == "close" and kind != "blocking":
            own.only = "aclose"
        await _of(cache.set("a", 1))
        own.hangs = True
        seconds, said = await took(close_of(cache) if only == "close" else cache.clear)
        own.hangs = False
        own.released.set()
        assert "no answer in" in said
        assert seconds < 10 * TIMEOUT

    driven(how, main)


@pytest.mark.parametrize("caches", [1, 2])
def test_own_blocking_backend_that_keeps_threads_fails_at_once(caches: int) -> None:
    """Threads that hang cannot be stopped: not even two caches over one backend use up all that
    the process has."""
    policy = CachePolicy(timeout=0.02, breaker_failures=0, on_backend_error="closed", lease=None)
    own, first = made("blocking", policy=policy)
    every = [first, sync.Cache(own, StaticKeyring(bytes(32)), policy=policy)][:caches]
    own.hangs = True
    for number in range(LEFT_MAX):
        with pytest.raises(BackendError, match=r"no answer in 0\.02 s"):
            every[number % caches].get("a")
    start = time.monotonic()
    for _ in range(100):
        with pytest.raises(BackendError, match="still hang in threads: give what they wait for"):
            every[-1].get("a")
    assert time.monotonic() - start < 100 * 0.02
    own.hangs = False
    own.released.set()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            assert every[-1].get("a", 7) == 7
            break
        except BackendError:
            time.sleep(0.005)
    every[-1].set("a", 1)
    assert 1 == every[-1].get("a")


def test_blocking_backend_that_bounds_itself_is_called_directly() -> None:
    """A thread for each hit would take longer than the hit; and the trait may be claimed."""

    class Direct(memory.BlockingMemoryBackend):
        def get_many(self, names: Any) -> Any:
            threads.add(get_ident())
            return super().get_many(names)

    threads: set[int] = set()
    for enforces, policy in ((True, POLICY), (False, CachePolicy(timeout=None)), (False, POLICY)):
        backend: Any = Direct()
        backend.enforces_timeout = enforces
        cache = sync.Cache(backend, StaticKeyring(bytes(32)), policy=policy)
        threads.clear()
        cache.get("a")
        directly = enforces or policy.timeout is None
        assert (threads == {get_ident()}) is directly


@pytest.mark.parametrize(
    "kind", [memory.BlockingMemoryBackend, redis_blocking.BlockingRedisBackend,
             sqlite.BlockingSQLiteBackend, "http", "memcached"],
)  # fmt: skip
def test_built_in_blocking_backends_bound_themselves(kind: Any) -> None:
    """Hits over them must not pay for a thread."""
    if isinstance(kind, str):
        kind = getattr(sync, {"http": "HttpBackend", "memcached": "MemcachedBackend"}[kind])
    assert BackendTraits.of(kind).enforces_timeout
