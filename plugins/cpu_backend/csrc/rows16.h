/* Layout rows16 of a quantized weight [n, k]: 16 rows side by side, so that one 64-byte load holds 4 neighbours
   along K of each. Blocks go by row group, then by K group; rows are padded to 16 with scale and zero 0.

     block = 16 f16 scales | 16 f16 zeros (asymmetric schemes) | codes
     8 bits: 8 lines of 64 bytes; line q, byte 4r + i is the code of row r at k = 4q + i, plus 128
     4 bits: 4 lines; byte 4r + i of line q has k = 4q + i in its low and k = 16 + 4q + i in its high nibble

   value = scale * (code - offset) + zero. Every code is unsigned here. */

#ifndef RTP_CPU_ROWS16_H
#define RTP_CPU_ROWS16_H

#include "tile.h"

enum { GROUP = 32, ROWS = 16 };

typedef struct {
    int bits, is_asymmetric, offset; /* offset: the unsigned code of 0 in symmetric schemes */
    int64_t codes_at, block_bytes;
} rows16_scheme;

INLINE int is_scheme(int scheme) { return scheme >= RTP_CPU_Q4_0 && scheme <= RTP_CPU_Q8_0; }

INLINE rows16_scheme rows16_of(int scheme) {
    switch (scheme) {
        case RTP_CPU_Q4_0: return (rows16_scheme){4, 0, 8, 32, 32 + 256};
        case RTP_CPU_Q4_1: return (rows16_scheme){4, 1, 0, 64, 64 + 256};
        default: return (rows16_scheme){8, 0, 128, 32, 32 + 512};
    }
}

/* ---- the dot product of a group: 16 rows of codes with 32 int8 activations, exact in int32 ----

   `start` is added in every lane: -offset * (sum of the activations) makes symmetric schemes exact integers. */

#if defined(RTP_ISA_AVX512)

typedef struct {
    __m512i line[8];
} codes16;

INLINE void codes_load(codes16 *c, const int bits, const uint8_t *p) {
    __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 8
    for (int q = 0; q < bits; q++) {
        __m512i x = _mm512_loadu_si512(p + 64 * q);
        if (bits == 8) {
            c->line[q] = x;
        } else {
            c->line[q] = _mm512_and_si512(x, low);
            c->line[q + 4] = _mm512_and_si512(_mm512_srli_epi16(x, 4), low);
        }
    }
}

INLINE v16 codes_dot(const codes16 *c, const int bits, const int8_t *a, int32_t start) {
    __m512i sum = _mm512_set1_epi32(start);
    (void)bits;
#pragma GCC unroll 8
    for (int q = 0; q < 8; q++) {
        int32_t four;
        memcpy(&four, a + 4 * q, 4);
        sum = _mm512_dpbusd_epi32(sum, c->line[q], _mm512_set1_epi32(four));
    }
    return (v16){{_mm512_cvtepi32_ps(sum)}};
}

#elif defined(RTP_ISA_AVX2)

typedef struct {
    __m256i line[8][2];
} codes16;

INLINE void codes_load(codes16 *c, const int bits, const uint8_t *p) {
    __m256i low = _mm256_set1_epi8(15), flip = _mm256_set1_epi8((char)-128);
#pragma GCC unroll 8
    for (int q = 0; q < bits; q++) {
        for (int h = 0; h < 2; h++) {
            __m256i x = _mm256_loadu_si256((const __m256i *)(p + 64 * q + 32 * h));
            if (bits == 8) {
                c->line[q][h] = _mm256_xor_si256(x, flip); /* signed again, so `start` is not needed */
            } else {
                c->line[q][h] = _mm256_and_si256(x, low);
                c->line[q + 4][h] = _mm256_and_si256(_mm256_srli_epi16(x, 4), low);
            }
        }
    }
}

/* 4 bits: 16 products of at most 15 * 127 fit in int16. 8 bits: |code| * (a with the code's sign), two of at
   most 128 * 127 fit. Neither saturates. */
INLINE v16 codes_dot(const codes16 *c, const int bits, const int8_t *a, int32_t start) {
    __m256i ones = _mm256_set1_epi16(1), sum[2];
    for (int h = 0; h < 2; h++) sum[h] = bits == 8 ? _mm256_setzero_si256() : _mm256_set1_epi32(start);
    __m256i pairs[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
#pragma GCC unroll 8
    for (int q = 0; q < 8; q++) {
        int32_t four;
        memcpy(&four, a + 4 * q, 4);
        __m256i x = _mm256_set1_epi32(four);
        for (int h = 0; h < 2; h++) {
            __m256i w = c->line[q][h];
            if (bits == 8) {
                __m256i p = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
                sum[h] = _mm256_add_epi32(sum[h], _mm256_madd_epi16(p, ones));
            } else {
                pairs[h] = _mm256_add_epi16(pairs[h], _mm256_maddubs_epi16(w, x));
            }
        }
    }
    v16 y;
    for (int h = 0; h < 2; h++) {
        if (bits == 4) sum[h] = _mm256_add_epi32(sum[h], _mm256_madd_epi16(pairs[h], ones));
        y.v[h] = _mm256_cvtepi32_ps(sum[h]);
    }
    return y;
}

#else

typedef struct {
    uint8_t line[8][64];
} codes16;

INLINE void codes_load(codes16 *c, const int bits, const uint8_t *p) {
    for (int q = 0; q < bits; q++) {
        for (int i = 0; i < 64; i++) {
            c->line[q][i] = bits == 8 ? p[64 * q + i] : p[64 * q + i] & 15;
            if (bits == 4) c->line[q + 4][i] = p[64 * q + i] >> 4;
        }
    }
}

INLINE v16 codes_dot(const codes16 *c, const int bits, const int8_t *a, int32_t start) {
    int32_t sum[16];
    (void)bits;
    for (int r = 0; r < 16; r++) sum[r] = start;
    for (int q = 0; q < 8; q++)
        for (int r = 0; r < 16; r++)
            for (int i = 0; i < 4; i++) sum[r] += (int32_t)c->line[q][4 * r + i] * a[4 * q + i];
    v16 y;
    for (int r = 0; r < 16; r++) y.v[r / VF][r % VF] = (float)sum[r];
    return y;
}

#endif

#endif
