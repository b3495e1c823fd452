"""The reference against published vectors, the vectors against the reference.

If these pass, tests/vectors can be trusted to judge the package; nothing here imports it.
"""

from __future__ import annotations

import fnmatch
import hmac
import re
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import nacl.bindings
import nacl.pwhash
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

import make_vectors
import reference as ref

Entry = dict[str, Any]
FORMAT = Path(__file__).parent.parent / "docs" / "format.md"


def entries(name: str, *ops: str) -> list[Any]:
    """The vectors of one file, as parameters with their ids."""
    found = [entry for entry in make_vectors.load(name) if not ops or entry["op"] in ops]
    return [pytest.param(entry, id=entry["id"]) for entry in found]


def outcome(call: Callable[[], object]) -> object:
    """What *call* returns, or the name of the refusal that it raises."""
    try:
        return call()
    except ref.RefusedError as error:
        return type(error).__name__


def expected_of(entry: Entry, result: str) -> object:
    """What ``outcome`` must give: the named result if the vector opens, else the class."""
    return entry[result] if entry["expect"] == "ok" else entry["expect"]


# ---- Published vectors -------------------------------------------------------------------


def test_hkdf_expand_matches_rfc_5869() -> None:
    """Everything is derived with it. RFC 5869, appendix A.1, test case 1."""
    prk = bytes.fromhex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5")
    info = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9")
    expected = bytes.fromhex(
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )
    assert expected == HKDFExpand(algorithm=SHA256(), length=42, info=info).derive(prk)


def test_derive_is_one_hmac_block() -> None:
    """32 bytes of HKDF-Expand are HMAC(key, info || 01): the simplest way to write it."""
    key = bytes(range(32))
    message = b"anyseal v1 user\0data\x01"
    assert hmac.digest(key, message, "sha256") == ref.derive(key, "user", b"data")


def test_hmac_sha256_matches_rfc_4231() -> None:
    """Trailers and receipts rest on it. RFC 4231, section 4.3, test case 2."""
    expected = bytes.fromhex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
    assert expected == hmac.digest(b"Jefe", b"what do ya want for nothing?", "sha256")


def test_hchacha20_matches_the_draft() -> None:
    """It is written by hand here. draft-irtf-cfrg-xchacha-03, section 2.2.1."""
    nonce = bytes.fromhex("000000090000004a0000000031415927")
    expected = bytes.fromhex("82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc")
    assert expected == ref.hchacha20(bytes(range(32)), nonce)


def test_xchacha20poly1305_matches_the_draft() -> None:
    """The splitting of the nonce. draft-irtf-cfrg-xchacha-03, appendix A.3.1."""
    nonce = bytes(range(0x40, 0x58))
    key, aad = bytes(range(0x80, 0xA0)), bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    text = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the"
        b" future, sunscreen would be it."
    )
    expected = bytes.fromhex(
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb"
        "731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452"
        "2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
        "21f9664c97637da9768812f615c68b13b52e"
        "c0875924c1c7987947deafd8780acf49"
    )
    subkey = ref.hchacha20(key, nonce[:16])
    assert expected == ref.aead_seal(3, subkey, bytes(4) + nonce[16:], text, aad)


@pytest.mark.parametrize(
    ("aad", "text", "sealed"),
    [
        (
            "",
            "00000000000000000000000000000000",
            "754fc3d8c973246dcc6d741412a4b236"
            "1181a1d18091082bf0266f66297d167d2e68b845f61a3b0527d31fc7b7b89f13",
        ),
        ("", "", "6a348c930adbd654896e1666aad67de989ea75ebaa2b82fb588977b1ffec864a"),
    ],
)
def test_aegis256_matches_the_draft(aad: str, text: str, sealed: str) -> None:
    """The 32-byte tag is an option. draft-irtf-cfrg-aegis-aead-18, appendix A.3, 1 and 2."""
    key = bytes.fromhex("1001") + bytes(30)
    nonce = bytes.fromhex("100002") + bytes(29)
    data = bytes.fromhex(text)
    assert bytes.fromhex(sealed) == ref.aead_seal(1, key, nonce, data, bytes.fromhex(aad))


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 300])
def test_values_match_libsodium(size: int) -> None:
    """A second opinion on suites 1 and 3 of values, from another implementation."""
    text, nonce = make_vectors.random("libsodium", size), make_vectors.random("nonce", 24)
    for suite, encrypt, padding in (
        (1, nacl.bindings.crypto_aead_aegis256_encrypt, bytes(8)),
        (3, nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt, b""),
    ):
        sealed = ref.seal_value(text, make_vectors.KEY, suite=suite, nonce=nonce, context=b"ctx")
        subkey = ref.derive(make_vectors.KEY, "value", bytes([suite]))
        expected = encrypt(text, sealed[:28] + b"ctx", nonce + padding, subkey)
        assert expected == sealed[52:]


def test_argon2id_matches_libsodium() -> None:
    """argon2-cffi and libsodium must mean the same by KiB, passes and version."""
    head = bytes([4, 2]) + bytes(8)
    salt = sha256(b"anyseal v1 argon2" + head + b"p").digest()[:16]
    expected = nacl.pwhash.argon2id.kdf(32, b"secret", salt, opslimit=2, memlimit=16 * 1024)
    assert expected == ref.passphrase_stretch(b"secret", "p", head)


# ---- Our vectors -------------------------------------------------------------------------


def test_vectors_are_up_to_date() -> None:
    """The files in the tree are what the script writes, byte for byte."""
    for name, text in make_vectors.build().items():
        assert text == (make_vectors.VECTORS / name).read_text("utf-8"), name


def test_vector_ids_are_unique() -> None:
    """docs/format.md cites them."""
    ids = all_ids()
    assert len(set(ids)) == len(ids)


def all_ids() -> list[str]:
    """Every id of every file."""
    return [entry["id"] for name in make_vectors.FILES for entry in make_vectors.load(name)]


def test_format_cites_only_vectors_that_exist() -> None:
    """A rule pinned by a vector that is gone is not pinned."""
    cited = set(re.findall(r"\bV-[a-z0-9*-]+", FORMAT.read_text("utf-8").replace("\\", "")))
    ids = all_ids()
    assert set() == {pattern for pattern in cited if not fnmatch.filter(ids, pattern)}
    assert cited


@pytest.mark.parametrize("entry", entries("derive"))
def test_derive_vectors(entry: Entry) -> None:
    """Labels, NUL and data."""
    assert entry["output"] == ref.derive(entry["key"], entry["label"], entry["data"])


@pytest.mark.parametrize("entry", entries("value"))
def test_value_vectors(entry: Entry) -> None:
    """Opened, and where the vector says how, sealed again."""

    def call() -> bytes:
        if entry["op"] == "unwrap":
            return ref.unwrap(entry["sealed"], entry["key"], entry["context"], entry["key_id"])
        return ref.open_value(
            entry["sealed"],
            entry["key"],
            now_ms=entry["now_ms"],
            key_id=entry["key_id"],
            kind=entry["kind"],
            context=entry["context"],
        )

    assert expected_of(entry, "plaintext") == outcome(call)
    if "seal" in entry:
        assert entry["sealed"] == ref.seal_value(
            entry["plaintext"],
            entry["key"],
            key_id=entry["key_id"],
            kind=entry["kind"],
            context=entry["context"],
            **entry["seal"],
        )


@pytest.mark.parametrize("entry", entries("text"))
def test_text_vectors(entry: Entry) -> None:
    """Opened, and where the vector says how, sealed again to the same letters."""
    known = {"key_id": entry["key_id"], "context": entry["context"]}

    def call() -> bytes:
        return ref.open_text(entry["text"], entry["key"], now_ms=entry["now_ms"], **known)

    assert expected_of(entry, "plaintext") == outcome(call)
    if "seal" in entry:
        assert entry["text"] == ref.seal_text(
            entry["plaintext"], entry["key"], **known, **entry["seal"]
        )


@pytest.mark.parametrize("entry", entries("object"))
def test_object_vectors_by_range(entry: Entry) -> None:
    """Head and tail first, then the chunks that the range needs."""
    part = entry.get("range", {"start": 0, "length": None})
    keys = {"key_id": entry["key_id"], "context": entry["context"]}

    def call() -> bytes:
        return ref.open_range(entry["sealed"], entry["key"], part["start"], part["length"], **keys)

    assert expected_of(entry, "plaintext") == outcome(call)


@pytest.mark.parametrize("entry", entries("object"))
def test_object_vectors_by_stream(entry: Entry) -> None:
    """Front to back, the end unknown."""
    keys = {"key_id": entry["key_id"], "context": entry["context"]}
    result = outcome(lambda: ref.open_stream(entry["sealed"], entry["key"], **keys))
    expected = entry.get("expect_stream", entry["expect"])
    assert expected == (result if isinstance(result, str) else "ok")
    if expected == "ok" and "range" not in entry:
        assert entry["plaintext"] == result


@pytest.mark.parametrize("entry", entries("object"))
def test_object_vectors_seal_again(entry: Entry) -> None:
    """The encoder writes the very bytes; a re-wrapped object keeps its body."""
    if "seal" in entry:
        seal = dict(entry["seal"])
        h = seal.pop("h")
        assert h == ref.context_hash(entry["sealed"][:52], entry["context"])
        assert entry["sealed"] == ref.seal_object(
            entry["plaintext"],
            entry["key"],
            key_id=entry["key_id"],
            context=entry["context"],
            **seal,
        )
    if "before" in entry:
        size = 52 + 84 + ref.TAG_BYTES[entry["sealed"][8]]
        assert entry["before"][size:] == entry["sealed"][size:]
        assert entry["before"][:52] == entry["sealed"][:52]
        assert entry["before"][52:size] != entry["sealed"][52:size]


@pytest.mark.parametrize("entry", entries("keyring", "static", "hierarchy"))
def test_key_id_vectors(entry: Entry) -> None:
    """Ids and partition keys."""
    if entry["op"] == "static":
        assert entry["key"] == ref.partition_key(entry["master"], entry["partition"])
        assert entry["fingerprint"] == ref.derive(entry["key"], "id")
        assert entry["key_id"] == ref.static_key_id(entry["key"])
    else:
        assert entry["created"] == int.from_bytes(entry["key_id"][:8], "big")
        assert entry["key_id"][8:] == ref.derive(entry["key"], "id")[:8]


@pytest.mark.parametrize("entry", entries("keyring", "lookup", "passphrase"))
def test_lookup_vectors(entry: Entry) -> None:
    """Exact match of ids; no Argon2id at costs out of bounds (this test would take days)."""

    def call() -> bytes:
        if entry["op"] == "lookup":
            return ref.static_lookup(entry["masters"], entry["partition"], entry["key_id"])
        passphrase = entry["passphrase"].encode("utf-8")
        return ref.passphrase_lookup(passphrase, entry["partition"], entry["key_id"])

    assert expected_of(entry, "key") == outcome(call)


@pytest.mark.parametrize("entry", entries("multipart", "token"))
def test_token_vectors(entry: Entry) -> None:
    """Decoded, and where the vector says how, encoded again."""

    def call() -> Entry:
        text, key, now_ms = entry["text"], entry["key"], entry["now_ms"]
        return dict(vars(ref.decode_token(text, key, now_ms=now_ms, key_id=entry["key_id"])))

    assert expected_of(entry, "fields") == outcome(call)
    if "seal" in entry:
        fields = ref.TokenFields(**entry["fields"])
        assert entry["text"] == ref.encode_token(fields, entry["key"], **entry["seal"])


@pytest.mark.parametrize("entry", entries("multipart", "receipt"))
def test_receipt_vectors(entry: Entry) -> None:
    """Decoded, and encoded again when they open."""
    upload = (entry["data_key"], entry["h"], entry["upload_id"])
    result = outcome(lambda: dict(vars(ref.decode_receipt(entry["text"], *upload))))
    assert expected_of(entry, "fields") == result
    if entry["expect"] == "ok":
        receipt = ref.Receipt(**entry["fields"])
        assert entry["text"] == ref.encode_receipt(receipt, *upload)


@pytest.mark.parametrize("entry", entries("multipart", "geometry"))
def test_geometry_vectors(entry: Entry) -> None:
    """Any size chosen obeys the limits of S3, however it was found."""
    if entry["expect"] != "ok":
        return
    total, size, n = entry["plaintext_length"], entry["segment_size"], entry["n"]
    chunk, tag = 2 ** entry["chunk_log2"], ref.TAG_BYTES[entry["suite"]]
    assert size % chunk == 0
    assert n == -(-total // size)
    assert n <= 9999
    if n > 1:
        assert min(size, total - (n - 1) * size) >= 5 * 2**20
    largest = 16 + min(size, total) + tag * -(-min(size, total) // chunk)
    assert 168 + tag + largest + 60 <= 5 * 2**30


def test_context_of_65537_bytes_is_refused() -> None:
    """The vectors hold the longest context; this is one byte more, sealing and opening."""
    key, context = make_vectors.KEY, bytes(65537)
    with pytest.raises(ValueError, match="context"):
        ref.seal_value(b"", key, suite=2, nonce=bytes(24), context=context)
    with pytest.raises(ValueError, match="context"):
        ref.open_value(bytes(68), key, now_ms=0, context=context)
    with pytest.raises(ValueError, match="context"):
        ref.context_hash(bytes(52), context)


# ---- Every bit and every cut -------------------------------------------------------------


def bit_flips(data: bytes) -> Iterator[bytes]:
    """*data* with each single bit flipped."""
    for at in range(len(data)):
        for bit in range(8):
            yield make_vectors.flipped(data, at, 1 << bit)


@pytest.mark.parametrize("suite", [1, 2, 3])
def test_value_rejects_every_flip_and_cut(suite: int) -> None:
    """No byte of a value goes unauthenticated; not even one that is only parsed."""
    key = make_vectors.KEY
    sealed = ref.seal_value(b"secret", key, suite=suite, nonce=bytes(24), expires_at=10)
    assert ref.open_value(sealed, key, now_ms=9) == b"secret"
    for bad in (*bit_flips(sealed), *(sealed[:size] for size in range(len(sealed))), sealed + b"x"):
        with pytest.raises((ref.FormatError, ref.WrongKeyError, ref.DecryptionError)):
            ref.open_value(bad, key, now_ms=0)


@pytest.mark.parametrize("suite", [1, 2, 3])
@pytest.mark.parametrize("size", [0, 5])
def test_object_rejects_every_flip_and_cut(suite: int, size: int) -> None:
    """The same for a whole object, read by range and by stream."""
    draft = make_vectors.Draft("flips", suite, b"bytes"[:size])
    sealed, key = draft.bytes(), make_vectors.KEY
    refusals = (ref.FormatError, ref.WrongKeyError, ref.DecryptionError)
    for reader in (ref.open_object, ref.open_stream):
        assert draft.plaintext == reader(sealed, key)
        for bad in (*bit_flips(sealed), *(sealed[:cut] for cut in range(len(sealed)))):
            with pytest.raises(refusals):
                reader(bad, key)


@pytest.mark.parametrize("suite", [1, 2, 3])
def test_readers_agree_on_every_length(suite: int) -> None:
    """The end is found from the tail and from the front alike, at every boundary of a chunk."""
    chunk = make_vectors.C
    text = make_vectors.random("lengths", 5 * chunk)
    near = [n * chunk + d for n in range(1, 5) for d in (-60, -44, -33, -16, -1, 0, 1, 16, 44, 60)]
    for size in (0, 1, 2, *near):
        draft = make_vectors.Draft("lengths", suite, text[:size], segment_size=2 * chunk)
        assert text[:size] == ref.open_object(draft.bytes(), make_vectors.KEY)
        assert text[:size] == ref.open_stream(draft.bytes(), make_vectors.KEY)


def test_reference_does_not_use_the_package() -> None:
    """An independent opinion has to be one."""
    for module in (ref, make_vectors):
        assert module.__file__ is not None
        text = Path(module.__file__).read_text("utf-8")
        assert re.findall(r"^\s*(?:import|from) anyseal", text, re.MULTILINE) == []
