"""What each client must make of a server that misbehaves.

A :class:`Target` is one client over one protocol: it gives calls by name, all plain functions
(those of async clients run in an event loop of their own, see :func:`awaited`). :func:`survives`
runs one call against each behaviour and says what was wrong.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from anyio.from_thread import start_blocking_portal

from anyseal.errors import AnysealError
from evil.server import BEHAVIOURS, LATE, EvilServer, Speaks

__all__ = [
    "MEMORY",
    "SLOW",
    "TIMEOUT",
    "Calls",
    "Target",
    "awaited",
    "behaviours",
    "is_slow",
    "survives",
    "survives_cold",
    "survives_late",
]

T = TypeVar("T")

TIMEOUT: Final = 0.3
"""What the clients are told."""
RATIO: Final = 1.5
"""A call takes at most this many timeouts."""
BUSY: Final = 2.0
"""Seconds that a busy machine may add. What is not bounded lasts for 30 s at least."""
MEMORY: Final = 64 << 20
SLOW: Final = LATE | {"short_body", "two_lengths"}
"""Behaviours that are noticed by the time alone; also all that are called ``slow_...``."""

Calls = Mapping[str, Callable[[], Any]]


@dataclass(frozen=True, kw_only=True)
class Target:
    """One client over one protocol."""

    name: str
    speaks: Callable[[], Speaks]
    make: Callable[[EvilServer], AbstractContextManager[Calls]]
    """Calls of a client of this server, which was told :data:`TIMEOUT`."""

    errors: tuple[type[BaseException], ...]
    """What a call may raise when the server misbehaves, and nothing else."""

    fits: Callable[[str, Any], bool] = lambda call, found: False
    """Whether a call may return this instead of raising: what looks like an answer, or a default.
    What it returns when the server behaves, it may always."""

    def __str__(self) -> str:
        return self.name


@contextlib.contextmanager
def awaited(
    make: Callable[[], Any],
    calls: Mapping[str, Callable[[Any], Any]],
    close: Callable[[Any], Any],
    *,
    backend: str = "asyncio",
) -> Iterator[Calls]:
    """The calls of an async client as plain functions. All arguments run in its event loop."""

    async def run(function: Callable[..., Any], *args: Any) -> Any:
        found = function(*args)
        return await found if inspect.isawaitable(found) else found

    with start_blocking_portal(backend) as portal:
        client = portal.call(run, make)
        try:
            yield {name: partial(portal.call, run, call, client) for name, call in calls.items()}
        finally:
            portal.call(run, close, client)


def behaviours(speaks: Speaks, request: Any, *, without: Collection[str] = ()) -> list[str]:
    """All that a server can do wrong in answer to *request*."""
    return [name for name in (*BEHAVIOURS, *speaks.frames(request)) if name not in without]


def is_slow(does: str) -> bool:
    """Whether a behaviour is noticed by the time alone."""
    return does in SLOW or does.startswith("slow_")


def survives(target: Target, call: str, does: Collection[str], *, spares: bool = True) -> list[str]:
    """What was wrong when *call* was made while the server did each of *does*, one after another.

    Before each, the call is made once against a server that behaves: the connection is a used one.
    After each it must find what it found before. With *spares* handshakes are answered well.
    """
    wrong: list[str] = []
    with EvilServer(target.speaks()) as server, contextlib.ExitStack() as stack:
        calls = _steady(lambda: stack.enter_context(target.make(server)))
        expected = _steady(calls[call])
        server.spares = spares
        for each in does:
            server.does = each
            wrong += _wrong(target, call, calls[call], expected, each)
            server.does = "well"
            if each == "twice_late":
                time.sleep(0.1)  # what comes later than the next question nobody can tell apart
            wrong += _next(calls[call], expected, f"{target} {call} {each}")
    return wrong


def survives_late(
    target: Target, calls: Collection[str], does: Collection[str], *, spares: bool = True
) -> list[str]:
    """The same for behaviours that take their time, all at once, each with a client of its own."""
    cases = [(call, each) for call in calls for each in does]
    with ThreadPoolExecutor(len(cases)) as pool:
        found = pool.map(lambda case: survives(target, case[0], [case[1]], spares=spares), cases)
        return [wrong for wrongs in found for wrong in wrongs]


def _steady(function: Callable[[], T]) -> T:
    """What *function* returns when the machine is not too busy for the short timeout."""
    for _ in range(9):
        with contextlib.suppress(AnysealError):
            return function()
    return function()


def survives_cold(target: Target, call: str, does: Collection[str]) -> list[str]:
    """The same for a client that connects to a server that misbehaves from its first answer, all
    at once. The client is made inside of the time, for some connect when they are made."""

    def tried(each: str) -> list[str]:
        with EvilServer(target.speaks()) as server, contextlib.ExitStack() as stack:
            server.spares, server.does = False, each

            def first() -> Any:
                return stack.enter_context(target.make(server))[call]()

            return list(_wrong(target, call, first, None, f"{each} at once"))

    with ThreadPoolExecutor(len(does)) as pool:
        return [wrong for wrongs in pool.map(tried, does) for wrong in wrongs]


def _next(call: Callable[[], Any], expected: Any, what: str) -> Iterator[str]:
    """What is wrong with the call after one that went wrong."""
    for attempt in range(3):
        started = time.monotonic()
        try:
            again = call()
        except Exception as exc:
            # A busy machine may need longer than the timeout; a broken connection does not.
            if attempt < 2 and time.monotonic() - started >= TIMEOUT:
                continue
            # A second answer that arrives after the next request was sent is read in its place: one
            # typed error, and the connection is given up.
            if attempt < 1 and "twice" in what and isinstance(exc, AnysealError):
                continue
            yield f"{what}: the next call raised {exc!r}"
        else:
            if again != expected:
                yield f"{what}: the next call gave {again!r:.80}"
        return


def _wrong(
    target: Target, name: str, call: Callable[[], Any], expected: Any, does: str
) -> Iterator[str]:
    what = f"{target} {name} {does}"
    much = any(word in does for word in ("endless", "huge", "large"))
    before = _resident(reset=True) if much else 0  # walks all pages: a millisecond or more
    started = time.monotonic()
    try:
        found = call()
    except target.errors:
        pass
    except BaseException as exc:
        yield f"{what}: raised {exc!r:.200}"
    else:
        if found != expected and not target.fits(name, found):
            yield f"{what}: gave {found!r:.80}"
    took = time.monotonic() - started
    if took > RATIO * TIMEOUT + BUSY:
        yield f"{what}: took {took:.2f} s"
    grown = _resident() - before if much else 0
    if grown > MEMORY:
        yield f"{what}: took {grown >> 20} MiB"


def _resident(*, reset: bool = False) -> int:
    """Bytes of memory that were resident at most since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM")
