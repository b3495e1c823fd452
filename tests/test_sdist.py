"""What is built: an sdist that one can work with, metadata that reads well, and a clear refusal."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

import anyseal

ROOT = Path(__file__).parent.parent
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
PACKAGE = Path(anyseal.__file__).parent
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv*", "build", "dist", "*.egg-info", "__pycache__", "*.so", ".*_cache", ".demo",
    ".hypothesis", ".benchmarks", "_native.c",
)  # fmt: skip


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, where builds leave their traces."""
    return Path(
        shutil.copytree(ROOT, tmp_path_factory.mktemp("built") / "checkout", ignore=LEFT_OUT)
    )


def backend(checkout: Path, call: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """One call of the build backend, as pip makes it."""
    return subprocess.run(
        [sys.executable, "-c", f"import build_ffi; build_ffi.{call}"],
        cwd=checkout, capture_output=True, text=True, env=environ or None, timeout=120,
    )  # fmt: skip


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text)


def test_package_readme_has_absolute_links(checkout: Path) -> None:
    """On a package index there is no folder that a relative link could lead to; each link is one
    of the README's, and its file is there."""
    done = backend(checkout, "write_readme()")
    assert (0, "") == (done.returncode, done.stderr)
    found = links((checkout / "build/README.md").read_text("utf-8"))
    assert len(links((ROOT / "README.md").read_text("utf-8"))) == len(found) > 20
    for link in found:
        assert link.startswith(URLS["Homepage"]), link
        assert (ROOT / link.removeprefix(URLS["Homepage"]).partition("#")[0]).is_file(), link
    assert all(url.startswith(URLS["Homepage"]) for url in URLS.values())


@pytest.mark.parametrize(
    ("environ", "missing"),
    [
        ({"PATH": "/nonexistent"}, "no C compiler ("),
        ({"PATH": "/usr/bin:/bin", "CC": "no-such-cc -pthread"}, "no C compiler (no-such-cc)"),
    ],
    ids=["path", "CC"],
)
@pytest.mark.parametrize("what", ["wheel", "editable"])
def test_build_without_a_compiler_says_what_to_do(
    checkout: Path, environ: dict[str, str], missing: str, what: str
) -> None:
    """The first thing pip does, before pages of errors: one message with the commands."""
    done = backend(checkout, f"prepare_metadata_for_build_{what}('.')", **environ)
    assert done.returncode == 1
    assert missing in done.stderr
    for word in ("apt-get install gcc", "dnf install gcc", "apk add gcc", "xcode-select --install"):
        assert word in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_sdist_has_everything_and_its_tests_run(checkout: Path, tmp_path: Path) -> None:
    """Who packages it builds, reads the docs and runs the tests from there. A few of them run here,
    against the sdist's own sources."""
    done = backend(checkout, f"build_sdist({str(tmp_path)!r})")
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.glob("anyseal-*/")
    wanted = {path.relative_to(ROOT) for path in _files(ROOT)}
    there = {path.relative_to(folder) for path in _files(folder)}
    assert set() == wanted - there
    assert {"PKG-INFO", "setup.cfg"} == {str(path) for path in there - wanted}
    description = (folder / "PKG-INFO").read_text("utf-8")
    assert all(link.startswith("https://") for link in links(description))
    assert f"Project-URL: Source, {URLS['Source']}" in description
    for extension in PACKAGE.glob("_native*.so"):
        shutil.copy(extension, folder / "src/anyseal")
    some = [
        "tests/test_reference.py::test_vectors_are_up_to_date",
        "tests/test_package.py::test_package_keeps_its_floors",
        "tests/test_docs.py::test_docs_links_resolve",
        "tests/test_docs.py::test_docs_index_lists_every_page",
        "tests/test_docs.py::test_docs_python_runs[values-and-objects.md]",
        "tests/test_bench.py::test_bench_tables_are_what_was_measured",
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", *some]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]


def _files(folder: Path) -> list[Path]:
    """What belongs to a checkout, or came out of an sdist."""
    found: list[Path] = []
    for path in folder.iterdir():
        if path.name in LEFT_OUT(str(folder), [path.name]):
            continue
        found += _files(path) if path.is_dir() else [path]
    return found
