"""Several awaited things at once: bounded, ended by the first error, and nothing left behind."""

from __future__ import annotations

import anyio
import pytest

from anyseal import tasks
from anyseal.errors import SourceError
from anyseal.objects.reader import ObjectReader
from anyseal.ports import Ends
from anyseal.tasks import Ahead, each_awaited, uninterrupted
from support import in_turn, pattern, seal_off_loop

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("count", [0, 1, 2, 9])
async def test_each_awaited_does_every_job_a_few_at_a_time(count: int) -> None:
    """A bound that does not hold is memory that is not there."""
    done, running, most = [], 0, 0

    async def work(job: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0.001)
        running -= 1
        done.append(job)

    await each_awaited(work, ((job,) for job in range(count)), 3)
    assert list(range(count)) == sorted(done)
    assert min(count, 3) == most


async def test_each_awaited_ends_with_the_first_error() -> None:
    """The error arrives as it is, not in a group, and what else ran is over by then."""
    ended = []

    async def work(job: int) -> None:
        if job == 1:
            raise SourceError("gone")
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(job)

    with pytest.raises(SourceError, match="gone"):
        await each_awaited(work, ((job,) for job in range(5)), 3)
    assert [0, 2] == sorted(ended)


async def test_ahead_returns_raises_or_is_dropped() -> None:
    """A stream that is closed early leaves no request behind."""
    ended = anyio.Event()

    async def value() -> int:
        return 7

    async def error() -> int:
        raise SourceError("gone")

    async def forever() -> int:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()
        return 0

    assert 7 == await Ahead(value).result()
    with pytest.raises(SourceError):
        await Ahead(error).result()
    call = Ahead(forever)
    await anyio.sleep(0.001)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await call.drop()
    assert ended.is_set()
    early = Ahead(forever)
    await early.drop()


class _Source:
    """A source that awaits, and gives *delta* bytes more than it is asked for."""

    def __init__(self, data: bytes, delta: int = 0) -> None:
        self.data, self.delta, self.running, self.most = data, delta, 0, 0

    async def ends(self, head: int, tail: int) -> Ends:
        return Ends(size=len(self.data), head=self.data[:head], tail=self.data[-tail:])

    async def read(self, offset: int, length: int) -> bytes:
        self.running += 1
        self.most = max(self.most, self.running)
        await anyio.sleep(0.002)
        self.running -= 1
        return self.data[offset : offset + length + self.delta]

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize("delta", [-1, 1])
async def test_reader_refuses_a_source_that_gives_another_length(delta: int, key: object) -> None:
    """The length steers how much memory is written: no source is trusted with it."""
    source = _Source(await seal_off_loop(pattern(30_000), key), delta)
    async with await ObjectReader.open(source, key) as reader:  # type: ignore[arg-type]
        for call in in_turn(reader.read_range(0), reader.verify()):
            with pytest.raises(SourceError):
                await call
        with pytest.raises(SourceError):
            async for _ in reader.stream():
                pass


async def test_uninterrupted_lets_the_call_end_and_undoes_it() -> None:
    """What was made for somebody who is no longer there must not be left lying about."""
    made: list[int] = []
    undone: list[int] = []

    go = anyio.Event()
    go.set()

    async def call() -> int:
        await anyio.sleep(0)
        await go.wait()
        made.append(1)
        return 7

    async def undo(thing: int) -> None:
        await anyio.sleep(0.01)
        undone.append(thing)

    assert 7 == await uninterrupted(call, undo)
    go = anyio.Event()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(uninterrupted, call, undo)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            go.set()
    assert ([1, 1], [7]) == (made, undone)

    async def fail() -> None:
        raise SourceError("as it is")

    with pytest.raises(SourceError, match="as it is"):
        await uninterrupted(fail)


async def test_uninterrupted_waits_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never answers must not keep a cancelled caller for ever."""
    monkeypatch.setattr(tasks, "GRACE", 0.02)
    with anyio.fail_after(60), anyio.move_on_after(0.01) as scope:
        await uninterrupted(anyio.sleep_forever)
    assert scope.cancelled_caught


async def test_reader_asks_for_several_ranges_at_once(
    key: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One round trip after another is what makes remote reads slow."""
    monkeypatch.setattr("anyseal.objects.reader.UNIT_BYTES", 16 << 10)
    data = pattern(200_000)
    source = _Source(await seal_off_loop(data, key))
    async with await ObjectReader.open(source, key) as reader:  # type: ignore[arg-type]
        assert data[5:-5] == await reader.read_range(5, len(data) - 5)
        await reader.verify()
        assert 4 == source.most
        for size in (1, 999, 4096, 65_536, 1 << 20):
            where = 100 if size > 1 else 199_000
            pieces = [piece async for piece in reader.stream(where, piece_size=size)]
            assert data[where:] == b"".join(pieces)
            assert all(len(piece) <= size for piece in pieces)
