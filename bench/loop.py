"""How long an event loop stands still while 1 GiB is sealed in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
from collections.abc import Awaitable, Callable, Iterator
from time import perf_counter, thread_time

import anyseal
from anyseal import Key, MemorySink, ObjectWriter, Suite
from bench import rivals
from bench.files import copy, write_file
from bench.harness import GIB, MIB, Row, Settings

TICK = 0.001


async def gaps_beside(
    work: Callable[[], Awaitable[object]],
    rounds: int,
    before: Callable[[], object] = int,
    own: list[float] | None = None,
) -> list[float]:
    """The time between two ticks of a 1 ms ticker, in ms, while *work* runs *rounds* times.

    *before* runs before each, without a ticker. *own* takes how much of it the loop itself ran:
    the rest of a gap it waited, for the tick or for a CPU.
    """
    gaps: list[float] = []
    own = [] if own is None else own

    async def tick() -> None:
        last, ran = perf_counter(), thread_time()
        while True:
            await asyncio.sleep(TICK)
            now, runs = perf_counter(), thread_time()
            gaps.append((now - last) * 1e3)
            own.append((runs - ran) * 1e3)
            last, ran = now, runs

    before()
    await work()  # threads and buffers exist from here on, as they do in a service
    for _ in range(rounds):
        before()
        task = asyncio.create_task(tick())
        await asyncio.sleep(0)
        await work()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    return gaps


def _row(figure: str, gaps: list[float], must: tuple[str, float] | None) -> Row:
    ordered = sorted(gaps)
    p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    middle = statistics.median(ordered)
    return Row(
        group="loop",
        figure=figure,
        ours=f"p99 {p99:.2f} ms, max {ordered[-1]:.2f} ms",
        rival="the tick itself: 1 ms",
        value=p99,
        low=middle,
        high=ordered[-1],
        must=must,
        unit="ms",
        detail={"ticks": len(ordered), "p50_ms": middle, "p99_ms": p99, "max_ms": ordered[-1]},
    )


def run(settings: Settings) -> Iterator[Row]:
    """All rows of this topic. The spread is from the median gap to the largest."""
    key, size = Key.generate(), settings.file_bytes
    rounds = max(3, settings.pairs_min)
    name = f"{size // GIB} GiB" if size >= GIB else f"{size // MIB} MiB"
    piece = rivals.pages(min(settings.payload, size))
    out = rivals.pages(rivals.room_for(size))
    plain, target = settings.folder / "plain", settings.folder / "target"

    async def idle() -> None:
        await asyncio.sleep(0.2)

    async def in_memory() -> None:
        async with ObjectWriter(MemorySink(out), key, suite=Suite.AEGIS256) as writer:
            for _ in range(0, size, len(piece)):
                await writer.write(piece)

    async def in_files() -> None:
        await anyseal.seal_file(plain, target, key)

    async def copying() -> None:
        await asyncio.to_thread(copy, plain, target)

    def settle() -> None:
        """The last run's writing is over and its file gone, see files.py."""
        target.unlink(missing_ok=True)
        os.sync()

    yield _row("ticker alone", asyncio.run(gaps_beside(idle, rounds)), None)
    gaps = asyncio.run(gaps_beside(in_memory, rounds))
    yield _row(f"ticker while {name} is sealed in memory", gaps, ("<=", 5.0))
    write_file(plain, size)
    try:
        gaps = asyncio.run(gaps_beside(in_files, rounds, settle))
        yield _row(f"ticker during seal_file of {name}", gaps, ("<=", 5.0))
        # What the kernel and the disk do to a loop that seals nothing.
        gaps = asyncio.run(gaps_beside(copying, rounds, settle))
        yield _row(f"ticker during a plain copy of {name} in a thread", gaps, None)
    finally:
        plain.unlink()
        target.unlink(missing_ok=True)
