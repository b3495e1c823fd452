"""``anyseal keys kms-…``: the file of master keys of a FileKms."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from anyseal.cli.lifecycle import Hierarchy, app
from anyseal.cli.options import Config, flowing
from anyseal.cli.process import CliError
from anyseal.errors import OutputExistsError
from anyseal.kms.file import FILE_MAX_BYTES, MasterKeys, master_line, read_masters
from anyseal.objects.sources import FileSink

__all__ = ["app"]

MasterFile = Annotated[Path, typer.Argument(metavar="FILE", help="The file of master keys.")]
Version = Annotated[int, typer.Argument(metavar="VERSION", min=1)]


def _write(path: Path, text: bytes, current: int, *, overwrite: bool = True) -> None:
    """The whole file, readable for its owner, on the disk before its name counts."""
    if MasterKeys(text).current != current:  # a layout that was read, but cannot be edited
        raise CliError(f"{path}: write a line as `VERSION KEY` or `VERSION KEY current`")
    if len(text) > FILE_MAX_BYTES:
        raise CliError(f"{path}: at most {FILE_MAX_BYTES:,} bytes: remove old versions")
    try:
        sink = FileSink(path, overwrite=overwrite, mode=0o600, durable=True)
    except OutputExistsError:
        raise CliError(f"{path} exists: what it wraps would be lost") from None
    try:
        sink.pwrite(0, memoryview(text))
        sink.commit(len(text))
    except BaseException:
        sink.abort()
        raise


def _read(path: Path) -> tuple[bytes, MasterKeys]:
    if path.is_symlink():
        raise CliError(f"{path} is a symbolic link: change what it is made from")
    text, masters = read_masters(path)
    return text.replace(b"\r\n", b"\n"), masters


def _line(version: int) -> re.Pattern[bytes]:
    return re.compile(rb"(?m)^[ \t]*%d[ \t]+[0-9A-Fa-f]+([ \t]+current)?[ \t]*$" % version)


@app.command("kms-init")
@flowing
def kms_init(path: MasterFile) -> None:
    """Make a file with one random master key, mode 0600; never over an existing one.

    Back it up apart from the metastore: who has both reads everything, who loses it loses
    everything.
    """
    _write(path, master_line(1, current=True), 1, overwrite=False)
    print(f"{path}: version 1 is current")


@app.command("kms-add")
@flowing
def kms_add(path: MasterFile) -> None:
    """Add a random master key that only unwraps so far. Copy the file to every process."""
    text, masters = _read(path)
    version = max(masters.keys) + 1
    if not text.endswith(b"\n"):
        text += b"\n"
    if len(masters.keys) == 1:
        text = _line(masters.current).sub(
            lambda found: found[0] if found[1] else found[0].rstrip() + b" current", text
        )
    _write(path, text + master_line(version, current=False), masters.current)
    print(f"{path}: version {version} added; version {masters.current} is current")


@app.command("kms-use")
@flowing
def kms_use(path: MasterFile, version: Version) -> None:
    """Make a master key the current one: once every process has it. Then `rewrap-system`."""
    text, masters = _read(path)
    if version not in masters.keys:
        raise CliError(f"{path} has no version {version}", 1)
    text = re.sub(rb"(?m)^(?!#)(.*[0-9A-Fa-f])[ \t]+current[ \t]*$", rb"\1", text)
    text = _line(version).sub(lambda found: found[0].rstrip() + b" current", text)
    _write(path, text, version)
    print(f"{path}: version {version} is current")


@app.command("kms-remove")
@flowing
def kms_remove(path: MasterFile, version: Version, config: Config = None) -> None:
    """Remove a master key that no row of the metastore names any more."""
    text, masters = _read(path)
    if version not in masters.keys:
        raise CliError(f"{path} has no version {version}", 1)
    if version == masters.current:
        raise CliError(f"version {version} is current: `kms-use` another one first", 1)
    hierarchy = Hierarchy.of(config)
    if not isinstance(hierarchy.settings.kms, str) or hierarchy.settings.kms.lower() != "file":
        raise CliError("the settings name no FileKms: whether rows need the key cannot be told")
    count = hierarchy.run(lambda admin: admin.master_versions()).get(version, 0)
    if count:
        raise CliError(
            f"{count} system keys are wrapped under version {version}: `anyseal keys "
            "rewrap-system` first, for each service that uses the metastore",
            1,
        )
    left = _line(version).sub(b"", text)
    if version in MasterKeys(left).keys:
        raise CliError(f"{path}: write a line as `VERSION KEY` or `VERSION KEY current`")
    _write(path, re.sub(rb"\n{2,}", b"\n", left).lstrip(b"\n"), masters.current)
    print(f"{path}: version {version} removed")
