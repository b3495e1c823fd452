# Made from anyseal/cache/keys.py by .ci/generate_sync.py: do not edit.
"""Whose key an entry is sealed with, and what the names of a partition are made of."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from anyseal.cache.entry import PartitionNames
from anyseal.cache.stats import Observer
from anyseal.errors import BackendError, DecryptionError, KmsError, MetastoreError
from anyseal.keyring.static import StaticKeyring
from anyseal.keys import Key
from anyseal.sync.kit import asked

__all__ = ["PartitionKeys"]

PARTITIONS_MAX = 10_000


class PartitionKeys:
    """Looks up keys and names by partition; what ends in ``hit`` waits for nothing.

    Args:
        keyring: A Key, or a Keyring.
        name_key: The key that names are made under. Default: the keyring's.
        namespace: See PartitionNames; *codec* and *plain* too.
    """

    def __init__(
        self, keyring: Any, name_key: Key | None, *, namespace: str, codec: str, plain: bool,
        observer: Observer,
    ) -> None:  # fmt: skip
        self._keyring = keyring
        self._observer = observer
        self._name_key = name_key
        self._namespace = namespace
        self._codec = codec
        self._plain_keys = plain
        # A hierarchy's partition that was shredded gets a name key that is another.
        self._names_change = name_key is None and not isinstance(keyring, (Key, StaticKeyring))
        self._partitions: OrderedDict[str, PartitionNames] = OrderedDict()

    def names_hit(self, partition: Any) -> PartitionNames | None:
        """What *partition*'s names are made of, if nothing must be waited for."""
        found = self._partitions.get(partition)
        if found is not None:
            if not self._names_change:
                return found
            keys = self._keyring.name_keys_hit(partition)
            if keys is None:
                return None
            return found if keys[0] is found.keys[0] else self._remember(partition, keys)
        if not isinstance(partition, str):
            raise TypeError(f"partition must be str, not {type(partition).__name__}")
        if not 1 <= len(partition.encode()) <= 1024:
            raise ValueError("a partition's name has 1 to 1,024 bytes in UTF-8")
        if self._name_key is not None:
            return self._remember(partition, [self._name_key])
        if isinstance(self._keyring, Key):
            return self._remember(partition, [self._keyring])
        keys = self._keyring.name_keys_hit(partition)
        return None if keys is None else self._remember(partition, keys)

    def _remember(self, partition: str, keys: Sequence[Key]) -> PartitionNames:
        names = PartitionNames(self._namespace, partition, self._codec, keys, self._plain_keys)
        self._partitions[partition] = names
        while len(self._partitions) > PARTITIONS_MAX:
            self._partitions.popitem(last=False)
        return names

    def names(self, partition: str) -> PartitionNames:
        """What *partition*'s names are made of."""
        found = self.names_hit(partition)
        if found is None:
            found = self._remember(partition, self._asked("name_keys", partition))
        return found

    def current(self, partition: str) -> Key:
        """The key to seal with."""
        keyring = self._keyring
        if isinstance(keyring, Key):
            return keyring
        found: Key | None = keyring.current_hit(partition)
        return found or self._asked("current", partition)

    def named(self, partition: str, key_id: bytes) -> Key:
        """The key that an entry names."""
        return self.named_hit(partition, key_id) or self._asked("get", partition, key_id)

    def _asked(self, method: str, *args: Any) -> Any:
        """What the keyring answers. If it has to ask a service that does not answer, or whose
        record of a key does not verify, the cache is as good as down: BackendError."""
        try:
            return asked(self._keyring, method, *args)
        except (DecryptionError, KmsError, MetastoreError) as exc:
            found = BackendError(f"the keys cannot be had: {type(exc).__name__}")
            self._observer.failed(found)
            found.retryable = exc.retryable
            raise found from exc

    def named_hit(self, partition: str, key_id: bytes) -> Key | None:
        keyring = self._keyring
        if isinstance(keyring, Key):
            return keyring
        found: Key | None = keyring.get_hit(partition, key_id)
        return found

    def successor(self, partition: str, key: Key) -> Key | None:
        """The key that seals in *partition* now, if it is not *key*, as far as is known without
        asking."""
        keyring = self._keyring
        if isinstance(keyring, Key):
            return None
        current: Key | None = keyring.current_hit(partition)
        if current is None or current is key or current._key_id == key._key_id:
            return None
        return current
