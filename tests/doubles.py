"""A KMS and a metastore that count, wait, fail and stop at any call, for tests of the hierarchy."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import anyio

from anyseal import CryptoPolicy, KeyHierarchy, SessionFactory, sync
from anyseal.kms.static import StaticKms
from anyseal.metastore.memory import MemoryMetastore
from anyseal.ports import KeyRecord
from support import a_key


class Calls:
    """What the two doubles share: counts, a delay, and what to do at a call."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.delay = 0.0
        self.fail: dict[str, Exception] = {}
        """By the name of the call: what it raises."""
        self.gate: dict[str, anyio.Event] = {}
        """By the name of the call: what it waits for."""
        self.silent: set[str] = set()
        """The names of calls that get no answer, on any event loop."""
        self.answered: set[str] = set()
        """The names of calls whose answer is made, and kept back."""
        self.held = 0
        """How many answers are kept back."""
        self.before: Callable[[str], Any] = lambda _name: None

    async def enter(self, name: str) -> None:
        self.count[name] += 1
        self.before(name)
        if name in self.gate:
            await self.gate[name].wait()
        if self.delay:
            await anyio.sleep(self.delay)
        while name in self.silent:
            await anyio.sleep(0.002)
        if name in self.fail:
            raise self.fail[name]

    async def leave(self, name: str) -> None:
        self.held += name in self.answered
        while name in self.answered:
            await anyio.sleep(0.002)


class CountingKms:
    """A static KMS that can be watched."""

    testing = True

    def __init__(self, calls: Calls, label: str = "master") -> None:
        self.calls = calls
        self._inner = StaticKms(a_key(label))
        self.seen: list[bytearray] = []
        """The buffers with plain keys that passed through: to be wiped by the caller."""

    async def wrap(self, key: bytearray) -> bytes:
        self.seen.append(key)
        await self.calls.enter("wrap")
        return await self._inner.wrap(key)

    async def unwrap(self, wrapped: bytes) -> bytearray:
        await self.calls.enter("unwrap")
        key = await self._inner.unwrap(wrapped)
        self.seen.append(key)
        return key

    async def aclose(self) -> None:
        await self.calls.enter("close kms")


class CountingMetastore:
    """A metastore in memory that can be watched."""

    testing = True

    def __init__(self, calls: Calls, inner: MemoryMetastore) -> None:
        self.calls = calls
        self.inner = inner

    async def load(self, key_id: str, created: int) -> KeyRecord | None:
        await self.calls.enter("load")
        found = await self.inner.load(key_id, created)
        await self.calls.leave("load")
        return found

    async def load_latest(self, key_id: str) -> KeyRecord | None:
        await self.calls.enter("load_latest")
        found = await self.inner.load_latest(key_id)
        await self.calls.leave("load_latest")
        return found

    async def store(self, record: KeyRecord) -> bool:
        await self.calls.enter("store")
        return await self.inner.store(record)

    async def revoke(self, key_id: str, created: int) -> bool:
        await self.calls.enter("revoke")
        return await self.inner.revoke(key_id, created)

    async def delete(self, key_id: str, created: int) -> bool:
        await self.calls.enter("delete")
        return await self.inner.delete(key_id, created)

    def records(self, key_id_prefix: str = "") -> AsyncIterator[KeyRecord]:
        return self.inner.records(key_id_prefix)

    async def versions(self, key_id: str) -> AsyncGenerator[KeyRecord, None]:
        await self.calls.enter("versions")
        async with contextlib.aclosing(self.inner.versions(key_id)) as records:
            async for record in records:
                await self.calls.leave("versions")
                yield record

    async def aclose(self) -> None:
        await self.calls.enter("close metastore")


class World:
    """One metastore and KMS, and any number of processes' hierarchies over them."""

    def __init__(self, **policy: Any) -> None:
        # Keys are dated by the minute: at its end, two that begin at once could make two.
        left = 60 - time.time() % 60
        if left < 1.5:
            time.sleep(left)
        self.calls = Calls()
        self.store = MemoryMetastore()
        self.policy = CryptoPolicy(**policy)
        self.kms = CountingKms(self.calls)

    def hierarchy(self, **settings: Any) -> KeyHierarchy:
        settings = {"service": "pay", "product": "eu", "policy": self.policy, **settings}
        kms = settings.pop("kms", self.kms)
        return KeyHierarchy(kms, CountingMetastore(self.calls, self.store), **settings)

    def factory(self, *, audit: Any = None, **settings: Any) -> SessionFactory:
        return SessionFactory(self.hierarchy(**settings), audit=audit)

    def sync_factory(self, *, audit: Any = None, **settings: Any) -> sync.SessionFactory:
        return sync.SessionFactory(self.hierarchy(**settings), audit=audit)

    def rows(self, key_id: str) -> list[KeyRecord]:
        """The records of an id, oldest first."""
        found = self.store._rows.get(key_id, {})
        return [found[created] for created in sorted(found)]

    def put(self, record: KeyRecord) -> None:
        """Change a record behind everybody's back."""
        self.store._rows.setdefault(record.id, {})[record.created] = record


SK, IK = "_SK_pay_eu", "_IK_u1_pay_eu"


def finish(coroutine: Any) -> Any:
    """The result of a coroutine that suspends nowhere."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise AssertionError("it suspended")
