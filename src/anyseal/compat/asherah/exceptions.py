"""What the compatible interface raises and warns with.

::

    AsherahException                  AnysealError, RuntimeError
    ├── ConfigurationError            also ValueError, and anyseal's ConfigurationError
    ├── PartitionError                also ValueError: no name for a partition
    ├── KeyUseError                   also anyseal's KeyUseError
    ├── FormatError                   also ValueError, and anyseal's FormatError
    ├── WrongKeyError                 also LookupError, and anyseal's WrongKeyError
    │   ├── WrongPartitionError       also anyseal's WrongPartitionError
    │   └── KeyNotFoundError          also anyseal's KeyNotFoundError
    ├── DecryptionError               also anyseal's DecryptionError
    ├── MetastoreError                also anyseal's MetastoreError
    └── KmsError                      also anyseal's KmsError

Code that was written for ``asherah`` catches RuntimeError or AsherahException; new code may catch
the classes of :mod:`anyseal.errors`, and ask ``retryable``. A wrong type is a TypeError.
"""

from __future__ import annotations

import sys
import warnings

from anyseal import errors

__all__ = [
    "AsherahException",
    "CompatWarning",
    "ConfigurationError",
    "DecryptionError",
    "FormatError",
    "KeyNotFoundError",
    "KeyUseError",
    "KmsError",
    "MetastoreError",
    "MissingExtraError",
    "PartitionError",
    "WrongKeyError",
    "WrongPartitionError",
    "translated",
    "warn",
]


class CompatWarning(UserWarning):
    """A setting that does nothing here, or one that anyseal itself would refuse."""


class AsherahException(errors.AnysealError, RuntimeError):  # noqa: N818 - the public name
    """Base class of all errors of the compatible interface."""


class ConfigurationError(AsherahException, errors.ConfigurationError):
    """A setting is missing, malformed or contradicts another; or the wrong time for a call."""


class MissingExtraError(ConfigurationError, errors.MissingExtraError):
    """A package that the setting needs is not installed."""


class PartitionError(AsherahException, ValueError):
    """The partition id is empty, too long or not Unicode."""


class KeyUseError(AsherahException, errors.KeyUseError):
    """The key was wiped before this use."""


class FormatError(AsherahException, errors.FormatError):
    """Not a DataRowRecord, or not of text."""


class WrongKeyError(AsherahException, errors.WrongKeyError):
    """The record's key is not to be had."""


class WrongPartitionError(WrongKeyError, errors.WrongPartitionError):
    """The record belongs to another partition."""


class KeyNotFoundError(WrongKeyError, errors.KeyNotFoundError):
    """The metastore does not have the key that the record names."""


class DecryptionError(AsherahException, errors.DecryptionError):
    """The record does not verify."""


class MetastoreError(AsherahException, errors.MetastoreError):
    """The metastore did not answer, or not usably."""


class KmsError(AsherahException, errors.KmsError):
    """The key management service did not answer, or refused."""


_CLASSES: dict[type[errors.AnysealError], type[AsherahException]] = {
    errors.MissingExtraError: MissingExtraError,
    errors.ConfigurationError: ConfigurationError,
    errors.KeyUseError: KeyUseError,
    errors.FormatError: FormatError,
    errors.WrongPartitionError: WrongPartitionError,
    errors.KeyNotFoundError: KeyNotFoundError,
    errors.WrongKeyError: WrongKeyError,
    errors.DecryptionError: DecryptionError,
    errors.MetastoreError: MetastoreError,
    errors.KmsError: KmsError,
}


def _text_of(error: errors.AnysealError) -> str:
    """The message of *error*, with the words that the other library has where programs look for
    them."""
    if isinstance(error, errors.WrongPartitionError) and error.key_id:
        key_id = error.key_id[:512]
        shown = key_id if key_id.isprintable() else ascii(key_id)
        return f"decrypt: invalid IK id={shown} for partition: {error}"
    return str(error)


def translated(error: errors.AnysealError) -> AsherahException:
    """*error* as this interface raises it: message, ``retryable``, cause and traceback stay."""
    if isinstance(error, AsherahException):
        return error
    found = next((_CLASSES[each] for each in type(error).__mro__ if each in _CLASSES), None)
    fresh = (AsherahException if found is None else found)(_text_of(error))
    fresh.retryable = error.retryable
    if isinstance(fresh, WrongPartitionError):
        fresh.key_id = error.key_id  # type: ignore[attr-defined]
    fresh.__cause__ = error.__cause__
    fresh.__suppress_context__ = True
    return fresh.with_traceback(error.__traceback__)


def warn(message: str) -> None:
    """Warn the code that called this package."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("anyseal."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, CompatWarning, stacklevel=level)
