"""The cache: its interface, and the one that seals what another stores."""

from __future__ import annotations

import abc
import contextlib
import functools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

import anyio
import anyio.lowlevel

from anyseal import offload
from anyseal.compat.duck.sealing import CryptoError, NaClEncryptor, resolve_nacl_key

__all__ = ["MISSING", "CacheBase", "EncryptedCache"]

F = TypeVar("F", bound=Callable[..., Any])

MISSING: Any = object()
"""Stands for a default that was not given."""

INLINE_BYTES = 1 << 16
"""Larger entries are sealed and opened in a worker thread by the ``async_*`` methods."""


def _name(function: Callable[..., Any], prefix: str | None, args: Any, kwargs: Any) -> str:
    """What a decorated function's result is stored under."""
    place = f"{prefix or function.__module__}.{function.__qualname__}"
    return f"{place}:{args}:{sorted(kwargs.items())}"


class _Locks:
    """One lock for each key that someone waits for, and none for the others."""

    def __init__(self) -> None:
        self._held: dict[tuple[Any, str], tuple[anyio.Lock, list[None]]] = {}

    @contextlib.asynccontextmanager
    async def of(self, key: str) -> AsyncIterator[None]:
        """Hold the lock of *key* in this event loop."""
        place = (anyio.lowlevel.current_token(), key)
        lock, users = self._held.setdefault(place, (anyio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield
        finally:
            users.pop()
            if not users:
                self._held.pop(place, None)

    def __len__(self) -> int:
        return len(self._held)


def _original() -> type | None:
    """The original's CacheBase, if the program has imported it: who has not cannot ask for it."""
    found = getattr(sys.modules.get("duck.utils.caching"), "CacheBase", None)
    return found if isinstance(found, type) else None


@functools.lru_cache(maxsize=64)
def _of_both(ours: type, original: type) -> type:
    """A class below both, of which there are no instances."""
    return type(ours)(ours.__name__, (ours, original), {"__module__": ours.__module__})


class CacheBase(abc.ABC):  # noqa: B024 - some programs override the async methods only
    """What a cache must have. Subclasses give ``set``, ``get``, ``delete``, ``pop``, ``clear``.

    The ``async_*`` methods here call those in a worker thread; a subclass may do better.

    Its instances are instances of the original's CacheBase as well, and the other way round, as
    soon as the program imports the original; this module does not.
    """

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # what isinstance asks for when the type itself does not fit
        ours, original = type(self), _original()
        return ours if original is None or issubclass(ours, original) else _of_both(ours, original)

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        original = _original()
        if cls is CacheBase and original is not None and original in other.__mro__:
            return True
        return NotImplemented

    def save(self) -> None:  # noqa: B027 - most caches need not
        """Make what is cached last. Does nothing unless a subclass knows better."""

    def set(self, key: str, value: Any, expiry: int | float | None = None) -> None:
        """Store *value* for *expiry* seconds; None means for ever."""
        raise NotImplementedError

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or *default*."""
        raise NotImplementedError

    def delete(self, key: str) -> None:
        """Remove *key*, if it is there."""
        raise NotImplementedError

    def pop(self, key: str, default: Any = MISSING) -> Any:
        """Remove *key* and return its value. Raises KeyError without a value and a default."""
        raise NotImplementedError

    def clear(self) -> None:
        """Remove everything."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027 - most caches need not
        """Let go of what the cache holds."""

    async def async_set(self, key: str, value: Any, expiry: int | float | None = None) -> None:
        """:meth:`set` in a worker thread."""
        await offload.run_waiting(self.set, key, value, expiry)

    async def async_get(self, key: str, default: Any = None) -> Any:
        """:meth:`get` in a worker thread."""
        return await offload.run_waiting(self.get, key, default)

    async def async_delete(self, key: str) -> None:
        """:meth:`delete` in a worker thread."""
        await offload.run_waiting(self.delete, key)

    async def async_pop(self, key: str, default: Any = MISSING) -> Any:
        """:meth:`pop` in a worker thread."""
        return await offload.run_waiting(self.pop, key, default)

    async def async_clear(self) -> None:
        """:meth:`clear` in a worker thread."""
        await offload.run_waiting(self.clear)

    def cache(
        self, expiry: int | float | None = None, key_prefix: str | None = None
    ) -> Callable[[F], F]:
        """Decorate a function: its results are kept for *expiry* seconds. None is not kept.

        Args:
            expiry: Seconds; None means for ever.
            key_prefix: Stands for the function's module in the keys.

        The key holds the ``repr`` of the arguments: they need one that is always the same.
        """

        def decorate(function: F) -> F:
            @functools.wraps(function)
            def call(*args: Any, **kwargs: Any) -> Any:
                key = _name(function, key_prefix, args, kwargs)
                found = self.get(key)
                if found is None:
                    found = function(*args, **kwargs)
                    if found is not None:
                        self.set(key, found, expiry=expiry)
                return found

            return call  # type: ignore[return-value]  # the same signature

        return decorate

    def async_cache(
        self, expiry: int | float | None = None, key_prefix: str | None = None
    ) -> Callable[[F], F]:
        """:meth:`cache` for ``async def`` functions; callers with equal arguments wait in line."""

        def decorate(function: F) -> F:
            locks = _Locks()

            @functools.wraps(function)
            async def call(*args: Any, **kwargs: Any) -> Any:
                key = _name(function, key_prefix, args, kwargs)
                async with locks.of(key):
                    found = await self.async_get(key)
                    if found is None:
                        found = await function(*args, **kwargs)
                        if found is not None:
                            await self.async_set(key, found, expiry=expiry)
                    return found

            call.__dict__["_locks"] = locks
            return call  # type: ignore[return-value]  # the same signature

        return decorate


class EncryptedCache(CacheBase):
    """Seals what is stored in another cache. That one sees keys and expiry, but no value.

    An entry that does not open, or holds something that is not plain, is removed from the backend
    and counts as absent.

    Args:
        backend: Has ``set``, ``get``, ``delete``, ``pop``, ``clear`` and ``close``. Its
            ``async_*`` methods are used where it has them.
        secret_key: As for :func:`resolve_nacl_key`.
        trusted_pickle: As for :class:`NaClEncryptor`.
        allow: As for :class:`NaClEncryptor`.

    Raises:
        TypeError: *backend* lacks a method.
        ValueError: As for :func:`resolve_nacl_key` and :class:`NaClEncryptor`.
    """

    def __init__(
        self,
        backend: Any,
        secret_key: bytes | str,
        *,
        trusted_pickle: bool = False,
        allow: Iterable[type] = (),
    ) -> None:
        for name in ("set", "get", "delete", "pop", "clear"):
            if not (hasattr(backend, name) or hasattr(backend, f"async_{name}")):
                raise TypeError(f"{type(backend).__name__} is no cache: it has no method {name}")
        self.backend = backend
        self.encryptor = NaClEncryptor(
            resolve_nacl_key(secret_key), trusted_pickle=trusted_pickle, allow=allow
        )

    def save(self) -> None:
        """Have the backend make what it has last, if it can."""
        save = getattr(self.backend, "save", None)
        if save is not None:
            save()

    def set(self, key: str, value: Any, expiry: int | float | None = None) -> None:
        """Seal *value* and store it for *expiry* seconds; None means for ever.

        Raises:
            TypeError: *value* is not plain, or cannot be pickled. Nothing was stored.
        """
        self.backend.set(key, self.encryptor.encrypt(value), expiry)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of *key*; *default* if there is none, or none that opens."""
        raw = self.backend.get(key)
        if raw is None:
            return default
        try:
            return self.encryptor.decrypt(raw)
        except CryptoError:
            self.backend.delete(key)
            return default

    def delete(self, key: str) -> None:
        """Remove *key*, if it is there."""
        self.backend.delete(key)

    def pop(self, key: str, default: Any = MISSING) -> Any:
        """Remove *key* and return its value; it is gone also if it does not open.

        Raises:
            KeyError: There is no value that opens, and no *default*.
        """
        raw = self.backend.pop(key, default=None)
        return self._popped(key, raw, default)

    def clear(self) -> None:
        """Remove everything from the backend."""
        self.backend.clear()

    def close(self) -> None:
        """Close the backend."""
        self.backend.close()

    async def async_set(self, key: str, value: Any, expiry: int | float | None = None) -> None:
        """:meth:`set` without blocking the loop; only pickling happens in it."""
        pickled = self.encryptor.encode(value)
        sealed = await self._off_loop(self.encryptor.seal, pickled)
        await self._call("set", key, sealed, expiry)

    async def async_get(self, key: str, default: Any = None) -> Any:
        """:meth:`get` without blocking the loop."""
        raw = await self._call("get", key)
        if raw is None:
            return default
        try:
            return await self._off_loop(self.encryptor.decrypt, raw)
        except CryptoError:
            await self.async_delete(key)
            return default

    async def async_delete(self, key: str) -> None:
        """:meth:`delete` without blocking the loop."""
        await self._call("delete", key)

    async def async_pop(self, key: str, default: Any = MISSING) -> Any:
        """:meth:`pop` without blocking the loop."""
        raw = await self._call("pop", key, default=None)
        return await self._off_loop(functools.partial(self._popped, key, default=default), raw)

    async def async_clear(self) -> None:
        """:meth:`clear` without blocking the loop."""
        await self._call("clear")

    async def async_close(self) -> None:
        """:meth:`close` without blocking the loop."""
        await self._call("close")

    def _popped(self, key: str, raw: Any, default: Any) -> Any:
        if raw is not None:
            with contextlib.suppress(CryptoError):
                return self.encryptor.decrypt(raw)
        if default is MISSING:
            raise KeyError(key)
        return default

    async def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """The backend's method, the ``async_`` one if there is one."""
        method: Callable[..., Awaitable[Any]] | None = getattr(self.backend, f"async_{name}", None)
        if method is not None:
            return await method(*args, **kwargs)
        blocking = functools.partial(getattr(self.backend, name), *args, **kwargs)
        return await offload.run_waiting(blocking)

    async def _off_loop(self, function: Callable[[Any], Any], data: Any) -> Any:
        if isinstance(data, bytes) and len(data) > INLINE_BYTES:
            return await offload.run(function, data)
        return function(data)
