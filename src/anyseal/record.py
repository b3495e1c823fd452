"""Rows and key records of the Asherah format: bytes to JSON and back. Pure functions.

A row is a record sealed under a data row key (DRK) of its own, which is wrapped by an intermediate
key (IK)::

    {"Key":{"Created":…,"Key":"…","ParentKeyMeta":{"KeyId":"…","Created":…}},"Data":"…"}

Each base64 string holds AES-256-GCM's ciphertext, tag and nonce, in this order. What this module
writes is one C call; what it wrote is one C call to open; any other JSON that says the same is
read through :func:`parse_row`. Nothing but the two ciphertexts is authenticated: the id and the
times only say which key to try.
"""

from __future__ import annotations

import binascii
import ctypes
import json
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from anyseal._ffi import ffi, lib, raise_for, view, view_writable
from anyseal.config import KEY_BYTES, ROW_MAX_BYTES
from anyseal.errors import DecryptionError, FormatError, WrongKeyError
from anyseal.keys import Slot

__all__ = [
    "KeyRecord",
    "ParsedRow",
    "RowKey",
    "decode_key_record",
    "encode_key_record",
    "middle_of",
    "open_parsed",
    "open_row",
    "parse_row",
    "seal_row",
    "seal_row_text",
    "unwrap_key",
    "wrap_key",
]

CREATED_MAX = 1 << 53
"""Seconds, and what every JSON reader keeps exactly."""

WRAPPED_BYTES = 60
KEY_ID_MAX_BYTES = 1 << 16
KEY_RECORD_MAX_BYTES = 1 << 20

_OVERHEAD = 28  # tag and nonce
_CHARS_MIN = 40  # base64 of an empty plaintext's blob
_FIXED = 118  # a row's bytes beside the middle and the data, with ten digits for Created
_MIDDLE_AT, _MIDDLE_MAX = 116, 8192
_ESCAPED = 1 << 62
_TEXT_UNFILLED = 1 << 16

_row_seal, _row_seal_text = lib.anyseal_row_seal, lib.anyseal_row_seal_text
_row_open, _row_open_text = lib.anyseal_row_open, lib.anyseal_row_open_text


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """A wrapped system or intermediate key as the metastore keeps it."""

    id: str
    created: int
    """Seconds since the epoch."""
    key: bytes = field(repr=False)
    """Wrapped: a system key by the KMS, an intermediate key by its system key."""
    revoked: bool = False
    parent_id: str | None = None
    """The system key that wraps an intermediate key; None for a system key."""
    parent_created: int | None = None


class RowKey:
    """An intermediate key with what is the same in all rows under it. Not to be changed."""

    __slots__ = ("_block", "_fixed", "_fixed_chars", "created", "id", "slot")

    def __init__(self, slot: Slot, id: str, created: int) -> None:
        self.slot = slot
        self.id = id
        self.created = _created(created, "created")
        text = f'","ParentKeyMeta":{{"KeyId":{_string(id)},"Created":{created}}}}},"Data":"'
        middle = text.encode()
        self._block = struct.pack("=QQ", slot.handle, len(middle)) + middle
        self._fixed = _FIXED + len(middle)
        self._fixed_chars = _FIXED + len(text)

    @property
    def middle(self) -> bytes:
        """What :func:`middle_of` finds in this key's rows."""
        return self._block[16:]

    def __repr__(self) -> str:
        return f"<RowKey {self.id!r} {self.created}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key cannot be pickled or copied")


@dataclass(slots=True, kw_only=True, eq=False)
class ParsedRow:
    """What a row says. Nothing of it is verified. Not to be changed."""

    key_id: str
    """The intermediate key that wraps the data row key."""
    created: int
    """The intermediate key's, in seconds since the epoch."""
    drk_created: int
    wrapped: bytes = field(repr=False)
    """The data row key."""
    size: int
    """Plaintext bytes."""
    data: Any = field(repr=False)
    """A C pointer to ``data_len`` characters of base64."""
    data_len: int = field(repr=False)
    owner: Any = field(repr=False)
    """Keeps what ``data`` points to."""


def _created(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value <= CREATED_MAX:
        raise FormatError(f"{name} must be a whole number of seconds, 0 to 2**53")
    return value


def _string(text: str) -> str:
    """*text* as a JSON string with no more escapes than needed."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FormatError("a key id is not valid Unicode") from None
    return json.dumps(text, ensure_ascii=False)


# ---- Rows ------------------------------------------------------------------------------------


def seal_row(data: Any, row_key: RowKey, created: int | None = None) -> bytes:
    """Seal *data* as a row under *row_key*.

    Args:
        data: Bytes-like, 0 to 2**31 - 32 bytes. Not modified.
        created: When the data row key is made, in seconds since the epoch. Default: now.

    Returns:
        The row: ASCII but for what the key's id holds.

    Raises:
        FormatError: *created* is not a time.
        KeyUseError: The key is wiped.
        ValueError: *data* is too long.

    Cost: one C call; keeps the GIL under 16 KiB.
    """
    source = data if type(data) is bytes else view(data)
    size = len(source)
    length = row_key._fixed + (size + 30) // 3 * 4
    if created is None:
        created = -1
    else:
        length += _extra_digits(created)
    out = bytes(length) if size <= ROW_MAX_BYTES else b""
    code = _row_seal(out, length, source, size, created, row_key._block)
    if code:
        return _seal_otherwise(code, data, size, row_key, created)
    return out


def seal_row_text(data: Any, row_key: RowKey, created: int | None = None) -> str:
    """:func:`seal_row`, as a ``str``."""
    if row_key._fixed != row_key._fixed_chars:  # the key's id is not ASCII
        return seal_row(data, row_key, created).decode()
    source = data if type(data) is bytes else view(data)
    size = len(source)
    length = row_key._fixed + (size + 30) // 3 * 4
    if created is None:
        created = -1
    else:
        length += _extra_digits(created)
    if length < _TEXT_UNFILLED:
        out = "0" * length
    else:
        out = _new_text(length) if size <= ROW_MAX_BYTES else ""
    code = _row_seal_text(id(out), source, size, created, row_key._block)
    if code:
        return _seal_otherwise(code, data, size, row_key, created).decode()
    return out


def _extra_digits(created: int) -> int:
    """How many digits more than ten *created* has."""
    return len(str(_created(created, "created"))) - 10


def _text_maker() -> Callable[[int], str]:
    """What makes a fresh ASCII str without touching its pages, if this CPython lets us."""
    try:
        new = ctypes.pythonapi.PyUnicode_New
    except AttributeError:
        return lambda length: "0" * length
    new.argtypes = (ctypes.c_ssize_t, ctypes.c_uint32)
    new.restype = ctypes.py_object
    return lambda length: new(length, 127)


_new_text = _text_maker()


def _seal_otherwise(code: int, data: Any, size: int, row_key: RowKey, created: int) -> bytes:
    """What the C call did not seal: too much, or no AES in the CPU, or a clock far from today."""
    if size > ROW_MAX_BYTES:
        raise ValueError("a row holds at most 2**31 - 32 bytes: seal an object instead")
    if code == lib.ANYSEAL_ERROR_SUITE:
        return _seal_software(bytes(memoryview(data)), row_key, created)
    if code == lib.ANYSEAL_ERROR_ARGUMENT and created < 0:  # the time has not ten digits
        return seal_row(data, row_key, int(time.time()))
    return raise_for(code)


def open_row(row: Any, row_key: RowKey) -> bytes | None:
    """Open *row* if it has the very layout that :func:`seal_row` writes under *row_key*.

    Args:
        row: ``str`` or bytes-like.

    Returns:
        The plaintext, or None if the row has another layout or names another key: it may still be
        a row, which :func:`parse_row` finds out.

    Raises:
        DecryptionError: It does not verify.
        KeyUseError: The key is wiped.

    Cost: one C call; keeps the GIL under 16 KiB.
    """
    source: Any
    if type(row) is str:
        size = (len(row) - row_key._fixed_chars >> 2) * 3 - _OVERHEAD
        if size > 3:  # CPython shares the bytes objects of 0 and 1 bytes
            if row[-3] == "=":
                size -= 2 if row[-4] == "=" else 1
            out = bytes(size)
            code = _row_open_text(out, size, id(row), row_key._block)
            if not code:
                return out
            return _open_otherwise(code, row, row_key)
        source = row.encode(errors="replace")
    elif type(row) is bytes:
        source = row
    elif isinstance(row, str):
        return open_row(str.__str__(row), row_key)
    else:
        source = view(row, "row")
    length = len(source)
    size = (length - row_key._fixed >> 2) * 3 - _OVERHEAD
    if size < 0:
        return None
    if source[length - 3] == 61:  # "="
        size -= 2 if source[length - 4] == 61 else 1
    if size > 1:
        out = bytes(size)
        code = _row_open(out, size, source, length, row_key._block)
        if not code:
            return out
    elif size >= 0:
        tiny = view_writable(bytearray(2))
        code = _row_open(tiny, size, source, length, row_key._block)
        if not code:
            return bytes(ffi.buffer(tiny, size))
    else:
        return None
    return _open_otherwise(code, row, row_key)


def middle_of(row: str | bytes) -> str | bytes | None:
    """What tells the rows of one key from those of another, cut out unread.

    Equal to :attr:`RowKey.middle` (or its text) in rows of the common layout, so that a dict of
    keys finds the one to give to :func:`open_row`, which compares it exactly. Anything or None in
    other rows.
    """
    if isinstance(row, str):
        end = row.find('"Data":"', _MIDDLE_AT, _MIDDLE_AT + _MIDDLE_MAX)
    else:
        end = row.find(b'"Data":"', _MIDDLE_AT, _MIDDLE_AT + _MIDDLE_MAX)
    return row[_MIDDLE_AT : end + 8] if end > 0 else None


def _open_otherwise(code: int, row: Any, row_key: RowKey) -> bytes | None:
    """What the C call did not open: another layout, or no AES in the CPU, or worse."""
    if code == lib.ANYSEAL_ERROR_FORMAT:
        return None
    if code == lib.ANYSEAL_ERROR_SUITE:
        parsed = parse_row(row)
        if parsed.key_id != row_key.id or parsed.created != row_key.created:
            return None
        return _open_software(parsed, row_key)
    return raise_for(code)


def parse_row(row: Any) -> ParsedRow:
    """Read any JSON that is a row: in any order, spaced, escaped, with unknown members.

    Of two members of one name the last counts. ``Revoked`` means nothing in a row. Nesting is
    bounded to 64 levels. The row must not change while the result is in use.

    Args:
        row: ``str`` or bytes-like, UTF-8.

    Raises:
        FormatError: Not JSON, or not a row.

    Cost: one pass without the GIL; copies nothing but the short fields, and base64 with escapes.
    """
    if isinstance(row, str):
        if row.isascii():
            source, length = lib.anyseal_text(id(row)), len(row)
        else:
            try:
                row = row.encode()
            except UnicodeEncodeError:
                raise FormatError("the row is not valid Unicode") from None
            source, length = view(row), len(row)
    else:
        source = view(row, "row")
        length = len(source)
    numbers = memoryview(bytearray(64)).cast("q")
    if lib.anyseal_row_parse(ffi.from_buffer("int64_t[]", numbers), source, length):
        raise FormatError("the row is not JSON")
    drk_created, created, wrapped_at, wrapped_len, id_at, id_len, data_at, data_len = numbers
    if drk_created < 0:
        raise FormatError("the row lacks a usable Key.Created")
    if created < 0:
        raise FormatError("the row lacks a usable Key.ParentKeyMeta.Created")
    if id_at < 0 or id_len & ~_ESCAPED > KEY_ID_MAX_BYTES:
        raise FormatError("the row lacks a usable Key.ParentKeyMeta.KeyId")
    if wrapped_at < 0 or wrapped_len & ~_ESCAPED > KEY_ID_MAX_BYTES:
        raise FormatError("the row lacks a usable Key.Key")
    if data_at < 0:
        raise FormatError("the row lacks a usable Data")
    owner: Any = (row, source)
    data = source + data_at
    if data_len & _ESCAPED:
        owner = _resolved(data, data_len & ~_ESCAPED, "Data")
        data, data_len = view(owner), len(owner)
    blob = lib.anyseal_base64_bytes(data, data_len)
    if blob < _OVERHEAD or blob - _OVERHEAD > ROW_MAX_BYTES:
        raise FormatError("Data is not base64 of a possible length")
    return ParsedRow(
        key_id=_key_id(source + id_at, id_len),
        created=created,
        drk_created=drk_created,
        wrapped=_wrapped(source + wrapped_at, wrapped_len),
        size=blob - _OVERHEAD,
        data=data,
        data_len=data_len,
        owner=owner,
    )


def _resolved(at: Any, length: int, name: str) -> bytes:
    """The base64 in a JSON string with escapes. Garbage costs no memory: it is counted first."""
    needed = lib.anyseal_json_base64(ffi.NULL, length, at, length)
    if needed < 2:  # CPython shares the bytes objects of 0 and 1 bytes
        raise FormatError(f"{name} is not base64")
    out = bytes(needed)
    if lib.anyseal_json_base64(out, needed, at, length) != needed:
        raise FormatError(f"{name} is not base64")
    return out


def _key_id(at: Any, length: int) -> str:
    raw = bytes(ffi.buffer(at, length & ~_ESCAPED))
    text = raw.decode()
    if length & _ESCAPED:
        text = json.loads(f'"{text}"')
        _string(text)  # refuses lone surrogates
    return text


def _wrapped(at: Any, length: int) -> bytes:
    if length & _ESCAPED:
        at = _resolved(at, length & ~_ESCAPED, "Key.Key")
        length = len(at)
    out = bytes(WRAPPED_BYTES)
    if lib.anyseal_base64_decode(out, WRAPPED_BYTES, at, length):
        raise FormatError("Key.Key is not base64 of a wrapped key")
    return out


def open_parsed(parsed: ParsedRow, row_key: RowKey) -> bytes:
    """Open what :func:`parse_row` found, under the key that it names.

    Raises:
        DecryptionError: It does not verify.
        FormatError: Its data is not base64.
        KeyUseError: The key is wiped.
        WrongKeyError: The row names another key.
    """
    if parsed.key_id != row_key.id or parsed.created != row_key.created:
        raise WrongKeyError("the row names another key")
    size = parsed.size
    out: Any = bytes(size) if size > 1 else view_writable(bytearray(2))
    code = lib.anyseal_row_open_parts(
        out, size, parsed.data, parsed.data_len, parsed.wrapped, row_key.slot.handle
    )
    if code:
        if code == lib.ANYSEAL_ERROR_FORMAT:
            raise FormatError("Data is not base64")
        if code == lib.ANYSEAL_ERROR_SUITE:
            return _open_software(parsed, row_key)
        raise_for(code)
    return out if size > 1 else bytes(ffi.buffer(out, size))


# ---- Keys under keys -------------------------------------------------------------------------


def wrap_key(inner: Slot, outer: Slot) -> bytes:
    """*inner* wrapped under *outer*, as a key record holds it: 60 bytes.

    Raises:
        KeyUseError: One of the two is wiped.
    """
    out = bytes(WRAPPED_BYTES)
    code = lib.anyseal_row_wrap(out, inner.handle, outer.handle)
    if code == lib.ANYSEAL_ERROR_SUITE:
        return _blob_seal(inner.export(), outer.export())
    if code:
        raise_for(code)
    return out


def unwrap_key(wrapped: bytes, outer: Slot) -> Slot:
    """The key in *wrapped*.

    Raises:
        DecryptionError: It does not verify under *outer*.
        FormatError: Not 60 bytes.
        KeyUseError: *outer* is wiped.
    """
    if len(wrapped) != WRAPPED_BYTES:
        raise FormatError(f"a wrapped key has {WRAPPED_BYTES} bytes, not {len(wrapped)}")
    handle = lib.anyseal_row_unwrap(view(wrapped, "wrapped"), WRAPPED_BYTES, outer.handle)
    if handle == lib.ANYSEAL_ERROR_SUITE:
        inner = bytearray(_blob_open(bytes(wrapped), outer.export()))
        try:
            return Slot(lib.anyseal_key_import(view_writable(inner)))
        finally:
            lib.anyseal_wipe(view_writable(inner), len(inner))
    return Slot(handle)


# ---- The same without AES in the CPU: libsodium has no AES-GCM then ----------------------------


def _blob_seal(data: bytes, key: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(12)
    return AESGCM(key).encrypt(nonce, data, None) + nonce


def _blob_open(blob: bytes, key: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(key).decrypt(blob[-12:], blob[:-12], None)
    except InvalidTag:
        raise DecryptionError from None


def _seal_software(data: bytes, row_key: RowKey, created: int) -> bytes:
    drk = os.urandom(KEY_BYTES)
    return b"".join(
        (
            b'{"Key":{"Created":%d,"Key":"' % (int(time.time()) if created < 0 else created),
            binascii.b2a_base64(_blob_seal(drk, row_key.slot.export()), newline=False),
            row_key._block[16:],
            binascii.b2a_base64(_blob_seal(data, drk), newline=False),
            b'"}',
        )
    )


def _open_software(parsed: ParsedRow, row_key: RowKey) -> bytes:
    blob = bytes(parsed.size + _OVERHEAD)
    if lib.anyseal_base64_decode(blob, len(blob), parsed.data, parsed.data_len):
        raise FormatError("Data is not base64")
    return _blob_open(blob, _blob_open(parsed.wrapped, row_key.slot.export()))


# ---- Key records -----------------------------------------------------------------------------


def encode_key_record(record: KeyRecord) -> str:
    """*record* as the JSON that a metastore keeps, without its id.

    Raises:
        FormatError: A time is not one, or a parent is half given.
    """
    if (record.parent_id is None) != (record.parent_created is None):
        raise FormatError("a parent has both an id and a time")
    fields = [f'"Created":{_created(record.created, "created")}']
    if record.revoked:
        fields.insert(0, '"Revoked":true')
    fields.append(f'"Key":"{binascii.b2a_base64(record.key, newline=False).decode()}"')
    if record.parent_id is not None:
        created = _created(record.parent_created, "parent_created")
        fields.append(
            f'"ParentKeyMeta":{{"KeyId":{_string(record.parent_id)},"Created":{created}}}'
        )
    return "{" + ",".join(fields) + "}"


def decode_key_record(id: str, created: int, record: Any) -> KeyRecord:
    """The key that a metastore keeps under *id* and *created*.

    Args:
        record: Its JSON as ``str`` or bytes-like, or parsed already: a ``dict``.

    Raises:
        FormatError: Not a key record, or one of another time.
    """
    fields = record if isinstance(record, dict) else _json(record)
    if not isinstance(fields, dict):
        raise FormatError("the key record is not a JSON object")
    if _created(fields.get("Created"), "Created") != created:
        raise FormatError("the key record's Created is not that of its row")
    revoked = fields.get("Revoked")
    if revoked is not None and type(revoked) is not bool:
        raise FormatError("Revoked is neither true nor false")
    encoded = fields.get("Key")
    if not isinstance(encoded, str) or not encoded or not encoded.isascii():
        raise FormatError("the key record lacks a usable Key")
    characters = encoded.encode()
    size = lib.anyseal_base64_bytes(characters, len(characters))
    key = bytearray(max(size, 1))
    if size < 1 or lib.anyseal_base64_decode(view_writable(key), size, characters, len(characters)):
        raise FormatError("Key is not base64")
    parent_id = parent_created = None
    parent = fields.get("ParentKeyMeta")
    if parent is not None:
        parent_id = parent.get("KeyId") if isinstance(parent, dict) else None
        if not isinstance(parent_id, str):
            raise FormatError("the key record lacks a usable ParentKeyMeta.KeyId")
        _string(parent_id)
        parent_created = _created(parent.get("Created"), "ParentKeyMeta.Created")
        if size != WRAPPED_BYTES:
            raise FormatError("Key is not a wrapped key")
    return KeyRecord(
        id=id,
        created=created,
        key=bytes(key),
        revoked=bool(revoked),
        parent_id=parent_id,
        parent_created=parent_created,
    )


def _json(record: Any) -> Any:
    """The JSON of a key record: small, so the standard library's reader will do."""
    text = record if isinstance(record, str) else view(record, "record")
    if len(text) > KEY_RECORD_MAX_BYTES:
        raise FormatError("the key record is too long")
    try:
        if not isinstance(text, str):
            text = bytes(ffi.buffer(text, len(text))).decode()
        return json.loads(text)
    except (ValueError, RecursionError):
        raise FormatError("the key record is not JSON") from None
