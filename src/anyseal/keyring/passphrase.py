"""PassphraseKeyring: keys from a passphrase through Argon2id, for people and files."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from typing import Any, NoReturn, Self

from anyseal import early, offload
from anyseal._ffi import ffi, lib, view, view_writable
from anyseal.config import KEY_BYTES
from anyseal.errors import ConfigurationError, WrongKeyError
from anyseal.hints import use_with
from anyseal.keyring.static import partition_bytes
from anyseal.keys import Key, Slot

__all__ = ["PassphraseKeyring"]

_CACHED_KEYS = 64
_PARTS_MAX = 32  # of 32 bytes each


class PassphraseKeyring:
    """Keys derived from a passphrase with Argon2id (one lane, 32 bytes).

    The costs and a random salt stand in the key id, so that what was sealed with other costs still
    opens. Costs beyond the bounds are refused before any work, whatever a file claims.

    Args:
        passphrase: 1 to 1024 bytes in UTF-8.
        memory_log2_kib: Memory for new keys as a power of two of KiB; 16 is 64 MiB.
        passes: Passes over that memory for new keys.
        max_memory_log2_kib: The most that opening may use; 20 is 1 GiB.
        max_passes: The most passes that opening may make.

    Raises:
        ConfigurationError: The passphrase is empty or too long, or a cost is out of bounds.

    Cost: one derivation for each new partition or salt, 0.1 to 0.3 s and the memory above, in a
    worker thread on the async side.
    Source: docs/format.md, section 6; RFC 9106.
    """

    def __init__(
        self,
        passphrase: str | bytes,
        *,
        memory_log2_kib: int = 16,
        passes: int = 3,
        max_memory_log2_kib: int = 20,
        max_passes: int = 16,
    ) -> None:
        if not isinstance(passphrase, (str, bytes)):
            raise TypeError(f"passphrase must be str or bytes, not {type(passphrase).__name__}")
        early.prepare()
        self._secret: list[Slot] = []
        self._length = 0
        self._keep(passphrase)
        if not 3 <= memory_log2_kib <= max_memory_log2_kib <= 24:
            raise ConfigurationError("memory_log2_kib must be 3 to max_memory_log2_kib, at most 24")
        if not 1 <= passes <= max_passes <= 255:
            raise ConfigurationError("passes must be 1 to max_passes, at most 255")
        self._prefix = bytes((memory_log2_kib, passes)) + os.urandom(8)
        self._max_memory = max_memory_log2_kib
        self._max_passes = max_passes
        self._keys: OrderedDict[tuple[str, bytes], Key] = OrderedDict()
        self._unknown: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def _keep(self, passphrase: str | bytes) -> None:
        """Copy the passphrase into the arena, and wipe every other copy that is ours."""
        secret = passphrase.encode() if isinstance(passphrase, str) else passphrase
        self._length = len(secret)
        try:
            if not 1 <= len(secret) <= _PARTS_MAX * KEY_BYTES:
                raise ConfigurationError("a passphrase has 1 to 1024 bytes in UTF-8")
            with memoryview(secret) as source:
                for at in range(0, len(source), KEY_BYTES):
                    piece = bytearray(KEY_BYTES)
                    part = source[at : at + KEY_BYTES]
                    piece[: len(part)] = part
                    self._secret.append(Slot(lib.anyseal_key_import(view(piece))))
                    lib.anyseal_wipe(view_writable(piece), len(piece))
        finally:
            if secret is not passphrase and len(secret) > 1:  # CPython shares those of one byte
                lib.anyseal_wipe(secret, len(secret))

    def _derive(self, partition: str, prefix: bytes) -> Key:
        """The key whose id begins with *prefix*: log2 KiB, passes, 8 bytes of salt."""
        name = partition_bytes(partition)
        salt = hashlib.sha256(b"anyseal v1 argon2" + prefix + name).digest()[:16]
        # Zeros follow the handles: when another thread wipes, there are fewer than the length says.
        handles = ffi.new("uint64_t[]", _PARTS_MAX)
        for at, part in enumerate(tuple(self._secret)):
            handles[at] = part.handle
        handle = lib.anyseal_argon2id(handles, self._length, salt, prefix[1], 1024 << prefix[0])
        slot = Slot(handle) if handle != lib.ANYSEAL_ERROR_KEY_USE else None
        if slot is None or not self._secret:  # the latter: wiped while it was derived
            if slot is not None:
                slot.release()
            raise ConfigurationError("the keyring is wiped")
        fingerprint = slot.derive_public(b"id", b"")
        return Key._from_slot(slot, prefix + fingerprint[:6])

    def _derived(self, partition: str, prefix: bytes) -> Key:
        """The same, and kept; not if :meth:`wipe` came in between."""
        key = self._derive(partition, prefix)
        self._remember(self._keys, (partition, prefix), key)
        if not self._secret:  # it may have looked at the kept keys before this one was among them
            self._keys.pop((partition, prefix), None)
            key.wipe()
            raise ConfigurationError("the keyring is wiped")
        return key

    @staticmethod
    def _remember(cache: OrderedDict[Any, Any], key: Any, value: Any) -> None:
        cache[key] = value
        while len(cache) > _CACHED_KEYS:
            cache.popitem(last=False)

    def current_local(self, partition: str) -> Key:
        """The key to seal with; derived on the spot when it is new."""
        key = self.current_hit(partition)
        if key is None:
            key = self._derived(partition, self._prefix)
        return key

    def get_local(self, partition: str, key_id: bytes) -> Key:
        """The key that *key_id* names; derived on the spot when it is new."""
        key = self.get_hit(partition, key_id)
        if key is None:
            key = self._derived(partition, key_id[:10])
            if key.key_id != key_id:
                self._unknown_key(partition, key_id)
        return key

    def _unknown_key(self, partition: str, key_id: bytes) -> NoReturn:
        self._remember(self._unknown, (partition, key_id), None)
        raise WrongKeyError("wrong passphrase or partition, or not sealed with a passphrase")

    def current_hit(self, partition: str) -> Key | None:
        """The key to seal with, if it was derived before."""
        return self._keys.get((partition, self._prefix))

    def get_hit(self, partition: str, key_id: bytes) -> Key | None:
        """The key that *key_id* names, if it was derived before.

        Raises:
            WrongKeyError: Known to be unknown, or its costs are out of bounds.
        """
        if len(key_id) != 16 or not (
            3 <= key_id[0] <= self._max_memory and 1 <= key_id[1] <= self._max_passes
        ):
            raise WrongKeyError("not sealed with a passphrase, or at costs beyond the bounds")
        if (partition, key_id) in self._unknown:
            self._unknown_key(partition, key_id)
        key = self._keys.get((partition, key_id[:10]))
        if key is not None and key.key_id != key_id:
            self._unknown_key(partition, key_id)
        return key

    async def current(self, partition: str) -> Key:
        """The key to seal with; derived in a worker thread when it is new."""
        key = self.current_hit(partition)
        return key if key is not None else await offload.run(self.current_local, partition)

    async def get(self, partition: str, key_id: bytes) -> Key:
        """The key that *key_id* names; derived in a worker thread when it is new."""
        key = self.get_hit(partition, key_id)
        return key if key is not None else await offload.run(self.get_local, partition, key_id)

    def wipe(self) -> None:
        """Wipe the passphrase and every key derived from it."""
        while self._secret:
            self._secret.pop().release()
        for place in list(self._keys):
            key = self._keys.pop(place, None)
            if key is not None:
                key.wipe()

    __aenter__ = use_with

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return f"<PassphraseKeyring memory=2**{self._prefix[0]} KiB passes={self._prefix[1]}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a keyring cannot be pickled or copied")
