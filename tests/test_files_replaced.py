"""What a new file may replace, whose it is then, and which names it may have: for every writer."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

import anyseal
from anyseal import FileSink, OutputExistsError, SourceChangedError, SourceError, sync
from anyseal.cli.app import run as command
from anyseal.cli.process import CliError, signals
from anyseal.cli.s3_state import State
from anyseal.s3.part_file import PartFile
from anyseal.s3.sealing import plaintext
from support import C, a_key, names, pattern, seal_bytes

PLAIN = pattern(3 * C)
KEY = a_key()
ROOT = os.geteuid() == 0


def _plain(folder: Path) -> Path:
    path = folder / "plain of the test"
    path.write_bytes(PLAIN)
    return path


def _sealed(folder: Path) -> Path:
    path = folder / "sealed of the test"
    path.write_bytes(seal_bytes(PLAIN, KEY))
    return path


def _sink(make: Callable[..., Any], target: Path, overwrite: bool) -> None:
    sink = make(target, overwrite=overwrite, durable=False)
    try:
        sink.pwrite(0, memoryview(PLAIN))
        sink.commit(len(PLAIN))
    except BaseException:
        sink.abort()
        raise


async def _write(target: Path, overwrite: bool) -> None:
    sink = await FileSink.aopen(target, overwrite=overwrite)
    async with anyseal.ObjectWriter(sink, KEY) as writer:
        await writer.write(PLAIN)


def _cli(monkeypatch: pytest.MonkeyPatch, *arguments: str, overwrite: bool) -> None:
    """The command in this process; its errors as exceptions of their kind."""
    monkeypatch.setattr(signals, "install", lambda: None)
    monkeypatch.setenv("ANYSEAL_MASTER_KEY", "c0ffee" * 10 + "2468")
    code = command([*arguments, *(["--force"] if overwrite else [])])
    if code:
        raise SourceError(f"exit code {code}") if overwrite else OutputExistsError("exists")


WRITERS: dict[str, Callable[[Path, bool, pytest.MonkeyPatch], object]] = {
    "seal_file": lambda target, overwrite, _: anyio.run(
        partial(anyseal.seal_file, _plain(target.parent), target, KEY, overwrite=overwrite)
    ),
    "open_file": lambda target, overwrite, _: anyio.run(
        partial(anyseal.open_file, _sealed(target.parent), target, KEY, overwrite=overwrite)
    ),
    "sync.seal_file": lambda target, overwrite, _: sync.seal_file(
        _plain(target.parent), target, KEY, overwrite=overwrite
    ),
    "sync.open_file": lambda target, overwrite, _: sync.open_file(
        _sealed(target.parent), target, KEY, overwrite=overwrite
    ),
    "ObjectWriter": lambda target, overwrite, _: asyncio.run(_write(target, overwrite)),
    "FileSink": lambda target, overwrite, _: _sink(FileSink, target, overwrite),
    "PartFile": lambda target, overwrite, _: _sink(PartFile, target, overwrite),
    "cli seal": lambda target, overwrite, patch: _cli(
        patch, "seal", str(_plain(target.parent)), "-q", "-o", str(target), overwrite=overwrite
    ),
    "cli keygen": lambda target, overwrite, patch: _cli(
        patch, "keygen", "-o", str(target), overwrite=overwrite
    ),
}
"""Every public way to make a file under a name of the caller's."""

PRIVATE = ("cli keygen",)
"""Those whose new files are for their owner only."""

AS_STREAM = ("cli seal",)
"""Those that write into a device or a FIFO, as a shell would."""


@pytest.fixture(params=WRITERS)
def writer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Each of them, called with a target and ``overwrite``."""

    def write(target: Path, overwrite: bool) -> None:
        WRITERS[request.param](target, overwrite, monkeypatch)

    write.kind = request.param  # type: ignore[attr-defined]
    return write


def _left(folder: Path) -> list[str]:
    return [name for name in names(folder) if not name.endswith("of the test")]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400, 0o755, 0o6755, 0o4711])
def test_replaced_file_keeps_its_mode(writer: Any, tmp_path: Path, mode: int) -> None:
    """A file that only its owner could read must not be readable by all afterwards; and one that
    is executable for root is so no more, since its content is another."""
    target = tmp_path / "target"
    target.write_bytes(b"old")
    target.chmod(mode)
    writer(target, overwrite=True)
    assert b"old" != target.read_bytes()
    expected = mode & (0o700 if writer.kind in PRIVATE else 0o777)
    assert oct(expected) == oct(stat.S_IMODE(target.stat().st_mode))
    assert ["target"] == _left(tmp_path)


def test_replaced_file_is_no_more_open_than_the_source(tmp_path: Path) -> None:
    """What only its owner can read stays so when it is opened over something public."""
    source, target = _sealed(tmp_path), tmp_path / "target"
    source.chmod(0o600)
    target.write_bytes(b"old")
    target.chmod(0o644)
    sync.open_file(source, target, KEY, overwrite=True)
    assert 0o600 == stat.S_IMODE(target.stat().st_mode)


@pytest.mark.parametrize("kind", ["FileSink", "PartFile"])
def test_replaced_file_is_private_while_it_is_written(tmp_path: Path, kind: str) -> None:
    """The temporary file has the same bytes in it, and lies in the same folder. So has one that an
    earlier attempt left, which began when there was no target."""
    target = tmp_path / "target"
    make: Any = {"FileSink": FileSink, "PartFile": partial(PartFile, durable=False)}[kind]
    if kind == "PartFile":
        make(target, overwrite=True).keep()
    target.write_bytes(b"old")
    target.chmod(0o600)
    sink = make(target, overwrite=True)
    hidden = next(path for path in tmp_path.iterdir() if path != target)
    assert 0o600 == stat.S_IMODE(hidden.stat().st_mode)
    sink.abort()


@pytest.mark.skipif(not ROOT, reason="only root can give files away: run the tests as root")
def test_replaced_file_keeps_its_owner(writer: Any, tmp_path: Path) -> None:
    """Who could read it before can afterwards."""
    target = tmp_path / "target"
    target.write_bytes(b"old")
    os.chown(target, 1234, 2345)
    target.chmod(0o640)
    writer(target, overwrite=True)
    found = target.stat()
    assert (1234, 2345) == (found.st_uid, found.st_gid)
    expected = 0o600 if writer.kind in PRIVATE else 0o640
    assert oct(expected) == oct(stat.S_IMODE(found.st_mode))


def test_replaced_file_whose_group_cannot_be_kept_is_closed_to_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its group's bits were not meant for ours; nor, if it could do less, the others' for it."""

    def refused(*args: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refused)
    for before, after in ((0o660, 0o600), (0o664, 0o644), (0o604, 0o600), (0o751, 0o711)):
        target = tmp_path / "target"
        target.write_bytes(b"old")
        target.chmod(before)
        found = os.stat_result((*target.stat()[:5], 4321, *target.stat()[6:]))
        with monkeypatch.context() as patch:
            patch.setattr(Path, "stat", lambda *_, found=found, **__: found)
            sink = FileSink(target, overwrite=True)
            sink.commit(0)
        assert oct(after) == oct(stat.S_IMODE(os.stat(target).st_mode)), oct(before)


def test_replaced_file_gets_its_owner_before_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two, a file that is still ours would be open to the wrong group. Both are set on
    the descriptor: the name of a temporary file may lead elsewhere by then."""
    target = tmp_path / "target"
    target.write_bytes(b"old")
    target.chmod(0o640)
    calls = []
    monkeypatch.setattr(os, "fchown", lambda *args: calls.append("fchown"))
    monkeypatch.setattr(os, "fchmod", lambda *args: calls.append("fchmod"))
    for name in ("chown", "chmod", "lchown"):
        monkeypatch.setattr(os, name, None)
    stats = tuple(os.stat(target))
    other = os.stat_result((*stats[:4], stats[4] + 1, *stats[5:]))
    monkeypatch.setattr(Path, "stat", lambda *_, **__: other)
    FileSink(target, overwrite=True).commit(0)
    assert ["fchown", "fchmod"] == calls


def _acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


ACL = "system.posix_acl_access"
NO_ID = 0xFFFFFFFF
LIST = _acl((1, 6, NO_ID), (2, 4, 1234), (4, 0, NO_ID), (16, 4, NO_ID), (32, 0, NO_ID))
"""The owner reads and writes, user 1234 reads, the group and all others nothing."""


def _give_acl(path: Path, name: str = ACL) -> None:
    if not hasattr(os, "setxattr"):
        pytest.skip("access control lists are tested on Linux")
    try:
        os.setxattr(path, name, LIST)
    except OSError:
        pytest.skip("this file system has no access control lists")


def test_replaced_file_keeps_its_access_list(tmp_path: Path) -> None:
    """With such a list the mode's group bits are its mask: taken for a mode, they would open the
    file to its group."""
    target = tmp_path / "target"
    target.write_bytes(b"old")
    _give_acl(target)
    assert 0o640 == stat.S_IMODE(target.stat().st_mode)
    sync.seal_file(_plain(tmp_path), target, KEY, overwrite=True)
    assert LIST == os.getxattr(target, ACL)
    _plain(tmp_path).chmod(0o600)
    sync.seal_file(_plain(tmp_path), target, KEY, overwrite=True)
    assert 0o600 == stat.S_IMODE(target.stat().st_mode)
    assert ACL not in os.listxattr(target)


def test_replaced_file_gets_no_access_list_from_its_folder(tmp_path: Path) -> None:
    """A folder may have one for new files, which this one is not."""
    target = tmp_path / "target"
    target.write_bytes(b"old")
    target.chmod(0o660)
    _give_acl(tmp_path, "system.posix_acl_default")
    sync.seal_file(_plain(tmp_path), target, KEY, overwrite=True)
    assert ACL not in os.listxattr(target)
    assert 0o660 == stat.S_IMODE(target.stat().st_mode)


def _make(kind: str, path: Path) -> None:
    """Something at *path* that is no regular file."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        # AF_UNIX paths are short: bound by a relative name.
        before = Path.cwd()
        os.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
        os.chdir(before)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        if not ROOT:
            pytest.skip("only root can make devices: run the tests as root")
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    elif kind.startswith("link to "):
        linked = path.with_name(f"{path.name[0]} of the test")
        _make(kind.removeprefix("link to "), linked)
        path.symlink_to(linked.name)
    else:
        path.symlink_to("/dev/stdout")


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize(
    "kind",
    [
        "fifo",
        "socket",
        "folder",
        "device",
        "link to fifo",
        "link to device",
        "link to socket",
        "descriptor",
    ],
)
def test_replaced_is_a_regular_file_or_nothing(
    writer: Any, tmp_path: Path, kind: str, overwrite: bool
) -> None:
    """A program that reads a FIFO or a socket waits for ever if a file takes its place; and a
    machine whose null device is a file fills its disk."""
    target = tmp_path / "target"
    _make(kind, target)
    before = os.lstat(target)
    if writer.kind in AS_STREAM and kind not in ("folder", "socket", "descriptor"):
        if "device" in kind:
            writer(target, overwrite=overwrite)  # into it
    elif writer.kind not in AS_STREAM or kind != "descriptor":
        with pytest.raises(SourceError if overwrite else OutputExistsError):
            writer(target, overwrite=overwrite)
    after = os.lstat(target)
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    assert ["target"] == _left(tmp_path)


@pytest.mark.parametrize("kind", ["FileSink", "PartFile"])
def test_replaced_by_a_fifo_meanwhile_stays(tmp_path: Path, kind: str) -> None:
    """What stands there is looked at again when the file is complete."""
    target = tmp_path / "target"
    make: Any = {"FileSink": FileSink, "PartFile": partial(PartFile, durable=False)}[kind]
    sink = make(target, overwrite=True)
    os.mkfifo(target)
    with pytest.raises(SourceError, match="not a regular file"):
        sink.commit(0)
    sink.abort()
    assert stat.S_ISFIFO(target.stat().st_mode)
    assert ["target"] == names(tmp_path)


def test_replaced_link_is_no_more_open_than_what_it_led_to(writer: Any, tmp_path: Path) -> None:
    """The link is replaced, and what it led to left alone; but who could not read through it
    cannot read what stands there now."""
    target, linked = tmp_path / "target", tmp_path / "linked of the test"
    linked.write_bytes(b"precious")
    linked.chmod(0o4600)
    target.symlink_to(linked)
    writer(target, overwrite=True)
    assert not target.is_symlink()
    assert b"precious" == linked.read_bytes()
    assert 0o600 == stat.S_IMODE(target.stat().st_mode)


@pytest.mark.skipif(not ROOT, reason="only root can give files away: run the tests as root")
@pytest.mark.parametrize("link", [True, False])
def test_replaced_file_that_someone_planted_gives_nothing_away(tmp_path: Path, link: bool) -> None:
    """In a folder like /tmp anybody can put a file, or a link to one, where root will write."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    theirs, target = tmp_path / "theirs", shared / "target"
    for path in (theirs, target):
        path.write_bytes(b"")
        os.chown(path, 1234, 1234)
        path.chmod(0o666)
    if link:
        target.unlink()
        target.symlink_to(theirs)
        os.lchown(target, 1234, 1234)
    sync.open_file(_sealed(tmp_path), target, KEY, overwrite=True)
    found = target.stat()
    assert os.geteuid() == found.st_uid
    assert 0 == found.st_mode & 0o022


def test_rewrapped_file_keeps_mode_and_owner(tmp_path: Path) -> None:
    """It is the same file to its users."""
    path = _sealed(tmp_path)
    path.chmod(0o4640)
    if ROOT:
        os.chown(path, 1234, 2345)
        path.chmod(0o4640)
    before = path.stat()
    assert sync.rewrap_file(path, KEY, to_keyring=a_key("other"))
    after = path.stat()
    assert 0o640 == stat.S_IMODE(after.st_mode)
    assert (before.st_uid, before.st_gid) == (after.st_uid, after.st_gid)


NAMES = {
    "255 bytes": "x" * 255,
    "of 2 bytes": "é" * 127,
    "of 3 bytes": "x" + "€" * 84,
    "of 4 bytes": "😀" * 63,
    "not UTF-8": os.fsdecode(b"\xff" * 255),
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_written_under_every_legal_name(writer: Any, tmp_path: Path, name: str) -> None:
    """File systems count the bytes of a name: a hidden one that adds to it must be cut in bytes."""
    for overwrite in (False, True):
        writer(tmp_path / name, overwrite=overwrite)
        assert [name] == _left(tmp_path)


@pytest.mark.parametrize("overwrite", [True, False])
def test_name_that_is_too_long_is_refused_before_the_work(
    writer: Any, tmp_path: Path, overwrite: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hidden name is cut and is legal: a terabyte would be sealed before the last rename."""
    with pytest.raises(Exception) as caught:  # the command's is an exit code
        writer(tmp_path / ("x" * 256), overwrite=overwrite)
    said = str(caught.value) + capsys.readouterr().err
    assert "too long" in said
    assert ".part" not in said
    assert [] == _left(tmp_path)


@pytest.mark.parametrize("folder", ["/proc/self/fd", "/dev/fd"])
def test_replaced_descriptor_by_its_number_is_refused(tmp_path: Path, folder: str) -> None:
    """As /dev/stdout, which leads there."""
    with (
        (tmp_path / "open").open("wb") as file,
        pytest.raises(SourceError, match="not a regular file"),
    ):
        FileSink(f"{folder}/{file.fileno()}", overwrite=True)


def test_part_files_of_long_names_differ(tmp_path: Path) -> None:
    """Two names that are alike at first are two files, which can be downloaded at once."""
    first, second = (
        PartFile(tmp_path / ("é" * 120 + end), overwrite=False, durable=False) for end in "ab"
    )
    first.commit(0)
    second.commit(0)
    assert 2 == len(names(tmp_path))


def _in_place(path: Path) -> None:
    """Change a file, and put its modification time back."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"new")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("face", ["async", "sync", "rewrap"])
def test_source_changed_in_place_is_noticed(tmp_path: Path, face: str) -> None:
    """Its modification time can be put back, and backup programs do; its change time cannot."""
    path = tmp_path / "source"
    path.write_bytes(seal_bytes(pattern(3 * C), KEY))
    before = path.read_bytes()
    path.write_bytes(before[:3] + before[3:])  # written well before: its times are not now
    os.utime(path, (1, 1))
    tick = [True]

    def progress(done: int, total: int | None) -> None:
        if tick:
            tick.clear()
            changed = path.stat().st_ctime_ns
            while path.stat().st_ctime_ns == changed:  # beyond the clock tick of the file system
                _in_place(path)

    target = tmp_path / "target"
    calls: dict[str, Callable[..., object]] = {
        "async": lambda: anyio.run(
            partial(anyseal.seal_file, path, target, KEY, progress=progress)
        ),
        "sync": lambda: sync.seal_file(path, target, KEY, progress=progress),
        "rewrap": lambda: sync.rewrap_file(path, KEY, to_keyring=a_key("other"), progress=progress),
    }
    with pytest.raises(SourceChangedError):
        calls[face]()
    assert ["source"] == names(tmp_path)


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="/proc is Linux's: run it there")
@pytest.mark.parametrize("face", ["FileSource", "async", "sync", "s3", "cli"])
def test_source_with_content_but_no_size_is_not_taken_for_empty(
    tmp_path: Path, face: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sealed nothing, where the content was wanted, is a loss that shows too late."""
    target = tmp_path / "target"
    proc = "/proc/version"
    calls: dict[str, Callable[..., object]] = {
        "FileSource": lambda: sync.FileSource(proc),
        "async": lambda: anyio.run(anyseal.seal_file, proc, target, KEY),
        "sync": lambda: sync.seal_file(proc, target, KEY),
        "s3": lambda: anyio.run(plaintext, Path(proc)),
        "cli": lambda: _cli(monkeypatch, "seal", proc, "-q", "-o", str(target), overwrite=True),
    }
    with pytest.raises(SourceError):
        calls[face]()
    assert [] == names(tmp_path)


def test_source_with_more_content_than_its_size_is_refused(tmp_path: Path) -> None:
    """As some files of /sys have."""
    path = tmp_path / "source"
    path.write_bytes(b"longer")
    with sync.FileSource(path) as source:
        stats = tuple(source.stat)
        source.stat = os.stat_result((*stats[:6], 3, *stats[7:]))
        with pytest.raises(SourceError):
            source.check_unchanged()


def test_key_file_is_private_under_any_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it replaces may have been open to all."""
    target = tmp_path / "key"
    target.write_bytes(b"old")
    target.chmod(0o666)
    before = os.umask(0)
    try:
        _cli(monkeypatch, "keygen", "-o", str(target), overwrite=True)
    finally:
        os.umask(before)
    assert 0o600 == stat.S_IMODE(target.stat().st_mode)


def test_state_file_of_a_migration_is_a_regular_file(tmp_path: Path) -> None:
    """Reading a FIFO would wait for ever, and a device would keep nothing of what was done."""
    path = tmp_path / "state"
    os.mkfifo(path)
    for read_only in (True, False):
        with pytest.raises(CliError, match="no regular file"):
            State(path, {}, read_only=read_only)
