"""MessagePack and JSON, by msgspec (extra ``cache``).

The bytes carry plain data; the type to decode into brings back what the value was.
"""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Callable
from functools import partial
from typing import Any

from anyseal.cache.codecs.base import check_bytes
from anyseal.cache.codecs.blame import blame
from anyseal.cache.codecs.readers import JSONReader, MessageReader, TaggedReader, converted
from anyseal.cache.codecs.steps import (
    NotPlainError,
    RefusedError,
    Steps,
    gathered,
    survey,
    written,
)
from anyseal.cache.codecs.tagged import (
    AS_IT_WAS,
    TAGGED,
    UntaggedError,
    is_plain,
    is_wrapped,
    pack,
    refuse_extension,
    same,
    unwrap,
    wrap,
    wrapped_body,
)
from anyseal.cache.codecs.writers import JSONWriter, MessageWriter, TaggedWriter, ext_head
from anyseal.errors import ConfigurationError, FormatError, MissingExtraError

try:
    import msgspec
except ImportError as _exc:  # pragma: no cover - the extra is missing
    raise MissingExtraError.of("the cache needs msgspec", "anyseal[cache]") from _exc

__all__ = ["JSONCodec", "MessagePackCodec"]

_CANNOT_BRING_BACK = "cannot bring back, without a type that says what it is,"
_CALLS = {"encode", "encode_result", "decode"}
_STEPS = ("encode_light", "result_light", "encode_steps", "result_steps", "decode_steps")
_DECODERS = 512
"""Types whose decoders are kept."""


class _MessageCodec:
    """What both formats share: one encoder, and a decoder for each type; all are thread-safe."""

    name: str
    label: str
    """As settings and messages say it."""
    _format: Any
    _dump_mode: str
    _writer: Any
    _reader: Any
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

    def __init_subclass__(cls) -> None:
        """A class that encodes or decodes in its own way has no steps, unless it has its own."""
        own = vars(cls)
        if not own.keys().isdisjoint(_CALLS) and own.keys().isdisjoint(_STEPS):
            for name in _STEPS:
                setattr(cls, name, None)

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
        raise self._refusal(_CANNOT_BRING_BACK, value, self._exact)

    # ---- in steps

    def encode_light(self, value: Any) -> bytes | None:
        """:meth:`encode` of a value that is little enough for one step; else None."""
        return None if survey(value) is None else self.encode(value)

    def result_light(self, value: Any, type: Any = Any) -> bytes | None:
        """:meth:`encode_result` of such a value."""
        return None if survey(value) is None else self.encode_result(value, type)

    def encode_steps(self, value: Any) -> Steps[bytes]:
        """:meth:`encode` in steps; also raises ChangedError."""
        writer = self._writer(self._part)
        try:
            pieces = yield from written(value, writer)
        except RefusedError as exc:
            error = self._refusal("cannot encode", exc, self._encode)
        else:
            return (yield from gathered(pieces))
        raise error

    def result_steps(self, value: Any, type: Any = Any) -> Steps[bytes]:
        """:meth:`encode_result` in steps; also raises ChangedError."""
        writer = self._writer(self._part, verify=self._verify)
        try:
            pieces = yield from written(value, writer, type)
        except RefusedError as exc:
            yield from self.encode_steps(value)
            error = self._refusal(_CANNOT_BRING_BACK, exc, self._exact)
        else:
            return (yield from gathered(pieces))
        raise error

    def decode_steps(self, data: bytes | memoryview, type: Any = Any) -> Steps[Any]:
        """:meth:`decode` in steps."""
        if type is not Any:
            self.decoder(type)
        try:
            return (yield from self._reading(data, type))
        except MemoryError:
            raise
        except Exception as exc:
            reason = exc.__class__.__name__
        raise FormatError(f"not what {self.label} writes for {_type_name(type)} ({reason})")

    def _reading(self, data: bytes | memoryview, type: Any) -> Steps[Any]:
        return (yield from self._reader(data, self._decoded).whole(type))

    def _decoded(self, data: Any, type: Any) -> Any:
        return self._decode_any(data) if type is Any else self.decoder(type)(data)

    def _part(self, value: Any, depth: int) -> bytes:
        data: bytes = self._encode(value)
        return data

    def _verify(self, part: Any, data: bytes, type: Any) -> None:
        """Raises unless a part comes back as it is."""
        if not same(part, self._decoded(data, type)):
            raise UntaggedError

    def _refusal(self, what: str, value: Any, encode: Callable[[Any], object]) -> TypeError:
        """The error that says where in *value* the thing is; its ``discreet`` is for a log."""
        find: Any = value.blame if isinstance(value, RefusedError) else partial(blame, value)
        error = TypeError(f"{self.label} {what} {find(encode)}")
        error.discreet = f"{self.label} {what} {find(encode, keys=False)}"  # type: ignore[attr-defined]
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
    _writer = MessageWriter
    _reader = MessageReader
    _dump_mode = "python"
    _hooks = {"ext_hook": refuse_extension}  # noqa: RUF012 - not changed

    def encode_light(self, value: Any) -> bytes | None:
        """:meth:`encode` of a value that is little enough for one step; else None."""
        plain = survey(value)
        if plain:
            try:
                return self._part(value, 0)
            except Exception:  # which is told below
                return self.encode(value)
        return None if plain is None else self.encode(value)

    def result_light(self, value: Any, type: Any = Any) -> bytes | None:
        """:meth:`encode_result` of such a value."""
        if type is Any:
            return (
                self.encode_light(value)
                if (plain := survey(value))
                else (None if plain is None else self.encode_result(value))
            )
        return super().result_light(value, type)

    def encode_steps(self, value: Any) -> Steps[bytes]:
        """:meth:`encode` in steps."""
        found = yield from self._tried(value, False)
        if found is not None:
            return found
        # A model, which comes back where the type says so; or what cannot be encoded.
        return (yield from super().encode_steps(value))

    def result_steps(self, value: Any, type: Any = Any) -> Steps[bytes]:
        """:meth:`encode_result` in steps."""
        if type is not Any:
            with contextlib.suppress(RefusedError, OverflowError, TypeError):
                writer = self._writer(self._part, verify=self._verify)
                pieces = yield from written(value, writer, type)
                return (yield from gathered(pieces))
        found = yield from self._tried(value, True, plain=type is Any)
        if found is not None:
            return found
        return (yield from super().result_steps(value))

    def _tried(self, value: Any, as_it_was: bool, plain: bool = True) -> Steps[bytes | None]:
        """*value* as plain data, if that will do, or with its types, or None."""
        try:
            if not plain:  # a reader's type would make something else of it
                raise NotPlainError
            pieces = yield from written(value, self._writer(self._part, only_plain=True))
        except (NotPlainError, OverflowError, RefusedError):
            try:
                pieces = yield from written(value, TaggedWriter(pack))
            except (UntaggedError, RefusedError):
                return None
            code = AS_IT_WAS if as_it_was else TAGGED
            pieces.insert(0, ext_head(code, sum(map(len, pieces))))
        return (yield from gathered(pieces))

    def _reading(self, data: bytes | memoryview, type: Any) -> Steps[Any]:
        if not is_wrapped(data):
            return (yield from super()._reading(data, type))
        code, body = wrapped_body(data)
        value = yield from TaggedReader(body).whole(Any)
        if code == AS_IT_WAS or type is Any:
            return value
        return (yield from converted(value, type, self._convert))

    def _convert(self, value: Any, type: Any) -> Any:
        return msgspec.convert(value, type, dec_hook=self._load)

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
            return self._convert(value, type)
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
    _writer = JSONWriter
    _reader = JSONReader
    _dump_mode = "json"


def _type_name(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or type(annotation).__name__
