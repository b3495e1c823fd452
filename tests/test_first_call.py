"""The first awaited call of a process imports nothing: what it needs came when its object was made.

anyio's half for asyncio takes 14 to 77 ms to import, during which the event loop stands still.
"""

from __future__ import annotations

import textwrap

import pytest

from support import run_python, said

START = """
    import asyncio, logging, os, pathlib, sys, tempfile
    logging.disable()
    import anyseal
    from anyseal.kms import StaticKms
    from anyseal.metastore import MemoryMetastore
    master, folder, payload = "ab" * 32, tempfile.mkdtemp(), bytes(2 << 20)
    def factory(kms, metastore):
        hierarchy = anyseal.KeyHierarchy(
            kms, metastore, service="s", product="p", allow_testing_kms=True)
        return anyseal.SessionFactory(hierarchy)
    def cache_over(backend):
        from anyseal.cache import Cache
        return Cache(backend, anyseal.Key.generate())
    async def used(cache):
        async def compute():
            return {"a": 1}
        async with cache:
            await cache.set("key", {"a": 1})
            await cache.set("large", payload)
            await cache.get("large")
            await cache.get_or_set("other", compute)
    async def recorded(factory):
        async with factory:
            session = factory.session("partition")
            for data in (b"x", payload):
                await session.decrypt(await session.encrypt(data))
"""

END = """
    async def main():
        before = set(sys.modules)
        try:
            await call()
        except anyseal.AnysealError:  # no server answers
            pass
        print(sorted(set(sys.modules) - before))
    assert "anyio._backends._asyncio" in sys.modules
    asyncio.run(main())
"""

SERVICES = {
    "key": """
        key = anyseal.Key.generate()
        async def call():
            for data in (b"x", payload):
                await anyseal.open(await anyseal.seal(data, key), key)
    """,
    "static keyring": """
        keyring = anyseal.StaticKeyring(master)
        async def call():
            await anyseal.seal(payload, keyring, partition="p")
    """,
    "passphrase keyring": """
        keyring = anyseal.PassphraseKeyring("correct horse", memory_log2_kib=3)
        async def call():
            await anyseal.seal(payload, keyring, partition="p")
    """,
    "objects": """
        key = anyseal.Key.generate()
        async def call():
            sink = anyseal.MemorySink()
            async with anyseal.ObjectWriter(sink, key) as writer:
                await writer.write(payload)
            source = anyseal.MemorySource(sink.getvalue())
            async with await anyseal.ObjectReader.open(source, key) as reader:
                await reader.read_range(0)
    """,
    "files": """
        key = anyseal.Key.generate()
        plain = os.path.join(folder, "plain")
        pathlib.Path(plain).write_bytes(payload)
        async def call():
            await anyseal.seal_file(plain, plain + ".s", key)
            await anyseal.open_file(plain + ".s", plain + ".o", key)
    """,
    "sessions": """
        made = factory(StaticKms(master), MemoryMetastore())
        async def call():
            await recorded(made)
    """,
    "SQL": """
        from anyseal.metastore import SqlMetastore
        metastore = SqlMetastore(f"sqlite:///{folder}/keys.db")
        made = factory(StaticKms(master), metastore)
        async def call():
            await metastore.create_table()
            await recorded(made)
    """,
    "AWS": """
        from anyseal.kms import AwsKms
        os.environ.update(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x")
        kms = AwsKms("arn:aws:kms:eu-west-1:111122223333:key/x", endpoint_url="http://127.0.0.1:1",
                     timeout=1, attempts=1)
        made = factory(kms, MemoryMetastore())
        async def call():
            await recorded(made)
    """,
    "Vault": """
        from anyseal.kms import TokenAuth, VaultTransitKms
        kms = VaultTransitKms(
            "http://127.0.0.1:1", "key", auth=TokenAuth("x"), timeout=1, attempts=1)
        made = factory(kms, MemoryMetastore())
        async def call():
            await recorded(made)
    """,
    "cache in memory": """
        from anyseal.cache import MemoryBackend
        cache = cache_over(MemoryBackend())
        async def call():
            await used(cache)
    """,
    "cache in SQLite": """
        from anyseal.cache import SQLiteBackend
        cache = cache_over(SQLiteBackend(os.path.join(folder, "cache.db")))
        async def call():
            await used(cache)
    """,
    "cache in Redis": """
        from anyseal.cache import RedisBackend
        cache = cache_over(RedisBackend.from_url("redis://127.0.0.1:1"))
        async def call():
            await used(cache)
    """,
    "cache behind HTTP": """
        from anyseal.cache import HttpBackend
        cache = cache_over(HttpBackend("http://127.0.0.1:1/api", token="x"))
        async def call():
            await used(cache)
    """,
    "cache in memcached": """
        from anyseal.cache import MemcachedBackend
        cache = cache_over(MemcachedBackend("127.0.0.1", 1))
        async def call():
            await used(cache)
    """,
    "duck": """
        from anyseal.compat import duck
        class Store(dict):
            def set(self, key, value, expiry=None):
                self[key] = value
            def delete(self, key):
                self.pop(key, None)
        cache = duck.EncryptedCache(Store(), master[:32])
        async def call():
            await cache.async_set("key", payload)
            await cache.async_get("key")
    """,
    "asherah": """
        from anyseal.compat import asherah
        asherah.setup({"ServiceName": "s", "ProductID": "p", "KMS": "static",
                       "Metastore": "memory", "StaticMasterKeyHex": master})
        async def call():
            await asherah.encrypt_bytes_async("partition", payload)
    """,
    "lenzeye": """
        from anyseal.compat import lenzeye
        async def call():
            await lenzeye.encrypt_multipart_chunk_async(payload, bytes(32), bytes(16), 0)
    """,
}
OFTEN = ("key", "sessions", "AWS", "cache in memory", "cache behind HTTP", "duck")


@pytest.mark.parametrize(
    "service",
    [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in SERVICES],
)
def test_the_first_awaited_call_imports_nothing(service: str) -> None:
    """A service that is started and then asked must answer the first request as the second."""
    code = textwrap.dedent(START) + textwrap.dedent(SERVICES[service]) + textwrap.dedent(END)
    assert ["[]"] == said(run_python(code))[-1:]


AWS = {
    "s3": ("from anyseal.s3 import SealedBucket as kind", "kind(Client(), 'b', key)"),
    "kms": ("from anyseal.kms import AwsKms as kind", "kind({'eu-west-1': 'k'})"),
    "secrets": (
        "from anyseal.kms import SecretsManagerKms as kind",
        "kind('s', region='eu-west-1')",
    ),
    "dynamodb": ("from anyseal.metastore import DynamoDbMetastore as kind", "kind()"),
}


@pytest.mark.parametrize("service", AWS)
def test_objects_of_aws_made_in_an_event_loop_import_nothing(service: str) -> None:
    """Services make them in ``async def main``: the loop stood still, while files were read."""
    load, make = AWS[service]
    code = f"""
        import asyncio, sys
        import anyseal
        key = anyseal.Key.generate()
        {load}
        class Client:
            meta = None
        async def main():
            before = set(sys.modules)
            {make}
            print(sorted(set(sys.modules) - before))
        asyncio.run(main())
    """
    assert ["[]"] == said(run_python(code))
