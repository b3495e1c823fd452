"""Sessions beside asherah 0.5, whose core is Rust: warm calls, cold starts, memory, large rows.

``python -m bench.sessions CASE`` is a process of its own for what memory is measured of.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import count, repeat
from pathlib import Path
from time import perf_counter
from typing import Any

import anyio

from anyseal import CryptoPolicy, KeyHierarchy, SessionFactory, sync
from anyseal._ffi import lib
from anyseal.kms.static import StaticKms
from anyseal.metastore.memory import MemoryMetastore
from anyseal.ports import KeyRecord
from anyseal.testing import Recorder
from bench.harness import (
    MIB,
    Row,
    Settings,
    attempt,
    calls_for,
    paired,
    paired_async,
    slower,
    spread,
)
from bench.loop import gaps_beside

MASTER = "8f" * 32
RIVAL = "asherah 0.5"
GOALS = {64: (1.0, 0.9), 1 << 10: (0.8, 0.8), 16 << 10: (0.8, 0.8), MIB: (0.5, 0.5)}
AWAY = 0.05
COLD = 200
CACHED = 100_000
FEW = 1_000
ROW_BYTES = 100 * MIB


class Forgetful(MemoryMetastore):
    """Keeps the system key alone, so that memory is the cache's and not the metastore's."""

    async def store(self, record: KeyRecord) -> bool:
        return await super().store(record) if record.parent_id is None else True


class FarMetastore(MemoryMetastore):
    """Each call takes a while."""

    async def load(self, key_id: str, created: int) -> KeyRecord | None:
        await anyio.sleep(AWAY)
        return await super().load(key_id, created)

    async def load_latest(self, key_id: str) -> KeyRecord | None:
        await anyio.sleep(AWAY)
        return await super().load_latest(key_id)

    async def store(self, record: KeyRecord) -> bool:
        await anyio.sleep(AWAY)
        return await super().store(record)


class FarKms(StaticKms):
    """Each call takes a while; counts the unwraps."""

    def __init__(self) -> None:
        super().__init__(MASTER)
        self.unwraps = 0

    async def unwrap(self, wrapped: bytes) -> bytearray:
        self.unwraps += 1
        await anyio.sleep(AWAY)
        return await super().unwrap(wrapped)


def hierarchy(metastore: Any = None, kms: Any = None, **settings: Any) -> KeyHierarchy:
    """Ours, over a metastore in memory unless another is given."""
    return KeyHierarchy(
        kms or StaticKms(MASTER), metastore or MemoryMetastore(),
        service="svc", product="prod", **settings,
    )  # fmt: skip


def rival_factory() -> Any:
    """The rival's. Its metrics hook can hang at exit: it is left alone."""
    import asherah

    return asherah.SessionFactory(
        {
            "ServiceName": "svc",
            "ProductID": "prod",
            "Metastore": "memory",
            "KMS": "static",
            "StaticMasterKeyHex": MASTER,
        }
    )


def name_of(size: int) -> str:
    return f"{size >> 20} MiB" if size >= MIB else f"{size >> 10} KiB" if size >= 1024 else "64 B"


def many(call: Callable[[Any], Any], argument: Any) -> Callable[[int], None]:
    """*call* so many times in a row."""

    def calls(number: int) -> None:
        for _ in repeat(None, number):
            call(argument)

    return calls


def warm(settings: Settings) -> Iterator[Row]:
    """Sync calls on a warm key, side by side."""
    other = rival_factory()
    theirs = other.get_session("p")
    with sync.SessionFactory(hierarchy()) as factory:
        ours = factory.session("p")
        for size, goals in GOALS.items():
            data = os.urandom(size)
            row, other_row = ours.encrypt(data), theirs.encrypt_bytes(data)
            assert ours.decrypt(row) == theirs.decrypt_bytes(other_row) == data
            sides = (
                ("encrypt", many(ours.encrypt, data), many(theirs.encrypt_bytes, data)),
                ("decrypt", many(ours.decrypt, row), many(theirs.decrypt_bytes, other_row)),
            )
            for goal, (verb, mine, rivals) in zip(goals, sides, strict=True):
                calls = calls_for(rivals)
                pairs = paired(
                    lambda mine=mine, calls=calls: mine(calls),
                    lambda rivals=rivals, calls=calls: rivals(calls),
                    settings,
                )
                name = f"{verb} {name_of(size)}, sync"
                yield slower("sessions", name, pairs, calls, rival=RIVAL, at_most=goal)
    other.close()


async def awaited(settings: Settings) -> list[Row]:
    """Async calls on a warm key, one after another and a thousand at once."""
    other = rival_factory()
    theirs = other.get_session("p")
    rows: list[Row] = []
    async with SessionFactory(hierarchy()) as factory:
        ours = factory.session("p")
        data = os.urandom(64)
        row, other_row = await ours.encrypt(data), theirs.encrypt_bytes(data)

        async def one_by_one(call: Callable[[Any], Awaitable[Any]], argument: Any) -> None:
            for _ in repeat(None, 1000):
                await call(argument)

        async def at_once(call: Callable[[Any], Awaitable[Any]], argument: Any) -> None:
            await asyncio.gather(*[call(argument) for _ in repeat(None, 1000)])

        for way, goal, text in ((one_by_one, 15, "one by one"), (at_once, 5, "1,000 at once")):
            for verb, mine, rivals in (
                ("encrypt", (ours.encrypt, data), (theirs.encrypt_bytes_async, data)),
                ("decrypt", (ours.decrypt, row), (theirs.decrypt_bytes_async, other_row)),
            ):
                pairs = await paired_async(
                    lambda way=way, mine=mine: way(*mine),
                    lambda way=way, rivals=rivals: way(*rivals),
                    settings,
                )
                rows.append(_times(f"{verb} 64 B, async, {text}", pairs, 1000, goal))
    other.close()
    return rows


def _times(figure: str, pairs: Any, calls: int, at_least: float) -> Row:
    """How many times faster ours is."""
    ratios = [other / ours for ours, other in zip(pairs.ours, pairs.rival, strict=True)]
    low, middle, high = spread(ratios)
    ours, other = (spread(side)[1] / calls * 1e6 for side in (pairs.ours, pairs.rival))
    return Row(
        group="sessions",
        figure=figure,
        ours=f"{ours:.3g} us",
        rival=f"{RIVAL}: {other:.3g} us",
        value=middle,
        low=low,
        high=high,
        must=(">=", at_least),
        detail={"ours_s": ours / 1e6, "rival_s": other / 1e6, "pairs": len(ratios)},
    )


def _reported(
    figure: str, ours: str, rival: str, value: float, unit: str, must: Any, **detail: Any
) -> Row:
    """A figure without a rival to pair it with."""
    low, high = detail.pop("low", value), detail.pop("high", value)
    return Row(
        group="sessions", figure=figure, ours=ours, rival=rival, value=value, low=low, high=high,
        unit=unit, must=must, detail=detail,
    )  # fmt: skip


async def cold(settings: Settings) -> list[Row]:
    """Many first encrypts of one partition at once: its system key exists, its own does not."""
    store, rounds = FarMetastore(), max(3, settings.pairs_min)
    async with SessionFactory(hierarchy(store)) as factory:
        await factory.session("someone else").encrypt(b"")
    made: list[tuple[int, int, int]] = []
    took: list[float] = []
    partitions = (f"p{number}" for number in count())

    async def work() -> None:
        kms, seen = FarKms(), Recorder()
        async with SessionFactory(hierarchy(store, kms, metrics=seen)) as factory:
            session, started = factory.session(next(partitions)), perf_counter()
            await asyncio.gather(*[session.encrypt(b"x" * 64) for _ in range(COLD)])
            took.append(perf_counter() - started)
            await asyncio.sleep(0.005)  # the ticker sees the end
        loads, stores = seen.count(operation="load"), seen.count(operation="store")
        made.append((kms.unwraps, loads, stores))

    gaps = [max(await gaps_beside(work, 1)) for _ in range(rounds)]
    unwraps, loads, stores = (max(each) for each in zip(*made, strict=True))
    what = f"{COLD} cold encrypts at once, all {AWAY * 1e3:.0f} ms away"
    took_ms = spread(took)[1] * 1e3
    rows = [
        _reported(f"{what}: {name}", f"{value} in {took_ms:.0f} ms", "", value, "", ("<=", most))
        for name, value, most in (
            ("KMS decrypts", unwraps, 1),
            ("loads", loads, 2),
            ("stores", stores, 1),
        )
    ]
    rows.append(_gap(f"{what}: largest gap of a run", gaps))
    return rows


def _gap(figure: str, largest: list[float]) -> Row:
    """From the largest gap of each run: the median of these, and the largest of all."""
    low, middle, high = min(largest), spread(largest)[1], max(largest)
    return _reported(
        figure, f"{middle:.2f} ms, max of {len(largest)} runs {high:.2f} ms",
        "the tick itself: 1 ms", middle, "ms", ("<=", 10.0), low=low, high=high,
    )  # fmt: skip


def resident() -> int:
    """Bytes of this process in memory now."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) << 10


def _names(start: int, number: int) -> list[str]:
    return [f"user-{n:08d}" for n in range(start, start + number)]


async def fill(factory: SessionFactory, start: int, number: int) -> None:
    """Give *number* partitions a key, in the caches."""
    for name in _names(start, number):
        await factory.session(name).encrypt(b"")


async def memory_child() -> None:
    """Resident memory and arena slots of ever more cached partitions, in this process."""
    policy = CryptoPolicy(key_cache_size=2 * CACHED, session_cache_size=2 * CACHED)
    async with SessionFactory(hierarchy(Forgetful(), policy=policy)) as factory:
        await fill(factory, 0, FEW)
        gc.collect()
        before, keys = resident(), lib.anyseal_arena_live()
        await fill(factory, FEW, CACHED)
        gc.collect()
        print(
            json.dumps(
                {
                    "bytes": (resident() - before) / CACHED,
                    "keys": (lib.anyseal_arena_live() - keys) / CACHED,
                }
            )
        )


def memory() -> Row:
    """Bytes per cached partition, everything counted: names, objects, caches, the key's slot."""
    command = [sys.executable, "-m", "bench.sessions", "memory"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return _reported(
        f"memory per cached partition, {CACHED:,} of them",
        f"{answer['bytes']:.0f} B",
        f"{answer['keys']:.0f} key each",
        answer["bytes"],
        "B",
        ("<=", 1024.0),
        **answer,
    )


async def new_sessions(settings: Settings) -> Row:
    """A new session, which drops the oldest, in a large full cache and in a small one."""
    batch, names = 500, count(10 * CACHED)
    factories = {}
    for size in (CACHED, FEW):
        policy = CryptoPolicy(key_cache_size=size, session_cache_size=size)
        factories[size] = SessionFactory(hierarchy(Forgetful(), policy=policy))
        await fill(factories[size], 0, size)

    async def make(factory: SessionFactory) -> float:
        fresh = [f"user-{next(names):08d}" for _ in range(batch)]
        session = factory.session
        started = perf_counter()
        sessions = [session(name) for name in fresh]
        took = perf_counter() - started
        for made in sessions:  # what is dropped next has a key, too
            await made.encrypt(b"")
        return took

    pairs = await paired_async(
        lambda: make(factories[CACHED]), lambda: make(factories[FEW]), settings
    )
    for factory in factories.values():
        await factory.aclose()
    return slower(
        "sessions", f"a new session, the cache full at {CACHED:,}", pairs, batch,
        rival=f"full at {FEW:,}", at_most=1.5,
    )  # fmt: skip


async def large(settings: Settings) -> list[Row]:
    """The event loop beside one row of 100 MiB."""
    data, rounds = os.urandom(ROW_BYTES), max(3, settings.pairs_min)
    rows = []
    async with SessionFactory(hierarchy()) as factory:
        session = factory.session("p")
        row = await session.encrypt_row(data)
        assert await session.decrypt_row(row) == data
        for verb, call, argument in (
            ("encrypt_row", session.encrypt_row, data),
            ("decrypt_row", session.decrypt_row, row),
        ):

            async def work(call: Any = call, argument: Any = argument) -> None:
                await call(argument)
                await asyncio.sleep(0.005)  # the ticker sees the end, and what freeing costs

            gaps = [max(await gaps_beside(work, 1)) for _ in range(rounds)]
            rows.append(_gap(f"{verb} of {ROW_BYTES // MIB} MiB: largest gap of a run", gaps))
    return rows


def run(settings: Settings) -> Iterator[Row]:
    """All rows of this topic."""
    parts: list[tuple[str, str, Callable[[], Iterable[Row]]]] = [
        ("warm calls, sync", RIVAL, lambda: warm(settings)),
        ("warm calls, async", RIVAL, lambda: asyncio.run(awaited(settings))),
        ("cold starts", "", lambda: asyncio.run(cold(settings))),
        ("memory per cached partition", "", lambda: [memory()]),
        ("a new session", "", lambda: [asyncio.run(new_sessions(settings))]),
        ("large rows", "", lambda: asyncio.run(large(settings))),
    ]
    for name, rival, rows in parts:
        yield from attempt("sessions", name, rows, rival)


if __name__ == "__main__":
    asyncio.run({"memory": memory_child}[sys.argv[1]]())
