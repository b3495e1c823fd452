"""Sealed objects over HTTP, from servers that misbehave."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from anyseal.errors import SourceError
from anyseal.objects.http import BlockingHttpSource, HttpSource
from evil.http_protocol import Answer, HttpProtocol, HttpRequest
from evil.server import EvilServer
from evil.suite import TIMEOUT, Calls, Target, awaited, behaviours, is_slow, survives, survives_late

OBJECT = bytes(range(256)) * 300
RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)")
FIRST = HttpRequest("GET", "/object", {"range": "bytes=0-99"}, b"")


def _served(request: HttpRequest) -> Answer:
    """A range of OBJECT."""
    match = RANGE.fullmatch(request.headers["range"])
    assert match is not None
    first, last = match.groups()
    size = len(OBJECT)
    start = int(first) if first else size - int(last)
    end = min(int(last) if first else size - 1, size - 1)
    headers = {"Content-Range": f"bytes {start}-{end}/{size}", "ETag": '"7"'}
    return Answer(OBJECT[start : end + 1], 206, headers)


def _ranges() -> HttpProtocol:
    return HttpProtocol(_served)


def _async(make: Callable[[str], HttpSource]) -> Callable[[EvilServer], Any]:
    async def ends(source: Any) -> Any:
        return (await source.ends(100, 100)).tail

    async def read(source: Any) -> Any:
        return bytes(await source.read(1000, 500))

    async def close(source: Any) -> None:
        await source.aclose()
        await source._client.aclose()  # also one that was given

    calls = {"ends": ends, "read": read}

    @contextlib.contextmanager
    def made(server: EvilServer) -> Iterator[Calls]:
        url = f"http://127.0.0.1:{server.port}/object"
        with awaited(lambda: make(url), calls, close) as found:
            for _ in range(9):  # a busy machine may need longer than the timeout
                with contextlib.suppress(SourceError):
                    found["ends"]()
                    break
            yield found

    return made


def _blocking(make: Callable[[str], BlockingHttpSource]) -> Callable[[EvilServer], Any]:
    def read(source: BlockingHttpSource) -> bytes:
        buffer = bytearray(500)
        source.pread_into(1000, memoryview(buffer))
        return bytes(buffer)

    @contextlib.contextmanager
    def made(server: EvilServer) -> Iterator[Calls]:
        source = make(f"http://127.0.0.1:{server.port}/object")
        try:
            for _ in range(9):
                with contextlib.suppress(SourceError):
                    source.pread_ends(100, 100)
                    break
            yield {
                "ends": lambda: bytes(source.pread_ends(100, 100).tail),
                "read": lambda: read(source),
            }
        finally:
            source.close()
            source._client.close()  # also one that was given

    return made


MAKERS = {
    "async": _async(lambda url: HttpSource(url, timeout=TIMEOUT)),
    "blocking": _blocking(lambda url: BlockingHttpSource(url, timeout=TIMEOUT)),
    "async-given": _async(lambda url: HttpSource(url, httpx.AsyncClient(timeout=TIMEOUT))),
    "blocking-given": _blocking(lambda url: BlockingHttpSource(url, httpx.Client(timeout=TIMEOUT))),
}
TARGETS = {
    name: Target(name=name, speaks=_ranges, make=make, errors=(SourceError,))
    for name, make in MAKERS.items()
}


@pytest.mark.parametrize("name", ["async", "blocking"])
def test_source_survives_each_answer(name: str) -> None:
    """Only what was asked for is taken, and only so much."""
    target = TARGETS[name]
    does = [each for each in behaviours(_ranges(), FIRST) if not is_slow(each)]
    assert [wrong for call in ("ends", "read") for wrong in survives(target, call, does)] == []


@pytest.mark.parametrize("name", TARGETS)
def test_source_survives_a_slow_server(name: str) -> None:
    """The timeout is that of the call, with a client of our own and with one that was given."""
    does = [each for each in behaviours(_ranges(), FIRST) if is_slow(each)]
    assert survives_late(TARGETS[name], ("ends", "read"), does) == []
