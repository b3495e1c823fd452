"""Redis tells which entries changed: client-side caching in broadcast mode (asyncio only)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final

from redis import exceptions as redis_errors
from redis.asyncio import connection as redis_connection

from anyseal.cache.backends._redis_commands import FAILURES, scanned
from anyseal.cache.backends._redis_server import Connect
from anyseal.errors import BackendError

__all__ = ["changes"]

Change = list[str] | None
Feeds = Callable[[], Awaitable[dict[str, Connect]]]

PING_SECONDS: Final = 10.0
"""After so long without news the server is asked whether it is there."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
HELD_CHANGES: Final = 1000


class _Parser(redis_connection.DefaultParser):  # type: ignore[misc,valid-type]
    """Hands out what redis-py would only pass to its own client-side cache."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.set_invalidation_push_handler(self._invalidated)

    async def _invalidated(self, response: Any) -> Any:
        return response


async def _listen(connect: Connect, prefix: str, timeout: float) -> AsyncGenerator[Change, None]:
    """What one server tells, for as long as the connection holds."""
    connection = connect(
        protocol=3, parser_class=_Parser, socket_timeout=None, socket_connect_timeout=timeout
    )
    try:
        async with asyncio.timeout(timeout):
            await connection.connect()
            tracking = ("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", prefix)
            await connection.send_command(*tracking)
            await connection.read_response()
        yield None
        asked = False
        while True:
            # Runs out without an error, and reads on where it stopped.
            news = await connection.read_response(timeout=PING_SECONDS, push_request=True)
            if isinstance(news, list) and len(news) == 2 and news[0] == b"invalidate":
                yield None if news[1] is None else _names(news[1])
            elif news is not None:
                asked = False
            elif asked:
                raise redis_errors.TimeoutError
            else:
                async with asyncio.timeout(timeout):
                    await connection.send_command("PING", check_health=False)
                asked = True
    finally:
        with contextlib.suppress(*FAILURES):
            await connection.disconnect(nowait=True)


def _names(told: Any) -> list[str] | None:
    """The names in a message; None, as if some were missed, for one that is none of Redis's."""
    if isinstance(told, list) and all(isinstance(name, bytes) for name in told):
        return scanned(told)
    return None


async def _follow(connect: Connect, prefix: str, timeout: float) -> AsyncGenerator[Change, None]:
    """The same for good. None also when a connection is lost and with each vain attempt: what is
    held in the meantime goes unwatched, and must not get old."""
    pause = FIRST_PAUSE
    while True:
        with contextlib.suppress(
            Exception
        ):  # redis-py raises what it likes for what it cannot read
            async with contextlib.aclosing(_listen(connect, prefix, timeout)) as told:
                async for change in told:
                    pause = FIRST_PAUSE
                    yield change
        yield None
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


class _Merged:
    """What several servers tell, in one queue. Who does not keep up hears None instead."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Change] = asyncio.Queue(HELD_CHANGES)
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def put(self, change: Change) -> None:
        if self.queue.full():
            while not self.queue.empty():
                self.queue.get_nowait()
            change = None
        self.queue.put_nowait(change)

    async def feed(self, changes: AsyncGenerator[Change, None]) -> None:
        async for change in changes:
            self.put(change)

    def adjust(self, feeds: dict[str, Connect], prefix: str, timeout: float) -> None:
        """Listen to exactly these servers."""
        for name in self.tasks.keys() - feeds.keys():
            self.tasks.pop(name).cancel()
            self.put(None)
        for name in feeds.keys() - self.tasks.keys():
            work = self.feed(_follow(feeds[name], prefix, timeout))
            self.tasks[name] = asyncio.create_task(work)


async def changes(
    feeds: Feeds, prefix: str, *, several: bool, timeout: float
) -> AsyncGenerator[Change, None]:
    """What the servers tell about names below *prefix*, for as long as it is listened to."""
    if not several:
        (connect,) = (await feeds()).values()
        async with contextlib.aclosing(_follow(connect, prefix, timeout)) as told:
            async for change in told:
                yield change
    merged = _Merged()
    try:
        while True:
            try:
                merged.adjust(await feeds(), prefix, timeout)
            except BackendError:
                merged.put(None)
            until = asyncio.get_running_loop().time() + LONGEST_PAUSE
            with contextlib.suppress(TimeoutError):
                while True:
                    async with asyncio.timeout_at(until):
                        change = await merged.queue.get()
                    yield change
    finally:
        for task in merged.tasks.values():
            task.cancel()
        await asyncio.gather(*merged.tasks.values(), return_exceptions=True)
