"""Looks at the metastore: one for all callers, and again before what is cached becomes stale."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import anyio

from anyseal.errors import KmsError, MetastoreError
from anyseal.flight import SingleFlight
from anyseal.keyring.lifetimes import Cached, Lifetimes
from anyseal.tasks import Background

__all__ = ["ANSWER_SECONDS", "Looks"]

_log = logging.getLogger("anyseal.hierarchy")

ANSWER_SECONDS = 1.0
"""How long an opening caller waits for the metastore where a cached key may be used without."""

T = TypeVar("T", bound=Cached)


class Looks(Generic[T]):
    """Looks things up in the metastore, each once however many callers want it.

    Args:
        lifetimes: How long what was looked up may be used.
        background: Runs the looks that no caller waits for.
    """

    __slots__ = ("_background", "_flight", "_lifetimes", "_quiet_until", "era")

    def __init__(self, lifetimes: Lifetimes, background: Background) -> None:
        self._lifetimes = lifetimes
        self._background = background
        self._flight: SingleFlight[T] = SingleFlight()
        self._quiet_until = 0.0
        self.era = 0
        """Counts what was dropped on demand: what a look of an earlier era found is not cached."""

    def forget(self) -> None:
        """Begin a new era: no caller joins a look that is under way."""
        self.era += 1
        self._flight.forget_those(lambda _: True)

    async def now(self, place: Hashable, look: Callable[[], Awaitable[T]]) -> T:
        """What *look* finds, here or for another caller that looks for the same *place*."""
        return await self._flight.run(place, look)

    async def ahead(self, place: Hashable, cached: T | None, look: Callable[[], Awaitable[T]]) -> T:
        """*cached* where it may be used for opening, and have it looked up again; else what
        *look* finds.

        No caller waits while *cached* is fresh. Once it is stale, the first caller waits for the
        metastore, at most ``ANSWER_SECONDS``, unless an earlier look was not answered. *look*
        drops from the cache what the metastore no longer has, and raises that it is gone.
        """
        lifetimes, begun = self._lifetimes, time.monotonic()
        if cached is None or begun >= lifetimes.open_until(cached):
            return await self._flight.run(place, look)
        if begun < cached.look_at:  # another caller has just begun a look
            return cached
        must_wait = begun >= lifetimes.stale_at(cached) and not lifetimes.asked(cached)
        lifetimes.asking(cached)
        over = anyio.Event()
        ended: list[Exception] = []

        async def again() -> None:
            try:
                await self._flight.run(place, look)
            except (MetastoreError, KmsError) as exc:
                self._unanswered(exc)
            except Exception as exc:
                ended.append(exc)

        self._background.start(again, over.set)
        if must_wait:
            with anyio.move_on_after(ANSWER_SECONDS):
                await over.wait()
            if ended:
                raise ended[0]
        return cached

    def _unanswered(self, error: Exception) -> None:
        """Warn, but not for each of a hundred thousand keys."""
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + self._lifetimes.pause
            _log.warning(
                "key refresh failed (%s); cached keys open for at most interval plus extension",
                type(error).__name__,
            )
