/* Products of packed rows (packed.h) with weights q8_0 in layout rows16, and what comes after a product while its numbers
   are still in the first cache: bias, activation, and packing for the next one.

   Weights are read as they lie, 32 rows of them at a time, which stay in the first or second cache while a block of
   activations passes tile by tile. Per group: an exact integer dot product, then one f32 multiply and add for the scales,
   as in gemm_quant.c. */

#include "linear.h"

#include "rows16.h"
#include "vmath.h"

enum { PANEL = 2 * ROWS, BLOCK_ROWS = 96, AHEAD = 4096 /* bytes of weights to prefetch */ };

#define Q8 rows16_of(RTP_CPU_Q8_0)

/* values[m, 0..16 cols) += rows of a tile with the row groups at w, w + w_step, ... */
INLINE void tile_of(const int rows, const int cols, const packed_group *a, int64_t groups, const uint8_t *w,
                    int64_t w_step, float *values) {
    v16 acc[TILE_M][TILE_N];
#pragma GCC unroll 6
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 2
        for (int c = 0; c < cols; c++) acc[m][c] = v16_load(values + m * PANEL + c * ROWS);
    for (int64_t g = 0; g < groups; g++, a++, w += rows16_block_bytes(Q8)) {
        dots16 sums[TILE_M][TILE_N];
#pragma GCC unroll 6
        for (int m = 0; m < rows; m++)
#pragma GCC unroll 2
            for (int c = 0; c < cols; c++) sums[m][c] = dots_start(a->starts[m]);
#pragma GCC unroll 8
        for (int q = 0; q < LINES; q++) {
            line16 lines[TILE_N];
#pragma GCC unroll 2
            for (int c = 0; c < cols; c++) lines[c] = line_load(w + c * w_step + rows16_codes_at(Q8) + q * LINE);
#pragma GCC unroll 6
            for (int m = 0; m < rows; m++) dots_add(BYTES, sums[m], lines, cols, a->codes[q][m]);
        }
#pragma GCC unroll 2
        for (int c = 0; c < cols; c++) {
            v16 scale = v16_load_f16((const uint16_t *)(w + c * w_step));
#pragma GCC unroll 6
            for (int m = 0; m < rows; m++)
                acc[m][c] = v16_fma(dots_done(BYTES, sums[m][c], a->starts[m]), v16_mul1(scale, a->scales[m]), acc[m][c]);
        }
    }
#pragma GCC unroll 6
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 2
        for (int c = 0; c < cols; c++) v16_store(values + m * PANEL + c * ROWS, acc[m][c]);
}

typedef void tile_function(const packed_group *a, int64_t groups, const uint8_t *w, int64_t w_step, float *values);

#define TILE(rows, cols)                                                                                          \
    static __attribute__((noinline)) void tile_##rows##x##cols(const packed_group *a, int64_t groups,             \
                                                               const uint8_t *w, int64_t w_step, float *values) { \
        tile_of((rows) <= TILE_M ? (rows) : 1, (cols) <= TILE_N ? (cols) : 1, a, groups, w, w_step, values);      \
    }
#define TILES(cols) TILE(1, cols) TILE(2, cols) TILE(3, cols) TILE(4, cols) TILE(5, cols) TILE(6, cols)
TILES(1)
TILES(2)
#define BY_ROWS(cols) {tile_1x##cols, tile_2x##cols, tile_3x##cols, tile_4x##cols, tile_5x##cols, tile_6x##cols}
static tile_function *const tiles[2][MOST_TILE_M] = {BY_ROWS(1), BY_ROWS(2)};

/* values[0..16) += x times a column of the row group at w. */
INLINE void add_column(const uint8_t *w, uint32_t column, float x, float *values) {
    const uint8_t *block = w + rows16_block_at(Q8, column / GROUP);
    uint32_t line[ROWS]; /* four columns each */
    float codes[ROWS];
    memcpy(line, block + rows16_codes_at(Q8) + column % GROUP / 4 * LINE, LINE);
    for (int r = 0; r < ROWS; r++) codes[r] = (float)((int32_t)(line[r] >> column % 4 * 8 & 255) - 128);
    v16 scale = v16_mul1(v16_load_f16((const uint16_t *)block), x);
    v16_store(values, v16_fma(v16_load(codes), scale, v16_load(values)));
}

INLINE void activate(const int kind, float *x) {
    for (int i = 0; i < PANEL; i += VF)
        vf_store(x + i, kind == RTP_CPU_GELU ? vf_gelu_near(vf_load(x + i)) : vf_activate(kind, vf_load(x + i)));
}

static void activate_row(int kind, float *x) {
    switch (kind) { /* one loop per kind, so that none decides anything inside */
        case RTP_CPU_GELU: activate(RTP_CPU_GELU, x); return;
        case RTP_CPU_GELU_TANH: activate(RTP_CPU_GELU_TANH, x); return;
        case RTP_CPU_RELU: activate(RTP_CPU_RELU, x); return;
        case RTP_CPU_SIGMOID: activate(RTP_CPU_SIGMOID, x); return;
        case RTP_CPU_SILU: activate(RTP_CPU_SILU, x); return;
        default: activate(RTP_CPU_TANH, x); return;
    }
}

/* The finished sums of a row, of outputs n.. */
INLINE void finish_row(const linear_job *j, int64_t row, int64_t n, float *values) {
    const int64_t width = min64(PANEL, j->layer->n - n);
    const float *bias = j->layer->bias;
    float *out = j->packed ? values : j->out + row * j->out_row + n;
    FOR_VECTORS (width) STORE(out, bias ? vf_add(LOAD(values), LOAD(bias + n)) : LOAD(values));
    if (!j->packed) return;
    activate_row(j->activation, values);
    pack_group(j->packed, row, n / GROUP, values, largest_of_group(values));
}

/* Outputs n.. of rows [first, last). */
static void multiply_panel(const linear_job *j, int64_t n, int64_t first, int64_t last) {
    const packed_rows *a = j->a;
    const int64_t w_step = rows16_group_bytes(Q8, a->groups);
    const uint8_t *w = j->layer->w + n / ROWS * w_step;
    const int halves = j->layer->n - n > ROWS ? 2 : 1;
    for (int64_t m = first; m < last; m += TILE_M) {
        const int rows = (int)min64(TILE_M, last - m);
        float values[TILE_M * PANEL];
        for (int i = 0; i < TILE_M * PANEL; i += VF) vf_store(values + i, vf_zero());
        for (int r = 0; a->counts && r < rows; r++) {
            const outlier *o = a->outliers + (m + r) * a->most;
            for (int32_t i = 0; i < a->counts[m + r]; i++)
                for (int h = 0; h < halves; h++)
                    add_column(w + h * w_step, o[i].column, o[i].value, values + r * PANEL + h * ROWS);
        }
        for (int h = 0; h < halves; h += TILE_N)
            tiles[min64(TILE_N, halves - h) - 1][rows - 1](a->tiles + m / TILE_M * a->groups, a->groups, w + h * w_step,
                                                           w_step, values + h * ROWS);
        for (int r = 0; r < rows; r++) finish_row(j, m + r, n, values + r * PANEL);
    }
}

static void multiply_panels(void *argument, int64_t begin, int64_t end, void *scratch) {
    const linear_job *j = argument;
    const int64_t panels = div_up(j->layer->n, PANEL);
    (void)scratch;
    for (int64_t u = begin; u < end; u++) {
        int64_t first = u / panels * BLOCK_ROWS;
        multiply_panel(j, u % panels * PANEL, first, min64(j->a->rows, first + BLOCK_ROWS));
    }
}

void KERNEL(linear)(rtp_pool *pool, const linear_job *job) {
    linear_job j = *job;
    int64_t items = div_up(j.a->rows, BLOCK_ROWS) * div_up(j.layer->n, PANEL);
    rtp_pool_run(pool, multiply_panels, &j, items, grain_for(min64(j.a->rows, BLOCK_ROWS) * PANEL * j.layer->k));
}
