"""What the targets share: how an input becomes several, and how atheris is started."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

try:
    import atheris
except ImportError:  # pytest drives the same targets without it
    atheris = None


def instrumented() -> Any:
    """A block whose imports of the package tell the fuzzer which branches were taken."""
    if atheris is None:
        return contextlib.nullcontext()
    return atheris.instrument_imports(include=["anyseal"])


def variants(data: bytes, good: bytes) -> Iterator[bytes]:
    """*data* as it is, and spliced into *good* where its first four bytes say."""
    yield data
    if len(data) >= 4:
        at = int.from_bytes(data[:2]) % (len(good) + 1)
        skip = int.from_bytes(data[2:4]) % (len(good) + 1)
        yield good[:at] + data[4:] + good[at + skip :]


def fuzz(one_input: Callable[[bytes], None]) -> None:
    """Run the target with the arguments of the process."""
    if atheris is None:
        sys.exit("pip install atheris")
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
