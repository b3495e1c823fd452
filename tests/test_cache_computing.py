"""Functions that ask for the value they compute, and backends that are down meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from anyseal import BackendError, StaticKeyring, sync
from anyseal.cache import Cache, CachePolicy, MemoryBackend, cached
from anyseal.cache.backends.memory import BlockingMemoryBackend
from cache_faces import MASTER, backend_of, both, make

__all__ = ["backend_of", "make"]

pytestmark = pytest.mark.anyio
KEYRING = StaticKeyring(MASTER)


class Nested:
    """A factory that asks for its own key, *depth* times."""

    def __init__(self, face: Any, depth: float, ask: str = "get_or_set") -> None:
        self._face, self._depth, self._ask = face, depth, ask
        self.calls = 0

    def __call__(self) -> Any:
        self.calls += 1
        return self._awaited() if self._face.is_async else self._plain()

    def _plain(self) -> int:
        if self.calls < self._depth:
            return int(self._face.cache.get_or_set("k", self)) + 1
        return 0

    async def _awaited(self) -> int:
        if self.calls < self._depth:
            return int(await self._face.cache.get_or_set("k", self)) + 1
        return 0


@both
async def test_computing_asks_for_itself(make: Any) -> None:
    """A function that calls itself must not wait for itself for ever: it is called once more, as
    it would be without a cache. What the outermost call returns is stored."""
    face = make()
    nested = Nested(face, 3)
    with anyio.fail_after(30):
        assert 2 == await face.get_or_set("k", nested)
    assert 3 == nested.calls
    assert 2 == await face.get("k")


@both
async def test_computing_itself_without_end(make: Any) -> None:
    """It ends as it does without a cache, and leaves nothing behind."""
    face = make()
    with anyio.fail_after(60), pytest.raises(RecursionError):
        await face.get_or_set("k", Nested(face, float("inf")))
    assert 7 == await face.get_or_set("k", face.factory(lambda: 7))


async def test_computing_refreshes_itself() -> None:
    """The same by way of a decorated function's own methods."""
    cache, calls = Cache(MemoryBackend(), KEYRING), 0

    @cached(cache=cache)
    async def value(number: int) -> int:
        nonlocal calls
        calls += 1
        return await value.refresh(number) + 1 if calls < 3 else 0

    with anyio.fail_after(30):
        assert 2 == await value(1)
        assert 2 == await value(1)
    assert 3 == calls


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_computing_is_over_for_tasks_left_behind() -> None:
    """A task that was begun while a value was computed is later a caller like any other."""
    cache = Cache(MemoryBackend(), KEYRING)
    go, tasks = asyncio.Event(), []

    async def later() -> Any:
        await go.wait()
        await cache.delete("k")
        return await cache.get_or_set("k", again)

    async def first() -> int:
        tasks.append(asyncio.get_running_loop().create_task(later()))
        return 1

    async def again() -> int:
        return 2

    assert 1 == await cache.get_or_set("k", first)
    go.set()
    assert 2 == await tasks[0]
    assert 2 == await cache.get("k"), "it was stored"


class Down:
    """A backend's methods, which all fail while it is down."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.down, self.asked = True, 0


def _failing(name: str, *, awaited: bool) -> Any:
    def refuse(self: Any) -> bool:
        self.asked += 1
        return bool(self.down)

    if awaited:

        async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            if refuse(self):
                raise BackendError("down")
            return await getattr(MemoryBackend, name)(self, *args, **kwargs)

    else:

        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            if refuse(self):
                raise BackendError("down")
            return getattr(BlockingMemoryBackend, name)(self, *args, **kwargs)

    return method


CALLS = ("get_many", "set", "compare_and_set", "delete_many", "take_lease", "settle")
Failing: Any = type(
    "Failing", (Down, MemoryBackend), {name: _failing(name, awaited=True) for name in CALLS}
)
BlockingFailing: Any = type(
    "BlockingFailing",
    (Down, BlockingMemoryBackend),
    {name: _failing(name, awaited=False) for name in CALLS},
)


@pytest.mark.parametrize("failures", [0, 5])
@pytest.mark.parametrize("awaited", [True, False])
async def test_computing_waits_once_for_a_backend_that_is_down(
    awaited: bool, failures: int
) -> None:
    """A backend that hangs costs a call one timeout: not one to look, one for the lease, one for
    the tags and one to store. When it is back values are stored again."""
    policy = CachePolicy(breaker_failures=failures)
    backend = Failing() if awaited else BlockingFailing()
    cache: Any = (Cache if awaited else sync.Cache)(backend, KEYRING, policy=policy)

    async def ask(function: str = "get_or_set") -> Any:
        if awaited:

            async def compute() -> int:
                return 7

            return await cache.get_or_set("k", compute, tags=["t"])
        return cache.get_or_set("k", lambda: 7, tags=["t"])

    for asked in (1, 2):
        assert 7 == await ask()
        assert asked == backend.asked
    backend.down = False
    assert 7 == await ask()
    backend.asked = 0
    assert 7 == await ask()
    assert 1 <= backend.asked <= 2, "the entry, and its tag"
