/*
 * Rows of the Asherah format in one call: a data row key, AES-256-GCM twice, base64 and JSON.
 *
 * Every sealed thing in it is ciphertext || tag || nonce, without associated data. A row is
 *     {"Key":{"Created":<seconds>,"Key":"<80>` middle `<data>"}
 * and `middle` is the same for all rows under one intermediate key.
 */
#include "anyseal.h"

#include <stdlib.h>
#include <time.h>

#define SUITE ANYSEAL_AES256GCM
#define TAG_BYTES 16U
#define NONCE_BYTES 12U
#define OVERHEAD (TAG_BYTES + NONCE_BYTES)
#define WRAPPED_BYTES (ANYSEAL_KEY_BYTES + OVERHEAD)
#define WRAPPED_CHARS 80U
/* ROW_MAX_BYTES in config.py: every AES-GCM behind it takes as much, sealing and opening. */
#define PLAINTEXT_MAX ((UINT64_C(1) << 31) - 32)
#define DIGITS_MAX 15U /* all of them below 2**53 */
#define STACK_BYTES 4096U

static const char head[] = "{\"Key\":{\"Created\":", field[] = ",\"Key\":\"", tail[] = "\"}";

#define HEAD_BYTES (sizeof head - 1)
#define FIELD_BYTES (sizeof field - 1)
#define TAIL_BYTES (sizeof tail - 1)

typedef struct {
    uint64_t handle;
    uint64_t middle_len;
} row_key_head;

static row_key_head row_key_read(const uint8_t **middle, const uint8_t *row_key)
{
    row_key_head h;
    memcpy(&h, row_key, sizeof h);
    *middle = row_key + sizeof h;
    return h;
}

/* Write `v` in decimal at `out`. Returns the number of digits. */
static size_t decimal_put(uint8_t *out, uint64_t v)
{
    uint8_t digits[20];
    size_t n = 0;
    do {
        digits[n++] = (uint8_t) ('0' + v % 10);
        v /= 10;
    } while (v != 0);
    for (size_t i = 0; i < n; i++) {
        out[i] = digits[n - 1 - i];
    }
    return n;
}

static size_t base64_chars(size_t bytes)
{
    return (bytes + 2) / 3 * 4;
}

/* Seal into mlen + OVERHEAD bytes, whose nonce is already in place. */
static int blob_seal(uint8_t *out, const uint8_t *m, size_t mlen, const uint8_t *key)
{
    return anyseal_aead_seal(out, m, mlen, NULL, 0, out + mlen + TAG_BYTES, key, SUITE);
}

static int blob_open(uint8_t *out, const uint8_t *blob, size_t len, const uint8_t *key)
{
    return anyseal_aead_open(out, blob, len - NONCE_BYTES, NULL, 0, blob + len - NONCE_BYTES, key,
                             SUITE);
}

ANYSEAL_BELOW static int row_seal(uint8_t *out, size_t out_len, const uint8_t *m, size_t mlen,
                                  int64_t created, const uint8_t *row_key)
{
    const uint8_t *middle;
    const row_key_head rk = row_key_read(&middle, row_key);
    struct {
        uint8_t drk[ANYSEAL_KEY_BYTES];
        uint8_t wrap_nonce[NONCE_BYTES];
        uint8_t data_nonce[NONCE_BYTES];
    } fresh;
    uint8_t ik[ANYSEAL_KEY_BYTES], wrapped[WRAPPED_BYTES], digits[20];
    if (!anyseal_suite_available(SUITE)) {
        return ANYSEAL_ERROR_SUITE;
    }
    if (created < 0) {
        created = (int64_t) time(NULL);
    }
    if (mlen > PLAINTEXT_MAX || created < 0) {
        return ANYSEAL_ERROR_ARGUMENT;
    }
    const size_t digit_count = decimal_put(digits, (uint64_t) created);
    const size_t blob_len = mlen + OVERHEAD, chars = base64_chars(blob_len);
    if (out_len != HEAD_BYTES + digit_count + FIELD_BYTES + WRAPPED_CHARS + rk.middle_len + chars +
                       TAIL_BYTES ||
        anyseal_overlap(out, out_len, m, mlen)) {
        return ANYSEAL_ERROR_ARGUMENT;
    }
    int code = anyseal_key_copy(ik, rk.handle);
    if (code != ANYSEAL_OK) {
        return code;
    }
    code = anyseal_random((uint8_t *) &fresh, sizeof fresh);
    if (code != ANYSEAL_OK) {
        anyseal_wipe(ik, sizeof ik);
        return code;
    }
    PyThreadState *state = mlen >= ANYSEAL_RELEASE_BYTES ? PyEval_SaveThread() : NULL;
    memcpy(wrapped + WRAPPED_BYTES - NONCE_BYTES, fresh.wrap_nonce, NONCE_BYTES);
    code = blob_seal(wrapped, fresh.drk, sizeof fresh.drk, ik);
    if (code == ANYSEAL_OK) {
        memcpy(out, head, HEAD_BYTES);
        out += HEAD_BYTES;
        memcpy(out, digits, digit_count);
        out += digit_count;
        memcpy(out, field, FIELD_BYTES);
        out += FIELD_BYTES;
        anyseal_base64_encode(out, wrapped, sizeof wrapped);
        out += WRAPPED_CHARS;
        memcpy(out, middle, rk.middle_len);
        out += rk.middle_len;
        /* The ciphertext goes to the end of its text's room and is encoded from there forwards:
         * four characters never reach the bytes after the three that they stand for. */
        uint8_t *const blob = out + chars - blob_len;
        memcpy(blob + blob_len - NONCE_BYTES, fresh.data_nonce, NONCE_BYTES);
        code = blob_seal(blob, m, mlen, fresh.drk);
        anyseal_base64_encode(out, blob, blob_len);
        memcpy(out + chars, tail, TAIL_BYTES);
    }
    if (state != NULL) {
        PyEval_RestoreThread(state);
    }
    anyseal_wipe((uint8_t *) &fresh, sizeof fresh);
    anyseal_wipe(ik, sizeof ik);
    return code;
}

int anyseal_row_seal(uint8_t *out, size_t out_len, const uint8_t *m, size_t mlen, int64_t created,
                     const uint8_t *row_key)
{
    const int code = row_seal(out, out_len, m, mlen, created, row_key);
    anyseal_forget();
    return code;
}

int anyseal_row_seal_text(uintptr_t text, const uint8_t *m, size_t mlen, int64_t created,
                          const uint8_t *row_key)
{
    const uint8_t *const characters = anyseal_text(text);
    if (characters == NULL) {
        return ANYSEAL_ERROR_ARGUMENT;
    }
    const size_t len = (size_t) PyUnicode_GetLength((PyObject *) text);
    /* Fresh, unseen and not yet hashed: CPython's own rule for writing to a str. */
    return anyseal_row_seal((uint8_t *) (uintptr_t) characters, len, m, mlen, created, row_key);
}

/* Open base64 `data` under the data row key that `wrapped` holds under `ik`. `scratch` takes the
 * decoded data. */
ANYSEAL_BELOW static int data_open(uint8_t *out, size_t out_len, const uint8_t *data,
                                   size_t data_len, const uint8_t *wrapped, const uint8_t *ik,
                                   uint8_t *scratch)
{
    uint8_t drk[ANYSEAL_KEY_BYTES];
    int code = anyseal_base64_decode(scratch, out_len + OVERHEAD, data, data_len);
    if (code == ANYSEAL_OK) {
        code = blob_open(drk, wrapped, WRAPPED_BYTES, ik);
    }
    if (code == ANYSEAL_OK) {
        code = blob_open(out, scratch, out_len + OVERHEAD, drk);
        anyseal_wipe(drk, sizeof drk);
    }
    return code;
}

int anyseal_row_open_parts(uint8_t *out, size_t out_len, const uint8_t *data, size_t data_len,
                           const uint8_t *wrapped, uint64_t key)
{
    uint8_t ik[ANYSEAL_KEY_BYTES], stack[STACK_BYTES];
    if (!anyseal_suite_available(SUITE)) {
        return ANYSEAL_ERROR_SUITE;
    }
    if (out_len > PLAINTEXT_MAX ||
        anyseal_base64_bytes(data, data_len) != (int64_t) (out_len + OVERHEAD)) {
        return ANYSEAL_ERROR_FORMAT;
    }
    if (anyseal_overlap(out, out_len, data, data_len)) {
        return ANYSEAL_ERROR_ARGUMENT;
    }
    int code = anyseal_key_copy(ik, key);
    if (code != ANYSEAL_OK) {
        return code;
    }
    PyThreadState *state = out_len >= ANYSEAL_RELEASE_BYTES ? PyEval_SaveThread() : NULL;
    uint8_t *const scratch =
        out_len + OVERHEAD <= sizeof stack ? stack : malloc(out_len + OVERHEAD);
    if (scratch != NULL && scratch != stack) {
        anyseal_huge_pages(scratch, out_len + OVERHEAD);
    }
    code = scratch == NULL ? ANYSEAL_ERROR_MEMORY
                           : data_open(out, out_len, data, data_len, wrapped, ik, scratch);
    if (scratch != stack) {
        free(
            scratch); /* ciphertext: nothing to wipe; unmapping it takes time, so without the GIL */
    }
    if (state != NULL) {
        PyEval_RestoreThread(state);
    }
    anyseal_wipe(ik, sizeof ik);
    anyseal_forget();
    return code;
}

int anyseal_row_open(uint8_t *out, size_t out_len, const uint8_t *row, size_t len,
                     const uint8_t *row_key)
{
    const uint8_t *middle;
    const row_key_head rk = row_key_read(&middle, row_key);
    uint8_t wrapped[WRAPPED_BYTES];
    if (out_len > PLAINTEXT_MAX) {
        return ANYSEAL_ERROR_FORMAT;
    }
    const size_t chars = base64_chars(out_len + OVERHEAD);
    const size_t after = FIELD_BYTES + WRAPPED_CHARS + rk.middle_len + chars + TAIL_BYTES;
    if (len < after || len - after <= HEAD_BYTES || len - after > HEAD_BYTES + DIGITS_MAX ||
        memcmp(row, head, HEAD_BYTES) != 0 ||
        memcmp(row + len - TAIL_BYTES, tail, TAIL_BYTES) != 0) {
        return ANYSEAL_ERROR_FORMAT;
    }
    const uint8_t *p = row + len - after;
    const uint8_t *const digits = row + HEAD_BYTES;
    if (digits[0] == '0' && p - digits > 1) {
        return ANYSEAL_ERROR_FORMAT;
    }
    for (const uint8_t *d = digits; d < p; d++) {
        if (*d < '0' || *d > '9') {
            return ANYSEAL_ERROR_FORMAT;
        }
    }
    if (memcmp(p, field, FIELD_BYTES) != 0 ||
        memcmp(p + FIELD_BYTES + WRAPPED_CHARS, middle, rk.middle_len) != 0 ||
        anyseal_base64_decode(wrapped, sizeof wrapped, p + FIELD_BYTES, WRAPPED_CHARS) !=
            ANYSEAL_OK) {
        return ANYSEAL_ERROR_FORMAT;
    }
    p += FIELD_BYTES + WRAPPED_CHARS + rk.middle_len;
    return anyseal_row_open_parts(out, out_len, p, chars, wrapped, rk.handle);
}

int anyseal_row_open_text(uint8_t *out, size_t out_len, uintptr_t text, const uint8_t *row_key)
{
    Py_ssize_t len;
    const char *const row = PyUnicode_AsUTF8AndSize((PyObject *) text, &len);
    if (row == NULL) {
        PyErr_Clear(); /* a lone surrogate */
        return ANYSEAL_ERROR_FORMAT;
    }
    return anyseal_row_open(out, out_len, (const uint8_t *) row, (size_t) len, row_key);
}

int anyseal_row_wrap(uint8_t *out, uint64_t inner, uint64_t key)
{
    uint8_t inner_bytes[ANYSEAL_KEY_BYTES], key_bytes[ANYSEAL_KEY_BYTES];
    if (!anyseal_suite_available(SUITE)) {
        return ANYSEAL_ERROR_SUITE;
    }
    int code = anyseal_key_copy(inner_bytes, inner);
    if (code != ANYSEAL_OK) {
        return code;
    }
    code = anyseal_key_copy(key_bytes, key);
    if (code == ANYSEAL_OK) {
        code = anyseal_random(out + WRAPPED_BYTES - NONCE_BYTES, NONCE_BYTES);
        if (code == ANYSEAL_OK) {
            code = blob_seal(out, inner_bytes, sizeof inner_bytes, key_bytes);
        }
        anyseal_wipe(key_bytes, sizeof key_bytes);
    }
    anyseal_wipe(inner_bytes, sizeof inner_bytes);
    anyseal_forget();
    return code;
}

int64_t anyseal_row_unwrap(const uint8_t *wrapped, size_t wrapped_len, uint64_t key)
{
    uint8_t inner_bytes[ANYSEAL_KEY_BYTES], key_bytes[ANYSEAL_KEY_BYTES], copy[WRAPPED_BYTES];
    if (!anyseal_suite_available(SUITE)) {
        return ANYSEAL_ERROR_SUITE;
    }
    if (wrapped_len != WRAPPED_BYTES) {
        return ANYSEAL_ERROR_FORMAT;
    }
    int64_t handle = anyseal_key_copy(key_bytes, key);
    if (handle != ANYSEAL_OK) {
        return handle;
    }
    memcpy(copy, wrapped, sizeof copy); /* AES-GCM reads it twice */
    handle = blob_open(inner_bytes, copy, sizeof copy, key_bytes);
    anyseal_wipe(key_bytes, sizeof key_bytes);
    if (handle == ANYSEAL_OK) {
        handle = anyseal_key_import(inner_bytes);
        anyseal_wipe(inner_bytes, sizeof inner_bytes);
    }
    anyseal_forget();
    return handle;
}
