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
from typing import Any, Final

from anyio.from_thread import start_blocking_portal

from evil.server import BEHAVIOURS, LATE, EvilServer, Speaks

__all__ = [
    "MEMORY",
    "SLOW",
    "TIMEOUT",
    "Calls",
    "Target",
    "awaited",
    "behaviours",
    "survives",
    "survives_late",
]

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

    default: Any = None
    """What a call may return instead of raising; or a function of the result that says so."""

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
    with EvilServer(target.speaks()) as server, target.make(server) as calls:
        expected = calls[call]()
        server.spares = spares
        for each in does:
            server.does = each
            wrong += _wrong(target, calls[call], expected, f"{target} {call} {each}")
            server.does = "well"
            try:
                again = calls[call]()
            except Exception as exc:
                wrong.append(f"{target} {call} {each}: the next call raised {exc!r}")
            else:
                if again != expected:
                    wrong.append(f"{target} {call} {each}: the next call gave {again!r:.80}")
    return wrong


def survives_late(
    target: Target, calls: Collection[str], does: Collection[str], *, spares: bool = True
) -> list[str]:
    """The same for behaviours that take their time, all at once, each with a client of its own."""
    cases = [(call, each) for call in calls for each in does]
    with ThreadPoolExecutor(len(cases)) as pool:
        found = pool.map(lambda case: survives(target, case[0], [case[1]], spares=spares), cases)
        return [wrong for wrongs in found for wrong in wrongs]


def _wrong(target: Target, call: Callable[[], Any], expected: Any, what: str) -> Iterator[str]:
    before = _resident(reset=True)
    started = time.monotonic()
    try:
        found = call()
    except target.errors:
        pass
    except BaseException as exc:
        yield f"{what}: raised {exc!r:.200}"
    else:
        default = target.default
        fits = default(found) if callable(default) else found == default
        if not fits and found != expected:
            yield f"{what}: gave {found!r:.80}"
    took = time.monotonic() - started
    if took > RATIO * TIMEOUT + BUSY:
        yield f"{what}: took {took:.2f} s"
    grown = _resident() - before
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
