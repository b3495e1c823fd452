"""The awaitable twins of the file streams: what is large is done in worker threads."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Any

from anyseal import offload
from anyseal.compat.lenzeye.ctr import INLINE_BYTES, view_of
from anyseal.compat.lenzeye.master import IV_BYTES, KEY_BYTES, check_bytes
from anyseal.compat.lenzeye.pieces import cut, spool
from anyseal.compat.lenzeye.streams import (
    Decryptor,
    Encryptor,
    decrypt_file_stream,
    encrypt_file_stream,
    spooled,
    verified,
)

__all__ = ["decrypt_file_stream_async", "encrypt_file_stream_async"]


async def stepped(generator: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """What a blocking generator yields, each step of it in a worker thread."""
    try:
        while (piece := await offload.run(next, generator, None)) is not None:
            yield piece
    finally:
        await offload.settle(generator.close)  # type: ignore[attr-defined]


async def worked(function: Callable[[memoryview], bytes], piece: memoryview) -> bytes:
    """*function* of *piece*, on the spot if that is quicker than a hop to a thread."""
    if len(piece) <= INLINE_BYTES:
        return function(piece)
    return await offload.run(function, piece)


async def encrypt_file_stream_async(
    plaintext_stream: Any, key: bytes, *, hmac_to: Callable[[bytes], object] | None = None
) -> AsyncGenerator[bytes, None]:
    """:func:`encrypt_file_stream`, also of an async iterable of bytes.

    Files and sync iterables are read in worker threads.
    """
    if not hasattr(plaintext_stream, "__aiter__"):
        generator = encrypt_file_stream(plaintext_stream, key, hmac_to=hmac_to)
        async with aclosing(stepped(generator)) as steps:
            async for piece in steps:
                yield piece
        return
    encryptor = Encryptor(check_bytes("key", key, KEY_BYTES), os.urandom(IV_BYTES))
    if hmac_to is not None:
        yield encryptor.iv
        async for data in plaintext_stream:
            for view in cut(data):
                yield await worked(encryptor.update, view)
        hmac_to(encryptor.digest())
        return
    file = spool()

    def keep(view: memoryview) -> None:
        file.write(encryptor.update(view))

    try:
        async for data in plaintext_stream:
            for view in cut(data):
                await offload.run(keep, view)
        async with aclosing(stepped(spooled(file, encryptor))) as steps:
            async for piece in steps:
                yield piece
    finally:
        await offload.settle(file.close)


async def decrypt_file_stream_async(
    ciphertext_stream: Any,
    key: bytes,
    expected_hmac: bytes | None = None,
    *,
    iv: bytes | None = None,
    verify: bool = False,
) -> AsyncGenerator[bytes, None]:
    """:func:`decrypt_file_stream`, also of an async iterable of bytes.

    Like it, it **yields plaintext before it has verified it**, unless *verify* is set.
    """
    if not hasattr(ciphertext_stream, "__aiter__"):
        generator = decrypt_file_stream(ciphertext_stream, key, expected_hmac, iv=iv, verify=verify)
        async with aclosing(stepped(generator)) as steps:
            async for piece in steps:
                yield piece
        return
    decryptor = Decryptor(key, expected_hmac, iv)
    if verify:
        again = Decryptor(key, expected_hmac, iv)
        async with aclosing(_verified(ciphertext_stream, decryptor, again)) as pieces:
            async for piece in pieces:
                yield piece
        return
    async for data in ciphertext_stream:
        for view in cut(data):
            if plaintext := await worked(decryptor.feed, view):
                yield plaintext
    if plaintext := decryptor.finish():
        yield plaintext


async def _verified(
    stream: Any, first: Decryptor, second: Decryptor
) -> AsyncGenerator[bytes, None]:
    """Keep the ciphertext of *stream*, verify it, then decrypt it."""
    file = spool()
    try:
        async for data in stream:
            await offload.run(file.write, view_of(data))
        await offload.run(file.seek, 0)
        async with aclosing(stepped(verified(file, 0, first, second))) as steps:
            async for piece in steps:
                yield piece
    finally:
        await offload.settle(file.close)
