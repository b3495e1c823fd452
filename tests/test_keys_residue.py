"""What keys leave in memory: a child uses keys that only this process knows, and is searched.

Outside the arena there may be none of a key's bytes, not while it lives and not after it is wiped:
not the key, what is derived from it, or what the cipher makes of it (round keys, masked states).
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import reference as ref
import residue_child
from anyseal import Suite

Needles = dict[bytes, str]
"""16 bytes that may be nowhere, and what they are."""


def aes_round_keys(key: bytes) -> bytes:
    """The 15 round keys of AES-256 (FIPS 197, section 5.2)."""
    power, sbox = 1, [0x63] * 256
    inverse = 1
    for _ in range(255):  # 3 generates the field; 0xf6 is its inverse
        power ^= (power << 1) ^ (0x11B if power & 0x80 else 0)
        inverse ^= inverse << 1
        inverse ^= inverse << 2
        inverse = (inverse ^ inverse << 4) & 0xFF
        inverse ^= 0x09 if inverse & 0x80 else 0
        turned = inverse
        for turn in range(1, 5):
            turned ^= (inverse << turn | inverse >> 8 - turn) & 0xFF
        sbox[power] = turned ^ 0x63
    words = [key[at : at + 4] for at in range(0, 32, 4)]
    constant = 1
    for number in range(8, 60):
        word = words[-1]
        if number % 8 == 0:
            word = bytes(sbox[b] for b in word[1:] + word[:1])
            word = bytes((word[0] ^ constant,)) + word[1:]
            constant <<= 1
        elif number % 8 == 4:
            word = bytes(sbox[b] for b in word)
        words.append(bytes(a ^ b for a, b in zip(words[-8], word, strict=True)))
    return b"".join(words)


def masked(key: bytes, pad: int) -> bytes:
    return bytes(byte ^ pad for byte in key)


def swapped(data: bytes) -> bytes:
    """As SHA-256 reads it on a little-endian machine."""
    return b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))


def forms(key: bytes, name: str, *, hashed: bool = True, aes: bool = False) -> Needles:
    """The key, and what HMAC or AES makes of it."""
    made = {name: key}
    if hashed:
        for pad in (0x36, 0x5C):
            made[f"{name} under {pad:#x}"] = masked(key, pad)
            made[f"{name} under {pad:#x}, as words"] = swapped(masked(key, pad))
    if aes:
        made[f"{name}'s round keys"] = aes_round_keys(key)[32:]
    return {
        data[at : at + 16]: f"{what} at {at}"
        for what, data in made.items()
        for at in range(0, len(data), 16)
    }


def value_needles(key: bytes, header: bytes) -> Needles:
    """Everything secret behind a value with this *header*."""
    kind, suite, nonce = header[2], header[3], header[28:52]
    subkey = ref.derive(key, ref.PURPOSES[kind], bytes((suite,)))
    message, _ = ref.message_key(key, kind, suite, nonce)
    found = forms(key, "key") | forms(subkey, "subkey", hashed=suite == ref.AES256GCM)
    found |= forms(message, "message key", hashed=False, aes=suite == ref.AES256GCM)
    if suite == ref.AEGIS256:
        mixed = bytes(a ^ b for a, b in zip(subkey, nonce + bytes(8), strict=True))
        found |= forms(mixed, "key and nonce", hashed=False)
    return found


def object_needles(key: bytes, head: bytes) -> Needles:
    """The segment's key leaves the arena for ``cryptography``, but for AEGIS256's."""
    suite = head[8]
    wrapped = head[52 : 52 + 84 + ref.TAG_BYTES[suite]]
    data_key = ref.unwrap(wrapped, key, head[20:52])
    found = value_needles(key, wrapped[:52]) | forms(data_key, "data key")
    if suite == ref.AEGIS256:
        at = 52 + len(wrapped) + 32
        h = ref.context_hash(head[:52], b"")
        segment = ref.segment_key(data_key, h, 0, head[at : at + 16])
        found |= forms(segment, "segment key", hashed=False)
    return found


def unwrapped(wrapped: bytes, key: bytes) -> bytes:
    """The key in a wrapped key of a row."""
    return AESGCM(key).decrypt(wrapped[-12:], wrapped[:-12], None)


def needles(use: str, secret: bytes, told: list[str]) -> Needles:
    """What may not be found after *use* of *secret*."""
    found = forms(secret, "secret")
    kind, _, _ = use.partition("-")
    if kind in ("values", "tokens"):
        for header in told:
            found |= value_needles(secret, bytes.fromhex(header))
    elif kind == "wrapped":
        wrapped = bytes.fromhex(told[0])
        found |= value_needles(secret, wrapped[:52])
        found |= forms(ref.unwrap(wrapped, secret, b"salt"), "data key")
    elif kind == "objects":
        found |= object_needles(secret, bytes.fromhex(told[0]))
    elif kind == "rows":
        found |= forms(secret, "row key", aes=True)
        for text in told[:-1]:
            found |= forms(unwrapped(base64.b64decode(text), secret), "data row key", aes=True)
        found |= forms(unwrapped(bytes.fromhex(told[-1]), secret), "inner key")
    elif kind == "cache":
        found |= forms(ref.derive(secret, "value", bytes((1,))), "subkey")
        found |= forms(ref.derive(secret, "name", bytes(1)), "name key")
    elif kind == "partitions":
        key = ref.partition_key(secret, "tenant")
        found |= value_needles(key, bytes.fromhex(told[0]))
    elif kind == "hierarchies":
        found |= forms(secret, "master key", aes=True)
        system = unwrapped(bytes.fromhex(told[0]), secret)
        found |= forms(system, "system key", aes=True)
        found |= forms(unwrapped(bytes.fromhex(told[1]), system), "intermediate key", aes=True)
    elif kind in ("passphrases", "text"):
        header = bytes.fromhex(told[0])
        key = ref.passphrase_stretch(secret, "tenant", header[4:14])
        found |= value_needles(key, header)
    return found


class Memory:
    """The writable memory of a process, region by region."""

    def __init__(self, pid: int) -> None:
        self._root = Path(f"/proc/{pid}")

    def regions(self) -> Iterator[tuple[str, bool, bytes]]:
        """Each region's name, whether it is kept out of core dumps, and its bytes."""
        smaps = (self._root / "smaps").read_text()
        with (self._root / "mem").open("rb", buffering=0) as memory:
            for entry in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", smaps):
                head, flags = entry.split("\n", 1)[0], entry.partition("VmFlags:")[2].split()
                span, rights, *_ = head.split()
                if "w" not in rights or re.search(r"\nRss: +0 kB", entry):
                    continue
                start, stop = (int(part, 16) for part in span.split("-"))
                memory.seek(start)
                name = head.split()[5] if len(head.split()) > 5 else "anonymous"
                yield name, "dd" in flags and "lo" in flags, memory.read(stop - start)

    def find(self, wanted: Needles) -> Iterator[tuple[bytes, str, bool]]:
        """Where *wanted* are: the needle, the region, whether that is the arena."""
        table = np.zeros(1 << 16, dtype=bool)
        table[[int.from_bytes(needle[:2], "little") for needle in wanted]] = True
        for name, kept, data in self.regions():
            for shift in (0, 1):
                pairs = np.frombuffer(data, "<u2", offset=shift, count=(len(data) - shift) // 2)
                for at in np.flatnonzero(table[pairs]) * 2 + shift:
                    needle = data[at : at + 16]
                    if needle in wanted:
                        yield needle, name, kept


@pytest.fixture(scope="module")
def searched() -> tuple[list[str], list[str]]:
    """What was found outside the arena while the keys lived, and anywhere after their end."""
    secrets = {use: os.urandom(48 if use == "passphrases" else 32) for use in residue_child.USES}
    secrets["text"] = os.urandom(24).hex().encode()
    path = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
    # Without memory of what it bound, the loader spills the vector registers at each call.
    environ = {**os.environ, "PYTHONPATH": path, "LD_BIND_NOT": "1"}
    child = subprocess.Popen(
        [sys.executable, str(Path(residue_child.__file__))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ,
    )  # fmt: skip
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"".join(secrets.values()))
        child.stdin.flush()
        told = json.loads(child.stdout.readline())
        wanted: Needles = {}
        for use, secret in secrets.items():
            wanted |= {n: f"{use}: {what}" for n, what in needles(use, secret, told[use]).items()}
        memory = Memory(child.pid)
        try:
            living = [f"{wanted[n]} in {name}" for n, name, kept in memory.find(wanted) if not kept]
        except PermissionError:
            child.kill()
            pytest.skip("this system lets no process read the memory of its child")
        child.stdin.write(b"1")
        child.stdin.flush()
        child.stdout.readline()
        wiped = [f"{wanted[n]} in {name}" for n, name, _ in memory.find(wanted)]
        child.kill()
    return living, wiped


@pytest.mark.parametrize("use", [use for use in residue_child.USES if use != "left behind"])
def test_residue_of_keys(searched: tuple[list[str], list[str]], use: str) -> None:
    """Locked pages are worth nothing if a copy of the key lies on the stack."""
    living, wiped = ([line for line in part if line.startswith(f"{use}:")] for part in searched)
    assert ([], []) == (living, wiped)


def test_residue_would_be_found(searched: tuple[list[str], list[str]]) -> None:
    """A search that finds nothing shows nothing unless it can find something."""
    for part in searched:
        assert 2 == len([line for line in part if line.startswith("left behind: secret at")])


def test_round_keys_are_those_of_the_standard() -> None:
    """FIPS 197, appendix A.3: the search is for the right bytes."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    assert aes_round_keys(key)[-16:].hex() == "fe4890d1e6188d0b046df344706c631e"
    assert {suite.value for suite in Suite} == set(ref.TAG_BYTES)
