"""Fuzz the readers of values: ``python tests/fuzz/fuzz_value.py CORPUS``.

A reader may refuse with a typed error. Nothing but the value itself opens.
"""

from __future__ import annotations

import contextlib

from fuzz_common import fuzz, instrumented, variants

with instrumented():
    from anyseal import AnysealError, Key, StaticKeyring, Suite, inspect, sync

PLAIN = b"some data"
KEY = Key.from_bytes(bytes(range(32)))
KEYRING = StaticKeyring(bytes(range(32)))
SUITES = [suite for suite in Suite if suite.available]
GOOD = [
    *(sync.seal(PLAIN, KEY, suite=suite, context=b"c") for suite in SUITES),
    sync.seal(PLAIN, KEYRING, partition="p", context=b"c"),
    sync.seal(PLAIN, KEY, context=b"c", expires_at=4_000_000_000.0),
]
SEEDS = [bytes(4)]  # each good value as it is; what was sealed by another process would open


def one_input(data: bytes) -> None:
    """One input through every reader, alone and inside of each good value."""
    for good in GOOD:
        for sealed in variants(data, good):
            readers(sealed)


def readers(sealed: bytes) -> None:
    """Each reader refuses, or has the plaintext of the very value."""
    with contextlib.suppress(AnysealError):
        inspect(sealed)
    for opened in (
        lambda: sync.open(sealed, KEY, context=b"c"),
        lambda: sync.open(bytearray(sealed), KEYRING, partition="p", context=b"c"),
        lambda: into(sealed),
    ):
        try:
            plain = opened()
        except AnysealError:
            continue
        assert plain == PLAIN
        assert sealed in GOOD


def into(sealed: bytes) -> bytes:
    """Through ``open_into``."""
    buffer = bytearray(len(sealed))
    return bytes(buffer[: sync.open_into(buffer, sealed, KEY, context=b"c")])


if __name__ == "__main__":
    fuzz(one_input)
