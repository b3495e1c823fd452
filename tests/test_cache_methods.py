"""Cached methods: what is reached through an object is about that object."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import typing
import weakref
from abc import ABC, abstractmethod
from types import FunctionType
from typing import Any

import pytest

from anyseal import StaticKeyring, sync
from anyseal.cache import Cache, CachePolicy, MemoryBackend, cached, secure
from anyseal.cache.backends.memory import BlockingMemoryBackend
from support import KEY_HEX, pattern

pytestmark = pytest.mark.anyio
KEYRING = StaticKeyring(pattern(32, "cache master"))
TWIN = sync.Cache(BlockingMemoryBackend(), KEYRING, policy=CachePolicy(local_bytes=1 << 20))
WAITING = Cache(MemoryBackend(), KEYRING)


class Shop:
    """Methods of every kind."""

    calls = 0

    def __init__(self, id: int) -> None:
        self.id = id

    @cached(cache=TWIN, of_self=lambda self: self.id)
    def price(self, item: int, currency: str = "EUR") -> list[int]:
        """What it costs."""
        Shop.calls += 1
        return [self.id, item]

    @cached(cache=WAITING, of_self=lambda self: self.id)
    async def stock(self, item: int) -> list[int]:
        """How many."""
        Shop.calls += 1
        return [self.id, item]

    @cached(cache=TWIN, key=lambda this, item=0: f"weight:{item}")
    def weight(this, item: int = 0) -> int:
        Shop.calls += 1
        return item

    @secure(master_key=KEY_HEX, of_self=lambda self: self.id)
    def secret(self, item: int) -> int:
        Shop.calls += 1
        return item

    @cached(cache=TWIN, of_self=lambda cls: cls)
    @classmethod
    def kind(cls, item: int) -> str:
        """Which."""
        Shop.calls += 1
        return cls.__name__

    @classmethod
    @cached(cache=TWIN, of_self=lambda cls: cls)
    def below(cls, item: int) -> str:
        Shop.calls += 1
        return cls.__name__

    @staticmethod
    @cached(cache=TWIN)
    def currency(country: str) -> str:
        Shop.calls += 1
        return "EUR"


class Kiosk(Shop):
    """Inherits them."""


@pytest.fixture(autouse=True)
def afresh() -> None:
    """No entries of the test before."""
    Shop.calls = 0
    for function in (Shop.price, Shop.kind, Shop.currency):
        function.cache_clear()
    TWIN._shelf.backend.delete_many(
        [name for page in TWIN._shelf.backend.scan("") for name in page]
    )
    TWIN._shelf.copies.clear(None)


def test_method_attributes_have_their_object() -> None:
    """``obj.method.invalidate(1)`` must not take 1 for the object, and delete another entry."""
    one, two = Shop(1), Shop(2)
    for shop in (one, two):
        assert [shop.id, 5] == shop.price(5) == shop.price(item=5)
    assert 2 == Shop.calls
    assert one.price.invalidate(5)
    assert not one.price.invalidate(5)
    assert Shop.price.invalidate(two, 5)
    assert one.price.key_of(5) == Shop.price.key_of(one, 5) != two.price.key_of(5)
    assert [1, 5] == one.price.refresh(5) == one.price(5)
    assert [1, 5] == Shop.price.refresh(one, 5)
    assert [1, 5] == one.price.__wrapped__(5) == Shop.price.__wrapped__(one, 5)
    assert 6 == Shop.calls
    assert one.price.cache_info() == Shop.price.cache_info()
    assert 1 == one.price.cache_clear()
    with pytest.raises(TypeError, match="price"):
        Shop.price.invalidate(5)


def test_method_attributes_whatever_makes_the_key() -> None:
    """With ``key=``, and a first parameter of any name, it is a method all the same; so it is
    under ``secure`` and in a subclass."""
    shop, kiosk = Shop(1), Kiosk(1)
    shop.weight(7)
    assert not shop.weight.invalidate(8)
    assert shop.weight.invalidate(7)
    shop.secret(1)
    assert not shop.secret.invalidate(2)
    assert shop.secret.invalidate(1)
    kiosk.price(3)
    assert Kiosk.price.invalidate(kiosk, 3)
    assert [1, 3] == super(Kiosk, kiosk).price(3)
    assert kiosk.price.invalidate(3)


async def test_method_that_waits() -> None:
    """The same by await; frameworks see a coroutine function."""
    one, two = Shop(1), Shop(2)
    for method in (one.stock, Shop.stock, Shop.__dict__["stock"]):
        assert inspect.iscoroutinefunction(method)
    assert not inspect.iscoroutinefunction(one.price)
    for shop in (one, two, one):
        assert [shop.id, 5] == await shop.stock(5)
    assert 2 == Shop.calls
    assert await one.stock.invalidate(5)
    assert not await one.stock.invalidate(5)
    assert await Shop.stock.invalidate(two, 5)
    assert [1, 5] == await one.stock.refresh(5)
    assert [1, 5] == await one.stock.__wrapped__(5)
    assert 1 == await one.stock.cache_clear()


def test_classmethod_attributes_have_their_class() -> None:
    """Above ``@classmethod`` in every version of Python; below it, nothing is deleted by error."""
    assert ("Shop", "Kiosk", "Shop") == (Shop.kind(1), Kiosk.kind(1), Shop(1).kind(1))
    assert 2 == Shop.calls
    assert Shop.kind.invalidate(1)
    assert not Shop(1).kind.invalidate(1)
    assert Kiosk.kind.invalidate(1)
    assert "Kiosk" == Kiosk.kind.refresh(1) == Kiosk.kind.__wrapped__(1)
    assert ["item"] == list(inspect.signature(Shop.kind).parameters)
    assert "Which." == Shop.kind.__doc__

    assert ("Shop", "Kiosk") == (Shop.below(1), Kiosk.below(1))
    method = Shop.__dict__["below"].__func__
    with pytest.raises(TypeError, match=r"Shop\.below\.invalidate takes the class first"):
        method.invalidate(1)
    assert method.invalidate(Shop, 1)
    assert "EUR" == Shop.currency("NL") == Shop(1).currency("NL")
    assert Shop(1).currency.invalidate("NL")


def test_method_looks_like_a_method() -> None:
    """Signature, names, annotations, equality, pickles and copies, as of a method in Python."""
    shop = Shop(1)
    assert isinstance(Shop.price, FunctionType)
    assert "(item: 'int', currency: 'str' = 'EUR') -> 'list[int]'" == str(
        inspect.signature(shop.price)
    )
    assert ["self", "item", "currency"] == list(inspect.signature(Shop.price).parameters)
    assert list[int] == typing.get_type_hints(shop.price)["return"]
    for thing in (shop.price, Shop.price, Shop.__dict__["price"]):
        named = (thing.__name__, thing.__qualname__, thing.__module__, thing.__doc__)
        assert ("price", "Shop.price", __name__, "What it costs.") == named
    assert "<cached method Shop.price>" == repr(shop.price)
    assert shop.price == shop.price != Shop(1).price
    assert 1 == len({shop.price, shop.price})
    assert shop.price != Shop.price
    assert (shop, Shop.price) == (shop.price.__self__, shop.price.__func__)
    again = pickle.loads(pickle.dumps(shop.price))
    assert ([1, 3], 1) == (again(3), again.__self__.id)
    assert pickle.loads(pickle.dumps(Shop.price)) is Shop.price
    assert copy.copy(shop.price) == shop.price
    assert [1, 4] == copy.deepcopy(shop.price)(4)
    assert [1, 5] == functools.partial(shop.price, 5)()
    assert [1, 5] == weakref.WeakMethod(shop.price)()(5)  # type: ignore[arg-type, misc]


def test_method_under_other_decorators() -> None:
    """What is wrapped around it takes it for a function, and shows no attribute that would take
    an argument for the object."""

    def logged(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    class Base(ABC):
        @abstractmethod
        @cached(cache=TWIN, of_self=None)
        def load(self, n: int) -> int:
            """What it loads."""

    class Repo(Base):
        @logged
        @cached(cache=TWIN, of_self=None)
        def load(self, n: int) -> int:
            return n

    with pytest.raises(TypeError, match="abstract"):
        Base()  # type: ignore[abstract]
    with pytest.raises(TypeError, match="abstract"):
        type("Child", (Base,), {})()
    assert 3 == Repo().load(3)
    assert "load" == Repo.load.__name__
    assert not hasattr(Repo().load, "invalidate")


def test_method_that_joins_its_class_later() -> None:
    """A function with ``self`` is a method wherever it was written; a bound one has its object."""

    @cached(cache=TWIN, of_self=lambda self: self.id, name="later")
    def late(self: Any, n: int) -> int:
        return n

    kind: Any = type("Late", (Shop,), {"late": late})
    assert 2 == kind(1).late(2)
    assert kind(1).late.invalidate(2)
    assert 2 == late(kind(1), 2)
    assert late.invalidate(kind(1), 2)

    bound = cached(cache=TWIN, name="bound")(Shop(1).weight.__wrapped__)
    assert 2 == bound(2)
    assert bound.invalidate(2)
