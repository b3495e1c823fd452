"""The two hidden files of a download that another attempt may go on with."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path

from anyseal._ffi import process_number
from anyseal.errors import OutputExistsError
from anyseal.objects.sources import FileSink
from anyseal.objects.targets import open_temporary, private_name

__all__ = ["PartFile", "part_names"]


def part_names(path: Path) -> tuple[Path, Path]:
    """The names of the two files beside *path*: of what there is of it, and of its state."""
    return private_name(path, ".anyseal.part"), private_name(path, ".anyseal.state")


class PartFile(FileSink):
    """A FileSink whose temporary file has a name that the next attempt finds, and is locked."""

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool, durable: bool) -> None:
        self._begin(path, overwrite=overwrite, mode=0o666, durable=durable)
        self._temporary, self.state = part_names(self.path)
        while True:
            self._fd = self._locked()
            with contextlib.suppress(FileNotFoundError):
                # Another process may have given the file its final name before the lock was ours.
                found = os.fstat(self._fd)
                if os.path.samestat(found, self._temporary.lstat()):
                    if found.st_nlink == 1:
                        if self._replaced is not None:  # an earlier attempt knew nothing of it
                            os.fchmod(self._fd, found.st_mode & self._first_mode)
                        return
                    # With a second name it may be any file of ours: it must not be written to.
                    self._temporary.unlink()
            self._close()

    def _locked(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = open_temporary(self._temporary, flags, self._first_mode)
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

    def commit(self, size: int) -> None:
        self._complete(size)
        try:
            self._rename()  # before the lock goes
        except BaseException:
            self.abort()
            raise
        self.state.unlink(missing_ok=True)
        self._close()

    def abort(self) -> None:
        if self._fd >= 0 and process_number() == self._process:
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

    def pread_into(self, offset: int, buffer: memoryview) -> bool:
        """Fill *buffer* from *offset*; whether there is as much."""
        while len(buffer):
            got = os.preadv(self._open(), [buffer], offset)
            if not got:
                return False
            offset, buffer = offset + got, buffer[got:]
        return True

    def clear(self) -> None:
        """Forget what is in it."""
        os.ftruncate(self._open(), 0)

    def keep(self) -> None:
        """Leave it to the next attempt."""
        self._close()

    def _collected(self) -> None:
        self.keep()
