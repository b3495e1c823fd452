"""Request bodies: sealed blocks that are sent without copying, and without stopping the loop.

aiohttp writes a ``bytes`` body in one go, and joins it with the headers first; of a ``BytesIO`` it
takes a copy. Both transports of aiobotocore stream an async iterable, a slice at a time. botocore
asks for a body that can be read and rewound, and then hashes it in the event loop, unless it is
told not to: what is sealed needs no such proof, and a checksum is made where it was sealed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import hashlib
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import anyio
import anyio.lowlevel

from anyseal.errors import ConfigurationError

__all__ = ["CHECKSUMS", "Body", "checksum_of", "leave_unhashed", "patience", "wanted_checksum"]

SLICE_BYTES, SLICE_MAX_BYTES = 256 << 10, 1 << 20
"""What is written to a transport at a time: about 50 us; and 200 us, where it is taken at once."""

CONNECTING = 1.4
"""Of the patience: the time to connect and take the first slice."""

AT_ONCE = 0.1
"""Seconds: to take a slice longer than this is slow."""


def _crc32(blocks: Sequence[bytes]) -> bytes:
    value = 0
    for block in blocks:
        value = zlib.crc32(block, value)
    return value.to_bytes(4)


def _hashed(name: str) -> Callable[[Sequence[bytes]], bytes]:
    def digest(blocks: Sequence[bytes]) -> bytes:
        state = hashlib.new(name, usedforsecurity=False)
        for block in blocks:
            state.update(block)
        return state.digest()

    return digest


CHECKSUMS: dict[str, Callable[[Sequence[bytes]], bytes]] = {
    "CRC32": _crc32,
    "SHA1": _hashed("sha1"),
    "SHA256": _hashed("sha256"),
}
"""The checksums that botocore knows without ``awscrt``."""


def checksum_of(algorithm: str | None, blocks: Sequence[bytes]) -> dict[str, str]:
    """The parameter that carries the checksum of *blocks*; none without an algorithm."""
    if algorithm is None:
        return {}
    digest = CHECKSUMS[algorithm](blocks)
    return {f"Checksum{algorithm}": base64.b64encode(digest).decode()}


def wanted_checksum(client: Any, algorithm: str | None) -> str | None:
    """The algorithm to use: what the caller wants, or what the client would add by itself.

    Raises:
        ValueError: Not one of ``CHECKSUMS``.
    """
    if algorithm is None:
        config = getattr(getattr(client, "meta", None), "config", None)
        when = getattr(config, "request_checksum_calculation", None)
        return "CRC32" if when == "when_supported" else None
    if algorithm not in CHECKSUMS:
        raise ValueError(f"checksum must be one of {', '.join(CHECKSUMS)}, not {algorithm!r}")
    return algorithm


class Body:
    """Blocks of sealed bytes, one after the other; read again from the start for each attempt."""

    def __init__(self, blocks: Sequence[bytes]) -> None:
        self._blocks = blocks
        self._size = sum(map(len, blocks))
        self._at = 0
        self._scope: anyio.CancelScope | None = None
        self._patience = math.inf

    def __len__(self) -> int:
        return self._size

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence not in (0, 2):
            raise ValueError("whence must be 0 or 2")
        self._at = offset + (self._size if whence else 0)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """The next *size* bytes, for those who hash."""
        stop = self._size if size is None or size < 0 else min(self._at + size, self._size)
        taken, begin = [], 0
        for block in self._blocks:
            end = begin + len(block)
            if begin < stop and end > self._at:
                taken.append(block[max(self._at - begin, 0) : stop - begin])
            begin = end
        self._at = max(stop, self._at)
        return b"".join(taken)

    @contextlib.contextmanager
    def taken_within(self, seconds: float) -> Iterator[None]:
        """Cancels the block when its transport takes nothing of the body for so long, or when the
        answer is not there so long after all of it was taken.

        Transports limit how long they wait for the next bytes of an answer, not for all of it, and
        not all of them how long for a server that has stopped to read.

        Raises:
            TimeoutError: That happened.
        """
        with anyio.CancelScope() as scope:
            self._scope, self._patience = scope, seconds
            scope.deadline = anyio.current_time() + CONNECTING * seconds
            try:
                yield
            finally:
                self._scope = None
        if scope.cancelled_caught:
            raise TimeoutError("the server takes nothing, or does not answer")

    def _taken(self) -> float:
        """Grant the time for the next slice, or for the answer; returns the time that it is."""
        now = anyio.current_time()
        if self._scope is not None:
            self._scope.deadline = now + self._patience
        return now

    def _slices(self) -> Iterator[memoryview]:
        size, asked = SLICE_BYTES, -math.inf
        for block in self._blocks:
            at, view = 0, memoryview(block)
            while at < len(view):
                now = self._taken()
                size = min(2 * size, SLICE_MAX_BYTES) if now - asked < AT_ONCE else SLICE_BYTES
                asked = now
                yield view[at : at + size]
                at += size
        self._taken()

    def __aiter__(self) -> _Slices:
        return _Slices(self._slices())


def _task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # on trio
        return None


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


class _Slices:
    """No generator: nobody would close it when a request fails.

    aiohttp sends a body in a task of its own. When the connection is lost, the request fails, which
    the caller sees, and so may that task, whose error no caller retrieves: asyncio would log it.
    """

    def __init__(self, slices: Iterator[memoryview]) -> None:
        self._slices = slices
        self._caller: asyncio.Task[Any] | None = _task()

    def __aiter__(self) -> _Slices:
        return self

    async def __anext__(self) -> memoryview:
        sender = _task()
        if sender is not None and sender is not self._caller:
            self._caller = sender
            sender.add_done_callback(_retrieve)
        await anyio.lowlevel.checkpoint()  # a fast network would take all in one go
        for part in self._slices:
            return part
        raise StopAsyncIteration


def _before_call(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    """Undo what botocore does to bodies; only to those of ours."""
    if not isinstance(params.get("body"), Body):
        return
    # Asking whether the body is welcome takes a round trip, and a server may not answer. If it dies
    # then, aiohttp's task that asks ends in an error that no caller retrieves.
    # A refusal that comes early is read all the same; where the server resets the connection before
    # that, the next attempt tells (tests/test_s3_calls.py).
    params["headers"].pop("Expect", None)
    checksum = context.get("checksum")
    if checksum is not None:
        context["checksum"] = {
            name: value for name, value in checksum.items() if not name.startswith("request_")
        }
    config = context.get("client_config")
    settings = getattr(config, "s3", None) or {}
    if config is not None and settings.get("payload_signing_enabled") is None:
        config = copy.copy(config)
        config.s3 = {**settings, "payload_signing_enabled": False}
        context["client_config"] = config


def patience(client: Any) -> float:
    """Seconds that *client* waits for the next bytes; the same is granted to who takes ours."""
    config = getattr(getattr(client, "meta", None), "config", None)
    seconds = getattr(config, "read_timeout", None)
    return seconds if isinstance(seconds, (int, float)) else math.inf


def leave_unhashed(client: Any) -> None:
    """Have *client* send bodies of ours as they are. Again does nothing.

    A client whose ``payload_signing_enabled`` is set to true keeps hashing them.
    """
    events = getattr(getattr(client, "meta", None), "events", None)
    if events is None:
        return
    try:
        # Of all operations, as botocore's handlers are: those of one operation run before them.
        events.register_last("before-call.s3", _before_call, unique_id="anyseal-body")
    except ValueError as exc:  # pragma: no cover - another version registered another one
        raise ConfigurationError(str(exc)) from None
