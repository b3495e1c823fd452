"""The caches that a service has already: an aiocache or a cashews cache as a backend.

Async only, and on asyncio only, as they are. Neither package is imported until it is used.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import anyio

from anyseal.errors import BackendError, ConfigurationError, MissingExtraError

__all__ = ["AiocacheBackend", "CashewsBackend"]

_GONE = b"\x00anyseal: deleted"
"""aiocache replaces a value on condition, but does not delete on one: this stands for nothing."""

_GONE_SECONDS = 1.0
_FOREVER_SECONDS = 10 * 365 * 86400.0
_LOCK_SECONDS = 10.0
_SCAN_NAMES = 500
_PLAIN = re.compile(r"[A-Za-z0-9_:/@,;=%-]*")
"""What stands for itself in glob patterns and in regular expressions."""


def _seconds(ttl_ms: int | None) -> float | None:
    return None if ttl_ms is None else ttl_ms / 1000


def _unable(what: str) -> BackendError:
    error = BackendError(what)
    error.retryable = False
    return error


@contextmanager
def _errors_of(package: str, seconds: float | None = None) -> Iterator[None]:
    try:
        with anyio.fail_after(seconds):
            yield
    except BackendError:
        raise
    except Exception as exc:  # whatever its own backend's client raises
        raise BackendError(f"{package}: {type(exc).__name__}") from exc


def _values(found: Any, names: Sequence[str], package: str) -> list[bytes | None]:
    if len(found) != len(names):
        raise _unable(f"{package} gave {len(found)} values for {len(names)} names")
    return [_value(each, package) for each in found]


def _value(found: Any, package: str) -> bytes | None:
    if found is None or isinstance(found, bytes):
        return found
    raise _unable(f"{package} gave {type(found).__name__} for a value that was bytes")


class AiocacheBackend:
    """An aiocache cache as a backend. It keeps its namespace; names go below it.

    ``can_scan`` is False: aiocache does not list names.

    Args:
        cache: A cache with ``NullSerializer(encoding=None)``: others would change the bytes, or
            run pickle on what the server sends.
        timeout: Seconds for one call; None: no limit of its own.

    Raises:
        ConfigurationError: Another serializer, or no aiocache cache.
    """

    ends_when_cancelled = True
    can_scan = False

    def __init__(self, cache: Any, *, timeout: float | None = 5.0) -> None:
        if timeout is not None and not timeout > 0:
            raise ConfigurationError("timeout must be above 0 seconds, or None")
        try:
            from aiocache.base import BaseCache
            from aiocache.serializers import NullSerializer
        except ImportError as exc:  # pragma: no cover - the package is missing
            raise MissingExtraError.of("AiocacheBackend needs aiocache", "aiocache") from exc
        if not isinstance(cache, BaseCache):
            raise ConfigurationError("AiocacheBackend needs an aiocache cache")
        serializer = cache.serializer
        in_memory = getattr(cache, "NAME", "") == "memory"
        if type(serializer) is not NullSerializer or not (in_memory or serializer.encoding is None):
            raise ConfigurationError(
                "AiocacheBackend needs a cache with serializer=NullSerializer(encoding=None)"
            )
        self._cache: Any = cache
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"AiocacheBackend({type(self._cache).__name__})"

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """The values, in the order of *names*; None for what is not there."""
        if not names:
            return []
        with _errors_of("aiocache", self._timeout):
            found = _values(await self._cache.multi_get(list(names)), names, "aiocache")
        return [None if each == _GONE else each for each in found]

    async def set(
        self, name: str, value: bytes, *, ttl_ms: int | None = None, if_absent: bool = False
    ) -> bool:
        """Store *value*; with *if_absent* only if there is none. Whether it was stored."""
        with _errors_of("aiocache", self._timeout):
            if not if_absent:
                return bool(await self._cache.set(name, value, ttl=_seconds(ttl_ms)))
            try:
                await self._cache.add(name, value, ttl=_seconds(ttl_ms))
            except ValueError:  # there is something, perhaps what stands for nothing
                return await self._replace(name, _GONE, value, _seconds(ttl_ms))
            return True

    async def compare_and_set(
        self, name: str, expected: bytes, value: bytes | None, *, ttl_ms: int | None = None
    ) -> bool:
        """Replace *expected* by *value* (None: delete) in one step; whether it was there."""
        ttl = _GONE_SECONDS if value is None else _seconds(ttl_ms)
        with _errors_of("aiocache", self._timeout):
            return await self._replace(name, expected, _GONE if value is None else value, ttl)

    async def _replace(self, name: str, expected: bytes, value: bytes, ttl: float | None) -> bool:
        cache = self._cache
        token: Any = expected
        if cache.NAME not in ("memory", "redis"):  # whose token is the value itself
            token = await cache._gets(cache.build_key(name), encoding=None)
            if token is None or await cache.get(name) != expected:
                return False
        # aiocache's own OptimisticLock would decode the value as text.
        return bool(await cache.set(name, value, ttl=ttl, _cas_token=token))

    async def delete_many(self, names: Sequence[str]) -> int:
        """Delete what is there of *names*; how many that were. One round trip each."""
        deleted = 0
        with _errors_of("aiocache", self._timeout):
            for name in names:
                gone = await self._cache.get(name) in (None, _GONE)
                deleted += bool(await self._cache.delete(name)) and not gone
        return deleted

    def scan(self, prefix: str) -> AsyncIterator[list[str]]:
        """Raises BackendError."""
        raise _unable("aiocache cannot list names")

    async def aclose(self) -> None:
        """Nothing: the cache is its owner's to close."""


class CashewsBackend:
    """A cashews cache as a backend.

    ``compare_and_set`` holds a lock of cashews, so it is one step for all who change the entry by
    ``compare_and_set``, but not beside a ``set``. cashews hides outages of its Redis unless it
    was set up with ``suppress=False``: they then look like misses.

    Args:
        cache: A cache set up with ``pickle_type="null"`` (``mem://`` has it anyway) and neither
            ``secret`` nor ``compress_type``: sealed values gain nothing by them, and pickle
            would run on what the server sends.
        timeout: Seconds for one call; None: no limit of its own.

    Raises:
        ConfigurationError: It is set up otherwise, or no cashews cache.
    """

    ends_when_cancelled = True

    def __init__(self, cache: Any, *, timeout: float | None = 5.0) -> None:
        if timeout is not None and not timeout > 0:
            raise ConfigurationError("timeout must be above 0 seconds, or None")
        try:
            from cashews import Cache
            from cashews.picklers import NonPickler
        except ImportError as exc:  # pragma: no cover - the package is missing
            raise MissingExtraError.of("CashewsBackend needs cashews", "cashews") from exc
        if not isinstance(cache, Cache) or not cache.is_setup():
            raise ConfigurationError("CashewsBackend needs a cashews cache that is set up")
        for backend in cache._backends.values():
            serializer = getattr(backend, "_serializer", None)
            pickler = getattr(serializer, "_pickler", None)
            if serializer is not None and not isinstance(pickler, NonPickler):
                raise ConfigurationError(
                    'CashewsBackend needs a cache set up with pickle_type="null" and no secret'
                )
        self._cache: Any = cache
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"CashewsBackend({self._cache.name!r})"

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """The values, in the order of *names*; None for what is not there."""
        if not names:
            return []
        with _errors_of("cashews", self._timeout):
            return _values(await self._cache.get_many(*names), names, "cashews")

    async def set(
        self, name: str, value: bytes, *, ttl_ms: int | None = None, if_absent: bool = False
    ) -> bool:
        """Store *value*; with *if_absent* only if there is none. Whether it was stored."""
        # Without a time to live an entry would keep the time of the one that it replaces.
        expire = _FOREVER_SECONDS if ttl_ms is None else ttl_ms / 1000
        with _errors_of("cashews", self._timeout):
            if not if_absent:
                return bool(await self._cache.set(name, value, expire=expire))
            if await self._cache.get(name) is not None:  # lets go of what has expired
                return False
            return bool(await self._cache.set(name, value, expire=expire, exist=False))

    async def compare_and_set(
        self, name: str, expected: bytes, value: bytes | None, *, ttl_ms: int | None = None
    ) -> bool:
        """Replace *expected* by *value* (None: delete); whether it was there."""
        with _errors_of("cashews", self._timeout):
            async with self._cache.lock(name + ":lock", _LOCK_SECONDS):
                if await self._cache.get(name) != expected:
                    return False
                if value is None:
                    return bool(await self._cache.delete(name))
                return await self.set(name, value, ttl_ms=ttl_ms)

    async def delete_many(self, names: Sequence[str]) -> int:
        """Delete what is there of *names*; how many that were."""
        if not names:
            return 0
        with _errors_of("cashews", self._timeout):
            there = sum([bool(await self._cache.exists(name)) for name in names])
            await self._cache.delete_many(*names)
        return there

    async def scan(self, prefix: str) -> AsyncIterator[list[str]]:
        """The names that begin with *prefix*, in lists; expired ones may be among them."""
        plain = _PLAIN.match(prefix)
        assert plain is not None
        names: list[str] = []
        with _errors_of("cashews"):
            async for name in self._cache.scan(plain[0] + "*"):
                if name.startswith(prefix):
                    names.append(name)
                if len(names) == _SCAN_NAMES:
                    yield names
                    names = []
        if names:
            yield names

    async def aclose(self) -> None:
        """Nothing: the cache is its owner's to close."""
