"""Rows and key records of the Asherah format.

The layouts are those of the public format; the decoder that judges ours is written here anew on
`cryptography`, `json` and `base64`.
"""

from __future__ import annotations

import base64
import binascii
import copy
import gc
import json
import os
import pickle
import random
import struct
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from anyseal import _ffi
from anyseal._ffi import ffi, lib
from anyseal.config import ROW_MAX_BYTES
from anyseal.errors import AnysealError, DecryptionError, FormatError, KeyUseError, WrongKeyError
from anyseal.keys import Slot
from anyseal.record import (
    KeyRecord,
    RowKey,
    decode_key_record,
    encode_key_record,
    middle_of,
    open_parsed,
    open_row,
    parse_row,
    seal_row,
    seal_row_text,
    sealing,
    unwrap_key,
    wrap_key,
)

IK = bytes(range(32))
IK_ID = "_IK_user-42_svc_prod"
IK_CREATED = 1_795_305_540
NOW = 1_795_305_599
SIZES = [*range(301), 4067, 4068, 4069, 16383, 16384, 65536, 1 << 20]


@pytest.fixture
def row_key() -> RowKey:
    return RowKey(Slot.from_bytes(IK), IK_ID, IK_CREATED)


@pytest.fixture(params=["aes", "no-aes"])
def aes(request: pytest.FixtureRequest) -> Iterator[None]:
    """With libsodium's AES-GCM, and as on a CPU that has no AES."""
    if request.param == "no-aes":
        lib.anyseal_bind(lib.ANYSEAL_FN_AES_AVAILABLE, ffi.cast("void *", 0))
    yield
    name = "crypto_aead_aes256gcm_is_available"
    lib.anyseal_bind(lib.ANYSEAL_FN_AES_AVAILABLE, _ffi._bundled(name))


def seal_blob(data: bytes, key: bytes) -> str:
    nonce = os.urandom(12)
    return base64.b64encode(AESGCM(key).encrypt(nonce, data, None) + nonce).decode()


def open_blob(text: str, key: bytes) -> bytes:
    blob = base64.b64decode(text, validate=True)
    return AESGCM(key).decrypt(blob[-12:], blob[:-12], None)


def independent_row(data: bytes = b"hello", key_id: str = IK_ID) -> dict[str, Any]:
    drk = os.urandom(32)
    return {
        "Key": {
            "Created": NOW,
            "Key": seal_blob(drk, IK),
            "ParentKeyMeta": {"KeyId": key_id, "Created": IK_CREATED},
        },
        "Data": seal_blob(data, drk),
    }


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def open_any(row: Any, row_key: RowKey) -> bytes:
    """What a session does: the one call, then the reader of any JSON."""
    opened = open_row(row, row_key)
    return open_parsed(parse_row(row), row_key) if opened is None else opened


# ---- Sealing ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("aes")
@pytest.mark.parametrize("as_text", [False, True])
def test_seal_row_writes_the_layout_byte_for_byte(row_key: RowKey, as_text: bool) -> None:
    """Peers write the members in this order without spaces, and some compare."""
    for size in SIZES:
        data = os.urandom(size)
        row = (
            seal_row_text(data, row_key, NOW) if as_text else seal_row(data, row_key, NOW).decode()
        )
        read = json.loads(row)
        expected = (
            f'{{"Key":{{"Created":{NOW},"Key":"{read["Key"]["Key"]}","ParentKeyMeta":'
            f'{{"KeyId":"{IK_ID}","Created":{IK_CREATED}}}}},"Data":"{read["Data"]}"}}'
        )
        assert expected == row
        assert data == open_blob(read["Data"], open_blob(read["Key"]["Key"], IK))


def test_seal_row_has_the_known_sizes(row_key: RowKey) -> None:
    """Sizes that the public format's peers give for the same ids."""
    for size, expected in {0: 239, 11: 251, 64: 323, 1024: 1603}.items():
        assert expected == len(seal_row(bytes(size), row_key))


def test_seal_row_never_repeats_a_key_or_nonce(row_key: RowKey) -> None:
    """Both nonces and the data row key are fresh for each row."""
    rows = [json.loads(seal_row(b"", row_key)) for _ in range(200)]
    assert len({row["Key"]["Key"][-16:] for row in rows}) == 200
    assert len({row["Data"][-16:] for row in rows}) == 200
    assert len({open_blob(row["Key"]["Key"], IK) for row in rows}) == 200


def test_seal_row_dates_rows_now_by_default(row_key: RowKey) -> None:
    """The data row key's time is not truncated."""
    before = int(time.time())
    for row in (seal_row(b"x", row_key), seal_row_text(b"x", row_key)):
        assert before <= json.loads(row)["Key"]["Created"] <= int(time.time())


@pytest.mark.usefixtures("aes")
@pytest.mark.parametrize("created", [0, 9, 999_999_999, 10**9, 10**10, 10**15, 1 << 53])
def test_seal_row_takes_any_time(row_key: RowKey, created: int) -> None:
    """A clock far from today changes the length of the row, and nothing else."""
    for row in (seal_row(b"data", row_key, created), seal_row_text(b"data", row_key, created)):
        assert created == json.loads(row)["Key"]["Created"] == parse_row(row).drk_created
        assert open_any(row, row_key) == b"data"


@pytest.mark.parametrize("created", [-1, (1 << 53) + 1, 1.5, True, "1"])
def test_seal_row_refuses_what_is_no_time(row_key: RowKey, created: Any) -> None:
    for seal in (seal_row, seal_row_text):
        with pytest.raises(FormatError):
            seal(b"", row_key, created)


def test_seal_row_takes_any_bytes_like(row_key: RowKey) -> None:
    for data in (bytearray(b"data"), memoryview(b"data"), memoryview(b"xdatax")[1:5]):
        assert open_row(seal_row(data, row_key), row_key) == b"data"
        assert open_row(seal_row_text(data, row_key), row_key) == b"data"
    for wrong in ("data", None, 5, memoryview(b"data")[::2]):
        with pytest.raises(TypeError):
            seal_row(wrong, row_key)


def test_seal_row_text_gives_a_proper_str(row_key: RowKey) -> None:
    """It is filled in place: it must hash, compare and encode as any other."""
    for size in (0, 64, 100_000):
        text = seal_row_text(bytes(size), row_key)
        same = text.encode().decode()
        assert same == text
        assert hash(same) == hash(text)
        assert text.isascii()
        assert text in {same}


@pytest.mark.parametrize("seal", [seal_row, seal_row_text])
def test_seal_row_refuses_what_could_not_be_opened(
    row_key: RowKey, seal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of both directions is one; beyond it nothing is sealed."""
    monkeypatch.setattr(sealing, "ROW_MAX_BYTES", 10)
    monkeypatch.setattr(sealing, "_row_seal", lambda *_: lib.ANYSEAL_ERROR_ARGUMENT)
    monkeypatch.setattr(sealing, "_row_seal_text", lambda *_: lib.ANYSEAL_ERROR_ARGUMENT)
    with pytest.raises(ValueError, match="at most"):
        seal(bytes(11), row_key)


def test_seal_row_c_refuses_contradictions(row_key: RowKey) -> None:
    """The C side trusts no length: too long, or not the row's, is an error before any write."""
    block, out = row_key._block, bytes(400)
    argument = lib.ANYSEAL_ERROR_ARGUMENT
    assert argument == lib.anyseal_row_seal(out, 400, b"", ROW_MAX_BYTES + 1, NOW, block)
    assert argument == lib.anyseal_row_seal(out, 240, b"", 0, NOW, block)
    assert argument == lib.anyseal_row_seal(out, 238, b"", 0, NOW, block)
    assert argument == lib.anyseal_row_seal(out, 239, out, 1, NOW, block)
    assert lib.anyseal_row_open(out, ROW_MAX_BYTES + 1, b"", 0, block) == lib.ANYSEAL_ERROR_FORMAT
    assert out == bytes(400)


# ---- Key ids ---------------------------------------------------------------------------------

IDS = [
    "",
    "é",
    "_IK_日本_svc_prod",
    'a"b\\c/d',
    "\x00\x01\x08\t\n\x0c\r\x1f\x7f",
    "<&>\u2028",
    "😀",
]


@pytest.mark.usefixtures("aes")
@pytest.mark.parametrize("key_id", IDS)
def test_row_key_writes_any_id(key_id: str) -> None:
    """Non-ASCII stays as it is; only quotes, backslashes and controls are escaped."""
    key = RowKey(Slot.from_bytes(IK), key_id, IK_CREATED)
    for size in (0, 1, 64, 20_000):
        data = os.urandom(size)
        row, text = seal_row(data, key), seal_row_text(data, key)
        assert json.dumps(key_id, ensure_ascii=False) in text
        assert key_id == json.loads(row)["Key"]["ParentKeyMeta"]["KeyId"]
        for form in (row, row.decode(), text, text.encode(), bytearray(row), memoryview(row)):
            assert data == open_row(form, key)
            assert data == open_parsed(parse_row(form), key)


def test_row_key_refuses_what_is_not_unicode() -> None:
    with pytest.raises(FormatError):
        RowKey(Slot.from_bytes(IK), "\ud800", 0)
    for created in (-1, (1 << 53) + 1, True, "0", None):
        with pytest.raises(FormatError):
            RowKey(Slot.from_bytes(IK), "id", created)  # type: ignore[arg-type]


def test_row_key_shows_no_key(row_key: RowKey) -> None:
    assert f"<RowKey '{IK_ID}' {IK_CREATED}>" == repr(row_key)
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(row_key)


# ---- Opening ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("aes")
def test_open_row_opens_what_others_wrote(row_key: RowKey) -> None:
    """Rows made without this package, in the common layout: the one call does it."""
    for size in SIZES:
        data = os.urandom(size)
        row = compact(independent_row(data))
        for form in (row, row.encode(), bytearray(row.encode())):
            assert data == open_row(form, row_key)
            assert data == open_parsed(parse_row(form), row_key)


def layouts(row: dict[str, Any]) -> Iterator[str]:
    """Other JSON that says the same."""
    key, parent = row["Key"], row["Key"]["ParentKeyMeta"]
    yield json.dumps(row)
    yield json.dumps(row, indent=4)
    yield " \t\r\n" + compact(row) + "\n"
    yield compact({"Data": row["Data"], "Key": key})
    yield compact({**row, "Key": dict(reversed(list(key.items())))})
    yield compact({**row, "Key": {**key, "ParentKeyMeta": dict(reversed(list(parent.items())))}})
    yield compact({**row, "Key": {"Revoked": True, **key}})
    yield compact({**row, "Key": {**key, "Revoked": "maybe"}})
    yield compact({"extra": [1, {"Key": None}, []], **row, "more": {"a": {"Data": -1.5e3}}})
    yield compact({**row, "Key": {**key, "x": {}, "ParentKeyMeta": {**parent, "y": [[]]}}})
    yield compact(row).replace("/", "\\/")
    yield compact(row).replace("=", "\\u003d").replace("+", "\\u002B")
    yield compact(row).replace('"Key"', '"\\u004bey"').replace('"Data"', '"D\\u0061ta"')
    yield compact(row).replace(IK_ID, "".join(f"\\u{ord(c):04x}" for c in IK_ID))
    yield '{"Key":1,"Data":null,' + compact(row)[1:]
    yield '{"Key":{"Key":"x","Created":5,"ParentKeyMeta":{"KeyId":"y"}},' + compact(row)[1:]
    yield compact(row).replace(f'"Created":{NOW}', f'"Created":"x","Created":{NOW}')


@pytest.mark.usefixtures("aes")
@pytest.mark.parametrize("size", [0, 1, 5, 100, 20_000])
def test_parse_row_accepts_any_json_that_says_the_same(row_key: RowKey, size: int) -> None:
    """Databases and scripts reorder, space and escape what they keep."""
    data = os.urandom(size)
    row = independent_row(data)
    for layout in layouts(row):
        assert json.loads(layout)
        for form in (layout, layout.encode(), memoryview(layout.encode())):
            parsed = parse_row(form)
            assert (parsed.key_id, parsed.created, parsed.drk_created) == (IK_ID, IK_CREATED, NOW)
            assert base64.b64decode(row["Key"]["Key"]) == parsed.wrapped
            assert size == parsed.size
            assert data == open_any(form, row_key)


def test_parse_row_last_of_two_wins_whole(row_key: RowKey) -> None:
    """As in every common reader; and fields of the first object do not leak into the second."""
    first, second = independent_row(b"first"), independent_row(b"second")
    both = compact(first)[:-1] + "," + compact(second)[1:]
    assert open_any(both, row_key) == b"second"
    for tail in ('"Key":null', '"Key":{}', '"Key":{"Created":1}', '"Data":null', '"Data":{}'):
        with pytest.raises(FormatError, match="lacks"):
            parse_row(compact(first)[:-1] + "," + tail + "}")
    key = compact(first["Key"])
    for tail in ('"ParentKeyMeta":{}', '"ParentKeyMeta":[]', '"Key":null', '"Created":1.0'):
        text = f'{{"Key":{key[:-1]},{tail}}},"Data":"{first["Data"]}"}}'
        with pytest.raises(FormatError, match="lacks"):
            parse_row(text)


def test_parse_row_shows_no_content(row_key: RowKey) -> None:
    parsed = parse_row(seal_row(b"data", row_key, NOW))
    expected = f"ParsedRow(key_id={IK_ID!r}, created={IK_CREATED}, drk_created={NOW}, size=4)"
    assert expected == repr(parsed)


def test_parse_row_keeps_what_it_points_to(row_key: RowKey) -> None:
    """The result may outlive every other reference to the row."""
    parsed = [parse_row(seal_row_text(bytes([i]) * 50_000, row_key)) for i in range(20)]
    parsed += [parse_row(bytearray(seal_row(bytes([i]) * 50_000, row_key))) for i in range(20, 40)]
    assert [bytes([i]) * 50_000 for i in range(40)] == [open_parsed(p, row_key) for p in parsed]


@pytest.mark.parametrize("path", [("Key",), ("Data",), ("Key", "Key"), ("Key", "Created"),
                                  ("Key", "ParentKeyMeta"), ("Key", "ParentKeyMeta", "KeyId"),
                                  ("Key", "ParentKeyMeta", "Created")])  # fmt: skip
def test_parse_row_refuses_missing_and_mistyped_fields(row_key: RowKey, path: tuple[str]) -> None:
    """Each needed field, absent or of each wrong type, with a reason and without content."""
    wrong: list[Any] = [None, True, -1, 1.5, 2**53 + 1, 10**400, [], {}, "", "*", "AAAA", "é"]
    for value in ["absent", *wrong]:
        row = copy.deepcopy(independent_row())
        place: Any = row
        for name in path[:-1]:
            place = place[name]
        if value == "absent":
            del place[path[-1]]
        elif path[-1] == "KeyId" and isinstance(value, str):
            continue
        else:
            place[path[-1]] = value
        for form in (compact(row), json.dumps(row).encode()):
            assert open_row(form, row_key) is None
            with pytest.raises(FormatError) as caught:
                parse_row(form)
            assert len(str(caught.value)) < 80
            assert IK_ID not in str(caught.value)


BAD_JSON = [
    "", " ", "null", "[]", "1", '"x"', "{", "}", "{}x", "{}{}", "{,}", '{"a"}', '{"a":}',
    '{"a":1,}', "{'a':1}", '{"a":01}', '{"a":+1}', '{"a":1.}', '{"a":.5}', '{"a":1e}', '{"a":-}',
    '{"a":NaN}', '{"a":Infinity}', '{"a":tru}', '{"a":nul}', '{"a":True}', '{"a":"\n"}',
    '{"a":"\x00"}', '{"a":"\\x"}', '{"a":"\\u12"}', '{"a":"\\u12g4"}', '{"a":"\\', '{"a":"\\u',
    '{"a":"', '{"a":[1,]}', '{"a":[}', '{"a":[1 2]}', '{"a":{"b":1]}', '{"a":1 "b":2}', '{"a"=1}',
    '{1:2}', '{"a":1}\x00', "/**/{}", '{"a":1}//', "\ufeff{}", '{"a":[1', '{"a":1', '{"a":"b',
    '{"a":"\\"}', "\x00", '{"a":[]]}',
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_JSON)
def test_parse_row_refuses_what_is_not_json(row_key: RowKey, text: str) -> None:
    """Strict as RFC 8259, so that two readers never disagree on what a row says."""
    for form in (text, text.encode()):
        assert open_row(form, row_key) is None
        with pytest.raises(FormatError, match="the row is not JSON"):
            parse_row(form)
    if text.startswith('{"a":'):
        row = compact(independent_row())
        with pytest.raises(FormatError, match="the row is not JSON"):
            parse_row(row[:-1] + "," + text[1:])


@pytest.mark.parametrize("raw", [b"\xff", b"\xc0\x80", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xc3",
                                 b"\xf4\x90\x80\x80", b"\xf0\x80\x80\x80", b"\xe2\x82", b"\xf8",
                                 b"\x80", b"\xf0\x9f\x98"])  # fmt: skip
def test_parse_row_refuses_bad_utf8(raw: bytes) -> None:
    row = compact(independent_row()).encode()
    with pytest.raises(FormatError):
        parse_row(row[:-1] + b',"x":"' + raw + b'"}')
    with pytest.raises(FormatError):
        parse_row(row[:-1] + b',"x":"' + raw)


def test_parse_row_refuses_lone_surrogates() -> None:
    """Peers read them differently; an id has one meaning or none."""
    row = compact(independent_row(key_id="@"))
    for form in (row.replace("@", "\ud800"), row.replace("@", "\\ud800"),
                 row.replace("@", "\\udc00\\ud800")):  # fmt: skip
        with pytest.raises(FormatError):
            parse_row(form)
    assert parse_row(row.replace("@", "\\ud83d\\uDE00")).key_id == "😀"


def test_parse_row_bounds_nesting() -> None:
    row = compact(independent_row())
    for depth, ok in ((62, True), (63, True), (64, False), (100_000, False)):
        for opening, closing in (("[", "]"), ('{"a":', "}")):
            inner = opening * depth + ("1" if closing == "}" else "") + closing * depth
            text = row[:-1] + ',"x":' + inner + "}"
            if ok:
                assert parse_row(text).key_id == IK_ID
            else:
                with pytest.raises(FormatError):
                    parse_row(text)


@pytest.mark.parametrize("key_id", [IK_ID, *IDS])
def test_middle_of_finds_the_key_in_a_dict(key_id: str) -> None:
    """After a rotation a session holds several keys and must not parse each row to choose."""
    key = RowKey(Slot.from_bytes(IK), key_id, IK_CREATED)
    for data in (b"", b"x" * 10_000):
        row = seal_row(data, key)
        assert key.middle == middle_of(row)
        assert key.middle.decode() == middle_of(row.decode())
    for other in (b"", b"x" * 200, b"{}", row[:-1]):
        assert middle_of(other) in (None, key.middle)


def test_open_row_knows_other_keys_rows(row_key: RowKey) -> None:
    """A row under another key is None here, and the reader says which key it needs."""
    row = compact(independent_row())
    for other in (RowKey(Slot.from_bytes(IK), "_IK_user-43_svc_prod", IK_CREATED),
                  RowKey(Slot.from_bytes(IK), IK_ID, IK_CREATED + 60),
                  RowKey(Slot.from_bytes(IK), "é" + IK_ID[1:], IK_CREATED)):  # fmt: skip
        assert open_row(row, other) is None
        assert open_row(row.encode(), other) is None
        with pytest.raises(WrongKeyError):
            open_parsed(parse_row(row), other)


@pytest.mark.usefixtures("aes")
def test_open_row_wrong_key_and_wiped_key(row_key: RowKey) -> None:
    wrong = RowKey(Slot.random(), IK_ID, IK_CREATED)
    for row in (seal_row(b"data" * 10, row_key), seal_row_text(b"data" * 10, row_key)):
        with pytest.raises(DecryptionError, match=r"^does not verify$"):
            open_row(row, wrong)
        with pytest.raises(DecryptionError):
            open_parsed(parse_row(row), wrong)
    row = seal_row(b"data", row_key)
    row_key.slot.release()
    for call in (lambda: seal_row(b"", row_key), lambda: seal_row_text(b"", row_key),
                 lambda: open_row(row, row_key), lambda: open_row(row.decode(), row_key),
                 lambda: open_parsed(parse_row(row), row_key)):  # fmt: skip
        with pytest.raises(KeyUseError):
            call()


def test_open_row_c_wipes_what_does_not_verify(row_key: RowKey) -> None:
    row = bytearray(seal_row(bytes(64), row_key))
    at = row.index(b'"Data":"') + 20
    row[at] = ord("B") if row[at] == ord("A") else ord("A")  # still Base64
    out = bytearray(b"\xff" * 64)
    code = lib.anyseal_row_open(_ffi.view_writable(out), 64, bytes(row), len(row), row_key._block)
    assert code == lib.ANYSEAL_ERROR_DECRYPTION
    assert out == bytes(64)


def outcome(row: Any, row_key: RowKey) -> object:
    try:
        return open_any(row, row_key)
    except (FormatError, DecryptionError, WrongKeyError) as error:
        return type(error).__name__


@pytest.mark.usefixtures("aes")
@pytest.mark.parametrize("data", [b"", b"x", b"some secret"])
def test_open_row_every_bit_flip(row_key: RowKey, data: bytes) -> None:
    """A changed row is a typed error. Only the data row key's time is not authenticated: there a
    flip may leave the row as good as before, never give another plaintext."""
    row = seal_row(data, row_key, NOW)
    seen = set()
    for position in range(len(row)):
        for bit in range(8):
            changed = bytearray(row)
            changed[position] ^= 1 << bit
            in_time = 18 <= position < 28
            for form in (bytes(changed), changed.decode("latin-1")):
                found = outcome(form, row_key)
                assert isinstance(found, str) or (in_time and found == data)
                seen.add(found)
    assert seen == {data, "FormatError", "DecryptionError", "WrongKeyError"}


@pytest.mark.parametrize("data", [b"", b"some secret"])
def test_open_row_every_cut(row_key: RowKey, data: bytes) -> None:
    """Cut anywhere, at either end or in the middle, or with bytes added."""
    row = seal_row(data, row_key, NOW)
    for cut in range(len(row)):
        assert outcome(row[:cut], row_key) == "FormatError"
        assert isinstance(outcome(row[cut + 1 :], row_key), str)
        assert isinstance(outcome(row[:cut].decode(), row_key), str)
        shorter = outcome(row[:cut] + row[cut + 1 :], row_key)
        assert isinstance(shorter, str) or (18 <= cut < 28 and shorter == data)
        longer = outcome(row[:cut] + b"1" + row[cut:], row_key)
        assert isinstance(longer, str) or (18 <= cut <= 28 and longer == data)


def test_open_row_parts_of_two_rows_do_not_mix(row_key: RowKey) -> None:
    first, second = independent_row(b"first"), independent_row(b"second")
    mixed = compact({"Key": first["Key"], "Data": second["Data"]})
    assert outcome(mixed, row_key) == "DecryptionError"


def test_open_row_takes_only_text_and_bytes(row_key: RowKey) -> None:
    for wrong in (None, 5, ["x"], {}):
        with pytest.raises(TypeError):
            open_row(wrong, row_key)
        with pytest.raises(TypeError):
            parse_row(wrong)

    class Text(str):
        __slots__ = ()

    assert open_row(Text(seal_row_text(b"data", row_key)), row_key) == b"data"
    assert open_any(Text(json.dumps(independent_row(b"data"))), row_key) == b"data"


# ---- Size ------------------------------------------------------------------------------------


def test_open_row_large(row_key: RowKey) -> None:
    """100 MiB, in the common layout and in another."""
    data = random.Random(1).randbytes(1 << 20) * 100
    row = seal_row(data, row_key)
    assert data == open_row(row, row_key)
    read = json.loads(row)
    spaced = json.dumps({"Data": read["Data"], "Key": read["Key"]}).replace("/", "\\/")
    del read, row
    assert data == open_parsed(parse_row(spaced), row_key)


GARBAGE = 100_000_000


@pytest.mark.parametrize(
    "unit",
    [b"{", b"[", b'{"a":', b'"', b"\\", b"a", b" ", b"\x00", b"\xff", b"1", b'{"Key":', b'{"a":[1,',
     b"=", "é".encode(), None],
)  # fmt: skip
@pytest.mark.parametrize("inside", [False, True])
def test_garbage_is_refused_without_growth(
    row_key: RowKey, unit: bytes | None, inside: bool
) -> None:
    """100 MB of anything, alone or as a row's data: a typed error, and no memory beside it."""
    garbage = random.Random(2).randbytes(1 << 20) * 96 if unit is None else unit * (
        GARBAGE // len(unit)
    )  # fmt: skip
    if inside:
        row = seal_row(b"", row_key)
        garbage = row[:-42] + garbage + row[-42:]
    tracemalloc.start()
    try:
        start = time.process_time()
        found = outcome(garbage, row_key)
        spent = time.process_time() - start
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found in ("FormatError", "DecryptionError")
    assert spent < 30
    # The room for the plaintext may be reserved, once, and is not touched before it verifies.
    assert peak < len(garbage)


# ---- Against the standard library -------------------------------------------------------------


def expected_of(text: str) -> object:
    """What the standard library reads: the fields, or None if it is no row."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    def integer(digits: str) -> object:
        return int(digits) if len(digits) < 20 else float(digits)

    try:
        row = json.loads(text, parse_constant=refuse, parse_int=integer)
        text.encode()
        key, data = row["Key"], row["Data"]
        parent = key["ParentKeyMeta"]
        fields = (parent["KeyId"], parent["Created"], key["Created"], key["Key"])
        parent["KeyId"].encode()
        if any(type(n) is not int or not 0 <= n <= 1 << 53 for n in fields[1:3]):
            return None
        wrapped, blob = (base64.b64decode(t, validate=True) for t in (key["Key"], data))
        if len(wrapped) != 60 or base64.b64encode(wrapped).decode() != key["Key"]:
            return None
        if base64.b64encode(blob).decode() != data:
            return None
        return (*fields[:3], wrapped, len(blob) - 28) if len(blob) >= 28 else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def found_in(form: Any) -> object:
    try:
        parsed = parse_row(form)
    except FormatError:
        return None
    return (parsed.key_id, parsed.created, parsed.drk_created, parsed.wrapped, parsed.size)


ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner)),
    max_leaves=10,
)
NAMES = st.sampled_from(["Key", "Created", "KeyId", "Data", "ParentKeyMeta", "Revoked", "x"])


@st.composite
def rows(draw: st.DrawFn) -> str:
    """Rows with members added, dropped, replaced and reordered, in all of json's spellings."""
    row = independent_row(draw(st.binary(max_size=80)), draw(st.text(max_size=20)))
    objects: list[dict[str, Any]] = [row, row["Key"], row["Key"]["ParentKeyMeta"]]
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.sampled_from(objects))
        place[draw(NAMES)] = draw(ANY)
    for place in objects:
        members = draw(st.permutations(list(place.items())))
        place.clear()
        place.update(members)
    return json.dumps(
        row,
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 1, "\t"])),
    )


@settings(max_examples=400)
@given(rows(), st.data())
def test_parse_row_agrees_with_the_standard_library(text: str, data: st.DataObject) -> None:
    """On legal rows, and on the same with a piece replaced."""
    assert expected_of(text) == found_in(text)
    assert expected_of(text) == found_in(text.encode())
    at = data.draw(st.integers(0, len(text)))
    piece = data.draw(
        st.sampled_from(['"', "\\", "{", "}", ",", ":", "0", "e", "-", "\x00", "é", "", " "])
    )
    changed = text[:at] + piece + text[at + data.draw(st.integers(0, 3)) :]
    if "NaN" not in changed and "Infinity" not in changed:
        expected, found = expected_of(changed), found_in(changed)
        if found != expected:  # the data's base64 is judged only when it is opened
            assert expected is None
            parsed = parse_row(changed)
            key = RowKey(Slot.from_bytes(IK), parsed.key_id, parsed.created)
            with pytest.raises(AnysealError):
                open_parsed(parsed, key)


@given(st.binary(max_size=200))
def test_parse_row_any_bytes(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_row(data)


# ---- Keys under keys --------------------------------------------------------------------------


@pytest.mark.usefixtures("aes")
def test_wrap_key_is_the_public_blob() -> None:
    """Ciphertext, tag, nonce; without associated data; and back."""
    inner, outer = Slot.random(), Slot.from_bytes(IK)
    wrapped = wrap_key(inner, outer)
    assert len(wrapped) == 60
    assert inner.export() == open_blob(base64.b64encode(wrapped).decode(), IK)
    assert inner.export() == unwrap_key(wrapped, outer).export()
    assert wrapped != wrap_key(inner, outer)
    fresh = os.urandom(32)
    blob = base64.b64decode(seal_blob(fresh, IK))
    assert fresh == unwrap_key(blob, outer).export()


@pytest.mark.usefixtures("aes")
def test_unwrap_key_refuses_every_change() -> None:
    inner, outer = Slot.random(), Slot.from_bytes(IK)
    wrapped = wrap_key(inner, outer)
    gc.collect()  # or the keys of earlier tests go meanwhile
    live = lib.anyseal_arena_live()
    for position in range(60):
        changed = bytearray(wrapped)
        changed[position] ^= 0x10
        with pytest.raises(DecryptionError):
            unwrap_key(bytes(changed), outer)
    for length in (0, 1, 28, 59, 61):
        with pytest.raises(FormatError):
            unwrap_key((wrapped + b"x")[:length], outer)
    with pytest.raises(DecryptionError):
        unwrap_key(wrapped, inner)
    assert live == lib.anyseal_arena_live()
    outer.release()
    for call in (lambda: unwrap_key(wrapped, outer), lambda: wrap_key(inner, outer),
                 lambda: wrap_key(outer, inner)):  # fmt: skip
        with pytest.raises(KeyUseError):
            call()


# ---- Key records -----------------------------------------------------------------------------

WRAPPED = bytes(range(60))
B64 = base64.b64encode(WRAPPED).decode()
SK = KeyRecord(id="_SK_svc_prod", created=IK_CREATED, key=b"\xfb\xff blob of any length")
IK_RECORD = KeyRecord(
    id=IK_ID, created=IK_CREATED, key=WRAPPED, parent_id="_SK_svc_prod", parent_created=NOW
)


def test_encode_key_record_writes_the_layout_byte_for_byte() -> None:
    expected = f'{{"Created":{IK_CREATED},"Key":"+/8gYmxvYiBvZiBhbnkgbGVuZ3Ro"}}'
    assert expected == encode_key_record(SK)
    assert (
        f'{{"Created":{IK_CREATED},"Key":"{B64}",'
        f'"ParentKeyMeta":{{"KeyId":"_SK_svc_prod","Created":{NOW}}}}}'
    ) == encode_key_record(IK_RECORD)
    revoked = KeyRecord(id="x", created=1, key=b"k", revoked=True)
    assert encode_key_record(revoked) == '{"Revoked":true,"Created":1,"Key":"aw=="}'


@pytest.mark.parametrize("parent_id", IDS)
def test_key_record_round_trip(parent_id: str) -> None:
    for revoked in (False, True):
        ours = KeyRecord(id="é", created=5, key=WRAPPED, revoked=revoked, parent_id=parent_id,
                         parent_created=3)  # fmt: skip
        text = encode_key_record(ours)
        reordered = json.dumps(dict(reversed(list(json.loads(text).items()))), indent=1)
        for form in (text, text.encode(), bytearray(text.encode()), json.loads(text), reordered):
            assert ours == decode_key_record("é", 5, form)


def test_encode_key_record_refuses_half_a_parent() -> None:
    for parent in ({"parent_id": "x"}, {"parent_created": 1}):
        with pytest.raises(FormatError):
            encode_key_record(KeyRecord(id="x", created=1, key=b"k", **parent))  # type: ignore[arg-type]
    with pytest.raises(FormatError):
        encode_key_record(KeyRecord(id="x", created=-1, key=b"k"))


@pytest.mark.parametrize(
    "record",
    [
        None, [], "[]", "", "{", "x", '"x"', "null", b"\xff", "{" * 200_000, "[" * 200_000,
        '{"Created":' + "1" * 10_000 + "}", "\ud800", {}, {"Created": 5}, {"Key": B64},
        {"Created": 5, "Key": None}, {"Created": 5, "Key": ""}, {"Created": 5, "Key": "é"},
        {"Created": 5, "Key": "a-_="}, {"Created": 5, "Key": "Zg"}, {"Created": 5, "Key": b"Zg=="},
        {"Created": 6, "Key": B64}, {"Created": 5.0, "Key": B64}, {"Created": True, "Key": B64},
        {"Created": "5", "Key": B64}, {"Created": None, "Key": B64},
        {"Created": 5, "Key": B64, "Revoked": 1}, {"Created": 5, "Key": B64, "Revoked": "true"},
        {"Created": 5, "Key": B64, "ParentKeyMeta": []},
        {"Created": 5, "Key": B64, "ParentKeyMeta": {}},
        {"Created": 5, "Key": B64, "ParentKeyMeta": {"KeyId": "x"}},
        {"Created": 5, "Key": B64, "ParentKeyMeta": {"KeyId": 1, "Created": 1}},
        {"Created": 5, "Key": B64, "ParentKeyMeta": {"KeyId": "x", "Created": -1}},
        {"Created": 5, "Key": B64, "ParentKeyMeta": {"KeyId": "\ud800", "Created": 1}},
        {"Created": 5, "Key": "Zg==", "ParentKeyMeta": {"KeyId": "x", "Created": 1}},
        '{"Created":5,"Key":"' + "A" * (1 << 20) + '"}',
    ],
)  # fmt: skip
def test_decode_key_record_refuses(record: Any) -> None:
    """Whatever a metastore returns: a typed error with a short reason, without content."""
    if record is None or isinstance(record, list):
        with pytest.raises((FormatError, TypeError)):
            decode_key_record("x", 5, record)
        return
    with pytest.raises(FormatError) as caught:
        decode_key_record("x", 5, record)
    assert len(str(caught.value)) < 80
    assert B64[:8] not in str(caught.value)


def test_decode_key_record_ignores_unknown_members() -> None:
    text = f'{{"Extra":[1],"Created":5,"Key":"{B64}","Revoked":null,"ParentKeyMeta":null,"Id":"y"}}'
    assert KeyRecord(id="x", created=5, key=WRAPPED) == decode_key_record("x", 5, text)


def test_decode_key_record_keeps_the_text_binascii_writes() -> None:
    """Keys of other systems' KMS blobs: any bytes, also JSON or text in base64."""
    for blob in (b"vault:v1:abc", json.dumps({"encryptedKey": "x"}).encode(), os.urandom(1000)):
        text = binascii.b2a_base64(blob, newline=False).decode()
        assert blob == decode_key_record("x", 1, {"Created": 1, "Key": text}).key


def test_row_key_block_matches_the_c_layout(row_key: RowKey) -> None:
    """The block that the C reads: handle, length, middle."""
    handle, length = struct.unpack("=QQ", row_key._block[:16])
    assert handle == row_key.slot.handle
    assert length == len(row_key._block) - 16
