"""A deadline over a whole blocking call."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from anyseal.deadline import ExcessError, bounded, current, deadline

SHORT = 0.2
SLOW = 5.0
"""What a busy machine may add; the calls under test would last for ever."""

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two connected sockets."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def drip(theirs: socket.socket) -> None:
    """Send a byte now and then, until nobody listens."""
    try:
        while True:
            theirs.sendall(b"x")
            time.sleep(0.05)
    except OSError:
        return


def read_all(ours: socket.socket) -> None:
    """Read, a little at a time, until the end."""
    while ours.recv_into(bytearray(20)):
        pass


@pytest.mark.parametrize("timeout", [None, SHORT, 60.0])
def test_deadline_holds_over_many_reads(pair: Pair, timeout: float | None) -> None:
    """A socket's own timeout is per read: a byte now and then is never late. The socket keeps its
    timeout, for its owner may use it otherwise."""
    ours, theirs = pair
    ours.settimeout(timeout)
    bounded(ours)
    threading.Thread(target=drip, args=(theirs,), daemon=True).start()
    started = time.monotonic()
    with pytest.raises(TimeoutError), deadline(SHORT):
        read_all(ours)
    assert SHORT <= time.monotonic() - started < SLOW
    assert timeout == ours.gettimeout()
    assert current() is None


def test_deadline_holds_for_a_peer_that_does_not_read(pair: Pair) -> None:
    """Writing waits as well."""
    ours, _ = pair
    bounded(ours)
    with pytest.raises(TimeoutError), deadline(SHORT):
        ours.sendall(bytes(1 << 24))


def test_deadline_shuts_a_socket_that_is_read_in_c(pair: Pair) -> None:
    """A client written in C looks at nothing of ours: the watchdog ends its read."""
    ours, _ = pair
    started = time.monotonic()
    with pytest.raises(TimeoutError), deadline(SHORT, ours):
        assert ours.recv(1) == b""
    assert SHORT <= time.monotonic() - started < SLOW


def test_deadline_watches_many_at_once() -> None:
    """One thread serves all, the earliest first, whichever was entered last."""
    ended: dict[float, float] = {}

    def call(seconds: float) -> None:
        ours, theirs = socket.socketpair()
        started = time.monotonic()
        shut = partial(ours.shutdown, socket.SHUT_RDWR)
        with ours, theirs, pytest.raises(TimeoutError), deadline(seconds, shut):
            ours.recv(1)
        ended[seconds] = time.monotonic() - started

    times = (0.3, 0.1, 0.2)
    threads = [threading.Thread(target=call, args=(seconds,)) for seconds in times]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SLOW)
    assert sorted(times) == sorted(ended)
    assert all(ended[seconds] >= seconds for seconds in times)


def test_deadline_in_time_stops_nothing(pair: Pair) -> None:
    """A connection that answered in time is used again."""
    ours, theirs = pair
    with deadline(SHORT, ours):
        theirs.sendall(b"x")
        assert ours.recv(1) == b"x"
    time.sleep(2 * SHORT)
    theirs.sendall(b"y")
    assert ours.recv(1) == b"y"


def test_deadline_inside_another_is_the_earlier_one(pair: Pair) -> None:
    """What a call asks in turn gets no more time than is left of the call."""
    ours, _ = pair
    bounded(ours)
    started = time.monotonic()
    with pytest.raises(TimeoutError), deadline(SHORT), deadline(60):
        ours.recv(1)
    assert time.monotonic() - started < SLOW


def test_deadline_caps_what_arrives(pair: Pair) -> None:
    """What one call receives must fit its room, however it is cut."""
    ours, theirs = pair
    bounded(ours)
    theirs.sendall(bytes(100))
    with pytest.raises(ExcessError), deadline(SLOW, room=50):
        read_all(ours)


def test_deadline_of_another_thread_does_not_matter(pair: Pair) -> None:
    """Each call has its own."""
    ours, theirs = pair
    bounded(ours)
    found: list[bytes] = []
    with deadline(SHORT, room=0):
        thread = threading.Thread(target=lambda: found.append(ours.recv(1)))
        thread.start()
        theirs.sendall(b"x")
        thread.join(SLOW)
    assert found == [b"x"]


def test_deadline_holds_over_tls(pair: Pair) -> None:
    """TLS sockets are another class, and read in pieces."""
    ours, _ = pair
    context = ssl.create_default_context()
    context.check_hostname = False
    with context.wrap_socket(ours, do_handshake_on_connect=False) as tls:
        bounded(tls)
        with pytest.raises(TimeoutError), deadline(SHORT):
            tls.recv_into(bytearray(1))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_deadline_holds_in_a_forked_child(pair: Pair) -> None:
    """The watchdog's thread is the parent's: the child starts its own."""
    ours, _ = pair
    with deadline(SLOW, ours):
        child = os.fork()
        if child == 0:
            mine, _theirs = socket.socketpair()
            try:
                with deadline(SHORT, mine):
                    mine.recv(1)
            except TimeoutError:
                os._exit(7)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
