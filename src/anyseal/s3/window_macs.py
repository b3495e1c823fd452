"""What the windows of an unfinished download are known by, when the file is read again.

Opening a window gives its plaintext once; a MAC of that costs about 50 us for each MiB, on the
thread that opened it. The sum of all windows' MACs is all that has to be kept of them.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["WindowMacs"]

_NONCE_BYTES = 12


class WindowMacs:
    """MACs of windows, under keys that no other file has.

    A step's MAC is GMAC, whose nonce is where the step begins; a window's is HMAC-SHA256 over its
    number and its steps' MACs. GMAC alone is linear: changes in two windows could cancel out in
    the sum.

    Args:
        step_key: 32 bytes, of one sealing and one part file: a step is always of the same bytes.
        window_key: Another 32.
    """

    def __init__(self, step_key: bytes, window_key: bytes) -> None:
        self._gmac = AESGCM(step_key)
        self._window_key = window_key

    def step(self, start: int, plain: Any) -> bytes:
        """The MAC of *plain*, which begins at *start*."""
        return self._gmac.encrypt(start.to_bytes(_NONCE_BYTES), b"", plain)

    def window(self, number: int, steps: Sequence[bytes]) -> int:
        """What window *number* adds to the sum, by exclusive or."""
        data = number.to_bytes(8) + b"".join(steps)
        return int.from_bytes(hmac.digest(self._window_key, data, hashlib.sha256))
