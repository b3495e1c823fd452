"""What stands under the name of a new file: whether it may be replaced, and who may read it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from anyseal.errors import OutputExistsError, SourceError

__all__ = [
    "Replaced",
    "check_absent",
    "is_descriptor",
    "not_regular",
    "open_temporary",
    "private_name",
    "warn_open",
]

STEM_MAX_BYTES = 100
"""Of a name in a hidden one: file systems allow 255 bytes in all, some only 143."""

_ACL = "system.posix_acl_access"


def not_regular(path: Path, what: str) -> SourceError:
    """The error about a device, a FIFO, a socket or a folder at *path*."""
    error = SourceError(f"{path}: not a regular file; {what}")
    error.retryable = False
    return error


def private_name(path: Path, suffix: str) -> Path:
    """A hidden name beside *path*: its own, cut in bytes if it is long, and *suffix*.

    What was cut is told apart by a digest of the whole name.
    """
    name = os.fsencode(path.name)
    if len(name) > STEM_MAX_BYTES:
        end = STEM_MAX_BYTES - 17
        while end and name[end] & 0xC0 == 0x80:  # inside a character of UTF-8
            end -= 1
        name = name[:end] + b"~" + hashlib.sha256(name).hexdigest()[:16].encode()
    return path.with_name(f".{os.fsdecode(name)}{suffix}")


def open_temporary(path: Path, flags: int, mode: int) -> int:
    """Open a temporary file; its name is not what the caller knows, so errors name its folder."""
    try:
        return os.open(path, flags, mode)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as exc:
        raise type(exc)(exc.errno, exc.strerror, str(path.parent)) from None


def _acl(path: Path) -> bytes | None:
    """The access control list of *path*, where the system has such lists."""
    if hasattr(os, "getxattr"):
        with contextlib.suppress(OSError):
            return os.getxattr(path, _ACL)
    return None


def _set_acl(fd: int, acl: bytes | None) -> bool:
    """Give *fd* this list, or take away the one that it has from its folder; whether it was
    done."""
    try:
        if acl is not None:
            os.setxattr(fd, _ACL, acl)
        elif hasattr(os, "removexattr"):
            os.removexattr(fd, _ACL)
    except OSError:
        return acl is None
    return True


def is_descriptor(path: Path) -> bool:
    """Whether the symbolic link *path* leads to an open file of a process, as /dev/stdout does."""
    while path.is_symlink():  # it leads somewhere: it does not lead in a circle
        if os.path.realpath(path.parent).startswith(("/proc/", "/dev/fd")):
            return True
        path = path.parent / path.readlink()
    return False


@dataclass(frozen=True, slots=True)
class Replaced:
    """Who may use the file that a new one replaces.

    A symbolic link is replaced itself, and what it leads to is left alone. The new file is then
    the caller's own, but no more open to others than what the link leads to; so is one that
    replaces another user's file in a folder like ``/tmp``, where anybody can put one.
    """

    mode: int
    user: int
    group: int
    is_kept: bool
    """Whether user and group are taken over."""
    acl: bytes | None

    @classmethod
    def at(cls, path: Path) -> Self | None:
        """What stands at *path*; None if nothing does, or only a link that leads nowhere.

        Raises:
            SourceError: It is, or leads to, something that is no regular file.
        """
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        linked = path.is_symlink()
        if not stat.S_ISREG(found.st_mode) or (linked and is_descriptor(path)):
            raise not_regular(path, "it is not replaced: write to it as a stream")
        folder = path.parent.stat()
        planted = folder.st_mode & stat.S_ISVTX and found.st_uid not in (
            os.geteuid(),
            folder.st_uid,
        )
        mode, kept = stat.S_IMODE(found.st_mode) & 0o777, not linked and not planted
        return cls(mode, found.st_uid, found.st_gid, kept, _acl(path))

    def first_mode(self, mode: int) -> int:
        """With what mode to create a file that is to be opened to others later; before the umask.

        *mode* is what it would have if it replaced nothing.
        """
        return 0o600 if self.is_kept else mode & self.mode

    def hand_on(self, fd: int, mode: int) -> None:
        """Give the new file *fd* owner and mode of the old one, as far as that is allowed.

        It is never more open than the old one; nor, to a class of users who could not read a file
        with *mode*, open at all. No set-user-id and set-group-id bits. The owner is set first:
        whoever then owns the file must not get a mode that was meant for another.
        """
        allowed, acl = self.mode, self.acl
        for readable, bits in ((0o040, 0o070), (0o004, 0o007)):
            if not mode & readable:
                allowed &= ~bits
        if not self.is_kept:
            allowed &= stat.S_IMODE(os.fstat(fd).st_mode)
        if not self._chown(fd):
            # Of the group's bits and the others' those remain that both had: both are others now.
            both = (allowed >> 3) & allowed & 0o007
            allowed = allowed & 0o700 | both << 3 | both
        if allowed != self.mode:
            acl = None
        if not _set_acl(fd, acl) or acl != self.acl:
            allowed &= 0o700  # the group's bits were the list's mask
        with contextlib.suppress(PermissionError):  # a file system that knows no modes
            os.fchmod(fd, allowed)

    def _chown(self, fd: int) -> bool:
        """Whether *fd* now belongs to the old file's group."""
        new = os.fstat(fd)
        if self.is_kept and (new.st_uid, new.st_gid) != (self.user, self.group):
            for user in (self.user, -1):
                with contextlib.suppress(OSError):
                    os.fchown(fd, user, self.group)
                    return True
        return new.st_gid == self.group


def check_absent(path: Path) -> None:
    """Raise OutputExistsError if anything stands at *path*, be it a link that leads nowhere.

    Raises OSError if nothing can stand there, as under a name that is too long: before the work.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.lstat()
        raise OutputExistsError(f"{path} exists")


def warn_open(what: Any, name: str) -> None:
    """Warn that *what* was collected while it was open, as files do."""
    warnings.warn(f"unclosed {type(what).__name__} {name!r}", ResourceWarning, 3, source=what)
