"""Run every target for a while: ``python tests/fuzz/run.py [--seconds 60] [NAME ...]``.

The corpus of each stays in build/fuzz/NAME, where the next run goes on. An input that fails is
written there too, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORPORA = HERE.parent.parent / "build" / "fuzz"
TARGETS = sorted(path.stem for path in HERE.glob("fuzz_*.py") if path.stem != "fuzz_common")


def main() -> int:
    """Run the targets one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    failed = []
    for name in options.names or TARGETS:
        corpus, findings = CORPORA / name, CORPORA / f"{name}-findings"
        for folder in (corpus, findings):
            folder.mkdir(parents=True, exist_ok=True)
        for seed in importlib.import_module(name).SEEDS:
            (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
        print(f"==== {name}: {options.seconds} s", flush=True)
        done = subprocess.run(
            [
                sys.executable, str(HERE / f"{name}.py"), str(corpus),
                f"-max_total_time={options.seconds}", f"-artifact_prefix={findings}/",
                "-max_len=32768", "-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1",
            ],
            check=False,
        )  # fmt: skip
        if done.returncode:
            failed.append(f"{name}: see {findings}")
    print("\n".join(failed) or "nothing found")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
