/* HMAC-SHA256 and HKDF-Expand-SHA256 composed from the one-shot SHA-256 (RFC 2104, RFC 5869), so
 * that keys need not leave the arena. */
#include "anyseal.h"

#include <stdlib.h>

#define BLOCK_BYTES 64U
#define STACK_BYTES 512U

static const char prefix[] = "anyseal v1 ";
#define PREFIX_BYTES (sizeof prefix - 1)

static void xor_block(uint8_t *block, const uint8_t *key, size_t key_len, uint8_t pad)
{
    memset(block, pad, BLOCK_BYTES);
    for (size_t i = 0; i < key_len; i++) {
        block[i] ^= key[i];
    }
}

/* HMAC over a message that stands at buffer + 64; the 64 bytes before it are overwritten. */
static int hmac_prefixed(uint8_t *out, uint8_t *buffer, size_t mlen, const uint8_t *key,
                         size_t key_len)
{
    uint8_t outer[BLOCK_BYTES + ANYSEAL_HASH_BYTES];
    xor_block(buffer, key, key_len, 0x36);
    int code = anyseal_sha256(outer + BLOCK_BYTES, buffer, BLOCK_BYTES + mlen);
    if (code == ANYSEAL_OK) {
        xor_block(outer, key, key_len, 0x5c);
        code = anyseal_sha256(out, outer, sizeof outer);
    }
    anyseal_wipe(outer, sizeof outer);
    anyseal_wipe(buffer, BLOCK_BYTES);
    return code;
}

int anyseal_hmac(uint8_t *out, const uint8_t *m, size_t mlen, const uint8_t *key, size_t key_len)
{
    uint8_t stack[STACK_BYTES], hashed[ANYSEAL_HASH_BYTES];
    uint8_t *buffer = stack;
    int code;
    if (mlen > SIZE_MAX - BLOCK_BYTES) {
        return ANYSEAL_ERROR_ARGUMENT;
    }
    if (key_len > BLOCK_BYTES) {
        code = anyseal_sha256(hashed, key, key_len);
        if (code != ANYSEAL_OK) {
            return code;
        }
        key = hashed;
        key_len = sizeof hashed;
    }
    if (mlen > STACK_BYTES - BLOCK_BYTES) {
        buffer = malloc(BLOCK_BYTES + mlen);
        if (buffer == NULL) {
            return ANYSEAL_ERROR_MEMORY;
        }
    }
    if (mlen != 0) {
        memcpy(buffer + BLOCK_BYTES, m, mlen);
    }
    code = hmac_prefixed(out, buffer, mlen, key, key_len);
    anyseal_wipe(buffer + BLOCK_BYTES, mlen);
    if (buffer != stack) {
        free(buffer);
    }
    anyseal_wipe(hashed, sizeof hashed);
    return code;
}

int anyseal_expand(uint8_t *out, const char *label, size_t label_len, const uint8_t *data,
                   size_t data_len, const uint8_t *key)
{
    uint8_t stack[STACK_BYTES];
    uint8_t *buffer = stack;
    const size_t limit = SIZE_MAX - BLOCK_BYTES - PREFIX_BYTES - 2;
    if (label_len > limit || data_len > limit - label_len) {
        return ANYSEAL_ERROR_ARGUMENT;
    }
    const size_t info = PREFIX_BYTES + label_len + 1 + data_len;
    if (BLOCK_BYTES + info + 1 > STACK_BYTES) {
        buffer = malloc(BLOCK_BYTES + info + 1);
        if (buffer == NULL) {
            return ANYSEAL_ERROR_MEMORY;
        }
    }
    uint8_t *p = buffer + BLOCK_BYTES;
    memcpy(p, prefix, PREFIX_BYTES);
    p += PREFIX_BYTES;
    memcpy(p, label, label_len);
    p += label_len;
    *p++ = 0;
    if (data_len != 0) {
        memcpy(p, data, data_len);
        p += data_len;
    }
    *p = 1; /* HKDF's block counter: 32 bytes are one block */
    const int code = hmac_prefixed(out, buffer, info + 1, key, ANYSEAL_KEY_BYTES);
    if (buffer != stack) {
        free(buffer);
    }
    return code;
}

ANYSEAL_BELOW static int derive(uint8_t *out, const uint8_t *label, size_t label_len,
                                const uint8_t *data, size_t data_len, uint64_t key)
{
    uint8_t bytes[ANYSEAL_KEY_BYTES];
    int code = anyseal_key_copy(bytes, key);
    if (code == ANYSEAL_OK) {
        code = anyseal_expand(out, (const char *) label, label_len, data, data_len, bytes);
        anyseal_wipe(bytes, sizeof bytes);
    }
    return code;
}

int anyseal_derive_public(uint8_t *out, const uint8_t *label, size_t label_len, const uint8_t *data,
                          size_t data_len, uint64_t key)
{
    const int code = derive(out, label, label_len, data, data_len, key);
    anyseal_forget();
    return code;
}

int64_t anyseal_derive(const uint8_t *label, size_t label_len, const uint8_t *data, size_t data_len,
                       uint64_t key)
{
    uint8_t derived[ANYSEAL_KEY_BYTES];
    int64_t handle = derive(derived, label, label_len, data, data_len, key);
    if (handle == ANYSEAL_OK) {
        handle = anyseal_key_import(derived);
        anyseal_wipe(derived, sizeof derived);
    }
    anyseal_forget();
    return handle;
}

ANYSEAL_BELOW static int mac(uint8_t *out, const uint8_t *m, size_t mlen, uint64_t key)
{
    uint8_t bytes[ANYSEAL_KEY_BYTES];
    int code = anyseal_key_copy(bytes, key);
    if (code == ANYSEAL_OK) {
        code = anyseal_hmac(out, m, mlen, bytes, sizeof bytes);
        anyseal_wipe(bytes, sizeof bytes);
    }
    return code;
}

int anyseal_mac(uint8_t *out, const uint8_t *m, size_t mlen, uint64_t key)
{
    const int code = mac(out, m, mlen, key);
    anyseal_forget();
    return code;
}

#define NAME_HASH_BYTES 24U

int anyseal_name(uint8_t *out, const uint8_t *m, size_t mlen, uint64_t key)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint8_t bytes[ANYSEAL_KEY_BYTES], hash[NAME_HASH_BYTES];
    int code = anyseal_key_copy(bytes, key);
    if (code != ANYSEAL_OK) {
        return code;
    }
    code = anyseal_blake2b(hash, sizeof hash, m, mlen, bytes, "anyseal name v1");
    anyseal_wipe(bytes, sizeof bytes);
    anyseal_forget();
    for (size_t i = 0; code == ANYSEAL_OK && i < NAME_HASH_BYTES; i += 3) {
        const uint32_t group = (uint32_t) hash[i] << 16 | (uint32_t) hash[i + 1] << 8 | hash[i + 2];
        for (unsigned shift = 24; shift != 0;) {
            shift -= 6;
            *out++ = (uint8_t) alphabet[(group >> shift) & 63];
        }
    }
    return code;
}
