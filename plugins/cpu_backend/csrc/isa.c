/* Which instruction sets there are: built in, and supported by the processor and the system. */

#include "internal.h"

#if defined(RTP_CPU_HAVE_ARM) && defined(__linux__)
#include <sys/auxv.h>
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
#endif

#ifndef RTP_CPU_EMULATED
#define RTP_CPU_EMULATED 0 /* bits by ISA: in tests, those made of other instructions, see tests_c/emulated.h */
#endif

#if defined(RTP_CPU_HAVE_X86)

/* The answers of the compiler's run time include what the operating system saves. */
static int has_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
static int has_avxvnni(void) { return has_avx2() && __builtin_cpu_supports("avxvnni"); }
static int has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}
static int has_avx512bf16(void) { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

const struct rtp_cpu_kernels *rtp_kernels_of(int isa) {
    int is_emulated = isa >= 0 && isa < 31 && (RTP_CPU_EMULATED) >> isa & 1;
    switch (isa) {
        case RTP_CPU_PORTABLE: return rtp_cpu_kernels_portable();
        case RTP_CPU_AVX2: return has_avx2() ? rtp_cpu_kernels_avx2() : NULL;
        case RTP_CPU_AVXVNNI: return is_emulated || has_avxvnni() ? rtp_cpu_kernels_avxvnni() : NULL;
        case RTP_CPU_AVX512: return is_emulated || has_avx512() ? rtp_cpu_kernels_avx512() : NULL;
        case RTP_CPU_AVX512BF16: return is_emulated || has_avx512bf16() ? rtp_cpu_kernels_avx512bf16() : NULL;
        default: return NULL;
    }
}

#elif defined(RTP_CPU_HAVE_ARM)

static int has_dotprod(void) {
#if defined(__ARM_FEATURE_DOTPROD) /* what every file is compiled for */
    return 1;
#elif defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
    return 0;
#endif
}

const struct rtp_cpu_kernels *rtp_kernels_of(int isa) {
    switch (isa) {
        case RTP_CPU_PORTABLE: return rtp_cpu_kernels_portable();
        case RTP_CPU_DOTPROD: return has_dotprod() ? rtp_cpu_kernels_dotprod() : NULL;
        default: return NULL;
    }
}

#else

const struct rtp_cpu_kernels *rtp_kernels_of(int isa) {
    return isa == RTP_CPU_PORTABLE ? rtp_cpu_kernels_portable() : NULL;
}

#endif
