"""What every part of a sealed bucket knows: its calls, its keys, its sizes."""

from __future__ import annotations

from typing import Any

from anyseal import early
from anyseal.config import BYTES_LIKE, CONTEXT_MAX_BYTES
from anyseal.errors import ConfigurationError
from anyseal.hints import not_keyring
from anyseal.keys import Key
from anyseal.objects.sealer import CHUNK_SIZE
from anyseal.ports import Keyring, resolve_partition
from anyseal.s3.arguments import (
    KEY_METADATA,
    SUITE_METADATA,
    checked_chunk_size,
    checked_slots,
    whole,
)
from anyseal.s3.calls import ATTEMPTS, Calls
from anyseal.suites import Suite, suite_named

__all__ = ["PART_SIZE", "BucketBase", "ClientToCome"]

PART_SIZE = 8 << 20
"""Plaintext bytes of a part, unless an object needs larger ones."""

_LOCATION = b"anyseal s3 location v1"


class ClientToCome:
    """Stands for a client that is made later, while settings are checked."""

    meta = None


class BucketBase:
    """Settings that the calls of a sealed bucket share.

    Args:
        client: An aiobotocore S3 client; used, not closed. Its own retries should be off.
        bucket: The bucket's name.
        keyring: A Key, or a Keyring; then each call takes ``partition=``.
        suite: For new objects. Default: the machine's best.
        chunk_size: Bytes that are verified together, for new objects; see ObjectWriter.
        part_size: Bytes of a part in the bucket, wished; of uploads by workers its plaintext,
            see docs/format.md for what it becomes.
        concurrency: Requests of one operation at the same time.
        bind_location: Authenticate bucket and key with each object, so that one does not open
            under another name. A copy must then be sealed again.
        attempts: How often a request is tried while its error may go away; the pauses in between
            double from 0.1 to 5 seconds, which is about 12 seconds for 8 attempts.

    Raises:
        ConfigurationError: A setting is out of bounds.
        TypeError: One is of another type.
    """

    def __init__(
        self,
        client: Any,
        bucket: str,
        keyring: Key | Keyring,
        *,
        suite: Suite | str | None = None,
        chunk_size: int = CHUNK_SIZE,
        part_size: int = PART_SIZE,
        concurrency: int = 4,
        bind_location: bool = False,
        attempts: int = ATTEMPTS,
    ) -> None:
        early.prepare(*early.AWS)
        suite_named(suite)
        if whole("attempts", attempts) < 1:
            raise ConfigurationError("attempts must be positive")
        if not isinstance(keyring, (Key, Keyring)):
            raise not_keyring(keyring)
        self._calls = Calls(client, bucket, attempts=attempts)
        self._keyring = keyring
        self._suite = suite
        self._chunk_size = checked_chunk_size(chunk_size)
        self._part_size = self._wished(part_size)
        self._concurrency = checked_slots(concurrency)
        self._bind_location = bind_location

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self._calls.bucket

    def _wished(self, part_size: int | None) -> int:
        """Plaintext bytes of a part, by a call or else by the bucket's settings."""
        if part_size is None:
            return self._part_size
        if whole("part_size", part_size) < 1:
            raise ConfigurationError("part_size must be positive")
        return part_size

    def _slots(self, concurrency: int | None) -> int:
        """Requests at the same time, by a call or else by the bucket's settings."""
        return self._concurrency if concurrency is None else checked_slots(concurrency)

    def _named(self, key: Key, suite: Suite) -> dict[str, str]:
        """Our part of an object's metadata."""
        return {KEY_METADATA: key.key_id.hex(), SUITE_METADATA: suite.name}

    def _partition(self, partition: str | None) -> str:
        """The partition's name, checked; empty with a Key."""
        return resolve_partition(self._keyring, partition)

    def _context(self, key: str, context: Any) -> bytes:
        """The context that is authenticated for the object under *key*."""
        if not isinstance(key, str):
            raise TypeError(f"key must be str, not {type(key).__name__}")
        if not 1 <= len(key.encode()) <= 1024:
            raise ValueError("an object's key has 1 to 1,024 bytes in UTF-8")
        if not isinstance(context, BYTES_LIKE):
            raise TypeError(f"context must be bytes-like, not {type(context).__name__}")
        given = bytes(context)
        if self._bind_location:
            fields = (_LOCATION, self.bucket.encode(), key.encode(), given)
            given = b"".join(len(part).to_bytes(4) + part for part in fields)
        if len(given) > CONTEXT_MAX_BYTES:
            raise ValueError(f"context is longer than {CONTEXT_MAX_BYTES:,} bytes")
        return given
