"""Seal and open whole local files: in parallel, off the event loop, all or nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any

from anyseal import offload
from anyseal.config import STEP_BYTES, UNIT_BYTES
from anyseal.keys import Key
from anyseal.objects.format import HEADER_MAX_BYTES, Header
from anyseal.objects.reader import ObjectReader, OpenedObject, Part
from anyseal.objects.rewrap import rewrap_header
from anyseal.objects.sealer import CHUNK_SIZE, SEGMENT_SIZE, Piece, Sealer, unit_bytes
from anyseal.objects.sources import FileSink, FileSource
from anyseal.objects.writer import check_context
from anyseal.ports import Keyring, Progress, current_key, named_key, resolve_partition
from anyseal.suites import Suite

__all__ = [
    "FileOpening",
    "FileRewrapping",
    "FileSealing",
    "Meter",
    "open_file",
    "rewrap_file",
    "seal_file",
]


class Meter:
    """Adds up what is done and tells *progress*."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def start(self) -> None:
        """Report that nothing is done yet."""
        if self._progress is not None:
            self._progress(0, self._total)

    def add(self, count: int) -> None:
        """Report *count* bytes more."""
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)


class FileSealing:
    """The blocking steps of sealing one file; the shells decide in which threads they run."""

    def __init__(self, src: Any, dst: Any, overwrite: bool, durable: bool) -> None:
        self.source = FileSource(src)
        try:
            self.sink = FileSink(
                dst,
                overwrite=overwrite,
                mode=stat.S_IMODE(self.source.stat.st_mode) & 0o777,
                durable=durable,
            )
        except BaseException:
            self.source.close()
            raise
        self.sealer: Sealer | None = None

    def jobs(self, key: Key, **settings: Any) -> Iterator[tuple[Piece]]:
        """The pieces to seal, in order; they may be sealed in any order."""
        self.sealer = Sealer(key, **settings)
        size, geometry = self.source.size, self.sealer.geometry
        unit = unit_bytes(size, geometry.chunk_bytes)
        for run in geometry.runs(0, size, size, unit):
            yield (self.sealer.take(run.size),)

    def seal(self, piece: Piece) -> int:
        """Read, seal and write one piece; returns its plaintext bytes. Any thread."""
        for run in piece.steps(STEP_BYTES):
            with (
                offload.buffers().lease(run.size) as plain,
                offload.buffers().lease(run.length) as sealed,
            ):
                self.source.pread_into(run.start, plain)
                piece.seal(run, plain, sealed)
                self.sink.pwrite(run.offset, sealed)
        return piece.run.size

    def finish(self) -> int:
        """Header, trailer, the final name; returns the sealed size."""
        if self.sealer is None:
            raise RuntimeError("nothing was sealed")
        self.source.check_unchanged()
        trailer = self.sealer.trailer()
        size = self.sealer.geometry.sealed_size(self.sealer.position)
        self.sink.pwrite(0, memoryview(self.sealer.header))
        self.sink.pwrite(size - len(trailer), memoryview(trailer))
        self.sink.commit(size)
        self.sealer.end("the file is finished")
        return size

    def close(self, failed: bool) -> None:
        """Let go of everything; remove the temporary file if it failed."""
        if failed:
            self.sink.abort()
            if self.sealer is not None:
                self.sealer.end("an error or a cancellation ended the writer")
        self.source.close()


class FileOpening:
    """The blocking steps of opening one file into another."""

    def __init__(self, source: FileSource, dst: Any, overwrite: bool, durable: bool) -> None:
        self.source = source
        self.sink = FileSink(
            dst,
            overwrite=overwrite,
            mode=stat.S_IMODE(source.stat.st_mode) & 0o777,
            durable=durable,
        )

    @staticmethod
    def jobs(opened: OpenedObject) -> Iterator[tuple[OpenedObject, Part]]:
        """The parts to open; in any order."""
        for part in opened.parts(0, opened.size):
            yield opened, part

    def open(self, opened: OpenedObject, part: Part) -> int:
        """Read, open and write one part; returns its plaintext bytes. Any thread."""
        for step in opened.parts(part.start, part.stop, STEP_BYTES):
            with offload.buffers().lease(step.run.size) as plain:
                opened.read_part(self.source, step, plain)
                self.sink.pwrite(step.run.start, plain)
        return part.stop - part.start


class FileRewrapping:
    """The blocking steps of giving one sealed file another header."""

    def __init__(self, path: Any, durable: bool) -> None:
        self._durable = durable
        # The file that a symbolic link names is replaced, not the link.
        self.source = FileSource(os.path.realpath(path))
        self.sink: FileSink | None = None
        try:
            self.header = Header.parse(self.source.pread_ends(HEADER_MAX_BYTES, 0).head)
        except BaseException:
            self.source.close()
            raise

    def begin(self, old: Key, new: Key) -> None:
        """Make the new file, with the new header."""
        header = rewrap_header(self.header, old, new).to_bytes()
        mode = stat.S_IMODE(self.source.stat.st_mode) & 0o777
        self.sink = FileSink(self.source.path, overwrite=True, mode=mode, durable=self._durable)
        self.sink.pwrite(0, memoryview(header))

    def jobs(self) -> Iterator[tuple[int, int]]:
        """The ranges to copy, from and to; in any order."""
        size = self.source.size
        for start in range(self.header.geometry.header_bytes, size, UNIT_BYTES):
            yield start, min(start + UNIT_BYTES, size)

    def copy(self, start: int, stop: int) -> int:
        """Copy one range; returns its length. Any thread."""
        if self.sink is None:
            raise RuntimeError("not begun")
        for at in range(start, stop, STEP_BYTES):
            with offload.buffers().lease(min(STEP_BYTES, stop - at)) as buffer:
                self.source.pread_into(at, buffer)
                self.sink.pwrite(at, buffer)
        return stop - start

    def finish(self) -> None:
        """Put the new file in the place of the old one."""
        if self.sink is None:
            raise RuntimeError("not begun")
        self.source.check_unchanged()
        self.sink.commit(self.source.size)

    def close(self, failed: bool) -> None:
        """Let go of everything; remove the temporary file if it failed."""
        if failed and self.sink is not None:
            self.sink.abort()
        self.source.close()


def rewrap_target(
    keyring: Key | Keyring,
    partition: str | None,
    to_keyring: Key | Keyring | None,
    to_partition: str | None,
) -> tuple[Key | Keyring, str | None]:
    """The keyring and partition to wrap under; what is not given is as before."""
    if to_keyring is None:
        to_keyring = keyring
    if to_partition is None and not isinstance(to_keyring, Key):
        to_partition = partition
    return to_keyring, to_partition


def _close(source: FileSource, failed: FileOpening | None) -> None:
    """Let go of everything; remove the temporary file of what failed."""
    if failed is not None:
        failed.sink.abort()
    source.close()


async def seal_file(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    keyring: Key | Keyring,
    *,
    partition: str | None = None,
    context: bytes = b"",
    suite: Suite | str | None = None,
    chunk_size: int = CHUNK_SIZE,
    segment_size: int = SEGMENT_SIZE,
    overwrite: bool = False,
    durable: bool = False,
    progress: Progress | None = None,
) -> int:
    """Seal the file *src* into the file *dst*.

    *dst* appears when it is complete, with the permissions of *src*; an error or a cancellation
    leaves nothing behind. A file that it replaces
    hands on its own permissions and owner instead, where that is allowed, to no more users than
    could read *src*.

    Args:
        src: A regular file.
        dst: The sealed file; must not exist, unless *overwrite*.
        keyring: A Key, or a Keyring together with *partition*.
        partition: Whose key to use, with a keyring.
        context: Authenticated, not stored; 0 to 65,536 bytes.
        suite: Default: the machine's best.
        chunk_size: Bytes that are verified together; a power of two from 4 KiB to 16 MiB.
        segment_size: Bytes under one key; a multiple of *chunk_size*, at most 64 GiB.
        overwrite: Replace an existing regular file, or a symbolic link to one (the link itself).
        durable: fsync before the final name counts.
        progress: Called with (plaintext bytes done, total) in the caller's task.

    Returns:
        The size of *dst* in bytes.

    Raises:
        OutputExistsError: *dst* exists.
        SourceChangedError: *src* was written to meanwhile.
        SourceError: *src*, or what *dst* would replace, is no regular file.
        OSError: Reading or writing failed.

    Cost: about that of a plain copy; 2 MiB of buffers per worker thread, whatever the size.
    Source: docs/format.md, section 4.
    """
    context = check_context(context)
    key = await current_key(keyring, resolve_partition(keyring, partition))
    sealing = await offload.acquire(
        lambda: FileSealing(src, dst, overwrite, durable), lambda made: made.close(failed=True)
    )
    failed = True
    try:
        meter = Meter(progress, sealing.source.size)
        meter.start()
        jobs = sealing.jobs(
            key,
            context=context,
            suite=suite,
            chunk_bytes=chunk_size,
            segment_bytes=segment_size,
        )
        await offload.each(sealing.seal, jobs, meter.add)
        size = await offload.run(sealing.finish)
        failed = False
        return size
    finally:
        await offload.settle(sealing.close, failed)


async def open_file(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    keyring: Key | Keyring,
    *,
    partition: str | None = None,
    context: bytes = b"",
    overwrite: bool = False,
    durable: bool = False,
    progress: Progress | None = None,
) -> int:
    """Open the sealed file *src* into the file *dst*.

    *dst* appears when every byte has verified, with the permissions of *src*; an error or a
    cancellation leaves nothing behind. A file that it replaces
    hands on its own permissions and owner instead, where that is allowed, to no more users than
    could read *src*.

    Args:
        src: A file that :func:`seal_file` or an ObjectWriter wrote.
        dst: The plaintext file; must not exist, unless *overwrite*.
        keyring: The Key it was sealed under, or a Keyring together with *partition*.
        partition: As when sealing.
        context: As when sealing.
        overwrite: Replace an existing regular file, or a symbolic link to one (the link itself).
        durable: fsync before the final name counts.
        progress: Called with (plaintext bytes done, total) in the caller's task.

    Returns:
        The size of *dst* in bytes.

    Raises:
        FormatError, WrongKeyError, DecryptionError: As for ``ObjectReader.open``.
        OutputExistsError: *dst* exists.
        SourceError: *src*, or what *dst* would replace, is no regular file.
        OSError: Reading or writing failed.

    Cost: as :func:`seal_file`.
    """
    source = await FileSource.aopen(src)
    failed = True
    opening: FileOpening | None = None
    try:
        reader = await ObjectReader.open(source, keyring, partition=partition, context=context)
        opened = reader.opened
        opening = await offload.acquire(
            lambda: FileOpening(source, dst, overwrite, durable), lambda made: made.sink.abort()
        )
        meter = Meter(progress, opened.size)
        meter.start()
        await offload.each(opening.open, opening.jobs(opened), meter.add)
        await offload.run(opening.sink.commit, opened.size)
        failed = False
        return opened.size
    finally:
        await offload.settle(_close, source, opening if failed else None)


async def rewrap_file(
    path: str | os.PathLike[str],
    keyring: Key | Keyring,
    *,
    partition: str | None = None,
    to_keyring: Key | Keyring | None = None,
    to_partition: str | None = None,
    durable: bool = False,
    progress: Progress | None = None,
) -> bool:
    """Wrap the data key of the sealed file *path* under another key.

    After a rotation, or to give a file to another partition. The plaintext is not decrypted, the
    context not needed, and nothing but the header changes. The file is replaced when its copy is
    complete, and keeps permissions and owner; an error or a cancellation leaves it as it was. Who
    kept a copy of the old file can still open it with the old key.

    Args:
        path: A sealed file. Of a symbolic link, the file that it names.
        keyring: The Key it is sealed under, or a Keyring together with *partition*.
        partition: As when sealing.
        to_keyring: Whose current key to wrap under. Default: *keyring*.
        to_partition: In *to_keyring*. Default: *partition*.
        durable: fsync before the final name counts.
        progress: Called with (bytes copied, total) in the caller's task.

    Returns:
        Whether anything was to be done: False if that key was the one already.

    Raises:
        FormatError: Not a sealed object.
        WrongKeyError: Sealed under an unknown key.
        DecryptionError: Its data key does not verify.
        SourceChangedError: The file was written to meanwhile.
        OSError: Reading or writing failed.

    Cost: that of a plain copy; 1 MiB of buffers per worker thread, whatever the size.
    Source: docs/format.md, sections 4.1 and 5.6.
    """
    name = resolve_partition(keyring, partition)
    to_keyring, to_partition = rewrap_target(keyring, partition, to_keyring, to_partition)
    to_name = resolve_partition(to_keyring, to_partition)
    work = await offload.acquire(
        lambda: FileRewrapping(path, durable), lambda made: made.close(failed=True)
    )
    failed = True
    try:
        old = await named_key(keyring, name, work.header.key_id)
        new = await current_key(to_keyring, to_name)
        if old == new:
            rewrap_header(work.header, old, new)  # whether it verifies
            return False
        await offload.run(work.begin, old, new)
        meter = Meter(progress, work.source.size - work.header.geometry.header_bytes)
        meter.start()
        await offload.each(work.copy, work.jobs(), meter.add)
        await offload.run(work.finish)
        failed = False
        return True
    finally:
        await offload.settle(work.close, failed)
