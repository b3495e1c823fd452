"""Pickles of plain values, and of classes that are allowed by name: read without running others.

What unpickling costs is bounded by what there is to read: nothing is allocated by a number that the
data names, and no hash is computed of more than a multiple of its bytes. No opcode that makes
something out of the process is known here, and what a class or a function is stays as it is.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import io
import pickle
import re
import types
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from anyseal.errors import ConfigurationError

__all__ = ["PLAIN", "RestrictedUnpickler", "allowed_classes", "by_name", "restricted_loads"]

PLAIN: tuple[type[Any], ...] = (
    collections.OrderedDict,
    complex,
    datetime.date,
    datetime.datetime,
    datetime.time,
    datetime.timedelta,
    datetime.timezone,
    decimal.Decimal,
    uuid.UUID,
)
"""Beside what pickle has an opcode for. None of them runs code or allocates by a number."""

HASH_BUDGET = 1 << 20
"""Items of tuples, frozensets and instances that may be hashed, beside 16 for each byte of the
pickle: those that hold one another double with each few bytes. To compare two takes as much as to
hash one."""

HASH_DEPTH = 200
"""Those in one another, where they are hashed: that uses the C stack."""

_NESTING = (tuple, frozenset)
_COUNTED_AS_ONE = frozenset((*PLAIN, bytearray, fractions.Fraction))


def by_name(classes: Iterable[type]) -> dict[tuple[str, str], type]:
    """*classes* by what pickles call them."""
    return {(each.__module__, each.__qualname__): each for each in classes}


def allowed_classes(allow: Iterable[type], trusted: bool) -> tuple[type, ...]:
    """What *allow* holds. Raises ConfigurationError."""
    classes = tuple(allow) if isinstance(allow, Iterable) else (allow,)
    if not all(isinstance(each, type) for each in classes) or isinstance(allow, type):
        raise ConfigurationError("allow must hold classes")
    if trusted and classes:
        raise ConfigurationError("trusted allows every class: leave allow away")
    return classes


def _refuse(reason: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(reason)


def _bytearray(content: bytes | str = b"", encoding: str = "latin-1") -> bytearray:
    """``bytearray``, but never of a number: a few bytes must not ask for much memory."""
    if isinstance(content, str) and encoding == "latin-1":
        return bytearray(content, encoding)
    if isinstance(content, bytes):
        return bytearray(content)
    raise _refuse("not the content of a bytearray")


_RATIO = re.compile(r"-?[0-9]+(/[0-9]+)?", re.ASCII)


def _fraction(*parts: Any) -> fractions.Fraction:
    """``Fraction`` of what its pickles hold; of ``1e999999999`` it would compute that number."""
    whole = all(type(part) is int for part in parts)
    text = parts[0] if len(parts) == 1 else None
    if not whole and (type(text) is not str or _RATIO.fullmatch(text) is None):
        raise _refuse("not the parts of a fraction")
    return fractions.Fraction(*parts)


def _ordered_dict() -> Any:
    """Empty, as in every pickle of one: its items come by opcodes."""
    return collections.OrderedDict()


_MAKERS: dict[type, Callable[..., Any]] = {
    bytearray: _bytearray,
    fractions.Fraction: _fraction,
    collections.OrderedDict: _ordered_dict,
}
"""Called instead of the class."""

# The implementation in Python: it allocates by what there is, where the one in C allocates by what
# the data declares (its memo, and byte strings).
_InPython: Any = pickle._Unpickler  # type: ignore[attr-defined, unused-ignore]

_UNKNOWN = (
    pickle.INST, pickle.OBJ, pickle.PERSID, pickle.BINPERSID, pickle.EXT1, pickle.EXT2,
    pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER,
)  # fmt: skip
"""Opcodes that name something of the process, or call what no pickle of ours calls so."""


class RestrictedUnpickler(_InPython):  # type: ignore[misc]
    """Makes plain values and the instances of *classes*; calls nothing else, changes nothing else.

    Args:
        data: The pickle.
        classes: By module and qualified name.
        stateful: Those of *classes* that may be given a state after they were made (``BUILD``),
            beside UUID. Of them only classes that make a new object each time: not an Enum.
    """

    dispatch: ClassVar[dict[int, Any]] = {
        code: load for code, load in _InPython.dispatch.items() if bytes((code,)) not in _UNKNOWN
    }

    def __init__(
        self,
        data: bytes,
        classes: Mapping[tuple[str, str], type],
        stateful: Iterable[type] = (),
    ) -> None:
        super().__init__(io.BytesIO(data))
        self._data_size = len(data)
        self._classes = classes
        self._stateful = frozenset(each for each in stateful if _makes_new_ones(each))
        self._callable = {id(_MAKERS.get(each, each)) for each in classes.values()}
        self._filled = {list, dict, set, collections.OrderedDict, *classes.values()}
        self._nested: dict[int, tuple[int, int, Any]] = {}
        self._budget = HASH_BUDGET + 16 * len(data)

    def find_class(self, module: str, name: str, /) -> Any:
        """The class of this name, or what stands for it."""
        found = self._classes.get((module, name))
        if found is None:
            raise _refuse("not a plain type")
        return _MAKERS.get(found, found)

    def _check_callable(self, function: Any, args: Any) -> None:
        if id(function) not in self._callable or type(args) is not tuple:
            raise _refuse("not a plain type")

    def load_reduce(self) -> None:
        """Call an allowed class."""
        args = self.stack.pop()
        self._check_callable(self.stack[-1], args)
        self.stack[-1] = self._noted(self.stack[-1](*args), args)

    def load_newobj(self) -> None:
        """Make an instance of an allowed class, without its constructor."""
        args = self.stack.pop()
        self.stack[-1] = self._made(self.stack[-1], args, {})

    def load_newobj_ex(self) -> None:
        """The same, with keywords."""
        kwargs, args = self.stack.pop(), self.stack.pop()
        self.stack[-1] = self._made(self.stack[-1], args, kwargs)

    def _made(self, kind: Any, args: Any, kwargs: Any) -> Any:
        if kind is _ordered_dict:
            return kind(*args, **kwargs)
        self._check_callable(kind, args)
        if not isinstance(kind, type) or type(kwargs) is not dict:
            raise _refuse("not a class")
        return self._noted(kind.__new__(kind, *args, **kwargs), (*args, *kwargs.values()))

    def load_build(self) -> None:
        """Give an object its state: its own, never a class's or one that others share."""
        state, target = self.stack[-1], self.stack[-2]
        if type(target) is uuid.UUID:
            plain = type(state) is dict and set(state) <= {"int", "is_safe"}
            if not plain or not all(type(each) is int for each in state.values()):
                raise _refuse("not the state of a UUID")
        elif type(target) not in self._stateful:
            raise _refuse("a state for something that takes none")
        for part in state if type(state) is tuple else (state,):
            if type(part) is dict and any(_is_special(name) for name in part):
                raise _refuse("a state with special names")
        super().load_build()
        parts = state if type(state) is tuple else (state,)
        self._noted(target, [v for part in parts if type(part) is dict for v in part.values()])

    def load_bytearray8(self) -> None:
        """Looks at the declared length before it allocates."""
        size = int.from_bytes(self.read(8), "little")
        if size > self._data_size:
            raise _refuse("truncated")
        self.append(bytearray(self.read(size)))

    # ---- Containers: filled only where they are some, hashed only within bounds ----

    def _noted(self, made: Any, parts: Iterable[Any] = ()) -> Any:
        """Remember how much *made* is, and how deep, if it may take its *parts* to hash it."""
        if isinstance(made, _NESTING):
            parts = made
            if not any(isinstance(each, _NESTING) or id(each) in self._nested for each in made):
                return made  # its length says it
        elif type(made) in _COUNTED_AS_ONE:
            return made
        size, depth = self._extent(made) if id(made) in self._nested else (1, 0)
        for each in parts:
            more, below = self._extent(each)
            size, depth = size + more, max(depth, 1 + below)
        self._nested[id(made)] = (size, depth, made)
        return made

    def _extent(self, value: Any) -> tuple[int, int]:
        """Items and depth, as a hash or a comparison meets them."""
        size, depth, _ = self._nested.get(id(value), (1, 0, None))
        if depth == 0 and isinstance(value, _NESTING):
            return 1 + len(value), 1
        return size, depth

    def _will_hash(self, keys: Iterable[Any]) -> None:
        for key in keys:
            size, depth = self._extent(key)
            self._budget -= size
            if self._budget < 0 or depth > HASH_DEPTH:
                raise _refuse("too many things in one another to hash")

    def _will_fill(self, container: Any) -> None:
        if type(container) not in self._filled:
            raise _refuse("items for something that holds none")

    def load_tuple1(self) -> None:
        self.stack[-1] = self._noted((self.stack[-1],))

    def load_tuple2(self) -> None:
        self.stack[-2:] = [self._noted((self.stack[-2], self.stack[-1]))]

    def load_tuple3(self) -> None:
        self.stack[-3:] = [self._noted((self.stack[-3], self.stack[-2], self.stack[-1]))]

    def load_tuple(self) -> None:
        items = self.pop_mark()
        self.append(self._noted(tuple(items)))

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self._will_hash(items)
        self.append(self._noted(frozenset(items)))

    def load_dict(self) -> None:
        items = self.pop_mark()
        self._will_hash(items[::2])
        self.append(dict(zip(items[::2], items[1::2], strict=True)))

    def load_append(self) -> None:
        self._will_fill(self.stack[-2])
        super().load_append()

    def load_appends(self) -> None:
        self._will_fill(self.metastack[-1][-1])
        super().load_appends()

    def load_setitem(self) -> None:
        self._will_fill(self.stack[-3])
        self._will_hash(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        self._will_fill(self.metastack[-1][-1])
        self._will_hash(self.stack[::2])
        super().load_setitems()

    def load_additems(self) -> None:
        self._will_fill(self.metastack[-1][-1])
        self._will_hash(self.stack)
        super().load_additems()

    for _code, _load in (
        (pickle.REDUCE, load_reduce), (pickle.NEWOBJ, load_newobj),
        (pickle.NEWOBJ_EX, load_newobj_ex), (pickle.BUILD, load_build),
        (pickle.BYTEARRAY8, load_bytearray8), (pickle.TUPLE1, load_tuple1),
        (pickle.TUPLE2, load_tuple2), (pickle.TUPLE3, load_tuple3), (pickle.TUPLE, load_tuple),
        (pickle.FROZENSET, load_frozenset), (pickle.DICT, load_dict), (pickle.APPEND, load_append),
        (pickle.APPENDS, load_appends), (pickle.SETITEM, load_setitem),
        (pickle.SETITEMS, load_setitems), (pickle.ADDITEMS, load_additems),
    ):  # fmt: skip
        dispatch[_code[0]] = _load
    del _code, _load


def _makes_new_ones(kind: type) -> bool:
    """Whether each instance is a new object: classes may hand out shared ones, as an Enum does."""
    return isinstance(kind.__new__, types.BuiltinFunctionType) and (
        type(kind).__call__ is type.__call__
    )


def _is_special(name: Any) -> bool:
    return isinstance(name, str) and name.startswith("__") and name.endswith("__")


_GETS = frozenset((pickle.BINGET[0], pickle.LONG_BINGET[0]))
_TUPLES = frozenset(
    code[0]
    for code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.FROZENSET)
)


def _simple() -> list[int | None]:
    """By opcode: the bytes of its argument, or those of the argument's length as a negative number;
    None of what is not simple."""
    found: list[int | None] = [None] * 256
    for size, codes in {
        0: b"(.N\x88\x89]})\x8faseu\x90\x91t\x85\x86\x87\x94", 1: b"\x80Kh", 2: b"M", 4: b"Jj",
        8: b"\x95G", -1: b"C\x8c\x8a", -4: b"BX", -8: b"\x8d\x8e",
    }.items():  # fmt: skip
        for code in codes:
            found[code] = size
    return found


_SIMPLE = _simple()


def _is_simple(data: bytes) -> bool:
    """Whether *data* has only opcodes that make built-in values, and lengths that are there.

    Tuples (or frozensets) and references to what was made before would have to be counted: not both
    are simple.
    """
    at, end, tuples, gets = 0, len(data), 0, False
    while at < end:
        code = data[at]
        size = _SIMPLE[code]
        if size is None:
            return False
        at += 1
        if size < 0:
            at, size = at - size, int.from_bytes(data[at : at - size], "little")
        at += size if code != 0x95 else 8  # of a frame the opcodes follow
        if code in _TUPLES:
            tuples += 1
        elif code in _GETS:
            gets = True
    return at == end and not (tuples and gets) and tuples <= HASH_DEPTH


class _NoClasses(pickle.Unpickler):
    """The implementation in C, for what is simple."""

    def find_class(self, module: str, name: str, /) -> Any:
        raise _refuse("not a plain type")

    def persistent_load(self, pid: Any) -> Any:
        raise _refuse("not a plain value")


def restricted_loads(
    data: bytes,
    classes: Mapping[tuple[str, str], type],
    stateful: Iterable[type] = (),
) -> Any:
    """What :class:`RestrictedUnpickler` makes of *data*; raises what it raises.

    Cost: of values without classes about 0.1 us for each opcode and what pickle's C takes; of
    others 0.5 to 1 us for each.
    """
    if _is_simple(data):
        return _NoClasses(io.BytesIO(data)).load()
    return RestrictedUnpickler(data, classes, stateful).load()
