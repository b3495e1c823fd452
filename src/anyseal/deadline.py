"""A deadline over a whole blocking call, and a cap on the bytes that it may receive.

A socket's timeout holds for one read: a server that sends a byte now and then is never late. Here
the time and the bytes of all reads of one call count together. Two ways lead there:

- :func:`bounded` makes a socket look at the calling thread's :class:`deadline` before each read.
  It costs no thread, and is for clients written in Python.
- ``deadline(seconds, stop)`` runs *stop* at the deadline in a watchdog thread, which makes a read
  that is blocked in C return. Give it the socket, or a function that shuts it down.

Async code needs neither: ``anyio.fail_after`` holds for the whole call.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self, TypeVar

__all__ = ["ExcessError", "bounded", "bounded_client", "current", "deadline"]

T = TypeVar("T")

LATE: Final = "no answer in time"
CLOSE_ENOUGH: Final = 1.1
"""A socket's timeout that is above the time left by so little is not set again."""
SHORTEST: Final = 0.001


class ExcessError(ValueError):
    """The server sends more than the answer may have. Not an OSError: no client tries again."""


class _Thread(threading.local):
    """The innermost deadline of the calling thread."""

    current: deadline | None = None


_thread = _Thread()


def current() -> deadline | None:
    """The innermost deadline of the calling thread, if there is one."""
    return _thread.current


class deadline:  # noqa: N801 - a context manager, named like those of contextlib
    """All that the calling thread does in the ``with`` block must end in time.

    Within another deadline the earlier one holds. A block whose deadline passed while a *stop*
    was set raises TimeoutError, also if it returned: what *stop* has shut down cannot be used
    again. Do not start a thread in the block and expect the deadline to hold there.

    Args:
        seconds: For the whole block; above 0.
        stop: Run once at the deadline, in the watchdog's thread: a socket, which is shut down, or
            a function, whose exceptions are ignored. Default: nothing; only bounded sockets and
            :meth:`left` notice the deadline.
        room: Bytes that bounded sockets may receive in the block. Default: no limit.

    Raises:
        TimeoutError: The deadline passed.
        ExcessError: From a bounded socket: more than *room* bytes arrived.

    Cost: 0.5 us; with *stop* 1 us, and one thread per process, started on first use.
    """

    __slots__ = ("_changed", "_outer", "_stop", "_watchdog", "counts", "expired", "room", "until")

    def __init__(
        self,
        seconds: float,
        stop: socket.socket | Callable[[], object] | None = None,
        *,
        room: int | None = None,
    ) -> None:
        self.until = monotonic() + seconds
        """When the block must have ended, by ``time.monotonic``."""
        self.room = room
        """Bytes that may still arrive."""
        self.counts = room is not None
        """Whether this deadline, or one around it, has a limit of bytes."""
        self.expired = False
        """Whether *stop* was run."""
        self._stop = stop
        self._outer: deadline | None = None
        self._changed: dict[socket.socket, float | None] | None = None

    def __enter__(self) -> Self:
        self._outer = outer = _thread.current
        if outer is not None:
            self.until = min(self.until, outer.until)
            self.counts = self.counts or outer.counts
        _thread.current = self
        if self._stop is not None:
            self._watchdog = _watchdog
            self._watchdog.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        _thread.current = self._outer
        if self._changed is not None:
            for sock, timeout in self._changed.items():
                with contextlib.suppress(OSError):  # it was closed
                    sock.settimeout(timeout)
        if self._stop is not None:
            # Taken out by the watchdog: it has run *stop*, or is about to.
            self.expired = not self._watchdog.remove(self)
            if self.expired and (error is None or isinstance(error, Exception)):
                raise TimeoutError(LATE) from error

    def left(self) -> float:
        """Seconds left, above 0. Raises TimeoutError."""
        left = self.until - monotonic()
        if left <= 0:
            raise TimeoutError(LATE)
        return left

    def stop(self) -> None:
        """Run *stop*: the watchdog's."""
        self.expired = True
        stop = self._stop
        with contextlib.suppress(Exception):
            if isinstance(stop, socket.socket):
                stop.shutdown(socket.SHUT_RDWR)
            elif stop is not None:
                stop()

    def arm(self, sock: socket.socket) -> None:
        """Let the next read or write of *sock* wait for no longer than is left."""
        left = self.until - monotonic()
        timeout = sock.gettimeout()
        if timeout is None or not SHORTEST < left <= timeout <= left * CLOSE_ENOUGH:
            left = self.left()
            if self._changed is None:
                self._changed = {}
            self._changed.setdefault(sock, timeout)
            sock.settimeout(left)

    def received(self, size: int) -> None:
        """Count what arrived. Raises ExcessError."""
        limit: deadline | None = self
        while limit is not None and limit.counts:
            if limit.room is not None:
                limit.room -= size
                if limit.room < 0:
                    raise ExcessError("the answer is larger than it may be")
            limit = limit._outer


class _Watchdog:
    """Stops what is late. Entering and leaving are one dict operation each; the thread is woken
    only for a deadline that is earlier than the one it sleeps for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._watched: dict[int, deadline] = {}
        self._wakes = float("inf")
        self._started = False

    def add(self, limit: deadline) -> None:
        self._watched[id(limit)] = limit
        if not self._started:
            self._start()
        if limit.until < self._wakes:
            self._news.set()

    def remove(self, limit: deadline) -> bool:
        """Whether *limit* was still watched: it is not late."""
        return self._watched.pop(id(limit), None) is not None

    def _start(self) -> None:
        with self._lock:
            if not self._started:
                threading.Thread(target=self._run, name="anyseal-deadline", daemon=True).start()
                self._started = True

    def _run(self) -> None:
        while True:
            self._news.clear()
            # First the promise to wake, then the look: who adds in between sees one of the two.
            self._wakes = float("inf")
            watched = list(self._watched.values())
            now = monotonic()
            for limit in watched:
                if limit.until <= now and self._watched.pop(id(limit), None) is limit:
                    limit.stop()
            self._wakes = wakes = min(
                (limit.until for limit in watched if limit.until > now), default=float("inf")
            )
            self._news.wait(None if wakes == float("inf") else max(0.0, wakes - monotonic()))


_watchdog = _Watchdog()


def _renew() -> None:
    global _watchdog
    _watchdog = _Watchdog()
    _thread.current = None


os.register_at_fork(after_in_child=_renew)


def _looking(base: type[Any]) -> type[Any]:
    """A subclass of *base*, a socket's class, that looks at its thread's deadline."""
    base_recv_into, base_recv = base.recv_into, base.recv
    base_sendall, base_send = base.sendall, base.send

    class Bounded(base):  # type: ignore[misc]
        __slots__ = ()

        def recv_into(self, *args: Any) -> Any:
            limit = _thread.current
            if limit is None:
                return base_recv_into(self, *args)
            limit.arm(self)
            size = base_recv_into(self, *args)
            if limit.counts:
                limit.received(size)
            return size

        def recv(self, *args: Any) -> Any:
            limit = _thread.current
            if limit is None:
                return base_recv(self, *args)
            limit.arm(self)
            data = base_recv(self, *args)
            if limit.counts:
                limit.received(len(data))
            return data

        def send(self, *args: Any) -> Any:
            limit = _thread.current
            if limit is not None:
                limit.arm(self)
            return base_send(self, *args)

        def sendall(self, *args: Any) -> Any:
            limit = _thread.current
            if limit is not None:
                limit.arm(self)
            return base_sendall(self, *args)

    return Bounded


_Socket, _TlsSocket = _looking(socket.socket), _looking(ssl.SSLSocket)


def bounded(sock: socket.socket) -> socket.socket:
    """*sock* itself, which from now on looks at its thread's deadline at each read and write.

    Sockets of other classes than the standard library's are left as they are.
    """
    if type(sock) is socket.socket:
        sock.__class__ = _Socket
    elif type(sock) is ssl.SSLSocket:
        sock.__class__ = _TlsSocket
    return sock


class _Network:
    """httpcore's way to sockets, whose streams are bounded; connecting and TLS included."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def connect_tcp(self, *args: Any, **options: Any) -> Any:
        options["timeout"] = _patience(options.get("timeout"))
        return _bounded_stream(self._inner.connect_tcp(*args, **options))

    def connect_unix_socket(self, *args: Any, **options: Any) -> Any:
        options["timeout"] = _patience(options.get("timeout"))
        return _bounded_stream(self._inner.connect_unix_socket(*args, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _patience(seconds: float | None) -> float | None:
    """Of *seconds* what is left of the thread's deadline."""
    limit = _thread.current
    if limit is None:
        return seconds
    return limit.left() if seconds is None else min(seconds, limit.left())


def _bounded_stream(stream: Any) -> Any:
    sock = stream.get_extra_info("socket")
    if sock is not None:
        bounded(sock)
    start = stream.start_tls

    def start_tls(*args: Any, **options: Any) -> Any:
        options["timeout"] = _patience(options.get("timeout"))
        return _bounded_stream(start(*args, **options))

    stream.start_tls = start_tls
    return stream


def bounded_client(client: T) -> T:
    """*client*, an ``httpx.Client``, whose connections from now on look at the thread's deadline.

    A transport of another kind, which has no sockets of httpcore's, is left as it is.
    """
    transports = [getattr(client, "_transport", None), *getattr(client, "_mounts", {}).values()]
    for transport in transports:
        pool: Any = getattr(transport, "_pool", None)
        network = getattr(pool, "_network_backend", None)
        if network is not None and not isinstance(network, _Network):
            pool._network_backend = _Network(network)
    return client
