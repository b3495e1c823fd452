/*
 * Huge pages for large results. Filling fresh memory in pages of 4 KiB costs more than the cipher,
 * and giving 100 MiB of them back stalls whoever drops the result, often an event loop, by 13 ms.
 */
#include "anyseal.h"

#include <sys/mman.h>

/* malloc maps what is larger on its own and gives it back whole: glibc's largest threshold. */
#define SEPARATE_BYTES (UINT64_C(32) << 20)
#define HUGE_PAGE_BYTES (UINT64_C(2) << 20)

void anyseal_huge_pages(uint8_t *out, size_t len)
{
#ifdef MADV_HUGEPAGE
    if (len >= SEPARATE_BYTES) {
        const uintptr_t mask = HUGE_PAGE_BYTES - 1;
        const uintptr_t start = ((uintptr_t) out + mask) & ~mask;
        const uintptr_t stop = ((uintptr_t) out + len) & ~mask;
        (void) madvise((void *) start, stop - start, MADV_HUGEPAGE);
    }
#else
    (void) out;
    (void) len;
#endif
}
