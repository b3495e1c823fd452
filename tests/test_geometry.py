"""Positions in objects: exhaustively where small, by properties where large."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyseal import FormatError
from anyseal.objects.geometry import Geometry, Run

TOYS = [
    Geometry(chunk_bytes=chunk, segment_bytes=segment, tag_bytes=tag, header_bytes=header)
    for chunk, segment in ((1, 1), (1, 3), (2, 4), (4, 4), (4, 12), (64, 128))
    for tag in (1, 16, 32)
    for header in (5, 200)
]


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Any geometry that a header can hold."""
    chunk = 1 << draw(st.integers(12, 24))
    segment = chunk * draw(st.integers(1, (1 << 36) // chunk))
    tag = draw(st.sampled_from((16, 32)))
    return Geometry(chunk_bytes=chunk, segment_bytes=segment, tag_bytes=tag, header_bytes=168 + tag)


def layout(geometry: Geometry, size: int) -> tuple[list[tuple[int, int, int]], int]:
    """Where each chunk begins in plaintext and ciphertext, and its length; the object's size.

    Counted byte by byte, as somebody would who has only read the specification.
    """
    chunks = []
    at, position, segments = geometry.header_bytes, 0, 0
    while position < size:
        segments += 1
        at += 16
        end = min(position + geometry.segment_bytes, size)
        while position < end:
            length = min(geometry.chunk_bytes, end - position)
            chunks.append((position, at, length))
            at += length + geometry.tag_bytes
            position += length
    return chunks, at + 16 * segments + 44


@pytest.mark.parametrize("geometry", TOYS, ids=repr)
def test_geometry_agrees_with_counting(geometry: Geometry) -> None:
    """Every position follows from the layout; a mistake of one byte reads the wrong chunk."""
    for size in range(3 * geometry.segment_bytes + 3):
        chunks, sealed = layout(geometry, size)
        assert sealed == geometry.sealed_size(size)
        assert size == geometry.plaintext_size(sealed)
        assert sealed - geometry.trailer_bytes(geometry.segments(size)) == (
            geometry.trailer_offset(size)
        )
        for position, at, length in chunks:
            run = geometry.run(position, length)
            salt = 0 if run.first else 16
            assert (at - salt, length + geometry.tag_bytes + salt) == (run.offset, run.length)
            assert salt == run.salt_bytes
            assert position == run.segment * geometry.segment_bytes + (
                run.first * geometry.chunk_bytes
            )


@pytest.mark.parametrize("geometry", TOYS, ids=repr)
def test_geometry_plaintext_size_refuses_impossible_lengths(geometry: Geometry) -> None:
    """A length that no object has is the first sign of a cut."""
    longest = 2 * geometry.segment_bytes + 1
    possible = {geometry.sealed_size(size): size for size in range(longest + 1)}
    for sealed in range(geometry.sealed_size(longest)):
        if sealed in possible:
            assert possible[sealed] == geometry.plaintext_size(sealed)
        else:
            with pytest.raises(FormatError):
                geometry.plaintext_size(sealed)


def check_runs(runs: list[Run], geometry: Geometry, bounds: tuple[int, int, int, int]) -> None:
    """They cover the range with whole chunks, once, in order, each within one segment."""
    start, stop, size, limit = bounds
    chunk, segment = geometry.chunk_bytes, geometry.segment_bytes
    if start >= min(stop, size) and start % chunk == 0:
        assert [] == runs
        return
    assert start // chunk * chunk == runs[0].start
    assert min(-(-stop // chunk) * chunk, size) == runs[-1].stop
    for run, following in pairwise(runs):
        assert run.stop == following.start
        ends = run.offset + run.length
        assert ends == following.offset
    for run in runs:
        assert 0 < run.size <= max(limit, chunk)
        assert run.start % chunk == 0
        assert run.stop % chunk == 0 or run.stop == size
        assert run.start // segment == (run.stop - 1) // segment == run.segment


@pytest.mark.parametrize("geometry", [g for g in TOYS if g.chunk_bytes < 64], ids=repr)
def test_geometry_runs_cover_exactly(geometry: Geometry) -> None:
    """For each range of each size: nothing is read twice, nothing is left out."""
    for size in range(2 * geometry.segment_bytes + 3):
        for start in range(size):
            for stop in range(start + 1, size + 1):
                for limit in (1, geometry.chunk_bytes * 2, 1000):
                    runs = list(geometry.runs(start, stop, size, limit))
                    check_runs(runs, geometry, (start, stop, size, limit))
    assert [] == list(geometry.runs(0, 0, 0, 1))


@given(geometry=geometries(), size=st.integers(0, 1 << 56))
def test_geometry_sizes_are_inverse(geometry: Geometry, size: int) -> None:
    """Also beyond what 32 or 53 bits hold."""
    sealed = geometry.sealed_size(size)
    assert size == geometry.plaintext_size(sealed)
    assert geometry.sealed_size(size + 1) > sealed
    segments = geometry.segments(size)
    overhead = geometry.header_bytes + 32 * segments + 44
    full, rest = divmod(size, geometry.segment_bytes)
    chunks = full * (geometry.segment_bytes // geometry.chunk_bytes) + geometry.chunks(rest)
    assert overhead + size + chunks * geometry.tag_bytes == sealed


@given(
    geometry=geometries(),
    size=st.integers(1, 1 << 44),
    at=st.floats(0, 1, exclude_max=True),
    count=st.integers(1, 1 << 20),
    limit=st.integers(1 << 18, 1 << 30),
)
def test_geometry_runs_cover_exactly_in_large_objects(
    geometry: Geometry, size: int, at: float, count: int, limit: int
) -> None:
    """The same in terabytes."""
    start = int(at * size)
    stop = min(size, start + count)
    runs = list(geometry.runs(start, stop, size, limit))
    check_runs(runs, geometry, (start, stop, size, limit))
    touched = sum(run.size for run in runs)
    assert touched <= stop - start + 2 * geometry.chunk_bytes


@given(geometry=geometries(), chunk=st.integers(0, 1 << 20), limit=st.integers(1, 1 << 30))
def test_geometry_window_fits_its_buffer(geometry: Geometry, chunk: int, limit: int) -> None:
    """What a request fetches fits into a buffer of *limit* bytes, so that the pool's are enough."""
    window = geometry.window(limit)
    start = chunk * geometry.chunk_bytes
    runs = list(geometry.runs(start, start + window, 1 << 60, geometry.segment_bytes))
    length = runs[-1].offset + runs[-1].length - runs[0].offset
    assert window % geometry.chunk_bytes == 0
    assert length <= limit or window == geometry.chunk_bytes
