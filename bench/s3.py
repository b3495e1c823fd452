"""Sealed objects in S3 beside plain ones: SeaweedFS on this machine, aiobotocore on both sides.

``python -m bench.s3 CASE URL BUCKET SIZE FOLDER`` is a process of its own: what memory is measured
of.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from anyseal import Key
from anyseal.s3 import SealedBucket
from bench.harness import GIB, MIB, Row, Settings, attempt, faster, paired, paired_async, slower
from bench.loop import gaps_beside
from bench.memory import peak
from bench.servers import SeaweedFS, YieldingSeaweedFS, environment, s3_client

PART = 8 * MIB
AT_ONCE = 4
RANGE = 64 << 10
LIMIT_MIB = 150.0
KEY = Key.from_bytes(bytes(range(32)))
RIVAL = "amazon-s3-encryption-client-python 4.0"
DONE = b"<R><UploadId>u</UploadId><ETag>e</ETag></R>"
UNSIGNED = {"s3": {"addressing_style": "path", "payload_signing_enabled": False}}


def bucket_of(client: Any, name: str) -> SealedBucket:
    return SealedBucket(client, name, KEY, part_size=PART, concurrency=AT_ONCE)


async def each(number: int, work: Callable[[int], Awaitable[None]]) -> None:
    """*work* for 0, 1, ... *number*, AT_ONCE at a time."""
    numbers = iter(range(number))

    async def worker() -> None:
        for each in numbers:
            await work(each)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


async def plain_put(client: Any, bucket: str, key: str, data: bytes) -> None:
    """A plain multipart upload with the same part size and concurrency."""
    made = await client.create_multipart_upload(Bucket=bucket, Key=key)
    upload, parts = made["UploadId"], {}

    async def part(number: int) -> None:
        body = data[number * PART : (number + 1) * PART]
        answer = await client.upload_part(
            Bucket=bucket, Key=key, UploadId=upload, PartNumber=number + 1, Body=body
        )
        parts[number + 1] = answer["ETag"]

    await each(-(-len(data) // PART), part)
    listed = [{"PartNumber": number, "ETag": parts[number]} for number in sorted(parts)]
    await client.complete_multipart_upload(
        Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": listed}
    )


async def plain_download(client: Any, bucket: str, key: str, size: int, path: Path) -> None:
    """Plain parallel ranged GETs into a file, each written in a worker thread."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:

        async def part(number: int) -> None:
            first = number * PART
            last = min(size, first + PART) - 1
            answer = await client.get_object(Bucket=bucket, Key=key, Range=f"bytes={first}-{last}")
            async with answer["Body"] as body:
                data = await body.read()
            await asyncio.to_thread(os.pwrite, descriptor, data, first)

        await each(-(-size // PART), part)
    finally:
        os.close(descriptor)


class ReadingSink:
    """An S3 that reads bodies and keeps nothing: what the client side costs alone."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self.url = ""

    async def __aenter__(self) -> ReadingSink:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                if "expect: 100-continue" in head:
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                if "transfer-encoding: chunked" in head:
                    while size := int((await reader.readline()).split(b";")[0], 16):
                        await self._skip(reader, size + 2)
                    await reader.readline()
                elif "content-length: " in head:
                    size = int(head.split("content-length: ")[1].split("\r\n")[0])
                    await self._skip(reader, size)
                body = DONE if head.startswith("post /") else b""
                answer = f'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: {len(body)}\r\n\r\n'
                writer.write(answer.encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    @staticmethod
    async def _skip(reader: asyncio.StreamReader, size: int) -> None:
        while size:
            piece = await reader.read(min(size, 1 << 20))
            if not piece:
                raise ConnectionError
            size -= len(piece)


def sink_process() -> tuple[subprocess.Popen[bytes], str]:
    """A ReadingSink in a process of its own."""
    process = subprocess.Popen([sys.executable, "-m", "bench.s3", "sink"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, process.stdout.readline().decode().strip()


async def transfers(server: SeaweedFS, settings: Settings) -> list[Row]:
    """Upload and download of a large object, and a range of it."""
    rows: list[Row] = []
    size, bucket = settings.file_bytes, server.new_bucket()
    data = os.urandom(64 * MIB) * max(1, size // (64 * MIB))
    size, name = len(data), named(len(data))
    few = Settings(
        folder=settings.folder, seconds=settings.seconds * 10,
        pairs_min=min(5, settings.pairs_min), pairs_max=9, warmups=1,
    )  # fmt: skip
    target = settings.folder / "target"

    def settle() -> None:
        """Nothing of the last run is written back in the next one."""
        target.unlink(missing_ok=True)
        os.sync()

    async with s3_client(server.url, **UNSIGNED, max_pool_connections=16) as client:
        sealed = bucket_of(client, bucket)
        pairs = await paired_async(
            lambda: sealed.put("sealed", data),
            lambda: plain_put(client, bucket, "plain", data),
            few,
            before=settle,
        )
        rows.append(
            faster("s3", f"put {name}", pairs, size, rival="plain multipart", at_least=0.95)
        )
        pairs = await paired_async(
            lambda: sealed.download_file("sealed", target, overwrite=True),
            lambda: plain_download(client, bucket, "plain", size, target),
            few,
            before=settle,
        )
        figure = f"download_file {name}"
        rows.append(
            faster("s3", figure, pairs, size, rival="plain parallel ranged GETs", at_least=0.85)
        )
        places = itertools.cycle(range(RANGE // 2, size - 2 * RANGE, size // 37))
        async with await sealed.open("sealed") as reader:

            async def ours() -> None:
                for _ in range(20):
                    at = next(places)
                    assert len(await reader.read_range(at, at + RANGE)) == RANGE

            async def plain() -> None:
                for _ in range(20):
                    at = next(places)
                    answer = await client.get_object(
                        Bucket=bucket, Key="plain", Range=f"bytes={at}-{at + RANGE - 1}"
                    )
                    async with answer["Body"] as body:
                        assert len(await body.read()) == RANGE

            pairs = await paired_async(ours, plain, settings)
            rows.append(
                slower(
                    "s3",
                    "64 KiB range of an opened object",
                    pairs,
                    20,
                    rival="a plain ranged GET",
                    at_most=1.3,
                    scale=(1e3, "ms"),
                )
            )
            geometry = reader.opened.geometry
            part = next(iter(reader.opened.parts(RANGE // 2, RANGE + RANGE // 2)))
            extra = (part.run.length - RANGE) / (geometry.chunk_bytes + geometry.tag_bytes)
            rows.append(
                Row(
                    group="s3",
                    figure="64 KiB range: chunks read beyond it",
                    ours=f"{part.run.length:,} bytes",
                    rival=f"{RANGE:,} bytes",
                    value=extra,
                    low=extra,
                    high=extra,
                    must=("<=", 2.0),
                    unit="chunks",
                )
            )
        rows += await gaps(client, sealed, data, target, name)
    process, url = sink_process()
    try:
        async with s3_client(url, **UNSIGNED, max_pool_connections=16) as client:
            sealed = bucket_of(client, bucket)
            pairs = await paired_async(
                lambda: sealed.put("sealed", data),
                lambda: plain_put(client, bucket, "plain", data),
                few,
            )
            rows.append(
                faster(
                    "s3",
                    f"put {name} into a sink that only reads",
                    pairs,
                    size,
                    rival="plain multipart",
                    at_least=0.7,
                )
            )
    finally:
        process.kill()
        process.wait()
    return rows


def named(size: int) -> str:
    return f"{size // GIB} GiB" if size >= GIB else f"{size // MIB} MiB"


def p99(gaps: list[float]) -> float:
    ordered = sorted(gaps)
    return ordered[len(ordered) * 99 // 100]


async def gaps(
    client: Any, sealed: SealedBucket, data: bytes, target: Path, name: str
) -> list[Row]:
    """The gaps of a 1 ms ticker beside each of these, and beside the plain transfer."""
    rows = []
    bucket, size = sealed.bucket, len(data)
    await sealed.put("gaps", data)
    await plain_put(client, bucket, "plain", data)
    work: dict[str, tuple[Callable[[], Awaitable[Any]], Callable[[], Awaitable[Any]]]] = {
        "put": (
            lambda: sealed.put("gaps", data),
            lambda: plain_put(client, bucket, "plain", data),
        ),
        "download_file": (
            lambda: sealed.download_file("gaps", target, overwrite=True),
            lambda: plain_download(client, bucket, "plain", size, target),
        ),
    }
    for verb, (ours, plain) in work.items():
        own: list[float] = []
        found = await gaps_beside(ours, 1, os.sync, own=own)
        beside = p99(await gaps_beside(plain, 2, os.sync))
        found = sorted(found + await gaps_beside(ours, 1, os.sync, own=own))
        middle = found[len(found) // 2]
        rows.append(
            Row(
                group="s3",
                figure=f"{verb} {name} beside a 1 ms ticker",
                ours=f"p99 {p99(found):.2f} ms, max {found[-1]:.2f} ms; the loop's own work in a "
                f"gap: p99 {p99(own):.2f} ms",
                rival=f"plain: p99 {beside:.2f} ms",
                value=p99(found),
                low=middle,
                high=found[-1],
                must=("<=", 5.0),
                unit="ms",
                detail={
                    "ticks": len(found),
                    "max_ms": found[-1],
                    "own_p99_ms": p99(own),
                    "plain_p99_ms": beside,
                },
            )
        )
    return rows


async def gaps_alone(server: SeaweedFS, settings: Settings) -> list[Row]:
    """The gaps beside a server that leaves the CPUs to the client, as one elsewhere does."""
    data = os.urandom(64 * MIB) * max(1, settings.file_bytes // (64 * MIB))
    async with s3_client(server.url, **UNSIGNED, max_pool_connections=16) as client:
        sealed = bucket_of(client, server.new_bucket())
        name = f"{named(len(data))} to a server at nice 19,"
        return await gaps(client, sealed, data, settings.folder / "target", name)


def beside_rival(server: SeaweedFS, settings: Settings) -> Iterator[Row]:
    """The S3 Encryption Client, in an environment of its own: it pins an older cryptography."""
    python = environment("s3ec")
    size, bucket = min(settings.payload, 256 * MIB), server.new_bucket()
    few = Settings(
        folder=settings.folder, seconds=settings.seconds * 10,
        pairs_min=min(5, settings.pairs_min), pairs_max=9, warmups=1,
    )  # fmt: skip
    worker = Path(__file__).with_name("s3_rival.py")
    command = [str(python), str(worker), server.url, bucket, str(size)]
    rival = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert rival.stdout is not None
    way = rival.stdout.readline().strip()
    loop = asyncio.new_event_loop()

    def theirs(verb: str) -> float:
        assert rival.stdin is not None
        assert rival.stdout is not None
        rival.stdin.write(verb + "\n")
        rival.stdin.flush()
        return float(rival.stdout.readline())

    data = os.urandom(16 * MIB) * (size // (16 * MIB))
    context = s3_client(server.url, **UNSIGNED, max_pool_connections=16)
    sealed = bucket_of(loop.run_until_complete(context.__aenter__()), bucket)
    try:
        name = f"{len(data) // MIB} MiB"
        pairs = paired(
            lambda: loop.run_until_complete(sealed.put("ours", data)),
            lambda: theirs("put"),
            few,
            before=os.sync,
        )
        yield faster("s3", f"put {name}", pairs, len(data), rival=RIVAL, at_least=1.0, way=way)

        def get() -> None:
            assert len(loop.run_until_complete(sealed.get("ours"))) == len(data)

        pairs = paired(get, lambda: theirs("get"), few)
        yield faster("s3", f"get {name}", pairs, len(data), rival=RIVAL, at_least=2.0)
    finally:
        loop.run_until_complete(context.__aexit__(None, None, None))
        rival.kill()
        rival.wait()
        loop.close()


async def memory_case(case: str, url: str, bucket: str, size: int, folder: Path) -> int:
    """Transfer an object of *size* bytes; the peak above the baseline."""

    async def pieces() -> AsyncIterator[bytes]:
        piece = os.urandom(MIB)
        for _ in range(size // MIB):
            yield piece

    async with s3_client(url, **UNSIGNED, max_pool_connections=16) as client:
        sealed = bucket_of(client, bucket)
        await sealed.put("small", os.urandom(MIB))
        assert len(await sealed.get("small")) == MIB
        before = peak()
        if case == "upload":
            await sealed.put("memory", pieces())
        else:
            await sealed.download_file("memory", folder / "memory", overwrite=True)
            (folder / "memory").unlink()
        return peak() - before


def memory(server: SeaweedFS, settings: Settings) -> Iterator[Row]:
    """Peak memory, with AT_ONCE parts of PART bytes on their way."""
    bucket, size = server.new_bucket(), 4 * settings.file_bytes
    for case in ("upload", "download"):
        command = [sys.executable, "-m", "bench.s3", case, server.url, bucket, str(size)]
        command.append(str(settings.folder))
        os.sync()
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=600)
        used = json.loads(done.stdout) / MIB
        yield Row(
            group="s3", figure=f"{case} {size / GIB:g} GiB, peak memory above the baseline",
            ours=f"{used:.0f} MiB", rival=f"{AT_ONCE} parts of {PART // MIB} MiB", value=used,
            low=used, high=used, must=("<=", LIMIT_MIB), unit="MiB",
        )  # fmt: skip


def run(settings: Settings) -> Iterator[Row]:
    """All rows of this topic."""
    server = SeaweedFS()
    try:
        yield from attempt("s3", "transfers", lambda: asyncio.run(transfers(server, settings)))
        yield from attempt("s3", "peak memory", lambda: memory(server, settings))
        yield from attempt("s3", "put and get", lambda: beside_rival(server, settings), RIVAL)
    finally:
        server.close()
    server = YieldingSeaweedFS()
    try:
        alone = attempt("s3", "gaps", lambda: asyncio.run(gaps_alone(server, settings)))
        yield from alone
    finally:
        server.close()


async def serve_sink() -> None:
    async with ReadingSink() as sink:
        print(sink.url, flush=True)
        await asyncio.sleep(600)


if __name__ == "__main__":
    if sys.argv[1] == "sink":
        asyncio.run(serve_sink())
    else:
        case, url, bucket, size, folder = sys.argv[1:]
        print(json.dumps(asyncio.run(memory_case(case, url, bucket, int(size), Path(folder)))))
