"""The exchanges of one event loop with a Redis cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from redis import exceptions as redis_errors
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from anyseal.cache.backends._redis_answers import checked
from anyseal.cache.backends._redis_batches import Batches, Outcome, Request
from anyseal.cache.backends._redis_commands import (
    Command,
    backend_error,
    elsewhere,
    routed_by,
)
from anyseal.cache.backends._redis_lines import Lines, pack
from anyseal.cache.backends._redis_server import Connect, outcome, pages
from anyseal.errors import BackendError

__all__ = ["Cluster"]

DOWN_SECONDS: Final = 1.0
"""So long nobody looks again for who serves the slots of a node that is down."""


class _MovedError(BackendError):
    """The node does not serve this slot, or not alone: redis-py knows how to find who does."""


class _LostError(BackendError):
    """There is no connection to the node."""


class _NodePool:
    """Connections to one node. redis-py's own pool of a node has no public way back into it."""

    def __init__(self, node: Any) -> None:
        self._node = node

    def connection(self, **settings: Any) -> Any:
        """A new connection, like those that redis-py makes itself."""
        retry = Retry(NoBackoff(), 0)
        kwargs = {**self._node.connection_kwargs, "retry": retry, **settings}
        return self._node.connection_class(**kwargs)

    async def get_connection(self) -> Any:
        connection = self.connection()
        await connection.connect()
        return connection

    async def release(self, connection: Any, /) -> None:
        await connection.disconnect()


class _Node:
    """One node: what hinders it hinders no other."""

    def __init__(self, node: Any, timeout: float) -> None:
        self._timeout = timeout
        self._batches = Batches(self._exchange, timeout)
        self._lines = Lines(_NodePool(node), self._batches.spawn, lease_seconds=300.0)
        self.ask = self._batches.ask

    async def _exchange(self, requests: Sequence[Request]) -> list[Outcome]:
        commands: list[Command] = []
        repeatable = True
        for request in requests:
            # MGET wants names of one slot.
            commands.extend(("GET", name) for name in request.names)
            commands.extend(request.commands)
            repeatable = repeatable and request.repeatable
        verb = requests[0].verb
        packed = pack(commands)
        try:
            async with asyncio.timeout(self._timeout):
                replies = await self._lines.replies(commands, packed, repeatable=repeatable)
        except BackendError:
            raise
        except Exception as exc:
            error = backend_error(verb, exc)
            lost = isinstance(exc, redis_errors.ConnectionError) and error.retryable
            raise (_LostError(*error.args) if lost else error) from None
        outcomes = []
        at = 0
        for request in requests:
            end = at + (len(request.names) or len(request.commands))
            outcomes.append(_outcome(request, replies[at:end]))
            at = end
        return outcomes

    async def aclose(self) -> None:
        await self._batches.settle()
        self._lines.drop()
        await self._batches.settle()


class Cluster:
    """All nodes of a cluster. Belongs to the event loop that it was made in."""

    def __init__(self, client: Any, timeout: float) -> None:
        self.client = client
        self._timeout = timeout
        self._nodes: dict[str, _Node] = {}
        self._searches: dict[str, tuple[float, asyncio.Task[bool]]] = {}

    async def ask(self, request: Request) -> Outcome:
        """The answer to *request*, from the nodes that it concerns. Raises BackendError."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._answer(request)
        except TimeoutError as exc:  # of all steps together: looking for the nodes, asking them
            raise backend_error(request.verb, exc) from None

    async def _answer(self, request: Request) -> Outcome:
        parts = await self._parts(request)
        if len(parts) == 1:
            return await self._ask(*parts[0][:2])
        answers = await asyncio.gather(
            *(self._ask(node, part) for node, part, _ in parts), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        whole: list[Any] = [None] * (len(request.names) or len(request.commands))
        for (_, _, places), answer in zip(parts, answers, strict=True):
            for place, reply in zip(places, answer, strict=True):  # type: ignore[arg-type]
                whole[place] = reply
        return whole

    async def _parts(self, request: Request) -> list[tuple[Any, Request, list[int]]]:
        """*request* divided by the nodes that it concerns, and which places each part fills."""
        try:
            async with asyncio.timeout(self._timeout):
                await self.client.initialize()
            if len(request.names) + len(request.commands) == 1:
                return [(self._node(request), request, [0])]
            places: dict[str, tuple[Any, list[int]]] = {}
            keys = request.names or [routed_by(command) for command in request.commands]
            for place, key in enumerate(keys):
                node = self.client.get_node_from_key(key)
                places.setdefault(node.name, (node, []))[1].append(place)
        except Exception as exc:
            raise backend_error(request.verb, exc) from None
        return [
            (node, _part(request, some) if len(places) > 1 else request, some)
            for node, some in places.values()
        ]

    def _node(self, request: Request) -> Any:
        name = request.names[0] if request.names else routed_by(request.commands[0])
        return self.client.get_node_from_key(name)

    async def _ask(self, node: Any, request: Request) -> Outcome:
        """Ask the node that should know, then whoever redis-py finds instead."""
        try:
            return await self._at(node).ask(request)
        except _MovedError:
            return await self._search(request)
        except _LostError:
            if not request.repeatable or not await self._found(node, request):
                raise
        return await self._search(request)

    def _at(self, node: Any) -> _Node:
        held = self._nodes.get(node.name)
        if held is None:
            held = self._nodes[node.name] = _Node(node, self._timeout)
        return held

    async def _search(self, request: Request) -> Outcome:
        """Let redis-py follow the redirections of each command."""
        commands = request.commands or [("GET", name) for name in request.names]
        try:
            async with asyncio.timeout(self._timeout):
                replies = [await self.client.execute_command(*command) for command in commands]
        except Exception as exc:
            raise backend_error(request.verb, exc) from None
        return [checked(command, reply) for command, reply in zip(commands, replies, strict=True)]

    async def _found(self, node: Any, request: Request) -> bool:
        """Whether the slots of a node that is gone are served; asked once for all callers."""
        loop = asyncio.get_running_loop()
        since, search = self._searches.get(node.name, (0.0, None))
        if search is None or (search.done() and loop.time() > since + DOWN_SECONDS):
            name = request.names[0] if request.names else routed_by(request.commands[0])
            search = loop.create_task(self._served(name))
            self._searches[node.name] = (loop.time(), search)
        return await asyncio.shield(search)

    async def _served(self, name: str) -> bool:
        try:
            async with asyncio.timeout(self._timeout):
                await self.client.execute_command("EXISTS", name)
        except Exception:
            return False
        return True

    @staticmethod
    def unlinks(names: Sequence[str]) -> list[Command]:
        """The commands that delete *names*, which may be of different slots."""
        return [("UNLINK", name) for name in names]

    async def scan(self, prefix: str) -> AsyncIterator[list[str]]:
        """The names that begin with *prefix*, from all masters, a page at a time."""
        for node in await self._primaries():
            async for names in pages(self._at(node).ask, prefix, self._timeout, clustered=True):
                yield names

    async def _primaries(self) -> Sequence[Any]:
        try:
            async with asyncio.timeout(self._timeout):
                await self.client.initialize()
        except Exception as exc:
            raise backend_error("CLUSTER", exc) from None
        found: Sequence[Any] = self.client.get_primaries()
        return found

    async def feeds(self) -> dict[str, Connect]:
        """What makes connections to each server that keeps entries, by the server's name."""
        return {node.name: _NodePool(node).connection for node in await self._primaries()}

    async def aclose(self) -> None:
        """Close the connections that are kept at hand."""
        for _, search in self._searches.values():
            search.cancel()
        self._searches.clear()
        nodes, self._nodes = self._nodes, {}
        for node in nodes.values():
            await node.aclose()


def _part(request: Request, places: Sequence[int]) -> Request:
    """Some of *request*."""
    return Request(
        [request.names[place] for place in places] if request.names else (),
        [request.commands[place] for place in places] if request.commands else (),
        size=request.size,
        repeatable=request.repeatable,
    )


def _outcome(request: Request, replies: list[Any]) -> Outcome:
    for place, reply in enumerate(replies):
        if isinstance(reply, Exception):
            if elsewhere(reply):
                return _MovedError(*backend_error(request.verb, reply).args)
            if request.names and str(reply).startswith("WRONGTYPE"):
                replies[place] = None  # as with MGET: what is not a string is not there
    return outcome(request, replies)
