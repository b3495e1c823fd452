"""Values: what may be sealed, what comes back, and that nothing altered ever does."""

from __future__ import annotations

import array
import math
import mmap
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import anyseal
import make_vectors
import reference as ref
from anyseal import (
    ConfigurationError,
    DecryptionError,
    ExpiredError,
    FormatError,
    Key,
    Kind,
    StaticKeyring,
    Suite,
    WrongKeyError,
    sync,
)
from anyseal.keys import Slot
from anyseal.value import open_under, seal_under, wrap
from conftest import Clock
from support import SUITES, a_key, cuts, flips, outcome, pattern, seal_bytes

pytestmark = pytest.mark.anyio
LATEST_MS = 253_402_300_799_999
REFUSALS = (FormatError, WrongKeyError, DecryptionError)


def mapped(data: bytes) -> mmap.mmap:
    """*data* in anonymous pages."""
    pages = mmap.mmap(-1, len(data))
    pages.write(data)
    return pages


BUFFERS: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "slice": lambda data: memoryview(b"x" + data + b"y")[1:-1],
    "array": lambda data: array.array("B", data),
    "array-I": lambda data: array.array("I", data),
    "two-dimensional": lambda data: memoryview(data).cast("B", [len(data) // 4, 4]),
    "mmap": mapped,
}


@pytest.mark.parametrize("buffer", BUFFERS.values(), ids=BUFFERS)
def test_value_takes_any_contiguous_buffer(key: Key, buffer: Callable[[bytes], Any]) -> None:
    """Whatever a socket, a file or numpy hands out should need no copy."""
    data, context = pattern(400), pattern(40, "context")
    sealed = sync.seal(buffer(data), key, context=buffer(context))
    assert data == sync.open(buffer(sealed), key, context=buffer(context))
    out = bytearray(len(sealed))
    assert len(sealed) == sync.seal_into(out, buffer(data), key, context=buffer(context))
    back = bytearray(400)
    assert 400 == sync.open_into(back, buffer(bytes(out)), key, context=buffer(context))
    assert data == back


@pytest.mark.parametrize(
    "data", ["text", 5, None, [1], memoryview(bytes(100))[::2], memoryview(bytes(100))[::-1]]
)
def test_value_refuses_what_is_not_contiguous_bytes(key: Key, data: Any) -> None:
    """A str has no one spelling in bytes; a strided view would need a hidden copy."""
    sealed = sync.seal(b"", key)
    calls: list[Callable[[], object]] = [
        lambda: sync.seal(data, key),
        lambda: sync.seal(b"", key, context=data),
        lambda: sync.open(data, key),
        lambda: sync.open(sealed, key, context=data),
        lambda: sync.seal_into(bytearray(200), data, key),
        lambda: sync.open_into(bytearray(200), data, key),
        lambda: anyseal.seal(data, key).send(None),
        lambda: anyseal.seal_into(bytearray(200), data, key).send(None),
        lambda: anyseal.open(data, key).send(None),
        lambda: anyseal.open_into(bytearray(200), data, key).send(None),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()


@given(data=st.binary(max_size=5000), context=st.binary(max_size=3000), n=st.sampled_from(SUITES))
def test_value_round_trips(data: bytes, context: bytes, n: Suite) -> None:
    """The first thing anybody expects."""
    key = a_key()
    sealed = sync.seal(data, key, context=context, suite=n)
    assert anyseal.overhead(n) + len(data) == len(sealed)
    assert data == sync.open(sealed, key, context=context)


def test_value_of_same_data_never_repeats(key: Key, suite: Suite) -> None:
    """Equal things must not look equal."""
    sealed = {sync.seal(b"same", key, suite=suite) for _ in range(1000)}
    assert 1000 == len(sealed)
    assert 1000 == len({value[28:52] for value in sealed})


def test_value_suite_is_named_or_default(key: Key) -> None:
    """A typing mistake must not fall back to something else in silence."""
    assert int(anyseal.available_suites()[0]) == sync.seal(b"", key)[3]
    assert 2 == sync.seal(b"", key, suite="AES256GCM")[3]
    with pytest.raises(ConfigurationError, match="unknown suite 'AES': one of AEGIS256"):
        sync.seal(b"", key, suite="AES")
    with pytest.raises(ConfigurationError):
        sync.seal(b"", key, suite=4)  # type: ignore[arg-type]


def driven(coroutine: Any) -> Any:
    """Run a coroutine that must not suspend, without any event loop."""
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    return stop.value.value


@pytest.mark.parametrize("size", [0, 1, 2, 4096, 128 << 10])
def test_value_small_never_suspends(key: Key, suite: Suite, size: int) -> None:
    """A cache hit that yields to the loop waits behind everybody else's work."""
    data, context = pattern(size), b"context"
    keyring = StaticKeyring(bytes(32))
    for where in ({"key": key}, {"key": keyring, "partition": "p"}):
        sealed = driven(anyseal.seal(data, **where, context=context, suite=suite))
        assert data == driven(anyseal.open(sealed, **where, context=context))
        out, back = bytearray(len(sealed)), bytearray(size)
        into = anyseal.seal_into(out, data, **where, context=context, suite=suite)
        assert len(out) == driven(into)
        assert size == driven(anyseal.open_into(back, out, **where, context=context))
        assert data == back


@pytest.mark.parametrize(
    ("suite", "limit"), [*zip(SUITES, (1 << 20, 256 << 10, 128 << 10), strict=True)]
)
@pytest.mark.anyio
async def test_value_large_leaves_the_loop(
    key: Key, suite: Suite, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The documented thresholds: up to them on the spot, beyond them in a thread."""
    hops = []
    run = anyseal.offload.run

    async def counted(function: Any, *args: Any) -> Any:
        hops.append(function.__name__)
        return await run(function, *args)

    monkeypatch.setattr(anyseal.offload, "run", counted)
    for size, expected in ((limit, []), (limit + 17, ["seal_under", "open_under"])):
        data = pattern(size)
        sealed = await anyseal.seal(data, key, suite=suite)
        assert data == await anyseal.open(sealed, key)
        assert expected == hops
        back = bytearray(size)
        hops.clear()
        await anyseal.seal_into(bytearray(sealed), data, key, suite=suite)
        await anyseal.open_into(back, sealed, key)
        assert [f"{name}_into" for name in expected] == hops
        assert data == back
        hops.clear()


# ---- Expiry and context ------------------------------------------------------------------


def test_value_expires_to_the_millisecond(key: Key, suite: Suite, clock: Clock) -> None:
    """At that very millisecond it is over: no leeway that two services could count differently."""
    until = clock.ms + 10_000
    sealed = sync.seal(b"brief", key, suite=suite, expires_at=until / 1000)
    for now in (clock.ms, until - 1):
        clock.ms = now
        assert b"brief" == sync.open(sealed, key)
    for now in (until, until + 1, until + 10**12):
        clock.ms = now
        buffer = bytearray(b"\xee" * 9)
        with pytest.raises(ExpiredError, match=r"^expired$"):
            sync.open(sealed, key)
        with pytest.raises(ExpiredError):
            sync.open_into(buffer, sealed, key)
        assert bytes(5) + b"\xee" * 4 == buffer
    clock.ms = 0  # a documented limit: policy, not erasure
    assert b"brief" == sync.open(sealed, key)


@given(ms=st.integers(min_value=4_000_000_000_000, max_value=LATEST_MS))
def test_value_expiry_is_exact_for_datetimes(ms: int) -> None:
    """What was asked for is what ``inspect`` shows, in any time zone, to the last millisecond."""
    when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    for zone in (UTC, timezone(timedelta(hours=-11, minutes=-30))):
        local = when.astimezone(zone)
        info = sync.inspect(sync.seal(b"", a_key(), expires_at=local))
        assert when == info.expires_at
    assert ms == int.from_bytes(sync.seal(b"", a_key(), expires_at=ms / 1000)[20:28])


def test_value_expiry_takes_seconds_and_aware_datetimes(key: Key, clock: Clock) -> None:
    """Both spellings of one time, and none is never."""
    moment = datetime.fromtimestamp(clock.ms // 1000 + 60, UTC)
    for when in (moment, moment.timestamp(), int(moment.timestamp())):
        assert moment == sync.inspect(sync.seal(b"", key, expires_at=when)).expires_at
    assert sync.inspect(sync.seal(b"", key)).expires_at is None
    latest = sync.seal(b"", key, expires_at=LATEST_MS / 1000)
    assert LATEST_MS == int.from_bytes(latest[20:28])


@pytest.mark.parametrize(
    "expires_at",
    [
        -1, 0, 1.0, 1_899_999_999.999, 1_900_000_000, 253_402_300_800, 10**30,
        10**400,
        1e308, 1e18,
        float("nan"), float("inf"), float("-inf"), datetime(2100, 1, 1),
        datetime(2000, 1, 1, tzinfo=UTC),
    ],
)  # fmt: skip
def test_value_refuses_senseless_expiry(expires_at: Any, key: Key, clock: Clock) -> None:
    """A value that is born expired, or whose clock nobody knows, is a mistake of the caller."""
    clock.ms = 1_900_000_000_000
    with pytest.raises(ValueError):
        sync.seal(b"", key, expires_at=expires_at)
    with pytest.raises(ValueError):
        sync.seal_into(bytearray(99), b"", key, expires_at=expires_at)


@pytest.mark.parametrize("expires_at", ["tomorrow", b"1", True, timedelta(1), 1j])
def test_value_refuses_expiry_of_other_types(expires_at: Any, key: Key) -> None:
    """True is not one second."""
    with pytest.raises(TypeError):
        sync.seal(b"", key, expires_at=expires_at)


def test_value_context_is_authenticated_and_bounded(key: Key, suite: Suite) -> None:
    """Sealed for one purpose, it must not open for another; 65,536 bytes are the most."""
    for context in (b"", b"a", bytes(996), bytes(997), bytes(65536)):
        sealed = sync.seal(b"x", key, context=context, suite=suite)
        assert b"x" == sync.open(sealed, key, context=context)
        for other in (context + b"\0", context[:-1] or b"!", b"b"):
            if other != context and len(other) <= 65536:
                with pytest.raises(DecryptionError, match=r"^does not verify$"):
                    sync.open(sealed, key, context=other)
    sealed = sync.seal(b"x", key, suite=suite)
    for call in (
        lambda: sync.seal(b"x", key, context=bytes(65537)),
        lambda: sync.seal_into(bytearray(99), b"x", key, context=bytes(65537)),
        lambda: sync.open(sealed, key, context=bytes(65537)),
        lambda: sync.open_into(bytearray(9), sealed, key, context=bytearray(65537)),
    ):
        with pytest.raises(ValueError, match="65,536"):
            call()


# ---- Everything altered is refused -------------------------------------------------------


def assert_refused(bad: bytes, key: Key, context: bytes) -> None:
    """A typed error, no plaintext in the caller's buffer, no reason in the message."""
    with pytest.raises(REFUSALS) as caught:
        sync.open(bad, key, context=context)
    assert "secret" not in str(caught.value)
    if type(caught.value) is DecryptionError:
        assert "does not verify" == str(caught.value)
    buffer = bytearray(b"\xee" * 2000)
    with pytest.raises(type(caught.value)):
        sync.open_into(buffer, bad, key, context=context)
    assert b"secret" not in buffer
    assert {0xEE, 0} >= set(buffer)


def test_value_refuses_every_flip_and_cut(key: Key, suite: Suite) -> None:
    """No byte of a value goes unauthenticated, not even one that is only parsed."""
    sealed = sync.seal(b"secret", key, context=b"ctx", suite=suite, expires_at=4e9)
    assert b"secret" == sync.open(sealed, key, context=b"ctx")
    for bad in (*flips(sealed), *cuts(sealed)):
        assert_refused(bad, key, b"ctx")
    for more in (1, 15, 16, 32, 1000):
        assert_refused(sealed + bytes(more), key, b"ctx")
        assert_refused(bytes(more) + sealed, key, b"ctx")


@given(bad=st.binary(max_size=200), at=st.integers(0, 90), head=st.integers(0, 52))
def test_value_refuses_garbage(bad: bytes, at: int, head: int) -> None:
    """Parsers meet more than flipped bits."""
    key = a_key()
    sealed = sync.seal(b"secret", key)
    for text in (bad, sealed[:head] + bad, sealed[:at] + bad + sealed[at + len(bad) :]):
        if text != sealed:
            assert_refused(text, key, b"")


def test_value_under_another_key_is_refused(key: Key, other_key: Key, suite: Suite) -> None:
    """An unknown id is a WrongKeyError; the same id over other bytes does not verify."""
    sealed = sync.seal(b"x", key, suite=suite)
    assert "WrongKeyError" == outcome(sync.open, sealed, other_key)
    twin = Key.from_bytes(bytes(32), key_id=key.key_id)
    assert "DecryptionError" == outcome(sync.open, sealed, twin)


def test_value_of_another_kind_is_refused(key: Key, suite: Suite) -> None:
    """A wrapped data key or an upload token must not be had by opening it as a value."""
    token = seal_under(b"token", key, b"", suite, 4e9, Kind.TOKEN)
    assert b"token" == open_under(token, key, kind=Kind.TOKEN)
    for sealed in (wrap(Slot.random(), key, suite, b""), token, seal_bytes(b"", key)):
        assert "FormatError" == outcome(sync.open, sealed, key)
        relabelled = sealed[:2] + b"\0" + sealed[3:]
        assert outcome(sync.open, relabelled, key) in ("DecryptionError", "FormatError")
    value = sync.seal(b"value", key, suite=suite, expires_at=4e9)
    assert "FormatError" == outcome(open_under, value, key, b"", Kind.TOKEN)
    with pytest.raises(ValueError, match="expire"):
        seal_under(b"", key, b"", suite, None, Kind.TOKEN)


def test_value_says_no_more_than_its_class(key: Key) -> None:
    """Which check failed is nobody's business but an attacker's."""
    sealed = sync.seal(b"secret", key, context=b"context")
    messages = set()
    for bad, context in (
        (sealed[:-1] + bytes([sealed[-1] ^ 1]), b"context"),
        (sealed, b"other"),
        (sealed[:52] + bytes([sealed[52] ^ 1]) + sealed[53:], b"context"),
        (sealed[:30] + bytes([sealed[30] ^ 1]) + sealed[31:], b"context"),
    ):
        with pytest.raises(DecryptionError) as caught:
            sync.open(bad, key, context=context)
        messages.add(repr(caught.value))
        assert caught.value.__cause__ is None
    assert {"DecryptionError('does not verify')"} == messages


# ---- Values as text ----------------------------------------------------------------------

TEXT_MAX_CHARS = 1 << 20


@given(data=st.binary(max_size=300), suite=st.sampled_from(list(Suite)))
def test_text_of_ours_is_read_by_the_reference(data: bytes, suite: Suite) -> None:
    """Letters that need no escaping in a cookie, a URL or a header, and as many as is said."""
    with Key.from_bytes(make_vectors.KEY) as key:
        text = sync.seal_text(data, key, context=b"c", suite=suite)
        assert re.fullmatch(r"[A-Za-z0-9_-]+", text)
        assert math.ceil((len(data) + anyseal.overhead(suite)) * 4 / 3) == len(text)
        assert data == sync.open_text(text, key, context=b"c")
    assert data == ref.open_text(text, make_vectors.KEY, now_ms=0, context=b"c")


async def test_text_under_a_keyring_with_expiry(clock: Clock) -> None:
    """A session cookie: both faces, a tenant's key, and an end."""
    keys, until = StaticKeyring("8f" * 32), clock.ms / 1000 + 60
    text = await anyseal.seal_text(b"user=7", keys, partition="t", context=b"c", expires_at=until)
    assert b"user=7" == sync.open_text(text, keys, partition="t", context=b"c")
    again = sync.seal_text(b"user=7", keys, partition="t", context=b"c", expires_at=until)
    assert b"user=7" == await anyseal.open_text(again, keys, partition="t", context=b"c")
    assert text != again
    with pytest.raises(WrongKeyError):
        await anyseal.open_text(text, keys, partition="u", context=b"c")
    clock.ms += 60_000
    with pytest.raises(ExpiredError):
        await anyseal.open_text(text, keys, partition="t", context=b"c")


async def test_text_is_a_str_and_nothing_else(key: Key) -> None:
    """Bytes would give one cookie two types, and Starlette sends the repr of bytes."""
    text = sync.seal_text(b"x", key)
    for wrong in (text.encode(), bytearray(text.encode()), memoryview(b"A"), None, {"a": 1}, 7):
        name = type(wrong).__name__
        with pytest.raises(TypeError, match=f"text must be a str, not {name}"):
            sync.open_text(wrong, key)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=f"text must be a str, not {name}"):
            await anyseal.open_text(wrong, key)  # type: ignore[arg-type]


@pytest.mark.parametrize("suite", SUITES)
async def test_text_has_a_longest(key: Key, suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no browser and no proxy takes is refused before work in proportion to it."""
    most = TEXT_MAX_CHARS // 4 * 3 - anyseal.overhead(suite)
    data = bytes(most)
    text = await anyseal.seal_text(data, key, suite=suite)
    assert TEXT_MAX_CHARS == len(text) == len(sync.seal_text(data, key, suite=suite))
    assert data == sync.open_text(text, key) == await anyseal.open_text(text, key)
    too_much = f"a text holds at most {most:,} bytes"
    with pytest.raises(ValueError, match=too_much):
        sync.seal_text(bytes(most + 1), key, suite=suite)
    with pytest.raises(ValueError, match=too_much):
        await anyseal.seal_text(memoryview(bytes(most + 1)), key, suite=suite)
    monkeypatch.delattr("anyseal.value.base64")  # not even looked at
    with pytest.raises(FormatError):
        sync.open_text(text + "A", key)
    with pytest.raises(FormatError):
        await anyseal.open_text(text + "A", key)
