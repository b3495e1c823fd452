"""Limits and policies. Frozen; nothing here is read from a file."""

from __future__ import annotations

import os

KEY_BYTES = 32
KEY_ID_BYTES = 16
CONTEXT_MAX_BYTES = 1 << 16
PARTITION_MAX_BYTES = 1024
VALUE_MAX_BYTES = 1 << 32
ROW_MAX_BYTES = (1 << 31) - 32
"""The most plaintext of a row, for sealing and opening alike: what every AES-GCM here takes."""

EXPIRES_MAX_MS = 253_402_300_799_999
"""The last millisecond of the year 9999."""

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
