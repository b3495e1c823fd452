"""The master key, and what it seals: wrapped user keys and upload tokens.

``nonce 12 ‖ AES-256-GCM ciphertext ‖ tag 16`` under the 32 bytes in ``MASTER_KEY``, without
associated data. Wrapped keys have 60 bytes and tokens 80, so that neither passes for the other.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from anyseal.compat.lenzeye.errors import InvalidTagError
from anyseal.errors import ConfigurationError
from anyseal.pages import copied

__all__ = [
    "create_upload_token",
    "decrypt_upload_token",
    "get_master_key",
    "has_master_key",
]

KEY_BYTES = 32
IV_BYTES = 16
PART_SIZE_MAX = (1 << 32) - 1
_NONCE_BYTES = 12
_TAG_BYTES = 16
_TOKEN_BYTES = KEY_BYTES + IV_BYTES + 4
_HEX_KEY = re.compile(r"[0-9a-fA-F]{64}")


def has_master_key() -> bool:
    """Whether ``MASTER_KEY`` is set and well formed."""
    return _HEX_KEY.fullmatch(os.environ.get("MASTER_KEY", "")) is not None


def get_master_key() -> bytes:
    """The 32 bytes that the environment variable ``MASTER_KEY`` holds in hexadecimal.

    Read from the environment at each call, kept nowhere.

    Raises:
        ConfigurationError: It is not set, or not 64 hexadecimal characters.
    """
    text = os.environ.get("MASTER_KEY")
    if not text:
        raise ConfigurationError("MASTER_KEY is not set: it takes 64 hexadecimal characters")
    if _HEX_KEY.fullmatch(text) is None:
        raise ConfigurationError("MASTER_KEY must be 64 hexadecimal characters (32 bytes)")
    return bytes.fromhex(text)


def seal_under_master(plaintext: bytes) -> bytes:
    """``nonce ‖ ciphertext ‖ tag`` under the master key."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(get_master_key()).encrypt(nonce, plaintext, None)


def open_under_master(sealed: bytes, size: int) -> bytes:
    """The *size* bytes of plaintext in *sealed*, or InvalidTagError."""
    master = get_master_key()
    sealed = copied(sealed)  # AES-GCM reads it twice
    if len(sealed) != _NONCE_BYTES + size + _TAG_BYTES:
        raise InvalidTagError
    try:
        return AESGCM(master).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)
    except InvalidTag:
        raise InvalidTagError from None


def to_text(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_text(text: str) -> bytes | None:
    """What :func:`to_text` was given; None if *text* is not exactly what it returns."""
    if not isinstance(text, str):
        raise TypeError(f"expected str, not {type(text).__name__}")
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_")
    except (binascii.Error, ValueError):
        return None
    return data if to_text(data) == text else None


def check_bytes(name: str, value: Any, size: int) -> bytes:
    """*value* as bytes, if it has exactly *size* of them."""
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError(f"{name} must be bytes-like, not {type(value).__name__}")
    given = bytes(value)
    if len(given) != size:
        raise ValueError(f"{name} must have {size} bytes, not {len(given)}")
    return given


def check_part_size(part_size: Any) -> int:
    """*part_size*, if it fits its four bytes."""
    if isinstance(part_size, bool) or not isinstance(part_size, int):
        raise TypeError("part_size must be an int")
    if not 1 <= part_size <= PART_SIZE_MAX:
        raise ValueError(f"part_size must be 1 to {PART_SIZE_MAX:,} bytes")
    return part_size


def create_upload_token(key: bytes, iv: bytes, part_size: int) -> str:
    """Seal what a worker needs for any part of an upload: no look-up per part.

    Args:
        key: The user's key, 32 bytes.
        iv: The upload's first counter block, 16 random bytes, never used for another upload.
        part_size: Plaintext bytes of every part but the last, 1 to 2**32 - 1.

    Returns:
        ``key 32 ‖ iv 16 ‖ part_size u32 big-endian`` sealed with AES-256-GCM under the master key,
        nonce first: 80 bytes, as 107 characters of base64url without padding.

    Raises:
        ConfigurationError: ``MASTER_KEY`` is missing or malformed.
        ValueError: A length is wrong.

    Cost: a few microseconds; no event loop, no table.
    """
    plaintext = check_bytes("key", key, KEY_BYTES) + check_bytes("iv", iv, IV_BYTES)
    return to_text(seal_under_master(plaintext + check_part_size(part_size).to_bytes(4)))


def decrypt_upload_token(token: str) -> tuple[bytes, bytes, int]:
    """What :func:`create_upload_token` was given: ``(key, iv, part_size)``.

    Raises:
        InvalidTagError: Altered, not a token, or of another master key. Also an ``InvalidTag`` of
            ``cryptography``.
        ConfigurationError: ``MASTER_KEY`` is missing or malformed.
    """
    sealed = from_text(token)
    if sealed is None:
        raise InvalidTagError
    plaintext = open_under_master(sealed, _TOKEN_BYTES)
    key, rest = plaintext[:KEY_BYTES], plaintext[KEY_BYTES:]
    return key, rest[:IV_BYTES], int.from_bytes(rest[IV_BYTES:])
