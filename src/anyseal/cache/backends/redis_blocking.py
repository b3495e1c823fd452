"""Entries in Redis for sync code (extra ``redis``): redis-py's blocking clients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Final, NoReturn

from anyseal.cache.backends import _redis_commands as commands
from anyseal.cache.backends._redis_answers import Pages, checked
from anyseal.cache.backends._redis_bounds import ANSWER_MAX_BYTES, bound, drop_idle
from anyseal.cache.backends._redis_clients import (
    check_client,
    is_cluster,
    make_client,
    with_sentinels,
)
from anyseal.deadline import deadline
from anyseal.errors import BackendError, ConfigurationError, MissingExtraError

try:
    from redis import exceptions as redis_errors
except ImportError as _exc:  # pragma: no cover - the extra is missing
    raise MissingExtraError.of("Redis needs redis-py", "anyseal[redis]") from _exc

__all__ = ["BlockingRedisBackend"]

DEFAULT_SECONDS: Final = 5.0


class BlockingRedisBackend:
    """Keeps entries in Redis; implements BlockingRangedBackend and
    BlockingLeasingBackend. For any number of threads.

    Args:
        client: A ``redis.Redis`` (also Sentinel's ``master_for``) or ``RedisCluster``, without
            ``decode_responses``. It is not closed. Its connections from now on keep to the deadline
            of each call, and take no larger answers than an entry or a page of names can have.
        timeout: Seconds that any one call may take, connecting included; above 0, at most 300.
            Default: the client's ``socket_timeout``, or 5.

    Raises:
        ConfigurationError: A client of another kind, or one that decodes answers.

    Cost: one of redis-py's commands per call; in a cluster one pipeline for several names.
    """

    enforces_timeout = True

    def __init__(self, client: Any, *, timeout: float | None = None) -> None:
        check_client(client, blocking=True)
        self._client = client
        self._cluster = is_cluster(client)
        self._owned = False
        self._timeout = commands.patience(_own_timeout(client) if timeout is None else timeout)
        bound(client, blocking=True)

    @classmethod
    def from_url(cls, url: str, *, timeout: float = 5.0, **settings: Any) -> BlockingRedisBackend:
        """A backend with a client of its own; as :meth:`RedisBackend.from_url`.

        A cluster is connected to at once, the others on first use.
        """
        patience = commands.patience(timeout)
        try:
            with deadline(patience):
                client = make_client(url, blocking=True, timeout=patience, **settings)
        except ConfigurationError:
            raise
        except Exception as exc:
            raise commands.backend_error("CLUSTER", exc) from None
        backend = cls(client, timeout=patience)
        backend._owned = True
        return backend

    def _call(self, *command: str | bytes | int, room: int | None = None, **target: Any) -> Any:
        """The answer to a command that must be one that it can have. Raises BackendError."""
        try:
            with deadline(self._timeout, room=room):
                return checked(command, self._client.execute_command(*command, **target))
        except Exception as exc:  # redis-py raises what it likes for what it cannot read
            self._fail(str(command[0]), exc)

    def _each(self, some: Sequence[commands.Command]) -> list[Any]:
        """The answers to several commands, errors among them."""
        try:
            with (
                deadline(self._timeout),
                self._client.pipeline(transaction=False) as pipeline,
            ):
                for command in some:
                    pipeline.execute_command(*command)
                answers: list[Any] = pipeline.execute(raise_on_error=False)
            if len(answers) != len(some):
                raise BackendError(f"{len(answers)} answers to {len(some)} commands")
            return [
                answer if isinstance(answer, Exception) else checked(command, answer)
                for command, answer in zip(some, answers, strict=True)
            ]
        except Exception as exc:
            self._fail(str(some[0][0]), exc)

    def _fail(self, command: str, cause: Exception) -> NoReturn:
        if not isinstance(cause, commands.FAILURES):
            # What came is no answer: whatever comes next on this connection may be none either.
            with contextlib.suppress(Exception):
                drop_idle(self._client)
        if isinstance(cause, BackendError):
            raise cause
        raise commands.backend_error(command, cause) from None

    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """The values, in the order of *names*; None for what is not there. Raises BackendError."""
        if not self._cluster:
            if len(names) == 1:
                found: list[bytes | None] = self._call("MGET", names[0])
                return found
            found = []
            with deadline(self._timeout):
                for some in commands.chunked(names):
                    found += self._call("MGET", *some, room=len(some) * ANSWER_MAX_BYTES)
            return found
        if len(names) == 1:  # a command instead of a pipeline
            return list(self._call("MGET", names[0]))
        answers = self._each([("GET", name) for name in names]) if names else []
        return [_value(answer) for answer in answers]

    def set(
        self, name: str, value: bytes, *, ttl_ms: int | None = None, if_absent: bool = False
    ) -> bool:
        """Store *value*; with *if_absent* only if there is none. Raises BackendError."""
        return bool(self._call(*commands.set_command(name, value, ttl_ms, if_absent)))

    def compare_and_set(
        self, name: str, expected: bytes, value: bytes | None, *, ttl_ms: int | None = None
    ) -> bool:
        """Replace *expected* by *value* (None: delete) in one step. Raises BackendError."""
        return bool(self._script(commands.cas(name, expected, value, ttl_ms)))

    def delete_many(self, names: Sequence[str]) -> int:
        """Delete what is there of *names*; how many that were. Raises BackendError."""
        if not self._cluster:
            with deadline(self._timeout):
                return sum(self._call("UNLINK", *some) for some in commands.chunked(names))
        deleted = 0
        for answer in self._each([("UNLINK", name) for name in names]) if names else ():
            if isinstance(answer, Exception):
                _fail("UNLINK", answer)
            deleted += answer
        return deleted

    def take_lease(
        self, lock: str, owner: bytes, name: str, *, ttl_ms: int
    ) -> tuple[bool, bytes | None]:
        """Store *owner* under *lock* if there is none, and say what is under *name*, in one
        exchange. Raises BackendError."""
        taking = commands.set_command(lock, owner, ttl_ms, True)
        taken, found = self._each([taking, ("GET", name)])
        if isinstance(taken, Exception):
            _fail("SET", taken)
        return bool(taken), _value(found)

    def settle(
        self, name: str, value: bytes, lock: str, owner: bytes, *,
        others: Sequence[str] = (), ttl_ms: int | None = None,
    ) -> bool:  # fmt: skip
        """If *lock* is *owner*'s, store *value* and delete *lock* and *others*, in one step;
        whether it was. Raises BackendError."""
        return bool(self._script(commands.settle(name, value, lock, owner, others, ttl_ms)))

    def set_and_delete(
        self, name: str, value: bytes, others: Sequence[str], *, ttl_ms: int | None = None
    ) -> bool:
        """Delete *others*, then store *value*, in one exchange. Raises BackendError."""
        storing = commands.set_command(name, value, ttl_ms, False)
        first: list[commands.Command] = [("UNLINK", other) for other in others]
        if others and not self._cluster:
            first = [("UNLINK", *others)]
        answers = self._each([*first, storing])
        for answer in answers:
            if isinstance(answer, Exception):
                _fail("SET", answer)
        return bool(answers[-1])

    def delete_beside(self, names: Sequence[str], others: Sequence[str]) -> int:
        """Delete *others*, then *names*, in one exchange; how many of *names* were there. Raises
        BackendError."""
        every = [*others, *names]
        answers = self._each([("UNLINK", name) for name in every]) if every else []
        for answer in answers:
            if isinstance(answer, Exception):
                _fail("UNLINK", answer)
        return sum(answers[len(others) :])

    def scan(self, prefix: str) -> Iterator[list[str]]:
        """The names that begin with *prefix*, in lists of some 1000, perhaps twice."""
        targets: list[dict[str, Any]] = [{}]
        if self._cluster:
            targets = [{"target_nodes": node} for node in self._client.get_primaries()]
        for target in targets:
            pages = Pages(prefix, self._timeout, clustered=self._cluster)
            while pages.more:
                names = pages.take(self._call(*pages.command, **target))
                if pages.overdue:
                    pages.limit(self._call("DBSIZE", **target))
                if names:
                    yield names

    def put_range(self, name: str, offset: int, data: bytes, *, ttl_ms: int) -> None:
        """Write up to 1 MiB at *offset*. Raises BackendError, also for what would leave a gap."""
        commands.check_piece(len(data))
        commands.written(self._script(commands.put_range(name, offset, data, ttl_ms)))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Up to *length* bytes from *offset*. Raises BackendError."""
        if length < 1:
            return b""
        return bytes(self._call(*commands.get_range(name, offset, length)))

    def publish(
        self, temporary: str, final: str, name: str, value: bytes, *, ttl_ms: int | None
    ) -> bool:
        """Rename *temporary* to *final* and store *value* under *name*, in one step. Raises
        BackendError."""
        return bool(self._script(commands.publish(temporary, final, name, value, ttl_ms)))

    def _script(self, command: commands.Command) -> Any:
        """Run a script, with its source if Redis does not have it yet."""
        with deadline(self._timeout):
            try:
                return self._call(*command)
            except commands.ScriptMissingError:
                return self._call(*commands.with_source(command))

    def close(self) -> None:
        """Let go of connections, unless the client was given. Idempotent."""
        for client in with_sentinels(self._client) if self._owned else ():
            client.close()


def _value(answer: Any) -> bytes | None:
    if isinstance(answer, redis_errors.ResponseError) and str(answer).startswith("WRONGTYPE"):
        return None  # as with MGET: what is not a string is not there
    if isinstance(answer, Exception):
        _fail("GET", answer)
    found: bytes | None = answer
    return found


def _fail(command: str, cause: BaseException) -> NoReturn:
    raise commands.backend_error(command, cause) from None


def _own_timeout(client: Any) -> float:
    """The patience that a client was given."""
    if is_cluster(client):
        settings = client.nodes_manager.connection_kwargs
    else:
        settings = client.connection_pool.connection_kwargs
    found = settings.get("socket_timeout")
    return DEFAULT_SECONDS if found is None else min(float(found), 300.0)
