"""Sessions without ``await``: callable from any thread; warm keys touch no event loop."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Protocol, Self

from anyseal import offload
from anyseal.hints import use_with
from anyseal.keyring.cached import IntermediateKey
from anyseal.record import open_parsed, open_row, parse_row, seal_row, seal_row_text
from anyseal.session import FactoryBase, SessionBase, bytes_like, decode_text, encode_text

__all__ = ["RowStore", "Session", "SessionFactory"]


class RowStore(Protocol):
    """Where an application keeps its rows, for ``Session.store`` and ``Session.load``."""

    def load(self, key: str) -> str | bytes | None:
        """The row under *key*, or None."""
        ...

    def store(self, key: str, row: str) -> None:
        """Keep *row* under *key*."""
        ...


class Session(SessionBase):
    """Encrypts and decrypts records of one partition: :class:`anyseal.Session` without
    ``await``. Any number of threads may use one session; closing it is cheap, and optional.
    """

    __slots__ = ()

    def _sealing_key(self) -> IntermediateKey:
        self._check()
        key = self._partition.sealing_hit()
        if key is not None:
            self._meter.count_hit()
            return key
        return offload.wait(self._hierarchy.sealing_key, self._partition)

    def _encrypt(self, data: Any, seal: Any) -> Any:
        if not self._observed():
            bytes_like(data)  # before a key is looked for, or even made
            return seal(data, self._sealing_key().row_key)
        with self._observation("encrypt") as observation:
            bytes_like(data)
            key = self._sealing_key()
            observation.key_id = key.id
            return seal(data, key.row_key)

    def encrypt(self, data: Any) -> str:
        """Encrypt *data* into a DataRowRecord, in the caller's thread."""
        key = self._partition.latest
        if (
            key is None
            or self._closed
            or self._audit is not None
            or self._meter.hook is not None
            or time.monotonic() >= key.refresh_at
        ):
            result: str = self._encrypt(data, seal_row_text)
            return result
        return seal_row_text(data, key.row_key)

    def encrypt_row(self, data: Any) -> bytes:
        """As :meth:`encrypt`, the record as bytes: for large data, without a str in between."""
        result: bytes = self._encrypt(data, seal_row)
        return result

    def encrypt_text(self, text: str) -> str:
        """Encrypt *text*, as UTF-8."""
        return self.encrypt(encode_text(text))

    def encrypt_many(self, items: Iterable[Any]) -> list[str]:
        """Encrypt each of *items*."""
        return [self.encrypt(item) for item in items]

    def decrypt(self, row: str | bytes) -> bytes:
        """Decrypt a DataRowRecord, in the caller's thread."""
        key = self._partition.latest
        if (
            key is not None
            and not self._closed
            and self._audit is None
            and self._meter.hook is None
            and time.monotonic() < key.look_at
        ):
            data = open_row(row, key.row_key)
            if data is not None:
                return data
        if self._observed():
            with self._observation("decrypt") as observation:
                return self._decrypt(row, observation)
        return self._decrypt(row, None)

    def _decrypt(self, row: Any, observation: Any) -> bytes:
        self._check()
        parsed = parse_row(row)
        if observation is not None:
            observation.key_id = parsed.key_id
        partition = self._partition
        key = None
        if self._hierarchy.may_open(partition.name, parsed.key_id):
            key = partition.opening_hit(parsed.key_id, parsed.created)
        if key is not None:
            self._meter.count_hit()
        else:
            key = offload.wait(
                self._hierarchy.opening_key, partition, parsed.key_id, parsed.created
            )
        return open_parsed(parsed, key.row_key)

    decrypt_row = decrypt

    def decrypt_text(self, row: str | bytes) -> str:
        """Decrypt a record that holds text. Raises FormatError if it is not UTF-8."""
        return decode_text(self.decrypt(row))

    def decrypt_many(self, rows: Iterable[str | bytes]) -> list[bytes]:
        """Decrypt each of *rows*."""
        return [self.decrypt(row) for row in rows]

    def store(self, key: str, data: Any, rows: RowStore) -> None:
        """Encrypt *data* and keep the record in *rows* under *key*."""
        rows.store(key, self.encrypt(data))

    def load(self, key: str, rows: RowStore) -> bytes | None:
        """Decrypt the record that *rows* has under *key*; None if there is none."""
        row = rows.load(key)
        return None if row is None else self.decrypt(row)

    def close(self) -> None:
        """No more use. Idempotent."""
        self._closed = True

    __aenter__ = use_with

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closed = True


class SessionFactory(FactoryBase):
    """Makes sessions: :class:`anyseal.SessionFactory` without ``await``; a context manager."""

    def session(self, partition: str) -> Session:
        """A session of *partition*; no look at metastore or KMS."""
        return Session(self.hierarchy, self._partition(partition), self._audit)

    def close(self) -> None:
        """Close the hierarchy. Idempotent.

        While the interpreter exits there may be no event loop any more to close connections on;
        then only the keys are dropped.
        """
        if not self._closed:
            self._closed = True
            self._cache.clear()
            if offload.exiting():
                self.hierarchy.forget()
            else:
                offload.wait(self.hierarchy.aclose)

    __aenter__ = use_with

    def __enter__(self) -> Self:
        try:
            if hasattr(self.hierarchy.metastore, "check_table"):  # else no event loop is needed yet
                offload.wait(self.hierarchy.check)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
