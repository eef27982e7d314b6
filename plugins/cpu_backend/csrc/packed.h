/* Activations in int8 as the products of linear.c read them: TILE_M rows side by side, one group of 32 columns after the
   other, with what makes up for dots_bias and with a scale a row and group.

   A number FAR times the mean magnitude of its row would take the steps of its whole group: a few of them, often in the
   same columns, carry much of what encoders say. They stay floats, in a list for each row.
   Source: LLM.int8(), arXiv:2208.07339, where whole columns stay floats; here each row has its own. */

#ifndef RTP_CPU_PACKED_H
#define RTP_CPU_PACKED_H

#include "int8_group.h"

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

/* One group of a row, the largest magnitude of it in hand. */
INLINE void pack_group(const packed_rows *p, int64_t row, int64_t g, const float *x, float largest) {
    packed_group *to = p->tiles + row / TILE_M * p->groups + g;
    const int64_t lane = row % TILE_M;
    int8_t codes[GROUP];
    const int32_t sum = quantize_group(x, largest, codes, &to->scales[lane]);
    for (int q = 0; q < LINES; q++) memcpy(to->codes[q][lane], codes + 4 * q, 4);
    to->starts[lane] = -dots_bias(BYTES) * sum;
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
