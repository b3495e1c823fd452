"""``anyseal inspect``: what a header says, without a key."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from anyseal.aio import inspect
from anyseal.cli.process import CliError, Input
from anyseal.errors import FormatError
from anyseal.objects.format import HEADER_MAX_BYTES, ObjectInfo
from anyseal.objects.geometry import Geometry
from anyseal.value import ValueInfo

__all__ = ["describe", "report"]

READ_BYTES = 1 << 20


def describe(source: Input, path: Path | None) -> dict[str, Any]:
    """The header of a sealed value or object as a dictionary; nothing of it is verified.

    Args:
        source: Where it is read from.
        path: The same as a regular file, whose length is then known without reading it.

    Raises:
        FormatError: Neither a value nor an object.
    """
    pieces = source.pieces(READ_BYTES)
    first = next(pieces, memoryview(b""))
    head, size = bytes(first[:HEADER_MAX_BYTES]), len(first)
    info = inspect(head)
    size = path.stat().st_size if path is not None else size + sum(map(len, pieces))
    if isinstance(info, ValueInfo):
        return _value(info, len(head), size)
    return _object(info, size)


def _value(info: ValueInfo, seen: int, size: int) -> dict[str, Any]:
    info = dataclasses.replace(info, size=info.size + size - seen)
    return {
        "type": "value",
        "kind": info.kind.name.lower(),
        "suite": info.suite.name,
        "key_id": info.key_id.hex(),
        "expires_at": info.expires_at.isoformat() if info.expires_at else None,
        "sealed_bytes": size,
        "plaintext_bytes": info.size,
    }


def _object(info: ObjectInfo, size: int) -> dict[str, Any]:
    geometry = Geometry(
        chunk_bytes=info.chunk_bytes,
        segment_bytes=info.segment_bytes,
        tag_bytes=info.suite.tag_bytes,
        header_bytes=info.header_bytes,
    )
    plaintext: int | None
    try:
        plaintext = geometry.plaintext_size(size)
    except FormatError:  # cut or extended; opening says so
        plaintext = None
    return {
        "type": "object",
        "suite": info.suite.name,
        "key_id": info.key_id.hex(),
        "chunk_bytes": info.chunk_bytes,
        "segment_bytes": info.segment_bytes,
        "segments": None if plaintext is None else geometry.segments(plaintext),
        "header_bytes": info.header_bytes,
        "sealed_bytes": size,
        "plaintext_bytes": plaintext,
    }


def report(found: dict[str, Any], *, as_json: bool) -> str:
    """*found* for a program or for a person."""
    if as_json:
        return json.dumps(found, indent=2)
    if not found:
        raise CliError("nothing to show", 1)
    lines = []
    for name, value in found.items():
        text = f"{value:,}" if isinstance(value, int) else value
        if value is None:
            text = "never" if name == "expires_at" else "unknown: cut or extended"
        lines.append(f"{name.replace('_', ' '):<16} {text}")
    return "\n".join([*lines, "Nothing of this is verified before opening."])
