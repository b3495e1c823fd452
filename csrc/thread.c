/*
 * Threads that seal say that they want long turns on the CPU, so that the event loop's thread need
 * not wait for one to end.
 *
 * When all CPUs are busy Linux lets a running thread finish its slice (3 to 4 ms) before one that
 * wakes up, unless the one that wakes up asks for a shorter slice than the running one (6.12 and
 * later). A worker therefore asks for a longer slice while it works: it gets as much CPU time as
 * before, in longer pieces that anything else may interrupt. Elsewhere this does nothing.
 */
#include "anyseal.h"

#if defined(__linux__)

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WORK_SLICE_NS 20000000U

/* struct sched_attr of the kernel's ABI, version 0. */
typedef struct {
    uint32_t size;
    uint32_t policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime;
    uint64_t deadline;
    uint64_t period;
} scheduling;

static int slice_set(uint64_t nanoseconds)
{
    scheduling attr = { 0 };
    if (syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) != 0 ||
        (attr.policy != SCHED_OTHER && attr.policy != SCHED_BATCH) ||
        attr.runtime >= WORK_SLICE_NS + (nanoseconds == 0)) {
        return 0;
    }
    attr.size = sizeof attr;
    attr.flags = 0;
    attr.runtime = nanoseconds;
    return syscall(SYS_sched_setattr, 0, &attr, 0) == 0;
}

int anyseal_thread_work(int begin)
{
    return slice_set(begin ? WORK_SLICE_NS : 0);
}

#else

int anyseal_thread_work(int begin)
{
    (void) begin;
    return 0;
}

#endif
