"""Exceptions that are kept, as bytes: ``[name of the class, arguments]`` as a tagged value."""

from __future__ import annotations

from typing import Any

from anyseal.cache.codecs.messages import MessagePackCodec
from anyseal.errors import FormatError

__all__ = ["pack_exception", "unpack_exception"]

_codec = MessagePackCodec()


def pack_exception(error: Exception) -> bytes:
    """The bytes that stand for *error*.

    Raises:
        TypeError: One of its arguments would not come back as what it is.
    """
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    return _codec.encode_result([name, list(error.args)])


def unpack_exception(payload: Any) -> tuple[str, list[Any]]:
    """The name of a class, and arguments.

    Raises:
        FormatError: Not what :func:`pack_exception` makes.
    """
    found = _codec.decode(payload)
    if type(found) is list and len(found) == 2:
        name, args = found
        if type(name) is str and type(args) is list:
            return name, args
    raise FormatError("not an exception")
