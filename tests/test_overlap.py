"""What is written into a caller's buffer never overwrites what is still to be read."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import anyio
import pytest

import anyseal
from anyseal import Key, MemorySink, MemorySource, Suite, sync
from support import SMALL, C, pattern, seal_bytes

SIZE = 100


@pytest.fixture(params=["async", "sync"])
def face(request: pytest.FixtureRequest) -> Any:
    """Either face, by the names that both have."""
    return anyseal if request.param == "async" else sync


def done(result: Any) -> Any:
    """The result of a call of either face."""

    async def awaited() -> Any:
        return await result

    return anyio.run(awaited) if inspect.isawaitable(result) else result


def spans(first: int, count: int, length: int) -> list[slice]:
    """Places of *length* bytes that share some with the *count* bytes from *first*."""
    starts = {first - length + 1, first, first + 1, first + count // 2, first + count - 1}
    return [slice(at, at + length) for at in sorted(starts) if at >= 0]


@pytest.mark.parametrize("what", ["data", "context"])
def test_seal_into_refuses_an_input_in_the_output(
    face: Any, key: Key, suite: Suite, what: str
) -> None:
    """A header over the context, or ciphertext over the plaintext: it would never open again."""
    need = SIZE + anyseal.overhead(suite)
    for place in spans(200, need, SIZE):
        buffer = bytearray(pattern(1000))
        before, view = bytes(buffer), memoryview(buffer)
        given = {"data": pattern(SIZE), "context": b""} | {what: view[place]}
        with pytest.raises(ValueError, match="overlaps an input"):
            done(face.seal_into(
                view[200:], given["data"], key, context=given["context"], suite=suite
            ))  # fmt: skip
        assert before == buffer
    for place in (slice(200 - SIZE, 200), slice(200 + need, 200 + need + SIZE)):
        given[what] = view[place]
        done(face.seal_into(
            view[200:], given["data"], key, context=given["context"], suite=suite
        ))  # fmt: skip
        sealed, context = bytes(view[200 : 200 + need]), bytes(given["context"])
        assert bytes(given["data"]) == sync.open(sealed, key, context=context)


@pytest.mark.parametrize("what", ["sealed", "context"])
def test_open_into_refuses_an_input_in_the_output(
    face: Any, key: Key, suite: Suite, what: str
) -> None:
    """The plaintext over what is still to be verified."""
    context = pattern(SIZE, "context")
    sealed = sync.seal(pattern(SIZE), key, context=context, suite=suite)
    inputs = {"sealed": sealed, "context": context}
    for place in spans(400, SIZE, len(inputs[what])):
        buffer = bytearray(1000)
        buffer[place] = inputs[what]
        before, view = bytes(buffer), memoryview(buffer)
        given = inputs | {what: view[place]}
        with pytest.raises(ValueError, match="overlaps an input"):
            done(face.open_into(view[400:], given["sealed"], key, context=given["context"]))
        assert before == buffer


@pytest.mark.parametrize("size", [C, 40 * C])
def test_writer_refuses_its_own_sinks_memory(face: Any, key: Key, suite: Suite, size: int) -> None:
    """It would seal what it has just written. It stays usable, since nothing was sealed."""
    buffer = bytearray(100 * C)
    view, data = memoryview(buffer), pattern(size)
    writer = face.ObjectWriter(MemorySink(view), key, suite=suite, **SMALL)
    for place in (slice(0, size), slice(10, 10 + size), slice(100 * C - size, 100 * C)):
        with pytest.raises(ValueError, match="overlaps an input"):
            done(writer.write(view[place]))
    done(writer.write(data))
    count = done(writer.finish())
    with sync.ObjectReader.open(MemorySource(bytes(view[:count])), key) as reader:
        assert data == reader.read_range(0)


def test_reader_refuses_its_own_sources_memory(face: Any, key: Key, suite: Suite) -> None:
    """Plaintext over ciphertext that is read after it: the object would be lost."""
    data = pattern(5 * C)
    sealed = seal_bytes(data, key, suite=suite)
    buffer = bytearray(sealed) + bytearray(len(data))
    view = memoryview(buffer)
    source = MemorySource(view[: len(sealed)])
    opened = face.ObjectReader.open(source, key)
    reader = done(opened)
    try:
        for at in (0, 1, 400, len(sealed) - 1):
            with pytest.raises(ValueError, match="overlaps an input"):
                done(reader.read_into(0, view[at : at + len(data)]))
        assert sealed == view[: len(sealed)]
        assert len(data) == done(reader.read_into(0, view[len(sealed) :]))
        assert data == view[len(sealed) :]
    finally:
        done(reader.aclose() if face is anyseal else reader.close())


@pytest.mark.parametrize("run", ["seal", "open"])
def test_runs_of_chunks_refuse_overlap(key: Key, suite: Suite, run: str) -> None:
    """The engine itself, whatever source or sink a user writes; both AEAD libraries."""
    from anyseal.keys import Slot
    from anyseal.objects.chunks import SegmentKey, open_run, seal_run

    segment = SegmentKey(Slot.random(), suite, C)
    lease = segment.lease(0, 2)
    buffer = memoryview(bytearray(4 * C))
    size = 2 * C + 2 * segment.tag_bytes
    for at in (1, C, 2 * C - 1):
        if run == "seal":
            call = partial(seal_run, segment, lease, 0, buffer[: 2 * C], buffer[at : at + size])
        else:
            call = partial(open_run, segment, 0, buffer[:size], buffer[at : at + 2 * C])
        with pytest.raises(ValueError, match="overlaps an input"):
            call()
    segment.release()
