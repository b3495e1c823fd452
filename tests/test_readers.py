"""Readers: ranges, streams, file views, and pipes that cannot seek."""

from __future__ import annotations

import io
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import anyseal
from anyseal import (
    Key,
    MemorySource,
    StaticKeyring,
    Suite,
    sync,
)
from support import (
    READERS,
    SIZES,
    SUITES,
    C,
    S,
    a_key,
    open_by_pipe,
    outcome,
    pattern,
    pieces,
    seal_bytes,
    seal_off_loop,
)

LONG = 3 * S + 17
EDGES = sorted({max(0, n + d) for n in (0, C, S, S + C, 2 * S, LONG) for d in (-1, 0, 1)})


class CountingSource(MemorySource):
    """Notes what is asked of it; gives no window, as a file."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads: list[tuple[int, int]] = []

    def pread_into(self, offset: int, buffer: memoryview) -> None:
        self.reads.append((offset, len(buffer)))
        super().pread_into(offset, buffer)

    def window(self, offset: int, length: int) -> memoryview | None:
        return None


def test_reader_ranges_are_slices(key: Key, suite: Suite) -> None:
    """Positions at every boundary: one byte more or less is another chunk."""
    data = pattern(LONG)
    sealed = seal_bytes(data, key, suite=suite)
    with sync.ObjectReader.open(MemorySource(sealed), key) as reader:
        for start in EDGES:
            assert data[start:] == reader.read_range(start)
            for stop in EDGES:
                assert data[start:stop] == reader.read_range(start, stop)


@given(start=st.integers(0, LONG + 10), size=st.integers(0, LONG), n=st.sampled_from(SUITES))
def test_reader_any_range_is_a_slice(start: int, size: int, n: Suite) -> None:
    """The same anywhere, and through each way to read."""
    key, data = a_key(), pattern(LONG)
    stop = start + size
    with sync.ObjectReader.open(CountingSource(seal_bytes(data, key, suite=n)), key) as reader:
        assert data[start:stop] == reader.read_range(start, stop)
        buffer = bytearray(b"\xee" * size)
        count = reader.read_into(start, buffer)
        assert data[start:stop] + b"\xee" * (size - count) == buffer
        assert data[start:stop] == b"".join(reader.stream(start, stop, piece_size=1000))


@pytest.mark.anyio
async def test_reader_ranges_awaited(key: Key, suite: Suite) -> None:
    """Clamped like slices; negative positions are mistakes, since they mean two things."""
    data = pattern(LONG)
    source = MemorySource(await seal_off_loop(data, key, suite=suite))
    async with await anyseal.ObjectReader.open(source, key) as reader:
        assert LONG == reader.size
        for start, stop in (
            (0, 0),
            (5, 5),
            (9, 2),
            (0, LONG * 2),
            (LONG, LONG + 1),
            (LONG + 5, None),
        ):
            assert data[start:stop] == await reader.read_range(start, stop)
        for start, stop in ((-1, 5), (0, -1), (-5, -1)):
            with pytest.raises(ValueError, match="negative"):
                await reader.read_range(start, stop)
        for wrong in (1.0, "1", None, True):
            with pytest.raises(TypeError):
                await reader.read_range(wrong)  # type: ignore[arg-type]
        for wrong in (b"12", "12", 5, memoryview(bytearray(9))[::2]):
            with pytest.raises(TypeError):
                await reader.read_into(0, wrong)
        buffer = bytearray(100)
        assert 17 == await reader.read_into(3 * S, buffer)
        assert data[-17:] + bytes(83) == buffer
        got = [piece async for piece in reader.stream(100, 9000, piece_size=1000)]
        assert data[100:9000] == b"".join(got)
        assert [900, *[1000] * 8] == [len(piece) for piece in got]
        with pytest.raises(ValueError, match="piece_size"):
            await anext(reader.stream(piece_size=0))
    for call in (lambda: reader.read_range(0, 1), reader.verify):
        with pytest.raises(ValueError, match="closed"):
            await call()
    await reader.aclose()


@pytest.mark.anyio
async def test_reader_serves_tasks_at_once(key: Key, suite: Suite) -> None:
    """A web server reads many ranges of one object through one reader."""
    data = pattern(40 * S)
    source = CountingSource(await seal_off_loop(data, key, suite=suite))
    wrong = []

    async def read(reader: anyseal.ObjectReader, start: int) -> None:
        if data[start : start + 9999] != await reader.read_range(start, start + 9999):
            wrong.append(start)

    opened = await anyseal.ObjectReader.open(source, key)
    async with opened as reader, anyio.create_task_group() as group:
        for start in range(0, 40 * S, 5001):
            group.start_soon(read, reader, start)
    assert [] == wrong


def test_reader_serves_threads_at_once(key: Key, suite: Suite) -> None:
    """More segments than keys are kept: a key may be dropped while another thread uses it."""
    data = pattern(100 * C)
    source = CountingSource(seal_bytes(data, key, suite=suite, segment_size=C))
    with sync.ObjectReader.open(source, key) as reader, ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda at: reader.read_range(at, at + 3 * C), range(0, 97 * C, C // 2))
        assert [data[at : at + 3 * C] for at in range(0, 97 * C, C // 2)] == list(found)


def test_reader_touches_only_the_chunks_of_the_range(key: Key, suite: Suite) -> None:
    """The promise that makes a sealed video or database seekable."""
    data = pattern(20 * S)
    source = CountingSource(seal_bytes(data, key, suite=suite))
    with sync.ObjectReader.open(source, key) as reader:
        for start in range(0, 12 * S, 3333):
            source.reads.clear()
            reader.read_range(start, start + 2 * S)
            touched = sum(length for _, length in source.reads)
            chunks = 2 * S // C + 2
            assert touched <= chunks * (C + suite.tag_bytes) + 16 * 4
        source.reads.clear()
        assert b"" == reader.read_range(5, 5) == reader.read_range(20 * S)
        assert [] == source.reads


@pytest.mark.anyio
async def test_file_view_awaited(key: Key) -> None:
    """read, readinto, seek and tell, as of a binary file."""
    data = pattern(LONG)
    source = MemorySource(await seal_off_loop(data, key))
    async with await anyseal.ObjectReader.open(source, key) as reader:
        file, twin = reader.file(), io.BytesIO(data)
        for offset, whence, count in (
            (0, 0, 10), (100, 1, 5000), (-20, 2, 100), (5, 0, 0), (9999, 0, -1), (50, 2, 5),
            (-9, 1, 3),
        ):  # fmt: skip
            assert twin.seek(offset, whence) == await file.seek(offset, whence)
            assert twin.read(count) == await file.read(count)
            assert twin.tell() == await file.tell()
        buffer = bytearray(7)
        await file.seek(S - 3)
        assert 7 == await file.readinto(buffer)
        assert data[S - 3 : S + 4] == buffer
        for bad in ((-1, 0), (-LONG - 1, 2), (0, 3)):
            with pytest.raises(ValueError):
                await file.seek(*bad)
        await file.seek(1)
        assert data[1:] == await file.read()
        assert b"" == await file.read()


def test_file_view_serves_zipfile_and_tarfile(key: Key) -> None:
    """They seek from the end, backwards and in small steps, and know nothing of us."""
    members = {f"{n}.txt": pattern(n * 1000, str(n)) for n in range(12)}
    archive, tape = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped, tarfile.open(fileobj=tape, mode="w") as tar:
        for name, data in members.items():
            zipped.writestr(name, data)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    for suite in SUITES:
        sealed = seal_bytes(archive.getvalue(), key, suite=suite)
        reader = sync.ObjectReader.open(MemorySource(sealed), key)
        with reader, reader.file() as file, zipfile.ZipFile(file) as zipped:
            assert zipped.testzip() is None
            assert members == {name: zipped.read(name) for name in reversed(zipped.namelist())}
        sealed = seal_bytes(tape.getvalue(), key, suite=suite)
        reader = sync.ObjectReader.open(MemorySource(sealed), key)
        with reader, reader.file() as file, tarfile.open(fileobj=file) as tar:
            found = {member.name: tar.extractfile(member) for member in tar}
            assert members == {name: part.read() for name, part in found.items() if part}


# ---- Pipes -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("piece", [1, 7, 4111, 1 << 20])
def test_pipe_takes_any_pieces(key: Key, size: int, piece: int) -> None:
    """Sockets cut where they like, also inside the header and the trailer."""
    data = pattern(size)
    for suite in SUITES:
        assert data == open_by_pipe(seal_bytes(data, key, suite=suite), key, piece=piece)


@given(data=st.binary(max_size=50), cutting=st.lists(st.integers(0, 300), max_size=30))
def test_pipe_takes_any_cutting(data: bytes, cutting: list[int]) -> None:
    """Also empty pieces, and views."""
    key = a_key()
    sealed = seal_bytes(data, key)
    parts, at = [], 0
    for size in cutting:
        parts.append(memoryview(sealed)[at : at + size])
        at += size
    parts.append(memoryview(sealed)[at:])
    assert data == b"".join(sync.StreamOpener(key).open(parts))  # type: ignore[arg-type]


def test_pipe_releases_as_it_goes(key: Key) -> None:
    """Bounded memory needs bounded pieces, and progress before the end."""
    sealed = seal_bytes(pattern(5 << 20), key, chunk_size=1 << 16, segment_size=1 << 20)
    fed = 0

    def feed() -> Any:
        nonlocal fed
        for part in pieces(sealed, 1 << 16):
            fed += len(part)
            yield part

    done = 0
    for piece in sync.StreamOpener(key).open(feed()):
        assert len(piece) <= 1 << 20
        done += len(piece)
        assert fed - done < 3 << 20
    assert 5 << 20 == done


def test_pipe_opener_opens_one_stream_after_another(key: Key) -> None:
    """It is a setting, not a state; a refused stream leaves nothing behind."""
    opener = sync.StreamOpener(key)
    for text in (b"one", b"two"):
        assert text == b"".join(opener.open([seal_bytes(text, key)]))
        with pytest.raises(anyseal.FormatError):
            list(opener.open([b"garbage" * 99]))
    first, second = opener.open([seal_bytes(b"a", key)]), opener.open([seal_bytes(b"b", key)])
    assert (b"a", b"b") == (next(first), next(second))


def test_pipe_refuses_what_is_not_bytes(key: Key) -> None:
    """A text stream is the usual mistake."""
    with pytest.raises(TypeError):
        list(sync.StreamOpener(key).open(["text"]))  # type: ignore[list-item]


def test_readers_agree_on_every_cut(key: Key, suite: Suite) -> None:
    """What one accepts and the other refuses would be an object with two meanings."""
    data = pattern(2 * C + 5)
    sealed = seal_bytes(data, key, suite=suite, segment_size=C)
    header = sealed[: 200 if suite is Suite.AEGIS256 else 184]
    near = {len(header) + at * (C + 16 + suite.tag_bytes) for at in range(3)}
    edges = {edge + d for edge in near for d in range(-70, 71)} | {*range(230)}
    for cut in sorted(edges | {*range(len(sealed) - 200, len(sealed))}):
        for reader in READERS.values():
            assert outcome(reader, sealed[:cut], key) in ("FormatError", "DecryptionError"), cut
    for more in range(1, 200):
        for reader in READERS.values():
            assert outcome(reader, sealed + bytes(more), key) in ("FormatError", "DecryptionError")


@pytest.mark.parametrize(
    "size", [n * C + d for n in (0, 1, 2, 3) for d in (0, 1, 2, 44, 60, C - 60)]
)
def test_readers_agree_on_every_length(key: Key, size: int) -> None:
    """The end is found from the tail and from the front alike."""
    data = pattern(size)
    for suite in SUITES:
        for segment in (C, 2 * C):
            sealed = seal_bytes(data, key, suite=suite, segment_size=segment)
            for reader in READERS.values():
                assert data == reader(sealed, key)


@pytest.mark.anyio
async def test_reader_that_cannot_open_closes_its_source(key: Key) -> None:
    """``ObjectReader.open(FileSource(path), ...)`` leaves the caller nothing to close."""
    sealed = await seal_off_loop(b"x", key)
    opened = []

    class Source(MemorySource):
        def close(self) -> None:
            opened.append("closed")
            super().close()

    for data, ring, settings in (
        (sealed[:-1], key, {}),
        (sealed, a_key("other"), {}),
        (sealed, key, {"context": b"other"}),
        (sealed, key, {"partition": "p"}),
        (sealed, StaticKeyring(bytes(32)), {"partition": "p"}),
        (sealed, "key", {}),
    ):
        with pytest.raises((anyseal.AnysealError, TypeError)):
            await anyseal.ObjectReader.open(Source(data), ring, **settings)
        with pytest.raises((anyseal.AnysealError, TypeError)):
            sync.ObjectReader.open(Source(data), ring, **settings)
    assert ["closed"] * 12 == opened


class SlowSource:
    """Awaited reads; counts how many there are at once, and what was fetched."""

    def __init__(self, data: bytes, concurrency: int) -> None:
        self.concurrency = concurrency
        self.running = self.most = self.fetched = self.largest = 0
        self._data = MemorySource(data)

    async def ends(self, head: int, tail: int) -> Any:
        return self._data.pread_ends(head, tail)

    async def read(self, offset: int, length: int) -> bytes:
        buffer = bytearray(length)
        await self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    async def read_into(self, offset: int, buffer: memoryview) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        self.largest = max(self.largest, len(buffer))
        try:
            await anyio.sleep(0.002 if offset % 3 else 0.004)  # answers overtake each other
            self._data.pread_into(offset, buffer)
            self.fetched += len(buffer)
        finally:
            self.running -= 1

    async def aclose(self) -> None:
        pass


@pytest.mark.anyio
@pytest.mark.parametrize("concurrency", [1, 4, 16])
@pytest.mark.parametrize("piece_size", [100_000, 1 << 20, 5 << 20])
async def test_stream_uses_what_the_source_takes(
    key: Key, concurrency: int, piece_size: int
) -> None:
    """One request after the other would wait for each: but what is ahead must fit the memory."""
    data = pattern(1 << 16) * 384  # 24 MiB
    source = SlowSource(await seal_off_loop(data, key), concurrency)
    async with await anyseal.ObjectReader.open(source, key) as reader:
        at = 0
        async for piece in reader.stream(piece_size=piece_size):
            assert data[at : at + len(piece)] == piece
            at += len(piece)
            # Ahead are 12 MiB, and the pieces of the request that is being consumed.
            assert source.fetched <= at + max(16 << 20, 3 * piece_size) + (1 << 20)
    assert len(data) == at
    largest = max(3 << 20, piece_size)
    assert source.largest < largest * 1.02
    assert min(concurrency, max(2, (12 << 20) // largest)) == source.most
    assert 0 == source.running
