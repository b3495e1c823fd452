"""A reader's files, and what is collected open: as ``io`` has it."""

from __future__ import annotations

import gc
import io
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

import anyseal
from anyseal import FileSink, FileSource, MemorySource, sync
from anyseal.objects import http as http_sources
from anyseal.s3.part_file import PartFile
from anyseal.sync.bucket_reader import BucketReader
from support import C, a_key, names, pattern, seal_bytes

PLAIN = pattern(3 * C)
KEY = a_key()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sealed file."""
    path = tmp_path / "sealed"
    path.write_bytes(seal_bytes(PLAIN, KEY))
    return path


def descriptors(path: Path) -> int:
    """How often this process has *path* open."""
    found = 0
    for each in os.listdir("/proc/self/fd"):
        try:
            found += os.path.samefile(f"/proc/self/fd/{each}", path)
        except OSError:
            continue
    return found


def opened(path: Path) -> sync.ObjectReader:
    return sync.ObjectReader.open(FileSource(path), KEY)


async def aopened(path: Path) -> anyseal.ObjectReader:
    return await anyseal.ObjectReader.open(await FileSource.aopen(path), KEY)


def test_file_closes_a_reader_that_is_in_no_block(path: Path) -> None:
    """``open(...).file()`` leaves no other handle: each such file would leak a descriptor."""
    for _ in range(3):
        with opened(path).file() as file:
            assert PLAIN[:9] == file.read(9)
    file.close()
    assert 0 == descriptors(path)


def test_file_leaves_a_reader_in_a_block_alone(path: Path) -> None:
    """Whose block it is closes it."""
    with opened(path) as reader:
        for _ in range(2):
            with reader.file() as file:
                assert PLAIN == file.read()
        assert PLAIN == reader.read_range(0)
        assert 1 == descriptors(path)
    assert 0 == descriptors(path)


def test_files_close_their_reader_with_the_last(path: Path) -> None:
    """Two files of one reader do not end each other."""
    reader = opened(path)
    first, second = reader.file(), reader.file()
    first.close()
    assert PLAIN == second.read()
    second.close()
    assert reader.closed
    assert 0 == descriptors(path)
    with pytest.raises(ValueError, match="closed"):
        reader.file()


@pytest.mark.anyio
async def test_file_closes_its_reader_awaited(path: Path) -> None:
    """The same for the other face, which had nothing to close at all."""
    async with (await aopened(path)).file() as file:
        assert PLAIN[:9] == await file.read(9)
    await file.aclose()
    assert file.closed
    assert 0 == descriptors(path)
    async with await aopened(path) as reader:
        async with reader.file() as file:
            assert PLAIN == await file.read()
        assert PLAIN == await reader.read_range(0)
    reader = await aopened(path)
    first, second = reader.file(), reader.file()
    await first.aclose()
    assert PLAIN == await second.read()
    await second.aclose()
    assert reader.closed
    assert 0 == descriptors(path)


def test_file_of_a_bucket_reader_closes_it() -> None:
    """Over S3 no descriptor leaks, but the keys would stay."""
    source = MemorySource(seal_bytes(PLAIN, KEY))
    reader = BucketReader(anyio.run(anyseal.ObjectReader.open, source, KEY))
    reader.file().close()
    assert reader.closed
    with BucketReader(anyio.run(anyseal.ObjectReader.open, source, KEY)) as reader:
        reader.file().close()
        assert PLAIN == reader.read_range(0)


CALLS: dict[str, Callable[[Any], Any]] = {
    "read": lambda file: file.read(),
    "read 1": lambda file: file.read(1),
    "readinto": lambda file: file.readinto(bytearray(2)),
    "seek": lambda file: file.seek(0),
    "tell": lambda file: file.tell(),
    "write": lambda file: file.write(b"x"),
    "truncate": lambda file: file.truncate(0),
    "fileno": lambda file: file.fileno(),
    "readable": lambda file: file.readable(),
    "seekable": lambda file: file.seekable(),
    "writable": lambda file: file.writable(),
    "seek 1.5": lambda file: file.seek(1.5),
    "seek text": lambda file: file.seek("1"),
    "seek None": lambda file: file.seek(None),
    "seek whence 1.0": lambda file: file.seek(0, 1.0),
    "seek whence 7": lambda file: file.seek(0, 7),
    "seek before": lambda file: file.seek(-1),
    "read 1.5": lambda file: file.read(1.5),
    "read text": lambda file: file.read("1"),
    "read None": lambda file: file.read(None),
    "readinto bytes": lambda file: file.readinto(b"xx"),
    "readinto text": lambda file: file.readinto("xx"),
}


class Twin(io.RawIOBase):
    """What ``io`` itself does: a raw file that can only be read, and says no more."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._inner = io.BytesIO(data)

    def readable(self) -> bool:
        self._checkClosed()  # type: ignore[attr-defined]
        return True

    def seekable(self) -> bool:
        self._checkClosed()  # type: ignore[attr-defined]
        return True

    def readinto(self, buffer: Any) -> int:
        self._checkClosed()  # type: ignore[attr-defined]
        return self._inner.readinto(buffer)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._checkClosed()  # type: ignore[attr-defined]
        return self._inner.seek(offset, whence)

    def tell(self) -> int:
        self._checkClosed()  # type: ignore[attr-defined]
        return self._inner.tell()


def kind(call: Callable[[Any], Any], file: Any) -> object:
    """What the call returns, or the kind of its error."""
    try:
        return call(file)
    except (io.UnsupportedOperation, TypeError, ValueError) as error:
        return type(error)


def raw_file(reader: Any) -> Any:
    """The file below the buffer."""
    return reader.file().detach()


@pytest.mark.parametrize("face", ["buffered", "raw", "awaited"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_file_behaves_as_io_says(path: Path, call: Callable[[Any], Any], face: str) -> None:
    """Programs that take files rely on the kinds of errors."""
    twin = io.BufferedReader(Twin(PLAIN))
    if face == "awaited":
        assert kind(call, twin) == anyio.run(awaited, call, path, "open")
        return
    with opened(path) as reader, reader.file() if face == "buffered" else raw_file(reader) as file:
        assert kind(call, twin) == kind(call, file)


@pytest.mark.parametrize("face", ["buffered", "raw", "awaited"])
@pytest.mark.parametrize("end", ["file", "reader"])
@pytest.mark.parametrize("name", [name for name in CALLS if " " not in name])
def test_file_closed_behaves_as_io_says(path: Path, name: str, end: str, face: str) -> None:
    """Whatever is asked of it; and a closed reader closes its files."""
    if face == "awaited":
        found = anyio.run(awaited, CALLS[name], path, end)
    else:
        with opened(path) as reader:
            file = reader.file() if face == "buffered" else raw_file(reader)
            (file if end == "file" else reader).close()
            found = kind(CALLS[name], file)
            file.close()
    if (name, face) == ("writable", "buffered"):  # which asks its raw file nothing
        assert found is False
    else:
        assert isinstance(found, type)
        assert issubclass(found, ValueError), "as UnsupportedOperation is"


async def awaited(call: Callable[[Any], Any], path: Path, end: str) -> object:
    """As ``kind``, of the other face."""
    async with await aopened(path) as reader:
        file = reader.file()
        if end != "open":
            await (file if end == "file" else reader).aclose()
        try:
            result = call(file)
            return await result if hasattr(result, "__await__") else result
        except (io.UnsupportedOperation, TypeError, ValueError) as error:
            return type(error)


def test_file_of_a_closed_reader_is_closed(path: Path) -> None:
    """Its keys are wiped. What is in the buffer of a buffered file may still be read, as of any."""
    reader = opened(path)
    file = reader.file()
    file.read(1)
    reader.close()
    assert file.closed
    with pytest.raises(ValueError, match="closed"):
        file.read()
    file.close()


# ---- Collected open ----------------------------------------------------------------------


def _reader_file(path: Path) -> Any:
    return opened(path).file()


def _collected(left: Any) -> None:
    """Forget it; the caller has it no more either."""
    del left
    gc.collect()


LEAKS: dict[str, Callable[[Path], Any]] = {
    "FileSource": FileSource,
    "FileSink": lambda path: FileSink(path.with_name("new")),
    "PartFile": lambda path: PartFile(path.with_name("new"), overwrite=False, durable=False),
    "sync reader": opened,
    "sync file": _reader_file,
    "HttpSource": lambda path: http_sources.HttpSource("http://localhost/x"),
    "BlockingHttpSource": lambda path: http_sources.BlockingHttpSource("http://localhost/x"),
}


@pytest.mark.parametrize("make", LEAKS.values(), ids=LEAKS)
def test_collected_open_is_warned_about(path: Path, make: Callable[[Path], Any]) -> None:
    """As files do: a descriptor that waits for the collector is a fault of the program."""
    with pytest.warns(ResourceWarning, match="unclosed"):
        _collected(make(path))
    assert 0 == descriptors(path)
    left = [name for name in names(path.parent) if name != "sealed"]
    assert ([".new.anyseal.part"] if make is LEAKS["PartFile"] else []) == left


@pytest.mark.anyio
async def test_collected_open_is_warned_about_awaited(path: Path) -> None:
    """The reader of the other face holds the same source."""
    with pytest.warns(ResourceWarning, match="unclosed FileSource"):
        _collected(await aopened(path))
    assert 0 == descriptors(path)


@pytest.fixture
def strict() -> Iterator[None]:
    """No warning at all."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
        gc.collect()


def test_closed_in_time_is_not_warned_about(strict: None, path: Path) -> None:
    """Nor a client that is the caller's, nor what could not be opened."""
    FileSource(path).close()
    FileSink(path.with_name("new")).abort()
    sink = FileSink(path.with_name("new"))
    sink.commit(0)
    client = httpx.Client()
    http_sources.BlockingHttpSource("http://localhost/x", client)
    client.close()
    http_sources.BlockingHttpSource("http://localhost/x").close()
    for missing in (FileSource, FileSink):
        with pytest.raises(FileNotFoundError):
            missing(path.parent / "nowhere" / "x")
    with pytest.raises(anyseal.WrongKeyError):
        sync.ObjectReader.open(FileSource(path), a_key("other"))


CLOSED: dict[str, Callable[[Any], Any]] = {
    "pread_ends": lambda it: it.pread_ends(1, 1),
    "pread_into": lambda it: it.pread_into(0, memoryview(bytearray(1))),
    "check_unchanged": lambda it: it.check_unchanged(),
    "pwrite": lambda it: it.pwrite(0, memoryview(b"x")),
    "commit": lambda it: it.commit(1),
}


@pytest.mark.parametrize("kind", ["source", "sink"])
@pytest.mark.parametrize("name", CLOSED)
def test_closed_sources_and_sinks_say_so(path: Path, kind: str, name: str) -> None:
    """Not that a descriptor is bad; nor, worse, do they use another file that got its number."""
    if kind == "source":
        closed: Any = FileSource(path)
        closed.close()
    else:
        closed = FileSink(path.with_name("new"))
        closed.abort()
    if hasattr(closed, name):
        with pytest.raises(ValueError, match="closed"):
            CLOSED[name](closed)
