"""Seal anything a service stores before it leaves the process, and open any part of it again.

Everything here is awaitable where it may take time or wait; ``anyseal.sync`` has the same names
without ``await``. What the library does not do: it does not hide lengths or access patterns, it
does not stop an old version of a thing from being put back in its place, and it cannot protect
keys from whoever controls the process.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from anyseal.aio import inspect, open, open_into, open_text, seal, seal_into, seal_text
from anyseal.config import CryptoPolicy
from anyseal.errors import (
    AnysealError,
    BackendError,
    CacheError,
    ConfigurationError,
    DecryptionError,
    ExpiredError,
    FormatError,
    KeyNotFoundError,
    KeyUseError,
    KmsError,
    MetastoreError,
    ObjectNotFoundError,
    OutputExistsError,
    PartReplacedError,
    PreconditionFailedError,
    SourceChangedError,
    SourceError,
    SuiteUnavailableError,
    UploadError,
    UploadIncompleteError,
    UploadNotFoundError,
    WriterStateError,
    WrongKeyError,
    WrongPartitionError,
)
from anyseal.fs import open_file, rewrap_file, seal_file
from anyseal.keyring import KeyAdmin, KeyHierarchy, PassphraseKeyring, StaticKeyring
from anyseal.keys import Key
from anyseal.objects import (
    FileSink,
    FileSource,
    MemorySink,
    MemorySource,
    ObjectFile,
    ObjectInfo,
    ObjectReader,
    ObjectWriter,
    StreamOpener,
    StreamSink,
)
from anyseal.ports import Keyring
from anyseal.session import Session, SessionFactory
from anyseal.suites import Suite, available_suites
from anyseal.value import Kind, ValueInfo, overhead

if _TYPE_CHECKING:
    from anyseal import sync
    from anyseal.objects.http import HttpSource

__all__ = [
    "AnysealError",
    "BackendError",
    "CacheError",
    "ConfigurationError",
    "CryptoPolicy",
    "DecryptionError",
    "ExpiredError",
    "FileSink",
    "FileSource",
    "FormatError",
    "HttpSource",
    "Key",
    "KeyAdmin",
    "KeyHierarchy",
    "KeyNotFoundError",
    "KeyUseError",
    "Keyring",
    "Kind",
    "KmsError",
    "MemorySink",
    "MemorySource",
    "MetastoreError",
    "ObjectFile",
    "ObjectInfo",
    "ObjectNotFoundError",
    "ObjectReader",
    "ObjectWriter",
    "OutputExistsError",
    "PartReplacedError",
    "PassphraseKeyring",
    "PreconditionFailedError",
    "Session",
    "SessionFactory",
    "SourceChangedError",
    "SourceError",
    "StaticKeyring",
    "StreamOpener",
    "StreamSink",
    "Suite",
    "SuiteUnavailableError",
    "UploadError",
    "UploadIncompleteError",
    "UploadNotFoundError",
    "ValueInfo",
    "WriterStateError",
    "WrongKeyError",
    "WrongPartitionError",
    "available_suites",
    "inspect",
    "open",
    "open_file",
    "open_into",
    "open_text",
    "overhead",
    "rewrap_file",
    "seal",
    "seal_file",
    "seal_into",
    "seal_text",
    "sync",
]

_LAZY = {"HttpSource": "anyseal.objects.http"}
"""Names that need an extra, and where they are: loaded when first used."""

if not _TYPE_CHECKING:  # `import *` must need no extra
    __all__ = [name for name in __all__ if name not in _LAZY]

__version__ = "0.1.0"


def __getattr__(name: str) -> _Any:
    """``anyseal.sync`` and what needs an extra are loaded on first use."""
    if name == "sync":
        return _import_module("anyseal.sync")
    if name in _LAZY:
        return getattr(_import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, "sync"})
