"""Restricted unpickling, wherever it is done: costs little, calls nothing, changes nothing."""

from __future__ import annotations

import contextlib
import copyreg
import dataclasses
import enum
import ipaddress
import pickle
import struct
import tracemalloc
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple, Self

import nacl.secret
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyseal import ConfigurationError, FormatError
from anyseal.cache.codecs import PickleCodec
from anyseal.compat.duck import EncryptedCache, NaClEncryptor
from anyseal.pickles import RestrictedUnpickler, restricted_loads

KEY = bytes(range(32))


def _duck(data: bytes, *allow: type) -> Any:
    encryptor = NaClEncryptor(KEY, allow=allow) if allow else NaClEncryptor(KEY)
    return encryptor.decrypt(bytes(nacl.secret.SecretBox(KEY).encrypt(data)))


def _codec(data: bytes, *allow: type) -> Any:
    return PickleCodec(allow=allow).decode(data)


READERS: dict[str, Callable[..., Any]] = {"duck": _duck, "codec": _codec}


@pytest.fixture(params=READERS)
def reads(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Each of them: given an authentic pickle, and classes to allow."""
    return READERS[request.param]


def _u64(number: int) -> bytes:
    return struct.pack("<Q", number)


MANY = 32 << 20
BOMBS = {
    "BYTEARRAY8": b"\x96" + _u64(MANY),
    "BINBYTES8": b"\x8e" + _u64(MANY),
    "BINUNICODE8": b"\x8d" + _u64(MANY),
    "BINBYTES": b"B" + struct.pack("<I", MANY),
    "FRAME": b"\x95" + _u64(MANY),
    "LONG4": b"\x8b" + struct.pack("<I", MANY),
    "memo": b"Nr" + struct.pack("<I", MANY) + b".",
    "memo by text": b"Np33554432\n.",
    "bytearray": b"cbuiltins\nbytearray\nJ" + struct.pack("<I", MANY) + b"\x85R.",
    "bytearray made": b"cbuiltins\nbytearray\nJ" + struct.pack("<I", MANY) + b"\x85\x81.",
}
"""A few bytes that name a large number."""


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_unpickling_takes_no_memory_by_a_number(reads: Any, bomb: bytes) -> None:
    """9 bytes took 3.9 GiB."""
    tracemalloc.start()
    try:
        with contextlib.suppress(FormatError):  # some are pickles of little
            reads(b"\x80\x05" + bomb)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


DOUBLED = b")" + b"2\x86" * 60
"""A tuple of the same tuple twice, of the same tuple twice, ...: hashed, 2**60 of them."""

DEEP = b")" + b"\x85" * 20_000
"""One in another: its hash runs out of the C stack, and the process dies."""


@pytest.mark.parametrize("heavy", [DOUBLED, DEEP], ids=["doubled", "deep"])
@pytest.mark.parametrize(
    "use",
    [b"}%sNs.", b"}(%sNu.", b"(%sNd.", b"\x8f(%s\x90.", b"(%s\x91."],
    ids=["SETITEM", "SETITEMS", "DICT", "ADDITEMS", "FROZENSET"],
)
def test_unpickling_hashes_no_more_than_there_is(reads: Any, use: bytes, heavy: bytes) -> None:
    """A few hundred bytes must neither hold a worker for ever nor crash it."""
    with pytest.raises(FormatError):
        reads(b"\x80\x05" + use % heavy)


def _alike(levels: int, body: Callable[[bytes, bytes], bytes]) -> bytes:
    """A set of two equal values that share nothing; *body* makes a level of the two before it."""
    out = b""
    for n in range(2 * levels):
        first = n % levels
        one, two = b"h" + bytes((max(n - 1, 0),)), b"h" + bytes((max(n - 2, 0),))
        out += b"(%s\x91\x94" % (body(one, two) if first > 1 else b"K" + bytes((first,)))
    ends = b"h" + bytes((levels - 1,)), b"h" + bytes((2 * levels - 1,))
    return b"\x80\x05" + out + b"\x8f(%s%s\x90." % ends


@pytest.mark.parametrize(
    "body",
    [lambda one, two: one + two, lambda one, two: one + one + b"\x86"],
    ids=["frozensets", "tuples between"],
)
def test_unpickling_compares_no_more_than_there_is(reads: Any, body: Any) -> None:
    """A frozenset keeps its hash, but equal ones are compared: 472 bytes took 3 seconds, 26
    levels of 80."""
    with pytest.raises(FormatError):
        reads(_alike(80, body))


@dataclasses.dataclass(frozen=True)
class Pair:
    """Its hash is that of its fields, and pickle sets them as a state."""

    left: object
    right: object


class Made:
    """The same, made by ``__new__`` from its arguments."""

    def __new__(cls, *args: object) -> Self:
        made = super().__new__(cls)
        made.args = args
        return made

    args: tuple[object, ...]

    def __hash__(self) -> int:
        return hash(self.args)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Made) and self.args == other.args


@pytest.mark.parametrize(
    "level",
    [
        b"c%s\nPair\n)\x81}(\x8c\x04lefth%c\x8c\x05righth%cub",
        b"c%s\nMade\nh%ch%c\x86\x81",
        b"c%s\nMade\nh%ch%c\x86R",
    ],
    ids=["BUILD", "NEWOBJ", "REDUCE"],
)
def test_unpickling_counts_instances_that_are_hashed(level: bytes) -> None:
    """An allowed class's hash takes those of its fields: each level doubles it."""
    module = __name__.encode()

    def used(levels: int) -> bytes:
        made = b"".join(level % (module, n, n) + b"\x940" for n in range(levels))
        return b"\x80\x05K\x01\x940" + made + b"}h%cNs." % levels

    assert 1 == len(_codec(used(8), Pair, Made))
    with pytest.raises(FormatError):
        _codec(used(70), Pair, Made)
    value = {Pair(Pair(1, (2, 3)), Pair(4, 5)): [Pair(n, n) for n in range(50)]}
    assert value == _codec(pickle.dumps(value, 4), Pair)


def test_unpickling_takes_honest_keys(reads: Any) -> None:
    """Tuples in tuples are keys, and the same one many times."""
    shared = tuple(range(50))
    value = {(n, (shared, (n, shared))): {(shared, n)} for n in range(500)}
    assert value == reads(pickle.dumps(value, 4))
    nested: Any = ()
    for _ in range(100):
        nested = (nested,)
    assert {nested} == reads(pickle.dumps({nested}, 4))
    assert frozenset({nested}) == reads(pickle.dumps(frozenset({nested}), 4))
    inner = frozenset({frozenset({1, 2}), frozenset({3})})
    assert {inner: [inner, inner]} == reads(pickle.dumps({inner: [inner, inner]}, 4))


class Colour(enum.Enum):
    """Its members are the process's."""

    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    """Made of what its constructor is given."""

    x: int
    y: int


class Kept:
    """Has a state."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kept) and self.name == other.name

    __hash__ = None  # type: ignore[assignment]


class Called:
    """Its instances can be called."""

    calls: list[Any] = []  # noqa: RUF012 - the process's, on purpose

    def __call__(self, *args: Any) -> None:
        self.calls.append(args)


class Registry:
    """Its class has methods that pickle would call to fill a container."""

    entries: list[Any] = []  # noqa: RUF012 - the process's, on purpose

    @classmethod
    def append(cls, item: Any) -> None:
        cls.entries.append(item)

    @classmethod
    def extend(cls, items: Any) -> None:
        cls.entries.extend(items)

    add = append


class Reduced:
    """Names a function that makes it."""

    def __reduce__(self) -> Any:
        return (made_by_function, (1,))


def made_by_function(number: int) -> Reduced:
    pytest.fail("a function of __reduce__ was called")


def _named(kind: type) -> bytes:
    return b"c%s\n%s\n" % (kind.__module__.encode(), kind.__qualname__.encode())


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


CHANGES = {
    "state of a class": _named(uuid.UUID) + b"}" + _text("hex") + b"NsbN.",
    "attributes of a class": _named(uuid.UUID) + b"N}" + _text("hex") + b"Ns\x86bN.",
    "attributes of an allowed class": _named(Kept) + b"N}" + _text("name") + b"Ns\x86bN.",
    "attributes of what stands for bytearray": (
        b"cbuiltins\nbytearray\nN}" + _text("__defaults__") + b"Ns\x86bN."
    ),
    "state of an enum's member": (
        _named(Colour) + _text("red") + b"\x85R}" + _text("_value_") + _text("blue") + b"sbN."
    ),
    "attributes of an enum's member": (
        _named(Colour) + _text("red") + b"\x85RN}" + _text("_value_") + b"Ns\x86bN."
    ),
    "class of an object": (
        _named(Kept) + b")\x81N}" + _text("__class__") + _named(Called) + b"s\x86b."
    ),
    "setter of an object": (
        _named(Kept) + b")\x81}" + _text("__setstate__") + _named(Called) + b"sbNb."
    ),
    "call of an object": _named(Called) + b")\x81)R.",
    "call of a made object": _named(Called) + b")R)R.",
    "append to a class": _named(Registry) + b"NaN.",
    "appends to a class": _named(Registry) + b"(NNeN.",
    "add to a class": _named(Registry) + b"(N\x90N.",
    "items of a class": _named(Registry) + b"NNsN.",
    "registered extension": b"\x82\xf0.",
    "registered extension of 2 bytes": b"\x83\xf0\0.",
    "registered extension of 4 bytes": b"\x84\xf0\0\0\0.",
    "instance of protocol 0": b"(i" + _named(Kept)[1:] + b".",
    "instance of protocol 1": b"(" + _named(Kept) + _text("x") + b"o.",
    "persistent name": b"P1\n.",
    "persistent name of an object": b"NQ.",
    "buffer": b"\x97.",
    "constructor of a dict": (
        b"ccollections\nOrderedDict\n](" + DOUBLED + b"Ne\x85\x85R."
    ),
    "function by name": b"cos\ngetcwd\n.",
    "method by path": b"\x8c\x04uuid\x8c\x09UUID.hex.\x93.",
}  # fmt: skip


@pytest.fixture
def extension() -> Iterator[None]:
    """An extension that the process has used: pickle keeps what it stands for."""
    copyreg.add_extension("os", "getcwd", 240)
    copyreg._extension_cache[240] = copyreg.add_extension  # type: ignore[attr-defined]
    yield
    copyreg.remove_extension("os", "getcwd", 240)


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("pickled", CHANGES.values(), ids=CHANGES)
def test_unpickling_changes_nothing_and_calls_nothing(reads: Any, pickled: bytes) -> None:
    """An entry makes values. Classes are what they were; functions are not called, or values."""
    before = {kind: dict(vars(kind)) for kind in (uuid.UUID, Kept, Called, Registry, Colour)}
    with pytest.raises(FormatError):
        reads(b"\x80\x05" + pickled, Kept, Called, Registry, Colour)
    assert before == {kind: dict(vars(kind)) for kind in before}
    assert ("red", [], []) == (Colour.RED.value, Called.calls, Registry.entries)
    assert bytearray(b"x") == _duck(pickle.dumps(bytearray(b"x"), 4))


VALUES = [
    [Colour.RED, {Colour.BLUE: 1}], Point(1, 2), {Point(1, 3)}, ipaddress.IPv4Address("192.0.2.1"),
    [uuid.UUID(int=7), OrderedDict({(1, (2,)): 3}), bytearray(b"x")],
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_duck_allows_exactly_the_named_classes(value: Any) -> None:
    """Entries of an application's own types go on being read, without trusting every type."""
    allowing = NaClEncryptor(KEY, allow=[Colour, Point, ipaddress.IPv4Address])
    assert value == allowing.decrypt(allowing.encrypt(value))
    cache = EncryptedCache(_Dict(), KEY, allow=[Colour, Point, ipaddress.IPv4Address])
    cache.set("k", value)
    assert value == cache.get("k")


class _Dict(dict):  # type: ignore[type-arg]
    """A backend."""

    def set(self, key: str, value: Any, expiry: Any) -> None:
        self[key] = value

    def delete(self, key: str) -> None:
        self.pop(key, None)


class Child(Point):
    """A subclass of an allowed class is another class."""


@pytest.mark.parametrize("value", [Kept("x"), Reduced(), Child(1, 2), Called().__call__, [Kept]])
def test_duck_refuses_to_write_what_it_would_not_read(value: Any) -> None:
    """Neither a state nor the functions of ``__reduce__``: who writes it learns that."""
    allow = [Kept, Reduced, Point] if value != [Kept] else [Point]
    with pytest.raises(TypeError):
        NaClEncryptor(KEY, allow=allow).encrypt(value)


def test_duck_allow_is_checked() -> None:
    """At once, not at the first entry."""
    wrong: tuple[Any, ...] = (5, int, ["Point"])
    for allow in wrong:
        with pytest.raises(ConfigurationError, match="allow must hold classes"):
            NaClEncryptor(KEY, allow=allow)
    with pytest.raises(ConfigurationError, match="trusted"):
        NaClEncryptor(KEY, allow=[Point], trusted_pickle=True)


def test_codec_sets_the_state_of_allowed_classes() -> None:
    """Of those whose instances are new objects."""
    codec = PickleCodec(allow=[Kept, Colour, Fraction])
    value = [Kept("x"), Colour.RED, Fraction(1, 3)]
    assert value == codec.decode(codec.encode(value))


@given(st.data())
def test_unpickling_of_what_is_simple_is_the_same(data: st.DataObject) -> None:
    """What has no class in it goes through pickle's own C, unless it has more than it seems to."""
    leaf = (
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9)
    )
    value = data.draw(
        st.recursive(
            leaf | st.binary(max_size=300) | st.frozensets(st.integers()),
            lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner)
            | st.dictionaries(st.text(max_size=3), inner, max_size=4),
            max_leaves=8,
        )
    )  # fmt: skip
    pickled = bytearray(pickle.dumps(value, 4))
    assert value == restricted_loads(bytes(pickled), {})
    at = data.draw(st.integers(2, len(pickled) - 1))
    pickled[at] = data.draw(st.integers(0, 255))
    outcomes = []
    for reader in (restricted_loads, lambda *given: RestrictedUnpickler(*given).load()):
        try:
            outcomes.append(repr(reader(bytes(pickled), {})))
        except Exception as error:
            outcomes.append(isinstance(error, Exception))
    # Of what is damaged the one in C refuses a little more, such as frames that do not fit.
    assert outcomes[0] in (True, outcomes[1])
