"""Values into the caller's buffers, under keyrings, inspected, and cancelled in mid-flight."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import anyseal
from anyseal import (
    DecryptionError,
    FormatError,
    Key,
    Kind,
    ObjectInfo,
    StaticKeyring,
    Suite,
    ValueInfo,
    aio,
    offload,
    sync,
)
from anyseal.keys import Slot
from anyseal.value import wrap
from support import SMALL, a_key, cuts, pattern, seal_bytes

# ---- Buffers of the caller ---------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 16, 5000])
def test_into_fills_what_it_needs_and_no_more(key: Key, suite: Suite, size: int) -> None:
    """A reused buffer is longer than most of what passes through it."""
    data, need = pattern(size), size + anyseal.overhead(suite)
    for more in (0, 1, 100):
        out = bytearray(b"\xee" * (need + more))
        assert need == sync.seal_into(out, data, key, suite=suite)
        assert b"\xee" * more == out[need:]
        assert data == sync.open(out[:need], key)
        back = bytearray(b"\xee" * (size + more))
        assert size == sync.open_into(back, memoryview(out)[:need], key)
        assert data + b"\xee" * more == back


def test_into_refuses_a_buffer_that_is_too_small(key: Key, suite: Suite) -> None:
    """Writing past the end would be the worst bug that the C could have."""
    sealed = sync.seal(b"0123456789", key, suite=suite)
    for size in (0, 1, len(sealed) - 1):
        with pytest.raises(ValueError, match=f"needs {len(sealed)}"):
            sync.seal_into(bytearray(size), b"0123456789", key, suite=suite)
    for size in (0, 9):
        with pytest.raises(ValueError, match="needs 10"):
            sync.open_into(bytearray(size), sealed, key)


@pytest.mark.parametrize("buffer", [b"x" * 200, memoryview(b"x" * 200), "x", None, 200])
def test_into_refuses_what_cannot_be_written(key: Key, buffer: Any) -> None:
    """bytes are shared and immutable: writing into one would change it for everybody."""
    sealed = sync.seal(b"x", key)
    with pytest.raises(TypeError):
        sync.seal_into(buffer, b"x", key)
    with pytest.raises(TypeError):
        sync.open_into(buffer, sealed, key)
    assert bytes(200) == bytes(200)
    with pytest.raises(TypeError):
        sync.seal_into(memoryview(bytearray(400))[::2], b"x", key)


def test_into_refuses_overlap(key: Key, suite: Suite) -> None:
    """Plaintext overwritten while it is read would be sealed as garbage."""
    buffer = bytearray(pattern(400))
    view, need = memoryview(buffer), 100 + anyseal.overhead(suite)
    for start in (0, 1, 52, 100, need - 1):
        before = bytes(buffer)
        with pytest.raises(ValueError, match="overlap"):
            sync.seal_into(view[:need], view[start : start + 100], key, suite=suite)
        assert before == buffer
    size = sync.seal_into(view[200:], bytes(view[:100]), key, suite=suite)
    for start in (150, 200, 252, 300):
        before = bytes(buffer)
        with pytest.raises(ValueError, match="overlap"):
            sync.open_into(view[start : start + 100], view[200 : 200 + size], key)
        assert before == buffer
    assert 100 == sync.open_into(view[:100], view[200 : 200 + size], key)  # side by side is fine


@pytest.mark.parametrize("size", [1, 100, 5000, 100_000])
def test_into_wipes_what_does_not_verify(key: Key, suite: Suite, size: int) -> None:
    """Unverified plaintext in a buffer is released plaintext."""
    data = pattern(size)
    bad = bytearray(sync.seal(data, key, suite=suite))
    bad[-1] ^= 1
    buffer = bytearray(b"\xee" * (size + 10))
    with pytest.raises(DecryptionError):
        sync.open_into(buffer, bad, key)
    assert bytes(size) + b"\xee" * 10 == buffer


@pytest.mark.anyio
async def test_into_wipes_what_does_not_verify_in_a_thread(key: Key) -> None:
    """The same where the call left the loop."""
    bad = bytearray(await anyseal.seal(pattern(2 << 20), key, suite="XCHACHA20POLY1305"))
    bad[-1] ^= 1
    buffer = bytearray(b"\xee" * (2 << 20))
    with pytest.raises(DecryptionError):
        await anyseal.open_into(buffer, bad, key)
    assert not any(buffer)


# ---- Keyrings ----------------------------------------------------------------------------


@pytest.mark.anyio
async def test_value_partition_goes_with_a_keyring(key: Key, keyring: StaticKeyring) -> None:
    """Forgetting the partition must not seal under a common key; nor may a Key seem to have one."""
    sealed, of_key = sync.seal(b"x", keyring, partition="p"), sync.seal(b"x", key)
    buffer = bytearray(200)
    wrong: list[tuple[type[Exception], Any, str | None]] = [
        (TypeError, keyring, None),
        (TypeError, keyring, b"p"),  # type: ignore[list-item]
        (ValueError, keyring, ""),
        (TypeError, key, "p"),
        (TypeError, key, ""),
        (TypeError, b"0" * 32, "p"),
        (TypeError, b"0" * 32, None),
    ]
    for error, ring, partition in wrong:
        blob = of_key if ring is key else sealed
        for call in (
            lambda ring, partition, blob: sync.seal(b"", ring, partition=partition),
            lambda ring, partition, blob: sync.seal_into(buffer, b"", ring, partition=partition),
            lambda ring, partition, blob: sync.open(blob, ring, partition=partition),
            lambda ring, partition, blob: sync.open_into(buffer, blob, ring, partition=partition),
            lambda ring, partition, blob: seal_bytes(b"", ring, partition=partition),
            lambda ring, partition, blob: sync.StreamOpener(ring, partition=partition),
        ):
            with pytest.raises(error):
                call(ring, partition, blob)
        for function, args in (
            (anyseal.seal, (b"",)),
            (anyseal.seal_into, (buffer, b"")),
            (anyseal.open, (blob,)),
            (anyseal.open_into, (buffer, blob)),
        ):
            with pytest.raises(error):
                await function(*args, ring, partition=partition)  # type: ignore[operator]


@pytest.mark.anyio
async def test_value_opens_only_in_its_partition(keyring: StaticKeyring, suite: Suite) -> None:
    """This is what keeps tenants apart."""
    sealed = await anyseal.seal(b"x", keyring, partition="a", suite=suite)
    assert b"x" == await anyseal.open(sealed, keyring, partition="a")
    for partition in ("b", "A", "a ", "a\0", "á"):
        with pytest.raises(anyseal.WrongKeyError):
            await anyseal.open(sealed, keyring, partition=partition)
        with pytest.raises(anyseal.WrongKeyError):
            await anyseal.open_into(bytearray(9), sealed, keyring, partition=partition)


# ---- Inspect -----------------------------------------------------------------------------


def test_inspect_tells_what_the_header_says(key: Key, suite: Suite) -> None:
    """Operators look at stored bytes without having any key."""
    sealed = sync.seal(b"12345", key, suite=suite, expires_at=4_000_000_000.25)
    expected = ValueInfo(
        kind=Kind.VALUE,
        suite=suite,
        key_id=key.key_id,
        expires_at=datetime(2096, 10, 2, 7, 6, 40, 250_000, UTC),
        size=5,
    )
    for data in (sealed, bytearray(sealed), memoryview(sealed)):
        assert expected == anyseal.inspect(data)
    wrapped = anyseal.inspect(wrap(Slot.random(), key, suite, b""))
    assert (Kind.WRAPPED_KEY, 32) == (wrapped.kind, wrapped.size)  # type: ignore[union-attr]
    info = anyseal.inspect(seal_bytes(b"123", key, suite=suite)[:200])
    size = 200 if suite is Suite.AEGIS256 else 184
    assert info == ObjectInfo(
        suite=suite,
        key_id=key.key_id,
        chunk_bytes=SMALL["chunk_size"],
        segment_bytes=SMALL["segment_size"],
        header_bytes=size,
    )


def test_inspect_refuses_what_is_not_ours(key: Key, suite: Suite) -> None:
    """It is the first thing to touch bytes from anywhere."""
    value, sealed = sync.seal(b"", key, suite=suite), seal_bytes(b"", key, suite=suite)
    bad = [b"", b"\xa5", b"ANYSEAL", b"ANYSEAL\2" + bytes(200), pattern(500), *cuts(value)]
    bad += [sealed[:183], value[:2] + b"\3" + value[3:], value[:2] + b"\xff" + value[3:]]
    bad += [value[:3] + b"\0" + value[4:], b"\xa5\2" + value[2:], value[:20] + b"\xff" * 70]
    for data in bad:
        with pytest.raises(FormatError):
            anyseal.inspect(data)
    with pytest.raises(TypeError):
        anyseal.inspect("ANYSEAL")  # type: ignore[arg-type]


# ---- Cancellation ------------------------------------------------------------------------


class SlowCall:
    """Stands for a large seal: tells when it runs, and whether it runs still."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.running = False

    def __call__(self, *args: Any) -> int:
        self.running = True
        self.started.set()
        time.sleep(0.1)
        self.running = False
        return 0


@pytest.mark.anyio
async def test_value_cancelled_waits_for_its_thread(
    key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a cancel the caller's buffer is the caller's again: nothing still writes into it."""
    slow = SlowCall()
    monkeypatch.setattr(aio, "seal_under_into", slow)
    data = bytes(2 << 20)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: anyseal.seal_into(bytearray(3 << 20), data, key))
            while not slow.started.is_set():
                await anyio.sleep(0.001)
            scope.cancel()
    assert not slow.running


def native_cancel(use: Callable[[], Any], started: threading.Event, times: int) -> None:
    """Run *use* on asyncio and cancel its task as ``asyncio.wait_for`` and aiohttp do."""

    async def main() -> None:
        task = asyncio.ensure_future(use())
        while not started.is_set():
            await asyncio.sleep(0.001)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


@pytest.mark.parametrize("times", [1, 2])
def test_value_cancelled_by_asyncio_waits_for_its_thread(
    key: Key, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """``Task.cancel`` goes through anyio's shields; web frameworks cancel with nothing else."""
    slow = SlowCall()
    monkeypatch.setattr(aio, "seal_under_into", slow)
    data = bytes(2 << 20)
    native_cancel(lambda: anyseal.seal_into(bytearray(3 << 20), data, key), slow.started, times)
    assert slow.started.is_set()
    assert not slow.running


def test_value_cancelled_by_asyncio_before_its_thread_never_begins() -> None:
    """A call that waits for its turn must not start when nobody waits for it any more."""
    slow, begun = SlowCall(), []

    async def main() -> None:
        fillers = [asyncio.ensure_future(offload.run(slow)) for _ in range(8)]
        await asyncio.sleep(0.01)
        late = [asyncio.ensure_future(offload.run(begun.append, 1)) for _ in range(8)]
        await asyncio.sleep(0.01)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        count = len(begun)
        await asyncio.gather(*fillers)
        assert count == len(begun)

    asyncio.run(main())


@pytest.mark.anyio
async def test_value_cancelled_before_it_begins_does_nothing(key: Key) -> None:
    """A large seal under a deadline that has passed ends at once."""
    buffer = bytearray(3 << 20)
    with anyio.move_on_after(0) as scope:
        await anyio.lowlevel.checkpoint()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anyseal.seal_into(buffer, bytes(2 << 20), key)
    assert scope.cancelled_caught
    assert not any(buffer)
    assert b"x" == await anyseal.open(await anyseal.seal(b"x", key), a_key())
