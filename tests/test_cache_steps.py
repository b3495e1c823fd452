"""Values that are encoded and decoded in steps: the same bytes, the same values, never torn."""

from __future__ import annotations

import dataclasses
import json
import random
import time
from collections.abc import Callable, Generator
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import pydantic
import pytest

from anyseal import FormatError, StaticKeyring, sync
from anyseal.cache import Cache, Compressed, EncryptionWrapper, MemoryBackend, cached
from anyseal.cache.backends.memory import BlockingMemoryBackend
from anyseal.cache.codecs import JSONCodec, MessagePackCodec
from anyseal.cache.codecs.steps import ChangedError
from cache_faces import Face
from support import pattern

KEYRING = StaticKeyring(pattern(32, "steps"))
CODECS: dict[str, Any] = {"msgpack": MessagePackCodec(), "json": JSONCodec()}
codecs = pytest.mark.parametrize("codec", [*CODECS])
faces = pytest.mark.parametrize("face", ["async", "sync"])

COUNT = 4_000
ROWS = [{"id": n, "name": f"user {n}", "on": True} for n in range(COUNT)]
PLAIN: dict[str, Any] = {
    "rows": ROWS,
    "within": {"rows": ROWS, "total": COUNT},
    "deep": [{"a": [{"b": ROWS}, 1]}],
    "dict": {f"k{n}": {"n": n} for n in range(COUNT)},
    "one heavy row": [1, {"rows": ROWS}, *range(3_000), {"rows": ROWS}],
    "lists": [[n] * 10 for n in range(COUNT)],
    "text": 'aé"\n\\🐎' * 60_000,
    "ASCII text": "x" * 600_000,
    "text within": {"html": "<p>\t</p>" * 50_000, "k" * 70_000: ["ž" * 400_000]},
    "integers": list(range(1 << 62, (1 << 62) + 3 * COUNT)),
}
TAGGED: dict[str, Any] = {
    "dates": [{"d": date(2026, 1, 1), "p": Decimal("1.5"), "t": (n,)} for n in range(COUNT)],
    "tuple": tuple(ROWS),
    "set": set(range(3 * COUNT)),
    "frozensets": [frozenset(range(n, n + 9)) for n in range(COUNT)],
    "pairs": {n: (n, "x") for n in range(COUNT)},
    "pairs within": {"k": {n: {"rows": [date(2026, 1, 1)]} for n in range(COUNT)}},
    "large integers": [1 << 70] * (3 * COUNT),
    "heavy pair": {1: [(n,) for n in range(COUNT)], 2: b"x" * 5_000},
}


def driven(steps: Generator[Any, Any, Any], between: Callable[[int], object] = int) -> Any:
    """What *steps* return; *between* is called with the number of each."""
    number, result, failure = 0, None, None
    while True:
        try:
            wanted = steps.send(result) if failure is None else steps.throw(failure)
        except StopIteration as end:
            return end.value
        result = failure = None
        try:
            result = None if wanted is None else wanted()
        except Exception as exc:
            failure = exc
        number += 1
        between(number)


def exact(value: Any) -> Any:
    """*value* with the type of each of its parts."""
    if isinstance(value, dict):
        return type(value), [(exact(k), exact(v)) for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [exact(each) for each in value]
    return type(value), value


@codecs
@pytest.mark.parametrize("name", [*PLAIN, *TAGGED])
def test_steps_write_and_read_what_one_call_does(codec: str, name: str) -> None:
    """Entries do not tell whether they were encoded in steps: old workers read them, and other
    programs."""
    kind, value = CODECS[codec], {**PLAIN, **TAGGED}[name]
    whole = kind.encode(value)
    assert kind.encode_light(value) is None
    assert whole == driven(kind.encode_steps(value))
    assert exact(kind.decode(whole)) == exact(driven(kind.decode_steps(whole)))
    if codec == "msgpack":
        result = kind.encode_result(value)
        assert result == driven(kind.result_steps(value))
        assert exact(value) == exact(driven(kind.decode_steps(memoryview(result))))


@codecs
@pytest.mark.parametrize("name", ["rows", "dates", "text", "set", "pairs"])
def test_no_step_takes_long(codec: str, name: str) -> None:
    """What holds the event loop up is the longest step, whatever the value's size."""
    kind, value = CODECS[codec], {**PLAIN, **TAGGED}[name]
    worst = []
    for _ in range(3):  # the quietest of three, in CPU time of this thread
        data = kind.encode(value)
        for steps in (kind.encode_steps(value), kind.decode_steps(data)):
            took, last = [0.0], time.thread_time()

            def note(number: int, took: list[float] = took) -> None:
                nonlocal last
                now = time.thread_time()
                took.append(now - last)
                last = now

            driven(steps, note)
            worst.append(max(took))
    assert min(worst) < 0.010


@dataclasses.dataclass
class Row:
    id: int
    name: str
    on: bool


class Model(pydantic.BaseModel):
    id: int
    name: str
    on: bool


@dataclasses.dataclass
class Page:
    rows: list[Row]


@codecs
@pytest.mark.parametrize(
    ("value", "type"),
    [
        (ROWS, list[Row]), (ROWS, list[Model] | None), (tuple(ROWS), tuple[Row, ...]),
        ({"rows": ROWS}, dict[str, list[Row]]), ({"rows": ROWS}, Page), (ROWS, list),
        ({n: f"{n}" for n in range(COUNT)}, dict[int, str]), ([UUID(int=n) for n in range(COUNT)],
        set[UUID]), (ROWS, object), (PLAIN["text"], str), (PLAIN["text"], str | None),
    ],
    ids=lambda each: "" if isinstance(each, (list, dict, tuple, str)) else str(each)[-30:],
)  # fmt: skip
def test_steps_decode_as_the_type_says(codec: str, value: Any, type: Any) -> None:
    """Values come back as the classes that were asked for; a type that does not fit is refused."""
    kind = CODECS[codec]
    data = kind.encode(value)
    found = kind.decode(data, type)
    assert found == driven(kind.decode_steps(data, type))
    with pytest.raises(FormatError, match=f"not what {codec} writes for "):
        driven(kind.decode_steps(data, list[date]))
    assert found == kind.decode(driven(kind.result_steps(found, type)), type)


def test_json_of_others_is_read_in_steps() -> None:
    """JSON entries are for others, too, who put blanks where they like."""
    for value in PLAIN.values():
        for text in (json.dumps(value, indent=2), f" \n{json.dumps(value, ensure_ascii=False)}\t"):
            assert value == driven(CODECS["json"].decode_steps(text.encode()))


@pytest.mark.parametrize("codec", [*CODECS, "tagged"])
def test_steps_refuse_what_one_call_refuses(codec: str) -> None:
    """Bytes that are wrong are a FormatError, or the same value as in one call; nothing else."""
    dice = random.Random(7)
    kind = CODECS.get(codec, CODECS["msgpack"])
    value: Any = {"a": ROWS[:2000], "b": "é\\" * 40_000, "c": {"d": [1.5, None] * 1000}}
    if codec == "tagged":
        value = {**value, "t": (1, {2}), "p": {n: n for n in range(300)}, "s": set(range(3000))}
    data = bytearray(kind.encode(value))
    refused = 0
    for _ in range(80):
        wrong = bytearray(data)
        at = dice.randrange(len(wrong))
        if dice.random() < 0.5:
            at = dice.choice([at, 0, 1, 2, 3, 5, 8, len(wrong) - 1])
        how = dice.randrange(4)
        if how == 0:
            del wrong[at:]
        elif how == 1:
            wrong[at] = dice.choice(b',:"\\[]{}\x00\x80\x90\xc1\xc9\xdd\xff')
        elif how == 2:
            wrong.insert(at, dice.choice(b',"]} \x90\xc0'))
        else:
            del wrong[at]
        outcomes = []
        for decode in (kind.decode, lambda data: driven(kind.decode_steps(data))):
            try:
                outcomes.append(exact(decode(bytes(wrong))))
            except FormatError:
                outcomes.append("refused")
        assert outcomes[0] == outcomes[1]
        refused += outcomes[0] == "refused"
    assert refused > 20


@codecs
@pytest.mark.parametrize("where", ["list", "within", "dict"])
def test_steps_tell_what_they_refuse(codec: str, where: str) -> None:
    """The message names the path in the whole value, not in a part."""
    rows: list[Any] = [*ROWS, {"id": object()}]
    value: Any = {
        "list": rows,
        "within": {"a": [1, rows]},
        "dict": {"k": 1, **PLAIN["dict"], "z": {1}},
    }
    value["dict"]["z"] = [object()]
    paths = {"list": f"$[{COUNT}].id", "within": f"$.a[1][{COUNT}].id", "dict": "$.z[0]"}
    for steps in (CODECS[codec].encode_steps, CODECS[codec].result_steps):
        with pytest.raises(TypeError) as caught:
            driven(steps(value[where]))
        assert f"{codec} cannot encode {paths[where]}: object" == str(caught.value)


CHANGES: dict[str, Callable[[Any], object]] = {
    "append": lambda rows: rows.append({"id": 0}),
    "insert": lambda rows: rows.insert(0, {"id": 0}),
    "replace first": lambda rows: rows.__setitem__(0, {"id": -1}),
    "replace last": lambda rows: rows.__setitem__(-1, {"id": -1}),
    "delete": lambda rows: rows.__delitem__(0),
    "clear": lambda rows: rows.clear(),
    "reverse": lambda rows: rows.reverse(),
    "field": lambda rows: rows[0].__setitem__("name", "other"),
    "new field": lambda rows: rows[0].__setitem__("more", 1),
}
DICT_CHANGES: dict[str, Callable[[Any], object]] = {
    "add": lambda made: made.__setitem__("new", 1),
    "replace first": lambda made: made.__setitem__("k0", 1),
    "delete": lambda made: made.__delitem__("k0"),
    "rename": lambda made: (made.pop("k0"), made.__setitem__("new", 1)),
    "clear": lambda made: made.clear(),
    "field": lambda made: made["k0"].__setitem__("n", -1),
}


@codecs
@pytest.mark.parametrize("place", ["top", "within", "tagged"])
@pytest.mark.parametrize("change", [*CHANGES, *(f"dict {each}" for each in DICT_CHANGES)])
def test_a_value_that_changes_is_never_torn(codec: str, place: str, change: str) -> None:
    """Whenever another task changes it, what is stored is the value as it was at one moment, or
    nothing."""
    kind = CODECS[codec]
    refused = 0
    for when in (1, 2, 3, 4, 6, 9, 13, 18, 25):
        if change.startswith("dict "):
            inner: Any = {f"k{n}": {"n": n} for n in range(2_000)}
            do = DICT_CHANGES[change.removeprefix("dict ")]
        else:
            inner, do = [{"id": n, "name": f"u{n}"} for n in range(2_000)], CHANGES[change]
        value: Any = {"top": inner, "within": {"a": 1, "rows": inner}, "tagged": [(1,), inner]}[
            place
        ]
        before = kind.encode(value)
        steps = 0

        def between(number: int) -> None:
            nonlocal steps
            steps = number
            if number == when:  # noqa: B023
                do(inner)  # noqa: B023

        try:
            stored = driven(kind.encode_steps(value), between)
        except ChangedError:
            refused += 1
        else:
            assert stored in (before, kind.encode(value))
        if steps < when:
            break
    assert refused


def changing(codec: str, change: Callable[[], object]) -> Any:
    """A codec in whose third step *change* is called, as another task would."""
    calls = 0

    class Changing(type(CODECS[codec])):  # type: ignore[misc]
        def _part(self, value: Any, depth: int) -> Any:
            nonlocal calls
            calls += 1
            if calls == 3:
                change()
            return super()._part(value, depth)

    return Changing()


@faces
@codecs
@pytest.mark.parametrize("verb", ["set", "set_many", "get_or_set", "cached"])
@pytest.mark.parametrize("change", ["append", "replace first", "clear", "field"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_a_value_that_is_changed_is_not_stored(
    face: str, codec: str, verb: str, change: str, anyio_backend: str, caplog: Any
) -> None:
    """Storing it is refused; a function's result is returned all the same, with a warning."""
    rows: list[Any] = [{"id": n, "name": f"u{n}"} for n in range(COUNT)]
    kind = changing(codec, lambda: CHANGES[change](rows))
    plain = sync.Cache(BlockingMemoryBackend(), KEYRING, codec=kind)
    cache = Face(plain if face == "sync" else Cache(MemoryBackend(), KEYRING, codec=kind))
    before = repr(rows)
    if verb.startswith("set"):
        items = {"key": rows}
        with pytest.raises(RuntimeError, match="changed while it was encoded"):
            await (cache.set("key", rows) if verb == "set" else cache.set_many(items))
    elif verb == "get_or_set":
        found = await cache.get_or_set("key", cache.factory(lambda: rows))
        assert rows is found
    else:
        found = await _call(cache, rows)
        assert rows is found
    assert before != repr(rows)
    assert await cache.get("key") is None
    if verb in ("get_or_set", "cached"):
        assert "cannot be cached" in caplog.text


async def _call(cache: Face, rows: Any) -> Any:
    import anyio.to_thread

    if cache.is_async:

        @cached(cache=cache.cache)
        async def load() -> Any:
            return rows

        return await load()

    @cached(cache=cache.cache)
    def load_sync() -> Any:
        return rows

    return await anyio.to_thread.run_sync(load_sync)


@codecs
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_compressed_and_wrapped_values_take_steps(codec: str, anyio_backend: str) -> None:
    """What stands around a codec keeps its steps; a small stream may hold a large value."""
    kind = Compressed(CODECS[codec])
    rows = [{"name": "x" * 50} for _ in range(COUNT)]
    data = kind.encode(rows)
    assert kind.is_long(data)
    assert len(data) < 10_000
    assert data == driven(kind.encode_steps(rows)) == driven(kind.result_steps(rows))
    assert rows == driven(kind.decode_steps(data))
    cache = Cache(MemoryBackend(), KEYRING, codec=kind)
    assert await cache.set("key", rows)
    assert rows == await cache.get("key")
    wrapper = EncryptionWrapper(KEYRING, kind)
    sealed = await wrapper.aencode(rows, "name")
    assert rows == await wrapper.adecode(sealed, "name") == wrapper.decode(sealed, "name")


def test_a_codec_that_encodes_in_its_own_way_is_asked() -> None:
    """A subclass of before there were steps must not be passed by."""

    class Upper(MessagePackCodec):
        def encode(self, value: Any) -> bytes:
            return super().encode([str(each).upper() for each in value])

    cache = sync.Cache(BlockingMemoryBackend(), KEYRING, codec=Upper())
    for count in (3, 4 * COUNT):
        cache.set("key", ["a"] * count)
        assert ["A"] * count == cache.get("key")
