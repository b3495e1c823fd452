"""The exchanges of one event loop with one Redis server, or Sentinel's master."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from anyseal.cache.backends._redis_answers import Pages
from anyseal.cache.backends._redis_batches import Batches, Outcome, Request
from anyseal.cache.backends._redis_commands import (
    Command,
    backend_error,
    chunked,
)
from anyseal.cache.backends._redis_lines import Lines, pack
from anyseal.errors import BackendError

__all__ = ["Ask", "Connect", "Server", "outcome", "pages"]

Ask = Callable[[Request], Awaitable[Outcome]]
Connect = Callable[..., Any]


class Server:
    """One server. Belongs to the event loop that it was made in."""

    def __init__(self, client: Any, timeout: float) -> None:
        self.client = client
        self._timeout = timeout
        self._batches = Batches(self._exchange, timeout)
        self._lines = Lines(client.connection_pool, self._batches.spawn)
        self.ask = self._batches.ask

    async def _exchange(self, requests: Sequence[Request]) -> list[Outcome]:
        """Send all of *requests* at once and read the answers."""
        names: Sequence[str]
        if len(requests) == 1:
            names = requests[0].names
        else:
            names = [name for request in requests for name in request.names]
        commands: list[Command] = [("MGET", *some) for some in chunked(names)]
        gets = len(commands)
        repeatable = True
        for request in requests:
            commands.extend(request.commands)
            repeatable = repeatable and request.repeatable
        packed = pack(commands)
        try:
            async with asyncio.timeout(self._timeout):
                replies = await self._lines.replies(commands, packed, repeatable=repeatable)
        except BackendError:
            raise
        except Exception as exc:  # redis-py raises what it likes for what it cannot read
            raise backend_error(requests[0].verb, exc) from None
        return _outcomes(requests, replies, gets)

    @staticmethod
    def unlinks(names: Sequence[str]) -> list[Command]:
        """The commands that delete *names*."""
        return [("UNLINK", *some) for some in chunked(names)]

    def scan(self, prefix: str) -> AsyncIterator[list[str]]:
        """The names that begin with *prefix*, a page at a time."""
        return pages(self.ask, prefix, self._timeout)

    async def feeds(self) -> dict[str, Connect]:
        """What makes connections to each server that keeps entries, by the server's name."""
        pool = self.client.connection_pool

        def connect(**settings: Any) -> Any:
            return pool.connection_class(**{**pool.connection_kwargs, **settings})

        return {"": connect}

    async def aclose(self) -> None:
        """Give all connections back to the pool."""
        await self._batches.settle()
        self._lines.drop()
        await self._batches.settle()


async def pages(
    ask: Ask, prefix: str, timeout: float, *, clustered: bool = False
) -> AsyncIterator[list[str]]:
    """The names on one server that begin with *prefix*."""
    pages = Pages(prefix, timeout, clustered=clustered)
    while pages.more:
        (answer,) = await ask(Request(commands=[pages.command]))
        names = pages.take(answer)
        if pages.overdue:
            (size,) = await ask(Request(commands=[("DBSIZE",)]))
            pages.limit(size)
        if names:
            yield names


def _outcomes(requests: Sequence[Request], replies: list[Any], gets: int) -> list[Outcome]:
    """Each request's part of the answers."""
    failed = next((reply for reply in replies[:gets] if isinstance(reply, Exception)), None)
    if len(requests) == 1 and gets == 1 and failed is None:
        return [replies[0]]
    values = [] if failed else [value for reply in replies[:gets] for value in reply]
    outcomes: list[Outcome] = []
    at, position = 0, gets
    for request in requests:
        if request.names:
            end = at + len(request.names)
            outcomes.append(backend_error("MGET", failed) if failed else values[at:end])
            at = end
        else:
            end = position + len(request.commands)
            outcomes.append(outcome(request, replies[position:end]))
            position = end
    return outcomes


def outcome(request: Request, replies: list[Any]) -> Outcome:
    """The answers to a request's commands, or its failure."""
    for reply in replies:
        if isinstance(reply, Exception):
            return backend_error(request.verb, reply)
    return replies
