"""Names that others choose forge no line: not in logs, not in exceptions, not on a terminal."""

from __future__ import annotations

import ast
import inspect
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import anyseal
from anyseal import FileSink, FileSource, errors
from anyseal.cache.stats import Observer
from anyseal.cli.process import note

PACKAGE = Path(anyseal.__file__).parent
FORGED = "a\nCRITICAL:root:all keys lost\r\x1b[31m\u2028b\x85c\u202e"
LEVELS = ("debug", "info", "warning", "warn", "error", "exception", "critical", "log", "_warn")
PLACE = re.compile(r"%(?:\([a-z]+\))?[-#0-9. +]*([a-zA-Z%])")


def _logged(tree: ast.AST) -> Iterator[tuple[int, str, list[ast.expr]]]:
    """Line, format and arguments of each call that logs; the format is a constant."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        of = ast.unparse(node.func.value)
        if node.func.attr not in LEVELS or not re.search(r"log|self$", of, re.IGNORECASE):
            continue
        for at, given in enumerate(node.args):
            if isinstance(given, ast.Constant) and isinstance(given.value, str):
                yield node.lineno, given.value, node.args[at + 1 :]
                break
            if isinstance(given, ast.JoinedStr):
                yield node.lineno, "%s", [given]
                break


def _is_safe(given: ast.expr) -> bool:
    """Whether its text is one line, whatever it is made of."""
    text = ast.unparse(given)
    return bool(re.fullmatch(r"type\(\w+\)\.__name__|one_line\(.*\)", text))


def test_logs_hold_no_foreign_text() -> None:
    """``%s`` of a key, a name, a partition, a path or a server's words would end the line where
    they do. ``%r`` and ``one_line`` do not."""
    wrong, seen = [], 0
    for path in sorted(PACKAGE.rglob("*.py")):
        for line, text, arguments in _logged(ast.parse(path.read_text())):
            places = [kind for kind in PLACE.findall(text) if kind != "%"]
            seen += 1
            for kind, given in zip(places, arguments, strict=False):
                if kind not in "rdaf" and not _is_safe(given):
                    wrong.append(f"{path.relative_to(PACKAGE)}:{line}: {ast.unparse(given)}")
    assert [] == wrong, "use %r, or %s with one_line(...)"
    assert seen > 15, "the calls are found"


def test_log_line_of_a_failing_backend_is_one(caplog: pytest.LogCaptureFixture) -> None:
    """A server's words are in it, and the name of a cache."""
    stats = Observer(FORGED, None, None)
    with caplog.at_level(logging.WARNING):
        stats.failed(errors.BackendError(f"the server said {FORGED}"))
        stats.warn(FORGED, FORGED, ValueError(FORGED))
    assert 2 == len(caplog.records)
    for record in caplog.records:
        assert record.getMessage().isprintable(), record.getMessage()


def _kinds() -> list[type[errors.AnysealError]]:
    """Every class of errors.py whose message is the raiser's."""
    found = [each for _, each in inspect.getmembers(errors, inspect.isclass)]
    own = (errors.UploadIncompleteError, errors.PartReplacedError)
    return [each for each in found if issubclass(each, errors.AnysealError) and each not in own]


@pytest.mark.parametrize("kind", _kinds())
def test_error_is_one_line(kind: type[errors.AnysealError]) -> None:
    """Applications log them, with keys and paths in them."""
    error = kind(f"{FORGED}: no")
    assert str(error).isprintable()
    assert str(error).startswith(r"a\nCRITICAL:root")
    assert "Žluť ☃ is text" == str(kind("Žluť ☃ is text"))
    assert not FORGED.isprintable()


def test_error_about_a_path_is_one_line(tmp_path: Path) -> None:
    """As they are raised."""
    path = tmp_path / "a\nb"
    path.mkdir()
    for call in (lambda: FileSource(path), lambda: FileSink(path, overwrite=True)):
        with pytest.raises(errors.SourceError) as caught:
            call()
        assert str(caught.value).isprintable()
        assert r"a\nb" in str(caught.value)


def test_command_line_says_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A terminal takes control characters for commands."""
    note(FORGED)
    told = capsys.readouterr().err
    assert told.endswith("\n")
    assert told[:-1].isprintable()
