"""cachekit's decorator: what it stores, what it refuses, and how it fails."""

from __future__ import annotations

import asyncio
import datetime
import functools
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import pytest

from anyseal.compat import cachekit
from anyseal.compat.cachekit import (
    EncryptionWrapper,
    OrjsonSerializer,
    cache,
    frame,
    serializers,
)
from anyseal.compat.cachekit.stores import MemoryStore, RedisStore
from storage_servers import RedisServer
from support import run_python, said

pytest_plugins = ["server_fixtures"]

HEX = "a" * 64
OTHER = "b" * 64


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing from outside."""
    for name in list(os.environ):
        if name.startswith("CACHEKIT_") or name == "REDIS_URL":
            monkeypatch.delenv(name)


class Plain:
    """What cachekit calls a backend, as a dict."""

    key_prefix = ""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}
        self.ttl: Any = None
        self.broken = False

    def _check(self) -> None:
        if self.broken:
            raise ConnectionError("secret text")

    def get(self, key: str) -> bytes | None:
        self._check()
        return self.entries.get(key)

    def set(self, key: str, value: bytes, ttl: int | None = None) -> None:
        self._check()
        self.entries[key], self.ttl = value, ttl

    def delete(self, key: str) -> bool:
        self._check()
        return self.entries.pop(key, None) is not None


class Ported:
    """A BlockingBackend of anyseal."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}

    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        return [self.entries.get(name) for name in names]

    def set(
        self, name: str, value: bytes, *, ttl_ms: int | None = None, if_absent: bool = False
    ) -> bool:
        self.entries[name] = value
        return True

    def delete_many(self, names: Sequence[str]) -> int:
        return sum(self.entries.pop(name, None) is not None for name in names)

    def scan(self, prefix: str) -> Iterator[list[str]]:
        yield [name for name in self.entries if name.startswith(prefix)]

    def close(self) -> None: ...


class AsyncPorted:
    """A Backend of anyseal."""

    def __init__(self) -> None:
        self._blocking = Ported()
        self.entries = self._blocking.entries

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        return self._blocking.get_many(names)

    async def set(self, name: str, value: bytes, **settings: Any) -> bool:
        return self._blocking.set(name, value, **settings)

    async def delete_many(self, names: Sequence[str]) -> int:
        return self._blocking.delete_many(names)

    async def scan(self, prefix: str) -> AsyncIterator[list[str]]:
        for names in self._blocking.scan(prefix):
            yield names

    async def aclose(self) -> None: ...


class Counted:
    """A function that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def sync(self, decorator: Any) -> Any:
        @decorator
        def load(x: Any, y: int = 2) -> Any:
            self.calls += 1
            return {"x": x, "y": y, "secret": "plaintext"}

        return load

    def asynchronous(self, decorator: Any) -> Any:
        @decorator
        async def load(x: Any, y: int = 2) -> Any:
            self.calls += 1
            return {"x": x, "y": y, "secret": "plaintext"}

        return load


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture
def plain() -> Plain:
    return Plain()


def test_cachekit_secure_keeps_ciphertext(counted: Counted, plain: Plain) -> None:
    """The backend never sees a value, and the function runs once."""
    load = counted.sync(cache.secure(ttl=300, master_key=HEX, backend=plain))
    assert load(1) == load(1) == {"x": 1, "y": 2, "secret": "plaintext"}
    assert 1 == counted.calls
    [(key, stored)] = plain.entries.items()
    assert b"plaintext" not in stored
    assert 300 == plain.ttl
    assert "771e9efb32bb765d594b70713c8f47e0" == frame.read(stored)[2].key_fingerprint
    assert key.startswith("func:")
    assert key.endswith(":1s")
    assert "load" == load.__name__
    assert {"x": 1, "y": 2, "secret": "plaintext"} == load.__wrapped__(1)
    assert {"x": 5} == {"x": load(5, _bypass_cache=True)["x"]}
    assert 1 == len(plain.entries)


@pytest.mark.parametrize(
    ("form", "ttl", "end"),
    [
        (cache, None, ":1s"), (cache.minimal, 300, ":0s"), (cache.production, 600, ":1s"),
        (cache.dev, 300, ":1s"), (cache.test, 300, ":0s"), (cache.io, 3600, ":1s"),
    ],
)  # fmt: skip
def test_cachekit_presets(
    form: Any, ttl: int | None, end: str, counted: Counted, plain: Plain
) -> None:
    """Time to live and checksums of each."""
    load = counted.sync(form(backend=plain))
    assert load(1) == load(1)
    assert (1, ttl) == (counted.calls, plain.ttl)
    assert [end] == [key[-3:] for key in plain.entries]
    assert all(not frame.read(stored)[2].encrypted for stored in plain.entries.values())


def test_cachekit_decorator_without_parentheses(counted: Counted) -> None:
    """Both spellings; and results are not shared objects."""
    load = counted.sync(cache)
    first = load(1)
    first["x"] = "changed by the caller"
    assert 1 == load(1)["x"]
    assert 1 == load(1)["x"]
    assert 1 == counted.calls
    again = counted.sync(cache.local)
    assert again(2) == again(2)


@pytest.mark.parametrize("key", [HEX, bytes.fromhex(HEX), "AB" * 40])
def test_cachekit_master_key_forms(key: Any, counted: Counted) -> None:
    """Hexadecimal or raw, 32 bytes or more."""
    load = counted.sync(cache.secure(master_key=key, backend=None))
    assert load(1) == load(1)
    assert 1 == counted.calls


def test_cachekit_master_key_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """At decoration, in the words that operators look for."""
    needs = "cache.secure requires master_key parameter or CACHEKIT_MASTER_KEY environment variable"
    with pytest.raises(cachekit.ConfigurationError) as caught:
        cache.secure(ttl=300)
    assert needs == str(caught.value)
    with pytest.raises(cachekit.ConfigurationError, match="requires master_key parameter"):
        cache.secure(lambda: None)
    malformed = "CACHEKIT_MASTER_KEY must be hex-encoded, minimum 32 bytes"
    good = "007f80ffa55ac33c1ee12dd24bb469968778f00f01102332455467768998abba"
    rejected = [
        "not_hex", good + "0", good[:-1], good[:-1] + "g", good + "gg", "+" + good[1:], good[:62],
        good[:48], good[:62] + "\r\n", "00 7f 80" + good[6:62], "0x" + good[:62], " ",
    ]  # fmt: skip
    for key in rejected:
        monkeypatch.setenv("CACHEKIT_MASTER_KEY", key)
        with pytest.raises(cachekit.ConfigurationError) as caught:
            cache.secure(backend=None)
        assert malformed == str(caught.value)
        with pytest.raises(cachekit.ConfigurationError, match="master_key must be hex-encoded"):
            cache.secure(master_key=key, backend=None)
    monkeypatch.setenv("CACHEKIT_MASTER_KEY", good)
    wrapper = EncryptionWrapper()
    assert "f3b07cd5f8ffa96a55243a22fc252200" == wrapper.get_encryption_info()["key_fingerprint"]
    assert good not in repr(wrapper)


@pytest.mark.parametrize(
    "settings",
    [
        {"unknown": 1}, {"ttl": 0}, {"ttl": -1}, {"ttl": float("nan")}, {"ttl": True},
        {"ttl": "5"}, {"serializer": "auto"}, {"serializer": 7}, {"encryption": False},
        {"integrity_checking": False}, {"config": None}, {"namespace": ""}, {"backend": 7},
        {"backend": "no-url"}, {"deployment_uuid": "x"}, {"master_key": "short"},
        {"single_tenant_mode": True, "tenant_extractor": str}, {"interop": "op"},
        {"interop": "OP", "namespace": "users"},
        {"interop": "op", "namespace": "users", "tenant_extractor": str},
        {"interop": "op", "namespace": "users", "key": str},
        {"interop": "op", "namespace": "users", "serializer": "orjson"},
    ],
    ids=str,
)  # fmt: skip
def test_cachekit_secure_refuses(settings: dict[str, Any], counted: Counted) -> None:
    """A setting that is wrong is found when the function is decorated, not in production."""
    with pytest.raises((cachekit.ConfigurationError, cachekit.InteropError)):
        counted.sync(cache.secure(**{"master_key": HEX, "backend": None, **settings}))


def test_cachekit_settings_without_effect_warn(counted: Counted) -> None:
    """Nobody should believe that a breaker is there."""
    with pytest.warns(cachekit.CompatWarning, match="stale_ttl has no effect"):
        cache(backend=None, stale_ttl=60)
    with pytest.raises(cachekit.ConfigurationError, match="did you mean namespace"):
        cache(namespaec="x")


def test_cachekit_plaintext_beside_a_master_key_is_a_question(
    counted: Counted, plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forgotten ``.secure`` must not put values into a shared backend in the clear."""
    monkeypatch.setenv("CACHEKIT_MASTER_KEY", HEX)
    with pytest.raises(cachekit.ConfigurationError, match="would not encrypt"):
        counted.sync(cache(backend=plain))
    counted.sync(cache(backend=None))(1)
    counted.sync(cache(backend=plain, encryption=False))(1)
    for wrong in (
        {"master_key": HEX},
        {"encryption": True, "master_key": HEX},
        {"encryption": 1.5},
    ):
        with pytest.raises(cachekit.ConfigurationError):
            cache(backend=plain, **wrong)
    load = counted.sync(cache(backend=plain, encryption=True, single_tenant_mode=True))
    load(2)
    assert frame.read(list(plain.entries.values())[-1])[2].encrypted


def test_cachekit_encryption_wrapper_as_serializer(counted: Counted, plain: Plain) -> None:
    """The documented way to encrypt JSON makes what ``cache.secure`` makes."""
    wrapper = EncryptionWrapper(serializer=OrjsonSerializer(), master_key=bytes.fromhex(HEX))
    load = counted.sync(cache(serializer=wrapper, backend=plain))
    load(1)
    same = counted.sync(cache.secure(serializer="orjson", master_key=HEX, backend=plain))
    assert {"x": 1, "y": 2, "secret": "plaintext"} == same(1)
    assert (1, 1) == (counted.calls, len(plain.entries))
    standard = counted.sync(cache(serializer=EncryptionWrapper(master_key=HEX), backend=plain))
    assert standard(1) == standard(1)
    assert {":1o", ":1s"} == {key[-3:] for key in plain.entries}


def test_cachekit_wrapper_binds_the_key() -> None:
    """The imperative interface, with its errors."""
    wrapper = EncryptionWrapper(master_key=HEX, tenant_id="t1")
    sealed, metadata = wrapper.serialize([1], cache_key="k")
    assert [1] == wrapper.deserialize(sealed, metadata, cache_key="k")
    assert [1] == wrapper.deserialize(sealed, metadata.to_dict(), "k")
    with pytest.raises(cachekit.DecryptionAuthenticationError):
        wrapper.deserialize(sealed, metadata, cache_key="other")
    with pytest.raises(cachekit.TenantMismatchError):
        EncryptionWrapper(master_key=HEX).deserialize(sealed, metadata, cache_key="k")
    plain, told = cachekit.StandardSerializer().serialize([1])
    with pytest.raises(cachekit.DecryptionAuthenticationError):
        wrapper.deserialize(plain, told, cache_key="k")
    with pytest.raises(ValueError):
        wrapper.serialize([1])
    with pytest.raises(TypeError):
        wrapper.serialize([1], 7)  # type: ignore[arg-type]
    with pytest.raises(cachekit.EncryptionError):
        EncryptionWrapper()
    for tenant in ("", "x" * 1025, "\ud800", None):
        with pytest.raises(cachekit.TenantResolutionError):
            EncryptionWrapper(master_key=HEX, tenant_id=tenant)  # type: ignore[arg-type]


def damage(plain: Plain, how: str) -> None:
    """Change the one entry."""
    [(key, stored)] = plain.entries.items()
    payload, _, metadata = frame.read(stored)
    plain.entries[key] = {
        "flip": stored[:-1] + bytes([stored[-1] ^ 1]),
        "cut": stored[:-20],
        "header": stored[:9],
        "garbage": b"garbage",
        "plaintext": frame.write(*_plaintext()),
        "other serializer": frame.write(payload, "orjson", metadata),
        "empty": b"",
    }[how]


def _plaintext() -> tuple[bytes, str, frame.Metadata]:
    payload, metadata = cachekit.StandardSerializer().serialize({"forged": True})
    return payload, "default", metadata


DAMAGES = ["flip", "cut", "header", "garbage", "plaintext", "other serializer", "empty"]


@pytest.mark.parametrize("how", DAMAGES)
def test_cachekit_damaged_entry_is_replaced(
    how: str, counted: Counted, plain: Plain, caplog: pytest.LogCaptureFixture
) -> None:
    """By default the function runs again; the log says so, without keys or values."""
    load = counted.sync(cache.secure(master_key=HEX, backend=plain, l1_enabled=False))
    expected = load(1)
    damage(plain, how)
    with caplog.at_level(logging.WARNING):
        assert expected == load(1) == load(1)
    assert 2 == counted.calls
    assert 1 == sum(each.name.startswith("anyseal") for each in caplog.records)
    assert "plaintext" not in caplog.text
    assert "args" not in caplog.text


def test_cachekit_fail_closed_raises_and_keeps_the_entry(
    counted: Counted, plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a wrong answer is worse than none."""
    monkeypatch.setenv("CACHEKIT_ENCRYPTION_FAIL_CLOSED", "true")
    load = counted.sync(cache.secure(master_key=HEX, backend=plain, l1_enabled=False))
    load(1)
    damage(plain, "flip")
    with pytest.raises(cachekit.DecryptionAuthenticationError) as caught:
        load(1)
    assert "Decryption failed: authentication tag verification failed" == str(caught.value)
    assert (1, 1) == (counted.calls, len(plain.entries))
    damage(plain, "plaintext")
    assert 1 == load(1)["x"]  # an entry in the clear is a miss always
    other = counted.sync(cache.secure(master_key=OTHER, backend=plain, l1_enabled=False))
    with pytest.raises(cachekit.DecryptionAuthenticationError):
        other(1)
    monkeypatch.setenv("CACHEKIT_ENCRYPTION_FAIL_CLOSED", "perhaps")
    with pytest.raises(cachekit.ConfigurationError):
        cache.secure(master_key=HEX, backend=None)


def test_cachekit_previous_keys_open(
    counted: Counted, plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotation without losing entries, by fingerprint."""
    counted.sync(cache.secure(master_key=HEX, backend=plain))(1)
    monkeypatch.setenv("CACHEKIT_PREVIOUS_MASTER_KEYS", HEX)
    load = counted.sync(cache.secure(master_key=OTHER, backend=plain))
    load(1)
    assert 1 == counted.calls
    load(2)
    new = EncryptionWrapper(master_key=OTHER, previous_master_keys=[])
    metadata = frame.read(list(plain.entries.values())[-1])[2]
    assert new.get_encryption_info()["key_fingerprint"] == metadata.key_fingerprint
    for wrong in (",".join(["c" * 64, "d" * 64, "e" * 64, "f" * 64]), "xyz", OTHER, OTHER.upper()):
        monkeypatch.setenv("CACHEKIT_PREVIOUS_MASTER_KEYS", wrong)
        with pytest.raises(cachekit.KeyringConfigurationError):
            cache.secure(master_key=OTHER, backend=plain)


def test_cachekit_rotation_list(
    counted: Counted, plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``key_rotation_enabled``: the first key of the list seals, the others open."""
    counted.sync(cache.secure(master_key=HEX, backend=plain))(1)
    monkeypatch.setenv("CACHEKIT_MASTER_KEY_ROTATION", f"{OTHER}, {HEX}")
    load = counted.sync(
        cache.secure(master_key=HEX, key_rotation_enabled=True, backend=plain, fail_closed=True)
    )
    load(1)
    load(2)
    assert 2 == counted.calls
    only_new = counted.sync(cache.secure(master_key=OTHER, backend=plain, fail_closed=True))
    assert 2 == only_new(2)["x"]
    with pytest.raises(cachekit.DecryptionAuthenticationError):
        only_new(1)
    without = counted.sync(cache.secure(master_key=HEX, backend=plain, fail_closed=True))
    assert 1 == without(1)["x"]
    monkeypatch.setenv("CACHEKIT_MASTER_KEY_ROTATION", "bad")
    with pytest.raises(cachekit.ConfigurationError):
        cache.secure(master_key=HEX, key_rotation_enabled=True, backend=plain)


def test_cachekit_tenants(counted: Counted, plain: Plain) -> None:
    """Each tenant has a key of its own; an entry of another one is no answer."""
    tenant: ContextVar[Any] = ContextVar("tenant")
    load = counted.sync(
        cache.secure(master_key=HEX, tenant_extractor=lambda x, y=2: tenant.get(), backend=plain)
    )
    load(1)  # no tenant: called without the cache
    assert {} == plain.entries
    tenant.set("tenant_1")
    load(1)
    load(1)
    assert 2 == counted.calls
    assert "tenant_1" == frame.read(next(iter(plain.entries.values())))[2].tenant_id
    tenant.set("tenant_2")
    load(1)
    assert 3 == counted.calls
    for wrong in ("", 7, "x" * 2000):
        tenant.set(wrong)
        load(1)
    assert 6 == counted.calls

    class Extractor:
        def extract(self, args: Any, kwargs: Any) -> str:
            return str(args[0])

    closed = counted.sync(
        cache.secure(
            master_key=HEX, backend=plain, tenant_extractor=Extractor(), fail_closed=True,
            key=lambda x, y=2: "same",
        )
    )  # fmt: skip
    closed("a")
    with pytest.raises(cachekit.TenantMismatchError):
        closed("b")


def test_cachekit_backend_that_fails_does_not_fail_the_call(
    counted: Counted, plain: Plain, caplog: pytest.LogCaptureFixture
) -> None:
    """A cache is an optimisation."""
    load = counted.sync(cache.secure(master_key=HEX, backend=plain))
    plain.broken = True
    assert 1 == load(1)["x"]
    assert cachekit.InvalidationOutcome.FAILED == load.invalidate_cache(1)
    assert None is load.invalidate_cache()
    assert "secret text" not in caplog.text
    unreachable = counted.sync(cache.secure(master_key=HEX, backend="redis://127.0.0.1:1"))
    assert 1 == unreachable(1)["x"]
    unknown = counted.sync(cache.secure(master_key=HEX, backend="https://127.0.0.1:1/api"))
    assert 1 == unknown(1)["x"]


def test_cachekit_what_cannot_be_stored_is_returned(counted: Counted, plain: Plain) -> None:
    """Unusual results and arguments reach the caller as without a cache."""
    load = counted.sync(cache(backend=plain))
    thing = object()
    assert thing is load(thing)["x"]
    assert {} == plain.entries
    result = cache(backend=plain)(lambda: {1, 2})
    assert {1, 2} == result()
    assert {} == plain.entries
    failing = cache(backend=plain)(lambda: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            failing()


def test_cachekit_none_is_kept_and_large_results_are_not(
    plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is a result; the limit on sizes is a setting."""
    calls = []
    nothing = cache(backend=plain)(lambda: calls.append(1))
    assert None is nothing() is nothing()
    assert [1] == calls
    monkeypatch.setenv("CACHEKIT_MAX_VALUE_SIZE", "100")
    large = cache(backend=plain)(lambda: "x" * 200)
    large()
    assert 1 == len(plain.entries)


def test_cachekit_key_function_and_info(counted: Counted, plain: Plain) -> None:
    """Keys of one's own, counts, invalidation."""
    load = counted.sync(
        cache(key=lambda x, y=2: f"k{x}", namespace="ns1", backend=plain, l1_enabled=False)
    )
    load(1)
    load(1)
    [name] = plain.entries
    assert name.endswith("-ns1:k1")
    info = load.cache_info()
    assert (1, 1, 0, 1) == (info.hits, info.misses, info.l1_hits, info.l2_hits)
    assert cachekit.InvalidationOutcome.SUCCEEDED == load.invalidate_cache(1)
    assert {} == plain.entries
    local = counted.sync(cache(backend=None))
    local(1)
    assert cachekit.InvalidationOutcome.NO_L2 == local.invalidate_cache(1)
    local(1)
    local(2)
    assert None is local.invalidate_cache()
    local(1)
    assert 4 == local.cache_info().misses
    local.cache_clear()
    assert 0 == local.cache_info().misses
    bad = cache(key=lambda: "", backend=plain)(lambda: 1)
    assert 1 == bad()
    assert {} == plain.entries


@pytest.mark.parametrize("kind", [Plain, Ported, AsyncPorted])
def test_cachekit_backends_of_all_kinds_sync(kind: Any, counted: Counted) -> None:
    """Objects with cachekit's methods, and both of anyseal's ports."""
    backend = kind()
    load = counted.sync(cache.secure(master_key=HEX, backend=backend, key=lambda x, y=2: f"k {x}"))
    assert load("a" * 300) == load("a" * 300)
    assert load(1) == load(1)
    assert 2 == counted.calls
    assert cachekit.InvalidationOutcome.SUCCEEDED == load.invalidate_cache(1)
    assert 1 == len(backend.entries)
    auto = counted.sync(cache(backend=backend))
    auto(1)
    auto(2)
    auto.invalidate_cache()
    assert kind is Plain or 1 == len(backend.entries)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [Plain, Ported, AsyncPorted, None])
async def test_cachekit_backends_of_all_kinds_async(kind: Any, counted: Counted) -> None:
    """The same from ``async def``, on every event loop."""
    backend = kind and kind()
    load = counted.asynchronous(cache.secure(master_key=HEX, backend=backend))
    assert await load(1) == await load(1)
    large = "x" * 200_000
    assert large == (await load(large))["x"] == (await load(large))["x"]
    assert 2 == counted.calls
    assert (await load.invalidate_cache(1)) is not cachekit.InvalidationOutcome.FAILED
    await load(1)
    assert 3 == counted.calls
    assert None is await load.ainvalidate_cache()
    if backend is None:
        load.cache_clear()
    else:
        with pytest.raises(TypeError):
            load.cache_clear()
    await load(9, _bypass_cache=True)
    assert 4 == counted.calls


@pytest.mark.anyio
async def test_cachekit_async_damage_and_failure(counted: Counted) -> None:
    """As from ``def``."""
    plain = Plain()
    load = counted.asynchronous(cache.secure(master_key=HEX, backend=plain, l1_enabled=False))
    await load(1)
    damage(plain, "flip")
    await load(1)
    await load(1)
    assert 2 == counted.calls
    plain.broken = True
    assert 1 == (await load(1))["x"]
    closed = counted.asynchronous(
        cache.secure(master_key=HEX, backend=plain, l1_enabled=False, fail_closed=True)
    )
    plain.broken = False
    damage(plain, "flip")
    with pytest.raises(cachekit.DecryptionAuthenticationError):
        await closed(1)


def test_cachekit_documented_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the documentation of cachekit shows: keys from the environment, tables, no arguments."""
    import pandas as pd

    monkeypatch.setenv("CACHEKIT_MASTER_KEY", HEX)
    tables = EncryptionWrapper(serializer=cachekit.ArrowSerializer())
    calls = []

    @cache(serializer=tables, backend=None)
    def records(hospital_id: int) -> Any:
        calls.append(hospital_id)
        return pd.DataFrame({"id": [hospital_id, 2], "score": [1.5, 2.5]})

    assert records(1).equals(records(1))
    assert [1] == calls

    @cache.secure(ttl=300, backend=None)
    def nothing() -> Any:
        calls.append(2)
        return [1]

    assert [1] == nothing() == nothing()
    assert cachekit.InvalidationOutcome.NO_L2 == nothing.invalidate_cache()
    nothing()
    assert [1, 2, 2] == calls

    @cache(backend="https://cache.example.com/api", serializer=EncryptionWrapper())
    def secrets(tenant_id: str) -> Any: ...

    @cache(ttl=300, backend=None)
    def prices(item_id: int) -> int:
        calls.append(item_id)
        return item_id

    assert prices(3) == prices(3)
    assert [1, 2, 2, 3] == calls
    assert EncryptionWrapper is cachekit.serializers.EncryptionWrapper


def test_cachekit_interop_mode(plain: Plain) -> None:
    """The published key and a bare sealed value; spellings of one call are one entry."""
    calls = []

    @cache.secure(
        master_key="61" * 32, backend=plain, interop="get_user", namespace="users", l1_enabled=False
    )
    def get_user(user_id: int) -> Any:
        calls.append(user_id)
        return {"name": "alice", "age": 30}

    key = "users:get_user:61598716255080080f6456eb065c2e51badfaa4320b0efe97469c29cffee8875"
    plain.entries[key] = bytes.fromhex(
        "0d0e0f1011121314151617183c29af318238925ee76d081934adce133c0b4a7c5eb5704102b04582dcbf278ffd"
    )
    assert {"name": "alice", "age": 30} == get_user(42) == get_user(user_id=42) == get_user(42.0)
    assert [] == calls
    get_user(43)
    get_user(user_id=43)
    assert [43] == calls
    plain.entries[key] = plain.entries[key][:-1]
    get_user(42)
    assert [43, 42] == calls
    clear = cache(backend=plain, interop="op", namespace="users")(lambda x, y=1: [x, y])
    assert [1, 1] == clear(1) == clear(1, 1) == clear(x=1)
    assert b"\x92\x01\x01" in plain.entries.values()
    plain.key_prefix = "p:"
    with pytest.raises(cachekit.ConfigurationError):
        cache(backend=plain, interop="op", namespace="users")(lambda x: x)
    with pytest.raises(cachekit.ConfigurationError):
        cache(backend=None, interop="op", namespace="users")(lambda *x: x)


class Odd:
    """A serializer whose errors are its own."""

    def __init__(self) -> None:
        self.broken = False

    def serialize(self, obj: Any) -> tuple[bytes, frame.Metadata]:
        if obj is None:
            raise LookupError
        return repr(obj).encode(), frame.Metadata(format="odd")

    def deserialize(self, data: bytes, metadata: Any = None) -> Any:
        if self.broken:
            raise LookupError
        return "from the cache"


def test_cachekit_serializer_of_ones_own(plain: Plain) -> None:
    """Whatever it raises, the caller gets the result."""
    odd, results = Odd(), [1, None, 3]
    load = cache.secure(serializer=odd, master_key=HEX, backend=plain)(lambda i: results[i])
    assert [1, None, 3] == [load(i) for i in range(3)]
    assert ["from the cache", None] == [load(i) for i in range(2)]
    odd.broken = True
    assert 3 == load(2)
    assert {"Odd"} == {frame.read(stored)[1] for stored in plain.entries.values()}
    surrogate = cache(key=lambda: "\ud800", backend=plain)(lambda: 1)
    assert 1 == surrogate()


class Foreign:
    """Metadata as cachekit's own class has it."""

    format = object()  # an enum there

    def to_dict(self) -> dict[str, Any]:
        return {"format": "orjson", "encoding": "utf-8", "compressed": False}


@pytest.mark.parametrize(
    "metadata",
    [
        serializers.SerializationMetadata(serializers.SerializationFormat.ORJSON),
        serializers.SerializationMetadata("orjson", original_type="list"),
        {"format": "orjson"},
        Foreign(),
    ],
    ids=["ours", "text", "dict", "theirs"],
)
def test_cachekit_serializers_written_for_it_serve(metadata: Any, plain: Plain) -> None:
    """Their metadata is cachekit's class, or ours under its name, with an enum for the format."""

    class Written:
        def serialize(self, obj: Any) -> tuple[Any, Any]:
            return memoryview(repr(obj).encode()), metadata

        def deserialize(self, data: bytes, metadata: Any = None) -> Any:
            assert serializers.SerializationFormat.ORJSON == metadata.format
            return [data.decode()]

    load = cache.secure(serializer=Written(), master_key=HEX, backend=plain)(lambda i: i)
    assert (1, ["1"]) == (load(1), load(1))
    wrapper = EncryptionWrapper(serializer=Written(), master_key=HEX)
    sealed, told = wrapper.serialize(7, cache_key="k")
    assert ["7"] == wrapper.deserialize(sealed, told, cache_key="k")
    assert ["7"] == wrapper.deserialize(sealed, told.to_dict(), cache_key="k")


@pytest.mark.parametrize("made", [(b"x", None), ("text", {"format": "x"}), b"x", None])
def test_cachekit_serializer_that_is_wrong_does_not_fail_the_call(made: Any, plain: Plain) -> None:
    """Nothing is stored, and the caller gets the result."""

    class Wrong:
        def serialize(self, obj: Any) -> Any:
            return made

        def deserialize(self, data: bytes, metadata: Any = None) -> Any: ...

    for options in ({"master_key": HEX}, {}):
        form = cache.secure if options else cache
        assert 1 == form(serializer=Wrong(), backend=plain, **options)(lambda i: i)(1)
    assert {} == plain.entries


class Listed(Ported):
    """It lists what begins with a prefix, as ports do."""

    def scan(self, prefix: str) -> Iterator[list[str]]:
        assert prefix.isascii()
        assert " " not in prefix
        yield [name for name in self.entries if name.startswith(prefix)]


@pytest.mark.parametrize("namespace", ["users", "of Zoë", "n" * 90, "n" * 170])
@pytest.mark.parametrize("key", [None, lambda x: f"user {x} {{é}}", lambda x: str(x) * 300])
def test_cachekit_invalidating_all_finds_every_name(namespace: str, key: Any) -> None:
    """Also those that were escaped, cut or hashed: nothing old may be served."""
    backend, calls = Listed(), []

    def load(x: int) -> int:
        calls.append(x)
        return x

    def other(x: int) -> int:
        return x

    options = {"master_key": HEX, "namespace": namespace, "key": key}
    for kind in (backend, None):
        kept = cache.secure(backend=kind, **options)(load)
        beside = cache.secure(backend=kind, master_key=HEX, namespace="beside")(other)
        calls.clear()
        assert (1, 1, 1) == (beside(1), kept(1), kept(1))
        kept.invalidate_cache()
        assert 1 == kept(1)
        assert [1, 1] == calls
        beside(1)
        assert 1 == beside.cache_info().hits
    for name in backend.entries:
        assert len(name) <= 200
        assert not set(name) & set("{} é")


def test_cachekit_refuses_at_decoration(plain: Plain) -> None:
    """What could never be cached must not run uncached for ever."""

    def load(x: int) -> int:
        return x

    def stream() -> Any:
        yield 1

    async def astream() -> Any:
        yield 1

    secure = functools.partial(cache.secure, master_key=HEX, backend=plain)
    wrong: Any
    for wrong in ({"key": "user"}, {"tenant_extractor": "acme"}, {"serializer": 5},
                  {"backend": "ftp://secret@host"}):  # fmt: skip
        with pytest.raises(cachekit.ConfigurationError) as caught:
            secure(**wrong)(load)
        assert "secret" not in str(caught.value)
    for function in (stream, astream, Plain, staticmethod(load), functools.partial(load, 1)):
        with pytest.raises(TypeError):
            secure()(function)
    with pytest.raises(cachekit.ConfigurationError, match="serialize and deserialize"):
        EncryptionWrapper(serializer="orjson", master_key=HEX)  # type: ignore[arg-type]


def test_cachekit_without_its_extra_says_what_to_install() -> None:
    """Importing costs nothing; decorating names what is missing."""
    code = """
        import sys
        for name in ("blake3", "msgspec", "orjson", "pyarrow", "redis", "xxhash"):
            sys.modules[name] = None
        import anyseal.compat.duck
        from anyseal.compat import cachekit
        def attempt(**settings):
            try:
                cachekit.cache(**settings)(lambda: None)
            except cachekit.ConfigurationError as error:
                print(error)
        attempt(backend=None)
        for name in ("blake3", "msgspec", "xxhash"):
            del sys.modules[name]
        attempt(serializer="orjson", backend=None)
        attempt(serializer="arrow", backend=None)
        attempt(backend="redis://127.0.0.1")
    """
    assert [
        "this needs blake3: pip install 'anyseal[cachekit]'",
        "this needs orjson: pip install 'anyseal[cachekit]'",
        "this needs pyarrow: pip install 'anyseal[arrow]'",
        "this needs redis: pip install 'anyseal[redis]'",
    ] == said(run_python(code))


def test_cachekit_memory_store_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes, recency and time."""
    store = MemoryStore(max_bytes=3 * (1 + 100 + 200))
    for key in "abc":
        store.set(key, bytes(100), None)
    store.get("a")
    store.set("d", bytes(100), None)
    assert [True, False, True, True] == [store.get(key) is not None for key in "abcd"]
    store.set("a", bytes(2000), None)
    assert None is store.get("a")
    store.set("e", b"x", 3_000_000)
    assert b"x" == store.get("e")
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 3001)
    monkeypatch.setattr("anyseal.compat.cachekit.stores.time", later)
    assert None is store.get("e")
    store.delete("c")
    store.delete("c")
    store.clear()
    assert 0 == store._bytes


@pytest.fixture
def redis_store(redis_server: RedisServer) -> Iterator[tuple[RedisStore, Any]]:
    """A scoped store in an empty Redis, and a client beside it."""
    import redis

    client = redis.Redis.from_url(redis_server.url)
    client.flushall()
    store = RedisStore(redis_server.url, scoped=True)
    yield store, client
    store.close()
    client.close()


def test_cachekit_redis_names_and_registry(counted: Counted, redis_store: Any) -> None:
    """Prefix, expiry, and the set from which all entries of a function are dropped."""
    store, client = redis_store
    load = counted.sync(cache.secure(master_key=HEX, backend=store, ttl=datetime.timedelta(0, 60)))
    load(1)
    load(2)
    load(2)
    assert 2 == counted.calls
    names = sorted(client.keys("*"))
    assert 3 == len(names)
    assert all(name.startswith(b"t:default:") for name in names)
    [registry] = [name for name in names if b":ck:reg::" in name]
    assert {b"t:default:" + key for key in client.smembers(registry)} == set(names) - {registry}
    assert 604_000 < client.ttl(registry) <= 604_800
    assert all(0 < client.pttl(name) <= 60_000 for name in names if name != registry)
    assert all(b"plaintext" not in client.get(name) for name in names if name != registry)
    load.invalidate_cache(1)
    load(2)
    assert 2 == counted.calls
    load.invalidate_cache()
    assert [] == client.keys("*")


def test_cachekit_redis_by_environment_and_by_url(
    counted: Counted, redis_store: Any, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``CACHEKIT_REDIS_URL`` means a prefix, ``backend=`` none; clearing spares other entries."""
    _, client = redis_store
    by_url = counted.sync(cache.secure(master_key=HEX, backend=redis_server.url, namespace="a*"))
    by_url(1)
    client.set("ns:ab:func:other", "x")
    assert 2 == len(client.keys("ns:a*"))
    by_url.invalidate_cache()
    assert [b"ns:ab:func:other"] == client.keys("*")
    monkeypatch.setenv("CACHEKIT_REDIS_URL", redis_server.url)
    counted.sync(cache.secure(master_key=HEX))(1)
    assert 2 == len(client.keys("t:default:*"))
    monkeypatch.setenv("CACHEKIT_API_KEY", "x")
    with pytest.raises(cachekit.ConfigurationError):
        counted.sync(cache.secure(master_key=HEX))
    monkeypatch.delenv("CACHEKIT_REDIS_URL")
    with pytest.raises(cachekit.ConfigurationError):
        counted.sync(cache.secure(master_key=HEX))


@pytest.mark.asyncio
async def test_cachekit_redis_from_async(counted: Counted, redis_store: Any) -> None:
    """Many at once, without blocking the loop."""
    store, _ = redis_store
    load = counted.asynchronous(cache.secure(master_key=HEX, backend=store))
    await asyncio.gather(*(load(x) for x in range(20)))
    found = await asyncio.gather(*(load(x) for x in range(20)))
    assert list(range(20)) == [each["x"] for each in found]
    assert 20 == counted.calls
    assert None is await load.invalidate_cache()
    await load(1)
    assert 21 == counted.calls


@pytest.mark.asyncio
async def test_cachekit_one_task_computes_what_many_miss(plain: Plain) -> None:
    """A herd must not reach the database; each who waited gets an object of its own."""
    calls: list[int] = []

    @cache.secure(master_key=HEX, backend=plain)
    async def load(x: int) -> list[int]:
        calls.append(x)
        await asyncio.sleep(0.02)
        if x < 0:
            raise LookupError("gone")
        return [x]

    found = await asyncio.gather(*(load(x) for x in (1, 2) for _ in range(50)))
    assert [[1]] * 50 + [[2]] * 50 == found
    assert [1, 2] == sorted(calls)
    assert 100 == len({id(each) for each in found})
    failed = await asyncio.gather(*(load(-1) for _ in range(10)), return_exceptions=True)
    assert 10 == sum(isinstance(each, LookupError) for each in failed)
    assert [1, 2, -1] == calls

    tasks = [asyncio.create_task(load(3)) for _ in range(3)]
    await asyncio.sleep(0.01)
    tasks[0].cancel()  # the one that computes: another takes over
    assert [3] == await tasks[1] == await tasks[2]


@pytest.mark.asyncio
async def test_cachekit_nobody_joins_what_was_invalidated(plain: Plain) -> None:
    """Who asks after a change must not be given what was computed before it."""
    source, going = [1], asyncio.Event()

    @cache.secure(master_key=HEX, backend=plain)
    async def load(x: int) -> int:
        found = source[0]
        going.set()
        await asyncio.sleep(0.02)
        return found

    early = asyncio.create_task(load(1))
    await going.wait()
    source[0] = 2
    await load.invalidate_cache(1)
    assert 2 == await load(1)
    assert 1 == await early


@pytest.mark.asyncio
async def test_cachekit_function_that_calls_itself_does_not_wait_for_itself() -> None:
    """A ``key=`` that gives one key to a call and the call within it is no deadlock."""

    @cache(backend=None, key=lambda n: "same")
    async def waits(n: int) -> int:
        return n if n == 0 else 1 + await asyncio.create_task(waits(n - 1))

    @cache(backend=None, key=lambda n: "same")
    def plain_one(n: int) -> int:
        return n if n == 0 else 1 + plain_one(n - 1)

    assert 2 == await asyncio.wait_for(waits(2), 5)
    assert 2 == plain_one(2)


def test_cachekit_one_thread_computes_what_many_miss(counted: Counted, plain: Plain) -> None:
    """The same for ``def``."""
    calls: list[int] = []
    gate = threading.Barrier(20)

    @cache.secure(master_key=HEX, backend=plain)
    def load(x: int) -> list[int]:
        calls.append(x)
        time.sleep(0.05)
        return [x]

    def ask(_: int) -> list[int]:
        gate.wait(5)
        return load(1)

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(ask, range(20)))
    assert ([[1]] * 20, [1]) == (found, calls)
    assert 20 == len({id(each) for each in found})


@pytest.mark.asyncio
async def test_cachekit_one_process_computes_over_redis(redis_store: Any) -> None:
    """The lock has cachekit's name; two functions of one name stand for two processes. It is gone
    afterwards, and one that nobody releases holds nobody up for ever."""
    store, client = redis_store
    calls: list[int] = []

    def process(waits: bool) -> Any:
        def load(x: int) -> list[int]:
            calls.append(x)
            time.sleep(0.1)
            return [x]

        async def aload(x: int) -> list[int]:
            calls.append(x)
            assert [b"t:default:" in name for name in client.keys("*:lock")] == [True]
            await asyncio.sleep(0.1)
            return [x]

        made = aload if waits else load
        made.__qualname__ = "load"
        return cache.secure(master_key=HEX, backend=store, l1_enabled=False)(made)

    one, two, sync_one, sync_two = process(True), process(True), process(False), process(False)
    asked = [one(1), two(1), asyncio.to_thread(sync_one, 1), asyncio.to_thread(sync_two, 1)]
    assert [[1]] * 4 == await asyncio.gather(*asked)
    assert [1] == calls
    assert [] == client.keys("*:lock")

    [entry] = client.keys("t:default:func:*")
    client.delete(entry)
    client.set(entry + b":lock", "another", px=400)
    asked = [one(1), asyncio.to_thread(sync_two, 1)]
    assert [[1]] * 2 == await asyncio.gather(*asked)
    assert [1, 1] == calls
    store.lock("k", "mine")
    store.unlock("k", "another's")
    assert not store.lock("k", "another's")
    store.unlock("k", "mine")
    assert store.lock("k", "another's")


def test_cachekit_tells_once_what_has_no_key(
    plain: Plain, caplog: pytest.LogCaptureFixture
) -> None:
    """A method whose ``self`` has no key runs uncached: the log says so once, and what to do."""

    class Shop:
        @cache(backend=plain)
        def price(self, item: int) -> int:
            return item

        @cache(backend=plain, key=lambda self, item: f"{item}")
        def weight(self, item: int) -> int:
            return item

        @cache(backend=plain, key=lambda self, item: item)
        def name(self, item: int) -> int:
            return item

    @cache(backend=plain)
    def load(x: object) -> int:
        return 1

    for _ in range(3):
        assert 1 == Shop().price(1) == Shop().weight(1) == Shop().name(1) == load(object())
    messages = [record.getMessage() for record in caplog.records]
    assert 3 == len(messages)
    assert "self has no place in a key: key=lambda self, ...: says what has" in messages[0]
    assert "what key= returned is no key" in messages[1]
    assert "key= makes one of the arguments" in messages[2]
    assert 1 == len(plain.entries)
