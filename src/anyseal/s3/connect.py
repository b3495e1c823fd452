"""An S3 client that is set up the right way, on any event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import math
import os
from collections.abc import AsyncIterator
from typing import Any

import anyio

from anyseal import offload
from anyseal.errors import ConfigurationError, MissingExtraError
from anyseal.s3.arguments import whole

try:
    from aiobotocore.config import AioConfig
    from aiobotocore.httpsession import AIOHTTPSession
    from aiobotocore.httpxsession import HttpxSession
    from aiobotocore.session import AioSession
    from botocore import exceptions as botocore_exceptions
    from botocore.loaders import create_loader

    from anyseal.aws.credentials import Credentials, preload
except ImportError as _exc:  # pragma: no cover - the extra is missing
    raise MissingExtraError.of("S3 needs aiobotocore", "anyseal[aws]") from _exc

__all__ = ["connect"]

ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


def _config(endpoint_url: str | None, concurrency: int, timeout: float) -> AioConfig:
    on_asyncio = issubclass(anyio.get_cancelled_exc_class(), asyncio.CancelledError)
    s3: dict[str, Any] = {}
    if endpoint_url is not None:
        s3["addressing_style"] = "path"
        if endpoint_url.startswith("http:"):
            # Over https botocore does not hash bodies either; what is sealed needs no such proof.
            s3["payload_signing_enabled"] = False
    return AioConfig(
        http_session_cls=AIOHTTPSession if on_asyncio else HttpxSession,
        warm_up_loader_caches=True,
        connect_timeout=timeout,
        read_timeout=timeout,
        max_pool_connections=concurrency,
        retries={"total_max_attempts": 1, "mode": "standard"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3=s3,
    )


@functools.cache
def _loader() -> Any:
    """The parsed descriptions of the AWS services: reading them takes longer than all the rest."""
    return create_loader()


def _ready_session(
    profile: str | None, endpoint_url: str | None, credentials: bool
) -> tuple[AioSession, str | None]:
    """A session with its configuration files read, those of *credentials* too if it needs them,
    and the endpoint if it is not AWS's. Blocks."""
    session = AioSession(profile=profile)
    _ = session.full_config
    if session.get_config_variable("data_path") is None:
        session.register_component("data_loader", _loader())
    profiled = session.get_scoped_config().get("endpoint_url")  # raises ProfileNotFound
    if credentials:
        preload(session)
    if endpoint_url is None:
        variables = (os.environ.get(name) or None for name in ENDPOINT_VARIABLES)
        endpoint_url = next(filter(None, variables), profiled)
    with contextlib.suppress(ImportError):
        importlib.import_module("httpcore2")  # httpx2 would import it in the event loop
    return session, endpoint_url


@contextlib.asynccontextmanager
async def connect(
    *,
    endpoint_url: str | None = None,
    region: str | None = None,
    access_key: str | None = None,
    secret_key: str | None = None,
    session_token: str | None = None,
    profile: str | None = None,
    concurrency: int = 32,
    timeout: float = 60.0,
) -> AsyncIterator[Any]:
    """An aiobotocore S3 client for :class:`SealedBucket`, open for the ``async with`` block.

    On trio it uses httpx, elsewhere aiohttp. Its own retries are off: a SealedBucket has its own.

    Args:
        endpoint_url: Instead of AWS; then with the bucket's name in the path. Default: what the
            AWS configuration says.
        region: Default: what the AWS configuration says.
        access_key: With *secret_key*: credentials. Default: AWS's usual places.
        secret_key: See *access_key*.
        session_token: Of temporary credentials.
        profile: A profile of the shared configuration.
        concurrency: Connections at the same time.
        timeout: Seconds for a request without a body, from connecting to the end of the answer;
            CompleteMultipartUpload and copies, which S3 itself answers slowly, may take ten times
            as long. For bodies, sent or received: seconds for the next 64 KiB, or 256 KiB sent.

    Raises:
        ConfigurationError: A setting is missing or contradicts another.
    """
    whole("concurrency", concurrency)
    if concurrency < 1 or not 0 < timeout < math.inf:
        raise ConfigurationError("concurrency and timeout must be positive")
    if (access_key is None) != (secret_key is None):
        raise ConfigurationError("access_key and secret_key go together")
    if session_token is not None and access_key is None:
        raise ConfigurationError("session_token goes with access_key and secret_key")
    try:
        ready = await offload.run(_ready_session, profile, endpoint_url, access_key is None)
        session: Any = ready[0]
        context = session.create_client(
            "s3",
            region_name=region,
            endpoint_url=ready[1],
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            aws_session_token=session_token,
            config=_config(ready[1], concurrency, timeout),
        )
        client = await context.__aenter__()
        if access_key is None:
            await Credentials(session, given=False, profile=profile).watch(client)
    except (botocore_exceptions.BotoCoreError, ValueError) as exc:
        raise ConfigurationError(f"no S3 client: {exc}") from None
    try:
        yield client
    finally:
        with anyio.CancelScope(shield=True):
            await context.__aexit__(None, None, None)
