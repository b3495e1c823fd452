"""Keys: 32 bytes in a locked slot of the arena, and what is derived from them."""

from __future__ import annotations

import binascii
import os
import warnings
from types import TracebackType
from typing import Any, NoReturn, Self

from anyseal import early
from anyseal._ffi import lib, raise_for, view, view_writable
from anyseal.config import KEY_BYTES, KEY_ID_BYTES
from anyseal.errors import ConfigurationError
from anyseal.hints import use_with, wrong_type

__all__ = ["Key", "Slot", "master_key_of"]

NAME_CHARS = 32

_unlocked_bytes_reported = False


def _taken(handle: int) -> int:
    """Check a new handle, and warn once if the system does not let the arena lock its pages."""
    global _unlocked_bytes_reported
    if handle < 0:
        raise_for(handle)
    if not _unlocked_bytes_reported and lib.anyseal_arena_unlocked():
        _unlocked_bytes_reported = True
        warnings.warn(
            "keys beyond RLIMIT_MEMLOCK are not locked in memory and could reach swap; "
            "raise the limit (ulimit -l)",
            RuntimeWarning,
            stacklevel=3,
        )
    return handle


class Slot:
    """Owns one arena slot; wiped when released, at the latest when collected."""

    __slots__ = ("__weakref__", "handle")

    def __init__(self, handle: int) -> None:
        self.handle = _taken(handle)

    @classmethod
    def random(cls) -> Self:
        """A slot of fresh random bytes."""
        return cls(lib.anyseal_key_random())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """A slot holding these 32 bytes."""
        return cls(lib.anyseal_key_import(data))

    def derive(self, label: bytes, data: bytes) -> Slot:
        """A new slot with ``Derive(self, label, data)`` (docs/format.md, section 2)."""
        return Slot(lib.anyseal_derive(label, len(label), data, len(data), self.handle))

    def derive_public(self, label: bytes, data: bytes) -> bytes:
        """``Derive(self, label, data)`` as bytes, where it is not secret."""
        out = bytearray(KEY_BYTES)
        code = lib.anyseal_derive_public(
            view_writable(out), label, len(label), data, len(data), self.handle
        )
        if code:
            raise_for(code)
        return bytes(out)

    def mac(self, message: bytes) -> bytes:
        """HMAC-SHA256 of *message*."""
        out = bytearray(32)
        code = lib.anyseal_mac(view_writable(out), view(message), len(message), self.handle)
        if code:
            raise_for(code)
        return bytes(out)

    def name(self, message: bytes) -> str:
        """32 characters that name *message* and tell nothing of it: keyed BLAKE2b-192."""
        out = bytes(NAME_CHARS)  # filled by the C side, which nobody else sees yet
        code = lib.anyseal_name(out, message, len(message), self.handle)
        if code:
            raise_for(code)
        return out.decode()

    def export(self) -> bytes:
        """The bytes, outside the arena: only for AEADs that take nothing else."""
        out = bytearray(KEY_BYTES)
        code = lib.anyseal_key_export(view_writable(out), self.handle)
        if code:
            raise_for(code)
        return bytes(out)

    def release(self) -> None:
        """Wipe the slot. Later use raises KeyUseError; releasing again does nothing."""
        handle, self.handle = self.handle, 0
        lib.anyseal_key_release(handle)

    def __del__(self) -> None:
        handle = getattr(self, "handle", 0)
        if handle:
            lib.anyseal_key_release(handle)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key cannot be pickled or copied")


class Key:
    """A 32-byte secret, held in locked memory and used by handle.

    It never shows its bytes: ``repr`` has the public id, pickling and copying raise, and comparing
    takes constant time. As a context manager it is wiped at the end; otherwise when collected.
    Keys stay usable in a forked child.
    """

    __slots__ = ("__weakref__", "_heads", "_key_id", "_slot", "_subkeys", "_value")

    _key_id: bytes
    _slot: Slot
    _subkeys: dict[tuple[bytes, int], Slot]
    _value: list[int]
    """By suite number: the handle of the subkey for values, 0 until it is needed."""
    _heads: dict[bytes, tuple[int, int, int]]
    """By the first 20 bytes of a value, and the first 28 of one that never expires: its suite,
    what sealing added, and the subkey's handle."""

    def __init__(self, *_: Any) -> None:
        raise TypeError("use Key.generate(), Key.from_bytes() or Key.from_hex()")

    @classmethod
    def _from_slot(cls, slot: Slot, key_id: bytes | None = None) -> Self:
        early.prepare()
        self = cls.__new__(cls)
        self._slot = slot
        self._subkeys = {}
        self._value = [0, 0, 0, 0]
        self._heads = {}
        self._key_id = slot.derive_public(b"id", b"")[:KEY_ID_BYTES] if key_id is None else key_id
        return self

    @classmethod
    def generate(cls) -> Self:
        """A fresh random key from the operating system's generator.

        Cost: one system call and one locked slot of 64 bytes.
        """
        return cls._from_slot(Slot.random())

    @classmethod
    def from_bytes(
        cls, data: bytes | bytearray | memoryview, *, key_id: bytes | None = None
    ) -> Self:
        """A key from 32 secret bytes.

        Args:
            data: Exactly 32 bytes; copied. Wipe your own copy.
            key_id: 16 bytes that sealed things will name. Default: derived from the key.

        Raises:
            ConfigurationError: *data* has not 32 bytes, or *key_id* not 16.
        """
        size = len(view(data, "key"))
        if size != KEY_BYTES:
            raise ConfigurationError(f"a key has {KEY_BYTES} bytes, not {size}")
        if key_id is not None and (not isinstance(key_id, bytes) or len(key_id) != KEY_ID_BYTES):
            raise ConfigurationError(f"key_id must be {KEY_ID_BYTES} bytes")
        return cls._from_slot(Slot(lib.anyseal_key_import(view(data))), key_id)

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """A key from 64 hexadecimal characters.

        Raises:
            ConfigurationError: Not hexadecimal, or not 64 characters.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be str, not {type(text).__name__}")
        text = text.strip()
        if len(text) != 2 * KEY_BYTES:
            raise ConfigurationError(
                f"a key has {2 * KEY_BYTES} hexadecimal characters, not {len(text)}"
            )
        try:
            data = bytearray(binascii.unhexlify(text))
        except ValueError:
            raise ConfigurationError("a key must be hexadecimal") from None
        try:
            return cls.from_bytes(data)
        finally:
            lib.anyseal_wipe(view_writable(data), len(data))

    def derive(self, info: bytes) -> Key:
        """A key for another purpose: ``Derive(self, "user", info)``.

        Args:
            info: Names the purpose; 0 to 65,536 bytes, not secret.

        Raises:
            KeyUseError: This key is wiped.

        Source: docs/format.md, section 2; RFC 5869.
        """
        if not isinstance(info, bytes):
            raise TypeError(f"info must be bytes, not {type(info).__name__}")
        if len(info) > 1 << 16:
            raise ValueError("info is longer than 65,536 bytes")
        return self._child(b"user", info)

    def _child(self, label: bytes, data: bytes) -> Key:
        return Key._from_slot(self._slot.derive(label, data))

    def _subkey(self, purpose: bytes, suite: int) -> Slot:
        """The subkey for *purpose* and *suite*, derived once."""
        found = self._subkeys.get((purpose, suite))
        if found is None:
            fresh = self._slot.derive(purpose, bytes((suite,)))
            found = self._subkeys.setdefault((purpose, suite), fresh)
            if not self._slot.handle:  # another thread wiped the key meanwhile
                self.wipe()
                raise_for(lib.ANYSEAL_ERROR_KEY_USE)
        return found

    def _value_handle(self, suite: int) -> int:
        """The handle of the value subkey; ``_value`` caches it for the hot path."""
        handle = self._value[suite] = self._subkey(b"value", suite).handle
        return handle

    @property
    def key_id(self) -> bytes:
        """16 bytes that name the key in what it seals. Public."""
        return self._key_id

    @property
    def id(self) -> str:
        """The key id in hexadecimal, for people and logs."""
        return self._key_id.hex()

    def wipe(self) -> None:
        """Wipe the key and everything derived from it. Later use raises KeyUseError."""
        self._value = [0, 0, 0, 0]
        self._heads = {}
        while self._subkeys:
            self._subkeys.popitem()[1].release()
        self._slot.release()

    __aenter__ = use_with

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.wipe()

    def __eq__(self, other: object) -> bool:
        """Same id and same bytes, compared in constant time. Wiped keys raise KeyUseError."""
        if not isinstance(other, Key):
            return NotImplemented
        equal = lib.anyseal_key_equal(self._slot.handle, other._slot.handle)
        if equal < 0:
            raise_for(equal)
        return bool(equal) and self._key_id == other._key_id

    def __hash__(self) -> int:
        return hash(self._key_id)

    def __repr__(self) -> str:
        return f"<Key {self.id}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key cannot be pickled or copied")


def master_key_of(value: Any, name: str) -> Key:
    """The key that *value*, the argument *name*, is or holds.

    Raises:
        TypeError: None of the three.
        ConfigurationError: Malformed.
    """
    if isinstance(value, Key):
        return value
    if not isinstance(value, (str, bytes, bytearray, memoryview)):
        remedy = "StaticKeyring.from_env() reads it from the environment" if value is None else ""
        if isinstance(value, (list, tuple)):
            remedy = "the current key first, previous= takes a list of older ones"
        elif isinstance(value, os.PathLike):
            remedy = "path.read_text() reads it"
        raise wrong_type(name, "a Key, 32 bytes or 64 hexadecimal characters", value, remedy)
    try:
        if isinstance(value, bytes) and len(value) == 2 * KEY_BYTES:
            raise ConfigurationError("a key has 32 bytes, not 64; as hexadecimal text it is a str")
        return Key.from_hex(value) if isinstance(value, str) else Key.from_bytes(value)
    except ConfigurationError as exc:
        raise ConfigurationError(f"{name}: {exc}") from None
