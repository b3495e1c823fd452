"""Parts that are sealed each by itself make one object; tokens and receipts refuse the rest."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference as ref
from anyseal import (
    ConfigurationError,
    DecryptionError,
    FormatError,
    Key,
    Suite,
    UploadError,
    WriterStateError,
)
from anyseal.objects import part_sealer
from anyseal.objects.format import ObjectKeys
from anyseal.objects.part_sealer import PartSealer, seal_job
from anyseal.objects.parts import PartPlan, choose_segment_size
from anyseal.objects.upload import Receipt, Token
from support import (
    SUITES,
    a_key,
    flips,
    live_keys,
    live_keys_without_garbage,
    outcome,
    pattern,
    pieces,
)

C = 4096


def an_object(key: Key, suite: Suite, segment: int, chunk: int = C) -> ObjectKeys:
    """The keys of a new object."""
    return ObjectKeys.create(
        key,
        context=b"context",
        suite=suite,
        chunk_bytes=chunk,
        segment_bytes=segment,
        object_salt=os.urandom(32),
    )


def sealed_part(keys: ObjectKeys, plan: PartPlan, number: int, data: Iterable[Any]) -> Any:
    """One part, fed piece by piece; its salt and its bytes."""
    sealer = PartSealer(keys, plan, number)
    for piece in data:
        for jobs in sealer.feed(piece):
            for job in reversed(list(jobs)):
                seal_job(*job)
    return sealer.salt, sealer.finish()


@given(
    size=st.integers(0, 40_000),
    chunks=st.integers(1, 3),
    step=st.one_of(st.integers(1, 20_000), st.just(10**6)),
    suite=st.sampled_from(SUITES),
    seed=st.integers(),
)
def test_parts_sealed_in_any_order_are_one_object(
    size: int, chunks: int, step: int, suite: Suite, seed: int
) -> None:
    """The reference opens what workers sealed that knew nothing of each other."""
    plain, key = pattern(size), a_key()
    keys = an_object(key, suite, chunks * C)
    plan = PartPlan(geometry=keys.geometry, size=size)
    numbers = list(range(1, len(plan) + 1))
    random.Random(seed).shuffle(numbers)
    made = {}
    for number in numbers:
        part = plan.part(number)
        made[number] = sealed_part(keys, plan, number, pieces(plain[part.start : part.stop], step))
        assert part.sealed_size == len(made[number][1])
    whole = b"".join(made[number][1] for number in sorted(made))
    if plan.count == 0:
        whole = keys.header.to_bytes()
    if plan.count != 1:
        whole += keys.trailer(b"".join(made[number][0] for number in sorted(made)), size)
    assert plan.sealed_size == len(whole)
    secret = pattern(32, "key")
    assert plain == ref.open_object(whole, secret, context=b"context")
    assert plain == ref.open_stream(whole, secret, context=b"context")


@pytest.mark.parametrize("step", [1 << 10, (1 << 20) - 1, 1 << 20, (3 << 20) + 5, 64 << 20])
@pytest.mark.parametrize("chunk", [64 << 10, 16 << 20])
def test_part_is_the_same_however_it_arrives(step: int, chunk: int) -> None:
    """Pieces smaller and larger than the staging buffer, and chunks larger than it."""
    plain = pattern(1 << 10) * (17 << 10)
    keys = an_object(a_key(), Suite.AES256GCM, 32 << 20, chunk)
    plan = PartPlan(geometry=keys.geometry, size=len(plain))
    _, whole = sealed_part(keys, plan, 1, pieces(plain, step))
    assert plain == ref.open_object(whole, pattern(32, "key"), context=b"context")


def test_two_sealings_of_a_part_share_no_key(suite: Suite, key: Key) -> None:
    """A retry with other bytes under the same key and nonces would give both away."""
    keys, before = an_object(key, suite, 2 * C), live_keys_without_garbage()
    plan = PartPlan(geometry=keys.geometry, size=4 * C)
    made = [sealed_part(keys, plan, 2, [bytes(2 * C)]) for _ in range(50)]
    assert 50 == len({salt for salt, _ in made}) == len({body[16:32] for _, body in made})
    del made
    assert live_keys() - before <= 1


def test_part_must_have_its_exact_length(key: Key) -> None:
    """A byte more would belong to the next part, a byte less make the object unreadable."""
    keys = an_object(key, Suite.AES256GCM, 2 * C)
    plan = PartPlan(geometry=keys.geometry, size=3 * C)
    for number, size in ((1, 2 * C), (2, C)):
        for wrong in (0, size - 1, size + 1, 2 * size):
            for step in (1000, size + 1):
                with pytest.raises(UploadError, match=f"part {number} has"):
                    sealed_part(keys, plan, number, pieces(bytes(wrong), step))
    for number in (0, 3, -1):
        with pytest.raises(ValueError, match="parts 1 to 2"):
            PartSealer(keys, plan, number)
    with pytest.raises(ValueError, match="no parts"):
        PartSealer(keys, PartPlan(geometry=keys.geometry, size=0), 1)
    with pytest.raises(TypeError):
        list(PartSealer(keys, plan, 1).feed("text"))


def test_part_is_not_sealed_on_in_a_forked_process(
    key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parent and child would seal different bytes under the same nonces."""
    keys = an_object(key, Suite.AES256GCM, 2 * C)
    sealer = PartSealer(keys, PartPlan(geometry=keys.geometry, size=2 * C), 1)
    number = part_sealer.process_number() + 1
    monkeypatch.setattr(part_sealer, "process_number", lambda: number)
    with pytest.raises(WriterStateError):
        [list(jobs) for jobs in sealer.feed(bytes(2 * C))]


@pytest.mark.parametrize("size", [-1, 5 << 40])
def test_size_that_no_upload_can_have_is_refused(size: int) -> None:
    """Before anything was uploaded."""
    with pytest.raises(ValueError, match="size"):
        choose_segment_size(size, 8 << 20, chunk_bytes=1 << 16, tag_bytes=16)


def a_token(keys: ObjectKeys, **fields: Any) -> Token:
    """A token of an upload of *keys*' object."""
    given = {"bucket": "bucket", "key": "key", "upload_id": "id", "size": 3 * C, **fields}
    return Token(parse_hash=keys.parse_hash, header=keys.header, **given)


def test_token_with_any_bit_flipped_is_refused(key: Key, clock: Any) -> None:
    """It goes through browsers and databases of strangers."""
    text = a_token(an_object(key, Suite.AES256GCM, C)).seal(key, clock.ms / 1000 + 1)
    data = ref.from_text(text)
    for flipped in flips(data):
        with pytest.raises((FormatError, DecryptionError, LookupError)):
            Token.open(ref.to_text(flipped), key)
    for at in range(len(text)):
        with pytest.raises((FormatError, DecryptionError)):
            Token.open(text[:at], key)
    with pytest.raises(TypeError):
        Token.open(text.encode(), key)  # type: ignore[arg-type]


def test_receipt_with_any_bit_flipped_is_refused(key: Key) -> None:
    """A worker believes nothing of it before it verified."""
    keys = an_object(key, Suite.AES256GCM, C)
    receipt = Receipt(index=1, size=C, part_size=C + 16, salt=bytes(16), etag="etag")
    text = receipt.encode(keys, "upload")
    assert receipt == Receipt.decode(text, keys, "upload")
    for flipped in flips(ref.from_text(text)):
        with pytest.raises((FormatError, DecryptionError)):
            Receipt.decode(ref.to_text(flipped), keys, "upload")
    others = an_object(key, Suite.AES256GCM, C)
    assert "DecryptionError" == outcome(Receipt.decode, text, others, "upload")
    assert "DecryptionError" == outcome(Receipt.decode, text, keys, "other")


def test_token_that_would_be_too_long_is_not_made(key: Key, clock: Any) -> None:
    """What is sealed must be readable: the readers take 8,192 characters."""
    keys, until = an_object(key, Suite.AES256GCM, C), clock.ms / 1000 + 1
    for upload_id in ("x" * 6000, "x" * 70_000):
        with pytest.raises(ConfigurationError):
            a_token(keys, upload_id=upload_id).seal(key, until)
    with pytest.raises(ValueError, match="past"):
        a_token(keys).seal(key, clock.ms / 1000)


@pytest.mark.parametrize("etag", ["e" * 256, "\u20ac"])
def test_entity_tag_that_a_receipt_cannot_hold_is_refused(key: Key, etag: str) -> None:
    """Stores choose what an entity tag looks like."""
    receipt = Receipt(index=0, size=1, part_size=1, salt=bytes(16), etag=etag)
    with pytest.raises(FormatError):
        receipt.encode(an_object(key, Suite.AES256GCM, C), "upload")
