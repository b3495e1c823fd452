"""Put, get and cat: between S3 and files or pipes."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from anyseal import offload
from anyseal.cli.process import STDIN, STDOUT, CliError, Output, Stopped, note, printable
from anyseal.cli.progress import metered
from anyseal.cli.s3_connection import S3, Connection, KeyOptions, Place, about_place
from anyseal.cli.transfer import Range
from anyseal.errors import PreconditionFailedError, SourceError

__all__ = ["PutOptions", "cat", "get", "put"]

PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PutOptions:
    """How an object is put."""

    suite: str | None
    chunk_size: int
    part_size: int
    metadata: dict[str, str]
    content_type: str | None
    force: bool


@contextlib.contextmanager
def _source(src: str) -> Iterator[tuple[str, Path | None, int]]:
    """A name for messages, and a path or the descriptor of a stream."""
    if src == "-":
        yield "standard input", None, STDIN
        return
    path = Path(src)
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise CliError(f"{path} is a folder: make a tar of it")
    if stat.S_ISREG(mode):
        yield src, path, -1
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield src, None, fd
    finally:
        os.close(fd)


async def _pieces(fd: int) -> AsyncIterator[bytes]:
    """What comes through a pipe. Waits where a signal can end it."""
    while True:
        try:
            await anyio.wait_readable(fd)
        except PermissionError:  # a file or a device: never makes anyone wait for long
            data = await anyio.to_thread.run_sync(os.read, fd, PIECE_BYTES)
        else:
            try:
                data = os.read(fd, PIECE_BYTES)
            except BlockingIOError:
                continue
        if not data:
            return
        yield data


async def _deliver(output: Output, data: bytes) -> None:
    """Write all of *data*. A signal does not wait for the reader of a pipe that is full."""
    output.check(data)
    await offload.run_waiting(output.write, data)


async def _refuse_existing(s3: S3, place: Place) -> None:
    """Say so before the work if there is an object; S3 itself checks at the end of it."""
    try:
        found = await s3.calls(place.bucket).exists(place.key)
    except SourceError as exc:
        if "403" in str(exc) or "Forbidden" in str(exc):  # who may write need not be able to look
            return
        raise
    if found:
        raise CliError(f"{place} exists: --force replaces it")


def put(
    src: str, place: Place, options: PutOptions, keys: KeyOptions, s3: Connection, *, quiet: bool
) -> None:
    """Seal a file or a pipe into an object."""
    with _source(src) as (name, path, fd):
        target = place.receiving("" if src == "-" else Path(src).name)
        where, keyring = keys.where, keys.keyring(sealing=True)
        total = path.stat().st_size if path is not None else None

        async def job(connected: S3) -> None:
            if not options.force:
                await _refuse_existing(connected, target)
            async with keyring() as opened:
                bucket = connected.bucket(
                    target.bucket,
                    opened,
                    suite=options.suite,
                    chunk_size=options.chunk_size,
                    part_size=options.part_size,
                    bind_location=keys.bind_location,
                )
                with metered("sealed and uploaded", name, total=total, quiet=quiet) as meter:
                    await bucket.put(
                        target.key,
                        path if path is not None else _pieces(fd),
                        metadata=options.metadata,
                        content_type=options.content_type,
                        if_none_match=not options.force,
                        progress=meter,
                        **where,
                    )

        with about_place(target):
            try:
                s3.run(job)
            except PreconditionFailedError:
                raise CliError(f"{target} exists: --force replaces it") from None


def _target_path(place: Place, dst: str | None) -> Path:
    """The file that *dst* or else the object's name means. Raises CliError."""
    last = place.key.rpartition("/")[2]
    path = Path(dst if dst is not None else ".")
    if dst is not None and not path.is_dir():
        if not path.parent.is_dir():
            raise CliError(f"{path.parent}: no such folder")
        if path.exists() and not path.is_file():
            raise CliError(f"{path} is no regular file: use - and redirect it")
        return path
    if last in ("", ".", "..") or not last.isprintable():
        raise CliError(f"{place}: its name does for no file: say which")
    return path / last


def get(
    place: Place,
    dst: str | None,
    version: str | None,
    keys: KeyOptions,
    s3: Connection,
    *,
    force: bool,
    resume: bool,
    quiet: bool,
) -> None:
    """Download and open an object into a file, or to standard output."""
    if dst == "-":
        cat(place, Range(), version, keys, s3, quiet=quiet)
        return
    path = _target_path(place, dst)
    if path.exists() and not force:
        raise CliError(f"{path} exists: --force replaces it")
    where, keyring = keys.where, keys.keyring()

    async def job(connected: S3) -> None:
        async with keyring() as opened:
            bucket = connected.bucket(place.bucket, opened, bind_location=keys.bind_location)
            name = printable(str(place))
            with metered("downloaded and opened", name, total=None, quiet=quiet) as meter:
                await bucket.download_file(
                    place.key,
                    path,
                    version_id=version,
                    overwrite=force,
                    resume=resume,
                    progress=meter,
                    **where,
                )

    from anyseal.s3.part_file import part_names

    with about_place(place):
        try:
            s3.run(job)
        except (Stopped, SourceError):
            if resume and part_names(path)[0].exists():
                note(f"{path} is not complete: the same command goes on where it ended")
            raise
        except OSError as exc:
            if exc.filename is not None:
                raise
            raise CliError(f"{path}: {exc.strerror or exc}", 1) from None


def cat(
    place: Place,
    wanted: Range,
    version: str | None,
    keys: KeyOptions,
    s3: Connection,
    *,
    quiet: bool,
) -> None:
    """Write a range of an object's plaintext to standard output."""
    output = Output(STDOUT, sealed=False)
    where, keyring = keys.where, keys.keyring()

    async def job(connected: S3) -> None:
        async with keyring() as opened:
            bucket = connected.bucket(place.bucket, opened, bind_location=keys.bind_location)
            reader = await bucket.open(place.key, version_id=version, **where)
            async with reader:
                start, stop = wanted.within(reader.size)
                name, silent = printable(str(place)), quiet or output.terminal
                pieces: Any = reader.stream(start, stop, piece_size=PIECE_BYTES)
                with metered("opened", name, total=stop - start, quiet=silent) as meter:
                    # The requests ahead end here, also when the reader of a pipe has gone; left to
                    # the end of the event loop, they outlive the client that they are of.
                    async with contextlib.aclosing(pieces):
                        async for piece in pieces:
                            await _deliver(output, piece)
                            meter.add(len(piece))

    with about_place(place):
        s3.run(job)
