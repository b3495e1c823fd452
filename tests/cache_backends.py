"""Every cache backend that the suite in ``test_cache_backends.py`` runs on.

To add one, append a :class:`Case` to ``CASES``. Its ``make`` gives a backend that is empty; servers
come from the fixtures of ``server_fixtures.py`` through ``request.getfixturevalue``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio.to_thread
import pytest

ALL_LOOPS = ("asyncio", "uvloop", "trio")
ASYNCIO_ONLY = ("asyncio", "uvloop")
LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One backend, and what it can do."""

    name: str
    make: Callable[[pytest.FixtureRequest], Any]
    """A fresh backend without entries; called outside of the event loop."""

    blocking: bool = False
    """Whether it is the twin for sync code."""

    loops: Sequence[str] = ALL_LOOPS
    ranged: bool = False
    scans: bool = True
    max_value: int = 4 << 20
    ttl_ms: int = 100
    """The shortest time to live that it tells from none."""

    gone_ms: int = 300
    """After this much an entry with that time to live is certainly gone."""


class Awaited:
    """A blocking backend with ``await`` before every call, so that one suite does for both."""

    def __init__(self, backend: Any) -> None:
        self.inner = backend

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await anyio.to_thread.run_sync(partial(method, *args, **kwargs))

        return call

    async def scan(self, prefix: str) -> AsyncIterator[list[str]]:
        for names in await anyio.to_thread.run_sync(lambda: list(self.inner.scan(prefix))):
            yield names

    async def aclose(self) -> None:
        await anyio.to_thread.run_sync(self.inner.close)


def _memory(request: pytest.FixtureRequest) -> Any:
    from anyseal.cache.backends.memory import MemoryBackend

    return MemoryBackend()


def _blocking_memory(request: pytest.FixtureRequest) -> Any:
    from anyseal.cache.backends.memory import BlockingMemoryBackend

    return BlockingMemoryBackend()


CASES: list[Case] = [
    Case(name="memory", make=_memory, ranged=True),
    Case(name="memory-blocking", make=_blocking_memory, ranged=True, blocking=True),
]


def on_every_loop(cases: Sequence[Case]) -> list[Any]:
    """Parameters (loop, case): blocking backends run once, beside asyncio."""
    return [
        pytest.param(LOOPS[loop], case, id=f"{case.name}-{loop}")
        for case in cases
        for loop in (("asyncio",) if case.blocking else case.loops)
    ]
