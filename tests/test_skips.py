"""What a run says about tests that it could not run."""

from __future__ import annotations

import re
from pathlib import Path

from support import run_python

TESTS = """
import pytest

pytest_plugins = ["server_fixtures"]

@pytest.mark.parametrize("number", range(2))
def test_of_memcached(memcached_server, number): pass

def test_of_nothing(): pass
"""


def test_skips_are_told_in_one_line_with_their_remedy(tmp_path: Path) -> None:
    """Two hundred skips for want of one package look like a suite that passed."""
    (tmp_path / "test_few.py").write_text(TESTS)
    done = run_python(
        """
        import pytest, sys
        sys.exit(pytest.main(["-qp", "no:cacheprovider", "-p", "conftest", sys.argv[1]]))
        """,
        str(tmp_path),
        PATH="/nowhere",
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
        ANYSEAL_REQUIRE_SERVERS="0",
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    (told,) = re.findall(r"^\d+ skipped: .*$", done.stdout, re.MULTILINE)
    assert re.fullmatch(
        r"2 skipped: 2 memcached is not installed .*: apt-get install memcached", told
    )
