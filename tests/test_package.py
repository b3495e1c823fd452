"""The package as a whole: its floors, its names, what importing it costs."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import os
import pkgutil
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import anyseal
from anyseal import errors, ports, sync
from support import run_python, said

ROOT = Path(anyseal.__file__).parent

# A module imports only from floors above its own in this list, or from its own package.
FLOORS = [
    ["errors", "hints"],
    ["config", "early", "pickles"],
    ["_native"],
    ["_ffi"],
    ["keys", "suites", "pages"],
    ["value", "record"],
    [
        "objects.format", "objects.geometry", "objects.chunks", "objects.parts",
        "objects.rewrap", "objects.upload",
    ],
    [
        "ports", "offload", "computing", "retries", "tasks", "loops", "transient", "deadline",
        "pickles",
    ],
    ["flight"],
    ["patience"],
    ["aws"],
    ["kms", "metastore"],
    [
        "keyring", "objects", "objects.sealer", "objects.writer", "objects.opened",
        "objects.reader", "objects.stream", "objects.sources", "objects.http",
    ],
    ["wiring"],
    ["settings"],
    ["session", "cache", "s3", "fs", "aio"],
    ["sync"],
    ["web", "compat", "testing", "telemetry"],
    ["cli", "demo", "__main__", ""],
]  # fmt: skip
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
PORT_METHODS = {
    method
    for port in (
        ports.AppendSink,
        ports.BlockingSink,
        ports.BlockingSource,
        ports.Sink,
        ports.Source,
    )
    for method in dir(port)
    if not method.startswith("_")
}
EXTRAS = ("httpx", "typer", "rich", "redis", "boto3", "aiobotocore", "sqlalchemy", "trio", "uvloop")


def floor_of(module: str) -> int:
    """The floor of a module, or of the package that it is in; a new one must be given a floor."""
    while module not in FLOOR_OF:
        above = module.rpartition(".")[0]
        assert above, f"anyseal.{module} has no floor: put it into FLOORS"
        module = above
    return FLOOR_OF[module]


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package by its name below ``anyseal``."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


def resolve(name: str) -> str:
    """The module that *name* below ``anyseal`` is, or is in."""
    path = ROOT.joinpath(*name.split("."))
    known = path.with_suffix(".py").exists() or path.is_dir() or name == "_native"
    return name if known else name.rpartition(".")[0]


def imports(path: Path) -> Iterator[str]:
    """What a module imports from the package, at its top or when it is used."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "anyseal":
                    yield resolve(alias.name.partition(".")[2])
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor"
            if (node.module or "").split(".")[0] == "anyseal":
                below = (node.module or "").partition(".")[2]
                for alias in node.names:
                    yield resolve(f"{below}.{alias.name}".lstrip("."))


def test_package_keeps_its_floors() -> None:
    """Arrows point one way: whoever reads a module needs only what is above it."""
    wrong = []
    for module, path in modules():
        mine = floor_of(module)
        for target in imports(path):
            same = module and module.split(".")[0] == target.split(".")[0]
            last = mine == floor_of(target) == len(FLOORS) - 1
            if not (same or last or floor_of(target) < mine):
                wrong.append(f"{module or 'anyseal'} imports {target or 'anyseal'}")
    assert [] == wrong


def test_package_twins_are_what_their_sources_make() -> None:
    """The cache without ``await`` is generated: an edit of one side alone is a mistake."""
    script = Path(__file__).parents[1] / ".ci" / "generate_sync.py"  # not beside an installed wheel
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def listed(module: Any) -> list[str]:
    """``__all__`` as it is written: what needs an extra is taken out, for ``import *``. ``open``
    would hide Python's own: it is asked for as ``anyseal.open``."""
    if module in (anyseal, sync):
        return [*_listed(module), "open"]
    return _listed(module)


def _listed(module: Any) -> list[str]:
    for node in ast.parse(Path(module.__file__).read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return []


def public() -> Iterator[tuple[str, Any]]:
    """Each public name of both faces, and the methods of the classes among them."""
    for module in (anyseal, sync):
        for name in listed(module):
            thing = getattr(module, name)
            yield f"{module.__name__}.{name}", thing
            if inspect.isclass(thing) and thing.__module__.startswith("anyseal"):
                for inner in dir(thing):
                    member = inspect.getattr_static(thing, inner)
                    if not inner.startswith("_") and inner not in dir(int):
                        yield f"{module.__name__}.{name}.{inner}", member


def test_package_documents_everything_public() -> None:
    """What has no docstring has no contract."""
    missing = []
    for name, thing in public():
        if inspect.ismodule(thing):
            continue
        if isinstance(thing, classmethod | staticmethod):
            thing = thing.__func__
        if name.rpartition(".")[2] in PORT_METHODS:
            continue  # documented once, with the protocol
        documented = callable(thing) or isinstance(thing, property)
        if documented and not inspect.getdoc(thing):
            missing.append(name)
    assert [] == missing
    for name, path in modules():
        assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), f"{name} has no docstring"


def test_package_lists_its_names_in_order() -> None:
    """A list that is sorted shows at a glance what is missing; each name must be there."""
    names = [name for name, _ in modules() if not name.startswith(("cli", "demo", "__main__"))]
    for name in names:
        module = importlib.import_module(f"anyseal.{name}".rstrip("."))
        found = _listed(module)
        ordered = sorted(found, key=lambda n: (not n.isupper(), n[0].islower(), n))
        assert ordered == found, name
        assert [] == [each for each in found if not hasattr(module, each)]
        assert set(found) <= set(dir(module))


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("anyseal", "SessionFactory"),
        ("anyseal.cache", "Cache"),
        ("anyseal.compat.lenzeye", "encrypt_file_stream"),
        ("anyseal.kms", "StaticKms"),
        ("anyseal.metastore", "MemoryMetastore"),
        ("anyseal.sync", "SessionFactory"),
    ],
)
def test_package_import_star_needs_no_extra(name: str, there: str) -> None:
    """Who tries the library in a shell has not installed everything. (``anyseal.cache`` as a whole
    needs its own extra.) What needs one is asked for by name, and then says so."""
    code = f"""
        import sys
        for extra in {(*EXTRAS, "botocore", "pymemcache", "pyarrow", "stamina")!r}:
            sys.modules[extra] = None
        if {name!r} != "anyseal.cache":
            sys.modules["msgspec"] = sys.modules["pybreaker"] = None
        from {name} import *
        print({there}.__name__)
        import {name} as package
        from anyseal import ConfigurationError
        for each in dir(package):
            try:
                getattr(package, each)
            except ConfigurationError as error:
                assert "pip install" in str(error), each
    """
    assert [there] == said(run_python(code))


def test_sync_has_the_names_of_the_async_side() -> None:
    """``from anyseal import sync`` must be all that a sync program changes.

    What the async side has in ``anyseal.cache`` and ``anyseal.s3`` is there too.
    """
    shared = set(listed(anyseal)) - {"sync"}
    services = {
        "Cache", "HttpBackend", "MemcachedBackend", "MemoryBackend", "RedisBackend",
        "SQLiteBackend", "SealedBucket", "backend_from_url",
    }  # fmt: skip
    neutral = set(errors.__all__) | {
        "CryptoPolicy", "KeyAdmin", "Keyring", "Kind", "ObjectInfo", "Suite", "ValueInfo",
        "available_suites", "overhead",
    }  # fmt: skip
    for name in sorted(shared - neutral):
        assert hasattr(sync, name), name
    assert sorted(listed(sync)) == sorted(services | shared - neutral)


@pytest.mark.parametrize(
    "name",
    [
        "seal",
        "seal_into",
        "open",
        "open_into",
        "seal_text",
        "open_text",
        "seal_file",
        "open_file",
        "rewrap_file",
        "inspect",
    ],
)
def test_sync_functions_take_the_same_arguments(name: str) -> None:
    """The same order, names and defaults."""
    ours, theirs = (inspect.signature(getattr(module, name)) for module in (anyseal, sync))
    assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
        (p.name, p.kind, p.default) for p in theirs.parameters.values()
    ]


@pytest.mark.parametrize("name", ["ObjectReader", "ObjectWriter", "StreamOpener", "ObjectFile"])
def test_sync_classes_have_the_same_methods(name: str) -> None:
    """``aclose`` is ``close``; everything else keeps its name and arguments."""
    ours, theirs = getattr(anyseal, name), getattr(sync, name)
    for method in dir(ours):
        if method.startswith("_"):
            continue
        twin = {"aclose": "close"}.get(method, method)
        assert hasattr(theirs, twin), method
        if name != "ObjectFile" and callable(getattr(ours, method)):
            mine = inspect.signature(getattr(ours, method)).parameters
            assert list(mine) == list(inspect.signature(getattr(theirs, twin)).parameters)


def test_caches_show_their_settings() -> None:
    """Editors and help() show what a class takes; both faces take the same."""
    shown = inspect.signature(importlib.import_module("anyseal.cache").Cache)
    twin = str(inspect.signature(sync.Cache)).replace("BlockingBackend", "Backend")
    assert twin == str(shown)
    kinds = {each.kind for each in shown.parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds


def test_errors_tree_is_its_docstring() -> None:
    """The tree is printed once, for people; it must be the tree, with every error exported."""
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([│ ├└─]*)(\w+Error)  ", line)
        if found:
            del path[len(found[1]) // 4 :]
            drawn[found[2]] = path[-1] if path else "Exception"
            path.append(found[2])
    assert {name: getattr(errors, name).__bases__[0].__name__ for name in errors.__all__} == drawn
    assert set(drawn) <= set(anyseal.__all__)


def test_import_opens_nothing_and_imports_no_extra() -> None:
    """Every process that imports the package pays for what it does at import."""
    code = f"""
        import os, socket, sys, threading
        def refuse(*args, **kwargs):
            raise AssertionError("opened at import")
        socket.socket.connect = refuse
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        import asyncio
        asyncio.new_event_loop = refuse
        threading.Thread.start = refuse
        import anyseal, anyseal.sync, anyseal.aio, anyseal.fs, anyseal.objects, anyseal.keyring
        after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        print(threading.active_count(), after - before)
        print([name for name in {EXTRAS!r} if name in sys.modules])
    """
    assert ["1 0", "[]"] == said(run_python(code))


def loaded(code: str) -> set[str]:
    """The modules that *code* imports, but for those that Python itself starts with."""
    return set(said(run_python(f"""
        import sys
        before = set(sys.modules)
        {code}
        print(*sorted(set(sys.modules) - before), file=sys.__stdout__, sep=chr(10))
    """)))  # fmt: skip


LIGHT = {
    "anyseal", "anyseal._ffi", "anyseal._native", "anyseal._native.lib", "anyseal.errors",
    "anyseal.hints",
}  # fmt: skip
"""What importing the package loads of it: the errors, and libsodium, which is tested first."""
HEAVY = {"anyio", "asyncio", "cryptography", "dataclasses", "inspect", "json", "logging", "ssl"}


@pytest.mark.parametrize(
    ("start", "own"),
    [
        ("import anyseal", set()),
        ("from anyseal import DecryptionError", set()),
        (
            "import io, runpy; sys.argv[1:] = ['--version']; sys.stdout = io.StringIO()\n"
            "        try: runpy.run_module('anyseal', run_name='__main__')\n"
            "        except SystemExit: pass",
            {"anyseal.__main__"},
        ),
        ("from anyseal.__main__ import main", {"anyseal.__main__"}),
    ],
    ids=["import", "errors", "version", "script"],
)
def test_import_is_light(start: str, own: set[str]) -> None:
    """Every command, worker and test run pays for it: what is not used is not loaded. (The time
    itself is a row of the bench.)"""
    found = loaded(start)
    assert LIGHT | own >= {name for name in found if name.split(".")[0] == "anyseal"}
    assert set() == found & HEAVY
    assert len(found) < 75, sorted(found)


def test_names_are_those_that_type_checkers_see() -> None:
    """The imports that only a type checker reads say where each name really is."""
    tree = ast.parse(Path(anyseal.__file__).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {"HttpSource", "sync"}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            if alias.name not in seen:
                module = importlib.import_module(str(node.module))
                assert getattr(module, alias.name) is getattr(anyseal, alias.name)
            seen.add(alias.name)
    assert set(listed(anyseal)) == seen | set(errors.__all__)


def test_import_star_hides_no_builtin() -> None:
    """``open`` is Python's own after it; ours is ``anyseal.open``."""
    for name, path in modules():
        names = (
            _listed(importlib.import_module(f"anyseal.{name}".rstrip(".")))
            if "cli" not in name
            else []
        )
        public = not any(part.startswith("_") for part in name.split("."))
        if public and path.name == "__init__.py":
            assert set() == set(names) & set(dir(builtins)), name
    code = """
        from anyseal import *
        from anyseal.sync import *
        import builtins, anyseal
        print(open is builtins.open, anyseal.open is not open, "seal" in dir())
    """
    assert ["True True True"] == said(run_python(code))


def test_import_of_the_cache_imports_no_client() -> None:
    """pybreaker imports redis where it is installed: not before there is a cache."""
    code = f"""
        import sys
        import anyseal.cache, anyseal.sync._generated.core
        print([name for name in ("pyarrow", "pandas", *{EXTRAS!r}) if name in sys.modules])
    """
    assert ["[]"] == said(run_python(code))


def test_import_of_http_without_httpx_says_what_to_install() -> None:
    """An extra that is missing must name itself."""
    code = """
        import sys
        sys.modules["httpx"] = None
        import anyseal
        try:
            anyseal.HttpSource
        except anyseal.ConfigurationError as error:
            print(error)
        try:
            anyseal.sync.HttpSource
        except anyseal.ConfigurationError as error:
            print(error)
        print(hasattr(anyseal, "nothing"))
    """
    expected = "HTTP sources need httpx: pip install 'anyseal[http]'"
    assert [expected, expected, "False"] == said(run_python(code))


def test_libsodium_at_a_bad_path_is_a_configuration_error(tmp_path: Path) -> None:
    """The variable is set by operators: missing, not a library, or another library."""
    (tmp_path / "text.so").write_text("not a library")
    import ctypes.util

    candidates = [str(tmp_path / "missing.so"), str(tmp_path / "text.so")]
    other = ctypes.util.find_library("m")
    candidates += [other] if other else []
    code = """
        try:
            import anyseal
        except Exception as error:
            print(type(error).__name__, "libsodium" in str(error).lower())
    """
    for path in candidates:
        process = run_python(code, ANYSEAL_LIBSODIUM=path)
        assert ["ConfigurationError True"] == said(process), path


@pytest.mark.parametrize(
    ("number", "part"), [(1, "aegis256"), (2, "aes256gcm_encrypt"), (3, "xchacha20")]
)
def test_suite_that_libsodium_lacks_is_not_offered(number: int, part: str) -> None:
    """The others go on; who asks for it by name, or has something sealed with it, is told."""
    code = f"""
        import nacl
        from nacl import _sodium as real
        class Lacking:
            lib = real.lib
            class ffi:
                cast = real.ffi.cast
                def addressof(library, name):
                    if {part!r} in name:
                        raise AttributeError(name)
                    return real.ffi.addressof(library, name)
        nacl._sodium = Lacking
        import anyseal
        from anyseal import sync
        from support import a_key, outcome, seal_bytes
        missing, key = anyseal.Suite({number}), a_key()
        offered = anyseal.available_suites()
        print(missing in offered, len(offered), missing.available)
        try:
            sync.seal(b"", key, suite=missing.name)
        except anyseal.SuiteUnavailableError as error:
            print(missing.name in str(error))
        import reference as ref, make_vectors
        value = ref.seal_value(b"x", make_vectors.KEY, suite={number}, nonce=bytes(24))
        reader = anyseal.Key.from_bytes(make_vectors.KEY)
        print(outcome(sync.open, value, reader), outcome(seal_bytes, b"", key, suite=missing))
        whole = make_vectors.Draft("missing", {number}, b"x").bytes()
        from support import READERS
        print({{outcome(read, whole, reader) for read in READERS.values()}})
        print(sync.open(sync.seal(b"works", key), key).decode())
    """
    assert [
        "False 2 False",
        "True",
        "SuiteUnavailableError SuiteUnavailableError",
        "{'SuiteUnavailableError'}",
        "works",
    ] == said(run_python(code))


def elf_parts(data: bytes) -> tuple[dict[int, int], dict[int, int]]:
    """The segments of a 64-bit little-endian ELF file by type, with their rights, and the numbers
    in its dynamic section by tag."""
    at, size, count = (
        int.from_bytes(data[a:b], "little") for a, b in ((32, 40), (54, 56), (56, 58))
    )
    segments, dynamic = {}, {}
    for head in (data[at + i * size : at + (i + 1) * size] for i in range(count)):
        kind, rights, offset, *_, length = struct.unpack("<IIQQQQ", head[:40])
        segments[kind] = rights
        if kind == 2:
            dynamic = dict(struct.iter_unpack("<qQ", data[offset : offset + length]))
    return segments, dynamic


@pytest.mark.skipif(sys.platform != "linux", reason="the file is not in ELF")
def test_extension_is_hardened() -> None:
    """A mistake in the C is harder to use: functions are bound at start, in a table that is then
    read-only; the stack has canaries and no right to run; the C library's checked functions."""
    data = Path(anyseal._native.__file__).read_bytes()
    if b"__asan_init" in data:
        pytest.skip("the sanitizers' build is for tests alone")
    segments, dynamic = elf_parts(data)
    assert 0x6474E552 in segments  # GNU_RELRO
    assert not segments[0x6474E551] & 1  # GNU_STACK: not executable
    assert dynamic[30] & 8  # FLAGS: BIND_NOW
    assert dynamic[0x6FFFFFFB] & 1  # FLAGS_1: NOW
    assert b"__stack_chk_fail" in data
    assert re.search(rb"\0__\w+_chk\0", data.replace(b"__stack_chk_fail", b""))


def test_package_has_type_information() -> None:
    """Type checkers of users look for the marker."""
    assert (ROOT / "py.typed").exists()
    assert {"keyring", "objects"} <= {m.name for m in pkgutil.iter_modules([os.fspath(ROOT)])}


def test_package_names_are_known_to_type_checkers() -> None:
    """A ``__getattr__`` that they see makes every misspelled name an Any, so they must not see it.
    They know ``TYPE_CHECKING`` by that name only."""
    lazy = 0
    for name, path in modules():
        tree = ast.parse(path.read_text("utf-8"))
        assert "__getattr__" not in {getattr(node, "name", "") for node in tree.body}, name
        for node in tree.body:
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                assert re.fullmatch(r"(not )?(_typing\.)?TYPE_CHECKING", ast.unparse(node.test)), (
                    name
                )
                lazy += "__getattr__" in {getattr(inner, "name", "") for inner in node.body}
    assert lazy >= 6
