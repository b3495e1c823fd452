"""Where sealed objects are read from and written to: memory, local files, plain streams."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Awaitable, Callable
from typing import Any, Self

from anyseal import offload
from anyseal._ffi import process_number, view, view_writable
from anyseal.errors import OutputExistsError, SourceChangedError, SourceError
from anyseal.hints import as_path, check_callable, wrong_type
from anyseal.objects.targets import (
    Replaced,
    check_absent,
    not_regular,
    open_temporary,
    private_name,
    warn_open,
)
from anyseal.pages import Growing, copied
from anyseal.ports import Ends

__all__ = [
    "BlockingStreamSink",
    "FileSink",
    "FileSource",
    "MemorySink",
    "MemorySource",
    "StreamSink",
]


def check_tag(name: str, etag: str) -> None:
    """Refuse an entity tag that cannot hold reads to one version of *name*.

    Raises:
        SourceError: There is none, or a weak one. Trying again does not help.
    """
    if etag and not etag.startswith("W/"):
        return
    what = "only a weak one (W/...), which says nothing about the bytes" if etag else "none"
    error = SourceError(
        f"{name}: no strong entity tag to hold reads to one version, but {what}: have the object "
        "served with a strong ETag, without compression on the way"
    )
    error.retryable = False
    raise error


class MemorySource:
    """A sealed object in memory: any contiguous bytes-like.

    What changes while it is read does not verify. Ciphers other than AEGIS256 are given a copy of
    each chunk, unless it is ``bytes`` or a view of it.
    """

    blocks = False

    def __init__(self, data: Any) -> None:
        view(data)  # raises what says the remedy
        self._data = memoryview(data).cast("B")

    def pread_ends(self, head: int, tail: int) -> Ends:
        size = len(self._data)
        return Ends(
            size=size,
            head=bytes(self._data[:head]),
            tail=bytes(self._data[max(0, size - tail) :]),
        )

    def pread_into(self, offset: int, buffer: memoryview) -> None:
        part = self._data[offset : offset + len(buffer)]
        if len(part) != len(buffer):
            raise SourceChangedError("the source is shorter than it was")
        buffer[:] = part

    def window(self, offset: int, length: int) -> memoryview | None:
        part = self._data[offset : offset + length]
        return part if len(part) == length else None

    def close(self) -> None:
        self._data.release()


class MemorySink:
    """Collects a sealed object in memory.

    Args:
        buffer: Writable and contiguous, used from its start and never grown, so that it can be
            used again. Default: memory that grows, and whose pages are large.
    """

    blocks = False

    def __init__(self, buffer: Any = None) -> None:
        self._grown = Growing()
        if buffer is not None:
            view_writable(buffer)  # raises what says the remedy
        self._view = None if buffer is None else memoryview(buffer).cast("B")
        self._size: int | None = None

    @property
    def memory(self) -> memoryview | None:
        """The buffer that was given."""
        return self._view

    def pwrite(self, offset: int, data: memoryview) -> None:
        end = offset + len(data)
        if self._view is not None:
            if end > len(self._view):
                raise ValueError(f"the buffer has {len(self._view):,} bytes and needs {end:,}")
            self._view[offset:end] = data
            return
        self._grown.write(offset, data)

    def window(self, offset: int, length: int) -> memoryview | None:
        if self._view is None or offset + length > len(self._view):
            return None
        return self._view[offset : offset + length]

    def commit(self, size: int) -> None:
        self._size = size

    def abort(self) -> None:
        if self._view is not None:
            self._view.release()
            self._view = None
        self._grown = Growing()

    def getvalue(self) -> bytes:
        """The sealed object. Raises ValueError before it is finished."""
        if self._size is None:
            raise ValueError("the object is not finished")
        if self._view is None:
            return self._grown.read(0, self._size)
        return copied(self._view[: self._size])


class FileSource:
    """A local file, read with ``pread`` from several threads at once.

    The constructor opens it, in the caller's thread; :meth:`aopen` does in a worker thread.

    Raises:
        SourceError: No regular file, or one whose size does not say what is in it, as in ``/proc``.
    """

    _fd = -1

    @classmethod
    async def aopen(cls, path: str | os.PathLike[str]) -> Self:
        """The same for async code: opened without holding the event loop up, which a file of a
        network may do."""
        return await offload.acquire(lambda: cls(path), cls.close)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = as_path(
            path, "MemorySource(data) reads bytes" if isinstance(path, bytes) else ""
        )
        # O_NONBLOCK: opening a FIFO must not wait for its writer.
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.stat = os.fstat(self._fd)
            if not stat.S_ISREG(self.stat.st_mode):
                raise not_regular(self.path, "read it as a stream")
            if not self.size and os.pread(self._fd, 1, 0):
                raise SourceError(f"{self.path}: has content but no size; read it as a stream")
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return self.stat.st_size

    def _open(self) -> int:
        """The descriptor. Raises ValueError if it is closed."""
        if self._fd < 0:
            raise ValueError(f"{self.path}: the source is closed")
        return self._fd

    def pread_ends(self, head: int, tail: int) -> Ends:
        size, fd = self.size, self._open()
        return Ends(
            size=size,
            head=os.pread(fd, head, 0),
            tail=os.pread(fd, min(tail, size), max(0, size - tail)),
        )

    def pread_into(self, offset: int, buffer: memoryview) -> None:
        fd = self._open()
        while len(buffer):
            got = os.preadv(fd, [buffer], offset)
            if got == 0:
                raise SourceChangedError(f"{self.path}: shorter than when it was opened")
            offset += got
            buffer = buffer[got:]

    def window(self, offset: int, length: int) -> memoryview | None:
        return None

    def check_unchanged(self) -> None:
        """Raise SourceChangedError if the file was written to since it was opened.

        Its change time counts, which cannot be put back as its modification time can; so a file
        that is given another mode, owner or link meanwhile counts as changed, too. Not noticed is
        a write through a mapping whose page was dirty before: the kernel then changes no time.
        """
        now, then = os.fstat(self._open()), self.stat
        if (now.st_size, now.st_mtime_ns, now.st_ctime_ns) != (
            then.st_size,
            then.st_mtime_ns,
            then.st_ctime_ns,
        ):
            raise SourceChangedError(f"{self.path}: changed while it was being read")
        if os.pread(self._fd, 1, self.size):
            raise SourceError(f"{self.path}: has more content than its size says")

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if self._fd >= 0:
            warn_open(self, f"{self.path}")
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class FileSink:
    """A local file: written under a temporary name beside it, renamed when it is complete.

    Args:
        path: The final name. Until ``commit`` nothing is there, or what was there before.
        overwrite: Replace an existing regular file; the new one keeps its mode and owner, where
            that is allowed, and is never open to more users. Of a symbolic link, the link is
            replaced. Default: OutputExistsError, also when a file appears meanwhile.
        mode: Permission bits of a new file, before the umask. Who may not read by them may not use
            one that replaces another either.
        durable: fsync the file and its folder before the new name counts.

    Raises:
        OutputExistsError: *path* exists, and *overwrite* was not asked for.
        SourceError: To be replaced is no regular file, but a device, a FIFO, a socket or a folder.

    The constructor makes it, in the caller's thread; :meth:`aopen` does in a worker thread.
    """

    _fd = -1

    @classmethod
    async def aopen(
        cls,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        mode: int = 0o666,
        durable: bool = False,
    ) -> Self:
        """The same for async code: made without holding the event loop up."""
        return await offload.acquire(
            lambda: cls(path, overwrite=overwrite, mode=mode, durable=durable), cls.abort
        )

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        mode: int = 0o666,
        durable: bool = False,
    ) -> None:
        self._begin(path, overwrite=overwrite, mode=mode, durable=durable)
        self._temporary = private_name(self.path, f".{secrets.token_hex(6)}.part")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._fd = open_temporary(self._temporary, flags, self._first_mode)

    def _begin(
        self, path: str | os.PathLike[str], *, overwrite: bool, mode: int, durable: bool
    ) -> None:
        """Look at what stands at *path*."""
        self.path = as_path(path)
        self._overwrite = overwrite
        self._durable = durable
        self._process = process_number()
        self._mode = mode
        self._replaced: Replaced | None = None
        if overwrite:
            self._replaced = Replaced.at(self.path)
        else:
            check_absent(self.path)

    @property
    def _first_mode(self) -> int:
        return self._mode if self._replaced is None else self._replaced.first_mode(self._mode)

    def _open(self) -> int:
        """The descriptor. Raises ValueError if it is closed."""
        if self._fd < 0:
            raise ValueError(f"{self.path}: the sink is closed")
        return self._fd

    def pwrite(self, offset: int, data: memoryview) -> None:
        fd = self._open()
        while len(data):
            done = os.pwrite(fd, data, offset)
            offset += done
            data = data[done:]

    def window(self, offset: int, length: int) -> memoryview | None:
        return None

    def commit(self, size: int) -> None:
        self._complete(size)
        self._close()
        try:
            self._rename()
        except BaseException:
            self.abort()
            raise

    def _complete(self, size: int) -> None:
        """Cut the file at *size* and open it to those who may use it."""
        os.ftruncate(self._open(), size)
        if self._overwrite:
            # What stands there now counts; what stood there first, if it is gone.
            replaced = Replaced.at(self.path) or self._replaced
            if replaced is not None:
                replaced.hand_on(self._fd, self._mode)
        if self._durable:
            os.fsync(self._fd)

    def _rename(self) -> None:
        """Give the file its final name."""
        if self._overwrite:
            self._temporary.replace(self.path)
        else:
            self._rename_exclusively()
        if self._durable:
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _rename_exclusively(self) -> None:
        try:
            os.link(self._temporary, self.path)
        except FileExistsError:
            raise OutputExistsError(f"{self.path} exists") from None
        except OSError:  # a file system without hard links
            if os.path.lexists(self.path):
                raise OutputExistsError(f"{self.path} exists") from None
            self._temporary.rename(self.path)
        else:
            self._temporary.unlink()

    def abort(self) -> None:
        self._close()
        if process_number() == self._process:  # a forked child must not remove its parent's file
            with contextlib.suppress(FileNotFoundError):
                self._temporary.unlink()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if self._fd >= 0:
            if process_number() == self._process:
                warn_open(self, f"{self.path}")
            self._collected()

    def _collected(self) -> None:
        """Let go of what is left when the sink is collected."""
        self.abort()


class StreamSink:
    """An async sink over any awaitable write function, such as an anyio stream's ``send``.

    What was written cannot be taken back: ``abort`` leaves an object without a trailer, which does
    not open.
    """

    def __init__(self, send: Callable[[bytes], Awaitable[Any]]) -> None:
        method = "its method, StreamSink(stream.send)" if hasattr(send, "send") else ""
        check_callable("send", send, method)
        self._send = send

    async def write(self, data: memoryview) -> None:
        await self._send(bytes(data))  # a transport may keep what it was given

    async def commit(self) -> None:
        pass

    async def abort(self) -> None:
        pass


class BlockingStreamSink:
    """A sink over a blocking binary file that cannot seek, such as ``sys.stdout.buffer``.

    What was written cannot be taken back: ``abort`` leaves an object without a trailer, which does
    not open.
    """

    def __init__(self, file: Any) -> None:
        if not hasattr(file, "write"):
            remedy = "FileSink(path) makes a file" if isinstance(file, (str, os.PathLike)) else ""
            raise wrong_type("file", "a binary file open for writing", file, remedy)
        self._file = file

    def append(self, data: memoryview) -> None:
        while len(data):
            done = self._file.write(data)
            if done is None:
                raise SourceError("the stream does not block and cannot take more now")
            data = data[done:]

    def commit(self, size: int) -> None:
        self._file.flush()

    def abort(self) -> None:
        pass
