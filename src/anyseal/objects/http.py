"""Read sealed objects over HTTP ranges (extra ``http``: httpx).

Head and tail are fetched at once and must be of one version: the same strong entity tag and the
same total size. Every later read is pinned to it with ``If-Match``.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import anyio

from anyseal import early
from anyseal.deadline import bounded_client, deadline
from anyseal.errors import ConfigurationError, MissingExtraError, SourceChangedError, SourceError
from anyseal.hints import wrong_type
from anyseal.objects.sources import check_tag
from anyseal.objects.targets import warn_open
from anyseal.ports import Ends

try:
    import httpx
except ImportError as _exc:  # pragma: no cover - the extra is missing
    raise MissingExtraError.of("HTTP sources need httpx", "anyseal[http]") from _exc

__all__ = ["BlockingHttpSource", "HttpSource"]

DEFAULT_SECONDS = 5.0

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})", re.ASCII)


SLOWEST_BYTES_PER_SECOND = 1 << 20
"""A server may take a second more for so many bytes that it is asked for."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a server answered; the body only of a partial answer, and no more than was asked."""

    status_code: int
    headers: Mapping[str, str]
    content: bytearray


class _Ranges:
    """The requests and what their answers must look like. No I/O."""

    def __init__(
        self, url: str, headers: Mapping[str, str] | None, client: Any, timeout: float | None
    ) -> None:
        early.prepare(*early.HTTP)
        if timeout is None:
            timeout = getattr(getattr(client, "timeout", None), "read", None) or DEFAULT_SECONDS
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout <= 0:
            raise ConfigurationError("timeout must be seconds, above 0")
        if not isinstance(url, str):
            raise wrong_type("url", "a str", url, "FileSource(path) reads files")
        if client is None and not url.lower().startswith(("http://", "https://")):
            raise ConfigurationError("url must begin with http:// or https:// without a client")
        self._timeout = timeout
        self.url = url
        self.name = _shown(url)
        self._headers = {**(headers or {}), "Accept-Encoding": "identity"}
        self._etag: str | None = None
        self._size: int | None = None

    def patience(self, size: int) -> float:
        """Seconds for a call that asks for *size* bytes."""
        return self._timeout + size / SLOWEST_BYTES_PER_SECOND

    def headers(self, wanted: str) -> dict[str, str]:
        """The headers of a request for the range *wanted*."""
        pinned = {} if self._etag is None else {"If-Match": self._etag}
        return {**self._headers, **pinned, "Range": f"bytes={wanted}"}

    def grow(self, body: bytearray, piece: bytes, limit: int) -> None:
        """Add to *body*. A server that sends more than was asked for is not read on."""
        body += piece
        if len(body) > limit:
            raise SourceError(f"{self.name}: more bytes than were asked for")

    def answer(self, response: _Answer) -> tuple[int, int, str, bytearray]:
        """First position, total size, entity tag and body of a partial answer."""
        if response.status_code == 412:
            raise SourceChangedError(f"{self.name}: another version than was opened")
        if response.status_code == 416:
            total = response.headers.get("content-range", "").removeprefix("bytes */")
            if total == "0":
                return 0, 0, response.headers.get("etag", ""), bytearray()
            raise SourceChangedError(f"{self.name}: shorter than when it was opened")
        if response.status_code == 200:
            raise SourceError(f"{self.name}: the server does not serve byte ranges")
        if response.status_code != 206:
            error = SourceError(f"{self.name}: HTTP status {response.status_code}")
            error.retryable = response.status_code >= 500 or response.status_code in (408, 429)
            raise error
        match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if match is None:
            raise SourceError(f"{self.name}: a partial answer without a usable Content-Range")
        first, last, size = (int(group) for group in match.groups())
        if len(response.content) != last - first + 1 or last >= size:
            raise SourceError(f"{self.name}: the answer's length is not what it announced")
        return first, size, response.headers.get("etag", ""), response.content

    def pin(self, head: _Answer, tail: _Answer, head_bytes: int) -> Ends | None:
        """Both ends as one version, or None if they are of two."""
        first, size, etag, head_body = self.answer(head)
        tail_first, tail_size, tail_etag, tail_body = self.answer(tail)
        for tag in (etag, tail_etag) if size else ():
            check_tag(self.name, tag)
        if (size, etag) != (tail_size, tail_etag):
            return None
        if first != 0 or tail_first + len(tail_body) != size:
            raise SourceError(f"{self.name}: other bytes than were asked for")
        self._etag, self._size = etag or None, size
        return Ends(size=size, head=bytes(head_body[:head_bytes]), tail=bytes(tail_body))

    def exact(self, response: _Answer, offset: int, length: int) -> bytearray:
        """The body of a read, if it is exactly what was asked for."""
        first, size, etag, body = self.answer(response)
        if (size, etag) != (self._size, self._etag):
            check_tag(self.name, etag)  # a proxy that began to compress
            raise SourceChangedError(f"{self.name}: another version than was opened")
        if first != offset or len(body) != length:
            raise SourceError(f"{self.name}: other bytes than were asked for")
        return body

    def two_versions(self) -> SourceChangedError:
        return SourceChangedError(f"{self.name}: changing while it is being read")


@contextlib.contextmanager
def _errors(name: str) -> Iterator[None]:
    """What httpx raises, as SourceError."""
    try:
        yield
    except SourceError:
        raise
    except (httpx.HTTPError, httpx.StreamError, OSError, ValueError) as exc:
        raise SourceError(f"{name}: {type(exc).__name__}") from exc


def _shown(url: str) -> str:
    """*url* without credentials and query: a presigned one lets in whoever reads it in a log."""
    return re.sub("//[^/]*@", "//", re.split("[?#]", url, maxsplit=1)[0])


class HttpSource:
    """A sealed object behind a URL, read with an ``httpx.AsyncClient``.

    Args:
        url: Where the object is. The server must serve byte ranges and a strong ETag.
        client: Used and not closed. Default: one of our own, closed with the source.
        headers: Added to every request, such as an authorization.
        timeout: Seconds for one call, and one more for each MiB that it asks for. Default: the
            client's own for a read, else 5.

    Raises:
        SourceError: No ranges, no strong ETag, a bad status, or the network failed.
        SourceChangedError: The object was replaced while it was being read.
    """

    _own = False

    def __init__(
        self,
        url: str,
        client: httpx.AsyncClient | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> None:
        if isinstance(client, httpx.Client):
            raise wrong_type(
                "client", "an httpx.AsyncClient", client, "anyseal.sync takes this one"
            )
        self._ranges = _Ranges(url, headers, client, timeout)
        self._client = httpx.AsyncClient() if client is None else client
        self._own = client is None

    async def _get(self, wanted: str, limit: int) -> _Answer:
        ranges, body = self._ranges, bytearray()
        with _errors(ranges.name), anyio.fail_after(ranges.patience(limit)):
            async with self._client.stream(
                "GET", ranges.url, headers=ranges.headers(wanted)
            ) as response:
                if response.status_code == 206:
                    async for piece in response.aiter_raw():
                        ranges.grow(body, piece, limit)
                return _Answer(response.status_code, response.headers, body)

    async def ends(self, head: int, tail: int) -> Ends:
        """The first and last bytes, requested at once; asked again once if they differ."""
        with _errors(self._ranges.name), anyio.fail_after(self._ranges.patience(head + tail)):
            return await self._ends(head, tail)

    async def _ends(self, head: int, tail: int) -> Ends:
        for _ in range(2):
            answers: dict[str, _Answer | SourceError] = {}

            async def get(
                wanted: str, limit: int, answers: dict[str, _Answer | SourceError] = answers
            ) -> None:
                try:
                    answers[wanted] = await self._get(wanted, limit)
                except SourceError as exc:
                    answers[wanted] = exc

            wanted = {f"0-{head - 1}": head, f"-{tail}": tail}
            async with anyio.create_task_group() as group:
                for each, limit in wanted.items():
                    group.start_soon(get, each, limit)
            got: list[_Answer] = []
            for each in wanted:
                answer = answers[each]
                if isinstance(answer, SourceError):
                    raise answer
                got.append(answer)
            ends = self._ranges.pin(got[0], got[1], head)
            if ends is not None:
                return ends
        raise self._ranges.two_versions()

    async def read(self, offset: int, length: int) -> bytearray:
        """Exactly these bytes of the pinned version."""
        response = await self._get(f"{offset}-{offset + length - 1}", length)
        return self._ranges.exact(response, offset, length)

    async def aclose(self) -> None:
        """Close the client, if it is our own."""
        if self._own:
            await self._client.aclose()

    def __del__(self) -> None:
        if self._own and not self._client.is_closed:
            warn_open(self, self._ranges.name)


class BlockingHttpSource:
    """The same with an ``httpx.Client``, for sync code."""

    _own = False

    def __init__(
        self,
        url: str,
        client: httpx.Client | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> None:
        if isinstance(client, httpx.AsyncClient):
            raise wrong_type(
                "client", "an httpx.Client", client, "anyseal, not anyseal.sync, awaits"
            )
        self._ranges = _Ranges(url, headers, client, timeout)
        self._client = bounded_client(httpx.Client() if client is None else client)
        self._own = client is None

    def _get(self, wanted: str, limit: int) -> _Answer:
        ranges, body = self._ranges, bytearray()
        with (
            _errors(ranges.name),
            deadline(ranges.patience(limit)),
            self._client.stream("GET", ranges.url, headers=ranges.headers(wanted)) as response,
        ):
            if response.status_code == 206:
                for piece in response.iter_raw():
                    ranges.grow(body, piece, limit)
            return _Answer(response.status_code, response.headers, body)

    def pread_ends(self, head: int, tail: int) -> Ends:
        """The first and last bytes, of one version; asked again once if they differ."""
        with _errors(self._ranges.name), deadline(self._ranges.patience(head + tail)):
            return self._pread_ends(head, tail)

    def _pread_ends(self, head: int, tail: int) -> Ends:
        for _ in range(2):
            first, last = self._get(f"0-{head - 1}", head), self._get(f"-{tail}", tail)
            ends = self._ranges.pin(first, last, head)
            if ends is not None:
                return ends
        raise self._ranges.two_versions()

    def pread_into(self, offset: int, buffer: memoryview) -> None:
        """Fill *buffer* from the pinned version."""
        response = self._get(f"{offset}-{offset + len(buffer) - 1}", len(buffer))
        buffer[:] = self._ranges.exact(response, offset, len(buffer))

    def window(self, offset: int, length: int) -> memoryview | None:
        """None: the bytes are elsewhere."""
        return None

    def close(self) -> None:
        """Close the client, if it is our own."""
        if self._own:
            self._client.close()

    def __del__(self) -> None:
        if self._own and not self._client.is_closed:
            warn_open(self, self._ranges.name)
            self.close()
