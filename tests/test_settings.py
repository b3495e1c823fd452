"""Settings: every name in every spelling, and an error for whatever is not understood."""

from __future__ import annotations

import dataclasses
import json
import traceback
from pathlib import Path
from typing import Any

import pytest

from anyseal import ConfigurationError, CryptoPolicy, SessionFactory, sync
from anyseal.kms.static import StaticKms
from anyseal.metastore.memory import MemoryMetastore
from anyseal.settings import SessionSettings, setting_names
from support import KEY_HEX, run_python, said

FIELDS = {item.name: item for item in dataclasses.fields(SessionSettings)}
LEAST: dict[str, Any] = {
    "service_name": "pay",
    "product_id": "eu",
    "metastore": "memory",
    "kms": "static",
    "static_master_key_hex": KEY_HEX,
}
SECRETS = (
    "connection_string",
    "mysql_url",
    "postgres_url",
    "static_master_key_hex",
    "vault_approle_secret_id",
    "vault_token",
)


def _sample(name: str) -> tuple[Any, str, Any]:
    """A value of the right type, the same as text, and what is kept."""
    kind = FIELDS[name].metadata["read"].__name__
    return {
        "_text": ("some text", "some text", "some text"),
        "_flag": (True, "true", True),
        "_number": (12.5, "12.5", 12.5),
        "_count": (12, "12", 12),
        "_mapping": ({"a": "b"}, '{"a": "b"}', {"a": "b"}),
        "_names": (["a", "b"], "a, b", ("a", "b")),
    }[kind]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine may leak into a test."""
    for item in FIELDS.values():
        for name in item.metadata["env"]:
            monkeypatch.delenv(name, raising=False)


def test_settings_names_are_unique() -> None:
    """Two settings under one name would set one of them only."""
    names = setting_names()
    assert set(FIELDS) == set(names.values())
    assert 2 * len(FIELDS) == len(names)
    variables = [name for item in FIELDS.values() for name in item.metadata["env"]]
    assert len(variables) == len(set(variables))


@pytest.mark.parametrize("field", FIELDS)
def test_settings_accept_both_spellings(field: str) -> None:
    """Existing configuration files work, and Python code need not shout."""
    given, text, kept = _sample(field)
    for name in (field, FIELDS[field].metadata["pascal"]):
        for value in (given, text):
            rest = {k: v for k, v in LEAST.items() if k != field}
            settings = SessionSettings.from_mapping({**rest, name: value})
            assert kept == getattr(settings, field)
        rest = SessionSettings.from_mapping({**LEAST, name: None} if field not in LEAST else LEAST)
        if field not in LEAST:
            assert FIELDS[field].default == getattr(rest, field), "None is: not set"


@pytest.mark.parametrize("field", [name for name in FIELDS if FIELDS[name].metadata["env"]])
def test_settings_come_from_the_environment(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers are configured so; an empty variable is none."""
    _, text, kept = _sample(field)
    for name in FIELDS[field].metadata["env"]:
        with monkeypatch.context() as patch:
            patch.setenv(name, text)
            assert kept == getattr(SessionSettings.from_env(), field)
            patch.setenv(name, "")
            assert FIELDS[field].default == getattr(SessionSettings.from_env(), field)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("ServiceNam", "ServiceName"),
        ("servicename", "service_name"),
        ("SessionCacheSize", "SessionCacheMaxSize"),
        ("vault_adress", "vault_addr"),
        ("Completely Different", None),
        (7, None),
    ],
)
def test_settings_unknown_name_tells_the_nearest(wrong: Any, near: str | None) -> None:
    """A typo that is ignored is a setting that is not in force."""
    with pytest.raises(ConfigurationError) as caught:
        SessionSettings.from_mapping({**LEAST, wrong: "x"})
    assert repr(wrong) in str(caught.value)
    assert ("did you mean" in str(caught.value)) == (near is not None)
    assert near is None or repr(near) in str(caught.value)


WRONG: dict[str, list[Any]] = {
    "_text": [1, True, b"x", ["x"]],
    "_flag": [1, "maybe", 0.0, []],
    "_number": [True, "soon", [1], "nan", "inf", float("nan")],
    "_count": [1.5, "1.5", "many", "nan", "inf", True, float("inf")],
    "_mapping": ["{", "[]", [], {"a": 1}, "7"],
    "_names": [7, [1], {"a": "b"}],
}


@pytest.mark.parametrize("field", FIELDS)
def test_settings_of_a_wrong_type_are_named_without_their_value(field: str) -> None:
    """The message must help, and must not print a secret that was put in the wrong place."""
    for value in WRONG[FIELDS[field].metadata["read"].__name__]:
        with pytest.raises(ConfigurationError) as caught:
            SessionSettings.from_mapping({**LEAST, field: value})
        assert str(caught.value).startswith(f"{field} must be ")
        if isinstance(value, str) and len(value) > 3:
            assert value not in str(caught.value)


def test_settings_once_only() -> None:
    """Two spellings of one setting, or two lines of one name: which one would hold?"""
    with pytest.raises(ConfigurationError, match="twice"):
        SessionSettings.from_mapping({**LEAST, "KMS": "static"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"KMS": "static", "KMS": "aws"}'),
        ("a.json", "{"),
        ("a.json", "[]"),
        ("a.json", "\xff"),
        ("a.json", "[" * 100_000),
        ("a.toml", "KMS = 'static'\nKMS = 'aws'"),
        ("a.toml", '{"KMS": "static"}'),
        ("missing.json", None),
    ],
)
def test_settings_bad_files_are_configuration_errors(
    tmp_path: Path, name: str, text: str | None
) -> None:
    """With the file's name, so that one knows which to mend."""
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError, match=name):
        SessionSettings.from_file(path)


def test_settings_files_say_the_same_in_both_formats(tmp_path: Path) -> None:
    """JSON as others have it, TOML for people."""
    values = {"ServiceName": "pay", "check_interval": 60, "EnableRegionSuffix": True}
    (tmp_path / "a.json").write_text(json.dumps(values))
    (tmp_path / "a.toml").write_text(
        "ServiceName = 'pay'\ncheck_interval = 60\nEnableRegionSuffix = true\n"
    )
    expected = SessionSettings.from_mapping(values)
    assert expected == SessionSettings.from_file(tmp_path / "a.json")
    assert expected == SessionSettings.from_file(str(tmp_path / "a.toml"))


def test_settings_become_a_policy() -> None:
    """Each number must arrive where it belongs; what is not set keeps its default."""
    assert CryptoPolicy() == SessionSettings.from_mapping(LEAST).policy()
    settings = SessionSettings.from_mapping(
        {
            **LEAST,
            "ExpireAfter": 1000,
            "CheckInterval": 20.5,
            "CreateDatePrecision": 3,
            "SessionCacheMaxSize": 4,
            "SessionCacheDuration": 5,
            "IntermediateKeyCacheMaxSize": 6,
        }
    )
    assert settings.policy() == CryptoPolicy(
        expire_key_after=1000,
        revoke_check_interval=20.5,
        create_date_precision=3,
        session_cache_size=4,
        session_cache_duration=5,
        key_cache_size=6,
    )
    off = dataclasses.replace(settings, enable_session_caching=False)
    assert 0 == off.policy().session_cache_size
    with pytest.raises(ConfigurationError, match="revoke_check_interval"):
        SessionSettings.from_mapping({**LEAST, "CheckInterval": -1}).policy()


@pytest.mark.parametrize("missing", ["service_name", "product_id", "metastore", "kms"])
def test_settings_missing_ones_are_named(missing: str) -> None:
    """There is no default that would be right for any of these."""
    for value in (None, ""):
        with pytest.raises(ConfigurationError, match=missing):
            SessionSettings.from_mapping({**LEAST, missing: value}).hierarchy()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kms": "gcp"}, "unknown KMS 'gcp': one of static"),
        ({"metastore": "etcd"}, "unknown metastore 'etcd': one of memory"),
        ({"static_master_key_hex": None}, "static_master_key_hex"),
        ({"static_master_key_hex": "abc"}, "64"),
        ({"kms": "aws"}, "kms_key_id"),
        ({"kms": "secrets-manager"}, "secrets_manager_secret_id"),
        ({"kms": "vault"}, "vault_token"),
        ({"kms": "vault", "vault_token": "t", "vault_addr": "http://v"}, "vault_transit_key"),
        ({"kms": "vault", "vault_auth_method": "approle"}, "vault_approle_role_id"),
        ({"kms": "vault", "vault_auth_method": "kubernetes"}, "vault_auth_role"),
        ({"kms": "vault", "vault_auth_method": "cert"}, "vault_client_cert"),
        ({"kms": "vault", "vault_auth_method": "magic"}, "magic"),
        ({"metastore": "sqlite"}, "sqlite_path"),
        ({"metastore": "rdbms"}, "connection_string"),
        ({"metastore": "postgres", "mysql_url": "mysql://h/d"}, "connection_string"),
        ({"metastore": "rdbms", "mysql_url": "mysql://h/d", "sqlite_path": "x"}, "several"),
        ({"metastore": "rdbms", "connection_string": "redis://h"}, "scheme"),
        ({"metastore": "sqlite", "sqlite_path": "x.db"}, "testing"),
        ({"enable_region_suffix": True}, "region"),
        ({"service_name": "a_b"}, "underscore"),
        ({"metastore": "mysql", "mysql_url": "mysql://h/d", "mysql_tls_mode": "no idea"}, "tls"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_settings_wiring_tells_what_is_wrong(changes: dict[str, Any], told: str) -> None:
    """At start-up, by name, and without the secrets."""
    with pytest.raises(ConfigurationError, match=told) as caught:
        SessionSettings.from_mapping({**LEAST, **changes}).hierarchy()
    assert KEY_HEX not in "".join(traceback.format_exception(caught.value))


def test_settings_mysql_tls_mode_is_in_force() -> None:
    """A setting that asks for TLS and is ignored sends keys in the clear."""
    for url in ("mysql://u:p@h/d", "u:p@tcp(h:3306)/d", "mysql://u:p@h/d?charset=utf8mb4"):
        with pytest.raises(ConfigurationError, match="contradict"):
            SessionSettings.from_mapping(
                {
                    **LEAST,
                    "metastore": "mysql",
                    "mysql_url": url + ("&" if "?" in url else "?") + "ssl-mode=disabled",
                    "mysql_tls_mode": "verify-identity",
                    "allow_testing_kms": True,
                }
            ).hierarchy()


def test_settings_named_database_is_taken_of_several() -> None:
    """An environment often has both URLs."""
    settings = {
        **LEAST,
        "postgres_url": "postgres://u:p@h/pg",
        "mysql_url": "mysql://u:p@h/my",
        "allow_testing_kms": True,
    }
    for name, database in (("postgres", "pg"), ("mysql", "my")):
        made = SessionSettings.from_mapping({**settings, "metastore": name}).hierarchy()
        assert f"database={database!r}" in repr(made.metastore)


@pytest.mark.parametrize("name", SECRETS)
def test_settings_do_not_show_secrets(name: str) -> None:
    """Settings are logged at start-up by somebody, some day."""
    secret = "postgres://user:hunter2@host/db" if "url" in name else "hunter2" * 5
    settings = SessionSettings.from_mapping({**LEAST, name: secret})
    assert "hunter2" not in repr(settings) + str(settings) + f"{settings}"
    with pytest.raises(ConfigurationError) as caught:
        SessionSettings.from_mapping({**LEAST, name: [secret]})
    assert "hunter2" not in str(caught.value)


@pytest.mark.anyio
async def test_settings_memory_end_to_end() -> None:
    """The least that works: what a test suite uses."""
    async with SessionFactory.from_config(LEAST) as factory:
        assert isinstance(factory.hierarchy.metastore, MemoryMetastore)
        assert isinstance(factory.hierarchy.kms, StaticKms)
        session = factory.session("u1")
        assert b"data" == await session.decrypt(await session.encrypt(b"data"))


@pytest.mark.parametrize("form", ["path", "connection string", "rdbms"])
def test_settings_sqlite_end_to_end(form: str, tmp_path: Path) -> None:
    """The file must be where it was said, and a second process must read the first one's rows."""
    path = tmp_path / "keys.db"
    where: dict[str, Any] = {
        "path": {"metastore": "sqlite", "sqlite_path": str(path)},
        "connection string": {"metastore": "sqlite", "connection_string": f"sqlite://{path}"},
        "rdbms": {"metastore": "rdbms", "connection_string": f"sqlite://{path}"},
    }[form]
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({**LEAST, **where, "AllowTestingKms": True}))
    with sync.SessionFactory.from_config(file) as factory:
        row = factory.session("u1").encrypt(b"data")
    assert path.exists()
    code = """
        import sys
        from anyseal import sync
        with sync.SessionFactory.from_config(sys.argv[1]) as factory:
            print(factory.session("u1").decrypt(sys.argv[2]).decode())
    """
    assert ["data"] == said(run_python(code, str(file), row))


def test_settings_environment_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but variables, as in a container."""
    for name, value in {
        "SERVICE_NAME": "pay",
        "PRODUCT_ID": "eu",
        "METASTORE": "memory",
        "KMS": "static",
        "STATIC_MASTER_KEY_HEX": KEY_HEX,
        "SESSION_CACHE_MAX_SIZE": "7",
    }.items():
        monkeypatch.setenv(name, value)
    with sync.SessionFactory.from_env() as factory:
        assert 7 == factory.hierarchy.policy.session_cache_size
        session = factory.session("u1")
        assert b"data" == session.decrypt(session.encrypt(b"data"))


def test_settings_debug_kms_warns() -> None:
    """Its key is public: it must not be used by accident."""
    with pytest.warns(RuntimeWarning, match="public"):
        SessionSettings.from_mapping(
            {**LEAST, "kms": "test-debug-static", "static_master_key_hex": None}
        ).hierarchy()


def test_settings_must_be_a_mapping() -> None:
    """A list or a str of JSON is another function's."""
    with pytest.raises(TypeError):
        SessionSettings.from_mapping([("KMS", "static")])  # type: ignore[arg-type]
