/* Matrix products with bf16 weights in layout pairs16, accumulated in f32.

   Activations are packed tile by tile, pair by pair, as they are multiplied. Weights are multiplied as they lie, for
   any number of rows: few rows pass over them at the speed of memory, many in blocks, of which each finds its panel of
   weights in the second cache. */

#include "pairs16.h"

enum { PANEL = PAIR_TILE_N * PAIR_ROWS, BLOCK_ROWS = 48, AHEAD = 2048 /* elements of weights to prefetch */ };

typedef struct {
    int dtype, bias_dtype;
    void *out;
    const void *a, *bias;
    const uint16_t *w;
    factor *packed; /* [tiles, pairs, rows of the tile, 2] */
    int64_t m, n, k, pairs, out_row, a_row;
    int64_t tile_rows, block_rows, panels; /* tile_rows: of each tile but the last, which may have fewer */
} job;

static void pack_rows(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    (void)scratch;
    for (int64_t m = begin; m < end; m++) {
        const int64_t first = m - m % j->tile_rows, rows = min64(j->tile_rows, j->m - first);
        factor *to = j->packed + 2 * (first * j->pairs + m - first);
        for (int64_t k = 0; k < j->k; k += TILE) {
            const int64_t width = min64(TILE, j->k - k);
            float wide[TILE];
            factor part[TILE];
            const float *x = tile_in(j->dtype, at(j->a, j->dtype, m * j->a_row + k), width, wide);
            store_f32(FACTOR, part, width, x);
            if (width % 2) part[width] = 0;
            for (int64_t i = 0; i < width; i += 2, to += 2 * rows) memcpy(to, part + i, 2 * sizeof *to);
        }
    }
}

/* values[m, 0..16 cols) = rows of a tile times the row groups at w, w + w_step, ... */
INLINE void tile_of(const int rows, const int cols, const factor *a, int64_t pairs, const uint16_t *w, int64_t w_step,
                    float *values) {
    v16 acc[PAIR_TILE_M][PAIR_TILE_N];
#pragma GCC unroll 12
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 2
        for (int c = 0; c < cols; c++) acc[m][c] = v16_zero();
    for (int64_t p = 0; p < pairs; p++, a += 2 * rows, w += PAIR_LINE) {
#pragma GCC unroll 2
        for (int c = 0; c < cols; c++) __builtin_prefetch(w + c * w_step + AHEAD);
#pragma GCC unroll 2
        for (int s = 0; s < STEPS; s++) {
            step_line lines[PAIR_TILE_N];
#pragma GCC unroll 2
            for (int c = 0; c < cols; c++) lines[c] = step_load(w + c * w_step, s);
#pragma GCC unroll 12
            for (int m = 0; m < rows; m++)
#pragma GCC unroll 2
                for (int c = 0; c < cols; c++) acc[m][c] = step_add(acc[m][c], lines[c], a + 2 * m, s);
        }
    }
#pragma GCC unroll 12
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 2
        for (int c = 0; c < cols; c++) v16_store(values + m * PANEL + c * PAIR_ROWS, acc[m][c]);
}

static __attribute__((noinline)) void multiply_tile(int rows, int cols, const factor *a, int64_t pairs,
                                                    const uint16_t *w, int64_t w_step, float *values) {
#define TILE_CASE(m, n)                                                                                               \
    case 16 * (n) + (m):                                                                                              \
        if ((m) <= PAIR_TILE_M && (n) <= PAIR_TILE_N)                                                                 \
            tile_of((m) <= PAIR_TILE_M ? (m) : 1, (n) <= PAIR_TILE_N ? (n) : 1, a, pairs, w, w_step, values);         \
        return;
#define TILE_CASES(n)                                                                                                 \
    TILE_CASE(1, n) TILE_CASE(2, n) TILE_CASE(3, n) TILE_CASE(4, n) TILE_CASE(5, n) TILE_CASE(6, n)                   \
    TILE_CASE(7, n) TILE_CASE(8, n) TILE_CASE(9, n) TILE_CASE(10, n) TILE_CASE(11, n) TILE_CASE(12, n)
    switch (16 * cols + rows) {
        TILE_CASES(1)
        TILE_CASES(2)
        default: return;
    }
}

static void multiply_panels(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    const int64_t w_step = pairs16_group(j->k);
    (void)scratch;
    for (int64_t u = begin; u < end; u++) {
        const int64_t n = u % j->panels * PANEL, width = min64(PANEL, j->n - n);
        const int64_t first = u / j->panels * j->block_rows, last = min64(j->m, first + j->block_rows);
        for (int64_t m = first; m < last; m += j->tile_rows) {
            const int rows = (int)min64(j->tile_rows, last - m), cols = (int)div_up(width, PAIR_ROWS);
            float values[PAIR_TILE_M * PANEL];
            multiply_tile(rows, cols, j->packed + 2 * m * j->pairs, j->pairs, j->w + n / PAIR_ROWS * w_step, w_step,
                          values);
            for (int r = 0; r < rows; r++)
                store_biased(j->dtype, at_mut(j->out, j->dtype, (m + r) * j->out_row + n), j->bias_dtype,
                             j->bias ? at(j->bias, j->bias_dtype, n) : NULL, width, values + r * PANEL);
        }
    }
}

int KERNEL(gemm_pairs16)(rtp_cpu_device *device, int dtype, void *out, const void *a, const uint16_t *w,
                         int bias_dtype, const void *bias, int64_t m, int64_t n, int64_t k, int64_t out_row,
                         int64_t a_row) {
    if (!is_dtype(dtype) || (bias && !is_dtype(bias_dtype)) || m < 0 || n < 0 || k < 0) return RTP_CPU_BAD_ARGUMENT;
    if (m == 0 || n == 0) return RTP_CPU_OK;
    job j = {.dtype = dtype, .bias_dtype = bias_dtype, .out = out, .a = a, .bias = bias, .w = w};
    j.m = m, j.n = n, j.k = k, j.pairs = pairs_of(k), j.out_row = out_row, j.a_row = a_row;
    j.tile_rows = div_up(m, div_up(m, PAIR_TILE_M)); /* rather 8 and 8 rows than 12 and 4 */
    j.block_rows = BLOCK_ROWS / j.tile_rows * j.tile_rows;
    j.panels = div_up(n, PANEL);
    void *shared;
    int status = rtp_pool_reserve(device->pool, 2 * m * j.pairs * (int64_t)sizeof(factor), &shared, 0);
    if (status != RTP_CPU_OK) return status;
    j.packed = shared;
    rtp_pool_run(device->pool, pack_rows, &j, m, grain_for(k));
    rtp_pool_run_over(device->pool, multiply_panels, &j, div_up(m, j.block_rows) * j.panels,
                      grain_for(min64(m, j.block_rows) * PANEL * k), m <= j.block_rows ? w : NULL,
                      PANEL / PAIR_ROWS * pairs16_group(k) * (int64_t)sizeof *w);
    return RTP_CPU_OK;
}
