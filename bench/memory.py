"""Peak memory of sealing and opening streams, each in a process of its own.

``python -m bench.memory CASE BYTES FOLDER`` is that process: it prints its peak above the baseline.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyseal
from anyseal import FileSource, Key, ObjectReader, ObjectWriter, StreamOpener
from bench.harness import GIB, MIB, Row, Settings

LIMIT_MIB = 64.0
KEY = Key.from_bytes(bytes(range(32)))


def peak() -> int:
    """The most resident memory so far, in bytes.

    VmHWM and not ru_maxrss where there is a choice: the latter survives ``exec``, so that it shows
    the parent's peak if that was higher.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used if sys.platform == "darwin" else used << 10
    return int(status.split("VmHWM:")[1].split()[0]) << 10


class NullSink:
    """An async sink that counts."""

    def __init__(self) -> None:
        self.size = 0

    async def write(self, data: memoryview) -> None:
        self.size += len(data)

    async def commit(self) -> None:
        pass

    async def abort(self) -> None:
        pass


async def seal_stream(size: int, folder: Path) -> None:
    """A source made on the fly, in pieces that do not fit the chunks, into nothing."""
    async with ObjectWriter(NullSink(), KEY) as writer:
        left = size
        while left:
            piece = bytes(min(left, 1_000_000))
            await writer.write(piece)
            left -= len(piece)


async def open_stream(size: int, folder: Path) -> None:
    """The sealed file as a stream that cannot seek."""

    async def pieces() -> AsyncIterator[bytes]:
        with (folder / "sealed").open("rb", buffering=0) as file:
            while piece := file.read(256 << 10):
                yield piece

    got = 0
    async for part in StreamOpener(KEY).open(pieces()):
        got += len(part)
    assert got == size


async def read_stream(size: int, folder: Path) -> None:
    """``ObjectReader.stream`` over the sealed file."""
    got = 0
    async with await ObjectReader.open(FileSource(folder / "sealed"), KEY) as reader:
        async for part in reader.stream():
            got += len(part)
    assert got == size


async def seal_file(size: int, folder: Path) -> None:
    """File to file."""
    await anyseal.seal_file(folder / "plain", folder / "target", KEY, overwrite=True)


async def open_file(size: int, folder: Path) -> None:
    """File to file, the other way."""
    await anyseal.open_file(folder / "sealed", folder / "target", KEY, overwrite=True)


CASES = {
    "ObjectWriter to a null sink": seal_stream,
    "StreamOpener": open_stream,
    "ObjectReader.stream": read_stream,
    "seal_file": seal_file,
    "open_file": open_file,
}


def child(case: str, size: int, folder: Path) -> None:
    """Measure one case in this process. The baseline has the package and an event loop loaded."""
    asyncio.run(asyncio.sleep(0))
    baseline = peak()
    asyncio.run(CASES[case](size, folder))
    print(json.dumps({"baseline": baseline, "peak": peak()}))


def _measure(case: str, size: int, folder: Path) -> Row:
    command = [sys.executable, "-m", "bench.memory", case, str(size), str(folder)]
    os.sync()
    answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    above = (answer["peak"] - answer["baseline"]) / MIB
    name = f"{size // GIB} GiB" if size >= GIB else f"{size // MIB} MiB"
    return Row(
        group="memory",
        figure=f"peak memory, {case}, {name}",
        ours=f"{above:.1f} MiB above",
        rival=f"baseline: {answer['baseline'] / MIB:.0f} MiB",
        value=above,
        low=above,
        high=above,
        must=("<=", LIMIT_MIB),
        unit="MiB",
        detail=answer,
    )


def run(settings: Settings) -> Iterator[Row]:
    """All rows of this topic; the first case also with eight times as much, which must not show."""
    size, folder = settings.file_bytes, settings.folder
    with (folder / "plain").open("wb") as file:
        for _ in range(0, size, MIB):
            file.write(os.urandom(MIB))
    anyseal.sync.seal_file(folder / "plain", folder / "sealed", KEY)
    try:
        for case in CASES:
            yield _measure(case, size, folder)
        yield _measure("ObjectWriter to a null sink", 8 * size, folder)
    finally:
        for name in ("plain", "sealed", "target"):
            (folder / name).unlink(missing_ok=True)


if __name__ == "__main__":
    child(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
