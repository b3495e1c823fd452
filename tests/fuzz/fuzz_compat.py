"""Fuzz the frames of the drop-ins: ``python tests/fuzz/fuzz_compat.py CORPUS``.

compat.cachekit's frames, envelopes, blocks and values, compat.duck's pickles, compat.lenzeye's
files. A reader may refuse with the peer's own error, which is a typed one of ours.
"""

from __future__ import annotations

import contextlib
import pickle

from fuzz_common import fuzz, instrumented, variants

with instrumented():
    from nacl.exceptions import CryptoError

    from anyseal import AnysealError
    from anyseal.compat.cachekit import envelope, frame, interop, lz4, messagepack
    from anyseal.compat.duck.sealing import NaClEncryptor
    from anyseal.compat.lenzeye import decrypt_file_stream, encrypt_file_stream

VALUE = {"name": "x" * 40, "list": [1, 2.5, None, True], "nested": {"a": {"b": [[], {}]}}}
PACKED = messagepack.encode(VALUE)
FILE = b"".join(encrypt_file_stream(b"some data", bytes(32)))
DUCK = NaClEncryptor(bytes(32))
GOOD = [
    PACKED,
    envelope.pack(PACKED),
    envelope.checked(PACKED),
    lz4.compress(PACKED * 4),
    frame.write(PACKED, "default", frame.Metadata(format="msgpack")),
    frame.write_file(frame.write(PACKED, "default", frame.Metadata(format="msgpack"))),
    interop.encode_interop_value({"a": [1, "b"]}),
    pickle.dumps(VALUE, 5),
    pickle.dumps([frozenset({1}), (2, {3}), bytearray(b"4")], 4),
    DUCK.encrypt(VALUE),
    FILE,
]
SEEDS = [bytes(4), *GOOD[:9]]  # the last two hold random numbers of this process
READERS = (
    envelope.unpack,
    envelope.check,
    frame.read,
    frame.read_file,
    lambda data: lz4.decompress(data, 4 * len(PACKED)),
    messagepack.decode,
    interop.decode_interop_value,
    DUCK.decrypt,
    DUCK._decode,
)


def one_input(data: bytes) -> None:
    """One input through every reader, alone and inside of each good one."""
    for good in GOOD:
        for stored in variants(data, good):
            readers(stored)


def readers(stored: bytes) -> None:
    """Each reader refuses, or reads."""
    for read in READERS:
        with contextlib.suppress(AnysealError, CryptoError):
            read(stored)
    for verify in (False, True):
        try:
            plain = b"".join(decrypt_file_stream(stored, bytes(32), verify=verify))
        except AnysealError:
            continue
        assert plain == b"some data"
        assert stored == FILE


if __name__ == "__main__":
    fuzz(one_input)
