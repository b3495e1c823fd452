"""Wrapped keys: the metastore that keeps them and the KMS that wraps the first of them."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from anyseal._ffi import lib, raise_for, view, view_writable
from anyseal.config import KEY_BYTES
from anyseal.errors import (
    AnysealError,
    ConfigurationError,
    FormatError,
    KmsError,
    MetastoreError,
    one_line,
)
from anyseal.hints import not_kms, not_metastore
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


_log = logging.getLogger("anyseal.hierarchy")
_WARNINGS_MAX = 100
_VERSIONS_MAX = 10_000
_NO_REMEDY = "; without load_latest_before in the metastore each process makes a key of its own"


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

    __slots__ = (
        "_kms",
        "_kms_bounds",
        "_metastore",
        "_metastore_bounds",
        "_meter",
        "_refusals",
        "_warned",
    )

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
            raise not_kms(kms)
        if not isinstance(metastore, Metastore):
            raise not_metastore(metastore)
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
        self._warned: set[str] = set()

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

    async def newest(self, key_id: str, until: int, known: Iterable[int]) -> KeyRecord | None:
        """The newest record with this id that is dated *until* or before, or None.

        A key from a wrong clock's future hides the newest one of now from ``load_latest``. A
        metastore that has neither ``load_latest_before`` nor ``versions`` is asked for the records
        of the *known* times. Raises as :meth:`load`.
        """
        record = await self.load_latest(key_id)
        if record is None or record.created <= until:
            return record
        before = getattr(self._metastore, "load_latest_before", None)
        listed = before is None and hasattr(self._metastore, "versions")
        remedy = "" if before is not None or listed else _NO_REMEDY
        self._warn(
            key_id,
            "a key of %r is dated in the future (%d): a clock is wrong%s",
            key_id,
            record.created,
            one_line(remedy),
        )
        if before is not None:
            found = await self._asked("load", before, key_id, until + 1)
            return _record("load_latest_before", found, key_id, until=until)
        if listed:
            all_ = await self.versions(key_id)
            return next((one for one in reversed(all_) if one.created <= until), None)
        for created in known:
            if created <= until and (one := await self.load(key_id, created)) is not None:
                return one
        return None

    def _warn(self, key_id: str, text: str, *args: object) -> None:
        """Once for each id; a hundred of them tell enough."""
        if key_id not in self._warned and len(self._warned) < _WARNINGS_MAX:
            self._warned.add(key_id)
            _log.warning(text, *args)

    async def told(self, operation: str, *args: Any) -> Any:
        """What the metastore's *operation* returns: for those who look after keys."""
        return await self._limited(operation, getattr(self._metastore, operation), *args)

    async def records(self, prefix: str) -> AsyncIterator[KeyRecord]:
        """The records whose id begins with *prefix*. Raises as :meth:`load`."""
        records: Any = self._metastore
        pages = self._metastore_bounds.pages("records", records.records(prefix))
        async with contextlib.aclosing(pages):
            async for record in pages:
                yield record

    async def versions(self, key_id: str) -> list[KeyRecord]:
        """All records with this id, oldest first.

        Raises:
            ConfigurationError: The metastore cannot list them.
            MetastoreError: As :meth:`load`.
        """
        if not hasattr(self._metastore, "versions"):
            raise ConfigurationError(
                "the metastore cannot list a key's versions: give the cache a name_key="
            )
        listed: list[KeyRecord] = await self._asked("load", self._listed, key_id)
        return listed

    async def _listed(self, key_id: str) -> list[KeyRecord]:
        versions: Any = getattr(self._metastore, "versions", None)
        listed: list[KeyRecord] = []
        async with contextlib.aclosing(versions(key_id)) as records:
            async for found in records:
                record = _record("versions", found, key_id)
                if record is None or (listed and record.created <= listed[-1].created):
                    raise MetastoreError("versions: not in the order of time", retryable=False)
                listed.append(record)
                if len(listed) > _VERSIONS_MAX:
                    raise MetastoreError("versions: they do not come to an end", retryable=False)
        return listed

    async def check_table(self) -> None:
        """Raise if the metastore can tell that it has no table. Raises as :meth:`load`."""
        check = getattr(self._metastore, "check_table", None)
        if check is not None:
            await self._limited("check_table", check)

    async def rewrap(self, record: KeyRecord) -> bool:
        """Wrap the system key in *record* again, under the KMS's current master key.

        Returns:
            False where the row has changed meanwhile, or is gone.
        """
        replace = getattr(self._metastore, "replace_key", None)
        if replace is None:
            raise ConfigurationError(
                f"{type(self._metastore).__name__} cannot replace a wrapped key (replace_key)"
            )
        slot = await self.unwrap(record)
        try:
            wrapped = await self.wrap(slot, record.id, record.created)
        finally:
            slot.release()
        return bool(await self._limited("replace_key", replace, record, wrapped))

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

    async def wrap(self, slot: Slot, key_id: str, created: int) -> bytes:
        """The key in *slot*, wrapped by the KMS for the row of *key_id* and *created*.

        Raises:
            KmsError: The KMS did not answer in time, or refused, now or a moment ago.
        """
        raw = bytearray(KEY_BYTES)
        out = view_writable(raw)
        try:
            code = lib.anyseal_key_export(out, slot.handle)
            if code:
                raise_for(code)
            wrapped = await self._told("wrap", None, raw, key_id, created)
        finally:
            lib.anyseal_wipe(out, KEY_BYTES)
        if not isinstance(wrapped, (bytes, bytearray)) or not wrapped:
            raise KmsError("the KMS returned no wrapped key", retryable=False)
        if len(wrapped) > WRAPPED_MAX_BYTES:
            raise KmsError(
                f"the KMS returned a wrapped key of {len(wrapped):,} bytes", retryable=False
            )
        return bytes(wrapped)

    async def unwrap(self, record: KeyRecord) -> Slot:
        """The key in *record*, which the KMS wrapped. Raises as :meth:`wrap`."""
        wrapped = record.key
        if len(wrapped) > WRAPPED_MAX_BYTES:
            raise KmsError(f"a wrapped key of {len(wrapped):,} bytes", retryable=False)
        raw = await self._told("unwrap", bytes(wrapped), wrapped, record.id, record.created)
        try:
            if not isinstance(raw, (bytes, bytearray)) or len(raw) != KEY_BYTES:
                raise KmsError("the KMS returned something that is no key", retryable=False)
            return Slot(lib.anyseal_key_import(view(raw)))
        finally:
            _wipe(raw)

    async def _told(
        self, verb: str, name: bytes | None, data: Any, key_id: str, created: int
    ) -> Any:
        """What the KMS answers; *name* is what a refusal is remembered under."""
        refusal = self._refusals.get(name)
        if refusal is not None and time.monotonic() < refusal.until:
            raise KmsError(str(refusal.error), retryable=False) from refusal.error
        try:
            call = getattr(self._kms, verb)
            args: tuple[Any, ...] = (data,)
            if hasattr(self._kms, f"{verb}_for"):  # it binds a wrapped key to its row
                call, args = getattr(self._kms, f"{verb}_for"), (data, key_id, created)
            answer = await self._kms_bounds.call(verb, call, *args, discard=_wipe)
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
    operation: str,
    found: Any,
    key_id: str,
    created: int | None = None,
    *,
    until: float = math.inf,
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
        and found.created <= until
        and isinstance(found.key, (bytes, bytearray))
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
