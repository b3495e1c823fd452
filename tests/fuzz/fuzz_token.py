"""Fuzz the readers of texts that strangers bring: ``python tests/fuzz/fuzz_token.py CORPUS``.

Upload tokens, receipts, values as text, and compat.lenzeye's receipts. A reader may refuse with a
typed error. Nothing but the text itself is accepted; what stands inside an authentic token, which
another version may have written, is refused or read.
"""

from __future__ import annotations

import contextlib

from fuzz_common import fuzz, instrumented, variants

with instrumented():
    from anyseal import AnysealError, Key, Suite, sync
    from anyseal.compat.lenzeye import receipts as lenzeye
    from anyseal.objects.format import ObjectKeys
    from anyseal.objects.upload import Receipt, Token
    from anyseal.value import Kind, seal_under, to_text

KEY = Key.from_bytes(bytes(range(32)))
OBJECT = ObjectKeys.create(
    KEY,
    context=b"c",
    suite=Suite.XCHACHA20POLY1305,
    chunk_bytes=4096,
    segment_bytes=8192,
    object_salt=bytes(32),
)
TOKEN = Token(
    parse_hash=OBJECT.parse_hash,
    header=OBJECT.header,
    bucket="bucket",
    key="a/key",
    upload_id="id",
    size=10_000,
)
RECEIPT = Receipt(index=1, size=1808, part_size=1840, salt=bytes(16), etag="abc")
OTHER = lenzeye.Receipt(number=1, length=100, etag="abc", mac=bytes(32))
SECRET, IV = bytes(32), bytes(16)
GOOD = [
    TOKEN.seal(KEY, 4e9).encode(),
    RECEIPT.encode(OBJECT, "id").encode(),
    sync.seal_text(b"some data", KEY).encode(),
    lenzeye.issue(SECRET, IV, 8192, "id", OTHER).encode(),
]
SEEDS = [bytes(4)]  # each good text as it is: those of another process would be foreign
INSIDE = TOKEN.header.to_bytes()
FIELDS = b"".join(len(one).to_bytes(2) + one for one in (INSIDE, b"bucket", b"a/key", b"id"))
PLAIN = (10_000).to_bytes(8) + TOKEN.parse_hash + FIELDS


def one_input(data: bytes) -> None:
    """One input through every reader, alone and inside of each good text."""
    for good in GOOD:
        for text in variants(data, good):
            readers(text.decode("latin-1"))
    for plaintext in variants(data, PLAIN):
        sealed = seal_under(plaintext, KEY, expires_at=4e9, kind=Kind.TOKEN)
        with contextlib.suppress(AnysealError):
            Token.open(to_text(sealed), KEY)


def readers(text: str) -> None:
    """Each reader refuses, or was given the very text."""
    with contextlib.suppress(AnysealError):
        Token.key_id(text)
    for read, expected in (
        (lambda: Token.open(text, KEY), TOKEN),
        (lambda: Receipt.decode(text, OBJECT, "id"), RECEIPT),
        (lambda: sync.open_text(text, KEY), b"some data"),
        (lambda: lenzeye.redeem(SECRET, IV, 8192, "id", text), OTHER),
    ):
        try:
            found = read()
        except AnysealError:
            continue
        assert found == expected
        assert text.encode("latin-1") in GOOD


if __name__ == "__main__":
    fuzz(one_input)
