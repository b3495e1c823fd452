"""Serializers, and the wrapper that encrypts what one of them makes."""

from __future__ import annotations

import enum
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from anyseal.compat.cachekit import envelope, messagepack
from anyseal.compat.cachekit.errors import (
    ConfigurationError,
    DecryptionAuthenticationError,
    EncryptionError,
    EnvelopeShapeError,
    SerializationError,
    SuspiciousCacheEntryError,
    TenantMismatchError,
)
from anyseal.compat.cachekit.extras import extra
from anyseal.compat.cachekit.frame import Metadata
from anyseal.compat.cachekit.sealing import Keys, associated_data, tenant_bytes
from anyseal.compat.cachekit.settings import master_keys

__all__ = [
    "ArrowSerializer",
    "AutoSerializer",
    "DecryptionAuthenticationError",
    "DefaultSerializer",
    "EncryptionError",
    "EncryptionWrapper",
    "EnvelopeShapeError",
    "OrjsonSerializer",
    "SerializationError",
    "SerializationFormat",
    "SerializationMetadata",
    "Serializer",
    "StandardSerializer",
    "SuspiciousCacheEntryError",
    "TenantMismatchError",
    "named_serializer",
    "serializer_name",
]

logger = logging.getLogger(__name__)

ALGORITHM = "AES-256-GCM"
ARROW_COMPRESSION = "CACHEKIT_ARROW_COMPRESSION"
FROM_ENVIRONMENT = "auto"
"""As a compression: that of the environment variable, else zstd."""


class Serializer(Protocol):
    """Turns values into bytes and back."""

    def serialize(self, obj: Any) -> tuple[bytes, Metadata]:
        """*obj* as bytes, and what a reader must know of them."""
        ...

    def deserialize(self, data: bytes, metadata: Any = None) -> Any:
        """What *data* was made of."""
        ...


class SerializationFormat(enum.StrEnum):
    """What payloads are, as headers have it."""

    MSGPACK = "msgpack"
    ORJSON = "orjson"
    ARROW = "arrow"


class SerializationMetadata(Metadata):
    """Metadata as serializers written for cachekit make them."""

    __slots__ = ()

    def __init__(
        self,
        serialization_format: Any,
        encoding: str = "utf-8",
        compressed: bool = False,
        original_type: str | None = None,
        encrypted: bool = False,
        tenant_id: str | None = None,
        encryption_algorithm: str | None = None,
        key_fingerprint: str | None = None,
    ) -> None:
        super().__init__(
            format=getattr(serialization_format, "value", serialization_format),
            encoding=encoding,
            compressed=compressed,
            original_type=original_type,
            encrypted=encrypted,
            tenant_id=tenant_id,
            encryption_algorithm=encryption_algorithm,
            key_fingerprint=key_fingerprint,
        )


def as_metadata(metadata: Any) -> Metadata:
    """*metadata*, or one made of a mapping, or of cachekit's own object."""
    if isinstance(metadata, Metadata):
        return metadata
    if hasattr(metadata, "to_dict"):
        metadata = metadata.to_dict()
    return Metadata.from_dict(dict(metadata) if isinstance(metadata, Mapping) else metadata)


class StandardSerializer:
    """MessagePack of plain types and dates, in an envelope with a checksum.

    Args:
        enable_integrity_checking: False leaves the envelope out.
    """

    name = "default"
    format = "msgpack"

    def __init__(self, enable_integrity_checking: bool = True, *, tagged: bool = False) -> None:
        self._checked = enable_integrity_checking
        self._tagged = tagged

    def serialize(self, obj: Any) -> tuple[bytes, Metadata]:
        """*obj* as bytes. Raises TypeError if it holds a type that has no form."""
        data = messagepack.encode(obj, tagged=self._tagged)
        if self._checked:
            data = envelope.pack(data)
        metadata = Metadata(format="msgpack", compressed=self._checked, original_type="msgpack")
        return data, metadata

    def deserialize(self, data: bytes, metadata: Any = None) -> Any:
        """What *data* was made of; tuples have become lists.

        Raises:
            SerializationError: It is not of this form.
        """
        wrapped = self._checked if metadata is None else as_metadata(metadata).compressed
        content = envelope.unpack(data) if wrapped else data
        return messagepack.decode(content, tagged=self._tagged)


class AutoSerializer:
    """As :class:`StandardSerializer`, and tuples, sets and UUIDs come back as what they were.

    Arrays and tables are not stored: :class:`ArrowSerializer` takes tables. Nor is a dict that
    looks like one of the marks of these types: it would come back as something else.

    Args:
        enable_integrity_checking: False leaves the envelope out.
    """

    name = "auto"
    format = "msgpack"

    def __init__(self, enable_integrity_checking: bool = True) -> None:
        self._plain = StandardSerializer(enable_integrity_checking, tagged=True)

    def serialize(self, obj: Any) -> tuple[bytes, Metadata]:
        """*obj* as bytes. Raises TypeError if it holds a type that has no form."""
        return self._plain.serialize(obj)

    def deserialize(self, data: bytes, metadata: Any = None) -> Any:
        """What *data* was made of. Raises SerializationError if it is not of this form."""
        return self._plain.deserialize(data, metadata)


DefaultSerializer = StandardSerializer
"""Its name in early releases."""


class OrjsonSerializer:
    """JSON, with dates and UUIDs as text.

    Args:
        enable_integrity_checking: False leaves the checksum out; readers must be told, too.
    """

    name = "orjson"
    format = "orjson"

    def __init__(self, enable_integrity_checking: bool = True) -> None:
        extra("orjson")
        self._checked = enable_integrity_checking

    def serialize(self, obj: Any) -> tuple[bytes, Metadata]:
        """*obj* as bytes. Raises TypeError if JSON has no form for it."""
        orjson = extra("orjson")
        data = bytes(orjson.dumps(obj, option=orjson.OPT_SORT_KEYS))
        metadata = Metadata(format="orjson", original_type="orjson")
        return (envelope.checked(data) if self._checked else data), metadata

    def deserialize(self, data: bytes, metadata: Any = None) -> Any:
        """What *data* was made of. Raises SerializationError if it is not of this form."""
        content = envelope.check(data) if self._checked else data
        try:
            return extra("orjson").loads(content)
        except ValueError:
            raise SerializationError("the entry is not JSON") from None


class ArrowSerializer:
    """Tables of pandas, polars or pyarrow as an Arrow file.

    Args:
        return_format: What comes back: ``"pandas"``, ``"polars"`` or ``"arrow"``.
        compression: ``"zstd"``, ``"lz4"``, None or ``"none"`` for none; ``"auto"`` takes the
            environment variable ``CACHEKIT_ARROW_COMPRESSION``, else zstd. Lengths of what is
            compressed tell about contents.
    """

    name = "arrow"
    format = "arrow"

    def __init__(
        self,
        return_format: str = "pandas",
        enable_integrity_checking: bool = True,
        compression: str | None = FROM_ENVIRONMENT,
    ) -> None:
        extra("pyarrow", "anyseal[arrow]")
        if compression == FROM_ENVIRONMENT:
            compression = os.environ.get(ARROW_COMPRESSION) or "zstd"
        if compression not in (None, "zstd", "lz4", "none"):
            raise ConfigurationError("the compression must be zstd, lz4 or none")
        if return_format not in ("pandas", "polars", "arrow"):
            raise ConfigurationError("return_format must be pandas, polars or arrow")
        self._codec = None if compression == "none" else compression
        self._returns = return_format
        self._checked = enable_integrity_checking

    def _table(self, obj: Any) -> Any:
        pyarrow = extra("pyarrow", "anyseal[arrow]")
        if isinstance(obj, pyarrow.Table):
            return obj
        module = type(obj).__module__.partition(".")[0]
        if module == "pandas" and hasattr(obj, "columns"):
            return pyarrow.Table.from_pandas(obj)
        if module == "polars" and hasattr(obj, "to_arrow"):
            return obj.to_arrow()
        raise TypeError(f"{type(obj).__name__} is not a table of pandas, polars or pyarrow")

    def serialize(self, obj: Any) -> tuple[bytes, Metadata]:
        """*obj* as bytes. Raises TypeError if it is no table."""
        table = self._table(obj)
        ipc = extra("pyarrow.ipc", "anyseal[arrow]")
        sink = extra("pyarrow", "anyseal[arrow]").BufferOutputStream()
        options = ipc.IpcWriteOptions(compression=self._codec)
        with ipc.new_file(sink, table.schema, options=options) as writer:
            writer.write_table(table)
        data = sink.getvalue().to_pybytes()
        metadata = Metadata(format="arrow", compressed=bool(self._codec), original_type="arrow")
        return (envelope.checked(data) if self._checked else data), metadata

    def deserialize(self, data: bytes, metadata: Any = None) -> Any:
        """The table. Raises SerializationError if *data* is not of this form."""
        pyarrow = extra("pyarrow", "anyseal[arrow]")
        content = envelope.check(data) if self._checked else data
        try:
            with extra("pyarrow.ipc", "anyseal[arrow]").open_file(content) as reader:
                table = reader.read_all()
        except (pyarrow.ArrowException, OSError, ValueError):
            raise SerializationError("the entry is not an Arrow file") from None
        if self._returns == "arrow":
            return table
        if self._returns == "polars":
            return extra("polars", "polars").from_arrow(table)
        return table.to_pandas()


_NAMED: dict[str, type[Any]] = {
    "auto": AutoSerializer,
    "pythonic": AutoSerializer,
    "default": StandardSerializer,
    "std": StandardSerializer,
    "orjson": OrjsonSerializer,
    "arrow": ArrowSerializer,
}


def named_serializer(name: str, *, integrity: bool) -> Serializer:
    """The serializer called *name*. Raises ConfigurationError for another name."""
    kind = _NAMED.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ConfigurationError(
            f"no serializer {name!r}: use default, auto, orjson, arrow or an object"
        )
    made: Serializer = kind(enable_integrity_checking=integrity)
    return made


def check_serializer(serializer: Any) -> None:
    """Raises ConfigurationError unless it has the methods of one."""
    if not all(callable(getattr(serializer, name, None)) for name in ("serialize", "deserialize")):
        raise ConfigurationError("serializer must have serialize and deserialize")


def serialized(serializer: Serializer, obj: Any) -> tuple[bytes, Metadata]:
    """*obj* by any serializer. Raises what that raises, or TypeError if it returns no bytes."""
    data, metadata = serializer.serialize(obj)
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"the serializer made {type(data).__name__}, not bytes")
    return bytes(data), as_metadata(metadata)


def deserialized(serializer: Serializer, payload: bytes, metadata: Metadata) -> Any:
    """What *payload* was made of: it has been decrypted. Raises EncryptionError if it is not of the
    serializer's form: it is what its writer sealed, and no attack."""
    try:
        return serializer.deserialize(payload, metadata)
    except Exception as exc:  # a serializer of the caller's may raise anything
        kind = type(exc).__name__
        raise EncryptionError(f"deserialization failed after decryption: {kind}") from exc


def serializer_name(serializer: Any) -> str:
    """What an instance is called in the headers of its entries."""
    return type(serializer).__name__


class EncryptionWrapper:
    """Encrypts what another serializer makes: AES-256-GCM, bound to the entry's key and tenant.

    Args:
        serializer: Any :class:`Serializer`; default: :class:`StandardSerializer`.
        master_key: 32 bytes or more, or as many in hexadecimal; default: the environment variable
            ``CACHEKIT_MASTER_KEY``.
        tenant_id: Each tenant has a key of its own. 1 to 1024 bytes in UTF-8.
        fail_closed: An entry under an unknown key is refused before it is tried.
        previous_master_keys: Up to three keys that still open; default: the environment variable
            ``CACHEKIT_PREVIOUS_MASTER_KEYS``.

    Raises:
        EncryptionError: There is no master key.
        ConfigurationError: A key is malformed, or *serializer* is none.
    """

    def __init__(
        self,
        serializer: Serializer | None = None,
        master_key: Any = None,
        tenant_id: str = "default",
        fail_closed: bool = False,
        previous_master_keys: Sequence[Any] | None = None,
    ) -> None:
        found = master_keys(master_key, previous_master_keys)
        if found is None:
            raise EncryptionError(
                "EncryptionWrapper requires master_key parameter or CACHEKIT_MASTER_KEY "
                "environment variable"
            )
        tenant_bytes(tenant_id)
        check_serializer(serializer or StandardSerializer())
        self.serializer: Serializer = serializer or StandardSerializer()
        self.tenant_id = tenant_id
        self.fail_closed = fail_closed
        self.keys = Keys(*found)

    def serialize(self, obj: Any, cache_key: str = "") -> tuple[bytes, Metadata]:
        """*obj*, encrypted for the entry *cache_key*.

        Raises:
            TypeError: *obj* cannot be serialised, or *cache_key* is not a str.
            ValueError: *cache_key* is empty.
        """
        _check_key(cache_key)
        return seal(self.keys, *serialized(self.serializer, obj), cache_key, self.tenant_id)

    def deserialize(self, data: bytes, metadata: Any = None, cache_key: str = "") -> Any:
        """What :meth:`serialize` was given under the same *cache_key*.

        Raises:
            DecryptionAuthenticationError: It does not verify, or is not encrypted.
            TenantMismatchError: It is another tenant's.
            EncryptionError: It verifies but is not of the serializer's form.
        """
        _check_key(cache_key)
        found = as_metadata(metadata)
        if not found.encrypted:
            raise DecryptionAuthenticationError("the entry is not encrypted")
        payload = open_sealed(
            self.keys, data, found, cache_key, self.tenant_id, strict=self.fail_closed
        )
        return deserialized(self.serializer, payload, found)

    def get_encryption_info(self) -> dict[str, Any]:
        """Which key of which tenant seals, without telling anything about it."""
        return {
            "enabled": True,
            "tenant_id": self.tenant_id,
            "algorithm": ALGORITHM,
            "key_fingerprint": self.keys.of(self.tenant_id)[0].fingerprint,
        }


def _check_key(cache_key: str) -> None:
    if not isinstance(cache_key, str):
        raise TypeError(f"cache_key must be str, not {type(cache_key).__name__}")
    if not cache_key:
        raise ValueError("cache_key must not be empty")


def seal(
    keys: Keys, payload: bytes, metadata: Metadata, cache_key: str, tenant: str
) -> tuple[bytes, Metadata]:
    """*payload* encrypted for one entry, and the metadata of that."""
    key = keys.of(tenant)[0]
    told = Metadata(
        format=metadata.format,
        encoding=metadata.encoding,
        compressed=metadata.compressed,
        original_type=metadata.original_type,
        encrypted=True,
        tenant_id=tenant,
        encryption_algorithm=ALGORITHM,
        key_fingerprint=key.fingerprint,
    )
    return key.seal(payload, _bound(told, cache_key, tenant)), told


def _bound(metadata: Metadata, cache_key: str, tenant: str) -> bytes:
    return associated_data(
        tenant, cache_key, metadata.format, metadata.compressed, metadata.original_type
    )


def open_sealed(
    keys: Keys, sealed: bytes, metadata: Metadata, cache_key: str, tenant: str, *, strict: bool
) -> bytes:
    """What :func:`seal` was given; the key is chosen by its fingerprint, never by trial.

    Raises:
        DecryptionAuthenticationError: It does not verify; with *strict* also if the key is unknown.
        TenantMismatchError: It is another tenant's.
        EnvelopeShapeError: It is of another algorithm.
    """
    if metadata.tenant_id != tenant:
        raise TenantMismatchError
    if metadata.encryption_algorithm not in (None, ALGORITHM):
        raise EnvelopeShapeError("the entry is of another algorithm")
    key = keys.named(tenant, metadata.key_fingerprint)
    if key is None:
        if strict and metadata.key_fingerprint is not None:
            raise DecryptionAuthenticationError
        if metadata.key_fingerprint is not None:
            logger.warning("an entry names a master key that is not configured (key rotation?)")
        key = keys.of(tenant)[0]
    return key.open(sealed, _bound(metadata, cache_key, tenant))
