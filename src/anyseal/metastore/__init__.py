"""Where wrapped keys are kept: memory (tests), SQL databases, DynamoDB.

The SQL and DynamoDB metastores need an extra (``sql`` with ``postgres`` or ``mysql``; ``aws``)
and are loaded on first use.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from anyseal.metastore.memory import MemoryMetastore

if _TYPE_CHECKING:
    from anyseal.metastore.dynamodb import DynamoDbMetastore
    from anyseal.metastore.sql import SqlMetastore

__all__ = ["DynamoDbMetastore", "MemoryMetastore", "SqlMetastore"]

_LAZY = {
    "DynamoDbMetastore": "anyseal.metastore.dynamodb",
    "SqlMetastore": "anyseal.metastore.sql",
}

if not _TYPE_CHECKING:  # `import *` must need no extra
    __all__ = [name for name in __all__ if name not in _LAZY]


def __getattr__(name: str) -> _Any:
    """What needs an extra is loaded on first use."""
    if name in _LAZY:
        return getattr(_import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
