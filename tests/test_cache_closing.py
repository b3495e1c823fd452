"""Closing what ``secure`` made: nothing is left open when the application ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anyseal import BackendError, StaticKeyring
from anyseal.cache import Cache, MemoryBackend, aclose_all, cached, close_all, secure
from storage_servers import RedisServer
from support import KEY_HEX

pytest_plugins = ["server_fixtures"]
pytestmark = pytest.mark.anyio

PROGRAM = """
import asyncio, sys
from anyseal.cache import aclose_all, secure

settings = {"master_key": sys.argv[1], "backend": sys.argv[2]}

@secure(**settings)
async def waits(n: int) -> int:
    return n

@secure(**settings)
def plain(n: int) -> int:
    return n

async def main():
    for _ in range(2):  # it may be used again
        assert [1, 1] == [await waits(1), await asyncio.to_thread(plain, 1)]
        await END

for _ in range(2):
    asyncio.run(main())
print(waits.cache_info().misses, plain.cache_info().misses)
"""


def run(backend: str, end: str) -> tuple[str, str]:
    """What the program says, with all warnings shown."""
    code = PROGRAM.replace("END", end)
    command = [sys.executable, "-X", "dev", "-c", code, KEY_HEX, backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout.strip(), done.stderr


@pytest.mark.parametrize("backend", ["redis", "sqlite", "memory"])
def test_aclose_all_leaves_nothing_open(
    backend: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    """Python warns of connections that are still open when their event loop has ended."""
    urls = {"redis": redis_server.url, "sqlite": f"sqlite:///{tmp_path}/c.db"}
    said, warned = run(urls.get(backend, "memory://"), "aclose_all()")
    assert ("1 1", False) == (said, "ResourceWarning" in warned)
    if backend == "redis":
        _, warned = run(redis_server.url, "asyncio.sleep(0)")
        assert "ResourceWarning" in warned, "the test sees what is left open"


async def test_function_shows_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """``f.cache`` can be closed, asked for figures, and used."""

    class Shop:
        @secure(master_key=KEY_HEX, of_self=None)
        async def price(self, item: int) -> int:
            return item

    @secure(master_key=KEY_HEX)
    def load(n: int) -> int:
        return n

    cache = Cache(MemoryBackend(), StaticKeyring(KEY_HEX))
    assert cache is cached(cache=cache)(Shop.price.__wrapped__.__get__(Shop())).cache
    assert not hasattr(cached(cache=lambda: cache)(_named), "cache")
    assert Shop().price.cache is Shop.price.cache
    assert load.cache.stats().hits == 0
    await Shop.price.cache.aclose()
    load.cache.close()

    closed: list[str] = []

    async def aclose() -> None:
        closed.append("async")
        raise BackendError("no")

    monkeypatch.setattr(Shop.price.cache, "aclose", aclose)
    monkeypatch.setattr(load.cache, "close", lambda: closed.append("sync"))
    with pytest.raises(BackendError):
        await aclose_all()
    assert ["async", "sync"] == closed
    close_all()
    assert ["async", "sync", "sync"] == closed


async def _named(n: int) -> Any:
    return n
