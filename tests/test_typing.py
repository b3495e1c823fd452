"""What users' type checkers see: decorated functions keep their signatures."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "typing"
CHECKERS = {
    "mypy": ["mypy", "--strict", "--no-error-summary", "--cache-dir", "build/mypy"],
    "pyright": ["basedpyright", "--level", "error"],
}


def _refused(checker: str, program: str) -> set[int]:
    """The numbers of the lines that *checker* finds fault with."""
    command = [sys.executable, "-m", *CHECKERS[checker], str(PROGRAMS / program)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROGRAMS.parent.parent)
    found = re.findall(rf"{program}:(\d+)(?::\d+)?(?: -)?:? error", done.stdout)
    assert found or not done.returncode, done.stdout + done.stderr
    return {int(number) for number in found}


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_users_program_is_accepted(checker: str) -> None:
    """``mypy --strict`` in a user's project must not reject every decorated function."""
    assert set() == _refused(checker, "valid.py")


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_users_mistakes_are_found(checker: str) -> None:
    """A wrong argument or a wrong type of result is an error on its line, and on no other."""
    lines = (PROGRAMS / "invalid.py").read_text("utf-8").splitlines()
    expected = {number for number, line in enumerate(lines, 1) if line.endswith("# error")}
    assert expected == _refused(checker, "invalid.py")
