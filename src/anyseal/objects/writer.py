"""ObjectWriter: seal a large thing as it comes, several chunks at a time, off the event loop."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NoReturn, Self

import anyio

from anyseal import offload
from anyseal._ffi import refuse_overlap
from anyseal.config import BYTES_LIKE, STEP_BYTES
from anyseal.errors import WriterStateError
from anyseal.hints import not_sink, use_async_with
from anyseal.keys import Key
from anyseal.objects.sealer import CHUNK_SIZE, SEGMENT_SIZE, Job, Piece, Sealer, bytes_view
from anyseal.ports import AppendSink, BlockingSink, Keyring, Sink, current_key, resolve_partition
from anyseal.suites import INLINE_BYTES, Suite

__all__ = ["ObjectWriter", "WriterBase", "check_context", "seal_to_sink"]


def check_context(context: Any) -> bytes:
    """*context* as bytes. Raises TypeError."""
    if not isinstance(context, BYTES_LIKE):
        raise TypeError(f"context must be bytes-like, not {type(context).__name__}")
    return bytes(context)


def seal_to_sink(sink: BlockingSink, piece: Piece, data: memoryview) -> int:
    """Seal one piece straight into *sink*; returns its plaintext size. Any thread."""
    out = sink.window(piece.run.offset, piece.run.length)
    if out is not None:
        piece.seal(piece.run, data, out)
        return piece.run.size
    for run in piece.steps(STEP_BYTES):
        at = run.start - piece.run.start
        with offload.buffers().lease(run.length) as buffer:
            piece.seal(run, data[at : at + run.size], buffer)
            sink.pwrite(run.offset, buffer)
    return piece.run.size


def append_to_sink(sink: AppendSink, piece: Piece, data: memoryview) -> int:
    """Seal one piece and append it to *sink*; returns its plaintext size. Any thread."""
    for run in piece.steps(STEP_BYTES):
        at = run.start - piece.run.start
        with offload.buffers().lease(run.length) as buffer:
            piece.seal(run, data[at : at + run.size], buffer)
            sink.append(buffer)
    return piece.run.size


class WriterBase:
    """What both writers share: their settings, their state, and how local sinks are written."""

    _SINKS: tuple[type, ...] = (BlockingSink, AppendSink)

    def __init__(
        self,
        sink: Any,
        keyring: Key | Keyring,
        *,
        partition: str | None = None,
        context: bytes = b"",
        suite: Suite | str | None = None,
        chunk_size: int = CHUNK_SIZE,
        segment_size: int = SEGMENT_SIZE,
    ) -> None:
        self._partition = resolve_partition(keyring, partition)
        if not any(isinstance(sink, kind) for kind in self._SINKS):
            raise not_sink(sink, waits=Sink in self._SINKS)
        self._sink = sink
        self._keyring = keyring
        self._context = check_context(context)
        self._suite = suite
        self._chunk_size = chunk_size
        self._segment_size = segment_size
        self._sealer: Sealer | None = None
        self._busy = False
        self._over: str | None = None

    @property
    def size(self) -> int:
        """Plaintext bytes sealed so far; what waits for its chunk to fill does not count."""
        return 0 if self._sealer is None else self._sealer.position

    def _make(self, key: Key) -> Sealer:
        return Sealer(
            key,
            context=self._context,
            suite=self._suite,
            chunk_bytes=self._chunk_size,
            segment_bytes=self._segment_size,
        )

    def _input(self, data: Any) -> memoryview:
        """*data* as a flat view of bytes, which the sink does not overwrite."""
        source = bytes_view(data)
        memory = getattr(self._sink, "memory", None)
        if memory is not None:
            refuse_overlap(memory, source)
        return source

    def _enter(self) -> None:
        """Begin a call that seals; there is one at a time."""
        if self._over is not None:
            raise WriterStateError(self._over)
        if self._busy:
            raise WriterStateError("the writer is busy in another task or thread")
        if self._sealer is not None:
            self._sealer.check()
        self._busy = True

    def _end(self, reason: str) -> None:
        if self._over is None:
            self._over = reason
        if self._sealer is not None:
            self._sealer.end(reason)

    def _put(self, offset: int, data: bytes) -> None:
        """Write header or trailer to a local sink."""
        if isinstance(self._sink, BlockingSink):
            self._sink.pwrite(offset, memoryview(data))
        else:
            self._sink.append(memoryview(data))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a writer cannot be pickled or copied")


class ObjectWriter(WriterBase):
    """Seal an object of any size into a sink.

    Use it as an async context manager: leaving the block finishes the object, an exception or a
    cancellation aborts it, and then nothing is visible in the sink. It buffers at most a chunk or
    1 MiB, whichever is more; from larger writes it seals straight from the caller's memory, which
    must not change meanwhile. One task at a time.

    Args:
        sink: A FileSink, MemorySink, StreamSink, or anything with their methods.
        keyring: A Key, or a Keyring together with *partition*.
        partition: Whose key to use, with a keyring.
        context: Authenticated, not stored; 0 to 65,536 bytes. Opening needs the same.
        suite: Default: the machine's best.
        chunk_size: Bytes that are verified together; a power of two from 4 KiB to 16 MiB.
        segment_size: Bytes under one key; a multiple of *chunk_size*, at most 64 GiB.

    Raises:
        ConfigurationError: A size is out of bounds, or no such suite (when writing begins).
        WriterStateError: Used after its end, by two tasks at once, or in a forked process.

    Cost: about 0.1 ms per MiB and core, in worker threads; writes that fill no step copy only.
    Source: docs/format.md, section 4.
    """

    _SINKS = (Sink, BlockingSink, AppendSink)
    __enter__ = use_async_with

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None and self._over is None:
            await self.finish()
        else:
            await self.aclose()

    async def _start(self) -> Sealer:
        if self._sealer is None:
            key = await current_key(self._keyring, self._partition)
            self._sealer = self._make(key)
            if isinstance(self._sink, Sink):
                await self._sink.write(memoryview(self._sealer.header))
            else:
                await self._local(self._put, 0, self._sealer.header)
        return self._sealer

    async def _local(self, function: Any, *args: Any) -> Any:
        """Call a blocking function of the sink, off the loop if it can block."""
        if getattr(self._sink, "blocks", True):
            return await offload.run(function, *args)
        return function(*args)

    async def _seal(self, jobs: Iterator[Job]) -> None:
        sink = self._sink
        if isinstance(sink, BlockingSink):
            if not getattr(sink, "blocks", True):
                jobs = await self._seal_small(sink, jobs)
            await offload.each(lambda *job: seal_to_sink(sink, *job), jobs)
        elif isinstance(sink, AppendSink):
            for piece, data in jobs:
                await offload.run(append_to_sink, sink, piece, data)
        else:
            for piece, data in jobs:
                await self._send(sink, piece, data)

    async def _seal_small(self, sink: BlockingSink, jobs: Iterator[Job]) -> Iterator[Job]:
        """Seal a first piece that is quicker than a hop on the spot; returns what is left."""
        job = next(jobs, None)
        if job is None:
            return jobs
        if job[0].run.size > INLINE_BYTES[job[0].key.suite]:
            return _chain(job, jobs)
        seal_to_sink(sink, *job)
        return jobs

    async def _send(self, sink: Sink, piece: Piece, data: memoryview) -> None:
        """Seal one piece and write it to a sink that awaits."""
        for run in piece.steps(STEP_BYTES):
            at = run.start - piece.run.start
            part = data[at : at + run.size]
            with offload.buffers().lease(run.length) as buffer:
                if run.size <= INLINE_BYTES[piece.key.suite]:
                    piece.seal(run, part, buffer)
                else:
                    await offload.run(piece.seal, run, part, buffer)
                await sink.write(buffer)
            await offload.breathe(run.size)  # a sink in memory never waits

    async def write(self, data: Any) -> None:
        """Seal *data* after what was written before.

        Args:
            data: Contiguous bytes-like of any length, not in the buffer of a MemorySink.

        Raises:
            TypeError: Not bytes-like. The writer stays usable.
            ValueError: In the sink's own buffer. The writer stays usable.
            WriterStateError: See the class.
            OSError: From the sink. The writer is ended and the sink aborted.
        """
        source = self._input(data)
        self._enter()
        try:
            sealer = await self._start()
            for jobs in sealer.feed(source):
                await self._seal(jobs)
        except BaseException:
            await self._abort("an error or a cancellation ended the writer")
            raise
        finally:
            self._busy = False

    async def finish(self) -> int:
        """Seal what is left, write the trailer, make the object visible.

        Returns:
            The object's sealed size in bytes.
        """
        self._enter()
        try:
            sealer = await self._start()
            for jobs in sealer.flush():
                await self._seal(jobs)
            trailer = sealer.trailer()
            size = sealer.geometry.sealed_size(sealer.position)
            if isinstance(self._sink, Sink):
                await self._sink.write(memoryview(trailer))
                await self._sink.commit()
            else:
                await self._local(self._put, size - len(trailer), trailer)
                await self._local(self._sink.commit, size)
        except BaseException:
            await self._abort("an error or a cancellation ended the writer")
            raise
        finally:
            self._busy = False
        self._end("the object is finished")
        return size

    async def aclose(self) -> None:
        """Abort, unless the object is finished. Idempotent."""
        await self._abort("the writer is closed")

    async def _abort(self, reason: str) -> None:
        if self._over is None:
            self._end(reason)
            if inspect.iscoroutinefunction(self._sink.abort):
                with anyio.CancelScope(shield=True):
                    await self._sink.abort()
            elif getattr(self._sink, "blocks", True):
                await offload.settle(self._sink.abort)
            else:
                self._sink.abort()


def _chain(job: Job, jobs: Iterator[Job]) -> Iterator[Job]:
    yield job
    yield from jobs
