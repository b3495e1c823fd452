"""Limits and policies. Frozen; nothing here is read from a file."""

from __future__ import annotations

import os
from dataclasses import dataclass

from anyseal.errors import ConfigurationError

__all__ = ["BYTES_LIKE", "CryptoPolicy"]

KEY_BYTES = 32
KEY_ID_BYTES = 16
CONTEXT_MAX_BYTES = 1 << 16
PARTITION_MAX_BYTES = 1024
VALUE_MAX_BYTES = 1 << 32
ROW_MAX_BYTES = (1 << 31) - 32
"""The most plaintext of a row, for sealing and opening alike: what every AES-GCM here takes."""

EXPIRES_MAX_MS = 253_402_300_799_999
"""The last millisecond of the year 9999."""

BYTES_LIKE = (bytes, bytearray, memoryview)
"""For isinstance: a union would be built at each call, which takes ten times as long."""

UNIT_BYTES = 8 << 20
"""The most plaintext one worker call takes: a cancelled caller waits for the running call."""

STEP_BYTES = 1 << 20
"""What a worker reads, seals and writes at a time, so that it stays in the core's cache."""


def worker_count() -> int:
    """Threads that seal and open at the same time: the CPUs this process may use, at most 8."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cpus = os.cpu_count() or 1
    return max(1, min(8, cpus))


@dataclass(frozen=True, slots=True, kw_only=True)
class CryptoPolicy:
    """How long keys live and how long they are used without asking again. Seconds.

    Raises:
        ConfigurationError: A value is out of bounds.
    """

    expire_key_after: float = 90 * 86400.0
    """A key older than this seals no more; it goes on opening."""

    revoke_check_interval: float = 3600.0
    """A cached key is looked up again after this: how long a revocation may take to be noticed."""

    outage_extension: float | None = None
    """How much longer a cached key opens, and only opens, while the metastore does not answer.
    Counted from its last answer plus the interval. Default: half of the interval, so that an
    interval of 0 has no extension."""

    create_date_precision: int = 60
    """Key creation times are multiples of this, so that processes agree on one key."""

    clock_tolerance: float = 60.0
    """Keys dated further in the future than this are refused for sealing."""

    key_cache_size: int = 100_000
    """Partitions whose keys are kept ready."""

    session_cache_size: int = 1000
    """Sessions kept by ``SessionFactory.session``; 0 keeps none."""

    session_cache_duration: float = 7200.0
    """A cached session is made anew after this."""

    call_timeout: float | None = 10.0
    """How long one call of the metastore or KMS may take, its own retries included. One that takes
    longer is cancelled, or left behind in its thread. None: no limit but their own."""

    def __post_init__(self) -> None:
        bounds: dict[str, tuple[float, float]] = {
            "expire_key_after": (1, 3650 * 86400),
            "revoke_check_interval": (0, 30 * 86400),
            "outage_extension": (0, 30 * 86400),
            "create_date_precision": (1, 86400),
            "clock_tolerance": (0, 86400),
            "key_cache_size": (1, 10_000_000),
            "session_cache_size": (0, 10_000_000),
            "session_cache_duration": (0, 3650 * 86400),
            "call_timeout": (0.001, 3600),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if value is None and name in ("call_timeout", "outage_extension"):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigurationError(f"{name} must be a number")
            if not low <= value <= high:
                raise ConfigurationError(f"{name} must be {low:g} to {high:g}, not {value:g}")
        if self.create_date_precision > self.expire_key_after:
            raise ConfigurationError("create_date_precision must not exceed expire_key_after")
        if self.outage_extension and not self.revoke_check_interval:
            raise ConfigurationError(
                "outage_extension must be 0 with a revoke_check_interval of 0: no key stays cached"
            )

    @property
    def longest_use(self) -> float:
        """How long a process may open with a cached key after the metastore's last answer: the
        interval plus the extension. What ``shred`` waits for."""
        extension = self.outage_extension
        if extension is None:
            extension = self.revoke_check_interval / 2
        return self.revoke_check_interval + extension
