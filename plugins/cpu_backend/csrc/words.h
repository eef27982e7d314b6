/* Pairs of int16 codes, one pair in each lane of a vector, and their dot products, which are exact in int32.

   Where an ISA multiplies pairs in one step a product takes half the instructions of one in f32: HAVE_WORDS says so. */

#ifndef RTP_CPU_WORDS_H
#define RTP_CPU_WORDS_H

#include "gemm_tile.h"

#if defined(RTP_ISA_AVX512) || defined(RTP_ISA_AVX2)
#define HAVE_WORDS 1

#if defined(RTP_ISA_AVX512)

typedef __m512i words;

INLINE words words_zero(void) { return _mm512_setzero_si512(); }
INLINE words words_load(const int32_t *p) { return _mm512_loadu_si512(p); }
INLINE void words_store(int32_t *p, words w) { _mm512_storeu_si512(p, w); }
INLINE words words_set1(int32_t pair) { return _mm512_set1_epi32(pair); }
/* Both rounded to nearest even; they fit. */
INLINE words words_of(vf first, vf second) {
    __m512i low = _mm512_cvtps_epi32(first), high = _mm512_slli_epi32(_mm512_cvtps_epi32(second), 16);
    return _mm512_mask_blend_epi16(0xaaaaaaaau, low, high);
}
INLINE words words_larger(words a, vf x) {
    return _mm512_max_epu32(a, _mm512_castps_si512(_mm512_abs_ps(x)));
}
INLINE uint32_t words_largest(words a) { return _mm512_reduce_max_epu32(a); }
INLINE vf words_float(words sum) { return _mm512_cvtepi32_ps(sum); }

#else

typedef __m256i words;

INLINE words words_zero(void) { return _mm256_setzero_si256(); }
INLINE words words_load(const int32_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE void words_store(int32_t *p, words w) { _mm256_storeu_si256((__m256i *)p, w); }
INLINE words words_set1(int32_t pair) { return _mm256_set1_epi32(pair); }
INLINE words words_of(vf first, vf second) {
    __m256i low = _mm256_cvtps_epi32(first), high = _mm256_slli_epi32(_mm256_cvtps_epi32(second), 16);
    return _mm256_blend_epi16(low, high, 0xaa);
}
INLINE words words_larger(words a, vf x) { return _mm256_max_epu32(a, _mm256_castps_si256(vf_abs(x))); }
INLINE uint32_t words_largest(words a) {
    __m128i x = _mm_max_epu32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    x = _mm_max_epu32(x, _mm_shuffle_epi32(x, 0x4e));
    return (uint32_t)_mm_cvtsi128_si32(_mm_max_epu32(x, _mm_shuffle_epi32(x, 0xb1)));
}
INLINE vf words_float(words sum) { return _mm256_cvtepi32_ps(sum); }

#endif

/* sum + a . b, in place: left to itself the compiler copies running sums about. */
INLINE words words_add(words sum, words a, words b) {
#if defined(RTP_ISA_EMULATED) && defined(RTP_ISA_AVX512)
    return _mm512_dpwssd_epi32(sum, a, b);
#elif defined(RTP_ISA_EMULATED)
    return _mm256_dpwssd_avx_epi32(sum, a, b);
#elif defined(RTP_ISA_AVX512)
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
#elif defined(RTP_ISA_AVXVNNI)
    __asm__("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
    return sum;
#else
    words products = _mm256_madd_epi16(a, b);
    __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(products));
    return sum;
#endif
}

INLINE void words_tile_of(const int rows, int64_t pairs, const int32_t *a, int64_t a_row, int64_t a_pair,
                          const int32_t *b, int64_t b_row, const float *factor, const float *keep, float *c,
                          int64_t c_row) {
    words acc[MR][2];
#pragma GCC unroll 12
    for (int m = 0; m < rows; m++) acc[m][0] = acc[m][1] = words_zero();
    for (int64_t i = 0; i < pairs; i++, a += a_pair, b += b_row) {
        words b0 = words_load(b), b1 = words_load(b + VF);
#pragma GCC unroll 12
        for (int m = 0; m < rows; m++) {
            words x = words_set1(a[m * a_row]);
            acc[m][0] = words_add(acc[m][0], x, b0);
            acc[m][1] = words_add(acc[m][1], x, b1);
        }
    }
#pragma GCC unroll 12
    for (int m = 0; m < rows; m++) {
        for (int h = 0; h < 2; h++) {
            float *to = c + m * c_row + h * VF;
            vf sum = vf_mul(words_float(acc[m][h]), vf_set1(factor[m]));
            vf_store(to, keep ? vf_fma(vf_load(to), vf_set1(keep[m]), sum) : sum);
        }
    }
}

/* c[m, 0..NR) = factor[m] * sum_i a[m, i] . b[i, 0..NR), and where there is `keep`, + keep[m] * c[m, 0..NR), for
   m < rows <= MR. The sums fit into int32. */
static __attribute__((unused, noinline)) void words_tile(int rows, int64_t pairs, const int32_t *a, int64_t a_row,
                                                         int64_t a_pair, const int32_t *b, int64_t b_row,
                                                         const float *factor, const float *keep, float *c,
                                                         int64_t c_row) {
#define RTP_CASE(n) \
    case n: words_tile_of(n <= MR ? n : 1, pairs, a, a_row, a_pair, b, b_row, factor, keep, c, c_row); return;
    switch (rows) {
        RTP_CASE(1)
        RTP_CASE(2) RTP_CASE(3) RTP_CASE(4) RTP_CASE(5) RTP_CASE(6) RTP_CASE(7) RTP_CASE(8) RTP_CASE(9) RTP_CASE(10)
            RTP_CASE(11) RTP_CASE(12) default : return;
    }
#undef RTP_CASE
}

#endif

#endif
