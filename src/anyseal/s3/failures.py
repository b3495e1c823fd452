"""What aiobotocore and its transports raise, as errors of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from anyseal.aws.credentials import are_refused, remedy
from anyseal.errors import (
    AnysealError,
    ConfigurationError,
    MissingExtraError,
    ObjectNotFoundError,
    PreconditionFailedError,
    SourceError,
    UploadError,
    UploadNotFoundError,
)

try:
    from botocore import exceptions as botocore_exceptions
    from botocore.parsers import ResponseParserError

    from anyseal.aws.answers import limit_answers
    from anyseal.transient import is_transient
except ImportError as _exc:  # pragma: no cover - the extra is missing
    raise MissingExtraError.of("S3 needs aiobotocore", "anyseal[aws]") from _exc

__all__ = [
    "CredentialsRefusedError",
    "RangeNotSatisfiableError",
    "limit_answers",
    "translated",
    "unmet",
]

# docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_MISSING = frozenset({"NoSuchKey", "NoSuchVersion", "404", "NotFound"})
_RETRYABLE = frozenset(
    {
        # The bytes were damaged on their way, or not all of them arrived: the same bytes again.
        "BadDigest",
        "IncompleteBody",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
        "BandwidthLimitExceeded",
        "ConditionalRequestConflict",
        "InternalError",
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestTimeout",
        "RequestTimeTooSkewed",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
    }
)
_UNCONFIGURED = (
    botocore_exceptions.NoCredentialsError,
    botocore_exceptions.NoRegionError,
    botocore_exceptions.PartialCredentialsError,
)
_UPLOAD = frozenset({"InvalidPart", "InvalidPartOrder", "EntityTooSmall", "EntityTooLarge"})


class RangeNotSatisfiableError(SourceError):
    """The range begins after the object's end (or the object is empty)."""

    retryable = False


class CredentialsRefusedError(SourceError):
    """S3 does not accept the credentials, or not any more."""

    retryable = False


@contextlib.contextmanager
def translated(where: str, client: Any = None) -> Any:
    """Turn what *client*, of aiobotocore, and its transports raise into errors of ours."""
    try:
        yield
    except (AnysealError, MemoryError):
        raise
    except botocore_exceptions.ClientError as exc:
        raise _client_error(where, exc, client) from exc
    except botocore_exceptions.ParamValidationError as exc:
        raise ConfigurationError(f"{where}: {' '.join(str(exc).split())}") from None
    except _UNCONFIGURED as exc:
        raise ConfigurationError(f"{where}: {exc}") from exc
    except (botocore_exceptions.BotoCoreError, ResponseParserError) as exc:
        error = SourceError(f"{where}: {type(exc).__name__}")
        error.retryable = is_transient(exc)
        raise error from exc
    except (OSError, EOFError) as exc:
        raise SourceError(f"{where}: {type(exc).__name__}") from exc
    except Exception as exc:
        error = SourceError(f"{where}: {type(exc).__name__}")
        # Else it is what botocore makes of an answer that is nonsense: not all of it is its own.
        module = type(exc).__module__.partition(".")[0]
        error.retryable = module in ("aiohttp", "httpx", "httpx2", "httpcore2")
        raise error from exc


def _client_error(where: str, exc: Any, client: Any = None) -> AnysealError:
    """What S3 answered, as an error of ours."""
    code = str(exc.response.get("Error", {}).get("Code", "unknown"))[:100]
    status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    text = f"{where}: {code}"
    if code in ("400", "403"):  # to a HEAD, which is answered without a body
        text += " (S3 does not say why; one reason is that the credentials have ended)"
    if code == "NoSuchUpload":
        return UploadNotFoundError(text)
    if code in _MISSING:
        return ObjectNotFoundError(text)
    if code == "PreconditionFailed" or status == 412:
        return PreconditionFailedError(text)
    if code == "InvalidRange" or status == 416:
        return RangeNotSatisfiableError(text)
    if code in _UPLOAD:
        return UploadError(text)
    if are_refused(code):
        return CredentialsRefusedError(f"{text} ({remedy(client)})")
    error = SourceError(text)
    error.retryable = code in _RETRYABLE or status in (408, 429) or status >= 500
    return error


@contextlib.contextmanager
def unmet(where: str) -> Iterator[None]:
    """Where there is no object, none has the entity tag that was asked for: AWS says 404 to that.

    Raises:
        PreconditionFailedError: That is so.
    """
    try:
        yield
    except botocore_exceptions.ClientError as exc:
        error = _client_error(where, exc)
        if isinstance(error, ObjectNotFoundError):
            raise PreconditionFailedError(f"{where}: there is no such object") from exc
        raise
