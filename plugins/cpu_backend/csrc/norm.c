/* rms_norm, layer_norm, and both after a residual: two or three passes over a row of tiles, statistics in f32. */

#include <math.h>

#include "tile.h"

typedef struct {
    int kind, dtype, weight_dtype;
    void *out, *sum;
    const void *x, *residual, *weight, *bias;
    float eps;
    int64_t cols, out_row, sum_row, x_row, residual_row;
} job;

/* A tile of x + residual, rounded as it is stored; stored where a sum is wanted. */
static const float *summed(const job *j, int64_t row, int64_t col, int64_t width, int store, float *tile,
                           float *spare) {
    const float *x = tile_in(j->dtype, at(j->x, j->dtype, row * j->x_row + col), width, tile);
    if (j->residual) {
        const float *y = tile_in(j->dtype, at(j->residual, j->dtype, row * j->residual_row + col), width, spare);
        FOR_VECTORS (width) STORE(tile, vf_add(LOAD(x), LOAD(y)));
        x = tile;
    }
    if (store && j->sum) {
        void *dst = at_mut(j->sum, j->dtype, row * j->sum_row + col);
        store_f32(j->dtype, dst, width, x);
        x = tile_in(j->dtype, dst, width, tile);
    }
    return x;
}

static void norm_rows(void *argument, int64_t begin, int64_t end, void *scratch) {
    const job *j = argument;
    job again = *j; /* later passes read the stored sum, as the first may have overwritten x or residual */
    (void)scratch;
    if (j->sum) again.x = j->sum, again.x_row = j->sum_row, again.residual = NULL;
    for (int64_t row = begin; row < end; row++) {
        float tile[TILE], spare[TILE], to[TILE], mean = 0, scale;
        vf total = vf_zero(), squares = vf_zero();
        for (int64_t col = 0; col < j->cols; col += TILE) {
            int64_t width = min64(TILE, j->cols - col);
            const float *x = summed(j, row, col, width, 1, tile, spare);
            if (j->kind == RTP_CPU_RMS_NORM) {
                FOR_VECTORS (width) squares = vf_fma(LOAD(x), LOAD(x), squares);
            } else {
                FOR_VECTORS (width) total = vf_add(total, LOAD(x));
            }
        }
        if (j->kind == RTP_CPU_LAYER_NORM) {
            mean = vf_sum(total) / (float)j->cols;
            for (int64_t col = 0; col < j->cols; col += TILE) {
                int64_t width = min64(TILE, j->cols - col);
                const float *x = summed(&again, row, col, width, 0, tile, spare);
                FOR_VECTORS (width) STORE(spare, vf_sub(LOAD(x), vf_set1(mean)));
                FOR_VECTORS (width) squares = vf_fma(LOAD(spare), LOAD(spare), squares);
            }
        }
        scale = 1.0f / sqrtf(vf_sum(squares) / (float)j->cols + j->eps);
        for (int64_t col = 0; col < j->cols; col += TILE) {
            int64_t width = min64(TILE, j->cols - col);
            float tw[TILE], tb[TILE];
            const float *x = summed(&again, row, col, width, 0, tile, spare);
            const float *w = tile_in(j->weight_dtype, at(j->weight, j->weight_dtype, col), width, tw);
            void *dst = at_mut(j->out, j->dtype, row * j->out_row + col);
            float *out = tile_out(j->dtype, dst, to);
            if (j->kind == RTP_CPU_RMS_NORM) {
                FOR_VECTORS (width) STORE(out, vf_mul(vf_mul(LOAD(x), vf_set1(scale)), LOAD(w)));
            } else {
                const float *b = tile_in(j->weight_dtype, at(j->bias, j->weight_dtype, col), width, tb);
                FOR_VECTORS (width)
                    STORE(out, vf_fma(vf_mul(vf_sub(LOAD(x), vf_set1(mean)), vf_set1(scale)), LOAD(w), LOAD(b)));
            }
            tile_done(j->dtype, dst, width, out);
        }
    }
}

int KERNEL(norm)(rtp_cpu_device *device, int kind, int dtype, void *out, void *sum, const void *x, const void *residual,
                 int weight_dtype, const void *weight, const void *bias, float eps, int64_t rows, int64_t cols,
                 int64_t out_row, int64_t sum_row, int64_t x_row, int64_t residual_row) {
    if (!is_dtype(dtype) || !is_dtype(weight_dtype) || (kind == RTP_CPU_LAYER_NORM) != (bias != NULL) ||
        (kind != RTP_CPU_RMS_NORM && kind != RTP_CPU_LAYER_NORM) || (residual && !sum))
        return RTP_CPU_BAD_ARGUMENT;
    job j = {kind, dtype, weight_dtype, out,     sum,     x,     residual,    weight,
             bias, eps,   cols,         out_row, sum_row, x_row, residual_row};
    rtp_pool_run(device->pool, norm_rows, &j, rows, grain_for(2 * cols));
    return RTP_CPU_OK;
}
