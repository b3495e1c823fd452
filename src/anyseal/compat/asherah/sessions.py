"""SessionFactory and Session under the other library's names."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from anyseal import offload, sync
from anyseal._ffi import view
from anyseal.compat.asherah.config import hierarchy_of, settings_from_env, settings_of
from anyseal.compat.asherah.exceptions import PartitionError, translated
from anyseal.errors import AnysealError
from anyseal.record import parse_row
from anyseal.session import (
    INLINE_ROW_BYTES,
    decode_text,
    decode_text_async,
    encode_text_async,
)
from anyseal.settings import SessionSettings

__all__ = ["Session", "SessionFactory", "check_data", "check_row", "check_str"]

_ROWS = (str, bytes, bytearray, memoryview)


def check_str(name: str, value: Any) -> str:
    """*value*, which must be a str. Raises TypeError."""
    if not isinstance(value, str):
        raise TypeError(f"argument {name!r} must be str, not {type(value).__name__}")
    return value


def check_data(data: Any) -> int:
    """The length of *data*, which must be bytes-like. Raises TypeError."""
    if type(data) is bytes:
        return len(data)
    try:
        return len(view(data))
    except TypeError:
        kind = type(data).__name__
        raise TypeError(f"argument 'data' must be contiguous bytes-like, not {kind}") from None


def check_row(row: Any) -> int:
    """The length of *row*, which must be str or bytes. Raises TypeError."""
    if not isinstance(row, _ROWS):
        kind = type(row).__name__
        raise TypeError(f"argument 'data_row_record' must be str or bytes, not {kind}")
    return len(row)


def _text(data: bytes) -> str:
    """*data* as text. Raises AsherahException."""
    try:
        return decode_text(data)
    except AnysealError as exc:
        raise translated(exc) from exc.__cause__


class _Closing:
    """A context manager that is closed at the end of its block."""

    __slots__ = ()

    def close(self) -> None:
        """No more use. Idempotent."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        ty: type[BaseException] | None = None,
        value: BaseException | None = None,
        tb: TracebackType | None = None,
    ) -> None:
        self.close()


class _Inner(sync.Session):
    """A session that can also be asked for what it has at hand, without waiting."""

    __slots__ = ()

    def encrypt_hit(self, data: Any) -> str | None:
        """The record, if the key is at hand."""
        self._check()
        return None if self._partition.sealing_hit() is None else self.encrypt(data)

    def decrypt_hit(self, row: Any) -> bytes | None:
        """The data, if the key is at hand."""
        self._check()
        if not self._observed():
            data = self._open_hit(row)
            if data is not None:
                return data
        parsed, partition = parse_row(row), self._partition
        if not self._hierarchy.may_open(partition.name, parsed.key_id):
            return None
        if partition.opening_hit(parsed.key_id, parsed.created) is None:
            return None
        return self.decrypt(row)


class _InnerFactory(sync.SessionFactory):
    """Makes such sessions."""

    def session(self, partition: str) -> _Inner:
        """A session of *partition*."""
        return _Inner(self.hierarchy, self._partition(partition), self._audit)


class Session(_Closing):
    """Encrypts and decrypts records of one partition. Made by :meth:`SessionFactory.get_session`.

    Any number of threads and tasks may use one session. The ``_async`` methods work on every event
    loop: at once while the key is at hand and the data small, else in a worker thread.

    All methods raise TypeError for an argument of a wrong type, None included, before anything
    happens, and :class:`AsherahException`, which is a RuntimeError, for everything else.
    """

    __slots__ = ("_inner",)

    def __init__(self, inner: _Inner) -> None:
        self._inner = inner

    def encrypt_bytes(self, data: bytes) -> str:
        """Encrypt *data*, which may be empty, into a DataRowRecord."""
        if type(data) is not bytes:
            check_data(data)
        try:
            return self._inner.encrypt(data)
        except AnysealError as exc:
            raise translated(exc) from exc.__cause__

    def encrypt_text(self, text: str) -> str:
        """Encrypt *text*, which may be empty, as UTF-8."""
        if type(text) is not str:
            check_str("text", text)
        return self.encrypt_bytes(text.encode())

    def decrypt_bytes(self, data_row_record: str | bytes) -> bytes:
        """Decrypt a DataRowRecord."""
        if type(data_row_record) is not str:
            check_row(data_row_record)
        try:
            return self._inner.decrypt(data_row_record)
        except AnysealError as exc:
            raise translated(exc) from exc.__cause__

    def decrypt_text(self, data_row_record: str | bytes) -> str:
        """Decrypt a DataRowRecord of text."""
        data = self.decrypt_bytes(data_row_record)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return _text(data)

    async def encrypt_bytes_async(self, data: bytes) -> str:
        """As :meth:`encrypt_bytes`."""
        if (len(data) if type(data) is bytes else check_data(data)) <= INLINE_ROW_BYTES:
            try:
                row = self._inner.encrypt_hit(data)
            except AnysealError as exc:
                raise translated(exc) from exc.__cause__
            if row is not None:
                return row
        return await offload.run(self.encrypt_bytes, data)

    async def encrypt_text_async(self, text: str) -> str:
        """As :meth:`encrypt_text`."""
        return await self.encrypt_bytes_async(await encode_text_async(check_str("text", text)))

    async def decrypt_bytes_async(self, data_row_record: str | bytes) -> bytes:
        """As :meth:`decrypt_bytes`."""
        if check_row(data_row_record) <= INLINE_ROW_BYTES:
            try:
                data = self._inner.decrypt_hit(data_row_record)
            except AnysealError as exc:
                raise translated(exc) from exc.__cause__
            if data is not None:
                return data
        return await offload.run(self.decrypt_bytes, data_row_record)

    async def decrypt_text_async(self, data_row_record: str | bytes) -> str:
        """As :meth:`decrypt_text`."""
        data = await self.decrypt_bytes_async(data_row_record)
        try:
            return await decode_text_async(data)
        except AnysealError as exc:
            raise translated(exc) from exc.__cause__

    def close(self) -> None:
        """No more use. Idempotent."""
        self._inner.close()

    def __repr__(self) -> str:
        return repr(self._inner).replace(type(self._inner).__name__, type(self).__name__)


class SessionFactory(_Closing):
    """Makes sessions; a context manager. Its caches are shared by all sessions.

    Args:
        config: A mapping of settings with PascalCase or snake_case names; None reads the
            environment. Unknown names are warned about.

    Raises:
        AsherahException: A setting is missing, malformed or contradicts another.

    Nothing is opened before the first encryption or decryption.
    """

    __slots__ = ("__weakref__", "_inner")

    def __init__(self, config: Any = None) -> None:
        try:
            settings = settings_from_env() if config is None else settings_of(config)
            self._inner = _InnerFactory(hierarchy_of(settings))
        except AnysealError as exc:
            raise translated(exc) from exc.__cause__

    @classmethod
    def _of(cls, settings: SessionSettings) -> Self:
        found = cls.__new__(cls)
        found._inner = _InnerFactory(hierarchy_of(settings))
        return found

    @staticmethod
    def from_env() -> SessionFactory:
        """A factory from the environment, as ``SessionFactory()`` makes it."""
        return SessionFactory()

    @staticmethod
    def from_config(config: Any) -> SessionFactory:
        """A factory from a mapping of settings."""
        try:
            return SessionFactory._of(settings_of(config))
        except AnysealError as exc:
            raise translated(exc) from exc.__cause__

    def get_session(self, partition_id: str) -> Session:
        """A session of the partition *partition_id*.

        Raises:
            TypeError: Not a str.
            AsherahException: It is empty or too long, which is a ValueError, too; or the factory
                is closed.
        """
        if not check_str("partition_id", partition_id):
            raise PartitionError("partition id cannot be empty")
        try:
            return Session(self._inner.session(partition_id))
        except AnysealError as exc:
            raise translated(exc) from exc.__cause__
        except ValueError as exc:
            raise PartitionError(str(exc)) from None

    def close(self) -> None:
        """Let go of keys and connections. Idempotent."""
        try:
            self._inner.close()
        except AnysealError as exc:
            raise translated(exc) from exc.__cause__

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._inner.hierarchy.sk_id}>"
