"""How far a command is: a bar on stderr while it is a terminal, and one line when it is done."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from anyseal.cli.process import STDERR, is_terminal, printable, signals

__all__ = ["Meter", "metered"]


class Meter:
    """Counts bytes; every count is also a place where a signal may end the command."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, done: int, total: int | None) -> None:
        """*done* bytes are done, of *total*: the progress callback of seal_file."""
        self.done = done
        signals.check()

    def add(self, count: int) -> None:
        """*count* bytes more."""
        self(self.done + count, None)


class _Bar(Meter):
    """Shows what it counts."""

    def __init__(self, description: str, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        super().__init__()
        self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self._task = self.progress.add_task(description, total=total)

    def __call__(self, done: int, total: int | None) -> None:
        if total is not None:
            self.progress.update(self._task, total=total)
        self.progress.update(self._task, completed=done)
        super().__call__(done, total)


@contextlib.contextmanager
def metered(verb: str, name: str, *, total: int | None, quiet: bool) -> Iterator[Meter]:
    """A meter for the block; on a terminal it is a bar, and a line says what was done.

    Args:
        verb: In the past, for that line: ``sealed``.
        name: What is worked on.
        total: Bytes to do, if that is known.
        quiet: Show nothing.
    """
    if quiet or not is_terminal(STDERR):
        yield Meter()
        return
    name = printable(name)
    bar = _Bar(name, total)
    begin = time.perf_counter()
    with bar.progress:
        yield bar
    seconds = max(time.perf_counter() - begin, 1e-6)
    rate = f", {bar.done / seconds / 1e6:,.0f} MB/s" if bar.done >= 1_000_000 else ""
    bar.console.print(
        f"{name}: {verb}, {bar.done:,} bytes in {seconds:.2f} s{rate}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
