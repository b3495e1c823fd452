"""A blocking backend for async code: each call in a worker thread."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

from anyseal.offload import run_waiting
from anyseal.ports import BlockingBackend, BlockingLeasingBackend, BlockingRangedBackend

__all__ = ["ThreadedBackend", "ThreadedRangedBackend"]


class _Whole(BlockingRangedBackend, BlockingLeasingBackend, Protocol):
    """A blocking backend that can do all that one can."""


B = TypeVar("B", bound=BlockingBackend)
R = TypeVar("R", bound=_Whole)


class ThreadedBackend(Generic[B]):
    """Each method runs its blocking twin in a worker thread.

    A cancelled caller does not wait for the thread: the call goes on unheard, and has happened
    or not.
    """

    ends_when_cancelled = True

    def __init__(self, blocking: B) -> None:
        self.blocking = blocking
        """The same entries for sync code."""

    def __repr__(self) -> str:
        return repr(self.blocking).removeprefix("Blocking")

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """The values, in the order of *names*; None for what is not there."""
        return await run_waiting(self.blocking.get_many, names) if names else []

    async def set(
        self, name: str, value: bytes, *, ttl_ms: int | None = None, if_absent: bool = False
    ) -> bool:
        """Store *value*; with *if_absent* only if there is none. Whether it was stored."""
        return await run_waiting(
            partial(self.blocking.set, name, value, ttl_ms=ttl_ms, if_absent=if_absent)
        )

    async def compare_and_set(
        self, name: str, expected: bytes, value: bytes | None, *, ttl_ms: int | None = None
    ) -> bool:
        """Replace *expected* by *value* (None: delete) in one step; whether it was there."""
        return await run_waiting(
            partial(self.blocking.compare_and_set, name, expected, value, ttl_ms=ttl_ms)
        )

    async def delete_many(self, names: Sequence[str]) -> int:
        """Delete what is there of *names*; how many that were."""
        return await run_waiting(self.blocking.delete_many, names) if names else 0

    async def scan(self, prefix: str) -> AsyncIterator[list[str]]:
        """The names that begin with *prefix*, in lists; those of this moment at least."""
        lists: Iterator[list[str]] = iter(self.blocking.scan(prefix))
        while (names := await run_waiting(next, lists, None)) is not None:
            yield names

    async def aclose(self) -> None:
        """Let go of connections. Idempotent."""
        await run_waiting(self.blocking.close)


class ThreadedRangedBackend(ThreadedBackend[R]):
    """The same, with the methods for pieces and for leases."""

    async def put_range(self, name: str, offset: int, data: bytes, *, ttl_ms: int) -> None:
        """Write *data* at *offset*; the value lives *ttl_ms* from now."""
        await run_waiting(partial(self.blocking.put_range, name, offset, data, ttl_ms=ttl_ms))

    async def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Up to *length* bytes from *offset*; fewer at the end, none if there is no value."""
        return await run_waiting(self.blocking.get_range, name, offset, length)

    async def publish(
        self, temporary: str, final: str, name: str, value: bytes, *, ttl_ms: int | None
    ) -> bool:
        """Rename *temporary* to *final* and store *value* under *name*, in one step."""
        return await run_waiting(
            partial(self.blocking.publish, temporary, final, name, value, ttl_ms=ttl_ms)
        )

    async def take_lease(
        self, lock: str, owner: bytes, name: str, *, ttl_ms: int
    ) -> tuple[bool, bytes | None]:
        """Store *owner* under *lock* if there is none; whether it was, and what is under *name*."""
        return await run_waiting(
            partial(self.blocking.take_lease, lock, owner, name, ttl_ms=ttl_ms)
        )

    async def settle(
        self, name: str, value: bytes, lock: str, owner: bytes, *,
        others: Sequence[str] = (), ttl_ms: int | None = None,
    ) -> bool:  # fmt: skip
        """If *lock* is *owner*'s, store *value* and delete *lock* and *others*; whether it was."""
        return await run_waiting(
            partial(self.blocking.settle, name, value, lock, owner, others=others, ttl_ms=ttl_ms)
        )

    async def set_and_delete(
        self, name: str, value: bytes, others: Sequence[str], *, ttl_ms: int | None = None
    ) -> bool:
        """Store *value* and delete *others*, in one step; whether it was stored."""
        return await run_waiting(
            partial(self.blocking.set_and_delete, name, value, others, ttl_ms=ttl_ms)
        )

    async def delete_beside(self, names: Sequence[str], others: Sequence[str]) -> int:
        """Delete *names* and *others*, in one step; how many of *names* were there."""
        return await run_waiting(self.blocking.delete_beside, names, others)
