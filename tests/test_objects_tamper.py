"""Objects that were altered, cut, mixed or made up: typed errors, nothing released, no memory."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import anyseal
import reference as ref
from anyseal import (
    DecryptionError,
    FileSource,
    FormatError,
    Key,
    MemorySource,
    SourceChangedError,
    StaticKeyring,
    Suite,
    WrongKeyError,
    sync,
)
from anyseal.ports import Ends
from support import (
    READERS,
    SUITES,
    C,
    a_key,
    cuts,
    flips,
    outcome,
    pattern,
    run_python,
    said,
    seal_bytes,
    seal_off_loop,
)

REFUSALS = {"FormatError", "WrongKeyError", "DecryptionError"}
SECRET = pattern(32)


def verdicts(sealed: bytes, key: Any, **where: Any) -> set[object]:
    """What the readers make of *sealed*."""
    return {outcome(reader, sealed, key, **where) for reader in READERS.values()}


@pytest.mark.parametrize("size", [0, 5])
def test_object_refuses_every_flip_and_cut(key: Key, suite: Suite, size: int) -> None:
    """No bit goes unauthenticated: never other plaintext, by range, by verify or by pipe."""
    data = b"bytes"[:size]
    sealed = seal_bytes(data, key, suite=suite, context=b"ctx")
    assert {data} == verdicts(sealed, key, context=b"ctx")
    for bad in itertools.chain(flips(sealed), cuts(sealed)):
        assert verdicts(bad, key, context=b"ctx") <= REFUSALS


@given(data=st.data(), n=st.sampled_from(SUITES))
def test_object_refuses_any_flip(data: st.DataObject, n: Suite) -> None:
    """The same with several chunks and segments, where a range may miss the damage."""
    key, text = a_key(), pattern(3 * C + 99)
    sealed = seal_bytes(text, key, suite=n)
    at = data.draw(st.integers(0, 8 * len(sealed) - 1))
    bad = bytearray(sealed)
    bad[at // 8] ^= 1 << at % 8
    assert verdicts(bytes(bad), key) <= REFUSALS
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, len(text)))

    def read() -> bytes:
        with sync.ObjectReader.open(MemorySource(bad), key) as reader:
            return reader.read_range(start, stop)

    assert outcome(read) in {text[start:stop], *REFUSALS}


@pytest.mark.anyio
async def test_object_refuses_flips_awaited(key: Key) -> None:
    """The async readers, at a bit in each byte."""
    sealed = await seal_off_loop(b"bytes", key)
    for at in range(len(sealed)):
        bad = bytearray(sealed)
        bad[at] ^= 1 << at % 8
        with pytest.raises((FormatError, WrongKeyError, DecryptionError)):
            async with await anyseal.ObjectReader.open(MemorySource(bad), key) as reader:
                await reader.read_range(0)


def drafts(suite: Suite) -> tuple[bytes, list[list[bytes]], list[bytes], bytes]:
    """One object whose three segments were sealed twice: a retry, or a second upload."""
    text, data_key = pattern(3 * C), pattern(32, "data key")
    fields = ref.header_fields(suite, 12, C, pattern(32, "object salt"))
    h = ref.context_hash(fields, b"")
    wrapped = ref.wrap(data_key, SECRET, suite, fields[20:52], pattern(24))
    header = ref.make_header(fields, wrapped, data_key, h)
    segments, trailers = [], []
    for name in "ab":
        salts = [pattern(16, f"{name}{j}") for j in range(3)]
        segments.append(
            [
                ref.seal_segment(text[j * C : j * C + C], data_key, h, suite, j, salt, C)
                for j, salt in enumerate(salts)
            ]
        )
        trailers.append(ref.make_trailer(data_key, h, salts, len(text)))
    return header, segments, trailers, text


def test_object_refuses_every_mix_of_two_seals(suite: Suite) -> None:
    """Swapped, repeated, dropped, mixed, with either trailer: only the two honest ones open."""
    key = Key.from_bytes(SECRET)
    header, (first, second), trailers, text = drafts(suite)
    honest = 0
    for body in itertools.product([*first, *second], repeat=3):
        for trailer in trailers:
            found = verdicts(header + b"".join(body) + trailer, key)
            if list(body) == (first if trailer is trailers[0] else second):
                assert {text} == found
                honest += 1
            else:
                assert found <= REFUSALS
    assert 2 == honest
    for count in (0, 1, 2, 4):
        for body in itertools.islice(itertools.product([*first, second[1]], repeat=count), 60):
            for trailer in (*trailers, b"", trailers[0][:16] + trailers[0]):
                assert verdicts(header + b"".join(body) + trailer, key) <= REFUSALS


def test_object_refuses_swaps_within_package_objects(key: Key, suite: Suite) -> None:
    """The same on what the package writes: segments and whole tails of two seals exchanged."""
    one, two = (seal_bytes(pattern(3 * C), key, suite=suite, segment_size=C) for _ in "ab")
    head = 200 if suite is Suite.AEGIS256 else 184
    size = 16 + C + suite.tag_bytes
    cut = [head, head + size, head + 2 * size, head + 3 * size]
    for a, b in itertools.combinations(range(3), 2):
        order = [0, 1, 2]
        order[a], order[b] = b, a
        body = b"".join(one[cut[j] : cut[j] + size] for j in order)
        assert verdicts(one[:head] + body + one[cut[3] :], key) <= REFUSALS
    for at in cut:
        assert verdicts(one[:at] + two[at:], key) <= REFUSALS
    for j in range(3):
        mixed = one[: cut[j]] + two[cut[j] : cut[j] + size] + one[cut[j] + size :]
        assert verdicts(mixed, key) <= REFUSALS
    assert verdicts(one + two, key) <= REFUSALS


def test_object_of_another_owner_is_refused(key: Key, other_key: Key, suite: Suite) -> None:
    """Wrong key, partition and context, each by its class; no reason in the text."""
    sealed = seal_bytes(b"x", key, suite=suite, context=b"ctx")
    assert {"WrongKeyError"} == verdicts(sealed, other_key, context=b"ctx")
    twin = Key.from_bytes(bytes(32), key_id=key.key_id)
    assert {"DecryptionError"} == verdicts(sealed, twin, context=b"ctx")
    for context in (b"", b"ct", b"ctx\0", b"CTX"):
        assert {"DecryptionError"} == verdicts(sealed, key, context=context)
    ring = StaticKeyring(SECRET)
    sealed = seal_bytes(b"x", ring, partition="a", suite=suite)
    assert {b"x"} == verdicts(sealed, ring, partition="a")
    assert {"WrongKeyError"} == verdicts(sealed, ring, partition="b")
    with pytest.raises(DecryptionError, match=r"^does not verify$"):
        READERS["range"](sealed, ring, partition="a", context=b"other")
    for reader in READERS.values():
        with pytest.raises(ValueError, match="65,536"):
            reader(sealed, ring, partition="a", context=bytes(65537))


class CountingSource(MemorySource):
    """Notes every read beyond head and tail."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads: list[int] = []

    def pread_into(self, offset: int, buffer: memoryview) -> None:
        self.reads.append(offset)
        super().pread_into(offset, buffer)

    def window(self, offset: int, length: int) -> memoryview | None:
        self.reads.append(offset)
        return None


def test_object_refused_by_header_requests_no_segment(key: Key, suite: Suite) -> None:
    """Who may not read must not cause traffic, nor learn by timing what the segments hold."""
    sealed = seal_bytes(pattern(50_000), key, suite=suite, context=b"ctx")
    bad_salt, bad_trailer = bytearray(sealed), bytearray(sealed)
    bad_salt[30] ^= 1
    bad_trailer[-1] ^= 1
    cases: list[tuple[bytes, Key, bytes, str]] = [
        (sealed, a_key("other"), b"ctx", "WrongKeyError"),
        (sealed, Key.from_bytes(bytes(32), key_id=key.key_id), b"ctx", "DecryptionError"),
        (sealed, key, b"", "DecryptionError"),
        (bytes(bad_salt), key, b"ctx", "DecryptionError"),
        (bytes(bad_trailer), key, b"ctx", "DecryptionError"),
        (sealed[:-1], key, b"ctx", "FormatError"),
        (b"?" + sealed[1:], key, b"ctx", "FormatError"),
    ]
    for data, reader_key, context, expected in cases:
        source = CountingSource(data)
        found = outcome(sync.ObjectReader.open, source, reader_key, context=context)
        assert (expected, []) == (found, source.reads)


def test_object_cut_below_its_least_size_is_a_format_error(key: Key, suite: Suite) -> None:
    """The layout is judged before any key is looked for, so it takes no key to tell."""
    sealed = seal_bytes(b"", key, suite=suite)
    for cut in range(len(sealed)):
        found = outcome(READERS["range"], sealed[:cut], a_key("other"))
        assert "FormatError" == found, cut


@pytest.mark.anyio
async def test_read_into_is_wiped_on_failure(key: Key, suite: Suite) -> None:
    """The good chunks before the bad one included: a caller may ignore the exception."""
    text = pattern(3 << 20)
    sealed = bytearray(await seal_off_loop(text, key, suite=suite, segment_size=1 << 20))
    sealed[-5000] ^= 1
    async with await anyseal.ObjectReader.open(CountingSource(sealed), key) as reader:
        for start, size in ((0, 3 << 20), ((3 << 20) - 20_000, 20_000), ((3 << 20) - 6000, 1)):
            buffer = bytearray(b"\xee" * (size + 9))
            with pytest.raises(DecryptionError):
                await reader.read_into(start, memoryview(buffer)[:-9])
            assert not any(buffer[:-9])
            assert b"\xee" * 9 == buffer[-9:]
        assert text[:1000] == await reader.read_range(0, 1000)
        with pytest.raises(DecryptionError):
            await reader.verify()


# ---- Sources that change -----------------------------------------------------------------


@pytest.fixture
def stored(key: Key, tmp_path: Path) -> Path:
    """A sealed file of many segments."""
    path = tmp_path / "sealed"
    path.write_bytes(seal_bytes(pattern(1 << 20), key, segment_size=1 << 16))
    return path


def test_source_that_shrinks_is_noticed(key: Key, stored: Path) -> None:
    """A truncated log must end in an error, not in a shorter answer."""
    with sync.ObjectReader.open(FileSource(stored), key) as reader:
        os.truncate(stored, 200_000)
        for call in (lambda: reader.read_range(0), reader.verify):
            with pytest.raises(SourceChangedError):
                call()
        buffer = bytearray(b"\xee" * 999)
        with pytest.raises(SourceChangedError):
            reader.read_into(500_000, buffer)
        assert not any(buffer)
        assert pattern(1 << 20)[:1000] == reader.read_range(0, 1000)


def test_source_that_changes_does_not_verify(key: Key, stored: Path) -> None:
    """Another object of the same size put in its place: nothing of it is taken for ours."""
    with sync.ObjectReader.open(FileSource(stored), key) as reader:
        stored.write_bytes(seal_bytes(pattern(1 << 20), key, segment_size=1 << 16))
        for start in range(0, 1 << 20, 1 << 18):
            with pytest.raises(DecryptionError):
                reader.read_range(start, start + 10)


# ---- Hostile sizes -----------------------------------------------------------------------


class GiantSource:
    """Claims an object of 2**20 segments of 64 GiB, and is as large as that would be."""

    def __init__(self) -> None:
        fields = ref.header_fields(2, 12, 1 << 36, bytes(32))
        h, data_key = ref.context_hash(fields, b""), pattern(32, "giant")
        wrapped = ref.wrap(data_key, SECRET, 2, bytes(32), bytes(24))
        self.header = ref.make_header(fields, wrapped, data_key, h)
        self.tail = (1 << 56).to_bytes(8) + (1 << 20).to_bytes(4) + bytes(32)
        body = (1 << 20) * (16 + (1 << 36) + 16 * (1 << 24))
        self.size = len(self.header) + body + 16 * (1 << 20) + 44
        self.asked: list[int] = []

    async def ends(self, head: int, tail: int) -> Ends:
        return Ends(size=self.size, head=self.header, tail=bytes(tail - 44) + self.tail)

    async def read(self, offset: int, length: int) -> bytes:
        self.asked.append(length)
        return bytes(length - 44) + self.tail

    async def aclose(self) -> None:
        pass


@pytest.mark.anyio
async def test_hostile_trailer_is_read_once_and_bounded() -> None:
    """The largest trailer there may be is 17 MiB; its MAC is checked before anything else."""
    source = GiantSource()
    with pytest.raises(DecryptionError):
        await anyseal.ObjectReader.open(source, Key.from_bytes(SECRET))
    assert [16 * (1 << 20) + 44] == source.asked


def hostile_objects() -> Iterator[bytes]:
    """Extreme chunk and segment sizes, lengths and counts, with valid MACs and commitments."""
    data_key = pattern(32, "hostile")
    for suite, log2 in itertools.product((1, 2, 3), (12, 24)):
        for segment_size in (1 << log2, 1 << 36):
            fields = ref.header_fields(suite, log2, segment_size, bytes(32))
            h = ref.context_hash(fields, b"")
            wrapped = ref.wrap(data_key, SECRET, suite, bytes(32), bytes(24))
            header = ref.make_header(fields, wrapped, data_key, h)
            for n in (0, 1, 2, 1 << 20, (1 << 20) + 1, (1 << 32) - 1):
                for length in (0, 1, 1 << 36, 1 << 56, (1 << 63) - 1, (1 << 64) - 1):
                    trailer = ref.make_trailer(data_key, h, [], length, n)
                    for body in (b"", bytes(16), bytes(5000)):
                        if (n, length, body) != (0, 0, b""):
                            yield header + body + trailer


def test_hostile_sizes_cost_no_memory() -> None:
    """Whatever a header or trailer claims: refused within 32 MiB of address space."""
    code = """
        import pathlib
        import resource
        from test_objects_tamper import SECRET, hostile_objects
        from support import READERS, outcome
        from anyseal import Key
        key, objects = Key.from_bytes(SECRET), list(hostile_objects())
        assert outcome(READERS["range"], b"", key) == "FormatError"
        used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20),) * 2)
        found = {outcome(reader, sealed, key) for sealed in objects for reader in READERS.values()}
        print(len(objects) > 1000, sorted(found))
    """
    assert ["True ['DecryptionError', 'FormatError']"] == said(run_python(code))
