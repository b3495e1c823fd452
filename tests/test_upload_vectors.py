"""Tokens, receipts and part sizes against tests/vectors/multipart.json and the reference."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import make_vectors
import reference as ref
from anyseal import Key, Suite
from anyseal.errors import AnysealError
from anyseal.keys import Slot
from anyseal.objects.format import Header, ObjectKeys
from anyseal.objects.parts import PART_MAX_BYTES, PART_MIN_BYTES, PartPlan, choose_segment_size
from anyseal.objects.upload import Receipt, Token
from conftest import Clock
from support import outcome, pattern

Entry = dict[str, Any]
KEY = make_vectors.KEY
MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40


def entries(op: str) -> list[Any]:
    """The vectors of one kind, as parameters with their ids."""
    found = [entry for entry in make_vectors.load("multipart") if entry["op"] == op]
    return [pytest.param(entry, id=entry["id"]) for entry in found]


def token_fields(token: Token) -> dict[str, Any]:
    """A token as the vectors write it."""
    return {
        "plaintext_length": token.size,
        "h": token.parse_hash,
        "header": token.header.to_bytes(),
        "bucket": token.bucket.encode(),
        "object_key": token.key.encode(),
        "upload_id": token.upload_id.encode(),
    }


def receipt_fields(receipt: Receipt) -> dict[str, Any]:
    """A receipt as the vectors write it."""
    return {
        "index": receipt.index,
        "plaintext_length": receipt.size,
        "part_length": receipt.part_size,
        "salt": receipt.salt,
        "etag": receipt.etag.encode("latin-1"),
    }


def keys_of(data_key: bytes, h: bytes) -> ObjectKeys:
    """The keys of an object with this data key and H; its header does not matter here."""
    header = Header(
        suite=Suite.AES256GCM,
        chunk_log2=16,
        segment_bytes=1 << 16,
        object_salt=bytes(32),
        wrapped_key=bytes(100),
        commitment=bytes(32),
    )
    return ObjectKeys(header, Slot.from_bytes(data_key), h)


def expected_of(entry: Entry) -> object:
    """The fields, or the class of the refusal."""
    return entry["fields"] if entry["expect"] == "ok" else entry["expect"]


@pytest.mark.parametrize("entry", entries("token"))
def test_token_has_the_vectors_outcome(entry: Entry, clock: Clock) -> None:
    """Another implementation's workers share uploads with ours; ``abort`` ignores the clock."""
    key, abort = Key.from_bytes(entry["key"], key_id=entry["key_id"]), entry["now_ms"] is None
    if not abort:
        clock.ms = entry["now_ms"]
    else:
        clock.ms *= 2

    def call() -> dict[str, Any]:
        key_id = Token.key_id(entry["text"])
        token = Token.open(entry["text"], key, expired=abort)
        assert key.key_id == key_id
        return token_fields(token)

    assert expected_of(entry) == outcome(call)


@pytest.mark.parametrize("suite", list(Suite))
@pytest.mark.parametrize("key_id", [None, pattern(16, "id")])
def test_token_of_ours_is_read_by_the_reference(
    suite: Suite, key_id: bytes | None, clock: Clock
) -> None:
    """Sealing agrees with the text of the format, not only with our own reader."""
    header = Header.parse(make_vectors.token_fields(suite).header)
    token = Token(
        size=12 * MIB + 1,
        parse_hash=pattern(32, "h"),
        header=header,
        bucket="bucket",
        key="a/кey",
        upload_id="upload-id",
    )
    with Key.from_bytes(KEY, key_id=key_id) as key:
        text = token.seal(key, clock.ms / 1000 + 1)
        assert token == Token.open(text, key)
    fields = ref.decode_token(text, KEY, now_ms=clock.ms + 999, key_id=key_id)
    assert token_fields(token) == vars(fields)
    with pytest.raises(ref.ExpiredError):
        ref.decode_token(text, KEY, now_ms=clock.ms + 1000, key_id=key_id)
    assert fields.header.hex() not in repr(token)


@pytest.mark.parametrize("entry", entries("receipt"))
def test_receipt_has_the_vectors_outcome(entry: Entry) -> None:
    """Fields, or the one class of refusal; and the same text when ours writes it."""
    keys, upload_id = keys_of(entry["data_key"], entry["h"]), entry["upload_id"].decode()
    found = outcome(lambda: receipt_fields(Receipt.decode(entry["text"], keys, upload_id)))
    assert expected_of(entry) == found
    if entry["expect"] == "ok":
        receipt = Receipt.decode(entry["text"], keys, upload_id)
        assert entry["text"] == receipt.encode(keys, upload_id)


@given(
    index=st.integers(0, 2**32 - 1),
    size=st.integers(0, 2**64 - 1),
    salt=st.binary(min_size=16, max_size=16),
    etag=st.binary(max_size=255),
    upload_id=st.text(max_size=50).filter(lambda text: text.isprintable()),
)
def test_receipt_goes_both_ways(
    index: int, size: int, salt: bytes, etag: bytes, upload_id: str
) -> None:
    """Ours is read by the reference, and the other way round."""
    data_key, h = pattern(32, "data key"), pattern(32, "h")
    theirs = ref.Receipt(index, size, size, salt, etag)
    text = ref.encode_receipt(theirs, data_key, h, upload_id.encode())
    keys = keys_of(data_key, h)
    ours = Receipt.decode(text, keys, upload_id)
    assert vars(theirs) == receipt_fields(ours)
    assert text == ours.encode(keys, upload_id)


@pytest.mark.parametrize("entry", entries("geometry"))
def test_segment_size_is_the_vectors(entry: Entry) -> None:
    """Workers of two implementations must cut the same parts."""
    found: object
    try:
        found = choose_segment_size(
            entry["plaintext_length"],
            entry["wished"],
            chunk_bytes=1 << entry["chunk_log2"],
            tag_bytes=Suite(entry["suite"]).tag_bytes,
        )
    except AnysealError as error:
        found = type(error).__name__
    expected = entry["segment_size"] if entry["expect"] == "ok" else entry["expect"]
    assert expected == found


SIZES_NEAR = st.one_of(
    st.builds(
        lambda base, count, off: max(0, base * count + off),
        st.sampled_from((5 * MIB, 8 * MIB, 16 * MIB, 64 * MIB, 5 * GIB)),
        st.integers(0, 10_001),
        st.one_of(st.integers(-5 * MIB, 5 * MIB), st.integers(-2, 2)),
    ),
    st.integers(0, 6 * TIB),
    st.integers(5 * TIB - 10 * GIB, 5 * TIB),
)
WISHES = st.one_of(
    st.integers(1, 70 * MIB),
    st.integers(GIB, 6 * GIB),
    st.builds(lambda m, off: m * MIB + off, st.sampled_from((5, 8, 64)), st.integers(-1, 1)),
)


@given(size=SIZES_NEAR, wished=WISHES, chunk_log2=st.integers(19, 24), suite=st.integers(1, 3))
def test_segment_size_is_what_trying_every_size_finds(
    size: int, wished: int, chunk_log2: int, suite: int
) -> None:
    """The search leaps over sizes that cannot do; the specification tries them all."""
    expected = make_vectors.choose_segment_size(size, wished, suite=suite, chunk_log2=chunk_log2)
    found: int | None
    try:
        found = choose_segment_size(
            size, wished, chunk_bytes=1 << chunk_log2, tag_bytes=Suite(suite).tag_bytes
        )
    except AnysealError:
        found = None
    assert expected == found


@given(size=SIZES_NEAR, wished=WISHES, chunk_log2=st.integers(12, 24), suite=st.integers(1, 3))
def test_plan_keeps_the_limits_of_s3(size: int, wished: int, chunk_log2: int, suite: int) -> None:
    """A part one byte too short is refused only at completion, after days of uploading."""
    tag = Suite(suite).tag_bytes
    try:
        segment = choose_segment_size(size, wished, chunk_bytes=1 << chunk_log2, tag_bytes=tag)
    except AnysealError:
        return
    geometry = Header(
        suite=Suite(suite),
        chunk_log2=chunk_log2,
        segment_bytes=segment,
        object_salt=bytes(32),
        wrapped_key=b"",
        commitment=b"",
    ).geometry
    plan = PartPlan(geometry=geometry, size=size)
    count = len(plan)
    assert count <= 9999
    if count == 0:
        return
    first, last = plan.part(1), plan.part(count)
    assert (0, size) == (first.start, last.stop)
    if count == 1:
        assert plan.sealed_size == first.sealed_size <= PART_MAX_BYTES
        return
    assert segment == plan.part_size == first.size
    assert last.size >= PART_MIN_BYTES
    assert max(first.sealed_size, last.sealed_size) <= PART_MAX_BYTES
    middle = (count - 2) * plan.part(2).sealed_size if count > 2 else 0
    trailer = geometry.trailer_bytes(count)
    assert plan.sealed_size == first.sealed_size + middle + last.sealed_size + trailer <= 5 * TIB
