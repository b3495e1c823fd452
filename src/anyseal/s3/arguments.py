"""What callers give, checked before anything is sent: stores take mistakes in different ways."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from anyseal.errors import ConfigurationError

__all__ = [
    "KEY_METADATA",
    "METADATA_MAX_BYTES",
    "SUITE_METADATA",
    "checked_chunk_size",
    "checked_metadata",
    "checked_slots",
    "checked_text",
    "conditions",
    "whole",
]

KEY_METADATA = "anyseal-key"
"""The partition key's id in hexadecimal, in the metadata: for people; the header counts."""

SUITE_METADATA = "anyseal-suite"

METADATA_MAX_BYTES = 2048
"""Of an object's user metadata, names and values; ours take up to 73 bytes of them."""

SLOTS_MAX = 256

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2


def whole(name: str, value: Any) -> int:
    """*value*, if it is a whole number. Raises TypeError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be int, not {type(value).__name__}")
    return value


def checked_slots(concurrency: Any) -> int:
    """Requests at the same time. Raises ConfigurationError, TypeError."""
    if not 1 <= whole("concurrency", concurrency) <= SLOTS_MAX:
        raise ConfigurationError(f"concurrency must be 1 to {SLOTS_MAX}")
    return int(concurrency)


def checked_chunk_size(chunk_size: Any) -> int:
    """Bytes that are verified together. Raises ConfigurationError, TypeError."""
    if whole("chunk_size", chunk_size) not in (1 << log2 for log2 in range(12, 25)):
        raise ConfigurationError("chunk_size must be a power of two from 4 KiB to 16 MiB")
    return int(chunk_size)


def checked_text(name: str, value: Any) -> str | None:
    """What goes into a header, or nothing.

    Raises:
        TypeError: No text.
        ConfigurationError: Empty, or no printable ASCII. An empty entity tag or version would be
            none to some stores, and the call would do more than was meant.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{name} must be str, not {type(value).__name__}")
    if not value or not value.isascii() or not value.isprintable():
        raise ConfigurationError(f"{name} must be printable ASCII, and not empty")
    return value


def conditions(if_none_match: bool, if_match: str | None) -> dict[str, str]:
    """The conditions of a write, by S3's names.

    Raises:
        ValueError: Both are given, or *if_match* is not an entity tag.
        TypeError: *if_match* is no text.
    """
    tag = checked_text("if_match", if_match)
    if if_none_match and tag is not None:
        raise ValueError("if_none_match and if_match exclude each other")
    if tag is not None and tag.startswith("W/"):
        raise ValueError("if_match needs a strong entity tag: a weak one (W/...) matches nothing")
    if if_none_match:
        return {"IfNoneMatch": "*"}
    return {} if tag is None else {"IfMatch": tag}


def checked_metadata(
    given: Mapping[str, str] | None, ours: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The caller's metadata, and *ours*.

    Raises:
        TypeError: Not a mapping of str to str.
        ConfigurationError: Too long, not printable ASCII, no name for a header, the same name
            twice (S3 keeps them in lower case), or one of our names.
    """
    if given is not None and not isinstance(given, Mapping):
        raise TypeError("metadata must be a mapping of str to str")
    metadata = dict(given or {})
    seen: set[str] = set()
    for name, value in metadata.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError("metadata must be a mapping of str to str")
        if not value.isascii() or not value.isprintable():
            raise ConfigurationError("metadata in S3 is printable ASCII")
        if _NAME.fullmatch(name) is None:
            raise ConfigurationError("names in metadata are of ASCII letters, digits and -_.")
        if name.lower() in (KEY_METADATA, SUITE_METADATA):
            raise ConfigurationError(f"metadata must not contain {name}: it is ours")
        if name.lower() in seen:
            raise ConfigurationError(f"metadata has {name} twice: S3 keeps names in lower case")
        seen.add(name.lower())
    metadata.update(ours or {})
    if sum(len(name) + len(value) for name, value in metadata.items()) > METADATA_MAX_BYTES:
        raise ConfigurationError(f"metadata is longer than {METADATA_MAX_BYTES:,} bytes with ours")
    return metadata
