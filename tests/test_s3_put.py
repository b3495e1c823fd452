"""Putting sealed objects into a real S3 server: every kind of input, every size, every failure."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from anyseal import Key, MemorySource, StaticKeyring, Suite, sync
from anyseal.errors import (
    ConfigurationError,
    PreconditionFailedError,
    SourceChangedError,
    SourceError,
)
from anyseal.objects.geometry import Geometry
from anyseal.s3 import SealedBucket, sealing
from anyseal.s3.body import SLICE_BYTES, SLICE_MAX_BYTES, Body
from anyseal.s3.put import PutCalls
from storage_servers import SeaweedFS, blocking_client, s3_client
from support import Stream, pattern

pytest_plugins = ["server_fixtures"]
pytestmark = pytest.mark.anyio

CHUNK = 64 << 10
PART = 5 << 20  # what S3 allows; SeaweedFS insists on it
LONG = pattern(1 << 20) * 16


def text(size: int, label: str = "") -> bytes:
    """*size* bytes, quickly."""
    head = label.encode()[:size]
    return head + LONG[: size - len(head)]


class Bucket:
    """An empty bucket, its blocking client, and what is in it."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.url = server.url
        self.client = server.client()
        self.name = server.new_bucket()

    def read(self, name: str, key: Any, **where: Any) -> bytes:
        """The plaintext of an object, by the range reader, all of it verified."""
        sealed = self.client.get_object(Bucket=self.name, Key=name)["Body"].read()
        with sync.ObjectReader.open(MemorySource(sealed), key, **where) as reader:
            reader.verify()
            return reader.read_range(0)

    def names(self) -> list[str]:
        """The objects that are visible."""
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return [one["Key"] for one in found]

    def uploads(self) -> list[str]:
        """The multipart uploads that are neither completed nor aborted."""
        found = self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])
        return [one["Key"] for one in found]


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


async def off_loop(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return await anyio.to_thread.run_sync(lambda: function(*args, **kwargs))


@contextlib.asynccontextmanager
async def opened(bucket: Bucket, key: Any, **settings: Any) -> AsyncIterator[PutCalls]:
    async with s3_client(bucket.url) as client:
        yield PutCalls(client, bucket.name, key, **settings)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, PART, PART + 1, 2 * PART + 7])
async def test_put_sizes(bucket: Bucket, key: Key, size: int) -> None:
    """Around every boundary the object opens, and the result tells what is in the bucket."""
    data = text(size)
    async with opened(bucket, key) as sealed:
        result = await sealed.put("a/ä", data, part_size=PART, context=b"c")
    head = await off_loop(bucket.client.head_object, Bucket=bucket.name, Key="a/ä")
    assert data == await off_loop(bucket.read, "a/ä", key, context=b"c")
    assert (size, head["ContentLength"], head["ETag"]) == (
        result.size,
        result.sealed_size,
        result.etag,
    )
    assert max(1, -(-size // PART)) == result.parts


@pytest.mark.parametrize(
    ("size", "piece"),
    [(0, 1), (5, 1), (PART, 3 << 20), (PART + 1, 1 << 14), (2 * PART, 64 << 20)],
)
async def test_put_unknown_length(bucket: Bucket, key: Key, size: int, piece: int) -> None:
    """A stream becomes the same object as bytes do, however it is cut; one part needs no upload."""
    data = text(size)
    async with opened(bucket, key) as sealed:
        result = await sealed.put("k", Stream(data, piece), part_size=PART)
    assert data == await off_loop(bucket.read, "k", key)
    assert (size, max(1, -(-size // PART))) == (result.size, result.parts)


class AsyncFile:
    """A file whose reads are awaited, and come in odd pieces."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    async def read(self, size: int = -1) -> bytes:
        await anyio.lowlevel.checkpoint()
        return self._file.read(min(size, 1_234_567))


INPUTS: dict[str, Callable[[bytes, Path], Any]] = {
    "bytes": lambda data, path: data,
    "bytearray": lambda data, path: bytearray(data),
    "memoryview": lambda data, path: memoryview(data),
    "words": lambda data, path: memoryview(data[: len(data) // 4 * 4]).cast("I"),
    "path": lambda data, path: path,
    "file": lambda data, path: io.BytesIO(data),
    "async file": lambda data, path: AsyncFile(data),
    "stream": lambda data, path: Stream(data, 100_000),
}


@pytest.mark.parametrize("kind", INPUTS)
async def test_put_inputs(bucket: Bucket, key: Key, tmp_path: Path, kind: str) -> None:
    """Every kind of input gives the same object, and says how far it is."""
    path = tmp_path / "data"
    async with opened(bucket, key, part_size=PART) as sealed:
        for size in (1000, PART + 40):
            data = text(size)
            await anyio.Path(path).write_bytes(data)
            seen: list[tuple[int, int | None]] = []
            given = INPUTS[kind](data, path)
            result = await sealed.put("k", given, progress=lambda *said: seen.append(said))  # noqa: B023
            total = None if kind in ("file", "async file", "stream") else size
            assert data == await off_loop(bucket.read, "k", key)
            assert [(0, total), (size, total)] == [seen[0], seen[-1]]
            assert sorted(seen) == seen
            assert 1 + result.parts == len(seen)


async def test_put_suites(bucket: Bucket, key: Key, suite: Suite) -> None:
    """Under every suite, from memory and from a stream."""
    data = text(PART + CHUNK + 1)
    async with opened(bucket, key, part_size=PART) as sealed:
        for given in (data, Stream(data, 700_000)):
            await sealed.put("k", given, suite=suite)
            assert data == await off_loop(bucket.read, "k", key)


async def test_put_real_file_objects(bucket: Bucket, key: Key, tmp_path: Path) -> None:
    """What open() and anyio.open_file() return are files, though they iterate over lines."""
    data, path = text(PART + 9) + b"\n\n", tmp_path / "data"
    await anyio.Path(path).write_bytes(data)
    async with (
        opened(bucket, key, part_size=PART) as sealed,
        await anyio.open_file(path, "rb") as file,
    ):
        await sealed.put("async", file)
        await file.seek(0)
        await sealed.put("blocking", file.wrapped)
    for name in ("async", "blocking"):
        assert data == await off_loop(bucket.read, name, key)


async def test_put_mistyped(bucket: Bucket, key: Key) -> None:
    """What gives no bytes is refused, and nothing becomes visible."""
    wrong: list[Any] = ["a str", 7, None, [b"a"], io.StringIO("text"), memoryview(bytes(8))[::2]]
    async with opened(bucket, key) as sealed:
        for data in wrong:
            with pytest.raises((TypeError, BufferError)):
                await sealed.put("k", data)
        with pytest.raises(TypeError):
            await sealed.put("k", Stream(["text"], 1))  # type: ignore[arg-type]
    assert [] == await off_loop(bucket.names)


BAD: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"key": ""}, ValueError),
    ({"key": b"k"}, TypeError),
    ({"key": "k" * 1025}, ValueError),
    ({"context": "text"}, TypeError),
    ({"context": bytes(65537)}, ValueError),
    ({"metadata": {"a": "x" * 2048}}, ValueError),
    ({"metadata": {"a": 1}}, TypeError),
    ({"metadata": {"a": "ä"}}, ValueError),
    ({"metadata": {"Anyseal-Key": "a"}}, ConfigurationError),
    ({"metadata": {"a": "1", "A": "2"}}, ConfigurationError),
    ({"metadata": {"a": "1\r\nx-amz-acl: public-read"}}, ConfigurationError),
    ({"metadata": {"a b": "1"}}, ConfigurationError),
    ({"metadata": {"": "1"}}, ConfigurationError),
    ({"metadata": ["ab"]}, TypeError),
    ({"content_type": "text/plain\r\nx: y"}, ConfigurationError),
    ({"content_type": 5}, TypeError),
    ({"if_match": ""}, ValueError),
    ({"if_match": 5}, TypeError),
    ({"if_none_match": True, "if_match": "x"}, ValueError),
    ({"checksum": "MD5"}, ValueError),
    ({"concurrency": 0}, ValueError),
    ({"concurrency": 1.5}, TypeError),
    ({"part_size": 0}, ValueError),
    ({"part_size": "8M"}, TypeError),
    ({"suite": "ROT13"}, ConfigurationError),
    ({"suite": ""}, ConfigurationError),
    ({"partition": "p"}, TypeError),
]


async def test_put_bad_settings(bucket: Bucket, key: Key) -> None:
    """A mistake is told before anything is sent."""
    async with s3_client(bucket.url) as client:
        wrapped = Interposed(client, lambda number, name: None)
        sealed = PutCalls(wrapped, bucket.name, key)
        for settings, error in BAD:
            with pytest.raises(error):
                await sealed.put(**{"key": "k", "data": b"data", **settings})
    assert [] == wrapped.calls


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"suite": "ROT13"}, ConfigurationError),
        ({"chunk_size": 5000}, ConfigurationError),
        ({"chunk_size": "64K"}, TypeError),
        ({"part_size": 0}, ConfigurationError),
        ({"part_size": 1.5}, TypeError),
        ({"concurrency": 257}, ConfigurationError),
        ({"concurrency": True}, TypeError),
        ({"attempts": 0}, ConfigurationError),
    ],
)
async def test_bucket_refuses_settings_when_it_is_made(
    key: Key, settings: dict[str, Any], error: type[Exception]
) -> None:
    """A service with a wrong setting must not start, instead of failing with its first object."""
    with pytest.raises(error):
        PutCalls(SimpleNamespace(meta=None), "bucket", key, **settings)


@pytest.mark.parametrize("server", ["weed_server", "moto_server"])
async def test_put_over_a_version_where_there_is_none(
    request: pytest.FixtureRequest, key: Key, server: str
) -> None:
    """Deleted meanwhile is changed meanwhile, though AWS says 404 to it and other stores 412."""
    found = request.getfixturevalue(server)
    name = f"none-{id(request)}"
    await off_loop(lambda: blocking_client(found.url).create_bucket(Bucket=name))
    async with s3_client(found.url) as client:
        sealed = SealedBucket(client, name, key)
        with pytest.raises(PreconditionFailedError):
            await sealed.put("gone", b"data", if_match='"0123"')
        with pytest.raises(PreconditionFailedError):
            await sealed.delete("gone", if_match='"0123"')


async def test_put_metadata(bucket: Bucket) -> None:
    """The caller's metadata is kept beside the key's id, for one part and for several."""
    keyring = StaticKeyring(pattern(32))
    partition_key = await keyring.current("ada")
    async with opened(bucket, keyring, part_size=PART) as sealed:
        for name, size in (("small", 10), ("large", PART + 1)):
            await sealed.put(
                name,
                text(size),
                partition="ada",
                metadata={"colour": "red"},
                content_type="image/png",
            )
    for name in ("small", "large"):
        head = await off_loop(bucket.client.head_object, Bucket=bucket.name, Key=name)
        assert "red" == head["Metadata"]["colour"]
        assert partition_key.key_id.hex() == head["Metadata"]["anyseal-key"]
        assert head["Metadata"]["anyseal-suite"] in ("AEGIS256", "XCHACHA20POLY1305")
        assert "image/png" == head["ContentType"]
        await off_loop(bucket.read, name, keyring, partition="ada")


@pytest.mark.parametrize("server", ["weed_server", "moto_server"])
@pytest.mark.parametrize("checksum", [None, "SHA256"])
async def test_put_checksums(
    request: pytest.FixtureRequest, key: Key, server: str, checksum: str | None
) -> None:
    """S3 verifies the checksums that were made in the worker; also those a client wants itself."""
    url = request.getfixturevalue(server).url
    async with s3_client(url, request_checksum_calculation="when_supported") as client:
        name = f"sums-{(checksum or 'none').lower()}-{id(request)}"
        await client.create_bucket(Bucket=name)
        sealed = PutCalls(client, name, key, part_size=PART)
        for size in (100, 2 * PART + 1):
            await sealed.put("k", text(size), checksum=checksum)
            answer = await client.get_object(Bucket=name, Key="k", ChecksumMode="ENABLED")
            async with answer["Body"] as body:
                there = await body.read()
            with sync.ObjectReader.open(MemorySource(there), key) as reader:
                assert size == reader.size
            if server == "weed_server" and size == 100:
                assert f"Checksum{checksum or 'CRC32'}" in answer


async def test_put_body_never_hashed_by_botocore(
    bucket: Bucket, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """botocore would hash every part in the event loop; other requests are signed as before.

    Those are three of the put (its creation, the look for strays, its completion) and our own.
    """

    def read(self: Body, size: int | None = -1) -> bytes:
        raise AssertionError("hashed")

    monkeypatch.setattr(Body, "read", read)
    signed: list[str] = []
    async with s3_client(bucket.url, request_checksum_calculation="when_supported") as client:

        def note(request: Any, **_: Any) -> None:
            signed.append(request.headers.get("X-Amz-Content-SHA256", "")[:16])

        sealed = PutCalls(client, bucket.name, key, part_size=PART)
        client.meta.events.register_last("before-send.s3", note)
        await sealed.put("k", text(PART + 1))
        await client.put_object(Bucket=bucket.name, Key="plain", Body=io.BytesIO(b"plain"))
    assert [2, 4] == [
        sum(one == b"UNSIGNED-PAYLOAD" or one == "UNSIGNED-PAYLOAD" for one in signed),
        sum(one not in (b"UNSIGNED-PAYLOAD", "UNSIGNED-PAYLOAD") for one in signed),
    ]


def test_body_reads_and_rewinds() -> None:
    """A client that insists on hashing reads the same bytes that are sent."""
    blocks = [pattern(3), pattern(SLICE_BYTES + 5, "b"), b"", pattern(10, "c")]
    whole, body = b"".join(blocks), Body(blocks)
    assert len(whole) == len(body)
    for size in (1, 7, 4096, SLICE_BYTES, len(whole) + 1):
        body.seek(0)
        assert whole == b"".join(iter(lambda size=size: body.read(size), b""))
    body.seek(-4, 2)
    assert (whole[-4:], len(whole)) == (body.read(), body.tell())


async def test_body_goes_in_slices_that_suit_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long ones cost the loop less; where they are taken slowly, a slice must not outlast the
    patience for one."""
    now = 0.0
    monkeypatch.setattr("anyseal.s3.body.anyio.current_time", lambda: now)
    whole = pattern(3) + pattern(8 << 20, "b")
    sizes, sent = [], []
    async for part in Body([whole[:3], whole[3:]]):
        sizes.append(len(part))
        sent.append(bytes(part))
        now += 0.2 if len(sizes) in (5, 6) else 0.05
    assert whole == b"".join(sent)
    quarter = SLICE_BYTES
    assert [3, 2 * quarter, 4 * quarter, 4 * quarter, 4 * quarter, quarter, quarter] == sizes[:7]
    assert [2 * quarter, 4 * quarter] == sizes[7:9]
    assert max(sizes) == SLICE_MAX_BYTES


@pytest.mark.parametrize("size", [None, 0, 1, 5 << 40, 100 << 30])
@pytest.mark.parametrize("wished", [1, 5 << 20, 8 << 20, 6_000_001, 1 << 40])
def test_part_sizes_hold_5_tib(size: int | None, wished: int) -> None:
    """Within 10,000 parts of S3's sizes there is room for every object that S3 takes."""
    geometry = Geometry(chunk_bytes=CHUNK, segment_bytes=64 << 20, tag_bytes=32, header_bytes=200)
    sizes = list(sealing.part_sizes(wished, size, geometry))
    assert 10_000 == len(sizes)
    assert all(5 << 20 <= one <= (5 << 30) - (64 << 20) and one % CHUNK == 0 for one in sizes)
    assert sum(sizes) >= ((5 << 40) if size is None else size) * 0.999
    if size is None and wished == 8 << 20:
        assert {127 * CHUNK} == set(sizes[:1000]), "with their tags at most 8 MiB"


class Failing:
    """An iterable that breaks after some bytes."""

    def __init__(self, data: bytes) -> None:
        self._pieces = iter([data[at : at + 500_000] for at in range(0, len(data), 500_000)])

    def __aiter__(self) -> Failing:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise LookupError("broken")


@pytest.mark.parametrize("size", [100, 3 * PART])
async def test_put_iterable_raises(bucket: Bucket, key: Key, size: int) -> None:
    """The iterable's own error comes out as it is, and leaves nothing behind."""
    async with opened(bucket, key, part_size=PART) as sealed:
        with pytest.raises(LookupError, match="broken"):
            await sealed.put("k", Failing(text(size)))
    assert ([], []) == (await off_loop(bucket.names), await off_loop(bucket.uploads))


@pytest.mark.parametrize("change", ["shrinks", "grows"])
async def test_put_file_changes(bucket: Bucket, key: Key, tmp_path: Path, change: str) -> None:
    """A file that is written to meanwhile is no object: nothing becomes visible."""
    path = tmp_path / "data"
    await anyio.Path(path).write_bytes(text(3 * PART))

    def spoil(done: int, total: int | None) -> None:
        if done == 0:
            with open(path, "r+b") as file:
                file.truncate(PART + 5 if change == "shrinks" else 4 * PART)

    async with opened(bucket, key, part_size=PART) as sealed:
        with pytest.raises(SourceChangedError):
            await sealed.put("k", path, progress=spoil)
    assert ([], []) == (await off_loop(bucket.names), await off_loop(bucket.uploads))


async def test_put_no_plaintext_in_the_server(key: Key) -> None:
    """The server's disk holds no run of the plaintext."""
    server = await off_loop(SeaweedFS)
    try:
        bucket = await off_loop(Bucket, server)
        marker = b"a very recognisable plaintext " * 4
        async with opened(bucket, key, part_size=PART) as sealed:
            await sealed.put("small", marker)
            await sealed.put("large", marker * (2 * PART // len(marker)))

        def scan() -> list[str]:
            files = [one for one in server.folder.rglob("*") if one.is_file()]
            return [one.name for one in files if marker[:30] in one.read_bytes()]

        assert [] == await off_loop(scan)
    finally:
        await off_loop(server.close)


class Interposed:
    """A client that runs *act* before its n-th call, and counts the calls.

    What *act* returns is awaited with the call, and what that returns is the answer.
    """

    def __init__(self, client: Any, act: Callable[[int, str], Any]) -> None:
        self.meta = client.meta
        self._client = client
        self._act = act
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        async def call(**parameters: Any) -> Any:
            self.calls.append(name)
            answer = self._act(len(self.calls), name)
            if answer is not None:
                replaced = await answer(lambda: method(**parameters))
                if replaced is not None:
                    return replaced
            return await method(**parameters)

        return call


@pytest.mark.parametrize("native", [False, True], ids=["scope", "Task.cancel"])
@pytest.mark.parametrize("when", ["before", "during"])
async def test_put_cancelled_at_every_call(
    bucket: Bucket, key: Key, native: bool, when: str, anyio_backend: Any
) -> None:
    """However it is cancelled: nothing is visible but a whole object, and no upload is left."""
    if native and anyio_backend[0] != "asyncio":
        pytest.skip("asyncio's own")
    data = text(2 * PART + 5)
    visible = 0
    async with s3_client(bucket.url) as client:
        for at in range(1, 8):
            cancel: list[Callable[[], Any]] = []

            def act(number: int, name: str, at: int = at, cancel: Any = cancel) -> Any:
                if number != at:
                    return None
                if when == "before":
                    cancel[0]()
                    return None

                async def late(_: Any) -> None:
                    asyncio_or_trio_later(cancel[0])

                return late

            wrapped = Interposed(client, act)
            sealed = PutCalls(wrapped, bucket.name, key, part_size=PART)
            if native:
                task = asyncio.ensure_future(sealed.put("k", data))
                cancel.append(task.cancel)
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            else:
                with anyio.CancelScope() as scope:
                    cancel.append(scope.cancel)
                    await sealed.put("k", data)
            if at < 6:
                assert [] == await off_loop(bucket.uploads)
            for name in await off_loop(bucket.names):
                assert "complete_multipart_upload" in wrapped.calls
                assert data == await off_loop(bucket.read, name, key)
                visible += 1
                await client.delete_object(Bucket=bucket.name, Key=name)
    assert [] == await off_loop(bucket.uploads)
    assert visible >= 1


def asyncio_or_trio_later(call: Callable[[], Any]) -> None:
    """Run *call* a little later, when the request is on its way."""
    import sniffio

    if sniffio.current_async_library() == "asyncio":
        asyncio.get_running_loop().call_later(0.001, call)
    else:
        import trio

        async def soon() -> None:
            await trio.sleep(0.001)
            call()

        trio.lowlevel.spawn_system_task(soon)


async def test_put_one_of_several_writers_wins(bucket: Bucket, key: Key) -> None:
    """With if_none_match exactly one of them writes; the others are told, and leave nothing."""
    lock = anyio.Lock()

    async def alone(call: Callable[[], Any]) -> Any:
        async with lock:
            return await call()

    def act(number: int, name: str) -> Any:
        """Of completions that it gets at once, this server lets several pass."""
        return alone if name == "complete_multipart_upload" else None

    for size in (100, PART + 1):
        wins: list[int] = []
        losses: list[int] = []

        async def write(sealed: PutCalls, index: int, size: int, won: Any, lost: Any) -> None:
            try:
                await sealed.put(f"k{size}", text(size, str(index)), if_none_match=True)
                won.append(index)
            except PreconditionFailedError:
                lost.append(index)

        async with s3_client(bucket.url) as client, anyio.create_task_group() as group:
            sealed = PutCalls(Interposed(client, act), bucket.name, key, part_size=PART)
            for index in range(5):
                group.start_soon(write, sealed, index, size, wins, losses)
        assert (1, 4) == (len(wins), len(losses))
        there = await off_loop(bucket.read, f"k{size}", key)
        assert text(size, str(wins[0])) == there
    assert [] == await off_loop(bucket.uploads)


@pytest.mark.parametrize("size", [100, PART + CHUNK])
async def test_put_if_match(bucket: Bucket, key: Key, size: int) -> None:
    """An object is replaced only if it is the one that the caller saw."""
    async with opened(bucket, key, part_size=PART) as sealed:
        first = await sealed.put("k", b"first")
        second = await sealed.put("k", text(size), if_match=first.etag)
        with pytest.raises(PreconditionFailedError):
            await sealed.put("k", text(size + 1), if_match=first.etag)
    assert text(size) == await off_loop(bucket.read, "k", key)
    assert second.etag != first.etag
    assert [] == await off_loop(bucket.uploads)


def lost(error: Exception) -> Callable[[Any], Any]:
    """The request goes through, its answer does not."""

    async def answer(call: Any) -> None:
        await call()
        raise error

    return answer


CUT = EndpointConnectionError(endpoint_url="http://there")


@pytest.mark.parametrize("size", [100, PART + 1])
@pytest.mark.parametrize("conditions", [{}, {"if_none_match": True}], ids=["", "if_none_match"])
async def test_put_answer_lost(
    bucket: Bucket, key: Key, size: int, conditions: dict[str, Any]
) -> None:
    """If the last request went through but not its answer, the object is there: no error."""

    def act(number: int, name: str) -> Any:
        last = name in ("put_object", "complete_multipart_upload")
        return lost(CUT) if last and wrapped.calls.count(name) == 1 else None

    async with s3_client(bucket.url) as client:
        wrapped = Interposed(client, act)
        sealed = PutCalls(wrapped, bucket.name, key, part_size=PART)
        result = await sealed.put("k", text(size), **conditions)
        head = await client.head_object(Bucket=bucket.name, Key="k")
    assert (result.etag, result.sealed_size) == (head["ETag"], head["ContentLength"])
    assert text(size) == await off_loop(bucket.read, "k", key)
    assert [] == await off_loop(bucket.uploads)


async def test_put_complete_unclear_and_not_done(bucket: Bucket, key: Key) -> None:
    """If the completion never arrived it is tried again, though an older object is there."""

    async def cut(_: Any) -> None:
        raise CUT

    def act(number: int, name: str) -> Any:
        first = wrapped.calls.count(name) == 1
        return cut if name == "complete_multipart_upload" and first else None

    async with s3_client(bucket.url) as client:
        await client.put_object(Bucket=bucket.name, Key="k", Body=b"older")
        wrapped = Interposed(client, act)
        await PutCalls(wrapped, bucket.name, key, part_size=PART).put("k", text(PART + 1))
    assert text(PART + 1) == await off_loop(bucket.read, "k", key)


@pytest.mark.usefixtures("no_pauses")
async def test_put_part_tried_again(bucket: Bucket, key: Key) -> None:
    """A part that failed is sent again alone; every request may fail once."""
    error = {"Error": {"Code": "InternalError"}, "ResponseMetadata": {"HTTPStatusCode": 500}}

    async def fail(_: Any) -> None:
        raise ClientError(error, "any")

    def act(number: int, name: str) -> Any:
        return fail if wrapped.calls.count(name) % 2 else None

    async with s3_client(bucket.url) as client:
        wrapped = Interposed(client, act)
        sealed = PutCalls(wrapped, bucket.name, key, part_size=PART, concurrency=1)
        await sealed.put("k", text(2 * PART + 1))
    assert 2 * 3 == wrapped.calls.count("upload_part")
    assert text(2 * PART + 1) == await off_loop(bucket.read, "k", key)
    assert [] == await off_loop(bucket.uploads)


async def test_put_part_refused(bucket: Bucket, key: Key) -> None:
    """A part that is refused for good ends the upload, and nothing of it is left."""
    error = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}

    async def fail(_: Any) -> None:
        raise ClientError(error, "any")

    async with s3_client(bucket.url) as client:
        wrapped = Interposed(client, lambda number, name: fail if number == 3 else None)
        sealed = PutCalls(wrapped, bucket.name, key, part_size=PART)
        with pytest.raises(SourceError, match="AccessDenied"):
            await sealed.put("k", text(3 * PART))
    assert ([], []) == (await off_loop(bucket.names), await off_loop(bucket.uploads))
