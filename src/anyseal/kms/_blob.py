"""The wrapped form of one key under another: AES-256-GCM, ``ciphertext || tag || nonce``.

The nonce is random, 96 bits, and comes last; there is no associated data. This is the public
Asherah form: 32 bytes become 60.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from anyseal._ffi import lib, view_writable
from anyseal.config import KEY_BYTES
from anyseal.errors import KmsError

__all__ = [
    "BLOB_BYTES",
    "WRAPPED_MAX_BYTES",
    "check_key",
    "check_wrapped",
    "open_blob",
    "seal_blob",
    "wipe",
]

NONCE_BYTES = 12
BLOB_BYTES = KEY_BYTES + 16 + NONCE_BYTES
WRAPPED_MAX_BYTES = 1 << 16
"""The most that any service may make of one key; longer blobs are refused unread."""


def wipe(secret: bytearray) -> None:
    """Overwrite *secret* with zeros."""
    lib.anyseal_wipe(view_writable(secret), len(secret))


def check_key(key: bytes | bytearray) -> None:
    """Refuse to wrap anything but a key."""
    if not isinstance(key, (bytes, bytearray)):
        raise TypeError(f"key must be a bytearray, not {type(key).__name__}")
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")


def check_wrapped(wrapped: bytes) -> None:
    """Refuse what no service wrote, before anything looks at it.

    Raises:
        KmsError: Empty, or longer than any wrapped key.
    """
    if not isinstance(wrapped, (bytes, bytearray)):
        raise TypeError(f"wrapped must be bytes, not {type(wrapped).__name__}")
    if not 0 < len(wrapped) <= WRAPPED_MAX_BYTES:
        raise KmsError(f"a wrapped key of {len(wrapped):,} bytes", retryable=False)


def seal_blob(master: bytearray, key: bytes | bytearray) -> bytes:
    """*key* under *master*: 60 bytes."""
    nonce = os.urandom(NONCE_BYTES)
    return AESGCM(master).encrypt(nonce, key, None) + nonce


def open_blob(master: bytearray, blob: bytes) -> bytearray:
    """The key in *blob*.

    Raises:
        KmsError: Not 60 bytes, or it does not verify.
    """
    if len(blob) != BLOB_BYTES:
        raise KmsError(f"a wrapped key has {BLOB_BYTES} bytes, not {len(blob):,}", retryable=False)
    key = bytearray(KEY_BYTES)
    try:
        AESGCM(master).decrypt_into(blob[-NONCE_BYTES:], blob[:-NONCE_BYTES], None, key)
    except InvalidTag:
        wipe(key)
        raise KmsError("the wrapped key does not verify", retryable=False) from None
    return key
