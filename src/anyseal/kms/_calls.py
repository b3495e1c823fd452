"""Calling a service that may be slow, down or somewhere else: retries and failover."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

from anyseal.errors import ConfigurationError, KmsError
from anyseal.retries import retried as tried_again

__all__ = ["check_patience", "first_success", "retried"]

T = TypeVar("T")

WHOLE = 1.4
"""Of an attempt's timeout: how long all of them may take."""


def check_patience(*, timeout: float, attempts: int) -> None:
    """Refuse settings that would wait forever or never try."""
    if not 0 < timeout <= 300:
        raise ConfigurationError("timeout must be between 0 and 300 seconds")
    if not 1 <= attempts <= 20:
        raise ConfigurationError("attempts must be between 1 and 20")


async def retried(
    what: str, call: Callable[[], Awaitable[T]], *, attempts: int, timeout: float
) -> T:
    """The result of *call*, tried again after a retryable error while there is time.

    An attempt takes *timeout* seconds at most, and all of them 1.4 times as long: what failed at
    once is tried again at leisure, what was not answered has one more chance.

    Raises:
        KmsError: There was no success in time.
    """
    try:
        with anyio.fail_after(WHOLE * timeout):
            return await tried_again(call, attempts)
    except TimeoutError as exc:
        raise KmsError(f"{what}: no answer in {timeout:g} s") from exc


async def first_success(
    calls: Sequence[Callable[[], Awaitable[T]]],
    *,
    hedge_after: float,
    discard: Callable[[T], object] = lambda _: None,
) -> T:
    """The first result of *calls*, which start one after another.

    The next one starts when one before it failed, or after *hedge_after* seconds without an
    answer; the slow one keeps running. The first success cancels the others; a second one that
    came at the same moment goes to *discard*.

    Raises:
        KmsError: All failed; retryable if one of them was.
    """
    results: list[T] = []
    errors: list[Exception] = []
    failed = anyio.Event()

    async def attempt(call: Callable[[], Awaitable[T]]) -> None:
        try:
            results.append(await call())
        except Exception as exc:
            errors.append(exc)
            failed.set()
        else:
            group.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            for following, call in enumerate(calls, 1):
                failed = anyio.Event()
                group.start_soon(attempt, call)
                if following < len(calls):
                    with anyio.move_on_after(hedge_after):
                        await failed.wait()
    except BaseException:
        for result in results:
            discard(result)
        raise
    if results:
        for late in results[1:]:
            discard(late)
        return results[0]
    unexpected = next((exc for exc in errors if not isinstance(exc, KmsError)), None)
    if unexpected is not None:
        raise unexpected
    if len(errors) == 1:
        raise errors[0]
    raise KmsError(
        "; ".join(str(exc) for exc in errors),
        retryable=any(isinstance(exc, KmsError) and exc.retryable for exc in errors),
    ) from errors[0]
