"""Cache: sealed entries in any backend."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from time import perf_counter
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from anyseal.cache.base import CacheBase
from anyseal.cache.calls import Calls
from anyseal.cache.computation import Computation
from anyseal.cache.entry import LARGE, RAW, check_key
from anyseal.cache.herd import Herd
from anyseal.cache.kit import WAITS, breathe, each, shielded
from anyseal.cache.opening import RotationHook
from anyseal.cache.options import items_of, one_partition, several, tag_names
from anyseal.cache.pieces import object_name
from anyseal.cache.policy import TTL, UNSET, CachePolicy
from anyseal.cache.shelf import Shelf
from anyseal.cache.stats import CacheHealth
from anyseal.cache.values import Values
from anyseal.errors import BackendError
from anyseal.hints import check_callable, use_async_with
from anyseal.keys import Key
from anyseal.ports import AuditHook, Backend, Keyring, MetricsHook
from anyseal.suites import Suite

__all__ = ["Cache"]

D = TypeVar("D")
T = TypeVar("T")

HEALTH = "anyseal.health"
"""The partition of probes."""


class Cache(CacheBase):
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

    _waits = WAITS
    _shelf: Shelf

    def __init__(
        self,
        backend: Backend,
        keyring: Key | Keyring,
        *,
        namespace: str = "anyseal",
        codec: Any = "msgpack",
        ttl: TTL = 300.0,
        policy: CachePolicy | None = None,
        plain_keys: bool = False,
        name_key: Key | None = None,
        suite: Suite | str | None = None,
        metrics: MetricsHook | None = None,
        audit: AuditHook | None = None,
        on_rotation: RotationHook | None = None,
    ) -> None:
        self._shelf = Shelf(
            backend, keyring, namespace=namespace, codec=codec, ttl=ttl, policy=policy,
            plain_keys=plain_keys, name_key=name_key, suite=suite, metrics=metrics, audit=audit,
            on_rotation=on_rotation,
        )  # fmt: skip
        self._values = Values(self._shelf)
        self._herd = Herd(self._shelf, self._values)
        self._calls = Calls(self._shelf, self._values, self._herd)

    # ---- reading

    @overload
    async def get(
        self, key: str | bytes, *, type: type[T], partition: str = "default"
    ) -> T | None: ...
    @overload
    async def get(
        self, key: str | bytes, default: D, *, type: type[T], partition: str = "default"
    ) -> T | D: ...
    @overload
    async def get(
        self, key: str | bytes, default: Any = None, *, type: Any = Any, partition: str = "default"
    ) -> Any: ...
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
        entry = self._shelf.local_entry(partition, data)
        local = entry is not None
        if entry is None:
            entry = await self._shelf.found(partition, data)
        if entry is None or self._shelf.stale(entry):
            self._shelf.observer.count("misses")
            return default
        value = await self._values.value(partition, data, entry, type)
        if value is UNSET:
            self._shelf.observer.count("misses")
            return default
        self._shelf.observer.count("local_hits" if local else "hits")
        return value

    @overload
    async def get_many(
        self, keys: Iterable[str | bytes], *, type: type[T], partition: str = "default"
    ) -> dict[str | bytes, T]: ...
    @overload
    async def get_many(
        self, keys: Iterable[str | bytes], *, type: Any = Any, partition: str = "default"
    ) -> dict[str | bytes, Any]: ...
    async def get_many(
        self, keys: Iterable[str | bytes], *, type: Any = Any, partition: str = "default"
    ) -> dict[str | bytes, Any]:
        """The values of those of *keys* that are there, in one look at the backend."""
        wanted = {key: check_key(key) for key in several(keys)}
        entries, local = self._shelf.held_locally(partition, wanted.values())
        try:
            rest = [data for data in wanted.values() if data not in local]
            entries |= await self._shelf.entries.find_many(partition, rest)
        except BackendError:
            if self._shelf.policy.on_backend_error == "closed":
                raise
        found: dict[str | bytes, Any] = {}
        for key, data in wanted.items():
            entry = entries.get(data)
            if entry is not None and not self._shelf.stale(entry):
                value = await self._values.value(partition, data, entry, type)
                await breathe(len(entry.payload))
                if value is not UNSET:
                    found[key] = value
                    self._shelf.observer.count("local_hits" if data in local else "hits")
        self._shelf.observer.count("misses", len(wanted) - len(found))
        return found

    async def contains(self, key: str | bytes, *, partition: str = "default") -> bool:
        """Whether *key* has an entry that opens and has not ended."""
        data = check_key(key)
        entry = self._shelf.local_entry(partition, data) or await self._shelf.found(partition, data)
        if entry is None or self._shelf.stale(entry):
            return False
        try:
            return await self._values.exists(entry)
        except BackendError:
            if self._shelf.policy.on_backend_error == "closed":
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
            RuntimeError: *value* was changed while it was encoded; nothing is stored.
            ValueError: It is too large, or *ttl* out of bounds.

        Cost: a large *value* is encoded in steps of 1 to 2 ms, between which others run, and gone
        through twice to see that it was not changed.
        """
        data, seconds = check_key(key), self._shelf.lives(ttl)
        kind, payload = await self._values.prepared(value)
        return await self._set(
            partition, data, kind, payload, ttl=seconds, tags=tags, if_absent=if_absent
        )

    async def _set(
        self, partition: str, key: bytes, kind: int, payload: Any, *, ttl: float | None,
        tags: Sequence[str], **options: Any,
    ) -> bool:  # fmt: skip
        """Store a payload with *tags*, as the policy says."""
        try:
            names = await self._shelf.keys.names(partition)
            carried = await self._shelf.tags.generations(names, partition, tags, ttl=ttl)
            return await self._values.put(
                partition, key, kind, payload, ttl=ttl, tags=carried, **options
            )
        except BackendError:
            if self._shelf.policy.on_backend_error == "closed":
                raise
            return False

    async def set_many(
        self,
        items: Mapping[Any, Any],
        *,
        ttl: TTL = UNSET,
        tags: Sequence[str] = (),
        partition: str = "default",
    ) -> int:
        """``set`` each of *items*, several at once; how many were stored."""
        seconds, stored = self._shelf.lives(ttl), 0
        prepared = [
            (check_key(key), *await self._values.prepared(value)) for key, value in items_of(items)
        ]

        async def put(key: bytes, kind: int, payload: Any) -> None:
            nonlocal stored
            done = await self._set(partition, key, kind, payload, ttl=seconds, tags=tags)
            stored += done  # only now: other calls have counted since

        await each(put, prepared)  # nothing is stored unless all can be
        return stored

    async def delete(self, *keys: str | bytes, partition: str = "default") -> int:
        """Delete entries; how many were there.

        Raises:
            BackendError: They may still be there. Whatever the policy says.
        """
        return await self._shelf.entries.delete(partition, [check_key(key) for key in keys])

    async def pop(
        self, key: str | bytes, default: Any = None, *, type: Any = Any, partition: str = "default"
    ) -> Any:
        """Take the value of *key* out, in one step: of several callers one gets it.

        Raises:
            BackendError: It may still be there.
        """
        data = check_key(key)
        await self._shelf.entries.revoke(partition, data)
        while True:
            entry = await self._shelf.entries.find(partition, data)
            if entry is None:
                return default
            value = await self._values.value(partition, data, entry, type, closed=True)
            call = self._shelf.backend.compare_and_set
            try:
                taken = await self._shelf.guard.delete(call, entry.stored, entry.sealed, None)
            finally:
                self._shelf.copies.forget(partition, data, entry.stored)
                self._shelf.leases.part(partition, [data])
            if taken:
                if entry.kind == LARGE:
                    await self._shelf.guard.delete(
                        self._shelf.backend.delete_many, [object_name(entry.stored)]
                    )
                self._shelf.observer.count("deletes")
                return default if value is UNSET or self._shelf.stale(entry) else value

    async def touch(
        self, key: str | bytes, ttl: TTL = UNSET, *, partition: str = "default"
    ) -> bool:
        """Give *key* a new time to live; whether it was there."""
        try:
            lives = self._shelf.lives(ttl)
            return await self._shelf.entries.touch(partition, check_key(key), lives)
        except BackendError:
            if self._shelf.policy.on_backend_error == "closed":
                raise
            return False

    async def delete_tag(self, *tags: str, partition: str = "default") -> None:
        """End all entries of *partition* that carry one of *tags*; one small write each.

        Raises:
            BackendError: They may not have ended. Whatever the policy says.
        """
        for tag in tags:
            await self._shelf.tags.delete(partition, tag)
        self._shelf.leases.revoke_tags(partition, tags)

    async def clear(self, *, partition: str | None = "default") -> int:
        """Delete a partition's entries; with None, those of the whole namespace.

        Returns:
            How many names were deleted; 0 where the backend cannot list them and the entries are
            only ended.
        """
        self._shelf.copies.clear(partition)
        self._shelf.leases.revoke_all(partition)
        if self._shelf.everywhere:
            await self.delete_tag(*self._shelf.everywhere, partition=one_partition(partition))
            return 0
        prefixes = [f"{self.namespace}:"]
        if partition is not None:
            prefixes = (await self._shelf.keys.names(partition)).prefixes
        deleted = await self._shelf.guard.sweep(prefixes)
        self._shelf.copies.clear(partition)
        self._shelf.leases.part_all(partition)
        return deleted

    # ---- computing

    async def get_or_set(
        self,
        key: str | bytes,
        factory: Callable[[], Awaitable[T]],
        *,
        ttl: Any = UNSET,
        tags: Sequence[str] = (),
        type: Any = Any,
        partition: str = "default",
        condition: Callable[[Any], bool] | None = None,
        shared: bool = True,
    ) -> T:
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
            shared: *factory* runs in a task of its own, in a copy of the context of the caller that
                began it, and continues for the policy's ``abandoned_timeout`` if its callers are
                cancelled. False for one that uses what belongs to a request, such as its database
                session: then it runs in the caller's task.
        """
        check_callable("factory", factory, "it is called if the value is missing, so without ()")
        work = Computation(
            partition=partition,
            key=check_key(key),
            factory=factory,
            ttl=ttl,
            tags=tag_names(tags),
            type=type,
            condition=condition,
            shared=shared,
        )
        found: T = await self._herd.value(work)
        return found

    # ---- life

    async def health(self) -> CacheHealth:
        """Seal, store, read back, open and delete a probe."""
        key, expected = b"health" + os.urandom(8), os.urandom(16)
        started = perf_counter()
        failure = "ok"
        try:
            await self._shelf.entries.store(HEALTH, key, RAW, expected, ttl=60.0)
            entry = await self._shelf.entries.find(HEALTH, key)
            if entry is None or bytes(entry.payload) != expected:
                failure = "lost"
            await self._shelf.entries.delete(HEALTH, [key])
        except Exception as exc:
            failure = type(exc).__name__
        return self._probed(failure, started)

    __enter__ = use_async_with

    async def __aenter__(self) -> Self:
        if self._shelf.watch is not None:
            self._shelf.watch.begin()
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
        with shielded():
            await self._shelf.background.aclose()
            await self._herd.aclose()
            await self._shelf.guard.aclose()
