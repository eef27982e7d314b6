/* Matrix products with quantized weights. Activations become int8 in groups of 32 (int8_group.h). Per group: an exact
   integer dot product, then one f32 multiply and add for the scales, and one more for the zero of asymmetric schemes,
   which meets the sum of the dequantized activations.

   Few rows multiply the weights as they lie, at the speed of memory. Many rows share a panel: some row groups of weights,
   some of their columns, with a byte a code and f32 scales, which stays in the caches while the rows pass.

   A gated product has two results for each column of out: gate's are kept until up's are there, and neither is stored. */

#include "int8_group.h"
#include "rows16.h"
#include "vmath.h"

enum { NO_GATE = -1 };
enum { AHEAD = 4096 /* bytes of weights to prefetch */, MAX_BLOCK_ROWS = 384 };
enum { PANEL_ROWS = 4 /* of activations in a register tile */, PANEL_GROUPS = PANEL_COLUMNS == 1 ? 24 : 12 };

typedef struct {
    uint8_t codes[LINES * LINE];
    float scales[2][ROWS], zeros[ROWS];
} panel_group;

typedef struct {
    int dtype, bias_dtype, scheme, gate; /* gate: an activation, or NO_GATE */
    void *out;
    const void *a, *bias;
    const uint8_t *w;
    int64_t m, n, k, groups, out_row, a_row;
    int is_direct; /* weights are multiplied as they lie */
    int8_t *activations; /* tile by tile, then by group; the last tile of a panel may have rows of zeros */
    int64_t row_groups, group_blocks, block_groups, row_blocks, block_rows;
} job;

/* One group of a tile of activations, each part by row. */
typedef struct {
    int8_t *codes;   /* 32 */
    float *scales;   /* of a code */
    float *sums;     /* of what the codes stand for; asymmetric schemes */
    int32_t *starts; /* make up for what weight codes are too large by; those of second halves after all first ones */
} tile_group;

INLINE int kind_of(rows16_scheme s) { return s.is_nibbles ? NIBBLES : BYTES; }

/* Rows of the next tile of weights as they lie, of those left: the most there are tiles for, but 16 as twice 8. */
INLINE int tile_rows(int64_t left) {
    if (left >= TILE_ROWS && (TILE_ROWS < 12 || left < 16 || left >= 20)) return TILE_ROWS;
    return left >= 8 ? 8 : left >= 4 ? 4 : (int)left;
}

typedef struct {
    int64_t first, rows;
} row_tile;

INLINE row_tile tile_with(const job *j, int64_t m) {
    if (!j->is_direct) return (row_tile){m - m % PANEL_ROWS, PANEL_ROWS};
    row_tile tile = {0, tile_rows(j->m)};
    while (m >= tile.first + tile.rows) {
        tile.first += tile.rows;
        tile.rows = tile_rows(j->m - tile.first);
    }
    return tile;
}

enum { PLACE_BYTES = GROUP + 16 }; /* of one row and group: codes, scale, sum and two starts */

/* Group g of the `rows` rows from `first` on. */
INLINE tile_group tile_group_at(const job *j, int64_t first, int64_t rows, int64_t g) {
    tile_group group;
    group.codes = j->activations + (first * j->groups + g * rows) * PLACE_BYTES;
    group.scales = (float *)(group.codes + rows * GROUP);
    group.sums = group.scales + rows;
    group.starts = (int32_t *)(group.sums + rows);
    return group;
}

/* ---- activations ---- */

/* Sum of the first half. Over all of it, since compilers take shorter loops apart. */
INLINE int32_t first_half(const int8_t *codes) {
    static const int8_t in_first[GROUP] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    int32_t sum = 0;
    for (int i = 0; i < GROUP; i++) sum += codes[i] & in_first[i];
    return sum;
}

INLINE void quantize_row(const job *j, int64_t m, int32_t too_large, const int halves) {
    const row_tile tile = tile_with(j, m);
    const int64_t r = m - tile.first;
    for (int64_t g = 0; g < j->groups; g++) {
        float wide[GROUP];
        const float *x = tile_in(j->dtype, at(j->a, j->dtype, m * j->a_row + g * GROUP), GROUP, wide);
        const tile_group group = tile_group_at(j, tile.first, tile.rows, g);
        int8_t *codes = group.codes + r * GROUP;
        const int32_t sum = quantize_group(x, largest_of_group(x), codes, &group.scales[r]);
        const int32_t first = halves == 2 ? first_half(codes) : sum;
        group.sums[r] = group.scales[r] * (float)sum;
        group.starts[r] = -too_large * first;
        group.starts[tile.rows + r] = -too_large * (sum - first);
    }
}

/* A row that fills up the last tile. */
static void no_row(const job *j, int64_t m) {
    const row_tile tile = tile_with(j, m);
    const int64_t r = m - tile.first;
    for (int64_t g = 0; g < j->groups; g++) {
        const tile_group group = tile_group_at(j, tile.first, tile.rows, g);
        memset(group.codes + r * GROUP, 0, GROUP);
        group.scales[r] = group.sums[r] = 0;
        group.starts[r] = group.starts[tile.rows + r] = 0;
    }
}

static void quantize_rows(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    (void)scratch;
    const rows16_scheme s = rows16_of(j->scheme);
    const int32_t too_large = dots_bias(kind_of(s)) + (s.is_nibbles ? s.offset : 0);
    for (int64_t m = begin; m < end; m++) {
        if (m >= j->m) no_row(j, m);
        else if (rows16_halves(s) == 2) quantize_row(j, m, too_large, 2);
        else quantize_row(j, m, too_large, 1);
    }
}

/* ---- register tiles ---- */

/* `rows` rows m0.. of a times `columns` row groups of weights, groups [g0, g1) of which begin at `w`: one as it lies or,
   from_panel, those of a panel. values[c, m, 0..16), row groups MAX_BLOCK_ROWS rows apart, are added to what is there,
   except by group 0. */
INLINE void tile_of(const job *j, const int rows, const int columns, const int kind, const rows16_scheme s,
                    const int from_panel, int64_t m0, const void *w, int64_t g0, int64_t g1, float *values) {
    const int halves = rows16_halves(s), has_start = dots_bias(kind) || (s.is_nibbles && s.offset);
    v16 acc[TILE_ROWS][PANEL_COLUMNS];
#pragma GCC unroll 12
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 3
        for (int c = 0; c < columns; c++)
            acc[m][c] = g0 == 0 ? v16_zero() : v16_load(values + (c * MAX_BLOCK_ROWS + m) * ROWS);
    for (int64_t g = g0; g < g1; g++) {
        const panel_group *panel = (const panel_group *)w + (g - g0); /* of column 0 */
        const uint8_t *block = (const uint8_t *)w + rows16_block_at(s, g);
        if (!from_panel) /* bound by memory: the hardware's own prefetch stops at pages */
            for (int64_t at = 0; at < rows16_block_bytes(s); at += LINE) __builtin_prefetch(block + AHEAD + at);
        const tile_group a = tile_group_at(j, m0, rows, g);
#pragma GCC unroll 2
        for (int h = 0; h < halves; h++) {
            dots16 sums[TILE_ROWS][PANEL_COLUMNS];
            int32_t starts[TILE_ROWS];
#pragma GCC unroll 12
            for (int m = 0; m < rows; m++) {
                starts[m] = has_start ? a.starts[h * rows + m] : 0;
#pragma GCC unroll 3
                for (int c = 0; c < columns; c++) sums[m][c] = dots_start(starts[m]);
            }
#pragma GCC unroll 8
            for (int q = h * LINES / halves; q < (h + 1) * LINES / halves; q++) {
                line16 lines[PANEL_COLUMNS];
#pragma GCC unroll 3
                for (int c = 0; c < columns; c++)
                    lines[c] = from_panel ? line_load(panel[c * PANEL_GROUPS].codes + q * LINE)
                                          : rows16_line(s, block + rows16_codes_at(s), q);
#pragma GCC unroll 12
                for (int m = 0; m < rows; m++) dots_add(kind, sums[m], lines, columns, a.codes + m * GROUP + 4 * q);
            }
#pragma GCC unroll 3
            for (int c = 0; c < columns; c++) {
                v16 scale = from_panel ? v16_load(panel[c * PANEL_GROUPS].scales[h]) : rows16_scale(s, block, g, h);
#pragma GCC unroll 12
                for (int m = 0; m < rows; m++) {
                    const v16 by = v16_mul1(scale, a.scales[m]);
                    acc[m][c] = v16_fma(dots_done(kind, sums[m][c], starts[m]), by, acc[m][c]);
                }
            }
        }
        if (s.is_asymmetric) {
#pragma GCC unroll 3
            for (int c = 0; c < columns; c++) {
                v16 zero = from_panel ? v16_load(panel[c * PANEL_GROUPS].zeros) : rows16_zero(s, block, g);
#pragma GCC unroll 12
                for (int m = 0; m < rows; m++) acc[m][c] = v16_fma1(zero, a.sums[m], acc[m][c]);
            }
        }
    }
#pragma GCC unroll 12
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 3
        for (int c = 0; c < columns; c++) v16_store(values + (c * MAX_BLOCK_ROWS + m) * ROWS, acc[m][c]);
}

typedef void tile_function(const job *j, int rows, int64_t m0, const uint8_t *w, float *values);
typedef void panel_function(const job *j, int columns, int64_t m0, const panel_group *panel, int64_t g0, int64_t g1,
                            float *values);

#define TILE_CASE(rows, kind, scheme) \
    case rows: tile_of(j, (rows) <= TILE_ROWS ? (rows) : 1, 1, kind, scheme, 0, m0, w, 0, j->groups, values); return;

#define FEW_TILES(name, scheme, kind)                                                                              \
    static __attribute__((noinline)) void few_##name##_##kind(const job *j, int rows, int64_t m0, const uint8_t *w, \
                                                              float *values) {                                      \
        const rows16_scheme s = rows16_of(scheme);                                                                  \
        switch (rows) {                                                                                             \
            TILE_CASE(1, kind, s)                                                                                   \
            TILE_CASE(2, kind, s)                                                                                   \
            TILE_CASE(3, kind, s)                                                                                   \
            TILE_CASE(4, kind, s)                                                                                   \
            TILE_CASE(8, kind, s)                                                                                   \
            default: tile_of(j, TILE_ROWS, 1, kind, s, 0, m0, w, 0, j->groups, values); return;                     \
        }                                                                                                           \
    }
#define PANEL_TILES(name, scheme, kind)                                                                              \
    static __attribute__((noinline)) void many_##name##_##kind(const job *j, int columns, int64_t m0,                \
                                                               const panel_group *panel, int64_t g0, int64_t g1,     \
                                                               float *values) {                                      \
        const rows16_scheme s = rows16_of(scheme);                                                                   \
        if (PANEL_COLUMNS == 1 || columns == PANEL_COLUMNS)                                                          \
            tile_of(j, PANEL_ROWS, PANEL_COLUMNS, kind, s, 1, m0, panel, g0, g1, values);                            \
        else if (columns == 2) tile_of(j, PANEL_ROWS, 2, kind, s, 1, m0, panel, g0, g1, values);                     \
        else tile_of(j, PANEL_ROWS, 1, kind, s, 1, m0, panel, g0, g1, values);                                       \
    }

/* One function a form of weights: schemes that are stored alike share it, in a panel also where scales differ. */
FEW_TILES(q4_0, RTP_CPU_Q4_0, NIBBLES)
FEW_TILES(q4_1, RTP_CPU_Q4_1, NIBBLES)
FEW_TILES(q4_k, RTP_CPU_Q4_K, NIBBLES)
FEW_TILES(q8_0, RTP_CPU_Q8_0, BYTES)
FEW_TILES(q5_1, RTP_CPU_Q5_1, BYTES)
FEW_TILES(q5_k, RTP_CPU_Q5_K, BYTES)
FEW_TILES(q6_k, RTP_CPU_Q6_K, BYTES)
PANEL_TILES(symmetric, RTP_CPU_Q4_0, NIBBLES)
PANEL_TILES(asymmetric, RTP_CPU_Q4_1, NIBBLES)
PANEL_TILES(symmetric, RTP_CPU_Q8_0, BYTES)
PANEL_TILES(asymmetric, RTP_CPU_Q5_1, BYTES)
PANEL_TILES(halves, RTP_CPU_Q6_K, BYTES)

static tile_function *few_tiles(int scheme) {
    switch (scheme) {
        case RTP_CPU_Q4_0: return few_q4_0_NIBBLES;
        case RTP_CPU_Q4_1: return few_q4_1_NIBBLES;
        case RTP_CPU_Q4_K: return few_q4_k_NIBBLES;
        case RTP_CPU_Q5_1: return few_q5_1_BYTES;
        case RTP_CPU_Q5_K: return few_q5_k_BYTES;
        case RTP_CPU_Q6_K: return few_q6_k_BYTES;
        default: return few_q8_0_BYTES;
    }
}

static panel_function *panel_tiles(rows16_scheme s) {
    if (rows16_halves(s) == 2) return many_halves_BYTES;
    if (s.is_asymmetric) return s.is_nibbles ? many_asymmetric_NIBBLES : many_asymmetric_BYTES;
    return s.is_nibbles ? many_symmetric_NIBBLES : many_symmetric_BYTES;
}

/* ---- the loops over tiles ---- */

/* What is added to the outputs of a row group, and to their gates. */
typedef struct {
    float up[ROWS], gate[ROWS];
} biases;

static void load_biases(const job *j, int64_t n, biases *b) {
    memset(b, 0, sizeof *b);
    if (!j->bias) return;
    const int64_t width = min64(ROWS, j->n - n), up = j->gate == NO_GATE ? 0 : j->n;
    load_f32(j->bias_dtype, at(j->bias, j->bias_dtype, up + n), width, b->up);
    if (up) load_f32(j->bias_dtype, at(j->bias, j->bias_dtype, n), width, b->gate);
}

INLINE v16 gated(int kind, v16 gate, v16 up) {
    V16_EACH
        up.v[i_] = vf_mul(vf_activate(kind, gate.v[i_]), up.v[i_]);
    return up;
}

/* Outputs n.. of `rows` rows from m on. gates: what goes with values, of a gated product. */
static void store_rows(const job *j, int64_t m, int64_t rows, int64_t n, const float *values, const float *gates,
                       const biases *b) {
    const int64_t width = min64(ROWS, j->n - n);
    const int is_whole = width == ROWS && j->dtype == RTP_CPU_F32;
    const v16 added = v16_load(b->up), gate_added = v16_load(b->gate);
    for (int64_t r = 0; r < rows; r++) {
        float part[ROWS];
        void *out = at_mut(j->out, j->dtype, (m + r) * j->out_row + n);
        v16 y = v16_add(v16_load(values + r * ROWS), added);
        if (j->gate != NO_GATE) y = gated(j->gate, v16_add(v16_load(gates + r * ROWS), gate_added), y);
        v16_store(is_whole ? out : part, y);
        if (!is_whole) store_f32(j->dtype, out, width, part);
    }
}

/* Where gate's rows are as many row groups as up's. */
INLINE const uint8_t *up_of(const job *j, const uint8_t *w, int64_t group, int64_t bytes) {
    return w + (group + (j->gate == NO_GATE ? 0 : j->row_groups)) * bytes;
}

static void multiply_few(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    (void)scratch;
    const int64_t bytes = rows16_group_bytes(rows16_of(j->scheme), j->groups);
    tile_function *tile = few_tiles(j->scheme);
    for (int64_t group = begin; group < end; group++) {
        float values[TILE_ROWS * ROWS], gates[TILE_ROWS * ROWS];
        biases added;
        load_biases(j, group * ROWS, &added);
        for (int64_t m = 0; m < j->m;) {
            int rows = tile_rows(j->m - m);
            if (j->gate != NO_GATE) tile(j, rows, m, j->w + group * bytes, gates);
            tile(j, rows, m, up_of(j, j->w, group, bytes), values);
            store_rows(j, m, rows, group * ROWS, values, gates, &added);
            m += rows;
        }
    }
}

/* Groups [g0, g1) of the row group at w as a panel. */
INLINE void unpack_as(const rows16_scheme s, const uint8_t *w, int64_t g0, int64_t g1, panel_group *panel) {
    for (int64_t g = g0; g < g1; g++, panel++) {
        const uint8_t *block = w + rows16_block_at(s, g), *codes = block + rows16_codes_at(s);
        for (int64_t at = 0; at < rows16_block_bytes(s); at += LINE) __builtin_prefetch(block + AHEAD + at);
#pragma GCC unroll 8
        for (int q = 0; q < LINES; q++) line_store(panel->codes + q * LINE, rows16_line(s, codes, q));
        for (int h = 0; h < rows16_halves(s); h++) v16_store(panel->scales[h], rows16_scale(s, block, g, h));
        if (s.is_asymmetric) v16_store(panel->zeros, rows16_zero(s, block, g));
    }
}

static void unpack(int scheme, const uint8_t *w, int64_t g0, int64_t g1, panel_group *panel) {
#define UNPACK(scheme) unpack_as(rows16_of(scheme), w, g0, g1, panel)
    switch (scheme) { /* of schemes that are stored alike, one */
        case RTP_CPU_Q4_0: UNPACK(RTP_CPU_Q4_0); return;
        case RTP_CPU_Q4_1: UNPACK(RTP_CPU_Q4_1); return;
        case RTP_CPU_Q4_K: UNPACK(RTP_CPU_Q4_K); return;
        case RTP_CPU_Q5_1: UNPACK(RTP_CPU_Q5_1); return;
        case RTP_CPU_Q5_K: UNPACK(RTP_CPU_Q5_K); return;
        case RTP_CPU_Q6_K: UNPACK(RTP_CPU_Q6_K); return;
        default: UNPACK(RTP_CPU_Q8_0); return;
    }
#undef UNPACK
}

typedef struct {
    panel_group panel[PANEL_COLUMNS][PANEL_GROUPS];
    float values[PANEL_COLUMNS][MAX_BLOCK_ROWS * ROWS], gates[PANEL_COLUMNS][MAX_BLOCK_ROWS * ROWS];
    biases added[PANEL_COLUMNS];
} many_scratch;

/* Rows [m0, m0 + rows) times `columns` row groups from w on, into `values`. `is_last`: store each tile at once, so that
   the lines of the result come while the next one is multiplied. */
static void multiply_groups(const job *j, const uint8_t *w, int64_t group, int columns, int64_t m0, int64_t rows,
                            many_scratch *own, float *values, int is_last) {
    const rows16_scheme s = rows16_of(j->scheme);
    const int64_t pieces = div_up(j->groups, PANEL_GROUPS), bytes = rows16_group_bytes(s, j->groups);
    panel_function *tile = panel_tiles(s);
    for (int64_t piece = 0; piece < pieces; piece++) {
        int64_t g = piece * j->groups / pieces, g_end = (piece + 1) * j->groups / pieces;
        for (int c = 0; c < columns; c++) unpack(j->scheme, w + c * bytes, g, g_end, own->panel[c]);
        for (int64_t m = 0; m < rows; m += PANEL_ROWS) {
            tile(j, columns, m0 + m, own->panel[0], g, g_end, values + m * ROWS);
            for (int c = 0; c < columns && is_last && g_end == j->groups; c++)
                store_rows(j, m0 + m, min64(PANEL_ROWS, rows - m), (group + c) * ROWS, own->values[c] + m * ROWS,
                           own->gates[c] + m * ROWS, &own->added[c]);
        }
    }
}

/* Row groups of the next tiles, of those left: four are twice 2. */
INLINE int tile_columns(int64_t left) {
    return (int)(left == PANEL_COLUMNS + 1 && PANEL_COLUMNS == 3 ? 2 : min64(left, PANEL_COLUMNS));
}

static void multiply_many(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    many_scratch *own = scratch;
    const int64_t bytes = rows16_group_bytes(rows16_of(j->scheme), j->groups);
    for (int64_t u = begin; u < end; u++) {
        int64_t first = u % j->group_blocks * j->block_groups, last = min64(j->row_groups, first + j->block_groups);
        int64_t m0 = u / j->group_blocks * j->block_rows, rows = min64(j->block_rows, j->m - m0);
        for (int64_t group = first; group < last;) {
            const int columns = tile_columns(last - group);
            for (int c = 0; c < columns; c++) load_biases(j, (group + c) * ROWS, &own->added[c]);
            if (j->gate != NO_GATE)
                multiply_groups(j, j->w + group * bytes, group, columns, m0, rows, own, own->gates[0], 0);
            multiply_groups(j, up_of(j, j->w, group, bytes), group, columns, m0, rows, own, own->values[0], 1);
            group += columns;
        }
    }
}

static int multiply(rtp_cpu_device *device, int scheme, int gate, int dtype, void *out, const void *a,
                    const uint8_t *w, int bias_dtype, const void *bias, int64_t m, int64_t n, int64_t k,
                    int64_t out_row, int64_t a_row) {
    if (!is_scheme(scheme) || !is_dtype(dtype) || (bias && !is_dtype(bias_dtype)) ||
        m < 0 || n < 0 || k < 0 || k % rows16_unit(rows16_of(scheme)))
        return RTP_CPU_BAD_ARGUMENT;
    if (m == 0 || n == 0) return RTP_CPU_OK;
    rtp_pool *pool = device->pool;
    job j = {.dtype = dtype, .bias_dtype = bias_dtype, .scheme = scheme, .gate = gate};
    j.out = out, j.a = a, j.bias = bias, j.w = w;
    j.m = m, j.n = n, j.k = k, j.groups = k / GROUP, j.out_row = out_row, j.a_row = a_row;
    j.row_blocks = div_up(m, MAX_BLOCK_ROWS);
    j.block_rows = div_up(div_up(m, j.row_blocks), PANEL_ROWS) * PANEL_ROWS;
    j.is_direct = m <= DIRECT_ROWS || k == 0; /* without columns there is no panel, but the bias */
    const int64_t rows = j.is_direct ? m : div_up(m, PANEL_ROWS) * PANEL_ROWS;
    void *shared;
    int status = rtp_pool_reserve(pool, rows * j.groups * PLACE_BYTES, &shared,
                                  j.is_direct ? 0 : (int64_t)sizeof(many_scratch));
    if (status != RTP_CPU_OK) return status;
    j.activations = shared;
    rtp_pool_run(pool, quantize_rows, &j, rows, grain_for(3 * k));

    j.row_groups = div_up(n, ROWS);
    const int64_t products = gate == NO_GATE ? 1 : 2; /* of a row group of out */
    if (j.is_direct) {
        rtp_pool_run_over(pool, multiply_few, &j, j.row_groups, grain_for(products * m * ROWS * k), w,
                          rows16_group_bytes(rows16_of(scheme), j.groups));
        return RTP_CPU_OK;
    }
    /* One piece: at most 32 KB of weights, which stay in the second cache; enough pieces for all. */
    j.block_groups = max64(1, 32768 / max64(1, products * rows16_group_bytes(rows16_of(scheme), j.groups)));
    j.block_groups = min64(j.block_groups, div_up(j.row_groups, 4 * (int64_t)rtp_pool_threads(pool)));
    j.block_groups = div_up(j.block_groups, PANEL_COLUMNS) * PANEL_COLUMNS;
    j.group_blocks = div_up(j.row_groups, j.block_groups);
    int64_t cost = products * j.block_rows * j.block_groups * ROWS * k;
    rtp_pool_run(pool, multiply_many, &j, j.row_blocks * j.group_blocks, grain_for(cost));
    return RTP_CPU_OK;
}

int KERNEL(gemm_rows16)(rtp_cpu_device *device, int scheme, int dtype, void *out, const void *a, const uint8_t *w,
                        int bias_dtype, const void *bias, int64_t m, int64_t n, int64_t k, int64_t out_row,
                        int64_t a_row) {
    return multiply(device, scheme, NO_GATE, dtype, out, a, w, bias_dtype, bias, m, n, k, out_row, a_row);
}

int KERNEL(gated_gemm_rows16)(rtp_cpu_device *device, int scheme, int kind, int dtype, void *out, const void *a,
                              const uint8_t *w, int bias_dtype, const void *bias, int64_t m, int64_t n, int64_t k,
                              int64_t out_row, int64_t a_row) {
    if (kind < RTP_CPU_GELU || kind > RTP_CPU_TANH || n % ROWS) return RTP_CPU_BAD_ARGUMENT;
    return multiply(device, scheme, kind, dtype, out, a, w, bias_dtype, bias, m, n, k, out_row, a_row);
}
