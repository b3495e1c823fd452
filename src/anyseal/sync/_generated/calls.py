# Made from anyseal/cache/calls.py by .ci/generate_sync.py: do not edit.
"""What decorated functions do with their cache."""

from __future__ import annotations

from typing import Any

from anyseal.cache.entry import NONE, Entry, function_key
from anyseal.cache.function import CachedFunction
from anyseal.cache.options import tag_names
from anyseal.cache.policy import UNSET
from anyseal.errors import FormatError
from anyseal.sync._generated.computation import Computation
from anyseal.sync._generated.herd import Herd
from anyseal.sync._generated.shelf import Shelf
from anyseal.sync._generated.values import Values

__all__ = ["Calls"]


class Calls:
    """The calls of the functions that are decorated with one cache."""

    def __init__(self, shelf: Shelf, values: Values, herd: Herd) -> None:
        self._shelf = shelf
        self._values = values
        self._herd = herd

    def call(self, function: CachedFunction, args: Any, kwargs: Any) -> Any:
        """The result of a call: the one that is cached, or else the function's own."""
        key, partition = function.key(args, kwargs), function.partition(args, kwargs)
        shelf = self._shelf
        if shelf.local is not None:
            value = self._hit(function, shelf.local_entry(partition, key), "local_hits")
            if value is not UNSET:
                return value
        entry = shelf.found(partition, key)
        value = self._hit(function, entry, "hits")
        if value is not UNSET:
            return value
        return self._herd.value(self._work(function, partition, key, args, kwargs), entry)

    def _hit(self, function: CachedFunction, entry: Entry | None, what: str) -> Any:
        """The result in *entry*, if it is a usual one; UNSET if the herd must look at it."""
        payloads = self._shelf.payloads
        if (
            entry is None
            or entry.kind > NONE
            or entry.fresh_until
            or (
                len(entry.payload) > payloads.inline_bytes
                and payloads.is_long(entry.kind, entry.payload)
            )
        ):
            return UNSET
        try:
            value = payloads.decoded(entry.kind, entry.payload, function.type)
        except FormatError:  # its annotation is wrong: the long way tells, and never fails
            return UNSET
        self._shelf.observer.count(what)
        function.info.hits += 1
        return value

    def _work(
        self, function: CachedFunction, partition: str, key: bytes, args: Any, kwargs: Any,
        *, force: bool = False,
    ) -> Computation:  # fmt: skip
        """How to compute the result of a call."""
        call, tags = function.function, function.tags
        carried = tag_names(tags(*args, **kwargs)) if callable(tags) else tags
        if self._shelf.everywhere and function.named_by_arguments:
            carried = (*carried, function.clear_tag)
        return Computation(
            partition=partition,
            key=key,
            factory=lambda: call(*args, **kwargs),
            tags=carried,
            type=function.type,
            force=force,
            **function.how,
        )

    def invalidate(self, function: CachedFunction, args: Any, kwargs: Any) -> bool:
        """Delete the entry of these arguments; return whether it existed."""
        partition, key = function.partition(args, kwargs), function.key(args, kwargs)
        return bool(self._shelf.entries.delete(partition, [key]))

    def refresh(self, function: CachedFunction, args: Any, kwargs: Any) -> Any:
        """Call the function and replace the entry of these arguments."""
        partition, key = function.partition(args, kwargs), function.key(args, kwargs)
        work = self._work(function, partition, key, args, kwargs, force=True)
        return self._herd.value(work)

    def clear(self, function: CachedFunction, partition: Any) -> int:
        """Delete all entries of the function in one partition; return how many."""
        shelf, partition = self._shelf, function.whole(partition)
        function.check_clearing()
        prefix = function_key(function.name, b"")
        shelf.leases.revoke_all(partition, prefix)
        if shelf.everywhere:
            shelf.tags.delete(partition, function.clear_tag)
            shelf.leases.revoke_tags(partition, [function.clear_tag])
            return 0
        names = shelf.keys.names(partition)
        shelf.copies.clear(partition)
        deleted = shelf.guard.sweep(names.function_prefixes(function.name))
        shelf.copies.clear(partition)
        shelf.leases.part_all(partition, prefix)
        return deleted
