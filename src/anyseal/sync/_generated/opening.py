# Made from anyseal/cache/opening.py by .ci/generate_sync.py: do not edit.
"""Opening entries: what verifies is told from what is refused, and old keys are rotated out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from anyseal.cache.breaker import Breaker
from anyseal.cache.entry import LARGE, MOVED, Entry, PartitionNames, pack, unpack
from anyseal.cache.local import Copies
from anyseal.cache.policy import CachePolicy, now_ms
from anyseal.cache.stats import Observer
from anyseal.errors import DecryptionError, ExpiredError, FormatError, WrongKeyError
from anyseal.keys import Key
from anyseal.suites import Suite
from anyseal.sync._generated.guard import Guard
from anyseal.sync._generated.keys import PartitionKeys
from anyseal.sync._generated.tags import Tags
from anyseal.sync.kit import WAITS, away
from anyseal.value import KEY_ID, key_id_of, open_under, seal_under

__all__ = ["INLINE_ENTRY_BYTES", "NOT_OPENED", "Opener", "RotationHook"]

NOT_OPENED = (DecryptionError, FormatError, ExpiredError, WrongKeyError)

MOVING_MS = 5000
"""What stands for an entry that goes to another name ends after this, if its mover died."""

RotationHook: TypeAlias = Callable[[str, bytes, bytes], None]
"""Called with partition, the old key's id and the current one's when an entry is opened under a
key that is no longer current; must be quick and must not raise."""


INLINE_ENTRY_BYTES = 1 << 20
"""Larger entries are sealed and opened off the event loop."""


def _sealed(
    key: Key, context: bytes, suite: Suite | None, expires_ms: int,
    kind: int, payload: Any, fields: dict[str, Any],
) -> bytes:  # fmt: skip
    plain = pack(kind, payload, **fields)
    return seal_under(plain, key, context, suite, expires_ms=expires_ms)


@dataclass(slots=True, kw_only=True)
class Opener:
    """Opens the entries of one cache, and decides what becomes of those that do not open."""

    guard: Guard
    backend: Any
    keys: PartitionKeys
    tags: Tags
    copies: Copies
    policy: CachePolicy
    breaker: Breaker
    observer: Observer
    suite: Suite | None
    on_rotation: RotationHook | None

    def sealed(
        self, key: bytes, with_key: Key, names: PartitionNames, expires_ms: int,
        kind: int, payload: Any, **fields: Any,
    ) -> bytes:  # fmt: skip
        """The sealed bytes of the entry of *key*, whose plaintext has these *fields*."""
        context = names.context(key)
        if len(payload) > INLINE_ENTRY_BYTES:
            return away(_sealed, with_key, context, self.suite, expires_ms, kind, payload, fields)
        return _sealed(with_key, context, self.suite, expires_ms, kind, payload, fields)

    def _unsealed(
        self, names: PartitionNames, partition: str, key: bytes, sealed: bytes, with_key: Key
    ) -> Entry:
        """Open one entry. Raises what open_under raises."""
        context = names.context(key)
        try:
            if len(sealed) > INLINE_ENTRY_BYTES:
                plain = away(open_under, sealed, with_key, context)
            else:
                plain = open_under(sealed, with_key, context)
            entry = unpack(plain)
        except Exception as exc:
            self.observer.used(partition, sealed[KEY_ID], "decrypt", type(exc).__name__)
            raise
        entry.sealed = sealed
        self.breaker.refusals = 0
        self.observer.used(partition, with_key._key_id, "decrypt", "ok")
        return entry

    def opened(
        self, names: PartitionNames, partition: str, key: bytes, stored: str, sealed: bytes
    ) -> Entry | None:
        """The entry in *sealed*, if that takes no call: the usual case.

        None means undecided: call :meth:`open`, which also reports what is wrong.
        """
        try:
            with_key = self.keys.named_hit(partition, sealed[KEY_ID])
            if with_key is None or (WAITS and len(sealed) > INLINE_ENTRY_BYTES):
                return None
            entry = unpack(open_under(sealed, with_key, names.context(key)))
        except NOT_OPENED:
            return None
        if entry.kind == MOVED or (entry.tags and not self.tags.held(names, partition, entry.tags)):
            return None
        current = self.keys.successor(partition, with_key)
        if current is not None:
            if self._reseals(names, entry):
                return None
            self._told(partition, with_key, current)
        entry.sealed = sealed
        entry.stored = stored
        self.breaker.refusals = 0
        self.observer.used(partition, with_key._key_id, "decrypt", "ok")
        return entry

    def _reseals(self, names: PartitionNames, entry: Entry) -> bool:
        """Whether an entry under an old key is sealed again under the current one.

        Not if it has tags and there are several keys for names: the tags' names were made under
        the old key, as the entry's own was, and could not be ended under the new one alone.
        """
        tagged = entry.tags and len(names.keys) > 1
        return self.policy.reseal and entry.kind != LARGE and not tagged

    def _told(self, partition: str, old: Key, current: Key) -> None:
        """Count an entry under an old key, and tell the hook."""
        self.observer.count("old_key")
        if self.on_rotation is not None:
            self.on_rotation(partition, old._key_id, current._key_id)

    def open(
        self, names: PartitionNames, partition: str, key: bytes, stored: str, sealed: bytes
    ) -> Entry | None:
        """The entry in *sealed*, or None where policy makes it a miss."""
        try:
            with_key = self.keys.named(partition, key_id_of(sealed))
            entry = self._unsealed(names, partition, key, sealed, with_key)
        except NOT_OPENED as exc:
            self.refused(partition, key, stored, sealed, exc)
            return None
        entry.stored = stored
        if entry.kind == MOVED:
            return None
        if entry.tags and not self.tags.hold(names, partition, entry.tags):
            return None
        self._rotated(names, partition, key, entry, with_key)
        return entry

    def refused(
        self,
        partition: str,
        key: bytes,
        stored: str,
        sealed: bytes,
        error: Exception,
        *,
        undecodable: bool = False,
    ) -> None:
        """An entry does not open, or is *undecodable*: count it, and evict it or raise, as the
        policy says."""
        if isinstance(error, ExpiredError):
            self.observer.count("expired")
        else:
            wrong = isinstance(error, WrongKeyError)
            self.observer.count("wrong_key" if wrong else "tampered")
            self.observer.warn("an entry was refused", partition, error)
            if not undecodable:
                self.breaker.refused()
        self.copies.forget(partition, key)
        if self.policy.on_tamper == "raise" and not isinstance(error, ExpiredError):
            raise error
        self.guard.delete(self.backend.compare_and_set, stored, sealed, None)

    def _rotated(
        self, names: PartitionNames, partition: str, key: bytes, entry: Entry, with_key: Key
    ) -> None:
        """An entry under a key that is no longer current: tell, and seal it again if asked."""
        current = self.keys.successor(partition, with_key)
        if current is None:
            return
        self._told(partition, with_key, current)
        if not self._reseals(names, entry):
            return
        expires = int.from_bytes(entry.sealed[20:28])
        tags = self.tags.generations(names, partition, (), entry.tags)
        sealed = self.sealed(
            key, current, names, expires, entry.kind, entry.payload,
            fresh_until=entry.fresh_until, cost_ms=entry.cost_ms, tags=tags,
        )  # fmt: skip
        left = max(1, expires - now_ms()) if expires else None
        mark = self.moved(names, key, current)
        if self.replaced(entry, names.names(key)[0], sealed, left, mark):
            self.observer.count("resealed")

    def moved(self, names: PartitionNames, key: bytes, with_key: Key) -> bytes:
        """What stands where an entry was, while it goes to another name. No two are equal."""
        plain = pack(MOVED, b"")
        end = now_ms() + MOVING_MS
        return seal_under(plain, with_key, names.context(key), self.suite, expires_ms=end)

    def replaced(
        self, entry: Entry, name: str, sealed: bytes, ttl_ms: int | None, mark: bytes
    ) -> bool:
        """Put *sealed* in the place of *entry*, whose name may have been made under an old key.

        Then *mark* takes the old one's place until the new one stands: of two callers that take
        the value out not both get it, and a delete in between deletes the mark, too.
        """
        swap, at = self.backend.compare_and_set, entry.stored
        if name == at:
            done = self.guard.write(swap, name, entry.sealed, sealed, ttl_ms=ttl_ms)
        else:
            done = self.guard.write(swap, at, entry.sealed, mark, ttl_ms=MOVING_MS)
            if done:
                put = self.backend.set
                done = self.guard.write(put, name, sealed, ttl_ms=ttl_ms, if_absent=True)
                still = self.guard.delete(swap, at, mark, None)
                if done and not still:
                    self.guard.delete(swap, name, sealed, None)
                    done = False
        if done:
            entry.stored, entry.sealed = name, sealed
        return bool(done)
