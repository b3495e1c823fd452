"""Downloads into files: parallel, verified before they are written, resumable.

Beside the target there is, until it is complete, a hidden ``.part`` file of verified plaintext and
a ``.state`` file: a bit for each window that is in the part file, the sum of these windows' MACs,
and a MAC over all that and the object's version, under keys of the object. Whoever goes on reads
these windows in the part file again; if they are not what was written, because somebody edited the
file or a crash of the system lost some of it, the download starts again. What the same user's
processes write into the file while the download runs is not seen, nor what they write afterwards.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from anyseal import offload
from anyseal.config import STEP_BYTES, UNIT_BYTES
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
from anyseal.s3.part_file import PartFile
from anyseal.s3.source import S3Source
from anyseal.s3.window_macs import WindowMacs
from anyseal.tasks import each_awaited

__all__ = ["DownloadCalls"]

SAVE_SECONDS = 0.5
"""How much of its work a download that is killed may forget."""

_MAGIC = b"anyseal download v2\n"
_SALT_BYTES, _SUM_BYTES, _MAC_BYTES = 16, 32, 32


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
        self._sum = self._reread = 0
        self._macs: WindowMacs | None = None
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

    def _mac(self, *fields: bytes) -> bytes:
        return self._opened.resume_mac(b"".join(len(one).to_bytes(4) + one for one in fields))

    def _use_salt(self, salt: bytes) -> None:
        self._salt = salt
        self._macs = WindowMacs(self._mac, salt)

    def _note(self) -> bytes:
        """What the state file holds, after its MAC."""
        return self._salt + self._sum.to_bytes(_SUM_BYTES) + self._bits

    def _load(self, sink: PartFile) -> None:
        """Believe what an earlier attempt noted, if the note is ours and of this object."""
        with contextlib.suppress(OSError):
            size = _MAC_BYTES + _SALT_BYTES + _SUM_BYTES + len(self._bits)
            note = sink.read_state(size + 1)
            mac, rest = note[:_MAC_BYTES], note[_MAC_BYTES:]
            mine = self._mac(_MAGIC, self._version, rest)
            if len(note) == size and hmac.compare_digest(mac, mine):
                self._use_salt(rest[:_SALT_BYTES])
                self._sum = int.from_bytes(rest[_SALT_BYTES : _SALT_BYTES + _SUM_BYTES])
                self._bits[:] = rest[_SALT_BYTES + _SUM_BYTES :]
                return
        self.start_over()

    def start_over(self) -> None:
        """Forget what an earlier attempt left."""
        if isinstance(self.sink, PartFile):
            self.sink.clear()
        self._bits[:] = bytes(len(self._bits))
        self._sum = 0
        self._use_salt(os.urandom(_SALT_BYTES))

    def save(self) -> None:
        """Note what is done."""
        if isinstance(self.sink, PartFile):
            note = self._note()
            self.sink.write_state(self._mac(_MAGIC, self._version, note) + note)
            self._saved = time.monotonic()

    def found(self) -> Iterator[tuple[int]]:
        """The number of each window that an earlier attempt has written."""
        return ((number,) for number in range(self._windows) if self._is_done(number))

    def reread(self, number: int) -> None:
        """Read a window from the part file."""
        start, stop = self._bounds(number)
        macs, sink, steps = self._macs, self.sink, []
        if macs is None or not isinstance(sink, PartFile):
            return
        for step in self._opened.parts(start, stop, STEP_BYTES):
            with offload.buffers().lease(step.stop - step.start) as plain:
                if not sink.pread_into(step.start, plain):
                    return
                steps.append(macs.step(step.start, plain))
        with self._lock:
            self._reread ^= macs.window(number, steps)

    @property
    def is_as_written(self) -> bool:
        """Whether all windows that were read from the part file are what was written."""
        mine, found = (one.to_bytes(_SUM_BYTES) for one in (self._sum, self._reread))
        return hmac.compare_digest(mine, found)

    def _bounds(self, number: int) -> tuple[int, int]:
        start = number * self._window
        return start, min(start + self._window, self._opened.size)

    def _is_done(self, number: int) -> int:
        return self._bits[number // 8] >> number % 8 & 1

    def requests(self) -> Iterator[tuple[int, Request]]:
        """Each window that is not done, by its number."""
        for number in range(self._windows):
            if not self._is_done(number):
                yield number, self._opened.request(*self._bounds(number))

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
        macs, steps = self._macs, []
        for step, piece in self._opened.opened_steps(request, sealed):
            with offload.buffers().lease(step.stop - step.start) as plain:
                self._opened.open_part(step, piece, plain)
                if macs is not None:  # now that it is in the core's cache
                    steps.append(macs.step(step.start, plain))
                self.sink.pwrite(step.start, plain)
        with self._lock:
            if macs is not None:
                self._sum ^= macs.window(number, steps)
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
        long as the object in the bucket is the same; without it, nothing is left. What is in the
        part file is read and verified again before the rest is fetched: if it was edited, the
        download starts again. It is not protected from processes of the same user that write to
        it while the download runs.

        Args:
            key: The object's key.
            path: The plaintext file; must not exist, unless *overwrite*.
            partition: As when it was put.
            context: As when it was put.
            version_id: A version of a bucket with versions. Default: the current one.
            concurrency: Requests at the same time. Default: the bucket's.
            overwrite: Replace an existing regular file, or a symbolic link to one; its permissions
                and owner stay, where that is allowed.
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

        Cost: requests of 8 MiB, *concurrency* at a time; that many buffers of this size. To go on,
            one reading of the part file.
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
                await offload.each(download.reread, download.found())
                if not download.is_as_written:
                    await offload.run(download.start_over)
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
