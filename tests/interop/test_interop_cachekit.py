"""cachekit 0.24.1 and ours over one Redis: what one stored is a hit of the other.

The peer is real and runs in a process and an environment of its own. Both decorate functions of the
same name with the same settings; a hit is a call that did not run the function.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from anyseal.compat.cachekit import cache
from anyseal.compat.cachekit.stores import RedisStore
from interop.cachekit_values import TAGGED, TYPED, VALUES, make_function
from interop.peers import environment
from storage_servers import RedisServer

pytest_plugins = ["server_fixtures"]
pytestmark = pytest.mark.slow

KEY, OTHER_KEY = "0123456789abcdef" * 4, "fedcba9876543210" * 4
HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def cachekit_python() -> Path:
    """The Python of cachekit's environment. Fails if it cannot be made."""
    return environment("cachekit")


Calls = list[dict[str, Any]]


@pytest.fixture
def peer(cachekit_python: Path, redis_server: RedisServer) -> Callable[..., Calls]:
    """Makes calls with cachekit; what became of them."""

    def run(calls: Calls, **environ: str) -> Calls:
        done = subprocess.run(
            [str(cachekit_python), str(HERE / "cachekit_worker.py")],
            input=json.dumps(calls),
            capture_output=True,
            text=True,
            timeout=120,
            env={
                "PATH": os.environ["PATH"],
                "HOME": tempfile.gettempdir(),
                "CACHEKIT_REDIS_URL": redis_server.url,
                **environ,
            },
        )
        assert 0 == done.returncode, done.stderr[-3000:]
        found: Calls = json.loads(done.stdout)
        return found

    return run


@pytest.fixture(autouse=True)
def client(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty Redis, named by the environment."""
    import redis

    for name in list(os.environ):
        if name.startswith("CACHEKIT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CACHEKIT_REDIS_URL", redis_server.url)
    found = redis.Redis.from_url(redis_server.url)
    found.flushall()
    yield found
    found.close()


@pytest.fixture
def ours(redis_server: RedisServer) -> Iterator[Callable[[Calls], Calls]]:
    """Makes the same calls with ours."""
    stores = [RedisStore(redis_server.url, scoped=scoped) for scoped in (True, False)]

    def outcome(call: dict[str, Any]) -> dict[str, Any]:
        settings, ran = {"l1_enabled": False, **call["settings"]}, list[Any]()
        settings["backend"] = stores[1] if settings.pop("explicit", False) else stores[0]
        if settings.pop("keyed", False):
            settings["key"] = lambda *args, **kwargs: f"k{args[0]}"
        value = {**VALUES, **TAGGED}[call["value"]]
        form: Any = cache if call["form"] == "cache" else getattr(cache, call["form"])
        made = make_function(call["name"], value, ran, is_async=call["async"])
        function = form(**settings)(made)
        if call.get("invalidate"):
            function.invalidate_cache()
            return {"ran": False, "same": True}
        args = TYPED[call["args"]] if isinstance(call["args"], str) else call["args"]
        found = function(*args, **call["kwargs"])
        if call["async"]:
            found = asyncio.run(found)
        return {"ran": bool(ran), "same": found == value}

    yield lambda calls: [outcome(call) for call in calls]
    for store in stores:
        store.close()


def a_call(form: str = "secure", value: str = "map", **settings: Any) -> dict[str, Any]:
    """A call of ``load(7, full=True)``."""
    if form == "secure":
        settings.setdefault("master_key", KEY)
    shape = {"args": [7], "kwargs": {"full": True}, "name": "load", "async": False}
    return {"form": form, "settings": {"ttl": 60, **settings}, "value": value, **shape}


SETTINGS: list[dict[str, Any]] = [
    *(a_call(value=value, namespace=value) for value in VALUES),
    *(a_call("cache", value=value, namespace="plain-" + value) for value in VALUES),
    a_call("cache", serializer="auto", value="tagged", namespace="auto"),
    a_call("cache", serializer="pythonic", value="map", namespace="pythonic"),
    a_call("minimal", serializer="auto", value="tagged", namespace="auto"),
    *({**a_call(namespace="typed"), "args": args}
      for args in TYPED if args not in ("bytearray", "set")),
    *({**a_call(explicit=True, interop="typed", namespace="users"),
       "name": "bound", "kwargs": {}, "args": args} for args in TYPED),
    a_call(namespace="n s"),
    a_call(namespace="s" * 200),
    a_call(serializer="orjson", value="map"),
    a_call("cache", serializer="orjson", namespace="o"),
    a_call("minimal", namespace="minimal"),
    a_call("minimal", serializer="orjson", namespace="minimal"),
    a_call(keyed=True, namespace="keyed"),
    a_call(keyed=True, explicit=True),
    a_call(explicit=True),
    a_call(namespace="d", deployment_uuid="11111111-1111-4111-8111-111111111111"),
    {**a_call(namespace="async"), "async": True},
    {**a_call(namespace="async-large", value="large"), "async": True},
    *({**a_call(namespace="args"), "args": args, "kwargs": kwargs}
      for args, kwargs in [([1, 2], {}), ([True], {}), ([1.0], {}), ([None], {"b": 1, "a": 2}),
                           ([{"z": [1, {"y": -0.0}], "a": "é"}], {}), (["x" * 500], {})]),
    *({**a_call(form, explicit=True, interop="get_user", namespace="users", value=value),
       "name": "bound", "kwargs": {}, "args": args}
      for form, value, args in [("secure", "map", [42]), ("secure", "dates", [43]),
                                ("cache", "binary", [44, 2.5]), ("secure", "none", ["é", None])]),
]  # fmt: skip

MISS, HIT = {"ran": True, "same": True}, {"ran": False, "same": True}


def test_cachekit_reads_what_we_stored(peer: Any, ours: Any) -> None:
    """Every setting: our entries are hits of cachekit."""
    assert [MISS] * len(SETTINGS) == ours(SETTINGS)
    assert [HIT] * len(SETTINGS) == peer(SETTINGS)


def test_we_read_what_cachekit_stored(peer: Any, ours: Any) -> None:
    """Every setting: entries of cachekit are our hits."""
    assert [MISS] * len(SETTINGS) == peer(SETTINGS)
    assert [HIT] * len(SETTINGS) == ours(SETTINGS)


def test_rotation_is_shared(peer: Any, ours: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries under an old key open on both sides once it is among the previous keys."""
    old = [a_call(namespace="p"), {**a_call(namespace="q")}]
    new = [a_call(namespace="p", master_key=OTHER_KEY), a_call(namespace="q", master_key=OTHER_KEY)]
    assert [MISS] == peer(old[:1])
    assert [MISS] == ours(old[1:])
    previous = {"CACHEKIT_PREVIOUS_MASTER_KEYS": KEY}
    assert [HIT, HIT] == peer(new, **previous)
    monkeypatch.setenv("CACHEKIT_PREVIOUS_MASTER_KEYS", KEY)
    assert [HIT, HIT] == ours(new)
    monkeypatch.delenv("CACHEKIT_PREVIOUS_MASTER_KEYS")
    assert [MISS, MISS] == ours(new)
    assert [HIT, HIT] == peer(new)


def test_invalidation_is_shared(peer: Any, ours: Any, client: Any) -> None:
    """Each drops all entries of a function, whoever stored them."""
    calls = [a_call(namespace="r"), {**a_call(namespace="r"), "args": [8]}]
    drop = {**a_call(namespace="r"), "invalidate": True}
    ours(calls[:1])
    peer(calls[1:])
    ours([drop])
    assert [] == client.keys("t:default:*")
    ours(calls[:1])
    peer(calls[1:])
    peer([drop])
    assert [] == client.keys("t:default:ns:*")


def test_tampered_entries_are_replaced_by_both(peer: Any, ours: Any, client: Any) -> None:
    """Neither serves it, and the next call is a hit again."""
    call = a_call(namespace="t")
    for first, second in ((peer, ours), (ours, peer)):
        client.flushall()
        first([call])
        [name] = client.keys("t:default:ns:*")
        stored = bytearray(client.get(name))
        stored[-1] ^= 1
        client.set(name, bytes(stored))
        assert [MISS] == second([call])
        assert [HIT] == first([call])


def test_peer_is_cachekit(cachekit_python: Path) -> None:
    """No peer may be ours in disguise, or one of another version."""
    script = "from importlib.metadata import version; print(version('cachekit'))"
    found = subprocess.run(
        [str(cachekit_python), "-I", "-c", script], capture_output=True, text=True, check=True
    )
    assert "0.24.1" == found.stdout.strip()
