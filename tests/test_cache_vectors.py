"""The cache against tests/vectors/cache.json, and the reference against what the cache stores.

The vectors come from tests/reference_cache.py, which shares no code with the package: agreement
means that docs/cache-format.md can be implemented from its text alone.
"""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

import anyseal.cache.policy
import make_cache_vectors
import make_vectors
import reference as ref
import reference_cache as cache
from anyseal import DecryptionError, FormatError, StaticKeyring, WrongKeyError
from anyseal.cache import Cache, CachePolicy, MemoryBackend, MessagePackCodec, cached
from anyseal.cache.codecs.tagged import same
from conftest import Clock
from support import SUITES, pattern

Vector = dict[str, Any]
MASTERS = [make_vectors.MASTER, make_vectors.OLD_MASTER]
VECTORS: list[Vector] = json.loads(
    (make_vectors.VECTORS / "cache.json").read_text("utf-8")
)["vectors"]  # fmt: skip
RAISES = CachePolicy(on_tamper="raise")


@pytest.fixture(params=VECTORS, ids=[each["id"] for each in VECTORS])
def vector(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Vector:
    """One vector, at its time, its fields decoded."""
    now = SimpleNamespace(time_ns=clock.time_ns)
    monkeypatch.setattr(anyseal.cache.policy, "time", now)
    found: Vector = dict(request.param)
    assert clock.ms == found["now_ms"]
    for field in ("key", "context", "payload"):
        found[field] = make_vectors.decoded(field, found[field])
    found["stored"] = {
        name: make_vectors.decoded("", value) for name, value in found["stored"].items()
    }
    return found


def place_of(vector: Vector) -> cache.Place:
    fields = ("namespace", "partition", "codec", "plain_keys")
    return cache.Place(*(vector[field] for field in fields))


async def filled(vector: Vector) -> Cache:
    """A cache over a backend that holds what the vector says."""
    backend = MemoryBackend()
    for name, value in vector["stored"].items():
        assert await backend.set(name, value)
    return Cache(
        backend, StaticKeyring(MASTERS[0], MASTERS[1:]), namespace=vector["namespace"],
        codec=vector["codec"], plain_keys=vector["plain_keys"], policy=RAISES,
    )  # fmt: skip


async def got(found: Cache, vector: Vector, key: bytes | None = None) -> Any:
    """What the cache has for the vector's key, or for another."""
    data = vector["key"] if key is None else key
    if data[:1] != b"f":
        asked = data[1:].decode() if data[:1] == b"s" else data[1:]
        return await found.get(asked, default="missing", partition=vector["partition"])

    @cached(cache=found, name="shop.prices.price", partition=vector["partition"])
    async def price(number: int, currency: str) -> None:
        raise AssertionError("it must be found")

    assert data == price.key_of(7, "EUR")
    return await price(7, "EUR")


def test_cache_vectors_are_up_to_date() -> None:
    """What is published is what the generator writes."""
    text = (make_vectors.VECTORS / "cache.json").read_text("utf-8")
    assert make_cache_vectors.build() == text


def test_cache_vector_opens_by_the_reference(vector: Vector) -> None:
    """Or the generator and the decoder disagree, and neither can be trusted."""
    place = place_of(vector)
    assert vector["context"] == place.context(vector["key"])
    masters = [bytes.fromhex(each) for each in vector["masters"]]
    entry = cache.read(vector["stored"], place, vector["key"], masters, vector["now_ms"])
    if entry is None:
        assert None is vector["kind"]
    else:
        assert (vector["kind"], vector["payload"]) == (entry.kind, entry.payload)


@pytest.mark.anyio
async def test_cache_vector_opens_by_the_cache(vector: Vector) -> None:
    """Names, contexts, layout, tags and objects are those of the specification."""
    expected = vector["payload"]
    if vector["kind"] in (None, cache.NONE):
        expected = "missing" if vector["kind"] is None else None
    elif vector["kind"] == cache.VALUE and vector["codec"] == "msgpack2":
        expected = {b"\xa3Ada": "Ada", b"\xa3old": "old", b"\x07": 7}[expected]
    assert expected == await got(await filled(vector), vector)


@pytest.mark.anyio
async def test_cache_stores_what_the_reference_reads(vector: Vector) -> None:
    """The other way round: every suite, with tags, and an object for what is large."""
    place = place_of(vector)
    large = vector["id"] == "C-large"
    for suite in SUITES:
        backend = MemoryBackend()
        keyring = StaticKeyring(MASTERS[0], MASTERS[1:])
        here = Cache(
            backend, keyring, namespace=place.namespace, codec="raw", suite=suite,
            plain_keys=place.plain,
        )  # fmt: skip
        raw = cache.Place(place.namespace, place.partition, "raw", place.plain)
        value = pattern(2 << 20) if large else b"value"
        key = vector["key"]
        asked: Any = key[1:].decode() if key[:1] == b"s" else key[1:]
        await here.set(asked, value, tags=["one", "two"], partition=place.partition)
        stored = {}
        for (name,) in [[each] async for names in backend.scan("") for each in names]:
            stored[name] = (await backend.get_many([name]))[0]
        data = cache.key_of_text(asked) if isinstance(asked, str) else cache.key_of_bytes(asked)
        entry = cache.read(stored, raw, data, MASTERS, make_vectors.NOW)
        assert entry is not None
        assert value == entry.payload
        assert large or 2 == len(entry.tags)


@pytest.mark.anyio
async def test_cache_vector_opens_nowhere_else(vector: Vector) -> None:
    """Moved to another key, namespace, partition or codec an entry is refused, not released."""
    place, key, stored = place_of(vector), vector["key"], vector["stored"]
    first = ref.partition_key(MASTERS[0], place.partition)
    old = ref.partition_key(MASTERS[1], place.partition)
    name = next(each for each in (place.name(first, key), place.name(old, key)) if each in stored)
    other_codec = "json" if place.codec == "msgpack2" else "msgpack2"
    others = [
        (place, cache.key_of_text("another")),
        (cache.Place("other", place.partition, place.codec, place.plain), key),
        (cache.Place(place.namespace, "tenant-b", place.codec, place.plain), key),
        (cache.Place(place.namespace, place.partition, other_codec, place.plain), key),
    ]
    for other, other_key in others:
        moved = other.name(ref.partition_key(MASTERS[0], other.partition), other_key)
        changed = {
            "stored": {**stored, moved: stored[name]}, "namespace": other.namespace,
            "codec": other.codec, "partition": other.partition, "plain_keys": other.plain,
        }  # fmt: skip
        here = await filled(changed)
        if other_key[:1] == b"f":
            with pytest.raises((DecryptionError, WrongKeyError)):
                await here._shelf.entries.find(other.partition, other_key)
            continue
        with pytest.raises((DecryptionError, WrongKeyError)):
            await got(here, changed, other_key)


TAGGED = json.loads((make_vectors.VECTORS / "tagged.json").read_text("utf-8"))


@pytest.mark.parametrize("vector", TAGGED["valid"], ids=lambda vector: vector["value"])
def test_tagged_vector_is_what_the_codec_writes_and_reads(vector: dict[str, str]) -> None:
    """Types survive byte by byte as specified: workers of two versions share entries."""
    names = {**vars(datetime), "Decimal": Decimal, "UUID": UUID, "ZoneInfo": ZoneInfo}
    value = eval(vector["value"], names)
    codec = MessagePackCodec()
    assert vector["result"] == codec.encode_result(value).hex()
    assert vector["set"] == codec.encode(value).hex()
    for payload in (vector["result"], vector["set"]):
        assert same(value, codec.decode(bytes.fromhex(payload)))


@pytest.mark.parametrize("name", TAGGED["wrong"])
def test_tagged_vector_that_is_wrong_is_refused(name: str) -> None:
    """Nothing is built from what a writer would not write: it is a miss."""
    with pytest.raises(FormatError):
        MessagePackCodec().decode(bytes.fromhex(TAGGED["wrong"][name]))


def test_tagged_vectors_are_what_the_script_writes() -> None:
    """The file is never edited by hand."""
    assert make_cache_vectors.build_tagged() == (make_vectors.VECTORS / "tagged.json").read_text(
        "utf-8"
    )
