"""What a codec is, and how any object with ``encode`` and ``decode`` becomes one."""

from __future__ import annotations

import inspect
import re
import types
import typing
from typing import Any, Protocol, runtime_checkable

from anyseal.cache.codecs.tagged import same
from anyseal.config import BYTES_LIKE
from anyseal.errors import ConfigurationError, FormatError
from anyseal.ports._checked import Checked

__all__ = ["Codec", "ForeignCodec", "check_bytes", "check_name", "fits", "not_brought_back"]

_NAME = re.compile(r"[!-~]{1,32}")


@runtime_checkable
class Codec(Protocol, metaclass=Checked):
    """Turns values into bytes and back; knows nothing of keys.

    ``name`` is 1 to 32 printable ASCII characters. It is bound into each entry, so that an entry
    never opens under another codec. Codecs are shared by threads.
    """

    name: str

    def encode(self, value: Any) -> bytes:
        """*value* as bytes. Raises TypeError naming the path of what cannot be encoded."""
        ...

    def decode(self, data: bytes | memoryview, type: Any = Any) -> Any:
        """The value in *data*.

        Raises FormatError if it is not what this codec writes, or does not fit *type*. No
        message holds a part of the value.
        """
        ...


def check_name(name: Any) -> str:
    """*name*, if a codec may have it. Raises ConfigurationError."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise ConfigurationError("a codec's name is 1 to 32 printable ASCII characters")
    return name


def check_bytes(data: Any) -> None:
    """Raises TypeError unless *data* is bytes-like."""
    if not isinstance(data, BYTES_LIKE):
        raise TypeError(f"data must be bytes-like, not {type(data).__name__}")


def fits(value: Any, annotation: Any) -> bool:
    """Whether *value* can be what *annotation* says, as far as classes tell."""
    if annotation is Any:
        return True
    if annotation is None:
        return value is None
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return fits(value, typing.get_args(annotation)[0])
    if origin is typing.Union or origin is types.UnionType:
        return any(fits(value, each) for each in typing.get_args(annotation))
    found = origin or annotation
    if found is float and isinstance(value, int):
        return True
    try:
        return isinstance(value, found)
    except TypeError:  # a protocol, a type variable, a literal: classes do not tell
        return True


def not_brought_back(codec: str, value: Any) -> TypeError:
    """The error for a result that a hit would give as another type."""
    error = TypeError(
        f"{codec} does not bring back, as the type asked for, $: {type(value).__name__}"
    )
    error.discreet = str(error)  # type: ignore[attr-defined]
    return error


class ForeignCodec:
    """Another library's object with ``encode`` and ``decode``, as a codec.

    Its name is the object's ``name``, else its class's. Whatever its ``decode`` raises is a
    FormatError without details: foreign messages may quote the value.
    """

    def __init__(self, inner: Any) -> None:
        for method in ("encode", "decode"):
            if not callable(getattr(inner, method, None)):
                raise ConfigurationError(
                    f"{type(inner).__name__} is no codec: it has no method {method}"
                )
        name = getattr(inner, "name", None)
        self.name = check_name(type(inner).__name__ if name is None else name)
        self._inner = inner
        self._typed = _takes_type(inner.decode)

    def encode(self, value: Any) -> bytes:
        """*value* as bytes, by the foreign object."""
        data = self._inner.encode(value)
        if type(data) is bytes:
            return data
        if isinstance(data, (bytearray, memoryview)):
            return bytes(data)
        raise TypeError(f"{self.name} encodes to {type(data).__name__}, not to bytes")

    def encode_result(self, value: Any, type: Any = Any) -> bytes:
        """As :meth:`encode`, for a value that must come back as it is. Objects that cannot be
        compared, such as data frames, only have to come back as the same class.

        Raises:
            TypeError: It does not.

        Cost: decodes what it encoded.
        """
        data = self.encode(value)
        try:
            found = self.decode(data, type)
        except FormatError:
            raise not_brought_back(self.name, value) from None
        try:
            alike = same(value, found)
        except Exception:
            alike = found.__class__ is value.__class__
        if not alike:
            raise not_brought_back(self.name, value)
        return data

    def decode(self, data: bytes | memoryview, type: Any = Any) -> Any:
        """The value in *data*, by the foreign object."""
        plain = data if isinstance(data, bytes) else bytes(data)
        try:
            value = self._inner.decode(plain, type) if self._typed else self._inner.decode(plain)
        except MemoryError:
            raise
        except Exception as exc:
            reason = exc.__class__.__name__
        else:
            if fits(value, type):
                return value
            reason = "another type"
        raise FormatError(f"not what {self.name} writes ({reason})")

    def __repr__(self) -> str:
        return f"<ForeignCodec {self.name}>"


def _takes_type(decode: Any) -> bool:
    """Whether *decode* has a second parameter that is meant for a type."""
    try:
        names = [each.name for each in inspect.signature(decode).parameters.values()]
    except (TypeError, ValueError):  # written in C
        return False
    return len(names) > 1 and names[1] == "type"
