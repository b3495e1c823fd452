"""The servers, and the rivals' environments, that the benches use: those of the tests."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

_TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(_TESTS), str(_TESTS / "interop")]

from peers import environment

from storage_servers import RedisServer, SeaweedFS, s3_client

__all__ = ["RedisServer", "SeaweedFS", "YieldingSeaweedFS", "environment", "s3_client"]


class YieldingSeaweedFS(SeaweedFS):
    """One that leaves the CPUs to whoever else wants them, as if it had a machine of its own."""

    def command(self) -> Sequence[str]:
        return ["nice", "-n", "19", *super().command()]
