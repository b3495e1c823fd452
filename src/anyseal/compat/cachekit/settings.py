"""Keys and other settings, from arguments and the environment, under cachekit's names."""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Sequence
from typing import Any

from anyseal.compat.cachekit.errors import ConfigurationError, KeyringConfigurationError

__all__ = ["MasterKeys", "environment_flag", "key_bytes", "master_keys", "previous_keys"]

MASTER_KEY = "CACHEKIT_MASTER_KEY"
PREVIOUS_KEYS = "CACHEKIT_PREVIOUS_MASTER_KEYS"
ROTATION_KEYS = "CACHEKIT_MASTER_KEY_ROTATION"
MAX_PREVIOUS = 3
MIN_KEY_BYTES = 32

MasterKeys = tuple[bytes, tuple[bytes, ...]]
"""The key that seals, and those that only open."""


def key_bytes(value: Any, name: str) -> bytes:
    """A master key as bytes.

    Args:
        value: Hexadecimal text, bytes, or an object with ``get_secret_value``.
        name: What to call it in an error.

    Raises:
        ConfigurationError: Not hexadecimal, or fewer than 32 bytes.
    """
    reveal = getattr(value, "get_secret_value", None)
    if reveal is not None:
        value = reveal()
    if isinstance(value, str) and re.fullmatch(r"(?:[0-9a-fA-F]{2})+", value):
        value = bytes.fromhex(value)
    if not isinstance(value, (bytes, bytearray)) or len(value) < MIN_KEY_BYTES:
        raise ConfigurationError(f"{name} must be hex-encoded, minimum 32 bytes")
    return bytes(value)


def _listed(variable: str) -> list[bytes]:
    parts = [part.strip() for part in os.environ.get(variable, "").split(",")]
    try:
        return [key_bytes(part, variable) for part in parts if part]
    except ConfigurationError as exc:
        raise KeyringConfigurationError(str(exc)) from None


def _known(key: bytes, keys: Sequence[bytes]) -> bool:
    return any(hmac.compare_digest(key, each) for each in keys)


def previous_keys(master: bytes, given: Sequence[Any] | None) -> tuple[bytes, ...]:
    """The keys that only open: *given*, or those of the environment if it is None.

    Raises:
        KeyringConfigurationError: Malformed, more than three, or *master* is among them.
    """
    if given is None:
        keys = _listed(PREVIOUS_KEYS)
    else:
        try:
            keys = [key_bytes(each, "each previous master key") for each in given]
        except ConfigurationError as exc:
            raise KeyringConfigurationError(str(exc)) from None
    if len(keys) > MAX_PREVIOUS:
        raise KeyringConfigurationError(f"at most {MAX_PREVIOUS} previous master keys")
    if _known(master, keys):
        raise KeyringConfigurationError("the master key is also among the previous ones")
    return tuple(keys)


def master_keys(
    master_key: Any, previous: Sequence[Any] | None = None, *, rotation: bool = False
) -> MasterKeys | None:
    """The keys to use; None if there is none.

    With *rotation*, the first key in ``CACHEKIT_MASTER_KEY_ROTATION`` seals, and the others in
    it open, as does the master key.

    Raises:
        ConfigurationError: A key is malformed, or there are too many.
    """
    if master_key is not None:
        master = key_bytes(master_key, "master_key")
    elif os.environ.get(MASTER_KEY):
        master = key_bytes(os.environ[MASTER_KEY], MASTER_KEY)
    else:
        return None
    older = previous_keys(master, previous)
    if not rotation:
        return master, older
    ordered: list[bytes] = []
    for key in (*_listed(ROTATION_KEYS), master, *older):
        if not _known(key, ordered):
            ordered.append(key)
    if len(ordered) > MAX_PREVIOUS + 1:
        raise KeyringConfigurationError(f"at most {MAX_PREVIOUS} previous master keys")
    return ordered[0], tuple(ordered[1:])


def environment_flag(variable: str) -> bool:
    """Whether *variable* says yes. Raises ConfigurationError unless it says yes, no or nothing."""
    value = os.environ.get(variable, "").strip().lower()
    if value in ("1", "true", "yes", "on"):
        return True
    if value in ("", "0", "false", "no", "off"):
        return False
    raise ConfigurationError(f"{variable} must be true or false")
