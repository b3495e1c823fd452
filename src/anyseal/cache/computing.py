"""Which values are being computed around the code that runs: it must not wait for these."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anyseal.cache.base import CacheBase
    from anyseal.cache.jobs import Job

__all__ = ["Computing", "computes_itself"]


class Computing:
    """For the time of a ``with`` block: *job*'s value is computed here, and in what is called from
    here. Tasks that outlive the block may still see it, and that it is over."""

    __slots__ = ("_cache", "_subject", "_token", "over")

    def __init__(self, cache: CacheBase[Any], job: Job) -> None:
        self._cache = cache
        self._subject = (job.partition, job.key)
        self.over = False

    def is_of(self, cache: CacheBase[Any], job: Job) -> bool:
        """Whether this is about *job*'s value, and under way."""
        return not self.over and self._cache is cache and self._subject == (job.partition, job.key)

    def __enter__(self) -> None:
        self._token: Token[tuple[Computing, ...]] = _around.set((*_around.get(), self))

    def __exit__(self, *exc_info: object) -> None:
        self.over = True
        _around.reset(self._token)


_around: ContextVar[tuple[Computing, ...]] = ContextVar("anyseal_computing", default=())


def computes_itself(cache: CacheBase[Any], job: Job) -> bool:
    """Whether *job*'s value is asked for by what computes it: it would wait for itself for ever,
    so the function is called once more, as it would be without a cache."""
    around = _around.get()
    return bool(around) and any(each.is_of(cache, job) for each in around)
