"""Sealed buckets without ``await``: the same calls, from threads, in forked children, at exit."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from anyseal import (
    ConfigurationError,
    DecryptionError,
    ExpiredError,
    Key,
    ObjectNotFoundError,
    PreconditionFailedError,
    SourceError,
    StaticKeyring,
    UploadError,
    UploadIncompleteError,
    UploadNotFoundError,
    WrongKeyError,
    s3,
    sync,
)
from anyseal.sync import bucket_calls
from anyseal.sync.bucket_reader import BucketReader
from anyseal.sync.buckets import SealedBucket
from anyseal.sync.calling import HANDED_BYTES, Caller, gathered
from storage_servers import ACCESS_KEY, SECRET_KEY, SeaweedFS
from support import pattern, run_python, said

pytest_plugins = ["server_fixtures"]

MIB = 1 << 20
PART = 5 * MIB
PLAIN = pattern(1 << 16) * 176  # 11 MiB: three parts
SMALL = PLAIN[:100_000]


@pytest.fixture(scope="module")
def name(weed_server: SeaweedFS) -> str:
    """A bucket."""
    return weed_server.new_bucket()


def connected(server: SeaweedFS, name: str, keyring: Any, **settings: Any) -> SealedBucket:
    """A bucket of *server*."""
    return SealedBucket.connect(
        name,
        keyring,
        endpoint_url=server.url,
        region="us-east-1",
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        part_size=PART,
        **settings,
    )


@pytest.fixture
def bucket(weed_server: SeaweedFS, name: str, key: Key) -> Iterator[SealedBucket]:
    """The bucket, open."""
    with connected(weed_server, name, key) as found:
        yield found


def uploads(server: SeaweedFS, name: str) -> list[Any]:
    """The multipart uploads that are under way."""
    found: list[Any] = server.client().list_multipart_uploads(Bucket=name).get("Uploads", [])
    return found


# ---- the same names


def methods(of: type) -> dict[str, Any]:
    """Its public methods, with their parameters."""
    return {
        name: [
            (one.name, one.kind, one.default)
            for one in inspect.signature(getattr(of, name)).parameters.values()
        ]
        for name in dir(of)
        if not name.startswith("_") and callable(getattr(of, name))
    }


def test_bucket_has_the_methods_of_the_async_one() -> None:
    """What is added there must be added here, with the same arguments and defaults."""
    ours = methods(SealedBucket)
    assert {"close"} == ours.keys() - methods(s3.SealedBucket).keys()
    for name, parameters in methods(s3.SealedBucket).items():
        assert parameters == ours[name], name


def test_reader_has_the_methods_of_the_local_one() -> None:
    """A program that reads files reads buckets too."""
    local = methods(sync.ObjectReader)
    del local["open"]  # the bucket opens
    assert local == methods(BucketReader)


def test_connect_takes_what_the_async_connect_takes() -> None:
    """But for ``concurrency``, which is the bucket's here."""
    theirs = set(inspect.signature(s3.connect).parameters) - {"concurrency"}
    ours = set(inspect.signature(SealedBucket.connect).parameters)
    assert {"bucket", "keyring", "connections", "settings"} == ours - theirs
    assert set() == theirs - ours


# ---- putting and reading


def sources(folder: Path, data: bytes) -> dict[str, Any]:
    """*data* as everything that ``put`` takes."""
    path = folder / "data"
    path.write_bytes(data)
    pieces = range(0, len(data), 50_000)
    return {
        "bytes": data,
        "bytearray": bytearray(data),
        "path": path,
        "file": path.open("rb"),
        "memory file": io.BytesIO(data),
        "small pieces": (data[at : at + 50_000] for at in pieces),
        "one piece": [data],
        "large pieces": iter([data[: 2 * MIB], b"", memoryview(data)[2 * MIB :]]),
    }


@pytest.mark.parametrize("size", [0, 1, len(SMALL), len(PLAIN)])
def test_put_takes_bytes_paths_files_and_iterables(
    bucket: SealedBucket, tmp_path: Path, size: int
) -> None:
    """Whatever a sync program has in its hands, with the same object as a result."""
    data = PLAIN[:size]
    for kind, source in sources(tmp_path, data).items():
        result = bucket.put(f"kinds/{kind}", source, context=b"c")
        assert size == result.size, kind
        assert (
            hashlib.sha256(data).digest()
            == hashlib.sha256(bucket.get(f"kinds/{kind}", context=b"c")).digest()
        ), kind
        if isinstance(source, io.IOBase):
            source.close()


@pytest.mark.parametrize(
    "data",
    ["", "text", None, 7, ["text"], [1, 2], {}, {b"a": 1}, set(), io.StringIO("text"), object(),
     [b"x", None]],
)  # fmt: skip
def test_put_refuses_what_gives_no_bytes(bucket: SealedBucket, data: Any) -> None:
    """A mistyped argument is told as one, and puts nothing."""
    with pytest.raises(TypeError) as caught:
        bucket.put("mistyped", data)
    assert "async" not in str(caught.value)
    with pytest.raises(ObjectNotFoundError):
        bucket.stat("mistyped")


def test_put_reads_and_tells_in_the_calling_thread(bucket: SealedBucket) -> None:
    """Database connections and the like belong to their thread."""
    seen, told = set(), []

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(PLAIN), MIB):
            seen.add(threading.get_ident())
            yield PLAIN[at : at + MIB]

    def progress(done: int, total: int | None) -> None:
        seen.add(threading.get_ident())
        told.append((done, total))

    bucket.put("thread", pieces(), progress=progress)
    assert {threading.get_ident()} == seen
    assert (0, None) == told[0]
    assert (len(PLAIN), None) == told[-1]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["piece", "progress"])
def test_put_that_user_code_ends_leaves_nothing(
    bucket: SealedBucket,
    weed_server: SeaweedFS,
    name: str,
    error: type[BaseException],
    where: str,
) -> None:
    """An exception comes out as it is, when the upload is gone."""

    def pieces() -> Iterator[bytes]:
        for at in range(0, 40 * MIB, MIB):
            if where == "piece" and at == 12 * MIB:
                raise error
            yield bytes(MIB)

    def progress(done: int, total: int | None) -> None:
        if where == "progress" and done:
            raise error

    with pytest.raises(error):
        bucket.put("interrupted", pieces(), progress=progress)
    assert [] == uploads(weed_server, name)
    with pytest.raises(ObjectNotFoundError):
        bucket.stat("interrupted")
    assert 3 == bucket.put("interrupted", b"now").size  # the bucket goes on
    bucket.delete("interrupted")


def test_put_of_a_stream_of_the_same_bucket(bucket: SealedBucket) -> None:
    """The calling thread makes a call while it waits for another one."""
    bucket.put("source", PLAIN)
    bucket.put("target", bucket.stream("source"))
    assert PLAIN == bucket.get("target")


def test_put_keeps_its_conditions(bucket: SealedBucket) -> None:
    """Options reach the async bucket under their names."""
    first = bucket.put("conditions", b"1", metadata={"a": "b"}, content_type="text/plain")
    with pytest.raises(PreconditionFailedError):
        bucket.put("conditions", b"2", if_none_match=True)
    bucket.put("conditions", b"2", if_match=first.etag)
    with pytest.raises(PreconditionFailedError):
        bucket.delete("conditions", if_match=first.etag)
    assert b"2" == bucket.get("conditions")


def test_reader_reads_ranges_pieces_and_files(bucket: SealedBucket) -> None:
    """One opened object, all ways to read it."""
    bucket.put("read", PLAIN, context=b"c")
    with bucket.open("read", context=b"c") as reader:
        assert len(PLAIN) == reader.size
        assert 1 << 16 == reader.info.chunk_bytes
        assert PLAIN[70_000:70_100] == reader.read_range(70_000, 70_100)
        buffer = bytearray(1000)
        assert 1000 == reader.read_into(MIB, buffer)
        assert PLAIN[MIB : MIB + 1000] == buffer
        assert PLAIN[9:] == b"".join(reader.stream(9))
        reader.verify()
        with reader.file() as file:
            assert PLAIN[:10] == file.read(10)
            file.seek(-10, io.SEEK_END)
            assert PLAIN[-10:] == file.read()
    with pytest.raises(ValueError, match="closed"):
        reader.read_range(0, 1)
    reader.close()
    assert PLAIN[5:9] == bucket.get_range("read", 5, 9, context=b"c")
    with pytest.raises(DecryptionError):
        bucket.open("read", context=b"d")


def test_stream_ends_early(bucket: SealedBucket) -> None:
    """Who leaves does not have to read to the end, nor to begin."""
    bucket.put("left", PLAIN)
    pieces = bucket.stream("left")
    assert PLAIN[:MIB] == next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    for _ in zip(range(2), bucket.stream("left", 5), strict=False):
        pass
    bucket.stream("left")
    with bucket.open("left") as reader, contextlib.closing(reader.stream()) as read:  # type: ignore[type-var]
        next(read)


def test_download_file_tells_in_the_calling_thread(bucket: SealedBucket, tmp_path: Path) -> None:
    """The file is there when the call returns."""
    bucket.put("file", PLAIN)
    told: list[tuple[int, int | None, int]] = []

    def progress(done: int, total: int | None) -> None:
        told.append((done, total, threading.get_ident()))

    assert len(PLAIN) == bucket.download_file("file", tmp_path / "file", progress=progress)
    assert PLAIN == (tmp_path / "file").read_bytes()
    assert (len(PLAIN), len(PLAIN), threading.get_ident()) == told[-1]


def test_download_file_that_progress_ends_is_resumed(bucket: SealedBucket, tmp_path: Path) -> None:
    """An exception in the calling thread is a cancellation: what is done stays done."""
    bucket.put("file", PLAIN)

    def stop(done: int, total: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bucket.download_file("file", tmp_path / "file", progress=stop, concurrency=1)
    assert not (tmp_path / "file").exists()
    told: list[int] = []
    bucket.download_file("file", tmp_path / "file", progress=lambda done, _: told.append(done))
    assert told[0] > 0
    assert PLAIN == (tmp_path / "file").read_bytes()


# ---- without a key


def test_objects_are_listed_copied_and_deleted(weed_server: SeaweedFS, key: Key) -> None:
    """What needs no key."""
    with connected(weed_server, weed_server.new_bucket(), key) as bucket:
        assert [] == list(bucket.list())
        bucket.put("a/1", SMALL)
        etag = bucket.copy("a/1", "a/2", metadata={"copied": "yes"})
        bucket.put("b", b"")
        found = list(bucket.list("a/"))
        assert ["a/1", "a/2"] == [one.key for one in found]
        assert etag.strip('"') == found[1].etag.strip('"')
        assert ["b"] == [one.key for one in bucket.list(start_after="a/2")]
        stat = bucket.stat("a/2")
        assert (len(SMALL), key.key_id, "yes") == (stat.size, stat.key_id, stat.metadata["copied"])
        bucket.delete("a/1")
        assert "a/2" == next(bucket.list()).key
        assert SMALL == bucket.get("a/2")


def test_list_in_several_looks(
    weed_server: SeaweedFS, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every object once, whatever fits into one look at the event loop."""
    monkeypatch.setattr(bucket_calls, "LISTED_AT_ONCE", 4)
    with connected(weed_server, weed_server.new_bucket(), key) as bucket:
        for count in range(1, 10):
            bucket.put(f"{count}", b"")
            assert [f"{one + 1}" for one in range(count)] == [one.key for one in bucket.list()]


def test_presigned_url_opens_without_the_bucket(bucket: SealedBucket, key: Key) -> None:
    """Whoever has URL and key reads."""
    bucket.put("presigned", SMALL)
    source = sync.HttpSource(bucket.presigned_get("presigned", expires_in=60))
    with sync.ObjectReader.open(source, key) as reader:
        assert SMALL[7:9] == reader.read_range(7, 9)


def test_rewrap_and_partitions(weed_server: SeaweedFS, name: str) -> None:
    """A keyring that has rotated; each tenant its own."""
    old, new = pattern(32, "old"), pattern(32, "new")
    with connected(weed_server, name, StaticKeyring(old)) as bucket:
        bucket.put("rewrapped", SMALL, partition="t7")
        with pytest.raises(TypeError):
            bucket.put("rewrapped", SMALL)
    with connected(weed_server, name, StaticKeyring(new, [old])) as bucket:
        assert bucket.rewrap("rewrapped", partition="t7").changed
        assert not bucket.rewrap("rewrapped", partition="t7").changed
    with connected(weed_server, name, StaticKeyring(new)) as bucket:
        assert SMALL == bucket.get("rewrapped", partition="t7")
        with pytest.raises(WrongKeyError):
            bucket.get("rewrapped", partition="t8")


# ---- uploads in parts


def test_upload_in_parts_by_threads(bucket: SealedBucket) -> None:
    """Any worker seals any part, in any order, again, from anything that gives bytes."""
    token = bucket.create_upload("parts", size=len(PLAIN), context=b"c", metadata={"a": "b"})
    plan = bucket.part_plan(token)

    def send(number: int) -> str:
        data = PLAIN[plan.part(number).start : plan.part(number).stop]
        forms = [data, io.BytesIO(data), (data[at : at + 999] for at in range(0, len(data), 999))]
        return bucket.upload_part(token, number, forms[number % 3])

    with ThreadPoolExecutor() as pool:
        receipts = list(pool.map(send, reversed(range(1, len(plan) + 1))))
    assert [] == bucket.resume(token, iter(receipts))
    assert [len(plan)] == bucket.resume(token, receipts[1:])
    with pytest.raises(UploadIncompleteError):
        bucket.complete_upload(token, receipts[1:])
    done = bucket.complete_upload(token, iter(receipts))
    assert len(PLAIN) == done.size
    assert PLAIN == bucket.get("parts", context=b"c")
    assert "b" == bucket.stat("parts").metadata["a"]
    assert done == bucket.complete_upload(token, receipts)


def test_upload_part_that_is_too_short_or_fails(
    bucket: SealedBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is uploaded, and the part can be sent again."""
    token = bucket.create_upload("parts", size=len(SMALL), expires_in=3000)

    def failing() -> Iterator[bytes]:
        yield SMALL[:10]
        raise ZeroDivisionError

    with pytest.raises(UploadError):
        bucket.upload_part(token, 1, [SMALL[:10]])
    with pytest.raises(ZeroDivisionError):
        bucket.upload_part(token, 1, failing())
    with pytest.raises(TypeError):
        bucket.upload_part(token, 1, "text")
    with pytest.raises(TypeError):
        bucket.complete_upload(token, "receipt")
    later = SimpleNamespace(time_ns=lambda: time.time_ns() + 3001 * 10**9)
    monkeypatch.setattr("anyseal.value.time", later)
    with pytest.raises(ExpiredError):
        bucket.upload_part(token, 1, SMALL)
    bucket.abort_upload(token)
    fresh = bucket.create_upload("parts", size=len(SMALL))
    bucket.abort_upload(fresh)
    with pytest.raises(UploadNotFoundError):
        bucket.upload_part(fresh, 1, SMALL)


# ---- client, threads, processes


def test_bucket_is_made_without_a_loop_and_closed_for_good(key: Key) -> None:
    """A module may make one at import; wrong settings are told there."""
    bucket = SealedBucket.connect("some-bucket", key, region="us-east-1")
    assert "some-bucket" == bucket.bucket
    bucket.close()
    bucket.close()
    with pytest.raises(ValueError, match="closed"):
        bucket.get("key")
    with pytest.raises(ConfigurationError):
        SealedBucket.connect("some-bucket", key, concurrency=0)
    with pytest.raises(TypeError):
        SealedBucket.connect("some-bucket", key, nothing=1)
    with pytest.raises(ConfigurationError), SealedBucket.connect("b", key, access_key="half"):
        pass


def test_bucket_of_a_server_that_is_not_there(key: Key) -> None:
    """A typed error in the calling thread."""
    settings = {"region": "us-east-1", "access_key": "a", "secret_key": "b", "attempts": 1}
    with SealedBucket.connect("b", key, endpoint_url="http://127.0.0.1:9", **settings) as bucket:
        with pytest.raises(SourceError):
            bucket.get("key")
        with pytest.raises(SourceError):
            list(bucket.list())


def test_bucket_is_used_by_many_threads_at_once(
    weed_server: SeaweedFS, name: str, key: Key
) -> None:
    """Also the first call, which makes the client, and only one."""
    made = []

    def client() -> Any:
        made.append(1)
        return s3.connect(
            endpoint_url=weed_server.url,
            region="us-east-1",
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
        )

    def work(number: int) -> bool:
        data = SMALL[number:]
        bucket.put(f"threads/{number}", [data])
        return (
            data == bucket.get(f"threads/{number}") == b"".join(bucket.stream(f"threads/{number}"))
        )

    with contextlib.closing(SealedBucket(client, name, key)) as bucket:
        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(work, range(48)))
        assert [1] == made


FORKING = """
import io, os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: this process has threads
from anyseal import SourceError, sync
url, name, access_key, secret_key = sys.argv[1:]
bucket = sync.SealedBucket.connect(
    name, sync.Key.from_bytes(bytes(32)), endpoint_url=url, region="us-east-1",
    access_key=access_key, secret_key=secret_key,
)
data = bytes(2_000_000)
bucket.put("parent", data)
reader, pieces = bucket.open("parent"), bucket.stream("parent")
next(pieces)
for child in range(3):
    if os.fork() == 0:
        bucket.put(f"child-{child}", data[child:])
        for broken in (lambda: reader.read_range(0, 1), lambda: next(pieces)):
            try:
                broken()
                os._exit(1)
            except SourceError:
                pass
        assert bucket.get("parent") == data
        if child:
            bucket.close()
        os._exit(0)
print([os.waitstatus_to_exitcode(os.wait()[1]) for child in range(3)])
print(len(b"".join(pieces)), reader.read_range(0, 3), reader.size)
print([len(bucket.get(f"child-{child}")) for child in range(3)])
"""


def test_bucket_works_in_forked_children(weed_server: SeaweedFS, name: str) -> None:
    """Each child has a client of its own, and the parent's goes on; nothing is said at exit."""
    done = run_python(FORKING, weed_server.url, name, ACCESS_KEY, SECRET_KEY)
    assert [
        "[0, 0, 0]",
        "951424 b'\\x00\\x00\\x00' 2000000",
        "[2000000, 1999999, 1999998]",
    ] == said(done)


LEFT_OPEN = """
import sys
from anyseal import sync
url, name, access_key, secret_key = sys.argv[1:]
bucket = sync.SealedBucket.connect(
    name, sync.Key.from_bytes(bytes(32)), endpoint_url=url, region="us-east-1",
    access_key=access_key, secret_key=secret_key,
)
bucket.put("left-open", bytes(20_000_000))
reader, pieces, listed = bucket.open("left-open"), bucket.stream("left-open"), bucket.list()
print(len(next(pieces)), next(listed) is not None, reader.size)
"""


def test_bucket_that_nobody_closes_is_closed_at_exit(weed_server: SeaweedFS, name: str) -> None:
    """A script ends in silence, and at once."""
    done = run_python(LEFT_OPEN, weed_server.url, name, ACCESS_KEY, SECRET_KEY)
    assert ["1048576 True 20000000"] == said(done)


def test_import_without_aiobotocore_says_what_to_install() -> None:
    """An extra that is missing must name itself."""
    code = """
        import sys
        sys.modules["aiobotocore"] = sys.modules["botocore"] = None
        from anyseal import ConfigurationError, sync
        try:
            sync.SealedBucket
        except ConfigurationError as error:
            print(error)
    """
    assert ["S3 needs aiobotocore: pip install 'anyseal[aws]'"] == said(run_python(code))


@pytest.mark.parametrize("size", [0, 1, 999, HANDED_BYTES - 1, HANDED_BYTES, HANDED_BYTES + 1])
def test_gathered_pieces_are_the_bytes(size: int) -> None:
    """None lost, none empty, few of them; a buffer that its maker fills again does no harm."""
    buffer = bytearray(size)

    def pieces() -> Iterator[bytearray]:
        for number in range(5):
            buffer[:] = bytes([number]) * size
            yield buffer

    taken = [bytes(piece) for piece in gathered(pieces())]
    assert b"".join(bytes([number]) * size for number in range(5)) == b"".join(taken)
    assert all(taken)
    assert len(taken) <= max(1, 5 * size // HANDED_BYTES + 1)


def test_caller_waits_until_what_it_cancels_has_ended() -> None:
    """An exception goes on when nothing runs any more that could still write somewhere."""
    ended = []

    async def work(told: Any) -> None:
        told(1, None)
        try:
            await anyio.sleep(30)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
            ended.append(True)

    def fail(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    caller = Caller()
    with pytest.raises(KeyboardInterrupt):
        caller.run(work, caller.told(fail))
    assert [True] == ended


def test_caller_is_interrupted_while_it_waits() -> None:
    """Ctrl-C ends a call that waits for a server, not only user code."""
    ended, begun = [], threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await anyio.sleep(90)
        finally:
            ended.append(True)

    def interrupt() -> None:
        if begun.wait(60):
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        Caller().run(work)
    thread.join()
    assert [True] == ended


def test_caller_in_the_shared_loop_does_not_hang() -> None:
    """A sync call from the loop that it would wait for is an error, not a deadlock."""

    async def work() -> None:
        Caller().run(work)

    with pytest.raises(RuntimeError):
        Caller().run(work)


def test_sync_offers_the_blocking_cache_backends(tmp_path: Path) -> None:
    """A cache without ``await`` needs one import."""
    backend = sync.SQLiteBackend(tmp_path / "cache.db")
    cache = sync.Cache(backend, Key.generate())
    cache.set("a", "b")
    assert "b" == cache.get("a")
    backend.close()
    assert isinstance(sync.backend_from_url("memory://"), sync.MemoryBackend)
    for name in ("HttpBackend", "MemcachedBackend", "RedisBackend"):
        assert f"Blocking{name}" == getattr(sync, name).__name__
