"""Which errors of the AWS client may go away by themselves (extras ``aws`` and ``s3``)."""

from __future__ import annotations

import ssl

from botocore import exceptions
from botocore.parsers import ResponseParserError

__all__ = ["is_transient"]


def is_transient(exc: Exception) -> bool:
    """Whether an error without an answer may go away: the network's may, ours do not."""
    if isinstance(exc, exceptions.SSLError):
        return not isinstance(exc.kwargs.get("error"), ssl.SSLCertVerificationError)
    return isinstance(
        exc,
        (
            exceptions.HTTPClientError,
            exceptions.ConnectionError,
            exceptions.CredentialRetrievalError,
            exceptions.MetadataRetrievalError,
            ResponseParserError,
        ),
    )
