"""The table on the terminal and ``bench/results.json``."""

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
    """Of Python and of everybody who took part."""
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
            _amount(row, row.value),
            f"{row.low:.2f} .. {row.high:.2f}",
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


def keep(path: Path, rows: list[Row]) -> None:
    """Hand *rows* to another process."""
    path.write_text(json.dumps([asdict(row) for row in rows], default=float))


def kept(path: Path) -> list[Row]:
    """What :func:`keep` has written."""
    found = json.loads(path.read_text())
    return [Row(**{**row, "must": row["must"] and tuple(row["must"])}) for row in found]


BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


def write_readme(path: Path, rows: list[Row], about: dict[str, Any]) -> None:
    """Put every figure that has a bar into the README, between its markers."""
    lines = [
        f"Ratios of medians, both sides in one run, by `make bench` on {about['cpus']} cores of an "
        f"{about['cpu']}; all figures are in [bench/results.json](bench/results.json).",
        "",
        "| figure | against | ratio | must reach |",
        "|---|---|---|---|",
    ]
    for row in rows:
        if row.must is None:
            continue
        rival = row.rival.partition(": ")[0]
        sign = "" if row.passed else " (short)"
        bar = f"{row.must[0]} {row.must[1]:g}".replace("<=", "≤").replace(">=", "≥")
        lines.append(f"| {row.figure} | {rival} | {_amount(row, row.value)}{sign} | {bar} |")
    text = path.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    table = "\n".join(lines)
    path.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", "utf-8")
