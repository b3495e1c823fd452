"""The protocols that connect anyseal to keys and storage.

A port is async where it may wait for a network. Local storage is blocking: those ports carry the
names of the system calls (``pread_into``, ``pwrite``) and are called in worker threads by the
async side, directly by the sync side.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from anyseal.keys import Key
from anyseal.record import KeyRecord

__all__ = [
    "AppendSink",
    "AuditEvent",
    "AuditHook",
    "Backend",
    "BlockingBackend",
    "BlockingLeasingBackend",
    "BlockingRangedBackend",
    "BlockingSink",
    "BlockingSource",
    "CacheEvent",
    "Ends",
    "KeyRecord",
    "Keyring",
    "Kms",
    "LeasingBackend",
    "LocalKeyring",
    "Metastore",
    "MetastoreAdmin",
    "MetricsHook",
    "NamingKeyring",
    "Progress",
    "RangedBackend",
    "Sink",
    "Source",
    "TimingEvent",
    "WatchedBackend",
]

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called with (plaintext bytes done, total or None) from the caller's own thread or task."""


@runtime_checkable
class Keyring(Protocol):
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
class LocalKeyring(Keyring, Protocol):
    """A keyring that computes its keys: sync code asks it without an event loop.

    Both methods may take CPU time, but wait for nothing.
    """

    def current_local(self, partition: str) -> Key:
        """The key to seal with."""
        ...

    def get_local(self, partition: str, key_id: bytes) -> Key:
        """The key that *key_id* names. Raises WrongKeyError if it is unknown."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """The first and last bytes of a source, and its size, all of one moment."""

    size: int
    head: bytes
    tail: bytes


@runtime_checkable
class Source(Protocol):
    """Random access to sealed bytes over a network.

    All reads after ``ends`` are of the same version, or raise SourceChangedError.
    """

    async def ends(self, head: int, tail: int) -> Ends:
        """The first *head* and last *tail* bytes (fewer if the source is shorter), pinned."""
        ...

    async def read(self, offset: int, length: int) -> bytes | bytearray | memoryview:
        """Exactly *length* bytes from *offset*."""
        ...

    async def aclose(self) -> None:
        """Let go of what the source holds."""
        ...


@runtime_checkable
class BlockingSource(Protocol):
    """Random access to sealed bytes on this machine. Called from several threads at once."""

    def pread_ends(self, head: int, tail: int) -> Ends:
        """The first *head* and last *tail* bytes (fewer if the source is shorter)."""
        ...

    def pread_into(self, offset: int, buffer: memoryview) -> None:
        """Fill *buffer* from *offset*, or raise SourceChangedError."""
        ...

    def window(self, offset: int, length: int) -> memoryview | None:
        """The source's own memory for these bytes, if it has any."""
        ...

    def close(self) -> None:
        """Let go of what the source holds."""
        ...


@runtime_checkable
class Sink(Protocol):
    """Takes sealed bytes, front to back.

    What ``write`` was given must not be kept after it returned. ``commit`` makes the whole
    visible, ``abort`` removes every trace; one of the two is called, once.
    """

    async def write(self, data: memoryview) -> None:
        """Append *data*."""
        ...

    async def commit(self) -> None:
        """Everything was written."""
        ...

    async def abort(self) -> None:
        """It will not be finished."""
        ...


@runtime_checkable
class BlockingSink(Protocol):
    """Takes sealed bytes at any offset, in any order, from several threads at once."""

    def pwrite(self, offset: int, data: memoryview) -> None:
        """Write all of *data* at *offset*."""
        ...

    def window(self, offset: int, length: int) -> memoryview | None:
        """The sink's own memory for these bytes, to be sealed into; None if it has none."""
        ...

    def commit(self, size: int) -> None:
        """Everything was written: *size* bytes."""
        ...

    def abort(self) -> None:
        """It will not be finished: remove every trace."""
        ...


@runtime_checkable
class AppendSink(Protocol):
    """Takes sealed bytes front to back, on this machine, by a blocking call."""

    def append(self, data: memoryview) -> None:
        """Write all of *data* after what was written before."""
        ...

    def commit(self, size: int) -> None:
        """Everything was written: *size* bytes."""
        ...

    def abort(self) -> None:
        """It will not be finished."""
        ...


@runtime_checkable
class Kms(Protocol):
    """Wraps system keys with a key that never leaves the service.

    Both raise KmsError, with ``retryable`` where trying again can help.
    """

    async def wrap(self, key: bytearray) -> bytes:
        """32 secret bytes as a blob that only the service can undo. *key* is wiped afterwards."""
        ...

    async def unwrap(self, wrapped: bytes) -> bytes | bytearray:
        """The 32 bytes in *wrapped*. A bytearray is wiped by the caller."""
        ...


@runtime_checkable
class Metastore(Protocol):
    """Keeps wrapped keys by (id, created). All raise MetastoreError."""

    async def load(self, key_id: str, created: int) -> KeyRecord | None:
        """The record with exactly this id and time, or None."""
        ...

    async def load_latest(self, key_id: str) -> KeyRecord | None:
        """The record with this id and the latest time, or None."""
        ...

    async def store(self, record: KeyRecord) -> bool:
        """Insert *record* unless its id and time are taken; whether it was inserted."""
        ...

    async def aclose(self) -> None:
        """Let go of connections. Idempotent."""
        ...


@runtime_checkable
class MetastoreAdmin(Metastore, Protocol):
    """A metastore that can also be looked through and changed."""

    def records(self, key_id_prefix: str = "") -> AsyncIterator[KeyRecord]:
        """All records whose id begins with *key_id_prefix*, by id and time."""
        ...

    def versions(self, key_id: str) -> AsyncIterator[KeyRecord]:
        """All records with exactly this id, oldest first."""
        ...

    async def revoke(self, key_id: str, created: int) -> bool:
        """Mark a record as revoked; whether it was there."""
        ...

    async def delete(self, key_id: str, created: int) -> bool:
        """Delete a record; whether it was there."""
        ...


@runtime_checkable
class NamingKeyring(Keyring, Protocol):
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


@runtime_checkable
class Backend(Protocol):
    """Keeps the sealed entries of a cache by name. All raise BackendError.

    Names are printable ASCII without spaces, at most 200 characters; what stands between the
    first ``{`` and ``}`` is the part that must decide where a name lives (Redis Cluster's rule).
    Values are what was given, as bytes. A *ttl_ms* is at least 1; None keeps an entry until it is
    deleted, or evicted.
    """

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """The values, in the order of *names*; None for what is not there."""
        ...

    async def set(
        self, name: str, value: bytes, *, ttl_ms: int | None = None, if_absent: bool = False
    ) -> bool:
        """Store *value*; with *if_absent* only if there is none. Whether it was stored."""
        ...

    async def compare_and_set(
        self, name: str, expected: bytes, value: bytes | None, *, ttl_ms: int | None = None
    ) -> bool:
        """Replace *expected* by *value* (None: delete) in one step; whether it was there."""
        ...

    async def delete_many(self, names: Sequence[str]) -> int:
        """Delete what is there of *names*; how many that were."""
        ...

    def scan(self, prefix: str) -> AsyncIterator[list[str]]:
        """The names that begin with *prefix*, in lists; those of this moment at least."""
        ...

    async def aclose(self) -> None:
        """Let go of connections. Idempotent."""
        ...


@runtime_checkable
class RangedBackend(Backend, Protocol):
    """A backend whose values can be written and read a piece at a time."""

    async def put_range(self, name: str, offset: int, data: bytes, *, ttl_ms: int) -> None:
        """Write *data* at *offset*, which is at most the value's length, into a value that need
        not exist; the value lives *ttl_ms* from now."""
        ...

    async def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Up to *length* bytes from *offset*; fewer at the end, none if there is no value."""
        ...

    async def publish(
        self, temporary: str, final: str, name: str, value: bytes, *, ttl_ms: int | None
    ) -> bool:
        """Rename *temporary* to *final* and store *value* under *name*, both with this time to
        live, in one step. All three share what stands in braces. False if *temporary* is gone."""
        ...


@runtime_checkable
class BlockingBackend(Protocol):
    """The same without ``await``, for sync code. Called from several threads at once."""

    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """As :meth:`Backend.get_many`."""
        ...

    def set(
        self, name: str, value: bytes, *, ttl_ms: int | None = None, if_absent: bool = False
    ) -> bool:
        """As :meth:`Backend.set`."""
        ...

    def compare_and_set(
        self, name: str, expected: bytes, value: bytes | None, *, ttl_ms: int | None = None
    ) -> bool:
        """As :meth:`Backend.compare_and_set`."""
        ...

    def delete_many(self, names: Sequence[str]) -> int:
        """As :meth:`Backend.delete_many`."""
        ...

    def scan(self, prefix: str) -> Iterator[list[str]]:
        """As :meth:`Backend.scan`."""
        ...

    def close(self) -> None:
        """As :meth:`Backend.aclose`."""
        ...


@runtime_checkable
class BlockingRangedBackend(BlockingBackend, Protocol):
    """:class:`RangedBackend` without ``await``."""

    def put_range(self, name: str, offset: int, data: bytes, *, ttl_ms: int) -> None:
        """As :meth:`RangedBackend.put_range`."""
        ...

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """As :meth:`RangedBackend.get_range`."""
        ...

    def publish(
        self, temporary: str, final: str, name: str, value: bytes, *, ttl_ms: int | None
    ) -> bool:
        """As :meth:`RangedBackend.publish`."""
        ...


@runtime_checkable
class LeasingBackend(Backend, Protocol):
    """A backend that does in one exchange what a computed value, its lease and its object need."""

    async def take_lease(
        self, lock: str, owner: bytes, name: str, *, ttl_ms: int
    ) -> tuple[bool, bytes | None]:
        """Store *owner* under *lock* if there is none; whether it was, and what is under *name*
        after that. Both share what stands in braces."""
        ...

    async def settle(
        self, name: str, value: bytes, lock: str, owner: bytes, *,
        others: Sequence[str] = (), ttl_ms: int | None = None,
    ) -> bool:  # fmt: skip
        """If *lock* is *owner*'s, store *value* under *name* and delete *lock* and *others*, in
        one step; whether it was. All share what stands in braces."""
        ...

    async def set_and_delete(
        self, name: str, value: bytes, others: Sequence[str], *, ttl_ms: int | None = None
    ) -> bool:
        """Delete *others*, then store *value* under *name*, in one exchange; whether it was
        stored. All share what stands in braces."""
        ...

    async def delete_beside(self, names: Sequence[str], others: Sequence[str]) -> int:
        """Delete *others*, then *names*, in one exchange; how many of *names* were there."""
        ...


@runtime_checkable
class BlockingLeasingBackend(BlockingBackend, Protocol):
    """:class:`LeasingBackend` without ``await``."""

    def take_lease(
        self, lock: str, owner: bytes, name: str, *, ttl_ms: int
    ) -> tuple[bool, bytes | None]:
        """As :meth:`LeasingBackend.take_lease`."""
        ...

    def settle(
        self, name: str, value: bytes, lock: str, owner: bytes, *,
        others: Sequence[str] = (), ttl_ms: int | None = None,
    ) -> bool:  # fmt: skip
        """As :meth:`LeasingBackend.settle`."""
        ...

    def set_and_delete(
        self, name: str, value: bytes, others: Sequence[str], *, ttl_ms: int | None = None
    ) -> bool:
        """As :meth:`LeasingBackend.set_and_delete`."""
        ...

    def delete_beside(self, names: Sequence[str], others: Sequence[str]) -> int:
        """As :meth:`LeasingBackend.delete_beside`."""
        ...


@runtime_checkable
class WatchedBackend(Backend, Protocol):
    """A backend that says which entries changed, also by other processes."""

    def changes(self, prefix: str) -> AsyncIterator[list[str] | None]:
        """Names below *prefix* that changed or went, as it happens; None when some may have been
        missed (at the start of each connection): whatever is held must then be dropped."""
        ...


@dataclass(frozen=True, slots=True)
class TimingEvent:
    """How long an operation took."""

    operation: Literal["encrypt", "decrypt", "load", "store"]
    duration_ns: int


@dataclass(frozen=True, slots=True)
class CacheEvent:
    """What a cache had or did: the thing, nothing, something too old to use unchecked, ..."""

    outcome: Literal[
        "hit", "miss", "stale",
        "local-hit", "set", "delete", "tampered", "wrong-key", "old-key", "resealed", "expired",
        "backend-error",
    ]  # fmt: skip
    cache: str
    """``session``, ``intermediate-key`` or ``system-key``; for ``anyseal.cache`` the namespace.
    Only the latter has more outcomes than the first three."""


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Who used which key for what, and how it ended."""

    partition: str
    key_id: str
    operation: Literal["encrypt", "decrypt", "revoke", "rotate", "shred"]
    outcome: str
    """``ok``, or the name of the exception's class."""


class MetricsHook(Protocol):
    """Called with each event, in the thread that caused it; must be quick and must not raise."""

    def __call__(self, event: TimingEvent | CacheEvent, /) -> None: ...


class AuditHook(Protocol):
    """Called with each use of a key; must be quick and must not raise."""

    def __call__(self, event: AuditEvent, /) -> None: ...


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
        if not isinstance(keyring, Keyring):
            raise TypeError(f"expected a Key or a Keyring, not {kind.__name__}")
        _keyring_types.add(kind)
    if not isinstance(partition, str):
        raise TypeError("partition= is needed with a keyring, and must be a str")
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
