"""From the configuration of the other library to a key hierarchy of ours."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import os
from collections.abc import Mapping
from typing import Any

from anyseal.compat.asherah import hooks
from anyseal.compat.asherah.exceptions import ConfigurationError, warn
from anyseal.compat.asherah.types import AsherahConfig
from anyseal.errors import one_line
from anyseal.keyring.hierarchy import KeyHierarchy
from anyseal.settings import SessionSettings, setting_names

__all__ = ["hierarchy_of", "settings_from_env", "settings_of"]

_log = logging.getLogger("anyseal.compat.asherah")


def _folded(name: str) -> str:
    """What PascalCase, snake_case and their mixtures have in common."""
    return name.replace("_", "").lower()


_FIELDS = {_folded(name): field for name, field in setting_names().items()}

_WITHOUT_EFFECT = frozenset(
    {
        "configdriftforcerun",
        "configdriftforceupdate",
        "disablezerocopy",
        "enablecanaries",
        "forcerunwithconfigdrift",
        "forceupdateconfigdriftguard",
        "nulldatacheck",
        "sharedintermediatekeycache",
    }
)
"""Known to the other library, and nothing to heed here."""

_NOT_HERE = {"selfhealrecoveredkeys": "keys of other regions are read where they are"}

_VARIABLES_NOT_HERE = {
    "CACHE_INTERMEDIATE_KEYS": "intermediate keys are always cached",
    "CACHE_SYSTEM_KEYS": "system keys are always cached",
}

_AMBIENT = {
    "static_master_key_hex": ("STATIC_MASTER_KEY_HEX",),
    "pool_max_open": ("ASHERAH_POOL_MAX_OPEN", "ASHERAH_POOL_SIZE"),
    "pool_max_idle": ("ASHERAH_POOL_MAX_IDLE",),
    "pool_max_lifetime": ("ASHERAH_POOL_MAX_LIFETIME",),
    "pool_max_idle_time": ("ASHERAH_POOL_MAX_IDLE_TIME",),
    **{
        name: (name.upper(),)
        for name in SessionSettings.__dataclass_fields__
        if name.startswith("vault_")
    },
}
"""Environment variables that fill what a configuration leaves open."""

_POOL = ("pool_max_open", "pool_max_idle", "pool_max_lifetime", "pool_max_idle_time")
_POOL_IDLE_DEFAULT = 2
_PRECISION_DEFAULT = 60


def settings_of(config: Any) -> SessionSettings:
    """The settings in *config*: a mapping, or an AsherahConfig.

    Unknown names are warned about and skipped.

    Raises:
        anyseal.ConfigurationError: Not a mapping, one setting under two names, or a wrong type.
    """
    if isinstance(config, AsherahConfig):
        config = config.to_json()
    if not isinstance(config, Mapping):
        raise ConfigurationError(f"config must be a mapping, not {type(config).__name__}")
    values: dict[str, Any] = {}
    for name, value in config.items():
        folded = _folded(str(name))
        field = _FIELDS.get(folded)
        if field is not None:
            if field in values and value is not None:
                raise ConfigurationError(f"{name!r} is set twice, under two names")
            if value is not None:
                values[field] = value
        elif folded in _NOT_HERE:
            if value:
                warn(f"{name} has no effect: {_NOT_HERE[folded]}")
        elif folded not in _WITHOUT_EFFECT:
            near = difflib.get_close_matches(folded, _FIELDS, 1, 0.6)
            hint = f"; did you mean {_pascal(_FIELDS[near[0]])!r}?" if near else ""
            warn(f"unknown setting {name!r} is ignored{hint}")
    for field, variables in _AMBIENT.items():
        if field not in values:
            found = next((os.environ[name] for name in variables if os.environ.get(name)), None)
            if found is not None:
                values[field] = found
    return _adapted(SessionSettings.from_mapping({_pascal(k): v for k, v in values.items()}))


def _pascal(field: str) -> str:
    name: str = SessionSettings.__dataclass_fields__[field].metadata["pascal"]
    return name


def settings_from_env() -> SessionSettings:
    """The settings in the environment, with the other library's defaults."""
    for name, why in _VARIABLES_NOT_HERE.items():
        if os.environ.get(name):
            warn(f"{name} has no effect: {why}")
    if os.environ.get("SELF_HEAL_RECOVERED_KEYS", "").lower() in ("1", "true", "yes", "on"):
        warn(f"SELF_HEAL_RECOVERED_KEYS has no effect: {_NOT_HERE['selfhealrecoveredkeys']}")
    found = SessionSettings.from_env()
    return _adapted(
        dataclasses.replace(
            found,
            service_name=found.service_name or "service",
            product_id=found.product_id or "product",
            metastore=found.metastore or "memory",
        )
    )


def _adapted(settings: SessionSettings) -> SessionSettings:
    """*settings* with what the other library takes for granted."""
    change: dict[str, Any] = {"allow_ambiguous_ids": True, "allow_testing_kms": True}
    if (settings.metastore or "").lower() == "dynamodb":
        change["dynamodb_region"] = settings.dynamodb_region or os.environ.get("AWS_REGION") or None
        endpoint = settings.dynamodb_endpoint
        if endpoint and "://" not in endpoint:
            change["dynamodb_endpoint"] = f"https://{endpoint}"
        if settings.enable_region_suffix and not settings.recovery_region_suffixes:
            change["recovery_region_suffixes"] = tuple(settings.region_map or ())
    elif settings.enable_region_suffix:
        warn("EnableRegionSuffix has no effect: only DynamoDB has a region")
        change["enable_region_suffix"] = False
    for name in _POOL:  # 0 means not set
        change[name] = getattr(settings, name) or None
    if change["pool_max_open"] is not None:
        idle = change["pool_max_idle"] or _POOL_IDLE_DEFAULT
        change["pool_max_idle"] = min(idle, change["pool_max_open"])
    expire, precision = settings.expire_after, settings.create_date_precision or _PRECISION_DEFAULT
    if expire is not None and 1 <= expire < precision:
        change["create_date_precision"] = int(expire)
    return dataclasses.replace(settings, **change)


def hierarchy_of(settings: SessionSettings) -> KeyHierarchy:
    """The key hierarchy that *settings* describe, with the hooks that are set.

    Raises:
        anyseal.ConfigurationError: Something needed is missing or malformed.
    """
    hierarchy = settings.hierarchy()
    lasting = not getattr(hierarchy.metastore, "testing", False)
    if getattr(hierarchy.kms, "testing", False) and lasting:
        warn(
            "a KMS meant for testing with a metastore that lasts: whoever reads the "
            "configuration reads the data"
        )
    if settings.verbose:
        hooks.be_verbose()
    hooks.watch(hierarchy)
    metastore, kms = settings.metastore, settings.kms
    _log.info("configured: metastore %s, KMS %s", one_line(metastore), one_line(kms))
    return hierarchy
