"""What the functions raise: anyseal's errors that are those of ``cryptography`` as well."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature, InvalidTag

from anyseal.errors import DecryptionError

__all__ = ["InvalidSignatureError", "InvalidTagError"]


class InvalidSignatureError(DecryptionError, InvalidSignature):
    """An HMAC does not verify: the ciphertext was altered, or the key is another."""


class InvalidTagError(DecryptionError, InvalidTag):
    """A token or a wrapped key does not open: altered, or another master key."""
