"""Writers that fail, are cancelled, forked or shared: no key and nonce ever meet twice."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import anyseal
from anyseal import (
    FileSink,
    Key,
    MemorySink,
    StreamSink,
    Suite,
    WriterStateError,
    sync,
)
from anyseal.keys import Slot
from anyseal.objects import sealer as sealer_module
from support import (
    SMALL,
    C,
    S,
    Tracked,
    a_key,
    names,
    open_by_pipe,
    open_by_range,
    outcome,
    pattern,
    seal_bytes,
)

DATA = pattern(5 * S + 100)
CALLS = 60  # more hops than any run here makes


class Recorder:
    """Stands before the AEAD: every segment key and chunk number that it is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: Counter[tuple[bytes, int]] = Counter()
        self._seal_run = sealer_module.seal_run
        monkeypatch.setattr(sealer_module, "seal_run", self.seal_run)

    def seal_run(self, key: Any, lease: Slot, first: int, data: Any, out: memoryview) -> None:
        secret = lease.export()
        for index in range(-(-len(data) // key.chunk_bytes)):
            self.seen[secret, first + index] += 1
        self._seal_run(key, lease, first, data, out)

    def repeated(self) -> list[int]:
        """Chunk numbers that met their key more than once."""
        return [index for (_, index), count in self.seen.items() if count > 1]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Records what is sealed in the test."""
    return Recorder(monkeypatch)


class FailingSink(MemorySink):
    """A local sink that refuses its n-th write."""

    def __init__(self, fail_at: int) -> None:
        super().__init__()
        self.left, self.aborted = fail_at, 0

    def pwrite(self, offset: int, data: memoryview) -> None:
        self.left -= 1
        if self.left == 0:
            raise OSError("no space left")
        super().pwrite(offset, data)

    def abort(self) -> None:
        self.aborted += 1
        super().abort()


def test_recorder_sees_everything(recorder: Recorder, key: Key, suite: Suite) -> None:
    """Without this, the tests below would prove nothing."""
    seal_bytes(DATA, key, suite=suite)
    assert -(-len(DATA) // C) == len(recorder.seen)
    assert 6 == len({secret for secret, _ in recorder.seen})
    assert [] == recorder.repeated()


def test_writer_ends_when_its_sink_fails(recorder: Recorder, key: Key, suite: Suite) -> None:
    """A retry would seal other bytes under a number that was used: there must be none."""
    for fail_at in range(1, 30):
        sink = FailingSink(fail_at)
        writer = sync.ObjectWriter(sink, key, suite=suite, **SMALL)
        try:
            for _ in range(2):
                writer.write(DATA)
            writer.finish()
        except OSError:
            assert 1 == sink.aborted
            for call in (lambda w=writer: w.write(b"again"), writer.finish):
                with pytest.raises(WriterStateError, match="ended the writer"):
                    call()
            writer.close()
            assert 1 == sink.aborted
        else:
            assert DATA * 2 == open_by_range(sink.getvalue(), key)
            break
    assert 5 < fail_at < 29
    assert [] == recorder.repeated()


@pytest.mark.anyio
async def test_writer_ends_when_its_stream_fails(recorder: Recorder, key: Key) -> None:
    """The same for a sink that awaits, at each of its writes."""
    data = pattern(3 << 20)
    for fail_at in range(1, 20):
        sent: list[bytes] = []

        async def send(piece: bytes, sent: list[bytes] = sent, fail_at: int = fail_at) -> None:
            await anyio.sleep(0)
            if len(sent) == fail_at - 1:
                raise ConnectionResetError
            sent.append(piece)

        writer = anyseal.ObjectWriter(StreamSink(send), key, segment_size=1 << 20)
        try:
            await writer.write(data)
            await writer.finish()
        except ConnectionResetError:
            for call in (lambda w=writer: w.write(b"x"), writer.finish):
                with pytest.raises(WriterStateError):
                    await call()
            assert outcome(open_by_pipe, b"".join(sent), key) in ("FormatError", "DecryptionError")
        else:
            break
    assert 4 < fail_at < 19
    assert [] == recorder.repeated()


def sinks(tmp_path: Path) -> dict[str, Callable[[], Any]]:
    """A sink of each kind, each with its own way through the writer."""

    async def send(data: bytes) -> None:
        await anyio.sleep(0)

    return {
        "memory": MemorySink,
        "file": lambda: FileSink(tmp_path / "out", overwrite=True),
        "stream": lambda: StreamSink(send),
        "append": lambda: sync.StreamSink(Discard()),
    }


class Discard:
    """A file that keeps nothing."""

    def write(self, data: Any) -> int:
        return len(data)

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("when", ["before", "during"])
@pytest.mark.parametrize("kind", ["memory", "file", "stream", "append"])
@pytest.mark.anyio
async def test_writer_cancelled_anywhere_is_over(
    kind: str, when: str, recorder: Recorder, key: Key, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """At each hop of write and finish: no output, no resuming, nobody still working."""
    tracked = Tracked(monkeypatch, when)
    data = pattern(1 << 20) * 3
    cancelled = 0
    for target in range(1, CALLS):
        sink = await anyio.to_thread.run_sync(sinks(tmp_path)[kind])
        writer = anyseal.ObjectWriter(sink, key, segment_size=1 << 20, suite="XCHACHA20POLY1305")
        tracked.hops, tracked.target = 0, target
        with anyio.CancelScope() as scope:
            tracked.cancel = scope.cancel
            await writer.write(data)
            await writer.write(data)
            await anyio.lowlevel.checkpoint()
            await writer.finish()
        assert 0 == tracked.working
        if tracked.hops < target:
            break
        if scope.cancelled_caught:
            cancelled += 1
            await writer.aclose()
            for call in (lambda w=writer: w.write(b"x"), writer.finish):
                with pytest.raises(WriterStateError):
                    await call()
            assert [] == await anyio.to_thread.run_sync(names, tmp_path)
            if kind == "memory":
                with pytest.raises(ValueError, match="not finished"):
                    sink.getvalue()
        tracked.target = 0
        for name in await anyio.to_thread.run_sync(names, tmp_path):
            # It was whole before the cancellation came; the next run may make more hops than this.
            await anyio.Path(tmp_path / name).unlink()
    assert target < CALLS - 1
    assert cancelled > 2
    assert [] == recorder.repeated()


@pytest.mark.parametrize("kind", ["memory", "file", "stream", "append"])
def test_writer_cancelled_by_asyncio_is_over(
    kind: str, recorder: Recorder, key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same by ``Task.cancel``, which goes through anyio's shields."""
    tracked = Tracked(monkeypatch, "during")
    data = pattern(1 << 20) * 3

    async def main(target: int) -> bool:
        sink = await anyio.to_thread.run_sync(sinks(tmp_path)[kind])
        writer = anyseal.ObjectWriter(sink, key, segment_size=1 << 20, suite="XCHACHA20POLY1305")

        async def use() -> None:
            await writer.write(data)
            await writer.finish()

        tracked.hops, tracked.target = 0, target
        task = asyncio.ensure_future(use())
        tracked.cancel = task.cancel
        await asyncio.wait([task])
        assert 0 == tracked.working
        if task.cancelled():
            with pytest.raises(WriterStateError):
                await writer.write(b"x")
            if not (kind == "file" and tracked.hops == target):  # while it was renamed
                assert [] == names(tmp_path)
        for name in names(tmp_path):
            (tmp_path / name).unlink()
        return task.cancelled()

    results = []
    for target in range(1, CALLS):
        results.append(asyncio.run(main(target)))
        if tracked.hops < target:
            break
    assert target < CALLS - 1
    assert any(results)
    assert [] == recorder.repeated()


@pytest.mark.anyio
async def test_writer_used_by_two_tasks_refuses_the_second(key: Key) -> None:
    """Interleaved writes would be an object that nobody wrote; the first task goes on."""
    sent: list[bytes] = []
    gate = anyio.Event()

    async def send(data: bytes) -> None:
        await gate.wait()
        sent.append(data)

    writer = anyseal.ObjectWriter(StreamSink(send), key, **SMALL)
    async with anyio.create_task_group() as group:
        group.start_soon(writer.write, DATA)
        await anyio.wait_all_tasks_blocked()
        for call in (lambda: writer.write(b"second"), writer.finish):
            with pytest.raises(WriterStateError, match="busy"):
                await call()
        gate.set()
    await writer.finish()
    found = await anyio.to_thread.run_sync(open_by_range, b"".join(sent), key)
    assert DATA == found


def test_writer_cannot_be_copied(key: Key) -> None:
    """Two copies would go on under the same keys and numbers."""
    writer = sync.ObjectWriter(MemorySink(), key, **SMALL)
    writer.write(DATA)
    for thing in (writer, anyseal.ObjectWriter(MemorySink(), key), writer._sealer):
        for copying in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError):
                copying(thing)
    writer.finish()


def test_same_data_twice_shares_no_key(recorder: Recorder) -> None:
    """Two objects of one key and context: nothing in common but the sizes."""
    one, two = seal_bytes(DATA, a_key()), seal_bytes(DATA, a_key())
    assert len(one) == len(two)
    assert [] == recorder.repeated()
    assert 12 == len({secret for secret, _ in recorder.seen})
