"""Keyrings that must wait for their keys: awaited, or through the one portal of the sync side."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

import anyseal
from anyseal import (
    Key,
    MemorySink,
    MemorySource,
    WrongKeyError,
    offload,
    sync,
)
from support import (
    READERS,
    SMALL,
    Stream,
    a_key,
    outcome,
    run_python,
    said,
    seal_bytes,
)


class RemoteKeyring:
    """Stands for a key service: nothing is ever at hand, and every answer has to be awaited."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    async def _answer(self, partition: str) -> Key:
        import anyio

        await anyio.sleep(0.001)
        self.threads.append(threading.get_ident())
        return a_key(partition)

    async def current(self, partition: str) -> Key:
        return await self._answer(partition)

    async def get(self, partition: str, key_id: bytes) -> Key:
        key = await self._answer(partition)
        if key.key_id != key_id:
            raise WrongKeyError("unknown")
        return key

    def current_hit(self, partition: str) -> Key | None:
        return None

    def get_hit(self, partition: str, key_id: bytes) -> Key | None:
        return None


@pytest.mark.anyio
async def test_remote_keyring_is_awaited() -> None:
    """In the caller's own loop: no second one."""
    ring = RemoteKeyring()
    sealed = await anyseal.seal(b"x", ring, partition="p")
    assert b"x" == await anyseal.open(sealed, ring, partition="p")
    buffer = bytearray(200)
    size = await anyseal.seal_into(buffer, b"x", ring, partition="p")
    assert 1 == await anyseal.open_into(bytearray(1), buffer[:size], ring, partition="p")
    with pytest.raises(WrongKeyError):
        await anyseal.open(sealed, ring, partition="q")
    sink = MemorySink()
    async with anyseal.ObjectWriter(sink, ring, partition="p", **SMALL) as writer:
        await writer.write(b"data")
    whole = sink.getvalue()
    opened = await anyseal.ObjectReader.open(MemorySource(whole), ring, partition="p")
    async with opened as reader:
        assert b"data" == await reader.read_range(0)
    stream = anyseal.StreamOpener(ring, partition="p").open(Stream(whole, 100))
    assert b"data" == b"".join([piece async for piece in stream])
    with pytest.raises(WrongKeyError):
        await anyseal.ObjectReader.open(MemorySource(whole), ring, partition="q")
    assert {threading.get_ident()} == set(ring.threads)


def test_remote_keyring_from_sync_uses_one_portal() -> None:
    """One loop for the whole process, however many threads and keyrings ask."""
    rings = [RemoteKeyring(), RemoteKeyring()]
    values: list[bytes] = []

    def work(ring: RemoteKeyring) -> None:
        sealed = sync.seal(b"x", ring, partition="p")
        assert b"x" == sync.open(sealed, ring, partition="p")
        whole = seal_bytes(b"data", ring, partition="p")
        for reader in READERS.values():
            assert b"data" == reader(whole, ring, partition="p")
        assert "WrongKeyError" == outcome(sync.open, sealed, ring, partition="q")
        values.append(sealed)

    threads = [threading.Thread(target=work, args=(rings[i % 2],)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 8 == len(values)
    used = {ident for ring in rings for ident in ring.threads}
    assert 1 == len(used)
    assert not used & {threading.get_ident()}
    assert offload._process.portal is not None


def test_remote_keyring_works_in_a_forked_child() -> None:
    """The parent's loop does not exist in the child: waiting for it would hang for ever."""
    code = """
        import os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside a thread, from 3.12
        from test_keyrings_remote import RemoteKeyring
        from anyseal import sync
        ring = RemoteKeyring()
        sealed = sync.seal(b"x", ring, partition="p")
        if os.fork() == 0:
            ok = sync.open(sealed, ring, partition="p") == b"x"
            os._exit(0 if ok else 1)
        print(os.wait()[1], sync.open(sealed, ring, partition="p"))
    """
    assert ["0 b'x'"] == said(run_python(code))


def test_static_keyring_never_starts_a_loop() -> None:
    """The sync side must stay usable where threads are unwelcome."""
    code = """
        import threading
        from anyseal import StaticKeyring, sync
        ring = StaticKeyring(bytes(32))
        for call in (lambda: sync.open(sync.seal(b"x", ring, partition="p"), ring, partition="p"),):
            assert call() == b"x"
        print(threading.active_count())
    """
    assert ["1"] == said(run_python(code))


def test_keyring_type_errors_name_the_type() -> None:
    """A dict of keys is what many try first."""
    calls: list[Callable[[], object]] = [
        lambda: sync.seal(b"", {"p": a_key()}, partition="p"),  # type: ignore[arg-type]
        lambda: sync.ObjectWriter(MemorySink(), {}, partition="p"),  # type: ignore[arg-type]
        lambda: sync.StreamOpener({}, partition="p"),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(TypeError, match="Key or a Keyring, not dict"):
            call()
