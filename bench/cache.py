"""The cache beside cachekit 0.24 with its encryption on, over one Redis on this machine.

``python -m bench.cache CASE ARGUMENTS`` is a process of its own: what memory is measured of, and
what takes part in a herd.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import string
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import count, repeat
from pathlib import Path
from time import perf_counter
from typing import Any

from anyseal import StaticKeyring, sync
from anyseal.cache import Cache, cached, secure
from anyseal.cache.backends.redis import RedisBackend
from anyseal.cache.codecs import codec_named
from anyseal.cache.codecs.arrow import ArrowCodec
from anyseal.compat.cachekit import cache as drop_in_cache
from anyseal.value import open_under, seal_under
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
from bench.memory import peak
from bench.servers import RedisServer

MASTER = "8f" * 32
RIVAL = "cachekit 0.24"
MANY = 100
LARGE = 100 * MIB
HERD_SECONDS = 7.0

KILOBYTE = {
    "id": 42,
    "name": "Ada Lovelace",
    "tags": ["first", "second", "third"],
    "notes": "".join(random.Random(7).choices(string.ascii_letters, k=900)),
}


def keyring() -> StaticKeyring:
    return StaticKeyring(MASTER)


def rival_cache(url: str, *, local: bool) -> Any:
    """The rival's decorator with its encryption on; it logs nothing and asks nobody."""
    import logging

    logging.disable(logging.WARNING)
    from cachekit import cache
    from cachekit.backends.redis import RedisBackend as RivalBackend

    return cache.secure(
        ttl=300, master_key=MASTER, backend=RivalBackend(url), l1_enabled=local, namespace="rival"
    )


def many(call: Callable[[Any], Any], argument: Any) -> Callable[[int], None]:
    """*call* so many times in a row."""

    def calls(number: int) -> None:
        for _ in repeat(None, number):
            call(argument)

    return calls


async def in_a_row(call: Callable[[Any], Awaitable[Any]], argument: Any, number: int) -> None:
    for _ in repeat(None, number):
        await call(argument)


def in_process(url: str, settings: Settings) -> Iterator[Row]:
    """A hit that leaves the process alone: 100 bytes, sealed in memory, opened each time."""
    text = "x" * 100
    rival, own = rival_cache(url, local=True), secure(ttl=300, master_key=MASTER)

    def value(number: int) -> str:
        return text

    async def awaited(number: int) -> str:
        return text

    ours, theirs = own(value), rival(value)
    assert ours(1) == theirs(1) == ours(1) == theirs(1) == text
    calls = calls_for(many(theirs, 1))
    pairs = paired(
        lambda: many(ours, 1)(calls), lambda: many(theirs, 1)(calls), settings
    )  # fmt: skip
    yield slower("cache", "in-process hit, 100 B, sync", pairs, calls, rival=RIVAL, at_most=1 / 3)

    async def both() -> Row:
        mine, other = own(awaited), rival(awaited)
        assert await mine(1) == await other(1) == await mine(1) == await other(1) == text
        pairs = await paired_async(
            lambda: in_a_row(mine, 1, calls), lambda: in_a_row(other, 1, calls), settings
        )
        name = "in-process hit, 100 B, async"
        return slower("cache", name, pairs, calls, rival=RIVAL, at_most=1 / 3)

    yield asyncio.run(both())


HIT = "Redis hit, 1 KB, one after another"
HITS = 200


def over(url: str) -> tuple[Cache, Callable[[int], Awaitable[Any]]]:
    """Ours over Redis, and a cached function."""
    cache = Cache(RedisBackend.from_url(url), keyring(), namespace="bench", ttl=300.0)

    @cached(cache=cache)
    async def ours(number: int) -> dict[str, Any]:
        return KILOBYTE

    return cache, ours


async def over_redis(url: str, settings: Settings) -> list[Row]:
    """Hits in Redis one after another, beside what Redis itself takes."""
    import redis.asyncio as redis_asyncio

    bare = redis_asyncio.from_url(url, protocol=3)
    cache, ours = over(url)
    sealed = seal_under(codec_named("msgpack").encode(KILOBYTE), keyring().current_hit("p"))
    await bare.set("bare", sealed)
    assert await ours(1) == await ours(1) == KILOBYTE
    pairs = await paired_async(
        lambda: in_a_row(ours, 1, HITS), lambda: in_a_row(bare.get, "bare", HITS), settings
    )
    await cache.aclose()
    await bare.aclose()
    return [slower("cache", HIT, pairs, HITS, rival="a bare redis-py GET", at_most=1.3)]


async def at_once(function: Any, first: int = 0) -> None:
    """Many calls with distinct arguments at the same time."""
    await asyncio.gather(*(function(first + number) for number in range(MANY)))


async def rival_over_redis(url: str, settings: Settings) -> list[Row]:
    """Hits in Redis one after another, and a hundred at once."""
    other, rows = rival_cache(url, local=False), list[Row]()
    cache, ours = over(url)

    @other
    async def theirs(number: int) -> dict[str, Any]:
        return KILOBYTE

    assert await ours(1) == await theirs(1) == await ours(1) == await theirs(1) == KILOBYTE
    pairs = await paired_async(
        lambda: in_a_row(ours, 1, HITS), lambda: in_a_row(theirs, 1, HITS), settings
    )
    rows.append(slower("cache", HIT, pairs, HITS, rival=RIVAL, at_most=0.6))

    await at_once(ours)
    await at_once(theirs)
    pairs = await paired_async(lambda: at_once(ours), lambda: at_once(theirs), settings)
    figure = f"{MANY} hits of distinct keys at once"
    rows.append(slower("cache", figure, pairs, MANY, rival=RIVAL, at_most=1 / 4))
    fresh = count(1_000, MANY)
    pairs = await paired_async(
        lambda: at_once(ours, next(fresh)), lambda: at_once(theirs, next(fresh)), settings
    )
    figure = f"{MANY} misses with set at once"
    rows.append(slower("cache", figure, pairs, MANY, rival=RIVAL, at_most=1 / 5))
    await cache.aclose()
    return rows


async def drop_in(url: str, settings: Settings) -> list[Row]:
    """The drop-in for the rival beside it: with copies in the process, then without, so that each
    hit is Redis's."""
    rows = list[Row]()

    def made(value: Any, *, local: bool, name: str) -> tuple[Any, Any]:
        async def load(number: int) -> Any:
            return value

        own = drop_in_cache.secure(
            ttl=300, master_key=MASTER, backend=url, l1_enabled=local, namespace="drop-in" + name
        )
        return own(load), rival_cache(url, local=local)(load)

    async def compared(figure: str, calls: int, ours: Any, theirs: Any) -> None:
        pairs = await paired_async(ours, theirs, settings)
        rows.append(slower("cache", figure, pairs, calls, rival=RIVAL, at_most=0.5))

    ours, theirs = made("x" * 100, local=True, name="-local")
    assert await ours(1) == await theirs(1) == await ours(1) == await theirs(1)
    await compared(
        "compat.cachekit: in-process hit, 100 B", 10 * HITS,
        lambda: in_a_row(ours, 1, 10 * HITS), lambda: in_a_row(theirs, 1, 10 * HITS),
    )  # fmt: skip
    mine, other = made(KILOBYTE, local=False, name="")
    await at_once(mine)
    await at_once(other)
    await compared(
        "compat.cachekit: Redis hit, 1 KB, one after another", HITS,
        lambda: in_a_row(mine, 1, HITS), lambda: in_a_row(other, 1, HITS),
    )  # fmt: skip
    await compared(
        f"compat.cachekit: {MANY} hits of distinct keys at once", MANY,
        lambda: at_once(mine), lambda: at_once(other),
    )  # fmt: skip
    fresh = count(10_000, MANY)
    await compared(
        f"compat.cachekit: {MANY} misses with set at once", MANY,
        lambda: at_once(mine, next(fresh)), lambda: at_once(other, next(fresh)),
    )  # fmt: skip
    return rows


async def large_gap(url: str, settings: Settings) -> Row:
    """The largest gap of a 1 ms ticker while a large value is set and got."""
    cache = Cache(RedisBackend.from_url(url), keyring(), namespace="large", ttl=300.0)
    data = os.urandom(LARGE)

    async def work() -> None:
        assert await cache.set("large", data)
        found = await cache.get("large")
        assert len(found) == LARGE

    largest = []
    for _ in range(max(3, settings.pairs_min // 2)):
        gaps = await gaps_beside(work, 1, gc.collect)
        largest.append(max(gaps))
    assert await cache.get("large") == data
    await cache.delete("large")
    await cache.aclose()
    low, middle, high = spread(largest)
    return Row(
        group="cache", figure=f"set and get {LARGE // MIB} MiB of bytes: largest gap of the loop",
        ours=f"{middle:.2f} ms (worst of {len(largest)}: {max(largest):.2f})",
        rival="the tick itself: 1 ms", value=middle, low=low, high=high, must=("<=", 10.0),
        unit="ms", detail={"max_ms": max(largest), "rounds": len(largest)},
    )  # fmt: skip


def frame() -> Any:
    """The 1000 rows of the rival's own table: an id, a float, a text."""
    import pandas as pd

    return pd.DataFrame(
        {
            "id": range(1000),
            "score": [number * 0.5 for number in range(1000)],
            "name": [f"patient {number}" for number in range(1000)],
        }
    )


def added(settings: Settings) -> Iterator[Row]:
    """What sealing adds to encoding and decoding: P95, as the rival's documentation tells it."""
    key = keyring().current_hit("p")
    context = b"x" * 80
    small = {"api_key": "sk_live_0123456789", "webhook_secret": "whsec_0123", "tenant": 7}
    for name, codec, value, goal in (
        ("json", codec_named("json"), small, 2.0),
        ("msgpack", codec_named("msgpack"), KILOBYTE, 2.0),
        ("Arrow, zstd as the rival has it", ArrowCodec(compression="zstd"), frame(), 0),
        ("Arrow, not compressed", ArrowCodec(), frame(), 0),
    ):

        def plain(codec: Any = codec, value: Any = value) -> None:
            codec.decode(codec.encode(value))

        def sealed(codec: Any = codec, value: Any = value) -> None:
            codec.decode(open_under(seal_under(codec.encode(value), key, context), key, context))

        rounds = 20_000 if goal else 300
        times: dict[Any, list[float]] = {plain: [], sealed: []}
        for number in range(rounds + 50):
            order = (plain, sealed) if number % 2 else (sealed, plain)
            for side in order:
                started = perf_counter()
                side()
                if number >= 50:
                    times[side].append(perf_counter() - started)
        p95 = [sorted(times[side])[rounds * 95 // 100] * 1e6 for side in (plain, sealed)]
        differences = [(b - a) * 1e6 for a, b in zip(times[plain], times[sealed], strict=True)]
        low, middle, high = spread(differences)
        if goal:
            yield Row(
                group="cache", figure=f"sealing added to {name}, P95", ours=f"{p95[1]:.2f} us",
                rival=f"not sealed: {p95[0]:.2f} us", value=p95[1] - p95[0], low=low, high=high,
                must=("<=", goal), unit="us", detail={"p95_us": p95, "median_us": middle},
            )  # fmt: skip
        else:
            base = spread(times[plain])[1] * 1e6
            yield Row(
                group="cache", figure=f"sealing added to {name}: 1000 rows, median of pairs",
                ours=f"{base + middle:.1f} us", rival=f"not sealed: {base:.1f} us",
                value=100 * middle / base, low=100 * low / base, high=100 * high / base,
                must=("<=", 1.0), unit="%", detail={"p95_us": p95, "median_us": middle},
            )  # fmt: skip


# ---- processes of their own


def herd_member(url: str, log: str) -> None:
    """30 threads and 100 tasks that ask for one value."""

    def compute() -> str:
        with Path(log).open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(HERD_SECONDS)
        return "value"

    async def compute_async() -> str:
        return await asyncio.to_thread(compute)

    from anyseal.cache.backends.redis_blocking import BlockingRedisBackend

    blocking = sync.Cache(BlockingRedisBackend.from_url(url), keyring(), namespace="herd")
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(blocking.get_or_set("one", compute)))
        for _ in range(30)
    ]

    async def tasks() -> None:
        async with Cache(RedisBackend.from_url(url), keyring(), namespace="herd") as cache:
            found.extend(
                await asyncio.gather(*(cache.get_or_set("one", compute_async) for _ in range(100)))
            )

    for thread in threads:
        thread.start()
    asyncio.run(tasks())
    for thread in threads:
        thread.join()
    assert found == ["value"] * 130, len(found)


def herd(url: str) -> Row:
    """Four such processes at once: how often the function ran."""
    with tempfile.NamedTemporaryFile() as log:
        command = [sys.executable, "-m", "bench.cache", "herd", url, log.name]
        members = [subprocess.Popen(command) for _ in range(4)]
        if any(member.wait(120) for member in members):
            raise RuntimeError("a member of the herd failed")
        runs = len(Path(log.name).read_text().split())
    return Row(
        group="cache", figure=f"4 processes, 30 threads, 100 tasks, a {HERD_SECONDS:g} s miss",
        ours=f"{runs} run of the function", rival="one run", value=runs, low=runs, high=runs,
        must=("<=", 1), unit="runs",
    )  # fmt: skip


def memory_case(case: str, url: str) -> None:
    """Set or get one large value; prints the peak above the baseline."""

    async def work() -> int:
        async with Cache(RedisBackend.from_url(url), keyring(), namespace="memory") as cache:
            await cache.set("small", b"x" * (2 * MIB))
            await cache.get("small")
            data = b"\xa5" * LARGE if case == "set" else b""
            before = peak()
            if case == "set":
                assert await cache.set("large", data)
            else:
                assert len(await cache.get("large")) == LARGE
            return peak() - before

    print(json.dumps(asyncio.run(work())))


def memory(url: str) -> Iterator[Row]:
    """Peak memory: beside the value that is set, with the one that is got."""
    for case, limit in (("set", 0.5), ("get", 1.5)):
        command = [sys.executable, "-m", "bench.cache", case, url]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=300)
        used = json.loads(done.stdout) / LARGE
        words = "beside the value" if case == "set" else "with the result"
        yield Row(
            group="cache", figure=f"peak memory to {case} {LARGE // MIB} MiB of bytes, {words}",
            ours=f"{used * LARGE / MIB:.1f} MiB", rival="the value itself", value=used, low=used,
            high=used, must=("<=", limit), unit="times",
        )  # fmt: skip


def run(settings: Settings) -> Iterator[Row]:
    """All rows of this topic."""
    server = RedisServer()
    try:
        url = server.url
        parts: list[tuple[str, str, Callable[[], Iterable[Row]]]] = [
            ("in-process hits", RIVAL, lambda: in_process(url, settings)),
            (HIT, "a bare redis-py GET", lambda: asyncio.run(over_redis(url, settings))),
            ("Redis hits and misses", RIVAL, lambda: asyncio.run(rival_over_redis(url, settings))),
            ("compat.cachekit", RIVAL, lambda: asyncio.run(drop_in(url, settings))),
            ("what sealing adds", "", lambda: added(settings)),
            ("a large value", "", lambda: [asyncio.run(large_gap(url, settings))]),
            ("peak memory", "", lambda: memory(url)),
            ("herd", "", lambda: [herd(url)]),
        ]
        for name, rival, rows in parts:
            yield from attempt("cache", name, rows, rival)
    finally:
        server.close()


if __name__ == "__main__":
    case, *arguments = sys.argv[1:]
    if case == "herd":
        herd_member(*arguments)
    else:
        memory_case(case, *arguments)
