"""Where the C lets go of the GIL and where it keeps it: short calls must not, long ones must.

No timing. With a switch interval that never ends, another thread that is ready to run gets the GIL
only where the code that holds it hands it over.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable

import pytest

from anyseal import Key, Suite, sync
from anyseal.keys import Slot
from anyseal.objects.chunks import SegmentKey, open_run, seal_run
from anyseal.record import RowKey, open_parsed, open_row, parse_row, seal_row, seal_row_text
from support import pattern

NEVER = 1e6  # seconds
SHORT, LONG = 256, 1 << 20


def another_thread_runs_during(work: Callable[[], object], calls: int) -> bool:
    """Whether a thread that is ready to run gets the GIL while *work* is called, *calls* at most.

    A thread takes a while to wake up: a single release may end before it has.
    """
    gate, ran, standing = threading.Lock(), [], []
    gate.acquire()

    def wait_and_run() -> None:
        standing.append(True)
        gate.acquire()
        ran.append(True)

    gc.collect()  # what earlier tests left may release the GIL when it goes
    gc.disable()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(NEVER)
    thread = threading.Thread(target=wait_and_run)
    thread.start()
    try:
        while not standing:
            time.sleep(0.001)  # lets go of the GIL; the other does not, before it is at the gate
        gate.release()
        for _ in range(200_000):  # it wakes up, and queues in vain
            pass
        assert not ran
        for _ in range(calls):
            work()
            if ran:
                break
        return bool(ran)
    finally:
        sys.setswitchinterval(interval)
        gc.enable()
        thread.join()


def _seal(key: Key, data: bytes) -> Callable[[], object]:
    return lambda: sync.seal(data, key)


def _open(key: Key, data: bytes) -> Callable[[], object]:
    sealed = sync.seal(data, key)
    return lambda: sync.open(sealed, key)


def _seal_into(key: Key, data: bytes) -> Callable[[], object]:
    buffer = bytearray(len(data) + 200)
    return lambda: sync.seal_into(buffer, data, key)


def _row_key() -> RowKey:
    return RowKey(Slot.from_bytes(pattern(32, "ik")), "_IK_p_s_r", 1_700_000_000)


def _seal_row(key: Key, data: bytes) -> Callable[[], object]:
    row_key = _row_key()
    return lambda: seal_row(data, row_key)


def _seal_row_text(key: Key, data: bytes) -> Callable[[], object]:
    row_key = _row_key()
    return lambda: seal_row_text(data, row_key)


def _open_row(key: Key, data: bytes) -> Callable[[], object]:
    row_key = _row_key()
    row = seal_row(data, row_key)
    return lambda: open_row(row, row_key)


def _parse_row(key: Key, data: bytes) -> Callable[[], object]:
    row_key = _row_key()
    row = b" " + seal_row(data, row_key)
    return lambda: open_parsed(parse_row(row), row_key)


def _chunks(key: Key, data: bytes) -> tuple[SegmentKey, Callable[[], object], bytearray]:
    segment = SegmentKey(Slot.from_bytes(pattern(32, "segment")), Suite.AEGIS256, 65536)
    out, numbers = bytearray(len(data) + 32 * -(-len(data) // 65536)), iter(range(1 << 30))
    count = -(-len(data) // 65536)

    def work() -> None:
        first = next(numbers) * count
        seal_run(segment, segment.lease(first, count), first, data, memoryview(out))

    return segment, work, out


def _seal_chunks(key: Key, data: bytes) -> Callable[[], object]:
    return _chunks(key, data)[1]


def _open_chunks(key: Key, data: bytes) -> Callable[[], object]:
    segment, seal, out = _chunks(key, data)
    seal()
    sealed, back = bytes(out), memoryview(bytearray(len(data)))
    return lambda: open_run(segment, 0, sealed, back)


OPERATIONS = (
    _seal, _open, _seal_into, _seal_row, _seal_row_text, _open_row, _parse_row, _seal_chunks,
    _open_chunks,
)  # fmt: skip
operations = pytest.mark.parametrize(
    "operation", OPERATIONS, ids=lambda operation: operation.__name__.strip("_")
)


@operations
def test_short_calls_keep_the_gil(operation: Callable[..., Callable[[], object]], key: Key) -> None:
    """A hand-over costs a hundred times what the cipher does, beside one busy thread."""
    work = operation(key, pattern(SHORT))
    assert not another_thread_runs_during(work, 1000)


@operations
def test_long_calls_release_the_gil(
    operation: Callable[..., Callable[[], object]], key: Key
) -> None:
    """Other threads, an event loop among them, run while a megabyte is worked on."""
    work = operation(key, pattern(LONG))
    assert another_thread_runs_during(work, 10_000)
