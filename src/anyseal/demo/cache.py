"""The demo's part on the cache: what a backend sees, who computes, what does not open."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import anyio
import anyio.to_thread
from rich.console import Console

from anyseal.errors import ConfigurationError
from anyseal.keyring import StaticKeyring

__all__ = ["show"]

TENANT, KEY, VALUE = "tenant-7", "user:42", {"name": "Ada Lovelace", "card": "4111 1111 1111 1111"}
ASKING = 100
COMPUTING_SECONDS = 0.1
HITS = 500


async def show(
    console: Console, folder: Path, keyring: StaticKeyring, expect: Callable[[bool, str], None]
) -> None:
    """Cache in a SQLite file, and look at the file. *expect* hears of what does not behave."""
    try:
        from anyseal.cache import Cache, CachePolicy, SQLiteBackend
    except ConfigurationError as exc:
        console.print(f"The cache is left out: {exc}", markup=False)
        return
    # It warns of the entry that will not open; here that is said below.
    logging.getLogger("anyseal.cache").addHandler(logging.NullHandler())
    path = folder / "cache.db"
    policy = CachePolicy(local_bytes=1 << 20)
    runs = 0

    async def compute() -> dict[str, str]:
        nonlocal runs
        runs += 1
        await anyio.sleep(COMPUTING_SECONDS)
        return VALUE

    found: list[Any] = []
    async with Cache(SQLiteBackend(path), keyring, namespace="demo", policy=policy) as cache:

        async def ask() -> None:
            found.append(await cache.get_or_set(KEY, compute, partition=TENANT))

        async with anyio.create_task_group() as group:
            for _ in range(ASKING):
                group.start_soon(ask)
        expect(found == [VALUE] * ASKING and runs == 1, f"the function ran {runs} times")
        begin = perf_counter()
        for _ in range(HITS):
            await cache.get(KEY, partition=TENANT)
        hit = (perf_counter() - begin) / HITS
        moved = await _moved(path, cache, keyring)
        expect(not moved, "an entry that was moved to another key opened")
    seen = [mark for mark in (TENANT, KEY, *VALUE.values()) if await _holds(folder, mark)]
    expect(not seen, f"the file of the cache shows {seen}")
    console.print(
        f"{ASKING} tasks asked for one missing value: the function ran {runs} time. A hit in the "
        f"process, opened each time: {hit * 1e6:.1f} us."
    )
    console.print(
        f"The cache's file holds {len(VALUE)} fields of one tenant; looking for tenant, key and "
        f"values in its bytes finds {len(seen)} of them. The entry under another key: "
        f"{'OPENS' if moved else 'a miss'}."
    )


async def _moved(path: Path, cache: Any, keyring: StaticKeyring) -> bool:
    """Whether the entry opens after its bytes were copied to another key's place."""
    from anyseal.cache import Cache, SQLiteBackend

    backend = SQLiteBackend(path)
    before = {name async for names in backend.scan("demo:") for name in names}
    await cache.set("user:43", {"name": "Grace Hopper"}, partition=TENANT)
    after = {name async for names in backend.scan("demo:") for name in names}
    (source,), (target,) = before, after - before
    (sealed,) = await backend.get_many([source])
    if sealed is not None:
        await backend.set(target, sealed, ttl_ms=60_000)
    await backend.aclose()
    async with Cache(SQLiteBackend(path), keyring, namespace="demo") as other:
        return await other.get("user:43", partition=TENANT) is not None


async def _holds(folder: Path, mark: str) -> bool:
    """Whether a file of the cache has *mark* in its bytes."""

    def look() -> bool:
        return any(mark.encode() in path.read_bytes() for path in folder.glob("cache.db*"))

    return await anyio.to_thread.run_sync(look)
