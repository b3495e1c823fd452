"""The bench keeps what it measured: a rival, a topic or a process that fails costs its own rows."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench import __main__ as command
from bench import report
from bench.harness import Row, Settings, attempt, noted

ROOT = Path(__file__).parent.parent
RIVALS = {"asherah", "aws_encryption_sdk", "cachekit", "matplotlib", "pyrage", "redis", "tink"}


def row(figure: str) -> Row:
    return Row(group="g", figure=figure, ours="", rival="r: 1", value=2.0, low=1, high=3)


def failing() -> Iterator[Row]:
    yield row("first")
    raise ModuleNotFoundError("No module named 'cachekit'")


def test_bench_rival_that_is_missing_is_one_row() -> None:
    """Five minutes of figures were lost to one package that was not installed."""
    rows = [*attempt("g", "hits", failing, "cachekit"), *attempt("g", "next", lambda: [row("n")])]
    assert ["first", "hits", "n"] == [each.figure for each in rows]
    assert "ModuleNotFoundError: No module named 'cachekit'" == rows[1].missing
    assert rows[1].passed is None
    assert "cachekit" == rows[1].rival


@pytest.mark.parametrize("ending", ["raise KeyError('x')", "os._exit(3)", "import nonsense"])
def test_bench_topic_that_fails_keeps_its_rows(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it raises, its process dies, or it cannot be imported."""
    (tmp_path / "bench").mkdir()
    for path in (ROOT / "bench").glob("*.py"):
        (tmp_path / "bench" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "bench" / "values.py").write_text(
        "import os\nfrom tests_row import row\ndef run(settings):\n    yield row('kept')\n"
        f"    {ending}\n"
    )
    (tmp_path / "tests_row.py").write_text(
        "from bench.harness import Row\ndef row(name):\n    return Row(group='values', figure=name,"
        " ours='', rival='', value=1, low=1, high=1)\n"
    )
    monkeypatch.setattr(command, "ROOT", tmp_path)
    rows = command.topic("values", tmp_path, quick=True)
    assert ["kept", "the rest of values"] == [each.figure for each in rows]
    assert rows[0].load is not None
    assert rows[1].missing


def test_bench_rows_say_load_and_cpu_seconds() -> None:
    """A figure that was measured beside other work is to be known as such."""

    def busy() -> Iterator[Row]:
        sum(range(3_000_000))
        yield row("busy")

    (found,) = noted(busy())
    assert found.load is not None
    assert found.cpu_s is not None
    assert 0 < found.cpu_s


def test_bench_saves_after_each_topic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the second topic, the first one's rows are there."""
    saved: list[int] = []

    def stopped(name: str, folder: Path, *, quick: bool) -> list[Row]:
        if len(saved) == 1:
            raise KeyboardInterrupt
        return [row(name)]

    monkeypatch.setattr(command, "topic", stopped)
    monkeypatch.setattr(command, "save", lambda rows, *rest: saved.append(len(rows)))
    monkeypatch.setattr(sys, "argv", ["bench", "--folder", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        command.main()
    assert [1] == saved


def test_bench_imports_no_rival_before_its_row() -> None:
    """An import at the top of a module fails the whole topic."""
    wrong = []
    for path in (ROOT / "bench").glob("*.py"):
        if path.name in ("charts.py", "s3_rival.py"):
            continue  # drawn when everything is saved; run in an environment of its own
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None) or "", *(each.name for each in node.names)]
                wrong += [(path.name, name) for name in names if name.split(".")[0] in RIVALS]
    assert [] == wrong


def test_bench_tables_are_what_was_measured(tmp_path: Path) -> None:
    """README and docs/bench.md show the rows of results.json: `python -m bench --tables`."""
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/bench.md"):
        (tmp_path / name).write_text((ROOT / name).read_text("utf-8"), "utf-8")
    report.write_tables(tmp_path, ROOT / "bench" / "results.json")
    for name in ("README.md", "docs/bench.md"):
        assert (tmp_path / name).read_text("utf-8") == (ROOT / name).read_text("utf-8"), name
    assert set(report.SIX) <= {
        each["figure"] for each in json.loads((ROOT / "bench/results.json").read_text())["rows"]
    }
    readme = (ROOT / "README.md").read_text("utf-8")
    table = readme.partition(report.BEGIN)[2].partition(report.END)[0]
    assert 2 + 6 == sum(line.startswith("|") for line in table.splitlines())


def test_bench_settings_are_quick_for_a_look() -> None:
    """`make bench ARGS=--quick` is for trying out."""
    assert Settings.quick(Path()).seconds < Settings(folder=Path()).seconds
