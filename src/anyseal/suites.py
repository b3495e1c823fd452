"""The suite table: which AEADs there are, their sizes, and which one to use."""

from __future__ import annotations

import enum

from anyseal import _ffi
from anyseal.errors import ConfigurationError, SuiteUnavailableError

__all__ = ["DEFAULT_SUITE", "Suite", "available_suites", "suite_named"]


class Suite(enum.IntEnum):
    """One AEAD with its sizes; the number is what a header holds.

    ``AEGIS256`` is the default where the CPU has AES, ``XCHACHA20POLY1305`` elsewhere;
    ``AES256GCM`` is for those whom a standard obliges.
    """

    AEGIS256 = 1
    AES256GCM = 2
    XCHACHA20POLY1305 = 3

    @property
    def tag_bytes(self) -> int:
        """Length of the authentication tag."""
        return 32 if self is Suite.AEGIS256 else 16

    @property
    def wrapped_bytes(self) -> int:
        """Length of a data key wrapped under this suite."""
        return 84 + self.tag_bytes

    @property
    def available(self) -> bool:
        """Whether this process can use it: present and passed its known-answer test."""
        return int(self) in _ffi.suites_available


TAG_BYTES = (0, 32, 16, 16)
"""Tag length by suite number, for the hot path."""

INLINE_BYTES = (0, 1 << 20, 1 << 18, 1 << 17)
"""By suite number: what may be sealed on the event loop. About 100 us at the speed of one core of
2024 (10, 4 and 1.5 GB/s), three times the cost of a hop to a worker thread and back."""

DEFAULT_SUITE = (
    Suite.AEGIS256
    if _ffi.lib.anyseal_aes_hardware() and Suite.AEGIS256.available
    else Suite.XCHACHA20POLY1305
)


def available_suites() -> list[Suite]:
    """The suites this process can use, the default first."""
    return sorted((s for s in Suite if s.available), key=lambda s: (s is not DEFAULT_SUITE, s))


def suite_named(suite: Suite | str | int | None) -> Suite:
    """The suite that *suite* names; ``None`` is the default.

    Raises:
        ConfigurationError: No suite has this name.
        SuiteUnavailableError: This libsodium or CPU does not have it.
    """
    if suite is None:
        return DEFAULT_SUITE
    try:
        found = Suite[suite] if isinstance(suite, str) else Suite(suite)
    except (KeyError, ValueError):
        names = ", ".join(s.name for s in Suite)
        raise ConfigurationError(f"unknown suite {suite!r}: one of {names}") from None
    if not found.available:
        raise SuiteUnavailableError(f"{found.name}: this libsodium or CPU does not have it")
    return found
