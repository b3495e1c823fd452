"""What was meant instead: errors for an argument of the wrong type that end in the remedy.

Only types, and the first bytes of data that is not ours, are looked at: no message holds data.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

__all__ = [
    "Misuse",
    "MisuseError",
    "as_path",
    "check_callable",
    "foreign",
    "not_bytes",
    "not_hierarchy",
    "not_keyring",
    "not_kms",
    "not_metastore",
    "not_record",
    "not_sink",
    "not_source",
    "not_stream",
    "only_async_with",
    "use_async_with",
    "use_with",
    "wrong_type",
]

_SHARED = ("Redis", "Engine", "S3", "DynamoDB", "Session")
"""Names of classes of several packages."""

_FOREIGN = (
    (b"gAAAAA", "a Fernet token: cryptography.fernet opens it"),
    (b"ANYSEAL\x01", "a sealed object: ObjectReader or open_file() opens it"),
    (b"\xa5\x01\x00", "a sealed value: open() opens it"),
    (b"\xa5\x01\x02", "an upload token: it goes to the calls of an upload"),
    (b"pQEA", "a sealed value as base64: open_text() opens what seal_text() gave"),
    (b"pQEC", "the text of an upload token: it goes to the calls of an upload"),
    (b"a50100", "a sealed value in hexadecimal: bytes.fromhex() first"),
    (b"A50100", "a sealed value in hexadecimal: bytes.fromhex() first"),
    (b"QU5ZU0VBT", "a sealed object as base64: decode it first"),
    (b"b'", "the repr of bytes: store the bytes, or the text of seal_text()"),
    (b'b"', "the repr of bytes: store the bytes, or the text of seal_text()"),
    (b"\\x", "hexadecimal of a database: bytes.fromhex(text[2:]) first"),
    (b"{", "JSON: a session's decrypt() opens records"),
)


def foreign(data: Any, *, but: bytes = b"") -> str:
    """What *data* (text, or bytes) looks like, to follow "not a ..."; of *but* it is known that it
    is not that."""
    head = data[:16].encode("ascii", "replace") if isinstance(data, str) else bytes(data[:16])
    if not head:
        return ", but empty"
    looks = (what for start, what in _FOREIGN if head.startswith(start) and start != but)
    return next((f", but {what}" for what in looks), "")


def wrong_type(name: str, expected: str, given: Any, remedy: str = "") -> TypeError:
    """*name* must be *expected*, and *given* is not."""
    if isinstance(given, type):
        return TypeError(f"{name} must be {expected}, not the class {given.__name__}: make one")
    if hasattr(type(given), "__await__") and not remedy:
        remedy = "await it first; in anyseal.sync nothing is awaited"
    kind = type(given).__name__
    module = type(given).__module__.partition(".")[0]
    if module not in ("anyseal", "builtins", "pathlib") and kind in _SHARED:
        kind = f"{type(given).__module__}.{kind}"
    return TypeError(f"{name} must be {expected}, not {kind}" + (f": {remedy}" if remedy else ""))


def not_bytes(data: Any, name: str = "data") -> TypeError:
    """For *data* that is not bytes-like."""
    remedy = ""
    if isinstance(data, str):
        remedy = {
            "sealed": "open_text() opens what seal_text() gave; open_file() takes a path",
            "key": "Key.from_hex() takes hexadecimal text",
        }.get(name, "encode it first, text.encode()")
    elif isinstance(data, os.PathLike):
        remedy = "seal_file() and open_file() take paths"
    elif isinstance(data, (dict, list, tuple)):
        remedy = "serialise it first, such as json.dumps(data).encode()"
    elif hasattr(data, "read"):
        remedy = "read it first; ObjectWriter and StreamOpener take streams"
    return wrong_type(name, "bytes-like", data, remedy)


def not_record(row: Any) -> TypeError:
    """For a record that is neither text nor bytes."""
    remedy = ""
    if row is None:
        remedy = "the database has no row, or NULL: look before decrypting"
    elif isinstance(row, Mapping):
        remedy = "json.dumps(record) first (a JSON column has parsed it)"
    return wrong_type("a record", "str or bytes", row, remedy)


def not_keyring(given: Any) -> TypeError:
    """For what is neither a Key nor a Keyring."""
    remedy = ""
    if isinstance(given, (str, bytes, bytearray)):
        remedy = "StaticKeyring(master_key) or Key.from_hex(text) makes one"
    elif hasattr(given, "hierarchy"):
        remedy = "its hierarchy is one: factory.hierarchy"
    elif hasattr(given, "unwrap"):
        remedy = "KeyHierarchy(kms, metastore, service=..., product=...) makes one"
    elif isinstance(given, Mapping):
        remedy = "SessionFactory.from_config(settings).hierarchy is one"
    elif given is None:
        remedy = "StaticKeyring.from_env() reads one from the environment"
    return wrong_type("the key", "a Key or a Keyring", given, remedy)


def not_hierarchy(given: Any) -> TypeError:
    """For what a session factory cannot work with."""
    if isinstance(given, (Mapping, str, os.PathLike)):
        remedy = "SessionFactory.from_config() takes settings or the path of a file"
    else:
        remedy = (
            "KeyHierarchy(kms, metastore, service=..., product=...) makes one, and "
            "SessionFactory.from_config() and .from_env() make both; a Key or another keyring "
            "goes to seal() and open()"
        )
    return wrong_type("hierarchy", "a KeyHierarchy", given, remedy)


def not_kms(given: Any) -> TypeError:
    """For what cannot wrap keys."""
    if hasattr(given, "load_latest"):
        remedy = "the order is KeyHierarchy(kms, metastore)"
    else:
        remedy = "AwsKms and VaultTransitKms are, and StaticKms(master_key) for tests"
    return wrong_type("kms", "an object with async wrap and unwrap", given, remedy)


def not_metastore(given: Any) -> TypeError:
    """For what cannot keep wrapped keys."""
    remedy = "SqlMetastore(url), DynamoDbMetastore and MemoryMetastore are"
    if hasattr(given, "dialect") or hasattr(given, "sync_engine"):
        remedy = "SqlMetastore(engine) makes one of a sync Engine"
    return wrong_type(
        "metastore", "an object with async load, load_latest and store", given, remedy
    )


def _face(given: Any, waits: bool, methods: tuple[str, str]) -> str:
    """For an object of the other face; *methods* are of the async and the blocking one."""
    if not waits and hasattr(given, methods[0]):
        return "it is an async one: take it from anyseal.sync"
    return ""


def not_source(given: Any, *, waits: bool) -> TypeError:
    """For what no sealed object can be read from."""
    remedy = _face(given, waits, ("ends", "pread_ends"))
    if isinstance(given, (str, os.PathLike)):
        remedy = "FileSource(path) makes one, HttpSource(url) another"
    elif isinstance(given, (bytes, bytearray, memoryview)):
        remedy = "MemorySource(data) makes one"
    elif not remedy and hasattr(given, "read"):
        remedy = "FileSource(path) makes one; StreamOpener opens a stream from its start"
    return wrong_type("source", "a FileSource, MemorySource or the like", given, remedy)


def not_sink(given: Any, *, waits: bool) -> TypeError:
    """For what no sealed object can be written to."""
    remedy = _face(given, waits, ("write", "append"))
    if isinstance(given, (str, os.PathLike)):
        remedy = "FileSink(path) makes one"
    elif isinstance(given, (bytes, bytearray, memoryview)):
        remedy = "MemorySink(buffer) makes one"
    elif not hasattr(given, "commit") and (hasattr(given, "write") or hasattr(given, "send")):
        remedy = "StreamSink(stream.send) makes one" if waits else "StreamSink(file) makes one"
    return wrong_type("sink", "a FileSink, MemorySink, StreamSink or the like", given, remedy)


def not_stream(given: Any, *, waits: bool) -> TypeError:
    """For what gives no pieces of bytes, one after the other."""
    remedy = ""
    if isinstance(given, (bytes, bytearray, memoryview)):
        remedy = "ObjectReader.open(MemorySource(data), key) reads it"
    elif isinstance(given, (str, os.PathLike)):
        remedy = "open_file() and ObjectReader.open(FileSource(path), key) read files"
    elif hasattr(type(given), "__aiter__" if not waits else "__iter__"):
        remedy = f"{'anyseal.sync' if waits else 'anyseal'}.StreamOpener takes it"
    kind = "an async iterable of bytes" if waits else "an iterable of bytes"
    return wrong_type("stream", kind, given, remedy)


def check_callable(name: str, given: Any, remedy: str = "") -> None:
    """Raise TypeError unless *given* can be called."""
    if not callable(given):
        raise wrong_type(name, "a function", given, remedy)


def as_path(given: Any, remedy: str = "") -> Path:
    """*given* as a Path. Raises TypeError."""
    try:
        name = os.fspath(given)
    except TypeError:
        name = None
    if isinstance(name, str):
        return Path(given)
    if isinstance(given, bytes):
        remedy = remedy or "os.fsdecode() makes one of a name in bytes"
    elif hasattr(given, "read") or hasattr(given, "write"):
        remedy = "its name, and not the open file"
    raise wrong_type("path", "str or a Path", given, remedy) from None


class MisuseError(TypeError, AttributeError):
    """The wrong kind of ``with``. An AttributeError too, so that ``hasattr`` says no."""


class Misuse:
    """In the place of ``__enter__`` or ``__aenter__``: the wrong kind of ``with`` says the right
    one. There is no ``__exit__`` beside it, so nothing takes the class for a context manager."""

    def __init__(self, remedy: str) -> None:
        self._remedy = remedy

    def __get__(self, given: Any, owner: type) -> NoReturn:
        raise MisuseError(f"{owner.__name__}: {self._remedy}") from None


only_async_with = Misuse("use `async with`")
use_async_with = Misuse("use `async with`; anyseal.sync has what goes with `with`")
use_with = Misuse("use `with`; anyseal has what goes with `async with`")
