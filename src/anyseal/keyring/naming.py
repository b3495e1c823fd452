"""The keys that names are made under: a partition's first intermediate key, which never rotates.

It is gone when the partition is shredded, and what it named cannot be told any more.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from anyseal.errors import ConfigurationError, KeyNotFoundError
from anyseal.flight import SingleFlight
from anyseal.keyring.cached import trim
from anyseal.keys import Key

if TYPE_CHECKING:
    from anyseal.keyring.hierarchy import KeyHierarchy

__all__ = ["NameKeys"]


class NameKeys:
    """The name keys of a hierarchy's partitions that are at hand."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: OrderedDict[str, Key] = OrderedDict()
        self._flight: SingleFlight[list[Key]] = SingleFlight()

    def hit(self, partition: str) -> list[Key] | None:
        """The key, if it is at hand."""
        key = self._held.get(partition)
        return None if key is None else [key]

    async def get(self, hierarchy: KeyHierarchy, partition: str) -> list[Key]:
        """The key, from the metastore; the partition gets a first key if it has none."""
        return await self._flight.run(partition, lambda: self._load(hierarchy, partition))

    async def _load(self, hierarchy: KeyHierarchy, partition: str) -> list[Key]:
        if not hasattr(hierarchy.metastore, "versions"):
            raise ConfigurationError(
                "the metastore cannot list a key's versions: give the cache a name_key="
            )
        ik_id = hierarchy.ik_id(partition)
        for _ in range(2):
            first = await hierarchy.oldest(ik_id)
            if first is not None:
                held = hierarchy.partition(partition)
                key = await hierarchy.opening_key(held, ik_id, first.created)
                self._held[partition] = key.key
                trim(self._held, self._size)
                return [key.key]
            await hierarchy.current(partition)
        raise KeyNotFoundError("the partition's first key went while it was looked for")

    def forget(self, partition: str | None) -> None:
        """Drop one partition's key, or all."""
        if partition is None:
            self._held.clear()
        else:
            self._held.pop(partition, None)
