"""The same names without ``await``.

Bytes to bytes are the plain functions that the async side calls too. Nothing here starts an event
loop, except for a keyring that must wait for a key service: its misses go through one shared loop.
Large files and writes use a few worker threads of our own.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from anyseal import offload
from anyseal._ffi import lib, view_writable
from anyseal.aio import inspect
from anyseal.fs import FileOpening, FileSealing, Meter
from anyseal.keyring import PassphraseKeyring, StaticKeyring
from anyseal.keys import Key
from anyseal.objects.reader import (
    NeedKey,
    Part,
    ReaderBase,
    answer_blocking,
    fresh_bytes,
    opening,
    seek_position,
)
from anyseal.objects.sealer import CHUNK_SIZE, SEGMENT_SIZE, Job, Sealer, bytes_view
from anyseal.objects.sources import (
    BlockingStreamSink as StreamSink,
)
from anyseal.objects.sources import FileSink, FileSource, MemorySink, MemorySource
from anyseal.objects.stream import NeedData, OpenerBase, StreamParser
from anyseal.objects.writer import WriterBase, append_to_sink, check_context, seal_to_sink
from anyseal.ports import (
    BlockingSink,
    BlockingSource,
    Keyring,
    LocalKeyring,
    Progress,
    resolve_partition,
)
from anyseal.suites import Suite
from anyseal.value import (
    key_id_of,
    open_under,
    open_under_into,
    seal_under,
    seal_under_into,
)

__all__ = [
    "FileSink",
    "FileSource",
    "Key",
    "MemorySink",
    "MemorySource",
    "ObjectFile",
    "ObjectReader",
    "ObjectWriter",
    "PassphraseKeyring",
    "StaticKeyring",
    "StreamOpener",
    "StreamSink",
    "inspect",
    "open",
    "open_file",
    "open_into",
    "seal",
    "seal_file",
    "seal_into",
]


def _current(key: Key | Keyring, partition: str | None) -> Key:
    """The key to seal with."""
    if isinstance(key, Key):
        if partition is not None:
            raise TypeError("partition= goes with a keyring, not with a Key")
        return key
    name = resolve_partition(key, partition)
    hit = key.current_hit(name)
    if hit is not None:
        return hit
    if isinstance(key, LocalKeyring):
        return key.current_local(name)
    return offload.wait(key.current, name)


def _named(key: Key | Keyring, partition: str | None, key_id: bytes) -> Key:
    """The key that something sealed names."""
    if isinstance(key, Key):
        if partition is not None:
            raise TypeError("partition= goes with a keyring, not with a Key")
        return key
    name = resolve_partition(key, partition)
    hit = key.get_hit(name, key_id)
    if hit is not None:
        return hit
    if isinstance(key, LocalKeyring):
        return key.get_local(name, key_id)
    return offload.wait(key.get, name, key_id)


def seal(
    data: Any,
    key: Key | Keyring,
    *,
    partition: str | None = None,
    context: Any = b"",
    suite: Suite | str | None = None,
    expires_at: float | datetime | None = None,
) -> bytes:
    """Seal one value: :func:`anyseal.seal` without ``await``, in the caller's thread."""
    if type(key) is not Key or partition is not None:
        key = _current(key, partition)
    return seal_under(data, key, context, suite, expires_at)


def seal_into(
    buffer: Any,
    data: Any,
    key: Key | Keyring,
    *,
    partition: str | None = None,
    context: Any = b"",
    suite: Suite | str | None = None,
    expires_at: float | datetime | None = None,
) -> int:
    """Seal one value into *buffer*: :func:`anyseal.seal_into` without ``await``."""
    key = _current(key, partition)
    return seal_under_into(buffer, data, key, context, suite, expires_at)


def open(
    sealed: Any,
    key: Key | Keyring,
    *,
    partition: str | None = None,
    context: Any = b"",
) -> bytes:
    """Open one value: :func:`anyseal.open` without ``await``, in the caller's thread."""
    if type(key) is not Key or partition is not None:
        key = _named(key, partition, key_id_of(sealed))
    return open_under(sealed, key, context)


def open_into(
    buffer: Any,
    sealed: Any,
    key: Key | Keyring,
    *,
    partition: str | None = None,
    context: Any = b"",
) -> int:
    """Open one value into *buffer*: :func:`anyseal.open_into` without ``await``."""
    key = _named(key, partition, key_id_of(sealed))
    return open_under_into(buffer, sealed, key, context)


class ObjectWriter(WriterBase):
    """Seal an object of any size into a local sink: :class:`anyseal.ObjectWriter` without
    ``await``. A context manager; leaving the block finishes the object, an exception aborts it.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None and self._over is None:
            self.finish()
        else:
            self.close()

    def _start(self) -> Sealer:
        if self._sealer is None:
            self._sealer = self._make(_current(self._keyring, self._partition or None))
            self._put(0, self._sealer.header)
        return self._sealer

    def _seal(self, jobs: Iterator[Job]) -> None:
        sink = self._sink
        if isinstance(sink, BlockingSink):
            offload.each_blocking(lambda *job: seal_to_sink(sink, *job), jobs)
            return
        for piece, data in jobs:
            append_to_sink(sink, piece, data)

    def write(self, data: Any) -> None:
        """Seal *data* after what was written before."""
        source = bytes_view(data)
        self._enter()
        try:
            sealer = self._start()
            for jobs in sealer.feed(source):
                self._seal(jobs)
        except BaseException:
            self._abort("an error ended the writer")
            raise
        finally:
            self._busy = False

    def finish(self) -> int:
        """Seal what is left, write the trailer, make the object visible; the sealed size."""
        self._enter()
        try:
            sealer = self._start()
            for jobs in sealer.flush():
                self._seal(jobs)
            trailer = sealer.trailer()
            size = sealer.geometry.sealed_size(sealer.position)
            self._put(size - len(trailer), trailer)
            self._sink.commit(size)
        except BaseException:
            self._abort("an error ended the writer")
            raise
        finally:
            self._busy = False
        self._end("the object is finished")
        return size

    def close(self) -> None:
        """Abort, unless the object is finished. Idempotent."""
        self._abort("the writer is closed")

    def _abort(self, reason: str) -> None:
        if self._over is None:
            self._end(reason)
            self._sink.abort()


class ObjectReader(ReaderBase):
    """Read a sealed object: :class:`anyseal.ObjectReader` without ``await``."""

    @classmethod
    def open(
        cls,
        source: BlockingSource,
        keyring: Key | Keyring,
        *,
        partition: str | None = None,
        context: bytes = b"",
    ) -> Self:
        """Read and verify an object's header and trailer; the reader closes *source*, at once if
        it cannot be opened."""
        try:
            context = check_context(context)
            if not isinstance(keyring, Key):
                resolve_partition(keyring, partition)
            flow = opening(context)
            need = next(flow)
            while True:
                if isinstance(need, NeedKey):
                    need = flow.send(_named(keyring, partition, need.key_id))
                else:
                    need = flow.send(answer_blocking(source, need))
        except StopIteration as stop:
            return cls(source, stop.value)
        except BaseException:
            source.close()
            raise

    def _fill(self, start: int, out: memoryview) -> None:
        parts = self._object.parts(start, start + len(out))
        jobs = ((part, out[part.start - start : part.stop - start]) for part in parts)
        try:
            offload.each_blocking(lambda *job: self._object.read_part(self._source, *job), jobs)
        except BaseException:
            lib.anyseal_wipe(view_writable(out), len(out))
            raise

    def read_range(self, start: int, stop: int | None = None) -> bytes:
        """The plaintext bytes from *start* to *stop*, like a slice: cut at the object's end."""
        start, stop = self._bounds(start, stop)
        if stop - start < 2:
            small = bytearray(stop - start)
            if small:
                self._fill(start, memoryview(small))
            return bytes(small)
        result, out = fresh_bytes(stop - start)
        self._fill(start, out)
        return result

    def read_into(self, start: int, buffer: Any) -> int:
        """Fill *buffer* from *start*; wiped if it does not verify. Returns the bytes read."""
        view_writable(buffer)
        out = memoryview(buffer).cast("B")
        start, stop = self._bounds(start, start + len(out))
        if stop > start:
            self._fill(start, out[: stop - start])
        return stop - start

    def stream(
        self, start: int = 0, stop: int | None = None, *, piece_size: int = 1 << 20
    ) -> Iterator[bytes]:
        """The plaintext bytes from *start* to *stop* in verified pieces."""
        if piece_size < 1:
            raise ValueError("piece_size must be positive")
        at, stop = self._bounds(start, stop)
        while at < stop:
            end = min(stop, (at // piece_size + 1) * piece_size)
            yield self.read_range(at, end)
            at = end

    def verify(self) -> None:
        """Read and verify the whole object. Raises DecryptionError where it does not verify."""
        start, stop = self._bounds(0, None)
        jobs: Iterator[tuple[BlockingSource, Part]] = (
            (self._source, part) for part in self._object.parts(start, stop)
        )
        offload.each_blocking(self._object.verify_part, jobs)

    def file(self) -> io.BufferedReader:
        """A seekable binary file over the plaintext, for anything that reads files."""
        chunk = self._object.geometry.chunk_bytes
        return io.BufferedReader(ObjectFile(self), buffer_size=chunk)

    def close(self) -> None:
        """Close the source and wipe the keys. Idempotent."""
        if self._end():
            self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class ObjectFile(io.RawIOBase):
    """The raw file under :meth:`ObjectReader.file`."""

    def __init__(self, reader: ObjectReader) -> None:
        super().__init__()
        self._reader = reader
        self._position = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill *buffer* from the position; returns the bytes read."""
        count = self._reader.read_into(self._position, buffer)
        self._position += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; returns it."""
        self._position = seek_position(self._position, self._reader.size, offset, whence)
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position


class StreamOpener(OpenerBase):
    """Open a sealed object from a stream of bytes: :class:`anyseal.StreamOpener` without
    ``await``. Act on completion: a pipe shows only at its end that the object is whole.
    """

    def open(self, stream: Iterable[bytes | bytearray | memoryview]) -> Iterator[bytes]:
        """The plaintext of *stream*, in verified pieces of about 1 MiB."""
        iterator = iter(stream)
        events = StreamParser(self._context).events()
        answer: Any = None
        while True:
            try:
                event = events.send(answer)
            except StopIteration:
                return
            answer = None
            if isinstance(event, NeedData):
                data = next(iterator, None)
                answer = None if data is None else bytes_view(data)
            elif isinstance(event, NeedKey):
                answer = _named(self._keyring, self._partition or None, event.key_id)
            else:
                yield event.open()


def seal_file(
    src: Any,
    dst: Any,
    keyring: Key | Keyring,
    *,
    partition: str | None = None,
    context: bytes = b"",
    suite: Suite | str | None = None,
    chunk_size: int = CHUNK_SIZE,
    segment_size: int = SEGMENT_SIZE,
    overwrite: bool = False,
    durable: bool = False,
    progress: Progress | None = None,
) -> int:
    """Seal the file *src* into the file *dst*: :func:`anyseal.seal_file` without ``await``."""
    context = check_context(context)
    key = _current(keyring, partition)
    sealing = FileSealing(src, dst, overwrite, durable)
    failed = True
    try:
        meter = Meter(progress, sealing.source.size)
        meter.start()
        jobs = sealing.jobs(
            key,
            context=context,
            suite=suite,
            chunk_bytes=chunk_size,
            segment_bytes=segment_size,
        )
        offload.each_blocking(sealing.seal, jobs, meter.add)
        size = sealing.finish()
        failed = False
        return size
    finally:
        sealing.close(failed)


def open_file(
    src: Any,
    dst: Any,
    keyring: Key | Keyring,
    *,
    partition: str | None = None,
    context: bytes = b"",
    overwrite: bool = False,
    durable: bool = False,
    progress: Progress | None = None,
) -> int:
    """Open the sealed file *src* into the file *dst*: :func:`anyseal.open_file` without
    ``await``."""
    with FileSource(src) as source:
        reader = ObjectReader.open(source, keyring, partition=partition, context=context)
        opened = reader.opened
        opening_file = FileOpening(source, dst, overwrite, durable)
        try:
            meter = Meter(progress, opened.size)
            meter.start()
            jobs = opening_file.jobs(opened)
            offload.each_blocking(opening_file.open, jobs, meter.add)
            opening_file.sink.commit(opened.size)
        except BaseException:
            opening_file.sink.abort()
            raise
        return opened.size


def __getattr__(name: str) -> Any:
    if name == "HttpSource":
        from anyseal.objects.http import BlockingHttpSource

        return BlockingHttpSource
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
