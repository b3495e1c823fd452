"""Both caches, over the backends that every service has, behind one awaitable face."""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import anyio
import anyio.to_thread
import pytest

from anyseal import StaticKeyring, sync
from anyseal.cache import Cache, CachePolicy
from cache_backends import CASES, LOOPS, PATIENT
from support import pattern

MASTER, OLD_MASTER = pattern(32, "cache master"), pattern(32, "old cache master")
LAX = CachePolicy(timeout=PATIENT, breaker_failures=0)
_BY_NAME = {case.name: case for case in CASES}


class Face:
    """A cache of either side; every method is awaited."""

    def __init__(self, cache: Any, factories: list[Face] | None = None) -> None:
        self.cache = cache
        self.is_async = isinstance(cache, Cache)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.cache, name)
        if self.is_async or name in ("stats", "namespace"):
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await anyio.to_thread.run_sync(functools.partial(method, *args, **kwargs))

        return call

    def factory(self, function: Callable[[], Any], delay: float = 0.0) -> Callable[[], Any]:
        """*function* as this side's ``get_or_set`` takes it."""
        if not self.is_async:

            def plain() -> Any:
                time.sleep(delay)
                return function()

            return plain

        async def awaited() -> Any:
            await anyio.sleep(delay)
            return function()

        return awaited

    def held(self, function: Callable[[], Any]) -> Held:
        """The same, but it waits until it is let go."""
        return Held(function, self.is_async)

    @property
    def raw(self) -> Any:
        """The blocking or async backend below, awaitable."""
        return Raw(self.cache._shelf.backend, self.is_async)


class Held:
    """A factory that tells when it is called, and waits until it is let go."""

    def __init__(self, function: Callable[[], Any], is_async: bool) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self._function, self._is_async = function, is_async

    def __call__(self) -> Any:
        return self._awaited() if self._is_async else self._plain()

    def _plain(self) -> Any:
        self.begun.set()
        assert self.go.wait(60)
        return self._function()

    async def _awaited(self) -> Any:
        self.begun.set()
        await until(self.go.is_set)
        return self._function()


async def until(true: Callable[[], Any]) -> None:
    """Wait until *true* says so, however slow the machine."""
    with anyio.fail_after(60):
        while not true():
            await anyio.sleep(0.005)


class Raw:
    """A backend, awaited whatever it is."""

    def __init__(self, backend: Any, is_async: bool) -> None:
        self._backend, self._is_async = backend, is_async

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._backend, name)
        if self._is_async:
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await anyio.to_thread.run_sync(functools.partial(method, *args, **kwargs))

        return call

    async def names(self, prefix: str = "") -> list[str]:
        """All names that are there."""
        if self._is_async:
            return [name async for names in self._backend.scan(prefix) for name in names]
        return await anyio.to_thread.run_sync(
            lambda: [name for names in self._backend.scan(prefix) for name in names]
        )


class Clock:
    """The time that a cache, its values and the backends in this process see. It goes on by
    itself, and a test may put it forward instead of sleeping."""

    MODULES = ("cache.backends.memory", "cache.backends.sqlite", "cache.breaker", "cache.local",
               "cache.policy", "value")  # fmt: skip

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0
        """Seconds."""
        self.really = False
        """Whether others tell the time, too: a server."""
        for module in self.MODULES:
            monkeypatch.setattr(f"anyseal.{module}.time", self)

    def time(self) -> float:
        return time.time() + self.ahead

    def time_ns(self) -> int:
        return time.time_ns() + self.ahead * 1_000_000_000

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    async def turn(self, seconds: int) -> None:
        """Let *seconds* pass."""
        if self.really:
            await anyio.sleep(seconds)
        else:
            self.ahead += seconds


@pytest.fixture
def clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that may be put forward."""
    found = Clock(monkeypatch)
    if "case" in request.fixturenames:
        found.really = request.getfixturevalue("case").name.startswith("redis")
    return found


def faces(*wanted: tuple[str, str]) -> Any:
    """Parameters: (loop, case) for a test that takes ``make``."""
    return pytest.mark.parametrize(
        ("anyio_backend", "case"),
        [pytest.param(LOOPS[loop], _BY_NAME[name], id=f"{name}-{loop}") for loop, name in wanted],
        indirect=["anyio_backend"],
    )


EVERY = (
    ("asyncio", "memory"),
    ("uvloop", "memory"),
    ("trio", "memory"),
    ("uvloop", "sqlite"),
    ("trio", "sqlite"),
    ("asyncio", "redis"),
    ("asyncio", "memory-blocking"),
    ("asyncio", "sqlite-blocking"),
    ("asyncio", "redis-blocking"),
)
every = faces(*EVERY)
both = faces(("uvloop", "memory"), ("trio", "memory"), ("asyncio", "memory-blocking"))


@pytest.fixture
def backend_of(request: pytest.FixtureRequest, case: Any) -> Any:
    """The backend of this case: one, shared by all caches of the test."""
    return case.make(request)


@pytest.fixture
async def make(anyio_backend: Any, backend_of: Any, case: Any) -> AsyncIterator[Any]:
    """Makes caches over the backend; their settings as for Cache."""
    made: list[Face] = []

    def build(
        previous: Sequence[bytes] = (), *, master: Any = MASTER, keyring: Any = None,
        backend: Any = None, **settings: Any,
    ) -> Face:  # fmt: skip
        found = StaticKeyring(master, previous) if keyring is None else keyring
        kind = sync.Cache if case.blocking else Cache
        settings = {"policy": LAX, **settings}
        if settings["policy"].timeout == CachePolicy().timeout:  # none of these tests is about it
            settings["policy"] = dataclasses.replace(settings["policy"], timeout=PATIENT)
        made.append(Face(kind(backend_of if backend is None else backend, found, **settings)))
        return made[-1]

    yield build
    for face in made:
        await (face.aclose() if face.is_async else face.close())


@pytest.fixture
async def face(make: Any) -> Face:
    """A cache with plain settings."""
    found: Face = make()
    return found
