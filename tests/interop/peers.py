"""Environments with the other implementations, apart from ours: their dependencies may clash.

``python tests/interop/peers.py`` makes them beforehand; the tests make them when they are missing.
Each is a folder next to ``.venv``, with a stamp that says what is in it.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = {
    "asherah05": "asherah>=0.5,<0.6",
    "asherah03": "asherah==0.3.9",
    "cachekit": "cachekit[json]==0.24.1",
    "s3ec": "amazon-s3-encryption-client-python>=4,<5 boto3",
    # Its cache needs two of its many dependencies.
    "duck": "--no-deps duckframework==2.3.2 diskcache pynacl cffi pycparser",
}


def environment(name: str) -> Path:
    """The Python of the environment *name*, which is made unless it is there.

    Raises:
        RuntimeError: It cannot be made.
    """
    folder = ROOT / f".venv-{name}"
    python, stamp = folder / "bin" / "python", folder / ".ready"
    wanted = f"{REQUIREMENTS[name]} on Python {sys.version}\n"
    with (ROOT / f".venv-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return python
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, symlinks=True)
        pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
        done = subprocess.run(
            [*pip, "install", "--quiet", *REQUIREMENTS[name].split()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{REQUIREMENTS[name]}: {done.stdout[-2000:]}")
        stamp.write_text(wanted)
        return python


if __name__ == "__main__":
    for each in REQUIREMENTS:
        print(environment(each))
