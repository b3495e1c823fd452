"""Objects there and back: every writer and reader, every sink and source, any cut of the data."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import anyseal
from anyseal import (
    ConfigurationError,
    FileSink,
    FileSource,
    Key,
    MemorySink,
    MemorySource,
    OutputExistsError,
    StaticKeyring,
    StreamSink,
    Suite,
    WriterStateError,
    sync,
)
from support import (
    READERS,
    SIZES,
    SMALL,
    SUITES,
    C,
    S,
    Stream,
    a_key,
    open_by_pipe,
    open_by_range,
    pattern,
    pieces,
    seal_bytes,
)

LONG = 3 * S + 17


@pytest.mark.parametrize("size", SIZES)
def test_object_round_trips(key: Key, suite: Suite, size: int) -> None:
    """Every boundary of chunk and segment, through every reader."""
    data = pattern(size)
    sealed = seal_bytes(data, key, suite=suite, context=b"ctx")
    for reader in READERS.values():
        assert data == reader(sealed, key, context=b"ctx")


@pytest.mark.parametrize("size", [*SIZES, 300 * C + 1])
@pytest.mark.anyio
async def test_object_round_trips_awaited(keyring: StaticKeyring, suite: Suite, size: int) -> None:
    """The same for the async classes; 300 segments do not fit the first read of the tail."""
    data, sink = pattern(size), MemorySink()
    shape = {"chunk_size": C, "segment_size": C if size > LONG else S}
    writer = anyseal.ObjectWriter(sink, keyring, partition="p", suite=suite, **shape)
    async with writer:
        for piece in pieces(data, 5000):
            await writer.write(piece)
    sealed = sink.getvalue()
    opened = await anyseal.ObjectReader.open(MemorySource(sealed), keyring, partition="p")
    async with opened as reader:
        assert (size, size) == (reader.size, len(data))
        assert suite is reader.info.suite
        assert data == await reader.read_range(0)
        await reader.verify()
    opener = anyseal.StreamOpener(keyring, partition="p")
    assert data == b"".join([piece async for piece in opener.open(Stream(sealed, 999))])
    assert data == open_by_pipe(sealed, keyring, partition="p")


@pytest.mark.parametrize("chunk_log2", range(12, 25))
def test_object_takes_every_chunk_size(key: Key, chunk_log2: int) -> None:
    """All of them must stay readable for ever."""
    chunk = 1 << chunk_log2
    data = pattern(5) * ((chunk + 7) // 5)
    for suite in SUITES:
        sealed = seal_bytes(data, key, suite=suite, chunk_size=chunk, segment_size=2 * chunk)
        assert chunk == sync.inspect(sealed).chunk_bytes  # type: ignore[union-attr]
        assert data == open_by_range(sealed, key) == open_by_pipe(sealed, key, piece=1 << 16)


@pytest.mark.parametrize(
    "shape",
    [
        {"chunk_size": 2048}, {"chunk_size": 1 << 25}, {"chunk_size": 5000}, {"chunk_size": 0},
        {"chunk_size": -4096}, {"segment_size": 0}, {"segment_size": C + 1},
        {"segment_size": (1 << 36) + C}, {"segment_size": -C}, {"segment_size": C // 2},
    ],
)  # fmt: skip
@pytest.mark.anyio
async def test_object_refuses_shapes_out_of_bounds(key: Key, shape: dict[str, int]) -> None:
    """What it would write, no reader could open."""
    with pytest.raises(ConfigurationError):
        seal_bytes(b"x", key, **shape)
    with pytest.raises(ConfigurationError):
        async with anyseal.ObjectWriter(MemorySink(), key, **{**SMALL, **shape}) as writer:
            await writer.write(b"x")


@given(cutting=st.lists(st.integers(0, 30_000), max_size=12), n=st.sampled_from(SUITES))
def test_writer_takes_any_pieces(cutting: list[int], n: Suite) -> None:
    """Where the caller cuts its data must not show in the object."""
    key, data = a_key(), pattern(sum(cutting))
    sink = MemorySink()
    with sync.ObjectWriter(sink, key, suite=n, **SMALL) as writer:
        at = 0
        for size in cutting:
            writer.write(memoryview(data)[at : at + size])
            at += size
    sealed = sink.getvalue()
    assert len(seal_bytes(data, key, suite=n)) == len(sealed)
    assert data == open_by_range(sealed, key) == open_by_pipe(sealed, key)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(cutting=st.lists(st.integers(0, 3 << 20), max_size=5))
def test_writer_takes_large_pieces(cutting: list[int]) -> None:
    """Beyond the staging buffer, straight from the caller's memory and in several threads."""
    key, data = a_key(), bytes(range(256)) * (sum(cutting) // 256 + 1)
    data = data[: sum(cutting)]
    sink = MemorySink()
    with sync.ObjectWriter(sink, key, chunk_size=1 << 16, segment_size=1 << 20) as writer:
        at = 0
        for size in cutting:
            writer.write(data[at : at + size])
            at += size
    assert data == open_by_range(sink.getvalue(), key)


def test_writer_takes_any_buffer_and_nothing_else(key: Key) -> None:
    """A str refused leaves the writer usable: nothing was sealed yet."""
    sink = MemorySink()
    with sync.ObjectWriter(sink, key, **SMALL) as writer:
        for wrong in ("text", 5, None, memoryview(bytes(10))[::2]):
            with pytest.raises(TypeError):
                writer.write(wrong)
        writer.write(bytearray(b"ab"))
        writer.write(memoryview(b"xcdx")[1:3])
        writer.write(b"")
    assert b"abcd" == open_by_range(sink.getvalue(), key)


# ---- Sinks and sources -------------------------------------------------------------------


def test_memory_sink_fills_a_buffer_of_the_caller(key: Key) -> None:
    """A reused buffer is what makes sealing as fast as copying."""
    data = pattern(LONG)
    size = len(seal_bytes(data, key))
    buffer = bytearray(b"\xee" * (size + 5))
    for _ in range(2):
        sink = MemorySink(buffer)
        with pytest.raises(ValueError, match="not finished"):
            sink.getvalue()
        with sync.ObjectWriter(sink, key, **SMALL) as writer:
            writer.write(data)
        assert buffer[:size] == sink.getvalue()
        assert b"\xee" * 5 == buffer[size:]
        assert data == open_by_range(bytes(buffer[:size]), key)
    short = sync.ObjectWriter(MemorySink(bytearray(size - 1)), key, **SMALL)
    with pytest.raises(ValueError, match="buffer has"), short:
        short.write(data)


@pytest.mark.anyio
async def test_stream_sink_gets_the_object_in_order(key: Key) -> None:
    """A pipe or a socket: what was sent cannot be mended."""
    sent: list[bytes] = []

    async def send(data: bytes) -> None:
        assert type(data) is bytes  # a transport may keep what it was given
        await anyio.sleep(0)
        sent.append(data)

    data = pattern(3 << 20)
    for shape in (SMALL, {}):
        sent.clear()
        async with anyseal.ObjectWriter(StreamSink(send), key, **shape) as writer:
            for piece in pieces(data, 700_001):
                await writer.write(piece)
        found = await anyio.to_thread.run_sync(open_by_range, b"".join(sent), key)
        assert data == found


class ShortWrites(io.RawIOBase):
    """A raw file that takes little at a time, as a pipe may."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data[:777])
        self.data += part
        return len(part)


def test_sync_stream_sink_finishes_short_writes(key: Key) -> None:
    """``write`` of a raw file may take less than it was given."""
    data, raw, buffered = pattern(LONG), ShortWrites(), io.BytesIO()
    for file in (raw, buffered):
        with sync.ObjectWriter(sync.StreamSink(file), key, **SMALL) as writer:
            writer.write(data)
    assert data == open_by_range(bytes(raw.data), key)
    assert data == open_by_range(buffered.getvalue(), key)


@pytest.mark.anyio
async def test_file_sink_and_source_round_trip(key: Key, tmp_path: Path) -> None:
    """Segments are written and read in parallel, out of order."""
    data = pattern(3 << 20)
    target = tmp_path / "sealed"
    sink = await anyio.to_thread.run_sync(FileSink, target)
    async with anyseal.ObjectWriter(sink, key, chunk_size=C, segment_size=1 << 18) as writer:
        await writer.write(data)
        assert not target.exists()
    assert [target] == list(tmp_path.iterdir())
    source = await anyio.to_thread.run_sync(FileSource, target)
    async with await anyseal.ObjectReader.open(source, key) as reader:
        assert data == await reader.read_range(0)
        await reader.verify()


def test_file_sink_and_source_round_trip_in_sync_code(key: Key, tmp_path: Path) -> None:
    """The same without a loop."""
    data = pattern(3 << 20)
    with sync.ObjectWriter(FileSink(tmp_path / "sealed"), key, segment_size=1 << 18) as writer:
        writer.write(data)
    with sync.ObjectReader.open(FileSource(tmp_path / "sealed"), key) as reader:
        assert data == reader.read_range(0)
        reader.verify()


def test_file_sink_refuses_to_overwrite(key: Key, tmp_path: Path) -> None:
    """Also a file that appeared while it was sealing."""
    target = tmp_path / "target"
    sink = FileSink(target)
    writer = sync.ObjectWriter(sink, key, **SMALL)
    writer.write(b"ours")
    target.write_bytes(b"theirs")
    with pytest.raises(OutputExistsError):
        FileSink(target)
    with pytest.raises(OutputExistsError):
        writer.finish()
    assert b"theirs" == target.read_bytes()
    assert [target] == list(tmp_path.iterdir())
    with sync.ObjectWriter(FileSink(target, overwrite=True), key, **SMALL) as writer:
        writer.write(b"ours")
    assert b"ours" == open_by_range(target.read_bytes(), key)


# ---- States of a writer ------------------------------------------------------------------


@pytest.mark.anyio
async def test_writer_finished_takes_no_more(key: Key) -> None:
    """A second trailer would end another object."""
    sink = MemorySink()
    writer = anyseal.ObjectWriter(sink, key, **SMALL)
    await writer.write(b"abc")
    size = await writer.finish()
    assert len(sink.getvalue()) == size
    for call in (lambda: writer.write(b""), writer.finish):
        with pytest.raises(WriterStateError, match="finished"):
            await call()
    await writer.aclose()
    assert b"abc" == open_by_range(sink.getvalue(), key)
    closing: list[Callable[[sync.ObjectWriter], object]] = [
        lambda twin: twin.write(b""),
        lambda twin: twin.finish(),
    ]
    for call_sync in closing:
        twin = sync.ObjectWriter(MemorySink(), key)
        twin.finish()
        with pytest.raises(WriterStateError, match="finished"):
            call_sync(twin)


@pytest.mark.anyio
async def test_writer_block_left_by_an_error_aborts(key: Key, tmp_path: Path) -> None:
    """Half a backup must not look like one."""
    memory = MemorySink()
    for sink in (memory, await anyio.to_thread.run_sync(FileSink, tmp_path / "x")):
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with anyseal.ObjectWriter(sink, key, **SMALL) as writer:
                await writer.write(pattern(LONG))
                raise ZeroDivisionError
        with pytest.raises(WriterStateError):
            await writer.write(b"")
    with pytest.raises(ValueError, match="not finished"):
        memory.getvalue()
    assert [] == list(tmp_path.iterdir())


def test_writer_block_left_by_an_error_aborts_in_sync_code(key: Key, tmp_path: Path) -> None:
    """The same without a loop."""
    memory = MemorySink()
    for sink in (memory, FileSink(tmp_path / "x")):
        writer = sync.ObjectWriter(sink, key, **SMALL)
        writer.write(pattern(LONG))
        with pytest.raises(ZeroDivisionError), writer:
            raise ZeroDivisionError
        with pytest.raises(WriterStateError):
            writer.write(b"")
    with pytest.raises(ValueError, match="not finished"):
        memory.getvalue()
    assert [] == list(tmp_path.iterdir())


@pytest.mark.anyio
async def test_writer_size_counts_what_is_sealed(key: Key) -> None:
    """For a progress bar; what waits for its step does not count."""
    async with anyseal.ObjectWriter(MemorySink(), key) as writer:
        assert 0 == writer.size
        await writer.write(bytes(5 << 20))
        assert 5 << 20 == writer.size
        await writer.write(b"x")
        assert 5 << 20 == writer.size
        await writer.finish()
        assert (5 << 20) + 1 == writer.size


@pytest.mark.anyio
async def test_files_are_opened_off_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a file of a network may take seconds, which would be everybody's."""
    here, opening = threading.get_ident(), os.open
    threads: set[int] = set()

    def noted(path: Any, *args: Any, **options: Any) -> int:
        if os.fspath(tmp_path) in os.fspath(path):
            threads.add(threading.get_ident())
        return opening(path, *args, **options)

    monkeypatch.setattr("anyseal.objects.sources.os.open", noted)
    sink = await FileSink.aopen(tmp_path / "file", mode=0o600)
    await anyio.to_thread.run_sync(sink.commit, 4)
    with pytest.raises(OutputExistsError):
        await FileSink.aopen(tmp_path / "file")
    source = await FileSource.aopen(tmp_path / "file")
    assert (4, 0o100600) == (source.size, source.stat.st_mode)
    source.close()
    assert threads
    assert here not in threads
