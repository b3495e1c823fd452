"""LZ4 blocks (not frames): https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md

Writing stores literals only: a valid block that is not smaller than its content. Compressing before
encryption lets lengths tell about contents, and the readers do not ask for it.
"""

from __future__ import annotations

from anyseal.compat.cachekit.errors import EnvelopeShapeError

__all__ = ["compress", "decompress"]

MIN_MATCH = 4
MAX_HEAD_SHARE = 1 / 255
"""Of literals, what goes before them."""
ESCAPE = 15
"""A nibble of this value is continued in the bytes that follow."""


def compress(data: bytes) -> bytes:
    """A block of one run of literals: 1 + len(data) / 255 bytes longer than *data*."""
    return _head(len(data)) + data


def _head(size: int) -> bytes:
    """What goes before so many literals."""
    if size < ESCAPE:
        return bytes([size << 4])
    rest = size - ESCAPE
    return b"\xf0" + b"\xff" * (rest // 255) + bytes([rest % 255])


def _length(block: bytes, at: int, nibble: int) -> tuple[int, int]:
    """The length that begins with *nibble* and goes on at *at*, and where it ends."""
    length = nibble
    if nibble == ESCAPE:
        while True:
            byte = block[at]
            at += 1
            length += byte
            if byte != 255:
                break
    return length, at


def decompress(block: bytes, size: int) -> bytes:
    """The content of *block*, exactly *size* bytes.

    Args:
        block: A whole block.
        size: What the content must come to, in bytes; never more than this is allocated.

    Raises:
        EnvelopeShapeError: Not a block, or of another size.

    Cost: Python code for each sequence, about 0.5 us; runs of literals and long matches are copied
    whole.
    """
    start = len(block) - size
    if 0 < start <= MAX_HEAD_SHARE * size + 2 and block[:start] == _head(size):
        return block[start:]  # nothing but literals, as we write it
    out = bytearray()
    at, end = 0, len(block)
    try:
        while True:
            token = block[at]
            length, at = _length(block, at + 1, token >> 4)
            if length > end - at or length > size - len(out):
                raise EnvelopeShapeError("malformed LZ4 block")
            out += block[at : at + length]
            at += length
            if at == end:
                break
            offset = block[at] | block[at + 1] << 8
            length, at = _length(block, at + 2, token & 15)
            _copy_match(out, offset, length + MIN_MATCH, size)
    except IndexError:
        raise EnvelopeShapeError("malformed LZ4 block") from None
    if len(out) != size:
        raise EnvelopeShapeError("LZ4 block of another size than declared")
    return bytes(out)


def _copy_match(out: bytearray, offset: int, length: int, size: int) -> None:
    """Append *length* bytes from *offset* before the end, which may overlap what is appended."""
    if not 0 < offset <= len(out) or length > size - len(out):
        raise EnvelopeShapeError("malformed LZ4 block")
    start = len(out) - offset
    if offset >= length:
        out += out[start : start + length]
    else:
        period = bytes(out[start:])
        out += (period * (length // offset + 1))[:length]
