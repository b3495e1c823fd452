"""StreamOpener: open a sealed object from a pipe that cannot seek, front to back.

A pipe shows the trailer last, so only a prefix is authentic until the end: act on completion. The
parser holds back what could be the trailer, so that its bytes are never taken for a chunk
(docs/format.md, section 4, stream reader).
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias

from anyseal import offload
from anyseal._ffi import lib
from anyseal.config import STEP_BYTES
from anyseal.errors import DecryptionError, FormatError
from anyseal.hints import not_stream
from anyseal.keys import Key
from anyseal.objects.chunks import SegmentKey, open_run
from anyseal.objects.format import HEADER_MAX_BYTES, Header, ObjectKeys, Trailer
from anyseal.objects.geometry import SALT_BYTES, SEGMENTS_MAX
from anyseal.objects.opened import NeedKey
from anyseal.objects.sealer import bytes_view
from anyseal.objects.writer import check_context
from anyseal.pages import fresh_bytes
from anyseal.ports import Keyring, named_key, resolve_partition
from anyseal.suites import INLINE_BYTES

__all__ = ["StreamOpener", "StreamParser"]


@dataclass(frozen=True, slots=True)
class NeedData:
    """More of the stream; answered with bytes, or with None at its end."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """Chunks to open; answered with None once they are, and released to the consumer."""

    key: SegmentKey
    first: int
    data: bytes

    def open(self) -> bytes:
        """Their plaintext. Raises DecryptionError."""
        size = len(self.data) - -(-len(self.data) // self._sealed_chunk) * self.key.tag_bytes
        if size < 2:
            small = bytearray(max(size, 0))
            open_run(self.key, self.first, self.data, memoryview(small))
            return bytes(small)
        result, out = fresh_bytes(size)
        open_run(self.key, self.first, self.data, out)
        return result

    @property
    def _sealed_chunk(self) -> int:
        return self.key.chunk_bytes + self.key.tag_bytes


Event: TypeAlias = NeedData | NeedKey | Sealed


class StreamParser:
    """The framing, without any I/O: buffers, decides what is a chunk, checks the trailer."""

    def __init__(self, context: bytes) -> None:
        self._context = context
        self._buffer = bytearray()
        self._rest = memoryview(b"")
        self._ended = False
        self._salts = bytearray()
        self._size = 0

    def _have(self, count: int) -> Generator[Event, Any, bool]:
        """Buffer *count* bytes, or a few more; False if the stream ends before.

        Of a long piece no more than that: it is not copied at once.
        """
        while len(self._buffer) < count and not self._ended:
            if not len(self._rest):
                data = yield NeedData()
                if data is None:
                    self._ended = True
                    break
                self._rest = memoryview(data).cast("B")
            part = self._rest[: max(count - len(self._buffer), STEP_BYTES)]
            self._buffer += part
            self._rest = self._rest[len(part) :]
        return len(self._buffer) >= count

    def _take(self, count: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        return taken

    def events(self) -> Generator[Event, Any, None]:
        """What the parser needs, and the chunks it found, until the trailer has verified."""
        yield from self._have(HEADER_MAX_BYTES)
        header = Header.parse(bytes(self._buffer[:HEADER_MAX_BYTES]))
        key: Key = yield NeedKey(header.key_id)
        keys = ObjectKeys.unlock(header, key, self._context)
        self._take(header.geometry.header_bytes)
        try:
            while (yield from self._segment_follows(keys)):
                yield from self._segment(keys)
            self._check_trailer(keys)
        finally:
            keys.release()

    def _segment_follows(self, keys: ObjectKeys) -> Generator[Event, Any, bool]:
        """Whether another segment follows here, where one begins or the trailer does."""
        geometry = keys.geometry
        done = len(self._salts) // SALT_BYTES
        trailer = geometry.trailer_bytes(done)
        following = SALT_BYTES + 1 + geometry.tag_bytes + geometry.trailer_bytes(done + 1)
        if (yield from self._have(following)):
            if done >= SEGMENTS_MAX:
                raise FormatError("more segments than an object has")
            return True
        if len(self._buffer) != trailer:
            raise FormatError("cut short, or bytes that are neither a segment nor the trailer")
        return False

    def _segment(self, keys: ObjectKeys) -> Generator[Event, Any, None]:
        """One segment, up to its last chunk; the object's last is the one cut by the trailer."""
        geometry = keys.geometry
        index = len(self._salts) // SALT_BYTES
        salt = self._take(SALT_BYTES)
        self._salts += salt
        key = SegmentKey(keys.segment_key(index, salt), keys.header.suite, geometry.chunk_bytes)
        sealed_chunk = geometry.chunk_bytes + geometry.tag_bytes
        trailer = geometry.trailer_bytes(index + 1)
        chunks = geometry.segment_bytes // geometry.chunk_bytes
        limit = max(1, STEP_BYTES // geometry.chunk_bytes)
        first = 0
        while first < chunks:
            wanted = min(limit, chunks - first)
            yield from self._have(wanted * sealed_chunk + trailer)
            count = min(wanted, (len(self._buffer) - trailer) // sealed_chunk)
            if count > 0:
                yield Sealed(key, first, self._take(count * sealed_chunk))
                first += count
                self._size += count * geometry.chunk_bytes
                continue
            rest = len(self._buffer) - trailer  # the stream has ended: the final chunk, or none
            if rest < 0 or 0 < rest <= geometry.tag_bytes:
                raise FormatError("cut short in a chunk")
            if rest:
                yield Sealed(key, first, self._take(rest))
                self._size += rest - geometry.tag_bytes
            return

    def _check_trailer(self, keys: ObjectKeys) -> None:
        trailer = Trailer.parse(bytes(self._buffer))
        count = int.from_bytes(self._buffer[-36:-32])
        if trailer.size != self._size or count != len(self._salts) // SALT_BYTES:
            raise FormatError("the trailer contradicts what came before it")
        keys.check_trailer(trailer)
        if not lib.anyseal_equal(trailer.salts, bytes(self._salts), len(self._salts)):
            raise DecryptionError


class OpenerBase:
    """What both stream openers share."""

    def __init__(
        self, keyring: Key | Keyring, *, partition: str | None = None, context: bytes = b""
    ) -> None:
        self._partition = resolve_partition(keyring, partition)
        self._keyring = keyring
        self._context = check_context(context)


class StreamOpener(OpenerBase):
    """Open a sealed object from an async stream of bytes.

    ::

        opener = StreamOpener(keyring, partition="tenant-7")
        async for piece in opener.open(response.aiter_bytes()):
            ...
        # only now is the whole authentic

    Every piece is verified before it is released, but that the object is complete is known only
    when the iteration ends without an exception. One opener opens any number of streams.

    Args:
        keyring: The Key it was sealed under, or a Keyring together with *partition*.
        partition: As when sealing.
        context: As when sealing.

    Cost: memory for 1 MiB or two chunks, whichever is more, and 16 bytes per segment.
    """

    async def open(
        self, stream: AsyncIterable[bytes | bytearray | memoryview]
    ) -> AsyncIterator[bytes]:
        """The plaintext of *stream*, in verified pieces of about 1 MiB.

        Raises:
            FormatError: Not a sealed object, cut or extended.
            WrongKeyError: The key id is unknown under this partition.
            DecryptionError: It does not verify.
        """
        if not hasattr(type(stream), "__aiter__"):
            raise not_stream(stream, waits=True)
        iterator = aiter(stream)
        events = StreamParser(self._context).events()
        answer: Any = None
        while True:
            try:
                event = events.send(answer)
            except StopIteration:
                return
            answer = None
            if isinstance(event, NeedData):
                data = await anext(iterator, None)
                answer = None if data is None else bytes_view(data)
            elif isinstance(event, NeedKey):
                answer = await named_key(self._keyring, self._partition, event.key_id)
            elif len(event.data) <= INLINE_BYTES[event.key.suite]:
                yield event.open()
                await offload.breathe(len(event.data))
            else:
                yield await offload.run(event.open)
