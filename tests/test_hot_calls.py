"""What the calls of each request are made of: Python frames, instructions, and nothing built anew.

No clock is read here: these figures are the same on every machine, busy or idle.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import anyseal
from anyseal import Key, StaticKeyring, sync
from anyseal.compat import asherah
from anyseal.keyring import KeyHierarchy
from anyseal.kms import StaticKms
from anyseal.metastore import MemoryMetastore

PACKAGE = Path(anyseal.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
DATA = bytes(64)


def _asked(tree: ast.AST) -> Iterator[ast.expr]:
    """The second arguments of ``isinstance`` and the like."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, asked]):
                yield asked


def test_types_are_asked_for_by_tuples() -> None:
    """``isinstance(x, str | bytes)`` builds a union at each call: 380 ns, of a row's 3,000. One
    that was built before, under a name, is looked through in a slower way than a tuple, too."""
    found = []
    for path in SOURCES:
        module = None
        for asked in _asked(ast.parse(path.read_text())):
            place = f"{path.relative_to(PACKAGE)}:{asked.lineno}"
            if any(isinstance(node, ast.BitOr) for node in ast.walk(asked)):
                found.append(f"{place}: write isinstance(x, (A, B))")
            elif isinstance(asked, ast.Name) and path.stem != "__main__":
                parts = ("anyseal", *path.relative_to(PACKAGE).with_suffix("").parts)
                module = module or importlib.import_module(".".join(parts))
                if isinstance(vars(module).get(asked.id), types.UnionType):
                    found.append(f"{place}: make {asked.id} a tuple")
    assert [] == found


class Counted:
    """The frames that were entered and the instructions that ran in a call."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.frames = self.instructions = 0
        for _ in range(20):  # what is made at the first call, and Python's own warming up
            call()
        before = sys.getprofile(), sys.gettrace()
        sys.setprofile(self._profile)
        try:
            call()
        finally:
            sys.setprofile(before[0])
        for _ in range(2):  # the first time, 3.12 only marks the code that it will follow
            self.instructions = 0
            sys.settrace(self._trace)
            try:
                call()
            finally:
                sys.settrace(before[1])

    def _profile(self, frame: types.FrameType, event: str, argument: Any) -> None:
        self.frames += event == "call" and _is_ours(frame)

    def _trace(self, frame: types.FrameType, event: str, argument: Any) -> Any:
        if not _is_ours(frame):
            return None
        frame.f_trace = self._trace  # before the next line, or 3.13 tells of no instruction
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.instructions += event == "opcode"
        return self._trace


def _is_ours(frame: types.FrameType) -> bool:
    return frame.f_code.co_filename.startswith(str(PACKAGE))


def _driven(call: Callable[[], Any]) -> Callable[[], Any]:
    """An async call that has nothing to wait for, without an event loop around it."""

    def drive() -> Any:
        awaited = call()
        try:
            awaited.send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("it waits")

    return drive


class Warm:
    """Sessions and keys whose keys are cached."""

    def __init__(self) -> None:
        self.key = Key.from_bytes(bytes(range(32)))
        self.ring = StaticKeyring(bytes(32))
        self.store, self.kms = MemoryMetastore(), StaticKms("07" * 32)
        where: dict[str, Any] = {"service": "s", "product": "p"}
        self.sync_factory = sync.SessionFactory(
            KeyHierarchy(metastore=self.store, kms=self.kms, **where)
        )
        self.sync = self.sync_factory.session("user")
        self.row = self.sync.encrypt(DATA)
        self.factory = anyseal.SessionFactory(
            KeyHierarchy(metastore=self.store, kms=self.kms, **where)
        )
        self.session = self.factory.session("user")
        asyncio.run(self.session.encrypt(DATA))
        self.theirs_factory = asherah.SessionFactory(
            {"ServiceName": "s", "ProductID": "p", "Metastore": "memory", "KMS": "static",
             "StaticMasterKeyHex": "07" * 32}
        )  # fmt: skip
        self.theirs = self.theirs_factory.get_session("user")
        self.their_row = self.theirs.encrypt_bytes(DATA)
        self.sealed = sync.seal(DATA, self.key)


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    """Everything cached."""
    made = Warm()
    yield made
    made.theirs.close()
    made.theirs_factory.close()
    made.sync_factory.close()
    asyncio.run(made.factory.aclose())


CALLS: dict[str, tuple[int, int, Callable[[Warm], Any]]] = {
    "sync.seal": (2, 104, lambda it: sync.seal(DATA, it.key)),
    "sync.open": (2, 103, lambda it: sync.open(it.sealed, it.key)),
    "seal": (2, 118, lambda it: anyseal.seal(DATA, it.key)),
    "open": (2, 117, lambda it: anyseal.open(it.sealed, it.key)),
    "sync.Session.encrypt": (3, 103, lambda it: it.sync.encrypt(DATA)),
    "sync.Session.decrypt": (3, 105, lambda it: it.sync.decrypt(it.row)),
    "Session.encrypt": (5, 134, lambda it: it.session.encrypt(DATA)),
    "Session.decrypt": (4, 123, lambda it: it.session.decrypt(it.row)),
    "asherah.encrypt_bytes": (4, 118, lambda it: it.theirs.encrypt_bytes(DATA)),
    "asherah.decrypt_bytes": (4, 118, lambda it: it.theirs.decrypt_bytes(it.their_row)),
    "asherah.encrypt_text": (5, 134, lambda it: it.theirs.encrypt_text("text")),
    "asherah.decrypt_text": (5, 134, lambda it: it.theirs.decrypt_text(it.their_row)),
    "asherah.encrypt_bytes_async": (7, 174, lambda it: it.theirs.encrypt_bytes_async(DATA)),
    "asherah.decrypt_bytes_async": (8, 158, lambda it: it.theirs.decrypt_bytes_async(it.their_row)),
}
"""By what a service does for each request: frames and instructions on CPython 3.11."""


@pytest.mark.parametrize("name", CALLS)
def test_hot_calls_stay_short(warm: Warm, name: str) -> None:
    """A frame is 50 ns and an instruction a few: a row is sealed in 3,000. Whoever makes these
    calls longer finds out here, on any machine, and before a benchmark does. Other versions of
    Python count some instructions otherwise."""
    frames, instructions, call = CALLS[name]
    is_awaited = "." not in name or name.startswith("Session") or name.endswith("_async")
    once = (lambda: call(warm)) if not is_awaited else _driven(lambda: call(warm))
    counted = Counted(once)
    assert 0 < counted.frames <= frames, vars(counted)
    assert 0 < counted.instructions <= instructions * 1.25, vars(counted)
