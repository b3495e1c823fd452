"""What a newcomer's mistake is told: one clear error of a fitting type, which ends in the remedy.

Each line of ``SAID`` is what somebody would write who thought of the wrong object, and the whole of
what is said then, on both faces.
"""

# ruff: noqa: E501 - sentences as they are said
from __future__ import annotations

import asyncio
import base64
import datetime
import inspect
import io
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any

import boto3
import httpx
import pytest
import redis
import redis.asyncio as redis_async
import sqlalchemy

import anyseal
from anyseal import cache, errors, s3, sync
from anyseal.kms import AwsKms, SecretsManagerKms, StaticKms, VaultTransitKms
from anyseal.metastore import DynamoDbMetastore, MemoryMetastore, SqlMetastore
from shell import Shell

NAMES = {
    "ARN": "arn:aws:kms:us-east-1:111122223333:key/x",
    "AwsKms": AwsKms,
    "DynamoDbMetastore": DynamoDbMetastore,
    "SecretsManagerKms": SecretsManagerKms,
    "base64": base64,
    "boto3": boto3,
    "VaultTransitKms": VaultTransitKms,
    "datetime": datetime,
    "httpx": httpx,
    "io": io,
    "redis": redis,
    "redis_async": redis_async,
    "s3": s3,
}
HEX = "8f" * 32
KEY = anyseal.Key.from_hex(HEX)
KEYS = anyseal.StaticKeyring(HEX)
KMS = StaticKms(HEX)
VALUE = sync.seal(b"secret", KEY)
FERNET = (
    "gAAAAABmT1v0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"
)


class AsyncSource:
    """One that waits for a network."""

    async def ends(self, head: int, tail: int) -> Any:
        raise NotImplementedError

    async def read(self, offset: int, length: int) -> bytes:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError


class AsyncEngine:
    """As SQLAlchemy's (which needs greenlet): it has a sync one inside."""

    sync_engine = None


class AsyncDialect:
    """An engine that was taken out of an async one."""

    def __new__(cls) -> Any:
        engine = sqlalchemy.create_engine("sqlite://")
        engine.dialect.is_async = True
        return engine


def hierarchy(**more: Any) -> anyseal.KeyHierarchy:
    return anyseal.KeyHierarchy(KMS, MemoryMetastore(), service="s", product="p", **more)


def session() -> anyseal.Session:
    return anyseal.SessionFactory(hierarchy()).session("p")


def sync_session() -> sync.Session:
    return sync.SessionFactory(hierarchy()).session("p")


def a_cache() -> cache.Cache:
    return cache.Cache(cache.MemoryBackend(), KEYS, namespace="n")


def sync_cache() -> sync.Cache:
    return sync.Cache(sync.MemoryBackend(), KEYS, namespace="n")


def a_coroutine() -> Any:
    """What a call gives that was not awaited."""
    made = anyseal.seal(b"", KEY)
    made.close()
    return made


async def a_with(thing: Any) -> None:
    async with thing:
        pass


def a_plain_with(thing: Any) -> None:
    with thing:
        pass


HIERARCHY = (
    "KeyHierarchy(kms, metastore, service=..., product=...) makes one, and "
    "SessionFactory.from_config() and .from_env() make both; a Key or another keyring goes to "
    "seal() and open()"
)
RECORD = "TypeError: a record must be str or bytes, not "
NULL = RECORD + "NoneType: the database has no row, or NULL: look before decrypting"
PARSED = RECORD + "dict: json.dumps(record) first (a JSON column has parsed it)"
FERNET_SAID = ", but a Fernet token: cryptography.fernet opens it"
TEXT_SAID = ", but a sealed value as base64: open_text() opens what seal_text() gave"
SOURCE = "TypeError: source must be a FileSource, MemorySource or the like, not "
SINK = "TypeError: sink must be a FileSink, MemorySink, StreamSink or the like, not "
ASYNC_WITH = "use `async with`; anyseal.sync has what goes with `with`"
WITH = "use `with`; anyseal has what goes with `async with`"
MASTER = "TypeError: master_key must be a Key, 32 bytes or 64 hexadecimal characters, not "
A_KEY = "TypeError: the key must be a Key or a Keyring, not "
MADE = ": StaticKeyring(master_key) or Key.from_hex(text) makes one"
AWAIT = "coroutine: await it first; in anyseal.sync nothing is awaited"
ENGINE = "TypeError: database must be a URL or a sync SQLAlchemy Engine, not "

CLIENT = "TypeError: client must be an aiobotocore S3 client, not "
CONNECT = ": SealedBucket.connect(bucket, keyring) makes one, also in anyseal.sync"
SESSION = (
    "TypeError: session must be an aiobotocore AioSession, not boto3.session.Session: "
    "aiobotocore.session.get_session() makes one; profile= and the environment need none"
)
MEMCACHED = (
    "ConfigurationError: memcached's host must be a name or an address alone: "
    "MemcachedBackend(host, port), or backend_from_url(url)"
)
MASTER_KEY = "ConfigurationError: master_key must be hex-encoded, 32 bytes or a Key, not "

SAID = {
    # Sessions
    "anyseal.SessionFactory(KEYS)": "TypeError: hierarchy must be a KeyHierarchy, not StaticKeyring: "
    + HIERARCHY,
    "sync.SessionFactory(KEYS)": "TypeError: hierarchy must be a KeyHierarchy, not StaticKeyring: "
    + HIERARCHY,
    "anyseal.SessionFactory(KMS)": "TypeError: hierarchy must be a KeyHierarchy, not StaticKms: "
    + HIERARCHY,
    "anyseal.SessionFactory(None)": "TypeError: hierarchy must be a KeyHierarchy, not NoneType: "
    + HIERARCHY,
    "anyseal.SessionFactory({'KMS': 'aws'})": "TypeError: hierarchy must be a KeyHierarchy, not dict: "
    "SessionFactory.from_config() takes settings or the path of a file",
    "sync.SessionFactory('settings.json')": "TypeError: hierarchy must be a KeyHierarchy, not str: "
    "SessionFactory.from_config() takes settings or the path of a file",
    "anyseal.SessionFactory.from_config(None)": "TypeError: path must be str or a Path, not NoneType: "
    "settings are a mapping, or the path of a file",
    "anyseal.KeyHierarchy(KEYS, MemoryMetastore(), service='s', product='p')": "TypeError: kms must "
    "be an object with async wrap and unwrap, not StaticKeyring: AwsKms and VaultTransitKms are, and "
    "StaticKms(master_key) for tests",
    "anyseal.KeyHierarchy(MemoryMetastore(), KMS, service='s', product='p')": "TypeError: kms must "
    "be an object with async wrap and unwrap, not MemoryMetastore: the order is "
    "KeyHierarchy(kms, metastore)",
    "anyseal.KeyHierarchy(KMS, 'sqlite:///k.db', service='s', product='p')": "TypeError: metastore "
    "must be an object with async load, load_latest and store, not str: SqlMetastore(url), "
    "DynamoDbMetastore and MemoryMetastore are",
    "anyseal.KeyHierarchy(KMS, AsyncEngine(), service='s', product='p')": "TypeError: metastore must "
    "be an object with async load, load_latest and store, not AsyncEngine: SqlMetastore(engine) makes "
    "one of a sync Engine",
    "hierarchy(policy={})": "TypeError: policy must be a CryptoPolicy, not dict: "
    "CryptoPolicy(**settings) makes one",
    "session().decrypt(None)": NULL,
    "session().decrypt_text(None)": NULL,
    "session().decrypt_row(None)": NULL,
    "session().decrypt_many([None])": NULL,
    "sync_session().decrypt(None)": NULL,
    "sync_session().decrypt_text(None)": NULL,
    "sync_session().decrypt_many([None])": NULL,
    "session().decrypt({'Key': {}})": PARSED,
    "sync_session().decrypt({'Key': {}})": PARSED,
    "sync_session().decrypt(a_coroutine())": RECORD + AWAIT,
    "session().decrypt(7)": RECORD + "int",
    "session().decrypt(VALUE)": "FormatError: the row is not JSON, but a sealed value: open() opens it",
    "sync_session().decrypt(FERNET)": "FormatError: the row is not JSON" + FERNET_SAID,
    "session().decrypt('')": "FormatError: the row is not JSON, but empty",
    "session().encrypt('x')": "TypeError: data must be bytes-like, not str: encode it first, "
    "text.encode()",
    "sync_session().encrypt_text(b'x')": "TypeError: text must be str, not bytes: encrypt() takes bytes",
    "anyseal.SessionFactory(hierarchy()).session(42)": "TypeError: partition must be str, not int: "
    "str(id)",
    # Metastores
    "SqlMetastore(AsyncEngine())": ENGINE + "AsyncEngine: pass the URL, or create_engine(url): "
    "SqlMetastore awaits it in worker threads",
    "SqlMetastore(AsyncDialect())": ENGINE + "sqlalchemy.engine.base.Engine: its driver is async; "
    "pass create_engine(url) with psycopg or pymysql",
    "SqlMetastore('postgresql+asyncpg://localhost/x')": "ConfigurationError: connection string: its "
    "scheme must be sqlite, postgresql or mysql (drivers: pysqlite, psycopg, pymysql); leave an async "
    "driver out: SqlMetastore awaits a sync one in worker threads",
    "SqlMetastore(pathlib.Path('k.db'))": ENGINE + "PosixPath: SqlMetastore(f'sqlite:///{path}')",
    "SqlMetastore('k.db')": "ConfigurationError: connection string: neither a database URL (a file: "
    "sqlite:///keys.db) nor user:password@tcp(host:port)/database",
    "SqlMetastore(None)": ENGINE + "NoneType",
    # The wrong kind of with
    "a_plain_with(SqlMetastore('sqlite:///k.db'))": "MisuseError: SqlMetastore: use `async with`",
    "a_plain_with(MemoryMetastore())": "MisuseError: MemoryMetastore: use `async with`",
    "a_plain_with(hierarchy())": "MisuseError: KeyHierarchy: use `async with`",
    "a_plain_with(KMS)": "MisuseError: StaticKms: use `async with`",
    "a_plain_with(session())": f"MisuseError: Session: {ASYNC_WITH}",
    "a_plain_with(anyseal.SessionFactory(hierarchy()))": f"MisuseError: SessionFactory: {ASYNC_WITH}",
    "a_plain_with(anyseal.ObjectWriter(anyseal.MemorySink(), KEY))": "MisuseError: ObjectWriter: "
    + ASYNC_WITH,
    "a_plain_with(a_cache())": f"MisuseError: Cache: {ASYNC_WITH}",
    "a_with(sync_session())": f"MisuseError: Session: {WITH}",
    "a_with(sync.SessionFactory(hierarchy()))": f"MisuseError: SessionFactory: {WITH}",
    "a_with(sync.ObjectWriter(sync.MemorySink(), KEY))": f"MisuseError: ObjectWriter: {WITH}",
    "a_with(sync_cache())": f"MisuseError: Cache: {WITH}",
    "a_with(KEY)": f"MisuseError: Key: {WITH}",
    # Values
    "anyseal.open(FERNET.encode(), KEY)": "FormatError: not a sealed value" + FERNET_SAID,
    "sync.open(FERNET.encode(), KEYS, partition='t')": "FormatError: not a sealed value"
    + FERNET_SAID,
    "sync.open(memoryview(FERNET.encode()), KEY)": "FormatError: not a sealed value" + FERNET_SAID,
    "sync.open_into(bytearray(99), FERNET.encode(), KEY)": "FormatError: not a sealed value"
    + FERNET_SAID,
    "anyseal.open_text(FERNET, KEY)": "FormatError: not the text of anything sealed" + FERNET_SAID,
    "sync.open_text(FERNET[:-1], KEY)": "FormatError: not the text of anything sealed"
    + FERNET_SAID,
    "anyseal.inspect(FERNET.encode())": "FormatError: neither a sealed value nor a sealed object"
    + FERNET_SAID,
    "sync.open(sync.seal_text(b'x', KEY).encode(), KEY)": "FormatError: not a sealed value"
    + TEXT_SAID,
    "anyseal.open(base64.b64encode(VALUE), KEY)": "FormatError: not a sealed value" + TEXT_SAID,
    "sync.open(VALUE.hex().encode(), KEY)": "FormatError: not a sealed value, but a sealed value in "
    "hexadecimal: bytes.fromhex() first",
    "sync.open(repr(VALUE).encode(), KEY)": "FormatError: not a sealed value, but the repr of bytes: "
    "store the bytes, or the text of seal_text()",
    "sync.open(b'ANYSEAL\\x01' + bytes(99), KEY)": "FormatError: not a sealed value, but a sealed "
    "object: ObjectReader or open_file() opens it",
    "anyseal.open(b'{\"Key\":{}}', KEY)": "FormatError: not a sealed value, but JSON: a session's "
    "decrypt() opens records",
    "sync.open(b'', KEY)": "FormatError: not a sealed value, but empty",
    "sync.open(sync.seal_text(b'x', KEY), KEY)": "TypeError: sealed must be bytes-like, not str: "
    "open_text() opens what seal_text() gave; open_file() takes a path",
    "sync.open(pathlib.Path('x'), KEY)": "TypeError: sealed must be bytes-like, not PosixPath: "
    "seal_file() and open_file() take paths",
    "sync.open(a_coroutine(), KEY)": "TypeError: sealed must be bytes-like, not " + AWAIT,
    "sync.open_text(b'x', KEY)": "TypeError: text must be a str, not bytes: open() takes bytes; "
    "text.decode() if they are a cookie's",
    "anyseal.seal('text', KEY)": "TypeError: data must be bytes-like, not str: encode it first, "
    "text.encode()",
    "sync.seal({'a': 1}, KEY)": "TypeError: data must be bytes-like, not dict: serialise it first, "
    "such as json.dumps(data).encode()",
    "anyseal.seal({'a': 1}, KEY)": "TypeError: data must be bytes-like, not dict: serialise it first, "
    "such as json.dumps(data).encode()",
    "sync.seal(io.BytesIO(b'x'), KEY)": "TypeError: data must be bytes-like, not BytesIO: read it "
    "first; ObjectWriter and StreamOpener take streams",
    "sync.seal(b'', KEY, context='c')": "TypeError: context must be bytes-like, not str: encode it "
    "first, text.encode()",
    "sync.seal(b'', KEY, expires_at=60)": "ValueError: expires_at is in the past: it counts from "
    "1970, so time.time() + seconds",
    "sync.seal(b'', KEY, expires_at=datetime.timedelta(1))": "TypeError: expires_at must be seconds "
    "or a datetime, not timedelta: datetime.now(UTC) + lifetime",
    "sync.seal(b'', KEYS, partition=7)": "TypeError: partition= is needed with a keyring, and must be "
    "a str, not int",
    # Keys
    "sync.seal(b'', HEX)": A_KEY + "str" + MADE,
    "anyseal.seal(b'', bytes(32))": A_KEY + "bytes" + MADE,
    "cache.Cache(cache.MemoryBackend(), HEX, namespace='n')": A_KEY + "str" + MADE,
    "anyseal.StreamOpener(HEX)": A_KEY + "str" + MADE,
    "sync.seal(b'', None)": A_KEY
    + "NoneType: StaticKeyring.from_env() reads one from the environment",
    "sync.seal(b'', KMS)": A_KEY + "StaticKms: KeyHierarchy(kms, metastore, service=..., "
    "product=...) makes one",
    "sync.seal(b'', sync.SessionFactory(hierarchy()), partition='p')": A_KEY
    + "SessionFactory: its "
    "hierarchy is one: factory.hierarchy",
    "sync.seal(b'', anyseal.StaticKeyring)": "TypeError: the key must be a Key or a Keyring, not the "
    "class StaticKeyring: make one",
    "anyseal.Key(HEX)": "TypeError: use Key.generate(), Key.from_bytes() or Key.from_hex()",
    "anyseal.StaticKeyring(None)": MASTER + "NoneType: StaticKeyring.from_env() reads it from the "
    "environment",
    "StaticKms(pathlib.Path('k'))": MASTER + "PosixPath: path.read_text() reads it",
    "anyseal.StaticKeyring([HEX])": MASTER
    + "list: the current key first, previous= takes a list of "
    "older ones",
    "anyseal.StaticKeyring(HEX.encode())": "ConfigurationError: master_key: a key has 32 bytes, not "
    "64; as hexadecimal text it is a str",
    # Objects
    "anyseal.ObjectReader.open('x.sealed', KEY)": SOURCE + "str: FileSource(path) makes one, "
    "HttpSource(url) another",
    "sync.ObjectReader.open(pathlib.Path('x'), KEY)": SOURCE
    + "PosixPath: FileSource(path) makes one, "
    "HttpSource(url) another",
    "anyseal.ObjectReader.open(VALUE, KEY)": SOURCE + "bytes: MemorySource(data) makes one",
    "sync.ObjectReader.open(io.BytesIO(), KEY)": SOURCE + "BytesIO: FileSource(path) makes one; "
    "StreamOpener opens a stream from its start",
    "sync.ObjectReader.open(AsyncSource(), KEY)": SOURCE + "AsyncSource: it is an "
    "async one: take it from anyseal.sync",
    "anyseal.ObjectWriter('x.sealed', KEY)": SINK + "str: FileSink(path) makes one",
    "sync.ObjectWriter(io.BytesIO(), KEY)": SINK + "BytesIO: StreamSink(file) makes one",
    "anyseal.ObjectWriter(bytearray(9), KEY)": SINK + "bytearray: MemorySink(buffer) makes one",
    "anyseal.FileSource(b'data')": "TypeError: path must be str or a Path, not bytes: "
    "MemorySource(data) reads bytes",
    "sync.seal_file(b'content', 'x', KEY)": "TypeError: path must be str or a Path, not bytes: "
    "MemorySource(data) reads bytes",
    "anyseal.MemorySource('x')": "TypeError: data must be bytes-like, not str: encode it first, "
    "text.encode()",
    "s3.SealedBucket(boto3.client('s3', region_name='us-east-1'), 'b', KEYS)": "TypeError: client "
    "must be an aiobotocore S3 client, not botocore.client.S3: SealedBucket.connect(bucket, keyring) "
    "makes one, also in anyseal.sync",
    "sync.SealedBucket(boto3.client('s3', region_name='us-east-1'), 'b', KEYS)": "TypeError: client "
    "must be a function such as anyseal.s3.connect, not botocore.client.S3: "
    "SealedBucket.connect(bucket, keyring) needs none",
    "anyseal.StreamSink(io.BytesIO())": "TypeError: send must be a function, not BytesIO",
    "anyseal.StreamSink('x')": "TypeError: send must be a function, not str",
    "sync.StreamSink('x')": "TypeError: file must be a binary file open for writing, not str: FileSink(path) makes a file",
    "anyseal.MemorySink(b'xx')": "TypeError: buffer must be contiguous and writable",
    "anyseal.MemorySink(100)": "TypeError: buffer must be a writable bytes-like object, not int",
    "anyseal.HttpSource(pathlib.Path('x'))": "TypeError: url must be a str, not PosixPath: FileSource(path) reads files",
    "sync.HttpSource('x.sealed')": "ConfigurationError: url must begin with http:// or https:// without a client",
    "anyseal.HttpSource('http://h/x', httpx.Client())": "TypeError: client must be an httpx.AsyncClient, not Client: anyseal.sync takes this one",
    "anext(anyseal.StreamOpener(KEY).open(VALUE))": "TypeError: stream must be an async iterable of bytes, not bytes: ObjectReader.open(MemorySource(data), key) reads it",
    "anext(anyseal.StreamOpener(KEY).open([VALUE]))": "TypeError: stream must be an async iterable of bytes, not list: anyseal.sync.StreamOpener takes it",
    "list(sync.StreamOpener(KEY).open(VALUE))": "TypeError: stream must be an iterable of bytes, not bytes: ObjectReader.open(MemorySource(data), key) reads it",
    "list(sync.StreamOpener(KEY).open('x.sealed'))": "TypeError: stream must be an iterable of bytes, not str: open_file() and ObjectReader.open(FileSource(path), key) read files",
    "s3.SealedBucket(None, 'b', HEX)": A_KEY + "str" + MADE,
    "s3.SealedBucket('http://h', 'b', KEYS)": "TypeError: client must be an aiobotocore S3 client, not str: SealedBucket.connect(bucket, keyring) makes one, also in anyseal.sync",
    "s3.SealedBucket(None, 'b', KEYS)": CLIENT + "NoneType" + CONNECT,
    "s3.SealedBucket(object(), 'b', KEYS)": CLIENT + "object" + CONNECT,
    "s3.SealedBucket(boto3.Session(), 'b', KEYS)": CLIENT + "boto3.session.Session" + CONNECT,
    "s3.SealedBucket(s3.connect(), 'b', KEYS)": CLIENT
    + "_AsyncGeneratorContextManager: async with "
    "it first",
    "AwsKms(ARN, session=boto3.Session())": SESSION,
    "SecretsManagerKms('s', region='us-east-1', session=boto3.Session())": SESSION,
    "DynamoDbMetastore(session=boto3.Session())": SESSION,
    "DynamoDbMetastore(client=boto3.client('dynamodb', region_name='us-east-1'))": "TypeError: client "
    "must be an aiobotocore DynamoDB client, not botocore.client.DynamoDB: leave it out, or pass "
    "session= and region=",
    "cache.MemcachedBackend('localhost:11211')": MEMCACHED,
    "cache.MemcachedBackend('memcached://localhost')": MEMCACHED,
    "sync.MemcachedBackend('localhost:11211')": MEMCACHED,
    "cache.MemcachedBackend('localhost', '11211')": "TypeError: memcached's port must be an int, not "
    "str: MemcachedBackend(host, port)",
    "sync.MemcachedBackend(('localhost', 11211))": "TypeError: memcached's host must be a str, not "
    "tuple: MemcachedBackend(host, port)",
    "cache.secure(master_key=KEYS)": MASTER_KEY + "StaticKeyring: Key.from_bytes(), or "
    "Cache(backend, keyring)",
    "cache.secure(master_key=object())": MASTER_KEY + "object: Key.from_bytes(), or "
    "Cache(backend, keyring)",
    "hierarchy(metrics='x')": "TypeError: metrics must be a function, not str",
    "anyseal.SessionFactory(hierarchy(), audit='x')": "TypeError: audit must be a function, not str",
    "VaultTransitKms('https://v', 'key', auth='s.token')": "TypeError: auth must be a TokenAuth, AppRoleAuth or the like, not str: TokenAuth(token)",
    # The cache
    "cache.Cache(sync.MemoryBackend(), KEYS, namespace='n')": "TypeError: BlockingMemoryBackend is "
    "not an async backend: it is a blocking one, for anyseal.sync.Cache; those for this cache are in "
    "anyseal.cache",
    "sync.Cache(cache.MemoryBackend(), KEYS, namespace='n')": "TypeError: MemoryBackend is not a "
    "blocking backend: it is an async one, for anyseal.cache.Cache; those for this cache are in "
    "anyseal.sync",
    "a_cache().get_or_set('k', 'value')": "TypeError: factory must be a function, not str: it is called if the value is missing, so without ()",
    "a_cache().get_or_set('k', a_coroutine())": "TypeError: factory must be a function, not coroutine: it is called if the value is missing, so without ()",
    "sync_cache().get_or_set('k', 'value')": "TypeError: factory must be a function, not str: it is called if the value is missing, so without ()",
    "cache.RedisBackend(redis.Redis())": "ConfigurationError: expected a redis.asyncio.Redis or "
    "RedisCluster, not redis.Redis: redis.asyncio.from_url(url) makes one",
    "sync.RedisBackend(redis_async.Redis())": "ConfigurationError: expected a redis.Redis or "
    "RedisCluster, not redis.asyncio.Redis: redis.from_url(url) makes one",
    "cache.RedisBackend('redis://localhost')": "ConfigurationError: expected a redis.asyncio.Redis or "
    "RedisCluster, not builtins.str: anyseal.cache.RedisBackend.from_url(url) makes one",
    "cache.SQLiteBackend('sqlite:///c.db')": "ConfigurationError: path is a URL: "
    "backend_from_url(url) takes one",
    "sync.SQLiteBackend(None)": "TypeError: path must be str or a Path, not NoneType",
}


@pytest.mark.parametrize("code", SAID)
def test_message_says_the_remedy(
    code: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who meets it in the first hour does not read the source."""
    monkeypatch.chdir(tmp_path)
    assert SAID[code] == message(code)
    assert HEX not in message(code)
    assert [] == list(tmp_path.iterdir())


WRONG = {
    "None": None,
    "dict": {},
    "list": [1],
    "str": "text",
    "int": 1,
    "path": pathlib.Path("x"),
    "stream": io.BytesIO(),
    "class": bytes,
    "strided": memoryview(VALUE * 2)[::2],
    "no coroutine": (each for each in ()),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize(
    "verb", ["seal", "seal_into", "seal_text", "open", "open_into", "open_text", "inspect"]
)
def test_messages_of_both_faces_are_the_same(verb: str, wrong: Any) -> None:
    """What is written on one face is looked up for the other: `await open(None, key)` spoke of a
    memoryview."""
    buffer = [bytearray(400)] if verb.endswith("_into") else []
    for key in ([],) if verb == "inspect" else ([KEY], [KEYS]):
        said = []
        for face in (anyseal, sync):
            if hasattr(face, verb):
                call = partial(getattr(face, verb), *buffer, wrong, *key)
                said.append(message_of(call if key != [KEYS] else partial(call, partition="t")))
        assert said[0].startswith("TypeError: ") or verb == "open_text"
        assert not said[0].startswith("TypeError: memoryview")
        assert {said[0]} == set(said)


async def awaited(call: Any) -> Any:
    return await call


def message(code: str) -> str:
    """What *code* raises, called or awaited."""
    return message_of(lambda: eval(code, NAMES | globals()))


def message_of(call: Callable[[], Any]) -> str:
    """What *call* raises, called or awaited."""
    try:
        result = call()
        if inspect.isawaitable(result):
            result = asyncio.run(awaited(result))
    except (errors.AnysealError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return f"returned {result!r}"


async def _metastores() -> None:
    async with SqlMetastore("sqlite:///k.db") as found, MemoryMetastore() as memory:
        assert await found.load_latest("x") is await memory.load_latest("x") is None


def test_metastores_are_used_with_async_with(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As each KMS is; whoever gives one to a factory needs none."""
    monkeypatch.chdir(tmp_path)
    asyncio.run(_metastores())


def test_wrong_with_makes_no_context_manager() -> None:
    """What asks whether an object is a context manager is not misled by the remedy."""
    import contextlib

    for thing, kind in (
        (a_cache(), contextlib.AbstractContextManager),
        (sync_cache(), contextlib.AbstractAsyncContextManager),
    ):
        assert not isinstance(thing, kind)
        assert not hasattr(
            thing, "__enter__" if kind is contextlib.AbstractContextManager else "__aenter__"
        )


def test_message_of_the_command_says_the_remedy(shell: Shell) -> None:
    """A wrong key and a wrong context are what a command meets most."""
    shell.ok("keygen", "-o", "one")
    shell.ok("keygen", "-o", "two")
    shell.path("data").write_bytes(b"content")
    shell.ok("seal", "data", "-k", "one", "--context", "c")
    key = (
        "anyseal: data.sealed: the key id is unknown under this partition: give the key it was sealed with (--key-file may be "
        "repeated) and the same --partition; anyseal inspect shows the id of its key\n"
    )
    context = "anyseal: data.sealed: does not verify: it was altered, or --context is not the one it was sealed with\n"
    for verb in (("open", "-o", "-"), ("cat",), ("verify",)):
        command = (verb[0], "data.sealed", *verb[1:])
        for arguments, said in ((("-k", "two", "--context", "c"), key), (("-k", "one"), context)):
            done = shell.run(*command, *arguments)
            assert (1, said) == (done.returncode, done.stderr.decode()), command
