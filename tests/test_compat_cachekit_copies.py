"""cachekit's settings for what stands before the backend: copies in the process, the breaker."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import threading
import uuid
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

from anyseal import offload
from anyseal.cache import breaker as breakers
from anyseal.cache import local
from anyseal.compat import cachekit
from anyseal.compat.cachekit import (
    AutoSerializer,
    CircuitBreakerConfig,
    DecoratorConfig,
    EncryptionConfig,
    EncryptionWrapper,
    L1CacheConfig,
    cache,
    copies,
    filling,
)
from anyseal.compat.cachekit.stores import RedisStore
from evil.redis_protocol import SHAPES, RedisProtocol
from evil.server import EvilServer
from evil.suite import TIMEOUT
from storage_servers import RedisServer
from test_compat_cachekit import HEX, OTHER, AsyncPorted, Plain

pytest_plugins = ["server_fixtures"]

faces = pytest.mark.parametrize("face", ["sync", "async"])


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing from outside, and no copies of other tests."""
    for name in ("CACHEKIT_REDIS_URL", "REDIS_URL", "CACHEKIT_MASTER_KEY", copies.SIZE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(copies, "_layers", {})


class Asked(Plain):
    """A backend that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = self.writes = 0
        self.refuses: Exception | None = None

    def get(self, key: str) -> bytes | None:
        self.reads += 1
        return super().get(key)

    def set(self, key: str, value: bytes, ttl: int | None = None) -> None:
        self.writes += 1
        if self.refuses is not None:
            raise self.refuses
        super().set(key, value, ttl)


class Called:
    """One function over a backend, called from either face; it counts its calls."""

    def __init__(self, face: str, decorator: Any, value: Any = "plaintext") -> None:
        self.calls = 0

        def load(x: Any = 0) -> Any:
            self.calls += 1
            return {"x": x, "value": value}

        async def aload(x: Any = 0) -> Any:
            return load(x)

        aload.__qualname__ = load.__qualname__
        self.function = decorator(load if face == "sync" else aload)

    def _waited(self, result: Any) -> Any:
        return asyncio.run(result) if asyncio.iscoroutine(result) else result

    def __call__(self, x: Any = 0) -> Any:
        return self._waited(self.function(x))

    def invalidate(self, *args: Any) -> Any:
        return self._waited(self.function.invalidate_cache(*args))

    @property
    def hits(self) -> tuple[int, int, int]:
        """In this process, in the backend, and misses."""
        info = self.function.cache_info()
        assert info.hits == info.l1_hits + info.l2_hits
        return info.l1_hits, info.l2_hits, info.misses


def secure(backend: Any, **settings: Any) -> Any:
    return cache.secure(**{"master_key": HEX, "backend": backend, "ttl": 60, **settings})


def held() -> list[bytes]:
    """All copies in this process."""
    return [
        each[0]
        for sizes in copies._layers.values()
        for layer in sizes.values()
        for each in layer._held.values()
    ]


@faces
def test_cachekit_copies_are_ciphertext_and_answer_hits(face: str) -> None:
    """A hit costs no exchange, and a memory dump of the copies tells nothing."""
    backend = Asked()
    load = Called(face, secure(backend))
    assert [load(1)["x"] for _ in range(4)] == [1] * 4
    assert (1, 1, (3, 0, 1)) == (load.calls, backend.reads, load.hits)
    assert held() == list(backend.entries.values())
    assert b"plaintext" not in held()[0]
    other = Called(face, secure(backend, l1_enabled=False))
    other(1)
    assert (0, 2, (0, 1, 0)) == (other.calls, backend.reads, other.hits)
    again = Called(face, secure(backend))  # the same function over the same backend
    again(1)
    assert (1, 0, 0) == again.hits


@pytest.mark.parametrize("copied", [True, False])
def test_cachekit_callers_that_wait_are_hits_in_this_process(copied: bool) -> None:
    """One of twenty calls the function: the others' values come from it."""
    load = Called("async", secure(AsyncPorted(), l1_enabled=copied))  # answers without a thread

    async def herd() -> None:
        await asyncio.gather(*(load.function(1) for _ in range(20)))

    asyncio.run(herd())
    assert (1, (19, 0, 1)) == (load.calls, load.hits)


@faces
@pytest.mark.parametrize("all_entries", [False, True])
def test_cachekit_copies_end_at_invalidation(face: str, all_entries: bool) -> None:
    """What is invalidated is served by nobody in this process, of whatever tenant or store."""
    backend = Asked()
    tenants = iter("ab" * 4)
    decorate = secure(backend, tenant_extractor=lambda *args: next(tenants))
    load = Called(face, decorate)
    load(1), load(1)
    assert 2 == len(held())  # a copy for each tenant: they have the same key
    load.invalidate(*([] if all_entries else [1]))
    assert [] == held()
    assert {} == backend.entries or all_entries  # this backend lists nothing


@faces
def test_cachekit_copies_are_found_by_tenant_and_by_keys(face: str) -> None:
    """A copy is no way around the tenant's key, nor around a key that was removed."""
    backend = Asked()
    one = Called(face, secure(backend, tenant_extractor=lambda *args: "one"))
    one(1)
    two = Called(face, secure(backend, tenant_extractor=lambda *args: "two"))
    two(1)
    assert (0, 0, 1) == two.hits
    assert 1 == two.calls
    removed = Called(face, secure(backend, master_key=OTHER))
    removed(1)
    assert (1, 0) == (removed.calls, removed.hits[0])


@faces
@pytest.mark.parametrize("closed", [False, True])
def test_cachekit_copies_that_do_not_open_are_dropped(face: str, closed: bool) -> None:
    """A damaged copy goes before the policy decides; the entry in the backend is intact."""
    backend = Asked()
    load = Called(face, secure(backend, fail_closed=closed))
    load(1)
    [layer] = copies._layers["default"].values()
    [(key, (stored, *rest))] = layer._held.items()
    layer._held[key] = (stored[:-1] + bytes([stored[-1] ^ 1]), *rest)  # type: ignore[assignment]
    if closed:
        with pytest.raises(cachekit.DecryptionAuthenticationError):
            load(1)
    assert 1 == load(1)["x"]
    assert (1, 1) == (load.calls, len(backend.entries))
    assert held() == [stored]


@faces
@pytest.mark.parametrize(
    ("ttl", "later", "kept"), [(60, 58.5, True), (60, 59.5, False), (None, 299.5, False)]
)
def test_cachekit_copies_end_before_their_entry(
    face: str, ttl: Any, later: float, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second before it; after 299 seconds if the entry never ends."""
    backend = Asked()
    load = Called(face, secure(backend, ttl=ttl))
    load(1)
    now = local.time.monotonic()

    class Later:
        monotonic = staticmethod(lambda: now + later)

    monkeypatch.setattr(local, "time", Later)
    load(1)
    assert (2 - kept, 1) == (backend.reads, load.calls)


@faces
def test_cachekit_copies_have_a_size(face: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``CACHEKIT_L1_MAX_SIZE_MB`` and ``max_size_mb``: one copy has at most an eighth."""
    monkeypatch.setenv(copies.SIZE_VARIABLE, "1")
    backend = Asked()
    value = "".join(uuid.UUID(int=n).hex for n in range(3000))  # 96 KB
    load = Called(face, secure(backend), value)
    for x in range(20):
        load(x)
    assert 8 < len(held()) < 12
    large = Called(face, secure(backend), value * 2)
    large(100)
    assert 8 < len(held()) < 12
    large(100)
    assert (0, 1, 1) == large.hits
    wide = Called(face, secure(backend, l1=L1CacheConfig(max_size_mb=2)), value * 2)
    wide(200), wide(200)
    assert (1, 0, 1) == wide.hits
    for wrong in ("0", "x", "-1"):
        monkeypatch.setenv(copies.SIZE_VARIABLE, wrong)
        with pytest.raises(cachekit.ConfigurationError, match="MAX_SIZE_MB"):
            secure(Plain())(lambda: 1)


def test_cachekit_copies_are_not_what_was_invalidated_meanwhile() -> None:
    """An entry that is invalidated while it is computed leaves no copy."""
    began, go = threading.Event(), threading.Event()

    @secure(Asked())
    def load(x: int) -> int:
        began.set()
        go.wait(10)
        return x

    thread = threading.Thread(target=load, args=(1,))
    thread.start()
    began.wait(10)
    load.invalidate_cache(1)
    go.set()
    thread.join()
    assert [] == held()


@faces
def test_cachekit_breaker_settings_are_honoured(face: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that is down costs no call its timeout; it is asked again after a while."""
    backend = Asked()
    breaker = CircuitBreakerConfig(
        failure_threshold=2, recovery_timeout=1000, success_threshold=2, half_open_requests=2
    )
    load = Called(face, secure(backend, circuit_breaker=breaker, l1_enabled=False))
    health = load.function.get_health_status
    assert "closed" == health()["circuit_breaker"]["state"]
    backend.broken = True
    for _ in range(6):
        assert 1 == load(1)["x"]
    assert (6, 2, 2) == (load.calls, backend.reads, backend.writes)
    assert (False, "open") == (health()["healthy"], health()["circuit_breaker"]["state"])
    backend.broken = False
    now = breakers.time.monotonic()
    monkeypatch.setattr(breakers, "time", type("Later", (), {"monotonic": lambda: now + 1001}))
    for _ in range(3):
        load(1)
    assert (True, "closed") == (health()["healthy"], health()["circuit_breaker"]["reads"])
    assert (7, 5) == (load.calls, backend.reads)
    off = Called(face, secure(Asked(), circuit_breaker=CircuitBreakerConfig(enabled=False)))
    assert None is off.function.get_health_status()["circuit_breaker"]


@faces
def test_cachekit_breaker_does_not_count_refusals(face: str) -> None:
    """Redis that has no room for writes still serves reads."""
    backend = Asked()
    backend.refuses = type("ResponseError", (Exception,), {})("OOM")
    breaker = CircuitBreakerConfig(failure_threshold=2)
    load = Called(face, secure(backend, circuit_breaker=breaker, l1_enabled=False))
    for x in range(5):
        load(x)
    assert (5, 5) == (backend.reads, backend.writes)


@pytest.mark.parametrize(
    "wrong",
    [
        {"failure_threshold": 0}, {"success_threshold": 4}, {"recovery_timeout": 0},
        {"recovery_timeout": float("inf")}, {"half_open_requests": 0},
    ],
    ids=str,
)  # fmt: skip
def test_cachekit_breaker_refuses_settings(wrong: dict[str, Any]) -> None:
    """Found when the function is decorated."""
    with pytest.raises(cachekit.ConfigurationError):
        secure(Plain(), circuit_breaker=CircuitBreakerConfig(**wrong))
    with pytest.raises(TypeError, match="circuit_breaker must be a CircuitBreakerConfig"):
        secure(Plain(), circuit_breaker=True)


def test_cachekit_configuration_objects() -> None:
    """``config=`` means what its keywords mean; what is given beside it prevails."""
    backend = Plain()
    config = DecoratorConfig.secure(master_key=HEX, ttl=60, namespace="c", backend=backend)
    load = Called("sync", cache(config=config))
    load(1)
    assert ([60], True) == ([backend.ttl], "ns:c:" in next(iter(backend.entries)))
    assert HEX not in repr(config)
    Called("sync", cache.production(config=config, ttl=90, namespace="d"))(1)
    assert 90 == backend.ttl
    assert 300 == DecoratorConfig.minimal().ttl == DecoratorConfig.dev().ttl
    assert not DecoratorConfig.test().circuit_breaker.enabled
    clear = Called("sync", cache(config=DecoratorConfig.minimal(backend=backend)))
    clear(1)
    assert (300, None) == (backend.ttl, clear.function.get_health_status()["circuit_breaker"])
    told = EncryptionConfig(enabled=True, master_key=HEX, single_tenant_mode=True)
    Called("sync", cache(encryption=told, backend=backend, namespace="e"))(1)
    assert b"plaintext" not in list(backend.entries.values())[-1]
    for wrong in (
        lambda: DecoratorConfig.secure(master_key=HEX, encryption=False),
        lambda: DecoratorConfig.minimal(ttll=1),
        lambda: DecoratorConfig(encryption=True),
        lambda: DecoratorConfig(l1=L1CacheConfig(max_size_mb=0)),
        lambda: DecoratorConfig.io(),
        lambda: cache(config=config, encryption=False),
        lambda: cache.secure(config=config),
    ):
        with pytest.raises(cachekit.ConfigurationError):
            wrong()
    with pytest.raises(TypeError, match="config must be a DecoratorConfig"):
        cache(config={"ttl": 1})


def test_cachekit_health(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a health endpoint shows: both handlers, and each function's own view."""
    monkeypatch.setattr(cachekit.health, "_checkers", {})
    monkeypatch.setenv("CACHEKIT_REDIS_URL", redis_server.url)
    assert cachekit.health_check_handler(force=True)["healthy"]
    found = asyncio.run(cachekit.async_health_check_handler())
    assert ("healthy", "redis") == (found["status"], found["components"][0]["name"])
    monkeypatch.setenv("CACHEKIT_REDIS_URL", "redis://:secret@127.0.0.1:1")
    assert cachekit.health_check_handler()["healthy"]  # for ten seconds
    down = cachekit.get_health_checker().check_health(force=True)
    assert cachekit.HealthStatus.UNHEALTHY is down.status
    assert "secret" not in str(down.to_dict())
    load = Called("sync", cache(backend=None)).function
    assert ("healthy", "default") == tuple(load.check_health()[k] for k in ("status", "namespace"))
    aload = Called("async", cache(backend=None, namespace="n")).function
    assert "n" == asyncio.run(aload.check_health())["namespace"]


def test_cachekit_errors_after_decryption_are_no_attacks() -> None:
    """What verifies and cannot be read is its writer's: a miss, even where attacks raise."""

    class Picky(cachekit.StandardSerializer):
        def deserialize(self, data: bytes, metadata: Any = None) -> Any:
            raise LookupError("plaintext")

    wrapper = EncryptionWrapper(serializer=Picky(), master_key=HEX)
    with pytest.raises(cachekit.EncryptionError) as caught:
        wrapper.deserialize(*wrapper.serialize(1, cache_key="k"), cache_key="k")
    assert not isinstance(caught.value, cachekit.DecryptionAuthenticationError)
    assert "plaintext" not in str(caught.value)
    load = Called("sync", secure(Plain(), serializer=Picky(), fail_closed=True))
    load(1), load(1)
    assert 2 == load.calls


def test_cachekit_auto_serializer() -> None:
    """A hit has the types of the miss; what would change on the way is not stored."""
    serializer = AutoSerializer()
    value = {
        "t": (1, [2, (3,)]), "s": {1, "x"}, "f": frozenset([2.5]), "u": uuid.UUID(int=1),
        "d": [datetime.date(2026, 1, 2), datetime.time(3), datetime.datetime(2026, 1, 2)], "e": (),
    }  # fmt: skip
    found = serializer.deserialize(*serializer.serialize(value))
    assert (value, tuple, set) == (found, type(found["t"][1][1]), type(found["s"]))
    marks = {"__tuple__": True, "value": [1]}
    for wrong in (decimal.Decimal(1), {1: 2}, marks, [marks], object(), 2**64):
        with pytest.raises(TypeError):
            serializer.serialize(wrong)
    with pytest.raises(cachekit.ConfigurationError, match="auto is Python's own"):
        secure(Plain(), serializer="auto")(lambda: 1)
    assert cachekit.DefaultSerializer is cachekit.StandardSerializer


# ---- over Redis


@pytest.fixture
def redis_client(redis_server: RedisServer) -> Iterator[Any]:
    import redis

    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        yield client


@pytest.fixture(params=[True, False], ids=["scoped", "by URL"])
def redis_store(redis_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[RedisStore]:
    store = RedisStore(redis_server.url, scoped=request.param)
    yield store
    store.close()


def test_cachekit_async_calls_use_no_thread(
    redis_store: RedisStore, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither misses nor hits nor removals; and an event loop that ends leaves no connection."""

    def refuse(*args: Any) -> None:
        raise AssertionError("a thread was asked for")

    before = len(redis_client.client_list())
    with monkeypatch.context() as patch:
        patch.setattr(offload, "run_waiting", refuse)
        for settings in ({}, {"l1_enabled": False}, {"fail_closed": True}):
            load = Called("async", secure(redis_store, **settings))

            async def work(load: Called = load) -> None:
                assert [each["x"] for each in await asyncio.gather(*map(load.function, range(20)))]
                await asyncio.gather(*(load.function(x) for x in range(20)))
                outcome = await load.function.invalidate_cache(1)
                assert cachekit.InvalidationOutcome.SUCCEEDED is outcome

            asyncio.run(work())
            assert 20 == sum(load.hits[:2])
            redis_client.flushdb()
            copies._layers.clear()
    assert before == len(redis_client.client_list())


@faces
def test_cachekit_copies_do_not_outlive_what_redis_says(
    face: str, redis_store: RedisStore, redis_client: Any
) -> None:
    """A copy of an entry that is found late ends with it, not a whole ttl later."""
    Called(face, secure(redis_store, l1_enabled=False))(1)
    [name] = [name for name in redis_client.keys("*func:*") if b":reg:" not in name]
    redis_client.pexpire(name, 30_000)
    load = Called(face, secure(redis_store))
    load(1)
    [layer] = copies._layers["default"].values()
    [(_, _, until)] = layer._held.values()
    assert 20 < until - local.time.monotonic() <= 29
    layer.drop_names(None)
    redis_client.pexpire(name, 900)
    load(1)
    assert [] == held()


@pytest.mark.slow
def test_cachekit_large_entries_over_redis(redis_server: RedisServer, redis_client: Any) -> None:
    """Above what an event loop sends: both faces read what either stored."""
    redis_store = RedisStore(redis_server.url, scoped=True)
    value = "".join(uuid.UUID(int=n).hex for n in range(540_000))  # 17 MB
    load = Called("async", secure(redis_store, l1_enabled=False), value)
    load(1)
    other = Called("sync", secure(redis_store, l1_enabled=False), value)
    assert value == other(1)["value"] == load(1)["value"]
    assert (1, 1, 0, 1) == (load.calls, load.hits[1], other.calls, other.hits[1])
    redis_store.close()


@faces
@pytest.mark.parametrize("behaviour", ["drip", "silent", "junk_endless"])
def test_cachekit_calls_of_redis_end_in_time(face: str, behaviour: str) -> None:
    """A server that sends a byte now and then, or without an end, holds up no caller."""
    with EvilServer(RedisProtocol()) as server:
        server.does = behaviour
        store = RedisStore(f"redis://127.0.0.1:{server.port}", timeout=TIMEOUT)
        breaker = CircuitBreakerConfig(failure_threshold=1)
        load = Called(face, secure(store, circuit_breaker=breaker))
        began = monotonic()
        assert 1 == load(1)["x"] == load(1)["x"]
        assert monotonic() - began < 10  # without a deadline: 30 s at least
        store.close()


@faces
@pytest.mark.parametrize("answer", [42, [], "text", {}, (b"a",)], ids=repr)
def test_cachekit_answers_that_are_no_entry_are_failures(face: str, answer: Any) -> None:
    """A backend that answers nonsense costs the hit, not the call."""
    backend = Asked()
    load = Called(face, secure(backend))
    backend.get = lambda key: answer  # type: ignore[method-assign]
    assert 1 == load(1)["x"]


@faces
def test_cachekit_over_a_wrong_redis_calls_the_function(
    face: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever Redis answers, the caller gets the function's result."""
    monkeypatch.setattr(filling, "LOCK_WAIT", 0.0)  # some answers mean that another has the lock
    with EvilServer(RedisProtocol()) as server:
        store = RedisStore(f"redis://127.0.0.1:{server.port}", timeout=TIMEOUT)
        settings = {"circuit_breaker": CircuitBreakerConfig(enabled=False), "l1_enabled": False}
        load = Called(face, secure(store, **settings))
        kept = Called(face, secure(store, circuit_breaker=CircuitBreakerConfig(enabled=False)))
        for shape in SHAPES:
            server.does = shape
            assert 1 == load(1)["x"] == kept(1)["x"], shape
            load.invalidate(1)
        store.close()
