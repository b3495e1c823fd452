"""What Vault is asked and what it answers: logins, tokens and their leases. No connections."""

from __future__ import annotations

import difflib
import json
import logging
import math
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from anyseal import offload
from anyseal.errors import ConfigurationError, KmsError

__all__ = [
    "AppRoleAuth",
    "CertAuth",
    "KubernetesAuth",
    "RefusedError",
    "Token",
    "TokenAuth",
    "VaultAuth",
    "answer_of",
    "auth_from_env",
    "base_of",
    "granted",
    "header_text",
    "needed",
    "path_of",
    "seconds",
    "wanted",
]

logger = logging.getLogger("anyseal.kms.vault")

KUBERNETES_TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105
RETRYABLE_STATUS = frozenset({408, 412, 429, 472, 473})  # 5xx too
TOKEN_MAX_CHARACTERS = 1 << 14
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)


class VaultAuth(Protocol):
    """A way to get a token; asked again whenever another one is needed."""

    async def credentials(self) -> tuple[str, dict[str, str]] | str:
        """Where to log in (a path below ``/v1/``) with which body; or a token at once."""
        ...


@dataclass(frozen=True, slots=True)
class TokenAuth:
    """A token from elsewhere. It is renewed while its lease can be."""

    token: str = field(repr=False)

    def __post_init__(self) -> None:
        header_text("token", self.token)

    async def credentials(self) -> str:
        """The token itself."""
        return self.token


@dataclass(frozen=True, slots=True, kw_only=True)
class AppRoleAuth:
    """Log in with a role id and a secret id."""

    role_id: str
    secret_id: str = field(repr=False)
    mount: str = "approle"

    def __post_init__(self) -> None:
        header_text("role_id", self.role_id)
        header_text("secret_id", self.secret_id)
        path_of("mount", self.mount)

    async def credentials(self) -> tuple[str, dict[str, str]]:
        """The login."""
        body = {"role_id": self.role_id, "secret_id": self.secret_id}
        return f"auth/{self.mount}/login", body


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesAuth:
    """Log in with the pod's service account token, read anew for each login."""

    role: str
    mount: str = "kubernetes"
    token_path: str | os.PathLike[str] = KUBERNETES_TOKEN_PATH

    def __post_init__(self) -> None:
        header_text("role", self.role)
        path_of("mount", self.mount)

    async def credentials(self) -> tuple[str, dict[str, str]]:
        """The login."""
        try:
            jwt = await offload.run(Path(self.token_path).read_text)
        except (OSError, UnicodeDecodeError) as exc:
            raise KmsError(
                f"vault: the service account token cannot be read: {type(exc).__name__}",
                retryable=False,
            ) from None
        return f"auth/{self.mount}/login", {"role": self.role, "jwt": jwt.strip()}


@dataclass(frozen=True, slots=True, kw_only=True)
class CertAuth:
    """Log in with a TLS client certificate; *role* picks one of several that match."""

    cert_file: str | os.PathLike[str]
    key_file: str | os.PathLike[str]
    role: str | None = None
    mount: str = "cert"

    def __post_init__(self) -> None:
        path_of("mount", self.mount)

    async def credentials(self) -> tuple[str, dict[str, str]]:
        """The login; the certificate is shown by the connection."""
        return f"auth/{self.mount}/login", {"name": self.role} if self.role else {}


@dataclass(frozen=True, slots=True, eq=False)
class Token:
    """A token and the times of its lease (``time.monotonic()``)."""

    value: str = field(repr=False)
    renewable: bool
    lease: float
    """Seconds; infinite without an expiry."""
    renew_at: float
    expires_at: float

    @classmethod
    def leased(cls, value: str, lease: float, renewable: bool) -> Token:
        """A token that was given or renewed just now."""
        seconds = lease if lease > 0 else math.inf
        now = time.monotonic()
        return cls(
            value=value,
            renewable=renewable,
            lease=seconds,
            renew_at=now + seconds * 2 / 3,
            expires_at=now + seconds,
        )

    def later(self) -> Token:
        """The same, to be renewed a little later: the renewal failed, but the lease goes on."""
        now = time.monotonic()
        return Token(
            value=self.value,
            renewable=self.renewable,
            lease=self.lease,
            renew_at=now + max(0.1, (self.expires_at - now) / 4),
            expires_at=self.expires_at,
        )


class RefusedError(KmsError):
    """Vault answered 403: the token, or what its policies allow."""


def answer_of(what: str, status: int, content: bytearray) -> dict[str, Any]:
    """The JSON of a good answer. A bad one's text may quote what was sent, so it is not told."""
    if status == 403:
        raise RefusedError(
            f"vault {what}: permission denied (the token, or its policies)", retryable=False
        )
    if 300 <= status < 400:
        raise KmsError(
            f"vault {what}: redirected ({status}): address the active node", retryable=False
        )
    if status >= 400:
        retryable = status >= 500 or status in RETRYABLE_STATUS
        raise KmsError(f"vault {what}: HTTP status {status}{_hint(content)}", retryable=retryable)
    try:
        answer = json.loads(content) if content else {}
    except (ValueError, RecursionError):
        raise KmsError(f"vault {what}: the answer is not JSON") from None
    if not isinstance(answer, dict):
        raise KmsError(f"vault {what}: the answer is not a JSON object")
    return answer


def _hint(content: bytearray) -> str:
    """Which of the well-known causes an error names."""
    for known in (
        b"encryption key not found",
        b"message authentication failed",
        b"invalid ciphertext",
        b"no handler for route",
        b"Vault is sealed",
        b"invalid role or secret ID",
    ):
        if known in content:
            return f" ({known.decode()})"
    return ""


def granted(what: str, answer: dict[str, Any]) -> Token:
    """The token that a login or renewal answered with."""
    auth = answer.get("auth")
    value = auth.get("client_token") if isinstance(auth, dict) else None
    if (
        not isinstance(auth, dict)
        or not isinstance(value, str)
        or not 0 < len(value) <= TOKEN_MAX_CHARACTERS
        or not (value.isascii() and value.isprintable())
    ):
        raise KmsError(f"vault {what}: no token in the answer", retryable=False)
    lease, renewable = seconds(auth.get("lease_duration")), auth.get("renewable") is True
    return Token.leased(value, lease, renewable)


def seconds(lease: Any) -> float:
    return float(lease) if isinstance(lease, (int, float)) and 0 < lease < 1e9 else 0.0


def header_text(name: str, value: Any) -> str:
    """Check something that goes into a header or body, without quoting it."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be str, not {type(value).__name__}")
    if not value or not value.isascii() or not value.isprintable():
        raise ConfigurationError(f"{name} is empty, or has characters that it cannot have")
    return value


def path_of(name: str, value: Any) -> str:
    """Check a name or mount that becomes a part of a path."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be str, not {type(value).__name__}")
    parts = value.strip("/").split("/")
    if not all(_NAME.fullmatch(part) for part in parts):
        raise ConfigurationError(f"{name} is not a path of Vault: {value!r}")
    return "/".join(parts)


def base_of(address: Any) -> str:
    """The address without its last slash."""
    if not isinstance(address, str):
        raise TypeError(f"address must be str, not {type(address).__name__}")
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError("address is not a URL") from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ConfigurationError("address must be https://host:port")
    if "@" in parts.netloc:
        raise ConfigurationError("address must not hold a password")
    if parts.scheme == "http" and host not in ("localhost", "127.0.0.1", "::1"):
        logger.warning("%r: tokens and keys travel unencrypted over http", host)
    return address.rstrip("/")


def wanted(variable: str) -> str | None:
    return os.environ.get(variable, "").strip() or None


def needed(variable: str) -> str:
    found = wanted(variable)
    if found is None:
        raise ConfigurationError(f"{variable} is not set")
    return found


def auth_from_env() -> VaultAuth:
    method = (wanted("VAULT_AUTH_METHOD") or "token").lower()
    mount = wanted("VAULT_AUTH_MOUNT")
    if method == "token":
        return TokenAuth(needed("VAULT_TOKEN"))
    if method == "approle":
        return AppRoleAuth(
            role_id=needed("VAULT_APPROLE_ROLE_ID"),
            secret_id=needed("VAULT_APPROLE_SECRET_ID"),
            mount=mount or "approle",
        )
    if method == "kubernetes":
        return KubernetesAuth(
            role=needed("VAULT_AUTH_ROLE"),
            mount=mount or "kubernetes",
            token_path=wanted("VAULT_K8S_TOKEN_PATH") or KUBERNETES_TOKEN_PATH,
        )
    if method == "cert":
        return CertAuth(
            cert_file=needed("VAULT_CLIENT_CERT"),
            key_file=needed("VAULT_CLIENT_KEY"),
            role=wanted("VAULT_AUTH_ROLE"),
            mount=mount or "cert",
        )
    near = difflib.get_close_matches(method, ["token", "approle", "kubernetes", "cert"], 1, 0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigurationError(f"VAULT_AUTH_METHOD {method!r} is unknown{hint}")
