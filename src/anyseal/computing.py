"""What is being computed around the code that runs: it must not wait for that."""

from __future__ import annotations

from collections.abc import Hashable
from contextvars import ContextVar, Token

__all__ = ["Computing", "computes"]


class Computing:
    """For the time of a ``with`` block: *subject* is computed here, and in what is called from
    here. Tasks that outlive the block may still see it, and that it is over."""

    __slots__ = ("_token", "over", "subject")

    def __init__(self, subject: Hashable) -> None:
        self.subject = subject
        self.over = False

    def __enter__(self) -> None:
        self._token: Token[tuple[Computing, ...]] = _around.set((*_around.get(), self))

    def __exit__(self, *exc_info: object) -> None:
        self.over = True
        _around.reset(self._token)


_around: ContextVar[tuple[Computing, ...]] = ContextVar("anyseal_computing", default=())


def computes(subject: Hashable) -> bool:
    """Whether *subject* is asked for by what computes it: it would wait for itself for ever, so
    the function is called once more, as it would be without a cache."""
    return any(not each.over and each.subject == subject for each in _around.get())
