"""Wrapped keys: the metastore that keeps them and the KMS that wraps the first of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from anyseal._ffi import lib, raise_for, view, view_writable
from anyseal.config import KEY_BYTES
from anyseal.errors import (
    AnysealError,
    ConfigurationError,
    FormatError,
    KmsError,
    MetastoreError,
)
from anyseal.keyring.meter import Meter
from anyseal.keys import Slot
from anyseal.ports import KeyRecord, Kms, Metastore

__all__ = ["KeyStore"]

T = TypeVar("T")


class KeyStore:
    """A metastore and a KMS as a hierarchy calls them: measured, and with errors of ours only.

    Args:
        kms: Wraps the system key.
        metastore: Keeps the wrapped keys.
        meter: Is told how long each load and store took.
        allow_testing_kms: Accept a KMS meant for testing together with a metastore that lasts.

    Raises:
        TypeError: One of the two is none.
        ConfigurationError: A testing KMS with a lasting metastore.
    """

    __slots__ = ("_kms", "_metastore", "_meter")

    def __init__(
        self, kms: Kms, metastore: Metastore, meter: Meter, *, allow_testing_kms: bool
    ) -> None:
        if not isinstance(kms, Kms):
            raise TypeError(f"kms must have wrap and unwrap: {type(kms).__name__} has not")
        if not isinstance(metastore, Metastore):
            raise TypeError(f"{type(metastore).__name__} is not a metastore")
        if getattr(kms, "testing", False) and not (
            allow_testing_kms or getattr(metastore, "testing", False)
        ):
            raise ConfigurationError(
                "a KMS meant for testing with a metastore that lasts: whoever reads the "
                "configuration reads the data (allow_testing_kms=True to do it all the same)"
            )
        self._kms = kms
        self._metastore = metastore
        self._meter = meter

    async def load(self, key_id: str, created: int) -> KeyRecord | None:
        """The record with exactly this id and time, or None.

        Raises:
            MetastoreError: The metastore did not answer, or what it keeps is no key record.
        """
        return await self._asked("load", self._metastore.load, key_id, created)

    async def load_latest(self, key_id: str) -> KeyRecord | None:
        """The record with this id and the latest time, or None. Raises as :meth:`load`."""
        return await self._asked("load", self._metastore.load_latest, key_id)

    async def store(self, record: KeyRecord) -> bool:
        """Insert *record* unless its id and time are taken. Raises as :meth:`load`."""
        return await self._asked("store", self._metastore.store, record)

    async def _asked(self, operation: Any, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        try:
            return await self._meter.timed(operation, call(*args))
        except FormatError as exc:  # what is malformed is the key record, not the caller's row
            raise MetastoreError(f"{operation}: {exc}", retryable=False) from exc
        except AnysealError:
            raise
        except Exception as exc:
            raise MetastoreError(f"{operation}: {type(exc).__name__}") from exc

    async def wrap(self, slot: Slot) -> bytes:
        """The key in *slot*, wrapped by the KMS.

        Raises:
            KmsError: The KMS did not answer, or refused.
        """
        raw = bytearray(KEY_BYTES)
        out = view_writable(raw)
        try:
            code = lib.anyseal_key_export(out, slot.handle)
            if code:
                raise_for(code)
            wrapped = await self._told(self._kms.wrap, raw)
        finally:
            lib.anyseal_wipe(out, KEY_BYTES)
        if not isinstance(wrapped, bytes | bytearray) or not wrapped:
            raise KmsError("the KMS returned no wrapped key", retryable=False)
        return bytes(wrapped)

    async def unwrap(self, wrapped: bytes) -> Slot:
        """The key that the KMS wrapped. Raises as :meth:`wrap`."""
        raw = await self._told(self._kms.unwrap, wrapped)
        try:
            if not isinstance(raw, bytes | bytearray) or len(raw) != KEY_BYTES:
                raise KmsError("the KMS returned something that is no key", retryable=False)
            return Slot(lib.anyseal_key_import(view(raw)))
        finally:
            if isinstance(raw, bytearray):
                lib.anyseal_wipe(view_writable(raw), len(raw))

    async def _told(self, call: Callable[[Any], Awaitable[T]], data: Any) -> T:
        try:
            return await call(data)
        except AnysealError:
            raise
        except Exception as exc:
            raise KmsError(f"the KMS failed: {type(exc).__name__}") from exc

    async def aclose(self) -> None:
        """Close both."""
        try:
            await self._metastore.aclose()
        finally:
            close = getattr(self._kms, "aclose", None)
            if close is not None:
                await close()
