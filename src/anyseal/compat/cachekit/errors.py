"""What the compatible interface raises.

::

    SerializationError                AnysealError: a value or an entry has not the form it should
    ├── EnvelopeShapeError            also FormatError: the envelope is malformed, or too large
    ├── SuspiciousCacheEntryError     an entry claims to be plaintext where all is encrypted
    └── EncryptionError               encryption could not be set up, or failed
        └── DecryptionAuthenticationError  also DecryptionError: it does not verify
            └── TenantMismatchError   the entry is another tenant's
    ConfigurationError                also anyseal's, and ValueError
    ├── KeyringConfigurationError     the keys that still open are not usable
    └── MissingExtraError             also ImportError: a package is not installed
    TenantResolutionError             ValueError: no tenant for this call
    InteropError                      ValueError: not what all languages can read
"""

from __future__ import annotations

from anyseal import errors

__all__ = [
    "CompatWarning",
    "ConfigurationError",
    "DecryptionAuthenticationError",
    "EncryptionError",
    "EnvelopeShapeError",
    "InteropError",
    "KeyringConfigurationError",
    "MissingExtraError",
    "SerializationError",
    "SuspiciousCacheEntryError",
    "TenantMismatchError",
    "TenantResolutionError",
]


class CompatWarning(UserWarning):
    """A setting that is accepted but does nothing here."""


class ConfigurationError(errors.ConfigurationError):
    """A setting is missing, malformed or contradicts another."""


class KeyringConfigurationError(ConfigurationError):
    """The previous master keys are malformed, too many, or contain the current one."""


class MissingExtraError(ConfigurationError, errors.MissingExtraError):
    """A package that this needs is not installed."""


class TenantResolutionError(errors.AnysealError, ValueError):
    """There is no usable tenant for this call. Its entry stays as it is."""


class InteropError(errors.AnysealError, ValueError):
    """A name, an argument or a value that not every language could read."""


class SerializationError(errors.AnysealError):
    """A value cannot be stored, or an entry cannot be read."""


class EnvelopeShapeError(SerializationError, errors.FormatError):
    """The bytes are not an envelope, or exceed a limit."""


class SuspiciousCacheEntryError(SerializationError):
    """An entry without encryption was found where every entry is encrypted."""


class EncryptionError(SerializationError):
    """Encryption cannot be set up, or failed."""


class DecryptionAuthenticationError(EncryptionError, errors.DecryptionError):
    """The entry does not verify. Nothing was released."""

    def __init__(
        self, message: str = "Decryption failed: authentication tag verification failed"
    ) -> None:
        super().__init__(message)


class TenantMismatchError(DecryptionAuthenticationError):
    """The entry says that it belongs to another tenant."""

    def __init__(self, message: str = "the entry belongs to another tenant") -> None:
        super().__init__(message)
