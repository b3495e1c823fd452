"""The cache without ``await``: the same flows over a blocking backend. Any thread may call it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import perf_counter
from types import TracebackType
from typing import Any, Self

from anyseal.cache.core import (
    HEALTH,
    only_one,
    several,
)
from anyseal.cache.entry import ERROR, LARGE, RAW, Entry, check_key
from anyseal.cache.jobs import Job
from anyseal.cache.needs import UNSET
from anyseal.cache.options import check_backend, items_of, tag_names
from anyseal.cache.pieces import object_name
from anyseal.cache.policy import TTL
from anyseal.cache.stats import CacheHealth
from anyseal.errors import (
    BackendError,
    FormatError,
)
from anyseal.ports import BlockingRangedBackend
from anyseal.sync.driving import BlockingDriver
from anyseal.sync.herd import Herd
from anyseal.sync.large import LargeValues

__all__ = ["Cache"]


class Cache(BlockingDriver):
    """:class:`anyseal.cache.Cache` without ``await``, over a blocking backend.

    Both may share one backend server: each reads what the other wrote. Timeouts are the backend's
    own; the in-process layer is told of other processes' changes by nobody, and asks again after
    ``local_ttl``.

    Args:
        backend: A BlockingBackend, such as ``anyseal.sync.MemoryBackend``.
        keyring: As for the async cache; a hierarchy's misses wait on the shared event loop.

    The other arguments are those of the async cache.

    Raises:
        ConfigurationError: As for the async cache.
        TypeError: *backend* is one of the async ones.
    """

    def _check_backend(self, backend: Any) -> None:
        check_backend(backend, waits=False)

    def _assemble(self) -> None:
        super()._assemble()
        self._herd = Herd(self._leases)
        self._large = LargeValues(self)

    def _found(self, partition: str, key: bytes) -> Entry | None:
        try:
            return self._drive(self._entries.find(partition, key))
        except BackendError:
            if self.policy.on_backend_error == "closed":
                raise
            return None

    def _payload(self, partition: str, key: bytes, entry: Entry) -> tuple[int, Any] | None:
        """Kind and payload of *entry*, wherever they are; None if it tells of nothing."""
        if entry.kind == LARGE:
            return self._large.payload(partition, key, entry)
        if entry.kind == ERROR:  # not what a reader of values expects
            return None
        return entry.kind, entry.payload

    def _value(
        self, partition: str, key: bytes, entry: Entry, type: Any, *, closed: bool = False
    ) -> Any:
        """The value of *entry*, or UNSET if it cannot be had; *closed* says that a backend which
        is down is an error whatever the policy says."""
        try:
            found = self._payload(partition, key, entry)
            if found is None:
                return UNSET
            try:
                return self._payloads.decoded(*found, type)
            except FormatError as exc:
                flow = self._opener.refused(
                    partition, key, entry.stored, entry.sealed, exc, undecodable=True
                )
                self._drive(flow)
        except BackendError:
            if closed or self.policy.on_backend_error == "closed":
                raise
        return UNSET

    # ---- reading

    def get(
        self, key: str | bytes, default: Any = None, *, type: Any = Any, partition: str = "default"
    ) -> Any:
        """The value of *key*, or *default*."""
        data = check_key(key)
        entry = self._local_entry(partition, data)
        local = entry is not None
        if entry is None:
            entry = self._found(partition, data)
        value = UNSET
        if entry is not None and not self._stale(entry):
            value = self._value(partition, data, entry, type)
        if value is UNSET:
            self._observer.count("misses")
            return default
        self._observer.count("local_hits" if local else "hits")
        return value

    def get_many(
        self, keys: Iterable[str | bytes], *, type: Any = Any, partition: str = "default"
    ) -> dict[str | bytes, Any]:
        """The values of those of *keys* that are there, in one look at the backend."""
        wanted = {key: check_key(key) for key in several(keys)}
        entries, local = self._held_locally(partition, wanted.values())
        try:
            rest = [data for data in wanted.values() if data not in local]
            entries |= self._drive(self._entries.find_many(partition, rest))
        except BackendError:
            if self.policy.on_backend_error == "closed":
                raise
        found: dict[str | bytes, Any] = {}
        for key, data in wanted.items():
            entry = entries.get(data)
            if entry is not None and not self._stale(entry):
                value = self._value(partition, data, entry, type)
                if value is not UNSET:
                    found[key] = value
                    self._observer.count("local_hits" if data in local else "hits")
        self._observer.count("misses", len(wanted) - len(found))
        return found

    def contains(self, key: str | bytes, *, partition: str = "default") -> bool:
        """Whether *key* has an entry that opens and has not ended."""
        data = check_key(key)
        entry = self._local_entry(partition, data) or self._found(partition, data)
        if entry is None or self._stale(entry) or entry.kind == ERROR:
            return False
        if entry.kind != LARGE:
            return True
        try:
            return self._large.exists(entry)
        except BackendError:
            if self.policy.on_backend_error == "closed":
                raise
            return False

    # ---- writing

    def set(
        self,
        key: str | bytes,
        value: Any,
        *,
        ttl: TTL = UNSET,
        tags: Sequence[str] = (),
        if_absent: bool = False,
        partition: str = "default",
    ) -> bool:
        """Seal *value* and store it under *key*; whether it was stored."""
        data, seconds = check_key(key), self._lives(ttl)
        kind, payload = self._payloads.prepared(value)
        return self._set(
            partition, data, kind, payload, ttl=seconds, tags=tags, if_absent=if_absent
        )

    def _set(
        self, partition: str, key: bytes, kind: int, payload: Any, *, ttl: float | None,
        tags: Sequence[str], **options: Any,
    ) -> bool:  # fmt: skip
        """Store a payload with *tags*, as the policy says."""
        try:
            names = self._drive(self._keys.names(partition))
            carried = self._drive(self._tags.generations(names, partition, tags, ttl=ttl))
            return self._put(partition, key, kind, payload, ttl=ttl, tags=carried, **options)
        except BackendError:
            if self.policy.on_backend_error == "closed":
                raise
            return False

    def _put(self, partition: str, key: bytes, kind: int, payload: Any, **options: Any) -> bool:
        """Store a payload of any size."""
        ranged = isinstance(self._backend, BlockingRangedBackend)
        if len(payload) > self.policy.large_bytes and ranged:
            return self._large.put(partition, key, kind, payload, **options)
        return self._drive(self._entries.store(partition, key, kind, bytes(payload), **options))

    def set_many(
        self,
        items: Mapping[Any, Any],
        *,
        ttl: TTL = UNSET,
        tags: Sequence[str] = (),
        partition: str = "default",
    ) -> int:
        """``set`` each of *items*; how many were stored."""
        seconds = self._lives(ttl)
        prepared = [
            (check_key(key), *self._payloads.prepared(value)) for key, value in items_of(items)
        ]
        return sum(self._set(partition, *each, ttl=seconds, tags=tags) for each in prepared)

    def delete(self, *keys: str | bytes, partition: str = "default") -> int:
        """Delete entries; how many were there. Raises BackendError."""
        return self._drive(self._entries.delete(partition, [check_key(key) for key in keys]))

    def pop(
        self, key: str | bytes, default: Any = None, *, type: Any = Any, partition: str = "default"
    ) -> Any:
        """Take the value of *key* out, in one step: of several callers one gets it."""
        data = check_key(key)
        self._drive(self._entries.revoke(partition, data))
        while True:
            entry = self._drive(self._entries.find(partition, data))
            if entry is None:
                return default
            value = self._value(partition, data, entry, type, closed=True)
            call = self._backend.compare_and_set
            try:
                taken = self._guarded(call, entry.stored, entry.sealed, None)
            finally:
                self._copies.forget(partition, data, entry.stored)
                self._leases.part(partition, [data])
            if taken:
                if entry.kind == LARGE:
                    self._guarded(self._backend.delete_many, [object_name(entry.stored)])
                self._observer.count("deletes")
                return default if value is UNSET or self._stale(entry) else value

    def touch(self, key: str | bytes, ttl: TTL = UNSET, *, partition: str = "default") -> bool:
        """Give *key* a new time to live; whether it was there."""
        try:
            return self._drive(self._entries.touch(partition, check_key(key), self._lives(ttl)))
        except BackendError:
            if self.policy.on_backend_error == "closed":
                raise
            return False

    def delete_tag(self, *tags: str, partition: str = "default") -> None:
        """End all entries of *partition* that carry one of *tags*. Raises BackendError."""
        for tag in tags:
            self._drive(self._tags.delete(partition, tag))
        self._leases.revoke_tags(partition, tags)

    def clear(self, *, partition: str | None = "default") -> int:
        """Delete a partition's entries; with None, those of the whole namespace."""
        self._copies.clear(partition)
        self._leases.revoke_all(partition)
        if self._everywhere:
            self.delete_tag(*self._everywhere, partition=only_one(partition))
            return 0
        prefixes = [f"{self.namespace}:"]
        if partition is not None:
            prefixes = self._drive(self._keys.names(partition)).prefixes
        deleted = self._sweep(prefixes)
        self._copies.clear(partition)
        self._leases.part_all(partition)
        return deleted

    # ---- computing

    def get_or_set(
        self,
        key: str | bytes,
        factory: Callable[[], Any],
        *,
        ttl: Any = UNSET,
        tags: Sequence[str] = (),
        type: Any = Any,
        partition: str = "default",
        condition: Callable[[Any], bool] | None = None,
    ) -> Any:
        """The value of *key*; if there is none, what *factory* returns, which is then stored.

        However many threads and processes ask, one of them computes.
        """
        job = Job(
            partition=partition,
            key=check_key(key),
            factory=factory,
            ttl=ttl,
            tags=tag_names(tags),
            type=type,
            condition=condition,
        )
        return self._herd.value(self, job)

    # ---- life

    def health(self) -> CacheHealth:
        """Seal, store, read back, open and delete a probe."""
        key, expected = b"health" + os.urandom(8), os.urandom(16)
        started = perf_counter()
        failure = "ok"
        try:
            self._drive(self._entries.store(HEALTH, key, RAW, expected, ttl=60.0))
            entry = self._drive(self._entries.find(HEALTH, key))
            if entry is None or bytes(entry.payload) != expected:
                failure = "lost"
            self._drive(self._entries.delete(HEALTH, [key]))
        except Exception as exc:
            failure = type(exc).__name__
        return self._health(failure, started)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait for background refreshes, at most 2 s, and close the backend. Idempotent.

        A refresh that takes longer ends by itself; its value is not stored."""
        self._herd.close()
        self._backend.close()
