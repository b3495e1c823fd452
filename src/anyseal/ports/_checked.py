"""What ``isinstance`` asks of a port."""

from __future__ import annotations

import sys
from abc import ABCMeta
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    _Meta = ABCMeta
else:
    _Meta = type(Protocol)


class Checked(_Meta):
    """The metaclass of the ports: an object that answers for another is of the other's kind.

    Since 3.12 a protocol looks for its methods without ``__getattr__``, and a wrapper that passes
    on what it does not change would be refused there, though 3.11 takes it.
    """

    if sys.version_info >= (3, 12):

        def __instancecheck__(cls, instance: Any) -> bool:  # noqa: N805
            if super().__instancecheck__(instance):
                return True
            if not cls.__dict__.get("_is_protocol", False):
                return False
            names: set[str] = cls.__protocol_attrs__  # type: ignore[attr-defined]
            return all(
                hasattr(instance, name)
                and (not callable(getattr(cls, name, None)) or getattr(instance, name) is not None)
                for name in names
            )
