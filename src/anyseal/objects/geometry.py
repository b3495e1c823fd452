"""Where everything is: plaintext positions to ciphertext positions and back. Pure arithmetic.

An object is header, segments, trailer. A segment is 16 bytes of salt and its chunks, each with its
tag; every segment but the last holds exactly ``segment_bytes`` of plaintext (docs/format.md,
section 4).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from anyseal.errors import FormatError

__all__ = ["SALT_BYTES", "SEGMENTS_MAX", "TRAILER_FIXED_BYTES", "Geometry", "Run"]

SALT_BYTES = 16
TRAILER_FIXED_BYTES = 44
SEGMENTS_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring chunks of one segment: one call into C."""

    segment: int
    first: int
    """Number of the first chunk in its segment."""
    start: int
    """Plaintext position of the first byte, and how many there are."""
    size: int
    offset: int
    """Ciphertext position and length; a run from chunk 0 begins with the segment's salt."""
    length: int

    @property
    def salt_bytes(self) -> int:
        """How much of the ciphertext is salt."""
        return 0 if self.first else SALT_BYTES

    @property
    def stop(self) -> int:
        """Plaintext position after the last byte."""
        return self.start + self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The sizes that fix every position in an object."""

    chunk_bytes: int
    segment_bytes: int
    tag_bytes: int
    header_bytes: int

    def chunks(self, size: int) -> int:
        """Chunks that *size* bytes of plaintext within one segment take."""
        return -(-size // self.chunk_bytes)

    def segments(self, size: int) -> int:
        """Segments that *size* bytes of plaintext take."""
        return -(-size // self.segment_bytes)

    def sealed_segment(self, size: int) -> int:
        """Ciphertext bytes of a segment with *size* bytes of plaintext, salt included."""
        return SALT_BYTES + size + self.chunks(size) * self.tag_bytes

    def segment_offset(self, segment: int) -> int:
        """Ciphertext position of a segment's salt."""
        return self.header_bytes + segment * self.sealed_segment(self.segment_bytes)

    def trailer_offset(self, size: int) -> int:
        """Ciphertext position of the trailer of an object of *size* bytes."""
        full, rest = divmod(size, self.segment_bytes)
        return self.segment_offset(full) + (self.sealed_segment(rest) if rest else 0)

    @staticmethod
    def trailer_bytes(segments: int) -> int:
        """Length of a trailer that lists *segments* salts."""
        return SALT_BYTES * segments + TRAILER_FIXED_BYTES

    def sealed_size(self, size: int) -> int:
        """Length of the whole object with *size* bytes of plaintext."""
        return self.trailer_offset(size) + self.trailer_bytes(self.segments(size))

    def plaintext_size(self, sealed_size: int) -> int:
        """The plaintext length that makes an object of *sealed_size* bytes.

        Raises:
            FormatError: No plaintext length does.
        """
        body = sealed_size - self.header_bytes - TRAILER_FIXED_BYTES
        per_segment = self.sealed_segment(self.segment_bytes) + SALT_BYTES
        full, rest = divmod(body, per_segment)
        size = full * self.segment_bytes
        if rest > 2 * SALT_BYTES:
            rest -= 2 * SALT_BYTES
            chunks = -(-rest // (self.chunk_bytes + self.tag_bytes))
            size += rest - chunks * self.tag_bytes
        if body < 0 or self.sealed_size(size) != sealed_size:
            raise FormatError("no object of this geometry has this length")
        return size

    def window(self, limit: int) -> int:
        """Plaintext bytes of whole chunks, at least one, whose ciphertext takes up to *limit*
        bytes, with the salts of the segments that it may touch."""
        sealed_chunk = self.chunk_bytes + self.tag_bytes
        salts = SALT_BYTES * (limit // self.segment_bytes + 2)
        return max(1, (limit - salts) // sealed_chunk) * self.chunk_bytes

    def run(self, start: int, size: int) -> Run:
        """The run of *size* plaintext bytes from the chunk boundary *start*, in one segment."""
        segment, within = divmod(start, self.segment_bytes)
        first = within // self.chunk_bytes
        offset = self.segment_offset(segment)
        length = size + self.chunks(size) * self.tag_bytes
        if first:
            offset += SALT_BYTES + first * (self.chunk_bytes + self.tag_bytes)
        else:
            length += SALT_BYTES
        return Run(segment, first, start, size, offset, length)

    def runs(self, start: int, stop: int, size: int, limit: int) -> Iterator[Run]:
        """The runs that cover plaintext *start* to *stop* of an object of *size* bytes.

        They begin and end at chunk boundaries (or the object's end), do not cross segments, and
        hold at most *limit* bytes each (but at least one chunk).
        """
        step = max(self.chunk_bytes, limit // self.chunk_bytes * self.chunk_bytes)
        stop = min(-(-stop // self.chunk_bytes) * self.chunk_bytes, size)
        at = start // self.chunk_bytes * self.chunk_bytes
        while at < stop:
            segment_end = (at // self.segment_bytes + 1) * self.segment_bytes
            end = min(at + step, segment_end, stop)
            yield self.run(at, end - at)
            at = end
