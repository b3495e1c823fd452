"""Entries behind an HTTP API (extra ``http``: httpx); :mod:`server` is the other side."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import anyio
import anyio.lowlevel

from anyseal import early, offload
from anyseal._ffi import process_number
from anyseal.cache.backends._wire import (
    ANSWER_MAX_BYTES,
    KEYS_MAX,
    LARGE_BYTES,
    NAME_MAX,
    dumps,
    from_base64,
    loads,
    names_of,
    to_base64,
)
from anyseal.deadline import bounded_client, deadline
from anyseal.errors import BackendError, ConfigurationError, MissingExtraError
from anyseal.loops import PerLoop

try:
    import httpx
except ImportError as _exc:  # pragma: no cover - the extra is missing
    raise MissingExtraError.of("the HTTP backend needs httpx", "anyseal[http]") from _exc

__all__ = ["BlockingHttpBackend", "HttpBackend"]

T = TypeVar("T")
_Own: TypeAlias = tuple[int, httpx.AsyncClient | None]

_LINE_NAMES = 10_000
_LINE_MAX_BYTES = _LINE_NAMES * (NAME_MAX + 3)


def _check(client: Any, kind: type[Any], timeout: Any) -> None:
    """Raises ConfigurationError for a client of the other side, or a timeout that is none."""
    if client is not None and not isinstance(client, kind):
        raise ConfigurationError(
            f"expected an httpx.{kind.__name__}, not {type(client).__module__}."
            f"{type(client).__qualname__}"
        )
    if (
        isinstance(timeout, bool)
        or not isinstance(timeout, (int, float))
        or not 0 < timeout <= 3600
    ):
        raise ConfigurationError("timeout must be above 0 and at most 3,600 seconds")


class _Api:
    """The requests and what their answers must look like. No I/O."""

    def __init__(self, url: str, token: str | None, headers: Mapping[str, str] | None) -> None:
        early.prepare(*early.HTTP)
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, TypeError):
            raise ConfigurationError("the HTTP backend needs an http or https URL") from None
        if parsed.scheme not in ("http", "https") or not parsed.host or parsed.fragment:
            raise ConfigurationError("the HTTP backend needs an http or https URL")
        if parsed.query:
            raise ConfigurationError("the HTTP backend's URL takes no query")
        self.tls = parsed.scheme == "https"
        # What is shown holds no password; httpx sends the one in the URL as basic authorization.
        self.shown = str(parsed.copy_with(username=None, password=None)).rstrip("/")
        self.auth = (parsed.username, parsed.password) if parsed.userinfo else None
        self.headers = {**(headers or {}), "Accept-Encoding": "identity"}
        if token is not None:
            if not isinstance(token, str):
                raise ConfigurationError("token must be a str")
            if (
                self.auth
                or not token
                or not token.isascii()
                or not token.isprintable()
                or " " in token
            ):
                raise ConfigurationError("token must be printable ASCII, and goes without a user")
            self.headers["Authorization"] = f"Bearer {token}"
        self.headers["Content-Type"] = "application/json"

    def address(self, operation: str) -> str:
        """Where *operation* is asked for; empty for set."""
        return f"{self.shown}/{operation}" if operation else self.shown

    def unusable(self, what: str) -> BackendError:
        error = BackendError(f"{self.shown}: {what}")
        error.retryable = False
        return error

    def failed(self, exc: Exception) -> BackendError:
        return BackendError(f"{self.shown}: {type(exc).__name__}")

    def check(self, status: int) -> None:
        """Raises BackendError unless it is the status of an answer."""
        if status != 200:
            error = self.unusable(f"HTTP status {status}")
            error.retryable = status in (408, 429) or (status >= 500 and status != 501)
            error.refused = status in (501, 507) or (400 <= status < 500 and status != 408)
            raise error

    def grow(self, body: bytearray, piece: bytes) -> None:
        """Add to *body*. A server that sends too much is not read on."""
        body += piece
        if len(body) > ANSWER_MAX_BYTES:
            raise self.unusable("an answer that is too large")

    def read(self, body: bytearray, take: Callable[[dict[str, Any]], T]) -> T:
        """What *take* finds in the answer."""
        try:
            return take(loads(body))
        except (ValueError, KeyError, TypeError):
            raise self.unusable("an answer that is none of a cache's") from None

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """What httpx raises, as BackendError."""
        try:
            yield
        except BackendError:
            raise
        except (httpx.HTTPError, httpx.StreamError, OSError, ValueError) as exc:
            raise self.failed(exc) from None


class _Lines:
    """The lines of a scan, while they come in. No I/O."""

    def __init__(self, api: _Api, prefix: str) -> None:
        self._api = api
        self._prefix = prefix
        self._rest = bytearray()
        self.ended = False
        """Whether the last line came. What follows it is an error."""

    def take(self, piece: bytes) -> list[str]:
        """The names in the lines that *piece* completes."""
        self._rest += piece
        *whole, last = bytes(self._rest).split(b"\n")
        if len(last) > _LINE_MAX_BYTES:
            raise self._api.unusable("a line that is too long")
        self._rest[:] = last
        return [name for line in whole for name in self._names(line)]

    def _names(self, line: bytes) -> list[str]:
        try:
            found = json.loads(line)
            if found is None and not self.ended:
                self.ended = True
                return []
            names = names_of(found, _LINE_NAMES)
        except (ValueError, RecursionError):
            raise self._api.unusable("a line that is no list of names") from None
        if self.ended or not all(name.startswith(self._prefix) for name in names):
            raise self._api.unusable("names that were not asked for")
        return names

    def close(self) -> None:
        """Nothing more comes. Raises BackendError unless the last line was there."""
        if not self.ended:
            raise BackendError(f"{self._api.shown}: the scan broke off")


def _flag(name: str) -> Callable[[dict[str, Any]], bool]:
    def take(answer: dict[str, Any]) -> bool:
        if not isinstance(answer[name], bool):
            raise ValueError
        return bool(answer[name])

    return take


def _values(most: int) -> Callable[[dict[str, Any]], list[bytes | None]]:
    def take(answer: dict[str, Any]) -> list[bytes | None]:
        values = answer["values"]
        if not isinstance(values, list) or not 0 < len(values) <= most:
            raise ValueError
        return [None if value is None else from_base64(value) for value in values]

    return take


def _deleted(most: int) -> Callable[[dict[str, Any]], int]:
    def take(answer: dict[str, Any]) -> int:
        deleted = answer["deleted"]
        if isinstance(deleted, bool) or not isinstance(deleted, int) or not 0 <= deleted <= most:
            raise ValueError
        return deleted

    return take


def _setting(
    name: str, value: bytes, ttl_ms: int | None, if_absent: bool
) -> Callable[[], dict[str, Any]]:
    def message() -> dict[str, Any]:
        found: dict[str, Any] = {"key": name, "value": to_base64(value)}
        if ttl_ms is not None:
            found["ttl_ms"] = ttl_ms
        if if_absent:
            found["if_absent"] = True
        return found

    return message


def _replacing(
    name: str, expected: bytes, value: bytes | None, ttl_ms: int | None
) -> Callable[[], dict[str, Any]]:
    def message() -> dict[str, Any]:
        found = {"key": name, "expected": to_base64(expected), "value": to_base64(value)}
        return found if ttl_ms is None else {**found, "ttl_ms": ttl_ms}

    return message


def _no_tls() -> ssl.SSLContext:
    """For plain HTTP, where loading the system's certificates would take 20 ms. Trusts nobody."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class HttpBackend:
    """Entries behind an HTTP API, such as :class:`anyseal.cache.backends.server.CacheServer`.

    Safe to use from several event loops, each of which gets a client of its own; ``aclose`` closes
    that of the running loop. Redirections are not followed.

    Args:
        url: The API's address. A user and password in it are sent as basic authorization.
        token: Sent as ``Authorization: Bearer``.
        headers: Added to every request.
        timeout: Seconds for one call; for a scan, from one list of names to the next.
        client: Used and not closed. Default: one of our own.

    Raises:
        ConfigurationError: *url* or *token* is malformed.
        BackendError: Of any method: no answer, a bad status, or an answer that is too large.
            ``retryable`` for what may go away.
    """

    ends_when_cancelled = True

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 5.0,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        self._api = _Api(url, token, headers)
        _check(client, httpx.AsyncClient, timeout)
        self._timeout = timeout
        self._given = client
        self._tls: ssl.SSLContext | None = None
        self._own = PerLoop(self._make_client)

    def __repr__(self) -> str:
        return f"HttpBackend({self._api.shown!r})"

    async def _client(self) -> httpx.AsyncClient:
        if self._given is not None:
            return self._given
        if self._tls is None:
            make = httpx.create_ssl_context if self._api.tls else _no_tls
            self._tls = await offload.run_waiting(make)
        return self._own.get()

    def _make_client(self) -> httpx.AsyncClient:
        assert self._tls is not None
        return httpx.AsyncClient(verify=self._tls, timeout=self._timeout)

    async def _ask(
        self,
        operation: str,
        message: Callable[[], Mapping[str, Any]],
        size: int,
        take: Callable[[dict[str, Any]], T],
    ) -> T:
        """Send *message*, which is about *size* bytes, and take what is wanted of the answer."""
        api, answer = self._api, bytearray()
        client = await self._client()
        content = (
            await offload.run(lambda: dumps(message())) if size > LARGE_BYTES else dumps(message())
        )
        with api.errors(), anyio.fail_after(self._timeout):
            async with client.stream(
                "POST",
                api.address(operation),
                content=content,
                headers=api.headers,
                auth=api.auth or httpx.USE_CLIENT_DEFAULT,
            ) as response:
                api.check(response.status_code)
                async for piece in response.aiter_raw():
                    api.grow(answer, piece)
        if len(answer) > LARGE_BYTES:
            return await offload.run(lambda: api.read(answer, take))
        return api.read(answer, take)

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """The values, in the order of *names*; None for what is not there."""
        found: list[bytes | None] = []
        with self._api.errors(), anyio.fail_after(self._timeout):
            while len(found) < len(names):
                wanted = list(names[len(found) : len(found) + KEYS_MAX])
                message = {"keys": wanted}
                found += await self._ask("get", lambda m=message: m, 0, _values(len(wanted)))  # type: ignore[misc]
        return found

    async def set(
        self, name: str, value: bytes, *, ttl_ms: int | None = None, if_absent: bool = False
    ) -> bool:
        """Store *value*; with *if_absent* only if there is none. Whether it was stored."""
        message = _setting(name, value, ttl_ms, if_absent)
        return await self._ask("", message, len(value), _flag("stored"))

    async def compare_and_set(
        self, name: str, expected: bytes, value: bytes | None, *, ttl_ms: int | None = None
    ) -> bool:
        """Replace *expected* by *value* (None: delete) in one step; whether it was there."""
        message = _replacing(name, expected, value, ttl_ms)
        size = len(expected) + len(value or b"")
        return await self._ask("compare-and-set", message, size, _flag("replaced"))

    async def delete_many(self, names: Sequence[str]) -> int:
        """Delete what is there of *names*; how many that were."""
        deleted = 0
        with self._api.errors(), anyio.fail_after(self._timeout):
            for at in range(0, len(names), KEYS_MAX):
                keys = list(names[at : at + KEYS_MAX])
                message = {"keys": keys}
                deleted += await self._ask("delete", lambda m=message: m, 0, _deleted(len(keys)))  # type: ignore[misc]
        return deleted

    async def scan(self, prefix: str) -> AsyncIterator[list[str]]:
        """The names that begin with *prefix*, in lists, while they come in."""
        api, lines = self._api, _Lines(self._api, prefix)
        async with contextlib.AsyncExitStack() as stack:
            with api.errors(), anyio.fail_after(self._timeout):
                client = await self._client()
                response = await stack.enter_async_context(
                    client.stream(
                        "POST",
                        api.address("scan"),
                        content=dumps({"prefix": prefix}),
                        headers=api.headers,
                        auth=api.auth or httpx.USE_CLIENT_DEFAULT,
                    )
                )
                api.check(response.status_code)
            pieces = response.aiter_raw()
            piece: bytes | None = b""
            while piece is not None:  # to the end: then httpx is done too
                names: list[str] = []
                with api.errors(), anyio.fail_after(self._timeout):  # from one list to the next
                    while not names and (piece := await anext(pieces, None)) is not None:
                        names = lines.take(piece)
                if names:
                    yield names
        lines.close()

    async def aclose(self) -> None:
        """Close the running loop's client, if it is our own. Idempotent."""
        client = self._own.take()
        if client is not None:
            await client.aclose()


class BlockingHttpBackend:
    """The same with an ``httpx.Client``, for sync code. Safe to use from several threads.

    Args:
        url: The API's address. A user and password in it are sent as basic authorization.
        token: Sent as ``Authorization: Bearer``.
        headers: Added to every request.
        timeout: Seconds for one call; for a scan, from one list of names to the next.
        client: Used and not closed. Default: one of our own.

    Raises:
        ConfigurationError: *url* or *token* is malformed.
        BackendError: Of any method: no answer, a bad status, or an answer that is too large.
    """

    enforces_timeout = True

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 5.0,
        client: httpx.Client | None = None,
    ) -> None:
        self._api = _Api(url, token, headers)
        _check(client, httpx.Client, timeout)
        self._timeout = timeout
        self._given = None if client is None else bounded_client(client)
        self._own: dict[int, httpx.Client] = {}  # by process: a forked child has one of its own

    def __repr__(self) -> str:
        return f"BlockingHttpBackend({self._api.shown!r})"

    def _client(self) -> httpx.Client:
        if self._given is not None:
            return self._given
        own = self._own.get(process_number())
        if own is None:
            verify = httpx.create_ssl_context() if self._api.tls else _no_tls()
            fresh = bounded_client(httpx.Client(verify=verify, timeout=self._timeout))
            own = self._own.setdefault(process_number(), fresh)  # of several threads, one wins
        return own

    def _ask(
        self, operation: str, message: Mapping[str, Any], take: Callable[[dict[str, Any]], T]
    ) -> T:
        api, answer = self._api, bytearray()
        with (
            api.errors(),
            deadline(self._timeout),
            self._client().stream(
                "POST",
                api.address(operation),
                content=dumps(message),
                headers=api.headers,
                auth=api.auth or httpx.USE_CLIENT_DEFAULT,
            ) as response,
        ):
            api.check(response.status_code)
            for piece in response.iter_raw():
                api.grow(answer, piece)
        return api.read(answer, take)

    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """The values, in the order of *names*; None for what is not there."""
        found: list[bytes | None] = []
        with self._api.errors(), deadline(self._timeout):
            while len(found) < len(names):
                wanted = list(names[len(found) : len(found) + KEYS_MAX])
                found += self._ask("get", {"keys": wanted}, _values(len(wanted)))
        return found

    def set(
        self, name: str, value: bytes, *, ttl_ms: int | None = None, if_absent: bool = False
    ) -> bool:
        """Store *value*; with *if_absent* only if there is none. Whether it was stored."""
        return self._ask("", _setting(name, value, ttl_ms, if_absent)(), _flag("stored"))

    def compare_and_set(
        self, name: str, expected: bytes, value: bytes | None, *, ttl_ms: int | None = None
    ) -> bool:
        """Replace *expected* by *value* (None: delete) in one step; whether it was there."""
        message = _replacing(name, expected, value, ttl_ms)()
        return self._ask("compare-and-set", message, _flag("replaced"))

    def delete_many(self, names: Sequence[str]) -> int:
        """Delete what is there of *names*; how many that were."""
        deleted = 0
        with self._api.errors(), deadline(self._timeout):
            for at in range(0, len(names), KEYS_MAX):
                keys = list(names[at : at + KEYS_MAX])
                deleted += self._ask("delete", {"keys": keys}, _deleted(len(keys)))
        return deleted

    def scan(self, prefix: str) -> Iterator[list[str]]:
        """The names that begin with *prefix*, in lists, while they come in."""
        api, lines = self._api, _Lines(self._api, prefix)
        with contextlib.ExitStack() as stack:
            with api.errors(), deadline(self._timeout):
                response = stack.enter_context(
                    self._client().stream(
                        "POST",
                        api.address("scan"),
                        content=dumps({"prefix": prefix}),
                        headers=api.headers,
                        auth=api.auth or httpx.USE_CLIENT_DEFAULT,
                    )
                )
                api.check(response.status_code)
            pieces = response.iter_raw()
            piece: bytes | None = b""
            while piece is not None:  # to the end: then httpx is done too
                names: list[str] = []
                with api.errors(), deadline(self._timeout):  # from one list to the next
                    while not names and (piece := next(pieces, None)) is not None:
                        names = lines.take(piece)
                if names:
                    yield names
        lines.close()

    def close(self) -> None:
        """Close the client, if it is our own. Idempotent; a later call opens a new one."""
        own = self._own.pop(process_number(), None)
        if own is not None:
            own.close()
