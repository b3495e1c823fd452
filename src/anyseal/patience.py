"""Patience with a service: its calls end in time, whatever it does.

A call that is awaited is cancelled at its deadline. A blocking one runs in a thread of its own,
which cannot be stopped: at the deadline it is left behind. So is a task that takes no notice of
its cancellation. What was left behind is counted until it returns, and too much of it makes
further calls fail at once: otherwise a service that hangs would use up the process's threads.
"""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterable, Callable, Iterator
from typing import Any

import anyio
from anyio.lowlevel import current_token

from anyseal.errors import AnysealError
from anyseal.flight import set_elsewhere
from anyseal.offload import waiting_limiter
from anyseal.tasks import Detached

__all__ = ["LEFT_MAX", "Bounds", "Progress", "advancing", "take_all"]

LEFT_MAX = 8
"""Calls of one service that may hang at the same time, past their deadline."""

_ENDING = 1.0
"""Seconds that a cancelled call is given to end; less if its limit is short."""

_live: weakref.WeakSet[Bounds] = weakref.WeakSet()


def _renew_all() -> None:
    for bounds in list(_live):
        bounds._running = {}


os.register_at_fork(after_in_child=_renew_all)


class Bounds:
    """Limits the calls of one service.

    Args:
        seconds: For one call; None: no limit.
        failed: Makes the error of a call that did not end in time, from its text.

    Cost: a task for each call, and a thread if the function is not ``async``.
    """

    def __init__(self, seconds: float | None, failed: Callable[[str], AnysealError]) -> None:
        self._seconds = math.inf if seconds is None else seconds
        self._failed = failed
        self._running: dict[object, float] = {}
        """What runs, and when it should have ended. Threads share it without a lock."""
        _live.add(self)

    @property
    def left(self) -> int:
        """How many threads and tasks run past their deadline."""
        now = time.perf_counter()
        return sum(deadline < now for deadline in list(self._running.values()))

    async def call(
        self,
        what: str,
        function: Callable[..., Any],
        *args: Any,
        discard: Callable[[Any], object] = lambda _: None,
    ) -> Any:
        """The result of *function*, awaited if it can be, before the time is over.

        Args:
            what: Names the call in errors.
            function: Is called in a thread if it is not ``async``.
            discard: Is given a result that comes too late, or that no caller waits for.

        Raises:
            AnysealError: Made by *failed*: no result in time, or too many calls still hang.
        """
        self._check(what)
        call = _Call(self._running, self._seconds, function, args, discard)
        task = Detached(call.run)
        try:
            with anyio.move_on_after(self._seconds):
                await task.wait()
            if not task.ended:
                await _end(task, self._seconds)
        except BaseException:
            call.dropped = True
            await _end(task, self._seconds)
            call.drop_result()
            raise
        if call.error is not None:
            raise call.error
        if call.results:
            return call.results.pop()
        call.dropped = True
        if self._seconds < math.inf:
            raise self._late(what)
        raise self._failed(f"{what}: the event loop ended the call")

    def wait(self, what: str, function: Callable[..., Any], *args: Any) -> Any:
        """As :meth:`call`, for a thread that waits itself. *function* is not ``async``.

        Cost: a thread for each call.
        """
        self._check(what)
        over = threading.Event()
        job = _Job(
            self._running, time.perf_counter() + self._seconds, contextvars.copy_context(),
            function, args, over.set,
        )  # fmt: skip
        job.start()
        try:
            in_time = over.wait(None if self._seconds == math.inf else self._seconds)
        except BaseException:
            job.heard = False
            raise
        if not in_time:
            job.heard = False
            raise self._late(what)
        return job.outcome()

    def pages(self, what: str, pages: AsyncIterable[Any]) -> _Pages:
        """What *pages* gives, each in its time.

        A generator may hold what belongs to its task: all of it runs in one, which is left behind
        if it does not end. To be closed, unless it was read to its end.
        """
        return _Pages(self, what, pages)

    def _check(self, what: str) -> None:
        if self._running and self.left >= LEFT_MAX:
            raise self._failed(
                f"{what}: {LEFT_MAX} earlier calls still hang in threads: give what they wait "
                "for a timeout of its own"
            )

    def _late(self, what: str) -> AnysealError:
        return self._failed(f"{what}: no answer in {self._seconds:g} s")


class Progress:
    """Sees that a loop over pages comes to an end.

    Args:
        what: Names the loop in errors.
        failed: Makes the error, from its text.
        empty_max: Pages in a row that may be empty.
    """

    def __init__(
        self, what: str, failed: Callable[[str], Exception], *, empty_max: int = 1000
    ) -> None:
        self._what = what
        self._failed = failed
        self._empty_max = empty_max
        self._empty = 0
        self._seen: set[int] = set()

    def advance(self, marker: Any, *, found: int) -> None:
        """A page came, with so much in it; the next one begins at *marker* (None: the end).

        Raises:
            Exception: Made by *failed*: the loop was at *marker* before, or gets nowhere.
        """
        if marker is None:
            return
        self._empty = 0 if found else self._empty + 1
        name = hash(repr(marker))  # a listing may have a million pages: keep little of each
        if name in self._seen or self._empty > self._empty_max:
            raise self._failed(f"{self._what}: the pages do not come to an end: the server repeats")
        self._seen.add(name)


@contextlib.contextmanager
def advancing(seconds: float, step: int = 1 << 16) -> Iterator[Callable[[int], None]]:
    """Cancels the block when fewer than *step* bytes come in *seconds*: for answers of any size.

    Tell what the block is given how many bytes came.

    Raises:
        TimeoutError: It was too slow.
    """
    came = 0
    with anyio.CancelScope() as scope:
        scope.deadline = anyio.current_time() + seconds

        def tell(size: int) -> None:
            nonlocal came
            came += size
            if came >= step:
                came = 0
                scope.deadline = anyio.current_time() + seconds

        yield tell
    if scope.cancelled_caught:
        raise TimeoutError("the answer comes too slowly")


async def take_all(pieces: AsyncIterable[bytes], take: Callable[[bytes], object]) -> None:
    """Give *take* all pieces of an answer; what it raises ends the answer and is raised.

    A generator that is left in the midst is closed by the collector, if at all, and trio minds.
    So the pieces are not left but cancelled, which ends every generator that they come through.
    """
    failed: Exception | None = None
    with anyio.CancelScope() as scope:
        async for piece in pieces:
            if failed is None:
                try:
                    take(piece)
                except Exception as exc:
                    failed = exc
                    scope.cancel()
    if failed is not None:
        raise failed


async def _end(task: Detached, seconds: float) -> None:
    """Cancel *task* and wait for its end; not for long, for it may take no notice."""
    task.cancel()
    until = anyio.current_time() + min(_ENDING, seconds / 4)
    late: BaseException | None = None
    while not task.ended and anyio.current_time() < until:
        try:
            with anyio.CancelScope(shield=True, deadline=until):
                await task.wait()
        except anyio.get_cancelled_exc_class() as cancelled:  # asyncio's own Task.cancel()
            late = cancelled
    if late is not None:
        raise late


class _Pages:
    """An async iterator that runs in a task of its own."""

    def __init__(self, bounds: Bounds, what: str, pages: AsyncIterable[Any]) -> None:
        self._bounds = bounds
        self._what = what
        self._pages = pages
        self._error: Exception | None = None
        self._task: Detached | None = None

    def __aiter__(self) -> _Pages:
        return self

    async def __anext__(self) -> Any:
        bounds = self._bounds
        if self._task is None:
            bounds._check(self._what)
            self._given, self._found = anyio.create_memory_object_stream[Any](0)
            self._task = Detached(self._run, self._given.close)
        bounds._running[self] = time.perf_counter() + bounds._seconds
        try:
            with anyio.move_on_after(bounds._seconds):
                try:
                    page = await self._found.receive()
                except (anyio.EndOfStream, anyio.ClosedResourceError):
                    if self._error is not None:
                        raise self._error from None
                    raise StopAsyncIteration from None
                bounds._running.pop(self, None)
                return page
        except BaseException:
            await self.aclose()
            raise
        await self.aclose()
        raise bounds._late(self._what)

    async def _run(self) -> None:
        try:
            async for page in self._pages:
                await self._given.send(page)
        except anyio.BrokenResourceError:
            pass
        except Exception as exc:
            self._error = exc
        finally:
            close = getattr(self._pages, "aclose", None)
            try:
                if close is not None:
                    with anyio.CancelScope(shield=True):
                        await close()
            finally:
                self._bounds._running.pop(self, None)

    async def aclose(self) -> None:
        """End it, or leave it behind. Idempotent."""
        if self._task is not None:
            self._found.close()
            if not self._task.ended:
                await _end(self._task, self._bounds._seconds)
            if self._task.ended:
                self._bounds._running.pop(self, None)


class _Job:
    """A blocking call in a thread of its own, which does not keep the process from ending.

    Args:
        over: Called in that thread when it has ended, if it is still ``heard`` then.
        discard: Is given the result otherwise.
    """

    def __init__(
        self,
        running: dict[object, float],
        deadline: float,
        context: contextvars.Context,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        over: Callable[[], object],
        discard: Callable[[Any], object] = lambda _: None,
    ) -> None:
        self._running = running
        self._deadline = deadline
        self._context = context
        self._function = function
        self._args = args
        self._over = over
        self._discard = discard
        self._results: list[Any] = []
        self._errors: list[BaseException] = []
        self.heard = True

    def start(self) -> None:
        """Raises RuntimeError if there can be no more threads."""
        self._running[self] = self._deadline
        try:
            threading.Thread(target=self._work, name="anyseal-waiting", daemon=True).start()
        except BaseException:
            self._running.pop(self, None)
            raise

    def outcome(self) -> Any:
        """What the call returned or raised."""
        if self._errors:
            raise self._errors[0]
        return self._results.pop()

    def _work(self) -> None:
        try:
            self._results.append(self._context.run(self._function, *self._args))
        except BaseException as exc:
            self._errors.append(exc)
        finally:
            self._running.pop(self, None)
        if self.heard:
            self._over()
        elif self._results:
            self._throw_away(self._results.pop())

    def _throw_away(self, result: Any) -> None:
        if inspect.iscoroutine(result):
            result.close()
        else:
            with contextlib.suppress(Exception):
                self._discard(result)


class _Call:
    """One call, and what came of it."""

    def __init__(
        self,
        running: dict[object, float],
        seconds: float,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        discard: Callable[[Any], object],
    ) -> None:
        self._running = running
        self._deadline = time.perf_counter() + seconds
        self._function = function
        self._args = args
        self._discard = discard
        self.dropped = False
        self.results: list[Any] = []
        self.error: Exception | None = None

    async def run(self) -> None:
        self._running[self] = self._deadline
        try:
            if inspect.iscoroutinefunction(self._function):
                result = await self._function(*self._args)
            else:
                async with waiting_limiter():
                    result = await self._in_thread()
                if inspect.isawaitable(result):
                    result = await result
            self.results.append(result)
            if self.dropped:
                self.drop_result()
        except Exception as exc:
            self.error = exc
        finally:
            self._running.pop(self, None)

    def drop_result(self) -> None:
        while self.results:
            self._discard(self.results.pop())

    async def _in_thread(self) -> Any:
        """The function's result, from a thread."""
        token, over = current_token(), anyio.Event()
        context = contextvars.copy_context()
        if "sniffio" in sys.modules:  # the thread is in no event loop
            context.run(sys.modules["sniffio"].current_async_library_cvar.set, None)
        job = _Job(
            self._running, self._deadline, context, self._function, self._args,
            lambda: set_elsewhere(token, [over]), self._discard,
        )  # fmt: skip
        job.start()
        try:
            await over.wait()
        except BaseException:
            job.heard = False
            raise
        return job.outcome()
