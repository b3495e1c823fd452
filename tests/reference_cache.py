"""A second, independent implementation of docs/cache-format.md, on tests/reference.py and hashlib.

As there, encoders take every random input as an argument, and nothing is shared with the package.
"""

from __future__ import annotations

import struct
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Any
from urllib.parse import quote
from uuid import UUID

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


# ---- the codec msgpack2 (docs/cache-format.md, section 6), written only


@dataclass(frozen=True)
class Ext:
    """An extension of MessagePack."""

    code: int
    data: bytes


def packed(value: Any) -> bytes:
    """Plain data and extensions as MessagePack in its shortest form."""
    if value is None or value is True or value is False:
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        return _packed_int(value)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode()
        return _sized(len(data), ((0xA0, 32), (0xD9, 1), (0xDA, 2), (0xDB, 4))) + data
    if isinstance(value, bytes):
        return _sized(len(value), ((0xC4, 1), (0xC5, 2), (0xC6, 4))) + value
    if isinstance(value, list):
        head = _sized(len(value), ((0x90, 16), (0xDC, 2), (0xDD, 4)))
        return head + b"".join(map(packed, value))
    if isinstance(value, dict):
        head = _sized(len(value), ((0x80, 16), (0xDE, 2), (0xDF, 4)))
        return head + b"".join(packed(each) for pair in value.items() for each in pair)
    fixed = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}.get(len(value.data))
    if fixed is not None:
        return bytes((fixed, value.code)) + value.data
    head = _sized(len(value.data), ((0xC7, 1), (0xC8, 2), (0xC9, 4)))
    return head + bytes((value.code,)) + value.data


def _packed_int(value: int) -> bytes:
    if -32 <= value < 128:
        return struct.pack("b", value)
    unsigned = ((0xCC, ">B"), (0xCD, ">H"), (0xCE, ">I"), (0xCF, ">Q"))
    signed = ((0xD0, ">b"), (0xD1, ">h"), (0xD2, ">i"), (0xD3, ">q"))
    for code, form in unsigned if value > 0 else signed:
        try:
            return bytes((code,)) + struct.pack(form, value)
        except struct.error:
            continue
    raise ValueError("an integer beyond 64 bits")


def _sized(size: int, forms: tuple[tuple[int, int], ...]) -> bytes:
    """A length, in the first form that has room: within the code itself, or behind it."""
    for code, room in forms:
        if room >= 16:
            if size < room:
                return bytes((code + size,))
        elif size < 1 << (8 * room):
            return bytes((code,)) + size.to_bytes(room)
    raise ValueError("too long")


def tagged(value: Any) -> Any:
    """Plain data and extensions for a value of the closed table."""
    kind = type(value)
    if kind is list:
        return [tagged(each) for each in value]
    if kind is dict and all(type(key) is str for key in value):
        return {key: tagged(each) for key, each in value.items()}
    if kind is dict:
        return Ext(5, packed([[tagged(key), tagged(each)] for key, each in value.items()]))
    if kind is tuple:
        return Ext(2, packed([tagged(each) for each in value]))
    if kind in (set, frozenset):
        items = sorted(packed(tagged(each)) for each in value)
        head = _sized(len(items), ((0x90, 16), (0xDC, 2), (0xDD, 4)))
        return Ext(3 if kind is set else 4, head + b"".join(items))
    if kind is date:
        return Ext(6, value.isoformat().encode())
    if kind in (datetime, time):
        zone = value.tzinfo
        shown = "" if zone is None else getattr(zone, "key", None)
        if shown is None:
            offset = round(zone.utcoffset(None).total_seconds())
            shown = "Z" if zone is UTC else f"{offset:+d}"
        text = value.replace(tzinfo=None).isoformat()
        return Ext(7 if kind is datetime else 8, packed([text, value.fold, shown]))
    if kind is timedelta:
        return Ext(9, packed([value.days, value.seconds, value.microseconds]))
    if kind in (Decimal, UUID, bytearray):
        code, data = {
            Decimal: (10, str(value).encode()),
            UUID: (11, getattr(value, "bytes", b"")),
            bytearray: (13, value if kind is bytearray else b""),
        }[kind]
        return Ext(code, bytes(data))
    if kind is int and not -(1 << 63) <= value < 1 << 64:
        return Ext(12, str(value).encode())
    return value


def payload_of(value: Any, *, result: bool) -> bytes:
    """What the codec stores for *value*: a function's result, or what ``set`` is given."""
    plain = tagged(value)
    whole = packed(plain)
    if _extended(plain):
        return packed(Ext(1 if result else 14, whole))
    return whole


def _extended(value: Any) -> bool:
    if isinstance(value, list | dict):
        return any(map(_extended, value.values() if isinstance(value, dict) else value))
    return isinstance(value, Ext)
