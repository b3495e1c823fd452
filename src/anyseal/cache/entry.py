"""One entry of a cache: how it is named, what is sealed with it, what its plaintext holds. Pure.

Stored under ``namespace:partition name:{key name}``; the braces are part of the name, and what
stands in them decides the slot in a Redis Cluster. Lock, object and temporary names add a suffix.

The plaintext of a sealed entry::

    0 kind u8   1 tags u8   2 zero u16   4 cost u32 ms   8 fresh_until u64 ms   16 tags 48 each ...
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from anyseal.errors import ConfigurationError, FormatError
from anyseal.keys import Key, Slot
from anyseal.pages import joined

__all__ = [
    "ERROR",
    "HEAD_BYTES",
    "LARGE",
    "LOCK",
    "MOVED",
    "NONE",
    "OBJECT",
    "RAW",
    "TEMPORARY",
    "VALUE",
    "Entry",
    "PartitionNames",
    "Tag",
    "check_key",
    "check_namespace",
    "function_key",
    "pack",
    "unpack",
]

VALUE, RAW, NONE, ERROR, LARGE, MOVED = range(6)
"""What an entry holds: a codec's bytes, bytes as they are, None, an exception, or the whereabouts
of an object that holds bytes too large for an entry. MOVED holds nothing: it stands for a moment
where an entry was that goes to another name."""

HEAD_BYTES = 16
TAG_NAME_BYTES = 32
GENERATION_BYTES = 16
_TAG_BYTES = TAG_NAME_BYTES + GENERATION_BYTES
TAGS_MAX = 32
COST_MAX_MS = (1 << 32) - 1
NAME_MAX = 200
SUFFIX_MAX = 24

_LABEL = b"anyseal cache v1"
_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_PARTITION_NAME = 12
_GROUP_NAME = 8
_FUNCTION = ord("f")

LOCK, OBJECT, TEMPORARY = "l", "o", "t"


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag as an entry carries it: its name in the backend, and its generation at the time."""

    name: str
    generation: bytes
    until: int = field(default=0, compare=False)
    """When its record ends, ms since the epoch, as far as is known; 0 never."""

    def reaches(self, end: int) -> bool:
        """Whether its record lives as long as an entry that ends then; 0 never."""
        return not self.until or 0 < end <= self.until


@dataclass(slots=True)
class Entry:
    """The plaintext of an entry, verified."""

    kind: int
    payload: bytes | memoryview = field(repr=False)
    fresh_until: int = 0
    """ms since the epoch; 0: as long as it lives."""
    cost_ms: int = 0
    """How long its value took to compute."""
    tags: tuple[Tag, ...] = ()
    stored: str = ""
    """The name it was found under, and the bytes that were there."""
    sealed: bytes = field(default=b"", repr=False)


def pack(
    kind: int,
    payload: bytes | bytearray | memoryview,
    *,
    fresh_until: int = 0,
    cost_ms: int = 0,
    tags: Sequence[Tag] = (),
) -> bytes:
    """The plaintext of an entry. Raises ValueError for more tags than one byte counts."""
    if len(tags) > 255:
        raise ValueError("an entry has too many tags")
    head = (kind << 56 | len(tags) << 48 | min(cost_ms, COST_MAX_MS)).to_bytes(8)
    if not tags:
        return joined(head + fresh_until.to_bytes(8), payload)
    parts = [head, fresh_until.to_bytes(8)]
    for tag in tags:
        parts += (tag.name.encode(), tag.generation)
    return joined(b"".join(parts), payload)


def unpack(plain: bytes) -> Entry:
    """The entry in *plain*.

    Raises:
        FormatError: Not the plaintext of an entry.
    """
    if len(plain) < HEAD_BYTES or plain[0] > MOVED or plain[2] or plain[3]:
        raise FormatError("not an entry of a cache")
    fresh_until = int.from_bytes(plain[8:16])
    cost_ms = int.from_bytes(plain[4:8])
    at = HEAD_BYTES
    tags: tuple[Tag, ...] = ()
    if plain[1]:
        end = at + plain[1] * _TAG_BYTES
        if len(plain) < end:
            raise FormatError("not an entry of a cache")
        tags = tuple(_tag(plain, start) for start in range(at, end, _TAG_BYTES))
        at = end
    return Entry(plain[0], memoryview(plain)[at:], fresh_until, cost_ms, tags)


def _tag(plain: bytes, at: int) -> Tag:
    name = plain[at : at + TAG_NAME_BYTES]
    return Tag(name.decode("ascii", "replace"), plain[at + TAG_NAME_BYTES : at + _TAG_BYTES])


def check_namespace(namespace: Any) -> str:
    """*namespace*, which is stored as it is. Raises ConfigurationError."""
    if not isinstance(namespace, str) or _NAMESPACE.fullmatch(namespace) is None:
        raise ConfigurationError(
            "namespace must be 1 to 64 of the characters A-Z a-z 0-9 . _ - (it is not hidden)"
        )
    return namespace


def check_key(key: Any) -> bytes:
    """The bytes that stand for *key*: a str, or bytes for what a function's arguments encode to.

    Raises:
        TypeError: Neither str nor bytes.
        ValueError: Empty, over 32 KiB, or with a lone surrogate.
    """
    if type(key) is str:
        try:
            data = b"s" + key.encode()
        except UnicodeEncodeError:
            raise ValueError("key holds a lone surrogate") from None
    elif type(key) is bytes:
        data = b"b" + key
    else:
        raise TypeError(f"key must be str or bytes, not {type(key).__name__}")
    if not 2 <= len(data) <= 1 << 15:
        raise ValueError("a key has 1 to 32,767 bytes")
    return data


def function_key(function: str, arguments: bytes) -> bytes:
    """The bytes that stand for a call of *function* (its name, at most 64 KiB)."""
    name = function.encode()
    return b"".join((b"f", len(name).to_bytes(2), name, arguments))


_RECENT_MAX = 4096
_RECENT_KEY_BYTES = 512
_recent: dict[tuple[PartitionNames, bytes], tuple[str, ...]] = {}
"""Names that were just made: one entry's are asked for several times in a row."""


class PartitionNames:
    """What the names and contexts of one partition's entries are made of."""

    __slots__ = (
        "_context", "_entry", "_functions", "_mark", "_plain", "_scope", "_slots", "keys",
        "namespace", "prefixes",
    )  # fmt: skip

    def __init__(
        self, namespace: str, partition: str, codec: str, keys: Sequence[Key], plain: bool
    ) -> None:
        self.keys = tuple(keys)
        self.namespace = namespace
        self._slots: list[Slot] = [key._subkey(b"name", 0) for key in keys]
        parts = (_LABEL, namespace.encode(), partition.encode(), codec.encode())
        self._context = b"".join(len(part).to_bytes(4) + part for part in parts)
        # Several partitions may have one name key: theirs are other names all the same.
        self._scope = b"".join(len(part).to_bytes(2) + part for part in parts[1:3])
        self._entry = b"e" + self._scope
        self._plain = plain
        # A hash beside names that are shown must not look like one of them.
        self._mark = "=" if plain else ""
        self._functions: dict[bytes, list[str]] = {}
        shown = quote(partition, safe="") if plain else ""
        if 0 < len(shown) <= 64:
            self.prefixes = [f"{namespace}:{shown}:"] * len(self._slots)
        else:
            hashed = [slot.name(b"p" + self._scope)[:_PARTITION_NAME] for slot in self._slots]
            self.prefixes = [f"{namespace}:{self._mark}{name}:" for name in hashed]

    def context(self, key: bytes, what: bytes = b"entry") -> bytes:
        """What is authenticated with the entry of *key*, or with *what* else is stored for it."""
        return b"".join((self._context, len(what).to_bytes(4), what, len(key).to_bytes(4), key))

    def _shown(self, prefix: str, key: bytes) -> str:
        """The name with *key* in it, if that was asked for and fits; else empty."""
        if not self._plain or key[:1] != b"s":
            return ""
        name = f"{prefix}{{{quote(key[1:], safe='-._~/')}}}"
        return name if len(name) <= NAME_MAX - SUFFIX_MAX else ""

    def _groups(self, function: bytes) -> list[str]:
        """What stands for a function in the names of its entries: they are found together."""
        found = self._functions.get(function)
        if found is None:
            message = b"f" + self._scope + function
            found = [slot.name(message)[:_GROUP_NAME] + ":" for slot in self._slots]
            self._functions[function] = found
        return found

    def function_prefixes(self, function: str) -> list[str]:
        """What the names of a function's entries begin with."""
        groups = self._groups(function.encode())
        return [prefix + group for prefix, group in zip(self.prefixes, groups, strict=True)]

    def names(self, key: bytes) -> Sequence[str]:
        """Where the entry of *key* may be: under the current name key, then under older ones.

        What else belongs to it has the same name and a suffix: LOCK, OBJECT, TEMPORARY.
        """
        found = _recent.get((self, key))
        if found is None:
            found = self._made(key)
            if len(_recent) >= _RECENT_MAX:
                _recent.clear()
            if len(key) <= _RECENT_KEY_BYTES:  # else they might take 128 MiB
                _recent[self, key] = found
        return found

    def _made(self, key: bytes) -> tuple[str, ...]:
        prefixes, mark, message = self.prefixes, self._mark, self._entry + key
        if key[0] == _FUNCTION:
            groups = self._groups(key[3 : 3 + int.from_bytes(key[1:3])])
            prefixes = [prefix + group for prefix, group in zip(prefixes, groups, strict=True)]
        found = [
            self._shown(prefix, key) or f"{prefix}{{{mark}{slot.name(message)}}}"
            for prefix, slot in zip(prefixes, self._slots, strict=True)
        ]
        return tuple(dict.fromkeys(found))

    def tags(self, tag: str) -> list[str]:
        """The 32 characters that stand for a tag in entries, under each name key."""
        message = b"t" + self._scope + tag.encode()
        return [slot.name(message) for slot in self._slots]

    def tag_record(self, tag_name: str) -> str:
        """Where the generation of a tag is stored."""
        return f"{self.namespace}:{{{tag_name}}}g"
