"""The S3 calls by themselves: how long they are patient, and what their errors say."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError

from anyseal import ObjectNotFoundError, SourceError, StaticKeyring
from anyseal.errors import ConfigurationError
from anyseal.s3 import SealedBucket
from anyseal.s3.arguments import conditions
from anyseal.s3.body import Body
from anyseal.s3.calls import Calls, Ranged
from anyseal.s3.multipart import Upload
from anyseal.s3.source import S3Source
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


class Dying:
    """A server that answers the first request of a connection, and dies in the second."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self._listener.accept()[0]
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(0.05)
        with connection, contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            head = connection.recv(65536)
            self.heads.append(head)
            if head.startswith(b"GET"):
                connection.sendall(b"HTTP/1.1 206 OK\r\nContent-Length: 100000\r\n\r\nhalf")
            elif head.startswith(b"DELETE"):  # an answer; the connection is lost with the next one
                connection.sendall(b"HTTP/1.1 204 OK\r\n\r\n")
            else:
                connection.recv(65536)

    def __enter__(self) -> Dying:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.close()


async def cancelled(calls: Calls) -> None:
    """A put of a task that is cancelled while the server dies."""

    async def put() -> None:
        with contextlib.suppress(SourceError):
            await calls.put("k", b"x" * (4 << 20))

    async with anyio.create_task_group() as group:
        group.start_soon(put)
        await anyio.sleep(0.005)
        group.cancel_scope.cancel()


DYING: dict[str, Callable[[Calls], Awaitable[object]]] = {
    "put": lambda calls: calls.put("k", b"x" * (4 << 20)),
    "small put": lambda calls: calls.put("k", b"x"),
    "empty put": lambda calls: calls.put("k", Body(())),
    "part": lambda calls: calls.upload_part("k", "u", 1, b"x" * (4 << 20)),
    "completion": lambda calls: calls.complete_upload("k", "u", ["etag"] * 1000),
    "get": lambda calls: calls.get_range("k", "0-99999", limit=100_000),
    "cancelled": cancelled,
}


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize("name", DYING)
async def test_calls_end_quietly_when_the_server_dies(name: str, anyio_backend_name: str) -> None:
    """The caller gets the error; a line "Task exception was never retrieved" tells it nothing.

    aiohttp asks for leave to send a body in a task of its own, if it is told to ask.
    """
    unheard: list[dict[str, Any]] = []
    if anyio_backend_name == "asyncio":
        asyncio.get_running_loop().set_exception_handler(lambda _, told: unheard.append(told))
    with Dying() as server:
        async with s3_client(server.url, read_timeout=5) as client:
            calls = Calls(client, "bucket", attempts=1)
            for _ in range(5):
                await calls.delete("k")
                with contextlib.suppress(SourceError):
                    await DYING[name](calls)
            gc.collect()
            await anyio.sleep(0)
            gc.collect()
    assert [] == unheard
    assert not any(b"100-continue" in head for head in server.heads)


@pytest.mark.anyio
@pytest.mark.parametrize("first", [0, 1000])
@pytest.mark.parametrize(("etag", "told"), [('W/"v1"', "only a weak one"), ("", "but none")])
async def test_source_without_a_strong_tag_says_what_to_do(
    first: int, etag: str, told: str
) -> None:
    """Of a store behind a proxy; asked before anything else, since If-Match never holds then."""

    class Weak:
        bucket = "bucket"

        async def get_range(self, key: str, wanted: str, **_: Any) -> Ranged:
            return Ranged(bytes(50), 0, 100, etag)

    with pytest.raises(SourceError, match=rf"no strong entity tag .*{told}.*served") as caught:
        await S3Source(Weak(), "k", first=first).ends(50, 50)  # type: ignore[arg-type]
    assert not caught.value.retryable
    with pytest.raises(ValueError, match="weak"):
        conditions(False, 'W/"v1"')


class Refusing(threading.Thread):
    """An S3 that says 403 as soon as it has read the head, and takes no body."""

    BODY = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"

    def __init__(self, lingers: bool) -> None:
        super().__init__(daemon=True)
        self._lingers = lingers
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                with self._listening.accept()[0] as peer, contextlib.suppress(OSError):
                    head = b""
                    while b"\r\n\r\n" not in head:
                        head += peer.recv(1 << 16)
                    peer.sendall(
                        b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\n"
                        b"Connection: close\r\nContent-Length: %d\r\n\r\n"
                        % len(self.BODY)
                        + self.BODY
                    )
                    if self._lingers:
                        peer.shutdown(socket.SHUT_WR)
                        while peer.recv(1 << 16):
                            pass

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize("lingers", [True, False])
@pytest.mark.parametrize("size", [1, 4 << 20])
async def test_put_that_is_refused_before_its_body_says_so(size: int, lingers: bool) -> None:
    """Without ``Expect: 100-continue``, which would cost each put a round trip, the body is under
    way when the answer comes: what the server said must be told, not that it closed the connection.

    One that closes without reading on, as no server should (RFC 9112, section 9.6), may reset the
    connection before the client looks for an answer. That is tried again.
    """
    server = Refusing(lingers)
    try:
        async with s3_client(server.url, read_timeout=5) as client:
            calls = Calls(client, "bucket", attempts=1 if lingers else 8)
            for _ in range(3 if lingers else 1):
                with pytest.raises(SourceError, match="AccessDenied"):
                    await calls.put("k", Body((bytes(size),)))
                with pytest.raises(SourceError, match="AccessDenied"):
                    await calls.upload_part("k", "u", 1, Body((bytes(size),)))
    finally:
        server.close()
