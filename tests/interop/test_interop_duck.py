"""duckframework 2.3.2 and ours: what one sealed opens with the other.

The peer is real: its encrypted cache over its file cache, in a process and an environment of its
own. The key is a text of 32 ASCII characters.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anyseal.compat.duck import NaClEncryptor, resolve_nacl_key
from interop.duck_values import VALUES
from interop.peers import environment
from support import run_python, said

KEY = "0123456789abcdef0123456789abcdef"
HERE = Path(__file__).parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def duck_python() -> Path:
    """The Python of duck's environment. Fails if it cannot be made."""
    return environment("duck")


@pytest.fixture
def peer(duck_python: Path, tmp_path: Path) -> Callable[[list[dict[str, Any]]], list[Any]]:
    """Asks duck."""

    def run(requests: list[dict[str, Any]]) -> list[Any]:
        done = subprocess.run(
            [str(duck_python), str(HERE / "duck_worker.py"), KEY, str(tmp_path / "files")],
            input=json.dumps(requests),
            capture_output=True,
            text=True,
            timeout=120,
            env={"PATH": os.environ["PATH"], "HOME": tempfile.gettempdir()},
        )
        assert 0 == done.returncode, done.stderr[-3000:]
        found: list[Any] = json.loads(done.stdout)
        return found

    return run


def test_we_open_what_duck_sealed(peer: Any) -> None:
    """Every plain type."""
    sealed = peer([{"op": "seal", "key": key} for key in VALUES])
    encryptor = NaClEncryptor(KEY)
    for value, stored in zip(VALUES.values(), sealed, strict=True):
        assert value == encryptor.decrypt(bytes.fromhex(stored))


def test_duck_opens_what_we_sealed(peer: Any) -> None:
    """Every plain type; and nothing under another key."""
    encryptor, other = NaClEncryptor(KEY), NaClEncryptor(resolve_nacl_key(b"another"))
    requests = [
        {"op": "open", "key": key, "stored": sealer.encrypt(value).hex()}
        for sealer in (encryptor, other)
        for key, value in VALUES.items()
    ]
    assert [True] * len(VALUES) + [False] * len(VALUES) == peer(requests)


def test_peer_is_duck(duck_python: Path) -> None:
    """No peer may be ours in disguise, or one of another version."""
    script = "from importlib.metadata import version; print(version('duckframework'))"
    found = subprocess.run(
        [str(duck_python), "-I", "-c", script], capture_output=True, text=True, check=True
    )
    assert "2.3.2" == found.stdout.strip()


ISINSTANCE = """
import sys
from anyseal.compat.duck import CacheBase, EncryptedCache

assert not [name for name in sys.modules if name == "duck" or name.startswith("duck.")]
early = EncryptedCache(CacheBase(), "0123456789abcdef0123456789abcdef")
sys.path.append(sys.argv[1])
from duck.utils import caching

late = EncryptedCache(caching.InMemoryCache(), "0123456789abcdef0123456789abcdef")
late.set("k", [1])
print(isinstance(early, caching.CacheBase), isinstance(late, caching.CacheBase), late.get("k"))
print(isinstance(late.backend, CacheBase), isinstance(late.backend, EncryptedCache))
"""


def test_our_caches_are_ducks(duck_python: Path) -> None:
    """Where duck is installed, and without importing it."""
    (packages,) = duck_python.parent.parent.glob("lib/python*/site-packages")
    assert ["True True [1]", "True False"] == said(run_python(ISINSTANCE, str(packages)))
