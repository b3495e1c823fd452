"""The same names without ``await``.

Bytes to bytes are the plain functions that the async side calls too. Nothing here starts an event
loop, except for a keyring that must wait for a key service: its misses go through one shared loop.
Large files and writes use a few worker threads of our own.
"""

from __future__ import annotations

from typing import Any

from anyseal.aio import inspect
from anyseal.keyring import KeyHierarchy, PassphraseKeyring, StaticKeyring
from anyseal.keys import Key
from anyseal.objects.sources import BlockingStreamSink as StreamSink
from anyseal.objects.sources import FileSink, FileSource, MemorySink, MemorySource
from anyseal.sync.files import open_file, rewrap_file, seal_file
from anyseal.sync.objects import ObjectFile, ObjectReader, ObjectWriter, StreamOpener
from anyseal.sync.sessions import Session, SessionFactory
from anyseal.sync.values import open, open_into, seal, seal_into

__all__ = [
    "FileSink",
    "FileSource",
    "Key",
    "KeyHierarchy",
    "MemorySink",
    "MemorySource",
    "ObjectFile",
    "ObjectReader",
    "ObjectWriter",
    "PassphraseKeyring",
    "Session",
    "SessionFactory",
    "StaticKeyring",
    "StreamOpener",
    "StreamSink",
    "inspect",
    "open",
    "open_file",
    "open_into",
    "rewrap_file",
    "seal",
    "seal_file",
    "seal_into",
]


def __getattr__(name: str) -> Any:
    if name == "HttpSource":
        from anyseal.objects.http import BlockingHttpSource

        return BlockingHttpSource
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
