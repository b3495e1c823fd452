"""Everything anyseal raises.

::

    AnysealError                      base class; ``retryable`` says whether trying again can help
    ├── ConfigurationError            a setting is missing, malformed or contradictory
    │   └── SuiteUnavailableError     this libsodium or CPU does not have the suite
    ├── KeyUseError                   a key was used after it was wiped
    ├── FormatError                   not something anyseal wrote, or a version it does not know
    ├── WrongKeyError                 the key id is unknown under this partition
    │   ├── WrongPartitionError       the record belongs to another partition
    │   └── KeyNotFoundError          the metastore does not have the key that the record names
    ├── DecryptionError               it does not verify; nothing was released
    ├── ExpiredError                  authentic, but past its expiry
    ├── MetastoreError                the metastore did not answer, or not usably
    ├── KmsError                      the key management service did not answer, or refused
    ├── WriterStateError              the writer is finished, or failed and must not go on
    ├── SourceError                   a source or sink did not give or take the bytes
    │   └── SourceChangedError        the source changed while it was being read
    └── OutputExistsError             the destination exists and overwriting was not asked for

No message holds a key, a plaintext or a context. :class:`DecryptionError` gives no reason: which
check failed is nobody's business but an attacker's.
"""

from __future__ import annotations

__all__ = [
    "AnysealError",
    "ConfigurationError",
    "DecryptionError",
    "ExpiredError",
    "FormatError",
    "KeyNotFoundError",
    "KeyUseError",
    "KmsError",
    "MetastoreError",
    "OutputExistsError",
    "SourceChangedError",
    "SourceError",
    "SuiteUnavailableError",
    "WriterStateError",
    "WrongKeyError",
    "WrongPartitionError",
]


class AnysealError(Exception):
    """Base class of all errors that anyseal raises on its own account."""

    retryable: bool = False


class ConfigurationError(AnysealError, ValueError):
    """A setting is missing, malformed or contradicts another."""


class SuiteUnavailableError(ConfigurationError):
    """The suite is known, but this libsodium or CPU does not have it."""


class KeyUseError(AnysealError):
    """The key was wiped, or its slot was released, before this use."""


class FormatError(AnysealError, ValueError):
    """The bytes are not what anyseal writes, or of a version it does not know."""


class WrongKeyError(AnysealError, LookupError):
    """The key id is unknown under this partition."""


class WrongPartitionError(WrongKeyError):
    """The record names a key that this partition's sessions may not use."""


class KeyNotFoundError(WrongKeyError):
    """The metastore does not have the key that the record names."""


class MetastoreError(AnysealError):
    """The metastore did not answer, or with something that cannot be used."""

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class KmsError(AnysealError):
    """The key management service did not answer, or refused."""

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class DecryptionError(AnysealError):
    """The bytes do not verify under this key, partition and context. Nothing was released."""

    def __init__(self, message: str = "does not verify") -> None:
        super().__init__(message)


class ExpiredError(AnysealError):
    """The value is authentic but its expiry has passed. Nothing was released."""

    def __init__(self, message: str = "expired") -> None:
        super().__init__(message)


class WriterStateError(AnysealError):
    """The writer is finished, or an error, a cancellation or a fork ended it."""


class SourceError(AnysealError, OSError):
    """A source or sink did not give or take the bytes."""

    retryable = True


class SourceChangedError(SourceError):
    """The source is no longer what was opened (another size or entity tag)."""


class OutputExistsError(AnysealError, FileExistsError):
    """The destination exists, and overwriting was not asked for."""
