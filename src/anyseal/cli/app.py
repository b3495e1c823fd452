"""The commands and their options, and what an error looks like from outside."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from anyseal.cli import keys, masters, s3, transfer
from anyseal.cli.options import (
    Context,
    Force,
    Json,
    KeyFile,
    Partition,
    Passphrase,
    Quiet,
    about,
    checked_context,
    checked_partition,
    flowing,
    size_of,
)
from anyseal.cli.process import STDOUT, CliError, Stopped, note, printable, signals, with_remedy
from anyseal.errors import (
    AnysealError,
    ConfigurationError,
    OutputExistsError,
)
from anyseal.objects.sealer import CHUNK_SIZE, SEGMENT_SIZE
from anyseal.suites import suite_named

__all__ = ["app", "run"]

EPILOG = "\n\n".join(
    (
        "[bold]Keys[/bold] come from --key-file, from --passphrase (asked for, or "
        "ANYSEAL_PASSPHRASE), or from ANYSEAL_MASTER_KEY and ANYSEAL_PREVIOUS_MASTER_KEYS. Never "
        "from the command line.",
        "[bold]Exit codes:[/bold] 0 done; 1 the data does not open (altered, cut, wrong key, not "
        "sealed), reading or writing failed, or keys deserve attention; 2 wrong usage (bad "
        "options, no key, the output exists, binary to a terminal); 128 + N after signal N, 130 "
        "after Ctrl-C. What a pipe delivered counts only after 0.",
    )
)

app = typer.Typer(
    name="anyseal",
    help="Seal files and pipes, and open any part of them again.",
    epilog=EPILOG,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

app.add_typer(masters.app, name="keys")
app.add_typer(s3.app, name="s3")

Source = Annotated[
    str | None, typer.Argument(metavar="SRC", help="A file; - or nothing is standard input.")
]
SealedFile = Annotated[str, typer.Argument(metavar="SRC", help="A sealed file.")]
Destination = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="DST", help="Where to; - is standard output."),
]


def _job(
    src: str | None,
    key_file: list[Path] | None,
    passphrase: bool,
    partition: str,
    context: str,
    quiet: bool,
    *,
    sealing: bool = False,
) -> transfer.Job:
    """The options that all commands share, checked."""
    return transfer.Job(
        src=src,
        keyring=lambda: keys.find_keyring(key_file, passphrase, sealing=sealing),
        partition=checked_partition(partition),
        context=checked_context(context),
        quiet=quiet,
    )


def _version(wanted: bool) -> None:
    if wanted:
        from anyseal import __version__

        print(f"anyseal {__version__}")
        raise typer.Exit


@app.callback()
def anyseal(
    version: Annotated[
        bool, typer.Option("--version", help="Show it.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Seal files and pipes, and open any part of them again."""


@app.command()
def keygen(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="A new file, mode 0600.")
    ] = None,
    force: Force = False,
) -> None:
    """Make a key: 64 hexadecimal characters."""
    keys.write_new_key(output, force=force)


@app.command()
def seal(
    src: Source = None,
    output: Destination = None,
    key_file: KeyFile = None,
    passphrase: Passphrase = False,
    partition: Partition = "default",
    context: Context = "",
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            metavar="NAME",
            help="AEGIS256, AES256GCM or XCHACHA20POLY1305; default: the machine's best.",
        ),
    ] = None,
    chunk_size: Annotated[
        str, typer.Option("--chunk-size", metavar="SIZE", help="Verified together; 4K to 16M.")
    ] = f"{CHUNK_SIZE >> 10}K",
    segment_size: Annotated[
        str, typer.Option("--segment-size", metavar="SIZE", help="Under one key; to 64G.")
    ] = f"{SEGMENT_SIZE >> 20}M",
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Seal a file to SRC.sealed, or a pipe to a pipe."""
    job = _job(src, key_file, passphrase, partition, context, quiet, sealing=True)
    transfer.seal(
        job,
        output,
        force=force,
        suite=suite_named(suite.upper()).name if suite is not None else None,
        chunk_size=size_of(chunk_size),
        segment_size=size_of(segment_size),
    )


@app.command("open")
@flowing
def open_command(
    src: Source = None,
    output: Destination = None,
    key_file: KeyFile = None,
    passphrase: Passphrase = False,
    partition: Partition = "default",
    context: Context = "",
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Open SRC.sealed to SRC, or a pipe to a pipe.

    A file appears under its name when every byte has verified. A pipe gets verified pieces, but
    only exit code 0 says that they are all: use what it delivered only then.
    """
    job = _job(src, key_file, passphrase, partition, context, quiet)
    with about(job.name):
        transfer.open_(job, output, force=force)


@app.command()
def cat(
    src: SealedFile,
    range_: Annotated[
        str | None,
        typer.Option(
            "--range",
            "-r",
            metavar="START-STOP",
            help="From START up to, not including, STOP; START- to the end; -N the last N.",
        ),
    ] = None,
    key_file: KeyFile = None,
    passphrase: Passphrase = False,
    partition: Partition = "default",
    context: Context = "",
    quiet: Quiet = False,
) -> None:
    """Write a range of a sealed file's plaintext to standard output; reads nothing else of it."""
    job = _job(src, key_file, passphrase, partition, context, quiet)
    wanted = transfer.Range() if range_ is None else transfer.Range.parse(range_)
    with about(job.name):
        transfer.cat(job, wanted)


@app.command()
def verify(
    src: Source = None,
    key_file: KeyFile = None,
    passphrase: Passphrase = False,
    partition: Partition = "default",
    context: Context = "",
    quiet: Quiet = False,
) -> None:
    """Read everything, check it, and keep nothing."""
    job = _job(src, key_file, passphrase, partition, context, quiet)
    with about(job.name):
        size = transfer.verify(job)
    if not quiet:
        print(f"{printable(job.name)}: verified, {size:,} bytes")


@app.command()
def inspect(src: Source = None, json: Json = False) -> None:
    """Show what the header of a sealed file or value says. Needs no key, verifies nothing."""
    from anyseal.cli import show

    job = _job(src, None, False, "default", "", True)
    with about(job.name), job.input() as source:
        print(show.report(show.describe(source, job.path), as_json=json))


@app.command()
def doctor(json: Json = False) -> None:
    """Check this machine: libsodium, CPU, suites, locked memory, speed against memmove."""
    from anyseal.cli import doctor as checks

    raise typer.Exit(checks.run(as_json=json))


@app.command()
def demo(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Default: Python's own library, as tar.")
    ] = None,
) -> None:
    """Seal a real file, read from its middle, and show that tampering is caught."""
    from anyseal import demo as show

    signals.hand_over()
    raise typer.Exit(show.run(file))


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Returns:
        The exit code; see ``anyseal --help``.
    """
    try:
        signals.install()
        code: Any = app(list(arguments) or ["--help"], prog_name="anyseal", standalone_mode=False)
        sys.stdout.flush()
        if not arguments:
            return 2
    except BrokenPipeError:  # the reader has gone: nothing to tell it
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)  # for the flush at exit
        return 1
    except Stopped as exc:
        _leave_what_hangs(exc.exit_code)
        return exc.exit_code
    except KeyboardInterrupt:
        return 130
    except CliError as exc:
        note(str(exc))
        return exc.exit_code
    except OutputExistsError as exc:
        note(f"{exc}: --force replaces it")
        return 2
    except ConfigurationError as exc:
        note(str(exc))
        return 2
    except (AnysealError, MemoryError) as exc:
        note(with_remedy(exc) or "out of memory")
        return 1
    except OSError as exc:
        note(_os_message(exc))
        return 1
    except Exception as exc:
        if not hasattr(exc, "format_message"):
            raise
        note(_usage_message(exc))
        return 2
    return code if isinstance(code, int) else 0


def _leave_what_hangs(code: int) -> None:
    """End the process if a thread still writes to a pipe that no one reads: Python waits for it."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(0.5)
            if thread.is_alive():
                sys.stderr.flush()
                os._exit(code)


def _os_message(exc: OSError) -> str:
    """What the system said; about the file it said it about, unless its name is a temporary one."""
    what = exc.strerror or str(exc)
    name = os.fspath(exc.filename) if isinstance(exc.filename, (str, os.PathLike)) else ""
    return what if not name or str(name).endswith(".part") else f"{name}: {what}"


def _usage_message(exc: Any) -> str:
    """One line from typer's own exception, whose class is private in some of its versions."""
    text = " ".join(exc.format_message().split())
    context = getattr(exc, "ctx", None)
    command = context.command_path if context is not None else "anyseal"
    return f"{text} (see {command} --help)"
