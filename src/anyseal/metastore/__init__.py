"""Where wrapped keys are kept: memory (tests), SQL databases, DynamoDB.

The SQL and DynamoDB metastores need an extra (``sql`` with ``postgres`` or ``mysql``; ``aws``)
and are loaded on first use.
"""

import typing as _typing
from importlib import import_module as _import_module

from anyseal.metastore.memory import MemoryMetastore

if _typing.TYPE_CHECKING:
    from anyseal.metastore.dynamodb import DynamoDbMetastore
    from anyseal.metastore.sql import SqlMetastore

__all__ = ["DynamoDbMetastore", "MemoryMetastore", "SqlMetastore"]

_LAZY = {
    "DynamoDbMetastore": "anyseal.metastore.dynamodb",
    "SqlMetastore": "anyseal.metastore.sql",
}

if not _typing.TYPE_CHECKING:  # `import *` must need no extra
    __all__ = [name for name in __all__ if name not in _LAZY]


if not _typing.TYPE_CHECKING:  # for it, a name that is not there is an error

    def __getattr__(name: str) -> _typing.Any:
        """What needs an extra is loaded on first use."""
        if name in _LAZY:
            return getattr(_import_module(_LAZY[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
