"""Base64 in C: every instruction set gives the scalar's answers, and the scalar those of RFC 4648.

One byte string has one text. A lenient decoder would let somebody change a sealed row without
changing what it means, so everything that is not the canonical text is refused.
"""

from __future__ import annotations

import base64
import binascii
import os
import string
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyseal._ffi import ffi, lib, view_writable

ALPHABET = (string.ascii_letters + string.digits + "+/").encode()
PATHS = [limit for limit in range(3) if lib.anyseal_base64_path(limit) == limit]
NAMES = ("scalar", "avx2", "avx512")
GUARD = b"\xa5" * 64

# RFC 4648, section 10.
VECTORS = {
    b"": b"",
    b"f": b"Zg==",
    b"fo": b"Zm8=",
    b"foo": b"Zm9v",
    b"foob": b"Zm9vYg==",
    b"fooba": b"Zm9vYmE=",
    b"foobar": b"Zm9vYmFy",
}


@pytest.fixture(params=PATHS, ids=[NAMES[path] for path in PATHS], autouse=True, scope="module")
def _path(request: pytest.FixtureRequest) -> Iterator[None]:
    lib.anyseal_base64_path(request.param)
    yield
    lib.anyseal_base64_path(-1)


def encode(data: bytes) -> bytes:
    size = (len(data) + 2) // 3 * 4
    out = bytearray(GUARD + bytes(size) + GUARD)
    lib.anyseal_base64_encode(view_writable(out) + 64, data, len(data))
    assert out[:64] == out[64 + size :] == GUARD
    return bytes(out[64 : 64 + size])


def decode(text: bytes) -> bytes | None:
    """What *text* holds, or None if it is refused."""
    size = lib.anyseal_base64_bytes(text, len(text))
    if size < 0:
        return None
    out = bytearray(GUARD + bytes(size) + GUARD)
    code = lib.anyseal_base64_decode(view_writable(out) + 64, size, text, len(text))
    assert out[:64] == out[64 + size :] == GUARD
    return bytes(out[64 : 64 + size]) if code == 0 else None


def reference(text: bytes) -> bytes | None:
    """The standard library's answer, held to the canonical text."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return data if base64.b64encode(data) == text else None


@pytest.mark.parametrize(("data", "text"), VECTORS.items())
def test_base64_matches_rfc_4648(data: bytes, text: bytes) -> None:
    """The published vectors, both ways."""
    assert text == encode(data)
    assert data == decode(text)


@pytest.mark.parametrize("fill", [b"\x00", b"\xff", None])
def test_base64_every_length(fill: bytes | None) -> None:
    """Each length ends in another part of the vector code; nothing is written beyond it."""
    for size in range(301):
        data = os.urandom(size) if fill is None else fill * size
        assert base64.b64encode(data) == encode(data)
        assert data == decode(base64.b64encode(data))


def test_base64_every_character_at_every_position() -> None:
    """A foreign character is found wherever it stands, also in the last vector."""
    text = bytearray(base64.b64encode(os.urandom(99)))
    for position in range(len(text)):
        kept = text[position]
        for c in range(256):
            text[position] = c
            assert reference(bytes(text)) == decode(bytes(text))
        text[position] = kept


@pytest.mark.parametrize(
    "text",
    [b"Zg", b"Zg=", b"Zg===", b"Z===", b"====", b"=", b"Zm9v====", b"Zg==Zg==", b"Zh==", b"Zm9=",
     b"Zm8 ", b"Zm\n8=", b"Zm8=\n", b" Zm8=", b"Z-_=", b"Zm9vYmF\x00", b"Zm9vYmF\xff"],
)  # fmt: skip
def test_base64_refuses_other_texts(text: bytes) -> None:
    """Padding missing, too much or inside; bits that no byte takes; spaces; the url alphabet."""
    assert decode(text) is None


@given(st.binary(max_size=2000))
def test_base64_encode_agrees_with_the_standard_library(data: bytes) -> None:
    assert base64.b64encode(data) == encode(data)
    assert data == decode(encode(data))


@given(
    st.one_of(
        st.binary(max_size=300),
        st.text("=" + ALPHABET.decode(), max_size=300).map(str.encode),
        st.tuples(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 255)).map(
            lambda t: _mutated(*t)
        ),
    )
)
def test_base64_decode_agrees_with_the_standard_library(text: bytes) -> None:
    assert reference(text) == decode(text)


def _mutated(data: bytes, position: int, value: int) -> bytes:
    text = bytearray(base64.b64encode(data) or b"====")
    text[position % len(text)] = value
    return bytes(text)


def test_base64_encodes_in_place() -> None:
    """Sealing puts the ciphertext at the end of its own text's room; no byte may be lost."""
    for size in [*range(301), 4096, 65537]:
        data = os.urandom(size)
        length = (size + 2) // 3 * 4
        out = bytearray(bytes(length - size) + data)
        pointer = view_writable(out)
        lib.anyseal_base64_encode(pointer, pointer + (length - size), size)
        assert base64.b64encode(data) == bytes(ffi.buffer(pointer, length))


def test_base64_decode_checks_the_room() -> None:
    """The C never trusts the caller's idea of the length."""
    for size in (0, 2, 4, 5):
        assert lib.anyseal_base64_decode(bytes(9), size, b"Zm9v", 4) < 0
