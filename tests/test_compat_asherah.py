"""anyseal.compat.asherah: existing code of the other library runs, and its contract holds."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import sqlite3
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import anyseal
import anyseal.compat.asherah as asherah
from anyseal import errors, offload
from anyseal.compat.asherah import config as compat_config
from anyseal.compat.asherah import hooks
from anyseal.compat.asherah.exceptions import translated

MASTER = "22" * 32
CONFIG = {
    "ServiceName": "svc",
    "ProductID": "prod",
    "Metastore": "memory",
    "KMS": "static",
    "StaticMasterKeyHex": MASTER,
}
SNAKE = {
    "service_name": "svc",
    "product_id": "prod",
    "metastore": "memory",
    "kms": "static",
    "static_master_key_hex": MASTER,
}
VARIABLES = [
    "SERVICE_NAME",
    "PRODUCT_ID",
    "Metastore",
    "METASTORE",
    "KMS",
    "STATIC_MASTER_KEY_HEX",
    "SQLITE_PATH",
    "DDB_TABLE",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "DDB_REGION_SUFFIX",
    "POSTGRES_URL",
    "MYSQL_URL",
    "MYSQL_TLS_MODE",
    "REPLICA_READ_CONSISTENCY",
    "REGION_SUFFIX",
    "KMS_KEY_ID",
    "REGION_MAP",
    "PREFERRED_REGION",
    "SECRETS_MANAGER_SECRET_ID",
    "EXPIRE_AFTER_SECS",
    "CREATE_DATE_PRECISION_SECS",
    "AWS_PROFILE",
    "REVOKE_CHECK_INTERVAL_SECS",
    "SESSION_CACHE_MAX_SIZE",
    "SESSION_CACHE_DURATION_SECS",
    "SESSION_CACHE",
    "SHARED_INTERMEDIATE_KEY_CACHE",
    "INTERMEDIATE_KEY_CACHE_MAX_SIZE",
    "RECOVERY_REGION_SUFFIXES",
    "SELF_HEAL_RECOVERED_KEYS",
    "CACHE_SYSTEM_KEYS",
    "CACHE_INTERMEDIATE_KEYS",
    "ASHERAH_POOL_MAX_OPEN",
    "ASHERAH_POOL_SIZE",
    "ASHERAH_POOL_MAX_IDLE",
    "VAULT_ADDR",
    "VAULT_TOKEN",
    "VAULT_TRANSIT_KEY",
]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting of this machine, and nothing left over for the next test."""
    before = dict(os.environ)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hooks, "_verbose", False)
    yield
    asherah.set_log_hook(None)
    asherah.set_metrics_hook(None)
    asherah.shutdown()
    os.environ.clear()  # setenv() writes past monkeypatch
    os.environ.update(before)


@pytest.fixture
def ready() -> None:
    """The module, set up."""
    asherah.setup(CONFIG)


@pytest.fixture
def factory() -> Iterator[asherah.SessionFactory]:
    """A factory in memory."""
    with asherah.SessionFactory(CONFIG) as found:
        yield found


@pytest.fixture
def session(factory: asherah.SessionFactory) -> asherah.Session:
    """One of its sessions."""
    return factory.get_session("user-42")


# ---- the module ----


def test_module_runs_the_quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first lines of everybody's code: key from the environment, settings in a dict."""
    monkeypatch.setenv("STATIC_MASTER_KEY_HEX", MASTER)
    asherah.setup({k: v for k, v in CONFIG.items() if k != "StaticMasterKeyHex"})
    row = asherah.encrypt_string("user-42", "secret")
    assert "secret" == asherah.decrypt_string("user-42", row)
    assert ["Key", "Data"] == list(json.loads(row))
    assert "_IK_user-42_svc_prod" == json.loads(row)["Key"]["ParentKeyMeta"]["KeyId"]
    asherah.shutdown()


def test_module_state_is_one(ready: None) -> None:
    """Set up once, shut down any number of times."""
    assert asherah.get_setup_status()
    with pytest.raises(
        RuntimeError, match=r"^Asherah already configured; call shutdown\(\) first$"
    ):
        asherah.setup(CONFIG)
    asherah.shutdown()
    asherah.shutdown()
    assert not asherah.get_setup_status()
    for call in (asherah.encrypt_bytes, asherah.decrypt_bytes):
        with pytest.raises(RuntimeError, match=r"^Asherah not configured; call setup\(\)$"):
            call("p", b"x")
    asherah.setup(CONFIG)
    assert asherah.get_setup_status()


def test_module_stays_down_when_setup_fails() -> None:
    """A failed setup must not count as one."""
    with pytest.raises(RuntimeError, match="service_name is missing"):
        asherah.setup({"KMS": "static", "Metastore": "memory", "ProductID": "p"})
    assert not asherah.get_setup_status()
    asherah.setup(CONFIG)


@pytest.mark.parametrize("config", [None, "{}", 3, [1]])
def test_setup_wants_a_mapping(config: Any) -> None:
    """Existing code expects a RuntimeError here, too."""
    with pytest.raises(RuntimeError, match="must be a mapping"):
        asherah.setup(config)
    with pytest.raises(RuntimeError, match="must be a mapping"):
        asherah.SessionFactory.from_config(config)


@pytest.mark.parametrize("data", [b"", b"x", b"\xff\x00", bytes(100_000)])
def test_module_round_trips_bytes(ready: None, data: bytes) -> None:
    """Empty data is real data."""
    row = asherah.encrypt_bytes("p", data)
    assert isinstance(row, str)
    assert data == asherah.decrypt_bytes("p", row)
    assert data == asherah.decrypt_bytes("p", row.encode())
    assert data == asherah.decrypt_bytes(partition_id="p", data_row_record=row)
    assert data == asherah.decrypt_bytes("p", asherah.encrypt_bytes("p", bytearray(data)))


@pytest.mark.parametrize("text", ["", "secret", "žluťoučký 🐎", "x" * 100_000])
def test_module_round_trips_text(ready: None, text: str) -> None:
    """As UTF-8, empty text included."""
    row = asherah.encrypt_string(partition_id="p", text=text)
    assert text == asherah.decrypt_string("p", row)
    assert text.encode() == asherah.decrypt_bytes("p", row)


async def _setup_and_shutdown() -> None:
    await asherah.setup_async(config=CONFIG)
    assert asherah.get_setup_status()
    row = await asherah.encrypt_string_async("p", "secret")
    assert "secret" == await asherah.decrypt_string_async("p", row)
    assert b"secret" == await asherah.decrypt_bytes_async("p", row.encode())
    row = await asherah.encrypt_bytes_async("p", b"")
    assert b"" == await asherah.decrypt_bytes_async("p", row)
    with pytest.raises(RuntimeError, match="already configured"):
        await asherah.setup_async(CONFIG)
    await asherah.shutdown_async()
    await asherah.shutdown_async()
    assert not asherah.get_setup_status()
    with pytest.raises(RuntimeError, match="not configured"):
        await asherah.encrypt_bytes_async("p", b"x")


@pytest.mark.anyio
async def test_module_is_awaitable_on_any_loop() -> None:
    """The other library's own needs asyncio; this one works on trio, too, and blocks no loop."""
    await _setup_and_shutdown()


# ---- input contract ----

NOT_STR: list[Any] = [None, 3, b"p", ["p"]]
CALLS = ["encrypt_bytes", "encrypt_string", "decrypt_bytes", "decrypt_string"]
NOT_DATA: dict[str, list[Any]] = {
    "encrypt_bytes": [None, "text", 3, [1, 2]],
    "encrypt_string": [None, b"x", 3],
    "decrypt_bytes": [None, 3, {}],
    "decrypt_string": [None, 3, {}],
}


def _good(call: str) -> Any:
    return b"x" if call == "encrypt_bytes" else "x"


@pytest.mark.anyio
@pytest.mark.parametrize("call", CALLS)
async def test_contract_refuses_wrong_types(call: str, tmp_path: Path) -> None:
    """TypeError before anything happens: even before it is asked whether setup() was called."""
    for partition in NOT_STR:
        with pytest.raises(TypeError, match="partition_id"):
            getattr(asherah, call)(partition, _good(call))
        with pytest.raises(TypeError, match="partition_id"):
            await getattr(asherah, call + "_async")(partition, _good(call))
    for data in NOT_DATA[call]:
        with pytest.raises(TypeError, match="argument"):
            getattr(asherah, call)("p", data)
        with pytest.raises(TypeError, match="argument"):
            await getattr(asherah, call + "_async")("p", data)


@pytest.mark.parametrize("call", CALLS)
def test_contract_stores_no_key_for_what_it_refuses(call: str, tmp_path: Path) -> None:
    """No row may be written under a degenerate partition, or for data that is none."""
    path = tmp_path / "keys.db"
    config = {**CONFIG, "Metastore": "rdbms", "ConnectionString": f"sqlite://{path}"}
    with pytest.warns(asherah.CompatWarning, match="KMS meant for testing"):
        asherah.setup(config)
    for bad in (None, ""):
        with pytest.raises((TypeError, RuntimeError)):
            getattr(asherah, call)(bad, _good(call))
    for data in NOT_DATA[call]:
        with pytest.raises(TypeError):
            getattr(asherah, call)("p", data)
    assert not path.exists()


@pytest.mark.anyio
@pytest.mark.parametrize("call", CALLS)
async def test_contract_refuses_the_empty_partition(ready: None, call: str) -> None:
    """It is a RuntimeError for existing code, and the ValueError that the guide promises."""
    for kind in (RuntimeError, ValueError, asherah.AsherahException):
        with pytest.raises(kind, match=r"^partition id cannot be empty$"):
            getattr(asherah, call)("", _good(call))
        with pytest.raises(kind, match=r"^partition id cannot be empty$"):
            await getattr(asherah, call + "_async")("", _good(call))


@pytest.mark.parametrize("partition", ["p" * 2000, "\ud800"])
def test_contract_refuses_impossible_partitions(ready: None, partition: str) -> None:
    """What no metastore could keep, either."""
    with pytest.raises(asherah.exceptions.PartitionError) as caught:
        asherah.encrypt_bytes(partition, b"x")
    assert isinstance(caught.value, RuntimeError | ValueError)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "row", ["", b"", "{}", "null", "[]", '{"Key":null,"Data":"AAAA"}', "x" * 100_000]
)
async def test_contract_refuses_what_is_no_record(ready: None, row: Any) -> None:
    """The empty ciphertext is an error, not the empty plaintext."""
    for kind in (RuntimeError, errors.FormatError, asherah.AsherahException):
        with pytest.raises(kind):
            asherah.decrypt_bytes("p", row)
        with pytest.raises(kind):
            asherah.decrypt_string("p", row)
        with pytest.raises(kind):
            await asherah.decrypt_bytes_async("p", row)
        with pytest.raises(kind):
            await asherah.decrypt_string_async("p", row)


def test_contract_refuses_bytes_that_are_no_text(session: asherah.Session) -> None:
    """A typed error without the data in it."""
    row = session.encrypt_bytes(b"\xff\xfe")
    with pytest.raises(errors.FormatError) as caught:
        session.decrypt_text(row)
    assert isinstance(caught.value, RuntimeError)
    with pytest.raises(UnicodeEncodeError):
        session.encrypt_text("\ud800")


# ---- factory and session ----


def test_factory_and_session_have_the_public_names() -> None:
    """What the other library's stubs list, and what only its guides use."""
    for name in [
        "setup",
        "setup_async",
        "shutdown",
        "shutdown_async",
        "get_setup_status",
        "setenv",
        "version",
        "encrypt_bytes",
        "encrypt_string",
        "decrypt_bytes",
        "decrypt_string",
        "encrypt_bytes_async",
        "encrypt_string_async",
        "decrypt_bytes_async",
        "decrypt_string_async",
        "set_log_hook",
        "set_metrics_hook",
        "set_log_hook_sync",
        "set_metrics_hook_sync",
        "Asherah",
        "AsherahConfig",
    ]:
        assert callable(getattr(asherah, name))
        assert name in asherah.__all__
    for name in ("from_env", "from_config", "get_session", "close", "__enter__", "__exit__"):
        assert callable(getattr(asherah.SessionFactory, name))
    for verb in ("encrypt", "decrypt"):
        for what in ("bytes", "text"):
            assert callable(getattr(asherah.Session, f"{verb}_{what}"))
            assert inspect.iscoroutinefunction(getattr(asherah.Session, f"{verb}_{what}_async"))
    assert anyseal.__version__ == asherah.version()
    assert isinstance(inspect.getattr_static(asherah.SessionFactory, "from_config"), staticmethod)
    assert isinstance(inspect.getattr_static(asherah.SessionFactory, "from_env"), staticmethod)


def test_factory_reads_the_environment() -> None:
    """The names and the defaults of the other library; ``Metastore`` in this very spelling."""
    with pytest.raises(RuntimeError, match="kms is missing"):
        asherah.SessionFactory()
    asherah.setenv({"KMS": "static", "STATIC_MASTER_KEY_HEX": MASTER})
    for make in (asherah.SessionFactory, asherah.SessionFactory.from_env):
        with make() as factory, factory.get_session("p") as session:
            row = session.encrypt_text("x")
            assert "_IK_p_service_product" in row
            assert "x" == session.decrypt_text(row)
    asherah.setenv({"SERVICE_NAME": "s", "PRODUCT_ID": "t", "REGION_SUFFIX": "eu"})
    with asherah.SessionFactory() as factory:
        assert "_IK_p_s_t_eu" in factory.get_session("p").encrypt_text("x")


def test_factory_reads_every_environment_variable(tmp_path: Path) -> None:
    """Each of them arrives where it belongs."""
    asherah.setenv(
        {
            "KMS": "static",
            "STATIC_MASTER_KEY_HEX": MASTER,
            "Metastore": "rdbms",
            "SQLITE_PATH": str(tmp_path / "keys.db"),
            "EXPIRE_AFTER_SECS": 1000,
            "CREATE_DATE_PRECISION_SECS": 10,
            "REVOKE_CHECK_INTERVAL_SECS": 100,
            "SESSION_CACHE_MAX_SIZE": 7,
            "SESSION_CACHE_DURATION_SECS": 8,
            "INTERMEDIATE_KEY_CACHE_MAX_SIZE": 9,
            "SHARED_INTERMEDIATE_KEY_CACHE": True,
            "ASHERAH_POOL_SIZE": 1,
        }
    )
    policy = compat_config.settings_from_env().policy()
    assert (1000, 10, 100) == (
        policy.expire_key_after,
        policy.create_date_precision,
        policy.revoke_check_interval,
    )
    assert (7, 8, 9) == (
        policy.session_cache_size,
        policy.session_cache_duration,
        policy.key_cache_size,
    )
    with (
        pytest.warns(asherah.CompatWarning, match="KMS meant for testing"),
        asherah.SessionFactory() as factory,
    ):
        factory.get_session("p").encrypt_text("x")
    with sqlite3.connect(tmp_path / "keys.db") as database:
        assert [(2,)] == database.execute("SELECT count(*) FROM encryption_key").fetchall()
    database.close()


def test_factory_names_variables_that_do_nothing() -> None:
    """The other library warns about these, too."""
    asherah.setenv({"KMS": "static", "STATIC_MASTER_KEY_HEX": MASTER, "CACHE_SYSTEM_KEYS": "0"})
    with pytest.warns(asherah.CompatWarning, match="CACHE_SYSTEM_KEYS has no effect"):
        asherah.SessionFactory().close()
    asherah.setenv({"CACHE_SYSTEM_KEYS": None, "SELF_HEAL_RECOVERED_KEYS": True})
    with pytest.warns(asherah.CompatWarning, match="SELF_HEAL_RECOVERED_KEYS has no effect"):
        asherah.SessionFactory().close()


def test_factory_accepts_both_spellings(session: asherah.Session) -> None:
    """PascalCase, snake_case and the older generation's snake_case name the same settings."""
    assert compat_config.settings_of(CONFIG) == compat_config.settings_of(SNAKE)
    table = {"DynamoDBTableName", "dynamodb_table_name", "dynamo_db_table_name"}
    for name in table:
        assert "t" == compat_config.settings_of({**CONFIG, name: "t"}).dynamodb_table_name
    with asherah.SessionFactory.from_config(SNAKE) as other:
        row = other.get_session("user-42").encrypt_text("x")
        assert json.loads(row)["Key"]["ParentKeyMeta"]["KeyId"] == "_IK_user-42_svc_prod"
    with pytest.raises(RuntimeError, match="set twice"):
        asherah.SessionFactory({**CONFIG, "service_name": "other"})
    with pytest.raises(ValueError, match="ServiceName must be a str, not int"):
        asherah.SessionFactory({**SNAKE, "service_name": 3})


ALL_SETTINGS: dict[str, Any] = {
    **CONFIG,
    "ConnectionString": "sqlite:///x.db",
    "SQLMetastoreDBType": "postgres",
    "ReplicaReadConsistency": "session",
    "DynamoDBEndpoint": "http://127.0.0.1:1",
    "DynamoDBRegion": "eu-west-1",
    "DynamoDBSigningRegion": "eu-west-1",
    "DynamoDBTableName": "t",
    "ExpireAfter": 1000,
    "CheckInterval": 10,
    "SessionCacheMaxSize": 5,
    "SessionCacheDuration": 5,
    "EnableSessionCaching": True,
    "RegionMap": {"eu-west-1": "arn:aws:kms:eu-west-1:1:key/a"},
    "PreferredRegion": "eu-west-1",
    "AwsProfileName": "p",
    "KmsKeyId": "k",
    "EnableRegionSuffix": False,
    "RecoveryRegionSuffixes": ["eu-west-2"],
    "SelfHealRecoveredKeys": False,
    "ConfigDriftForceRun": False,
    "ForceRunWithConfigDrift": False,
    "ConfigDriftForceUpdate": False,
    "ForceUpdateConfigDriftGuard": False,
    "Verbose": True,
    "DisableZeroCopy": True,
    "NullDataCheck": True,
    "EnableCanaries": True,
    "PoolMaxOpen": 0,
    "PoolMaxIdle": 2,
    "PoolMaxLifetime": 0,
    "PoolMaxIdleTime": 0,
    "SecretsManagerSecretId": "s",
    "VaultAddr": "http://127.0.0.1:1",
    "VaultToken": "t",
    "VaultAuthMethod": "token",
    "VaultAuthRole": "r",
    "VaultAuthMount": "m",
    "VaultApproleRoleId": "r",
    "VaultApproleSecretId": "s",
    "VaultClientCert": "c",
    "VaultClientKey": "k",
    "VaultK8sTokenPath": "p",
    "VaultTransitKey": "k",
    "VaultTransitMount": "m",
    "nothing": None,
}


def test_factory_knows_every_setting() -> None:
    """Not one of the other library's settings may be taken for a typing mistake."""
    known = {name: value for name, value in ALL_SETTINGS.items() if name != "nothing"}
    with asherah.SessionFactory(known) as factory:
        assert "x" == factory.get_session("p").decrypt_text(
            factory.get_session("p").encrypt_text("x")
        )
    snake = {
        "".join(f"_{c.lower()}" if c.isupper() else c for c in name).strip("_"): value
        for name, value in known.items()
    }
    assert compat_config.settings_of(known) == compat_config.settings_of(snake)


def test_factory_warns_about_unknown_settings() -> None:
    """The other library says nothing, and a misspelt ExpireAfter goes unnoticed for 90 days."""
    with pytest.warns(asherah.CompatWarning, match="did you mean 'ExpireAfter'") as caught:
        asherah.SessionFactory({**CONFIG, "ExpireAftr": 10}).close()
    assert __file__ == caught[0].filename
    with pytest.warns(asherah.CompatWarning, match="unknown setting 'Colour' is ignored"):
        asherah.setup({**CONFIG, "Colour": "blue"})
    with pytest.warns(asherah.CompatWarning, match="SelfHealRecoveredKeys has no effect"):
        asherah.SessionFactory({**CONFIG, "SelfHealRecoveredKeys": True}).close()
    with pytest.warns(asherah.CompatWarning, match="EnableRegionSuffix has no effect"):
        asherah.SessionFactory({**CONFIG, "EnableRegionSuffix": True}).close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", asherah.CompatWarning)
        asherah.SessionFactory({**CONFIG, "Colour": "blue"}).close()


def test_factory_accepts_ambiguous_names() -> None:
    """Existing services have underscores in their names; the id is what it was."""
    with asherah.SessionFactory({**CONFIG, "ServiceName": "my_svc"}) as factory:
        assert '"_IK_a_my_svc_prod"' in factory.get_session("a").encrypt_text("x")


def test_factory_adapts_what_the_other_library_takes_for_granted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its readings of settings that anyseal would refuse or read otherwise."""
    settings = compat_config.settings_of({**CONFIG, "ExpireAfter": 30})
    assert 30 == settings.policy().create_date_precision
    settings = compat_config.settings_of({**CONFIG, "PoolMaxOpen": 1})
    assert (1, 1) == (settings.pool_max_open, settings.pool_max_idle)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    regions = {"eu-west-1": "a", "us-east-1": "b"}
    settings = compat_config.settings_of(
        {
            **CONFIG,
            "Metastore": "dynamodb",
            "DynamoDBEndpoint": "localhost:8000",
            "EnableRegionSuffix": True,
            "RegionMap": regions,
        }
    )
    assert "https://localhost:8000" == settings.dynamodb_endpoint
    assert "eu-west-1" == settings.dynamodb_region
    assert ("eu-west-1", "us-east-1") == settings.recovery_region_suffixes
    with pytest.raises(RuntimeError, match="static_master_key_hex"):
        asherah.SessionFactory({k: v for k, v in CONFIG.items() if k != "StaticMasterKeyHex"})
    with pytest.raises(RuntimeError, match="unknown KMS 'zzz'"):
        asherah.SessionFactory({**CONFIG, "KMS": "zzz"})


def test_factory_opens_the_public_testing_kms() -> None:
    """For tests only, and it says so."""
    with (
        pytest.warns(RuntimeWarning, match="master key is public"),
        asherah.SessionFactory({**CONFIG, "KMS": "test-debug-static", "StaticMasterKeyHex": None}),
    ):
        pass


def test_factory_and_session_close(factory: asherah.SessionFactory) -> None:
    """Closing is idempotent, and final."""
    with factory.get_session("p") as session:
        row = session.encrypt_text("x")
    session.close()
    for call, argument in ((session.encrypt_bytes, b"x"), (session.decrypt_bytes, row)):
        with pytest.raises(RuntimeError, match="the session is closed"):
            call(argument)  # type: ignore[operator]
    with pytest.raises(RuntimeError, match="closed"):
        asyncio.run(session.encrypt_bytes_async(b"x"))
    with pytest.raises(RuntimeError, match="closed"):
        asyncio.run(session.decrypt_bytes_async(row))
    factory.close()
    factory.close()
    with pytest.raises(RuntimeError, match="factory is closed"):
        factory.get_session("p")


def test_session_refuses_wrong_types(factory: asherah.SessionFactory) -> None:
    """As the module does."""
    session = factory.get_session("p")
    for partition in NOT_STR:
        with pytest.raises(TypeError):
            factory.get_session(partition)
    with pytest.raises(ValueError, match="partition id cannot be empty"):
        factory.get_session("")
    for value in (None, 3):
        for name in ("encrypt_bytes", "encrypt_text", "decrypt_bytes", "decrypt_text"):
            with pytest.raises(TypeError, match="argument"):
                getattr(session, name)(value)
            with pytest.raises(TypeError, match="argument"):
                asyncio.run(getattr(session, name + "_async")(value))


def test_session_hides_what_it_holds(
    factory: asherah.SessionFactory, session: asherah.Session
) -> None:
    """Names in a repr end in logs; partitions may be personal data."""
    assert "<Session open>" == repr(session)
    assert "<SessionFactory _SK_svc_prod>" == repr(factory)


def test_sessions_are_isolated(factory: asherah.SessionFactory) -> None:
    """Another partition's record is an error that says so by its class."""
    row = factory.get_session("a").encrypt_text("x")
    for kind in (RuntimeError, errors.WrongPartitionError, LookupError):
        with pytest.raises(kind, match="another partition"):
            factory.get_session("b").decrypt_text(row)
        with pytest.raises(kind, match="another partition"):
            asyncio.run(factory.get_session("b").decrypt_text_async(row))


@pytest.mark.parametrize("name", ["decrypt_bytes", "decrypt_text"])
def test_wrong_partition_has_the_peers_words(factory: asherah.SessionFactory, name: str) -> None:
    """Programs look for them in the text; and an id, which may be anybody's, is one line of it."""
    row = factory.get_session("alice").encrypt_text("x")
    session = factory.get_session("bob")
    calls = [getattr(session, name), lambda it: asyncio.run(getattr(session, f"{name}_async")(it))]
    for call in calls:
        with pytest.raises(
            RuntimeError, match="invalid IK id=_IK_alice_svc_prod for part"
        ) as caught:
            call(row)
        assert isinstance(caught.value, errors.WrongPartitionError)
        assert "_IK_alice_svc_prod" == caught.value.key_id
        with pytest.raises(errors.WrongPartitionError) as caught:
            call(row.replace("_IK_alice", "_IK_" + r"\n\u001b" + "x" * 9000))
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 1000


@pytest.mark.anyio
@pytest.mark.parametrize("size", [0, 64, 65536, 65537, 1 << 20])
async def test_session_awaits_on_any_loop(size: int) -> None:
    """Cold and warm, small and large, bytes and text, all four of them."""
    factory = asherah.SessionFactory(CONFIG)
    session = factory.get_session("p")
    data = bytes(size)
    for _ in range(2):  # cold, warm
        row = await session.encrypt_bytes_async(data)
        assert data == await session.decrypt_bytes_async(row)
        assert data == await session.decrypt_bytes_async(row.encode())
        text = await session.encrypt_text_async("é" * size)
        assert "é" * size == await session.decrypt_text_async(text)
        assert data == session.decrypt_bytes(row)
    await offload.run(factory.close)


@pytest.mark.anyio
async def test_session_suspends_nowhere_when_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread, no event loop: the reason to be fast."""
    factory = asherah.SessionFactory(CONFIG)
    session = factory.get_session("p")
    row = await session.encrypt_text_async("x")

    def step(coroutine: Any) -> Any:
        with pytest.raises(StopIteration) as done:
            coroutine.send(None)
        return done.value.value

    assert "x" == step(session.decrypt_text_async(step(session.encrypt_text_async("x"))))
    spaced = json.dumps(json.loads(row), indent=1)
    assert b"x" == step(session.decrypt_bytes_async(spaced))
    asherah.set_metrics_hook(lambda event: None)
    assert b"x" == step(session.decrypt_bytes_async(step(session.encrypt_bytes_async(b"x"))))
    await offload.run(factory.close)


def test_sessions_of_many_threads(factory: asherah.SessionFactory) -> None:
    """Every worker of a web server uses the one factory, with the session cache overflowing."""
    small = asherah.SessionFactory({**CONFIG, "SessionCacheMaxSize": 3})
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(200):
                session = small.get_session(f"p{(number * 7 + turn) % 11}")
                assert "x" == session.decrypt_text(session.encrypt_text("x"))
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    small.close()
    assert [] == failures


# ---- errors ----


@pytest.mark.parametrize("name", [n for n in errors.__all__ if n != "AnysealError"])
def test_errors_keep_their_meaning(name: str) -> None:
    """RuntimeError for existing code, the anyseal error for new code; nothing gets lost."""
    kind = getattr(errors, name)
    cause = OSError("no route")
    original = kind("what happened")
    original.retryable = True
    original.__cause__ = cause
    found = translated(original)
    assert isinstance(found, RuntimeError)
    assert isinstance(found, asherah.AsherahException)
    if kind.__name__ in asherah.exceptions.__all__:
        assert isinstance(found, kind)
    assert str(found) == str(original)
    assert found.retryable
    assert cause is found.__cause__
    assert translated(found) is found


def test_errors_keep_what_the_metastore_said(tmp_path: Path) -> None:
    """``retryable`` and ``__cause__`` are what a caller decides by."""
    path = tmp_path / "nowhere" / "keys.db"
    config = {**CONFIG, "Metastore": "sqlite", "ConnectionString": f"sqlite://{path}"}
    with pytest.warns(asherah.CompatWarning):
        factory = asherah.SessionFactory(config)
    with pytest.raises(errors.MetastoreError) as caught:
        factory.get_session("p").encrypt_text("x")
    assert isinstance(caught.value, RuntimeError)
    assert caught.value.__cause__ is not None
    assert not isinstance(caught.value.__cause__, errors.AnysealError)
    with pytest.raises(RuntimeError):
        asyncio.run(factory.get_session("p").encrypt_text_async("x"))
    factory.close()


def test_errors_say_that_a_record_was_tampered_with(session: asherah.Session) -> None:
    """Warm and cold, sync and async."""
    row = json.loads(session.encrypt_bytes(b"x" * 30))
    row["Data"] = "A" * len(row["Data"])
    for text in (json.dumps(row), json.dumps(row, separators=(",", ":"))):
        for kind in (RuntimeError, errors.DecryptionError):
            with pytest.raises(kind, match=r"^does not verify$"):
                session.decrypt_bytes(text)
            with pytest.raises(kind, match=r"^does not verify$"):
                asyncio.run(session.decrypt_bytes_async(text))


# ---- hooks ----


def test_metrics_hook_sees_operations_and_caches(factory: asherah.SessionFactory) -> None:
    """In the other library's shape, from factories that existed before it was set, too."""
    events: list[dict[str, Any]] = []
    asherah.set_metrics_hook(events.append)
    session = factory.get_session("p")
    session.decrypt_text(session.encrypt_text("x"))
    factory.get_session("p")
    timings = [
        event for event in events if event["type"] in ("encrypt", "decrypt", "store", "load")
    ]
    caches = [event for event in events if event not in timings]
    assert {"encrypt", "decrypt", "store", "load"} == {event["type"] for event in timings}
    for event in timings:
        assert {"type", "duration_ns"} == set(event)
        assert event["duration_ns"] > 0
    for event in caches:
        assert {"type", "name"} == set(event)
    assert {"type": "cache_miss", "name": "intermediate-key"} in caches
    assert {"type": "cache_miss", "name": "session"} in caches
    assert {"type": "cache_hit", "name": "session"} in caches
    asherah.set_metrics_hook(None)
    events.clear()
    session.encrypt_text("x")
    assert [] == events
    asherah.set_metrics_hook_sync(events.append)
    with asherah.SessionFactory(CONFIG) as other:
        other.get_session("p").encrypt_text("x")
    asherah.set_metrics_hook_sync()
    assert events


def test_metrics_hook_may_raise(session: asherah.Session, caplog: pytest.LogCaptureFixture) -> None:
    """It never breaks the call, and is reported once."""

    def broken(event: Any) -> None:
        raise KeyError("secret")

    asherah.set_metrics_hook(broken)
    for _ in range(3):
        assert "x" == session.decrypt_text(session.encrypt_text("x"))
    assert ["the metrics hook raised KeyError; said once"] == caplog.messages


def test_log_hook_sees_events() -> None:
    """Level, message and target, from the loggers of anyseal."""
    events: list[dict[str, Any]] = []
    asherah.set_log_hook(events.append)
    log = logging.getLogger("anyseal.kms.aws")
    for level in (5, 10, 20, 30, 40, 50):
        log.log(level, "level %d", level)
    assert [
        ("info", "level 20"),
        ("warn", "level 30"),
        ("error", "level 40"),
        ("error", "level 50"),
    ] == [(event["level"], event["message"]) for event in events]
    assert {"level", "message", "target"} == set(events[0])
    assert "anyseal.kms.aws" == events[0]["target"]
    events.clear()
    asherah.setup(CONFIG)
    assert ["configured: metastore memory, KMS static"] == [event["message"] for event in events]
    asherah.set_log_hook(None)
    log.error("not seen")
    assert 1 == len(events)
    assert logging.NOTSET == logging.getLogger("anyseal").level


def test_log_hook_respects_a_level_that_was_set() -> None:
    """Whoever configured logging meant it."""
    top = logging.getLogger("anyseal")
    events: list[Any] = []
    top.setLevel(logging.ERROR)
    try:
        asherah.set_log_hook_sync(events.append)
        asherah.setup(CONFIG)
        asherah.set_log_hook_sync(None)
        assert logging.ERROR == top.level
    finally:
        top.setLevel(logging.NOTSET)
    assert [] == events


def test_log_hook_sees_details_when_verbose() -> None:
    """``Verbose`` opens the DEBUG level to the hook."""
    events: list[Any] = []
    asherah.set_log_hook(events.append)
    logging.getLogger("anyseal.x").debug("no")
    asherah.setup({**CONFIG, "Verbose": True})
    logging.getLogger("anyseal.x").debug("yes")
    assert ["yes"] == [event["message"] for event in events if event["level"] == "debug"]


def test_log_hook_may_raise_and_may_log(caplog: pytest.LogCaptureFixture) -> None:
    """Neither ends in a loop, nor in the caller's lap."""
    calls = []

    def broken(event: Any) -> None:
        calls.append(event)
        logging.getLogger("anyseal.hook").error("from within")
        raise ValueError("secret")

    asherah.set_log_hook(broken)
    for _ in range(3):
        logging.getLogger("anyseal.x").warning("outer")
    assert 3 == len(calls)
    assert 1 == caplog.messages.count("the log hook raised ValueError; said once")


def test_hooks_must_be_callable() -> None:
    """At once, and not when it is too late."""
    for set_hook in (asherah.set_log_hook, asherah.set_metrics_hook):
        with pytest.raises(TypeError, match="callable or None"):
            set_hook(3)  # type: ignore[operator]


# ---- setenv ----


def test_setenv_renders_values_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """None deletes; everything that is not a str is written as JSON."""
    for name in ("COMPAT_A", "COMPAT_B", "COMPAT_C", "COMPAT_D"):
        monkeypatch.setenv(name, "old")
    asherah.setenv({"COMPAT_A": True, "COMPAT_B": None, "COMPAT_C": "x", "COMPAT_D": {"r": "arn"}})
    assert ("true", None, "x", '{"r": "arn"}') == tuple(
        os.environ.get(f"COMPAT_{name}") for name in "ABCD"
    )
    asherah.setenv('{"COMPAT_A": null, "COMPAT_C": 3}')
    assert "COMPAT_A" not in os.environ
    assert "3" == os.environ["COMPAT_C"]
    for bad in (None, [1], "nonsense", "[]", {3: "x"}):
        with pytest.raises(RuntimeError, match="must be a mapping"):
            asherah.setenv(bad)


# ---- the older interface ----


def _older(**change: Any) -> asherah.AsherahConfig:
    settings: dict[str, Any] = {
        "kms": "static",
        "metastore": "memory",
        "service_name": "svc",
        "product_id": "prod",
    }
    return asherah.AsherahConfig(**{**settings, **change})


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> Iterator[asherah.Asherah]:
    """An Asherah that is set up."""
    monkeypatch.setenv("STATIC_MASTER_KEY_HEX", MASTER)
    found = asherah.Asherah()
    found.setup(_older())
    yield found
    found.shutdown()


@pytest.mark.parametrize("data", [b"", b"x", bytearray(b"x"), memoryview(b"xy"), "", "é"])
def test_older_round_trips(older: asherah.Asherah, data: Any) -> None:
    """Bytes and text go in, a bytearray comes out."""
    row = older.encrypt("p", data)
    found = older.decrypt("p", row)
    assert isinstance(row, str)
    assert isinstance(found, bytearray)
    assert (data.encode() if isinstance(data, str) else bytes(data)) == bytes(found)


def test_older_refuses(older: asherah.Asherah) -> None:
    """AsherahException for everything but wrong types."""
    row = older.encrypt("p", "x")
    with pytest.raises(TypeError):
        older.encrypt(None, "x")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        older.encrypt("p", None)
    with pytest.raises(TypeError):
        older.decrypt("p", None)  # type: ignore[arg-type]
    for partition, record in (("", row), ("q", row), ("p", ""), ("p", "{}")):
        with pytest.raises(asherah.exceptions.AsherahException):
            older.decrypt(partition, record)
    with pytest.raises(asherah.AsherahException, match="already configured"):
        older.setup(_older())
    older.shutdown()
    older.shutdown()
    with pytest.raises(asherah.AsherahException, match="not configured"):
        older.encrypt("p", "x")
    with pytest.raises(asherah.AsherahException, match="ServiceName must be a str"):
        older.setup(_older(service_name=3))
    older.setup(_older())


def test_older_static_is_the_published_key() -> None:
    """It knows no other, and its data must open."""
    older = asherah.Asherah()
    with pytest.warns(RuntimeWarning, match="master key is public"):
        older.setup(_older(kms=asherah.types.KMSType.STATIC))
    row = older.encrypt("p", "x")
    older.shutdown()
    assert "_IK_p_svc_prod" in row


def test_older_config_has_the_public_names() -> None:
    """Its fields in their order, its JSON as it was."""
    config = _older(
        kms=asherah.types.KMSType.AWS,
        metastore=asherah.types.MetastoreType.DYNAMODB,
        dynamo_db_endpoint="http://127.0.0.1:1",
        dynamo_db_region="eu-west-1",
        dynamo_db_table_name="t",
        region_map={"eu-west-1": "arn:aws:kms:eu-west-1:1:key/a"},
        preferred_region="eu-west-1",
        expire_after=1000,
        replica_read_consistency=asherah.types.ReadConsistencyType.SESSION,
    )
    assert (
        config.to_json().items()
        >= {
            "KMS": "aws",
            "Metastore": "dynamodb",
            "ServiceName": "svc",
            "ProductID": "prod",
            "DynamoDBEndpoint": "http://127.0.0.1:1",
            "DynamoDBRegion": "eu-west-1",
            "DynamoDBTableName": "t",
            "EnableSessionCaching": False,
            "SessionCacheMaxSize": None,
            "ReplicaReadConsistency": "session",
        }.items()
    )
    settings = compat_config.settings_of(config)
    assert ("t", "eu-west-1", 1000) == (
        settings.dynamodb_table_name,
        settings.dynamodb_region,
        settings.expire_after,
    )
    assert 0 == settings.policy().session_cache_size
