"""Everything anyseal raises.

::

    AnysealError                      base class; ``retryable`` says whether trying again can help
    ├── ConfigurationError            a setting is missing, malformed or contradictory
    │   ├── MissingExtraError         also ImportError: a package is not installed; says which
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
    │   ├── SourceChangedError        the source changed while it was being read
    │   ├── ObjectNotFoundError       there is no such object
    │   └── PreconditionFailedError   if_match or if_none_match did not hold; nothing was written
    ├── UploadError                   a multipart upload cannot go on
    │   ├── UploadNotFoundError       it was completed or aborted, or never was
    │   ├── UploadIncompleteError     parts are missing; ``missing`` has their numbers
    │   └── PartReplacedError         a part is not the one of the receipt; ``part`` has its number
    ├── CacheError                    the cache cannot do what was asked
    │   └── BackendError              its backend did not answer, or not usably
    └── OutputExistsError             the destination exists and overwriting was not asked for

No message holds a key, a plaintext or a context. :class:`DecryptionError` gives no reason: which
check failed is nobody's business but an attacker's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

__all__ = [
    "AnysealError",
    "BackendError",
    "CacheError",
    "ConfigurationError",
    "DecryptionError",
    "ExpiredError",
    "FormatError",
    "KeyNotFoundError",
    "KeyUseError",
    "KmsError",
    "MetastoreError",
    "MissingExtraError",
    "ObjectNotFoundError",
    "OutputExistsError",
    "PartReplacedError",
    "PreconditionFailedError",
    "SourceChangedError",
    "SourceError",
    "SuiteUnavailableError",
    "UploadError",
    "UploadIncompleteError",
    "UploadNotFoundError",
    "WriterStateError",
    "WrongKeyError",
    "WrongPartitionError",
]


def one_line(text: object) -> str:
    """*text* as one line without control characters: others choose the names that are in it, and
    a line break in an object's key would forge a line of a log."""
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)


class AnysealError(Exception):
    """Base class of all errors that anyseal raises on its own account.

    Their text is one line, whatever the names in it.
    """

    retryable: bool = False

    def __str__(self) -> str:
        return one_line(super().__str__())


class ConfigurationError(AnysealError, ValueError):
    """A setting is missing, malformed or contradicts another."""


class MissingExtraError(ConfigurationError, ImportError):
    """A package that an extra brings is not installed; the message has the command."""

    @classmethod
    def of(cls, what: str, install: str) -> Self:
        """The error for *what*, which ``pip install`` *install* mends."""
        return cls(f"{what}: pip install " + (f"'{install}'" if "[" in install else install))


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

    key_id: str = ""
    """The id of that key: whoever wrote the record chose it."""


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


class ObjectNotFoundError(SourceError, FileNotFoundError):
    """There is no such object (or version) in the bucket."""

    retryable = False


class PreconditionFailedError(SourceError):
    """``if_match`` or ``if_none_match`` did not hold. Nothing was written."""

    retryable = False


class UploadError(AnysealError):
    """A multipart upload cannot go on."""


class UploadNotFoundError(UploadError, LookupError):
    """The upload was completed or aborted, or never existed."""


class UploadIncompleteError(UploadError):
    """Parts are missing."""

    def __init__(self, missing: Sequence[int]) -> None:
        shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        what = "1 part is" if len(missing) == 1 else f"{len(missing):,} parts are"
        super().__init__(f"{what} missing: {shown}")
        self.missing = list(missing)


class PartReplacedError(UploadError):
    """Another sealing of a part took the place of the one that its receipt is for."""

    def __init__(self, part: int) -> None:
        super().__init__(f"part {part} was replaced: upload it again")
        self.part = part


class CacheError(AnysealError):
    """The cache cannot do what was asked."""


class BackendError(CacheError):
    """The cache's backend did not answer, refused, or answered with something unusable."""

    retryable = True
    refused = False
    """True: the backend answered that it will not do this, such as a full Redis for a write. It is
    alive, so the circuit breaker does not count it."""


class OutputExistsError(AnysealError, FileExistsError):
    """The destination exists, and overwriting was not asked for."""
