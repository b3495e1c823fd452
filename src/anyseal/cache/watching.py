"""Watching a backend that tells of changes, so that copies in this process do not grow old."""

from __future__ import annotations

import anyio.lowlevel

from anyseal.cache.background import Background
from anyseal.cache.local import LocalLayer
from anyseal.ports import WatchedBackend

__all__ = ["Watch"]


class Watch:
    """Drops what other processes changed from *local*: the names that begin with *prefix*.

    One task in each event loop.
    """

    def __init__(
        self, backend: WatchedBackend, prefix: str, local: LocalLayer, background: Background
    ) -> None:
        self._backend = backend
        self._prefix = prefix
        self._local = local
        self._background = background
        self._watching: anyio.lowlevel.RunVar[bool] = anyio.lowlevel.RunVar("_anyseal_watching")

    def begin(self) -> None:
        """Begin to watch in this event loop, unless that was begun."""
        if not self._watching.get(False):
            self._watching.set(True)
            self._background.start(self._run, lambda: self._watching.set(False))

    async def _run(self) -> None:
        """Forget what others changed, as the backend tells of it."""
        try:
            async for names in self._backend.changes(self._prefix):
                self._local.drop_names(names)
        finally:
            self._local.drop_names(None)
