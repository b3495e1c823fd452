"""The servers as fixtures: one of each per test run. Load with ``pytest_plugins``.

A server that does not start fails the tests that want it. Only one that the system would have to
bring (MariaDB, memcached) is skipped where it is not installed, unless ANYSEAL_REQUIRE_SERVERS=1.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from asgi_server import CacheApi
from servers import MariaDb, Moto, Postgres, ServerUnavailableError
from storage_servers import Memcached, RedisCluster, RedisServer, SeaweedFS


def _running(make: Callable[[], Any]) -> Iterator[Any]:
    """A server, until the tests have ended."""
    server = make()
    yield server
    server.close()


def _from_the_system(make: Callable[[], Any]) -> Iterator[Any]:
    """A server that may not be installed."""
    try:
        server = make()
    except ServerUnavailableError as exc:
        if os.environ.get("ANYSEAL_REQUIRE_SERVERS") == "1":
            pytest.fail(f"ANYSEAL_REQUIRE_SERVERS=1, but {exc}", pytrace=False)
        pytest.skip(str(exc))
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """PostgreSQL, from a wheel."""
    yield from _running(Postgres)


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDb]:
    """MariaDB, from the system."""
    yield from _from_the_system(MariaDb)


@pytest.fixture(scope="session")
def memcached_server() -> Iterator[Memcached]:
    """memcached, from the system."""
    yield from _from_the_system(Memcached)


@pytest.fixture(scope="session")
def cache_server() -> Iterator[CacheApi]:
    """The HTTP cache API, from this package."""
    yield from _running(CacheApi)


@pytest.fixture
def cache_api(cache_server: CacheApi) -> str:
    """Its address, with no entries behind it."""
    cache_server.empty()
    return cache_server.url


@pytest.fixture(scope="session")
def moto_server() -> Iterator[Moto]:
    """AWS, from a wheel."""
    yield from _running(Moto)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Redis, from a wheel."""
    yield from _running(RedisServer)


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """A Redis cluster of three nodes, from a wheel."""
    yield from _running(RedisCluster)


@pytest.fixture(scope="session")
def weed_server() -> Iterator[SeaweedFS]:
    """S3, from a wheel."""
    yield from _running(SeaweedFS)
