"""What both sides seal. Standard library only."""

import datetime
import decimal
import uuid
from collections import OrderedDict

VALUES = {
    "session": {"user_id": 42, "name": "žluť 🐎", "roles": ["a", ("b", 1)], "ok": True},
    "numbers": [0, -1, 2**100, 1.5, 2j],
    "bytes": [b"\x00\xff", bytearray(b"x"), bytes(100_000)],
    "sets": [{1, 2}, frozenset({"a"})],
    "dates": [
        datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.timezone.utc),  # noqa: UP017
        datetime.date(2026, 1, 2), datetime.time(3, 4), datetime.timedelta(days=1, microseconds=2),
    ],
    "others": [decimal.Decimal("1.50"), uuid.UUID(int=7), OrderedDict(b=1, a=2)],
}  # fmt: skip
