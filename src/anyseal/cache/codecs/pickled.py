"""Pickle, only by name: restricted to plain types unless trusted."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import io
import pickle
import re
import types
import uuid
from collections.abc import Iterable
from typing import Any, ClassVar

from anyseal.cache.codecs.base import check_bytes, fits
from anyseal.cache.codecs.blame import blame
from anyseal.errors import ConfigurationError, FormatError

__all__ = ["PickleCodec"]

_PROTOCOL = 5
_PLAIN: tuple[type[Any], ...] = (
    collections.OrderedDict,
    complex,
    datetime.date,
    datetime.datetime,
    datetime.time,
    datetime.timedelta,
    datetime.timezone,
    decimal.Decimal,
    fractions.Fraction,
    uuid.UUID,
)
"""Beside what pickle has an opcode for. None of them runs code or allocates by a number."""


class PickleCodec:
    """Pickle.

    .. warning::
       Unpickling can run any code. Entries are authenticated before they are decoded, so that only
       who has the keys can write one; but every service that shares the keys can then run code in
       every other. Prefer ``msgpack`` with types. The restricted mode makes plain types only: it
       runs no code, but a crafted entry can still cost time and memory.

    Args:
        allow: Further classes that the restricted mode may make. Their constructors, or their
            ``__setstate__``, run with whatever the entry says.
        trusted: Unpickle everything, with the C implementation (10 to 30 times faster).

    Raises:
        ConfigurationError: *allow* holds something that is no class, or goes with *trusted*;
            *trusted* is not a bool.
    """

    name = "pickle"

    def __init__(self, *, allow: Iterable[type] = (), trusted: bool = False) -> None:
        classes = tuple(allow) if isinstance(allow, Iterable) else (allow,)
        if not all(isinstance(each, type) for each in classes) or isinstance(allow, type):
            raise ConfigurationError("allow must hold classes")
        if not isinstance(trusted, bool):
            raise ConfigurationError("trusted must be True or False")
        if trusted and classes:
            raise ConfigurationError("trusted allows every class: leave allow away")
        self._trusted = trusted
        self._allowed = {(each.__module__, each.__qualname__): each for each in (*_PLAIN, *classes)}

    def encode(self, value: Any) -> bytes:
        """*value* as bytes. The restricted mode checks here that it can decode what it wrote.

        Raises:
            TypeError: Something in it cannot be pickled, or is not of a plain type.
        """
        try:
            data = pickle.dumps(value, _PROTOCOL)
            if not self._trusted:
                self._load(data)
            return data
        except MemoryError:
            raise
        except Exception:  # noqa: S110 - its message may hold a part of the value
            pass
        raise TypeError(f"pickle cannot encode {blame(value, self._try)}")

    def _try(self, value: Any) -> None:
        data = pickle.dumps(value, _PROTOCOL)
        if not self._trusted:
            self._load(data)

    def decode(self, data: bytes | memoryview, type: Any = Any) -> Any:
        """The value in *data*.

        Raises:
            FormatError: Not a pickle, not of allowed types, or not a *type*.
        """
        check_bytes(data)
        reason = "another type"
        try:
            value = self._load(data)
            if fits(value, type):
                return value
        except MemoryError:
            raise
        except Exception as exc:
            reason = exc.__class__.__name__
        raise FormatError(f"not what pickle writes for the type asked for ({reason})")

    def _load(self, data: bytes | memoryview) -> Any:
        if self._trusted:
            return pickle.loads(data)  # noqa: S301 - asked for by name, after authentication
        return _Restricted(bytes(data), self._allowed).load()

    def __repr__(self) -> str:
        return f"<PickleCodec {'trusted' if self._trusted else 'restricted'}>"


_RATIO = re.compile(r"-?[0-9]+(/[0-9]+)?", re.ASCII)


def _fraction(*parts: Any) -> fractions.Fraction:
    """``Fraction`` of what its pickles hold; of ``1e999999999`` it would compute that number."""
    whole = all(type(part) is int for part in parts)
    text = parts[0] if len(parts) == 1 else None
    if not whole and (type(text) is not str or _RATIO.fullmatch(text) is None):
        raise pickle.UnpicklingError("not the parts of a fraction")
    return fractions.Fraction(*parts)


# The implementation in Python: it allocates by what there is, where the one in C allocates by what
# the data declares (its memo, and byte strings).
_InPython: Any = pickle._Unpickler  # type: ignore[attr-defined, unused-ignore]


class _Restricted(_InPython):  # type: ignore[misc]
    """Makes allowed classes only, and changes none of them."""

    dispatch: ClassVar[dict[int, Any]] = dict(_InPython.dispatch)

    def __init__(self, data: bytes, allowed: dict[tuple[str, str], type]) -> None:
        super().__init__(io.BytesIO(data))
        self._data_size = len(data)
        self._allowed = allowed

    def find_class(self, module: str, name: str, /) -> Any:
        """The allowed class of this name."""
        found = self._allowed.get((module, name))
        if found is None:
            raise pickle.UnpicklingError("not a plain type")
        return _fraction if found is fractions.Fraction else found

    def load_build(self) -> None:
        """Refuses to set the state of a class instead of an object's."""
        if isinstance(self.stack[-2], type | types.FunctionType):
            raise pickle.UnpicklingError("the state of a class")
        super().load_build()

    def load_bytearray8(self) -> None:
        """Looks at the declared length before it allocates."""
        size = int.from_bytes(self.read(8), "little")
        if size > self._data_size:
            raise pickle.UnpicklingError("truncated")
        self.append(bytearray(self.read(size)))

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
