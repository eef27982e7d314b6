/* Activations in int8 as the products of linear.c read them: TILE_M rows side by side, one group of 32 columns after the
   other, with what makes up for dots_bias and with a scale a row and group.

   A number FAR times the mean magnitude of its row would take the steps of its whole group: a few of them, often in the
   same columns, carry much of what encoders say. They stay floats, in a list for each row.
   Source: LLM.int8(), arXiv:2208.07339, where whole columns stay floats; here each row has its own. */

#ifndef RTP_CPU_PACKED_H
#define RTP_CPU_PACKED_H

#include <math.h>

#include "dots.h"

#if defined(RTP_ISA_AVX512)
enum { TILE_M = 6, TILE_N = 2 }; /* rows of activations, and times 16 rows of weights, in one register tile */
#else
enum { TILE_M = TILE_ROWS, TILE_N = 1 };
#endif
enum { MOST_TILE_M = 6, FAR = 8 };

typedef struct {
    int8_t codes[LINES][TILE_M][4];
    int32_t starts[TILE_M];
    float scales[TILE_M];
} packed_group;

typedef struct {
    uint32_t column;
    float value;
} outlier;

typedef struct {
    packed_group *tiles; /* [tiles, groups] */
    int32_t *counts;     /* [rows]: outliers of each, or NULL */
    outlier *outliers;   /* [rows, most] */
    int64_t rows, groups, most;
} packed_rows;

/* No more numbers of a row are FAR times their mean. */
INLINE int64_t most_outliers(int64_t k) { return k / FAR; }

/* Bytes of rows [rows, k], on any instruction set. */
INLINE int64_t packed_bytes(int64_t rows, int64_t k, int has_outliers) {
    int64_t bytes = (rows + MOST_TILE_M - 1) * (k / GROUP) * (GROUP + 8);
    if (has_outliers) bytes += rows * (4 + most_outliers(k) * (int64_t)sizeof(outlier));
    return div_up(bytes, LINE) * LINE;
}

/* In memory of packed_bytes bytes, aligned to 4. */
INLINE packed_rows packed_at(void *memory, int64_t rows, int64_t k, int has_outliers) {
    packed_rows p = {.tiles = memory, .rows = rows, .groups = k / GROUP};
    if (!has_outliers) return p;
    p.most = most_outliers(k);
    p.outliers = (outlier *)(p.tiles + div_up(rows, TILE_M) * p.groups);
    p.counts = (int32_t *)(p.outliers + rows * p.most);
    return p;
}

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

/* Codes of one group, to nearest even, and the scale: `largest` / 127, NaN where that is not finite. */
INLINE void pack_group(const packed_rows *p, int64_t row, int64_t g, const float *x, float largest) {
    packed_group *to = p->tiles + row / TILE_M * p->groups + g;
    const int64_t lane = row % TILE_M;
    int8_t codes[GROUP] = {0};
    int32_t sum = 0;
    float scale = largest < INFINITY ? 0 : NAN;
    if (largest >= 1e-30f && largest < INFINITY) { /* of less, 127 / largest overflows */
        scale = largest * (1.0f / 127.0f);
        sum = round_group(x, 127.0f / largest, codes);
    }
    for (int q = 0; q < LINES; q++) memcpy(to->codes[q][lane], codes + 4 * q, 4);
    to->starts[lane] = -dots_bias(BYTES) * sum;
    to->scales[lane] = scale;
}

/* One row, its outliers apart. */
INLINE void pack_row(const packed_rows *p, int64_t row, const float *x) {
    const int64_t k = p->groups * GROUP;
    outlier *list = p->outliers + row * p->most;
    int32_t count = 0;
    vf total = vf_zero();
    for (int64_t i = 0; i < k; i += VF) total = vf_add(total, vf_abs(vf_load(x + i)));
    const float limit = FAR * vf_sum(total) / (float)k;
    for (int64_t g = 0; g < p->groups; g++, x += GROUP) {
        float near[GROUP], largest = largest_of_group(x);
        if (largest > limit && largest < INFINITY) {
            for (int i = 0; i < GROUP; i++) {
                const int is_far = fabsf(x[i]) > limit && count < p->most; /* rounding may call one more far */
                if (is_far) list[count++] = (outlier){(uint32_t)(g * GROUP + i), x[i]};
                near[i] = is_far ? 0 : x[i];
            }
            pack_group(p, row, g, near, largest_of_group(near));
        } else {
            pack_group(p, row, g, x, largest);
        }
    }
    p->counts[row] = count;
}

#endif
