"""The servers as fixtures: one of each per test run. Load with ``pytest_plugins``.

A server that does not start fails the tests that want it. Only one that the system would have to
bring (MariaDB, memcached) is skipped where it is not installed, unless ANYSEAL_REQUIRE_SERVERS=1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from asgi_server import CacheApi
from servers import MariaDb, Moto, Postgres, ServerUnavailableError
from storage_servers import Memcached, RedisCluster, RedisServer, SeaweedFS


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """PostgreSQL, from a wheel."""
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDb]:
    """MariaDB, from the system."""
    try:
        server = MariaDb()
    except ServerUnavailableError as exc:
        if os.environ.get("ANYSEAL_REQUIRE_SERVERS") == "1":
            pytest.fail(f"ANYSEAL_REQUIRE_SERVERS=1, but {exc}", pytrace=False)
        pytest.skip(str(exc))
    yield server
    server.close()


@pytest.fixture(scope="session")
def memcached_server() -> Iterator[Memcached]:
    """memcached, from the system."""
    try:
        server = Memcached()
    except ServerUnavailableError as exc:
        if os.environ.get("ANYSEAL_REQUIRE_SERVERS") == "1":
            pytest.fail(f"ANYSEAL_REQUIRE_SERVERS=1, but {exc}", pytrace=False)
        pytest.skip(str(exc))
    yield server
    server.close()


@pytest.fixture(scope="session")
def cache_server() -> Iterator[CacheApi]:
    """The HTTP cache API, from this package."""
    server = CacheApi()
    yield server
    server.close()


@pytest.fixture
def cache_api(cache_server: CacheApi) -> str:
    """Its address, with no entries behind it."""
    cache_server.empty()
    return cache_server.url


@pytest.fixture(scope="session")
def moto_server() -> Iterator[Moto]:
    """AWS, from a wheel."""
    server = Moto()
    yield server
    server.close()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Redis, from a wheel."""
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """A Redis cluster of three nodes, from a wheel."""
    cluster = RedisCluster()
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def weed_server() -> Iterator[SeaweedFS]:
    """S3, from a wheel."""
    server = SeaweedFS()
    yield server
    server.close()
