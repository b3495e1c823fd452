"""Seal and open values: one AEAD call over a small thing. Pure functions under a given key.

Layout (docs/format.md, section 3)::

    0  A5 01   2 kind   3 suite   4 key_id 16   20 expires_at u64 ms   28 nonce 24   52 ciphertext
"""

from __future__ import annotations

import base64
import binascii
import enum
import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from anyseal._ffi import lib, raise_for, steady, view, view_writable
from anyseal.config import CONTEXT_MAX_BYTES, EXPIRES_MAX_MS, VALUE_MAX_BYTES
from anyseal.errors import FormatError, WrongKeyError
from anyseal.hints import foreign, wrong_type
from anyseal.keys import Key, Slot
from anyseal.pages import LARGE_BYTES, fresh
from anyseal.suites import DEFAULT_SUITE, TAG_BYTES, Suite, suite_named

__all__ = [
    "HEADER_BYTES",
    "TEXT_MAX_CHARS",
    "Kind",
    "ValueInfo",
    "check_text_size",
    "expiry_ms",
    "from_text",
    "inspect_value",
    "key_id_of",
    "open_token",
    "open_under",
    "open_under_into",
    "overhead",
    "seal_under",
    "seal_under_into",
    "to_text",
    "unwrap",
    "wrap",
]

MAGIC = b"\xa5\x01"
HEADER_BYTES = 52
NONCE_AT = 28
KEY_ID = slice(4, 20)
EXPIRES_AT = 20
TEXT_MAX_CHARS = 1 << 20
"""The longest value as text: read and written on the event loop, in about a millisecond."""
_TEXT = "pQ"
"""What the text of everything sealed begins with."""
_DEFAULT = int(DEFAULT_SUITE)
_OVERHEAD = tuple(HEADER_BYTES + tag for tag in TAG_BYTES)
_ZERO = b"\0"
"""Times n it makes n bytes quicker than ``bytes(n)`` or a call of :func:`fresh`."""
_NEVER = bytes(8)
_LIFETIME_MS = 10 * 366 * 86_400_000
"""So few were meant as a lifetime."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PURPOSES = (b"value", b"wrap", b"token")
_value_seal = lib.anyseal_value_seal
_value_open = lib.anyseal_value_open
_MAY_CHANGE = lib.ANYSEAL_MAY_CHANGE


class Kind(enum.IntEnum):
    """What a value holds; one kind is never accepted for another."""

    VALUE = 0
    WRAPPED_KEY = 1
    TOKEN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueInfo:
    """What the header of a sealed value says. Nothing of it is verified before opening."""

    kind: Kind
    suite: Suite
    key_id: bytes
    expires_at: datetime | None
    size: int
    """Plaintext bytes."""


def overhead(suite: Suite | str | None = None) -> int:
    """Bytes that sealing under *suite* adds to a value."""
    return HEADER_BYTES + suite_named(suite).tag_bytes


def expiry_ms(expires_at: float | datetime | None) -> int:
    """Milliseconds since the epoch for *expires_at* (seconds, or an aware datetime); 0 is never.

    Raises:
        ValueError: In the past, beyond the year 9999, not finite, or a naive datetime.
    """
    if expires_at is None:
        return 0
    if isinstance(expires_at, datetime):
        if expires_at.tzinfo is None:
            raise ValueError("expires_at must be an aware datetime")
        milliseconds = (expires_at - _EPOCH) // timedelta(milliseconds=1)
    elif isinstance(expires_at, bool) or not isinstance(expires_at, (int, float)):
        remedy = "datetime.now(UTC) + lifetime" if isinstance(expires_at, timedelta) else ""
        raise wrong_type("expires_at", "seconds or a datetime", expires_at, remedy)
    elif isinstance(expires_at, float) and not math.isfinite(expires_at * 1000):
        raise ValueError("expires_at must be finite")
    else:
        milliseconds = round(expires_at * 1000)
    if milliseconds <= time.time_ns() // 1_000_000:
        relative = 0 <= milliseconds < _LIFETIME_MS
        remedy = ": it counts from 1970, so time.time() + seconds" if relative else ""
        raise ValueError(f"expires_at is in the past{remedy}")
    if milliseconds > EXPIRES_MAX_MS:
        raise ValueError("expires_at is beyond the year 9999")
    return milliseconds


def _context(context: Any) -> Any:
    if type(context) is not bytes and len(view(context, "context")) <= CONTEXT_MAX_BYTES:
        return view(context, "context")
    if type(context) is not bytes or len(context) > CONTEXT_MAX_BYTES:
        raise ValueError(f"context is longer than {CONTEXT_MAX_BYTES:,} bytes")
    return context


def _plaintext(data: Any) -> Any:
    if type(data) is not bytes and len(view(data)) <= VALUE_MAX_BYTES:
        return view(data)
    if type(data) is not bytes or len(data) > VALUE_MAX_BYTES:
        raise ValueError("a value holds at most 2**32 bytes: seal an object instead")
    return data


def _ready(key: Key, number: int) -> int:
    """Derive the key's subkey for values, and note how its values begin; returns its handle."""
    suite_named(number)
    handle = key._value_handle(number)
    head = MAGIC + bytes((Kind.VALUE, number)) + key._key_id
    key._heads[head] = key._heads[head + _NEVER] = (number, _OVERHEAD[number], handle)
    return handle


def seal_under(
    data: Any,
    key: Key,
    context: Any = b"",
    suite: Suite | str | None = None,
    expires_at: float | datetime | None = None,
    kind: int = 0,
    expires_ms: int = 0,
) -> bytes:
    """Seal *data* under *key*: see :func:`anyseal.sync.seal`; *expires_ms* is in bounds."""
    number = _DEFAULT if suite is None else suite_named(suite)._value_
    if expires_at is not None:
        expires_ms = expiry_ms(expires_at)
    elif kind and kind == Kind.TOKEN:
        raise ValueError("a token must expire")
    source = data
    try:
        if type(data) is not bytes:
            source = view(data)
        if type(context) is not bytes or len(context) > CONTEXT_MAX_BYTES:
            context = _context(context)
        size = len(source)
        if size > VALUE_MAX_BYTES:
            _plaintext(data)
        length = _OVERHEAD[number] + size
        out = _ZERO * length if length < LARGE_BYTES else fresh(length)
        code = _value_seal(
            out,
            source,
            size,
            context,
            len(context),
            expires_ms,
            key._key_id,
            kind,
            number,
            key._subkey(_PURPOSES[kind], number).handle
            if kind
            else key._value[number] or _ready(key, number),
        )
        if code:
            raise_for(code)
    except BaseException:
        source = context = None
        raise
    return out


def seal_under_into(
    buffer: Any,
    data: Any,
    key: Key,
    context: Any = b"",
    suite: Suite | str | None = None,
    expires_at: float | datetime | None = None,
) -> int:
    """Seal *data* into *buffer*: see :func:`anyseal.sync.seal_into`."""
    number = int(suite_named(suite))
    expires_ms = expiry_ms(expires_at)
    source = out = None
    try:
        source, context, out = _plaintext(data), _context(context), view_writable(buffer)
        size = HEADER_BYTES + TAG_BYTES[number] + len(source)
        if len(out) < size:
            raise ValueError(f"buffer has {len(out):,} bytes and needs {size:,}")
        code = _value_seal(
            out,
            source,
            len(source),
            context,
            len(context),
            expires_ms,
            key.key_id,
            Kind.VALUE,
            number,
            key._value[number] or _ready(key, number),
        )
        if code:
            raise_for(code)
    except BaseException:
        source = context = out = None
        raise
    return size


def _suite_number(header: bytes, size: int, kind: int) -> int:
    """Check what can be checked without a key; returns the suite's number."""
    if size < HEADER_BYTES or header[:2] != MAGIC:
        raise FormatError(f"not a sealed value{foreign(header, but=MAGIC + bytes((kind,)))}")
    if header[2] != kind:
        raise FormatError(f"a sealed thing of another kind{foreign(header)}")
    number = header[3]
    if not 1 <= number <= 3:
        raise FormatError("a suite this version does not know")
    if size < HEADER_BYTES + TAG_BYTES[number]:
        raise FormatError("too short for a sealed value")
    if kind and kind == Kind.TOKEN and header[20:28] == _NEVER:
        raise FormatError("a token that never expires")
    return number


def _header(sealed: Any) -> tuple[bytes, int]:
    """A copy of the header of *sealed*, and the length of all of it."""
    if type(sealed) is bytes:
        return sealed[:HEADER_BYTES], len(sealed)
    size = len(view(sealed, "sealed"))
    return bytes(memoryview(sealed).cast("B")[:HEADER_BYTES]), size


def key_id_of(sealed: Any, kind: int = 0) -> bytes:
    """The key id that a sealed value names.

    Raises:
        FormatError: Not a sealed value of this kind.
    """
    header, size = _header(sealed)
    _suite_number(header, size, kind)
    return header[KEY_ID]


def _opening(sealed: Any, key: Key, kind: int) -> tuple[Any, int, int, int, int]:
    """The source's C view, its suite, its plaintext size, the time to compare with, and what C is
    told of the kind. What is decided here on a header that may change, C decides again on its
    copy."""
    header, length = _header(sealed)
    number = _suite_number(header, length, kind)
    if header[4:20] != key._key_id:
        raise WrongKeyError("sealed under another key")
    if not key._value[number]:
        _ready(key, number)
    told = kind if steady(sealed) else kind | _MAY_CHANGE
    source = sealed if type(sealed) is bytes else view(sealed, "sealed")
    return source, number, length - _OVERHEAD[number], time.time_ns() // 1_000_000, told


def open_under(sealed: Any, key: Key, context: Any = b"", kind: int = 0) -> bytes:
    """Open *sealed* under *key*: see :func:`anyseal.sync.open`."""
    if type(sealed) is bytes and type(context) is bytes:
        # The usual value, recognised by one look-up: ours, of this key, without an expiry; by
        # another look-up, with one.
        now = 0
        head = key._heads.get(sealed[:NONCE_AT])
        if head is None:
            head = key._heads.get(sealed[:EXPIRES_AT])
            now = time.time_ns() // 1_000_000
        if head is not None and not kind and len(context) <= CONTEXT_MAX_BYTES:
            number, overhead_bytes, handle = head
            length = len(sealed)
            size = length - overhead_bytes
            if size > 1:
                result = _ZERO * size if size < LARGE_BYTES else fresh(size)
                code = _value_open(
                    result, sealed, length, context, len(context), now, 0, number, handle
                )
                if code:
                    raise_for(code)
                return result
    source = None
    try:
        source, number, size, now, told = _opening(sealed, key, kind)
        if type(context) is not bytes or len(context) > CONTEXT_MAX_BYTES:
            context = _context(context)
        # The C side fills a fresh bytes object; CPython shares those of 0 and 1 bytes.
        out: Any = fresh(size) if size > 1 else bytearray(2)
        code = _value_open(
            out if size > 1 else view_writable(out),
            source,
            len(source),
            context,
            len(context),
            now,
            told,
            number,
            key._subkey(_PURPOSES[kind], number).handle if kind else key._value[number],
        )
        if code:
            raise_for(code)
    except BaseException:
        source = context = None
        raise
    return out if size > 1 else bytes(out[:size])


def open_under_into(buffer: Any, sealed: Any, key: Key, context: Any = b"") -> int:
    """Open *sealed* into *buffer*: see :func:`anyseal.sync.open_into`."""
    source = out = None
    try:
        out = view_writable(buffer)
        source, number, size, now, told = _opening(sealed, key, Kind.VALUE)
        context = _context(context)
        if len(out) < size:
            raise ValueError(f"buffer has {len(out):,} bytes and needs {size:,}")
        code = _value_open(
            out,
            source,
            len(source),
            context,
            len(context),
            now,
            told,
            number,
            key._value[number],
        )
        if code:
            raise_for(code)
    except BaseException:
        source = context = out = None
        raise
    return size


def open_token(sealed: bytes, key: Key, *, expired: bool = False) -> bytes:
    """Open a value of kind 2; with *expired* also one whose time is over.

    Raises:
        FormatError: Not a token.
        WrongKeyError: Sealed under another key.
        DecryptionError: It does not verify.
        ExpiredError: Authentic, but expired.
    """
    source, number, size, now, told = _opening(sealed, key, Kind.TOKEN)
    out = bytearray(size or 1)
    code = _value_open(
        view_writable(out),
        source,
        len(source),
        b"",
        0,
        0 if expired else now,
        told,
        number,
        key._subkey(_PURPOSES[Kind.TOKEN], number).handle,
    )
    if code:
        raise_for(code)
    return bytes(out[:size])


def inspect_value(sealed: bytes | bytearray | memoryview) -> ValueInfo:
    """What the header of *sealed* says, without a key. Nothing of it is verified.

    Raises:
        FormatError: Not a sealed value.
    """
    source = memoryview(sealed).cast("B")
    header = bytes(source[:HEADER_BYTES])
    if len(header) < HEADER_BYTES or header[2] > max(Kind):
        raise FormatError("not a sealed value")
    number = _suite_number(header, len(source), header[2])
    expires = int.from_bytes(header[20:28])
    if expires > EXPIRES_MAX_MS:
        raise FormatError("an expiry beyond the year 9999")
    return ValueInfo(
        kind=Kind(header[2]),
        suite=Suite(number),
        key_id=header[KEY_ID],
        expires_at=_EPOCH + timedelta(milliseconds=expires) if expires else None,
        size=len(source) - HEADER_BYTES - TAG_BYTES[number],
    )


def to_text(data: bytes) -> str:
    """*data* in base64url (RFC 4648, section 5) without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def from_text(text: str, most: int = TEXT_MAX_CHARS) -> bytes:
    """The bytes of *text*, in the one canonical spelling and of at most *most* characters.

    Raises:
        TypeError: Not a str.
        FormatError: Padding, whitespace, another alphabet, unused bits, or too long.
    """
    if not isinstance(text, str):
        remedy = "open() takes bytes; text.decode() if they are a cookie's"
        raise wrong_type("text", "a str", text, remedy if isinstance(text, bytes) else "")
    if len(text) > most or not text.isascii():
        raise FormatError(f"not base64url, or longer than {most:,} characters")
    what = "" if text.startswith(_TEXT) or not text else foreign(text)
    if what:
        raise FormatError(f"not the text of anything sealed{what}")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise FormatError("not base64url") from None
    if to_text(data) != text:
        raise FormatError("not the canonical spelling of base64url: no padding, no whitespace")
    return data


def check_text_size(data: Any, suite: Suite | str | None) -> None:
    """Raise ValueError if *data*, sealed under *suite*, is too long for a text."""
    size = len(data) if type(data) is bytes else len(view(data))
    most = TEXT_MAX_CHARS // 4 * 3 - overhead(suite)
    if size > most:
        raise ValueError(f"a text holds at most {most:,} bytes, not {size:,}: seal() takes more")


def wrap(data_key: Slot, key: Key, suite: Suite, context: bytes) -> bytes:
    """*data_key* wrapped under *key* as a value of kind 1."""
    out = bytes(suite.wrapped_bytes)
    code = lib.anyseal_key_wrap(
        out,
        data_key.handle,
        context,
        len(context),
        key.key_id,
        suite,
        key._subkey(b"wrap", suite).handle,
    )
    if code:
        raise_for(code)
    return out


def unwrap(wrapped: bytes, key: Key, suite: Suite, context: bytes) -> Slot:
    """The data key in *wrapped*.

    Raises:
        DecryptionError: It does not verify.
        FormatError: Not a wrapped key under *suite*.
        WrongKeyError: Wrapped under another key.
    """
    if wrapped[KEY_ID] != key.key_id:
        raise WrongKeyError("sealed under another key")
    return Slot(
        lib.anyseal_key_unwrap(
            wrapped,
            len(wrapped),
            context,
            len(context),
            suite,
            key._subkey(b"wrap", suite).handle,
        )
    )
