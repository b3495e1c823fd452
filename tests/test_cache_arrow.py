"""The Arrow codec and compression: frames come back as what they were; lengths are bounded."""

from __future__ import annotations

import contextlib
import datetime as dt
import random
import sys
import zlib
from decimal import Decimal
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal, assert_series_equal

from anyseal import ConfigurationError, FormatError
from anyseal.cache.codecs import (
    ArrowCodec,
    Codec,
    Compressed,
    JSONCodec,
    MessagePackCodec,
    RawCodec,
)
from support import cuts, pattern, run_python, said

TABLE = pa.table(
    {
        "id": [1, 2, 3],
        "name": ["a", None, "c"],
        "price": pa.array([Decimal("1.5"), None, Decimal("2.5")], pa.decimal128(9, 2)),
        "tags": [["x"], [], None],
        "kind": pa.array(["u", "v", "u"]).dictionary_encode(),
        "raw": [b"", b"\0", None],
    },
).replace_schema_metadata({"source": "test"})
PANDAS = [
    pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [1.5, None]}),
    pd.DataFrame({"a": [1, 2]}, index=pd.Index(["r", "s"], name="key")),
    pd.DataFrame({"a": [1, 2]}, index=pd.MultiIndex.from_tuples([(1, "x"), (2, "y")])),
    pd.DataFrame({"t": pd.date_range("2026", periods=3, tz="Europe/Berlin"), "k": [True] * 3}),
    pd.DataFrame({"c": pd.Categorical(["u", "v", "u"], ordered=True), "n": pd.array([1, None, 3])}),
    pd.DataFrame({"d": pd.to_timedelta([1, 2], "s"), "l": [[1], [2, 3]]}),
    pd.DataFrame([[1, 2], [3, 4]]),
    pd.DataFrame({"a": []}),
    pd.DataFrame(),
    pd.DataFrame({"a": range(10)}).iloc[3:7],
]
SERIES = [
    pd.Series([1, 2, 3]),
    pd.Series(["x", None], name="text", index=[5, 7]),
    pd.Series([1.5], name=0),
    pd.Series([], dtype="int64"),
]
POLARS = [
    pl.DataFrame({"a": [1, None], "s": ["x", None], "b": [b"x", None]}),
    pl.DataFrame(
        {
            "c": pl.Series(["a", "b", "a"], dtype=pl.Categorical),
            "e": pl.Series(["a", "b", "a"], dtype=pl.Enum(["a", "b"])),
            "l": [[1], [2, 3], None],
            "r": [{"x": 1}, {"x": 2}, None],
            "d": pl.Series(["1.5", "2.5", None]).cast(pl.Decimal(10, 2)),
            "t": [dt.datetime(2026, 1, 2, tzinfo=dt.UTC)] * 3,
            "p": [dt.timedelta(1)] * 3,
            "w": pl.Series([1, 2, 3], dtype=pl.Int128),
        }
    ),
    pl.DataFrame({"a": pl.Series([], dtype=pl.Int8)}),
    pl.DataFrame(),
]


@pytest.fixture(params=[None, "lz4", "zstd"], ids=str)
def arrow(request: pytest.FixtureRequest) -> ArrowCodec:
    """With each compression."""
    return ArrowCodec(compression=request.param)


def test_arrow_brings_back_tables_and_batches(arrow: ArrowCodec) -> None:
    """Column types, nulls, dictionaries and metadata included."""
    for table in (
        TABLE,
        TABLE.slice(1, 1),
        TABLE.slice(0, 0),
        pa.table({}),
        pa.concat_tables([TABLE] * 3),
    ):
        back = arrow.decode(memoryview(arrow.encode(table)), pa.Table)
        assert back.equals(table, check_metadata=True)
    batch = TABLE.to_batches()[0]
    for each in (batch, batch.slice(1, 1), batch.slice(0, 0)):
        back = arrow.decode(arrow.encode(each), pa.RecordBatch)
        assert isinstance(back, pa.RecordBatch)
        assert back.equals(each)


@pytest.mark.parametrize("number", range(len(PANDAS)))
def test_arrow_brings_back_pandas_frames(arrow: ArrowCodec, number: int) -> None:
    """The index, its names and the types of columns are part of a frame."""
    frame = PANDAS[number]
    back = arrow.decode(arrow.encode(frame), pd.DataFrame)
    assert_frame_equal(frame, back, check_column_type=False)
    back["new"] = 1  # what a caller does with it must work
    assert "new" not in arrow.decode(arrow.encode(frame)).columns


@pytest.mark.parametrize("number", range(len(SERIES)))
def test_arrow_brings_back_pandas_series(arrow: ArrowCodec, number: int) -> None:
    """With its name, also where it has none."""
    series = SERIES[number]
    assert_series_equal(series, arrow.decode(arrow.encode(series), pd.Series))


@pytest.mark.parametrize("number", range(len(POLARS)))
def test_arrow_brings_back_polars_frames(arrow: ArrowCodec, number: int) -> None:
    """In polars' own types, and each column as a Series too."""
    frame = POLARS[number]
    back = arrow.decode(memoryview(arrow.encode(frame)), pl.DataFrame)
    assert (frame.schema, True) == (back.schema, back.equals(frame))
    for series in frame:
        again = arrow.decode(arrow.encode(series), pl.Series)
        assert (series.name, series.dtype, True) == (again.name, again.dtype, again.equals(series))


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.text(max_size=9), st.floats())))
def test_arrow_brings_back_any_rows(rows: list[tuple[int, str, float]]) -> None:
    """Whatever the cells hold."""
    numbers, texts, floats = ([row[at] for row in rows] for at in range(3))
    columns = {
        "n": pl.Series(numbers, dtype=pl.Int64),
        "t": pl.Series([t.encode("utf-8", "replace").decode() for t in texts], dtype=pl.String),
        "f": pl.Series(floats, dtype=pl.Float64),
    }
    codec, frame = ArrowCodec(), pl.DataFrame(columns)
    assert frame.equals(codec.decode(codec.encode(frame)))
    table = frame.to_arrow()
    assert table.schema == codec.decode(codec.encode(table)).schema


def test_arrow_names_the_column_that_it_cannot_encode() -> None:
    """Without a cell of it: a message is no place for data."""
    codec = ArrowCodec()
    mixed = pd.DataFrame({"fine": [1, 2], "odd": [1, "s3cret"]}, dtype=object)
    with pytest.raises(TypeError, match=r"^arrow cannot encode \$\.odd: column of object$"):
        codec.encode(mixed)
    with pytest.raises(TypeError, match=r"\$\[1\]: column of object$"):
        codec.encode(mixed.rename(columns={"odd": "an odd name"}))
    with pytest.raises(TypeError, match="two columns of one name"):
        codec.encode(pd.DataFrame([[1, 2]], columns=["s3cret", "s3cret"]))
    objects = pl.DataFrame({"o": pl.Series([object()], dtype=pl.Object)})
    for wrong in (objects, objects["o"]):
        with pytest.raises(TypeError, match=r"^arrow cannot encode \$\.o: column of Object$"):
            codec.encode(wrong)

    class Frame(pd.DataFrame):
        pass

    for wrong, name in (({"a": 1}, "dict"), (None, "NoneType"), (Frame({"a": [1]}), "Frame")):
        with pytest.raises(TypeError, match=rf"^arrow cannot encode \$: {name}$"):
            codec.encode(wrong)


@pytest.mark.parametrize("value", [TABLE, PANDAS[0], SERIES[1], POLARS[0], POLARS[0]["s"]])
def test_arrow_refuses_every_cut_and_another_kind(value: Any) -> None:
    """No prefix of a frame is a frame, and one library's is not another's."""
    codec = ArrowCodec()
    data = codec.encode(value)
    for cut in cuts(data):
        with pytest.raises(FormatError):
            codec.decode(cut)
    for kind in (0, 8, 255):
        with pytest.raises(FormatError):
            codec.decode(data[:-1] + bytes((kind,)))
    for wrong in (dict, int, None, pl.DataFrame if isinstance(value, pa.Table) else pa.Table):
        with pytest.raises(FormatError):
            codec.decode(data, wrong)
    assert codec.decode(data, type(value) | None) is not None
    with pytest.raises(TypeError):
        codec.decode("text")  # type: ignore[arg-type]


def test_arrow_survives_flipped_bytes() -> None:
    """A value or a FormatError; the seal keeps such bytes away, other users may have none."""
    code = """
        import os, random
        import pyarrow as pa, pandas as pd
        from anyseal import FormatError
        from anyseal.cache.codecs import ArrowCodec
        codec, order = ArrowCodec(), random.Random(5)
        frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
        for value in (pa.table({"a": [1, 2], "b": ["x", None]}), frame):
            data = codec.encode(value)
            for _ in range(600):
                changed = bytearray(data)
                changed[order.randrange(len(data) - 9)] ^= 1 << order.randrange(8)
                try:
                    codec.decode(bytes(changed))
                except FormatError:
                    pass
        print("alive")
    """
    assert ["alive"] == said(run_python(code))


def test_arrow_without_pyarrow_says_what_to_install() -> None:
    """And the other codecs work, without any of the three libraries imported."""
    code = """
        import sys
        sys.modules["pyarrow"] = None
        from anyseal import ConfigurationError
        from anyseal.cache.codecs import codec_named
        for name in ("msgpack", "json", "raw", "pickle"):
            codec = codec_named(name)
            codec.decode(codec.encode(b"x"), bytes)
        print({"pandas", "polars", "zstandard"} & set(sys.modules))
        try:
            codec_named("arrow")
        except ConfigurationError as error:
            print(error)
    """
    expected = "the arrow codec needs pyarrow: pip install 'anyseal[arrow]'"
    assert ["set()", expected] == said(run_python(code))
    code = """
        import sys
        sys.modules["msgspec"] = None
        try:
            import anyseal.cache.codecs
        except Exception as error:
            print(type(error).__name__, error)
    """
    expected = "MissingExtraError the cache needs msgspec: pip install 'anyseal[cache]'"
    assert [expected] == said(run_python(code))


def test_arrow_checks_its_settings() -> None:
    """A misspelt compression must not be ignored."""
    with pytest.raises(ConfigurationError):
        ArrowCodec(compression="gzip")
    large = pa.table({"a": [1] * 10_000})
    assert len(ArrowCodec(compression="zstd").encode(large)) < len(ArrowCodec().encode(large)) / 10


@pytest.fixture(params=["zlib", "zstd"])
def algorithm(request: pytest.FixtureRequest) -> str:
    """Each algorithm."""
    found: str = request.param
    return found


@given(data=st.data())
@pytest.mark.parametrize("name", ["zlib", "zstd"])
def test_compressed_brings_back_every_value(name: str, data: Any) -> None:
    """Short and long, compressible and not."""
    codec = Compressed(RawCodec(), algorithm=name, min_size=8, sample_bytes=64)
    value = data.draw(st.binary(max_size=300)) * data.draw(st.sampled_from([1, 2, 50]))
    assert (
        value == codec.decode(codec.encode(value)) == codec.decode(memoryview(codec.encode(value)))
    )


def test_compressed_keeps_types_and_columns_in_place(algorithm: str) -> None:
    """It wraps any codec, and knows nothing of what that writes."""
    codec = Compressed(MessagePackCodec(), algorithm=algorithm)
    value = {f"key{number}": {number, number + 1} for number in range(200)}
    encoded = codec.encode(value)
    assert len(encoded) < len(MessagePackCodec().encode(value))
    assert value == codec.decode(encoded, dict[str, set[int]])
    frames = Compressed(ArrowCodec(), algorithm=algorithm)
    assert POLARS[0].equals(frames.decode(frames.encode(POLARS[0])))
    assert TABLE.equals(frames.decode(frames.encode(TABLE), pa.Table))
    with pytest.raises(TypeError, match=r"\$: complex"):
        codec.encode(1j)


def test_compressed_decides_by_size_and_sample(algorithm: str) -> None:
    """Compressing what does not shrink costs time on every set and every get."""
    codec = Compressed(RawCodec(), algorithm=algorithm, min_size=100, max_size=1 << 20)
    tried: list[int] = []
    compress = codec._compress
    codec._compress = lambda data: (tried.append(len(data)), compress(data))[1]  # type: ignore[func-returns-value]
    noise, text = pattern(500_000), b"the same again, " * 30_000
    for value, plain, sizes in (
        (b"a" * 99, True, []),
        (b"a" * 100, False, [100]),
        (noise[:100], True, [100]),
        (noise, True, [4096]),
        (text, False, [4096, 480_000]),
        (b"a" * (1 << 20), False, [4096, 1 << 20]),
        (b"a" * ((1 << 20) + 1), True, []),
        (b"", True, []),
        (noise[:250_000] + text[:10_000], False, [4096, 260_000]),
    ):
        tried.clear()
        encoded = codec.encode(value)
        assert (sizes, plain) == (tried, encoded == value + b"\0")
        assert value == codec.decode(encoded)


def test_compressed_refuses_lies_and_cuts(algorithm: str) -> None:
    """The declared length is checked before and after decompressing."""
    codec = Compressed(JSONCodec(), algorithm=algorithm)
    value = ["text"] * 1000
    encoded = codec.encode(value)
    number, size = encoded[-1], int.from_bytes(encoded[-9:-1])
    for cut in cuts(encoded):
        with pytest.raises(FormatError):
            codec.decode(cut)
    for lie in (0, 1, size - 1, size + 1, 64 << 20, (64 << 20) + 1, (1 << 64) - 1):
        with pytest.raises(FormatError):
            codec.decode(encoded[:-9] + lie.to_bytes(8) + bytes((number,)))
    for other in (0, 3 - number, 3, 255):
        with pytest.raises(FormatError):
            codec.decode(encoded[:-1] + bytes((other,)))
    for bad in (
        b"",
        b"\0",
        b"\1",
        b"\2" * 9,
        b"\1" * 10,
        zlib.compress(b"x") * 2 + b"\0" * 8 + b"\1",
    ):
        with pytest.raises(FormatError):
            codec.decode(bad)
    order = random.Random(3)
    for _ in range(300):
        changed = bytearray(encoded)
        changed[order.randrange(len(encoded))] ^= 1 << order.randrange(8)
        with contextlib.suppress(FormatError):
            codec.decode(bytes(changed))


def test_compressed_checks_its_settings() -> None:
    """Names of codecs are bound into entries: one algorithm, one name."""
    assert ["raw+zlib", "raw+zstd"] == [
        Compressed(RawCodec(), algorithm=name).name for name in ("zlib", "zstd")
    ]
    assert isinstance(Compressed(RawCodec()), Codec)
    for wrong in (
        {"algorithm": "lz4"}, {"level": 10}, {"level": 0}, {"min_size": 0}, {"sample_bytes": 1},
        {"max_size": 0}, {"max_size": 1 << 33}, {"algorithm": "zstd", "level": 23},
    ):  # fmt: skip
        with pytest.raises(ConfigurationError):
            Compressed(RawCodec(), **wrong)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="zstd is part of Python 3.14")
def test_compressed_without_zstandard_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is no extra of ours: the message must name the package."""
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ConfigurationError, match="pip install zstandard"):
        Compressed(RawCodec(), algorithm="zstd")
