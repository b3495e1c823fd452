/*
 * What a cipher leaves behind: its frames below ours on the stack, with round keys and states in
 * them, and the vector registers, which the dynamic linker spills onto the stack the next time that
 * it binds a function for anyone.
 */
#include "anyseal.h"

/* libsodium 1.0.20 reaches 2.3 KiB down (ChaCha20-Poly1305), and our own frames 1.5 above it. */
#define BELOW_BYTES 4096U

/* Its own frame is where the frames of the work before it were. */
__attribute__((noinline)) static void stack_clear(void)
{
    uint8_t below[BELOW_BYTES];
    memset(below, 0, sizeof below);
    __asm__ volatile("" : : "r"(below) : "memory"); /* so that the compiler keeps it */
}

#if defined(__x86_64__)

/* The registers that only AVX-512 has: memcpy uses them too. */
__attribute__((target("avx512vl"))) static void registers_clear_upper(void)
{
    __asm__ volatile("vpxorq %%xmm16, %%xmm16, %%xmm16\n\t"
                     "vpxorq %%xmm17, %%xmm17, %%xmm17\n\t"
                     "vpxorq %%xmm18, %%xmm18, %%xmm18\n\t"
                     "vpxorq %%xmm19, %%xmm19, %%xmm19\n\t"
                     "vpxorq %%xmm20, %%xmm20, %%xmm20\n\t"
                     "vpxorq %%xmm21, %%xmm21, %%xmm21\n\t"
                     "vpxorq %%xmm22, %%xmm22, %%xmm22\n\t"
                     "vpxorq %%xmm23, %%xmm23, %%xmm23\n\t"
                     "vpxorq %%xmm24, %%xmm24, %%xmm24\n\t"
                     "vpxorq %%xmm25, %%xmm25, %%xmm25\n\t"
                     "vpxorq %%xmm26, %%xmm26, %%xmm26\n\t"
                     "vpxorq %%xmm27, %%xmm27, %%xmm27\n\t"
                     "vpxorq %%xmm28, %%xmm28, %%xmm28\n\t"
                     "vpxorq %%xmm29, %%xmm29, %%xmm29\n\t"
                     "vpxorq %%xmm30, %%xmm30, %%xmm30\n\t"
                     "vpxorq %%xmm31, %%xmm31, %%xmm31"
                     :
                     :
                     : "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23",
                       "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31");
}

__attribute__((target("avx"))) static void registers_clear_avx(void)
{
    __asm__ volatile("vzeroall"
                     :
                     :
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                       "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

static void registers_clear_sse(void)
{
    __asm__ volatile("pxor %%xmm0, %%xmm0\n\t"
                     "pxor %%xmm1, %%xmm1\n\t"
                     "pxor %%xmm2, %%xmm2\n\t"
                     "pxor %%xmm3, %%xmm3\n\t"
                     "pxor %%xmm4, %%xmm4\n\t"
                     "pxor %%xmm5, %%xmm5\n\t"
                     "pxor %%xmm6, %%xmm6\n\t"
                     "pxor %%xmm7, %%xmm7\n\t"
                     "pxor %%xmm8, %%xmm8\n\t"
                     "pxor %%xmm9, %%xmm9\n\t"
                     "pxor %%xmm10, %%xmm10\n\t"
                     "pxor %%xmm11, %%xmm11\n\t"
                     "pxor %%xmm12, %%xmm12\n\t"
                     "pxor %%xmm13, %%xmm13\n\t"
                     "pxor %%xmm14, %%xmm14\n\t"
                     "pxor %%xmm15, %%xmm15"
                     :
                     :
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                       "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

static void registers_clear(void)
{
    static int level; /* 1 SSE2, 2 AVX, 3 AVX-512: asked once; the answer never changes */
    if (level == 0) {
        level = __builtin_cpu_supports("avx512vl") ? 3 : __builtin_cpu_supports("avx") ? 2 : 1;
    }
    if (level == 3) {
        registers_clear_upper();
    }
    if (level >= 2) {
        registers_clear_avx();
    } else {
        registers_clear_sse();
    }
}

#elif defined(__aarch64__)

/* All but those whose lower halves belong to the caller. */
static void registers_clear(void)
{
    __asm__ volatile("movi v0.2d, #0\n\t"
                     "movi v1.2d, #0\n\t"
                     "movi v2.2d, #0\n\t"
                     "movi v3.2d, #0\n\t"
                     "movi v4.2d, #0\n\t"
                     "movi v5.2d, #0\n\t"
                     "movi v6.2d, #0\n\t"
                     "movi v7.2d, #0\n\t"
                     "movi v16.2d, #0\n\t"
                     "movi v17.2d, #0\n\t"
                     "movi v18.2d, #0\n\t"
                     "movi v19.2d, #0\n\t"
                     "movi v20.2d, #0\n\t"
                     "movi v21.2d, #0\n\t"
                     "movi v22.2d, #0\n\t"
                     "movi v23.2d, #0\n\t"
                     "movi v24.2d, #0\n\t"
                     "movi v25.2d, #0\n\t"
                     "movi v26.2d, #0\n\t"
                     "movi v27.2d, #0\n\t"
                     "movi v28.2d, #0\n\t"
                     "movi v29.2d, #0\n\t"
                     "movi v30.2d, #0\n\t"
                     "movi v31.2d, #0"
                     :
                     :
                     : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18", "v19",
                       "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30",
                       "v31");
}

#else

static void registers_clear(void)
{
}

#endif

void anyseal_forget(void)
{
    stack_clear();
    registers_clear();
}
