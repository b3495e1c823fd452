"""64 KiB out of a large object: what is read beyond the range, and how long it takes."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator

from anyseal import FileSource, Key, ObjectReader, sync
from bench.files import write_file
from bench.harness import GIB, MIB, Row, Settings, paired, paired_async, slower, spread

RANGE = 64 << 10
CALLS = 200


class CountingSource(FileSource):
    """Counts the bytes that a reader asks for."""

    asked = 0

    def pread_into(self, offset: int, buffer: memoryview) -> None:
        self.asked += len(buffer)
        super().pread_into(offset, buffer)


def run(settings: Settings) -> Iterator[Row]:
    """All rows of this topic."""
    key, size = Key.generate(), settings.file_bytes
    name = f"{size // GIB} GiB" if size >= GIB else f"{size // MIB} MiB"
    plain, sealed = settings.folder / "plain", settings.folder / "sealed"
    write_file(plain, size)
    sync.seal_file(plain, sealed, key)
    starts = random.Random(1).choices(range(size - RANGE), k=CALLS)
    file = os.open(plain, os.O_RDONLY)
    source = CountingSource(sealed)
    try:
        with sync.ObjectReader.open(source, key) as reader:
            info = reader.info
            chunk = info.chunk_bytes + info.suite.tag_bytes
            beyond = []
            # Also the worst places: chunk and segment borders, first and last byte.
            edges = [0, 1, size - RANGE, *(info.segment_bytes + d for d in (-RANGE, -1, 0, 1))]
            for start in [*starts, *(at for at in edges if 0 <= at <= size - RANGE)]:
                source.asked = 0
                assert len(reader.read_range(start, start + RANGE)) == RANGE
                beyond.append(source.asked / chunk - RANGE / info.chunk_bytes)
            low, middle, _ = spread(beyond)
            yield Row(
                group="ranges",
                figure=f"read_range of 64 KiB from {name}: chunks read beyond it",
                ours=f"at most {max(beyond):.2f}",
                rival="the range itself",
                value=max(beyond),
                low=min(beyond),
                high=max(beyond),
                must=("<=", 2.0),
                unit="chunks",
                detail={"ranges": len(beyond), "median": middle, "q1": low},
            )

            def ours() -> None:
                for start in starts:
                    reader.read_range(start, start + RANGE)

            def rival() -> None:
                for start in starts:
                    os.pread(file, RANGE, start)

            pairs = paired(ours, rival, settings)
            figure = "time of read_range, 64 KiB anywhere"
            yield slower("ranges", f"{figure}, sync", pairs, CALLS, rival="plain os.pread")

        async def awaited() -> Row:
            async with await ObjectReader.open(FileSource(sealed), key) as reader:

                async def ours() -> None:
                    for start in starts:
                        await reader.read_range(start, start + RANGE)

                async def rival() -> None:
                    for start in starts:
                        await asyncio.to_thread(os.pread, file, RANGE, start)

                pairs = await paired_async(ours, rival, settings)
                label = "os.pread in asyncio.to_thread"
                return slower("ranges", f"{figure}, awaited", pairs, CALLS, rival=label)

        yield asyncio.run(awaited())
    finally:
        os.close(file)
        plain.unlink()
        sealed.unlink()
