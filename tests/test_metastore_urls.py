"""Connection strings: SQLAlchemy's, and those that other implementations take."""

from __future__ import annotations

import contextlib
import dataclasses
import ssl
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from anyseal.errors import ConfigurationError
from anyseal.metastore import SqlMetastore
from anyseal.metastore._urls import parse
from anyseal.settings import SessionSettings
from anyseal.wiring import metastore_of


def parts(text: str, **options: Any) -> tuple[Any, ...]:
    """Driver, user, password, host, port, database."""
    url = parse(text, **options).url
    return (url.drivername, url.username, url.password, url.host, url.port, url.database)


@pytest.mark.parametrize(
    ("text", "database"),
    [
        ("sqlite://", None),
        ("sqlite:///:memory:", ":memory:"),
        ("sqlite:///keys.db", "keys.db"),
        ("sqlite:////var/lib/keys.db", "/var/lib/keys.db"),
        ("sqlite+pysqlite:////keys.db", "/keys.db"),
        ("sqlite://keys.db", "keys.db"),
        ("sqlite://dir/keys.db", "dir/keys.db"),
        ("sqlite://:memory:", ":memory:"),
    ],
)
def test_sqlite(text: str, database: str | None) -> None:
    """SQLAlchemy's meaning wherever it has one."""
    assert parts(text) == ("sqlite+pysqlite", None, None, None, None, database)


@pytest.mark.parametrize(
    ("text", "database"),
    [
        ("sqlite:///var/lib/keys.db", "/var/lib/keys.db"),
        ("sqlite:////var/lib/keys.db", "//var/lib/keys.db"),
        ("sqlite://keys.db", "keys.db"),
        ("sqlite://:memory:", ":memory:"),
    ],
)
def test_plain_sqlite_paths(text: str, database: str) -> None:
    """With three slashes the same string means another file to others: they must be asked for."""
    assert parts(text, plain_sqlite_path=True)[-1] == database
    assert SqlMetastore.from_connection_string(text)._engine.url.database == database


def test_settings_take_plain_paths() -> None:
    """They are shared with other implementations: a new, empty file elsewhere would lose keys."""
    settings = SessionSettings(
        service_name="svc",
        product_id="prod",
        kms="static",
        metastore="rdbms",
        connection_string="sqlite:///nowhere/keys.db",
    )
    for change in ({}, {"metastore": "sqlite", "sqlite_path": "/nowhere/keys.db"}):
        made: Any = metastore_of(dataclasses.replace(settings, **change))
        assert made._engine.url.database == "/nowhere/keys.db"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "POSTGRES"])
def test_postgresql(scheme: str) -> None:
    """libpq's settings go through."""
    text = f"{scheme}://me:p%40ss%2Fw@db:5433/keys?sslmode=verify-full&sslrootcert=/ca.pem"
    assert parts(text) == ("postgresql+psycopg", "me", "p@ss/w", "db", 5433, "keys")
    assert dict(parse(text).url.query) == {"sslmode": "verify-full", "sslrootcert": "/ca.pem"}


@pytest.mark.parametrize(
    "text",
    [
        "mysql://me:p%40ss%2Fw@db:3307/keys",
        "mariadb://me:p%40ss%2Fw@db:3307/keys",
        "mysql+pymysql://me:p%40ss%2Fw@db:3307/keys?charset=utf8mb4",
        "me:p@ss/w@tcp(db:3307)/keys",
        "me:p@ss/w@tcp(db:3307)/keys?parseTime=true&loc=UTC&charset=utf8mb4,utf8",
    ],
)
def test_mysql(text: str) -> None:
    """The Go driver's string is not percent-encoded, and its password may hold anything."""
    assert parts(text) == ("mysql+pymysql", "me", "p@ss/w", "db", 3307, "keys")
    assert parse(text).connect_args == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("me@tcp(db)/keys", ("me", None, "db", None, "keys")),
        ("me:@tcp(db)/keys", ("me", "", "db", None, "keys")),
        ("me:pw@tcp([::1]:3306)/keys", ("me", "pw", "::1", 3306, "keys")),
        ("me:pw@tcp/keys", ("me", "pw", "127.0.0.1", None, "keys")),
        ("me:pw@/keys", ("me", "pw", "127.0.0.1", None, "keys")),
        ("tcp(db:1)/", (None, None, "db", 1, None)),
        ("me:pw@tcp(db)/a%2Fb", ("me", "pw", "db", None, "a/b")),
        ("me:a://b(c)@tcp(db)/keys", ("me", "a://b(c)", "db", None, "keys")),
        ("me://b(c)@tcp(db)/keys", ("me", "//b(c)", "db", None, "keys")),
    ],
)
def test_the_go_drivers_forms(text: str, expected: tuple[Any, ...]) -> None:
    """``[user[:password]@][protocol[(address)]]/database``."""
    assert parts(text)[1:] == expected


def test_a_unix_socket() -> None:
    """Given in brackets."""
    target = parse("me:pw@unix(/run/mysqld/s.sock)/keys?timeout=500ms&readTimeout=1m&time_zone='x'")
    assert target.connect_args == {
        "unix_socket": "/run/mysqld/s.sock",
        "connect_timeout": 0.5,
        "read_timeout": 60.0,
    }
    assert target.time_zone == "x"
    assert target.url.host is None


@pytest.mark.parametrize(
    ("setting", "verify", "hostname"),
    [
        ("tls=true", ssl.CERT_REQUIRED, True),
        ("ssl-mode=VERIFY_IDENTITY", ssl.CERT_REQUIRED, True),
        ("require_ssl=true", ssl.CERT_REQUIRED, True),
        ("ssl_mode=verify-ca", ssl.CERT_REQUIRED, False),
        ("tls=skip-verify", ssl.CERT_NONE, False),
        ("ssl-mode=REQUIRED", ssl.CERT_NONE, False),
    ],
)
def test_tls_for_mysql(setting: str, verify: ssl.VerifyMode, hostname: bool) -> None:
    """Given a context, the driver insists on TLS."""
    for text in (f"mysql://u:p@h/d?{setting}", f"u:p@tcp(h)/d?{setting}"):
        context = parse(text).connect_args["ssl"]
        assert (context.verify_mode, context.check_hostname) == (verify, hostname)


def test_tls_that_is_not_insisted_on() -> None:
    """The driver's own default is to prefer TLS."""
    assert parse("mysql://u:p@h/d?tls=preferred").connect_args == {}
    assert parse("mysql://u:p@h/d?tls=false").connect_args == {"ssl_disabled": True}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sekret",
        "sekret@db",
        "u:sekret@udp(h)/d",
        "u:sekret@tcp(h:x)/d",
        "u:sekret@tcp(h)",
        "oracle://u:sekret@h/d",
        "postgresql+asyncpg://u:sekret@h/d",
        "postgresql://u:sekret@h:port/d",
        "mysql+aiomysql://u:sekret@h/d",
        "mysql://u:sekret@h/d?tls=maybe",
        "mysql://u:sekret@h/d?tls=true&ssl-mode=disabled",
        "mysql://u:sekret@h/d?tls=true&tls=false",
        "mysql://u:sekret@h/d?ssl_ca=/nonexistent",
        "mysql://u:sekret@h/d?ssl_ca=/nonexistent&tls=preferred",
        "mysql://u:sekret@h/d?loc=Local",
        "mysql://u:sekret@h/d?timeout=soon",
        "mysql://u:sekret@h/d?sql_mode=ANSI",
    ],
)
def test_what_cannot_be_meant_is_refused(text: str) -> None:
    """By a ConfigurationError that repeats nothing of it."""
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    assert "sekret" not in str(caught.value) + repr(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_an_unknown_setting_names_the_nearest() -> None:
    """A typo in a timeout must not go unnoticed."""
    with pytest.raises(ConfigurationError, match="did you mean readTimeout"):
        parse("mysql://u:p@h/d?readTimout=1s")


def test_a_url_object_is_taken() -> None:
    """As SQLAlchemy's users have it."""
    assert parse(make_url("postgresql://u:p@h/d")).url.drivername == "postgresql+psycopg"


@given(st.text(), st.sampled_from(["", "mysql://", "postgres://", "sqlite://", "u:p@tcp(h)/"]))
def test_any_text_parses_or_is_refused(text: str, before: str) -> None:
    """No other exception."""
    with contextlib.suppress(ConfigurationError):
        parse(before + text)


def test_importing_the_package_imports_no_extra() -> None:
    """The drivers are large, and optional."""
    script = (
        "import sys, anyseal.metastore as m; m.MemoryMetastore(); "
        "print({'sqlalchemy', 'aiobotocore', 'psycopg', 'pymysql'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
