"""Where a command's keys come from: a file, a passphrase, the environment. Never its arguments."""

from __future__ import annotations

import getpass
import os
import secrets
import stat
from pathlib import Path

from anyseal.cli.process import CliError, Output, note
from anyseal.errors import ConfigurationError
from anyseal.keyring import PassphraseKeyring, StaticKeyring
from anyseal.keys import Key
from anyseal.objects.sources import FileSink

__all__ = ["find_keyring", "write_new_key"]

PASSPHRASE_VARIABLE = "ANYSEAL_PASSPHRASE"  # noqa: S105 - a name
MASTER_KEY_VARIABLE = "ANYSEAL_MASTER_KEY"
KEY_FILE_MAX_BYTES = 4096


def find_keyring(
    key_files: list[Path] | None, passphrase: bool, *, sealing: bool
) -> StaticKeyring | PassphraseKeyring:
    """The keyring that the options name, or else the environment.

    Raises:
        CliError: None is named, or two are.
        ConfigurationError: A key is malformed.
    """
    if key_files and passphrase:
        raise CliError("--key-file and --passphrase exclude each other")
    if passphrase:
        return PassphraseKeyring(_passphrase(confirm=sealing))
    if key_files:
        first, *others = [_read_key(path) for path in key_files]
        return StaticKeyring(first, others)
    if not os.environ.get(MASTER_KEY_VARIABLE, "").strip():
        raise CliError(f"no key: use --key-file or --passphrase, or set {MASTER_KEY_VARIABLE}")
    return StaticKeyring.from_env()


def _read_key(path: Path) -> Key:
    try:
        with path.open("rb") as file:
            info = os.fstat(file.fileno())
            data = file.read(KEY_FILE_MAX_BYTES)
    except OSError as exc:
        raise CliError(f"key file {path}: {exc.strerror}") from None
    mode = stat.S_IMODE(info.st_mode)
    if stat.S_ISREG(info.st_mode) and mode & 0o077:
        note(f"warning: key file {path} is open to others (mode {mode:04o}): chmod 600 it")
    try:
        return Key.from_hex(data.decode("ascii", errors="replace"))
    except ConfigurationError as exc:
        raise CliError(f"key file {path}: {exc}") from None


def _passphrase(*, confirm: bool) -> str:
    """From the environment, or asked for on the terminal, which stays free for data."""
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given is not None:
        return given
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        # getpass would read standard input instead, and echo what it reads.
        raise CliError(
            f"no terminal to ask for a passphrase on: set {PASSPHRASE_VARIABLE}"
        ) from None
    try:
        passphrase = getpass.getpass("Passphrase: ")
        if confirm and getpass.getpass("Again: ") != passphrase:
            raise CliError("the two passphrases differ")
    except EOFError:
        raise CliError("no passphrase") from None
    return passphrase


def write_new_key(path: Path | None, *, force: bool) -> None:
    """64 fresh hexadecimal characters, to stdout or to a file that only its owner can read."""
    line = f"{secrets.token_hex(32)}\n".encode()
    if path is None:
        Output(1, sealed=False).append(line)
        return
    sink = FileSink(path, overwrite=force, mode=0o600)
    try:
        sink.pwrite(0, memoryview(line))
        sink.commit(len(line))
    except BaseException:
        sink.abort()
        raise
