"""What a run says about tests that it could not run."""

from __future__ import annotations

import re

from support import run_python


def test_skips_are_told_in_one_line_with_their_remedy() -> None:
    """Two hundred skips for want of one package look like a suite that passed."""
    done = run_python(
        """
        import pytest, sys
        sys.exit(pytest.main(
            ["-qp", "no:cacheprovider", "tests/test_cache_backends_remote.py", "-k", "memcached"]
        ))
        """,
        PATH="/nowhere",
        ANYSEAL_REQUIRE_SERVERS="0",
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    (told,) = re.findall(r"^\d+ skipped: .*$", done.stdout, re.MULTILINE)
    assert re.search(r"\d+ memcached is not installed .*: apt-get install memcached", told)
