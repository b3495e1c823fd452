"""A user's program that type checkers must accept."""

from __future__ import annotations

from typing import assert_type

import anyseal
from anyseal import sync
from anyseal.cache import Cache, MemoryBackend, cached, secure

keys = anyseal.StaticKeyring("8f" * 32)
cache = Cache(MemoryBackend(), keys)
twin = sync.Cache(sync.MemoryBackend(), keys)


@cached(cache=cache)
async def load(user_id: int, *, full: bool = False) -> dict[str, str]:
    return {}


@cached(cache=twin)
def load_sync(user_id: int) -> list[int]:
    return [user_id]


@secure(master_key="8f" * 32)
async def profile(user_id: int) -> str:
    return ""


class Shop:
    id = 1

    @cached(cache=cache, of_self=lambda self: self.id)
    async def price(self, item: str) -> float:
        return 1.0


async def one() -> int:
    return 1


async def main() -> None:
    assert_type(await load(7, full=True), dict[str, str])
    assert_type(load_sync(7), list[int])
    assert_type(await load.invalidate(7), bool)
    assert_type(load_sync.invalidate(7), bool)
    assert_type(await load.refresh(7), dict[str, str])
    assert_type(await profile(1), str)
    assert_type(await Shop().price("x"), float)
    assert_type(await Shop().price.invalidate("x"), bool)
    assert_type(await cache.get("k", type=int), int | None)
    assert_type(await cache.get("k", 0, type=int), int)
    assert_type(await cache.get_or_set("k", one), int)
    assert_type(twin.get("k", type=list[int]), list[int] | None)
