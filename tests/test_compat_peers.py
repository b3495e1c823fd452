"""The compatible caches and the packages that they stand for: each reads what the other wrote.

In a process of their own: what those packages do at import is not these tests' business.
"""

from __future__ import annotations

from storage_servers import RedisServer
from support import run_python, said

pytest_plugins = ["server_fixtures"]

CACHEKIT = """
    import datetime, logging, os, sys, uuid, warnings
    warnings.simplefilter("ignore")  # those packages' own
    logging.disable()
    url = sys.argv[1]
    os.environ["CACHEKIT_REDIS_URL"] = url
    from functools import partial
    import pandas
    import redis
    from cachekit import cache as theirs
    from cachekit.backends.redis import RedisBackend
    from cachekit.serializers import EncryptionWrapper as TheirWrapper
    from cachekit.serializers import OrjsonSerializer as TheirOrjson
    from anyseal.compat.cachekit import EncryptionWrapper, OrjsonSerializer, cache as ours

    HEX, OLD = "ab" * 32, "cd" * 32
    client = redis.Redis.from_url(url)
    calls = []
    plain = [None, True, -(2**63), 1.5, "Zoë", [1, [2]], {"a": {"b": [1]}}, "x" * 300_000]
    dated = [
        b"\\x00\\xff", 2**64 - 1, datetime.date(2026, 1, 2), datetime.time(3, 4),
        datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
    ]
    frame = pandas.DataFrame({"id": [1, 2], "name": ["Ada", "Bob"]})

    def load(n, full=True):
        calls.append(n)
        return values[n]

    def both(name, form, **settings):
        for writer, reader in ((theirs, ours), (ours, theirs)):
            client.flushdb()
            calls.clear()
            written, read = (
                form(each)(**{k: v(each) if k == "backend" else v for k, v in settings.items()})
                (load) for each in (writer, reader)
            )
            for n, value in enumerate(values):
                written(n)
                found = read(n)
                assert found.equals(value) if values == [frame] else found == value, (name, n)
            assert calls == list(range(len(values))), (name, writer, calls)
        print(name)

    # Without its copies in the process: Redis is what is shared.
    shared = lambda cache, form: partial(form, l1_enabled=False) if cache is theirs else form
    secure = lambda cache: shared(cache, cache.secure)
    bare = lambda cache: shared(cache, cache)
    backend = lambda cache: RedisBackend(url) if cache is theirs else url
    values = plain + dated
    both("default", secure, ttl=300, master_key=HEX, namespace="users")
    both("long key", secure, ttl=300, master_key=HEX + "01")
    both("key=", secure, ttl=300, master_key=HEX, key=lambda n, full=True: f"k{n}")
    both("unprefixed", secure, ttl=300, master_key=HEX, backend=backend)
    both("deployment", secure, ttl=300, master_key=HEX, deployment_uuid=str(uuid.UUID(int=7)))
    both("in the clear", bare, ttl=300)
    values = plain
    both("orjson", secure, ttl=300, master_key=HEX, serializer="orjson")
    both("interop", secure, ttl=300, master_key=HEX, interop="get", namespace="users",
         backend=backend)
    values = [frame]
    both("arrow", secure, ttl=300, master_key=HEX, serializer="arrow")

    values = ["under the old key"]
    client.flushdb()
    calls.clear()
    theirs.secure(ttl=300, master_key=OLD)(load)(0)
    os.environ["CACHEKIT_PREVIOUS_MASTER_KEYS"] = OLD
    assert values[0] == ours.secure(ttl=300, master_key=HEX)(load)(0)
    assert [0] == calls
    del os.environ["CACHEKIT_PREVIOUS_MASTER_KEYS"]
    print("rotation")

    key = bytes.fromhex(HEX)
    their, our = TheirWrapper(TheirOrjson(), key), EncryptionWrapper(OrjsonSerializer(), key)
    sealed, metadata = their.serialize({"n": 1}, cache_key="k")
    assert {"n": 1} == our.deserialize(sealed, metadata, cache_key="k")
    sealed, told = our.serialize({"n": 2}, cache_key="k")
    metadata = type(metadata).from_dict(told.to_dict())
    assert {"n": 2} == their.deserialize(sealed, metadata, cache_key="k")
    old = bytes.fromhex(OLD)
    sealed, told = EncryptionWrapper(OrjsonSerializer(), old).serialize([4], cache_key="k")
    rotated = TheirWrapper(TheirOrjson(), key, previous_master_keys=[old])
    assert [4] == rotated.deserialize(sealed, type(metadata).from_dict(told.to_dict()), "k")
    mixed = EncryptionWrapper(TheirOrjson(), key)
    assert {"n": 3} == mixed.deserialize(*mixed.serialize({"n": 3}, "k"), cache_key="k")
    print("wrapper")
"""

DUCK = """
    import asyncio, datetime, tempfile, warnings
    warnings.simplefilter("ignore")
    from duck.utils.caching import InMemoryCache, PersistentFileCache
    from duck.utils.caching.encrypted import EncryptedCache as Theirs
    from anyseal.compat.duck import EncryptedCache as Ours

    KEY = "0123456789abcdef0123456789abcdef"
    VALUE = {"user_id": 42, "at": datetime.datetime(2026, 1, 2), "s": {1}, "t": (1, b"x", None)}
    calls = []

    def load(n, full=True):
        calls.append(n)
        return [n]

    async def both(writer, reader):
        writer.set("k", VALUE, expiry=60)
        assert VALUE == reader.get("k") == reader.pop("k")
        assert "gone" == writer.get("k", "gone")
        await writer.async_set("k", VALUE, expiry=60)
        assert VALUE == await reader.async_get("k") == await reader.async_pop("k")
        try:
            await reader.async_pop("k")
        except KeyError:
            pass
        else:
            raise AssertionError("not gone")
        writer.cache(expiry=60)(load)(1, full=False)
        assert [1] == reader.cache(expiry=60)(load)(1, full=False)
        assert [1] == calls
        calls.clear()
        await reader.async_clear()

    with tempfile.TemporaryDirectory() as folder:
        for backend in (InMemoryCache(), PersistentFileCache(folder)):
            theirs, ours = Theirs(backend, KEY), Ours(backend, KEY)
            asyncio.run(both(theirs, ours))
            asyncio.run(both(ours, theirs))
            print(type(backend).__name__)
            ours.close()
"""


def test_cachekit_and_ours_read_each_other(redis_server: RedisServer) -> None:
    """Services move over one by one: both share one Redis meanwhile."""
    expected = [
        "default", "long key", "key=", "unprefixed", "deployment", "in the clear", "orjson",
        "interop", "arrow", "rotation", "wrapper",
    ]  # fmt: skip
    assert expected == said(run_python(CACHEKIT, redis_server.url[:-1] + "9"))


def test_duck_and_ours_read_each_other() -> None:
    """A session that one of them stored is known to the other."""
    assert ["InMemoryCache", "PersistentFileCache"] == said(run_python(DUCK))
