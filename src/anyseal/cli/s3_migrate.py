"""``anyseal s3 migrate``: from Lenzeye's layout, or from plain objects, to sealed ones."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from anyseal.cli.options import checked_context, checked_partition
from anyseal.cli.process import CliError, Stopped, confirm, note, printable
from anyseal.cli.progress import metered
from anyseal.cli.s3_connection import S3, Connection, KeySource, about_place
from anyseal.cli.s3_mover import How, Migration, Mover, Old, is_done
from anyseal.cli.s3_state import State
from anyseal.errors import AnysealError
from anyseal.keyring.static import partition_bytes
from anyseal.tasks import each_awaited

__all__ = ["Migration", "NewKeyOptions", "OwnerOptions", "PlanOptions", "run"]

TABLE_VARIABLE = "ANYSEAL_LENZEYE_TABLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerOptions:
    """Whose the old objects are, and where Lenzeye's keys are."""

    user: Annotated[
        str | None,
        typer.Option("--user", metavar="ID", help="Whose objects they are, all of them."),
    ] = None
    user_from: Annotated[
        str | None,
        typer.Option(
            "--user-from",
            metavar="REGEX",
            help="Finds the user in an object's key, as the first group: 'users/([^/]+)/'.",
        ),
    ] = None
    key_table: Annotated[
        str | None,
        typer.Option(
            "--key-table",
            metavar="URL",
            help=f"Lenzeye's, for SQLAlchemy. With a password: {TABLE_VARIABLE} instead.",
        ),
    ] = None
    table_name: Annotated[
        str, typer.Option("--table-name", metavar="NAME", help="Its name in the database.")
    ] = "user_encryption_key"
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="NAME=THEIRS", help="A metadata name of yours: iv=x-iv, hmac=x-mac."
        ),
    ] = None

    def finder(self) -> Callable[[str], str | None]:
        """What finds an object's user by its key, or raises ValueError. Raises CliError."""
        if self.user is not None and self.user_from is not None:
            raise CliError("--user and --user-from exclude each other")
        if self.user_from is None:
            return lambda key: self.user
        try:
            pattern = re.compile(self.user_from)
        except re.error as exc:
            raise CliError(f"--user-from: {exc}") from None
        if not pattern.groups:
            raise CliError("--user-from has no group: the user is what ( ) matches")

        def find(key: str) -> str | None:
            match = pattern.match(key)
            if match is None or not match[1]:
                raise ValueError("--user-from does not match its key")
            partition_bytes(match[1])
            return match[1]

        return find

    def table(self) -> Any:
        """Lenzeye's key table. Raises CliError, ConfigurationError."""
        url = self.key_table or os.environ.get(TABLE_VARIABLE)
        if not url:
            raise CliError(f"no key table: use --key-table, or set {TABLE_VARIABLE}")
        from anyseal.compat.lenzeye.sql import SqlUserKeyTable

        if self.key_table and re.match(r"[^/]*://[^/@]*:[^/@]+@", self.key_table):
            raise CliError(f"--key-table holds a password, which others can see: {TABLE_VARIABLE}")
        return SqlUserKeyTable(url, table=self.table_name, create_table=False)

    def layout(self) -> Any:
        """The names in the metadata. Raises CliError, ConfigurationError."""
        from anyseal.compat.lenzeye import Layout

        pairs = [one.partition("=") for one in self.name or ()]
        known = [one for one in Layout.__dataclass_fields__ if one != "hmac_covers_iv"]
        if any(left.replace("-", "_") not in known or not right for left, _, right in pairs):
            raise CliError(f"--name takes NAME=THEIRS, and as NAME: {', '.join(known)}")
        names: dict[str, Any] = {left.replace("-", "_"): right for left, _, right in pairs}
        return Layout(**names)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKeyOptions(KeySource):
    """Whose keys seal the new objects."""

    partition: Annotated[
        str | None,
        typer.Option("--partition", metavar="NAME", help='Default: the user, or "default".'),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """How it is done."""

    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="FILE", help="What is done; default: a name of its own."),
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be done; needs no key.")
    ] = False
    verify: Annotated[
        bool, typer.Option("--verify", help="Read each new object back, and compare.")
    ] = False
    delete_source: Annotated[
        bool, typer.Option("--delete-source", help="Delete each old one after --verify's check.")
    ] = False


def _show_plan(migration: Migration, found: list[Old], how: How, state: State) -> int:
    """Print what would be done; how many objects have a problem."""
    problems = done = 0
    for old in found:
        try:
            if old.problem is not None:
                raise ValueError(old.problem)
            user = how.user_of(old.key)
        except ValueError as exc:
            problems += 1
            print(f"cannot   {printable(old.key)}: {exc}")
            continue
        ready = is_done(state.steps.get(old.key, {}), old, how.verify)
        done += ready
        whose = f"user {user}, " if user is not None else ""
        target = printable(str(migration.target_of(old.key)))
        verb = "is done " if ready else "migrate "
        print(f"{verb} {printable(old.key)} -> {target} ({printable(whose)}{old.size:,} bytes)")
    total = sum(old.size for old in found)
    print(
        f"{len(found) - problems - done:,} to migrate, {done:,} done before, {problems:,} that "
        f"cannot be; {total:,} bytes in all. Nothing was changed."
    )
    return problems


def run(
    migration: Migration,
    owner: OwnerOptions,
    keys: NewKeyOptions,
    plan: PlanOptions,
    connection: Connection,
    *,
    yes: bool,
    quiet: bool,
) -> int:
    """Migrate, or show the plan; how many objects could not be migrated."""
    lenzeye = migration.layout == "lenzeye"
    if lenzeye and owner.user is None and owner.user_from is None:
        raise CliError("whose are the objects? use --user or --user-from")
    how = How(
        user_of=owner.finder(),
        partition=None if keys.partition is None else checked_partition(keys.partition),
        context=checked_context(keys.context),
        bind_location=keys.bind_location,
        verify=plan.verify or plan.delete_source,
        delete_source=plan.delete_source,
    )
    path = plan.state or migration.state_path
    if plan.dry_run:
        with State(path, migration.identity, read_only=True) as state:
            found = connection.run(lambda s3: _find(migration, s3, owner, None))
            return _show_plan(migration, found, how, state)
    table = owner.table() if lenzeye else None
    try:
        keyring = keys.keyring(sealing=True)
        if plan.delete_source:
            what = f"deletes each object below {migration.source} when its sealed copy is verified"
            confirm(what, "Type yes to go on", "yes", yes=yes)

        async def job(s3: S3) -> int:
            found = await _find(migration, s3, owner, table)
            async with keyring() as opened:
                bucket = _lenzeye_bucket(migration, s3, owner, table) if lenzeye else None
                mover = Mover(migration, s3, opened, how, state, bucket)
                return await _move_all(mover, found, s3.concurrency, quiet=quiet)

        with State(path, migration.identity) as state:
            try:
                return connection.run(job)
            except (Stopped, AnysealError):
                note(f"not complete: the same command goes on, by {path}")
                raise
    finally:
        if table is not None:
            table.close()


def _lenzeye_bucket(migration: Migration, s3: S3, owner: OwnerOptions, table: Any) -> Any:
    from anyseal.compat.lenzeye import LenzeyeBucket

    return LenzeyeBucket(
        s3.client,
        migration.source.bucket,
        table=table,
        layout=owner.layout(),
        attempts=s3.attempts,
    )


async def _find(migration: Migration, s3: S3, owner: OwnerOptions, table: Any) -> list[Old]:
    bucket = None
    if migration.layout == "lenzeye":
        bucket = _lenzeye_bucket(migration, s3, owner, table)
    with about_place(migration.source):
        return [old async for old in migration.find(s3, bucket)]


async def _move_all(mover: Mover, found: list[Old], limit: int, *, quiet: bool) -> int:
    """Migrate what is to be, several objects at a time; how many could not be."""
    await mover.abort_left()
    wanted = []
    for old in found:
        if old.problem is not None:
            mover.fail(old, old.problem)
        elif mover.how.delete_source or not mover.is_done(old):
            wanted.append(old)
    total = sum(old.size for old in wanted if not mover.is_done(old))
    name = printable(str(mover.migration.source))
    with metered("migrated", name, total=total, quiet=quiet) as mover.meter:
        await each_awaited(mover.move, ((old,) for old in wanted), limit)
    if not quiet:
        before = len(found) - mover.done - mover.failed
        more = f", {mover.deleted:,} old ones deleted" if mover.how.delete_source else ""
        print(
            f"{mover.done:,} migrated, {before:,} done before, {mover.failed:,} could not be{more}"
        )
    return mover.failed
