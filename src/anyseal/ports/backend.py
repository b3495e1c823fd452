"""Where a cache keeps its entries."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

from anyseal.ports._checked import Checked

__all__ = [
    "Backend",
    "BackendTraits",
    "BlockingBackend",
    "BlockingLeasingBackend",
    "BlockingRangedBackend",
    "LeasingBackend",
    "RangedBackend",
    "WatchedBackend",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendTraits:
    """What a backend says of itself, in attributes of these names.

    Each may be left out, and then has the value that it has here::

        class MyBackend:
            can_scan = False
    """

    can_scan: bool = True
    """Whether ``scan`` can be had. Where it cannot, a cache clears a namespace by changing what
    its entries must carry."""
    enforces_timeout: bool = False
    """Whether every call ends in its time, as the backend was told. A cache then leaves out its
    policy's own ``timeout``, and calls the backend directly. Otherwise each call of an async
    backend has a task of its own, and each call of a blocking one (each page of a scan, too) a
    thread, which is left behind at the timeout: past 8 such calls the next fail at once. That
    costs up to 0.1 ms. All that come with anyseal and block say True."""
    ends_when_cancelled: bool = False
    """Whether an async call ends soon when it is cancelled, so that it needs no task of its own.
    Not so if it waits in threads that cannot be left, as ``anyio.to_thread.run_sync`` does."""

    @classmethod
    def of(cls, backend: Any) -> BackendTraits:
        """The traits of *backend*."""
        return cls(
            **{
                trait.name: bool(getattr(backend, trait.name, trait.default))
                for trait in fields(cls)
            }
        )


@runtime_checkable
class Backend(Protocol, metaclass=Checked):
    """Keeps the sealed entries of a cache by name. All raise BackendError.

    Names are printable ASCII without spaces, at most 200 characters; what stands between the
    first ``{`` and ``}`` is the part that must decide where a name lives (Redis Cluster's rule).
    Values are what was given, as bytes. A *ttl_ms* is at least 1; None keeps an entry until it is
    deleted, or evicted. What else a backend may say of itself: :class:`BackendTraits`.
    """

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """The values, in the order of *names*; None for what is not there."""
        ...

    async def set(
        self, name: str, value: bytes, *, ttl_ms: int | None = None, if_absent: bool = False
    ) -> bool:
        """Store *value*; with *if_absent* only if there is none. Whether it was stored."""
        ...

    async def compare_and_set(
        self, name: str, expected: bytes, value: bytes | None, *, ttl_ms: int | None = None
    ) -> bool:
        """Replace *expected* by *value* (None: delete) in one step; whether it was there."""
        ...

    async def delete_many(self, names: Sequence[str]) -> int:
        """Delete what is there of *names*; how many that were."""
        ...

    def scan(self, prefix: str) -> AsyncIterator[list[str]]:
        """The names that begin with *prefix*, in lists; those of this moment at least."""
        ...

    async def aclose(self) -> None:
        """Let go of connections. Idempotent."""
        ...


@runtime_checkable
class RangedBackend(Backend, Protocol, metaclass=Checked):
    """A backend whose values can be written and read a piece at a time."""

    async def put_range(self, name: str, offset: int, data: bytes, *, ttl_ms: int) -> None:
        """Write *data* at *offset*, which is at most the value's length, into a value that need
        not exist; the value lives *ttl_ms* from now."""
        ...

    async def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Up to *length* bytes from *offset*; fewer at the end, none if there is no value."""
        ...

    async def publish(
        self, temporary: str, final: str, name: str, value: bytes, *, ttl_ms: int | None
    ) -> bool:
        """Rename *temporary* to *final* and store *value* under *name*, both with this time to
        live, in one step. All three share what stands in braces. False if *temporary* is gone."""
        ...


@runtime_checkable
class BlockingBackend(Protocol, metaclass=Checked):
    """The same without ``await``, for sync code. Called from several threads at once."""

    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """As :meth:`Backend.get_many`."""
        ...

    def set(
        self, name: str, value: bytes, *, ttl_ms: int | None = None, if_absent: bool = False
    ) -> bool:
        """As :meth:`Backend.set`."""
        ...

    def compare_and_set(
        self, name: str, expected: bytes, value: bytes | None, *, ttl_ms: int | None = None
    ) -> bool:
        """As :meth:`Backend.compare_and_set`."""
        ...

    def delete_many(self, names: Sequence[str]) -> int:
        """As :meth:`Backend.delete_many`."""
        ...

    def scan(self, prefix: str) -> Iterator[list[str]]:
        """As :meth:`Backend.scan`."""
        ...

    def close(self) -> None:
        """As :meth:`Backend.aclose`."""
        ...


@runtime_checkable
class BlockingRangedBackend(BlockingBackend, Protocol, metaclass=Checked):
    """:class:`RangedBackend` without ``await``."""

    def put_range(self, name: str, offset: int, data: bytes, *, ttl_ms: int) -> None:
        """As :meth:`RangedBackend.put_range`."""
        ...

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """As :meth:`RangedBackend.get_range`."""
        ...

    def publish(
        self, temporary: str, final: str, name: str, value: bytes, *, ttl_ms: int | None
    ) -> bool:
        """As :meth:`RangedBackend.publish`."""
        ...


@runtime_checkable
class LeasingBackend(Backend, Protocol, metaclass=Checked):
    """A backend that does in one exchange what a computed value, its lease and its object need."""

    async def take_lease(
        self, lock: str, owner: bytes, name: str, *, ttl_ms: int
    ) -> tuple[bool, bytes | None]:
        """Store *owner* under *lock* if there is none; whether it was, and what is under *name*
        after that. Both share what stands in braces."""
        ...

    async def settle(
        self, name: str, value: bytes, lock: str, owner: bytes, *,
        others: Sequence[str] = (), ttl_ms: int | None = None,
    ) -> bool:  # fmt: skip
        """If *lock* is *owner*'s, store *value* under *name* and delete *lock* and *others*, in
        one step; whether it was. All share what stands in braces."""
        ...

    async def set_and_delete(
        self, name: str, value: bytes, others: Sequence[str], *, ttl_ms: int | None = None
    ) -> bool:
        """Delete *others*, then store *value* under *name*, in one exchange; whether it was
        stored. All share what stands in braces."""
        ...

    async def delete_beside(self, names: Sequence[str], others: Sequence[str]) -> int:
        """Delete *others*, then *names*, in one exchange; how many of *names* were there."""
        ...


@runtime_checkable
class BlockingLeasingBackend(BlockingBackend, Protocol, metaclass=Checked):
    """:class:`LeasingBackend` without ``await``."""

    def take_lease(
        self, lock: str, owner: bytes, name: str, *, ttl_ms: int
    ) -> tuple[bool, bytes | None]:
        """As :meth:`LeasingBackend.take_lease`."""
        ...

    def settle(
        self, name: str, value: bytes, lock: str, owner: bytes, *,
        others: Sequence[str] = (), ttl_ms: int | None = None,
    ) -> bool:  # fmt: skip
        """As :meth:`LeasingBackend.settle`."""
        ...

    def set_and_delete(
        self, name: str, value: bytes, others: Sequence[str], *, ttl_ms: int | None = None
    ) -> bool:
        """As :meth:`LeasingBackend.set_and_delete`."""
        ...

    def delete_beside(self, names: Sequence[str], others: Sequence[str]) -> int:
        """As :meth:`LeasingBackend.delete_beside`."""
        ...


@runtime_checkable
class WatchedBackend(Backend, Protocol, metaclass=Checked):
    """A backend that says which entries changed, also by other processes."""

    def changes(self, prefix: str) -> AsyncIterator[list[str] | None]:
        """Names below *prefix* that changed or went, as it happens; None when some may have been
        missed (at the start of each connection): whatever is held must then be dropped."""
        ...
