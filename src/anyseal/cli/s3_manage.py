"""Look after sealed objects in S3: list, stat, copy, delete, verify, rewrap."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from anyseal.cli.process import CliError, confirm, note, printable
from anyseal.cli.progress import Meter, metered
from anyseal.cli.s3_connection import S3, Connection, KeyOptions, Place, about_place
from anyseal.errors import (
    ConfigurationError,
    FormatError,
    ObjectNotFoundError,
    PreconditionFailedError,
    SourceChangedError,
    SourceError,
)
from anyseal.tasks import each_awaited

if TYPE_CHECKING:  # needs an extra
    from anyseal.s3 import Listed, ObjectStat, SealedBucket

__all__ = ["copy", "list_objects", "remove", "rewrap", "show_stat", "verify"]

WINDOW_BYTES = 8 << 20
"""Read and verified at a time."""

STATS = 16
"""Headers that a long listing asks for at the same time."""


def _when(moment: datetime | None) -> str:
    return "unknown" if moment is None else f"{moment:%Y-%m-%d %H:%M:%SZ}"


# ---- ls and stat ----


def _record(found: ObjectStat) -> dict[str, Any]:
    return {
        "key": found.key,
        "plaintext_bytes": found.size,
        "sealed_bytes": found.sealed_size,
        "suite": found.suite.name,
        "key_id": found.key_id.hex(),
        "chunk_bytes": found.chunk_bytes,
        "segment_bytes": found.segment_bytes,
        "modified": None if found.modified is None else found.modified.isoformat(),
        "etag": found.etag,
        "version_id": found.version_id,
        "metadata": dict(found.metadata),
    }


def show_stat(place: Place, version: str | None, s3: Connection, *, as_json: bool) -> None:
    """Print what an object says about itself."""

    async def job(connected: S3) -> ObjectStat:
        return await connected.bucket(place.bucket).stat(place.key, version_id=version)

    with about_place(place):
        record = _record(s3.run(job))
    if as_json:
        print(json.dumps(record, indent=2))
        return
    metadata = record.pop("metadata")
    record |= {f"metadata {name}": value for name, value in metadata.items()}
    for name, value in record.items():
        if value is not None:
            text = f"{value:,}" if isinstance(value, int) else printable(str(value))
            print(f"{printable(name.replace('_', ' ')):<16} {text}")
    print("Nothing of this is verified before opening.")


async def _batches(found: AsyncIterator[Listed], size: int) -> AsyncIterator[list[Listed]]:
    batch: list[Listed] = []
    async for one in found:
        batch.append(one)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


async def _stats(bucket: SealedBucket, batch: Sequence[Listed]) -> list[ObjectStat | None]:
    """The stat of each; None where it is not sealed, or gone."""
    found: list[ObjectStat | None] = [None] * len(batch)

    async def look(number: int) -> None:
        try:
            found[number] = await bucket.stat(batch[number].key)
        except (FormatError, ObjectNotFoundError):
            return

    await each_awaited(look, ((number,) for number in range(len(batch))), STATS)
    return found


def list_objects(place: Place, s3: Connection, *, long: bool, as_json: bool) -> None:
    """Print the objects whose keys begin with the place's."""
    records: list[dict[str, Any]] = []

    async def job(connected: S3) -> int:
        bucket, count = connected.bucket(place.bucket), 0
        async for batch in _batches(bucket.list(place.key), 256):
            stats = await _stats(bucket, batch) if long else [None] * len(batch)
            for listed, stat in zip(batch, stats, strict=True):
                if as_json:
                    records.append(_listed_record(listed, stat, long))
                else:
                    _print_line(listed, stat, long, first=not count)
                count += 1
        return count

    with about_place(place):
        count = s3.run(job)
    if as_json:
        print(json.dumps(records, indent=2))
    elif not count:
        print("no objects")


def _listed_record(listed: Listed, stat: ObjectStat | None, long: bool) -> dict[str, Any]:
    if stat is not None:
        return _record(stat)
    plain: dict[str, Any] = {"key": listed.key}
    if long:
        plain["plaintext_bytes"] = None
    return plain | {
        "sealed_bytes": listed.size,
        "modified": listed.modified.isoformat(),
        "etag": listed.etag,
    }


def _print_line(listed: Listed, stat: ObjectStat | None, long: bool, *, first: bool) -> None:
    """One line, as soon as it is known: a bucket may have millions."""
    cells = [("modified", 20, _when(listed.modified)), ("sealed", 15, f"{listed.size:,}")]
    if long:
        cells += [
            ("plaintext", 15, "not sealed" if stat is None else f"{stat.size:,}"),
            ("suite", 18, "" if stat is None else stat.suite.name),
            ("key id", 8, "" if stat is None else stat.key_id.hex()[:8]),
        ]
    if first:
        print("  ".join(f"{name:{_align(name)}{width}}" for name, width, _ in cells) + "  key")
    shown = "  ".join(f"{text:{_align(name)}{width}}" for name, width, text in cells)
    print(f"{shown}  {printable(listed.key)}")


def _align(name: str) -> str:
    return ">" if name in ("sealed", "plaintext") else "<"


# ---- cp and rm ----


def copy(
    source: Place, target: Place, keys: KeyOptions, s3: Connection, *, force: bool, quiet: bool
) -> None:
    """Copy an object within S3; if its place is bound, by sealing it again."""
    target = target.receiving(source.key)
    if source == target:
        raise CliError("the copy would take the place of the original")
    if keys.bind_location and source.bucket != target.bucket:
        raise CliError("--bind-location copies within one bucket: use get and put")
    where = keys.where
    keyring = keys.keyring(sealing=True) if keys.bind_location else None

    async def job(connected: S3) -> None:
        condition: dict[str, Any] = {"if_none_match": not force}
        if keyring is None:
            bucket = connected.bucket(target.bucket)
            await bucket.copy(source.key, target.key, source_bucket=source.bucket, **condition)
            return
        async with keyring() as opened:
            bucket = connected.bucket(target.bucket, opened, bind_location=True)
            await bucket.copy(source.key, target.key, reseal=True, **condition, **where)

    with about_place(source):
        try:
            s3.run(job)
        except PreconditionFailedError:
            if force:
                raise
            raise CliError(f"{target} exists: --force replaces it") from None
    if not quiet:
        print(f"{printable(str(source))}: copied to {printable(str(target))}")


async def _all_of(s3: S3, places: Sequence[Place], recursive: bool) -> dict[Place, int]:
    """The objects that are meant, each with its sealed size. Raises CliError."""
    found: dict[Place, int] = {}
    for place in places:
        with about_place(place):
            if not recursive:
                found[place] = (await s3.calls(place.bucket).head(place.key)).size
                continue
            before = len(found)
            async for listed in s3.bucket(place.bucket).list(place.key):
                found[Place(place.bucket, listed.key)] = listed.size
            if len(found) == before:
                raise CliError(f"{place}: no objects", 1)
    return found


def remove(places: Sequence[Place], s3: Connection, *, recursive: bool, yes: bool) -> None:
    """Delete objects, after asking."""
    found = s3.run(lambda connected: _all_of(connected, places, recursive))
    names = ", ".join(printable(str(place)) for place in list(found)[:3])
    more = f" and {len(found) - 3:,} more" if len(found) > 3 else ""
    confirm(f"deletes {names}{more}", "Type yes to go on", "yes", yes=yes)

    async def job(connected: S3) -> None:
        async def delete(place: Place) -> None:
            with about_place(place):
                await connected.bucket(place.bucket).delete(place.key)

        await each_awaited(delete, ((place,) for place in found), connected.concurrency)

    s3.run(job)
    print(f"{_objects(len(found))} deleted")


def _objects(count: int) -> str:
    return "1 object" if count == 1 else f"{count:,} objects"


# ---- verify and rewrap ----


async def _each(places: dict[Place, int], work: Callable[[Place], Awaitable[None]]) -> int:
    """Do *work* for each; what fails is told and the rest goes on. How many failed."""
    failed = 0
    for place in places:
        try:
            with about_place(place):
                await work(place)
        except (ConfigurationError, SourceError) as exc:
            if not isinstance(exc, (SourceChangedError, PreconditionFailedError)):
                raise  # S3 itself: the next would fail as well
            failed += 1
            note(f"{place}: {exc}")
        except CliError as exc:
            failed += 1
            note(str(exc))
    return failed


async def _verify_one(
    bucket: SealedBucket, key: str, where: dict[str, Any], meter: Meter, concurrency: int
) -> int:
    reader = await bucket.open(key, **where)
    async with reader:

        async def window(start: int) -> None:
            data = await reader.read_range(start, start + WINDOW_BYTES)
            meter.add(len(data))

        starts = ((start,) for start in range(0, reader.size, WINDOW_BYTES))
        await each_awaited(window, starts, concurrency)
        return reader.size


def verify(
    places: Sequence[Place],
    version: str | None,
    keys: KeyOptions,
    s3: Connection,
    *,
    recursive: bool,
    quiet: bool,
) -> int:
    """Read objects as a whole and keep nothing; how many do not verify."""
    where, keyring = {**keys.where, "version_id": version}, keys.keyring()

    async def job(connected: S3) -> int:
        found = await _all_of(connected, places, recursive)
        total = sum(found.values())
        name = printable(str(places[0])) if len(places) == 1 else _objects(len(found))
        lines: list[str] = []  # printed when the bar is gone: it takes standard output over
        async with keyring() as opened:
            with metered("verified", name, total=total, quiet=quiet) as meter:

                async def one(place: Place) -> None:
                    bucket = connected.bucket(
                        place.bucket, opened, bind_location=keys.bind_location
                    )
                    size = await _verify_one(bucket, place.key, where, meter, connected.concurrency)
                    lines.append(f"{printable(str(place))}: verified, {size:,} bytes")

                failed = await _each(found, one)
        for line in lines if not quiet else ():
            print(line)
        return failed

    return s3.run(job)


def rewrap(
    places: Sequence[Place],
    to_partition: str | None,
    keys: KeyOptions,
    s3: Connection,
    *,
    recursive: bool,
    quiet: bool,
) -> int:
    """Wrap the objects' data keys under the current key; how many could not be."""
    where, keyring = keys.where, keys.keyring()

    async def job(connected: S3) -> int:
        found = await _all_of(connected, places, recursive)
        async with keyring() as opened:

            async def one(place: Place) -> None:
                result = await connected.bucket(place.bucket, opened).rewrap(
                    place.key, partition=where["partition"], to_partition=to_partition
                )
                if not quiet:
                    what = "rewrapped" if result.changed else "was under it before"
                    print(f"{printable(str(place))}: {what}, key id {result.key_id.hex()[:8]}")

            return await _each(found, one)

    return s3.run(job)
