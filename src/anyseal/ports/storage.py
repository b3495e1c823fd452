"""Where sealed objects are read from and written to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from anyseal.ports._checked import Checked

__all__ = ["AppendSink", "BlockingSink", "BlockingSource", "Ends", "Progress", "Sink", "Source"]

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called with (plaintext bytes done, total or None) from the caller"s own thread or task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """The first and last bytes of a source, and its size, all of one moment."""

    size: int
    head: bytes
    tail: bytes


@runtime_checkable
class Source(Protocol, metaclass=Checked):
    """Random access to sealed bytes over a network.

    All reads after ``ends`` are of the same version, or raise SourceChangedError.
    """

    async def ends(self, head: int, tail: int) -> Ends:
        """The first *head* and last *tail* bytes (fewer if the source is shorter), pinned."""
        ...

    async def read(self, offset: int, length: int) -> bytes | bytearray | memoryview:
        """Exactly *length* bytes from *offset*."""
        ...

    async def aclose(self) -> None:
        """Let go of what the source holds."""
        ...


@runtime_checkable
class BlockingSource(Protocol, metaclass=Checked):
    """Random access to sealed bytes on this machine. Called from several threads at once."""

    def pread_ends(self, head: int, tail: int) -> Ends:
        """The first *head* and last *tail* bytes (fewer if the source is shorter)."""
        ...

    def pread_into(self, offset: int, buffer: memoryview) -> None:
        """Fill *buffer* from *offset*, or raise SourceChangedError."""
        ...

    def window(self, offset: int, length: int) -> memoryview | None:
        """The source's own memory for these bytes, if it has any."""
        ...

    def close(self) -> None:
        """Let go of what the source holds."""
        ...


@runtime_checkable
class Sink(Protocol, metaclass=Checked):
    """Takes sealed bytes, front to back.

    What ``write`` was given must not be kept after it returned. ``commit`` makes the whole
    visible, ``abort`` removes every trace; one of the two is called, once.
    """

    async def write(self, data: memoryview) -> None:
        """Append *data*."""
        ...

    async def commit(self) -> None:
        """Everything was written."""
        ...

    async def abort(self) -> None:
        """It will not be finished."""
        ...


@runtime_checkable
class BlockingSink(Protocol, metaclass=Checked):
    """Takes sealed bytes at any offset, in any order, from several threads at once."""

    def pwrite(self, offset: int, data: memoryview) -> None:
        """Write all of *data* at *offset*."""
        ...

    def window(self, offset: int, length: int) -> memoryview | None:
        """The sink's own memory for these bytes, to be sealed into; None if it has none."""
        ...

    def commit(self, size: int) -> None:
        """Everything was written: *size* bytes."""
        ...

    def abort(self) -> None:
        """It will not be finished: remove every trace."""
        ...


@runtime_checkable
class AppendSink(Protocol, metaclass=Checked):
    """Takes sealed bytes front to back, on this machine, by a blocking call."""

    def append(self, data: memoryview) -> None:
        """Write all of *data* after what was written before."""
        ...

    def commit(self, size: int) -> None:
        """Everything was written: *size* bytes."""
        ...

    def abort(self) -> None:
        """It will not be finished."""
        ...
