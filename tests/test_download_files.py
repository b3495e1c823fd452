"""The hidden files of a download, whose names can be foretold: what may already stand there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from anyseal.s3.download import PartFile

NOTE = b"m" * 32 + b"\0"


def opened(folder: Path, *, overwrite: bool = False) -> PartFile:
    return PartFile(folder / "plain", overwrite=overwrite, durable=False)


def test_part_file_that_is_another_name_of_a_file_is_left_alone(tmp_path: Path) -> None:
    """A hard link of one of the user's files, put there by someone else, or left by a crash between
    link and unlink: clearing the part must not empty that file."""
    mine = tmp_path / "mine"
    mine.write_bytes(b"precious")
    os.link(mine, tmp_path / ".plain.anyseal.part")
    part = opened(tmp_path)
    part.clear()
    part.pwrite(0, memoryview(b"other"))
    part.commit(5)
    assert b"precious" == mine.read_bytes()
    assert b"other" == (tmp_path / "plain").read_bytes()


def test_part_file_state_is_not_written_through_a_link(tmp_path: Path) -> None:
    """A symbolic link where the state is prepared would have any file of the user's replaced."""
    mine = tmp_path / "mine"
    mine.write_bytes(b"precious")
    (tmp_path / ".plain.anyseal.state~").symlink_to(mine)
    part = opened(tmp_path)
    part.write_state(NOTE)
    assert b"precious" == mine.read_bytes()
    assert NOTE == part.read_state(100)
    assert not part.state.is_symlink()
    assert 0 == part.state.stat().st_mode & 0o077
    part.abort()
    assert ["mine"] == [each.name for each in tmp_path.iterdir()]


def test_part_file_state_that_cannot_be_written_leaves_nothing(
    tmp_path: Path,
) -> None:
    """On a full disk the last note stays, and no half of a new one."""
    part = opened(tmp_path)
    part.write_state(NOTE)
    with pytest.raises(TypeError):
        part.write_state("no bytes")  # type: ignore[arg-type]
    assert NOTE == part.read_state(100)
    part.abort()
    assert [] == list(tmp_path.iterdir())


def test_part_file_state_that_is_no_file_does_not_block(tmp_path: Path) -> None:
    """Opening a pipe for reading waits for a writer, which would never come."""
    part = opened(tmp_path)
    os.mkfifo(part.state)
    assert b"" == part.read_state(100)
    part.state.unlink()
    part.state.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        part.read_state(100)
    part.abort()
