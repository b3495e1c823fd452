"""An encrypted cache over any backend (extra ``cache``; ``redis``, ``http``, ``memcached`` for
these backends).

The backend never sees a value, nor by default the name of a key.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anyseal.cache.backends import backend_from_url
from anyseal.cache.backends.memory import MemoryBackend
from anyseal.cache.codecs import (
    ArrowCodec,
    Codec,
    Compressed,
    JSONCodec,
    MessagePackCodec,
    PickleCodec,
    RawCodec,
)
from anyseal.cache.core import Cache
from anyseal.cache.decorators import cached
from anyseal.cache.function import CacheInfo
from anyseal.cache.policy import TTL, CachePolicy
from anyseal.cache.secure import aclose_all, close_all, secure
from anyseal.cache.stats import CacheHealth, CacheStats
from anyseal.cache.wrapper import EncryptionWrapper

if TYPE_CHECKING:
    from anyseal.cache.backends.adapters import AiocacheBackend, CashewsBackend
    from anyseal.cache.backends.http import HttpBackend
    from anyseal.cache.backends.memcached import MemcachedBackend
    from anyseal.cache.backends.redis import RedisBackend
    from anyseal.cache.backends.server import CacheServer
    from anyseal.cache.backends.sqlite import SQLiteBackend

__all__ = [
    "TTL",
    "AiocacheBackend",
    "ArrowCodec",
    "Cache",
    "CacheHealth",
    "CacheInfo",
    "CachePolicy",
    "CacheServer",
    "CacheStats",
    "CashewsBackend",
    "Codec",
    "Compressed",
    "EncryptionWrapper",
    "HttpBackend",
    "JSONCodec",
    "MemcachedBackend",
    "MemoryBackend",
    "MessagePackCodec",
    "PickleCodec",
    "RawCodec",
    "RedisBackend",
    "SQLiteBackend",
    "aclose_all",
    "backend_from_url",
    "cached",
    "close_all",
    "secure",
]

_LAZY = {
    "AiocacheBackend": "adapters",
    "CacheServer": "server",
    "CashewsBackend": "adapters",
    "HttpBackend": "http",
    "MemcachedBackend": "memcached",
    "RedisBackend": "redis",
    "SQLiteBackend": "sqlite",
}
"""Backends that need an extra, or that few need, and their modules: loaded when first used."""

if not TYPE_CHECKING:  # `import *` must need no further extra
    __all__ = [name for name in __all__ if _LAZY.get(name) not in ("http", "memcached", "redis")]


if not TYPE_CHECKING:  # for it, a name that is not there is an error

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            return getattr(import_module(f"anyseal.cache.backends.{_LAZY[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
