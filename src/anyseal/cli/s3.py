"""``anyseal s3``: sealed objects in buckets, from the shell."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from anyseal.cli import s3_manage, s3_migrate, s3_transfer
from anyseal.cli.options import (
    Force,
    Json,
    Quiet,
    Yes,
    checked_partition,
    grouped,
    size_of,
)
from anyseal.cli.process import CliError
from anyseal.cli.s3_connection import Connection, KeyOptions, Place
from anyseal.cli.transfer import Range
from anyseal.objects.sealer import CHUNK_SIZE
from anyseal.suites import suite_named

__all__ = ["app"]

PART_SIZE_MIN = 5 << 20

app = typer.Typer(
    help="Sealed objects in S3: put, get, read ranges, look after them. Credentials come from the "
    "places that AWS's tools read.",
    rich_markup_mode="rich",
)

Object = Annotated[str, typer.Argument(metavar="S3URL", help="s3://bucket/key")]
Objects = Annotated[list[str], typer.Argument(metavar="S3URL...", help="s3://bucket/key")]
Target = Annotated[
    str, typer.Argument(metavar="S3URL", help="s3://bucket/key; below it, if it ends in a slash.")
]
Version = Annotated[
    str | None, typer.Option("--version-id", metavar="ID", help="Default: the current version.")
]
Recursive = Annotated[
    bool, typer.Option("--recursive", "-r", help="All objects whose keys begin like this.")
]
PartSize = Annotated[
    str, typer.Option("--part-size", metavar="SIZE", help="Of large objects; 5M at least.")
]


def _part_size(text: str) -> int:
    size = size_of(text)
    if not PART_SIZE_MIN <= size <= 4 << 30:
        raise CliError("--part-size is 5M to 4G")
    return size


def _metadata(given: list[str] | None) -> dict[str, str]:
    found = {}
    for one in given or ():
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise CliError(f"--metadata takes NAME=VALUE, not {one!r}")
        found[name] = value
    return found


def _places(urls: list[str], *, recursive: bool) -> list[Place]:
    parse = Place.parse if recursive else Place.of_object
    return list(dict.fromkeys(parse(url) for url in urls))


@app.command()
@grouped
def put(
    src: Annotated[str, typer.Argument(metavar="SRC", help="A file; - is standard input.")],
    dst: Target,
    keys: KeyOptions,
    suite: Annotated[
        str | None,
        typer.Option("--suite", metavar="NAME", help="Default: the machine's best."),
    ] = None,
    chunk_size: Annotated[
        str, typer.Option("--chunk-size", metavar="SIZE", help="Verified together; 4K to 16M.")
    ] = f"{CHUNK_SIZE >> 10}K",
    part_size: PartSize = "8M",
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", metavar="NAME=VALUE", help="Not encrypted. May be repeated."),
    ] = None,
    content_type: Annotated[
        str | None, typer.Option("--content-type", metavar="TYPE", help="Not encrypted.")
    ] = None,
    force: Force = False,
    *,
    connection: Connection,
    quiet: Quiet = False,
) -> None:
    """Seal a file or a pipe into an object.

    It appears when it is complete. What is cut short leaves neither an object nor an upload.
    """
    options = s3_transfer.PutOptions(
        suite=suite_named(suite.upper()).name if suite is not None else None,
        chunk_size=size_of(chunk_size),
        part_size=_part_size(part_size),
        metadata=_metadata(metadata),
        content_type=content_type,
        force=force,
    )
    s3_transfer.put(src, Place.parse(dst), options, keys, connection, quiet=quiet)


@app.command()
@grouped
def get(
    src: Object,
    dst: Annotated[
        str | None,
        typer.Argument(metavar="[DST]", help="A file or folder; - is standard output."),
    ] = None,
    *,
    keys: KeyOptions,
    version_id: Version = None,
    force: Force = False,
    no_resume: Annotated[
        bool, typer.Option("--no-resume", help="When cut short, keep nothing to go on with.")
    ] = False,
    connection: Connection,
    quiet: Quiet = False,
) -> None:
    """Open an object into a file, or to standard output.

    The file appears under its name when every byte has verified. What is cut short goes on with
    the same command, as long as the object is the same.
    """
    s3_transfer.get(
        Place.of_object(src),
        dst,
        version_id,
        keys,
        connection,
        force=force,
        resume=not no_resume,
        quiet=quiet,
    )


@app.command()
@grouped
def cat(
    src: Object,
    range_: Annotated[
        str | None,
        typer.Option(
            "--range",
            "-r",
            metavar="START-STOP",
            help="From START up to, not including, STOP; START- to the end; -N the last N.",
        ),
    ] = None,
    *,
    keys: KeyOptions,
    version_id: Version = None,
    connection: Connection,
    quiet: Quiet = False,
) -> None:
    """Write a range of an object's plaintext to standard output; reads nothing else of it."""
    wanted = Range() if range_ is None else Range.parse(range_)
    s3_transfer.cat(Place.of_object(src), wanted, version_id, keys, connection, quiet=quiet)


@app.command("ls")
@grouped
def list_command(
    prefix: Annotated[
        str, typer.Argument(metavar="S3URL", help="s3://bucket, or s3://bucket/prefix")
    ],
    long: Annotated[
        bool,
        typer.Option("--long", "-l", help="Plaintext sizes and suites: a request for each."),
    ] = False,
    json: Json = False,
    *,
    connection: Connection,
) -> None:
    """List the objects whose keys begin like this. Needs no key, verifies nothing."""
    s3_manage.list_objects(Place.parse(prefix), connection, long=long, as_json=json)


@app.command()
@grouped
def stat(
    src: Object, version_id: Version = None, json: Json = False, *, connection: Connection
) -> None:
    """Show what an object's header and S3 say. Needs no key, verifies nothing."""
    s3_manage.show_stat(Place.of_object(src), version_id, connection, as_json=json)


@app.command()
@grouped
def cp(
    src: Object,
    dst: Target,
    keys: KeyOptions,
    force: Force = False,
    *,
    connection: Connection,
    quiet: Quiet = False,
) -> None:
    """Copy an object within S3, as it is: needs no key, no byte comes here.

    Only with --bind-location it is sealed again, which takes the key.
    """
    s3_manage.copy(
        Place.of_object(src), Place.parse(dst), keys, connection, force=force, quiet=quiet
    )


@app.command()
@grouped
def rm(
    urls: Objects, recursive: Recursive = False, yes: Yes = False, *, connection: Connection
) -> None:
    """Delete objects, after asking."""
    s3_manage.remove(_places(urls, recursive=recursive), connection, recursive=recursive, yes=yes)


@app.command()
@grouped
def verify(
    urls: Objects,
    recursive: Recursive = False,
    *,
    keys: KeyOptions,
    version_id: Version = None,
    connection: Connection,
    quiet: Quiet = False,
) -> None:
    """Read everything, check it, and keep nothing. Exit code 1 if an object does not verify."""
    places = _places(urls, recursive=recursive)
    if version_id is not None and (recursive or len(places) > 1):
        raise CliError("--version-id is of one object")
    failed = s3_manage.verify(
        places, version_id, keys, connection, recursive=recursive, quiet=quiet
    )
    raise typer.Exit(1 if failed else 0)


@app.command()
@grouped
def rewrap(
    urls: Objects,
    recursive: Recursive = False,
    *,
    keys: KeyOptions,
    to_partition: Annotated[
        str | None, typer.Option("--to-partition", metavar="NAME", help="Default: --partition.")
    ] = None,
    connection: Connection,
    quiet: Quiet = False,
) -> None:
    """Wrap the objects' data keys under the current key; their data stays in S3.

    With -k NEW -k OLD what was sealed under OLD opens with NEW alone from then on.
    """
    if to_partition is not None:
        checked_partition(to_partition, "--to-partition")
    places = _places(urls, recursive=recursive)
    failed = s3_manage.rewrap(
        places, to_partition, keys, connection, recursive=recursive, quiet=quiet
    )
    raise typer.Exit(1 if failed else 0)


@app.command()
@grouped
def migrate(
    src: Annotated[str, typer.Argument(metavar="SRC", help="s3://bucket/prefix of the old ones.")],
    dst: Annotated[str, typer.Argument(metavar="DST", help="s3://bucket/prefix of the new ones.")],
    layout: Annotated[
        Literal["lenzeye", "plain"],
        typer.Option("--from", help="What the old ones are: Lenzeye's layout, or not encrypted."),
    ],
    owner: s3_migrate.OwnerOptions,
    keys: s3_migrate.NewKeyOptions,
    plan: s3_migrate.PlanOptions,
    connection: Connection,
    yes: Yes = False,
    quiet: Quiet = False,
) -> None:
    """Seal what another layout has: verified as it is read, resumable.

    Run it again after an interruption: the state file says what is done. The old objects stay,
    unless --delete-source is given: then each goes when the new one was read back and is the same.
    """
    failed = s3_migrate.run(
        s3_migrate.Migration(Place.parse(src), Place.parse(dst), layout),
        owner,
        keys,
        plan,
        connection,
        yes=yes,
        quiet=quiet,
    )
    raise typer.Exit(1 if failed else 0)
