/*
 * The few things about JSON that rows need: find four strings and two numbers in a text of any
 * size, whoever wrote it, without allocating and without the GIL.
 *
 * The whole text is checked against RFC 8259 and as UTF-8, so that two readers cannot disagree on
 * what it says. Only the two levels of objects that hold the fields are read by recursion; all
 * else is skipped with one bit a level.
 */
#include "anyseal.h"

#define DEPTH_MAX 64U
#define NAME_MAX_BYTES 16U
#define CREATED_MAX (INT64_C(1) << 53) /* what every JSON reader keeps exactly */
#define ESCAPED (INT64_C(1) << 62)

/* The order of `spans`. */
enum { DRK_CREATED, CREATED, WRAPPED, WRAPPED_LEN, KEY_ID, KEY_ID_LEN, DATA, DATA_LEN, SPANS };

typedef struct {
    const uint8_t *start;
    const uint8_t *at;
    const uint8_t *end;
} reader;

typedef struct {
    const uint8_t *at;
    size_t len;
    int escaped;
} string;

static void space_skip(reader *r)
{
    while (r->at < r->end &&
           (*r->at == ' ' || *r->at == '\n' || *r->at == '\t' || *r->at == '\r')) {
        r->at++;
    }
}

/* Skip space and return the next byte without taking it, 0 at the end. */
static uint8_t peek(reader *r)
{
    space_skip(r);
    return r->at < r->end ? *r->at : 0;
}

/* Skip space and take `c` if it comes next. */
static int take(reader *r, uint8_t c)
{
    if (peek(r) != c || r->at == r->end) {
        return 0;
    }
    r->at++;
    return 1;
}

static int hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The length of the UTF-8 sequence at `p`, 0 if there is none (RFC 3629). */
static size_t utf8_length(const uint8_t *p, const uint8_t *end)
{
    const size_t left = (size_t) (end - p);
    const uint8_t c = p[0];
    if (c < 0x80) {
        return 1;
    }
    if (left < 2 || (p[1] & 0xc0) != 0x80) {
        return 0;
    }
    if (c >= 0xc2 && c <= 0xdf) {
        return 2;
    }
    if (left < 3 || (p[2] & 0xc0) != 0x80) {
        return 0;
    }
    if ((c & 0xf0) == 0xe0) {
        return (c == 0xe0 && p[1] < 0xa0) || (c == 0xed && p[1] > 0x9f) ? 0 : 3;
    }
    if (left < 4 || (p[3] & 0xc0) != 0x80 || c < 0xf0 || c > 0xf4) {
        return 0;
    }
    return (c == 0xf0 && p[1] < 0x90) || (c == 0xf4 && p[1] > 0x8f) ? 0 : 4;
}

/* Skip printable ASCII other than quotes and backslashes, eight bytes at a time. */
static const uint8_t *plain_skip(const uint8_t *p, const uint8_t *end)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = ones << 7;
    for (; end - p >= 8; p += 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        const uint64_t quote = w ^ ones * '"', slash = w ^ ones * '\\';
        /* The top bit of a byte says: below 0x20, a quote, a backslash; or not ASCII. A borrow can
         * set it wrongly only above a byte that is set rightly. */
        if ((((w - ones * 0x20) | (quote - ones) | (slash - ones) | w) & tops) != 0) {
            break;
        }
    }
    while (p < end && *p >= 0x20 && *p < 0x80 && *p != '"' && *p != '\\') {
        p++;
    }
    return p;
}

/* Take a string, and say where it is between its quotes. */
static int string_take(reader *r, string *s)
{
    if (!take(r, '"')) {
        return 0;
    }
    s->at = r->at;
    s->escaped = 0;
    for (;;) {
        r->at = plain_skip(r->at, r->end);
        if (r->at == r->end || *r->at < 0x20) {
            return 0;
        }
        if (*r->at == '"') {
            s->len = (size_t) (r->at++ - s->at);
            return 1;
        }
        if (*r->at != '\\') {
            const size_t n = utf8_length(r->at, r->end);
            if (n == 0) {
                return 0;
            }
            r->at += n;
            continue;
        }
        s->escaped = 1;
        if (r->end - r->at < 2) {
            return 0;
        }
        const uint8_t c = r->at[1];
        r->at += 2;
        if (c == 'u') {
            if (r->end - r->at < 4 || hex_digit(r->at[0]) < 0 || hex_digit(r->at[1]) < 0 ||
                hex_digit(r->at[2]) < 0 || hex_digit(r->at[3]) < 0) {
                return 0;
            }
            r->at += 4;
        } else if (c == 0 || strchr("\"\\/bfnrt", c) == NULL) {
            return 0;
        }
    }
}

static int digits_take(reader *r)
{
    const uint8_t *first = r->at;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9') {
        r->at++;
    }
    return r->at != first;
}

static int number_take(reader *r)
{
    if (r->at < r->end && *r->at == '-') {
        r->at++;
    }
    if (r->at < r->end && *r->at == '0') {
        r->at++;
    } else if (!digits_take(r)) {
        return 0;
    }
    if (r->at < r->end && *r->at == '.') {
        r->at++;
        if (!digits_take(r)) {
            return 0;
        }
    }
    if (r->at < r->end && (*r->at | 0x20) == 'e') {
        r->at++;
        if (r->at < r->end && (*r->at == '+' || *r->at == '-')) {
            r->at++;
        }
        return digits_take(r);
    }
    return 1;
}

static int word_take(reader *r, const char *word)
{
    const size_t n = strlen(word);
    if ((size_t) (r->end - r->at) < n || memcmp(r->at, word, n) != 0) {
        return 0;
    }
    r->at += n;
    return 1;
}

/* Take a value that is neither object nor array. */
static int scalar_take(reader *r)
{
    string s;
    switch (peek(r)) {
    case '"':
        return string_take(r, &s);
    case 't':
        return word_take(r, "true");
    case 'f':
        return word_take(r, "false");
    case 'n':
        return word_take(r, "null");
    default:
        return number_take(r);
    }
}

/* Take any value at nesting level `depth`. Bit n of `objects` says what the open container n is. */
static int value_take(reader *r, unsigned depth)
{
    uint64_t objects = 0;
    const unsigned outside = depth;
    string name;
    for (;;) {
        const uint8_t c = peek(r);
        if (c == '{' || c == '[') {
            const uint8_t closing = c == '{' ? '}' : ']';
            if (depth == DEPTH_MAX) {
                return 0;
            }
            r->at++;
            if (!take(r, closing)) {
                const uint64_t bit = UINT64_C(1) << depth++;
                objects = c == '{' ? objects | bit : objects & ~bit;
                if (c == '{' && !(string_take(r, &name) && take(r, ':'))) {
                    return 0;
                }
                continue;
            }
        } else if (!scalar_take(r)) {
            return 0;
        }
        for (;;) { /* a value is complete: close containers until a comma goes on */
            if (depth == outside) {
                return 1;
            }
            const int object = (objects >> (depth - 1) & 1) != 0;
            if (take(r, ',')) {
                if (object && !(string_take(r, &name) && take(r, ':'))) {
                    return 0;
                }
                break;
            }
            if (!take(r, object ? '}' : ']')) {
                return 0;
            }
            depth--;
        }
    }
}

/* Returns 1 if all characters are base64's. No early end: the compiler makes vectors of it. */
static int base64_characters(const uint8_t *p, size_t len)
{
    unsigned foreign = 0;
    for (size_t i = 0; i < len; i++) {
        const uint8_t c = p[i], letter = (uint8_t) ((c | 0x20) - 'a'), digit = (uint8_t) (c - '/');
        foreign |= (unsigned) !((letter < 26) | (digit < 11) | (c == '+') | (c == '='));
    }
    return !foreign;
}

/* Resolve the escapes of a valid string into at most `out_len` bytes, or only count if `out` is
 * NULL. Returns the length, -1 if it is longer or holds anything but base64's characters, which
 * spell all names that are looked for, too. */
static int64_t base64_resolve(uint8_t *out, size_t out_len, const uint8_t *in, size_t len)
{
    const uint8_t *const end = in + len;
    size_t n = 0;
    while (in < end) {
        uint8_t c = *in;
        const uint8_t *run = &c;
        size_t run_len = 1;
        if (c != '\\') {
            const uint8_t *const escape = memchr(in, '\\', (size_t) (end - in));
            run = in;
            run_len = (size_t) ((escape == NULL ? end : escape) - in);
            in += run_len;
        } else if (end - in >= 2 && in[1] == '/') {
            c = '/';
            in += 2;
        } else if (end - in >= 6 && in[1] == 'u' && in[2] == '0' && in[3] == '0') {
            const int high = hex_digit(in[4]), low = hex_digit(in[5]);
            c = high < 0 || low < 0 ? 0 : (uint8_t) (high << 4 | low);
            in += 6;
        } else {
            return -1;
        }
        if (run_len > out_len - n || !base64_characters(run, run_len)) {
            return -1;
        }
        if (out != NULL) {
            memcpy(out + n, run, run_len);
        }
        n += run_len;
    }
    return (int64_t) n;
}

static int name_is(const string *s, const char *name)
{
    uint8_t resolved[NAME_MAX_BYTES];
    const uint8_t *p = s->at;
    int64_t n = (int64_t) s->len;
    if (s->escaped) {
        n = base64_resolve(resolved, sizeof resolved, s->at, s->len);
        p = resolved;
    }
    return n == (int64_t) strlen(name) && memcmp(p, name, (size_t) n) == 0;
}

/* Take a value; `spans[field]` and the next say where it is if it is a string. */
static int string_field(reader *r, int64_t *spans, int field, unsigned depth)
{
    string s;
    spans[field] = spans[field + 1] = -1;
    if (peek(r) != '"') {
        return value_take(r, depth);
    }
    if (!string_take(r, &s)) {
        return 0;
    }
    spans[field] = s.at - r->start;
    spans[field + 1] = (int64_t) s.len | (s.escaped ? ESCAPED : 0);
    return 1;
}

/* Take a value; `spans[field]` is it if it is an integer of 0 to 2**53. */
static int number_field(reader *r, int64_t *spans, int field, unsigned depth)
{
    int64_t v = 0;
    (void) peek(r);
    const uint8_t *const first = r->at;
    if (!value_take(r, depth)) {
        return 0;
    }
    for (const uint8_t *p = first; v >= 0 && p < r->at; p++) {
        v = *p < '0' || *p > '9' || v > CREATED_MAX ? -1 : v * 10 + (*p - '0');
    }
    spans[field] = v > CREATED_MAX ? -1 : v;
    return 1;
}

enum { IN_ROW, IN_KEY, IN_PARENT };

/* Take an object of the kind `where`, and remember its fields. What an earlier object of the same
 * name held is forgotten. */
static int object_take(reader *r, int64_t *spans, int where)
{
    const unsigned depth = (unsigned) where + 1;
    string name;
    if (where != IN_ROW) {
        spans[CREATED] = spans[KEY_ID] = spans[KEY_ID_LEN] = -1;
    }
    if (where == IN_KEY) {
        spans[DRK_CREATED] = spans[WRAPPED] = spans[WRAPPED_LEN] = -1;
    }
    if (peek(r) != '{') {
        return where != IN_ROW && value_take(r, depth - 1);
    }
    r->at++;
    if (take(r, '}')) {
        return 1;
    }
    do {
        int ok;
        if (!string_take(r, &name) || !take(r, ':')) {
            return 0;
        }
        if (where == IN_ROW && name_is(&name, "Key")) {
            ok = object_take(r, spans, IN_KEY);
        } else if (where == IN_ROW && name_is(&name, "Data")) {
            ok = string_field(r, spans, DATA, depth);
        } else if (where == IN_KEY && name_is(&name, "Key")) {
            ok = string_field(r, spans, WRAPPED, depth);
        } else if (where == IN_KEY && name_is(&name, "Created")) {
            ok = number_field(r, spans, DRK_CREATED, depth);
        } else if (where == IN_KEY && name_is(&name, "ParentKeyMeta")) {
            ok = object_take(r, spans, IN_PARENT);
        } else if (where == IN_PARENT && name_is(&name, "KeyId")) {
            ok = string_field(r, spans, KEY_ID, depth);
        } else if (where == IN_PARENT && name_is(&name, "Created")) {
            ok = number_field(r, spans, CREATED, depth);
        } else {
            ok = value_take(r, depth);
        }
        if (!ok) {
            return 0;
        }
    } while (take(r, ','));
    return take(r, '}');
}

int anyseal_row_parse(int64_t *spans, const uint8_t *row, size_t len)
{
    reader r = { row, row, row + len };
    for (int i = 0; i < SPANS; i++) {
        spans[i] = -1;
    }
    PyThreadState *state = len >= ANYSEAL_RELEASE_BYTES ? PyEval_SaveThread() : NULL;
    const int ok = object_take(&r, spans, IN_ROW) && peek(&r) == 0 && r.at == r.end;
    if (state != NULL) {
        PyEval_RestoreThread(state);
    }
    return ok ? ANYSEAL_OK : ANYSEAL_ERROR_FORMAT;
}

int64_t anyseal_json_base64(uint8_t *out, size_t out_len, const uint8_t *in, size_t len)
{
    PyThreadState *state = len >= ANYSEAL_RELEASE_BYTES ? PyEval_SaveThread() : NULL;
    const int64_t n = base64_resolve(out, out_len, in, len);
    if (state != NULL) {
        PyEval_RestoreThread(state);
    }
    return n < 0 ? ANYSEAL_ERROR_FORMAT : n;
}

const uint8_t *anyseal_text(uintptr_t text)
{
    Py_ssize_t bytes;
    PyObject *const object = (PyObject *) text;
    const char *const found = PyUnicode_AsUTF8AndSize(object, &bytes);
    if (found == NULL) {
        PyErr_Clear(); /* a lone surrogate */
    }
    return found != NULL && bytes == PyUnicode_GetLength(object) ? (const uint8_t *) found : NULL;
}

#define ASCII_BLOCK 65536U

int anyseal_text_fill(uintptr_t text, const uint8_t *in, size_t len)
{
    /* Fresh, unseen and not yet hashed: CPython's own rule for writing to a str. */
    uint8_t *const out = (uint8_t *) (uintptr_t) anyseal_text(text);
    if (out == NULL || (size_t) PyUnicode_GetLength((PyObject *) text) != len) {
        return 0;
    }
    PyThreadState *state = PyEval_SaveThread();
    uint64_t seen = 0;
    for (size_t at = 0; at < len && (seen & UINT64_C(0x8080808080808080)) == 0;) {
        const size_t stop = len - at < ASCII_BLOCK ? len : at + ASCII_BLOCK;
        memcpy(out + at, in + at, stop - at);
        for (; stop - at >= 8; at += 8) {
            uint64_t w;
            memcpy(&w, in + at, 8);
            seen |= w;
        }
        for (; at < stop; at++) {
            seen |= in[at];
        }
    }
    PyEval_RestoreThread(state);
    return (seen & UINT64_C(0x8080808080808080)) == 0;
}
