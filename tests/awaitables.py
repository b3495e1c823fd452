"""Every public awaitable, found by walking the public names; and those that carry no payload.

``payload_calls.py`` calls the others. ``test_event_loop.py`` fails for a name that is in neither.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from typing import Any

import anyseal

__all__ = ["WITHOUT_PAYLOAD", "public_awaitables", "without"]


@functools.cache
def public_packages() -> list[str]:
    """The packages that have public names."""
    found = ["anyseal"]
    found += [
        each.name
        for each in pkgutil.walk_packages(anyseal.__path__, "anyseal.")
        if each.ispkg and "._" not in each.name
    ]
    return [name for name in found if hasattr(importlib.import_module(name), "__all__")]


def _awaited(function: Any) -> bool:
    """Whether what *function* returns is awaited, or iterated with ``async for``."""
    function = getattr(function, "__func__", function)
    if not callable(function) or inspect.isclass(function):
        return False
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return True
    said = str(getattr(function, "__annotations__", {}).get("return", ""))
    return said.startswith(("Awaitable", "Coroutine", "AsyncIterator", "AsyncGenerator"))


def public_awaitables() -> dict[str, Any]:
    """Each awaitable function, and each awaitable method of a class, by its shortest public name.

    A method counts once, where it is written; protocols are not code and count nowhere. Names with
    an underscore are left out: ``__aexit__`` calls what has a name.
    """
    found: dict[Any, str] = {}
    for package in sorted(public_packages(), key=len):
        module = importlib.import_module(package)
        for name in sorted({*module.__all__, *getattr(module, "_LAZY", ())}):
            thing = getattr(module, name)
            if not inspect.isclass(thing):
                members = {f"{package}.{name}": thing}
            elif getattr(thing, "_is_protocol", False):
                continue
            else:
                members = {
                    f"{package}.{name}.{each}": getattr(thing, each)
                    for each in dir(thing)
                    if not each.startswith("_")
                }
            for path, member in members.items():
                if _awaited(member):
                    found.setdefault(getattr(member, "__func__", member), path)
    return {path: function for function, path in found.items()}


def without(functions: dict[str, Any], paths: Iterable[str]) -> set[str]:
    """Those of *functions* that none of *paths* leads to, by whatever name."""
    reached = set()
    for path in paths:
        package, names = path, []
        while package not in public_packages():
            package, _, name = package.rpartition(".")
            names.append(name)
        thing: Any = importlib.import_module(package)
        for name in reversed(names):
            thing = getattr(thing, name, None)  # one that is gone needs no excuse
        reached.add(getattr(thing, "__func__", thing))
    return {path for path, function in functions.items() if function not in reached}


def _each(owner: str, names: str) -> list[str]:
    return [f"anyseal.{owner}.{name}" for name in names.split()]


WITHOUT_PAYLOAD: dict[str, list[str]] = {
    "ends something": [
        *_each("ObjectReader", "aclose"),
        *_each("ObjectWriter", "aclose"),
        *_each("Session", "aclose"),
        *_each("SessionFactory", "aclose"),
        *_each("KeyHierarchy", "aclose"),
        *_each("HttpSource", "aclose"),
        *_each("StreamSink", "abort commit"),
        *_each("cache", "aclose_all"),
        *_each("cache.Cache", "aclose"),
        *_each("cache.AiocacheBackend", "aclose"),
        *_each("cache.CashewsBackend", "aclose"),
        *_each("cache.HttpBackend", "aclose"),
        *_each("cache.MemcachedBackend", "aclose"),
        *_each("cache.MemoryBackend", "aclose"),
        *_each("cache.RedisBackend", "aclose"),
        *_each("compat.cachekit.RedisStore", "aclose"),
        *_each("compat.duck.EncryptedCache", "async_close"),
        *_each("compat.asherah", "setup_async shutdown_async"),
        *_each("kms.FileKms", "aclose"),
        *_each("kms.StaticKms", "aclose"),
        *_each("metastore.DynamoDbMetastore", "aclose"),
        *_each("metastore.MemoryMetastore", "aclose"),
        *_each("metastore.SqlMetastore", "aclose"),
        *_each("s3.S3Source", "aclose"),
    ],
    "keys and their records, of some hundred bytes": [
        *_each("KeyAdmin", "audit list master_versions matching revoke rewrap_system rotate shred"),
        *_each("kms.FileKms", "is_current unwrap unwrap_for wrap wrap_for"),
        *_each("metastore.DynamoDbMetastore", "check_table replace_key"),
        *_each("metastore.MemoryMetastore", "replace_key"),
        *_each("metastore.SqlMetastore", "check_table replace_key"),
        *_each("KeyHierarchy", "check rewrap"),
        *_each("KeyHierarchy", "current get name_keys oldest opening_key rotate sealing_key"),
        *_each("PassphraseKeyring", "current get"),
        *_each("StaticKeyring", "current get name_keys"),
        *_each("ports", "current_key named_key"),
        *_each("kms.StaticKms", "unwrap wrap"),
        *_each(
            "metastore.DynamoDbMetastore",
            "create_table delete load load_latest load_latest_before records revoke store versions",
        ),
        *_each(
            "metastore.MemoryMetastore",
            "delete load load_latest load_latest_before records revoke store versions",
        ),
        *_each(
            "metastore.SqlMetastore",
            "create_table delete load load_latest load_latest_before records revoke store versions",
        ),
        *_each("compat.lenzeye", "get_or_create_user_key_async get_user_key_async"),
        *_each("compat.lenzeye", "rotate_user_key_async"),
    ],
    "names, positions and probes": [
        *_each("ObjectFile", "aclose seek tell truncate write"),
        *_each("cache.Cache", "clear delete_tag health"),
        *_each("cache.AiocacheBackend", "scan"),
        *_each("cache.CashewsBackend", "scan"),
        *_each("cache.HttpBackend", "scan"),
        *_each("cache.MemcachedBackend", "scan"),
        *_each("cache.MemoryBackend", "scan"),
        *_each("cache.RedisBackend", "changes scan"),
        *_each("cache.SQLiteBackend", "scan"),
        *_each("HttpSource", "ends"),
        *_each("s3.S3Source", "ends"),
        *_each("s3.SealedBucket", "abort_upload complete_upload connect create_upload delete list"),
        *_each("s3.SealedBucket", "open part_plan presigned_get resume stat"),
        *_each("s3", "connect"),
        *_each("compat.cachekit", "async_health_check_handler"),
        *_each("compat.cachekit.MemoryStore", "aclear adelete aunlock"),
        *_each("compat.cachekit.RedisStore", "aclear adelete aunlock"),
        *_each("compat.duck.EncryptedCache", "async_clear async_delete"),
        *_each("compat.duck.CacheBase", "async_clear async_delete"),
    ],
    "at most 1 MiB": [
        *_each("cache.MemcachedBackend", "compare_and_set delete_many get_many set"),
        "anyseal.seal_text",
        "anyseal.open_text",
    ],
    "a worker thread calls a blocking method of the application's": [
        *_each("compat.duck.CacheBase", "async_get async_pop async_set"),
    ],
    "a server copies, or the header alone is written": [*_each("s3.SealedBucket", "copy rewrap")],
    "as a source of S3, whose reads are measured": [*_each("HttpSource", "read")],
    "the client gives one value as it comes": [
        *_each("cache.RedisBackend", "exchange"),
        *_each("compat.cachekit.RedisStore", "aget aget_left aset asettle atake"),
    ],
}
"""The names by the reason why no payload of theirs is measured."""
