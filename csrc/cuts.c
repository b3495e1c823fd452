/*
 * Where a long message can be cut: Python decodes it a part at a time, so that no event loop stands
 * still for the whole. Nothing is decoded here, and each call looks at `budget` bytes at most.
 */
#include "anyseal.h"

/* Bytes of length or value behind a tag from 0xc4 on, and what they tell. */
enum { NOTHING, BODY, EXTENSION, ARRAY, MAP, VALUE, INVALID };

static const struct {
    uint8_t wide, what;
} heads[] = {
    { 0, NOTHING },   { 0, INVALID },   { 0, NOTHING },   { 0, NOTHING },                /* c0 */
    { 1, BODY },      { 2, BODY },      { 4, BODY },                                     /* c4 */
    { 1, EXTENSION }, { 2, EXTENSION }, { 4, EXTENSION },                                /* c7 */
    { 4, VALUE },     { 8, VALUE },                                                      /* ca */
    { 1, VALUE },     { 2, VALUE },     { 4, VALUE },     { 8, VALUE },                  /* cc */
    { 1, VALUE },     { 2, VALUE },     { 4, VALUE },     { 8, VALUE },                  /* d0 */
    { 2, VALUE },     { 3, VALUE },     { 5, VALUE },     { 9, VALUE },   { 17, VALUE }, /* d4 */
    { 1, BODY },      { 2, BODY },      { 4, BODY },                                     /* d9 */
    { 2, ARRAY },     { 4, ARRAY },     { 2, MAP },       { 4, MAP },                    /* dc */
};

int64_t anyseal_msgpack_cut(uint64_t *items, const uint8_t *data, size_t len, size_t at,
                            uint64_t most, uint64_t each, size_t budget)
{
    *items = 0;
    if (at > len) {
        return ANYSEAL_ERROR_ARGUMENT;
    }
    const size_t limit = len - at < budget ? len : at + budget;
    size_t done = at;
    while (*items < most) {
        size_t pos = done;
        uint64_t pending = each;
        while (pending != 0) {
            if (pos >= limit) {
                return limit == len ? ANYSEAL_ERROR_FORMAT : (int64_t) done;
            }
            const uint8_t tag = data[pos++];
            uint64_t body = 0;
            pending--;
            if (tag >= 0x80 && tag <= 0x8f) {
                pending += 2 * (uint64_t) (tag & 15);
            } else if (tag >= 0x90 && tag <= 0x9f) {
                pending += tag & 15;
            } else if (tag >= 0xa0 && tag <= 0xbf) {
                body = tag & 31;
            } else if (tag >= 0xc0 && tag <= 0xdf) {
                const uint8_t wide = heads[tag - 0xc0].wide, what = heads[tag - 0xc0].what;
                if (what == INVALID) {
                    return ANYSEAL_ERROR_FORMAT;
                }
                if (wide > len - pos) {
                    return ANYSEAL_ERROR_FORMAT;
                }
                if (what == VALUE) {
                    body = wide;
                } else {
                    uint64_t told = 0;
                    for (size_t i = 0; i < wide; i++) {
                        told = (told << 8) | data[pos++];
                    }
                    if (what == ARRAY) {
                        pending += told;
                    } else if (what == MAP) {
                        pending += 2 * told;
                    } else {
                        body = told + (what == EXTENSION);
                    }
                }
            }
            if (body > len - pos || pending > len - pos - body) { /* each takes a byte */
                return ANYSEAL_ERROR_FORMAT;
            }
            pos += body;
        }
        if (pos > limit) {
            break;
        }
        done = pos;
        (*items)++;
    }
    return (int64_t) done;
}

int64_t anyseal_json_cut(const uint8_t *data, size_t len, size_t at, size_t budget)
{
    if (at > len) {
        return ANYSEAL_ERROR_ARGUMENT;
    }
    const size_t limit = len - at < budget ? len : at + budget;
    size_t depth = 0, last = 0;
    int text = 0;
    for (size_t pos = at; pos < limit; pos++) {
        const uint8_t c = data[pos];
        if (text) {
            if (c == '\\') {
                pos++;
            } else if (c == '"') {
                text = 0;
            }
        } else if (c == '"') {
            text = 1;
        } else if (c == '[' || c == '{') {
            depth++;
        } else if (c == ']' || c == '}') {
            if (depth == 0) {
                return (int64_t) pos;
            }
            depth--;
        } else if (c == ',' && depth == 0) {
            last = pos;
        }
    }
    return limit == len ? ANYSEAL_ERROR_FORMAT : (int64_t) last;
}

int64_t anyseal_json_text_cut(const uint8_t *data, size_t len, size_t at, size_t budget)
{
    if (at > len) {
        return ANYSEAL_ERROR_ARGUMENT;
    }
    const size_t limit = len - at < budget ? len : at + budget;
    size_t pos = at;
    while (pos < limit) {
        const uint8_t c = data[pos];
        size_t wide = 1;
        if (c == '"') {
            return (int64_t) pos;
        }
        if (c == '\\') {
            wide = 2;
            if (limit - pos > 3 && data[pos + 1] == 'u') { /* a surrogate stands before another */
                const uint8_t high = data[pos + 2] | 0x20, low = data[pos + 3] | 0x20;
                wide = high == 'd' && strchr("89ab", low) != NULL && low != 0 ? 12 : 6;
            } else if (limit - pos <= 3) {
                break;
            }
        } else if (c >= 0xc0) {
            wide = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
        }
        if (wide > limit - pos) {
            break;
        }
        pos += wide;
    }
    return pos == at || (pos >= len) ? ANYSEAL_ERROR_FORMAT : (int64_t) pos;
}
