"""The servers that the benches talk to: those of the tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from storage_servers import RedisServer, SeaweedFS, s3_client

__all__ = ["RedisServer", "SeaweedFS", "s3_client"]
