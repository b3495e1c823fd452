"""anyseal.testing, as the tests of an application use it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from anyseal import seal, sync
from anyseal.errors import ExpiredError
from anyseal.keyring import hierarchy
from anyseal.ports import CacheEvent, TimingEvent
from anyseal.sync import sessions
from anyseal.testing import Clock, Recorder, memory_hierarchy

PLUGIN = """
    from anyseal import KeyHierarchy, sync
    from anyseal.testing import Recorder

    def test_hierarchy(anyseal_hierarchy):
        assert isinstance(anyseal_hierarchy, KeyHierarchy)
        session = sync.SessionFactory(anyseal_hierarchy).session("u1")
        assert session.decrypt(session.encrypt(b"x")) == b"x"

    def test_clock(anyseal_hierarchy, anyseal_clock):
        session = sync.SessionFactory(anyseal_hierarchy).session("u1")
        first = session.encrypt(b"x")
        anyseal_clock.turn(91 * 86400)
        second = session.encrypt(b"x")
        key = '"ParentKeyMeta"'
        assert first.split(key)[1][:60] != second.split(key)[1][:60]

    def test_recorder(anyseal_recorder):
        assert anyseal_recorder.events == []
        assert isinstance(anyseal_recorder, Recorder)
"""


def test_plugin_brings_its_fixtures(tmp_path: Path) -> None:
    """In a pytest of its own, where every warning is an error, as users run it."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["anyseal.testing"]\n')
    (tmp_path / "test_app.py").write_text(textwrap.dedent(PLUGIN))
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", str(tmp_path)),
            *("-p", "no:cacheprovider", "-p", "no:asyncio"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert (0, True) == (done.returncode, "3 passed" in done.stdout), done.stdout


def test_clock_stands_turns_and_goes_back() -> None:
    """Time is what the test says; time that passes never goes backwards."""
    with Clock(1000.0) as clock:
        assert [1000.0] * 2 == [hierarchy.time.time(), hierarchy.time.time()]
        before = hierarchy.time.monotonic()
        clock.turn(5)
        assert (1005.0, 5.0) == (clock.time(), hierarchy.time.monotonic() - before)
        clock.set(10.0)
        assert (10.0, 5.0) == (clock.time(), hierarchy.time.monotonic() - before)
        with pytest.raises(ValueError, match="forwards"):
            clock.turn(-1)
    assert hierarchy.time is time


def test_clock_is_seen_by_the_sync_side_too() -> None:
    """Else tests of sync code pass while their keys never expire."""
    with Clock() as clock:
        assert sessions.time is clock
    assert sessions.time is time


def test_clock_goes_on_from_the_real_one() -> None:
    """Keys that were made before it started are neither stale nor fresh for ever."""
    real = time.monotonic()
    with Clock() as clock:
        assert real <= clock.monotonic() <= time.monotonic()


@pytest.mark.anyio
async def test_clock_ends_values() -> None:
    """Expiry of values follows it as well."""
    keyring = memory_hierarchy()
    with Clock() as clock:
        sealed = await seal(b"x", keyring, partition="u1", expires_at=clock.now + 60)
        assert b"x" == sync.open(sealed, keyring, partition="u1")
        clock.turn(61)
        with pytest.raises(ExpiredError):
            sync.open(sealed, keyring, partition="u1")


def test_recorder_counts_by_fields() -> None:
    """The question of most tests: how often did that happen?"""
    recorder = Recorder()
    recorder(TimingEvent("load", 5))
    recorder(CacheEvent("hit", "session"))
    recorder(CacheEvent("hit", "system-key"))
    assert (2, 1, 1, 0, 3) == (
        recorder.count(outcome="hit"),
        recorder.count(outcome="hit", cache="session"),
        recorder.count(operation="load"),
        recorder.count(operation="store"),
        recorder.count(),
    )


def test_memory_hierarchy_takes_settings() -> None:
    """Names and hooks can be chosen; two of them share no key."""
    one, two = memory_hierarchy(service="a", product="b"), memory_hierarchy()
    assert ("_SK_a_b", "_SK_service_product") == (one.sk_id, two.sk_id)
    sealed = sync.seal(b"x", one, partition="u1")
    with pytest.raises(LookupError):
        sync.open(sealed, two, partition="u1")
