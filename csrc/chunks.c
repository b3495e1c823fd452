/* Runs of chunks of one segment: one call, one hand-over of the GIL, a loop over libsodium. */
#include "anyseal.h"

#define SALT_BYTES 16U

int64_t anyseal_segment_key(const uint8_t *h, uint64_t index, const uint8_t *salt,
                            uint64_t data_key)
{
    static const uint8_t label[] = "segment";
    uint8_t data[ANYSEAL_HASH_BYTES + 8 + SALT_BYTES];
    memcpy(data, h, ANYSEAL_HASH_BYTES);
    anyseal_put64(data + ANYSEAL_HASH_BYTES, index);
    memcpy(data + ANYSEAL_HASH_BYTES + 8, salt, SALT_BYTES);
    return anyseal_derive(label, sizeof label - 1, data, sizeof data, data_key);
}

int anyseal_chunks_spend(uint64_t first, uint64_t count, uint64_t segment_key)
{
    return anyseal_key_spend(segment_key, first, count);
}

/* The chunk's number in the last 8 bytes of the nonce, zeros before. */
static void nonce_set(uint8_t *nonce, size_t nonce_len, uint64_t index)
{
    anyseal_put64(nonce + nonce_len - 8, index);
}

ANYSEAL_BELOW static int chunks_seal(uint8_t *out, const uint8_t *in, size_t len, uint64_t first,
                                     size_t chunk, int suite, uint64_t segment_key)
{
    uint8_t key[ANYSEAL_KEY_BYTES], nonce[ANYSEAL_NONCE_MAX] = { 0 };
    const size_t tag = anyseal_tag_bytes(suite), nonce_len = anyseal_nonce_bytes(suite);
    if (tag == 0 || chunk == 0) {
        return ANYSEAL_ERROR_ARGUMENT;
    }
    const size_t count = len / chunk + (len % chunk != 0);
    if (anyseal_overlap(out, len + count * tag, in, len)) {
        return ANYSEAL_ERROR_OVERLAP;
    }
    int code = anyseal_key_copy(key, segment_key);
    if (code != ANYSEAL_OK) {
        return code;
    }
    code = anyseal_key_spend(segment_key, first, count);
    if (code == ANYSEAL_OK) {
        PyThreadState *state = len >= ANYSEAL_RELEASE_BYTES ? PyEval_SaveThread() : NULL;
        for (uint64_t i = first; code == ANYSEAL_OK && len != 0; i++) {
            const size_t n = len < chunk ? len : chunk;
            nonce_set(nonce, nonce_len, i);
            code = anyseal_aead_seal(out, in, n, NULL, 0, nonce, key, suite);
            out += n + tag;
            in += n;
            len -= n;
        }
        if (state != NULL) {
            PyEval_RestoreThread(state);
        }
    }
    anyseal_wipe(key, sizeof key);
    return code;
}

int anyseal_chunks_seal(uint8_t *out, const uint8_t *in, size_t len, uint64_t first, size_t chunk,
                        int suite, uint64_t segment_key)
{
    const int code = chunks_seal(out, in, len, first, chunk, suite, segment_key);
    anyseal_forget();
    return code;
}

ANYSEAL_BELOW static int chunks_open(uint8_t *out, const uint8_t *in, size_t len, uint64_t first,
                                     size_t chunk, int suite, uint64_t segment_key)
{
    uint8_t key[ANYSEAL_KEY_BYTES], nonce[ANYSEAL_NONCE_MAX] = { 0 };
    uint8_t *const start = out;
    const size_t tag = anyseal_tag_bytes(suite), nonce_len = anyseal_nonce_bytes(suite);
    if (tag == 0 || chunk == 0 || chunk > SIZE_MAX - tag) {
        return ANYSEAL_ERROR_ARGUMENT;
    }
    const size_t sealed = chunk + tag, rest = len % sealed;
    if (rest != 0 && rest <= tag) {
        return ANYSEAL_ERROR_FORMAT;
    }
    if (anyseal_overlap(out, len - (len / sealed + (rest != 0)) * tag, in, len)) {
        return ANYSEAL_ERROR_OVERLAP;
    }
    int code = anyseal_key_copy(key, segment_key);
    if (code != ANYSEAL_OK) {
        return code;
    }
    PyThreadState *state = len >= ANYSEAL_RELEASE_BYTES ? PyEval_SaveThread() : NULL;
    for (uint64_t i = first; len != 0; i++) {
        const size_t n = len < sealed ? len : sealed;
        nonce_set(nonce, nonce_len, i);
        code = anyseal_aead_open(out, in, n, NULL, 0, nonce, key, suite);
        if (code != ANYSEAL_OK) {
            anyseal_wipe(start, (size_t) (out - start));
            break;
        }
        out += n - tag;
        in += n;
        len -= n;
    }
    if (state != NULL) {
        PyEval_RestoreThread(state);
    }
    anyseal_wipe(key, sizeof key);
    return code;
}

int anyseal_chunks_open(uint8_t *out, const uint8_t *in, size_t len, uint64_t first, size_t chunk,
                        int suite, uint64_t segment_key)
{
    const int code = chunks_open(out, in, len, first, chunk, suite, segment_key);
    anyseal_forget();
    return code;
}
