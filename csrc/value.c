/* One sealed value in one call: header, nonce, AEAD (docs/format.md, section 3). */
#include "anyseal.h"

#include <stdlib.h>

#define KIND_WRAPPED_KEY 1

#define AAD_BYTES 28U   /* the header without its nonce is authenticated before the context */
#define NONCE_BYTES 24U /* random bytes in the header, for every suite */
#define HEADER_BYTES (AAD_BYTES + NONCE_BYTES)
#define STACK_BYTES 1024U

typedef struct {
    uint8_t stack[STACK_BYTES];
    uint8_t *bytes;
    size_t len;
} aad;

static int aad_init(aad *a, const uint8_t *header, const uint8_t *context, size_t context_len)
{
    if (context_len > SIZE_MAX - AAD_BYTES) {
        return ANYSEAL_ERROR_ARGUMENT;
    }
    a->len = AAD_BYTES + context_len;
    a->bytes = a->len <= STACK_BYTES ? a->stack : malloc(a->len);
    if (a->bytes == NULL) {
        return ANYSEAL_ERROR_MEMORY;
    }
    memcpy(a->bytes, header, AAD_BYTES);
    if (context_len != 0) {
        memcpy(a->bytes + AAD_BYTES, context, context_len);
    }
    return ANYSEAL_OK;
}

static void aad_free(aad *a)
{
    if (a->bytes != a->stack) {
        free(a->bytes);
    }
}

/* The AEAD's key and nonce from the subkey and the header's random bytes. AES-256-GCM takes a key
 * of its own for each message and a zero nonce, so that random nonces stay far from its bound. */
static int message_key(uint8_t *key, uint8_t *nonce, const uint8_t *random, int suite,
                       uint64_t handle)
{
    uint8_t subkey[ANYSEAL_KEY_BYTES];
    memset(nonce, 0, ANYSEAL_NONCE_MAX);
    if (suite != ANYSEAL_AES256GCM) {
        memcpy(nonce, random, NONCE_BYTES);
        return anyseal_key_copy(key, handle);
    }
    int code = anyseal_key_copy(subkey, handle);
    if (code == ANYSEAL_OK) {
        code = anyseal_expand(key, "gcm", 3, random, NONCE_BYTES, subkey);
        anyseal_wipe(subkey, sizeof subkey);
    }
    return code;
}

static int suite_check(int suite)
{
    return suite >= ANYSEAL_AEGIS256 && suite <= ANYSEAL_XCHACHA20POLY1305 ? ANYSEAL_OK
                                                                           : ANYSEAL_ERROR_SUITE;
}

ANYSEAL_BELOW static int value_seal(uint8_t *out, const uint8_t *m, size_t mlen,
                                    const uint8_t *context, size_t context_len, uint64_t expires_ms,
                                    const uint8_t *key_id, int kind, int suite, uint64_t key)
{
    uint8_t nonce[ANYSEAL_NONCE_MAX], message[ANYSEAL_KEY_BYTES];
    aad a;
    int code = suite_check(suite);
    if (code != ANYSEAL_OK) {
        return code;
    }
    const size_t overhead = HEADER_BYTES + anyseal_tag_bytes(suite);
    if (mlen > SIZE_MAX - overhead) {
        return ANYSEAL_ERROR_ARGUMENT;
    }
    if (anyseal_overlap(out, overhead + mlen, m, mlen) ||
        anyseal_overlap(out, overhead + mlen, context, context_len)) {
        return ANYSEAL_ERROR_OVERLAP;
    }
    out[0] = 0xa5;
    out[1] = 0x01;
    out[2] = (uint8_t) kind;
    out[3] = (uint8_t) suite;
    memcpy(out + 4, key_id, 16);
    anyseal_put64(out + 20, expires_ms);
    code = anyseal_random(out + AAD_BYTES, NONCE_BYTES);
    if (code != ANYSEAL_OK) {
        return code;
    }
    code = message_key(message, nonce, out + AAD_BYTES, suite, key);
    if (code != ANYSEAL_OK) {
        return code;
    }
    code = aad_init(&a, out, context, context_len);
    if (code == ANYSEAL_OK) {
        PyThreadState *state = mlen >= ANYSEAL_RELEASE_BYTES ? PyEval_SaveThread() : NULL;
        code =
            anyseal_aead_seal(out + HEADER_BYTES, m, mlen, a.bytes, a.len, nonce, message, suite);
        if (state != NULL) {
            PyEval_RestoreThread(state);
        }
        aad_free(&a);
    }
    anyseal_wipe(message, sizeof message);
    return code;
}

int anyseal_value_seal(uint8_t *out, const uint8_t *m, size_t mlen, const uint8_t *context,
                       size_t context_len, uint64_t expires_ms, const uint8_t *key_id, int kind,
                       int suite, uint64_t key)
{
    const int code =
        value_seal(out, m, mlen, context, context_len, expires_ms, key_id, kind, suite, key);
    anyseal_forget();
    return code;
}

/* Decipher `c`, or a copy of it where it may change: only AEGIS256 reads each byte once. */
static int body_open(uint8_t *out, const uint8_t *c, size_t clen, const aad *a,
                     const uint8_t *nonce, const uint8_t *message, int suite, int may_change)
{
    uint8_t *copy = NULL;
    if (may_change && suite != ANYSEAL_AEGIS256) {
        copy = malloc(clen);
        if (copy == NULL) {
            return ANYSEAL_ERROR_MEMORY;
        }
        anyseal_huge_pages(copy, clen);
        memcpy(copy, c, clen);
        c = copy;
    }
    const int code = anyseal_aead_open(out, c, clen, a->bytes, a->len, nonce, message, suite);
    free(copy);
    return code;
}

ANYSEAL_BELOW static int value_open(uint8_t *out, const uint8_t *sealed, size_t sealed_len,
                                    const uint8_t *context, size_t context_len, uint64_t now_ms,
                                    int kind, int suite, uint64_t key)
{
    uint8_t nonce[ANYSEAL_NONCE_MAX], message[ANYSEAL_KEY_BYTES], header[HEADER_BYTES];
    const int may_change = kind & ANYSEAL_MAY_CHANGE;
    aad a;
    int code = suite_check(suite);
    if (code != ANYSEAL_OK) {
        return code;
    }
    const size_t overhead = HEADER_BYTES + anyseal_tag_bytes(suite);
    if (sealed_len < overhead) {
        return ANYSEAL_ERROR_FORMAT;
    }
    memcpy(header, sealed, sizeof header); /* what is checked is what is used */
    if (header[0] != 0xa5 || header[1] != 0x01 || header[2] != (kind & 0xff) ||
        header[3] != suite) {
        return ANYSEAL_ERROR_FORMAT;
    }
    const size_t mlen = sealed_len - overhead;
    if (anyseal_overlap(out, mlen, sealed, sealed_len) ||
        anyseal_overlap(out, mlen, context, context_len)) {
        return ANYSEAL_ERROR_OVERLAP;
    }
    code = message_key(message, nonce, header + AAD_BYTES, suite, key);
    if (code != ANYSEAL_OK) {
        return code;
    }
    code = aad_init(&a, header, context, context_len);
    if (code == ANYSEAL_OK) {
        PyThreadState *state = mlen >= ANYSEAL_RELEASE_BYTES ? PyEval_SaveThread() : NULL;
        code = body_open(out, sealed + HEADER_BYTES, sealed_len - HEADER_BYTES, &a, nonce, message,
                         suite, may_change);
        if (state != NULL) {
            PyEval_RestoreThread(state);
        }
        const uint64_t expires = anyseal_get64(header + 20);
        if (code == ANYSEAL_OK && expires != 0 && now_ms >= expires) {
            anyseal_wipe(out, mlen);
            code = ANYSEAL_ERROR_EXPIRED;
        }
        aad_free(&a);
    }
    anyseal_wipe(message, sizeof message);
    return code;
}

int anyseal_value_open(uint8_t *out, const uint8_t *sealed, size_t sealed_len,
                       const uint8_t *context, size_t context_len, uint64_t now_ms, int kind,
                       int suite, uint64_t key)
{
    const int code =
        value_open(out, sealed, sealed_len, context, context_len, now_ms, kind, suite, key);
    anyseal_forget();
    return code;
}

int anyseal_key_wrap(uint8_t *out, uint64_t data_key, const uint8_t *context, size_t context_len,
                     const uint8_t *key_id, int suite, uint64_t key)
{
    uint8_t bytes[ANYSEAL_KEY_BYTES];
    int code = anyseal_key_copy(bytes, data_key);
    if (code == ANYSEAL_OK) {
        code = value_seal(out, bytes, sizeof bytes, context, context_len, 0, key_id,
                          KIND_WRAPPED_KEY, suite, key);
        anyseal_wipe(bytes, sizeof bytes);
    }
    anyseal_forget();
    return code;
}

int64_t anyseal_key_unwrap(const uint8_t *wrapped, size_t wrapped_len, const uint8_t *context,
                           size_t context_len, int suite, uint64_t key)
{
    uint8_t bytes[ANYSEAL_KEY_BYTES];
    if (wrapped_len != HEADER_BYTES + ANYSEAL_KEY_BYTES + anyseal_tag_bytes(suite) ||
        anyseal_get64(wrapped + 20) != 0) {
        return ANYSEAL_ERROR_FORMAT;
    }
    int64_t handle = value_open(bytes, wrapped, wrapped_len, context, context_len, UINT64_MAX,
                                KIND_WRAPPED_KEY | ANYSEAL_MAY_CHANGE, suite, key);
    if (handle == ANYSEAL_OK) {
        handle = anyseal_key_import(bytes);
        anyseal_wipe(bytes, sizeof bytes);
    }
    anyseal_forget();
    return handle;
}
