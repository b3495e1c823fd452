"""Compression over any codec, where it gains and where it is safe.

Layout::

    what the codec wrote   0
    compressed stream   8 length of what the codec wrote   number of the algorithm

What steers reading stands last, so that plain data begins where the bytes do.
"""

from __future__ import annotations

import functools
import sys
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

from anyseal.cache.codecs.base import Codec, check_bytes, check_name
from anyseal.cache.codecs.steps import (
    INLINE_BYTES,
    Steps,
    decoding,
    encoding,
    encoding_result,
    light,
    light_result,
)
from anyseal.errors import ConfigurationError, FormatError, MissingExtraError

__all__ = ["Compressed"]

_PLAIN = 0
_TRAILER_BYTES = 9
_ENOUGH = 0.9
"""What a sample must shrink to for the whole to be compressed."""

_PIECES = 4


class Compressed:
    """Compresses what *codec* writes, if a sample of it shrinks.

    Never on by itself: the length of compressed data tells of its content. Whoever can put text
    of their choice beside a secret in one value, and see how long the entry became, can find the
    secret out guess by guess. Use it for values that hold nothing of others beside a secret, such
    as reports, or pages that are the same for everyone.

    Args:
        codec: The codec whose bytes are compressed, or its name.
        algorithm: ``zlib``, or ``zstd`` (Python 3.14, or the package zstandard).
        level: The algorithm's own; default its usual one.
        min_size: Shorter values are stored plain. Bytes.
        sample_bytes: How much of a longer value is tried first.
        max_size: Longer values are stored plain, and what claims to be longer is refused. Bytes.

    Raises:
        ConfigurationError: *codec* is none, a setting is out of bounds or of another type, or
            zstd is not there.

    Cost: zlib about 30 us for each KiB, zstd about 3; a sample that does not shrink, a few us.
    """

    def __init__(
        self,
        codec: Codec | str,
        *,
        algorithm: str = "zlib",
        level: int | None = None,
        min_size: int = 512,
        sample_bytes: int = 4096,
        max_size: int = 64 << 20,
    ) -> None:
        if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:
            raise ConfigurationError("algorithm must be 'zlib' or 'zstd'")
        lowest, highest = _LEVELS[algorithm]
        if level is not None and not _within(level, lowest, highest):
            raise ConfigurationError(f"level must be {lowest} to {highest} for {algorithm}")
        if not (
            _within(min_size, 1, sys.maxsize)
            and _within(sample_bytes, 64, 1 << 20)
            and _within(max_size, 1, 1 << 32)
        ):
            raise ConfigurationError("min_size, sample_bytes or max_size is out of bounds")
        codecs = import_module("anyseal.cache.codecs")  # which imports this module
        codec = cast(Codec, codecs.codec_named(codec))
        self.name = check_name(f"{codec.name}+{algorithm}")
        self._codec = codec
        self._number, load = _ALGORITHMS[algorithm]
        self._compress, self._decompress = load(level)
        self._min_size = min_size
        self._sample_bytes = sample_bytes
        self._max_size = max_size

    def decoder(self, type: Any) -> Any:
        """What the codec decodes into *type* with, if it tells. Raises as the codec."""
        decoder = getattr(self._codec, "decoder", None)
        return None if decoder is None else decoder(type)

    def encode(self, value: Any) -> bytes:
        """*value* as the codec writes it, compressed where that gains. Raises as the codec."""
        return self._packed(self._codec.encode(value))

    def encode_result(self, value: Any, type: Any = Any) -> bytes:
        """As :meth:`encode`, for a value that must come back with the types it has."""
        encode = getattr(self._codec, "encode_result", None)
        return self._packed(self._codec.encode(value) if encode is None else encode(value, type))

    def encode_light(self, value: Any) -> bytes | None:
        """As :meth:`encode`; None if that takes more than one step."""
        return self._packed_light(light(self._codec, value))

    def _packed_light(self, data: bytes | None) -> bytes | None:
        return None if data is None or len(data) > INLINE_BYTES else self._packed(data)

    def result_light(self, value: Any, type: Any = Any) -> bytes | None:
        """As :meth:`encode_result`; None if that takes more than one step."""
        return self._packed_light(light_result(self._codec, value, type))

    def encode_steps(self, value: Any) -> Steps[bytes]:
        """As :meth:`encode`, in steps: it compresses in a worker thread."""
        data = yield from encoding(self._codec, value)
        packed: bytes = yield functools.partial(self._packed, data)
        return packed

    def result_steps(self, value: Any, type: Any = Any) -> Steps[bytes]:
        """As :meth:`encode_result`, in steps."""
        data = yield from encoding_result(self._codec, value, type)
        packed: bytes = yield functools.partial(self._packed, data)
        return packed

    def is_long(self, data: bytes | memoryview) -> bool:
        """Whether decompressing, or decoding, *data* takes more than one step."""
        plain = not len(data) or data[-1] == _PLAIN
        size = len(data) if plain else int.from_bytes(data[-_TRAILER_BYTES:-1])
        return size > INLINE_BYTES

    def decode_steps(self, data: bytes | memoryview, type: Any = Any) -> Steps[Any]:
        """As :meth:`decode`, in steps: it decompresses in a worker thread."""
        plain = yield functools.partial(self._unpacked, data)
        return (yield from decoding(self._codec, plain, type))

    def _packed(self, data: bytes) -> bytes:
        if self._min_size <= len(data) <= self._max_size and self._gains(data):
            packed = self._compress(data)
            if len(packed) + _TRAILER_BYTES < len(data):
                return b"".join((packed, len(data).to_bytes(8), bytes((self._number,))))
        return data + b"\0"

    def _gains(self, data: bytes) -> bool:
        """Whether pieces from all over *data* shrink."""
        size, sample = len(data), self._sample_bytes
        if size <= 2 * sample:
            return True  # trying costs no more than doing
        piece = sample // _PIECES
        stride = (size - piece) // (_PIECES - 1)
        tried = b"".join(data[at * stride :][:piece] for at in range(_PIECES))
        return len(self._compress(tried)) <= _ENOUGH * len(tried)

    def decode(self, data: bytes | memoryview, type: Any = Any) -> Any:
        """The value in *data*, as the codec decodes it.

        Raises:
            FormatError: As the codec; or it does not decompress to the length that it declares.

        Cost: memory for at most what it declares, and at most *max_size*.
        """
        return self._codec.decode(self._unpacked(data), type)

    def _unpacked(self, data: bytes | memoryview) -> bytes | memoryview:
        """What the codec wrote."""
        check_bytes(data)
        if not len(data):
            raise FormatError(f"not what {self.name} writes")
        if data[-1] == _PLAIN:
            return memoryview(data)[:-1]
        size = int.from_bytes(data[-_TRAILER_BYTES:-1])
        if data[-1] != self._number or len(data) <= _TRAILER_BYTES or size > self._max_size:
            raise FormatError(f"not what {self.name} writes")
        plain: bytes | None
        try:
            plain = self._decompress(memoryview(data)[:-_TRAILER_BYTES], size)
        except MemoryError:
            raise
        except Exception:
            plain = None
        if plain is None or len(plain) != size:
            raise FormatError(f"not what {self.name} writes: it does not decompress")
        return plain

    def __repr__(self) -> str:
        return f"<Compressed {self.name}>"


def _within(value: Any, lowest: int, highest: int) -> bool:
    return type(value) is int and lowest <= value <= highest


_Pair = tuple[Callable[[Any], bytes], Callable[[Any, int], bytes | None]]


def _zlib(level: int | None) -> _Pair:
    wanted = -1 if level is None else level

    def compress(data: Any) -> bytes:
        return zlib.compress(data, wanted)

    def decompress(data: Any, size: int) -> bytes | None:
        stream = zlib.decompressobj()
        plain = stream.decompress(data, size + 1)
        return plain if stream.eof and not stream.unused_data else None

    return compress, decompress


def _zstd(level: int | None) -> _Pair:
    wanted = 3 if level is None else level
    if sys.version_info >= (3, 14):
        return _zstd_stdlib(wanted)
    return _zstd_package(wanted)


def _zstd_stdlib(level: int) -> _Pair:
    from compression import zstd  # type: ignore[import-not-found, unused-ignore]

    def compress(data: Any) -> bytes:
        packed: bytes = zstd.compress(data, level)
        return packed

    def decompress(data: Any, size: int) -> bytes | None:
        stream = zstd.ZstdDecompressor()
        plain: bytes = stream.decompress(data, size + 1)
        return plain if stream.eof and not stream.unused_data else None

    return compress, decompress


def _zstd_package(level: int) -> _Pair:
    try:
        import zstandard
    except ImportError as exc:
        raise MissingExtraError.of("zstd needs Python 3.14, or zstandard", "zstandard") from exc

    def compress(data: Any) -> bytes:
        # A compressor is not for several threads at once.
        return zstandard.ZstdCompressor(level=level).compress(data)

    def decompress(data: Any, size: int) -> bytes | None:
        with zstandard.ZstdDecompressor().stream_reader(data) as stream:
            plain = stream.read(size)
            return None if stream.read(1) else plain

    return compress, decompress


_ALGORITHMS = {"zlib": (1, _zlib), "zstd": (2, _zstd)}
_LEVELS = {"zlib": (1, 9), "zstd": (1, 19)}
