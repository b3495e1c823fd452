/* libsodium's function table: addresses come from Python once, so that no second copy is linked. */
#include "anyseal.h"

#define PASSPHRASE_MAX 1024U /* a multiple of ANYSEAL_KEY_BYTES */

typedef int (*seal_fn)(unsigned char *, unsigned long long *, const unsigned char *,
                       unsigned long long, const unsigned char *, unsigned long long,
                       const unsigned char *, const unsigned char *, const unsigned char *);
typedef int (*open_fn)(unsigned char *, unsigned long long *, unsigned char *,
                       const unsigned char *, unsigned long long, const unsigned char *,
                       unsigned long long, const unsigned char *, const unsigned char *);
typedef int (*init_fn)(void);
typedef int (*sha256_fn)(unsigned char *, const unsigned char *, unsigned long long);
typedef void (*memzero_fn)(void *, size_t);
typedef int (*memcmp_fn)(const void *, const void *, size_t);
typedef int (*pwhash_fn)(unsigned char *, unsigned long long, const char *, unsigned long long,
                         const unsigned char *, unsigned long long, size_t, int);
typedef int (*blake2b_fn)(unsigned char *, size_t, const unsigned char *, unsigned long long,
                          const unsigned char *, size_t, const unsigned char *,
                          const unsigned char *);

/* ISO C has no conversion between object and function pointers; POSIX has, through a union. */
typedef union {
    void *address;
    seal_fn seal;
    open_fn open;
    init_fn init;
    sha256_fn sha256;
    memzero_fn memzero;
    memcmp_fn memcmp;
    pwhash_fn pwhash;
    blake2b_fn blake2b;
} function;

static function table[ANYSEAL_FN_COUNT];

typedef struct {
    int seal;
    int open;
    size_t nonce;
    size_t tag;
} suite_row;

static const suite_row suites[] = {
    { -1, -1, 0, 0 },
    { ANYSEAL_FN_AEGIS256_SEAL, ANYSEAL_FN_AEGIS256_OPEN, 32, 32 },
    { ANYSEAL_FN_AES256GCM_SEAL, ANYSEAL_FN_AES256GCM_OPEN, 12, 16 },
    { ANYSEAL_FN_XCHACHA_SEAL, ANYSEAL_FN_XCHACHA_OPEN, 24, 16 },
    { ANYSEAL_FN_CHACHA_SEAL, ANYSEAL_FN_CHACHA_OPEN, 12, 16 },
};

static const suite_row *suite_find(int suite)
{
    if (suite < ANYSEAL_AEGIS256 || suite > ANYSEAL_CHACHA20POLY1305_IETF) {
        return NULL;
    }
    return &suites[suite];
}

size_t anyseal_tag_bytes(int suite)
{
    const suite_row *row = suite_find(suite);
    return row == NULL ? 0 : row->tag;
}

size_t anyseal_nonce_bytes(int suite)
{
    const suite_row *row = suite_find(suite);
    return row == NULL ? 0 : row->nonce;
}

int anyseal_bind(int fn, void *address)
{
    if (fn < 0 || fn >= ANYSEAL_FN_COUNT) {
        return ANYSEAL_ERROR_ARGUMENT;
    }
    table[fn].address = address;
    return ANYSEAL_OK;
}

int anyseal_init(void)
{
    static const int needed[] = { ANYSEAL_FN_INIT, ANYSEAL_FN_SHA256, ANYSEAL_FN_MEMZERO,
                                  ANYSEAL_FN_MEMCMP, ANYSEAL_FN_BLAKE2B };
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        if (table[needed[i]].address == NULL) {
            return ANYSEAL_ERROR_SUITE;
        }
    }
    return table[ANYSEAL_FN_INIT].init() < 0 ? ANYSEAL_ERROR_SUITE : ANYSEAL_OK;
}

int anyseal_aes_hardware(void)
{
    const function fn = table[ANYSEAL_FN_AES_AVAILABLE];
    return fn.address != NULL && fn.init() != 0;
}

int anyseal_suite_available(int suite)
{
    const suite_row *row = suite_find(suite);
    if (row == NULL || table[row->seal].address == NULL || table[row->open].address == NULL) {
        return 0;
    }
    /* libsodium's AES-GCM exists only in hardware and aborts without it. */
    return suite == ANYSEAL_AES256GCM ? anyseal_aes_hardware() : 1;
}

int anyseal_aead_seal(uint8_t *out, const uint8_t *m, size_t mlen, const uint8_t *ad, size_t adlen,
                      const uint8_t *nonce, const uint8_t *key, int suite)
{
    const suite_row *row = suite_find(suite);
    unsigned long long written;
    if (row == NULL || table[row->seal].address == NULL) {
        return ANYSEAL_ERROR_SUITE;
    }
    if (table[row->seal].seal(out, &written, m, mlen, ad, adlen, NULL, nonce, key) != 0) {
        return ANYSEAL_ERROR_SUITE;
    }
    return ANYSEAL_OK;
}

int anyseal_aead_open(uint8_t *out, const uint8_t *c, size_t clen, const uint8_t *ad, size_t adlen,
                      const uint8_t *nonce, const uint8_t *key, int suite)
{
    const suite_row *row = suite_find(suite);
    unsigned long long written;
    if (row == NULL || table[row->open].address == NULL) {
        return ANYSEAL_ERROR_SUITE;
    }
    if (clen < row->tag) {
        return ANYSEAL_ERROR_FORMAT;
    }
    if (table[row->open].open(out, &written, NULL, c, clen, ad, adlen, nonce, key) != 0) {
        anyseal_wipe(out, clen - row->tag);
        return ANYSEAL_ERROR_DECRYPTION;
    }
    return ANYSEAL_OK;
}

int anyseal_sha256(uint8_t *out, const uint8_t *m, size_t mlen)
{
    return table[ANYSEAL_FN_SHA256].sha256(out, m, mlen) == 0 ? ANYSEAL_OK : ANYSEAL_ERROR_SUITE;
}

int anyseal_blake2b(uint8_t *out, size_t out_len, const uint8_t *m, size_t mlen, const uint8_t *key,
                    const char *personal)
{
    const blake2b_fn hash = table[ANYSEAL_FN_BLAKE2B].blake2b;
    const int code =
        hash(out, out_len, m, mlen, key, ANYSEAL_KEY_BYTES, NULL, (const unsigned char *) personal);
    return code == 0 ? ANYSEAL_OK : ANYSEAL_ERROR_SUITE;
}

void anyseal_wipe(uint8_t *out, size_t len)
{
    if (len != 0) {
        table[ANYSEAL_FN_MEMZERO].memzero(out, len);
    }
}

int anyseal_equal(const uint8_t *a, const uint8_t *b, size_t len)
{
    return table[ANYSEAL_FN_MEMCMP].memcmp(a, b, len) == 0;
}

int anyseal_shared(const uint8_t *a, size_t alen, const uint8_t *b, size_t blen)
{
    return anyseal_overlap(a, alen, b, blen);
}

void anyseal_copy(uint8_t *out, const uint8_t *in, size_t len)
{
    PyThreadState *state = PyEval_SaveThread();
    memmove(out, in, len);
    PyEval_RestoreThread(state);
}

int64_t anyseal_argon2id(const uint64_t *passphrase, size_t passphrase_len, const uint8_t *salt,
                         uint64_t passes, size_t memory)
{
    uint8_t key[ANYSEAL_KEY_BYTES], text[PASSPHRASE_MAX];
    const function fn = table[ANYSEAL_FN_PWHASH];
    const int argon2id13 = 2;
    int64_t handle = ANYSEAL_OK;
    if (fn.address == NULL) {
        return ANYSEAL_ERROR_SUITE;
    }
    if (passphrase_len > sizeof text) {
        return ANYSEAL_ERROR_ARGUMENT;
    }
    for (size_t at = 0; handle == ANYSEAL_OK && at < passphrase_len; at += ANYSEAL_KEY_BYTES) {
        handle = anyseal_key_copy(text + at, *passphrase++);
    }
    if (handle == ANYSEAL_OK) {
        PyThreadState *state = PyEval_SaveThread();
        const int refused = fn.pwhash(key, sizeof key, (const char *) text, passphrase_len, salt,
                                      passes, memory, argon2id13);
        PyEval_RestoreThread(state);
        handle = refused ? ANYSEAL_ERROR_COST : anyseal_key_import(key);
        anyseal_wipe(key, sizeof key);
    }
    anyseal_wipe(text, sizeof text);
    anyseal_forget();
    return handle;
}
