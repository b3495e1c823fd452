"""``docs/bench/*.svg``, drawn from the rows."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl

from bench.harness import Row

mpl.use("svg")
mpl.rcParams.update(
    {
        "font.family": "sans-serif",
        "font.size": 10,
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "anyseal",  # the same figures give the same file
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "ytick.left": False,
        "figure.facecolor": "white",
    }
)

OURS, THEIRS, SHORT = "#1f6f8b", "#b8bec4", "#c0504d"


def _figure(count: int, title: str) -> tuple[Any, Any]:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.5, 0.33 * count + 1.3), layout="constrained")
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def throughput(rows: list[Row], path: Path) -> None:
    """Everybody who seals or copies the payload in memory, GB/s.

    A machine's speed drifts between two comparisons, so the others' bars are what their paired
    ratios say, from our median over all of these comparisons.
    """
    chosen = [row for row in rows if row.detail.get("chart")]
    if not chosen:
        return
    ours = statistics.median(row.detail["ours_gb_s"] for row in chosen)
    speeds = {row.rival.split(":")[0]: ours / row.value for row in chosen}
    speeds["anyseal, AEGIS256, 2 workers"] = ours
    ordered = sorted(speeds.items(), key=lambda bar: bar[1])
    figure, axes = _figure(len(ordered), "Sealing from memory into memory")
    drawn = axes.barh(
        [name for name, _ in ordered],
        [speed for _, speed in ordered],
        color=[OURS if name.startswith("anyseal") else THEIRS for name, _ in ordered],
        height=0.7,
    )
    axes.bar_label(drawn, [f"{speed:.2g}" for _, speed in ordered], padding=3)
    axes.margins(x=0.1)
    axes.set_xlabel("GB/s; memmove encrypts nothing and shows what memory allows")
    share = axes.secondary_xaxis("top", (lambda x: x / ours, lambda x: x * ours))
    share.set_xlabel("times as fast as anyseal")
    _save(figure, path)


def ratios(rows: list[Row], path: Path) -> None:
    """Every throughput ratio that must reach something, with its quartiles and its bound."""
    chosen = [
        row for row in rows if row.unit == "x" and row.must is not None and row.must[0] == ">="
    ]
    if not chosen:
        return
    chosen.reverse()
    figure, axes = _figure(len(chosen), "How many times as fast as the other: median and quartiles")
    colours = [OURS if row.passed else SHORT for row in chosen]
    names = [f"{row.figure}\nvs {row.rival.split(':')[0]}" for row in chosen]
    figure.set_size_inches(8.5, 0.5 * len(chosen) + 1.3)
    places = range(len(chosen))
    axes.hlines(
        places, [row.low for row in chosen], [row.high for row in chosen], colors=colours, lw=3
    )
    axes.scatter([row.value for row in chosen], places, c=colours, s=36, zorder=3)
    axes.scatter(
        [row.must[1] for row in chosen if row.must],
        places,
        marker="|",
        c="black",
        s=160,
        label="must reach",
    )
    for place, row in zip(places, chosen, strict=True):
        axes.annotate(
            f"{row.value:.2f}",
            (row.value, place),
            (0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.axvline(1, color="#888888", lw=0.8, zorder=0)
    axes.set_xscale("log")
    ticks = (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(places, names, fontsize=8)
    axes.set_xlabel("ratio, logarithmic; 1 is as fast as the other")
    axes.legend(loc="lower right", frameon=False)
    _save(figure, path)


def draw(rows: list[Row], folder: Path) -> None:
    """All charts."""
    throughput(rows, folder / "throughput.svg")
    ratios(rows, folder / "ratios.svg")
