"""What a hierarchy tells its metrics hook."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from anyseal.ports import CacheEvent, MetricsHook, TimingEvent

__all__ = ["Meter"]

T = TypeVar("T")


class Meter:
    """Tells a hook, which may come and go, what happens. Without one it takes no timestamp."""

    __slots__ = ("hook",)

    def __init__(self, hook: MetricsHook | None) -> None:
        self.hook = hook

    def count(self, outcome: Any, cache: str) -> None:
        """A look into *cache*, and what it came to."""
        if self.hook is not None:
            self.hook(CacheEvent(outcome, cache))

    def count_hit(self) -> None:
        """An intermediate key was at hand."""
        if self.hook is not None:
            self.hook(CacheEvent("hit", "intermediate-key"))

    def took(self, operation: Any, start: int) -> None:
        """An operation ended that began at *start* (``time.perf_counter_ns``)."""
        if self.hook is not None:
            self.hook(TimingEvent(operation, time.perf_counter_ns() - start))

    async def timed(self, operation: Any, call: Awaitable[T]) -> T:
        """The result of *call*, with its time taken."""
        if self.hook is None:
            return await call
        start = time.perf_counter_ns()
        try:
            return await call
        finally:
            self.took(operation, start)
