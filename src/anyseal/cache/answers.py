"""What a backend must return from each call. Pure.

Backends are often a user's own, over a server that may answer anything: what is not of the type
that :mod:`anyseal.ports` names is a failure of the backend, and no TypeError somewhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from anyseal.errors import BackendError

__all__ = ["checked", "checked_page"]


def _value(found: Any) -> bool:
    return found is None or isinstance(found, bytes)


def _values(args: Sequence[Any], found: Any) -> bool:
    if not isinstance(found, (list, tuple)) or len(found) != len(args[0]):
        return False
    for value in found:  # noqa: SIM110 - a generator would take twice the time
        if value is not None and not isinstance(value, bytes):
            return False
    return True


def _flag(args: Sequence[Any], found: Any) -> bool:
    # Clients give 1 or nothing for what is a bool here.
    return found is None or isinstance(found, int)


def _count(args: Sequence[Any], found: Any) -> bool:
    return isinstance(found, int)


def _piece(args: Sequence[Any], found: Any) -> bool:
    return isinstance(found, bytes) and len(found) <= args[2]


def _taken(args: Sequence[Any], found: Any) -> bool:
    return isinstance(found, tuple) and len(found) == 2 and _value(found[1])


def _names(args: Sequence[Any], found: Any) -> bool:
    if found is None:  # the end of the pages
        return True
    return isinstance(found, (list, tuple)) and all(isinstance(name, str) for name in found)


_FITS: Final[Mapping[str, Callable[[Sequence[Any], Any], bool]]] = {
    "get_many": _values,
    "set": _flag,
    "compare_and_set": _flag,
    "delete_many": _count,
    "get_range": _piece,
    "publish": _flag,
    "take_lease": _taken,
    "settle": _flag,
    "set_and_delete": _flag,
    "delete_beside": _count,
    "next": _names,
    "anext": _names,
}


def checked(call: Callable[..., Any], args: Sequence[Any], found: Any) -> Any:
    """*found*, if it is what a backend's method *call* may return for *args*.

    Raises:
        BackendError: It is not. The message names the method and the type, no value.
    """
    name = getattr(call, "__name__", "")
    fits = _FITS.get(name)
    if fits is not None and not fits(args, found):
        kind = type(found).__name__
        if name == "get_many" and isinstance(found, (list, tuple)):
            kind = f"{kind} of {len(found)}, for {len(args[0])} names"
        raise BackendError(f"the backend's {name} returned what it cannot: {kind}")
    return found


def checked_page(names: Sequence[str], prefix: str) -> Sequence[str]:
    """A page of a scan, if all its names begin with *prefix*: others must not be deleted.

    Raises:
        BackendError: One does not.
    """
    for name in names:
        if not name.startswith(prefix):
            raise BackendError("the backend's scan returned names that were not asked for")
    return names
