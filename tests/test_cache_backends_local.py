"""What only the backends on this machine do: bounds, forks, several processes, damage."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from anyseal import ConfigurationError
from anyseal.cache.backends.memory import (
    ENTRY_BYTES,
    BlockingMemoryBackend,
    MemoryBackend,
)
from anyseal.cache.backends.sqlite import BlockingSQLiteBackend
from anyseal.errors import BackendError
from support import pattern, run_python, said


def scanned(backend: Any, prefix: str = "") -> list[str]:
    """All names."""
    return sorted(name for names in backend.scan(prefix) for name in names)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a SQLite backend is made."""
    return tmp_path / "cache.db"


def test_memory_evicts_the_least_recently_used() -> None:
    """Reading keeps an entry; looking through the names does not."""
    backend = BlockingMemoryBackend(max_entries=3)
    for name in "abc":
        backend.set(name, b"x")
    backend.get_many(["a"])
    scanned(backend)
    backend.set("d", b"x")
    assert ["a", "c", "d"] == scanned(backend)


def test_memory_stays_within_its_bytes() -> None:
    """Values, names and what Python needs for them count; a value that is too large is not kept,
    and does not leave the one before it behind."""
    backend = BlockingMemoryBackend(max_bytes=10 * (ENTRY_BYTES + 101))
    for number in range(30):
        assert backend.set(chr(65 + number), bytes(100))
    assert 10 == len(scanned(backend))
    assert backend.set("A", b"small")
    assert not backend.set("A", bytes(10 * (ENTRY_BYTES + 101)))
    assert [None] == backend.get_many(["A"])
    backend.put_range("B", 0, bytes(1000), ttl_ms=1000)
    with pytest.raises(BackendError, match="larger") as caught:
        backend.put_range("B", 1000, bytes(5000), ttl_ms=1000)
    assert not caught.value.retryable
    backend.delete_many(scanned(backend))
    assert "BlockingMemoryBackend(entries=0, bytes=0)" == repr(backend)


@pytest.mark.parametrize(
    "wrong",
    [{"max_bytes": 0}, {"max_entries": 0}, {"max_bytes": -5}, {"max_bytes": None},
     {"max_entries": "9"}],
)  # fmt: skip
def test_memory_refuses_limits_that_keep_nothing(wrong: dict[str, Any]) -> None:
    """A cache that never hits is a mistake."""
    with pytest.raises(ConfigurationError):
        MemoryBackend(**wrong)


def test_memory_is_one_for_both_sides() -> None:
    """A program with sync and async functions keeps its entries once."""
    backend = MemoryBackend()
    backend.blocking.set("a", b"x")
    assert "MemoryBackend(entries=1, bytes=302)" == repr(backend)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_threads_find_every_entry_consistent(kind: str, path: Path) -> None:
    """Several threads at once, on few names, with everything there is."""
    backend: Any = (
        BlockingMemoryBackend(max_entries=8)
        if kind == "memory"
        else BlockingSQLiteBackend(path, timeout=60)
    )
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for number in range(60):
                name = f"n{(seed + number) % 10}"
                backend.set(name, name.encode() * 50, ttl_ms=1 + number % 5)
                for value in backend.get_many([name, "n1"]):
                    assert value is None or value in (name.encode() * 50, b"n1" * 50)
                backend.compare_and_set(name, name.encode() * 50, None)
                backend.delete_many(["n3"])
                scanned(backend)
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == errors
    backend.close()


def test_forked_child_goes_on(path: Path) -> None:
    """Neither a lock that another thread held nor the parent's connection may stop the child."""
    code = """
        import os, sys, threading, warnings
        from anyseal.cache.backends.memory import BlockingMemoryBackend
        from anyseal.cache.backends.sqlite import BlockingSQLiteBackend
        warnings.simplefilter("ignore", DeprecationWarning)
        memory, busy, file = BlockingMemoryBackend(), BlockingMemoryBackend(), None
        file = BlockingSQLiteBackend(sys.argv[1])
        for backend in (memory, busy, file):
            backend.set("a", b"parent")
        held, go = threading.Event(), threading.Event()
        def hold():
            with busy._lock:
                held.set()
                go.wait()
        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        child = os.fork()
        if child == 0:
            found = [backend.get_many(["a"])[0] for backend in (memory, busy, file)]
            file.set("b", b"child")
            file.close()
            os._exit(0 if found == [b"parent", None, b"parent"] else 1)
        print(os.waitpid(child, 0)[1])
        go.set()
        thread.join()
        print(busy.get_many(["a"]), file.get_many(["a", "b"]))
        file.set("c", b"x")
        file.close()
    """
    expected = ["0", "[b'parent'] [b'parent', b'child']"]
    assert expected == said(run_python(code, str(path)))


def test_sqlite_file_is_private(path: Path) -> None:
    """Sealed or not, other users of the machine have no business in it."""
    before = os.umask(0)
    try:
        backend = BlockingSQLiteBackend(path)
        backend.set("a", b"x")
        modes = {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
        backend.close()
    finally:
        os.umask(before)
    assert {0o600} == modes


def test_sqlite_keeps_entries_when_reopened(path: Path) -> None:
    """An embedded cache that survives a restart is why it is in a file."""
    for durable in (False, True):
        backend = BlockingSQLiteBackend(path, durable=durable)
        backend.set(f"a{durable}", b"x" * 100_000)
        backend.close()
    backend = BlockingSQLiteBackend(path)
    assert ["aFalse", "aTrue"] == scanned(backend)
    backend.close()


def test_sqlite_evicts_the_least_recently_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the minute: the file stays near its bound, and what was read stays in it."""
    now = time.time_ns()
    backend = BlockingSQLiteBackend(path, max_bytes=2 << 20)
    for number in range(400):
        monkeypatch.setattr("time.time_ns", lambda at=now + number * 10_000_000_000: at)
        assert backend.set(f"n{number:03}", pattern(20_000))
        backend.get_many(["n000"])
    left = scanned(backend)
    assert "n399" in left
    assert 50 < len(left) < 110
    assert not backend.set("huge", bytes((2 << 20) + 1))
    with pytest.raises(BackendError, match="larger"):
        backend.put_range("huge", 2 << 20, b"x", ttl_ms=1000)
    backend.close()
    assert path.stat().st_size < 4 << 20


def test_sqlite_sweeps_what_expired(path: Path) -> None:
    """Entries that nobody asks for again must not fill the disk."""
    backend = BlockingSQLiteBackend(path)
    for number in range(40):
        backend.put_range(f"n{number}", 0, bytes(1000), ttl_ms=1)
    time.sleep(0.01)
    for _ in range(4):
        backend.set("a", b"x")
    backend.close()
    with sqlite3.connect(path) as connection:
        counts = [
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("entries", "pieces", "objects")
        ]
    connection.close()
    assert [1, 0, 0] == counts


def test_sqlite_holds_a_piece_at_a_time(path: Path) -> None:
    """100 MB go in and out without ever being in memory whole."""
    code = """
        import sys
        from anyseal.cache.backends.sqlite import BlockingSQLiteBackend
        from support import most
        backend = BlockingSQLiteBackend(sys.argv[1])
        piece = bytes(1 << 20)
        backend.put_range("{x}t", 0, piece, ttl_ms=60000)
        before = most()
        for number in range(1, 100):
            backend.put_range("{x}t", number << 20, piece, ttl_ms=60000)
        assert backend.publish("{x}t", "{x}o", "{x}v", b"head", ttl_ms=None)
        for number in range(100):
            assert backend.get_range("{x}o", number << 20, 1 << 20) == piece
        print(most() - before < 20 << 10)
        backend.close()
    """
    assert ["True"] == said(run_python(code, str(path)))


WRITER = """
    import sys
    from anyseal.cache.backends.sqlite import BlockingSQLiteBackend
    backend = BlockingSQLiteBackend(sys.argv[1])
    for number in range(1_000_000):
        value = (b"%06d" % number) * 500
        backend.set(f"v{number}", value)
        backend.put_range(f"{{x}}t{number}", 0, value, ttl_ms=600_000)
        backend.publish(f"{{x}}t{number}", f"{{x}}o{number}", f"{{x}}h{number}", value, ttl_ms=None)
        print(number, flush=True)
"""


@pytest.mark.parametrize("wait", [0.1, 0.25, 0.4])
def test_sqlite_loses_nothing_when_killed(path: Path, wait: float) -> None:
    """kill -9 in the middle of a write: what was stored before is there, and the file is whole."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(path)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    done = [int(line) for line in (first + process.stdout.read()).split()]
    process.stdout.close()
    process.wait()
    backend = BlockingSQLiteBackend(path)
    for number in done:
        names = [f"v{number}", f"{{x}}o{number}", f"{{x}}h{number}"]
        assert [(b"%06d" % number) * 500] * 3 == backend.get_many(names)
    assert backend.set("more", b"x")
    backend.close()
    connection = sqlite3.connect(path)
    assert [("ok",)] == connection.execute("PRAGMA integrity_check").fetchall()
    connection.close()


def test_sqlite_serves_several_processes(path: Path) -> None:
    """A lease and a counter that four processes share: one wins, and no step is lost."""
    code = """
        import sys
        from anyseal.cache.backends.sqlite import BlockingSQLiteBackend
        backend = BlockingSQLiteBackend(sys.argv[1], timeout=60)
        won = backend.set("lease", sys.argv[2].encode(), if_absent=True)
        backend.set("count", b"0", if_absent=True)
        done = 0
        while done < 25:
            [value] = backend.get_many(["count"])
            done += backend.compare_and_set("count", value, b"%d" % (int(value) + 1))
        backend.close()
        print(won)
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(path), str(number)],
            stdout=subprocess.PIPE,
        )
        for number in range(4)
    ]
    won = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert [b"False", b"False", b"False", b"True"] == sorted(won)
    backend = BlockingSQLiteBackend(path)
    assert [b"100"] == backend.get_many(["count"])
    backend.close()


def test_sqlite_names_files_that_it_cannot_use(tmp_path: Path) -> None:
    """Damaged, somebody else's, of another version, not there: each an error that will stay."""
    folder = tmp_path / "folder"
    folder.mkdir()
    noise, other, future = tmp_path / "noise", tmp_path / "other", tmp_path / "future"
    noise.write_bytes(pattern(100_000))
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE mine (x)")
    connection.close()
    backend = BlockingSQLiteBackend(future)
    backend.set("a", b"x")
    backend.close()
    connection = sqlite3.connect(future)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for path in (noise, other, future):
        backend = BlockingSQLiteBackend(path)
        for call in (lambda b=backend: b.get_many(["a"]), lambda b=backend: b.set("a", b"x")):
            with pytest.raises(BackendError) as caught:
                call()
            assert not caught.value.retryable, path
            assert str(path) in str(caught.value)
    for path in (folder, tmp_path / "none" / "cache.db"):
        with pytest.raises(BackendError):
            BlockingSQLiteBackend(path).get_many(["a"])
    for wrong in ("", ":memory:"):
        with pytest.raises(ConfigurationError):
            BlockingSQLiteBackend(wrong)


@pytest.mark.parametrize("error", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_sqlite_file_that_may_not_be_written_is_read(
    error: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file or file system that was made read-only still serves reads; writes are refused. Root
    may write any file, so the system's refusal is made up."""
    with contextlib.closing(BlockingSQLiteBackend(path)) as backend:
        backend.set("a", b"x")
        backend._pool.close()
        real, connect = os.open, sqlite3.connect

        def refuse(name: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            if flags & os.O_RDWR:
                raise OSError(error, os.strerror(error))
            return real(name, flags, *args, **kwargs)

        def read_only(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            found = connect(*args, **kwargs)
            found.execute("PRAGMA query_only = 1")
            return found

        monkeypatch.setattr(os, "open", refuse)
        monkeypatch.setattr(sqlite3, "connect", read_only)
        assert [b"x"] == backend.get_many(["a"])
        with pytest.raises(BackendError, match="SQLITE_READONLY") as caught:
            backend.set("a", b"y")
        assert caught.value.refused
        with pytest.raises(BackendError, match=os.strerror(error)):
            BlockingSQLiteBackend(path.with_name("none")).get_many(["a"])


def test_sqlite_notices_damage(path: Path) -> None:
    """Pages overwritten while the cache is in use: an error of ours, not SQLite's."""
    backend = BlockingSQLiteBackend(path)
    for number in range(300):
        backend.set(f"n{number}", pattern(3000, str(number)))
    backend.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(pattern(size // 2))
    backend = BlockingSQLiteBackend(path)
    errors = 0
    for number in range(300):
        try:
            backend.get_many([f"n{number}"])
        except BackendError as exc:
            errors += not exc.retryable
    assert errors > 0
    backend.close()


def test_sqlite_waits_for_a_writer_and_gives_up(path: Path) -> None:
    """A writer that hangs must not hang everyone else for ever; readers do not wait at all."""
    backend = BlockingSQLiteBackend(path, timeout=0.1)
    backend.set("a", b"x")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BackendError, match="BUSY") as caught:
        backend.set("a", b"y")
    assert caught.value.retryable
    assert [b"x"] == backend.get_many(["a"])
    other.execute("ROLLBACK")
    other.close()
    assert backend.set("a", b"y")
    backend.close()
