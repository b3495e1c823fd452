"""The Python interface of ``cachekit`` 0.24: the same entries, read and written.

::

    from anyseal.compat.cachekit import cache

    @cache.secure(ttl=300, master_key=key_hex, backend="redis://localhost")
    async def profile(user_id: int) -> dict: ...

A service can move over function by function: both libraries read each other's frames, keys and
interop entries, in Redis or any other backend. Where the behaviour differs on purpose:

* There is no copy in this process before a shared backend: every hit asks it. ``backend=None``
  keeps entries in this process, encrypted like others.
* ``master_key`` may be raw bytes, and an EncryptionWrapper may be a decorator's serializer.
* Call arguments that have no key call the function with a warning, as do failing backends.
* Callers who miss the same entry at once each call the function.
* Settings for herds, breakers and stale entries have no effect and warn: :mod:`anyseal.cache` has
  them, and makes the tenant part of an entry's name, which it is not in these formats.
"""

from __future__ import annotations

from anyseal.compat.cachekit import serializers
from anyseal.compat.cachekit.decorator import CacheInfo, InvalidationOutcome
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
from anyseal.compat.cachekit.interop import (
    decode_interop_value,
    encode_interop_value,
    generate_interop_key,
)
from anyseal.compat.cachekit.presets import Cache, cache
from anyseal.compat.cachekit.serializers import (
    ArrowSerializer,
    EncryptionWrapper,
    OrjsonSerializer,
    StandardSerializer,
)
from anyseal.compat.cachekit.stores import MemoryStore, RedisStore

__all__ = [
    "ArrowSerializer",
    "Cache",
    "CacheInfo",
    "CompatWarning",
    "ConfigurationError",
    "DecryptionAuthenticationError",
    "EncryptionError",
    "EncryptionWrapper",
    "EnvelopeShapeError",
    "InteropError",
    "InvalidationOutcome",
    "KeyringConfigurationError",
    "MemoryStore",
    "Metadata",
    "MissingExtraError",
    "OrjsonSerializer",
    "RedisStore",
    "SerializationError",
    "StandardSerializer",
    "SuspiciousCacheEntryError",
    "TenantMismatchError",
    "TenantResolutionError",
    "cache",
    "decode_interop_value",
    "encode_interop_value",
    "generate_interop_key",
    "serializers",
]
