"""Make the KMS and the metastore that settings describe. Extras are loaded when they are named.

The settings are an ``anyseal.settings.SessionSettings``, which stands on the floor below.
"""

from __future__ import annotations

from typing import Any

from anyseal.errors import ConfigurationError
from anyseal.kms.file import FileKms
from anyseal.kms.static import StaticKms
from anyseal.metastore.memory import MemoryMetastore
from anyseal.ports import Kms, Metastore

__all__ = ["kms_of", "metastore_of"]

_KMS = (
    "static",
    "file",
    "test-debug-static",
    "aws",
    "vault",
    "vault-transit",
    "secrets-manager",
)
_METASTORES = (
    "memory",
    "test-debug-memory",
    "sqlite",
    "test-debug-sqlite",
    "rdbms",
    "postgres",
    "mysql",
    "dynamodb",
)


def _need(settings: Any, name: str, what: str) -> Any:
    value = getattr(settings, name)
    if not value:
        raise ConfigurationError(f"{what} needs {name}")
    return value


def kms_of(settings: Any) -> Kms:
    """The KMS that *settings* name.

    Raises:
        ConfigurationError: An unknown name, or something it needs is missing.
    """
    name = settings.kms.lower()
    if name == "file":
        if settings.kms_file and settings.kms_keys:
            raise ConfigurationError("kms_file and kms_keys exclude each other")
        if settings.kms_keys:
            return FileKms.from_text(settings.kms_keys)
        return FileKms(_need(settings, "kms_file", "the file KMS"))
    if name == "static":
        return StaticKms(_need(settings, "static_master_key_hex", "the static KMS"))
    if name == "test-debug-static":
        key = settings.static_master_key_hex
        return StaticKms(key) if key else StaticKms.debug()
    if name == "aws":
        from anyseal.kms.aws import AwsKms

        regions = settings.region_map or _need(settings, "kms_key_id", "AWS KMS without region_map")
        return AwsKms(
            regions,
            preferred_region=settings.preferred_region,
            profile=settings.aws_profile_name,
        )
    if name == "secrets-manager":
        from anyseal.kms.secretsmanager import SecretsManagerKms

        return SecretsManagerKms(
            _need(settings, "secrets_manager_secret_id", "Secrets Manager"),
            region=settings.preferred_region,
            profile=settings.aws_profile_name,
        )
    if name in ("vault", "vault-transit"):
        return _vault(settings)
    raise ConfigurationError(f"unknown KMS {settings.kms!r}: one of {', '.join(_KMS)}")


def _vault(settings: Any) -> Kms:
    from anyseal.kms.vault import (
        AppRoleAuth,
        CertAuth,
        KubernetesAuth,
        TokenAuth,
        VaultTransitKms,
    )

    method = (settings.vault_auth_method or "token").lower()
    mount = {"mount": settings.vault_auth_mount} if settings.vault_auth_mount else {}
    auth: Any
    if method == "token":
        auth = TokenAuth(_need(settings, "vault_token", "Vault"))
    elif method == "approle":
        auth = AppRoleAuth(
            role_id=_need(settings, "vault_approle_role_id", "AppRole"),
            secret_id=_need(settings, "vault_approle_secret_id", "AppRole"),
            **mount,
        )
    elif method == "kubernetes":
        path = settings.vault_k8s_token_path
        auth = KubernetesAuth(
            role=_need(settings, "vault_auth_role", "Kubernetes auth"),
            **({"token_path": path} if path else {}),
            **mount,
        )
    elif method == "cert":
        auth = CertAuth(
            cert_file=_need(settings, "vault_client_cert", "certificate auth"),
            key_file=_need(settings, "vault_client_key", "certificate auth"),
            role=settings.vault_auth_role,
            **mount,
        )
    else:
        raise ConfigurationError(
            f"unknown vault_auth_method {method!r}: one of token, approle, kubernetes, cert"
        )
    return VaultTransitKms(
        _need(settings, "vault_addr", "Vault"),
        _need(settings, "vault_transit_key", "Vault"),
        mount=settings.vault_transit_mount or "transit",
        auth=auth,
    )


def metastore_of(settings: Any) -> Metastore:
    """The metastore that *settings* name.

    Raises:
        ConfigurationError: An unknown name, or something it needs is missing.
    """
    name = settings.metastore.lower()
    if name in ("memory", "test-debug-memory"):
        return MemoryMetastore()
    if name == "dynamodb":
        return _dynamodb(settings)
    if name in ("sqlite", "test-debug-sqlite"):
        path = settings.sqlite_path or settings.connection_string
        if not path:
            raise ConfigurationError("the sqlite metastore needs sqlite_path")
        return _sql(settings, path if "://" in path else f"sqlite://{path}")
    if name in ("rdbms", "postgres", "mysql"):
        return _sql(settings, _database(settings, name))
    raise ConfigurationError(
        f"unknown metastore {settings.metastore!r}: one of {', '.join(_METASTORES)}"
    )


def _database(settings: Any, metastore: str) -> str:
    """The connection string: the one of the named kind, where there are several."""
    path = settings.sqlite_path
    known = {
        "postgres": settings.postgres_url,
        "mysql": settings.mysql_url,
        "sqlite": path and f"sqlite://{path}",
    }
    if settings.connection_string:
        return str(settings.connection_string)
    given = [url for kind, url in known.items() if url and metastore in (kind, "rdbms")]
    if not given:
        raise ConfigurationError("a SQL metastore needs connection_string")
    if len(given) > 1:
        raise ConfigurationError(
            "several databases are given: name one as the metastore (sqlite, postgres or mysql)"
        )
    return str(given[0])


def _sql(settings: Any, url: str) -> Metastore:
    from anyseal.metastore.sql import SqlMetastore

    pool: dict[str, Any] = {
        "pool_max_open": settings.pool_max_open,
        "pool_max_idle": settings.pool_max_idle,
        "pool_max_lifetime": settings.pool_max_lifetime,
        "pool_max_idle_time": settings.pool_max_idle_time,
    }
    return SqlMetastore.from_connection_string(
        _with_tls(url, settings.mysql_tls_mode),
        replica_consistency=settings.replica_read_consistency,
        **{name: value for name, value in pool.items() if value is not None},
    )


def _with_tls(url: str, mode: str | None) -> str:
    """MySQL's connection string with the TLS mode that is set apart from it."""
    scheme, _, rest = url.partition("://")
    if not mode or (rest and not scheme.lower().startswith(("mysql", "mariadb"))):
        return url
    return f"{url}{'&' if '?' in url.rpartition('/')[2] else '?'}tls={mode}"


def _dynamodb(settings: Any) -> Metastore:
    from anyseal.metastore.dynamodb import DynamoDbMetastore

    session = None
    if settings.aws_profile_name:
        from aiobotocore.session import AioSession

        session = AioSession(profile=settings.aws_profile_name)
    return DynamoDbMetastore(
        session=session,
        table=settings.dynamodb_table_name or "EncryptionKey",
        region=settings.dynamodb_region,
        signing_region=settings.dynamodb_signing_region,
        endpoint_url=settings.dynamodb_endpoint,
        region_suffix=settings.enable_region_suffix,
    )
