"""How long a hierarchy's keys may be used: what a policy says of a key of some age."""

from __future__ import annotations

import time

from anyseal.config import CryptoPolicy
from anyseal.keyring.cached import REFRESH_AT, IntermediateKey, SystemKey
from anyseal.ports import KeyRecord

__all__ = ["REVOKED_STALE_AT", "Lifetimes"]

REVOKED_STALE_AT = 0.1
"""Of the revoke-check interval: a revoked key is looked up sooner, for it may get deleted."""


class Lifetimes:
    """The dates of keys, by one policy."""

    __slots__ = ("_policy",)

    def __init__(self, policy: CryptoPolicy) -> None:
        self._policy = policy

    def expires(self, created: int) -> float:
        """When a key of that time seals no more, in seconds since the epoch."""
        return created + self._policy.expire_key_after

    def dated_ahead(self, created: int) -> bool:
        """Whether a key of that time was made by a clock that is wrong."""
        return created > time.time() + self._policy.clock_tolerance

    def may_seal(self, key: SystemKey) -> bool:
        """Whether new keys may be wrapped under *key*, and new rows sealed under those."""
        return (
            not key.revoked
            and time.time() < self.expires(key.created)
            and not self.dated_ahead(key.created)
        )

    def creation_time(self, after: int | None = None) -> int:
        """A creation time for a new key: now, cut to the precision, but later than *after*."""
        precision = self._policy.create_date_precision
        now = int(time.time()) // precision * precision
        return now if after is None or after < now else after + 1

    def behind(self, latest: KeyRecord | None) -> int | None:
        """The time that a new key must follow: never one from a wrong clock's future."""
        return None if latest is None or self.dated_ahead(latest.created) else latest.created

    def looked_up(self, key: SystemKey, record: KeyRecord) -> SystemKey:
        """Set how long *key* may be used from this look at its *record* on."""
        key.revoked = record.revoked
        now = time.monotonic()
        interval = self._policy.revoke_check_interval
        key.refresh_at = now + interval * REFRESH_AT
        key.stale_at = now + interval
        return key

    def looked_up_under(self, key: IntermediateKey, parent: SystemKey) -> IntermediateKey:
        """Set how long *key* may be used from this look at the metastore on."""
        now = time.monotonic()
        interval = self._policy.revoke_check_interval
        key.stale_at = now + interval * (REVOKED_STALE_AT if key.revoked else 1.0)
        if key.revoked or self.dated_ahead(key.created) or not self.may_seal(parent):
            key.seal_until = key.refresh_at = 0.0
            return key
        expires = min(self.expires(key.created), self.expires(parent.created))
        key.seal_until = min(key.stale_at, parent.stale_at, now + expires - time.time())
        key.refresh_at = now + (key.seal_until - now) * REFRESH_AT
        return key

    def postpone(self, key: IntermediateKey) -> None:
        """Look again in a while: this look failed, and *key* seals until it is stale."""
        pause = self._policy.revoke_check_interval * (1 - REFRESH_AT) / 4
        key.refresh_at = min(key.seal_until, time.monotonic() + pause)
