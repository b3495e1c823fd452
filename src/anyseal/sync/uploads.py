"""Multipart uploads by workers that share no memory, without ``await``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from anyseal.s3 import CompletedUpload, PartPlan, SealedBucket
from anyseal.s3.uploads import EXPIRES_IN
from anyseal.suites import Suite
from anyseal.sync.calling import Caller, await_

__all__ = ["UploadCalls"]


class UploadCalls:
    """The calls of a sealed bucket for uploads in parts; each may be made by another worker."""

    @property
    def _bucket(self) -> SealedBucket:
        """The async bucket."""
        raise NotImplementedError

    def create_upload(
        self,
        key: str,
        *,
        size: int,
        partition: str | None = None,
        context: bytes = b"",
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
        suite: Suite | str | None = None,
        part_size: int | None = None,
        expires_in: float = EXPIRES_IN,
    ) -> str:
        """Begin an upload of *size* plaintext bytes; returns the token."""
        return await_(
            self._bucket.create_upload,
            key,
            size=size,
            partition=partition,
            context=context,
            metadata=metadata,
            content_type=content_type,
            suite=suite,
            part_size=part_size,
            expires_in=expires_in,
        )

    def part_plan(self, token: str, *, partition: str | None = None) -> PartPlan:
        """Which parts the upload has: their number, plaintext ranges and sizes."""
        return await_(self._bucket.part_plan, token, partition=partition)

    def upload_part(
        self, token: str, number: int, data: Any, *, partition: str | None = None
    ) -> str:
        """Seal part *number* and upload it; returns the receipt.

        Args:
            data: Exactly the part's plaintext: bytes-like, a path, a binary file, or an iterable
                of pieces. Files and iterables are read in the calling thread.
        """
        caller = Caller()
        fed = caller.fed(data)
        return caller.run(self._bucket.upload_part, token, number, fed, partition=partition)

    def resume(
        self, token: str, receipts: Iterable[str], *, partition: str | None = None
    ) -> list[int]:
        """The numbers of the parts that are missing: to be uploaded, or uploaded again."""
        return await_(self._bucket.resume, token, _all(receipts), partition=partition)

    def complete_upload(
        self,
        token: str,
        receipts: Iterable[str],
        *,
        partition: str | None = None,
        if_none_match: bool = False,
        if_match: str | None = None,
    ) -> CompletedUpload:
        """Make the object visible."""
        return await_(
            self._bucket.complete_upload,
            token,
            _all(receipts),
            partition=partition,
            if_none_match=if_none_match,
            if_match=if_match,
        )

    def abort_upload(self, token: str, *, partition: str | None = None) -> None:
        """Remove what was uploaded. An expired token will do; one that is gone is no error."""
        await_(self._bucket.abort_upload, token, partition=partition)


def _all(receipts: Iterable[str]) -> Iterable[str]:
    """*receipts*, taken in the calling thread."""
    return receipts if isinstance(receipts, (str, bytes)) else list(receipts)
