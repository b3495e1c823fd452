"""``python -m bench [NAME ...] [--quick]``: measure, print the table, keep it.

Without names everything is measured, and ``bench/results.json`` and ``docs/bench/*.svg`` are
written. A part, or a quick run, only prints, unless ``--save`` says otherwise. Each part has a
process of its own: what one rival leaves behind there slows nobody else.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from rich.console import Console

from bench.harness import Row, Settings

TOPICS = ("values", "bulk", "files", "loop", "memory", "ranges", "sessions", "cache", "s3")
ROOT = Path(__file__).resolve().parent.parent


def topic(name: str, folder: Path, *, quick: bool) -> list[Row]:
    """The rows of one topic, measured in a process of its own."""
    from bench import report

    kept = folder / f"{name}.json"
    command = [sys.executable, "-m", "bench", name, "--rows", str(kept), "--folder", str(folder)]
    subprocess.run(command + ["--quick"] * quick, check=True, cwd=ROOT)
    return report.kept(kept)


def main() -> int:
    """Run the command line. What falls short is in the table; it is no error."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(TOPICS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, few pairs")
    parser.add_argument("--save", action="store_true", help="write results and charts anyway")
    parser.add_argument(
        "--folder", type=Path, help="for the large files; on a disk, with 4 GiB free"
    )
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = set(options.names) - set(TOPICS)
    if unknown:
        parser.error(f"no such topic: {', '.join(sorted(unknown))}")
    names = options.names or TOPICS
    console = Console(width=None if sys.stdout.isatty() else 160)
    from bench import charts, report

    about, rows, started = report.machine(), list[Row](), perf_counter()
    base = options.folder or ROOT / "build"
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=base) as folder:
        make = Settings.quick if options.quick else Settings
        settings = make(folder=Path(folder))
        if options.rows is not None:
            (name,) = names
            found = importlib.import_module(f"bench.{name}").run(settings)
            report.keep(options.rows, list(found))
            return 0
        for name in names:
            with console.status(f"{name} …"):
                rows += topic(name, Path(folder), quick=options.quick)
    took = perf_counter() - started
    report.show(rows, console)
    console.print(f"{len(rows)} figures in {took:.0f} s; load before: {about['load_at_start']:.2f}")
    if options.save or not (options.quick or options.names):
        report.save(ROOT / "bench" / "results.json", rows, settings, about, took)
        report.write_readme(ROOT / "README.md", rows, about)
        charts.draw(rows, ROOT / "docs" / "bench")
    return 0


if __name__ == "__main__":
    sys.exit(main())
