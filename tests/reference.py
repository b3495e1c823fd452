"""A second, independent implementation of the formats in docs/format.md.

It shares no line with the package: primitives come from ``cryptography``, ``aeg`` and
``argon2-cffi``, XChaCha20 is built here from HChaCha20, and every step is written for reading.
It is slow and holds whole objects in memory. Encoders take every random input as an argument
and check almost nothing, so that tests can also build what no honest writer would; decoders
check everything. The order of checks is that of docs/format.md, sections 3 and 4.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import argon2.low_level
from aeg import aegis256  # type: ignore[import-untyped]
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

AEGIS256, AES256GCM, XCHACHA20POLY1305 = 1, 2, 3
TAG_BYTES = {AEGIS256: 32, AES256GCM: 16, XCHACHA20POLY1305: 16}
CHUNK_NONCE_BYTES = {AEGIS256: 32, AES256GCM: 12, XCHACHA20POLY1305: 12}
VALUE, WRAPPED_KEY, TOKEN = 0, 1, 2
KeyId = bytes | None  # None: the id that a static keyring gives the key
PURPOSES = {VALUE: "value", WRAPPED_KEY: "wrap", TOKEN: "token"}
MAX_PLAINTEXT, MAX_CONTEXT, MAX_SEGMENTS, MAX_TOKEN_TEXT = 2**32, 2**16, 2**20, 8192
MAX_VALUE_TEXT = 2**20


class RefusedError(Exception):
    """The root of what a decoder may raise."""


class FormatError(RefusedError):
    """Not laid out as the format says, or its sizes contradict each other."""


class WrongKeyError(RefusedError):
    """The key id is not one that the reader's partition knows."""


class DecryptionError(RefusedError):
    """A tag, a commitment, a salt or a MAC does not verify."""


class ExpiredError(RefusedError):
    """Authentic, but its time is over."""


def need(condition: bool, error: type[RefusedError]) -> None:
    """Raise *error* unless *condition* holds."""
    if not condition:
        raise error


# ---- 2 Derivation and 6 Keys -------------------------------------------------------------


def check_context(context: bytes) -> None:
    """A mistake of the caller, so not one of the refusals."""
    if len(context) > MAX_CONTEXT:
        raise ValueError("context")


def derive(key: bytes, label: str, data: bytes = b"") -> bytes:
    """HKDF-Expand-SHA256(key, "anyseal v1 " || label || 00 || data, 32)."""
    info = b"anyseal v1 " + label.encode("ascii") + b"\0" + data
    return HKDFExpand(algorithm=SHA256(), length=32, info=info).derive(key)


def partition_key(master: bytes, partition: str) -> bytes:
    """The key of one partition of a static keyring."""
    name = partition.encode("utf-8")
    if not 1 <= len(name) <= 1024:
        raise ValueError("partition")
    return derive(master, "partition", name)


def static_key_id(key: bytes) -> bytes:
    """The key id of a static keyring, and of a bare key."""
    return derive(key, "id")[:16]


def static_lookup(masters: Sequence[bytes], partition: str, key_id: bytes) -> bytes:
    """The key with *key_id* among those of current and previous masters."""
    for master in masters:
        key = partition_key(master, partition)
        if static_key_id(key) == key_id:
            return key
    raise WrongKeyError


def passphrase_stretch(passphrase: bytes, partition: str, costs_and_salt: bytes) -> bytes:
    """Argon2id 1.3 with the costs and the salt of the first ten bytes of a key id."""
    preimage = b"anyseal v1 argon2" + costs_and_salt + partition.encode("utf-8")
    return argon2.low_level.hash_secret_raw(
        passphrase,
        salt=sha256(preimage).digest()[:16],
        time_cost=costs_and_salt[1],
        memory_cost=2 ** costs_and_salt[0],  # KiB
        parallelism=1,
        hash_len=32,
        type=argon2.low_level.Type.ID,
    )


def passphrase_lookup(passphrase: bytes, partition: str, key_id: bytes) -> bytes:
    """The key with *key_id*; costs out of bounds never reach Argon2id."""
    need(3 <= key_id[0] <= 20 and 1 <= key_id[1] <= 16, WrongKeyError)
    key = passphrase_stretch(passphrase, partition, key_id[:10])
    need(derive(key, "id")[:6] == key_id[10:], WrongKeyError)
    return key


# ---- The AEADs ---------------------------------------------------------------------------


def hchacha20(key: bytes, nonce16: bytes) -> bytes:
    """HChaCha20 of draft-irtf-cfrg-xchacha, section 2.2."""
    mask = 0xFFFFFFFF
    s = list(struct.unpack("<16I", b"expand 32-byte k" + key + nonce16))

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = (s[x] + s[y]) & mask
            mixed = s[z] ^ s[x]
            s[z] = ((mixed << turn) | (mixed >> (32 - turn))) & mask

    for _ in range(10):
        for i in range(4):
            quarter(i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return struct.pack("<8I", *s[:4], *s[12:])


def aead_seal(suite: int, key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Ciphertext || tag; suite 3 is the IETF ChaCha20-Poly1305 here."""
    if suite == AEGIS256:
        return bytes(aegis256.encrypt(key, nonce, plaintext, aad, maclen=32))
    if suite == AES256GCM:
        return AESGCM(key).encrypt(nonce, plaintext, aad)
    return ChaCha20Poly1305(key).encrypt(nonce, plaintext, aad)


def aead_open(suite: int, key: bytes, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
    """The plaintext, or DecryptionError."""
    try:
        if suite == AEGIS256:
            return bytes(aegis256.decrypt(key, nonce, sealed, aad, maclen=32))
        if suite == AES256GCM:
            return AESGCM(key).decrypt(nonce, sealed, aad)
        return ChaCha20Poly1305(key).decrypt(nonce, sealed, aad)
    except (InvalidTag, ValueError):
        raise DecryptionError from None


def message_key(key: bytes, kind: int, suite: int, nonce: bytes) -> tuple[bytes, bytes]:
    """The AEAD key and AEAD nonce of the one message of a value with this 24-byte *nonce*."""
    subkey = derive(key, PURPOSES[kind], bytes([suite]))
    if suite == AEGIS256:
        return subkey, nonce + bytes(8)
    if suite == AES256GCM:
        return derive(subkey, "gcm", nonce), bytes(12)
    return hchacha20(subkey, nonce[:16]), bytes(4) + nonce[16:]


# ---- 3 Values ----------------------------------------------------------------------------


def seal_value(
    plaintext: bytes,
    key: bytes,
    *,
    suite: int,
    nonce: bytes,
    key_id: KeyId = None,
    kind: int = VALUE,
    context: bytes = b"",
    expires_at: int = 0,
) -> bytes:
    """One value; the key id defaults to that of a static keyring."""
    check_context(context)
    key_id = static_key_id(key) if key_id is None else key_id
    head = struct.pack(">2sBB16sQ", b"\xa5\x01", kind, suite, key_id, expires_at)
    aead_key, aead_nonce = message_key(key, kind, suite, nonce)
    return head + nonce + aead_seal(suite, aead_key, aead_nonce, plaintext, head + context)


def check_value(sealed: bytes, kind: int) -> None:
    """Everything about a value that can be told without a key."""
    need(len(sealed) >= 4 and sealed[:2] == b"\xa5\x01" and sealed[2] == kind, FormatError)
    need(sealed[3] in TAG_BYTES, FormatError)
    plaintext_length = len(sealed) - 52 - TAG_BYTES[sealed[3]]
    need(0 <= plaintext_length <= MAX_PLAINTEXT, FormatError)
    expires_at = int.from_bytes(sealed[20:28], "big")
    need(kind != WRAPPED_KEY or expires_at == 0, FormatError)
    need(kind != WRAPPED_KEY or plaintext_length == 32, FormatError)
    need(kind != TOKEN or expires_at != 0, FormatError)


def open_value(
    sealed: bytes,
    key: bytes,
    *,
    now_ms: int | None,
    key_id: KeyId = None,
    kind: int = VALUE,
    context: bytes = b"",
) -> bytes:
    """The plaintext; ``now_ms=None`` leaves expiry unchecked."""
    check_context(context)
    check_value(sealed, kind)
    need(sealed[4:20] == (static_key_id(key) if key_id is None else key_id), WrongKeyError)
    suite = sealed[3]
    aead_key, aead_nonce = message_key(key, kind, suite, sealed[28:52])
    expires_at = int.from_bytes(sealed[20:28], "big")
    plaintext = aead_open(suite, aead_key, aead_nonce, sealed[52:], sealed[:28] + context)
    need(now_ms is None or expires_at == 0 or now_ms < expires_at, ExpiredError)
    return plaintext


def to_text(data: bytes) -> str:
    """Unpadded base64url."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def from_text(text: str, most: int = MAX_TOKEN_TEXT) -> bytes:
    """The bytes of the one canonical spelling."""
    need(len(text) <= most and text.isascii(), FormatError)
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise FormatError from None
    need(to_text(data) == text, FormatError)
    return data


def seal_text(plaintext: bytes, key: bytes, **how: Any) -> str:
    """One value as text; *how* as for ``seal_value``."""
    return to_text(seal_value(plaintext, key, **how))


def open_text(
    text: str, key: bytes, *, now_ms: int | None, key_id: KeyId = None, context: bytes = b""
) -> bytes:
    """The plaintext of a value that is text."""
    sealed = from_text(text, MAX_VALUE_TEXT)
    return open_value(sealed, key, now_ms=now_ms, key_id=key_id, context=context)


def wrap(
    data_key: bytes, key: bytes, suite: int, object_salt: bytes, nonce: bytes, key_id: KeyId = None
) -> bytes:
    """A data key as a value of kind 1."""
    salt, kind = object_salt, WRAPPED_KEY
    return seal_value(
        data_key, key, suite=suite, nonce=nonce, key_id=key_id, kind=kind, context=salt
    )


def unwrap(wrapped_key: bytes, key: bytes, object_salt: bytes, key_id: KeyId = None) -> bytes:
    """The data key in *wrapped_key*."""
    salt, kind = object_salt, WRAPPED_KEY
    return open_value(wrapped_key, key, now_ms=None, key_id=key_id, kind=kind, context=salt)


# ---- 4 Objects ---------------------------------------------------------------------------


def header_fields(suite: int, chunk_log2: int, segment_size: int, object_salt: bytes) -> bytes:
    """Bytes 0 to 51 of a header."""
    return struct.pack(
        ">7sBBBHQ32s", b"ANYSEAL", 1, suite, chunk_log2, 0, segment_size, object_salt
    )


def context_hash(fields: bytes, context: bytes) -> bytes:
    """H, which binds whatever steers parsing, and the context."""
    check_context(context)
    return sha256(fields + struct.pack(">Q", len(context)) + context).digest()


def make_header(fields: bytes, wrapped_key: bytes, data_key: bytes, h: bytes) -> bytes:
    """A whole header: fields, wrapped key, commitment."""
    return fields + wrapped_key + derive(data_key, "commit", h)


def segment_key(data_key: bytes, h: bytes, index: int, salt: bytes) -> bytes:
    """The AEAD key of one segment."""
    return derive(data_key, "segment", h + struct.pack(">Q", index) + salt)


def seal_segment(
    plaintext: bytes, data_key: bytes, h: bytes, suite: int, index: int, salt: bytes, chunk: int
) -> bytes:
    """Segment number *index*: its salt and its chunks of *chunk* plaintext bytes."""
    key = segment_key(data_key, h, index, salt)
    sealed = salt
    for number, at in enumerate(range(0, len(plaintext), chunk)):
        nonce = number.to_bytes(CHUNK_NONCE_BYTES[suite], "big")
        sealed += aead_seal(suite, key, nonce, plaintext[at : at + chunk], b"")
    return sealed


def make_trailer(
    data_key: bytes, h: bytes, salts: Sequence[bytes], plaintext_length: int, n: int | None = None
) -> bytes:
    """Salts, length, number of segments, MAC."""
    body = b"".join(salts) + struct.pack(">QI", plaintext_length, len(salts) if n is None else n)
    return body + hmac.digest(derive(data_key, "trailer", h), body, "sha256")


def seal_object(
    plaintext: bytes,
    key: bytes,
    *,
    suite: int,
    chunk_log2: int,
    segment_size: int,
    object_salt: bytes,
    data_key: bytes,
    segment_salts: Sequence[bytes],
    wrap_nonce: bytes,
    key_id: KeyId = None,
    context: bytes = b"",
) -> bytes:
    """One object; ``segment_salts`` has exactly one salt for each segment."""
    if len(segment_salts) != -(-len(plaintext) // segment_size):
        raise ValueError("segment_salts")
    fields = header_fields(suite, chunk_log2, segment_size, object_salt)
    h = context_hash(fields, context)
    wrapped_key = wrap(data_key, key, suite, object_salt, wrap_nonce, key_id)
    sealed = make_header(fields, wrapped_key, data_key, h)
    for index, salt in enumerate(segment_salts):
        piece = plaintext[index * segment_size : (index + 1) * segment_size]
        sealed += seal_segment(piece, data_key, h, suite, index, salt, 2**chunk_log2)
    return sealed + make_trailer(data_key, h, segment_salts, len(plaintext))


@dataclass(frozen=True)
class Header:
    """A parsed header; nothing in it is authentic before ``unlock``."""

    raw: bytes
    suite: int
    chunk: int
    segment_size: int

    @property
    def tag(self) -> int:
        return TAG_BYTES[self.suite]

    def sealed_segment(self, plaintext_length: int) -> int:
        """Bytes of a segment that holds *plaintext_length* plaintext bytes."""
        return 16 + plaintext_length + self.tag * -(-plaintext_length // self.chunk)

    def sealed_body(self, plaintext_length: int) -> int:
        """Bytes of all segments of an object of *plaintext_length* plaintext bytes."""
        full, rest = divmod(plaintext_length, self.segment_size)
        last = self.sealed_segment(rest) if rest else 0
        return full * self.sealed_segment(self.segment_size) + last


def parse_header(data: bytes) -> Header:
    """The header with which *data* begins."""
    need(len(data) >= 52, FormatError)
    magic, version, suite, chunk_log2, flags, segment_size = struct.unpack(">7sBBBHQ", data[:20])
    need(magic == b"ANYSEAL" and version == 1 and suite in TAG_BYTES, FormatError)
    need(12 <= chunk_log2 <= 24 and flags == 0, FormatError)
    chunk = 2**chunk_log2
    need(chunk <= segment_size <= 2**36 and segment_size % chunk == 0, FormatError)
    size = 52 + 84 + TAG_BYTES[suite] + 32
    need(len(data) >= size, FormatError)
    header = Header(data[:size], suite, chunk, segment_size)
    check_value(header.raw[52:-32], WRAPPED_KEY)
    need(header.raw[55] == suite, FormatError)
    return header


def unlock(header: Header, key: bytes, key_id: KeyId, context: bytes) -> tuple[bytes, bytes]:
    """The data key and H, once the commitment holds."""
    data_key = unwrap(header.raw[52:-32], key, header.raw[20:52], key_id)
    h = context_hash(header.raw[:52], context)
    committed = hmac.compare_digest(derive(data_key, "commit", h), header.raw[-32:])
    need(committed, DecryptionError)
    return data_key, h


def check_trailer(trailer: bytes, data_key: bytes, h: bytes) -> None:
    """The MAC of a trailer whose sizes were found to agree."""
    mac = hmac.digest(derive(data_key, "trailer", h), trailer[:-32], "sha256")
    need(hmac.compare_digest(mac, trailer[-32:]), DecryptionError)


def open_chunk(header: Header, key: bytes, number: int, sealed: bytes) -> bytes:
    """Chunk *number* of the segment with this *key*."""
    nonce = number.to_bytes(CHUNK_NONCE_BYTES[header.suite], "big")
    return aead_open(header.suite, key, nonce, sealed, b"")


def open_range(
    sealed: bytes,
    key: bytes,
    start: int = 0,
    length: int | None = None,
    *,
    key_id: KeyId = None,
    context: bytes = b"",
) -> bytes:
    """As a range reader does: head and tail first, then only the chunks of the range."""
    header = parse_header(sealed)
    need(len(sealed) >= len(header.raw) + 44, FormatError)
    data_key, h = unlock(header, key, key_id, context)
    total, n = struct.unpack(">QI", sealed[-44:-32])
    need(n <= MAX_SEGMENTS and n == -(-total // header.segment_size), FormatError)
    trailer_size = 16 * n + 44
    size = len(header.raw) + header.sealed_body(total) + trailer_size
    need(size == len(sealed), FormatError)
    trailer = sealed[-trailer_size:]
    check_trailer(trailer, data_key, h)

    stop = total if length is None else start + length
    if not 0 <= start <= stop <= total:
        raise ValueError("range")
    plaintext = bytearray()
    position = start
    while position < stop:
        index, inside = divmod(position, header.segment_size)
        number, skip = divmod(inside, header.chunk)
        chunk_start = index * header.segment_size + number * header.chunk
        chunk_length = min(header.chunk, total - chunk_start)
        segment_at = len(header.raw) + index * header.sealed_segment(header.segment_size)
        salt = trailer[16 * index : 16 * index + 16]
        if number == 0:
            inline = sealed[segment_at : segment_at + 16]
            need(hmac.compare_digest(salt, inline), DecryptionError)
        at = segment_at + 16 + number * (header.chunk + header.tag)
        key_of_segment = segment_key(data_key, h, index, salt)
        cipher = sealed[at : at + chunk_length + header.tag]
        chunk = open_chunk(header, key_of_segment, number, cipher)
        plaintext += chunk[skip : skip + stop - position]
        position = chunk_start + chunk_length
    return bytes(plaintext)


def open_object(sealed: bytes, key: bytes, *, key_id: KeyId = None, context: bytes = b"") -> bytes:
    """The whole plaintext, with every byte of the object verified."""
    return open_range(sealed, key, key_id=key_id, context=context)


def open_stream(sealed: bytes, key: bytes, *, key_id: KeyId = None, context: bytes = b"") -> bytes:
    """As a pipe reader does, front to back; it learns of the end only when the end comes."""
    header = parse_header(sealed)
    data_key, h = unlock(header, key, key_id, context)
    plaintext, salts, at = bytearray(), list[bytes](), len(header.raw)
    while len(sealed) - at != 16 * len(salts) + 44:
        trailer_size = 16 * (len(salts) + 1) + 44
        need(len(salts) < MAX_SEGMENTS, FormatError)
        need(len(sealed) - at >= 17 + header.tag + trailer_size, FormatError)
        salt = sealed[at : at + 16]
        key_of_segment = segment_key(data_key, h, len(salts), salt)
        at += 16
        for number in range(header.segment_size // header.chunk):
            before_trailer = len(sealed) - at - trailer_size
            if before_trailer == 0:
                break
            need(before_trailer > header.tag, FormatError)
            size = min(header.chunk + header.tag, before_trailer)
            plaintext += open_chunk(header, key_of_segment, number, sealed[at : at + size])
            at += size
            if size < header.chunk + header.tag:
                break
        salts.append(salt)
    trailer = sealed[at:]
    total, n = struct.unpack(">QI", trailer[-44:-32])
    need(n == len(salts) and total == len(plaintext), FormatError)
    check_trailer(trailer, data_key, h)
    need(hmac.compare_digest(b"".join(salts), trailer[:-44]), DecryptionError)
    return bytes(plaintext)


# ---- 5 Multipart -------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenFields:
    """What a token says."""

    plaintext_length: int
    h: bytes
    header: bytes
    bucket: bytes
    object_key: bytes
    upload_id: bytes

    def encode(self) -> bytes:
        parts = (self.header, self.bucket, self.object_key, self.upload_id)
        fields = b"".join(struct.pack(">H", len(part)) + part for part in parts)
        return struct.pack(">Q32s", self.plaintext_length, self.h) + fields


def encode_token(
    fields: TokenFields, key: bytes, suite: int, nonce: bytes, expires_at: int, key_id: KeyId = None
) -> str:
    """A token that says *fields*."""
    text, kind, until = fields.encode(), TOKEN, expires_at
    sealed = seal_value(
        text, key, suite=suite, nonce=nonce, key_id=key_id, kind=kind, expires_at=until
    )
    return to_text(sealed)


def decode_token(text: str, key: bytes, *, now_ms: int | None, key_id: KeyId = None) -> TokenFields:
    """What an authentic token says; ``now_ms=None`` is how ``abort`` reads it."""
    plaintext = open_value(from_text(text), key, now_ms=now_ms, key_id=key_id, kind=TOKEN)
    need(len(plaintext) >= 40, FormatError)
    plaintext_length, h = struct.unpack(">Q32s", plaintext[:40])
    parts, rest = list[bytes](), plaintext[40:]
    for _ in range(4):
        need(len(rest) >= 2, FormatError)
        size = int.from_bytes(rest[:2], "big")
        need(len(rest) >= 2 + size, FormatError)
        parts.append(rest[2 : 2 + size])
        rest = rest[2 + size :]
    need(rest == b"", FormatError)
    header = parse_header(parts[0])
    need(len(parts[0]) == len(header.raw), FormatError)
    need(-(-plaintext_length // header.segment_size) <= MAX_SEGMENTS, FormatError)
    return TokenFields(plaintext_length, h, *parts)


@dataclass(frozen=True)
class Receipt:
    """What a worker says about the part that it uploaded."""

    index: int
    plaintext_length: int
    part_length: int
    salt: bytes
    etag: bytes


def encode_receipt(receipt: Receipt, data_key: bytes, h: bytes, upload_id: bytes) -> str:
    """One receipt as text."""
    sizes = (receipt.index, receipt.plaintext_length, receipt.part_length)
    body = struct.pack(">4sIQQ", b"\xa5\x01\x03\x00", *sizes) + receipt.salt
    body += bytes([len(receipt.etag)]) + receipt.etag
    mac = hmac.digest(derive(data_key, "receipt", h), body + upload_id, "sha256")
    return to_text(body + mac)


def decode_receipt(text: str, data_key: bytes, h: bytes, upload_id: bytes) -> Receipt:
    """What an authentic receipt of this very upload says."""
    data = from_text(text)
    need(len(data) >= 73 and data[:4] == b"\xa5\x01\x03\x00", FormatError)
    need(len(data) == 73 + data[40], FormatError)
    body, mac = data[:-32], data[-32:]
    expected = hmac.digest(derive(data_key, "receipt", h), body + upload_id, "sha256")
    need(hmac.compare_digest(expected, mac), DecryptionError)
    index, plaintext_length, part_length, salt = struct.unpack(">IQQ16s", body[4:40])
    return Receipt(index, plaintext_length, part_length, salt, etag=body[41:])
