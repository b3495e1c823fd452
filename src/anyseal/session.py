"""Sessions: encrypt and decrypt records of one partition, wire-compatible with Asherah.

A record is a JSON text that carries its own data key, wrapped under the partition's intermediate
key. On a warm key a call is one call into C and suspends nowhere.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

import anyio
import anyio.lowlevel

from anyseal import offload
from anyseal._ffi import view
from anyseal.config import BYTES_LIKE
from anyseal.errors import ConfigurationError, FormatError
from anyseal.hints import check_callable, not_hierarchy, not_record, use_async_with, wrong_type
from anyseal.keyring.cached import IntermediateKey, Partition, trim
from anyseal.keyring.hierarchy import KeyHierarchy
from anyseal.pages import decoded, encoded
from anyseal.ports import AuditEvent, AuditHook, MetricsHook
from anyseal.record import open_parsed, open_row, parse_row, seal_row, seal_row_text

__all__ = [
    "FactoryBase",
    "RowStore",
    "Session",
    "SessionBase",
    "SessionFactory",
    "bytes_like",
    "decode_text",
    "decode_text_async",
    "encode_text",
    "encode_text_async",
]

INLINE_ROW_BYTES = 64 << 10
"""Rows up to this size are done on the event loop; larger ones in a worker thread."""

_ROWS = (str, *BYTES_LIKE)


class RowStore(Protocol):
    """Where an application keeps its rows, for ``Session.store`` and ``Session.load``."""

    async def load(self, key: str) -> str | bytes | None:
        """The row under *key*, or None."""
        ...

    async def store(self, key: str, row: str) -> None:
        """Keep *row* under *key*."""
        ...


async def _breathe(done: int) -> int:
    """Let other tasks run after every so many characters; returns those since then."""
    if done < INLINE_ROW_BYTES:
        return done
    await anyio.lowlevel.checkpoint()
    return 0


def bytes_like(data: Any) -> int:
    """The length of a bytes-like in bytes. Raises TypeError."""
    return len(data) if type(data) is bytes else len(view(data))


def _row_length(row: Any) -> int:
    if not isinstance(row, _ROWS):
        raise not_record(row)
    return len(row)


def decode_text(data: bytes, pause: Callable[[], object] = int) -> str:
    """*data* as str. Raises FormatError if it is not UTF-8."""
    try:
        return decoded(data, pause)
    except UnicodeDecodeError:
        raise FormatError("the record does not hold text") from None


async def decode_text_async(data: bytes) -> str:
    """The same, off the loop if it is long."""
    if len(data) <= INLINE_ROW_BYTES:
        return decode_text(data)
    return await offload.run(decode_text, data, offload.pause)


def encode_text(text: Any, pause: Callable[[], object] = int) -> Any:
    """*text* as UTF-8. Raises TypeError."""
    if not isinstance(text, str):
        remedy = "encrypt() takes bytes" if isinstance(text, bytes) else ""
        raise wrong_type("text", "str", text, remedy)
    return encoded(text, pause)


async def encode_text_async(text: Any) -> Any:
    """The same, off the loop if it takes long."""
    if not isinstance(text, str) or len(text) <= INLINE_ROW_BYTES or text.isascii():
        return encode_text(text)
    return await offload.run(encode_text, text, offload.pause)


class SessionBase:
    """What both sessions share: one partition, its cached keys, its hooks."""

    __slots__ = ("_audit", "_closed", "_hierarchy", "_meter", "_partition")

    def __init__(
        self, hierarchy: KeyHierarchy, partition: Partition, audit: AuditHook | None
    ) -> None:
        self._hierarchy = hierarchy
        self._meter = hierarchy.meter
        self._partition = partition
        self._audit = audit
        self._closed = False

    @property
    def partition(self) -> str:
        """The partition's name."""
        return self._partition.name

    def _check(self) -> None:
        if self._closed:
            raise ConfigurationError("the session is closed")

    def _open_hit(self, row: Any) -> bytes | None:
        """Open a row of the usual layout under the usual key, without a look at anything else.

        The sessions' own methods have this inline: a call is a tenth of a small row.
        """
        key = self._partition.latest
        if key is None or time.monotonic() >= key.look_at:
            return None
        return open_row(row, key.row_key)

    def _observed(self) -> bool:
        return self._meter.hook is not None or self._audit is not None

    def _report(self, operation: Any, start: int, key_id: str, error: BaseException | None) -> None:
        self._meter.took(operation, start)
        if self._audit is not None:
            outcome = "ok" if error is None else type(error).__name__
            self._audit(AuditEvent(self._partition.name, key_id, operation, outcome))

    def _observation(self, operation: str) -> _Observation:
        return _Observation(self, operation)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'closed' if self._closed else 'open'}>"


class _Observation:
    """Reports one operation to the hooks when its block ends."""

    __slots__ = ("_operation", "_session", "_start", "key_id")

    def __init__(self, session: SessionBase, operation: str) -> None:
        self._session = session
        self._operation = operation
        self._start = time.perf_counter_ns()
        self.key_id = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._session._report(self._operation, self._start, self.key_id, error)


class Session(SessionBase):
    """Encrypts and decrypts records of one partition. Made by ``SessionFactory.session``.

    Any number of tasks may use one session. Closing it is cheap, and optional.
    """

    __slots__ = ()

    async def _sealing_key(self) -> IntermediateKey:
        self._check()
        key = self._partition.sealing_hit()
        if key is not None and self._meter.hook is None:
            return key
        return await self._hierarchy.sealing_key(self._partition)

    async def encrypt(self, data: Any) -> str:
        """Encrypt *data* into a DataRowRecord.

        Args:
            data: Contiguous bytes-like, 0 to 2**31 - 32 bytes. Empty data is data.

        Returns:
            The record: JSON text of about 240 bytes and 4/3 of the data.

        Raises:
            TypeError: Not bytes-like.
            MetastoreError, KmsError: No key at hand, and none to be had.

        Cost: on a warm key one C call and no suspension up to 64 KiB, else a worker thread.
        Source: the public DataRowRecord format; docs/sessions.md.
        """
        if self._audit is not None or self._meter.hook is not None:
            with _Observation(self, "encrypt") as observation:
                text: str = await self._encrypt(data, seal_row_text, observation)
                return text
        if self._closed:
            self._check()
        key = self._partition.sealing_hit()
        if key is None or bytes_like(data) > INLINE_ROW_BYTES:
            result: str = await self._encrypt(data, seal_row_text)
            return result
        return seal_row_text(data, key.row_key)

    async def encrypt_row(self, data: Any) -> bytes:
        """As :meth:`encrypt`, the record as bytes: for large data, without a str in between."""
        if self._observed():
            with _Observation(self, "encrypt") as observation:
                result: bytes = await self._encrypt(data, seal_row, observation)
                return result
        found: bytes = await self._encrypt(data, seal_row)
        return found

    async def _encrypt(self, data: Any, seal: Any, observation: _Observation | None = None) -> Any:
        size = bytes_like(data)
        key = await self._sealing_key()
        if observation is not None:
            observation.key_id = key.id
        if size <= INLINE_ROW_BYTES:
            return seal(data, key.row_key)
        steps = (None, offload.pause) if seal is seal_row_text else ()
        return await offload.run(seal, data, key.row_key, *steps)

    async def encrypt_text(self, text: str) -> str:
        """Encrypt *text*, as UTF-8.

        Cost: as :meth:`encrypt`, if it is ASCII. CPython turns other text into UTF-8 while it holds
        the GIL: 1 to 3 ms per MiB in a worker thread, in steps of which none takes 1 ms.
        """
        return await self.encrypt(await encode_text_async(text))

    async def encrypt_many(self, items: Iterable[Any]) -> list[str]:
        """Encrypt each of *items*; lets other tasks run in between."""
        rows, done = [], 0
        for item in items:
            row = await self.encrypt(item)
            rows.append(row)
            done = await _breathe(done + len(row))
        return rows

    async def decrypt(self, row: str | bytes) -> bytes:
        """Decrypt a DataRowRecord.

        Args:
            row: What :meth:`encrypt` returned, here or in any implementation; any legal JSON of
                the format.

        Returns:
            The data.

        Raises:
            FormatError: Not a DataRowRecord.
            WrongPartitionError: It belongs to another partition.
            KeyNotFoundError: The metastore does not have its key.
            DecryptionError: It does not verify.
            MetastoreError, KmsError: Its key is not at hand, and cannot be had now.

        Cost: as :meth:`encrypt`. Writes nothing to the metastore.
        """
        if self._audit is not None or self._meter.hook is not None:
            with _Observation(self, "decrypt") as observation:
                return await self._decrypt(row, observation)
        if self._closed:
            self._check()
        key = self._partition.latest
        if (
            key is not None
            and _row_length(row) <= INLINE_ROW_BYTES
            and time.monotonic() < key.look_at
        ):
            data = open_row(row, key.row_key)
            if data is not None:
                return data
        return await self._decrypt(row)

    async def _decrypt(self, row: Any, observation: _Observation | None = None) -> bytes:
        self._check()
        small = _row_length(row) <= INLINE_ROW_BYTES
        parsed = parse_row(row) if small else await offload.run(parse_row, row, offload.pause)
        if observation is not None:
            observation.key_id = parsed.key_id
        key = await self._hierarchy.opening_key(self._partition, parsed.key_id, parsed.created)
        if small:
            return open_parsed(parsed, key.row_key)
        return await offload.run(open_parsed, parsed, key.row_key)

    decrypt_row = decrypt

    async def decrypt_text(self, row: str | bytes) -> str:
        """Decrypt a record that holds text. Raises FormatError if it is not UTF-8.

        Cost: as :meth:`encrypt_text`.
        """
        return await decode_text_async(await self.decrypt(row))

    async def decrypt_many(self, rows: Iterable[str | bytes]) -> list[bytes]:
        """Decrypt each of *rows*; lets other tasks run in between."""
        items, done = [], 0
        for row in rows:
            items.append(await self.decrypt(row))
            done = await _breathe(done + len(row))
        return items

    async def store(self, key: str, data: Any, rows: RowStore) -> None:
        """Encrypt *data* and keep the record in *rows* under *key*."""
        await rows.store(key, await self.encrypt(data))

    async def load(self, key: str, rows: RowStore) -> bytes | None:
        """Decrypt the record that *rows* has under *key*; None if there is none."""
        row = await rows.load(key)
        return None if row is None else await self.decrypt(row)

    async def aclose(self) -> None:
        """No more use. Idempotent."""
        self._closed = True

    __enter__ = use_async_with

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._closed = True


class FactoryBase:
    """What both factories share: the hierarchy and the session cache."""

    def __init__(self, hierarchy: KeyHierarchy, *, audit: AuditHook | None = None) -> None:
        if not isinstance(hierarchy, KeyHierarchy):
            raise not_hierarchy(hierarchy)
        if audit is not None:
            check_callable("audit", audit)
        self.hierarchy = hierarchy
        self._audit = audit
        self._cache: OrderedDict[str, Partition] = OrderedDict()
        self._closed = False

    @classmethod
    def from_config(
        cls,
        settings: Mapping[str, Any] | str | os.PathLike[str],
        *,
        metrics: MetricsHook | None = None,
        audit: AuditHook | None = None,
    ) -> Self:
        """A factory from settings: a mapping, or the path of a JSON or TOML file.

        Names are PascalCase or snake_case; docs/sessions.md lists them.

        Raises:
            ConfigurationError: A setting is unknown, missing, malformed or contradicts another.
        """
        from anyseal.settings import SessionSettings

        if isinstance(settings, Mapping):
            found = SessionSettings.from_mapping(settings)
        else:
            found = SessionSettings.from_file(settings)
        return cls(found.hierarchy(metrics=metrics), audit=audit)

    @classmethod
    def from_env(
        cls, *, metrics: MetricsHook | None = None, audit: AuditHook | None = None
    ) -> Self:
        """A factory from the environment variables that docs/sessions.md lists."""
        from anyseal.settings import SessionSettings

        return cls(SessionSettings.from_env().hierarchy(metrics=metrics), audit=audit)

    def _partition(self, partition: str) -> Partition:
        """The partition's keys, through the session cache."""
        if self._closed:
            raise ConfigurationError("the session factory is closed")
        policy = self.hierarchy.policy
        if not policy.session_cache_size:
            return self.hierarchy.partitions.of(partition)
        now, cached = time.monotonic(), self._cache.get(partition)
        if cached is not None and now < cached.session_until:
            self.hierarchy.meter.count("hit", "session")
            with contextlib.suppress(KeyError):  # another thread dropped it meanwhile
                self._cache.move_to_end(partition)
            return cached
        found = self.hierarchy.partitions.of(partition)
        self.hierarchy.meter.count("miss" if cached is None else "stale", "session")
        found.session_until = now + policy.session_cache_duration
        self._cache[partition] = found
        trim(self._cache, policy.session_cache_size)
        return found

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.hierarchy.sk_id}>"


class SessionFactory(FactoryBase):
    """Makes sessions; an async context manager that closes its hierarchy.

    ::

        async with SessionFactory(KeyHierarchy(kms, metastore, service="pay", product="eu")) as f:
            session = f.session("user-42")
            row = await session.encrypt(b"secret")

    The block begins with a look whether the key table is there (``anyseal keys init`` makes it).

    Args:
        hierarchy: Where the keys come from. The factory closes it.
        audit: Called after each operation with partition, key id, operation and outcome.
    """

    def session(self, partition: str) -> Session:
        """A session of *partition*.

        Raises:
            TypeError: *partition* is not a str.
            ValueError: It is empty or too long.

        Cost: 1 us; no look at metastore or KMS.
        """
        return Session(self.hierarchy, self._partition(partition), self._audit)

    async def aclose(self) -> None:
        """Close the hierarchy. Idempotent."""
        self._closed = True
        self._cache.clear()
        await self.hierarchy.aclose()

    __enter__ = use_async_with

    async def __aenter__(self) -> Self:
        try:
            await self.hierarchy.check()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.aclose()
