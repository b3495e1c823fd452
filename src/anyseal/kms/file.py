"""FileKms: master keys in a file, for services without a cloud's KMS or Vault.

Each line of the file is a version, 32 random bytes in hexadecimal and, on one line, ``current``::

    1 5f3c…64 hexadecimal characters… current
    2 a02b…

A wrapped key is a value of kind 1 (docs/format.md, section 3.4) whose key id is ``version u64 ‖
fingerprint[:8]``: it names its master key, and no other is tried. Its context binds it to the row
that it belongs to.
"""

from __future__ import annotations

import binascii
import contextlib
import errno
import hashlib
import itertools
import logging
import os
import re
import secrets
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from anyseal import offload, value
from anyseal._ffi import lib, raise_for, view, view_writable
from anyseal.config import KEY_BYTES
from anyseal.errors import (
    ConfigurationError,
    DecryptionError,
    FormatError,
    KmsError,
    WrongKeyError,
)
from anyseal.hints import only_async_with
from anyseal.keys import Key, Slot
from anyseal.kms._blob import check_key, check_wrapped
from anyseal.suites import Suite

__all__ = ["FileKms", "MasterKeys", "master_line", "read_masters"]

_log = logging.getLogger("anyseal.kms.file")

FILE_VARIABLE, KEYS_VARIABLE = "KMS_FILE", "KMS_KEYS"
FILE_MAX_BYTES = 1 << 16
VERSION_MAX = (1 << 32) - 1
_SUITE = Suite.XCHACHA20POLY1305
_LABEL = b"anyseal v1 file kms"
_LINE = re.compile(rb"([1-9][0-9]{0,9})[ \t]+([0-9A-Fa-f]{64})([ \t]+current)?")
_REMEDY = "make one with `anyseal keys kms-init`"


class _Origin(NamedTuple):
    """Which file was read, and when it was changed last."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int
    mode: int


_WORDS = (b"", b"anyseal", b"changeme", b"key", b"master", b"password", b"secret", b"test")
"""Whose SHA-256 is found in tutorials."""


class MasterKeys:
    """The master keys of a file's text.

    Args:
        text: Lines of a version (1 to 2**32 - 1), 64 hexadecimal characters and, on exactly one of
            several lines, ``current``. Empty lines and those that begin with ``#`` are skipped.

    Raises:
        ConfigurationError: Malformed, a version or key occurs twice, none or two are current, or a
            key is not random: a passphrase, or one that is published for tests. No key is shown.
    """

    def __init__(self, text: bytes) -> None:
        self.keys: dict[int, Key] = {}
        marked: list[int] = []
        for number, raw in enumerate(text.splitlines(), 1):
            line = raw.strip()
            if not line or line.startswith(b"#"):
                continue
            found = _LINE.fullmatch(line)
            if found is None or int(found[1]) > VERSION_MAX:
                raise ConfigurationError(
                    f"line {number} is not a version, 64 hexadecimal characters and, on one line, "
                    f"`current`: {_REMEDY}"
                )
            version = int(found[1])
            key = _master(version, found[2], number)
            if version in self.keys:
                raise ConfigurationError(f"line {number}: version {version} occurs twice")
            if any(key.key_id[8:] == other.key_id[8:] for other in self.keys.values()):
                raise ConfigurationError(f"line {number}: the key of another version")
            self.keys[version] = key
            if found[3]:
                marked.append(version)
        if not self.keys:
            raise ConfigurationError(f"no master key: {_REMEDY}")
        if not marked and len(self.keys) == 1:
            marked = [*self.keys]
        if len(marked) != 1:
            raise ConfigurationError(
                f"{len(marked)} of {len(self.keys)} master keys are marked as current: mark one "
                "with `anyseal keys kms-use`"
            )
        self.current = marked[0]


def _is_made_up(data: bytearray) -> bool:
    """Whether *data* is a text, a pattern or the hash of a word; random: once in 2**46."""
    steps = {(after - before) % 256 for before, after in itertools.pairwise(data)}
    return (
        len(set(data)) < 12
        or len(steps) < 5
        or data[:16] == data[16:]
        or all(0x20 <= byte < 0x7F for byte in data)
        or any(data == hashlib.sha256(word).digest() for word in _WORDS)
    )


def _master(version: int, text: bytes, number: int) -> Key:
    data = bytearray(binascii.unhexlify(text))
    try:
        if _is_made_up(data):
            raise ConfigurationError(
                f"line {number}: version {version} is no random key, but a text or a pattern: "
                f"{_REMEDY}"
            )
        slot = Slot(lib.anyseal_key_import(view(data)))
    finally:
        lib.anyseal_wipe(view_writable(data), len(data))
    fingerprint = slot.derive_public(b"id", b"")
    return Key._from_slot(slot, version.to_bytes(8) + fingerprint[:8])


def master_line(version: int, *, current: bool) -> bytes:
    """A line with a new random key."""
    return b"%d %b%b\n" % (
        version,
        secrets.token_hex(KEY_BYTES).encode(),
        b" current" if current else b"",
    )


class FileKms:
    """Wraps system keys with master keys from a file that this process may read.

    For services without AWS KMS or Vault. Whoever reads the file and the metastore reads the data:
    keep the file, and its backup, apart from the metastore and its backups; whoever loses it loses
    the data. The metastore's rows have Asherah's layout, but other implementations cannot unwrap
    the system keys in them.

    The file is read again when it has changed. To rotate: add a version to the file of every
    process (``anyseal keys kms-add``), make it current everywhere (``kms-use``), ``anyseal keys
    rewrap-system``, and remove the old one when no row names it (``kms-remove``).

    Args:
        path: Made by ``anyseal keys kms-init``. No symbolic link, except in the layout of a
            Kubernetes Secret (``name -> ..data/name``). Regular, at most 64 KiB, of this user or
            root, not writable for group or others.

    Raises:
        ConfigurationError: The file is missing, open to writing, or malformed.

    Warns:
        RuntimeWarning: Others may read the file.

    Cost: reading the file's state and one call into C, in a worker thread.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path: Path | None = Path(path)
        self._origin: _Origin | None = None
        self._masters = self._read(self._path, _warn)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """With master keys from a text that the process was given; lines may end in ``,`` too.

        Warns each time: other processes of the user can read what the environment holds.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be str, not {type(text).__name__}")
        self = cls.__new__(cls)
        self._path = self._origin = None
        self._masters = MasterKeys(os.fsencode(text.replace(",", "\n")))
        _warn(
            "master keys in the environment or in settings: other processes of this user can read "
            f"them, and child processes inherit them; a file ({FILE_VARIABLE}) is better"
        )
        return self

    @classmethod
    def from_env(cls) -> Self:
        """Read ``KMS_FILE``, a path, or else ``KMS_KEYS``, the lines themselves, with a warning.

        Raises:
            ConfigurationError: Neither is set, or as for the class.
        """
        path, text = os.environ.get(FILE_VARIABLE), os.environ.get(KEYS_VARIABLE)
        if path:
            return cls(path)
        if text:
            return cls.from_text(text)
        raise ConfigurationError(f"{FILE_VARIABLE} is not set: a file of master keys; {_REMEDY}")

    # ---- the file ----

    def _read(self, path: Path, warn: Callable[[str], object]) -> MasterKeys:
        """The file's keys; those read before if it has not changed since."""
        fd = _open(path)
        try:
            origin = _checked(path, os.fstat(fd))
            if origin == self._origin:
                return self._masters
            if origin.mode & 0o004:
                warn(f"{path} can be read by other users (mode {origin.mode:04o}): chmod 600 it")
            masters = _parsed(path, fd)[1]
        finally:
            os.close(fd)
        self._masters, self._origin = masters, origin
        return masters

    def _now(self) -> MasterKeys:
        """The master keys as they are now. Raises KmsError."""
        if self._path is None:
            return self._masters
        try:
            return self._read(self._path, _log.warning)
        except ConfigurationError as exc:
            raise KmsError(f"the file of master keys: {exc}", retryable=True) from exc

    # ---- the port ----

    async def wrap(self, key: bytearray) -> bytes:
        """*key* under the current master key, bound to no row."""
        return await self.wrap_for(key, "", 0)

    async def unwrap(self, wrapped: bytes) -> bytearray:
        """What :meth:`wrap` wrapped."""
        return await self.unwrap_for(wrapped, "", 0)

    async def wrap_for(self, key: bytearray, key_id: str, created: int) -> bytes:
        """*key* under the current master key, bound to the row of *key_id* and *created*.

        Raises:
            KmsError: The file cannot be used any more.
        """
        check_key(key)
        return await offload.run_waiting(self._wrap, key, key_id, created)

    async def unwrap_for(self, wrapped: bytes, key_id: str, created: int) -> bytearray:
        """The key that was wrapped for the row of *key_id* and *created*.

        Raises:
            KmsError: Wrapped by something else, for another row, altered, or under a version that
                the file does not have.
        """
        check_wrapped(wrapped)
        return await offload.run_waiting(self._unwrap, bytes(wrapped), key_id, created)

    def _wrap(self, key: bytearray, key_id: str, created: int) -> bytes:
        masters = self._now()
        master = masters.keys[masters.current]
        slot = Slot(lib.anyseal_key_import(view(key)))
        try:
            return value.wrap(slot, master, _SUITE, _context(master, key_id, created))
        finally:
            slot.release()

    def _unwrap(self, wrapped: bytes, key_id: str, created: int) -> bytearray:
        version = self.version_of(wrapped)
        if version is None:
            raise KmsError("the key was not wrapped by a FileKms", retryable=False)
        master = self._now().keys.get(version)
        if master is None:
            raise KmsError(f"the master keys have no version {version}", retryable=False)
        try:
            slot = value.unwrap(wrapped, master, _SUITE, _context(master, key_id, created))
        except WrongKeyError:
            raise KmsError(
                f"version {version} of the master keys is another key than the one that wrapped",
                retryable=False,
            ) from None
        except (DecryptionError, FormatError):
            raise KmsError(
                "the wrapped key does not verify: altered, or of another row", retryable=False
            ) from None
        out = bytearray(KEY_BYTES)
        try:
            code = lib.anyseal_key_export(view_writable(out), slot.handle)
            if code:
                raise_for(code)
        finally:
            slot.release()
        return out

    # ---- rotation ----

    def version_of(self, wrapped: bytes) -> int | None:
        """The version that *wrapped* names; None if no FileKms wrapped it."""
        if len(wrapped) != _SUITE.wrapped_bytes:
            return None
        try:
            key_id = value.key_id_of(wrapped, value.Kind.WRAPPED_KEY)
        except FormatError:
            return None
        return int.from_bytes(key_id[:8])

    async def is_current(self, wrapped: bytes) -> bool:
        """Whether *wrapped* is under the current master key. Raises KmsError."""
        masters = await offload.run_waiting(self._now)
        return (
            len(wrapped) == _SUITE.wrapped_bytes
            and wrapped[value.KEY_ID] == masters.keys[masters.current].key_id
        )

    async def aclose(self) -> None:
        """Does nothing: no file stays open."""

    __enter__ = only_async_with

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __reduce__(self) -> Any:
        raise TypeError("a KMS holds keys and cannot be pickled or copied")

    def __repr__(self) -> str:
        where = "from text" if self._path is None else repr(str(self._path))
        return f"<{type(self).__name__} {where} versions={sorted(self._masters.keys)}>"


def _context(master: Key, key_id: str, created: int) -> bytes:
    """What a wrapped key is bound to: version, and id and time of its row."""
    return _LABEL + master.key_id[:8] + created.to_bytes(8) + key_id.encode()


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=4)


_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def _open(path: Path) -> int:
    """A descriptor of the file itself, without waiting, and without following a link but those of
    a Kubernetes volume. Raises ConfigurationError."""
    try:
        return os.open(path, _FLAGS | os.O_NOFOLLOW)
    except OSError as exc:
        if exc.errno != errno.ELOOP:
            remedy = f": {_REMEDY}" if exc.errno == errno.ENOENT else ""
            raise ConfigurationError(f"{path}: {exc.strerror}{remedy}") from None
    with contextlib.suppress(OSError):
        return _open_projected(path)
    raise ConfigurationError(f"{path} is a symbolic link: name the file itself")


def _open_projected(path: Path) -> int:
    """The same in the layout of a kubelet: ``name -> ..data/name``, ``..data -> ..<time>``, and
    that folder is in the folder of *name*. Raises OSError if it is another one."""
    with contextlib.ExitStack() as opened:

        def at(name: str | Path, flags: int, folder: int | None = None) -> int:
            fd = os.open(name, _FLAGS | flags, dir_fd=folder)
            opened.callback(os.close, fd)
            return fd

        data = at(path.parent / "..data", os.O_DIRECTORY)
        around = at("..", os.O_DIRECTORY, data)
        file = os.open(path.name, _FLAGS | os.O_NOFOLLOW, dir_fd=data)
        if _same(around, at(path.parent, os.O_DIRECTORY)) and _same(file, at(path, 0)):
            return file
        os.close(file)
    raise OSError(errno.ELOOP, "another layout")


def _same(one: int, other: int) -> bool:
    first, second = os.fstat(one), os.fstat(other)
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)


def read_masters(path: Path) -> tuple[bytes, MasterKeys]:
    """The file's text and its keys. Raises ConfigurationError as FileKms does."""
    fd = _open(path)
    try:
        _checked(path, os.fstat(fd))
        return _parsed(path, fd)
    finally:
        os.close(fd)


def _parsed(path: Path, fd: int) -> tuple[bytes, MasterKeys]:
    text = b""
    while len(text) <= FILE_MAX_BYTES and (piece := os.read(fd, FILE_MAX_BYTES + 1)):
        text += piece
    try:
        if len(text) > FILE_MAX_BYTES:
            raise ConfigurationError(f"longer than {FILE_MAX_BYTES:,} bytes")
        return text, MasterKeys(text)
    except ConfigurationError as exc:
        raise ConfigurationError(f"{path}: {exc}") from None


def _checked(path: Path, info: os.stat_result) -> _Origin:
    """Refuse a file that others can change. Raises ConfigurationError."""
    mode = stat.S_IMODE(info.st_mode)
    if not stat.S_ISREG(info.st_mode):
        raise ConfigurationError(f"{path} is not a regular file")
    if info.st_uid not in (0, os.geteuid()):
        raise ConfigurationError(f"{path} belongs to another user, who may change it: chown it")
    if mode & 0o022:
        raise ConfigurationError(
            f"{path} can be written by group or others (mode {mode:04o}): chmod 600 it"
        )
    return _Origin(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns, mode)
