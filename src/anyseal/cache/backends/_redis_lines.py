"""Connections to one Redis server that are kept at hand (asyncio only).

redis-py takes and returns a pooled connection for each command, and packs it in Python. Here a
connection stays out of the pool for some seconds, and hiredis packs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, Protocol

from redis import exceptions as redis_errors

from anyseal.cache.backends._redis_answers import checked
from anyseal.cache.backends._redis_bounds import allow, pending
from anyseal.cache.backends._redis_commands import FAILURES, Command

pack_command: Any
try:
    from hiredis import pack_command
except ImportError:  # pragma: no cover - redis-py without hiredis
    pack_command = None

__all__ = ["Lines", "Pool", "Spawn", "pack"]

LEASE_SECONDS: Final = 10.0
"""Then a connection is back in the pool once, where redis-py renews logins and addresses."""

Spawn = Callable[[Coroutine[Any, Any, None]], None]


class Pool(Protocol):
    """Where connections come from."""

    async def get_connection(self) -> Any:
        """One that is free."""
        ...

    async def release(self, connection: Any, /) -> None:
        """It is free again."""
        ...


class _Line:
    """A connection that was taken out of the pool."""

    __slots__ = ("connection", "until", "used")

    def __init__(self, connection: Any, until: float) -> None:
        self.connection = connection
        self.until = until
        self.used = False


class Lines:
    """Sends commands to one server and reads the answers, on as many connections as it takes."""

    def __init__(self, pool: Pool, spawn: Spawn, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self._pool = pool
        self._spawn = spawn
        self._lease_seconds = lease_seconds
        self._loop = asyncio.get_running_loop()
        self._idle: list[_Line] = []

    async def replies(
        self, commands: Sequence[Command], packed: Any, *, repeatable: bool
    ) -> list[Any]:
        """What Redis answers to each command, errors among it. Raises BackendError for an answer
        that its command cannot have; *packed* is what :func:`pack` made of *commands*.

        Once more if a connection that was kept turns out to be gone, unless a repeat may do harm:
        then the connection is looked at before.
        """
        line = await self._take(check=not repeatable)
        if line.used and repeatable:
            try:
                return await self._converse(line, commands, packed)
            except redis_errors.AuthenticationError:
                raise
            except redis_errors.ConnectionError:
                self.drop()
                line = await self._take(check=False)
        return await self._converse(line, commands, packed)

    async def _converse(self, line: _Line, commands: Sequence[Command], packed: Any) -> list[Any]:
        connection = line.connection
        replies: list[Any] = []
        try:
            if packed is None:  # pragma: no cover - redis-py without hiredis
                packed = connection.pack_commands(commands)
            await connection.send_packed_command(packed)
            allow(connection, len(commands[0]) - 1 if commands[0][0] == "MGET" else 1)
            for command in commands:
                try:
                    reply = await connection.read_response()
                except redis_errors.ResponseError as exc:
                    replies.append(exc)
                else:
                    replies.append(checked(command, reply))
        except BaseException:
            # Answers may still come: they must meet nobody's next question.
            self._spawn(self._retire(line))
            raise
        line.used = True
        if pending(connection):
            self._spawn(self._retire(line))
        elif self._loop.time() < line.until:
            self._idle.append(line)
        else:
            self._spawn(self._give_back(line))
        return replies

    async def _take(self, check: bool) -> _Line:
        """A connection that is at hand, or from the pool."""
        while self._idle:
            line = self._idle.pop()
            if not pending(line.connection) and (not check or await self._sound(line.connection)):
                return line
            self._spawn(self._retire(line))
        connection = await self._pool.get_connection()
        return _Line(connection, self._loop.time() + self._lease_seconds)

    async def _sound(self, connection: Any) -> bool:
        """Whether nothing came since the last answer, not even the end."""
        look = getattr(connection, "can_read", None) or connection.can_read_destructive
        try:
            return not await look()
        except FAILURES:
            return False

    def drop(self) -> None:
        """Let go of all that are at hand: where one is gone, the others mostly are."""
        idle, self._idle = self._idle, []
        for line in idle:
            self._spawn(self._retire(line))

    async def _retire(self, line: _Line) -> None:
        with contextlib.suppress(*FAILURES):  # it is gone either way
            await line.connection.disconnect(nowait=True)
        await self._give_back(line)

    async def _give_back(self, line: _Line) -> None:
        with contextlib.suppress(*FAILURES, KeyError):  # KeyError: the pool was reset meanwhile
            await self._pool.release(line.connection)


def pack(commands: Iterable[Command]) -> Any:
    """*commands* as they are sent; None if the connection must pack them."""
    if pack_command is None:  # pragma: no cover - redis-py without hiredis
        return None
    return [pack_command(command) for command in commands]
