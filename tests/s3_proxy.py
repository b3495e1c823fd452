"""A proxy before an S3 server that misbehaves when told to."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from http_server import QuietHttpServer


@dataclass(frozen=True)
class Request:
    """One request that reached the proxy."""

    method: str
    path: str
    range: str
    access_key: str = ""
    """Whose signature it has."""


Act = int | str | tuple[int, str] | None


class S3Proxy:
    """Passes requests on, signatures and all; also to AWS's other services.

    ``behave`` is called with each request and says what happens to it: None passes it on, a number
    is the status of an error, a status and a code are an error as the service words it, ``cut``
    passes on half of the answer's body, ``hang`` keeps the client waiting until the proxy stops,
    ``lie`` flips a bit of the body. Of a request's body, ``reset`` takes half and ends the
    connection, and ``half`` passes on half before it does so. ``slow`` passes on a little later,
    ``twice`` two times, and ``lost`` loses the answer.
    """

    def __init__(self, upstream: str) -> None:
        self.behave: Callable[[Request], Act] = lambda request: None
        self.asked: list[Request] = []
        self.bodies: dict[str, list[str]] = {}
        """By path: a hash of each body that arrived whole."""
        self.sent = 0
        self.turn = threading.Lock()
        self.one_at_a_time = False
        self.stopping = threading.Event()
        proxy, address = self, urlsplit(upstream)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                signer = self.headers.get("authorization", "").partition("Credential=")[2]
                request = Request(
                    self.command,
                    self.path,
                    self.headers.get("range", ""),
                    signer.partition("/")[0],
                )
                proxy.asked.append(request)
                with proxy.turn if proxy.one_at_a_time else contextlib.nullcontext():
                    act = proxy.behave(request)
                    length = int(self.headers.get("content-length") or 0)
                    if act == "reset":
                        self.rfile.read(length // 2)
                        self.close_connection = True
                        return
                    body = self.rfile.read(length)
                    digest = hashlib.sha256(body).hexdigest()
                    proxy.bodies.setdefault(self.path, []).append(digest)
                    self._act(act, body)

            def _act(self, act: Act, body: bytes) -> None:
                if act == "hang":
                    proxy.stopping.wait(30)
                    self.close_connection = True
                    return
                if isinstance(act, tuple):
                    status, code = act
                    answer = f"<Error><Code>{code}</Code></Error>".encode()
                    if "x-amz-target" in self.headers:
                        answer = json.dumps({"__type": code, "message": "no"}).encode()
                    self._answer(status, [("Content-Length", str(len(answer)))], answer)
                    return
                if isinstance(act, int):
                    answer = b"<Error><Code>InternalError</Code></Error>" if act >= 500 else b""
                    self._answer(act, [("Content-Length", str(len(answer)))], answer)
                    return
                if act == "slow":
                    time.sleep(0.3)
                if act == "half":
                    self._upstream(body[: len(body) // 2], wait=False)
                    self.close_connection = True
                    return
                if act == "twice":
                    self._upstream(body)
                response, data = self._upstream(body)
                if act == "lost":
                    self.close_connection = True
                    return
                headers = [
                    (name, value)
                    for name, value in response.getheaders()
                    if name.lower() not in ("connection", "transfer-encoding", "content-length")
                ]
                length = response.getheader("Content-Length") if self.command == "HEAD" else None
                headers.append(("Content-Length", length or str(len(data))))
                if act == "lie" and data:
                    data = bytes((data[0] ^ 1,)) + data[1:]
                if act == "cut":
                    data = data[: len(data) // 2]
                    self.close_connection = True
                self._answer(response.status, headers, data)

            def _upstream(self, body: bytes, *, wait: bool = True) -> tuple[Any, bytes]:
                """What the server answers; to a body that is too short it has no time to."""
                connection = http.client.HTTPConnection(address.hostname or "", address.port)
                try:
                    connection.putrequest(
                        self.command, self.path, skip_host=True, skip_accept_encoding=True
                    )
                    for name, value in self.headers.items():
                        connection.putheader(name, value)
                    connection.endheaders(body)
                    if not wait:
                        return None, b""
                    response = connection.getresponse()
                    return response, response.read()
                finally:
                    connection.close()

            def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
                try:
                    self.send_response_only(status)
                    for name, value in headers:
                        self.send_header(name, value)
                    self.end_headers()
                    if self.command != "HEAD":
                        self.wfile.write(body)
                        proxy.sent += len(body)
                except OSError:  # the client did not wait
                    self.close_connection = True

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = QuietHttpServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def ranges(self) -> list[str]:
        """The ranges that were asked for."""
        return [request.range for request in self.asked if request.method == "GET"]

    def __enter__(self) -> S3Proxy:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
