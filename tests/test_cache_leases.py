"""The leases of threads: one thread renews them all, and leaves when it has nothing to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from anyseal import StaticKeyring, sync
from anyseal.cache import CachePolicy
from anyseal.cache.backends.memory import BlockingMemoryBackend
from anyseal.errors import BackendError
from anyseal.sync.leases import Renewer, renewer
from support import run_python, said

KEYRING = StaticKeyring(b"k" * 32)


class Noting(BlockingMemoryBackend):
    """Notes who renews which lease."""

    def __init__(self) -> None:
        super().__init__()
        self.renewals: list[tuple[str, str]] = []
        self.broken = False

    def compare_and_set(self, name: str, expected: Any, value: Any, **options: Any) -> Any:
        if expected == value:
            self.renewals.append((threading.current_thread().name, name))
            if self.broken:
                raise BackendError("broken")
        return super().compare_and_set(name, expected, value, **options)


def renewers() -> int:
    """Threads that renew leases."""
    return sum(thread.name == "anyseal-leases" for thread in threading.enumerate())


def until(true: Callable[[], Any]) -> None:
    """Wait until *true* says so, however slow the machine."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def no_idling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread does not leave by itself, however slow the machine."""
    monkeypatch.setattr("anyseal.sync.leases.IDLE", 3600.0)


@pytest.mark.usefixtures("no_idling")
def test_leases_of_many_threads_are_renewed_by_one() -> None:
    """Twenty misses at once, each computed for longer than its lease: one more thread, and each
    lease is held to the end."""
    backend = Noting()
    cache = sync.Cache(backend, KEYRING, policy=CachePolicy(lease=0.3))
    seen: list[int] = []

    def compute() -> str:
        time.sleep(0.25)
        seen.append(renewers())
        time.sleep(0.35)
        until(lambda: len({name for _, name in backend.renewals}) == 20)
        return "value"

    threads = [
        threading.Thread(target=cache.get_or_set, args=(f"k{n}", compute)) for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {1} == set(seen)
    assert {"anyseal-leases"} == {thread for thread, _ in backend.renewals}
    assert 20 == len({name for _, name in backend.renewals})
    assert {} == renewer._due
    cache.close()
    until(lambda: renewers() == 0)


@pytest.mark.usefixtures("no_idling")
def test_leases_in_a_row_share_the_thread() -> None:
    """A miss that follows another starts no thread: starting one takes longer than the miss."""
    cache = sync.Cache(BlockingMemoryBackend(), KEYRING)
    threads = set()
    for n in range(50):
        cache.get_or_set(f"k{n}", lambda: threads.add(renewer._thread))
    cache.close()
    assert 1 == len(threads)
    until(lambda: renewers() == 0)


def test_leases_of_one_backend_survive_the_failure_of_another() -> None:
    """The thread is shared: a backend that is down ends neither it nor the leases of others."""
    broken, good = Noting(), Noting()
    broken.broken = True
    policy = CachePolicy(lease=0.15)
    caches = [sync.Cache(backend, KEYRING, policy=policy) for backend in (broken, good)]
    threads = [
        threading.Thread(target=cache.get_or_set, args=("k", lambda: time.sleep(1.2)))
        for cache in caches
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for cache in caches:
        cache.close()
    assert broken.renewals
    assert len(good.renewals) >= 3


def test_leases_thread_leaves_when_idle() -> None:
    """A process that computes nothing has no thread for it, also if no cache was closed."""
    cache = sync.Cache(BlockingMemoryBackend(), KEYRING, policy=CachePolicy(lease=0.15))
    cache.get_or_set("k", lambda: 1)
    until(lambda: renewers() == 0)
    assert 2 == cache.get_or_set("l", lambda: 2)
    cache.close()


def test_leases_begin_anew_in_a_forked_child() -> None:
    """A child that was forked while the lock was held and leases were renewed renews its own."""
    code = """
        import os, threading, time, warnings
        warnings.simplefilter("ignore")
        from anyseal import StaticKeyring, sync
        from anyseal.cache import CachePolicy
        from anyseal.cache.backends.memory import BlockingMemoryBackend
        from anyseal.sync.leases import renewer

        backend = BlockingMemoryBackend()
        cache = sync.Cache(backend, StaticKeyring(b"k" * 32), policy=CachePolicy(lease=0.1))
        pause = threading.Event()
        thread = threading.Thread(target=cache.get_or_set, args=("k", pause.wait))
        thread.start()
        while renewer._thread is None:
            time.sleep(.01)
        with renewer._changed:
            pid = os.fork()
            if pid == 0:
                assert renewer._thread is None and not renewer._due
                cache.get_or_set("l", lambda: time.sleep(.15) or renewer._thread.name)
                print(cache.get("l"), flush=True)
                os._exit(0)
        pause.set()
        thread.join()
        print(os.waitpid(pid, 0)[1])
    """
    assert ["anyseal-leases", "0"] == said(run_python(code))


def test_leases_without_a_thread_are_taken_all_the_same(monkeypatch: Any) -> None:
    """No more threads can be started: the value is computed, its lease merely ends in time."""

    def start(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        cache = sync.Cache(BlockingMemoryBackend(), KEYRING)
        assert 1 == cache.get_or_set("k", lambda: 1)
    assert {} == renewer._due
    cache.close()
    idle = Renewer()
    idle.rest()
    assert idle._thread is None


def refreshers() -> int:
    """Threads that refresh in the background."""
    return sum(thread.name == "anyseal-refresh" for thread in threading.enumerate())


def refreshing(backend: Noting, work: Any) -> sync.Cache:
    """A cache that begins to refresh a stale entry: *work* is called in the background."""
    cache = sync.Cache(backend, KEYRING, policy=CachePolicy(stale_ttl=30), ttl=0.05)
    cache.get_or_set("k", lambda: "old")
    time.sleep(0.1)
    begun = threading.Event()

    def compute() -> Any:
        begun.set()
        return work()

    assert "old" == cache.get_or_set("k", compute)
    assert begun.wait(5)
    return cache


def test_close_waits_for_refreshes() -> None:
    """Who closes a cache and then the rest of a service leaves no thread behind that uses it."""
    backend = Noting()
    cache = refreshing(backend, lambda: time.sleep(0.2) or "new")
    assert 1 == refreshers()
    cache.close()
    assert 0 == refreshers()
    assert 0 == renewers()
    assert "new" == sync.Cache(backend, KEYRING).get_or_set("k", lambda: "newer")


def test_close_leaves_a_refresh_that_does_not_end(monkeypatch: Any) -> None:
    """A function that hangs does not hang the closing; when it returns, nothing is stored and the
    closed backend is left alone."""
    monkeypatch.setattr("anyseal.sync.kit.CLOSE_SECONDS", 0.1)
    backend, go = Noting(), threading.Event()
    cache = refreshing(backend, lambda: go.wait(10) and "new")
    started = time.monotonic()
    cache.close()
    cache.close()
    assert time.monotonic() - started < 2
    assert 0 == renewers()
    calls: list[str] = []
    for name in ("set", "settle", "compare_and_set", "set_and_delete"):
        monkeypatch.setattr(backend, name, lambda *_, **__: calls.append("called"))
    go.set()
    while refreshers():
        time.sleep(0.01)
    assert [] == calls
    assert {} == cache._shelf.leases._held
    assert "old" == cache.get_or_set("k", lambda: "new"), "and no refresh begins"
    assert 0 == refreshers()


def test_close_by_a_refresh_itself() -> None:
    """A thread cannot wait for its own end."""
    found: list[sync.Cache] = []
    cache = refreshing(Noting(), lambda: (time.sleep(0.1), found[0].close()))
    found.append(cache)
    end = time.monotonic() + 5
    while refreshers():
        assert time.monotonic() < end
        time.sleep(0.01)
