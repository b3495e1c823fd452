"""Writes tests/vectors/*.json: ``python tests/make_vectors.py``.

Every input comes from SHAKE-256 of a label, so a second run writes the same bytes. The JSON is
explained in docs/format.md, section 8. Only tests/reference.py is used here, never the package:
the vectors would otherwise repeat its mistakes.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator
from hashlib import shake_256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import reference as ref

Entry = dict[str, Any]
VECTORS = Path(__file__).parent / "vectors"
SUITES = {1: "aegis256", 2: "aes256gcm", 3: "xchacha20poly1305"}
C = 4096
NOW = 1_900_000_000_000
LATEST = 253_402_300_799_999
HEX_LIMIT = 512


# ---- JSON --------------------------------------------------------------------------------

TEXT_FIELDS = {"id", "comment", "op", "expect", "expect_stream", "label", "partition"}
TEXT_FIELDS |= {"passphrase", "text"}


def encoded(item: Any) -> Any:
    """Byte strings as hex, long ones as {"base64": ...}."""
    if isinstance(item, bytes) and len(item) > HEX_LIMIT:
        return {"base64": base64.b64encode(item).decode("ascii")}
    if isinstance(item, bytes):
        return item.hex()
    if isinstance(item, dict):
        return {name: encoded(inner) for name, inner in item.items()}
    if isinstance(item, list):
        return [encoded(inner) for inner in item]
    return item


def decoded(field: str, item: Any) -> Any:
    """The reverse of ``encoded``: strings are hex unless the field is one of text."""
    if isinstance(item, dict) and "base64" in item:
        return base64.b64decode(item["base64"], validate=True)
    if isinstance(item, dict):
        return {name: decoded(name, inner) for name, inner in item.items()}
    if isinstance(item, list):
        return [decoded(field, inner) for inner in item]
    if isinstance(item, str) and field not in TEXT_FIELDS:
        return bytes.fromhex(item)
    return item


def load(name: str) -> list[Entry]:
    """The entries of ``tests/vectors/<name>.json``, with byte strings decoded."""
    document = json.loads((VECTORS / f"{name}.json").read_text("utf-8"))
    return [decoded("", entry) for entry in document["vectors"]]


# ---- Deterministic inputs ----------------------------------------------------------------


def random(label: str, size: int) -> bytes:
    """*size* bytes that only *label* decides."""
    return shake_256(b"anyseal vectors v1 " + label.encode()).digest(size)


MASTER, OLD_MASTER = random("master", 32), random("old master", 32)
KEY = ref.partition_key(MASTER, "tenant-a")
KEY_ID = ref.static_key_id(KEY)
OTHER_KEY = ref.partition_key(MASTER, "tenant-b")
OTHER_ID = ref.static_key_id(OTHER_KEY)
NEW_KEY = ref.partition_key(random("new master", 32), "tenant-a")
NEW_ID = ref.static_key_id(NEW_KEY)


def flipped(data: bytes, at: int, mask: int = 1) -> bytes:
    """*data* with the bits of *mask* flipped in one byte; negative *at* counts from the end."""
    at %= len(data)
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def spliced(data: bytes, at: int, piece: bytes) -> bytes:
    """*data* with *piece* written over it at *at*."""
    at %= len(data)
    return data[:at] + piece + data[at + len(piece) :]


# ---- One ciphertext for two keys (AES-GCM) -----------------------------------------------


def gf_multiply(x: int, y: int) -> int:
    """The product in the field of GHASH."""
    z = 0
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            z ^= y
        y = (y >> 1) ^ (0xE1 << 120 if y & 1 else 0)
    return z


def gf_inverse(x: int) -> int:
    """x to the power 2**128 - 2."""
    result = 1 << 127
    for bit in range(127, -1, -1):
        result = gf_multiply(result, result)
        if (2**128 - 2) >> bit & 1:
            result = gf_multiply(result, x)
    return result


def two_key_ciphertext(keys: tuple[bytes, bytes], aad: bytes, first: bytes) -> bytes:
    """A ciphertext (*first* and one block more) with the one tag that both *keys* accept."""

    def blocks(data: bytes) -> bytes:
        return data + bytes(-len(data) % 16)

    def encrypt(key: bytes, block: bytes) -> int:
        encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
        return int.from_bytes(encryptor.update(block), "big")

    def tag(key: bytes, ciphertext: bytes) -> int:
        hash_key, y = encrypt(key, bytes(16)), 0
        lengths = struct.pack(">QQ", 8 * len(aad), 8 * len(ciphertext))
        text = blocks(aad) + blocks(ciphertext) + lengths
        for at in range(0, len(text), 16):
            y = gf_multiply(y ^ int.from_bytes(text[at : at + 16], "big"), hash_key)
        return y ^ encrypt(key, bytes(15) + b"\1")

    # The last block x adds x * H**2 to the tag, so the two tags agree for exactly one x.
    zero = first + bytes(16)
    squares = [gf_multiply(h, h) for h in (encrypt(key, bytes(16)) for key in keys)]
    last = gf_multiply(tag(keys[0], zero) ^ tag(keys[1], zero), gf_inverse(squares[0] ^ squares[1]))
    ciphertext = first + last.to_bytes(16, "big")
    return ciphertext + tag(keys[0], ciphertext).to_bytes(16, "big")


def two_key_value(keys: tuple[bytes, bytes], kind: int, context: bytes, blocks: int) -> bytes:
    """A value of suite 2, under KEY_ID, which opens under both keys."""
    head = struct.pack(">2sBB16sQ", b"\xa5\x01", kind, 2, KEY_ID, 0)
    nonce = random(f"two keys {kind}", 24)
    message_keys = [ref.message_key(key, kind, 2, nonce)[0] for key in keys]
    first = random("two keys first", 16 * (blocks - 1))
    sealed = two_key_ciphertext((message_keys[0], message_keys[1]), head + context, first)
    return head + nonce + sealed


# ---- derive.json -------------------------------------------------------------------------


def derive_vectors() -> Iterator[Entry]:
    """Derivation: the encoding of labels and data, and every purpose in use."""
    nonce, h = random("derive nonce", 24), random("derive h", 32)
    salt, index = random("derive salt", 16), struct.pack(">Q", 7)
    data_key = random("derive data key", 32)
    cases: list[tuple[str, bytes, str, bytes, str]] = [
        ("zero-key", bytes(32), "user", b"", "an all-zero key derives like any other"),
        ("empty", KEY, "user", b"", "no data"),
        ("one-byte", KEY, "user", b"a", "one byte of data"),
        ("nul", KEY, "user", b"\0", "a NUL in data is data"),
        ("boundary-1", KEY, "use", b"r\0x", "the NUL after the label keeps label and data apart"),
        ("boundary-2", KEY, "user", b"\0x", "and so differs from boundary-1"),
        ("long", KEY, "user", random("derive long", 300), "data longer than a block"),
        ("id", KEY, "id", b"", "the fingerprint"),
        ("partition", MASTER, "partition", b"tenant-a", "a static keyring's partition key"),
        ("name", KEY, "name", b"\0", "names of cache entries: suite 0"),
        ("commit", data_key, "commit", h, "an object's commitment"),
        ("trailer", data_key, "trailer", h, "the key of the trailer's MAC"),
        ("receipt", data_key, "receipt", h, "the key of a receipt's MAC"),
        ("segment", data_key, "segment", h + index + salt, "the key of segment 7"),
    ]
    for purpose in ("value", "wrap", "token"):
        for suite, name in SUITES.items():
            why = f"subkey for {purpose}, suite {suite}"
            cases.append((f"{purpose}-{name}", KEY, purpose, bytes([suite]), why))
    subkey = ref.derive(KEY, "value", b"\2")
    cases.append(("gcm", subkey, "gcm", nonce, "the key of one AES-256-GCM message"))
    for name, key, label, data, comment in cases:
        yield {
            "id": f"V-derive-{name}",
            "comment": comment,
            "op": "derive",
            "key": key,
            "label": label,
            "data": data,
            "expect": "ok",
            "output": ref.derive(key, label, data),
        }


# ---- value.json --------------------------------------------------------------------------


def value_entry(name: str, comment: str, sealed: bytes, expect: str, **more: Any) -> Entry:
    """What a reader of values is given, and what must come of it."""
    entry: Entry = {
        "id": f"V-val-{name}",
        "comment": comment,
        "op": "value",
        "kind": 0,
        "key": KEY,
        "key_id": KEY_ID,
        "context": b"",
        "now_ms": NOW,
        "sealed": sealed,
        "expect": expect,
    }
    return entry | more


def honest_value(name: str, comment: str, suite: int, plaintext: bytes, **more: Any) -> Entry:
    """A value that opens, with what is needed to seal it again."""
    kind, context = more.get("kind", 0), more.get("context", b"")
    expires_at = more.pop("expires_at", NOW + 1 if kind == ref.TOKEN else 0)
    nonce = random(f"value {name}", 24)
    sealed = ref.seal_value(
        plaintext,
        KEY,
        suite=suite,
        nonce=nonce,
        kind=kind,
        context=context,
        expires_at=expires_at,
    )
    seal = {"suite": suite, "nonce": nonce, "expires_at": expires_at}
    entry = value_entry(name, comment, sealed, "ok", **more)
    return entry | {"plaintext": plaintext, "seal": seal}


def value_vectors() -> Iterator[Entry]:
    """Values: honest ones, tampered ones, misused ones."""
    for suite, name in SUITES.items():
        yield from suite_values(suite, name)
    ctx = bytes(range(256)) * 256
    yield honest_value("context-65536", "the longest context", 2, b"x", context=ctx)
    latest = honest_value("expiry-latest", "9999-12-31T23:59:59.999Z", 1, b"x", expires_at=LATEST)
    yield latest
    sealed = latest["sealed"]
    for suite in (0, 4, 255):
        why = f"no suite has number {suite}"
        yield value_entry(f"suite-{suite}", why, spliced(sealed, 3, bytes([suite])), "FormatError")
    for kind in (3, 255):
        why = f"no kind has number {kind}"
        yield value_entry(f"kind-{kind}", why, spliced(sealed, 2, bytes([kind])), "FormatError")
    both = two_key_value((KEY, OTHER_KEY), 0, b"", 1)
    why = "no key commitment: one value, two keys, two plaintexts (a documented limit)"
    for name, key in (("a", KEY), ("b", OTHER_KEY)):
        plaintext = ref.open_value(both, key, key_id=KEY_ID, now_ms=NOW)
        entry = value_entry(f"two-keys-{name}", why, both, "ok", key=key)
        yield entry | {"plaintext": plaintext}


def suite_values(suite: int, name: str) -> Iterator[Entry]:
    """What every suite must do alike."""
    for size in (0, 1, 300):
        text = random(f"value plaintext {size}", size)
        yield honest_value(f"{name}-{size}", f"{size} bytes", suite, text)
    for size in (0, 1):
        text = random(f"token plaintext {size}", size)
        why = f"kind 2 of {size} bytes: a value-level reader of tokens takes it"
        yield honest_value(f"{name}-kind2-{size}", why, suite, text, kind=ref.TOKEN)
    data_key, salt = random("value data key", 32), random("value object salt", 32)
    wrapped = honest_value(
        f"{name}-wrapped",
        "a wrapped key: kind 1, context = object salt",
        suite,
        data_key,
        op="unwrap",
        kind=ref.WRAPPED_KEY,
        context=salt,
    )
    yield wrapped
    for size in (0, 1, 31, 33):
        odd = ref.seal_value(bytes(size), KEY, suite=suite, nonce=bytes(24), kind=1, context=salt)
        yield value_entry(
            f"{name}-wrapped-{size}",
            f"a wrapped key is 32 bytes, not {size}",
            odd,
            "FormatError",
            op="unwrap",
            kind=1,
            context=salt,
        )
    ctx = b"table=users;row=17"
    text = random("value plaintext 40", 40)
    base = honest_value(f"{name}-context", "with context", suite, text, context=ctx)
    yield base
    sealed: bytes = base["sealed"]
    tag = ref.TAG_BYTES[suite]

    def bad(case: str, why: str, data: bytes, expect: str, **more: Any) -> Entry:
        return value_entry(f"{name}-{case}", why, data, expect, **({"context": ctx} | more))

    timed = honest_value(
        f"{name}-expiry-before", "1 ms before expiry", suite, text, context=ctx, expires_at=NOW + 1
    )
    yield timed
    late: bytes = timed["sealed"]
    yield bad("expiry-at", "expired at that very ms", late, "ExpiredError", now_ms=NOW + 1)
    yield bad("expiry-after", "1 ms after", late, "ExpiredError", now_ms=NOW + 2)
    why = "a clock set back opens it again: expiry is policy"
    yield bad("expiry-clock-back", why, late, "ok", now_ms=0) | {"plaintext": text}
    why = "expired and tampered: the tag is checked first"
    yield bad("expiry-tampered", why, flipped(late, -1), "DecryptionError", now_ms=NOW + 2)
    edited = spliced(late, 20, bytes(8))
    yield bad("expiry-removed", "expires_at set to never", edited, "DecryptionError")
    edited = spliced(late, 20, struct.pack(">Q", LATEST))
    yield bad("expiry-extended", "expires_at moved away", edited, "DecryptionError")
    edited = spliced(sealed, 20, struct.pack(">Q", 1))
    yield bad("expiry-added", "expires_at put in the past", edited, "DecryptionError")

    yield bad("magic-0", "byte 0", flipped(sealed, 0), "FormatError")
    yield bad("magic-1", "byte 1: version 2", spliced(sealed, 1, b"\2"), "FormatError")
    yield bad("kind-edited", "kind 0 edited to 1", spliced(sealed, 2, b"\1"), "FormatError")
    for other in SUITES:
        if other != suite:
            edited = spliced(sealed, 3, bytes([other]))
            why = f"suite edited from {suite} to {other}"
            yield bad(f"suite-to-{other}", why, edited, "DecryptionError")
    yield bad("key-id-edited", "an id nobody has", flipped(sealed, 4), "WrongKeyError")
    yield bad("nonce-edited", "first nonce bit", flipped(sealed, 28, 128), "DecryptionError")
    yield bad("nonce-end-edited", "last nonce bit", flipped(sealed, 51), "DecryptionError")
    yield bad("text-edited", "first ciphertext bit", flipped(sealed, 52, 128), "DecryptionError")
    yield bad("tag-edited", "last bit of the tag", flipped(sealed, -1), "DecryptionError")
    yield bad("tag-first-edited", "first bit of the tag", flipped(sealed, -tag), "DecryptionError")
    for size in (0, 1, 2, 3, 4, 27, 28, 51, 52, 52 + tag - 1):
        yield bad(f"cut-to-{size}", f"cut to {size} bytes", sealed[:size], "FormatError")
    yield bad("cut-to-overhead", "cut to 52 + tag", sealed[: 52 + tag], "DecryptionError")
    yield bad("cut-1", "cut by one byte", sealed[:-1], "DecryptionError")
    yield bad("appended", "one byte more", sealed + b"\0", "DecryptionError")

    yield bad("context-missing", "sealed with, opened without", sealed, "DecryptionError") | {
        "context": b""
    }
    yield bad("context-wrong", "one bit off", sealed, "DecryptionError", context=flipped(ctx, 0))
    yield bad("context-longer", "one byte more", sealed, "DecryptionError", context=ctx + b"\0")
    why = "the reader's partition knows another id"
    yield bad("wrong-partition", why, sealed, "WrongKeyError", key=OTHER_KEY, key_id=OTHER_ID)
    why = "the id matches, the key does not"
    yield bad("wrong-key", why, sealed, "DecryptionError", key=OTHER_KEY)

    text = wrapped["sealed"]
    why = "a wrapped key offered as a value"
    yield bad("wrapped-as-value", why, text, "FormatError", context=salt)
    why = "the same with its kind edited to 0"
    edited = spliced(text, 2, b"\0")
    yield bad("wrapped-relabelled", why, edited, "DecryptionError", context=salt)
    token = ref.seal_value(
        b"t", KEY, suite=suite, nonce=random("token", 24), kind=2, expires_at=NOW + 1
    )
    why = "a token offered as a value"
    yield bad("token-as-value", why, token, "FormatError", context=b"")
    why = "the same with its kind edited to 0"
    edited = spliced(token, 2, b"\0")
    yield bad("token-relabelled", why, edited, "DecryptionError", context=b"")
    why = "a value offered as a wrapped key"
    plain = ref.seal_value(data_key, KEY, suite=suite, nonce=bytes(24), context=salt)
    more: Entry = {"op": "unwrap", "kind": 1, "context": salt}
    yield bad("value-as-wrapped", why, plain, "FormatError", **more)
    why = "a wrapped key never expires, whatever its tag says"
    odd = ref.seal_value(
        data_key, KEY, suite=suite, nonce=bytes(24), kind=1, context=salt, expires_at=NOW + 1
    )
    yield bad("wrapped-with-expiry", why, odd, "FormatError", **more)
    why = "another object's salt"
    more["context"] = flipped(salt, 0)
    yield bad("wrapped-other-salt", why, wrapped["sealed"], "DecryptionError", **more)
    why = "a token always expires, whatever its tag says"
    odd = ref.seal_value(b"t", KEY, suite=suite, nonce=bytes(24), kind=2)
    yield bad("token-without-expiry", why, odd, "FormatError", kind=2, context=b"")


# ---- object.json -------------------------------------------------------------------------


class Draft:
    """One object in pieces, so that a vector may replace any of them."""

    def __init__(
        self,
        name: str,
        suite: int,
        plaintext: bytes,
        *,
        segment_size: int = C,
        chunk_log2: int = 12,
        context: bytes = b"",
        salts: list[bytes] | None = None,
    ) -> None:
        self.name, self.suite, self.plaintext, self.context = name, suite, plaintext, context
        self.segment_size, self.chunk_log2 = segment_size, chunk_log2
        self.object_salt, self.data_key = random(f"{name} salt", 32), random(f"{name} key", 32)
        self.wrap_nonce = random(f"{name} wrap", 24)
        self.fields = ref.header_fields(suite, chunk_log2, segment_size, self.object_salt)
        n = -(-len(plaintext) // segment_size)
        self.salts = salts or [random(f"{name} segment {j}", 16) for j in range(n)]
        self.finish(context)

    def finish(self, context: bytes) -> None:
        """Seal with what the attributes say now."""
        self.h = ref.context_hash(self.fields, context)
        self.wrapped = ref.wrap(self.data_key, KEY, self.suite, self.object_salt, self.wrap_nonce)
        self.segments = []
        for j, salt in enumerate(self.salts):
            piece = self.plaintext[j * self.segment_size : (j + 1) * self.segment_size]
            chunk = 2**self.chunk_log2
            self.segments.append(
                ref.seal_segment(piece, self.data_key, self.h, self.suite, j, salt, chunk)
            )
        self.trailer = self.make_trailer()

    def make_trailer(
        self, salts: list[bytes] | None = None, length: int | None = None, n: int | None = None
    ) -> bytes:
        """A trailer with a valid MAC, whatever it claims."""
        length = len(self.plaintext) if length is None else length
        salts = self.salts if salts is None else salts
        return ref.make_trailer(self.data_key, self.h, salts, length, n)

    @property
    def header(self) -> bytes:
        return ref.make_header(self.fields, self.wrapped, self.data_key, self.h)

    def bytes(self, segments: list[bytes] | None = None, trailer: bytes | None = None) -> bytes:
        """The object, with pieces replaced."""
        body = self.segments if segments is None else segments
        return self.header + b"".join(body) + (self.trailer if trailer is None else trailer)

    def entry(self, name: str, comment: str, **more: Any) -> Entry:
        """A vector in which this object opens, with what is needed to seal it again."""
        sealed = ref.seal_object(
            self.plaintext,
            KEY,
            suite=self.suite,
            chunk_log2=self.chunk_log2,
            segment_size=self.segment_size,
            object_salt=self.object_salt,
            data_key=self.data_key,
            segment_salts=self.salts,
            wrap_nonce=self.wrap_nonce,
            context=self.context,
        )
        if sealed != self.bytes():
            raise AssertionError(name)
        seal = {
            "suite": self.suite,
            "chunk_log2": self.chunk_log2,
            "segment_size": self.segment_size,
            "object_salt": self.object_salt,
            "data_key": self.data_key,
            "wrap_nonce": self.wrap_nonce,
            "segment_salts": self.salts,
            "h": self.h,
        }
        entry = object_entry(name, comment, sealed, "ok", context=self.context, **more)
        return entry | {"plaintext": self.plaintext, "seal": seal}


def object_entry(name: str, comment: str, sealed: bytes, expect: str, **more: Any) -> Entry:
    """What a reader of objects is given, and what must come of it."""
    entry: Entry = {
        "id": f"V-obj-{name}",
        "comment": comment,
        "op": "object",
        "key": KEY,
        "key_id": KEY_ID,
        "context": b"",
        "sealed": sealed,
        "expect": expect,
    }
    return entry | more


def object_vectors() -> Iterator[Entry]:
    """All objects; ``expect_stream`` stays only where it says something new."""
    for entry in all_object_vectors():
        if entry.get("expect_stream") == entry["expect"] and "range" not in entry:
            del entry["expect_stream"]
        yield entry


def all_object_vectors() -> Iterator[Entry]:
    """Objects: honest ones, ranges, and everything an attacker may send instead."""
    big = random("object plaintext", 4 * C)
    for suite, name in SUITES.items():
        for size in (0, 1, C - 1, C, C + 1, 2 * C, 2 * C + 1):
            draft = Draft(f"{name} {size}", suite, big[:size], segment_size=2 * C)
            yield draft.entry(f"{name}-{size}", f"{size} bytes; C = 4096, S = 8192")
        yield from header_edits(suite, name, big)
    yield from geometry_limits(big)
    yield from range_vectors(big)
    yield from trailer_edits(big)
    yield from segment_attacks(big)
    yield from key_attacks(big)


def header_edits(suite: int, name: str, big: bytes) -> Iterator[Entry]:
    """Small objects whose header, keys, context or length are not what they were."""
    ctx = b"bucket=b;key=k"
    draft = Draft(f"{name} edits", suite, big[:40], segment_size=2 * C, context=ctx)
    yield draft.entry(f"{name}-context", "with context")
    sealed, size = draft.bytes(), len(draft.header)

    def bad(case: str, why: str, data: bytes, expect: str, **more: Any) -> Entry:
        return object_entry(f"{name}-{case}", why, data, expect, **({"context": ctx} | more))

    for at in range(8):
        data = flipped(sealed, at)
        yield bad(f"magic-{at}", "magic and version", data, "FormatError")
    for number in (0, 4, 255):
        data = spliced(sealed, 8, bytes([number]))
        yield bad(f"suite-{number}", "unknown suite", data, "FormatError")
    for number in SUITES:
        if number != suite:
            data = spliced(sealed, 8, bytes([number]))
            why = f"suite edited to {number}: the wrapped key names another"
            yield bad(f"suite-to-{number}", why, data, "FormatError")
    if suite != ref.AEGIS256:
        other = bytes([5 - suite])
        data = spliced(spliced(sealed, 8, other), 55, other)
        yield bad("suite-both", "suite edited in both places", data, "DecryptionError")
    for log2 in (0, 11, 25, 255):
        data = spliced(sealed, 9, bytes([log2]))
        yield bad(f"chunk-log2-{log2}", "chunk_log2 out of 12 to 24", data, "FormatError")
    data = spliced(sealed, 9, b"\x0d")
    yield bad("chunk-log2-edited", "another valid chunk_log2", data, "DecryptionError")
    data = spliced(sealed, 9, b"\x0e")
    yield bad("chunk-log2-vs-segment", "S is no multiple of C then", data, "FormatError")
    yield bad("flags-high", "flags", spliced(sealed, 10, b"\x80\0"), "FormatError")
    yield bad("flags-low", "flags", spliced(sealed, 10, b"\0\x01"), "FormatError")
    for segment_size in (0, C - 1, 2 * C + 1, 2**36 + C, 2**63, 2**64 - C):
        data = spliced(sealed, 12, struct.pack(">Q", segment_size))
        why = f"segment_size {segment_size} is out of bounds"
        yield bad(f"segment-size-{segment_size}", why, data, "FormatError")
    for segment_size in (C, 4 * C, 2**36):
        data = spliced(sealed, 12, struct.pack(">Q", segment_size))
        why = f"segment_size edited to {segment_size}: valid, but committed to"
        yield bad(f"segment-size-{segment_size}", why, data, "DecryptionError")
    yield bad("object-salt", "first bit", flipped(sealed, 20, 128), "DecryptionError")
    yield bad("object-salt-end", "last bit", flipped(sealed, 51), "DecryptionError")
    yield bad("wrapped-magic", "wrapped key's magic", flipped(sealed, 52), "FormatError")
    yield bad("wrapped-version", "wrapped key's version", flipped(sealed, 53), "FormatError")
    yield bad("wrapped-kind", "its kind edited to 0", spliced(sealed, 54, b"\0"), "FormatError")
    yield bad("wrapped-key-id", "an id nobody has", flipped(sealed, 56), "WrongKeyError")
    data = spliced(sealed, 72, struct.pack(">Q", LATEST))
    yield bad("wrapped-expiry", "a wrapped key never expires", data, "FormatError")
    yield bad("wrapped-nonce", "wrapped key's nonce", flipped(sealed, 80), "DecryptionError")
    yield bad("wrapped-text", "wrapped key's ciphertext", flipped(sealed, 104), "DecryptionError")
    yield bad("wrapped-tag", "wrapped key's tag", flipped(sealed, size - 33), "DecryptionError")
    yield bad("commitment", "first bit", flipped(sealed, size - 32, 128), "DecryptionError")
    yield bad("commitment-end", "last bit", flipped(sealed, size - 1), "DecryptionError")
    wrong = {"context-missing": b"", "context-longer": ctx + b"\0", "context-edited": ctx[:-1]}
    for case, context in wrong.items():
        yield bad(case, "not the writer's context", sealed, "DecryptionError", context=context)
    why = "the reader's partition knows another id"
    yield bad("wrong-partition", why, sealed, "WrongKeyError", key=OTHER_KEY, key_id=OTHER_ID)
    why = "the id matches, the key does not"
    yield bad("wrong-key", why, sealed, "DecryptionError", key=OTHER_KEY)
    for cut in (0, 7, 51, 52, size - 1, size, size + 43):
        why = f"cut to {cut} bytes: less than header and 44"
        yield bad(f"cut-to-{cut}", why, sealed[:cut], "FormatError")
    why = "cut to header and 44: the tail is no trailer"
    yield bad("cut-to-minimum", why, sealed[: size + 44], "FormatError")
    for cut in (1, 16, 44, 60):
        yield bad(f"cut-{cut}", f"cut by {cut} bytes", sealed[:-cut], "FormatError") | stream(
            sealed[:-cut], ctx
        )
    for more in (b"\0", bytes(16), draft.trailer):
        data = sealed + more
        why = f"{len(more)} bytes appended"
        yield bad(f"appended-{len(more)}", why, data, "FormatError") | stream(data, ctx)
    yield bad("prepended", "one byte before", b"\0" + sealed, "FormatError")
    at = len(sealed) - 44 - 16
    yield bad("trailer-salt", "salt edited", flipped(sealed, at), "DecryptionError")
    yield bad("trailer-mac", "MAC edited", flipped(sealed, -1), "DecryptionError")
    yield bad("inline-salt", "inline salt edited", flipped(sealed, size), "DecryptionError")
    yield bad("chunk-edited", "ciphertext edited", flipped(sealed, size + 16), "DecryptionError")
    yield bad("tag-edited", "chunk's tag edited", flipped(sealed, at - 1), "DecryptionError")


def outcome(call: Callable[[], object]) -> str:
    """The name of what *call* raises, or "ok"."""
    try:
        call()
    except ref.RefusedError as error:
        return type(error).__name__
    return "ok"


def stream(sealed: bytes, context: bytes = b"") -> Entry:
    """What the reference's pipe reader makes of *sealed*.

    Only for cuts, extensions and moved segments, where it depends on which bytes happen to stand
    at the end; tests/test_reference.py checks that it always is a refusal.
    """
    result = outcome(lambda: ref.open_stream(sealed, KEY, context=context))
    if result == "ok":
        raise AssertionError("a pipe reader accepts what a range reader refuses")
    return {"expect_stream": result}


def geometry_limits(big: bytes) -> Iterator[Entry]:
    """The largest and smallest sizes a header may state, and the first beyond."""
    draft = Draft("segment 2**36", 2, big[:17], segment_size=2**36)
    yield draft.entry("segment-size-max", "S = 2**36, of which 17 bytes are used")
    draft = Draft("chunk 2**24", 2, big[:17], segment_size=2**24, chunk_log2=24)
    yield draft.entry("chunk-log2-max", "chunk_log2 = 24: a reader allocates for 17 bytes")
    draft = Draft("all max", 3, b"", segment_size=2**36, chunk_log2=24)
    yield draft.entry("empty-max", "empty, with the largest S and C")
    draft = Draft("S=C", 2, big[: 2 * C + 1], segment_size=C)
    yield draft.entry("segment-is-chunk", "S = C = 4096, three segments")
    why = "a valid commitment and MAC do not excuse a size out of bounds"
    for segment_size, log2 in ((2**36 + C, 12), (0, 12), (C + 1, 12), (2**11, 11), (2**25, 25)):
        draft = Draft(f"bounds {segment_size}", 2, b"", segment_size=C)
        draft.fields = ref.header_fields(2, log2, segment_size, draft.object_salt)
        draft.finish(b"")
        name = f"committed-{segment_size}-{log2}"
        yield object_entry(name, why, draft.bytes(), "FormatError")
    draft = Draft("flags", 2, b"")
    draft.fields = spliced(draft.fields, 10, b"\0\1")
    draft.finish(b"")
    yield object_entry("committed-flags", why, draft.bytes(), "FormatError")
    draft = Draft("context max", 3, b"x", context=bytes(range(256)) * 256)
    yield draft.entry("context-65536", "the longest context")


def range_vectors(big: bytes) -> Iterator[Entry]:
    """Ranges: the plaintext of just that range, also beside a damaged chunk."""
    for suite, name in SUITES.items():
        draft = Draft(f"range {name}", suite, big[: 2 * C + 9], segment_size=2 * C)
        yield draft.entry(f"range-{name}-all", "three chunks in two segments")
        if suite != ref.AES256GCM:
            continue
        sealed = draft.bytes()
        ranges = [(0, 0), (0, 1), (C - 1, 2), (C, C), (2 * C - 1, 2), (2 * C + 8, 1)]
        ranges += [(2 * C + 9, 0), (1, 2 * C + 7)]
        for start, length in ranges:
            name = f"range-{start}-{length}"
            why = f"bytes {start} to {start + length}"
            entry = object_entry(name, why, sealed, "ok", range={"start": start, "length": length})
            yield entry | {"plaintext": draft.plaintext[start : start + length]}
        damaged = flipped(sealed, len(draft.header) + 16 + C + 16)
        why = "chunk 1 of segment 0 is damaged; the range"
        for case, start, length, expect in (
            ("before", 0, C, "ok"),
            ("into", C - 1, 2, "DecryptionError"),
            ("inside", C + 5, 1, "DecryptionError"),
            ("after", 2 * C, 9, "ok"),
        ):
            entry = object_entry(
                f"range-damage-{case}",
                f"{why} is {case}",
                damaged,
                expect,
                expect_stream="DecryptionError",
                range={"start": start, "length": length},
            )
            if expect == "ok":
                entry["plaintext"] = draft.plaintext[start : start + length]
            yield entry


def trailer_edits(big: bytes) -> Iterator[Entry]:
    """Trailers that claim too much or too little, with and without a valid MAC."""
    draft = Draft("trailer", 2, big[:40])
    salt = draft.salts[0]
    claims: dict[str, tuple[list[bytes], int, int]] = {
        "length-plus-1": ([salt], 41, 1),
        "length-minus-1": ([salt], 39, 1),
        "length-0": ([salt], 0, 1),
        "length-max": ([salt], 2**64 - 1, 1),
        "length-wraps": ([salt], 2**64 - C, 1),
        "length-wraps-n": ([salt], C * 2**32 + 40, 1),
        "n-0": ([salt], 40, 0),
        "n-2": ([salt], 40, 2),
        "n-2-20": ([salt], C * 2**20, 2**20),
        "n-2-20-plus-1": ([salt], C * 2**20 + 1, 2**20 + 1),
        "n-max": ([salt], 40, 2**32 - 1),
        "all-max": ([salt], 2**64 - 1, 2**32 - 1),
        "n-and-length-max": ([salt], C * (2**32 - 1), 2**32 - 1),
        "salt-missing": ([], 40, 0),
        "salt-missing-n-kept": ([], 40, 1),
        "salt-extra": ([salt, salt], 40, 2),
        "salt-extra-length": ([salt, salt], C + 40, 2),
    }
    for case, (salts, length, n) in claims.items():
        valid = draft.make_trailer(salts, length, n)
        for suffix, trailer in (("mac", valid), ("nomac", valid[:-32] + draft.trailer[-32:])):
            sealed = draft.bytes(trailer=trailer)
            why = f"trailer claims {len(salts)} salts, length {length}, n = {n}; "
            why += "its MAC is valid" if suffix == "mac" else "its MAC is that of the true one"
            entry = object_entry(f"trailer-{case}-{suffix}", why, sealed, "FormatError")
            yield entry | stream(sealed)
    draft = Draft("trailer salts", 2, big[: C + 40])
    first, second = draft.salts
    for case, salts in (("swapped", [second, first]), ("foreign", [first, random("x", 16)])):
        valid = draft.make_trailer(salts)
        why = f"salts {case}, the sizes agree"
        for suffix, trailer in (("mac", valid), ("nomac", valid[:-32] + draft.trailer[-32:])):
            sealed = draft.bytes(trailer=trailer)
            yield object_entry(f"trailer-salts-{case}-{suffix}", why, sealed, "DecryptionError")
    empty = Draft("trailer empty", 2, b"")
    for case, length, n in (("length-1", 1, 0), ("n-1", 0, 1), ("both-max", 2**64 - 1, 2**32 - 1)):
        sealed = empty.bytes(trailer=empty.make_trailer([], length, n))
        why = f"an empty object's trailer claims length {length}, n = {n}, with a valid MAC"
        yield object_entry(f"trailer-empty-{case}", why, sealed, "FormatError")
    chunk = ref.segment_key(empty.data_key, empty.h, 0, bytes(16))
    sealed = empty.bytes([bytes(16) + ref.aead_seal(2, chunk, bytes(12), b"", b"")], None)
    why = "a segment that holds one empty chunk, and a trailer that denies it"
    yield object_entry("empty-segment", why, sealed, "FormatError")
    sealed = empty.bytes(
        [bytes(16) + ref.aead_seal(2, chunk, bytes(12), b"", b"")],
        empty.make_trailer([bytes(16)], 0, 1),
    )
    why = "the same with n = 1 and a valid MAC: an empty object has n = 0"
    yield object_entry("empty-segment-n-1", why, sealed, "FormatError")


def segment_attacks(big: bytes) -> Iterator[Entry]:
    """Segments and chunks moved, repeated, dropped, mixed."""
    text = big[: 2 * C + 40]
    one = Draft("mix", 2, text)
    again = Draft("mix", 2, text, salts=[random(f"mix again {j}", 16) for j in range(3)])
    foreign = Draft("mix foreign", 2, text)
    a, b, c = one.segments
    b2 = again.segments[1]
    sa, sb, sc = one.salts

    def bad(
        case: str, why: str, segments: list[bytes], expect: str, trailer: bytes | None = None
    ) -> Entry:
        sealed = one.bytes(segments, trailer)
        return object_entry(f"segments-{case}", why, sealed, expect) | stream(sealed)

    tampered, sizes = "DecryptionError", "FormatError"
    yield one.entry("segments-untouched", "three segments; the originals of what follows")
    yield bad("swapped", "segments 0 and 1 change places", [b, a, c], tampered)
    why = "the same, their salts too"
    trailer = one.trailer[:-32]
    trailer = sb + sa + trailer[32:] + one.trailer[-32:]
    yield bad("swapped-salts", why, [b, a, c], tampered, trailer)
    why = "the same, with a valid MAC: the index is in the segment's key"
    yield bad("swapped-salts-mac", why, [b, a, c], tampered, one.make_trailer([sb, sa, sc]))
    yield bad("replaced", "segment 1 is replaced by segment 0", [a, a, c], tampered)
    yield bad("repeated", "segment 0 stands twice", [a, a, b, c], sizes)
    why = "the same, with a trailer that agrees and a valid MAC"
    trailer = one.make_trailer([sa, sa, sb, sc], 3 * C + 40)
    yield bad("repeated-mac", why, [a, a, b, c], tampered, trailer)
    yield bad("dropped-first", "segment 0 is missing", [b, c], sizes)
    yield bad("dropped-middle", "segment 1 is missing", [a, c], sizes)
    yield bad("dropped-last", "segment 2 is missing", [a, b], sizes)
    why = "segment 2 is missing and the trailer agrees; its MAC is the old one"
    trailer = one.make_trailer([sa, sb], 2 * C)[:-32] + one.trailer[-32:]
    yield bad("dropped-last-agreed", why, [a, b], tampered, trailer)
    why = "all are missing and the trailer says so; its MAC is the old one"
    trailer = one.make_trailer([], 0)[:-32] + one.trailer[-32:]
    yield bad("dropped-all-agreed", why, [], tampered, trailer)
    why = "segment 1 comes from a second sealing of the same part (same data key, new salt)"
    yield bad("mixed", why, [a, b2, c], tampered)
    why = "the other way round: the second sealing's trailer"
    yield bad("mixed-other-trailer", why, [a, b2, c], tampered, again.trailer)
    why = "the first sealing's segments under the second's trailer"
    yield bad("mixed-all", why, [a, b, c], tampered, again.trailer)
    why = "the second sealing's salt before the first's chunks"
    yield bad("mixed-salt", why, [a, b2[:16] + b[16:], c], tampered)
    why = "the same, and the trailer names that salt with a valid MAC"
    trailer = one.make_trailer([sa, again.salts[1], sc])
    yield bad("mixed-salt-mac", why, [a, b2[:16] + b[16:], c], tampered, trailer)
    why = "segment 0 comes from another object of the same key and plaintext"
    yield bad("foreign", why, [foreign.segments[0], b, c], tampered)
    why = "another object's trailer"
    yield bad("foreign-trailer", why, [a, b, c], tampered, foreign.trailer)
    why = "the body and trailer of another object under this header"
    yield bad("foreign-body", why, foreign.segments, tampered, foreign.trailer)
    why = "two objects one after the other"
    yield bad("concatenated", why, [a, b, c, one.trailer, foreign.bytes()], sizes)

    pair = Draft("chunks", 1, big[: 2 * C + 5], segment_size=4 * C)
    whole = pair.segments[0]
    x, y, z = whole[16 : 16 + C + 32], whole[16 + C + 32 : 16 + 2 * C + 64], whole[-37:]
    salt = whole[:16]

    def chunks(case: str, why: str, pieces: list[bytes], expect: str) -> Entry:
        sealed = pair.bytes([salt, *pieces])
        return object_entry(f"chunks-{case}", why, sealed, expect) | stream(sealed)

    yield pair.entry("chunks-untouched", "one segment of three chunks")
    yield chunks("swapped", "chunks 0 and 1 change places", [y, x, z], tampered)
    yield chunks("replaced", "chunk 1 is replaced by chunk 0", [x, x, z], tampered)
    yield chunks("repeated", "chunk 0 stands twice", [x, x, y, z], sizes)
    yield chunks("dropped", "chunk 1 is missing", [x, z], sizes)
    yield chunks("dropped-last", "the last chunk is missing", [x, y], sizes)
    yield chunks("shortened", "the last chunk lost a byte", [x, y, z[:-1]], sizes)
    yield chunks(
        "moved-cut", "chunk 0 lost a byte, chunk 1 gained one", [x[:-1], y, z, b"\0"], tampered
    )


def key_attacks(big: bytes) -> Iterator[Entry]:
    """Wrapped keys exchanged, re-wrapped and made to open under two keys."""
    for suite, name in SUITES.items():
        draft = Draft(f"rewrap {name}", suite, big[:40])
        other = Draft(f"rewrap other {name}", suite, big[:40])
        before = draft.bytes()
        nonce = random("rewrap nonce", 24)
        for case, key, key_id in (("same", NEW_KEY, NEW_ID), ("other", OTHER_KEY, OTHER_ID)):
            draft.wrapped = ref.wrap(draft.data_key, key, suite, draft.object_salt, nonce)
            why = f"re-wrapped under a new key of the {case} partition; the body is unchanged"
            entry = object_entry(
                f"{name}-rewrap-{case}", why, draft.bytes(), "ok", key=key, key_id=key_id
            )
            yield entry | {"plaintext": draft.plaintext, "before": before}
            why = "the old key does not know the new id"
            sealed = draft.bytes()
            yield object_entry(f"{name}-rewrap-{case}-old-key", why, sealed, "WrongKeyError")
        why = "another object's wrapped key: its context is the other salt"
        draft.wrapped = other.wrapped
        yield object_entry(f"{name}-wrapped-foreign", why, draft.bytes(), "DecryptionError")
        why = "another data key, wrapped for this salt: the commitment fails"
        draft.wrapped = ref.wrap(other.data_key, KEY, suite, draft.object_salt, nonce)
        sealed = draft.fields + draft.wrapped + before[len(draft.fields) + len(draft.wrapped) :]
        yield object_entry(f"{name}-data-key-foreign", why, sealed, "DecryptionError")
    draft = Draft("two keys", 2, big[:40])
    draft.wrapped = two_key_value((KEY, OTHER_KEY), 1, draft.object_salt, 2)
    draft.data_key = ref.unwrap(draft.wrapped, KEY, draft.object_salt, KEY_ID)
    wrapped = draft.wrapped
    draft.finish(b"")
    draft.wrapped = wrapped
    why = "a wrapped key which unwraps under two keys: the commitment lets one through"
    entry = object_entry("two-keys-a", why, draft.bytes(), "ok")
    yield entry | {"plaintext": draft.plaintext}
    yield object_entry("two-keys-b", why, draft.bytes(), "DecryptionError", key=OTHER_KEY)


# ---- keyring.json ------------------------------------------------------------------------


def keyring_vectors() -> Iterator[Entry]:
    """Partition keys, key ids, look-ups by id, passphrases."""
    partitions = {
        "ascii": "tenant-a",
        "one-byte": "x",
        "1024-bytes": "p" * 1024,
        "composed": "caf\u00e9",
        "decomposed": "cafe\u0301",
        "nul": "a\0b",
        "case": "Tenant-A",
        "astral": "\U0001f511",
    }
    for case, partition in partitions.items():
        key = ref.partition_key(MASTER, partition)
        yield {
            "id": f"V-key-static-{case}",
            "comment": "a static keyring's key of one partition; UTF-8, never normalised",
            "op": "static",
            "master": MASTER,
            "partition": partition,
            "expect": "ok",
            "key": key,
            "fingerprint": ref.derive(key, "id"),
            "key_id": ref.static_key_id(key),
        }
    old = ref.partition_key(OLD_MASTER, "tenant-a")
    lookups: list[tuple[str, str, bytes, list[bytes], bytes | None]] = [
        ("current", "the current master", KEY_ID, [MASTER, OLD_MASTER], KEY),
        ("previous", "a previous master", ref.static_key_id(old), [MASTER, OLD_MASTER], old),
        ("removed", "its master is gone", ref.static_key_id(old), [MASTER], None),
        ("partition", "another partition's id", OTHER_ID, [MASTER, OLD_MASTER], None),
        ("near", "one bit off", flipped(KEY_ID, -1), [MASTER, OLD_MASTER], None),
        ("zero", "all zeros", bytes(16), [MASTER, OLD_MASTER], None),
    ]
    for case, comment, key_id, masters, found in lookups:
        entry: Entry = {
            "id": f"V-key-lookup-{case}",
            "comment": comment,
            "op": "lookup",
            "masters": masters,
            "partition": "tenant-a",
            "key_id": key_id,
            "expect": "WrongKeyError" if found is None else "ok",
        }
        yield entry if found is None else entry | {"key": found}
    for case, key in (("a", KEY), ("b", OTHER_KEY)):
        created = 1_800_000_000
        yield {
            "id": f"V-key-hierarchy-{case}",
            "comment": "created u64 seconds || fingerprint[:8]; the same second in two partitions",
            "op": "hierarchy",
            "key": key,
            "created": created,
            "expect": "ok",
            "key_id": struct.pack(">Q", created) + ref.derive(key, "id")[:8],
        }
    yield from passphrase_vectors()


def passphrase_vectors() -> Iterator[Entry]:
    """Argon2id at small costs, and costs which must not be paid."""

    def entry(case: str, comment: str, key_id: bytes, expect: str, **more: Any) -> Entry:
        base: Entry = {
            "id": f"V-key-passphrase-{case}",
            "comment": comment,
            "op": "passphrase",
            "passphrase": "correct horse battery staple",
            "partition": "tenant-a",
            "key_id": key_id,
            "expect": expect,
        }
        return base | more

    salt, made = random("passphrase salt", 8), {}
    honest = {
        "least": (3, 1, "correct horse battery staple", "tenant-a"),
        "small": (6, 3, "correct horse battery staple", "tenant-a"),
        "sixteen-passes": (3, 16, "correct horse battery staple", "tenant-a"),
        "partition": (3, 1, "correct horse battery staple", "tenant-b"),
        "unicode": (3, 1, "mot de passe \u00e9", "caf\u00e9"),
        "long": (3, 1, "x" * 200, "tenant-a"),
    }
    for case, (log2_kib, passes, passphrase, partition) in honest.items():
        head = bytes([log2_kib, passes]) + salt
        key = ref.passphrase_stretch(passphrase.encode(), partition, head)
        key_id = made[case] = head + ref.derive(key, "id")[:6]
        why = f"2**{log2_kib} KiB, {passes} passes"
        more: Entry = {"passphrase": passphrase, "partition": partition, "key": key}
        yield entry(case, why, key_id, "ok", **more)
    least, wrong = made["least"], "WrongKeyError"
    why = "another passphrase"
    yield entry("wrong", why, least, wrong, passphrase="Correct horse battery staple")
    yield entry("wrong-partition", "another partition", least, wrong, partition="tenant-b")
    yield entry("wrong-salt", "salt edited", flipped(least, 2), wrong)
    yield entry("wrong-fingerprint", "fingerprint edited", flipped(least, -1), wrong)
    yield entry("wrong-passes", "passes edited", spliced(least, 1, b"\2"), wrong)
    for log2_kib, passes in ((0, 1), (2, 1), (21, 1), (255, 1), (3, 0), (3, 17), (3, 255)):
        why = f"2**{log2_kib} KiB, {passes} passes: out of bounds, refused before Argon2id"
        key_id = spliced(least, 0, bytes([log2_kib, passes]))
        yield entry(f"costs-{log2_kib}-{passes}", why, key_id, wrong)


# ---- multipart.json ----------------------------------------------------------------------


def multipart_vectors() -> Iterator[Entry]:
    """Tokens and receipts, honest and not, and the choice of segment sizes."""
    yield from token_vectors()
    yield from receipt_vectors()
    yield from geometry_vectors()


def token_fields(suite: int) -> ref.TokenFields:
    """What the honest tokens say."""
    draft = Draft(f"token {suite}", suite, b"", segment_size=5 * 2**20, chunk_log2=16)
    return ref.TokenFields(
        plaintext_length=12 * 2**20 + 1,
        h=draft.h,
        header=draft.header,
        bucket=b"backups",
        object_key="d\u00e9p\u00f4t/2031.tar".encode(),
        upload_id=b"2~upload-id",
    )


def token_vectors() -> Iterator[Entry]:
    """Tokens."""

    def entry(case: str, comment: str, text: str, expect: str, **more: Any) -> Entry:
        base: Entry = {
            "id": f"V-token-{case}",
            "comment": comment,
            "op": "token",
            "key": KEY,
            "key_id": KEY_ID,
            "now_ms": NOW,
            "text": text,
            "expect": expect,
        }
        return base | more

    for suite, name in SUITES.items():
        fields, nonce = token_fields(suite), random(f"token nonce {suite}", 24)
        text = ref.encode_token(fields, KEY, suite, nonce, NOW + 1)
        says: Entry = {"fields": dict(vars(fields))}
        seal: Entry = {"seal": {"suite": suite, "nonce": nonce, "expires_at": NOW + 1}}
        yield entry(name, "1 ms before expiry", text, "ok", **says, **seal)
        yield entry(f"{name}-expired", "expired", text, "ExpiredError", now_ms=NOW + 1)
        why = "expired, read by abort, which does not look at the clock (now_ms is null)"
        yield entry(f"{name}-abort", why, text, "ok", now_ms=None, **says)
        why = "another partition's caller"
        theirs: Entry = {"key": OTHER_KEY, "key_id": OTHER_ID}
        yield entry(f"{name}-wrong-partition", why, text, "WrongKeyError", **theirs)

    suite, nonce = 2, random("token nonce 2", 24)
    fields = token_fields(suite)
    text, raw = ref.encode_token(fields, KEY, suite, nonce, NOW + 1), fields.encode()
    sealed = ref.from_text(text)

    def sealed_as(plaintext: bytes, kind: int = 2, expires_at: int = NOW + 1) -> str:
        return ref.to_text(
            ref.seal_value(
                plaintext, KEY, suite=suite, nonce=nonce, kind=kind, expires_at=expires_at
            )
        )

    why = "abort refuses what is not authentic, expired or not"
    yield entry("abort-tampered", why, ref.to_text(flipped(sealed, -1)), "DecryptionError")
    yield entry(
        "tampered", "a bit of ciphertext", ref.to_text(flipped(sealed, 60)), "DecryptionError"
    )
    cases = {
        "empty-text": ("no text at all", ""),
        "padded": ("base64 padding", text + "=" * (-len(text) % 4 or 4)),
        "newline": ("a newline at the end", text + "\n"),
        "space": ("a space inside", text[:40] + " " + text[40:]),
        "plus": (
            "the other base64 alphabet",
            ref.to_text(sealed).replace("_", "/").replace("-", "+"),
        ),
        "not-ascii": ("a letter that is none of base64url", text[:-1] + "\u00e9"),
        "length-1-mod-4": ("no base64 has this length", "A" * 101),
        "cut": ("cut inside the tag's minimum", ref.to_text(sealed[:67])),
        "too-long": ("longer than 8 KiB of text", sealed_as(raw + bytes(7000))),
        "value": ("a value offered as a token", sealed_as(raw, kind=0)),
        "trailing": ("one byte after the last field", sealed_as(raw + b"\0")),
        "short-field": ("the last field's length says more than there is", sealed_as(raw[:-1])),
        "no-fields": ("nothing after H", sealed_as(raw[:40])),
        "short-h": ("H cut off", sealed_as(raw[:39])),
        "without-expiry": ("a token always expires", sealed_as(raw, expires_at=0)),
    }
    odd = ref.TokenFields(0, fields.h, fields.header + b"\0", b"b", b"k", b"u")
    cases["header-longer"] = ("a byte after the header", sealed_as(odd.encode()))
    odd = ref.TokenFields(0, fields.h, fields.header[:-1], b"b", b"k", b"u")
    cases["header-shorter"] = ("a byte of the header missing", sealed_as(odd.encode()))
    odd = ref.TokenFields(0, fields.h, spliced(fields.header, 9, b"\x0b"), b"b", b"k", b"u")
    cases["header-invalid"] = ("a header with chunk_log2 11", sealed_as(odd.encode()))
    odd = ref.TokenFields(5 * 2**40 + 1, fields.h, fields.header, b"b", b"k", b"u")
    cases["too-many-segments"] = ("n over 2**20", sealed_as(odd.encode()))
    for case, (why, bad) in cases.items():
        yield entry(case, why, bad, "FormatError")
    body = random("token long id", 64).hex().encode()
    longest = ref.TokenFields(0, fields.h, fields.header, b"b" * 63, b"k" * 1024, body * 16)
    good = sealed_as(longest.encode())
    yield entry("long", "long names", good, "ok", fields=dict(vars(longest)))
    spare = 8192 // 4 * 3 - len(ref.from_text(sealed_as(longest.encode())))
    full = ref.TokenFields(
        0, fields.h, fields.header, b"b" * 63, b"k" * 1024, body * 16 + b"u" * spare
    )
    good = sealed_as(full.encode())
    if len(good) != 8192:
        raise AssertionError("not the longest token")
    yield entry("longest", "8192 characters", good, "ok", fields=dict(vars(full)))


def receipt_vectors() -> Iterator[Entry]:
    """Receipts."""
    data_key, h, upload_id = random("receipt key", 32), random("receipt h", 32), b"2~upload-id"

    def entry(case: str, comment: str, text: str, expect: str, **more: Any) -> Entry:
        base: Entry = {
            "id": f"V-receipt-{case}",
            "comment": comment,
            "op": "receipt",
            "data_key": data_key,
            "h": h,
            "upload_id": upload_id,
            "text": text,
            "expect": expect,
        }
        return base | more

    for case, index, etag in (
        ("first", 0, b"9b2cf535f27731c974343645a3985328"),
        ("last", 2**20 - 1, b"9b2cf535f27731c974343645a3985328-1"),
        ("longest-etag", 7, b"e" * 255),
    ):
        receipt = ref.Receipt(
            index, 5 * 2**20, 5 * 2**20 + 1296, random(f"receipt {case}", 16), etag
        )
        text = ref.encode_receipt(receipt, data_key, h, upload_id)
        yield entry(case, f"part of segment {index}", text, "ok", fields=dict(vars(receipt)))
    receipt = ref.Receipt(0, 5, 37, random("receipt", 16), b"etag")
    text = ref.encode_receipt(receipt, data_key, h, upload_id)
    data = ref.from_text(text)
    tampered, shape = "DecryptionError", "FormatError"
    yield entry("untouched", "the original of what follows", text, "ok", fields=dict(vars(receipt)))
    yield entry("other-upload", "same object, other upload", text, tampered, upload_id=b"2~other")
    yield entry("other-h", "another header or context", text, tampered, h=flipped(h, 0))
    yield entry("other-key", "another data key", text, tampered, data_key=flipped(data_key, 0))
    for case, at in (("index", 7), ("length", 15), ("part", 23), ("salt", 24), ("etag", 41)):
        yield entry(f"{case}-edited", f"{case} edited", ref.to_text(flipped(data, at)), tampered)
    yield entry("mac-edited", "MAC edited", ref.to_text(flipped(data, -1)), tampered)
    why = "two bytes move from ETag to upload id: the length byte is under the MAC"
    moved = data[:40] + b"\2" + data[41:43] + data[-32:]
    yield entry("etag-moved", why, ref.to_text(moved), tampered, upload_id=b"ag" + upload_id)
    shapes = {
        "magic": ("byte 0", flipped(data, 0)),
        "version": ("byte 1", flipped(data, 1)),
        "kind": ("byte 2: a receipt is 3", spliced(data, 2, b"\2")),
        "reserved": ("byte 3: always 0", spliced(data, 3, b"\1")),
        "etag-length-more": ("e says one more", spliced(data, 40, b"\5")),
        "etag-length-less": ("e says one less", spliced(data, 40, b"\3")),
        "appended": ("one byte more", data + b"\0"),
        "cut": ("one byte less", data[:-1]),
        "cut-to-72": ("less than the fixed part", data[:72]),
        "empty-text": ("nothing", b""),
    }
    for case, (why, bad) in shapes.items():
        yield entry(case, why, ref.to_text(bad), shape)
    yield entry("padded", "base64 padding", text + "=" * (-len(text) % 4 or 4), shape)
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    if len(text) % 4 == 0:
        raise AssertionError("this receipt has no unused bits")
    twin = text[:-1] + last[last.index(text[-1]) + 1]
    yield entry("unused-bits", "same bytes, another spelling of the last letter", twin, shape)
    token = ref.encode_token(token_fields(2), KEY, 2, bytes(24), NOW)
    yield entry("token", "a token offered as a receipt", token, shape)


def geometry_vectors() -> Iterator[Entry]:
    """Segment sizes of multipart uploads."""
    mib, gib, tib = 2**20, 2**30, 2**40
    cases: list[tuple[str, int, int, int, int]] = [
        ("empty", 2, 16, 0, 8 * mib),
        ("one-byte", 2, 16, 1, 8 * mib),
        ("exactly-wished", 2, 16, 8 * mib, 8 * mib),
        ("wished-plus-1", 2, 16, 8 * mib + 1, 8 * mib),
        ("wished-rounded", 2, 16, 8 * mib, 8 * mib + 1),
        ("small-wish", 2, 16, 12 * mib, 1),
        ("last-of-5-mib", 2, 16, 13 * mib, 8 * mib),
        ("last-under-5-mib", 2, 16, 13 * mib - 1, 8 * mib),
        ("downward", 2, 16, 5 * gib + mib, 5 * gib),
        ("chunk-24-one-part", 2, 24, 17 * mib, 16 * mib),
        ("ten-mib", 1, 16, 10 * mib, 5 * mib),
        ("ten-mib-less-1", 1, 16, 10 * mib - 1, 5 * mib),
        ("over-9999-parts", 3, 16, 9999 * 8 * mib + 1, 8 * mib),
        ("chunk-24", 1, 24, 100 * mib, 5 * mib),
        ("five-tib", 2, 24, 5 * tib - 6 * gib, 64 * mib),
        ("beyond-five-tib", 2, 24, 5 * tib, 64 * mib),
        ("wished-over-5-gib", 2, 16, 12 * gib, 6 * gib),
    ]
    for case, suite, chunk_log2, total, wished in cases:
        size = choose_segment_size(total, wished, suite=suite, chunk_log2=chunk_log2)
        entry: Entry = {
            "id": f"V-geometry-{case}",
            "comment": "the segment size that a multipart upload chooses",
            "op": "geometry",
            "suite": suite,
            "chunk_log2": chunk_log2,
            "plaintext_length": total,
            "wished": wished,
            "expect": "ConfigurationError" if size is None else "ok",
        }
        if size is not None:
            entry |= {"segment_size": size, "n": -(-total // size)}
        yield entry


def choose_segment_size(total: int, wished: int, *, suite: int, chunk_log2: int) -> int | None:
    """docs/format.md, section 5.2, word by word; None where no size will do."""
    chunk, tag = 1 << chunk_log2, ref.TAG_BYTES[suite]
    header = 168 + tag
    mib, gib, tib = 2**20, 2**30, 2**40

    def up(x: int) -> int:
        return -(-x // chunk) * chunk

    def sealed(size: int) -> int:
        n, chunks = -(-total // size), -(-total // chunk)
        return header + 16 * n + total + tag * chunks + 16 * n + 44

    def good(size: int) -> bool:
        n = -(-total // size)
        last = total - (n - 1) * size
        return sealed(size) <= 5 * tib and (n <= 1 or last >= 5 * mib)

    low = up(max(5 * mib, -(-total // 9999)))
    high = (5 * gib - header - 16 - 60) // (chunk + tag) * chunk
    if 0 < total <= wished and sealed(up(wished)) <= 5 * gib:
        return up(wished)
    start = min(max(up(wished), low), high)
    for candidates in (range(start, high + 1, chunk), range(start - chunk, low - 1, -chunk)):
        for size in candidates:
            if good(size):
                return size
    return None


# ---- text.json ---------------------------------------------------------------------------


def text_vectors() -> Iterator[Entry]:
    """Values as text: honest ones, and every way to spell one differently."""
    ctx = b"cookie=session"

    def entry(case: str, comment: str, text: str, expect: str, **more: Any) -> Entry:
        base: Entry = {
            "id": f"V-text-{case}",
            "comment": comment,
            "op": "text",
            "key": KEY,
            "key_id": KEY_ID,
            "context": ctx,
            "now_ms": NOW,
            "text": text,
            "expect": expect,
        }
        return base | more

    def sealed(case: str, suite: int, plaintext: bytes, kind: int = 0, until: int = NOW + 1) -> str:
        nonce = random(f"text {case}", 24)
        return ref.seal_text(
            plaintext, KEY, suite=suite, nonce=nonce, kind=kind, context=ctx, expires_at=until
        )

    for suite, name in SUITES.items():
        for size in range(4):
            case, plaintext = f"{name}-{size}", random("text plaintext", size)
            seal = {"suite": suite, "nonce": random(f"text {case}", 24), "expires_at": NOW + 1}
            more: Entry = {"plaintext": plaintext, "seal": seal}
            text = sealed(case, suite, plaintext)
            yield entry(case, f"{size} bytes, {len(text) % 4} over", text, "ok", **more)
        yield entry(f"{name}-expired", "expired", text, "ExpiredError", now_ms=NOW + 1)
        why, theirs = "another partition", {"key": OTHER_KEY, "key_id": OTHER_ID}
        yield entry(f"{name}-wrong-partition", why, text, "WrongKeyError", **theirs)
        yield entry(f"{name}-context", "no context", text, "DecryptionError", context=b"")

    # 54 + 68 bytes leave two over, so that the last character has unused bits. The nonce is one
    # whose text has both letters that the two alphabets differ in.
    text = next(
        text
        for text in (sealed(f"spelling {n}", 2, random("text", 54)) for n in range(100))
        if "-" in text and "_" in text
    )
    raw = ref.from_text(text)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = letters[letters.index(text[-1]) | 1]
    yield entry("spelling", "what the next ones spell", text, "ok", plaintext=random("text", 54))
    yield entry("edited", "a bit of ciphertext", ref.to_text(flipped(raw, 60)), "DecryptionError")
    cases = {
        "empty": ("no text at all", ""),
        "padded": ("base64 padding", text + "=" * (-len(text) % 4)),
        "padded-more": ("padding that base64 does not have", text + "===="),
        "padded-inside": ("padding inside", text[:40] + "==" + text[40:]),
        "newline": ("a newline at the end", text + "\n"),
        "crlf-inside": ("a line break inside, as MIME has it", text[:76] + "\r\n" + text[76:]),
        "space-before": ("a space before", " " + text),
        "space-inside": ("a space inside", text[:40] + " " + text[40:]),
        "tab": ("a tab at the end", text + "\t"),
        "nul": ("a NUL at the end", text + "\0"),
        "quoted": ("in quotes, as some cookies are", f'"{text}"'),
        "percent": ("escaped for a URL", text.replace("-", "%2D")),
        "standard": ("the other base64 alphabet", text.replace("-", "+").replace("_", "/")),
        "mixed": ("one letter of the other alphabet", text.replace("-", "+", 1)),
        "not-ascii": ("a letter that is none of base64url", text[:-1] + "\u00e9"),
        "wide": ("a full-width letter", text[:-1] + "\uff21"),
        "unused-bits": ("the unused bits of the last letter are not 0", text[:-1] + last),
        "length-1-mod-4": ("no base64 has this length", "A" * 101),
        "hex": ("hexadecimal: letters of base64url, but no value", raw.hex()),
        "cut": ("shorter than a value", ref.to_text(raw[:67])),
        "twice": ("spelled twice", ref.to_text(text.encode())),
        "too-long": ("over 1,048,576 characters", "A" * (2**20 + 1)),
        "token": ("a token offered as a value", sealed("token", 2, b"x", kind=2)),
        "wrapped": ("a wrapped key", sealed("wrapped", 2, bytes(32), kind=1, until=0)),
    }
    for case, (why, bad) in cases.items():
        yield entry(case, why, bad, "FormatError")


# ---- Writing -----------------------------------------------------------------------------

FILES: dict[str, Callable[[], Iterator[Entry]]] = {
    "derive": derive_vectors,
    "value": value_vectors,
    "object": object_vectors,
    "keyring": keyring_vectors,
    "multipart": multipart_vectors,
    "text": text_vectors,
}


def build() -> dict[str, str]:
    """The text of every file, by name."""
    texts = {}
    for name, make in FILES.items():
        entries = [encoded(entry) for entry in make()]
        document = {"format": "anyseal", "version": 1, "file": name, "vectors": entries}
        texts[f"{name}.json"] = json.dumps(document, indent=1) + "\n"
    return texts


if __name__ == "__main__":
    VECTORS.mkdir(exist_ok=True)
    for file_name, content in build().items():
        (VECTORS / file_name).write_text(content, "utf-8")
