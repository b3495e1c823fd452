"""What a command has from its process: signals, standard streams, terminals."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import signal
import sys
import unicodedata
from collections.abc import Iterator
from types import FrameType

from anyseal.errors import DecryptionError, WrongKeyError, one_line

__all__ = [
    "CliError",
    "Input",
    "Output",
    "Signals",
    "Stopped",
    "confirm",
    "is_terminal",
    "note",
    "printable",
    "signals",
    "with_remedy",
]

PIPE_BYTES = 1 << 20
STDIN, STDOUT, STDERR = 0, 1, 2


class CliError(Exception):
    """A message for the user and the exit code that goes with it."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


_REMEDIES: dict[type[BaseException], str] = {
    WrongKeyError: ": give the key it was sealed with (--key-file may be repeated) and the same "
    "--partition; anyseal inspect shows the id of its key",
    DecryptionError: ": it was altered, or --context is not the one it was sealed with",
}


def with_remedy(error: BaseException) -> str:
    """What *error* says, and what to try."""
    return f"{error}{_REMEDIES.get(type(error), '')}"


class Stopped(BaseException):
    """A signal ended the command."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


class Signals:
    """Ctrl-C, SIGTERM and SIGHUP end a command where it leaves nothing behind.

    Between the creation of a temporary file and its end a signal is only noted, and raised at the
    next :meth:`check`; while waiting for a pipe or a person it is raised at once.
    """

    def __init__(self) -> None:
        self._pending = 0
        self._immediate = True

    def install(self) -> None:
        """Take over the signals, except those that the parent told us to ignore."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def hand_over(self) -> None:
        """Let an event loop take them: it knows KeyboardInterrupt and SystemExit."""

        def leave(number: int, frame: FrameType | None) -> None:
            raise SystemExit(128 + number)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop_takes_it = number == signal.SIGINT
                signal.signal(number, signal.default_int_handler if loop_takes_it else leave)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._pending = number
        if self._immediate:
            self._immediate = False  # a second one must not interrupt the cleaning up
            raise Stopped(number)

    def check(self) -> None:
        """Raise Stopped if a signal came."""
        if self._pending:
            self._immediate = False
            raise Stopped(self._pending)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Only note signals within the block, and while an error leaves it."""
        self._immediate = False
        yield
        self._immediate = True

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Raise signals at once within the block, also inside :meth:`held`."""
        before, self._immediate = self._immediate, True
        self.check()
        try:
            yield
        finally:
            self._immediate = before


signals = Signals()
"""The process's."""


def is_terminal(fd: int) -> bool:
    """Whether *fd* is open and a terminal."""
    try:
        return os.isatty(fd)
    except OSError:
        return False


def note(text: str) -> None:
    """One line on stderr; names in it are other people's."""
    with contextlib.suppress(OSError, ValueError):
        print(f"anyseal: {printable(text)}", file=sys.stderr, flush=True)


printable = one_line
"""Text without what a terminal would take for a command: others choose such names."""


def confirm(what: str, question: str, answer: str, *, yes: bool) -> None:
    """Say *what* will be done, and go on if a person agrees. Raises CliError."""
    if yes:
        return
    if not is_terminal(STDIN) or not is_terminal(STDERR):
        raise CliError(f"{what}: no terminal to ask on, so --yes is needed")
    print(f"{what}.\n{question}: ", end="", file=sys.stderr, flush=True)
    given = sys.stdin.readline().strip()
    if given not in (answer, answer.encode("unicode_escape").decode()):
        raise CliError("nothing is changed", 1)


class Input:
    """A file descriptor that is read front to back."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        _widen(fd)

    def pieces(self, size: int) -> Iterator[memoryview]:
        """Its bytes in pieces of *size*; each is valid until the next."""
        buffer = memoryview(bytearray(size))
        while True:
            got = 0
            with signals.waiting():
                while got < size:
                    try:
                        count = os.readv(self.fd, [buffer[got:]])
                    except BlockingIOError:
                        select.select([self.fd], [], [])
                        continue
                    if not count:
                        break
                    got += count
            if got:
                yield buffer[:got]
            if got < size:
                return


class Output:
    """A file descriptor that is written front to back; the sink of an ObjectWriter.

    Args:
        fd: The descriptor.
        sealed: It takes sealed bytes, which a terminal never gets; else it takes plaintext, which a
            terminal gets as long as it is text.

    Raises:
        CliError: A terminal would get binary.
    """

    def __init__(self, fd: int, *, sealed: bool) -> None:
        self.fd = fd
        self.terminal = is_terminal(fd)
        self._guard: _TextGuard | None = None
        if self.terminal:
            if sealed:
                raise CliError("not writing sealed bytes to a terminal: use -o FILE or a pipe")
            self._guard = _TextGuard()
        _widen(fd)

    def check(self, data: memoryview | bytes) -> None:
        """Raise CliError if *data* is not fit for the terminal that it goes to."""
        if self._guard is not None:
            self._guard.check(data)

    def write(self, data: memoryview | bytes) -> None:
        """Write all of *data*, in any thread. Not checked."""
        rest = memoryview(data)
        while len(rest):
            try:
                rest = rest[os.write(self.fd, rest) :]
            except BlockingIOError:
                select.select([], [self.fd], [])

    def append(self, data: memoryview | bytes) -> None:
        """Write all of *data*."""
        self.check(data)
        with signals.waiting():
            self.write(data)

    def commit(self, size: int) -> None:
        """Nothing to do: every byte is written."""

    def abort(self) -> None:
        """Nothing to do: what is written cannot be taken back."""


class _TextGuard:
    """Lets only text through to a terminal: other bytes could be commands to it."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def check(self, data: memoryview | bytes) -> None:
        """Raise CliError unless *data* goes on as text."""
        try:
            text = self._decoder.decode(bytes(data))
        except UnicodeDecodeError:
            text = "\0"
        if any(unicodedata.category(c) == "Cc" and c not in "\t\n\r" for c in set(text)):
            raise CliError("not writing binary to a terminal: name a file, or use a pipe")


def _widen(fd: int) -> None:
    """Let a pipe hold more, so that both ends are woken less often. Linux only."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
