"""Seal anything a service stores before it leaves the process, and open any part of it again.

Everything here is awaitable where it may take time or wait; ``anyseal.sync`` has the same names
without ``await``. What the library does not do: it does not hide lengths or access patterns, it
does not stop an old version of a thing from being put back in its place, and it cannot protect
keys from whoever controls the process.
"""

import typing as _typing
from importlib import import_module as _import_module

from anyseal import _ffi as _ffi  # finds and tests libsodium: now, not at the first use
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
    MissingExtraError,
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

if _typing.TYPE_CHECKING:
    from anyseal import sync
    from anyseal.aio import inspect, open_into, open_text, seal, seal_into, seal_text
    from anyseal.aio import open as open
    from anyseal.config import CryptoPolicy
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
    from anyseal.objects.http import HttpSource
    from anyseal.ports import Keyring
    from anyseal.session import Session, SessionFactory
    from anyseal.suites import Suite, available_suites
    from anyseal.value import Kind, ValueInfo, overhead

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
    "MissingExtraError",
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

_PARTS = (
    "aio", "config", "fs", "keyring", "keys", "objects", "ports", "session", "suites", "value",
)  # fmt: skip
"""Where the names are. All parts are loaded when the first name is used: importing the package
costs a service's start little, and no later call in a running event loop pays for an import."""

_EXTRAS = {"HttpSource": "anyseal.objects.http"}
"""Names that need an extra, and where they are: loaded when first used."""

_LATER = {"open", *__all__} - _EXTRAS.keys() - globals().keys()

if not _typing.TYPE_CHECKING:  # `import *` must need no extra
    __all__ = [name for name in __all__ if name not in _EXTRAS]

__version__ = "0.1.0"


if not _typing.TYPE_CHECKING:  # for it, a name that is not there is an error

    def __getattr__(name: str) -> _typing.Any:
        """Names are loaded on first use (PEP 562)."""
        if name == "sync":
            return _import_module("anyseal.sync")
        if name in _EXTRAS:
            return getattr(_import_module(_EXTRAS[name]), name)
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        for part in _PARTS:
            module = _import_module(f"anyseal.{part}")
            globals().update((each, getattr(module, each)) for each in _LATER & {*module.__all__})
        return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, *_EXTRAS})
