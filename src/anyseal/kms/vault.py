"""VaultTransitKms: system keys wrapped by Vault's transit engine (extra ``vault``: httpx).

HashiCorp Vault and OpenBao speak the same protocol. The wrapped form is the engine's own text,
``vault:v1:…``, as UTF-8.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

import anyio
import anyio.abc

from anyseal import early, offload
from anyseal.config import KEY_BYTES
from anyseal.errors import AnysealError, ConfigurationError, KmsError, MissingExtraError, one_line
from anyseal.hints import only_async_with, wrong_type
from anyseal.kms._blob import check_key, check_wrapped, wipe
from anyseal.kms._calls import check_patience, retried
from anyseal.kms._vault import (
    AppRoleAuth,
    CertAuth,
    KubernetesAuth,
    RefusedError,
    Token,
    TokenAuth,
    VaultAuth,
    answer_of,
    auth_from_env,
    base_of,
    granted,
    header_text,
    needed,
    path_of,
    seconds,
    wanted,
)
from anyseal.loops import PerLoop
from anyseal.patience import take_all

try:
    import httpx
except ImportError as _exc:  # pragma: no cover - the extra is missing
    raise MissingExtraError.of("Vault needs httpx", "anyseal[vault]") from _exc

__all__ = [
    "AppRoleAuth",
    "CertAuth",
    "KubernetesAuth",
    "TokenAuth",
    "VaultAuth",
    "VaultTransitKms",
]

logger = logging.getLogger("anyseal.kms.vault")

T = TypeVar("T")

ANSWER_MAX_BYTES = 1 << 20
_WRAPPED = re.compile(r"vault:v[0-9]{1,9}:[A-Za-z0-9+/]+={0,2}", re.ASCII)


class _Loop:
    """What belongs to one event loop: the client, and the lock of the single flight."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.client: httpx.AsyncClient | None = None


class VaultTransitKms:
    """Wraps system keys with the transit engine of Vault or OpenBao.

    A token is renewed when two thirds of its lease have passed, and fetched anew by another login
    when it cannot be renewed or was refused. Renewal happens on use; as an async context manager
    (or with :meth:`keep_alive` in a task of yours) also while nothing is used, which a token that
    came from elsewhere needs.

    Args:
        address: ``https://host:port``.
        key_name: The engine's key, of a type that encrypts (``aes256-gcm96``).
        mount: Where the engine is mounted.
        auth: How to get a token. Default: ``TokenAuth`` with ``VAULT_TOKEN``.
        namespace: Sent as ``X-Vault-Namespace``.
        client: Used and not closed. Default: one of our own for each event loop and process.
        ca_file: Trust these authorities instead of the usual ones.
        timeout: Seconds for one request.
        attempts: How often to try while the errors are retryable.

    Raises:
        ConfigurationError: A setting is missing or malformed.

    Cost: one request to wrap or unwrap, and one to log in first.
    """

    def __init__(
        self,
        address: str,
        key_name: str,
        *,
        mount: str = "transit",
        auth: VaultAuth | None = None,
        namespace: str | None = None,
        client: httpx.AsyncClient | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        timeout: float = 5.0,
        attempts: int = 3,
    ) -> None:
        early.prepare(*early.HTTP)
        check_patience(timeout=timeout, attempts=attempts)
        if auth is None:
            auth = TokenAuth(os.environ.get("VAULT_TOKEN", "").strip())
        if not hasattr(auth, "credentials"):
            remedy = "TokenAuth(token)" if isinstance(auth, str) else ""
            raise wrong_type("auth", "a TokenAuth, AppRoleAuth or the like", auth, remedy)
        self._base = base_of(address)
        self._key_name = path_of("key_name", key_name)
        self._mount = path_of("mount", mount)
        self._auth: VaultAuth = auth
        # A compressed answer may unfold to any length.
        self._headers = {"X-Vault-Request": "true", "Accept-Encoding": "identity"}
        if namespace:
            self._headers["X-Vault-Namespace"] = header_text("namespace", namespace)
        if client is not None and (ca_file is not None or isinstance(auth, CertAuth)):
            raise ConfigurationError("a client of yours brings its own certificates")
        self._client = client
        self._ca_file = ca_file
        self._timeout = timeout
        self._attempts = attempts
        self._held: Token | None = None
        self._loops = PerLoop(_Loop)
        self._groups: PerLoop[list[anyio.abc.TaskGroup]] = PerLoop(list)

    @classmethod
    def from_env(cls) -> Self:
        """Read the environment.

        ``VAULT_ADDR``, ``VAULT_TRANSIT_KEY``, ``VAULT_TRANSIT_MOUNT``, ``VAULT_NAMESPACE``,
        ``VAULT_CACERT``; then ``VAULT_TOKEN``, or ``VAULT_AUTH_METHOD`` (``token``, ``approle``,
        ``kubernetes``, ``cert``) with ``VAULT_AUTH_MOUNT``, ``VAULT_AUTH_ROLE``,
        ``VAULT_APPROLE_ROLE_ID``, ``VAULT_APPROLE_SECRET_ID``, ``VAULT_K8S_TOKEN_PATH``,
        ``VAULT_CLIENT_CERT`` and ``VAULT_CLIENT_KEY``.

        Raises:
            ConfigurationError: One that is needed is missing, or malformed.
        """
        return cls(
            needed("VAULT_ADDR"),
            needed("VAULT_TRANSIT_KEY"),
            mount=wanted("VAULT_TRANSIT_MOUNT") or "transit",
            auth=auth_from_env(),
            namespace=wanted("VAULT_NAMESPACE"),
            ca_file=wanted("VAULT_CACERT"),
        )

    async def wrap(self, key: bytearray) -> bytes:
        """32 secret bytes as ``vault:v1:…``.

        Raises:
            KmsError: Vault did not answer, or refused.
        """
        check_key(key)

        async def call() -> bytes:
            data = await self._transit("encrypt", "plaintext", base64.b64encode(key).decode())
            text = data.get("ciphertext")
            if not isinstance(text, str) or not _WRAPPED.fullmatch(text):
                raise KmsError("vault encrypt: no ciphertext in the answer", retryable=False)
            wrapped = text.encode()
            check_wrapped(wrapped)
            return wrapped

        return await self._retried("encrypt", call)

    async def unwrap(self, wrapped: bytes) -> bytearray:
        """The 32 bytes in *wrapped*.

        Raises:
            KmsError: Vault did not answer, or refused; not retryable if *wrapped* is malformed
                or was tampered with.
        """
        check_wrapped(wrapped)
        text = bytes(wrapped).decode("ascii", "replace")
        if not _WRAPPED.fullmatch(text):
            raise KmsError("not a key that Vault wrapped", retryable=False)

        async def call() -> bytearray:
            data = await self._transit("decrypt", "ciphertext", text)
            return _decoded_key(data.get("plaintext"))

        return await self._retried("decrypt", call)

    async def _retried(self, verb: str, call: Callable[[], Awaitable[T]]) -> T:
        return await retried(f"vault {verb}", call, attempts=self._attempts, timeout=self._timeout)

    async def _transit(self, verb: str, name: str, value: str) -> dict[str, Any]:
        """One operation of the engine; with a new token if the held one is refused."""
        path = f"{self._mount}/{verb}/{self._key_name}"
        token = await self._token()
        try:
            answer = await self._send(verb, "POST", path, {name: value}, token.value)
        except RefusedError:
            if isinstance(self._auth, TokenAuth):
                raise
            token = await self._token(refused=token)
            answer = await self._send(verb, "POST", path, {name: value}, token.value)
        data = answer.get("data")
        if not isinstance(data, dict):
            raise KmsError(f"vault {verb}: no data in the answer", retryable=False)
        return data

    async def _token(self, refused: Token | None = None) -> Token:
        """A token that is good, as far as can be known; whoever comes first fetches it."""
        held = self._held
        if held is not None and held is not refused and time.monotonic() < held.renew_at:
            return held
        async with self._loops.get().lock:
            held = self._held
            if held is not None and held is not refused:
                now = time.monotonic()
                if now < held.renew_at:
                    return held
                # A given token is tried even then: the lease that Vault tells is rounded down.
                if now < held.expires_at or isinstance(self._auth, TokenAuth):
                    self._held = await self._renewed(held)
                    return self._held
            self._held = await self._login()
            return self._held

    async def _renewed(self, held: Token) -> Token:
        """*held* with a new lease, or another token, or *held* as long as it lasts."""
        try:
            if held.renewable:
                answer = await self._send("renew", "POST", "auth/token/renew-self", {}, held.value)
                fresh = granted("renew", answer)
                # Shorter than before: it is near the end of its life and gets no longer lease.
                at_its_end = fresh.lease < held.lease / 2
                return Token.leased(held.value, fresh.lease, fresh.renewable and not at_its_end)
        except KmsError as exc:
            logger.warning("the token was not renewed: %s", one_line(exc))
            if exc.retryable:
                return held.later()
        if isinstance(self._auth, TokenAuth):
            return held.later()  # nobody here can get another one
        try:
            return await self._login()
        except KmsError as exc:
            logger.warning("no new token: %s", one_line(exc))
            return held.later()

    async def _login(self) -> Token:
        credentials = await self._auth.credentials()
        if isinstance(credentials, tuple):
            path, body = credentials
            return granted("login", await self._send("login", "POST", path, body, None))
        try:
            answer = await self._send("lookup", "GET", "auth/token/lookup-self", None, credentials)
        except RefusedError:  # a token need not be allowed to look at itself
            return Token.leased(credentials, 0, False)
        data = answer.get("data")
        lease = data.get("ttl") if isinstance(data, dict) else 0
        renewable = data.get("renewable") if isinstance(data, dict) else False
        return Token.leased(credentials, seconds(lease), renewable is True)

    async def _http(self) -> httpx.AsyncClient:
        """This event loop's client."""
        if self._client is not None:
            return self._client
        held = self._loops.get()
        if held.client is None:
            made = await offload.run(self._new_client)
            if held.client is None:
                held.client = made
            else:
                await made.aclose()
        return held.client

    def _new_client(self) -> httpx.AsyncClient:
        """A client of our own. Reads certificates, so it blocks."""
        if self._base.startswith("http:"):
            return httpx.AsyncClient(verify=False, timeout=self._timeout)  # noqa: S501 - no TLS
        try:
            context = ssl.create_default_context(
                cafile=None if self._ca_file is None else os.fspath(self._ca_file)
            )
            if isinstance(self._auth, CertAuth):
                context.load_cert_chain(self._auth.cert_file, self._auth.key_file)
        except OSError as exc:  # ssl.SSLError is one
            raise ConfigurationError(
                f"vault: the certificates cannot be loaded: {type(exc).__name__}"
            ) from None
        return httpx.AsyncClient(verify=context, timeout=self._timeout)

    async def _send(
        self, what: str, method: str, path: str, body: dict[str, str] | None, token: str | None
    ) -> dict[str, Any]:
        """One request; its answer as JSON.

        Raises:
            KmsError: No usable answer.
        """
        headers = self._headers if token is None else {**self._headers, "X-Vault-Token": token}
        try:
            client = await self._http()
            with anyio.fail_after(self._timeout):
                async with client.stream(
                    method, f"{self._base}/v1/{path}", headers=headers, json=body
                ) as response:
                    status = response.status_code
                    content = bytearray()

                    def take(piece: bytes) -> None:
                        if len(content) + len(piece) > ANSWER_MAX_BYTES:
                            raise KmsError(f"vault {what}: the answer is too long")
                        content.extend(piece)

                    await take_all(response.aiter_raw(), take)
        except TimeoutError as exc:
            raise KmsError(f"vault {what}: no answer in {self._timeout:g} s") from exc
        except httpx.HTTPError as exc:
            # Its chain holds the request, and with it the token.
            raise KmsError(
                f"vault {what}: {type(exc).__name__}", retryable=_transient(exc)
            ) from None
        except AnysealError:
            raise
        except Exception as exc:  # what httpx makes of nonsense is not all an HTTPError
            raise KmsError(f"vault {what}: {type(exc).__name__}") from None
        try:
            return answer_of(what, status, content)
        finally:
            wipe(content)

    async def keep_alive(self) -> NoReturn:
        """Keep the token alive until cancelled: log in at once, renew as leases run out.

        Failures are logged, and tried again. The context manager runs it.
        """
        pause = 0.5
        while True:
            try:
                token = await self._token()
            except AnysealError as exc:
                logger.warning("no token: %s", one_line(exc))
                pause = min(2 * pause, 60.0)
                await anyio.sleep(pause)
            else:
                pause = 0.5
                await anyio.sleep(min(max(0.05, token.renew_at - time.monotonic()), 600.0))

    async def aclose(self) -> None:
        """Close this event loop's connections. Idempotent; later calls open new ones."""
        for group in self._groups.get():
            group.cancel_scope.cancel()
        held = self._loops.take()
        if held is not None and held.client is not None:
            with anyio.CancelScope(shield=True):
                await held.client.aclose()

    __enter__ = only_async_with

    async def __aenter__(self) -> Self:
        group = anyio.create_task_group()
        await group.__aenter__()
        self._groups.get().append(group)
        group.start_soon(self.keep_alive)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        group = self._groups.get().pop()
        try:
            group.cancel_scope.cancel()
            await group.__aexit__(None, None, None)
        finally:
            await self.aclose()

    def __repr__(self) -> str:
        return f"<VaultTransitKms {self._base} {self._mount}/{self._key_name}>"


def _decoded_key(text: Any) -> bytearray:
    """The 32 bytes that *text* encodes."""
    try:
        key = bytearray(base64.b64decode(text, validate=True))
    except (TypeError, ValueError, binascii.Error):
        raise KmsError("vault decrypt: no plaintext in the answer", retryable=False) from None
    if len(key) != KEY_BYTES:
        wipe(key)
        raise KmsError("vault decrypt: the plaintext is not a key", retryable=False)
    return key


def _transient(exc: httpx.HTTPError) -> bool:
    """Whether a failed request may go away: a wrong certificate does not."""
    cause: BaseException | None = exc
    for _ in range(8):
        if cause is None:
            break
        if isinstance(cause, ssl.SSLCertVerificationError):
            return False
        cause = cause.__cause__ or cause.__context__
    return not isinstance(exc, (httpx.UnsupportedProtocol, httpx.TooManyRedirects))
