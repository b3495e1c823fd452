"""Credentials that another process renews while a client is open: the next call must find them.

A service that runs for weeks reads a file that an agent rewrites every hour.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from anyseal import Key, sync
from anyseal.errors import AnysealError
from anyseal.kms import AwsKms, SecretsManagerKms
from anyseal.metastore import DynamoDbMetastore
from anyseal.s3 import SealedBucket, connect
from kms_servers import Aws
from s3_proxy import Act, Request, S3Proxy

pytest_plugins = ["kms_servers"]
pytestmark = pytest.mark.anyio

REGION = "us-east-1"
CODES = [
    (400, "ExpiredToken"),
    (400, "ExpiredTokenException"),
    (400, "RequestExpired"),
    (400, "UnrecognizedClientException"),
    (403, "InvalidClientTokenId"),
    (403, "InvalidAccessKeyId"),
    (403, "SignatureDoesNotMatch"),
    (400, "InvalidSignatureException"),
]


@dataclass
class Place:
    """AWS behind a proxy that accepts one access key, and the file that says which it is."""

    aws: Aws
    proxy: S3Proxy
    file: Path
    accepted: str = "first"

    def write(self, access_key: str) -> None:
        """As an agent does it."""
        self.file.write_text(
            f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = secret\n"
            "aws_session_token = token\n"
        )

    def refuse_others(self, status: int, code: str) -> None:
        """Have every request that another key signed refused."""

        def behave(request: Request) -> Act:
            return None if request.access_key == self.accepted else (status, code)

        self.proxy.behave = behave


@pytest.fixture(params=[("asyncio", {}), ("trio", {})], ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The two transports."""
    return request.param


@pytest.fixture
def place(aws: Aws, aws_environment: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """With credentials in the shared file only."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with S3Proxy(aws.url) as proxy:
        found = Place(aws, proxy, aws_environment / "credentials")
        found.write("first")
        yield found


@contextlib.asynccontextmanager
async def kms(place: Place, **given: Any) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    async with AwsKms(
        {REGION: place.aws.arns[REGION]}, endpoint_url=place.proxy.url, attempts=1, **given
    ) as made:
        yield lambda: made.wrap(bytearray(32))


@contextlib.asynccontextmanager
async def secrets(place: Place, **given: Any) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    async with SecretsManagerKms(
        "no-such-secret", region=REGION, endpoint_url=place.proxy.url, attempts=1, **given
    ) as made:

        async def call() -> None:
            with pytest.raises(AnysealError) as caught:
                await made.wrap(bytearray(32))
            if "ResourceNotFound" not in str(caught.value):  # so far it comes if it may
                raise caught.value

        yield call


@contextlib.asynccontextmanager
async def dynamodb(place: Place, **given: Any) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    given = {"region": REGION, "endpoint_url": place.proxy.url, **given}
    if "client" in given:
        given = {"client": given["client"]}
    made = DynamoDbMetastore(attempts=1, table="credentials", **given)
    try:
        yield made.create_table
    finally:
        await made.aclose()


@contextlib.asynccontextmanager
async def s3(place: Place, **given: Any) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    place.aws.client("s3", aws_access_key_id="a", aws_secret_access_key="b").create_bucket(
        Bucket="credentials"
    )
    async with contextlib.AsyncExitStack() as stack:
        client = given.get("client") or await stack.enter_async_context(
            connect(region=REGION, endpoint_url=place.proxy.url)
        )
        with Key.from_bytes(bytes(32)) as key:
            yield functools.partial(round_trip, SealedBucket(client, "credentials", key))


async def round_trip(bucket: SealedBucket) -> None:
    """With HEAD, PUT and GET, the HEAD first."""
    await bucket._calls.exists("k")
    await bucket.put("k", b"data")
    assert b"data" == await bucket.get("k")


SERVICES = {"kms": kms, "secretsmanager": secrets, "dynamodb": dynamodb, "s3": s3}


@pytest.mark.parametrize("service", SERVICES)
async def test_credentials_that_another_process_renewed_are_read_again(
    place: Place, service: str, anyio_backend_name: str
) -> None:
    """Whatever the service calls it, and not only once."""
    codes = CODES if service in ("kms", "s3") and anyio_backend_name == "asyncio" else CODES[:1]
    place.refuse_others(*CODES[0])
    async with SERVICES[service](place) as call:
        await call()
        for number, (status, code) in enumerate(codes):
            place.accepted = f"key{number}"
            place.refuse_others(status, code)
            with pytest.raises(
                AnysealError, match=rf"{code}.*renew them|credentials have ended"
            ) as caught:
                await call()
            assert not getattr(caught.value, "retryable", False)
            place.write(place.accepted)
            await call()


@pytest.mark.parametrize("service", SERVICES)
async def test_credentials_are_renewed_once_for_concurrent_calls(
    place: Place, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A burst of calls must not ask a credentials server a thousand times."""
    from anyseal.aws.credentials import Credentials

    reads: list[object] = []
    find = Credentials._find

    async def counted(self: Credentials) -> Any:
        reads.append(self)
        await anyio.sleep(0.05)
        return await find(self)

    monkeypatch.setattr(Credentials, "_find", counted)
    async with SERVICES[service](place) as call:
        await call()
        place.accepted = "second"
        place.refuse_others(400, "ExpiredTokenException")
        place.write("second")
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(call)
    assert 1 == len(reads)


@pytest.mark.parametrize("content", ["", "[default]\naws_access_key_id = second\n", "[defa"])
async def test_credentials_file_that_is_half_written_is_read_by_the_next_call(
    place: Place, content: str
) -> None:
    """An agent may write it in two steps: that is no end of the client either."""
    async with kms(place) as call:
        await call()
        place.accepted = "second"
        place.refuse_others(400, "ExpiredTokenException")
        place.file.write_text(content)
        with pytest.raises(AnysealError, match="ExpiredTokenException"):
            await call()
        place.write("second")
        await call()


@pytest.mark.parametrize("service", ["dynamodb", "s3"])
async def test_credentials_of_a_given_client_are_its_owners(place: Place, service: str) -> None:
    """Nothing of it is replaced; the error says whose task it is."""
    from aiobotocore.session import AioSession

    from anyseal.aws.credentials import preload
    from anyseal.kms._botocore import AwsClients

    config = AwsClients("s3", endpoint_url=None, profile=None, session=None, timeout=5)._config()
    session = AioSession()
    await anyio.to_thread.run_sync(preload, session)
    made = session.create_client(
        service, region_name=REGION, endpoint_url=place.proxy.url, config=config
    )
    async with made as client, SERVICES[service](place, client=client) as call:
        await call()
        place.accepted = "second"
        place.refuse_others(400, "ExpiredToken")
        place.write("second")
        told = r"ExpiredToken.*client was given|credentials have ended"
        with pytest.raises(AnysealError, match=told):
            await call()


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("service", ["kms", "secretsmanager", "dynamodb"])
async def test_credentials_of_a_given_session_are_found_where_it_found_them(
    place: Place, service: str, explicit: bool
) -> None:
    """Those that its owner set on it are never replaced by others."""
    from aiobotocore.session import AioSession

    session = AioSession()
    if explicit:
        session.set_credentials("first", "secret")
    async with SERVICES[service](place, session=session) as call:
        await call()
        place.accepted = "second"
        place.refuse_others(400, "ExpiredTokenException")
        place.write("second")
        if explicit:
            with pytest.raises(AnysealError, match=r"ExpiredTokenException.*given"):
                await call()
        else:
            await call()


def test_credentials_are_read_again_by_the_sync_side(place: Place) -> None:
    """It runs the same calls in an event loop of its own."""
    place.aws.client("s3", aws_access_key_id="a", aws_secret_access_key="b").create_bucket(
        Bucket="credentials"
    )
    with (
        Key.from_bytes(bytes(32)) as key,
        sync.SealedBucket.connect(
            "credentials", key, region=REGION, endpoint_url=place.proxy.url
        ) as bucket,
    ):
        bucket.put("k", b"data")
        place.accepted = "second"
        place.refuse_others(400, "ExpiredToken")
        place.write("second")
        assert b"data" == bucket.get("k")
