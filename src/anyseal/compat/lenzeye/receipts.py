"""The MACs of parts and of the object that they make, and the receipts that carry them.

An HMAC over a whole file must be computed front to back, in one place. Parts that are encrypted in
any order by several workers are authenticated one by one; the object's MAC covers the parts' MACs
in their order::

    derive(purpose, data) = HKDF-SHA256(user key, no salt,
                                        info "anyseal lenzeye v1 " ‖ purpose ‖ 00 ‖ data)
    part MAC    = HMAC-SHA256(derive("part", iv),
                              number u32 ‖ offset u64 ‖ length u64 ‖ ciphertext)
    object MAC  = HMAC-SHA256(derive("object", iv),
                              part_size u32 ‖ parts u32 ‖ size u64 ‖ part MACs)
    receipt     = number u32 ‖ length u32 ‖ part MAC ‖ ETag ‖ receipt MAC
    receipt MAC = HMAC-SHA256(derive("receipt", iv ‖ part_size u32 ‖ upload id),
                              what is before it)

Integers are big-endian. A receipt is text: base64url without padding. No key of these is the one
that encrypts.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from anyseal.compat.lenzeye.errors import InvalidSignatureError
from anyseal.compat.lenzeye.master import IV_BYTES, from_text, to_text

__all__ = ["MAC_BYTES", "Receipt", "issue", "object_mac", "part_mac", "redeem"]

MAC_BYTES = 32
_FIXED_BYTES = 8 + 2 * MAC_BYTES
_ETAG_MAX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One part as it was encrypted and uploaded."""

    number: int
    length: int
    etag: str
    mac: bytes


def _derive(key: bytes, purpose: bytes, data: bytes) -> bytes:
    info = b"anyseal lenzeye v1 " + purpose + b"\0" + data
    return HKDF(hashes.SHA256(), 32, None, info).derive(key)


def part_mac(key: bytes, iv: bytes, number: int, offset: int, length: int) -> Any:
    """The HMAC of a part, to be fed with its ciphertext."""
    head = number.to_bytes(4) + offset.to_bytes(8) + length.to_bytes(8)
    return hmac.new(_derive(key, b"part", iv), head, hashlib.sha256)


def object_mac(key: bytes, iv: bytes, part_size: int, size: int, macs: Sequence[bytes]) -> bytes:
    """The MAC of the object that these parts make."""
    head = part_size.to_bytes(4) + len(macs).to_bytes(4) + size.to_bytes(8)
    return hmac.digest(_derive(key, b"object", iv), head + b"".join(macs), "sha256")


def _receipt_mac(key: bytes, iv: bytes, part_size: int, upload_id: str, body: bytes) -> bytes:
    assert len(iv) == IV_BYTES
    bound = iv + part_size.to_bytes(4) + upload_id.encode()
    return hmac.digest(_derive(key, b"receipt", bound), body, "sha256")


def issue(key: bytes, iv: bytes, part_size: int, upload_id: str, receipt: Receipt) -> str:
    """*receipt* as text that only a holder of *key* can make."""
    body = receipt.number.to_bytes(4) + receipt.length.to_bytes(4) + receipt.mac
    body += receipt.etag.encode()
    return to_text(body + _receipt_mac(key, iv, part_size, upload_id, body))


def redeem(key: bytes, iv: bytes, part_size: int, upload_id: str, text: str) -> Receipt:
    """What :func:`issue` was given. Raises InvalidSignatureError."""
    data = from_text(text)
    if data is None or not _FIXED_BYTES <= len(data) <= _FIXED_BYTES + _ETAG_MAX:
        raise InvalidSignatureError
    body, mac = data[:-MAC_BYTES], data[-MAC_BYTES:]
    if not hmac.compare_digest(_receipt_mac(key, iv, part_size, upload_id, body), mac):
        raise InvalidSignatureError
    return Receipt(
        number=int.from_bytes(body[:4]),
        length=int.from_bytes(body[4:8]),
        mac=body[8 : 8 + MAC_BYTES],
        etag=body[8 + MAC_BYTES :].decode(),
    )
