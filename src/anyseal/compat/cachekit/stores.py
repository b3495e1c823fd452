"""Where entries are kept: this process, Redis under cachekit's names, or any backend."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import threading
import time
import weakref
from collections import OrderedDict
from typing import Any
from urllib.parse import quote, urlsplit

from anyseal import errors, offload
from anyseal.compat.cachekit.errors import ConfigurationError, MissingExtraError
from anyseal.compat.cachekit.redis_store import RedisStore
from anyseal.compat.cachekit.store import Store, new_scope

__all__ = [
    "BackendStore",
    "MemoryStore",
    "ObjectStore",
    "RedisStore",
    "Store",
    "UrlStore",
    "environment_store",
    "store_for",
]

MEMORY_BYTES = 100 << 20
MEMORY_VARIABLE = "CACHEKIT_L1_MAX_SIZE_MB"
DEFAULT_REDIS = "redis://localhost:6379"
NAME_MAX, NAME_KEPT = 200, 128
"""Characters of a name that backends take; of one that is cut, those that are kept."""
PLAIN = "!\"#$&'()*+,/:;<=>?@[\\]^`|"
"""Not escaped, besides letters, digits and ``_.-~``: what is printable but ``%{}``."""
ENTRY_OVERHEAD = 200
"""Bytes that an entry in memory costs besides its key and value, about."""


class MemoryStore(Store):
    """Entries in this process, as sealed as elsewhere; the least recently used go first.

    Args:
        max_bytes: Of keys and values, with what they cost besides.
    """

    local = True

    def __init__(self, max_bytes: int = MEMORY_BYTES) -> None:
        super().__init__()
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[str, tuple[bytes, float | None]] = OrderedDict()
        self._lock = threading.Lock()

    def _remove(self, key: str) -> None:
        value, _ = self._entries.pop(key)
        self._bytes -= len(key) + len(value) + ENTRY_OVERHEAD

    def get(self, key: str) -> bytes | None:
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                return None
            value, until = found
            if until is not None and time.monotonic() >= until:
                self._remove(key)
                return None
            self._entries.move_to_end(key)
            return value

    def set(self, key: str, value: bytes, ttl_ms: int | None, registry: str = "") -> None:
        cost = len(key) + len(value) + ENTRY_OVERHEAD
        until = None if ttl_ms is None else time.monotonic() + ttl_ms / 1000
        with self._lock:
            if key in self._entries:
                self._remove(key)
            if cost > self._max_bytes:
                return
            self._entries[key] = value, until
            self._bytes += cost
            while self._bytes > self._max_bytes:
                self._remove(next(iter(self._entries)))

    def delete(self, key: str) -> None:
        with self._lock:
            if key in self._entries:
                self._remove(key)

    def clear(self, place: str = "", registry: str = "") -> None:
        with self._lock:
            for key in [key for key in self._entries if key.startswith(place)]:
                self._remove(key)

    async def aget(self, key: str) -> bytes | None:
        return self.get(key)

    async def aset(self, key: str, value: bytes, ttl_ms: int | None, registry: str) -> None:
        self.set(key, value, ttl_ms)

    async def adelete(self, key: str) -> None:
        self.delete(key)

    async def aclear(self, place: str, registry: str) -> None:
        self.clear(place)


_scopes: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def scope_of(backend: Any) -> str:
    """The same for all stores over one object."""
    try:
        return _scopes.setdefault(backend, new_scope())
    except TypeError:  # neither hashable nor to be referred to weakly
        return new_scope()


class ObjectStore(Store):
    """An object with blocking ``get(key)``, ``set(key, value, ttl)`` and ``delete(key)``: what
    cachekit calls a backend. It cannot be cleared; its ``ttl`` is in whole seconds."""

    def __init__(self, backend: Any) -> None:
        self.scope = scope_of(backend)
        self._backend = backend
        self.prefix = getattr(backend, "key_prefix", "") or ""

    def get(self, key: str) -> bytes | None:
        found: bytes | None = self._backend.get(key)
        return found

    def set(self, key: str, value: bytes, ttl_ms: int | None, registry: str) -> None:
        self._backend.set(key, value, None if ttl_ms is None else max(1, ttl_ms // 1000))

    def delete(self, key: str) -> None:
        self._backend.delete(key)

    def clear(self, place: str, registry: str) -> None:
        raise NotImplementedError("this backend cannot list its entries")


def backend_name(key: str) -> str:
    """*key* as backends take it: what they may not take is escaped, and what is too long is cut
    and hashed. Keys that begin alike have names that begin alike."""
    name = quote(key, safe=PLAIN)
    if len(name) <= NAME_MAX:
        return name
    return f"{name[:NAME_KEPT]}:{hashlib.blake2b(key.encode(), digest_size=32).hexdigest()}"


def backend_prefix(place: str) -> str:
    """What the names of all keys that begin with *place* begin with."""
    return quote(place, safe=PLAIN)[:NAME_KEPT]


class BackendStore(Store):
    """A :class:`anyseal.ports.Backend` or :class:`anyseal.ports.BlockingBackend`."""

    def __init__(self, backend: Any) -> None:
        self.scope = scope_of(backend)
        self._backend = backend
        self._is_async = hasattr(backend, "aclose")

    def get(self, key: str) -> bytes | None:
        if self._is_async:
            return offload.wait(self.aget, key)
        found: list[bytes | None] = self._backend.get_many([backend_name(key)])
        return found[0]

    def set(self, key: str, value: bytes, ttl_ms: int | None, registry: str) -> None:
        if self._is_async:
            return offload.wait(self.aset, key, value, ttl_ms, registry)
        self._backend.set(backend_name(key), value, ttl_ms=ttl_ms)
        return None

    def delete(self, key: str) -> None:
        if self._is_async:
            return offload.wait(self.adelete, key)
        self._backend.delete_many([backend_name(key)])
        return None

    def clear(self, place: str, registry: str) -> None:
        if self._is_async:
            return offload.wait(self.aclear, place, registry)
        for names in self._backend.scan(backend_prefix(place)):
            self._backend.delete_many(names)
        return None

    async def aget(self, key: str) -> bytes | None:
        if not self._is_async:
            return await super().aget(key)
        found: list[bytes | None] = await self._backend.get_many([backend_name(key)])
        return found[0]

    async def aset(self, key: str, value: bytes, ttl_ms: int | None, registry: str) -> None:
        if not self._is_async:
            return await super().aset(key, value, ttl_ms, registry)
        await self._backend.set(backend_name(key), value, ttl_ms=ttl_ms)
        return None

    async def adelete(self, key: str) -> None:
        if not self._is_async:
            return await super().adelete(key)
        await self._backend.delete_many([backend_name(key)])
        return None

    async def aclear(self, place: str, registry: str) -> None:
        if not self._is_async:
            return await super().aclear(place, registry)
        async with contextlib.aclosing(self._backend.scan(backend_prefix(place))) as found:
            async for names in found:
                await self._backend.delete_many(names)
        return None


class UrlStore(Store):
    """A backend of :mod:`anyseal.cache.backends` by its URL, made when it is first used: the
    blocking one for ``def``, the other for ``async def``."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._made: dict[str, BackendStore] = {}
        self._lock = threading.Lock()

    def _store(self, factory: str) -> BackendStore:
        with self._lock:
            found = self._made.get(factory)
            if found is None:
                try:
                    backends = importlib.import_module("anyseal.cache.backends")
                    backend = getattr(backends, factory)(self._url)
                except errors.MissingExtraError as exc:
                    raise MissingExtraError(str(exc)) from None
                except errors.ConfigurationError as exc:
                    raise ConfigurationError(str(exc)) from None
                found = self._made[factory] = BackendStore(backend)
            return found

    def check(self, *, is_async: bool) -> None:
        _ = self._async if is_async else self._blocking

    @property
    def _blocking(self) -> BackendStore:
        return self._store("blocking_backend_from_url")

    @property
    def _async(self) -> BackendStore:
        return self._store("backend_from_url")

    def get(self, key: str) -> bytes | None:
        return self._blocking.get(key)

    def set(self, key: str, value: bytes, ttl_ms: int | None, registry: str) -> None:
        self._blocking.set(key, value, ttl_ms, registry)

    def delete(self, key: str) -> None:
        self._blocking.delete(key)

    def clear(self, place: str, registry: str) -> None:
        self._blocking.clear(place, registry)

    async def aget(self, key: str) -> bytes | None:
        return await self._async.aget(key)

    async def aset(self, key: str, value: bytes, ttl_ms: int | None, registry: str) -> None:
        await self._async.aset(key, value, ttl_ms, registry)

    async def adelete(self, key: str) -> None:
        await self._async.adelete(key)

    async def aclear(self, place: str, registry: str) -> None:
        await self._async.aclear(place, registry)


_redis_stores: dict[tuple[str, bool], RedisStore] = {}


def _redis(url: str, *, scoped: bool) -> Store:
    """One store, and so one pool of connections, for each URL. Nothing is connected yet."""
    found = _redis_stores.get((url, scoped))
    if found is None:
        found = _redis_stores.setdefault((url, scoped), RedisStore(url, scoped=scoped))
    return found


def _memory() -> MemoryStore:
    try:
        megabytes = int(os.environ.get(MEMORY_VARIABLE) or MEMORY_BYTES >> 20)
    except ValueError:
        raise ConfigurationError(f"{MEMORY_VARIABLE} must be a number") from None
    return MemoryStore(megabytes << 20)


def environment_store(*, encrypted: bool) -> Store:
    """The store that the environment names. Raises ConfigurationError if that is contradictory."""
    chosen = [
        name
        for name in (
            "CACHEKIT_API_KEY", "CACHEKIT_REDIS_URL", "CACHEKIT_MEMCACHED_SERVERS",
            "CACHEKIT_FILE_CACHE_DIR",
        )
        if os.environ.get(name)
    ]  # fmt: skip
    if len(chosen) > 1:
        raise ConfigurationError(f"only one of {' and '.join(chosen)} may be set")
    if chosen and chosen[0] != "CACHEKIT_REDIS_URL":
        raise ConfigurationError(f"{chosen[0]} is not supported here: pass backend=")
    url = os.environ.get("CACHEKIT_REDIS_URL") or os.environ.get("REDIS_URL")
    if url or encrypted:
        return _redis(url or DEFAULT_REDIS, scoped=True)
    return _memory()


def store_for(backend: Any, *, unset: Any, encrypted: bool) -> Store:
    """The store that *backend* means.

    Args:
        backend: None for this process; a URL; a Store; a backend of anyseal or of cachekit; *unset*
            for what the environment says.

    Raises:
        ConfigurationError: None of these, or the environment is contradictory.
    """
    if backend is unset:
        return environment_store(encrypted=encrypted)
    if backend is None:
        return _memory()
    if isinstance(backend, Store):
        return backend
    if isinstance(backend, str):
        if urlsplit(backend).scheme in ("redis", "rediss", "unix"):
            return _redis(backend, scoped=False)
        if not urlsplit(backend).scheme:
            raise ConfigurationError("backend must be None, a URL or an object")
        return UrlStore(backend)
    if hasattr(backend, "get_many") and hasattr(backend, "delete_many"):
        return BackendStore(backend)
    if all(hasattr(backend, name) for name in ("get", "set", "delete")):
        return ObjectStore(backend)
    raise ConfigurationError("backend must be None, a URL or an object")
