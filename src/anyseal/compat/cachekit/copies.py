"""Copies of entries in this process, as sealed as in the store: cachekit's L1.

A copy is found under tenant, namespace, key, the fingerprints of the tenant's master keys, and the
store. It ends with its time, when room is needed, when its entry is invalidated or cleared by a
function of this process, and when it does not open. What other processes invalidate stays here
until its time is over.
"""

from __future__ import annotations

import math
import os
import threading
from typing import TYPE_CHECKING

from anyseal.compat.cachekit.entries import Entries
from anyseal.compat.cachekit.errors import ConfigurationError

if TYPE_CHECKING:
    from anyseal.cache.local import LocalLayer

__all__ = ["SIZE_VARIABLE", "Copies", "copies_size"]

SIZE_VARIABLE = "CACHEKIT_L1_MAX_SIZE_MB"
DEFAULT_MEGABYTES = 100
DEFAULT_SECONDS = 300.0
"""Of a copy whose entry has no end; both as in cachekit."""
MARGIN_SECONDS = 1.0
"""A copy ends so much before its entry."""
TENANTS_KEPT = 1024

_layers: dict[str, dict[int, LocalLayer]] = {}
"""By namespace and size: all functions of a namespace share their room."""
_lock = threading.Lock()


def copies_size(megabytes: object = None) -> int:
    """The bytes that the copies of a namespace may take: *megabytes*, or the environment's.

    Raises:
        ConfigurationError: It is not a number of at least 1.
    """
    name = "max_size_mb"
    if megabytes is None:
        name, megabytes = SIZE_VARIABLE, os.environ.get(SIZE_VARIABLE) or DEFAULT_MEGABYTES
    try:
        found = int(megabytes)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise ConfigurationError(f"{name} must be a number") from None
    if found < 1 or isinstance(megabytes, bool):
        raise ConfigurationError(f"{name} must be at least 1")
    return int(found) << 20


class Copies:
    """The copies of one function's entries.

    Args:
        entries: Of the function.
        scope: Of the store.
        namespace: Functions of one namespace share *max_bytes*.
        ttl: Seconds; of an entry that was just stored.
        max_bytes: One copy takes at most an eighth of it.
    """

    def __init__(
        self, entries: Entries, scope: str, namespace: str, ttl: float | None, max_bytes: int
    ) -> None:
        from anyseal.cache.local import LocalLayer  # imports what only its extra brings

        self._entries = entries
        self._scope = scope
        self._ttl = DEFAULT_SECONDS if ttl is None else ttl
        self._heads: dict[str, bytes] = {}
        with _lock:
            self._layers = _layers.setdefault(namespace, {})
            self._layer = self._layers.setdefault(max_bytes, LocalLayer(max_bytes, math.inf))

    def _place(self, key: str, tenant: str) -> tuple[str, bytes]:
        head = self._heads.get(tenant)
        if head is None:
            if len(self._heads) >= TENANTS_KEPT:
                self._heads.clear()
            marks = (self._scope, tenant, *self._entries.fingerprints(tenant))
            head = self._heads[tenant] = "\0".join((*marks, "")).encode()
        return self._entries.common, head + key.encode()

    def get(self, key: str, tenant: str) -> bytes | None:
        """The copy of an entry."""
        held = self._layer.get(self._place(key, tenant))
        return None if held is None else held[0]

    def version(self, key: str) -> int:
        """To be asked for before the store is, and given to :meth:`keep`."""
        return self._layer.version(key)

    def keep(self, key: str, tenant: str, stored: bytes, version: int, left: int | None) -> None:
        """Keep what was found or stored, unless it was invalidated since *version*.

        Args:
            left: Milliseconds that the entry still has in the store, if that is known.
        """
        seconds = self._ttl if left is None else min(self._ttl, left / 1000)
        seconds -= MARGIN_SECONDS
        if seconds > 0 and type(stored) is bytes:  # what can change is no copy
            self._layer.put(self._place(key, tenant), key, stored, seconds, version)

    def drop(self, key: str) -> None:
        """Forget the copies of an entry, of all tenants."""
        for layer in list(self._layers.values()):
            layer.drop_names([key])

    def clear(self) -> None:
        """Forget the copies of all entries of the function."""
        for layer in list(self._layers.values()):
            layer.drop_partition(self._entries.common)
