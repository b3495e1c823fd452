"""AwsKms: system keys wrapped by AWS KMS in one or many regions (extra ``aws``).

The wrapped form is the public Asherah JSON: the key under a data key, and the data key under each
region's KMS key, so that any one region can unwrap it::

    {"encryptedKey":"<base64>","kmsKeks":[{"region":"…","arn":"…","encryptedKek":"<base64>"},…]}
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio

from anyseal.config import KEY_BYTES
from anyseal.errors import ConfigurationError, KmsError, one_line
from anyseal.hints import only_async_with
from anyseal.kms._blob import check_key, check_wrapped, open_blob, seal_blob, wipe
from anyseal.kms._botocore import AioSession, AwsClients
from anyseal.kms._calls import check_patience, first_success, retried

__all__ = ["AwsKms"]

logger = logging.getLogger("anyseal.kms.aws")

T = TypeVar("T")

_REGION = re.compile(r"[a-z]{2,}(-[a-z0-9]+)+", re.ASCII)
_ARN = re.compile(r"arn:[a-z-]+:kms:([a-z0-9-]+):[0-9]*:(key|alias)/.+", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Kek:
    """The data key as one region wrapped it."""

    region: str
    arn: str
    encrypted: bytes


class AwsKms:
    """Wraps system keys with AWS KMS.

    Wrapping asks the preferred region for a data key, or the next one if it does not answer, and
    has all other regions encrypt it at once. Unwrapping asks the preferred region first; the next
    one is asked when it fails, or after *hedge_after* seconds without an answer.

    Args:
        regions: The KMS key of each region, by region; or the ARN of one key.
        preferred_region: Asked first. Needed with more than one region.
        endpoint_url: Instead of AWS; for all regions, or by region. Default:
            ``AWS_ENDPOINT_URL``.
        profile: A profile of the shared AWS configuration.
        session: An aiobotocore session to use instead of one of our own.
        timeout: Seconds for one request to one region.
        hedge_after: Seconds after which the next region is asked as well.
        attempts: How often all regions are tried while the errors are retryable.
        require_all_regions: Fail to wrap unless every region took part. Otherwise one suffices,
            and the others are skipped with a warning in the log.

    Raises:
        ConfigurationError: No region, no preferred one among several, or a malformed name.

    Cost: one request to each region to wrap, one to unwrap; the clients are made on first use.
    """

    def __init__(
        self,
        regions: Mapping[str, str] | str,
        *,
        preferred_region: str | None = None,
        endpoint_url: str | Mapping[str, str] | None = None,
        profile: str | None = None,
        session: AioSession | None = None,
        timeout: float = 5.0,
        hedge_after: float = 1.0,
        attempts: int = 3,
        require_all_regions: bool = False,
    ) -> None:
        check_patience(timeout=timeout, attempts=attempts)
        if hedge_after <= 0:
            raise ConfigurationError("hedge_after must be more than 0 seconds")
        self._keys = _ordered(_by_region(regions, preferred_region), preferred_region)
        if isinstance(endpoint_url, Mapping) and (unknown := set(endpoint_url) - set(self._keys)):
            raise ConfigurationError(f"endpoint_url names other regions: {sorted(unknown)}")
        self._hedge_after = hedge_after
        self._attempts = attempts
        self._timeout = timeout
        self._require_all_regions = require_all_regions
        self._clients = AwsClients(
            "kms", endpoint_url=endpoint_url, profile=profile, session=session, timeout=timeout
        )

    @classmethod
    def from_env(cls) -> Self:
        """Read ``REGION_MAP`` (JSON) with ``PREFERRED_REGION``, or ``KMS_KEY_ID``.

        A ``KMS_KEY_ID`` that is not an ARN is of ``PREFERRED_REGION``, ``AWS_REGION`` or
        ``AWS_DEFAULT_REGION``. Credentials and ``AWS_ENDPOINT_URL`` are those of AWS.

        Raises:
            ConfigurationError: Neither is set, or malformed.
        """
        preferred = os.environ.get("PREFERRED_REGION") or None
        text = os.environ.get("REGION_MAP", "").strip()
        if not text:
            key_id = os.environ.get("KMS_KEY_ID", "").strip()
            if not key_id:
                raise ConfigurationError("neither REGION_MAP nor KMS_KEY_ID is set")
            return cls(key_id, preferred_region=preferred)
        try:
            regions = json.loads(text)
        except (ValueError, RecursionError):
            raise ConfigurationError("REGION_MAP is not JSON") from None
        if not isinstance(regions, dict):
            raise ConfigurationError("REGION_MAP is not a JSON object of region to key ARN")
        return cls(regions, preferred_region=preferred)

    async def wrap(self, key: bytearray) -> bytes:
        """32 secret bytes as the JSON that any of the regions can undo.

        Raises:
            KmsError: No region gave a data key, or one of them failed and all were required.
        """
        check_key(key)
        await self._clients.ready(self._keys)
        region, arn, encrypted, data_key = await self._retried("wrap", self._data_key)
        try:
            blob = seal_blob(data_key, key)
            keks = [_Kek(region, arn, encrypted), *await self._encrypt_elsewhere(region, data_key)]
        finally:
            wipe(data_key)
        wrapped = _encode(blob, keks)
        check_wrapped(wrapped)
        return wrapped

    async def unwrap(self, wrapped: bytes) -> bytearray:
        """The 32 bytes in *wrapped*.

        Raises:
            KmsError: No region could unwrap it; not retryable if it is malformed or refused.
        """
        check_wrapped(wrapped)
        blob, keks = _decode(bytes(wrapped))
        by_region = {kek.region: kek for kek in reversed(keks)}
        calls = [
            functools.partial(self._decrypt, by_region[region], blob)
            for region in self._keys
            if region in by_region
        ]
        if not calls:
            raise KmsError("the key was wrapped in none of our regions", retryable=False)
        await self._clients.ready(region for region in self._keys if region in by_region)
        return await self._retried(
            "unwrap", lambda: first_success(calls, hedge_after=self._hedge_after, discard=wipe)
        )

    async def _retried(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        return await retried(f"kms {what}", call, attempts=self._attempts, timeout=self._timeout)

    async def _data_key(self) -> tuple[str, str, bytes, bytearray]:
        """A fresh data key: its region, KMS key, wrapped form and bytes."""
        return await first_success(
            [functools.partial(self._generate, region) for region in self._keys],
            hedge_after=self._hedge_after,
            discard=lambda late: wipe(late[3]),
        )

    async def _generate(self, region: str) -> tuple[str, str, bytes, bytearray]:
        answer = await self._clients.call(
            region, "generate_data_key", KeyId=self._keys[region], KeySpec="AES_256"
        )
        return (
            region,
            _field(answer, "KeyId", str),
            _field(answer, "CiphertextBlob", bytes),
            _plaintext(answer),
        )

    async def _encrypt_elsewhere(self, done: str, data_key: bytearray) -> list[_Kek]:
        """The data key as every region but *done* wraps it."""
        keks: list[_Kek] = []
        errors: list[Exception] = []

        async def encrypt(region: str) -> _Kek:
            answer = await self._clients.call(
                region, "encrypt", KeyId=self._keys[region], Plaintext=bytes(data_key)
            )
            return _Kek(
                region, _field(answer, "KeyId", str), _field(answer, "CiphertextBlob", bytes)
            )

        async def work(region: str) -> None:
            try:
                keks.append(await self._retried("encrypt", functools.partial(encrypt, region)))
            except Exception as exc:
                errors.append(exc)

        async with anyio.create_task_group() as group:
            for region in self._keys:
                if region != done:
                    group.start_soon(work, region)
        for error in errors:
            if self._require_all_regions or not isinstance(error, KmsError):
                raise error
            logger.warning("a system key will not open in one of its regions: %s", one_line(error))
        return keks

    async def _decrypt(self, kek: _Kek, blob: bytes) -> bytearray:
        answer = await self._clients.call(
            kek.region,
            "decrypt",
            KeyId=_key_to_name(self._keys[kek.region], kek.arn),
            CiphertextBlob=kek.encrypted,
        )
        data_key = _plaintext(answer)
        try:
            return open_blob(data_key, blob)
        finally:
            wipe(data_key)

    async def aclose(self) -> None:
        """Close this event loop's connections. Idempotent; later calls open new ones."""
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
        return f"<AwsKms {', '.join(self._keys)}>"


def _by_region(regions: Any, preferred: str | None) -> dict[str, str]:
    """The setting as one KMS key for each region."""
    if isinstance(regions, str):
        match = _ARN.fullmatch(regions)
        region = (
            match[1]
            if match
            else preferred or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        )
        if not region:
            raise ConfigurationError("a KMS key that is not an ARN needs preferred_region")
        regions = {region: regions}
    if not isinstance(regions, Mapping):
        raise TypeError(f"regions must be a mapping or an ARN, not {type(regions).__name__}")
    if not regions:
        raise ConfigurationError("at least one region is needed")
    for region, key_id in regions.items():
        if not isinstance(region, str) or not _REGION.fullmatch(region):
            raise ConfigurationError(f"not a region: {region!r}")
        if not isinstance(key_id, str) or not key_id.strip():
            raise ConfigurationError(f"no KMS key for region {region}")
        match = _ARN.fullmatch(key_id)
        if match and match[1] != region:
            raise ConfigurationError(f"the KMS key of region {region} is of region {match[1]}")
    return dict(regions)


def _ordered(keys: dict[str, str], preferred: str | None) -> dict[str, str]:
    """The regions in the order in which they are asked."""
    if preferred is None:
        if len(keys) > 1:
            raise ConfigurationError("more than one region: preferred_region must name one")
        return keys
    if preferred not in keys:
        raise ConfigurationError(f"preferred_region {preferred!r} is none of {sorted(keys)}")
    return {preferred: keys[preferred], **keys}


def _key_to_name(configured: str, recorded: str) -> str:
    """The KMS key that must have wrapped the data key.

    The one on record, so that an alias may be moved and keys be replaced; but only if it is of
    the configured account and region. Who can write to the metastore must not have us accept
    keys that they wrapped with a KMS key of their own.
    """
    account = configured.split(":", 5)[:5]
    same_account = len(account) == 5 and recorded.split(":", 5)[:5] == account
    return recorded if same_account and _ARN.fullmatch(recorded) else configured


def _encode(blob: bytes, keks: list[_Kek]) -> bytes:
    """The public JSON, compact, regions in alphabetical order."""
    record = {
        "encryptedKey": base64.b64encode(blob).decode(),
        "kmsKeks": [
            {
                "region": kek.region,
                "arn": kek.arn,
                "encryptedKek": base64.b64encode(kek.encrypted).decode(),
            }
            for kek in sorted(keks, key=lambda kek: kek.region)
        ],
    }
    return json.dumps(record, separators=(",", ":")).encode()


def _decode(wrapped: bytes) -> tuple[bytes, list[_Kek]]:
    """The wrapped key and its data key's forms. Order, white space and other fields are free."""
    try:
        record = json.loads(wrapped.decode())
        blob = base64.b64decode(record["encryptedKey"], validate=True)
        keks = [
            _Kek(
                _text(kek["region"]),
                _text(kek["arn"]),
                base64.b64decode(_text(kek["encryptedKek"]), validate=True),
            )
            for kek in record["kmsKeks"]
        ]
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        raise KmsError("not a key that AWS KMS wrapped", retryable=False) from None
    return blob, keks


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a string")
    return value


def _field(answer: dict[str, Any], name: str, kind: type) -> Any:
    """A field of an answer, which must be there and not empty."""
    value = answer.get(name)
    if not isinstance(value, kind) or not value:
        raise KmsError(f"kms answered without {name}")
    return value


def _plaintext(answer: dict[str, Any]) -> bytearray:
    """The data key in an answer, as bytes that can be wiped."""
    data_key = bytearray(_field(answer, "Plaintext", bytes))
    del answer["Plaintext"]
    if len(data_key) != KEY_BYTES:
        wipe(data_key)
        raise KmsError("kms answered with a data key of another size", retryable=False)
    return data_key
