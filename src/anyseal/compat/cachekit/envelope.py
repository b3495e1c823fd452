"""What surrounds a serialised value: the ByteStorage envelope, and a bare checksum."""

from __future__ import annotations

import functools
import hmac
from typing import Any

from anyseal.compat.cachekit import lz4
from anyseal.compat.cachekit.errors import EnvelopeShapeError
from anyseal.compat.cachekit.extras import extra

__all__ = ["MAX_BYTES", "MAX_RATIO", "check", "checked", "pack", "unpack"]

MAX_BYTES = 512 << 20
"""Of an envelope's content, compressed and not."""

MAX_RATIO = 1000
"""How many times larger than the block its content may be."""

CHECKSUM_BYTES = 8
TAIL_MAX_BYTES = 48
"""Behind an envelope's block: checksum, size and format."""
_WIDTHS = {0xC4: 1, 0xC5: 2, 0xC6: 4}


def checksum(data: bytes) -> bytes:
    """XXH3-64 of *data*, big-endian. It finds accidents, not attacks."""
    return bytes(extra("xxhash").xxh3_64_digest(data))


def checked(data: bytes) -> bytes:
    """*data* after its checksum."""
    return checksum(data) + data


def check(stored: bytes) -> bytes:
    """What :func:`checked` was given. Raises EnvelopeShapeError if it is not that."""
    if len(stored) < CHECKSUM_BYTES:
        raise EnvelopeShapeError("the entry is cut off")
    data = stored[CHECKSUM_BYTES:]
    if not hmac.compare_digest(checksum(data), stored[:CHECKSUM_BYTES]):
        raise EnvelopeShapeError("the entry's checksum is wrong")
    return data


def _uint(value: int) -> bytes:
    if value < 0x80:
        return bytes([value])
    for first, width in ((0xCC, 1), (0xCD, 2), (0xCE, 4)):
        if value < 1 << 8 * width:
            return bytes([first]) + value.to_bytes(width)
    raise EnvelopeShapeError("too large for an envelope")


_BYTES = [_uint(byte) for byte in range(256)]


def _bin_head(size: int) -> bytes:
    for first, width in ((0xC4, 1), (0xC5, 2), (0xC6, 4)):
        if size < 1 << 8 * width:
            return bytes([first]) + size.to_bytes(width)
    raise EnvelopeShapeError("too large for an envelope")


def pack(data: bytes, format: str = "msgpack") -> bytes:
    """*data* in an envelope: MessagePack ``[block, checksum, size, format]``.

    Raises:
        EnvelopeShapeError: More than 512 MiB.
    """
    block = lz4.compress(data)
    if len(block) > MAX_BYTES:
        raise EnvelopeShapeError(f"more than {MAX_BYTES} bytes")
    parts = [b"\x94", _bin_head(len(block)), block, b"\x98"]
    parts += [_BYTES[byte] for byte in checksum(data)]
    name = format.encode()
    return b"".join([*parts, _uint(len(data)), bytes([0xA0 | len(name)]), name])


class _Cursor:
    """Reads the few MessagePack types that an envelope is made of."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise EnvelopeShapeError("the envelope is cut off")
        self._at += size
        return self._data[self._at - size : self._at]

    def _head(self, fixed: int, mask: int, wide: dict[int, int]) -> int | None:
        first = self._data[self._at] if self.left else -1
        if first in wide:
            self.take(1)
            return int.from_bytes(self.take(wide[first]))
        if first & ~mask == fixed:
            self.take(1)
            return first & mask
        return None

    def uint(self) -> int:
        found = self._head(0, 0x7F, {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8})
        if found is None:
            raise EnvelopeShapeError("the envelope holds no number where one belongs")
        return found

    def blob(self) -> bytes:
        """Bytes; older writers spell them as an array of numbers."""
        first = self._data[self._at] if self.left else -1
        wide = {0xC4: 1, 0xC5: 2, 0xC6: 4}
        if first in wide:
            self.take(1)
            return self.take(int.from_bytes(self.take(wide[first])))
        count = self._head(0x90, 0x0F, {0xDC: 2, 0xDD: 4})
        if count is None or count > self.left:
            raise EnvelopeShapeError("the envelope holds no bytes where they belong")
        out = bytearray()
        for _ in range(count):
            byte = self.uint()
            if byte > 255:
                raise EnvelopeShapeError("the envelope holds a number that is no byte")
            out.append(byte)
        return bytes(out)

    def text(self) -> str:
        size = self._head(0xA0, 0x1F, {0xD9: 1})
        if size is None:
            raise EnvelopeShapeError("the envelope holds no text where it belongs")
        return self.take(size).decode("ascii", "replace")


def unpack(envelope: bytes, format: str = "msgpack") -> bytes:
    """The content of an envelope.

    Raises:
        EnvelopeShapeError: Not an envelope, of another format, larger than 512 MiB, more than 1000
            times larger than its block, or its checksum is wrong.
    """
    usual = _usual(envelope, format)
    if usual is not None:
        return _content(*usual)
    cursor = _Cursor(envelope)
    if len(envelope) > 2 * MAX_BYTES + 64 or cursor.take(1) != b"\x94":
        raise EnvelopeShapeError("not an envelope")
    block, digest = cursor.blob(), cursor.blob()
    size, name = cursor.uint(), cursor.text()
    if cursor.left or len(digest) != CHECKSUM_BYTES or name != format:
        raise EnvelopeShapeError("not an envelope of this format")
    return _content(block, digest, size)


def _usual(envelope: bytes, format: str) -> tuple[bytes, bytes, int] | None:
    """Block, checksum and size of an envelope as today's writers make it; None for any other."""
    width = _WIDTHS.get(envelope[1]) if len(envelope) > TAIL_MAX_BYTES else None
    if width is None or envelope[0] != 0x94:
        return None
    end = 2 + width + int.from_bytes(envelope[2 : 2 + width])
    tail = envelope[end:]
    # Eight numbers, a number and a text: nothing else begins so, and nothing large fits.
    if not 0 < len(tail) <= TAIL_MAX_BYTES or tail[0] != 0x98:
        return None
    try:
        digest, size, name = _decoder().decode(b"\x93" + tail)
        checksum = bytes(digest)
    except ValueError:  # msgspec's errors among them
        return None
    return (envelope[2 + width : end], checksum, size) if name == format and size >= 0 else None


@functools.cache
def _decoder() -> Any:
    return extra("msgspec").msgpack.Decoder(tuple[list[int], int, str])


def _content(block: bytes, digest: bytes, size: int) -> bytes:
    """The content of a block. Raises EnvelopeShapeError."""
    if len(block) > MAX_BYTES or size > MAX_BYTES or size > MAX_RATIO * len(block):
        raise EnvelopeShapeError("the envelope declares too much")
    data = lz4.decompress(block, size)
    if not hmac.compare_digest(checksum(data), digest):
        raise EnvelopeShapeError("the envelope's checksum is wrong")
    return data
