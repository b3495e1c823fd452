"""Large results: text is the same as CPython's own, and what grows holds what was written."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyseal import pages
from anyseal.pages import LARGE_BYTES, TEXT_STEP, Growing, copied, decoded, encoded, joined
from support import pattern

LENGTHS = (1, 2, LARGE_BYTES - 1, LARGE_BYTES, TEXT_STEP - 1, TEXT_STEP, TEXT_STEP + 1)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("last", ["x", "é", "ж", "🐎"])
@pytest.mark.parametrize("first", ["x", "é", "ж", "🐎"])
def test_text_is_what_cpython_makes(first: str, last: str, length: int) -> None:
    """A str with another width than CPython gives it is equal to none, not even to itself read
    back: also where a step ends within a character, and where one character is left over."""
    expected = first * length + last
    pauses: list[None] = []
    data = expected.encode()
    assert data == bytes(encoded(expected, lambda: pauses.append(None)))
    found = decoded(data, lambda: pauses.append(None))
    assert (expected, hash(expected)) == (found, hash(found))
    assert expected.isascii() or len(data) < LARGE_BYTES or pauses
    assert sys.getsizeof(expected[:-1] + last) == sys.getsizeof(found)


@pytest.mark.parametrize("data", [b"\xff", b"\xc3", b"\xed\xa0\x80"])
def test_text_that_is_not_utf8_is_refused(data: bytes) -> None:
    """Wherever it is, and at the end of what is cut short."""
    for before in (b"x", b"x" * TEXT_STEP, "é".encode() * TEXT_STEP):
        with pytest.raises(UnicodeDecodeError):
            decoded(before + data)


def test_text_without_cpythons_makers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not in the limited API: an interpreter may have them no more."""
    monkeypatch.setattr(pages, "_new_text", None)
    for expected in ("x" * TEXT_STEP * 2, "é" * TEXT_STEP):
        assert expected == decoded(expected.encode())


def test_ascii_text_is_not_copied_and_kept_alive() -> None:
    """100 MiB of it take no 100 MiB more; the view must not outlive what it shows."""
    text = "x" * LARGE_BYTES + "y"
    view = encoded(text)
    assert isinstance(encoded(text[:10]), bytes)
    del text
    assert b"x" * LARGE_BYTES + b"y" == bytes(view)


@given(writes=st.lists(st.tuples(st.integers(0, 9000), st.binary(max_size=5000)), max_size=20))
@settings(deadline=None)
def test_growing_holds_what_was_written(writes: list[tuple[int, bytes]]) -> None:
    """In any order, over each other and with gaps, which are zero."""
    growing, expected = Growing(), bytearray()
    for offset, data in writes:
        growing.write(offset, data)
        if data or offset <= len(expected):
            expected.extend(bytes(max(0, offset + len(data) - len(expected))))
            expected[offset : offset + len(data)] = data
        else:
            expected.extend(bytes(offset - len(expected)))
    assert len(expected) == len(growing)
    assert bytes(expected) == growing.read()
    for offset in (0, 1, 4095, 4097, 20_000):
        assert bytes(expected[offset : offset + 5000]) == growing.read(offset, 5000)


def test_growing_over_large_segments() -> None:
    """Beyond what is taken from the heap."""
    growing, data = Growing(), pattern(5 << 20)
    for at in range(0, len(data), 700_000):
        growing.write(at, data[at : at + 700_000])
    assert data == growing.read()
    assert data[123_456:4_567_890] == growing.read(123_456, 4_567_890 - 123_456)


@pytest.mark.parametrize("size", [0, 1, LARGE_BYTES - 1, LARGE_BYTES, 3 << 20])
def test_copies_are_equal_and_their_own(size: int) -> None:
    """What the caller changes later does not change them."""
    data = bytearray(pattern(size))
    found, both = copied(data), joined(b"head", memoryview(data))
    expected = bytes(data)
    data[:] = bytes(size)
    assert (expected, b"head" + expected) == (found, both)
    assert copied(expected) is expected
