"""How long a process takes to start: the import of the package, and the command ``--version``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from time import perf_counter

from bench.harness import Pairs, Row, Settings, paired, slower, spread

NEEDED = "import anyio, cffi, nacl._sodium, cryptography.hazmat.primitives.ciphers.aead"


def _start(*arguments: str) -> float:
    """Seconds that a fresh Python takes for *arguments*."""
    started = perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - started


def _beside(arguments: list[str], rival: list[str], settings: Settings) -> Pairs:
    return paired(lambda: _start(*arguments), lambda: _start(*rival), settings)


def run(settings: Settings) -> Iterator[Row]:
    """All rows of this topic. Both sides of a ratio have Python's own start in them."""
    for code, bound in (
        ("import anyseal", 1.5),
        ("import anyseal; anyseal.seal", None),
        ("import anyseal.sync", None),
    ):
        pairs = _beside(["-c", code], ["-c", NEEDED], settings)
        label = "importing what it needs"
        scale = (1e3, "ms")
        yield slower("start", code, pairs, 1, rival=label, at_most=bound, scale=scale)
    pairs = _beside(["-m", "anyseal", "--version"], ["-c", "pass"], settings)
    more = [ours - other for ours, other in zip(pairs.ours, pairs.rival, strict=True)]
    low, middle, high = spread(more)
    yield Row(
        group="start", figure="anyseal --version, beyond Python's own start",
        ours=f"{spread(pairs.ours)[1]:.3f} s",
        rival=f"python -c pass: {spread(pairs.rival)[1]:.3f} s",
        value=middle, low=low, high=high, must=("<=", 0.15), unit="s",
    )  # fmt: skip
