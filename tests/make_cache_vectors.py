"""Writes tests/vectors/cache.json: ``python tests/make_cache_vectors.py``.

As tests/make_vectors.py: every input comes from a label, and the package is not used. Each vector
is what a backend holds, and what a reader finds there (docs/cache-format.md, section 7).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import make_vectors as base
import reference as ref
import reference_cache as cache

Entry = dict[str, Any]
MASTER, OLD = base.MASTER, base.OLD_MASTER
PLACE = cache.Place("shop", "tenant-a", "msgpack")
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


def build() -> str:
    """The text of the file."""
    document = {"format": "anyseal", "version": 1, "file": "cache", "vectors": list(vectors())}
    return json.dumps(document, indent=1) + "\n"


if __name__ == "__main__":
    (base.VECTORS / "cache.json").write_text(build(), "utf-8")
