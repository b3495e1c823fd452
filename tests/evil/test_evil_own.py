"""A metastore or KMS of the user's own that hangs, refuses or answers nonsense, on both faces."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from threading import Event
from typing import Any

import anyio
import anyio.to_thread
import pytest

from anyseal import (
    CryptoPolicy,
    KeyAdmin,
    KeyHierarchy,
    KmsError,
    MetastoreError,
    SessionFactory,
    sync,
)
from anyseal.kms.static import StaticKms
from anyseal.metastore.memory import MemoryMetastore
from anyseal.patience import LEFT_MAX
from anyseal.ports import KeyRecord
from doubles import World
from support import a_key

TIMEOUT = 0.2


class Hanging:
    """Hangs while it is told to, in one of the ways in which a user's own code hangs."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.hangs = True
        self.released = Event()

    def block(self) -> None:
        if self.hangs:
            self.released.wait(30)

    async def wait(self) -> None:
        if not self.hangs:
            return
        if self.how == "async":
            await anyio.sleep(30)
        else:  # anyio lets no one cancel this
            await anyio.to_thread.run_sync(self.block)


def blocking(async_method: Callable[..., Any], hanging: Hanging) -> Callable[..., Any]:
    """The method as a plain ``def``."""

    def method(*args: Any) -> Any:
        hanging.block()
        return anyio.run(async_method, *args)

    return method


def awaited(async_method: Callable[..., Any], hanging: Hanging) -> Callable[..., Any]:
    async def method(*args: Any) -> Any:
        await hanging.wait()
        return await async_method(*args)

    return method


class Own:
    """The methods of *inner*, of which some hang."""

    testing = True

    def __init__(self, inner: Any, names: tuple[str, ...], hanging: Hanging) -> None:
        wrapped = blocking if hanging.how == "blocking" else awaited
        for name in names:
            setattr(self, name, wrapped(getattr(inner, name), hanging))
        self.aclose = inner.aclose


METASTORE, KMS = ("load", "load_latest", "store"), ("wrap", "unwrap")
HOWS = ("async", "thread", "blocking")


def hierarchy(service: str, hanging: Hanging, **policy: Any) -> KeyHierarchy:
    """One whose *service* hangs."""
    kms: Any = StaticKms(a_key())
    metastore: Any = MemoryMetastore()
    if service == "kms":
        kms = Own(kms, KMS, hanging)
    else:
        metastore = Own(metastore, METASTORE, hanging)
    found = CryptoPolicy(call_timeout=TIMEOUT, **policy)
    return KeyHierarchy(kms, metastore, service="s", product="p", policy=found)


@pytest.fixture
def hanging(request: pytest.FixtureRequest) -> Iterator[Hanging]:
    found = Hanging(request.param)
    yield found
    found.released.set()


@pytest.mark.anyio
@pytest.mark.parametrize("service", ["kms", "metastore"])
@pytest.mark.parametrize("hanging", HOWS, indirect=True)
async def test_own_service_that_hangs_ends_in_a_typed_error(service: str, hanging: Hanging) -> None:
    """Every cold caller would otherwise wait for ever, and all who come after."""
    errors: list[Exception] = []
    async with SessionFactory(hierarchy(service, hanging)) as factory:
        session = factory.session("u")

        async def encrypt() -> None:
            try:
                await session.encrypt(b"data")
            except (KmsError, MetastoreError) as exc:
                errors.append(exc)

        start = time.monotonic()
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(encrypt)
        assert time.monotonic() - start < 10 * TIMEOUT
        expected = KmsError if service == "kms" else MetastoreError
        assert [(expected, True)] * 5 == [(type(exc), exc.retryable) for exc in errors]  # type: ignore[attr-defined]
        assert "no answer in 0.2 s" in str(errors[0])
        hanging.hangs = False
        hanging.released.set()
        assert b"data" == await session.decrypt(await session.encrypt(b"data"))


@pytest.mark.parametrize("service", ["kms", "metastore"])
@pytest.mark.parametrize("hanging", HOWS, indirect=True)
def test_own_service_that_hangs_ends_in_a_typed_error_sync(service: str, hanging: Hanging) -> None:
    """The same through the portal."""
    with sync.SessionFactory(hierarchy(service, hanging)) as factory:
        session = factory.session("u")
        start = time.monotonic()
        with pytest.raises(KmsError if service == "kms" else MetastoreError, match="no answer"):
            session.encrypt(b"data")
        assert time.monotonic() - start < 10 * TIMEOUT
        hanging.hangs = False
        hanging.released.set()
        assert b"data" == session.decrypt(session.encrypt(b"data"))


ADMIN: dict[str, Callable[[KeyAdmin], Any]] = {
    "list": lambda admin: admin.list(),
    "list one": lambda admin: admin.list("u"),
    "audit": lambda admin: admin.audit(),
    "revoke": lambda admin: admin.revoke(partition="u"),
    "shred": lambda admin: admin.shred("u", wait=False),
    "rewrap": lambda admin: admin.rewrap_system(),
}


@pytest.mark.anyio
@pytest.mark.parametrize("slow", ["records", "load", "revoke", "delete"])
@pytest.mark.parametrize("hanging", HOWS, indirect=True)
async def test_own_metastore_that_hangs_ends_what_looks_after_keys(
    slow: str, hanging: Hanging
) -> None:
    """A command or a job of the night would otherwise hang, and none says why."""
    own: Any = MemoryMetastore()
    listed = own.records

    async def records(prefix: str) -> Any:
        async with contextlib.aclosing(listed(prefix)) as found:
            async for record in found:
                await hanging.wait()
                yield record

    wrapped = blocking if hanging.how == "blocking" else awaited
    method = records if slow == "records" else wrapped(getattr(own, slow), hanging)
    setattr(own, slow, method)
    policy = CryptoPolicy(call_timeout=TIMEOUT)
    made = KeyHierarchy(StaticKms(a_key()), own, service="s", product="p", policy=policy)
    hanging.hangs = False
    async with SessionFactory(made) as factory:
        await factory.session("u").encrypt(b"data")
        admin = KeyAdmin(made)
        hanging.hangs = True
        late = 0
        for verb, call in ADMIN.items():
            started = time.monotonic()
            try:
                await call(admin)
            except MetastoreError as exc:
                late += "no answer in 0.2 s" in str(exc)
            assert time.monotonic() - started < 10 * TIMEOUT, verb
        assert late or slow == "load"
        hanging.hangs = False
        hanging.released.set()
        with anyio.fail_after(10):
            while made._store._metastore_bounds.left:
                await anyio.sleep(0.005)
        assert 1 <= len(await admin.list()) <= 2


@pytest.mark.anyio
@pytest.mark.parametrize("hanging", ["thread", "blocking"], indirect=True)
async def test_own_service_that_keeps_threads_fails_at_once(hanging: Hanging) -> None:
    """Threads that hang cannot be stopped: a service must not use up all that the process has."""
    own = hierarchy("metastore", hanging)
    bounds = own._store._metastore_bounds
    bounds._seconds = 0.01
    errors: list[str] = []
    async with SessionFactory(own) as factory:

        async def encrypt(user: str) -> None:
            with pytest.raises(MetastoreError) as caught:
                await factory.session(user).encrypt(b"data")
            errors.append(str(caught.value))

        for number in range(LEFT_MAX):
            await encrypt(f"u{number}")
        assert LEFT_MAX == bounds.left
        start = time.monotonic()
        await encrypt("one more")
        assert time.monotonic() - start < 0.2
        assert "still hang in threads: give what they wait for a timeout" in errors[-1]
        bounds._seconds = 10
        hanging.hangs = False
        hanging.released.set()
        with anyio.fail_after(10):
            while bounds.left:
                await anyio.sleep(0.005)
        assert b"data" == await factory.session("u").decrypt(
            await factory.session("u").encrypt(b"data")
        )


@pytest.mark.anyio
@pytest.mark.parametrize("hanging", HOWS, indirect=True)
async def test_own_service_may_be_slow_for_callers_who_leave(hanging: Hanging) -> None:
    """Clients that give up before the deadline are no sign of threads that hang."""
    async with SessionFactory(hierarchy("metastore", hanging)) as factory:
        for number in range(LEFT_MAX + 2):
            with anyio.move_on_after(0.001):
                await factory.session(f"u{number}").encrypt(b"data")
        hanging.hangs = False
        hanging.released.set()
        assert b"data" == await factory.session("u").decrypt(
            await factory.session("u").encrypt(b"data")
        )


ANSWERS: dict[str, Any] = {
    "number": 42,
    "text": "record",
    "mapping": {"id": "x"},
    "list": [],
    "true": True,
    "another id": KeyRecord(id="_SK_other_p", created=60, key=bytes(60)),
    "created as text": KeyRecord(id="_SK_s_p", created="60", key=bytes(60)),  # type: ignore[arg-type]
    "key as text": KeyRecord(id="_SK_s_p", created=60, key="AAAA"),  # type: ignore[arg-type]
    "half a parent": KeyRecord(id="_SK_s_p", created=60, key=bytes(60), parent_id="x"),
}


async def _answer(value: Any, *_args: Any) -> Any:
    return value


def nonsense(verb: str, answer: Any) -> KeyHierarchy:
    """A hierarchy whose metastore or KMS gives *answer*, whatever is asked."""
    metastore, kms = MemoryMetastore(), StaticKms(a_key())
    told: Any = kms if verb in KMS else metastore
    setattr(told, verb, partial(_answer, answer))
    return KeyHierarchy(kms, metastore, service="s", product="p")


@pytest.mark.parametrize(
    ("verb", "answer"),
    [
        pytest.param(verb, answer, id=f"{verb} {name}")
        for verb in METASTORE[1:]
        for name, answer in ANSWERS.items()
        if (verb, name) != ("store", "true")  # which is right
    ],
)
def test_own_metastore_of_wrong_answers_is_told(verb: str, answer: Any) -> None:
    """A TypeError from the depths tells nobody whose mistake it was."""
    with (
        sync.SessionFactory(nonsense(verb, answer)) as factory,
        pytest.raises(MetastoreError) as caught,
    ):
        factory.session("u").encrypt(b"data")
    assert not caught.value.retryable


WRAPPED: dict[str, Any] = {
    "nothing": b"",
    "none": None,
    "text": "wrapped",
    "number": 42,
    "too much": bytes(1 << 20),
}


@pytest.mark.parametrize("answer", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("verb", KMS)
def test_own_kms_of_wrong_answers_is_told(verb: str, answer: Any) -> None:
    """The same for the other service."""
    own = nonsense(verb, answer)
    if verb == "unwrap":
        made = KeyHierarchy(StaticKms(a_key()), own.metastore, service="s", product="p")
        with sync.SessionFactory(made) as factory:
            row = factory.session("u").encrypt(b"data")
    with sync.SessionFactory(own) as factory:
        session = factory.session("u")
        call = (
            partial(session.encrypt, b"data") if verb == "wrap" else partial(session.decrypt, row)
        )
        with pytest.raises(KmsError) as caught:
            call()
    assert not caught.value.retryable


@pytest.mark.parametrize("verb", KMS)
def test_kms_that_refuses_is_not_asked_by_every_call(verb: str) -> None:
    """A revoked permission must not become a request for each row that cannot be opened."""
    world = World()
    if verb == "unwrap":
        with world.sync_factory() as factory:
            row = factory.session("u1").encrypt(b"data")
        world.calls.count.clear()
    with world.sync_factory() as factory:

        def call(number: int) -> None:
            if verb == "wrap":
                factory.session(f"u{number}").encrypt(b"data")
            else:
                factory.session("u1").decrypt(row)

        world.calls.fail[verb] = KmsError("AccessDenied", retryable=False)
        for number in range(20):
            with pytest.raises(KmsError, match="AccessDenied") as caught:
                call(number)
            assert not caught.value.retryable
        assert 2 == world.calls.count[verb]
        world.calls.fail.clear()
        with pytest.raises(KmsError, match="AccessDenied"):
            call(0)
        refusals = factory.hierarchy._store._refusals
        for refusal in refusals.values():
            refusal.until = 0.0
        call(0)
        assert {} == refusals
