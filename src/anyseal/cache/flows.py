"""What a cache does, apart from waiting: each operation is a generator that yields what it needs.

The async and the sync cache drive the same generators. A need names a method of the backend or of
the keyring; the answer, or the exception, is sent back. Nothing here awaits, sleeps or blocks.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

from anyseal.cache.breaker import Breaker
from anyseal.cache.codecs import MessagePackCodec, RawCodec, codec_named
from anyseal.cache.entry import (
    ERROR,
    GENERATION_BYTES,
    LARGE,
    NONE,
    OBJECT,
    RAW,
    TAGS_MAX,
    VALUE,
    Entry,
    PartitionNames,
    Tag,
    check_namespace,
    pack,
    unpack,
)
from anyseal.cache.local import LocalLayer
from anyseal.cache.policy import TTL, CachePolicy, now_ms, seconds_of
from anyseal.cache.stats import CacheHealth, CacheStats, Observer
from anyseal.errors import (
    AnysealError,
    BackendError,
    ConfigurationError,
    DecryptionError,
    ExpiredError,
    FormatError,
    SourceChangedError,
    WrongKeyError,
)
from anyseal.keyring.static import StaticKeyring
from anyseal.keys import Key
from anyseal.ports import AuditHook, Keyring, MetricsHook, NamingKeyring
from anyseal.suites import Suite, suite_named
from anyseal.value import KEY_ID, key_id_of, open_under, seal_under

__all__ = ["UNSET", "CacheBase", "Flow", "Need", "RotationHook", "redirected"]

T = TypeVar("T")

PARTITIONS_MAX = 10_000
_BYTES_TYPES = (Any, bytes, object, bytes | None)
"""What bytes that no codec touched may be asked for as."""
FOREVER_MS = 1 << 40
"""Some 34 years."""


@dataclass(frozen=True, slots=True)
class Need:
    """A call that someone must make: of the backend, or of the keyring."""

    method: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    keyring: bool = False


Flow: TypeAlias = Generator[Need, Any, T]

RotationHook: TypeAlias = Callable[[str, bytes, bytes], None]
"""Called with partition, the old key's id and the current one's when an entry is opened under a
key that is no longer current; must be quick and must not raise."""


class _Unset:
    def __repr__(self) -> str:
        return "UNSET"


UNSET: Any = _Unset()


def ask(method: str, *args: Any, **options: Any) -> Need:
    """A need of the backend."""
    return Need(method, args, options)


def redirected(flow: Flow[T], method: str, instead: Callable[[Need], Need]) -> Flow[T]:
    """*flow*, whose needs of *method* become others that are answered alike."""
    try:
        need = next(flow)
        while True:
            try:
                answer = yield (instead(need) if need.method == method else need)
            except Exception as exc:
                need = flow.throw(exc)
            else:
                need = flow.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result


class CacheBase:
    """Settings, keys, names and flows: what both caches share."""

    def __init__(
        self,
        backend: Any,
        keyring: Key | Keyring,
        *,
        namespace: str = "anyseal",
        codec: Any = "msgpack",
        ttl: TTL = 300.0,
        policy: CachePolicy | None = None,
        plain_keys: bool = False,
        name_key: Key | None = None,
        suite: Suite | str | None = None,
        metrics: MetricsHook | None = None,
        audit: AuditHook | None = None,
        on_rotation: RotationHook | None = None,
    ) -> None:
        if not isinstance(keyring, Key | Keyring):
            raise TypeError(f"expected a Key or a Keyring, not {type(keyring).__name__}")
        if name_key is None and not isinstance(keyring, Key | NamingKeyring):
            raise ConfigurationError(f"{type(keyring).__name__} has no key for names: name_key=")
        self.namespace = check_namespace(namespace)
        self.codec = codec_named(codec)
        # Its bytes come back as bytes: large ones need not go through it.
        self._bytes_pass = isinstance(self.codec, MessagePackCodec | RawCodec)
        self.policy = policy if policy is not None else CachePolicy()
        self._backend = backend
        self._keyring: Any = keyring
        self._ttl = seconds_of(ttl)
        self._plain_keys = plain_keys
        self._name_key = name_key
        self._suite = suite_named(suite)
        # A hierarchy's partition that was shredded gets a name key that is another.
        self._names_change = name_key is None and not isinstance(keyring, Key | StaticKeyring)
        self._on_rotation = on_rotation
        self._observer = Observer(namespace, metrics, audit)
        self._breaker = Breaker(self.policy.breaker_failures, self.policy.breaker_reset, namespace)
        self._partitions: OrderedDict[str, PartitionNames] = OrderedDict()
        self._everywhere = () if getattr(backend, "can_scan", True) else ("\0clear",)
        size = self.policy.local_bytes
        self._local = LocalLayer(size, self.policy.local_ttl) if size else None

    # ---- keys and names

    def _names_hit(self, partition: Any) -> PartitionNames | None:
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
        names = PartitionNames(self.namespace, partition, self.codec.name, keys, self._plain_keys)
        self._partitions[partition] = names
        while len(self._partitions) > PARTITIONS_MAX:
            self._partitions.popitem(last=False)
        return names

    def _names(self, partition: str) -> Flow[PartitionNames]:
        found = self._names_hit(partition)
        if found is None:
            keys = yield Need("name_keys", (partition,), {}, keyring=True)
            found = self._remember(partition, keys)
        return found

    def _current(self, partition: str) -> Flow[Key]:
        """The key to seal with."""
        keyring = self._keyring
        if isinstance(keyring, Key):
            return keyring
        found: Key | None = keyring.current_hit(partition)
        if found is None:
            found = yield Need("current", (partition,), {}, keyring=True)
        return found

    def _named_hit(self, partition: str, key_id: bytes) -> Key | None:
        keyring = self._keyring
        if isinstance(keyring, Key):
            return keyring
        found: Key | None = keyring.get_hit(partition, key_id)
        return found

    def _named(self, partition: str, key_id: bytes) -> Flow[Key]:
        """The key that an entry names."""
        found = self._named_hit(partition, key_id)
        if found is None:
            found = yield Need("get", (partition, key_id), {}, keyring=True)
        return found

    # ---- opening

    def _unsealed(
        self, names: PartitionNames, partition: str, key: bytes, sealed: bytes, with_key: Key
    ) -> Entry:
        """Open one entry. Raises what open_under raises."""
        try:
            entry = unpack(open_under(sealed, with_key, names.context(key)))
        except Exception as exc:
            self._observer.used(partition, sealed[KEY_ID], "decrypt", type(exc).__name__)
            raise
        entry.sealed = sealed
        self._breaker.refusals = 0
        self._observer.used(partition, with_key._key_id, "decrypt", "ok")
        return entry

    def _opened(
        self, names: PartitionNames, partition: str, key: bytes, stored: str, sealed: bytes
    ) -> Entry | None:
        """The entry in *sealed*, if nobody must be asked and nothing must be told: the usual case.

        None is no answer: :meth:`_open` looks again, and says what is wrong.
        """
        try:
            with_key = self._named_hit(partition, sealed[KEY_ID])
            if with_key is None:
                return None
            entry = unpack(open_under(sealed, with_key, names.context(key)))
        except (DecryptionError, FormatError, ExpiredError, WrongKeyError):
            return None
        if entry.tags or not self._is_current(partition, with_key):
            return None
        entry.sealed = sealed
        entry.stored = stored
        self._breaker.refusals = 0
        self._observer.used(partition, with_key._key_id, "decrypt", "ok")
        return entry

    def _is_current(self, partition: str, key: Key) -> bool:
        """Whether *key* seals in *partition* now, as far as is known without asking."""
        keyring = self._keyring
        if isinstance(keyring, Key):
            return True
        current = keyring.current_hit(partition)
        return current is None or current is key or current._key_id == key._key_id

    def _open(
        self, names: PartitionNames, partition: str, key: bytes, stored: str, sealed: bytes
    ) -> Flow[Entry | None]:
        """The entry in *sealed*, or None where policy makes it a miss."""
        try:
            with_key = yield from self._named(partition, key_id_of(sealed))
            entry = self._unsealed(names, partition, key, sealed, with_key)
        except (DecryptionError, FormatError, ExpiredError, WrongKeyError) as exc:
            yield from self._refused(partition, key, stored, sealed, exc)
            return None
        entry.stored = stored
        if entry.tags and not (yield from self._tags_hold(names, partition, entry.tags)):
            return None
        yield from self._rotated(names, partition, key, entry, with_key)
        return entry

    def _refused(
        self,
        partition: str,
        key: bytes,
        stored: str,
        sealed: bytes,
        error: Exception,
        *,
        undecodable: bool = False,
    ) -> Flow[None]:
        """An entry does not open, or is *undecodable*: count it, and evict it or raise, as the
        policy says."""
        if isinstance(error, ExpiredError):
            self._observer.count("expired")
        else:
            wrong = isinstance(error, WrongKeyError)
            self._observer.count("wrong_key" if wrong else "tampered")
            self._observer.warn("an entry was refused", partition, error)
            if not undecodable:
                self._breaker.refused()
        if self._local is not None:
            self._local.drop((partition, key))
        if self.policy.on_tamper == "raise" and not isinstance(error, ExpiredError):
            raise error
        yield ask("compare_and_set", stored, sealed, None)

    def _rotated(
        self, names: PartitionNames, partition: str, key: bytes, entry: Entry, with_key: Key
    ) -> Flow[None]:
        """An entry under a key that is no longer current: tell, and seal anew if asked."""
        if self._is_current(partition, with_key):
            return
        current = self._keyring.current_hit(partition)
        self._observer.count("old_key")
        if self._on_rotation is not None:
            self._on_rotation(partition, with_key._key_id, current._key_id)
        if not self.policy.reseal or entry.kind == LARGE:
            return
        expires = int.from_bytes(entry.sealed[20:28])
        tags = yield from self._generations(names, partition, (), entry.tags)
        payload = bytes(entry.payload)
        fresh = pack(
            entry.kind, payload, fresh_until=entry.fresh_until, cost_ms=entry.cost_ms, tags=tags
        )
        sealed = seal_under(fresh, current, names.context(key), self._suite, expires_ms=expires)
        left = max(1, expires - now_ms()) if expires else None
        if (yield from self._replaced(entry, names.names(key)[0], sealed, left)):
            self._observer.count("resealed")

    def _replaced(self, entry: Entry, name: str, sealed: bytes, ttl_ms: int | None) -> Flow[bool]:
        """Put *sealed* in the place of *entry*, whose name may have been made under an old key.

        Then the old one goes first: were it the other way round, of two who take the value out
        both could get it.
        """
        if name == entry.stored:
            done = yield ask("compare_and_set", name, entry.sealed, sealed, ttl_ms=ttl_ms)
        else:
            done = yield ask("compare_and_set", entry.stored, entry.sealed, None)
            if done:
                done = yield ask("set", name, sealed, ttl_ms=ttl_ms, if_absent=True)
        if done:
            entry.stored, entry.sealed = name, sealed
        return bool(done)

    # ---- tags

    def _tag_hit(self, name: str) -> bytes | None:
        held = None if self._local is None else self._local.get(("", name.encode()))
        return None if held is None else held[0]

    def _records(
        self, names: PartitionNames, partition: str, tag_names: Sequence[str]
    ) -> Flow[dict[str, bytes]]:
        """The generations of tags, by their names; those without a record are missing."""
        found: dict[str, bytes] = {}
        asked = []
        for tag in dict.fromkeys(tag_names):
            held = self._tag_hit(tag)
            if held is None:
                asked.append(tag)
            else:
                found[tag] = yield from self._generation(names, partition, tag, held)
        stored = [names.tag_record(tag) for tag in asked]
        versions = self._versions(stored)
        answers = (yield ask("get_many", stored)) if asked else []
        for tag, record, sealed, version in zip(asked, stored, answers, versions, strict=True):
            if sealed is not None:
                found[tag] = yield from self._generation(names, partition, tag, sealed)
                if self._local is not None:
                    self._local.put(("", tag.encode()), record, sealed, None, version)
        return found

    def _generation(
        self, names: PartitionNames, partition: str, tag: str, sealed: bytes
    ) -> Flow[bytes]:
        """The generation in a tag's record; one that does not open is none that an entry has."""
        try:
            with_key = yield from self._named(partition, key_id_of(sealed))
            return open_under(sealed, with_key, names.context(tag.encode(), b"tag"))
        except (DecryptionError, FormatError, ExpiredError, WrongKeyError) as exc:
            self._observer.count("tampered")
            self._observer.warn("a tag's record was refused", partition, exc)
            return b""

    def _tags_hold(self, names: PartitionNames, partition: str, tags: Sequence[Tag]) -> Flow[bool]:
        """Whether none of an entry's tags was deleted since."""
        found = yield from self._records(names, partition, [tag.name for tag in tags])
        return all(found.get(tag.name) == tag.generation for tag in tags)

    def _generations(
        self,
        names: PartitionNames,
        partition: str,
        tags: Sequence[str],
        extra: Sequence[Tag] = (),
    ) -> Flow[tuple[Tag, ...]]:
        """The tags as an entry made now carries them; those without a record get one."""
        if isinstance(tags, str | bytes) or not all(isinstance(tag, str) for tag in tags):
            raise TypeError("tags must be a sequence of str")
        wanted = [names.tags(tag)[0] for tag in dict.fromkeys((*tags, *self._everywhere))]
        if not wanted:
            return tuple(extra)
        if len(wanted) > TAGS_MAX:
            raise ValueError(f"an entry has at most {TAGS_MAX} tags")
        found = yield from self._records(names, partition, wanted)
        for tag in wanted:
            if not found.get(tag):
                found[tag] = yield from self._renew_tag(names, partition, tag, only_absent=True)
        return (*(Tag(tag, found[tag]) for tag in wanted), *extra)

    def _renew_tag(
        self, names: PartitionNames, partition: str, tag: str, *, only_absent: bool = False
    ) -> Flow[bytes]:
        """Give a tag a generation that no entry has."""
        key = yield from self._current(partition)
        generation = os.urandom(GENERATION_BYTES)
        sealed = seal_under(generation, key, names.context(tag.encode(), b"tag"), self._suite)
        record = names.tag_record(tag)
        try:
            self._forget("", tag.encode(), record)
            stored = yield ask("set", record, sealed, if_absent=only_absent)
        finally:
            self._forget("", tag.encode(), record)
        if not stored:  # someone else was first; or what is there does not open
            (there,) = yield ask("get_many", [record])
            found = (
                b""
                if there is None
                else (yield from self._generation(names, partition, tag, there))
            )
            if not found:
                return (yield from self._renew_tag(names, partition, tag))
            return found
        return generation

    def _delete_tag(self, partition: str, tag: str) -> Flow[None]:
        if not isinstance(tag, str):
            raise TypeError(f"tag must be str, not {type(tag).__name__}")
        names = yield from self._names(partition)
        for name in names.tags(tag):
            yield from self._renew_tag(names, partition, name)

    # ---- entries

    def _find(self, partition: str, key: bytes) -> Flow[Entry | None]:
        """The entry of *key* that opens, from the backend."""
        names = yield from self._names(partition)
        stored = names.names(key)
        versions = self._versions(stored)
        answers = yield ask("get_many", stored)
        for name, sealed, version in zip(stored, answers, versions, strict=True):
            if sealed is None:
                continue
            entry = self._opened(names, partition, key, name, sealed)
            if entry is None:
                entry = yield from self._open(names, partition, key, name, sealed)
            if entry is not None:
                self._keep_found(partition, key, name, entry, version)
                return entry
        return None

    def _find_many(self, partition: str, keys: Sequence[bytes]) -> Flow[dict[bytes, Entry]]:
        """The entries of *keys* that open, in one look at the backend."""
        names = yield from self._names(partition)
        places = [(key, name) for key in dict.fromkeys(keys) for name in names.names(key)]
        stored = [name for _, name in places]
        versions = self._versions(stored)
        answers = (yield ask("get_many", stored)) if places else []
        found: dict[bytes, Entry] = {}
        for (key, name), sealed, version in zip(places, answers, versions, strict=True):
            if sealed is not None and key not in found:
                entry = self._opened(names, partition, key, name, sealed)
                if entry is None:
                    entry = yield from self._open(names, partition, key, name, sealed)
                if entry is not None:
                    self._keep_found(partition, key, name, entry, version)
                    found[key] = entry
        return found

    def _versions(self, stored: Sequence[str]) -> list[int]:
        """What the in-process layer knows of changes, before the backend is asked."""
        local = self._local
        return [0] * len(stored) if local is None else [local.version(name) for name in stored]

    def _keep(
        self,
        partition: str,
        key: bytes,
        name: str,
        sealed: bytes,
        version: int,
        *,
        own: bool = False,
    ) -> None:
        """Put *sealed* into the in-process layer."""
        if self._local is not None:
            expires = int.from_bytes(sealed[20:28])
            left = max(0.0, (expires - now_ms()) / 1000) if expires else None
            self._local.put((partition, key), name, sealed, left, version, own=own)

    def _keep_found(
        self, partition: str, key: bytes, name: str, entry: Entry, version: int
    ) -> None:
        """Put what was found under *name* into the in-process layer; not if it moved since."""
        if entry.stored == name:
            self._keep(partition, key, name, entry.sealed, version)

    def _forget(self, partition: str, key: bytes, *names: str) -> None:
        """Drop an entry from the in-process layer; *names* are those under which it changes.

        Before a write and after it: in between another caller may read what was there before, and
        keep it.
        """
        if self._local is not None:
            self._local.drop((partition, key), names)

    def _forget_all(self, partition: str, keys: Sequence[bytes], names: Sequence[str]) -> None:
        """The same for several."""
        if self._local is not None:
            self._local.drop_names(list(names))
            for key in keys:
                self._local.drop((partition, key))

    def _local_entry(self, partition: str, key: bytes) -> Entry | None:
        """The entry of *key* from this process: the hit that touches nothing else."""
        local = self._local
        held = None if local is None else local.get((partition, key))
        if held is None or local is None:
            return None
        names = self._names_hit(partition)
        if names is None:
            return None
        entry = self._opened(names, partition, key, held[1], held[0])
        if entry is not None:
            return entry
        flow = self._open(names, partition, key, held[1], held[0])
        try:
            next(flow)
        except StopIteration as stop:
            found: Entry | None = stop.value
            return found
        except Exception:  # the backend's entry may be better, or is as bad and says so
            local.drop((partition, key))
            return None
        flow.close()  # something must be asked for: then ask for everything
        return None

    def _store(
        self,
        partition: str,
        key: bytes,
        kind: int,
        payload: bytes,
        *,
        ttl: float | None,
        tags: Sequence[Tag] = (),
        cost_ms: int = 0,
        if_absent: bool = False,
    ) -> Flow[bool]:
        """Seal and store one entry; whether it was stored."""
        names = yield from self._names(partition)
        with_key = yield from self._current(partition)
        fresh, end = self.policy.lifetime(ttl)
        plain = pack(kind, payload, fresh_until=fresh, cost_ms=cost_ms, tags=tags)
        sealed = seal_under(plain, with_key, names.context(key), self._suite, expires_ms=end)
        self._observer.used(partition, with_key._key_id, "encrypt", "ok")
        stored = names.names(key)
        if if_absent and len(stored) > 1:  # the backend looks under the newest name only
            entry = yield from self._find(partition, key)
            if entry is not None and not self._stale(entry):
                return False
        ttl_ms = max(1, end - now_ms()) if end else None
        done = False
        try:
            self._forget(partition, key, *stored)
            (version, *_) = self._versions(stored)
            if if_absent:
                done = yield from self._set_absent(names, partition, key, sealed, ttl_ms)
            else:
                done = yield ask("set", stored[0], sealed, ttl_ms=ttl_ms, if_absent=False)
        finally:
            if done:
                self._keep(partition, key, stored[0], sealed, version, own=True)
            else:
                self._forget(partition, key, *stored)
        if done:
            self._observer.count("sets")
            if len(stored) > 1:  # else an older entry would come back when this one ends
                yield ask("delete_many", stored[1:])
        return bool(done)

    def _set_absent(
        self, names: PartitionNames, partition: str, key: bytes, sealed: bytes, ttl_ms: int | None
    ) -> Flow[bool]:
        """Store if there is no entry, or only one that has ended: by a tag, or by its expiry."""
        name = names.names(key)[0]
        for _ in range(3):
            if (yield ask("set", name, sealed, ttl_ms=ttl_ms, if_absent=True)):
                return True
            (there,) = yield ask("get_many", [name])
            if there is None:
                continue  # it went meanwhile
            entry = yield from self._open(names, partition, key, name, there)
            if entry is not None and not self._stale(entry):
                return False
            if (yield ask("compare_and_set", name, there, sealed, ttl_ms=ttl_ms)):
                return True
        return False

    def _delete(self, partition: str, keys: Sequence[bytes]) -> Flow[int]:
        """Delete entries; how many were there."""
        names = yield from self._names(partition)
        stored = [name for key in keys for name in names.names(key)]
        if not stored:
            return 0
        try:
            self._forget_all(partition, keys, stored)
            count = yield ask("delete_many", stored)
        finally:
            self._forget_all(partition, keys, stored)
        if hasattr(self._backend, "put_range"):
            yield ask("delete_many", [name + OBJECT for name in stored])
        self._observer.count("deletes", len(keys))
        return int(count)

    def _touch(self, partition: str, key: bytes, ttl: float | None) -> Flow[bool]:
        """Give an entry a new time to live; whether it was there."""
        names = yield from self._names(partition)
        while True:
            entry = yield from self._find(partition, key)
            if entry is None or self._stale(entry):
                return False
            with_key = yield from self._current(partition)
            fresh, end = self.policy.lifetime(ttl)
            plain = pack(
                entry.kind, bytes(entry.payload), fresh_until=fresh, cost_ms=entry.cost_ms,
                tags=entry.tags,
            )  # fmt: skip
            sealed = seal_under(plain, with_key, names.context(key), self._suite, expires_ms=end)
            ttl_ms = max(1, end - now_ms()) if end else None
            name = names.names(key)[0]
            if entry.kind == LARGE:
                name = entry.stored  # the object is there, too
                if not (yield ask("get_range", name + OBJECT, 0, 1)):
                    yield ask("compare_and_set", name, entry.sealed, None)
                    return False
                lives = FOREVER_MS if ttl_ms is None else ttl_ms
                yield ask("put_range", name + OBJECT, 0, b"", ttl_ms=lives)
            try:
                self._forget(partition, key, entry.stored, name)
                done = yield from self._replaced(entry, name, sealed, ttl_ms)
            finally:
                self._forget(partition, key, entry.stored, name)
            if done:
                return True

    def _without_object(
        self, partition: str, key: bytes, entry: Entry, error: Exception
    ) -> Flow[None]:
        """The object that *entry* tells of is gone, or does not open."""
        if isinstance(error, SourceChangedError):
            yield ask("compare_and_set", entry.stored, entry.sealed, None)
        else:
            yield from self._refused(partition, key, entry.stored, entry.sealed, error)

    def _no_keys(self, error: AnysealError) -> BackendError:
        """The keyring has to ask a service which does not answer: the cache is as good as down."""
        self._observer.count("backend_errors")
        found = BackendError(f"the keys cannot be had: {type(error).__name__}")
        found.retryable = error.retryable
        return found

    # ---- values

    def _prepared(self, value: Any) -> tuple[int, bytes]:
        """*value* as an entry's kind and payload.

        Raises:
            TypeError: It cannot be encoded; the message names the path.
            ValueError: It encodes to more than ``max_bytes``.
        """
        if value is None:
            return NONE, b""
        if isinstance(value, bytes | bytearray | memoryview) and self._bytes_pass:
            size = memoryview(value).nbytes
            if size > self.policy.large_bytes:
                if size > self.policy.max_bytes:
                    raise ValueError(f"the value has more than {self.policy.max_bytes:,} bytes")
                if isinstance(value, memoryview):
                    value = value.cast("B") if value.c_contiguous else bytes(value)
                return RAW, value
        payload = self.codec.encode(value)
        if len(payload) > self.policy.max_bytes:
            raise ValueError(f"the value encodes to more than {self.policy.max_bytes:,} bytes")
        return VALUE, payload

    def _decoded(self, kind: int, payload: Any, type: Any) -> Any:
        """The value that a payload stands for. Raises FormatError, or what was cached."""
        if kind == VALUE:
            return self.codec.decode(payload, type)
        if kind == NONE:
            return None
        if kind == RAW:
            if type not in _BYTES_TYPES:
                raise FormatError("the entry holds bytes")
            return payload if payload.__class__ is bytes else bytes(payload)
        if kind == ERROR:
            raise FormatError("the entry holds an exception, which nobody here expects")
        raise FormatError("not an entry of a cache")

    def _frozen(self, error: Exception) -> tuple[int, bytes]:
        """An exception as an entry's kind and payload: its class's name, and its arguments as far
        as the codec takes them."""
        name = f"{type(error).__module__}.{type(error).__qualname__}"
        try:
            return ERROR, codec_named("msgpack").encode([name, list(error.args)])
        except TypeError:
            return ERROR, codec_named("msgpack").encode([name, []])

    def _revived(self, entry: Entry, expected: tuple[type[Exception], ...]) -> Exception | None:
        """The exception in *entry*, if it is of one of the *expected* classes: no other is made."""
        try:
            name, args = codec_named("msgpack").decode(entry.payload, tuple[str, list[Any]])
        except FormatError:
            return None
        for kind in expected:
            for each in _with_subclasses(kind):
                if name == f"{each.__module__}.{each.__qualname__}":
                    with contextlib.suppress(Exception):
                        return each(*args)
        return None

    def _lives(self, ttl: Any) -> float | None:
        return self._ttl if ttl is UNSET else seconds_of(ttl)

    def _lives_for(self, job: Any, value: Any) -> Any:
        """How long *value* lives; UNSET if what its function of a ttl says cannot be."""
        try:
            return self._lives(job.ttl(value) if callable(job.ttl) else job.ttl)
        except (TypeError, ValueError) as exc:
            if not job.lenient:
                raise
            self._observer.warn("a value is not cached: its ttl", job.partition, exc)
            return UNSET

    @staticmethod
    def _stale(entry: Entry) -> bool:
        """Whether *entry* is beyond its time to live, and is kept for those who refresh it."""
        return bool(entry.fresh_until) and now_ms() >= entry.fresh_until

    def _held_locally(
        self, partition: str, keys: Iterable[bytes]
    ) -> tuple[dict[bytes, Entry], set[bytes]]:
        """The entries that the in-process layer has, and their keys."""
        found = {key: self._local_entry(partition, key) for key in keys}
        held = {key: entry for key, entry in found.items() if entry is not None}
        return held, set(held)

    def _local_clear(self, partition: str | None) -> None:
        """Drop what the in-process layer has of a partition."""
        if self._local is not None:
            self._local.drop_partition(partition)

    def _health(self, failure: str, started: float) -> CacheHealth:
        """What a probe that began at *started* found."""
        return CacheHealth(
            ok=failure == "ok",
            backend=failure,
            breaker=self._breaker.state,
            latency_ms=(perf_counter() - started) * 1000,
        )

    def stats(self) -> CacheStats:
        """Counters since the cache was made."""
        found = self._observer.snapshot()
        if self._local is not None:
            found.local_entries, found.local_bytes = self._local.size
        return found

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.namespace!r} {type(self._backend).__name__}>"


def _with_subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    """*kind*, and what inherits from it."""
    yield kind
    for each in kind.__subclasses__():
        yield from _with_subclasses(each)
