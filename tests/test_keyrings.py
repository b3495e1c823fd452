"""Static keyrings and partitions: rotation, the environment, isolation, bounds."""

from __future__ import annotations

import copy
import gc
import pickle
from typing import Any

import pytest

from anyseal import (
    ConfigurationError,
    Key,
    Keyring,
    PassphraseKeyring,
    StaticKeyring,
    sync,
)
from anyseal.ports import LocalKeyring
from support import (
    READERS,
    live_keys,
    live_keys_without_garbage,
    outcome,
    pattern,
    seal_bytes,
)

MASTER, OLD, OLDER = (pattern(32, name) for name in ("master", "old", "older"))


def cheap(passphrase: str | bytes = "pass", **settings: Any) -> PassphraseKeyring:
    """A passphrase keyring at the least costs."""
    return PassphraseKeyring(passphrase, **{"memory_log2_kib": 3, "passes": 1, **settings})


def test_static_rotation_opens_old_and_seals_new() -> None:
    """A deployment that rotates must read what every earlier one wrote."""
    rings = [StaticKeyring(OLDER), StaticKeyring(OLD, [OLDER]), StaticKeyring(MASTER, [OLD, OLDER])]
    values = [sync.seal(b"x", ring, partition="p") for ring in rings]
    objects = [seal_bytes(b"x", ring, partition="p") for ring in rings]
    for age, ring in enumerate(rings):
        for i, (value, sealed) in enumerate(zip(values, objects, strict=True)):
            expected = b"x" if i <= age else "WrongKeyError"
            assert expected == outcome(sync.open, value, ring, partition="p")
            for reader in READERS.values():
                assert expected == outcome(reader, sealed, ring, partition="p")
    assert 3 == len({value[4:20] for value in values})
    assert rings[2].current_hit("p").key_id == values[2][4:20]


def test_static_takes_keys_bytes_and_hex() -> None:
    """Secret managers hand out all three."""
    expected = StaticKeyring(MASTER).current_hit("p")
    for master in (MASTER.hex(), Key.from_bytes(MASTER), bytearray(MASTER), f" {MASTER.hex()}\n"):
        assert expected == StaticKeyring(master).current_hit("p")  # type: ignore[arg-type]
        assert expected == StaticKeyring(OLD, [master]).get_hit("p", expected.key_id)  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("master", "previous", "message"),
    [
        (b"short", [], "master_key: a key has 32 bytes, not 5"),
        ("zz" * 32, [], "master_key: a key must be hexadecimal"),
        ("", [], "master_key: a key has 64 hexadecimal characters, not 0"),
        (MASTER, [OLD, b""], r"previous\[1\]: a key has 32 bytes, not 0"),
    ],
)
def test_static_names_the_malformed_key(master: Any, previous: Any, message: str) -> None:
    """Which of several keys is wrong is the first question."""
    with pytest.raises(ConfigurationError, match=message):
        StaticKeyring(master, previous)


def test_static_refuses_a_single_previous_key() -> None:
    """Bytes are a sequence too, of 32 very bad keys."""
    for previous in (OLD, OLD.hex(), bytearray(OLD), Key.from_bytes(OLD)):
        with pytest.raises(TypeError, match="sequence"):
            StaticKeyring(MASTER, previous)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="cache_size"):
        StaticKeyring(MASTER, cache_size=0)


def test_static_from_env_reads_both_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a service is deployed."""
    monkeypatch.setenv("ANYSEAL_MASTER_KEY", f"{MASTER.hex()}\n")
    monkeypatch.delenv("ANYSEAL_PREVIOUS_MASTER_KEYS", raising=False)
    assert StaticKeyring(MASTER).current_hit("p") == StaticKeyring.from_env().current_hit("p")
    monkeypatch.setenv("ANYSEAL_PREVIOUS_MASTER_KEYS", f" {OLD.hex()} ,{OLDER.hex()},")
    ring = StaticKeyring.from_env()
    for old in (MASTER, OLD, OLDER):
        key = StaticKeyring(old).current_hit("p")
        assert key == ring.get_hit("p", key.key_id)


@pytest.mark.parametrize(
    ("master", "previous", "message"),
    [
        (None, None, "ANYSEAL_MASTER_KEY is not set"),
        ("  ", None, "ANYSEAL_MASTER_KEY is not set"),
        ("ab" * 31, None, "ANYSEAL_MASTER_KEY: a key has 64 hexadecimal characters, not 62"),
        ("xy" * 32, None, "ANYSEAL_MASTER_KEY: a key must be hexadecimal"),
        ("ab" * 32, "cd" * 33, "ANYSEAL_PREVIOUS_MASTER_KEYS: .* not 66"),
        ("ab" * 32, "cd" * 32 + ";" + "ef" * 32, "ANYSEAL_PREVIOUS_MASTER_KEYS: "),
    ],
)
def test_static_from_env_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, master: str | None, previous: str | None, message: str
) -> None:
    """Missing, not hexadecimal, of the wrong length: each by the variable's name, without it."""
    for name, value in (("MASTER_KEY", master), ("PREVIOUS_MASTER_KEYS", previous)):
        if value is None:
            monkeypatch.delenv(f"ANYSEAL_{name}", raising=False)
        else:
            monkeypatch.setenv(f"ANYSEAL_{name}", value)
    with pytest.raises(ConfigurationError, match=message) as caught:
        StaticKeyring.from_env()
    for secret in (master, previous):
        assert not secret or not secret.strip() or secret[:40] not in str(caught.value)


def test_static_cache_is_bounded() -> None:
    """Partitions come from users: a million of them must not be a million keys in memory."""
    ring = StaticKeyring(MASTER, [OLD], cache_size=10)
    sealed = {str(i): sync.seal(b"x", ring, partition=str(i)) for i in range(50)}
    before = live_keys_without_garbage()
    for _ in range(3):
        for partition, value in sealed.items():
            assert b"x" == sync.open(value, ring, partition=partition)
    gc.collect()
    assert live_keys() <= before + 20
    assert 10 == len(ring._cache)


def test_partition_is_not_normalised() -> None:
    """Two spellings that look alike are two tenants, as they are in most databases."""
    ring = StaticKeyring(MASTER)
    names = ("é", "e\u0301", "É", "e", "é ", "ﬁ", "fi", "\0", "\0\0", "😀")
    assert len(names) == len({ring.current_hit(name).key_id for name in names})


@pytest.mark.parametrize("ring", [StaticKeyring(MASTER), cheap()], ids=["static", "passphrase"])
def test_partition_bounds_are_in_bytes(ring: Any) -> None:
    """1 to 1,024 bytes of UTF-8; what cannot be encoded is refused before any work."""
    for name in ("a" * 1024, "é" * 512, "😀" * 256):
        assert b"x" == sync.open(sync.seal(b"x", ring, partition=name), ring, partition=name)
    for name in ("a" * 1025, "é" * 512 + "a", "😀" * 257, "\ud800", "a\udfff"):
        with pytest.raises(ValueError):
            sync.seal(b"x", ring, partition=name)
        with pytest.raises(ValueError):
            seal_bytes(b"x", ring, partition=name)
    for name in (b"p", 5, ["p"]):
        with pytest.raises(TypeError):
            sync.seal(b"x", ring, partition=name)


def test_keyrings_are_what_the_protocols_say() -> None:
    """isinstance decides whether sync code needs an event loop."""
    for ring in (StaticKeyring(MASTER), cheap()):
        assert isinstance(ring, Keyring)
        assert isinstance(ring, LocalKeyring)
        assert "pass" not in repr(ring).lower().replace("passphrasekeyring", "").replace(
            "passes", ""
        )
        for copying in (copy.copy, copy.deepcopy, pickle.dumps):
            if ring.__class__ is PassphraseKeyring or copying is not copy.copy:
                with pytest.raises(TypeError):
                    copying(ring)
