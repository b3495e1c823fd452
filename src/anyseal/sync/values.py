"""Values without ``await``: the plain functions, under a key or a keyring."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from anyseal import offload
from anyseal.keys import Key
from anyseal.ports import Keyring, LocalKeyring, resolve_partition
from anyseal.suites import Suite
from anyseal.value import (
    check_text_size,
    from_text,
    key_id_of,
    open_under,
    open_under_into,
    seal_under,
    seal_under_into,
    to_text,
)

__all__ = [
    "current_key",
    "named_key",
    "open",
    "open_into",
    "open_text",
    "seal",
    "seal_into",
    "seal_text",
]


def current_key(key: Key | Keyring, partition: str | None) -> Key:
    """The key to seal with."""
    name = resolve_partition(key, partition)
    if isinstance(key, Key):
        return key
    hit = key.current_hit(name)
    if hit is not None:
        return hit
    if isinstance(key, LocalKeyring):
        return key.current_local(name)
    return offload.wait(key.current, name)


def named_key(key: Key | Keyring, partition: str | None, key_id: bytes) -> Key:
    """The key that something sealed names."""
    name = resolve_partition(key, partition)
    if isinstance(key, Key):
        return key
    hit = key.get_hit(name, key_id)
    if hit is not None:
        return hit
    if isinstance(key, LocalKeyring):
        return key.get_local(name, key_id)
    return offload.wait(key.get, name, key_id)


def seal(
    data: Any,
    key: Key | Keyring,
    *,
    partition: str | None = None,
    context: Any = b"",
    suite: Suite | str | None = None,
    expires_at: float | datetime | None = None,
) -> bytes:
    """Seal one value: :func:`anyseal.seal` without ``await``, in the caller's thread."""
    if type(key) is not Key or partition is not None:
        key = current_key(key, partition)
    return seal_under(data, key, context, suite, expires_at)


def seal_into(
    buffer: Any,
    data: Any,
    key: Key | Keyring,
    *,
    partition: str | None = None,
    context: Any = b"",
    suite: Suite | str | None = None,
    expires_at: float | datetime | None = None,
) -> int:
    """Seal one value into *buffer*: :func:`anyseal.seal_into` without ``await``."""
    key = current_key(key, partition)
    return seal_under_into(buffer, data, key, context, suite, expires_at)


def open(
    sealed: Any,
    key: Key | Keyring,
    *,
    partition: str | None = None,
    context: Any = b"",
) -> bytes:
    """Open one value: :func:`anyseal.open` without ``await``, in the caller's thread."""
    if type(key) is not Key or partition is not None:
        key = named_key(key, partition, key_id_of(sealed))
    return open_under(sealed, key, context)


def open_into(
    buffer: Any,
    sealed: Any,
    key: Key | Keyring,
    *,
    partition: str | None = None,
    context: Any = b"",
) -> int:
    """Open one value into *buffer*: :func:`anyseal.open_into` without ``await``."""
    key = named_key(key, partition, key_id_of(sealed))
    return open_under_into(buffer, sealed, key, context)


def seal_text(
    data: Any,
    key: Key | Keyring,
    *,
    partition: str | None = None,
    context: Any = b"",
    suite: Suite | str | None = None,
    expires_at: float | datetime | None = None,
) -> str:
    """Seal one value as text: :func:`anyseal.seal_text` without ``await``."""
    check_text_size(data, suite)
    return to_text(
        seal(data, key, partition=partition, context=context, suite=suite, expires_at=expires_at)
    )


def open_text(
    text: str,
    key: Key | Keyring,
    *,
    partition: str | None = None,
    context: Any = b"",
) -> bytes:
    """Open one value that is text: :func:`anyseal.open_text` without ``await``."""
    return open(from_text(text), key, partition=partition, context=context)
