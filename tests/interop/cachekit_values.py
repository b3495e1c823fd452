"""What both sides cache: values, and the functions that return them. Standard library only."""

from __future__ import annotations

import datetime
import decimal
import enum
import pathlib
import uuid
from collections.abc import Callable
from typing import Any

VALUES: dict[str, Any] = {
    "none": None,
    "map": {"id": 7, "name": "Zoë", "list": [1, 2.5, True, None], "nested": {"b": {"a": "x"}}},
    "binary": {"b": bytes(range(256)), "when": datetime.datetime(2026, 1, 2, 3, 4, 5, 6)},
    "dates": [
        datetime.date(2026, 1, 2),
        datetime.time(3, 4, 5),
        datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),  # noqa: UP017
    ],
    "text": "abcabcabc" * 5000,
    "numbers": [0, -1, 127, 128, 2**63, -(2**63), 2**64 - 1, 1e300, -0.0],
    "large": [bytes(range(256)) * 400, {"k": list(range(5000))}],
}

TAGGED: dict[str, Any] = {
    "tagged": {
        "tuple": (1, (2, [3])),
        "sets": [{4}, frozenset({"five"}), set()],
        "uuid": uuid.UUID(int=6),
        "day": datetime.date(2026, 1, 2),
    },
}
"""For the serializer ``auto`` alone."""


class Color(enum.Enum):
    """An argument."""

    RED = "red"


class Size(str, enum.Enum):  # noqa: UP042 - the peer runs on older Pythons
    """An argument that is also a text."""

    LARGE = "large"


class Level(enum.IntEnum):
    """An argument that is also a number."""

    HIGH = 3


TYPED: dict[str, list[Any]] = {
    "enum": [Color.RED],
    "text enum": [Size.LARGE],
    "int enum": [[Level.HIGH]],
    "decimal": [decimal.Decimal("1.50")],
    "path": [{"where": pathlib.PurePosixPath("a/b")}],
    "uuid": [uuid.UUID(int=7)],
    "bytearray": [bytearray(b"x")],
    "set": [{2, 1}],
    "time": [datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)],  # noqa: UP017
}
"""Arguments by name: JSON has none of these types."""


def make_function(name: str, value: Any, ran: list[Any], *, is_async: bool) -> Callable[..., Any]:
    """A function that both sides know under the same name; it notes that it ran."""

    def load(x: Any, y: Any = 2, **more: Any) -> Any:
        ran.append(x)
        return value

    async def aload(x: Any, y: Any = 2, **more: Any) -> Any:
        ran.append(x)
        return value

    def bound(x: Any, y: Any = 2) -> Any:
        ran.append(x)
        return value

    function: Any = bound if name == "bound" else aload if is_async else load
    function.__module__, function.__qualname__ = "shop.views", name
    return function
