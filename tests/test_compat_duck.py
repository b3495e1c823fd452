"""duck's encrypted cache: its entries, its names and errors, and what it must never unpickle."""

from __future__ import annotations

import datetime
import decimal
import pickle
import sys
import time
import types
import uuid
from collections import OrderedDict
from typing import Any

import anyio
import nacl.secret
import pytest

from anyseal import FormatError
from anyseal.compat import duck
from anyseal.compat.duck import EncryptedCache, NaClEncryptor

KEY = b"0123456789abcdef0123456789abcdef"
VECTOR = bytes.fromhex(
    "C4F7D3BDA7801EC16B4C95C95D0930562F011C3B73922FB11ACE614C7DB815C5F7A5BB5B8ADA75EF0F1CEAA3596E"
    "F7F242541DF0CCA4E036DF21F483140A274CF95626"
)
"""Written by duckframework 2.3: ``{"user_id": 42}``."""

PLAIN = [
    None, True, 42, 2**100, -1.5, 1j, "žluť 🐎", b"\x00\xff", bytearray(b"x"), (), [1, [2, (3,)]],
    {"a": {1: None}}, {1, 2}, frozenset({3}), datetime.date(2026, 1, 2), datetime.time(3, 4),
    datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC), datetime.timedelta(days=1),
    datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
    decimal.Decimal("1.50"), uuid.UUID(int=7), OrderedDict(b=1, a=2),
]  # fmt: skip


class Backend:
    """duck's blocking methods over a dict."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[Any, float | None]] = {}
        self.closed = False
        self.calls: list[str] = []

    def set(self, key: str, value: Any, expiry: float | None = None) -> None:
        self.calls.append("set")
        self.entries[key] = (value, None if expiry is None else time.monotonic() + expiry)

    def get(self, key: str, default: Any = None) -> Any:
        self.calls.append("get")
        value, until = self.entries.get(key, (default, None))
        return default if until is not None and time.monotonic() >= until else value

    def delete(self, key: str) -> None:
        self.calls.append("delete")
        self.entries.pop(key, None)

    def pop(self, key: str, default: Any = duck.MISSING) -> Any:
        self.calls.append("pop")
        value = self.get(key, default)
        self.entries.pop(key, None)
        if value is duck.MISSING:
            raise KeyError(key)
        return value

    def clear(self) -> None:
        self.entries.clear()

    def close(self) -> None:
        self.closed = True


class AsyncBackend(Backend):
    """The same with asynchronous methods; the blocking ones must then not be called."""

    async def async_set(self, key: str, value: Any, expiry: float | None = None) -> None:
        self.calls.append("async")
        self.entries[key] = (value, None)

    async def async_get(self, key: str, default: Any = None) -> Any:
        self.calls.append("async")
        return self.entries.get(key, (default, None))[0]

    async def async_delete(self, key: str) -> None:
        self.calls.append("async")
        self.entries.pop(key, None)

    async def async_pop(self, key: str, default: Any = duck.MISSING) -> Any:
        self.calls.append("async")
        return self.entries.pop(key, (default, None))[0]

    async def async_clear(self) -> None:
        self.calls.append("async")
        self.entries.clear()


class Payload:
    """What an attacker would put into a pickle."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("unpickling called a function",))


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
def cache(backend: Backend) -> EncryptedCache:
    return EncryptedCache(backend, KEY)


def sealed(pickled: bytes) -> bytes:
    """An authentic entry with any content."""
    return bytes(nacl.secret.SecretBox(KEY).encrypt(pickled))


def test_duck_vector_opens() -> None:
    """An entry that the original wrote."""
    assert {"user_id": 42} == NaClEncryptor(KEY).decrypt(VECTOR)
    assert {"user_id": 42} == NaClEncryptor(KEY.decode()).decrypt(VECTOR)


def test_duck_entry_is_the_original_format() -> None:
    """The original must read it: nonce, tag, ciphertext of a pickle of protocol 4."""
    entry = NaClEncryptor(KEY).encrypt({"user_id": 42})
    assert len(VECTOR) == len(entry)
    pickled = nacl.secret.SecretBox(KEY).decrypt(entry)
    assert pickled.startswith(b"\x80\x04")
    assert {"user_id": 42} == pickle.loads(pickled)
    assert entry != NaClEncryptor(KEY).encrypt({"user_id": 42})


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_duck_plain_values_come_back(value: Any) -> None:
    """Plain types are what sessions hold; they keep their types."""
    encryptor = NaClEncryptor(KEY)
    found = encryptor.decrypt(encryptor.encrypt(value))
    assert value == found
    assert type(value) is type(found)


def test_duck_every_flipped_bit_and_cut_is_refused() -> None:
    """Nothing of an entry may be believed before all of it verified."""
    encryptor = NaClEncryptor(KEY)
    for at in range(len(VECTOR)):
        changed = bytearray(VECTOR)
        changed[at] ^= 1
        with pytest.raises(duck.CryptoError):
            encryptor.decrypt(bytes(changed))
        with pytest.raises(duck.CryptoError):
            encryptor.decrypt(VECTOR[:at])
    with pytest.raises(duck.CryptoError):
        NaClEncryptor(duck.resolve_nacl_key(b"another")).decrypt(VECTOR)
    for wrong in (None, "text", 7):
        with pytest.raises(duck.CryptoError):
            encryptor.decrypt(wrong)  # type: ignore[arg-type]


class Custom:
    """Not plain."""


@pytest.mark.parametrize("value", [object(), Custom(), lambda: 0, Payload(), [{"x": Custom()}]])
def test_duck_what_is_not_plain_is_a_type_error(value: Any, cache: EncryptedCache) -> None:
    """What could not be read back is not written."""
    with pytest.raises(TypeError):
        cache.set("k", value)
    assert {} == cache.backend.entries


def test_duck_trusted_pickle_takes_any_class_and_still_names_its_errors() -> None:
    """Asked for by name, pickle is pickle."""
    trusted = NaClEncryptor(KEY, trusted_pickle=True)
    assert isinstance(trusted.decrypt(trusted.encrypt(Custom())), Custom)
    with pytest.raises(TypeError):
        trusted.encrypt(lambda: 0)


BAD_PICKLES = [
    b"", b"\x80", b"not a pickle", b"\x80\x04N", pickle.dumps(Payload()), pickle.dumps(Custom()),
    b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    b"\x80\x04\x8c\x08builtins\x8c\x09bytearrayJ\xff\xff\xff\x7f\x85R.",
    b"\x80\x04\x8c\x08builtins\x8c\x09bytearray\x93J\xff\xff\xff\x7f\x85R.",
    b"\x80\x04" + b"]" * 5 + b"a" * 9 + b".", b"\x80\x04P1\n.", b"\x80\x04\x8c\x01xQ.",
    b"\x80\x04\x8c\x08builtins\x8c\x0dgetattr\x93.",
]  # fmt: skip


@pytest.mark.parametrize("pickled", BAD_PICKLES)
def test_duck_authentic_but_not_plain_is_evicted(
    pickled: bytes, cache: EncryptedCache, backend: Backend
) -> None:
    """Whoever has the key must still not run code here; and a bad entry must not stay."""
    with pytest.raises(duck.UndecodableError) as caught:
        NaClEncryptor(KEY).decrypt(sealed(pickled))
    assert isinstance(caught.value, duck.CryptoError)
    assert isinstance(caught.value, FormatError)
    backend.set("k", sealed(pickled))
    assert "default" == cache.get("k", "default")
    assert {} == backend.entries


def test_duck_get_set_delete_clear_close(cache: EncryptedCache, backend: Backend) -> None:
    """The methods of the original, and a backend that never sees a value."""
    cache.set("sid", {"user": "alice"}, expiry=3600)
    assert {"user": "alice"} == cache.get("sid")
    value, until = backend.entries["sid"]
    assert b"alice" not in value
    assert until is not None
    cache.set("none", None)
    assert cache.get("none", "default") is None
    cache.delete("sid")
    cache.delete("sid")
    assert "default" == cache.get("sid", "default")
    cache.clear()
    assert {} == backend.entries
    cache.save()
    cache.close()
    assert backend.closed


@pytest.mark.parametrize("stored", [VECTOR[:-1], b"", "text", 7, VECTOR[:10]])
def test_duck_what_does_not_open_is_evicted(
    stored: Any, cache: EncryptedCache, backend: Backend
) -> None:
    """A tampered entry is a miss, and does not fail every read to come."""
    backend.set("k", stored)
    assert "default" == cache.get("k", default="default")
    assert {} == backend.entries
    backend.set("k", stored)
    with pytest.raises(KeyError):
        cache.pop("k")
    assert {} == backend.entries
    backend.set("k", stored)
    assert 1 == cache.pop("k", 1)


def test_duck_pop_returns_once(cache: EncryptedCache) -> None:
    """A one-time token is worth something once."""
    cache.set("k", [1])
    assert [1] == cache.pop("k")
    with pytest.raises(KeyError):
        cache.pop("k")
    assert None is cache.pop("k", None)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [Backend, AsyncBackend])
async def test_duck_async_methods(kind: type[Backend]) -> None:
    """Forwarded where the backend has them, in a worker thread where it has not."""
    backend = kind()
    cache = EncryptedCache(backend, KEY)
    await cache.async_set("k", {"n": 1}, expiry=60)
    await cache.async_set("large", bytes(200_000))
    assert {"n": 1} == await cache.async_get("k")
    assert bytes(200_000) == await cache.async_get("large")
    assert {"n": 1} == await cache.async_pop("k")
    assert 5 == await cache.async_pop("k", 5)
    with pytest.raises(KeyError):
        await cache.async_pop("k")
    backend.entries["bad"] = (VECTOR[:-1], None)
    assert "d" == await cache.async_get("bad", "d")
    assert "bad" not in backend.entries
    await cache.async_delete("large")
    await cache.async_set("x", 1)
    await cache.async_clear()
    assert {} == backend.entries
    with pytest.raises(TypeError):
        await cache.async_set("k", object())
    assert (kind is AsyncBackend) == ("async" in backend.calls)
    assert (kind is AsyncBackend) == ("set" not in backend.calls)
    await cache.async_close()
    assert backend.closed


@pytest.mark.anyio
async def test_duck_base_runs_blocking_methods_in_threads() -> None:
    """A subclass that has only the blocking methods does not stop the loop."""

    class Slow(Backend, duck.CacheBase):
        def get(self, key: str, default: Any = None) -> Any:
            time.sleep(0.01)
            return super().get(key, default)

    cache = Slow()
    await cache.async_set("k", 1)
    assert 1 == await cache.async_get("k")
    assert 1 == await cache.async_pop("k")
    await cache.async_delete("k")
    await cache.async_clear()


def test_duck_cache_decorator(cache: EncryptedCache, backend: Backend) -> None:
    """The original's keys: entries of a decorated function are shared with it. None is not kept."""
    calls = []

    @cache.cache(expiry=60, key_prefix="app")
    def double(x: int, *, more: int = 0) -> int | None:
        calls.append(x)
        return 2 * x + more if x else None

    assert [14, 14, 15] == [double(7), double(7), double(7, more=1)]
    assert [7, 7] == calls
    name = "test_duck_cache_decorator.<locals>.double"
    assert {f"app.{name}:(7,):[]", f"app.{name}:(7,):[('more', 1)]"} == set(backend.entries)
    assert [None, None] == [double(0), double(0)]
    assert [7, 7, 0, 0] == calls
    assert "double" == double.__name__


@pytest.mark.anyio
async def test_duck_async_cache_runs_once_and_keeps_no_lock(cache: EncryptedCache) -> None:
    """Equal calls wait for one another; many keys must not leave a lock each."""
    calls = []

    @cache.async_cache(expiry=60)
    async def double(x: int) -> int | None:
        calls.append(x)
        await anyio.sleep(0.01)
        if x < 0:
            raise ValueError
        return 2 * x if x else None

    results: list[Any] = []

    async def ask(x: int) -> None:
        results.append(await double(x))

    async with anyio.create_task_group() as group:
        for x in (1, 2) * 10:
            group.start_soon(ask, x)
    assert [1, 2] == sorted(calls)
    assert [2] * 10 + [4] * 10 == sorted(results)
    with pytest.raises(ValueError):
        await double(-1)
    with anyio.move_on_after(0.001):
        await double(99)
    assert None is await double(0)
    assert 0 == len(double._locks)


def test_duck_resolve_nacl_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rule of the original's documentation."""
    assert KEY == duck.resolve_nacl_key(KEY) == duck.resolve_nacl_key(KEY.decode())
    hashed = bytes.fromhex("9d393820e9c54b71d7f8d2e7807180c4516c29ee699bcfcc89a0130592ea7a65")
    assert hashed == duck.resolve_nacl_key(b"short") == duck.resolve_nacl_key("short")
    monkeypatch.delenv(duck.DUCK_NACL_DERIVE_KEY_ENV, raising=False)
    for empty in (b"", ""):
        with pytest.raises(ValueError):
            duck.resolve_nacl_key(empty)
        with pytest.raises(ValueError):
            NaClEncryptor(empty)
    with pytest.raises(ValueError) as caught:
        duck.resolve_nacl_key(KEY + b"secret tail")
    assert "secret tail" not in str(caught.value)
    monkeypatch.setenv("DUCK_NACL_DERIVE_KEY", "1")
    assert 32 == len(duck.resolve_nacl_key(KEY + b"x"))
    monkeypatch.setenv("DUCK_NACL_DERIVE_KEY", "yes")
    with pytest.raises(ValueError):
        duck.resolve_nacl_key(KEY + b"x")
    with pytest.raises(TypeError):
        duck.resolve_nacl_key(None)  # type: ignore[arg-type]


def test_duck_cache_needs_a_backend() -> None:
    """What has no such methods is told when the cache is made, not at the first request."""

    class Async:
        """All that one needs who only awaits."""

        async_set = async_get = async_delete = async_pop = async_clear = Backend.clear

    assert isinstance(EncryptedCache(Async(), KEY).backend, Async)
    for wrong in (None, {}, object(), "redis://localhost"):
        with pytest.raises(TypeError, match="has no method"):
            EncryptedCache(wrong, KEY)


def test_duck_constants_and_generated_keys() -> None:
    """Names that callers import."""
    assert (24, 32) == (duck.NONCE_SIZE, duck.NACL_KEY_SIZE)
    first, second = duck.generate_secret_key(), duck.generate_secret_key()
    assert 32 == len(first) == len(second)
    assert first != second
    assert 7 == NaClEncryptor(first).decrypt(NaClEncryptor(first).encrypt(7))
    assert first.hex() not in repr(NaClEncryptor(first))


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
@pytest.mark.parametrize("kind", [bytes, str])
def test_duck_encryptor_takes_32_bytes(
    monkeypatch: pytest.MonkeyPatch, kind: type, size: int
) -> None:
    """As the original documents it: an encryptor is given a key, and hashes no password into one.
    The cache resolves what an application has."""
    monkeypatch.setenv("DUCK_NACL_DERIVE_KEY", "1")
    key: Any = b"k" * size if kind is bytes else "k" * size
    with pytest.raises(ValueError, match=f"empty|{size} bytes"):
        NaClEncryptor(key)
    if size:
        cache = EncryptedCache(Backend(), key)
        assert 7 == NaClEncryptor(duck.resolve_nacl_key(key)).decrypt(cache.encryptor.encrypt(7))
    assert NaClEncryptor("é" * 16).decrypt(NaClEncryptor(("é" * 16).encode()).encrypt(7)) == 7
    with pytest.raises(TypeError):
        NaClEncryptor(None)  # type: ignore[arg-type]


def test_duck_caches_are_the_originals_where_it_is_imported(
    monkeypatch: pytest.MonkeyPatch, cache: EncryptedCache
) -> None:
    """duck asks ``isinstance(cache, CacheBase)``; programs ask it of both, by either's class. A
    cache that was made before the original was imported counts, too."""

    class CacheBase:
        """The original's: no ABC, so nothing can be registered with it."""

        def clear(self) -> None:
            raise AssertionError

    class Theirs(CacheBase):
        """One of the original's caches."""

    class Own(duck.CacheBase):
        """A program's own."""

    assert not isinstance(cache, CacheBase)
    assert not isinstance(Theirs(), duck.CacheBase)
    module = types.ModuleType("duck.utils.caching")
    module.CacheBase = CacheBase  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "duck.utils.caching", module)

    class New(CacheBase):
        """Made by now: what is no cache is remembered."""

    for mine in (cache, Own(), EncryptedCache(Backend(), KEY)):
        assert isinstance(mine, CacheBase)
        assert isinstance(mine, duck.CacheBase)
    assert isinstance(New(), duck.CacheBase)
    assert issubclass(New, duck.CacheBase)
    assert not isinstance(New(), EncryptedCache)
    assert not isinstance(Backend(), duck.CacheBase)
    assert type(cache) is EncryptedCache
    cache.clear()
    cache.save()
