"""The servers, and the rivals' environments, that the benches use: those of the tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(_TESTS), str(_TESTS / "interop")]

from peers import environment

import payload_calls_stores as payload_calls
from cache_backends import CACHE_TOKEN
from storage_servers import RedisServer, SeaweedFS, s3_client

__all__ = [
    "HttpCache",
    "RedisServer",
    "SeaweedFS",
    "YieldingSeaweedFS",
    "environment",
    "payload_calls",
    "s3_client",
]


class YieldingSeaweedFS(SeaweedFS):
    """One that leaves the CPUs to whoever else wants them, as if it had a machine of its own."""

    def command(self) -> Sequence[str]:
        return ["nice", "-n", "19", *super().command()]


class HttpCache:
    """The HTTP cache API over memory, in a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(_TESTS / "asgi_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip(), CACHE_TOKEN

    def close(self) -> None:
        self._process.communicate()
