"""Where the keys of a partition come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from anyseal.hints import not_keyring
from anyseal.keys import Key
from anyseal.ports._checked import Checked

__all__ = [
    "Keyring",
    "LocalKeyring",
    "NamingKeyring",
    "current_key",
    "named_key",
    "resolve_partition",
]


@runtime_checkable
class Keyring(Protocol, metaclass=Checked):
    """Finds the keys of a partition.

    ``current`` and ``get`` may wait for a key service; their ``_hit`` twins never wait: they
    return None where an answer is not at hand. Sealing asks for the current key, opening for the
    one that the sealed thing names. There is no trial decryption.
    """

    async def current(self, partition: str) -> Key:
        """The key to seal with."""
        ...

    async def get(self, partition: str, key_id: bytes) -> Key:
        """The key that *key_id* names. Raises WrongKeyError if it is unknown."""
        ...

    def current_hit(self, partition: str) -> Key | None:
        """The key to seal with, if it is at hand."""
        ...

    def get_hit(self, partition: str, key_id: bytes) -> Key | None:
        """The key that *key_id* names, if it is at hand."""
        ...


@runtime_checkable
class LocalKeyring(Keyring, Protocol, metaclass=Checked):
    """A keyring that computes its keys: sync code asks it without an event loop.

    Both methods may take CPU time, but wait for nothing.
    """

    def current_local(self, partition: str) -> Key:
        """The key to seal with."""
        ...

    def get_local(self, partition: str, key_id: bytes) -> Key:
        """The key that *key_id* names. Raises WrongKeyError if it is unknown."""
        ...


@runtime_checkable
class NamingKeyring(Keyring, Protocol, metaclass=Checked):
    """A keyring that also gives the keys which the names of a partition's things are made of.

    Names must survive rotation: either the first key stays the first (a hierarchy), or all keys
    that may have been the current one are given and looked under at once (a static keyring).
    """

    async def name_keys(self, partition: str) -> Sequence[Key]:
        """The keys to make names under, the current one first."""
        ...

    def name_keys_hit(self, partition: str) -> Sequence[Key] | None:
        """The same, if they are at hand."""
        ...


_keyring_types: set[type] = set()


def resolve_partition(keyring: Any, partition: Any) -> str:
    """The partition's name, checked; empty for a Key, which takes none.

    Raises:
        TypeError: Neither a Key nor a Keyring; *partition* is missing, not a str, or superfluous.
        ValueError: *partition* is empty.
    """
    if isinstance(keyring, Key):
        if partition is not None:
            raise TypeError("partition= goes with a keyring, not with a Key")
        return ""
    kind = type(keyring)
    if kind not in _keyring_types:  # looking through a Protocol takes 8 us
        if isinstance(keyring, type) or not isinstance(keyring, Keyring):
            raise not_keyring(keyring)
        _keyring_types.add(kind)
    if not isinstance(partition, str):
        what = "" if partition is None else f", not {type(partition).__name__}"
        raise TypeError(f"partition= is needed with a keyring, and must be a str{what}")
    if not partition:
        raise ValueError("partition must not be empty")
    return partition


async def current_key(keyring: Key | Keyring, partition: str) -> Key:
    """The key to seal with; *partition* is what :func:`resolve_partition` returned."""
    if isinstance(keyring, Key):
        return keyring
    return keyring.current_hit(partition) or await keyring.current(partition)


async def named_key(keyring: Key | Keyring, partition: str, key_id: bytes) -> Key:
    """The key that something sealed names; *partition* as for :func:`current_key`."""
    if isinstance(keyring, Key):
        return keyring
    return keyring.get_hit(partition, key_id) or await keyring.get(partition, key_id)
