"""Moves objects of another layout into sealed ones: verified, noted, and only then deleted."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anyseal import offload
from anyseal.cli.process import CliError, note
from anyseal.cli.progress import Meter
from anyseal.cli.s3_connection import S3, Place
from anyseal.cli.s3_state import State
from anyseal.errors import (
    ConfigurationError,
    DecryptionError,
    FormatError,
    ObjectNotFoundError,
    PreconditionFailedError,
    SourceChangedError,
    UploadError,
    WrongKeyError,
)
from anyseal.ports import Keyring

if TYPE_CHECKING:  # needs an extra
    from anyseal.s3.calls import Found

__all__ = ["How", "Migration", "Mover", "Old", "is_done"]

KEY_METADATA = "anyseal-key"
"""What sealed objects have in their metadata."""

READ_BYTES = 8 << 20
PUT_CONCURRENCY = 2
"""Parts of one object on their way: several objects are."""

ABOUT_ONE = (
    DecryptionError,
    FormatError,
    ObjectNotFoundError,
    PreconditionFailedError,
    SourceChangedError,
    UploadError,
    ValueError,
    WrongKeyError,
)
"""Errors of one object, after which the others go on."""

Put = Callable[[str, AsyncIterator[bytes], Mapping[str, str]], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Old:
    """An object to migrate."""

    key: str
    etag: str
    size: int
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Migration:
    """From where to where, and from what."""

    source: Place
    target: Place
    layout: Literal["lenzeye", "plain"]

    def __post_init__(self) -> None:
        if self.source == self.target:
            raise CliError("the new objects would take the places of the old ones")

    @property
    def identity(self) -> dict[str, str]:
        """What the state file says about it."""
        return {"from": str(self.source), "to": str(self.target), "layout": self.layout}

    @property
    def state_path(self) -> Path:
        """A name that this migration has and no other."""
        digest = hashlib.sha256(repr(self.identity).encode()).hexdigest()
        return Path(f"anyseal-migrate-{digest[:12]}.jsonl")

    def target_of(self, key: str) -> Place:
        """Where an object goes: the source's prefix is replaced by the target's."""
        rest = key[len(self.source.key) :]
        if not rest:
            return self.target.receiving(key)
        return Place(self.target.bucket, self.target.key + rest)

    def is_ours(self, key: str) -> bool:
        """Whether an object of the source's bucket is below the target."""
        return self.source.bucket == self.target.bucket and (
            key.startswith(self.target.key) and self.target.key.startswith(self.source.key)
        )

    async def find(self, s3: S3, lenzeye: Any) -> AsyncIterator[Old]:
        """The old objects."""
        from anyseal.compat.lenzeye import Form

        if self.layout == "plain":
            async for listed in s3.bucket(self.source.bucket).list(self.source.key):
                if not self.is_ours(listed.key):
                    yield Old(listed.key, listed.etag, listed.size)
            return
        async with aclosing(lenzeye.scan(self.source.key)) as scanned:
            async for found in scanned:
                if not self.is_ours(found.key):
                    problem = "its metadata is malformed" if found.form is None else None
                    if found.form is Form.UNFINISHED:
                        problem = "its upload was never completed"
                    yield Old(found.key, found.etag, found.size, problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """What goes with every object."""

    user_of: Callable[[str], str | None]
    """Finds an object's user by its key; raises ValueError if it cannot."""
    partition: str | None
    """Instead of the user."""
    context: bytes
    bind_location: bool
    verify: bool
    delete_source: bool


class Mover:
    """Migrates one object after another; counts."""

    def __init__(
        self,
        migration: Migration,
        s3: S3,
        keyring: Keyring,
        how: How,
        state: State,
        lenzeye: Any,
    ) -> None:
        self.migration, self.how, self.state = migration, how, state
        self.meter = Meter()
        self.done = self.deleted = self.failed = 0
        self._lenzeye = lenzeye
        self._source = s3.calls(migration.source.bucket)
        self._target = s3.calls(migration.target.bucket)
        self._bucket = s3.bucket(migration.target.bucket, keyring, bind_location=how.bind_location)

    async def move(self, old: Old) -> None:
        """Migrate one object; what is wrong with it is told, and the others go on."""
        try:
            await self._move(old)
        except ConfigurationError:
            raise
        except ABOUT_ONE as exc:
            self.fail(old, str(exc))

    def is_done(self, old: Old) -> bool:
        """Whether an earlier run migrated this version of the object."""
        return is_done(self.state.steps.get(old.key, {}), old, self.how.verify)

    def fail(self, old: Old, reason: str) -> None:
        """Say what is wrong with an object."""
        self.failed += 1
        place = Place(self.migration.source.bucket, old.key)
        note(f"{place}: {reason}")

    async def _move(self, old: Old) -> None:
        target = self.migration.target_of(old.key)
        head = await self._source.head(old.key)
        if head.etag != old.etag:
            raise SourceChangedError("changed since it was listed: run this again")
        if self.migration.layout == "plain" and KEY_METADATA in head.metadata:
            raise FormatError("is sealed already")
        last = self.state.steps.get(old.key, {})
        if not is_done(last, old, self.how.verify):
            last = await self._seal(old, head, again=last.get("step") in ("started", "done"))
        elif (await self._target.head(target.key)).etag != last["target_etag"]:
            raise SourceChangedError(f"{target} was changed since it was verified")
        if self.how.delete_source:
            # Not every store heeds If-Match in DeleteObject.
            if (await self._source.head(old.key)).etag != old.etag:
                raise SourceChangedError("changed meanwhile, and was not deleted")
            await self._source.delete(old.key, IfMatch=old.etag)
            self.deleted += 1

    async def _seal(self, old: Old, head: Found, *, again: bool) -> dict[str, Any]:
        """Seal, verify, note. *again*: the state file says that what is there is ours."""
        target = self.migration.target_of(old.key)
        if not again and await self._exists(target.key):
            raise PreconditionFailedError(f"{target} exists, and not from this migration")
        user, digest = self.how.user_of(old.key), hashlib.sha256()
        partition = self.how.partition or user or "default"
        where: dict[str, Any] = {"partition": partition, "context": self.how.context}

        async def counted(plaintext: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            async for piece in plaintext:
                await offload.run(digest.update, piece)
                yield piece
                self.meter.add(len(piece))

        async def put(
            key: str, plaintext: AsyncIterator[bytes], metadata: Mapping[str, str]
        ) -> str:
            result = await self._bucket.put(
                target.key,
                counted(plaintext),
                metadata=metadata,
                content_type=head.content_type or None,
                if_none_match=not again,
                concurrency=PUT_CONCURRENCY,
                **where,
            )
            return result.etag

        await self.state.note("started", old.key)
        try:
            etag = await self._read(old, head, user, put)
        except PreconditionFailedError:
            await self.state.note("refused", old.key)  # what is there came from someone else
            raise
        verified = self.how.verify
        if verified:
            await self._compare(target.key, where, digest)
        await self.state.note("done", old.key, etag=old.etag, target_etag=etag, verified=verified)
        self.done += 1
        return self.state.steps[old.key]

    async def _exists(self, key: str) -> bool:
        try:
            await self._target.head(key)
        except ObjectNotFoundError:
            return False
        return True

    async def _read(self, old: Old, head: Found, user: str | None, put: Put) -> str:
        """Hand the old object's plaintext to *put*."""
        if self._lenzeye is not None:
            from anyseal.compat.lenzeye import migrate_object

            return await migrate_object(self._lenzeye, old.key, user, put)

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, old.size, READ_BYTES):
                stop = min(start + READ_BYTES, old.size)
                found = await self._source.get_range(
                    old.key, f"{start}-{stop - 1}", limit=stop - start, if_match=old.etag
                )
                if (found.total, len(found.data)) != (old.size, stop - start):
                    raise SourceChangedError("changed while it was being read")
                yield found.data

        return await put(old.key, pieces(), head.metadata)

    async def _compare(self, key: str, where: Mapping[str, Any], digest: Any) -> None:
        """Read the new object back; raises DecryptionError unless it is what was read."""
        found = hashlib.sha256()
        stream: Any = self._bucket.stream(key, **where)
        async with aclosing(stream) as pieces:
            async for piece in pieces:
                await offload.run(found.update, piece)
        if found.digest() != digest.digest():
            raise DecryptionError("the new object is not the same: the old one stays")


def is_done(last: Mapping[str, Any], old: Old, verify: bool) -> bool:
    """Whether the state file says so of this version of the object; verified too, if asked for."""
    if last.get("step") != "done" or last.get("etag") != old.etag:
        return False
    return bool(last.get("verified")) or not verify
