"""Keys, and values sealed under them."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Iterable
from typing import Any, Final

import nacl.exceptions
import nacl.secret
import nacl.utils

from anyseal import early
from anyseal.compat.duck.plain import PICKLE_PROTOCOL, PlainPickles
from anyseal.errors import FormatError
from anyseal.pickles import allowed_classes

__all__ = [
    "DUCK_NACL_DERIVE_KEY_ENV",
    "NACL_KEY_SIZE",
    "NONCE_SIZE",
    "CryptoError",
    "NaClEncryptor",
    "UndecodableError",
    "generate_secret_key",
    "resolve_nacl_key",
]

CryptoError = nacl.exceptions.CryptoError

NONCE_SIZE: Final[int] = nacl.secret.SecretBox.NONCE_SIZE
"""24 bytes before each entry."""

NACL_KEY_SIZE: Final[int] = nacl.secret.SecretBox.KEY_SIZE
"""32 bytes."""

BYTES = (bytes, bytearray, memoryview)

DUCK_NACL_DERIVE_KEY_ENV = "DUCK_NACL_DERIVE_KEY"
"""Set to ``1``, keys longer than 32 bytes are hashed to 32."""


class UndecodableError(CryptoError, FormatError):
    """It verified, but does not hold a pickle of plain types."""


def generate_secret_key() -> bytes:
    """32 random bytes for :class:`NaClEncryptor`. Keep them in a secrets manager."""
    return bytes(nacl.utils.random(NACL_KEY_SIZE))


def _key_bytes(secret_key: Any) -> bytes:
    """*secret_key* as bytes. Raises TypeError."""
    if isinstance(secret_key, str):
        return secret_key.encode()
    if not isinstance(secret_key, BYTES):
        raise TypeError(f"secret_key must be bytes or str, not {type(secret_key).__name__}")
    return bytes(secret_key)


def resolve_nacl_key(secret_key: bytes | str) -> bytes:
    """The 32 bytes that stand for *secret_key*.

    Exactly 32 bytes are the key. Fewer are hashed with BLAKE2b to 32, and so are more if the
    environment variable ``DUCK_NACL_DERIVE_KEY`` is ``1``. Hashing adds no entropy: a short or
    guessable secret stays one.

    Args:
        secret_key: 1 byte or more; text stands for its UTF-8.

    Raises:
        TypeError: Neither bytes nor str.
        ValueError: Empty; or longer than 32 bytes without the variable.
    """
    key = _key_bytes(secret_key)
    if not key:
        raise ValueError("the secret key is empty")
    if len(key) == NACL_KEY_SIZE:
        return key
    if len(key) > NACL_KEY_SIZE and os.environ.get(DUCK_NACL_DERIVE_KEY_ENV) != "1":
        raise ValueError(
            f"the secret key has {len(key)} bytes, more than {NACL_KEY_SIZE}: "
            f"set {DUCK_NACL_DERIVE_KEY_ENV}=1 to have it hashed, or give {NACL_KEY_SIZE} bytes"
        )
    return hashlib.blake2b(key, digest_size=NACL_KEY_SIZE).digest()


class NaClEncryptor:
    """Seals picklable values with XSalsa20-Poly1305.

    Args:
        secret_key: Exactly 32 bytes; text stands for its UTF-8. :func:`resolve_nacl_key` makes
            them of others.
        trusted_pickle: Pickle and unpickle any type. Whoever knows the key can then run code in
            this process.
        allow: Classes that are pickled and unpickled beside the plain types, exactly these: such
            as an Enum, a NamedTuple, IPv4Address. Their constructors then run with whatever an
            entry says; nothing else that their ``__reduce__`` names does, and no state is set.

    Raises:
        TypeError: *secret_key* is neither bytes nor str.
        ValueError: *secret_key* has not 32 bytes; *allow* holds something that is no class,
            or goes with *trusted_pickle*.
    """

    __slots__ = ("_box", "_plain", "_trusted")

    def __init__(
        self,
        secret_key: bytes | str,
        *,
        trusted_pickle: bool = False,
        allow: Iterable[type] = (),
    ) -> None:
        key = _key_bytes(secret_key)
        if len(key) != NACL_KEY_SIZE:
            raise ValueError(
                f"the secret key has {len(key)} bytes, and must have {NACL_KEY_SIZE}: "
                "resolve_nacl_key makes them of others"
            )
        early.prepare()
        self._box = nacl.secret.SecretBox(key)
        self._trusted = trusted_pickle
        self._plain = PlainPickles(allowed_classes(allow, trusted_pickle))

    def encrypt(self, value: Any) -> bytes:
        """Pickle *value* and seal it under a fresh nonce.

        Returns:
            Nonce, tag and ciphertext: 40 bytes more than the pickle.

        Raises:
            TypeError: *value* cannot be pickled, or holds something that is not plain.

        Cost: pickling and one SecretBox, about 1.5 ns/byte; no event loop.
        """
        return self.seal(self.encode(value))

    def decrypt(self, data: bytes) -> Any:
        """Open *data* and unpickle it.

        Raises:
            CryptoError: It does not verify under this key.
            UndecodableError: It does, but is not a pickle of plain types. A CryptoError as well.

        Cost: one SecretBox and unpickling.
        """
        if not isinstance(data, BYTES):
            raise CryptoError("not an entry")
        try:
            pickled = self._box.decrypt(bytes(data))
        except ValueError:  # too short
            raise CryptoError("Decryption failed. Ciphertext failed verification") from None
        return self._decode(pickled)

    def encode(self, value: Any) -> bytes:
        """The pickle of *value*. Raises TypeError if there is none."""
        try:
            if self._trusted:
                return pickle.dumps(value, PICKLE_PROTOCOL)
            return self._plain.dumps(value)
        except TypeError:
            raise
        except Exception as exc:
            kind = type(value).__name__
            raise TypeError(f"{kind} cannot be pickled: {type(exc).__name__}") from exc

    def seal(self, pickled: bytes) -> bytes:
        """Seal what :meth:`encode` returned."""
        return bytes(self._box.encrypt(pickled, nacl.utils.random(NONCE_SIZE)))

    def _decode(self, pickled: bytes) -> Any:
        try:
            if self._trusted:
                return pickle.loads(pickled)  # noqa: S301 - asked for by name
            return self._plain.loads(pickled)
        except Exception as exc:  # unpickling raises whatever it likes
            raise UndecodableError(f"not a pickle of plain types ({type(exc).__name__})") from None
