"""Values and exceptions as what entries hold: a kind, and bytes."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from anyseal.cache.codecs import MessagePackCodec, RawCodec
from anyseal.cache.codecs.base import Codec
from anyseal.cache.codecs.steps import INLINE_BYTES, Steps, decoding, is_long, light, light_result
from anyseal.cache.codecs.tagged import same
from anyseal.cache.entry import ERROR, NONE, RAW, VALUE
from anyseal.cache.exceptions import pack_exception, unpack_exception
from anyseal.cache.policy import CachePolicy
from anyseal.config import BYTES_LIKE
from anyseal.errors import FormatError
from anyseal.pages import copied

__all__ = ["Payloads"]

INLINE_COPY_BYTES = 1 << 20
"""What is copied in one step."""

_BYTES_TYPES = (Any, bytes, object, bytes | None)
"""What bytes that no codec touched may be asked for as."""


class Payloads:
    """Turns values into payloads and back, by *codec* and within the bounds of *policy*."""

    def __init__(self, codec: Codec, policy: CachePolicy) -> None:
        self._codec = codec
        self._policy = policy
        self.inline_bytes = -1 if hasattr(codec, "is_long") else INLINE_BYTES
        """Up to here :meth:`is_long` need not be asked."""
        # Its bytes come back as bytes: large ones need not go through it.
        self._bytes_pass = isinstance(codec, (MessagePackCodec, RawCodec))

    def prepared(self, value: Any) -> tuple[int, bytes] | None:
        """*value* as an entry's kind and payload; None if that takes the steps of
        :meth:`preparing`.

        Raises:
            TypeError: It cannot be encoded; the message names the path.
            ValueError: It encodes to more than ``max_bytes``.
        """
        if value is None:
            return NONE, b""
        if isinstance(value, BYTES_LIKE) and self._bytes_pass:
            size = memoryview(value).nbytes
            if size > self._policy.large_bytes:
                if size > self._policy.max_bytes:
                    raise ValueError(f"the value has more than {self._policy.max_bytes:,} bytes")
                if isinstance(value, memoryview):
                    value = value.cast("B") if value.c_contiguous else bytes(value)
                return RAW, value
        return self._valued(light(self._codec, value))

    def preparing(self, value: Any) -> Steps[tuple[int, bytes]]:
        """:meth:`prepared` in steps. Raises ChangedError, too."""
        payload = yield from self._codec.encode_steps(value)  # type: ignore[attr-defined]
        return VALUE, self._bounded(payload)

    def prepared_result(self, value: Any, type: Any) -> tuple[int, bytes] | None:
        """As :meth:`prepared`, for what a function returned: a hit must have the types of the miss.

        Raises:
            TypeError: It would not come back as it is; the message names the path.
            ValueError: It encodes to more than ``max_bytes``.
        """
        kind = value.__class__
        if value is None or (kind is bytes and self._bytes_pass and type in _BYTES_TYPES):
            return self.prepared(value)
        return self._valued(light_result(self._codec, value, type))

    def preparing_result(self, value: Any, type: Any) -> Steps[tuple[int, bytes]]:
        """:meth:`prepared_result` in steps. Raises ChangedError, too."""
        payload = yield from self._codec.result_steps(value, type)  # type: ignore[attr-defined]
        return VALUE, self._bounded(payload)

    def _valued(self, payload: bytes | None) -> tuple[int, bytes] | None:
        return None if payload is None else (VALUE, self._bounded(payload))

    def _bounded(self, payload: bytes) -> bytes:
        if len(payload) > self._policy.max_bytes:
            raise ValueError(f"the value encodes to more than {self._policy.max_bytes:,} bytes")
        return payload

    def is_long(self, kind: int, payload: Any) -> bool:
        """Whether decoding, or copying, *payload* would hold the event loop up."""
        if kind == VALUE:
            return is_long(self._codec, payload)
        return len(payload) > INLINE_COPY_BYTES and payload.__class__ is not bytes

    def decoding(self, kind: int, payload: Any, type: Any) -> Steps[Any]:
        """:meth:`decoded` in steps."""
        if kind == VALUE:
            return (yield from decoding(self._codec, payload, type))
        value = yield functools.partial(self.decoded, kind, payload, type)
        return value

    def decoded(self, kind: int, payload: Any, type: Any) -> Any:
        """The value that a payload stands for. Raises FormatError, or what was cached."""
        if kind == VALUE:
            return self._codec.decode(payload, type)
        if kind == NONE:
            return None
        if kind == RAW:
            if type not in _BYTES_TYPES:
                raise FormatError("the entry holds bytes")
            return copied(payload)
        if kind == ERROR:
            raise FormatError("the entry holds an exception, which nobody here expects")
        raise FormatError("not an entry of a cache")

    def frozen(
        self, error: Exception, expected: tuple[type[Exception], ...]
    ) -> tuple[int, bytes] | None:
        """An exception as an entry's kind and payload: its class's name, and its arguments. None
        if it could not be made again of these, or would be another."""
        try:
            payload = pack_exception(error)
        except TypeError:
            return None
        if len(payload) > self._policy.max_bytes:
            return None
        again = self.revived(payload, expected)
        return (ERROR, payload) if again is not None and _alike(error, again) else None

    @staticmethod
    def revived(payload: Any, expected: tuple[type[Exception], ...]) -> Exception | None:
        """The exception in *payload*, if it is of one of the *expected* classes: no other is
        made."""
        try:
            name, args = unpack_exception(payload)
        except FormatError:
            return None
        for kind in expected:
            for each in _with_subclasses(kind):
                if name == f"{each.__module__}.{each.__qualname__}":
                    with contextlib.suppress(Exception):
                        return each(*args)
        return None


def _alike(error: Exception, again: Exception) -> bool:
    """Whether *again*, made of the arguments of *error*, tells what that one tells."""
    try:
        states = [list(each.__reduce_ex__(2))[1:] for each in (error, again)]
        return type(again) is type(error) and str(again) == str(error) and same(*states)
    except Exception:
        return False


def _with_subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    """*kind*, and what inherits from it."""
    yield kind
    for each in kind.__subclasses__():
        yield from _with_subclasses(each)
