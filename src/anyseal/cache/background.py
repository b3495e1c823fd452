"""Tasks that nobody waits for, such as refreshes and the watching of a backend."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from anyio.lowlevel import current_token

from anyseal.tasks import Detached

__all__ = ["Background"]

logger = logging.getLogger("anyseal.cache")


class Background:
    """Tasks that nobody waits for: each belongs to the event loop that it began in."""

    def __init__(self) -> None:
        self._tasks: dict[object, tuple[Any, Detached]] = {}

    def start(
        self, function: Callable[[], Awaitable[None]], over: Callable[[], object] | None = None
    ) -> None:
        """Run *function* in the background; what it raises is logged.

        *over* is called when it has ended, also if it was cancelled before it began.
        """
        mark = object()

        async def run() -> None:
            try:
                await function()
            except Exception as exc:
                logger.warning("a background task of the cache failed: %s", type(exc).__name__)

        def end() -> None:
            self._tasks.pop(mark, None)
            if over is not None:
                over()

        task = Detached(run, end)
        if not task.ended:  # an eager one may have
            self._tasks[mark] = (current_token(), task)

    async def aclose(self) -> None:
        """Cancel this event loop's tasks, and wait for their end."""
        here = current_token()
        for token, task in list(self._tasks.values()):
            if token == here:
                task.cancel()
                await task.wait()
