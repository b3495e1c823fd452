"""Both API styles, async and sync, with log, metrics and audit hooks. Run: python sample.py"""

import asyncio
import logging
import secrets
from collections import Counter

import anyseal
from anyseal import sync
from anyseal.ports import AuditEvent, CacheEvent, TimingEvent

SETTINGS = {  # for trying out: these keys end with the process
    "ServiceName": "sample",
    "ProductID": "examples",
    "Metastore": "memory",
    "KMS": "static",
    "StaticMasterKeyHex": secrets.token_hex(32),
}
counts: Counter[str] = Counter()
trail: list[AuditEvent] = []


def count(event: TimingEvent | CacheEvent) -> None:
    """The metrics hook: called with each event, in the thread that caused it."""
    if isinstance(event, TimingEvent):
        counts[event.operation] += 1  # event.duration_ns has its time
    else:
        counts[f"{event.cache} {event.outcome}"] += 1


class LogHook(logging.Handler):
    """The log hook: anyseal logs through ``logging``, under ``anyseal``."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"[{record.name} {record.levelname}] {record.getMessage()}")


async def with_sessions() -> None:
    """Sessions: records in the Asherah format."""
    factory = anyseal.SessionFactory.from_config(SETTINGS, metrics=count, audit=trail.append)
    async with factory:
        session = factory.session("user-42")
        row = await session.encrypt_text("a record")
        assert await session.decrypt_text(row) == "a record"
        try:
            await factory.session("user-43").decrypt(row)
        except anyseal.WrongPartitionError as error:
            print("another partition:", error)
        # The same keys seal values and objects.
        keys = factory.hierarchy
        token = await anyseal.seal(b"a value", keys, partition="user-42", context=b"sample")
        assert await anyseal.open(token, keys, partition="user-42", context=b"sample") == b"a value"


def without_await() -> None:
    """The same in sync; values and objects under a master key."""
    with sync.SessionFactory.from_config(SETTINGS, metrics=count) as factory:
        session = factory.session("user-42")
        assert session.decrypt(session.encrypt(b"")) == b""  # empty data is data
    keys, sink = sync.StaticKeyring(secrets.token_hex(32)), sync.MemorySink()
    with sync.ObjectWriter(sink, keys, partition="user-42") as writer:
        writer.write(bytes(1_000_000))
    source = sync.MemorySource(sink.getvalue())
    with sync.ObjectReader.open(source, keys, partition="user-42") as reader:
        print("a range:", len(reader.read_range(500_000, 500_100)), "of", reader.size, "bytes")


if __name__ == "__main__":
    logging.getLogger("anyseal").addHandler(LogHook())
    asyncio.run(with_sessions())
    without_await()
    print("metrics:", dict(counts))
    print("audit:", [(event.operation, event.outcome) for event in trail])
