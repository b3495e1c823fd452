"""Plaintext of any kind in, the sealed parts of one object out, one after the other.

One process seals the whole object, so a part in the bucket need not be a segment: parts are whole
runs of chunks of one long stream of header, segments and trailer.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from anyseal import offload
from anyseal.config import BYTES_LIKE, STEP_BYTES
from anyseal.objects.geometry import Geometry
from anyseal.objects.parts import OBJECT_MAX_BYTES, PART_MAX_BYTES, PART_MIN_BYTES, PARTS_MAX
from anyseal.objects.sealer import Job, Piece, Sealer, bytes_view, unit_bytes
from anyseal.objects.sources import FileSource
from anyseal.pages import fresh_bytes
from anyseal.s3.body import checksum_of
from anyseal.suites import INLINE_BYTES

__all__ = ["Plaintext", "SealedPart", "SealedParts", "part_sizes", "pieces_of", "plaintext"]

READ_BYTES = 2 << 20
"""What is asked of a file object at a time."""

STEADY_PARTS = 1000
"""Parts of an object of unknown length that keep the wished size; then they grow."""


def part_sizes(wished: int, size: int | None, geometry: Geometry) -> Iterator[int]:
    """Plaintext bytes of each part: at most 10,000, none shorter or longer than S3 allows.

    What a part takes in the bucket fits into *wished* bytes, because stores keep objects in blocks
    of such sizes: a part that is a little longer costs SeaweedFS a second block, and each read of
    it the look for that. Only an object of up to *wished* bytes of plaintext stays in one part.

    Of unknown length, parts after the first 1,000 grow evenly, so that the last of 10,000 reaches
    5 TiB: from 8 MiB to 1.2 GiB.
    """
    chunk_bytes = geometry.chunk_bytes
    fitting = geometry.window(max(0, wished - geometry.header_bytes))
    if size is not None and size <= wished:
        fitting = wished
    least = max(fitting, PART_MIN_BYTES, -(-(size or 0) // PARTS_MAX))
    most = PART_MAX_BYTES // 2 // chunk_bytes * chunk_bytes
    first = min(-(-least // chunk_bytes) * chunk_bytes, most)
    growth = 0
    if size is None:
        growing = PARTS_MAX - STEADY_PARTS
        growth = max(0, -(-2 * (OBJECT_MAX_BYTES - PARTS_MAX * first) // growing**2))
    for number in range(PARTS_MAX):
        grown = first + growth * max(0, number + 1 - STEADY_PARTS)
        yield -(-grown // chunk_bytes) * chunk_bytes


@dataclass(frozen=True, slots=True)
class SealedPart:
    """One part as it goes into the bucket."""

    number: int
    """From 1."""
    blocks: list[bytes]
    size: int
    """Plaintext bytes."""
    last: bool
    checksum: Mapping[str, str] = field(default_factory=dict)


Seal: TypeAlias = Callable[..., bytes]


def _seal_memory(piece: Piece, data: memoryview) -> bytes:
    block, out = fresh_bytes(piece.run.length)
    piece.seal(piece.run, data, out)
    return block


async def _sealed(seal: Seal, jobs: Iterator[tuple[Any, ...]]) -> list[bytes]:
    """What *seal* makes of each of *jobs*, in their order; in worker threads."""
    blocks: dict[int, bytes] = {}

    def work(index: int, job: tuple[Any, ...]) -> None:
        blocks[index] = seal(*job)

    await offload.each(work, enumerate(jobs))
    return [blocks[index] for index in range(len(blocks))]


class Plaintext(Protocol):
    """Where an object's plaintext comes from."""

    size: int | None
    """Bytes, if that is known before they are read."""

    async def seal(self, sealer: Sealer, size: int) -> tuple[list[bytes], int, bool]:
        """Seal the next *size* bytes: the blocks, the bytes they hold, whether they were the last.

        Fewer than *size* bytes are the last.
        """
        ...

    async def aclose(self) -> None:
        """Let go of what was opened here."""
        ...


class MemoryPlaintext:
    """The caller's memory; sealed where it lies."""

    def __init__(self, data: Any) -> None:
        self._data = bytes_view(data)
        self.size: int | None = len(self._data)

    def _jobs(self, sealer: Sealer, stop: int) -> Iterator[Job]:
        start = sealer.position
        unit = unit_bytes(stop - start, sealer.geometry.chunk_bytes)
        for run in sealer.geometry.runs(start, stop, stop, unit):
            yield sealer.take(run.size), self._data[run.start : run.stop]

    async def seal(self, sealer: Sealer, size: int) -> tuple[list[bytes], int, bool]:
        start, total = sealer.position, len(self._data)
        stop = min(start + size, total)
        jobs = self._jobs(sealer, stop)
        if stop - start <= INLINE_BYTES[sealer.suite]:
            blocks = [_seal_memory(*job) for job in jobs]
        else:
            blocks = await _sealed(_seal_memory, jobs)
        return blocks, stop - start, stop == total

    async def aclose(self) -> None:
        self._data.release()


class FilePlaintext:
    """A local file, read where it is sealed."""

    def __init__(self, source: FileSource) -> None:
        self._source = source
        self.size: int | None = source.size

    def _seal(self, piece: Piece) -> bytes:
        block, out = fresh_bytes(piece.run.length)
        for run in piece.steps(STEP_BYTES):
            at = run.offset - piece.run.offset
            with offload.buffers().lease(run.size) as plain:
                self._source.pread_into(run.start, plain)
                piece.seal(run, plain, out[at : at + run.length])
        return block

    def _jobs(self, sealer: Sealer, stop: int) -> Iterator[tuple[Piece]]:
        start = sealer.position
        unit = unit_bytes(stop - start, sealer.geometry.chunk_bytes)
        for run in sealer.geometry.runs(start, stop, stop, unit):
            yield (sealer.take(run.size),)

    async def seal(self, sealer: Sealer, size: int) -> tuple[list[bytes], int, bool]:
        start, total = sealer.position, self._source.size
        stop = min(start + size, total)
        blocks = await _sealed(self._seal, self._jobs(sealer, stop))
        if stop == total:
            await offload.run(self._source.check_unchanged)
        return blocks, stop - start, stop == total

    async def aclose(self) -> None:
        await offload.settle(self._source.close)


class StreamPlaintext:
    """Pieces of unknown length and number, sealed as they come."""

    size: int | None = None

    def __init__(self, pieces: AsyncIterator[Any]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")
        self._ended = False

    async def _more(self) -> bool:
        """Whether there are bytes that wait to be sealed; gets some if there are none."""
        while not self._ended and not len(self._rest):
            try:
                piece = await anext(self._pieces)
            except StopAsyncIteration:
                self._ended = True
            else:
                self._rest = bytes_view(piece)
        return not self._ended

    async def _group(self, sealer: Sealer, jobs: Iterator[Job], size: int) -> list[bytes]:
        if size <= INLINE_BYTES[sealer.suite]:
            return [_seal_memory(*job) for job in jobs]
        return await _sealed(_seal_memory, jobs)

    async def seal(self, sealer: Sealer, size: int) -> tuple[list[bytes], int, bool]:
        blocks: list[bytes] = []
        done = 0
        while done < size and await self._more():
            taken = self._rest[: size - done]
            for jobs in sealer.feed(taken):
                blocks += await self._group(sealer, jobs, max(len(taken), STEP_BYTES))
            self._rest = self._rest[len(taken) :]
            done += len(taken)
        for jobs in sealer.flush():
            blocks += await self._group(sealer, jobs, STEP_BYTES)
        return blocks, done, not await self._more()

    async def aclose(self) -> None:
        self._rest = memoryview(b"")


class _Reads:
    """A file object as an async iterator: read in worker threads, or awaited."""

    def __init__(self, read: Callable[[int], Any], awaited: bool) -> None:
        self._read = read
        self._awaited = awaited

    def __aiter__(self) -> _Reads:
        return self

    async def __anext__(self) -> Any:
        if self._awaited:
            piece = await self._read(READ_BYTES)
        else:
            # It may be a pipe that never ends: a cancelled caller does not wait for it.
            piece = await offload.run_waiting(self._read, READ_BYTES)
        if not isinstance(piece, BYTES_LIKE):
            raise TypeError(f"the file must give bytes, not {type(piece).__name__}")
        if not len(piece):
            raise StopAsyncIteration
        return piece


def _stream(data: Any) -> AsyncIterator[Any]:
    """The pieces of a file or an async iterable. Raises TypeError."""
    read = getattr(data, "read", None)
    if inspect.iscoroutinefunction(read):
        return _Reads(read, awaited=True)
    if hasattr(data, "__aiter__"):
        return aiter(data)
    if callable(read):
        return _Reads(read, awaited=False)
    raise TypeError(
        f"data must be bytes, a Path, a file or an async iterable, not {type(data).__name__}"
    )


def _is_memory(data: Any) -> bool:
    try:
        memoryview(data).release()
    except TypeError:
        return False
    return True


async def plaintext(data: Any) -> Plaintext:
    """Where the bytes of *data* come from.

    Raises:
        TypeError: Nothing that gives bytes.
        OSError, SourceError: A path that is no regular file, or cannot be opened.
    """
    if isinstance(data, str):
        raise TypeError("data must be bytes, a Path, a file or an async iterable, not str")
    if isinstance(data, os.PathLike):
        return FilePlaintext(await FileSource.aopen(data))
    if _is_memory(data):
        return MemoryPlaintext(data)
    return StreamPlaintext(_stream(data))


@contextlib.asynccontextmanager
async def pieces_of(data: Any) -> AsyncIterator[AsyncIterator[Any]]:
    """The same as pieces: memory is one, of files they are read as they are asked for.

    Raises:
        TypeError, OSError, SourceError: As for :func:`plaintext`.
        SourceChangedError: The file of a path was written to meanwhile.
    """
    if isinstance(data, str):
        raise TypeError("data must be bytes, a Path, a file or an async iterable, not str")
    if isinstance(data, os.PathLike):
        source = await FileSource.aopen(data)
        try:
            async with contextlib.aclosing(_file_pieces(source)) as pieces:
                yield pieces
        finally:
            await offload.settle(source.close)
    elif _is_memory(data):
        async with contextlib.aclosing(_one(data)) as pieces:
            yield pieces
    else:
        yield _stream(data)


async def _one(piece: Any) -> AsyncGenerator[Any, None]:
    yield piece


async def _file_pieces(source: FileSource) -> AsyncGenerator[bytearray, None]:
    for start in range(0, source.size, READ_BYTES):
        piece = bytearray(min(READ_BYTES, source.size - start))
        await offload.run(source.pread_into, start, memoryview(piece))
        yield piece
    await offload.run(source.check_unchanged)


class SealedParts:
    """The sealed parts of one object, in order.

    Args:
        sealer: Fresh; ended when the last part is made.
        source: Where the plaintext comes from.
        part_size: Wished bytes of a part in the bucket.
        checksum: Of each part, made where it was sealed.

    Raises:
        ValueError: More than an object in S3 holds.
    """

    def __init__(
        self, sealer: Sealer, source: Plaintext, part_size: int, checksum: str | None
    ) -> None:
        self._sealer = sealer
        self._source = source
        self._checksum = checksum
        geometry = sealer.geometry
        if source.size is not None and geometry.sealed_size(source.size) > OBJECT_MAX_BYTES:
            raise ValueError("an object in S3 has at most 5 TiB")
        self._sizes = part_sizes(part_size, source.size, geometry)
        self.header = sealer.header
        self.trailer = b""
        self.count = 0
        self._held: SealedPart | None = None

    @property
    def size(self) -> int:
        """Plaintext bytes so far."""
        return self._sealer.position

    @property
    def sealed_size(self) -> int:
        """Bytes of the whole object in the bucket, when the last part is made."""
        return self._sealer.geometry.sealed_size(self.size)

    async def only_one(self) -> bool:
        """Whether the first part is the last: it is sealed to find out, and kept for ``next``."""
        self._held = await self._seal()
        return self._held.last

    async def next(self) -> SealedPart:
        """The next part. Not to be called after the last one."""
        held, self._held = self._held, None
        return held or await self._seal()

    async def _seal(self) -> SealedPart:
        wished = next(self._sizes, None)
        if wished is None:
            raise ValueError("an object in S3 has at most 5 TiB")
        blocks, size, last = await self._source.seal(self._sealer, wished)
        if self.sealed_size > OBJECT_MAX_BYTES:
            raise ValueError("an object in S3 has at most 5 TiB")
        if self.count == 0:
            blocks.insert(0, self.header)
        if last:
            self.trailer = self._sealer.trailer()
            self._sealer.end("the object is finished")
            blocks.append(self.trailer)
        self.count += 1
        checksum = {}
        if self._checksum is not None:
            checksum = await offload.run(checksum_of, self._checksum, blocks)
        return SealedPart(self.count, blocks, size, last, checksum)
