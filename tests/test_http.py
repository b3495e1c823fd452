"""Sealed objects behind HTTP: few bytes, one version, typed errors. Against a real server."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import httpx
import pytest

import anyseal
from anyseal import (
    DecryptionError,
    FormatError,
    HttpSource,
    Key,
    SourceChangedError,
    SourceError,
    sync,
)
from http_server import Store, serving
from support import a_key, pattern, seal_bytes

SIZE = 4 << 20
CHUNK = 64 << 10
DATA = pattern(SIZE)
pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def sealed() -> bytes:
    """An object with chunks of 64 KiB."""
    return seal_bytes(DATA, a_key(), chunk_size=CHUNK, segment_size=1 << 20)


@pytest.fixture
def store(sealed: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """It, behind a URL."""
    monkeypatch.setenv("NO_PROXY", "*")
    with serving(sealed) as found:
        yield found


def resealed() -> bytes:
    """Other bytes of the same length: a second upload of the same data."""
    return seal_bytes(DATA, a_key(), chunk_size=CHUNK, segment_size=1 << 20)


async def test_http_reads_like_a_slice(store: Store, key: Key) -> None:
    """Head and tail, ranges, streams, everything; with a client of its own, closed at the end."""
    async with await anyseal.ObjectReader.open(HttpSource(store.url), key) as reader:
        assert SIZE == reader.size
        for start, stop in ((0, 1), (CHUNK - 1, CHUNK + 1), (SIZE - 1, SIZE), (999, 2_500_000)):
            assert DATA[start:stop] == await reader.read_range(start, stop)
        assert DATA == b"".join([piece async for piece in reader.stream()])
        buffer = bytearray(1000)
        assert 1000 == await reader.read_into(5_000, buffer)
        assert DATA[5_000:6_000] == buffer
        await reader.verify()


def test_http_reads_like_a_slice_in_sync_code(store: Store, key: Key) -> None:
    """The same without a loop."""
    with sync.ObjectReader.open(sync.HttpSource(store.url), key) as reader:
        for start, stop in ((0, 1), (CHUNK - 1, CHUNK + 1), (SIZE - 1, SIZE), (999, 2_500_000)):
            assert DATA[start:stop] == reader.read_range(start, stop)
        reader.verify()


@pytest.mark.parametrize("start", [0, 1, CHUNK - 1, 1 << 20, (1 << 20) - 1, SIZE // 2 + 333])
async def test_http_touches_two_chunks_beyond_the_range_at_most(
    store: Store, key: Key, start: int
) -> None:
    """A megabyte fetched for a kilobyte read would be paid for, and waited for."""
    async with await anyseal.ObjectReader.open(HttpSource(store.url), key) as reader:
        assert store.sent <= 200 + 4096
        assert 2 == len(store.requests)
        store.sent = 0
        assert DATA[start : start + CHUNK] == await reader.read_range(start, start + CHUNK)
        assert store.sent <= 3 * (CHUNK + 32) + 2 * 16


async def test_http_pins_every_read_to_its_version(store: Store, key: Key) -> None:
    """An object replaced between two reads must never be read as a mixture."""
    async with await anyseal.ObjectReader.open(HttpSource(store.url), key) as reader:
        await reader.read_range(0, 10)
        assert [None, None, '"v1"'] == [match for _, match in store.requests]
        store.replace(await anyio.to_thread.run_sync(resealed), '"v2"')
        buffer = bytearray(b"\xee" * 100)
        for call in (
            lambda: reader.read_range(0, 10),
            lambda: reader.read_into(0, buffer),
            reader.verify,
        ):
            with pytest.raises(SourceChangedError):
                await call()
        assert not any(buffer)


def test_http_pins_every_read_to_its_version_in_sync_code(store: Store, key: Key) -> None:
    """The same without a loop."""
    with sync.ObjectReader.open(sync.HttpSource(store.url), key) as reader:
        assert DATA[:10] == reader.read_range(0, 10)
        store.replace(resealed(), '"v2"')
        with pytest.raises(SourceChangedError):
            reader.read_range(0, 10)


async def test_http_server_that_ignores_the_pin_is_noticed(store: Store, key: Key) -> None:
    """By its tag, or by what it sends: never other plaintext."""
    fresh = await anyio.to_thread.run_sync(resealed)
    store.mode = "ignores If-Match"
    async with await anyseal.ObjectReader.open(HttpSource(store.url), key) as reader:
        store.replace(fresh, '"v2"')
        with pytest.raises(SourceChangedError):
            await reader.read_range(0, 10)
        store.replace(fresh, '"v1"')
        with pytest.raises(DecryptionError):
            await reader.read_range(0, 10)
        store.replace(fresh[:-1], '"v1"')
        with pytest.raises(SourceChangedError):
            await reader.read_range(0, 10)
        store.replace(b"", '"v1"')
        with pytest.raises(SourceChangedError):
            await reader.read_range(0, 10)


async def test_http_ends_of_two_versions_are_read_once_more(
    store: Store, key: Key, sealed: bytes
) -> None:
    """An upload between the two first requests is bad luck; twice in a row is an attack."""
    old, new = (sealed, '"v1"'), (sealed, '"v2"')
    store.versions = [old, new]
    async with await anyseal.ObjectReader.open(HttpSource(store.url), key) as reader:
        assert 4 == len(store.requests)
        assert DATA[:5] == await reader.read_range(0, 5)
    store.requests.clear()
    store.versions = [old, new, new, old]
    with pytest.raises(SourceChangedError):
        await anyseal.ObjectReader.open(HttpSource(store.url), key)
    assert 4 == len(store.requests)
    store.versions = [(sealed, '"v1"'), (sealed[:-1], '"v1"')] * 2
    with pytest.raises(SourceChangedError):
        await anyseal.ObjectReader.open(HttpSource(store.url), key)


def test_http_ends_of_two_versions_are_read_once_more_in_sync_code(
    store: Store, key: Key, sealed: bytes
) -> None:
    """The same without a loop."""
    old, new = (sealed, '"v1"'), (sealed, '"v2"')
    store.versions = [old, new]
    with sync.ObjectReader.open(sync.HttpSource(store.url), key) as reader:
        assert DATA[:5] == reader.read_range(0, 5)
    store.versions = [old, new, new, old]
    with pytest.raises(SourceChangedError):
        sync.ObjectReader.open(sync.HttpSource(store.url), key)


@pytest.mark.parametrize(
    "mode",
    [
        "no ranges", "no tag", "short body", "other range", "no content range", "beyond the end",
        "hangs up",
    ],
)  # fmt: skip
async def test_http_server_that_cannot_serve_us_is_a_source_error(
    store: Store, key: Key, mode: str
) -> None:
    """Each of these would give wrong or unpinned bytes to a reader that did not look."""
    store.mode = mode
    with pytest.raises(SourceError):
        await anyseal.ObjectReader.open(HttpSource(store.url), key)


@pytest.mark.parametrize("mode", ["no ranges", "no tag", "short body", "other range", "hangs up"])
def test_http_server_that_breaks_later_is_a_source_error(store: Store, key: Key, mode: str) -> None:
    """A proxy may change its mind between two requests."""
    with sync.ObjectReader.open(sync.HttpSource(store.url), key) as reader:
        store.mode = mode
        buffer = bytearray(b"\xee" * 100)
        with pytest.raises(SourceError):
            reader.read_into(0, buffer)
        assert not any(buffer)
        store.mode = "good"
        assert DATA[:100] == reader.read_range(0, 100)


def open_awaited(url: str, key: Key) -> None:
    """Open the object behind *url* and await it."""
    anyio.run(anyseal.ObjectReader.open, HttpSource(url), key)


def open_at_once(url: str, key: Key) -> None:
    """Open the object behind *url* without a loop."""
    sync.ObjectReader.open(sync.HttpSource(url), key)


@pytest.mark.parametrize("opens", [open_awaited, open_at_once])
def test_http_server_that_floods_costs_no_memory(
    store: Store, key: Key, opens: Callable[[str, Key], None]
) -> None:
    """Whoever answers a small range with gigabytes must not fill ours."""
    store.mode = "floods"
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match="more bytes than were asked for"):
            opens(store.url, key)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 140 << 20  # the server's own 64 MiB, twice


async def test_http_weak_tag_is_refused(store: Store, key: Key) -> None:
    """Weak tags stand for equivalent bytes; ours must be equal."""
    store.etag = 'W/"v1"'
    with pytest.raises(SourceError, match="strong entity tag"):
        await anyseal.ObjectReader.open(HttpSource(store.url), key)


@pytest.mark.parametrize(("etag", "told"), [('W/"v1"', "only a weak one"), ("", "but none")])
async def test_http_tag_that_pins_nothing_says_what_to_do(
    store: Store, key: Key, etag: str, told: str
) -> None:
    """A proxy that compresses is found by its weak tags: people would look for a missing one."""
    store.etag = etag
    with pytest.raises(SourceError, match=rf"no strong entity tag .*{told}.*served") as caught:
        await anyseal.ObjectReader.open(HttpSource(store.url), key)
    assert not caught.value.retryable
    with pytest.raises(SourceError, match=told):
        await anyio.to_thread.run_sync(
            lambda: sync.ObjectReader.open(sync.HttpSource(store.url), key)
        )


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(403, False), (404, False), (408, True), (429, True), (500, True), (503, True), (302, False)],
)
async def test_http_status_is_a_source_error(
    store: Store, key: Key, status: int, retryable: bool
) -> None:
    """Whether trying again can help is what the caller wants to know."""
    store.flaky = [status] * 2
    with pytest.raises(SourceError, match=f"HTTP status {status}") as caught:
        await anyseal.ObjectReader.open(HttpSource(store.url), key)
    assert retryable is caught.value.retryable
    async with await anyseal.ObjectReader.open(HttpSource(store.url), key) as reader:
        store.flaky = [status]
        with pytest.raises(SourceError):
            await reader.read_range(0, 5)
        assert DATA[:5] == await reader.read_range(0, 5)


async def test_http_errors_do_not_hold_what_a_url_is_signed_with(store: Store, key: Key) -> None:
    """Who reads a log must not be let in by the presigned URL in it."""
    store.flaky = [403] * 2
    with pytest.raises(SourceError) as caught:
        await anyseal.ObjectReader.open(HttpSource(f"{store.url}?X-Amz-Signature=5e#frag"), key)
    assert "Signature" not in str(caught.value)
    with pytest.raises(SourceError) as caught:
        await anyseal.ObjectReader.open(HttpSource("http://user:word@127.0.0.1:1/a?token=t"), key)
    assert "http://127.0.0.1:1/a: ConnectError" == str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 7, 100, 199])
async def test_http_short_object_is_a_format_error(store: Store, key: Key, size: int) -> None:
    """An empty file answers a range with 416; a short one with less than was asked for."""
    store.replace(store.data[:size], '"short"')
    with pytest.raises(FormatError):
        await anyseal.ObjectReader.open(HttpSource(store.url), key)


def test_http_empty_object_reads_as_nothing(key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sealed, it is not empty; it is all header and trailer."""
    monkeypatch.setenv("NO_PROXY", "*")
    with serving(seal_bytes(b"", key)) as store:
        reader = sync.ObjectReader.open(sync.HttpSource(store.url), key)
        assert b"" == reader.read_range(0)
        reader.verify()
        reader.close()


async def test_http_unreachable_is_a_source_error(key: Key) -> None:
    """A refused connection, with the address and no trace of httpx's own classes."""
    with pytest.raises(SourceError, match="ConnectError"):
        await anyseal.ObjectReader.open(HttpSource("http://127.0.0.1:9/x"), key)


async def test_http_client_of_the_caller_stays_open(store: Store, key: Key) -> None:
    """With its own headers, timeouts and pool; nobody asks for compressed ranges."""
    seen: list[Any] = []

    async def note(request: httpx.Request) -> None:
        seen.append((request.headers["authorization"], request.headers["accept-encoding"]))

    async with httpx.AsyncClient(event_hooks={"request": [note]}) as client:
        source = HttpSource(store.url, client, headers={"Authorization": "Bearer x"})
        async with await anyseal.ObjectReader.open(source, key) as reader:
            await reader.read_range(0, 10)
        assert [("Bearer x", "identity")] * 3 == seen
        assert not client.is_closed


async def test_http_cancelled_read_leaves_the_reader_usable(store: Store, key: Key) -> None:
    """A request that timed out must not poison the next one."""
    async with await anyseal.ObjectReader.open(HttpSource(store.url), key) as reader:
        for delay in (0, 0.001, 0.002):
            buffer = bytearray(SIZE)
            with anyio.move_on_after(delay) as scope:
                await reader.read_into(0, buffer)
            if scope.cancelled_caught:
                assert not any(buffer)
        assert DATA[-9:] == await reader.read_range(SIZE - 9)
