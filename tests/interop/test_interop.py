"""The other implementations and ours share one key store: each opens what the other sealed.

The peers are real: asherah 0.5 (a Rust core) and asherah 0.3.9 (the canonical Go core), each in a
process and an environment of its own. Both sides get the same settings.

What cannot be run: asherah 0.3.9 has no SQLite. Its AWS KMS client cannot be told of another
endpoint: it is led to moto by a proxy that stands in for AWS.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import itertools
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import anyseal.compat.asherah as asherah
from anyseal import KeyAdmin, offload, sync
from interop.amazonaws import AmazonAws
from interop.peers import environment
from servers import Moto

pytest_plugins = ["server_fixtures"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:a KMS meant for testing"),
]

REGION, OTHER_REGION = "us-west-2", "us-east-1"
MASTER = b"thisIsAStaticMasterKeyForTesting".hex()
"""asherah 0.3.9 has no other static key."""

PAYLOADS = {
    "empty": b"",
    "byte": b"\x00",
    "text": "žluťoučký 🐎 <&>\u2028".encode(),
    "binary": bytes(range(256)),
    "large": bytes(range(256)) * 4096,
}
PARTITIONS = ["user-42", "user_42", 'žák/🐎 <&>\u2028"\\']
WAIT_SECONDS = 120.0


class PeerError(Exception):
    """What the other implementation raised."""


class Peer:
    """Another implementation, in a process of its own."""

    def __init__(self, python: Path, environ: dict[str, str]) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name("worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={"PATH": os.environ["PATH"], "HOME": tempfile.gettempdir(), **environ},
            text=True,
            encoding="utf-8",
        )

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], WAIT_SECONDS)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            self._stderr.seek(0)
            said = self._stderr.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"the peer did not answer {request['op']}: {said}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer["value"]

    def setup(self, config: dict[str, Any]) -> None:
        """Configure it."""
        self._ask(op="setup", config=config)

    def encrypt(self, partition: str, data: bytes) -> str:
        """Its record of *data*."""
        row: str = self._ask(
            op="encrypt", partition=partition, data=base64.b64encode(data).decode()
        )
        return row

    def decrypt(self, partition: str, row: str) -> bytes:
        """What it reads in *row*."""
        return base64.b64decode(self._ask(op="decrypt", partition=partition, row=row))

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
        self._stderr.close()


@pytest.fixture(scope="session")
def peer_pythons() -> dict[str, Path]:
    """The Pythons of both environments. Fails if they cannot be made."""
    return {name: environment(name) for name in ("asherah05", "asherah03")}


@dataclass(frozen=True)
class Case:
    """One way to share keys."""

    peer: str
    metastore: str
    kms: str
    suffix: bool = False

    def __str__(self) -> str:
        return f"{self.peer}-{self.metastore}-{self.kms}{'-suffix' if self.suffix else ''}"


CASES = [
    Case("asherah05", "sqlite", "static"),
    Case("asherah05", "sqlite", "aws"),
    *(
        Case(peer, "dynamodb", kms, suffix)
        for peer in ("asherah05", "asherah03")
        for kms in ("static", "aws")
        for suffix in (False, True)
    ),
]


@dataclass
class Shared:
    """One key store, our side of it and as many of the other's as are asked for."""

    case: Case
    config: dict[str, Any]
    peers: Callable[[], Peer]
    factories: list[asherah.SessionFactory] = field(default_factory=list)

    def ours(self) -> asherah.SessionFactory:
        """A factory of ours with nothing cached."""
        self.factories.append(asherah.SessionFactory(self.config))
        return self.factories[-1]

    def key_id(self, partition: str) -> str:
        """What the partition's key is called by both."""
        end = f"_{REGION}" if self.case.suffix else ""
        return f"_IK_{partition}_svc_prod{end}"


_numbers = itertools.count()


def _dynamodb(moto: Moto) -> dict[str, Any]:
    table = f"EncryptionKey{next(_numbers)}"
    moto.client("dynamodb", REGION).create_table(
        TableName=table,
        KeySchema=[
            {"AttributeName": "Id", "KeyType": "HASH"},
            {"AttributeName": "Created", "KeyType": "RANGE"},
        ],
        AttributeDefinitions=[
            {"AttributeName": "Id", "AttributeType": "S"},
            {"AttributeName": "Created", "AttributeType": "N"},
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    return {
        "Metastore": "dynamodb",
        "DynamoDBEndpoint": moto.url,
        "DynamoDBRegion": REGION,
        "DynamoDBTableName": table,
    }


@pytest.fixture(scope="session")
def region_map(moto_server: Moto) -> dict[str, str]:
    """A KMS key in each of two regions."""
    return {
        region: moto_server.client("kms", region).create_key()["KeyMetadata"]["Arn"]
        for region in (OTHER_REGION, REGION)
    }


@pytest.fixture(scope="session")
def amazonaws(moto_server: Moto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AmazonAws]:
    """AWS KMS under its real names."""
    hosts = [f"kms.{region}.amazonaws.com" for region in (OTHER_REGION, REGION)]
    found = AmazonAws(moto_server.port, hosts, tmp_path_factory.mktemp("amazonaws"))
    yield found
    found.close()


_OLDER_NAMES = {
    "ServiceName": "service_name",
    "ProductID": "product_id",
    "Metastore": "metastore",
    "KMS": "kms",
    "DynamoDBEndpoint": "dynamo_db_endpoint",
    "DynamoDBRegion": "dynamo_db_region",
    "DynamoDBTableName": "dynamo_db_table_name",
    "EnableRegionSuffix": "enable_region_suffix",
    "PreferredRegion": "preferred_region",
    "RegionMap": "region_map",
}


def _for_peer(case: Case, config: dict[str, Any]) -> dict[str, Any]:
    if case.peer == "asherah05":
        return config
    return {_OLDER_NAMES[k]: v for k, v in config.items() if k != "StaticMasterKeyHex"}


@pytest.fixture
def shared(
    request: pytest.FixtureRequest,
    peer_pythons: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Shared]:
    """A fresh key store for the case."""
    case: Case = request.param
    config: dict[str, Any] = {"ServiceName": "svc", "ProductID": "prod", "KMS": case.kms}
    environ = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": REGION,
    }
    if case.metastore == "dynamodb":
        config |= _dynamodb(request.getfixturevalue("moto_server"))
        config |= {"EnableRegionSuffix": case.suffix}
    else:
        config |= {"Metastore": "rdbms", "ConnectionString": f"sqlite://{tmp_path}/keys.db"}
    if case.kms == "aws":
        environ["AWS_ENDPOINT_URL"] = request.getfixturevalue("moto_server").url
        config["RegionMap"] = request.getfixturevalue("region_map")
        config["PreferredRegion"] = REGION
    else:
        config["StaticMasterKeyHex"] = MASTER
    for name in [n for n in os.environ if n.startswith("AWS_") or n == "STATIC_MASTER_KEY_HEX"]:
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    if case == Case("asherah03", "dynamodb", "aws", case.suffix):
        environ |= request.getfixturevalue("amazonaws").environ

    with contextlib.ExitStack() as stack:

        def peer() -> Peer:
            found = Peer(peer_pythons[case.peer], environ)
            stack.callback(found.close)
            found.setup(_for_peer(case, config))
            return found

        found = Shared(case, config, peer)
        yield found
        for factory in found.factories:
            factory.close()


every_case = pytest.mark.parametrize("shared", CASES, indirect=True, ids=str)


def _meta(row: str) -> tuple[str, int]:
    meta = json.loads(row)["Key"]["ParentKeyMeta"]
    return meta["KeyId"], meta["Created"]


@every_case
def test_peer_opens_what_we_sealed(shared: Shared) -> None:
    """We make the keys, and the other side opens all that lies under them."""
    ours = shared.ours()
    rows = {
        (partition, name): ours.get_session(partition).encrypt_bytes(data)
        for partition in PARTITIONS
        for name, data in PAYLOADS.items()
    }
    peer = shared.peers()
    for (partition, name), row in rows.items():
        assert PAYLOADS[name] == peer.decrypt(partition, row), (partition, name)
        assert shared.key_id(partition) == _meta(row)[0]
    with pytest.raises(PeerError):
        peer.decrypt("someone-else", rows["user-42", "byte"])


@every_case
def test_we_open_what_the_peer_sealed(shared: Shared) -> None:
    """The other side makes the keys."""
    peer = shared.peers()
    rows = {
        (partition, name): peer.encrypt(partition, data)
        for partition in PARTITIONS
        for name, data in PAYLOADS.items()
    }
    ours = shared.ours()
    for (partition, name), row in rows.items():
        session = ours.get_session(partition)
        assert PAYLOADS[name] == session.decrypt_bytes(row), (partition, name)
        assert shared.key_id(partition) == _meta(row)[0]
        if name in ("empty", "text"):
            assert PAYLOADS[name].decode() == session.decrypt_text(row)
    with pytest.raises(RuntimeError, match="another partition"):
        ours.get_session("someone-else").decrypt_bytes(rows["user-42", "byte"])


@every_case
def test_both_seal_under_one_key(shared: Shared) -> None:
    """Whoever comes second takes the key that is there, in either order."""
    peer, ours = shared.peers(), shared.ours()
    first = peer.encrypt("theirs", b"x")
    second = ours.get_session("theirs").encrypt_bytes(b"x")
    assert _meta(first) == _meta(second)
    first = ours.get_session("ours").encrypt_bytes(b"x")
    second = peer.encrypt("ours", b"x")
    assert _meta(first) == _meta(second)
    assert list(json.loads(first)) == list(json.loads(second))
    assert len(first) == len(second)
    assert b"x" == peer.decrypt("theirs", ours.get_session("theirs").encrypt_bytes(b"x"))
    assert b"x" == ours.get_session("ours").decrypt_bytes(second)


@every_case
def test_peer_opens_after_our_tools_revoked_and_rotated(shared: Shared) -> None:
    """Revoking ends sealing, not opening; the other side must understand our mark and new keys."""
    peer = shared.peers()
    rows = {b"theirs": peer.encrypt("p", b"theirs")}
    peer.close()
    settings = {**shared.config, "AllowTestingKms": True}
    with sync.SessionFactory.from_config(settings) as factory:
        session, admin = factory.session("p"), KeyAdmin(factory.hierarchy)
        rows[b"ours"] = session.encrypt(b"ours")
        assert _meta(rows[b"theirs"]) == _meta(rows[b"ours"])
        assert 1 == offload.wait(functools.partial(admin.revoke, partition="p"))
        states = [(key.id, key.state) for key in offload.wait(admin.list)]
        assert [(shared.key_id("p"), "revoked")] == [s for s in states if "_IK_" in s[0]]
        rows[b"after"] = factory.session("p").encrypt(b"after")
        offload.wait(admin.rotate, "p")
        rows[b"rotated"] = factory.session("p").encrypt(b"rotated")
        assert 1 == offload.wait(functools.partial(admin.revoke, type="system"))
        rows[b"new system key"] = factory.session("p").encrypt(b"new system key")
        assert b"theirs" == factory.session("p").decrypt(rows[b"theirs"])
    assert 4 == len({_meta(row) for row in rows.values()})
    peer, fresh = shared.peers(), shared.ours().get_session("p")
    for data, row in rows.items():
        assert data == peer.decrypt("p", row)
        assert data == fresh.decrypt_bytes(row)
    assert _meta(rows[b"new system key"]) == _meta(peer.encrypt("p", b"x"))


OLDER_CASES = [case for case in CASES if case.peer == "asherah03"]


@pytest.mark.parametrize("shared", OLDER_CASES, indirect=True, ids=str)
@pytest.mark.filterwarnings("ignore:StaticKms.debug")
def test_our_older_interface_is_the_peer(shared: Shared) -> None:
    """``Asherah`` and ``AsherahConfig``, with the very settings that the original gets."""
    peer, ours = shared.peers(), asherah.Asherah()
    ours.setup(asherah.AsherahConfig(**_for_peer(shared.case, shared.config)))
    try:
        for data in PAYLOADS.values():
            assert data == bytes(ours.decrypt("p", peer.encrypt("p", data)))
            assert data == peer.decrypt("p", ours.encrypt("p", data))
    finally:
        ours.shutdown()


def test_peer_environments_hold_what_they_say(peer_pythons: dict[str, Path]) -> None:
    """No peer may be ours in disguise, or one of another version."""
    for name, version in (("asherah05", "0.5."), ("asherah03", "0.3.9")):
        assert str(peer_pythons[name]) != sys.executable
        script = "from importlib.metadata import version; print(version('asherah'))"
        found = subprocess.run(
            [str(peer_pythons[name]), "-I", "-c", script],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        assert found.stdout.startswith(version)
