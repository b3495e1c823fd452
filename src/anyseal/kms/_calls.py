"""Calling a service that may be slow, down or somewhere else: retries, failover, clients."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import anyio
import anyio.lowlevel

from anyseal.errors import ConfigurationError, KmsError
from anyseal.retries import retried

__all__ = ["PerLoop", "check_patience", "first_success", "retried"]

T = TypeVar("T")


def check_patience(*, timeout: float, attempts: int) -> None:
    """Refuse settings that would wait forever or never try."""
    if not 0 < timeout <= 300:
        raise ConfigurationError("timeout must be between 0 and 300 seconds")
    if not 1 <= attempts <= 20:
        raise ConfigurationError("attempts must be between 1 and 20")


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


class PerLoop(Generic[T]):
    """One T for each event loop, made on first use, and anew in a forked child.

    Clients and locks belong to the loop that they were made in; a KMS may be used from several
    (the service's own, and the one that the sync side shares).
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._held: anyio.lowlevel.RunVar[Any] = anyio.lowlevel.RunVar("_anyseal_kms")

    def get(self) -> T:
        """This loop's T."""
        held = self._held.get(None)
        if held is None or held[0] != os.getpid():
            held = (os.getpid(), self._make())
            self._held.set(held)
        found: T = held[1]
        return found

    def take(self) -> T | None:
        """This loop's T, if there is one, which is then forgotten."""
        held = self._held.get(None)
        self._held.set(None)
        if held is None or held[0] != os.getpid():
            return None
        found: T = held[1]
        return found
