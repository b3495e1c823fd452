"""The decorator: ask the store, else call the function and store what it returned."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from anyseal import offload
from anyseal.compat.cachekit.copies import Copies
from anyseal.compat.cachekit.counts import Counts, InvalidationOutcome
from anyseal.compat.cachekit.entries import Entries
from anyseal.compat.cachekit.errors import (
    DecryptionAuthenticationError,
    SerializationError,
    TenantMismatchError,
    TenantResolutionError,
)
from anyseal.compat.cachekit.filling import Filled, Fills
from anyseal.compat.cachekit.frame import Metadata
from anyseal.compat.cachekit.store import SILENCE, Found, Store, answered, is_refusal
from anyseal.errors import BackendError, one_line

if TYPE_CHECKING:
    from anyseal.cache.breaker import Breaker, Circuits

__all__ = ["CachedFunction"]

logger = logging.getLogger(__name__)

INLINE_BYTES = 1 << 16
"""Larger entries of async functions are sealed and opened in a worker thread."""

_MISS: Any = object()


class CachedFunction:
    """What the wrappers of sync and async functions share."""

    def __init__(
        self,
        function: Callable[..., Any],
        entries: Entries,
        store: Store,
        *,
        ttl_ms: int | None,
        max_bytes: int,
        registry: str,
        copies: Copies | None,
        circuits: Circuits,
    ) -> None:
        self.function, self.entries, self.store = function, entries, store
        self.ttl_ms, self.registry = ttl_ms, registry
        self._max_bytes = max_bytes
        self._name = f"{function.__module__}.{function.__qualname__}"
        self.counts = Counts(self._name)
        self.circuits = circuits
        self._copies = copies
        self._fills = Fills(store, self.failed)
        self._told_no_key = False

    def _warn(self, what: str, exc: BaseException) -> None:
        """Neither keys nor the text of a foreign exception: both may hold what is cached."""
        logger.warning("%s: %s (%s)", one_line(self._name), one_line(what), type(exc).__name__)

    def place(self, args: Any, kwargs: Any) -> tuple[str, str] | None:
        """Key and tenant of a call; None if it cannot be cached."""
        try:
            return self.entries.key_of(args, kwargs), self.entries.tenant_of(args, kwargs)
        except TenantResolutionError as exc:
            self._warn("called without the cache: no tenant", exc)
        except (TypeError, ValueError) as exc:
            self._tell_no_key(exc)
        return None

    def _tell_no_key(self, exc: BaseException) -> None:
        """Once: it will be so at each call, or at many."""
        if self._told_no_key:
            return
        self._told_no_key = True
        if self.entries.keyed:
            hint = "what key= returned is no key"
        elif self.entries.method_of:
            first = self.entries.method_of
            hint = f"{first} has no place in a key: key=lambda {first}, ...: says what has"
        else:
            hint = "an argument has no place in a key: key= makes one of the arguments"
        logger.warning(
            "%s: called without the cache, now and whenever this is so: %s (%s)",
            one_line(self._name), one_line(hint), type(exc).__name__,
        )  # fmt: skip

    def opened(self, stored: bytes | None, key: str, tenant: str) -> tuple[Any, bool]:
        """The value or a miss, and whether the entry must go."""
        if stored is None:
            return _MISS, False
        encryption = self.entries.encryption
        closed = encryption is not None and encryption.fail_closed
        try:
            return self.entries.open(stored, key, tenant), False
        except DecryptionAuthenticationError as exc:
            if closed:
                raise
            self._warn("an entry does not open", exc)
            return _MISS, not isinstance(exc, TenantMismatchError)
        except SerializationError as exc:
            self._warn("an entry cannot be read", exc)
            return _MISS, True

    def encoded(self, value: Any) -> tuple[bytes, Metadata] | None:
        """The serialised value, or None if it cannot be stored."""
        try:
            found = self.entries.encode(value)
        except Exception as exc:  # a serializer of the caller's may raise anything
            self._warn("a result cannot be stored", exc)
            return None
        if len(found[0]) > self._max_bytes:
            logger.warning("%s: a result is too large to be stored", one_line(self._name))
            return None
        return found

    def failed(self, exc: Exception) -> None:
        """The store did not answer: the function continues without it."""
        self._warn("the backend failed", exc)

    def _noted(self, breaker: Breaker, exc: Exception, probe: bool) -> None:
        """The store failed in a call that *breaker* had let through."""
        self.failed(exc)
        if is_refusal(exc):
            breaker.succeeded(probe)
            return
        breaker.failed(exc, probe)
        if breaker.state == "open":
            logger.warning("%s: the backend is left alone for a while", one_line(self._name))

    def _copy(self, key: str, tenant: str) -> Any:
        """The value of the copy in this process, or a miss; a copy that does not open is dropped.

        Raises:
            DecryptionAuthenticationError: It does not open, and the policy says so.
        """
        copies = self._copies
        stored = None if copies is None else copies.get(key, tenant)
        if stored is None or copies is None:
            return _MISS
        value: Any = _MISS
        try:
            value, _ = self.opened(stored, key, tenant)
        finally:
            if value is _MISS:
                copies.drop(key)
        return value

    def _keep(self, key: str, tenant: str, stored: bytes, version: int, left: int | None) -> None:
        """Keep a copy of what was found or stored."""
        if self._copies is not None:
            self._copies.keep(key, tenant, stored, version, left)

    def _drop(self, key: str) -> None:
        """Forget copies: before the entry is removed, and after it; in between another caller may
        read it."""
        if self._copies is not None:
            self._copies.drop(key)

    def _version(self, key: str) -> int:
        return 0 if self._copies is None else self._copies.version(key)

    def _counted(self, seconds: float) -> None:
        """A value came from the store."""
        if self.store.local:
            self.counts.local_hit()
        else:
            self.counts.store_hit(seconds)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """The cached function, for ``def``."""
        bypass = kwargs.pop("_bypass_cache", False)
        place = None if bypass else self.place(args, kwargs)
        if place is None:
            return self.function(*args, **kwargs)
        key, tenant = place
        value = self._copy(key, tenant)
        if value is not _MISS:
            self.counts.local_hit()
            return value
        began, version = time.perf_counter(), self._version(key)
        found = self._fetch(key)
        value = self._usable(found, key, tenant, version)
        if value is not _MISS:
            self._counted(time.perf_counter() - began)
            return value

        def fill(stored: bytes | None, token: str) -> Filled:
            if stored is not None:
                value = self._usable(Found(stored, None, True), key, tenant, version)
                if value is not _MISS:
                    self._counted(time.perf_counter() - began)
                    return Filled(value, stored)
            return self._computed(key, tenant, token, args, kwargs)

        filled, led = self._fills.run(key, tenant, lock=found.answered, fill=fill)
        return filled.value if led else self._own(filled, key, tenant)

    def _computed(self, key: str, tenant: str, token: str, args: Any, kwargs: Any) -> Filled:
        """The function's result, stored if it can be."""
        self.counts.miss()
        version = self._version(key)
        value = self.function(*args, **kwargs)
        encoded = self.encoded(value)
        if encoded is None:
            return Filled(value, None)
        sealed = self.entries.seal(*encoded, key, tenant)
        stored = self._stored(key, sealed, token)
        if stored:
            self._keep(key, tenant, sealed, version, None)
        return Filled(value, sealed, stored)

    def _stored(self, key: str, sealed: bytes, token: str) -> bool:
        """Store an entry and release the lock, if any; whether the store did it."""
        breaker = self.circuits.writes
        try:
            probe = breaker.enter()
        except BackendError:
            return False
        try:
            if token:
                self.store.settle(key, sealed, self.ttl_ms, self.registry, token)
            else:
                self.store.set(key, sealed, self.ttl_ms, self.registry)
        except Exception as exc:
            self._noted(breaker, exc, probe)
            return False
        except BaseException:
            breaker.left(probe)
            raise
        breaker.succeeded(probe)
        return True

    def _own(self, filled: Filled, key: str, tenant: str) -> Any:
        """The value for a caller that waited: decoded again, none changes another's. It counts as a
        hit in this process, as with cachekit."""
        self.counts.local_hit()
        value, _ = self.opened(filled.stored, key, tenant)
        return filled.value if value is _MISS else value

    def _fetch(self, key: str) -> Found:
        """The entry, if there is one; and whether the store answered."""
        breaker = self.circuits.reads
        try:
            probe = breaker.enter()
        except BackendError:
            return SILENCE
        try:
            if self._copies is None:
                found = answered(self.store.get(key))
            else:
                found = answered(*self.store.get_left(key))
        except Exception as exc:
            self._noted(breaker, exc, probe)
            return SILENCE
        except BaseException:
            breaker.left(probe)
            raise
        breaker.succeeded(probe)
        return found

    def _usable(self, found: Found, key: str, tenant: str, version: int) -> Any:
        """The value of an entry, or a miss; what is damaged is removed."""
        value, evict = self.opened(found.stored, key, tenant)
        if evict:
            self.remove(key)
        elif value is not _MISS and found.stored is not None:
            self._keep(key, tenant, found.stored, version, found.left)
        return value

    def remove(self, key: str) -> bool:
        """Remove an entry; whether the store did it. The breaker does not prevent it: an entry that
        stays by mistake is worse than a call in vain."""
        self._drop(key)
        try:
            self.store.delete(key)
        except Exception as exc:
            self.failed(exc)
            return False
        finally:
            self._drop(key)
        return True

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """The cached function, for ``async def``."""
        bypass = kwargs.pop("_bypass_cache", False)
        place = None if bypass else self.place(args, kwargs)
        if place is None:
            return await self.function(*args, **kwargs)
        key, tenant = place
        value = await self._acopy(key, tenant)
        if value is not _MISS:
            self.counts.local_hit()
            return value
        began, version = time.perf_counter(), self._version(key)
        found = await self._afetch(key)
        value = await self._ausable(found, key, tenant, version)
        if value is not _MISS:
            self._counted(time.perf_counter() - began)
            return value

        async def fill(stored: bytes | None, token: str) -> Filled:
            if stored is not None:
                value = await self._ausable(Found(stored, None, True), key, tenant, version)
                if value is not _MISS:
                    self._counted(time.perf_counter() - began)
                    return Filled(value, stored)
            return await self._acomputed(key, tenant, token, args, kwargs)

        filled, led = await self._fills.arun(key, tenant, lock=found.answered, fill=fill)
        return filled.value if led else await self._aown(filled, key, tenant)

    async def _acomputed(self, key: str, tenant: str, token: str, args: Any, kwargs: Any) -> Filled:
        """:meth:`_computed` for ``async def``."""
        self.counts.miss()
        version = self._version(key)
        value = await self.function(*args, **kwargs)
        encoded = self.encoded(value)
        if encoded is None:
            return Filled(value, None)
        sealed = await self._aseal(*encoded, key, tenant)
        stored = await self._astored(key, sealed, token)
        if stored:
            self._keep(key, tenant, sealed, version, None)
        return Filled(value, sealed, stored)

    async def _astored(self, key: str, sealed: bytes, token: str) -> bool:
        """:meth:`_stored` for ``async def``."""
        breaker = self.circuits.writes
        try:
            probe = breaker.enter()
        except BackendError:
            return False
        try:
            if token:
                await self.store.asettle(key, sealed, self.ttl_ms, self.registry, token)
            else:
                await self.store.aset(key, sealed, self.ttl_ms, self.registry)
        except Exception as exc:
            self._noted(breaker, exc, probe)
            return False
        except BaseException:
            breaker.left(probe)
            raise
        breaker.succeeded(probe)
        return True

    async def _aown(self, filled: Filled, key: str, tenant: str) -> Any:
        """:meth:`_own` for ``async def``."""
        self.counts.local_hit()
        value, _ = await self._aopened(filled.stored, key, tenant)
        return filled.value if value is _MISS else value

    async def _afetch(self, key: str) -> Found:
        """:meth:`_fetch` for ``async def``."""
        breaker = self.circuits.reads
        try:
            probe = breaker.enter()
        except BackendError:
            return SILENCE
        try:
            if self._copies is None:
                found = answered(await self.store.aget(key))
            else:
                found = answered(*(await self.store.aget_left(key)))
        except Exception as exc:
            self._noted(breaker, exc, probe)
            return SILENCE
        except BaseException:
            breaker.left(probe)
            raise
        breaker.succeeded(probe)
        return found

    async def _ausable(self, found: Found, key: str, tenant: str, version: int) -> Any:
        """:meth:`_usable` for ``async def``."""
        value, evict = await self._aopened(found.stored, key, tenant)
        if evict:
            await self.aremove(key)
        elif value is not _MISS and found.stored is not None:
            self._keep(key, tenant, found.stored, version, found.left)
        return value

    async def aremove(self, key: str) -> bool:
        """:meth:`remove` for ``async def``."""
        self._drop(key)
        try:
            await self.store.adelete(key)
        except Exception as exc:
            self.failed(exc)
            return False
        finally:
            self._drop(key)
        return True

    async def _acopy(self, key: str, tenant: str) -> Any:
        """:meth:`_copy` for ``async def``."""
        copies = self._copies
        stored = None if copies is None else copies.get(key, tenant)
        if stored is None or copies is None:
            return _MISS
        value: Any = _MISS
        try:
            value, _ = await self._aopened(stored, key, tenant)
        finally:
            if value is _MISS:
                copies.drop(key)
        return value

    async def _aseal(self, payload: bytes, metadata: Metadata, key: str, tenant: str) -> bytes:
        if len(payload) > INLINE_BYTES:
            return await offload.run(self.entries.seal, payload, metadata, key, tenant)
        return self.entries.seal(payload, metadata, key, tenant)

    async def _aopened(self, stored: bytes | None, key: str, tenant: str) -> tuple[Any, bool]:
        if stored is not None and len(stored) > INLINE_BYTES:
            return await offload.run(self.opened, stored, key, tenant)
        return self.opened(stored, key, tenant)

    def forget(self) -> None:
        """Nobody joins a call that began before now."""
        self._fills.forget()

    def clear(self) -> None:
        """Remove all entries and forget the counts. Raises what the store raises."""
        self.forget()
        self._forget_copies()
        try:
            self.store.clear(self.entries.common, self.registry)
        finally:
            self._forget_copies()
        self.counts.clear()

    def _outcome(self, removed: bool) -> InvalidationOutcome:
        if not removed:
            return InvalidationOutcome.FAILED
        return InvalidationOutcome.NO_L2 if self.store.local else InvalidationOutcome.SUCCEEDED

    def _forget_copies(self) -> None:
        if self._copies is not None:
            self._copies.clear()

    def _wants_all(self, args: Any, kwargs: Any) -> bool:
        return not args and not kwargs and self.entries.has_parameters

    def _key(self, args: Any, kwargs: Any) -> str | None:
        try:
            return self.entries.key_of(args, kwargs)
        except (TypeError, ValueError) as exc:
            self._warn("nothing to invalidate: these arguments have no key", exc)
            return None

    def invalidate(self, *args: Any, **kwargs: Any) -> InvalidationOutcome | None:
        """Remove the entry of these arguments; without any, all entries. Never raises."""
        self.forget()
        if self._wants_all(args, kwargs):
            self._forget_copies()
            try:
                self.store.clear(self.entries.common, self.registry)
            except Exception as exc:
                self.failed(exc)
            finally:
                self._forget_copies()
            return None
        key = self._key(args, kwargs)
        return self._outcome(key is not None and self.remove(key))

    async def ainvalidate(self, *args: Any, **kwargs: Any) -> InvalidationOutcome | None:
        """The same for ``async def``."""
        self.forget()
        if self._wants_all(args, kwargs):
            self._forget_copies()
            try:
                await self.store.aclear(self.entries.common, self.registry)
            except Exception as exc:
                self.failed(exc)
            finally:
                self._forget_copies()
            return None
        key = self._key(args, kwargs)
        return self._outcome(key is not None and await self.aremove(key))
