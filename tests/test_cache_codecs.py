"""Codecs: values come back as what they were, or a clear error says why not."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import enum
import random
import socket
import threading
import uuid
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, NamedTuple, TypedDict

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyseal import ConfigurationError, FormatError
from anyseal.cache.codecs import (
    ArrowCodec,
    Codec,
    Compressed,
    ForeignCodec,
    JSONCodec,
    MessagePackCodec,
    PickleCodec,
    RawCodec,
    codec_named,
)
from support import cuts, run_python, said


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    x: int
    y: float


class Options(TypedDict, total=False):
    deep: bool
    names: list[str]


@dataclasses.dataclass(frozen=True)
class User:
    id: uuid.UUID
    name: str
    at: dt.datetime
    balance: Decimal
    tags: frozenset[str] = frozenset()
    home: Point | None = None


class Order(msgspec.Struct):
    user: User
    lines: list[tuple[int, Decimal]]
    options: Options
    colour: Colour


@attrs.define
class Part:
    number: int
    raw: bytes


class Account(pydantic.BaseModel):
    owner: str = pydantic.Field(alias="Owner")
    since: dt.date
    limits: dict[int, Decimal]
    photo: bytes


class Version:
    """A class that nobody knows."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and other.text == self.text

    __hash__ = None  # type: ignore[assignment]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False)
MOMENTS = st.datetimes(timezones=st.none() | st.just(dt.UTC))
INTS = st.integers(-(2**63), 2**64 - 1)
USERS = st.builds(
    User,
    id=st.uuids(),
    name=TEXT,
    at=MOMENTS,
    balance=DECIMALS,
    tags=st.frozensets(TEXT, max_size=3),
    home=st.none() | st.builds(Point, INTS, st.floats(allow_nan=False, allow_infinity=False)),
)
TYPED: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (None, st.none()),
    (bool, st.booleans()),
    (int, INTS),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (str, TEXT),
    (bytes, st.binary(max_size=40)),
    (bytearray, st.binary(max_size=40).map(bytearray)),
    (uuid.UUID, st.uuids()),
    (Decimal, DECIMALS),
    (dt.datetime, MOMENTS),
    (dt.date, st.dates()),
    (dt.time, st.times()),
    (dt.timedelta, st.timedeltas(dt.timedelta(-90000), dt.timedelta(90000))),
    (Colour, st.sampled_from(Colour)),
    (set[int], st.sets(INTS)),
    (frozenset[str], st.frozensets(TEXT)),
    (tuple[int, str], st.tuples(INTS, TEXT)),
    (tuple[Decimal, ...], st.lists(DECIMALS).map(tuple)),
    (Point, st.builds(Point, INTS, st.floats(allow_nan=False, allow_infinity=False))),
    (Options, st.fixed_dictionaries({}, optional={"deep": st.booleans(), "names": st.just([])})),
    (dict[uuid.UUID, list[set[int]]], st.dictionaries(st.uuids(), st.lists(st.sets(INTS)))),
    (dict[int, dict[str, tuple[bool, ...]]], st.just({1: {"a": (True, False)}})),
    (list[User | None], st.lists(st.none() | USERS, max_size=3)),
    (
        Order,
        st.builds(
            Order,
            user=USERS,
            lines=st.lists(st.tuples(INTS, DECIMALS), max_size=2),
            options=st.just({"names": ["a"]}),
            colour=st.sampled_from(Colour),
        ),
    ),
    (Part, st.builds(Part, INTS, st.binary(max_size=9))),
]
MESSAGES = [MessagePackCodec(), JSONCodec()]


def named(codec: Codec) -> str:
    return codec.name


@pytest.mark.parametrize("codec", MESSAGES, ids=named)
@given(data=st.data())
def test_message_codec_brings_back_what_the_annotation_says(codec: Codec, data: Any) -> None:
    """A cached function must return what it would have returned without the cache."""
    annotation, values = data.draw(st.sampled_from(TYPED))
    value = data.draw(values)
    back = codec.decode(codec.encode(value), annotation)
    assert (type(value), value) == (type(back), back)


@pytest.mark.parametrize("codec", MESSAGES, ids=named)
@given(
    value=st.recursive(
        st.none() | st.booleans() | INTS | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=20,
    )
)
def test_message_codec_brings_back_plain_data_without_a_type(codec: Codec, value: Any) -> None:
    """Without an annotation nothing is guessed: dict, list, text and numbers."""
    encoded = codec.encode(value)
    assert value == codec.decode(encoded) == codec.decode(memoryview(encoded))


@pytest.mark.parametrize("codec", MESSAGES, ids=named)
def test_message_codec_knows_pydantic_models(codec: Codec) -> None:
    """Services return them everywhere; aliases and bytes must survive too."""
    value = Account(Owner="ann", since=dt.date(2026, 1, 2), limits={1: Decimal("1.50")}, photo=b"f")
    assert [value] == codec.decode(codec.encode([value]), list[Account])
    with pytest.raises(FormatError, match=r"^not what \w+ writes for Account \(ValidationError\)$"):
        codec.decode(codec.encode({"owner": "secret"}), Account)


@pytest.mark.parametrize("make", [MessagePackCodec, JSONCodec])
def test_message_codec_takes_hooks_for_other_classes(make: Any) -> None:
    """A class of the service's own must not force it to pickle."""

    def load(cls: type, data: Any) -> Any:
        if cls is Version:
            return {"1.0": Version}[data](data)
        raise NotImplementedError

    codec = make(enc_hook=lambda value: value.text, dec_hook=load)
    data = codec.encode({"v": Version("1.0")})
    assert {"v": Version("1.0")} == codec.decode(data, dict[str, Version])
    with pytest.raises(FormatError, match="KeyError"):  # the hook refuses this version
        codec.decode(codec.encode({"v": Version("2.0")}), dict[str, Version])
    with pytest.raises(TypeError, match=r"cannot encode \$\.v: Version$"):
        make().encode({"v": Version("1.0")})


@pytest.mark.parametrize("codec", MESSAGES, ids=named)
def test_message_codec_takes_wide_annotations(codec: Codec) -> None:
    """A function may promise less than it returns; its entries must open nevertheless."""
    data = codec.encode([1, 2])
    for wide in (object, Iterable, Iterable[int], Collection[int], Sequence[int]):
        assert [1, 2] == codec.decode(data, wide)
    for wrong in (Generator[int, None, None], Callable[[], int], type, Version):
        with pytest.raises(FormatError):
            codec.decode(data, wrong)


def test_message_codec_keeps_a_bounded_number_of_decoders() -> None:
    """Types made at run time must not fill the memory; types without a hash work as well."""
    codec = MessagePackCodec()
    odd = Annotated[int, []]
    for number in range(600):
        codec.decode(b"\x01", Annotated[int, msgspec.Meta(le=number + 1)])
        assert 1 == codec.decode(b"\x01", odd)
    assert len(codec._decoders) <= 512
    assert codec.decoder(dict[str, int]) is codec.decoder(dict[str, int])
    with pytest.raises(TypeError, match="not supported"):
        codec.decoder(list["int"])  # a forward reference that nobody resolved


def test_message_codec_is_shared_by_threads() -> None:
    """One codec serves every thread of a process."""
    codec, failed = MessagePackCodec(), []

    def work(number: int) -> None:
        for step in range(300):
            value = {"n": (number, step), "s": {f"{step}"}}
            if value != codec.decode(codec.encode(value), dict[str, Any] if step % 2 else Both):
                failed.append((number, step))

    class Both(TypedDict):
        n: tuple[int, int]
        s: set[str]

    work.__globals__["Both"] = Both
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == [each for each in failed if each[1] % 2 == 0]


def bad_values() -> list[tuple[Any, str]]:
    """Values that cannot be encoded, and what is said of them."""
    loop: list[Any] = [1]
    loop.append({"again": loop})
    deep: Any = None
    for _ in range(100_000):
        deep = [deep]
    user = User(uuid.UUID(int=1), "n", dt.datetime(2026, 1, 1), Decimal(1))
    object.__setattr__(user, "home", Point(object(), 1.0))  # type: ignore[arg-type]
    closed = socket.socket()
    closed.close()
    return [
        ({"users": [{}, {}, {}, {"session": closed}]}, "$.users[3].session: socket"),
        (object(), "$: object"),
        ([1, (2, {3j})], "$[1][1][...]: complex"),
        ({"ann@example.org": [1j]}, "$[...][0]: complex"),
        ({"user": user}, "$.user.home.x: object"),
        (Order(user, [], {}, Colour.RED), "$.user.home.x: object"),
        ([Part(1, 2j)], "$[0].raw: complex"),  # type: ignore[arg-type]
        ({"n": 1 << 20_000}, "$.n: int beyond 64 bits"),
        (["a", "\ud800"], "$[1]: str with a lone surrogate"),
        ({"\udc00": 1}, "$, a key: str with a lone surrogate"),
        ({"k": {2j: 1}}, "$.k, a key: complex"),
        (loop, "$[1].again: list that contains itself"),
        (deep, "[0][0][0][0][0][0][0][0][0]...[0]"),
        (Version, "$: type"),
        ((each for each in ()), "$: generator"),
    ]


@pytest.mark.parametrize("number", range(15))
def test_message_codec_names_the_path_of_what_it_cannot_encode(number: int) -> None:
    """A large answer with one bad field is a long search; and no value gets into the message."""
    value, expected = bad_values()[number]
    with pytest.raises(TypeError) as caught:
        MessagePackCodec().encode(value)
    text = str(caught.value)
    assert expected in text
    assert text.startswith("msgpack cannot encode $")
    assert len(text) < 250
    assert (None, None) == (caught.value.__cause__, caught.value.__context__)


def test_json_refuses_keys_that_json_does_not_have() -> None:
    """The path leads to the dict whose key it is."""
    with pytest.raises(TypeError, match=r"^json cannot encode \$\.a, a key: tuple$"):
        JSONCodec().encode({"a": {(1, 2): 3}})


MISTYPED = [
    ({"secret": "s3cret"}, User), ("s3cret", uuid.UUID), ("s3cret", Colour), (["s3cret"], set[int]),
    ({"s3cret": 1}, dict[int, int]), ("s3cret", Decimal), (1, None), ("s3cret", dt.datetime),
    ([1, 2, 3], tuple[int, int]), (-1, Annotated[int, msgspec.Meta(ge=0)]),
]  # fmt: skip


@pytest.mark.parametrize("codec", MESSAGES, ids=named)
@pytest.mark.parametrize(("value", "type"), MISTYPED)
def test_message_codec_refuses_what_does_not_fit(codec: Codec, value: Any, type: Any) -> None:
    """A class that changed since the entry was written is a miss, and the entry stays secret."""
    with pytest.raises(FormatError) as caught:
        codec.decode(codec.encode(value), type)
    assert "s3cret" not in repr(caught.value)
    assert (None, None) == (caught.value.__cause__, caught.value.__context__)


@pytest.mark.parametrize("codec", MESSAGES, ids=named)
@pytest.mark.parametrize("type", [Any, dict[str, Any]])
def test_message_codec_refuses_every_cut(codec: Codec, type: Any) -> None:
    """No prefix of a value is a value."""
    data = codec.encode({"a": [1, "two", {"b": None, "c": [b"bytes" * 9, 1.5, "x" * 300]}]})
    for cut in cuts(data):
        with pytest.raises(FormatError):
            codec.decode(cut, type)
    with pytest.raises(FormatError):
        codec.decode(data + b"\0", type)


@pytest.mark.parametrize("codec", MESSAGES, ids=named)
def test_message_codec_refuses_what_is_not_bytes(codec: Codec) -> None:
    """A programming error is no bad entry."""
    for wrong in (None, 1, ["x"]):
        with pytest.raises(TypeError, match="bytes-like"):
            codec.decode(wrong)  # type: ignore[arg-type]


@given(st.binary(max_size=60))
def test_codecs_survive_anything(data: bytes) -> None:
    """Whatever the bytes, there is a value or a FormatError."""
    for codec in (*MESSAGES, PickleCodec()):
        for type in (Any, list[User], Order):
            with contextlib.suppress(FormatError):
                codec.decode(data, type)


BOMBS = """
    import pathlib, resource, zlib
    import msgspec, pyarrow, zstandard
    from typing import Any
    from anyseal import FormatError
    from anyseal.cache.codecs import Compressed, RawCodec, codec_named
    from support import most
    many = 1 << 25
    zeros = {1: zlib.compress(bytes(many), 9), 2: zstandard.compress(bytes(many))}
    before = most()
    here = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (here + (256 << 20), -1))
    big = [b"\\xff" * 4, b"\\x7f" + b"\\xff" * 3, b"\\x10\\0\\0\\0"]
    msgpack = [code + size + rest for code in (b"\\xdd", b"\\xdf", b"\\xdb", b"\\xc6", b"\\xc9")
               for size in big for rest in (b"", b"\\x01", b"\\x01" * 9)]
    msgpack += [b"\\x91" * 100000 + b"\\xc0", b"\\x81\\xa1a" * 100000 + b"\\xc0", b"\\x81" * 100000,
                b"\\xdd\\0\\0\\0\\1" * 100000, b"\\x81\\x91" * 100000]
    json = [b"[" * 100000, b'{"a":' * 100000, b"[" * 100000 + b"]" * 100000, b"1" * 1000000,
            b"1e" + b"9" * 100000, b"-" * 1000]
    huge = (1 << 62).to_bytes(8, "little")
    pickle = [b"\\x80\\x05" + each for each in (
        b"\\x8e" + huge, b"\\x8d" + huge, b"\\x96" + huge, b"\\x95" + huge, b"\\x96" + b"\\0" * 5,
        b"B\\xff\\xff\\xff\\x7f", b"X\\xff\\xff\\xff\\x7f", b"Nr\\xff\\xff\\xff\\x7f.",
        b"]" * 100000 + b"a" * 99999 + b".", b"\\x8b\\xff\\xff\\xff\\x7f", b"(" * 100000,
        b"cbuiltins\\nbytearray\\nJ\\xff\\xff\\xff\\x7f\\x85R.", b"L" + b"9" * 100000 + b"L\\n.",
        b"\\x8c\\x08builtins\\x8c\\x04eval\\x93\\x8c\\x011\\x85R.", b"\\x82\\x01.", b"P1\\n.",
    )]
    sink = pyarrow.BufferOutputStream()
    table = pyarrow.table({"a": [1, 2, 3]})
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write(table)
    stream = sink.getvalue().to_pybytes()
    arrow = []
    for at in range(0, len(stream), 4):
        for size in (b"\\xff\\xff\\xff\\x7f", b"\\xff\\xff\\xff\\x3f"):
            bad = stream[:at] + size + stream[at + 4:]
            arrow.append(bad + len(bad).to_bytes(8, "big") + b"\\1")
    bombs = {"msgpack": msgpack, "json": json, "pickle": pickle, "arrow": arrow}
    for name, tried in bombs.items():
        codec, kinds = codec_named(name), set()
        for data in tried:
            for type in (Any, list[Any], dict[str, Any], tuple[int, ...], set[int], bytes):
                try:
                    codec.decode(data, type)
                    kinds.add("opens")
                except FormatError:
                    kinds.add("FormatError")
        print(name, *sorted(kinds - ({"opens"} if name != "msgpack" else set())))
    for number, algorithm in ((1, "zlib"), (2, "zstd")):
        codec = Compressed(RawCodec(), algorithm=algorithm, max_size=1 << 20)
        for size in (1, 1000, 1 << 20, many, 1 << 63):
            try:
                codec.decode(zeros[number] + size.to_bytes(8, "big") + bytes([number]))
            except FormatError:
                print(algorithm, "FormatError")
    grown = most() - before
    print("grown", grown if grown > 80_000 else "little")
"""


def test_codecs_survive_bombs_in_little_memory() -> None:
    """A short entry may declare gigabytes or a depth of 100,000: that is an error and no crash."""
    expected = ["msgpack FormatError", "json FormatError", "pickle FormatError"]
    expected += [
        "arrow FormatError",
        *["zlib FormatError"] * 5,
        *["zstd FormatError"] * 5,
        "grown little",
    ]
    assert expected == said(run_python(BOMBS))


def test_raw_keeps_bytes_as_they_are() -> None:
    """Nothing is added and, for bytes, nothing copied."""
    codec, data = RawCodec(), b"some bytes"
    assert codec.encode(data) is data
    assert codec.decode(data) is data
    assert data == codec.encode(bytearray(data)) == codec.encode(memoryview(data))
    assert bytearray(data) == codec.decode(data, bytearray)
    assert data == codec.decode(memoryview(data)) == codec.decode(data, bytes | None)
    assert isinstance(codec.decode(data, memoryview), memoryview)
    for wrong in ("text", None, 1, [b"x"]):
        with pytest.raises(TypeError, match=r"raw cannot encode \$: "):
            codec.encode(wrong)
    for type in (str, dict[str, int], int | None):
        with pytest.raises(FormatError):
            codec.decode(data, type)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | st.binary()
    | st.binary().map(bytearray) | st.complex_numbers(allow_nan=False) | st.datetimes() | st.dates()
    | st.times() | st.timedeltas() | st.decimals(allow_nan=False) | st.fractions() | st.uuids()
    | st.frozensets(INTS) | st.sets(TEXT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
    | st.tuples(inner, inner),
    max_leaves=10,
)  # fmt: skip


@given(PLAIN)
def test_pickle_restricted_keeps_plain_types(value: Any) -> None:
    """What the restricted mode is for must go through it."""
    codec = PickleCodec()
    back = codec.decode(codec.encode(value))
    assert (type(value), value) == (type(back), back)


def test_pickle_restricted_makes_nothing_else() -> None:
    """A crafted entry must not run code, not even by changing an allowed class."""
    codec, trusted = PickleCodec(), PickleCodec(trusted=True)
    user = User(uuid.UUID(int=1), "n", dt.datetime(2026, 1, 1, tzinfo=dt.UTC), Decimal(1))
    for value in (user, print, Colour.RED, range(3)):
        data = trusted.encode({"x": [value]})
        assert {"x": [value]} == trusted.decode(data)
        with pytest.raises(FormatError, match="UnpicklingError"):
            codec.decode(data)
        with pytest.raises(TypeError, match=r"^pickle cannot encode \$\.x\[0\]: "):
            codec.encode({"x": [value]})
    allowing = PickleCodec(allow=[User, Point])
    assert user == allowing.decode(allowing.encode(user), User)
    patch = b"\x80\x05cuuid\nUUID\nN}\x8c\x03hexN\x86s\x86b."
    patch = b"\x80\x05cuuid\nUUID\n(N}\x8c\x03hexNstb."
    with pytest.raises(FormatError):
        codec.decode(patch)
    assert "00000000000000000000000000000001" == uuid.UUID(int=1).hex


@pytest.mark.parametrize(
    "parts",
    [
        b"X\x0c\x00\x00\x001e9999999999\x85",
        b"cdecimal\nDecimal\nX\x0c\x00\x00\x001e9999999999\x85R\x85",
        b"G\x3f\xf0\x00\x00\x00\x00\x00\x00\x85",
    ],
    ids=["text", "decimal", "float"],
)
def test_pickle_fraction_of_few_bytes_costs_little(parts: bytes) -> None:
    """``Fraction("1e9999999999")`` computes that number: minutes and gigabytes for 40 bytes."""
    with pytest.raises(FormatError, match="UnpicklingError"):
        PickleCodec().decode(b"\x80\x04cfractions\nFraction\n" + parts + b"R.")
    assert Fraction(-3, 7) == PickleCodec().decode(PickleCodec().encode(Fraction(-3, 7)))


def test_pickle_checks_types_and_settings() -> None:
    """As far as classes tell; a contradiction is refused when it is made."""
    codec = PickleCodec()
    data = codec.encode([1])
    assert [1] == codec.decode(data, list[int]) == codec.decode(data, list | None)
    for type in (dict, None, int | None, dict[str, int]):
        with pytest.raises(FormatError):
            codec.decode(data, type)
    for cut in cuts(data):
        with pytest.raises(FormatError):
            codec.decode(cut)
    with pytest.raises(ConfigurationError):
        PickleCodec(allow=["User"])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError):
        PickleCodec(allow=[User], trusted=True)
    with pytest.raises(TypeError, match=r"pickle cannot encode \$\.f: function"):
        PickleCodec(trusted=True).encode({"f": lambda: None})


def test_codec_named_finds_each_codec() -> None:
    """Names are what settings hold; the name is bound into entries and must stay."""
    for name in ("msgpack", "json", "raw", "arrow", "pickle"):
        codec = codec_named(name)
        assert {"msgpack": "msgpack2"}.get(name, name) == codec.name
        assert codec_named(codec) is codec
        assert codec_named(name) is codec
        assert isinstance(codec, Codec)
    assert "restricted" in repr(codec_named("pickle"))
    for wrong in ("yaml", "", None, 5, MessagePackCodec, object()):
        with pytest.raises(ConfigurationError):
            codec_named(wrong)


class Upper:
    """Somebody's codec without a name."""

    def encode(self, value: Any) -> Any:
        return value.upper().encode() if isinstance(value, str) else value

    def decode(self, data: bytes) -> Any:
        if data == b"BAD":
            raise RuntimeError("the secret is BAD")
        return data.decode()


def test_codec_named_takes_foreign_objects() -> None:
    """Whatever serializer a service has can be used; its errors must not quote the value."""
    codec = codec_named(Upper())
    assert ("Upper", "ABC") == (codec.name, codec.decode(codec.encode("abc"), str))
    assert b"x" == codec.encode(bytearray(b"x"))
    assert "X" == codec.decode(memoryview(b"X"))
    with pytest.raises(FormatError) as caught:
        codec.decode(b"BAD")
    assert "secret" not in str(caught.value)
    with pytest.raises(FormatError, match="another type"):
        codec.decode(b"ABC", int)
    with pytest.raises(TypeError, match="encodes to int"):
        codec.encode(5)

    class Typed(Upper):
        name = "typed"

        def decode(self, data: bytes, type: Any = Any) -> Any:
            return type(data.decode())

    typed = codec_named(Typed())
    assert ("typed", 12) == (typed.name, typed.decode(b"12", int))
    Typed.name = "ä"
    with pytest.raises(ConfigurationError, match="ASCII"):
        ForeignCodec(Typed())


def test_message_codec_decodes_what_was_written_in_any_order() -> None:
    """Mutated entries of one value: an error or a value, never another exception."""
    order = random.Random(7)
    for codec in MESSAGES:
        data = codec.encode({"a": [1, "two", {"b": None, "c": [1.5, "x" * 40]}]})
        for _ in range(2000):
            changed = bytearray(data)
            changed[order.randrange(len(data))] = order.randrange(256)
            with contextlib.suppress(FormatError):
                codec.decode(bytes(changed), dict[str, Any])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Compressed(None), "NoneType is no codec"),  # type: ignore[arg-type]
        (lambda: Compressed(5), "int is no codec"),  # type: ignore[arg-type]
        (lambda: Compressed(JSONCodec), "not the class JSONCodec"),  # type: ignore[arg-type]
        (lambda: Compressed("nonsense"), "unknown codec"),
        (lambda: Compressed("json", level="x"), "level must be"),  # type: ignore[arg-type]
        (lambda: Compressed("json", level=True), "level must be"),
        (lambda: Compressed("json", level=1.5), "level must be"),  # type: ignore[arg-type]
        (lambda: Compressed("json", algorithm=[]), "algorithm must be"),  # type: ignore[arg-type]
        (lambda: Compressed("json", min_size=None), "out of bounds"),  # type: ignore[arg-type]
        (lambda: Compressed("json", sample_bytes="9"), "out of"),  # type: ignore[arg-type]
        (lambda: Compressed("json", max_size=1e3), "out of bounds"),  # type: ignore[arg-type]
        (lambda: MessagePackCodec(enc_hook=5), "enc_hook must be"),  # type: ignore[arg-type]
        (lambda: JSONCodec(dec_hook="f"), "dec_hook must be"),  # type: ignore[arg-type]
        (lambda: PickleCodec(allow=5), "allow must hold"),  # type: ignore[arg-type]
        (lambda: PickleCodec(allow=int), "allow must hold"),  # type: ignore[arg-type]
        (lambda: PickleCodec(trusted="no"), "trusted must be"),  # type: ignore[arg-type]
        (lambda: ArrowCodec(compression=5), "compression must be"),  # type: ignore[arg-type]
    ],
)
def test_codecs_refuse_settings_of_another_type(make: Any, said: str) -> None:
    """Where the codec is made, not where the first value is stored."""
    with pytest.raises(ConfigurationError, match=said):
        make()


def test_compressed_takes_any_codec() -> None:
    """An object with ``encode`` and ``decode`` serves here as it does elsewhere."""

    class Latin:
        def encode(self, value: str) -> bytes:
            return value.encode("latin-1")

        def decode(self, data: bytes) -> str:
            return data.decode("latin-1")

    codec = Compressed(Latin())  # type: ignore[arg-type]
    assert ("Latin+zlib", "ë" * 2000) == (codec.name, codec.decode(codec.encode("ë" * 2000)))
