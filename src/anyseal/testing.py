"""For the tests of code that uses anyseal: keys without a service, a clock to turn, a recorder.

As a pytest plugin (``pytest_plugins = ["anyseal.testing"]``) it brings the fixtures
``anyseal_hierarchy``, ``anyseal_clock`` and ``anyseal_recorder``.
"""

from __future__ import annotations

import time as _time
from collections.abc import Iterator
from typing import Any

from anyseal import session as _session
from anyseal import value as _value
from anyseal.config import CryptoPolicy
from anyseal.keyring import cached as _cached
from anyseal.keyring import hierarchy as _hierarchy
from anyseal.keyring import intermediate as _intermediate
from anyseal.keyring import lifecycle as _lifecycle
from anyseal.keyring import lifetimes as _lifetimes
from anyseal.keyring import looking as _looking
from anyseal.keyring import naming as _naming
from anyseal.keyring import system as _system
from anyseal.keyring.hierarchy import KeyHierarchy
from anyseal.kms.static import StaticKms
from anyseal.metastore.memory import MemoryMetastore
from anyseal.ports import AuditEvent, CacheEvent, TimingEvent
from anyseal.sync import sessions as _sync_sessions

__all__ = ["Clock", "Recorder", "memory_hierarchy"]


class Clock:
    """A clock that stands still until it is turned, for expiry and rotation.

    ::

        with Clock() as clock:
            ...
            clock.turn(91 * 86400)   # three months later

    It replaces the time that anyseal's own modules see, in this process.
    """

    _MODULES: tuple[Any, ...] = (
        _cached,
        _hierarchy,
        _intermediate,
        _lifecycle,
        _lifetimes,
        _looking,
        _naming,
        _session,
        _sync_sessions,
        _system,
        _value,
    )

    def __init__(self, start: float | None = None) -> None:
        self.now = _time.time() if start is None else start
        self._started = _time.monotonic()
        self._ran = 0.0
        self._saved: list[Any] = []

    def turn(self, seconds: float) -> None:
        """Let *seconds* pass."""
        if seconds < 0:
            raise ValueError("time passes forwards: use set() for a clock that was put back")
        self.now += seconds
        self._ran += seconds

    def set(self, now: float) -> None:
        """Set the wall clock, forwards or back, without any time passing."""
        self.now = now

    def time(self) -> float:
        """What ``time.time`` tells."""
        return self.now

    def time_ns(self) -> int:
        """What ``time.time_ns`` tells."""
        return round(self.now * 1000) * 1_000_000

    def monotonic(self) -> float:
        """What ``time.monotonic`` tells."""
        return self._started + self._ran

    def perf_counter_ns(self) -> int:
        """The real one: durations stay real."""
        return _time.perf_counter_ns()

    def __enter__(self) -> Clock:
        self._saved = [module.time for module in self._MODULES]
        for module in self._MODULES:
            module.time = self
        return self

    def __exit__(self, *exc_info: object) -> None:
        for module, saved in zip(self._MODULES, self._saved, strict=True):
            module.time = saved


class Recorder:
    """A hook that keeps what it is called with; fits ``metrics=`` and ``audit=``."""

    def __init__(self) -> None:
        self.events: list[TimingEvent | CacheEvent | AuditEvent] = []

    def __call__(self, event: TimingEvent | CacheEvent | AuditEvent, /) -> None:
        """Keep *event*."""
        self.events.append(event)

    def count(self, **fields: Any) -> int:
        """How many events have all these fields with these values."""
        return sum(
            all(getattr(event, name, None) == value for name, value in fields.items())
            for event in self.events
        )


def memory_hierarchy(
    *, policy: CryptoPolicy | None = None, metrics: Any = None, **settings: Any
) -> KeyHierarchy:
    """A key hierarchy with a random master key and a metastore in memory."""
    from anyseal.keys import Key

    return KeyHierarchy(
        StaticKms(Key.generate()),
        MemoryMetastore(),
        service=settings.pop("service", "service"),
        product=settings.pop("product", "product"),
        policy=policy,
        metrics=metrics,
        **settings,
    )


try:
    import pytest
except ImportError:  # pragma: no cover - the helpers above need no pytest
    pass
else:

    @pytest.fixture
    def anyseal_hierarchy() -> KeyHierarchy:
        """A key hierarchy in memory."""
        return memory_hierarchy()

    @pytest.fixture
    def anyseal_clock() -> Iterator[Clock]:
        """A clock to turn, in force during the test."""
        with Clock() as clock:
            yield clock

    @pytest.fixture
    def anyseal_recorder() -> Recorder:
        """A recorder for ``metrics=`` and ``audit=``."""
        return Recorder()
