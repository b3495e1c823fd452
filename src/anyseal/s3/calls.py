"""The S3 calls on one bucket: plain parameters in, plain answers out, errors typed, retried.

Each call names what it does in S3's words. A retry resends the same bytes: bodies are immutable.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from anyseal.aws.credentials import check_client
from anyseal.errors import (
    ConfigurationError,
    ObjectNotFoundError,
    PreconditionFailedError,
    SourceError,
    UploadNotFoundError,
)
from anyseal.patience import Progress
from anyseal.retries import retried
from anyseal.s3.answers import content_range, fill, read_body, required
from anyseal.s3.body import Body, leave_unhashed, patience
from anyseal.s3.failures import (
    CredentialsRefusedError,
    limit_answers,
    translated,
    unmet,
)
from anyseal.tasks import uninterrupted

__all__ = ["Calls", "Found", "Listed", "Part", "Ranged", "quoted"]

T = TypeVar("T")

ATTEMPTS = 8
LONGEST_WAIT = 5.0
"""Seconds. Eight attempts wait 11 to 13 in all: a server that starts anew, or says SlowDown, needs
that long. AWS's own clients wait for up to 15 in five attempts."""

_CONTENT = (
    "CacheControl",
    "ContentDisposition",
    "ContentEncoding",
    "ContentLanguage",
    "ContentType",
)

_BODIES = frozenset({"PutObject", "UploadPart"})
_SLOW = frozenset({"CompleteMultipartUpload", "CopyObject", "UploadPartCopy"})
"""S3 sends blanks while it works on these, which may take minutes."""
_SLOW_FACTOR = 10.0

_WRITES = frozenset({"put_object", "complete_multipart_upload", "delete_object"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What HeadObject says."""

    size: int
    """Sealed bytes."""
    etag: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    version_id: str | None = None
    modified: datetime | None = None
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """The content headers, by S3's names."""
    parts: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One object of a listing."""

    key: str
    size: int
    etag: str
    modified: datetime


@dataclass(frozen=True, slots=True)
class Part:
    """One part as ListParts shows it."""

    number: int
    etag: str
    size: int


@dataclass(frozen=True, slots=True)
class Ranged:
    """The answer to a ranged GetObject."""

    data: bytes
    start: int
    total: int
    """Size of the whole object."""
    etag: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    version_id: str | None = None
    modified: datetime | None = None


def _seconds(patience: float, operation: str) -> float:
    """How long one request may take; one with a body is limited by what is taken of that."""
    if operation in _BODIES:
        return math.inf
    return patience * (_SLOW_FACTOR if operation in _SLOW else 1.0)


class Calls:
    """Calls on one bucket.

    Args:
        client: An aiobotocore S3 client; used, not closed. Turn its own retries off
            (``retries={"total_max_attempts": 1}``), or they multiply with these.
        bucket: The bucket's name.
        attempts: How often a call is tried while its error may go away.
    """

    def __init__(self, client: Any, bucket: str, *, attempts: int = ATTEMPTS) -> None:
        if not isinstance(bucket, str) or not bucket:
            raise ConfigurationError("bucket must be a non-empty str")
        check_client(
            client, "S3", "meta",
            "SealedBucket.connect(bucket, keyring) makes one, also in anyseal.sync",
        )  # fmt: skip
        self.client = client
        self.bucket = bucket
        self.attempts = attempts
        self._patience = patience(client)
        leave_unhashed(client)
        limit_answers(client, partial(_seconds, self._patience))

    def of_bucket(self, bucket: str, *, attempts: int | None = None) -> Calls:
        """The same on another bucket, with at most so many attempts."""
        most = self.attempts if attempts is None else min(attempts, self.attempts)
        return Calls(self.client, bucket, attempts=most)

    async def _call(self, operation: str, **parameters: Any) -> Any:
        """One request; None parameters are left out. Sent again at once, and only once, when the
        credentials are refused: the client may have found new ones by then."""
        try:
            return await self._send(operation, **parameters)
        except CredentialsRefusedError:
            return await self._send(operation, **parameters)

    async def _send(self, operation: str, **parameters: Any) -> Any:
        """One request, without a retry."""
        given = {name: value for name, value in parameters.items() if value is not None}
        body = given.get("Body")
        where = self._where(operation, given)
        call = partial(getattr(self.client, operation), Bucket=self.bucket, **given)
        conditional = "IfMatch" in given and operation in _WRITES
        with (
            translated(where, self.client),
            unmet(where) if conditional else contextlib.nullcontext(),
        ):
            if isinstance(body, Body):
                with body.taken_within(self._patience):
                    return await call()
            return await call()

    def _where(self, operation: str, parameters: Mapping[str, Any]) -> str:
        """What an error is about, in one line: keys may have any characters."""
        key = str(parameters.get("Key", ""))
        return f"{operation} {self.bucket}/{key if key.isprintable() else ascii(key)}"

    async def call(self, operation: str, **parameters: Any) -> Any:
        """One request, tried again while that may help; None parameters are left out."""
        return await self.retry(lambda: self._call(operation, **parameters))

    async def retry(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of *call*, tried again while its error may go away."""
        return await retried(call, self.attempts, LONGEST_WAIT)

    async def head_object(self, key: str, *, version_id: str | None = None) -> Any:
        """HeadObject, as S3 answers it.

        Raises:
            ObjectNotFoundError: No such object or version.
            SourceError: Anything else, such as no such bucket.
        """
        try:
            return await self.call("head_object", Key=key, VersionId=version_id)
        except ObjectNotFoundError:
            await self._check_bucket(self._where("head_object", {"Key": key}))
            raise

    async def _check_bucket(self, where: str) -> None:
        """Raise SourceError if there is no such bucket: the answer to a HEAD does not say what is
        missing. One that may not be looked at is there."""
        try:
            await self.call("head_bucket")
        except ObjectNotFoundError as exc:
            error = SourceError(f"{where}: NoSuchBucket")
            error.retryable = False
            raise error from exc
        except SourceError:
            return

    async def exists(self, key: str) -> bool:
        """Whether there is an object *key*; in a bucket that is not there, there is none."""
        try:
            await self.call("head_object", Key=key)
        except ObjectNotFoundError:
            return False
        return True

    async def head(self, key: str, *, version_id: str | None = None) -> Found:
        """What :meth:`head_object` says."""
        answer = await self.head_object(key, version_id=version_id)
        where = self._where("head_object", {"Key": key})
        return Found(
            size=required(answer, "ContentLength", int, where),
            etag=answer.get("ETag", ""),
            metadata=answer.get("Metadata", {}),
            version_id=answer.get("VersionId"),
            modified=answer.get("LastModified"),
            content_type=answer.get("ContentType"),
            headers={name: answer[name] for name in _CONTENT if answer.get(name)},
            parts=answer.get("PartsCount"),
        )

    async def get_range(
        self,
        key: str,
        wanted: str,
        *,
        limit: int,
        if_match: str | None = None,
        version_id: str | None = None,
    ) -> Ranged:
        """GetObject of one range (``0-99``, ``-44``), at most *limit* bytes of it.

        Raises:
            ObjectNotFoundError: No such object.
            PreconditionFailedError: Another version than *if_match*.
            SourceError: Anything else, such as a range beyond the end.
        """

        async def get() -> Ranged:
            where = self._where("get_object", {"Key": key})
            answer = await self._ranged(key, wanted, if_match, version_id)
            with translated(where):
                data = await read_body(answer, limit, where, self._patience)
            start, total = content_range(answer, where)
            return Ranged(
                data,
                start,
                total,
                answer.get("ETag", ""),
                answer.get("Metadata", {}),
                answer.get("VersionId"),
                answer.get("LastModified"),
            )

        return await self.retry(get)

    async def get_into(
        self,
        key: str,
        offset: int,
        buffer: memoryview,
        *,
        total: int,
        if_match: str,
        version_id: str | None = None,
    ) -> None:
        """Fill *buffer* from *offset* of this very version of *total* bytes.

        Raises:
            PreconditionFailedError: Another version than *if_match*, or of another size.
            ObjectNotFoundError, SourceError: As for :meth:`get_range`.
        """

        async def get() -> None:
            where = self._where("get_object", {"Key": key})
            wanted = f"{offset}-{offset + len(buffer) - 1}"
            answer = await self._ranged(key, wanted, if_match, version_id)
            body = answer["Body"]
            with translated(where):
                async with body:
                    start, size = content_range(answer, where)
                    if size != total or answer.get("ETag") != if_match:
                        raise PreconditionFailedError(f"{where}: another version")
                    if start != offset or answer.get("ContentLength") != len(buffer):
                        raise SourceError(f"{where}: other bytes than were asked for")
                    await fill(body, buffer, where, self._patience)

        await self.retry(get)

    async def _ranged(
        self, key: str, wanted: str, if_match: str | None, version_id: str | None
    ) -> Any:
        return await self._call(
            "get_object", Key=key, Range=f"bytes={wanted}", IfMatch=if_match, VersionId=version_id
        )

    async def put(self, key: str, body: bytes | Body, **parameters: Any) -> Any:
        """PutObject; IfMatch, IfNoneMatch, Metadata, checksums and so on by S3's names."""
        body = body if isinstance(body, Body) else Body((body,))
        answer = await self.call("put_object", Key=key, Body=body, **parameters)
        required(answer, "ETag", str, self._where("put_object", {"Key": key}))
        return answer

    async def create_upload(
        self, key: str, attempted: Callable[[], object] = lambda: None, **parameters: Any
    ) -> str:
        """CreateMultipartUpload; returns the upload id. *attempted* is called for each attempt.

        One that was made for a caller who is cancelled meanwhile is aborted.
        """

        async def create() -> str:
            attempted()
            answer = await self._call("create_multipart_upload", Key=key, **parameters)
            where = self._where("create_multipart_upload", {"Key": key})
            return required(answer, "UploadId", str, where)

        async def abort(upload_id: str) -> None:
            await self.abort_upload(key, upload_id)

        return await self.retry(lambda: uninterrupted(create, abort))

    async def upload_part(
        self, key: str, upload_id: str, number: int, body: bytes | Body, **parameters: Any
    ) -> str:
        """UploadPart *number* (from 1); returns its entity tag, as S3 quotes it."""
        body = body if isinstance(body, Body) else Body((body,))
        answer = await self.call(
            "upload_part", Key=key, UploadId=upload_id, PartNumber=number, Body=body, **parameters
        )
        where = self._where("upload_part", {"Key": key})
        return required(answer, "ETag", str, where)

    async def copy_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        source: Mapping[str, str],
        span: tuple[int, int],
        etag: str,
    ) -> tuple[str, dict[str, str]]:
        """UploadPartCopy of the bytes of *source* from *span*'s start to its stop.

        Only while *etag* is the source's entity tag. Returns the part's, and its checksums.
        """
        start, stop = span
        answer = await self.call(
            "upload_part_copy",
            Key=key,
            UploadId=upload_id,
            PartNumber=number,
            CopySource=source,
            CopySourceRange=f"bytes={start}-{stop - 1}",
            CopySourceIfMatch=etag,
        )
        where = self._where("upload_part_copy", {"Key": key})
        copied = required(answer, "CopyPartResult", dict, where)
        sums = {name: value for name, value in copied.items() if name.startswith("Checksum")}
        return required(copied, "ETag", str, where), sums

    async def complete_upload(
        self,
        key: str,
        upload_id: str,
        etags: Sequence[str],
        checksums: Sequence[Mapping[str, str]] | None = None,
        **parameters: Any,
    ) -> Any:
        """CompleteMultipartUpload of parts 1, 2, ... with these entity tags and checksums.

        Not tried again here: whether it went through after an unclear answer is for the caller
        to find out. An error in the body of a 200 is an error.
        """
        parts = [
            {"PartNumber": number, "ETag": etag, **(checksums[number - 1] if checksums else {})}
            for number, etag in enumerate(etags, 1)
        ]
        answer = await self._call(
            "complete_multipart_upload",
            Key=key,
            UploadId=upload_id,
            MultipartUpload={"Parts": parts},
            **parameters,
        )
        if not answer.get("ETag"):
            where = self._where("complete_multipart_upload", {"Key": key})
            raise SourceError(f"{where}: no entity tag")
        return {**answer, "ETag": quoted(answer["ETag"])}

    async def abort_upload(self, key: str, upload_id: str) -> None:
        """AbortMultipartUpload; one that is gone already is no error."""
        with contextlib.suppress(UploadNotFoundError, ObjectNotFoundError):
            await self.call("abort_multipart_upload", Key=key, UploadId=upload_id)

    async def parts(self, key: str, upload_id: str) -> list[Part]:
        """ListParts, all pages. A store may list several versions of one number."""
        found: list[Part] = []
        marker: int | None = None
        where = self._where("list_parts", {"Key": key})
        pages = Progress(where, _endless)
        while True:
            answer = await self.call(
                "list_parts", Key=key, UploadId=upload_id, PartNumberMarker=marker
            )
            listed = answer.get("Parts", [])
            found += [
                Part(
                    required(one, "PartNumber", int, where),
                    required(one, "ETag", str, where),
                    required(one, "Size", int, where),
                )
                for one in listed
            ]
            if not required(answer, "IsTruncated", bool, where):
                return found
            following = required(answer, "NextPartNumberMarker", int, where)
            if marker is not None and following <= marker:
                raise _endless(f"{where}: the pages do not come to an end")
            marker = following
            pages.advance(marker, found=len(listed))

    async def list(
        self, prefix: str = "", *, start_after: str | None = None
    ) -> AsyncIterator[Listed]:
        """ListObjectsV2, all pages."""
        token: str | None = None
        where = self._where("list_objects_v2", {})
        pages = Progress(where, _endless)
        while True:
            answer = await self.call(
                "list_objects_v2",
                Prefix=prefix,
                ContinuationToken=token,
                StartAfter=start_after if token is None else None,
            )
            listed = answer.get("Contents", [])
            token = (
                required(answer, "NextContinuationToken", str, where)
                if required(answer, "IsTruncated", bool, where)
                else None
            )
            pages.advance(token, found=len(listed))
            for one in listed:
                yield Listed(
                    key=required(one, "Key", str, where),
                    size=required(one, "Size", int, where),
                    etag=required(one, "ETag", str, where),
                    modified=required(one, "LastModified", datetime, where),
                )
            if token is None:
                return

    async def delete(self, key: str, **parameters: Any) -> None:
        """DeleteObject; one that is not there is no error."""
        await self.call("delete_object", Key=key, **parameters)

    async def presigned(
        self, operation: str, parameters: Mapping[str, Any], expires_in: int
    ) -> str:
        """A URL that does *operation* without credentials. No request."""
        _sign_urls_like_requests(self.client)
        with translated(self._where(operation, parameters)):
            url = await self.client.generate_presigned_url(
                operation, Params=dict(parameters), ExpiresIn=expires_in
            )
        return str(url)


def _sign_urls_like_requests(client: Any) -> None:
    """Have *client* sign URLs with signature version 4. Again does nothing.

    In its older regions botocore takes version 2, which buckets since 2020 and SSE-KMS refuse.
    """

    def chosen(signature_version: Any, **_: Any) -> Any:
        if not isinstance(signature_version, str) or not signature_version.endswith("-query"):
            return None
        # S3's own variant leaves the body out, and slashes in keys as they are.
        return "s3v4-query" if signature_version == "v4-query" else signature_version

    client.meta.events.register_first(
        "choose-signer.s3.GetObject", chosen, unique_id="anyseal-presigned"
    )


def quoted(etag: str) -> str:
    """An entity tag as S3 quotes it in headers and listings; some stores leave the quotes out."""
    return f'"{etag.strip(chr(34))}"'


def _endless(text: str) -> SourceError:
    error = SourceError(text)
    error.retryable = False
    return error
