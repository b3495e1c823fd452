"""The decorator: ask the store, else call the function and store what it returned."""

from __future__ import annotations

import enum
import functools
import inspect
import logging
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from anyseal import offload
from anyseal.compat.cachekit.entries import Entries
from anyseal.compat.cachekit.errors import (
    DecryptionAuthenticationError,
    SerializationError,
    TenantMismatchError,
    TenantResolutionError,
)
from anyseal.compat.cachekit.filling import Filled, Fills
from anyseal.compat.cachekit.frame import Metadata
from anyseal.compat.cachekit.stores import Store
from anyseal.errors import one_line

__all__ = ["CacheInfo", "CachedFunction", "InvalidationOutcome", "decorate"]

logger = logging.getLogger(__name__)

INLINE_BYTES = 1 << 16
"""Larger entries of async functions are sealed and opened in a worker thread."""

_MISS: Any = object()
_session_id = str(uuid.uuid4())


class InvalidationOutcome(enum.Enum):
    """What became of an entry that was to be removed."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    NO_L2 = "no_l2"


class CacheInfo(NamedTuple):
    """What happened so far, in this process."""

    hits: int
    misses: int
    l1_hits: int
    l2_hits: int
    maxsize: None
    currsize: None
    l2_avg_latency_ms: float
    last_operation_at: float | None
    session_id: str


class _Counts:
    """Hits and misses of one function."""

    def __init__(self, name: str, *, local: bool) -> None:
        self._name, self._local = name, local
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        self._hits = self._misses = 0
        self._asked = 0
        self._seconds = 0.0
        self._last: float | None = None

    def count(self, *, hit: bool, seconds: float) -> None:
        with self._lock:
            self._hits += hit
            self._misses += not hit
            self._asked += 1
            self._seconds += seconds
            self._last = time.time()

    def info(self) -> CacheInfo:
        with self._lock:
            latency = 0.0 if self._local else 1000 * self._seconds / max(1, self._asked)
            return CacheInfo(
                hits=self._hits,
                misses=self._misses,
                l1_hits=self._hits if self._local else 0,
                l2_hits=0 if self._local else self._hits,
                maxsize=None,
                currsize=None,
                l2_avg_latency_ms=latency,
                last_operation_at=self._last,
                session_id=f"{_session_id}:{self._name}",
            )


class CachedFunction:
    """What the wrappers of sync and async functions share."""

    def __init__(
        self,
        function: Callable[..., Any],
        entries: Entries,
        store: Store,
        *,
        ttl_ms: int | None,
        max_bytes: int,
        registry: str,
    ) -> None:
        self.function, self.entries, self.store = function, entries, store
        self.ttl_ms, self.registry = ttl_ms, registry
        self._max_bytes = max_bytes
        self._name = f"{function.__module__}.{function.__qualname__}"
        self.counts = _Counts(self._name, local=store.local)
        self._fills = Fills(store, self.failed)
        self._told_no_key = False

    def _warn(self, what: str, exc: BaseException) -> None:
        """Neither keys nor the text of a foreign exception: both may hold what is cached."""
        logger.warning("%s: %s (%s)", one_line(self._name), one_line(what), type(exc).__name__)

    def place(self, args: Any, kwargs: Any) -> tuple[str, str] | None:
        """Key and tenant of a call; None if it cannot be cached."""
        try:
            return self.entries.key_of(args, kwargs), self.entries.tenant_of(args, kwargs)
        except TenantResolutionError as exc:
            self._warn("called without the cache: no tenant", exc)
        except (TypeError, ValueError) as exc:
            self._tell_no_key(exc)
        return None

    def _tell_no_key(self, exc: BaseException) -> None:
        """Once: it will be so at each call, or at many."""
        if self._told_no_key:
            return
        self._told_no_key = True
        if self.entries.keyed:
            hint = "what key= returned is no key"
        elif self.entries.method_of:
            first = self.entries.method_of
            hint = f"{first} has no place in a key: key=lambda {first}, ...: says what has"
        else:
            hint = "an argument has no place in a key: key= makes one of the arguments"
        logger.warning(
            "%s: called without the cache, now and whenever this is so: %s (%s)",
            one_line(self._name), one_line(hint), type(exc).__name__,
        )  # fmt: skip

    def opened(self, stored: bytes | None, key: str, tenant: str) -> tuple[Any, bool]:
        """The value or a miss, and whether the entry must go."""
        if stored is None:
            return _MISS, False
        encryption = self.entries.encryption
        closed = encryption is not None and encryption.fail_closed
        try:
            return self.entries.open(stored, key, tenant), False
        except DecryptionAuthenticationError as exc:
            if closed:
                raise
            self._warn("an entry does not open", exc)
            return _MISS, not isinstance(exc, TenantMismatchError)
        except SerializationError as exc:
            self._warn("an entry cannot be read", exc)
            return _MISS, True

    def encoded(self, value: Any) -> tuple[bytes, Metadata] | None:
        """The serialised value, or None if it cannot be stored."""
        try:
            found = self.entries.encode(value)
        except Exception as exc:  # a serializer of the caller's may raise anything
            self._warn("a result cannot be stored", exc)
            return None
        if len(found[0]) > self._max_bytes:
            logger.warning("%s: a result is too large to be stored", one_line(self._name))
            return None
        return found

    def failed(self, exc: Exception) -> None:
        """The store did not answer: the function goes on without it."""
        self._warn("the backend failed", exc)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """The cached function, for ``def``."""
        bypass = kwargs.pop("_bypass_cache", False)
        place = None if bypass else self.place(args, kwargs)
        if place is None:
            return self.function(*args, **kwargs)
        key, tenant = place
        began = time.perf_counter()
        stored, answered = self._fetch(key)
        found = self._usable(stored, key, tenant)
        self.counts.count(hit=found is not _MISS, seconds=time.perf_counter() - began)
        if found is not _MISS:
            return found

        def fill(again: bool) -> Filled:
            if again:
                stored, _ = self._fetch(key)
                found = self._usable(stored, key, tenant)
                if found is not _MISS:
                    return Filled(found, stored)
            return self._computed(key, tenant, args, kwargs)

        filled, led = self._fills.run(key, tenant, lock=answered, fill=fill)
        return filled.value if led else self._own(filled, key, tenant)

    def _computed(self, key: str, tenant: str, args: Any, kwargs: Any) -> Filled:
        """The function's result, stored if it can be."""
        value = self.function(*args, **kwargs)
        encoded = self.encoded(value)
        if encoded is None:
            return Filled(value, None)
        sealed = self.entries.seal(*encoded, key, tenant)
        try:
            self.store.set(key, sealed, self.ttl_ms, self.registry)
        except Exception as exc:
            self.failed(exc)
        return Filled(value, sealed)

    def _own(self, filled: Filled, key: str, tenant: str) -> Any:
        """The value for one who waited: decoded anew, so that nobody changes another's."""
        value, _ = self.opened(filled.stored, key, tenant)
        return filled.value if value is _MISS else value

    def _fetch(self, key: str) -> tuple[bytes | None, bool]:
        """The entry, if there is one; and whether the store answered."""
        try:
            return self.store.get(key), True
        except Exception as exc:
            self.failed(exc)
            return None, False

    def _usable(self, stored: bytes | None, key: str, tenant: str) -> Any:
        """The value of an entry, or a miss; what is damaged is removed."""
        value, evict = self.opened(stored, key, tenant)
        if evict:
            self.remove(key)
        return value

    def remove(self, key: str) -> bool:
        """Remove an entry; whether the store did it."""
        try:
            self.store.delete(key)
        except Exception as exc:
            self.failed(exc)
            return False
        return True

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """The cached function, for ``async def``."""
        bypass = kwargs.pop("_bypass_cache", False)
        place = None if bypass else self.place(args, kwargs)
        if place is None:
            return await self.function(*args, **kwargs)
        key, tenant = place
        began = time.perf_counter()
        stored, answered = await self._afetch(key)
        found = await self._ausable(stored, key, tenant)
        self.counts.count(hit=found is not _MISS, seconds=time.perf_counter() - began)
        if found is not _MISS:
            return found

        async def fill(again: bool) -> Filled:
            if again:
                stored, _ = await self._afetch(key)
                found = await self._ausable(stored, key, tenant)
                if found is not _MISS:
                    return Filled(found, stored)
            return await self._acomputed(key, tenant, args, kwargs)

        filled, led = await self._fills.arun(key, tenant, lock=answered, fill=fill)
        return filled.value if led else await self._aown(filled, key, tenant)

    async def _acomputed(self, key: str, tenant: str, args: Any, kwargs: Any) -> Filled:
        """:meth:`_computed` for ``async def``."""
        value = await self.function(*args, **kwargs)
        encoded = self.encoded(value)
        if encoded is None:
            return Filled(value, None)
        sealed = await self._aseal(*encoded, key, tenant)
        try:
            await self.store.aset(key, sealed, self.ttl_ms, self.registry)
        except Exception as exc:
            self.failed(exc)
        return Filled(value, sealed)

    async def _aown(self, filled: Filled, key: str, tenant: str) -> Any:
        """:meth:`_own` for ``async def``."""
        value, _ = await self._aopened(filled.stored, key, tenant)
        return filled.value if value is _MISS else value

    async def _aseal(self, payload: bytes, metadata: Metadata, key: str, tenant: str) -> bytes:
        if len(payload) > INLINE_BYTES:
            return await offload.run(self.entries.seal, payload, metadata, key, tenant)
        return self.entries.seal(payload, metadata, key, tenant)

    async def _aopened(self, stored: bytes | None, key: str, tenant: str) -> tuple[Any, bool]:
        if stored is not None and len(stored) > INLINE_BYTES:
            return await offload.run(self.opened, stored, key, tenant)
        return self.opened(stored, key, tenant)

    async def _afetch(self, key: str) -> tuple[bytes | None, bool]:
        """:meth:`_fetch` for ``async def``."""
        try:
            return await self.store.aget(key), True
        except Exception as exc:
            self.failed(exc)
            return None, False

    async def _ausable(self, stored: bytes | None, key: str, tenant: str) -> Any:
        """:meth:`_usable` for ``async def``."""
        value, evict = await self._aopened(stored, key, tenant)
        if evict:
            await self.aremove(key)
        return value

    async def aremove(self, key: str) -> bool:
        """Remove an entry; whether the store did it."""
        try:
            await self.store.adelete(key)
        except Exception as exc:
            self.failed(exc)
            return False
        return True

    def forget(self) -> None:
        """Nobody joins a call that began before now."""
        self._fills.forget()

    def _outcome(self, removed: bool) -> InvalidationOutcome:
        if not removed:
            return InvalidationOutcome.FAILED
        return InvalidationOutcome.NO_L2 if self.store.local else InvalidationOutcome.SUCCEEDED

    def _wants_all(self, args: Any, kwargs: Any) -> bool:
        return not args and not kwargs and self.entries.has_parameters

    def _key(self, args: Any, kwargs: Any) -> str | None:
        try:
            return self.entries.key_of(args, kwargs)
        except (TypeError, ValueError) as exc:
            self._warn("nothing to invalidate: these arguments have no key", exc)
            return None

    def invalidate(self, *args: Any, **kwargs: Any) -> InvalidationOutcome | None:
        """Remove the entry of these arguments; without any, all entries. Never raises."""
        self.forget()
        if self._wants_all(args, kwargs):
            try:
                self.store.clear(self.entries.common, self.registry)
            except Exception as exc:
                self.failed(exc)
            return None
        key = self._key(args, kwargs)
        return self._outcome(key is not None and self.remove(key))

    async def ainvalidate(self, *args: Any, **kwargs: Any) -> InvalidationOutcome | None:
        """The same for ``async def``."""
        self.forget()
        if self._wants_all(args, kwargs):
            try:
                await self.store.aclear(self.entries.common, self.registry)
            except Exception as exc:
                self.failed(exc)
            return None
        key = self._key(args, kwargs)
        return self._outcome(key is not None and await self.aremove(key))


def decorate(cached: CachedFunction) -> Any:
    """The function to put in the place of the original."""
    function = cached.function
    is_async = inspect.iscoroutinefunction(function)

    def cache_clear() -> None:
        """Remove all entries and forget the counts."""
        if is_async and not cached.store.local:
            raise TypeError("use: await function.invalidate_cache()")
        cached.forget()
        cached.store.clear(cached.entries.common, cached.registry)
        cached.counts.clear()

    wrapper: Any
    if is_async:

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await cached.acall(*args, **kwargs)

        wrapper.invalidate_cache = wrapper.ainvalidate_cache = cached.ainvalidate
    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return cached.call(*args, **kwargs)

        wrapper.invalidate_cache = cached.invalidate
    wrapper.cache_clear = cache_clear
    wrapper.cache_info = cached.counts.info
    return wrapper
