"""What a hit gives is what the miss gave, over each codec."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import pydantic
import pytest

import anyseal
from anyseal.cache import cached
from anyseal.cache.codecs import Compressed
from anyseal.sync import Cache, MemoryBackend

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found, unused-ignore]


class ByJson:
    """A codec of a user's own."""

    def encode(self, value: Any) -> bytes:
        return json.dumps(value).encode()

    def decode(self, data: bytes) -> Any:
        return json.loads(data)


CODECS: dict[str, Callable[[], Any]] = {
    "msgpack": lambda: "msgpack",
    "json": lambda: "json",
    "compressed": lambda: Compressed("msgpack"),
    "compressed json": lambda: Compressed("json"),
    "pickle": lambda: "pickle",
    "raw": lambda: "raw",
    "own": ByJson,
}
codecs = pytest.mark.parametrize("codec", CODECS)


def a_cache(codec: str = "msgpack") -> Cache:
    return Cache(MemoryBackend(), anyseal.Key.generate(), codec=CODECS[codec]())


@dataclasses.dataclass
class Point:
    x: int

    @functools.cached_property
    def twice(self) -> int:
        return 2 * self.x


class Model(pydantic.BaseModel):
    x: int
    _hidden: int = pydantic.PrivateAttr(default=0)


@pydantic.dataclasses.dataclass
class Checked:
    x: int


def with_attribute() -> Point:
    point = Point(1)
    point.more = 5  # type: ignore[attr-defined]
    return point


def with_private() -> Model:
    model = Model(x=1)
    model._hidden = 7
    return model


def state(value: Any) -> Any:
    """*value* with all that it holds."""
    if isinstance(value, (list, tuple)):
        return type(value), [state(each) for each in value]
    held = getattr(value, "__dict__", None), getattr(value, "__pydantic_private__", None)
    return type(value), held if held[0] is not None else value


@codecs
@pytest.mark.parametrize("annotation", [Any, bytearray, str | bytes, Point, Model])
@pytest.mark.parametrize(
    "value",
    [b"x", bytearray(b"x"), b"x" * 1_100_000, (1, 2), Point(1), with_attribute(), with_private(),
     Checked(1)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_hit_is_what_the_miss_was_whatever_is_annotated(
    codec: str, annotation: Any, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Annotations are wrong at times, and codecs know fewer types: then the function is called
    again, with one warning; it never fails because of its cache."""
    calls = 0

    @cached(cache=a_cache(codec), type=annotation) if annotation is Any else _annotated(codec)
    def load() -> Any:
        nonlocal calls
        calls += 1
        return value

    load.__wrapped__.__annotations__ = {} if annotation is Any else {"return": annotation}
    with caplog.at_level(logging.WARNING, "anyseal"):
        found = [state(load()) for _ in range(3)]
    assert [state(value)] * 3 == found
    assert calls in (1, 3)
    assert len(caplog.messages) <= (calls == 3) + 1, caplog.messages


def _annotated(codec: str) -> Any:
    return cached(cache=a_cache(codec))


@pytest.mark.parametrize("codec", ["msgpack", "json", "compressed"])
def test_cached_property_of_a_model_does_not_hinder(codec: str) -> None:
    """It is computed again when it is asked for."""
    calls = 0

    @cached(cache=a_cache(codec))
    def load() -> Point:
        nonlocal calls
        calls += 1
        point = Point(2)
        assert 4 == point.twice
        return point

    assert [Point(2)] * 2 == [load(), load()]
    assert 1 == calls


class CodedError(Exception):
    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


def noted() -> Exception:
    error = ValueError("x")
    error.add_note("see there")
    return error


@pytest.mark.parametrize(
    ("make", "kept"),
    [
        (lambda: CodedError("x", 7), False),
        (lambda: CodedError("x"), True),
        (lambda: ValueError(Decimal(1), (1, 2)), True),
        (noted, False),
        (lambda: OSError(2, "x", "file"), False),
        (lambda: ImportError("x", name="y"), False),
    ],
)
def test_kept_exceptions_are_what_was_raised(
    make: Callable[[], Exception], kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """An error handler reads its code, its file, its notes."""
    calls = 0

    @cached(cache=a_cache(), exceptions=[Exception])
    def load() -> None:
        nonlocal calls
        calls += 1
        raise make()

    for _ in range(3):
        with pytest.raises(type(make())) as caught:
            load()
        assert make().args == caught.value.args
        assert vars(make()) == vars(caught.value)
        assert str(make()) == str(caught.value)
    assert (1 if kept else 3) == calls
    assert kept is not bool(caplog.messages)


def test_annotations_are_read_one_by_one() -> None:
    """A parameter whose type only the checker knows says nothing about the result, nor about the
    other parameters."""
    calls = 0

    def load(key: Unknown) -> Point:
        nonlocal calls
        calls += 1
        return Point(key)

    found = cached(load, cache=a_cache(), name="load")
    assert [Point(1)] * 2 == [found(1), found(1)]
    assert 1 == calls


class Request:
    """As a web framework's."""


@pytest.mark.parametrize("annotation", ["Request | None", "Annotated[Request, 1]", "type"])
def test_arguments_are_refused_where_any_annotation_tells(annotation: str) -> None:
    """Frameworks write their parameters in several ways."""

    def load(key: Unknown, request: Request) -> int:
        return 1

    annotated = Annotated[Request, 1] if annotation.startswith("Annotated") else annotation
    load.__annotations__["request"] = annotated
    if annotation == "type":
        cached(load, cache=a_cache(), name="load")
        return
    with pytest.raises(TypeError, match="key="):
        cached(load, cache=a_cache(), name="load")
