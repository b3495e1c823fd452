"""Passphrase keyrings: costs refused before any work, bounded caches, wiping."""

from __future__ import annotations

import gc
from typing import Any

import pytest

import anyseal
from anyseal import (
    ConfigurationError,
    KeyUseError,
    PassphraseKeyring,
    WrongKeyError,
    sync,
)
from anyseal._ffi import lib
from anyseal.keyring import passphrase as passphrase_module
from support import (
    READERS,
    live_keys,
    live_keys_without_garbage,
    outcome,
    seal_bytes,
)


def cheap(passphrase: str | bytes = "pass", **settings: Any) -> PassphraseKeyring:
    """A passphrase keyring at the least costs."""
    return PassphraseKeyring(passphrase, **{"memory_log2_kib": 3, "passes": 1, **settings})


class CountedArgon2:
    """The C library, counting derivations; each can be refused."""

    def __init__(self) -> None:
        self.costs: list[tuple[int, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(lib, name)

    def anyseal_argon2id(self, *args: Any) -> int:
        self.costs.append((args[3], args[4]))
        return lib.anyseal_argon2id(*args)


@pytest.fixture
def argon2(monkeypatch: pytest.MonkeyPatch) -> CountedArgon2:
    """Counts what the passphrase keyring derives."""
    counted = CountedArgon2()
    monkeypatch.setattr(passphrase_module, "lib", counted)
    return counted


def test_passphrase_opens_what_another_process_sealed(argon2: CountedArgon2) -> None:
    """Only the passphrase need be remembered: costs and salt stand in the key id."""
    sealed = sync.seal(b"x", cheap(memory_log2_kib=4, passes=2), partition="p")
    assert [(2, 16 << 10)] == argon2.costs
    reader = cheap()
    for _ in range(5):
        assert b"x" == sync.open(sealed, reader, partition="p")
    assert [(2, 16 << 10)] * 2 == argon2.costs


def test_passphrase_derives_once_per_partition(argon2: CountedArgon2) -> None:
    """A derivation takes as long as a million values."""
    ring = cheap()
    for _ in range(10):
        for name in ("a", "b"):
            sealed = sync.seal(b"x", ring, partition=name)
            assert b"x" == sync.open(sealed, ring, partition=name)
    assert 2 == len(argon2.costs)


def test_passphrase_wrong_is_a_wrong_key(argon2: CountedArgon2) -> None:
    """And is remembered: an attacker must not make the reader stretch the same guess again."""
    sealed = sync.seal(b"x", cheap("right"), partition="p")
    wrong = cheap("wrong")
    argon2.costs.clear()
    for _ in range(5):
        with pytest.raises(WrongKeyError):
            sync.open(sealed, wrong, partition="p")
    assert 1 == len(argon2.costs)
    assert "WrongKeyError" == outcome(sync.open, sealed, cheap("right"), partition="q")
    assert "WrongKeyError" == outcome(sync.open, sealed, cheap("right "), partition="p")


@pytest.mark.parametrize("costs", [(0, 1), (2, 1), (21, 1), (255, 255), (3, 0), (3, 17), (24, 16)])
@pytest.mark.anyio
async def test_passphrase_refuses_costs_before_any_work(
    costs: tuple[int, int], argon2: CountedArgon2
) -> None:
    """A hostile file may claim 2**255 KiB; nobody may be made to try."""
    ring = cheap()
    sealed = bytearray(sync.seal(b"x", ring, partition="p"))
    whole = bytearray(seal_bytes(b"x", ring, partition="p"))
    sealed[4:6] = whole[56:58] = bytes(costs)
    argon2.costs.clear()
    assert "WrongKeyError" == outcome(sync.open, sealed, ring, partition="p")
    for reader in READERS.values():
        assert "WrongKeyError" == outcome(reader, whole, ring, partition="p")
    with pytest.raises(WrongKeyError):
        await anyseal.open(sealed, ring, partition="p")
    with pytest.raises(WrongKeyError):
        await ring.get("p", bytes(sealed[4:20]))
    with pytest.raises(WrongKeyError):
        ring.get_local("p", b"short")
    assert [] == argon2.costs


def test_passphrase_bounds_can_be_narrowed(argon2: CountedArgon2) -> None:
    """Services that read from the network should take only the costs in use."""
    sealed = sync.seal(b"x", cheap(memory_log2_kib=5, passes=2), partition="p")
    argon2.costs.clear()
    for narrow in ({"max_memory_log2_kib": 4}, {"max_passes": 1}):
        assert "WrongKeyError" == outcome(sync.open, sealed, cheap(**narrow), partition="p")
    assert [] == argon2.costs


@pytest.mark.parametrize(
    "settings",
    [
        {"passphrase": ""}, {"passphrase": b""}, {"passphrase": "x" * 1025},
        {"passphrase": "é" * 513}, {"memory_log2_kib": 2}, {"memory_log2_kib": 21},
        {"max_memory_log2_kib": 25}, {"passes": 0}, {"passes": 17}, {"max_passes": 256},
    ],
)  # fmt: skip
def test_passphrase_refuses_senseless_settings(settings: dict[str, Any]) -> None:
    """What it would seal, it could not open."""
    with pytest.raises(ConfigurationError):
        cheap(**settings)


def test_passphrase_takes_text_and_bytes() -> None:
    """Text is its UTF-8; other types are mistakes."""
    sealed = sync.seal(b"x", cheap("pässword"), partition="p")
    assert b"x" == sync.open(sealed, cheap("pässword".encode()), partition="p")
    for wrong in (None, 5, ["p"], bytearray(b"pass")):
        with pytest.raises(TypeError):
            PassphraseKeyring(wrong)  # type: ignore[arg-type]


def test_passphrase_caches_are_bounded() -> None:
    """Ids come from files: fresh salts must not fill the memory with keys."""
    ring = cheap("pass")
    sealed = [sync.seal(b"x", cheap("pass"), partition="p") for _ in range(100)]
    bad = [sync.seal(b"x", cheap("other"), partition="p") for _ in range(100)]
    before = live_keys_without_garbage()
    for good, wrong in zip(sealed, bad, strict=True):
        assert b"x" == sync.open(good, ring, partition="p")
        assert "WrongKeyError" == outcome(sync.open, wrong, ring, partition="p")
    gc.collect()
    assert live_keys() <= before + 2 * 64
    assert len(ring._keys) <= 64
    assert len(ring._unknown) <= 64


def test_passphrase_wipe_ends_it() -> None:
    """Also its keys, which somebody may still hold."""
    before = live_keys_without_garbage()
    with cheap("open sesame") as ring:
        key = ring.current_local("p")
        sealed = sync.seal(b"x", ring, partition="p")
        assert b"x" == sync.open(sealed, ring, partition="p")
    ring.wipe()
    assert "sesame" not in repr(vars(ring))
    assert before == live_keys()
    with pytest.raises(KeyUseError):
        sync.seal(b"x", key)
    for call in (sync.seal, sync.open):
        with pytest.raises(ConfigurationError, match="wiped"):
            call(sealed, ring, partition="p")


@pytest.mark.parametrize("verb", ["current", "get"])
def test_passphrase_wipe_takes_the_key_that_is_derived_at_that_moment(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that derives may keep its key after wipe() has looked through the kept ones."""
    ring, other = cheap(), cheap()
    key_id = other.current_local("p").key_id
    gc.collect()
    before = live_keys()
    remember = ring._remember

    def later(*args: Any) -> None:
        ring.wipe()
        remember(*args)

    monkeypatch.setattr(ring, "_remember", later)
    with pytest.raises(ConfigurationError, match="wiped"):
        ring.current_local("p") if verb == "current" else ring.get_local("p", key_id)
    assert {} == dict(ring._keys)
    assert live_keys() < before
