"""``secure``: the decorator that needs nothing but a master key."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar, overload
from weakref import WeakSet

from anyseal import offload
from anyseal._ffi import process_number
from anyseal.cache.backends import backend_from_url, blocking_backend_from_url
from anyseal.cache.backends.memory import BlockingMemoryBackend, MemoryBackend
from anyseal.cache.core import Cache
from anyseal.cache.decorators import decorate
from anyseal.cache.function import is_async
from anyseal.cache.options import check_options
from anyseal.cache.policy import UNSET, CachePolicy
from anyseal.cache.typed import AsyncCached, Cached, Decorator
from anyseal.errors import ConfigurationError
from anyseal.keyring.static import (
    MASTER_KEY_VARIABLE,
    PREVIOUS_KEYS_VARIABLE,
    StaticKeyring,
)
from anyseal.keys import Key
from anyseal.suites import Suite

__all__ = ["aclose_all", "close_all", "secure"]

P = ParamSpec("P")
T = TypeVar("T")

IN_PROCESS_BYTES = 100 << 20
LOCAL_BYTES = 16 << 20

_backends: dict[tuple[int, bool, str], Any] = {}
"""Those that were made from a URL, by process and side: decorated functions share connections."""

_made: WeakSet[Any] = WeakSet()
"""The caches of decorated functions."""


async def aclose_all() -> None:
    """Close all caches that ``secure`` made, with their backends: when the application ends.

    Of the async ones, what belongs to the running event loop. A function that is called
    afterwards connects again. One cache is closed by ``await f.cache.aclose()``.
    """
    errors: list[Exception] = []
    for cache in list(_made):
        if isinstance(cache, Cache):
            try:
                await cache.aclose()
            except Exception as exc:  # the others are closed all the same
                errors.append(exc)
    try:
        await offload.run_waiting(close_all)
    except Exception as exc:
        errors.append(exc)
    if errors:
        raise errors[0]


def close_all() -> None:
    """:func:`aclose_all` of the caches for ``def``, without await."""
    errors: list[Exception] = []
    for cache in list(_made):
        if not isinstance(cache, Cache):
            try:
                cache.close()
            except Exception as exc:
                errors.append(exc)
    if errors:
        raise errors[0]


def _master(value: Any, name: str) -> Key:
    """One master key. Raises ConfigurationError; the message does not hold it."""
    if isinstance(value, Key):
        return value
    try:
        return Key.from_hex(value) if isinstance(value, str) else Key.from_bytes(value)
    except (ConfigurationError, TypeError):
        kind = "" if isinstance(value, (str, bytes, bytearray)) else f", not {type(value).__name__}"
        remedy = ": Key.from_bytes(), or Cache(backend, keyring)" if kind else ""
        raise ConfigurationError(
            f"{name} must be hex-encoded, 32 bytes{' or a Key' + kind if kind else ''}{remedy}"
        ) from None


def _keyring(master_key: Any, rotation: bool, previous: Sequence[Any]) -> StaticKeyring:
    """The keyring of one decorated function."""
    given, name = master_key, "master_key"
    if given is None:
        given, name = os.environ.get(MASTER_KEY_VARIABLE, "").strip(), MASTER_KEY_VARIABLE
    if not isinstance(given, Key) and not given:
        raise ConfigurationError(
            "cache.secure requires master_key parameter or "
            f"{MASTER_KEY_VARIABLE} environment variable"
        )
    if isinstance(previous, (str, bytes, Key)) or not isinstance(previous, Iterable):
        raise ConfigurationError("previous_master_keys must be a list of keys")
    old = [_master(key, "previous_master_keys") for key in previous]
    if rotation:
        listed = os.environ.get(PREVIOUS_KEYS_VARIABLE, "").split(",")
        old += [_master(text, PREVIOUS_KEYS_VARIABLE) for text in map(str.strip, listed) if text]
    return StaticKeyring(_master(given, name), old)


def _backend(given: Any, waits: bool) -> Any:
    if given is None:
        kind = MemoryBackend if waits else BlockingMemoryBackend
        return kind(max_bytes=IN_PROCESS_BYTES)
    if not isinstance(given, str):
        return given
    known = (process_number(), waits, given)
    if known not in _backends:
        _backends[known] = (backend_from_url if waits else blocking_backend_from_url)(given)
    return _backends[known]


@overload
def secure(  # type: ignore[overload-overlap]
    function: Callable[P, Coroutine[Any, Any, T]], /
) -> AsyncCached[P, T]: ...
@overload
def secure(function: Callable[P, T], /) -> Cached[P, T]: ...
@overload
def secure(
    function: None = None,
    /,
    *,
    ttl: Any = 600.0,
    master_key: Any = None,
    backend: Any = None,
    tenant_extractor: Callable[..., str] | ContextVar[str] | None = None,
    key_rotation_enabled: bool = False,
    previous_master_keys: Sequence[Any] = (),
    namespace: str = "secure",
    serializer: Any = "msgpack",
    suite: Suite | str | None = None,
    policy: CachePolicy | None = None,
    metrics: Any = None,
    audit: Any = None,
    on_rotation: Any = None,
    **options: Any,
) -> Decorator: ...
def secure(
    function: Callable[..., Any] | None = None,
    /,
    *,
    ttl: Any = 600.0,
    master_key: Any = None,
    backend: Any = None,
    tenant_extractor: Callable[..., str] | ContextVar[str] | None = None,
    key_rotation_enabled: bool = False,
    previous_master_keys: Sequence[Any] = (),
    namespace: str = "secure",
    serializer: Any = "msgpack",
    suite: Suite | str | None = None,
    policy: CachePolicy | None = None,
    metrics: Any = None,
    audit: Any = None,
    on_rotation: Any = None,
    **options: Any,
) -> Any:
    """Keep the results of a function, sealed under a master key; on ``async def`` and on ``def``.

    Settings are checked when the function is decorated, not when it is called. The decorated
    function has what that of ``cached`` has; its ``cache`` is the one that was made for it, to be
    closed by ``aclose`` (``close`` on ``def``), or by ``aclose_all`` with all others.

    Args:
        ttl: As for ``cached``.
        master_key: A Key, 32 bytes, or 64 hexadecimal characters. Default:
            ``ANYSEAL_MASTER_KEY``.
        backend: None keeps entries in this process, sealed all the same; a URL such as
            ``redis://host:6379/0``; or a backend object.
        tenant_extractor: A function of the arguments, or a ContextVar, that gives the tenant. Each
            has keys of its own, and the tenant is part of the entry's name. Default: one tenant.
        key_rotation_enabled: Entries under the master keys in ``ANYSEAL_PREVIOUS_MASTER_KEYS``
            (separated by commas) still open.
        previous_master_keys: The same, given here.
        namespace: As for Cache.
        serializer: A codec, as for Cache.
        suite: As for Cache.
        policy: As for Cache. Default: on ``async def``, up to 16 MiB of entries are also kept in
            this process, sealed; Redis tells it what others change.
        metrics: As for Cache; so are *audit* and *on_rotation*.
        options: What else ``cached`` takes, such as ``key``, ``tags`` and ``condition``.

    Raises:
        ConfigurationError: No master key, or a malformed one; an unknown option.
        TypeError: An option is of another type.
        ValueError: An option is out of bounds.
    """
    unknown = set(options) - {
        "key", "of_self", "tags", "type", "condition", "exceptions", "strict", "shared", "name",
    }  # fmt: skip
    if unknown:
        raise ConfigurationError(f"cache.secure does not know {', '.join(sorted(unknown))}")
    if not isinstance(key_rotation_enabled, bool):
        raise ConfigurationError("key_rotation_enabled must be True or False")
    if not (tenant_extractor is None or isinstance(tenant_extractor, ContextVar)
            or callable(tenant_extractor)):  # fmt: skip
        # A str would be one tenant for all, which is not what anyone means by it.
        raise ConfigurationError(
            "tenant_extractor must be a function of the arguments, or a ContextVar"
        )
    partition = "default" if tenant_extractor is None else tenant_extractor
    keyring = _keyring(master_key, key_rotation_enabled, previous_master_keys)
    given = check_options({
        "key": None, "of_self": ..., "tags": (), "type": UNSET, "condition": None,
        "exceptions": (), "strict": False, "shared": True, "name": None, **options, "ttl": ttl,
        "partition": partition,
    })  # fmt: skip

    def decorator(function: Callable[..., Any]) -> Any:
        waits = is_async(function)
        # The sync cache is on a floor below this one: it is loaded when it is first needed.
        kind = Cache if waits else importlib.import_module("anyseal.sync._generated.core").Cache
        # Sync code is not told what others change: it keeps no copies of what is shared.
        local = LOCAL_BYTES if waits or backend is None else 0
        behave = CachePolicy(local_bytes=local) if policy is None else policy
        cache = kind(
            _backend(backend, waits), keyring, namespace=namespace, codec=serializer, suite=suite,
            policy=behave, metrics=metrics, audit=audit, on_rotation=on_rotation,
        )  # fmt: skip
        _made.add(cache)
        return decorate(function, {**given, "cache": cache})

    return decorator if function is None else decorator(function)
