"""Fuzz the readers of rows and key records: ``python tests/fuzz/fuzz_record.py CORPUS``.

A reader may refuse with a typed error; where it reads, the standard library's JSON must read the
same, and what opens is the plaintext.
"""

from __future__ import annotations

import contextlib
import json

from fuzz_common import fuzz, instrumented, variants

with instrumented():
    from anyseal.errors import AnysealError, FormatError
    from anyseal.keys import Slot
    from anyseal.record import (
        RowKey,
        decode_key_record,
        open_parsed,
        open_row,
        parse_row,
        seal_row,
    )

ROW_KEY = RowKey(Slot.from_bytes(bytes(32)), "_IK_p_s_r", 1_700_000_000)
PLAIN = b"some data"
ROW = seal_row(PLAIN, ROW_KEY, 1_700_000_001)
KEY_RECORDS = [
    b'{"Created":1700000000,"Key":"' + b"A" * 80 + b'"}',
    b'{"Revoked":true,"Created":1700000000,"Key":"'
    + b"A" * 80
    + b'","ParentKeyMeta":{"KeyId":"_SK_s_r","Created":1600000000}}',
]
GOOD = SEEDS = [ROW, json.dumps(json.loads(ROW), indent=1).encode(), *KEY_RECORDS]


def one_input(data: bytes) -> None:
    """One input through every reader, alone and inside of each good text."""
    for good in GOOD:
        for text in variants(data, good):
            readers(text)


def readers(data: bytes) -> None:
    """One input through every reader."""
    with contextlib.suppress(AnysealError):
        assert open_row(data, ROW_KEY) in (None, PLAIN)
    with contextlib.suppress(FormatError):
        decode_key_record("_IK_p_s_r", 1_700_000_000, data)
    try:
        parsed = parse_row(data)
    except FormatError:
        return
    row = json.loads(data)
    parent = row["Key"]["ParentKeyMeta"]
    assert parsed.key_id == parent["KeyId"]
    assert parsed.created == parent["Created"]
    assert parsed.drk_created == row["Key"]["Created"]
    with contextlib.suppress(AnysealError):
        assert open_parsed(parsed, ROW_KEY) == PLAIN


if __name__ == "__main__":
    fuzz(one_input)
