"""Reading sealed objects from S3: every answer that a store may give, and every one it must not."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from anyseal import (
    DecryptionError,
    FormatError,
    HttpSource,
    Key,
    ObjectNotFoundError,
    ObjectReader,
    OutputExistsError,
    SourceChangedError,
    SourceError,
    StaticKeyring,
    WrongKeyError,
)
from anyseal.errors import ConfigurationError, PreconditionFailedError
from anyseal.s3 import SealedBucket, connect
from s3_proxy import Request, S3Proxy
from servers import Moto
from storage_servers import ACCESS_KEY, SECRET_KEY, SeaweedFS, blocking_client
from support import in_turn, live_keys_without_garbage, names, pattern, seal_bytes, seal_off_loop

pytest_plugins = ["server_fixtures"]
pytestmark = pytest.mark.anyio

MIB = 1 << 20
PARTITION = "tenant"
MASTER = pattern(32, "master")


@pytest.fixture(scope="module")
def store(weed_server: SeaweedFS) -> tuple[Any, str]:
    """A blocking client and a bucket of this module, which has an object named large."""
    found = weed_server.client(), weed_server.new_bucket()
    put(found, "large", sealed_large(MASTER))
    return found


@pytest.fixture
def proxy(weed_server: SeaweedFS) -> Iterator[S3Proxy]:
    """A proxy that does as it is told."""
    with S3Proxy(weed_server.url) as found:
        yield found


@pytest.fixture(autouse=True)
def small_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of 2 MiB instead of 8, so that small objects take several."""
    monkeypatch.setattr("anyseal.objects.reader.UNIT_BYTES", 2 * MIB)
    monkeypatch.setattr("anyseal.s3.download.UNIT_BYTES", 2 * MIB)


@functools.cache
def large() -> bytes:
    """More plaintext than one request fetches, and no whole number of chunks."""
    return pattern(1 << 16, "large") * 75 + b"the end"


@functools.cache
def sealed_large(master: bytes) -> bytes:
    """The same, in parts as an upload makes them."""
    key = StaticKeyring(master).current_local(PARTITION)
    return seal_bytes(large(), key, chunk_size=1 << 16, segment_size=2 * MIB)


def put(store: tuple[Any, str], name: str, body: bytes) -> None:
    client, bucket = store
    client.put_object(Bucket=bucket, Key=name, Body=body)


async def seal(keyring: StaticKeyring, data: bytes, **settings: Any) -> bytes:
    return await seal_off_loop(data, keyring.current_local(PARTITION), **settings)


@contextlib.asynccontextmanager
async def sealed_bucket(
    url: str, bucket: str, keyring: Any, *, timeout: float = 20, **settings: Any
) -> AsyncIterator[SealedBucket]:
    async with connect(
        endpoint_url=url,
        region="us-east-1",
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        timeout=timeout,
    ) as client:
        yield SealedBucket(client, bucket, keyring, **settings)


@pytest.mark.parametrize("size", [0, 1, 4096, 70_000, 3 * MIB + 5])
async def test_get_returns_what_was_sealed(
    weed_server: SeaweedFS, store: tuple[Any, str], keyring: StaticKeyring, size: int
) -> None:
    """The simplest use, at every size that takes another path: one request, or several."""
    data = pattern(size)
    put(store, "get", await seal(keyring, data, context=b"c"))
    async with sealed_bucket(weed_server.url, store[1], keyring) as bucket:
        assert data == await bucket.get("get", partition=PARTITION, context=b"c")
        middle = await bucket.get_range(
            "get", size // 3, size // 2, partition=PARTITION, context=b"c"
        )
        assert data[size // 3 : size // 2] == middle
        async with await bucket.open("get", partition=PARTITION, context=b"c") as reader:
            assert size == reader.size
            await reader.verify()
        pieces = [
            piece
            async for piece in bucket.stream(
                "get", size // 2, partition=PARTITION, context=b"c", piece_size=10_000
            )
        ]
        assert data[size // 2 :] == b"".join(pieces)


async def test_get_of_a_small_object_is_one_request(
    proxy: S3Proxy, store: tuple[Any, str], keyring: StaticKeyring
) -> None:
    """A round trip costs more than a megabyte."""
    put(store, "one", await seal(keyring, pattern(MIB), chunk_size=1 << 16, segment_size=8 * MIB))
    async with sealed_bucket(proxy.url, store[1], keyring) as bucket:
        assert pattern(MIB) == await bucket.get("one", partition=PARTITION)
        assert 1 == len(proxy.asked)
        stream = bucket.stream("one", partition=PARTITION)
        assert [pattern(MIB)] == [piece async for piece in stream]
        assert 2 == len(proxy.asked)


async def test_open_asks_for_both_ends_and_then_only_for_what_is_read(
    proxy: S3Proxy, store: tuple[Any, str], keyring: StaticKeyring
) -> None:
    """Opening costs two small requests, a range no byte more than its chunks."""
    async with (
        sealed_bucket(proxy.url, store[1], keyring) as bucket,
        await bucket.open("large", partition=PARTITION) as reader,
    ):
        assert {"bytes=0-199", "bytes=-4096"} == set(proxy.ranges)
        await anyio.sleep(0.1)  # the proxy counts what it sent after it was received
        before = proxy.sent
        at = 3 * MIB + 100
        assert large()[at : at + 65536] == await reader.read_range(at, at + 65536)
        assert 3 == len(proxy.ranges)
        assert 2 * (65536 + 32) >= proxy.sent - before
        assert large() == await reader.read_range(0)
        asked = len(proxy.ranges)
        stream = reader.stream(100, len(large()) - 1)
        assert large()[100:-1] == b"".join([piece async for piece in stream])
        assert 10 > len(proxy.ranges) - asked
        await reader.verify()


async def test_get_reads_no_byte_twice(
    proxy: S3Proxy, store: tuple[Any, str], keyring: StaticKeyring
) -> None:
    """What came with the first request is used."""
    sealed = sealed_large(MASTER)
    put(store, "large", sealed)
    async with sealed_bucket(proxy.url, store[1], keyring) as bucket:
        assert large() == await bucket.get("large", partition=PARTITION)
    assert len(sealed) + 8192 >= proxy.sent


async def test_read_refuses_what_it_must(
    weed_server: SeaweedFS, store: tuple[Any, str], keyring: StaticKeyring
) -> None:
    """Each mistake and each forgery has its error."""
    good = await seal(keyring, pattern(30_000), context=b"c")
    chunk, segment = 4096 + 32, 8192 + 16 + 64
    head = 84 + 84 + 32
    swapped = bytearray(good)
    one, two = slice(head, head + segment), slice(head + segment, head + 2 * segment)
    swapped[one], swapped[two] = good[two], good[one]
    flipped = bytearray(good)
    flipped[head + chunk + 100] ^= 1
    cases: dict[str, tuple[bytes, type[Exception]]] = {
        "empty": (b"", FormatError),
        "plain": (b"not sealed at all" * 100, FormatError),
        "cut": (good[:-1], FormatError),
        "half": (good[: len(good) // 2], FormatError),
        "long": (good + b"\0", FormatError),
        "swapped": (bytes(swapped), DecryptionError),
        "flipped": (bytes(flipped), DecryptionError),
    }
    for name, (body, _) in cases.items():
        put(store, name, body)
    put(store, "good", good)
    async with sealed_bucket(weed_server.url, store[1], keyring) as bucket:
        where: dict[str, Any] = {"partition": PARTITION, "context": b"c"}
        for name, (_, error) in cases.items():
            with pytest.raises(error):
                await bucket.get(name, **where)
            with pytest.raises(error):
                async with await bucket.open(name, **where) as reader:
                    await reader.verify()
        with pytest.raises(ObjectNotFoundError):
            await bucket.get("nowhere", **where)
        with pytest.raises(ObjectNotFoundError):
            await bucket.open("nowhere", **where)
        with pytest.raises(WrongKeyError):
            await bucket.get("good", partition="another", context=b"c")
        with pytest.raises(DecryptionError):
            await bucket.get("good", partition=PARTITION, context=b"d")
        with pytest.raises(TypeError):
            await bucket.get("good", context=b"c")
        with pytest.raises(ValueError):
            await bucket.get("", **where)
    async with sealed_bucket(weed_server.url, store[1], StaticKeyring(pattern(32, "x"))) as bucket:
        with pytest.raises(WrongKeyError):
            await bucket.get("good", **where)
    async with sealed_bucket(weed_server.url, "no-such-bucket", keyring) as bucket:
        with pytest.raises(SourceError):
            await bucket.get("good", **where)


async def test_read_notices_that_the_object_was_replaced(
    proxy: S3Proxy, store: tuple[Any, str], keyring: StaticKeyring
) -> None:
    """Bytes of two versions are never put together, neither when opening nor later."""
    first, second = [await seal(keyring, pattern(30_000, label)) for label in "ab"]
    put(store, "moving", first)
    async with sealed_bucket(proxy.url, store[1], keyring) as bucket:
        async with await bucket.open("moving", partition=PARTITION) as reader:
            put(store, "moving", second)
            with pytest.raises(SourceChangedError):
                await reader.read_range(0)
            with pytest.raises(SourceChangedError):
                async for _ in reader.stream():
                    pass
        bodies = [first, second] * 10

        def replace(request: Request) -> None:
            put(store, "moving", bodies.pop())

        proxy.behave = replace
        proxy.one_at_a_time = True
        with pytest.raises(SourceChangedError):
            await bucket.open("moving", partition=PARTITION)
        changes = iter([lambda: None, lambda: put(store, "moving", second)])
        put(store, "moving", first)
        proxy.behave = lambda request: next(changes, lambda: None)()  # type: ignore[func-returns-value]
        found = await bucket.get("moving", partition=PARTITION)
        assert found in (pattern(30_000, "a"), pattern(30_000, "b"))


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("act", [500, 503, "cut"])
async def test_read_tries_again_what_may_go_away(
    proxy: S3Proxy, store: tuple[Any, str], keyring: StaticKeyring, act: Any
) -> None:
    """A busy store or a broken connection is no reason to fail; a store that is down is one."""
    count = iter(range(10_000))
    async with sealed_bucket(proxy.url, store[1], keyring, attempts=3) as bucket:
        proxy.behave = lambda request: act if next(count) % 3 == 0 else None
        assert large()[:9] == await bucket.get_range("large", 0, 9, partition=PARTITION)
        assert large() == await bucket.get("large", partition=PARTITION)
        proxy.behave = lambda request: act
        with pytest.raises(SourceError) as caught:
            await bucket.get("large", partition=PARTITION)
        assert caught.value.retryable


async def test_read_gives_up_on_a_server_that_says_nothing(
    proxy: S3Proxy, store: tuple[Any, str], keyring: StaticKeyring
) -> None:
    """A hung server must not hang its clients; nor must it keep them from being cancelled."""
    put(store, "small", await seal(keyring, b"x"))
    proxy.behave = lambda request: "hang"
    async with sealed_bucket(proxy.url, store[1], keyring, attempts=1, timeout=0.3) as bucket:
        with anyio.fail_after(60), pytest.raises(SourceError) as caught:
            await bucket.open("small", partition=PARTITION)
        assert caught.value.retryable
    async with sealed_bucket(proxy.url, store[1], keyring) as bucket:
        with anyio.move_on_after(0.2) as scope:
            await bucket.get("small", partition=PARTITION)
        assert scope.cancelled_caught


async def test_read_does_not_believe_the_network(
    proxy: S3Proxy, store: tuple[Any, str], keyring: StaticKeyring
) -> None:
    """A flipped bit on the way is found like one in the bucket."""
    async with (
        sealed_bucket(proxy.url, store[1], keyring) as bucket,
        await bucket.open("large", partition=PARTITION) as reader,
    ):
        proxy.behave = lambda request: "lie"
        for call in in_turn(reader.read_range(0), reader.verify()):
            with pytest.raises(DecryptionError):
                await call
        stream: Any = reader.stream()
        with pytest.raises(DecryptionError):
            await anext(stream)


async def test_stream_reads_ahead_and_stops_when_it_is_closed(
    proxy: S3Proxy, store: tuple[Any, str], keyring: StaticKeyring
) -> None:
    """The next requests are under way while the consumer works; none is left behind."""
    async with sealed_bucket(proxy.url, store[1], keyring) as bucket:
        stream: Any = bucket.stream("large", partition=PARTITION)
        async with contextlib.aclosing(stream):
            assert large()[:MIB] == await anext(stream)
            with anyio.fail_after(60):
                while len(proxy.ranges) < 4:
                    await anyio.sleep(0.005)
        asked = 0
        while asked != len(proxy.asked):  # what was sent reaches the proxy a little later
            asked = len(proxy.asked)
            assert asked <= 5
            await anyio.sleep(0.2)
        proxy.behave = lambda request: "hang" if len(proxy.ranges) > 3 else None
        with anyio.move_on_after(0.3) as scope:
            async with contextlib.aclosing(
                bucket.stream("large", partition=PARTITION)  # type: ignore[type-var]
            ) as pieces:
                async for _ in pieces:
                    pass
        assert scope.cancelled_caught


async def test_download_file_writes_what_was_sealed(
    weed_server: SeaweedFS, store: tuple[Any, str], keyring: StaticKeyring, tmp_path: Path
) -> None:
    """One file, complete, with progress to its end and nothing beside it."""
    put(store, "none", await seal(keyring, b""))
    put(store, "tiny", await seal(keyring, pattern(20_001)))
    steps: list[tuple[int, int | None]] = []
    async with sealed_bucket(weed_server.url, store[1], keyring) as bucket:
        for name, data in (("large", large()), ("none", b""), ("tiny", pattern(20_001))):
            for resume in (True, False):
                steps.clear()
                target = tmp_path / f"{name}-{resume}"
                size = await bucket.download_file(
                    name,
                    target,
                    partition=PARTITION,
                    resume=resume,
                    durable=True,
                    progress=lambda done, total: steps.append((done, total)),
                )
                assert (len(data), data) == (size, target.read_bytes())
                assert (0, len(data)) == steps[0]
                assert (len(data), len(data)) == steps[-1]
        with pytest.raises(OutputExistsError):
            await bucket.download_file("tiny", tmp_path / "large-True", partition=PARTITION)
        await bucket.download_file(
            "tiny", tmp_path / "large-True", partition=PARTITION, overwrite=True
        )
        assert pattern(20_001) == (tmp_path / "large-True").read_bytes()
    assert 6 == len(names(tmp_path))


async def test_download_file_goes_on_where_it_ended(
    proxy: S3Proxy, store: tuple[Any, str], keyring: StaticKeyring, tmp_path: Path
) -> None:
    """What was verified and written is not fetched again, whatever ended the first attempt."""
    target = tmp_path / "plain"
    async with sealed_bucket(proxy.url, store[1], keyring, attempts=1, concurrency=1) as bucket:
        proxy.behave = lambda request: 500 if len(proxy.ranges) > 4 else None
        with pytest.raises(SourceError):
            await bucket.download_file("large", target, partition=PARTITION)
        assert [".plain.anyseal.part", ".plain.anyseal.state"] == names(tmp_path)
        proxy.behave = lambda request: None
        proxy.asked.clear()
        steps: list[int] = []
        size = await bucket.download_file(
            "large", target, partition=PARTITION, progress=lambda done, _: steps.append(done)
        )
    assert 3 == len(proxy.ranges)  # head, tail, the last window
    assert 3 * MIB < steps[0] < steps[-1] == size
    assert large() == target.read_bytes()
    assert ["plain"] == names(tmp_path)


@pytest.mark.parametrize("what", ["state", "sum", "part", "edited", "cut", "object", "missing"])
async def test_download_file_does_not_go_on_with_what_it_cannot_trust(
    proxy: S3Proxy, store: tuple[Any, str], keyring: StaticKeyring, tmp_path: Path, what: str
) -> None:
    """A forged note, an edited or another file, another object: the download starts again."""
    put(store, "changing", sealed_large(MASTER))
    target, expected = tmp_path / "plain", large()
    part, state = tmp_path / ".plain.anyseal.part", tmp_path / ".plain.anyseal.state"
    async with sealed_bucket(proxy.url, store[1], keyring, attempts=1, concurrency=1) as bucket:
        proxy.behave = lambda request: 500 if len(proxy.ranges) > 3 else None
        with pytest.raises(SourceError):
            await bucket.download_file("changing", target, partition=PARTITION)
        if what in ("state", "sum"):
            note = bytearray(state.read_bytes())
            note[-1 if what == "state" else 50] ^= 2
            state.write_bytes(bytes(note))
        elif what == "edited":
            with part.open("r+b") as file:
                file.seek(MIB + 7)
                file.write(bytes((expected[MIB + 7] ^ 1,)))
        elif what == "cut":
            os.truncate(part, MIB + 7)
        elif what == "part":
            other = tmp_path / "other"
            other.write_bytes(bytes(len(expected)))
            other.replace(part)
        elif what == "object":
            expected = pattern(50_000)
            put(store, "changing", await seal(keyring, expected))
        else:
            state.unlink()
        proxy.behave = lambda request: None
        await bucket.download_file("changing", target, partition=PARTITION)
    assert expected == target.read_bytes()
    assert ["plain"] == names(tmp_path)


async def test_download_file_leaves_nothing_of_what_does_not_verify(
    proxy: S3Proxy, store: tuple[Any, str], keyring: StaticKeyring, tmp_path: Path
) -> None:
    """An altered object, or a file that is in the way, ends the download for good."""
    sealed = bytearray(sealed_large(MASTER))
    sealed[-10_000] ^= 1
    put(store, "altered", bytes(sealed))
    target = tmp_path / "plain"
    async with sealed_bucket(proxy.url, store[1], keyring) as bucket:
        for resume in (True, False):
            with pytest.raises(DecryptionError):
                await bucket.download_file("altered", target, partition=PARTITION, resume=resume)
            assert [] == names(tmp_path)

        def appear(request: Request) -> None:
            target.write_bytes(b"mine")

        proxy.behave = appear
        with pytest.raises(OutputExistsError):
            await bucket.download_file("large", target, partition=PARTITION)
        assert b"mine" == target.read_bytes()
        with pytest.raises(OSError):
            await bucket.download_file("large", tmp_path / "no" / "folder", partition=PARTITION)
    assert ["plain"] == names(tmp_path)


async def test_download_file_on_a_full_disk(
    weed_server: SeaweedFS,
    store: tuple[Any, str],
    keyring: StaticKeyring,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A part without a note is of no use to the next attempt, and its room is wanted."""

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    where: dict[str, Any] = {"partition": PARTITION, "concurrency": 1}
    async with sealed_bucket(weed_server.url, store[1], keyring) as bucket:
        with monkeypatch.context() as patch:
            patch.setattr("anyseal.s3.download.PartFile.write_state", full)
            patch.setattr("anyseal.s3.download.SAVE_SECONDS", 0)
            with pytest.raises(OSError, match="No space"):
                await bucket.download_file("large", tmp_path / "file", **where)
        assert [] == names(tmp_path)
        await bucket.download_file("large", tmp_path / "file", **where)
    assert large() == await anyio.Path(tmp_path / "file").read_bytes()


async def test_download_file_to_one_place_twice_at_once(
    proxy: S3Proxy, store: tuple[Any, str], keyring: StaticKeyring, tmp_path: Path
) -> None:
    """Two downloads must not write into one file: the second says so."""
    outcomes: list[object] = []
    async with sealed_bucket(proxy.url, store[1], keyring) as bucket:

        async def download() -> None:
            try:
                outcomes.append(
                    await bucket.download_file("large", tmp_path / "plain", partition=PARTITION)
                )
            except OutputExistsError as exc:
                outcomes.append(type(exc))

        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(download)
    assert {len(large()), OutputExistsError} == set(outcomes)
    assert large() == (tmp_path / "plain").read_bytes()
    assert ["plain"] == names(tmp_path)


async def test_download_file_cancelled_anywhere(
    proxy: S3Proxy, store: tuple[Any, str], keyring: StaticKeyring, tmp_path: Path
) -> None:
    """Whenever it is cancelled: no file of that name, and the next attempt completes."""
    slots = 0

    async def cancel(scope: anyio.CancelScope, request_number: int) -> None:
        while len(proxy.asked) < request_number:
            await anyio.sleep(0.001)
        scope.cancel()

    async with sealed_bucket(proxy.url, store[1], keyring, concurrency=2) as bucket:
        await bucket.get_range("large", 0, 9, partition=PARTITION)
        slots = live_keys_without_garbage()
        for request_number in range(1, 7):
            for resume in (True, False):
                target = tmp_path / f"{request_number}{resume}"
                proxy.asked.clear()
                proxy.behave = lambda request, last=request_number: (  # type: ignore[misc]
                    "hang" if len(proxy.asked) >= last else None
                )
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as group:
                        group.start_soon(cancel, scope, request_number)
                        await bucket.download_file(
                            "large", target, partition=PARTITION, resume=resume
                        )
                        group.cancel_scope.cancel()
                if not scope.cancelled_caught:
                    continue
                assert not target.exists()
                proxy.behave = lambda request: None
                await bucket.download_file("large", target, partition=PARTITION)
                assert large() == target.read_bytes()
    assert [] == [name for name in names(tmp_path) if name.startswith(".")]
    assert slots >= live_keys_without_garbage()


async def test_stat_tells_sizes_without_a_key(
    proxy: S3Proxy, store: tuple[Any, str], keyring: StaticKeyring
) -> None:
    """What an operator wants to know takes no secret and one small request."""
    client, name = store
    sealed = await seal(keyring, pattern(30_000))
    client.put_object(Bucket=name, Key="stat", Body=sealed, Metadata={"colour": "blue"})
    put(store, "empty", b"")
    async with sealed_bucket(proxy.url, name, StaticKeyring(pattern(32, "nobody's"))) as bucket:
        found = await bucket.stat("stat")
        assert ["bytes=0-199"] == proxy.ranges
        assert (30_000, len(sealed)) == (found.size, found.sealed_size)
        assert (4096, 8192) == (found.chunk_bytes, found.segment_bytes)
        assert keyring.current_local(PARTITION).key_id == found.key_id
        assert {"colour": "blue"} == dict(found.metadata)
        assert found.etag.startswith('"')
        assert found.modified is not None
        for missing, error in (("nowhere", ObjectNotFoundError), ("empty", FormatError)):
            with pytest.raises(error):
                await bucket.stat(missing)


@pytest.mark.parametrize("kind", ["seaweedfs", "moto"])
async def test_bucket_lists_copies_and_deletes(
    weed_server: SeaweedFS, moto_server: Moto, keyring: StaticKeyring, kind: str
) -> None:
    """Housekeeping moves no plaintext, and copies open like their originals."""
    url = weed_server.url if kind == "seaweedfs" else moto_server.url
    client = blocking_client(url)
    here, there = (f"copy-{kind}-{n}-{len(client.list_buckets()['Buckets'])}" for n in "ab")
    for name in (here, there):
        client.create_bucket(Bucket=name)
    sealed = await seal(keyring, pattern(30_000), context=b"c")
    client.put_object(Bucket=here, Key="a/one", Body=sealed, Metadata={"x": "1"})
    client.put_object(Bucket=there, Key="far", Body=sealed)
    where: dict[str, Any] = {"partition": PARTITION, "context": b"c"}
    async with sealed_bucket(url, here, keyring) as bucket:
        assert pattern(30_000) == await bucket.get("a/one", **where)
        await bucket.copy("a/one", "a/two", metadata={"y": "2"})
        await bucket.copy("far", "b/three", source_bucket=there)
        assert pattern(30_000) == await bucket.get("a/two", **where)
        assert pattern(30_000) == await bucket.get("b/three", **where)
        assert {"x": "1", "y": "2"} == dict((await bucket.stat("a/two")).metadata)
        await bucket.copy("a/one", "a/four", if_none_match=True)
        assert pattern(30_000) == await bucket.get("a/four", **where)
        if kind == "seaweedfs":
            with pytest.raises(PreconditionFailedError):
                await bucket.copy("a/one", "a/two", if_none_match=True)
        with pytest.raises(ObjectNotFoundError):
            await bucket.copy("nowhere", "a/five")
        listed = [one async for one in bucket.list("a/")]
        assert ["a/four", "a/one", "a/two"] == [one.key for one in listed]
        assert {len(sealed)} == {one.size for one in listed}
        await bucket.delete("a/one")
        await bucket.delete("a/one")
        assert ["a/four", "a/two", "b/three"] == [one.key async for one in bucket.list()]
        assert {"x": "1"} == dict((await bucket.stat("a/four")).metadata)
    assert [] == client.list_multipart_uploads(Bucket=here).get("Uploads", [])


async def test_copy_of_large_objects_is_in_parts(
    proxy: S3Proxy,
    store: tuple[Any, str],
    keyring: StaticKeyring,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S3 copies at most 5 GiB at once; a copy that fails leaves no upload behind."""
    monkeypatch.setattr("anyseal.s3.manage.COPY_MAX_BYTES", 1 << 20)
    monkeypatch.setattr("anyseal.s3.manage.COPY_PART_BYTES", 5 << 20)
    client, name = store
    body = large() * 3
    put(store, "huge", body)
    async with sealed_bucket(proxy.url, name, keyring, attempts=1) as bucket:
        await bucket.copy("huge", "huge copy")
        assert body == client.get_object(Bucket=name, Key="huge copy")["Body"].read()
        proxy.behave = lambda request: 500 if "partNumber=3" in request.path else None
        with pytest.raises(SourceError):
            await bucket.copy("huge", "never")
        with pytest.raises(ObjectNotFoundError):
            await bucket.stat("never")
    assert [] == client.list_multipart_uploads(Bucket=name).get("Uploads", [])


async def test_bound_objects_open_only_in_their_place(
    weed_server: SeaweedFS, store: tuple[Any, str], keyring: StaticKeyring
) -> None:
    """Who can write to the bucket must not pass one object off as another."""
    async with sealed_bucket(weed_server.url, store[1], keyring, bind_location=True) as bucket:
        context = bucket._context("here", b"c")
        sealed = await seal(keyring, b"bound", context=context)
        for name in ("here", "there"):
            put(store, name, sealed)
        where: dict[str, Any] = {"partition": PARTITION, "context": b"c"}
        assert b"bound" == await bucket.get("here", **where)
        with pytest.raises(DecryptionError):
            await bucket.get("there", **where)
        with pytest.raises(ConfigurationError):
            await bucket.copy("here", "elsewhere")
        await bucket.copy("here", "elsewhere", reseal=True, metadata={"x": "1"}, **where)
        assert b"bound" == await bucket.get("elsewhere", **where)
        assert "1" == (await bucket.stat("elsewhere")).metadata["x"]
        await bucket.copy("elsewhere", "again", reseal=True, **where)
        assert b"bound" == await bucket.get("again", **where)


async def test_copy_keeps_content_headers_and_refuses_bad_metadata(
    weed_server: SeaweedFS, store: tuple[Any, str], keyring: StaticKeyring
) -> None:
    """A copy that a browser treats in another way is no copy; ours stay ours."""
    client, name = store
    sealed = await seal(keyring, b"data")
    client.put_object(
        Bucket=name, Key="page", Body=sealed, CacheControl="private", ContentLanguage="de"
    )
    async with sealed_bucket(weed_server.url, name, keyring) as bucket:
        for settings in ({}, {"metadata": {"A": "1"}}, {"if_none_match": True}):
            client.delete_object(Bucket=name, Key="page copy")
            await bucket.copy("page", "page copy", **settings)
            head = client.head_object(Bucket=name, Key="page copy")
            assert ("private", "de") == (head["CacheControl"], head["ContentLanguage"])
        for metadata in ({"anyseal-key": "00"}, {"a": "ä"}, {"a": "1\n"}, {"a": "1", "A": "2"}):
            with pytest.raises(ConfigurationError):
                await bucket.copy("page", "page copy", metadata=metadata)
        with pytest.raises(ConfigurationError):
            await bucket.copy("page", "page copy", source_bucket="")


async def test_empty_versions_and_tags_are_refused(
    weed_server: SeaweedFS, store: tuple[Any, str], keyring: StaticKeyring
) -> None:
    """A program that lost a version or an entity tag must not read or delete another one."""
    put(store, "kept", await seal(keyring, b"data"))
    async with sealed_bucket(weed_server.url, store[1], keyring) as bucket:
        for wrong, error in (
            ("", ConfigurationError),
            (5, TypeError),
            ("a\nb", ConfigurationError),
        ):
            version: Any = {"version_id": wrong}
            with pytest.raises(error):
                await bucket.get("kept", partition=PARTITION, **version)
            for call in (bucket.stat, bucket.delete, bucket.presigned_get):
                with pytest.raises(error):
                    await call("kept", **version)
            with pytest.raises(error):
                await bucket.copy("kept", "lost", **version)
            with pytest.raises(error):
                await bucket.delete("kept", if_match=wrong)
        assert b"data" == await bucket.get("kept", partition=PARTITION)
        with pytest.raises(ConfigurationError):
            await bucket.rewrap("kept", partition=PARTITION, concurrency=0)


async def test_errors_about_odd_keys_are_one_line(
    weed_server: SeaweedFS, store: tuple[Any, str], keyring: StaticKeyring
) -> None:
    """Keys come from users: one must not write lines of its own into a log."""
    async with sealed_bucket(weed_server.url, store[1], keyring) as bucket:
        with pytest.raises(ObjectNotFoundError) as caught:
            await bucket.stat("no\nsuch: key")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["seaweedfs", "moto"])
async def test_presigned_urls_have_signatures_of_version_4(
    weed_server: SeaweedFS, moto_server: Moto, keyring: StaticKeyring, kind: str
) -> None:
    """Version 2, which botocore takes in older regions, is refused by newer buckets and SSE-KMS."""
    url = weed_server.url if kind == "seaweedfs" else moto_server.url
    client = blocking_client(url)
    name = f"signed-{kind}-{len(client.list_buckets()['Buckets'])}"
    client.create_bucket(Bucket=name)
    key = "a b/ä+&=~.txt"
    client.put_object(Bucket=name, Key=key, Body=await seal(keyring, b"data"))
    async with sealed_bucket(url, name, keyring) as bucket:
        for _ in range(2):
            signed = await bucket.presigned_get(key, expires_in=60)
            assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in signed
            source = HttpSource(signed)
            async with await ObjectReader.open(source, keyring, partition=PARTITION) as reader:
                assert b"data" == await reader.read_range(0)


async def test_presigned_url_opens_with_an_http_source(
    weed_server: SeaweedFS, store: tuple[Any, str], keyring: StaticKeyring
) -> None:
    """A client without credentials opens what it has the key for, range by range."""
    async with sealed_bucket(weed_server.url, store[1], keyring) as bucket:
        url = await bucket.presigned_get("large", expires_in=60)
        for seconds in (0, 604_801):
            with pytest.raises(ValueError):
                await bucket.presigned_get("large", expires_in=seconds)
        with pytest.raises(TypeError):
            await bucket.presigned_get("large", expires_in=1.5)  # type: ignore[arg-type]
    async with await ObjectReader.open(HttpSource(url), keyring, partition=PARTITION) as reader:
        assert large()[3 * MIB : 3 * MIB + 9] == await reader.read_range(3 * MIB, 3 * MIB + 9)
        assert large() == b"".join([piece async for piece in reader.stream()])


async def test_key_instead_of_a_keyring(
    weed_server: SeaweedFS, store: tuple[Any, str], key: Key, other_key: Key
) -> None:
    """A program with one key needs no keyring and no partition."""
    put(store, "keyed", await seal_off_loop(b"x" * 99, key))
    async with sealed_bucket(weed_server.url, store[1], key) as bucket:
        assert b"x" * 99 == await bucket.get("keyed")
        with pytest.raises(TypeError):
            await bucket.get("keyed", partition=PARTITION)
    async with sealed_bucket(weed_server.url, store[1], other_key) as bucket:
        with pytest.raises(WrongKeyError):
            await bucket.get("keyed")


async def test_connect_refuses_contradictions() -> None:
    """A typing error must not end in the wrong account."""
    for settings in (
        {"access_key": "a"},
        {"session_token": "t"},
        {"profile": "there is no such profile"},
        {"endpoint_url": "no url", "access_key": "a", "secret_key": "b"},
        {"timeout": -1.0},
        {"concurrency": 0},
    ):
        with pytest.raises(ConfigurationError):
            async with connect(region="us-east-1", **settings):  # type: ignore[arg-type]
                pytest.fail("no client")
