"""cachekit's encryption: AES-256-GCM under a key for each tenant, bound to the entry's key."""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from anyseal.compat.cachekit.errors import DecryptionAuthenticationError, TenantResolutionError
from anyseal.pages import copied

__all__ = ["NONCE_BYTES", "TAG_BYTES", "Keys", "TenantKey", "associated_data", "tenant_bytes"]

NONCE_BYTES, TAG_BYTES = 12, 16
DOMAIN = b"encryption"
TENANT_MAX_BYTES = 1024
TENANTS_KEPT = 1024
"""Tenants whose derived keys are kept ready."""


def tenant_bytes(tenant: str) -> bytes:
    """UTF-8 of *tenant*. Raises TenantResolutionError unless it has 1 to 1024 bytes."""
    try:
        data = tenant.encode() if isinstance(tenant, str) else b""
    except UnicodeEncodeError:
        data = b""
    if not 1 <= len(data) <= TENANT_MAX_BYTES:
        raise TenantResolutionError("a tenant must be a str of 1 to 1024 bytes in UTF-8")
    return data


def associated_data(
    tenant: str, cache_key: str, format: str, compressed: bool, original_type: str | None = None
) -> bytes:
    """What an entry is bound to, version 3: each part after its length."""
    key = cache_key.encode()
    return b"".join(
        (_head(tenant), len(key).to_bytes(4), key, _tail(format, str(compressed), original_type))
    )


def _parts(*parts: str) -> bytes:
    encoded = [part.encode() for part in parts]
    return b"".join(len(part).to_bytes(4) + part for part in encoded)


@functools.lru_cache(256)
def _head(tenant: str) -> bytes:
    return b"\x03" + _parts(tenant)


@functools.lru_cache(64)
def _tail(format: str, compressed: str, original_type: str | None) -> bytes:
    return _parts(format, compressed, *([original_type] if original_type else ()))


class TenantKey:
    """The key of one tenant under one master key."""

    __slots__ = ("_aead", "fingerprint")

    def __init__(self, master_key: bytes, tenant: str) -> None:
        name = tenant_bytes(tenant)
        salt = b"cachekit_v1_" + bytes([len(DOMAIN)]) + DOMAIN + len(name).to_bytes(2) + name
        derived = HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=DOMAIN)
        key = derived.derive(master_key)
        self._aead = AESGCM(key)
        digest = hashlib.sha256(b"key_fingerprint_v1" + key).digest()
        self.fingerprint = digest[:16].hex()
        """Names the key without telling anything about it."""

    def seal(self, data: bytes, bound_to: bytes) -> bytes:
        """Nonce, ciphertext and tag. The nonce is random: nothing repeats after a fork."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, data, bound_to)

    def open(self, sealed: bytes, bound_to: bytes) -> bytes:
        """What was sealed. Raises DecryptionAuthenticationError if it does not verify."""
        sealed = copied(sealed)  # AES-GCM reads it twice
        if len(sealed) < NONCE_BYTES + TAG_BYTES:
            raise DecryptionAuthenticationError
        try:
            return self._aead.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound_to)
        except InvalidTag:
            raise DecryptionAuthenticationError from None


class Keys:
    """The tenants' keys under the current master key and those that still open.

    Args:
        master_key: 32 bytes or more; seals and opens.
        previous: Master keys that only open, the newest first.
    """

    __slots__ = ("_kept", "_lock", "_masters")

    def __init__(self, master_key: bytes, previous: Sequence[bytes] = ()) -> None:
        self._masters = (master_key, *previous)
        self._kept: OrderedDict[str, tuple[TenantKey, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, tenant: str) -> tuple[TenantKey, ...]:
        """The keys of *tenant*, the one that seals first."""
        found = self._kept.get(tenant)
        if found is not None and len(self._kept) == 1:
            return found
        with self._lock:
            found = self._kept.get(tenant)
            if found is not None:
                self._kept.move_to_end(tenant)
                return found
        found = tuple(TenantKey(master, tenant) for master in self._masters)
        with self._lock:
            self._kept[tenant] = found
            if len(self._kept) > TENANTS_KEPT:
                self._kept.popitem(last=False)
        return found

    def named(self, tenant: str, fingerprint: str | None) -> TenantKey | None:
        """The key with this fingerprint; None if there is none."""
        for key in self.of(tenant):
            if key.fingerprint == fingerprint:  # no secret: each entry says it
                return key
        return None

    def open_bare(self, tenant: str, sealed: bytes, bound_to: bytes) -> bytes:
        """Open what names no key: each key in turn, as the format demands (interop mode)."""
        for key in self.of(tenant):
            try:
                return key.open(sealed, bound_to)
            except DecryptionAuthenticationError:
                continue
        raise DecryptionAuthenticationError
