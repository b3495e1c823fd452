"""A second, independent implementation of docs/cache-format.md, on tests/reference.py and hashlib.

As there, encoders take every random input as an argument, and nothing is shared with the package.
"""

from __future__ import annotations

import struct
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from urllib.parse import quote

import reference as ref

VALUE, RAW, NONE, ERROR, LARGE = range(5)
TAG_BYTES = 48


# ---- 1 Keys of entries -------------------------------------------------------------------


def key_of_text(text: str) -> bytes:
    return b"s" + text.encode("utf-8")


def key_of_bytes(data: bytes) -> bytes:
    return b"b" + data


def key_of_call(function: str, arguments: bytes) -> bytes:
    name = function.encode("utf-8")
    return b"f" + struct.pack(">H", len(name)) + name + arguments


# ---- 2 Names -----------------------------------------------------------------------------


def hashed(key: bytes, message: bytes) -> str:
    """32 characters that name *message* under a partition's key."""
    subkey = ref.derive(key, "name", b"\0")
    digest = blake2b(message, digest_size=24, key=subkey, person=b"anyseal name v1").digest()
    return urlsafe_b64encode(digest).decode("ascii")


@dataclass(frozen=True)
class Place:
    """Whose entries: what names and contexts are made of."""

    namespace: str
    partition: str
    codec: str
    plain: bool = False

    @property
    def scope(self) -> bytes:
        fields = (self.namespace.encode("utf-8"), self.partition.encode("utf-8"))
        return b"".join(struct.pack(">H", len(one)) + one for one in fields)

    def partition_name(self, key: bytes) -> str:
        shown = quote(self.partition, safe="")
        if self.plain and len(shown) <= 64:
            return shown
        return "=" * self.plain + hashed(key, b"p" + self.scope)[:12]

    def name(self, key: bytes, entry_key: bytes) -> str:
        """Where the entry is, under the name key *key*."""
        prefix = f"{self.namespace}:{self.partition_name(key)}:"
        if self.plain and entry_key[:1] == b"s":
            shown = prefix + "{" + quote(entry_key[1:], safe="-._~/") + "}"
            if len(shown) <= 176:
                return shown
        if entry_key[:1] == b"f":
            (size,) = struct.unpack(">H", entry_key[1:3])
            function = entry_key[3 : 3 + size]
            prefix += hashed(key, b"f" + self.scope + function)[:8] + ":"
        mark = "=" * self.plain
        return prefix + "{" + mark + hashed(key, b"e" + self.scope + entry_key) + "}"

    def tag(self, key: bytes, text: str) -> str:
        return hashed(key, b"t" + self.scope + text.encode("utf-8"))

    def record(self, tag: str) -> str:
        """Where a tag's generation is."""
        return self.namespace + ":{" + tag + "}g"

    # ---- 3 Contexts

    def context(self, entry_key: bytes, what: bytes = b"entry") -> bytes:
        fields = (
            b"anyseal cache v1",
            self.namespace.encode("utf-8"),
            self.partition.encode("utf-8"),
            self.codec.encode("utf-8"),
            what,
            entry_key,
        )
        return b"".join(struct.pack(">I", len(one)) + one for one in fields)


# ---- 4 Plaintexts ------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    kind: int
    payload: bytes
    fresh_until: int = 0
    cost_ms: int = 0
    tags: tuple[tuple[str, bytes], ...] = ()

    def to_bytes(self) -> bytes:
        head = struct.pack(">BBHIQ", self.kind, len(self.tags), 0, self.cost_ms, self.fresh_until)
        tags = b"".join(name.encode("ascii") + generation for name, generation in self.tags)
        return head + tags + self.payload

    @classmethod
    def parse(cls, plaintext: bytes) -> Entry:
        ref.need(len(plaintext) >= 16, ref.FormatError)
        kind, count, zero, cost_ms, fresh_until = struct.unpack(">BBHIQ", plaintext[:16])
        end = 16 + TAG_BYTES * count
        ref.need(kind <= LARGE and zero == 0 and len(plaintext) >= end, ref.FormatError)
        raw = [plaintext[at : at + TAG_BYTES] for at in range(16, end, TAG_BYTES)]
        tags = tuple((one[:32].decode("ascii"), one[32:]) for one in raw)
        return cls(kind, plaintext[end:], fresh_until, cost_ms, tags)


def whereabouts(kind: int, sealed_size: int, identity: bytes) -> bytes:
    """The payload of an entry of kind LARGE."""
    return struct.pack(">BQ16s", kind, sealed_size, identity)


# ---- 5 Reading ---------------------------------------------------------------------------


def partition_key_of(sealed: bytes, masters: Sequence[bytes], partition: str) -> bytes:
    """The key that a sealed thing names, among those of all *masters*."""
    ref.need(len(sealed) >= 52, ref.FormatError)
    return ref.static_lookup(masters, partition, sealed[4:20])


def read(
    stored: dict[str, bytes], place: Place, entry_key: bytes, masters: Sequence[bytes], now_ms: int
) -> Entry | None:
    """The entry of *entry_key* in a backend with these values; of kind LARGE with the object's
    bytes in place of its whereabouts. None if it is not there, or one of its tags has ended."""
    for master in masters:
        name = place.name(ref.partition_key(master, place.partition), entry_key)
        sealed = stored.get(name)
        if sealed is None:
            continue
        key = partition_key_of(sealed, masters, place.partition)
        context = place.context(entry_key)
        entry = Entry.parse(ref.open_value(sealed, key, now_ms=now_ms, context=context))
        if not all(tag_holds(stored, place, tag, masters, now_ms) for tag in entry.tags):
            return None
        if entry.kind != LARGE:
            return entry
        ref.need(len(entry.payload) == 25 and entry.payload[0] in (VALUE, RAW), ref.FormatError)
        kind, size, identity = struct.unpack(">BQ16s", entry.payload)
        body = stored[name + "o"]
        ref.need(len(body) == size, ref.FormatError)
        what = b"object" + bytes([kind]) + identity
        key = partition_key_of(body[52:104], masters, place.partition)
        return Entry(kind, ref.open_object(body, key, context=place.context(entry_key, what)))
    return None


def tag_holds(
    stored: dict[str, bytes],
    place: Place,
    tag: tuple[str, bytes],
    masters: Sequence[bytes],
    now_ms: int,
) -> bool:
    name, generation = tag
    sealed = stored.get(place.record(name))
    if sealed is None:
        return False
    key = partition_key_of(sealed, masters, place.partition)
    context = place.context(name.encode("ascii"), b"tag")
    try:
        return ref.open_value(sealed, key, now_ms=now_ms, context=context) == generation
    except ref.ExpiredError:
        return False
