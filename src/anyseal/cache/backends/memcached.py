"""Entries in memcached (extra ``memcached``: pymemcache)."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from anyseal import early
from anyseal._ffi import process_number
from anyseal.cache.backends._threads import ThreadedBackend
from anyseal.deadline import bounded, current, deadline
from anyseal.errors import BackendError, ConfigurationError, MissingExtraError
from anyseal.hints import wrong_type

try:
    from pymemcache.client.base import Client, PooledClient
    from pymemcache.exceptions import MemcacheError, MemcacheServerError, MemcacheUnknownError
except ImportError as _exc:  # pragma: no cover - the extra is missing
    raise MissingExtraError.of(
        "the memcached backend needs pymemcache", "anyseal[memcached]"
    ) from _exc

__all__ = ["BlockingMemcachedBackend", "MemcachedBackend"]

VALUE_MAX_BYTES = (1 << 20) - 1024
"""memcached's items take 1 MiB, name and header included."""

_RELATIVE_MAX_SECONDS = 30 * 86400
"""Times above this are taken for points in time."""

_LAST_SECOND = (1 << 31) - 1
_GONE = -1
_BATCH = 100


def _unable(what: str) -> BackendError:
    error = BackendError(what)
    error.retryable = False
    return error


def _expire(ttl_ms: int | None) -> int:
    """The time as memcached takes it; at least *ttl_ms*, for a lease must not end early."""
    if ttl_ms is None:
        return 0
    seconds = -(-ttl_ms // 1000) + 1  # its clock ticks once a second
    if seconds <= _RELATIVE_MAX_SECONDS:
        return seconds
    return min(int(time.time()) + seconds, _LAST_SECOND)


def _checked(value: bytes) -> bytes:
    if len(value) > VALUE_MAX_BYTES:
        raise _unable(f"memcached takes no value above {VALUE_MAX_BYTES} bytes")
    return value


class _Client(Client):  # type: ignore[misc]
    """A connection that looks at its thread's deadline, and that no late answer is left in."""

    def _connect(self) -> None:
        limit = current()
        if limit is not None:
            self.connect_timeout = limit.left()
        super()._connect()
        bounded(self.sock)

    def _fetch_cmd(self, *args: Any, **options: Any) -> Any:
        self._renew()
        return super()._fetch_cmd(*args, **options)

    def _store_cmd(self, *args: Any, **options: Any) -> Any:
        self._renew()
        return super()._store_cmd(*args, **options)

    def _misc_cmd(self, *args: Any, **options: Any) -> Any:
        self._renew()
        answers = super()._misc_cmd(*args, **options)
        if not all(answer in (b"DELETED", b"NOT_FOUND") for answer in answers):
            self.close()
            raise MemcacheUnknownError  # pymemcache takes it for "was not there"
        return answers

    def _renew(self) -> None:
        """Close a connection that has something to read: it would answer the next question."""
        if self.sock is not None:
            poll = select.poll()
            poll.register(self.sock, select.POLLIN)
            if poll.poll(0):
                self.close()


class _Pool(PooledClient):  # type: ignore[misc]
    client_class = _Client


class BlockingMemcachedBackend:
    """Entries in one memcached server. For sync code.

    Safe to use from several threads, also after a fork. An entry lives up to 2 s longer than
    asked for, for memcached counts seconds. memcached cannot list its names: ``can_scan`` is
    False.

    Args:
        host: Where the server is.
        port: Its port.
        timeout: Seconds for one call, connecting included.

    Raises:
        BackendError: Of any method: no answer, or a value above ``VALUE_MAX_BYTES``.
    """

    enforces_timeout = True
    can_scan = False

    def __init__(self, host: str = "127.0.0.1", port: int = 11211, *, timeout: float = 5.0) -> None:
        if not isinstance(host, str) or not isinstance(port, int):
            wrong, given = ("port", port) if isinstance(host, str) else ("host", host)
            raise wrong_type(
                f"memcached's {wrong}", "a str" if wrong == "host" else "an int", given,
                "MemcachedBackend(host, port)",
            )  # fmt: skip
        if "/" in host or host.count(":") == 1:  # an IPv6 address has more
            raise ConfigurationError(
                "memcached's host must be a name or an address alone: "
                "MemcachedBackend(host, port), or backend_from_url(url)"
            )
        if not host or not 0 < port < 65536 or timeout <= 0:
            raise ConfigurationError("memcached needs a host, a port and a positive timeout")
        early.prepare("encodings.idna")
        self._server = (host, port)
        self._timeout = timeout
        self._pools: dict[int, Any] = {}  # by process: a forked child has connections of its own

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._server[0]!r}, {self._server[1]})"

    @contextlib.contextmanager
    def _client(self, values: int = 1) -> Iterator[Any]:
        """A client for one call, whose answers have so many values."""
        pool = self._pools.get(process_number())
        if pool is None:
            fresh = _Pool(
                self._server,
                connect_timeout=self._timeout,
                timeout=self._timeout,
                no_delay=True,
                default_noreply=False,
            )
            pool = self._pools.setdefault(process_number(), fresh)  # of several threads, one wins
        try:
            with deadline(self._timeout, room=(values + 1) * (1 << 20)):
                yield pool
        except (BackendError, ConfigurationError):
            raise
        except (MemcacheServerError, OSError) as exc:
            error = BackendError(f"memcached: {type(exc).__name__}")
            error.refused = isinstance(exc, MemcacheServerError)  # such as: out of memory
            raise error from None
        except MemcacheError as exc:
            raise _unable(f"memcached: {type(exc).__name__}") from None
        except Exception as exc:  # pymemcache raises what it likes for what it cannot read
            raise BackendError(f"memcached: {type(exc).__name__}") from None

    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """The values, in the order of *names*; None for what is not there."""
        found: dict[str, bytes] = {}
        with self._client(len(names)) as client:
            for at in range(0, len(names), _BATCH):
                found.update(client.get_many(list(dict.fromkeys(names[at : at + _BATCH]))))
        return [found.get(name) for name in names]

    def set(
        self, name: str, value: bytes, *, ttl_ms: int | None = None, if_absent: bool = False
    ) -> bool:
        """Store *value*; with *if_absent* only if there is none. Whether it was stored."""
        with self._client() as client:
            store = client.add if if_absent else client.set
            return bool(store(name, _checked(value), expire=_expire(ttl_ms)))

    def compare_and_set(
        self, name: str, expected: bytes, value: bytes | None, *, ttl_ms: int | None = None
    ) -> bool:
        """Replace *expected* by *value* (None: delete) in one step; whether it was there."""
        with self._client() as client:
            found, version = client.gets(name)
            if found is None or found != expected:
                return False
            if value is None:  # an item that is past its time when it is stored
                return bool(client.cas(name, b"", version, expire=_GONE))
            return bool(client.cas(name, _checked(value), version, expire=_expire(ttl_ms)))

    def delete_many(self, names: Sequence[str]) -> int:
        """Delete what is there of *names*; how many that were. One round trip each."""
        with self._client() as client:
            return sum(bool(client.delete(name)) for name in names)

    def scan(self, prefix: str) -> Iterator[list[str]]:
        """Raises BackendError."""
        raise _unable("memcached cannot list names")

    def close(self) -> None:
        """Close the connections. Idempotent; a later call opens new ones."""
        pool = self._pools.pop(process_number(), None)
        if pool is not None:
            pool.close()


class MemcachedBackend(ThreadedBackend[BlockingMemcachedBackend]):
    """Entries in one memcached server.

    Every call runs in a worker thread. Safe to use from several event loops. An entry lives up
    to 2 s longer than asked for, for memcached counts seconds. memcached cannot list its names:
    ``can_scan`` is False.

    Args:
        host: Where the server is.
        port: Its port.
        timeout: Seconds for one call, connecting included.

    Raises:
        BackendError: Of any method: no answer, or a value above ``VALUE_MAX_BYTES``.
    """

    can_scan = False

    def __init__(self, host: str = "127.0.0.1", port: int = 11211, *, timeout: float = 5.0) -> None:
        super().__init__(BlockingMemcachedBackend(host, port, timeout=timeout))

    def scan(self, prefix: str) -> AsyncIterator[list[str]]:
        """Raises BackendError."""
        raise _unable("memcached cannot list names")
