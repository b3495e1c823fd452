"""The configuration of the older interface, 0.1 to 0.3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

__all__ = ["AsherahConfig", "KMSType", "MetastoreType", "ReadConsistencyType"]


class KMSType(StrEnum):
    """What wraps the system keys."""

    AWS = "aws"
    STATIC = "static"


class MetastoreType(StrEnum):
    """Where the keys are kept."""

    RDBMS = "rdbms"
    DYNAMODB = "dynamodb"
    MEMORY = "memory"


class ReadConsistencyType(StrEnum):
    """What Aurora's read replicas are asked for."""

    EVENTUAL = "eventual"
    GLOBAL = "global"
    SESSION = "session"


_NAMES = {"dynamo": "Dynamo", "db": "DB", "id": "ID", "kms": "KMS"}


@dataclass
class AsherahConfig:
    """Settings for :meth:`Asherah.setup`. Durations are in seconds.

    Args:
        kms: ``aws`` or ``static``; all others that anyseal knows are accepted, too.
        metastore: ``rdbms``, ``dynamodb`` or ``memory``, as above.
        service_name: Part of every key id.
        product_id: Part of every key id.
        connection_string: Of the database, for ``rdbms``.
        dynamo_db_endpoint: Instead of AWS's own.
        dynamo_db_region: Where the table is.
        dynamo_db_table_name: Default ``EncryptionKey``.
        enable_region_suffix: Whether ids end with the table's region.
        preferred_region: Asked first, for ``aws``.
        region_map: The KMS key of each region, for ``aws``.
        verbose: Whether the log holds details.
        enable_session_caching: Whether sessions are kept.
        expire_after: A key older than this encrypts no more.
        check_interval: A cached key is looked up again after this.
        replica_read_consistency: For Aurora with write forwarding.
        session_cache_max_size: Sessions kept.
        session_cache_duration: A cached session is made anew after this.
    """

    kms: KMSType | str
    metastore: MetastoreType | str
    service_name: str
    product_id: str
    connection_string: str | None = None
    dynamo_db_endpoint: str | None = None
    dynamo_db_region: str | None = None
    dynamo_db_table_name: str | None = None
    enable_region_suffix: bool = False
    preferred_region: str | None = None
    region_map: Mapping[str, str] | None = None
    verbose: bool = False
    enable_session_caching: bool = False
    expire_after: int | None = None
    check_interval: int | None = None
    replica_read_consistency: ReadConsistencyType | str | None = None
    session_cache_max_size: int | None = None
    session_cache_duration: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The settings under their PascalCase names."""
        return {
            "".join(_NAMES.get(part, part.capitalize()) for part in field.name.split("_")): getattr(
                self, field.name
            )
            for field in fields(self)
        }
