"""The main job on a real file, in words and tables.

Everything it prints was measured or provoked in the run that prints it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import shutil
import statistics
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
from rich import box
from rich.console import Console
from rich.table import Table

import anyseal
from anyseal import sync
from anyseal.config import worker_count
from anyseal.demo import cache, tampering
from anyseal.demo.measuring import CountingSource, Times, p99, ticked
from anyseal.errors import AnysealError, DecryptionError, FormatError, WrongKeyError
from anyseal.keys import Key
from anyseal.objects.format import Header
from anyseal.suites import DEFAULT_SUITE

__all__ = ["run"]

TAR_MIN_BYTES = 300_000_000
FILE_MIN_BYTES = 1 << 20
COPY_BYTES = 1 << 20
CHUNK_BYTES = 64 << 10
SEGMENT_BYTES = 64 << 20
ROUNDS = 3
TICKING_SECONDS = 2.0
VALUE_BYTES = 256
VALUE_CALLS = 20_000
PARTITION = "tenant-7"


def run(file: Path | None) -> int:
    """Run the demo and print it.

    Args:
        file: What to seal, at least 1 MiB. Default: a tar of Python's own library, 300 MB or more.

    Returns:
        0 if everything behaved, 1 if something did not.

    Raises:
        OSError: *file* cannot be read, or there is no room: three times its size is needed.
    """
    console = Console(highlight=False)
    if file is not None and file.stat().st_size < FILE_MIN_BYTES:
        console.print(f"{file}: the demo needs a file of at least 1 MiB", markup=False)
        return 2
    console.print(
        f"\n[bold]anyseal {anyseal.__version__}[/bold]: {DEFAULT_SUITE.name}, "
        f"{worker_count()} worker threads, CPython {platform.python_version()}"
    )
    with _workplace() as folder:
        what = f"{file}"
        if file is None:
            file = folder / "python-library.tar"
            copies = _build_tar(file)
            what = f"a tar of this Python's own library, {copies} times over"
        return anyio.run(_Demo(console, folder, file, what).main)


@contextlib.contextmanager
def _workplace() -> Iterator[Path]:
    """A folder of our own under ``.demo``, here or else where temporary files go; then nothing."""
    base = Path(".demo")
    try:
        base.mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=base))
    except OSError:
        base = Path(tempfile.gettempdir())
        folder = Path(tempfile.mkdtemp(prefix=".demo-", dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if base.name == ".demo":
            with contextlib.suppress(OSError):  # another run is at work in it
                base.rmdir()


def _build_tar(path: Path) -> int:
    """Write the tar; returns how many times the library is in it."""
    library = Path(sysconfig.get_path("stdlib"))

    def wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        parts = Path(member.name).parts
        return None if {"site-packages", "dist-packages", "__pycache__"} & set(parts) else member

    with tarfile.open(path, "w") as tar:
        for number in itertools.count(1):
            tar.add(library, f"{number}/{library.name}", filter=wanted)
            if tar.offset >= TAR_MIN_BYTES:
                return number
    raise AssertionError


class _Demo:
    """One run."""

    def __init__(self, console: Console, folder: Path, file: Path, what: str) -> None:
        self.console = console
        self.folder = folder
        self.file = file
        self.what = what
        self.size = file.stat().st_size
        quarter = self.size // 4 // CHUNK_BYTES * CHUNK_BYTES
        self.segment_bytes = min(SEGMENT_BYTES, quarter)
        self.keyring = anyseal.StaticKeyring(Key.generate())
        self.sealed = folder / "sealed"
        self.opened = folder / "opened"
        self.failures: list[str] = []

    async def main(self) -> int:
        """All parts, one after the other; returns the exit code."""
        say = self.console.print
        say(f"The file: {self.what}, {self.size / 1e6:,.0f} MB.", markup=False)
        seal, open_ = await self._speed()
        gap = await self._event_loop()
        touched = await self._middle()
        await self._values()
        await self._tampering()
        self._heading("A cache that tells nothing")
        await cache.show(self.console, self.folder, self.keyring, self._expect)
        say()
        if self.failures:
            for failure in self.failures:
                say(f"[red]NOT AS IT SHOULD BE:[/red] {failure}")
            return 1
        say(
            f"In short: sealed at {seal:.0%} and opened at {open_:.0%} of the speed of a plain "
            f"copy, while the event loop ticked on (99 of 100 gaps within {gap * 1e3:.1f} ms); "
            f"64 KiB of the middle cost {touched:,} bytes; nothing that was altered came out."
        )
        return 0

    def _heading(self, text: str) -> None:
        self.console.print()
        self.console.print(f"[bold]{text}[/bold]")

    def _expect(self, true: bool, otherwise: str) -> None:
        if not true:
            self.failures.append(otherwise)

    # -- speed --

    async def _seal(self) -> None:
        await anyseal.seal_file(
            self.file,
            self.sealed,
            self.keyring,
            partition=PARTITION,
            segment_size=self.segment_bytes,
        )

    async def _open(self) -> None:
        await anyseal.open_file(self.sealed, self.opened, self.keyring, partition=PARTITION)

    def _copy(self) -> None:
        with self.file.open("rb", 0) as source, self.opened.open("wb", 0) as target:
            while piece := source.read(COPY_BYTES):
                target.write(piece)

    def _remove(self, *paths: Path) -> None:
        for path in paths:
            path.unlink(missing_ok=True)

    async def _speed(self) -> tuple[float, float]:
        """Seal, open and copy in turns, each into a new file; the speeds relative to a copy."""
        times = Times()
        self._copy()  # warms the page cache
        for _ in range(ROUNDS):
            self._remove(self.sealed, self.opened)
            await times.of("copy", lambda: anyio.to_thread.run_sync(self._copy))
            self._remove(self.opened)
            await times.of("seal", self._seal)
            await times.of("open", self._open)
        same = await anyio.to_thread.run_sync(_same, self.file, self.opened)
        self._expect(same, "what was opened is not what was sealed")
        self._remove(self.opened)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column(f"median of {ROUNDS}, in turns")
        for column in ("seconds", "MB/s", "of a copy"):
            table.add_column(column, justify="right")
        rows = {
            "copy": "plain Python copy, 1 MiB pieces",
            "seal": "await seal_file(...)",
            "open": "await open_file(...)",
        }
        for name, title in rows.items():
            seconds = times.median(name)
            table.add_row(
                title,
                f"{seconds:.2f}",
                f"{self.size / seconds / 1e6:,.0f}",
                f"{times.median('copy') / seconds:.2f}",
            )
        self._heading("Speed, disk to disk (page cache warm, nobody calls fsync)")
        self.console.print(table)
        overhead = self.sealed.stat().st_size - self.size
        self.console.print(
            f"Opened again it is {'the same, byte for byte' if same else 'NOT the same'}. "
            f"Sealed it is {overhead / self.size:.2%} longer."
        )
        copy = times.median("copy")
        return copy / times.median("seal"), copy / times.median("open")

    # -- the event loop --

    async def _event_loop(self) -> float:
        """Tick beside sealing, again and again for two seconds; the p99 gap."""
        sealed = 0

        async def seal_for_a_while() -> None:
            nonlocal sealed
            target = self.folder / "again"
            begin = time.perf_counter()
            while time.perf_counter() - begin < TICKING_SECONDS:
                await anyseal.seal_file(self.file, target, self.keyring, partition=PARTITION)
                # In a thread, as a service would: removing a large file takes a while.
                await anyio.to_thread.run_sync(self._remove, target)
                sealed += 1

        idle = await ticked(lambda: anyio.sleep(TICKING_SECONDS / 2))
        busy = await ticked(seal_for_a_while)
        self._heading("The event loop, while seal_file runs in it")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("between two ticks of a 1 ms ticker")
        for column in ("ticks", "median", "p99", "largest"):
            table.add_column(column, justify="right")
        for title, gaps in (("idle", idle), (f"sealing the file {sealed} times", busy)):
            marks = (statistics.median(gaps), p99(gaps), gaps[-1])
            table.add_row(title, f"{len(gaps):,}", *(f"{mark * 1e3:.2f} ms" for mark in marks))
        self.console.print(table)
        return p99(busy)

    # -- a range --

    async def _middle(self) -> int:
        """Read 64 KiB through a source that counts; the bytes it read."""
        source = CountingSource(self.sealed)
        start = self.size // 2 + 12_345  # not where a chunk begins
        stop = min(start + (64 << 10), self.size)
        async with await anyseal.ObjectReader.open(
            source, self.keyring, partition=PARTITION
        ) as reader:
            to_open, source.reads = source.reads, []
            begin = time.perf_counter()
            data = await reader.read_range(start, stop)
            seconds = time.perf_counter() - begin
        with self.file.open("rb") as file:
            file.seek(start)
            same = file.read(stop - start) == data
        touched = sum(source.reads)
        chunk = CHUNK_BYTES + DEFAULT_SUITE.tag_bytes
        needed = -(-(stop - start) // CHUNK_BYTES)
        beyond = touched // chunk - needed
        self._expect(same, "the range is not what the file holds there")
        self._expect(beyond <= 2, f"the range touched {beyond} chunks beyond itself")
        self._heading("64 KiB from the middle")
        self.console.print(
            f"Opening read {sum(to_open):,} bytes (head and tail). The range "
            f"{start:,}-{stop:,} read {touched:,} bytes: {touched // chunk} chunks, {beyond} more "
            f"than it fills; {self.sealed.stat().st_size - touched - sum(to_open):,} bytes were "
            f"not read. {seconds * 1e3:.2f} ms; "
            f"{'the same as in the file.' if same else 'NOT the same as in the file.'}"
        )
        return touched

    # -- values --

    async def _values(self) -> None:
        """Time small values, plain and awaited."""
        value = os.urandom(VALUE_BYTES)
        # A loop per kind, not one over callables: a call more would be a large part of the time.
        sealed = sync.seal(value, self.keyring, partition=PARTITION)
        per_call: list[float] = []
        begin = time.perf_counter()
        for _ in range(VALUE_CALLS):
            sync.seal(value, self.keyring, partition=PARTITION)
        per_call.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        for _ in range(VALUE_CALLS):
            sync.open(sealed, self.keyring, partition=PARTITION)
        per_call.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        for _ in range(VALUE_CALLS):
            await anyseal.seal(value, self.keyring, partition=PARTITION)
        per_call.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        for _ in range(VALUE_CALLS):
            await anyseal.open(sealed, self.keyring, partition=PARTITION)
        per_call.append(time.perf_counter() - begin)
        same = await anyseal.open(sealed, self.keyring, partition=PARTITION) == value
        self._expect(same, "the value is not what was sealed")
        seal, open_, await_seal, await_open = (s / VALUE_CALLS * 1e6 for s in per_call)
        self._heading("Small values")
        self.console.print(
            f"{VALUE_BYTES} B: sealed in {seal:.2f} us and opened in {open_:.2f} us; "
            f"awaited, {await_seal:.2f} and {await_open:.2f} us."
        )

    # -- tampering --

    async def _tampering(self) -> None:
        """Alter the sealed file in four ways, put it back each time, and show what each gave."""
        with self.sealed.open("rb") as file:
            geometry = Header.parse(file.read(200)).geometry
        altered = (DecryptionError, FormatError)
        attacks = (
            ("one bit flipped", tampering.flipped(self.sealed), PARTITION, altered),
            ("tail cut off", tampering.cut(self.sealed), PARTITION, altered),
            ("segments 1, 2 swapped", tampering.swapped(self.sealed, geometry), PARTITION, altered),
            ("another partition", contextlib.nullcontext(), "tenant-8", (WrongKeyError,)),
        )
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("what was done", no_wrap=True)
        table.add_column("what open_file raised")
        before = _names(self.folder)
        for title, attack, partition, expected in attacks:
            raised = "nothing: IT OPENED"
            with attack:
                try:
                    await anyseal.open_file(
                        self.sealed, self.opened, self.keyring, partition=partition
                    )
                    self._expect(False, f"{title}: it opened")
                except AnysealError as exc:
                    raised = f"{type(exc).__name__}: {exc}"
                    self._expect(isinstance(exc, expected), f"{title}: {raised}")
            left = _names(self.folder) - before
            self._expect(not left, f"{title}: it left {sorted(left)}")
            table.add_row(title, raised)
        left = _names(self.folder) - before
        await self._open()
        same = await anyio.to_thread.run_sync(_same, self.file, self.opened)
        self._expect(same, "put back as it was, it does not open")
        self._heading("Tampering with the sealed file")
        self.console.print(table)
        self.console.print(
            f"Left on disk by all four: {', '.join(sorted(left)) or 'nothing'}. "
            f"Put back as it was, the file {'opens' if same else 'does NOT open'}."
        )


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _same(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes."""
    with one.open("rb") as first, other.open("rb") as second:
        while True:
            a, b = first.read(COPY_BYTES), second.read(COPY_BYTES)
            if a != b:
                return False
            if not a:
                return True
