"""What every part of a sealed bucket knows: its calls, its keys, its sizes."""

from __future__ import annotations

from typing import Any

from anyseal.config import CONTEXT_MAX_BYTES
from anyseal.errors import ConfigurationError
from anyseal.keys import Key
from anyseal.objects.sealer import CHUNK_SIZE
from anyseal.ports import Keyring, resolve_partition
from anyseal.s3.calls import ATTEMPTS, Calls
from anyseal.suites import Suite

__all__ = ["KEY_METADATA", "PART_SIZE", "SUITE_METADATA", "BucketBase", "conditions"]

PART_SIZE = 8 << 20
"""Plaintext bytes of a part, unless an object needs larger ones."""

KEY_METADATA = "anyseal-key"
"""The partition key's id in hexadecimal, in the metadata: for people; the header counts."""

SUITE_METADATA = "anyseal-suite"

_LOCATION = b"anyseal s3 location v1"


def conditions(if_none_match: bool, if_match: str | None) -> dict[str, str]:
    """The conditions of a write, by S3's names. Raises ValueError if both are given."""
    if if_none_match and if_match is not None:
        raise ValueError("if_none_match and if_match exclude each other")
    if if_none_match:
        return {"IfNoneMatch": "*"}
    return {} if if_match is None else {"IfMatch": if_match}


class BucketBase:
    """Settings that the calls of a sealed bucket share.

    Args:
        client: An aiobotocore S3 client; used, not closed. Its own retries should be off.
        bucket: The bucket's name.
        keyring: A Key, or a Keyring; then each call takes ``partition=``.
        suite: For new objects. Default: the machine's best.
        chunk_size: Bytes that are verified together, for new objects; see ObjectWriter.
        part_size: Plaintext bytes of a part, wished; see docs/format.md for what it becomes.
        concurrency: Requests of one operation at the same time.
        bind_location: Authenticate bucket and key with each object, so that one does not open
            under another name. A copy must then be sealed again.
        attempts: How often a request is tried while its error may go away.
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
        if not 1 <= concurrency <= 256:
            raise ConfigurationError("concurrency must be 1 to 256")
        self._calls = Calls(client, bucket, attempts=attempts)
        self._keyring = keyring
        self._suite = suite
        self._chunk_size = chunk_size
        self._part_size = part_size
        self._concurrency = concurrency
        self._bind_location = bind_location

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self._calls.bucket

    def _partition(self, partition: str | None) -> str:
        """The partition's name, checked; empty with a Key."""
        return resolve_partition(self._keyring, partition)

    def _context(self, key: str, context: Any) -> bytes:
        """The context that is authenticated for the object under *key*."""
        if not isinstance(key, str):
            raise TypeError(f"key must be str, not {type(key).__name__}")
        if not 1 <= len(key.encode()) <= 1024:
            raise ValueError("an object's key has 1 to 1,024 bytes in UTF-8")
        if not isinstance(context, bytes | bytearray | memoryview):
            raise TypeError(f"context must be bytes-like, not {type(context).__name__}")
        given = bytes(context)
        if self._bind_location:
            fields = (_LOCATION, self.bucket.encode(), key.encode(), given)
            given = b"".join(len(part).to_bytes(4) + part for part in fields)
        if len(given) > CONTEXT_MAX_BYTES:
            raise ValueError(f"context is longer than {CONTEXT_MAX_BYTES:,} bytes")
        return given
