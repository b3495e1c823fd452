"""256 MiB from memory to memory: against memmove, ``cryptography``, and whatever else there is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from anyseal import Key, MemorySink, MemorySource, ObjectWriter, Suite, sync
from bench import rivals
from bench.harness import MIB, Pairs, Row, Settings, attempt, faster, paired, paired_async, slower

CHUNK = 64 << 10
TICKER_PASSES = 4
"""Seals in one timed run beside a ticker, so that it lasts for dozens of ticks."""


class Ours:
    """Seals the payload into one buffer that is used again, and opens it into another."""

    def __init__(self, source: memoryview, out: memoryview, suite: Suite | None = None) -> None:
        self._source, self._out, self._suite = source, out, suite
        self._key = Key.generate()
        self.size = 0

    def seal(self) -> None:
        """With all workers: one write."""
        with sync.ObjectWriter(MemorySink(self._out), self._key, suite=self._suite) as writer:
            writer.write(self._source)
            self.size = writer.finish()

    def seal_alone(self) -> None:
        """In the caller's thread: writes of 1 MiB are one piece of work each."""
        with sync.ObjectWriter(MemorySink(self._out), self._key, suite=self._suite) as writer:
            for at in range(0, len(self._source), MIB):
                writer.write(self._source[at : at + MIB])
            self.size = writer.finish()

    async def seal_awaited(self) -> None:
        """The same as :meth:`seal` in an event loop."""
        sink = MemorySink(self._out)
        async with ObjectWriter(sink, self._key, suite=self._suite) as writer:
            await writer.write(self._source)
            self.size = await writer.finish()

    def open(self, out: memoryview) -> None:
        """Header, trailer and every chunk of what was sealed last, into *out*."""
        source = MemorySource(self._out[: self.size])
        with sync.ObjectReader.open(source, self._key) as reader:
            reader.read_into(0, out)


@contextlib.asynccontextmanager
async def ticker(seconds: float = 0.001) -> AsyncIterator[None]:
    """A task in this event loop that wakes every *seconds*."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(seconds)

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()


def _figure(size: int) -> str:
    return f"seal {size // MIB} MiB"


def against_memmove(settings: Settings, source: memoryview, out: memoryview) -> Iterator[Row]:
    """Moving the bytes at all."""
    ours, size = Ours(source, out, Suite.AEGIS256), len(source)
    figure = _figure(size)
    copy, copy_alone = rivals.Copy(source, out, 2), rivals.Copy(source, out, 1)

    async def copy_awaited() -> None:
        copy()

    pairs = asyncio.run(paired_async(ours.seal_awaited, copy_awaited, settings))
    yield faster(
        "bulk",
        f"{figure}, awaited",
        pairs,
        size,
        rival="memmove, 2 threads",
        at_least=0.6,
        chart=True,
    )
    pairs = paired(ours.seal, copy, settings)
    yield faster("bulk", f"{figure}, sync", pairs, size, rival="memmove, 2 threads", at_least=0.6)
    pairs = paired(ours.seal_alone, copy_alone, settings)
    yield faster("bulk", f"{figure}, 1 thread", pairs, size, rival="memmove, 1 thread")


async def _beside_ticker(ours: Ours, rival: rivals.Chunked, settings: Settings) -> Pairs:
    """Ours awaited in a loop with a ticker; the rival in executor threads beside the same loop."""
    loop = asyncio.get_running_loop()

    async def sealing() -> None:
        for _ in range(TICKER_PASSES):
            await ours.seal_awaited()

    async def encrypting() -> None:
        for _ in range(TICKER_PASSES):
            shares = (
                loop.run_in_executor(rival.pool, rival.seal_share, *share) for share in rival.shares
            )
            await asyncio.gather(*shares)

    async with ticker():
        return await paired_async(sealing, encrypting, settings)


def against_aesgcm(settings: Settings, source: memoryview, out: memoryview) -> Iterator[Row]:
    """The best rival: AES-256-GCM of ``cryptography`` into a reused buffer."""
    ours, size = Ours(source, out, Suite.AEGIS256), len(source)
    aead = AESGCM(AESGCM.generate_key(256))
    for chunk, name, bounds in ((CHUNK, "64 KiB", (1.2, 1.4)), (MIB, "1 MiB", (None, None))):
        rival = rivals.Chunked(aead, source, out, chunk, 2)
        label = f"AESGCM.encrypt_into, {name} chunks"
        pairs = paired(ours.seal, rival.seal, settings)
        yield faster(
            "bulk",
            _figure(size),
            pairs,
            size,
            rival=f"{label}, 2 threads",
            at_least=bounds[0],
            chart=True,
        )
        pairs = asyncio.run(_beside_ticker(ours, rival, settings))
        yield faster(
            "bulk",
            f"{_figure(size)} beside a 1 ms ticker",
            pairs,
            TICKER_PASSES * size,
            rival=f"{label}, 2 threads",
            at_least=bounds[1],
        )
    alone = rivals.Chunked(aead, source, out, CHUNK, 1)
    pairs = paired(ours.seal_alone, alone.seal, settings)
    yield faster(
        "bulk",
        f"{_figure(size)}, 1 thread",
        pairs,
        size,
        rival="AESGCM.encrypt_into, 64 KiB, 1 thread",
    )
    # One message, one thread. It cannot be opened in parts, nor before its last byte is read.
    whole = out[: size + rivals.TAG_BYTES]
    pairs = paired(ours.seal, lambda: aead.encrypt_into(bytes(12), source, None, whole), settings)
    yield faster(
        "bulk", _figure(size), pairs, size, rival="AESGCM.encrypt_into, one-shot", chart=True
    )
    # The rest of the world calls this one: a fresh result, whose pages the kernel must clear.
    pairs = paired(ours.seal, lambda: aead.encrypt(bytes(12), source, None), settings)
    yield faster("bulk", _figure(size), pairs, size, rival="AESGCM.encrypt, one-shot", chart=True)


def as_shipped(settings: Settings, source: memoryview, out: memoryview) -> Iterator[Row]:
    """Other things that encrypt large payloads, each as it is shipped. All use one thread."""
    ours, size, less = Ours(source, out, Suite.AEGIS256), len(source), settings.slow_payload
    data = bytes(source[:less])
    sdk = rivals.AwsEncryptionSdk
    others: list[tuple[str, Callable[[], Callable[[], Any]], int, float | None]] = [
        ("Cobblestone (cryptography)", lambda: rivals.Cobblestone(source, out), size, 1.8),
        ("Tink streaming, 1 MB", lambda: rivals.Tink(source, out), size, 2.5),
        ("PyNaCl SecretBox", lambda: rivals.Box(data), less, 10),
        ("age, pyrage.encrypt_io", lambda: rivals.Age(data, out).stream, less, 15),
        ("age, pyrage.encrypt", lambda: rivals.Age(data, out).whole, less, 15),
        ("aws-encryption-sdk, 1 MiB frames, unsigned", lambda: sdk(data, tuned=True), less, None),
        ("aws-encryption-sdk, as shipped", lambda: sdk(data, tuned=False), less, None),
    ]
    figure = _figure(size)
    for name, make, rival_size, bound in others:

        def row(
            name: str = name, make: Any = make, rival_size: int = rival_size, bound: Any = bound
        ) -> Iterator[Row]:
            pairs = paired(ours.seal, make(), settings)
            yield faster(
                "bulk", figure, pairs, size, rival=name, rival_size=rival_size, at_least=bound,
                chart=True,
            )  # fmt: skip

        yield from attempt("bulk", figure, row, name)


def suites(settings: Settings, source: memoryview, out: memoryview) -> Iterator[Row]:
    """Each suite against the same primitive, and opening against sealing."""
    size = len(source)
    plain, theirs = rivals.pages(size), rivals.pages(rivals.room_for(size))
    primitives: list[tuple[Suite, Any, float | None]] = [
        (Suite.AEGIS256, AESGCM(AESGCM.generate_key(256)), None),
        (Suite.AES256GCM, AESGCM(AESGCM.generate_key(256)), 0.9),
        (Suite.XCHACHA20POLY1305, ChaCha20Poly1305(ChaCha20Poly1305.generate_key()), 0.9),
    ]
    for suite, aead, bound in primitives:
        if not suite.available:
            print(f"{suite.name} is left out: not available here")
            continue
        ours = Ours(source, out, suite)
        rival = rivals.Chunked(aead, source, theirs, CHUNK, 2)
        name = type(aead).__name__
        if bound is not None:
            pairs = paired(ours.seal, rival.seal, settings)
            yield faster(
                "bulk",
                f"seal, {suite.name}",
                pairs,
                size,
                rival=f"{name}.encrypt_into, 64 KiB, 2 threads",
                at_least=bound,
            )
        ours.seal()
        rival.seal()
        pairs = paired(lambda ours=ours: ours.open(plain), ours.seal, settings)
        yield slower(
            "bulk",
            f"time to open, {suite.name}",
            pairs,
            1,
            rival="seal",
            at_most=1.15,
            scale=(1e3, "ms"),
        )
        pairs = paired(
            lambda ours=ours: ours.open(plain), lambda rival=rival: rival.open(plain), settings
        )
        yield faster(
            "bulk",
            f"open, {suite.name}",
            pairs,
            size,
            rival=f"{name}.decrypt_into, 64 KiB, 2 threads",
        )


def run(settings: Settings) -> Iterator[Row]:
    """All rows of this topic."""
    source = rivals.pages(settings.payload)
    out = rivals.pages(rivals.room_for(settings.payload))
    for part in (against_memmove, against_aesgcm, as_shipped, suites):
        name = part.__name__.replace("_", " ")
        yield from attempt("bulk", name, lambda part=part: part(settings, source, out))
