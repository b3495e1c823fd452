"""Runs of chunks under one segment's key: the engine room. Blocking, safe in any thread.

AEGIS256 runs in one C call over libsodium. For the other two suites ``cryptography`` is several
times faster than libsodium (AES-256-GCM 12 against 4.8 GB/s, ChaCha20-Poly1305 4.4 against 1.5 on
a core with VAES), so long runs go through it; the segment's key then leaves the arena, the one
exception to the rule. Chunk numbers are spent in C before any AEAD is called, whoever provides it.
"""

from __future__ import annotations

from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from anyseal._ffi import lib, raise_for, refuse_overlap, steady, view, view_writable
from anyseal.errors import DecryptionError, FormatError
from anyseal.keys import Slot
from anyseal.suites import Suite

__all__ = ["SegmentKey", "open_run", "seal_run"]

_C_SUITE = {Suite.AEGIS256: 1, Suite.AES256GCM: 2, Suite.XCHACHA20POLY1305: 4}
_NONCE_BYTES = 12


class SegmentKey:
    """One segment's key in the form that its suite's engine takes."""

    __slots__ = ("aead", "c_suite", "chunk_bytes", "slot", "suite", "tag_bytes")

    def __init__(self, slot: Slot, suite: Suite, chunk_bytes: int) -> None:
        self.slot = slot
        self.suite = suite
        self.c_suite = _C_SUITE[suite]
        self.chunk_bytes = chunk_bytes
        self.tag_bytes = suite.tag_bytes
        self.aead: AESGCM | ChaCha20Poly1305 | None = None
        if suite is Suite.AES256GCM:
            self.aead = AESGCM(slot.export())
        elif suite is Suite.XCHACHA20POLY1305:
            self.aead = ChaCha20Poly1305(slot.export())

    def lease(self, first: int, count: int) -> Slot:
        """Spend *count* chunk numbers; returns a key that can seal these, once."""
        return Slot(lib.anyseal_chunks_lease(first, count, self.slot.handle))

    def release(self) -> None:
        """Wipe the key."""
        self.slot.release()
        self.aead = None


def seal_run(key: SegmentKey, lease: Slot, first: int, data: Any, out: memoryview) -> None:
    """Seal *data* as chunks from number *first* into *out*, which it fills exactly."""
    if key.aead is None:
        code = lib.anyseal_chunks_seal(
            view_writable(out), view(data), len(data), first, key.chunk_bytes, key.c_suite,
            lease.handle,
        )  # fmt: skip
        if code:
            raise_for(code)
        return
    refuse_overlap(out, data)
    size, tag = key.chunk_bytes, key.tag_bytes
    count = -(-len(data) // size)
    code = lib.anyseal_chunks_spend(first, count, lease.handle)
    if code:
        raise_for(code)
    source, begin, at, encrypt_into = memoryview(data), 0, 0, key.aead.encrypt_into
    stop, sealed = len(source), size + tag
    for index in range(first, first + count):
        end = begin + size
        if end > stop:
            end, sealed = stop, stop - begin + tag
        encrypt_into(index.to_bytes(_NONCE_BYTES), source[begin:end], None, out[at : at + sealed])
        begin = end
        at += sealed


def open_run(key: SegmentKey, first: int, sealed: Any, out: memoryview) -> None:
    """Open chunks from number *first* into *out*, which they fill exactly.

    AEGIS256 reads each byte once. The other ciphers read them twice, to verify and to decipher, and
    are given a copy of each chunk where *sealed* may change in between.

    Raises:
        DecryptionError: A chunk does not verify; *out* is wiped.
        FormatError: The last chunk is cut to nothing.
        ValueError: *out* overlaps *sealed*.
    """
    aead = key.aead
    if aead is None:
        code = lib.anyseal_chunks_open(
            view_writable(out), view(sealed), len(sealed), first, key.chunk_bytes, key.c_suite,
            key.slot.handle,
        )  # fmt: skip
        if code:
            raise_for(code)
        return
    tag = key.tag_bytes
    size = key.chunk_bytes + tag
    if 0 < len(sealed) % size <= tag:
        raise FormatError("a chunk is cut short")
    refuse_overlap(out, sealed)
    source, begin, at, decrypt_into = memoryview(sealed), 0, 0, aead.decrypt_into
    stop, opened = len(source), key.chunk_bytes
    copy = None if steady(sealed) else memoryview(bytearray(min(size, stop)))
    try:
        for index in range(first, first - (-stop // size)):
            end = begin + size
            if end > stop:
                end, opened = stop, stop - begin - tag
            chunk = source[begin:end]
            if copy is not None:
                lib.anyseal_copy(view_writable(copy), view(chunk), len(chunk))
                chunk = copy[: len(chunk)]
            decrypt_into(index.to_bytes(_NONCE_BYTES), chunk, None, out[at : at + opened])
            begin = end
            at += opened
    except InvalidTag:
        lib.anyseal_wipe(view_writable(out), len(out))
        raise DecryptionError from None
