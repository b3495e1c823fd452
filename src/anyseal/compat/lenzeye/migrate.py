"""What a migration to sealed objects is made of: verified plaintext in, one sealed put out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from anyseal.compat.lenzeye.bucket import LenzeyeBucket

__all__ = ["migrate_object", "open_lenzeye_object"]

T = TypeVar("T")


async def open_lenzeye_object(
    bucket: LenzeyeBucket, key: str, user: Any
) -> AsyncGenerator[bytes, None]:
    """The plaintext of an object, of any of the layout's forms; never a byte unverified.

    Args:
        bucket: Where it is.
        key: Its key.
        user: Whose it is.

    Raises:
        InvalidSignatureError: It was altered.
        And what :meth:`LenzeyeBucket.open` and :meth:`LenzeyeReader.stream` raise.

    Cost: parts of up to 64 MiB in memory; objects without listed part MACs are read twice.
    """
    async with aclosing(bucket.download(key, user)) as pieces:
        async for piece in pieces:
            yield piece


async def migrate_object(
    bucket: LenzeyeBucket,
    key: str,
    user: Any,
    put: Callable[[str, AsyncIterator[bytes], Mapping[str, str]], Awaitable[T]],
) -> T:
    """Hand one object to *put*, verified; the old object stays.

    Args:
        bucket: Where it is.
        key: Its key.
        user: Whose it is.
        put: Called with the key, the plaintext, and the metadata that is not the layout's. It
            must make nothing visible unless the plaintext ends without an error.

    Returns:
        What *put* returned.

    Raises:
        As :func:`open_lenzeye_object`, and what *put* raises.
    """
    reader = await bucket.open(key, user)
    async with aclosing(reader.stream()) as plaintext:
        return await put(key, plaintext, reader.metadata)
