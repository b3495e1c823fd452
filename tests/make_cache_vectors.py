"""Writes tests/vectors/cache.json: ``python tests/make_cache_vectors.py``.

As tests/make_vectors.py: every input comes from a label, and the package is not used. Each vector
is what a backend holds, and what a reader finds there (docs/cache-format.md, section 8).
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import make_vectors as base
import reference as ref
import reference_cache as cache

Entry = dict[str, Any]
MASTER, OLD = base.MASTER, base.OLD_MASTER
PLACE = cache.Place("shop", "tenant-a", "msgpack2")
PLAIN = cache.Place("shop", "tenant-a", "raw", plain=True)
GENERATIONS = base.random("cache generation 1", 16), base.random("cache generation 2", 16)
SUITE = ref.XCHACHA20POLY1305


class Draft:
    """One vector: a backend that fills, and what is asked of it."""

    def __init__(self, name: str, comment: str, place: cache.Place, key: bytes) -> None:
        self.name, self.comment, self.place, self.key = name, comment, place, key
        self.stored: dict[str, bytes] = {}

    def put(self, at: str, plaintext: bytes, context: bytes, *, expires_at: int = 0,
            suite: int = SUITE, master: bytes = MASTER) -> None:  # fmt: skip
        self.stored[at] = ref.seal_value(
            plaintext,
            ref.partition_key(master, self.place.partition),
            suite=suite,
            nonce=base.random(f"{self.name} {len(self.stored)}", 24),
            context=context,
            expires_at=expires_at,
        )

    def entry_name(self, master: bytes = MASTER) -> str:
        return self.place.name(ref.partition_key(master, self.place.partition), self.key)

    def entry(self, entry: cache.Entry, *, master: bytes = MASTER, **options: Any) -> None:
        context = self.place.context(self.key)
        self.put(self.entry_name(master), entry.to_bytes(), context, master=master, **options)

    def vector(self, kind: int | None, payload: bytes, **more: Any) -> Entry:
        place = self.place
        return {
            "id": self.name,
            "comment": self.comment,
            "masters": [MASTER.hex(), OLD.hex()],
            "namespace": place.namespace,
            "partition": place.partition,
            "codec": place.codec,
            "plain_keys": place.plain,
            "key": self.key.hex(),
            "context": place.context(self.key).hex(),
            "now_ms": base.NOW,
            "stored": {name: base.encoded(value) for name, value in self.stored.items()},
            "kind": kind,
            "payload": base.encoded(payload),
            **more,
        }


def vectors() -> Iterator[Entry]:
    """All of them."""
    text = cache.key_of_text("user:7")
    draft = Draft("C-text", "a str key; AES256GCM", PLACE, text)
    draft.entry(cache.Entry(cache.VALUE, b"\xa3Ada"), suite=ref.AES256GCM)
    yield draft.vector(cache.VALUE, b"\xa3Ada")

    call = cache.key_of_call("shop.prices.price", b"\x92\x07\xa3EUR")  # price(7, "EUR")
    draft = Draft("C-call", "a call; expiry, freshness and cost; AEGIS256", PLACE, call)
    entry = cache.Entry(cache.NONE, b"", fresh_until=base.NOW + 1000, cost_ms=250)
    draft.entry(entry, suite=ref.AEGIS256, expires_at=base.NOW + 60_000)
    yield draft.vector(cache.NONE, b"")

    yield tagged("C-tags", "two tags that hold", GENERATIONS).vector(cache.VALUE, b"\x07")
    ended = GENERATIONS[0], base.random("cache generation 3", 16)
    draft = tagged("C-tags-ended", "the second tag was deleted since", ended)
    yield draft.vector(None, b"")

    ends = base.NOW + 86_400_000, base.NOW + 1
    draft = tagged("C-tags-living", "records that have not ended", GENERATIONS, ends)
    yield draft.vector(cache.VALUE, b"\x07")
    ends = base.NOW + 86_400_000, base.NOW
    draft = tagged("C-tags-expired", "the second record has ended", GENERATIONS, ends)
    yield draft.vector(None, b"")

    draft = Draft("C-plain", "plain_keys: the key is shown", PLAIN, cache.key_of_text("a b/ü"))
    draft.entry(cache.Entry(cache.VALUE, b"plain"))
    yield draft.vector(cache.VALUE, b"plain")
    draft = Draft("C-plain-bytes", "plain_keys: bytes are hashed", PLAIN, cache.key_of_bytes(b"\0"))
    draft.entry(cache.Entry(cache.VALUE, b""))
    yield draft.vector(cache.VALUE, b"")

    draft = Draft("C-rotated", "named and sealed under the old master key", PLACE, text)
    draft.entry(cache.Entry(cache.VALUE, b"\xa3old"), master=OLD)
    yield draft.vector(cache.VALUE, b"\xa3old")

    yield large()


def tagged(
    name: str, comment: str, recorded: tuple[bytes, bytes], ends: tuple[int, int] = (0, 0)
) -> Draft:
    """An entry with two tags, whose records have these generations now, and end then."""
    draft = Draft(name, comment, PLACE, cache.key_of_text("cart"))
    key = ref.partition_key(MASTER, PLACE.partition)
    tags = [PLACE.tag(key, text) for text in ("user:7", "carts")]
    carried = tuple(zip(tags, GENERATIONS, strict=True))
    draft.entry(cache.Entry(cache.VALUE, b"\x07", tags=carried))
    for tag, generation, end in zip(tags, recorded, ends, strict=True):
        context = PLACE.context(tag.encode("ascii"), b"tag")
        draft.put(PLACE.record(tag), generation, context, expires_at=end)
    return draft


def large() -> Entry:
    """Bytes in an object beside their entry, in chunks of 4 KiB so that the vector is short."""
    draft = Draft("C-large", "bytes in an object", PLACE, cache.key_of_text("film"))
    payload, identity = base.random("cache large", 5000), base.random("cache id", 16)
    name = draft.entry_name()
    body = ref.seal_object(
        payload,
        ref.partition_key(MASTER, PLACE.partition),
        data_key=base.random("cache data key", 32),
        suite=SUITE,
        chunk_log2=12,
        segment_size=8192,
        object_salt=base.random("cache object salt", 32),
        wrap_nonce=base.random("cache wrap nonce", 24),
        segment_salts=[base.random("cache segment salt", 16)],
        context=PLACE.context(draft.key, b"object" + bytes([cache.RAW]) + identity),
    )
    where = cache.whereabouts(cache.RAW, len(body), identity)
    draft.entry(cache.Entry(cache.LARGE, where))
    draft.stored[name + "o"] = body
    return draft.vector(cache.RAW, payload)


TAGGED = [
    "date(2026, 11, 30)", "datetime(2026, 11, 30, 12, 30)", "datetime(2026, 1, 2, tzinfo=UTC)",
    "datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=-3, minutes=-30)))",
    "datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo('Europe/Amsterdam'))",
    "time(23, 59, 59, 999999)", "time(1, 2, tzinfo=UTC)", "timedelta(-1, 3, 7)",
    "Decimal('1.10')", "Decimal('-0E-20')", "Decimal('NaN')", "UUID(int=7)", "(1, 'a', None)", "()",
    "{3, 1, 'b'}", "frozenset({(1, 2)})", "set()", "bytearray(b'x')", "1 << 64", "-(1 << 63) - 1",
    "{1: 'a', 'b': [2.5]}", "{(1, 2): {3}}", "[{'when': date(2026, 1, 1), 'n': [True, (b'x',)]}]",
    "{'plain': [1, 'a', None, 2.5, b'x', -129, 1 << 40]}", "[]", "'text'",
]  # fmt: skip
"""Values as Python writes them."""

EXT = cache.Ext
MALFORMED = {
    "unknown code": EXT(1, cache.packed(EXT(99, b"x"))),
    "unknown wrapper": EXT(6, b"2026-11-30"),
    "wrapper within": EXT(1, cache.packed([EXT(1, b"\xc0")])),
    "nothing tagged": EXT(1, b""),
    "more behind": EXT(1, cache.packed(EXT(6, b"2026-11-30")) + b"\xc0"),
    "tuple of no array": EXT(1, cache.packed(EXT(2, b"\x01"))),
    "set out of order": EXT(1, cache.packed(EXT(3, b"\x92\x02\x01"))),
    "set with a doubled element": EXT(1, cache.packed(EXT(3, b"\x92\x01\x01"))),
    "doubled text key": EXT(1, b"\x92\x82\xa1a\x01\xa1a\x02" + cache.packed(EXT(2, b"\x90"))),
    "doubled key": EXT(1, cache.packed(EXT(5, b"\x92\x92\x01\x01\x92\x01\x02"))),
    "text keys in pairs": EXT(1, cache.packed(EXT(5, b"\x91\x92\xa1a\x01"))),
    "small integer as text": EXT(1, cache.packed(EXT(12, b"7"))),
    "integer too long": EXT(1, cache.packed(EXT(12, b"9" * 4301))),
    "Decimal too long": EXT(1, cache.packed(EXT(10, b"1" * 4301))),
    "Decimal exponent": EXT(1, cache.packed(EXT(10, b"1E+6145"))),
    "Decimal in another form": EXT(1, cache.packed(EXT(10, b"1e3"))),
    "unknown zone": EXT(1, cache.packed(EXT(7, cache.packed(["2026-01-01T00:00:00", 0, "../x"])))),
    "fold": EXT(1, cache.packed(EXT(7, cache.packed(["2026-01-01T00:00:00", 2, ""])))),
    "short UUID": EXT(1, cache.packed(EXT(11, b"x" * 15))),
    "not hashable": EXT(1, cache.packed(EXT(3, b"\x91\x90"))),
}


def nested(levels: int) -> bytes:
    """So many tuples, one in the other."""
    data = b"\x90"
    for _ in range(levels):
        data = b"\x91" + cache.packed(EXT(2, data))
    return cache.packed(EXT(1, cache.packed(EXT(2, data))))


def build_tagged() -> str:
    """The text of the codec's file."""
    names = {**vars(datetime), "Decimal": Decimal, "UUID": UUID, "ZoneInfo": ZoneInfo}
    valid = []
    for text in TAGGED:
        value = eval(text, dict(names))
        valid.append(
            {
                "value": text,
                "result": cache.payload_of(value, result=True).hex(),
                "set": cache.payload_of(value, result=False).hex(),
            }
        )
    wrong = {name: cache.packed(each).hex() for name, each in MALFORMED.items()}
    wrong["nested too deep"] = nested(70).hex()
    document = {"format": "anyseal", "version": 1, "file": "tagged", "valid": valid, "wrong": wrong}
    return json.dumps(document, indent=1) + "\n"


def build() -> str:
    """The text of the file."""
    document = {"format": "anyseal", "version": 1, "file": "cache", "vectors": list(vectors())}
    return json.dumps(document, indent=1) + "\n"


if __name__ == "__main__":
    (base.VECTORS / "cache.json").write_text(build(), "utf-8")
    (base.VECTORS / "tagged.json").write_text(build_tagged(), "utf-8")
