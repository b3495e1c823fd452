"""Read sealed objects over HTTP ranges (extra ``http``: httpx).

Head and tail are fetched at once and must be of one version: the same strong entity tag and the
same total size. Every later read is pinned to it with ``If-Match``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import anyio

from anyseal.errors import ConfigurationError, SourceChangedError, SourceError
from anyseal.ports import Ends

try:
    import httpx
except ImportError as _exc:  # pragma: no cover - the extra is missing
    raise ConfigurationError("HTTP sources need httpx: pip install 'anyseal[http]'") from _exc

__all__ = ["BlockingHttpSource", "HttpSource"]

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})", re.ASCII)


class _Ranges:
    """The requests and what their answers must look like. No I/O."""

    def __init__(self, url: str, headers: Mapping[str, str] | None) -> None:
        self.url = url
        self._headers = {**(headers or {}), "Accept-Encoding": "identity"}
        self._etag: str | None = None
        self._size: int | None = None

    def headers(self, wanted: str) -> dict[str, str]:
        """The headers of a request for the range *wanted*."""
        pinned = {} if self._etag is None else {"If-Match": self._etag}
        return {**self._headers, **pinned, "Range": f"bytes={wanted}"}

    def answer(self, response: Any) -> tuple[int, int, str, bytes]:
        """First position, total size, entity tag and body of a partial answer."""
        if response.status_code == 412:
            raise SourceChangedError(f"{self.url}: another version than was opened")
        if response.status_code == 416:
            size = response.headers.get("content-range", "").removeprefix("bytes */")
            if size == "0":
                return 0, 0, response.headers.get("etag", ""), b""
            raise SourceChangedError(f"{self.url}: shorter than when it was opened")
        if response.status_code == 200:
            raise SourceError(f"{self.url}: the server does not serve byte ranges")
        if response.status_code != 206:
            error = SourceError(f"{self.url}: HTTP status {response.status_code}")
            error.retryable = response.status_code >= 500 or response.status_code in (408, 429)
            raise error
        match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if match is None:
            raise SourceError(f"{self.url}: a partial answer without a usable Content-Range")
        first, last, size = (int(group) for group in match.groups())
        if len(response.content) != last - first + 1 or last >= size:
            raise SourceError(f"{self.url}: the answer's length is not what it announced")
        return first, size, response.headers.get("etag", ""), response.content

    def pin(self, head: Any, tail: Any, head_bytes: int) -> Ends | None:
        """Both ends as one version, or None if they are of two."""
        first, size, etag, head_body = self.answer(head)
        tail_first, tail_size, tail_etag, tail_body = self.answer(tail)
        if (size, etag) != (tail_size, tail_etag):
            return None
        if first != 0 or tail_first + len(tail_body) != size:
            raise SourceError(f"{self.url}: other bytes than were asked for")
        if size and (not etag or etag.startswith("W/")):
            raise SourceError(f"{self.url}: the server gives no strong entity tag to pin reads to")
        self._etag, self._size = etag or None, size
        return Ends(size=size, head=head_body[:head_bytes], tail=tail_body)

    def exact(self, response: Any, offset: int, length: int) -> bytes:
        """The body of a read, if it is exactly what was asked for."""
        first, size, etag, body = self.answer(response)
        if (size, etag) != (self._size, self._etag):
            raise SourceChangedError(f"{self.url}: another version than was opened")
        if first != offset or len(body) != length:
            raise SourceError(f"{self.url}: other bytes than were asked for")
        return body

    def two_versions(self) -> SourceChangedError:
        return SourceChangedError(f"{self.url}: changing while it is being read")


def _error(url: str, exc: Exception) -> SourceError:
    return SourceError(f"{url}: {type(exc).__name__}")


class HttpSource:
    """A sealed object behind a URL, read with an ``httpx.AsyncClient``.

    Args:
        url: Where the object is. The server must serve byte ranges and a strong ETag.
        client: Used and not closed. Default: one of our own, closed with the source.
        headers: Added to every request, such as an authorization.

    Raises:
        SourceError: No ranges, no strong ETag, a bad status, or the network failed.
        SourceChangedError: The object was replaced while it was being read.
    """

    def __init__(
        self,
        url: str,
        client: httpx.AsyncClient | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._ranges = _Ranges(url, headers)
        self._own = client is None
        self._client = httpx.AsyncClient() if client is None else client

    async def _get(self, wanted: str) -> httpx.Response:
        try:
            return await self._client.get(self._ranges.url, headers=self._ranges.headers(wanted))
        except httpx.HTTPError as exc:
            raise _error(self._ranges.url, exc) from exc

    async def ends(self, head: int, tail: int) -> Ends:
        """The first and last bytes, requested at once; asked again once if they differ."""
        for _ in range(2):
            answers: dict[str, httpx.Response | SourceError] = {}

            async def get(
                wanted: str, answers: dict[str, httpx.Response | SourceError] = answers
            ) -> None:
                try:
                    answers[wanted] = await self._get(wanted)
                except SourceError as exc:
                    answers[wanted] = exc

            wanted = (f"0-{head - 1}", f"-{tail}")
            async with anyio.create_task_group() as group:
                for each in wanted:
                    group.start_soon(get, each)
            got = [answers[each] for each in wanted]
            for answer in got:
                if isinstance(answer, SourceError):
                    raise answer
            ends = self._ranges.pin(got[0], got[1], head)
            if ends is not None:
                return ends
        raise self._ranges.two_versions()

    async def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes of the pinned version."""
        response = await self._get(f"{offset}-{offset + length - 1}")
        return self._ranges.exact(response, offset, length)

    async def aclose(self) -> None:
        """Close the client, if it is our own."""
        if self._own:
            await self._client.aclose()


class BlockingHttpSource:
    """The same with an ``httpx.Client``, for sync code."""

    def __init__(
        self,
        url: str,
        client: httpx.Client | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._ranges = _Ranges(url, headers)
        self._own = client is None
        self._client = httpx.Client() if client is None else client

    def _get(self, wanted: str) -> httpx.Response:
        try:
            return self._client.get(self._ranges.url, headers=self._ranges.headers(wanted))
        except httpx.HTTPError as exc:
            raise _error(self._ranges.url, exc) from exc

    def pread_ends(self, head: int, tail: int) -> Ends:
        """The first and last bytes, of one version; asked again once if they differ."""
        get: Callable[[str], httpx.Response] = self._get
        for _ in range(2):
            ends = self._ranges.pin(get(f"0-{head - 1}"), get(f"-{tail}"), head)
            if ends is not None:
                return ends
        raise self._ranges.two_versions()

    def pread_into(self, offset: int, buffer: memoryview) -> None:
        """Fill *buffer* from the pinned version."""
        response = self._get(f"{offset}-{offset + len(buffer) - 1}")
        buffer[:] = self._ranges.exact(response, offset, len(buffer))

    def window(self, offset: int, length: int) -> memoryview | None:
        """None: the bytes are elsewhere."""
        return None

    def close(self) -> None:
        """Close the client, if it is our own."""
        if self._own:
            self._client.close()
