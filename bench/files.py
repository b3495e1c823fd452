"""A large file on disk: sealing and opening against copying it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anyseal
from anyseal import Key, sync
from bench.harness import GIB, MIB, Row, Settings, faster, paired, paired_async


def write_file(path: Path, size: int) -> None:
    """*size* bytes that do not compress; afterwards they are in the page cache and on disk."""
    with path.open("wb") as file:
        for _ in range(0, size, MIB):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())


def copy(src: Path, dst: Path) -> None:
    """The plain Python copy, in pieces of 1 MiB."""
    with src.open("rb") as source, dst.open("wb") as target:
        while piece := source.read(MIB):
            target.write(piece)


def run(settings: Settings) -> Iterator[Row]:
    """All rows of this topic. No side calls fsync."""
    key, size = Key.generate(), settings.file_bytes
    plain, sealed = settings.folder / "plain", settings.folder / "sealed"
    target = settings.folder / "target"
    write_file(plain, size)
    sync.seal_file(plain, sealed, key)
    block = bytearray(MIB)
    # One run lasts most of a second, and disks are moody.
    settings = replace(settings, seconds=8 * settings.seconds, warmups=1)
    name = f"{size // GIB} GiB" if size >= GIB else f"{size // MIB} MiB"

    def settle() -> None:
        """Nothing from the last run may be written back in the next one, no old file is reused, and
        the sources are in the page cache (a machine that reclaims it early drops them).
        """
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
        os.sync()
        for path in (plain, sealed):
            with path.open("rb", buffering=0) as file:
                while file.readinto(block):
                    pass

    async def awaited() -> Row:
        async def sealing() -> None:
            await anyseal.seal_file(plain, target, key)

        async def copying() -> None:
            copy(plain, target)

        pairs = await paired_async(sealing, copying, settings, before=settle)
        return faster(
            "files", f"seal_file {name}, awaited", pairs, size, rival="copy", at_least=0.8
        )

    try:
        yield asyncio.run(awaited())
        pairs = paired(
            lambda: sync.seal_file(plain, target, key),
            lambda: copy(plain, target),
            settings,
            before=settle,
        )
        yield faster("files", f"seal_file {name}, sync", pairs, size, rival="copy", at_least=0.8)
        pairs = paired(
            lambda: sync.open_file(sealed, target, key),
            lambda: copy(plain, target),
            settings,
            before=settle,
        )
        yield faster("files", f"open_file {name}, sync", pairs, size, rival="copy")
    finally:
        for path in (plain, sealed, target):
            path.unlink(missing_ok=True)
