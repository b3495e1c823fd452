"""Entries in this process's memory, bounded by bytes and by number."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial

from anyseal import offload
from anyseal.errors import BackendError, ConfigurationError
from anyseal.pages import Growing, copied

__all__ = ["BlockingMemoryBackend", "MemoryBackend"]

DEFAULT_MAX_BYTES = 256 << 20

ENTRY_BYTES = 300
"""What an entry takes beside its name and value: objects and table slots."""

_SCAN_NAMES = 1000


COPIED_BYTES = 1 << 20
"""Copies of more are made in a worker thread by the backend that is awaited."""


class _Entry:
    __slots__ = ("deadline", "value")

    def __init__(self, value: bytes | Growing, deadline: float | None) -> None:
        self.value = value
        self.deadline = deadline


def _whole(value: bytes | Growing) -> bytes:
    return value if isinstance(value, bytes) else value.read()


def _deadline(ttl_ms: int | None) -> float | None:
    return None if ttl_ms is None else time.monotonic() + ttl_ms / 1000


class BlockingMemoryBackend:
    """Entries in memory, the least recently used evicted first. For sync code.

    Safe to use from several threads. A forked child goes on with a copy of its own.

    Args:
        max_bytes: The most that names, values and ``ENTRY_BYTES`` per entry may take together.
            A value that alone would take more is not kept.
        max_entries: The most entries; None for no such limit.

    Raises:
        ConfigurationError: A limit is not a positive number.

    Cost: two dict operations under a lock; eviction takes constant time per entry.
    """

    enforces_timeout = True  # it never waits

    def __init__(
        self, *, max_bytes: int = DEFAULT_MAX_BYTES, max_entries: int | None = None
    ) -> None:
        limits = (max_bytes, 1 if max_entries is None else max_entries)
        if not all(isinstance(limit, int) and limit >= 1 for limit in limits):
            raise ConfigurationError("max_bytes and max_entries must be at least 1")
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._clear()
        _instances.add(self)

    def _clear(self) -> None:
        self._lock = threading.Lock()
        self._bytes = 0
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def _forked(self) -> None:
        if self._lock.locked():  # by a thread that this process does not have: half done
            self._clear()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(entries={len(self._entries)}, bytes={self._bytes})"

    # All below is called with the lock held.

    def _find(self, name: str) -> _Entry | None:
        entry = self._entries.get(name)
        if entry is None:
            return None
        if entry.deadline is not None and entry.deadline <= time.monotonic():
            self._drop(name)
            return None
        self._entries.move_to_end(name)
        return entry

    def _drop(self, name: str) -> bool:
        entry = self._entries.pop(name, None)
        if entry is None:
            return False
        self._bytes -= ENTRY_BYTES + len(name) + len(entry.value)
        return True

    def _store(self, name: str, value: bytes | Growing, deadline: float | None) -> bool:
        self._drop(name)
        if not self._fits(name, len(value)):
            return False
        self._entries[name] = _Entry(value, deadline)
        self._bytes += ENTRY_BYTES + len(name) + len(value)
        self._evict()
        return True

    def _fits(self, name: str, size: int) -> bool:
        return ENTRY_BYTES + len(name) + size <= self._max_bytes

    def _evict(self) -> None:
        entries, most = self._entries, self._max_entries
        while self._bytes > self._max_bytes or (most is not None and len(entries) > most):
            self._drop(next(iter(entries)))

    # Until here.

    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """The values, in the order of *names*; None for what is not there."""
        with self._lock:
            found = [self._find(name) for name in names]
        return [None if entry is None else _whole(entry.value) for entry in found]

    def copies(self, names: Sequence[str]) -> int:
        """Bytes that :meth:`get_many` copies: values that were written in pieces."""
        found = map(self._entries.get, names)
        values = [entry.value for entry in found if entry is not None]
        return sum(len(value) for value in values if type(value) is not bytes)

    def set(
        self, name: str, value: bytes, *, ttl_ms: int | None = None, if_absent: bool = False
    ) -> bool:
        """Store *value*; False if *if_absent* forbids it, or it is larger than all may be."""
        value = copied(value)
        with self._lock:
            if if_absent and self._find(name) is not None:
                return False
            return self._store(name, value, _deadline(ttl_ms))

    def compare_and_set(
        self, name: str, expected: bytes, value: bytes | None, *, ttl_ms: int | None = None
    ) -> bool:
        """Replace *expected* by *value* (None: delete) in one step; whether it was there."""
        with self._lock:
            entry = self._find(name)
            if entry is None or _whole(entry.value) != expected:
                return False
            if value is None:
                self._drop(name)
            else:
                self._store(name, copied(value), _deadline(ttl_ms))
            return True

    def delete_many(self, names: Sequence[str]) -> int:
        """Delete what is there of *names*; how many that were."""
        with self._lock:
            return sum(self._find(name) is not None and self._drop(name) for name in names)

    def scan(self, prefix: str) -> Iterator[list[str]]:
        """The names of this moment that begin with *prefix*, in lists.

        Expired entries met on the way are dropped.
        """
        with self._lock:
            names = list(self._entries)
        for at in range(0, len(names), _SCAN_NAMES):
            part = [name for name in names[at : at + _SCAN_NAMES] if name.startswith(prefix)]
            now = time.monotonic()
            with self._lock:
                live = [name for name in part if self._is_live(name, now)]
            if live:
                yield live

    def _is_live(self, name: str, now: float) -> bool:
        # Unlike _find: looking through the names is no use of the entries.
        entry = self._entries.get(name)
        if entry is not None and entry.deadline is not None and entry.deadline <= now:
            self._drop(name)
            return False
        return entry is not None

    def put_range(self, name: str, offset: int, data: bytes, *, ttl_ms: int) -> None:
        """Write *data* at *offset*; the value lives *ttl_ms* from now.

        Raises:
            BackendError: *offset* is beyond the end, or the value larger than all may be.
        """
        size = offset + len(data)
        with self._lock:
            entry = self._find(name)
            old = 0 if entry is None else len(entry.value)
            if not 0 <= offset <= old:
                raise BackendError("the pieces before this one are gone")
            if not self._fits(name, max(old, size)):
                self._drop(name)
                error = BackendError("the value is larger than the backend's max_bytes")
                error.retryable, error.refused = False, True
                raise error
            if entry is None:
                self._store(name, Growing(), None)
                entry = self._entries[name]
            if isinstance(entry.value, bytes):
                entry.value = Growing(entry.value)
            value = entry.value
            value.reserve(size)
            entry.deadline = _deadline(ttl_ms)
            self._bytes += len(value) - old
            self._evict()
        value.write(offset, data)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Up to *length* bytes from *offset*; fewer at the end, none if there is no value."""
        with self._lock:
            entry = self._find(name)
            if entry is None:
                return b""
            value = entry.value
        if isinstance(value, bytes):
            return value[offset : offset + length]
        return value.read(offset, length)

    def publish(
        self, temporary: str, final: str, name: str, value: bytes, *, ttl_ms: int | None
    ) -> bool:
        """Rename *temporary* to *final* and store *value* under *name*, in one step.

        False if *temporary* is gone, or evicted for *value*.
        """
        value = copied(value)
        with self._lock:
            entry = self._find(temporary)
            if entry is None:
                return False
            self._drop(temporary)
            deadline = _deadline(ttl_ms)
            self._store(final, entry.value, deadline)
            stored = self._store(name, value, deadline)
            return stored and final in self._entries

    def take_lease(
        self, lock: str, owner: bytes, name: str, *, ttl_ms: int
    ) -> tuple[bool, bytes | None]:
        """Store *owner* under *lock* if there is none; whether it was, and what is under *name*."""
        with self._lock:
            taken = self._find(lock) is None and self._store(lock, owner, _deadline(ttl_ms))
            entry = self._find(name)
            return taken, None if entry is None else _whole(entry.value)

    def settle(
        self, name: str, value: bytes, lock: str, owner: bytes, *,
        others: Sequence[str] = (), ttl_ms: int | None = None,
    ) -> bool:  # fmt: skip
        """If *lock* is *owner*'s, store *value* and delete *lock* and *others*; whether it was."""
        value = copied(value)
        with self._lock:
            held = self._find(lock)
            if held is None or _whole(held.value) != owner:
                return False
            for other in (lock, *others):
                self._drop(other)
            return self._store(name, value, _deadline(ttl_ms))

    def set_and_delete(
        self, name: str, value: bytes, others: Sequence[str], *, ttl_ms: int | None = None
    ) -> bool:
        """Store *value* and delete *others*; False if it is larger than all may be."""
        value = copied(value)
        with self._lock:
            for other in others:
                self._drop(other)
            return self._store(name, value, _deadline(ttl_ms))

    def delete_beside(self, names: Sequence[str], others: Sequence[str]) -> int:
        """Delete *names* and *others*; how many of *names* were there."""
        with self._lock:
            for other in others:
                self._drop(other)
            return sum(self._find(name) is not None and self._drop(name) for name in names)

    def close(self) -> None:
        """Nothing to let go of: the entries stay."""


_instances: weakref.WeakSet[BlockingMemoryBackend] = weakref.WeakSet()


def _renew() -> None:
    for backend in _instances:
        backend._forked()


os.register_at_fork(after_in_child=_renew)


class MemoryBackend:
    """Entries in memory, the least recently used evicted first.

    Safe to use from several threads and event loops. No method waits, and none is a checkpoint,
    unless it copies more than 1 MiB: that is done in a worker thread.

    Args:
        max_bytes: The most that names, values and ``ENTRY_BYTES`` per entry may take together.
            A value that alone would take more is not kept.
        max_entries: The most entries; None for no such limit.

    Raises:
        ConfigurationError: A limit is not a positive number.
    """

    enforces_timeout = True  # it never waits

    def __init__(
        self, *, max_bytes: int = DEFAULT_MAX_BYTES, max_entries: int | None = None
    ) -> None:
        self.blocking = BlockingMemoryBackend(max_bytes=max_bytes, max_entries=max_entries)
        """The same entries for sync code."""

    def __repr__(self) -> str:
        return repr(self.blocking).removeprefix("Blocking")

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """As :meth:`BlockingMemoryBackend.get_many`."""
        if self.blocking.copies(names) > COPIED_BYTES:
            return await offload.run(self.blocking.get_many, names)
        return self.blocking.get_many(names)

    async def set(
        self, name: str, value: bytes, *, ttl_ms: int | None = None, if_absent: bool = False
    ) -> bool:
        """As :meth:`BlockingMemoryBackend.set`."""
        if type(value) is not bytes:
            value = await offload.run(copied, value)
        return self.blocking.set(name, value, ttl_ms=ttl_ms, if_absent=if_absent)

    async def compare_and_set(
        self, name: str, expected: bytes, value: bytes | None, *, ttl_ms: int | None = None
    ) -> bool:
        """As :meth:`BlockingMemoryBackend.compare_and_set`."""
        return self.blocking.compare_and_set(name, expected, value, ttl_ms=ttl_ms)

    async def delete_many(self, names: Sequence[str]) -> int:
        """As :meth:`BlockingMemoryBackend.delete_many`."""
        return self.blocking.delete_many(names)

    async def scan(self, prefix: str) -> AsyncIterator[list[str]]:
        """As :meth:`BlockingMemoryBackend.scan`."""
        for names in self.blocking.scan(prefix):
            yield names

    async def put_range(self, name: str, offset: int, data: bytes, *, ttl_ms: int) -> None:
        """As :meth:`BlockingMemoryBackend.put_range`."""
        if len(data) > COPIED_BYTES:
            call = partial(self.blocking.put_range, name, offset, data, ttl_ms=ttl_ms)
            await offload.run(call)
        else:
            self.blocking.put_range(name, offset, data, ttl_ms=ttl_ms)

    async def get_range(self, name: str, offset: int, length: int) -> bytes:
        """As :meth:`BlockingMemoryBackend.get_range`."""
        if length > COPIED_BYTES:
            return await offload.run(self.blocking.get_range, name, offset, length)
        return self.blocking.get_range(name, offset, length)

    async def publish(
        self, temporary: str, final: str, name: str, value: bytes, *, ttl_ms: int | None
    ) -> bool:
        """As :meth:`BlockingMemoryBackend.publish`."""
        return self.blocking.publish(temporary, final, name, value, ttl_ms=ttl_ms)

    async def take_lease(
        self, lock: str, owner: bytes, name: str, *, ttl_ms: int
    ) -> tuple[bool, bytes | None]:
        """As :meth:`BlockingMemoryBackend.take_lease`."""
        return self.blocking.take_lease(lock, owner, name, ttl_ms=ttl_ms)

    async def settle(
        self, name: str, value: bytes, lock: str, owner: bytes, *,
        others: Sequence[str] = (), ttl_ms: int | None = None,
    ) -> bool:  # fmt: skip
        """As :meth:`BlockingMemoryBackend.settle`."""
        return self.blocking.settle(name, value, lock, owner, others=others, ttl_ms=ttl_ms)

    async def set_and_delete(
        self, name: str, value: bytes, others: Sequence[str], *, ttl_ms: int | None = None
    ) -> bool:
        """As :meth:`BlockingMemoryBackend.set_and_delete`."""
        return self.blocking.set_and_delete(name, value, others, ttl_ms=ttl_ms)

    async def delete_beside(self, names: Sequence[str], others: Sequence[str]) -> int:
        """As :meth:`BlockingMemoryBackend.delete_beside`."""
        return self.blocking.delete_beside(names, others)

    async def aclose(self) -> None:
        """Nothing to let go of: the entries stay."""
