"""Several awaited things at the same time: bounded, on any event loop."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Generic, TypeVar, TypeVarTuple

import anyio
from anyio.lowlevel import current_token

from anyseal.errors import one_line

__all__ = ["GRACE", "Ahead", "Background", "Detached", "each_awaited", "ends_task", "uninterrupted"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

GRACE = 30.0
"""Seconds that a cancelled caller goes on waiting for what must not be cut short."""


async def each_awaited(
    function: Callable[[*Ts], Awaitable[object]], jobs: Iterator[tuple[*Ts]], limit: int
) -> None:
    """Await *function* for each of *jobs*, at most *limit* at the same time.

    The first error ends it: the others are cancelled and waited for, the error is raised as it is.
    """
    first = next(jobs, None)
    second = next(jobs, None)
    if first is None:
        return
    if second is None:
        await function(*first)
        return
    feed = itertools.chain((first, second), jobs)
    errors: list[Exception] = []

    async def work() -> None:
        try:
            for job in feed:
                await function(*job)
        except Exception as exc:
            errors.append(exc)
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for _ in range(limit):
            group.start_soon(work)
    if errors:
        raise errors[0]


async def uninterrupted(
    call: Callable[[], Awaitable[T]], undo: Callable[[T], Awaitable[object]] | None = None
) -> T:
    """The result of *call*; a cancellation lets it go on for ``GRACE`` seconds, then is raised.

    What it made for a cancelled caller is given to *undo*. Also at asyncio's own
    ``Task.cancel()``, which pays no heed to shields: *call* has a task of its own.
    """
    made: list[T] = []
    errors: list[Exception] = []
    over = anyio.Event()
    scope = anyio.CancelScope(shield=True)

    async def work() -> None:
        with scope:
            try:
                made.append(await call())
            except Exception as exc:
                errors.append(exc)
        over.set()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            try:
                await over.wait()
            except BaseException:
                scope.deadline = anyio.current_time() + GRACE
                raise
    except BaseException:
        if undo is not None:
            for thing in made:
                await uninterrupted(functools.partial(undo, thing))
        raise
    if errors:
        raise errors[0]
    return made[0]


def ends_task(error: BaseException) -> bool:
    """Whether *error* ends the task that runs: it was cancelled, or its event loop is gone. A
    CancelledError of asyncio may also be what another task's cancellation gave."""
    if isinstance(error, GeneratorExit):  # a closed loop's tasks end so
        return True
    if not isinstance(error, anyio.get_cancelled_exc_class()):
        return False
    if not isinstance(error, asyncio.CancelledError):  # trio's, which only trio raises
        return True
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Detached:
    """A task of this event loop that no task group waits for; started when made.

    Its owner keeps it until it has ended: nobody else does.

    Args:
        function: What it does. What it raises must be dealt with there.
        over: Called when it has ended, also if it was cancelled before it began.
    """

    def __init__(
        self, function: Callable[[], Awaitable[object]], over: Callable[[], object] | None = None
    ) -> None:
        self._function = function
        self._over = over
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self._task: asyncio.Task[None] | None = None
        if issubclass(anyio.get_cancelled_exc_class(), asyncio.CancelledError):
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(self._end)
        else:
            import trio

            trio.lowlevel.spawn_system_task(self._run, context=contextvars.copy_context())

    async def _run(self) -> None:
        try:
            with self._scope:
                await self._function()
        finally:
            self._end()

    def _end(self, task: object = None) -> None:
        if not self._ended.is_set():
            self._ended.set()
            over, self._over = self._over, None
            del self._function  # the loop may still hold this object, and a result may be a key
            if over is not None:
                over()

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return self._ended.is_set()

    def cancel(self) -> None:
        """Ask it to end. Idempotent."""
        self._scope.cancel()

    def limit(self, seconds: float) -> None:
        """Cancel it if it has not ended that many seconds from now; ``math.inf``: never."""
        self._scope.deadline = anyio.current_time() + seconds

    async def wait(self) -> None:
        """Wait for its end."""
        await self._ended.wait()


class Background:
    """Tasks that no caller waits for: each belongs to the event loop that it began in.

    Args:
        owner: Whose tasks they are: ``anyseal.<owner>`` logs what they raise.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
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
                logging.getLogger(f"anyseal.{self._owner}").warning(
                    "a background task of the %s failed: %s",
                    one_line(self._owner),
                    type(exc).__name__,
                )

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


class Ahead(Generic[T]):
    """A call that runs while its owner does something else; started when made.

    For owners that cannot hold a task group open, such as an async generator between two of its
    values. The owner takes the result or drops the call; until then it does not outlive its own
    one piece of work.
    """

    def __init__(self, call: Callable[[], Awaitable[T]]) -> None:
        self._call = call
        self._results: list[T] = []
        self._error: Exception | None = None
        self._task = Detached(self._run)

    async def _run(self) -> None:
        try:
            self._results.append(await self._call())
        except Exception as exc:
            self._error = exc

    async def result(self) -> T:
        """What the call returned; raises what it raised. Once."""
        await self._task.wait()
        if self._error is not None:
            raise self._error
        if not self._results:
            raise RuntimeError("the event loop ended the call")
        return self._results.pop()

    async def drop(self) -> None:
        """Cancel the call; returns when it has ended, also in a cancelled task."""
        self._task.cancel()
        late: BaseException | None = None
        while not self._task.ended:
            try:
                with anyio.CancelScope(shield=True):
                    await self._task.wait()
            except anyio.get_cancelled_exc_class() as cancelled:  # asyncio's own Task.cancel()
                late = cancelled
        if late is not None:
            raise late
