"""A small HTTP server with byte ranges and entity tags, which can be told to misbehave."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class QuietHttpServer(ThreadingHTTPServer):
    """Ends with its process, and does not print that a client went."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class Store:
    """One object behind a URL, what was asked for it, and how the server behaves."""

    def __init__(self, data: bytes) -> None:
        self.data, self.etag = data, '"v1"'
        self.requests: list[tuple[str, str | None]] = []
        """Range and If-Match of each request."""
        self.sent = 0
        self.mode = "good"
        self.flaky: list[int] = []
        """Status codes for the next requests."""
        self.versions: list[tuple[bytes, str]] = []
        """What the next requests see instead of ``data`` and ``etag``."""
        self.url = ""
        self.lock = threading.Lock()

    def replace(self, data: bytes, etag: str) -> None:
        """Another version, as a later upload makes it."""
        self.data, self.etag = data, etag


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.store.sent += len(body)

    def do_GET(self) -> None:
        store = self.store
        wanted, match = self.headers.get("Range", ""), self.headers.get("If-Match")
        with store.lock:
            store.requests.append((wanted, match))
            data, etag = store.versions.pop(0) if store.versions else (store.data, store.etag)
            status = store.flaky.pop(0) if store.flaky else 0
        if status:
            self._answer(status)
            return
        if match is not None and match != etag and store.mode != "ignores If-Match":
            self._answer(412)
            return
        if store.mode == "no ranges":
            self._answer(200, data, ETag=etag)
            return
        if store.mode == "hangs up":
            self.close_connection = True
            return
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted)
        if found is None:
            self._answer(400)
            return
        first, last = found.groups()
        start = max(0, len(data) - int(last)) if not first else int(first)
        stop = min(len(data), int(last) + 1) if first and last else len(data)
        if start >= len(data):
            self._answer(416, ETag=etag, Content_Range=f"bytes */{len(data)}")
            return
        body, span = data[start:stop], f"bytes {start}-{stop - 1}/{len(data)}"
        if store.mode == "short body":
            body = body[:-1]
        elif store.mode == "other range":
            body, span = data[1:9], f"bytes 1-8/{len(data)}"
        elif store.mode == "no content range":
            span = ""
        elif store.mode == "floods":  # 64 MiB for whatever was asked
            body, span = bytes(64 << 20), f"bytes {start}-{start + (64 << 20) - 1}/{1 << 40}"
        elif store.mode == "beyond the end":
            span = f"bytes {start}-{stop - 1}/{stop - 1}"
        tags = {} if store.mode == "no tag" else {"ETag": etag}
        self._answer(206, body, Content_Range=span, **tags)


@contextlib.contextmanager
def serving(data: bytes) -> Iterator[Store]:
    """A server for *data* in a thread, on a free port of the loopback."""
    store = Store(data)
    handler = type("Handler", (_Handler,), {"store": store})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    store.url = f"http://127.0.0.1:{server.server_address[1]}/object"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
