"""The others, each set up the way its documentation shows for speed, over the same memory as ours.
A package is imported when its rival is made: one that is not installed is one row missing.

Where a rival can write into a buffer that is used again, it does. Where it wants ``bytes``, the
``bytes`` exist before the clock starts. Where the size of its calls is free, the fastest of
64 KiB, 1 MiB, 8 MiB and everything at once was tried and is named.
"""

from __future__ import annotations

import io
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from anyseal._ffi import ffi, lib
from bench.harness import MIB

TAG_BYTES = 16


def pages(size: int) -> memoryview:
    """*size* writable bytes of private memory in huge pages, all of them touched."""
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        area.madvise(mmap.MADV_HUGEPAGE)
    view = memoryview(area)
    block = os.urandom(MIB)
    for at in range(0, size, MIB):
        part = view[at : at + MIB]
        part[:] = block[: len(part)]
    return view


def room_for(size: int) -> int:
    """Enough for *size* bytes sealed by any of us in chunks of 4 KiB or more."""
    return size + size // 64 + MIB


class Copy:
    """memmove without the GIL: each thread copies one contiguous share."""

    def __init__(self, source: memoryview, out: memoryview, threads: int) -> None:
        share = len(source) // threads
        self._shares = [
            (
                ffi.from_buffer("uint8_t[]", out[at : at + share]),
                ffi.from_buffer("uint8_t[]", source[at : at + share]),
                share,
            )
            for at in range(0, share * threads, share)
        ]
        self._pool = ThreadPoolExecutor(threads)

    def __call__(self) -> None:
        if len(self._shares) == 1:
            lib.anyseal_copy(*self._shares[0])
            return
        for future in [self._pool.submit(lib.anyseal_copy, *share) for share in self._shares]:
            future.result()


class Chunked:
    """An AEAD of ``cryptography`` over fixed chunks: ``encrypt_into`` and ``decrypt_into``.

    One Python thread per share of the chunks, counters as nonces, slices of one reused buffer: its
    documented way to encrypt without allocating. The GIL is released for each chunk.
    """

    def __init__(
        self, aead: Any, source: memoryview, sealed: memoryview, chunk: int, threads: int
    ) -> None:
        self._aead, self._source, self._sealed = aead, source, sealed
        self._chunk = chunk
        count = len(source) // chunk
        share = -(-count // threads)
        self.shares = [(at, min(count, at + share)) for at in range(0, count, share)]
        self.pool = ThreadPoolExecutor(threads)

    def seal_share(self, first: int, last: int) -> None:
        """Seal chunks *first* to *last*; the loop that a user would write."""
        source, sealed, chunk = self._source, self._sealed, self._chunk
        step, encrypt_into = chunk + TAG_BYTES, self._aead.encrypt_into
        for i in range(first, last):
            encrypt_into(
                i.to_bytes(12),
                source[i * chunk : (i + 1) * chunk],
                None,
                sealed[i * step : (i + 1) * step],
            )

    def open_share(self, first: int, last: int, out: memoryview) -> None:
        """Open chunks *first* to *last* into *out*."""
        sealed, chunk = self._sealed, self._chunk
        step, decrypt_into = chunk + TAG_BYTES, self._aead.decrypt_into
        for i in range(first, last):
            decrypt_into(
                i.to_bytes(12),
                sealed[i * step : (i + 1) * step],
                None,
                out[i * chunk : (i + 1) * chunk],
            )

    def seal(self) -> None:
        """Seal everything; with one thread, in the caller's."""
        if len(self.shares) == 1:
            self.seal_share(*self.shares[0])
            return
        for future in [self.pool.submit(self.seal_share, *share) for share in self.shares]:
            future.result()

    def open(self, out: memoryview) -> None:
        """Open everything into *out*."""
        for future in [self.pool.submit(self.open_share, *share, out) for share in self.shares]:
            future.result()


class Cobblestone:
    """C2SP chunked encryption in ``cryptography``: one thread, ``update_into``, 1 MiB a call."""

    def __init__(self, source: memoryview, out: memoryview) -> None:
        from cryptography.cobblestone import Cobblestone256Encryptor

        self._source, self._out = source, out
        self._make, self._key = Cobblestone256Encryptor, Cobblestone256Encryptor.generate_key()

    def __call__(self) -> None:
        encryptor, source, out = self._make(self._key, b""), self._source, self._out
        done = 0
        for at in range(0, len(source), MIB):
            done += encryptor.update_into(source[at : at + MIB], out[done:])
        last = encryptor.finalize()
        out[done : done + len(last)] = last


class Reused(io.RawIOBase):
    """A file that is a reused buffer, for rivals that write to files."""

    def __init__(self, out: memoryview) -> None:
        super().__init__()
        self._out, self._at = out, 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = len(data)
        self._out[self._at : self._at + size] = data
        self._at += size
        return size


class Tink:
    """Tink streaming AEAD, AES256_GCM_HKDF_1MB, its file-like object fed 1 MiB a call."""

    def __init__(self, source: memoryview, out: memoryview) -> None:
        import tink
        from tink import streaming_aead

        streaming_aead.register()
        template = streaming_aead.streaming_aead_key_templates.AES256_GCM_HKDF_1MB
        handle = tink.new_keyset_handle(template)
        self._primitive = handle.primitive(streaming_aead.StreamingAead)
        # It takes bytes: cut before the clock starts.
        self._pieces = [bytes(source[at : at + MIB]) for at in range(0, len(source), MIB)]
        self._out = out

    def __call__(self) -> None:
        with self._primitive.new_encrypting_stream(Reused(self._out), b"") as stream:
            for piece in self._pieces:
                stream.write(piece)


class Box:
    """PyNaCl's SecretBox, the whole payload as one message (it has nothing for streams)."""

    def __init__(self, data: bytes) -> None:
        from nacl.secret import SecretBox

        self._data, self._box = data, SecretBox(os.urandom(SecretBox.KEY_SIZE))

    def __call__(self) -> None:
        self._box.encrypt(self._data)


class Age:
    """age through pyrage, one X25519 recipient: bytes to bytes, or file to file."""

    def __init__(self, data: bytes, out: memoryview) -> None:
        import pyrage

        self._data, self._out, self._age = data, out, pyrage
        self._recipients = [pyrage.x25519.Identity.generate().to_public()]

    def whole(self) -> None:
        """``pyrage.encrypt``."""
        self._age.encrypt(self._data, self._recipients)

    def stream(self) -> None:
        """``pyrage.encrypt_io`` from memory into a reused buffer: its fastest way."""
        self._age.encrypt_io(io.BytesIO(self._data), Reused(self._out), self._recipients)


class AwsEncryptionSdk:
    """aws-encryption-sdk 4 with a raw AES keyring of the material providers: no KMS involved.

    As shipped it signs with ECDSA and cuts frames of 4 KiB; its fastest setting is the committing
    suite without signature and frames of 1 MiB.
    """

    def __init__(self, data: bytes, *, tuned: bool) -> None:
        import aws_encryption_sdk as sdk
        from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
        from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig
        from aws_cryptographic_material_providers.mpl.models import (
            AesWrappingAlg,
            CreateRawAesKeyringInput,
        )

        providers = AwsCryptographicMaterialProviders(config=MaterialProvidersConfig())
        keyring = providers.create_raw_aes_keyring(
            input=CreateRawAesKeyringInput(
                key_namespace="bench",
                key_name="bench",
                wrapping_key=os.urandom(32),
                wrapping_alg=AesWrappingAlg.ALG_AES256_GCM_IV12_TAG16,
            )
        )
        self._encrypt = sdk.EncryptionSDKClient().encrypt
        self._arguments: dict[str, Any] = {"source": data, "keyring": keyring}
        if tuned:
            self._arguments["algorithm"] = (
                sdk.identifiers.AlgorithmSuite.AES_256_GCM_HKDF_SHA512_COMMIT_KEY
            )
            self._arguments["frame_length"] = MIB

    def __call__(self) -> None:
        self._encrypt(**self._arguments)
