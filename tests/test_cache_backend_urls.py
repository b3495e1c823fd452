"""The backend that a URL names."""

from __future__ import annotations

from pathlib import Path

import pytest

from anyseal import ConfigurationError
from anyseal.cache.backends import backend_from_url, blocking_backend_from_url
from support import run_python, said


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory://", "MemoryBackend(entries=0, bytes=0)"),
        ("memory://?max_bytes=1000&max_entries=5", "MemoryBackend(entries=0, bytes=0)"),
        ("sqlite:////tmp/a%20cache.db", "SQLiteBackend('/tmp/a cache.db')"),
        ("sqlite:////tmp/c.db?durable=1&max_bytes=9999&timeout=1", "SQLiteBackend('/tmp/c.db')"),
        ("https://cache.example.com/api", "HttpBackend('https://cache.example.com/api')"),
        ("http://me:s3cret@localhost:81/a/", "HttpBackend('http://localhost:81/a')"),
        ("memcached://localhost", "MemcachedBackend('localhost', 11211)"),
        ("memcached://[::1]:1234?timeout=2", "MemcachedBackend('::1', 1234)"),
    ],
)
def test_url_names_a_backend(url: str, shown: str) -> None:
    """Both sides understand the same URLs, and neither shows a password."""
    assert shown == repr(backend_from_url(url))
    assert "Blocking" + shown == repr(blocking_backend_from_url(url))


def test_url_of_sqlite_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes are relative, four absolute, as everywhere; a later chdir changes nothing."""
    monkeypatch.chdir(tmp_path)
    backend = blocking_backend_from_url("sqlite:///cache.db")
    monkeypatch.chdir("/")
    backend.set("a", b"x")
    backend.close()
    assert (tmp_path / "cache.db").exists()


@pytest.mark.parametrize(
    "url",
    [
        "", "s3cret", "foo://me:s3cret@host", "redis", "://s3cret", "memory://s3cret", "memory:///s3cret",
        "memory://?s3cret=1", "memory://?max_bytes=s3cret", "memory://?max_bytes=0", "sqlite://",
        "sqlite:///", "sqlite://s3cret/x", "sqlite:///:memory:", "sqlite:///x?durable=s3cret",
        "sqlite:///x?s3cret=1", "http://", "http:///s3cret", "http://host/?token=s3cret",
        "http://me:s3cret@host:port/", "http://[s3cret/", "https://host/#s3cret", "memcached://",
        "memcached://me:s3cret@host", "memcached://host:s3cret", "memcached://host:0x1/",
        "memcached://host?s3cret=1", "memcached://host?timeout=s3cret",
    ],
)  # fmt: skip
def test_url_that_is_wrong_is_refused_without_being_repeated(url: str) -> None:
    """It may hold a password, and errors are logged."""
    for make in (backend_from_url, blocking_backend_from_url):
        with pytest.raises(ConfigurationError) as caught:
            make(url)
        assert "s3cret" not in str(caught.value)


def test_url_with_an_unknown_scheme_names_the_known_ones() -> None:
    """The one message that most people will see first."""
    with pytest.raises(ConfigurationError, match="http, https, memcached, memory, redis, redis"):
        backend_from_url("redsi://host")
    with pytest.raises(ConfigurationError):
        backend_from_url(None)  # type: ignore[arg-type]


def test_url_imports_only_what_it_names() -> None:
    """A service that keeps its entries in memory needs no extra."""
    code = """
        import sys
        import pybreaker  # which imports redis where that is installed
        before = set(sys.modules)
        from anyseal.cache.backends import backend_from_url
        backend_from_url("memory://"); backend_from_url("sqlite:///x.db")
        ours = [name for name in sys.modules if name.startswith("anyseal.cache.backends.")]
        print(sorted(name.rpartition(".")[2] for name in ours))
        print([name for name in ("redis", "httpx", "pymemcache", "aiocache", "cashews")
               if name in set(sys.modules) - before])
    """
    modules = "['_sqlite_pool', '_threads', 'memory', 'sqlite']"
    assert [modules, "[]"] == said(run_python(code))
