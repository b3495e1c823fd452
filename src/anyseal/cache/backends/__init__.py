"""Where a cache's sealed entries are kept, and the backend that a URL names.

Importing this imports no client library.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from anyseal.errors import ConfigurationError
from anyseal.ports import Backend, BlockingBackend

__all__ = ["backend_from_url", "blocking_backend_from_url"]

_HERE = "anyseal.cache.backends."


@dataclass(frozen=True, slots=True)
class _Kind:
    module: str
    name: str
    arguments: Callable[[str, SplitResult], tuple[tuple[Any, ...], dict[str, Any]]]
    from_url: bool = False


def _wrong(what: str) -> ConfigurationError:
    # Never any part of the URL: it may hold a password.
    return ConfigurationError(f"cache URL: {what}")


def _settings(parts: SplitResult, known: dict[str, Callable[[str], Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            raise _wrong("known settings here are " + (", ".join(sorted(known)) or "none"))
        try:
            found[name] = known[name](value)
        except ValueError:
            raise _wrong(f"{name} is malformed") from None
    return found


def _flag(value: str) -> bool:
    if value.lower() not in ("0", "1", "false", "true"):
        raise ValueError
    return value.lower() in ("1", "true")


def _memory(url: str, parts: SplitResult) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if parts.netloc or parts.path.strip("/"):
        raise _wrong("memory:// takes no host and no path")
    return (), _settings(parts, {"max_bytes": int, "max_entries": int})


def _sqlite(url: str, parts: SplitResult) -> tuple[tuple[Any, ...], dict[str, Any]]:
    path = unquote(parts.path)
    if parts.netloc or len(path) < 2:
        raise _wrong("write sqlite:///relative/path or sqlite:////absolute/path")
    known = {"max_bytes": int, "durable": _flag, "timeout": float}
    return (path[1:],), _settings(parts, known)


def _http(url: str, parts: SplitResult) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (url,), {}


def _memcached(url: str, parts: SplitResult) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not parts.hostname or parts.username or parts.password or parts.path.strip("/"):
        raise _wrong("write memcached://host:port")
    return (parts.hostname, parts.port or 11211), _settings(parts, {"timeout": float})


_REDIS = _Kind("redis", "RedisBackend", _http, from_url=True)
_HTTP = _Kind("http", "HttpBackend", _http)
_KINDS = {
    "http": _HTTP,
    "https": _HTTP,
    "memcached": _Kind("memcached", "MemcachedBackend", _memcached),
    "memory": _Kind("memory", "MemoryBackend", _memory),
    "redis": _REDIS,
    "redis+cluster": _REDIS,
    "redis+sentinel": _REDIS,
    "rediss": _REDIS,
    "rediss+cluster": _REDIS,
    "rediss+sentinel": _REDIS,
    "sqlite": _Kind("sqlite", "SQLiteBackend", _sqlite),
    "unix": _REDIS,
}


def _from_url(url: str, prefix: str) -> Any:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except (ValueError, TypeError, AttributeError):
        raise _wrong("not a URL") from None
    kind = _KINDS.get(parts.scheme)
    if kind is None:
        raise _wrong(f"its scheme must be one of {', '.join(_KINDS)}")
    arguments, settings = kind.arguments(url, parts)
    made = getattr(importlib.import_module(_HERE + kind.module), prefix + kind.name)
    return (made.from_url if kind.from_url else made)(*arguments, **settings)


def backend_from_url(url: str) -> Backend:
    """The backend that *url* names. Nothing is connected yet.

    Args:
        url: ``memory://``, ``sqlite:///relative/path``, ``sqlite:////absolute/path``,
            ``redis://``, ``rediss://``, ``redis+cluster://``, ``redis+sentinel://``, ``unix://``,
            ``http://``, ``https://`` or ``memcached://host:port``. A backend's plain settings go
            into the query: ``memory://?max_bytes=1000000``, ``sqlite:///x.db?durable=1``.

    Raises:
        ConfigurationError: An unknown scheme or setting, or the extra is not installed. No part
            of *url* is in its text.
    """
    found: Backend = _from_url(url, "")
    return found


def blocking_backend_from_url(url: str) -> BlockingBackend:
    """The same for sync code.

    Args:
        url: As for :func:`backend_from_url`.

    Raises:
        ConfigurationError: As for :func:`backend_from_url`.
    """
    found: BlockingBackend = _from_url(url, "Blocking")
    return found
