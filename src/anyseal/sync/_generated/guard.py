# Made from anyseal/cache/guard.py by .ci/generate_sync.py: do not edit.
"""Calls of a backend: each within its time, and counted by the breaker."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, TypeVar

from anyseal.cache.answers import checked, checked_page
from anyseal.cache.breaker import Breaker, Circuits
from anyseal.cache.entry import LOCK
from anyseal.cache.policy import CachePolicy
from anyseal.cache.stats import Observer
from anyseal.errors import BackendError
from anyseal.sync.kit import Limit, end_pages, pages_of

__all__ = ["Guard"]

T = TypeVar("T")

SCAN_BATCH = 1000
"""Names that are deleted in one call."""


class Caller:
    """Makes one kind of call: reads, writes or deletes.

    Args:
        breaker: Told of each outcome; while it is open, no call is made. A call that the backend
            refused shows that the backend is alive, and is not counted.
        observer: Told of each failure.
        limit: Makes the calls in their time; None where the backend bounds its calls itself.
    """

    __slots__ = ("_breaker", "_limit", "_observer")

    def __init__(self, breaker: Breaker, observer: Observer, limit: Limit | None) -> None:
        self._breaker = breaker
        self._observer = observer
        self._limit = limit

    def __call__(self, call: Callable[..., T], *args: Any, **options: Any) -> T:
        """The answer to one call. Raises BackendError."""
        probe = self._breaker.enter()
        try:
            if self._limit is None:
                result = call(*args, **options)
            else:
                result = self._limit(call, *args, **options)
            checked(call, args, result)
        except (BackendError, TimeoutError, OSError) as exc:
            error = exc if isinstance(exc, BackendError) else BackendError(said(exc))
            self._observer.failed(error)
            if error.refused:
                self._breaker.succeeded(probe)
            else:
                self._breaker.failed(error, probe)
            raise error from (None if error is exc else exc)
        except BaseException:
            self._breaker.left(probe)
            raise
        self._breaker.succeeded(probe)
        return result


class Guard:
    """Makes the calls of one backend: ``read``, ``write`` and ``delete`` fail apart."""

    __slots__ = ("_limit", "_policy", "backend", "delete", "read", "write")

    def __init__(
        self, backend: Any, circuits: Circuits, observer: Observer, policy: CachePolicy,
        limit: Limit | None,
    ) -> None:  # fmt: skip
        self.backend = backend
        self._policy = policy
        self._limit = limit
        self.read = Caller(circuits.reads, observer, limit)
        self.write = Caller(circuits.writes, observer, limit)
        self.delete = Caller(circuits.deletes, observer, limit)

    def close(self) -> None:
        """Close the backend. Raises BackendError if that takes too long."""
        if self._limit is None:
            self.backend.close()
            return
        try:
            self._limit(self.backend.close)
        except TimeoutError as exc:
            raise BackendError(said(exc)) from exc

    def sweep(self, prefixes: Iterable[str]) -> int:
        """Delete all names that begin with one of *prefixes*; return how many.

        First the leases: a scan may miss what is stored under one that still holds. Each step of
        the scan is a call of the backend like others.
        """
        if self._policy.lease is not None:
            self._swept(prefixes, "}" + LOCK)
        return self._swept(prefixes)

    def _swept(self, prefixes: Iterable[str], suffix: str = "") -> int:
        deleted = 0
        for prefix in dict.fromkeys(prefixes):
            pages = pages_of(self._limit, self.read, self.backend.scan, prefix)
            before, since = None, monotonic()
            try:
                while (page := self.read(next, pages, None)) is not None:
                    if page and page != before:
                        before, since = page, monotonic()
                    elif monotonic() - since > (self._policy.timeout or math.inf):
                        raise BackendError("the backend's scan does not come to an end")
                    names = [name for name in checked_page(page, prefix) if name.endswith(suffix)]
                    for at in range(0, len(names), SCAN_BATCH):
                        batch = names[at : at + SCAN_BATCH]
                        deleted += self.delete(self.backend.delete_many, batch)
            finally:
                end_pages(pages, self._policy)
        return deleted


def said(error: BaseException) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
