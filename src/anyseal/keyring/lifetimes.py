"""How long a hierarchy's keys may be used: what a policy says of a key of some age."""

from __future__ import annotations

import math
import time
from typing import Protocol

from anyseal.config import CryptoPolicy
from anyseal.keyring.cached import ENDED, REFRESH_AT, IntermediateKey, SystemKey

__all__ = ["REVOKED_STALE_AT", "Cached", "Lifetimes"]

REVOKED_STALE_AT = 0.1
"""Of both interval and extension: a revoked key is looked up sooner, for it may get deleted."""


class Cached(Protocol):
    """What was looked up in the metastore and is looked up again; times are monotonic."""

    revoked: bool
    answered_at: float
    """When the look began that was answered last."""
    look_at: float
    """From here a caller takes the long way, and has it looked up again."""


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

    def newest_allowed(self) -> int:
        """The latest time of a key that is not dated ahead."""
        return math.floor(time.time() + self._policy.clock_tolerance)

    def answered(self, key: Cached, *, revoked: bool, begun: float) -> None:
        """The metastore has *key*; *begun* is when it was asked, on the monotonic clock.

        Counted from the question: an answer may be as old as that, however late it arrives. One
        to an earlier question than the last is of no account.
        """
        if begun < key.answered_at:
            return
        key.revoked = revoked
        key.answered_at = begun
        key.look_at = self._first_look(key)

    def _first_look(self, key: Cached) -> float:
        return key.answered_at + self._share(key) * self._policy.revoke_check_interval * REFRESH_AT

    def _share(self, key: Cached) -> float:
        return REVOKED_STALE_AT if key.revoked else 1.0

    def stale_at(self, key: Cached) -> float:
        """From here *key* opens only while the metastore does not answer."""
        return key.answered_at + self._share(key) * self._policy.revoke_check_interval

    def open_until(self, key: Cached) -> float:
        """From here *key* opens nothing before the metastore has answered."""
        return key.answered_at + self._share(key) * self._policy.longest_use

    def asked(self, key: Cached) -> bool:
        """Whether a look began since the last answer."""
        return key.look_at != self._first_look(key)

    def asking(self, key: Cached) -> None:
        """A look begins: if it fails or takes long, the next one begins after a pause."""
        key.look_at = min(self.open_until(key), time.monotonic() + self.pause)

    @property
    def pause(self) -> float:
        """Seconds between two looks at a metastore that does not answer."""
        return self._policy.revoke_check_interval * (1 - REFRESH_AT) / 4

    def looked_up_under(
        self, key: IntermediateKey, parent: SystemKey, *, revoked: bool, begun: float
    ) -> IntermediateKey:
        """Set how long *key* may be used from this look at the metastore on."""
        if begun < key.answered_at:
            return key
        self.answered(key, revoked=revoked, begun=begun)
        key.parent = parent.place
        if key.revoked or self.dated_ahead(key.created) or not self.may_seal(parent):
            key.seal_until = key.refresh_at = ENDED
            return key
        now = time.monotonic()
        expires = min(self.expires(key.created), self.expires(parent.created))
        key.seal_until = min(self.stale_at(key), self.stale_at(parent), now + expires - time.time())
        key.refresh_at = now + (key.seal_until - now) * REFRESH_AT
        return key

    def postpone(self, key: IntermediateKey) -> None:
        """Look again in a while: this look failed, and *key* seals until it is stale."""
        key.refresh_at = min(key.seal_until, time.monotonic() + self.pause)
