"""The awaitable face of values: small ones are done on the spot, large ones in a worker thread."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from anyseal import offload
from anyseal._ffi import view
from anyseal.config import BYTES_LIKE
from anyseal.errors import FormatError
from anyseal.hints import foreign, not_bytes
from anyseal.keys import Key
from anyseal.objects.format import ObjectInfo, inspect_object
from anyseal.ports import Keyring, current_key, named_key, resolve_partition
from anyseal.suites import INLINE_BYTES, Suite, suite_named
from anyseal.value import (
    ValueInfo,
    check_text_size,
    from_text,
    inspect_value,
    key_id_of,
    open_under,
    open_under_into,
    seal_under,
    seal_under_into,
    to_text,
)

__all__ = ["inspect", "open", "open_into", "open_text", "seal", "seal_into", "seal_text"]

_SMALL = min(INLINE_BYTES[1:])
_FIXED_BYTES = 84  # the most a header and a tag take


def _is_small(data: Any, suite: Suite | str | None) -> bool:
    """Whether sealing *data* is quicker than a hop to a thread and back."""
    size = len(data) if type(data) is bytes else len(view(data))
    return size <= _SMALL or size <= INLINE_BYTES[suite_named(suite)]


def _is_small_sealed(sealed: Any) -> bool:
    data = sealed if type(sealed) is bytes else view(sealed, "sealed")
    size = len(data) - _FIXED_BYTES
    if size <= _SMALL:
        return True
    number = data[3]  # read once: it may change
    return 1 <= number <= 3 and size <= INLINE_BYTES[number]


def inspect(sealed: bytes | bytearray | memoryview) -> ValueInfo | ObjectInfo:
    """What the header of a sealed value or object says, without a key.

    A plain function: no ``await``. Nothing of what it tells is verified before opening.

    Args:
        sealed: A whole sealed value, or at least the first 200 bytes of a sealed object.

    Raises:
        FormatError: Neither of them.
    """
    if not isinstance(sealed, BYTES_LIKE):
        raise not_bytes(sealed, "sealed")
    view(sealed, "sealed")  # raises what says the remedy
    head = bytes(memoryview(sealed).cast("B")[:7])
    if head[:1] == b"\xa5":
        return inspect_value(sealed)
    if head == b"ANYSEAL":
        return inspect_object(sealed)
    what = foreign(sealed, but=b"{")
    raise FormatError(f"neither a sealed value nor a sealed object{what}")


async def _named(key: Key | Keyring, partition: str | None, sealed: Any) -> Key:
    name = resolve_partition(key, partition)
    return key if isinstance(key, Key) else await named_key(key, name, key_id_of(sealed))


async def seal(
    data: Any,
    key: Key | Keyring,
    *,
    partition: str | None = None,
    context: Any = b"",
    suite: Suite | str | None = None,
    expires_at: float | datetime | None = None,
) -> bytes:
    """Seal one value.

    Args:
        data: Contiguous bytes-like, 0 to 2**32 bytes. Not modified; must not change meanwhile.
        key: A Key, or a Keyring together with *partition*.
        partition: Whose key to use, with a keyring: a non-empty str.
        context: Authenticated, not stored; 0 to 65,536 bytes. Opening needs the same.
        suite: ``AEGIS256``, ``AES256GCM`` or ``XCHACHA20POLY1305``. Default: the machine's best.
        expires_at: Seconds since the epoch or an aware datetime, after which it does not open.

    Returns:
        ``len(data)`` + 52 bytes + the tag (32 for AEGIS256, else 16).

    Raises:
        TypeError: Not bytes-like, or *partition* missing or superfluous.
        ValueError: Too long, or *expires_at* in the past.
        ConfigurationError: No such suite.
        KeyUseError: The key is wiped.

    Cost: done without suspending up to 1 MiB (AEGIS256), 256 KiB (AES256GCM) or 128 KiB
    (XCHACHA20POLY1305), where the key is at hand; beyond that in a worker thread.
    Source: docs/format.md, section 3.
    """
    if type(key) is not Key or partition is not None:
        key = await current_key(key, resolve_partition(key, partition))
    if (type(data) is bytes and len(data) <= _SMALL) or _is_small(data, suite):
        return seal_under(data, key, context, suite, expires_at)
    return await offload.run(seal_under, data, key, context, suite, expires_at)


async def seal_into(
    buffer: Any,
    data: Any,
    key: Key | Keyring,
    *,
    partition: str | None = None,
    context: Any = b"",
    suite: Suite | str | None = None,
    expires_at: float | datetime | None = None,
) -> int:
    """Seal one value into *buffer*: as :func:`seal`, without allocating the result.

    Args:
        buffer: Writable and contiguous, at least as long as :func:`seal`'s result; must not
            overlap *data*. The other arguments are those of :func:`seal`.

    Returns:
        The number of bytes written.
    """
    key = await current_key(key, resolve_partition(key, partition))
    if _is_small(data, suite):
        return seal_under_into(buffer, data, key, context, suite, expires_at)
    return await offload.run(seal_under_into, buffer, data, key, context, suite, expires_at)


async def open(
    sealed: Any,
    key: Key | Keyring,
    *,
    partition: str | None = None,
    context: Any = b"",
) -> bytes:
    """Open one value.

    Args:
        sealed: What :func:`seal` returned, as any contiguous bytes-like.
        key: The Key it was sealed under, or a Keyring together with *partition*.
        partition: As when sealing.
        context: As when sealing.

    Returns:
        The plaintext.

    Raises:
        FormatError: Not a sealed value, or of a version or suite this one does not know.
        WrongKeyError: The key id is unknown under this partition.
        DecryptionError: It does not verify: altered, or another context.
        ExpiredError: Authentic, but past its expiry.
        KeyUseError: The key is wiped.

    Cost: as :func:`seal`.
    Source: docs/format.md, section 3.
    """
    if type(key) is not Key or partition is not None:
        key = await _named(key, partition, sealed)
    if (type(sealed) is bytes and len(sealed) <= _SMALL) or _is_small_sealed(sealed):
        return open_under(sealed, key, context)
    return await offload.run(open_under, sealed, key, context)


async def open_into(
    buffer: Any,
    sealed: Any,
    key: Key | Keyring,
    *,
    partition: str | None = None,
    context: Any = b"",
) -> int:
    """Open one value into *buffer*: as :func:`open`, without allocating the result.

    If it does not verify, the part of *buffer* that the plaintext would fill is wiped.

    Args:
        buffer: Writable and contiguous, at least as long as the plaintext; must not overlap
            *sealed*. The other arguments are those of :func:`open`.

    Returns:
        The number of bytes written.
    """
    key = await _named(key, partition, sealed)
    if _is_small_sealed(sealed):
        return open_under_into(buffer, sealed, key, context)
    return await offload.run(open_under_into, buffer, sealed, key, context)


async def seal_text(
    data: Any,
    key: Key | Keyring,
    *,
    partition: str | None = None,
    context: Any = b"",
    suite: Suite | str | None = None,
    expires_at: float | datetime | None = None,
) -> str:
    """Seal one value as text for a cookie, a URL or a header: letters, digits, ``-`` and ``_``.

    The text is the sealed value in base64url without padding. It needs no escaping anywhere.

    Args:
        data: Contiguous bytes-like, at most 786,348 bytes (AEGIS256) or 786,364 (the others).
            A browser keeps a cookie of 4,096 characters, its name included: 2,900 bytes fit.
        key: A Key, or a Keyring together with *partition*. The other arguments are those of
            :func:`seal`. For a cookie set *expires_at*: the browser's ``Max-Age`` is only a wish.

    Returns:
        ``ceil((len(data) + 84) * 4 / 3)`` characters, with 68 instead of 84 for suites other than
        AEGIS256: 112 (91) for no bytes, 155 (134) for 32, 1,478 (1,456) for 1,024.

    Raises:
        ValueError: *data* is too long for a text, or as :func:`seal`.
        TypeError, ConfigurationError, KeyUseError: As :func:`seal`.

    Cost: as :func:`seal`, and up to 1 ms for the spelling of the longest text.
    Source: docs/format.md, section 3.5; RFC 4648, section 5.
    """
    check_text_size(data, suite)
    return to_text(
        await seal(
            data, key, partition=partition, context=context, suite=suite, expires_at=expires_at
        )
    )


async def open_text(
    text: str,
    key: Key | Keyring,
    *,
    partition: str | None = None,
    context: Any = b"",
) -> bytes:
    """Open one value that is text.

    Args:
        text: What :func:`seal_text` returned, character for character: a str, not bytes, with no
            padding and no whitespace. The other arguments are those of :func:`open`.

    Returns:
        The plaintext, as bytes.

    Raises:
        TypeError: Not a str.
        FormatError: Not the canonical spelling, longer than 1,048,576 characters (found before
            it is decoded), or not a sealed value.
        WrongKeyError, DecryptionError, ExpiredError, KeyUseError: As :func:`open`.

    Cost: as :func:`open`, and up to 2 ms to check the spelling of the longest text.
    Source: docs/format.md, section 3.5.
    """
    return await open(from_text(text), key, partition=partition, context=context)
