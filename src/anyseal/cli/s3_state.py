"""What a migration has done, in a file: a line of JSON for each step, so that it can go on."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from pathlib import Path
from typing import Any, Self

import anyio

from anyseal.cli.process import CliError

__all__ = ["State"]


class State:
    """The steps of a migration by object.

    Lines are only ever added, each on the disk before the next step is taken; a last line that a
    crash has cut does not count. The file names keys, entity tags and uploads, nothing of what is
    in them.

    Args:
        path: The file; None keeps nothing.
        of: What the migration is. A file of another one is refused.
        read_only: Look, and leave the file as it is; it need not be there.
    """

    def __init__(self, path: Path | None, of: dict[str, str], *, read_only: bool = False) -> None:
        self.steps: dict[str, dict[str, Any]] = {}
        """The last step of each object: ``step`` and what it noted."""
        self._fd = -1
        if path is None or (read_only and not path.exists()):
            return
        flags = os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT | os.O_APPEND
        self._fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise CliError(f"{path} is no regular file: name another one with --state")
            self._load(path, of, read_only)
        except BaseException:
            self.close()
            raise

    def _load(self, path: Path, of: dict[str, str], read_only: bool) -> None:
        if not read_only:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CliError(f"{path}: a migration is under way with it", 1) from None
        with open(self._fd, "rb", closefd=False) as file:
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        if not read_only and len(whole) < len(data):
            os.ftruncate(self._fd, len(whole))
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            header = lines[0] if lines else {"migration": of}
            if header.get("migration") != of:
                raise CliError(f"{path} is of another migration: name another file with --state")
            for line in lines[1:]:
                self.steps[line["key"]] = line
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CliError(f"{path} is no state file of a migration") from None
        if not lines and not read_only:
            self._append(header)

    def _append(self, line: dict[str, Any]) -> None:
        if self._fd >= 0:
            os.write(self._fd, json.dumps(line).encode() + b"\n")
            os.fsync(self._fd)

    async def note(self, step: str, key: str, **fields: Any) -> None:
        """*step* is next, or done, for the object."""
        line = {"step": step, "key": key, **fields}
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._append, line)
        self.steps[key] = line

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
