"""Single flight: one call per key, whatever becomes of those who make it and wait for it."""

from __future__ import annotations

import os
import threading
import time
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.from_thread
import pytest

from anyseal import MetastoreError, flight
from anyseal.flight import SingleFlight

BACKENDS = ["asyncio", "trio"]
tenant: ContextVar[str] = ContextVar("tenant")


class Work:
    """Something slow, counted."""

    def __init__(self, seconds: float = 0.05, error: Exception | None = None) -> None:
        self.calls = 0
        self.seconds = seconds
        self.error = error

    async def __call__(self) -> int:
        self.calls += 1
        mine = self.calls
        await anyio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return mine


@pytest.mark.anyio
async def test_flight_makes_one_call_for_all_who_wait() -> None:
    """A cold key must cost the KMS one request, not one per request handler."""
    flights, work = SingleFlight[int](), Work()
    got: list[int] = []

    async def ask() -> None:
        got.append(await flights.run("k", work))

    async with anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(ask)
    assert ([1] * 100, 1) == (got, work.calls)
    assert 2 == await flights.run("k", work)


@pytest.mark.anyio
async def test_flight_error_reaches_all_and_is_not_kept() -> None:
    """Whoever waits must hear of the failure; the next one must try again."""
    flights = SingleFlight[int]()
    work = Work(error=MetastoreError("down", retryable=False))
    seen: list[MetastoreError] = []

    async def ask() -> None:
        try:
            await flights.run("k", work)
        except MetastoreError as error:
            seen.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(ask)
    assert (50, 1) == (len(seen), work.calls)
    assert {("down", False)} == {(str(error), error.retryable) for error in seen}
    depths = []
    for error in seen:
        depth, frame = 0, error.__traceback__
        while frame is not None:
            depth, frame = depth + 1, frame.tb_next
        depths.append(depth)
    assert max(depths) < 10, "each caller has a traceback of its own"
    work.error = None
    assert 2 == await flights.run("k", work)


@pytest.mark.anyio
async def test_flight_survives_a_cancelled_leader() -> None:
    """A client that hangs up must neither fail the requests that wait for its call nor begin it
    again."""
    flights, work = SingleFlight[int](), Work(1.0)
    got: list[int] = []

    async def ask() -> None:
        got.append(await flights.run("k", work))

    async with anyio.create_task_group() as group, anyio.create_task_group() as leader:
        leader.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        for _ in range(10):
            group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        leader.cancel_scope.cancel()
    assert ([1] * 10, 1) == (got, work.calls)


@pytest.mark.anyio
async def test_flight_survives_a_cancelled_waiter() -> None:
    """Nor may a waiter that gives up disturb the call."""
    flights, work = SingleFlight[int](), Work(1.0)
    got: list[int] = []

    async def ask() -> None:
        got.append(await flights.run("k", work))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as waiter:
            waiter.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            waiter.cancel_scope.cancel()
        group.start_soon(ask)
    assert ([1, 1], 1) == (got, work.calls)
    assert not flights._flights


@pytest.mark.anyio
async def test_flight_without_callers_continues_for_a_while() -> None:
    """The next client must find the call that the one before gave up on; but calls that no client
    ever comes back for must end, and must not pile up."""
    dropped: list[int] = []
    flights = SingleFlight[int](60.0, 2, lambda: dropped.append(1))
    works = {key: Work(60) for key in "abc"}

    async def give_up(key: str) -> None:
        with anyio.move_on_after(0.01):
            await flights.run(key, works[key])

    for key in "abc":
        await give_up(key)
    await _until(lambda: dropped)
    assert (1, {"a", "b"}) == (len(dropped), set(flights._flights))
    await give_up("a")
    assert 1 == works["a"].calls
    await flights.aclose()
    assert ({}, 3) == (flights._flights, len(dropped))
    brief = SingleFlight[int](0.05, 2, lambda: dropped.append(1))
    with anyio.move_on_after(0.01):
        await brief.run("d", Work(60))
    await _until(lambda: len(dropped) == 4)
    assert {} == brief._flights


@pytest.mark.anyio
async def test_flight_runs_in_the_context_of_its_first_caller() -> None:
    """A tenant in a ContextVar is that of the caller that began the call."""
    flights = SingleFlight[str]()

    async def read() -> str:
        await anyio.sleep(0)
        return tenant.get()

    tenant.set("a")
    assert "a" == await flights.run("k", read)
    tenant.set("b")
    assert "b" == await flights.run("k", read)


@pytest.mark.anyio
async def test_flight_variants_are_calls_of_their_own() -> None:
    """What differs in type or key generation is no result for another; one name forgets all."""
    flights, work = SingleFlight[int](), Work(0.3)
    got: list[int] = []

    async def ask(variant: str) -> None:
        got.append(await flights.run("k", work, variant))

    async with anyio.create_task_group() as group:
        for variant in "aab":
            group.start_soon(ask, variant)
        await _until(lambda: work.calls == 2)
        flights.forget(["k"])
        group.start_soon(ask, "a")
    assert (4, 3, {1, 2, 3}) == (len(got), work.calls, set(got))


async def _until(true: Callable[[], Any]) -> None:
    with anyio.fail_after(60):
        while not true():
            await anyio.sleep(0.005)


def _in_threads(*jobs: Callable[[], Any]) -> None:
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("first", BACKENDS)
@pytest.mark.parametrize("second", BACKENDS)
def test_flight_spans_event_loops(first: str, second: str) -> None:
    """Sync callers share one loop beside the application's: both must get the one result."""
    flights, work = SingleFlight[int](), Work(0.2)
    got: list[int] = []
    both = threading.Barrier(2, timeout=60)

    async def ask_many() -> None:
        async def ask() -> None:
            got.append(await flights.run("k", work))

        await anyio.to_thread.run_sync(both.wait)  # a loop takes a while to start

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(ask)

    _in_threads(
        lambda: anyio.run(ask_many, backend=first), lambda: anyio.run(ask_many, backend=second)
    )
    assert ([1] * 40, 1) == (got, work.calls)


def test_flight_does_not_wait_forever_for_a_loop_that_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A loop that was stopped in the middle of a call must not hang all later callers."""
    import asyncio

    monkeypatch.setattr(flight, "PATIENCE", 0.1)
    flights = SingleFlight[int]()
    loop = asyncio.new_event_loop()
    stuck = loop.create_task(flights.run("k", Work(60)))
    loop.run_until_complete(asyncio.sleep(0.01))

    async def ask() -> int:
        return await flights.run("k", Work(0.01))

    try:
        assert 1 == anyio.run(ask)
    finally:
        stuck.cancel()
        loop.run_until_complete(asyncio.gather(stuck, return_exceptions=True))
        loop.close()


def test_flight_does_not_deadlock_with_a_blocked_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sync code called on an event loop blocks the very loop that makes the call."""
    monkeypatch.setattr(flight, "PATIENCE", 0.1)
    flights, work = SingleFlight[int](), Work(0.05)

    async def main(portal: Any) -> tuple[int, int]:
        results = []

        async def ask() -> None:
            results.append(await flights.run("k", work))

        work.seconds = 1.0
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            work.seconds = 0.05
            results.append(portal.call(flights.run, "k", work))  # blocks this loop
        return results[0], results[1]

    with anyio.from_thread.start_blocking_portal() as portal:
        started = time.monotonic()
        assert (2, 1) == anyio.run(main, portal)
        assert time.monotonic() - started < 60


def test_flight_forked_child_does_not_wait_for_its_parent() -> None:
    """The parent's call never ends in the child; nor does a lock that a lost thread holds."""
    flights = SingleFlight[int]()

    async def parent() -> int:
        async with anyio.create_task_group() as group:
            group.start_soon(flights.run, "k", Work(60))
            await anyio.wait_all_tasks_blocked()
            flights._lock.acquire()
            pid = os.fork()
            if not pid:
                os._exit(_child(flights))
            flights._lock.release()
            status = await anyio.to_thread.run_sync(os.waitpid, pid, 0)
            group.cancel_scope.cancel()
        return status[1]

    assert 0 == anyio.run(parent)


def _child(flights: SingleFlight[int]) -> int:
    """In a forked child, on a thread of its own: 0 if a call gets its result."""
    got: list[int] = []

    def run() -> None:
        work: Callable[[], Awaitable[int]] = Work(0.01)
        got.append(anyio.run(flights.run, "k", work, backend="trio"))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    return 0 if got == [1] else 1


class Stopped(BaseException):
    """As pytest's own, which are no Exception."""


@pytest.mark.anyio
@pytest.mark.parametrize("error", [Stopped, SystemExit, KeyboardInterrupt, CancelledError])
async def test_flight_hands_its_caller_what_is_no_exception(error: type[BaseException]) -> None:
    """It is the caller's: in a task of the event loop it would end the loop, or be printed as
    never retrieved. Others who wait make the call themselves."""
    flights = SingleFlight[int]()
    calls = 0

    async def once() -> int:
        nonlocal calls
        calls += 1
        await anyio.sleep(0.01)
        if calls == 1:
            raise error("x")
        return calls

    got: list[int] = []

    async def wait() -> None:
        got.append(await flights.run("k", once))

    async with anyio.create_task_group() as group:
        group.start_soon(_after(wait))
        with pytest.raises(error):
            await flights.run("k", once)
    assert ([2], {}) == (got, flights._flights)


def _after(function: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    async def later() -> None:
        await anyio.sleep(0)
        await function()

    return later


@pytest.mark.anyio
async def test_flight_tells_what_no_caller_hears(caplog: pytest.LogCaptureFixture) -> None:
    """A call that fails after its callers gave up must leave a line, without the error's text."""
    flights = SingleFlight[int]()
    with anyio.move_on_after(0.01):
        await flights.run("k", Work(0.02, ValueError("secret")))
    await _until(lambda: caplog.messages)
    assert ["a call that no caller waits for failed: ValueError"] == caplog.messages
    with pytest.raises(ValueError, match="secret"):
        await flights.run("k", Work(0, ValueError("secret")))
    assert 1 == len(caplog.messages)


def test_flight_takes_over_from_a_closed_loop_at_once() -> None:
    """Its call never ends: neither the next caller nor the bound on abandoned calls waits."""
    import asyncio

    flights = SingleFlight[int](60.0, 1)
    loop = asyncio.new_event_loop()

    async def give_up() -> None:
        with anyio.move_on_after(0.01):
            await flights.run("k", Work(60))

    loop.run_until_complete(give_up())
    loop.close()

    async def ask() -> int:
        with anyio.fail_after(flight.PATIENCE - 1):
            got = await flights.run("k", Work(0.01))
        with anyio.move_on_after(0.01):
            await flights.run("j", Work(60))
        assert ["j"] == list(flights._flights)
        await flights.aclose()
        return got

    assert 1 == anyio.run(ask)


@pytest.mark.anyio
async def test_flight_that_ends_as_it_starts_is_not_abandoned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An eager task factory runs short calls at once: they must not count, nor keep results."""

    class Eager:
        ended = True

        def __init__(self, function: Callable[[], Any], over: Callable[[], object]) -> None:
            with pytest.raises(StopIteration):
                function().send(None)
            over()

    async def at_once() -> int:
        return 7

    monkeypatch.setattr(flight, "Detached", Eager)
    flights = SingleFlight[int]()
    assert 7 == await flights.run("k", at_once)
    assert (set(), {}) == (flights._abandoned, flights._flights)
