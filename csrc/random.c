/*
 * Random bytes from the kernel's getrandom, for each call anew.
 *
 * Where the kernel offers getrandom in its vDSO (Linux 6.11 and later) it is called there, as
 * newer C libraries do on their own: the same generator without the system call. Its state lives
 * in pages that the kernel wipes on fork and may drop at any time, and the kernel's generation
 * counter makes it reseed, so nothing repeats in a child or after a snapshot. Everything here runs
 * with the GIL held, so that one state serves all threads.
 */
#include "anyseal.h"

#include <errno.h>
#include <unistd.h>
#if defined(__linux__)
#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/random.h>
#elif defined(__APPLE__)
#include <sys/random.h>
#endif

#if defined(__linux__) && defined(__x86_64__)

/* The kernel's ABI: Documentation of vgetrandom(), linux/random.h. */
typedef struct {
    uint32_t size_of_opaque_state;
    uint32_t mmap_prot;
    uint32_t mmap_flags;
    uint32_t reserved[13];
} vgetrandom_params;

typedef ssize_t (*vgetrandom_fn)(void *, size_t, unsigned int, void *, size_t);

static struct {
    int tried;
    vgetrandom_fn call; /* NULL: use the system call */
    void *state;
    size_t state_len;
} vdso;

static void vdso_find(void)
{
    union {
        void *address;
        vgetrandom_fn call;
    } symbol;
    vgetrandom_params params = { 0 };
    vdso.tried = 1;
    void *library = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_LOCAL | RTLD_NOLOAD);
    if (library == NULL) {
        return;
    }
    symbol.address = dlsym(library, "__vdso_getrandom");
    const size_t page = (size_t) sysconf(_SC_PAGESIZE);
    if (symbol.address == NULL || symbol.call(NULL, 0, 0, &params, ~(size_t) 0) != 0 ||
        params.size_of_opaque_state == 0 || params.size_of_opaque_state > page) {
        return;
    }
    void *state = mmap(NULL, page, (int) params.mmap_prot, (int) params.mmap_flags, -1, 0);
    if (state == MAP_FAILED) {
        return;
    }
    vdso.state = state;
    vdso.state_len = params.size_of_opaque_state;
    vdso.call = symbol.call;
}

static ssize_t kernel_random(uint8_t *out, size_t len)
{
    if (!vdso.tried) {
        vdso_find();
    }
    if (vdso.call != NULL) {
        const ssize_t got = vdso.call(out, len, 0, vdso.state, vdso.state_len);
        if (got >= 0) {
            return got;
        }
    }
    return getrandom(out, len, 0);
}

int anyseal_random_in_vdso(void)
{
    if (!vdso.tried) {
        vdso_find();
    }
    return vdso.call != NULL;
}

#else

#if defined(__linux__)
static ssize_t kernel_random(uint8_t *out, size_t len)
{
    return getrandom(out, len, 0);
}
#else
static ssize_t kernel_random(uint8_t *out, size_t len)
{
    const size_t n = len < 256 ? len : 256;
    return getentropy(out, n) == 0 ? (ssize_t) n : -1;
}
#endif

int anyseal_random_in_vdso(void)
{
    return 0;
}

#endif

int anyseal_random(uint8_t *out, size_t len)
{
    while (len != 0) {
        const ssize_t got = kernel_random(out, len);
        if (got < 0) {
            if (errno == EINTR) {
                continue;
            }
            return ANYSEAL_ERROR_RANDOM;
        }
        out += got;
        len -= (size_t) got;
    }
    return ANYSEAL_OK;
}
