"""From a URL to a redis-py client, asyncio's or blocking."""

from __future__ import annotations

import inspect
import re
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import redis
import redis.asyncio
from redis import exceptions as redis_errors
from redis.backoff import ExponentialBackoff, NoBackoff

from anyseal.errors import ConfigurationError

__all__ = ["check_client", "is_cluster", "make_client", "with_sentinels"]

CLIENT_ERRORS: Final = (redis_errors.RedisError, redis_errors.RedisClusterException)
SCHEMES: Final = (
    "redis", "rediss", "unix", "redis+cluster", "rediss+cluster", "redis+sentinel",
    "rediss+sentinel",
)  # fmt: skip


def parse_url(url: str) -> tuple[str, str]:
    """The kind of server (``redis``, ``cluster``, ``sentinel``), and the URL for redis-py.

    No message quotes the URL: it may hold a password.
    """
    if not isinstance(url, str):
        raise ConfigurationError(f"a Redis URL is a str, not {type(url).__name__}")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ConfigurationError(f"a Redis URL begins with one of {', '.join(SCHEMES)}")
    protocol, _, kind = scheme.partition("+")
    if not kind and protocol != "unix":
        db = urlsplit(url).path.strip("/")
        if db and not (db.isascii() and db.isdecimal()):  # redis-py would take it for 0
            raise ConfigurationError("a Redis URL ends with the number of a database")
    return kind or "redis", f"{protocol}://{rest}"


def make_client(url: str, *, blocking: bool, timeout: float, **settings: Any) -> Any:
    """A client of the server at *url*. Only a blocking one of a cluster connects at once."""
    kind, plain = parse_url(url)
    if blocking and kind == "cluster":
        make_client(url, blocking=False, timeout=timeout, **settings)
    api: Any = redis if blocking else redis.asyncio
    # The asyncio backend has one timeout around all: redis-py's would cost a task per command.
    own_timeout = blocking or kind == "cluster"
    common: dict[str, Any] = {
        "protocol": 3,
        "socket_timeout": timeout if own_timeout else None,
        "socket_connect_timeout": timeout,
        "socket_keepalive": True,
        **_nameless(api),
        **settings,
    }
    retry = _retry(blocking, kind)
    try:
        if kind == "cluster":
            common.setdefault("require_full_coverage", False)
            if blocking:
                from anyseal.cache.backends._redis_bounds import BoundedPool

                common.setdefault("connection_pool_class", BoundedPool)
            return api.RedisCluster.from_url(plain, **{"retry": retry, **common})
        common.setdefault("socket_read_size", 1 << 16 if blocking else 1 << 18)
        if kind == "sentinel":
            return _sentinel(api, plain, {"retry": retry, **common})
        if plain.startswith("unix://"):
            del common["socket_keepalive"]
        client = api.Redis.from_url(plain, **{"retry": retry, **common})
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # an unknown setting is told now
        return client
    except ConfigurationError:
        raise
    except (ValueError, TypeError, *CLIENT_ERRORS) as exc:
        if blocking and kind == "cluster":
            raise
        raise ConfigurationError(f"the Redis URL or its settings: {type(exc).__name__}") from None


def _nameless(api: Any) -> dict[str, Any]:
    """Connections do not announce redis-py's version: it would be read from disk for each one."""
    if "driver_info" in inspect.signature(api.Redis.__init__).parameters:
        return {"driver_info": None}
    return {"lib_name": None, "lib_version": None}


def _retry(blocking: bool, kind: str) -> Any:
    """A cache that waits is worse than one that misses: one more attempt, soon."""
    if blocking:
        from redis.retry import Retry as BlockingRetry

        # Not of what took too long: it would take as long again, and callers count on the timeout.
        lost = () if kind == "cluster" else (redis_errors.ConnectionError,)
        options: dict[str, Any] = {"supported_errors": lost} if lost else {}
        return BlockingRetry(ExponentialBackoff(0.2, 0.02), 2, **options)
    from redis.asyncio.retry import Retry

    if kind == "cluster":
        return Retry(ExponentialBackoff(0.2, 0.02), 2)
    return Retry(NoBackoff(), 0)


_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")


def _sentinel(api: Any, url: str, settings: dict[str, Any]) -> Any:
    """The client of the master that Sentinel names: ``host:port,host:port/service/db``."""
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    sentinels = []
    for host in hosts.split(","):
        match = _HOST.fullmatch(host)
        if match is None:
            raise ConfigurationError("a Sentinel URL names host:port,host:port/service")
        sentinels.append((match[1].strip("[]"), int(match[2] or 26379)))
    service, _, db = parts.path.strip("/").partition("/")
    if not service or (db and not db.isdecimal()):
        raise ConfigurationError("a Sentinel URL ends with /service or /service/db")
    if parts.query:
        raise ConfigurationError("a Sentinel URL takes no query: give settings as keywords")
    username, _, password = login.partition(":")
    if login:
        settings = {**settings, "username": unquote(username) or None}
        settings["password"] = unquote(password) or None
    if parts.scheme == "rediss":
        settings["ssl"] = True
    shared = ("ssl", "ssl_ca_certs", "retry", "driver_info")
    own: dict[str, Any] = {name: settings[name] for name in shared if name in settings}
    own["protocol"] = 2  # not every redis-py understands what Sentinel says in RESP3
    own["socket_timeout"] = own["socket_connect_timeout"] = settings["socket_connect_timeout"]
    sentinel = api.Sentinel(sentinels, sentinel_kwargs=own)
    return sentinel.master_for(service, db=int(db or 0), **settings)


def with_sentinels(client: Any) -> list[Any]:
    """*client* and those that it asks for the master's address: all to be closed."""
    manager = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    return [client, *getattr(manager, "sentinels", ())]


def is_cluster(client: Any) -> bool:
    """Whether *client* is one of several nodes."""
    return isinstance(client, (redis.RedisCluster, redis.asyncio.RedisCluster))


def check_client(client: Any, *, blocking: bool) -> None:
    """Refuse clients that are of the wrong kind, or that would decode sealed bytes as text."""
    api: Any = redis if blocking else redis.asyncio
    if not isinstance(client, (api.Redis, api.RedisCluster)):
        wanted = (
            "redis.Redis or RedisCluster" if blocking else "redis.asyncio.Redis or RedisCluster"
        )
        given = f"{type(client).__module__.removesuffix('.client')}.{type(client).__name__}"
        face = "anyseal.sync" if blocking else "anyseal.cache"
        remedy = (
            f"{face}.RedisBackend.from_url(url) makes one"
            if isinstance(client, str)
            else (f"redis{'' if blocking else '.asyncio'}.from_url(url) makes one")
        )
        raise ConfigurationError(f"expected a {wanted}, not {given}: {remedy}")
    if client.get_encoder().decode_responses:
        raise ConfigurationError(
            "sealed values are bytes: make the client without decode_responses"
        )
