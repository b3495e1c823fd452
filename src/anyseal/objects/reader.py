"""ObjectReader: open any byte range of a sealed object, and verify what is read before release."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

import anyio
import anyio.lowlevel

from anyseal import offload
from anyseal._ffi import ffi, lib, view_writable
from anyseal.config import STEP_BYTES
from anyseal.errors import DecryptionError, FormatError
from anyseal.keys import Key
from anyseal.objects.chunks import SegmentKey, open_run
from anyseal.objects.format import HEADER_MAX_BYTES, Header, ObjectInfo, ObjectKeys, Trailer
from anyseal.objects.geometry import SALT_BYTES, TRAILER_FIXED_BYTES, Run
from anyseal.objects.sealer import unit_bytes
from anyseal.objects.writer import check_context
from anyseal.ports import BlockingSource, Ends, Keyring, Source, named_key, resolve_partition
from anyseal.suites import INLINE_BYTES

__all__ = ["ObjectFile", "ObjectReader", "OpenedObject", "ReaderBase", "fresh_bytes", "opening"]

TAIL_BYTES = 4096
"""Read at the end at once: the trailer of up to 253 segments (16 GiB in segments of 64 MiB)."""

SEGMENT_KEYS_MAX = 64


def fresh_bytes(size: int) -> tuple[bytes, memoryview]:
    """A new bytes object and a writable view to fill it through, before anybody else sees it.

    CPython shares bytes objects of length 0 and 1: *size* must be at least 2.
    """
    result = bytes(size)
    return result, memoryview(ffi.buffer(ffi.from_buffer("uint8_t[]", result)))


@dataclass(frozen=True, slots=True)
class NeedEnds:
    """Read the first and last bytes; answered with Ends."""

    head: int
    tail: int


@dataclass(frozen=True, slots=True)
class NeedKey:
    """Find the key that the object names; answered with a Key."""

    key_id: bytes


@dataclass(frozen=True, slots=True)
class NeedBytes:
    """Read a range of the source; answered with bytes."""

    offset: int
    length: int


Need: TypeAlias = NeedEnds | NeedKey | NeedBytes


@dataclass(frozen=True, slots=True)
class Part:
    """What one job reads: the plaintext bytes of *run* from *start* to *stop*."""

    run: Run
    start: int
    stop: int


class OpenedObject:
    """A verified header and trailer, and the keys of its segments."""

    def __init__(self, keys: ObjectKeys, trailer: Trailer) -> None:
        self.keys = keys
        self.geometry = keys.geometry
        self.suite = keys.header.suite
        self.size = trailer.size
        self._salts = trailer.salts
        self._segments: OrderedDict[int, SegmentKey] = OrderedDict()
        self._lock = threading.Lock()

    def _salt(self, segment: int) -> bytes:
        return self._salts[segment * SALT_BYTES : (segment + 1) * SALT_BYTES]

    def _segment(self, segment: int) -> SegmentKey:
        with self._lock:
            key = self._segments.get(segment)
            if key is None:
                slot = self.keys.segment_key(segment, self._salt(segment))
                key = SegmentKey(slot, self.suite, self.geometry.chunk_bytes)
                self._segments[segment] = key
                if len(self._segments) > SEGMENT_KEYS_MAX:
                    self._segments.popitem(last=False)
            else:
                self._segments.move_to_end(segment)
            return key

    def release(self) -> None:
        """Wipe all keys; what is being read meanwhile fails with KeyUseError."""
        with self._lock:
            while self._segments:
                self._segments.popitem()[1].release()
        self.keys.release()

    def parts(self, start: int, stop: int, limit: int | None = None) -> Iterator[Part]:
        """The jobs that read plaintext *start* to *stop*."""
        limit = unit_bytes(stop - start, self.geometry.chunk_bytes) if limit is None else limit
        for run in self.geometry.runs(start, stop, self.size, limit):
            yield Part(run, max(start, run.start), min(stop, run.stop))

    def open_part(self, part: Part, sealed: Any, out: memoryview) -> None:
        """Open *sealed*, the ciphertext of the part's run, and put its bytes into *out*.

        Raises:
            DecryptionError: Something does not verify; *out* is wiped.
        """
        run, sealed = part.run, memoryview(sealed)
        if run.first == 0:
            inline, sealed = bytes(sealed[:SALT_BYTES]), sealed[SALT_BYTES:]
            if not lib.anyseal_equal(inline, self._salt(run.segment), SALT_BYTES):
                raise DecryptionError
        key = self._segment(run.segment)
        if part.start == run.start and part.stop == run.stop:
            open_run(key, run.first, sealed, out)
            return
        with offload.buffers().lease(run.size) as scratch:
            try:
                open_run(key, run.first, sealed, scratch)
                out[:] = scratch[part.start - run.start : part.stop - run.start]
            finally:
                lib.anyseal_wipe(view_writable(scratch), len(scratch))

    def read_part(self, source: BlockingSource, part: Part, out: memoryview) -> int:
        """Read and open one part from a local source, a step at a time. Any thread."""
        if source.window(part.run.offset, part.run.length) is not None:
            steps = iter((part,))
        else:
            steps = self.parts(part.start, part.stop, STEP_BYTES)
        for step in steps:
            run = step.run
            piece = out[step.start - part.start : step.stop - part.start]
            sealed = source.window(run.offset, run.length)
            if sealed is not None:
                self.open_part(step, sealed, piece)
                continue
            with offload.buffers().lease(run.length) as buffer:
                source.pread_into(run.offset, buffer)
                self.open_part(step, buffer, piece)
        return part.stop - part.start

    def verify_part(self, source: BlockingSource, part: Part) -> int:
        """Read and open one part, and keep nothing of it."""
        for step in self.parts(part.start, part.stop, STEP_BYTES):
            with offload.buffers().lease(step.run.size) as scratch:
                try:
                    self.read_part(source, step, scratch)
                finally:
                    lib.anyseal_wipe(view_writable(scratch), len(scratch))
        return part.stop - part.start


def opening(context: bytes) -> Generator[Need, Any, OpenedObject]:
    """Open an object: yields what it needs to know next, returns the verified object."""
    ends: Ends = yield NeedEnds(HEADER_MAX_BYTES, TAIL_BYTES)
    header = Header.parse(ends.head)
    geometry = header.geometry
    if ends.size < geometry.header_bytes + TRAILER_FIXED_BYTES:
        raise FormatError("cut short in the trailer")
    key: Key = yield NeedKey(header.key_id)
    keys = ObjectKeys.unlock(header, key, context)
    length = Trailer.length(ends.tail, geometry, ends.size)
    tail = ends.tail[-length:]
    if length > len(ends.tail):
        tail = bytes((yield NeedBytes(ends.size - length, length)))
    trailer = Trailer.parse(tail)
    keys.check_trailer(trailer)
    return OpenedObject(keys, trailer)


class ReaderBase:
    """What both readers share."""

    def __init__(self, source: Any, opened: OpenedObject) -> None:
        self._source = source
        self._object = opened
        self._closed = False

    @property
    def size(self) -> int:
        """Plaintext bytes, authenticated."""
        return self._object.size

    @property
    def info(self) -> ObjectInfo:
        """Suite, key id and sizes."""
        header = self._object.keys.header
        geometry = self._object.geometry
        return ObjectInfo(
            suite=header.suite,
            key_id=header.key_id,
            chunk_bytes=geometry.chunk_bytes,
            segment_bytes=geometry.segment_bytes,
            header_bytes=geometry.header_bytes,
        )

    @property
    def opened(self) -> OpenedObject:
        """The verified object behind the reader."""
        return self._object

    def _bounds(self, start: int, stop: int | None) -> tuple[int, int]:
        """Check a range and cut it to the object."""
        if self._closed:
            raise ValueError("the reader is closed")
        for name, value in (("start", start), ("stop", stop)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise TypeError(f"{name} must be int, not {type(value).__name__}")
        stop = self.size if stop is None else min(stop, self.size)
        if start < 0 or stop < 0:
            raise ValueError("start and stop count from the beginning: they must not be negative")
        return min(start, self.size), max(stop, min(start, self.size))

    def _end(self) -> bool:
        """Wipe the keys; whether this was the first time."""
        if self._closed:
            return False
        self._closed = True
        self._object.release()
        return True


async def _close(source: Source | BlockingSource) -> None:
    if isinstance(source, BlockingSource):
        source.close()
    else:
        await source.aclose()


def _wiped(out: memoryview) -> None:
    lib.anyseal_wipe(view_writable(out), len(out))


class ObjectReader(ReaderBase):
    """Read a sealed object: any range, verified before it is released.

    Made by ``await ObjectReader.open(...)``; close it, or use it as an async context manager.
    Several tasks may read at once.
    """

    @classmethod
    async def open(
        cls,
        source: Source | BlockingSource,
        keyring: Key | Keyring,
        *,
        partition: str | None = None,
        context: bytes = b"",
    ) -> Self:
        """Read and verify an object's header and trailer.

        Args:
            source: A FileSource, MemorySource, HttpSource, or anything with their methods. The
                reader closes it, at once if it cannot be opened.
            keyring: The Key it was sealed under, or a Keyring together with *partition*.
            partition: As when sealing.
            context: As when sealing.

        Raises:
            FormatError: Not a sealed object, cut, extended, or of an unknown version.
            WrongKeyError: The key id is unknown under this partition.
            DecryptionError: It does not verify: altered, or another context.
            SourceError: The source did not give the bytes.

        Cost: two reads, of 200 bytes and 4 KiB (more only beyond 253 segments).
        """
        try:
            context = check_context(context)
            name = resolve_partition(keyring, partition)
            flow = opening(context)
            need = next(flow)
            while True:
                need = flow.send(await cls._answer(source, keyring, name, need))
        except StopIteration as stop:
            return cls(source, stop.value)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await _close(source)
            raise

    @staticmethod
    async def _answer(source: Any, keyring: Any, partition: str, need: Need) -> Any:
        if isinstance(need, NeedKey):
            return await named_key(keyring, partition, need.key_id)
        if isinstance(source, BlockingSource):
            if getattr(source, "blocks", True):
                return await offload.run(answer_blocking, source, need)
            return answer_blocking(source, need)
        if isinstance(need, NeedEnds):
            return await source.ends(need.head, need.tail)
        return await source.read(need.offset, need.length)

    async def _read(self, part: Part, out: memoryview) -> None:
        """One part from a source that awaits."""
        sealed = await self._source.read(part.run.offset, part.run.length)
        if part.run.size <= INLINE_BYTES[self._object.suite]:
            self._object.open_part(part, sealed, out)
        else:
            await offload.run(self._object.open_part, part, sealed, out)

    async def _fill(self, start: int, out: memoryview) -> None:
        """Fill *out* from plaintext *start*; wiped if anything fails."""
        parts = self._object.parts(start, start + len(out))
        try:
            if isinstance(self._source, BlockingSource):
                source = self._source
                jobs = ((part, out[part.start - start : part.stop - start]) for part in parts)
                if len(out) <= INLINE_BYTES[self._object.suite] and not getattr(
                    source, "blocks", True
                ):
                    for part, piece in jobs:
                        self._object.read_part(source, part, piece)
                    return
                await offload.each(lambda *job: self._object.read_part(source, *job), jobs)
            else:
                for part in parts:
                    await self._read(part, out[part.start - start : part.stop - start])
        except BaseException:
            _wiped(out)
            raise

    async def read_range(self, start: int, stop: int | None = None) -> bytes:
        """The plaintext bytes from *start* to *stop*, like a slice: cut at the object's end.

        Args:
            start: First byte, from 0.
            stop: After the last byte. Default: the end.

        Raises:
            DecryptionError: A chunk does not verify. Nothing is returned.
            SourceError: The source did not give the bytes, or changed.
            ValueError: A negative position, or the reader is closed.

        Cost: reads the chunks that the range touches, at most two more than it fills.
        """
        start, stop = self._bounds(start, stop)
        if stop - start < 2:
            small = bytearray(stop - start)
            if small:
                await self._fill(start, memoryview(small))
            return bytes(small)
        result, out = fresh_bytes(stop - start)
        await self._fill(start, out)
        return result

    async def read_into(self, start: int, buffer: Any) -> int:
        """Fill *buffer* from *start*, as :meth:`read_range`; wiped if it does not verify.

        Returns:
            The bytes read: less than ``len(buffer)`` only at the object's end.
        """
        view_writable(buffer)
        out = memoryview(buffer).cast("B")
        start, stop = self._bounds(start, start + len(out))
        if stop > start:
            await self._fill(start, out[: stop - start])
        return stop - start

    async def stream(
        self, start: int = 0, stop: int | None = None, *, piece_size: int = 1 << 20
    ) -> AsyncIterator[bytes]:
        """The plaintext bytes from *start* to *stop* in verified pieces.

        Args:
            start: First byte.
            stop: After the last byte. Default: the end.
            piece_size: Bytes per piece, about; all but the first and last end at a multiple of it.
        """
        if piece_size < 1:
            raise ValueError("piece_size must be positive")
        at, stop = self._bounds(start, stop)
        while at < stop:
            end = min(stop, (at // piece_size + 1) * piece_size)
            yield await self.read_range(at, end)
            at = end

    async def verify(self) -> None:
        """Read and verify the whole object. Raises DecryptionError where it does not verify."""
        start, stop = self._bounds(0, None)
        parts = self._object.parts(start, stop)
        if isinstance(self._source, BlockingSource):
            source = self._source
            jobs = ((source, part) for part in parts)
            await offload.each(self._object.verify_part, jobs)
            return
        for part in parts:
            with offload.buffers().lease(part.run.size) as scratch:
                try:
                    await self._read(part, scratch)
                finally:
                    _wiped(scratch)

    def file(self) -> ObjectFile:
        """A seekable file-like view with ``await read(n)``."""
        return ObjectFile(self)

    async def aclose(self) -> None:
        """Close the source and wipe the keys. Idempotent."""
        if self._end():
            await _close(self._source)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.aclose()


class ObjectFile:
    """A seekable view of a reader's plaintext; the methods of a binary file, awaited."""

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader
        self._position = 0

    async def read(self, size: int = -1) -> bytes:
        """Up to *size* bytes from the position, or all to the end; empty at the end."""
        stop = None if size is None or size < 0 else self._position + size
        data = await self._reader.read_range(self._position, stop)
        self._position += len(data)
        return data

    async def readinto(self, buffer: Any) -> int:
        """Fill *buffer* from the position; returns the bytes read."""
        count = await self._reader.read_into(self._position, buffer)
        self._position += count
        return count

    async def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; returns it."""
        self._position = seek_position(self._position, self._reader.size, offset, whence)
        return self._position

    async def tell(self) -> int:
        """The position."""
        return self._position


def seek_position(position: int, size: int, offset: int, whence: int) -> int:
    """Where a seek leads; as for binary files."""
    base = {io.SEEK_SET: 0, io.SEEK_CUR: position, io.SEEK_END: size}.get(whence)
    if base is None:
        raise ValueError(f"whence must be 0, 1 or 2, not {whence!r}")
    if base + offset < 0:
        raise ValueError("a position before the beginning")
    return base + offset


def answer_blocking(source: BlockingSource, need: Need) -> Any:
    """Answer what a local source can answer."""
    if isinstance(need, NeedEnds):
        return source.pread_ends(need.head, need.tail)
    if isinstance(need, NeedBytes):
        buffer = bytearray(need.length)
        source.pread_into(need.offset, memoryview(buffer))
        return bytes(buffer)
    raise TypeError(need)
