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
    ANYSEAL_ERROR_COST = -10,      /* Argon2id refused its costs or found no memory */
    ANYSEAL_ERROR_OVERLAP = -11    /* the output shares memory with an input */
};

/* Added to a `kind`: the sealed bytes may change during the call, since others can write there. */
enum anyseal_input { ANYSEAL_MAY_CHANGE = 0x100 };

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
    ANYSEAL_FN_BLAKE2B,
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

/* Returns 1 if the two ranges share a byte, else 0. */
int anyseal_shared(const uint8_t *a, size_t alen, const uint8_t *b, size_t blen);

/* ---- forget.c: what a cipher leaves behind ---- */

/* Clear the stack below the caller's frame and the vector registers: whoever has worked with the
 * bytes of a key ends with it. */
void anyseal_forget(void);

/* ---- random.c: the kernel's generator ---- */

/* Fill `out` with `len` bytes of getrandom: no user-space state of ours, nothing to repeat after a
 * fork. Returns 0 if filled. */
int anyseal_random(uint8_t *out, size_t len);

/* Returns 1 if getrandom is served by the kernel's vDSO, 0 if by a system call. */
int anyseal_random_in_vdso(void);

/* ---- thread.c: turns on the CPU ---- */

/* Say that the calling thread begins (1) or ends (0) long work, so that the scheduler lets others
 * interrupt it. Returns 1 if anything was changed. */
int anyseal_thread_work(int begin);

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

/* A number that no other process has in common with this one and its parents: each fork makes it
 * larger in the child, also one that runs no hooks, and one into another PID namespace. */
uint32_t anyseal_process(void);

/* The number of the running interpreter: 0 is the main one. */
int64_t anyseal_interpreter(void);

/* Wipe every slot; no handle is live afterwards. */
void anyseal_arena_wipe(void);

/* Number of live slots. */
size_t anyseal_arena_live(void);

/* Bytes of the arena that the operating system refused to lock. */
size_t anyseal_arena_unlocked(void);

/* ---- pages.c ---- */

/* Ask for huge pages under `len` fresh bytes at `out`, where whole ones lie in them: before they
 * are first touched. Needs no GIL. */
void anyseal_huge_pages(const uint8_t *out, size_t len);

/* ---- cuts.c: where a long message can be cut. Each looks at `budget` bytes from `at` at most ----
 */

/* The offset behind as many whole items of MessagePack as fit, up to `most`, of `each` values;
 * their number to `items`. 0 of them: the first is longer. Negative if the message is cut or
 * malformed. */
int64_t anyseal_msgpack_cut(uint64_t *items, const uint8_t *data, size_t len, size_t at,
                            uint64_t most, uint64_t each, size_t budget);

/* In a JSON array or object, from the beginning of an element: the offset of the bracket that ends
 * it, else of the last comma between two elements; 0: the first is longer. Negative if neither
 * stands before the end. */
int64_t anyseal_json_cut(const uint8_t *data, size_t len, size_t at, size_t budget);

/* Within a JSON text, from the beginning of a character: the offset of the quote that ends it, else
 * of another character. Negative if neither stands before the end. */
int64_t anyseal_json_text_cut(const uint8_t *data, size_t len, size_t at, size_t budget);

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

/* The name of something, for a place that must not learn what it names: BLAKE2b-192(m) under the
 * key (personal: "anyseal name v1" and a zero byte), as 32 characters of base64url into `out`. */
int anyseal_name(uint8_t *out, const uint8_t *m, size_t mlen, uint64_t key);

/* Plain SHA-256, HMAC-SHA256 over any key length, and HKDF-Expand with an arbitrary info, 32 bytes
 * each, for the known-answer tests. */
int anyseal_sha256(uint8_t *out, const uint8_t *m, size_t mlen);
int anyseal_hmac(uint8_t *out, const uint8_t *m, size_t mlen, const uint8_t *key, size_t key_len);

/* Argon2id (one lane, 32 bytes) of a passphrase into a new slot. `passphrase` has the handles of
 * the slots that hold its `passphrase_len` bytes, at most 1,024, 32 in each; `salt` has 16 bytes,
 * `memory` is in bytes. Releases the GIL. */
int64_t anyseal_argon2id(const uint64_t *passphrase, size_t passphrase_len, const uint8_t *salt,
                         uint64_t passes, size_t memory);

/* ---- value.c: one sealed value in one call (docs/format.md, section 3) ---- */

/* Seal `mlen` bytes under the subkey `key`: `out` takes 52 + mlen + tag bytes. `key_id` has 16
 * bytes; `expires_ms` is 0 for never. Draws a fresh nonce. Bulk. */
int anyseal_value_seal(uint8_t *out, const uint8_t *m, size_t mlen, const uint8_t *context,
                       size_t context_len, uint64_t expires_ms, const uint8_t *key_id, int kind,
                       int suite, uint64_t key);

/* Open a sealed value of `kind` and `suite`: `out` takes sealed_len - 52 - tag bytes. Checks the
 * expiry against `now_ms` after the tag and before release. The header and the context are read
 * once. So is the ciphertext, by AEGIS256; the other ciphers read it twice, to verify and to
 * decipher, and are given a copy where it ANYSEAL_MAY_CHANGE. Bulk. */
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
 * does not verify all of `out` is wiped. AEGIS256 reads each byte once; for another suite the
 * bytes must not change during the call. Bulk. */
int anyseal_chunks_open(uint8_t *out, const uint8_t *in, size_t len, uint64_t first, size_t chunk,
                        int suite, uint64_t segment_key);

/* ---- base64.c: standard base64 with padding (RFC 4648, section 4) ---- */

/* Encode `len` bytes: `out` takes 4 characters for every 3 bytes begun. `in` may be the last `len`
 * bytes of `out`. */
void anyseal_base64_encode(uint8_t *out, const uint8_t *in, size_t len);

/* Returns how many bytes `len` characters of base64 hold, judged by their number and padding, or
 * a negative code. */
int64_t anyseal_base64_bytes(const uint8_t *in, size_t len);

/* Decode `len` characters into exactly `out_len` bytes. Strict: no other alphabet, no whitespace,
 * full padding, zero trailing bits. Returns 0 if all of it is base64; `out` is undefined if not. */
int anyseal_base64_decode(uint8_t *out, size_t out_len, const uint8_t *in, size_t len);

/* For tests: use no better instructions than `limit` (0 scalar, 1 AVX2, 2 AVX-512 VBMI; negative
 * for the best). Returns what is used from now on. */
int anyseal_base64_path(int limit);

/* ---- json.c: the few things about JSON that rows need ---- */

/* Find the fields of a row in `len` bytes of any JSON text in UTF-8, members in any order, the last
 * of two equal names counting, unknown ones ignored. `spans` takes 8 numbers: Key.Created and
 * Key.ParentKeyMeta.Created; then offset, and length with bit 62 set if there are escapes inside,
 * of the strings Key.Key, Key.ParentKeyMeta.KeyId and Data. What is missing or of another type is
 * -1. Nothing is allocated, nesting is bounded. Returns 0 if it is JSON. Bulk. */
int anyseal_row_parse(int64_t *spans, const uint8_t *row, size_t len);

/* Resolve the escapes in `len` bytes between the quotes of a valid JSON string that holds base64:
 * `out` takes at most `out_len` bytes, or is NULL to count them. Returns the length, or a negative
 * code if there is anything but base64's characters. Bulk. */
int64_t anyseal_json_base64(uint8_t *out, size_t out_len, const uint8_t *in, size_t len);

/* The characters of an ASCII `str`, by its id(): they live as long as it does. Returns NULL if it
 * is not ASCII. */
const uint8_t *anyseal_text(uintptr_t text);

/* Copy `len` bytes into a fresh ASCII `str` of that length, named by its id(), without the GIL.
 * Returns 1 if all are ASCII; else 0, and the `str` is to be dropped. */
int anyseal_text_fill(uintptr_t text, const uint8_t *in, size_t len);

/* ---- record.c: rows of the Asherah format, AES-256-GCM ---- */

/* A row key is a block of bytes: the intermediate key's handle and the middle's length, each 8
 * bytes in the machine's order, then the middle, which is the same in all rows under this key:
 *     ","ParentKeyMeta":{"KeyId":"<id>","Created":<seconds>}},"Data":"
 * One block for three arguments, because converting arguments is half the cost of a small row. */

/* Seal `mlen` bytes as a row: draws a data row key, wraps it, and fills all `out_len` bytes of
 * `out` with
 *     {"Key":{"Created":<created>,"Key":"<80>` middle `<data>"}
 * `created` is in seconds, -1 for now. ANYSEAL_ERROR_ARGUMENT if out_len is not the row's length.
 * Bulk. */
int anyseal_row_seal(uint8_t *out, size_t out_len, const uint8_t *m, size_t mlen, int64_t created,
                     const uint8_t *row_key);

/* The same into a fresh ASCII `str` of the row's length, by its id(), that nobody has seen yet. The
 * middle must be ASCII. */
int anyseal_row_seal_text(uintptr_t text, const uint8_t *m, size_t mlen, int64_t created,
                          const uint8_t *row_key);

/* Open a row of exactly that layout, with this middle, into exactly `out_len` bytes.
 * ANYSEAL_ERROR_FORMAT if it has another layout. Bulk. */
int anyseal_row_open(uint8_t *out, size_t out_len, const uint8_t *row, size_t len,
                     const uint8_t *row_key);

/* The same for a row in a `str`, by its id(). */
int anyseal_row_open_text(uint8_t *out, size_t out_len, uintptr_t text, const uint8_t *row_key);

/* Open the parts of a row: `data` is base64, `wrapped` the data row key's 60 bytes. Bulk. */
int anyseal_row_open_parts(uint8_t *out, size_t out_len, const uint8_t *data, size_t data_len,
                           const uint8_t *wrapped, uint64_t key);

/* Wrap the key in slot `inner` for a key record: `out` takes 60 bytes. */
int anyseal_row_wrap(uint8_t *out, uint64_t inner, uint64_t key);

/* Unwrap `wrapped` (60 bytes) into a new slot. */
int64_t anyseal_row_unwrap(const uint8_t *wrapped, size_t wrapped_len, uint64_t key);
