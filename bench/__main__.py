"""``python -m bench [NAME ...] [--quick]``: measure, print the table, keep it.

Without names everything is measured, and ``bench/results.json``, ``docs/bench.md``, the six
figures of the README and ``docs/bench/*.svg`` are written, again after each topic, so that what was
measured is kept if a later one fails. A part, or a quick run, only prints, unless ``--save`` says
otherwise; ``--tables`` measures nothing and writes the tables from ``bench/results.json``. Each
topic has a process of its own: what one rival leaves behind there slows no other.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console

from bench import report
from bench.harness import Row, Settings, attempt, noted

TOPICS = ("start", "values", "bulk", "files", "loop", "memory", "ranges", "sessions", "cache", "s3")
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results.json"


def topic(name: str, folder: Path, *, quick: bool) -> list[Row]:
    """The rows of one topic, measured in a process of its own; a row says it if that fails."""
    kept = folder / f"{name}.jsonl"
    command = [sys.executable, "-m", "bench", name, "--rows", str(kept), "--folder", str(folder)]

    def rows() -> Iterator[Row]:
        done = subprocess.run(command + ["--quick"] * quick, cwd=ROOT)
        yield from report.kept(kept)
        if done.returncode != 0:
            raise RuntimeError(f"its process ended with {done.returncode}")

    return list(attempt(name, f"the rest of {name}", rows))


def measure(name: str, settings: Settings, kept: Path) -> None:
    """Measure a topic in this process; each row is kept when it is there."""

    def rows() -> Iterator[Row]:
        yield from importlib.import_module(f"bench.{name}").run(settings)

    for row in noted(attempt(name, f"the rest of {name}", rows)):
        report.keep(kept, row)


def save(rows: list[Row], settings: Settings, about: dict[str, Any], took: float) -> None:
    """Write the results and what is made from them."""
    report.save(RESULTS, rows, settings, about, took)
    report.write_tables(ROOT, RESULTS)
    try:
        from bench import charts
    except ImportError as missing:
        print(f"no charts: {missing}", file=sys.stderr)
    else:
        charts.draw([row for row in rows if not row.missing], ROOT / "docs" / "bench")


def main() -> int:
    """Run the command line. What falls short is in the table; it is no error."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(TOPICS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, few pairs")
    parser.add_argument("--save", action="store_true", help="write results and charts anyway")
    parser.add_argument(
        "--folder", type=Path, help="for the large files; on a disk, with 4 GiB free"
    )
    parser.add_argument("--tables", action="store_true", help="only write the tables again")
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = set(options.names) - set(TOPICS)
    if unknown:
        parser.error(f"no such topic: {', '.join(sorted(unknown))}")
    names = options.names or TOPICS
    console = Console(width=None if sys.stdout.isatty() else 160)
    if options.tables:
        report.write_tables(ROOT, RESULTS)
        return 0
    about, rows, started = report.machine(), list[Row](), perf_counter()
    base = options.folder or ROOT / "build"
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=base) as folder:
        make = Settings.quick if options.quick else Settings
        settings = make(folder=Path(folder))
        if options.rows is not None:
            (name,) = names
            measure(name, settings, options.rows)
            return 0
        for name in names:
            with console.status(f"{name} …"):
                rows += topic(name, Path(folder), quick=options.quick)
            if options.save or not (options.quick or options.names):
                save(rows, settings, about, perf_counter() - started)
    took = perf_counter() - started
    report.show(rows, console)
    console.print(f"{len(rows)} rows in {took:.0f} s; load before: {about['load_at_start']:.2f}")
    for row in rows:
        if row.missing:
            console.print(f"missing: {row.group}, {row.figure}: {row.missing}", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
