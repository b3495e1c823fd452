"""How long an AWS client waits for one answer, and how much it takes (extra ``aws``).

botocore's timeouts hold for one read, and it reads answers whole, however long they are. Here one
request as a whole, from connecting to the last byte, has a deadline, and its answer a limit. An
answer that is streamed (GetObject) is limited up to its headers; its reader limits the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio

from anyseal.errors import MissingExtraError
from anyseal.patience import take_all

try:
    from botocore import exceptions
except ImportError as _exc:  # pragma: no cover - the extra is missing
    raise MissingExtraError.of("AWS services need aiobotocore", "anyseal[aws]") from _exc

__all__ = ["ANSWER_MAX_BYTES", "SMALL_BYTES", "limit_answers", "pieces_of"]

ANSWER_MAX_BYTES = 4 << 20
"""A page of 1,000 of the longest keys of S3, or of 1 MB of DynamoDB, as it is sent."""

TAGS_MAX = 50_000
"""A page of 1,000 has half of them; botocore parses an answer several times, in the event loop."""

SMALL_BYTES = 1 << 20
"""For services that answer with one key or secret."""


class ExcessError(exceptions.BotoCoreError):  # type: ignore[misc]
    """The answer is longer than any right one, or would unfold to more."""

    fmt = "the answer to {endpoint_url} is longer than {limit:,} bytes, or unfolds to more"


def limit_answers(
    client: Any, seconds: Callable[[str], float], max_bytes: int = ANSWER_MAX_BYTES
) -> None:
    """Limit the answers to *client*'s requests. Again does nothing.

    Args:
        client: Of aiobotocore; one that was stubbed or is none is left as it is.
        seconds: For one request of the operation that is named: infinite if a body is sent, whose
            sender limits it.
        max_bytes: Of an answer that is read whole.
    """
    meta = getattr(client, "meta", None)
    session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    if session is None or meta is None:
        return
    service = meta.service_model.service_id.hyphenize()

    async def send(request: Any, event_name: str, **_: Any) -> Any:
        operation = event_name.rpartition(".")[2]
        streamed, request.stream_output = request.stream_output, True
        try:
            with anyio.fail_after(seconds(operation)):
                answer = await session.send(request)
                if not streamed or answer.status_code >= 300:
                    # What botocore finds there it does not read.
                    answer._content = await _read(answer.raw, request.url, max_bytes)
        except TimeoutError as exc:
            raise exceptions.ReadTimeoutError(endpoint_url=request.url, error=exc) from exc
        return answer

    meta.events.register(f"before-send.{service}", send, unique_id="anyseal-answers")


async def _read(raw: Any, url: str, max_bytes: int) -> bytes:
    """All of an answer; its connection goes back, or is closed if it is not read to its end."""
    content = bytearray()

    def take(piece: bytes) -> None:
        content.extend(piece)
        if len(content) > max_bytes:
            raise ExcessError(endpoint_url=url, limit=max_bytes)

    try:
        await take_all(pieces_of(raw), take)
        if _unfolds(content):
            raise ExcessError(endpoint_url=url, limit=max_bytes)
    except BaseException as exc:
        await _close(raw)
        if isinstance(exc, exceptions.BotoCoreError) or not isinstance(exc, Exception):
            raise
        raise exceptions.HTTPClientError(error=exc) from exc
    await _close(raw, whole=True)
    return bytes(content)


def _unfolds(content: bytearray) -> bool:
    """Whether parsing *content* would cost far more than its length: no service sends that."""
    suspect = content.count(b"<") > TAGS_MAX or b"<!ENTITY" in content or b"\0" in content
    return suspect and not content.lstrip().startswith(b"{")  # JSON may quote anything


async def _close(raw: Any, *, whole: bool = False) -> None:
    if hasattr(raw, "aiter_raw"):
        with anyio.CancelScope(shield=True):
            await raw.aclose()
    elif whole:
        raw.release()
    else:
        raw.close()


def pieces_of(raw: Any) -> Any:
    """What arrives, without putting it together: of httpx, or of aiohttp."""
    return raw.aiter_raw() if hasattr(raw, "aiter_raw") else raw.content.iter_any()
