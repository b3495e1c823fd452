"""MessagePack and JSON, by msgspec (extra ``cache``).

The bytes carry plain data; the type to decode into brings back what the value was.
"""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Callable
from typing import Any

from anyseal.cache.codecs.base import check_bytes
from anyseal.cache.codecs.blame import blame
from anyseal.cache.codecs.tagged import (
    UntaggedError,
    is_plain,
    is_wrapped,
    refuse_extension,
    same,
    unwrap,
    wrap,
)
from anyseal.errors import ConfigurationError, FormatError, MissingExtraError

try:
    import msgspec
except ImportError as _exc:  # pragma: no cover - the extra is missing
    raise MissingExtraError.of("the cache needs msgspec", "anyseal[cache]") from _exc

__all__ = ["JSONCodec", "MessagePackCodec"]

_DECODERS = 512
"""Types whose decoders are kept."""


class _MessageCodec:
    """What both formats share: one encoder, and a decoder for each type; all are thread-safe."""

    name: str
    label: str
    """As settings and messages say it."""
    _format: Any
    _dump_mode: str
    _hooks: dict[str, Any] = {}  # noqa: RUF012 - not changed

    def __init__(
        self,
        *,
        enc_hook: Callable[[Any], Any] | None = None,
        dec_hook: Callable[[type, Any], Any] | None = None,
    ) -> None:
        for name, hook in (("enc_hook", enc_hook), ("dec_hook", dec_hook)):
            if not (hook is None or callable(hook)):
                raise ConfigurationError(f"{name} must be a function")
        self._enc_hook = enc_hook
        self._dec_hook = dec_hook
        self._encode = self._format.Encoder(enc_hook=self._dump).encode
        self._decode_any = self._format.Decoder(**self._hooks).decode
        self._decoders: dict[Any, tuple[Any, Callable[[Any], Any]]] = {}

    def encode(self, value: Any) -> bytes:
        """*value* as bytes.

        Raises:
            TypeError: Something in it cannot be encoded; the message has its path and its type.

        Cost: 1 to 2 us for a small dict beside what msgspec takes.
        """
        try:
            return self._encoded(value)
        except MemoryError:
            raise
        except Exception:  # noqa: S110 - its message, or its args, may hold a part of the value
            pass
        raise self._refusal("cannot encode", value, self._encode)

    def encode_result(self, value: Any, type: Any = Any) -> bytes:
        """*value* as bytes that decode as *type* to an equal value with the same types.

        Raises:
            TypeError: There are no such bytes; the message has the path and the type.
        """
        try:
            found = self._as_it_was(value, type)
        except MemoryError:
            raise
        except Exception:
            found = None
        if found is not None:
            return found
        self.encode(value)
        raise self._refusal(
            "cannot bring back, without a type that says what it is,", value, self._exact
        )

    def _refusal(self, what: str, value: Any, encode: Callable[[Any], object]) -> TypeError:
        """The error that says where in *value* the thing is; its ``discreet`` is for a log."""
        error = TypeError(f"{self.label} {what} {blame(value, encode)}")
        error.discreet = f"{self.label} {what} {blame(value, encode, keys=False)}"  # type: ignore[attr-defined]
        return error

    def _as_it_was(self, value: Any, type: Any) -> bytes | None:
        """Such bytes, or None."""
        data: bytes = self._encode(value)
        return data if same(value, self.decode(data, type)) else None

    def _exact(self, value: Any) -> None:
        """Raises if *value* does not come back as it is without a type."""
        if self._as_it_was(value, Any) is None:
            raise UntaggedError

    def _encoded(self, value: Any) -> bytes:
        data: bytes = self._encode(value)
        return data

    def decode(self, data: bytes | memoryview, type: Any = Any) -> Any:
        """The value in *data*, as a *type*; plain data without one.

        Raises:
            FormatError: Malformed, nested too deep, or it does not fit *type*.
            TypeError: There is no decoder for *type*.

        Cost: under 0.3 us beside what msgspec takes; 10 to 100 us for a type seen first.
        """
        decode = self._decode_any if type is Any else self.decoder(type)
        try:
            return decode(data)
        except MemoryError:
            raise
        except Exception as exc:
            reason = exc.__class__.__name__
        check_bytes(data)
        raise FormatError(f"not what {self.label} writes for {_type_name(type)} ({reason})")

    def decoder(self, type: Any) -> Callable[[Any], Any]:
        """What decodes into *type*; its errors are msgspec's.

        Raises:
            TypeError: msgspec cannot decode into *type*.
        """
        try:
            found = self._decoders.get(type)
            key = type
        except TypeError:  # not hashable; the entry keeps the type, and so its id, alive
            key = _Unhashable(id(type))
            found = self._decoders.get(key)
        if found is None:
            found = type, self._format.Decoder(type, dec_hook=self._load, **self._hooks).decode
            if len(self._decoders) >= _DECODERS:
                self._decoders.clear()
            self._decoders[key] = found
        return found[1]

    def _dump(self, value: Any) -> Any:
        """Plain data for a *value* that msgspec does not know."""
        dump = getattr(value, "model_dump", None)
        if dump is not None and hasattr(type(value), "__pydantic_serializer__"):
            return dump(mode=self._dump_mode, round_trip=True, by_alias=False)
        if self._enc_hook is not None:
            return self._enc_hook(value)
        raise NotImplementedError

    def _load(self, type: Any, data: Any) -> Any:
        """A *type* that msgspec does not know, from plain data."""
        if hasattr(type, "__pydantic_validator__"):
            return type.model_validate(data, by_alias=False, by_name=True)
        if self._dec_hook is not None:
            return self._dec_hook(type, data)
        if isinstance(data, typing.get_origin(type) or type):  # object, Iterable[...]
            return data
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class _Unhashable(int):
    """The id of a type that cannot be a key itself; equal to no type."""


class MessagePackCodec(_MessageCodec):
    """MessagePack: what msgspec knows, and pydantic models.

    Dates and times, Decimal, UUID, tuples, sets, bytearray, integers of any size and dicts with any
    keys come back as what they were, by exact type: extensions say so (docs/cache-format.md,
    section 5). Dataclasses, ``msgspec.Struct``, attrs classes, NamedTuple, Enum and pydantic models
    come back where the type says so, and as plain data otherwise; no class is named in an entry.

    Args:
        enc_hook: Gives plain data for an object that is none of these.
        dec_hook: Called with a class that is none of these, and plain data; gives the object.

    Raises:
        ConfigurationError: A hook is no function.
    """

    name = "msgpack2"
    label = "msgpack"
    _format = msgspec.msgpack
    _dump_mode = "python"
    _hooks = {"ext_hook": refuse_extension}  # noqa: RUF012 - not changed

    def _encoded(self, value: Any) -> bytes:
        if is_plain(value):
            with contextlib.suppress(OverflowError):  # an integer of more than 64 bits
                return super()._encoded(value)
        try:
            return wrap(value, as_it_was=False)
        except UntaggedError:  # a model, which comes back where the type says so
            return super()._encoded(value)

    def _as_it_was(self, value: Any, type: Any) -> bytes | None:
        if type is Any:
            if is_plain(value):
                with contextlib.suppress(OverflowError):
                    return super()._encoded(value)
        else:
            with contextlib.suppress(Exception):
                found = super()._as_it_was(value, type)
                if found is not None:
                    return found
        return wrap(value, as_it_was=True)

    def decode(self, data: bytes | memoryview, type: Any = Any) -> Any:
        """The value in *data*, as a *type*; see :meth:`JSONCodec.decode`."""
        check_bytes(data)
        if not is_wrapped(data):
            return super().decode(data, type)
        value, stays = unwrap(data)
        if stays or type is Any:
            return value
        try:
            return msgspec.convert(value, type, dec_hook=self._load)
        except Exception as exc:
            reason = exc.__class__.__name__
        raise FormatError(f"not what {self.label} writes for {_type_name(type)} ({reason})")


class JSONCodec(_MessageCodec):
    """JSON: for entries that others read too. Types as with MessagePackCodec.

    JSON has less: keys are text or numbers, bytes become base64, and NaN and infinities null.

    Args:
        enc_hook: Gives plain data for an object that msgspec does not know.
        dec_hook: Called with a class that msgspec does not know, and plain data.

    Raises:
        ConfigurationError: A hook is no function.
    """

    name = label = "json"
    _format = msgspec.json
    _dump_mode = "json"


def _type_name(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or type(annotation).__name__
