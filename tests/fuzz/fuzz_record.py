"""Fuzz the readers of rows and key records: ``python tests/fuzz/fuzz_record.py CORPUS``.

Needs atheris, which pytest does not: it does not run this file. A reader may refuse with a typed
error; where it reads, the standard library's JSON must read the same.
"""

from __future__ import annotations

import contextlib
import json
import sys

try:
    import atheris
except ImportError:
    atheris = None

with atheris.instrument_imports(include=["anyseal"]) if atheris else contextlib.nullcontext():
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


ROW = seal_row(b"some data", ROW_KEY, 1_700_000_001)


def one_input(data: bytes) -> None:
    """One input as it is, and spliced into a good row where its first two bytes say."""
    readers(data)
    if len(data) > 2:
        at = data[0] % len(ROW)
        readers(ROW[:at] + data[2:] + ROW[at + data[1] :])


def readers(data: bytes) -> None:
    """One input through every reader."""
    with contextlib.suppress(AnysealError):
        open_row(data, ROW_KEY)
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
        open_parsed(parsed, ROW_KEY)


if __name__ == "__main__":
    if atheris is None:
        sys.exit("pip install atheris")
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
