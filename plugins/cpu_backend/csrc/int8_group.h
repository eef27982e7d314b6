/* A group of 32 numbers as int8: scale amax / 127, codes to nearest even. */

#ifndef RTP_CPU_INT8_GROUP_H
#define RTP_CPU_INT8_GROUP_H

#include <math.h>

#include "dots.h"

/* The largest magnitude of a group, found on the bits, so that NaN and inf are seen too. */
INLINE float largest_of_group(const float *x) {
    uint32_t top = 0;
#if defined(RTP_ISA_AVX512)
    const __m512i size = _mm512_set1_epi32(0x7fffffff);
    __m512i low = _mm512_and_si512(_mm512_loadu_si512(x), size), high = _mm512_and_si512(_mm512_loadu_si512(x + 16), size);
    top = _mm512_reduce_max_epu32(_mm512_max_epu32(low, high));
#else
    for (int i = 0; i < GROUP; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        bits &= 0x7fffffffu;
        top = bits > top ? bits : top;
    }
#endif
    float largest;
    memcpy(&largest, &top, 4);
    return largest;
}

/* Whole numbers nearest to x * inverse, all within int8, and their sum. */
INLINE int32_t round_group(const float *x, float inverse, int8_t *codes) {
#if defined(RTP_ISA_AVX512)
    __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(inverse)));
    __m512i high = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16), _mm512_set1_ps(inverse)));
    _mm_storeu_si128((__m128i *)codes, _mm512_cvtepi32_epi8(low));
    _mm_storeu_si128((__m128i *)(codes + 16), _mm512_cvtepi32_epi8(high));
    return _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
#else
    int32_t sum = 0;
    for (int i = 0; i < GROUP; i++) {
        float shifted = x[i] * inverse + 12582912.0f; /* 1.5 * 2^23: the low byte is the nearest whole number */
        int32_t bits;
        memcpy(&bits, &shifted, 4);
        codes[i] = (int8_t)bits;
    }
    for (int i = 0; i < GROUP; i++) sum += codes[i];
    return sum;
#endif
}

/* Codes and scale of a group whose largest magnitude is `largest`; the sum of the codes. The scale is NaN where that is
   not finite, and 0 where 127 / largest would overflow. */
INLINE int32_t quantize_group(const float *x, float largest, int8_t *codes, float *scale) {
    if (largest >= 1e-30f && largest < INFINITY) {
        *scale = largest / 127.0f;
        return round_group(x, 127.0f / largest, codes);
    }
    memset(codes, 0, GROUP);
    *scale = largest < INFINITY ? 0 : NAN;
    return 0;
}

#endif
