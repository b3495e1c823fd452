"""Connection strings, SQLAlchemy's and those of the other implementations. Pure, no I/O.

No message here repeats any part of a connection string: it may hold a password.
"""

from __future__ import annotations

import difflib
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from anyseal.errors import ConfigurationError
from anyseal.hints import wrong_type

__all__ = ["Target", "parse"]

_DRIVERS = {
    "sqlite": "sqlite+pysqlite",
    "sqlite+pysqlite": "sqlite+pysqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mysql+pymysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "mariadb+pymysql": "mysql+pymysql",
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+]*)://")
_GO_ADDRESS = re.compile(r"(?:(tcp|unix)(?:\((.*)\))?)?", re.DOTALL)
_GO_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_GO_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

_TLS = {
    "true": "identity",
    "verify-identity": "identity",
    "verify-full": "identity",
    "verify-ca": "ca",
    "skip-verify": "encrypt",
    "required": "encrypt",
    "require": "encrypt",
    "preferred": "prefer",
    "prefer": "prefer",
    "false": "never",
    "disabled": "never",
    "disable": "never",
}
_INERT = frozenset(
    {
        "allowAllFiles",
        "allowCleartextPasswords",
        "allowNativePasswords",
        "allowOldPasswords",
        "charset",
        "checkConnLiveness",
        "clientFoundRows",
        "collation",
        "columnsWithAlias",
        "interpolateParams",
        "maxAllowedPacket",
        "multiStatements",
        "parseTime",
        "rejectReadOnly",
    }
)
"""Settings of other drivers that change nothing here."""

_TIMEOUTS = {
    "connect_timeout": "connect_timeout",
    "readTimeout": "read_timeout",
    "read_timeout": "read_timeout",
    "timeout": "connect_timeout",
    "writeTimeout": "write_timeout",
    "write_timeout": "write_timeout",
}
_SETTINGS = (
    frozenset(
        {
            "loc",
            "require_ssl",
            "ssl-mode",
            "ssl_ca",
            "ssl_cert",
            "ssl_key",
            "ssl_mode",
            "time_zone",
            "tls",
            "unix_socket",
        }
    )
    | _TIMEOUTS.keys()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A database and how to connect to it."""

    url: URL
    connect_args: Mapping[str, Any] = field(default_factory=dict, repr=False)
    time_zone: str | None = None
    """MySQL: the sessions' time zone, if the string names one."""


def _wrong(what: str) -> ConfigurationError:
    return ConfigurationError(f"connection string: {what}")


def _remedy(given: object) -> str:
    if hasattr(given, "sync_engine"):
        return "pass the URL, or create_engine(url): SqlMetastore awaits it in worker threads"
    if isinstance(given, os.PathLike):
        return "SqlMetastore(f'sqlite:///{path}')"
    return ""


def parse(text: str | URL, *, plain_sqlite_path: bool = False) -> Target:
    """Translate a connection string.

    Args:
        text: ``sqlite:///relative``, ``sqlite:////absolute``, ``sqlite://relative``,
            ``postgres[ql]://…``, ``mysql://…``, ``mariadb://…`` or the Go MySQL driver's
            ``user:password@tcp(host:port)/database?…``.
        plain_sqlite_path: All that follows ``sqlite://`` is the path, as other implementations
            of the key store have it: ``sqlite:///keys.db`` is then ``/keys.db``.

    Raises:
        ConfigurationError: It cannot be understood, or asks for what is not supported.
    """
    if isinstance(text, URL):
        return _from_url(text)
    if not isinstance(text, str):
        raise wrong_type("database", "a URL or a sync SQLAlchemy Engine", text, _remedy(text))
    scheme = _SCHEME.match(text)
    if scheme is None or (scheme[1].lower() not in _DRIVERS and "@" in text and "(" in text):
        return _from_go(text)
    if scheme[1].lower() not in _DRIVERS:
        raise _wrong(
            "its scheme must be sqlite, postgresql or mysql (drivers: pysqlite, psycopg, pymysql); "
            "leave an async driver out: SqlMetastore awaits a sync one in worker threads"
        )
    rest = text[scheme.end() :]
    if scheme[1].lower().startswith("sqlite") and (plain_sqlite_path or rest[:1] not in ("", "/")):
        if not rest or "?" in rest:
            raise _wrong("sqlite:// must be followed by a path and nothing else")
        return Target(url=URL.create("sqlite+pysqlite", database=rest))
    try:
        url = make_url(scheme[1].lower() + "://" + rest)
    except (ArgumentError, ValueError):
        raise _wrong("not a database URL") from None
    return _from_url(url)


def _from_url(url: URL) -> Target:
    driver = _DRIVERS.get(url.drivername)
    if driver is None:
        raise _wrong(f"the driver {url.drivername} is not supported; leave it out")
    url = url.set(drivername=driver)
    if not driver.startswith("mysql"):
        return Target(url=url)
    settings: dict[str, str] = {}
    for name, value in url.query.items():
        if not isinstance(value, str):
            raise _wrong(f"{name} is given twice")
        settings[name] = value
    return _mysql(url.set(query={}), settings)


def _from_go(text: str) -> Target:
    """``[user[:password]@][protocol[(address)]]/database[?name=value&…]``."""
    front, slash, back = text.rpartition("/")
    if not slash:
        raise _wrong(
            "neither a database URL (a file: sqlite:///keys.db) nor "
            "user:password@tcp(host:port)/database"
        )
    login, at, address = front.rpartition("@")
    matched = _GO_ADDRESS.fullmatch(address)
    if matched is None or (not at and not address):
        raise _wrong("its address must be tcp(host:port) or unix(path)")
    user, colon, password = login.partition(":")
    database, _, query = back.partition("?")
    settings: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in settings:
            raise _wrong(f"{name} is given twice")
        settings[name] = value
    host: str | None = "127.0.0.1"
    port: int | None = None
    if matched[1] == "unix":
        host = None
        settings["unix_socket"] = matched[2] or "/tmp/mysql.sock"  # noqa: S108 - the driver's own
    elif matched[2]:
        split = re.fullmatch(r"(\[[^\]]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?", matched[2])
        if split is None:
            raise _wrong("its address must be tcp(host:port) or unix(path)")
        host, port = split[1].strip("[]"), int(split[2]) if split[2] else None
    url = URL.create(
        "mysql+pymysql",
        username=user or None,
        password=password if colon else None,
        host=host,
        port=port,
        database=unquote(database) or None,
    )
    return _mysql(url, settings)


def _mysql(url: URL, settings: Mapping[str, str]) -> Target:
    arguments: dict[str, Any] = {}
    modes: list[str] = []
    for name, value in settings.items():
        if name in _INERT:
            continue
        if name not in _SETTINGS:
            near = difflib.get_close_matches(name, sorted(_SETTINGS | _INERT), 1)
            raise _wrong(
                f"unknown setting {name}" + (f" (did you mean {near[0]}?)" if near else "")
            )
        if name in ("tls", "ssl-mode", "ssl_mode"):
            if value.lower().replace("_", "-") not in _TLS:
                raise _wrong(f"{name} must be one of {', '.join(_TLS)}")
            modes.append(_TLS[value.lower().replace("_", "-")])
        elif name == "require_ssl":
            modes.append("identity" if value.lower() in ("true", "1") else "prefer")
        elif name == "loc":
            if value != "UTC":
                raise _wrong("loc must be UTC: the table's times are")
        elif name == "unix_socket":
            arguments[name] = value
        elif name in _TIMEOUTS:
            arguments[_TIMEOUTS[name]] = _seconds(name, value)
    if len(set(modes)) > 1:
        raise _wrong("two settings contradict each other on TLS")
    files = {name: settings[name] for name in ("ssl_ca", "ssl_cert", "ssl_key") if name in settings}
    mode = modes[0] if modes else "identity" if files else "prefer"
    if files and mode in ("never", "prefer"):
        raise _wrong("certificates are given, but TLS is not asked for")
    if mode == "never":
        arguments["ssl_disabled"] = True
    elif mode != "prefer":
        arguments["ssl"] = _tls_context(mode, files)
    zone = settings.get("time_zone")
    return Target(
        url=url, connect_args=arguments, time_zone=None if zone is None else zone.strip("'\"")
    )


def _seconds(name: str, value: str) -> float:
    matched = _GO_DURATION.fullmatch(value if value[-1:].isalpha() else value + "s")
    if matched is None:
        raise _wrong(f"{name} must be a time such as 5s")
    return float(matched[1]) * _GO_UNITS[matched[2]]


def _tls_context(mode: str, files: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=files.get("ssl_ca"))
        if "ssl_cert" in files:
            context.load_cert_chain(files["ssl_cert"], files.get("ssl_key"))
    except (OSError, ssl.SSLError) as exc:
        raise _wrong(f"a certificate cannot be read: {type(exc).__name__}") from None
    if mode != "identity":
        context.check_hostname = False
    if mode == "encrypt":
        context.verify_mode = ssl.CERT_NONE
    return context
