"""Whole files as streams: ``hmac 32 ‖ iv 16 ‖ ciphertext``.

The ciphertext is AES-256-CTR from the random iv. The HMAC is HMAC-SHA256 under the same key over
``iv ‖ ciphertext`` (encrypt, then MAC). It stands before what it covers, so writing takes two
passes over the file or a spool of the ciphertext. Where the HMAC is kept elsewhere (S3 metadata),
the stream is ``iv ‖ ciphertext``; where the iv is as well, the ciphertext alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
from collections.abc import Callable, Iterator
from typing import Any

from anyseal.compat.lenzeye.ctr import cipher_all, ctr_at
from anyseal.compat.lenzeye.errors import InvalidSignatureError
from anyseal.compat.lenzeye.master import IV_BYTES, KEY_BYTES, check_bytes
from anyseal.compat.lenzeye.pieces import PIECE_BYTES, pieces_of, spool, start_of, update_mac
from anyseal.errors import SourceChangedError

__all__ = ["decrypt_file_stream", "encrypt_file_stream"]

HMAC_BYTES = 32


class Encryptor:
    """One file's ciphertext and HMAC, front to back. No I/O."""

    def __init__(self, key: bytes, iv: bytes) -> None:
        self.iv = iv
        self._context = ctr_at(key, iv, 0)
        self._mac = hmac.new(key, iv, hashlib.sha256)

    def update(self, plaintext: memoryview) -> bytes:
        """The next ciphertext."""
        return cipher_all(self._context, plaintext, self._mac)

    def digest(self) -> bytes:
        """The HMAC of all so far."""
        return self._mac.digest()


class Decryptor:
    """One file's plaintext, front to back, and at its end whether it was the right one. No I/O.

    *expected_hmac* None: it is the stream's first 32 bytes. *iv* None: it comes before the
    ciphertext. A stream that begins with *expected_hmac* has it as its header.
    """

    def __init__(self, key: bytes, expected_hmac: bytes | None, iv: bytes | None = None) -> None:
        self._key = check_bytes("key", key, KEY_BYTES)
        self._iv = None if iv is None else check_bytes("iv", iv, IV_BYTES)
        given = None
        if expected_hmac is not None:
            given = check_bytes("expected_hmac", expected_hmac, HMAC_BYTES)
        self._expected = given
        self._given = given is not None
        self._head: bytearray | None = bytearray()
        self._context: Any = None
        self._mac: Any = None

    def feed(self, data: memoryview, *, decrypt: bool = True) -> bytes:
        """The plaintext of the next ciphertext, **not yet verified**; nothing while the header is
        being read, or if not told to *decrypt*."""
        if self._head is None:
            return self._body(data, decrypt)
        self._head += data
        if len(self._head) < HMAC_BYTES + (IV_BYTES if self._iv is None else 0):
            return b""
        return self._body(self._open_head(), decrypt)

    def finish(self) -> bytes:
        """The stream ended: what is left of the plaintext, verified like all before it.

        Raises InvalidSignatureError.
        """
        rest = b""
        if self._head is not None:  # shorter than a header with an HMAC in front
            if not self._given:
                raise InvalidSignatureError
            rest = self._body(self._open_head(), True)
        if not hmac.compare_digest(self._mac.digest(), self._expected or b""):
            raise InvalidSignatureError
        return rest

    def _open_head(self) -> memoryview:
        """Take the header; returns what follows it."""
        head, self._head = bytes(self._head or b""), None
        if self._expected is None:
            self._expected, head = head[:HMAC_BYTES], head[HMAC_BYTES:]
        elif hmac.compare_digest(head[:HMAC_BYTES], self._expected):
            head = head[HMAC_BYTES:]
        if self._iv is None:
            if len(head) < IV_BYTES:
                raise InvalidSignatureError
            self._iv, head = head[:IV_BYTES], head[IV_BYTES:]
        self._context = ctr_at(self._key, self._iv, 0)
        self._mac = hmac.new(self._key, self._iv, hashlib.sha256)
        return memoryview(head)

    def _body(self, data: memoryview, decrypt: bool) -> bytes:
        update_mac(self._mac, data)
        return cipher_all(self._context, data) if decrypt else b""


def encrypt_file_stream(
    plaintext_stream: Any, key: bytes, *, hmac_to: Callable[[bytes], object] | None = None
) -> Iterator[bytes]:
    """Encrypt a file: ``hmac ‖ iv ‖ ciphertext`` in pieces of at most 1 MiB.

    The iv is random. The HMAC comes first, so the whole file must be seen before anything is
    yielded: a file that can seek is read twice; of any other stream the *ciphertext* is kept,
    above 8 MiB in a temporary file.

    Args:
        plaintext_stream: A binary file, bytes, or an iterable of bytes.
        key: 32 bytes.
        hmac_to: Then ``iv ‖ ciphertext`` is yielded in one pass, and this is called with the HMAC
            at the end: 32 bytes to be kept elsewhere, such as in the object's metadata.

    Raises:
        SourceChangedError: The file changed between the two readings.

    Cost: 1 MiB of memory at a time; one pass over the CTR and HMAC, two for a file that can seek.
    """
    raw = check_bytes("key", key, KEY_BYTES)
    if hmac_to is not None:
        return _encrypt_once(plaintext_stream, raw, hmac_to)
    if start_of(plaintext_stream) is not None:
        return _encrypt_twice(plaintext_stream, raw)
    return _encrypt_spooled(plaintext_stream, raw)


def _encrypt_once(stream: Any, key: bytes, hmac_to: Callable[[bytes], object]) -> Iterator[bytes]:
    encryptor = Encryptor(key, os.urandom(IV_BYTES))
    yield encryptor.iv
    for piece in pieces_of(stream):
        yield encryptor.update(piece)
    hmac_to(encryptor.digest())


def _encrypt_twice(stream: Any, key: bytes) -> Iterator[bytes]:
    start, iv = stream.tell(), os.urandom(IV_BYTES)
    first, second = Encryptor(key, iv), Encryptor(key, iv)
    for piece in pieces_of(stream):
        first.update(piece)
    stream.seek(start)
    yield first.digest()
    yield iv
    for piece in pieces_of(stream):
        yield second.update(piece)
    if not hmac.compare_digest(first.digest(), second.digest()):
        raise SourceChangedError("the file changed while it was being encrypted")


def _encrypt_spooled(stream: Any, key: bytes) -> Iterator[bytes]:
    encryptor = Encryptor(key, os.urandom(IV_BYTES))
    with spool() as file:
        for piece in pieces_of(stream):
            file.write(encryptor.update(piece))
        yield from spooled(file, encryptor)


def spooled(file: Any, encryptor: Encryptor) -> Iterator[bytes]:
    """The finished stream, from the ciphertext in *file*."""
    yield encryptor.digest()
    yield encryptor.iv
    file.seek(0)
    while piece := file.read(PIECE_BYTES):
        yield piece


def decrypt_file_stream(
    ciphertext_stream: Any,
    key: bytes,
    expected_hmac: bytes | None = None,
    *,
    iv: bytes | None = None,
    verify: bool = False,
) -> Iterator[bytes]:
    """Decrypt a file.

    **It yields plaintext before it has verified it**, as an HMAC over the whole demands of one
    pass: nothing that was yielded may be believed until the generator has ended without an error.
    ``verify=True`` yields nothing that is not verified. (Everything else in anyseal is like that.)

    Args:
        ciphertext_stream: A binary file, bytes, or an iterable of bytes.
        key: 32 bytes.
        expected_hmac: From the object's metadata. None: it is the stream's first 32 bytes. A
            stream that begins with it may have it or not.
        iv: From the object's metadata. None: it comes before the ciphertext.
        verify: Read everything twice: first to verify it, then to decrypt what is proved to be
            the same. Of a stream that cannot seek the ciphertext is kept meanwhile, above 8 MiB
            in a temporary file.

    Raises:
        InvalidSignatureError: Altered, cut, extended, or another key. An ``InvalidSignature`` of
            ``cryptography`` and a DecryptionError of anyseal.
        SourceChangedError: With *verify*: the file changed between the two readings.
    """
    decryptor = Decryptor(key, expected_hmac, iv)
    if not verify:
        return _decrypt_once(ciphertext_stream, decryptor)
    again = Decryptor(key, expected_hmac, iv)
    return _decrypt_verified(ciphertext_stream, decryptor, again)


def _decrypt_once(stream: Any, decryptor: Decryptor) -> Iterator[bytes]:
    for piece in pieces_of(stream):
        if plaintext := decryptor.feed(piece):
            yield plaintext
    if plaintext := decryptor.finish():
        yield plaintext


def _decrypt_verified(stream: Any, first: Decryptor, second: Decryptor) -> Iterator[bytes]:
    with contextlib.ExitStack() as stack:
        start = start_of(stream)
        if start is None:
            file = stack.enter_context(spool())
            for piece in pieces_of(stream):
                file.write(piece)
            file.seek(0)
            stream, start = file, 0
        yield from verified(stream, start, first, second)


def verified(file: Any, start: int, first: Decryptor, second: Decryptor) -> Iterator[bytes]:
    """The plaintext of *file* from *start*, each piece proved to be what was verified."""
    seen = []
    for piece in pieces_of(file):
        first.feed(piece, decrypt=False)
        seen.append(hashlib.sha256(piece).digest())
    first.finish()
    file.seek(start)
    for number, piece in enumerate(pieces_of(file)):
        if number >= len(seen) or hashlib.sha256(piece).digest() != seen[number]:
            raise SourceChangedError("the file changed while it was being read")
        if plaintext := second.feed(piece):
            yield plaintext
    if plaintext := second.finish():
        yield plaintext
