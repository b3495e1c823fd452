"""RowKey: an intermediate key as rows are sealed and opened under it."""

from __future__ import annotations

import struct
from typing import NoReturn

from anyseal.keys import Slot
from anyseal.record.fields import check_time, json_string

__all__ = ["RowKey"]

_FIXED = 118  # a row's bytes beside the middle and the data, with ten digits for Created


class RowKey:
    """An intermediate key with what is the same in all rows under it. Not to be changed."""

    __slots__ = ("_block", "_fixed", "_fixed_chars", "created", "id", "slot")

    def __init__(self, slot: Slot, id: str, created: int) -> None:
        self.slot = slot
        self.id = id
        self.created = check_time(created, "created")
        text = f'","ParentKeyMeta":{{"KeyId":{json_string(id)},"Created":{created}}}}},"Data":"'
        middle = text.encode()
        self._block = struct.pack("=QQ", slot.handle, len(middle)) + middle
        self._fixed = _FIXED + len(middle)
        self._fixed_chars = _FIXED + len(text)

    @property
    def middle(self) -> bytes:
        """What :func:`middle_of` finds in this key's rows."""
        return self._block[16:]

    def __repr__(self) -> str:
        return f"<RowKey {self.id!r} {self.created}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key cannot be pickled or copied")
