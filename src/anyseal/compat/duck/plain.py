"""Pickles of plain values: written only if they can be read again without calling anything else."""

from __future__ import annotations

import io
import pickle
from typing import Any

from anyseal.pickles import PLAIN, allowed_classes, by_name, restricted_loads

__all__ = ["PICKLE_PROTOCOL", "PlainPickles"]

PICKLE_PROTOCOL = 4


class _Pickler(pickle.Pickler):
    """Refuses classes that would not be read. Not asked for types with opcodes."""

    def __init__(self, file: Any, writable: frozenset[type]) -> None:
        super().__init__(file, PICKLE_PROTOCOL)
        self._writable = writable

    def reducer_override(self, obj: Any) -> Any:
        kind = obj if isinstance(obj, type) else type(obj)
        if kind not in self._writable:
            raise TypeError(
                f"{kind.__module__}.{kind.__qualname__} is not a plain type: convert it, allow "
                "its class, or pass trusted_pickle=True"
            )
        return NotImplemented


class PlainPickles:
    """Writes and reads pickles of plain types, and of the classes of *allow*.

    Raises:
        ConfigurationError: *allow* holds something that is no class.
    """

    __slots__ = ("_allow", "_classes", "_writable")

    def __init__(self, allow: Any = ()) -> None:
        self._allow = allowed_classes(allow, False)
        self._writable = frozenset((bytearray, *PLAIN, *self._allow))
        self._classes = by_name(self._writable)

    def dumps(self, value: Any) -> bytes:
        """The pickle of *value*. Raises TypeError, and what pickling raises."""
        buffer = io.BytesIO()
        _Pickler(buffer, self._writable).dump(value)
        data = buffer.getvalue()
        if self._allow:
            try:
                self.loads(data)
            except pickle.UnpicklingError as exc:
                raise TypeError(
                    f"an allowed class cannot be read back ({exc}): only what its constructor or "
                    "__new__ is given is kept, no state"
                ) from None
        return data

    def loads(self, data: bytes) -> Any:
        """What *data* is a pickle of. Raises what unpickling raises."""
        return restricted_loads(data, self._classes)
