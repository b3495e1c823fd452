"""What S3's answers must have, and their bodies: as long as announced, and coming on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar, cast

from anyseal.errors import SourceError
from anyseal.patience import advancing, take_all

__all__ = ["content_range", "fill", "read_body", "required"]

T = TypeVar("T")


def required(answer: Any, name: str, kind: type[T], where: str) -> T:
    """A field of an answer, which must be there and of its kind.

    Raises:
        SourceError: It is not.
    """
    value = answer.get(name) if isinstance(answer, Mapping) else None
    if not isinstance(value, kind) or value == "" or (isinstance(value, int) and value < 0):
        raise SourceError(f"{where}: the answer has no usable {name}")
    return value


async def read_body(answer: Any, limit: int, where: str, patience: float) -> bytes:
    """All bytes of an answer, at most *limit*; the connection goes back or closes."""
    body = answer["Body"]
    async with body:
        announced = required(answer, "ContentLength", int, where)
        if announced > limit:
            raise SourceError(f"{where}: more bytes than were asked for")
        pieces: list[bytes] = []
        await _receive(body, announced, where, patience, pieces.append)
    return b"".join(pieces)


async def fill(body: Any, buffer: memoryview, where: str, patience: float) -> None:
    """Fill *buffer* from an answer, piece by piece as they come."""
    at = 0

    def take(piece: bytes) -> None:
        nonlocal at
        buffer[at : at + len(piece)] = piece
        at += len(piece)

    await _receive(body, len(buffer), where, patience, take)


async def _receive(
    body: Any, size: int, where: str, patience: float, take: Callable[[bytes], object]
) -> None:
    """Give *take* exactly *size* bytes of an answer, as they come and while they come."""
    received = 0
    with advancing(patience) as came:

        def take_next(piece: bytes) -> None:
            nonlocal received
            received += len(piece)
            if received > size:
                raise SourceError(f"{where}: more bytes than were asked for")
            came(len(piece))
            take(piece)

        await take_all(_pieces(body), take_next)
    if received != size:
        raise SourceError(f"{where}: the answer was cut short")


def _pieces(body: Any) -> AsyncIterator[bytes]:
    """What arrives, without putting it together: of httpx, aiohttp, or whatever else there is."""
    raw: Any = body.raw_stream
    if hasattr(raw, "aiter_raw"):
        return cast(AsyncIterator[bytes], raw.aiter_raw())
    content: Any = getattr(raw, "content", None)
    if hasattr(content, "iter_any"):
        return cast(AsyncIterator[bytes], content.iter_any())
    return cast(AsyncIterator[bytes], body.iter_chunks(1 << 16))


def content_range(answer: Mapping[str, Any], where: str) -> tuple[int, int]:
    """First position and total size of a partial answer."""
    text = str(answer.get("ContentRange", ""))
    try:
        span, total = text.removeprefix("bytes ").split("/")
        start, last = map(int, span.split("-"))
        if last - start + 1 != answer.get("ContentLength") or not 0 <= start <= last < int(total):
            raise ValueError
        return start, int(total)
    except ValueError:
        error = SourceError(f"{where}: a partial answer without a usable Content-Range")
        error.retryable = False  # a store that does not know ranges, or no object but a folder
        raise error from None
