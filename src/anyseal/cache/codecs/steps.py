"""Values that are encoded a part at a time, so that no event loop stands still for all of one.

What is written are generators, which a cache drives (``kit.stepped``): they yield None between two
steps, or a function that is to be called in a worker thread, and get what it returned. The bytes
are those that one call would write. A value is gone through twice: what was changed after it was
encoded is seen the second time, so that no mixture of two states is stored.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator
from itertools import chain, islice
from typing import Any, TypeVar

from anyseal import pages
from anyseal._ffi import ffi, lib
from anyseal.cache.codecs.blame import blame, named
from anyseal.cache.codecs.shapes import elements, entries

__all__ = [
    "INLINE_BYTES",
    "STEP_BYTES",
    "ChangedError",
    "NotPlainError",
    "RefusedError",
    "Steps",
    "Writer",
    "decoding",
    "encoding",
    "encoding_result",
    "gathered",
    "is_long",
    "light",
    "light_result",
    "survey",
    "written",
]

T = TypeVar("T")
Steps = Generator[Callable[[], Any] | None, Any, T]

STEP_BYTES = 1 << 16
"""Of encoded data, at a time."""

INLINE_BYTES = 1 << 15
"""What is decoded in one step: about 1 ms, and some more of tagged values."""

UNCUT_BYTES = 1 << 20
"""What is decoded on the event loop by a codec that has no steps."""

STEP_ITEMS = 6000
"""Things in what is encoded at a time: about 1 ms."""

SMALL = 1000
"""Things in a small value, at 64 bytes of text each."""

STEP_SIZE = 1 << 18
"""Characters and bytes of texts, in what is encoded at a time."""

PART_MAX = 2048
"""Elements of a list, or entries of a dict, that are encoded at a time."""

COPY_BYTES = 1 << 20
DEPTH_MAX = 64
SCALARS = frozenset({type(None), bool, int, float, str, bytes})
_TEXT = frozenset({str})
_DICT = frozenset({dict})
_SIZED = frozenset({str, bytes})
_SEQUENCES = (list, tuple, set, frozenset)


class ChangedError(RuntimeError):
    """A value was changed while it was encoded."""

    discreet = "it was changed while it was encoded"

    def __init__(self) -> None:
        super().__init__(
            "the value was changed while it was encoded: give the cache one that nothing changes, "
            "such as a copy"
        )


class NotPlainError(Exception):
    """Something does not come back from MessagePack as it is."""


class RefusedError(Exception):
    """A part of a value could not be encoded."""

    def __init__(self, path: list[Any], part: Any, offset: int) -> None:
        super().__init__()
        self.path, self.part, self.offset = path, part, offset

    def blame(self, encode: Callable[[Any], object], *, keys: bool = True) -> str:
        """The path and type of what is wrong, as ``blame`` says it of the whole value."""
        text = blame(self.part, encode, keys=keys)[1:]
        if self.offset and text.startswith("["):
            number, found, rest = text[1:].partition("]")
            if found and number.isdecimal():
                text = f"[{int(number) + self.offset}]{rest}"
        steps = (f"[{at}]" if type(at) is int else named(at[0], keys) for at in self.path)
        return f"${''.join(steps)}{text}"


def survey(value: Any, *, most: int = STEP_ITEMS) -> bool | None:
    """Whether *value* comes back from MessagePack as it is, by exact types all the way down (an
    integer of more than 64 bits aside, which MessagePack itself refuses); None if it is too much to
    be encoded in one step.

    Cost: about 1 us for a flat dict of 5 fields, 2 us for one of 20.
    """
    return True if _left(value, SMALL, 0) >= 0 else _surveyed([value], most)


def _left(value: Any, left: int, depth: int) -> int:
    """What is left of *left* things when a plain value is through; below 0 if it is too much for
    this quick look, or not plain."""
    kind = type(value)
    if kind in SCALARS:
        return left - (len(value) >> 6) if kind in _SIZED else left
    if kind is dict:
        if not _TEXT.issuperset(map(type, value)):
            return -1
        values: Any = value.values()
        left -= sum(map(len, value)) >> 6
    elif kind is list:
        values = value
    else:
        return -1
    left -= len(values)
    if left < 0 or depth >= DEPTH_MAX:
        return -1
    if SCALARS.issuperset(map(type, values)):
        for each in values:
            if each.__class__ in _SIZED:
                left -= len(each) >> 6
        return left
    for each in values:
        left = _left(each, left, depth + 1)
        if left < 0:
            break
    return left


def _surveyed(level: list[Any], most: int) -> bool | None:
    """:func:`survey` of all in *level*."""
    plain, size = True, 0
    for _ in range(DEPTH_MAX + 1):
        kinds = set(map(type, level))
        if not kinds.isdisjoint(_SIZED):
            size += sum([len(each) for each in level if each.__class__ in _SIZED])
        if size > STEP_SIZE:
            return None
        if kinds <= SCALARS:
            return plain
        below: list[Any] = []
        dicts = level if kinds == _DICT else [each for each in level if isinstance(each, dict)]
        if dicts:
            most -= sum(map(len, dicts))
            if most < 0:
                return None
            keys = set(chain.from_iterable(dicts))
            if not (_TEXT.issuperset(map(type, keys)) and _DICT.issuperset(map(type, dicts))):
                plain = False
                below += keys
            elif keys:
                size += max(map(len, keys)) * sum(map(len, dicts))
            below += chain.from_iterable([each.values() for each in dicts])
        if len(dicts) < len(level):
            for each in level:
                if isinstance(each, _SEQUENCES):
                    plain = plain and each.__class__ is list
                    most -= len(each)
                    if most < 0:
                        return None
                    below += each
                elif each.__class__ not in SCALARS and not isinstance(each, dict):
                    plain = False
                    size += len(each) if isinstance(each, (bytearray, str, bytes)) else 64
                    below += getattr(each, "__dict__", {}).values()
        level = below
    return False  # nested too deep: whoever encodes it says so


class Writer:
    """Encodes one value in steps.

    Args:
        encode: Encodes a value that is a part, at a depth; msgspec's bytes.
        only_plain: Whether only plain values will do; others raise NotPlainError.
        verify: Raises unless a part, given its bytes and its type, comes back as it is.
        before: The writer that went through the value first.
        exact: Whether that one had a *verify*.
    """

    most = STEP_ITEMS
    whole_items = PART_MAX

    def __init__(
        self,
        encode: Callable[[Any, int], bytes],
        *,
        only_plain: bool = False,
        verify: Callable[[Any, bytes, Any], None] | None = None,
        before: Writer | None = None,
        exact: bool = False,
    ) -> None:
        self._encode = encode
        self._only_plain = only_plain
        self._verify = verify
        self._exact = exact or verify is not None
        self._emitted: list[Any] = []
        self._plan: list[tuple[int, bool]] = []
        self._before = None if before is None else iter(before._emitted)
        self._planned = None if before is None else iter(before._plan)
        self.path: list[Any] = []

    def again(self) -> Writer:
        """One that goes through the value once more, and raises if it has changed."""
        return type(self)(self._encode, before=self, exact=self._exact)

    def value(self, value: Any, type: Any = Any, depth: int = 0) -> Steps[list[Any]]:
        """The pieces of what *value* is encoded to."""
        raise NotImplementedError

    def emit(self, piece: Any) -> Any:
        """*piece*, which must be what stood there the first time."""
        if self._before is not None:
            if next(self._before, None) != piece:
                raise ChangedError
        else:
            self._emitted.append(piece)
        return piece

    def one(self, value: Any, type: Any, depth: int) -> Steps[Any]:
        """A value that cannot be cut, in a worker thread."""
        call = functools.partial(self.encoded, value, type, depth)
        piece = yield call
        return self.emit(piece)

    def shape(self, value: Any, type: Any, depth: int) -> Any:
        """What ``entries`` or ``elements`` tell of a container's *type*; None if it is not cut."""
        if depth >= DEPTH_MAX:
            return None
        if isinstance(value, dict):
            found: Any = entries(type)
            made: Any = dict
        elif isinstance(value, (list, tuple, set, frozenset)):
            found = elements(type)
            made = found and found[0]
        else:
            return None
        return None if self._exact and value.__class__ is not made else found

    def encoded(self, part: Any, type: Any, depth: int, offset: int = 0) -> bytes:
        """The bytes of a part."""
        try:
            data = self._encode(part, depth)
            if self._verify is not None:
                self._verify(part, data, type)
        except (MemoryError, NotPlainError, OverflowError):
            raise
        except Exception as exc:
            if isinstance(exc, RuntimeError) and "changed size" in str(exc):
                raise ChangedError from None
            raise RefusedError([*self.path], part, offset) from exc
        return data

    def parts(self, value: Any) -> Iterator[tuple[Any, bool]]:
        """Parts of a container, in order, as lists or dicts, and whether each is one element that
        is too much for a step."""
        pairs, total, seen, count = isinstance(value, dict), len(value), 0, 64
        source = iter(value.items() if pairs else value)
        held: list[Any] = []
        most = self.whole_items
        make: Callable[[Any], Any] = dict if pairs else list
        while True:
            heavy = False
            if self._planned is not None:
                count, heavy = next(self._planned, (0, False))
            try:
                held += islice(source, max(0, count - len(held)))
            except RuntimeError:
                raise ChangedError from None
            if len(value) != total:
                raise ChangedError
            if not held or not count:
                break
            part = make(held[:count])
            if self._planned is None:
                heavy = self._weighed(part)
                if heavy and len(part) > 1:
                    most = max(1, len(part) // 2)
                    count = max(1, most // 2)
                    continue
            del held[:count]
            seen += len(part)
            self._plan.append((len(part), heavy))
            yield part, heavy
            count, most = min(2 * count, most), most + most // 8 + 1
        if seen != total:
            raise ChangedError
        self._plan.append((0, False))

    def _weighed(self, part: Any) -> bool:
        """Whether *part* is too much for one step."""
        found = survey(part, most=self.most)
        if found is False and self._only_plain:
            raise NotPlainError
        return found is None


def light(codec: Any, value: Any) -> Any:
    """*value* as bytes; None if that takes more than one step of a *codec* that has steps."""
    encode = getattr(codec, "encode_light", None)
    return codec.encode(value) if encode is None else encode(value)


def encoding(codec: Any, value: Any) -> Steps[bytes]:
    """*value* as bytes, in steps if *codec* has them."""
    steps = getattr(codec, "encode_steps", None)
    if steps is not None:
        return (yield from steps(value))  # type: ignore[no-any-return]
    data: bytes = codec.encode(value)
    return data


def encoding_result(codec: Any, value: Any, type: Any) -> Steps[bytes]:
    """The same for what a function returned, which must come back as it is."""
    steps = getattr(codec, "result_steps", None)
    if steps is not None:
        return (yield from steps(value, type))  # type: ignore[no-any-return]
    data: bytes = light_result(codec, value, type)
    return data


def light_result(codec: Any, value: Any, type: Any) -> Any:
    """The same for what a function returned, which must come back as it is."""
    encode = getattr(codec, "result_light", None)
    if encode is not None:
        return encode(value, type)
    encode = getattr(codec, "encode_result", None)
    return codec.encode(value) if encode is None else encode(value, type)


def is_long(codec: Any, data: Any) -> bool:
    """Whether decoding *data* takes more than one step."""
    tells = getattr(codec, "is_long", None)
    if tells is not None:
        return bool(tells(data))
    return len(data) > (
        UNCUT_BYTES if getattr(codec, "decode_steps", None) is None else INLINE_BYTES
    )


def decoding(codec: Any, data: Any, type: Any) -> Steps[Any]:
    """The value in *data*: in steps, or in a worker thread by a *codec* that has none."""
    steps = getattr(codec, "decode_steps", None)
    if steps is not None:
        return (yield from steps(data, type))
    value = yield functools.partial(codec.decode, data, type)
    return value


def written(value: Any, writer: Writer, type: Any = Any) -> Steps[list[Any]]:
    """The pieces of what *value* is encoded to, which did not change while they were made.

    Raises:
        ChangedError: It did.
        RefusedError: A part cannot be encoded.
    """
    pieces = yield from writer.value(value, type)
    yield from writer.again().value(value, type)
    return pieces


def gathered(pieces: list[Any]) -> Steps[bytes]:
    """All *pieces* in one bytes object."""
    total = sum(map(len, pieces))
    if total < pages.LARGE_BYTES:
        return b"".join(pieces)
    out, at, done = pages.fresh(total), 0, 0
    target = ffi.from_buffer("uint8_t[]", out)
    for piece in pieces:
        source = ffi.from_buffer("uint8_t[]", piece)
        for start in range(0, len(piece), COPY_BYTES):
            count = min(COPY_BYTES, len(piece) - start)
            lib.anyseal_copy(target + at, source + start, count)
            at, done = at + count, done + count
            if done >= COPY_BYTES:
                done = 0
                yield None
    return out
