"""Runs the command line as its users do: in processes of its own, on pipes and terminals.

Commands whose beginning does not matter are forked from a process that has the imports behind it:
most of the time of a short command is these.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

KEY = "00112233445566778899aabbccddeeff" * 2
COMMAND = [sys.executable, "-m", "anyseal"]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("ANYSEAL_")} | {
    "COLUMNS": "80",
    "TERM": "xterm",
}
TIMEOUT = 120

ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""

FORKS = """
import contextlib, importlib, io, json, os, socket, sys
import anyseal.cli.doctor, anyseal.cli.show, anyseal.demo, anyseal.metastore.sql, rich.table
from anyseal.__main__ import main

for name in sys.argv[2:]:
    importlib.import_module(name)
with contextlib.redirect_stderr(io.StringIO()):
    anyseal.cli.run(["keygen", "-o", os.devnull])  # typer imports more when it is first used
with socket.socket(fileno=int(sys.argv[1])) as requests:
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, 1 << 18, 3)
        if not request:
            break
        pid = os.fork()
        if pid == 0:
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
                os.close(descriptor)
            requests.close()
            os.setsid()
            folder, environment, arguments = json.loads(request)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            sys.argv = ["anyseal", *arguments]
            code = main()
            sys.stdout.flush()
            os._exit(code)  # without taking apart what all those imports built
        for descriptor in descriptors:
            os.close(descriptor)
        requests.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
"""


class Forks:
    """Runs commands in forks of a process that has imported everything, *modules* as well."""

    def __init__(self, *modules: str) -> None:
        self.requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORKS, str(theirs.fileno()), *modules],
            pass_fds=[theirs.fileno()],
            cwd=Path(__file__).parent,
        )
        theirs.close()
        self.requests.settimeout(TIMEOUT)

    def run(
        self, folder: Path, environment: dict[str, str], args: tuple[str, ...], input: bytes | None
    ) -> subprocess.CompletedProcess[bytes]:
        reader, writer = os.pipe()
        feeder = threading.Thread(target=self.feed, args=(writer, input or b""))
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            request = json.dumps([str(folder), environment, args]).encode()
            descriptors = [reader, out.fileno(), err.fileno()]
            socket.send_fds(self.requests, [request], descriptors)
            os.close(reader)
            feeder.start()
            code = int(self.requests.recv(100))
            feeder.join()
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(args, code, out.read(), err.read())

    @staticmethod
    def feed(fd: int, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError), open(fd, "wb", 0) as pipe:
            pipe.write(data)

    def close(self) -> None:
        self.requests.close()
        self.process.wait(TIMEOUT)


class Shell:
    """A folder to run commands in."""

    def __init__(self, folder: Path, forks: Forks) -> None:
        self.folder = folder
        self.forks = forks
        key = self.path("key")
        key.write_text(KEY + "\n")
        key.chmod(0o600)

    def path(self, name: str) -> Path:
        return self.folder / name

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()} - {"key"}

    def start(self, *args: str, env: dict[str, str] | None = None, **options) -> subprocess.Popen:
        return subprocess.Popen(
            [*COMMAND, *args],
            cwd=self.folder,
            env=ENVIRONMENT | (env or {}),
            stdin=options.pop("stdin", subprocess.DEVNULL),
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
            start_new_session=True,  # no terminal to ask on, and signals of its own
            **options,
        )

    def run(
        self, *args: str, input: bytes | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        done = self.forks.run(self.folder, ENVIRONMENT | (env or {}), args, input)
        assert KEY.encode() not in done.stdout + done.stderr
        return done

    def ok(self, *args: str, input: bytes | None = None, env: dict[str, str] | None = None):
        """Run a command that must succeed in silence; its output."""
        done = self.run(*args, input=input, env=env)
        assert (0, b"") == (done.returncode, done.stderr), (done.returncode, done.stderr)
        return done.stdout

    def fails(self, code: int, message: str, *args: str, **options) -> None:
        """Run a command that must fail with one clean line."""
        done = self.run(*args, **options)
        error = done.stderr.decode()
        assert code == done.returncode, error
        assert re.fullmatch(rf"anyseal: [^\n]*{message}[^\n]*\n", error), error

    def terminal(
        self, *args: str, answers: tuple[str, ...] = (), env: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Run a command on a terminal, answering its prompts; exit code and what was shown."""
        fd, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", ON_TERMINAL, *COMMAND, *args],
            cwd=self.folder,
            env=ENVIRONMENT | (env or {}),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        shown, waiting = b"", list(answers)
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            if not select.select([fd], [], [], 1)[0]:
                continue
            try:
                piece = os.read(fd, 4096)
            except OSError:  # Linux's way of saying that the other side is gone
                break
            if not piece:
                break
            shown += piece
            if waiting and shown.endswith(b": "):
                os.write(fd, waiting.pop(0).encode() + b"\n")
        else:
            process.kill()
        os.close(fd)
        return process.wait(TIMEOUT), shown.decode()


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    server = Forks()
    yield server
    server.close()


@pytest.fixture
def shell(tmp_path: Path, forks: Forks) -> Shell:
    return Shell(tmp_path, forks)
