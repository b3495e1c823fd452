"""Key management services, each against a real server: moto for AWS, OpenBao for Vault."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import pickle
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import httpx
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from anyseal import ConfigurationError, Key, KeyUseError, KmsError
from anyseal.kms import (
    AppRoleAuth,
    AwsKms,
    CertAuth,
    KubernetesAuth,
    SecretsManagerKms,
    StaticKms,
    TokenAuth,
    VaultTransitKms,
)
from anyseal.kms._calls import first_success
from anyseal.ports import Kms
from kms_servers import ROOT_TOKEN, VAULT_POLICY, Answer, Asked, Aws, Stub, Vault, refused

pytest_plugins = ["kms_servers"]
pytestmark = pytest.mark.anyio

SYSTEM_KEY = bytes(range(100, 132))
MASTER_HEX = "0123456789abcdef" * 4
MASTER = bytes.fromhex(MASTER_HEX)
QUICK: dict[str, Any] = {"timeout": 3, "hedge_after": 0.2, "attempts": 1}


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Every async test runs on asyncio and trio."""
    return request.param


@pytest.fixture(scope="module")
def session() -> Any:
    """One AWS session for most tests: reading its descriptions of the services takes long."""
    from aiobotocore.session import AioSession

    return AioSession()


def system_key() -> bytearray:
    """A fresh copy of the key to wrap."""
    return bytearray(SYSTEM_KEY)


def secrets_in(text: str, *secrets: bytes) -> list[str]:
    """Which of *secrets* stand in *text*, in any of the usual spellings."""
    spellings = {
        spelling
        for secret in (SYSTEM_KEY, *secrets)
        for spelling in (secret.hex(), base64.b64encode(secret).decode(), repr(secret)[2:-1])
    }
    return [spelling for spelling in spellings if spelling in text]


def whole_chain(exc: BaseException) -> str:
    """Everything that a report of *exc* could show."""
    seen: list[str] = []
    following: BaseException | None = exc
    while following is not None:
        seen += [repr(following), str(following), repr(vars(following))]
        following = following.__cause__ or following.__context__
    return "\n".join(seen)


async def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Until *condition* holds."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.01)


# Static


async def test_static_round_trip_is_the_public_blob() -> None:
    """Other implementations read the blob: AES-256-GCM, nonce last, no other data."""
    kms = StaticKms(MASTER_HEX)
    blob = await kms.wrap(system_key())
    assert len(blob) == 60
    assert AESGCM(MASTER).decrypt(blob[-12:], blob[:-12], None) == SYSTEM_KEY
    opened = await kms.unwrap(blob)
    assert (bytearray, SYSTEM_KEY) == (type(opened), opened)
    assert isinstance(kms, Kms)
    assert kms.testing


async def test_static_opens_what_cryptography_sealed() -> None:
    """The other direction of the same promise."""
    nonce = os.urandom(12)
    blob = AESGCM(MASTER).encrypt(nonce, SYSTEM_KEY, None) + nonce
    for master in (MASTER, MASTER_HEX, Key.from_bytes(MASTER)):
        async with StaticKms(master) as kms:
            assert await kms.unwrap(blob) == SYSTEM_KEY


async def test_static_refuses_every_flipped_bit_and_every_cut() -> None:
    """A blob comes from a database that others may write to."""
    kms = StaticKms(MASTER)
    blob = await kms.wrap(system_key())
    for bit in range(8 * len(blob)):
        bad = bytearray(blob)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(KmsError) as caught:
            await kms.unwrap(bytes(bad))
        assert not caught.value.retryable
    for size in (*range(60), 61, 1 << 16, (1 << 16) + 1, 1 << 24):
        with pytest.raises(KmsError) as caught:
            await kms.unwrap(bytes(size))
        assert not caught.value.retryable
    with pytest.raises(KmsError):
        await StaticKms(bytes(32)).unwrap(blob)


async def test_static_checks_what_it_is_given() -> None:
    """Nothing but a key is wrapped; a wiped master key is not used."""
    kms = StaticKms(MASTER)
    for size in (0, 31, 33):
        with pytest.raises(ValueError, match="32 bytes"):
            await kms.wrap(bytearray(size))
    with pytest.raises(TypeError):
        await kms.wrap("k" * 32)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        await kms.unwrap("k" * 60)  # type: ignore[arg-type]
    for bad in ("", "zz" * 32, "ab" * 31, b"short"):
        with pytest.raises(ConfigurationError):
            StaticKms(bad)
    key = Key.generate()
    wiped = StaticKms(key)
    key.wipe()
    with pytest.raises(KeyUseError):
        await wiped.wrap(system_key())
    with pytest.raises(TypeError):
        pickle.dumps(kms)
    assert not secrets_in(repr(kms), MASTER)


async def test_static_from_env(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is the one that other implementations read."""
    monkeypatch.setenv("STATIC_MASTER_KEY_HEX", f" {MASTER_HEX}\n")
    blob = await StaticKms.from_env().wrap(system_key())
    assert await StaticKms(MASTER).unwrap(blob) == SYSTEM_KEY
    for bad in ("", "12", "zz" * 32):
        monkeypatch.setenv("STATIC_MASTER_KEY_HEX", bad)
        with pytest.raises(ConfigurationError, match="STATIC_MASTER_KEY_HEX") as caught:
            StaticKms.from_env()
        assert not bad or bad not in str(caught.value)


async def test_static_debug_warns() -> None:
    """The published key must never be used by accident."""
    with pytest.warns(RuntimeWarning, match="public"):
        kms = StaticKms.debug()
    blob = await kms.wrap(system_key())
    published = b"thisIsAStaticMasterKeyForTesting"
    assert AESGCM(published).decrypt(blob[-12:], blob[:-12], None) == SYSTEM_KEY


# Calls


async def test_first_success_starts_the_next_on_failure_and_on_silence() -> None:
    """Failover must neither wait for a region that is gone nor give up one that is slow."""
    started: list[str] = []

    async def fail() -> str:
        started.append("fail")
        raise KmsError("gone")

    async def hang() -> str:
        started.append("hang")
        await anyio.sleep(60)
        return "late"

    async def answer() -> str:
        started.append("answer")
        return "found"

    with anyio.fail_after(50):
        assert await first_success([fail, hang, answer], hedge_after=0.05) == "found"
    assert started == ["fail", "hang", "answer"]
    with pytest.raises(KmsError, match="gone; gone"):
        await first_success([fail, fail], hedge_after=5)


async def test_first_success_lets_a_slow_answer_win() -> None:
    """The region that was asked first may still be the one that answers."""

    async def slow() -> str:
        await anyio.sleep(0.1)
        return "slow"

    async def fail() -> str:
        raise KmsError("gone", retryable=False)

    assert await first_success([slow, fail], hedge_after=0.01) == "slow"


async def test_first_success_raises_a_bug_as_it_is() -> None:
    """An error that is not the service's must not look like one."""

    async def bug() -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await first_success([bug], hedge_after=1)


# AWS KMS


def aws_kms(aws: Aws, session: Any = None, **settings: Any) -> AwsKms:
    """Three regions, the preferred one not the first."""
    endpoints = settings.pop("endpoints", {})
    return AwsKms(
        aws.arns,
        preferred_region="us-west-2",
        endpoint_url=dict.fromkeys(aws.arns, aws.url) | endpoints,
        session=session,
        **settings,
    )


async def test_aws_round_trip_and_wire_form(aws: Aws, session: Any) -> None:
    """Any implementation can undo it in any region, with nothing but KMS and AES-GCM."""
    async with aws_kms(aws) as kms:
        wrapped = await kms.wrap(system_key())
        opened = await kms.unwrap(wrapped)
        assert (bytearray, SYSTEM_KEY) == (type(opened), opened)
    record = json.loads(wrapped)
    assert wrapped == json.dumps(record, separators=(",", ":")).encode()
    assert list(record) == ["encryptedKey", "kmsKeks"]
    assert [list(kek) for kek in record["kmsKeks"]] == [["region", "arn", "encryptedKek"]] * 3
    assert aws.arns == {kek["region"]: kek["arn"] for kek in record["kmsKeks"]}
    assert sorted(aws.arns) == [kek["region"] for kek in record["kmsKeks"]]
    blob = base64.b64decode(record["encryptedKey"])
    assert len(blob) == 60
    for kek in record["kmsKeks"]:
        answer = aws.client("kms", kek["region"]).decrypt(
            KeyId=kek["arn"], CiphertextBlob=base64.b64decode(kek["encryptedKek"])
        )
        data_key = answer["Plaintext"]
        assert AESGCM(data_key).decrypt(blob[-12:], blob[:-12], None) == SYSTEM_KEY


async def test_aws_opens_what_others_wrote(aws: Aws, session: Any) -> None:
    """Order, white space and further fields are free; one region's part suffices."""
    region, arn = "eu-west-1", aws.arns["eu-west-1"]
    made = aws.client("kms", region).generate_data_key(KeyId=arn, KeySpec="AES_256")
    nonce = os.urandom(12)
    blob = AESGCM(made["Plaintext"]).encrypt(nonce, SYSTEM_KEY, None) + nonce
    record = {
        "more": [1],
        "kmsKeks": [
            {
                "encryptedKek": base64.b64encode(made["CiphertextBlob"]).decode(),
                "arn": arn,
                "region": region,
                "x": None,
            },
            {"region": "ap-south-1", "arn": "arn:aws:kms:ap-south-1:1:key/x", "encryptedKek": ""},
        ],
        "encryptedKey": base64.b64encode(blob).decode(),
    }
    async with aws_kms(aws, session) as kms:
        assert await kms.unwrap(json.dumps(record, indent=1).encode()) == SYSTEM_KEY


async def test_aws_one_key_by_its_arn(
    aws: Aws, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The region is in the ARN, the endpoint in the variable; the form is the same."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:1")  # not heeded
    async with AwsKms(aws.arns["us-east-1"], session=session) as kms:
        wrapped = await kms.wrap(system_key())
        assert [kek["region"] for kek in json.loads(wrapped)["kmsKeks"]] == ["us-east-1"]
        assert await kms.unwrap(wrapped) == SYSTEM_KEY


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_aws_profile(
    aws: Aws, aws_environment: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """Credentials come from the named profile; an unknown one is an error of configuration.

    Not under the guard against blocking calls: botocore reads the credentials file by itself.
    """
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (aws_environment / "credentials").write_text(
        "[staging]\naws_access_key_id = staging-id\naws_secret_access_key = staging-secret\n"
    )
    arn = aws.arns["us-east-1"]

    async def round_trip(profile: str | None) -> bytes | bytearray:
        async with AwsKms(arn, profile=profile, endpoint_url=stub.url) as kms:
            return await kms.unwrap(await kms.wrap(system_key()))

    with Stub(lambda asked: None, aws.url) as stub:
        assert anyio.run(round_trip, "staging", backend=backend) == SYSTEM_KEY
        assert all("Credential=staging-id/" in each.headers["authorization"] for each in stub.asked)
        with pytest.raises(ConfigurationError, match="nowhere"):
            anyio.run(round_trip, "nowhere", backend=backend)
        with pytest.raises(KmsError, match="NoCredentials") as caught:
            anyio.run(round_trip, None, backend=backend)
        assert not caught.value.retryable


async def test_aws_wraps_elsewhere_in_parallel(aws: Aws, session: Any) -> None:
    """Regions are far apart: their times must not add up."""

    both = threading.Barrier(2, timeout=60.0)

    def meet(asked: Asked) -> Answer | None:
        if asked.operation == "Encrypt":
            both.wait()  # one after the other they would never meet
        return None

    with Stub(meet, aws.url) as one, Stub(meet, aws.url) as two:
        endpoints = {"eu-west-1": one.url, "us-east-1": two.url}
        async with aws_kms(aws, session, endpoints=endpoints, timeout=60) as kms:
            await kms.wrap(system_key())
            await kms.wrap(system_key())
    assert not both.broken
    assert [each.operation for each in one.asked] == ["Encrypt", "Encrypt"]


@pytest.mark.parametrize("how", ["dead", "slow"])
async def test_aws_fails_over(aws: Aws, session: Any, how: str) -> None:
    """A region that is gone or hangs costs neither reading nor writing."""
    async with aws_kms(aws, session) as kms:
        wrapped = await kms.wrap(system_key())
    with ExitStack() as stack:
        if how == "dead":
            url = stack.enter_context(refused())
        else:
            stub = Stub(lambda asked: stub.sleep(), aws.url)
            url = stack.enter_context(stub).url
        async with aws_kms(aws, session, endpoints={"us-west-2": url}, **QUICK) as kms:
            assert await kms.unwrap(wrapped) == SYSTEM_KEY
            without = await kms.wrap(system_key())
            assert await kms.unwrap(without) == SYSTEM_KEY
    regions = [kek["region"] for kek in json.loads(without)["kmsKeks"]]
    assert regions == ["eu-west-1", "us-east-1"]


async def test_aws_skips_a_failing_region_with_a_warning(
    aws: Aws, session: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """As canonical implementations do, so that one region's outage does not stop all writing."""
    with refused() as url:
        dead = {"endpoints": {"eu-west-1": url}}
        async with aws_kms(aws, session, **dead, **QUICK) as kms:
            wrapped = await kms.wrap(system_key())
            assert await kms.unwrap(wrapped) == SYSTEM_KEY
        [warning] = [each for each in caplog.records if each.name == "anyseal.kms.aws"]
        assert "eu-west-1" in warning.getMessage()
        async with aws_kms(aws, session, require_all_regions=True, **dead, **QUICK) as kms:
            with pytest.raises(KmsError, match="eu-west-1") as caught:
                await kms.wrap(system_key())
            assert caught.value.retryable


async def test_aws_all_regions_down_is_retryable(aws: Aws, session: Any) -> None:
    """The caller learns that it may try again, and in bounded time."""
    async with aws_kms(aws, session) as kms:
        wrapped = await kms.wrap(system_key())
    with refused() as url:
        dead = dict.fromkeys(aws.arns, url)
        async with aws_kms(aws, session, endpoints=dead, **QUICK) as kms:
            for call in (lambda: kms.wrap(system_key()), lambda: kms.unwrap(wrapped)):
                with anyio.fail_after(60), pytest.raises(KmsError) as caught:
                    await call()
                assert caught.value.retryable
                assert all(region in str(caught.value) for region in aws.arns)
                assert not secrets_in(whole_chain(caught.value))


async def test_aws_retries_throttling(aws: Aws, session: Any) -> None:
    """AWS throttles by the second: a short pause and another try, and not without end."""
    throttled = 2

    def behave(asked: Asked) -> Answer | None:
        if len(stub.asked) <= throttled:
            return 400, {"__type": "ThrottlingException", "message": "Rate exceeded"}
        return None

    with Stub(behave, aws.url) as stub:
        arn = aws.arns["us-east-1"]
        async with AwsKms(arn, endpoint_url=stub.url, session=session) as kms:
            wrapped = await kms.wrap(system_key())
            assert len(stub.asked) == 3
        throttled = 1000
        async with AwsKms(arn, endpoint_url=stub.url, session=session, attempts=2) as kms:
            with pytest.raises(KmsError, match="ThrottlingException") as caught:
                await kms.unwrap(wrapped)
            assert (caught.value.retryable, len(stub.asked)) == (True, 5)


@pytest.mark.parametrize(
    ("answer", "retryable"),
    [
        ((400, {"__type": "AccessDeniedException"}), False),
        ((400, {"__type": "NotFoundException"}), False),
        ((400, {"__type": "InvalidCiphertextException"}), False),
        ((400, {"__type": "DisabledException"}), False),
        ((400, {"__type": "ExpiredTokenException"}), False),
        ((400, {"__type": "DependencyTimeoutException"}), True),
        ((500, {"__type": "KMSInternalException"}), True),
        ((503, b"<html>busy</html>"), True),
        ((200, b"garbage"), True),
        ((200, {}), True),
        ((200, {"KeyId": "k", "CiphertextBlob": "AAAA", "Plaintext": "AAAA"}), False),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_aws_answers_become_typed_errors(
    aws: Aws, session: Any, answer: Answer, retryable: bool
) -> None:
    """Only what may go away is worth trying again."""
    with Stub(lambda asked: answer) as stub:
        arn = aws.arns["us-east-1"]
        async with AwsKms(arn, endpoint_url=stub.url, session=session, attempts=1) as kms:
            with pytest.raises(KmsError) as caught:
                await kms.wrap(system_key())
    assert retryable == caught.value.retryable
    assert len(stub.asked) == 1


IAM_ACTIONS = ["kms:GenerateDataKey", "kms:Encrypt", "kms:Decrypt"]


@pytest.fixture
def as_service(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[str]], None]]:
    """Become a user who may do just the given actions; moto then enforces it."""
    from uuid import uuid4

    def become(actions: list[str]) -> None:
        httpx.post(f"{aws.url}/moto-api/reset-auth", content="inf", verify=False)
        iam, user = aws.client("iam"), f"service-{uuid4()}"
        iam.create_user(UserName=user)
        policy = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}],
        }
        iam.put_user_policy(UserName=user, PolicyName="keys", PolicyDocument=json.dumps(policy))
        access = iam.create_access_key(UserName=user)["AccessKey"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", access["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", access["SecretAccessKey"])
        httpx.post(f"{aws.url}/moto-api/reset-auth", content="0", verify=False)

    yield become
    httpx.post(f"{aws.url}/moto-api/reset-auth", content="inf", verify=False)


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
async def test_aws_needs_exactly_three_permissions(
    aws: Aws, as_service: Callable[[list[str]], None]
) -> None:
    """docs/kms.md states them; moto's IAM denies whatever else would be asked for."""
    as_service(IAM_ACTIONS)
    async with aws_kms(aws, require_all_regions=True) as kms:
        wrapped = await kms.wrap(system_key())
        assert await kms.unwrap(wrapped) == SYSTEM_KEY
    for missing in IAM_ACTIONS:
        as_service([action for action in IAM_ACTIONS if action != missing])
        async with aws_kms(aws, require_all_regions=True, attempts=5) as kms:
            with pytest.raises(KmsError, match=r"AccessDenied|403") as caught:
                await kms.unwrap(await kms.wrap(system_key()))
            assert not caught.value.retryable


async def test_aws_tampered_records(aws: Aws, session: Any) -> None:
    """One region's spoiled part is made good by another's; a spoiled key by none."""
    async with aws_kms(aws, session) as kms:
        wrapped = await kms.wrap(system_key())
        record = json.loads(wrapped)
        for kek in record["kmsKeks"]:
            if kek["region"] == "us-west-2":
                spoiled = bytearray(base64.b64decode(kek["encryptedKek"]))
                spoiled[-1] ^= 1
                kek["encryptedKek"] = base64.b64encode(spoiled).decode()
        assert await kms.unwrap(json.dumps(record).encode()) == SYSTEM_KEY

        record = json.loads(wrapped)
        blob = bytearray(base64.b64decode(record["encryptedKey"]))
        blob[5] ^= 1
        record["encryptedKey"] = base64.b64encode(blob).decode()
        with pytest.raises(KmsError, match="does not verify") as caught:
            await kms.unwrap(json.dumps(record).encode())
        assert not caught.value.retryable

        record = json.loads(wrapped)
        record["kmsKeks"] = [{**kek, "region": "ap-south-1"} for kek in record["kmsKeks"]]
        with pytest.raises(KmsError, match="none of our regions"):
            await kms.unwrap(json.dumps(record).encode())


async def test_aws_does_not_accept_a_strangers_key(aws: Aws, session: Any) -> None:
    """Who writes to the metastore must not plant a key wrapped in an account of their own."""
    record = {
        "encryptedKey": base64.b64encode(bytes(60)).decode(),
        "kmsKeks": [
            {
                "region": "us-east-1",
                "arn": "arn:aws:kms:us-east-1:999999999999:key/evil",
                "encryptedKek": base64.b64encode(b"evil").decode(),
            }
        ],
    }
    with Stub(lambda asked: (400, {"__type": "IncorrectKeyException"})) as stub:
        arn = aws.arns["us-east-1"]
        async with AwsKms(arn, endpoint_url=stub.url, session=session) as kms:
            with pytest.raises(KmsError, match="IncorrectKey"):
                await kms.unwrap(json.dumps(record).encode())
            assert arn == json.loads(stub.asked[-1].body)["KeyId"]
            # A former key of the same account and region is asked for by its name.
            former = arn.rpartition("/")[0] + "/former"
            record["kmsKeks"][0]["arn"] = former  # type: ignore[index]
            with pytest.raises(KmsError):
                await kms.unwrap(json.dumps(record).encode())
            assert former == json.loads(stub.asked[-1].body)["KeyId"]


GARBAGE = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"encryptedKey":1,"kmsKeks":[]}',
    b'{"encryptedKey":"AAAA","kmsKeks":[]}',
    b'{"encryptedKey":"AAAA","kmsKeks":{}}',
    b'{"encryptedKey":"!","kmsKeks":[]}',
    b'{"encryptedKey":"AAAA","kmsKeks":[{"region":1,"arn":"a","encryptedKek":"AAAA"}]}',
    b'{"encryptedKey":"AAAA","kmsKeks":[{"region":"us-west-2"}]}',
    b"[" * 60_000,
    b"1" * 60_000,
    b"x" * 65_537,
    b"x" * 100_000_000,
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda data: f"{data[:20]!r}-{len(data)}")
async def test_garbage_is_a_typed_error_without_a_request(garbage: bytes) -> None:
    """The metastore's content is no reason to trouble a service, nor to take long."""
    services: list[Kms] = [
        AwsKms("arn:aws:kms:us-west-2:1:key/x", endpoint_url="http://127.0.0.1:1"),
        VaultTransitKms("http://127.0.0.1:1", "k", auth=TokenAuth("t")),
        StaticKms(MASTER),
    ]
    for kms in services:
        started = time.monotonic()
        with pytest.raises(KmsError) as caught:
            await kms.unwrap(garbage)
        assert not caught.value.retryable
        assert time.monotonic() - started < 15


@given(st.binary(max_size=300))
def test_aws_record_parser_raises_nothing_else(data: bytes) -> None:
    """Whatever stands in the metastore."""
    from anyseal.kms.aws import _decode

    with contextlib.suppress(KmsError):
        _decode(data)


async def test_aws_cancelled_call_leaves_nothing(aws: Aws, session: Any) -> None:
    """A caller that goes away must not spoil the next one's call."""
    hang = True

    def behave(asked: Asked) -> Answer | None:
        return stub.sleep() if hang else None

    with Stub(behave, aws.url) as stub:
        url = dict.fromkeys(aws.arns, stub.url)
        async with aws_kms(aws, session, endpoints=url, timeout=20, hedge_after=0.1) as kms:
            key = system_key()
            for _ in range(2):
                with anyio.move_on_after(0.5) as scope:
                    await kms.wrap(key)
                assert scope.cancelled_caught
            hang = False
            with anyio.fail_after(60):
                assert await kms.unwrap(await kms.wrap(key)) == SYSTEM_KEY
            assert key == SYSTEM_KEY  # the caller's own copy is the caller's to wipe


async def test_aws_wipes_data_keys(aws: Aws, session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data keys must not stay in memory longer than their call, even if it fails."""
    import anyseal.kms.aws as module

    seen: list[bytearray] = []

    def spy(master: bytearray, *args: Any) -> Any:
        seen.append(master)
        if fail:
            raise KmsError("spied", retryable=False)
        return original(master, *args)

    for name in ("seal_blob", "open_blob"):
        original, fail = getattr(module, name), False
        monkeypatch.setattr(module, name, spy)
        async with aws_kms(aws, session) as kms:
            wrapped = await kms.wrap(system_key())
            await kms.unwrap(wrapped)
            fail = True
            with pytest.raises(KmsError):
                await (kms.wrap(system_key()) if name == "seal_blob" else kms.unwrap(wrapped))
        monkeypatch.undo()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    assert len(seen) >= 4
    assert all(data_key == bytes(32) for data_key in seen)


async def test_aws_keys_reach_no_log(aws: Aws, caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG level botocore would write the bodies of requests and answers, with the data key."""
    caplog.set_level(logging.DEBUG)
    bodies: list[bytes] = []

    def behave(asked: Asked) -> Answer | None:
        passed = httpx.post(
            aws.url,
            headers={k: v for k, v in asked.headers.items() if k != "connection"},
            content=asked.body,
            verify=False,
        )
        bodies.extend((asked.body, passed.content))
        return passed.status_code, passed.content

    with Stub(behave) as stub:
        endpoints = dict.fromkeys(aws.arns, stub.url)
        async with aws_kms(aws, endpoints=endpoints, timeout=30, hedge_after=30) as kms:
            await kms.unwrap(await kms.wrap(system_key()))
            assert repr(kms) == "<AwsKms us-west-2, eu-west-1, us-east-1>"
    data_keys = {
        base64.b64decode(parsed["Plaintext"])
        for parsed in (json.loads(body) for body in bodies)
        if "Plaintext" in parsed
    }
    assert len(data_keys) == 1
    ours = "\n".join(f"{each.getMessage()} {each.args}" for each in caplog.records)
    assert ours
    assert not secrets_in(ours, *data_keys)
    logging.getLogger("botocore.endpoint").debug("others may still log")
    assert "others may still log" in caplog.text


@pytest.mark.parametrize(
    ("regions", "settings", "message"),
    [
        ({}, {}, "at least one region"),
        ({"us-east-1": "a", "us-west-2": "b"}, {}, "preferred_region"),
        ({"us-east-1": "a"}, {"preferred_region": "us-west-2"}, "us-west-2"),
        ({"us-east-1": ""}, {}, "no KMS key"),
        ({"../evil": "a"}, {}, "not a region"),
        ({"us-east-1": "arn:aws:kms:us-west-2:1:key/x"}, {}, "is of region us-west-2"),
        ("key-without-region", {}, "preferred_region"),
        ("arn:aws:kms:us-west-2:1:key/x", {"timeout": 0}, "timeout"),
        ("arn:aws:kms:us-west-2:1:key/x", {"attempts": 0}, "attempts"),
        ("arn:aws:kms:us-west-2:1:key/x", {"hedge_after": 0}, "hedge_after"),
        ("arn:aws:kms:us-west-2:1:key/x", {"endpoint_url": {"eu-west-1": "x"}}, "eu-west-1"),
        ("arn:aws:kms:us-west-2:1:key/x", {"profile": "p", "session": object()}, "not both"),
    ],
)
def test_aws_configuration_is_checked(
    regions: Any, settings: dict[str, Any], message: str, aws_environment: Path
) -> None:
    """A mistake shows when the service starts, not when the first key is wrapped."""
    with pytest.raises(ConfigurationError, match=message):
        AwsKms(regions, **settings)


async def test_aws_from_env(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables are the ones that other implementations read."""
    with pytest.raises(ConfigurationError, match="REGION_MAP"):
        AwsKms.from_env()
    monkeypatch.setenv("KMS_KEY_ID", aws.arns["us-east-1"])
    assert repr(AwsKms.from_env()) == "<AwsKms us-east-1>"
    monkeypatch.setenv("KMS_KEY_ID", "alias/x")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert repr(AwsKms.from_env()) == "<AwsKms eu-west-1>"
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
    monkeypatch.setenv("REGION_MAP", json.dumps(aws.arns))
    with pytest.raises(ConfigurationError, match="preferred_region"):
        AwsKms.from_env()
    monkeypatch.setenv("PREFERRED_REGION", "eu-west-1")
    async with AwsKms.from_env() as kms:
        assert await kms.unwrap(await kms.wrap(system_key())) == SYSTEM_KEY
    for bad in ("{", "[]", "[" * 10_000):
        monkeypatch.setenv("REGION_MAP", bad)
        with pytest.raises(ConfigurationError, match="REGION_MAP"):
            AwsKms.from_env()


def test_aws_serves_one_event_loop_after_another(aws: Aws, session: Any) -> None:
    """The sync side has a loop of its own: clients must not be carried between loops."""
    kms = aws_kms(aws, session)

    async def round_trip() -> bytes | bytearray:
        opened = await kms.unwrap(await kms.wrap(system_key()))
        await kms.aclose()
        await kms.aclose()
        return opened

    for backend in ("asyncio", "trio", "asyncio"):
        assert anyio.run(round_trip, backend=backend) == SYSTEM_KEY


# AWS Secrets Manager


@pytest.fixture
def secret(aws: Aws) -> Callable[..., str]:
    """Put a secret into Secrets Manager; gives its ARN."""
    from uuid import uuid4

    def put(**content: Any) -> str:
        made = aws.client("secretsmanager").create_secret(Name=f"key-{uuid4()}", **content)
        found: str = made["ARN"]
        return found

    return put


@pytest.mark.parametrize(
    "content",
    [
        {"SecretString": MASTER_HEX},
        {"SecretString": f"  0x{MASTER_HEX.upper()}\n"},
        {"SecretBinary": MASTER},
    ],
    ids=["hex", "prefixed", "binary"],
)
async def test_secretsmanager_is_a_static_key_from_elsewhere(
    aws: Aws, session: Any, secret: Callable[..., str], content: dict[str, Any]
) -> None:
    """Blobs are the same as with the key itself, and the secret is fetched once."""
    with Stub(lambda asked: None, aws.url) as stub:
        arn = secret(**content)
        async with SecretsManagerKms(arn, endpoint_url=stub.url, session=session) as kms:
            blobs: list[bytes] = []

            async def wrap() -> None:
                blobs.append(await kms.wrap(system_key()))

            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(wrap)
            for blob in blobs:
                assert await StaticKms(MASTER).unwrap(blob) == SYSTEM_KEY
                assert await kms.unwrap(blob) == SYSTEM_KEY
            assert not secrets_in(repr(kms), MASTER)
        assert len(stub.asked) == 1
        assert not getattr(kms, "testing", False)


@pytest.mark.parametrize(
    "content",
    [{"SecretString": "short"}, {"SecretString": "zz" * 32}, {"SecretBinary": b"short"}],
    ids=["short", "no-hex", "short-binary"],
)
async def test_secretsmanager_refuses_what_is_no_key(
    aws: Aws, session: Any, secret: Callable[..., str], content: dict[str, Any]
) -> None:
    """And does not quote it."""
    arn = secret(**content)
    async with SecretsManagerKms(arn, endpoint_url=aws.url, session=session) as kms:
        with pytest.raises(KmsError, match="neither") as caught:
            await kms.wrap(system_key())
    assert not caught.value.retryable
    assert str(next(iter(content.values()))) not in whole_chain(caught.value)


async def test_secretsmanager_errors_and_recovery(
    aws: Aws, session: Any, secret: Callable[..., str]
) -> None:
    """Down, denied, cancelled: typed, and the next call works."""
    async with SecretsManagerKms(
        "nowhere", region="us-east-1", endpoint_url=aws.url, session=session
    ) as kms:
        with pytest.raises(KmsError, match="ResourceNotFoundException") as caught:
            await kms.wrap(system_key())
        assert not caught.value.retryable
    how: Answer | str | None = "hang"

    def behave(asked: Asked) -> Answer | None:
        return stub.sleep() if isinstance(how, str) else how

    with Stub(behave, aws.url) as stub:
        async with SecretsManagerKms(
            secret(SecretString=MASTER_HEX),
            endpoint_url=stub.url,
            session=session,
            timeout=60,
            attempts=1,
        ) as kms:
            with anyio.move_on_after(0.3) as scope:
                await kms.wrap(system_key())
            assert scope.cancelled_caught
            how = (500, {"__type": "InternalServiceError"})
            with pytest.raises(KmsError) as caught:
                await kms.wrap(system_key())
            assert caught.value.retryable
            how = None
            assert await kms.unwrap(await kms.wrap(system_key())) == SYSTEM_KEY


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
async def test_secretsmanager_needs_one_permission(
    aws: Aws, secret: Callable[..., str], as_service: Callable[[list[str]], None]
) -> None:
    """docs/kms.md states it."""
    arn = secret(SecretString=MASTER_HEX)
    as_service(["secretsmanager:GetSecretValue"])
    async with SecretsManagerKms(arn, endpoint_url=aws.url) as kms:
        await kms.wrap(system_key())
    as_service(["secretsmanager:DescribeSecret"])
    async with SecretsManagerKms(arn, endpoint_url=aws.url) as kms:
        with pytest.raises(KmsError, match=r"AccessDenied|403"):
            await kms.wrap(system_key())


async def test_secretsmanager_keeps_its_key_from_logs(
    aws: Aws, secret: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """The answer holds the master key of everything."""
    arn = secret(SecretString=MASTER_HEX)
    caplog.set_level(logging.DEBUG)
    async with SecretsManagerKms(arn, endpoint_url=aws.url) as kms:
        await kms.wrap(system_key())
    ours = [each for each in caplog.records if each.name != "werkzeug"]
    assert not secrets_in("\n".join(f"{each.getMessage()} {each.args}" for each in ours), MASTER)


def test_secretsmanager_from_env(monkeypatch: pytest.MonkeyPatch, aws_environment: Path) -> None:
    """The variable is the one that other implementations read."""
    with pytest.raises(ConfigurationError, match="SECRETS_MANAGER_SECRET_ID"):
        SecretsManagerKms.from_env()
    monkeypatch.setenv("SECRETS_MANAGER_SECRET_ID", "prod/key")
    with pytest.raises(ConfigurationError, match="region"):
        SecretsManagerKms.from_env()
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert repr(SecretsManagerKms.from_env()) == "<SecretsManagerKms prod/key in us-east-1>"
    with pytest.raises(ConfigurationError):
        SecretsManagerKms("")


# Vault


async def test_vault_round_trip(vault: Vault) -> None:
    """The blob is the engine's own text, which the engine alone undoes."""
    async with VaultTransitKms(vault.address, "anyseal", auth=TokenAuth(vault.token())) as kms:
        wrapped = await kms.wrap(system_key())
        assert wrapped.startswith(b"vault:v1:")
        opened = await kms.unwrap(wrapped)
        assert (bytearray, SYSTEM_KEY) == (type(opened), opened)
        assert isinstance(kms, Kms)
    answer = vault.api("POST", "transit/decrypt/anyseal", {"ciphertext": wrapped.decode()})
    assert base64.b64decode(answer["data"]["plaintext"]) == SYSTEM_KEY


async def test_vault_opens_after_the_transit_key_rotated(vault: Vault) -> None:
    """Rotating in Vault must not lose what an older version wrapped."""
    async with VaultTransitKms(vault.address, "other", auth=TokenAuth(ROOT_TOKEN)) as kms:
        old = await kms.wrap(system_key())
        vault.api("POST", "transit/keys/other/rotate", {})
        new = await kms.wrap(system_key())
        version = [int(each.split(b":")[1][1:]) for each in (old, new)]
        assert version[0] + 1 == version[1]
        assert SYSTEM_KEY == await kms.unwrap(old) == await kms.unwrap(new)


async def test_vault_approle(vault: Vault) -> None:
    """Logs in once, however many callers come first."""
    with Stub(lambda asked: None, vault.address) as stub:
        auth = AppRoleAuth(role_id=vault.role_id, secret_id=vault.secret_id())
        kms = VaultTransitKms(stub.url, "anyseal", auth=auth)
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(kms.wrap, system_key())
        await kms.aclose()
        assert sum(asked.path.endswith("/login") for asked in stub.asked) == 1
        assert sum("/encrypt/" in asked.path for asked in stub.asked) == 20


async def test_vault_approle_wrong_secret(vault: Vault) -> None:
    """A refused login is final, and does not quote the secret."""
    auth = AppRoleAuth(role_id=vault.role_id, secret_id="5ec2e7-wrong")
    kms = VaultTransitKms(vault.address, "anyseal", auth=auth)
    with pytest.raises(KmsError, match="login") as caught:
        await kms.wrap(system_key())
    assert not caught.value.retryable
    assert "5ec2e7" not in whole_chain(caught.value) + repr(auth) + repr(kms)
    await kms.aclose()


async def test_vault_kubernetes(
    vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service account's token is read for each login: Kubernetes replaces the file."""
    jwt = tmp_path / "token"

    def behave(asked: Asked) -> Answer | None:
        if asked.path != "/v1/auth/k8s/cluster/login":
            return None
        given.append(json.loads(asked.body))
        ttl = "1h" if len(given) == 1 else "10h"
        token = vault.api(
            "POST",
            "auth/token/create",
            {"policies": ["anyseal"], "ttl": ttl, "renewable": False, "no_parent": True},
        )
        return 200, token

    given: list[dict[str, str]] = []
    with Stub(behave, vault.address) as stub:
        auth = KubernetesAuth(role="service", mount="k8s/cluster", token_path=jwt)
        kms = VaultTransitKms(stub.url, "anyseal", auth=auth)
        with pytest.raises(KmsError, match="service account") as caught:
            await kms.wrap(system_key())
        assert not caught.value.retryable
        jwt.write_text("first.jwt\n")
        wrapped = await kms.wrap(system_key())
        jwt.write_text("second.jwt\n")
        # Beyond two thirds of the lease, which cannot be renewed.
        later = SimpleNamespace(monotonic=lambda: time.monotonic() + 2500)
        monkeypatch.setattr("anyseal.kms.vault.time", later)
        monkeypatch.setattr("anyseal.kms._vault.time", later)
        assert await kms.unwrap(wrapped) == SYSTEM_KEY
        await kms.aclose()
    first, second = ({"role": "service", "jwt": f"{n}.jwt"} for n in ("first", "second"))
    assert [first, second] == given


async def test_vault_certificate(vault_tls: Vault) -> None:
    """A client certificate over TLS, the server's authority from a file."""
    auth = CertAuth(**vault_tls.extra, role="service")
    async with VaultTransitKms(
        vault_tls.address, "anyseal", auth=auth, ca_file=vault_tls.ca_file
    ) as kms:
        assert await kms.unwrap(await kms.wrap(system_key())) == SYSTEM_KEY
    untrusting = VaultTransitKms(vault_tls.address, "anyseal", auth=TokenAuth("t"))
    with pytest.raises(KmsError, match="ConnectError") as caught:
        await untrusting.wrap(system_key())
    assert not caught.value.retryable  # a wrong certificate does not get better
    await untrusting.aclose()
    missing = CertAuth(cert_file="/nowhere/cert", key_file="/nowhere/key")
    with pytest.raises(ConfigurationError, match="certificates"):
        await VaultTransitKms(vault_tls.address, "anyseal", auth=missing).wrap(system_key())


async def test_vault_renews_a_short_token(vault: Vault) -> None:
    """A token of a few seconds serves on, because it is renewed at two thirds of its lease."""
    token = vault.token(ttl="6s", explicit_max_ttl="1h")
    idle_token = vault.token(ttl="4s", explicit_max_ttl="1h")
    with Stub(lambda asked: None, vault.address) as stub:
        kms = VaultTransitKms(stub.url, "anyseal", auth=TokenAuth(token))
        wrapped = await kms.wrap(system_key())
        # Keys are cached for an hour: nobody calls, and inside the context the token lives on.
        async with VaultTransitKms(vault.address, "anyseal", auth=TokenAuth(idle_token)) as idle:
            for seconds in (4.2, 2.2):
                await anyio.sleep(seconds)
                assert await kms.unwrap(wrapped) == SYSTEM_KEY
            assert await idle.unwrap(wrapped) == SYSTEM_KEY
        await kms.aclose()
        assert sum(asked.path.endswith("/renew-self") for asked in stub.asked) == 1


async def test_vault_context_manager_passes_errors_through(vault: Vault) -> None:
    """Its background task must neither wrap the caller's error in a group nor swallow it."""
    with pytest.raises(ZeroDivisionError):
        async with VaultTransitKms(vault.address, "anyseal", auth=TokenAuth(ROOT_TOKEN)):
            raise ZeroDivisionError
    with anyio.move_on_after(0.2) as scope:
        async with VaultTransitKms(vault.address, "anyseal", auth=TokenAuth(ROOT_TOKEN)):
            await anyio.sleep(30)
    assert scope.cancelled_caught


async def test_vault_expired_token_is_refused(vault: Vault) -> None:
    """A token that nobody renewed in time: final, and said so."""
    token = vault.token(ttl="3s")
    kms = VaultTransitKms(vault.address, "anyseal", auth=TokenAuth(token))
    await kms.wrap(system_key())
    await anyio.sleep(3.3)
    with pytest.raises(KmsError, match="permission denied") as caught:
        await kms.wrap(system_key())
    assert not caught.value.retryable
    assert token not in whole_chain(caught.value)
    await kms.aclose()


async def test_vault_logs_in_again_when_refused(vault: Vault) -> None:
    """The operator revoked the token: one login more, in one flight, and no error."""
    with Stub(lambda asked: None, vault.address) as stub:
        auth = AppRoleAuth(role_id=vault.role_id, secret_id=vault.secret_id())
        kms = VaultTransitKms(stub.url, "anyseal", auth=auth)
        wrapped = await kms.wrap(system_key())
        revoked = stub.asked[-1].headers["x-vault-token"]
        vault.api("POST", "auth/token/revoke", {"token": revoked})
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(kms.unwrap, wrapped)
        assert sum(asked.path.endswith("/login") for asked in stub.asked) == 2
        await kms.aclose()


async def test_vault_policy_denies(vault: Vault) -> None:
    """Another key than the policy allows: one more login, then the truth."""
    with Stub(lambda asked: None, vault.address) as stub:
        auth = AppRoleAuth(role_id=vault.role_id, secret_id=vault.secret_id())
        kms = VaultTransitKms(stub.url, "other", auth=auth)
        with pytest.raises(KmsError, match="permission denied") as caught:
            await kms.wrap(system_key())
        assert not caught.value.retryable
        assert sum(asked.path.endswith("/login") for asked in stub.asked) == 2
        await kms.aclose()


async def test_vault_tampered_and_foreign(vault: Vault) -> None:
    """What the engine refuses is final."""
    kms = VaultTransitKms(vault.address, "anyseal", auth=TokenAuth(ROOT_TOKEN))
    other = VaultTransitKms(vault.address, "other", auth=TokenAuth(ROOT_TOKEN))
    wrapped = await kms.wrap(system_key())
    head, _, body = wrapped.rpartition(b":")
    raw = bytearray(base64.b64decode(body))
    raw[-1] ^= 1
    bad = [
        head + b":" + base64.b64encode(raw),
        head + b":" + base64.b64encode(raw[:8]),
        wrapped.replace(b"v1", b"v999"),
        wrapped[:-1] + b"\n",
        wrapped[:8],
        b"vault:v1:" + b"A" * 50_000,
        await other.wrap(system_key()),
    ]
    for each in bad:
        with pytest.raises(KmsError) as caught:
            await kms.unwrap(each)
        assert not caught.value.retryable
    answer = vault.api("POST", "transit/encrypt/anyseal", {"plaintext": "AAAA"})
    with pytest.raises(KmsError, match="not a key"):
        await kms.unwrap(answer["data"]["ciphertext"].encode())
    await kms.aclose()
    await other.aclose()


async def test_vault_down_slow_cancelled(vault: Vault) -> None:
    """Typed and retryable; a cancelled login leaves the next caller free to log in."""
    with refused() as url:
        kms = VaultTransitKms(url, "anyseal", auth=TokenAuth("t"), attempts=2)
        with anyio.fail_after(60), pytest.raises(KmsError, match="ConnectError") as caught:
            await kms.wrap(system_key())
        assert caught.value.retryable
        await kms.aclose()
    hang = True

    def behave(asked: Asked) -> Answer | None:
        return stub.sleep() if hang else None

    with Stub(behave, vault.address) as stub:
        auth = AppRoleAuth(role_id=vault.role_id, secret_id=vault.secret_id())
        kms = VaultTransitKms(stub.url, "anyseal", auth=auth, timeout=2.5, attempts=1)
        with pytest.raises(KmsError, match=r"no answer in 2\.5 s") as caught:
            await kms.wrap(system_key())
        assert caught.value.retryable
        with anyio.move_on_after(0.1) as scope:
            await kms.wrap(system_key())
        assert scope.cancelled_caught
        hang = False
        assert await kms.unwrap(await kms.wrap(system_key())) == SYSTEM_KEY
        await kms.aclose()


@pytest.mark.parametrize(
    ("answer", "retryable"),
    [
        ((400, {"errors": ["encryption key not found"]}), False),
        ((404, {"errors": []}), False),
        ((412, {"errors": []}), True),
        ((429, {"errors": []}), True),
        ((503, {"errors": ["Vault is sealed"]}), True),
        ((307, {}), False),
        ((200, b"garbage"), True),
        ((200, b"[" * 100_000), True),
        ((200, b"[]"), True),
        ((200, {}), False),
        ((200, {"data": {"ciphertext": 7}}), False),
        ((200, {"data": {"ciphertext": "vault:v1:" + "A" * 100_000}}), False),
        ((200, b" " * 5_000_000), True),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_vault_answers_become_typed_errors(answer: Answer, retryable: bool) -> None:
    """Whatever stands between us and Vault, a proxy's page included, and in bounded memory."""

    def behave(asked: Asked) -> Answer:
        return answer if "/encrypt/" in asked.path else (200, {"data": {"ttl": 0}})

    with Stub(behave) as stub:
        kms = VaultTransitKms(stub.url, "anyseal", auth=TokenAuth("t"), attempts=1)
        with pytest.raises(KmsError) as caught:
            await kms.wrap(system_key())
        assert retryable == caught.value.retryable
        await kms.aclose()


async def test_vault_retries_what_may_go_away(vault: Vault) -> None:
    """A standby that takes over answers 503 for a moment."""

    def behave(asked: Asked) -> Answer | None:
        busy = "/encrypt/" in asked.path and len(stub.asked) < 4
        return (503, {"errors": []}) if busy else None

    with Stub(behave, vault.address) as stub:
        kms = VaultTransitKms(stub.url, "anyseal", auth=TokenAuth(ROOT_TOKEN))
        await kms.wrap(system_key())
        assert [asked.path.rpartition("/")[2] for asked in stub.asked] == [
            "lookup-self",
            "anyseal",
            "anyseal",
            "anyseal",
        ]
        await kms.aclose()


async def test_vault_secrets_reach_no_log_and_no_error(
    vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the token nor the key, at any level, whether it works or not."""
    caplog.set_level(logging.DEBUG)
    token = vault.token()
    auth = TokenAuth(token)
    kms = VaultTransitKms(vault.address, "anyseal", auth=auth, namespace=None)
    await kms.unwrap(await kms.wrap(system_key()))
    with Stub(lambda asked: (400, {"errors": [asked.body.decode()]})) as stub:
        broken = VaultTransitKms(stub.url, "anyseal", auth=auth, attempts=2)
        with pytest.raises(KmsError) as caught:
            await broken.wrap(system_key())
        assert not caught.value.retryable
        await broken.aclose()
    await kms.aclose()
    shown = "\n".join(f"{each.getMessage()} {each.args}" for each in caplog.records)
    shown += whole_chain(caught.value) + repr(kms) + repr(auth) + repr(kms._held)
    assert not secrets_in(shown)
    assert token not in shown


async def test_vault_sends_the_namespace_and_uses_a_given_client(vault: Vault) -> None:
    """A client of the caller's is used, and left open."""
    with Stub(lambda asked: None, vault.address) as stub:
        async with httpx.AsyncClient() as client:
            kms = VaultTransitKms(
                stub.url, "anyseal", auth=TokenAuth("t"), namespace="team/a", client=client
            )
            with pytest.raises(KmsError):
                await kms.wrap(system_key())
            await kms.aclose()
            assert not client.is_closed
        assert {"team/a"} == {asked.headers["x-vault-namespace"] for asked in stub.asked}


def test_vault_configuration_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake shows when the service starts; secrets are not quoted."""
    for name in list(os.environ):
        if name.startswith("VAULT_"):
            monkeypatch.delenv(name)
    token = TokenAuth("t")
    for address in (
        "vault:8200",
        "ftp://v",
        "http://",
        "https://u:p@v",
        "https://v?x",
        "http://[v",
    ):
        with pytest.raises(ConfigurationError, match="address"):
            VaultTransitKms(address, "k", auth=token)
    for name in ("", "../sys", "a b", "k?x", "k#x", "."):
        with pytest.raises(ConfigurationError, match="path"):
            VaultTransitKms("https://v", name, auth=token)
        with pytest.raises(ConfigurationError, match="path"):
            VaultTransitKms("https://v", "k", mount=name, auth=token)
    for secret in ("", "s3cr\u00e9t", "s3cr\nt"):
        with pytest.raises(ConfigurationError) as caught:
            TokenAuth(secret)
        assert "s3cr" not in str(caught.value)
    with pytest.raises(ConfigurationError):
        VaultTransitKms("https://v", "k")  # no VAULT_TOKEN
    with pytest.raises(ConfigurationError, match="brings its own"):
        VaultTransitKms("https://v", "k", auth=token, ca_file="ca.pem", client=httpx.AsyncClient())


def test_vault_plain_http_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    """Inside a service mesh it may be right; it must not go unseen."""
    VaultTransitKms("http://vault.internal:8200", "k", auth=TokenAuth("t"))
    assert "unencrypted" in caplog.text


async def test_vault_from_env(
    vault: Vault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The variables are the ones that other implementations read."""
    with pytest.raises(ConfigurationError, match="VAULT_ADDR"):
        VaultTransitKms.from_env()
    monkeypatch.setenv("VAULT_ADDR", vault.address + "/")
    monkeypatch.setenv("VAULT_TRANSIT_KEY", "anyseal")
    with pytest.raises(ConfigurationError, match="VAULT_TOKEN"):
        VaultTransitKms.from_env()
    monkeypatch.setenv("VAULT_TOKEN", vault.token())
    kms = VaultTransitKms.from_env()
    assert f"<VaultTransitKms {vault.address} transit/anyseal>" == repr(kms)
    assert await kms.unwrap(await kms.wrap(system_key())) == SYSTEM_KEY
    await kms.aclose()
    monkeypatch.setenv("VAULT_AUTH_METHOD", "aprole")
    with pytest.raises(ConfigurationError, match="did you mean 'approle'"):
        VaultTransitKms.from_env()
    monkeypatch.setenv("VAULT_AUTH_METHOD", "AppRole")
    monkeypatch.setenv("VAULT_APPROLE_ROLE_ID", vault.role_id)
    monkeypatch.setenv("VAULT_APPROLE_SECRET_ID", vault.secret_id())
    kms = VaultTransitKms.from_env()
    assert await kms.unwrap(await kms.wrap(system_key())) == SYSTEM_KEY
    await kms.aclose()
    monkeypatch.setenv("VAULT_AUTH_METHOD", "kubernetes")
    monkeypatch.setenv("VAULT_AUTH_ROLE", "service")
    monkeypatch.setenv("VAULT_K8S_TOKEN_PATH", str(tmp_path / "token"))
    kms = VaultTransitKms.from_env()
    expected = KubernetesAuth(role="service", token_path=str(tmp_path / "token"))
    assert expected == kms._auth
    monkeypatch.setenv("VAULT_AUTH_METHOD", "cert")
    monkeypatch.setenv("VAULT_CLIENT_CERT", "c.pem")
    monkeypatch.setenv("VAULT_CLIENT_KEY", "k.pem")
    cert = CertAuth(cert_file="c.pem", key_file="k.pem", role="service")
    assert cert == VaultTransitKms.from_env()._auth


FORKED = """
import os, sys, anyio
from anyseal.kms import TokenAuth, VaultTransitKms

kms = VaultTransitKms(sys.argv[1], "anyseal", auth=TokenAuth(sys.argv[2]))

async def round_trip():
    assert bytes(32) == await kms.unwrap(await kms.wrap(bytearray(32)))

async def main():
    await round_trip()  # and leave the connections open

anyio.run(main)
child = os.fork()
anyio.run(round_trip)
if not child:
    os._exit(0)
assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print("ok")
"""


def test_vault_survives_a_fork(vault: Vault) -> None:
    """A forked worker has clients of its own; the token serves on."""
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-c", FORKED, vault.address, vault.token()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "ok\n", done.stderr


def test_importing_the_package_imports_no_extra() -> None:
    """A service that uses no AWS must not need, nor load, its libraries."""
    import subprocess
    import sys

    code = (
        "import sys, anyseal.kms; anyseal.kms.StaticKms; "
        "print([m for m in ('aiobotocore', 'botocore', 'httpx', 'stamina') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
    import anyseal.kms

    names = [name for name in dir(anyseal.kms) if name.endswith(("Kms", "Auth"))]
    assert 9 == len([getattr(anyseal.kms, name) for name in names])
    with pytest.raises(AttributeError):
        _ = anyseal.kms.Nothing  # type: ignore[attr-defined]


DOCS = Path(__file__).parent.parent / "docs" / "kms.md"


@pytest.mark.parametrize(
    "block", re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL), ids=lambda code: ""
)
def test_documented_code_runs(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs no account is run to its end, the rest as far as its own functions."""
    namespace: dict[str, Any] = {"__name__": "documented"}
    exec(compile(block, str(DOCS), "exec"), namespace)
    assert callable(namespace["main"])


def test_documented_permissions_are_the_tested_ones() -> None:
    """The page must not drift from what moto's IAM was asked."""
    [policy] = re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert json.loads(policy)["Statement"][0]["Action"] == IAM_ACTIONS
    for line in VAULT_POLICY.strip().splitlines():
        assert line in DOCS.read_text()
