"""What a reader knows once head and tail have verified: where all is, and the keys to open it."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from anyseal import offload
from anyseal._ffi import lib, view_writable
from anyseal.config import STEP_BYTES, UNIT_BYTES
from anyseal.errors import DecryptionError, FormatError, SourceError
from anyseal.keys import Key
from anyseal.objects.chunks import SegmentKey, open_run
from anyseal.objects.format import HEADER_MAX_BYTES, Header, ObjectKeys, Trailer
from anyseal.objects.geometry import SALT_BYTES, TRAILER_FIXED_BYTES, Run
from anyseal.objects.sealer import unit_bytes
from anyseal.ports import BlockingSource, Ends

__all__ = [
    "TAIL_BYTES",
    "NeedBytes",
    "NeedEnds",
    "NeedKey",
    "OpenedObject",
    "Part",
    "Request",
    "opening",
]

TAIL_BYTES = 4096
"""Read at the end at once: the trailer of up to 253 segments (16 GiB in segments of 64 MiB)."""

SEGMENT_KEYS_MAX = 64


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


@dataclass(frozen=True, slots=True)
class Request:
    """Neighbouring chunks that are fetched at once, across the ends of segments."""

    start: int
    """Plaintext position of the first wanted byte, and after the last."""
    stop: int
    offset: int
    """Ciphertext position and length of the chunks that hold them."""
    length: int


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

    def resume_mac(self, state: bytes) -> bytes:
        """The MAC of the *state* of an unfinished download of this very sealing."""
        return self.keys.resume_mac(hashlib.sha256(self._salts).digest() + state)

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

    def requests(self, start: int, stop: int, limit: int = UNIT_BYTES) -> Iterator[Request]:
        """The requests that fetch plaintext *start* to *stop*, each of up to *limit* bytes of
        ciphertext: that is what a buffer must hold."""
        chunk = self.geometry.chunk_bytes
        step = self.geometry.window(limit)
        while start < stop:
            end = min(stop, start // chunk * chunk + step)
            yield self.request(start, end)
            start = end

    def request(self, start: int, stop: int) -> Request:
        """The one request that fetches plaintext *start* to *stop*, which is not empty."""
        runs = list(self.geometry.runs(start, stop, self.size, self.geometry.segment_bytes))
        offset, last = runs[0].offset, runs[-1]
        return Request(start, stop, offset, last.offset + last.length - offset)

    @staticmethod
    def answer(request: Request, sealed: Any) -> memoryview:
        """*sealed* as the answer to *request*: its length steers how much memory is written.

        Raises:
            SourceError: It has not the length that was asked for.
        """
        view = memoryview(sealed).cast("B")
        if len(view) != request.length:
            raise SourceError("the source gave other bytes than were asked for")
        return view

    def opened_steps(self, request: Request, sealed: Any) -> Iterator[tuple[Part, memoryview]]:
        """What *sealed*, the answer to *request*, holds, in steps for :meth:`open_part`."""
        sealed = self.answer(request, sealed)
        for step in self.parts(request.start, request.stop, STEP_BYTES):
            at = step.run.offset - request.offset
            yield step, sealed[at : at + step.run.length]

    def open_request(self, request: Request, sealed: Any, out: memoryview) -> None:
        """Open *sealed*, the answer to *request*, into *out*, which it fills.

        Raises:
            DecryptionError: Something does not verify; *out* holds verified bytes or zeros.
        """
        for step, piece in self.opened_steps(request, sealed):
            at = step.start - request.start
            self.open_part(step, piece, out[at : at + step.stop - step.start])

    def verify_request(self, request: Request, sealed: Any) -> None:
        """Open *sealed*, the answer to *request*, and keep nothing of it."""
        for step, piece in self.opened_steps(request, sealed):
            with offload.buffers().lease(step.stop - step.start) as scratch:
                try:
                    self.open_part(step, piece, scratch)
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
    # A source's own memory may change.
    ends = Ends(size=ends.size, head=bytes(ends.head), tail=bytes(ends.tail))
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
