"""Bytes as they are."""

from __future__ import annotations

import types
import typing
from typing import Any

from anyseal.cache.codecs.base import check_bytes, not_brought_back
from anyseal.config import BYTES_LIKE
from anyseal.errors import FormatError
from anyseal.pages import copied

__all__ = ["RawCodec"]


class RawCodec:
    """Bytes-like in, bytes out; nothing is added. A ``bytes`` object is not copied."""

    name = "raw"

    def encode(self, value: Any) -> bytes:
        """*value*, which must be contiguous and bytes-like.

        Raises:
            TypeError: It is something else.
        """
        if type(value) is bytes:
            return value
        if isinstance(value, BYTES_LIKE):
            return copied(value)
        raise TypeError(f"raw cannot encode $: {type(value).__name__}")

    def encode_result(self, value: Any, type: Any = Any) -> bytes:
        """As :meth:`encode`. Raises TypeError too if *value* is not what *type* makes of it."""
        data = self.encode(value)
        try:
            found = self.decode(data, type)
        except FormatError:
            found = None
        if found.__class__ is not value.__class__:
            raise not_brought_back(self.name, value)
        return data

    def decode(self, data: bytes | memoryview, type: Any = Any) -> Any:
        """*data* as bytes, or as the bytearray or memoryview that *type* says.

        Raises:
            FormatError: *type* is something else.
        """
        if (type is Any or type is bytes) and data.__class__ is bytes:
            return data
        check_bytes(data)
        wanted = _bytes_like(type)
        if wanted is bytes:
            return copied(data)
        return data if wanted is data.__class__ else wanted(data)

    def __repr__(self) -> str:
        return "<RawCodec>"


def _bytes_like(annotation: Any) -> Any:
    """The bytes-like class that *annotation* is or admits."""
    if annotation is Any or annotation is object:
        return bytes
    if annotation in (bytes, bytearray, memoryview):
        return annotation
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        for each in typing.get_args(annotation):
            if each in (bytes, bytearray, memoryview):
                return each
    raise FormatError("raw holds bytes, and another type is asked for")
