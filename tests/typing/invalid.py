"""A user's program of which type checkers must refuse each line that says so."""

from __future__ import annotations

import anyseal
from anyseal import sync
from anyseal.cache import Cache, MemoryBackend, cached

keys = anyseal.StaticKeyring("8f" * 32)
cache = Cache(MemoryBackend(), keys)
twin = sync.Cache(sync.MemoryBackend(), keys)


@cached(cache=cache)
async def load(user_id: int) -> dict[str, str]:
    return {}


@cached(cache=twin)
def load_sync(user_id: int) -> list[int]:
    return [user_id]


async def main() -> None:
    await load("7")  # error
    load_sync()  # error
    x: int = await load(7)  # error
    y: str = load_sync(7)  # error
    await load.invalidate("7")  # error
    await load_sync.invalidate(7)  # error
    load.nothing  # error
    twin.get_or_set("k")  # error
    await anyseal.seal(b"x", partition="t")  # error
    await anyseal.seal(b"x")  # error
