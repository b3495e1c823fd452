"""Values too large for an entry: a sealed object in pieces, and an entry that says where it is.

The object is written under a temporary name; one step of the backend renames it and stores the
entry. Its context holds a random id that the entry carries, so an entry never opens with another
object than its own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from anyseal import offload
from anyseal.cache.entry import LARGE, OBJECT, RAW, TEMPORARY, VALUE, Entry
from anyseal.errors import FormatError, SourceChangedError
from anyseal.pages import Growing
from anyseal.ports import Ends

__all__ = [
    "PIECE_BYTES",
    "BlockingPieceSink",
    "BlockingPieces",
    "GuardedRanges",
    "PieceSink",
    "Pieces",
    "Staged",
    "Whereabouts",
    "object_name",
    "temporary_name",
]

PIECE_BYTES = 1 << 20
TEMPORARY_TTL_MS = 120_000
"""A piece must follow the one before it within this time, or the object is given up."""

ID_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """What an entry of kind LARGE holds."""

    kind: int
    """Of the value: VALUE or RAW."""
    sealed_size: int
    id: bytes

    @classmethod
    def fresh(cls, kind: int) -> Whereabouts:
        """For an object that is yet to be written."""
        return cls(kind=kind, sealed_size=0, id=os.urandom(ID_BYTES))

    def written(self, sealed_size: int) -> Whereabouts:
        """The same for an object of this size."""
        return Whereabouts(kind=self.kind, sealed_size=sealed_size, id=self.id)

    def to_bytes(self) -> bytes:
        """The payload of the entry."""
        return bytes((self.kind,)) + self.sealed_size.to_bytes(8) + self.id

    @classmethod
    def of(cls, entry: Entry) -> Whereabouts:
        """What *entry* says. Raises FormatError."""
        data = bytes(entry.payload)
        if entry.kind != LARGE or len(data) != 9 + ID_BYTES or data[0] not in (VALUE, RAW):
            raise FormatError("not an entry of a cache")
        return cls(kind=data[0], sealed_size=int.from_bytes(data[1:9]), id=data[9:])

    @property
    def what(self) -> bytes:
        """What the object's context says beside partition and key."""
        return b"object" + bytes((self.kind,)) + self.id


def temporary_name(name: str) -> str:
    """A name beside *name* that nobody else writes to."""
    return f"{name}{TEMPORARY}{os.urandom(8).hex()}"


def object_name(name: str) -> str:
    """Where the object of the entry under *name* is."""
    return name + OBJECT


@dataclass(frozen=True, slots=True)
class Staged:
    """An object under a temporary name, which is published together with its entry."""

    backend: Any
    temporary: str
    final: str

    def publish(self, guard: Any, name: str, sealed: bytes, ttl_ms: int | None) -> Any:
        """Rename the object and store *sealed* under *name*, in one step; what *guard* returns."""
        publish = self.backend.publish
        return guard.write(publish, self.temporary, self.final, name, sealed, ttl_ms=ttl_ms)


class GuardedRanges:
    """A ranged backend, each call of which goes through a cache's guard: its time and its breaker.

    For both sides: it returns what the guard returns.
    """

    def __init__(self, backend: Any, guard: Any) -> None:
        self._backend = backend
        self._guard = guard

    def put_range(self, *args: Any, **options: Any) -> Any:
        return self._guard.write(self._backend.put_range, *args, **options)

    def get_range(self, *args: Any) -> Any:
        return self._guard.read(self._backend.get_range, *args)

    def delete_many(self, *args: Any) -> Any:
        return self._guard.delete(self._backend.delete_many, *args)


class _Buffered:
    """Cuts what is written into pieces of at most PIECE_BYTES."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._offset = 0

    def _filled(self, data: memoryview) -> list[tuple[int, bytes]]:
        """Take *data*; the pieces that are full now."""
        pieces = []
        while len(data):
            room = PIECE_BYTES - len(self._buffer)
            if not self._buffer and len(data) >= room:
                pieces.append((self._offset, bytes(data[:room])))
                self._offset += room
            else:
                self._buffer += data[:room]
                if len(self._buffer) == PIECE_BYTES:
                    pieces.append(self._taken())
            data = data[room:]
        return pieces

    def _taken(self) -> tuple[int, bytes]:
        piece = (self._offset, bytes(self._buffer))
        self._offset += len(self._buffer)
        self._buffer.clear()
        return piece


class PieceSink(_Buffered):
    """A sink for ObjectWriter: pieces of a value under a temporary name."""

    def __init__(self, backend: GuardedRanges, name: str) -> None:
        super().__init__()
        self._backend = backend
        self._name = name

    async def write(self, data: memoryview) -> None:
        for offset, piece in self._filled(data):
            await self._put(offset, piece)
            await offload.breathe(len(piece))

    async def _put(self, offset: int, piece: bytes) -> None:
        await self._backend.put_range(self._name, offset, piece, ttl_ms=TEMPORARY_TTL_MS)

    async def commit(self) -> None:
        if self._buffer:
            await self._put(*self._taken())

    async def abort(self) -> None:
        await self._backend.delete_many([self._name])


class BlockingPieceSink(_Buffered):
    """The same for the sync ObjectWriter."""

    def __init__(self, backend: GuardedRanges, name: str) -> None:
        super().__init__()
        self._backend = backend
        self._name = name

    def append(self, data: memoryview) -> None:
        for offset, piece in self._filled(data):
            self._put(offset, piece)

    def _put(self, offset: int, piece: bytes) -> None:
        self._backend.put_range(self._name, offset, piece, ttl_ms=TEMPORARY_TTL_MS)

    def commit(self, size: int) -> None:
        if self._buffer:
            self._put(*self._taken())

    def abort(self) -> None:
        self._backend.delete_many([self._name])


def _check_piece(piece: bytes, wanted: int) -> None:
    if len(piece) != wanted:
        raise SourceChangedError("the object went, or was replaced, while it was read")


class Pieces:
    """A source for ObjectReader: an object of known size in a backend."""

    concurrency = 2
    request_bytes = PIECE_BYTES - (64 << 10)
    """Of plaintext: with its tags it is one piece."""

    def __init__(self, backend: GuardedRanges, name: str, size: int) -> None:
        self._backend = backend
        self._name = name
        self._size = size

    async def ends(self, head: int, tail: int) -> Ends:
        head, tail = min(head, self._size), min(tail, self._size)
        first = await self.read(0, head)
        last = await self.read(self._size - tail, tail)
        return Ends(size=self._size, head=bytes(first), tail=bytes(last))

    async def read(self, offset: int, length: int) -> bytes | bytearray:
        if length <= PIECE_BYTES:
            piece: bytes = await self._backend.get_range(self._name, offset, length)
            _check_piece(piece, length)
            return piece
        found = Growing()
        while len(found) < length:
            wanted = min(PIECE_BYTES, length - len(found))
            piece = await self._backend.get_range(self._name, offset + len(found), wanted)
            _check_piece(piece, wanted)
            found.write(len(found), piece)
            await offload.breathe(wanted)
        return found.read()

    async def aclose(self) -> None:
        pass


class BlockingPieces:
    """The same for the sync ObjectReader."""

    def __init__(self, backend: GuardedRanges, name: str, size: int) -> None:
        self._backend = backend
        self._name = name
        self._size = size

    def pread_ends(self, head: int, tail: int) -> Ends:
        head, tail = min(head, self._size), min(tail, self._size)
        ends = bytearray(head + tail)
        self.pread_into(0, memoryview(ends)[:head])
        self.pread_into(self._size - tail, memoryview(ends)[head:])
        return Ends(size=self._size, head=bytes(ends[:head]), tail=bytes(ends[head:]))

    def pread_into(self, offset: int, buffer: memoryview) -> None:
        at = 0
        while at < len(buffer):
            wanted = min(PIECE_BYTES, len(buffer) - at)
            piece = self._backend.get_range(self._name, offset + at, wanted)
            _check_piece(piece, wanted)
            buffer[at : at + wanted] = piece
            at += wanted

    def window(self, offset: int, length: int) -> Any:
        return None

    def close(self) -> None:
        pass
