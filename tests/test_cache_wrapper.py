"""EncryptionWrapper: values sealed for caches of other libraries."""

from __future__ import annotations

import dataclasses
import time
import uuid
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
import redis
from aiocache import SimpleMemoryCache
from hypothesis import given
from hypothesis import strategies as st

from anyseal import (
    ConfigurationError,
    DecryptionError,
    ExpiredError,
    FormatError,
    Key,
    StaticKeyring,
    WrongKeyError,
)
from anyseal.cache.codecs import Compressed, JSONCodec, PickleCodec
from anyseal.cache.wrapper import EncryptionWrapper
from storage_servers import RedisServer
from support import KEY_HEX, a_key, cuts, flips, outcome, pattern

pytest_plugins = ["server_fixtures"]


@dataclasses.dataclass
class Bill:
    id: uuid.UUID
    lines: list[tuple[str, Decimal]]


BILL = Bill(uuid.UUID(int=7), [("a pot of tea", Decimal("2.50"))])


@pytest.fixture
def wrapper(keyring: StaticKeyring) -> EncryptionWrapper:
    """With the default codec."""
    return EncryptionWrapper(keyring)


def test_wrapper_round_trips_with_every_codec(keyring: StaticKeyring) -> None:
    """Composition: the codec knows nothing of keys, the seal nothing of values."""
    table = pa.table({"a": [1, 2]})
    for codec, value, type in (
        ("msgpack", BILL, Bill),
        ("json", BILL, Bill),
        ("raw", b"\0bytes", bytes),
        ("pickle", {"a": (1, {2})}, dict),
        ("arrow", table, pa.Table),
        (PickleCodec(allow=[Bill]), BILL, Bill),
        (Compressed(JSONCodec()), ["x"] * 1000, list[str]),
    ):
        wrapper = EncryptionWrapper(keyring, codec)
        sealed = wrapper.encode(value, "name")
        assert value == wrapper.decode(sealed, "name", type)
        assert value == wrapper.decode(memoryview(sealed), "name", type)
        assert wrapper.bind("b").loads(wrapper.bind("b").dumps(value)) is not None


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.binary(min_size=1))
def test_wrapper_binds_any_name(name: str | bytes) -> None:
    """Names are not normalised, and text is never taken for bytes."""
    wrapper = EncryptionWrapper(KEY_HEX)
    sealed = wrapper.encode([1], name)
    assert [1] == wrapper.decode(sealed, name)
    other = name.encode() if isinstance(name, str) else name + b"\0"
    with pytest.raises(DecryptionError):
        wrapper.decode(sealed, other)


def test_wrapper_opens_nothing_moved(keyring: StaticKeyring) -> None:
    """Another name, partition, codec or key: whoever writes to the cache must not swap entries."""
    wrapper = EncryptionWrapper(keyring, partition="ann")
    sealed = wrapper.encode({"a": 1}, "user:1")
    assert "DecryptionError" == outcome(wrapper.decode, sealed, "user:2")
    assert "DecryptionError" == outcome(wrapper.bind("user:2").decode, sealed)
    for other, expected in (
        (EncryptionWrapper(keyring, partition="bob"), "WrongKeyError"),
        (EncryptionWrapper(keyring, "json", partition="ann"), "DecryptionError"),
        (EncryptionWrapper(KEY_HEX, partition="ann"), "WrongKeyError"),
    ):
        assert expected == outcome(other.decode, sealed, "user:1")


def test_wrapper_opens_nothing_changed(wrapper: EncryptionWrapper) -> None:
    """Every bit and every cut; and what was never sealed."""
    value = [*range(8)]
    sealed = wrapper.encode(value, "n")
    errors = {"DecryptionError", "FormatError", "WrongKeyError", "SuiteUnavailableError"}
    for changed in (*flips(sealed), *cuts(sealed)):
        assert outcome(wrapper.decode, changed, "n") in errors | {"ExpiredError"}
    assert "FormatError" == outcome(wrapper.decode, b"\x93\x01\x02\x03", "n")
    assert bytes(value) not in sealed


def test_wrapper_rotates_by_key_id() -> None:
    """Old entries open under the previous master key, without trying keys."""
    old, new = pattern(32, "old"), pattern(32, "new")
    sealed = EncryptionWrapper(old).encode("x", "n")
    assert "x" == EncryptionWrapper(new, previous=[old]).decode(sealed, "n")
    assert "x" == EncryptionWrapper(Key.from_bytes(new), previous=[old]).decode(sealed, "n")
    with pytest.raises(WrongKeyError):
        EncryptionWrapper(new).decode(sealed, "n")


def test_wrapper_expires(wrapper: EncryptionWrapper, clock: Any) -> None:
    """The expiry is inside the seal: a cache that forgets to expire does not matter."""
    sealed = wrapper.encode("x", "n", expires_at=clock.ms / 1000 + 60)
    assert "x" == wrapper.decode(sealed, "n")
    clock.ms += 60_000
    with pytest.raises(ExpiredError):
        wrapper.decode(sealed, "n")
    with pytest.raises(ValueError, match="past"):
        wrapper.encode("x", "n", expires_at=time.time() - 1e9)


def test_wrapper_checks_what_it_is_given(wrapper: EncryptionWrapper) -> None:
    """Settings when it is made; names, values and types with each call."""
    for wrong in ("", b"", "\ud800"):
        with pytest.raises(ValueError, match="name"):
            wrapper.encode(1, wrong)
    for wrong in (None, 1, bytearray(b"x")):
        with pytest.raises(TypeError, match="name must be"):
            wrapper.encode(1, wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="context"):
        wrapper.encode(1, "n" * (1 << 16))
    with pytest.raises(TypeError, match=r"^msgpack cannot encode \$\.a: complex$"):
        wrapper.encode({"a": 1j}, "n")
    with pytest.raises(TypeError, match="bytes-like"):
        wrapper.decode("text", "n")  # type: ignore[arg-type]
    with pytest.raises(FormatError):
        wrapper.decode(wrapper.encode("text", "n"), "n", int)
    key = a_key()
    for settings in (
        {"keyring": "short"},
        {"keyring": KEY_HEX, "codec": "yaml"},
        {"keyring": KEY_HEX, "suite": "DES"},
        {"keyring": StaticKeyring(key), "previous": [key]},
    ):
        with pytest.raises(ConfigurationError):
            EncryptionWrapper(**settings)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Keyring"):
        EncryptionWrapper(object())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="partition"):
        EncryptionWrapper(KEY_HEX, partition="")
    assert KEY_HEX not in repr(EncryptionWrapper(KEY_HEX))


class Slow:
    """A keyring whose keys are never at hand."""

    def __init__(self, inner: StaticKeyring) -> None:
        self._inner = inner

    def current_hit(self, partition: str) -> Key | None:
        return None

    def get_hit(self, partition: str, key_id: bytes) -> Key | None:
        return None

    async def current(self, partition: str) -> Key:
        return self._inner.current_hit(partition)

    async def get(self, partition: str, key_id: bytes) -> Key:
        return self._inner.get_hit(partition, key_id)


@pytest.mark.anyio
async def test_wrapper_waits_for_its_keyring_only_where_it_may(keyring: StaticKeyring) -> None:
    """The plain methods never wait; the others do, and large values leave the loop."""
    slow = EncryptionWrapper(Slow(keyring), "raw")
    with pytest.raises(ConfigurationError, match="aencode"):
        slow.encode(b"x", "n")
    for size in (0, 1, 1000, 3 << 20):
        data = bytes(size)
        sealed = await slow.aencode(data, "n")
        assert data == await slow.adecode(sealed, "n")
        assert data == EncryptionWrapper(keyring, "raw").decode(sealed, "n")
    with pytest.raises(ConfigurationError, match="adecode"):
        slow.decode(sealed, "n")
    with pytest.raises(DecryptionError):
        await slow.adecode(sealed, "m")


def test_wrapper_over_a_bare_redis_client(
    redis_server: RedisServer, wrapper: EncryptionWrapper
) -> None:
    """The simplest use: what Redis holds is sealed, and bound to where it lies."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.set("wrapper:1", wrapper.encode(BILL, "wrapper:1"))
        stored = client.get("wrapper:1")
        client.delete("wrapper:1")
    assert isinstance(stored, bytes)
    assert b"pot of tea" not in stored
    assert BILL == wrapper.decode(stored, "wrapper:1", Bill)


@pytest.mark.asyncio
async def test_wrapper_is_a_serializer_of_aiocache(wrapper: EncryptionWrapper) -> None:
    """Its serializers are not told the entry's name: one name is bound for the whole cache."""
    cache = SimpleMemoryCache(serializer=wrapper.bind("sessions"))
    assert await cache.get("missing") is None
    await cache.set("k", {"secret": [1, 2]})
    assert {"secret": [1, 2]} == await cache.get("k")
    stored = cache._cache[cache.build_key("k")] if hasattr(cache, "build_key") else b""
    assert b"secret" not in stored
    await cache.close()
