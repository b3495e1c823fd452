/*
 * Standard base64 with padding (RFC 4648, section 4).
 *
 * Decoding is strict: the standard alphabet, full padding, zero trailing bits, nothing else, so
 * that every byte string has exactly one text. It does not stop at the first foreign character but
 * collects them and looks once at the end.
 *
 * The vector paths follow W. Mula and D. Lemire, "Faster Base64 Encoding and Decoding using AVX2
 * Instructions" (2018) and "Base64 encoding and decoding at almost the speed of a memory copy"
 * (2020). They are chosen at run time and hold their tables in registers.
 */
#include "anyseal.h"

enum { SCALAR, AVX2, AVX512 };

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define HAVE_VECTORS 1
#include <immintrin.h>
#define TARGET_AVX2 __attribute__((target("avx2")))
#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi")))
#endif

static const uint8_t alphabet[64] = {
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
};

#define BAD 0x80 /* in a decoded sextet: the character is foreign */

static const uint8_t sextet_of[128] = {
    BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD,
    BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD,
    BAD, BAD, BAD, BAD, BAD, 62,  BAD, BAD, BAD, 63,  52,  53,  54,  55,  56,  57,  58,  59,  60,
    61,  BAD, BAD, BAD, BAD, BAD, BAD, BAD, 0,   1,   2,   3,   4,   5,   6,   7,   8,   9,   10,
    11,  12,  13,  14,  15,  16,  17,  18,  19,  20,  21,  22,  23,  24,  25,  BAD, BAD, BAD, BAD,
    BAD, BAD, 26,  27,  28,  29,  30,  31,  32,  33,  34,  35,  36,  37,  38,  39,  40,  41,  42,
    43,  44,  45,  46,  47,  48,  49,  50,  51,  BAD, BAD, BAD, BAD, BAD
};

static int path = -1; /* not yet chosen */

static int path_best(void)
{
#ifdef HAVE_VECTORS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi")) {
        return AVX512;
    }
    if (__builtin_cpu_supports("avx2")) {
        return AVX2;
    }
#endif
    return SCALAR;
}

int anyseal_base64_path(int limit)
{
    const int best = path_best();
    path = limit < SCALAR || limit > best ? best : limit;
    return path;
}

/* Called with the GIL held or not: the worst of a race is choosing the same path twice. */
static inline int path_chosen(void)
{
    return path >= SCALAR ? path : anyseal_base64_path(-1);
}

/* ---- scalar ---- */

static inline uint8_t sextet(uint8_t c)
{
    return c < sizeof sextet_of ? sextet_of[c] : BAD;
}

static void encode_scalar(uint8_t *out, const uint8_t *in, size_t len)
{
    for (; len >= 3; len -= 3, in += 3, out += 4) {
        const uint32_t v = (uint32_t) in[0] << 16 | (uint32_t) in[1] << 8 | in[2];
        out[0] = alphabet[v >> 18];
        out[1] = alphabet[v >> 12 & 63];
        out[2] = alphabet[v >> 6 & 63];
        out[3] = alphabet[v & 63];
    }
    if (len != 0) {
        const uint32_t v = (uint32_t) in[0] << 16 | (len == 2 ? (uint32_t) in[1] << 8 : 0U);
        out[0] = alphabet[v >> 18];
        out[1] = alphabet[v >> 12 & 63];
        out[2] = len == 2 ? alphabet[v >> 6 & 63] : '=';
        out[3] = '=';
    }
}

/* Decode `len` characters without padding. Returns 0 if all are of the alphabet. */
static uint8_t decode_scalar(uint8_t *out, const uint8_t *in, size_t len)
{
    uint8_t bad = 0;
    for (; len >= 4; len -= 4, in += 4, out += 3) {
        const uint8_t a = sextet(in[0]), b = sextet(in[1]), c = sextet(in[2]), d = sextet(in[3]);
        bad |= (uint8_t) (a | b | c | d);
        out[0] = (uint8_t) (a << 2 | (b & 63) >> 4);
        out[1] = (uint8_t) (b << 4 | (c & 63) >> 2);
        out[2] = (uint8_t) (c << 6 | (d & 63));
    }
    if (len != 0) { /* 2 or 3 characters; the bits that no byte takes must be zero */
        const uint8_t a = sextet(in[0]), b = sextet(in[1]), c = len == 3 ? sextet(in[2]) : 0;
        bad |= (uint8_t) (a | b | c | ((len == 3 ? c & 3 : b & 15) != 0 ? BAD : 0));
        out[0] = (uint8_t) (a << 2 | (b & 63) >> 4);
        if (len == 3) {
            out[1] = (uint8_t) (b << 4 | (c & 63) >> 2);
        }
    }
    return bad & BAD;
}

#ifdef HAVE_VECTORS

/* ---- AVX2: 24 bytes and 32 characters at a time ---- */

TARGET_AVX2 static void encode_avx2(uint8_t *out, const uint8_t *in, size_t len)
{
    const __m256i spread = _mm256_setr_epi8(1, 0, 2, 1, 4, 3, 5, 4, 7, 6, 8, 7, 10, 9, 11, 10, 1, 0,
                                            2, 1, 4, 3, 5, 4, 7, 6, 8, 7, 10, 9, 11, 10);
    /* What to add to a sextet: by 0 for a-z, 1 to 10 for 0-9, 11 for +, 12 for /, 13 for A-Z. */
    const __m256i shift =
        _mm256_setr_epi8(71, -4, -4, -4, -4, -4, -4, -4, -4, -4, -4, -19, -16, 65, 0, 0, 71, -4, -4,
                         -4, -4, -4, -4, -4, -4, -4, -4, -19, -16, 65, 0, 0);
    while (len >= 28) { /* the second half's load reads 4 bytes more than it uses */
        const __m128i low = _mm_loadu_si128((const __m128i *) (const void *) in);
        const __m128i high = _mm_loadu_si128((const __m128i *) (const void *) (in + 12));
        const __m256i v = _mm256_shuffle_epi8(_mm256_set_m128i(high, low), spread);
        const __m256i odd = _mm256_mulhi_epu16(_mm256_and_si256(v, _mm256_set1_epi32(0x0fc0fc00)),
                                               _mm256_set1_epi32(0x04000040));
        const __m256i even = _mm256_mullo_epi16(_mm256_and_si256(v, _mm256_set1_epi32(0x003f03f0)),
                                                _mm256_set1_epi32(0x01000010));
        const __m256i sextets = _mm256_or_si256(odd, even);
        const __m256i upper = _mm256_cmpgt_epi8(_mm256_set1_epi8(26), sextets);
        const __m256i range = _mm256_or_si256(_mm256_subs_epu8(sextets, _mm256_set1_epi8(51)),
                                              _mm256_and_si256(upper, _mm256_set1_epi8(13)));
        _mm256_storeu_si256((__m256i *) (void *) out,
                            _mm256_add_epi8(sextets, _mm256_shuffle_epi8(shift, range)));
        in += 24;
        out += 32;
        len -= 24;
    }
    encode_scalar(out, in, len);
}

TARGET_AVX2 static uint8_t decode_avx2(uint8_t *out, const uint8_t *in, size_t len)
{
    /* A character is foreign if its low and its high nibble's masks share a bit. */
    const __m256i low_mask =
        _mm256_setr_epi8(0x15, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x13, 0x1a,
                         0x1b, 0x1b, 0x1b, 0x1a, 0x15, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11,
                         0x11, 0x11, 0x13, 0x1a, 0x1b, 0x1b, 0x1b, 0x1a);
    const __m256i high_mask =
        _mm256_setr_epi8(0x10, 0x10, 0x01, 0x02, 0x04, 0x08, 0x04, 0x08, 0x10, 0x10, 0x10, 0x10,
                         0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x01, 0x02, 0x04, 0x08, 0x04, 0x08,
                         0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10);
    /* What to add to a character: by its high nibble, one less for '/'. */
    const __m256i shift =
        _mm256_setr_epi8(0, 16, 19, 4, -65, -65, -71, -71, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 19, 4,
                         -65, -65, -71, -71, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m256i gather = _mm256_setr_epi8(2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, -1, -1, -1, -1,
                                            2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, -1, -1, -1, -1);
    const __m256i nibble = _mm256_set1_epi8(0x0f), slash = _mm256_set1_epi8('/');
    __m256i foreign = _mm256_setzero_si256();
    for (; len >= 32; len -= 32, in += 32, out += 24) {
        const __m256i c = _mm256_loadu_si256((const __m256i *) (const void *) in);
        const __m256i high = _mm256_and_si256(_mm256_srli_epi32(c, 4), nibble);
        foreign = _mm256_or_si256(
            foreign, _mm256_and_si256(_mm256_shuffle_epi8(low_mask, _mm256_and_si256(c, nibble)),
                                      _mm256_shuffle_epi8(high_mask, high)));
        const __m256i range = _mm256_add_epi8(high, _mm256_cmpeq_epi8(c, slash));
        const __m256i sextets = _mm256_add_epi8(c, _mm256_shuffle_epi8(shift, range));
        const __m256i pairs = _mm256_maddubs_epi16(sextets, _mm256_set1_epi32(0x01400140));
        const __m256i quads = _mm256_madd_epi16(pairs, _mm256_set1_epi32(0x00011000));
        const __m256i bytes = _mm256_permutevar8x32_epi32(
            _mm256_shuffle_epi8(quads, gather), _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 3, 7));
        _mm_storeu_si128((__m128i *) (void *) out, _mm256_castsi256_si128(bytes));
        _mm_storel_epi64((__m128i *) (void *) (out + 16), _mm256_extracti128_si256(bytes, 1));
    }
    const uint8_t rest = decode_scalar(out, in, len);
    return _mm256_testz_si256(foreign, foreign) ? rest : BAD;
}

/* ---- AVX-512 VBMI: 48 bytes and 64 characters at a time, masked at the end ---- */

/* The lowest `n` bits, for n up to 64. */
static inline uint64_t mask_of(size_t n)
{
    return n == 0 ? 0 : ~UINT64_C(0) >> (64 - n);
}

TARGET_AVX512 static void encode_avx512(uint8_t *out, const uint8_t *in, size_t len)
{
    const __m512i spread =
        _mm512_set_epi32(0x2e2f2d2e, 0x2b2c2a2b, 0x28292728, 0x25262425, 0x22232122, 0x1f201e1f,
                         0x1c1d1b1c, 0x191a1819, 0x16171516, 0x13141213, 0x10110f10, 0x0d0e0c0d,
                         0x0a0b090a, 0x07080607, 0x04050304, 0x01020001);
    const __m512i shifts = _mm512_set1_epi64(0x3036242a1016040a);
    const __m512i letters = _mm512_loadu_si512(alphabet);
    for (;; len -= 48, in += 48, out += 64) {
        const size_t n = len < 48 ? len : 48, chars = (n * 4 + 2) / 3;
        const __m512i v = _mm512_maskz_loadu_epi8(mask_of(n), in);
        const __m512i sextets =
            _mm512_multishift_epi64_epi8(shifts, _mm512_permutexvar_epi8(spread, v));
        _mm512_mask_storeu_epi8(out, mask_of(chars), _mm512_permutexvar_epi8(sextets, letters));
        if (len <= 48) {
            out += chars;
            break;
        }
    }
    if (len % 3 != 0) {
        *out++ = '=';
        if (len % 3 == 1) {
            *out = '=';
        }
    }
}

TARGET_AVX512 static uint8_t decode_avx512(uint8_t *out, const uint8_t *in, size_t len)
{
    const __m512i first = _mm512_loadu_si512(sextet_of),
                  second = _mm512_loadu_si512(sextet_of + 64);
    const __m512i gather = _mm512_set_epi32(
        0, 0, 0, 0, 0x3c3d3e38, 0x393a3435, 0x36303132, 0x2c2d2e28, 0x292a2425, 0x26202122,
        0x1c1d1e18, 0x191a1415, 0x16101112, 0x0c0d0e08, 0x090a0405, 0x06000102);
    const __m512i none = _mm512_set1_epi8('A');
    __m512i foreign = _mm512_setzero_si512();
    __m512i last = foreign;
    size_t n = 0;
    for (; len != 0; len -= n, in += n) {
        n = len < 64 ? len : 64;
        const __m512i c = _mm512_mask_loadu_epi8(none, mask_of(n), in);
        const __m512i v = _mm512_permutex2var_epi8(first, c, second);
        foreign = _mm512_or_si512(foreign, _mm512_or_si512(c, v));
        const __m512i pairs = _mm512_maddubs_epi16(v, _mm512_set1_epi32(0x01400140));
        const __m512i quads = _mm512_madd_epi16(pairs, _mm512_set1_epi32(0x00011000));
        last = _mm512_permutexvar_epi8(gather, quads);
        _mm512_mask_storeu_epi8(out, mask_of(n * 3 / 4), last);
        out += n * 3 / 4;
    }
    /* The byte after the last whole one holds the bits that no byte takes. */
    const uint64_t rest = n % 4 == 0 ? 0 : UINT64_C(1) << (n * 3 / 4);
    return _mm512_movepi8_mask(foreign) != 0 || _mm512_mask_test_epi8_mask(rest, last, last) != 0
               ? BAD
               : 0;
}

#endif

void anyseal_base64_encode(uint8_t *out, const uint8_t *in, size_t len)
{
    switch (path_chosen()) {
#ifdef HAVE_VECTORS
    case AVX512:
        encode_avx512(out, in, len);
        return;
    case AVX2:
        encode_avx2(out, in, len);
        return;
#endif
    default:
        encode_scalar(out, in, len);
    }
}

int64_t anyseal_base64_bytes(const uint8_t *in, size_t len)
{
    if (len % 4 != 0 || len > INT64_MAX) {
        return ANYSEAL_ERROR_FORMAT;
    }
    const size_t pads = len == 0 || in[len - 1] != '=' ? 0 : in[len - 2] != '=' ? 1 : 2;
    return (int64_t) (len / 4 * 3 - pads);
}

int anyseal_base64_decode(uint8_t *out, size_t out_len, const uint8_t *in, size_t len)
{
    if (anyseal_base64_bytes(in, len) != (int64_t) out_len) {
        return ANYSEAL_ERROR_FORMAT;
    }
    const size_t chars = len - (len / 4 * 3 - out_len);
    uint8_t bad;
    switch (path_chosen()) {
#ifdef HAVE_VECTORS
    case AVX512:
        bad = decode_avx512(out, in, chars);
        break;
    case AVX2:
        bad = decode_avx2(out, in, chars);
        break;
#endif
    default:
        bad = decode_scalar(out, in, chars);
    }
    return bad == 0 ? ANYSEAL_OK : ANYSEAL_ERROR_FORMAT;
}
