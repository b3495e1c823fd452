"""Pickle, only by name: restricted to plain types unless trusted."""

from __future__ import annotations

import fractions
import pickle
from collections.abc import Iterable
from typing import Any

from anyseal.cache.codecs.base import check_bytes, fits, not_brought_back
from anyseal.cache.codecs.blame import blame
from anyseal.errors import ConfigurationError, FormatError
from anyseal.pickles import PLAIN, allowed_classes, by_name, restricted_loads

__all__ = ["PickleCodec"]

_PROTOCOL = 5


class PickleCodec:
    """Pickle.

    .. warning::
       Unpickling can run any code. Entries are authenticated before they are decoded, so that only
       who has the keys can write one; but every service that shares the keys can then run code in
       every other. Prefer ``msgpack`` with types. The restricted mode makes plain types only: it
       runs no code, and costs no more than a multiple of the entry's size.

    Args:
        allow: Further classes that the restricted mode may make, exactly these. Their
            constructors, or their ``__setstate__``, run with whatever the entry says. A state is
            set only where each instance is a new object: an Enum has its values and no more.
        trusted: Unpickle everything, with the C implementation (10 to 30 times faster).

    Raises:
        ConfigurationError: *allow* holds something that is no class, or goes with *trusted*;
            *trusted* is not a bool.
    """

    name = "pickle"

    def __init__(self, *, allow: Iterable[type] = (), trusted: bool = False) -> None:
        if not isinstance(trusted, bool):
            raise ConfigurationError("trusted must be True or False")
        self._trusted = trusted
        self._stateful = allowed_classes(allow, trusted)
        self._classes = by_name((*PLAIN, fractions.Fraction, *self._stateful))

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
        error = TypeError(f"pickle cannot encode {blame(value, self._try)}")
        error.discreet = f"pickle cannot encode {blame(value, self._try, keys=False)}"  # type: ignore[attr-defined]
        raise error

    def encode_result(self, value: Any, type: Any = Any) -> bytes:
        """As :meth:`encode`. Raises TypeError too if *value* is not a *type*."""
        data = self.encode(value)
        if not fits(value, type):
            raise not_brought_back(self.name, value)
        return data

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
        return restricted_loads(bytes(data), self._classes, self._stateful)

    def __repr__(self) -> str:
        return f"<PickleCodec {'trusted' if self._trusted else 'restricted'}>"
