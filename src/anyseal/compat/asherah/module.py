"""The functions of the module: one factory for the whole process."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from anyseal import offload
from anyseal.compat.asherah.exceptions import ConfigurationError
from anyseal.compat.asherah.sessions import (
    Session,
    SessionFactory,
    check_data,
    check_row,
    check_str,
)

__all__ = [
    "decrypt_bytes",
    "decrypt_bytes_async",
    "decrypt_string",
    "decrypt_string_async",
    "encrypt_bytes",
    "encrypt_bytes_async",
    "encrypt_string",
    "encrypt_string_async",
    "get_setup_status",
    "setenv",
    "setup",
    "setup_async",
    "shutdown",
    "shutdown_async",
    "version",
]

_log = logging.getLogger("anyseal.compat.asherah")

_lock = threading.Lock()
_factory: SessionFactory | None = None


def setup(config: Any) -> None:
    """Make the factory that the functions of this module use.

    Args:
        config: A mapping of settings, as for :class:`SessionFactory`.

    Raises:
        AsherahException: Set up already, or a setting is missing or malformed.
    """
    global _factory
    with _lock:
        if _factory is not None:
            raise ConfigurationError("Asherah already configured; call shutdown() first")
        _factory = SessionFactory.from_config(config)


async def setup_async(config: Any) -> None:
    """As :func:`setup`, in a worker thread."""
    await offload.run(setup, config)


def shutdown() -> None:
    """Close the factory. Idempotent."""
    global _factory
    with _lock:
        found, _factory = _factory, None
        if found is not None:
            found.close()
            _log.info("shut down")


async def shutdown_async() -> None:
    """As :func:`shutdown`, in a worker thread."""
    await offload.run(shutdown)


def get_setup_status() -> bool:
    """Whether :func:`setup` was called, and :func:`shutdown` not yet."""
    return _factory is not None


def setenv(env_obj: Any) -> None:
    """Set environment variables, for example before :func:`setup`.

    Args:
        env_obj: A mapping, or the JSON of one. None deletes a variable; what is not a str is
            rendered as JSON.

    Raises:
        AsherahException: Neither.
    """
    found = env_obj
    if isinstance(env_obj, (str, bytes)):
        try:
            found = json.loads(env_obj)
        except ValueError:
            found = None
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise ConfigurationError("the environment must be a mapping or a JSON object")
    for name, value in found.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value if isinstance(value, str) else json.dumps(value)


def version() -> str:
    """The version of anyseal."""
    found: str = import_module("anyseal").__version__
    return found


def _session(partition_id: str) -> Session:
    factory = _factory
    if factory is None:
        raise ConfigurationError("Asherah not configured; call setup()")
    return factory.get_session(partition_id)


def encrypt_bytes(partition_id: str, data: bytes) -> str:
    """Encrypt *data*, which may be empty, into a DataRowRecord of *partition_id*.

    Raises:
        TypeError: None, or another wrong type; before anything happens.
        AsherahException: Not set up, an empty partition, or no key to be had. A RuntimeError.
    """
    check_str("partition_id", partition_id)
    check_data(data)
    return _session(partition_id).encrypt_bytes(data)


def encrypt_string(partition_id: str, text: str) -> str:
    """As :func:`encrypt_bytes`, for *text* as UTF-8."""
    check_str("partition_id", partition_id)
    check_str("text", text)
    return _session(partition_id).encrypt_text(text)


def decrypt_bytes(partition_id: str, data_row_record: str | bytes) -> bytes:
    """Decrypt a DataRowRecord of *partition_id*.

    Raises:
        TypeError: None, or another wrong type; before anything happens.
        AsherahException: Not set up, not a record (an empty one, for example), of another
            partition, tampered with, or its key is not to be had. A RuntimeError.
    """
    check_str("partition_id", partition_id)
    check_row(data_row_record)
    return _session(partition_id).decrypt_bytes(data_row_record)


def decrypt_string(partition_id: str, data_row_record: str | bytes) -> str:
    """As :func:`decrypt_bytes`, for a record of text."""
    check_str("partition_id", partition_id)
    check_row(data_row_record)
    return _session(partition_id).decrypt_text(data_row_record)


async def encrypt_bytes_async(partition_id: str, data: bytes) -> str:
    """As :func:`encrypt_bytes`, on any event loop."""
    check_str("partition_id", partition_id)
    check_data(data)
    return await _session(partition_id).encrypt_bytes_async(data)


async def encrypt_string_async(partition_id: str, text: str) -> str:
    """As :func:`encrypt_string`, on any event loop."""
    check_str("partition_id", partition_id)
    check_str("text", text)
    return await _session(partition_id).encrypt_text_async(text)


async def decrypt_bytes_async(partition_id: str, data_row_record: str | bytes) -> bytes:
    """As :func:`decrypt_bytes`, on any event loop."""
    check_str("partition_id", partition_id)
    check_row(data_row_record)
    return await _session(partition_id).decrypt_bytes_async(data_row_record)


async def decrypt_string_async(partition_id: str, data_row_record: str | bytes) -> str:
    """As :func:`decrypt_string`, on any event loop."""
    check_str("partition_id", partition_id)
    check_row(data_row_record)
    return await _session(partition_id).decrypt_text_async(data_row_record)
