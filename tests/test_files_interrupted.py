"""seal_file and open_file interrupted: cancelled, killed, out of space. No half file is left."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

import anyseal
from anyseal import (
    Key,
)
from support import Tracked, names, run_python, said


@pytest.mark.parametrize("when", ["before", "during"])
@pytest.mark.parametrize("name", ["seal_file", "open_file"])
@pytest.mark.anyio
async def test_file_cancelled_anywhere_leaves_nothing(
    plain: Path, sealed: Path, key: Key, when: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each await: no file, and nobody still writing after the call has returned."""
    tracked = Tracked(monkeypatch, when)
    source = plain if name == "seal_file" else sealed
    folder, before = plain.parent, names(plain.parent)
    for target in range(1, 50):
        tracked.hops, tracked.target = 0, target
        with anyio.CancelScope() as scope:
            tracked.cancel = scope.cancel
            await getattr(anyseal, name)(source, folder / "out", key)
        assert 0 == tracked.working
        found = await anyio.to_thread.run_sync(names, folder)
        if scope.cancelled_caught:
            assert before == found
            continue
        if "out" in found:  # the work was done before the cancellation could be heard
            await anyio.to_thread.run_sync((folder / "out").unlink)
        if tracked.hops < target:
            break
    assert 4 < target < 49


@pytest.mark.anyio
async def test_file_cancelled_by_deadline_or_progress_leaves_nothing(
    plain: Path, sealed: Path, key: Key
) -> None:
    """As applications do it."""
    before = names(plain.parent)
    for function, source in ((anyseal.seal_file, plain), (anyseal.open_file, sealed)):
        with anyio.move_on_after(0) as scope:
            await function(source, plain.parent / "out", key)
        assert scope.cancelled_caught
        with anyio.CancelScope() as scope:
            stop = scope.cancel
            await function(
                source,
                plain.parent / "out",
                key,
                progress=lambda done, _, stop=stop: done and stop(),
            )
        assert scope.cancelled_caught
        assert before == names(plain.parent)


@pytest.mark.parametrize("name", ["seal_file", "open_file"])
def test_file_cancelled_by_asyncio_leaves_nothing(
    plain: Path, sealed: Path, key: Key, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``Task.cancel`` at any await, as web frameworks and ``wait_for`` do it."""
    tracked = Tracked(monkeypatch, "during")
    source = plain if name == "seal_file" else sealed
    folder, before = plain.parent, names(plain.parent)

    async def main(target: int) -> bool:
        tracked.hops, tracked.target = 0, target
        work = getattr(anyseal, name)(source, folder / "out", key)
        task = asyncio.ensure_future(work)
        tracked.cancel = task.cancel
        await asyncio.wait([task])
        assert 0 == tracked.working
        return task.cancelled()

    for target in range(1, 50):
        cancelled = asyncio.run(main(target))
        if tracked.hops < target:
            assert not cancelled
            break
        found = names(folder)
        if cancelled and "out" in found:  # complete, and cancelled while it was renamed
            assert target >= tracked.hops - 1
        if "out" in found:
            (folder / "out").unlink()
        assert before == names(folder)
    assert 4 < target < 49


@pytest.mark.parametrize("name", ["seal_file", "open_file"])
def test_file_cancelled_twice_by_asyncio_leaves_nothing(
    plain: Path, sealed: Path, key: Key, name: str
) -> None:
    """A second cancellation while the first cleans up: a timeout within a shutdown."""
    source = plain if name == "seal_file" else sealed
    folder, before = plain.parent, names(plain.parent)

    async def main(patience: int) -> None:
        begun = asyncio.Event()
        work = getattr(anyseal, name)(
            source, folder / "out", key, progress=lambda done, total: begun.set()
        )
        task = asyncio.ensure_future(work)
        await begun.wait()
        for _ in range(patience):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([task])
        assert task.cancelled()

    for patience in range(1, 12):
        asyncio.run(main(patience))
        assert before == names(folder)


# ---- The process itself ------------------------------------------------------------------


@pytest.mark.parametrize("kill_at", [0, 1 << 20])
@pytest.mark.parametrize("name", ["seal_file", "open_file"])
def test_file_of_a_killed_process_has_no_final_name(
    plain: Path, sealed: Path, name: str, kill_at: int
) -> None:
    """Power cuts and kill -9 run no clean-up: what is left must not pass for the result."""
    source = plain if name == "seal_file" else sealed
    code = """
        import os, signal, sys
        from anyseal import sync
        from support import a_key
        name, source, target, kill_at = sys.argv[1:]
        def progress(done, total):
            if done >= int(kill_at):
                os.kill(os.getpid(), signal.SIGKILL)
        getattr(sync, name)(source, target, a_key(), progress=progress)
    """
    process = run_python(code, name, str(source), str(plain.parent / "out"), str(kill_at))
    assert -signal.SIGKILL == process.returncode
    left = [name for name in names(plain.parent) if name not in ("plain", "sealed")]
    assert "out" not in left
    assert all(name.startswith(".out.") and name.endswith(".part") for name in left)


@pytest.mark.parametrize("backend", ["sync", "asyncio", "trio"])
@pytest.mark.parametrize("name", ["seal_file", "open_file"])
def test_file_without_space_leaves_nothing(
    plain: Path, sealed: Path, backend: str, name: str
) -> None:
    """A full disk is the commonest failure of a backup; the limit on file sizes stands for it."""
    source, before = plain if name == "seal_file" else sealed, names(plain.parent)
    code = """
        import functools, resource, sys
        import anyio, anyseal
        from support import a_key
        name, backend, source, target = sys.argv[1:]
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        try:
            if backend == "sync":
                getattr(anyseal.sync, name)(source, target, a_key())
            else:
                call = functools.partial(getattr(anyseal, name), source, target, a_key())
                anyio.run(call, backend=backend)
        except OSError as error:
            print(error.strerror)
    """
    process = run_python(code, name, backend, str(source), str(plain.parent / "out"))
    assert ["File too large"] == said(process)
    assert before == names(plain.parent)


def test_file_interrupted_by_the_keyboard_leaves_nothing(plain: Path) -> None:
    """Ctrl-C in a script, wherever it comes."""
    before = names(plain.parent)
    code = """
        import os, signal, sys
        from anyseal import sync
        from support import a_key
        def progress(done, total):
            if done:
                os.kill(os.getpid(), signal.SIGINT)
        try:
            sync.seal_file(sys.argv[1], sys.argv[2], a_key(), progress=progress)
        except KeyboardInterrupt:
            print("interrupted")
    """
    assert ["interrupted"] == said(run_python(code, str(plain), str(plain.parent / "out")))
    assert before == names(plain.parent)
