"""Downloads into files: parallel, verified before they are written, resumable.

Beside the target there is, until it is complete, a hidden ``.part`` file of verified plaintext and
a ``.state`` file: a bit for each window that is in the part file, and a MAC under a key of the
object. The MAC covers the object's version, the part file's identity and the boot of the machine:
after a crash of the system what was not on the disk is unknown, and the download starts again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anyseal import offload
from anyseal.config import UNIT_BYTES
from anyseal.errors import (
    DecryptionError,
    FormatError,
    OutputExistsError,
    SourceChangedError,
)
from anyseal.objects.geometry import SALT_BYTES
from anyseal.objects.opened import OpenedObject, Request
from anyseal.objects.sources import FileSink
from anyseal.ports import Progress
from anyseal.s3.get import GetCalls
from anyseal.s3.source import S3Source
from anyseal.tasks import each_awaited

__all__ = ["DownloadCalls"]

SAVE_SECONDS = 0.5
"""How much of its work a download that is killed may forget."""

_MAGIC = b"anyseal download v1\n"


def _boot() -> bytes:
    """What tells one boot of this machine from another; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return b""


class PartFile(FileSink):
    """A FileSink whose temporary file has a name that the next attempt finds, and is locked."""

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool, durable: bool) -> None:
        self.path = Path(path)
        self._overwrite = overwrite
        self._durable = durable
        if not overwrite and os.path.lexists(self.path):
            raise OutputExistsError(f"{self.path} exists")
        stem = f".{self.path.name[:200]}.anyseal"
        self._temporary = self.path.with_name(f"{stem}.part")
        self.state = self.path.with_name(f"{stem}.state")
        self._pid = os.getpid()
        while True:
            self._fd = self._locked()
            with contextlib.suppress(FileNotFoundError):
                # Another process may have given the file its final name before the lock was ours.
                found = os.fstat(self._fd)
                if os.path.samestat(found, self._temporary.lstat()):
                    if found.st_nlink == 1:
                        return
                    # With a second name it may be any file of ours: it must not be written to.
                    self._temporary.unlink()
            self._close()

    def _locked(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(self._temporary, flags, 0o666)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                raise OutputExistsError(f"{self._temporary} is there and is not ours")
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputExistsError(f"{self.path} is being downloaded already") from None
        except BaseException:
            os.close(fd)
            raise
        return fd

    @property
    def identity(self) -> bytes:
        """Which file this is."""
        found = os.fstat(self._fd)
        return b"%d %d" % (found.st_dev, found.st_ino)

    def commit(self, size: int) -> None:
        os.ftruncate(self._fd, size)
        if self._durable:
            os.fsync(self._fd)
        try:
            self._rename()  # before the lock goes
        except BaseException:
            self.abort()
            raise
        self.state.unlink(missing_ok=True)
        self._close()

    def abort(self) -> None:
        if self._fd >= 0 and os.getpid() == self._pid:
            self._temporary.unlink(missing_ok=True)
            self.state.unlink(missing_ok=True)
        self._close()

    def read_state(self, limit: int) -> bytes:
        """What an earlier attempt noted, cut at *limit* bytes. Raises OSError."""
        fd = os.open(self.state, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            return file.read(limit)

    def write_state(self, note: bytes) -> None:
        """Note *note*. The name can be foretold: what stands there is not followed or kept."""
        fresh = self.state.with_name(self.state.name + "~")
        fresh.unlink(missing_ok=True)
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(note)
        except BaseException:  # such as a full disk
            fresh.unlink()
            raise
        fresh.replace(self.state)

    def clear(self) -> None:
        """Forget what is in it."""
        os.ftruncate(self._fd, 0)

    def keep(self) -> None:
        """Leave it to the next attempt."""
        self._close()


class Download:
    """The blocking steps of one download, for worker threads."""

    def __init__(
        self,
        opened: OpenedObject,
        etag: str,
        path: Any,
        *,
        overwrite: bool,
        durable: bool,
        resume: bool,
    ) -> None:
        self._opened = opened
        self._lock = threading.Lock()
        self._saved = time.monotonic()
        self._window = opened.geometry.window(UNIT_BYTES)
        self._windows = -(-opened.size // self._window)
        self._bits = bytearray(self._windows // 8 + 1)
        self._version = f"{etag} {opened.size} {self._window}".encode()
        self.sink: FileSink
        if not resume:
            self.sink = FileSink(path, overwrite=overwrite, durable=durable)
            return
        self.sink = PartFile(path, overwrite=overwrite, durable=durable)
        try:
            self._load(self.sink)
        except BaseException:
            self.sink.keep()
            raise

    def _mac(self, sink: PartFile) -> bytes:
        fields = (_MAGIC, _boot(), self._version, sink.identity, bytes(self._bits))
        return self._opened.resume_mac(b"".join(len(one).to_bytes(4) + one for one in fields))

    def _load(self, sink: PartFile) -> None:
        """Believe what an earlier attempt noted, if the note is ours and of this object."""
        with contextlib.suppress(OSError):
            note = sink.read_state(32 + len(self._bits) + 1)
            # Without a boot's name nobody knows what of the part file reached the disk.
            if len(note) == 32 + len(self._bits) and _boot():
                self._bits[:] = note[32:]
                if hmac.compare_digest(note[:32], self._mac(sink)):
                    return
                self._bits[:] = bytes(len(self._bits))
        sink.clear()

    def save(self) -> None:
        """Note what is done."""
        if isinstance(self.sink, PartFile):
            self.sink.write_state(self._mac(self.sink) + self._bits)
            self._saved = time.monotonic()

    def _is_done(self, number: int) -> int:
        return self._bits[number // 8] >> number % 8 & 1

    def requests(self) -> Iterator[tuple[int, Request]]:
        """Each window that is not done, by its number."""
        for number in range(self._windows):
            if not self._is_done(number):
                start = number * self._window
                stop = min(start + self._window, self._opened.size)
                yield number, self._opened.request(start, stop)

    @property
    def missing(self) -> int:
        """Windows that are not done."""
        return self._windows - int.from_bytes(self._bits).bit_count()

    @property
    def done(self) -> int:
        """Plaintext bytes that are in the file."""
        done = (self._windows - self.missing) * self._window
        last = self._windows - 1
        if done and self._is_done(last):
            done += self._opened.size - self._windows * self._window
        return done

    @property
    def longest(self) -> int:
        """At least the ciphertext bytes of any window."""
        geometry = self._opened.geometry
        chunks, segments = geometry.chunks(self._window), geometry.segments(self._window) + 1
        return self._window + chunks * geometry.tag_bytes + segments * SALT_BYTES

    def write(self, number: int, request: Request, sealed: memoryview) -> None:
        """Open a window's ciphertext and write what verifies into the file."""
        for step, piece in self._opened.opened_steps(request, sealed):
            with offload.buffers().lease(step.stop - step.start) as plain:
                self._opened.open_part(step, piece, plain)
                self.sink.pwrite(step.start, plain)
        with self._lock:
            self._bits[number // 8] |= 1 << number % 8
            if time.monotonic() - self._saved > SAVE_SECONDS:
                self.save()

    def close(self, error: BaseException | None) -> None:
        """Let go of the file: keep its part unless it can be of no use."""
        useless = (DecryptionError, FormatError, OutputExistsError, SourceChangedError)
        if isinstance(self.sink, PartFile) and not isinstance(error, useless) and any(self._bits):
            with contextlib.suppress(OSError):
                self.save()
            if os.path.lexists(self.sink.state):
                self.sink.keep()
            else:  # such as on a full disk: the next attempt could not go on
                self.sink.abort()
        else:
            self.sink.abort()


class DownloadCalls(GetCalls):
    """The call of a sealed bucket that downloads into a file."""

    async def download_file(
        self,
        key: str,
        path: str | os.PathLike[str],
        *,
        partition: str | None = None,
        context: bytes = b"",
        version_id: str | None = None,
        concurrency: int | None = None,
        overwrite: bool = False,
        durable: bool = False,
        resume: bool = True,
        progress: Progress | None = None,
    ) -> int:
        """Download and open an object into a local file.

        *path* appears when every byte has verified. With *resume*, an attempt that ends early
        leaves hidden ``.part`` and ``.state`` files beside it, with which the next one goes on as
        long as the object in the bucket is the same; without it, nothing is left.

        Args:
            key: The object's key.
            path: The plaintext file; must not exist, unless *overwrite*.
            partition: As when it was put.
            context: As when it was put.
            version_id: A version of a bucket with versions. Default: the current one.
            concurrency: Requests at the same time. Default: the bucket's.
            overwrite: Replace an existing file.
            durable: fsync before the final name counts.
            resume: Go on where an earlier attempt ended, and leave what the next one needs.
            progress: Called with (plaintext bytes done, total).

        Returns:
            The size of the file in bytes.

        Raises:
            OutputExistsError: *path* exists, or is being downloaded by someone else.
            SourceChangedError: The object was replaced meanwhile.
            ObjectNotFoundError, FormatError, WrongKeyError, DecryptionError, SourceError: As for
                :meth:`open`.
            OSError: Writing failed.

        Cost: requests of 8 MiB, *concurrency* at a time; that many buffers of this size.
        """
        limit = self._slots(concurrency)
        async with await self._reader(
            key, partition, context, version_id, concurrency=limit
        ) as reader:
            source: Any = reader.source
            download = await offload.acquire(
                lambda: Download(
                    reader.opened,
                    source.etag,
                    path,
                    overwrite=overwrite,
                    durable=durable,
                    resume=resume,
                ),
                lambda made: made.close(None),
            )
            try:
                await _transfer(download, source, limit, reader.size, progress)
                await offload.run(download.sink.commit, reader.size)
            except BaseException as exc:
                await offload.settle(download.close, exc)
                raise
            return reader.size


async def _transfer(
    download: Download, source: S3Source, limit: int, size: int, progress: Progress | None
) -> None:
    """Fetch and write what is missing."""
    done = download.done
    if progress is not None:
        progress(done, size)
    with contextlib.ExitStack() as stack:
        # Each request fills a buffer of its own, again and again: fresh pages cost more.
        pool, longest = offload.buffers(), download.longest
        free = [
            stack.enter_context(pool.lease(longest)) for _ in range(min(limit, download.missing))
        ]

        async def window(number: int, request: Request) -> None:
            nonlocal done
            buffer = free.pop()
            try:
                with buffer[: request.length] as sealed:
                    await source.read_into(request.offset, sealed)
                    await offload.run(download.write, number, request, sealed)
            finally:
                free.append(buffer)
            done += request.stop - request.start
            if progress is not None:
                progress(done, size)

        await each_awaited(window, download.requests(), limit)
