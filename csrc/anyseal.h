/*
 * anyseal: the C hot path. See anyseal.cdef.h for every public prototype; this header adds what
 * cffi cannot parse and what the sources share among themselves.
 */
#ifndef ANYSEAL_H
#define ANYSEAL_H

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030b0000
#endif
#include <Python.h>

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "anyseal.cdef.h"

#if defined(__GNUC__) || defined(__clang__)
#define ANYSEAL_CHECKED __attribute__((warn_unused_result))
#else
#define ANYSEAL_CHECKED
#endif

/* The frame of work with a key's bytes lies wholly below that of its caller, who forgets it. */
#define ANYSEAL_BELOW __attribute__((noinline))

#define ANYSEAL_KEY_BYTES 32U
#define ANYSEAL_HASH_BYTES 32U
#define ANYSEAL_NONCE_MAX 32U
#define ANYSEAL_TAG_MAX 32U

/* From this many bytes on the bulk functions release the GIL; below it a hand-over costs more
 * than the cipher (bench/bench_gil.py). */
#define ANYSEAL_RELEASE_BYTES 16384U

int anyseal_aead_open(uint8_t *out, const uint8_t *c, size_t clen, const uint8_t *ad, size_t adlen,
                      const uint8_t *nonce, const uint8_t *key, int suite) ANYSEAL_CHECKED;
int anyseal_value_open(uint8_t *out, const uint8_t *sealed, size_t sealed_len,
                       const uint8_t *context, size_t context_len, uint64_t now_ms, int kind,
                       int suite, uint64_t key) ANYSEAL_CHECKED;
int anyseal_chunks_open(uint8_t *out, const uint8_t *in, size_t len, uint64_t first, size_t chunk,
                        int suite, uint64_t segment_key) ANYSEAL_CHECKED;
int64_t anyseal_key_unwrap(const uint8_t *wrapped, size_t wrapped_len, const uint8_t *context,
                           size_t context_len, int suite, uint64_t key) ANYSEAL_CHECKED;
int anyseal_base64_decode(uint8_t *out, size_t out_len, const uint8_t *in,
                          size_t len) ANYSEAL_CHECKED;
int anyseal_row_parse(int64_t *spans, const uint8_t *row, size_t len) ANYSEAL_CHECKED;
int anyseal_row_open(uint8_t *out, size_t out_len, const uint8_t *row, size_t len,
                     const uint8_t *row_key) ANYSEAL_CHECKED;
int anyseal_row_open_text(uint8_t *out, size_t out_len, uintptr_t text,
                          const uint8_t *row_key) ANYSEAL_CHECKED;
int anyseal_row_open_parts(uint8_t *out, size_t out_len, const uint8_t *data, size_t data_len,
                           const uint8_t *wrapped, uint64_t key) ANYSEAL_CHECKED;
int64_t anyseal_row_unwrap(const uint8_t *wrapped, size_t wrapped_len,
                           uint64_t key) ANYSEAL_CHECKED;

/* Tag and nonce lengths of `suite`, 0 if it is unknown. */
size_t anyseal_tag_bytes(int suite);
size_t anyseal_nonce_bytes(int suite);

int anyseal_random(uint8_t *out, size_t len) ANYSEAL_CHECKED;

/* Copy the live key of `handle` to `out` (32 bytes; the caller wipes it). Returns 0 if live. */
int anyseal_key_copy(uint8_t *out, uint64_t handle) ANYSEAL_CHECKED;

/* Spend chunk indexes `first` .. `first + count` of a segment slot. Returns 0 if they were next. */
int anyseal_key_spend(uint64_t handle, uint64_t first, uint64_t count) ANYSEAL_CHECKED;

/* BLAKE2b of `m` under the 32 bytes at `key` and 16 of `personal`; `out_len` is 16 to 64. Returns
 * 0 if hashed. */
int anyseal_blake2b(uint8_t *out, size_t out_len, const uint8_t *m, size_t mlen, const uint8_t *key,
                    const char *personal) ANYSEAL_CHECKED;

/* Derive with the key's bytes at hand; `out` takes 32 bytes. Returns 0 if derived. */
int anyseal_expand(uint8_t *out, const char *label, size_t label_len, const uint8_t *data,
                   size_t data_len, const uint8_t *key) ANYSEAL_CHECKED;

/* Big-endian stores and loads. */
static inline void anyseal_put64(uint8_t *out, uint64_t v)
{
    for (int i = 7; i >= 0; i--) {
        out[i] = (uint8_t) v;
        v >>= 8;
    }
}

static inline uint64_t anyseal_get64(const uint8_t *in)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++) {
        v = (v << 8) | in[i];
    }
    return v;
}

/* Returns 1 if the two ranges share a byte: libsodium opens in place only on identical pointers. */
static inline int anyseal_overlap(const uint8_t *a, size_t alen, const uint8_t *b, size_t blen)
{
    const uintptr_t pa = (uintptr_t) a, pb = (uintptr_t) b;
    return alen != 0 && blen != 0 && pa < pb + blen && pb < pa + alen;
}

#endif
