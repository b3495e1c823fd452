"""Entries in Redis, under cachekit's names."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from anyseal import offload
from anyseal.compat.cachekit.errors import ConfigurationError
from anyseal.compat.cachekit.extras import extra
from anyseal.compat.cachekit.store import LOCK_MS, Store
from anyseal.deadline import deadline
from anyseal.errors import BackendError
from anyseal.loops import PerLoop

__all__ = ["RedisStore"]

REGISTRY_SECONDS = 604_800
ROOM_BYTES = 512 << 20
"""Of the answers to one call; more than that Redis itself does not keep in one value."""
_BOUNDS = "anyseal.cache.backends._redis_bounds"
LARGE_BYTES = 16 << 20
"""Of an entry that event loops neither send nor take."""

_UNLOCK = """
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end
return 0
"""


class RedisStore(Store):
    """Redis under cachekit's names: redis-py's blocking client for ``def``, and for ``async def``
    :class:`anyseal.cache.backends.redis.RedisBackend`, whose calls of one turn of the event loop go
    out together. Not on asyncio, and for entries above 16 MiB, async callers use the blocking
    client in worker threads.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        scoped: Prefix keys with ``t:default:`` and note them in a set for each function, as
            cachekit does where the environment names its Redis.
        timeout: Seconds to wait for a connection, and for an answer.
    """

    locks = True

    def __init__(self, url: str, *, scoped: bool = False, timeout: float = 5.0) -> None:
        super().__init__()
        redis = extra("redis", "anyseal[redis]")
        self.prefix = "t:default:" if scoped else ""
        self._scoped = scoped
        self._timeout = timeout
        try:
            self._client = redis.Redis.from_url(
                url, socket_timeout=timeout, socket_connect_timeout=timeout
            )
            importlib.import_module(_BOUNDS).bound(self._client, blocking=True)
            self._backend = _async_backend(url, timeout)
        except ValueError:
            raise ConfigurationError("not a URL of Redis") from None
        close = self._backend.aclose
        self._closing: PerLoop[Any] = PerLoop(lambda: _at_the_end(close), asyncio.get_running_loop)

    def _ask(self, *some: tuple[Any, ...]) -> list[Any]:
        """The answers to commands that are sent at once: in time, and none without an end."""
        with deadline(self._timeout, room=ROOM_BYTES):
            if len(some) == 1:
                return [self._client.execute_command(*some[0])]
            with self._client.pipeline(transaction=False) as pipeline:
                for command in some:
                    pipeline.execute_command(*command)
                found: list[Any] = pipeline.execute()
        return found

    def get(self, key: str) -> bytes | None:
        found: bytes | None = self._ask(("GET", self.prefix + key))[0]
        return found

    def _lock_name(self, key: str) -> str:
        return f"{self.prefix}{key}:lock"

    def lock(self, key: str, token: str) -> bool:
        return bool(self._ask(self._locking(key, token))[0])

    def _locking(self, key: str, token: str) -> tuple[Any, ...]:
        return ("SET", self._lock_name(key), token, "PX", LOCK_MS, "NX")

    def unlock(self, key: str, token: str) -> None:
        self._ask(("EVAL", _UNLOCK, 1, self._lock_name(key), token))

    def _storing(
        self, key: str, value: bytes, ttl_ms: int | None, registry: str, token: str = ""
    ) -> list[tuple[Any, ...]]:
        """The commands that store an entry, and release the lock that *token* took."""
        noted = self.prefix + registry
        until = () if ttl_ms is None else ("PX", ttl_ms)
        some: list[tuple[Any, ...]] = [("SET", self.prefix + key, value, *until)]
        if self._scoped:
            some += [("SADD", noted, key), ("EXPIRE", noted, REGISTRY_SECONDS)]
        if token:
            some.append(("EVAL", _UNLOCK, 1, self._lock_name(key), token))
        return some

    def set(self, key: str, value: bytes, ttl_ms: int | None, registry: str) -> None:
        self._ask(*self._storing(key, value, ttl_ms, registry))

    def settle(self, key: str, value: bytes, ttl_ms: int | None, registry: str, token: str) -> None:
        self._ask(*self._storing(key, value, ttl_ms, registry, token))

    def delete(self, key: str) -> None:
        self._ask(("UNLINK", self.prefix + key))

    def _noted(self, registry: str) -> Iterator[bytes]:
        name = self.prefix + registry
        while members := self._ask(("SPOP", name, 1000))[0]:
            for member in members:
                yield self.prefix.encode() + member

    def clear(self, place: str, registry: str) -> None:
        if self._scoped:
            names: Iterator[bytes] = self._noted(registry)
        else:
            pattern = re.sub(r"([*?\[\]\\])", r"\\\1", place) + "*"
            names = self._client.scan_iter(match=pattern, count=1000)
        batch: list[bytes] = []
        for name in names:
            batch.append(name)
            if len(batch) == 1000:
                self._ask(("UNLINK", *batch))
                batch.clear()
        if batch:
            self._ask(("UNLINK", *batch))

    def ping(self) -> None:
        """Raises what redis-py raises if Redis does not answer."""
        self._ask(("PING",))

    def close(self) -> None:
        """Close the connections of blocking callers."""
        self._client.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        if self._on_asyncio():
            await self._backend.aclose()

    def _on_asyncio(self) -> bool:
        """Whether asyncio runs; its connections are then closed when the event loop ends."""
        try:
            self._closing.get()
        except RuntimeError:
            return False
        return True

    def get_left(self, key: str) -> tuple[bytes | None, int | None]:
        found, left = self._ask(("GET", self.prefix + key), ("PTTL", self.prefix + key))
        return found, _left(left)

    def take(self, key: str, token: str) -> tuple[bool, bytes | None]:
        taken, found = self._ask(self._locking(key, token), ("GET", self.prefix + key))
        return bool(taken), found

    async def aget(self, key: str) -> bytes | None:
        if not self._on_asyncio():
            return await super().aget(key)
        try:
            found: list[bytes | None] = await self._backend.get_many([self.prefix + key])
        except BackendError as exc:
            if not _too_large(exc):
                raise
            return await super().aget(key)
        return found[0]

    async def aget_left(self, key: str) -> tuple[bytes | None, int | None]:
        if not self._on_asyncio():
            return await offload.run_waiting(self.get_left, key)
        name = self.prefix + key
        try:
            found, left = await self._backend.exchange(("GET", name), ("PTTL", name))
        except BackendError as exc:
            if not _too_large(exc):
                raise
            return await offload.run_waiting(self.get_left, key)
        return found, _left(left)

    async def atake(self, key: str, token: str) -> tuple[bool, bytes | None]:
        if not self._on_asyncio():
            return await super().atake(key, token)
        taken, found = await self._backend.take_lease(
            self._lock_name(key), token.encode(), self.prefix + key, ttl_ms=LOCK_MS
        )
        return taken, found

    async def aunlock(self, key: str, token: str) -> None:
        if not self._on_asyncio():
            await super().aunlock(key, token)
            return
        await self._backend.compare_and_set(self._lock_name(key), token.encode(), None)

    async def aset(self, key: str, value: bytes, ttl_ms: int | None, registry: str) -> None:
        if len(value) > LARGE_BYTES or not self._on_asyncio():
            await super().aset(key, value, ttl_ms, registry)
            return
        await self._backend.exchange(*self._storing(key, value, ttl_ms, registry), size=len(value))

    async def asettle(
        self, key: str, value: bytes, ttl_ms: int | None, registry: str, token: str
    ) -> None:
        if len(value) > LARGE_BYTES or not self._on_asyncio():
            await offload.run_waiting(self.settle, key, value, ttl_ms, registry, token)
            return
        await self._backend.exchange(
            *self._storing(key, value, ttl_ms, registry, token), size=len(value)
        )

    async def adelete(self, key: str) -> None:
        if not self._on_asyncio():
            await super().adelete(key)
            return
        await self._backend.delete_many([self.prefix + key])


def _async_backend(url: str, timeout: float) -> Any:
    """The backend for event loops; connects to nothing yet."""
    backends = importlib.import_module("anyseal.cache.backends.redis")
    return backends.RedisBackend.from_url(url, timeout=timeout)


async def _until_the_end(close: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await close()


def _at_the_end(close: Callable[[], Awaitable[None]]) -> Any:
    """What makes the running event loop call *close* when it ends: it ends its generators."""
    generator: Any = _until_the_end(close)
    with contextlib.suppress(StopIteration):
        generator.asend(None).send(None)
    return generator


def _too_large(error: BackendError) -> bool:
    """Whether what came, to this call or to one beside it, was more than an event loop takes."""
    return "ExcessError" in str(error)


def _left(milliseconds: int) -> int | None:
    return None if milliseconds < 0 else milliseconds
