"""Build the C extension ``anyseal._native``, and be the project's PEP 517 backend.

setuptools reads no ``cffi_modules`` from pyproject.toml, so this in-tree backend writes the
extension's C source from ``csrc/anyseal.cdef.h`` and leaves everything else to setuptools.
``python build_ffi.py`` writes the source alone. It also writes the README that packages carry: its
links are absolute, since there is no checkout around it (``build/README.md``, from README.md and
``[project.urls]``).

``ANYSEAL_SANITIZE=1`` builds with AddressSanitizer and UndefinedBehaviorSanitizer, apart from
everything else under ``build/sanitize`` (``make sanitize``). Such a build wants ``LD_PRELOAD`` of
libasan and is for tests alone.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

from setuptools import build_meta as _setuptools

ROOT = Path(__file__).resolve().parent
CDEF = ROOT / "csrc" / "anyseal.cdef.h"
GENERATED = ROOT / "csrc" / "_native.c"

# cffi releases the GIL around every call, which ruins small calls beside a busy thread. The C
# functions release it themselves where the input is long (csrc/anyseal.h), so cffi must not.
PRELUDE = """
#include "anyseal.h"
#undef Py_BEGIN_ALLOW_THREADS
#undef Py_END_ALLOW_THREADS
#define Py_BEGIN_ALLOW_THREADS {
#define Py_END_ALLOW_THREADS }
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wconversion" /* what cffi generates, not ours */
#pragma GCC diagnostic ignored "-Wsign-conversion"
#endif
"""


SANITIZED = ROOT / "build" / "sanitize"
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined"


# What only some linkers know cannot stand in pyproject.toml: bind every function at start, so that
# the tables which hold their addresses can be made read-only, and nothing is spilled while binding.
ELF_LINKER = "-Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack"


def add_flags(variable: str, flags: str) -> None:
    """Put *flags* before those of the environment, so that a packager's win."""
    os.environ[variable] = f"{flags} {os.environ.get(variable, '')}".strip()


def sanitize() -> None:
    """Let setuptools compile with the sanitizers, into a place where nothing else is built."""
    SANITIZED.mkdir(parents=True, exist_ok=True)
    configuration = SANITIZED / "setup.cfg"
    configuration.write_text(f"[build]\nbuild_base = {SANITIZED / 'base'}\n")
    os.environ["DIST_EXTRA_CONFIG"] = str(configuration)
    add_flags("CFLAGS", f"{SANITIZERS} -fno-omit-frame-pointer -g")
    add_flags("LDFLAGS", SANITIZERS)


NO_COMPILER = """\
anyseal has no wheel for this platform, and to build one there is {missing}.
Install it and try again:
    Debian, Ubuntu   apt-get install gcc libc6-dev python3-dev
    Fedora, RHEL     dnf install gcc python3-devel
    Alpine           apk add gcc musl-dev python3-dev
    macOS            xcode-select --install
or build a wheel where there is one (pip wheel anyseal) and install that: it fits every CPython
from 3.11 on."""


def check_compiler() -> None:
    """Exit with what to do, instead of with pages of a compiler's errors."""
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    name = (shlex.split(compiler) or ["cc"])[0]
    if shutil.which(name) is None:
        sys.exit(NO_COMPILER.format(missing=f"no C compiler ({name})"))
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").exists():
        sys.exit(NO_COMPILER.format(missing=f"no Python.h in {headers}"))


def write_readme() -> None:
    """The README for the package's metadata: links into the checkout become absolute."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
    text = (ROOT / "README.md").read_text("utf-8")
    text = re.sub(r"\]\((?![a-z]+:|#)", f"]({urls['Homepage']}", text)
    path = ROOT / "build" / "README.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, "utf-8")


def emit(*, compiles: bool = False) -> None:
    """Write the extension's C source, if it differs from what is there, and the README."""
    write_readme()
    from cffi import FFI

    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        sys.exit(
            "anyseal does not support free-threaded interpreters yet: use a build with the GIL"
        )
    if sys.platform == "win32":
        sys.exit("anyseal supports POSIX systems only for now")
    if compiles:
        check_compiler()
    if os.environ.get("ANYSEAL_SANITIZE"):
        sanitize()
    elif sys.platform != "darwin":  # where each of these is the default or does not exist
        add_flags("LDFLAGS", ELF_LINKER)
    ffi = FFI()
    ffi.cdef(CDEF.read_text(encoding="ascii"))
    ffi.set_source("anyseal._native", PRELUDE, py_limited_api=True)
    fresh = GENERATED.with_suffix(".new")
    ffi.emit_c_code(str(fresh))
    if GENERATED.exists() and GENERATED.read_bytes() == fresh.read_bytes():
        fresh.unlink()
    else:
        fresh.replace(GENERATED)


def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    write_readme()
    return _setuptools.get_requires_for_build_sdist(config_settings)


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    write_readme()
    return _setuptools.get_requires_for_build_wheel(config_settings)


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    write_readme()
    return _setuptools.get_requires_for_build_editable(config_settings)


def prepare_metadata_for_build_wheel(directory: str, config_settings: Any = None) -> str:
    emit(compiles=True)
    return _setuptools.prepare_metadata_for_build_wheel(directory, config_settings)


def prepare_metadata_for_build_editable(directory: str, config_settings: Any = None) -> str:
    emit(compiles=True)
    return _setuptools.prepare_metadata_for_build_editable(directory, config_settings)


def build_sdist(directory: str, config_settings: Any = None) -> str:
    emit()
    return _setuptools.build_sdist(directory, config_settings)


def build_wheel(directory: str, config_settings: Any = None, metadata: str | None = None) -> str:
    emit(compiles=True)
    return _setuptools.build_wheel(directory, config_settings, metadata)


def build_editable(directory: str, config_settings: Any = None, metadata: str | None = None) -> str:
    emit(compiles=True)
    return _setuptools.build_editable(directory, config_settings, metadata)


if __name__ == "__main__":
    emit()
