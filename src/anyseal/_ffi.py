"""Load the extension and libsodium, prove them with known answers, turn codes into exceptions.

libsodium is the copy that PyNaCl carries: its functions' addresses are handed to the extension
once, so there is neither a system package nor a second copy. ``ANYSEAL_LIBSODIUM=/path`` loads
another build. A suite whose known-answer test fails is not offered.
"""

from __future__ import annotations

import atexit
import ctypes
import mmap
import os
from importlib import import_module
from typing import Any, NoReturn

from anyseal._native import ffi, lib

if lib.anyseal_interpreter() != 0:
    # Keys are the process's: this interpreter's end would wipe those of the others.
    raise ImportError(
        "anyseal works in the main interpreter only: run this application there "
        "(mod_wsgi: WSGIApplicationGroup %{GLOBAL})"
    )

from anyseal.errors import (
    AnysealError,
    ConfigurationError,
    DecryptionError,
    ExpiredError,
    FormatError,
    KeyUseError,
    SuiteUnavailableError,
    WriterStateError,
)
from anyseal.hints import not_bytes

__all__ = [
    "OwnPages",
    "ffi",
    "lib",
    "library",
    "process_number",
    "raise_for",
    "refuse_overlap",
    "steady",
    "suites_available",
    "view",
    "view_writable",
]

OVERLAP = (
    "the output buffer overlaps an input, which would be overwritten before it is read: "
    "give it memory of its own, or copy the input with bytes()"
)

_NEEDED = {
    "sodium_init": lib.ANYSEAL_FN_INIT,
    "crypto_hash_sha256": lib.ANYSEAL_FN_SHA256,
    "sodium_memzero": lib.ANYSEAL_FN_MEMZERO,
    "sodium_memcmp": lib.ANYSEAL_FN_MEMCMP,
    "crypto_generichash_blake2b_salt_personal": lib.ANYSEAL_FN_BLAKE2B,
}
_OFFERED = {
    "crypto_pwhash": lib.ANYSEAL_FN_PWHASH,
    "crypto_aead_aes256gcm_is_available": lib.ANYSEAL_FN_AES_AVAILABLE,
    "crypto_aead_aegis256_encrypt": lib.ANYSEAL_FN_AEGIS256_SEAL,
    "crypto_aead_aegis256_decrypt": lib.ANYSEAL_FN_AEGIS256_OPEN,
    "crypto_aead_aes256gcm_encrypt": lib.ANYSEAL_FN_AES256GCM_SEAL,
    "crypto_aead_aes256gcm_decrypt": lib.ANYSEAL_FN_AES256GCM_OPEN,
    "crypto_aead_xchacha20poly1305_ietf_encrypt": lib.ANYSEAL_FN_XCHACHA_SEAL,
    "crypto_aead_xchacha20poly1305_ietf_decrypt": lib.ANYSEAL_FN_XCHACHA_OPEN,
    "crypto_aead_chacha20poly1305_ietf_encrypt": lib.ANYSEAL_FN_CHACHA_SEAL,
    "crypto_aead_chacha20poly1305_ietf_decrypt": lib.ANYSEAL_FN_CHACHA_OPEN,
}

_LADIES = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you "
    b"only one tip for the future, sunscreen would be it."
)

# suite number: key, nonce, associated data, message, ciphertext and tag.
_KNOWN_ANSWERS = {
    1: (  # draft-irtf-cfrg-aegis-aead, AEGIS-256 test vector 1, 256-bit tag
        "1001" + "00" * 30,
        "100002" + "00" * 29,
        "",
        "00" * 16,
        "754fc3d8c973246dcc6d741412a4b236"
        "1181a1d18091082bf0266f66297d167d2e68b845f61a3b0527d31fc7b7b89f13",
    ),
    2: (  # McGrew and Viega, GCM test case 14
        "00" * 32,
        "00" * 12,
        "",
        "00" * 16,
        "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919",
    ),
    3: (  # draft-irtf-cfrg-xchacha, A.3.1
        bytes(range(0x80, 0xA0)).hex(),
        bytes(range(0x40, 0x58)).hex(),
        "50515253c0c1c2c3c4c5c6c7",
        _LADIES.hex(),
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f"
        "4eda7e39ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f"
        "76b2383565d3fff921f9664c97637da9768812f615c68b13b52ec0875924c1c7987947deafd8780acf49",
    ),
    4: (  # RFC 8439, 2.8.2
        bytes(range(0x80, 0xA0)).hex(),
        "070000004041424344454647",
        "50515253c0c1c2c3c4c5c6c7",
        _LADIES.hex(),
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69"
        "da92728b1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad67594"
        "5585808b4831d7bc3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691",
    ),
}


def _bundled(name: str) -> Any:
    """The address of PyNaCl's libsodium function *name*, or None."""
    import_module("nacl._sodium")
    nacl: Any = import_module("nacl")
    _sodium = nacl._sodium

    try:
        pointer = _sodium.ffi.addressof(_sodium.lib, name)
    except AttributeError:
        return None
    return ffi.cast("void *", int(_sodium.ffi.cast("uintptr_t", pointer)))


def _external(path: str) -> Any:
    """A look-up like :func:`_bundled` in the shared library at *path*, which stays loaded."""
    try:
        library = ctypes.CDLL(path)
    except OSError as exc:
        raise ConfigurationError(f"ANYSEAL_LIBSODIUM: cannot load {path!r}: {exc}") from None

    def look_up(name: str) -> Any:
        try:
            function = getattr(library, name)
        except AttributeError:
            return None
        return ffi.cast("void *", ctypes.cast(function, ctypes.c_void_p).value)

    return look_up


def _known_answer(suite: int) -> bool:
    """Whether *suite* seals and opens its published vector and refuses a flipped tag."""
    key, nonce, ad, message, sealed = (bytes.fromhex(part) for part in _KNOWN_ANSWERS[suite])
    out = bytearray(len(sealed))
    code = lib.anyseal_aead_seal(
        view_writable(out), message, len(message), ad, len(ad), nonce, key, suite
    )
    if code != 0 or out != sealed:
        return False
    back = bytearray(len(message))
    code = lib.anyseal_aead_open(
        view_writable(back), sealed, len(sealed), ad, len(ad), nonce, key, suite
    )
    if code != 0 or back != message:
        return False
    out[-1] ^= 1
    code = lib.anyseal_aead_open(
        view_writable(back), bytes(out), len(out), ad, len(ad), nonce, key, suite
    )
    return code == lib.ANYSEAL_ERROR_DECRYPTION and not any(back)


def _hash_known_answer() -> bool:
    """Whether SHA-256 (FIPS 180-4) and HMAC-SHA256 (RFC 4231, case 2) give their vectors."""
    digest, mac = bytearray(32), bytearray(32)
    lib.anyseal_sha256(view_writable(digest), b"abc", 3)
    message = b"what do ya want for nothing?"
    lib.anyseal_hmac(view_writable(mac), message, len(message), b"Jefe", 4)
    return (
        digest.hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        and mac.hex() == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )


def _load() -> tuple[str, frozenset[int]]:
    """Bind libsodium and test it; returns where it came from and the suites that work."""
    path = os.environ.get("ANYSEAL_LIBSODIUM")
    look_up = _external(path) if path else _bundled
    for name, function in {**_NEEDED, **_OFFERED}.items():
        address = look_up(name)
        if address is not None:
            lib.anyseal_bind(function, address)
        elif name in _NEEDED:
            raise ConfigurationError(f"libsodium at {path or 'PyNaCl'} lacks {name}")
    if lib.anyseal_init() != 0 or not _hash_known_answer():
        raise ConfigurationError(f"libsodium at {path or 'PyNaCl'} failed its self-test")
    working = {n for n in _KNOWN_ANSWERS if lib.anyseal_suite_available(n) and _known_answer(n)}
    if 4 not in working:  # the chunks of suite 3
        working.discard(3)
    return path or "PyNaCl", frozenset(working - {4})


def raise_for(code: int) -> NoReturn:
    """Raise the exception that stands for a negative return *code*."""
    raise _exception(code)


def _exception(code: int) -> AnysealError | MemoryError | OSError | ValueError:
    if code == lib.ANYSEAL_ERROR_DECRYPTION:
        return DecryptionError()
    if code == lib.ANYSEAL_ERROR_KEY_USE:
        return KeyUseError("the key was wiped before this use")
    if code == lib.ANYSEAL_ERROR_FORMAT:
        return FormatError("not a sealed value of the expected kind")
    if code == lib.ANYSEAL_ERROR_EXPIRED:
        return ExpiredError()
    if code == lib.ANYSEAL_ERROR_MEMORY:
        return MemoryError("no memory for a key slot or a scratch buffer")
    if code == lib.ANYSEAL_ERROR_RANDOM:
        return OSError("the operating system gave no random bytes")
    if code == lib.ANYSEAL_ERROR_SUITE:
        return SuiteUnavailableError("this libsodium or CPU does not have the suite")
    if code == lib.ANYSEAL_ERROR_NONCE:
        return WriterStateError("these chunk numbers were used before, or in another process")
    if code == lib.ANYSEAL_ERROR_COST:
        return MemoryError("Argon2id found no memory for its costs")
    if code == lib.ANYSEAL_ERROR_OVERLAP:
        return ValueError(OVERLAP)
    return ValueError("the buffers' lengths contradict each other")


def view(data: Any, name: str = "data") -> Any:
    """A C view of any contiguous bytes-like object; ``len()`` of it is in bytes.

    A function that fails drops its views first: the frames of an exception may end in a reference
    cycle, and CPython crashes when it collects a memoryview that is still exported.
    """
    try:
        return ffi.from_buffer("uint8_t[]", data)
    except (BufferError, ValueError):
        raise TypeError(f"{name} must be contiguous") from None
    except TypeError:
        raise not_bytes(data, name) from None


def view_writable(data: Any, name: str = "buffer") -> Any:
    """A C view of a contiguous, writable bytes-like object."""
    try:
        return ffi.from_buffer("uint8_t[]", data, require_writable=True)
    except (BufferError, ValueError):
        raise TypeError(f"{name} must be contiguous and writable") from None
    except TypeError:
        raise TypeError(
            f"{name} must be a writable bytes-like object, not {type(data).__name__}"
        ) from None


class OwnPages(mmap.mmap):
    """Memory that nothing outside this package writes to."""


def steady(data: Any) -> bool:
    """Whether nobody else can change *data* during a call: ``bytes``, our own pages, views of them.

    Most ciphers read their input twice, to verify it and to decipher it. What changes in between,
    in another thread or in memory that processes share, would be released unverified.
    """
    kind = type(data)
    if kind is memoryview:
        kind = type(data.obj)
    return kind is bytes or kind is OwnPages


def refuse_overlap(out: Any, data: Any) -> None:
    """Raise ValueError if the views *out* and *data* share memory."""
    out, data = view(out), view(data)
    shared = lib.anyseal_shared(out, len(out), data, len(data))
    del out, data
    if shared:
        raise ValueError(OVERLAP)


library, suites_available = _load()
"""Where libsodium came from (``"PyNaCl"`` or a path), and the numbers of the suites that work."""

process_number = lib.anyseal_process
"""Which process this is: another number in a child than in its parents. A pid is not: a child in
another PID namespace may have its parent's."""

process_number()  # from now on every fork is noticed
os.register_at_fork(after_in_child=lib.anyseal_arena_relock)
atexit.register(lib.anyseal_arena_wipe)
