"""What hooks are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = ["AuditEvent", "AuditHook", "CacheEvent", "MetricsHook", "TimingEvent"]


@dataclass(frozen=True, slots=True)
class TimingEvent:
    """How long an operation took."""

    operation: Literal["encrypt", "decrypt", "load", "store"]
    duration_ns: int


@dataclass(frozen=True, slots=True)
class CacheEvent:
    """What a cache had or did: the thing, nothing, something too old to use unchecked, ..."""

    outcome: Literal[
        "hit", "miss", "stale",
        "local-hit", "set", "delete", "tampered", "wrong-key", "old-key", "resealed", "expired",
        "backend-error", "abandoned",
    ]  # fmt: skip
    cache: str
    """``session``, ``intermediate-key`` or ``system-key``; for ``anyseal.cache`` the namespace.
    Only the latter has more outcomes than the first three."""


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Who used which key for what, and how it ended."""

    partition: str
    key_id: str
    operation: Literal["encrypt", "decrypt", "revoke", "rotate", "rewrap", "shred"]
    outcome: str
    """``ok``, or the name of the exception's class."""


class MetricsHook(Protocol):
    """Called with each event, in the thread that caused it; must be quick and must not raise."""

    def __call__(self, event: TimingEvent | CacheEvent, /) -> None: ...


class AuditHook(Protocol):
    """Called with each use of a key; must be quick and must not raise."""

    def __call__(self, event: AuditEvent, /) -> None: ...
