"""Rewrapping objects in a real S3 server: the key changes, the data stays where it is."""

from __future__ import annotations

import contextlib
from typing import Any

import anyio
import pytest

from anyseal import DecryptionError, FormatError, Key, StaticKeyring, WrongKeyError
from anyseal.errors import ObjectNotFoundError, PreconditionFailedError
from anyseal.s3 import rewrap as module
from anyseal.s3.put import PutCalls
from anyseal.s3.rewrap import RewrapCalls
from storage_servers import SeaweedFS, s3_client
from support import pattern
from test_s3_put import PART, Bucket, Interposed, off_loop, text

pytest_plugins = ["server_fixtures"]
pytestmark = pytest.mark.anyio


class Both(PutCalls, RewrapCalls):
    """What the tests need of a bucket."""


@pytest.fixture(scope="module")
def one_bucket(weed_server: SeaweedFS) -> Bucket:
    """One for all tests."""
    return Bucket(weed_server)


@pytest.fixture
def bucket(one_bucket: Bucket) -> Bucket:
    """An empty bucket."""
    for name in one_bucket.names():
        one_bucket.client.delete_object(Bucket=one_bucket.name, Key=name)
    return one_bucket


@pytest.fixture
def short_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several copied parts in a small object."""
    monkeypatch.setattr(module, "COPY_BYTES", PART)


@pytest.fixture
def rotated(keyring: StaticKeyring) -> tuple[StaticKeyring, StaticKeyring, StaticKeyring]:
    """A keyring before, while and after its master key is rotated."""
    before = StaticKeyring(pattern(32, "old master"))
    after = StaticKeyring(pattern(32, "master"))
    return before, keyring, after


SIZES = [0, 1, PART - 300_000, PART, PART + 1, 3 * PART + 7]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("short_copies")
async def test_rewrap_rotated_master(bucket: Bucket, rotated: Any, size: int) -> None:
    """After it the old master is not needed; data, context, metadata and type are as before."""
    before, both, after = rotated
    data = text(size)
    async with s3_client(bucket.url) as client:
        await Both(client, bucket.name, before, part_size=PART).put(
            "k",
            data,
            partition="ada",
            context=b"c",
            metadata={"colour": "red"},
            content_type="image/png",
        )
        sealed = Both(client, bucket.name, both)
        result = await sealed.rewrap("k", partition="ada")
        again = await sealed.rewrap("k", partition="ada")
        head = await client.head_object(Bucket=bucket.name, Key="k")
    assert data == await off_loop(bucket.read, "k", after, partition="ada", context=b"c")
    with pytest.raises(WrongKeyError):
        await off_loop(bucket.read, "k", before, partition="ada", context=b"c")
    key_id = (await after.current("ada")).key_id
    assert (True, False) == (result.changed, again.changed)
    assert (key_id, head["ETag"], result.etag) == (result.key_id, result.etag, again.etag)
    assert ("red", key_id.hex()) == (head["Metadata"]["colour"], head["Metadata"]["anyseal-key"])
    assert "image/png" == head["ContentType"]
    assert [] == await off_loop(bucket.uploads)


@pytest.mark.parametrize("size", [10, PART + 1])
async def test_rewrap_other_partition_and_keyring(
    bucket: Bucket, keyring: StaticKeyring, key: Key, size: int
) -> None:
    """An object can be handed to another partition, or to a Key."""
    data = text(size)
    async with s3_client(bucket.url) as client:
        sealed = Both(client, bucket.name, keyring, part_size=PART)
        await sealed.put("k", data, partition="ada")
        assert (await sealed.rewrap("k", partition="ada", to_partition="bob")).changed
        assert data == await off_loop(bucket.read, "k", keyring, partition="bob")
        with pytest.raises(WrongKeyError):
            await sealed.rewrap("k", partition="ada", to_partition="bob")
        assert (await sealed.rewrap("k", partition="bob", to_keyring=key)).changed
    assert data == await off_loop(bucket.read, "k", key)


async def test_rewrap_refuses(bucket: Bucket, keyring: StaticKeyring, key: Key) -> None:
    """What is no sealed object, or altered, stays as it is."""
    async with s3_client(bucket.url) as client:
        sealed = Both(client, bucket.name, keyring)
        await sealed.put("k", b"data", partition="ada")
        answer = await client.get_object(Bucket=bucket.name, Key="k")
        async with answer["Body"] as body:
            there = bytearray(await body.read())
        there[100] ^= 1
        for name, content in (("altered", bytes(there)), ("plain", b"plain"), ("empty", b"")):
            await client.put_object(Bucket=bucket.name, Key=name, Body=content)
        for name, error in (
            ("altered", DecryptionError),
            ("plain", FormatError),
            ("empty", FormatError),
            ("missing", ObjectNotFoundError),
        ):
            with pytest.raises(error):
                await sealed.rewrap(name, partition="ada", to_partition="bob")
        with pytest.raises(TypeError):
            await sealed.rewrap("k")
        with pytest.raises(TypeError):
            await sealed.rewrap("k", partition="ada", to_keyring=key, to_partition="bob")
    assert (
        b"plain"
        == (await off_loop(bucket.client.get_object, Bucket=bucket.name, Key="plain"))[
            "Body"
        ].read()
    )


@pytest.mark.parametrize("size", [10, PART + 1])
async def test_rewrap_loses_to_a_writer(bucket: Bucket, keyring: StaticKeyring, size: int) -> None:
    """Who writes the object meanwhile wins: rewrap must not bring the old version back."""
    async with s3_client(bucket.url) as client:
        writer = Both(client, bucket.name, keyring, part_size=PART)
        await writer.put("k", text(size), partition="ada")

        def act(number: int, name: str) -> Any:
            async def write(_: Any) -> None:
                await writer.put("k", b"newer", partition="ada")

            last = name in ("complete_multipart_upload", "put_object")
            return write if last else None

        late = Both(Interposed(client, act), bucket.name, keyring)
        with pytest.raises(PreconditionFailedError):
            await late.rewrap("k", partition="ada", to_partition="bob")
    assert b"newer" == await off_loop(bucket.read, "k", keyring, partition="ada")
    assert [] == await off_loop(bucket.uploads)


@pytest.mark.usefixtures("short_copies")
async def test_rewrap_cancelled_at_every_call(bucket: Bucket, keyring: StaticKeyring) -> None:
    """The object is always whole, under the one key or the other, and no upload is left."""
    data = text(2 * PART + 1)
    async with s3_client(bucket.url) as client:
        for at in range(1, 9):
            await Both(client, bucket.name, keyring, part_size=PART).put("k", data, partition="ada")
            with anyio.CancelScope() as scope:

                def act(number: int, name: str, at: int = at, scope: Any = scope) -> None:
                    if number == at:
                        scope.cancel()

                wrapped = Interposed(client, act)
                await Both(wrapped, bucket.name, keyring).rewrap(
                    "k", partition="ada", to_partition="bob"
                )
            owner = "bob" if "complete_multipart_upload" in wrapped.calls else "ada"
            assert data == await off_loop(bucket.read, "k", keyring, partition=owner)
            assert [] == await off_loop(bucket.uploads)
            with contextlib.suppress(WrongKeyError):
                other = "ada" if owner == "bob" else "bob"
                await off_loop(bucket.read, "k", keyring, partition=other)
                pytest.fail("opens for both")
