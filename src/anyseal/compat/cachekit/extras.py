"""The packages of the extra ``cachekit``, imported when they are needed."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from anyseal.compat.cachekit.errors import MissingExtraError

__all__ = ["extra"]


@functools.cache
def extra(name: str, install: str = "anyseal[cachekit]") -> Any:
    """The module *name*. Raises MissingExtraError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtraError.of(f"this needs {name}", install) from None
