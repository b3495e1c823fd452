"""The S3 calls by themselves: how long they are patient, and what their errors say."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError

from anyseal import ObjectNotFoundError, SourceError, StaticKeyring
from anyseal.errors import ConfigurationError
from anyseal.s3 import SealedBucket
from anyseal.s3.calls import Calls
from anyseal.s3.multipart import Upload
from storage_servers import SeaweedFS, s3_client

pytest_plugins = ["server_fixtures"]


class Busy:
    """A client of a server that says SlowDown until the clock is at *until* seconds."""

    meta = None

    def __init__(self, until: float) -> None:
        self.until = until
        self.asked: list[float] = []

    async def delete_object(self, **parameters: Any) -> dict[str, Any]:
        self.asked.append(trio.current_time())
        if trio.current_time() < self.until:
            raise ClientError({"Error": {"Code": "SlowDown"}}, "DeleteObject")
        return {}


def ask(client: Busy, **settings: Any) -> None:
    """One call, on a clock that does not wait."""

    async def main() -> None:
        client.until += trio.current_time()
        client.asked.append(trio.current_time())
        await Calls(client, "bucket", **settings).delete("k")

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_calls_outlast_a_restart() -> None:
    """A server that restarts, or is too busy, for ten seconds fails no upload of an hour."""
    client = Busy(until=10)
    ask(client)
    assert len(client.asked) > 4


def test_calls_give_up_in_the_end() -> None:
    """After about as long as AWS's own clients; the first attempts follow fast."""
    client = Busy(until=1000)
    with pytest.raises(SourceError):
        ask(client)
    began, first, *others, last = client.asked
    assert began == first
    assert 10 < last - began < 15
    assert others[0] - began < 0.4


def test_calls_give_up_as_soon_as_they_are_told() -> None:
    """With few attempts an outage shows soon."""
    client = Busy(until=1000)
    with pytest.raises(SourceError):
        ask(client, attempts=2)
    assert client.asked[-1] - client.asked[0] < 0.4


@pytest.mark.anyio
@pytest.mark.parametrize(
    "error",
    [
        NoCredentialsError(),
        PartialCredentialsError(provider="env", cred_var="aws_secret_access_key"),
    ],
    ids=["none", "half"],
)
async def test_calls_without_credentials_are_not_set_up(error: Exception) -> None:
    """It is the program's configuration that is at fault, not S3; and trying again is no use."""

    class Client:
        meta = None

        async def delete_object(self, **parameters: Any) -> dict[str, Any]:
            raise error

    with pytest.raises(ConfigurationError, match=r"delete_object bucket/k: .*credentials"):
        await Calls(Client(), "bucket").delete("k")


@pytest.mark.anyio
async def test_head_says_that_the_bucket_is_missing(
    weed_server: SeaweedFS, keyring: StaticKeyring
) -> None:
    """The answer to a HEAD has no body: people would look for the object."""
    name = weed_server.new_bucket()
    async with s3_client(weed_server.url) as client:
        there = SealedBucket(client, name, keyring)
        missing = SealedBucket(client, "no-such-bucket", keyring)
        for bucket, other in ((missing, "no-such-bucket"), (there, "no-such-bucket")):
            with pytest.raises(SourceError, match="no-such-bucket/k: NoSuchBucket") as caught:
                await bucket.copy("k", "copy", source_bucket=other)
            assert not isinstance(caught.value, ObjectNotFoundError)
            assert not caught.value.retryable
        with pytest.raises(SourceError, match="no-such-bucket/k: NoSuchBucket"):
            await missing.copy("k", "copy", reseal=True, partition="t")
        with pytest.raises(SourceError, match="no-such-bucket/k: NoSuchBucket"):
            await missing.rewrap("k", partition="t")
        for call in (there.copy("k", "copy"), there.rewrap("k", partition="t")):
            with pytest.raises(ObjectNotFoundError):
                await call


@pytest.mark.anyio
async def test_head_of_a_bucket_that_may_not_be_looked_at() -> None:
    """Then it is there, and the object is not: S3 says 403 to who has no right to list it."""

    class Client:
        meta = None

        async def head_object(self, **parameters: Any) -> dict[str, Any]:
            raise ClientError({"Error": {"Code": "404"}}, "HeadObject")

        async def head_bucket(self, **parameters: Any) -> dict[str, Any]:
            raise ClientError({"Error": {"Code": "403"}}, "HeadBucket")

    with pytest.raises(ObjectNotFoundError):
        await Calls(Client(), "bucket").head("k")
    assert not await Calls(Client(), "bucket").exists("k")


@pytest.mark.anyio
async def test_range_of_a_folder_is_not_asked_for_again(
    weed_server: SeaweedFS, keyring: StaticKeyring
) -> None:
    """SeaweedFS takes an object whose key ends in a slash for a folder, and answers no range of it:
    that does not go away."""
    async with s3_client(weed_server.url) as client:
        bucket = SealedBucket(client, weed_server.new_bucket(), keyring)
        await bucket.put("folder/", b"data", partition="t")
        with pytest.raises(SourceError, match="Content-Range") as caught:
            await bucket.get("folder/", partition="t")
    assert not caught.value.retryable


def test_aborting_does_not_outlast_the_calls_again() -> None:
    """A put that failed on a dead server has waited for it long enough."""

    class Dead:
        meta = None
        asked = 0

        async def create_multipart_upload(self, **parameters: Any) -> dict[str, Any]:
            return {"UploadId": "u"}

        async def abort_multipart_upload(self, **parameters: Any) -> dict[str, Any]:
            self.asked += 1
            raise ClientError({"Error": {"Code": "SlowDown"}}, "AbortMultipartUpload")

    client, waited = Dead(), []

    async def main() -> None:
        upload = Upload(Calls(client, "bucket"), "k", 1)
        await upload.begin()
        began = trio.current_time()
        await upload.abort()
        waited.append(trio.current_time() - began)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert 5 == client.asked
    assert waited[0] < 3
