"""What decodes MessagePack and JSON a part at a time; see ``steps``.

C finds where the message can be cut (csrc/cuts.c), and msgspec decodes each part. What a part may
be, and what is refused, is as in one call. A value whose type cannot be cut (a dataclass, a fixed
tuple) is decoded in one call, in a worker thread.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from anyseal import offload, pages
from anyseal._ffi import ffi, lib
from anyseal.cache.codecs.shapes import bare, dict_of, elements, entries, list_of
from anyseal.cache.codecs.steps import DEPTH_MAX, STEP_BYTES, Steps
from anyseal.cache.codecs.tagged import FROZENSET, PAIRS, SET, TUPLE, pack, tagged_value
from anyseal.cache.codecs.writers import array_head, bytes_head, ext_head, map_head, text_head

__all__ = ["JSONReader", "MessageReader", "TaggedReader", "converted"]

Decode = Callable[[Any, Any], Any]
TAGGED_STEP = 1 << 12
"""Bytes of tagged values that are decoded, and encoded again, at a time."""


class _Reader:
    def __init__(self, data: Any, decode: Decode) -> None:
        self._data = memoryview(data).cast("B")
        self._source = ffi.from_buffer("uint8_t[]", self._data)
        self._size = len(self._data)
        self._decode = decode

    def whole(self, type: Any) -> Steps[Any]:
        """The value that the data holds, as a *type*."""
        value, end = yield from self.value(0, type, 0)
        if end != self._size:
            raise ValueError("more behind it")
        return value

    def value(self, at: int, type: Any, depth: int) -> Steps[tuple[Any, int]]:
        """The long value at a place, and where it ends."""
        raise NotImplementedError


def _text(data: Any) -> str:
    return pages.decoded(pages.copied(data), offload.pause)


class MessageReader(_Reader):
    """MessagePack of plain data."""

    step = STEP_BYTES

    def _head(self, at: int) -> tuple[str, int, int]:
        """What stands at a place, how many or how long it is, and where its content begins."""
        tag = self._data[at]
        if 0x80 <= tag <= 0x9F:
            return ("map" if tag < 0x90 else "array"), tag & 15, at + 1
        if 0xA0 <= tag <= 0xBF:
            return "text", tag & 31, at + 1
        found = _FORMS.get(tag)
        if found is None:
            return "one", 0, at
        form, wide = found
        count = int.from_bytes(self._data[at + 1 : at + 1 + wide])
        return form, count, at + 1 + wide

    def _cut(self, at: int, most: int, each: int, budget: int) -> tuple[int, int]:
        """How many of *most* items fit into a step, and where they end."""
        count = ffi.new("uint64_t *")
        end = lib.anyseal_msgpack_cut(count, self._source, self._size, at, most, each, budget)
        if end < 0:
            raise ValueError("cut")
        return count[0], end

    def value(self, at: int, type: Any, depth: int) -> Steps[tuple[Any, int]]:
        """The long value at a place, and where it ends."""
        form, count, start = self._head(at)
        if depth < DEPTH_MAX:
            if form == "array" and (found := elements(type)) is not None:
                items, end = yield from self._array(start, count, found[1], depth)
                return found[0](items), end
            if form == "map" and (shape := entries(type)) is not None:
                return (yield from self._map(start, count, shape, depth))
            if form in ("text", "bytes") and bare(type) in (Any, object, str, bytes):
                return (yield from self._blob(form, start, count, bare(type)))
        end = (yield functools.partial(self._cut, at, 1, 1, self._size))[1]
        value = yield functools.partial(self._decode, self._data[at:end], type)
        return value, end

    def _blob(self, form: str, start: int, count: int, type: Any) -> Steps[tuple[Any, int]]:
        end = start + count
        if end > self._size or type is (bytes if form == "text" else str):
            raise ValueError("another type, or cut")
        read: Any = _text if form == "text" else pages.copied
        if count <= STEP_BYTES:
            return read(self._data[start:end]), end
        value = yield functools.partial(read, self._data[start:end])
        return value, end

    def _part(self, head: bytes, at: int, end: int, type: Any, depth: int) -> Any:
        """A part, with a head of its own."""
        return self._decode(b"".join((head, self._data[at:end])), type)

    def _array(self, at: int, count: int, type: Any, depth: int) -> Steps[tuple[list[Any], int]]:
        items: list[Any] = []
        whole = list_of(type)
        while count:
            found, end = self._cut(at, count, 1, self.step)
            if found:
                items += self._part(array_head(found), at, end, whole, depth)
                yield None
            else:
                value, end = yield from self.value(at, type, depth + 1)
                items.append(value)
            at, count = end, count - max(1, found)
        return items, at

    def _map(
        self, at: int, count: int, shape: tuple[Any, Any], depth: int
    ) -> Steps[tuple[dict[Any, Any], int]]:
        made: dict[Any, Any] = {}
        whole = dict_of(shape)
        while count:
            found, end = self._cut(at, count, 2, self.step)
            if found:
                made.update(self._part(map_head(found), at, end, whole, depth))
                yield None
            else:
                key_end = self._cut(at, 1, 1, self._size)[1]
                (key,) = self._keyed(at, key_end, shape[0])
                made[key], end = yield from self.value(key_end, shape[1], depth + 1)
            at, count = end, count - max(1, found)
        return made, at

    def _keyed(self, at: int, end: int, type: Any) -> Any:
        return self._decode(b"".join((b"\x81", self._data[at:end], b"\xc0")), dict_of((type, None)))


_FORMS = {
    0xC4: ("bytes", 1), 0xC5: ("bytes", 2), 0xC6: ("bytes", 4),
    0xD9: ("text", 1), 0xDA: ("text", 2), 0xDB: ("text", 4),
    0xDC: ("array", 2), 0xDD: ("array", 4), 0xDE: ("map", 2), 0xDF: ("map", 4),
}  # fmt: skip


class TaggedReader(MessageReader):
    """MessagePack with the extensions of ``tagged``: refuses what it would not have written."""

    step = TAGGED_STEP
    _heads = {"array": array_head, "map": map_head, "text": text_head, "bytes": bytes_head}  # noqa: RUF012

    def __init__(self, data: Any) -> None:
        super().__init__(data, lambda part, _: tagged_value(part))

    def value(self, at: int, type: Any, depth: int) -> Steps[tuple[Any, int]]:
        """The long value at a place, and where it ends."""
        if depth >= DEPTH_MAX:
            raise ValueError("nested too deep")
        if self._data[at] in _EXTENSIONS:
            return (yield from self._extension(at, depth))
        form, count, start = self._head(at)
        head = self._heads.get(form)
        if head is not None and self._data[at:start] != head(count):
            raise ValueError("another form")
        if form == "map":
            made, end = yield from self._map(start, count, (Any, Any), depth)
            if len(made) != count:
                raise ValueError("a doubled key")
            return made, end
        return (yield from super().value(at, Any, depth))

    def _extension(self, at: int, depth: int) -> Steps[tuple[Any, int]]:
        size, start = _EXTENSIONS[self._data[at]]
        if not size:  # the length stands there
            wide = start - 2
            size = int.from_bytes(self._data[at + 1 : at + 1 + wide])
        code, start = self._data[at + start - 1], at + start
        end = start + size
        if end > self._size or self._data[at:start] != ext_head(code, size):
            raise ValueError("another form, or cut")
        if code not in (TUPLE, SET, FROZENSET, PAIRS):
            return self._part(b"", at, end, Any, depth), end
        form, count, first = self._head(start)
        if form != "array" or self._data[start:first] != array_head(count):
            raise ValueError("another thing in an extension")
        if code in (SET, FROZENSET):
            items, stop = yield from self._sorted(first, count, depth)
        else:
            items, stop = yield from self._array(first, count, Any, depth - (code == PAIRS))
        if stop != end:
            raise ValueError("more behind it")
        value = yield from _made(code, items)
        return value, end

    def _part(self, head: bytes, at: int, end: int, type: Any, depth: int) -> Any:
        data = b"".join((head, self._data[at:end]))
        value = tagged_value(data)
        if pack(value, depth) != data:
            raise ValueError("another form")
        return value

    def _keyed(self, at: int, end: int, type: Any) -> Any:
        found = self._part(b"\x91", at, end, Any, 0)
        if found[0].__class__ is not str:
            raise ValueError("another form")
        return found

    def _sorted(self, at: int, count: int, depth: int) -> Steps[tuple[list[Any], int]]:
        items: list[Any] = []
        last = b""
        while count:
            found, end = self._cut(at, count, 1, self.step)
            if not found:
                found, end = self._cut(at, 1, 1, self._size)
            part = tagged_value(b"".join((array_head(found), self._data[at:end])))
            encoded = [pack(each, depth + 1) for each in part]
            if b"".join(encoded) != self._data[at:end] or encoded != sorted({*encoded}):
                raise ValueError("another form")
            if encoded[0] <= last:
                raise ValueError("out of order")
            last = encoded[-1]
            items += part
            at, count = end, count - found
            yield None
        return items, at


_EXTENSIONS = {
    0xC7: (0, 3), 0xC8: (0, 4), 0xC9: (0, 6),
    0xD4: (1, 2), 0xD5: (2, 2), 0xD6: (4, 2), 0xD7: (8, 2), 0xD8: (16, 2),
}  # fmt: skip
"""The length, 0 where it stands behind the tag, and the bytes of the whole head."""


def _made(code: int, items: list[Any]) -> Steps[Any]:
    """A tuple, set or dict of *items*."""
    if code == TUPLE:
        return tuple(items)
    made: Any = {} if code == PAIRS else set()
    for at in range(0, len(items), 4096):
        made.update(items[at : at + 4096])
        yield None
    if len(made) != len(items):
        raise ValueError("a doubled key")
    if code == PAIRS and all(key.__class__ is str for key in made):
        raise ValueError("another form")
    return frozenset(made) if code == FROZENSET else made


def converted(value: Any, type: Any, convert: Callable[[Any, Any], Any]) -> Steps[Any]:
    """A decoded *value* as a *type*, by *convert*."""
    found = elements(type) if isinstance(value, (list, tuple)) else None
    if found is None:
        made = yield functools.partial(convert, value, type)
        return made
    items: list[Any] = []
    for at in range(0, len(value), 1024):
        items += convert(value[at : at + 1024], list_of(found[1]))
        yield None
    return found[0](items)


_SPACE = re.compile(rb"[ \t\r\n]*")
_SCALAR = re.compile(rb"[^ \t\r\n,\]}]+")
_KEY = re.compile(rb'[ \t\r\n]*("(?:[^"\\]|\\.)*")[ \t\r\n]*:[ \t\r\n]*', re.DOTALL)


class JSONReader(_Reader):
    """JSON, whoever wrote it."""

    def whole(self, type: Any) -> Steps[Any]:
        """The value that the data holds, as a *type*."""
        value, end = yield from self.value(self._behind_space(0), type, 0)
        if self._behind_space(end) != self._size:
            raise ValueError("more behind it")
        return value

    def _behind_space(self, at: int) -> int:
        found = _SPACE.match(self._data, at)
        return at if found is None else found.end()

    def value(self, at: int, type: Any, depth: int) -> Steps[tuple[Any, int]]:
        """The long value at a place, and where it ends."""
        first = self._data[at]
        if depth < DEPTH_MAX:
            if first == 0x5B and (found := elements(type)) is not None:
                items, end = yield from self._array(at + 1, found[1], depth)
                return found[0](items), end
            if first == 0x7B and (shape := entries(type)) is not None:
                return (yield from self._object(at + 1, shape, depth))
            if first == 0x22 and bare(type) in (Any, object, str):
                return (yield from self._text(at + 1))
        end = yield functools.partial(self._end, at)
        value = yield functools.partial(self._decode, self._data[at:end], type)
        return value, end

    def _end(self, at: int) -> int:
        """Where a value ends."""
        if self._data[at] == 0x22:
            found = lib.anyseal_json_text_cut(self._source, self._size, at + 1, self._size)
        elif self._data[at] in b"[{":
            found = lib.anyseal_json_cut(self._source, self._size, at + 1, self._size)
        else:
            scalar = _SCALAR.match(self._data, at)
            if scalar is None:
                raise ValueError("nothing")
            return scalar.end()
        if found <= 0:
            raise ValueError("cut")
        return int(found) + 1

    def _cut(self, at: int) -> int:
        found = lib.anyseal_json_cut(self._source, self._size, at, STEP_BYTES)
        if found < 0:
            raise ValueError("cut")
        return int(found)

    def _array(self, at: int, type: Any, depth: int) -> Steps[tuple[list[Any], int]]:
        items: list[Any] = []
        whole = list_of(type)
        while True:
            end = self._cut(at)
            if end:
                part = self._decode(b"".join((b"[", self._data[at:end], b"]")), whole)
                if not part and (items or self._data[end] == 0x2C):
                    raise ValueError("a comma too much")
                items += part
                yield None
            else:
                value, end = yield from self.value(self._behind_space(at), type, depth + 1)
                items.append(value)
                end = self._behind_space(end)
            if self._over(end, b"]"):
                return items, end + 1
            at = end + 1

    def _object(
        self, at: int, shape: tuple[Any, Any], depth: int
    ) -> Steps[tuple[dict[Any, Any], int]]:
        made: dict[Any, Any] = {}
        whole = dict_of(shape)
        while True:
            end = self._cut(at)
            if end:
                part = self._decode(b"".join((b"{", self._data[at:end], b"}")), whole)
                if not part and (made or self._data[end] == 0x2C):
                    raise ValueError("a comma too much")
                made.update(part)
                yield None
            else:
                found = _KEY.match(self._data, at)
                if found is None:
                    raise ValueError("not a key")
                key_type = dict_of((shape[0], None))
                (key,) = self._decode(b"".join((b"{", found[1], b":null}")), key_type)
                made[key], end = yield from self.value(found.end(), shape[1], depth + 1)
                end = self._behind_space(end)
            if self._over(end, b"}"):
                return made, end + 1
            at = end + 1

    def _over(self, at: int, bracket: bytes) -> bool:
        """Whether what stands behind an element ends them all."""
        found = bytes(self._data[at : at + 1])
        if found not in (b",", bracket):
            raise ValueError("neither a comma nor the end")
        return found == bracket

    def _text(self, at: int) -> Steps[tuple[str, int]]:
        parts = []
        while True:
            end = lib.anyseal_json_text_cut(self._source, self._size, at, STEP_BYTES)
            if end < 0:
                raise ValueError("cut")
            parts.append(self._decode(b"".join((b'"', self._data[at:end], b'"')), str))
            yield None
            at = end
            if self._data[at] == 0x22:
                break
        return (yield functools.partial(pages.joined_text, parts, offload.pause)), at + 1
