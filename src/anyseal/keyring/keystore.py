"""Wrapped keys: the metastore that keeps them and the KMS that wraps the first of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

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
from anyseal.patience import Bounds
from anyseal.ports import KeyRecord, Kms, Metastore

__all__ = ["KeyStore"]

WRAPPED_MAX_BYTES = 1 << 16
"""The most that a KMS may make of one key."""

_PAUSE, _PAUSE_MAX = 1.0, 30.0
"""Seconds in which a KMS that refused twice is not asked the same again: at first, at most."""
_REFUSALS_MAX = 100


class _Refusal:
    """What the KMS answered last, and until when that stands."""

    __slots__ = ("error", "pause", "until")

    def __init__(self, error: KmsError, pause: float) -> None:
        self.error = error
        self.pause = pause
        self.until = time.monotonic() + pause


class KeyStore:
    """A metastore and a KMS as a hierarchy calls them: measured, limited, with errors of ours only.

    A KMS that refused the same twice (its error is not retryable) is not asked it again for a
    while, which begins at a second and doubles up to half a minute; callers get its error.

    Args:
        kms: Wraps the system key.
        metastore: Keeps the wrapped keys.
        meter: Is told how long each load and store took.
        allow_testing_kms: Accept a KMS meant for testing together with a metastore that lasts.
        timeout: Seconds for one call of either; None: no limit.

    Raises:
        TypeError: One of the two is none.
        ConfigurationError: A testing KMS with a lasting metastore.
    """

    __slots__ = ("_kms", "_kms_bounds", "_metastore", "_metastore_bounds", "_meter", "_refusals")

    def __init__(
        self,
        kms: Kms,
        metastore: Metastore,
        meter: Meter,
        *,
        allow_testing_kms: bool,
        timeout: float | None = None,
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
        self._metastore_bounds = Bounds(timeout, MetastoreError)
        self._kms_bounds = Bounds(timeout, KmsError)
        self._refusals: dict[bytes | None, _Refusal] = {}

    async def load(self, key_id: str, created: int) -> KeyRecord | None:
        """The record with exactly this id and time, or None.

        Raises:
            MetastoreError: The metastore did not answer in time, or what it keeps is no key record.
        """
        found = await self._asked("load", self._metastore.load, key_id, created)
        return _record("load", found, key_id, created)

    async def load_latest(self, key_id: str) -> KeyRecord | None:
        """The record with this id and the latest time, or None. Raises as :meth:`load`."""
        found = await self._asked("load", self._metastore.load_latest, key_id)
        return _record("load_latest", found, key_id)

    async def oldest(self, key_id: str) -> KeyRecord | None:
        """The record with this id and the earliest time, or None. Raises as :meth:`load`.

        Needs a metastore that lists a key's versions.
        """
        versions: Any = getattr(self._metastore, "versions", None)

        async def first() -> Any:
            async with contextlib.aclosing(versions(key_id)) as records:
                return await anext(records, None)

        return _record("versions", await self._limited("versions", first), key_id)

    async def store(self, record: KeyRecord) -> bool:
        """Insert *record* unless its id and time are taken. Raises as :meth:`load`."""
        stored = await self._asked("store", self._metastore.store, record)
        if not isinstance(stored, bool):
            raise MetastoreError(
                f"store: the metastore returned {type(stored).__name__}, not whether it stored",
                retryable=False,
            )
        return stored

    async def _asked(self, operation: Any, call: Callable[..., Any], *args: Any) -> Any:
        return await self._meter.timed(operation, self._limited(operation, call, *args))

    async def _limited(self, operation: str, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return await self._metastore_bounds.call(operation, call, *args)
        except FormatError as exc:  # what is malformed is the key record, not the caller's row
            raise MetastoreError(f"{operation}: {exc}", retryable=False) from exc
        except AnysealError:
            raise
        except Exception as exc:
            raise MetastoreError(f"{operation}: {type(exc).__name__}") from exc

    async def wrap(self, slot: Slot) -> bytes:
        """The key in *slot*, wrapped by the KMS.

        Raises:
            KmsError: The KMS did not answer in time, or refused, now or a moment ago.
        """
        raw = bytearray(KEY_BYTES)
        out = view_writable(raw)
        try:
            code = lib.anyseal_key_export(out, slot.handle)
            if code:
                raise_for(code)
            wrapped = await self._told("wrap", None, raw)
        finally:
            lib.anyseal_wipe(out, KEY_BYTES)
        if not isinstance(wrapped, bytes | bytearray) or not wrapped:
            raise KmsError("the KMS returned no wrapped key", retryable=False)
        if len(wrapped) > WRAPPED_MAX_BYTES:
            raise KmsError(
                f"the KMS returned a wrapped key of {len(wrapped):,} bytes", retryable=False
            )
        return bytes(wrapped)

    async def unwrap(self, wrapped: bytes) -> Slot:
        """The key that the KMS wrapped. Raises as :meth:`wrap`."""
        if len(wrapped) > WRAPPED_MAX_BYTES:
            raise KmsError(f"a wrapped key of {len(wrapped):,} bytes", retryable=False)
        raw = await self._told("unwrap", bytes(wrapped), wrapped)
        try:
            if not isinstance(raw, bytes | bytearray) or len(raw) != KEY_BYTES:
                raise KmsError("the KMS returned something that is no key", retryable=False)
            return Slot(lib.anyseal_key_import(view(raw)))
        finally:
            _wipe(raw)

    async def _told(self, verb: str, name: bytes | None, data: Any) -> Any:
        """What the KMS answers; *name* is what a refusal is remembered under."""
        refusal = self._refusals.get(name)
        if refusal is not None and time.monotonic() < refusal.until:
            raise KmsError(str(refusal.error), retryable=False) from refusal.error
        try:
            call = getattr(self._kms, verb)
            answer = await self._kms_bounds.call(verb, call, data, discard=_wipe)
        except KmsError as exc:
            if not exc.retryable:
                pause = 0.0 if refusal is None else min(max(2 * refusal.pause, _PAUSE), _PAUSE_MAX)
                self._refusals.pop(name, None)
                self._refusals[name] = _Refusal(exc, pause)
                if len(self._refusals) > _REFUSALS_MAX:
                    self._refusals.pop(next(iter(self._refusals)), None)
            raise
        except AnysealError:
            raise
        except Exception as exc:
            raise KmsError(f"the KMS failed: {type(exc).__name__}") from exc
        self._refusals.pop(name, None)
        return answer

    def forget_refusals(self) -> None:
        """Ask the KMS again at once, whatever it refused before."""
        self._refusals.clear()

    async def aclose(self) -> None:
        """Close both."""
        try:
            await self._metastore.aclose()
        finally:
            close = getattr(self._kms, "aclose", None)
            if close is not None:
                await close()


def _record(
    operation: str, found: Any, key_id: str, created: int | None = None
) -> KeyRecord | None:
    """What a metastore answered, if that is what it was asked for.

    Raises:
        MetastoreError: It is no record, or the record of another key.
    """
    if found is None:
        return None
    if not isinstance(found, KeyRecord):
        what = type(found).__name__
        raise MetastoreError(
            f"{operation}: the metastore returned {what}, not a KeyRecord", retryable=False
        )
    parent = (found.parent_id, found.parent_created)
    sound = (
        found.id == key_id
        and type(found.created) is int
        and created in (None, found.created)
        and isinstance(found.key, bytes | bytearray)
        and isinstance(found.revoked, bool)
        and (parent == (None, None) or (isinstance(parent[0], str) and type(parent[1]) is int))
    )
    if not sound:
        raise MetastoreError(
            f"{operation}: the metastore returned another record than was asked for, "
            "or one with fields of wrong types",
            retryable=False,
        )
    return found


def _wipe(raw: Any) -> None:
    if isinstance(raw, bytearray):
        lib.anyseal_wipe(view_writable(raw), len(raw))
