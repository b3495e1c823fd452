"""cachekit's formats: its vectors, every cut and flipped bit, and entries that ask for too much."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import tracemalloc
import uuid
from decimal import Decimal
from enum import Enum
from pathlib import PurePosixPath
from typing import Any

import lz4.block
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyseal.compat import cachekit
from anyseal.compat.cachekit import envelope, frame, interop, messagepack, names
from anyseal.compat.cachekit import lz4 as ours
from anyseal.compat.cachekit.sealing import Keys, TenantKey, associated_data
from anyseal.compat.cachekit.serializers import open_sealed

MASTER = bytes.fromhex("00112233445566778899aabbccddeeff" * 2)
KEY = (
    "t:default:ns:users:func:__main__.profile:args:"
    "531aec338a44d57a1e0ac074c001047ee8f92b15cbb0ae8a6454cc297c667d03:1s"
)
FRAME = bytes.fromhex(
    "434b03000001067b2273223a202264656661756c74222c20226d223a207b22666f726d6174223a20226d73677061"
    "636b222c2022656e636f64696e67223a20227574662d38222c2022636f6d70726573736564223a20747275652c20"
    "226f726967696e616c5f74797065223a20226d73677061636b222c2022656e63727970746564223a20747275652c"
    "202274656e616e745f6964223a202264656661756c74222c2022656e6372797074696f6e5f616c676f726974686d"
    "223a20224145532d3235362d47434d222c20226b65795f66696e6765727072696e74223a20223765663766323431"
    "656130636263616364396536346139303063373135393935227d2c202276223a2022322e30227d5d07841a29acef"
    "8e0000000010972587646a8be2792254c20dc8261396ed9a0ca68755cd7129bac60207534fe4258a5a13797491e0"
    "d5dd1db59e101ca5b5b6123a6cafbdcaa957413fbd979b66ba8caf0c8712042ce14b7416f3025889672aa7ae73f6"
    "31522235e02efc16d3b4867142e89a444499a4757f1087fd91ca3b577f083d3869f2f2973c5479e307c27cce"
)
"""Written by cachekit 0.24.1 under KEY."""

VALUE = {
    "id": 7,
    "name": "Zoë",
    "when": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
    "b": b"\x00\xff",
    "n": None,
    "t": [1, 2.5, True],
}
ENVELOPE = bytes.fromhex(
    "94c45cf04b86a2696407a46e616d65a45a6fc3aba47768656e82ac5f5f6461746574696d655f5fc3a576616c7565"
    "b9323032362d30312d30325430333a30343a30352b30303a3030a162c40200ffa16ec0a1749301cb400400000000"
    "0000c39875ccb05155cc8e701c215aa76d73677061636b"
)
"""What is encrypted in FRAME."""

LEGACY = bytes.fromhex(
    "94dc0022ccf011cc83cca7757365725f69642acca46e616d65cca863616368656b6974cca6616374697665ccc398"
    "ccdaccf46861cc8e624bccfe20a76d73677061636b"
)
"""An envelope of early releases, whose block is an array of numbers."""

LEGACY_VALUE = {"user_id": 42, "name": "cachekit", "active": True}
REPEATED = bytes.fromhex(
    "94c40f1f410100ffffffe960414141414141984d35ccad08cce9ccd77c0dcd0400a76d73677061636b"
)
"""1024 times ``A``, compressed."""

USER_42 = "users:get_user:61598716255080080f6456eb065c2e51badfaa4320b0efe97469c29cffee8875"


def opened(stored: bytes, key: str = KEY, master: bytes = MASTER) -> Any:
    """The value in an encrypted frame."""
    payload, _, metadata = frame.read(stored)
    data = open_sealed(Keys(master), payload, metadata, key, "default", strict=True)
    return cachekit.StandardSerializer().deserialize(data, metadata)


def test_cachekit_frame_vector_opens() -> None:
    """An entry that cachekit wrote."""
    payload, name, metadata = frame.read(FRAME)
    assert ("default", "msgpack", True) == (name, metadata.format, metadata.compressed)
    assert "7ef7f241ea0cbcacd9e64a900c715995" == metadata.key_fingerprint
    data = open_sealed(Keys(MASTER), payload, metadata, KEY, "default", strict=True)
    assert ENVELOPE == data
    assert VALUE == opened(FRAME)


def test_cachekit_frame_is_written_as_cachekit_writes_it() -> None:
    """Same header bytes, same envelope: only the nonce differs."""
    payload, name, metadata = frame.read(FRAME)
    assert FRAME == frame.write(payload, name, metadata)
    assert ENVELOPE == cachekit.StandardSerializer().serialize(VALUE)[0]
    wrapper = cachekit.EncryptionWrapper(master_key=MASTER, previous_master_keys=[])
    sealed, told = wrapper.serialize(VALUE, KEY)
    again = frame.write(sealed, "default", told)
    size = len(FRAME) - len(payload)
    assert (FRAME[:size], len(FRAME)) == (again[:size], len(again))
    assert VALUE == opened(again)


def test_cachekit_header_may_be_spelled_differently() -> None:
    """Other writers order and space JSON in their own way."""
    payload, _, metadata = frame.read(FRAME)
    fields = dict(reversed(metadata.to_dict().items())) | {"unknown": [1]}
    for separators, end in (((",", ":"), b""), ((", ", ": "), b"  ")):
        header = json.dumps({"x": 1, "v": 2, "m": fields, "s": "default"}, separators=separators)
        head = header.encode() + end
        assert VALUE == opened(b"CK\x03" + len(head).to_bytes(4) + head + payload)


def test_cachekit_legacy_frame_is_read() -> None:
    """Entries of early releases are JSON."""
    payload, _, metadata = frame.read(FRAME)
    told = {"serializer": "default", "data": base64.b64encode(payload).decode()}
    assert VALUE == opened(json.dumps({**told, "metadata": metadata.to_dict()}).encode())


def test_cachekit_every_flipped_byte_of_the_payload_and_every_cut_is_refused() -> None:
    """Nothing is released before the tag verified; and nothing but our errors is raised."""
    start = len(FRAME) - len(frame.read(FRAME)[0])
    for at in range(len(FRAME)):
        with pytest.raises(cachekit.SerializationError):
            opened(FRAME[:at])
        changed = bytearray(FRAME)
        changed[at] ^= 1
        try:
            found = opened(bytes(changed))
        except cachekit.SerializationError:
            continue
        assert at < start, at  # a byte of the header that nothing depends on
        assert VALUE == found


@pytest.mark.parametrize("field", ["tenant_id", "format", "compressed", "original_type"])
def test_cachekit_header_fields_are_bound(field: str) -> None:
    """The header is plain: whoever changes what matters of it must be found out."""
    payload, name, metadata = frame.read(FRAME)
    fields = metadata.to_dict() | {field: False if field == "compressed" else "other"}
    changed = frame.write(payload, name, frame.Metadata.from_dict(fields))
    with pytest.raises(cachekit.DecryptionAuthenticationError):
        opened(changed)


def test_cachekit_entry_of_another_key_does_not_open() -> None:
    """An entry moved to another key, or one under another master key."""
    with pytest.raises(cachekit.DecryptionAuthenticationError) as caught:
        opened(FRAME, KEY + "x")
    assert "Decryption failed: authentication tag verification failed" == str(caught.value)
    with pytest.raises(cachekit.DecryptionAuthenticationError):
        opened(FRAME, master=bytes(32))


BAD_FRAMES = [
    b"", b"CK", b"CK\x03", b"CK\x04\0\0\0\x02{}", b"CK\x03\0\0\0\xff{}", b"CK\x03\xff\xff\xff\xff",
    b"CK\x03\0\0\0\x02{}", b"CK\x03\0\0\0\x02[]", b"CK\x03\0\0\0\x01\xff", b"{", b"{}", b"plain",
    b'{"serializer": "default", "data": "!", "metadata": {"format": "msgpack"}}',
    b'CK\x03\0\0\0\x14{"s":"a","m":{"a":1}}', b'CK\x03\0\0\0\x16{"s":1,"m":{"format":1}}',
    b"CK\x03\0\x01\x00\x00" + b"[" * 65536, b"[" * 100_000, b"{" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("stored", BAD_FRAMES, ids=range(len(BAD_FRAMES)))
def test_cachekit_what_is_no_frame_is_refused(stored: bytes) -> None:
    """Anything may lie in a shared Redis."""
    with pytest.raises(cachekit.EnvelopeShapeError):
        frame.read(stored)


@pytest.mark.parametrize("field", ["tenant_id", "key_fingerprint", "format", "original_type"])
def test_cachekit_header_that_is_not_unicode_is_refused(field: str) -> None:
    """JSON can spell a lone surrogate: it must be a bad entry, not an error of another kind that
    would reach the caller of the cached function at every call."""
    told = {"format": "msgpack", "encrypted": True, field: "\ud800"}
    header = json.dumps({"s": "default", "m": told, "v": "2.0"}).encode()
    with pytest.raises(cachekit.EnvelopeShapeError):
        frame.read(b"CK\x03" + len(header).to_bytes(4) + header + bytes(40))


def test_cachekit_file_container() -> None:
    """The head of files, with and without expiry."""
    assert FRAME == frame.read_file(frame.write_file(FRAME))[0]
    assert (b"x", 1_900_000_000) == frame.read_file(frame.write_file(b"x", 1_900_000_000))
    for bad in (b"", b"CK\x01\x00", frame.write_file(b"")[:-1], b"CK\x01\x00\0\x01" + bytes(8)):
        with pytest.raises(cachekit.EnvelopeShapeError):
            frame.read_file(bad)


def test_cachekit_fingerprints() -> None:
    """They choose the key: all implementations must compute the same."""
    assert "52d54c97f8e5efaa5bdf58a301f92726" == TenantKey(b"a" * 32, "default").fingerprint
    assert "96179a9bc881aa7ca83f04b78a66afd3" == TenantKey(b"a" * 32, "cross-sdk-test").fingerprint
    assert (
        TenantKey(b"a" * 33, "default").fingerprint != TenantKey(b"a" * 32, "default").fingerprint
    )


def test_cachekit_published_vectors_open() -> None:
    """AAD of four and of five components, as other languages write them."""
    cases = [
        ("test:vector:1", "msgpack", False, None, "0102030405060708",
         "f8f69c70000000000000000087d9ec09f2c2347a4b37d5330ccf50e3c31e69642801bef5"),
        ("test:compressed:vector", "msgpack", True, None, "deadbeefcafe",
         "44cc06e600000000000000000eb8450c4aac2337265323f7f1b03fc3966deaa515f7"),
        ("test:orjson:vector", "orjson", False, "orjson", "7b2261223a2231227d",
         "0a0b0c0d0e0f1011000000024f4b2924c8166fcd7e6ff731f4e02ff46e6879534e8074c0a4"),
    ]  # fmt: skip
    key = TenantKey(b"a" * 32, "cross-sdk-test")
    for name, format, compressed, kind, plain, sealed in cases:
        bound_to = associated_data("cross-sdk-test", name, format, compressed, kind)
        assert plain == key.open(bytes.fromhex(sealed), bound_to).hex()
    assert (
        "030000000e63726f73732d73646b2d746573740000000d746573743a766563746f723a31"
        "000000076d73677061636b0000000546616c7365"
    ) == associated_data("cross-sdk-test", "test:vector:1", "msgpack", False).hex()


def test_cachekit_envelopes_of_all_ages_are_read() -> None:
    """Block as bytes and as numbers, with and without compression."""
    standard = cachekit.StandardSerializer()
    assert LEGACY_VALUE == standard.deserialize(LEGACY)
    assert VALUE == standard.deserialize(ENVELOPE)
    assert b"A" * 1024 == envelope.unpack(REPEATED)
    assert b"" == envelope.unpack(
        bytes.fromhex("94c40100982d06cc800538ccd3cc94ccc200a76d73677061636b")
    )


@pytest.mark.parametrize("size", [0, 1, 14, 15, 16, 255, 269, 270, 271, 65535, 65536, 300_000])
def test_cachekit_envelope_round_trip(size: int) -> None:
    """Each width of each length."""
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    packed = envelope.pack(data)
    assert data == envelope.unpack(packed)
    assert data == lz4.block.decompress(ours.compress(data), uncompressed_size=size)
    assert [size, "msgpack"] == msgspec.msgpack.decode(packed)[2:]


def test_cachekit_envelope_every_cut_and_flipped_byte_is_refused() -> None:
    """Without encryption the checksum finds accidents; parsing survives anything."""
    for whole in (ENVELOPE, LEGACY, REPEATED):
        for at in range(len(whole)):
            with pytest.raises(cachekit.EnvelopeShapeError):
                envelope.unpack(whole[:at])
            for bit in (1, 0x80):
                changed = bytearray(whole)
                changed[at] ^= bit
                try:
                    found = envelope.unpack(bytes(changed))
                except cachekit.EnvelopeShapeError:
                    continue
                assert envelope.unpack(whole) == found  # other distances, equal bytes
        with pytest.raises(cachekit.EnvelopeShapeError):
            envelope.unpack(whole + b"\0")


def crafted(block: bytes, size: int) -> bytes:
    """An envelope that declares what it likes."""
    return msgspec.msgpack.encode([block, [0] * 8, size, "msgpack"])


BOMBS = [
    crafted(b"\x10a", 2001),  # 1000 times and one
    crafted(b"\x1fa\x01\x00" + b"\xff" * 4000 + b"\x00", 1000),  # more than it declares
    crafted(b"\x1fa\x01\x00" + b"\xff" * 100, 4000),  # cut in a length
    crafted(b"\x10a" * 100, (512 << 20) + 1),
    crafted(b"\x1fa\x00\x00\x00", 20),  # distance 0
    crafted(b"\x1fa\x02\x00\x00", 20),  # before the beginning
    crafted(b"\xf0" + b"\xff" * 50, 13000),
    crafted(b"", 0),
    b"\x94\xdd\xff\xff\xff\xff",
    b"\x94\xc6\xff\xff\xff\xff",
    b"\x94\xdc\x00\x02\xcd\x01\x00\x00" + bytes(20),
]


@pytest.mark.parametrize("bomb", BOMBS, ids=range(len(BOMBS)))
def test_cachekit_envelope_bombs_cost_nothing(bomb: bytes) -> None:
    """What a few bytes declare must not be allocated."""
    envelope.pack(b"")  # imports
    tracemalloc.start()
    with pytest.raises(cachekit.EnvelopeShapeError):
        envelope.unpack(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


@given(data=st.one_of(st.binary(max_size=3000), st.text("ab", max_size=3000).map(str.encode)))
def test_cachekit_lz4_of_the_reference_is_read(data: bytes) -> None:
    """Matches, overlapping ones too, as the reference implementation makes them."""
    block = lz4.block.compress(data, store_size=False)
    assert data == ours.decompress(block, len(data))


@given(block=st.binary(max_size=60), size=st.integers(0, 5000))
def test_cachekit_lz4_decides_as_the_reference(block: bytes, size: int) -> None:
    """Any bytes: the exact size, or our error."""
    try:
        found = ours.decompress(block, size)
    except cachekit.EnvelopeShapeError:
        return
    assert size == len(found)


@given(data=st.binary(max_size=200), start=st.sampled_from([b"", b"CK\x03\0\0\0", b"\x94", b"{"]))
def test_cachekit_any_bytes_are_read_or_refused(data: bytes, start: bytes) -> None:
    """Parsers raise their own errors and no others."""
    standard = cachekit.StandardSerializer()
    readers: list[Any] = [frame.read, frame.read_file, envelope.unpack, messagepack.decode]
    for read in (*readers, standard.deserialize):
        with contextlib.suppress(cachekit.SerializationError):
            read(start + data)


INTEROP_KEYS: list[tuple[list[Any], str]] = [
    ([], "8064bf5f945dba521b017bb3f32b31a293a6e16944838d171ea9e77fab085e8e"),
    ([42], "61598716255080080f6456eb065c2e51badfaa4320b0efe97469c29cffee8875"),
    ([2**64 - 1], "0cc46c520dfb8f301e03756131351da58fb433d5258f5db3dde927a8c83b9430"),
    ([-(2.0**63)], "2882730c0cc9df9bc2152c1833892075377b801a72a715434f103b694e4a5909"),
    ([2.0], "6df5e966da1ba347f99784f56e50e2f570e775e54c9c9349dd8944cb7fe01ea7"),
    ([-0.0], "f3255c8870de95dd7cf82fab94f78110361b999beea857dac7607a4a67522bda"),
    ([2.0**64], "ab5d4f7d9ddd4a4daceb62a06b1765ab33e6db86aafd4e79ab6ad49f8a3960c8"),
    ([3.14], "8a855804f9b7adf8f428c4f1c757c44262265a2d13be6b4242ab6556724011cd"),
    ([True, False, None], "1e364f6582ca4dc93b8bed0ff4413162cddafd52407517bff6248286cb863ac1"),
    ([{"\U00010000": 1, "\uff61": 2}],
     "f732e0e1342939877b9991ccc7177e4ed974f9f84de464d225fc742e467dbf3f"),
    ([{-5, "a", 1.5}], "1f1a8fdd7221fac0fd57e7e5cd1ceec1c43eadd35570f6de63eb59ffc014a1e9"),
    ([datetime.datetime.fromisoformat("2024-01-01T18:00:45.123456+05:30")],
     "1b85c4d90f566c5df71ebd437c4f296c1a2d5567c9cc69edb026f804a134997b"),
    ([datetime.datetime.fromisoformat("2024-01-01T00:00:00+00:00")],
     "b3504b56c162854b07071c4577f3c73f3ec615c8a3152928bf5c6dba086461c2"),
    ([datetime.datetime.fromisoformat("1969-12-31T23:59:59.123456+00:00")],
     "821ed5d8a5c055d2e42cf1c1b3df57f7e99914a8245446cc16567e581c1c1630"),
    ([uuid.UUID("550E8400-E29B-41D4-A716-446655440000")],
     "14821dfe8848465aa23db43cb83be508f51d9ac556479bcc78b8a522e268a62a"),
    ([b"\xde\xad\xbe\xef"], "2ed8716bf7f1438057a9e8082b456c8566f95ed0dda11b1e16e6a1a74ebebfc0"),
    ([42, "hello", {"b": 2, "a": 1}],
     "03a0edbae0c1b5816c431652268d1527730175cdc0b45807cb07e1025ff971f6"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("args", "hashed"), INTEROP_KEYS, ids=[hashed for _, hashed in INTEROP_KEYS]
)
def test_cachekit_interop_keys(args: list[Any], hashed: str) -> None:
    """Published vectors: one key in every language."""
    assert f"t:op:{hashed}" == cachekit.generate_interop_key("t", "op", args)


@pytest.mark.parametrize(
    ("namespace", "operation", "args"),
    [
        ("t", "op", [float("nan")]), ("t", "op", [float("inf")]), ("t", "op", [2**64]),
        ("t", "op", [-(2**63) - 1]), ("t", "op", [datetime.datetime(2024, 1, 1)]),
        ("t", "op", [{1: 2}]), ("t", "op", [object()]), ("t", "op", ["\ud800"]),
        ("Users", "op", []), ("users", "get:user", []), ("users\n", "op", []), ("ns", "op", []),
        ("", "op", []), ("a" * 65, "op", []),
    ],
)  # fmt: skip
def test_cachekit_interop_keys_refused(namespace: str, operation: str, args: list[Any]) -> None:
    """What some language could not make has no key."""
    with pytest.raises(cachekit.InteropError):
        cachekit.generate_interop_key(namespace, operation, args)


def test_cachekit_interop_values() -> None:
    """Canonical, and only one document."""
    value = {"name": "alice", "age": 30}
    encoded = bytes.fromhex("82a36167651ea46e616d65a5616c696365")
    assert encoded == cachekit.encode_interop_value(value)
    assert value == cachekit.decode_interop_value(encoded)
    assert "cb4000000000000000" == cachekit.encode_interop_value(2.0).hex()
    moment = datetime.datetime(2024, 1, 1, 12, 30, 45, 123456, tzinfo=datetime.UTC)
    assert moment == cachekit.decode_interop_value(cachekit.encode_interop_value(moment))
    for bad in (b"", encoded + b"\0", encoded[:-1], FRAME, b"\x91" * 5000, b"\xd4\x01\x02",
                b"\x81\x01\x02", b"\xdd\xff\xff\xff\xff", b"\xc1"):  # fmt: skip
        with pytest.raises(cachekit.InteropError):
            cachekit.decode_interop_value(bad)
    for wrong in ({1: 2}, {1}, float("nan"), 2**64, uuid.uuid4(), "\ud800"):
        with pytest.raises(cachekit.InteropError):
            cachekit.encode_interop_value(wrong)


def test_cachekit_interop_sealed_vector_opens() -> None:
    """Bare nonce, ciphertext and tag, bound to the key."""
    sealed = bytes.fromhex(
        "0d0e0f1011121314151617183c29af318238925ee76d081934adce133c0b4a7c5eb5704102b04582dcbf278ffd"
    )
    bound_to = associated_data("default", USER_42, "msgpack", False)
    keys = Keys(bytes(32), [b"a" * 32])
    found = interop.decode_interop_value(keys.open_bare("default", sealed, bound_to))
    assert {"age": 30, "name": "alice"} == found
    for at in range(len(sealed)):
        with pytest.raises(cachekit.DecryptionAuthenticationError):
            keys.open_bare("default", sealed[:at], bound_to)


class Colour(Enum):
    RED = "red"


def test_cachekit_argument_hashes() -> None:
    """Vectors of cachekit 0.24.1, and which arguments are the same to it."""
    hashed = names.argument_hash
    vector = "531aec338a44d57a1e0ac074c001047ee8f92b15cbb0ae8a6454cc297c667d03"
    assert vector == hashed([7], {"full": True})
    for argument, expected in [
        (3, "5bad92410553bf971d8fbdbd535385d0c30b94271df125a573165004a76b91c2"),
        (1.5, "cf0cdc2c147582d23a35b80a506c687752543517838dd45dae8003dcb166c075"),
        (-0.0, "57e581573a3719cb3e2432629bfe26453b890caa20742235d938577f3db690b2"),
        (None, "073b96f1817ee2b2a26b6cee56401999e4dc2d8836d596927d0aad3e338c2f0b"),
        (PurePosixPath("/a/b"), "3c003250f2ce8fcc672c3e814109a4219fe4d8285b541b45256fd081600f9b4d"),
        (uuid.UUID(int=5), "ba840ebaaaf452d9a23fe4ce76ae1eec7d7ba7dc355b81ee2ecce7a359bfd8cb"),
        (Decimal("1.50"), "9eefbd40929b089eb631c1a33b6b8e81f9e103b39d1ed44d947711d359a4daf9"),
        (datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
         "3a69993114930ffad20b184d879ed89fe582d103bbc56e8bfeb320ab4ae438b5"),
        ({"b": 1, "a": {"z": 1, "y": 2}},
         "e26cefdb314b080573e9ae9f0c0601a5c766a9de9738acb983930f737e31af3c"),
        ({2: 1, 1: 1}, "02e1061cdbfdd4d60caf9408d478d3eba8865ef0427104283a3cee29bf235bef"),
    ]:  # fmt: skip
        assert expected == hashed([argument], {}), argument
    assert hashed([(1, 2)], {}) == hashed([[1, 2]], {})
    assert hashed([Colour.RED], {}) == hashed(["red"], {})
    assert hashed([0.0], {}) == hashed([-0.0], {})
    assert 3 == len({hashed([value], {}) for value in (1, True, 1.0)})
    for wrong in (object(), {1}, datetime.datetime(2020, 1, 1), datetime.date(2020, 1, 1), 2**64,
                  {"1": 1, 1: 1}, "\ud800"):  # fmt: skip
        with pytest.raises(TypeError):
            hashed([wrong], {})


def test_cachekit_names() -> None:
    """Names of functions, long keys and codes of serializers."""

    def function() -> None: ...

    function.__module__, function.__qualname__ = "__main__", "t.<locals>.f"
    assert "ns:n_s:func:__main__.t._locals_.f:args:" == names.auto_place(function, "n s")
    assert "func:__main__.t._locals_.f:args:" == names.auto_place(function, None)
    function.__qualname__ = "q" * 300
    place = names.auto_place(function, "s" * 100)
    key = names.auto_key(place, names.argument_hash([1], {}), integrity=True, code="s")
    assert "ns:" + "s" * 47 + ":4ebffcb8758c09809a4da8fa767144f9" == key
    assert "o" == names.serializer_code("orjson", custom=False)
    assert "x8f72" == names.serializer_code("OrjsonSerializer", custom=True)
    assert "x8542" == names.serializer_code("StandardSerializer", custom=True)


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1, 2**64 - 1, 1.5, "é", b"\xff", [], {}, {"a": [{"b": (1,)}]},
     datetime.datetime(2026, 1, 2), datetime.date(2026, 1, 2), datetime.time(3, 4, 5),
     {"value": 1, "__datetime__": True}, {"__date__": False, "value": "2026-01-02"}],
    ids=repr,
)  # fmt: skip
def test_cachekit_standard_serializer_round_trip(value: Any) -> None:
    """Plain values come back, tuples as lists; what only looks like a date stays what it is."""
    for checked in (True, False):
        serializer = cachekit.StandardSerializer(enable_integrity_checking=checked)
        found = serializer.deserialize(*serializer.serialize(value))
        assert json.loads(json.dumps(value, default=repr)) == json.loads(
            json.dumps(found, default=repr)
        )


@pytest.mark.parametrize("value", [{1}, {1: 2}, object(), 2**64, uuid.uuid4(), "\ud800"])
def test_cachekit_standard_serializer_refuses(value: Any) -> None:
    """A value that another reader could not read is a TypeError."""
    with pytest.raises(TypeError):
        cachekit.StandardSerializer().serialize(value)


def test_cachekit_messagepack_depth_is_bounded() -> None:
    """A deep value is an error, not a crash: for writing and for reading."""
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    with pytest.raises(TypeError):
        messagepack.encode(deep)
    with pytest.raises(cachekit.SerializationError):
        messagepack.decode(b"\x91" * 100_000 + b"\x01")
    bad_date = messagepack.encode({"__date__": True, "value": "not a date"})
    with pytest.raises(cachekit.SerializationError):
        messagepack.decode(bad_date)


def test_cachekit_orjson_serializer() -> None:
    """Checksum and sorted JSON, as cachekit writes it."""
    serializer = cachekit.OrjsonSerializer()
    data, metadata = serializer.serialize({"b": 1, "a": "78"})
    assert "2a68cb0b633ca001" + b'{"a":"78","b":1}'.hex() == data.hex()
    assert {"b": 1, "a": "78"} == serializer.deserialize(data, metadata)
    for at in range(len(data)):
        with pytest.raises(cachekit.SerializationError):
            serializer.deserialize(data[:at])
    with pytest.raises(TypeError):
        serializer.serialize({1, 2})
    plain = cachekit.OrjsonSerializer(enable_integrity_checking=False)
    for bad in (b"", b"{", b"[" * 100_000, b"NaN"):
        with pytest.raises(cachekit.SerializationError):
            plain.deserialize(bad)


@pytest.mark.parametrize("compression", ["zstd", "lz4", "none"])
def test_cachekit_arrow_serializer(compression: str) -> None:
    """Tables come back, from each library that has them."""
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    columns = {"id": [1, 2], "score": [1.5, 2.5]}
    frames = {
        "pandas": pd.DataFrame(columns),
        "polars": pl.DataFrame(columns),
        "arrow": pa.table(columns),
    }
    for kind, table in frames.items():
        serializer = cachekit.ArrowSerializer(kind, compression=compression)
        data, metadata = serializer.serialize(table)
        assert (compression != "none") == metadata.compressed
        assert b"ARROW1" == data[8:14]
        found = serializer.deserialize(data, metadata)
        assert table.equals(found)
        with pytest.raises(cachekit.SerializationError):
            serializer.deserialize(data[:-1])
        with pytest.raises(cachekit.SerializationError):
            serializer.deserialize(envelope.checked(b"not arrow"))
    with pytest.raises(TypeError):
        cachekit.ArrowSerializer().serialize({"a": 1})
    for settings in ({"compression": "gzip"}, {"return_format": "numpy"}):
        with pytest.raises(cachekit.ConfigurationError):
            cachekit.ArrowSerializer(**settings)
