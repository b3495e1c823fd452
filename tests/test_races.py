"""Threads that use and wipe the same keys: right bytes or a typed error, and no slot is lost."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from anyseal import Key, KeyUseError, MemorySource, PassphraseKeyring, Suite, sync
from anyseal.errors import ConfigurationError
from anyseal.keys import Slot
from anyseal.record.opening import open_row
from anyseal.record.row_key import RowKey
from anyseal.record.sealing import seal_row
from anyseal.value import unwrap, wrap
from support import live_keys, live_keys_without_garbage, pattern, seal_bytes

THREADS, TURNS = 4, 60
LARGE = pattern(40_000)
"""Long enough to be sealed and opened without the GIL."""


def values(key: Key, suite: Suite) -> None:
    for data in (b"small", LARGE):
        assert data == sync.open(sync.seal(data, key, suite=suite), key)
        sealed = bytearray(sync.seal(data, key, suite=suite))
        assert data == sync.open(sealed, key)


def keys(key: Key, suite: Suite) -> None:
    data_key = Slot.random()
    again = unwrap(wrap(data_key, key, suite, b""), key, suite, b"")
    assert data_key.export() == again.export()
    assert key.derive(b"a") == key.derive(b"a")


def objects(key: Key, suite: Suite) -> None:
    sealed = seal_bytes(LARGE, key, suite=suite)
    with sync.ObjectReader.open(MemorySource(bytearray(sealed)), key) as reader:
        assert LARGE == reader.read_range(0)


def rows(key: Key, suite: Suite) -> None:
    row_key = RowKey(key._slot.derive(b"row", b""), "_IK_a_b_c", 1_700_000_000)
    for data in (b"small", LARGE):
        assert data == open_row(seal_row(data, row_key), row_key)


@pytest.mark.parametrize("work", [values, keys, objects, rows])
def test_race_of_use_and_wiping(work: Callable[[Key, Suite], None]) -> None:
    """A slot that is given back while another thread works, and taken again for the next key."""
    before = live_keys_without_garbage()
    shared = [Key.generate()]
    errors: list[BaseException] = []

    def run(seed: int) -> None:
        choose = random.Random(seed)
        try:
            for turn in range(TURNS):
                key = shared[0]
                with contextlib.suppress(KeyUseError):
                    work(key, choose.choice([suite for suite in Suite if suite.available]))
                if turn % THREADS == seed:
                    shared[0] = Key.generate()
                    key.wipe()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shared.pop().wipe()
    assert [] == errors
    assert before == live_keys_without_garbage()


def test_race_of_a_passphrase_and_its_wiping() -> None:
    """Its parts are given back one by one; no key may be derived from some of them."""
    before = live_keys()
    found: list[Any] = []

    def derive(ring: PassphraseKeyring) -> None:
        try:
            found.append(ring.current_local("p").key_id[10:])
        except ConfigurationError:
            found.append(None)

    for _ in range(40):
        ring = PassphraseKeyring(b"long " * 200, memory_log2_kib=3, passes=1)
        ring._prefix = bytes((3, 1)) + bytes(8)
        thread = threading.Thread(target=derive, args=(ring,))
        thread.start()
        ring.wipe()
        thread.join()
        ring.wipe()
    assert 1 >= len(set(found) - {None})
    assert before == live_keys()
