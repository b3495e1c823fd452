"""The documentation does what it says: its code runs, its links lead somewhere, its names exist.

A page's ```python blocks are one program, executed from top to bottom in a temporary folder. An
HTML comment on the line before a block changes that:

- ``<!-- not run: why -->``: only compiled; each must be listed in ``NOT_RUN`` below.
- ``<!-- setup: name -->``: the function of that name in ``SETUPS`` runs first.
- ``<!-- buckets: one two -->``: these are made first, on a server that the environment names.
- ``<!-- server: name -->``: that server of ``SERVERS`` runs, and its URL is in the environment.
- ``<!-- pytest: file name -->``: goes into that file; pytest runs them in a process of its own.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import redis
import typer.main

from anyseal import CryptoPolicy, errors
from anyseal.cache import CachePolicy, CacheStats, cached, secure
from anyseal.cache.base import CacheBase
from anyseal.cli.app import app
from anyseal.settings import SessionSettings, setting_names
from storage_servers import ACCESS_KEY, SECRET_KEY, RedisServer, SeaweedFS

pytest_plugins = ["server_fixtures"]

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]

NOT_RUN = {
    ("aws.md", "needs AWS"): 2,
    ("migrate-from-asherah.md", "needs the package asherah"): 2,
    ("migrate-from-s3-encryption-client.md", "needs an environment of its own"): 1,
    ("vault.md", "needs Vault"): 1,
}
"""How many blocks of a page are not run for which reason. Added to by hand, with a reason."""

RUN_COMMANDS = {"keygen", "seal", "open", "cat", "verify", "inspect"}
"""What the shell blocks run; of other commands only the name is checked."""


def _static_environment(folder: Path) -> None:
    os.environ |= {
        "SERVICE_NAME": "shop",
        "PRODUCT_ID": "eu",
        "Metastore": "memory",
        "KMS": "static",
        "STATIC_MASTER_KEY_HEX": "8f" * 32,
        "ANYSEAL_MASTER_KEY": "8f" * 32,
    }


def _lenzeye_master_key(folder: Path) -> None:
    os.environ["MASTER_KEY"] = "5a" * 32


def _reader(folder: Path) -> None:
    """A stand-in for the program that reads with another client, and what it stands for."""
    (folder / "s3ec/bin").mkdir(parents=True)
    (folder / "s3ec/bin/python").symlink_to(sys.executable)
    program = "import sys; sys.stdout.buffer.write(bytes(100_000) + sys.argv[2].encode())"
    (folder / "read_s3ec.py").write_text(program)
    client = boto3.client("s3")
    for key in ("reports/1.pdf", "reports/2.pdf"):
        client.put_object(Bucket="old-files", Key=key, Body=b"sealed by another client")


SETUPS: dict[str, Callable[[Path], None]] = {
    "environment": _static_environment,
    "master key": _lenzeye_master_key,
    "reader": _reader,
}


def make_buckets(server: SeaweedFS, names: list[str]) -> None:
    """Empty buckets, and an environment in which AWS's tools find them."""
    os.environ |= {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": server.url,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    for name in names:
        server.client().create_bucket(Bucket=name)


SERVERS = {"redis": ("empty_redis", "REDIS_URL")}
"""A fixture that has a ``url``, and the variable that a page's code reads it from."""

FILES = ("backup.tar", "notes.txt", "big.img", "log", "shop")
"""What the commands of the pages find in their folder; sealed ones of log and shop as well."""


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    """Of its first line of text."""
    language: str
    text: str
    comment: str
    """The HTML comment before it, without its marks."""

    def option(self, name: str) -> str | None:
        """What stands after *name* in the comment; None if it does not begin with it."""
        found, _, value = self.comment.partition(":")
        return value.strip() if found.strip() == name else None


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of *page*, in order."""
    comment, start, language, text = "", 0, "", [""]
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if start:
            if line.strip() == "```":
                yield Block(page, start + 1, language, "\n".join(text) + "\n", comment)
                start, comment = 0, ""
            else:
                text.append(line)
        elif line.startswith("```"):
            start, language, text = number, line.removeprefix("```").strip(), []
        elif line.strip():
            match = re.fullmatch(r"<!-- (.*) -->", line.strip())
            comment = match[1] if match else ""
    assert not start, f"{page.name}:{start}: a block without an end"


def all_blocks(*languages: str) -> list[Block]:
    """The blocks in one of these languages, of all pages."""
    return [block for page in PAGES for block in blocks(page) if block.language in languages]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder, and an environment that is put back."""
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def empty_redis(redis_server: RedisServer) -> Iterator[RedisServer]:
    """Redis, without what others left in it, and without what this test leaves."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        yield redis_server
        client.flushall()


def _names(pages: list[Path]) -> list[str]:
    return [page.name for page in pages]


WITH_PYTHON = [page for page in PAGES[1:] if any(b.language == "python" for b in blocks(page))]


def test_readme_blocks_run_as_printed(tmp_path: Path) -> None:
    """A stranger copies any block, in any order, and runs it again: nothing is prepared, no block
    knows another, and the environment says nothing of anyseal."""
    blocks_of_readme = list(blocks(PAGES[0]))
    assert ["python", "python"] == [block.language for block in blocks_of_readme]
    assert ["", ""] == [block.comment for block in blocks_of_readme]
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("ANYSEAL", "AWS", "PYTHON"))
    }
    running = []
    for first in (0, 1):  # each alone in a folder, twice; then the other one in the same folder
        folder = tmp_path / str(first)
        folder.mkdir()
        programs = (blocks_of_readme[number].text for number in (first, first, 1 - first))
        python = f"{shlex.quote(sys.executable)} -W error -c "
        command = ["/bin/sh", "-c", " && ".join(python + shlex.quote(each) for each in programs)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        running.append(subprocess.Popen(command, cwd=folder, env=environment, **pipes))
    for process in running:
        said, _ = process.communicate(timeout=120)
        assert 0 == process.returncode, said.decode()
        assert b"b'user=42'" in said
        assert 1 <= said.count(b"computed") == said.count(b"{'name': 'Ada'} {'name': 'Ada'}")


def test_readme_is_short() -> None:
    """What it gives comes before how, and six figures say enough."""
    text = PAGES[0].read_text("utf-8")
    assert len(text.splitlines()) < 130
    assert text.index("\n- **") < text.index("```") < text.index("make demo")
    assert "from anyseal import open" not in "".join(page.read_text("utf-8") for page in PAGES)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=_names(WITH_PYTHON))
def test_docs_python_runs(page: Path, folder: Path, request: pytest.FixtureRequest) -> None:
    """What a reader copies from a page works, in the page's order."""
    namespace: dict[str, Any] = {"__name__": f"docs_{page.stem}"}
    for block in blocks(page):
        if block.language != "python":
            continue
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec", dont_inherit=True)
        setup, file = block.option("setup"), block.option("pytest")
        buckets = block.option("buckets")
        if buckets is not None:
            make_buckets(request.getfixturevalue("weed_server"), buckets.split())
        server = block.option("server")
        if setup is not None:
            SETUPS[setup](folder)
        if server is not None:
            fixture, variable = SERVERS[server]
            os.environ[variable] = request.getfixturevalue(fixture).url
        if file is not None:
            with (folder / file).open("a") as tests:
                tests.write(block.text + "\n\n")
        elif block.option("not run") is None:
            exec(code, namespace)
    if (folder / "test_page.py").exists():
        command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
        command += ["-o", "asyncio_default_fixture_loop_scope=function", "test_page.py"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr


def test_docs_blocks_not_run_are_known() -> None:
    """A block that no test runs is a decision, not an accident."""
    found: dict[tuple[str, str], int] = {}
    for block in all_blocks("python"):
        reason = block.option("not run")
        if reason is not None:
            found[block.page.name, reason] = found.get((block.page.name, reason), 0) + 1
    pages = {page.name for page in PAGES}
    assert {key: count for key, count in NOT_RUN.items() if key[0] in pages} == found


def test_docs_python_of_readers_is_short() -> None:
    """Nobody reads a long example on a page: that is what examples/ is for."""
    assert [] == [
        f"{block.page.name}:{block.line}"
        for block in all_blocks("python")
        if block.text.count("\n") > 60
    ]


def test_docs_json_and_toml_parse() -> None:
    """A policy or a settings file can be copied; settings have names that exist."""
    for block in all_blocks("json", "toml"):
        parsed = json.loads(block.text) if block.language == "json" else tomllib.loads(block.text)
        if {"ServiceName", "service_name"} & parsed.keys():
            assert SessionSettings.from_mapping(parsed).hierarchy() is not None


def _commands() -> Iterator[tuple[Block, list[str]]]:
    """The plain ``anyseal …`` lines of the shell blocks: no pipes, no redirections."""
    for block in all_blocks("sh", "console", "shell", ""):
        for line in block.text.splitlines():
            words = line.removeprefix("$ ")
            if words.startswith("anyseal ") and not re.search(r"[|<>&;$`\\…]", words):
                yield block, shlex.split(words, comments=True)


def test_docs_commands_exist() -> None:
    """No page names a command that the program does not have."""
    known: Any = typer.main.get_command(app)
    for block, words in _commands():
        assert words[1] in known.commands, f"{block.page.name}:{block.line}: {words[1]}"


@pytest.mark.parametrize("page", PAGES, ids=_names(PAGES))
def test_docs_commands_run(page: Path, folder: Path) -> None:
    """The commands of a page work, in the page's order."""
    commands = [w for block, w in _commands() if block.page == page and w[1] in RUN_COMMANDS]
    if not commands:
        return
    os.environ["ANYSEAL_PASSPHRASE"] = "correct horse battery staple"
    for name in FILES:
        (folder / name).write_bytes(b"a line of text, and then some\n" * 4000)
    made: set[str] = set()
    for words in commands:
        keys = [words[i + 1] for i, word in enumerate(words) if word in ("-k", "--key-file")]
        if words[1] != "keygen":
            for name in [key for key in keys if not Path(key).exists()]:
                _anyseal("keygen", "-o", name)
            for name in ("log", "shop"):
                if keys and name not in made:
                    made.add(name)
                    _anyseal("seal", name, "-k", keys[0])
        if words[1] == "open" and words[2].endswith(".sealed") and "-o" not in words:
            Path(words[2].removesuffix(".sealed")).unlink()
        _anyseal(*words[1:])


def _anyseal(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "anyseal", *arguments], capture_output=True)
    assert done.returncode == 0, (arguments, done.stderr.decode())


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings]
    return {heading.replace(" ", "-") for heading in words}


@pytest.mark.parametrize("page", PAGES, ids=_names(PAGES))
def test_docs_links_resolve(page: Path) -> None:
    """A relative link leads to a file, and its anchor to a heading."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in _anchors(path)):
            wrong.append(target)
    assert [] == wrong


def test_docs_index_lists_every_page() -> None:
    """A page that the index does not name is not found."""
    listed = set(re.findall(r"\]\(([a-z0-9-]+\.md)\)", (ROOT / "docs/index.md").read_text("utf-8")))
    assert {page.name for page in PAGES[1:]} - {"index.md"} <= listed


def _rows(page: str, *header: str) -> list[list[str]]:
    """The cells of the tables in *page* that have this header."""
    rows: list[list[str]] = []
    inside = False
    for line in (ROOT / "docs" / page).read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line[:1] == "|" else []
        if cells[: len(header)] == list(header):
            inside = True
        elif not cells:
            inside = False
        elif inside and set(line) - set("|- "):
            rows.append(cells)
    return rows


def _code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_docs_settings_are_the_settings() -> None:
    """The tables of settings have all of them, with their names and variables, and no others."""
    told = {
        (_code(name)[0], _code(name)[1], tuple(_code(variables)))
        for name, variables, *_ in _rows("sessions.md", "setting", "environment")
    }
    real = {
        (item.metadata["pascal"], item.name, item.metadata["env"])
        for item in dataclasses.fields(SessionSettings)
    }
    assert real == told


def test_docs_policy_is_the_policy() -> None:
    """The table of the policy has every field."""
    told = [_code(name)[0] for name, *_ in _rows("sessions.md", "policy")]
    assert [item.name for item in dataclasses.fields(CryptoPolicy)] == told


def test_docs_cache_policy_is_the_policy() -> None:
    """The table of the cache's policy has every field, in order."""
    told = [_code(name)[0] for name, *_ in _rows("cache-operations.md", "policy")]
    assert [item.name for item in dataclasses.fields(CachePolicy)] == told


def test_docs_cache_settings_are_the_settings() -> None:
    """So have the tables of what a cache and its decorators take."""
    for page, header, takes in (
        ("cache.md", "setting of `Cache`", CacheBase.__init__),
        ("cache-decorators.md", "argument", cached),
        ("cache-decorators.md", "argument", secure),
    ):
        told = {name for cell, *_ in _rows(page, header) for name in _code(cell)}
        parameters = inspect.signature(takes).parameters.values()
        real = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}
        assert set() == real - told, takes


def test_docs_cache_counters_are_the_counters() -> None:
    """Whoever watches a counter finds what it means; what the layer holds now is no counter."""
    told = {name for cell, *_ in _rows("cache-operations.md", "counter") for name in _code(cell)}
    real = {item.name for item in dataclasses.fields(CacheStats)}
    assert real - {"local_entries", "local_bytes"} == told


def test_docs_migration_names_settings_that_exist() -> None:
    """Each name in the migration's table of settings is accepted."""
    rows = _rows("migrate-from-asherah.md", "setting")
    names = [name for cell, *_ in rows for name in _code(cell) if name[:1].isupper()]
    assert names
    assert set() == set(names) - setting_names().keys()


def test_docs_troubleshooting_has_every_error() -> None:
    """Whoever meets an exception finds it."""
    anchors = _anchors(ROOT / "docs/troubleshooting.md")
    assert set() == {name.lower() for name in errors.__all__} - anchors
