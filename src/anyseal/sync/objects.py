"""Objects without ``await``: over local sinks and sources, or a blocking HTTP client."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, NoReturn, Self

from anyseal import offload
from anyseal._ffi import lib, view_writable
from anyseal.config import BYTES_LIKE
from anyseal.hints import not_source, not_stream, use_with
from anyseal.keys import Key
from anyseal.objects.reader import (
    NeedKey,
    Part,
    ReaderBase,
    answer_blocking,
    opening,
)
from anyseal.objects.sealer import Job, Sealer, bytes_view
from anyseal.objects.stream import NeedData, OpenerBase, StreamParser
from anyseal.objects.targets import warn_open
from anyseal.objects.views import seek_position, unsupported
from anyseal.objects.writer import WriterBase, append_to_sink, check_context, seal_to_sink
from anyseal.pages import fresh_bytes
from anyseal.ports import BlockingSink, BlockingSource, Keyring, resolve_partition
from anyseal.sync.values import current_key, named_key

__all__ = ["ObjectFile", "ObjectReader", "ObjectWriter", "StreamOpener"]


class ObjectWriter(WriterBase):
    """Seal an object of any size into a local sink: :class:`anyseal.ObjectWriter` without
    ``await``. A context manager; leaving the block finishes the object, an exception aborts it.
    """

    __aenter__ = use_with

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
            self._sealer = self._make(current_key(self._keyring, self._partition or None))
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
        source = self._input(data)
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
        if not isinstance(source, BlockingSource):
            raise not_source(source, waits=False)
        try:
            context = check_context(context)
            if not isinstance(keyring, Key):
                resolve_partition(keyring, partition)
            flow = opening(context)
            need = next(flow)
            while True:
                if isinstance(need, NeedKey):
                    need = flow.send(named_key(keyring, partition, need.key_id))
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
        start, out = self._target(start, buffer)
        if out:
            self._fill(start, out)
        return len(out)

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
        """A seekable binary file over the plaintext, for anything that reads files.

        A reader in a ``with`` block of its own outlives its files; else the last of them closes
        it: ``with reader.file() as file`` needs no more.
        """
        chunk = self._object.geometry.chunk_bytes
        return io.BufferedReader(ObjectFile(self), buffer_size=chunk)

    def close(self) -> None:
        """Close the source and wipe the keys. Idempotent."""
        if self._end():
            self._source.close()

    close_with_file = close

    __aenter__ = use_with

    def __enter__(self) -> Self:
        self._is_in_block = True
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class ObjectFile(io.RawIOBase):
    """The raw file under :meth:`ObjectReader.file`."""

    _reader: Any = None

    def __init__(self, reader: Any) -> None:
        super().__init__()
        reader.add_file()
        self._reader = reader
        self._position = 0
        self._is_closed = False

    @property
    def closed(self) -> bool:
        """Whether the file or its reader is closed."""
        return self._reader is None or self._is_closed or bool(self._reader.closed)

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def readable(self) -> bool:
        """True."""
        self._check()
        return True

    def seekable(self) -> bool:
        """True."""
        self._check()
        return True

    def writable(self) -> bool:
        """False."""
        self._check()
        return False

    def read(self, size: int | None = -1) -> Any:
        """Up to *size* bytes from the position, or all to the end; empty at the end."""
        self._check()
        return super().read(-1 if size is None else size)

    def readinto(self, buffer: Any) -> int:
        """Fill *buffer* from the position; returns the bytes read."""
        self._check()
        count: int = self._reader.read_into(self._position, buffer)
        self._position += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; returns it."""
        self._check()
        self._position = seek_position(self._position, self._reader.size, offset, whence)
        return self._position

    def tell(self) -> int:
        """The position."""
        self._check()
        return self._position

    def write(self, data: Any) -> NoReturn:
        """Raise UnsupportedOperation."""
        self._check()
        unsupported("write")

    def truncate(self, size: int | None = None) -> NoReturn:
        """Raise UnsupportedOperation."""
        self._check()
        unsupported("truncate")

    def close(self) -> None:
        """Close the file, and the reader if it is left. Idempotent."""
        if self._reader is not None and not self._is_closed:
            self._is_closed = True
            if self._reader.remove_file():
                self._reader.close_with_file()

    def _dealloc_warn(self, source: Any) -> None:
        """Called by a buffered reader that is collected open."""
        if self._reader.is_left_by_file:
            warn_open(source, "of a sealed object")


class StreamOpener(OpenerBase):
    """Open a sealed object from a stream of bytes: :class:`anyseal.StreamOpener` without
    ``await``. Act on completion: a pipe shows only at its end that the object is whole.
    """

    def open(self, stream: Iterable[bytes | bytearray | memoryview]) -> Iterator[bytes]:
        """The plaintext of *stream*, in verified pieces of about 1 MiB."""
        if isinstance(stream, (str, *BYTES_LIKE)) or not hasattr(type(stream), "__iter__"):
            raise not_stream(stream, waits=False)
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
                answer = named_key(self._keyring, self._partition or None, event.key_id)
            else:
                yield event.open()
