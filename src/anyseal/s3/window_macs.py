"""What the windows of an unfinished download are known by, when the file is read again.

Opening a window gives its plaintext once; a MAC of that costs about 50 us for each MiB, on the
thread that opened it. The sum of all windows' MACs is all that has to be kept of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["WindowMacs"]

_NONCE_BYTES = 12


class WindowMacs:
    """MACs of windows, under keys that no other file has.

    A step's MAC is GMAC, whose nonce is where the step begins; a window's is the object's own MAC
    over its number and its steps' MACs. GMAC alone is linear: changes in two windows could cancel
    out in the sum. No step's MAC is ever shown, so that reading altered bytes under the nonce of
    the true ones tells nobody of the key.

    Args:
        mac: The object's MAC of some fields, under a key in the arena.
        salt: 16 random bytes, of one part file: under them a step is always of the same bytes.
    """

    def __init__(self, mac: Callable[..., bytes], salt: bytes) -> None:
        self._mac = mac
        self._salt = salt
        self._gmac = AESGCM(mac(b"steps", salt))

    def step(self, start: int, plain: Any) -> bytes:
        """The MAC of *plain*, which begins at *start*."""
        return self._gmac.encrypt(start.to_bytes(_NONCE_BYTES), b"", plain)

    def window(self, number: int, steps: Sequence[bytes]) -> int:
        """What window *number* adds to the sum, by exclusive or."""
        return int.from_bytes(self._mac(b"window", self._salt, number.to_bytes(8), *steps))
