"""Cache: sealed entries in any backend, by ``await``."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from time import perf_counter
from types import TracebackType
from typing import Any, Self

import anyio

from anyseal import offload
from anyseal.cache.background import Background
from anyseal.cache.driving import Driver
from anyseal.cache.entry import ERROR, LARGE, RAW, VALUE, Entry, check_key
from anyseal.cache.herd import Herd
from anyseal.cache.jobs import Job
from anyseal.cache.large import LargeValues
from anyseal.cache.needs import UNSET
from anyseal.cache.options import items_of, tag_names
from anyseal.cache.pieces import object_name
from anyseal.cache.policy import TTL
from anyseal.cache.stats import CacheHealth
from anyseal.cache.watching import Watch
from anyseal.errors import (
    BackendError,
    ConfigurationError,
    FormatError,
)
from anyseal.ports import RangedBackend, WatchedBackend

__all__ = ["Cache"]

SET_TASKS = 64

HEALTH = "anyseal.health"
"""The partition of probes."""

INLINE_DECODE_BYTES = 1 << 20


class Cache(Driver):
    """A cache whose backend never sees a value, nor by default the name of a key.

    Namespace, partition, key, codec and expiry are bound into each entry: one that was moved to
    another key, that is another partition's, or that outlived its expiry does not open, whatever
    the backend says. What is not hidden: lengths, times, and which entries are asked for. An older
    version of an entry, put back in its place by whoever controls the backend, opens until its
    expiry.

    Args:
        backend: A Backend, such as MemoryBackend or RedisBackend; used, and closed by ``aclose``.
        keyring: A Key, a StaticKeyring or a KeyHierarchy. Each partition has a key of its own.
        namespace: Kept apart from others in the same backend; 1 to 64 of ``A-Z a-z 0-9 . _ -``.
            Stored as it is.
        codec: ``msgpack``, ``json``, ``raw``, ``arrow``, or an object with ``name``, ``encode``
            and ``decode``.
        ttl: Seconds that entries live unless told otherwise; None: until deleted or evicted.
        policy: Lifetimes, herds, failures.
        plain_keys: Store the names of partitions and keys as they are. Default: keyed hashes.
        name_key: The key that names are made under. Default: the keyring's.
        suite: What new entries are sealed with. Default: the machine's best.
        metrics: Called with each CacheEvent (its ``cache`` is the namespace).
        audit: Called with an AuditEvent for each use of a key.
        on_rotation: Called when an entry opens under a key that is no longer current.

    Raises:
        ConfigurationError: A setting is malformed, or the keyring has no key for names.
        TypeError: *backend* is none, or a blocking one; a setting is unknown, or of another type.
    """

    def _assemble(self) -> None:
        super()._assemble()
        backend = self._backend
        self._herd = Herd(self._leases)
        self._background = Background()
        self._watch: Watch | None = None
        if self._local is not None and isinstance(backend, WatchedBackend):
            self._watch = Watch(backend, f"{self.namespace}:", self._local, self._background)
        self._large = LargeValues(self)

    async def _found(self, partition: str, key: bytes) -> Entry | None:
        """The entry of *key*; None also when the backend is down and the policy is open."""
        try:
            names = self._keys.names_hit(partition)
            if names is None or len(names.keys) > 1:
                return await self._drive(self._entries.find(partition, key))
            if self._watch is not None:
                self._watch.begin()
            # The flow, with its one need met here: driving it costs as much as opening.
            stored = names.names(key)
            (version,) = self._copies.versions(stored)
            (sealed,) = await self._guarded(self._backend.get_many, stored)
            if sealed is None:
                return None
            entry = self._opener.opened(names, partition, key, stored[0], sealed)
            if entry is None:
                flow = self._opener.open(names, partition, key, stored[0], sealed)
                entry = await self._drive(flow)
            if entry is not None:
                self._copies.keep_found(partition, key, stored[0], entry, version)
            return entry
        except BackendError:
            if self.policy.on_backend_error == "closed":
                raise
            return None

    async def _payload(self, partition: str, key: bytes, entry: Entry) -> tuple[int, Any] | None:
        """Kind and payload of *entry*, wherever they are; None if it tells of nothing."""
        if entry.kind == LARGE:
            return await self._large.payload(partition, key, entry)
        if entry.kind == ERROR:  # not what a reader of values expects
            return None
        return entry.kind, entry.payload

    async def _decode(self, kind: int, payload: Any, type: Any) -> Any:
        """The value that a payload stands for, off the loop if it is long."""
        if kind == VALUE and len(payload) > INLINE_DECODE_BYTES:
            return await offload.run(self._payloads.decoded, kind, payload, type)
        return self._payloads.decoded(kind, payload, type)

    async def _value(
        self, partition: str, key: bytes, entry: Entry, type: Any, *, closed: bool = False
    ) -> Any:
        """The value of *entry*, or UNSET if it cannot be had; *closed* says that a backend which
        is down is an error whatever the policy says."""
        try:
            found = await self._payload(partition, key, entry)
            if found is None:
                return UNSET
            try:
                return await self._decode(*found, type)
            except FormatError as exc:
                flow = self._opener.refused(
                    partition, key, entry.stored, entry.sealed, exc, undecodable=True
                )
                await self._drive(flow)
        except BackendError:
            if closed or self.policy.on_backend_error == "closed":
                raise
        return UNSET

    # ---- reading

    async def get(
        self, key: str | bytes, default: Any = None, *, type: Any = Any, partition: str = "default"
    ) -> Any:
        """The value of *key*, or *default*.

        Args:
            key: A str, or bytes; 1 to 32,767 bytes. Never shown to the backend.
            default: For a miss: absent, ended, not to be opened, or the backend is down.
            type: What the value is decoded as, such as ``list[UUID]`` or a dataclass.
            partition: Whose key and whose entry.

        Raises:
            DecryptionError, FormatError, WrongKeyError: With ``on_tamper="raise"``.
            BackendError: With ``on_backend_error="closed"``.

        Cost: one look at the backend; none if the in-process layer has it, and then it suspends
        nowhere.
        """
        data = check_key(key)
        entry = self._local_entry(partition, data)
        local = entry is not None
        if entry is None:
            entry = await self._found(partition, data)
        if entry is None or self._stale(entry):
            self._observer.count("misses")
            return default
        value = await self._value(partition, data, entry, type)
        if value is UNSET:
            self._observer.count("misses")
            return default
        self._observer.count("local_hits" if local else "hits")
        return value

    async def get_many(
        self, keys: Iterable[str | bytes], *, type: Any = Any, partition: str = "default"
    ) -> dict[str | bytes, Any]:
        """The values of those of *keys* that are there, in one look at the backend."""
        wanted = {key: check_key(key) for key in several(keys)}
        entries, local = self._held_locally(partition, wanted.values())
        try:
            rest = [data for data in wanted.values() if data not in local]
            entries |= await self._drive(self._entries.find_many(partition, rest))
        except BackendError:
            if self.policy.on_backend_error == "closed":
                raise
        found: dict[str | bytes, Any] = {}
        for key, data in wanted.items():
            entry = entries.get(data)
            if entry is not None and not self._stale(entry):
                value = await self._value(partition, data, entry, type)
                if value is not UNSET:
                    found[key] = value
                    self._observer.count("local_hits" if data in local else "hits")
        self._observer.count("misses", len(wanted) - len(found))
        return found

    async def contains(self, key: str | bytes, *, partition: str = "default") -> bool:
        """Whether *key* has an entry that opens and has not ended."""
        data = check_key(key)
        entry = self._local_entry(partition, data) or await self._found(partition, data)
        if entry is None or self._stale(entry) or entry.kind == ERROR:
            return False
        if entry.kind != LARGE:
            return True
        try:
            return await self._large.exists(entry)
        except BackendError:
            if self.policy.on_backend_error == "closed":
                raise
            return False

    # ---- writing

    async def set(
        self,
        key: str | bytes,
        value: Any,
        *,
        ttl: TTL = UNSET,
        tags: Sequence[str] = (),
        if_absent: bool = False,
        partition: str = "default",
    ) -> bool:
        """Seal *value* and store it under *key*.

        Args:
            key: See ``get``.
            value: What the codec encodes, or None. Bytes above 1 MiB are stored in pieces.
            ttl: Seconds or a timedelta; None: until deleted. Default: the cache's.
            tags: At most 32; ``delete_tag`` ends all entries that carry one.
            if_absent: Only if there is none. For a value in pieces the look and the writing are
                two steps.
            partition: Whose key seals.

        Returns:
            Whether it was stored: False if *if_absent* found one, or the backend is down.

        Raises:
            TypeError: *value* cannot be encoded; the message names the path.
            ValueError: It is too large, or *ttl* out of bounds.
        """
        data, seconds = check_key(key), self._lives(ttl)
        kind, payload = self._payloads.prepared(value)
        return await self._set(
            partition, data, kind, payload, ttl=seconds, tags=tags, if_absent=if_absent
        )

    async def _set(
        self, partition: str, key: bytes, kind: int, payload: Any, *, ttl: float | None,
        tags: Sequence[str], **options: Any,
    ) -> bool:  # fmt: skip
        """Store a payload with *tags*, as the policy says."""
        try:
            names = await self._drive(self._keys.names(partition))
            carried = await self._drive(self._tags.generations(names, partition, tags, ttl=ttl))
            return await self._put(partition, key, kind, payload, ttl=ttl, tags=carried, **options)
        except BackendError:
            if self.policy.on_backend_error == "closed":
                raise
            return False

    async def _put(
        self, partition: str, key: bytes, kind: int, payload: Any, **options: Any
    ) -> bool:
        """Store a payload of any size."""
        if len(payload) > self.policy.large_bytes and isinstance(self._backend, RangedBackend):
            return await self._large.put(partition, key, kind, payload, **options)
        return await self._drive(
            self._entries.store(partition, key, kind, bytes(payload), **options)
        )

    async def set_many(
        self,
        items: Mapping[Any, Any],
        *,
        ttl: TTL = UNSET,
        tags: Sequence[str] = (),
        partition: str = "default",
    ) -> int:
        """``set`` each of *items*, several at once; how many were stored."""
        seconds, stored = self._lives(ttl), 0
        prepared = [
            (check_key(key), *self._payloads.prepared(value)) for key, value in items_of(items)
        ]
        queue = iter(prepared)  # nothing is stored unless all can be
        failed: list[Exception] = []

        async def work(group: Any) -> None:
            nonlocal stored
            try:
                for each in queue:
                    done = await self._set(partition, *each, ttl=seconds, tags=tags)
                    stored += done  # only now: others have counted meanwhile
            except Exception as exc:
                failed.append(exc)
                group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for _ in range(min(len(prepared), SET_TASKS)):
                group.start_soon(work, group)
        if failed:
            raise failed[0]
        return stored

    async def delete(self, *keys: str | bytes, partition: str = "default") -> int:
        """Delete entries; how many were there.

        Raises:
            BackendError: They may still be there. Whatever the policy says.
        """
        return await self._drive(self._entries.delete(partition, [check_key(key) for key in keys]))

    async def pop(
        self, key: str | bytes, default: Any = None, *, type: Any = Any, partition: str = "default"
    ) -> Any:
        """Take the value of *key* out, in one step: of several callers one gets it.

        Raises:
            BackendError: It may still be there.
        """
        data = check_key(key)
        await self._drive(self._entries.revoke(partition, data))
        while True:
            entry = await self._drive(self._entries.find(partition, data))
            if entry is None:
                return default
            value = await self._value(partition, data, entry, type, closed=True)
            call = self._backend.compare_and_set
            try:
                taken = await self._guarded(call, entry.stored, entry.sealed, None)
            finally:
                self._copies.forget(partition, data, entry.stored)
                self._leases.part(partition, [data])
            if taken:
                if entry.kind == LARGE:
                    await self._guarded(self._backend.delete_many, [object_name(entry.stored)])
                self._observer.count("deletes")
                return default if value is UNSET or self._stale(entry) else value

    async def touch(
        self, key: str | bytes, ttl: TTL = UNSET, *, partition: str = "default"
    ) -> bool:
        """Give *key* a new time to live; whether it was there."""
        try:
            return await self._drive(
                self._entries.touch(partition, check_key(key), self._lives(ttl))
            )
        except BackendError:
            if self.policy.on_backend_error == "closed":
                raise
            return False

    async def delete_tag(self, *tags: str, partition: str = "default") -> None:
        """End all entries of *partition* that carry one of *tags*; one small write each.

        Raises:
            BackendError: They may not have ended. Whatever the policy says.
        """
        for tag in tags:
            await self._drive(self._tags.delete(partition, tag))
        self._leases.revoke_tags(partition, tags)

    async def clear(self, *, partition: str | None = "default") -> int:
        """Delete a partition's entries; with None, those of the whole namespace.

        Returns:
            How many names were deleted; 0 where the backend cannot list them and the entries are
            only ended.
        """
        self._copies.clear(partition)
        self._leases.revoke_all(partition)
        if self._everywhere:
            await self.delete_tag(*self._everywhere, partition=only_one(partition))
            return 0
        prefixes = [f"{self.namespace}:"]
        if partition is not None:
            prefixes = (await self._drive(self._keys.names(partition))).prefixes
        deleted = await self._sweep(prefixes)
        self._copies.clear(partition)
        self._leases.part_all(partition)
        return deleted

    # ---- computing

    async def get_or_set(
        self,
        key: str | bytes,
        factory: Callable[[], Awaitable[Any]],
        *,
        ttl: Any = UNSET,
        tags: Sequence[str] = (),
        type: Any = Any,
        partition: str = "default",
        condition: Callable[[Any], bool] | None = None,
    ) -> Any:
        """The value of *key*; if there is none, what *factory* returns, which is then stored.

        However many tasks ask, one of them computes; with a lease (see CachePolicy) also however
        many processes. Callers get values of their own, but for the one who computed. If the entry
        is deleted or replaced while *factory* runs, its result is returned, but not stored.

        Args:
            key: See ``get``.
            factory: Called without arguments and awaited.
            ttl: As for ``set``; also a function of the value that returns one.
            tags: As for ``set``. One that is deleted while *factory* runs ends its result too.
            type: As for ``get``.
            partition: See ``get``.
            condition: Given the value, whether to store it. Default: always.
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
        return await self._herd.value(self, job)

    # ---- life

    async def health(self) -> CacheHealth:
        """Seal, store, read back, open and delete a probe."""
        key, expected = b"health" + os.urandom(8), os.urandom(16)
        started = perf_counter()
        failure = "ok"
        try:
            flow = self._entries.store(HEALTH, key, RAW, expected, ttl=60.0)
            await self._drive(flow)
            entry = await self._drive(self._entries.find(HEALTH, key))
            if entry is None or bytes(entry.payload) != expected:
                failure = "lost"
            await self._drive(self._entries.delete(HEALTH, [key]))
        except Exception as exc:
            failure = type(exc).__name__
        return self._health(failure, started)

    async def __aenter__(self) -> Self:
        if self._watch is not None:
            self._watch.begin()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End background refreshes of this event loop, and close the backend. Idempotent."""
        with anyio.CancelScope(shield=True):
            await self._background.aclose()
            await self._backend.aclose()


def several(keys: Iterable[str | bytes]) -> Iterable[str | bytes]:
    """*keys*, which must not be a single one. Raises TypeError."""
    if isinstance(keys, str | bytes):
        raise TypeError("keys must be an iterable of keys, not a single one")
    return keys


def only_one(partition: str | None) -> str:
    if partition is None:
        raise ConfigurationError("this backend cannot list names: clear one partition at a time")
    return partition
