"""ObjectReader: open any byte range of a sealed object, and verify what is read before release."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.lowlevel

from anyseal import offload
from anyseal._ffi import lib, refuse_overlap, view_writable
from anyseal.config import STEP_BYTES, UNIT_BYTES
from anyseal.hints import not_source, use_async_with
from anyseal.keys import Key
from anyseal.objects.format import ObjectInfo
from anyseal.objects.opened import (
    Need,
    NeedBytes,
    NeedEnds,
    NeedKey,
    OpenedObject,
    Part,
    Request,
    opening,
)
from anyseal.objects.views import ObjectFile, ViewedReader
from anyseal.objects.writer import check_context
from anyseal.pages import fresh_bytes
from anyseal.ports import BlockingSource, Keyring, Source, named_key, resolve_partition
from anyseal.suites import INLINE_BYTES
from anyseal.tasks import Ahead, each_awaited

__all__ = [
    "NeedKey",
    "ObjectFile",
    "ObjectReader",
    "OpenedObject",
    "Part",
    "ReaderBase",
    "opening",
]

REQUESTS = 4
"""Reads of an awaited source at the same time, unless the source has a ``concurrency``."""

REQUEST_MAX_BYTES = 2 * UNIT_BYTES
"""The longest of them."""

AHEAD_BYTES = 12 << 20
"""Plaintext bytes that a stream fetches and opens while its consumer works."""

WINDOW_BYTES = 3 << 20
"""What one of its reads fetches, at most: stores take their time for each. Sealed it fits a buffer
of 4 MiB."""


class ReaderBase(ViewedReader):
    """What both readers share."""

    def __init__(self, source: Any, opened: OpenedObject) -> None:
        self._source = source
        self._blocks = isinstance(source, BlockingSource)  # asked once: it takes 10 us
        self._object = opened
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether the reader is closed."""
        return self._closed

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
    def source(self) -> Any:
        """Where the sealed bytes come from."""
        return self._source

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

    def _target(self, start: int, buffer: Any) -> tuple[int, memoryview]:
        """Where to read from, and the part of *buffer* that there are bytes for. Raises ValueError
        if the sealed bytes are in it: they would be overwritten before all of them are read."""
        view_writable(buffer)
        out = memoryview(buffer).cast("B")
        start, stop = self._bounds(start, start + len(out))
        out = out[: stop - start]
        if self._blocks:
            sealed = self._source.window(0, self._object.geometry.sealed_size(self.size))
            if sealed is not None:
                refuse_overlap(out, sealed)
        return start, out

    def _end(self) -> bool:
        """Wipe the keys, after which nothing can be read; whether this was the first time."""
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


def _pieces(start: int, stop: int, piece_size: int) -> Iterator[tuple[int, int]]:
    """*start* to *stop*, cut at the multiples of *piece_size*."""
    while start < stop:
        end = min(stop, (start // piece_size + 1) * piece_size)
        yield start, end
        start = end


def _windows(start: int, stop: int, piece_size: int) -> Iterator[tuple[int, int]]:
    """The same, cut at multiples of *piece_size* only where a request ends: small ones first, so
    that the first piece comes soon."""
    size = first = piece_size * max(1, (1 << 20) // piece_size)
    while start < stop:
        end = min(stop, start // piece_size * piece_size + size)
        yield start, end
        start = end
        if size + first <= WINDOW_BYTES:
            size += first


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
        if not isinstance(source, (Source, BlockingSource)):
            raise not_source(source, waits=True)
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

    @property
    def _requests(self) -> int:
        """Reads of the source at the same time."""
        return int(getattr(self._source, "concurrency", REQUESTS))

    def _request_bytes(self, size: int) -> int:
        """How much of *size* bytes one read of the source fetches: enough to go round, within
        bounds, for each request costs as much as a megabyte or two."""
        own = getattr(self._source, "request_bytes", None)
        if own is not None:
            return int(own)
        return min(REQUEST_MAX_BYTES, max(UNIT_BYTES, -(-size // self._requests)))

    async def _use(
        self, use: Callable[..., None], request: Request, sealed: Any, *out: memoryview
    ) -> None:
        if request.stop - request.start <= INLINE_BYTES[self._object.suite]:
            use(request, sealed, *out)
            await offload.breathe(request.length)
        else:
            await offload.run(use, request, sealed, *out)

    async def _answered(self, use: Callable[..., None], request: Request, *out: memoryview) -> None:
        """*use* what one request asks for: from a buffer of the pool, if the source fills one."""
        read_into = getattr(self._source, "read_into", None)
        if read_into is None or request.length <= STEP_BYTES:
            sealed = await self._source.read(request.offset, request.length)
            await self._use(use, request, sealed, *out)
            return
        with offload.buffers().lease(request.length) as buffer:
            await read_into(request.offset, buffer)
            await self._use(use, request, buffer, *out)

    async def _fetch(self, request: Request, out: memoryview) -> None:
        """Fetch and open what one request asks for."""
        await self._answered(self._object.open_request, request, out)

    async def _check(self, request: Request) -> None:
        """Fetch and verify what one request asks for."""
        await self._answered(self._object.verify_request, request)

    async def _fill(self, start: int, out: memoryview) -> None:
        """Fill *out* from plaintext *start*; wiped if anything fails."""
        stop = start + len(out)
        try:
            if self._blocks:
                source, parts = self._source, self._object.parts(start, stop)
                jobs = ((part, out[part.start - start : part.stop - start]) for part in parts)
                if len(out) <= INLINE_BYTES[self._object.suite] and not getattr(
                    source, "blocks", True
                ):
                    for part, piece in jobs:
                        self._object.read_part(source, part, piece)
                    return
                await offload.each(lambda *job: self._object.read_part(source, *job), jobs)
            else:
                requests = self._object.requests(start, stop, self._request_bytes(stop - start))
                wanted = ((it, out[it.start - start : it.stop - start]) for it in requests)
                await each_awaited(self._fetch, wanted, self._requests)
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

        Cost: reads the chunks that the range touches, at most two more than it fills. From a
        source that awaits: requests of 8 to 16 MiB, several at a time.
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

        Args:
            start: First byte.
            buffer: Writable and contiguous; must not overlap the sealed bytes of a MemorySource.

        Returns:
            The bytes read: less than ``len(buffer)`` only at the object's end.
        """
        start, out = self._target(start, buffer)
        if out:
            await self._fill(start, out)
        return len(out)

    async def stream(
        self, start: int = 0, stop: int | None = None, *, piece_size: int = 1 << 20
    ) -> AsyncIterator[bytes]:
        """The plaintext bytes from *start* to *stop* in verified pieces.

        Args:
            start: First byte.
            stop: After the last byte. Default: the end.
            piece_size: Bytes per piece, about; all but the first and last end at a multiple of it.

        Cost: from a source that awaits, the next requests are under way while the consumer works:
        as many as the source takes at the same time, of up to 3 MiB (or *piece_size*) each and up
        to 12 MiB in all. Close the iterator (``contextlib.aclosing``) when leaving early, so that
        they end at once.
        """
        if piece_size < 1:
            raise ValueError("piece_size must be positive")
        start, stop = self._bounds(start, stop)
        if self._blocks:
            for at, end in _pieces(start, stop, piece_size):
                yield await self.read_range(at, end)
                await offload.breathe(end - at)
            return
        running: deque[Ahead[deque[bytes]]] = deque()
        windows = _windows(start, stop, piece_size)
        ahead = min(self._requests, max(2, AHEAD_BYTES // max(WINDOW_BYTES, piece_size)))
        try:
            while True:
                while len(running) < ahead and (window := next(windows, None)) is not None:
                    running.append(Ahead(partial(self._window, *window, piece_size)))
                if not running:
                    return
                ready = await running[0].result()
                running.popleft()
                if (window := next(windows, None)) is not None:
                    running.append(Ahead(partial(self._window, *window, piece_size)))
                while ready:
                    yield ready.popleft()
                    await offload.breathe(piece_size)
        finally:
            for call in running:
                await call.drop()

    async def _window(self, start: int, stop: int, piece_size: int) -> deque[bytes]:
        """The pieces of a range that is fetched at once."""
        if piece_size % self._object.geometry.chunk_bytes:
            data = await self.read_range(start, stop)
            spans = _pieces(start, stop, piece_size)
            return deque(data[at - start : end - start] for at, end in spans)
        ready: deque[bytes] = deque()

        def use(request: Request, sealed: Any) -> None:
            sealed = self._object.answer(request, sealed)
            ready.extend(self._open_pieces(request, sealed, piece_size))

        await self._answered(use, self._object.request(start, stop))
        return ready

    def _open_pieces(self, request: Request, sealed: memoryview, piece_size: int) -> deque[bytes]:
        """Each piece of an answer as bytes of its own."""
        ready: deque[bytes] = deque()
        for at, end in _pieces(request.start, request.stop, piece_size):
            mine = self._object.request(at, end)
            begin = mine.offset - request.offset
            result, out = fresh_bytes(max(2, end - at))
            self._object.open_request(mine, sealed[begin : begin + mine.length], out[: end - at])
            ready.append(result[: end - at])
        return ready

    async def verify(self) -> None:
        """Read and verify the whole object. Raises DecryptionError where it does not verify."""
        start, stop = self._bounds(0, None)
        if self._blocks:
            source, parts = self._source, self._object.parts(start, stop)
            await offload.each(self._object.verify_part, ((source, part) for part in parts))
            return
        requests = self._object.requests(start, stop, self._request_bytes(stop - start))
        await each_awaited(self._check, ((request,) for request in requests), self._requests)

    def file(self) -> ObjectFile:
        """A seekable file-like view with ``await read(n)``, to be closed with ``aclose()``.

        A reader in an ``async with`` block of its own outlives its files; else the last of them
        closes it: ``async with reader.file() as file`` needs no more.
        """
        return ObjectFile(self)

    async def aclose(self) -> None:
        """Close the source and wipe the keys. Idempotent."""
        if self._end():
            await _close(self._source)

    __enter__ = use_async_with

    async def __aenter__(self) -> Self:
        self._is_in_block = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.aclose()


def answer_blocking(source: BlockingSource, need: Need) -> Any:
    """Answer what a local source can answer."""
    if isinstance(need, NeedEnds):
        return source.pread_ends(need.head, need.tail)
    if isinstance(need, NeedBytes):
        buffer = bytearray(need.length)
        source.pread_into(need.offset, memoryview(buffer))
        return bytes(buffer)
    raise TypeError(need)
