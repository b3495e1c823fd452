"""Wrapping an object's data key anew: the header changes, nothing else, or nothing at all."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

import anyseal
from anyseal import DecryptionError, FormatError, Key, StaticKeyring, Suite, WrongKeyError, sync
from anyseal.objects.format import Header
from anyseal.objects.rewrap import rewrap_header
from support import live_keys, live_keys_without_garbage, names, open_by_range, pattern, seal_bytes

BACKENDS = ("sync", "asyncio", "trio")


def rewrap(backend: str, *args: Any, **kwargs: Any) -> bool:
    """Both faces of ``rewrap_file``, called as sync code."""
    if backend == "sync":
        return sync.rewrap_file(*args, **kwargs)
    return anyio.run(partial(anyseal.rewrap_file, *args, **kwargs), backend=backend)


def test_rewrapped_header_opens_the_same_object(suite: Suite, key: Key, other_key: Key) -> None:
    """No byte of the body moves or changes: only then is it cheap, and possible in a bucket."""
    plain = pattern(30_000)
    sealed = seal_bytes(plain, key, suite=suite, context=b"context")
    header, before = Header.parse(sealed), live_keys_without_garbage()
    changed = rewrap_header(header, key, other_key).to_bytes()
    again = changed + sealed[len(changed) :]
    assert len(header.to_bytes()) == len(changed)
    assert changed[:52] == sealed[:52]
    assert changed[-32:] == header.commitment
    assert other_key.key_id == Header.parse(again).key_id
    assert plain == open_by_range(again, other_key, context=b"context")
    with pytest.raises(WrongKeyError):
        open_by_range(again, key, context=b"context")
    with pytest.raises(DecryptionError):
        open_by_range(again, other_key, context=b"")
    assert live_keys() - before <= 4, "the data key stays in the arena"


def test_rewrap_refuses_another_key_and_a_damaged_header(key: Key, other_key: Key) -> None:
    """A data key that does not verify must not get a wrapping that does."""
    sealed = bytearray(seal_bytes(b"x", key))
    with pytest.raises(WrongKeyError):
        rewrap_header(Header.parse(bytes(sealed)), other_key, key)
    for at in (20, 52 + 60):
        damaged = bytearray(sealed)
        damaged[at] ^= 1
        with pytest.raises(DecryptionError):
            rewrap_header(Header.parse(bytes(damaged)), key, other_key)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [0, 1, (20 << 20) + 3])
def test_file_is_rewrapped_in_place(
    backend: str, size: int, tmp_path: Path, keyring: StaticKeyring
) -> None:
    """After a rotation the file opens without the old master; its mode and length stay."""
    old, new = StaticKeyring(pattern(32, "old master")), StaticKeyring(pattern(32, "master"))
    plain, path, out, seen = pattern(1 << 20) * 21, tmp_path / "sealed", tmp_path / "out", []
    (tmp_path / "plain").write_bytes(plain[:size])
    sync.seal_file(tmp_path / "plain", path, old, partition="a", context=b"c")
    path.chmod(0o640)
    before = path.read_bytes()
    assert rewrap(backend, path, keyring, partition="a", progress=lambda *p: seen.append(p))
    after = path.read_bytes()
    assert (len(before), before[200:], 0o640) == (
        len(after),
        after[200:],
        path.stat().st_mode & 0o777,
    )
    sync.open_file(path, out, new, partition="a", context=b"c")
    assert plain[:size] == out.read_bytes()
    assert (
        (len(before) - 200 if before[8] == 1 else len(before) - 184) == seen[-1][1] == seen[-1][0]
    )
    assert not rewrap(backend, path, keyring, partition="a"), "there is nothing left to do"
    assert {"sealed", "plain", "out"} == set(names(tmp_path))


@pytest.mark.parametrize("backend", BACKENDS)
def test_file_goes_to_another_partition_and_keyring(backend: str, tmp_path: Path, key: Key) -> None:
    """A file can be handed over without being decrypted."""
    path = tmp_path / "sealed"
    path.write_bytes(seal_bytes(b"plain", key))
    keyring = StaticKeyring(pattern(32, "master"))
    assert rewrap(backend, path, key, to_keyring=keyring, to_partition="a")
    assert rewrap(backend, path, keyring, partition="a", to_partition="b")
    assert b"plain" == open_by_range(path.read_bytes(), keyring, partition="b")
    link = tmp_path / "link"
    link.symlink_to("sealed")
    assert rewrap(backend, link, keyring, partition="b", to_keyring=key)
    assert link.is_symlink()
    assert b"plain" == open_by_range(path.read_bytes(), key)


@pytest.mark.parametrize("backend", BACKENDS)
def test_file_that_cannot_be_rewrapped_stays_as_it_is(
    backend: str, tmp_path: Path, key: Key, other_key: Key
) -> None:
    """Whatever goes wrong, there is one file, and it opens."""
    path = tmp_path / "sealed"
    sealed = seal_bytes(pattern(100_000), key)
    path.write_bytes(sealed)
    with pytest.raises(WrongKeyError):
        rewrap(backend, path, other_key, to_keyring=key)
    with pytest.raises(TypeError, match="partition"):
        rewrap(backend, path, key, to_partition="a")

    def changes(done: int, total: int | None) -> None:
        if done:
            os.utime(path, ns=(1, 1))

    with pytest.raises(anyseal.SourceChangedError):
        rewrap(backend, path, key, to_keyring=other_key, progress=changes)

    def fails(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rewrap(backend, path, key, to_keyring=other_key, progress=fails)
    assert sealed == path.read_bytes()
    path.write_bytes(b"text")
    with pytest.raises(FormatError):
        rewrap(backend, path, key, to_keyring=other_key)
    assert {"sealed"} == set(names(tmp_path))
