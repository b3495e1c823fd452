"""One suite over every backend of the cache, on real servers and files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from anyseal.cache import MemoryBackend
from anyseal.ports import (
    Backend,
    BackendTraits,
    BlockingBackend,
    BlockingLeasingBackend,
    BlockingRangedBackend,
    LeasingBackend,
    RangedBackend,
)
from cache_backends import CASES, Awaited, Case, on_every_loop
from support import in_time, pattern

pytest_plugins = ["server_fixtures"]
pytestmark = pytest.mark.anyio

MIB = 1 << 20
every = pytest.mark.parametrize(
    ("anyio_backend", "case"), on_every_loop(CASES), indirect=["anyio_backend"]
)
ranged = pytest.mark.parametrize(
    ("anyio_backend", "case"),
    on_every_loop([case for case in CASES if case.ranged]),
    indirect=["anyio_backend"],
)


@pytest.fixture
def made(request: pytest.FixtureRequest, case: Case) -> Any:
    """The backend itself."""
    return case.make(request)


@pytest.fixture
async def backend(anyio_backend: Any, made: Any, case: Case) -> AsyncIterator[Any]:
    """The backend, awaitable in any case."""
    found = Awaited(made) if case.blocking else made
    yield found
    await found.aclose()


async def scanned(backend: Any, prefix: str) -> list[str]:
    """All names that a scan gives, sorted; none twice."""
    found = [name async for names in backend.scan(prefix) for name in names]
    assert len(set(found)) == len(found)
    return sorted(found)


async def at_once(count: int, call: Any) -> list[Any]:
    """What *call* returns for 0 to *count* - 1, all started at the same time."""
    results: list[Any] = []
    start = anyio.Event()

    async def one(number: int) -> None:
        await start.wait()
        results.append(await call(number))

    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(one, number)
        start.set()
    return results


@every
async def test_backend_follows_its_protocol(backend: Any, made: Any, case: Case) -> None:
    """The cache asks by ``isinstance`` whether large values can go in pieces."""
    protocol = BlockingBackend if case.blocking else Backend
    with_ranges = BlockingRangedBackend if case.blocking else RangedBackend
    assert isinstance(made, protocol)
    assert case.ranged == isinstance(made, with_ranges)
    with_leases = BlockingLeasingBackend if case.blocking else LeasingBackend
    assert case.ranged == isinstance(made, with_leases)
    assert case.scans == BackendTraits.of(made).can_scan


@every
async def test_backend_keeps_what_was_set(backend: Any) -> None:
    """The values come back in the order of the names, None where there is nothing."""
    assert await backend.set("ns:a", b"one")
    assert await backend.set("ns:b", b"two")
    assert [b"two", None, b"one", b"two"] == await backend.get_many(
        ["ns:b", "ns:c", "ns:a", "ns:b"]
    )
    assert await backend.set("ns:a", b"three")
    assert [b"three"] == await backend.get_many(["ns:a"])


@every
async def test_backend_takes_empty_lists(backend: Any) -> None:
    """A cache that was asked for nothing must not have to check."""
    assert [] == await backend.get_many([])
    assert 0 == await backend.delete_many([])


@every
@pytest.mark.parametrize("size", [0, 1, 65_537, MIB], ids=["0", "1", "64k", "1m"])
async def test_backend_keeps_any_bytes(backend: Any, case: Case, size: int) -> None:
    """Sealed values look random: every byte value must survive, and any length."""
    value = (bytes(range(256)) + pattern(size))[:size] if size > 256 else pattern(size)
    value = value[: case.max_value]
    assert await backend.set("ns:{x}:v", value, ttl_ms=60_000)
    assert [value] == await backend.get_many(["ns:{x}:v"])
    assert await backend.compare_and_set("ns:{x}:v", value, value[::-1], ttl_ms=60_000)
    assert [value[::-1]] == await backend.get_many(["ns:{x}:v"])


@every
async def test_backend_takes_the_longest_names(backend: Any) -> None:
    """200 characters, and every printable one, are promised."""
    printable = "".join(map(chr, range(0x21, 0x7F)))
    names = [(printable * 3)[:200], "n" * 200, "n" * 199, "!", *printable]
    for number, name in enumerate(names):
        assert await backend.set(name, b"%d" % number) or name == "!"
    assert len(set(names)) == await backend.delete_many(list(dict.fromkeys(names)))
    assert [None] * len(names) == await backend.get_many(names)


@every
async def test_backend_deletes_and_counts(backend: Any) -> None:
    """What was not there does not count."""
    for name in ("ns:a", "ns:b", "ns:c"):
        await backend.set(name, b"x")
    assert 2 == await backend.delete_many(["ns:a", "ns:b", "ns:z"])
    assert [None, None, b"x"] == await backend.get_many(["ns:a", "ns:b", "ns:c"])


@every
async def test_backend_forgets_after_the_time_to_live(backend: Any, case: Case) -> None:
    """An expired entry is as gone as a deleted one, for every method."""
    for name in ("ns:a", "ns:b", "ns:c", "ns:d"):
        assert await backend.set(name, b"old", ttl_ms=case.ttl_ms)
    await backend.set("ns:forever", b"x")
    await backend.set("ns:long", b"x", ttl_ms=90 * 86_400_000)
    await anyio.sleep(case.gone_ms / 1000)
    assert [None, b"x", b"x"] == await backend.get_many(["ns:a", "ns:forever", "ns:long"])
    assert await backend.set("ns:b", b"new", if_absent=True)
    assert not await backend.compare_and_set("ns:c", b"old", b"new")
    assert 0 == await backend.delete_many(["ns:d"])
    if case.scans and not case.scans_expired:
        assert ["ns:b", "ns:forever", "ns:long"] == await scanned(backend, "ns:")


@every
async def test_backend_set_replaces_the_time_to_live(backend: Any, case: Case) -> None:
    """The time to live belongs to the value that was stored last, also if that has none."""
    await backend.set("ns:a", b"old", ttl_ms=case.ttl_ms)
    await backend.set("ns:a", b"new")

    async def replace() -> None:
        await backend.set("ns:b", b"old", ttl_ms=case.ttl_ms)
        assert await backend.compare_and_set("ns:b", b"old", b"new", ttl_ms=60_000)

    await in_time(case.ttl_ms / 1000, replace)
    await anyio.sleep(case.gone_ms / 1000)
    assert [b"new", b"new"] == await backend.get_many(["ns:a", "ns:b"])


@every
async def test_backend_compares_before_it_sets(backend: Any) -> None:
    """The step that leases, pop and touch are built of."""
    assert not await backend.compare_and_set("ns:a", b"", b"new")
    await backend.set("ns:a", b"one")
    assert not await backend.compare_and_set("ns:a", b"two", b"new")
    assert not await backend.compare_and_set("ns:a", b"one\0", b"new")
    assert not await backend.compare_and_set("ns:a", b"two", None)
    assert [b"one"] == await backend.get_many(["ns:a"])
    assert await backend.compare_and_set("ns:a", b"one", b"two", ttl_ms=60_000)
    assert [b"two"] == await backend.get_many(["ns:a"])
    assert await backend.compare_and_set("ns:a", b"two", None)
    assert [None] == await backend.get_many(["ns:a"])
    assert not await backend.compare_and_set("ns:a", b"two", None)
    assert await backend.set("ns:a", b"three", if_absent=True)
    assert [b"three"] == await backend.get_many(["ns:a"])


@every
async def test_backend_lets_one_of_many_set_what_is_absent(backend: Any) -> None:
    """A lease that two hold is none."""
    won = await at_once(
        20, lambda n: backend.set("ns:lease", b"%d" % n, ttl_ms=60_000, if_absent=True)
    )
    assert 1 == won.count(True)
    assert 19 == won.count(False)
    [value] = await backend.get_many(["ns:lease"])
    assert 0 <= int(value) < 20


@every
async def test_backend_lets_one_of_many_replace(backend: Any) -> None:
    """As above; a pop that two succeed in gives one value to two callers."""
    await backend.set("ns:a", b"free")
    won = await at_once(20, lambda n: backend.compare_and_set("ns:a", b"free", b"%d" % n))
    assert 1 == won.count(True)
    [value] = await backend.get_many(["ns:a"])
    popped = await at_once(20, lambda n: backend.compare_and_set("ns:a", value, None))
    assert 1 == popped.count(True)
    assert [None] == await backend.get_many(["ns:a"])


@every
async def test_backend_scans_a_prefix(backend: Any, case: Case) -> None:
    """All of it and nothing else: what is left out is never cleared, what is too much is lost."""
    if not case.scans:
        from anyseal.errors import BackendError

        with pytest.raises(BackendError, match="list") as caught:
            await scanned(backend, "ns:")
        assert not caught.value.retryable
        return
    assert [] == await scanned(backend, "ns:")
    mine = sorted(f"ns:{number:04}:{{t}}" for number in range(case.scan_names))
    for name in mine:
        await backend.set(name, b"x", ttl_ms=60_000)
    others = ["ns", "n", "ns;a", "nt:", "NS:a", "xns:a", "n?:a", "*", "ns*[a]:b", "ns*[a]:"]
    for name in others:
        await backend.set(name, b"x")
    assert mine == await scanned(backend, "ns:")
    assert [mine[7]] == await scanned(backend, mine[7])
    assert ["ns*[a]:", "ns*[a]:b"] == await scanned(backend, "ns*[a]:")
    assert [] == await scanned(backend, "ns:?")
    assert sorted(mine + others) == await scanned(backend, "")


@every
async def test_backend_closes_twice(backend: Any) -> None:
    """Two owners may both clean up."""
    await backend.set("ns:a", b"x")
    await backend.aclose()
    await backend.aclose()


@ranged
async def test_backend_writes_and_reads_in_pieces(backend: Any) -> None:
    """Large values go through in pieces of at most 1 MiB, at offsets that fit no grid."""
    data = pattern(2 * MIB + 12_345)
    name, step = "ns:{x}:o", 700_001
    for at in range(0, len(data), step):
        await backend.put_range(name, at, data[at : at + step], ttl_ms=60_000)
    for offset, length in ((0, 1), (0, MIB), (step - 3, 7), (262_143, 2), (MIB, len(data))):
        assert data[offset : offset + length] == await backend.get_range(name, offset, length)
    assert data[-5:] == await backend.get_range(name, len(data) - 5, MIB)
    assert b"" == await backend.get_range(name, len(data), 10)
    assert b"" == await backend.get_range(name, len(data) + MIB, 10)
    assert b"" == await backend.get_range("ns:{x}:none", 0, 10)
    assert [data] == await backend.get_many([name])


@ranged
async def test_backend_overwrites_pieces(backend: Any) -> None:
    """A piece that is written again after a failure replaces what is there, and no more."""
    name, data = "ns:{x}:o", bytearray(pattern(600_000))
    await backend.put_range(name, 0, bytes(data), ttl_ms=60_000)
    for offset, size in ((0, 1), (262_100, 100), (599_999, 1), (600_000, 5), (0, 600_005)):
        piece = pattern(size, f"{offset}")
        data[offset : offset + size] = piece
        await backend.put_range(name, offset, piece, ttl_ms=60_000)
        assert [bytes(data)] == await backend.get_many([name])
    await backend.set(name, b"small")
    assert [b"small"] == await backend.get_many([name])
    assert b"al" == await backend.get_range(name, 2, 2)
    await backend.put_range(name, 5, b"er", ttl_ms=60_000)
    assert [b"smaller"] == await backend.get_many([name])
    assert await backend.compare_and_set(name, b"smaller", b"x")
    assert b"x" == await backend.get_range(name, 0, 10)


@ranged
async def test_backend_pieces_expire(backend: Any, case: Case) -> None:
    """What a writer that died has left must go by itself."""
    await backend.put_range("ns:{x}:t", 0, b"abc", ttl_ms=case.ttl_ms)
    await anyio.sleep(case.gone_ms / 1000)
    assert b"" == await backend.get_range("ns:{x}:t", 0, 3)
    assert not await backend.publish("ns:{x}:t", "ns:{x}:o", "ns:{x}:v", b"head", ttl_ms=None)
    assert [None, None] == await backend.get_many(["ns:{x}:o", "ns:{x}:v"])


@ranged
@pytest.mark.parametrize("ttl_ms", [None, 60_000])
async def test_backend_publishes_in_one_step(backend: Any, ttl_ms: int | None) -> None:
    """Name and object appear together; what they replace goes."""
    for round in range(2):
        data = pattern(300_000, str(round))
        await backend.put_range("ns:{x}:t", 0, data, ttl_ms=60_000)
        head = b"head %d" % round
        assert await backend.publish("ns:{x}:t", "ns:{x}:o", "ns:{x}:v", head, ttl_ms=ttl_ms)
        assert [None, data, head] == await backend.get_many(["ns:{x}:t", "ns:{x}:o", "ns:{x}:v"])
    assert not await backend.publish("ns:{x}:t", "ns:{x}:o", "ns:{x}:v", b"no", ttl_ms=ttl_ms)
    assert [data, head] == await backend.get_many(["ns:{x}:o", "ns:{x}:v"])
    assert 2 == await backend.delete_many(["ns:{x}:o", "ns:{x}:v", "ns:{x}:t"])
    assert [] == await scanned(backend, "ns:")


@ranged
async def test_backend_publish_sets_the_time_to_live(backend: Any, case: Case) -> None:
    """Both get the new one: not the temporary's, and not that of an entry replaced."""
    await backend.set("ns:{x}:v", b"old", ttl_ms=60_000)
    await backend.put_range("ns:{x}:t", 0, b"abc", ttl_ms=60_000)
    names = ["ns:{x}:o", "ns:{x}:v"]
    assert await backend.publish("ns:{x}:t", *names, b"head", ttl_ms=case.ttl_ms)
    await anyio.sleep(case.gone_ms / 1000)
    assert [None, None] == await backend.get_many(names)

    async def publish() -> None:
        await backend.put_range("ns:{x}:t", 0, b"abc", ttl_ms=case.ttl_ms)
        assert await backend.publish("ns:{x}:t", *names, b"head", ttl_ms=None)

    await in_time(case.ttl_ms / 1000, publish)
    await anyio.sleep(case.gone_ms / 1000)
    assert [b"abc", b"head"] == await backend.get_many(names)


@ranged
async def test_backend_readers_see_the_old_or_the_new(backend: Any) -> None:
    """Never a head without its object, nor one of each."""
    names = ["ns:{x}:o", "ns:{x}:v"]
    done = anyio.Event()
    seen: set[tuple[bytes, bytes]] = set()

    async def publish(round: int) -> None:
        label = b"%03d" % round
        await backend.put_range("ns:{x}:t", 0, label * 1000, ttl_ms=60_000)
        assert await backend.publish("ns:{x}:t", *names, label, ttl_ms=60_000)

    async def write() -> None:
        for round in range(1, 30):
            await publish(round)
            await anyio.sleep(0)
        done.set()

    async def read() -> None:
        while not done.is_set():
            found, head = await backend.get_many(names)
            seen.add((found[:3], head))
            assert head * 1000 == found
            await anyio.sleep(0)

    await publish(0)
    async with anyio.create_task_group() as group:
        group.start_soon(write)
        for _ in range(3):
            group.start_soon(read)
    assert seen


@ranged
async def test_backend_settles_a_lease_that_holds(backend: Any, case: Case) -> None:
    """One step: who lost the lease, however late, stores nothing."""
    name, lock, beside = "a:{k}", "a:{k}l", "a:{k}o"
    assert (True, None) == await backend.take_lease(lock, b"one", name, ttl_ms=60_000)
    assert (False, None) == await backend.take_lease(lock, b"two", name, ttl_ms=60_000)
    assert not await backend.settle(name, b"2", lock, b"two", others=[beside], ttl_ms=60_000)
    assert [None, b"one"] == await backend.get_many([name, lock])
    await backend.set(beside, b"object")
    assert await backend.settle(name, b"1", lock, b"one", others=[beside], ttl_ms=60_000)
    assert [b"1", None, None] == await backend.get_many([name, lock, beside])
    assert not await backend.settle(name, b"again", lock, b"one")
    assert (True, b"1") == await backend.take_lease(lock, b"three", name, ttl_ms=case.ttl_ms)
    await anyio.sleep(case.gone_ms / 1000)
    assert not await backend.settle(name, b"too late", lock, b"three"), "it ended"
    assert [b"1"] == await backend.get_many([name])
    assert (True, b"1") == await backend.take_lease(lock, b"four", name, ttl_ms=60_000)
    assert await backend.settle(name, b"4", lock, b"four", ttl_ms=case.ttl_ms)
    await anyio.sleep(case.gone_ms / 1000)
    assert [None] == await backend.get_many([name])


@ranged
async def test_backend_sets_and_deletes_what_is_beside(backend: Any, case: Case) -> None:
    """What belongs to an entry goes with it, and is not counted."""
    names = ["a:{k}", "a:{n}"]
    others = [name + suffix for suffix in "lo" for name in names]
    for name in (*names, *others):
        await backend.set(name, b"x")
    assert await backend.set_and_delete(names[0], b"y", [names[0] + "l"])
    assert [b"y", None, b"x"] == await backend.get_many([names[0], names[0] + "l", names[0] + "o"])
    assert 2 == await backend.delete_beside([*names, "a:{none}"], others)
    assert [None] * 6 == await backend.get_many([*names, *others])
    assert 0 == await backend.delete_beside(names, [])
    assert await backend.set_and_delete(names[0], b"y", [], ttl_ms=case.ttl_ms)
    await anyio.sleep(case.gone_ms / 1000)
    assert [None] == await backend.get_many(names[:1])


async def test_backend_traits_are_what_a_backend_says() -> None:
    """Who writes a backend says only what is not usual, in plain attributes."""

    class Silent:
        pass

    class Lists:
        can_scan = False

    assert BackendTraits(can_scan=True, enforces_timeout=False) == BackendTraits.of(Silent())
    assert BackendTraits(can_scan=False) == BackendTraits.of(Lists())
    assert BackendTraits(enforces_timeout=True) == BackendTraits.of(MemoryBackend())
