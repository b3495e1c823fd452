"""Options that several commands share, and what is checked of them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from anyseal.cli.process import CliError, with_remedy
from anyseal.config import CONTEXT_MAX_BYTES
from anyseal.errors import DecryptionError, ExpiredError, FormatError, WrongKeyError
from anyseal.keyring.static import partition_bytes

__all__ = [
    "Config",
    "Context",
    "Force",
    "Json",
    "KeyFile",
    "Partition",
    "Passphrase",
    "Quiet",
    "Yes",
    "about",
    "checked_context",
    "checked_partition",
    "flowing",
    "grouped",
    "size_of",
]

Force = Annotated[bool, typer.Option("--force", "-f", help="Replace an existing output.")]
KeyFile = Annotated[
    list[Path] | None,
    typer.Option(
        "--key-file",
        "-k",
        metavar="FILE",
        help="64 hexadecimal characters. More of them: the first seals, all open.",
    ),
]
Passphrase = Annotated[
    bool, typer.Option("--passphrase", help="Ask for one, or take ANYSEAL_PASSPHRASE.")
]
Partition = Annotated[
    str, typer.Option("--partition", metavar="NAME", help="Whose keys: a tenant or user.")
]
Context = Annotated[
    str,
    typer.Option("--context", metavar="TEXT", help="Authenticated, not stored: opening needs it."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Settings as JSON, or TOML (*.toml); default: the environment variables.",
    ),
]


def checked_partition(name: str, option: str = "--partition") -> str:
    """*name*, if it can be a partition's. Raises CliError."""
    try:
        partition_bytes(name)
    except ValueError as exc:
        raise CliError(f"{option}: {exc}") from None
    return name


def checked_context(text: str) -> bytes:
    """The bytes of *text*, as the user's terminal sent them. Raises CliError."""
    data = os.fsencode(text)
    if len(data) > CONTEXT_MAX_BYTES:
        raise CliError(f"--context: longer than {CONTEXT_MAX_BYTES:,} bytes")
    return data


def size_of(text: str) -> int:
    """Bytes from ``65536``, ``64K``, ``64KiB`` or ``1M``. Raises CliError."""
    match = re.fullmatch(r"(\d{1,12})(?:([KMG])(?:i?B)?)?", text.strip(), re.ASCII | re.IGNORECASE)
    if match is None:
        raise CliError(f"{text!r} is not a size: 65536, 64K and 64KiB are")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[(match[2] or "").upper()]


@contextlib.contextmanager
def about(name: str) -> Iterator[None]:
    """Say which file an error is about."""
    try:
        yield
    except (FormatError, WrongKeyError, DecryptionError, ExpiredError) as exc:
        raise CliError(f"{name}: {with_remedy(exc)}", 1) from None


def flowing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command's help fill the lines of the terminal: typer keeps those of the source."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    command.__doc__ = "\n\n".join(" ".join(one.split()) for one in paragraphs)
    return command


def grouped(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command take options by the group: a parameter that is a dataclass.

    Each field becomes an option of the command, with its annotation and its default.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        group = hints[name]
        if not dataclasses.is_dataclass(group):
            parameters.append(parameter.replace(annotation=group))
            continue
        groups[name] = group
        options = get_type_hints(group, include_extras=True)
        parameters += [
            inspect.Parameter(
                one.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=one.default,
                annotation=options[one.name],
            )
            for one in dataclasses.fields(group)
        ]

    @functools.wraps(command)
    def with_options(**given: Any) -> Any:
        for name, group in groups.items():
            fields = {one.name: given.pop(one.name) for one in dataclasses.fields(group)}
            given[name] = group(**fields)
        return command(**given)

    del with_options.__wrapped__  # typer would look behind it
    ordered = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    with_options.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    with_options.__annotations__ = {one.name: one.annotation for one in ordered}
    return flowing(with_options)
