"""Cache backends against servers that misbehave."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import redis
import redis.asyncio

from anyseal.cache.backends.http import BlockingHttpBackend, HttpBackend
from anyseal.cache.backends.memcached import BlockingMemcachedBackend, MemcachedBackend
from anyseal.cache.backends.redis import BlockingRedisBackend, RedisBackend
from anyseal.errors import BackendError
from evil.http_protocol import Answer, HttpProtocol, HttpRequest
from evil.memcached_protocol import MemcachedProtocol
from evil.redis_protocol import RedisProtocol
from evil.server import EvilServer
from evil.suite import (
    TIMEOUT,
    Calls,
    Target,
    awaited,
    behaviours,
    is_slow,
    survives,
    survives_cold,
    survives_late,
)

PLAIN: dict[str, Callable[[Any], Any]] = {
    "get_many": lambda backend: backend.get_many(["a"]),
    "get_many_of_two": lambda backend: backend.get_many(["a", "b"]),
    "set": lambda backend: backend.set("a", b"v", ttl_ms=9000),
    "set_if_absent": lambda backend: backend.set("a", b"v", if_absent=True),
    "compare_and_set": lambda backend: backend.compare_and_set("a", b"value-of-a", b"v"),
    "delete_many": lambda backend: backend.delete_many(["a", "b"]),
}
RANGED: dict[str, Callable[[Any], Any]] = {
    "put_range": lambda backend: backend.put_range("a", 0, b"v", ttl_ms=9000),
    "get_range": lambda backend: backend.get_range("a", 0, 100),
    "publish": lambda backend: backend.publish("{a}t", "{a}f", "{a}", b"v", ttl_ms=9000),
    "take_lease": lambda backend: backend.take_lease("{a}l", b"me", "{a}", ttl_ms=9000),
    "settle": lambda backend: backend.settle("{a}", b"v", "{a}l", b"me", ttl_ms=9000),
    "set_and_delete": lambda backend: backend.set_and_delete("{a}", b"v", ["{a}o"]),
    "delete_beside": lambda backend: backend.delete_beside(["{a}"], ["{a}o"]),
}


async def _scanned(backend: Any) -> list[str]:
    return [name async for names in backend.scan("x") for name in names]


def _scanned_blocking(backend: Any) -> list[str]:
    return [name for names in backend.scan("x") for name in names]


def _blocking(
    make: Callable[[EvilServer], Any], calls: dict[str, Callable[[Any], Any]]
) -> Callable[[EvilServer], Any]:
    @contextlib.contextmanager
    def made(server: EvilServer) -> Iterator[Calls]:
        backend = make(server)
        try:
            yield {name: (lambda call=call: call(backend)) for name, call in calls.items()}
        finally:
            backend.close()

    return made


def _async(
    make: Callable[[EvilServer], Any], calls: dict[str, Callable[[Any], Any]]
) -> Callable[[EvilServer], Any]:
    return lambda server: awaited(lambda: make(server), calls, lambda backend: backend.aclose())


def _redis(server: EvilServer) -> str:
    server.speaks.port = server.port  # type: ignore[attr-defined]
    return f"redis://127.0.0.1:{server.port}/0"


def _cluster(server: EvilServer) -> str:
    return _redis(server).replace("redis:", "redis+cluster:").removesuffix("/0")


def _sentinel(server: EvilServer) -> str:
    return _redis(server).replace("redis:", "redis+sentinel:").replace("/0", "/service/0")


def _api(request: HttpRequest) -> Answer:
    """The HTTP cache's API, whose every name holds ``value-of-NAME``."""
    import base64

    message = json.loads(request.body or b"{}")
    operation = request.path.removeprefix("/api").strip("/")
    answer: Any = {"stored": True}
    if operation == "get":
        values = [base64.b64encode(b"value-of-" + key.encode()) for key in message["keys"]]
        answer = {"values": [value.decode() for value in values]}
    elif operation == "compare-and-set":
        answer = {"replaced": True}
    elif operation == "delete":
        answer = {"deleted": len(message["keys"])}
    elif operation == "scan":
        return Answer(b'["xa"]\nnull\n')
    return Answer(json.dumps(answer).encode())


SCAN_BODIES = {
    "scan_of_numbers": b"[1]\nnull\n",
    "scan_of_an_object": b"{}\nnull\n",
    "scan_of_a_long_line": b'["' + b"x" * (8 << 20),
    "scan_without_an_end": b'["x"]\n' * 1000,
    "scan_after_its_end": b'null\n["x"]\n',
}


def _http() -> HttpProtocol:
    return HttpProtocol(_api, bodies=SCAN_BODIES)


WITH_SCAN = {**PLAIN, "scan": _scanned}
WITH_SCAN_BLOCKING = {**PLAIN, "scan": _scanned_blocking}


def _cluster_speaks() -> RedisProtocol:
    return RedisProtocol(cluster=True)


def _target(
    name: str, speaks: Callable[[], Any], make: Callable[[EvilServer], Any], *, blocking: bool,
    more: dict[str, Callable[[Any], Any]],
) -> tuple[Target, dict[str, Callable[[Any], Any]]]:  # fmt: skip
    calls = {**PLAIN, **more}
    face = _blocking if blocking else _async
    made = face(make, calls)
    return Target(name=name, speaks=speaks, make=made, errors=(BackendError,), fits=_fits), calls


def _fits(call: str, found: Any) -> bool:
    """Whether *found* is of the type that *call* returns."""
    if call == "scan":
        return isinstance(found, list) and all(name.startswith("x") for name in found)
    if call.startswith("get_many"):
        size = 2 if call.endswith("two") else 1
        return isinstance(found, list) and len(found) == size and all(map(_is_value, found))
    if call == "get_range":
        return isinstance(found, bytes) and len(found) <= 100
    if call == "take_lease":
        return isinstance(found, tuple) and isinstance(found[0], bool) and _is_value(found[1])
    if call.startswith("delete"):
        return isinstance(found, int) and not isinstance(found, bool) and 0 <= found <= 2
    return found is None if call == "put_range" else isinstance(found, bool)


def _is_value(found: Any) -> bool:
    return found is None or isinstance(found, bytes)


FULL, FULL_BLOCKING = {**RANGED, "scan": _scanned}, {**RANGED, "scan": _scanned_blocking}
MADE = [
    _target(
        "redis", RedisProtocol, lambda s: RedisBackend.from_url(_redis(s), timeout=TIMEOUT),
        blocking=False, more=FULL,
    ),
    _target(
        "redis-blocking", RedisProtocol,
        lambda s: BlockingRedisBackend.from_url(_redis(s), timeout=TIMEOUT),
        blocking=True, more=FULL_BLOCKING,
    ),
    _target(
        "cluster", _cluster_speaks,
        lambda s: RedisBackend.from_url(_cluster(s), timeout=TIMEOUT),
        blocking=False, more=FULL,
    ),
    _target(
        "cluster-blocking", _cluster_speaks,
        lambda s: BlockingRedisBackend.from_url(_cluster(s), timeout=TIMEOUT),
        blocking=True, more=FULL_BLOCKING,
    ),
    _target(
        "sentinel", RedisProtocol, lambda s: RedisBackend.from_url(_sentinel(s), timeout=TIMEOUT),
        blocking=False, more={},
    ),
    _target(
        "sentinel-blocking", RedisProtocol,
        lambda s: BlockingRedisBackend.from_url(_sentinel(s), timeout=TIMEOUT),
        blocking=True, more={},
    ),
    _target(
        "http", _http,
        lambda s: HttpBackend(f"http://127.0.0.1:{s.port}/api", timeout=TIMEOUT),
        blocking=False, more={"scan": _scanned},
    ),
    _target(
        "http-blocking", _http,
        lambda s: BlockingHttpBackend(f"http://127.0.0.1:{s.port}/api", timeout=TIMEOUT),
        blocking=True, more={"scan": _scanned_blocking},
    ),
    _target(
        "memcached", MemcachedProtocol, lambda s: MemcachedBackend(port=s.port, timeout=TIMEOUT),
        blocking=False, more={},
    ),
    _target(
        "memcached-blocking", MemcachedProtocol,
        lambda s: BlockingMemcachedBackend(port=s.port, timeout=TIMEOUT),
        blocking=True, more={},
    ),
]  # fmt: skip
TARGETS = {str(target): (target, calls) for target, calls in MADE}


class Given:
    """A backend over a client that its user made, and closes."""

    def __init__(self, kind: Any, client: Any, *args: Any, **options: Any) -> None:
        self._client = client
        self._backend = kind(*args, client=client, **options) if args else kind(client, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def close(self) -> None:
        self._backend.close()
        self._client.close()

    async def aclose(self) -> None:
        await self._backend.aclose()
        await self._client.aclose()


def _given_redis(kind: Any, backend: Any, **settings: Any) -> Callable[[EvilServer], Any]:
    def made(server: EvilServer) -> Given:
        server.speaks.port = server.port  # type: ignore[attr-defined]
        options = {} if backend is BlockingRedisBackend else {"timeout": TIMEOUT}
        return Given(backend, kind(host="127.0.0.1", port=server.port, **settings), **options)

    return made


def _given_http(kind: Any, backend: Any) -> Callable[[EvilServer], Any]:
    return lambda server: Given(
        backend, kind(), f"http://127.0.0.1:{server.port}/api", timeout=TIMEOUT
    )


GIVEN_MADE = [
    _target("redis-given", RedisProtocol, _given_redis(redis.asyncio.Redis, RedisBackend),
            blocking=False, more={}),
    _target("redis-blocking-given", RedisProtocol,
            _given_redis(redis.Redis, BlockingRedisBackend, socket_timeout=TIMEOUT),
            blocking=True, more={}),
    _target("redis-blocking-given-3", RedisProtocol,
            _given_redis(redis.Redis, BlockingRedisBackend, socket_timeout=TIMEOUT, protocol=3),
            blocking=True, more={}),
    _target("cluster-given", _cluster_speaks,
            _given_redis(redis.asyncio.RedisCluster, RedisBackend),
            blocking=False, more={}),
    _target("cluster-blocking-given", _cluster_speaks,
            _given_redis(redis.RedisCluster, BlockingRedisBackend, socket_timeout=TIMEOUT),
            blocking=True, more={}),
    _target("http-given", _http, _given_http(httpx.AsyncClient, HttpBackend),
            blocking=False, more={}),
    _target("http-blocking-given", _http, _given_http(httpx.Client, BlockingHttpBackend),
            blocking=True, more={}),
]  # fmt: skip
GIVEN = {str(target): target for target, _ in GIVEN_MADE}
FIRST = {
    "redis": [b"MGET", b"a"], "cluster": [b"MGET", b"a"], "sentinel": [b"MGET", b"a"],
    "http": HttpRequest("POST", "/api/get", {}, b'{"keys": ["a"]}'), "memcached": [b"get", b"a"],
}  # fmt: skip
SCAN = {**FIRST, "redis": [b"SCAN", b"0", b"MATCH", b"x*"], "cluster": [b"SCAN", b"0"]}


def _behaviours(target: Target, call: str) -> list[str]:
    requests: dict[str, Any] = SCAN if call == "scan" else FIRST
    return behaviours(target.speaks(), requests[target.name.partition("-")[0]])


WHOLE = ("get_many", "scan")
"""Calls that are tried with everything; of the others only what they do with an answer."""
SHARED = ("get_many", "set", "take_lease", "scan", "delete_many")
"""Calls that are tried over each backend; the others share their checks with Redis."""
TYPICAL = frozenset(
    {
        "huge_bulk_in_array", "large_array", "endless_nesting", "endless_status",
        "huge_value", "endless_line", "endless_body", "endless_headers", "endless_chunks",
        "endless_continue", "endless_names", "endless_error_text",
    }
)  # fmt: skip
"""Of the answers without an end, those that are tried each time."""

WAITS = frozenset({"push", "loading", "closes", "cut", "cut_last", "twice_late"})
"""Those that make a client try again, after a pause, or wait."""


def _case(name: str, call: str, *, every: bool = False) -> list[str]:
    """The behaviours that *call* is tried with, apart from the slow ones."""
    target, _ = TARGETS[name]
    return [
        does
        for does in _behaviours(target, call)
        if not is_slow(does)
        and (every or ("endless" not in does and "huge" not in does) or does in TYPICAL)
        and (every or call in WHOLE or does not in TYPICAL | WAITS)
        # redis-py believes that a node has moved to an address where no server is.
        and not (name.startswith("cluster") and does == "moved")
    ]


@pytest.mark.parametrize("name", TARGETS)
def test_backend_survives_each_answer(name: str) -> None:
    """An answer of the wrong shape, or without an end, is a failure of the backend and nothing
    else: no TypeError, no memory, no connection that answers the next call wrongly."""
    target, calls = TARGETS[name]
    tried = [call for call in calls if name.startswith("redis") or call in SHARED]
    assert [wrong for call in tried for wrong in survives(target, call, _case(name, call))] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_backend_survives_every_answer(name: str) -> None:
    """The same with all that a server can do in answer to each call."""
    target, calls = TARGETS[name]
    every = {call: _case(name, call, every=True) for call in calls}
    assert [wrong for call in calls for wrong in survives(target, call, every[call])] == []


@pytest.mark.parametrize("name", TARGETS)
def test_backend_survives_a_slow_server(name: str) -> None:
    """The timeout is that of the call: a server that sends a byte now and then is late."""
    target, calls = TARGETS[name]
    some = [call for call in ("get_many", "set", "compare_and_set", "scan") if call in calls]
    does = [each for each in _behaviours(target, "scan") if is_slow(each)]
    assert survives_late(target, some, does) == []


@pytest.mark.parametrize("name", [name for name in TARGETS if "http" not in name])
def test_backend_survives_a_handshake(name: str) -> None:
    """Connecting is part of the call, and what greets a client has its measure too."""
    target, _ = TARGETS[name]
    does = ["drip", "silent", "huge_bulk", "large_array", "endless_status", "integer", "closes"]
    if "memcached" in name:
        does = ["drip", "silent", "endless_line"]
    assert survives_cold(target, "get_many", does) == []


@pytest.mark.parametrize("name", GIVEN)
def test_backend_over_a_given_client_survives(name: str) -> None:
    """A client that its user made is bounded as well, whatever timeouts it has."""
    target = GIVEN[name]
    every = _behaviours(target, "get_many")
    late = [does for does in every if is_slow(does)]
    some = ["huge_bulk_in_array", "large_array", "integer", "twice", "twice_late", "cut", "closes"]
    some += ["endless_body", "endless_headers", "body_null"]
    wrong = survives(target, "get_many", [does for does in some if does in every])
    assert wrong + survives_late(target, ["get_many"], late) == []
