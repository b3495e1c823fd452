"""What a decorated function reads and writes: keys and bytes, without any waiting."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from anyseal.compat.cachekit import frame, interop, names
from anyseal.compat.cachekit.errors import (
    ConfigurationError,
    EnvelopeShapeError,
    SerializationError,
    SuspiciousCacheEntryError,
    TenantResolutionError,
)
from anyseal.compat.cachekit.frame import Metadata
from anyseal.compat.cachekit.sealing import Keys, associated_data, tenant_bytes
from anyseal.compat.cachekit.serializers import (
    Serializer,
    deserialized,
    open_sealed,
    seal,
    serialized,
)

__all__ = ["DEFAULT_TENANT", "Encryption", "Entries"]

DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    """With which keys, and what to do about entries that do not open."""

    keys: Keys
    fail_closed: bool = False
    tenant_id: str = DEFAULT_TENANT
    tenant_extractor: Any = None

    def tenant(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The tenant of one call. Raises TenantResolutionError if there is none."""
        extractor = self.tenant_extractor
        if extractor is None:
            return self.tenant_id
        extract = getattr(extractor, "extract", None)
        try:
            found = extractor(*args, **kwargs) if extract is None else extract(args, kwargs)
        except Exception as exc:
            kind = type(exc).__name__
            raise TenantResolutionError(f"the tenant extractor raised {kind}") from exc
        tenant_bytes(found)
        return str(found)


class Entries:
    """The entries of one function.

    Args:
        function: Whose results they hold.
        serializer: Makes bytes of them; not used in interop mode.
        name: The serializer's, as headers have it.
        custom: Whether the serializer was given as an object.
        integrity: Whether it writes checksums.
        namespace: Part of the keys.
        key: Makes the key of the arguments; None for a hash of them.
        operation: Of interop mode; None for the frames that only Python reads.
        encryption: None for entries in the clear.
        prefix: Of the store: part of what an entry is bound to.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        serializer: Serializer,
        name: str,
        custom: bool,
        integrity: bool,
        namespace: str | None,
        key: Callable[..., str] | None,
        operation: str | None,
        encryption: Encryption | None,
        prefix: str,
    ) -> None:
        self._serializer, self._name = serializer, name
        self._integrity = integrity
        self._key, self._operation = key, operation
        self._namespace = namespace
        self.encryption = encryption
        self._prefix = prefix
        self._code = names.serializer_code(name, custom=custom)
        self._signature = inspect.signature(function)
        if operation is not None:
            self.place = self._interop_place()
        elif key is not None:
            self.place = f"{names.function_hash(function)}-{namespace or 'default'}:"
        else:
            self.place = names.auto_place(function, namespace)
        auto = operation is None and key is None
        self.common = names.common(self.place, self._code) if auto else self.place
        """What all keys begin with: those that would be too long are cut."""

    def _interop_place(self) -> str:
        if self._namespace is None:
            raise ConfigurationError("interop needs a namespace")
        if self._key is not None or self._prefix:
            raise ConfigurationError("interop goes with neither key= nor a backend with a prefix")
        if self.encryption is not None and self.encryption.tenant_extractor is not None:
            raise ConfigurationError("interop does not go with tenant_extractor")
        for parameter in self._signature.parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise ConfigurationError("interop needs a function without * and ** parameters")
        namespace = interop.check_segment("namespace", self._namespace)
        return f"{namespace}:{interop.check_segment('operation', self._operation)}:"

    @property
    def keyed(self) -> bool:
        """Whether a function of the caller's makes the keys."""
        return self._key is not None

    @property
    def method_of(self) -> str:
        """``self`` or ``cls``, if that is the function's first parameter; else empty."""
        first = next(iter(self._signature.parameters), "")
        return first if first in ("self", "cls") else ""

    @property
    def has_parameters(self) -> bool:
        """Whether the function takes arguments at all."""
        return bool(self._signature.parameters)

    def key_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The key of one call, without the store's prefix.

        Raises:
            TypeError, ValueError: An argument has no form that is always the same.
        """
        if self._operation is not None:
            bound = self._signature.bind(*args, **kwargs)
            bound.apply_defaults()
            values = list(bound.arguments.values())
            return interop.generate_interop_key(str(self._namespace), self._operation, values)
        if self._key is not None:
            found = self._key(*args, **kwargs)
            if not isinstance(found, str) or not found:
                raise TypeError("key= must return a str that is not empty")
            found.encode()  # a lone surrogate has no form that could be stored
            return self.place + found
        hashed = names.argument_hash(args, kwargs)
        return names.auto_key(self.place, hashed, integrity=self._integrity, code=self._code)

    def fingerprints(self, tenant: str) -> list[str]:
        """Of the keys that open the entries of *tenant*, the one that seals first."""
        if self.encryption is None:
            return []
        return [key.fingerprint for key in self.encryption.keys.of(tenant)]

    def tenant_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The tenant of one call; empty without encryption."""
        return "" if self.encryption is None else self.encryption.tenant(args, kwargs)

    def encode(self, value: Any) -> tuple[bytes, Metadata]:
        """The serialised *value*. Raises TypeError or ValueError if it cannot be serialised."""
        if self._operation is not None:
            return interop.encode_interop_value(value), Metadata(format="msgpack")
        return serialized(self._serializer, value)

    def seal(self, payload: bytes, metadata: Metadata, key: str, tenant: str) -> bytes:
        """The bytes to store for what :meth:`encode` returned."""
        encryption = self.encryption
        if self._operation is not None:
            if encryption is None:
                return payload
            bound_to = associated_data(tenant, key, "msgpack", False)
            return encryption.keys.of(tenant)[0].seal(payload, bound_to)
        if encryption is not None:
            payload, metadata = seal(encryption.keys, payload, metadata, self._prefix + key, tenant)
        return frame.write(payload, self._name, metadata)

    def open(self, stored: bytes, key: str, tenant: str) -> Any:
        """The value in *stored*.

        Raises:
            DecryptionAuthenticationError: It does not verify.
            SerializationError: It is not what this function writes.
        """
        encryption = self.encryption
        if self._operation is not None:
            if encryption is not None:
                bound_to = associated_data(tenant, key, "msgpack", False)
                stored = encryption.keys.open_bare(tenant, stored, bound_to)
            return self._interop_value(stored)
        payload, name, metadata = frame.read(stored)
        if name != self._name:
            raise SerializationError("the entry is of another serializer")
        wanted = getattr(self._serializer, "format", None)
        if wanted is not None and metadata.format != wanted:
            raise EnvelopeShapeError("the entry is of another format")
        if encryption is None:
            if metadata.encrypted:
                raise SerializationError("the entry is encrypted")
        elif not metadata.encrypted or metadata.tenant_id is None:
            raise SuspiciousCacheEntryError("the entry is not encrypted")
        else:
            payload = open_sealed(
                encryption.keys, payload, metadata, self._prefix + key, tenant,
                strict=encryption.fail_closed,
            )  # fmt: skip
        if encryption is not None:
            return deserialized(self._serializer, payload, metadata)
        try:
            return self._serializer.deserialize(payload, metadata)
        except SerializationError:
            raise
        except Exception as exc:  # a serializer of the caller's
            kind = type(exc).__name__
            raise SerializationError(f"the serializer cannot read the entry: {kind}") from None

    def _interop_value(self, data: bytes) -> Any:
        try:
            return interop.decode_interop_value(data)
        except ValueError as exc:
            raise SerializationError(str(exc)) from None
