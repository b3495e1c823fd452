"""Which parts a multipart upload has, and how large they are. Pure arithmetic.

Part j + 1 is segment j; the first begins with the header, and one more holds the trailer, which is
written at completion. An object of one segment is one part with everything, and an empty one is a
header and a trailer (docs/format.md, section 5).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from anyseal.errors import ConfigurationError
from anyseal.objects.geometry import SALT_BYTES, TRAILER_FIXED_BYTES, Geometry

__all__ = [
    "OBJECT_MAX_BYTES",
    "PARTS_MAX",
    "PART_MAX_BYTES",
    "PART_MIN_BYTES",
    "PartPlan",
    "PartRange",
    "choose_segment_size",
]

# docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
PART_MIN_BYTES = 5 << 20
PART_MAX_BYTES = 5 << 30
OBJECT_MAX_BYTES = 5 << 40
PARTS_MAX = 10_000

HEADER_FIXED_BYTES = 168
"""Bytes of a header beside the tag of its wrapped key."""

_SEGMENTS_MAX = PARTS_MAX - 1  # the trailer takes one


def _up(size: int, chunk: int) -> int:
    return -(-size // chunk) * chunk


def choose_segment_size(size: int, wished: int, *, chunk_bytes: int, tag_bytes: int) -> int:
    """The segment size of a multipart upload of *size* plaintext bytes.

    Args:
        size: Declared plaintext bytes.
        wished: Wished plaintext bytes of a part.
        chunk_bytes: Plaintext bytes of a chunk.
        tag_bytes: Of the suite.

    Returns:
        A multiple of *chunk_bytes* for which no part is shorter or longer than S3 allows.

    Raises:
        ConfigurationError: There is none, or the object would be larger than S3 takes.
        ValueError: *size* is negative, or *wished* not positive.

    Cost: at most one step for each part.
    Source: docs/format.md, section 5.2.
    """
    if size < 0 or wished < 1:
        raise ValueError("size must not be negative, and the wished part size at least 1")
    chunks = -(-size // chunk_bytes)
    header = HEADER_FIXED_BYTES + tag_bytes
    bare = header + TRAILER_FIXED_BYTES  # and 32 bytes for each segment: two copies of its salt
    low = _up(max(PART_MIN_BYTES, -(-size // _SEGMENTS_MAX)), chunk_bytes)
    room = PART_MAX_BYTES - bare - 2 * SALT_BYTES
    high = room // (chunk_bytes + tag_bytes) * chunk_bytes
    if 0 < size <= wished and size + chunks * tag_bytes <= room:
        return _up(wished, chunk_bytes)
    room = OBJECT_MAX_BYTES - bare - size - chunks * tag_bytes
    most = room // (2 * SALT_BYTES)
    start = min(max(_up(wished, chunk_bytes), low), high)
    found = _upward(size, start, high, chunk_bytes, most)
    if found is None:
        found = _downward(size, start, low, chunk_bytes, most)
    if found is None:
        raise ConfigurationError("no part size that S3 allows fits an object of this size")
    return found


def _long_enough(size: int, segment: int, count: int) -> bool:
    """Whether the last of *count* segments is the only one, or as long as a part must be."""
    return count <= 1 or size - (count - 1) * segment >= PART_MIN_BYTES


def _upward(size: int, segment: int, high: int, chunk: int, most: int) -> int | None:
    """The first good one of *segment* and the multiples of *chunk* above it, to *high*.

    While the number of segments stays the same, a larger segment only shortens the last one: so
    the next candidate is the smallest segment that saves one of them.
    """
    while segment <= high:
        count = -(-size // segment)
        if count <= most and _long_enough(size, segment, count):
            return segment
        segment = _up(-(-size // (count - 1)), chunk)
    return None


def _downward(size: int, segment: int, low: int, chunk: int, most: int) -> int | None:
    """The first good one of the multiples of *chunk* below *segment*, to *low*."""
    segment -= chunk
    while segment >= low:
        count = -(-size // segment)
        if count > most:
            return None
        if _long_enough(size, segment, count):
            return segment
        longest = (size - PART_MIN_BYTES) // (count - 1) // chunk * chunk  # with a last that fits
        one_more = (size - 1) // count // chunk * chunk  # the largest that takes a segment more
        segment = max(longest, one_more)
    return None


@dataclass(frozen=True, slots=True)
class PartRange:
    """One part of the plan: what it holds, and how long it is in the bucket."""

    number: int
    """From 1, as S3 counts."""
    start: int
    """Plaintext position of the first byte."""
    stop: int
    """Plaintext position after the last byte."""
    sealed_size: int
    """Bytes in the bucket."""

    @property
    def size(self) -> int:
        """Plaintext bytes."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPlan:
    """The parts of an upload of *size* plaintext bytes, as an iterable of their ranges."""

    geometry: Geometry = field(repr=False)
    size: int

    @property
    def count(self) -> int:
        """Parts to upload: one for each segment. An empty object has none."""
        return self.geometry.segments(self.size)

    @property
    def part_size(self) -> int:
        """Plaintext bytes of each part but the last."""
        return self.geometry.segment_bytes

    @property
    def sealed_size(self) -> int:
        """Bytes of the whole object in the bucket."""
        return self.geometry.sealed_size(self.size)

    def part(self, number: int) -> PartRange:
        """The part with this number. Raises ValueError if there is none."""
        count = self.count
        if not 1 <= number <= count:
            raise ValueError(f"this upload has parts 1 to {count}" if count else "no parts at all")
        geometry = self.geometry
        start = (number - 1) * geometry.segment_bytes
        stop = min(start + geometry.segment_bytes, self.size)
        sealed = geometry.sealed_segment(stop - start)
        if number == 1:
            sealed += geometry.header_bytes
        if count == 1:
            sealed += geometry.trailer_bytes(1)
        return PartRange(number, start, stop, sealed)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[PartRange]:
        return map(self.part, range(1, self.count + 1))
