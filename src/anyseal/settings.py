"""Settings of a session factory: from a mapping, a JSON or TOML file, or the environment.

Names are the public ones of the Asherah family, in PascalCase or snake_case. An unknown setting is
an error that names the nearest known one; so is a value of the wrong type.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from anyseal.config import CryptoPolicy
from anyseal.errors import ConfigurationError
from anyseal.hints import as_path
from anyseal.keyring.hierarchy import KeyHierarchy
from anyseal.ports import MetricsHook
from anyseal.wiring import kms_of, metastore_of

__all__ = ["SessionSettings", "setting_names"]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a str")
    return value


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "1", "yes", "on"):
        return True
    if isinstance(value, str) and value.strip().lower() in ("false", "0", "no", "off", ""):
        return False
    raise TypeError("true or false")


def _number(value: Any) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise TypeError("a number") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e15:
        raise TypeError("a number")
    return float(value)


def _count(value: Any) -> int:
    number = _number(value)
    if number != int(number):
        raise TypeError("a whole number")
    return int(number)


def _mapping(value: Any) -> dict[str, str]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise TypeError("a mapping of str to str") from None
    if not isinstance(value, Mapping) or not all(
        isinstance(k, str) and isinstance(v, str) for k, v in value.items()
    ):
        raise TypeError("a mapping of str to str")
    return dict(value)


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
        return tuple(value)
    raise TypeError("a list of str")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object's members; TOML refuses doubles by itself."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} is set twice")
        found[name] = value
    return found


def _setting(
    pascal: str, read: Callable[[Any], Any], default: Any = None, *, env: tuple[str, ...] = ()
) -> Any:
    """A field with its PascalCase name, its reader and its environment variables."""
    return field(default=default, metadata={"pascal": pascal, "read": read, "env": env})


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """What a session factory can be told. Secrets are not shown by ``repr``.

    Raises:
        ConfigurationError: A setting is missing, malformed or contradicts another.
    """

    service_name: str = _setting("ServiceName", _text, env=("SERVICE_NAME",))
    product_id: str = _setting("ProductID", _text, env=("PRODUCT_ID",))
    metastore: str = _setting("Metastore", _text, env=("Metastore", "METASTORE"))
    kms: str = _setting("KMS", _text, env=("KMS",))

    connection_string: str | None = _setting("ConnectionString", _text)
    sql_metastore_db_type: str | None = _setting("SQLMetastoreDBType", _text)
    sqlite_path: str | None = _setting("SQLitePath", _text, env=("SQLITE_PATH",))
    postgres_url: str | None = _setting("PostgresUrl", _text, env=("POSTGRES_URL",))
    mysql_url: str | None = _setting("MysqlUrl", _text, env=("MYSQL_URL",))
    mysql_tls_mode: str | None = _setting("MysqlTlsMode", _text, env=("MYSQL_TLS_MODE",))
    replica_read_consistency: str | None = _setting(
        "ReplicaReadConsistency", _text, env=("REPLICA_READ_CONSISTENCY",)
    )
    pool_max_open: int | None = _setting(
        "PoolMaxOpen", _count, env=("ASHERAH_POOL_MAX_OPEN", "ASHERAH_POOL_SIZE")
    )
    pool_max_idle: int | None = _setting("PoolMaxIdle", _count, env=("ASHERAH_POOL_MAX_IDLE",))
    pool_max_lifetime: float | None = _setting(
        "PoolMaxLifetime", _number, env=("ASHERAH_POOL_MAX_LIFETIME",)
    )
    pool_max_idle_time: float | None = _setting(
        "PoolMaxIdleTime", _number, env=("ASHERAH_POOL_MAX_IDLE_TIME",)
    )

    dynamodb_endpoint: str | None = _setting("DynamoDBEndpoint", _text, env=("AWS_ENDPOINT_URL",))
    dynamodb_region: str | None = _setting("DynamoDBRegion", _text, env=("AWS_REGION",))
    dynamodb_signing_region: str | None = _setting("DynamoDBSigningRegion", _text)
    dynamodb_table_name: str | None = _setting("DynamoDBTableName", _text, env=("DDB_TABLE",))
    enable_region_suffix: bool = _setting(
        "EnableRegionSuffix", _flag, False, env=("DDB_REGION_SUFFIX",)
    )
    region_suffix: str | None = _setting("RegionSuffix", _text, env=("REGION_SUFFIX",))
    recovery_region_suffixes: tuple[str, ...] = _setting(
        "RecoveryRegionSuffixes", _names, (), env=("RECOVERY_REGION_SUFFIXES",)
    )

    static_master_key_hex: str | None = _setting(
        "StaticMasterKeyHex", _text, env=("STATIC_MASTER_KEY_HEX",)
    )
    kms_file: str | None = _setting("KmsFile", _text, env=("KMS_FILE",))
    kms_keys: str | None = _setting("KmsKeys", _text, env=("KMS_KEYS",))
    region_map: Mapping[str, str] | None = _setting("RegionMap", _mapping, env=("REGION_MAP",))
    preferred_region: str | None = _setting("PreferredRegion", _text, env=("PREFERRED_REGION",))
    kms_key_id: str | None = _setting("KmsKeyId", _text, env=("KMS_KEY_ID",))
    aws_profile_name: str | None = _setting("AwsProfileName", _text, env=("AWS_PROFILE",))
    secrets_manager_secret_id: str | None = _setting(
        "SecretsManagerSecretId", _text, env=("SECRETS_MANAGER_SECRET_ID",)
    )
    vault_addr: str | None = _setting("VaultAddr", _text, env=("VAULT_ADDR",))
    vault_token: str | None = _setting("VaultToken", _text, env=("VAULT_TOKEN",))
    vault_auth_method: str | None = _setting("VaultAuthMethod", _text, env=("VAULT_AUTH_METHOD",))
    vault_auth_role: str | None = _setting("VaultAuthRole", _text, env=("VAULT_AUTH_ROLE",))
    vault_auth_mount: str | None = _setting("VaultAuthMount", _text, env=("VAULT_AUTH_MOUNT",))
    vault_approle_role_id: str | None = _setting(
        "VaultApproleRoleId", _text, env=("VAULT_APPROLE_ROLE_ID",)
    )
    vault_approle_secret_id: str | None = _setting(
        "VaultApproleSecretId", _text, env=("VAULT_APPROLE_SECRET_ID",)
    )
    vault_client_cert: str | None = _setting("VaultClientCert", _text, env=("VAULT_CLIENT_CERT",))
    vault_client_key: str | None = _setting("VaultClientKey", _text, env=("VAULT_CLIENT_KEY",))
    vault_k8s_token_path: str | None = _setting(
        "VaultK8sTokenPath", _text, env=("VAULT_K8S_TOKEN_PATH",)
    )
    vault_transit_key: str | None = _setting("VaultTransitKey", _text, env=("VAULT_TRANSIT_KEY",))
    vault_transit_mount: str | None = _setting(
        "VaultTransitMount", _text, env=("VAULT_TRANSIT_MOUNT",)
    )

    expire_after: float | None = _setting("ExpireAfter", _number, env=("EXPIRE_AFTER_SECS",))
    check_interval: float | None = _setting(
        "CheckInterval", _number, env=("REVOKE_CHECK_INTERVAL_SECS",)
    )
    outage_extension: float | None = _setting(
        "OutageExtension", _number, env=("OUTAGE_EXTENSION_SECS",)
    )
    create_date_precision: int | None = _setting(
        "CreateDatePrecision", _count, env=("CREATE_DATE_PRECISION_SECS",)
    )
    enable_session_caching: bool = _setting(
        "EnableSessionCaching", _flag, True, env=("SESSION_CACHE",)
    )
    session_cache_max_size: int | None = _setting(
        "SessionCacheMaxSize", _count, env=("SESSION_CACHE_MAX_SIZE",)
    )
    session_cache_duration: float | None = _setting(
        "SessionCacheDuration", _number, env=("SESSION_CACHE_DURATION_SECS",)
    )
    intermediate_key_cache_max_size: int | None = _setting(
        "IntermediateKeyCacheMaxSize", _count, env=("INTERMEDIATE_KEY_CACHE_MAX_SIZE",)
    )
    verbose: bool = _setting("Verbose", _flag, False)
    allow_testing_kms: bool = _setting("AllowTestingKms", _flag, False)
    allow_ambiguous_ids: bool = _setting("AllowAmbiguousIds", _flag, False)

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> Self:
        """Settings from a mapping with PascalCase or snake_case names. None means not set.

        Raises:
            ConfigurationError: An unknown name, one setting under two names, or a wrong type.
        """
        if not isinstance(settings, Mapping):
            raise TypeError(f"settings must be a mapping, not {type(settings).__name__}")
        known = setting_names()
        values: dict[str, Any] = {}
        for name, value in settings.items():
            target = known.get(name)
            if target is None:
                near = difflib.get_close_matches(str(name), known, 1, 0.6)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigurationError(f"unknown setting {name!r}{hint}")
            if target in values:
                raise ConfigurationError(f"{name!r} is set twice, under two names")
            if value is not None:
                values[target] = _read(name, target, value)
        return cls(**values)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Settings from a JSON file, or a TOML file if its name ends in ``.toml``."""
        file = as_path(path, "settings are a mapping, or the path of a file")
        try:
            text = file.read_text(encoding="utf-8")
            toml = file.suffix == ".toml"
            parsed = tomllib.loads(text) if toml else json.loads(text, object_pairs_hook=_once)
        except (OSError, ValueError, RecursionError) as exc:
            raise ConfigurationError(f"{file}: {exc}") from None
        if not isinstance(parsed, dict):
            raise ConfigurationError(f"{file}: not an object of settings")
        return cls.from_mapping(parsed)

    @classmethod
    def from_env(cls) -> Self:
        """Settings from the environment variables of the Asherah family."""
        values: dict[str, Any] = {}
        for item in fields(cls):
            for name in item.metadata["env"]:
                value = os.environ.get(name)
                if value:
                    values[item.name] = _read(name, item.name, value)
                    break
        return cls(**values)

    def __repr__(self) -> str:
        return (
            f"<SessionSettings {self.service_name}/{self.product_id} {self.metastore} {self.kms}>"
        )

    def policy(self) -> CryptoPolicy:
        """Lifetimes and cache sizes."""
        chosen = {
            "expire_key_after": self.expire_after,
            "revoke_check_interval": self.check_interval,
            "outage_extension": self.outage_extension,
            "create_date_precision": self.create_date_precision,
            "session_cache_size": self.session_cache_max_size,
            "session_cache_duration": self.session_cache_duration,
            "key_cache_size": self.intermediate_key_cache_max_size,
        }
        if not self.enable_session_caching:
            chosen["session_cache_size"] = 0
        return CryptoPolicy(**{k: v for k, v in chosen.items() if v is not None})  # type: ignore[arg-type]

    def hierarchy(self, *, metrics: MetricsHook | None = None) -> KeyHierarchy:
        """The key hierarchy that these settings describe.

        Raises:
            ConfigurationError: Something needed is missing.
        """
        for name in ("service_name", "product_id", "metastore", "kms"):
            if not getattr(self, name):
                raise ConfigurationError(f"{name} is missing")
        metastore = metastore_of(self)
        suffix = self.region_suffix
        if self.enable_region_suffix and suffix is None:
            suffix = getattr(metastore, "region_suffix", None) or self.dynamodb_region
            if not suffix:
                raise ConfigurationError("enable_region_suffix needs a region: set region_suffix")
        return KeyHierarchy(
            kms_of(self),
            metastore,
            service=self.service_name,
            product=self.product_id,
            policy=self.policy(),
            region_suffix=suffix,
            recovery_region_suffixes=self.recovery_region_suffixes,
            allow_ambiguous_ids=self.allow_ambiguous_ids,
            allow_testing_kms=self.allow_testing_kms,
            metrics=metrics,
        )


def setting_names() -> dict[str, str]:
    """Every accepted name, and the field it sets."""
    names: dict[str, str] = {}
    for item in fields(SessionSettings):
        names[item.name] = item.name
        names[item.metadata["pascal"]] = item.name
    return names


_READERS: dict[str, Callable[[Any], Any]] = {
    item.name: item.metadata["read"] for item in fields(SessionSettings)
}


def _read(shown: str, target: str, value: Any) -> Any:
    try:
        return _READERS[target](value)
    except TypeError as exc:
        raise ConfigurationError(f"{shown} must be {exc}, not {type(value).__name__}") from None
