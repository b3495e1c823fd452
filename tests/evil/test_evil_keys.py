"""DynamoDB, AWS KMS, Secrets Manager and Vault that misbehave, under every client of theirs."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from anyseal import FormatError, KeyHierarchy, KmsError, MetastoreError, sync
from anyseal.errors import AnysealError
from anyseal.kms import AwsKms, SecretsManagerKms, TokenAuth, VaultTransitKms
from anyseal.kms._blob import seal_blob
from anyseal.metastore import DynamoDbMetastore, MemoryMetastore
from anyseal.ports import KeyRecord
from evil.http_protocol import Answer, HttpProtocol, HttpRequest
from evil.server import EvilServer
from evil.suite import TIMEOUT, Calls, Target, awaited, behaviours, is_slow, survives, survives_late
from storage_servers import service_models

REGION = "eu-west-1"
ARN = f"arn:aws:kms:{REGION}:000000000000:key/1"
DATA_KEY, KEY = bytes(range(32)), bytes(range(32, 64))
RECORD = KeyRecord(id="_IK_u_s_p", created=1_700_000_040, key=bytes(range(60)))


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


WRAPPED = json.dumps(
    {
        "encryptedKey": text(seal_blob(bytearray(DATA_KEY), KEY)),
        "kmsKeks": [{"region": REGION, "arn": ARN, "encryptedKek": text(b"kek")}],
    }
).encode()

ITEM: dict[str, Any] = {
    "Id": {"S": RECORD.id},
    "Created": {"N": str(RECORD.created)},
    "KeyRecord": {"M": {"Created": {"N": str(RECORD.created)}, "Key": {"S": text(RECORD.key)}}},
}


def in_json(value: Any) -> Answer:
    return Answer(
        json.dumps(value).encode(), headers={"Content-Type": "application/x-amz-json-1.1"}
    )


def aws(request: HttpRequest) -> Answer:
    """What AWS answers to all that is asked here."""
    operation = request.headers.get("x-amz-target", "").rpartition(".")[2]
    key = {"KeyId": ARN, "CiphertextBlob": text(b"kek"), "Plaintext": text(DATA_KEY)}
    answers: dict[str, Any] = {
        "GenerateDataKey": key,
        "Decrypt": key,
        "GetSecretValue": {"Name": "s", "SecretString": DATA_KEY.hex()},
        "GetItem": {"Item": ITEM},
        "Query": {"Items": [ITEM], "Count": 1},
        "Scan": {"Items": [ITEM], "Count": 1},
        "PutItem": {},
        "UpdateItem": {},
    }
    return in_json(answers[operation])


def vault(request: HttpRequest) -> Answer:
    """What Vault answers."""
    if request.path.endswith("lookup-self"):
        return in_json({"data": {"ttl": 3600, "renewable": False}})
    sent = json.loads(request.body) if request.body else {}
    if "ciphertext" in sent:
        return in_json({"data": {"plaintext": sent["ciphertext"].removeprefix("vault:v1:")}})
    return in_json({"data": {"ciphertext": f"vault:v1:{sent.get('plaintext', '')}"}})


def bodies(**answers: Any) -> dict[str, bytes]:
    return {f"body_{name}": json.dumps(value).encode() for name, value in answers.items()}


LONG = 5 << 20
AWS_TIMEOUT = 1.0
"""A dozen new clients of botocore at once take their time, with the processor."""
ATTEMPTS = 2
"""What a used connection brings may be what was left in it."""
KMS_BODIES = bodies(
    numbers={"KeyId": 7, "CiphertextBlob": 7, "Plaintext": 7},
    empty_blob={"KeyId": ARN, "CiphertextBlob": "", "Plaintext": ""},
    short={"KeyId": ARN, "CiphertextBlob": text(b"kek"), "Plaintext": text(DATA_KEY[:31])},
    no_base64={"KeyId": ARN, "CiphertextBlob": "***", "Plaintext": "***"},
    lists={"KeyId": [ARN], "CiphertextBlob": ["AA=="], "Plaintext": ["AA=="]},
    nulls={"KeyId": None, "CiphertextBlob": None, "Plaintext": None},
    huge_blob={"KeyId": ARN, "CiphertextBlob": "A" * LONG, "Plaintext": text(DATA_KEY)},
    secret_number={"SecretString": 7},
    secret_short={"SecretString": "00" * 31},
    secret_binary={"SecretBinary": 7},
    secret_long={"SecretString": "0" * LONG},
)
OTHER = {**ITEM, "Id": {"S": "_IK_other_s_p"}}
DYNAMO_BODIES = bodies(
    item_number={"Item": 42, "Items": 42},
    item_list={"Item": [], "Items": [[]]},
    item_text={"Item": "x", "Items": ["x"]},
    item_null={"Item": {"Id": None}, "Items": [None]},
    item_empty={"Item": {}, "Items": [{}]},
    other={"Item": OTHER, "Items": [OTHER]},
    id_number={"Item": {**ITEM, "Id": {"N": "1"}}, "Items": [{**ITEM, "Id": {"N": "1"}}]},
    record_text={"Item": {**ITEM, "KeyRecord": {"S": "x"}}, "Items": [{"KeyRecord": {"S": "x"}}]},
    created={"Item": {**ITEM, "Created": {"N": "x"}}, "Items": [{**ITEM, "Created": {"S": "1"}}]},
    fields={
        "Item": {**ITEM, "KeyRecord": {"M": {"Key": {}, "Created": {"N": "1"}}}},
        "Items": [{**ITEM, "KeyRecord": {"M": {"Key": {"N": "1"}}}}],
    },
    huge={
        "Item": {**ITEM, "Pad": {"S": "A" * LONG}},
        "Items": [{**ITEM, "Pad": {"S": "A" * LONG}}],
    },
)
VAULT_BODIES = bodies(
    data_list={"data": []},
    data_null={"data": None},
    data_number={"data": 7},
    fields_numbers={"data": {"plaintext": 7, "ciphertext": 7}},
    fields_empty={"data": {"plaintext": "", "ciphertext": ""}},
    fields_other={"data": {"plaintext": "***", "ciphertext": "no vault"}},
    short={"data": {"plaintext": text(KEY[:31]), "ciphertext": "vault:v1:"}},
    huge={"data": {"plaintext": "A" * LONG, "ciphertext": "vault:v1:" + "A" * LONG}},
)


@functools.cache
def aws_session() -> Any:
    from aiobotocore.session import AioSession

    session = AioSession()
    session.register_component("data_loader", service_models())
    session.set_credentials("test", "test")
    session.set_config_variable("region", REGION)
    return session


async def wraps(kms: Any) -> bool:
    """Whether it gave something: each wrapping is another one."""
    return bool(await kms.wrap(bytearray(KEY)))


async def unwraps(kms: Any) -> bytes:
    return bytes(await kms.unwrap(WRAPPED))


async def close(client: Any) -> None:
    await client.aclose()


def kms_calls(make: Callable[[str], Any], backend: str) -> Callable[[EvilServer], Any]:
    def made(server: EvilServer) -> AbstractContextManager[Calls]:
        url = f"http://127.0.0.1:{server.port}"
        calls = {"wrap": wraps, "unwrap": unwraps}
        return awaited(lambda: make(url), calls, close, backend=backend)

    return made


def aws_kms(url: str) -> AwsKms:
    return AwsKms(
        {REGION: ARN},
        endpoint_url=url,
        session=aws_session(),
        timeout=AWS_TIMEOUT,
        attempts=ATTEMPTS,
    )


def secret_calls(backend: str) -> Callable[[EvilServer], Any]:
    """The secret is fetched once: each call takes a new client."""

    def made(server: EvilServer) -> AbstractContextManager[Calls]:
        async def fetch(session: Any) -> bool:
            async with SecretsManagerKms(
                "s",
                region=REGION,
                endpoint_url=f"http://127.0.0.1:{server.port}",
                session=session,
                timeout=AWS_TIMEOUT,
                attempts=ATTEMPTS,
            ) as kms:
                return await wraps(kms)

        return awaited(aws_session, {"wrap": fetch}, lambda _: None, backend=backend)

    return made


def dynamo_calls(backend: str) -> Callable[[EvilServer], Any]:
    async def read(store: DynamoDbMetastore) -> list[KeyRecord]:
        return [record async for record in store.records()]

    calls: dict[str, Callable[[Any], Any]] = {
        "load": lambda store: store.load(RECORD.id, RECORD.created),
        "load_latest": lambda store: store.load_latest(RECORD.id),
        "store": lambda store: store.store(RECORD),
        "records": read,
    }

    def made(server: EvilServer) -> AbstractContextManager[Calls]:
        return awaited(
            lambda: DynamoDbMetastore(
                session=aws_session(),
                endpoint_url=f"http://127.0.0.1:{server.port}",
                region=REGION,
                timeout=AWS_TIMEOUT,
                attempts=ATTEMPTS,
            ),
            calls,
            close,
            backend=backend,
        )

    return made


def vault_kms(url: str) -> VaultTransitKms:
    return VaultTransitKms(url, "anyseal", auth=TokenAuth("t"), timeout=TIMEOUT, attempts=ATTEMPTS)


async def unwraps_vault(kms: Any) -> bytes:
    return bytes(await kms.unwrap(f"vault:v1:{text(KEY)}".encode()))


def vault_calls(backend: str) -> Callable[[EvilServer], Any]:
    def made(server: EvilServer) -> AbstractContextManager[Calls]:
        url = f"http://127.0.0.1:{server.port}"
        calls = {"wrap": wraps, "unwrap": unwraps_vault}
        return awaited(lambda: vault_kms(url), calls, close, backend=backend)

    return made


@contextlib.contextmanager
def sync_calls(server: EvilServer) -> Iterator[Calls]:
    """A cold key in sync code: everything goes through the portal."""
    keys = KeyHierarchy(
        vault_kms(f"http://127.0.0.1:{server.port}"), MemoryMetastore(), service="s", product="p"
    )
    server.does = "well"
    with sync.SessionFactory(keys) as factory:
        row = factory.session("u").encrypt(b"data")

        def decrypt() -> bytes:
            keys.forget()
            return factory.session("u").decrypt(row)

        yield {"decrypt": decrypt}


def is_login(request: HttpRequest) -> bool:
    return request.path.endswith("lookup-self")


def speaks_kms() -> HttpProtocol:
    return HttpProtocol(aws, bodies=KMS_BODIES)


def speaks_dynamo() -> HttpProtocol:
    return HttpProtocol(aws, bodies=DYNAMO_BODIES)


def speaks_vault() -> HttpProtocol:
    return HttpProtocol(vault, bodies=VAULT_BODIES, spares=is_login)


STORE, KMS = (MetastoreError, FormatError), (KmsError,)


def targets(backend: str) -> dict[str, tuple[Target, tuple[str, ...]]]:
    """Each client, and its calls."""
    return {
        "aws kms": (
            Target(
                name=f"AwsKms {backend}",
                speaks=speaks_kms,
                make=kms_calls(aws_kms, backend),
                errors=KMS,
            ),
            ("wrap", "unwrap"),
        ),
        "secrets": (
            Target(
                name=f"SecretsManagerKms {backend}",
                speaks=speaks_kms,
                make=secret_calls(backend),
                errors=KMS,
            ),
            ("wrap",),
        ),
        "dynamo": (
            Target(
                name=f"DynamoDbMetastore {backend}",
                speaks=speaks_dynamo,
                make=dynamo_calls(backend),
                errors=STORE,
                fits=lambda _, found: found in (None, [], True),
            ),
            ("load", "store", "load_latest"),
        ),
        "vault": (
            Target(
                name=f"VaultTransitKms {backend}",
                speaks=speaks_vault,
                make=vault_calls(backend),
                errors=KMS,
            ),
            ("wrap", "unwrap"),
        ),
        "sync": (
            Target(
                name="sync",
                speaks=speaks_vault,
                make=sync_calls,
                errors=(AnysealError,),
            ),
            ("decrypt",),
        ),
    }


REQUEST = HttpRequest("POST", "/", {"x-amz-target": "T.GetItem"}, b"")


LATE_OF_AWS = ("silent", "drip", "slow_headers", "slow_chunks")
PARTS = {
    "secrets": ("secret", "silent", "cut", "endless_body"),
    "dynamo": ("item_", "body_", "created", "fields", "silent", "drip", "endless_body"),
}
"""What is tried besides all that AWS KMS is tried with, over the same client."""


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("aws kms", "asyncio"),
        ("secrets", "asyncio"),
        ("dynamo", "asyncio"),
        ("vault", "asyncio"),
        ("sync", "asyncio"),
        pytest.param("aws kms", "trio", marks=pytest.mark.slow),
        pytest.param("secrets", "trio", marks=pytest.mark.slow),
        pytest.param("dynamo", "trio", marks=pytest.mark.slow),
        pytest.param("vault", "trio", marks=pytest.mark.slow),
    ],
)
def test_key_service_that_misbehaves_ends_in_a_typed_error(name: str, backend: str) -> None:
    """A service that every cold key needs: what it sends must not decide what becomes of us."""
    target, calls = targets(backend)[name]
    does = behaviours(target.speaks(), REQUEST)
    if name in PARTS and backend == "asyncio":
        does = [each for each in does if any(part in each for part in PARTS[name])]
    late = [each for each in does if is_slow(each)]
    if name not in ("vault", "sync"):  # a client of botocore takes the processor for a while
        does = [each for each in does if each != "endless_continue"]
        late = [each for each in late if each in LATE_OF_AWS]
    wrong = survives_late(target, calls[:1], late)
    wrong += survives(target, calls[-1], [each for each in does if not is_slow(each)])
    assert [] == wrong


@pytest.mark.parametrize("key", [{"Id": {"S": "a"}}, {"Id": {"S": "b"}, "Created": {"N": "1"}}])
def test_dynamodb_pages_that_do_not_end_are_an_error(key: dict[str, Any]) -> None:
    """A scan that comes back to where it was would keep a tool busy for ever."""

    def answers(request: HttpRequest) -> Answer:
        return in_json({"Items": [ITEM], "LastEvaluatedKey": key})

    with (
        EvilServer(HttpProtocol(answers)) as server,
        dynamo_calls("asyncio")(server) as calls,
        pytest.raises(MetastoreError, match="do not come to an end"),
    ):
        calls["records"]()
