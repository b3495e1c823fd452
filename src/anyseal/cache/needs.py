"""What an operation needs from outside, and how it waits for it: by yielding.

An operation of a cache is a generator. The async and the sync cache drive the same generators: a
need names a method of the backend or of the keyring; the answer, or the exception, is sent back.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

__all__ = ["UNSET", "Flow", "Need", "ask", "redirected"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Need:
    """A call that someone must make: of the backend, or of the keyring."""

    method: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    keyring: bool = False


Flow: TypeAlias = Generator[Need, Any, T]


class _Unset:
    def __repr__(self) -> str:
        return "UNSET"


UNSET: Any = _Unset()


def ask(method: str, *args: Any, **options: Any) -> Need:
    """A need of the backend."""
    return Need(method, args, options)


def redirected(flow: Flow[T], method: str, instead: Callable[[Need], Need]) -> Flow[T]:
    """*flow*, whose needs of *method* become others that are answered alike."""
    try:
        need = next(flow)
        while True:
            try:
                answer = yield (instead(need) if need.method == method else need)
            except Exception as exc:
                need = flow.throw(exc)
            else:
                need = flow.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result
