"""The table on the terminal, ``bench/results.json``, and the tables of README and docs/bench.md."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.harness import Row, Settings

PACKAGES = (
    "anyseal",
    "anyio",
    "asherah",
    "cachekit",
    "aws-cryptographic-material-providers",
    "aws-encryption-sdk",
    "cffi",
    "cryptography",
    "pynacl",
    "pyrage",
    "tink",
)


def _first_line(path: str, start: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(start)), "?")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": _first_line("/proc/cpuinfo", "model name"),
        "cpus": len(os.sched_getaffinity(0)),
        "memory": _first_line("/proc/meminfo", "MemTotal"),
        "system": platform.platform(),
        "load_at_start": os.getloadavg()[0],
    }


def versions() -> dict[str, str]:
    """Of Python and of every package that took part."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _amount(row: Row, value: float) -> str:
    return f"{value:.2f}" if row.unit == "x" else f"{value:.2f} {row.unit}"


def show(rows: list[Row], console: Console) -> None:
    """Print the table."""
    table = Table(title="ours against theirs, medians of paired ratios", title_justify="left")
    table.add_column("figure")
    table.add_column("ours", no_wrap=True)
    table.add_column("against")
    for name in ("ratio", "quartiles", "must reach"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    group = rows[0].group if rows else ""
    for row in rows:
        if row.group != group:
            table.add_section()
            group = row.group
        table.add_row(
            row.figure,
            row.ours,
            row.rival,
            "missing" if row.missing else _amount(row, row.value),
            "" if row.missing else f"{row.low:.2f} .. {row.high:.2f}",
            "" if row.must is None else f"{row.must[0]} {row.must[1]:g}",
            {None: "", True: "[green]pass[/]", False: "[red]short[/]"}[row.passed],
        )
    console.print(table)


def save(
    path: Path, rows: list[Row], settings: Settings, about: dict[str, Any], took: float
) -> None:
    """Write everything that was found out."""
    known = {
        "command": " ".join(["python -m bench", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(took),
        "machine": about,
        "versions": versions(),
        "payload_bytes": settings.payload,
        "file_bytes": settings.file_bytes,
        "rows": [{**asdict(row), "passed": row.passed} for row in rows],
    }
    path.write_text(json.dumps(known, indent=1, default=float) + "\n")


def keep(path: Path, row: Row) -> None:
    """Hand *row* to another process: on disk before the next one is measured."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(row), default=float) + "\n")


def kept(path: Path) -> list[Row]:
    """What :func:`keep` has written."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [_row(json.loads(line)) for line in lines]


def _row(known: dict[str, Any]) -> Row:
    known.pop("passed", None)
    return Row(**{**known, "must": known["must"] and tuple(known["must"])})


BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"

SIX = {
    "seal 256 B, awaited": "time to seal 256 B with `await`",
    "seal 256 MiB, awaited": "speed of sealing 256 MiB in memory",
    "ticker during seal_file of 1 GiB": "gap of the loop while a file of 1 GiB is sealed, p99",
    "encrypt 1 KiB, sync": "time to encrypt a record of 1 KiB",
    "Redis hit, 1 KB, one after another": "time of a hit in Redis, 1 KB, sealed",
    "put 1 GiB": "speed of putting 1 GiB into S3, sealed",
}
"""The figures of the README, and how they are called there; of rows of one name, the first."""


def _line(row: Row, *more: str, name: str = "") -> str:
    rival = row.rival.partition(": ")[0]
    if row.missing:
        value = f"missing: {row.missing}".replace("|", "/")
    else:
        value = _amount(row, row.value) + ("" if row.passed is not False else " (short)")
    bar = (
        f"{row.must[0]} {row.must[1]:.3g}".replace("<=", "≤").replace(">=", "≥") if row.must else ""
    )
    return "| " + " | ".join((name or row.figure, rival, value, bar, *more)) + " |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def write_tables(root: Path, results: Path) -> None:
    """The six figures of the README and all those of docs/bench.md, as *results* has them."""
    known = json.loads(results.read_text())
    rows, about = [_row(dict(row)) for row in known["rows"]], known["machine"]
    where = (
        f"Medians of paired ratios, ours over the other's, both in one run, on {about['cpus']} "
        f"cores of an {about['cpu']}, {known['date'][:10]}."
    )
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.figure, row)
    head = ["| figure | against | ours | must reach |", "|---|---|---|---|"]
    six = [_line(first[figure], name=name) for figure, name in SIX.items() if figure in first]
    _put(root / "README.md", [where, "", *head, *six])
    lines = [where]
    for group in dict.fromkeys(row.group for row in rows):
        lines += [
            "",
            f"## {group.capitalize()}",
            "",
            head[0] + " load | CPU |",
            head[1] + "---|---|",
        ]
        lines += [
            _line(row, _number(row.load), _number(row.cpu_s)) for row in rows if row.group == group
        ]
    _put(root / "docs" / "bench.md", lines)


def _put(path: Path, lines: list[str]) -> None:
    """*lines* between the markers of the page at *path*."""
    text = path.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    table = "\n".join(lines)
    path.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", "utf-8")
