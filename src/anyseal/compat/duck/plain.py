"""Pickles of plain values: they are read without calling anything but plain constructors."""

from __future__ import annotations

import datetime
import decimal
import pickle
import uuid
from collections import OrderedDict
from typing import Any

__all__ = ["PICKLE_PROTOCOL", "PlainPickler", "PlainUnpickler"]

PICKLE_PROTOCOL = 4


def _bytearray(content: bytes | str = b"", encoding: str = "latin-1") -> bytearray:
    """``bytearray``, but never of a number: a few bytes must not ask for much memory."""
    if isinstance(content, str) and encoding == "latin-1":
        return bytearray(content, encoding)
    if isinstance(content, bytes):
        return bytearray(content)
    raise pickle.UnpicklingError("not the content of a bytearray")


_PLAIN_CLASSES: dict[tuple[str, str], Any] = {
    ("builtins", "complex"): complex,
    ("collections", "OrderedDict"): OrderedDict,
    ("datetime", "date"): datetime.date,
    ("datetime", "datetime"): datetime.datetime,
    ("datetime", "time"): datetime.time,
    ("datetime", "timedelta"): datetime.timedelta,
    ("datetime", "timezone"): datetime.timezone,
    ("decimal", "Decimal"): decimal.Decimal,
    ("uuid", "UUID"): uuid.UUID,
}
"""What pickles of plain values name; other plain types have opcodes of their own."""

_WRITABLE = frozenset({bytearray, *_PLAIN_CLASSES.values()})


class PlainUnpickler(pickle.Unpickler):
    """Calls nothing but the constructors of plain types."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "bytearray"):
            return _bytearray
        try:
            return _PLAIN_CLASSES[module, name]
        except KeyError:
            raise pickle.UnpicklingError("not a plain type") from None

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("not a plain value")


class PlainPickler(pickle.Pickler):
    """Refuses what :class:`PlainUnpickler` would not read. Not asked for types with opcodes."""

    def reducer_override(self, obj: Any) -> Any:
        plain = obj in _WRITABLE if isinstance(obj, type) else type(obj) in _WRITABLE
        if not plain:
            kind = obj if isinstance(obj, type) else type(obj)
            raise TypeError(
                f"{kind.__module__}.{kind.__qualname__} is not a plain type: "
                "convert it, or pass trusted_pickle=True"
            )
        return NotImplemented
