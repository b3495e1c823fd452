#!/usr/bin/env python3
"""Write the cache without ``await`` from the cache with it: anyseal/sync/_generated.

``await`` and ``async`` are dropped, names are mapped by the tables below, nothing else changes.
``make format`` writes; ``--check`` (``make lint``, and a test) says what is not up to date.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE, TWIN = ROOT / "src/anyseal/cache", ROOT / "src/anyseal/sync/_generated"

MODULES = (
    "calls", "computation", "core", "entries", "guard", "herd", "keys", "lease", "opening", "shelf",
    "tags", "values",
)  # fmt: skip

NAMES = {
    "Backend": "BlockingBackend",
    "PieceSink": "BlockingPieceSink",
    "Pieces": "BlockingPieces",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__enter__": "__aenter__",
    "aclose": "close",
    "aiter": "iter",
    "anext": "next",
    "use_async_with": "use_with",
}
IMPORTS = {
    "anyseal.cache.kit": "anyseal.sync.kit",
    "anyseal.objects.reader": "anyseal.sync.objects",
    "anyseal.objects.writer": "anyseal.sync.objects",
    **{f"anyseal.cache.{name}": f"anyseal.sync._generated.{name}" for name in MODULES},
}
TEXT = {
    "``async with``": "``with``",
    "``aclose``": "``close``",
    "MemoryBackend or RedisBackend": "those in :mod:`anyseal.sync`",
    "However many tasks ask": "However many threads ask",
    "awaited": "called",
    "await ": "",
}
"""In docstrings and comments."""


def twin(source: str, name: str) -> str:
    """The sync text of one module, before it is formatted."""
    source = re.sub(r"Awaitable\[((?:[^\[\]]|\[[^\[\]]*\])*)\]", r"\1", source)
    source = re.sub(
        r"^( *from )(anyseal[\w.]*)( import)",
        lambda found: found[1] + IMPORTS.get(found[2], found[2]) + found[3],
        source,
        flags=re.MULTILINE,
    )
    pieces, at = [], (1, 0)
    lines = source.splitlines(keepends=True)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    for token in tokens:
        if token.type == tokenize.ENDMARKER:
            break
        pieces.append(_between(lines, at, token.start))
        text, at = token.string, token.end
        if token.type == tokenize.NAME and text in ("async", "await"):
            text, at = "", (at[0], at[1] + 1)  # with the blank behind it
        elif token.type == tokenize.NAME:
            text = NAMES.get(text, text)
        elif token.type in (tokenize.STRING, tokenize.COMMENT):
            for old, new in TEXT.items():
                text = text.replace(old, new)
        pieces.append(text)
    pieces.append(_between(lines, at, (len(lines) + 1, 0)))
    return f"# Made from anyseal/cache/{name}.py by .ci/generate_sync.py: do not edit.\n" + "".join(
        pieces
    )


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]] if start[0] <= len(lines) else ""
    parts = [lines[start[0] - 1][start[1] :]] if start[0] <= len(lines) else []
    parts += lines[start[0] : end[0] - 1]
    if end[0] <= len(lines):
        parts.append(lines[end[0] - 1][: end[1]])
    return "".join(parts)


def formatted(text: str, path: Path) -> str:
    """*text* as ruff wants it."""
    for command in (["check", "--fix", "--quiet", "--select", "F401,I"], ["format", "--quiet"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(path), "-"]
        text = subprocess.run(
            ruff, input=text, capture_output=True, text=True, cwd=ROOT, check=True
        ).stdout
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if outdated")
    check = parser.parse_args().check
    wanted = {TWIN / "__init__.py": '"""The cache for threads, made from ``anyseal.cache``."""\n'}
    for name in MODULES:
        path = TWIN / f"{name}.py"
        wanted[path] = formatted(twin((SOURCE / f"{name}.py").read_text("utf-8"), name), path)
    wrong = [path for path in TWIN.glob("*.py") if path not in wanted]
    for path, text in wanted.items():
        if not path.exists() or path.read_text("utf-8") != text:
            wrong.append(path)
            if not check:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, "utf-8")
    for path in wrong:
        print(f"{path.relative_to(ROOT)}: {'is not what its source makes' if check else 'written'}")
    return int(check and bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
