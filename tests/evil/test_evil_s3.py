"""S3 that misbehaves, under each of the calls on a bucket."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from anyseal import Key, sync
from anyseal.errors import FormatError, SourceError, UploadError
from anyseal.s3.calls import Calls as S3Calls
from anyseal.s3.connect import connect
from evil.http_protocol import Answer, HttpProtocol, HttpRequest
from evil.server import EvilServer
from evil.suite import BUSY, Calls, Target, awaited, behaviours, is_slow, survives, survives_late
from storage_servers import ACCESS_KEY, SECRET_KEY

TIMEOUT = 1.0
"""A dozen new clients of botocore at once take their time, with the processor."""
OBJECT = bytes(range(256)) * 300
ETAG = '"0123"'
TAGS = {"ETag": ETAG}
NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
TIME = "<LastModified>2026-01-01T00:00:00.000Z</LastModified>"


def xml(root: str, content: str) -> Answer:
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return Answer(f"{head}<{root} {NAMESPACE}>{content}</{root}>".encode())


ENTRY = f"<Contents><Key>k</Key><Size>5</Size><ETag>{ETAG}</ETag>{TIME}</Contents>"
PART = f"<Part><PartNumber>1</PartNumber><ETag>{ETAG}</ETag><Size>5</Size></Part>"
ENDS = "<IsTruncated>false</IsTruncated>"


def s3(request: HttpRequest) -> Answer:
    """The right answers."""
    url = urlsplit(request.path)
    query = parse_qs(url.query, keep_blank_values=True)
    if request.method == "GET" and "list-type" in query:
        return xml("ListBucketResult", f"<Name>b</Name>{ENDS}{ENTRY}")
    if request.method == "GET" and "uploadId" in query:
        return xml("ListPartsResult", f"<UploadId>u</UploadId>{ENDS}{PART}")
    if request.method == "GET":
        match = re.fullmatch(r"bytes=([0-9]+)-([0-9]+)", request.headers["range"])
        assert match is not None
        start, last = int(match[1]), min(int(match[2]), len(OBJECT) - 1)
        headers = {"Content-Range": f"bytes {start}-{last}/{len(OBJECT)}", **TAGS}
        return Answer(OBJECT[start : last + 1], 206, headers)
    if request.method == "POST" and "uploads" in query:
        return xml("InitiateMultipartUploadResult", "<UploadId>u</UploadId>")
    if request.method == "POST":
        return xml("CompleteMultipartUploadResult", f"<ETag>{ETAG}</ETag>")
    if request.method == "PUT" and "x-amz-copy-source" in request.headers:
        return xml("CopyPartResult", f"<ETag>{ETAG}</ETag>{TIME}")
    if request.method == "DELETE":
        return Answer(b"", 204)
    return Answer(b"", 200, TAGS)


def wrong(root: str, **contents: str) -> dict[str, bytes]:
    return {f"xml_{name}": xml(root, content).body for name, content in contents.items()}


def listing(**contents: str) -> dict[str, bytes]:
    return wrong("ListBucketResult", **contents)


NESTED = "<a>" * 100_000
BOMB = (
    '<?xml version="1.0"?><!DOCTYPE z [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(8))
    + "]><ListBucketResult><Name>&i;</Name></ListBucketResult>"
).encode()
BODIES: dict[str, bytes] = {
    **listing(
        nothing="",
        nested=NESTED,
        size_text=f"{ENDS}<Contents><Key>k</Key><Size>many</Size>{TIME}</Contents>",
        size_negative=f"{ENDS}{ENTRY.replace('>5<', '>-5<')}",
        size_digits=f"{ENDS}{ENTRY.replace('>5<', '>' + '9' * 5000 + '<')}",
        no_key=f"{ENDS}<Contents><Size>5</Size>{TIME}</Contents>",
        no_size=f"{ENDS}<Contents><Key>k</Key></Contents>",
        time_text=f"{ENDS}<Contents><Key>k</Key><LastModified>soon</LastModified></Contents>",
        no_flag=ENTRY,
        no_token=f"<IsTruncated>true</IsTruncated>{ENTRY}",
        same_token=(
            "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
            + ENTRY
        ),
        part_text=f"{ENDS}<Part><PartNumber>one</PartNumber></Part>",
        part_empty=f"{ENDS}<Part></Part>",
        part_marker=(
            f"<IsTruncated>true</IsTruncated><NextPartNumberMarker>1</NextPartNumberMarker>{PART}"
        ),
        part_no_marker=f"<IsTruncated>true</IsTruncated>{PART}",
        upload_empty="<UploadId></UploadId><ETag></ETag>",
    ),
    "xml_bomb": BOMB,
    "xml_long": xml("ListBucketResult", "<Name>" + "a" * (5 << 20) + "</Name>").body,
    "xml_error": xml("Error", "<Code>InternalError</Code>").body,
    "xml_error_odd": xml("Error", "<Code><b/></Code>").body,
}


def speaks() -> HttpProtocol:
    return HttpProtocol(s3, bodies=BODIES)


async def read_into(calls: S3Calls) -> bytes:
    buffer = bytearray(1000)
    await calls.get_into("k", 100, memoryview(buffer), total=len(OBJECT), if_match=ETAG)
    return bytes(buffer)


async def listed(calls: S3Calls) -> list[str]:
    return [one.key async for one in calls.list()]


async def exists(calls: S3Calls) -> bool:
    return (await calls.head("k")).etag == ETAG


async def begun(calls: S3Calls) -> str:
    return await calls.create_upload("k")


async def ended(calls: S3Calls) -> str:
    answer = await calls.complete_upload("k", "u", [ETAG])
    return str(answer["ETag"])


async def sent(calls: S3Calls) -> str:
    return str((await calls.put("k", OBJECT))["ETag"])


async def copied(calls: S3Calls) -> Any:
    return await calls.copy_part("k", "u", 1, {"Bucket": "b", "Key": "k"}, (0, 5), ETAG)


CALLS: dict[str, Callable[[S3Calls], Any]] = {
    "get_range": lambda calls: _data(calls),
    "get_into": read_into,
    "list": listed,
    "parts": lambda calls: calls.parts("k", "u"),
    "head": exists,
    "put": sent,
    "upload_part": lambda calls: calls.upload_part("k", "u", 1, OBJECT),
    "create_upload": begun,
    "complete_upload": ended,
    "copy_part": copied,
    "delete": lambda calls: calls.delete("k"),
}


async def _data(calls: S3Calls) -> bytes:
    return (await calls.get_range("k", "0-999", limit=1000)).data


def _unasked(request: Any, **_: Any) -> None:
    """The server of these tests does not say that it welcomes a body."""
    request.headers.pop("Expect", None)


def made(backend: str, attempts: int = 2) -> Callable[[EvilServer], Any]:
    @contextlib.contextmanager
    def made(server: EvilServer) -> Iterator[Calls]:
        stack = contextlib.AsyncExitStack()

        async def make() -> S3Calls:
            client = await stack.enter_async_context(
                connect(
                    endpoint_url=f"http://127.0.0.1:{server.port}",
                    region="us-east-1",
                    access_key=ACCESS_KEY,
                    secret_key=SECRET_KEY,
                    timeout=TIMEOUT,
                )
            )
            client.meta.events.register_first("before-send.s3", _unasked)
            return S3Calls(client, "b", attempts=attempts)

        async def close(_: S3Calls) -> None:
            await stack.aclose()

        with awaited(make, CALLS, close, backend=backend) as calls:
            yield calls

    return made


def target(backend: str, attempts: int = 2) -> Target:
    return Target(
        name=f"S3 {backend}",
        speaks=speaks,
        make=made(backend, attempts),
        errors=(SourceError, UploadError),
        # A page of other things is a page without what was asked for.
        fits=lambda call, found: found is None if call == "delete" else found == [],
    )


REQUEST = HttpRequest("GET", "/b/k", {"range": "bytes=0-99"}, b"")
LATE = ("silent", "drip", "slow_headers", "slow_body")
SOME = ("cut", "closes", "junk", "body_empty", "status_500", "xml_upload_empty", "xml_error")


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(
    ("call", "backend"),
    [
        *((call, "asyncio") for call in CALLS),
        *(pytest.param(call, "trio", marks=pytest.mark.slow) for call in CALLS),
    ],
)
def test_s3_that_misbehaves_ends_in_a_typed_error(call: str, backend: str) -> None:
    """Whatever stands where the store should be: the call ends, and says that it was the store."""
    does = [each for each in behaviours(speaks(), REQUEST) if not is_slow(each)]
    does.remove("endless_continue")
    if call in ("list", "parts"):
        does = [each for each in does if each.startswith(("xml_", "cut", "body_empty"))]
    elif call != "get_range":
        does = [each for each in does if each in SOME]
    assert [] == survives(target(backend), call, does)


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(
    "calls",
    [("get_into",), ("list",), ("put",), pytest.param(tuple(CALLS), marks=pytest.mark.slow)],
)
def test_s3_that_takes_its_time_is_given_up(calls: tuple[str, ...]) -> None:
    """A byte now and then passes every timeout of a read."""
    assert [] == [
        each
        for call in calls
        if call not in ("complete_upload", "copy_part")  # S3 itself drips while it works on these
        for each in survives_late(target("asyncio", 1), [call], LATE)
    ]


@pytest.mark.usefixtures("no_pauses")
def test_s3_that_misbehaves_ends_in_a_typed_error_sync(key: Key) -> None:
    """The same through the portal of sync code."""
    with (
        EvilServer(speaks()) as server,
        sync.SealedBucket.connect(
            "b",
            key,
            endpoint_url=f"http://127.0.0.1:{server.port}",
            region="us-east-1",
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            timeout=TIMEOUT,
            attempts=1,
        ) as bucket,
    ):
        assert ["k"] == [one.key for one in bucket.list()]
        for does in ("drip", "silent", "xml_same_token", "xml_size_text", "endless_body", "junk"):
            server.does = does
            started = time.monotonic()
            with pytest.raises((SourceError, FormatError)):
                _ = [*bucket.list()] if does.startswith("xml") else bucket.get("k")
            assert time.monotonic() - started < 1.5 * TIMEOUT + BUSY, does
        server.does = "well"
        assert ["k"] == [one.key for one in bucket.list()]


@pytest.mark.parametrize("call", ["list", "parts"])
def test_s3_pages_that_do_not_end_are_an_error(call: str) -> None:
    """Pages in a circle, or without a marker that moves on, would keep a worker for ever."""
    asked = 0

    def answers(request: HttpRequest) -> Answer:
        nonlocal asked
        asked += 1
        more = "<IsTruncated>true</IsTruncated>"
        token = f"<NextContinuationToken>t{asked % 3}</NextContinuationToken>"
        marker = f"<NextPartNumberMarker>{asked % 3}</NextPartNumberMarker>"
        return xml("ListBucketResult", f"{more}{token}{marker}{ENTRY}{PART}")

    with (
        EvilServer(HttpProtocol(answers)) as server,
        made("asyncio", 1)(server) as calls,
        pytest.raises(SourceError, match="do not come to an end") as caught,
    ):
        calls[call]()
    assert not caught.value.retryable
    assert asked < 6
