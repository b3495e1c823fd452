"""What redis-py's connections may take: in time (blocking ones), and in bytes for each answer.

A socket's timeout is per read, and hiredis buffers whatever an answer announces. So a client's
connections are made of subclasses: their sockets look at the thread's deadline, and what feeds
hiredis counts.
"""

from __future__ import annotations

import copy
import functools
from typing import Any, Final

from redis import ConnectionPool
from redis.backoff import AbstractBackoff
from redis.exceptions import ConnectionError
from redis.sentinel import SentinelManagedConnection

from anyseal.cache.backends._redis_clients import is_cluster, with_sentinels
from anyseal.cache.backends._redis_commands import VALUE_MAX_BYTES
from anyseal.deadline import ExcessError, bounded, current

__all__ = [
    "ANSWER_MAX_BYTES",
    "BoundedPool",
    "allow",
    "bound",
    "drop_idle",
    "pending",
]

ANSWER_MAX_BYTES: Final = VALUE_MAX_BYTES + (1 << 20)
"""One value, or a page of names, and what is around it."""

_DIGITS: Final = 6
_SMALL_BYTES: Final = 64
_AGGREGATES: Final = frozenset(b"*~>%|")
_BULK: Final = ord("$")
_CR: Final = ord("\r")


def _modest(data: Any, size: int) -> bool:
    """Whether an answer that begins with *data* has less than a million items: hiredis would make
    the list at once, before they come. Looks at four levels, and over a SCAN's cursor."""
    if size > 8 and data[4] == _BULK and data[6] != _CR and data[7] != _CR:
        return data[0] not in _AGGREGATES or data[2] == _CR  # the usual one: a list of one value
    at = 0
    for _ in range(4):
        if at >= size or not (data[at] == _BULK or data[at] in _AGGREGATES):
            return True
        end = data.find(b"\r", at, at + _DIGITS + 2)
        if end < 0 or end >= size:
            return size - at <= _DIGITS + 1 or data[at] == _BULK
        if data[at] == _BULK:
            length = data[at + 1 : end]
            if not length.isdigit() or int(length) > _SMALL_BYTES:
                return True
            end += int(length) + 2
        at = end + 2
    return True


def _has_room() -> bool:
    """Whether the thread's call says itself how much it may receive; its sockets then count."""
    limit = current()
    return limit is not None and limit.room is not None


class _Gauge:
    """A reader of hiredis's that takes no answer above its measure."""

    __slots__ = ("_feed", "_gets", "_reader", "has_data", "most", "received")

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._feed = reader.feed
        self._gets = reader.gets
        self.has_data = reader.has_data
        self.most = ANSWER_MAX_BYTES
        self.received = 0

    def feed(self, data: Any, *span: int) -> None:
        size = span[1] if span else len(data)
        if not self.received and not _modest(data, size):
            raise ExcessError("the answer has more items than it may have")
        self.received += size
        if self.received > self.most and not _has_room():
            raise ExcessError("the answer is larger than it may be")
        self._feed(data, *span)

    def gets(self, *args: Any) -> Any:
        answer = self._gets(*args)
        if not self.has_data():
            self.received = 0
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


class _Measured:
    """A parser of hiredis's, with a gauge."""

    def on_connect(self, connection: Any) -> None:
        super().on_connect(connection)  # type: ignore[misc]
        self._reader: Any = _Gauge(self._reader)


class _Connection:
    """A connection whose answers are measured."""

    def set_parser(self, parser_class: Any) -> None:
        super().set_parser(_measured(parser_class))  # type: ignore[misc]


class _Patience:
    """A timeout of a connection; while it connects, no more than is left of the call.

    redis-py keeps it under this name, or has a property that keeps it under a private one.
    """

    def __init__(self, name: str) -> None:
        self._names = (f"_{name}", name)

    def _name(self, connection: Any) -> str:
        private, public = self._names
        return private if private in connection.__dict__ else public

    def __get__(self, connection: Any, _: type[Any]) -> float | None:
        own: float | None = connection.__dict__[self._name(connection)]
        limit = current()
        if limit is None or connection._sock is not None:
            return own
        return limit.left() if own is None else min(own, limit.left())

    def __set__(self, connection: Any, seconds: float | None) -> None:
        connection.__dict__[self._name(connection)] = seconds


class _Backoff(AbstractBackoff):
    """Pauses between attempts, as *inner* has them, that do not go beyond the deadline."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def reset(self) -> None:
        self._inner.reset()

    def compute(self, failures: int) -> float:
        seconds: float = self._inner.compute(failures)
        limit = current()
        if limit is not None and limit.left() <= seconds:
            raise TimeoutError("no time for another attempt")
        return seconds


class _Blocking(_Connection):
    """A connection whose whole conversation, connecting included, ends at the deadline."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.bound_retry()

    def bound_retry(self) -> None:
        """Let no pause between attempts go beyond the deadline."""
        retry: Any = copy.copy(self.retry)  # type: ignore[has-type]
        retry._backoff = _Backoff(retry._backoff)
        self.retry = retry

    def _connect(self) -> Any:
        sock = super()._connect()  # type: ignore[misc]
        # Perhaps less, for what is left of the call: the socket lives longer.
        sock.settimeout(self.__dict__.get("_socket_timeout", self.__dict__.get("socket_timeout")))
        return bounded(sock)

    def can_read(self, timeout: float = 0) -> bool:
        """Data before the question is no answer to it: redis-py would take it for one."""
        found: bool = super().can_read(timeout)  # type: ignore[misc]
        if found and current() is not None:
            raise ConnectionError("connection has data")
        return found

    socket_timeout = _Patience("socket_timeout")
    socket_connect_timeout = _Patience("socket_connect_timeout")


@functools.cache
def _measured(parser_class: type[Any]) -> type[Any]:
    if issubclass(parser_class, _Measured) or not _of_hiredis(parser_class):
        return parser_class
    return type(parser_class.__name__, (_Measured, parser_class), {})


def _of_hiredis(parser_class: type[Any]) -> bool:
    return any("Hiredis" in each.__name__ for each in parser_class.__mro__)


class _OfSentinel(_Blocking):
    """redis-py keeps connections to Sentinel's master after an answer that it could not read, or
    that was late: the rest of it would answer the next question."""

    def read_response(self, *args: Any, **options: Any) -> Any:
        options.setdefault("disconnect_on_error", True)
        return super().read_response(*args, **options)  # type: ignore[misc]


@functools.cache
def _connection(kind: type[Any], *, blocking: bool) -> type[Any]:
    if issubclass(kind, _Connection):
        return kind
    mixin: type[Any] = _Blocking if blocking else _Connection
    if issubclass(kind, SentinelManagedConnection):
        mixin = _OfSentinel
    return type(kind.__name__, (mixin, kind), {})


def bound(client: Any, *, blocking: bool) -> None:
    """Let the connections that *client* makes from now on be bounded, its Sentinels' too."""
    if not is_cluster(client):
        for each in with_sentinels(client):
            _bound_pool(each.connection_pool, blocking=blocking)
        return
    manager = client.nodes_manager
    if blocking:
        _bound_nodes(manager)
        for node in client.get_nodes():
            if node.redis_connection is not None:
                _bound_pool(node.redis_connection.connection_pool, blocking=True)
        return
    from redis.asyncio import Connection

    kwargs = manager.connection_kwargs
    kwargs["connection_class"] = _connection(
        kwargs.get("connection_class", Connection), blocking=False
    )
    for node in (*manager.startup_nodes.values(), *manager.nodes_cache.values()):
        node.connection_class = kwargs["connection_class"]


def _bound_pool(pool: Any, *, blocking: bool) -> None:
    pool.connection_class = _connection(pool.connection_class, blocking=blocking)
    if blocking:
        for connection in getattr(pool, "_available_connections", ()):
            if not isinstance(connection, _Blocking):
                # Made before; it connects again when it is used.
                kind: Any = type(connection)
                connection.disconnect()
                connection.__class__ = _connection(kind, blocking=True)
                connection.set_parser(type(connection._parser))
                connection.bound_retry()


def _bound_nodes(manager: Any) -> None:
    """The same for the nodes that a blocking cluster's client finds later."""
    create = manager.create_redis_node

    def created(*args: Any, **kwargs: Any) -> Any:
        node = create(*args, **kwargs)
        _bound_pool(node.connection_pool, blocking=True)
        return node

    manager.create_redis_node = created


class BoundedPool(ConnectionPool):
    """For a blocking cluster, which connects while it is made."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _bound_pool(self, blocking=True)


def allow(connection: Any, values: int) -> None:
    """Let the next answers of *connection* have this many values."""
    parser = connection._parser
    gauge = getattr(parser, "_reader", None)
    if type(gauge) is not _Gauge:
        if not _of_hiredis(type(parser)):  # pragma: no cover - redis-py without hiredis
            return
        gauge = parser._reader = _Gauge(gauge)  # the connection was made before its client came
    gauge.most = values * ANSWER_MAX_BYTES


def pending(connection: Any) -> bool:
    """Whether an async *connection* has received what nobody asked for: it would be taken for the
    answer to the next question."""
    gauge = getattr(connection._parser, "_reader", None)
    if gauge is not None and gauge.has_data():
        return True
    return bool(getattr(connection._reader, "_buffer", None))


def drop_idle(client: Any) -> None:
    """Close the idle connections of a blocking *client*: what one of them answered is none of
    its commands' answers, and more may come."""
    nodes = client.get_nodes() if is_cluster(client) else ()
    for each in [node.redis_connection for node in nodes] if nodes else [client]:
        if each is not None:
            each.connection_pool.disconnect(inuse_connections=False)
