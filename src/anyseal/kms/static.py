"""StaticKms: a master key that the process itself holds. For tests, and as the core of others."""

from __future__ import annotations

import os
import warnings
from types import TracebackType
from typing import Any, Self

from anyseal._ffi import lib, raise_for, view_writable
from anyseal.config import KEY_BYTES
from anyseal.errors import ConfigurationError
from anyseal.hints import only_async_with
from anyseal.keys import Key, master_key_of
from anyseal.kms._blob import check_key, check_wrapped, open_blob, seal_blob, wipe

__all__ = ["StaticKms"]

MASTER_KEY_VARIABLE = "STATIC_MASTER_KEY_HEX"
DEBUG_KEY = b"thisIsAStaticMasterKeyForTesting"
"""Published with Asherah: everyone has it."""


class StaticKms:
    """Wraps system keys with a master key in this process: for tests and development.

    Whoever reads the process's memory or its configuration has every key. A key hierarchy
    therefore refuses it together with a persistent metastore, unless told otherwise.

    Args:
        master_key: A Key, 32 bytes, or 64 hexadecimal characters.

    Raises:
        ConfigurationError: The key is malformed.

    Cost: one AES-GCM call; never waits.
    """

    testing = True
    """A key hierarchy must not use it for keys that are to last, unless told."""

    def __init__(self, master_key: Key | bytes | str) -> None:
        self._master = master_key_of(master_key, "master_key")

    @classmethod
    def from_env(cls) -> Self:
        """Read ``STATIC_MASTER_KEY_HEX``: 64 hexadecimal characters.

        Raises:
            ConfigurationError: Missing, not hexadecimal, or of the wrong length.
        """
        text = os.environ.get(MASTER_KEY_VARIABLE, "").strip()
        if not text:
            raise ConfigurationError(
                f"{MASTER_KEY_VARIABLE} is not set: it holds 64 hexadecimal characters"
            )
        try:
            return cls(text)
        except ConfigurationError as exc:
            raise ConfigurationError(f"{MASTER_KEY_VARIABLE}: {exc}") from None

    @classmethod
    def debug(cls) -> Self:
        """With the published testing key, to open what other implementations wrote in tests.

        Warns each time: everyone has this key.
        """
        warnings.warn(
            "StaticKms.debug() protects nothing: its master key is public. Never in production.",
            RuntimeWarning,
            stacklevel=2,
        )
        return cls(DEBUG_KEY)

    def _export(self) -> bytearray:
        """The master key outside the arena, for one call of the cipher."""
        out = bytearray(KEY_BYTES)
        code = lib.anyseal_key_export(view_writable(out), self._master._slot.handle)
        if code:
            raise_for(code)
        return out

    async def wrap(self, key: bytearray) -> bytes:
        """32 secret bytes as a blob of 60 bytes."""
        check_key(key)
        master = self._export()
        try:
            return seal_blob(master, key)
        finally:
            wipe(master)

    async def unwrap(self, wrapped: bytes) -> bytearray:
        """The 32 bytes in *wrapped*.

        Raises:
            KmsError: Tampered with, cut, or wrapped under another key.
        """
        check_wrapped(wrapped)
        master = self._export()
        try:
            return open_blob(master, bytes(wrapped))
        finally:
            wipe(master)

    async def aclose(self) -> None:
        """Does nothing: there is no connection."""

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

    def __reduce__(self) -> Any:
        raise TypeError("a KMS holds keys and cannot be pickled or copied")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._master.id}>"
