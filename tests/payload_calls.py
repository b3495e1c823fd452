"""Calls of every public awaitable that takes or gives a payload.

``test_event_loop.py`` counts their page faults; ``bench/loop.py`` measures them beside a ticker.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import anyseal
from anyseal import (
    FileSource,
    Key,
    KeyHierarchy,
    MemorySink,
    MemorySource,
    ObjectReader,
    ObjectWriter,
    SessionFactory,
    StreamOpener,
    StreamSink,
)  # fmt: skip
from anyseal.cache import EncryptionWrapper
from anyseal.kms import StaticKms
from anyseal.metastore import MemoryMetastore

__all__ = [
    "CASES",
    "MASTER",
    "NAMES",
    "PICKLED",
    "Bed",
    "Case",
    "Work",
    "case",
    "drained",
]

MIB = 1 << 20
MASTER = "ab" * 32
NAMES = itertools.count()
"""So that no two beds have the names of one."""


@dataclass(kw_only=True)
class Bed:
    """Payloads of one size, keys, and places for what is stored."""

    size: int
    folder: Path
    servers: dict[str, Any] = field(default_factory=dict)
    """Addresses of servers that run: ``redis``, ``http``; ``s3`` is a client for SealedBucket."""

    @cached_property
    def data(self) -> bytes:
        return bytes(range(256)) * (self.size // 256)

    @cached_property
    def text(self) -> str:
        return "".join(map(chr, range(32, 96))) * (self.size // 64)

    @cached_property
    def other_text(self) -> str:
        """Of as many bytes in UTF-8."""
        return "žluť 🐎 " * (self.size // 12)

    @cached_property
    def value(self) -> list[dict[str, Any]]:
        """About so many bytes of small dicts."""
        count = self.size // 50
        return [{"id": n, "name": f"user {n:08}", "score": n / 7, "on": True} for n in range(count)]

    @cached_property
    def key(self) -> Key:
        return Key.generate()

    @cached_property
    def room(self) -> bytearray:
        """For a sealed or an opened payload."""
        room = bytearray(self.size + self.size // 64 + 4096)
        memoryview(room)[::4096][:] = bytes(len(room[::4096]))
        return room

    def path(self, what: str) -> Path:
        return self.folder / f"{what}-{next(NAMES)}"

    @property
    def roomy(self) -> int:
        return 8 * self.size + (64 << 20)


Work = Callable[[], Awaitable[object]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call. ``make`` prepares it and gives what is awaited, as often as one likes."""

    name: str
    covers: tuple[str, ...]
    make: Callable[[Bed], contextlib.AbstractAsyncContextManager[Work]]
    needs: str = ""
    """The server that it wants."""

    payload: str = "bytes"
    """``bytes``, ``text``, ``other text`` (which is not ASCII) or ``value``."""

    often: bool = True
    """Whether it tells something that its neighbours do not."""

    unbounded: str = ""
    """Why the loop stands still all the same, if it does."""


CASES: list[Case] = []

PICKLED = "a pickle or a message of the peer's format is made of the whole value at once"


def case(name: str, *covers: str, **options: Any) -> Callable[[Any], Any]:
    """Add an async generator, which yields the call, to the cases."""

    def add(function: Any) -> Any:
        make = contextlib.asynccontextmanager(function)
        CASES.append(Case(name=name, covers=covers, make=make, **options))
        return function

    return add


# ---- values, objects, files


@case("seal", "anyseal.seal")
async def _seal(bed: Bed) -> AsyncIterator[Work]:
    yield lambda: anyseal.seal(bed.data, bed.key)


@case("open", "anyseal.open")
async def _open(bed: Bed) -> AsyncIterator[Work]:
    sealed = await anyseal.seal(bed.data, bed.key)
    yield lambda: anyseal.open(sealed, bed.key)


@case("open of a view", "anyseal.open")
async def _open_view(bed: Bed) -> AsyncIterator[Work]:
    sealed = memoryview(await anyseal.seal(bed.data, bed.key))
    yield lambda: anyseal.open(sealed, bed.key)


@case("seal_into", "anyseal.seal_into")
async def _seal_into(bed: Bed) -> AsyncIterator[Work]:
    yield lambda: anyseal.seal_into(bed.room, bed.data, bed.key)


@case("open_into", "anyseal.open_into")
async def _open_into(bed: Bed) -> AsyncIterator[Work]:
    sealed = await anyseal.seal(bed.data, bed.key)
    yield lambda: anyseal.open_into(bed.room, sealed, bed.key)


@case("EncryptionWrapper.aencode", "anyseal.cache.EncryptionWrapper.aencode")
async def _aencode(bed: Bed) -> AsyncIterator[Work]:
    wrapper = EncryptionWrapper(bed.key, codec="raw")
    yield lambda: wrapper.aencode(bed.data, "name")


@case("EncryptionWrapper.aencode of a view", "anyseal.cache.EncryptionWrapper.aencode")
async def _aencode_view(bed: Bed) -> AsyncIterator[Work]:
    wrapper, data = EncryptionWrapper(bed.key, codec="raw"), memoryview(bed.data)
    yield lambda: wrapper.aencode(data, "name")


@case("EncryptionWrapper.adecode", "anyseal.cache.EncryptionWrapper.adecode")
async def _adecode(bed: Bed) -> AsyncIterator[Work]:
    wrapper = EncryptionWrapper(bed.key, codec="raw")
    sealed = await wrapper.aencode(bed.data, "name")
    yield lambda: wrapper.adecode(sealed, "name")


async def _written(bed: Bed, sink: Any, data: Any = None) -> Any:
    async with ObjectWriter(sink, bed.key) as writer:
        await writer.write(bed.data if data is None else data)
    return sink


@case("ObjectWriter", "anyseal.ObjectWriter.write", "anyseal.ObjectWriter.finish")
async def _writer(bed: Bed) -> AsyncIterator[Work]:
    yield lambda: _written(bed, MemorySink())


@case("ObjectWriter into a buffer", "anyseal.ObjectWriter.write")
async def _writer_buffer(bed: Bed) -> AsyncIterator[Work]:
    yield lambda: _written(bed, MemorySink(bed.room))


@case("ObjectWriter to a stream", "anyseal.StreamSink.write")
async def _writer_stream(bed: Bed) -> AsyncIterator[Work]:
    async def send(data: bytes) -> None:
        pass

    yield lambda: _written(bed, StreamSink(send))


async def _sealed(bed: Bed) -> bytes:
    sink: MemorySink = await _written(bed, MemorySink())
    return sink.getvalue()


class Slow:
    """A source that awaits and copies nothing."""

    def __init__(self, data: bytes) -> None:
        self._source = MemorySource(data)

    async def ends(self, head: int, tail: int) -> Any:
        return self._source.pread_ends(head, tail)

    async def read(self, offset: int, length: int) -> Any:
        return self._source.window(offset, length)

    async def aclose(self) -> None:
        pass


def _reading(
    source: Callable[[bytes], Any], call: Callable[[Bed, ObjectReader], Awaitable[object]]
) -> Callable[[Bed], AsyncIterator[Work]]:
    async def reading(bed: Bed) -> AsyncIterator[Work]:
        sealed = await _sealed(bed)
        async with await ObjectReader.open(source(sealed), bed.key) as reader:
            yield lambda: call(bed, reader)

    return reading


async def drained(pieces: AsyncIterator[Any]) -> None:
    async for _ in pieces:
        pass


for _source in (MemorySource, Slow):
    for _name, _covers, _call in (
        ("read_range", "ObjectReader.read_range", lambda bed, reader: reader.read_range(0)),
        ("read_into", "ObjectReader.read_into", lambda bed, reader: reader.read_into(0, bed.room)),
        ("stream", "ObjectReader.stream", lambda bed, reader: drained(reader.stream())),
        ("verify", "ObjectReader.verify", lambda bed, reader: reader.verify()),
        ("file().read", "ObjectFile.read", lambda bed, reader: reader.file().read()),
        ("file().readinto", "ObjectFile.readinto",
         lambda bed, reader: reader.file().readinto(bed.room)),
    ):  # fmt: skip
        _what = "" if _source is MemorySource else " of a source that awaits"
        _often = _source is MemorySource or _name in ("read_range", "stream")
        case(f"reader.{_name}{_what}", f"anyseal.{_covers}", often=_often)(_reading(_source, _call))


@case("ObjectReader of a file", "anyseal.FileSource.aopen", "anyseal.ObjectReader.open")
async def _read_file(bed: Bed) -> AsyncIterator[Work]:
    path = bed.path("object")
    path.write_bytes(await _sealed(bed))

    async def read() -> None:
        async with await ObjectReader.open(await FileSource.aopen(path), bed.key) as reader:
            await reader.read_range(0)

    yield read
    path.unlink()


@case("StreamOpener", "anyseal.StreamOpener.open")
async def _stream(bed: Bed) -> AsyncIterator[Work]:
    sealed = await _sealed(bed)

    async def pieces() -> AsyncIterator[memoryview]:
        for at in range(0, len(sealed), 1 << 18):
            yield memoryview(sealed)[at : at + (1 << 18)]

    yield lambda: drained(StreamOpener(bed.key).open(pieces()))


@case("StreamOpener of one piece", "anyseal.StreamOpener.open")
async def _stream_whole(bed: Bed) -> AsyncIterator[Work]:
    sealed = await _sealed(bed)

    async def pieces() -> AsyncIterator[bytes]:
        yield sealed

    yield lambda: drained(StreamOpener(bed.key).open(pieces()))


@case("seal_file", "anyseal.seal_file", "anyseal.FileSink.aopen")
async def _seal_file(bed: Bed) -> AsyncIterator[Work]:
    plain, target = bed.path("plain"), bed.path("target")
    plain.write_bytes(bed.data)
    yield lambda: anyseal.seal_file(plain, target, bed.key, overwrite=True)
    plain.unlink()
    target.unlink(missing_ok=True)


@case("open_file", "anyseal.open_file")
async def _open_file(bed: Bed) -> AsyncIterator[Work]:
    sealed, target = bed.path("sealed"), bed.path("target")
    sealed.write_bytes(await _sealed(bed))
    yield lambda: anyseal.open_file(sealed, target, bed.key, overwrite=True)
    sealed.unlink()
    target.unlink(missing_ok=True)


@case("rewrap_file", "anyseal.rewrap_file")
async def _rewrap_file(bed: Bed) -> AsyncIterator[Work]:
    path, ring = bed.path("rewrapped"), anyseal.StaticKeyring(MASTER)
    path.write_bytes(bed.data)
    await anyseal.seal_file(path, path.with_suffix(".s"), ring, partition="p")
    yield lambda: anyseal.rewrap_file(path.with_suffix(".s"), ring, partition="p")
    path.unlink()
    path.with_suffix(".s").unlink()


# ---- records


class Rows:
    """An application's rows."""

    def __init__(self) -> None:
        self.row: Any = None

    async def load(self, key: str) -> Any:
        return self.row

    async def store(self, key: str, row: str) -> None:
        self.row = row


@contextlib.asynccontextmanager
async def _session(partition: str = "partition") -> AsyncIterator[anyseal.Session]:
    hierarchy = KeyHierarchy(StaticKms(MASTER), MemoryMetastore(), service="s", product="p")
    async with SessionFactory(hierarchy) as factory:
        yield factory.session(partition)


def _records(
    call: Callable[[Bed, anyseal.Session, Any], Awaitable[object]],
    row: Callable[[Bed, anyseal.Session], Awaitable[Any]] | None = None,
    partition: str = "partition",
) -> Callable[[Bed], AsyncIterator[Work]]:
    async def records(bed: Bed) -> AsyncIterator[Work]:
        async with _session(partition) as session:
            given = None if row is None else await row(bed, session)
            yield lambda: call(bed, session, given)

    return records


async def _row(bed: Bed, session: anyseal.Session) -> str:
    return await session.encrypt(bed.data)


async def _row_bytes(bed: Bed, session: anyseal.Session) -> bytes:
    return await session.encrypt_row(bed.data)


async def _text_row(bed: Bed, session: anyseal.Session) -> str:
    return await session.encrypt_text(bed.text)


async def _other_text_row(bed: Bed, session: anyseal.Session) -> str:
    return await session.encrypt_text(bed.other_text)


async def _rows(bed: Bed, session: anyseal.Session) -> Rows:
    rows = Rows()
    await session.store("key", bed.data, rows)
    return rows


for _name, _payload, _row_of, _call in (
    ("encrypt", "bytes", None, lambda bed, session, row: session.encrypt(bed.data)),
    ("encrypt_row", "bytes", None, lambda bed, session, row: session.encrypt_row(bed.data)),
    ("encrypt_many", "bytes", None, lambda bed, session, row: session.encrypt_many([bed.data])),
    ("encrypt_text", "text", None, lambda bed, session, row: session.encrypt_text(bed.text)),
    ("encrypt_text", "other text", None,
     lambda bed, session, row: session.encrypt_text(bed.other_text)),
    ("decrypt", "bytes", _row, lambda bed, session, row: session.decrypt(row)),
    ("decrypt_row", "bytes", _row_bytes, lambda bed, session, row: session.decrypt_row(row)),
    ("decrypt_many", "bytes", _row, lambda bed, session, row: session.decrypt_many([row])),
    ("decrypt_text", "text", _text_row, lambda bed, session, row: session.decrypt_text(row)),
    ("decrypt_text", "other text", _other_text_row,
     lambda bed, session, row: session.decrypt_text(row)),
    ("store", "bytes", None, lambda bed, session, row: session.store("key", bed.data, Rows())),
    ("load", "bytes", _rows, lambda bed, session, rows: session.load("key", rows)),
):  # fmt: skip
    _covered = "decrypt" if _name == "decrypt_row" else _name  # one function, two names
    case(
        f"session.{_name}{' not ASCII' * (_payload == 'other text')}",
        f"anyseal.Session.{_covered}", payload=_payload,
    )(_records(_call, _row_of))  # fmt: skip
    if _payload == "bytes" and _name in ("encrypt", "encrypt_many", "decrypt", "store", "load"):
        case(
            f"session.{_name} in a partition not ASCII",
            f"anyseal.Session.{_name}", payload=_payload,
        )(_records(_call, _row_of, "mandant-ä"))  # fmt: skip
