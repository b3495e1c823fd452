"""Ciphertext in, front to back; at its end, whether it is what the metadata says. No I/O."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any, Protocol

from anyseal.compat.lenzeye.errors import InvalidSignatureError
from anyseal.compat.lenzeye.pieces import update_mac
from anyseal.compat.lenzeye.receipts import object_mac, part_mac

__all__ = ["PartsVerifier", "SingleVerifier", "Verifier", "part_count", "part_span"]


class Verifier(Protocol):
    """What both verifiers do."""

    def feed(self, data: memoryview) -> bytes:
        """Take the next ciphertext; returns its SHA-256, to know it again by."""
        ...

    def finish(self) -> None:
        """That was all. Raises InvalidSignatureError."""
        ...


PARTS_MAX = 10_000
"""S3's limit; a size that was made up must not cost more MACs."""


def part_count(size: int, part_size: int) -> int:
    """How many parts *size* bytes make; an empty object has one."""
    return max(1, -(-size // part_size))


def part_span(number: int, size: int, part_size: int) -> tuple[int, int]:
    """Where part *number* (from 1) begins and how long it is."""
    offset = (number - 1) * part_size
    return offset, min(part_size, size - offset)


class SingleVerifier:
    """One HMAC under the user's key over everything, the iv first if it *covers_iv*."""

    def __init__(self, key: bytes, iv: bytes, expected: bytes | None, covers_iv: bool) -> None:
        self._mac = hmac.new(key, iv if covers_iv else b"", hashlib.sha256)
        self._expected = expected

    def feed(self, data: memoryview) -> bytes:
        """As :meth:`Verifier.feed`."""
        update_mac(self._mac, data)
        return hashlib.sha256(data).digest()

    def digest(self) -> bytes:
        """The HMAC of all so far."""
        return self._mac.digest()

    def finish(self) -> None:
        """As :meth:`Verifier.finish`."""
        if not hmac.compare_digest(self._mac.digest(), self._expected or b""):
            raise InvalidSignatureError


class PartsVerifier:
    """The parts' MACs, and the object's over them."""

    def __init__(self, key: bytes, iv: bytes, part_size: int, size: int, expected: bytes) -> None:
        if part_count(size, part_size) > PARTS_MAX:
            raise InvalidSignatureError
        self._key, self._iv = key, iv
        self._part_size, self._size, self._expected = part_size, size, expected
        self._macs: list[bytes] = []
        self._next(1)

    def _next(self, number: int) -> None:
        offset, length = part_span(number, self._size, self._part_size)
        self._mac: Any = part_mac(self._key, self._iv, number, offset, length)
        self._left = length

    def feed(self, data: memoryview) -> bytes:
        """As :meth:`Verifier.feed`."""
        at = 0
        while at < len(data):
            piece = data[at : at + self._left]
            update_mac(self._mac, piece)
            at += len(piece)
            self._left -= len(piece)
            if not self._left:
                self._macs.append(self._mac.digest())
                if len(self._macs) * self._part_size < self._size:
                    self._next(len(self._macs) + 1)
        return hashlib.sha256(data).digest()

    @property
    def macs(self) -> Sequence[bytes]:
        """The MACs of the parts so far."""
        if not self._size:
            return [self._mac.digest()]
        return self._macs

    def finish(self) -> None:
        """As :meth:`Verifier.finish`."""
        found = object_mac(self._key, self._iv, self._part_size, self._size, self.macs)
        if not hmac.compare_digest(found, self._expected):
            raise InvalidSignatureError
