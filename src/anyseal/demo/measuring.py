"""What the demo measures with: the clock, a ticker on the event loop, and a file that counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from anyseal import sync
from anyseal.ports import Ends

__all__ = ["CountingSource", "Times", "p99", "ticked"]

TICK_SECONDS = 0.001


class CountingSource:
    """A file that remembers which of its bytes were asked for."""

    def __init__(self, path: Path) -> None:
        self._file = sync.FileSource(path)
        self.reads: list[int] = []

    def pread_ends(self, head: int, tail: int) -> Ends:
        ends = self._file.pread_ends(head, tail)
        self.reads += [len(ends.head), len(ends.tail)]
        return ends

    def pread_into(self, offset: int, buffer: memoryview) -> None:
        self.reads.append(len(buffer))
        self._file.pread_into(offset, buffer)

    def window(self, offset: int, length: int) -> memoryview | None:
        return None

    def close(self) -> None:
        self._file.close()


@dataclass
class Times:
    """Seconds by what took them."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    async def of(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """Await *work* and take its time."""
        begin = time.perf_counter()
        await work()
        self.seconds.setdefault(name, []).append(time.perf_counter() - begin)

    def median(self, name: str) -> float:
        """Of all that was taken."""
        return statistics.median(self.seconds[name])


async def ticked(work: Callable[[], Awaitable[object]]) -> list[float]:
    """The gaps between the ticks of a 1 ms ticker while *work* is awaited, sorted."""
    gaps: list[float] = []

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await anyio.sleep(TICK_SECONDS)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        await work()
        # One more tick: work that kept the loop to its end would show only in this one.
        await anyio.sleep(2 * TICK_SECONDS)
        group.cancel_scope.cancel()
    return sorted(gaps)


def p99(ordered: list[float]) -> float:
    """What 99 of 100 do not exceed."""
    return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
