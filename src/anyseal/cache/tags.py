"""Tags: an entry carries the generations of its tags, and holds while they are current."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from anyseal.cache.entry import GENERATION_BYTES, TAGS_MAX, PartitionNames, Tag
from anyseal.cache.keys import PartitionKeys
from anyseal.cache.local import Copies
from anyseal.cache.needs import Flow, ask
from anyseal.cache.stats import Observer
from anyseal.errors import DecryptionError, ExpiredError, FormatError, WrongKeyError
from anyseal.suites import Suite
from anyseal.value import key_id_of, open_under, seal_under

__all__ = ["Tags"]


@dataclass(slots=True, kw_only=True)
class Tags:
    """The records of tags: each holds, sealed, the generation that entries made now carry."""

    keys: PartitionKeys
    copies: Copies
    observer: Observer
    suite: Suite | None
    everywhere: tuple[str, ...]
    """Tags of every entry, where the backend cannot list names."""

    def _hit(self, name: str) -> bytes | None:
        held = None if self.copies.layer is None else self.copies.layer.get(("", name.encode()))
        return None if held is None else held[0]

    def _records(
        self, names: PartitionNames, partition: str, tag_names: Sequence[str]
    ) -> Flow[dict[str, bytes]]:
        """The generations of tags, by their names; those without a record are missing."""
        found: dict[str, bytes] = {}
        asked = []
        for tag in dict.fromkeys(tag_names):
            held = self._hit(tag)
            if held is None:
                asked.append(tag)
            else:
                found[tag] = yield from self._generation(names, partition, tag, held)
        stored = [names.tag_record(tag) for tag in asked]
        versions = self.copies.versions(stored)
        answers = (yield ask("get_many", stored)) if asked else []
        for tag, record, sealed, version in zip(asked, stored, answers, versions, strict=True):
            if sealed is not None:
                found[tag] = yield from self._generation(names, partition, tag, sealed)
                if self.copies.layer is not None:
                    self.copies.layer.put(("", tag.encode()), record, sealed, None, version)
        return found

    def _generation(
        self, names: PartitionNames, partition: str, tag: str, sealed: bytes
    ) -> Flow[bytes]:
        """The generation in a tag's record; one that does not open is none that an entry has."""
        try:
            with_key = yield from self.keys.named(partition, key_id_of(sealed))
            return open_under(sealed, with_key, names.context(tag.encode(), b"tag"))
        except (DecryptionError, FormatError, ExpiredError, WrongKeyError) as exc:
            self.observer.count("tampered")
            self.observer.warn("a tag's record was refused", partition, exc)
            return b""

    def hold(self, names: PartitionNames, partition: str, tags: Sequence[Tag]) -> Flow[bool]:
        """Whether none of an entry's tags was deleted since."""
        found = yield from self._records(names, partition, [tag.name for tag in tags])
        return all(found.get(tag.name) == tag.generation for tag in tags)

    def generations(
        self,
        names: PartitionNames,
        partition: str,
        tags: Sequence[str],
        extra: Sequence[Tag] = (),
    ) -> Flow[tuple[Tag, ...]]:
        """The tags as an entry made now carries them; those without a record get one."""
        if isinstance(tags, str | bytes) or not all(isinstance(tag, str) for tag in tags):
            raise TypeError("tags must be a sequence of str")
        there = {tag.name for tag in extra}
        wanted = [names.tags(tag)[0] for tag in dict.fromkeys((*tags, *self.everywhere))]
        wanted = [name for name in wanted if name not in there]
        if not wanted:
            return tuple(extra)
        if len(wanted) > TAGS_MAX:
            raise ValueError(f"an entry has at most {TAGS_MAX} tags")
        found = yield from self._records(names, partition, wanted)
        for tag in wanted:
            if not found.get(tag):
                found[tag] = yield from self._renewed(names, partition, tag, only_absent=True)
        return (*(Tag(tag, found[tag]) for tag in wanted), *extra)

    def _renewed(
        self, names: PartitionNames, partition: str, tag: str, *, only_absent: bool = False
    ) -> Flow[bytes]:
        """Give a tag a generation that no entry has."""
        key = yield from self.keys.current(partition)
        generation = os.urandom(GENERATION_BYTES)
        sealed = seal_under(generation, key, names.context(tag.encode(), b"tag"), self.suite)
        record = names.tag_record(tag)
        try:
            self.copies.forget("", tag.encode(), record)
            stored = yield ask("set", record, sealed, if_absent=only_absent)
        finally:
            self.copies.forget("", tag.encode(), record)
        if not stored:  # someone else was first; or what is there does not open
            (there,) = yield ask("get_many", [record])
            found = (
                b""
                if there is None
                else (yield from self._generation(names, partition, tag, there))
            )
            if not found:
                return (yield from self._renewed(names, partition, tag))
            return found
        return generation

    def delete(self, partition: str, tag: str) -> Flow[None]:
        if not isinstance(tag, str):
            raise TypeError(f"tag must be str, not {type(tag).__name__}")
        names = yield from self.keys.names(partition)
        for name in names.tags(tag):
            yield from self._renewed(names, partition, name)
