"""Seal one part of a multipart upload by itself, wherever the others are sealed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NoReturn, TypeAlias

from anyseal._ffi import process_number
from anyseal.config import STEP_BYTES
from anyseal.errors import UploadError, WriterStateError
from anyseal.objects.chunks import SegmentKey
from anyseal.objects.format import ObjectKeys
from anyseal.objects.geometry import SALT_BYTES
from anyseal.objects.parts import PartPlan
from anyseal.objects.sealer import Piece, bytes_view, unit_bytes
from anyseal.pages import fresh_bytes

__all__ = ["PartJob", "PartSealer", "seal_job"]

PartJob: TypeAlias = tuple[Piece, memoryview, memoryview]
"""A piece, its plaintext, and where it goes."""


def seal_job(piece: Piece, data: memoryview, out: memoryview) -> None:
    """Do one job. Any thread."""
    piece.seal(piece.run, data, out)


class PartSealer:
    """Seals the plaintext that it is fed, front to back, into a fresh ``bytes``.

    Under a salt of its own: another sealing of the same part, with the same bytes or others, has
    another key. It is used once; whoever fails midway drops it.

    Args:
        keys: Of the object.
        plan: The parts of the upload.
        number: Which of them this is.

    Raises:
        ValueError: There is no such part.
    """

    def __init__(self, keys: ObjectKeys, plan: PartPlan, number: int) -> None:
        self.part = plan.part(number)
        self.salt = os.urandom(SALT_BYTES)
        self._geometry = geometry = keys.geometry
        self._body, self._out = fresh_bytes(self.part.sealed_size)
        self._offset = 0 if number == 1 else geometry.segment_offset(number - 1)
        if number == 1:
            header = keys.header.to_bytes()
            self._out[: len(header)] = header
        if plan.count == 1:
            trailer = keys.trailer(self.salt, plan.size)
            self._out[-len(trailer) :] = trailer
        slot = keys.segment_key(number - 1, self.salt)
        self._key = SegmentKey(slot, keys.header.suite, geometry.chunk_bytes)
        self._position = self.part.start
        self._fed = 0
        chunk = geometry.chunk_bytes
        self._step = max(chunk, STEP_BYTES // chunk * chunk)
        self._staging = bytearray()
        self._staged = 0
        self._process = process_number()

    def _jobs(self, data: memoryview) -> Iterator[PartJob]:
        """*data* as pieces whose chunk numbers are spent."""
        start, stop = self._position, self._position + len(data)
        unit = unit_bytes(len(data), self._geometry.chunk_bytes)
        for run in self._geometry.runs(start, stop, self.part.stop, unit):
            if process_number() != self._process:
                raise WriterStateError("forked in the middle of a part")
            lease = self._key.lease(run.first, self._geometry.chunks(run.size))
            piece = Piece(run, self.salt, self._key, lease, self._geometry)
            self._position = run.stop
            at = run.offset - self._offset
            yield (
                piece,
                data[run.start - start : run.stop - start],
                self._out[at : at + run.length],
            )

    def _stage(self, data: memoryview) -> None:
        if not self._staging:
            self._staging = bytearray(self._step)
        self._staging[self._staged : self._staged + len(data)] = data
        self._staged += len(data)

    def feed(self, data: Any) -> Iterator[Iterator[PartJob]]:
        """Take *data*; yields groups of jobs.

        The jobs of a group may run side by side, and all must be done before the next group.

        Raises:
            TypeError: Not bytes-like.
            UploadError: More than belongs to the part.
        """
        source = bytes_view(data)
        self._fed += len(source)
        if self._fed > self.part.size:
            raise UploadError(f"part {self.part.number} has more than {self.part.size:,} bytes")
        last = self._fed == self.part.size
        if self._staged or (not last and len(source) < self._step):
            room = self._step - self._staged
            self._stage(source[:room])
            source = source[room:]
            if self._staged < self._step and not (last and not source):
                return
            yield self._jobs(memoryview(self._staging)[: self._staged])
            self._staged = 0
        chunk = self._geometry.chunk_bytes
        whole = len(source) if last else len(source) // chunk * chunk
        if whole:
            yield self._jobs(source[:whole])
        if whole < len(source):
            self._stage(source[whole:])

    def finish(self) -> bytes:
        """The sealed part: immutable, so that a retry sends the same bytes.

        Raises:
            UploadError: Less was fed than belongs to the part.
        """
        if self._position != self.part.stop:
            raise UploadError(
                f"part {self.part.number} has {self._fed:,} bytes, not {self.part.size:,}"
            )
        body, self._body = self._body, b""
        self.close()
        return body

    def close(self) -> None:
        """Wipe the part's key. Idempotent."""
        self._key.release()
        self._staging = bytearray()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a sealer cannot be pickled or copied")
