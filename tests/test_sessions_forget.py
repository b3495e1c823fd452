"""What the lifecycle tools change is seen by the sessions of the same process at once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from anyseal import CryptoPolicy, KeyAdmin, SessionFactory
from anyseal.testing import memory_hierarchy

pytestmark = pytest.mark.anyio


def _key(row: str) -> Any:
    return json.loads(row)["Key"]["ParentKeyMeta"]


@pytest.mark.parametrize("cache", [0, 1000])
async def test_sessions_seal_no_more_under_a_revoked_key(cache: int) -> None:
    """The session cache once kept the key until the revoke check: an hour, by default."""
    policy = CryptoPolicy(session_cache_size=cache)
    async with SessionFactory(memory_hierarchy(policy=policy)) as factory:
        admin, held = KeyAdmin(factory.hierarchy), factory.session("p")
        before = await held.encrypt(b"x")
        assert await admin.revoke(partition="p") == 1
        after = await held.encrypt(b"x")
        assert _key(before) != _key(after)
        assert _key(after) == _key(await factory.session("p").encrypt(b"x"))
        assert b"x" == await held.decrypt(before)


async def test_sessions_follow_every_rotation() -> None:
    """Not only the first one: sessions and tools mean the same partition."""
    async with SessionFactory(memory_hierarchy()) as factory:
        admin, held = KeyAdmin(factory.hierarchy), factory.session("p")
        rows = [await held.encrypt(b"x")]
        await admin.revoke(type="intermediate")
        for _ in range(3):
            await admin.rotate("p")
            rows.append(await held.encrypt(b"x"))
        assert 4 == len({json.dumps(_key(row)) for row in rows})
        for row in rows:
            assert b"x" == await held.decrypt(row)


async def test_sessions_open_nothing_of_a_shredded_partition() -> None:
    """Deleted is deleted, also for the process that did it."""
    async with SessionFactory(memory_hierarchy()) as factory:
        admin, held = KeyAdmin(factory.hierarchy), factory.session("p")
        row = await held.encrypt(b"x")
        assert 1 == (await admin.shred("p", wait=False)).keys_deleted
        with pytest.raises(LookupError):
            await held.decrypt(row)
