"""The bucket without ``await``: the same calls, through the event loop that sync code shares."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, TypeVar

from anyseal import offload
from anyseal.compat.lenzeye.bucket import (
    PART_SIZE,
    LenzeyeBucket,
    LenzeyeObject,
    LenzeyeUpload,
)
from anyseal.compat.lenzeye.layout import Layout, LenzeyeMetadata
from anyseal.compat.lenzeye.tables import UserKeyTable

__all__ = ["BlockingLenzeyeBucket"]

T = TypeVar("T")


class BlockingLenzeyeBucket:
    """:class:`LenzeyeBucket` for sync code: a context manager.

    Args:
        make_client: Returns an aiobotocore S3 client's context manager, such as
            ``lambda: AioSession().create_client("s3", ...)``; entered on the shared event loop.
        bucket: The bucket's name.
        table: As for LenzeyeBucket.
        layout: As for LenzeyeBucket.

    Open it in the process that uses it: after a fork, not before.
    """

    def __init__(
        self,
        make_client: Callable[[], AbstractAsyncContextManager[Any]],
        bucket: str,
        *,
        table: UserKeyTable | None = None,
        layout: Layout | None = None,
    ) -> None:
        self._make_client = make_client
        self._name, self._table, self._layout = bucket, table, layout
        self._client: AbstractAsyncContextManager[Any] | None = None
        self._bucket: LenzeyeBucket | None = None

    def __enter__(self) -> BlockingLenzeyeBucket:
        offload.wait(self._enter)
        return self

    async def _enter(self) -> None:
        self._client = self._make_client()
        client = await self._client.__aenter__()
        self._bucket = LenzeyeBucket(client, self._name, table=self._table, layout=self._layout)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        client, self._client, self._bucket = self._client, None, None
        if client is not None:
            offload.wait(client.__aexit__, None, None, None)

    @property
    def _open(self) -> LenzeyeBucket:
        if self._bucket is None:
            raise RuntimeError("use the bucket in a with block")
        return self._bucket

    def create_upload(
        self,
        key: str,
        user: Any,
        *,
        part_size: int = PART_SIZE,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> LenzeyeUpload:
        """As :meth:`LenzeyeBucket.create_upload`."""
        bucket = self._open
        return offload.wait(
            lambda: bucket.create_upload(
                key, user, part_size=part_size, metadata=metadata, content_type=content_type
            )
        )

    def encrypt_and_upload_part(
        self, key: str, upload_id: str, token: str, number: int, plaintext: Any
    ) -> str:
        """As :meth:`LenzeyeBucket.encrypt_and_upload_part`."""
        call = self._open.encrypt_and_upload_part
        return offload.wait(call, key, upload_id, token, number, plaintext)

    def complete_upload(
        self,
        key: str,
        upload_id: str,
        token: str,
        receipts: Any,
        *,
        size: int | None = None,
        parts: int | None = None,
        legacy_hmac: bool = False,
    ) -> LenzeyeMetadata:
        """As :meth:`LenzeyeBucket.complete_upload`."""
        bucket = self._open
        return offload.wait(
            lambda: bucket.complete_upload(
                key, upload_id, token, receipts, size=size, parts=parts, legacy_hmac=legacy_hmac
            )
        )

    def abort_upload(self, key: str, upload_id: str) -> None:
        """As :meth:`LenzeyeBucket.abort_upload`."""
        offload.wait(self._open.abort_upload, key, upload_id)

    def download(self, key: str, user: Any) -> Iterator[bytes]:
        """As :meth:`LenzeyeBucket.download`."""
        return _stepped(self._open.download(key, user))

    def read_range(
        self, key: str, user: Any, start: int, length: int, *, verify: bool = True
    ) -> bytes:
        """:meth:`LenzeyeBucket.open`, then :meth:`LenzeyeReader.read_range`."""
        bucket = self._open

        async def read() -> bytes:
            reader = await bucket.open(key, user)
            return await reader.read_range(start, length, verify=verify)

        return offload.wait(read)

    def scan(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[LenzeyeObject]:
        """As :meth:`LenzeyeBucket.scan`."""
        return _stepped(self._open.scan(prefix, start_after=start_after))


def _stepped(source: AsyncGenerator[T, None]) -> Iterator[T]:
    """What an async generator yields."""

    async def step() -> list[T]:
        async for item in source:
            return [item]
        return []

    try:
        while found := offload.wait(step):
            yield found[0]
    finally:
        offload.wait(source.aclose)
