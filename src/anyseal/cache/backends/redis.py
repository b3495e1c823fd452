"""Entries in Redis: one server, Sentinel's master, or a cluster (extra ``redis``; asyncio only)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from time import monotonic
from typing import Any

from anyseal.cache.backends import _redis_commands as commands
from anyseal.cache.backends._redis_batches import Request
from anyseal.cache.backends._redis_bounds import bound
from anyseal.cache.backends._redis_changes import changes
from anyseal.cache.backends._redis_clients import (
    check_client,
    is_cluster,
    make_client,
    with_sentinels,
)
from anyseal.cache.backends._redis_cluster import Cluster
from anyseal.cache.backends._redis_server import Server
from anyseal.cache.backends.redis_blocking import BlockingRedisBackend
from anyseal.errors import ConfigurationError
from anyseal.loops import PerLoop

__all__ = ["BlockingRedisBackend", "RedisBackend"]


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError("redis-py runs on asyncio only") from None


class RedisBackend:
    """Keeps entries in Redis; implements RangedBackend, LeasingBackend and
    WatchedBackend.

    What is asked for in one turn of the event loop goes to Redis at once: the gets as one MGET
    (to each node of a cluster its GETs), sets and others beside it in the same write.

    Args:
        client: A ``redis.asyncio.Redis`` (also Sentinel's ``master_for``) or ``RedisCluster``,
            without ``decode_responses``. It belongs to one event loop, must not be used after a
            fork, and is not closed. Its connections from now on take no larger answers than an
            entry or a page of names can have.
        timeout: Seconds that any one call may take, connecting included; above 0, at most 300.

    Raises:
        ConfigurationError: A client of another kind, or one that decodes answers.

    Cost: beside redis-py's own GET, a turn of the loop and no pooled connection to fetch and
    return. At most 8 connections are under way at a time; a batch carries up to 500 requests or
    about 2 MiB.
    """

    enforces_timeout = True

    def __init__(self, client: Any, *, timeout: float = 5.0) -> None:
        check_client(client, blocking=False)
        self._setup(lambda: client, timeout, owned=False)

    @classmethod
    def from_url(cls, url: str, *, timeout: float = 5.0, **settings: Any) -> RedisBackend:
        """A backend that makes a client for each event loop that it is used in, also after a fork.

        Args:
            url: ``redis://[user:password@]host:port/db``, ``rediss://...`` (TLS),
                ``unix:///path?db=0``, ``redis+cluster://host:port``, or
                ``redis+sentinel://host:port,host:port/service/db``.
            timeout: Seconds that any one call may take; above 0, at most 300.
            settings: For redis-py's client, such as ``ssl_ca_certs`` or ``max_connections``.

        Raises:
            ConfigurationError: The URL or a setting cannot be used. Nothing connects yet.
        """

        def make() -> Any:
            client = make_client(
                url, blocking=False, timeout=commands.patience(timeout), **settings
            )
            check_client(client, blocking=False)
            return client

        make()  # finds a wrong setting now
        backend = cls.__new__(cls)
        backend._setup(make, timeout, owned=True)
        return backend

    def _setup(self, make: Callable[[], Any], timeout: float, *, owned: bool) -> None:
        self._owned = owned
        self._timeout = patience = commands.patience(timeout)

        def connect() -> Server | Cluster:
            client = make()
            bound(client, blocking=False)
            return (Cluster if is_cluster(client) else Server)(client, patience)

        self._servers: PerLoop[Server | Cluster] = PerLoop(connect, _running_loop)

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """The values, in the order of *names*; None for what is not there. Raises BackendError."""
        if not names:
            return []
        found: list[bytes | None] = await self._servers.get().ask(Request(names))
        return found

    async def set(
        self, name: str, value: bytes, *, ttl_ms: int | None = None, if_absent: bool = False
    ) -> bool:
        """Store *value*; with *if_absent* only if there is none. Raises BackendError.

        A connection that breaks in the middle of an *if_absent* is an error, not a second attempt:
        nobody knows who won.
        """
        command = commands.set_command(name, value, ttl_ms, if_absent)
        request = Request(commands=(command,), size=len(value), repeatable=not if_absent)
        (answer,) = await self._servers.get().ask(request)
        return bool(answer)

    async def compare_and_set(
        self, name: str, expected: bytes, value: bytes | None, *, ttl_ms: int | None = None
    ) -> bool:
        """Replace *expected* by *value* (None: delete) in one step. Raises BackendError."""
        return bool(await self._script(commands.cas(name, expected, value, ttl_ms)))

    async def delete_many(self, names: Sequence[str]) -> int:
        """Delete what is there of *names*; how many that were. Raises BackendError."""
        if not names:
            return 0
        here = self._servers.get()
        answers: list[int] = await here.ask(Request(commands=here.unlinks(names)))
        return sum(answers)

    async def take_lease(
        self, lock: str, owner: bytes, name: str, *, ttl_ms: int
    ) -> tuple[bool, bytes | None]:
        """Store *owner* under *lock* if there is none, and say what is under *name*, in one
        exchange. Raises BackendError."""
        taking = commands.set_command(lock, owner, ttl_ms, True)
        request = Request(commands=(taking, ("GET", name)), repeatable=False)
        taken, found = await self._servers.get().ask(request)
        return bool(taken), found

    async def settle(
        self, name: str, value: bytes, lock: str, owner: bytes, *,
        others: Sequence[str] = (), ttl_ms: int | None = None,
    ) -> bool:  # fmt: skip
        """If *lock* is *owner*'s, store *value* and delete *lock* and *others*, in one step;
        whether it was. Raises BackendError."""
        command = commands.settle(name, value, lock, owner, others, ttl_ms)
        # Made twice it says no, which is what one says of a lease that may be lost.
        return bool(await self._script(command, repeatable=True))

    async def set_and_delete(
        self, name: str, value: bytes, others: Sequence[str], *, ttl_ms: int | None = None
    ) -> bool:
        """Delete *others*, then store *value*, in one exchange. Raises BackendError."""
        storing = commands.set_command(name, value, ttl_ms, False)
        both = (("UNLINK", *others), storing) if others else (storing,)
        answers = await self._servers.get().ask(Request(commands=both, size=len(value)))
        return bool(answers[-1])

    async def delete_beside(self, names: Sequence[str], others: Sequence[str]) -> int:
        """Delete *others*, then *names*, in one exchange; how many of *names* were there. Raises
        BackendError."""
        here = self._servers.get()
        first = here.unlinks(others)
        answers: list[int] = await here.ask(Request(commands=[*first, *here.unlinks(names)]))
        return sum(answers[len(first) :])

    async def exchange(
        self, *some: commands.Command, size: int = 0, repeatable: bool = True
    ) -> list[Any]:
        """The answers to several commands that are sent at once, such as SET beside SADD.

        Args:
            some: Those that a cache sends; in a cluster they go to the node of each one's name.
            size: Bytes of their values, about.
            repeatable: False if a connection that breaks must be an error, not a second attempt.

        Raises:
            BackendError: One of them failed.
        """
        request = Request(commands=some, size=size, repeatable=repeatable)
        answers: list[Any] = await self._servers.get().ask(request)
        return answers

    def scan(self, prefix: str) -> AsyncIterator[list[str]]:
        """The names that begin with *prefix*, in lists of some 1000, perhaps twice."""
        return self._servers.get().scan(prefix)

    async def put_range(self, name: str, offset: int, data: bytes, *, ttl_ms: int) -> None:
        """Write up to 1 MiB at *offset*. Raises BackendError, also for what would leave a gap."""
        commands.check_piece(len(data))
        command = commands.put_range(name, offset, data, ttl_ms)
        commands.written(await self._script(command, repeatable=True))

    async def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Up to *length* bytes from *offset*. Raises BackendError."""
        if length < 1:
            return b""
        command = commands.get_range(name, offset, length)
        (found,) = await self._servers.get().ask(Request(commands=(command,)))
        return bytes(found)

    async def publish(
        self, temporary: str, final: str, name: str, value: bytes, *, ttl_ms: int | None
    ) -> bool:
        """Rename *temporary* to *final* and store *value* under *name*, in one step. Raises
        BackendError; whether a publication whose connection broke was made, nobody knows."""
        return bool(await self._script(commands.publish(temporary, final, name, value, ttl_ms)))

    async def _script(self, command: commands.Command, *, repeatable: bool = False) -> Any:
        """Run a script, with its source if Redis does not have it yet."""
        size = sum(len(part) for part in command if isinstance(part, bytes))
        here = self._servers.get()
        until = monotonic() + self._timeout
        try:
            request = Request(commands=(command,), size=size, repeatable=repeatable)
            (answer,) = await here.ask(request)
        except commands.ScriptMissingError:
            whole = commands.with_source(command)
            request = Request(commands=(whole,), size=size, repeatable=repeatable)
            try:
                async with asyncio.timeout(until - monotonic()):
                    (answer,) = await here.ask(request)
            except TimeoutError as exc:
                raise commands.backend_error(request.verb, exc) from None
        return answer

    def changes(self, prefix: str) -> AsyncIterator[list[str] | None]:
        """Names below *prefix* that changed or went, as Redis tells it; None when some may have
        been missed: with each new connection, each that was lost, and each vain attempt.

        Needs a connection of its own (to each master of a cluster), and Redis 6. What expires is
        told when Redis removes it. Reconnects by itself; ends when it is closed or cancelled.
        """
        here = self._servers.get()
        several = isinstance(here, Cluster)
        return changes(here.feeds, prefix, several=several, timeout=self._timeout)

    async def aclose(self) -> None:
        """Let go of the running loop's connections. Idempotent.

        Each event loop that used the backend closes its own. A client that was given stays open.
        """
        server = self._servers.take()
        if server is None:
            return
        await server.aclose()
        for client in with_sentinels(server.client) if self._owned else ():
            await client.aclose()
