"""Multipart uploads by workers that share nothing, on a real server."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import anyseal.value
import reference as ref
from anyseal import (
    ConfigurationError,
    DecryptionError,
    ExpiredError,
    FormatError,
    Key,
    PartReplacedError,
    SourceError,
    StaticKeyring,
    Suite,
    UploadError,
    UploadIncompleteError,
    UploadNotFoundError,
    WrongKeyError,
)
from anyseal.s3.uploads import UploadCalls
from servers import Moto
from storage_servers import SeaweedFS, s3_client
from support import Stream, a_key, flips, in_turn, open_by_pipe, open_by_range, pattern

pytest_plugins = ["server_fixtures"]
pytestmark = pytest.mark.anyio

MIB = 1 << 20
PART = 5 * MIB
MARK = pattern(32, "this must not reach the disk")
PLAIN = (MARK + pattern((1 << 16) - 32)) * 176  # 11 MiB
CONTEXT = b"context"
Receipts = dict[int, str]


_buckets = itertools.count()


def new_bucket(server: Any) -> str:
    """The name of a bucket that is empty."""
    name = f"uploads-{next(_buckets)}"
    blocking(server).create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="module")
def one_bucket(weed_server: SeaweedFS) -> str:
    """One for all tests: SeaweedFS reserves room for each, and runs out of it."""
    return new_bucket(weed_server)


@pytest.fixture
def name(weed_server: SeaweedFS, one_bucket: str) -> str:
    """An empty bucket."""
    client = blocking(weed_server)
    client.delete_object(Bucket=one_bucket, Key="a/key")
    for upload_id in uploads(weed_server, one_bucket):
        client.abort_multipart_upload(Bucket=one_bucket, Key="a/key", UploadId=upload_id)
    return one_bucket


@contextlib.asynccontextmanager
async def opened(url: str, name: str, key: Any, **settings: Any) -> AsyncIterator[UploadCalls]:
    """The calls of one worker."""
    async with s3_client(url) as client:
        yield UploadCalls(client, name, key, part_size=PART, **settings)


async def begin(bucket: UploadCalls, size: int, **settings: Any) -> str:
    """An upload of *size* bytes."""
    return await bucket.create_upload("a/key", size=size, context=CONTEXT, **settings)


async def upload(
    bucket: UploadCalls, token: str, plain: bytes = PLAIN, **settings: Any
) -> Receipts:
    """All parts of *plain*, in random order, from several tasks."""
    plan, receipts = await bucket.part_plan(token), Receipts()

    async def send(number: int) -> None:
        part = plan.part(number)
        data = memoryview(plain)[part.start : part.stop]
        receipts[number] = await bucket.upload_part(token, number, data)

    numbers = list(range(1, len(plan) + 1))
    random.shuffle(numbers)
    async with anyio.create_task_group() as group:
        for number in numbers:
            group.start_soon(send, number)
    return receipts


@functools.cache
def blocking(server: Any) -> Any:
    """A blocking client of a server; making one takes half a second."""
    return server.client() if isinstance(server, SeaweedFS) else server.client("s3", "us-east-1")


def stored(server: Any, name: str) -> bytes | None:
    """The object as it is in the bucket; None if there is none."""
    client = blocking(server)
    try:
        body: bytes = client.get_object(Bucket=name, Key="a/key")["Body"].read()
    except client.exceptions.NoSuchKey:
        return None
    return body


def uploads(server: SeaweedFS, name: str) -> list[str]:
    """The multipart uploads that are under way."""
    found = blocking(server).list_multipart_uploads(Bucket=name).get("Uploads", [])
    return [one["UploadId"] for one in found]


async def open_whole(sealed: bytes | None, key: Any, **where: Any) -> bytes:
    """The plaintext of what is in the bucket; in a thread, because it blocks."""
    assert sealed is not None
    call = functools.partial(open_by_range, sealed, key, context=CONTEXT, **where)
    return await anyio.to_thread.run_sync(call)


class Meddler:
    """A client whose calls a test counts, and may do something before or after."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.calls: list[str] = []
        self.before: Callable[[int, str], Any] = lambda number, operation: None
        self.after: Callable[[int, str], Any] = lambda number, operation: None

    def __getattr__(self, operation: str) -> Any:
        method = getattr(self._client, operation)

        async def call(**parameters: Any) -> Any:
            number = len(self.calls)
            self.calls.append(operation)
            meddling = self.before(number, operation)
            if meddling is not None:
                await meddling
            await anyio.lowlevel.checkpoint()
            answer = await method(**parameters)
            self.after(number, operation)
            await anyio.lowlevel.checkpoint()
            return answer

        return call


def unclear(*_: Any) -> None:
    """The connection ends before the answer."""
    raise ConnectionResetError


# ---- What works ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 2 * PART - 1, 2 * PART, len(PLAIN)])
async def test_upload_is_one_sealed_object(weed_server: SeaweedFS, name: str, size: int) -> None:
    """Of no part, of one, of two and more; and nothing is there before it is complete."""
    plain, key = PLAIN[:size], a_key()
    async with opened(weed_server.url, name, key) as bucket:
        token = await begin(bucket, size, metadata={"Colour": "red"})
        plan = await bucket.part_plan(token)
        assert [0, *(part.stop for part in plan)] == [*(part.start for part in plan), size]
        receipts = await upload(bucket, token, plain)
        assert stored(weed_server, name) is None
        assert [] == await bucket.resume(token, receipts.values())
        done = await bucket.complete_upload(token, receipts.values())
    sealed = stored(weed_server, name)
    assert sealed is not None
    assert (size, len(sealed)) == (done.size, done.sealed_size)
    assert plain == await open_whole(sealed, key)
    head = blocking(weed_server).head_object(Bucket=name, Key="a/key")
    assert done.etag == head["ETag"]
    expected = {"colour": "red", "anyseal-key": key.id, "anyseal-suite": Suite(sealed[8]).name}
    assert expected == head["Metadata"]
    assert [] == uploads(weed_server, name)


async def test_part_is_read_from_a_stream(
    weed_server: SeaweedFS, name: str, suite: Suite, key: Key
) -> None:
    """As it comes out of a request, whatever the sizes of its pieces."""
    async with opened(weed_server.url, name, key, suite=suite) as bucket:
        token = await begin(bucket, len(PLAIN))
        plan, receipts = await bucket.part_plan(token), []
        for part, step in zip(plan, (70_001, 3 * MIB), strict=True):
            data = Stream(PLAIN[part.start : part.stop], step)
            receipts.append(await bucket.upload_part(token, part.number, data))
        await bucket.complete_upload(token, receipts)
    sealed = stored(weed_server, name)
    assert sealed is not None
    assert suite == sealed[8]
    assert PLAIN == open_by_pipe(sealed, key, piece=1 << 20, context=CONTEXT)


async def test_upload_is_bound_to_its_place(weed_server: SeaweedFS, name: str, key: Key) -> None:
    """With ``bind_location`` the object opens only with bucket and key in its context."""
    async with opened(weed_server.url, name, key, bind_location=True) as bucket:
        token = await begin(bucket, 3)
        await bucket.complete_upload(token, [await bucket.upload_part(token, 1, b"abc")])
        context = bucket._context("a/key", CONTEXT)
    sealed = stored(weed_server, name) or b""
    with pytest.raises(DecryptionError):
        await open_whole(sealed, key)
    assert b"abc" == open_by_range(sealed, key, context=context)


async def test_upload_goes_on_with_another_worker_and_a_rotated_key(
    weed_server: SeaweedFS, name: str
) -> None:
    """A deployment or a rotation in the middle of an upload must not end it."""
    old = StaticKeyring(pattern(32, "old"))
    new = StaticKeyring(pattern(32, "new"), [pattern(32, "old")])
    async with opened(weed_server.url, name, old) as bucket:
        token = await begin(bucket, 3, partition="a")
    async with opened(weed_server.url, name, new) as bucket:
        receipt = await bucket.upload_part(token, 1, b"abc", partition="a")
    async with opened(weed_server.url, name, old) as bucket:
        await bucket.complete_upload(token, [receipt], partition="a")
    sealed = stored(weed_server, name) or b""
    assert b"abc" == await open_whole(sealed, new, partition="a")


# ---- Several workers, one part -------------------------------------------------------------


@pytest.mark.parametrize("given", ["first", "second", "both"])
async def test_late_duplicate_of_a_part_is_never_mixed_in(
    weed_server: SeaweedFS, moto_server: Moto, name: str, given: str, key: Key
) -> None:
    """Two workers seal one part with different bytes: one of the two is in the object, whole.

    SeaweedFS keeps both for the one who names its entity tag; others keep the last.
    """
    first, second = pattern(100, "first"), pattern(100, "second")
    for server, where in ((weed_server, name), (moto_server, new_bucket(moto_server))):
        async with opened(server.url, where, key) as bucket:
            token = await begin(bucket, 100)
            one = await bucket.upload_part(token, 1, first)
            two = await bucket.upload_part(token, 1, second)
            receipts = {"first": [one], "second": [two], "both": [one, two]}[given]
            if server is moto_server and given == "first":
                assert [1] == await bucket.resume(token, receipts)
                with pytest.raises(PartReplacedError) as caught:
                    await bucket.complete_upload(token, receipts)
                assert 1 == caught.value.part
                assert stored(server, where) is None
                receipts.append(await bucket.upload_part(token, 1, first))
            await bucket.complete_upload(token, receipts)
        found = await open_whole(stored(server, where), key)
        assert found in {"first": [first], "second": [second], "both": [first, second]}[given]
        if server is moto_server:
            assert {"first": first}.get(given, second) == found


async def test_part_replaced_after_the_listing_is_noticed(moto_server: Moto, key: Key) -> None:
    """The listing is a look at the past: what counts is the entity tags at completion."""
    async with s3_client(moto_server.url) as client:
        meddler = Meddler(client)
        bucket = UploadCalls(meddler, new_bucket(moto_server), key, part_size=PART)
        token = await begin(bucket, 3)
        receipt = await bucket.upload_part(token, 1, b"abc")

        async def replace(number: int, operation: str) -> None:
            if operation == "complete_multipart_upload":
                listed = await client.list_multipart_uploads(Bucket=bucket.bucket)
                upload_id = listed["Uploads"][0]["UploadId"]
                where = {"Bucket": bucket.bucket, "Key": "a/key", "UploadId": upload_id}
                await client.upload_part(**where, PartNumber=1, Body=b"other")

        meddler.before = replace
        with pytest.raises(PartReplacedError) as caught:
            await bucket.complete_upload(token, [receipt])
    assert 1 == caught.value.part
    assert stored(moto_server, bucket.bucket) is None


# ---- Completing again, at once, without an answer ------------------------------------------


@pytest.mark.parametrize("size", [0, 3, len(PLAIN)])
async def test_complete_again_and_at_once_is_the_same_object(
    weed_server: SeaweedFS,
    name: str,
    size: int,
    key: Key,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Clients press the button twice, and load balancers send a request again."""
    async with opened(weed_server.url, name, key) as bucket:
        token = await begin(bucket, size)
        receipts = await upload(bucket, token, PLAIN[:size])
        results = []

        async def complete() -> None:
            results.append(await bucket.complete_upload(token, receipts.values()))

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(complete)
        await complete()
        assert [results[0]] * 4 == results
        sealed = stored(weed_server, name) or b""
        assert PLAIN[:size] == await open_whole(sealed, key)
        await bucket.abort_upload(token)
        assert sealed == stored(weed_server, name)
        monkeypatch.setattr("anyseal.s3.completion._GONE_PAUSES", (0.0,))
        await bucket._calls.put("a/key", b"something newer")
        with pytest.raises(UploadNotFoundError):
            await bucket.complete_upload(token, receipts.values())
    assert b"something newer" == stored(weed_server, name)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_complete_without_a_clear_answer_finds_out(
    weed_server: SeaweedFS, name: str, when: str, key: Key
) -> None:
    """The connection ended: whether the object is there is for the bucket to say."""
    async with s3_client(weed_server.url) as client:
        meddler = Meddler(client)
        bucket = UploadCalls(meddler, name, key)
        token = await begin(bucket, 3)
        receipt = await bucket.upload_part(token, 1, b"abc")
        cut = 0

        def once(number: int, operation: str) -> None:
            nonlocal cut
            if operation == "complete_multipart_upload" and not cut:
                cut += 1
                unclear()

        setattr(meddler, when, once)
        done = await bucket.complete_upload(token, [receipt])
    assert 1 == cut
    expected = 1 if when == "after" else 2
    assert expected == meddler.calls.count("complete_multipart_upload")
    sealed = stored(weed_server, name) or b""
    assert done.sealed_size == len(sealed)
    assert b"abc" == await open_whole(sealed, key)


async def test_complete_that_never_gets_an_answer_is_an_error(
    weed_server: SeaweedFS, name: str, key: Key
) -> None:
    """And can be called again later."""
    async with s3_client(weed_server.url) as client:
        meddler = Meddler(client)
        bucket = UploadCalls(meddler, name, key, attempts=2)
        token = await begin(bucket, 3)
        receipt = await bucket.upload_part(token, 1, b"abc")
        meddler.before = lambda number, operation: (
            unclear() if operation == "complete_multipart_upload" else None
        )
        with pytest.raises(SourceError) as caught:
            await bucket.complete_upload(token, [receipt])
        assert caught.value.retryable
        assert stored(weed_server, name) is None
        meddler.before = lambda number, operation: None
        await bucket.complete_upload(token, [receipt])
    assert stored(weed_server, name) is not None


class Answers(BaseHTTPRequestHandler):
    """A store whose completions fail in the body of a 200."""

    completions = 0
    protocol_version = "HTTP/1.1"  # the client waits for "100 Continue"

    def answer(self, body: str = "", **headers: str) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(404 if body == "none" else 200)
        for header, value in headers.items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_POST(self) -> None:
        if "uploads" in self.path.partition("?")[2].split("&")[0].split("="):
            self.answer("<InitiateMultipartUploadResult><UploadId>u</UploadId>"
                        "</InitiateMultipartUploadResult>")  # fmt: skip
            return
        type(self).completions += 1
        self.answer("<?xml version='1.0'?><Error><Code>InternalError</Code></Error>")

    def do_PUT(self) -> None:
        self.answer(ETag='"e"')

    def do_GET(self) -> None:
        part = "<Part><PartNumber>1</PartNumber><ETag>e</ETag><Size>{}</Size></Part>"
        size = 200 + 16 + 3 + 32 + 60
        self.answer(
            f"<ListPartsResult><IsTruncated>false</IsTruncated>{part.format(size)}</ListPartsResult>"
            if "uploadId" in self.path
            else "none"
        )

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def failing_store() -> Iterator[str]:
    """Its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


async def test_complete_with_an_error_in_the_body_of_a_200_failed(
    failing_store: str, key: Key
) -> None:
    """S3 begins its answer before it knows how the completion ends."""
    Answers.completions = 0
    async with s3_client(failing_store) as client:
        bucket = UploadCalls(client, "bucket", key, suite=Suite.AEGIS256, attempts=2)
        token = await begin(bucket, 3)
        receipt = await bucket.upload_part(token, 1, b"abc")
        with pytest.raises(SourceError):
            await bucket.complete_upload(token, [receipt])
    assert 2 == Answers.completions


# ---- What is refused -----------------------------------------------------------------------


async def test_complete_with_parts_missing_says_which(
    weed_server: SeaweedFS, name: str, key: Key
) -> None:
    """A hole must never become an object."""
    async with opened(weed_server.url, name, key) as bucket:
        token = await begin(bucket, len(PLAIN))
        receipts = await upload(bucket, token)
        for have in ([], [1], [2]):
            expected = [number for number in (1, 2) if number not in have]
            some = [receipts[number] for number in have] * 2
            assert expected == await bucket.resume(token, some)
            with pytest.raises(UploadIncompleteError) as caught:
                await bucket.complete_upload(token, some)
            assert expected == caught.value.missing
        with pytest.raises(TypeError):
            await bucket.complete_upload(token, receipts[1])
    assert stored(weed_server, name) is None


async def test_receipt_of_another_upload_or_altered_is_refused(
    weed_server: SeaweedFS, name: str, key: Key
) -> None:
    """Receipts come back from browsers: a part of another object must not slip in."""
    async with opened(weed_server.url, name, key) as bucket:
        token, other = await begin(bucket, 3), await begin(bucket, 3)
        receipt = await bucket.upload_part(token, 1, b"abc")
        foreign = await bucket.upload_part(other, 1, b"abc")
        for call in (bucket.complete_upload, bucket.resume):
            with pytest.raises(DecryptionError):
                await call(token, [receipt, foreign])
            for bad in flips(ref.from_text(receipt)):
                with pytest.raises((FormatError, DecryptionError)):
                    await call(token, [ref.to_text(bad)])
            for text in ("", token, receipt + "=", "\u00e9"):
                with pytest.raises(FormatError):
                    await call(token, [text])
    assert stored(weed_server, name) is None


async def test_token_expired_altered_or_of_others_is_refused(
    weed_server: SeaweedFS, name: str, keyring: StaticKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By every call; only ``abort_upload`` takes one that has expired."""
    elsewhere = new_bucket(weed_server)
    async with (
        opened(weed_server.url, name, keyring) as bucket,
        opened(weed_server.url, elsewhere, keyring) as other,
    ):
        token = await begin(bucket, 3, partition="a")
        receipt = await bucket.upload_part(token, 1, b"abc", partition="a")

        def calls(of: UploadCalls, text: str, partition: str) -> list[Any]:
            return [
                of.part_plan(text, partition=partition),
                of.upload_part(text, 1, b"abc", partition=partition),
                of.resume(text, [receipt], partition=partition),
                of.complete_upload(text, [receipt], partition=partition),
                of.abort_upload(text, partition=partition),
            ]

        sealed = ref.from_text(token)
        altered = ref.to_text(sealed[:-1] + bytes((sealed[-1] ^ 1,)))
        for of, text, partition, error in (
            (bucket, token, "b", WrongKeyError),
            (bucket, altered, "a", DecryptionError),
            (bucket, "token", "a", FormatError),
            (bucket, receipt, "a", FormatError),
            (other, token, "a", UploadNotFoundError),
        ):
            for call in in_turn(*calls(of, text, partition)):
                with pytest.raises(error):
                    await call
        later = SimpleNamespace(time_ns=lambda: time.time_ns() + 86_400 * 10**9)
        monkeypatch.setattr(anyseal.value, "time", later)
        *refused, abort = calls(bucket, token, "a")
        for call in in_turn(*refused):
            with pytest.raises(ExpiredError):
                await call
        assert 1 == len(uploads(weed_server, name))
        await abort
    assert [] == uploads(weed_server, name)
    assert stored(weed_server, name) is None


async def test_part_of_the_wrong_length_is_not_uploaded(
    weed_server: SeaweedFS, name: str, key: Key
) -> None:
    """A request that was cut short must not pass for a part."""
    async with opened(weed_server.url, name, key) as bucket:
        token = await begin(bucket, 100_000)
        for wrong in (b"", bytes(99_999), bytes(100_001)):
            for data in (wrong, Stream(wrong, 7000)):
                with pytest.raises(UploadError, match="part 1 has"):
                    await bucket.upload_part(token, 1, data)
        for number in (0, 2, -1):
            with pytest.raises(ValueError, match="parts 1 to 1"):
                await bucket.upload_part(token, number, b"")
        for number in ("1", 1.0, True, None):
            with pytest.raises(TypeError, match="number must be int"):
                await bucket.upload_part(token, number, b"")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await bucket.upload_part(token, 1, "text")
        assert [1] == await bucket.resume(token, [])
        assert [] == await bucket._calls.parts("a/key", uploads(weed_server, name)[0])


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"size": -1}, ValueError),
        ({"size": 1.0}, TypeError),
        ({"size": True}, TypeError),
        ({"size": 5 << 40}, ConfigurationError),
        ({"part_size": 0}, ValueError),
        ({"part_size": 1.5}, TypeError),
        ({"expires_in": 0}, ValueError),
        ({"expires_in": "60"}, TypeError),
        ({"expires_in": float("nan")}, ValueError),
        ({"suite": "ROT13"}, ConfigurationError),
        ({"context": "text"}, TypeError),
        ({"key": ""}, ValueError),
        ({"metadata": {"Anyseal-Key": "x"}}, ConfigurationError),
        ({"metadata": {"a": "ä"}}, ConfigurationError),
        ({"metadata": {"a": "x" * 2048}}, ConfigurationError),
        ({"metadata": {"a": "1\n2"}}, ConfigurationError),
        ({"metadata": {"a": 1}}, TypeError),
        ({"content_type": 5}, TypeError),
        ({"partition": "a"}, TypeError),
    ],
)
async def test_create_refuses_before_it_asks_the_store(
    key: Key, settings: dict[str, Any], error: type[Exception]
) -> None:
    """A client of nothing shows that nothing was asked."""
    bucket = UploadCalls(SimpleNamespace(meta=None), "bucket", key)
    with pytest.raises(error):
        await bucket.create_upload(**{"key": "a/key", "size": 3, **settings})


# ---- Nothing is left behind ----------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
async def test_create_that_is_cancelled_leaves_no_upload(
    weed_server: SeaweedFS, name: str, when: str, key: Key
) -> None:
    """Nobody has the id of an upload whose creator was cancelled: it would cost money for ever."""
    async with s3_client(weed_server.url) as client:
        meddler = Meddler(client)
        bucket = UploadCalls(meddler, name, key)
        with anyio.CancelScope() as scope:
            setattr(meddler, when, lambda number, operation: scope.cancel())
            await begin(bucket, 3)
        assert scope.cancelled_caught
        assert ["create_multipart_upload", "abort_multipart_upload"] == meddler.calls
    assert [] == uploads(weed_server, name)


async def test_create_takes_any_wish(weed_server: SeaweedFS, name: str, key: Key) -> None:
    """A wish for parts longer than S3 takes is a wish for long ones."""
    async with s3_client(weed_server.url) as client:
        bucket = UploadCalls(client, name, key)
        token = await bucket.create_upload("wish", size=6 << 30, part_size=1 << 50)
        assert 2 == (await bucket.part_plan(token)).count
        await bucket.abort_upload(token)


async def test_create_whose_token_cannot_be_sealed_leaves_no_upload(
    weed_server: SeaweedFS, name: str
) -> None:
    """Such as when the key was wiped meanwhile."""
    key = a_key()
    async with s3_client(weed_server.url) as client:
        meddler = Meddler(client)
        bucket = UploadCalls(meddler, name, key)
        meddler.after = lambda number, operation: key.wipe()
        with pytest.raises(anyseal.KeyUseError):
            await begin(bucket, 3)
    assert [] == uploads(weed_server, name)


async def test_abort_leaves_nothing(
    weed_server: SeaweedFS, name: str, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And can be called again."""
    # It does not wait as for a worker that completes just now: the store knows no such upload.
    monkeypatch.setattr("anyseal.s3.completion._LANDING_PAUSES", (600.0,))
    async with opened(weed_server.url, name, key) as bucket:
        token = await begin(bucket, 3)
        receipt = await bucket.upload_part(token, 1, b"abc")
        for _ in range(2):
            await bucket.abort_upload(token)
            assert [] == uploads(weed_server, name)
        for call in in_turn(
            bucket.upload_part(token, 1, b"abc"),
            bucket.resume(token, [receipt]),
            bucket.complete_upload(token, [receipt]),
        ):
            with pytest.raises(UploadNotFoundError):
                await call
    assert stored(weed_server, name) is None


@pytest.mark.parametrize("size", [0, 3, len(PLAIN)])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_complete_that_is_cancelled_anywhere_can_be_called_again(
    weed_server: SeaweedFS, name: str, when: str, size: int, key: Key
) -> None:
    """At every request, before and after it: there is no object, or the whole one."""
    async with s3_client(weed_server.url) as client:
        meddler = Meddler(client)
        bucket = UploadCalls(meddler, name, key, part_size=PART)
        for at in range(10):
            token = await begin(bucket, size)
            receipts = await upload(bucket, token, PLAIN[:size])
            meddler.calls = []
            with anyio.CancelScope() as scope:

                def cancel(number: int, operation: str, at: int = at, scope: Any = scope) -> None:
                    if number == at:
                        scope.cancel()

                setattr(meddler, when, cancel)
                await bucket.complete_upload(token, receipts.values())
            sealed = stored(weed_server, name)
            if sealed is not None:
                assert PLAIN[:size] == await open_whole(sealed, key)
            setattr(meddler, when, lambda number, operation: None)
            await bucket.complete_upload(token, receipts.values())
            sealed = stored(weed_server, name) or b""
            assert PLAIN[:size] == await open_whole(sealed, key)
            await bucket._calls.delete("a/key")
            if not scope.cancelled_caught:
                break
        assert (2 if size == 3 else 3) == at, "the number of requests of a completion"
    assert [] == uploads(weed_server, name)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_part_that_is_cancelled_is_uploaded_again(
    weed_server: SeaweedFS, name: str, when: str, key: Key
) -> None:
    """Its first sealing may arrive or not: the receipt names the one that counts."""
    async with s3_client(weed_server.url) as client:
        meddler = Meddler(client)
        bucket = UploadCalls(meddler, name, key)
        token = await begin(bucket, 3)
        with anyio.CancelScope() as scope:
            setattr(meddler, when, lambda number, operation: scope.cancel())
            await bucket.upload_part(token, 1, b"old")
        assert scope.cancelled_caught
        setattr(meddler, when, lambda number, operation: None)
        assert [1] == await bucket.resume(token, [])
        receipt = await bucket.upload_part(token, 1, b"new")
        await bucket.complete_upload(token, [receipt])
    assert b"new" == await open_whole(stored(weed_server, name), key)


@pytest.mark.slow
async def test_no_plaintext_reaches_the_disk_of_the_store(
    weed_server: SeaweedFS, name: str, key: Key
) -> None:
    """Neither of an upload that is complete, nor of one that is under way or aborted."""
    async with opened(weed_server.url, name, key) as bucket:
        for ending in ("complete", "abort", "none"):
            token = await begin(bucket, len(PLAIN))
            receipts = await upload(bucket, token)
            if ending == "complete":
                await bucket.complete_upload(token, receipts.values())
            elif ending == "abort":
                await bucket.abort_upload(token)
    found, scanned = [], 0
    for path in (weed_server.folder / "data").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            scanned += len(data)
            found += [path] if MARK in data or CONTEXT * 2 in data else []
    assert [] == found
    assert scanned > 2 * len(PLAIN)


# ---- Workers that die ----------------------------------------------------------------------


WORKER = """
import json, sys
from pathlib import Path
import anyio
from anyseal.s3.uploads import UploadCalls
from storage_servers import s3_client
from support import a_key

async def main():
    url, name, token, path = sys.argv[1:]
    plain = Path(path).read_bytes()
    async with s3_client(url) as client:
        bucket = UploadCalls(client, name, a_key())
        plan = await bucket.part_plan(token)
        print("ready", flush=True)
        for line in sys.stdin:
            part = plan.part(int(line))
            data = plain[part.start : part.stop]
            print(json.dumps(await bucket.upload_part(token, part.number, data)), flush=True)

anyio.run(main)
"""


class Worker:
    """A process that uploads the parts whose numbers it is told."""

    def __init__(self, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WORKER, *args],
            cwd=Path(__file__).parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, number: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self, *, kill: bool = False) -> None:
        if kill:
            self.process.kill()
        self.process.communicate(timeout=30)


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
async def test_four_processes_upload_one_object_and_one_is_killed(
    weed_server: SeaweedFS, name: str, key: Key, tmp_path: Path
) -> None:
    """In random order, one of them killed in the middle of a part and started again."""
    plain = PLAIN * 3
    (tmp_path / "plain").write_bytes(plain)
    async with opened(weed_server.url, name, key) as bucket:
        token = await begin(bucket, len(plain))
        plan = await bucket.part_plan(token)
        numbers = list(range(1, len(plan) + 1))
        assert 6 == len(numbers)
        random.shuffle(numbers)
        args = (weed_server.url, name, token, str(tmp_path / "plain"))
        workers = [Worker(*args) for _ in range(4)]
        assert ["ready\n"] * 4 == [worker.read() for worker in workers]
        for worker, number in zip(workers, numbers, strict=False):
            worker.tell(number)
        workers[0].end(kill=True)
        workers[0] = Worker(*args)
        assert workers[0].read() == "ready\n"
        receipts = [json.loads(worker.read()) for worker in workers[1:]]
        missing = await bucket.resume(token, receipts)
        assert sorted({*numbers} - {*numbers[1:4]}) == missing
        random.shuffle(missing)
        for worker, number in zip(workers, missing, strict=False):
            worker.tell(number)
        receipts += [json.loads(worker.read()) for worker in workers[: len(missing)]]
        random.shuffle(receipts)
        for worker in workers:
            worker.end()
        await bucket.complete_upload(token, receipts)
    assert plain == await open_whole(stored(weed_server, name), key)
