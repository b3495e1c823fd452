"""What goes wrong between a cache and a backend elsewhere, and what the HTTP API refuses."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import httpx
import pytest

from anyseal import ConfigurationError
from anyseal.cache.backends._wire import BODY_MAX_BYTES, KEYS_MAX
from anyseal.cache.backends.adapters import AiocacheBackend, CashewsBackend
from anyseal.cache.backends.http import BlockingHttpBackend, HttpBackend
from anyseal.cache.backends.memcached import BlockingMemcachedBackend, MemcachedBackend
from anyseal.cache.backends.memory import MemoryBackend
from anyseal.cache.backends.server import CacheServer
from anyseal.errors import BackendError
from asgi_server import CacheApi
from cache_backends import CACHE_TOKEN, Awaited
from servers import free_port
from storage_servers import Memcached
from support import in_turn, pattern

pytest_plugins = ["server_fixtures"]
pytestmark = pytest.mark.anyio


def far(port: int) -> list[Any]:
    """Each backend that is elsewhere, at *port*, awaitable."""
    url = f"http://127.0.0.1:{port}/api"
    return [
        HttpBackend(url, token=CACHE_TOKEN, timeout=20),
        Awaited(BlockingHttpBackend(url, token=CACHE_TOKEN, timeout=20)),
        MemcachedBackend(port=port, timeout=4),
        Awaited(BlockingMemcachedBackend(port=port, timeout=4)),
    ]


async def every_call_fails(backend: Any, *, retryable: bool = True) -> None:
    """Each method raises BackendError, with this ``retryable``."""
    scans = getattr(getattr(backend, "inner", backend), "can_scan", True)
    calls = [
        backend.get_many(["a"]),
        backend.set("a", b"x"),
        backend.set("a", b"x", if_absent=True),
        backend.compare_and_set("a", b"x", b"y"),
        backend.delete_many(["a"]),
        *([anext(backend.scan("a"))] if scans else []),
    ]
    for call in in_turn(*calls):
        with pytest.raises(BackendError) as caught:
            await call
        assert retryable == caught.value.retryable
        assert CACHE_TOKEN not in str(caught.value)


@pytest.mark.parametrize("number", range(4))
async def test_backend_that_is_not_there_is_an_error(number: int) -> None:
    """One class for every kind of outage, so that a cache can do without."""
    backend = far(free_port())[number]
    await every_call_fails(backend)
    await backend.aclose()


@pytest.mark.parametrize("number", [0, 1])
def test_http_backend_survives_its_server(number: int) -> None:
    """Stopped and started again: errors in between, and no connection that stays broken."""
    server = CacheApi()
    backend = far(server.port)[number]

    async def main() -> None:
        assert await backend.set("a", b"x")
        await anyio.to_thread.run_sync(server.crash)
        await every_call_fails(backend)
        await anyio.to_thread.run_sync(server.start)
        assert [b"x"] == await backend.get_many(["a"])
        await backend.aclose()

    try:
        anyio.run(main)
    finally:
        server.close()


@pytest.mark.parametrize("number", [2, 3])
def test_memcached_backend_survives_its_server(number: int, memcached_server: Any) -> None:
    """Killed and started again: errors in between, and no connection that stays broken."""
    server = Memcached()
    backend = far(server.port)[number]

    async def main() -> None:
        assert await backend.set("a", b"x")
        server.crash()
        await every_call_fails(backend)
        server.start()
        assert [None] == await backend.get_many(["a"])
        server.freeze()
        with pytest.raises(BackendError, match="imeout"):
            await backend.get_many(["a"])
        server.thaw()
        await backend.aclose()

    try:
        anyio.run(main)
    finally:
        server.close()


async def test_memcached_takes_no_large_values(memcached_server: Any) -> None:
    """Said before anything is sent; the cache then keeps the value nowhere."""
    backend = MemcachedBackend(port=memcached_server.port)
    with pytest.raises(BackendError, match="no value above") as caught:
        await backend.set("a", bytes(1 << 20))
    assert not caught.value.retryable
    assert await backend.set("n" * 200, bytes((1 << 20) - 1024))
    await backend.aclose()


def test_memcached_refuses_nonsense() -> None:
    """Before the first call."""
    for wrong in ({"host": ""}, {"port": 0}, {"port": 70000}, {"timeout": 0}):
        with pytest.raises(ConfigurationError):
            MemcachedBackend(**wrong)  # type: ignore[arg-type]


class Broken(MemoryBackend):
    """A backend that fails."""

    def __init__(self, *, retryable: bool) -> None:
        super().__init__()
        self._retryable = retryable

    def _error(self) -> BackendError:
        error = BackendError("s3cret.example.com does not answer")
        error.retryable = self._retryable
        return error

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        raise self._error()

    async def scan(self, prefix: str) -> AsyncIterator[list[str]]:
        yield ["a"]
        raise self._error()


async def scan_into(found: list[str], backend: Any) -> None:
    """Append all names, as far as they come."""
    async for names in backend.scan(""):
        found += names


def through(application: Any, **settings: Any) -> HttpBackend:
    """A backend that talks to *application* without a socket."""
    client = httpx.AsyncClient(transport=httpx.ASGITransport(application))
    return HttpBackend("http://cache/api", client=client, **settings)


async def ask(server: Any, address: str, body: Any, **options: Any) -> httpx.Response:
    """One request to the server, as JSON unless it is bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **options.pop("headers", {})}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(server)) as client:
        return await client.request(
            options.pop("method", "POST"),
            "http://cache" + address,
            content=content,
            headers=headers,
            **options,
        )


async def test_server_takes_the_plainest_request() -> None:
    """``{key, value}`` is all that a client in another language needs to store an entry."""
    backend = MemoryBackend()
    for number, method in enumerate(("POST", "PUT")):
        value = b"sealed %d" % number
        body = {"key": "a", "value": base64.b64encode(value).decode()}
        answer = await ask(CacheServer(backend), "/api", body, method=method)
        assert (200, {"stored": True}) == (answer.status_code, answer.json())
        assert [value] == await backend.get_many(["a"])


@pytest.mark.parametrize(
    ("address", "body"),
    [
        ("", b""), ("", b"["), ("", b"[]"), ("", b"null"), ("", b"\xff"), ("", b"[" * 100_000),
        ("", b"9" * 100_000), ("", {}), ("", {"key": "a"}), ("", {"value": ""}),
        ("", {"key": 1, "value": ""}), ("", {"key": "", "value": ""}),
        ("", {"key": "a" * 201, "value": ""}), ("", {"key": "a b", "value": ""}),
        ("", {"key": "a\n", "value": ""}), ("", {"key": "\xe9", "value": ""}),
        ("", {"key": "a", "value": None}), ("", {"key": "a", "value": "x"}),
        ("", {"key": "a", "value": "eA==\n"}), ("", {"key": "a", "value": "eA", "x": 1}),
        *(("", {"key": "a", "value": "", "ttl_ms": ms}) for ms in (0, True, 1.5, 1e30, 10**15)),
        ("", {"key": "a", "value": "", "if_absent": 1}),
        *(("/get", {"keys": keys}) for keys in (None, "a", [1], ["a", ""])),
        ("/get", {"keys": ["a"] * (KEYS_MAX + 1)}), ("/get", {"keys": [["a"]]}),
        ("/delete", {}), ("/delete", {"keys": {"a": 1}}),
        ("/compare-and-set", {"key": "a", "value": ""}),
        ("/compare-and-set", {"key": "a", "expected": ""}),
        ("/compare-and-set", {"key": "a", "expected": None, "value": None}),
        ("/scan", {}), *(("/scan", {"prefix": prefix}) for prefix in (None, "a b", ["a"])),
    ],
)  # fmt: skip
async def test_server_refuses_what_is_malformed(address: str, body: Any) -> None:
    """Before it reaches the backend, and with words, not with a traceback."""
    answer = await ask(CacheServer(Broken(retryable=True)), "/api" + address, body)
    assert 400 == answer.status_code
    assert ["error"] == list(answer.json())


async def test_server_refuses_what_is_too_large() -> None:
    """By the announced length, and by the length that comes."""
    server = CacheServer(MemoryBackend(), max_value_bytes=1000)
    large = {"key": "a", "value": base64.b64encode(bytes(1001)).decode()}
    assert 413 == (await ask(server, "/api", large)).status_code
    length = {"Content-Length": str(BODY_MAX_BYTES + 1)}
    assert 413 == (await ask(server, "/api", b"{}", headers=length)).status_code
    for wrong in ("-1", "x", "9" * 30):
        assert (
            400 == (await ask(server, "/api", b"{}", headers={"Content-Length": wrong})).status_code
        )
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(8 << 20), "more_body": True}

    async def send(event: Any) -> None:
        sent.append(event)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/api", "headers": headers}
    await server(scope, receive, send)
    assert 413 == sent[0]["status"]


async def test_server_serves_its_addresses_only() -> None:
    """Methods, addresses and types; what a browser may send unasked is refused."""
    server = CacheServer(MemoryBackend(), path="/v1/cache")
    body = {"keys": []}
    for address in ("/", "/api", "/v1", "/v1/cachet", "/v1/cache/none", "/v1/cache/get/more"):
        assert 404 == (await ask(server, address, body)).status_code, address
    for method in ("GET", "PUT", "DELETE"):
        answer = await ask(server, "/v1/cache/get", body, method=method)
        assert (405, "POST") == (answer.status_code, answer.headers["allow"])
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = await ask(server, "/v1/cache/get", body, headers={"Content-Type": kind})
        assert 415 == answer.status_code
    kind = "Application/JSON; charset=utf-8"
    answer = await ask(server, "/v1/cache/get", body, headers={"Content-Type": kind})
    assert {"values": []} == answer.json()


async def test_server_asks_for_its_token() -> None:
    """Before it looks at anything else."""
    server = CacheServer(MemoryBackend(), token="right")
    for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "right"}):
        answer = await ask(server, "/none", b"", headers=given)
        assert (401, "Bearer") == (answer.status_code, answer.headers["www-authenticate"])
    await every_call_fails(through(server), retryable=False)
    await every_call_fails(through(server, token="wrong"), retryable=False)
    backend = through(server, token="right")
    assert await backend.set("a", b"x")
    assert [b"x"] == await backend.get_many(["a"])


@pytest.mark.parametrize(("retryable", "status"), [(True, 503), (False, 501)])
async def test_server_says_that_its_backend_fails(retryable: bool, status: int) -> None:
    """The client learns whether to try again, and not where the backend is."""
    server = CacheServer(Broken(retryable=retryable))
    answer = await ask(server, "/api/get", {"keys": ["a"]})
    assert status == answer.status_code
    assert "s3cret" not in answer.text
    with pytest.raises(BackendError) as caught:
        await through(server).get_many(["a"])
    assert retryable == caught.value.retryable


async def test_scan_that_breaks_off_is_an_error() -> None:
    """Half of the names must not pass for all of them: what is missing would not be cleared."""
    found: list[str] = []
    with pytest.raises(BackendError, match="broke off"):
        await scan_into(found, through(CacheServer(Broken(retryable=True))))
    assert ["a"] == found


async def test_server_closes_its_backend_at_the_end() -> None:
    """Through the lifespan protocol."""
    closed, sent = [], []

    class Closing(MemoryBackend):
        async def aclose(self) -> None:
            closed.append(True)

    events = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> dict[str, Any]:
        return {"type": next(events)}

    async def send(event: Any) -> None:
        sent.append(event["type"])

    await CacheServer(Closing())({"type": "lifespan"}, receive, send)
    assert ["lifespan.startup.complete", "lifespan.shutdown.complete"] == sent
    assert [True] == closed
    with pytest.raises(RuntimeError):
        await CacheServer(Closing())({"type": "websocket"}, receive, send)


async def test_http_gets_many_large_values_in_several_answers() -> None:
    """No answer is larger than both sides have agreed to hold."""
    backend = through(CacheServer(MemoryBackend()), timeout=60)
    values = [pattern(9 << 20, str(number)) for number in range(5)]
    for number, value in enumerate(values):
        await backend.set(f"n{number}", value)
    names = ["n0", "none", "n1", "n2", "n3", "n4"]
    assert [values[0], None, *values[1:]] == await backend.get_many(names)
    many = [f"m{number}" for number in range(KEYS_MAX + 5)]
    assert [None] * len(many) == await backend.get_many(many)
    assert 0 == await backend.delete_many(many)


# trio says that httpx leaves its generators to the collector when an answer is not read to its end.
left_unread = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")


def answering(status: int = 200, content: bytes = b"", **headers: str) -> Any:
    """Backends, async and blocking, whose server always gives this answer."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, stream=httpx.ByteStream(content), headers=headers)

    transport = httpx.MockTransport(answer)
    return [
        HttpBackend("http://cache/api", client=httpx.AsyncClient(transport=transport)),
        Awaited(BlockingHttpBackend("http://cache/api", client=httpx.Client(transport=transport))),
    ]


@left_unread
@pytest.mark.parametrize(
    "content",
    [
        b"", b"OK", b"[]", b"null", b"{}", b"[" * 100_000, b"\xff",
        b'{"values":[],"stored":1,"replaced":"x","deleted":-1}',
        b'{"values":[null,null],"stored":null,"replaced":[],"deleted":true}',
        b'{"values":["?"],"stored":0,"replaced":0,"deleted":1.5}', b'{"values":[1]}', b'["a b"]\n',
        b'["a"', b"x" * (3 << 20),
    ],
)  # fmt: skip
async def test_http_backend_trusts_no_answer(content: bytes) -> None:
    """Whatever the server says, there is a value as it was sent, or an error."""
    for backend in answering(content=content):
        for call in in_turn(
            backend.get_many(["a"]),
            backend.set("a", b"x"),
            backend.compare_and_set("a", b"x", None),
            backend.delete_many(["a"]),
        ):
            with pytest.raises(BackendError) as caught:
                await call
            assert not caught.value.retryable
        with pytest.raises(BackendError):
            await scan_into([], backend)


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(301, False), (400, False), (401, False), (404, False), (408, True), (429, True), (500, True),
     (501, False), (503, True), (204, False)],
)  # fmt: skip
async def test_http_backend_knows_what_may_go_away(status: int, retryable: bool) -> None:
    """Redirections are not followed: they could lead the token elsewhere."""
    for backend in answering(status, b"{}", location="http://elsewhere/"):
        await every_call_fails(backend, retryable=retryable)


@left_unread
async def test_http_backend_reads_no_endless_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends more than an answer can be is not read on."""
    monkeypatch.setattr("anyseal.cache.backends.http.ANSWER_MAX_BYTES", 1000)
    for backend in answering(content=b" " * 1001 + b'{"stored":true}'):
        with pytest.raises(BackendError, match="too large"):
            await backend.set("a", b"x")


async def test_http_backend_gives_up_in_time() -> None:
    """The whole of a request has one time limit, however slowly the answer drips."""

    async def drip(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep(30)

    with pytest.raises(BackendError, match="TimeoutError") as caught:
        await through(drip, timeout=0.05).get_many(["a"])
    assert caught.value.retryable


@pytest.mark.parametrize(
    "settings",
    [{"url": "cache"}, {"url": "ftp://cache"}, {"url": "http://"}, {"url": "http://c/?a=1"},
     {"token": "a b"}, {"token": "a\r\nX: y"}, {"token": "\xe9"}, {"token": ""}, {"token": 5},
     {"timeout": 0}, {"timeout": "5"}, {"timeout": None}, {"client": 5}, {"client": httpx}],
)  # fmt: skip
def test_http_backend_refuses_nonsense(settings: dict[str, Any]) -> None:
    """Before the first call, and without repeating it."""
    settings = {"url": "http://cache/api", **settings}
    for make in (HttpBackend, BlockingHttpBackend):
        with pytest.raises(ConfigurationError):
            make(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"token": ""},
        {"token": "\xe9"},
        {"path": "api"},
        {"path": "/api/"},
        {"max_value_bytes": 0},
        {"token": 5},
    ],
)
def test_server_refuses_nonsense(settings: dict[str, Any]) -> None:
    """An empty token is a forgotten one."""
    with pytest.raises(ConfigurationError):
        CacheServer(MemoryBackend(), **settings)


def test_http_sides_take_their_own_kind() -> None:
    """A client or a backend of the other side would fail at each request."""
    backend: Any
    for backend in (None, MemoryBackend().blocking):
        with pytest.raises(ConfigurationError, match="Backend"):
            CacheServer(backend)
    with httpx.Client() as client, pytest.raises(ConfigurationError, match="AsyncClient"):
        HttpBackend("http://cache", client=client)  # type: ignore[arg-type]


def test_aiocache_needs_bytes_left_alone() -> None:
    """Other serializers change the bytes, or run pickle on what comes back."""
    from aiocache import RedisCache, SimpleMemoryCache
    from aiocache.serializers import JsonSerializer, NullSerializer, PickleSerializer

    for wrong in (
        object(),
        SimpleMemoryCache(PickleSerializer()),
        SimpleMemoryCache(JsonSerializer()),
        RedisCache(),
        RedisCache(NullSerializer()),
    ):
        with pytest.raises(ConfigurationError):
            AiocacheBackend(wrong)
    assert "AiocacheBackend(SimpleMemoryCache)" == repr(AiocacheBackend(SimpleMemoryCache()))


def test_cashews_needs_bytes_left_alone() -> None:
    """As above."""
    from cashews import Cache

    for url, settings in (
        ("mem://", {"pickle_type": "default"}),
        ("mem://", {"secret": "x"}),
        ("redis://127.0.0.1", {}),
        (None, {}),
    ):
        cache = Cache()
        if url is not None:
            cache.setup(url, **settings)
        with pytest.raises(ConfigurationError):
            CashewsBackend(cache)
    with pytest.raises(ConfigurationError):
        CashewsBackend(object())


@pytest.mark.parametrize("package", ["aiocache", "cashews"])
def test_adapters_without_a_cache_keep_their_time(package: str) -> None:
    """A Cache bounds each call; who calls the backend itself would wait for ever."""
    import aiocache
    import cashews

    if package == "aiocache":
        inner: Any = aiocache.SimpleMemoryCache()
        backend: Any = AiocacheBackend(inner, timeout=0.1)
    else:
        inner = cashews.Cache()
        inner.setup("mem://")
        backend = CashewsBackend(inner, timeout=0.1)

    async def hang(*_args: Any, **_options: Any) -> None:
        await anyio.sleep(30)

    for name in ("multi_get", "get_many", "get", "set", "delete", "delete_many"):
        setattr(inner, name, hang)

    async def main() -> None:
        for call in (
            lambda: backend.get_many(["a"]),
            lambda: backend.set("a", b"1"),
            lambda: backend.compare_and_set("a", b"1", b"2"),
            lambda: backend.delete_many(["a"]),
        ):
            with anyio.fail_after(10), pytest.raises(BackendError, match=package):
                await call()

    anyio.run(main)
