"""``anyseal keys``: look after the keys of a hierarchy."""

from __future__ import annotations

import json
import stat
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import anyio
import typer

from anyseal.cli.options import Config, Json, Yes, checked_partition, flowing
from anyseal.cli.process import (
    STDOUT,
    CliError,
    confirm,
    is_terminal,
    note,
    printable,
    signals,
)
from anyseal.keyring.lifecycle import KeyAdmin, KeyStatus
from anyseal.settings import SessionSettings

__all__ = ["app"]

T = TypeVar("T")

DAY = 86400.0
SECRETS = (
    "static_master_key_hex",
    "vault_token",
    "vault_approle_secret_id",
    "connection_string",
    "kms_keys",
)
COLORS = {
    "active": "green",
    "expiring": "yellow",
    "barred": "red",
    "expired": "",
    "revoked": "red",
    "future": "red",
}

app = typer.Typer(
    help="Look after the keys of a hierarchy: its metastore and KMS are those of --config, or of "
    "the environment.",
    rich_markup_mode="rich",
)

Within = Annotated[
    float, typer.Option("--within", metavar="DAYS", min=0, help="What counts as soon to expire.")
]


class Hierarchy(NamedTuple):
    """The hierarchy of the settings, opened for one job at a time."""

    settings: SessionSettings

    @classmethod
    def of(cls, config: Path | None) -> Hierarchy:
        """From a file or the environment. Raises CliError, ConfigurationError."""
        if config is None:
            settings = SessionSettings.from_env()
        else:
            settings = SessionSettings.from_file(config)
            _warn_if_open(config, settings)
        if settings.metastore and settings.metastore.lower() in ("memory", "test-debug-memory"):
            raise CliError("a metastore in memory ends with its process: it has no keys to show")
        return cls(settings)

    def run(self, job: Callable[[KeyAdmin], Awaitable[T]], *, new: bool = False) -> T:
        """Do *job* in an event loop of its own. A database of SQLite is not made, unless *new*."""

        async def main() -> T:
            async with self.settings.hierarchy() as hierarchy:
                file = getattr(hierarchy.metastore, "file", None)
                # Without its folder SQLite cannot make it, and says so.
                if not new and file is not None and file.parent.exists() and not file.exists():
                    raise CliError(
                        f"{file}: no such database: there are no keys to look after "
                        "(`anyseal keys init` makes it)"
                    )
                return await job(KeyAdmin(hierarchy))

        signals.hand_over()
        return anyio.run(main)


def _warn_if_open(config: Path, settings: SessionSettings) -> None:
    mode = stat.S_IMODE(config.stat().st_mode)
    if mode & 0o077 and any(getattr(settings, name) for name in SECRETS):
        note(f"warning: {config} holds secrets and is open to others ({mode:04o}): chmod 600 it")


def _partition(name: str) -> str:
    return checked_partition(name, "PARTITION")


# ---- what is shown ----


def _when(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.0f}"


def _record(key: KeyStatus) -> dict[str, Any]:
    return {
        "id": key.id,
        "created": key.created,
        "created_at": _when(key.created),
        "type": key.type,
        "partition": key.partition,
        "state": key.state,
        "expires": int(key.expires),
        "expires_at": _when(key.expires),
        "latest": key.latest,
        "attention": key.deserves_attention,
    }


def _print(found: Any) -> None:
    print(json.dumps(found, indent=2))


def _table(keys: Iterable[KeyStatus]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in ("id", "created", "type", "state", "expires", "newest"):
        table.add_column(name, no_wrap=name != "id", overflow="fold")
    for key in keys:
        state = Text(key.state, COLORS[key.state] if key.deserves_attention else "")
        table.add_row(
            Text(printable(key.id)),
            _when(key.created),
            key.type,
            state,
            _when(key.expires),
            "yes" if key.latest else "no",
        )
    Console(width=None if is_terminal(STDOUT) else 200, highlight=False).print(table)


def _show(keys: Sequence[KeyStatus], nothing: str) -> None:
    if keys:
        _table(keys)
    else:
        print(nothing)


# ---- asking ----


def _summary(keys: Sequence[KeyStatus]) -> str:
    """How many keys, and of whom."""
    system = sum(key.type == "system" for key in keys)
    partitions = sorted({key.partition for key in keys if key.partition is not None})
    parts = [f"{system} system {_keys(system)}"] if system else []
    if partitions:
        count = len(keys) - system
        names = ", ".join(repr(name) for name in partitions[:3])
        more = f" and {len(partitions) - 3} more" if len(partitions) > 3 else ""
        of = "partition" if len(partitions) == 1 else f"{len(partitions)} partitions:"
        parts.append(f"{count} {_keys(count)} of {of} {names}{more}")
    return " and ".join(parts)


def _keys(count: int) -> str:
    return "key" if count == 1 else "keys"


# ---- the commands ----


@app.command()
def init(config: Config = None) -> None:
    """Make the key table where there is none. Takes the right to do so."""

    async def job(admin: KeyAdmin) -> str:
        metastore = admin.metastore
        create = getattr(metastore, "create_table", None)
        if create is None:
            raise CliError(f"{type(metastore).__name__} has no table to make")
        await create()
        check = getattr(metastore, "check_table", None)
        if check is not None:
            await check()
        return repr(metastore)

    print(f"the key table is there: {Hierarchy.of(config).run(job, new=True)}")


@app.command("rewrap-system")
def rewrap_system(config: Config = None, json: Json = False) -> None:
    """Wrap the system keys again, under the KMS's current master key: after it was changed.

    Rows that change at the same time are read again. May be stopped, and repeated.
    """
    report = Hierarchy.of(config).run(lambda admin: admin.rewrap_system())
    if json:
        _print({"rewrapped": report.rewrapped, "current": report.current})
    else:
        print(
            f"{report.rewrapped} system {_keys(report.rewrapped)} rewrapped, "
            f"{report.current} had the current master key"
        )


@app.command("list")
def list_command(
    partition: Annotated[
        str | None, typer.Argument(metavar="[PARTITION]", help="Default: all, and system keys.")
    ] = None,
    config: Config = None,
    within: Within = 7,
    json: Json = False,
) -> None:
    """Show the keys and their state."""
    name = None if partition is None else _partition(partition)
    keys = Hierarchy.of(config).run(lambda admin: admin.list(name, expiring_within=within * DAY))
    if json:
        _print([_record(key) for key in keys])
    else:
        _show(keys, "no keys")


@app.command()
def audit(config: Config = None, within: Within = 7, json: Json = False) -> None:
    """Show the keys that are expired, revoked or about to expire.

    Exit code 1 if one of them deserves attention: a newest key that is not active, or a key that
    is dated in the future. Expired and revoked keys that have a successor only open: they are
    shown, and are as they should be.
    """
    keys = Hierarchy.of(config).run(lambda admin: admin.audit(expiring_within=within * DAY))
    attention = sum(key.deserves_attention for key in keys)
    if json:
        _print({"attention": attention, "keys": [_record(key) for key in keys]})
    else:
        _show(keys, "all keys are active")
        if keys:
            print(f"{attention} of {len(keys)} {'needs' if attention == 1 else 'need'} attention")
    raise typer.Exit(1 if attention else 0)


@app.command()
def rotate(
    partition: Annotated[
        str | None, typer.Argument(metavar="[PARTITION]", help="Default: the system key.")
    ] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Make a new key now. The old ones go on opening; nothing is asked."""
    name = None if partition is None else _partition(partition)

    async def job(admin: KeyAdmin) -> KeyStatus:
        if name is not None and not await admin.list(name):
            raise CliError(f"partition {name!r} has no keys to rotate", 1)
        key_id = await admin.rotate(name)
        found = await admin.matching(key_id=key_id, partition=name)
        return next(key for key in found if key.latest)

    key = Hierarchy.of(config).run(job)
    if json:
        _print(_record(key))
    else:
        print(f"new {key.type} key {printable(key.id)}, created {_when(key.created)}")


def _moment(text: str) -> float:
    """Seconds since the epoch, from themselves or from ISO 8601, where UTC is the default."""
    try:
        return float(text) if text.replace(".", "", 1).isdecimal() else _iso(text)
    except (ValueError, OverflowError):
        raise CliError(
            f"--created-before: {text!r} is neither 2026-01-31T12:00Z nor seconds since 1970"
        ) from None


def _iso(text: str) -> float:
    when = datetime.fromisoformat(text)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


@app.command()
def revoke(
    key_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The keys with this id.")
    ] = None,
    partition: Annotated[
        str | None, typer.Option("--partition", metavar="NAME", help="A partition's keys.")
    ] = None,
    created_before: Annotated[
        str | None,
        typer.Option(
            "--created-before", metavar="TIME", help="ISO 8601 (UTC) or seconds since 1970."
        ),
    ] = None,
    type: Annotated[
        Literal["system", "intermediate"] | None, typer.Option("--type", help="Of this type.")
    ] = None,
    config: Config = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Revoke the keys that match all criteria: they seal nothing new, and go on opening."""
    criteria: dict[str, Any] = {
        "key_id": key_id,
        "partition": None if partition is None else _partition(partition),
        "created_before": None if created_before is None else _moment(created_before),
        "type": type,
    }
    if all(value is None for value in criteria.values()):
        raise CliError("say which: --id, --partition, --created-before or --type")
    hierarchy = Hierarchy.of(config)
    found = hierarchy.run(lambda admin: admin.matching(**criteria))
    if not found:
        raise CliError("no key matches", 1)
    keys = [key for key in found if key.state != "revoked"]
    count = 0
    if keys:
        confirm(f"revokes {_summary(keys)}", "Type yes to go on", "yes", yes=yes)
        count = hierarchy.run(lambda admin: admin.revoke(**criteria))
    if json:
        _print({"revoked": count, "revoked_before": len(found) - len(keys)})
    else:
        print(f"{count} {_keys(count)} revoked, {len(found) - len(keys)} were before")


@app.command()
@flowing
def shred(
    partition: Annotated[str, typer.Argument(metavar="PARTITION", help="Whose keys.")],
    config: Config = None,
    no_wait: Annotated[
        bool,
        typer.Option(
            "--no-wait", help="Delete at once: running processes go on until they look again."
        ),
    ] = False,
    others: Annotated[
        list[Path] | None,
        typer.Option(
            "--other-config",
            metavar="FILE",
            help="Settings of another service that opens this partition's data; may be repeated.",
        ),
    ] = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Delete a partition's keys: all it sealed is unreadable from then on, for good.

    They are revoked first, and deleted when no running process can have them cached any more:
    after the revoke-check interval plus the outage extension, the largest of all the settings
    given. If the command is stopped before, run it again.
    """
    policies = [SessionSettings.from_file(path).policy() for path in others or ()]
    hierarchy, name = Hierarchy.of(config), _partition(partition)
    keys = hierarchy.run(lambda admin: admin.list(name))
    if not keys:
        raise CliError(f"partition {name!r} has no keys", 1)
    confirm(
        f"deletes {_summary(keys)}: everything sealed under them is lost for good",
        "Type the partition's name to go on",
        name,
        yes=yes,
    )
    pause = max(p.longest_use for p in (hierarchy.settings.policy(), *policies))
    if pause and not (json or no_wait):
        note(f"revoked at once, deleted in {pause:.0f} s, when no process has them cached")
    report = hierarchy.run(lambda admin: admin.shred(name, wait=not no_wait, policies=policies))
    if json:
        _print(
            {
                "partition": name,
                "keys_deleted": report.keys_deleted,
                "waited": report.waited,
                "longest_use": report.longest_use,
            }
        )
    else:
        print(f"{report.keys_deleted} {_keys(report.keys_deleted)} deleted")
