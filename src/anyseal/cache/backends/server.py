"""A small server of the HTTP cache API, as an ASGI application over any backend.

The reference for the protocol in :mod:`anyseal.cache.backends.http`; it sees sealed bytes only.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from anyseal import offload
from anyseal.cache.backends._wire import (
    ANSWER_MAX_BYTES,
    BODY_MAX_BYTES,
    KEYS_MAX,
    LARGE_BYTES,
    NAME_MAX,
    VALUE_MAX_BYTES,
    dumps,
    from_base64,
    is_name,
    loads,
    names_of,
    to_base64,
)
from anyseal.errors import BackendError, ConfigurationError
from anyseal.ports import Backend

__all__ = ["CacheServer"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_TTL_MAX_MS = 10 * 365 * 86_400_000
_GET_AT_ONCE = 16
"""Until one of the values is large: from then on one at a time."""
_JSON = "application/json"


class _Refused(Exception):  # noqa: N818 - not an error of the server
    def __init__(self, status: int, why: str, **headers: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why
        self.headers = headers


class _Gone(Exception):  # noqa: N818
    """The client went away."""


class CacheServer:
    """Serves a backend's entries over HTTP: an ASGI 3 application.

    The backend is closed when the application shuts down. There is no TLS here: run it behind
    what has it, or on a private network.

    Args:
        backend: Where the entries are kept.
        token: What clients must send as ``Authorization: Bearer``; None lets everyone in.
        path: Where the API is, below the path that the application is mounted at.
        max_value_bytes: The largest value taken; at most 16 MiB.

    Raises:
        ConfigurationError: *token* or *path* is malformed, or *backend* none, or a blocking one.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        token: str | None = None,
        path: str = "/api",
        max_value_bytes: int = VALUE_MAX_BYTES,
    ) -> None:
        if not isinstance(backend, Backend):
            raise ConfigurationError(f"expected a Backend, not {type(backend).__name__}")
        if token is not None and not (isinstance(token, str) and token and token.isascii()):
            raise ConfigurationError("token must be ASCII and not empty")
        if path and (not path.startswith("/") or path.endswith("/")):
            raise ConfigurationError("path must begin, and not end, with a slash")
        if not 0 < max_value_bytes <= VALUE_MAX_BYTES:
            raise ConfigurationError(f"max_value_bytes must be between 1 and {VALUE_MAX_BYTES}")
        self._backend = backend
        self._authorization = None if token is None else f"Bearer {token}".encode()
        self._path = path
        self._max_value_bytes = max_value_bytes
        self._operations: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "": self._set,
            "/get": self._get,
            "/compare-and-set": self._compare_and_set,
            "/delete": self._delete,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or follow the server's life."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            try:
                await self._answer(scope, receive, send)
            except _Refused as refused:
                headers = {**refused.headers, "content-type": _JSON}
                await _send(send, refused.status, dumps({"error": refused.why}), headers)
            except _Gone:
                pass
        else:
            raise RuntimeError(f"{scope['type']} is not served")

    async def _live(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await self._backend.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        self._authorize(headers)
        below = scope["path"].removeprefix(scope.get("root_path", ""))
        if not below.startswith(self._path):
            raise _Refused(404, "no such address")
        operation = below[len(self._path) :].rstrip("/")
        if operation != "/scan" and operation not in self._operations:
            raise _Refused(404, "no such address")
        if scope["method"] != "POST" and not (scope["method"] == "PUT" and operation == ""):
            raise _Refused(405, "not the method", allow="POST" if operation else "POST, PUT")
        # Only with this type does a browser ask before it sends what another site made up.
        if headers.get(b"content-type", b"").split(b";")[0].strip().lower() != _JSON.encode():
            raise _Refused(415, f"the type must be {_JSON}")
        body = await self._body(headers, receive)
        try:
            message = await offload.run(loads, body) if len(body) > LARGE_BYTES else loads(body)
            if operation == "/scan":
                await self._scan(message, send)
                return
            answer = await self._operations[operation](message)
        except ValueError as exc:
            raise _Refused(400, str(exc)) from None
        except BackendError as exc:
            raise _unavailable(exc) from None
        size = sum(len(value or "") for value in answer.get("values", ()))
        data = await offload.run(dumps, answer) if size > LARGE_BYTES else dumps(answer)
        await _send(send, 200, data, {"content-type": _JSON})

    def _authorize(self, headers: dict[bytes, bytes]) -> None:
        if self._authorization is not None:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._authorization):
                raise _Refused(401, "not authorized", **{"www-authenticate": "Bearer"})

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytearray:
        announced = headers.get(b"content-length", b"0")
        if len(announced) > 19 or not announced.isdigit():
            raise _Refused(400, "not a length")
        if int(announced) > BODY_MAX_BYTES:
            raise _Refused(413, "the request is too large", connection="close")
        body, more = bytearray(), True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                raise _Gone
            body += event.get("body", b"")
            if len(body) > BODY_MAX_BYTES:
                raise _Refused(413, "the request is too large", connection="close")
            more = event.get("more_body", False)
        return body

    async def _set(self, message: dict[str, Any]) -> dict[str, Any]:
        _only(message, "key", "value", "ttl_ms", "if_absent")
        if_absent = message.get("if_absent", False)
        if not isinstance(if_absent, bool):
            raise ValueError("if_absent must be true or false")
        stored = await self._backend.set(
            _key(message),
            await self._value(message, "value"),
            ttl_ms=_ttl_ms(message),
            if_absent=if_absent,
        )
        return {"stored": stored}

    async def _get(self, message: dict[str, Any]) -> dict[str, Any]:
        _only(message, "keys")
        names = names_of(message.get("keys"), KEYS_MAX)
        values: list[str | None] = []
        size = 0
        room = ANSWER_MAX_BYTES - 4096
        at, step = 0, _GET_AT_ONCE
        while at < len(names):
            for value in await self._backend.get_many(names[at : at + step]):
                at += 1
                size += 8 + 4 * len(value or b"") // 3
                if values and size > room:
                    return {"values": values}
                if size > room:
                    raise _Refused(501, "the value is too large")
                large = len(value or b"") > LARGE_BYTES
                values.append(await offload.run(to_base64, value) if large else to_base64(value))
                if large:
                    step = 1
        return {"values": values}

    async def _compare_and_set(self, message: dict[str, Any]) -> dict[str, Any]:
        _only(message, "key", "expected", "value", "ttl_ms")
        value = None
        if message.get("value", 0) is not None:
            value = await self._value(message, "value")
        replaced = await self._backend.compare_and_set(
            _key(message),
            await self._value(message, "expected"),
            value,
            ttl_ms=_ttl_ms(message),
        )
        return {"replaced": replaced}

    async def _delete(self, message: dict[str, Any]) -> dict[str, Any]:
        _only(message, "keys")
        names = names_of(message.get("keys"), KEYS_MAX)
        return {"deleted": await self._backend.delete_many(names)}

    async def _scan(self, message: dict[str, Any], send: Send) -> None:
        _only(message, "prefix")
        prefix: Any = message.get("prefix")
        if prefix != "" and not is_name(prefix):
            raise ValueError("prefix must be the beginning of a name")
        lists = aiter(self._backend.scan(prefix))
        first = await anext(lists, None)  # whatever fails at once still gets its status
        headers = [(b"content-type", b"application/x-ndjson")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        names = first
        try:
            while names is not None:
                for at in range(0, len(names), 5000):
                    line = json.dumps(names[at : at + 5000]).encode() + b"\n"
                    await send({"type": "http.response.body", "body": line, "more_body": True})
                names = await anext(lists, None)
            end = b"null\n"
        except BackendError:
            end = b""  # the client sees that it broke off
        await send({"type": "http.response.body", "body": end})

    async def _value(self, message: dict[str, Any], field: str) -> bytes:
        text = message.get(field)
        large = isinstance(text, str) and len(text) > LARGE_BYTES
        try:
            value = await offload.run(from_base64, text) if large else from_base64(text)
        except ValueError:
            raise ValueError(f"{field} must be base64") from None
        if len(value) > self._max_value_bytes:
            raise _Refused(413, "the value is too large")
        return value


def _only(message: dict[str, Any], *known: str) -> None:
    if not message.keys() <= set(known):
        raise ValueError(f"known are {', '.join(known)}")


def _key(message: dict[str, Any]) -> str:
    key = message.get("key")
    if not is_name(key):
        raise ValueError(f"key must be 1 to {NAME_MAX} printable ASCII characters, without spaces")
    return str(key)


def _ttl_ms(message: dict[str, Any]) -> int | None:
    ttl_ms = message.get("ttl_ms")
    if ttl_ms is None:
        return None
    if isinstance(ttl_ms, bool) or not isinstance(ttl_ms, int) or not 0 < ttl_ms <= _TTL_MAX_MS:
        raise ValueError(f"ttl_ms must be a whole number from 1 to {_TTL_MAX_MS}")
    return ttl_ms


def _unavailable(exc: BackendError) -> _Refused:
    # Its text may say where the backend is, which is not the client's business.
    if exc.refused:
        return _Refused(507, "the backend refuses")
    if exc.retryable:
        return _Refused(503, "the backend does not answer")
    return _Refused(501, "the backend cannot")


async def _send(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    listed = [(name.encode(), value.encode()) for name, value in headers.items()]
    listed.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": body})
