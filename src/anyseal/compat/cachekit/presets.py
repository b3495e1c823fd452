"""``cache`` and its presets: checks what was asked for when a function is decorated."""

from __future__ import annotations

import datetime
import difflib
import inspect
import math
import os
import uuid
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from anyseal.compat.cachekit import names
from anyseal.compat.cachekit.config import (
    NESTED,
    PRESETS,
    UNSET,
    CircuitBreakerConfig,
    DecoratorConfig,
    EncryptionConfig,
    L1CacheConfig,
)
from anyseal.compat.cachekit.copies import Copies, copies_size
from anyseal.compat.cachekit.decorator import CachedFunction
from anyseal.compat.cachekit.entries import DEFAULT_TENANT, Encryption, Entries
from anyseal.compat.cachekit.errors import CompatWarning, ConfigurationError
from anyseal.compat.cachekit.extras import extra
from anyseal.compat.cachekit.health import function_health
from anyseal.compat.cachekit.sealing import Keys
from anyseal.compat.cachekit.serializers import (
    AutoSerializer,
    EncryptionWrapper,
    OrjsonSerializer,
    StandardSerializer,
    check_serializer,
    named_serializer,
    serializer_name,
)
from anyseal.compat.cachekit.settings import MASTER_KEY, environment_flag, master_keys
from anyseal.compat.cachekit.stores import Store, store_for
from anyseal.compat.cachekit.wrapping import decorate

if TYPE_CHECKING:
    from anyseal.cache.breaker import Circuits

__all__ = ["UNSET", "Cache", "cache"]

MAX_VALUE_VARIABLE = "CACHEKIT_MAX_VALUE_SIZE"
DEPLOYMENT_VARIABLE = "CACHEKIT_DEPLOYMENT_UUID"
FAIL_CLOSED_VARIABLE = "CACHEKIT_ENCRYPTION_FAIL_CLOSED"

DEFAULTS: dict[str, Any] = {
    "ttl": None,
    "namespace": None,
    "serializer": "default",
    "integrity_checking": True,
    "key": None,
    "interop": None,
    "backend": UNSET,
    "deployment_uuid": None,
    "encryption": None,
    "master_key": None,
    "tenant_extractor": None,
    "single_tenant_mode": None,
    "fail_closed": None,
    "key_rotation_enabled": False,
    "l1": L1CacheConfig(),
    "l1_enabled": None,
    "circuit_breaker": CircuitBreakerConfig(),
}
"""What every form accepts, and what it means unless given."""

WITHOUT_EFFECT = frozenset(
    {
        "backpressure", "monitoring", "refresh_ttl_on_get", "stale_ttl", "swr_by_default",
        "ttl_refresh_threshold",
    }
)  # fmt: skip
"""Accepted with a warning: :mod:`anyseal.cache` has what they are for."""


def _checked(settings: dict[str, Any], form: str) -> dict[str, Any]:
    """All settings, with defaults; an unknown one is an error."""
    for name in settings:
        if name in WITHOUT_EFFECT:
            warnings.warn(f"{form}: {name} has no effect here", CompatWarning, stacklevel=5)
        elif name not in DEFAULTS:
            near = difflib.get_close_matches(name, DEFAULTS, 1)
            hint = f", did you mean {near[0]}?" if near else ""
            raise ConfigurationError(f"{form}: unknown setting {name}{hint}")
    for name in ("l1", "circuit_breaker"):
        found, kind = settings.get(name, DEFAULTS[name]), NESTED[name]
        if not isinstance(found, kind):
            raise TypeError(f"{form}: {name} must be a {kind.__name__}, not {type(found).__name__}")
        found.validate()
    return {**DEFAULTS, **{k: v for k, v in settings.items() if k in DEFAULTS}}


def _flattened(settings: dict[str, Any], preset: str | None) -> dict[str, Any]:
    """What *preset* or ``config=`` says, under what was given beside it."""
    given = dict(settings)
    config = given.pop("config", None)
    if config is not None and not isinstance(config, DecoratorConfig):
        raise TypeError(f"config must be a DecoratorConfig, not {type(config).__name__}")
    if isinstance(given.get("encryption"), EncryptionConfig):
        told = DecoratorConfig(encryption=given.pop("encryption")).settings()
        given = {**told, **given}
    if config is None:
        return {**_PRESETS.get(preset or "", {}), **given}
    found = config.settings()
    if found.get("encryption") and not (
        given.get("encryption", True) and given.get("integrity_checking", True)
    ):
        raise ConfigurationError("config= encrypts: neither encryption nor checksums can be off")
    return {**found, **given}


def _ttl_ms(ttl: Any) -> int | None:
    if ttl is None:
        return None
    if isinstance(ttl, datetime.timedelta):
        ttl = ttl.total_seconds()
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)):
        raise ConfigurationError("ttl must be a number of seconds, a timedelta or None")
    if not math.isfinite(ttl) or not 0.001 <= ttl <= 10**10:
        raise ConfigurationError("ttl must be positive and finite")
    return int(ttl * 1000)


_PRESETS = {
    name: {key: value for key, value in preset.items() if key in DEFAULTS}
    for name, preset in PRESETS.items()
}


def _circuits(config: CircuitBreakerConfig, function: Any) -> Circuits:
    """The breakers of a function."""
    from anyseal.cache.breaker import Circuits  # imports what only its extra brings

    return Circuits(
        config.failure_threshold if config.enabled else 0,
        config.recovery_timeout,
        f"cachekit {function.__qualname__}",
        successes=config.success_threshold,
        probes=config.half_open_requests,
    )


def _copies(
    entries: Entries, store: Store, settings: dict[str, Any], ttl_ms: int | None
) -> Copies | None:
    """The copies in this process, unless they are off or the store is in it anyway."""
    l1, flat = settings["l1"], settings["l1_enabled"]
    if store.local or not (l1.enabled if flat is None else flat):
        return None
    ttl = None if ttl_ms is None else ttl_ms / 1000
    namespace = settings["namespace"] or "default"
    return Copies(entries, store.scope, namespace, ttl, copies_size(l1.max_size_mb))


def _max_bytes() -> int:
    try:
        return int(os.environ.get(MAX_VALUE_VARIABLE) or 100 << 20)
    except ValueError:
        raise ConfigurationError(f"{MAX_VALUE_VARIABLE} must be a number") from None


def _encryption(settings: dict[str, Any], form: str, *, required: bool) -> Encryption | None:
    """What the settings say about encryption."""
    extractor = settings["tenant_extractor"]
    if not (extractor is None or callable(extractor) or hasattr(extractor, "extract")):
        raise ConfigurationError("tenant_extractor must be a function of the arguments")
    wrapper = settings["serializer"]
    if isinstance(wrapper, EncryptionWrapper):
        return Encryption(
            keys=wrapper.keys,
            fail_closed=_fail_closed(settings["fail_closed"], wrapper.fail_closed),
            tenant_id=wrapper.tenant_id,
            tenant_extractor=extractor,
        )
    wanted = settings["encryption"]
    if wanted not in (None, True, False):
        raise ConfigurationError("encryption must be True, False or None")
    if not required and not wanted:
        if settings["master_key"] is not None:
            raise ConfigurationError(f"{form}: master_key needs encryption=True, or cache.secure")
        return None
    if settings["tenant_extractor"] is not None and settings["single_tenant_mode"]:
        raise ConfigurationError("single_tenant_mode does not go with tenant_extractor")
    if not required and settings["tenant_extractor"] is None and not settings["single_tenant_mode"]:
        raise ConfigurationError("encryption=True needs single_tenant_mode=True or an extractor")
    found = master_keys(settings["master_key"], rotation=settings["key_rotation_enabled"])
    if found is None:
        raise ConfigurationError(
            f"{form} requires master_key parameter or {MASTER_KEY} environment variable"
        )
    return Encryption(
        keys=Keys(*found),
        fail_closed=_fail_closed(settings["fail_closed"], False),
        tenant_id=_deployment(settings["deployment_uuid"]),
        tenant_extractor=settings["tenant_extractor"],
    )


def _deployment(given: Any) -> str:
    """The tenant of all entries: that of the deployment, if it has a name."""
    found = given if given is not None else os.environ.get(DEPLOYMENT_VARIABLE) or None
    if found is None:
        return DEFAULT_TENANT
    try:
        uuid.UUID(str(found))
    except ValueError:
        raise ConfigurationError("deployment_uuid must be a UUID") from None
    return str(found)


def _fail_closed(given: Any, otherwise: bool) -> bool:
    if given is not None:
        return bool(given)
    return otherwise or environment_flag(FAIL_CLOSED_VARIABLE)


def _serializer(given: Any, *, integrity: bool) -> tuple[Any, str, bool]:
    """The serializer, its name in headers, and whether it counts as an object of the caller's.

    An EncryptionWrapper stands for what it wraps: what it makes is the same as under
    ``cache.secure``.
    """
    if isinstance(given, EncryptionWrapper):
        inner = given.serializer
        for kind in (StandardSerializer, OrjsonSerializer):
            if type(inner) is kind:
                return inner, kind.name, False
        name = getattr(inner, "name", None)
        return inner, name if name == "arrow" else serializer_name(inner), name != "arrow"
    if isinstance(given, str):
        canonical = {"std": "default", "pythonic": "auto"}.get(given, given)
        return named_serializer(given, integrity=integrity), canonical, False
    check_serializer(given)
    return given, serializer_name(given), True


def _check_plaintext_intent(settings: dict[str, Any], store: Store, form: str) -> None:
    """A key that lies ready is a reason to ask before plaintext leaves the process."""
    if settings["encryption"] is None and os.environ.get(MASTER_KEY) and not store.local:
        raise ConfigurationError(
            f"{form}: {MASTER_KEY} is set but this cache would not encrypt: "
            "use cache.secure, or pass encryption=False"
        )


def _check_function(function: Any) -> None:
    if not callable(function) or isinstance(function, (type, staticmethod, classmethod)):
        raise TypeError("only functions can be decorated")
    if not hasattr(function, "__qualname__"):
        raise TypeError("a function without a name of its own cannot be decorated")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{function.__qualname__} is a generator: its items cannot be cached")


def _build(function: Any, settings: dict[str, Any], form: str, *, secure: bool) -> Any:
    _check_function(function)
    for name in ("blake3", "msgspec", "xxhash"):
        extra(name)  # now, not as a warning at every call
    encryption = _encryption(settings, form, required=secure)
    integrity = bool(settings["integrity_checking"])
    if encryption is not None and not integrity:
        raise ConfigurationError("integrity_checking must stay on with encryption")
    store = store_for(settings["backend"], unset=UNSET, encrypted=encryption is not None)
    store.check(is_async=inspect.iscoroutinefunction(function))
    if encryption is None:
        _check_plaintext_intent(settings, store, form)
    if settings["key"] is not None and not callable(settings["key"]):
        raise ConfigurationError("key must be a function of the arguments")
    if settings["interop"] is not None and settings["serializer"] != "default":
        raise ConfigurationError("interop has a serializer of its own")
    serializer, name, custom = _serializer(settings["serializer"], integrity=integrity)
    if encryption is not None and isinstance(serializer, AutoSerializer):
        raise ConfigurationError("encrypted entries are for all languages: auto is Python's own")
    namespace = settings["namespace"]
    if namespace is not None and (not isinstance(namespace, str) or not namespace):
        raise ConfigurationError("namespace must be a str that is not empty")
    entries = Entries(
        function,
        serializer=serializer,
        name=name,
        custom=custom,
        integrity=integrity,
        namespace=namespace,
        key=settings["key"],
        operation=settings["interop"],
        encryption=encryption,
        prefix=store.prefix,
    )
    ttl_ms = _ttl_ms(settings["ttl"])
    breaker = settings["circuit_breaker"]
    circuits = _circuits(breaker, function)
    cached = CachedFunction(
        function,
        entries,
        store,
        ttl_ms=ttl_ms,
        max_bytes=_max_bytes(),
        registry=f"ck:reg:{namespace or ''}:{names.function_hash(function)}",
        copies=_copies(entries, store, settings, ttl_ms),
        circuits=circuits,
    )
    return decorate(cached, function_health(circuits, breaker, namespace))


class Cache:
    """Decorates functions whose results are kept: ``@cache``, ``@cache(ttl=60)``,
    ``@cache.secure(ttl=60, master_key=…)``.

    Every form takes these keywords:

    Args:
        ttl: Seconds, or a timedelta; None means for ever.
        namespace: Part of the keys.
        serializer: ``"default"``, ``"auto"`` (in the clear only), ``"orjson"``, ``"arrow"``, or an
            object with ``serialize`` and ``deserialize``; an EncryptionWrapper encrypts.
        integrity_checking: Write and demand checksums.
        key: A function of the same arguments that returns the key.
        interop: The operation's name: keys and values that other languages read. Needs
            *namespace*.
        backend: None for this process, a URL, or a backend; default: what the environment names.
        l1: An :class:`L1CacheConfig`: the copies in this process; ``l1_enabled=False`` is short for
            none. They are as sealed as in the backend. Other processes keep theirs, until their
            time is over, when one invalidates an entry.
        circuit_breaker: A :class:`CircuitBreakerConfig`: when the backend is left alone.
        config: A :class:`DecoratorConfig` instead of the form's own settings; what is given beside
            it prevails. ``cache.secure`` takes none.
        encryption: True to encrypt, False if the results are meant to be in the clear, or an
            :class:`EncryptionConfig`.
        master_key: At least 32 bytes, in hexadecimal or raw; default: the environment variable
            ``CACHEKIT_MASTER_KEY``.
        tenant_extractor: Called with the function's arguments; returns the tenant.
        single_tenant_mode: States that there is one tenant.
        deployment_uuid: The name of that tenant; default: the environment variable
            ``CACHEKIT_DEPLOYMENT_UUID``, else ``default``.
        fail_closed: Raise if an entry does not open, instead of calling the function.
        key_rotation_enabled: Take further keys from ``CACHEKIT_MASTER_KEY_ROTATION``.

    Raises:
        ConfigurationError: At decoration: a setting is unknown, malformed or missing.
    """

    def __call__(self, function: Any = None, **settings: Any) -> Any:
        """Keep results for ever, in the clear, unless told otherwise."""
        return self._apply(function, settings, "cache")

    def secure(self, function: Any = None, **settings: Any) -> Any:
        """Encrypt: AES-256-GCM, a key for each tenant, bound to the entry's key. 600 seconds."""
        if settings.get("encryption") not in (None, True) or "config" in settings:
            raise ConfigurationError("cache.secure takes neither encryption nor config")
        if settings.get("integrity_checking") not in (None, True):
            raise ConfigurationError("cache.secure keeps integrity_checking on")
        return self._apply(function, settings, "cache.secure", "secure")

    def minimal(self, function: Any = None, **settings: Any) -> Any:
        """No checksums, no breaker; 300 seconds."""
        return self._apply(function, settings, "cache.minimal", "minimal")

    def production(self, function: Any = None, **settings: Any) -> Any:
        """600 seconds."""
        return self._apply(function, settings, "cache.production", "production")

    def dev(self, function: Any = None, **settings: Any) -> Any:
        """300 seconds."""
        return self._apply(function, settings, "cache.dev", "dev")

    def test(self, function: Any = None, **settings: Any) -> Any:
        """No checksums, no breaker; 300 seconds."""
        return self._apply(function, settings, "cache.test", "test")

    def io(self, function: Any = None, **settings: Any) -> Any:
        """3600 seconds, in a backend that must be given: the hosted service is not built in."""
        if settings.get("backend", UNSET) is UNSET:
            raise ConfigurationError("cache.io requires backend")
        return self._apply(function, settings, "cache.io", "io")

    def local(self, function: Any = None, **settings: Any) -> Any:
        """In this process only; 300 seconds. Results are serialised: no caller shares an object."""
        if settings.get("backend") is not None or settings.get("encryption"):
            raise ConfigurationError("cache.local takes neither backend nor encryption")
        return self._apply(function, {"ttl": 300, **settings, "backend": None}, "cache.local")

    def _apply(
        self, function: Any, settings: dict[str, Any], form: str, preset: str | None = None
    ) -> Any:
        checked = _checked(_flattened(settings, preset), form)
        secure = preset == "secure"

        def decorator(function: Callable[..., Any]) -> Any:
            return _build(function, checked, form, secure=secure)

        if function is not None:
            return decorator(function)
        _encryption(checked, form, required=secure)  # before there is a function to decorate
        return decorator


cache = Cache()
