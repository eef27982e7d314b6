/* In place of immintrin.h, in tests only: intrinsics of instruction sets that the machine lacks, which SIMD Everywhere
   makes of those that it has, and below the ones that version 0.7.4 of it does not know. */

#ifndef EMULATED_H
#define EMULATED_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

#define EMULATED static inline __attribute__((always_inline, unused))

EMULATED __m512 emulated_maskz_loadu_ps(__mmask16 mask, const float *p) {
    float x[16] = {0};
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1) x[i] = p[i];
    return _mm512_loadu_ps(x);
}
EMULATED void emulated_mask_storeu_ps(float *p, __mmask16 mask, __m512 a) {
    float x[16];
    _mm512_storeu_ps(x, a);
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1) p[i] = x[i];
}
EMULATED float emulated_reduce_add_ps(__m512 a) { /* in the order of the compilers */
    float x[16];
    _mm512_storeu_ps(x, a);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) x[i] += x[i + half];
    return x[0];
}
EMULATED __m512 emulated_cvtepi32_ps(__m512i a) {
    int32_t n[16];
    float x[16];
    _mm512_storeu_si512(n, a);
    for (int i = 0; i < 16; i++) x[i] = (float)n[i];
    return _mm512_loadu_ps(x);
}
EMULATED __m256i emulated_cvtepi32_epi16(__m512i a) {
    uint32_t n[16];
    uint16_t low[16];
    _mm512_storeu_si512(n, a);
    for (int i = 0; i < 16; i++) low[i] = (uint16_t)n[i];
    return _mm256_loadu_si256((const __m256i *)low);
}
EMULATED __m512i emulated_cvtepu16_epi32(__m256i a) {
    uint16_t n[16];
    uint32_t wide[16];
    _mm256_storeu_si256((__m256i *)n, a);
    for (int i = 0; i < 16; i++) wide[i] = n[i];
    return _mm512_loadu_si512(wide);
}
EMULATED __m512 emulated_cvtph_ps(__m256i a) {
    float x[16];
    _mm256_storeu_ps(x, _mm256_cvtph_ps(_mm256_castsi256_si128(a)));
    _mm256_storeu_ps(x + 8, _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1)));
    return _mm512_loadu_ps(x);
}
EMULATED __m256i emulated_cvtps_ph(__m512 a) { /* to nearest */
    float x[16];
    uint16_t h[16];
    _mm512_storeu_ps(x, a);
    for (int i = 0; i < 16; i += 8)
        _mm_storeu_si128((__m128i *)(h + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
    return _mm256_loadu_si256((const __m256i *)h);
}

/* For each pair the second, then the first, each rounded once; denormals are zeros. As Intel's manual has vdpbf16ps. */
EMULATED float emulated_normal(float x) { return fabsf(x) < FLT_MIN ? copysignf(0, x) : x; }
EMULATED float emulated_factor(uint16_t bf16) {
    uint32_t bits = (uint32_t)bf16 << 16;
    float x;
    memcpy(&x, &bits, 4);
    return emulated_normal(x);
}
EMULATED __m512 emulated_dpbf16_ps(__m512 sum, __m512i a, __m512i b) {
    float x[16];
    uint16_t u[32], v[32];
    _mm512_storeu_ps(x, sum);
    _mm512_storeu_si512(u, a), _mm512_storeu_si512(v, b);
    for (int i = 0; i < 16; i++)
        for (int second = 1; second >= 0; second--) {
            float left = emulated_factor(u[2 * i + second]), right = emulated_factor(v[2 * i + second]);
            x[i] = emulated_normal(fmaf(left, right, emulated_normal(x[i])));
        }
    return _mm512_loadu_ps(x);
}

#define _mm512_maskz_loadu_ps(mask, p) emulated_maskz_loadu_ps(mask, p)
#define _mm512_mask_storeu_ps(p, mask, a) emulated_mask_storeu_ps(p, mask, a)
#define _mm512_reduce_add_ps(a) emulated_reduce_add_ps(a)
#define _mm512_cvtepi32_ps(a) emulated_cvtepi32_ps(a)
#define _mm512_cvtepi32_epi16(a) emulated_cvtepi32_epi16(a)
#define _mm512_cvtepu16_epi32(a) emulated_cvtepu16_epi32(a)
#define _mm512_cvtph_ps(a) emulated_cvtph_ps(a)
#undef _mm512_cvtps_ph /* the compiler's own, where it is a macro */
#define _mm512_cvtps_ph(a, rounding) emulated_cvtps_ph(a)
#define _mm256_dpbusd_avx_epi32(sum, a, b) simde_mm256_dpbusd_epi32(sum, a, b)
#define _mm256_dpwssd_avx_epi32(sum, a, b) simde_mm256_dpwssd_epi32(sum, a, b)

#endif
