/* Float matrix products. Few rows: dot products straight from b, at the speed of memory. Many rows: panels of NR
   columns of b are packed once per task and multiplied in register tiles. Accumulates in f32 over the whole of K. */

#include "gemm_tile.h"

enum { FEW_ROWS = 4 };

typedef struct {
    int dtype, b_dtype, bias_dtype, trans_b;
    void *out;
    const void *a, *b, *bias;
    const float *a_f32; /* a converted, [batch, m, k], or NULL where a is f32 */
    int64_t m, n, k, out_row, a_row, b_row;
    int64_t batch, panels, row_blocks, block_rows;
    const int64_t *offsets;
} job;

/* A of product p as f32, and its row stride. */
static const float *rows_of(const job *j, int64_t p, int64_t *row) {
    *row = j->a_f32 ? j->k : j->a_row;
    if (j->a_f32) return j->a_f32 + p * j->m * j->k;
    return (const float *)j->a + (j->offsets ? j->offsets[3 * p + 1] : 0);
}

static void store_row(const job *j, int64_t p, int64_t m, int64_t n, int64_t width, float *values) {
    int64_t place = (j->offsets ? j->offsets[3 * p] : 0) + m * j->out_row + n;
    const void *bias = j->bias ? at(j->bias, j->bias_dtype, n) : NULL;
    store_biased(j->dtype, at_mut(j->out, j->dtype, place), j->bias_dtype, bias, width, values);
}

/* The products of one row of b, f32 or not, with one row of a. */
INLINE float dot_row(const job *j, const float *a, const void *b) {
    if (j->b_dtype == RTP_CPU_F32) return dot_f32(a, b, j->k);
    vf s0 = vf_zero(), s1 = s0;
    const uint16_t *h = b;
    int64_t i = 0;
    int is_f16 = j->b_dtype == RTP_CPU_F16;
    for (; i + 2 * VF <= j->k; i += 2 * VF) {
        s0 = vf_fma(vf_load(a + i), is_f16 ? vf_load_f16(h + i) : vf_load_bf16(h + i), s0);
        s1 = vf_fma(vf_load(a + i + VF), is_f16 ? vf_load_f16(h + i + VF) : vf_load_bf16(h + i + VF), s1);
    }
    float total = vf_sum(vf_add(s0, s1));
    if (i < j->k) {
        float rest[4 * VF];
        load_f32(j->b_dtype, h + i, j->k - i, rest);
        total += dot_f32(a + i, rest, j->k - i);
    }
    return total;
}

static void dot_panels(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    (void)scratch;
    for (int64_t u = begin; u < end; u++) {
        int64_t p = u / j->panels, n = u % j->panels * NR, width = min64(NR, j->n - n), a_row;
        const float *a = rows_of(j, p, &a_row);
        int64_t b_start = (j->offsets ? j->offsets[3 * p + 2] : 0) + n * j->b_row;
        float values[FEW_ROWS][NR];
        for (int64_t i = 0; i < width; i++)
            for (int64_t m = 0; m < j->m; m++)
                values[m][i] = dot_row(j, a + m * a_row, at(j->b, j->b_dtype, b_start + i * j->b_row));
        for (int64_t m = 0; m < j->m; m++) store_row(j, p, m, n, width, values[m]);
    }
}

/* Panel n of b as f32 [k, NR] in `packed`. */
static void pack_panel(const job *j, int64_t p, int64_t n, int64_t width, float *packed) {
    int64_t start = j->offsets ? j->offsets[3 * p + 2] : 0;
    if (j->trans_b) {
        const void *rows[NR];
        for (int64_t c = 0; c < width; c++) rows[c] = at(j->b, j->b_dtype, start + (n + c) * j->b_row);
        pack_columns(packed, NR, rows, width, j->b_dtype, j->k);
        return;
    }
    for (int64_t i = 0; i < j->k; i++) {
        load_f32(j->b_dtype, at(j->b, j->b_dtype, start + i * j->b_row + n), width, packed + i * NR);
        for (int64_t c = width; c < NR; c++) packed[i * NR + c] = 0;
    }
}

static void tile_panels(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    float *packed = scratch;
    int64_t packed_panel = -1;
    for (int64_t u = begin; u < end; u++) {
        int64_t panel = u / j->row_blocks, first = u % j->row_blocks * j->block_rows, a_row;
        int64_t p = panel / j->panels, n = panel % j->panels * NR, width = min64(NR, j->n - n);
        if (panel != packed_panel) pack_panel(j, p, n, width, packed);
        packed_panel = panel;
        const float *a = rows_of(j, p, &a_row);
        int64_t last = min64(j->m, first + j->block_rows);
        for (int64_t m = first; m < last; m += MR) {
            float values[MR * NR];
            int rows = (int)min64(MR, last - m);
            gemm_tile(rows, j->k, a + m * a_row, a_row, 1, packed, NR, values, NR, 0);
            for (int r = 0; r < rows; r++) store_row(j, p, m + r, n, width, values + r * NR);
        }
    }
}

static void convert_rows(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    (void)scratch;
    for (int64_t u = begin; u < end; u++) {
        int64_t p = u / j->m, m = u % j->m;
        int64_t place = (j->offsets ? j->offsets[3 * p + 1] : 0) + m * j->a_row;
        load_f32(j->dtype, at(j->a, j->dtype, place), j->k, (float *)j->a_f32 + u * j->k);
    }
}

int KERNEL(gemm)(rtp_cpu_device *device, int dtype, void *out, const void *a, int b_dtype, const void *b,
                 int bias_dtype, const void *bias, int trans_b, int64_t m, int64_t n, int64_t k, int64_t out_row,
                 int64_t a_row, int64_t b_row, int64_t batch, const int64_t *offsets) {
    if (!is_dtype(dtype) || !is_dtype(b_dtype) || (bias && !is_dtype(bias_dtype)) || m < 0 || n < 0 || k < 0 ||
        batch < 0 || (batch > 1 && !offsets))
        return RTP_CPU_BAD_ARGUMENT;
    if (m == 0 || n == 0 || batch == 0) return RTP_CPU_OK;
    int few = trans_b && m <= FEW_ROWS, converts = dtype != RTP_CPU_F32;
    job j = {dtype,   b_dtype, bias_dtype, trans_b, out,           a, b, bias,   NULL, m, n, k,
             out_row, a_row,   b_row,      batch,   div_up(n, NR), 1, m, offsets};
    rtp_pool *pool = device->pool;
    void *shared;
    int status = rtp_pool_reserve(pool, converts ? batch * m * k * 4 : 0, &shared, few ? 0 : k * NR * 4);
    if (status != RTP_CPU_OK) return status;
    if (converts) {
        j.a_f32 = shared;
        rtp_pool_run(pool, convert_rows, &j, batch * m, grain_for(k));
    }
    int64_t panels = batch * j.panels;
    if (few) {
        rtp_pool_run(pool, dot_panels, &j, panels, grain_for(m * NR * k));
        return RTP_CPU_OK;
    }
    /* Rows are cut only where there are too few panels to keep every thread busy: each cut packs a panel again. */
    int64_t wanted = 4 * (int64_t)rtp_pool_threads(pool);
    if (panels < wanted) {
        j.block_rows = div_up(div_up(m, div_up(wanted, panels)), MR) * MR;
        j.row_blocks = div_up(m, j.block_rows);
    }
    rtp_pool_run(pool, tile_panels, &j, panels * j.row_blocks, grain_for(min64(m, j.block_rows) * NR * k));
    return RTP_CPU_OK;
}
