"""SecretsManagerKms: a master key kept in AWS Secrets Manager (extra ``aws``)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import anyio

from anyseal.errors import ConfigurationError, KmsError
from anyseal.hints import only_async_with
from anyseal.keys import Key
from anyseal.kms._blob import check_key, check_wrapped, wipe
from anyseal.kms._botocore import AioSession, AwsClients
from anyseal.kms._calls import check_patience, retried
from anyseal.kms.static import StaticKms
from anyseal.loops import PerLoop

__all__ = ["SecretsManagerKms"]

_ARN = re.compile(r"arn:[a-z-]+:secretsmanager:([a-z0-9-]+):[0-9]*:secret:.+", re.ASCII)


class SecretsManagerKms:
    """Wraps system keys with a master key that AWS Secrets Manager keeps.

    The secret is fetched once, on first use, and then stays in locked memory. It is 64
    hexadecimal characters (white space around them and a leading ``0x`` are ignored) or 32 bytes
    of binary. Never replace it while keys that it wrapped are in use: they could not be unwrapped.

    Args:
        secret_id: The secret's name or ARN.
        region: Default: the ARN's, ``AWS_REGION`` or ``AWS_DEFAULT_REGION``.
        endpoint_url: Instead of AWS. Default: ``AWS_ENDPOINT_URL``.
        profile: A profile of the shared AWS configuration.
        session: An aiobotocore session to use instead of one of our own.
        timeout: Seconds for one request.
        attempts: How often to try while the errors are retryable.

    Raises:
        ConfigurationError: No region, or no secret named.

    Cost: one request in all, then one AES-GCM call.
    """

    def __init__(
        self,
        secret_id: str,
        *,
        region: str | None = None,
        endpoint_url: str | Mapping[str, str] | None = None,
        profile: str | None = None,
        session: AioSession | None = None,
        timeout: float = 5.0,
        attempts: int = 3,
    ) -> None:
        check_patience(timeout=timeout, attempts=attempts)
        if not secret_id or not isinstance(secret_id, str):
            raise ConfigurationError("secret_id must name a secret")
        match = _ARN.fullmatch(secret_id)
        found = region or (match[1] if match else None)
        found = found or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if not found:
            raise ConfigurationError("a secret that is not named by its ARN needs region")
        self._secret_id = secret_id
        self._region = found
        self._attempts = attempts
        self._timeout = timeout
        self._lock = PerLoop(anyio.Lock)
        self._static: StaticKms | None = None
        self._clients = AwsClients(
            "secretsmanager",
            endpoint_url=endpoint_url,
            profile=profile,
            session=session,
            timeout=timeout,
        )

    @classmethod
    def from_env(cls) -> Self:
        """Read ``SECRETS_MANAGER_SECRET_ID``; the rest are AWS's own variables.

        Raises:
            ConfigurationError: Missing, or no region.
        """
        secret_id = os.environ.get("SECRETS_MANAGER_SECRET_ID", "").strip()
        if not secret_id:
            raise ConfigurationError("SECRETS_MANAGER_SECRET_ID is not set")
        return cls(secret_id)

    async def wrap(self, key: bytearray) -> bytes:
        """32 secret bytes as a blob of 60 bytes.

        Raises:
            KmsError: The secret could not be fetched, or is not a key.
        """
        check_key(key)
        return await (await self._master()).wrap(key)

    async def unwrap(self, wrapped: bytes) -> bytearray:
        """The 32 bytes in *wrapped*.

        Raises:
            KmsError: The secret could not be fetched, or the blob does not verify under it.
        """
        check_wrapped(wrapped)
        return await (await self._master()).unwrap(wrapped)

    async def _master(self) -> StaticKms:
        """The fetched key; whoever comes first fetches it, the others wait."""
        if self._static is None:
            async with self._lock.get():
                if self._static is None:
                    await self._clients.ready([self._region])
                    self._static = StaticKms(
                        await retried(
                            "secretsmanager",
                            self._fetch,
                            attempts=self._attempts,
                            timeout=self._timeout,
                        )
                    )
        return self._static

    async def _fetch(self) -> Key:
        answer = await self._clients.call(
            self._region, "get_secret_value", SecretId=self._secret_id
        )
        return _key(answer)

    async def aclose(self) -> None:
        """Close this event loop's connections. Idempotent; the fetched key stays."""
        await self._clients.aclose()

    __enter__ = only_async_with

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<SecretsManagerKms {self._secret_id} in {self._region}>"


def _key(answer: dict[str, Any]) -> Key:
    """The key in the answer, whichever way it is written."""
    text, binary = answer.get("SecretString"), answer.get("SecretBinary")
    try:
        if isinstance(text, str):
            text = text.strip()
            return Key.from_hex(text[2:] if text[:2] in ("0x", "0X") else text)
        if isinstance(binary, bytes):
            data = bytearray(binary)
            try:
                return Key.from_bytes(data)
            finally:
                wipe(data)
    except ConfigurationError:
        pass
    raise KmsError("the secret is neither 64 hexadecimal characters nor 32 bytes", retryable=False)
