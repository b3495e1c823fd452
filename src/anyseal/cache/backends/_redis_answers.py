"""What Redis must answer to each command of a cache's. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Final

from anyseal.cache.backends._redis_commands import SCAN_COUNT, Command, glob, scanned
from anyseal.errors import BackendError

__all__ = ["Pages", "checked"]


def _values(command: Command, answer: Any) -> bool:
    if type(answer) is not list or len(answer) != len(command) - 1:
        return False
    for value in answer:  # noqa: SIM110 - a generator would take twice the time
        if type(value) is not bytes and value is not None:
            return False
    return True


def _value(command: Command, answer: Any) -> bool:
    return answer is None or type(answer) is bytes


def _piece(command: Command, answer: Any) -> bool:
    start, end = command[2], command[3]
    assert isinstance(start, int)
    assert isinstance(end, int)
    return type(answer) is bytes and len(answer) <= end - start + 1


def _stored(command: Command, answer: Any) -> bool:
    # True is what redis-py makes of OK.
    return answer is None or answer is True or answer in (b"OK", "OK")


def _count(command: Command, answer: Any) -> bool:
    return type(answer) is int and 0 <= answer < len(command)


def _flag(command: Command, answer: Any) -> bool:
    return type(answer) is int and answer in (0, 1)


def _page(command: Command, answer: Any) -> bool:
    return (
        isinstance(answer, (list, tuple))
        and len(answer) == 2
        and isinstance(answer[1], list)
        and all(isinstance(name, (bytes, str)) for name in answer[1])
    )


_FITS: Final[Mapping[str | bytes | int, Callable[[Command, Any], bool]]] = {
    "MGET": _values,
    "GET": _value,
    "GETRANGE": _piece,
    "SET": _stored,
    "UNLINK": _count,
    "EVALSHA": _flag,
    "EVAL": _flag,
    "SCAN": _page,
    "PTTL": lambda command, answer: type(answer) is int and answer >= -2,
    "SADD": _count,
    "EXPIRE": _flag,
    "DBSIZE": lambda command, answer: type(answer) is int and answer >= 0,
}


def checked(command: Command, answer: Any) -> Any:
    """*answer*, if it is one that *command* can have. Raises BackendError."""
    if not _FITS[command[0]](command, answer):
        raise _wrong(str(command[0]), type(answer).__name__)
    return answer


def _wrong(verb: str, what: str) -> BackendError:
    return BackendError(f"{verb}: an answer that it cannot have: {what}")


_CURSOR_MAX: Final = (1 << 64) - 1
_LEAST_PAGES: Final = 64
_SLOTS: Final = 16384
_SPARSE: Final = 32
"""Redis keeps its table at least this full: one name for so many places that a scan visits."""
_SIZE_MAX: Final = 10**11


class Pages:
    """A scan of one server, page by page: what to ask, and whether it gets on.

    A cursor that comes again is an error. Cursors that are new each time, without an end, are
    too: after each *patience* the server is asked how many names it has, and a scan that has taken
    more pages than these can fill is given up.

    Args:
        prefix: What the names begin with.
        patience: Seconds.
        clustered: Whether the server keeps a table for each slot, and gives a page for each.
    """

    def __init__(self, prefix: str, patience: float, *, clustered: bool = False) -> None:
        self._prefix = prefix
        self._pattern = glob(prefix)
        self._patience = patience
        self._slots = _SLOTS if clustered else 0
        self._asked = monotonic()
        self._cursor = self._before = 0
        self._taken = 0
        self.more = True
        """Whether there is another page."""

    @property
    def command(self) -> Command:
        """What asks for the next page."""
        return ("SCAN", self._cursor, "MATCH", self._pattern, "COUNT", SCAN_COUNT)

    def take(self, answer: Any) -> list[str]:
        """The names of a page, perhaps none. Raises BackendError."""
        cursor = _cursor(answer[0])
        if cursor and cursor in (self._cursor, self._before):
            raise _wrong("SCAN", "the cursor of an earlier page")
        self._taken += 1
        if self._taken & (self._taken - 1) == 0:  # Brent: any cycle is found, with one cursor kept
            self._before = cursor
        self._cursor, self.more = cursor, cursor != 0
        names = scanned(answer[1])
        if not all(name.startswith(self._prefix) for name in names):
            raise _wrong("SCAN", "names that do not begin with the prefix")
        return names

    @property
    def overdue(self) -> bool:
        """Whether it is time to ask for the server's size and to :meth:`limit`."""
        return self.more and monotonic() - self._asked > self._patience

    def limit(self, size: int) -> None:
        """Go on if a server of *size* names can have a further page. Raises BackendError."""
        tables = min(size, self._slots)  # empty ones have no page
        most = _LEAST_PAGES + tables + min(size, _SIZE_MAX) * _SPARSE // SCAN_COUNT
        if self._taken > most:
            raise _wrong("SCAN", f"{self._taken} pages of {size} names")
        self._asked = monotonic()


def _cursor(found: Any) -> int:
    if isinstance(found, dict) and len(found) == 1:  # by node: redis-py's, of a cluster
        (found,) = found.values()
    if isinstance(found, (bytes, str)) and len(found) <= 20 and found.isdigit() and found.isascii():
        found = int(found)
    if type(found) is not int or not 0 <= found <= _CURSOR_MAX:
        raise _wrong("SCAN", "a cursor that is no number")
    return found
