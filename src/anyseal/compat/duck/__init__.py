"""The encrypted cache of ``duck`` (package ``duckframework``), over any object with its methods.

::

    from anyseal.compat.duck import EncryptedCache

    cache = EncryptedCache(PersistentFileCache("./var/sessions"), SETTINGS["SECRET_KEY"])

Entries are the same in both directions: nonce 24 ‖ tag 16 ‖ ciphertext of a pickle, by libsodium's
SecretBox. Where the behaviour differs on purpose:

* Only plain types are pickled and unpickled (numbers, text, bytes, containers, dates, Decimal,
  UUID), unless ``trusted_pickle=True``. Anything else is a TypeError when it is stored, and an
  entry to evict when it is read.
* Keys may be text, also from the settings of an application; every length that
  :func:`resolve_nacl_key` documents works.
* ``async_*`` methods never block the loop: what the backend has only as a blocking method runs in
  a worker thread.

An entry says neither which key it is stored under nor when it expires: whoever can write to the
backend can exchange entries, or bring old ones back. :mod:`anyseal.cache` binds both.
"""

from __future__ import annotations

from anyseal.compat.duck.cache import MISSING, CacheBase, EncryptedCache
from anyseal.compat.duck.sealing import (
    DUCK_NACL_DERIVE_KEY_ENV,
    NACL_KEY_SIZE,
    NONCE_SIZE,
    CryptoError,
    NaClEncryptor,
    UndecodableError,
    generate_secret_key,
    resolve_nacl_key,
)

__all__ = [
    "DUCK_NACL_DERIVE_KEY_ENV",
    "MISSING",
    "NACL_KEY_SIZE",
    "NONCE_SIZE",
    "CacheBase",
    "CryptoError",
    "EncryptedCache",
    "NaClEncryptor",
    "UndecodableError",
    "generate_secret_key",
    "resolve_nacl_key",
]
