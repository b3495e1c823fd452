"""How S3 must fail: whatever the network, the server or another writer does, never a wrong object.

Each test ends with the same questions: is what is visible whole, and is no upload left behind?
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from anyseal import Key, SourceError, StaticKeyring, UploadError
from anyseal.errors import (
    AnysealError,
    DecryptionError,
    FormatError,
    PreconditionFailedError,
    SourceChangedError,
    WrongKeyError,
)
from anyseal.s3 import SealedBucket
from s3_proxy import Request, S3Proxy
from storage_servers import ACCESS_KEY, SECRET_KEY, SeaweedFS, s3_client
from support import Stream, pattern
from test_s3_put import PART, AsyncFile, Bucket, Interposed, off_loop

pytest_plugins = ["server_fixtures"]
pytestmark = pytest.mark.anyio

PLAIN = pattern(1 << 16, "plain") * 176  # 11 MiB: two parts of a put, three of an upload's plan
Connected = Callable[..., Any]

on_one_loop = pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
on_both_transports = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {}), ("trio", {})], ids=["asyncio", "trio"]
)


@pytest.fixture(scope="module")
def one_bucket(weed_server: SeaweedFS) -> Bucket:
    """One for all tests: SeaweedFS reserves room for each."""
    return Bucket(weed_server)


@pytest.fixture
def bucket(one_bucket: Bucket) -> Bucket:
    """An empty bucket."""
    for name in one_bucket.names():
        one_bucket.client.delete_object(Bucket=one_bucket.name, Key=name)
    return one_bucket


@pytest.fixture
def proxy(weed_server: SeaweedFS) -> Iterator[S3Proxy]:
    """A proxy that does as it is told."""
    with S3Proxy(weed_server.url) as found:
        yield found


@contextlib.asynccontextmanager
async def connected(url: str, name: str, key: Any, **settings: Any) -> AsyncIterator[SealedBucket]:
    """A bucket with a client of its own."""
    async with SealedBucket.connect(
        name,
        key,
        endpoint_url=url,
        region="us-east-1",
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        **{"part_size": PART, **settings},
    ) as found:
        yield found


async def put(bucket: SealedBucket, name: str, plain: bytes) -> None:
    """By one task."""
    await bucket.put(name, plain)


async def upload(bucket: SealedBucket, name: str, plain: bytes) -> None:
    """By workers that share nothing."""
    token = await bucket.create_upload(name, size=len(plain))
    receipts = []
    for part in await bucket.part_plan(token):
        data = memoryview(plain)[part.start : part.stop]
        receipts.append(await bucket.upload_part(token, part.number, data))
    await bucket.complete_upload(token, receipts)


WRITERS = {"put": put, "upload": upload}


# ---- The wire ------------------------------------------------------------------------------


@on_both_transports
@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("kind", [500, 503, "reset", "half", "slow", "twice", "lost", "hang"])
@pytest.mark.parametrize("writer", WRITERS)
async def test_part_that_the_network_spoils_is_sent_again(
    bucket: Bucket, proxy: S3Proxy, key: Key, writer: str, kind: int | str
) -> None:
    """Refused, cut, slow, duplicated or unanswered: the same bytes again, and the object is right.

    Other bytes under one nonce would be two messages under one key.
    """
    spoilt: list[str] = []

    def behave(request: Request) -> int | str | None:
        if "partNumber=1&" in request.path + "&" and not spoilt:
            spoilt.append(request.path)
            return kind
        return None

    proxy.behave = behave
    timeout = 4.0 if kind == "hang" else 60.0
    async with connected(proxy.url, bucket.name, key, timeout=timeout) as sealed:
        with anyio.fail_after(60):
            await WRITERS[writer](sealed, "k", PLAIN)
    assert 1 == len(spoilt)
    parts = {path: sent for path, sent in proxy.bodies.items() if "partNumber" in path}
    assert len(parts) >= 2
    assert [1] * len(parts) == [len(set(sent)) for sent in parts.values()]
    expected = 1 if kind in ("reset", "slow", "twice") else 2
    assert expected == len(proxy.bodies[spoilt[0]])
    assert PLAIN == await off_loop(bucket.read, "k", key)
    assert [] == await off_loop(bucket.uploads)


@on_one_loop
@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("kind", [403, 500, "reset", "lost"])
@pytest.mark.parametrize("writer", WRITERS)
async def test_part_that_never_arrives_is_a_typed_error(
    bucket: Bucket, proxy: S3Proxy, key: Key, writer: str, kind: int | str
) -> None:
    """And nothing is visible. A put leaves no upload; an upload stays until it is aborted."""
    proxy.behave = lambda request: kind if "partNumber=2" in request.path else None
    async with connected(proxy.url, bucket.name, key, attempts=2) as sealed:
        with pytest.raises(SourceError):
            await WRITERS[writer](sealed, "k", PLAIN)
    assert [] == await off_loop(bucket.names)
    left = await off_loop(bucket.uploads)
    assert (["k"] if writer == "upload" else []) == left
    for one in bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads", []):
        await off_loop(
            bucket.client.abort_multipart_upload,
            Bucket=bucket.name,
            Key="k",
            UploadId=one["UploadId"],
        )


@on_both_transports
@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("kind", [500, "lost", "slow", "twice"])
@pytest.mark.parametrize("writer", WRITERS)
async def test_completion_that_the_network_spoils(
    bucket: Bucket, proxy: S3Proxy, key: Key, writer: str, kind: int | str
) -> None:
    """One that was done counts, whatever the answer said; one that was not is done again."""
    spoilt: list[str] = []

    def behave(request: Request) -> int | str | None:
        if request.method == "POST" and "uploadId" in request.path and not spoilt:
            spoilt.append(request.path)
            return kind
        return None

    proxy.behave = behave
    async with connected(proxy.url, bucket.name, key) as sealed:
        await WRITERS[writer](sealed, "k", PLAIN)
    assert 1 == len(spoilt)
    assert PLAIN == await off_loop(bucket.read, "k", key)
    assert [] == await off_loop(bucket.uploads)


ONCE_MORE = [
    (400, "BadDigest"),
    (400, "ExpiredToken"),
    (400, "IncompleteBody"),
    (400, "RequestTimeout"),
    (400, "XAmzContentSHA256Mismatch"),
    (500, "InternalError"),
    (503, "SlowDown"),
    "reset",
    "lost",
]
"""What ends no operation when it happens once."""


async def copy(bucket: SealedBucket, name: str, plain: bytes) -> None:
    """Of a size that S3 copies in parts here."""
    await bucket.put(f"original {name[0]}", plain)
    await bucket.copy(f"original {name[0]}", name, if_none_match=True)


REQUESTS: dict[str, tuple[Callable[..., Any], int, Callable[[Request], bool]]] = {
    "put": (put, 1000, lambda request: request.method == "PUT"),
    "part": (put, len(PLAIN), lambda request: "partNumber=1&" in f"{request.path}&"),
    "create": (put, len(PLAIN), lambda request: "?uploads" in request.path),
    "complete": (
        put,
        len(PLAIN),
        lambda request: request.method == "POST" and "uploadId" in request.path,
    ),
    "create by workers": (upload, len(PLAIN), lambda request: "?uploads" in request.path),
    "complete by workers": (
        upload,
        len(PLAIN),
        lambda request: request.method == "POST" and "uploadId" in request.path,
    ),
    "copy": (
        copy,
        1000,
        lambda request: request.method == "PUT" and "original" not in request.path,
    ),
}


@on_one_loop
@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("name", REQUESTS)
async def test_request_that_fails_once_is_sent_again(
    bucket: Bucket, proxy: S3Proxy, key: Key, name: str
) -> None:
    """An answer that one more attempt cures, or none at all, must not end an upload of an hour;
    and of a creation that was not answered, nothing is left."""
    writer, size, matches = REQUESTS[name]
    async with connected(proxy.url, bucket.name, key) as sealed:
        for number, act in enumerate(ONCE_MORE if size == 1000 else ONCE_MORE[:2]):
            spoilt: list[Request] = []

            def behave(request: Request, act: Any = act, spoilt: Any = spoilt) -> Any:
                if matches(request) and not spoilt:
                    spoilt.append(request)
                    return act
                return None

            proxy.behave = behave
            await writer(sealed, f"{number}k", PLAIN[:size])
            assert 1 == len(spoilt), act
            assert PLAIN[:size] == await off_loop(bucket.read, f"{number}k", key), act
    assert [] == await off_loop(bucket.uploads)


@on_both_transports
@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(
    ("writer", "kind", "fails"),
    [
        ("put", "twice", False),
        ("put", "twice", True),
        ("put", "lost", False),
        ("put", "lost", True),
        ("upload", "lost", False),
    ],
)
async def test_creation_that_the_network_spoils_leaves_no_upload(
    bucket: Bucket, proxy: S3Proxy, key: Key, writer: str, kind: str, fails: bool
) -> None:
    """A stray has no owner: without a lifecycle rule it stays for ever.

    An upload of the same key that already has a part is another process's, and stays.
    """
    theirs = await off_loop(
        functools.partial(bucket.client.create_multipart_upload, Bucket=bucket.name, Key="k")
    )
    part = {"Bucket": bucket.name, "Key": "k", "UploadId": theirs["UploadId"]}
    await off_loop(
        functools.partial(bucket.client.upload_part, **part, PartNumber=1, Body=b"theirs")
    )
    asked: list[Request] = []

    def behave(request: Request) -> int | str | None:
        if request.method == "POST" and "?uploads" in request.path:
            asked.append(request)
            return kind if len(asked) == 1 else None
        return 403 if fails and "partNumber=2" in request.path else None

    proxy.behave = behave
    async with connected(proxy.url, bucket.name, key) as sealed:
        if fails:
            with pytest.raises(SourceError):
                await WRITERS[writer](sealed, "k", PLAIN)
        else:
            await WRITERS[writer](sealed, "k", PLAIN)
            assert PLAIN == await off_loop(bucket.read, "k", key)
    assert ["k"] == await off_loop(bucket.uploads)
    await off_loop(functools.partial(bucket.client.abort_multipart_upload, **part))
    assert [] == await off_loop(bucket.uploads)


@on_one_loop
@pytest.mark.usefixtures("no_pauses")
async def test_creation_that_is_never_answered_leaves_no_upload(
    bucket: Bucket, proxy: S3Proxy, key: Key
) -> None:
    """The put fails, and what its attempts have begun is ended."""

    def behave(request: Request) -> str | None:
        return "lost" if request.method == "POST" else None

    proxy.behave = behave
    async with connected(proxy.url, bucket.name, key, attempts=3) as sealed:
        for writer in WRITERS.values():
            with pytest.raises(SourceError):
                await writer(sealed, "k", PLAIN)
            assert [] == await off_loop(bucket.uploads)


@on_one_loop
async def test_puts_of_one_key_at_the_same_time_end_none_of_each_other(
    bucket: Bucket, proxy: S3Proxy, key: Key
) -> None:
    """Also if one of another process takes an upload for its stray: the put begins again."""
    aborted: list[str] = []

    def behave(request: Request) -> str | None:
        if "partNumber=" in request.path and not aborted:
            upload_id = request.path.partition("uploadId=")[2].partition("&")[0]
            aborted.append(upload_id)
            bucket.client.abort_multipart_upload(Bucket=bucket.name, Key="k", UploadId=upload_id)
        return None

    async with connected(proxy.url, bucket.name, key, concurrency=1) as sealed:
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(put, sealed, "k", PLAIN)
        assert PLAIN == await off_loop(bucket.read, "k", key)
        proxy.behave = behave
        await put(sealed, "k", PLAIN[::-1])
    assert 1 == len(aborted)
    assert PLAIN[::-1] == await off_loop(bucket.read, "k", key)
    assert [] == await off_loop(bucket.uploads)


# ---- The server ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mortal() -> Iterator[SeaweedFS]:
    """A server that may be killed."""
    server = SeaweedFS()
    yield server
    server.close()


@pytest.fixture(scope="module")
def mortal_bucket(mortal: SeaweedFS) -> Bucket:
    """A bucket of it."""
    return Bucket(mortal)


@on_one_loop
@pytest.mark.parametrize("revived", [False, True], ids=["dead", "restarted"])
async def test_put_while_the_server_is_killed(
    mortal: SeaweedFS, mortal_bucket: Bucket, key: Key, revived: bool
) -> None:
    """A typed error soon, and nothing visible; if the server is back in time, the object.

    What a dead server keeps of the upload is for the bucket's lifecycle rule.
    """

    async def crash(_: Any) -> None:
        await off_loop(mortal.crash)
        if revived:
            await off_loop(mortal.start)

    def kill(number: int, name: str) -> Any:
        return crash if number == 3 else None

    name = f"put {revived}"
    async with s3_client(mortal.url) as client:
        attempts = 40 if revived else 2  # the server takes a while to start
        wrapped = Interposed(client, kill)
        sealed = SealedBucket(wrapped, mortal_bucket.name, key, part_size=PART, attempts=attempts)
        with anyio.fail_after(90):
            if revived:
                await sealed.put(name, PLAIN)
            else:
                with pytest.raises(SourceError) as caught:
                    await sealed.put(name, PLAIN)
                assert caught.value.retryable
                await off_loop(mortal.start)
    if revived:
        assert PLAIN == await off_loop(mortal_bucket.read, name, key)
    else:
        assert name not in await off_loop(mortal_bucket.names)


@on_one_loop
async def test_upload_goes_on_after_the_server_was_killed(
    mortal: SeaweedFS, mortal_bucket: Bucket, key: Key
) -> None:
    """Token and receipts outlive the server: what it lost is missing, and is sent again."""
    async with s3_client(mortal.url) as client:
        sealed = SealedBucket(client, mortal_bucket.name, key, part_size=PART, attempts=2)
        token = await sealed.create_upload("upload", size=len(PLAIN))
        plan = await sealed.part_plan(token)

        async def send(number: int) -> str:
            part = plan.part(number)
            return await sealed.upload_part(token, number, PLAIN[part.start : part.stop])

        receipts = [await send(1)]
        await off_loop(mortal.crash)
        for call in (
            functools.partial(send, 2),
            functools.partial(sealed.complete_upload, token, receipts * 2),
            functools.partial(sealed.resume, token, receipts),
        ):
            with pytest.raises((SourceError, UploadError)):
                await call()
        await off_loop(mortal.start)
        assert "upload" not in await off_loop(mortal_bucket.names)
        missing = await sealed.resume(token, receipts)
        assert set(missing) >= set(range(2, len(plan) + 1))
        receipts += [await send(number) for number in missing]
        await sealed.complete_upload(token, receipts)
    assert PLAIN == await off_loop(mortal_bucket.read, "upload", key)


@on_both_transports
async def test_put_while_the_server_takes_nothing(
    mortal: SeaweedFS, mortal_bucket: Bucket, key: Key
) -> None:
    """A server that stops to read a part is given up after the timeout, and the part sent again."""
    frozen = []

    async def freeze(_: Any) -> None:
        await off_loop(mortal.freeze)
        frozen.append(True)

    async def thaw(_: Any) -> None:
        mortal.thaw()

    def act(number: int, name: str) -> Any:
        if name == "upload_part" and not frozen:
            return freeze
        return thaw if frozen and name == "upload_part" else None

    async with connected(mortal.url, mortal_bucket.name, key, timeout=3.0, concurrency=1) as made:
        wrapped = Interposed(made._calls.client, act)
        sealed = SealedBucket(wrapped, mortal_bucket.name, key, part_size=PART, concurrency=1)
        with anyio.fail_after(90):
            await sealed.put("frozen", PLAIN)
    assert PLAIN == await off_loop(mortal_bucket.read, "frozen", key)
    assert "frozen" not in await off_loop(mortal_bucket.uploads)


# ---- The bucket ----------------------------------------------------------------------------


async def pieces_in_the_bucket(
    bucket: Bucket, key: Key, plain: bytes
) -> tuple[list[bytes], list[bytes], bytes]:
    """Segments of one object, other sealings of the same segments, and what is before and after.

    As the parts of an upload, each of which was uploaded twice.
    """
    sent: list[tuple[int, bytes]] = []
    async with connected(bucket.url, bucket.name, key) as sealed:
        keep = sealed._calls.upload_part

        async def record(name: str, upload: str, number: int, body: Any, **more: Any) -> str:
            sent.append((number, bytes(body)))
            return await keep(name, upload, number, body, **more)

        sealed._calls.upload_part = record  # type: ignore[method-assign]
        token = await sealed.create_upload("good", size=len(plain))
        plan, receipts = await sealed.part_plan(token), []
        for _ in range(2):
            receipts = []
            for part in plan:
                data = plain[part.start : part.stop]
                receipts.append(await sealed.upload_part(token, part.number, data))
        await sealed.complete_upload(token, receipts)
    count = len(plan)
    first = [body for _, body in sent[:count]]
    second = [body for _, body in sent[count : 2 * count]]
    return first, second, sent[-1][1]


async def read_on(sealed: SealedBucket, name: str, got: bytearray) -> None:
    """Stream an object into *got*."""
    pieces: Any = sealed.stream(name)
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            got += piece


@on_one_loop
async def test_object_that_was_altered_in_the_bucket_is_not_released(
    bucket: Bucket, key: Key, tmp_path: Path
) -> None:
    """Truncated, its segments swapped, repeated or mixed with those of another sealing.

    What a stream gave before it noticed is the beginning of the plaintext.
    """
    plain = pattern(1 << 16, "altered") * 240  # 15 MiB
    other, mine, trailer = await pieces_in_the_bucket(bucket, key, plain)
    head = len(mine[0]) - len(mine[1])
    assert len(mine) == 3
    assert 0 < head < 300
    header, one, two, three = mine[0][:head], mine[0][head:], mine[1], mine[2]
    whole = b"".join((*mine, trailer))
    altered = {
        "truncated": whole[:-1],
        "without its trailer": whole[: -len(trailer)],
        "half": whole[: len(whole) // 2],
        "without its last segment": header + one + two + trailer,
        "swapped": header + two + one + three + trailer,
        "repeated": header + one + one + three + trailer,
        "mixed": header + one + other[1] + three + trailer,
        "mixed at the end": header + one + two + other[2] + trailer,
        "mixed with the first": other[0] + two + three + trailer,
        "longer": whole + whole[-len(trailer) :],
        "of header and trailer": header + trailer,
    }
    assert plain == await off_loop(bucket.read, "good", key)
    for name, sealed_bytes in altered.items():
        await off_loop(bucket.client.put_object, Bucket=bucket.name, Key=name, Body=sealed_bytes)
    async with connected(bucket.url, bucket.name, key) as sealed:
        for name in altered:
            got = bytearray()
            with pytest.raises((DecryptionError, FormatError)):
                await read_on(sealed, name, got)
            assert plain.startswith(bytes(got)), name
            assert len(got) < len(plain), name
            for resume in (True, False):
                with pytest.raises((DecryptionError, FormatError)):
                    await sealed.download_file(name, tmp_path / "plain", resume=resume)
                assert [] == await off_loop(os.listdir, tmp_path), name
            with pytest.raises((DecryptionError, FormatError)):
                await sealed.get(name)


@on_one_loop
@pytest.mark.parametrize("size", [1000, len(PLAIN)])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_rewrap_that_is_cancelled_anywhere(
    bucket: Bucket, keyring: StaticKeyring, size: int, when: str
) -> None:
    """Before and after every request: whole, under one of the two keys, and no upload left."""
    plain = PLAIN[:size]
    owners = set()
    async with s3_client(bucket.url) as client:
        for at in range(1, 12):
            sealed = SealedBucket(client, bucket.name, keyring, part_size=PART)
            await sealed.put("k", plain, partition="ada")
            with anyio.CancelScope() as scope:

                async def answer(call: Any, scope: Any = scope) -> Any:
                    found = await call()
                    scope.cancel()
                    return found

                def act(number: int, name: str, at: int = at, scope: Any = scope) -> Any:
                    if number != at:
                        return None
                    return scope.cancel() if when == "before" else answer

                wrapped = Interposed(client, act)
                again = SealedBucket(wrapped, bucket.name, keyring, part_size=PART)
                await again.rewrap("k", partition="ada", to_partition="bob")
            opens = []
            for owner in ("ada", "bob"):
                with contextlib.suppress(WrongKeyError):
                    assert plain == await off_loop(bucket.read, "k", keyring, partition=owner)
                    opens.append(owner)
            assert 1 == len(opens)
            owners.update(opens)
            assert [] == await off_loop(bucket.uploads)
            if len(wrapped.calls) < at:
                break
    assert {"ada", "bob"} == owners
    assert len(wrapped.calls) < at, "every request was tried"


# ---- Other workers, other inputs -----------------------------------------------------------


async def test_complete_waits_for_a_worker_that_completes_just_now(
    bucket: Bucket, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts are gone from the listing and the object is not there yet: no part is to blame."""
    monkeypatch.setattr("anyseal.s3.completion._LANDING_PAUSES", (0.1,) * 600)
    async with connected(bucket.url, bucket.name, key) as sealed:
        token = await sealed.create_upload("k", size=3)
        receipt = await sealed.upload_part(token, 1, b"abc")
        results = []
        async with connected(bucket.url, bucket.name, key) as other:

            async def no_parts(*_: Any) -> list[Any]:
                return []

            other._calls.parts = no_parts  # type: ignore[method-assign]

            async def late() -> None:
                results.append(await other.complete_upload(token, [receipt]))

            async with anyio.create_task_group() as group:
                group.start_soon(late)
                await anyio.sleep(0.4)
                assert [] == results
                done = await sealed.complete_upload(token, [receipt])
    assert [done] == results


@on_one_loop
async def test_complete_keeps_its_conditions(bucket: Bucket, key: Key) -> None:
    """What somebody else put meanwhile is not replaced; the upload can be completed all the same.

    To complete again is no conflict with oneself.
    """
    async with connected(bucket.url, bucket.name, key) as sealed:
        token = await sealed.create_upload("k", size=3, content_type="image/png")
        receipts = [await sealed.upload_part(token, 1, b"abc")]
        theirs = await sealed.put("k", b"theirs")
        with pytest.raises(PreconditionFailedError):
            await sealed.complete_upload(token, receipts, if_none_match=True)
        with pytest.raises(PreconditionFailedError):
            await sealed.complete_upload(token, receipts, if_match='"another"')
        with pytest.raises(ValueError, match="exclude"):
            await sealed.complete_upload(token, receipts, if_none_match=True, if_match="x")
        assert b"theirs" == await sealed.get("k")
        done = await sealed.complete_upload(token, receipts, if_match=theirs.etag)
        assert done == await sealed.complete_upload(token, receipts, if_none_match=True)
        assert b"abc" == await sealed.get("k")
        copied = await sealed.copy("k", "copy")
        listed = {one.key: one.etag async for one in sealed.list()}
    assert {"k": done.etag, "copy": copied} == listed
    head = await off_loop(bucket.client.head_object, Bucket=bucket.name, Key="k")
    assert "image/png" == head["ContentType"]
    assert [] == await off_loop(bucket.uploads)


async def test_part_is_read_from_whatever_put_takes(
    bucket: Bucket, key: Key, tmp_path: Path
) -> None:
    """A worker has the part in a file as often as in memory."""
    plain = PLAIN[: 5 << 20]
    path = anyio.Path(tmp_path / "part")
    await path.write_bytes(plain)
    async with connected(bucket.url, bucket.name, key) as sealed:
        given: dict[str, Callable[[], Any]] = {
            "bytes": lambda: plain,
            "words": lambda: memoryview(plain).cast("I"),
            "path": lambda: tmp_path / "part",
            "file": lambda: io.BytesIO(plain),
            "awaited": lambda: AsyncFile(plain),
            "stream": lambda: Stream(plain, 70_001),
        }
        for name, data in given.items():
            token = await sealed.create_upload(name, size=len(plain))
            receipt = await sealed.upload_part(token, 1, data())
            await sealed.complete_upload(token, [receipt])
            assert plain == await off_loop(bucket.read, name, key)
        token = await sealed.create_upload("wrong", size=len(plain) + 1)
        for data in given.values():
            with pytest.raises(UploadError):
                await sealed.upload_part(token, 1, data())
        wrong: list[Any] = ["text", None, 7, [b"a"], io.StringIO("text"), Stream(["a"], 1)]  # type: ignore[arg-type]
        for data in wrong:
            with pytest.raises(TypeError):
                await sealed.upload_part(token, 1, data)
        with pytest.raises((OSError, AnysealError)):
            await sealed.upload_part(token, 1, tmp_path)
        with pytest.raises(FileNotFoundError):
            await sealed.upload_part(token, 1, tmp_path / "nowhere")
        await sealed.abort_upload(token)


@on_one_loop
async def test_part_of_a_file_that_changes_is_not_uploaded(
    bucket: Bucket, key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of an old and half of a new file would be a part that nobody sent."""
    path = tmp_path / "part"
    await anyio.Path(path).write_bytes(bytes(3 << 20))
    async with connected(bucket.url, bucket.name, key) as sealed:
        token = await sealed.create_upload("k", size=3 << 20)
        seal = sealed.__class__.upload_part.__globals__["_seal"]

        async def spoil(*args: Any) -> None:
            await seal(*args)
            os.utime(path, (1, 1))

        monkeypatch.setitem(sealed.__class__.upload_part.__globals__, "_seal", spoil)
        with pytest.raises(SourceChangedError):
            await sealed.upload_part(token, 1, path)
        assert [1] == await sealed.resume(token, [])
        await sealed.abort_upload(token)
    assert [] == await off_loop(bucket.names)
