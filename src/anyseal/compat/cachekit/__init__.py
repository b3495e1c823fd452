"""The Python interface of ``cachekit`` 0.24: the same entries, read and written.

::

    from anyseal.compat.cachekit import cache

    @cache.secure(ttl=300, master_key=key_hex, backend="redis://localhost")
    async def profile(user_id: int) -> dict: ...

A service can move over function by function: both libraries read each other's frames, keys and
interop entries, in Redis or any other backend. Where the behaviour differs on purpose:

* ``backend=None`` keeps entries in this process, encrypted like others.
* ``master_key`` may be raw bytes, and an EncryptionWrapper may be a decorator's serializer.
* Call arguments that have no key call the function with a warning, as do failing backends.
* Copies in this process are found by tenant and key fingerprint as well, and end before their entry
  does in Redis. As with cachekit, other processes keep theirs when one invalidates an entry.
* The breaker counts failures in a row, reads and writes apart; answers that refuse are none.
* Settings for stale entries, back-pressure and monitoring have no effect and warn:
  :mod:`anyseal.cache` has them, and makes the tenant part of an entry's name, which it is not in
  these formats.
"""

from __future__ import annotations

from anyseal.compat.cachekit import serializers
from anyseal.compat.cachekit.config import (
    BackpressureConfig,
    CircuitBreakerConfig,
    DecoratorConfig,
    EncryptionConfig,
    L1CacheConfig,
    MonitoringConfig,
)
from anyseal.compat.cachekit.counts import CacheInfo, InvalidationOutcome
from anyseal.compat.cachekit.errors import (
    CompatWarning,
    ConfigurationError,
    DecryptionAuthenticationError,
    EncryptionError,
    EnvelopeShapeError,
    InteropError,
    KeyringConfigurationError,
    MissingExtraError,
    SerializationError,
    SuspiciousCacheEntryError,
    TenantMismatchError,
    TenantResolutionError,
)
from anyseal.compat.cachekit.frame import Metadata
from anyseal.compat.cachekit.health import (
    HealthCheckResult,
    HealthLevel,
    HealthStatus,
    async_health_check_handler,
    get_health_checker,
    health_check_handler,
)
from anyseal.compat.cachekit.interop import (
    decode_interop_value,
    encode_interop_value,
    generate_interop_key,
)
from anyseal.compat.cachekit.presets import Cache, cache
from anyseal.compat.cachekit.serializers import (
    ArrowSerializer,
    AutoSerializer,
    DefaultSerializer,
    EncryptionWrapper,
    OrjsonSerializer,
    StandardSerializer,
)
from anyseal.compat.cachekit.stores import MemoryStore, RedisStore

__all__ = [
    "ArrowSerializer",
    "AutoSerializer",
    "BackpressureConfig",
    "Cache",
    "CacheInfo",
    "CircuitBreakerConfig",
    "CompatWarning",
    "ConfigurationError",
    "DecoratorConfig",
    "DecryptionAuthenticationError",
    "DefaultSerializer",
    "EncryptionConfig",
    "EncryptionError",
    "EncryptionWrapper",
    "EnvelopeShapeError",
    "HealthCheckResult",
    "HealthLevel",
    "HealthStatus",
    "InteropError",
    "InvalidationOutcome",
    "KeyringConfigurationError",
    "L1CacheConfig",
    "MemoryStore",
    "Metadata",
    "MissingExtraError",
    "MonitoringConfig",
    "OrjsonSerializer",
    "RedisStore",
    "SerializationError",
    "StandardSerializer",
    "SuspiciousCacheEntryError",
    "TenantMismatchError",
    "TenantResolutionError",
    "async_health_check_handler",
    "cache",
    "decode_interop_value",
    "encode_interop_value",
    "generate_interop_key",
    "get_health_checker",
    "health_check_handler",
    "serializers",
]
