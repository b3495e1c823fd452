"""Keys: how they are made, that they never show themselves, and that wiping means it."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

import reference as ref
from anyseal import (
    ConfigurationError,
    Key,
    KeyUseError,
    MemorySink,
    MemorySource,
    StaticKeyring,
    Suite,
    sync,
)
from anyseal._ffi import lib
from anyseal.keys import Slot
from anyseal.value import open_under, unwrap, wrap
from support import (
    KEY_HEX,
    SUITES,
    a_key,
    live_keys,
    live_keys_without_garbage,
    open_by_pipe,
    open_by_range,
    pattern,
    seal_bytes,
)

KEY_BYTES = bytes.fromhex(KEY_HEX)


def test_key_generate_is_random() -> None:
    """A constant generator would be found by nobody but an attacker."""
    assert 100 == len({Key.generate().key_id for _ in range(100)})


def test_key_from_bytes_and_hex_agree() -> None:
    """Both spellings of one key open each other's values."""
    assert Key.from_bytes(KEY_BYTES) == Key.from_hex(KEY_HEX) == Key.from_hex(KEY_HEX.upper())
    assert Key.from_hex(f" {KEY_HEX}\n") == Key.from_bytes(bytearray(KEY_BYTES))
    assert ref.static_key_id(KEY_BYTES) == Key.from_bytes(memoryview(KEY_BYTES)).key_id


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_key_from_bytes_refuses_other_lengths(size: int) -> None:
    """A short key must not be padded in silence."""
    with pytest.raises(ConfigurationError, match=f"32 bytes, not {size}"):
        Key.from_bytes(bytes(size))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "64 hexadecimal characters, not 0"),
        (KEY_HEX[:-1], "64 hexadecimal characters, not 63"),
        (KEY_HEX + "00", "64 hexadecimal characters, not 66"),
        ("g" * 64, "must be hexadecimal"),
        ("é" * 64, "must be hexadecimal"),
        ("0x" + KEY_HEX[2:], "must be hexadecimal"),
    ],
)
def test_key_from_hex_refuses_what_is_not_a_key(text: str, message: str) -> None:
    """Configuration errors are read by people in a hurry."""
    with pytest.raises(ConfigurationError, match=message):
        Key.from_hex(text)


@pytest.mark.parametrize("key_id", [b"", bytes(15), bytes(17), "0" * 16, bytearray(16)])
def test_key_refuses_ids_of_other_lengths(key_id: bytes) -> None:
    """The header has room for exactly 16 bytes."""
    with pytest.raises(ConfigurationError, match="16 bytes"):
        Key.from_bytes(KEY_BYTES, key_id=key_id)


def test_key_refuses_wrong_types() -> None:
    """A str for bytes is the commonest mistake."""
    calls: list[Callable[[], object]] = [
        lambda: Key.from_bytes(KEY_HEX),  # type: ignore[arg-type]
        lambda: Key.from_bytes(memoryview(bytes(64))[::2]),
        lambda: Key.from_hex(KEY_BYTES),  # type: ignore[arg-type]
        lambda: Key.generate().derive("info"),  # type: ignore[arg-type]
        Key,
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()


def test_key_derive_gives_independent_keys() -> None:
    """The caller's own purposes must not collide with ours or with each other."""
    key = Key.from_bytes(KEY_BYTES)
    expected = Key.from_bytes(ref.derive(KEY_BYTES, "user", b"emails"))
    assert expected == key.derive(b"emails")
    ids = {key.key_id, *(key.derive(info).key_id for info in (b"", b"a", b"b", bytes(65536)))}
    assert 5 == len(ids)
    with pytest.raises(ValueError, match="65,536"):
        key.derive(bytes(65537))


def test_key_equality_is_of_bytes_and_id() -> None:
    """Two keys with one id are not equal; nor is one key under two ids the same key."""
    same_id = bytes(16)
    assert Key.from_bytes(KEY_BYTES) == Key.from_bytes(KEY_BYTES)
    assert Key.from_bytes(KEY_BYTES) != Key.from_bytes(KEY_BYTES, key_id=same_id)
    assert Key.from_bytes(KEY_BYTES, key_id=same_id) != Key.from_bytes(bytes(32), key_id=same_id)
    assert Key.from_bytes(KEY_BYTES) != KEY_BYTES
    assert hash(Key.from_bytes(KEY_BYTES)) == hash(Key.from_bytes(KEY_BYTES))
    assert 1 == len({Key.from_bytes(KEY_BYTES), Key.from_bytes(KEY_BYTES)})


def test_key_never_shows_its_bytes(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a service prints, logs or reports may be read by others."""
    key = Key.from_bytes(KEY_BYTES)
    keyring = StaticKeyring(key)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").error("%s %r", key, [key], extra={"key": key})
    shown = [repr(key), str(key), f"{key}", f"{key!r:>99}", "%s" % key, repr({"k": [key]})]  # noqa: UP031
    shown += [repr(keyring), repr(key._slot), repr(key.derive(b"x")), caplog.text]
    shown += [repr(sync.ObjectWriter(MemorySink(), key)), key.id]
    for make in (
        lambda: Key.from_bytes(KEY_BYTES[:31]),
        lambda: Key.from_hex(KEY_HEX[:62] + "xx"),
        lambda: StaticKeyring(KEY_HEX[:63]),
        lambda: StaticKeyring(KEY_BYTES, [KEY_BYTES + b"!"]),
        lambda: sync.open(sync.seal(b"", key), a_key("other", key_id=key.key_id)),
        lambda: pickle.dumps(key),
    ):
        with pytest.raises(Exception) as caught:
            make()
        shown += ["".join(traceback.format_exception_only(caught.value)), repr(caught.value.args)]
    secrets = (KEY_HEX[:62], KEY_HEX[:62].upper(), repr(KEY_BYTES)[2:40], str(list(KEY_BYTES))[:40])
    assert [] == [text for text in shown for secret in secrets if secret in text]
    assert f"<Key {key.key_id.hex()}>" == repr(key)


def test_key_cannot_be_copied_or_pickled() -> None:
    """A copy would outlive the wiping of the original, a pickle would reach a disk or a queue."""
    key = Key.from_bytes(KEY_BYTES)
    for thing in (key, key._slot, StaticKeyring(key)):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError):
                pickle.dumps(thing, protocol)
    for copying in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="copied"):
            copying(key)
        with pytest.raises(TypeError, match="copied"):
            copying(key._slot)


@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "warm"])
def test_key_wiped_refuses_every_operation(tmp_path: Path, warm: bool) -> None:
    """A wiped slot must never be taken for a key of zeros, whatever is asked of it."""
    key = Key.from_bytes(KEY_BYTES)
    twin = Key.from_bytes(KEY_BYTES)
    value = sync.seal(b"data", twin)
    sealed = seal_bytes(b"data", Key.from_bytes(KEY_BYTES))
    (tmp_path / "plain").write_bytes(b"data")
    (tmp_path / "sealed").write_bytes(sealed)
    if warm:  # with its subkeys in place
        for suite in SUITES:
            sync.open(sync.seal(b"", key, suite=suite), key)
        open_by_range(sealed, key)
    key.wipe()
    key.wipe()
    calls: list[Callable[[], object]] = [
        lambda: sync.seal(b"", key, suite=SUITES[0]),
        lambda: sync.seal(b"", key, suite=SUITES[1]),
        lambda: sync.seal(b"", key, suite=SUITES[2]),
        lambda: sync.seal_into(bytearray(99), b"", key),
        lambda: sync.open(value, key),
        lambda: sync.open_into(bytearray(99), value, key),
        lambda: key.derive(b""),
        lambda: key == twin,
        lambda: twin == key,
        lambda: seal_bytes(b"", key),
        lambda: open_by_range(sealed, key),
        lambda: open_by_pipe(sealed, key),
        lambda: sync.seal_file(tmp_path / "plain", tmp_path / "out", key),
        lambda: sync.open_file(tmp_path / "sealed", tmp_path / "out", key),
        lambda: StaticKeyring(key).current_hit("p"),
        lambda: key._slot.mac(b""),
        lambda: key._slot.export(),
    ]
    for call in calls:
        with pytest.raises(KeyUseError):
            call()
    assert ["plain", "sealed"] == sorted(path.name for path in tmp_path.iterdir())
    assert KEY_HEX not in repr(key)


def test_key_as_context_manager_is_wiped() -> None:
    """Also when the block fails."""
    with Key.generate() as key:
        sync.seal(b"", key)
    with pytest.raises(KeyUseError):
        sync.seal(b"", key)
    with pytest.raises(ZeroDivisionError), Key.generate() as key:
        raise ZeroDivisionError
    with pytest.raises(KeyUseError):
        sync.seal(b"", key)


def test_key_release_gives_back_all_slots() -> None:
    """A service makes keys all day: subkeys and data keys must go with them."""
    before = live_keys_without_garbage()
    for end in (Key.wipe, lambda _: None):
        key = Key.generate()
        derived = key.derive(b"x")
        for suite in SUITES:
            sync.open(sync.seal(b"x", key, suite=suite), key)
            sealed = seal_bytes(pattern(20_000), key, suite=suite)
            assert pattern(20_000) == open_by_range(sealed, key) == open_by_pipe(sealed, key)
        assert live_keys() > before
        end(key)
        del key, derived
        gc.collect()
        assert before == live_keys()


def test_reader_close_wipes_all_its_keys(key: Key, suite: Suite) -> None:
    """Closing promises it; a service may hold on to a closed reader."""
    sealed = seal_bytes(pattern(30_000), key, suite=suite)
    open_by_range(sealed, key)
    before = live_keys_without_garbage()
    reader = sync.ObjectReader.open(MemorySource(sealed), key)
    reader.read_range(0)
    assert live_keys() > before
    reader.close()
    assert before == live_keys()


def test_writer_end_wipes_all_its_keys(key: Key, suite: Suite) -> None:
    """The same for writers, finished or not."""
    seal_bytes(b"", key, suite=suite)
    before = live_keys_without_garbage()
    writer = sync.ObjectWriter(MemorySink(), key, suite=suite)
    writer.write(pattern(1 << 21))
    assert live_keys() > before
    writer.close()
    assert before == live_keys()
    writer = sync.ObjectWriter(MemorySink(), key, suite=suite)
    writer.write(pattern(1 << 21))
    writer.finish()
    assert before == live_keys()


def test_key_stale_handle_never_reaches_the_next_key() -> None:
    """Slots are used again at once; an old handle must not sign for their new owner."""
    for _ in range(100):
        old = Slot.random()
        handle = old.handle
        old.release()
        fresh = Slot.from_bytes(KEY_BYTES)
        assert handle & 0xFFFFFFFF == fresh.handle & 0xFFFFFFFF
        assert handle != fresh.handle
        assert lib.ANYSEAL_ERROR_KEY_USE == lib.anyseal_key_equal(handle, fresh.handle)
        assert lib.ANYSEAL_ERROR_KEY_USE == lib.anyseal_derive(b"id", 2, b"", 0, handle)
        lib.anyseal_key_release(handle)
        assert KEY_BYTES == fresh.export()


def test_key_handles_made_up_reach_no_key() -> None:
    """The arena looks before it leaps, whatever number it is given."""
    for handle in (0, 1, 2**31, 2**32, 2**32 - 1, 2**63, 2**64 - 1):
        assert lib.ANYSEAL_ERROR_KEY_USE == lib.anyseal_derive(b"id", 2, b"", 0, handle)


def test_key_arena_holds_ten_thousand() -> None:
    """The arena grows by regions; each key must stay its own, and all must come back."""
    before = live_keys_without_garbage()
    secrets = [pattern(32, str(i)) for i in range(10_000)]
    slots = [Slot.from_bytes(secret) for secret in secrets]
    assert before + 10_000 == live_keys()
    for i in range(0, 10_000, 2):
        slots[i].release()
        slots[i] = Slot.from_bytes(secrets[i])
    assert secrets == [slot.export() for slot in slots]
    slots.clear()
    assert before == live_keys()


def test_wrap_under_a_wiped_data_key_is_refused(key: Key) -> None:
    """Zeros wrapped as a data key would seal an object for everybody."""
    slot = Slot.random()
    slot.release()
    with pytest.raises(KeyUseError):
        wrap(slot, key, Suite.AES256GCM, bytes(32))
    wrapped = wrap(Slot.random(), key, Suite.AES256GCM, bytes(32))
    key.wipe()
    with pytest.raises(KeyUseError):
        unwrap(wrapped, key, Suite.AES256GCM, bytes(32))
    with pytest.raises(KeyUseError):
        open_under(sync.seal(b"", a_key()), key)
