"""Fuzz what a cache makes of an entry: ``python tests/fuzz/fuzz_cache.py CORPUS``.

The plaintext of an entry, and every codec. What is not theirs is a FormatError: a miss.
"""

from __future__ import annotations

import contextlib
from typing import Any

from fuzz_common import fuzz, instrumented, variants

with instrumented():
    from anyseal import ConfigurationError, FormatError
    from anyseal.cache.codecs import Compressed, codec_named
    from anyseal.cache.codecs import readers as cutting
    from anyseal.cache.entry import unpack
    from anyseal.sync.kit import stepped

cutting.STEP_BYTES = cutting.MessageReader.step = cutting.TaggedReader.step = 8

VALUE = {"name": "x" * 40, "list": [1, 2.5, None, True], "nested": {"a": {"b": [[], {}]}}}
CODECS: list[Any] = [
    codec_named("msgpack"),
    codec_named("json"),
    codec_named("pickle"),
    codec_named("raw"),
    Compressed("json", min_size=1),
]
with contextlib.suppress(ConfigurationError):  # not installed
    CODECS.append(codec_named("arrow"))
with contextlib.suppress(ConfigurationError):
    CODECS.append(Compressed("json", min_size=1, algorithm="zstd"))
ENCODED: list[bytes] = []
for _codec in CODECS:
    with contextlib.suppress(Exception):  # raw and arrow take other values
        ENCODED.append(bytes(_codec.encode(VALUE)))
ENTRY = bytes((0, 1, 0, 0)) + bytes(4) + bytes(8) + b"n" * 32 + bytes(32) + ENCODED[0]
GOOD = SEEDS = [ENTRY, *ENCODED]
TYPES = (Any, dict, dict[str, int], list[bytes], bytes)


def one_input(data: bytes) -> None:
    """One input through every reader, alone and inside of each good one."""
    for good in GOOD:
        for stored in variants(data, good):
            readers(stored)


def readers(stored: bytes) -> None:
    """Each reader refuses with a FormatError, or reads."""
    with contextlib.suppress(FormatError):
        unpack(stored)
    for codec in CODECS:
        for kind in TYPES:
            with contextlib.suppress(FormatError):
                codec.decode(stored, kind)
            if hasattr(codec, "decode_steps"):
                in_steps(codec, stored, kind)


def in_steps(codec: Any, stored: bytes, kind: Any) -> None:
    """What is decoded in steps is what one call decodes."""
    outcomes: list[Any] = []
    for decode in (codec.decode, lambda *given: stepped(codec.decode_steps(*given))):
        try:
            outcomes.append(repr(decode(stored, kind)))
        except FormatError:
            outcomes.append(FormatError)
    assert outcomes[0] == outcomes[1]


if __name__ == "__main__":
    fuzz(one_input)
