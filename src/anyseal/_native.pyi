"""The compiled extension: see csrc/anyseal.cdef.h for what each function does."""

from typing import Any

class _FFI:
    NULL: Any

    def from_buffer(self, cdecl: str, buffer: Any, require_writable: bool = ...) -> Any: ...
    def buffer(self, cdata: Any, size: int = ...) -> Any: ...
    def cast(self, cdecl: str, value: Any) -> Any: ...

class _Lib:
    ANYSEAL_OK: int
    ANYSEAL_ERROR_DECRYPTION: int
    ANYSEAL_ERROR_KEY_USE: int
    ANYSEAL_ERROR_FORMAT: int
    ANYSEAL_ERROR_EXPIRED: int
    ANYSEAL_ERROR_MEMORY: int
    ANYSEAL_ERROR_RANDOM: int
    ANYSEAL_ERROR_SUITE: int
    ANYSEAL_ERROR_ARGUMENT: int
    ANYSEAL_ERROR_NONCE: int
    ANYSEAL_ERROR_COST: int
    ANYSEAL_FN_INIT: int
    ANYSEAL_FN_SHA256: int
    ANYSEAL_FN_MEMZERO: int
    ANYSEAL_FN_MEMCMP: int
    ANYSEAL_FN_PWHASH: int
    ANYSEAL_FN_AES_AVAILABLE: int
    ANYSEAL_FN_AEGIS256_SEAL: int
    ANYSEAL_FN_AEGIS256_OPEN: int
    ANYSEAL_FN_AES256GCM_SEAL: int
    ANYSEAL_FN_AES256GCM_OPEN: int
    ANYSEAL_FN_XCHACHA_SEAL: int
    ANYSEAL_FN_XCHACHA_OPEN: int
    ANYSEAL_FN_CHACHA_SEAL: int
    ANYSEAL_FN_CHACHA_OPEN: int

    def anyseal_bind(self, function: int, address: Any, /) -> int: ...
    def anyseal_init(self) -> int: ...
    def anyseal_suite_available(self, suite: int, /) -> int: ...
    def anyseal_aes_hardware(self) -> int: ...
    def anyseal_aead_seal(
        self, out: Any, m: Any, mlen: int, ad: Any, adlen: int, nonce: Any, key: Any, suite: int, /
    ) -> int: ...
    def anyseal_aead_open(
        self, out: Any, c: Any, clen: int, ad: Any, adlen: int, nonce: Any, key: Any, suite: int, /
    ) -> int: ...
    def anyseal_copy(self, out: Any, source: Any, length: int, /) -> None: ...
    def anyseal_wipe(self, out: Any, length: int, /) -> None: ...
    def anyseal_equal(self, a: Any, b: Any, length: int, /) -> int: ...
    def anyseal_random(self, out: Any, length: int, /) -> int: ...
    def anyseal_random_in_vdso(self) -> int: ...
    def anyseal_key_import(self, data: Any, /) -> int: ...
    def anyseal_key_random(self) -> int: ...
    def anyseal_key_export(self, out: Any, key: int, /) -> int: ...
    def anyseal_key_release(self, key: int, /) -> None: ...
    def anyseal_key_equal(self, a: int, b: int, /) -> int: ...
    def anyseal_arena_relock(self) -> None: ...
    def anyseal_arena_wipe(self) -> None: ...
    def anyseal_arena_live(self) -> int: ...
    def anyseal_arena_unlocked(self) -> int: ...
    def anyseal_derive(
        self, label: Any, label_len: int, data: Any, data_len: int, key: int, /
    ) -> int: ...
    def anyseal_derive_public(
        self, out: Any, label: Any, label_len: int, data: Any, data_len: int, key: int, /
    ) -> int: ...
    def anyseal_mac(self, out: Any, m: Any, mlen: int, key: int, /) -> int: ...
    def anyseal_sha256(self, out: Any, m: Any, mlen: int, /) -> int: ...
    def anyseal_hmac(self, out: Any, m: Any, mlen: int, key: Any, key_len: int, /) -> int: ...
    def anyseal_argon2id(
        self, passphrase: Any, length: int, salt: Any, passes: int, memory: int, /
    ) -> int: ...
    def anyseal_value_seal(
        self,
        out: Any,
        m: Any,
        mlen: int,
        context: Any,
        context_len: int,
        expires_ms: int,
        key_id: bytes,
        kind: int,
        suite: int,
        key: int,
        /,
    ) -> int: ...
    def anyseal_value_open(
        self,
        out: Any,
        sealed: Any,
        sealed_len: int,
        context: Any,
        context_len: int,
        now_ms: int,
        kind: int,
        suite: int,
        key: int,
        /,
    ) -> int: ...
    def anyseal_key_wrap(
        self,
        out: Any,
        data_key: int,
        context: Any,
        context_len: int,
        key_id: bytes,
        suite: int,
        key: int,
        /,
    ) -> int: ...
    def anyseal_key_unwrap(
        self,
        wrapped: Any,
        wrapped_len: int,
        context: Any,
        context_len: int,
        suite: int,
        key: int,
        /,
    ) -> int: ...
    def anyseal_segment_key(self, h: Any, index: int, salt: Any, data_key: int, /) -> int: ...
    def anyseal_chunks_spend(self, first: int, count: int, segment_key: int, /) -> int: ...
    def anyseal_chunks_lease(self, first: int, count: int, segment_key: int, /) -> int: ...
    def anyseal_chunks_seal(
        self,
        out: Any,
        source: Any,
        length: int,
        first: int,
        chunk: int,
        suite: int,
        segment_key: int,
        /,
    ) -> int: ...
    def anyseal_chunks_open(
        self,
        out: Any,
        source: Any,
        length: int,
        first: int,
        chunk: int,
        suite: int,
        segment_key: int,
        /,
    ) -> int: ...
    def anyseal_base64_encode(self, out: Any, data: Any, length: int, /) -> None: ...
    def anyseal_base64_bytes(self, text: Any, length: int, /) -> int: ...
    def anyseal_base64_decode(self, out: Any, out_len: int, text: Any, length: int, /) -> int: ...
    def anyseal_base64_path(self, limit: int, /) -> int: ...
    def anyseal_row_parse(self, spans: Any, row: Any, length: int, /) -> int: ...
    def anyseal_json_base64(self, out: Any, out_len: int, text: Any, length: int, /) -> int: ...
    def anyseal_text(self, text: int, /) -> Any: ...
    def anyseal_row_seal(
        self, out: Any, out_len: int, m: Any, mlen: int, created: int, row_key: bytes, /
    ) -> int: ...
    def anyseal_row_seal_text(
        self, text: int, m: Any, mlen: int, created: int, row_key: bytes, /
    ) -> int: ...
    def anyseal_row_open(
        self, out: Any, out_len: int, row: Any, length: int, row_key: bytes, /
    ) -> int: ...
    def anyseal_row_open_text(
        self, out: Any, out_len: int, text: int, row_key: bytes, /
    ) -> int: ...
    def anyseal_row_open_parts(
        self, out: Any, out_len: int, data: Any, data_len: int, wrapped: bytes, key: int, /
    ) -> int: ...
    def anyseal_row_wrap(self, out: Any, inner: int, key: int, /) -> int: ...
    def anyseal_row_unwrap(self, wrapped: Any, wrapped_len: int, key: int, /) -> int: ...

ffi: _FFI
lib: _Lib
