"""Credentials that are read again when AWS does not accept them any more (extra ``aws``).

botocore keeps the credentials that it read from a shared file for the life of the client. Another
process renews that file: then every request is refused until the program restarts. Here a refused
request makes the client read the configuration again and, if the credentials are other ones now,
send the request once more. The connections stay open.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from anyseal import early, offload
from anyseal.errors import MissingExtraError
from anyseal.hints import wrong_type

try:
    from aiobotocore.client import AioBaseClient
    from aiobotocore.session import AioSession
    from botocore.client import BaseClient
    from botocore.credentials import RefreshableCredentials
    from botocore.session import Session
except ImportError as _exc:  # pragma: no cover - the extra is missing
    raise MissingExtraError.of("AWS services need aiobotocore", "anyseal[aws]") from _exc

__all__ = ["Credentials", "are_refused", "check_client", "check_session", "preload", "remedy"]

# When the module is loaded, mostly before there is an event loop: objects are often made in one.
early.prepare(*early.AWS)

_log = logging.getLogger("anyseal.aws")

# docs.aws.amazon.com: AmazonS3/latest/API/ErrorResponses.html and each service's CommonErrors.html
_REFUSED = frozenset(
    {
        # Temporary credentials have ended: S3 and STS; JSON services; some say it this way.
        "ExpiredToken",
        "ExpiredTokenException",
        "RequestExpired",
        "TokenRefreshRequired",
        # The access key or the token was deleted or replaced: S3; STS; JSON services.
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "UnrecognizedClientException",
        # A new access key with the old secret: the file was read while it was written.
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
    }
)
_VAGUE = frozenset({"400", "403"})
"""How S3 says the same to a HEAD, whose answer has no body; among other things."""

_watched: weakref.WeakSet[Any] = weakref.WeakSet()

_READ = "anyseal-credentials-read"
_AGAIN = "anyseal-credentials-again"


def check_session(session: Any) -> None:
    """Raise TypeError if clients of *session* (None: of a new one) could not be awaited."""
    blocks = isinstance(session, Session) and not isinstance(session, AioSession)
    if session is not None and (blocks or not hasattr(session, "create_client")):
        raise wrong_type(
            "session", "an aiobotocore AioSession", session,
            "aiobotocore.session.get_session() makes one; profile= and the environment need none",
        )  # fmt: skip


def check_client(client: Any, service: str, method: str, remedy: str) -> None:
    """Raise TypeError if *client* is none of *service*, which has *method* (any attribute)."""
    blocks = isinstance(client, BaseClient) and not isinstance(client, AioBaseClient)
    if blocks or not hasattr(client, method):
        if hasattr(client, "__aenter__"):
            remedy = "async with it first"
        raise wrong_type("client", f"an aiobotocore {service} client", client, remedy)


def are_refused(code: str) -> bool:
    """Whether an error of this code is about the credentials."""
    return code in _REFUSED


def remedy(client: Any) -> str:
    """What to do about refused credentials of *client*, as the end of a message."""
    if client in _watched:
        return "the credentials were read again and are still not accepted: renew them"
    return "the client was given with these credentials: renew them there, or give another client"


def preload(session: Any) -> None:
    """Read the configuration of *session*, and its credentials if that takes files only. Blocks.

    botocore reads those files in the event loop, unless it finds this done.
    """
    _ = session.full_config
    _without_waiting(session.get_credentials)


def _without_waiting(find: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """What *find* returns; None if it has to wait for a server, or fails. In a worker thread."""
    finding = find()
    try:
        finding.send(None)
    except StopIteration as done:
        return done.value
    except Exception:  # such as: no event loop runs here. It is called there again.
        return None
    finally:
        finding.close()
    return None


class Credentials:
    """The credentials of clients that this library made, for one event loop.

    Args:
        session: The session that the clients are made with.
        given: Whether *session* is the caller's. Then it is asked for credentials again, but never
            replaced; and those that were set on it are left as they are.
        profile: Of our own session: a profile of the shared configuration.
    """

    def __init__(self, session: Any, *, given: bool, profile: str | None = None) -> None:
        self._session = session
        self._given = given
        self._profile = profile
        self._lock = anyio.Lock()
        self._current: Any = None
        self._signed: Any = None
        self._reads = 0
        self._changed = 0

    async def watch(self, client: Any) -> None:
        """Have *client*, just made with the session, sign with these credentials."""
        self._current = self._current or await self._session.get_credentials()
        if getattr(self._current, "method", None) == "explicit":
            return
        service = client.meta.service_model.service_id.hyphenize()
        client.meta.events.register(f"before-sign.{service}", self._before_sign)
        client.meta.events.register(f"needs-retry.{service}", self._needs_retry)
        _watched.add(client)

    async def _before_sign(self, request: Any, **_: Any) -> None:
        if self._current is None:
            await self._read(self._reads)  # perhaps there are some by now
        request.context[_READ] = self._reads
        if self._current is not None:
            self._signed = await self._current.get_frozen_credentials()
            signing = request.context.setdefault("signing", {})
            signing["request_credentials"] = self._current

    async def _needs_retry(self, response: Any, request_dict: Any, **_: Any) -> int | None:
        """0 to send the request again at once; once for each request."""
        context = request_dict["context"]
        if response is None or _AGAIN in context:
            return None
        code = str(response[1].get("Error", {}).get("Code"))
        vague = request_dict.get("method") == "HEAD" and code in _VAGUE
        if not are_refused(code) and not vague:
            return None
        if vague and isinstance(self._current, RefreshableCredentials):
            return None  # they renew themselves in time, and finding them may take requests
        if not await self._read(context.get(_READ, 0)):
            return None
        context[_AGAIN] = True
        return 0

    async def _read(self, reads: int) -> bool:
        """Read the configuration, unless that was done after *reads* readings; whether the
        credentials have changed since."""
        async with self._lock:
            if self._reads == reads:
                found = None
                try:
                    found = await self._find()
                    frozen = None if found is None else await found.get_frozen_credentials()
                except Exception as exc:  # whatever a half-written file or a server makes of it
                    _log.warning("AWS credentials cannot be read again: %s", type(exc).__name__)
                self._reads += 1
                if found is not None and frozen != self._signed:
                    self._current, self._changed = found, self._reads
                    _log.info("AWS credentials were read again and have changed")
        return self._changed > reads

    async def _find(self) -> Any:
        if self._given:
            find = self._load_given
        else:
            session: Any = AioSession(profile=self._profile)
            session.set_default_client_config(self._session.get_default_client_config())
            session.register_component("data_loader", self._session.get_component("data_loader"))
            find = session.get_credentials
        return await offload.run(_without_waiting, find) or await find()

    async def _load_given(self) -> Any:
        return await self._session.get_component("credential_provider").load_credentials()
