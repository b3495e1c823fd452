"""Fixtures of the core's tests: event loops, keys, keyrings, suites."""

from __future__ import annotations

import collections
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import stamina
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

import anyseal.value
from anyseal import Key, StaticKeyring, Suite, sync
from shell import forks, shell
from support import SUITES, a_key, pattern

__all__ = ["forks", "pytest_terminal_summary", "shell"]

# The same examples in every run, and no limit to their time: whether a test fails must depend on
# the code alone. `--hypothesis-profile=default` looks for new ones, and so does `make fuzz`.
settings.register_profile(
    "steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")

# A shell without job control lets what it starts in the background ignore Ctrl-C, and so would each
# process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Tell in one line what was skipped, and what would run it."""
    reasons = collections.Counter(
        str(report.longrepr[2]).removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", ())
        if isinstance(report.longrepr, tuple)
    )
    if reasons:
        told = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        terminalreporter.write_line(f"{reasons.total()} skipped: {told}")


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Every async test runs on every event loop."""
    return request.param


@pytest.fixture(autouse=True)
def blocking_calls_fail(request: pytest.FixtureRequest) -> Iterator[None]:
    """A call from the package that blocks an asyncio loop is an error (it cannot see trio)."""
    if "anyio_backend" not in request.fixturenames:
        yield
        return
    if request.getfixturevalue("anyio_backend")[0] != "asyncio":
        yield
        return
    with blockbuster_ctx("anyseal"):
        yield


@pytest.fixture(params=SUITES, ids=lambda suite: suite.name)
def suite(request: pytest.FixtureRequest) -> Suite:
    """Each suite."""
    found: Suite = request.param
    return found


@pytest.fixture
def key() -> Iterator[Key]:
    """A key that is the same in every run."""
    with a_key() as found:
        yield found


@pytest.fixture
def other_key() -> Iterator[Key]:
    """Another key."""
    with a_key("other key") as found:
        yield found


@pytest.fixture
def keyring() -> StaticKeyring:
    """A keyring that has rotated once."""
    return StaticKeyring(pattern(32, "master"), [pattern(32, "old master")])


class Clock:
    """The wall clock that values see, in milliseconds since the epoch."""

    def __init__(self) -> None:
        self.ms = 1_900_000_000_000

    def time_ns(self) -> int:
        return self.ms * 1_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that only the test moves."""
    found = Clock()
    monkeypatch.setattr(anyseal.value, "time", SimpleNamespace(time_ns=found.time_ns))
    return found


@pytest.fixture
def no_pauses() -> Iterator[None]:
    """What is tried again is tried at once; the tests of the KMS see that there are pauses."""
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A file of several units of work."""
    path = tmp_path / "plain"
    path.write_bytes(pattern(1 << 16) * 64)
    return path


@pytest.fixture
def sealed(tmp_path: Path, plain: Path, key: Key) -> Path:
    """The same, sealed."""
    path = tmp_path / "sealed"
    sync.seal_file(plain, path, key, segment_size=1 << 20)
    return path
