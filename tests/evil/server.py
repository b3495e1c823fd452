"""A server that misbehaves, over any protocol.

A :class:`Protocol` reads requests and knows the right answer to each; an :class:`EvilServer` gives
it, or does what ``does`` says. What any server can do wrong is in :data:`BEHAVIOURS`, what only
one of a protocol can do (a wrong shape, a length of 2^63) is among the protocol's ``frames``.

A behaviour gives what is sent: bytes, or seconds to pause. After it the connection is closed,
unless it ends with :data:`KEEP`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Final, Protocol, Self

__all__ = [
    "BEHAVIOURS",
    "CHUNK",
    "FOR_EVER",
    "HUGE",
    "KEEP",
    "LATE",
    "EvilServer",
    "Frames",
    "Speaks",
    "endless",
]

HUGE: Final = 2**63 - 1
CHUNK: Final = bytes(1 << 16)
PAUSE: Final = 0.1
"""Between two bytes of a drip: shorter than each read's timeout, so that none is late by itself."""
FOR_EVER: Final = 3600.0
KEEP: Final = b""
"""Ends a behaviour after which the connection is used on."""

Frames = Iterator[bytes | float]


class Speaks(Protocol):
    """A protocol, from the server's side. One object serves all connections."""

    def read(self, stream: BinaryIO) -> Any:
        """The next request; None at the end. Its first look at a connection may send nothing."""
        ...

    def good(self, request: Any) -> bytes:
        """The right answer."""
        ...

    def spared(self, request: Any) -> bool:
        """Whether *request* is answered well in any case, such as a handshake."""
        ...

    def frames(self, request: Any) -> Mapping[str, Callable[[], Frames]]:
        """What only this protocol can do wrong, by name."""
        ...


def endless(head: bytes, piece: bytes = CHUNK) -> Callable[[], Frames]:
    """*head*, and then *piece* for ever, as fast as it is taken."""

    def sent() -> Frames:
        if head:
            yield head
        while True:
            yield piece

    return sent


def _silent(good: bytes) -> Frames:
    yield FOR_EVER


def _drip(good: bytes) -> Frames:
    """A byte now and then, and never the last one."""
    for at in range(len(good) - 1):
        yield good[at : at + 1]
        yield PAUSE
    yield FOR_EVER


def _half(good: bytes) -> Frames:
    yield good[: len(good) // 2]
    yield FOR_EVER


def _cut(good: bytes) -> Frames:
    yield good[: len(good) // 2]


def _cut_last(good: bytes) -> Frames:
    yield good[:-1]


def _closes(good: bytes) -> Frames:
    return
    yield


def _other(good: bytes) -> bytes:
    """An answer like *good*, where the protocol's values allow: to whom it may not come is seen."""
    return good.replace(b"value-of-", b"wrong-by-")


def _twice(good: bytes) -> Frames:
    yield good + _other(good)
    yield KEEP


def _twice_late(good: bytes) -> Frames:
    """What comes when the connection is idle."""
    yield good
    yield 0.02
    yield _other(good)
    yield KEEP


def _junk(good: bytes) -> Frames:
    yield b"\x00\xff\r\n\r\n" * 50
    yield FOR_EVER


def _junk_endless(good: bytes) -> Frames:
    while True:
        yield CHUNK


BEHAVIOURS: Final[Mapping[str, Callable[[bytes], Frames]]] = {
    "silent": _silent,
    "drip": _drip,
    "half": _half,
    "cut": _cut,
    "cut_last": _cut_last,
    "closes": _closes,
    "twice": _twice,
    "twice_late": _twice_late,
    "junk": _junk,
    "junk_endless": _junk_endless,
}
LATE: Final = frozenset({"silent", "drip", "half"})
"""Those that are noticed by the time alone."""


class EvilServer:
    """Listens on a free port of 127.0.0.1. A context manager."""

    def __init__(self, speaks: Speaks) -> None:
        self.speaks = speaks
        self.does = "well"
        """A name of :data:`BEHAVIOURS` or of the protocol's frames, or ``well``."""
        self.spares = True
        """Whether requests that the protocol spares (handshakes) are answered well."""
        self.connections = 0
        """How many were accepted."""
        self._over = threading.Event()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with connection, connection.makefile("rb") as stream, contextlib.suppress(OSError):
                while (request := self.speaks.read(stream)) is not None:
                    if not self._answer(connection, request):
                        return
        finally:
            self._open.discard(connection)

    def _answer(self, connection: socket.socket, request: Any) -> bool:
        """Whether the connection is used on."""
        does = self.does
        good = self.speaks.good(request)
        if does == "well" or (self.spares and self.speaks.spared(request)):
            connection.sendall(good)
            return True
        if does in BEHAVIOURS:
            sent = BEHAVIOURS[does](good)
        else:
            sent = self.speaks.frames(request).get(does, lambda: iter((good, KEEP)))()
        for piece in sent:
            if piece == KEEP:
                return True
            if isinstance(piece, float):
                # Also over when the client is gone: no thread waits for the end of the test.
                if self._over.wait(min(piece, 30.0)):
                    return False
            else:
                connection.sendall(piece)
        return False
