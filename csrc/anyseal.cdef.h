/*
 * Declarations shared by the C sources (through anyseal.h) and by cffi (build_ffi.py reads this
 * file as it is, so it holds no preprocessor directives).
 *
 * Conventions: outputs first, key last, lengths in bytes as size_t. A key is named by a handle
 * into the arena; 0 is no key. Functions that return `int` return ANYSEAL_OK or a negative code;
 * functions that return `int64_t` return a new handle (> 0) or a negative code. Every function is
 * called with the GIL held; those marked "bulk" release it for long inputs.
 */

enum anyseal_code {
    ANYSEAL_OK = 0,
    ANYSEAL_ERROR_DECRYPTION = -1, /* a tag or MAC does not verify; the output is wiped */
    ANYSEAL_ERROR_KEY_USE = -2,    /* the handle's slot is released, wiped or was never live */
    ANYSEAL_ERROR_FORMAT = -3,     /* not the layout this function reads */
    ANYSEAL_ERROR_EXPIRED = -4,    /* authentic, but past its expiry; the output is wiped */
    ANYSEAL_ERROR_MEMORY = -5,     /* no memory for a key slot or a scratch buffer */
    ANYSEAL_ERROR_RANDOM = -6,     /* the operating system gave no random bytes */
    ANYSEAL_ERROR_SUITE = -7,      /* unknown suite, or one this libsodium does not have */
    ANYSEAL_ERROR_ARGUMENT = -8,   /* lengths or buffers that contradict each other */
    ANYSEAL_ERROR_NONCE = -9,      /* this chunk index was spent before, or after a fork */
    ANYSEAL_ERROR_COST = -10       /* Argon2id refused its costs or found no memory */
};

enum anyseal_suite {
    ANYSEAL_AEGIS256 = 1,
    ANYSEAL_AES256GCM = 2,
    ANYSEAL_XCHACHA20POLY1305 = 3,
    ANYSEAL_CHACHA20POLY1305_IETF = 4 /* the chunks of suite 3; never written to a header */
};

enum anyseal_function {
    ANYSEAL_FN_INIT,
    ANYSEAL_FN_SHA256,
    ANYSEAL_FN_MEMZERO,
    ANYSEAL_FN_MEMCMP,
    ANYSEAL_FN_MLOCK,
    ANYSEAL_FN_PWHASH,
    ANYSEAL_FN_AES_AVAILABLE,
    ANYSEAL_FN_AEGIS256_SEAL,
    ANYSEAL_FN_AEGIS256_OPEN,
    ANYSEAL_FN_AES256GCM_SEAL,
    ANYSEAL_FN_AES256GCM_OPEN,
    ANYSEAL_FN_XCHACHA_SEAL,
    ANYSEAL_FN_XCHACHA_OPEN,
    ANYSEAL_FN_CHACHA_SEAL,
    ANYSEAL_FN_CHACHA_OPEN,
    ANYSEAL_FN_COUNT
};

/* ---- sodium.c: libsodium's function table and the AEADs behind it ---- */

/* Remember `address` as libsodium's implementation of `function` (enum anyseal_function). */
int anyseal_bind(int function, void *address);

/* Call sodium_init once the table is bound. Returns 0, or a negative code if a function that
 * every suite needs is missing. */
int anyseal_init(void);

/* Returns 1 if `suite` can be used with the bound libsodium, else 0. */
int anyseal_suite_available(int suite);

/* Returns 1 if the CPU has AES instructions that libsodium uses, else 0. */
int anyseal_aes_hardware(void);

/* One AEAD call with explicit key and nonce, for the known-answer tests only.
 * `nonce` has the suite's full length (32, 12, 24, 12 bytes), `key` 32 bytes;
 * `out` takes mlen + tag bytes. Returns 0 if sealed. */
int anyseal_aead_seal(uint8_t *out, const uint8_t *m, size_t mlen, const uint8_t *ad, size_t adlen,
                      const uint8_t *nonce, const uint8_t *key, int suite);

/* The reverse: `c` holds clen bytes with the tag, `out` takes clen - tag bytes.
 * Returns 0 if `c` verifies; else `out` is wiped. */
int anyseal_aead_open(uint8_t *out, const uint8_t *c, size_t clen, const uint8_t *ad, size_t adlen,
                      const uint8_t *nonce, const uint8_t *key, int suite);

/* memmove of `len` bytes without the GIL: the physical limit that benchmarks compare with. Bulk. */
void anyseal_copy(uint8_t *out, const uint8_t *in, size_t len);

/* Wipe `len` bytes at `out` in a way the compiler keeps. */
void anyseal_wipe(uint8_t *out, size_t len);

/* Returns 1 if the `len` bytes at `a` and `b` are equal, in constant time, else 0. */
int anyseal_equal(const uint8_t *a, const uint8_t *b, size_t len);

/* ---- random.c: the kernel's generator ---- */

/* Fill `out` with `len` bytes of getrandom: no user-space state of ours, nothing to repeat after a
 * fork. Returns 0 if filled. */
int anyseal_random(uint8_t *out, size_t len);

/* Returns 1 if getrandom is served by the kernel's vDSO, 0 if by a system call. */
int anyseal_random_in_vdso(void);

/* ---- arena.c: 32-byte keys in locked, guarded pages ---- */

/* Take a slot and copy 32 bytes into it. */
int64_t anyseal_key_import(const uint8_t *bytes);

/* Take a slot and fill it from the operating system's generator. */
int64_t anyseal_key_random(void);

/* Copy a key out of the arena into `out` (32 bytes). Returns 0 if the slot is live. */
int anyseal_key_export(uint8_t *out, uint64_t key);

/* Wipe a slot and give it back; a handle that is not live is ignored. */
void anyseal_key_release(uint64_t key);

/* Returns 1 if both slots are live and hold the same 32 bytes (constant time), 0 if not,
 * or a negative code. */
int anyseal_key_equal(uint64_t a, uint64_t b);

/* Lock the arena's pages again: a forked child inherits the bytes but not the locks. */
void anyseal_arena_relock(void);

/* Wipe every slot; no handle is live afterwards. */
void anyseal_arena_wipe(void);

/* Number of live slots. */
size_t anyseal_arena_live(void);

/* Bytes of the arena that the operating system refused to lock. */
size_t anyseal_arena_unlocked(void);

/* ---- derive.c: HMAC-SHA256 and HKDF-Expand-SHA256 on slots ---- */

/* Derive(key, label, data) = HKDF-Expand-SHA256(key, "anyseal v1 " || label || 00 || data, 32)
 * into a new slot. */
int64_t anyseal_derive(const uint8_t *label, size_t label_len, const uint8_t *data, size_t data_len,
                       uint64_t key);

/* The same into `out` (32 bytes), for values that are not secret. */
int anyseal_derive_public(uint8_t *out, const uint8_t *label, size_t label_len, const uint8_t *data,
                          size_t data_len, uint64_t key);

/* HMAC-SHA256(key, m) into `out` (32 bytes). */
int anyseal_mac(uint8_t *out, const uint8_t *m, size_t mlen, uint64_t key);

/* Plain SHA-256, HMAC-SHA256 over any key length, and HKDF-Expand with an arbitrary info, 32 bytes
 * each, for the known-answer tests. */
int anyseal_sha256(uint8_t *out, const uint8_t *m, size_t mlen);
int anyseal_hmac(uint8_t *out, const uint8_t *m, size_t mlen, const uint8_t *key, size_t key_len);

/* Argon2id (one lane, 32 bytes) of a passphrase into a new slot; `salt` has 16 bytes, `memory` is
 * in bytes. Releases the GIL. */
int64_t anyseal_argon2id(const uint8_t *passphrase, size_t passphrase_len, const uint8_t *salt,
                         uint64_t passes, size_t memory);

/* ---- value.c: one sealed value in one call (docs/format.md, section 3) ---- */

/* Seal `mlen` bytes under the subkey `key`: `out` takes 52 + mlen + tag bytes. `key_id` has 16
 * bytes; `expires_ms` is 0 for never. Draws a fresh nonce. Bulk. */
int anyseal_value_seal(uint8_t *out, const uint8_t *m, size_t mlen, const uint8_t *context,
                       size_t context_len, uint64_t expires_ms, const uint8_t *key_id, int kind,
                       int suite, uint64_t key);

/* Open a sealed value of `kind` and `suite`: `out` takes sealed_len - 52 - tag bytes. Checks the
 * expiry against `now_ms` after the tag and before release. Bulk. */
int anyseal_value_open(uint8_t *out, const uint8_t *sealed, size_t sealed_len,
                       const uint8_t *context, size_t context_len, uint64_t now_ms, int kind,
                       int suite, uint64_t key);

/* Wrap the key in slot `data_key` as a value of kind 1: `out` takes 84 + tag bytes. */
int anyseal_key_wrap(uint8_t *out, uint64_t data_key, const uint8_t *context, size_t context_len,
                     const uint8_t *key_id, int suite, uint64_t key);

/* Unwrap into a new slot. */
int64_t anyseal_key_unwrap(const uint8_t *wrapped, size_t wrapped_len, const uint8_t *context,
                           size_t context_len, int suite, uint64_t key);

/* ---- chunks.c: runs of chunks of one segment (docs/format.md, section 4) ---- */

/* Derive a segment's key into a new slot: Derive(data_key, "segment", h || index || salt), with
 * `h` of 32 and `salt` of 16 bytes. Sealing starts at chunk 0. */
int64_t anyseal_segment_key(const uint8_t *h, uint64_t index, const uint8_t *salt,
                            uint64_t data_key);

/* Spend the next `count` chunk indexes, which must begin at `first`. Whoever seals with another
 * AEAD implementation calls this before it. */
int anyseal_chunks_spend(uint64_t first, uint64_t count, uint64_t segment_key);

/* Spend the next `count` chunk indexes of a segment and return a copy of its key that can seal
 * just these, once and in order: so that threads seal the runs of one segment side by side. */
int64_t anyseal_chunks_lease(uint64_t first, uint64_t count, uint64_t segment_key);

/* Seal `len` bytes as chunks of `chunk` bytes (the last may be short), numbered from `first`:
 * `out` takes len + tag per chunk. Spends the indexes first; they must be the segment's next.
 * Bulk. */
int anyseal_chunks_seal(uint8_t *out, const uint8_t *in, size_t len, uint64_t first, size_t chunk,
                        int suite, uint64_t segment_key);

/* Open `len` ciphertext bytes of the same layout: `out` takes len - tag per chunk. If any chunk
 * does not verify all of `out` is wiped. Bulk. */
int anyseal_chunks_open(uint8_t *out, const uint8_t *in, size_t len, uint64_t first, size_t chunk,
                        int suite, uint64_t segment_key);
