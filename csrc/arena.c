/*
 * Key slots in locked pages between guard pages, kept out of core dumps.
 *
 * All state here changes only with the GIL held. Whoever works without it copies the key to its
 * stack first (anyseal_key_copy) and wipes the copy, so a slot may be released at any time.
 *
 * A handle is generation << 32 | (slot index + 1). The slot's first word, its live mark, equals
 * the handle while the slot is live and is 0 afterwards, so a stale handle can never reach the
 * slot's next key, and a wiped page never passes for a key of zeros.
 */
#include "anyseal.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct {
    uint64_t mark;
    uint8_t key[ANYSEAL_KEY_BYTES];
    uint32_t next_chunk;  /* of a segment key: the first chunk number not yet spent, */
    uint32_t chunk_limit; /* and the first that must not be */
    uint32_t generation;
    uint32_t next_free; /* index + 1 of the next free slot, while this one is free */
    uint32_t process;   /* the process that took the slot: only it may seal chunks */
    uint32_t reserved;
} slot;

#define REGION_SLOTS 1024U
#define REGION_BYTES (REGION_SLOTS * sizeof(slot))
#define REGION_MAX 8192U
#define GENERATION_MAX 0x7fffffffU

static struct {
    slot *regions[REGION_MAX];
    uint8_t locked[REGION_MAX];
    uint32_t region_count;
    uint32_t first_free; /* index + 1 */
    size_t live;
} arena;

/*
 * Which process this is. A pid does not tell: a child in another PID namespace may have its
 * parent's. A page that the kernel empties at a fork tells of every one, and a hook of the C
 * library's fork() stands in where there is no such page.
 */
static struct {
    uint32_t number; /* 0: not asked yet */
    uint32_t *page;  /* 1 in the process that set it; NULL where the kernel empties no pages */
    int32_t pid;     /* for systems without such pages, and for clone() on them */
} process;

static void process_forked(void)
{
    process.number++;
}

static void process_begin(void)
{
    process.number = 1;
    process.pid = (int32_t) getpid();
    (void) pthread_atfork(NULL, NULL, process_forked);
#ifdef MADV_WIPEONFORK
    const size_t size = (size_t) sysconf(_SC_PAGESIZE);
    void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        return;
    }
    if (madvise(page, size, MADV_WIPEONFORK) != 0) {
        munmap(page, size);
        return;
    }
    process.page = page;
    *process.page = 1;
#endif
}

uint32_t anyseal_process(void)
{
    if (process.number == 0) {
        process_begin();
    }
    if (process.page != NULL) {
        if (*process.page == 0) {
            process.number++;
            *process.page = 1;
        }
    } else if (process.pid != (int32_t) getpid()) {
        process.number++;
        process.pid = (int32_t) getpid();
    }
    return process.number;
}

int64_t anyseal_interpreter(void)
{
    return PyInterpreterState_GetID(PyInterpreterState_Get());
}

static slot *slot_at(uint32_t index)
{
    return &arena.regions[index / REGION_SLOTS][index % REGION_SLOTS];
}

static slot *slot_live(uint64_t handle)
{
    const uint32_t position = (uint32_t) handle;
    if (position == 0 || (position - 1) / REGION_SLOTS >= arena.region_count) {
        return NULL;
    }
    slot *s = slot_at(position - 1);
    return s->mark == handle ? s : NULL;
}

static int region_add(void)
{
    const size_t guard = (size_t) sysconf(_SC_PAGESIZE);
    const size_t body = (REGION_BYTES + guard - 1) / guard * guard;
    if (arena.region_count == REGION_MAX) {
        return ANYSEAL_ERROR_MEMORY;
    }
    uint8_t *base = mmap(NULL, body + 2 * guard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
        return ANYSEAL_ERROR_MEMORY;
    }
    if (mprotect(base + guard, body, PROT_READ | PROT_WRITE) != 0) {
        munmap(base, body + 2 * guard);
        return ANYSEAL_ERROR_MEMORY;
    }
#ifdef MADV_DONTDUMP
    (void) madvise(base + guard, body, MADV_DONTDUMP);
#endif
    const uint32_t region = arena.region_count++;
    arena.regions[region] = (slot *) (void *) (base + guard);
    arena.locked[region] = mlock(base + guard, body) == 0;
    for (uint32_t i = REGION_SLOTS; i-- > 0;) {
        slot *s = &arena.regions[region][i];
        s->next_free = arena.first_free;
        arena.first_free = region * REGION_SLOTS + i + 1;
    }
    return ANYSEAL_OK;
}

/* Take a free slot with its key still empty and its mark unset. */
static int64_t slot_take(slot **out)
{
    if (arena.first_free == 0) {
        const int code = region_add();
        if (code != ANYSEAL_OK) {
            return code;
        }
    }
    const uint32_t position = arena.first_free;
    slot *s = slot_at(position - 1);
    arena.first_free = s->next_free;
    s->generation++;
    s->next_free = 0;
    s->next_chunk = 0;
    s->chunk_limit = UINT32_MAX;
    s->process = anyseal_process();
    arena.live++;
    *out = s;
    return (int64_t) (((uint64_t) s->generation << 32) | position);
}

static void slot_give(slot *s, uint32_t position)
{
    const uint32_t generation = s->generation;
    anyseal_wipe((uint8_t *) s, sizeof *s);
    s->generation = generation;
    arena.live--;
    if (generation < GENERATION_MAX) { /* else the slot retires: no handle ever repeats */
        s->next_free = arena.first_free;
        arena.first_free = position;
    }
}

int64_t anyseal_key_import(const uint8_t *bytes)
{
    slot *s;
    const int64_t handle = slot_take(&s);
    if (handle > 0) {
        memcpy(s->key, bytes, ANYSEAL_KEY_BYTES);
        anyseal_forget();
        s->mark = (uint64_t) handle;
    }
    return handle;
}

int64_t anyseal_key_random(void)
{
    slot *s;
    const int64_t handle = slot_take(&s);
    if (handle > 0) {
        if (anyseal_random(s->key, ANYSEAL_KEY_BYTES) != ANYSEAL_OK) {
            slot_give(s, (uint32_t) handle);
            return ANYSEAL_ERROR_RANDOM;
        }
        s->mark = (uint64_t) handle;
    }
    return handle;
}

int anyseal_key_copy(uint8_t *out, uint64_t handle)
{
    const slot *s = slot_live(handle);
    if (s == NULL) {
        return ANYSEAL_ERROR_KEY_USE;
    }
    memcpy(out, s->key, ANYSEAL_KEY_BYTES);
    return ANYSEAL_OK;
}

int anyseal_key_export(uint8_t *out, uint64_t key)
{
    const int code = anyseal_key_copy(out, key);
    anyseal_forget();
    return code;
}

void anyseal_key_release(uint64_t key)
{
    slot *s = slot_live(key);
    if (s != NULL) {
        slot_give(s, (uint32_t) key);
    }
}

int anyseal_key_equal(uint64_t a, uint64_t b)
{
    const slot *sa = slot_live(a), *sb = slot_live(b);
    if (sa == NULL || sb == NULL) {
        return ANYSEAL_ERROR_KEY_USE;
    }
    const int equal = anyseal_equal(sa->key, sb->key, ANYSEAL_KEY_BYTES);
    anyseal_forget();
    return equal;
}

int anyseal_key_spend(uint64_t handle, uint64_t first, uint64_t count)
{
    slot *s = slot_live(handle);
    if (s == NULL) {
        return ANYSEAL_ERROR_KEY_USE;
    }
    if (s->next_chunk != first || count > s->chunk_limit - first ||
        s->process != anyseal_process()) {
        return ANYSEAL_ERROR_NONCE;
    }
    s->next_chunk = (uint32_t) (first + count);
    return ANYSEAL_OK;
}

int64_t anyseal_chunks_lease(uint64_t first, uint64_t count, uint64_t segment_key)
{
    const int code = anyseal_key_spend(segment_key, first, count);
    if (code != ANYSEAL_OK) {
        return code;
    }
    const int64_t handle = anyseal_key_import(slot_live(segment_key)->key);
    if (handle > 0) {
        slot *s = slot_live((uint64_t) handle);
        s->next_chunk = (uint32_t) first;
        s->chunk_limit = (uint32_t) (first + count);
    }
    return handle;
}

void anyseal_arena_relock(void)
{
    for (uint32_t i = 0; i < arena.region_count; i++) {
        arena.locked[i] = mlock(arena.regions[i], REGION_BYTES) == 0;
    }
}

void anyseal_arena_wipe(void)
{
    for (uint32_t i = 0; i < arena.region_count * REGION_SLOTS; i++) {
        slot *s = slot_at(i);
        if (s->mark != 0) {
            slot_give(s, i + 1);
        }
    }
}

size_t anyseal_arena_live(void)
{
    return arena.live;
}

size_t anyseal_arena_unlocked(void)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < arena.region_count; i++) {
        bytes += arena.locked[i] ? 0 : REGION_BYTES;
    }
    return bytes;
}
