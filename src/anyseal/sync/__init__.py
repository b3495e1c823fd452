"""The same names without ``await``.

Bytes to bytes are the plain functions that the async side calls too. Nothing here starts an event
loop, except for a keyring that must wait for a key service: its misses go through one shared loop.
Large files and writes use a few worker threads of our own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anyseal.aio import inspect
from anyseal.keyring import KeyHierarchy, PassphraseKeyring, StaticKeyring
from anyseal.keys import Key
from anyseal.objects.sources import BlockingStreamSink as StreamSink
from anyseal.objects.sources import FileSink, FileSource, MemorySink, MemorySource
from anyseal.sync.files import open_file, rewrap_file, seal_file
from anyseal.sync.objects import ObjectFile, ObjectReader, ObjectWriter, StreamOpener
from anyseal.sync.sessions import Session, SessionFactory
from anyseal.sync.values import open as open
from anyseal.sync.values import open_into, open_text, seal, seal_into, seal_text

if TYPE_CHECKING:
    from anyseal.cache.backends import blocking_backend_from_url as backend_from_url
    from anyseal.cache.backends.http import BlockingHttpBackend as HttpBackend
    from anyseal.cache.backends.memcached import BlockingMemcachedBackend as MemcachedBackend
    from anyseal.cache.backends.memory import BlockingMemoryBackend as MemoryBackend
    from anyseal.cache.backends.redis_blocking import BlockingRedisBackend as RedisBackend
    from anyseal.cache.backends.sqlite import BlockingSQLiteBackend as SQLiteBackend
    from anyseal.objects.http import BlockingHttpSource as HttpSource
    from anyseal.sync._generated.core import Cache
    from anyseal.sync.buckets import SealedBucket

__all__ = [
    "Cache",
    "FileSink",
    "FileSource",
    "HttpBackend",
    "HttpSource",
    "Key",
    "KeyHierarchy",
    "MemcachedBackend",
    "MemoryBackend",
    "MemorySink",
    "MemorySource",
    "ObjectFile",
    "ObjectReader",
    "ObjectWriter",
    "PassphraseKeyring",
    "RedisBackend",
    "SQLiteBackend",
    "SealedBucket",
    "Session",
    "SessionFactory",
    "StaticKeyring",
    "StreamOpener",
    "StreamSink",
    "backend_from_url",
    "inspect",
    "open_file",
    "open_into",
    "open_text",
    "rewrap_file",
    "seal",
    "seal_file",
    "seal_into",
    "seal_text",
]


_LAZY = {
    "Cache": ("anyseal.sync._generated.core", "Cache"),
    "HttpBackend": ("anyseal.cache.backends.http", "BlockingHttpBackend"),
    "HttpSource": ("anyseal.objects.http", "BlockingHttpSource"),
    "MemcachedBackend": ("anyseal.cache.backends.memcached", "BlockingMemcachedBackend"),
    "MemoryBackend": ("anyseal.cache.backends.memory", "BlockingMemoryBackend"),
    "RedisBackend": ("anyseal.cache.backends.redis_blocking", "BlockingRedisBackend"),
    "SQLiteBackend": ("anyseal.cache.backends.sqlite", "BlockingSQLiteBackend"),
    "SealedBucket": ("anyseal.sync.buckets", "SealedBucket"),
    "backend_from_url": ("anyseal.cache.backends", "blocking_backend_from_url"),
}
"""Names that need an extra, and where they are: loaded when first used."""

if not TYPE_CHECKING:  # `import *` must need no extra
    __all__ = [name for name in __all__ if name not in _LAZY]


if not TYPE_CHECKING:  # for it, a name that is not there is an error

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            module, attribute = _LAZY[name]
            return getattr(import_module(module), attribute)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
