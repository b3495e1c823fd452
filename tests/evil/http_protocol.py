"""HTTP/1.1, whatever is asked over it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from evil.server import FOR_EVER, HUGE, KEEP, PAUSE, Frames, endless

__all__ = ["Answer", "HttpProtocol", "HttpRequest"]


@dataclass(frozen=True)
class HttpRequest:
    """What a client asked."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What a server answers."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    def sent(self) -> bytes:
        head = f"HTTP/1.1 {self.status} Answer\r\nContent-Length: {len(self.body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        return head.encode("latin-1") + b"\r\n" + self.body


BODIES: Final[Mapping[str, bytes]] = {
    "body_empty": b"",
    "body_null": b"null",
    "body_number": b"42",
    "body_list": b"[1, 2]",
    "body_string": b'"abc"',
    "body_object": b"{}",
    "body_truncated": b'{"values": [',
    "body_not_utf8": b"\xff\xfe",
    "body_nested": b"[" * 100_000,
    "body_digits": b'{"values": ' + b"9" * 10_000 + b"}",
    "body_nan": b'{"values": NaN}',
    "body_html": b"<html>captive portal</html>",
    "body_nulls": b'{"values": null, "stored": null, "deleted": null, "replaced": null}',
    "body_bools": b'{"values": [true], "stored": 1, "deleted": true, "replaced": "yes"}',
    "body_negative": b'{"values": [7], "stored": [], "deleted": -1, "replaced": {}}',
    "body_many": b'{"values": ["YQ==", "YQ==", "YQ==", "YQ==", "YQ=="], "deleted": 1e400}',
    "body_no_base64": b'{"values": ["***"], "deleted": 9999999999999999999999999}',
}
"""Bodies of status 200 that are none of an API's answers."""


class HttpProtocol:
    """HTTP around an API.

    Args:
        answers: The API: the right answer to a request.
        bodies: Further bodies that are wrong, by name.
        spares: Whether a request is answered well in any case (a login, a page before).
    """

    def __init__(
        self,
        answers: Callable[[HttpRequest], Answer],
        *,
        bodies: Mapping[str, bytes] | None = None,
        spares: Callable[[HttpRequest], bool] = lambda request: False,
    ) -> None:
        self._answers = answers
        self._bodies = {**BODIES, **(bodies or {})}
        self._spares = spares

    def read(self, stream: BinaryIO) -> HttpRequest | None:
        line = stream.readline().decode("latin-1").split()
        if len(line) != 3:
            return None
        headers = {}
        while (head := stream.readline()) not in (b"\r\n", b""):
            name, _, value = head.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        body = stream.read(int(headers.get("content-length", "0")))
        while headers.get("transfer-encoding") == "chunked":
            size = int(stream.readline().split(b";")[0], 16)
            body += stream.read(size)
            stream.readline()
            if not size:
                break
        return HttpRequest(line[0], line[1], headers, body)

    def spared(self, request: HttpRequest) -> bool:
        return self._spares(request)

    def good(self, request: HttpRequest) -> bytes:
        return self._answers(request).sent()

    def frames(self, request: HttpRequest) -> Mapping[str, Callable[[], Frames]]:
        good = self._answers(request)
        fields = "".join(f"{name}: {value}\r\n" for name, value in good.headers.items())
        head = f"HTTP/1.1 {good.status} Answer\r\n{fields}".encode("latin-1")
        chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"

        def slow(piece: bytes, first: bytes) -> Callable[[], Frames]:
            def sent() -> Frames:
                yield first
                while True:
                    yield piece
                    yield PAUSE

            return sent

        def body(data: bytes) -> Callable[[], Frames]:
            return lambda: iter((Answer(data, good.status, good.headers).sent(), KEEP))

        def status(code: int) -> Callable[[], Frames]:
            return lambda: iter((Answer(b"x" * 100, code, {}).sent(), KEEP))

        found = {name: body(data) for name, data in self._bodies.items()}
        found |= {f"status_{code}": status(code) for code in (204, 206, 301, 404, 412, 429, 500)}
        found |= {
            "endless_body": endless(head + b"Content-Length: %d\r\n\r\n" % HUGE),
            "too_huge_body": endless(head + b"Content-Length: %d\r\n\r\n" % 10**30),
            "endless_chunks": endless(chunked, b"10000\r\n%b\r\n" % (b"x" * 65536)),
            "endless_until_close": endless(head + b"Connection: close\r\n\r\n"),
            "endless_chunk_size": endless(chunked, b"1" * 65536),
            "huge_chunk": endless(chunked + b"7fffffffffffffff\r\n"),
            "endless_trailers": endless(chunked + b"0\r\n", b"X-T: " + b"a" * 1000 + b"\r\n"),
            "endless_headers": endless(head, b"X-H: " + b"a" * 1000 + b"\r\n"),
            "endless_header": endless(head + b"X-H: ", b"a" * 65536),
            "endless_status_line": endless(b"HTTP/1.1 200 ", b"a" * 65536),
            "endless_continue": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
            "endless_error_text": endless(b"HTTP/1.1 500 No\r\n\r\n", b"a" * 65536),
            "slow_continue": slow(b"HTTP/1.1 100 Continue\r\n\r\n", b""),
            "slow_headers": slow(b"X-H: a\r\n", head),
            "slow_chunks": slow(b"1\r\nx\r\n", chunked),
            "slow_body": slow(b"x", head + b"Content-Length: 100000\r\n\r\n"),
            "short_body": lambda: iter(
                (head + b"Content-Length: 1000000\r\n\r\n" + good.body, FOR_EVER)
            ),
            "two_lengths": lambda: iter(
                (head + b"Content-Length: 5\r\nContent-Length: 7\r\n\r\nxxxxx", FOR_EVER)
            ),
            "gzip": lambda: iter(
                (head + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nxxxxx", KEEP)
            ),
        }
        return found
