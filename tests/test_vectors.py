"""The package against tests/vectors, and the reference against what the package seals.

The vectors come from an implementation that shares no code with the package, so agreement here
means that docs/format.md can be implemented from its text alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import anyseal
import make_vectors
import reference as ref
from anyseal import Key, MemorySink, MemorySource, PassphraseKeyring, StaticKeyring, Suite, sync
from anyseal.keys import Slot
from anyseal.value import open_under, seal_under, unwrap, wrap
from conftest import Clock
from support import (
    SIZES,
    SMALL,
    SUITES,
    Stream,
    a_key,
    open_by_pipe,
    outcome,
    pattern,
    seal_bytes,
)

Entry = dict[str, Any]
pytestmark = pytest.mark.anyio


def entries(name: str, *ops: str) -> list[Any]:
    """The vectors of one file with one of *ops*, as parameters with their ids."""
    found = [entry for entry in make_vectors.load(name) if entry["op"] in ops]
    return [pytest.param(entry, id=entry["id"]) for entry in found]


def key_of(entry: Entry) -> Key:
    """The one key that the vector's reader knows."""
    return Key.from_bytes(entry["key"], key_id=entry["key_id"])


def expected_of(entry: Entry, result: str = "plaintext") -> object:
    """What ``outcome`` must give."""
    return entry[result] if entry["expect"] == "ok" else entry["expect"]


def expected_of_stream(entry: Entry) -> object:
    """The same for a pipe, which reads everything."""
    expect = entry.get("expect_stream", entry["expect"])
    if expect != "ok":
        return expect
    if "range" not in entry:
        return entry["plaintext"]
    sealed, key, context = entry["sealed"], entry["key"], entry["context"]
    return ref.open_stream(sealed, key, key_id=entry["key_id"], context=context)


# ---- Derivation and keyrings -------------------------------------------------------------


@pytest.mark.parametrize("entry", entries("derive", "derive"))
def test_derive_gives_the_vectors_output(entry: Entry) -> None:
    """Every key of every format comes from it."""
    slot = Slot.from_bytes(entry["key"])
    assert entry["output"] == slot.derive_public(entry["label"].encode(), entry["data"])
    assert entry["output"] == slot.derive(entry["label"].encode(), entry["data"]).export()
    if entry["label"] == "user":
        expected = Key.from_bytes(entry["output"])
        assert expected == Key.from_bytes(entry["key"]).derive(entry["data"])


@pytest.mark.parametrize("entry", entries("keyring", "static"))
def test_static_keyring_gives_the_vectors_key(entry: Entry) -> None:
    """Another implementation with the same master key must find the same partition keys."""
    key = StaticKeyring(entry["master"]).current_hit(entry["partition"])
    assert key_of(entry) == key
    assert entry["fingerprint"][:16] == key.key_id


@pytest.mark.parametrize("entry", entries("keyring", "lookup"))
def test_static_keyring_matches_ids_exactly(entry: Entry) -> None:
    """An id that nearly matches, or of another partition, names no key."""
    masters, key_id = entry["masters"], entry["key_id"]
    keyring = StaticKeyring(masters[0], masters[1:])
    found = outcome(keyring.get_hit, entry["partition"], key_id)
    expected = Key.from_bytes(entry["key"]) if entry["expect"] == "ok" else entry["expect"]
    assert expected == found


@pytest.mark.parametrize("entry", entries("keyring", "passphrase"))
def test_passphrase_keyring_gives_the_vectors_key(entry: Entry) -> None:
    """Costs beyond the bounds would take days: that this ends shows they are refused first."""
    keyring = PassphraseKeyring(entry["passphrase"], memory_log2_kib=3, passes=1)
    found = outcome(keyring.get_local, entry["partition"], entry["key_id"])
    expected = key_of(entry) if entry["expect"] == "ok" else entry["expect"]
    assert expected == found


# ---- Values ------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", entries("value", "value"))
def test_value_has_the_vectors_outcome(entry: Entry, clock: Clock) -> None:
    """The plaintext, or the one class of refusal."""
    clock.ms = entry["now_ms"]
    key, context, kind = key_of(entry), entry["context"], entry["kind"]
    found = outcome(open_under, entry["sealed"], key, context, kind)
    assert expected_of(entry) == found
    if kind == 0:
        assert expected_of(entry) == outcome(sync.open, entry["sealed"], key, context=context)


@pytest.mark.parametrize("entry", entries("value", "unwrap"))
def test_wrapped_key_has_the_vectors_outcome(entry: Entry) -> None:
    """A data key, or the one class of refusal."""
    sealed, key = entry["sealed"], key_of(entry)

    def call() -> bytes:
        return unwrap(sealed, key, Suite(sealed[3]), entry["context"]).export()

    assert expected_of(entry) == outcome(call)


async def test_values_have_the_vectors_outcomes_when_awaited(clock: Clock) -> None:
    """The awaited functions take another way to the same C call."""
    wrong = []
    for entry in make_vectors.load("value"):
        if entry["op"] != "value" or entry["kind"] != 0:
            continue
        clock.ms = entry["now_ms"]
        found: object
        try:
            found = await anyseal.open(entry["sealed"], key_of(entry), context=entry["context"])
        except anyseal.AnysealError as error:
            found = type(error).__name__
        if found != expected_of(entry):
            wrong.append((entry["id"], found))
    assert [] == wrong


@pytest.mark.parametrize("entry", entries("text", "text"))
def test_text_has_the_vectors_outcome(entry: Entry, clock: Clock) -> None:
    """A cookie has one spelling, in every implementation."""
    clock.ms = entry["now_ms"]
    key, context = key_of(entry), entry["context"]
    assert expected_of(entry) == outcome(sync.open_text, entry["text"], key, context=context)


async def test_texts_have_the_vectors_outcomes_when_awaited(clock: Clock) -> None:
    """The same of the other face."""
    for entry in make_vectors.load("text"):
        clock.ms = entry["now_ms"]
        found: object
        try:
            found = await anyseal.open_text(entry["text"], key_of(entry), context=entry["context"])
        except anyseal.AnysealError as error:
            found = type(error).__name__
        assert expected_of(entry) == found, entry["id"]


# ---- Objects -----------------------------------------------------------------------------


def bounds(entry: Entry) -> tuple[int, int | None]:
    """The range that the vector reads."""
    wanted = entry.get("range")
    return (0, None) if wanted is None else (wanted["start"], wanted["start"] + wanted["length"])


@pytest.mark.parametrize("entry", entries("object", "object"))
def test_object_has_the_vectors_outcome_by_range(entry: Entry) -> None:
    """The plaintext of the range, or the one class of refusal."""

    def call() -> bytes:
        source, context = MemorySource(entry["sealed"]), entry["context"]
        with sync.ObjectReader.open(source, key_of(entry), context=context) as reader:
            return reader.read_range(*bounds(entry))

    assert expected_of(entry) == outcome(call)


@pytest.mark.parametrize("entry", entries("object", "object"))
def test_object_has_the_vectors_outcome_by_pipe(entry: Entry) -> None:
    """The same for whoever cannot seek."""
    found = outcome(open_by_pipe, entry["sealed"], key_of(entry), context=entry["context"])
    assert expected_of_stream(entry) == found


async def awaited(call: Callable[[], Any]) -> object:
    """As ``outcome``, for a coroutine function."""
    try:
        return await call()
    except anyseal.AnysealError as error:
        return type(error).__name__


async def test_objects_have_the_vectors_outcomes_when_awaited() -> None:
    """The async readers share the parsing but not the driving."""
    wrong = []
    for entry in make_vectors.load("object"):
        key, context = key_of(entry), entry["context"]

        async def by_range(entry: Entry = entry, key: Key = key) -> bytes:
            source = MemorySource(entry["sealed"])
            opened = await anyseal.ObjectReader.open(source, key, context=entry["context"])
            async with opened as reader:
                return await reader.read_range(*bounds(entry))

        async def by_pipe(entry: Entry = entry, key: Key = key, context: bytes = context) -> bytes:
            opener = anyseal.StreamOpener(key, context=context)
            stream = Stream(entry["sealed"], 1000)
            return b"".join([piece async for piece in opener.open(stream)])

        results = (await awaited(by_range), await awaited(by_pipe))
        if results != (expected_of(entry), expected_of_stream(entry)):
            wrong.append((entry["id"], results))
    assert [] == wrong


# ---- What the package seals, the reference opens -----------------------------------------


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1000, 100_000])
def test_reference_opens_values(suite: Suite, size: int) -> None:
    """A mistake made when sealing and opening alike would pass every round trip."""
    secret, data, context = pattern(32), pattern(size), pattern(1025, "context")
    key = Key.from_bytes(secret)
    sealed = sync.seal(data, key, context=context, suite=suite, expires_at=1_900_000_000.5)
    assert (suite, key.key_id) == (sealed[3], ref.static_key_id(secret))
    assert data == ref.open_value(sealed, secret, now_ms=1_900_000_000_499, context=context)
    with pytest.raises(ref.ExpiredError):
        ref.open_value(sealed, secret, now_ms=1_900_000_000_500, context=context)


def test_reference_opens_other_kinds(suite: Suite) -> None:
    """Wrapped keys and tokens have subkeys of their own."""
    secret = pattern(32)
    key, salt, slot = Key.from_bytes(secret), pattern(32, "salt"), Slot.random()
    wrapped = wrap(slot, key, suite, salt)
    assert slot.export() == ref.unwrap(wrapped, secret, salt)
    token = seal_under(b"token", key, b"", suite, 1_900_000_000, ref.TOKEN)
    assert b"token" == ref.open_value(token, secret, now_ms=0, kind=ref.TOKEN)


@pytest.mark.parametrize("size", SIZES)
def test_reference_opens_objects(suite: Suite, size: int) -> None:
    """Both of its readers, so that both readers of the package have something to agree with."""
    secret, data = pattern(32), pattern(size)
    sealed = seal_bytes(data, Key.from_bytes(secret), suite=suite, context=b"ctx")
    assert data == ref.open_object(sealed, secret, context=b"ctx")
    assert data == ref.open_stream(sealed, secret, context=b"ctx")


async def test_reference_opens_objects_of_the_async_writer() -> None:
    """With chunks and segments as large as the defaults make them."""
    secret, data = pattern(32), pattern(1_500_001)
    for suite in SUITES:
        for settings in ({}, SMALL):
            sink = MemorySink()
            opened = anyseal.ObjectWriter(sink, Key.from_bytes(secret), suite=suite, **settings)
            async with opened as writer:
                await writer.write(data)
            assert data == ref.open_object(sink.getvalue(), secret)


def test_reference_finds_the_keys_of_keyrings() -> None:
    """The key ids that keyrings write lead the reference to the same keys."""
    static = sync.seal(b"x", StaticKeyring(pattern(32)), partition="é")
    assert b"x" == ref.open_value(static, ref.partition_key(pattern(32), "é"), now_ms=0)
    keyring = PassphraseKeyring("pass", memory_log2_kib=3, passes=2)
    sealed = sync.seal(b"x", keyring, partition="é")
    secret = ref.passphrase_lookup(b"pass", "é", sealed[4:20])
    assert b"x" == ref.open_value(sealed, secret, now_ms=0, key_id=sealed[4:20])


def test_key_ids_of_the_caller_are_written() -> None:
    """A keyring may choose ids; whoever opens must find exactly these."""
    key = a_key(key_id=b"0123456789abcdef")
    assert b"0123456789abcdef" == sync.seal(b"", key)[4:20]
    assert b"0123456789abcdef" == seal_bytes(b"", key)[56:72]
