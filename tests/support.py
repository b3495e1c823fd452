"""What several test modules share: sizes, deterministic data, one-line sealing and opening."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from hashlib import shake_256
from pathlib import Path
from typing import Any, TypeVar

import anyio.from_thread
import anyio.to_thread
import pytest

from anyseal import AnysealError, Key, MemorySink, MemorySource, Suite, offload, sync

SUITES = (Suite.AEGIS256, Suite.AES256GCM, Suite.XCHACHA20POLY1305)
C, S = 4096, 8192
SIZES = (0, 1, C - 1, C, C + 1, S - 1, S, S + 1, 3 * S + 17)
SMALL = {"chunk_size": C, "segment_size": S}
KEY_HEX = "c0ffee" * 10 + "2468"
T = TypeVar("T")


def pattern(size: int, label: str = "") -> bytes:
    """*size* bytes that look random and are the same in every run."""
    return shake_256(b"anyseal tests " + label.encode()).digest(size)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """*data* cut into pieces of *size* bytes."""
    for at in range(0, len(data), size):
        yield data[at : at + size]


class Stream:
    """The same as an async iterator; no generator, which would have to be closed."""

    def __init__(self, data: bytes, size: int) -> None:
        self._pieces = pieces(data, size)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration


def seal_bytes(data: bytes, key: Any, **settings: Any) -> bytes:
    """One object in memory, with small chunks and segments unless told otherwise."""
    sink = MemorySink()
    with sync.ObjectWriter(sink, key, **{**SMALL, **settings}) as writer:
        writer.write(data)
    return sink.getvalue()


def open_by_range(sealed: bytes, key: Any, **where: Any) -> bytes:
    """The whole plaintext through a range reader."""
    with sync.ObjectReader.open(MemorySource(sealed), key, **where) as reader:
        return reader.read_range(0)


def open_by_verify(sealed: bytes, key: Any, **where: Any) -> bytes:
    """``verify`` before the plaintext is read, to compare it with the other readers."""
    with sync.ObjectReader.open(MemorySource(sealed), key, **where) as reader:
        reader.verify()
        return reader.read_range(0)


def open_by_pipe(sealed: bytes, key: Any, *, piece: int = 1000, **where: Any) -> bytes:
    """The whole plaintext through a stream reader."""
    return b"".join(sync.StreamOpener(key, **where).open(pieces(sealed, piece)))


READERS: dict[str, Callable[..., bytes]] = {
    "range": open_by_range,
    "verify": open_by_verify,
    "pipe": open_by_pipe,
}


def outcome(call: Callable[..., object], *args: Any, **kwargs: Any) -> object:
    """What *call* returns, or the name of the class of the error that it raises."""
    try:
        return call(*args, **kwargs)
    except AnysealError as error:
        return type(error).__name__


def flips(data: bytes) -> Iterator[bytes]:
    """*data* with each single bit flipped."""
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def cuts(data: bytes) -> Iterator[bytes]:
    """*data* cut at every length."""
    for size in range(len(data)):
        yield data[:size]


def most() -> int:
    """The most memory that this process has had, in KiB. In a child, ``getrusage`` tells the most
    of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def live_keys() -> int:
    """Arena slots in use."""
    from anyseal._ffi import lib

    return lib.anyseal_arena_live()


def live_keys_without_garbage() -> int:
    """The same to begin with: what earlier tests left to the collector must not end meanwhile."""
    gc.collect()
    return live_keys()


def in_turn(*calls: Any) -> Iterator[Any]:
    """Coroutines, to be awaited one by one. Those that a failure leaves are closed: never awaited,
    they would be a second failure in some other test."""
    left = [*calls]
    try:
        while left:
            yield left.pop(0)
    finally:
        for call in left:
            call.close()


async def in_time(seconds: float, attempt: Callable[[], Awaitable[T]]) -> T:
    """What *attempt* returns. If it fails when more than *seconds* have gone by, it begins anew:
    what it waits for had ended before a busy machine came to look."""
    for _ in range(20):
        begun = time.monotonic()
        try:
            return await attempt()
        except AssertionError:
            if time.monotonic() - begun < seconds:
                raise
    raise AssertionError("this machine is always late")


def run_python(code: str, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run *code* in a fresh interpreter where a warning is an error."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *args]
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": path, **environ},
    )


def said(process: subprocess.CompletedProcess[str]) -> list[str]:
    """What a process that must have succeeded printed, by lines."""
    assert (0, "") == (process.returncode, process.stderr)
    return process.stdout.split("\n")[:-1]


def a_key(label: str = "key", *, key_id: bytes | None = None) -> Key:
    """A key that is the same in every run."""
    return Key.from_bytes(pattern(32, label), key_id=key_id)


async def seal_off_loop(data: bytes, key: Any, **settings: Any) -> bytes:
    """``seal_bytes`` in a thread, for async tests."""
    return await anyio.to_thread.run_sync(partial(seal_bytes, data, key, **settings))


def names(folder: Path) -> list[str]:
    """What is there, hidden or not."""
    return sorted(path.name for path in folder.iterdir())


class Tracked:
    """Wraps ``offload.run``: cancels at the n-th hop, and knows what works at any time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
        self.when, self.target, self.hops, self.working = when, 0, 0, 0
        self.cancel: Callable[[], object] = lambda: None
        self._run = offload.run
        monkeypatch.setattr(offload, "run", self.run)

    async def run(self, function: Any, *args: Any) -> Any:
        self.hops += 1
        mine = self.hops == self.target
        if mine and self.when == "before":
            self.cancel()

        def call() -> Any:
            self.working += 1
            try:
                if mine and self.when == "during":
                    anyio.from_thread.run_sync(self.cancel)
                    time.sleep(0.005)
                return function(*args)
            finally:
                self.working -= 1

        return await self._run(call)
