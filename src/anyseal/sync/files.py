"""Whole local files without ``await``."""

from __future__ import annotations

from typing import Any

from anyseal import offload
from anyseal.fs import FileOpening, FileRewrapping, FileSealing, Meter, rewrap_target
from anyseal.keys import Key
from anyseal.objects.rewrap import rewrap_header
from anyseal.objects.sealer import CHUNK_SIZE, SEGMENT_SIZE
from anyseal.objects.sources import FileSource
from anyseal.objects.writer import check_context
from anyseal.ports import Keyring, Progress, resolve_partition
from anyseal.suites import Suite
from anyseal.sync.objects import ObjectReader
from anyseal.sync.values import current_key, named_key

__all__ = ["open_file", "rewrap_file", "seal_file"]


def seal_file(
    src: Any,
    dst: Any,
    keyring: Key | Keyring,
    *,
    partition: str | None = None,
    context: bytes = b"",
    suite: Suite | str | None = None,
    chunk_size: int = CHUNK_SIZE,
    segment_size: int = SEGMENT_SIZE,
    overwrite: bool = False,
    durable: bool = False,
    progress: Progress | None = None,
) -> int:
    """Seal the file *src* into the file *dst*: :func:`anyseal.seal_file` without ``await``."""
    context = check_context(context)
    key = current_key(keyring, partition)
    sealing = FileSealing(src, dst, overwrite, durable)
    failed = True
    try:
        meter = Meter(progress, sealing.source.size)
        meter.start()
        jobs = sealing.jobs(
            key,
            context=context,
            suite=suite,
            chunk_bytes=chunk_size,
            segment_bytes=segment_size,
        )
        offload.each_blocking(sealing.seal, jobs, meter.add)
        size = sealing.finish()
        failed = False
        return size
    finally:
        sealing.close(failed)


def open_file(
    src: Any,
    dst: Any,
    keyring: Key | Keyring,
    *,
    partition: str | None = None,
    context: bytes = b"",
    overwrite: bool = False,
    durable: bool = False,
    progress: Progress | None = None,
) -> int:
    """Open the sealed file *src* into the file *dst*: :func:`anyseal.open_file` without
    ``await``."""
    with FileSource(src) as source:
        reader = ObjectReader.open(source, keyring, partition=partition, context=context)
        opened = reader.opened
        opening_file = FileOpening(source, dst, overwrite, durable)
        try:
            meter = Meter(progress, opened.size)
            meter.start()
            jobs = opening_file.jobs(opened)
            offload.each_blocking(opening_file.open, jobs, meter.add)
            opening_file.sink.commit(opened.size)
        except BaseException:
            opening_file.sink.abort()
            raise
        return opened.size


def rewrap_file(
    path: Any,
    keyring: Key | Keyring,
    *,
    partition: str | None = None,
    to_keyring: Key | Keyring | None = None,
    to_partition: str | None = None,
    durable: bool = False,
    progress: Progress | None = None,
) -> bool:
    """Wrap the data key of the sealed file *path* under another key:
    :func:`anyseal.rewrap_file` without ``await``."""
    resolve_partition(keyring, partition)
    target = rewrap_target(keyring, partition, to_keyring, to_partition)
    resolve_partition(*target)
    work = FileRewrapping(path, durable)
    failed = True
    try:
        old = named_key(keyring, partition, work.header.key_id)
        new = current_key(*target)
        if old == new:
            rewrap_header(work.header, old, new)  # whether it verifies
            return False
        work.begin(old, new)
        meter = Meter(progress, work.source.size - work.header.geometry.header_bytes)
        meter.start()
        offload.each_blocking(work.copy, work.jobs(), meter.add)
        work.finish()
        failed = False
        return True
    finally:
        work.close(failed)
