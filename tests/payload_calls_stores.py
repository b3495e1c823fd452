"""Calls of every public awaitable that takes or gives a payload: caches, drop-ins, S3."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from anyseal.cache import Cache, CachePolicy, MemoryBackend, SQLiteBackend, cached
from anyseal.compat import asherah, cachekit, duck, lenzeye
from payload_calls import CASES, MASTER, NAMES, PICKLED, Bed, Work, case, drained

__all__ = ["CASES"]


def _aiocache() -> Any:
    from aiocache import SimpleMemoryCache
    from aiocache.serializers import NullSerializer

    from anyseal.cache import AiocacheBackend

    return AiocacheBackend(SimpleMemoryCache(serializer=NullSerializer(encoding=None)))


def _cashews() -> Any:
    from cashews import Cache as Cashews

    from anyseal.cache import CashewsBackend

    cashews = Cashews()
    cashews.setup("mem://", pickle_type="null")
    return CashewsBackend(cashews)


def _redis(bed: Bed) -> Any:
    from anyseal.cache import RedisBackend

    return RedisBackend.from_url(bed.servers["redis"])


def _http(bed: Bed) -> Any:
    from anyseal.cache import HttpBackend

    url, token = bed.servers["http"]
    return HttpBackend(url, token=token)


BACKENDS: dict[str, Callable[[Bed], Any]] = {
    "memory": lambda bed: MemoryBackend(max_bytes=bed.roomy),
    "sqlite": lambda bed: SQLiteBackend(bed.path("cache.db"), max_bytes=bed.roomy),
    "aiocache": lambda bed: _aiocache(),
    "cashews": lambda bed: _cashews(),
    "redis": _redis,
    "http": _http,
}

_CLASSES = {
    "memory": "MemoryBackend", "sqlite": "SQLiteBackend", "aiocache": "AiocacheBackend",
    "cashews": "CashewsBackend", "redis": "RedisBackend", "http": "HttpBackend",
}  # fmt: skip


@contextlib.asynccontextmanager
async def cache_over(bed: Bed, backend: str, **options: Any) -> AsyncIterator[Cache]:
    """A cache that takes payloads of the bed's size."""
    policy = CachePolicy(max_bytes=bed.roomy, timeout=60.0)
    async with Cache(
        BACKENDS[backend](bed), bed.key, namespace=f"loop{next(NAMES)}", policy=policy, **options
    ) as cache:
        yield cache


def _cached(
    backend: str, payload: str, call: Callable[[Any, Cache], Awaitable[object]], fill: bool
) -> Callable[[Bed], AsyncIterator[Work]]:
    async def calling(bed: Bed) -> AsyncIterator[Work]:
        value = {
            "bytes": lambda: bed.data,
            "view": lambda: memoryview(bed.data),
            "value": lambda: bed.value,
            "text": lambda: bed.text,
            "other text": lambda: bed.other_text,
        }[payload]()
        async with cache_over(bed, backend) as cache:
            if fill:
                assert await cache.set("key", value)
            yield lambda: call(value, cache)

    return calling


async def _missed(value: Any, cache: Cache) -> None:
    await cache.delete("key")

    async def compute() -> Any:
        return value

    await cache.get_or_set("key", compute)


async def _hit(value: Any, cache: Cache) -> None:
    await cache.get_or_set("key", _never)


async def _never() -> Any:
    raise AssertionError("computed in spite of an entry")


async def _popped(value: Any, cache: Cache) -> None:
    await cache.set("key", value)
    await cache.pop("key")


async def _changed(value: Any, cache: Cache) -> None:
    await cache.touch("key", 60.0)
    await cache.contains("key")


async def _set_and_deleted(value: Any, cache: Cache) -> None:
    await cache.set("key", value)
    await cache.delete("key")


_CACHE_CALLS: dict[str, tuple[Callable[[Any, Cache], Awaitable[object]], bool, tuple[str, ...]]] = {
    "set": (lambda value, cache: cache.set("key", value), False, ("set",)),
    "get": (lambda value, cache: cache.get("key"), True, ("get",)),
    "get_many": (lambda value, cache: cache.get_many(["key"]), True, ("get_many",)),
    "set_many": (lambda value, cache: cache.set_many({"key": value}), False, ("set_many",)),
    "get_or_set, a miss": (_missed, False, ("get_or_set",)),
    "get_or_set, a hit": (_hit, True, ("get_or_set",)),
    "set and pop": (_popped, False, ("pop",)),
    "touch, contains": (_changed, True, ("touch", "contains")),
    "set and delete": (_set_and_deleted, False, ("delete",)),
}

_COPYING = "cashews itself copies a value some ten times, on the loop"
_BACKEND_METHODS = (
    "set", "get_many", "compare_and_set", "delete_many", "put_range", "get_range", "publish",
    "set_and_delete", "settle", "take_lease", "delete_beside",
)  # fmt: skip

for _backend in BACKENDS:
    for _name, (_call, _fill, _covered) in _CACHE_CALLS.items():
        _names = [f"anyseal.cache.Cache.{each}" for each in _covered]
        _methods = _BACKEND_METHODS[: None if _backend in ("memory", "sqlite", "redis") else 4]
        _names += [f"anyseal.cache.{_CLASSES[_backend]}.{each}" for each in _methods]
        case(
            f"cache.{_name} over {_backend}", *_names,
            needs=_backend if _backend in ("redis", "http") else "",
            often=_backend == "memory" or _name in ("set", "get"),
            unbounded=_COPYING if _backend == "cashews" else "",
        )(_cached(_backend, "bytes", _call, _fill))  # fmt: skip


@case("a decorated function, a miss and a hit")
async def _decorated(bed: Bed) -> AsyncIterator[Work]:
    async with cache_over(bed, "memory") as cache:

        @cached(cache=cache, ttl=60)
        async def function(number: int) -> bytes:
            return bed.data

        async def work() -> None:
            number = next(NAMES)
            await function(number)
            await function(number)
            await function.invalidate(number)

        yield work


for _name in ("set", "get"):
    _call, _fill, _covered = _CACHE_CALLS[_name]
    for _payload in ("value", "text", "other text"):
        case(
            f"cache.{_name} of {_payload}", f"anyseal.cache.Cache.{_name}", payload=_payload,
        )(_cached("memory", _payload, _call, _fill))  # fmt: skip
    case(f"cache.{_name} of a view over aiocache")(_cached("aiocache", "view", _call, _fill))


# ---- a backend by itself


@case("MemoryBackend.set of a bytearray", "anyseal.cache.MemoryBackend.set")
async def _memory_set(bed: Bed) -> AsyncIterator[Work]:
    backend, data = MemoryBackend(max_bytes=bed.roomy), bytearray(bed.data)
    yield lambda: backend.set("name", data)  # type: ignore[arg-type]


@case("MemoryBackend.put_range, get_range", "anyseal.cache.MemoryBackend.put_range")
async def _memory_ranges(bed: Bed) -> AsyncIterator[Work]:
    backend = MemoryBackend(max_bytes=bed.roomy)

    async def both() -> None:
        await backend.put_range("name", 0, bed.data, ttl_ms=60_000)
        await backend.get_range("name", 1, bed.size)
        await backend.get_many(["name"])
        await backend.delete_many(["name"])

    yield both


# ---- the drop-ins


def _asherah(name: str, payload: str) -> None:
    takes = "string" if payload == "text" else "bytes"
    module, method = f"{name}_{takes}_async", f"{name}_{payload}_async"

    async def of_module(bed: Bed) -> AsyncIterator[Work]:
        with _asherah_set_up():
            given: Any = bed.text if payload == "text" else bed.data
            if name == "decrypt":
                seal = getattr(asherah, f"encrypt_{takes}_async")
                given = await seal("partition", given)
            call = getattr(asherah, module)
            yield lambda: call("partition", given)

    async def of_session(bed: Bed) -> AsyncIterator[Work]:
        config = _asherah_config()
        with asherah.SessionFactory(config) as factory, factory.get_session("p") as session:
            given: Any = bed.text if payload == "text" else bed.data
            if name == "decrypt":
                given = await getattr(session, f"encrypt_{payload}_async")(given)
            call = getattr(session, method)
            yield lambda: call(given)

    case(f"asherah.{module}", f"anyseal.compat.asherah.{module}", payload=payload)(of_module)
    path = f"anyseal.compat.asherah.Session.{method}"
    case(f"asherah session.{method}", path, payload=payload)(of_session)


def _asherah_config() -> Any:
    return {"ServiceName": "s", "ProductID": "p", "KMS": "static", "Metastore": "memory",
            "StaticMasterKeyHex": MASTER}  # fmt: skip


@contextlib.contextmanager
def _asherah_set_up() -> Any:
    asherah.setup(_asherah_config())
    try:
        yield
    finally:
        asherah.shutdown()


for _name in ("encrypt", "decrypt"):
    for _payload in ("bytes", "text"):
        _asherah(_name, _payload)


class _Store:
    """duck's blocking methods over a dict."""

    def __init__(self) -> None:
        self.entries: dict[str, Any] = {}

    def set(self, key: str, value: Any, expiry: float | None = None) -> None:
        self.entries[key] = value

    def get(self, key: str, default: Any = None) -> Any:
        return self.entries.get(key, default)

    def delete(self, key: str) -> None:
        self.entries.pop(key, None)

    def pop(self, key: str, default: Any = None) -> Any:
        return self.entries.pop(key, default)

    def clear(self) -> None:
        self.entries.clear()


@case(
    "duck.async_set, async_get, async_pop",
    "anyseal.compat.duck.EncryptedCache.async_set",
    "anyseal.compat.duck.EncryptedCache.async_get",
    "anyseal.compat.duck.EncryptedCache.async_pop",
    unbounded=PICKLED,
)
async def _duck(bed: Bed) -> AsyncIterator[Work]:
    cache = duck.EncryptedCache(_Store(), MASTER[:32])

    async def work() -> None:
        await cache.async_set("key", bed.data)
        await cache.async_get("key")
        await cache.async_pop("key")

    yield work


@case(
    "cachekit, a miss and a hit",
    "anyseal.compat.cachekit.MemoryStore.aget",
    "anyseal.compat.cachekit.MemoryStore.aget_left",
    "anyseal.compat.cachekit.MemoryStore.aset",
    "anyseal.compat.cachekit.MemoryStore.asettle",
    "anyseal.compat.cachekit.MemoryStore.atake",
    unbounded=PICKLED,
)
async def _cachekit(bed: Bed) -> AsyncIterator[Work]:
    @cachekit.cache.secure(master_key=MASTER, backend=cachekit.MemoryStore(bed.roomy))
    async def function(number: int) -> bytes:
        return bed.data

    async def work() -> None:
        number = next(NAMES)
        await function(number)
        await function(number)
        await function.ainvalidate_cache(number)

    yield work


for _name in ("encrypt", "decrypt"):

    def _lenzeye(name: str) -> None:
        key, iv = bytes(32), bytes(16)

        async def chunk(bed: Bed) -> AsyncIterator[Work]:
            call = getattr(lenzeye, f"{name}_multipart_chunk_async")
            yield lambda: call(bed.data, key, iv, 0)

        async def stream(bed: Bed) -> AsyncIterator[Work]:
            sealed = b"".join(lenzeye.encrypt_file_stream(bed.data, key))
            call = getattr(lenzeye, f"{name}_file_stream_async")
            given = bed.data if name == "encrypt" else sealed
            yield lambda: drained(call(given, key))

        for what, function in (("multipart_chunk", chunk), ("file_stream", stream)):
            path = f"{name}_{what}_async"
            case(f"lenzeye.{path}", f"anyseal.compat.lenzeye.{path}")(function)

    _lenzeye(_name)


# ---- S3


def _bucket(bed: Bed) -> Any:
    from anyseal.s3 import SealedBucket

    client, bucket = bed.servers["s3"]
    return SealedBucket(client, bucket, bed.key)


for _name in ("put", "get", "get_range", "stream", "download_file", "upload_part"):

    def _s3(name: str) -> None:
        async def called(bed: Bed) -> AsyncIterator[Work]:
            bucket, path = _bucket(bed), bed.path("download")
            await bucket.put("object", bed.data)
            uploads = [await bucket.create_upload("parts", part_size=bed.size)]
            calls: dict[str, Work] = {
                "put": lambda: bucket.put("object", bed.data),
                "get": lambda: bucket.get("object"),
                "get_range": lambda: bucket.get_range("object", 1, bed.size - 1),
                "stream": lambda: drained(bucket.stream("object")),
                "download_file": lambda: bucket.download_file("object", path, overwrite=True),
                "upload_part": lambda: bucket.upload_part(uploads[0], 1, bed.data),
            }
            yield calls[name]
            path.unlink(missing_ok=True)

        reads = ("read", "read_into") if name == "get" else ()
        paths = [f"anyseal.s3.SealedBucket.{name}", *(f"anyseal.s3.S3Source.{it}" for it in reads)]
        case(f"s3.{name}", *paths, needs="s3")(called)

    _s3(_name)
