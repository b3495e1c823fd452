"""Clearing a cache whose backend hangs or fails in the middle of a scan."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import anyio
import pytest

from anyseal import StaticKeyring, sync
from anyseal.cache import Cache, CachePolicy, MemoryBackend, cached
from anyseal.cache.backends.memory import BlockingMemoryBackend
from anyseal.errors import BackendError

KEYRING = StaticKeyring(b"k" * 32)
POLICY = CachePolicy(timeout=0.1, breaker_failures=0)


class Stalling(MemoryBackend):
    """A backend whose scan tells of one page of names, and then hangs or fails."""

    enforces_timeout = False

    def __init__(self, then: str) -> None:
        super().__init__()
        self.then = then
        self.hangs = anyio.Event()
        self.closed = 0

    async def scan(self, prefix: str) -> AsyncGenerator[list[str]]:
        try:
            async with aclosing(super().scan(prefix)) as pages:
                async for names in pages:
                    yield names
            if self.then == "hangs":
                self.hangs.set()
                await anyio.sleep_forever()
            raise OSError("the connection broke")
        finally:
            self.closed += 1


class BlockingStalling(BlockingMemoryBackend):
    """The same for the sync cache, and it fails."""

    closed = 0

    def scan(self, prefix: str) -> Iterator[list[str]]:
        try:
            yield from super().scan(prefix)
            raise OSError("the connection broke")
        finally:
            self.closed += 1


@pytest.mark.anyio
@pytest.mark.parametrize("then", ["hangs", "fails"])
async def test_clear_ends_with_a_scan_that_does_not(then: str) -> None:
    """Each step of a scan has the time of a call; what broke off is closed, and told."""
    backend = Stalling(then)
    cache = Cache(backend, KEYRING, policy=POLICY)
    await cache.set("k", 1)
    with anyio.fail_after(30):
        with pytest.raises(BackendError):
            await cache.clear()
        assert 1 == backend.closed

        @cached(cache=cache)
        async def function() -> int:
            return 1

        with pytest.raises(BackendError):
            await function.cache_clear()
    assert 2 == backend.closed
    assert 2 == cache.stats().backend_errors


@pytest.mark.anyio
async def test_clear_closes_the_scan_when_deleting_fails() -> None:
    """A scan left half read would keep its connection until it is collected, if not longer."""
    backend = Stalling("hangs")
    cache = Cache(backend, KEYRING, policy=POLICY)
    await cache.set("k", 1)

    async def fail(names: Any) -> int:
        raise BackendError("broken")

    backend.delete_many = fail  # type: ignore[method-assign]
    with pytest.raises(BackendError):
        await cache.clear()
    assert 1 == backend.closed


@pytest.mark.anyio
async def test_clear_cancelled_closes_the_scan() -> None:
    """So does a caller who no longer waits."""
    backend = Stalling("hangs")
    cache = Cache(backend, KEYRING, policy=CachePolicy(timeout=None))
    await cache.set("k", 1)
    async with anyio.create_task_group() as group:
        group.start_soon(cache.clear)
        await backend.hangs.wait()
        group.cancel_scope.cancel()
    assert 1 == backend.closed


def test_clear_of_the_sync_cache_closes_the_scan() -> None:
    """The sync cache does the same; timeouts are its backend's own."""
    backend = BlockingStalling()
    cache = sync.Cache(backend, KEYRING, policy=replace(POLICY, lease=None))
    cache.set("k", 1)
    with pytest.raises(BackendError):
        cache.clear()
    assert 1 == backend.closed
    assert 0 == len(list(BlockingMemoryBackend.scan(backend, "anyseal:")))
    cache.close()
