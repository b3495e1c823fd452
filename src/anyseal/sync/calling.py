"""Calls into the shared event loop, from a thread that is of use while it waits."""

from __future__ import annotations

import contextlib
import os
import queue
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Set
from functools import partial
from typing import Any, TypeVar

import anyio

from anyseal import offload
from anyseal._ffi import process_number
from anyseal.errors import SourceError
from anyseal.objects.sealer import bytes_view
from anyseal.ports import Progress

__all__ = ["Caller", "await_", "gathered", "iterate"]

T = TypeVar("T")

HANDED_BYTES = 1 << 20
"""What goes to the event loop at once: handing over takes about 100 us, whatever its size."""

READ_BYTES = 2 << 20
"""What is asked of a file at a time."""


class Caller:
    """One call of an async function, and the thread that waits for it.

    What user code has to do meanwhile (make the next piece, hear of progress) is done in that
    thread, where a sync program expects it. If it raises there, or the thread is interrupted, the
    call is cancelled, and has ended when the exception goes on.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()

    def run(self, function: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
        """The result of *function*. Once."""

        async def work() -> T:
            try:
                return await function(*args, **options)
            finally:
                self._jobs.put(None)

        future = offload.portal().start_task_soon(work)
        try:
            while (job := self._jobs.get()) is not None:
                job()
        except BaseException:
            future.cancel()
            while self._jobs.get() is not None:
                pass
            raise
        return future.result()

    def told(self, progress: Progress | None) -> Progress | None:
        """A function for the event loop that has the waiting thread call *progress*."""
        if progress is None:
            return None
        call = progress
        return lambda done, total: self._jobs.put(partial(call, done, total))

    def fed(self, data: Any) -> Any:
        """*data* as the async side takes it: bytes-like and paths as they are, of files and
        iterables what the waiting thread reads.

        Raises:
            TypeError: Nothing that gives bytes.
        """
        if isinstance(data, os.PathLike):
            return data
        try:
            memoryview(data).release()
        except TypeError:
            pass
        else:
            return data
        read = getattr(data, "read", None)
        if callable(read):
            return _Pieces(self, iter(partial(read, READ_BYTES), b""))
        # Neither text nor what has no order is a sequence of pieces, even if it is empty.
        if isinstance(data, Iterable) and not isinstance(data, (str, Mapping, Set)):
            return _Pieces(self, gathered(data))
        raise TypeError(
            f"data must be bytes, a Path, a file or an iterable, not {type(data).__name__}"
        )

    def ask(self, job: Callable[[], object]) -> None:
        """Have the waiting thread do *job*."""
        self._jobs.put(job)


class _Answer:
    """What the waiting thread was asked for."""

    def __init__(self) -> None:
        self.given = anyio.Event()
        self.piece: Any = None


class _Pieces:
    """What the waiting thread makes, as an async iterator in the event loop."""

    def __init__(self, caller: Caller, pieces: Iterator[Any]) -> None:
        self._caller = caller
        self._pieces = pieces

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> Any:
        answer = _Answer()
        self._caller.ask(partial(self._give, answer))
        await answer.given.wait()
        if answer.piece is None:
            raise StopAsyncIteration
        return answer.piece

    def _give(self, answer: _Answer) -> None:
        for piece in self._pieces:
            bytes_view(piece).release()  # a wrong type is told where it was made
            answer.piece = piece
            break
        offload.portal().call(answer.given.set)


def gathered(pieces: Iterable[Any]) -> Iterator[Any]:
    """The bytes of *pieces*: large ones as they are, small ones put together."""
    held = bytearray()
    for piece in pieces:
        with bytes_view(piece) as view:
            whole = not held and len(view) >= HANDED_BYTES
            if not whole:
                held += view
        if whole:
            yield piece
        elif len(held) >= HANDED_BYTES:
            yield held
            held = bytearray()
    if held:
        yield held


def await_(function: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
    """The result of *function* in the shared event loop."""
    return Caller().run(function, *args, **options)


async def _taken(iterator: AsyncGenerator[T, None], limit: int) -> list[T]:
    taken: list[T] = []
    async for item in iterator:
        taken.append(item)
        if len(taken) == limit:
            break
    return taken


def iterate(iterator: AsyncGenerator[T, None], limit: int = 1) -> Iterator[T]:
    """What an async generator yields, *limit* items for each look into the event loop.

    Closing this closes it. In a forked child it is of no use: a SourceError.
    """
    pid = process_number()
    try:
        while True:
            if process_number() != pid:
                raise SourceError("begun in another process: begin again")
            taken = await_(_taken, iterator, limit)
            yield from taken
            if len(taken) < limit:
                return
    finally:
        if process_number() == pid:
            with contextlib.suppress(RuntimeError):  # at exit, when the event loop is gone
                await_(iterator.aclose)
