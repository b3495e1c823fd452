"""When work leaves the event loop, and where it goes.

Large work runs in anyio's worker threads under a limiter of our own, so that it neither starves
nor is starved by other users of the pool. Work comes in units of at most ``config.UNIT_BYTES``:
cancelling waits for the running unit and no longer.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import mmap
import os
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar, TypeVarTuple, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.from_thread import BlockingPortal, BlockingPortalProvider

from anyseal._ffi import OwnPages, lib
from anyseal.config import worker_count

__all__ = [
    "BufferPool",
    "acquire",
    "breathe",
    "buffers",
    "each",
    "each_blocking",
    "executor",
    "exiting",
    "pause",
    "portal",
    "run",
    "run_waiting",
    "settle",
    "wait",
    "waiting_limiter",
]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

BREATH_BYTES = 1 << 18
"""So much may be sealed, opened or copied on the loop, call after call, and none of them waits."""

WAITING_CALLS = 32
"""Calls that wait in worker threads at the same time, per event loop."""

_working: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar("_anyseal_working")
_waiting: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar("_anyseal_waiting")


def _limiter(
    variable: anyio.lowlevel.RunVar[anyio.CapacityLimiter], tokens: int
) -> anyio.CapacityLimiter:
    """The running loop's limiter, made on first use."""
    try:
        return variable.get()
    except LookupError:
        fresh = anyio.CapacityLimiter(tokens)
        variable.set(fresh)
        return fresh


def _current_limiter() -> anyio.CapacityLimiter:
    return _limiter(_working, worker_count())


class _Call(Generic[T]):
    """A call that, once dropped, either never begins or is known to be running."""

    __slots__ = ("_call", "_over", "_ticket")

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._ticket = [None]  # who takes it decides whether the call begins
        self._over = False

    def __call__(self) -> T | None:
        if not self.drop():
            return None
        changed = lib.anyseal_thread_work(1)
        try:
            return self._call()
        finally:
            if changed:  # the thread is anyio's, and others use it too
                lib.anyseal_thread_work(0)
            self._over = True

    def drop(self) -> bool:
        """Whether the call had not begun, and now never will from elsewhere."""
        try:
            self._ticket.pop()
        except IndexError:
            return False
        return True

    @property
    def running(self) -> bool:
        """Whether a call that was not dropped in time still works."""
        return not self._over


async def run(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """Run *function* in a worker thread. A cancelled caller waits until it has returned."""
    call = _Call(functools.partial(function, *args))
    try:
        result = await anyio.to_thread.run_sync(call, limiter=_current_limiter())
    except anyio.get_cancelled_exc_class() as cancelled:
        # asyncio's own Task.cancel() pays no heed to the shield around a running thread.
        if not call.drop():
            while call.running:
                with anyio.CancelScope(shield=True), contextlib.suppress(type(cancelled)):
                    await anyio.sleep(0.001)
        raise
    return cast(T, result)


async def breathe(done: int) -> None:
    """Let other tasks run, after *done* bytes of work on the loop that may have been much."""
    if done >= BREATH_BYTES:
        await anyio.lowlevel.checkpoint()


def pause() -> None:
    """Between two steps of a worker thread that hold the GIL: whoever waits for it gets it.

    To let go of it and take it again at once is not enough: the waiting thread has to wake up.
    """
    time.sleep(5e-5)


async def run_waiting(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """Run *function*, which waits for a disk or a network, in a worker thread.

    Apart from the threads that seal and open, which must not stand in line behind a database that
    hangs. A cancelled caller does not wait: the call goes on unheard, so it must do all or nothing
    and end by itself.
    """
    return await anyio.to_thread.run_sync(
        function, *args, limiter=waiting_limiter(), abandon_on_cancel=True
    )


def waiting_limiter() -> anyio.CapacityLimiter:
    """What limits the calls of this event loop that wait in threads."""
    return _limiter(_waiting, WAITING_CALLS)


async def settle(function: Callable[[*Ts], object], *args: *Ts) -> None:
    """Run a clean-up in a worker thread: no cancellation skips it or returns before it is done."""
    call = _Call(functools.partial(function, *args))
    late: BaseException | None = None
    while call.running:
        try:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(call, limiter=_current_limiter())
                if call.running:  # an earlier attempt, which was cancelled, still works
                    await anyio.sleep(0.001)
        except anyio.get_cancelled_exc_class() as cancelled:
            late = cancelled
    if late is not None:
        raise late


async def acquire(factory: Callable[[], T], release: Callable[[T], object]) -> T:
    """Run *factory* in a worker thread; what it made for a cancelled caller is released."""
    made: list[T] = []
    try:
        await run(lambda: made.append(factory()))
    except BaseException:
        for thing in made:
            await settle(release, thing)
        raise
    return made[0]


class _Feed(Generic[*Ts]):
    """Hands out jobs to several threads until one of them says stop."""

    def __init__(self, jobs: Iterator[tuple[*Ts]]) -> None:
        self._jobs = jobs
        self._lock = threading.Lock()
        self.stopped = False
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[tuple[*Ts]]:
        while True:
            with self._lock:
                job = None if self.stopped else next(self._jobs, None)
            if job is None:
                return
            yield job


async def each(
    function: Callable[[*Ts], T],
    jobs: Iterator[tuple[*Ts]],
    done: Callable[[T], None] | None = None,
) -> None:
    """Run *function* for each of *jobs* in worker threads, several at a time.

    The first error ends it: no further job starts, the running ones are waited for, the error is
    raised as it is. So does a cancellation. *done* is called with each result in the caller's
    task; without it a worker takes job after job and does not come back to the loop in between.
    """
    first = next(jobs, None)
    second = next(jobs, None)
    if first is None:
        return
    if second is None:
        result = await run(function, *first)
        if done is not None:
            done(result)
        return
    feed = _Feed(itertools.chain((first, second), jobs))

    def take(limit: int | None) -> list[T]:
        """Do jobs, at most *limit*; what they returned."""
        results = []
        for job in itertools.islice(feed, limit):
            results.append(function(*job))
        return results

    async def work() -> None:
        try:
            while not feed.stopped:
                results = await run(take, None if done is None else 1)
                if not results:
                    return
                if done is not None:
                    done(results[0])
        except Exception as exc:
            feed.error = feed.error or exc
            feed.stopped = True

    async def watch() -> None:
        """A running thread shields its task from a cancellation: this one hears of it."""
        try:
            await anyio.sleep_forever()
        finally:
            feed.stopped = True

    async with anyio.create_task_group() as watched:
        watched.start_soon(watch)
        try:
            async with anyio.create_task_group() as group:
                for _ in range(worker_count()):
                    group.start_soon(work)
        finally:
            feed.stopped = True
            watched.cancel_scope.cancel()
    if feed.error is not None:
        raise feed.error


def each_blocking(
    function: Callable[[*Ts], T],
    jobs: Iterator[tuple[*Ts]],
    done: Callable[[T], None] | None = None,
) -> None:
    """The same from sync code: the caller's thread does jobs too, beside threads of ours."""
    first = next(jobs, None)
    second = next(jobs, None)
    if first is None:
        return
    if second is None:
        result = function(*first)
        if done is not None:
            done(result)
        return
    feed = _Feed(itertools.chain((first, second), jobs))
    results: queue.SimpleQueue[T] = queue.SimpleQueue()

    def take() -> None:
        try:
            for job in feed:
                results.put(function(*job))
                if threading.current_thread() is caller:
                    report()
        except BaseException:
            feed.stopped = True
            raise

    def report() -> None:
        while not results.empty():
            result = results.get()
            if done is not None:
                done(result)

    caller = threading.current_thread()
    helpers = [executor().submit(take) for _ in range(worker_count() - 1)]
    try:
        take()
    finally:
        futures.wait(helpers)
    for helper in helpers:
        helper.result()
    report()


class BufferPool:
    """Page-aligned buffers that are used again: fresh pages cost more than the cipher.

    ``lease(n)`` gives a writable view of exactly *n* bytes with undefined content. A buffer goes
    back when the lease ends, so no view of it may be handed to anything that keeps it.

    Args:
        keep_bytes: How much is kept for the next lease. Default: four requests of 8 MiB, and what
            smaller steps take.
    """

    def __init__(self, keep_bytes: int = 40 << 20) -> None:
        self._keep_bytes = keep_bytes
        self._kept_bytes = 0
        self._free: dict[int, list[OwnPages]] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def lease(self, size: int) -> Iterator[memoryview]:
        """A buffer of *size* bytes for the time of the ``with`` block."""
        capacity = max(1 << 16, 1 << (size - 1).bit_length()) if size else 1 << 16
        with self._lock:
            shelf = self._free.get(capacity)
            buffer = shelf.pop() if shelf else None
            if buffer is not None:
                self._kept_bytes -= capacity
        if buffer is None:
            # Private: a forked child must not share what its parent goes on filling.
            buffer = OwnPages(-1, capacity, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if capacity >= 1 << 21 and hasattr(mmap, "MADV_HUGEPAGE"):
                with contextlib.suppress(OSError):
                    buffer.madvise(mmap.MADV_HUGEPAGE)
        whole = memoryview(buffer)
        try:
            with whole[:size] as part:
                yield part
        finally:
            whole.release()
            self._give_back(buffer, capacity)

    def _give_back(self, buffer: OwnPages, capacity: int) -> None:
        with self._lock:
            if self._kept_bytes + capacity <= self._keep_bytes:
                self._kept_bytes += capacity
                self._free.setdefault(capacity, []).append(buffer)
                return
        # A view that outlived the lease keeps the memory until it goes; it is then collected.
        with contextlib.suppress(BufferError):
            buffer.close()


class _Process:
    """What belongs to this process and is made anew in a forked child."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.buffers = BufferPool()
        self.executor: ThreadPoolExecutor | None = None
        self.portal: BlockingPortal | None = None
        self.portal_exit = contextlib.ExitStack()
        self.portal_closed = False


_process = _Process()


def _renew() -> None:
    global _process
    _process = _Process()


os.register_at_fork(after_in_child=_renew)


def buffers() -> BufferPool:
    """The process's buffer pool."""
    return _process.buffers


def executor() -> ThreadPoolExecutor:
    """The worker threads of the sync side, started on first use."""
    process = _process
    if process.executor is None:
        with process.lock:
            if process.executor is None:
                process.executor = ThreadPoolExecutor(
                    worker_count(), "anyseal-worker", lib.anyseal_thread_work, (1,)
                )
    return process.executor


def _close_portal(process: _Process) -> None:
    if process is _process:  # not in a forked child, where the portal's thread does not exist
        process.portal_closed = True
        process.portal_exit.close()


def portal() -> BlockingPortal:
    """The way from sync code to the one event loop that the sync side shares."""
    process = _process
    if process.portal is None:
        with process.lock:
            if process.portal is None:
                process.portal = process.portal_exit.enter_context(BlockingPortalProvider())
                atexit.register(_close_portal, process)
    return process.portal


def exiting() -> bool:
    """Whether the interpreter exits, and there is no event loop any more to wait on.

    Handlers of ``atexit`` that were registered before the first wait run after the loop's end.
    """
    if _process.portal is None:  # no thread is to be started now
        return not threading.main_thread().is_alive()
    return _process.portal_closed


def wait(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Await *function* from sync code, on the one event loop that the sync side shares.

    Only for what may truly wait, such as a key service: hits never come here.
    """
    return portal().call(function, *args)
