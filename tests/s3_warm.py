"""Imported before commands are forked: what the first S3 client of a process reads and imports."""

from __future__ import annotations

import anyio

from anyseal.s3 import connect


async def _connect() -> None:
    async with connect(endpoint_url="http://127.0.0.1:9", access_key="a", secret_key="s"):
        pass


anyio.run(_connect)
