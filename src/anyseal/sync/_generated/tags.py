# Made from anyseal/cache/tags.py by .ci/generate_sync.py: do not edit.
"""Tags: an entry carries the generations of its tags, and holds while they are current."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anyseal.cache.entry import GENERATION_BYTES, TAGS_MAX, PartitionNames, Tag
from anyseal.cache.local import Copies
from anyseal.cache.policy import UNSET, CachePolicy, left_ms, now_ms, record_end
from anyseal.cache.stats import Observer
from anyseal.errors import (
    BackendError,
    DecryptionError,
    ExpiredError,
    FormatError,
    WrongKeyError,
)
from anyseal.keys import Key
from anyseal.suites import Suite
from anyseal.sync._generated.guard import Guard
from anyseal.sync._generated.keys import PartitionKeys
from anyseal.value import EXPIRES_AT, KEY_ID, key_id_of, open_under, seal_under

__all__ = ["Tags"]


@dataclass(slots=True, kw_only=True)
class Tags:
    """The records of tags: each holds, sealed, the generation that entries made now carry.

    A record lives as long as the longest-lived entry that carries it, or longer. One that has
    ended ends its entries.
    """

    guard: Guard
    backend: Any
    keys: PartitionKeys
    copies: Copies
    observer: Observer
    policy: CachePolicy
    suite: Suite | None
    everywhere: tuple[str, ...]
    """Tags of every entry, where the backend cannot list names."""

    def _hit(self, name: str) -> bytes | None:
        held = None if self.copies.layer is None else self.copies.layer.get(("", name.encode()))
        return None if held is None else held[0]

    def _records(
        self, names: PartitionNames, partition: str, tag_names: Sequence[str]
    ) -> dict[str, Tag]:
        """Tags as they are now, by their names; those without a record that opens are missing."""
        found: dict[str, Tag] = {}
        asked = []
        for name in dict.fromkeys(tag_names):
            held = self._hit(name)
            tag = None if held is None else self._open(names, partition, name, held)
            if tag is None:
                asked.append(name)
            else:
                found[name] = tag
        stored = [names.tag_record(name) for name in asked]
        versions = self.copies.versions(stored)
        answers = (self.guard.read(self.backend.get_many, stored)) if asked else []
        for name, record, sealed, version in zip(asked, stored, answers, versions, strict=True):
            if sealed is None:
                continue
            tag = self._open(names, partition, name, sealed)
            if tag is not None:
                found[name] = tag
                self.copies.keep("", name.encode(), record, sealed, version)
        return found

    def _open(self, names: PartitionNames, partition: str, name: str, sealed: bytes) -> Tag | None:
        """The tag in a record; None if that has ended or does not open."""
        try:
            with_key = self.keys.named(partition, key_id_of(sealed))
        except (FormatError, WrongKeyError) as exc:
            self._refused(partition, exc)
            return None
        return self._opened(names, partition, name, sealed, with_key)

    def _opened(
        self, names: PartitionNames, partition: str, name: str, sealed: bytes, with_key: Key
    ) -> Tag | None:
        try:
            generation = open_under(sealed, with_key, names.context(name.encode(), b"tag"))
        except ExpiredError:
            return None
        except (DecryptionError, FormatError, WrongKeyError) as exc:
            self._refused(partition, exc)
            return None
        return Tag(name, generation, int.from_bytes(sealed[EXPIRES_AT : EXPIRES_AT + 8]))

    def _refused(self, partition: str, error: Exception) -> None:
        self.observer.count("tampered")
        self.observer.warn("a tag's record was refused", partition, error)

    def held(self, names: PartitionNames, partition: str, tags: Sequence[Tag]) -> bool:
        """Whether the records in this process say that no tag was deleted; False also if there
        are no such records."""
        for tag in tags:
            sealed = self._hit(tag.name)
            with_key = None if sealed is None else self.keys.named_hit(partition, sealed[KEY_ID])
            if sealed is None or with_key is None:
                return False
            if self._opened(names, partition, tag.name, sealed, with_key) != tag:
                return False
        return True

    def hold(self, names: PartitionNames, partition: str, tags: Sequence[Tag]) -> bool:
        """Whether none of an entry's tags was deleted since."""
        found = self._records(names, partition, [tag.name for tag in tags])
        return all(found.get(tag.name) == tag for tag in tags)

    def generations(
        self,
        names: PartitionNames,
        partition: str,
        tags: Sequence[str],
        extra: Sequence[Tag] = (),
        ttl: Any = UNSET,
    ) -> tuple[Tag, ...]:
        """The tags as an entry made now carries them; those without a record get one, which
        suffices for an entry with this *ttl* in seconds if that is known."""
        if isinstance(tags, (str, bytes)) or not all(isinstance(tag, str) for tag in tags):
            raise TypeError("tags must be a sequence of str")
        there = {tag.name for tag in extra}
        wanted = [names.tags(tag)[0] for tag in dict.fromkeys((*tags, *self.everywhere))]
        wanted = [name for name in wanted if name not in there]
        if not wanted:
            return tuple(extra)
        if len(wanted) > TAGS_MAX:
            raise ValueError(f"an entry has at most {TAGS_MAX} tags")
        found = self._records(names, partition, wanted)
        until = record_end(now_ms() if ttl is UNSET else self.policy.lifetime(ttl)[1])
        for name in wanted:
            if name not in found:
                found[name] = self._renewed(names, partition, name, until, only_absent=True)
        return (*(found[name] for name in wanted), *extra)

    def extend(self, names: PartitionNames, partition: str, tags: Sequence[Tag], end: int) -> None:
        """Let the records of *tags* live at least until *end*, when an entry that carries them
        does; ms since the epoch, 0 for ever."""
        stored = [names.tag_record(tag.name) for tag in tags]
        answers = self.guard.read(self.backend.get_many, stored)
        for tag, record, sealed in zip(tags, stored, answers, strict=True):
            if sealed is None:  # then the entry has ended
                continue
            now = self._open(names, partition, tag.name, sealed)
            if now is None or now != tag or now.reaches(end):
                continue
            until = record_end(end)
            longer = self._sealed(names, partition, tag.name, tag.generation, until)
            try:
                self.copies.forget("", tag.name.encode(), record)
                self.guard.write(
                    self.backend.compare_and_set, record, sealed, longer, ttl_ms=left_ms(until)
                )
            finally:
                self.copies.forget("", tag.name.encode(), record)

    def _sealed(
        self, names: PartitionNames, partition: str, name: str, generation: bytes, until: int
    ) -> bytes:
        """The record of a tag."""
        key = self.keys.current(partition)
        context = names.context(name.encode(), b"tag")
        return seal_under(generation, key, context, self.suite, expires_ms=until)

    def _renewed(
        self,
        names: PartitionNames,
        partition: str,
        name: str,
        until: int,
        *,
        only_absent: bool = False,
    ) -> Tag:
        """Give a tag a generation that no entry has."""
        generation = os.urandom(GENERATION_BYTES)
        sealed = self._sealed(names, partition, name, generation, until)
        record = names.tag_record(name)
        try:
            self.copies.forget("", name.encode(), record)
            stored = self.guard.write(
                self.backend.set, record, sealed, ttl_ms=left_ms(until), if_absent=only_absent
            )
        finally:
            self.copies.forget("", name.encode(), record)
        if stored:
            return Tag(name, generation, until)
        # Someone else was first; or what is there does not open.
        (there,) = self.guard.read(self.backend.get_many, [record])
        found = None
        if there is not None:
            found = self._open(names, partition, name, there)
        if found is None:
            found = self._renewed(names, partition, name, until)
        return found

    def delete(self, partition: str, tag: str) -> None:
        """End all entries that carry *tag*."""
        if not isinstance(tag, str):
            raise TypeError(f"tag must be str, not {type(tag).__name__}")
        names = self.keys.names(partition)
        for name in names.tags(tag):
            try:
                self._renewed(names, partition, name, record_end(now_ms()))
            except BackendError as exc:
                if not exc.refused:
                    raise
                self._dropped(names, name)

    def _dropped(self, names: PartitionNames, name: str) -> None:
        """End what carries a tag without a write, which a backend that is full refuses: an entry
        whose tag has no record has ended."""
        record = names.tag_record(name)
        try:
            self.guard.delete(self.backend.delete_many, [record])
        finally:
            self.copies.forget("", name.encode(), record)
