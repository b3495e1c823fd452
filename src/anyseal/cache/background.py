"""Tasks that nobody waits for, such as refreshes and the watching of a backend."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel

__all__ = ["Background"]

logger = logging.getLogger("anyseal.cache")


class Background:
    """Tasks that nobody waits for: each belongs to the event loop that it began in."""

    def __init__(self) -> None:
        self._scopes: dict[anyio.CancelScope, tuple[Any, anyio.Event]] = {}
        self._tasks: set[Any] = set()

    def start(
        self, function: Callable[[], Awaitable[None]], over: Callable[[], object] | None = None
    ) -> None:
        """Run *function* in the background; what it raises is logged.

        *over* is called when it has ended, also if it was cancelled before it began.
        """
        scope, ended = anyio.CancelScope(), anyio.Event()
        self._scopes[scope] = (anyio.lowlevel.current_token(), ended)

        async def run() -> None:
            try:
                with scope:
                    try:
                        await function()
                    except Exception as exc:
                        name = type(exc).__name__
                        logger.warning("a background task of the cache failed: %s", name)
            finally:
                end()

        def end() -> None:
            if self._scopes.pop(scope, None) is not None:
                ended.set()
                if over is not None:
                    over()

        if issubclass(anyio.get_cancelled_exc_class(), asyncio.CancelledError):
            task = asyncio.get_running_loop().create_task(run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: end())
        else:
            import trio

            trio.lowlevel.spawn_system_task(run, context=contextvars.copy_context())

    async def aclose(self) -> None:
        """Cancel this event loop's tasks, and wait for their end."""
        here = anyio.lowlevel.current_token()
        for scope, (token, ended) in list(self._scopes.items()):
            if token == here:
                scope.cancel()
                await ended.wait()
