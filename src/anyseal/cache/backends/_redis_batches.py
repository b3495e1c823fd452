"""What is asked for in one turn of the event loop goes to Redis at once (asyncio only)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

from anyseal.cache.backends._redis_commands import Command, backend_error
from anyseal.errors import BackendError

__all__ = ["Batches", "Request"]

EXCHANGES: Final = 8
"""Batches under way at the same time; what comes while there are as many is the next batch."""
BATCH_REQUESTS: Final = 500
BATCH_BYTES: Final = 2 << 20

Outcome = Any
Exchange = Callable[[Sequence["Request"]], Awaitable[list[Outcome]]]


class Request:
    """Values wanted by name, or commands; and who waits for it, if not the sender itself."""

    __slots__ = ("commands", "future", "names", "repeatable", "size")

    def __init__(
        self,
        names: Sequence[str] = (),
        commands: Sequence[Command] = (),
        *,
        size: int = 0,
        repeatable: bool = True,
    ) -> None:
        self.names = names
        self.commands = commands
        self.size = size
        self.repeatable = repeatable
        self.future: asyncio.Future[Outcome] | None = None

    @property
    def verb(self) -> str:
        """The command's name."""
        return str(self.commands[0][0]) if self.commands else "MGET"


class Batches:
    """Gathers the requests of one turn of the loop and has them exchanged together.

    The first caller of a turn lets the others of this turn come along. If none did, it makes the
    exchange in its own task, which costs no task, no future and no callback. A batch of several
    runs in a task of its own: whoever of them is cancelled, the others get their answers.

    *exchange* returns for each request the values or the answers to its commands, or an exception
    if it failed; or it raises, and then all have failed. A request that has to wait for others
    takes no longer than *timeout* seconds in all. Belongs to the event loop that it was made in.
    """

    def __init__(self, exchange: Exchange, timeout: float) -> None:
        self._exchange = exchange
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._free = EXCHANGES
        self._leading = False
        self._waiting: list[Request] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, request: Request) -> Outcome:
        """The answer to *request*. Raises BackendError."""
        self._waiting.append(request)
        if self._leading or not self._free:
            request.future = self._loop.create_future()
            outcome = await (request.future if self._free else self._in_time(request))
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
        self._leading = True
        try:
            await asyncio.sleep(0)
        except BaseException:
            self._leading = False
            self._waiting.remove(request)
            self._start()
            raise
        self._leading = False
        if len(self._waiting) > 1 or not self._free:
            # The future is there before the task that may set it.
            request.future = self._loop.create_future()
            self._start()
            outcome = await (request.future if self._free else self._in_time(request))
        else:
            self._waiting = []
            self._free -= 1
            try:
                (outcome,) = await self._exchange((request,))
            finally:
                self._done()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _in_time(self, request: Request) -> Outcome:
        """The answer to a request that waits for others: its time begins now."""
        assert request.future is not None
        try:
            async with asyncio.timeout(self._timeout):
                return await request.future
        except TimeoutError as exc:
            return backend_error(request.verb, exc)

    def _done(self) -> None:
        self._free += 1
        if self._waiting and not self._leading:
            self._start()

    def _start(self) -> None:
        """Send off what waits, as far as there may be more exchanges."""
        # A future that is done belongs to a caller who was cancelled.
        waiting = [r for r in self._waiting if r.future is None or not r.future.done()]
        while waiting and self._free:
            count = size = 0
            for request in waiting[:BATCH_REQUESTS]:
                size += request.size
                if count and size > BATCH_BYTES:
                    break
                count += 1
            batch, waiting = waiting[:count], waiting[count:]
            self._free -= 1
            self.spawn(self._run(batch))
        self._waiting = waiting

    async def _run(self, batch: list[Request]) -> None:
        outcomes: Sequence[Outcome]
        try:
            outcomes = await self._exchange(batch)
        except BackendError as exc:
            outcomes = [_again(exc) for _ in batch]
        except Exception as exc:
            outcomes = [exc] * len(batch)
        except BaseException as exc:  # the loop is being shut down
            outcomes = [backend_error(request.verb, exc) for request in batch]
            raise
        finally:
            self._done()
            for request, outcome in zip(batch, outcomes, strict=True):
                if request.future is not None and not request.future.done():
                    request.future.set_result(outcome)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run *work* in a task that is held until it is done."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        """Wait until nothing is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)


def _again(error: BackendError) -> BackendError:
    """The same for another waiter: a traceback must not grow in several tasks."""
    fresh = type(error)(*error.args)
    fresh.retryable = error.retryable
    return fresh
