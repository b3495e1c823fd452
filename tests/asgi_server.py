"""An ASGI application on a real socket, in a thread of this process, and the cache API on it.

uvicorn does the work. ``crash`` stops it, ``start`` brings it back on its port.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import uvicorn

from anyseal.cache.backends.memory import MemoryBackend
from anyseal.cache.backends.server import CacheServer
from cache_backends import CACHE_TOKEN
from servers import READY_SECONDS, free_port


class AsgiServer:
    """Serves *application* on a free port of 127.0.0.1."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self.port = free_port()
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        config = uvicorn.Config(
            self._application,
            host="127.0.0.1",
            port=self.port,
            log_config=None,
            lifespan="off",
            loop="asyncio",
            http="h11",
            ws="none",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        until = time.monotonic() + READY_SECONDS
        while not self._server.started:
            assert time.monotonic() < until, "it does not start"
            time.sleep(0.01)

    def crash(self) -> None:
        """Stop listening and drop the connections."""
        server, self._server = self._server, None
        if server is not None and self._thread is not None:
            server.force_exit = server.should_exit = True
            self._thread.join(READY_SECONDS)

    def close(self) -> None:
        self.crash()


class CacheApi(AsgiServer):
    """The cache API over a backend in memory."""

    def __init__(self) -> None:
        self._backend = MemoryBackend()
        super().__init__(CacheServer(self._backend, token=CACHE_TOKEN))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def empty(self) -> None:
        """Forget everything."""
        entries = self._backend.blocking
        for names in entries.scan(""):
            entries.delete_many(names)


if __name__ == "__main__":  # in a process of its own, until its input ends
    import sys

    print(CacheApi().url, flush=True)
    sys.stdin.read()
