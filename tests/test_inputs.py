"""Bytes that others can change while they are opened, and errors about them.

A cipher that reads its input twice, to verify it and to decipher it, releases what changed in
between unverified. So the other ciphers than AEGIS256 are given a copy of what may change.
"""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import anyseal
from anyseal import (
    AnysealError,
    DecryptionError,
    ExpiredError,
    Key,
    MemorySource,
    Suite,
    _ffi,
    sync,
    value,
)
from anyseal._ffi import OwnPages, lib
from anyseal.compat.lenzeye import decrypt_file_stream, encrypt_file_stream
from anyseal.keys import Slot
from anyseal.objects import chunks
from anyseal.record.opening import open_row
from anyseal.record.parsing import parse_row
from anyseal.record.row_key import RowKey
from anyseal.record.sealing import seal_row
from support import C, a_key, pattern, seal_bytes

OPENS = {
    Suite.AEGIS256: ("crypto_aead_aegis256_decrypt", lib.ANYSEAL_FN_AEGIS256_OPEN),
    Suite.AES256GCM: ("crypto_aead_aes256gcm_decrypt", lib.ANYSEAL_FN_AES256GCM_OPEN),
    Suite.XCHACHA20POLY1305: (
        "crypto_aead_xchacha20poly1305_ietf_decrypt",
        lib.ANYSEAL_FN_XCHACHA_OPEN,
    ),
}
POINTER, LENGTH = ctypes.c_void_p, ctypes.c_ulonglong
OPEN = ctypes.CFUNCTYPE(
    ctypes.c_int, POINTER, POINTER, POINTER, POINTER, LENGTH, POINTER, LENGTH, POINTER, POINTER
)


@contextmanager
def called(suite: Suite, before: Callable[[int, int], None]) -> Iterator[None]:
    """*before* is told where libsodium is to read the ciphertext, and how much."""
    name, number = OPENS[suite]
    address = _ffi._bundled(name)
    original = OPEN(int(_ffi.ffi.cast("uintptr_t", address)))

    @OPEN
    def spy(*args: Any) -> int:
        before(args[3], args[4])
        return original(*args)

    lib.anyseal_bind(number, _ffi.ffi.cast("void *", ctypes.cast(spy, POINTER).value))
    try:
        yield
    finally:
        lib.anyseal_bind(number, address)


def address_of(data: Any) -> int:
    return int(_ffi.ffi.cast("uintptr_t", _ffi.view(data)))


def own_pages(data: bytes) -> memoryview:
    pages = OwnPages(-1, len(data))
    pages[:] = data
    return memoryview(pages)


def open_into(sealed: Any, key: Key) -> bytes:
    out = bytearray(4 * C)
    return bytes(out[: sync.open_into(out, sealed, key)])


def open_token(sealed: Any, key: Key) -> bytes:
    return value.open_token(sealed, key)


FORMS: dict[str, tuple[Callable[[bytes], Any], bool]] = {
    "bytes": (bytes, False),
    "view of bytes": (memoryview, False),
    "part of a view of bytes": (lambda data: memoryview(b"x" + data)[1:], False),
    "own pages": (own_pages, False),
    "bytearray": (bytearray, True),
    "view of a bytearray": (lambda data: memoryview(bytearray(data)), True),
    "read-only view": (lambda data: memoryview(bytearray(data)).toreadonly(), True),
    "ctypes": (lambda data: (ctypes.c_char * len(data)).from_buffer(bytearray(data)), True),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("call", [sync.open, open_into, open_token])
def test_value_that_may_change_is_copied(
    key: Key, suite: Suite, call: Callable[..., bytes], form: str
) -> None:
    """Just once, and only where it must be."""
    make, may_change = FORMS[form]
    kind = 2 if call is open_token else 0
    data = pattern(2 * C)
    sealed = make(value.seal_under(data, key, suite=suite, kind=kind, expires_at=4e9))
    seen: list[tuple[int, int]] = []
    with called(suite, lambda at, size: seen.append((at, size))):
        assert data == call(sealed, key)
    start = address_of(sealed)
    copied = [not start <= at < start + len(data) for at, _ in seen]
    assert [may_change and suite is not Suite.AEGIS256] == copied
    assert [2 * C + suite.tag_bytes] == [size for _, size in seen]


@pytest.mark.parametrize("call", [sync.open, open_into, open_token])
def test_value_whose_header_changes_is_the_one_that_was_checked(
    key: Key, suite: Suite, call: Callable[..., bytes]
) -> None:
    """Another expiry, key id or kind, written after the check and before the cipher."""
    kind = 2 if call is open_token else 0
    context = {} if kind else {"context": b""}
    fresh = value.seal_under(b"data", key, suite=suite, kind=kind, expires_at=4e9, **context)
    for at in (2, 3, 4, 20, 28):
        sealed = bytearray(fresh)

        def change(_: int, __: int, at: int = at, sealed: bytearray = sealed) -> None:
            sealed[at] ^= 1

        with called(suite, change):
            assert b"data" == call(sealed, key)
        with pytest.raises(AnysealError):
            call(sealed, key)


def test_value_is_given_the_time_whatever_its_header_said(
    key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "Never expires", read first and changed after, must not make an expired value open."""
    expired = value.seal_under(b"data", key, expires_ms=1)
    sealed = bytearray(expired)
    sealed[20:28] = bytes(8)

    def racing(*args: Any) -> int:
        sealed[20:28] = expired[20:28]
        return lib.anyseal_value_open(*args)

    monkeypatch.setattr(value, "_value_open", racing)
    for call in (sync.open, open_into):
        sealed[20:28] = bytes(8)
        with pytest.raises(ExpiredError):
            call(sealed, key)


@pytest.mark.parametrize("form", FORMS)
def test_object_that_may_change_is_copied_by_chunks(
    key: Key, suite: Suite, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``cryptography``'s ciphers read twice as well."""
    make, may_change = FORMS[form]
    data = pattern(5 * C + 7)
    sealed = make(seal_bytes(data, key, suite=suite))
    start, inside = address_of(sealed), []
    for name in ("AESGCM", "ChaCha20Poly1305"):
        real = getattr(chunks, name)

        class Spy:
            def __init__(self, secret: bytes, real: Any = real) -> None:
                self._aead = real(secret)

            def decrypt_into(self, nonce: bytes, sealed_chunk: Any, *rest: Any) -> int:
                at = address_of(sealed_chunk)
                inside.append(start <= at < start + len(memoryview(sealed).cast("B")))
                result: int = self._aead.decrypt_into(nonce, sealed_chunk, *rest)
                return result

        monkeypatch.setattr(chunks, name, Spy)
    with sync.ObjectReader.open(MemorySource(sealed), key) as reader:
        assert data == reader.read_range(0)
        assert data[100 : 3 * C] == reader.read_range(100, 3 * C)
    if suite is not Suite.AEGIS256:
        assert {not may_change} == set(inside)


class Mutator:
    """Changes bytes of a buffer and puts them back, over and over, in a thread."""

    def __init__(self, buffer: bytearray, places: list[int]) -> None:
        self._buffer, self._places, self._over = buffer, places, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        buffer = self._buffer
        while not self._over.is_set():
            for at in self._places:
                kept = buffer[at]
                buffer[at] = kept ^ 0xFF
                buffer[at] = kept

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.mark.parametrize("what", ["value", "object"])
def test_race_releases_nothing_unverified(key: Key, suite: Suite, what: str) -> None:
    """Whichever way it goes, what is released is what was sealed."""
    data = pattern(1 << 18)
    settings = {"chunk_size": 1 << 16, "segment_size": 1 << 18}
    if what == "value":
        sealed = bytearray(sync.seal(data, key, suite=suite))
    else:
        sealed = bytearray(seal_bytes(data, key, suite=suite, **settings))
    places = [len(sealed) // 2]  # one: half of the time the MAC finds it as it was
    wrong = 0
    with Mutator(sealed, places):
        for _ in range(25):
            try:
                if what == "value":
                    found = sync.open(sealed, key)
                else:
                    with sync.ObjectReader.open(MemorySource(sealed), key) as reader:
                        found = reader.read_range(0)
            except DecryptionError:
                continue
            wrong += found != data
    assert 0 == wrong


def test_stream_of_pieces_that_change_is_refused() -> None:
    """compat.lenzeye's MAC and cipher each read a piece."""
    secret = pattern(32, "lenzeye")
    sealed = bytearray(b"".join(encrypt_file_stream(pattern(3 * C), secret)))
    for piece in (sealed, memoryview(sealed), memoryview(sealed).toreadonly()):
        for verify in (False, True):
            opened = decrypt_file_stream(piece, secret, verify=verify)
            assert pattern(3 * C) == b"".join(opened)
    from anyseal.compat.lenzeye.pieces import cut

    (kept,) = cut(sealed)
    sealed[40] ^= 1
    assert kept != sealed
    whole = bytes(sealed)
    assert [memoryview(whole).obj] == [piece.obj for piece in cut(whole)]


# ---- Errors about views ------------------------------------------------------------------


def flipped(sealed: bytes) -> memoryview:
    return memoryview(bytearray(sealed[:-9] + bytes((sealed[-9] ^ 1,)) + sealed[-8:]))


def failures() -> dict[str, Callable[[], object]]:
    """Calls that fail over a memoryview, by name."""
    key, row_key = a_key(), RowKey(Slot.random(), "_IK_a_b_c", 1_700_000_000)
    sealed = sync.seal(b"x" * 100, key)
    token = value.seal_under(b"x", key, kind=2, expires_at=4e9)
    good, long = memoryview(bytearray(sealed)), memoryview(bytearray(70_000))
    row = seal_row(b"x" * 100, row_key)
    small = memoryview(bytearray(1))
    overlapping = memoryview(bytearray(500))
    return {
        "open altered": lambda: sync.open(flipped(sealed), key),
        "open with another key": lambda: sync.open(good, a_key("other")),
        "open cut": lambda: sync.open(good[:60], key),
        "open with a long context": lambda: sync.open(good, key, context=long),
        "open into too little": lambda: sync.open_into(small, good, key),
        "open altered into": lambda: sync.open_into(long, flipped(sealed), key),
        "open altered token": lambda: value.open_token(flipped(token), key),
        "seal with a long context": lambda: sync.seal(good, key, context=long),
        "seal expired": lambda: sync.seal(good, key, context=good, expires_at=5),
        "seal into too little": lambda: sync.seal_into(small, good, key, context=good),
        "seal into itself": lambda: sync.seal_into(overlapping, overlapping[:50], key),
        "open altered row": lambda: open_row(flipped(row), row_key),
        "parse no row": lambda: parse_row(memoryview(bytearray(b"{}"))),
        "seal row of no time": lambda: seal_row(good, row_key, created=-5),
        "key of one byte": lambda: Key.from_bytes(small),
        "read into itself": lambda: read_into_itself(key),
    }


def read_into_itself(key: Key) -> None:
    sealed = memoryview(bytearray(seal_bytes(pattern(C), key)))
    with sync.ObjectReader.open(MemorySource(sealed), key) as reader:
        reader.read_into(0, sealed)


@pytest.mark.parametrize("name", failures())
def test_error_in_a_reference_cycle_is_collected(name: str) -> None:
    """CPython crashes if it collects a memoryview while something still exports it, and an
    exception's frames often are in a cycle: of a task, or of whoever keeps the exception."""
    call = failures()[name]
    gc.collect(0)
    gc.disable()
    try:
        kept: list[Any] = []
        try:
            call()
        except (anyseal.AnysealError, ValueError) as error:
            kept += [error, kept]
        assert kept
        del kept
        gc.collect(0)  # a BufferError here comes before the crash
    finally:
        gc.enable()
