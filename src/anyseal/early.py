"""What an awaited call would import, imported when the object is made whose methods are awaited.

anyio imports its half for the running event loop when it is first used: 14 to 77 ms during which
the loop stands still.
"""

from __future__ import annotations

import contextlib
import sys
from importlib import import_module

__all__ = ["AWS", "HTTP", "prepare"]

HTTP = ("httpcore", "httpcore._backends.anyio", "h11", "certifi", "ctypes.util", "encodings.idna")
"""What httpx imports when it connects for the first time."""

AWS = (
    "httpcore2", "httpcore2._backends.anyio", "h11", "truststore", "ctypes.util", "encodings.idna",
)  # fmt: skip
"""What aiobotocore's client does."""

_prepared: set[str] = set()


def prepare(*modules: str) -> None:
    """Import anyio's half for asyncio (for trio too where that is loaded), and *modules*.

    Those that are missing are left out: whoever needs them says so.
    """
    if not modules and _prepared and "trio" not in sys.modules:
        return
    _import("anyio._backends._asyncio", *modules)
    if "trio" in sys.modules:  # one of *modules* may have brought it
        _import("anyio._backends._trio")


def _import(*modules: str) -> None:
    for name in modules:
        if name not in _prepared:
            _prepared.add(name)
            with contextlib.suppress(ImportError):
                import_module(name)
