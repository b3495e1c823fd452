"""What keeps entries: the methods that the decorator calls."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from anyseal import offload
from anyseal.errors import BackendError

__all__ = ["LOCK_MS", "SILENCE", "Found", "Store", "answered", "is_refusal", "new_scope"]

_BYTES = (bytes, bytearray, memoryview)

LOCK_MS = 10_000
"""As in cachekit: if its holder died, no other caller waits longer."""

_scopes = itertools.count(1)


def new_scope() -> str:
    """A name that no other store of this process has."""
    return f"{next(_scopes)}"


class Found(NamedTuple):
    """What the store said."""

    stored: bytes | None
    left: int | None
    """Milliseconds that the entry still has, if that is known."""
    answered: bool


SILENCE = Found(None, None, False)


def answered(stored: Any, left: int | None = None) -> Found:
    """What the store answered. Raises BackendError for what no entry can be."""
    fits = stored is None or isinstance(stored, _BYTES)
    if not fits:
        raise BackendError(f"the backend answered with {type(stored).__name__}, not bytes")
    return Found(stored, left, True)


def is_refusal(exc: Exception) -> bool:
    """Whether the store answered, though not as one would like: that is no sign of an outage."""
    if isinstance(exc, BackendError):
        return exc.refused
    return any(kind.__name__ == "ResponseError" for kind in type(exc).__mro__)


class Store(ABC):
    """Blocking methods, and the same without blocking the loop: by default in a worker thread."""

    prefix = ""
    """Goes before every key, and into what an entry is bound to."""

    local = False
    """Whether the entries stay in this process."""

    locks = False
    """Whether other processes can be kept from computing an entry at the same time."""

    def __init__(self) -> None:
        self.scope = new_scope()
        """Tells copies of its entries from those of other stores."""

    def lock(self, key: str, token: str) -> bool:
        """Take the lock of an entry for ``LOCK_MS`` at most; False if another has it."""
        return True

    def unlock(self, key: str, token: str) -> None:  # noqa: B027 - most have none
        """Release the lock, unless another has it by now."""

    def check(self, *, is_async: bool) -> None:  # noqa: B027 - most have nothing to say
        """Raises ConfigurationError if it cannot serve such functions. Connects to nothing."""

    @abstractmethod
    def get(self, key: str) -> bytes | None:
        """The entry *key*, if it is there."""

    def get_left(self, key: str) -> tuple[bytes | None, int | None]:
        """The entry *key* and for how many milliseconds it stays; None if that is not known."""
        return self.get(key), None

    def take(self, key: str, token: str) -> tuple[bool, bytes | None]:
        """:meth:`lock`, and the entry as it is then."""
        return self.lock(key, token), self.get(key)

    @abstractmethod
    def set(self, key: str, value: bytes, ttl_ms: int | None, registry: str) -> None:
        """Store an entry, and note it in *registry*."""

    def settle(self, key: str, value: bytes, ttl_ms: int | None, registry: str, token: str) -> None:
        """:meth:`set` and :meth:`unlock`."""
        self.set(key, value, ttl_ms, registry)
        self.unlock(key, token)

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove the entry *key*, if it is there."""

    @abstractmethod
    def clear(self, place: str, registry: str) -> None:
        """Remove all entries that begin with *place* or are noted in *registry*."""

    async def aget(self, key: str) -> bytes | None:
        """:meth:`get`."""
        return await offload.run_waiting(self.get, key)

    async def aget_left(self, key: str) -> tuple[bytes | None, int | None]:
        """:meth:`get_left`."""
        return await self.aget(key), None

    async def atake(self, key: str, token: str) -> tuple[bool, bytes | None]:
        """:meth:`take`."""
        return await offload.run_waiting(self.take, key, token)

    async def aunlock(self, key: str, token: str) -> None:
        """:meth:`unlock`."""
        await offload.run_waiting(self.unlock, key, token)

    async def aset(self, key: str, value: bytes, ttl_ms: int | None, registry: str) -> None:
        """:meth:`set`."""
        await offload.run_waiting(self.set, key, value, ttl_ms, registry)

    async def asettle(
        self, key: str, value: bytes, ttl_ms: int | None, registry: str, token: str
    ) -> None:
        """:meth:`settle`."""
        await self.aset(key, value, ttl_ms, registry)
        await self.aunlock(key, token)

    async def adelete(self, key: str) -> None:
        """:meth:`delete`."""
        await offload.run_waiting(self.delete, key)

    async def aclear(self, place: str, registry: str) -> None:
        """:meth:`clear`."""
        await offload.run_waiting(self.clear, place, registry)
