"""The older interface, 0.1 to 0.3: one class that is set up, encrypts and decrypts."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

from anyseal.compat.asherah.config import settings_of
from anyseal.compat.asherah.exceptions import ConfigurationError, translated
from anyseal.compat.asherah.sessions import (
    Session,
    SessionFactory,
    check_data,
    check_row,
    check_str,
)
from anyseal.compat.asherah.types import AsherahConfig
from anyseal.errors import AnysealError

__all__ = ["Asherah"]


class Asherah:
    """Encrypts and decrypts records, after :meth:`setup`.

    Each object has keys and connections of its own. The KMS ``static`` is the one of this
    interface's origin: with its published key unless ``STATIC_MASTER_KEY_HEX`` is set.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._factory: SessionFactory | None = None

    def setup(self, config: AsherahConfig) -> None:
        """Make ready to encrypt.

        Raises:
            AsherahException: Set up already, or a setting is missing or malformed.
        """
        with self._lock:
            if self._factory is not None:
                raise ConfigurationError("Asherah already configured; call shutdown() first")
            try:
                settings = settings_of(config)
                if (settings.kms or "").lower() == "static" and not settings.static_master_key_hex:
                    settings = dataclasses.replace(settings, kms="test-debug-static")
                self._factory = SessionFactory._of(settings)
            except AnysealError as exc:
                raise translated(exc) from exc.__cause__

    def shutdown(self) -> None:
        """Let go of keys and connections. Idempotent."""
        with self._lock:
            found, self._factory = self._factory, None
            if found is not None:
                found.close()

    def _session(self, partition_id: str) -> Session:
        factory = self._factory
        if factory is None:
            raise ConfigurationError("Asherah not configured; call setup()")
        return factory.get_session(partition_id)

    def encrypt(self, partition_id: str, data: Any) -> str:
        """Encrypt *data*, bytes-like or str, into a DataRowRecord of *partition_id*.

        Raises:
            TypeError: None, or another wrong type; before anything happens.
            AsherahException: It cannot be done.
        """
        check_str("partition_id", partition_id)
        if isinstance(data, str):
            data = data.encode()
        check_data(data)
        return self._session(partition_id).encrypt_bytes(data)

    def decrypt(self, partition_id: str, data_row_record: str | bytes) -> bytearray:
        """Decrypt a DataRowRecord of *partition_id*.

        Raises:
            TypeError: None, or another wrong type.
            AsherahException: It cannot be done.
        """
        check_str("partition_id", partition_id)
        check_row(data_row_record)
        return bytearray(self._session(partition_id).decrypt_bytes(data_row_record))
