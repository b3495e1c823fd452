"""What encodes MessagePack and JSON a part at a time; see ``steps``."""

from __future__ import annotations

import functools
import heapq
from itertools import islice
from typing import Any

from anyseal import offload, pages
from anyseal.cache.codecs.shapes import bare, dict_of, list_of
from anyseal.cache.codecs.steps import DEPTH_MAX, ChangedError, NotPlainError, Steps, Writer
from anyseal.cache.codecs.tagged import (
    FROZENSET,
    PAIRS,
    SET,
    TUPLE,
    UntaggedError,
)

__all__ = [
    "JSONWriter",
    "MessageWriter",
    "TaggedWriter",
    "array_head",
    "bytes_head",
    "ext_head",
    "map_head",
    "text_head",
]

TEXT_STEP = 1 << 17
_TEXT = frozenset({str})
_ANY = (Any, object)
_PLAIN = (str, bytes, list, dict)


def array_head(count: int) -> bytes:
    """What an array of MessagePack begins with."""
    if count < 16:
        return bytes((0x90 + count,))
    return b"\xdc" + count.to_bytes(2) if count < 1 << 16 else b"\xdd" + count.to_bytes(4)


def map_head(count: int) -> bytes:
    """What a map begins with."""
    if count < 16:
        return bytes((0x80 + count,))
    return b"\xde" + count.to_bytes(2) if count < 1 << 16 else b"\xdf" + count.to_bytes(4)


def text_head(size: int) -> bytes:
    """What a text of so many bytes begins with."""
    if size < 32:
        return bytes((0xA0 + size,))
    return _sized(size, b"\xd9\xda\xdb")


def bytes_head(size: int) -> bytes:
    """What so many bytes begin with."""
    return _sized(size, b"\xc4\xc5\xc6")


def ext_head(code: int, size: int) -> bytes:
    """What an extension of so many bytes begins with."""
    if size in (1, 2, 4, 8, 16):
        return bytes((0xD3 + size.bit_length(), code))
    return _sized(size, b"\xc7\xc8\xc9") + bytes((code,))


def _sized(size: int, tags: bytes) -> bytes:
    number = 0 if size < 1 << 8 else 1 if size < 1 << 16 else 2
    return tags[number : number + 1] + size.to_bytes(1 << number)


class MessageWriter(Writer):
    """MessagePack as msgspec writes it, of types that it knows."""

    def value(self, value: Any, type: Any = Any, depth: int = 0) -> Steps[list[Any]]:
        """The pieces of *value*."""
        kind, wanted = value.__class__, bare(type)
        if self._only_plain and kind not in _PLAIN:
            raise NotPlainError
        if kind is str and (wanted in _ANY or wanted is str):
            return (yield from self._text(value))
        if kind is bytes and (wanted in _ANY or wanted is bytes):
            self.emit(value)
            return [bytes_head(len(value)), value]
        found = self.shape(value, type, depth)
        if found is None:
            return [(yield from self.one(value, type, depth))]
        if isinstance(value, dict):
            return (yield from self._map(value, found, depth))
        return (yield from self._array(value, found[1], depth))

    def _text(self, text: str) -> Steps[list[Any]]:
        self.emit(text)
        if self._before is not None:
            return []
        try:
            data = yield functools.partial(pages.encoded, text, offload.pause)
        except UnicodeEncodeError:
            data = self.encoded(text, Any, 0)  # which says so
        return [text_head(len(data)), data]

    def _array(self, value: Any, type: Any, depth: int) -> Steps[list[Any]]:
        pieces, done = [array_head(len(value))], 0
        for part, heavy in self.parts(value):
            if heavy:
                self.path.append(done)
                pieces += yield from self.value(part[0], type, depth + 1)
                self.path.pop()
            else:
                data = self.encoded(part, list_of(type), depth, done)
                pieces.append(self.emit(data[len(array_head(len(part))) :]))
                yield None
            done += len(part)
        return pieces

    def _map(self, value: Any, shape: tuple[Any, Any], depth: int) -> Steps[list[Any]]:
        pieces = [map_head(len(value))]
        whole = dict_of(shape)
        for part, heavy in self.parts(value):
            if heavy:
                ((key, each),) = part.items()
                pieces.append(self.emit(self.encoded({key: None}, Any, depth)[1:-1]))
                self.path.append((key,))
                pieces += yield from self.value(each, shape[1], depth + 1)
                self.path.pop()
            else:
                data = self.encoded(part, whole, depth)
                pieces.append(self.emit(data[len(map_head(len(part))) :]))
                yield None
        return pieces


class TaggedWriter(MessageWriter):
    """MessagePack with the extensions of ``tagged``."""

    most = 1000
    whole_items = 512

    def value(self, value: Any, type: Any = Any, depth: int = 0) -> Steps[list[Any]]:
        """The pieces of *value*."""
        kind = value.__class__
        if depth >= DEPTH_MAX:
            raise UntaggedError("nested too deep")
        if kind in (str, bytes, list):
            return (yield from super().value(value, Any, depth))
        if kind is dict:
            if all(_TEXT.issuperset(map(_kind, part)) for part in _parted(value)):
                return (yield from self._map(value, (Any, Any), depth))
            body = yield from self._pairs(value, depth)
            code = PAIRS
        elif kind is tuple:
            body, code = (yield from self._array(value, Any, depth)), TUPLE
        elif kind in (set, frozenset):
            body = yield from self._sorted(value, depth)
            code = SET if kind is set else FROZENSET
        else:
            return [(yield from self.one(value, Any, depth))]
        return [ext_head(code, sum(map(len, body))), *body]

    def _pairs(self, value: dict[Any, Any], depth: int) -> Steps[list[Any]]:
        pieces = [array_head(len(value))]
        for part, heavy in self.parts(value):
            if heavy:
                ((key, each),) = part.items()
                pieces.append(self.emit(b"\x92" + self.encoded(key, Any, depth + 1)))
                pieces += yield from self.value(each, Any, depth + 1)
            else:
                data = self.encoded([[*pair] for pair in part.items()], Any, depth - 1)
                pieces.append(self.emit(data[len(array_head(len(part))) :]))
                yield None
        return pieces

    def _sorted(self, value: Any, depth: int) -> Steps[list[Any]]:
        runs = []
        for part, _ in self.parts(value):
            runs.append(sorted(self.encoded(each, Any, depth + 1) for each in part))
            yield None
        pieces, merged = [array_head(len(value))], heapq.merge(*runs)
        while run := b"".join(islice(merged, self.whole_items)):
            pieces.append(self.emit(run))
            yield None
        return pieces


def _kind(value: Any) -> type:
    return value.__class__  # type: ignore[no-any-return]


def _parted(value: dict[Any, Any]) -> Any:
    """The keys, some at a time."""
    keys = iter(value)
    try:
        while part := list(islice(keys, 4096)):
            yield part
    except RuntimeError:
        raise ChangedError from None


class JSONWriter(Writer):
    """JSON as msgspec writes it."""

    def value(self, value: Any, type: Any = Any, depth: int = 0) -> Steps[list[Any]]:
        """The pieces of *value*."""
        if value.__class__ is str and (bare(type) in _ANY or bare(type) is str):
            return (yield from self._text(value))
        pairs, found = isinstance(value, dict), self.shape(value, type, depth)
        if found is None:
            return [(yield from self.one(value, type, depth))]
        pieces, done = [b"{" if pairs else b"["], 0
        whole = dict_of(found) if pairs else list_of(found[1])
        for part, heavy in self.parts(value):
            if done:
                pieces.append(b",")
            if not heavy:
                pieces.append(self.emit(self.encoded(part, whole, depth, done)[1:-1]))
                yield None
            elif pairs:
                ((key, each),) = part.items()
                pieces.append(self.emit(self.encoded({key: None}, Any, depth)[1:-5]))
                self.path.append((key,))
                pieces += yield from self.value(each, found[1], depth + 1)
                self.path.pop()
            else:
                self.path.append(done)
                pieces += yield from self.value(part[0], found[1], depth + 1)
                self.path.pop()
            done += len(part)
        pieces.append(b"}" if pairs else b"]")
        return pieces

    def _text(self, text: str) -> Steps[list[Any]]:
        self.emit(text)
        pieces: list[Any] = [b'"']
        if self._before is None:
            for at in range(0, len(text), TEXT_STEP):
                pieces.append(self.encoded(text[at : at + TEXT_STEP], Any, 0)[1:-1])
                yield None
        pieces.append(b'"')
        return pieces
