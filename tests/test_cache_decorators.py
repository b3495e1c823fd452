"""``cached`` and ``secure``: results of functions, sealed in a cache."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import math
from contextvars import ContextVar
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID
from zoneinfo import ZoneInfo

import anyio
import pytest

from anyseal import ConfigurationError, FormatError, Key, StaticKeyring, sync
from anyseal.cache import (
    Cache,
    CachePolicy,
    MemoryBackend,
    MessagePackCodec,
    cached,
    secure,
)
from anyseal.cache.backends.memory import BlockingMemoryBackend
from anyseal.cache.exceptions import pack_exception, unpack_exception
from anyseal.testing import Recorder
from cache_faces import Clock, clock
from support import KEY_HEX, pattern

if TYPE_CHECKING:
    from nowhere import OnlyForTheTypeChecker

__all__ = ["clock"]

pytestmark = pytest.mark.anyio
KEYRING = StaticKeyring(pattern(32, "cache master"))
tenant: ContextVar[str] = ContextVar("tenant")


@pytest.fixture
def cache() -> Cache:
    """A plain one."""
    return Cache(MemoryBackend(), KEYRING)


@pytest.fixture
def twin() -> sync.Cache:
    """For ``def``; with the in-process layer."""
    return sync.Cache(BlockingMemoryBackend(), KEYRING, policy=CachePolicy(local_bytes=1 << 20))


@dataclasses.dataclass
class Point:
    """An argument and a result."""

    x: int
    y: int = 0


class Color(enum.Enum):
    """An argument."""

    RED = 1
    BLUE = 2


class Access(enum.Flag):
    """An argument of which a value may have no name."""

    READ = 1
    WRITE = 2


async def test_cached_on_async_def(cache: Cache) -> None:
    """The function's face stays; its results are kept, None among them."""
    calls: list[Any] = []

    @cached(cache=cache, ttl=60)
    async def load(a: int, b: int = 2, *, c: str = "x") -> tuple[int, int, str] | None:
        """What it does."""
        calls.append((a, b, c))
        return None if a == 0 else (a, b, c)

    assert inspect.iscoroutinefunction(load)
    assert ("load", "What it does.") == (load.__name__, load.__doc__)
    for _ in range(2):
        assert (1, 2, "x") == await load(1)
        assert (1, 2, "x") == await load(a=1)
        assert (1, 2, "x") == await load(1, 2, c="x")
        assert (1, 2, "x") == await load(b=2, a=1)
        assert await load(0) is None
    assert [(1, 2, "x"), (0, 2, "x")] == calls
    assert (8, 2, 0) == (load.cache_info().hits, load.cache_info().misses, load.cache_info().stale)
    assert await load.invalidate(1)
    assert not await load.invalidate(a=1)
    assert (1, 2, "x") == await load(1)
    assert (1, 2, "x") == await load.refresh(1)
    assert 4 == len(calls)
    assert 2 == await load.cache_clear()
    await load(1)
    assert 5 == len(calls)
    await load.__wrapped__(1)
    assert 6 == len(calls)
    with pytest.raises(TypeError, match="load"):
        await load()
    with pytest.raises(TypeError, match="unexpected"):
        await load(1, nonsense=2)


def test_cached_on_def(twin: sync.Cache) -> None:
    """The same without await."""
    calls: list[int] = []

    @cached(cache=twin)
    def load(n: int) -> set[int]:
        calls.append(n)
        return {n}

    assert {1} == load(1) == load(n=1)
    assert load(1) is not load(1)
    assert {2} == load(2)
    assert [1, 2] == calls
    assert load.invalidate(1)
    assert {1} == load(1)
    assert {1} == load.refresh(1)
    assert load.cache_clear() == 2
    assert {2} == load(2)
    assert [1, 2, 1, 1, 2] == calls
    assert (3, 4) == (load.cache_info().hits, load.cache_info().misses)


def test_cached_clears_only_its_own(twin: sync.Cache) -> None:
    """Functions that share a cache do not clear one another's entries."""

    @cached(cache=twin)
    def one(n: int) -> int:
        return n

    @cached(cache=twin)
    def two(n: int) -> int:
        return n

    twin.set("k", 1)
    one(1), two(1), two(2)
    assert (2, 1, 1) == (two.cache_clear(), one.cache_clear(), twin.get("k"))


def test_cached_tells_arguments_apart(twin: sync.Cache) -> None:
    """What is not the same must not share an entry; what is, must."""

    @cached(cache=twin)
    def f(*args: Any, **kwargs: Any) -> int:
        return 0

    moment = datetime(2026, 1, 1, tzinfo=UTC)
    different = [
        (), (1,), (True,), (1.0,), ("1",), (b"1",), (None,), ([1],), ((1,),), ({1},), ({"a": 1},),
        ([[1]],), (1, 2), ([1, 2],), (Point(1),), (dataclasses.asdict(Point(1)),), (Point,),
        (Color.RED,), (Color.BLUE,), ("RED",), (Access.READ,), (Access.READ | Access.WRITE,),
        (Access(0),), (UUID(int=1),), (str(UUID(int=1)),), (Decimal("1"),), (moment,),
        (moment.date(),), (moment.isoformat(),), (timedelta(1),), (2**70,), (str(2**70),),
        (-(2**70),), ("x" * 10_000,), ("x" * 10_001,), (bytearray(b"1"),), (int,), (0.0,), (-0.0,),
    ]  # fmt: skip
    keys = [f.key_of(*args) for args in different]
    keys += [f.key_of(a=1), f.key_of(b=1), f.key_of(a=1, b=2), f.key_of({"a": 1}, b=1)]
    assert len(keys) == len(set(keys))
    assert f.key_of(a=1, b=2) == f.key_of(b=2, a=1)
    assert f.key_of({"a": 1, "b": 2}) == f.key_of({"b": 2, "a": 1})
    assert f.key_of({1, 2, 3}) == f.key_of(frozenset({3, 2, 1}))
    assert f.key_of(Point(1)) == f.key_of(Point(1, 0))


def test_cached_binds_every_kind_of_parameter(twin: sync.Cache) -> None:
    """Positional-only, keyword-only, stars and defaults mean what they mean to Python."""

    def make(source: str) -> Any:
        space: dict[str, Any] = {"__name__": "m"}
        exec(source, space)
        return cached(cache=twin)(space["f"])

    f = make("def f(a, /, b=2, *args, c, d=4, **kw): return [a, b, list(args), c, d, kw]")
    assert [1, 2, [], 3, 4, {}] == f(1, c=3) == f(1, 2, c=3, d=4)
    assert [1, 2, [9], 3, 4, {"a": 5}] == f(1, 2, 9, c=3, a=5)
    with pytest.raises(TypeError):
        f(a=1, c=3)
    g = make("def f(a, /): return a")
    assert 1 == g(1)
    h = make("def f(*, a=1): return a")
    assert h.key_of() == h.key_of(a=1) != h.key_of(a=2)
    assert 0 == make("def f(): return 0")()
    default = Point(1)
    found = cached(cache=twin, name="nested")(lambda p=default: p.x)
    assert 1 == found() == found(Point(1))


class Masked(str):
    """Shows nothing of itself, as types for secrets do."""

    def __str__(self) -> str:
        return "***"


class Several(dict[str, list[int]]):
    """Several values for one key, of which ``items`` gives the last."""

    def items(self) -> Any:
        return [(key, values[-1]) for key, values in super().items()]


def test_cached_arguments_that_show_less_than_they_are_stay_apart(twin: sync.Cache) -> None:
    """One entry for two arguments would be one caller's result for another."""
    f = cached(cache=twin, name="zero")(lambda a: 0)
    winter = datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Berlin"))
    late = datetime(2026, 10, 25, 2, 30)
    different = [
        Masked("one"), Masked("two"), "one",
        winter, winter.replace(tzinfo=ZoneInfo("Europe/Paris")), late, late.replace(fold=1),
        "\ud800", "\ud801", ["\ud800"], "\ud800".encode("utf-8", "surrogatepass"),
    ]  # fmt: skip
    assert len(different) == len({f.key_of(each) for each in different})
    assert f.key_of(Masked("one")) == f.key_of(Masked("one"))
    with pytest.raises(TypeError, match="has no place in a key"):
        f(Several(a=[1, 2]))


@pytest.mark.parametrize("bad", [object(), lambda: 0, [object()], {"a": object()}, iter([])])
def test_cached_names_the_argument_that_has_no_place(twin: sync.Cache, bad: Any) -> None:
    """An argument that cannot be told by its value is an error: never a shared entry."""

    @cached(cache=twin)
    def f(good: int, odd: Any) -> int:
        return good

    with pytest.raises(TypeError, match=r"argument 'odd' has no place in a key .* key="):
        f(1, bad)


def test_cached_refuses_endless_arguments(twin: sync.Cache) -> None:
    """A list that holds itself, and one that is nested without end."""
    loop: list[Any] = []
    loop.append(loop)

    @cached(cache=twin)
    def f(a: Any) -> int:
        return 0

    with pytest.raises(TypeError, match="nested too deep"):
        f(loop)


def test_cached_on_methods(twin: sync.Cache) -> None:
    """What of self belongs to the key has to be said; then each object has entries of its own."""

    class Repo:
        made = 0

        def __init__(self, id: int) -> None:
            self.id = id

        @cached(cache=twin, of_self=lambda self: self.id)
        def load(self, n: int) -> list[int]:
            Repo.made += 1
            return [self.id, n]

        @cached(cache=twin, of_self=None)
        def shared(self, n: int) -> int:
            return self.id

        @classmethod
        @cached(cache=twin, of_self=lambda cls: cls)
        def name(cls, n: int) -> str:
            return cls.__name__

        @staticmethod
        @cached(cache=twin)
        def plain(n: int) -> int:
            return n

    class Child(Repo):
        pass

    one, two = Repo(1), Repo(2)
    assert ([1, 5], [2, 5], [1, 5]) == (one.load(5), two.load(5), one.load(n=5))
    assert 2 == Repo.made
    assert Repo.load.invalidate(one, 5)
    assert (1, 1) == (one.shared(0), two.shared(0))
    assert ("Repo", "Child", "Repo") == (Repo.name(1), Child.name(1), one.name(1))
    assert (3, 3) == (Repo.plain(3), one.plain(3))
    with pytest.raises(ConfigurationError, match=r"is a method: .*of_self=lambda self"):

        class Bad:
            @cached(cache=twin)
            def load(self, n: int) -> int:
                return n

    with pytest.raises(ConfigurationError, match="of_self= is for methods"):
        cached(cache=twin, of_self=None)(lambda n: n)
    with pytest.raises(TypeError, match="below @staticmethod"):
        cached(cache=twin)(staticmethod(lambda: 0))


def test_cached_refuses_what_it_cannot_decorate(cache: Cache, twin: sync.Cache) -> None:
    """Mistakes are told where the function is decorated."""

    async def waits() -> int:
        return 1

    def plain() -> int:
        return 1

    def generates() -> Any:
        yield 1

    async def streams() -> Any:
        yield 1

    with pytest.raises(TypeError, match=r"needs an anyseal\.sync\.Cache"):
        cached(cache=cache)(plain)
    with pytest.raises(TypeError, match=r"needs an anyseal\.cache\.Cache"):
        cached(cache=twin)(waits)
    for function in (generates, streams):
        with pytest.raises(TypeError, match="generator"):
            cached(cache=twin)(function)
    with pytest.raises(TypeError):
        cached(cache=twin)(Point)
    with pytest.raises(TypeError, match="cache= must be"):
        cached(cache=lambda: 7)(plain)()
    with pytest.raises(TypeError, match="name="):
        cached(cache=twin)(partial(plain))
    assert 1 == cached(cache=twin, name="mine")(partial(plain))()
    assert 1 == cached(cache=lambda: twin)(plain)()


async def test_cached_key_ttl_condition_tags(cache: Cache, clock: Clock) -> None:
    """What the decorator can be told about keys, lifetimes, and what is worth keeping."""
    calls: list[int] = []

    @cached(
        cache=cache,
        key=lambda n, note: f"user:{n}",
        tags=lambda n, note: [f"tag{n}"],
        ttl=lambda value: 3000 if value < 0 else 9000,
        condition=lambda value: value != 0,
    )
    async def load(n: int, note: object) -> int:
        calls.append(n)
        return n

    for n in (5, 5, -5, -5, 0, 0):
        assert n == await load(n, object())
    assert [5, -5, 0, 0] == calls
    assert 5 == await cache.get("user:5")
    await clock.turn(3001)
    await load(-5, None)
    await cache.delete_tag("tag5")
    await load(5, None)
    assert [5, -5, 0, 0, -5, 5] == calls
    with pytest.raises(Exception, match="makes its own keys"):
        await load.cache_clear()
    bad = cached(cache=cache, key=lambda: 7)(load.__wrapped__)
    with pytest.raises(TypeError):
        await bad(1, 2)

    @cached(cache=cache, ttl=lambda value: 0)
    async def odd() -> int:
        return 7

    assert 7 == await odd(), "a ttl that cannot be is no reason to lose the result"


class NotFoundError(LookupError):
    """An error that is an answer."""


class DeepError(NotFoundError):
    """A class below one below that which is named."""


@pytest.mark.parametrize("error", [LookupError, NotFoundError, DeepError])
async def test_cached_exceptions(cache: Cache, twin: sync.Cache, error: Any) -> None:
    """Exceptions are kept if asked for, and raised again as what they were; others are not."""
    calls: list[int] = []

    @cached(cache=cache, exceptions=[LookupError])
    async def load(n: int) -> int:
        calls.append(n)
        raise error("gone", n) if n else ValueError("other")

    @cached(cache=twin, exceptions=[LookupError])
    def load_sync(n: int) -> int:
        calls.append(n)
        raise error("gone", n)

    for _ in range(3):
        with pytest.raises(error) as caught:
            await load(1)
        assert (error, ("gone", 1)) == (type(caught.value), caught.value.args)
        with pytest.raises(error):
            load_sync(1)
        with pytest.raises(ValueError, match="other"):
            await load(0)
    assert [1, 1, 0, 0, 0] == calls


async def test_cached_exception_is_no_value(cache: Cache) -> None:
    """Who reads a kept exception as a value finds nothing, and destroys nothing."""

    @cached(cache=cache, exceptions=[KeyError], key=lambda: "k")
    async def fails() -> int:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await fails()
    assert "d" == await cache.get("k", "d")
    assert {} == await cache.get_many(["k"])
    assert not await cache.contains("k")
    assert 0 == cache.stats().tampered
    with pytest.raises(KeyError):
        await fails()
    assert "d" == await cache.pop("k", "d")


@pytest.mark.parametrize("how", ["function", "variable"])
async def test_cached_partitions(cache: Cache, how: str) -> None:
    """A tenant from the arguments or the context; where there is none nobody's entry is used."""
    given = tenant if how == "variable" else lambda n, who=None: who

    @cached(cache=cache, partition=given)
    async def load(n: int, who: Any = None) -> list[Any]:
        return [tenant.get(None) if how == "variable" else who, n]

    for who in ("acme", "other", "acme"):
        token = tenant.set(who)
        assert [who, 1] == await (load(1) if how == "variable" else load(1, who))
        tenant.reset(token)
    assert (1, 2) == (load.cache_info().hits, load.cache_info().misses)
    with pytest.raises(ConfigurationError, match=r"no partition is set|partition= must give"):
        await load(1)
    with pytest.raises(ConfigurationError, match=r"no partition|partition="):
        await load.invalidate(1)
    assert 1 == await load.cache_clear(partition="acme")
    with pytest.raises(ConfigurationError, match="partition"):
        await load.cache_clear()  # nobody's in particular
    assert {} == await cache.get_many(["x"])


def test_cached_types_results(twin: sync.Cache, caplog: Any) -> None:
    """The annotation types what comes back: also one that is defined later, or only for the type
    checker, or that is wrong, or that the codec cannot decode into."""
    calls: list[str] = []

    @cached(cache=twin)
    def forward() -> list[Later]:
        return [Later(1)]

    @cached(cache=twin)
    def hidden() -> OnlyForTheTypeChecker:
        return {"a": 1}

    @cached(cache=twin)
    def wrong() -> int:
        calls.append("wrong")
        return "text"  # type: ignore[return-value]

    @cached(cache=twin)
    def odd() -> dict[int, set[int]] | list[Point] | list[Later]:
        calls.append("odd")
        return [Point(1)]

    @cached(cache=twin, type=Point)
    def told() -> Any:
        return Point(1, 2)

    for _ in range(3):
        assert [Later(1)] == forward()
        assert {"a": 1} == hidden()
        assert "text" == wrong()
        assert [Point(1)] == odd()
        assert Point(1, 2) == told()
    assert (1, 3) == (calls.count("wrong"), calls.count("odd")), "a hit has the types of the miss"
    assert "closed" == twin._shelf.circuits.state
    assert any("return annotation" in record.getMessage() for record in caplog.records)


@dataclasses.dataclass
class Later:
    """Defined after its use."""

    n: int


async def test_cached_wrong_annotation_does_not_fail_who_waits(cache: Cache) -> None:
    """Those who joined a flight decode for themselves: an annotation that is wrong is no error."""

    @cached(cache=cache)
    async def wrong(n: int) -> int:
        await anyio.sleep(0.05)
        return "text"  # type: ignore[return-value]

    results = []

    async def ask() -> None:
        results.append(await wrong(1))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(ask)
    assert ["text"] * 5 == results


async def test_cached_result_that_cannot_be_kept(cache: Cache, caplog: Any) -> None:
    """It is returned all the same, with a warning that does not show it; strict raises."""

    @cached(cache=cache)
    async def socket() -> object:
        return {"MARK": object()}

    assert "MARK" in await socket()
    assert "MARK" not in caplog.text
    assert f"{socket.__module__}.{socket.__qualname__}: a value cannot be cached" in caplog.text
    strict = cached(cache=cache, strict=True)(socket.__wrapped__)
    with pytest.raises(TypeError, match="MARK"):
        await strict()


async def test_cached_name_survives_a_move(cache: Cache) -> None:
    """With name= the entries of a function survive its renaming."""

    async def before(n: int) -> int:
        return n

    async def after(n: int) -> int:
        return -n

    assert 1 == await cached(cache=cache, name="load")(before)(1)
    assert 1 == await cached(cache=cache, name="load")(after)(1)
    assert -1 == await cached(cache=cache)(after)(1)


# ---- secure


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's own keys must not help."""
    monkeypatch.delenv("ANYSEAL_MASTER_KEY", raising=False)
    monkeypatch.delenv("ANYSEAL_PREVIOUS_MASTER_KEYS", raising=False)


async def test_secure_needs_only_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """On async def and def, with the key given or in the environment, with or without brackets."""
    calls: list[int] = []

    async def function(n: int) -> list[int]:
        calls.append(n)
        return [n]

    for key in (KEY_HEX, bytes.fromhex(KEY_HEX), Key.from_hex(KEY_HEX)):
        load = secure(ttl=60, master_key=key)(function)
        assert [1] == await load(1) == await load(n=1)
    assert [1, 1, 1] == calls
    monkeypatch.setenv("ANYSEAL_MASTER_KEY", KEY_HEX)

    @secure
    def plain(n: int) -> int:
        return n

    assert (1, 1) == (plain(1), plain(1))
    assert (1, 1) == (plain.cache_info().hits, plain.cache_info().misses)


def test_secure_tells_at_decoration_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exact messages, before the first call; no message holds a key."""
    missing = (
        "cache.secure requires master_key parameter or ANYSEAL_MASTER_KEY environment variable"
    )
    with pytest.raises(ConfigurationError) as caught:
        secure(ttl=60)
    assert missing == str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        secure(master_key="")
    assert missing == str(caught.value)
    malformed = "master_key must be hex-encoded, 32 bytes"
    for bad in ("zz" * 32, "ab" * 31, b"short", 7):
        with pytest.raises(ConfigurationError) as caught:
            secure(master_key=bad)
        if bad == 7:  # another type is named, with what to give instead
            assert str(caught.value).startswith(f"{malformed} or a Key, not int: ")
        else:
            assert malformed == str(caught.value)
    monkeypatch.setenv("ANYSEAL_MASTER_KEY", "MARK" * 16)
    with pytest.raises(ConfigurationError) as caught:
        secure()
    assert "ANYSEAL_MASTER_KEY must be hex-encoded, 32 bytes" == str(caught.value)
    with pytest.raises(ConfigurationError, match="does not know nonsense"):
        secure(master_key=KEY_HEX, nonsense=1)
    with pytest.raises(ConfigurationError):
        secure(master_key=KEY_HEX, backend="nonsense://x")(lambda: 0)
    with pytest.raises(ConfigurationError):
        secure(master_key=KEY_HEX, serializer="nonsense")(lambda: 0)
    with pytest.raises(TypeError):
        secure(master_key=KEY_HEX, ttl=60)(staticmethod(lambda: 0))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"ttl": 0}, ValueError, "ttl must be"),
        ({"ttl": "60"}, TypeError, "ttl must be"),
        ({"key": "user"}, TypeError, "key must be a function"),
        ({"condition": True}, TypeError, "condition must be a function"),
        ({"of_self": "id"}, TypeError, "of_self must be"),
        ({"tags": "users"}, TypeError, "tags must be a sequence"),
        ({"tags": [5]}, TypeError, "tags must be a sequence"),
        ({"tags": 5}, TypeError, "tags must be a sequence"),
        ({"tags": [str(n) for n in range(33)]}, ValueError, "at most 32 tags"),
        ({"exceptions": KeyError}, TypeError, "exceptions must be"),
        ({"exceptions": [KeyboardInterrupt]}, TypeError, "exceptions must be"),
        ({"exceptions": "KeyError"}, TypeError, "exceptions must be"),
        ({"type": "User"}, TypeError, "not supported"),
        ({"name": 5}, TypeError, "name must be"),
        ({"name": ""}, ValueError, "name must have"),
        ({"name": "n" * 100_000}, ValueError, "name must have"),
    ],
)
def test_decorator_options_are_checked_at_decoration_time(
    twin: sync.Cache, options: Any, error: type[Exception], said: str
) -> None:
    """Else the function would run at every call, never kept, or fail at its second one."""

    def load(n: int) -> int:
        return n

    for decorator in (partial(cached, cache=twin), partial(secure, master_key=KEY_HEX)):
        with pytest.raises(error, match=said):
            decorator(**options)(load)


def test_secure_settings_are_checked_at_decoration_time() -> None:
    """A tenant that is a text would be one for all; a policy that is none would be left out."""

    async def load(n: int) -> int:
        return n

    for bad in ({"tenant_extractor": "tenant_id"}, {"tenant_extractor": 5},
                {"key_rotation_enabled": "no"}, {"previous_master_keys": KEY_HEX},
                {"previous_master_keys": None}):  # fmt: skip
        with pytest.raises(ConfigurationError, match=next(iter(bad))):
            secure(master_key=KEY_HEX, **bad)
    for wrong in ({"policy": {}}, {"metrics": 5}, {"backend": 5}):
        with pytest.raises(TypeError):
            secure(master_key=KEY_HEX, **wrong)(load)
    with pytest.raises(TypeError, match="partition must be"):
        cached(cache=lambda: None, partition=7)


def test_secure_rotates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries under a previous key open if asked for, by argument or from the environment."""
    backend = BlockingMemoryBackend()
    new = "ab" * 32
    calls: list[int] = []

    def load(n: int) -> int:
        calls.append(n)
        return n

    def secured(**options: Any) -> Any:
        return secure(backend=backend, name="load", **options)(load)

    secured(master_key=KEY_HEX)(1)
    monkeypatch.setenv("ANYSEAL_PREVIOUS_MASTER_KEYS", f"{'cd' * 32}, {KEY_HEX}")
    secured(master_key=new, key_rotation_enabled=True)(1)
    secured(master_key=new, previous_master_keys=[KEY_HEX])(1)
    assert [1] == calls
    secured(master_key=new)(1)
    assert [1, 1] == calls
    monkeypatch.setenv("ANYSEAL_PREVIOUS_MASTER_KEYS", "nonsense")
    with pytest.raises(ConfigurationError, match="ANYSEAL_PREVIOUS_MASTER_KEYS must be hex"):
        secured(master_key=new, key_rotation_enabled=True)


def test_secure_backends(tmp_path: Any) -> None:
    """None is this process; a URL names a backend that functions share; an object is used."""
    url = f"sqlite:///{tmp_path}/cache.db"
    recorder = Recorder()
    calls: list[int] = []

    def load(n: int) -> int:
        calls.append(n)
        return n

    own = [secure(master_key=KEY_HEX, name="f")(load) for _ in range(2)]
    assert [1, 1] == [f(1) for f in own]
    assert 2 == len(calls), "each function has a cache of its own"
    shared = [
        secure(master_key=KEY_HEX, name="f", backend=url, metrics=recorder)(load) for _ in range(2)
    ]
    assert [1, 1] == [f(1) for f in shared]
    assert 3 == len(calls)
    assert 1 == recorder.count(outcome="hit", cache="secure")
    shared[0].cached.cache._shelf.backend.close()


async def test_secure_tenants() -> None:
    """Each tenant has keys and entries of its own."""

    @secure(master_key=KEY_HEX, tenant_extractor=lambda tenant_id, n: tenant_id)
    async def load(tenant_id: str, n: int) -> list[Any]:
        return [tenant_id, n]

    @secure(master_key=KEY_HEX, tenant_extractor=tenant)
    async def mine(n: int) -> str:
        return tenant.get()

    for who in ("acme", "other"):
        assert [who, 1] == await load(who, 1)
        tenant.set(who)
        assert who == await mine(1)
    with pytest.raises(ConfigurationError):
        await load("", 1)


def test_decorated_closures_are_told_apart() -> None:
    """Two functions of one name that depend on different things must not share entries."""
    cache = sync.Cache(BlockingMemoryBackend(), StaticKeyring(b"k" * 32))

    def made(tenant: str, **options: Any) -> Any:
        @cached(cache=cache, **options)
        def load(number: int) -> str:
            return f"{tenant} {number}"

        return load

    first = made("a")
    assert "a 1" == first(1)
    with pytest.raises(ConfigurationError, match="tenant"):
        made("b")
    assert "b 1" == made("b", name="of b")(1)
    with pytest.raises(ConfigurationError, match="lambda"):
        cached(cache=cache)(lambda number: number)
    assert 3 == cached(cache=cache, name="three")(lambda: 3)()


def test_decorated_closures_over_one_backend_are_told_apart() -> None:
    """Each ``secure`` makes a cache of its own, and a function may be given the cache late: their
    entries meet all the same. Under another master key they do not."""
    backend = BlockingMemoryBackend()
    cache = sync.Cache(backend, KEYRING, namespace="late")

    def made(tenant: str, **options: Any) -> Any:
        @secure(backend=backend, **{"master_key": KEY_HEX, **options})
        def load(number: int) -> str:
            return f"{tenant} {number}"

        return load

    def late(tenant: str) -> Any:
        @cached(cache=lambda: cache)
        def load(number: int) -> str:
            return f"{tenant} {number}"

        return load

    assert "a 1" == made("a")(1)
    with pytest.raises(ConfigurationError, match="tenant"):
        made("b")
    assert "b 1" == made("b", master_key="ab" * 32)(1)
    first, second = late("a"), late("b")
    assert "a 1" == first(1) == first(1)
    with pytest.raises(ConfigurationError, match="tenant"):
        second(1)


async def test_cached_clears_the_partition_that_it_uses(cache: Cache) -> None:
    """``cache_clear()`` must not say 0 and leave everything where it was."""

    @cached(cache=cache, partition="eu")
    async def fixed(n: int) -> int:
        return n

    @cached(cache=cache, partition=tenant)
    async def current(n: int) -> int:
        return n

    await fixed(1)
    assert 1 == await fixed.cache_clear()
    with pytest.raises(ConfigurationError, match="no partition is set"):
        await current.cache_clear()
    token = tenant.set("acme")
    await current(1)
    assert 1 == await current.cache_clear()
    tenant.reset(token)


async def test_cached_with_key_has_nothing_to_clear() -> None:
    """Also over a backend that cannot list: its entries carry no tag of the function."""

    class Unlisted(MemoryBackend):
        can_scan = False

    for backend in (MemoryBackend(), Unlisted()):

        @cached(cache=Cache(backend, KEYRING), key=lambda n: f"k{n}")
        async def load(n: int) -> int:
            return n

        await load(1)
        with pytest.raises(ConfigurationError, match="makes its own keys"):
            await load.cache_clear()


async def test_cached_tells_why_there_is_no_partition(cache: Cache) -> None:
    """The extractor's own KeyError is the cause, and not taken for a missing context."""
    known = {1: "acme"}

    @cached(cache=cache, partition=lambda n: known[n])
    async def load(n: int) -> int:
        return n

    assert 1 == await load(1)
    with pytest.raises(ConfigurationError, match="no partition was found") as caught:
        await load(2)
    assert isinstance(caught.value.__cause__, KeyError)


async def test_cached_knows_what_waits(cache: Cache, twin: sync.Cache) -> None:
    """An object with an async ``__call__`` waits; a plain wrapper of an ``async def`` is told."""

    class Waits:
        async def __call__(self, n: int) -> int:
            calls.append(n)
            return n

    async def inner(n: int) -> int:
        return n

    def wrapper(n: int) -> Any:
        return inner(n)

    calls: list[int] = []
    load = cached(cache=cache, name="waits")(Waits())
    assert (1, 1) == (await load(1), await load(1))
    assert [1] == calls
    with pytest.raises(TypeError, match="async def"):
        cached(cache=twin)(wrapper)(1)
    with pytest.raises(TypeError, match="async factory"):
        twin.get_or_set("k", lambda: inner(1))


def test_cached_takes_functions_written_in_c(twin: sync.Cache) -> None:
    """They have no closures, and no code to look at."""
    root = cached(cache=twin)(math.sqrt)
    assert 3.0 == root(9.0) == root(9.0)
    assert 1 == root.cache_info().hits


def test_cached_tells_of_an_exception_that_cannot_be_kept(twin: sync.Cache, caplog: Any) -> None:
    """One that is not made of its ``args`` could not be raised again: it is not stored."""

    class OddError(Exception):
        def __init__(self, code: int, reason: str) -> None:
            super().__init__(reason)

    calls: list[int] = []

    @cached(cache=twin, exceptions=[OddError])
    def load(n: int) -> int:
        calls.append(n)
        raise OddError(n, "gone")

    for _ in range(2):
        with pytest.raises(OddError):
            load(1)
    assert [1, 1] == calls
    assert 0 == twin.stats().sets
    assert "an exception cannot be kept: OddError" in caplog.text


class OddZone(tzinfo):
    """A time zone that no key names."""

    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(hours=1)


FAITHFUL = [
    ("gone", 7, None, 1.5, b"x", True),
    ([1, ["a"]], {"a": [1]}),
    (("a", 6),),
    ([("a", (1,))], {(1, 2): {3}}, frozenset({"x"}), ()),
    (UUID(int=7), Decimal("1.50"), datetime(2026, 1, 2, tzinfo=UTC), date(2026, 1, 2)),
    (["tuple", 1], ["nonsense"], {1: 2}, {}),
    (bytearray(b"x"), 1 << 70, datetime(2026, 1, 2, tzinfo=ZoneInfo("Europe/Amsterdam"))),
]
UNFAITHFUL = [
    (Point(1),),
    ((Color.RED,),),
    (object(),),
    (memoryview(b"x"),),
    (1 << 20_000,),
    (datetime(2026, 1, 2, tzinfo=OddZone()),),
    ("x" * 5000,),
]


@pytest.mark.parametrize("args", FAITHFUL)
def test_cached_exceptions_come_back_as_they_were(twin: sync.Cache, args: Any) -> None:
    """Code that looks into ``args`` must not find a list where there was a tuple."""

    calls: list[int] = []

    @cached(cache=twin, exceptions=[LookupError])
    def load() -> None:
        calls.append(1)
        raise KeyError(*args)

    for _ in range(2):
        with pytest.raises(KeyError) as caught:
            load()
        assert repr(args) == repr(caught.value.args)
    assert ([1], 1) == (calls, twin.stats().sets)


@pytest.mark.parametrize("args", UNFAITHFUL)
def test_cached_exceptions_that_would_be_others_are_not_kept(args: Any, caplog: Any) -> None:
    """Nor those that hold themselves, or too much; the log says so."""
    twin = sync.Cache(BlockingMemoryBackend(), KEYRING, policy=CachePolicy(max_bytes=4096))
    loop: list[Any] = []
    loop.append(loop)

    @cached(cache=twin, exceptions=[LookupError])
    def load(given: int) -> None:
        raise KeyError(*(args if given else loop))

    for given in (1, 0):
        with pytest.raises(KeyError):
            load(given)
    assert 0 == twin.stats().sets
    assert 2 == caplog.text.count("an exception cannot be kept: KeyError")


def test_cached_exceptions_forms() -> None:
    """What is not the name of a class and a list of arguments is no exception."""
    codec = MessagePackCodec()
    assert ("m.E", [[1]]) == unpack_exception(codec.encode(["m.E", [[1]]]))
    assert codec.encode(["builtins.KeyError", [1]]) == pack_exception(KeyError(1))
    assert ("builtins.KeyError", [(1,)]) == unpack_exception(pack_exception(KeyError((1,))))
    for wrong in ([], ["a"], [1, []], ["a", 1], ["a", [], 2], ("a", []), {"a": 1}, 7):
        with pytest.raises(FormatError):
            unpack_exception(codec.encode(wrong))
