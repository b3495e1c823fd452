"""The same without AES in the CPU, where libsodium has no AES-GCM."""

from __future__ import annotations

import binascii
import os
import time

from anyseal._ffi import lib
from anyseal.config import KEY_BYTES
from anyseal.errors import DecryptionError, FormatError
from anyseal.record.fields import BLOB_OVERHEAD
from anyseal.record.parsing import ParsedRow
from anyseal.record.row_key import RowKey

__all__ = ["open_blob", "open_row", "seal_blob", "seal_row"]


def seal_blob(data: bytes, key: bytes) -> bytes:
    """*data* under *key*: ciphertext, tag and nonce."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(12)
    return AESGCM(key).encrypt(nonce, data, None) + nonce


def open_blob(blob: bytes, key: bytes) -> bytes:
    """What :func:`seal_blob` sealed. Raises DecryptionError."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(key).decrypt(blob[-12:], blob[:-12], None)
    except InvalidTag:
        raise DecryptionError from None


def seal_row(data: bytes, row_key: RowKey, created: int) -> bytes:
    """A row; with a negative *created* of now."""
    drk = os.urandom(KEY_BYTES)
    return b"".join(
        (
            b'{"Key":{"Created":%d,"Key":"' % (int(time.time()) if created < 0 else created),
            binascii.b2a_base64(seal_blob(drk, row_key.slot.export()), newline=False),
            row_key.middle,
            binascii.b2a_base64(seal_blob(data, drk), newline=False),
            b'"}',
        )
    )


def open_row(parsed: ParsedRow, row_key: RowKey) -> bytes:
    """The data of a row."""
    blob = bytes(parsed.size + BLOB_OVERHEAD)
    if lib.anyseal_base64_decode(blob, len(blob), parsed.data, parsed.data_len):
        raise FormatError("Data is not base64")
    return open_blob(blob, open_blob(parsed.wrapped, row_key.slot.export()))
