"""Trying again: calls whose error says that it may go away (extra: stamina).

Secrets never become arguments of a retried function: stamina logs those.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, TypeVar

from anyseal.errors import AnysealError, MissingExtraError, one_line

try:
    import stamina
except ImportError as _exc:  # pragma: no cover - the extra is missing
    raise MissingExtraError.of(
        "AWS and Vault need stamina", "anyseal[aws]' or 'anyseal[vault]"
    ) from _exc

__all__ = ["retried"]

T = TypeVar("T")

LONGEST_WAIT = 2.0
"""Seconds."""


_log = logging.getLogger("anyseal.retries")
_log.addHandler(logging.NullHandler())  # a program that has set up no logging is told by the error

_ours: ContextVar[bool] = ContextVar("_anyseal_retries", default=False)


class _NotOurs(logging.Filter):
    """Drops stamina's line for each retry of ours: it does not say whose it is or what failed."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _ours.get()


def _without_ours(hook: Any) -> Any:
    """*hook*, or what stands for it if it tells structlog, which prints to standard output unless
    it is set up: it is not told of retries of ours."""
    if not getattr(hook, "__module__", "").endswith("._structlog"):
        return hook
    return lambda details: None if _ours.get() else hook(details)


logging.getLogger("stamina").addFilter(_NotOurs())
# Asked for now: stamina imports its instrumentation at the first retry, in the middle of a loop.
_hooks = stamina.instrumentation.get_on_retry_hooks()
if _hooks != (_told := tuple(map(_without_ours, _hooks))):
    stamina.instrumentation.set_on_retry_hooks(_told)


def _retryable(exc: Exception) -> bool:
    return isinstance(exc, AnysealError) and exc.retryable


async def retried(
    call: Callable[[], Awaitable[T]], attempts: int, longest_wait: float = LONGEST_WAIT
) -> T:
    """The result of *call*, tried again after a retryable error of ours.

    Pauses begin at 0.1 seconds and double up to *longest_wait*; a random part of up to 0.2 seconds
    keeps workers apart that failed together.
    """
    try:
        return await call()
    except Exception as exc:
        if attempts < 2 or not _retryable(exc):
            raise
        failed: Exception | None = exc
    ours = _ours.set(True)
    try:
        async for attempt in stamina.retry_context(
            on=_retryable,
            attempts=attempts,
            timeout=None,
            wait_initial=0.1,
            wait_max=longest_wait,
            wait_jitter=0.2,
        ):
            with attempt:
                if failed is not None:  # the first attempt, which took no part in the ceremony
                    first, failed = failed, None
                    raise first
                _log.warning("attempt %d of %d: %s", attempt.num, attempts, one_line(first))
                _ours.set(False)  # what the call retries itself is its own
                try:
                    return await call()
                except Exception as exc:
                    first = exc
                    raise
                finally:
                    _ours.set(True)
    finally:
        _ours.reset(ours)
    raise AssertionError("unreachable")
