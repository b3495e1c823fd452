"""How long an event loop stands still beside each public awaitable, and while 1 GiB is sealed.

``python -m bench.loop [MIB ...] [--only WORD]`` prints what the ticker shows beside each call.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import anyseal
from anyseal import Key, MemorySink, ObjectWriter, Suite
from bench.harness import GIB, MIB, Row, Settings
from bench.servers import HttpCache, RedisServer, SeaweedFS, payload_calls, s3_client

TICK = 0.001
UNSIGNED = {"s3": {"addressing_style": "path", "payload_signing_enabled": False}}
ROUNDS = 3
AT_LEAST = 0.02
"""Seconds that a round takes: short calls are repeated."""
VALUE_MB = {1: 1, 16: 10, 100: 50}
"""Of structured values, by the MiB of bytes that are measured beside them."""


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
        kept = await work()
        await asyncio.sleep(TICK)  # the gap that *work* ends in counts, too
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        del kept  # not before: what it costs to free a large result is its owner's
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


def p99_of(gaps: list[float]) -> float:
    ordered = sorted(gaps)
    return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


async def _round(work: Callable[[], Awaitable[object]], count: int) -> list[float]:
    """The gaps of one round of *count* calls."""

    async def repeated() -> object:
        result: object = None
        for _ in range(count):
            result = await work()
            if count > 1:
                await asyncio.sleep(0)
        return result

    return await gaps_beside(repeated, 1)


@contextlib.contextmanager
def _uncollected(apart: bool) -> Iterator[None]:
    """If *apart*, no collector runs: it goes through all objects of the process at once, and a
    million small dicts wake it often."""
    gc.collect()
    if apart:
        gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def beside_call(
    make: Any, bed: Any, *, objects: bool = False
) -> tuple[list[float], list[float], int]:
    """The gaps of the quietest of some rounds of one call; those of as many ``sleep(0)``; the
    number of calls. With *objects* the result is many objects: then without the collector."""
    async with make(bed) as work:
        await work()
        started = perf_counter()
        await work()
        count = max(1, round(AT_LEAST / (perf_counter() - started)))
        rounds = []
        for _ in range(ROUNDS):
            with _uncollected(objects):
                rounds.append(await _round(work, count))
    beside = await _round(lambda: asyncio.sleep(0), count)
    return min(rounds, key=max), beside, count


def _call_row(case: Any, size: str, gaps: list[float], beside: list[float], count: int) -> Row:
    row = _row(f"ticker beside {case.name}, {size}", gaps, None)
    row.detail.update(
        calls=count, unbounded="S3" if case.needs == "s3" else case.unbounded,
        sleep_p99_ms=p99_of(beside), sleep_max_ms=max(beside), case=case.name, size=size,
    )  # fmt: skip
    rival = f"sleep(0): p99 {p99_of(beside):.2f} ms, max {max(beside):.2f} ms"
    return replace(row, rival=rival)


def calls(mib: int, folder: Path, servers: dict[str, Any], only: str = "") -> Iterator[Row]:
    """A row for each call of a public awaitable, with payloads of *mib* MiB."""
    beds: dict[str, Any] = {}
    for case in payload_calls.CASES:
        if only not in case.name or (case.needs and case.needs not in servers):
            continue
        size, name = mib * MIB, f"{mib} MiB"
        if case.payload == "value":
            if mib not in VALUE_MB:
                continue
            size, name = VALUE_MB[mib] * 1_000_000, f"{VALUE_MB[mib]} MB"
        elif mib > 16 and (case.payload == "other text" or "cashews" in case.name):
            continue  # the documentation tells their cost, in ms for each MiB
        if name not in beds:
            beds[name] = payload_calls.Bed(size=size, folder=folder, servers=servers)
        yield _call_row(case, name, *asyncio.run(_with_servers(case, beds[name])))


async def _with_servers(case: Any, bed: Any) -> tuple[list[float], list[float], int]:
    if case.needs != "s3":
        return await beside_call(case.make, bed, objects=case.payload == "value")
    url, bucket = bed.servers["s3"]
    async with s3_client(url, **UNSIGNED, max_pool_connections=16) as client:
        given = replace(bed, servers={"s3": (client, bucket)})
        return await beside_call(case.make, given)


def _worst(size: str, rows: list[Row]) -> Iterator[Row]:
    """What is bounded: the worst of all calls but those that are only reported, of S3 and those
    whose ``unbounded`` says why."""
    bounded = [row for row in rows if not row.detail["unbounded"]]
    for what, most in (("p99", 5.0), ("max", 10.0)):
        worst = max(bounded, key=lambda row: row.detail[f"{what}_ms"])
        value = worst.detail[f"{what}_ms"]
        yield Row(
            group="loop",
            figure=f"ticker beside each public awaitable, {size}: worst {what}",
            ours=worst.detail["case"],
            rival="the tick itself: 1 ms",
            value=value,
            low=min(row.detail[f"{what}_ms"] for row in bounded),
            high=value,
            must=("<=", most),
            unit="ms",
            detail={"calls": len(bounded)},
        )


@contextlib.contextmanager
def running() -> Iterator[dict[str, Any]]:
    """The servers that calls want, and their addresses."""
    with contextlib.ExitStack() as stack:
        redis, http, s3 = RedisServer(), HttpCache(), SeaweedFS()
        for server in (redis, http, s3):
            stack.callback(server.close)
        yield {"redis": redis.url, "http": http.address, "s3": (s3.url, s3.new_bucket())}


def awaitables(settings: Settings) -> Iterator[Row]:
    """Every public awaitable with a payload, size by size."""
    with running() as servers:
        for mib in settings.loop_mib:
            rows = list(calls(mib, settings.folder, servers))
            yield from rows
            yield from _worst(f"{mib} MiB", rows)


def run(settings: Settings) -> Iterator[Row]:
    """All rows of this topic. The spread is from the median gap to the largest."""
    yield from streams(settings)
    yield from awaitables(settings)


def streams(settings: Settings) -> Iterator[Row]:
    """The loop while an object of ``file_bytes`` is sealed."""
    from bench import rivals  # which want packages that the calls above do not
    from bench.files import copy, write_file

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


def main() -> None:
    """Print a line for each call."""
    parser = argparse.ArgumentParser(prog="python -m bench.loop", description=__doc__)
    parser.add_argument("mib", nargs="*", type=int, default=[16, 100], metavar="MIB")
    parser.add_argument("--only", default="", metavar="WORD", help="calls whose name has it")
    parser.add_argument("--no-servers", action="store_true", help="no Redis, HTTP, S3")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-loop-"))
        servers = {} if options.no_servers else stack.enter_context(running())
        for mib in options.mib:
            rows = []
            for row in calls(mib, Path(folder), servers, options.only):
                print(f"{row.ours:32} {row.figure.removeprefix('ticker beside ')}", flush=True)
                rows.append(row)
            for row in _worst(f"{mib} MiB", rows) if rows else ():
                print(f"{row.figure}: {row.value:.2f} ms ({row.ours})", flush=True)


if __name__ == "__main__":
    main()
