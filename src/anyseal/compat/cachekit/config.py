"""cachekit's configuration objects: what ``@cache(config=…)`` and its nested settings take."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from anyseal.compat.cachekit.errors import ConfigurationError

__all__ = [
    "UNSET",
    "BackpressureConfig",
    "CircuitBreakerConfig",
    "DecoratorConfig",
    "EncryptionConfig",
    "L1CacheConfig",
    "MonitoringConfig",
]


class _Unset:
    """Not given."""

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> bool:
        return False


UNSET: Any = _Unset()


def _at_least_one(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ConfigurationError(f"{name} must be at least 1")


@dataclasses.dataclass(frozen=True)
class L1CacheConfig:
    """The copies in this process.

    Args:
        enabled: False asks the backend at each call.
        max_size_mb: For all functions of a namespace; default: ``CACHEKIT_L1_MAX_SIZE_MB``, else
            100. One copy takes at most an eighth.
        swr_enabled, swr_threshold_ratio, swr_retry_interval: No effect: entries are not refreshed
            ahead of time.
    """

    enabled: bool = True
    max_size_mb: int | None = None
    swr_enabled: bool = True
    swr_threshold_ratio: float = 0.5
    swr_retry_interval: float = 10.0

    def validate(self) -> None:
        """Raises ConfigurationError if a value is out of range."""
        if self.max_size_mb is not None:
            _at_least_one(self, "max_size_mb")
        if not 0.0 < self.swr_threshold_ratio <= 1.0:
            raise ConfigurationError("swr_threshold_ratio must be above 0 and at most 1")
        if not self.swr_retry_interval >= 0:
            raise ConfigurationError("swr_retry_interval must be at least 0")


@dataclasses.dataclass(frozen=True)
class CircuitBreakerConfig:
    """When the backend is left alone.

    Args:
        enabled: False asks it at each call.
        failure_threshold: Failures in a row that open the circuit. Reads and writes count apart,
            and an answer that refuses is no failure.
        success_threshold: Probes in a row that must go well to close it.
        recovery_timeout: Seconds until the first probe, and after a probe that failed.
        half_open_requests: Probes at a time.
    """

    enabled: bool = True
    failure_threshold: int = 5
    success_threshold: int = 3
    recovery_timeout: float = 30.0
    half_open_requests: int = 3

    def validate(self) -> None:
        """Raises ConfigurationError if a value is out of range."""
        _at_least_one(self, "failure_threshold", "success_threshold", "half_open_requests")
        if self.half_open_requests < self.success_threshold:
            raise ConfigurationError("half_open_requests must be at least success_threshold")
        if not math.isfinite(self.recovery_timeout) or self.recovery_timeout <= 0:
            raise ConfigurationError("recovery_timeout must be above 0 and finite")


@dataclasses.dataclass(frozen=True)
class BackpressureConfig:
    """Accepted, without effect: what waits for a backend is bounded by its own pool."""

    enabled: bool = True
    max_concurrent_requests: int = 100
    queue_size: int = 1000
    timeout: float = 0.1

    def validate(self) -> None:
        """Raises ConfigurationError if a value is out of range."""
        _at_least_one(self, "max_concurrent_requests")
        if self.queue_size < 0 or not self.timeout > 0:
            raise ConfigurationError("queue_size must be at least 0, and timeout above 0")


@dataclasses.dataclass(frozen=True)
class MonitoringConfig:
    """Accepted, without effect: ``cache_info()`` counts in any case, and logs are standard ones."""

    collect_stats: bool = True
    enable_structured_logging: bool = True
    enable_prometheus_metrics: bool = True

    def validate(self) -> None:
        """Nothing can be wrong."""


@dataclasses.dataclass(frozen=True)
class EncryptionConfig:
    """Whether entries are encrypted, and how; the names are those of ``cache.secure``."""

    enabled: bool | None = None
    master_key: Any = dataclasses.field(default=None, repr=False)
    tenant_extractor: Any = None
    single_tenant_mode: bool = False
    deployment_uuid: str | None = None
    fail_closed: bool | None = None

    def validate(self) -> None:
        """Raises ConfigurationError if the values contradict each other."""
        if self.enabled and bool(self.tenant_extractor) == bool(self.single_tenant_mode):
            raise ConfigurationError(
                "encryption needs either single_tenant_mode=True or a tenant_extractor"
            )


_QUIET = MonitoringConfig(False, False, False)
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "minimal": {
        "ttl": 300,
        "integrity_checking": False,
        "l1": L1CacheConfig(swr_enabled=False),
        "circuit_breaker": CircuitBreakerConfig(enabled=False),
        "monitoring": _QUIET,
    },
    "production": {"ttl": 600},
    "secure": {"ttl": 600},
    "dev": {"ttl": 300, "monitoring": MonitoringConfig(enable_prometheus_metrics=False)},
    "test": {
        "ttl": 300,
        "integrity_checking": False,
        "l1": L1CacheConfig(swr_enabled=False),
        "circuit_breaker": CircuitBreakerConfig(enabled=False),
        "backpressure": BackpressureConfig(enabled=False),
        "monitoring": _QUIET,
    },
    "io": {"ttl": 3600},
}
"""What each form means unless told otherwise."""

_FLAT = ("tenant_extractor", "single_tenant_mode", "deployment_uuid", "fail_closed")


@dataclasses.dataclass(frozen=True)
class DecoratorConfig:
    """All settings of a decorator in one object: ``@cache(config=DecoratorConfig.production())``.

    The fields are the keywords of :class:`~anyseal.compat.cachekit.Cache`; ``encryption`` may be a
    bool or an :class:`EncryptionConfig`.

    Raises:
        ConfigurationError: A value is out of range, or contradicts another.
    """

    ttl: Any = None
    stale_ttl: int | None = None
    swr_by_default: bool = False
    namespace: str | None = None
    serializer: Any = "default"
    integrity_checking: bool = True
    key: Any = None
    interop: str | None = None
    refresh_ttl_on_get: bool = False
    ttl_refresh_threshold: float = 0.5
    backend: Any = UNSET
    l1: L1CacheConfig = L1CacheConfig()
    circuit_breaker: CircuitBreakerConfig = CircuitBreakerConfig()
    backpressure: BackpressureConfig = BackpressureConfig()
    monitoring: MonitoringConfig = MonitoringConfig()
    encryption: Any = EncryptionConfig()

    def __post_init__(self) -> None:
        if isinstance(self.encryption, bool):
            object.__setattr__(self, "encryption", EncryptionConfig(enabled=self.encryption))
        if not isinstance(self.integrity_checking, bool):
            raise ConfigurationError("integrity_checking must be a bool")
        for name, kind in NESTED.items():
            found = getattr(self, name)
            if not isinstance(found, kind):
                raise TypeError(f"{name} must be a {kind.__name__}, not {type(found).__name__}")
            found.validate()

    def settings(self) -> dict[str, Any]:
        """The keywords that mean the same; what has its default is left out."""
        found = {
            each.name: getattr(self, each.name)
            for each in dataclasses.fields(self)
            if each.name not in ("backpressure", "encryption", "monitoring")
            and getattr(self, each.name) is not each.default
        }
        told: EncryptionConfig = self.encryption
        if told.enabled is not None:
            found["encryption"] = told.enabled
        if told.enabled:
            found |= {name: getattr(told, name) for name in ("master_key", *_FLAT)}
        return found

    @classmethod
    def _preset(cls, name: str, settings: dict[str, Any]) -> DecoratorConfig:
        known = {each.name for each in dataclasses.fields(cls)}
        if unknown := sorted(settings.keys() - known):
            raise ConfigurationError(
                f"DecoratorConfig.{name}: unknown setting {', '.join(unknown)}"
            )
        return cls(**{**PRESETS[name], **settings})

    @classmethod
    def minimal(cls, **settings: Any) -> DecoratorConfig:
        """No checksums, no breaker; 300 seconds."""
        return cls._preset("minimal", settings)

    @classmethod
    def production(cls, **settings: Any) -> DecoratorConfig:
        """600 seconds."""
        return cls._preset("production", settings)

    @classmethod
    def dev(cls, **settings: Any) -> DecoratorConfig:
        """300 seconds."""
        return cls._preset("dev", settings)

    @classmethod
    def test(cls, **settings: Any) -> DecoratorConfig:
        """No checksums, no breaker; 300 seconds."""
        return cls._preset("test", settings)

    @classmethod
    def io(cls, **settings: Any) -> DecoratorConfig:
        """3600 seconds, in a backend that must be given: the hosted service is not built in."""
        if settings.get("backend", UNSET) is UNSET:
            raise ConfigurationError("DecoratorConfig.io requires backend")
        return cls._preset("io", settings)

    @classmethod
    def secure(
        cls, master_key: Any = None, tenant_extractor: Any = None, **settings: Any
    ) -> DecoratorConfig:
        """Encrypted; 600 seconds. Without *master_key* the environment variable
        ``CACHEKIT_MASTER_KEY`` has it."""
        if "encryption" in settings:
            raise ConfigurationError("DecoratorConfig.secure sets encryption itself")
        if settings.get("integrity_checking", True) is not True:
            raise ConfigurationError("DecoratorConfig.secure keeps integrity_checking on")
        told = {name: settings.pop(name) for name in _FLAT if name in settings}
        if told.get("single_tenant_mode") is None:
            told["single_tenant_mode"] = tenant_extractor is None
        settings["encryption"] = EncryptionConfig(
            enabled=True, master_key=master_key, tenant_extractor=tenant_extractor, **told
        )
        return cls._preset("secure", settings)


NESTED: Mapping[str, type[Any]] = {
    "l1": L1CacheConfig,
    "circuit_breaker": CircuitBreakerConfig,
    "backpressure": BackpressureConfig,
    "monitoring": MonitoringConfig,
    "encryption": EncryptionConfig,
}
