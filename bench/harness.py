"""Paired, interleaved measurement: ours and a rival's take turns, the result is a ratio.

A shared or virtual machine drifts by half within seconds. Two runs that follow each other at once
drift together, so each pair gives one ratio and the result is the median of these. Every second
pair runs in the other order.
"""

from __future__ import annotations

import gc
import os
import resource
import statistics
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

MIB = 1 << 20
GIB = 1 << 30

Side = Callable[[], Any]
"""One thing to time. If it returns a float, that is the time in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much and how long to measure."""

    folder: Path
    payload: int = 256 * MIB
    slow_payload: int = 64 * MIB
    file_bytes: int = GIB
    loop_mib: tuple[int, ...] = (1, 16, 100, 256)
    """Sizes of the payloads of every public awaitable, in MiB."""
    seconds: float = 3.0
    pairs_min: int = 9
    pairs_max: int = 41
    warmups: int = 2

    @classmethod
    def quick(cls, folder: Path) -> Settings:
        """Enough to see that everything works; the figures mean little."""
        return cls(
            folder=folder,
            payload=64 * MIB,
            slow_payload=8 * MIB,
            file_bytes=128 * MIB,
            loop_mib=(1, 16),
            seconds=0.2,
            pairs_min=3,
            warmups=1,
        )


@dataclass(slots=True)
class Pairs:
    """Seconds that each side took, pair by pair."""

    ours: list[float] = field(default_factory=list)
    rival: list[float] = field(default_factory=list)

    def turns(self, settings: Settings) -> Iterator[tuple[int, Callable[[float], None]]]:
        """Whose turn it is (0: ours) and where its time goes; warm-up times go nowhere."""
        for _ in range(settings.warmups):
            yield 0, _ignore
            yield 1, _ignore
        records = (self.ours.append, self.rival.append)
        gc.collect()
        gc.disable()
        try:
            started = perf_counter()
            while len(self.ours) < settings.pairs_min or (
                len(self.ours) < settings.pairs_max and perf_counter() - started < settings.seconds
            ):
                order = (0, 1) if len(self.ours) % 2 == 0 else (1, 0)
                for side in order:
                    yield side, records[side]
        finally:
            gc.enable()


def _ignore(_: float) -> None:
    pass


def _nothing() -> None:
    pass


def paired(ours: Side, rival: Side, settings: Settings, before: Side = _nothing) -> Pairs:
    """Time *ours* and *rival* in turns; *before* runs before each, untimed."""
    pairs, sides = Pairs(), (ours, rival)
    for turn, record in pairs.turns(settings):
        before()
        started = perf_counter()
        own = sides[turn]()
        took = perf_counter() - started
        record(own if isinstance(own, float) else took)
    return pairs


async def paired_async(
    ours: Callable[[], Awaitable[Any]],
    rival: Callable[[], Awaitable[Any]],
    settings: Settings,
    before: Side = _nothing,
) -> Pairs:
    """The same for things to await, in one event loop that lives all the time."""
    pairs, sides = Pairs(), (ours, rival)
    for turn, record in pairs.turns(settings):
        before()
        started = perf_counter()
        own = await sides[turn]()
        took = perf_counter() - started
        record(own if isinstance(own, float) else took)
    return pairs


def calls_for(many: Callable[[int], Any], seconds: float = 0.02) -> int:
    """How many calls *many* must make to take about *seconds*."""
    count = 64
    while True:
        started = perf_counter()
        many(count)
        took = perf_counter() - started
        if took > seconds / 4:
            return max(1, round(count * seconds / took))
        count *= 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure: what the table, the results and the charts need to know.

    ``value``, ``low`` and ``high`` are in ``unit``; the unit ``x`` marks a ratio. ``must`` is the
    bound that the project set itself, ``None`` for what is only reported. ``missing`` says why
    there is no figure. ``load`` (one-minute average when the row was done) and ``cpu_s`` (CPU
    seconds of this process and its children that the row took) are noted by :func:`noted`.
    """

    group: str
    figure: str
    ours: str
    rival: str
    value: float
    low: float
    high: float
    must: tuple[str, float] | None = None
    unit: str = "x"
    detail: dict[str, Any] = field(default_factory=dict)
    missing: str = ""
    load: float | None = None
    cpu_s: float | None = None

    @property
    def passed(self) -> bool | None:
        """Whether the bound is kept; ``None`` without a bound or a figure."""
        if self.must is None or self.missing:
            return None
        way, bound = self.must
        return self.value >= bound if way == ">=" else self.value <= bound


def attempt(
    group: str, figure: str, rows: Callable[[], Iterable[Row]], rival: str = ""
) -> Iterator[Row]:
    """The rows that *rows* gives; if it fails, those it gave and one that says why.

    A rival that is not installed, or does not work here, costs its own row and no other.
    """
    try:
        yield from rows()
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
        yield Row(
            group=group, figure=figure, ours="", rival=rival, value=0, low=0, high=0, missing=reason
        )


def _cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def noted(rows: Iterable[Row]) -> Iterator[Row]:
    """*rows*, each with the machine's load and the CPU time it took."""
    before = _cpu_seconds()
    for row in rows:
        now = _cpu_seconds()
        yield replace(row, load=round(os.getloadavg()[0], 2), cpu_s=round(now - before, 2))
        before = _cpu_seconds()


def spread(samples: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(samples) < 2:
        return samples[0], samples[0], samples[0]
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, middle, high


def _row(pairs: Pairs, ratios: list[float], **known: Any) -> Row:
    low, middle, high = spread(ratios)
    detail = known.pop("detail")
    detail["pairs"] = len(ratios)
    detail["ratio"] = {
        "min": min(ratios),
        "q1": low,
        "median": middle,
        "q3": high,
        "max": max(ratios),
    }
    return Row(value=middle, low=low, high=high, detail=detail, **known)


def faster(
    group: str,
    figure: str,
    pairs: Pairs,
    size: int,
    *,
    rival: str,
    at_least: float | None = None,
    rival_size: int | None = None,
    **detail: Any,
) -> Row:
    """A ratio of throughputs, ours over the rival's. Sizes are bytes per run."""
    sizes = size, size if rival_size is None else rival_size
    ratios = [
        (sizes[0] / ours) / (sizes[1] / other)
        for ours, other in zip(pairs.ours, pairs.rival, strict=True)
    ]
    speeds = sizes[0] / spread(pairs.ours)[1] / 1e9, sizes[1] / spread(pairs.rival)[1] / 1e9
    return _row(
        pairs,
        ratios,
        group=group,
        figure=figure,
        ours=f"{speeds[0]:.3g} GB/s",
        rival=f"{rival}: {speeds[1]:.3g} GB/s",
        must=None if at_least is None else (">=", at_least),
        detail={"ours_gb_s": speeds[0], "rival_gb_s": speeds[1], **detail},
    )


def slower(
    group: str,
    figure: str,
    pairs: Pairs,
    calls: int,
    *,
    rival: str,
    at_most: float | None = None,
    scale: tuple[float, str] = (1e6, "us"),
    **detail: Any,
) -> Row:
    """A ratio of times, ours over the rival's. *calls* are made per run."""
    ratios = [ours / other for ours, other in zip(pairs.ours, pairs.rival, strict=True)]
    times = [spread(side)[1] / calls for side in (pairs.ours, pairs.rival)]
    factor, unit = scale
    return _row(
        pairs,
        ratios,
        group=group,
        figure=figure,
        ours=f"{times[0] * factor:.3g} {unit}",
        rival=f"{rival}: {times[1] * factor:.3g} {unit}",
        must=None if at_most is None else ("<=", at_most),
        detail={"ours_s": times[0], "rival_s": times[1], **detail},
    )
