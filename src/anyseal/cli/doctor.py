"""``anyseal doctor``: what this machine has, whether it works, and how fast it is."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from concurrent import futures
from functools import partial
from typing import Any, TypeVar

from cryptography.hazmat.backends.openssl import backend

import anyseal
from anyseal import _ffi, offload, sync
from anyseal._ffi import lib, view, view_writable
from anyseal.config import worker_count
from anyseal.errors import DecryptionError
from anyseal.keys import Key
from anyseal.suites import DEFAULT_SUITE, Suite

__all__ = ["examine", "run"]

SAMPLE_BYTES = 64 << 20
ROUNDS = 5

T = TypeVar("T")


def run(*, as_json: bool) -> int:
    """Print what :func:`examine` finds; returns the exit code."""
    found = examine()
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _print(found)
    return 0 if found["healthy"] else 1


def examine() -> dict[str, Any]:
    """Everything the command shows, by name."""
    with Key.generate() as key:
        suites = {suite.name: _suite(suite, key) for suite in Suite}
        speeds = _speeds(key)
    for name, speed in speeds["suites"].items():
        suites[name].update(speed)
    locked = lib.anyseal_arena_unlocked() == 0
    return {
        "healthy": locked and all(s["self_test"] for s in suites.values() if s["available"]),
        "anyseal": anyseal.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libsodium": {"origin": _ffi.library, "version": _sodium_version()},
        "openssl": backend.openssl_version_text(),
        "aes_hardware": bool(lib.anyseal_aes_hardware()),
        "random": "vDSO" if lib.anyseal_random_in_vdso() else "system call",
        "memory": {
            "locked": locked,
            "unlocked_bytes": lib.anyseal_arena_unlocked(),
            "live_keys": lib.anyseal_arena_live(),
            "lock_limit_bytes": _lock_limit(),
        },
        "workers": worker_count(),
        "default_suite": DEFAULT_SUITE.name,
        "suites": suites,
        "memmove_bytes_per_second": speeds["memmove"],
        "sample_bytes": SAMPLE_BYTES,
    }


def _sodium_version() -> str | None:
    """What the library that ``ANYSEAL_LIBSODIUM`` names calls itself; PyNaCl hides its copy's."""
    path = os.environ.get("ANYSEAL_LIBSODIUM")
    if not path:
        return None
    function = ctypes.CDLL(path).sodium_version_string
    function.restype = ctypes.c_char_p
    return str(function().decode())


def _lock_limit() -> int | None:
    """Bytes this process may lock; None is no limit."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _suite(suite: Suite, key: Key) -> dict[str, Any]:
    """Whether *suite* passed its known answers at import, and a round trip and a forgery now."""
    if not suite.available:
        return {"available": False, "self_test": False}
    data = os.urandom(100_000)
    sealed = bytearray(sync.seal(data, key, suite=suite))
    passed = sync.open(sealed, key) == data
    sealed[-1] ^= 1
    try:
        sync.open(sealed, key)
    except DecryptionError:
        pass
    else:
        passed = False
    return {"available": True, "self_test": passed}


def _speeds(key: Key) -> dict[str, Any]:
    """Bytes per second, in memory and into buffers that are used again, all workers at work."""
    names = [suite for suite in Suite if suite.available]
    times: dict[str, list[float]] = {}

    def timed(name: str, function: Callable[[], T]) -> T:
        begin = time.perf_counter()
        result = function()
        times.setdefault(name, []).append(time.perf_counter() - begin)
        return result

    lease = offload.buffers().lease
    with lease(SAMPLE_BYTES) as plain, lease(2 * SAMPLE_BYTES) as sealed, lease(len(plain)) as back:
        plain[:] = os.urandom(1 << 20) * (SAMPLE_BYTES >> 20)
        for _ in range(ROUNDS + 1):  # the first warms up; the others take turns
            timed("memmove", lambda: _copy(back, plain))
            for suite in names:
                size = timed(f"{suite.name} seal", partial(_seal, sealed, suite, key, plain))
                source = sync.MemorySource(sealed[:size])
                with sync.ObjectReader.open(source, key) as reader:
                    timed(f"{suite.name} open", partial(reader.read_into, 0, back))

    def speed(name: str) -> int:
        return round(SAMPLE_BYTES / statistics.median(times[name][1:]))

    return {
        "memmove": speed("memmove"),
        "suites": {
            suite.name: {
                "seal_bytes_per_second": speed(f"{suite.name} seal"),
                "open_bytes_per_second": speed(f"{suite.name} open"),
            }
            for suite in names
        },
    }


def _seal(buffer: memoryview, suite: Suite, key: Key, data: memoryview) -> int:
    """Seal *data* into *buffer*; returns the sealed size."""
    writer = sync.ObjectWriter(sync.MemorySink(buffer), key, suite=suite)
    writer.write(data)
    return writer.finish()


def _copy(out: memoryview, source: memoryview) -> None:
    """memmove by all workers, each its share: what memory itself allows."""
    share = -(-len(source) // worker_count())
    running = [
        offload.executor().submit(
            lib.anyseal_copy,
            view_writable(out[at : at + share]),
            view(source[at : at + share]),
            min(share, len(source) - at),
        )
        for at in range(0, len(source), share)
    ]
    for future in futures.as_completed(running):
        future.result()


def _print(found: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    sodium, memory = found["libsodium"], found["memory"]
    limit = memory["lock_limit_bytes"]
    allowed = "no limit" if limit is None else f"limit {limit:,} bytes"
    if memory["locked"]:
        locked = f"locked ({memory['live_keys']} live, {allowed})"
    else:
        locked = f"{memory['unlocked_bytes']:,} bytes are NOT locked: raise ulimit -l ({allowed})"
    facts = {
        "anyseal": f"{found['anyseal']} on {found['python']}, {found['platform']}",
        "libsodium": " ".join(filter(None, (f"from {sodium['origin']}", sodium["version"]))),
        "cryptography": found["openssl"],
        "AES": "in hardware" if found["aes_hardware"] else "in software only",
        "random": f"getrandom by {found['random']}",
        "keys": locked,
        "workers": str(found["workers"]),
    }
    for name, text in facts.items():
        console.print(f"{name:<13}{text}", markup=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("suite")
    table.add_column("self-test")
    for column in ("seal", "of memmove", "open", "of memmove"):
        table.add_column(column, justify="right")
    move = found["memmove_bytes_per_second"]
    for name, suite in found["suites"].items():
        title = f"{name} (default)" if name == found["default_suite"] else name
        if not suite["available"]:
            table.add_row(title, "not here", "", "", "", "")
            continue
        cells = []
        for verb in ("seal", "open"):
            speed = suite[f"{verb}_bytes_per_second"]
            cells += [f"{speed / 1e9:.1f} GB/s", f"{speed / move:.2f}"]
        table.add_row(title, "passed" if suite["self_test"] else "FAILED", *cells)
    console.print(table)
    console.print(
        f"{found['sample_bytes'] >> 20} MiB in memory, {found['workers']} workers; "
        f"memmove by as many threads: {move / 1e9:.1f} GB/s.",
    )
    console.print("All is well." if found["healthy"] else "Something is not well: see above.")
