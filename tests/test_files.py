"""seal_file and open_file: all or nothing, whatever happens on the way."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import anyseal
from anyseal import (
    DecryptionError,
    FormatError,
    Key,
    OutputExistsError,
    SourceChangedError,
    SourceError,
    StaticKeyring,
    Suite,
    WrongKeyError,
    sync,
)
from support import C, S, names, open_by_range, pattern, seal_bytes

SIZES = (0, 1, C + 1, 3 * S + 17, (2 << 20) + 5)


class Api:
    """Both faces of the same functions, called as sync code."""

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if self.backend == "sync":
            return getattr(sync, name)  # type: ignore[no-any-return]

        def call(*args: Any, **kwargs: Any) -> Any:
            return anyio.run(partial(getattr(anyseal, name), *args, **kwargs), backend=self.backend)

        return call


@pytest.fixture(params=["sync", "asyncio", "trio"])
def api(request: pytest.FixtureRequest) -> Api:
    """Each face."""
    return Api(request.param)


@pytest.mark.parametrize("size", SIZES)
def test_file_round_trips(api: Api, tmp_path: Path, size: int, suite: Suite) -> None:
    """And is the same object that a writer would make."""
    ring, data = StaticKeyring(bytes(32)), pattern(size)
    source, target, back = (tmp_path / name for name in ("in", "sealed", "out"))
    source.write_bytes(data)
    where = {"partition": "p", "context": b"ctx"}
    shape = {"chunk_size": C, "segment_size": 1 << 20 if size > 1 << 20 else S}
    count = api.seal_file(source, target, ring, **where, **shape, suite=suite)
    assert count == target.stat().st_size
    assert len(seal_bytes(data, ring, **where, **shape, suite=suite)) == count
    assert data == open_by_range(target.read_bytes(), ring, **where)
    assert size == api.open_file(str(target), str(back), ring, **where, durable=True)
    assert data == back.read_bytes()
    assert ["in", "out", "sealed"] == names(tmp_path)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o644, 0o750])
def test_file_permissions_are_kept(api: Api, tmp_path: Path, key: Key, mode: int) -> None:
    """A private file must not become public by being sealed or opened, not even for a moment."""
    source, target, back = (tmp_path / name for name in ("in", "sealed", "out"))
    source.write_bytes(b"private")
    source.chmod(mode)
    api.seal_file(source, target, key)
    api.open_file(target, back, key)
    for path in (target, back):
        assert mode == stat.S_IMODE(path.stat().st_mode)


def test_file_never_overwrites_unasked(api: Api, plain: Path, sealed: Path, key: Key) -> None:
    """Also a symlink that leads nowhere is something."""
    folder, before = plain.parent, (plain.read_bytes(), sealed.read_bytes())
    (folder / "dangling").symlink_to(folder / "nowhere")
    found = names(folder)
    for target in ("plain", "sealed", "dangling"):
        with pytest.raises(OutputExistsError):
            api.seal_file(plain, folder / target, key)
        with pytest.raises(OutputExistsError):
            api.open_file(sealed, folder / target, key)
    assert before == (plain.read_bytes(), sealed.read_bytes())
    assert found == names(folder)


def test_file_overwrites_when_asked(api: Api, plain: Path, sealed: Path, key: Key) -> None:
    """A symlink is replaced, and what it led to left alone; a file may replace itself."""
    folder, data = plain.parent, plain.read_bytes()
    (folder / "target").write_bytes(b"precious")
    (folder / "link").symlink_to(folder / "target")
    api.seal_file(plain, folder / "link", key, overwrite=True)
    assert not (folder / "link").is_symlink()
    assert b"precious" == (folder / "target").read_bytes()
    assert data == open_by_range((folder / "link").read_bytes(), key)
    api.seal_file(plain, plain, key, overwrite=True)
    assert data == open_by_range(plain.read_bytes(), key)
    api.open_file(plain, plain, key, overwrite=True)
    assert data == plain.read_bytes()
    assert ["link", "plain", "sealed", "target"] == names(folder)


def test_file_that_is_none_is_refused(api: Api, tmp_path: Path, sealed: Path, key: Key) -> None:
    """A FIFO must not hang, a folder must not be half a file, a name must not be made up."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    before = names(tmp_path)
    for call in (api.seal_file, api.open_file):
        with pytest.raises(FileNotFoundError):
            call(tmp_path / "missing", tmp_path / "out", key)
        for name in ("fifo", "folder"):
            with pytest.raises(SourceError, match="not a regular file"):
                call(tmp_path / name, tmp_path / "out", key)
        with pytest.raises(FileNotFoundError) as caught:
            call(sealed, tmp_path / "nowhere" / "out", key)
        assert str(tmp_path / "nowhere") == caught.value.filename, "not a name that nobody knows"
    with pytest.raises(TypeError):
        api.seal_file(sealed, tmp_path / "out", key, partition="p")
    with pytest.raises(anyseal.ConfigurationError):
        api.seal_file(sealed, tmp_path / "out", key, chunk_size=5)
    assert before == names(tmp_path)


def test_file_progress_rises_to_the_total(api: Api, plain: Path, sealed: Path, key: Key) -> None:
    """It begins at nothing, never falls, ends at everything, and comes from the caller's thread."""
    seen: list[tuple[int, int | None, int]] = []

    def progress(done: int, total: int | None) -> None:
        seen.append((done, total, threading.get_ident()))

    calls = ((api.seal_file, plain), (api.open_file, sealed))
    for number, (call, source) in enumerate(calls):
        seen.clear()
        call(source, plain.parent / f"out{number}", key, progress=progress)
        size = plain.stat().st_size
        assert (0, size) == (seen[0][0], seen[-1][0])
        assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
        assert {(size, threading.get_ident())} == {(total, ident) for _, total, ident in seen}
        assert len(seen) > 2


def test_file_error_in_progress_leaves_nothing(
    api: Api, plain: Path, sealed: Path, key: Key
) -> None:
    """The caller's own mistake is raised as it is."""
    before = names(plain.parent)
    for call, source in ((api.seal_file, plain), (api.open_file, sealed)):
        for fatal in (0, 1 << 20):

            def progress(done: int, total: int | None, fatal: int = fatal) -> None:
                if done >= fatal:
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                call(source, plain.parent / "out", key, progress=progress)
            assert before == names(plain.parent)


def test_file_tampered_leaves_nothing(api: Api, sealed: Path, key: Key, other_key: Key) -> None:
    """A flipped bit in the last chunk undoes gigabytes that were fine."""
    data, folder = sealed.read_bytes(), sealed.parent
    before = names(folder)
    out = folder / "out"
    for at in (-1, -200, len(data) // 2, 205, 100):
        bad = bytearray(data)
        bad[at] ^= 1
        sealed.write_bytes(bad)
        with pytest.raises(DecryptionError):
            api.open_file(sealed, out, key)
    for bad_size in (0, 100, 230, len(data) - 1):
        sealed.write_bytes(data[:bad_size])
        with pytest.raises(FormatError):
            api.open_file(sealed, out, key)
    sealed.write_bytes(data)
    with pytest.raises(WrongKeyError):
        api.open_file(sealed, out, other_key)
    with pytest.raises(DecryptionError):
        api.open_file(sealed, out, key, context=b"other")
    assert before == names(folder)


@pytest.mark.parametrize("change", ["longer", "shorter", "touched"])
def test_file_source_that_changes_is_refused(api: Api, plain: Path, key: Key, change: str) -> None:
    """Half the old file and half the new one is a file that never was."""
    before = names(plain.parent)

    def progress(done: int, total: int | None) -> None:
        if done == 0:
            time.sleep(0.05)  # beyond the clock tick of the file system
            with plain.open("r+b") as file:
                if change == "shorter":
                    file.truncate(1 << 20)
                else:
                    file.seek(0, os.SEEK_END if change == "longer" else os.SEEK_SET)
                    file.write(b"new")

    with pytest.raises(SourceChangedError):
        api.seal_file(plain, plain.parent / "out", key, progress=progress)
    assert before == names(plain.parent)


def test_file_appearing_meanwhile_is_not_overwritten(api: Api, plain: Path, key: Key) -> None:
    """The check at the start is for people; the one at the end is for races."""
    out = plain.parent / "out"
    with pytest.raises(OutputExistsError):
        api.seal_file(plain, out, key, progress=lambda done, total: out.write_bytes(b"theirs"))
    assert b"theirs" == out.read_bytes()
    assert ["out", "plain"] == names(plain.parent)
