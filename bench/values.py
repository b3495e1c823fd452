"""One small value: what sealing it costs beside what ``cryptography`` takes."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from itertools import repeat
from time import perf_counter
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import anyseal
from anyseal import Key, offload, sync
from anyseal._ffi import lib
from anyseal.pages import fresh
from bench.harness import Pairs, Row, Settings, calls_for, faster, paired, paired_async, slower

SIZE = 256
LARGE = 100 << 20
RIVAL = "AESGCM.encrypt, os.urandom(12)"


class Busy:
    """A thread that never lets go of the GIL of its own accord."""

    def __init__(self) -> None:
        self._stop = False
        self._thread = threading.Thread(target=self._spin)

    def _spin(self) -> None:
        count = 0
        while not self._stop:
            count += 1

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self._stop = True
        self._thread.join()


def beside_busy_thread(
    name: str, many: Callable[[int], Any], settings: Settings, at_least: float | None
) -> Row:
    """The rate beside one busy thread as a share of the rate without."""
    # Many times the interpreter's switch interval (5 ms), or the runs would only show its luck.
    calls = calls_for(many, 0.15)

    def busy() -> float:
        # By the clock: who loses the GIL at every call would take minutes for as many calls.
        done, batch = 0, max(1, calls // 1000)
        with Busy():
            started = perf_counter()
            while (took := perf_counter() - started) < 0.3:
                many(batch)
                done += batch
        return took * calls / done

    pairs = paired(busy, lambda: many(calls), settings)
    row = faster("values", name, pairs, calls, rival="idle", at_least=at_least)
    rates = row.detail.pop("ours_gb_s") * 1e9, row.detail.pop("rival_gb_s") * 1e9
    return Row(
        group=row.group,
        figure=row.figure,
        ours=f"{rates[0] / 1e6:.3g} M/s",
        rival=f"idle: {rates[1] / 1e6:.3g} M/s",
        value=row.value,
        low=row.low,
        high=row.high,
        must=row.must,
        detail={**row.detail, "busy_per_s": rates[0], "idle_per_s": rates[1]},
    )


def fresh_results(settings: Settings) -> Iterator[Row]:
    """A large value into a result of its own, beside memmove into one of the same kind: made and
    dropped by the same means, in a worker thread, too."""
    size = min(LARGE, settings.payload)
    key, data = Key.generate(), os.urandom(1 << 20) * (size >> 20)
    sealed = sync.seal(data, key)

    def move() -> bytes:
        out = fresh(len(sealed))
        lib.anyseal_copy(out, data, size)
        return out

    async def moved() -> None:
        await offload.run(move)

    async def measured() -> list[tuple[str, Pairs]]:
        return [
            ("seal", await paired_async(lambda: anyseal.seal(data, key), moved, settings)),
            ("open", await paired_async(lambda: anyseal.open(sealed, key), moved, settings)),
        ]

    for name, pairs in asyncio.run(measured()):
        figure = f"{name} {size >> 20} MiB, awaited, fresh result"
        yield faster("values", figure, pairs, size, rival="memmove, fresh result", at_least=0.6)


def run(settings: Settings) -> Iterator[Row]:
    """All rows of this topic."""
    key, data = Key.generate(), os.urandom(SIZE)
    aead = AESGCM(AESGCM.generate_key(256))
    urandom, sealed = os.urandom, sync.seal(data, key)
    # The rival keeps its nonce and result apart here; gluing them together would cost it more.
    nonce = urandom(12)
    encrypted = aead.encrypt(nonce, data, None)

    def ours(count: int) -> None:
        seal = sync.seal
        for _ in repeat(None, count):
            seal(data, key)

    async def ours_awaited(count: int) -> None:
        seal = anyseal.seal
        for _ in repeat(None, count):
            await seal(data, key)

    def rival(count: int) -> None:
        encrypt = aead.encrypt
        for _ in repeat(None, count):
            encrypt(urandom(12), data, None)

    def ours_open(count: int) -> None:
        open = sync.open
        for _ in repeat(None, count):
            open(sealed, key)

    def rival_open(count: int) -> None:
        decrypt = aead.decrypt
        for _ in repeat(None, count):
            decrypt(nonce, encrypted, None)

    async def awaited(count: int) -> Any:
        async def encrypting() -> None:
            rival(count)

        return await paired_async(lambda: ours_awaited(count), encrypting, settings)

    calls = calls_for(rival)
    pairs = paired(lambda: ours(calls), lambda: rival(calls), settings)
    yield slower("values", f"seal {SIZE} B, sync", pairs, calls, rival=RIVAL, at_most=0.8)
    pairs = asyncio.run(awaited(calls))
    yield slower("values", f"seal {SIZE} B, awaited", pairs, calls, rival=RIVAL, at_most=1.1)
    pairs = paired(lambda: ours_open(calls), lambda: rival_open(calls), settings)
    yield slower("values", f"open {SIZE} B, sync", pairs, calls, rival="AESGCM.decrypt")
    yield beside_busy_thread(f"seal {SIZE} B beside a busy thread", ours, settings, 0.3)
    yield beside_busy_thread(f"AESGCM.encrypt {SIZE} B, likewise", rival, settings, None)
    yield from fresh_results(settings)
