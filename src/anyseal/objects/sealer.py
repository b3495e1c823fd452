"""What an object writer knows without any I/O: positions, salts, keys, and what was spent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from anyseal._ffi import process_number, view
from anyseal.config import STEP_BYTES, UNIT_BYTES, worker_count
from anyseal.errors import ConfigurationError, WriterStateError
from anyseal.keys import Key, Slot
from anyseal.objects.chunks import SegmentKey, seal_run
from anyseal.objects.format import ObjectKeys
from anyseal.objects.geometry import SALT_BYTES, SEGMENTS_MAX, Geometry, Run
from anyseal.suites import Suite

__all__ = ["CHUNK_SIZE", "SEGMENT_SIZE", "Job", "Piece", "Sealer", "unit_bytes"]

CHUNK_SIZE = 64 << 10
SEGMENT_SIZE = 64 << 20


@dataclass(slots=True, frozen=True)
class Piece:
    """A run whose chunk numbers are spent, and the key that can seal it, once and in order."""

    run: Run
    salt: bytes
    key: SegmentKey
    lease: Slot
    geometry: Geometry

    def steps(self, limit: int) -> Iterator[Run]:
        """The piece in runs of at most *limit* bytes (at least one chunk)."""
        return self.geometry.runs(self.run.start, self.run.stop, self.run.stop, limit)

    def seal(self, run: Run, data: Any, out: memoryview) -> None:
        """Seal *data* as *run*, which is the piece or its next step, into *out*."""
        if run.first == 0:
            out[:SALT_BYTES] = self.salt
            out = out[SALT_BYTES:]
        seal_run(self.key, self.lease, run.first, data, out)


Job: TypeAlias = tuple[Piece, memoryview]


def unit_bytes(total: int, chunk_bytes: int) -> int:
    """How much of *total* bytes one worker call takes, so that all workers have some."""
    share = -(-total // worker_count())
    return max(chunk_bytes, min(UNIT_BYTES, max(share, STEP_BYTES)))


def bytes_view(data: Any) -> memoryview:
    """*data* as a flat view of bytes. Raises TypeError if it is not contiguous bytes-like."""
    return memoryview(data).cast("B") if len(view(data)) else memoryview(b"")


class Sealer:
    """Cuts what it is fed into pieces, and makes the header and the trailer.

    Any error, and any use in another process, ends it for good: a chunk number that may have been
    used is never used again.
    """

    def __init__(
        self,
        key: Key,
        *,
        context: bytes,
        suite: Suite | str | None,
        chunk_bytes: int,
        segment_bytes: int,
    ) -> None:
        self._keys = ObjectKeys.create(
            key,
            context=context,
            suite=suite,
            chunk_bytes=chunk_bytes,
            segment_bytes=segment_bytes,
            object_salt=os.urandom(32),
        )
        self.suite = self._keys.header.suite
        self.geometry = self._keys.geometry
        self.header = self._keys.header.to_bytes()
        self.position = 0
        self._salts = bytearray()
        self._segment: SegmentKey | None = None
        self._process = process_number()
        self._ended: str | None = None
        self._staging = bytearray(max(chunk_bytes, STEP_BYTES // chunk_bytes * chunk_bytes))
        self._staged = 0

    def check(self) -> None:
        """Raise WriterStateError unless sealing may go on in this process."""
        if self._ended is not None:
            raise WriterStateError(self._ended)
        if process_number() != self._process:
            self.end("the writer was forked: only its first process may go on")
            raise WriterStateError("the writer was forked: only its first process may go on")

    def end(self, reason: str) -> None:
        """No more sealing: wipe the keys. The first reason stays."""
        if self._ended is None:
            self._ended = reason
            self._keys.release()
            self._segment = None
            self._staging = bytearray()

    def take(self, size: int) -> Piece:
        """Spend the next *size* plaintext bytes' chunk numbers."""
        self.check()
        start = self.position
        if start % self.geometry.chunk_bytes:
            raise WriterStateError("the last chunk is sealed")
        segment, within = divmod(start, self.geometry.segment_bytes)
        if within == 0:
            if segment >= SEGMENTS_MAX:
                raise ConfigurationError("an object has at most 2**20 segments: take larger ones")
            salt = os.urandom(SALT_BYTES)
            self._salts += salt
            self._segment = SegmentKey(
                self._keys.segment_key(segment, salt),
                self._keys.header.suite,
                self.geometry.chunk_bytes,
            )
        key = self._segment
        if key is None:
            raise WriterStateError("no segment is open")
        run = self.geometry.run(start, size)
        lease = key.lease(run.first, self.geometry.chunks(size))
        self.position = start + size
        return Piece(run, bytes(self._salts[-SALT_BYTES:]), key, lease, self.geometry)

    def _jobs(self, data: memoryview) -> Iterator[Job]:
        """*data* as pieces, each in one segment."""
        unit = unit_bytes(len(data), self.geometry.chunk_bytes)
        start, stop = self.position, self.position + len(data)
        for run in self.geometry.runs(start, stop, stop, unit):
            yield self.take(run.size), data[run.start - start : run.stop - start]

    def feed(self, data: Any) -> Iterator[Iterator[Job]]:
        """Take *data*; yields groups of jobs.

        The jobs of a group may run side by side, and all must be done before the next group.
        Bytes that do not fill a step wait in the staging buffer.
        """
        self.check()
        source = bytes_view(data)
        room = len(self._staging) - self._staged
        if self._staged or len(source) < room:
            part = source[:room]
            self._staging[self._staged : self._staged + len(part)] = part
            self._staged += len(part)
            source = source[len(part) :]
            if self._staged < len(self._staging):
                return
            yield self._jobs(memoryview(self._staging))
            self._staged = 0
        whole = len(source) // self.geometry.chunk_bytes * self.geometry.chunk_bytes
        if whole >= len(self._staging):
            yield self._jobs(source[:whole])
            source = source[whole:]
        self._staging[: len(source)] = source
        self._staged = len(source)

    def flush(self) -> Iterator[Iterator[Job]]:
        """The bytes that wait, as the last jobs."""
        self.check()
        if self._staged:
            yield self._jobs(memoryview(self._staging)[: self._staged])
            self._staged = 0

    def trailer(self) -> bytes:
        """The trailer: everything was fed, flushed and sealed."""
        self.check()
        return self._keys.trailer(bytes(self._salts), self.position)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a writer cannot be pickled or copied")
