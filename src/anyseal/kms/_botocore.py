"""AWS clients for any event loop, and what their errors mean (extra ``aws``: aiobotocore).

On trio the clients use aiobotocore's httpx session, on asyncio its usual one. botocore's own
retries are off. At DEBUG level botocore logs the bodies of requests and answers, which hold data
keys: its debug records are dropped while a call of ours runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import anyio

from anyseal import early, offload
from anyseal.aws.answers import SMALL_BYTES, limit_answers
from anyseal.aws.credentials import (
    Credentials,
    are_refused,
    check_session,
    preload,
    remedy,
)
from anyseal.errors import AnysealError, ConfigurationError, KmsError, MissingExtraError
from anyseal.loops import PerLoop

try:
    from aiobotocore.config import AioConfig
    from aiobotocore.httpsession import AIOHTTPSession
    from aiobotocore.httpxsession import HttpxSession
    from aiobotocore.session import AioSession
    from botocore import exceptions as botocore_exceptions
    from botocore.parsers import ResponseParserError

    from anyseal.transient import is_transient
except ImportError as _exc:  # pragma: no cover - the extra is missing
    raise MissingExtraError.of("AWS services need aiobotocore", "anyseal[aws]") from _exc

__all__ = ["AioSession", "AwsClients"]

ENDPOINT_VARIABLE = "AWS_ENDPOINT_URL"

# docs.aws.amazon.com/kms/latest/APIReference/CommonErrors.html and each operation's own page.
RETRYABLE_CODES = frozenset(
    {
        "DependencyTimeoutException",
        "InternalFailure",
        "InternalServiceError",
        "InternalServiceErrorException",
        "KMSInternalException",
        "KeyUnavailableException",
        "RequestLimitExceeded",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)

_in_call: ContextVar[bool] = ContextVar("_anyseal_aws_call", default=False)


class _NoSecrets(logging.Filter):
    """Drops debug records that are written while a call of ours runs."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.DEBUG or not _in_call.get()


_no_secrets = _NoSecrets()


def _guard_logs() -> None:
    """Put the filter on every logger of botocore: filters are not inherited."""
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in ("aiobotocore", "botocore"):
            logging.getLogger(name).addFilter(_no_secrets)  # once, however often it is added


class _Clients:
    """One event loop's clients, by region."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.session: AioSession | None = None
        self.credentials: Any = None
        self.by_region: dict[str, tuple[Any, Any]] = {}


class AwsClients:
    """Clients of one AWS service in several regions, made on first use.

    Args:
        service: ``kms`` or ``secretsmanager``.
        endpoint_url: Instead of the service's own; by region, or for all. Default:
            ``AWS_ENDPOINT_URL``. No other setting of an endpoint is heeded.
        profile: A profile of the shared configuration.
        session: An aiobotocore session to use instead of one of our own.
        timeout: Seconds for one request.
    """

    def __init__(
        self,
        service: str,
        *,
        endpoint_url: str | Mapping[str, str] | None,
        profile: str | None,
        session: AioSession | None,
        timeout: float,
    ) -> None:
        early.prepare(*early.AWS)
        if session is not None and profile is not None:
            raise ConfigurationError("give a session or a profile, not both")
        check_session(session)
        self._service = service
        self._endpoint_url = (
            os.environ.get(ENDPOINT_VARIABLE) or None if endpoint_url is None else endpoint_url
        )
        self._profile = profile
        self._session = session
        self._timeout = timeout
        self._clients = PerLoop(_Clients)

    def endpoint(self, region: str) -> str | None:
        """Where *region* is, if not at its usual place."""
        if isinstance(self._endpoint_url, Mapping):
            return self._endpoint_url.get(region)
        return self._endpoint_url

    def _config(self) -> AioConfig:
        on_asyncio = issubclass(anyio.get_cancelled_exc_class(), asyncio.CancelledError)
        return AioConfig(
            http_session_cls=AIOHTTPSession if on_asyncio else HttpxSession,
            warm_up_loader_caches=True,
            connect_timeout=self._timeout,
            read_timeout=self._timeout,
            retries={"total_max_attempts": 1, "mode": "standard"},
            ignore_configured_endpoint_urls=True,
        )

    def _ready_session(self, config: AioConfig) -> AioSession:
        """The session, with its configuration files read. Blocks."""
        session = self._session
        if session is None:
            session = AioSession(profile=self._profile)
            session.set_default_client_config(config)
        _ = session.full_config
        session.get_scoped_config()  # raises ProfileNotFound
        preload(session)
        with contextlib.suppress(ImportError):
            importlib.import_module("httpcore2")  # httpx2 would import it in the event loop
        return session

    async def _client(self, region: str) -> Any:
        clients = self._clients.get()
        found = clients.by_region.get(region)
        if found is None:
            async with clients.lock:
                found = clients.by_region.get(region)
                if found is None:
                    if clients.session is None:
                        clients.session = await offload.run(self._ready_session, self._config())
                        clients.credentials = Credentials(
                            clients.session,
                            given=self._session is not None,
                            profile=self._profile,
                        )
                    session: Any = clients.session
                    context = session.create_client(
                        self._service,
                        region_name=region,
                        endpoint_url=self.endpoint(region),
                        config=self._config(),
                    )
                    client = await context.__aenter__()
                    limit_answers(client, lambda _: self._timeout, SMALL_BYTES)
                    found = clients.by_region[region] = (context, client)
                    await clients.credentials.watch(client)
                    _guard_logs()
        return found[1]

    async def ready(self, regions: Iterable[str]) -> None:
        """Make the clients of *regions*, which reads files: not in the time of a call.

        Raises:
            ConfigurationError: The profile does not exist.
            KmsError: A client cannot be made.
        """
        made = self._clients.get().by_region
        for region in regions:
            if region not in made:
                with self._translated(f"{self._service} in {region}", region):
                    await self._client(region)

    async def call(self, region: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """One request to *region*.

        Raises:
            ConfigurationError: The profile does not exist.
            KmsError: It failed; retryable unless trying again cannot help.
        """
        where = f"{self._service} {operation} in {region}"
        with self._translated(where, region):
            client = await self._client(region)
            with anyio.fail_after(self._timeout):
                answer: dict[str, Any] = await getattr(client, operation)(**parameters)
                return answer
        raise AssertionError("unreachable")

    @contextlib.contextmanager
    def _translated(self, where: str, region: str) -> Iterator[None]:
        """What botocore raises, as errors of ours; what it logs meanwhile is not told."""
        token = _in_call.set(True)
        _guard_logs()
        try:
            yield
        except TimeoutError as exc:
            raise KmsError(f"{where}: no answer in {self._timeout:g} s") from exc
        except botocore_exceptions.ProfileNotFound as exc:
            raise ConfigurationError(str(exc)) from None
        except (botocore_exceptions.ParamValidationError, TypeError) as exc:
            # Its text quotes the parameters.
            raise KmsError(f"{where}: {type(exc).__name__}", retryable=False) from None
        except botocore_exceptions.ClientError as exc:
            _, client = self._clients.get().by_region.get(region, (None, None))
            raise _client_error(where, client, exc) from exc
        except (botocore_exceptions.BotoCoreError, ResponseParserError) as exc:
            raise KmsError(f"{where}: {type(exc).__name__}", retryable=is_transient(exc)) from exc
        except AnysealError:
            raise
        except Exception as exc:  # what botocore makes of nonsense; its text may quote the answer
            raise KmsError(f"{where}: {type(exc).__name__}") from None
        finally:
            _in_call.reset(token)

    async def aclose(self) -> None:
        """Close this event loop's clients. Later calls open new ones."""
        clients = self._clients.take()
        if clients is None:
            return
        with anyio.CancelScope(shield=True):
            for context, _ in clients.by_region.values():
                await context.__aexit__(None, None, None)


def _client_error(where: str, client: Any, exc: Any) -> KmsError:
    """What AWS answered, as a KmsError."""
    code = str(exc.response.get("Error", {}).get("Code", "unknown"))[:100]
    status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    retryable = code in RETRYABLE_CODES or status == 429 or status >= 500
    text = f"{where}: {code}"
    if are_refused(code):
        text += f" ({remedy(client)})"
    return KmsError(text, retryable=retryable)
