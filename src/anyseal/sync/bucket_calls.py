"""What a sealed bucket does, without ``await``: each call is the async bucket's own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, cast

from anyseal import s3
from anyseal.keys import Key
from anyseal.ports import Keyring, Progress
from anyseal.s3.rewrap import RewrapResult
from anyseal.suites import Suite
from anyseal.sync.bucket_reader import BucketReader
from anyseal.sync.calling import Caller, await_, iterate
from anyseal.sync.uploads import UploadCalls

__all__ = ["BucketCalls"]

LISTED_AT_ONCE = 1000
"""As many as S3 lists in one answer."""


class BucketCalls(UploadCalls):
    """The calls; arguments, costs and errors are those of :class:`anyseal.s3.SealedBucket`."""

    def put(
        self,
        key: str,
        data: Any,
        *,
        partition: str | None = None,
        context: bytes = b"",
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
        if_none_match: bool = False,
        if_match: str | None = None,
        checksum: str | None = None,
        concurrency: int | None = None,
        progress: Progress | None = None,
        suite: Suite | str | None = None,
        part_size: int | None = None,
    ) -> s3.PutResult:
        """Seal *data* into the object *key*: as the async bucket, but for *data*.

        Args:
            data: Contiguous bytes-like; a path (``pathlib.Path``); a binary file; or an iterable
                of bytes-like pieces. Files and iterables are read in the calling thread, and
                *progress* is called there.
        """
        caller = Caller()
        return caller.run(
            self._bucket.put,
            key,
            caller.fed(data),
            partition=partition,
            context=context,
            metadata=metadata,
            content_type=content_type,
            if_none_match=if_none_match,
            if_match=if_match,
            checksum=checksum,
            concurrency=concurrency,
            progress=caller.told(progress),
            suite=suite,
            part_size=part_size,
        )

    def open(
        self,
        key: str,
        *,
        partition: str | None = None,
        context: bytes = b"",
        version_id: str | None = None,
    ) -> BucketReader:
        """Open an object for reading any range of it; close the reader, or use ``with``."""
        reader = await_(
            self._bucket.open, key, partition=partition, context=context, version_id=version_id
        )
        return BucketReader(reader)

    def get(
        self,
        key: str,
        *,
        partition: str | None = None,
        context: bytes = b"",
        version_id: str | None = None,
    ) -> bytes:
        """The whole plaintext of an object, which must fit into memory."""
        return await_(
            self._bucket.get, key, partition=partition, context=context, version_id=version_id
        )

    def get_range(
        self,
        key: str,
        start: int,
        stop: int | None = None,
        *,
        partition: str | None = None,
        context: bytes = b"",
        version_id: str | None = None,
    ) -> bytes:
        """The plaintext bytes from *start* to *stop*, like a slice: cut at the object's end."""
        get_range = partial(self._bucket.get_range, key, start, stop)
        return await_(get_range, partition=partition, context=context, version_id=version_id)

    def stream(
        self,
        key: str,
        start: int = 0,
        stop: int | None = None,
        *,
        partition: str | None = None,
        context: bytes = b"",
        version_id: str | None = None,
        piece_size: int = 1 << 20,
    ) -> Iterator[bytes]:
        """The plaintext bytes from *start* to *stop* in verified pieces.

        The next requests are under way while the consumer works. Close the iterator
        (``contextlib.closing``) when leaving early.
        """
        pieces = self._bucket.stream(
            key,
            start,
            stop,
            partition=partition,
            context=context,
            version_id=version_id,
            piece_size=piece_size,
        )
        return iterate(cast(Any, pieces))

    def download_file(
        self,
        key: str,
        path: str | os.PathLike[str],
        *,
        partition: str | None = None,
        context: bytes = b"",
        version_id: str | None = None,
        concurrency: int | None = None,
        overwrite: bool = False,
        durable: bool = False,
        resume: bool = True,
        progress: Progress | None = None,
    ) -> int:
        """Download and open an object into a local file; *progress* in the calling thread."""
        caller = Caller()
        return caller.run(
            self._bucket.download_file,
            key,
            path,
            partition=partition,
            context=context,
            version_id=version_id,
            concurrency=concurrency,
            overwrite=overwrite,
            durable=durable,
            resume=resume,
            progress=caller.told(progress),
        )

    def stat(self, key: str, *, version_id: str | None = None) -> s3.ObjectStat:
        """What an object's header and S3 say about it; no key is asked for."""
        return await_(self._bucket.stat, key, version_id=version_id)

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[s3.Listed]:
        """The objects whose keys begin with *prefix*, by key; sizes are of what is sealed."""
        found = self._bucket.list(prefix, start_after=start_after)
        return iterate(cast(Any, found), LISTED_AT_ONCE)

    def delete(
        self, key: str, *, version_id: str | None = None, if_match: str | None = None
    ) -> None:
        """Delete an object; one that is not there is no error."""
        await_(self._bucket.delete, key, version_id=version_id, if_match=if_match)

    def copy(
        self,
        source_key: str,
        target_key: str,
        *,
        source_bucket: str | None = None,
        version_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_none_match: bool = False,
        reseal: bool = False,
        partition: str | None = None,
        context: bytes = b"",
    ) -> str:
        """Copy a sealed object within S3, as it is; returns the copy's entity tag."""
        return await_(
            self._bucket.copy,
            source_key,
            target_key,
            source_bucket=source_bucket,
            version_id=version_id,
            metadata=metadata,
            if_none_match=if_none_match,
            reseal=reseal,
            partition=partition,
            context=context,
        )

    def presigned_get(
        self, key: str, *, expires_in: int = 3600, version_id: str | None = None
    ) -> str:
        """A URL that reads the sealed object without credentials, ranges included."""
        return await_(self._bucket.presigned_get, key, expires_in=expires_in, version_id=version_id)

    def rewrap(
        self,
        key: str,
        *,
        partition: str | None = None,
        to_partition: str | None = None,
        to_keyring: Key | Keyring | None = None,
        concurrency: int | None = None,
    ) -> RewrapResult:
        """Wrap the object's data key under the current key, of this partition or another."""
        return await_(
            self._bucket.rewrap,
            key,
            partition=partition,
            to_partition=to_partition,
            to_keyring=to_keyring,
            concurrency=concurrency,
        )
