"""Seal, open, cat and verify: files in parallel, pipes front to back."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from anyseal import offload, sync
from anyseal.cli.process import STDIN, STDOUT, CliError, Input, Output, is_terminal, signals
from anyseal.cli.progress import Meter, metered
from anyseal.objects.targets import is_descriptor
from anyseal.ports import Keyring
from anyseal.sync import FileSink, FileSource, ObjectReader, ObjectWriter, StreamOpener

__all__ = ["Job", "Range", "cat", "open_", "seal", "verify"]

SUFFIX = ".sealed"
PIECE_BYTES = 8 << 20
"""What is read from a pipe or through a reader at a time: work for several threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What all four commands know."""

    src: str | None
    """A path; ``-`` or None for standard input."""
    keyring: Callable[[], Keyring]
    """Finds the keys; may ask a person, and so comes after every other check."""
    partition: str
    context: bytes
    quiet: bool

    @property
    def name(self) -> str:
        """The source, for messages."""
        return "standard input" if self.src in (None, "-") else str(self.src)

    @property
    def path(self) -> Path | None:
        """The source if it is a regular file, which can be read at any place and in parallel."""
        if self.src is None or self.src == "-":
            return None
        path = Path(self.src)
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise CliError(f"{path} is a folder: make a tar of it")
        return path if stat.S_ISREG(mode) else None

    @contextlib.contextmanager
    def input(self) -> Iterator[Input]:
        """The source as a stream, whatever it is."""
        if self.src is not None and self.src != "-":
            fd = os.open(self.src, os.O_RDONLY | os.O_CLOEXEC)
            try:
                yield Input(fd)
            finally:
                os.close(fd)
            return
        if self.src is None and is_terminal(STDIN):
            raise CliError("nothing to read: name a file, or pipe something in (- reads typing)")
        yield Input(STDIN)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a result goes: into a file under a new name, or into a stream."""

    path: Path | None = None
    output: Output | None = None

    @classmethod
    def choose(cls, dst: str | None, default: Path | None, *, sealed: bool, force: bool) -> Target:
        """The target that ``-o`` names, or *default*, or standard output.

        Raises:
            CliError: It exists and *force* is not given, cannot exist, or is a terminal.
        """
        path = Path(dst) if dst is not None and dst != "-" else default
        if path is None or dst == "-":
            return cls(output=Output(STDOUT, sealed=sealed))
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            mode = stat.S_IFREG if path.is_symlink() else 0
        if stat.S_ISDIR(mode):
            raise CliError(f"{path} is a folder")
        if mode and not stat.S_ISREG(mode):  # /dev/null, a FIFO: never to be renamed over
            return cls(output=Output(os.open(path, os.O_WRONLY | os.O_CLOEXEC), sealed=sealed))
        if is_descriptor(path):  # /dev/stdout that is a file: opened again, it would begin at 0
            raise CliError(f"{path} is an open file: -o - writes to standard output")
        if mode and not force:
            raise CliError(f"{path} exists: --force replaces it")
        if not path.parent.is_dir():
            raise CliError(f"{path.parent}: no such folder")
        return cls(path)


def seal(
    job: Job,
    dst: str | None,
    *,
    force: bool,
    suite: str | None,
    chunk_size: int,
    segment_size: int,
) -> None:
    """Seal one file or pipe."""
    path = job.path
    default = Path(f"{path}{SUFFIX}") if path is not None else None
    target = Target.choose(dst, default, sealed=True, force=force)
    if path is not None and target.path is not None:
        keyring = job.keyring()
        with _metered(job, "sealed", path) as meter, signals.held():
            sync.seal_file(
                path,
                target.path,
                keyring,
                partition=job.partition,
                context=job.context,
                suite=suite,
                chunk_size=chunk_size,
                segment_size=segment_size,
                overwrite=force,
                progress=meter,
            )
        return
    with job.input() as source:
        keyring = job.keyring()
        with _metered(job, "sealed", path) as meter, signals.held():
            sink = target.output or FileSink(_path(target), overwrite=force)
            with ObjectWriter(
                sink,
                keyring,
                partition=job.partition,
                context=job.context,
                suite=suite,
                chunk_size=chunk_size,
                segment_size=segment_size,
            ) as writer:
                for piece in source.pieces(PIECE_BYTES):
                    writer.write(piece)
                    meter.add(len(piece))


def open_(job: Job, dst: str | None, *, force: bool) -> None:
    """Open one file or pipe."""
    path = job.path
    default = None
    if path is not None and dst is None:
        if path.suffix != SUFFIX or not path.stem.strip("."):
            raise CliError(f"{path} does not end in {SUFFIX}: use -o FILE, or -o - for a pipe")
        default = path.with_suffix("")
    target = Target.choose(dst, default, sealed=False, force=force)
    if path is None:
        _open_stream(job, target, force=force)
    elif target.output is not None:
        cat(job, Range(), target.output)
    else:
        keyring = job.keyring()
        with _metered(job, "opened", path) as meter, signals.held():
            sync.open_file(
                path,
                _path(target),
                keyring,
                partition=job.partition,
                context=job.context,
                overwrite=force,
                progress=meter,
            )


def _path(target: Target) -> Path:
    if target.path is None:
        raise AssertionError("a target has a path or an output")
    return target.path


def _open_stream(job: Job, target: Target, *, force: bool) -> None:
    with job.input() as source, _opened(job, source) as pieces:
        if target.output is not None:
            with _metered(job, "opened", None, target.output) as meter:
                for piece in pieces:
                    target.output.append(piece)
                    meter.add(len(piece))
            return
        # Only the end of a pipe shows that the object is whole: until then the name is temporary.
        with _metered(job, "opened", None) as meter, signals.held():
            sink = FileSink(_path(target), overwrite=force)
            try:
                for piece in pieces:
                    sink.pwrite(meter.done, memoryview(piece))
                    meter.add(len(piece))
                sink.commit(meter.done)
            except BaseException:
                sink.abort()
                raise


@contextlib.contextmanager
def _opened(job: Job, source: Input) -> Iterator[Iterator[bytes]]:
    """The plaintext of *source*, verified piece by piece."""
    opener = StreamOpener(job.keyring(), partition=job.partition, context=job.context)
    yield opener.open(cast("Iterator[bytes]", source.pieces(PIECE_BYTES)))


@dataclass(frozen=True, slots=True)
class Range:
    """A range of bytes as the command line writes it: START-STOP, START-, or -LAST."""

    start: int = 0
    stop: int | None = None
    last: int | None = None

    @classmethod
    def parse(cls, text: str) -> Range:
        """Read *text*. Raises CliError."""
        first, dash, second = text.strip().partition("-")
        numbers = [part for part in (first, second) if part]
        if not dash or not numbers or not all(n.isascii() and n.isdecimal() for n in numbers):
            raise CliError("--range takes START-STOP (STOP not included), START-, or -LAST")
        if not first:
            return cls(last=int(second))
        start, stop = int(first), int(second) if second else None
        if stop is not None and stop < start:
            raise CliError("--range: STOP is before START")
        return cls(start, stop)

    def within(self, size: int) -> tuple[int, int]:
        """Start and stop in an object of *size* bytes, cut at its end like a slice."""
        if self.last is not None:
            return max(0, size - self.last), size
        return min(self.start, size), size if self.stop is None else min(self.stop, size)


def cat(job: Job, wanted: Range, output: Output | None = None) -> None:
    """Write a range of an object to *output*; reads and verifies only the chunks it touches."""
    output = output or Output(STDOUT, sealed=False)
    with _reader(job) as reader:
        start, stop = wanted.within(reader.size)
        quiet = job.quiet or output.terminal
        with metered("opened", job.name, total=stop - start, quiet=quiet) as meter:
            for piece in reader.stream(start, stop, piece_size=PIECE_BYTES):
                output.append(piece)
                meter.add(len(piece))


def verify(job: Job) -> int:
    """Read the whole object, keep nothing; returns its plaintext bytes."""
    path = job.path
    if path is None:
        with (
            job.input() as source,
            _opened(job, source) as pieces,
            _metered(job, "verified", None) as meter,
        ):
            for piece in pieces:
                meter.add(len(piece))
        return meter.done
    source_file = FileSource(path)
    with _reader(job, source_file) as reader, _metered(job, "verified", path) as meter:
        # What ObjectReader.verify does, with a word on how far it is.
        parts = reader.opened.parts(0, reader.size)
        jobs = ((source_file, part) for part in parts)
        offload.each_blocking(reader.opened.verify_part, jobs, meter.add)
        return reader.size


def _reader(job: Job, source: FileSource | None = None) -> ObjectReader:
    path = job.path
    if path is None:
        raise CliError(f"{job.name} cannot seek: give a file, or use open")
    source = source or FileSource(path)
    try:
        keyring = job.keyring()
        return ObjectReader.open(source, keyring, partition=job.partition, context=job.context)
    except BaseException:
        source.close()
        raise


def _metered(
    job: Job, verb: str, path: Path | None, output: Output | None = None
) -> contextlib.AbstractContextManager[Meter]:
    """The job's meter; silent where its output goes to the same terminal."""
    total = path.stat().st_size if path is not None else None
    quiet = job.quiet or (output is not None and output.terminal)
    return metered(verb, job.name, total=total, quiet=quiet)
